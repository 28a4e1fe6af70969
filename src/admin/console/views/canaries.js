// Candidates on their way: what is measured, what is asked for, and what happens next.

import { h } from '../render.js';
import { count, ms, percent, plural, span } from '../format.js';
import { ask, coded, facts, head, order, post, shown, stateTag, tag, time, word } from '../parts.js';
import { data, state } from '../store.js';
import { segment } from '../api.js';
import { focused, link } from '../place.js';

const ORDERS = {
  promote: 'All requests go to the candidate, at once.',
  rollback: 'All requests go to the stable side, at once.',
  pause: 'It stays at this share until it is resumed. Limits still hold.',
  resume: 'It goes on from this share.',
  step: 'It takes the next step now, whatever was measured.',
};

export function canaries(at) {
  // Counts of the step have no event of their own.
  const kept = data('/v1/canaries', 2);
  const focus = focused(at);
  const all = kept.value || [];
  const found = all.filter(
    (one) =>
      !focus ||
      (focus.kind === 'route'
        ? one.route === focus.name
        : focus.kind === 'upstream'
          ? [one.stable, one.candidate].includes(focus.name)
          : true),
  );
  return [
    head(
      'Canaries',
      kept.value
        ? `${plural(all.length, 'canary').replace('canarys', 'canaries')}${focus ? `, ${found.length} shown` : ''}`
        : 'New versions, step by step',
    ),
    shown(kept, () =>
      found.length
        ? h('div.columns', { key: 'all' }, found.map(card))
        : h(
            'p.empty',
            coded('There is no canary. A route with `canary:` moves requests to a new version step by step, and takes them back when it fares worse.'),
          ),
    ),
  ];
}

const value = (name, n) => (n == null ? '–' : name === 'p99' ? `${ms(n)} ms` : percent(n));

function card(one) {
  const live = state.live.canaries?.[one.route];
  const weight = live?.weight ?? one.weight;
  const { stable, candidate } = one.observed;
  return h(
    'section.card',
    { key: one.route, 'aria-label': `Canary ${one.route}` },
    h(
      'div.head',
      h('h2.break', h('a', { href: link('routes', { row: one.route }) }, one.route)),
      stateTag(live?.phase || one.phase),
    ),
    one.why && h('p.refused', one.why),
    h(
      'div.stack',
      h(
        'div.head',
        h('span', one.candidate, ' ', h('b.num', percent(weight))),
        h('span.soft', one.stable, ' ', h('span.num', percent(1 - weight))),
      ),
      h(
        'div.meter',
        { role: 'img', 'aria-label': `${percent(weight)} to ${one.candidate}` },
        h('i', { style: { width: `${(weight * 100).toFixed(1)}%` } }),
      ),
    ),
    facts(
      ['In this step', h('span.num', `${span(one.elapsed_seconds)} of ${span(one.every_seconds)}`)],
      ['Next', nextText(one)],
      ['How sure', outlookText(one.outlook)],
      one.last_decision && ['Last', [one.last_decision.what, ', ', time(one.last_decision.at)]],
    ),
    h(
      'div.rows',
      { tabindex: 0, role: 'region', 'aria-label': `What is measured of ${one.route}` },
      h(
        'table',
        h(
          'thead',
          h(
            'tr',
            h('th', { scope: 'col' }, 'In this step'),
            ['Candidate', 'Stable', 'Limit'].map((name) => h('th', { key: name, scope: 'col', class: 'num' }, name)),
            h('th', { scope: 'col' }, 'Kept'),
          ),
        ),
        h(
          'tbody',
          line(
            'Requests',
            `${count(one.requests_needed?.least)} at least`,
            count(candidate.requests),
            count(stable.requests),
            null,
          ),
          line('Failures', '', count(candidate.failures), count(stable.failures), null),
          one.requirements.some((rule) => rule.name === 'success_rate')
            ? null
            : line('Success', '', percent(candidate.success_rate), percent(stable.success_rate), null),
          one.requirements.map((rule) => required(rule, stable)),
        ),
      ),
    ),
    h(
      'div.orders',
      one.orders.map((name) =>
        order(`${name[0].toUpperCase()}${name.slice(1)}…`, () => give(one, name), { label: `${name} ${one.route}` }),
      ),
    ),
  );
}

const RULES = {
  success_rate: 'Success',
  p99: 'p99',
  max_error_increase: 'More errors than stable',
  max_p99_increase: 'Slower than stable',
};

/** Of both sides, also where the limit is for the candidate alone. */
function required(rule, stable) {
  const unit = rule.name.includes('p99') ? 'p99' : rule.name;
  const other = rule.stable ?? { success_rate: stable.success_rate, p99: stable.p99_ms }[rule.name];
  const limit = rule.name === 'max_p99_increase' ? percent(rule.limit) : value(unit, rule.limit);
  return line(RULES[rule.name] || word(rule.name), limit, value(unit, rule.candidate), value(unit, other), rule.kept);
}

const line = (name, limit, candidate, stable, kept) =>
  h(
    'tr',
    { key: name },
    h('th', { scope: 'row' }, name),
    h('td.num', candidate),
    h('td.num', stable),
    h('td.num.soft', limit),
    h('td', kept == null ? '' : kept ? tag('good', 'yes') : tag('bad', 'no')),
  );

function nextText({ next, phase }) {
  if (!next || next.action === 'none')
    return next?.not_yet || (phase.startsWith('paused') ? 'nothing, until it is resumed' : 'nothing: it is over');
  const what = next.action === 'promote' ? 'promoted' : `to ${percent(next.to)}`;
  return next.not_yet ? `${what}, not yet: ${next.not_yet}` : `${what} at the next look`;
}

function outlookText(outlook) {
  if (!outlook) return null;
  const missing = outlook.missing_requests ? `, ${count(outlook.missing_requests)} more requests of ${outlook.side}` : '';
  return h(
    'span.num',
    `${percent(outlook.sure)} of ${percent(outlook.needed)} for ${word(outlook.requirement)}${missing}${outlook.decides_in_seconds != null ? `, about ${span(outlook.decides_in_seconds)}` : ''}`,
  );
}

const give = (one, name) =>
  ask({
    title: `${name[0].toUpperCase()}${name.slice(1)} ${one.route}`,
    action: `${name[0].toUpperCase()}${name.slice(1)}`,
    tone: name === 'rollback' ? 'harm' : 'main',
    give: (moved) => post(`/v1/canaries/${segment(one.route)}/${name}`, (moved || one).etag),
    body: (moved) => [
      h('p', ORDERS[name]),
      facts(
        ['Phase', stateTag((moved || one).phase)],
        ['Candidate has', percent((moved || one).weight)],
        ['Requests', `${count((moved || one).observed?.candidate.requests)} seen of the candidate`],
      ),
    ],
  });
