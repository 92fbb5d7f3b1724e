// Who is connected: the rows of st_client. They are asked for, as not every change of them is announced.

import { copy, empty, failure, fill, grouped, h } from '../dom.js';
import { Live } from '../live.js';
import { stringify } from '../json.js';
import { text } from '../values.js';

// In the system's tables identities are bare numbers.
const ROW = { kind: 'product', fields: [{ name: 'identity', type: { kind: 'u256' } }, { name: 'connection_id', type: { kind: 'u128' } }] };

const EVERY_MS = 1000;

export function show(body, context) {
  const rows = new Map(), since = new Map();
  const mark = h('span.live-state', {}, 'connecting'), place = h('div');
  fill(context.tools, mark);
  fill(body, place);
  let isFirst = true;

  const draw = () => {
    const people = new Map();
    for (const [key, row] of rows) {
      const identity = BigInt(row[0]).toString(16).padStart(64, '0');
      if (!people.has(identity)) people.set(identity, []);
      people.get(identity).push({ key, connection: text({ kind: 'connection' }, [row[1]]) });
    }
    if (!rows.size) {
      fill(place, h('div.card', {}, empty('Nobody is connected', 'Clients appear here the moment they connect.')));
      return;
    }
    const identityOf = identity => h('button.quiet', { title: `${identity}: copy`, onclick: () => copy(identity) }, h('code', {}, `${identity.slice(0, 24)}…`));
    fill(place, h('div.stack', {}, h('div.figures', {},
      h('div', {}, h('div.label', {}, 'Connections'), h('div.number', {}, grouped(rows.size))),
      h('div', {}, h('div.label', {}, 'Identities'), h('div.number', {}, grouped(people.size)))),
    h('div.scroll', {}, h('table', {},
      h('thead', {}, h('tr', {}, h('th', {}, 'Identity'), h('th', {}, 'Connection'), h('th', {}, 'Seen here since'))),
      h('tbody', {}, [...people].flatMap(([identity, connections]) => connections.map(({ key, connection }, at) =>
        h('tr', { class: Date.now() - (since.get(key) ?? 0) < 1500 ? 'fresh' : '' },
          h('td', {}, at ? '' : identityOf(identity), identity === context.database.owner && !at && h('span.badge.accent', {}, 'owner')),
          h('td', {}, connection),
          h('td', {}, since.has(key) ? new Date(since.get(key)).toLocaleTimeString('en-GB') : 'before this page')))))))));
  };
  const live = new Live(context.database.identity, 'SELECT * FROM st_client', ROW, {
    status(now) { mark.textContent = now; mark.className = `live-state ${now}`; },
    applied(all) {
      const now = new Map(all.map(row => [stringify(row), row]));
      if (!isFirst && now.size === rows.size && [...now.keys()].every(key => rows.has(key))) return; // keeps the focus
      if (!isFirst) for (const key of now.keys()) if (!rows.has(key)) since.set(key, Date.now());
      rows.clear();
      for (const [key, row] of now) rows.set(key, row);
      isFirst = false;
      draw();
    },
    changed() {},
    refused(why) { fill(place, failure(new Error(why))); },
  }, EVERY_MS);
  return () => live.close();
}
