// The frame around the pages: access, navigation, theme. An address is #/PAGE or #/db/DATABASE/PAGE/...

import { overview, ownToken, Refused, schemaOf, setOwnToken } from './api.js';
import { add, empty, failure, fill, h } from './dom.js';
import { icon } from './icons.js';
import { readSchema } from './schema.js';

const SERVER_PAGES = [['overview', 'Overview'], ['loadtest', 'Load test']];
const DATABASE_PAGES = [
  ['tables', 'Tables'], ['sql', 'SQL'], ['reducers', 'Reducers'], ['logs', 'Logs'], ['clients', 'Clients'],
  ['subscriptions', 'Subscriptions'], ['schedules', 'Schedules'], ['schema', 'Schema'],
];
const LOADERS = {
  overview: () => import('./pages/overview.js'),
  loadtest: () => import('./pages/loadtest.js'),
  tables: () => import('./pages/tables.js'),
  sql: () => import('./pages/sql.js'),
  reducers: () => import('./pages/reducers.js'),
  logs: () => import('./pages/logs.js'),
  clients: () => import('./pages/clients.js'),
  subscriptions: () => import('./pages/subscriptions.js'),
  schedules: () => import('./pages/schedules.js'),
  schema: () => import('./pages/schema.js'),
};
const DIRECTORY_MS = 5000;

const app = document.getElementById('app');
const main = h('main', { id: 'main', tabindex: '-1' });
const nav = h('nav', { 'aria-label': 'Pages' });
const menu = h('button.quiet', { 'aria-label': 'Menu', 'aria-expanded': 'false', onclick: () => toggleMenu() }, icon('menu'));
const state = { server: null, leave: null, shown: 0 };

export const nameOf = database => database.names[0] ?? `${database.identity.slice(0, 12)}…`;

/** Address of a page of a database. */
export const addressOf = (database, ...rest) =>
  `#/db/${encodeURIComponent(database.names[0] ?? database.identity)}/${rest.map(encodeURIComponent).join('/')}`;

function route() {
  const parts = location.hash.replace(/^#\/?/, '').split('/').map(decodeURIComponent);
  if (parts[0] === 'db') return { database: parts[1], page: parts[2] || 'tables', rest: parts.slice(3) };
  return { database: null, page: parts[0] || 'overview', rest: parts.slice(1) };
}

function find(key) {
  return state.server.databases.find(item => item.names.includes(key) || item.identity === key) ?? null;
}

function link(page, text, address, current) {
  return h('a', { href: address, 'aria-current': current ? 'page' : null }, icon(page), h('span', {}, text));
}

function drawNavigation() {
  const { database: key, page } = route(), { databases, access } = state.server;
  const database = (key && find(key)) ?? find(localStorage.getItem('dashboard.database') ?? '') ?? databases[0];
  const chooser = databases.length && h('select', {
    'aria-label': 'Database',
    onchange: event => { location.hash = addressOf(databases[event.target.selectedIndex], key ? page : 'tables'); },
  }, databases.map(item => h('option', { selected: item === database }, nameOf(item))));
  const had = nav.contains(document.activeElement);
  fill(nav,
    h('a.brand', { href: '#/' }, h('img', { src: 'icon.svg', width: 22, height: 22, alt: '' }), 'SpacetimeDB'),
    h('div.group', {}, SERVER_PAGES.map(([id, text]) => link(id, text, id === 'overview' ? '#/' : `#/${id}`, !key && page === id))),
    h('h2', {}, 'Database'),
    chooser ? h('div.chooser', {}, chooser) : h('p.hint', {}, 'None is published yet.'),
    database && h('div.group', {}, DATABASE_PAGES.map(([id, text]) =>
      link(id, text, addressOf(database, id), key && page === id && database === find(key)))),
    h('div.foot', {},
      h('span.access', { title: access === 'local' ? 'You act as the owner of every database: this page is open to this machine.' : 'You see the databases of your token.' },
        access === 'local' ? 'This machine' : 'With a token'),
      access === 'token' && h('button.quiet', { onclick: () => { setOwnToken(null); start(); } }, 'Forget token'),
      access === 'local' && ownToken() === null && h('button.quiet', { title: 'Use a token', 'aria-label': 'Use a token', onclick: () => drawLogin('') }, icon('key')),
      h('button.quiet', { title: 'Light or dark', 'aria-label': 'Light or dark', onclick: toggleTheme }, icon('theme'))));
  if (had) nav.querySelector('[aria-current]')?.focus();
}

/** The navigation of a narrow window. */
function toggleMenu(open = !app.classList.contains('open')) {
  app.classList.toggle('open', open);
  menu.setAttribute('aria-expanded', open);
}

function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
  localStorage.setItem('dashboard.theme', root.dataset.theme);
}

