// Pieces that views share: states with their words, times, orders that ask first, long texts.

import { h, render } from './render.js';
import { clock, day, span } from './format.js';
import { Refused, call } from './api.js';
import { greet, redraw, reload, say, whyNot } from './store.js';

export const tag = (tone, word, title) => h('span', { class: `tag ${tone}`, title }, word);

/** What words of state mean, as a colour. What is not here is grey. */
const MEANS = {
  good: 'healthy closed promoted ready reloaded started in_force done ok passed reached',
  blue: 'drained progressing starting wanted checking rolling holding info added',
  warn: 'half_open avoided paused draining away held warn distrusted',
  bad: 'unhealthy ejected open paused_by_breach rolled_back rejected refused aborted critical bad',
};
const STATES = new Map(Object.entries(MEANS).flatMap(([tone, words]) => words.split(' ').map((one) => [one, tone])));
export const toneOf = (word) => STATES.get(word) ?? '';
export const word = (text) => String(text ?? '').replace(/_/g, ' ');
/** Text in which `names` of the configuration and the command line are set as code. */
export const coded = (text) => text.split('`').map((part, at) => (at % 2 ? h('code', { key: `code${at}` }, part) : part));
export const stateTag = (name, title) => tag(toneOf(name), word(name), title);

/** Local, with UTC in its title. */
export function time(text, full = false) {
  if (!text) return h('span.soft', '–');
  const date = new Date(text);
  const isToday = day(date) === day(new Date());
  return h(
    'time',
    { datetime: date.toISOString(), title: date.toISOString() },
    isToday && !full ? clock(date) : `${day(date)} ${clock(date)}`,
  );
}

/** How long ago, kept coarse so that it does not tick. */
export function ago(text) {
  if (!text) return h('span.soft', 'never');
  const date = new Date(text);
  const seconds = Math.max(0, (Date.now() - date.getTime()) / 1000);
  const rough =
    seconds < 10
      ? 'now'
      : `${span(seconds < 60 ? Math.floor(seconds / 10) * 10 : seconds < 3600 ? Math.floor(seconds / 60) * 60 : Math.floor(seconds / 3600) * 3600)} ago`;
  return h('time', { datetime: date.toISOString(), title: `${day(date)} ${clock(date)} (${date.toISOString()})` }, rough);
}

export const facts = (...pairs) =>
  h(
    'dl.facts',
    pairs.map(
      (pair) =>
        pair &&
        pair[1] != null &&
        pair[1] !== '' && [h('dt', { key: `t${pair[0]}` }, pair[0]), h('dd', { key: `d${pair[0]}` }, pair[1])],
    ),
  );
export const head = (title, sub, ...tools) => h('div.head', h('div', h('h1', title), h('p.soft', sub)), h('div.tools', tools));
export const number = (text, value) => h('span', { class: value ? '' : 'zero' }, text);

/** What was chosen in a table: beside it where there is space, else below. */
export function panel(key, label, title, at, ...rest) {
  const close = h('button', { onclick: () => at.set({ row: '' }) }, 'Close');
  const made = (el) => matchMedia('(max-width: 1279px)').matches && el.scrollIntoView({ block: 'nearest' });
  return h('section.card', { key, 'aria-label': label, made }, h('div.head', h('h2.break', title), close), rest);
}

/** What was asked for, or why it is not there. Old data stays, with a word above it. */
export function shown(kept, draw, loading = 'Reading…') {
  // That nobody answers stands in the banner already.
  const isSaid = kept.error?.status === 0 && kept.value !== undefined;
  const failed = kept.error && !isSaid && h('p.refused', { role: 'alert' }, kept.error.message);
  if (kept.value === undefined) return failed || h('p.empty', loading);
  return [failed, draw(kept.value)];
}

export function finder(at, label, width = 'find') {
  return h(
    'label',
    { class: width },
    h('span', label),
    h('input', {
      type: 'search',
      id: 'find',
      value: at.q || '',
      spellcheck: 'false',
      autocomplete: 'off',
      oninput: (event) => at.set({ q: event.target.value }),
      'aria-keyshortcuts': '/',
    }),
  );
}

export function tabs(label, chosen, all, choose) {
  const turn = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = all[(all.findIndex(([id]) => id === chosen) + step + all.length) % all.length][0];
    choose(next);
    document.getElementById(`tab-${next}`)?.focus();
  };
  return h(
    'div',
    { role: 'tablist', 'aria-label': label, onkeydown: turn },
    all.map(([id, name]) =>
      h(
        'button',
        {
          key: id,
          id: `tab-${id}`,
          role: 'tab',
          'aria-selected': String(id === chosen),
          tabindex: id === chosen ? 0 : -1,
          onclick: () => choose(id),
        },
        name,
      ),
    ),
  );
}

/* Orders. */

/** A button that gives an order, and says why where it cannot. */
export function order(name, give, { tone = '', why = whyNot(), label = '' } = {}) {
  return h(
    'button',
    {
      key: name,
      class: tone,
      'aria-disabled': why ? 'true' : null,
      title: why,
      'aria-label': label || null,
      'aria-description': why,
      onclick: () => (why ? told(why) : give()),
    },
    name,
  );
}

/** @type {any} */ let note = null;

/** A line at the bottom of the banners, for those who see and those who listen. */
export function told(text, tone = 'warn') {
  note = { text, tone, at: Date.now() };
  say(text);
  redraw();
  setTimeout(redraw, 8100);
}

