// What one wants to know first: is it well, how busy is it, what needs looking at.

import { h } from '../render.js';
import { chart, spark } from '../chart.js';
import { bytes, count, ms, percent, rate, up } from '../format.js';
import { ask, facts, head, order, post, shown, stateTag, tag, time, word } from '../parts.js';
import { phase, redraw, state } from '../store.js';
import { link } from '../place.js';
import { table } from '../table.js';

const VIEW = {
  upstream: 'upstreams',
  endpoint: 'upstreams',
  breaker: 'upstreams',
  canary: 'canaries',
  certificate: 'identity',
  reload: 'config',
  listener: 'overview',
};

export function overview() {
  const seen = state.overview;
  return [
    head('Overview', `Version ${seen?.version || ''}, configuration ${seen?.config_hash || ''}`),
    shown({ value: seen, error: null }, () => [
      numbers(seen),
      attention(seen),
      charts(),
      h('div.columns', { key: 'more' }, listeners(seen), recent(), stop()),
    ]),
  ];
}

function numbers(seen) {
  const now = state.live.gateway || seen.traffic || {};
  const { open, limit } = state.live.connections || seen.connections;
  const of = (name) => state.past.slice(-120).map((point) => point[name]);
  const share = now.requests_per_second ? now.errors_5xx_per_second / now.requests_per_second : 0;
  const tile = (name, value, more, below) =>
    h('div.kpi', { key: name }, h('dt', name), h('dd.num', value, more && h('small', ` ${more}`)), h('dd.small', below));
  return h(
    'dl.kpis',
    { key: 'kpis' },
    tile('Requests per second', rate(now.requests_per_second), '', spark(of('rps'), 'Requests per second, last two minutes')),
    tile(
      'Answered with 5xx',
      percent(share),
      `${rate(now.errors_5xx_per_second)} /s`,
      spark(of('errors'), 'Errors per second, last two minutes', share >= 0.05 ? 'bad' : share > 0 ? 'warn' : ''),
    ),
    tile('Response time, p50', ms(now.p50_ms), 'ms', spark(of('p50'), 'Median response time, last two minutes')),
    tile('Response time, p99', ms(now.p99_ms), 'ms', spark(of('p99'), '99th percentile of response time, last two minutes')),
    tile('Connections', count(open), `of ${count(limit)}`, meter(limit ? open / limit : 0)),
    tile(
      'Memory',
      bytes(seen.memory.resident_bytes),
      '',
      h('span.soft', `${seen.memory.limit_bytes ? `of ${bytes(seen.memory.limit_bytes)}, ` : ''}${up(seen.uptime_seconds)}`),
    ),
  );
}

const meter = (share) =>
  h(
    'div',
    { class: `meter ${share > 0.9 ? 'bad' : share > 0.75 ? 'warn' : ''}` },
    h('i', { style: { width: `${Math.min(100, share * 100).toFixed(1)}%` } }),
  );

function attention(seen) {
  const all = seen.attention;
  return h(
    'section.card',
    { key: 'attention' },
    h('h2', 'Needs attention'),
    all.length
      ? h(
          'ul.list',
          all.map((one) =>
            h(
              'li',
              { key: `${one.kind} ${one.name} ${one.endpoint || ''} ${one.text}` },
              tag(
                one.level === 'info' ? 'blue' : one.level,
                { bad: 'broken', warn: 'look', info: 'know' }[one.level] || one.level,
              ),
              h(
                'a.break',
                {
                  href: link(
                    VIEW[one.kind] || 'overview',
                    one.kind === 'upstream' || one.kind === 'endpoint' || one.kind === 'breaker'
                      ? { q: one.endpoint || one.name }
                      : {},
                  ),
                },
                one.text,
              ),
              one.since ? h('span.soft', 'since ', time(one.since)) : h('span'),
            ),
          ),
        )
      : h('p.soft', phase() === 'ready' ? 'Nothing. All is as configured.' : 'Nothing.'),
  );
}

