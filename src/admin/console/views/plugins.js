// Filters in WebAssembly, and what they cost.

import { bytes, count } from '../format.js';
import { ago, coded, head, shown, tag } from '../parts.js';
import { data, redraw } from '../store.js';
import { number, table, text } from '../table.js';
import { h } from '../render.js';

const COLUMNS = [
  text('name', 'Plugin', (row) => row.name),
  {
    id: 'ready',
    name: 'Instances',
    cell: (row) =>
      tag(row.ready >= row.instances ? 'good' : row.ready ? 'warn' : 'bad', `${count(row.ready)} of ${count(row.instances)}`),
    by: (row) => row.ready,
  },
  number('failures', 'Failures', (row) => row.failures, count, { tone: 'bad' }),
  number('calls', 'calls/s', (row) => row.traffic?.calls_per_second, undefined, { rank: 2 }),
  number('mean', 'mean µs', (row) => row.traffic?.mean_us, undefined, { rank: 2 }),
  number('p99', 'p99 µs', (row) => row.traffic?.p99_us),
  number('memory', 'Memory', (row) => row.memory, bytes, { rank: 2 }),
  number('contexts', 'Contexts', (row) => row.contexts, count, { rank: 3 }),
  text('file', 'File', (row) => h('span.mono', { title: row.sha256 }, row.file || '–'), { rank: 3, by: (row) => row.file }),
  text('abi', 'ABI', (row) => row.abi, { rank: 3 }),
  { id: 'since', name: 'Since', rank: 3, cell: (row) => ago(row.since && row.since * 1000), by: (row) => row.since },
];

export const plugins = () => [
  head('Plugins', 'Filters in WebAssembly, and what they cost'),
  shown(data('/v1/plugins'), (rows) =>
    table({
      id: 'plugins',
      label: 'Plugins',
      rows,
      columns: COLUMNS,
      nameOf: (row) => row.name,
      redraw,
      empty: coded('No plugin is in use. They stand below `plugins` in the configuration.'),
    }),
  ),
];
