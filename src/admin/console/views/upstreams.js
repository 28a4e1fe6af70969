// The endpoints behind: how each is, and why.

import { h } from '../render.js';
import { chart } from '../chart.js';
import { count, ms, percent, plural, rate, span } from '../format.js';
import { ago, ask, coded, facts, finder, head, number, order, panel, post, shown, stateTag, tag, toneOf, word } from '../parts.js';
import { data, ofEndpoint, ofUpstream, redraw, series, state } from '../store.js';
import { call, segment } from '../api.js';
import { focused, link } from '../place.js';
import { table } from '../table.js';

const nameOf = (row) => `${row.upstream}/${row.name}`;

export function upstreams(at) {
  const kept = data('/v1/endpoints', 5);
  const named = data('/v1/upstreams', 10);
  const focus = focused(at);
  const of =
    focus?.kind === 'route' ? (data('/v1/routes').value || []).find((route) => route.name === focus.name)?.upstreams || [] : null;
  const all = kept.value || [];
  const q = at.q.toLowerCase();
  const isIn = (row) =>
    !focus ||
    (focus.kind === 'upstream'
      ? row.upstream === focus.name
      : focus.kind === 'endpoint'
        ? nameOf(row) === focus.name
        : of
          ? of.includes(row.upstream)
          : true);
  const found = all.filter(
    (row) =>
      isIn(row) && (!q || `${row.upstream} ${row.name} ${row.origin} ${row.state} ${row.why || ''}`.toLowerCase().includes(q)),
  );
  const unwell = all.filter((row) => toneOf(row.state) === 'bad').length;
  const chosen = all.find((row) => nameOf(row) === at.row);
  const bare = (named.value || []).filter((row) => row.endpoints === 0);
  return [
    head(
      'Upstreams',
      kept.value
        ? `${plural((named.value || []).length, 'upstream')}, ${plural(all.length, 'endpoint')}${unwell ? `, ${unwell} not usable` : ''}`
        : 'Who answers, and how each is',
      finder(at, 'Filter by name, address, state'),
    ),
    bare.length > 0 &&
      h(
        'p.refused',
        { key: 'bare' },
        `Without an endpoint: ${bare
          .slice(0, 10)
          .map((row) => row.name)
          .join(', ')}`,
      ),
    shown(kept, () =>
      h(
        'div',
        { class: `split ${chosen ? 'open' : ''}`, key: 'split' },
        table({
          id: 'endpoints',
          label: 'Endpoints',
          rows: found,
          columns: COLUMNS,
          nameOf,
          redraw,
          sort: 'upstream',
          chosen: at.row,
          choose: (row) => at.set({ row: nameOf(row) === at.row ? '' : nameOf(row) }),
          empty: all.length
            ? 'No endpoint is like that. Esc shows all again.'
            : coded('There is no upstream: routes can only answer or redirect. Add one below `upstreams` in the configuration, then reload.'),
        }),
        chosen &&
          detail(
            chosen,
            (named.value || []).find((row) => row.name === chosen.upstream),
            at,
          ),
      ),
    ),
  ];
}

const traffic = (key) => (row) => ofEndpoint(row)[key];
const now = (row) => state.live.endpoints[nameOf(row)] || row;

