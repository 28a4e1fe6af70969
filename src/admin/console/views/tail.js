// The access log as it is written, filtered in the gateway. What strangers send stands here: it is text, and stays text.

import { h } from '../render.js';
import { clock, count, ms } from '../format.js';
import { coded, copy, facts, head, panel, tag } from '../parts.js';
import { query, stream } from '../api.js';
import { redraw, state } from '../store.js';
import { focused } from '../place.js';
import { number, table, text } from '../table.js';

const KEPT = 1000;
const FIELDS = [
  ['route', 'Route'],
  ['upstream', 'Upstream'],
  ['status', 'Status', '5xx, 404, 400-499'],
  ['reason', 'Reason', 'upstream_timeout'],
  ['min', 'At least', '100ms'],
  ['client', 'Client', '10.0.0.0/8'],
  ['method', 'Method', 'POST'],
  ['path', 'Path begins with', '/users'],
];

/** @type {any} */ const tailing = {
  path: '',
  stream: null,
  lines: [],
  held: [],
  lost: 0,
  paused: false,
  error: null,
  open: false,
  drawn: 0,
};
let last = 0;

export function stopTail() {
  tailing.stream?.close();
  clearTimeout(tailing.asking);
  Object.assign(tailing, { stream: null, path: '', over: false });
}

function follow(path) {
  if (tailing.path === path) return;
  stopTail();
  Object.assign(tailing, { path, lines: [], held: [], lost: 0, error: null });
  tailing.stream = stream(path, heard, ({ open, error }) => (Object.assign(tailing, { open, error: error || null }), redraw()));
}

function heard(name, told) {
  if (name === 'lost') tailing.lost += told.lines;
  if (name === 'line') tailing.held.unshift({ ...told, n: String(++last) });
  if (tailing.held.length > KEPT) tailing.held.length = KEPT;
  if (tailing.over && !tailing.soon) tailing.soon = setTimeout(take, 1000);
  if (tailing.paused || tailing.over) return;
  // A few times a second is as fast as one can read.
  if (Date.now() - tailing.drawn > 250) take();
  else if (!tailing.soon) tailing.soon = setTimeout(take, 250);
}

function take() {
  tailing.drawn = Date.now();
  clearTimeout(tailing.soon);
  tailing.soon = 0;
  if (tailing.paused || tailing.over) return redraw();
  tailing.lines = [...tailing.held.splice(0), ...tailing.lines].slice(0, KEPT);
  redraw();
}

export function tail(at) {
  if (state.me.console?.tail === false)
    return [head('Tail', 'The access log, live'), h('p.empty', coded('The tail is turned off: `admin.console.tail` is false.'))];
  const focus = focused(at);
  const of = (name) =>
    at.params.get(name) ?? ((name === 'route' || name === 'upstream') && focus?.kind === name ? focus.name : '');
  const path = `/v1/access${query(Object.fromEntries(FIELDS.map(([name]) => [name, of(name)])))}`;
  if (!tailing.path) follow(path);
  else if (path !== tailing.wanted) {
    // Not at each letter.
    clearTimeout(tailing.asking);
    tailing.asking = setTimeout(follow, 400, path);
  }
  tailing.wanted = path;
  const chosen = tailing.lines.find((line) => line.n === at.row);
  const pause = () => ((tailing.paused = !tailing.paused), tailing.paused || take(), redraw());
  return [
    head(
      'Tail',
      'Requests as they end, newest first',
      h(
        'button',
        { 'aria-pressed': String(tailing.paused), onclick: pause },
        `${tailing.paused ? 'Go on' : 'Pause'}${(tailing.paused || tailing.over) && tailing.held.length ? ` (${count(tailing.held.length)} waiting)` : ''}`,
      ),
      h('button', { onclick: () => (Object.assign(tailing, { lines: [], held: [], lost: 0 }), redraw()) }, 'Clear'),
    ),
    h(
      'form.fields',
      { key: 'fields', 'aria-label': 'Filters', onsubmit: (event) => event.preventDefault() },
      FIELDS.map(([name, label, example]) =>
        h(
          'label',
          { key: name },
          h('span', label),
          h('input', {
            id: name === 'path' ? 'find' : `tail-${name}`,
            value: of(name),
            placeholder: example || 'any',
            autocomplete: 'off',
            spellcheck: 'false',
            oninput: (event) => at.set({ [name]: event.target.value.trim() }),
          }),
        ),
      ),
    ),
    tailing.error && h('p.refused', { role: 'alert' }, tailing.error.message),
    tailing.lost > 0 &&
      h(
        'p',
        { key: 'lost' },
        tag('warn', `${count(tailing.lost)} lines were left out`),
        ' More came than this page is given. Filter for fewer.',
      ),
    h(
      'div',
      { class: `split ${chosen ? 'open' : ''}`, key: 'split' },
      table({
        id: 'tail',
        label: 'Requests',
        rows: tailing.lines,
        columns: COLUMNS,
        nameOf: (line) => line.n,
        // Nothing runs from under the pointer.
        onHold: (over) => ((tailing.over = over), over || take()),
        redraw,
        chosen: at.row,
        choose: (line) => ((tailing.paused = true), at.set({ row: line.n === at.row ? '' : line.n })),
        empty: tailing.open ? 'No request like that has ended since you look.' : 'Connecting…',
      }),
      chosen && detail(chosen, at),
    ),
  ];
}

