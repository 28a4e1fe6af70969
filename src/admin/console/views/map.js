// The way of requests, from listeners to endpoints. Width is requests a second; colour and word are errors. A table says the same.

import { h } from '../render.js';
import { plural, rate } from '../format.js';
import { chart } from '../chart.js';
import { head, shown, tag, toneOf, word } from '../parts.js';
import { data, redraw, series, state } from '../store.js';
import { focused, link } from '../place.js';
import { table, text } from '../table.js';

const MOST = 12;
/** More endpoints than these are only drawn for what is chosen. */
const ENDPOINTS = 16;
const [STEP, BOX, TOP] = [56, 44, 28];

export function map(at) {
  const kept = data(`/v1/topology?routes=${MOST}`, 2);
  return [
    head(
      'Map',
      'Width is requests per second, colour is errors. Choose one to see only what belongs to it, here and in every view',
    ),
    shown(kept, (topology) =>
      topology.routes.length || topology.listeners.length
        ? [drawing(topology, at), past(at), asTable(topology, at)]
        : h('p.empty', 'There is no listener and no route: there is nothing to draw.'),
    ),
  ];
}

const level = { idle: '', ok: 'good', warn: 'warn', bad: 'bad' };
const NAMES = { listener: 'Listeners', route: 'Routes', variant: 'Variants', upstream: 'Upstreams', endpoint: 'Endpoints' };

/** Columns of nodes, and edges between them. Variants stand between a route and its upstreams where it has several. */
function graph(topology, focus) {
  const nodes = new Map();
  const edges = [];
  const add = (kind, name, label, more = {}) =>
    nodes.set(`${kind}:${name}`, { id: `${kind}:${name}`, kind, name, label, rps: 0, errors: 0, level: 'idle', ...more });
  topology.listeners.forEach((one) => add('listener', one.name, one.name, { sub: one.address }));
  topology.routes.forEach((one) => add('route', one.name, one.name, { sub: one.answer || word(one.target) }));
  topology.routes.forEach(
    (one) =>
      one.variants.length > 1 &&
      one.variants.forEach((variant) =>
        add('variant', `${one.name}/${variant.name}`, variant.name, {
          sub: `${Math.round(variant.share * 100)} %${variant.side ? `, ${variant.side}` : ''}`,
          focus: `route:${one.name}`,
        }),
      ),
  );
  topology.upstreams.forEach((one) =>
    add('upstream', one.name, one.name, { sub: one.ready ? '' : 'not ready', tone: one.ready ? '' : 'bad' }),
  );
  const mine = focus
    ? new Set(topology.edges.filter((edge) => edge.from === focus || edge.to === focus).flatMap((edge) => [edge.from, edge.to]))
    : null;
  const few = topology.upstreams.reduce((sum, one) => sum + one.endpoints.length, 0) <= ENDPOINTS;
  topology.upstreams.forEach(
    (one) =>
      (few || mine?.has(`upstream:${one.name}`)) &&
      one.endpoints.slice(0, ENDPOINTS).forEach((endpoint) =>
        add('endpoint', `${one.name}/${endpoint.name}`, endpoint.name, {
          sub: word(endpoint.state),
          tone: toneOf(endpoint.state),
        }),
      ),
  );
  for (const edge of topology.edges) {
    const [rps, errors] = [edge.requests_per_second, edge.errors_per_second];
    const join = (from, to) => nodes.has(from) && nodes.has(to) && edges.push({ from, to, rps, errors, level: edge.level });
    const variant = edge.variant && `variant:${edge.from.slice(6)}/${edge.variant}`;
    if (variant && nodes.has(variant)) (join(edge.from, variant), join(variant, edge.to));
    else join(edge.from, edge.to);
  }
  for (const edge of edges) {
    const ends = [nodes.get(edge.to), ...(edge.from.startsWith('listener:') ? [nodes.get(edge.from)] : [])];
    for (const node of ends) {
      node.rps += edge.rps;
      node.errors += edge.errors;
      if (['idle', 'ok', 'warn', 'bad'].indexOf(edge.level) > ['idle', 'ok', 'warn', 'bad'].indexOf(node.level))
        node.level = edge.level;
    }
  }
  const kinds = Object.keys(NAMES).filter((kind) => [...nodes.values()].some((node) => node.kind === kind));
  const columns = kinds.map((kind) => [...nodes.values()].filter((node) => node.kind === kind));
  // By structure alone, so that nothing moves with the traffic: each column in the order of what leads to it.
  columns.forEach((column, x) => {
    const weight = (node) => {
      const from = edges.filter((edge) => edge.to === node.id && nodes.get(edge.from).place != null);
      return from.reduce((sum, edge) => sum + nodes.get(edge.from).place, 0) / (from.length || 1);
    };
    const weights = new Map(column.map((node) => [node, x > 1 ? weight(node) : 0]));
    column.sort((a, b) => weights.get(a) - weights.get(b) || (x > 1 ? 0 : a.label < b.label ? -1 : 1));
    column.forEach((node, y) =>
      Object.assign(node, { x, y, place: node.kind === 'variant' ? weights.get(node) : (y + 0.5) / column.length }),
    );
  });
  return { nodes, edges, kinds, columns };
}

/** What hangs together with the one that is chosen. */
function near(edges, chosen) {
  if (!chosen) return null;
  const found = new Set([chosen]);
  const grow = (from, to) => {
    for (let size = 0; size !== found.size;) {
      size = found.size;
      const seen = grown.has(from) ? grown.get(from) : new Set([chosen]);
      edges.forEach((edge) => seen.has(edge[from]) && (seen.add(edge[to]), found.add(edge[to])));
      grown.set(from, seen);
    }
  };
  const grown = new Map();
  grow('from', 'to');
  grow('to', 'from');
  return found;
}

