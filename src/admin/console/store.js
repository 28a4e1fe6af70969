// What the page knows: who one is, what the gateway said last and when, and what each view has asked for. Views read it and
// call `redraw`; nothing here draws.

import { Refused, call, get, stream } from './api.js';

const KEPT = 900;
const SILENCE = 3000;

/** @type {any} */
export const state = {
  me: null,
  login: null,
  overview: null,
  live: { gateway: null, routes: {}, upstreams: {}, endpoints: {}, connections: null },
  /** Of the gateway, a second each: {at, rps, errors, p50, p99}. */
  past: [],
  /** Of a route or upstream: what was asked for once and then grew. */
  series: new Map(),
  news: { at: 0, open: false, error: null, wait: 0 },
  events: [],
  data: new Map(),
  topology: null,
};

let listeners = () => {};
let scheduled = false;

/** Draws soon, and once. */
export function redraw() {
  if (scheduled) return;
  scheduled = true;
  // A hidden page has no frames, and still is to be right when somebody looks.
  const draw = () => scheduled && ((scheduled = false), listeners());
  requestAnimationFrame(draw);
  setTimeout(draw, 200);
}

export function onDraw(draw) {
  listeners = draw;
}

export const silent = () => state.news.at > 0 && Date.now() - state.news.at > SILENCE;

/** Why an order cannot be given now; null if it can. */
export function whyNot() {
  if (state.me?.role !== 'operator') return `${state.me?.name || 'you'} may look and not order: ask an operator`;
  if (phase() === 'draining') return 'the gateway is draining and takes no orders any more';
  if (silent()) return 'there is no news from the gateway: what you see may be over';
  return null;
}

export const phase = () => state.live.phase || state.overview?.phase || '';

/* What views ask for. */

/** What was asked under `path`: {value, error}. Again by `reload`, and each so many seconds where nothing tells of changes. */
export function data(path, every = 0) {
  let kept = state.data.get(path);
  if (!kept) {
    kept = { value: undefined, error: null, path, every, at: 0, busy: false, used: 0 };
    state.data.set(path, kept);
    load(kept);
  }
  kept.used = Date.now();
  return kept;
}

async function load(kept) {
  if (kept.busy) return void (kept.again = true);
  kept.busy = true;
  try {
    kept.value = await get(kept.path);
    kept.error = null;
  } catch (error) {
    if (error.status === 401) signOut();
    kept.error = error;
  }
  kept.busy = false;
  kept.at = Date.now();
  redraw();
  if (kept.again) {
    kept.again = false;
    load(kept);
  }
}

/** Asks again for what begins so and is being looked at, and forgets the rest. */
export function reload(...beginnings) {
  for (const [path, kept] of state.data) {
    if (beginnings.length && !beginnings.some((beginning) => path.startsWith(beginning))) continue;
    if (Date.now() - kept.used < 5000) load(kept);
    else state.data.delete(path);
  }
}

/** The last minutes of a route or upstream. */
export function series(of) {
  let kept = state.series.get(of);
  if (!kept) {
    kept = { points: [], known: false };
    state.series.set(of, kept);
    past(of)
      .then((points) => Object.assign(kept, { points, known: true }))
      .catch(() => (kept.known = true))
      .then(redraw);
  }
  kept.used = Date.now();
  return kept;
}

async function past(of) {
  const history = await get(`/v1/history?of=${encodeURIComponent(of)}`);
  const end = Date.parse(history.ends_at);
  const size = history.requests_per_second.length;
  return history.requests_per_second
    .map((rps, at) => ({
      at: end - (size - 1 - at) * 1000 * (history.step_seconds || 1),
      rps,
      errors: history.errors_per_second[at],
      p50: history.p50_ms[at],
      p99: history.p99_ms[at],
    }))
    .slice(-KEPT);
}

function grow(points, at, traffic) {
  points.push({
    at,
    rps: traffic?.requests_per_second ?? 0,
    errors: traffic?.errors_5xx_per_second ?? traffic?.errors_per_second ?? 0,
    p50: traffic?.p50_ms ?? null,
    p99: traffic?.p99_ms ?? null,
  });
  if (points.length > KEPT) points.shift();
}

/* News. */

/** @type {any} */ let events;

const REFRESH = {
  endpoint: ['/v1/endpoints', '/v1/upstreams', '/v1/overview', '/v1/topology'],
  breaker: ['/v1/endpoints', '/v1/upstreams', '/v1/overview', '/v1/topology'],
  canary: ['/v1/canaries', '/v1/overview', '/v1/topology'],
  reload: [''],
  order: ['/v1/orders', '/v1/endpoints', '/v1/canaries', '/v1/upstreams'],
  phase: ['/v1/overview', '/v1/me'],
};

function heard(name, told) {
  if (name === 'hello') return hello(told);
  if (name === 'traffic') return traffic(told);
  if (name === 'bye') return;
  state.events.unshift({ name, told, id: `${Date.now()}-${state.events.length}-${Math.random()}` });
  state.events.length = Math.min(state.events.length, 50);
  if (name === 'phase') Object.assign(state.live, { phase: told.phase });
  const stale = REFRESH[name];
  if (stale) reload(...stale);
  if (name === 'phase' || name === 'reload') greet();
  said(name, told);
  redraw();
}