const tone = (status) => (status >= 500 ? 'bad' : status >= 400 ? 'warn' : status ? 'good' : '');

const COLUMNS = [
  text('at', 'Time', (line) => clock(new Date(line.ts)), { by: null }),
  { id: 'status', name: 'Status', cell: (line) => tag(tone(line.status), line.status || line.reason || 'closed') },
  { id: 'method', name: 'Method', rank: 2, cell: (line) => line.method },
  {
    id: 'path',
    name: 'Host and path',
    cell: (line) => h('span.mono', { title: `${line.host || ''}${line.path || ''}` }, h('span.rank2', line.host || ''), line.path || ''),
  },
  { id: 'route', name: 'Route', rank: 2, cell: (line) => line.route },
  { id: 'endpoint', name: 'Endpoint', rank: 3, cell: (line) => h('span.mono', line.endpoint) },
  { id: 'reason', name: 'Reason', rank: 3, cell: (line) => line.reason },
  number('took', 'ms', (line) => line.duration_ms, ms, { by: null }),
  { id: 'client', name: 'Client', rank: 3, cell: (line) => h('span.mono', line.client) },
];

const quoted = (value) =>
  `'${String(value)
    .replace(/[\u0000-\u001f\u007f]/g, '')
    .replace(/'/g, `'\\''`)}'`;
const urlOf = (line) => `${line.tls ? 'https' : 'http'}://${line.host || 'localhost'}${line.path || '/'}`;

/** To the listener, since the name may lead elsewhere. */
function curl(line) {
  const listener = state.overview?.listeners.find((one) => one.name === line.listener);
  const [, host, port] = /^(.*):(\d+)$/.exec(listener?.address || '') || [];
  const to =
    host && port !== '0' ? ` --connect-to ${quoted(`::${/^(0\.0\.0\.0|\[::\])$/.test(host) ? '127.0.0.1' : host}:${port}`)}` : '';
  return `curl -i -X ${quoted(line.method)}${to}${line.user_agent ? ` -A ${quoted(line.user_agent)}` : ''} ${quoted(urlOf(line))}`;
}

function detail(line, at) {
  const { n, ...fields } = line;
  return panel(
    n,
    'Request',
    h('span.mono', `${line.method || ''} ${line.path || ''}`),
    at,
    line.method &&
      h(
        'div.orders',
        h('button', { onclick: () => copy(curl(line), 'as curl') }, 'Copy as curl'),
        h(
          'button',
          { onclick: () => copy(`tidegate explain --live ${quoted(line.method)} ${quoted(urlOf(line))}`, 'as explain') },
          'Copy as explain',
        ),
        line.trace_id && h('button', { onclick: () => copy(line.trace_id, 'the trace id') }, 'Copy trace id'),
      ),
    facts(
      ...Object.entries(fields).map(([name, value]) => [
        name,
        h('span.mono', typeof value === 'object' ? JSON.stringify(value) : String(value)),
      ]),
    ),
  );
}
