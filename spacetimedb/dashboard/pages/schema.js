// The schema as a drawing: tables with their keys, what leads from one to another, and who is called by what.
//
// There are no foreign keys in a schema. A column leads to a table if it has the name and type of its key or of a
// unique column that counts itself up (entity_id), or that is called id and the column is the table's name with _id.

import { empty, fill, h, svg } from '../dom.js';
import { stringify } from '../json.js';
import { typeText } from '../schema.js';

const WIDTH = 230, GAP_X = 70, GAP_Y = 26, LINE = 20, HEAD = 30, EDGE = 24;
const BEND = 34; // of a line between boxes that stand above each other: its curve reaches three quarters as far

export function show(body, context) {
  const { schema, database } = context, boxes = [...schema.tables, ...schema.views];
  if (!boxes.length && !schema.reducers.length) {
    fill(body, h('div.card', {}, empty('The schema is empty')));
    return null;
  }
  const place = h('div.diagram');
  fill(body, h('div.stack', {}, place, h('p.hint', {},
    'K key, U unique, I index. Lines lead from a column to the table whose key it holds, told by name and type.')));
  const draw = () => fill(place, drawing(schema, boxes, place.clientWidth, name => context.addressOf(database, 'tables', name),
    name => context.addressOf(database, 'reducers', name)));
  let waiting = null;
  const observer = new ResizeObserver(() => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(draw); });
  observer.observe(body);
  return () => { observer.disconnect(); cancelAnimationFrame(waiting); };
}

/** [{from, at, to, toAt}]: columns that hold another table's key, or another unique number of it. */
export function references(boxes) {
  const targets = boxes.filter(box => !box.isView).flatMap(table => table.columns.map((column, at) => ({ table, column, at })))
    .filter(({ table, at }) => at === table.key || (table.autoInc.includes(at) && table.unique.some(columns => columns.length === 1 && columns[0] === at)));
  const weight = ({ table, column, at }, name) =>
    4 * (name === `${table.name}_id`) + 2 * table.autoInc.includes(at) + (at === table.key && column.name !== 'id');
  const out = [];
  for (const from of boxes) {
    from.columns.forEach((column, at) => {
      const fits = targets.filter(target => stringify(target.column.type) === stringify(column.type)
        && (target.column.name === column.name || (target.column.name === 'id' && column.name === `${target.table.name}_id`)));
      const own = fits.find(target => target.table === from), others = fits.filter(target => target !== own);
      if (!others.length || column.name === 'id') return;
      const best = others.reduce((a, b) => (weight(b, column.name) > weight(a, column.name) ? b : a));
      // Of tables that share a key, the one it is named after or counted up in is the first.
      if (!own || weight(own, column.name) < weight(best, column.name)) out.push({ from, at, to: best.table, toAt: best.at });
    });
  }
  return out;
}

const heightOf = table => HEAD + (table.columns.length + (table.schedule ? 1 : 0)) * LINE + 8;

/** Places boxes in columns, what is connected side by side: tables that are led to stand left of those that lead. */
function layout(boxes, edges, width) {
  const count = Math.max(1, Math.floor((width - 2 * EDGE + GAP_X) / (WIDTH + GAP_X)));
  const depth = new Map(boxes.map(box => [box, 0]));
  for (let round = 0; round < count - 1; round++) {
    for (const { from, to } of edges) if (depth.get(from) <= depth.get(to)) depth.set(from, Math.min(count - 1, depth.get(to) + 1));
  }
  const touched = new Set(edges.flatMap(({ from, to }) => [from, to]));
  const heights = Array.from({ length: count }, () => EDGE), places = new Map();
  const put = (box, column) => {
    places.set(box, { x: EDGE + column * (WIDTH + GAP_X), y: heights[column], height: heightOf(box) });
    heights[column] += heightOf(box) + GAP_Y;
  };
  for (const box of boxes.filter(item => touched.has(item))) put(box, depth.get(box));
  for (const box of boxes.filter(item => !touched.has(item))) put(box, heights.indexOf(Math.min(...heights)));
  return { places, height: Math.max(...heights), width: EDGE + count * WIDTH + (count - 1) * GAP_X + Math.max(EDGE, BEND) };
}