function hello(told) {
  const boot = state.me?.gateway?.boot;
  if (boot && boot !== told.boot) {
    // Another release may have another page; the page itself says so by its tags.
    if (told.version !== state.me.gateway.version) return location.reload();
    state.past = [];
  }
  state.live = { gateway: null, routes: {}, upstreams: {}, endpoints: {}, connections: null, phase: told.phase };
  if (!told.resumed || boot !== told.boot) {
    state.series.clear();
    reload('');
    greet();
  }
  past('gateway')
    .then((points) => (state.past = points))
    .catch(() => {})
    .then(redraw);
  redraw();
}

function traffic(told) {
  const at = Date.parse(told.at);
  Object.assign(state.live, told);
  grow(state.past, at, told.gateway);
  for (const [of, kept] of state.series) {
    if (Date.now() - kept.used > 60_000) state.series.delete(of);
    else if (kept.known) {
      const [kind, name] = [of.slice(0, of.indexOf(':')), of.slice(of.indexOf(':') + 1)];
      grow(kept.points, at, told[`${kind}s`]?.[name]);
    }
  }
  redraw();
}

const QUIET = {
  requests_per_second: 0,
  errors_4xx_per_second: 0,
  errors_5xx_per_second: 0,
  own_per_second: 0,
  errors_per_second: 0,
  retries_per_second: 0,
  hedges_per_second: 0,
  p50_ms: null,
  p95_ms: null,
  p99_ms: null,
};
/** Only so many are told of each second; where more are busy, the others are as the list had them. */
const TOLD = { routes: 200, upstreams: 1000, endpoints: 500 };

function live(kind, name, row) {
  const told = state.live[kind];
  return told[name] || (state.live.gateway && Object.keys(told).length < TOLD[kind] ? QUIET : row.traffic) || QUIET;
}

export const ofRoute = (row) => live('routes', row.name, row);
export const ofUpstream = (row) => live('upstreams', row.name, row);
export const ofEndpoint = (row) => live('endpoints', `${row.upstream}/${row.name}`, row);

/** Who one is, and how it is now. */
export async function greet() {
  try {
    [state.me, state.overview] = await Promise.all([get('/v1/me'), get('/v1/overview')]);
    if (!state.live.gateway) state.live.phase = state.overview.phase;
    return true;
  } catch (error) {
    if (error instanceof Refused && error.status === 401) signOut();
    else state.news.error ||= error;
    return false;
  } finally {
    redraw();
  }
}

/** Reads who one is, and begins to listen. */
export async function begin() {
  events?.close();
  events = null;
  if (!(await greet())) {
    if (!state.login) setTimeout(begin, 1000 + Math.random() * 4000);
    return;
  }
  state.login = null;
  events = stream(
    '/v1/events',
    heard,
    (told) => {
      Object.assign(state.news, { open: told.open, error: told.error || null, wait: told.wait || 0 });
      if (told.open) state.news.at = Date.now();
      if (told.error?.status === 401) signOut();
      redraw();
    },
    () => (state.news.at = Date.now()),
  );
}

/** After a sleep, or when the network is back: nobody waits for a timer then. */
export function wake() {
  if (events && Date.now() - state.news.at > SILENCE) events.again();
}

export async function signIn(token) {
  await call('POST', '/v1/session', { body: { token } });
  state.login = null;
  state.data.clear();
  await begin();
}

/** The view stays where it is, for when one is back. */
function signOut() {
  events?.close();
  events = null;
  state.login = state.login || { why: state.me ? 'Your session is over. Sign in to go on where you were.' : '' };
  state.me = null;
  redraw();
}

export async function leave() {
  await call('DELETE', '/v1/session').catch(() => {});
  state.me = null;
  signOut();
}

setInterval(() => {
  if (!events || document.hidden) return;
  const now = Date.now();
  for (const kept of state.data.values()) {
    if (kept.every && now - kept.used < 5000 && now - kept.at >= kept.every * 1000) load(kept);
  }
  // An overview is cheap, and has what no event tells.
  if (state.news.open && now - looked > 5000) {
    looked = now;
    get('/v1/overview')
      .then((overview) => (state.overview = overview))
      .catch(() => {})
      .then(redraw);
  }
}, 500);
let looked = 0;

/* For those who listen: once in five seconds at most. */

/** @type {string[]} */ const unsaid = [];
let saidAt = 0;

function said(name, told) {
  if (name === 'endpoint') unsaid.push(`endpoint ${told.endpoint} of ${told.upstream} is ${told.what}`);
  if (name === 'breaker') unsaid.push(`circuit breaker of ${told.endpoint} is ${told.state}`);
  if (name === 'canary') unsaid.push(`canary ${told.route}: ${told.what}`);
  if (name === 'reload') unsaid.push(`configuration ${told.result}`);
  if (name === 'phase') unsaid.push(`the gateway is ${told.phase}`);
  say();
}

export function say(text = '') {
  if (text) unsaid.push(text);
  const wait = saidAt + 5000 - Date.now();
  if (wait > 0) return void (unsaid.length === 1 && setTimeout(say, wait));
  if (!unsaid.length) return;
  saidAt = Date.now();
  const region = document.getElementById('said');
  if (region) region.textContent = unsaid.splice(0).slice(-3).join('. ');
}
