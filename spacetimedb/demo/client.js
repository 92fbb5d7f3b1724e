// The game's page: shows the board, lets a person join and steer. Query: ?db=NAME, ?player=KEY for a second person in one browser.
import { Connection, Writer } from './connection.js';

const WORLD = 1000;
const STEER_EVERY_MS = 50;
const GLIDE_MS = 80; // positions come every 50 ms; gliding a little longer hides jitter
const LEADERS = 10;
const CHAT_LINES = 8;

const query = new URLSearchParams(location.search);
const database = query.get('db') ?? 'agar';
const player = query.get('player') ?? '';
const nameKey = `${database}:name:${player}`;
const $ = selector => document.querySelector(selector);
const board = $('#board'), paint = board.getContext('2d');
const map = $('#map'), mapPaint = map.getContext('2d');

const tables = {
  player: {
    key: row => row.identity,
    read: r => ({ identity: r.identity(), player_id: r.u32(), name: r.string(), connections: r.u32() }),
  },
  entity: { key: row => row.entity_id, read: r => ({ entity_id: r.u32(), x: r.f32(), y: r.f32(), mass: r.u32() }) },
  circle: { key: row => row.entity_id, read: r => ({ entity_id: r.u32(), player_id: r.u32(), dx: r.f32(), dy: r.f32() }) },
  chat: { event: true, key: () => null, read: r => ({ sender: r.identity(), name: r.string(), text: r.string() }) },
};

let wantsToPlay = false; // joined and not eaten since: after a reconnect we join again
let joining = false;
const names = new Map(); // player_id -> name
const pointer = { x: 0, y: 0 };
const camera = { x: WORLD / 2, y: WORLD / 2, height: WORLD * 1.08 };

const connection = new Connection({
  url: query.get('server') ?? location.origin,
  database,
  storageKey: `${database}:token:${player}`,
  tables,
  queries: ['SELECT * FROM player', 'SELECT * FROM entity', 'SELECT * FROM circle', 'SELECT * FROM chat'],
  on: { status: showStatus, change, applied },
});

function showStatus(status) {
  $('#status').className = `panel ${status}`;
  $('#status span').textContent = { online: `${database} · online`, connecting: 'connecting', offline: 'connection lost, trying again' }[status];
  $('#join button').disabled = status !== 'online';
}

function applied() {
  if (wantsToPlay && !myCircles().length) join(localStorage.getItem(nameKey) ?? 'back');
}

function change(table, row, old) {
  if (table === 'entity' && row) { // remember where it is drawn now: it glides from there
    const from = old ? drawnAt(old, performance.now()) : row;
    Object.assign(row, { fromX: from.x, fromY: from.y, since: performance.now() });
  } else if (table === 'player') {
    if (row) names.set(row.player_id, row.name);
    else names.delete(old.player_id);
  } else if (table === 'chat' && row) {
    addChat(row);
  } else if (table === 'circle' && !row && wantsToPlay && !joining && old.player_id === me()?.player_id && !myCircles().length) {
    wantsToPlay = false;
    $('#reason').textContent = 'You were eaten. Once more?';
    showPlaying();
  }
}

const me = () => connection.rows.player?.get(connection.identity);
function myCircles() {
  const id = me()?.player_id;
  return [...(connection.rows.circle?.values() ?? [])].filter(circle => circle.player_id === id);
}

function drawnAt(entity, now) {
  const share = Math.min(1, (now - entity.since) / GLIDE_MS);
  return { x: entity.fromX + (entity.x - entity.fromX) * share, y: entity.fromY + (entity.y - entity.fromY) * share };
}

async function join(name) {
  joining = true;
  try {
    await connection.call('enter_game', new Writer().string(name));
    localStorage.setItem(nameKey, name);
    wantsToPlay = true;
  } catch (error) {
    $('#reason').textContent = error.message;
  }
  joining = false;
  showPlaying();
}

