// Talking to the gateway: calls, and streams of events that come back by themselves.

const OURS = { 'x-tidegate-console': '1' };
const at = (path) => new URL(`..${path}`, document.baseURI).href;

/** What the gateway refused, in its words. */
export class Refused extends Error {
  /** @param {number} status @param {any} problem */
  constructor(status, problem) {
    super(problem.detail || problem.title || `the gateway answered with ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

async function refusal(reply) {
  const text = await reply.text();
  let problem;
  try {
    problem = JSON.parse(text);
  } catch {
    problem = { detail: text.trim() };
  }
  return new Refused(reply.status, problem);
}

const lost = (error) =>
  error instanceof Refused
    ? error
    : new Refused(0, {
        detail: error.name === 'TimeoutError' ? 'the gateway did not answer in time' : 'the gateway cannot be reached',
      });

/** @param {string} method @param {string} path @param {{body?: any, text?: string, match?: string}} [options] */
export async function call(method, path, { body, text, match } = {}) {
  /** @type {Record<string, string>} */
  const headers = { ...OURS, accept: 'application/json, text/*' };
  if (body !== undefined) headers['content-type'] = 'application/json';
  if (match) headers['if-match'] = `"${match}"`;
  try {
    const signal = AbortSignal.timeout(method === 'GET' ? 20_000 : 60_000);
    const reply = await fetch(at(path), {
      method,
      headers,
      body: body === undefined ? text : JSON.stringify(body),
      signal,
      cache: 'no-store',
    });
    if (!reply.ok) throw await refusal(reply);
    if (reply.status === 204) return null;
    const isJson = reply.headers.get('content-type')?.includes('json');
    return isJson ? await reply.json() : await reply.text();
  } catch (error) {
    throw lost(error);
  }
}

export const get = (path) => call('GET', path);
export const segment = encodeURIComponent;

export function query(fields) {
  const given = Object.entries(fields).filter(([, value]) => value !== '' && value != null);
  return given.length ? `?${new URLSearchParams(/** @type {any} */ (given))}` : '';
}

/**
 * Hears a stream until it is closed. By `fetch`, not EventSource, which hides why it was refused.
 * @param {string} path @param {(event: string, data: any) => void} hear
 * @param {(state: {open: boolean, error?: Refused, wait?: number}) => void} tell @param {() => void} [any] each time something comes
 */
export function stream(path, hear, tell, any = () => {}) {
  let [last, tries, closed, wait] = ['', 0, false, 0];
  /** @type {any} */ let timer;
  /** @type {AbortController} */ let aborter;

  async function open() {
    clearTimeout(timer);
    const mine = (aborter = new AbortController());
    let error;
    wait = 0;
    try {
      const headers = { ...OURS, accept: 'text/event-stream', ...(last && { 'last-event-id': last }) };
      const reply = await fetch(at(path), { headers, signal: mine.signal, cache: 'no-store' });
      if (!reply.ok || !reply.body) throw await refusal(reply);
      tell({ open: true });
      await read(reply.body.getReader());
    } catch (failed) {
      error = lost(failed);
    }
    if (closed || mine !== aborter) return;
    // All pages of a gateway that restarts would otherwise come back at once.
    const longest = Math.min(30_000, 1000 * 2 ** tries++);
    wait ||= Math.max(500, Math.random() * longest);
    tell({ open: false, error, wait });
    if (error?.status === 401) return;
    timer = setTimeout(open, wait);
  }

  async function read(reader) {
    const decoder = new TextDecoder();
    let rest = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      any();
      const blocks = (rest + decoder.decode(value, { stream: true })).split('\n\n');
      rest = blocks.pop() || '';
      for (const block of blocks) heard(block);
    }
  }

  function heard(block) {
    let [name, data] = ['message', ''];
    for (const line of block.split('\n')) {
      const colon = line.indexOf(':');
      const value = line.slice(colon + 1).replace(/^ /, '');
      if (line.startsWith('event:')) name = value;
      else if (line.startsWith('data:')) data += value;
      else if (line.startsWith('id:')) last = value;
    }
    if (!data) return;
    tries = 0;
    const told = JSON.parse(data);
    if (name === 'bye') wait = (told.retry_ms || 1000) * (1 + Math.random());
    hear(name, told);
  }

  open();
  return {
    close() {
      closed = true;
      clearTimeout(timer);
      aborter.abort();
    },
    /** At once, whatever it waits for. */
    again() {
      if (closed) return;
      tries = 0;
      aborter.abort();
      open();
    },
  };
}
