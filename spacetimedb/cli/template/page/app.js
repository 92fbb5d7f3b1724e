// The guest book's page. connection.js speaks the protocol; for a bigger client take the npm package `spacetimedb` with
// `spacetime generate --lang typescript --out-dir bindings`.

import { Connection, Writer } from './connection.js';

const element = id => document.getElementById(id);
// `spacetime dev` tells where the database is. On your own web server, write this file yourself.
const { url, database } = await (await fetch('config.json')).json();

let connection = null; // it reports its status before it is there
connection = new Connection({
  url,
  database,
  storageKey: `token of ${database}`,
  tables: { // columns in the order of the module's classes
    message: {
      key: row => row.id,
      read: r => ({ id: r.u64(), author: r.identity(), name: r.string(), text: r.string(), writtenAt: r.u64() }),
    },
    guest: {
      key: row => row.connection,
      read: r => ({ connection: Array.from(r.take(16)).join(), identity: r.identity() }),
    },
  },
  queries: ['SELECT * FROM message', 'SELECT * FROM guest'],
  on: { status: showStatus, change: show, applied: show },
});

function showStatus(status) {
  const guests = connection?.rows.guest?.size ?? 0;
  element('status').textContent = status === 'online' ? `${guests} here` : status;
}

function show() {
  if (!connection?.rows.message) return;
  const messages = [...connection.rows.message.values()].sort((a, b) => (a.id < b.id ? 1 : -1));
  element('messages').replaceChildren(...messages.slice(0, 100).map(message => {
    const item = document.createElement('li');
    const name = document.createElement('b');
    name.textContent = message.name;
    item.append(name, message.text);
    return item;
  }));
  showStatus('online');
}

element('form').addEventListener('submit', async event => {
  event.preventDefault();
  element('error').textContent = '';
  try {
    await connection.call('write', new Writer().string(element('name').value).string(element('text').value));
    element('text').value = '';
  } catch (error) {
    element('error').textContent = error.message;
  }
});