const COLUMNS = [
  { id: 'endpoint', name: 'Endpoint', cell: (row) => h('span.mono', row.name), by: (row) => row.name },
  { id: 'upstream', name: 'Upstream', cell: (row) => row.upstream, by: (row) => row.upstream },
  {
    id: 'state',
    name: 'State',
    cell: (row) => [stateTag(row.state), row.why && h('span.soft.why', { title: row.why }, ` ${row.why}`)],
    by: (row) => ['bad', 'warn', 'blue', '', 'good'].indexOf(toneOf(row.state)),
  },
  {
    id: 'rate',
    name: 'req/s',
    num: true,
    rank: 2,
    cell: (row) => number(rate(traffic('requests_per_second')(row)), traffic('requests_per_second')(row)),
    by: traffic('requests_per_second'),
  },
  {
    id: 'errors',
    name: 'failed/s',
    num: true,
    rank: 2,
    title: 'Tries that failed: not connected, reset, too late, or 5xx',
    cell: (row) =>
      traffic('errors_per_second')(row) ? h('span.tone.bad', rate(traffic('errors_per_second')(row))) : number(rate(0), 0),
    by: traffic('errors_per_second'),
  },
  {
    id: 'active',
    name: 'In flight',
    num: true,
    rank: 2,
    cell: (row) => number(count(now(row).active_requests ?? row.active_requests), row.active_requests),
    by: (row) => row.active_requests,
  },
  {
    id: 'latency',
    name: 'Latency ms',
    num: true,
    rank: 3,
    title: 'Expected time to answer',
    cell: (row) => ms(row.latency_ms),
    by: (row) => row.latency_ms,
  },
  {
    id: 'breaker',
    name: 'Breaker',
    rank: 3,
    cell: (row) => (row.breaker ? stateTag(row.breaker.state) : h('span.soft', 'none')),
    by: (row) => row.breaker?.state || '',
  },
  {
    id: 'weight',
    name: 'Weight',
    num: true,
    rank: 3,
    cell: (row) => count(row.order?.drain ? 0 : (row.order?.weight ?? row.weight)),
    by: (row) => row.weight,
  },
];

function detail(row, upstream, at) {
  const { points } = series(`upstream:${row.upstream}`);
  const times = points.map((point) => point.at);
  const { breaker, health } = row;
  return panel(
    nameOf(row),
    `Endpoint ${row.name}`,
    h('span.mono', row.name),
    at,
    h('p', stateTag(row.state), row.why ? `: ${row.why}` : ''),
    h(
      'div.orders',
      drained(row) ? order('Undo the drain', () => undo(row)) : order('Drain endpoint…', () => drain(row)),
      row.order && !drained(row) && order('Undo the weight', () => undo(row)),
      breaker &&
        ['open', 'close', 'reset'].map((what) =>
          order(`${word(what)[0].toUpperCase()}${what.slice(1)} breaker…`, () => force(row, what)),
        ),
    ),
    h('h3', 'Endpoint'),
    facts(
      ['Of', h('a', { href: link('upstreams', { focus: `upstream:${row.upstream}` }) }, row.upstream)],
      row.origin !== row.name && ['Configured as', row.origin],
      [
        'Last probe',
        health?.last_probe
          ? [
              tag(health.last_probe.ok ? 'good' : 'bad', health.last_probe.ok ? 'passed' : 'failed'),
              ` ${health.last_probe.why || ''} `,
              ago(health.last_probe.at),
            ]
          : 'none',
      ],
      health?.changed_at && ['Changed', ago(health.changed_at)],
      row.ejected && ['Ejected', `for ${span(row.ejected_for_seconds)} more`],
      row.avoided && ['Chosen last', row.avoided_why || 'yes'],
      [
        'Weight',
        `${count(row.weight)}${row.order ? `, ordered ${row.order.drain ? 'to drain' : row.order.weight}${row.by ? ` by ${row.by}` : ''}` : ''}`,
      ],
      (row.priority > 0 || row.zone) && ['Stands', `priority ${row.priority}${row.zone ? `, zone ${row.zone}` : ''}`],
      ['In flight', count(now(row).active_requests ?? row.active_requests)],
      ['Latency', `${ms(row.latency_ms)} ms`],
      breaker && [
        'Breaker',
        [
          stateTag(breaker.state),
          `${breaker.forced ? ', by hand' : ''}: ${count(breaker.failures)} of ${count(breaker.results)} failed, ${count(breaker.consecutive_failures)} in a row${breaker.retry_in_seconds != null ? `, tries in ${span(breaker.retry_in_seconds)}` : ''}${breaker.shared ? '; one for the whole upstream' : ''}`,
        ],
      ],
      ['Has to be', row.tls_identity ? row.tls_identity.join(', ') : null],
    ),
    h('h3', `Upstream ${row.upstream}`),
    chart({
      id: 'upstream',
      title: 'Requests per second',
      times,
      show: rate,
      redraw,
      series: [
        { name: 'requests', values: points.map((point) => point.rps) },
        { name: 'failed', tone: 'bad', values: points.map((point) => point.errors) },
      ],
    }),
    upstream &&
      facts(
        ['Ready', upstream.ready ? tag('good', 'yes') : tag('bad', 'no')],
        ['Speaks', upstream.protocol],
        ['Chooses by', text(upstream.balancer)],
        ['p50, p99', `${ms(ofUpstream(upstream).p50_ms)}, ${ms(ofUpstream(upstream).p99_ms)} ms`],
        upstream.queue?.limited && ['Waiting', count(upstream.queue.pending)],
        upstream.failover && [
          'Stands in',
          [
            h('a', { href: link('upstreams', { focus: `upstream:${upstream.failover.to}` }) }, upstream.failover.to),
            ': ',
            stateTag(upstream.failover.state),
            `, ${percent(upstream.failover.share)} served here`,
          ],
        ],
        upstream.affinity && ['Clients stay', ['by the ', upstream.affinity.by, ' ', h('span.mono', upstream.affinity.name)]],
        upstream.groups?.length > 0 && ['Who comes first', upstream.groups.map(groupText).join('; ')],
        upstream.subsets?.length > 0 && ['Subsets', upstream.subsets.map(tagText).join('; ')],
        [
          'TLS',
          upstream.tls
            ? `${upstream.tls.verified ? 'verified' : 'not verified'}, from ${upstream.tls.min_version}${upstream.tls.client_identity ? ', shows our identity' : ''}`
            : 'none',
        ],
        ['Written', h('span.mono', upstream.place || upstream.origin)],
      ),
  );
}