async function show() {
  const shown = ++state.shown;
  state.leave?.();
  state.leave = null;
  toggleMenu(false);
  const { database: key, page, rest } = route();
  const database = key ? find(key) : null;
  drawNavigation();
  if (!LOADERS[page] || (key && !database)) {
    document.title = 'SpacetimeDB';
    fill(main, h('header.page', {}, h('h1', {}, 'Not found')), h('div.body', {}, h('div.card', {},
      key && !database ? empty(`No database “${key}” here`, 'It was deleted, or it is somebody else’s.')
        : empty('There is no such page'))));
    return;
  }
  if (database) localStorage.setItem('dashboard.database', database.names[0] ?? database.identity);
  const title = [...SERVER_PAGES, ...DATABASE_PAGES].find(([id]) => id === page)[1];
  document.title = `${title} · ${database ? nameOf(database) : 'SpacetimeDB'}`;
  const body = h('div.body'), tools = h('div.tools');
  const context = { database, rest, tools, server: state.server, addressOf, nameOf, title: document.title };
  try {
    const [module, raw] = await Promise.all([LOADERS[page](), database ? schemaOf(database.identity) : null]);
    if (shown !== state.shown) return;
    context.schema = raw && readSchema(raw);
    fill(main, h('header.page', {},
      h('h1', {}, database && h('span.of', {}, nameOf(database)), title), tools), body);
    main.className = `page-${page}`;
    state.leave = module.show(body, context) ?? null;
  } catch (error) {
    if (shown !== state.shown) return;
    fill(main, h('header.page', {}, h('h1', {}, title)), failure(error, show));
    if (error instanceof Refused && error.status === 401) start();
  }
}

function drawLogin(why) {
  state.leave?.();
  state.leave = null;
  const input = h('input.mono', { type: 'password', autocomplete: 'off', 'aria-label': 'Token', placeholder: 'eyJ…' });
  const message = h('p.message', { role: 'alert' }, why);
  const submit = async event => {
    event.preventDefault();
    setOwnToken(input.value);
    await start();
  };
  fill(app, h('form.login', { onsubmit: submit },
    h('img', { src: 'icon.svg', width: 40, height: 40, alt: '' }), h('h1', {}, 'SpacetimeDB'),
    h('p', {}, 'Paste the token of the identity that owns your databases.'),
    h('label', {}, h('span', {}, 'Token'), input), message,
    h('button.primary', {}, 'Open the dashboard'),
    state.server?.access === 'local' && h('button.quiet', { type: 'button', onclick: start }, 'Back'),
    h('p.hint', {}, 'Its owner gets it with ', h('code', {}, 'spacetime login show --token'), '. It stays in this tab.')));
  input.focus();
}

async function refresh() {
  if (document.hidden || !state.server) return;
  try {
    const server = await overview();
    const before = JSON.stringify(state.server.databases);
    state.server = server;
    if (JSON.stringify(server.databases) !== before) route().database || before === '[]' ? show() : drawNavigation();
  } catch {
    // Pages say themselves what they cannot reach.
  }
}

async function start() {
  try {
    state.server = await overview();
  } catch (error) {
    if (error instanceof Refused && [400, 401, 403].includes(error.status)) {
      const had = ownToken() !== null;
      setOwnToken(null);
      drawLogin(had ? error.message : '');
    } else {
      fill(app, h('div.login', {}, failure(error, start)));
    }
    return;
  }
  fill(app);
  add(app, [h('div.top', {}, menu, h('span', {}, 'SpacetimeDB')), nav, h('div.shade', { onclick: () => toggleMenu(false) }), main]);
  await show();
}

addEventListener('hashchange', show);
addEventListener('keydown', event => { if (event.key === 'Escape') toggleMenu(false); });
document.querySelector('.skip').addEventListener('click', event => { event.preventDefault(); main.focus(); });
setInterval(refresh, DIRECTORY_MS);
start();
