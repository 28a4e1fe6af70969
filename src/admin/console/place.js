// Where one is: `#/routes?q=users&focus=route:cart`. So a view can be linked to, and is still there after one has signed in again.

import { redraw } from './store.js';

/** @typedef {{view: string, q: string, row: string, tab: string, focus: string, params: URLSearchParams, set: (changes: Record<string, string>) => void}} Place */

/** @returns {Place} */
export function place() {
  const [path, search] = location.hash.replace(/^#\/?/, '').split('?');
  const params = new URLSearchParams(search || '');
  const of = (name) => params.get(name) || '';
  const set = (changes) => {
    for (const [name, value] of Object.entries(changes)) value ? params.set(name, value) : params.delete(name);
    history.replaceState(null, '', `#/${path}${params.size ? `?${params}` : ''}`);
    redraw();
  };
  return { view: path || 'overview', q: of('q'), row: of('row'), tab: of('tab'), focus: of('focus'), params, set };
}

/** A link to a view, which keeps what one looks at. @param {string} view @param {Record<string, string>} [more] */
export function link(view, more = {}) {
  const params = new URLSearchParams(more);
  const focus = place().focus;
  if (focus && !('focus' in more)) params.set('focus', focus);
  return `#/${view}${params.size ? `?${params}` : ''}`;
}

/** `route:users` as its two parts. */
export function focused(at) {
  const colon = at.focus.indexOf(':');
  return colon > 0 ? { kind: at.focus.slice(0, colon), name: at.focus.slice(colon + 1) } : null;
}
