// How numbers, times and states read. Numbers of one kind have the same decimals everywhere, so that columns line up.

const one = new Intl.NumberFormat('en', { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const NONE = '–';

const is = (/** @type {any} */ n) => typeof n === 'number' && Number.isFinite(n);

export const count = (n) => (is(n) ? whole.format(n) : NONE);
export const rate = (n) => (is(n) ? one.format(n) : NONE);
export const ms = (n) => (is(n) ? one.format(n) : NONE);

/** 0 to 1. What is not quite all, or not quite nothing, does not read as if it were. */
export function percent(n) {
  if (!is(n)) return NONE;
  const shown = one.format(n * 100);
  if (shown === '100.0' && n < 1) return '99.9 %';
  if (shown === '0.0' && n > 0) return '<0.1 %';
  return `${shown} %`;
}

export function bytes(n) {
  if (!is(n)) return NONE;
  let unit = 0;
  for (; n >= 1024 && unit < 4; unit++) n /= 1024;
  return `${unit ? one.format(n) : whole.format(n)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][unit]}`;
}

/** Two units at most: 3d 4h, 5m 10s, 8s. */
export function span(seconds) {
  if (!is(seconds)) return NONE;
  let left = Math.max(0, Math.round(seconds));
  const parts = [];
  for (const [name, size] of /** @type {[string, number][]} */ ([
    ['d', 86400],
    ['h', 3600],
    ['m', 60],
    ['s', 1],
  ])) {
    const n = Math.floor(left / size);
    left -= n * size;
    if (n) parts.push(`${n}${name}`);
    else if (parts.length) break;
    if (parts.length === 2) break;
  }
  return parts.join(' ') || '0s';
}

/** In minutes, so that it does not tick. */
export const up = (seconds) => (seconds < 60 ? 'just started' : `up ${span(Math.floor((seconds || 0) / 60) * 60)}`);

const two = (n) => String(n).padStart(2, '0');
export const clock = (date) => `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
export const day = (date) => `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? '' : 's'}`;
