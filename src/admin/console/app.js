// The frame around the views: where one is, who one is, what is wrong now; and the keys.

import { h, render } from './render.js';
import { begin, leave, onDraw, phase, redraw, signIn, silent, state, wake } from './store.js';
import { focused, link, place } from './place.js';
import { coded, notice, show, stateTag, tag } from './parts.js';
import { span, up } from './format.js';

/** What it is called, and its key after `g`. Each is read when it is first looked at. */
const VIEWS = [
  ['overview', 'Overview', 'o'],
  ['map', 'Map', 'm'],
  ['routes', 'Routes', 'r'],
  ['upstreams', 'Upstreams', 'u'],
  ['canaries', 'Canaries', 'c'],
  ['tail', 'Tail', 't'],
  ['config', 'Config', 'f'],
  ['identity', 'Identity', 'i'],
  ['history', 'History', 'h'],
  ['plugins', 'Plugins', 'p'],
];
const CONTROL = [
  ['services', 'Services', 's'],
  ['gateways', 'Gateways', 'w'],
  ['rollouts', 'Rollouts', 'l'],
];
const IN = { services: 'control', gateways: 'control', rollouts: 'control' };

/** @type {Map<string, any>} */ const read = new Map();

function viewOf(id) {
  const file = IN[id] || id;
  const known = read.get(file);
  if (known) return known[id];
  if (known === undefined) {
    read.set(file, null);
    // Where the gateway is away just now, it is asked for again with the next draw.
    import(`./views/${file}.js`)
      .then(
        (view) => read.set(file, view),
        () => setTimeout(() => read.delete(file), 1000),
      )
      .then(redraw);
  }
  return () => h('p.soft', 'Reading…');
}

const page = /** @type {HTMLElement} */ (document.getElementById('page'));
let menu = false;
let token = '';
let refusal = '';

const known = () => (state.me?.has_control ? [...VIEWS, ...CONTROL] : VIEWS);

function draw() {
  if (state.login) return render(page, signing());
  if (!state.me)
    return render(
      page,
      h(
        'main.first',
        { key: 'first' },
        h('h1', 'Tidegate'),
        state.news.error && h('p', { role: 'status' }, `${state.news.error.message}: trying again`),
      ),
    );
  const at = place();
  const view = known().find(([id]) => id === at.view) || VIEWS[0];
  if (view[0] !== 'tail') read.get('tail')?.stopTail();
  document.title = `${view[1]} · Tidegate`;
  render(
    page,
    h(
      'div',
      { key: 'shell', class: `shell ${silent() ? 'stale' : ''}` },
      h(
        'a.skip',
        { href: '#main', onclick: (event) => (event.preventDefault(), document.querySelector('main')?.focus()) },
        'Skip to the view',
      ),
      side(view[0]),
      h('header', topline(at), banners()),
      h('main', { id: 'main', tabindex: -1, key: view[0] }, drawn(view[0], at)),
    ),
  );
}

/** What cannot be drawn takes neither the frame nor the other views with it. */
function drawn(id, at) {
  try {
    return viewOf(id)(at);
  } catch (error) {
    reportError(error);
    return h('p.refused', { role: 'alert' }, 'This view cannot be drawn. Load the page anew, and tell us if that does not help.');
  }
}

const item =
  (chosen) =>
  ([id, name, key]) =>
    h(
      'a',
      { key: id, href: link(id), 'aria-current': id === chosen ? 'page' : null, 'aria-keyshortcuts': `g ${key}` },
      name,
      h('kbd', { 'aria-hidden': 'true' }, `g ${key}`),
    );

function side(chosen) {
  const { gateway, via } = state.me;
  return h(
    'aside',
    { class: `side ${menu ? 'shown' : ''}`, 'aria-label': 'Tidegate' },
    h(
      'a.brand',
      { href: link('overview') },
      h(
        'svg',
        { viewBox: '0 0 16 16', 'aria-hidden': 'true' },
        h('rect', { width: 16, height: 16, rx: 4, fill: 'var(--blue)' }),
        h('path', { d: 'M2 10q3-4 6 0t6 0M2 6q3-4 6 0t6 0', fill: 'none', stroke: 'var(--on-blue)', 'stroke-width': 1.6 }),
      ),
      'Tidegate',
    ),
    h(
      'button.menu',
      { 'aria-expanded': String(menu), 'aria-controls': 'nav', onclick: () => ((menu = !menu), redraw()) },
      'Menu',
    ),
    h(
      'nav.nav',
      { id: 'nav', 'aria-label': 'Views' },
      VIEWS.map(item(chosen)),
      state.me.has_control && h('p', 'Control plane'),
      state.me.has_control && CONTROL.map(item(chosen)),
    ),
    h(
      'div.foot',
      h('span.break', `${state.me.name}, ${state.me.role}`),
      via === 'session' && h('button.link', { onclick: leave }, 'Sign out'),
      h('span', `Tidegate ${gateway.version}`),
      h(
        'span.tools',
        h('button.link', { onclick: theme }, 'Light or dark'),
        h('button.link', { onclick: keys, 'aria-keyshortcuts': '?' }, 'Keys'),
      ),
    ),
  );
}