function drawing(schema, boxes, width, tableAddress, reducerAddress) {
  const edges = references(boxes), { places, height, width: wide } = layout(boxes, edges, width);
  const callable = [...schema.reducers.map(item => ({ ...item, group: item.lifecycle ? 'lifecycle' : 'reducer' })), ...schema.procedures.map(item => ({ ...item, group: 'procedure' }))];
  const perRow = Math.max(1, Math.floor((wide - 2 * EDGE + 12) / (WIDTH + 12))), pills = new Map();
  const top = height + 20;
  callable.forEach((item, at) => pills.set(item.name, { x: EDGE + (at % perRow) * (WIDTH + 12), y: top + 16 + Math.floor(at / perRow) * 38 }));
  const full = callable.length ? top + 16 + Math.ceil(callable.length / perRow) * 38 + EDGE - 8 : height;
  const picture = svg('svg', { width: wide, height: full, viewBox: `0 0 ${wide} ${full}`, role: 'img', 'aria-label': 'Schema' });
  picture.append(svg('defs', {}, svg('marker', { id: 'end', viewBox: '0 0 8 8', refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: 'auto' },
    svg('path', { d: 'M0 1 7 4 0 7', fill: 'none', stroke: 'var(--c1)', 'stroke-width': 1.5 }))));
  for (const { from, at, to, toAt } of edges) {
    const a = places.get(from), b = places.get(to);
    const y1 = a.y + HEAD + at * LINE + 14, y2 = b.y + HEAD + toAt * LINE + 14;
    const goesLeft = a.x > b.x, x1 = goesLeft ? a.x : a.x + WIDTH, x2 = a.x === b.x || goesLeft ? b.x + WIDTH : b.x;
    const bend = a.x === b.x ? BEND : GAP_X * 0.55;
    const c1 = goesLeft ? x1 - bend : x1 + bend, c2 = x2 === b.x ? x2 - bend : x2 + bend;
    picture.append(svg('path', { class: 'edge', d: `M${x1} ${y1} C${c1} ${y1} ${c2} ${y2} ${x2} ${y2}`, 'marker-end': 'url(#end)' }));
  }
  for (const box of boxes) picture.append(drawBox(box, places.get(box), tableAddress(box.name)));
  if (callable.length) picture.append(svg('text', { x: EDGE, y: top, class: 'group' }, 'Reducers and procedures'));
  for (const item of callable) {
    const { x, y } = pills.get(item.name);
    const text = item.params.map(param => param.name).join(', ');
    picture.append(svg('a', { href: reducerAddress(item.name), 'aria-label': item.name },
      svg('rect', { class: 'box', x, y, width: WIDTH, height: 30, rx: 15 }),
      svg('text', { x: x + 14, y: y + 19 }, clip(`${item.name}(${text})`, item.group === 'reducer' ? 28 : 19)),
      item.group !== 'reducer' && svg('text', { x: x + WIDTH - 14, y: y + 19, class: 'soft', 'text-anchor': 'end' }, item.lifecycle ?? item.group)));
  }
  return picture;
}

function drawBox(table, { x, y, height }, address) {
  const kind = table.isView ? 'view' : table.isEvent ? 'event' : table.schedule ? 'schedule' : table.isPublic ? 'public' : 'private';
  const box = svg('a', { href: address, 'aria-label': table.name },
    svg('rect', { class: 'box', x, y, width: WIDTH, height, rx: 7 }),
    svg('path', { class: 'headbox', d: `M${x + 0.5} ${y + HEAD}v${-HEAD + 7.5}a7 7 0 0 1 7-7h${WIDTH - 15}a7 7 0 0 1 7 7v${HEAD - 7.5}z` }),
    svg('text', { class: 'title', x: x + 12, y: y + 20 }, clip(table.name, 24)),
    svg('text', { class: 'soft', x: x + WIDTH - 12, y: y + 20, 'text-anchor': 'end' }, kind));
  table.columns.forEach((column, at) => {
    const line = y + HEAD + at * LINE + 18;
    const mark = at === table.key ? 'K' : table.unique.some(columns => columns.length === 1 && columns[0] === at) ? 'U' : table.indexes.some(index => index[0] === at) ? 'I' : null;
    if (mark) box.append(svg('text', { class: 'keymark', x: x + 9, y: line }, mark));
    box.append(svg('text', { x: x + 22, y: line }, clip(column.name, 17)));
    box.append(svg('text', { class: 'soft', x: x + WIDTH - 12, y: line, 'text-anchor': 'end' }, clip(typeText(column.type), 13)));
  });
  if (table.schedule) {
    box.append(svg('text', { class: 'calls', x: x + 22, y: y + HEAD + table.columns.length * LINE + 18 }, clip(`calls ${table.schedule.calls}`, 26)));
  }
  return box;
}

const clip = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
