// What is in force and where it is written, what was refused and where; and two questions that change nothing: would this be
// taken, and who would answer that?

import { h } from '../render.js';
import { count, plural } from '../format.js';
import { ask, coded, facts, finder, head, lines, order, post, shown, stateTag, tabs, tag, time } from '../parts.js';
import { call } from '../api.js';
import { data, redraw, state } from '../store.js';
import { link } from '../place.js';

/** @type {any} */ const check = { text: '', answer: null, error: null, busy: false };
/** @type {any} */ const tried = { headers: '', answer: null, error: null };

export function config(at) {
  const places = data('/v1/config/places');
  const rejected = places.value?.rejected;
  const tab = at.tab || (rejected ? 'problems' : 'force');
  const all = [
    ['force', 'In force'],
    ['problems', rejected ? `Problems (${rejected.problems.length})` : 'Problems'],
    ['check', 'Check'],
    ['try', 'Try it'],
  ];
  const body = { force, problems, check: checking, try: trying }[tab] || force;
  return [
    head(
      'Config',
      `What is in force, secrets hidden. From ${(places.value?.files || []).join(', ') || 'its file'}`,
      order('Reload…', reloading),
    ),
    tabs('Config', tab, all, (id) => at.set({ tab: id })),
    h('div', { key: tab, role: 'tabpanel', class: 'stack', 'aria-labelledby': `tab-${tab}` }, body(at, places)),
  ];
}

const reloading = () =>
  ask({
    title: 'Reload',
    action: 'Reload',
    give: () => post('/v1/reload', state.overview.config_hash),
    body: () => h('p', 'The files are read again. All of it is taken or nothing; requests under way end as they began.'),
  });

/* In force. */

let made = { yaml: '', places: null, lines: /** @type {any[]} */ ([]) };

/** Each line, and beside the first of an object where the file has it. */
function numbered(yaml, places) {
  if (made.yaml === yaml && made.places === places) return made.lines;
  const all = yaml.split('\n').map((text, at) => ({ text, n: at + 1 }));
  let [kind, item] = ['', -1];
  all.forEach((line, at) => {
    const top = /^(\w+):/.exec(line.text);
    if (top) kind = top[1];
    else if (/^- /.test(line.text)) item = at;
    const list = /^(?:- |  )name: (.*)$/.exec(line.text);
    const key = /^  (\S.*?):(?: |$)/.exec(line.text);
    const name = kind === 'routes' || kind === 'listeners' ? list?.[1] : key?.[1];
    const found = name && places?.[`${kind}/${name.replace(/^(['"])(.*)\1$/, '$2')}`];
    if (found) all[list ? item : at].place = found;
  });
  made = { yaml, places, lines: all };
  return all;
}

function force(at, places) {
  return shown(data('/v1/config?format=yaml'), (yaml) => {
    const all = numbered(yaml, places.value?.places);
    const q = at.q.toLowerCase();
    const hits = q ? all.filter((line) => line.text.toLowerCase().includes(q)) : [];
    const chosen = hits.length ? hits[(+at.row || 0) % hits.length] : null;
    const next = (event) => {
      if (event.key === 'Enter' && hits.length)
        at.set({ row: String(((+at.row || 0) + (event.shiftKey ? hits.length - 1 : 1)) % hits.length) });
    };
    return [
      h(
        'div.tools',
        { onkeydown: next },
        finder(at, 'Find; Enter goes to the next'),
        h(
          'span.soft.num',
          q
            ? `${chosen ? `${((+at.row || 0) % hits.length) + 1} of ` : ''}${plural(hits.length, 'line')}`
            : plural(all.length, 'line'),
        ),
      ),
      lines(
        'yaml',
        'The configuration in force',
        chosen ? all.map((line) => (line === chosen ? { ...line, hit: true } : line)) : all,
        chosen ? chosen.n - 1 : undefined,
      ),
    ];
  });
}

/* Problems. */

const problemList = (problems) =>
  h(
    'ul.list.card',
    problems.map((one, at) =>
      h(
        'li',
        { key: at },
        tag('bad', one.line ? `line ${one.line}${one.column ? `:${one.column}` : ''}` : 'problem'),
        h('span.break', one.message, one.file && one.file !== 'given' && h('span.soft.mono', ` ${one.file}`)),
      ),
    ),
  );

const problems = (_, places) =>
  shown(places, ({ rejected }) =>
    rejected
      ? [
          h(
            'p',
            'The last reload was ',
            stateTag('rejected'),
            ' ',
            time(rejected.at),
            '. What was in force still is. Mend these, then reload.',
          ),
          problemList(rejected.problems),
        ]
      : h('p.empty', 'The last configuration was taken whole: there are no problems.'),
  );

/* Check. */