function drawing(topology, at) {
  const { nodes, edges, kinds, columns } = graph(topology, at.focus.startsWith('listener:') ? '' : at.focus);
  const chosen = nodes.has(at.focus) ? at.focus : '';
  const close = near(edges, chosen);
  const tallest = Math.max(...columns.map((column) => column.length));
  const height = TOP + tallest * STEP;
  const [wide, gap] = [100 / (kinds.length + (kinds.length - 1) * 0.35), 0.35];
  const left = (x) => x * wide * (1 + gap);
  const middle = (node) => TOP + ((tallest - columns[node.x].length) * STEP) / 2 + node.y * STEP + BOX / 2;
  const most = Math.max(1, ...edges.map((edge) => edge.rps));
  const paths = edges.map((edge) => {
    const [from, to] = [nodes.get(edge.from), nodes.get(edge.to)];
    const [x1, x2] = [(left(from.x) + wide) * 10, left(to.x) * 10];
    const bend = (x2 - x1) / 2;
    const isFar = close && !(close.has(edge.from) && close.has(edge.to));
    return h('path', {
      key: `${edge.from} ${edge.to}`,
      class: `${edge.level === 'ok' ? 'blue' : level[edge.level] || 'idle'} ${isFar ? 'far' : ''}`,
      style: { 'stroke-width': `${edge.rps ? 1.5 + Math.sqrt(edge.rps / most) * 12 : 1}px` },
      d: `M${x1} ${middle(from)}C${x1 + bend} ${middle(from)} ${x2 - bend} ${middle(to)} ${x2} ${middle(to)}`,
    });
  });
  const boxes = [...nodes.values()].map((node) =>
    h(
      'button',
      {
        key: node.id,
        class: `${node.tone || (level[node.level] ?? '')} ${close && !close.has(node.id) ? 'far' : ''}`,
        'aria-pressed': String(chosen === node.id),
        style: { left: `${left(node.x)}%`, width: `${wide}%`, top: `${middle(node) - BOX / 2}px` },
        title: node.label,
        onclick: () => at.set({ focus: chosen === node.id ? '' : node.focus || node.id }),
      },
      h('span', node.label),
      h(
        'span.small',
        h('span', { class: node.tone ? 'tone' : '' }, node.errors > 0 ? h('span.tone', `${rate(node.errors)} err/s`) : node.sub),
        h('span.num', `${rate(node.rps)}/s`),
      ),
    ),
  );
  return [
    h(
      'p.soft',
      { key: 'more' },
      topology.more?.routes > 0 && [
        `The ${topology.routes.length} busiest routes. ${plural(topology.more.routes, 'more route')} with ${rate(topology.more.requests_per_second)} requests per second: see `,
        h('a', { href: link('routes') }, 'Routes'),
        '. ',
      ],
      !kinds.includes('endpoint') && kinds.includes('upstream') && 'Choose a route or an upstream to see its endpoints.',
    ),
    h(
      'div.map',
      { key: 'map', tabindex: 0, role: 'region', 'aria-label': 'Map of traffic' },
      h(
        'div',
        { style: { height: `${height}px` } },
        h('svg', { viewBox: `0 0 1000 ${height}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' }, paths),
        kinds.map((kind, x) => h('span', { key: kind, class: 'title', style: { left: `${left(x)}%` } }, NAMES[kind])),
        boxes,
      ),
    ),
  ];
}

function past(at) {
  const focus = focused(at);
  const has = focus && (focus.kind === 'route' || focus.kind === 'upstream');
  const points = has ? series(at.focus).points : state.past;
  return h(
    'section.card',
    { key: 'past' },
    chart({
      id: 'map',
      title: has ? `Requests per second, ${focus.kind} ${focus.name}` : 'Requests per second',
      times: points.map((point) => point.at),
      show: rate,
      redraw,
      series: [
        { name: 'requests', values: points.map((point) => point.rps) },
        { name: 'errors', tone: 'bad', values: points.map((point) => point.errors) },
      ],
    }),
  );
}

function asTable(topology, at) {
  const focus = at.focus;
  const rows = topology.edges.filter((edge) => !focus || edge.from === focus || edge.to === focus);
  return h(
    'section.stack',
    { key: 'table' },
    h('h2', 'The same as a table'),
    table({
      id: 'edges',
      label: 'Edges of the map',
      rows,
      nameOf: (edge) => `${edge.from} ${edge.to} ${edge.variant || ''}`,
      redraw,
      empty: 'Nothing leads there.',
      columns: [
        text('from', 'From', (edge) => edge.from.replace(':', ' ')),
        text('to', 'To', (edge) => edge.to.replace(':', ' ')),
        {
          id: 'rate',
          name: 'req/s',
          num: true,
          cell: (edge) => rate(edge.requests_per_second),
          by: (edge) => edge.requests_per_second,
        },
        {
          id: 'errors',
          name: 'errors/s',
          num: true,
          cell: (edge) => rate(edge.errors_per_second),
          by: (edge) => edge.errors_per_second,
        },
        {
          id: 'level',
          name: 'Errors',
          cell: (edge) => tag(level[edge.level] ?? '', { idle: 'idle', ok: 'none', warn: 'some', bad: 'many' }[edge.level]),
          by: (edge) => edge.level,
        },
      ],
    }),
  );
}