function charts() {
  const points = state.past;
  const times = points.map(({ at }) => at);
  const line = (name, key, tone) => ({ name, tone, values: points.map((point) => point[key]) });
  return h(
    'div.columns',
    { key: 'charts' },
    h(
      'section.card',
      { key: 'rate' },
      chart({
        id: 'rate',
        title: 'Requests per second',
        times,
        show: rate,
        redraw,
        series: [line('requests', 'rps', ''), line('5xx', 'errors', 'bad')],
      }),
    ),
    h(
      'section.card',
      { key: 'time' },
      chart({
        id: 'time',
        title: 'Response time, ms (estimated)',
        times,
        show: ms,
        redraw,
        series: [line('p50', 'p50', ''), line('p99', 'p99', 'warn')],
      }),
    ),
  );
}

const listeners = (seen) =>
  h(
    'section.stack',
    { key: 'listeners' },
    h('h2', 'Listeners'),
    table({
      id: 'listeners',
      label: 'Listeners',
      rows: seen.listeners,
      nameOf: (row) => row.name,
      redraw,
      empty: 'There is no listener: nothing is served.',
      columns: [
        { id: 'name', name: 'Listener', cell: (row) => row.name },
        { id: 'address', name: 'Address', rank: 2, cell: (row) => h('span.mono', row.address) },
        { id: 'protocol', name: 'Speaks', cell: (row) => `${row.protocol}${row.tls ? ', TLS' : ''}` },
        { id: 'connections', name: 'Connections', num: true, cell: (row) => count(row.connections) },
        { id: 'inflight', name: 'In flight', num: true, cell: (row) => count(row.requests_in_flight) },
      ],
    }),
  );

function sentence({ name, told }) {
  if (name === 'endpoint') return [stateTag(told.what), `${told.upstream} / ${told.endpoint}${told.why ? `: ${told.why}` : ''}`];
  if (name === 'breaker')
    return [stateTag(told.state), `breaker of ${told.upstream} / ${told.endpoint}${told.by ? `, by ${told.by}` : ''}`];
  if (name === 'canary') return [stateTag(told.phase), `canary ${told.route}: ${told.what}${told.by ? `, by ${told.by}` : ''}`];
  if (name === 'reload')
    return [stateTag(told.result), `by ${told.by}: ${told.changes || (told.problems || [])[0] || 'no change'}`];
  if (name === 'order')
    return [tag(told.ok ? 'blue' : 'bad', 'order'), `${told.order} ${told.on || ''} by ${told.by}: ${told.result}`];
  if (name === 'phase') return [stateTag(told.phase), 'the gateway'];
  return [tag(told.level === 'error' ? 'bad' : 'warn', told.level || name), told.text || word(name)];
}

function recent() {
  return h(
    'section.card',
    { key: 'recent' },
    h('h2', 'Since this page is open'),
    state.events.length
      ? h(
          'ul.list',
          state.events.slice(0, 8).map((event) => {
            const [kind, text] = sentence(event);
            return h('li', { key: event.id }, kind, h('span.break', text), h('span.soft', time(event.told.at)));
          }),
        )
      : h('p.soft', 'Nothing has happened.'),
  );
}

const stop = () =>
  h(
    'section.card',
    { key: 'stop' },
    h('h2', 'Stop this gateway'),
    h('p.soft', 'Draining finishes what is under way, takes nothing new, and ends the process.'),
    h(
      'div.orders',
      order('Drain…', () =>
        ask({
          title: 'Drain',
          action: 'Drain and stop',
          tone: 'harm',
          typed: 'drain',
          give: () => post('/v1/drain', phase()),
          body: () => [
            h('p', 'It stops accepting at once. It does not come back by itself.'),
            facts(
              ['Connections', count((state.live.connections || state.overview.connections).open)],
              ['In flight', count(state.overview.requests_in_flight)],
            ),
          ],
        }),
      ),
    ),
  );