function showPlaying() {
  document.body.classList.toggle('playing', wantsToPlay);
  if (!wantsToPlay) $('#name').focus();
  else document.activeElement?.blur();
}

function addChat({ name, text, sender }) {
  const line = document.createElement('li'), who = document.createElement('b');
  who.textContent = name;
  who.style.color = colour(connection.rows.player.get(sender)?.player_id ?? 0, 72);
  line.append(who, text);
  $('#chat').append(line);
  while ($('#chat').children.length > CHAT_LINES) $('#chat').firstChild.remove();
}

// -- steering ----------------------------------------------------------------------------------------------------------

let steered = '';
setInterval(() => {
  if (!wantsToPlay || !myCircles().length) return;
  const reach = Math.min(innerWidth, innerHeight) / 4;
  let dx = (pointer.x - innerWidth / 2) / reach, dy = (pointer.y - innerHeight / 2) / reach;
  const length = Math.hypot(dx, dy);
  if (length > 1) { dx /= length; dy /= length; }
  const now = `${dx.toFixed(2)} ${dy.toFixed(2)}`;
  if (now === steered) return;
  steered = now;
  connection.call('steer', new Writer().f32(dx).f32(dy)).catch(() => { steered = ''; });
}, STEER_EVERY_MS);

addEventListener('pointermove', event => { pointer.x = event.clientX; pointer.y = event.clientY; });
addEventListener('pointerdown', event => { pointer.x = event.clientX; pointer.y = event.clientY; });
addEventListener('keydown', event => { if (event.key === 'Enter' && wantsToPlay) $('#say input').focus(); });
$('#join').addEventListener('submit', event => { event.preventDefault(); join($('#name').value.trim()); });
$('#say').addEventListener('submit', event => {
  event.preventDefault();
  const input = $('#say input'), said = input.value.trim();
  if (said) connection.call('say', new Writer().string(said)).catch(error => console.warn(error.message));
  input.value = '';
  input.blur();
});
$('#name').value = localStorage.getItem(nameKey) ?? '';

// -- drawing -----------------------------------------------------------------------------------------------------------

const colour = (id, light = 60) => `hsl(${(id * 137.5) % 360} 78% ${light}%)`;
const radius = mass => Math.sqrt(mass);

function follow(now) {
  const mine = myCircles().map(circle => connection.rows.entity.get(circle.entity_id)).filter(Boolean);
  let goal = { x: WORLD / 2, y: WORLD / 2, height: WORLD * 1.08 };
  if (mine.length && wantsToPlay) {
    const mass = mine.reduce((sum, entity) => sum + entity.mass, 0);
    const at = mine.map(entity => drawnAt(entity, now));
    const mean = axis => at.reduce((sum, point) => sum + point[axis], 0) / at.length;
    goal = { x: mean('x'), y: mean('y'), height: 150 + 14 * radius(mass) };
  }
  const ease = wantsToPlay ? 0.12 : 0.05;
  for (const axis of ['x', 'y', 'height']) camera[axis] += (goal[axis] - camera[axis]) * ease;
}

function draw(now) {
  follow(now);
  const density = devicePixelRatio || 1, width = innerWidth, height = innerHeight;
  if (board.width !== width * density || board.height !== height * density) {
    board.width = width * density;
    board.height = height * density;
  }
  const scale = Math.min(width, height) / camera.height;
  paint.setTransform(density, 0, 0, density, 0, 0);
  paint.fillStyle = '#0a0f1e';
  paint.fillRect(0, 0, width, height);
  paint.translate(width / 2 - camera.x * scale, height / 2 - camera.y * scale);
  paint.scale(scale, scale);
  drawField(scale);
  const { entity = new Map(), circle = new Map() } = connection.rows;
  const inView = (at, r) =>
    Math.abs(at.x - camera.x) < r + width / scale / 2 && Math.abs(at.y - camera.y) < r + height / scale / 2;
  const players = [];
  for (const row of entity.values()) {
    const owner = circle.get(row.entity_id), at = drawnAt(row, now), r = radius(row.mass);
    if (!inView(at, r)) continue;
    if (owner) { players.push({ row, owner, at, r }); continue; }
    paint.fillStyle = colour(row.entity_id, 66);
    paint.beginPath();
    paint.arc(at.x, at.y, r * 0.75, 0, 7);
    paint.fill();
  }
  players.sort((a, b) => a.row.mass - b.row.mass);
  for (const one of players) drawPlayer(one, scale);
  requestAnimationFrame(draw);
}