function checking() {
  const { answer } = check;
  const go = async (event) => {
    event.preventDefault();
    check.busy = true;
    redraw();
    try {
      Object.assign(check, { answer: await call('POST', '/v1/check', { text: check.text }), checked: check.text, error: null });
    } catch (error) {
      Object.assign(check, { answer: null, error });
    }
    check.busy = false;
    redraw();
  };
  return [
    h(
      'form.stack',
      { onsubmit: go },
      h(
        'label',
        h('span', 'A whole configuration, in YAML or JSON. It is compiled and thrown away: no file is read, nothing is changed'),
        h('textarea', {
          spellcheck: 'false',
          value: '',
          oninput: (event) => (check.text = event.target.value),
          made: (el) => (el.value = check.text),
        }),
      ),
      h('div.orders', h('button.main', { disabled: check.busy }, 'Check')),
    ),
    check.error && h('p.refused', { role: 'alert' }, check.error.message),
    answer &&
      h(
        'div.stack',
        { role: 'status' },
        answer.valid
          ? h('p', tag('good', 'It would be taken'), answer.changes ? `: ${answer.changes}` : '')
          : h('p', tag('bad', plural(answer.problems.length, 'problem'))),
        (answer.warnings || []).map((warning, at) =>
          h('p', { key: at }, tag('warn', typeof warning === 'string' ? warning : warning.text)),
        ),
        !answer.valid && lines('checked', 'What was checked, with its problems', marked(check.checked, answer.problems)),
      ),
  ];
}

/** The text, and below each line its problems. */
function marked(text, problems) {
  const at = (n) =>
    problems
      .filter((one) => (one.line || 0) === n)
      .map((one) => ({
        text: `${' '.repeat(Math.max(0, (one.column || 1) - 1))}${one.column ? '^ ' : ''}${one.message}`,
        tone: 'problem',
      }));
  const all = text
    .split('\n')
    .flatMap((line, index) => [
      { text: line, n: index + 1, hit: problems.some((one) => one.line === index + 1) },
      ...at(index + 1),
    ]);
  return [...at(0), ...all];
}

/* Try it. */

function trying(at) {
  const [method, url] = [at.params.get('method') || 'GET', at.params.get('url') || ''];
  const go = async (event) => {
    event.preventDefault();
    const headers = tried.headers
      .split('\n')
      .filter((line) => line.includes(':'))
      .map((line) => [line.slice(0, line.indexOf(':')).trim(), line.slice(line.indexOf(':') + 1).trim()]);
    try {
      Object.assign(tried, { answer: await call('POST', '/v1/explain', { body: { method, url, headers } }), error: null });
    } catch (error) {
      Object.assign(tried, { answer: null, error });
    }
    redraw();
  };
  const { answer } = tried;
  return [
    h(
      'form.card',
      { onsubmit: go },
      h(
        'div.fields',
        h(
          'label',
          h('span', 'Method'),
          h('input', {
            value: method,
            list: 'methods',
            autocomplete: 'off',
            required: true,
            oninput: (event) => at.set({ method: event.target.value.toUpperCase() }),
          }),
        ),
        h(
          'label',
          h('span', 'URL or path'),
          h('input', {
            value: url,
            placeholder: 'http://api.example.com/users?page=2',
            autocomplete: 'off',
            spellcheck: 'false',
            required: true,
            oninput: (event) => at.set({ url: event.target.value }),
          }),
        ),
      ),
      h(
        'label',
        h('span', coded('Header fields, one a line, as `name: value`')),
        h('textarea.few', {
          rows: 3,
          spellcheck: 'false',
          made: (el) => (el.value = tried.headers),
          oninput: (event) => (tried.headers = event.target.value),
        }),
      ),
      h('div.orders', h('button.main', 'Explain'), h('span.soft', 'Nothing is sent: the table of routes is asked.')),
      h(
        'datalist',
        { id: 'methods' },
        ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'].map((name) => h('option', { key: name, value: name })),
      ),
    ),
    tried.error && h('p.refused', { role: 'alert' }, tried.error.message),
    answer &&
      h(
        'div.stack',
        { role: 'status' },
        answer.refused && h('p.refused', `Refused before any route: ${refusedText(answer.refused)}`),
        (answer.normalised || answer.removed_headers.length > 0) &&
          h(
            'p.soft.break',
            answer.normalised ? `Looked up as ${answer.path}. ` : '',
            answer.removed_headers.length
              ? `Taken off, since the client is not trusted: ${answer.removed_headers.join(', ')}`
              : '',
          ),
        answer.listeners.map(won),
      ),
  ];
}

const refusedText = ({ status, reason, detail, allow }) =>
  `${status} ${reason}${detail ? `, ${detail}` : ''}${allow?.length ? ` (allowed: ${allow.join(', ')})` : ''}`;

const won = (on) =>
  h(
    'section.card',
    { key: on.name, 'aria-label': `On ${on.name}` },
    h('div.head', h('h2.break', `On ${on.name}`), h('span.mono.soft', on.address)),
    on.route
      ? facts(
          ['Route', h('a', { href: link('routes', { row: on.route.name }) }, on.route.name)],
          ['Then', on.route.target],
          ['Filters', on.filters.length ? on.filters.join(' → ') : 'none'],
          ['Written', h('span.mono', on.route.place)],
        )
      : on.refused && h('p', tag('bad', refusedText(on.refused))),
    on.close.length > 0 && [
      h('h3', `Near misses (${count(on.close.length)})`),
      h(
        'ul.list',
        on.close.map((near) =>
          h(
            'li',
            { key: near.route },
            h('a', { href: link('routes', { row: near.route }) }, near.route),
            h('span.break', near.why),
          ),
        ),
      ),
    ],
  );
