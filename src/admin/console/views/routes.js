// Each route: what it matches, what it does, and how it fares.

import { h } from '../render.js';
import { chart } from '../chart.js';
import { count, ms, plural, rate } from '../format.js';
import { ago, coded, facts, finder, head, number, panel, shown, word } from '../parts.js';
import { data, ofRoute, redraw, series, state } from '../store.js';
import { focused, link } from '../place.js';
import { table } from '../table.js';

export function routes(at) {
  const many = (state.overview?.routes || 0) > 1000;
  const kept = data('/v1/routes', many ? 60 : 10);
  const focus = focused(at);
  const all = kept.value || [];
  const topology = focus?.kind === 'listener' ? data('/v1/topology?routes=1000').value : null;
  const found = all.filter((row) => matches(row, at.q.toLowerCase()) && isIn(row, focus, topology));
  const chosen = all.find((row) => row.name === at.row);
  return [
    head(
      'Routes',
      kept.value
        ? `${found.length === all.length ? '' : `${count(found.length)} of `}${plural(all.length, 'route')}; the most specific one wins`
        : 'What is asked, and who answers',
      finder(at, 'Filter by name, host, path, target'),
    ),
    shown(kept, () =>
      h(
        'div',
        { class: `split ${chosen ? 'open' : ''}`, key: 'split' },
        table({
          id: 'routes',
          label: 'Routes',
          rows: found,
          columns: COLUMNS,
          nameOf: (row) => row.name,
          redraw,
          chosen: at.row,
          choose: (row) => at.set({ row: row.name === at.row ? '' : row.name }),
          empty: all.length
            ? 'No route is like that. Esc shows all again.'
            : coded('There is no route: every request is answered with 404. Add one below `routes` in the configuration, then reload.'),
        }),
        chosen && detail(chosen, at),
      ),
    ),
  ];
}

const COLUMNS = [
  { id: 'name', name: 'Route', cell: (row) => row.name, by: (row) => row.name },
  {
    id: 'match',
    name: 'Matches',
    rank: 2,
    cell: (row) => h('span.mono', { title: matchText(row) }, matchText(row)),
    by: matchText,
  },
  { id: 'filters', name: 'Filters', rank: 3, cell: (row) => row.filters.join(', '), by: (row) => row.filters.length },
  { id: 'target', name: 'Target', rank: 2, cell: targetText, by: targetText },
  num('requests', 'req/s', (row) => ofRoute(row).requests_per_second),
  num('4xx', '4xx/s', (row) => ofRoute(row).errors_4xx_per_second, 3),
  num('5xx', '5xx/s', (row) => ofRoute(row).errors_5xx_per_second, 0, 'bad'),
  num('own', 'own/s', (row) => ofRoute(row).own_per_second, 4, 'warn', 'Answers that the gateway gave itself'),
  { ...num('p50', 'p50 ms', (row) => ofRoute(row).p50_ms, 3), title: 'Estimated' },
  { ...num('p95', 'p95 ms', (row) => ofRoute(row).p95_ms, 4), title: 'Estimated' },
  { ...num('p99', 'p99 ms', (row) => ofRoute(row).p99_ms), title: 'Estimated' },
  num('retries', 'retries/s', (row) => ofRoute(row).retries_per_second, 4),
  num('hedges', 'hedges/s', (row) => ofRoute(row).hedges_per_second, 4),
  {
    id: 'used',
    name: 'Last used',
    rank: 2,
    num: true,
    cell: (row) => (ofRoute(row).requests_per_second ? 'now' : ago(row.last_used_at)),
    by: (row) => row.last_used_at || '',
  },
];

function num(id, name, of, rank = 0, tone = '', title = '') {
  return {
    id,
    name,
    num: true,
    rank,
    title,
    by: of,
    cell: (row) => (tone && of(row) ? h('span', { class: `tone ${tone}` }, rate(of(row))) : number(rate(of(row)), of(row))),
  };
}

function matches(row, q) {
  return !q || [row.name, matchText(row), targetText(row), ...(row.upstreams || [])].join(' ').toLowerCase().includes(q);
}