const groupText = ({ priority, zone, share }) =>
  `priority ${priority}${zone ? `, ${zone === 'own' ? 'own zone' : 'other zones'}` : ''}: ${percent(share)}`;
const tagText = (tags) =>
  Object.entries(tags)
    .map(([name, value]) => `${name}: ${value}`)
    .join(', ');
const text = (value) =>
  typeof value === 'string'
    ? word(value)
    : Object.entries(value || {})
        .map(([name, of]) => `${word(name)}: ${typeof of === 'string' ? of : JSON.stringify(of)}`)
        .join(', ');
const drained = (row) => row.order?.drain === true;
const path = (row) => `/v1/upstreams/${segment(row.upstream)}/endpoints/${segment(row.name)}`;

const drain = (row) =>
  ask({
    title: `Drain ${row.name}`,
    action: 'Drain endpoint',
    give: () => call('PUT', path(row), { body: { drain: true }, match: (row.etag || '').replace(/"/g, '') }),
    body: () =>
      h(
        'p',
        `Nothing new is sent to it, and what is under way ends. ${row.upstream} goes on with the others, until you undo it.`,
      ),
  });
const undo = (row) =>
  ask({
    title: `Undo the order for ${row.name}`,
    action: 'Undo',
    give: () => call('DELETE', path(row), { match: (row.etag || '').replace(/"/g, '') }),
    body: () => h('p', 'It gets its configured weight again.'),
  });
const SAYS = {
  open: 'It gets nothing until somebody closes or resets the breaker.',
  close: 'It gets requests whatever comes of them, until somebody opens or resets the breaker.',
  reset: 'The breaker forgets what it has counted and goes by itself again.',
};
const force = (row, what) =>
  ask({
    title: `${what[0].toUpperCase()}${what.slice(1)} the breaker of ${row.name}`,
    action: `${what[0].toUpperCase()}${what.slice(1)} breaker`,
    give: (moved) => post(`/v1/breakers/${segment(row.upstream)}/${segment(row.name)}/${what}`, (moved || row.breaker).etag),
    body: (moved) => [h('p', SAYS[what]), facts(['Now', stateTag((moved || row.breaker).state)])],
  });
