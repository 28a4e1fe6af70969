// The control plane that this process serves: who is registered, which gateways follow, how versions spread.

import { h } from '../render.js';
import { count, ms, plural } from '../format.js';
import { ago, coded, facts, finder, head, shown, stateTag, time } from '../parts.js';
import { data, redraw } from '../store.js';
import { number, table, text } from '../table.js';

/** Nothing tells of changes here. */
const often = (path) => data(path, 3);

const list = (id, kept, of, columns, nameOf, at, empty) =>
  shown(kept, (all) => {
    const q = at.q.toLowerCase();
    return table({
      id,
      label: id,
      rows: all[of].filter((row) => !q || JSON.stringify(row).toLowerCase().includes(q)),
      columns,
      nameOf,
      redraw,
      empty,
      chosen: at.row,
      choose: at.choose,
    });
  });

export function services(at) {
  const kept = often('/v1/control/services');
  const choose = (row) => at.set({ row: row.name === at.row ? '' : row.name });
  return [
    head(
      'Services',
      kept.value?.warming ? 'It has just begun: who is missing may still come back' : 'Who is registered',
      finder(at, 'Filter'),
    ),
    list(
      'services',
      kept,
      'services',
      [
        text('name', 'Service', (row) => row.name),
        ...['healthy', 'critical', 'draining', 'held'].map((state) =>
          number(state, state, (row) => row.instances[state] || 0, count, { tone: state === 'critical' ? 'bad' : '' }),
        ),
      ],
      (row) => row.name,
      { ...at, choose },
      coded('Nobody is registered. `tidegate services register` does it, or one call of the API.'),
    ),
    at.row &&
      h(
        'section.stack',
        { key: 'instances' },
        h('h2.break', `Instances of ${at.row}`),
        list(
          'instances',
          often(`/v1/control/instances?name=${encodeURIComponent(at.row)}`),
          'instances',
          INSTANCES,
          (row) => row.id,
          { q: '', row: '' },
          'There is none.',
        ),
      ),
  ];
}

const INSTANCES = [
  text('id', 'Instance', (row) => row.id),
  { id: 'state', name: 'State', cell: (row) => stateTag(row.state), by: (row) => row.state },
  text('address', 'Address', (row) => row.address, { rank: 2 }),
  number('weight', 'Weight', (row) => row.weight, count, { rank: 2 }),
  text('tags', 'Tags', (row) => (row.tags || []).join(', '), { rank: 3 }),
  text('owner', 'Registered by', (row) => row.owner, { rank: 3 }),
  { id: 'since', name: 'Since', rank: 2, cell: (row) => ago(row.since), by: (row) => row.since },
];

export const gateways = (at) => [
  head('Gateways', 'Who follows this control plane, and what each has in force', finder(at, 'Filter')),
  list(
    'gateways',
    often('/v1/control/gateways'),
    'gateways',
    GATEWAYS,
    (row) => `${row.config} ${row.node}`,
    { q: at.q },
    'No gateway has joined.',
  ),
];

const GATEWAYS = [
  text('node', 'Gateway', (row) => row.node),
  text('config', 'Takes', (row) => row.config),
  {
    id: 'state',
    name: 'State',
    cell: (row) => [
      stateTag(row.state),
      row.problems?.length > 0 && h('span.soft', { title: row.problems[0].message }, ` ${row.problems[0].message}`),
    ],
    by: (row) => row.state,
  },
  number('force', 'In force', (row) => row.in_force, count),
  number('wanted', 'To have', (row) => row.wanted, count, { rank: 2 }),
  number('lag', 'Lag ms', (row) => row.lag_ms, ms, { rank: 3 }),
  { id: 'since', name: 'Since', rank: 2, cell: (row) => ago(row.since), by: (row) => row.since },
  text(
    'labels',
    'Labels',
    (row) =>
      Object.entries(row.labels || {})
        .map((pair) => pair.join('='))
        .join(', '),
    { rank: 3 },
  ),
  text('release', 'Release', (row) => row.release, { rank: 3 }),
];

export function rollouts() {
  return [
    head('Rollouts', 'How far each configuration has spread'),
    shown(often('/v1/control/rollouts'), ({ rollouts: all }) =>
      all.length
        ? h('div.columns', all.map(rollout))
        : h('p.empty', coded('No configuration is kept here. `tidegate config put` gives one.')),
    ),
  ];
}

const rollout = (one) =>
  h(
    'section.card',
    { key: one.config, 'aria-label': `Rollout of ${one.config}` },
    h('div.head', h('h2.break', `${one.config}, version ${one.version}`), stateTag(one.phase)),
    one.why && h('p.refused', one.why),
    h(
      'div',
      {
        class: `meter ${one.phase === 'aborted' ? 'bad' : ''}`,
        role: 'img',
        'aria-label': `in force at ${one.in_force} of ${one.gateways}`,
      },
      h('i', { style: { width: `${one.gateways ? (one.in_force / one.gateways) * 100 : 0}%` } }),
    ),
    facts(
      ['In force at', `${count(one.in_force)} of ${plural(one.gateways, 'gateway')}`],
      ['Wave', `${one.wave} of ${one.waves}`],
      ['Before', one.previous ? `version ${one.previous}` : 'nothing'],
      ['Checked by', one.checked_by],
    ),
    h('h3', 'Versions'),
    shown(often(`/v1/control/configs/${encodeURIComponent(one.config)}/versions`), ({ versions }) =>
      h(
        'ul.list',
        versions
          .slice(0, 8)
          .map((row) =>
            h(
              'li',
              { key: row.version },
              h('b.num', row.version),
              h('span.break', row.by, row.repeats && `, version ${row.repeats} once more`),
              time(row.at),
            ),
          ),
      ),
    ),
    h('p.soft', 'It is led with ', h('code', `tidegate config rollout ${one.config} pause`), ', resume or abort.'),
  );