export const notice = () =>
  note && Date.now() - note.at < 8000
    ? h(
        'div.note',
        { key: 'note' },
        tag(note.tone, note.text),
        h('button.link', { onclick: () => ((note = null), redraw()) }, 'Dismiss'),
      )
    : null;

/**
 * Asks, gives the order, and shows what came of it. What was refused because it had changed is shown anew and asked again.
 * @param {{title: string, body: (moved: any) => any, action: string, tone?: string, typed?: string, give: (moved: any) => Promise<any>}} question
 */
export function ask({ title, body, action, tone = 'main', typed, give }) {
  const dialog = /** @type {HTMLDialogElement} */ (document.createElement('dialog'));
  const back = document.activeElement;
  /** @type {any} */ const own = { text: '', error: null, moved: null, busy: false };
  const close = () => dialog.close();
  const go = async (event) => {
    event.preventDefault();
    if (own.busy || (typed && own.text !== typed)) return;
    own.busy = true;
    draw();
    try {
      const done = await give(own.moved);
      close();
      reload('');
      told(`${title}: ${word(done?.result || 'done')}${done?.changes ? `, ${done.changes}` : ''}`, 'good');
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      Object.assign(own, { error, moved: error.problem.canary || error.problem.breaker || own.moved });
      if (error.status === 401) close();
      await greet();
    }
    own.busy = false;
    draw();
    redraw();
  };
  const draw = () =>
    render(
      dialog,
      h(
        'form',
        { method: 'dialog', onsubmit: go },
        h('h2', { id: 'question' }, title),
        own.error &&
          h(
            'div.refused',
            { role: 'alert' },
            h('p', own.error.message),
            (own.error.problem.problems || []).map((problem) => h('p.mono', problem)),
            own.moved && h('p', 'Below is how it is now. Look again before you order it.'),
          ),
        h('div.stack', body(own.moved)),
        typed &&
          h(
            'label',
            h('span', 'Type ', h('b', typed), ' to confirm'),
            h('input', {
              value: '',
              autocomplete: 'off',
              spellcheck: 'false',
              oninput: (event) => ((own.text = event.target.value), draw()),
            }),
          ),
        h(
          'div.orders',
          h(
            'button',
            { type: 'submit', class: tone, disabled: own.busy || (!!typed && own.text !== typed) },
            own.moved ? `${action} all the same` : action,
          ),
          h('button', { type: 'button', onclick: close }, 'Cancel'),
        ),
      ),
    );
  dialog.setAttribute('aria-labelledby', 'question');
  dialog.addEventListener('close', () => {
    dialog.remove();
    /** @type {any} */ (back)?.focus?.();
  });
  document.body.append(dialog);
  draw();
  dialog.showModal();
}

export const post = (path, match) => call('POST', path, { match });

/** @param {string} title @param {any} body */
export function show(title, body) {
  const dialog = /** @type {HTMLDialogElement} */ (document.createElement('dialog'));
  dialog.setAttribute('aria-labelledby', 'question');
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  render(
    dialog,
    h(
      'div.inner',
      h('h2', { id: 'question' }, title),
      body,
      h('div.orders', h('button', { onclick: () => dialog.close() }, 'Close')),
    ),
  );
  dialog.showModal();
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    told(`copied ${what}`, 'good');
  } catch {
    // Only pages that came by TLS or from this machine may copy.
    show(`Copy ${what}`, h('textarea', { 'aria-label': what, value: text, made: (el) => setTimeout(() => el.select()) }));
  }
}

/* Long texts. */

const LINE = 20;
const views = new Map();

/** Lines of which only those are drawn that can be seen. A line is {text, tone?, n?, place?, hit?}. */
export function lines(id, label, all, to) {
  const view = views.get(id) || views.set(id, { top: 0, height: 900, to: undefined, el: null }).get(id);
  if (to !== undefined && to !== view.to) {
    view.to = to;
    view.top = Math.max(0, to * LINE - 120);
    if (view.el) setTimeout(() => (view.el.scrollTop = view.top));
  }
  const first = Math.max(0, Math.floor(view.top / LINE) - 10);
  const seen = all.slice(first, first + Math.ceil(view.height / LINE) + 20);
  const widest = Math.min(
    400,
    all.reduce((most, line) => Math.max(most, line.text.length + (line.place?.length || 0) + 8), 0),
  );
  return h(
    'div',
    {
      key: id,
      class: 'code mono',
      tabindex: 0,
      role: 'region',
      'aria-label': label,
      made: (el) => ((view.el = el), setTimeout(() => (el.scrollTop = view.top))),
      onscroll: (event) => (
        (view.top = event.currentTarget.scrollTop),
        (view.height = event.currentTarget.clientHeight),
        redraw()
      ),
    },
    h(
      'div',
      { style: { height: `${all.length * LINE + 8}px`, width: `${widest}ch` } },
      seen.map((line, at) =>
        h(
          'div',
          {
            key: first + at,
            class: `l ${line.tone || ''} ${line.hit ? 'hit' : ''}`,
            style: { top: `${(first + at) * LINE + 4}px` },
          },
          h('span.n', { 'aria-hidden': 'true' }, line.n ?? ''),
          h('span', line.text || ' '),
          line.place && h('span.place', line.place),
        ),
      ),
    ),
  );
}
