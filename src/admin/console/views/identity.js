// Who this gateway says it is, whom it believes, and for how long.

import { h } from '../render.js';
import { count } from '../format.js';
import { ago, coded, facts, finder, head, shown, stateTag, tag, time } from '../parts.js';
import { data, redraw } from '../store.js';
import { number, table, text } from '../table.js';

const left = (row) =>
  row.days_left == null
    ? '–'
    : row.days_left < 0
      ? tag('bad', 'over')
      : tag(row.days_left < 3 ? 'bad' : row.days_left < 14 ? 'warn' : 'good', `${count(row.days_left)} days`);
const days = { id: 'left', name: 'Left', num: true, cell: left, by: (row) => row.days_left };
const until = {
  id: 'until',
  name: 'Until',
  rank: 2,
  cell: (row) => time(row.not_after || row.next_update, true),
  by: (row) => row.not_after || row.next_update,
};
const names = (row) => (row.names || []).join(', ') || row.spiffe || '–';

const part = (id, title, rows, columns) =>
  rows.length > 0 &&
  h(
    'section.stack',
    { key: id },
    h('h2', title),
    table({ id, label: title, rows, columns, redraw, nameOf: (row) => Object.values(row).join(' ') }),
  );

export function identity(at) {
  const kept = data('/v1/certificates');
  return [
    head('Identity', 'Certificates and authorities, and the days they have left', finder(at, 'Filter certificates')),
    shown(kept, (all) => {
      const own = all.identity;
      const found = all.certificates.filter((row) =>
        `${row.where} ${row.subject} ${names(row)} ${row.issuer}`.toLowerCase().includes(at.q.toLowerCase()),
      );
      const nothing = !own && !all.certificates.length && !all.client_authorities.length;
      return [
        nothing &&
          h('p.empty', { key: 'none' }, coded('No certificate is in use: listeners speak in clear text, and there is no `identity`.')),
        own &&
          h(
            'section.card',
            { key: 'own' },
            h(
              'div.head',
              h('h2.break', own.spiffe || 'No identity yet'),
              stateTag(own.state === 'current' ? 'ready' : own.state),
            ),
            own.why && h('p.refused', own.why),
            facts(['Comes from', own.source], ['Last rotation', ago(own.last_rotation_at)]),
          ),
        part('certificates', 'Certificates', found, [
          text('where', 'Used by', (row) => `${row.where}${row.default ? ', default' : ''}`),
          text('names', 'Names', names),
          text('issuer', 'Issuer', (row) => row.issuer, { rank: 3 }),
          text('file', 'File', (row) => row.file || '–', { rank: 3 }),
          until,
          days,
        ]),
        part(
          'bundles',
          'Trust domains',
          all.bundles.flatMap((bundle) => bundle.authorities.map((one) => ({ ...one, where: bundle.trust_domain }))),
          [text('where', 'Trust domain', (row) => row.where), text('subject', 'Authority', (row) => row.subject), until, days],
        ),
        part('authorities', 'Authorities of clients', all.client_authorities, [
          text('where', 'Used by', (row) => row.where),
          text('subject', 'Authority', (row) => row.subject),
          until,
          days,
        ]),
        part('lists', 'Revocation lists', all.revocation_lists, [
          text('where', 'Used by', (row) => row.where),
          text('issuer', 'Issuer', (row) => row.issuer),
          number('revoked', 'Revoked', (row) => row.revoked, count),
          until,
          days,
        ]),
      ];
    }),
  ];
}
