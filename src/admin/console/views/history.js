// What has changed, when, and by whom: reloads with their differences, and the orders that were given.

import { h } from '../render.js';
import { ms, plural } from '../format.js';
import { facts, head, lines, panel, shown, stateTag, tag, time } from '../parts.js';
import { data, redraw } from '../store.js';
import { number, table, text } from '../table.js';

export function history(at) {
  const [reloads, orders] = [data('/v1/reloads'), data('/v1/orders')];
  const chosen = (reloads.value || []).find((row) => String(row.id) === at.row);
  return [
    head('History', 'Since this process began'),
    h(
      'section.stack',
      { key: 'reloads' },
      h('h2', 'Configurations'),
      shown(reloads, (all) =>
        h(
          'div',
          { class: `split ${chosen ? 'open' : ''}` },
          table({
            id: 'reloads',
            label: 'Configurations',
            rows: all,
            columns: RELOADS,
            nameOf: (row) => String(row.id),
            redraw,
            chosen: at.row,
            choose: (row) => at.set({ row: String(row.id) === at.row ? '' : String(row.id) }),
          }),
          chosen && detail(chosen, at),
        ),
      ),
    ),
    h(
      'section.stack',
      { key: 'orders' },
      h('h2', 'Orders'),
      shown(orders, (all) =>
        table({
          id: 'orders',
          label: 'Orders',
          rows: all,
          columns: ORDERS,
          nameOf: (row) => String(row.id),
          redraw,
          empty: 'Nobody has ordered anything.',
        }),
      ),
    ),
  ];
}

const said = (row) =>
  row.changes ||
  (row.problems?.length ? `${plural(row.problems.length, 'problem')}: ${row.problems[0].message || row.problems[0]}` : '');

const RELOADS = [
  { id: 'at', name: 'When', cell: (row) => time(row.at), by: (row) => row.at },
  { id: 'result', name: 'Result', cell: (row) => stateTag(row.result), by: (row) => row.result },
  text('changes', 'Changes', said, { by: null }),
  text('by', 'By', (row) => row.by, { rank: 2 }),
  number('took', 'Took ms', (row) => row.took_ms, ms, { rank: 2 }),
  text('hash', 'Hash', (row) => h('span.mono', (row.hash_after || '').slice(0, 8)), { rank: 3, by: null }),
];

const ORDERS = [
  { id: 'at', name: 'When', cell: (row) => time(row.at), by: (row) => row.at },
  text('order', 'Order', (row) => row.order),
  text('on', 'On', (row) => row.on || ''),
  { id: 'result', name: 'Result', cell: (row) => tag(row.ok ? 'good' : 'bad', row.result) },
  text('by', 'By', (row) => row.by, { rank: 2 }),
];

const tone = (line) =>
  line.startsWith('@@') || /^(---|\+\+\+) /.test(line)
    ? 'at'
    : line.startsWith('+')
      ? 'added'
      : line.startsWith('-')
        ? 'removed'
        : '';

function detail(row, at) {
  return panel(
    row.id,
    'Configuration',
    stateTag(row.result),
    at,
    facts(
      ['When', time(row.at, true)],
      ['By', row.by],
      ['Took', `${ms(row.took_ms)} ms`],
      ['Changes', row.changes],
      ['From, to', h('span.mono', `${row.hash_before || 'nothing'} → ${row.hash_after || row.hash_before}`)],
    ),
    row.problems?.length > 0 &&
      h(
        'ul.list',
        row.problems.map((one, index) => h('li', { key: index }, tag('bad', 'problem'), h('span.break.mono', one.text || one))),
      ),
    row.has_diff &&
      shown(data(`/v1/reloads/${row.id}/diff`), (diff) =>
        lines(
          `diff${row.id}`,
          'What differs',
          diff.split('\n').map((line) => ({ text: line, tone: tone(line) })),
        ),
      ),
  );
}
