// Charts as SVG. Lines are drawn in a box that stretches with the page and texts stand beside it, so that nothing has to
// be measured. Each says in words what it shows: to those who do not see it, and below the pointer.

import { h } from './render.js';
import { clock } from './format.js';

const WIDTH = 600;

/** `M0 1L2 3`, broken where nothing is known. */
function path(values, most, height, closed) {
  const step = WIDTH / Math.max(1, values.length - 1);
  let d = '';
  let from = -1;
  const close = (to) =>
    closed && from >= 0 ? `L${(to * step).toFixed(1)} ${height}L${(from * step).toFixed(1)} ${height}Z` : '';
  values.forEach((value, at) => {
    if (value == null) {
      d += close(at - 1);
      from = -1;
      return;
    }
    const y = (height - 1 - (Math.min(value, most) / most) * (height - 3)).toFixed(1);
    d += `${from < 0 ? 'M' : 'L'}${(at * step).toFixed(1)} ${y}`;
    if (from < 0) from = at;
  });
  return d + close(values.length - 1);
}

/** The next round number above, so that the scale changes rarely. */
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((n) => n * size).find((n) => n >= value * 0.999) || value;
}

const greatest = (values) => values.reduce((most, value) => (value > most ? value : most), 0);

/** A line without scales, for beside a number. `label` says what it is. */
export function spark(values, label, tone = '') {
  const most = ceiling(greatest(values));
  return h(
    'svg',
    { class: `spark ${tone}`, viewBox: `0 0 ${WIDTH} 32`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label },
    h('path.area', { d: path(values, most, 32, true) }),
    h('path.line', { d: path(values, most, 32, false) }),
  );
}

const held = new Map();

/**
 * @param {{id: string, title: string, times: number[], series: {name: string, values: (number|null)[], tone?: string}[],
 *   show: (n: number) => string, limit?: number, redraw: () => void}} chart `times` in ms
 */
export function chart({ id, title, times, series, show, limit, redraw }) {
  const most = ceiling(Math.max(limit || 0, ...series.map((one) => greatest(one.values))));
  const at = held.get(id);
  const shown = at != null && at < times.length ? at : times.length - 1;
  const words = series.map(({ name, values }) => {
    const known = values.filter((value) => value != null);
    return known.length ? `${name}: now ${show(known[known.length - 1])}, most ${show(greatest(known))}` : `${name}: nothing yet`;
  });
  const move = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const next = Math.round(((event.clientX - box.left) / box.width) * (times.length - 1));
    held.set(id, Math.max(0, Math.min(times.length - 1, next)));
    redraw();
  };
  const leave = () => (held.delete(id), redraw());
  return h(
    'figure.chart',
    { key: id },
    h(
      'figcaption',
      h('span', title),
      h(
        'span.legend',
        h('span.soft.num', times.length ? clock(new Date(times[shown])) : ''),
        series.map(({ name, values, tone }) =>
          h(
            'span',
            { key: name, class: `key ${tone || ''}` },
            name,
            ' ',
            h('b.num', show(/** @type {number} */ (values[shown]))),
          ),
        ),
      ),
    ),
    h(
      'div.plot',
      { onpointermove: move, onpointerleave: leave },
      h('span.scale', show(most)),
      h(
        'svg',
        { viewBox: `0 0 ${WIDTH} 120`, preserveAspectRatio: 'none', role: 'img', 'aria-label': `${title}. ${words.join('; ')}` },
        [40, 80].map((y) => h('line', { key: y, class: 'rule', x1: 0, x2: WIDTH, y1: y, y2: y })),
        limit ? h('line.limit', { x1: 0, x2: WIDTH, y1: 119 - (limit / most) * 117, y2: 119 - (limit / most) * 117 }) : null,
        series.map(({ name, values, tone }, index) =>
          h(
            'g',
            { key: name, class: tone || '' },
            index === 0 ? h('path.area', { d: path(values, most, 120, true) }) : null,
            h('path.line', { d: path(values, most, 120, false) }),
          ),
        ),
        at != null && times.length > 1
          ? h('line.cursor', {
              x1: (shown / (times.length - 1)) * WIDTH,
              x2: (shown / (times.length - 1)) * WIDTH,
              y1: 0,
              y2: 120,
            })
          : null,
      ),
    ),
    h(
      'div.times.soft.num',
      h('span', times.length ? clock(new Date(times[0])) : ''),
      h('span', times.length ? clock(new Date(times[times.length - 1])) : ''),
    ),
  );
}
