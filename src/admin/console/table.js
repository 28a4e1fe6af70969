// Tables: sorted by their headers, drawn only where one looks once they are long, and in an order that is held while somebody
// reads or points at them, so that no row runs from under the pointer.

import { rate } from './format.js';
import { h } from './render.js';

const ROW = 36;
const MANY = 150;
const HOLD = 10_000;

/** @typedef {{id: string, name: string, num?: boolean, rank?: number, title?: string, cell: (row: any) => any, by?: (row: any) => any}} Column */

const states = new Map();

function stateOf(id, sort) {
  let state = states.get(id);
  if (!state) states.set(id, (state = { top: 0, sort, order: [], at: 0, held: false, stamp: '' }));
  return state;
}

const compare = (a, b) => (a == null ? (b == null ? 0 : 1) : b == null ? -1 : a < b ? -1 : a > b ? 1 : 0);

function ordered(state, rows, columns, nameOf) {
  const stamp = `${state.sort} ${rows.length} ${rows.length ? nameOf(rows[0]) + nameOf(rows[rows.length - 1]) : ''}`;
  const now = Date.now();
  const known = new Map(rows.map((row) => [nameOf(row), row]));
  const stale = stamp !== state.stamp || (now - state.at > HOLD && !state.held) || state.order.some((name) => !known.has(name));
  if (stale) {
    const descends = state.sort.startsWith('-');
    const column = columns.find(({ id }) => id === state.sort.replace('-', ''));
    const sorted = column?.by
      ? rows.slice().sort((a, b) => (descends ? -1 : 1) * compare(column.by(a), column.by(b)) || compare(nameOf(a), nameOf(b)))
      : rows;
    Object.assign(state, { stamp, at: now, order: sorted.map(nameOf) });
  }
  return state.order.map((name) => known.get(name));
}

/**
 * @param {{id: string, label: string, rows: any[], columns: Column[], nameOf: (row: any) => string, sort?: string,
 *   redraw: () => void, chosen?: string, choose?: (row: any) => void, onHold?: (held: boolean) => void, empty?: any}} table `rank` 1 goes first when it is narrow
 */
export function table({ id, label, rows, columns, nameOf, sort = '', redraw, chosen, choose, onHold, empty }) {
  if (rows.length === 0) return h('p.empty', { key: id }, empty || 'Nothing here.');
  const state = stateOf(id, sort);
  const all = ordered(state, rows, columns, nameOf);
  const long = all.length > MANY;
  const seen = long ? Math.ceil((state.height || 800) / ROW) + 12 : all.length;
  const first = long ? Math.max(0, Math.min(all.length - seen, Math.floor(state.top / ROW) - 6)) : 0;
  const window = all.slice(first, first + seen);
  const head = columns.map((column) => {
    const [up, down] = [state.sort === column.id, state.sort === `-${column.id}`];
    const turn = () => {
      state.sort = (column.num ? down : !up) ? column.id : `-${column.id}`;
      redraw();
    };
    return h(
      'th',
      {
        key: column.id,
        scope: 'col',
        class: place(column),
        'aria-sort': up ? 'ascending' : down ? 'descending' : null,
        title: column.title,
      },
      column.by
        ? h('button.sort', { onclick: turn }, column.name, h('span.arrow', { 'aria-hidden': 'true' }, up ? '↑' : down ? '↓' : ''))
        : column.name,
    );
  });
  const space = (rows) =>
    rows > 0
      ? h(
          'tr',
          { key: rows === first ? 'before' : 'after', class: 'space', 'aria-hidden': 'true' },
          h('td', { colspan: columns.length, style: { height: `${rows * ROW}px` } }),
        )
      : null;
  const body = window.map((row, at) => {
    const name = nameOf(row);
    return h(
      'tr',
      {
        key: name,
        'aria-rowindex': long ? first + at + 2 : null,
        class: chosen === name ? 'chosen' : choose ? 'can' : '',
        onclick: choose && ((event) => event.target.closest('a,button') || choose(row)),
      },
      columns.map((column, index) =>
        h(
          index ? 'td' : 'th',
          { key: column.id, scope: index ? null : 'row', class: place(column) },
          index === 0 && choose
            ? h('button.row', { 'aria-expanded': String(chosen === name), onclick: () => choose(row) }, column.cell(row))
            : column.cell(row),
        ),
      ),
    );
  });
  const hold = (held) => () => ((state.held = held), onHold?.(held));
  return h(
    'div',
    {
      key: id,
      class: long ? 'rows long' : 'rows',
      tabindex: 0,
      role: 'region',
      'aria-label': label,
      onpointerenter: hold(true),
      onpointerleave: hold(false),
      onfocusin: hold(true),
      onfocusout: hold(false),
      made: (el) => {
        state.height = el.clientHeight;
        el.scrollTop = state.top;
      },
      onscroll: long
        ? (event) => {
            Object.assign(state, { top: event.currentTarget.scrollTop, height: event.currentTarget.clientHeight });
            redraw();
          }
        : null,
    },
    h(
      'table',
      { 'aria-rowcount': long ? all.length + 1 : null },
      h('thead', h('tr', head)),
      h('tbody', space(first), body, space(all.length - first - window.length)),
    ),
  );
}

const place = (column) => [column.num ? 'num' : '', column.rank ? `rank${column.rank}` : ''].join(' ').trim() || null;

/** @returns {Column} */
export const text = (id, name, of, more = {}) => ({ id, name, cell: of, by: of, ...more });

/** Zeroes step back. @returns {Column} */
export const number = (id, name, of, show = rate, more = {}) => ({
  id,
  name,
  num: true,
  by: of,
  cell: (row) => h('span', { class: of(row) ? (more.tone ? `tone ${more.tone}` : '') : 'zero' }, show(of(row))),
  ...more,
});