function drawField(scale) {
  paint.fillStyle = '#101830';
  paint.fillRect(0, 0, WORLD, WORLD);
  paint.strokeStyle = 'rgb(130 150 220 / 9%)';
  paint.lineWidth = 1 / scale;
  paint.beginPath();
  for (let line = 0; line <= WORLD; line += 50) {
    paint.moveTo(line, 0); paint.lineTo(line, WORLD);
    paint.moveTo(0, line); paint.lineTo(WORLD, line);
  }
  paint.stroke();
  paint.strokeStyle = 'rgb(92 225 196 / 55%)';
  paint.lineWidth = 2 / scale;
  paint.strokeRect(0, 0, WORLD, WORLD);
}

function drawPlayer({ row, owner, at, r }, scale) {
  const mine = owner.player_id === me()?.player_id, id = owner.player_id;
  const shade = paint.createRadialGradient(at.x - r / 3, at.y - r / 3, r / 8, at.x, at.y, r);
  shade.addColorStop(0, colour(id, 74));
  shade.addColorStop(1, colour(id, 48));
  paint.fillStyle = shade;
  paint.strokeStyle = mine ? '#ffffff' : colour(id, 36);
  paint.lineWidth = Math.max(r / 9, 1 / scale);
  paint.beginPath();
  paint.arc(at.x, at.y, r, 0, 7);
  paint.fill();
  paint.stroke();
  const size = Math.max(r * 0.5, 11 / scale);
  paint.font = `600 ${size}px system-ui, "DejaVu Sans", sans-serif`;
  paint.textAlign = 'center';
  paint.lineWidth = size / 6;
  paint.strokeStyle = 'rgb(6 10 22 / 80%)';
  paint.fillStyle = '#ffffff';
  const label = names.get(id) ?? '', below = r * scale > 24 ? size * 0.35 : r + size * 1.15;
  paint.strokeText(label, at.x, at.y + below);
  paint.fillText(label, at.x, at.y + below);
}

setInterval(() => { // leaderboard and map: a few times a second is enough
  const { entity = new Map(), circle = new Map() } = connection.rows, sums = new Map();
  for (const row of circle.values()) {
    sums.set(row.player_id, (sums.get(row.player_id) ?? 0) + (entity.get(row.entity_id)?.mass ?? 0));
  }
  const leaders = [...sums].sort((a, b) => b[1] - a[1]).slice(0, LEADERS);
  $('#leaderboard ol').replaceChildren(...leaders.map(([id, mass]) => {
    const line = document.createElement('li'), name = document.createElement('b'), score = document.createElement('span');
    name.textContent = names.get(id) || 'someone';
    score.textContent = mass;
    line.className = id === me()?.player_id ? 'me' : '';
    line.append(name, score);
    return line;
  }));
  const side = map.width / WORLD;
  mapPaint.clearRect(0, 0, map.width, map.height);
  for (const row of circle.values()) {
    const at = entity.get(row.entity_id);
    if (!at) continue;
    mapPaint.fillStyle = row.player_id === me()?.player_id ? '#ffffff' : colour(row.player_id);
    mapPaint.beginPath();
    mapPaint.arc(at.x * side, at.y * side, Math.max(1.8, radius(at.mass) * side), 0, 7);
    mapPaint.fill();
  }
}, 200);

requestAnimationFrame(draw);
globalThis.game = { connection, me, myCircles, join, pointer }; // for the console, and for the tests