function topline(at) {
  const focus = focused(at);
  return h(
    'div.top',
    stateTag(phase()),
    h('span.soft.num', { title: 'of the configuration in force' }, `config ${(state.overview?.config_hash || '').slice(0, 8)}`),
    h('span.soft.num', state.overview ? up(state.overview.uptime_seconds) : ''),
    focus &&
      h(
        'span.chip',
        `only ${focus.kind} ${focus.name.split('/').pop()}`,
        h('button', { 'aria-label': 'Show all again', title: 'Show all again (Esc)', onclick: () => at.set({ focus: '' }) }, '×'),
      ),
    h('span.grow'),
    silent() || !state.news.open ? null : tag('good', 'live'),
  );
}

function banners() {
  const { news } = state;
  const away = Math.floor((Date.now() - news.at) / 1000);
  const why = news.error?.message || '';
  return [
    (silent() || (!news.open && news.error)) &&
      h(
        'div.banner',
        { key: 'silence' },
        tag('warn', news.at ? `no news since ${span(away)}` : 'no news'),
        h('span', why || 'what you see is what was last told'),
        h('button', { onclick: () => begin() }, 'Try now'),
      ),
    phase() === 'draining' &&
      h('div.banner', { key: 'drain' }, tag('warn', 'draining'), 'It finishes what is under way and then ends. Orders are off.'),
    phase().startsWith('waiting') && h('div.banner', { key: 'waiting' }, tag('warn', phase())),
    notice(),
  ];
}

function signing() {
  const go = async (event) => {
    event.preventDefault();
    try {
      refusal = '';
      await signIn(token);
      token = '';
    } catch (error) {
      refusal = error.message;
    }
    redraw();
  };
  return h(
    'main.login',
    { key: 'login' },
    h(
      'form.card',
      { onsubmit: go },
      h('h1', 'Tidegate'),
      state.login.why && h('p', state.login.why),
      h(
        'label',
        h('span', coded('Token, as `admin.tokens` or `admin.token` has it')),
        h('input', {
          type: 'password',
          name: 'token',
          autocomplete: 'current-password',
          required: true,
          value: '',
          oninput: (event) => (token = event.target.value),
          made: (el) => setTimeout(() => el.focus()),
        }),
      ),
      refusal && h('p.refused', { role: 'alert' }, refusal),
      h('button.main', 'Sign in'),
    ),
  );
}

function theme() {
  const isDark =
    getComputedStyle(page).colorScheme === 'dark' ||
    (getComputedStyle(page).colorScheme !== 'light' && matchMedia('(prefers-color-scheme: dark)').matches);
  set(isDark ? 'light' : 'dark');
}

function set(name) {
  document.documentElement.dataset.theme = name;
  try {
    localStorage.setItem('theme', name);
  } catch {
    // Kept until the page is left, then.
  }
}

function keys() {
  const all = [
    ...known().map(([, name, key]) => [`g ${key}`, name]),
    ['/', 'filter'],
    ['Esc', 'close, or show all again'],
    ['?', 'these keys'],
  ];
  show(
    'Keys',
    h(
      'dl.facts',
      all.map(([key, name]) => [h('dt', { key: `t${key}` }, h('kbd', key)), h('dd', { key: `d${key}` }, name)]),
    ),
  );
}

let began = 0;

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]') || !state.me) return;
  const at = place();
  if (event.key === 'Escape') {
    if (event.target.matches('#find') && at.q) return at.set({ q: '' });
    if (event.target.matches('input,textarea')) return event.target.blur();
    if (at.row) return at.set({ row: '' });
    if (menu) return ((menu = false), redraw());
    return at.focus ? at.set({ focus: '' }) : undefined;
  }
  if (event.target.matches('input,textarea,select')) return;
  if (Date.now() - began < 1500) {
    began = 0;
    const view = known().find(([, , key]) => key === event.key);
    if (view) (event.preventDefault(), (location.hash = link(view[0])));
  } else if (event.key === 'g') began = Date.now();
  else if (event.key === '?') keys();
  else if (event.key === '/') {
    const find = document.getElementById('find');
    if (find) (event.preventDefault(), find.focus());
  }
}

addEventListener('keydown', pressed);
addEventListener('hashchange', () => {
  menu = false;
  redraw();
  scrollTo(0, 0);
  // Whoever does not see the page hears where it is now.
  setTimeout(() => document.querySelector('main')?.focus({ preventScroll: true }), 50);
});
for (const event of ['online', 'pageshow', 'focus']) addEventListener(event, wake);
document.addEventListener('visibilitychange', () => document.hidden || (wake(), redraw()));

let ticked = Date.now();
setInterval(() => {
  // Asleep: nobody has counted the seconds.
  if (Date.now() - ticked > 10_000) wake();
  ticked = Date.now();
  if (silent()) redraw();
}, 1000);

try {
  const kept = localStorage.getItem('theme');
  if (kept) set(kept);
} catch {
  // Without storage, as the system says.
}
onDraw(draw);
begin();