function isIn(row, focus, topology) {
  if (!focus) return true;
  if (focus.kind === 'route') return row.name === focus.name;
  if (focus.kind === 'listener')
    return !topology || topology.routes.some((route) => route.name === row.name && route.listeners.includes(focus.name));
  return (row.upstreams || []).includes(focus.kind === 'endpoint' ? focus.name.split('/')[0] : focus.name);
}

const pathText = (path) =>
  path == null
    ? ''
    : typeof path === 'string'
      ? path
      : Object.entries(path)
          .map(([kind, value]) => (kind === 'prefix' ? value : `${value} (${kind})`))
          .join(' ');

export function matchText(row) {
  const { methods = [], hosts = [], path, ...rest } = row.match || {};
  const more = Object.keys(rest);
  return [methods.join('|'), `${hosts.join('|')}${pathText(path) || '/'}`, more.length ? `+ ${more.join(', ')}` : '']
    .filter(Boolean)
    .join(' ');
}

export function targetText(row) {
  const as = row[row.target];
  if (row.target === 'upstream') return typeof as === 'string' ? as : (row.upstreams || []).join(', ');
  if (row.target === 'split' || row.target === 'canary') return `${row.target}: ${(row.upstreams || []).join(', ')}`;
  if (row.target === 'respond') return `answers ${as?.status || 200}`;
  if (row.target === 'redirect') return `redirects${as?.to ? ` to ${as.to}` : ''}`;
  return word(row.target);
}

const pairs = (all) =>
  Object.entries(all || {})
    .filter(([, n]) => n)
    .map(([name, n]) => `${name} ${count(n)}`)
    .join(', ');

function detail(row, at) {
  const { points } = series(`route:${row.name}`);
  const times = points.map((point) => point.at);
  const totals = row.totals || {};
  return panel(
    row.name,
    `Route ${row.name}`,
    row.name,
    at,
    h(
      'div.orders',
      h('a.button', { href: link('tail', { route: row.name }) }, 'Open in tail'),
      h('a.button', { href: link('config', { tab: 'try', ...example(row) }) }, 'Explain this route'),
    ),
    chart({
      id: 'route',
      title: 'Requests per second',
      times,
      show: rate,
      redraw,
      series: [
        { name: 'requests', values: points.map((point) => point.rps) },
        { name: '5xx', tone: 'bad', values: points.map((point) => point.errors) },
      ],
    }),
    chart({
      id: 'routetime',
      title: 'Response time, ms (estimated)',
      times,
      show: ms,
      redraw,
      series: [
        { name: 'p50', values: points.map((point) => point.p50) },
        { name: 'p99', tone: 'warn', values: points.map((point) => point.p99) },
      ],
    }),
    facts(
      ['Matches', h('span.mono', matchText(row))],
      ['Filters', row.filters.length ? row.filters.join(' → ') : 'none'],
      ['Target', targetText(row)],
      ['Written', h('span.mono', row.place || row.origin)],
      row.origin !== 'file' && ['Given by', `${row.origin}${row.by ? `, ${row.by}` : ''}`],
      ['Last used', ago(row.last_used_at)],
      ['Requests', count(totals.requests)],
      ['4xx, 5xx', `${count(totals.errors_4xx)}, ${count(totals.errors_5xx)}`],
      ['Own reasons', pairs(totals.own) || 'none'],
      ['Retries', pairs(totals.retries) || 'none'],
      ['Hedges', pairs(totals.hedges) || 'none'],
    ),
    (row.upstreams || []).length > 0 &&
      h(
        'p',
        'Upstreams: ',
        row.upstreams.map((name, index) => [
          index ? ', ' : '',
          h('a', { key: name, href: link('upstreams', { focus: `upstream:${name}` }) }, name),
        ]),
      ),
  );
}

/** A request that it would match, as far as that can be told. */
function example(row) {
  const { methods = [], hosts = [], path } = row.match || {};
  const host = (hosts[0] || 'localhost').replace('*', 'any');
  const way = typeof path === 'string' ? path : path?.exact || path?.prefix || (path?.template || '/').replace(/\{[^}]*\}/g, '1');
  return { method: methods[0] || 'GET', url: `http://${host}${way}` };
}
