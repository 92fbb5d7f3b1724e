// Rows of a table: page by page, filtered, sorted, live, and changed in place.

import { metricsText, sql } from '../api.js';
import { deleteButton, editCell, insertForm } from '../editing.js';
import { empty, failure, fill, grouped, h, short } from '../dom.js';
import { icon } from '../icons.js';
import { stringify } from '../json.js';
import { Live } from '../live.js';
import { Sample } from '../metrics.js';
import { isInteger, readType, typeText } from '../schema.js';
import { cell, isRight, literal, name } from '../values.js';

const PAGE = 100;
const SORTED_MOST = 20000;
/** Rows up to which a page in order of the key is what opens, and up to which all of a table is followed. */
const LIVE_MOST = 5000;
const EVENTS_KEPT = 500;
const SYSTEM = ['st_client', 'st_table', 'st_column', 'st_index', 'st_constraint', 'st_sequence', 'st_scheduled', 'st_view', 'st_row_level_security', 'st_module', 'st_var'];

export function show(body, context) {
  const { schema, database, rest } = context, all = [...schema.tables, ...schema.views];
  const wanted = rest[0] ?? (all.find(table => !table.isEvent) ?? all[0])?.name;
  const entry = (table, badge) => h('a', { href: context.addressOf(database, 'tables', table), 'aria-current': table === wanted ? 'page' : null },
    h('span.name', {}, table), badge && h('span.badge', {}, badge), h('span.count', { dataset: { table } }));
  const badge = table => (table.isEvent ? 'event' : table.schedule ? 'schedule' : table.isPublic ? null : 'private');
  const list = h('div.list-of', {},
    schema.tables.length > 0 && h('h3', {}, 'Tables'), schema.tables.map(table => entry(table.name, badge(table))),
    schema.views.length > 0 && h('h3', {}, 'Views'), schema.views.map(table => entry(table.name, table.isAnonymous ? null : 'per client')),
    h('h3', {}, 'System'), SYSTEM.map(table => entry(table)));
  const content = h('div.content');
  fill(body, h('div.split', {}, list, content));
  list.querySelector('[aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  countRows(list, database.identity);
  if (!wanted) {
    fill(content, h('div.card', {}, empty('This database has no tables')));
    return null;
  }
  const known = all.find(table => table.name === wanted);
  const grid = new Grid(content, context, known ?? { name: wanted, columns: null, key: null, isSystem: true, autoInc: [], indexes: [] });
  grid.open();
  return () => grid.close();
}

/** Puts row counts beside the tables' names, as far as the metrics tell them. */
async function countRows(list, identity) {
  let sample;
  try {
    sample = new Sample(await metricsText(['spacetime_num_table_rows']), 0);
  } catch {
    return; // names alone do
  }
  const counts = new Map(sample.series('spacetime_num_table_rows', identity).map(({ labels, value }) => [labels.table_name, value]));
  for (const place of list.querySelectorAll('.count')) {
    const count = counts.get(place.dataset.table);
    if (count !== undefined) place.textContent = short(count);
  }
}

class Grid {
  constructor(place, context, table) {
    Object.assign(this, { place, table, id: context.database.identity, tools: context.tools });
    this.offset = 0;
    this.sort = null;
    this.where = '';
    this.rows = [];
    this.count = null;
    this.fresh = new Set();
    this.canEdit = !table.isSystem && !table.isView && !table.isEvent;
    this.build();
  }

  build() {
    const { table } = this;
    this.filter = h('input', { type: 'text', placeholder: "Filter, as in SQL: score > 100 AND name = 'Ann'", 'aria-label': 'Filter', spellcheck: 'false' });
    this.filter.addEventListener('keydown', event => { if (event.key === 'Enter') this.refilter(); });
    this.filter.addEventListener('search', () => this.refilter());
    this.state = h('span.live-state', { hidden: true });
    this.liveButton = h('button', { 'aria-pressed': 'false', onclick: () => this.toggle() }, 'Live');
    this.problem = h('div');
    this.inserting = h('div');
    this.scroll = h('div.scroll', { tabindex: '-1' });
    this.pager = h('div.pager');
    const insert = this.canEdit && h('button', { onclick: () => this.insert() }, icon('plus'), 'New row');
    fill(this.tools, this.state, this.liveButton, insert,
      h('button.quiet', { title: 'Read again', 'aria-label': 'Read again', onclick: () => this.load() }, icon('refresh')));
    fill(this.place, h('div.bar', {}, this.filter, h('button', { onclick: () => this.refilter() }, 'Filter')), this.problem, this.inserting, this.scroll, this.pager);
    if (!table.isEvent) fill(this.scroll, h('div.empty', {}, 'Reading…'));
  }

  from() {
    return ` FROM ${name(this.table.name)}${this.where ? ` WHERE ${this.where}` : ''}`;
  }

  async open() {
    if (this.table.isEvent) {
      this.count = 0;
      this.draw();
      this.toggle();
    } else {
      await this.load();
    }
  }

  refilter() {
    this.where = this.filter.value.trim();
    this.offset = 0;
    const wasLive = this.live !== undefined;
    this.stop();
    if (this.table.isEvent) {
      this.rows = [];
      this.toggle();
    } else {
      this.load().then(() => { if (wasLive) this.toggle(); });
    }
  }

  async load() {
    if (this.live && this.isWhole) return this.draw();
    this.abort?.abort();
    const { signal } = (this.abort = new AbortController());
    try {
      const counted = await sql(this.id, `SELECT COUNT(*) AS n${this.from()}`, signal);
      this.count = Number(counted.rows[0][0]);
      if (this.offset >= this.count) this.offset = Math.max(0, Math.floor((this.count - 1) / PAGE) * PAGE);
      const order = this.order();
      const answer = await sql(this.id, `SELECT *${this.from()}${order} LIMIT ${PAGE}${this.offset ? ` OFFSET ${this.offset}` : ''}`, signal);
      if (!this.table.columns || this.table.isSystem) {
        this.table.columns = answer.columns.map(column => ({ name: column.name, type: readType(column.type) }));
      }
      this.rows = answer.rows;
      fill(this.problem);
    } catch (error) {
      if (error.name === 'AbortError') return null;
      fill(this.problem, failure(error));
      if (this.table.columns === null) fill(this.scroll);
      return null;
    }
    this.draw();
    if (this.live) this.follow();
    return null;
  }

  /** The column in whose order rows stand: the chosen one, else the key where sorting costs little. */
  sorted() {
    if (this.sort) return this.sort;
    const { key, columns } = this.table;
    return key !== null && columns && (this.count <= SORTED_MOST || this.live) ? { at: key, down: false } : null;
  }

  order() {
    const sorted = this.sorted();
    return sorted ? ` ORDER BY ${name(this.table.columns[sorted.at].name)}${sorted.down ? ' DESC' : ''}` : '';
  }

  // -- live

  toggle() {
    if (this.live) {
      this.stop();
      this.load();
      return;
    }
    const { table } = this;
    const followsPage = table.key !== null && isInteger(table.columns[table.key].type) && !this.sort;
    this.isWhole = table.isEvent || this.count <= LIVE_MOST;
    if (!this.isWhole && !followsPage) {
      fill(this.problem, h('p.note', {}, `Live mode follows up to ${grouped(LIVE_MOST)} rows, or a page in order of a whole-number key. Filter this table, or take its order back.`));
      return;
    }
    this.liveButton.setAttribute('aria-pressed', 'true');
    if (this.isWhole) {
      this.follow();
    } else {
      this.live = null;
      this.sort = { at: table.key, down: false };
      this.load().then(() => this.follow());
    }
  }

  follow() {
    this.live?.close();
    const { table } = this, keyOf = row => (table.key === null ? stringify(row) : stringify(row[table.key]));
    let query = `SELECT *${this.from()}`;
    if (!this.isWhole) {
      if (!this.rows.length) return;
      const column = table.columns[table.key], edge = row => literal(column.type, row[table.key]);
      const range = `${name(column.name)} >= ${edge(this.rows[0])} AND ${name(column.name)} <= ${edge(this.rows.at(-1))}`;
      query = `SELECT * FROM ${name(table.name)} WHERE ${this.where ? `(${this.where}) AND ` : ''}${range}`;
    }
    this.held = new Map();
    const rowType = { kind: 'product', fields: table.columns };
    this.live = new Live(this.id, query, rowType, {
      status: text => { this.state.hidden = false; this.state.textContent = text; this.state.className = `live-state ${text}`; },
      applied: rows => {
        if (table.isEvent) return;
        this.held = new Map(rows.map(row => [keyOf(row), row]));
        this.redraw();
      },
      changed: (deleted, inserted) => {
        if (table.isEvent) {
          for (const row of inserted) { this.rows.unshift(row); this.fresh.add(row); }
          this.rows.length = Math.min(this.rows.length, EVENTS_KEPT);
          this.count += inserted.length;
        } else {
          for (const row of deleted) this.held.delete(keyOf(row));
          for (const row of inserted) { this.held.set(keyOf(row), row); this.fresh.add(row); }
        }
        this.redraw();
      },
      refused: text => { this.stop(); fill(this.problem, failure(new Error(text))); },
    });
  }

  /** At most once per frame, and not under somebody's hands. */
  redraw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      if (!this.live) return;
      if (!this.table.isEvent) {
        const rows = [...this.held.values()], sorted = this.sorted();
        if (sorted) rows.sort((a, b) => compare(a[sorted.at], b[sorted.at]) * (sorted.down ? -1 : 1));
        if (this.isWhole) this.count = rows.length;
        this.rows = this.isWhole ? rows.slice(this.offset, this.offset + PAGE) : rows;
      }
      if (!this.scroll.querySelector('.editing')) this.draw();
    });
  }

  stop() {
    if (this.live && !this.isWhole) this.sort = null;
    this.live?.close();
    this.live = undefined;
    this.state.hidden = true;
    this.liveButton.setAttribute('aria-pressed', 'false');
  }

  close() {
    this.live?.close();
    this.abort?.abort();
    if (this.waiting) cancelAnimationFrame(this.waiting);
  }

  // -- editing

  insert() {
    fill(this.inserting, insertForm(this.id, this.table, inserted => {
      fill(this.inserting);
      if (inserted && !this.live) this.load();
    }));
  }

  /** A row was changed here; what a subscription told of it meanwhile has not been drawn. */
  changed() {
    if (this.live) this.redraw();
    else this.load();
  }

  // -- drawing

  head() {
    const { table } = this, sorted = this.sort;
    return h('tr', {}, table.columns.map((column, at) => {
      const isSorted = sorted?.at === at, sort = () => {
        this.sort = isSorted ? (sorted.down ? null : { at, down: true }) : { at, down: false };
        this.offset = 0;
        this.load();
      };
      const mark = at === table.key ? 'key' : table.indexes.some(index => index[0] === at) ? 'index' : null;
      return h('th', { class: isRight(column.type) ? 'right' : '', 'aria-sort': isSorted ? (sorted.down ? 'descending' : 'ascending') : null },
        h('button', { onclick: sort, disabled: table.isEvent }, column.name), mark && h('span.key', {}, mark), h('span.type', {}, typeText(column.type)));
    }), h('th.filler'));
  }

  row(row) {
    const { table } = this;
    const element = h('tr', { class: this.fresh.has(row) ? 'fresh' : '' }, table.columns.map((column, at) => {
      const edit = event => editCell(event.currentTarget, this.id, table, row, at, () => this.changed());
      return h('td', {
        class: `${isRight(column.type) ? 'right ' : ''}${this.canEdit ? 'editable' : ''}`, tabindex: this.canEdit ? '0' : null,
        ondblclick: this.canEdit ? edit : null,
        onkeydown: this.canEdit ? event => this.key(event, edit) : null,
      }, cell(column.type, row[at]));
    }));
    element.append(h('td.actions', {}, this.canEdit && deleteButton(this.id, table, row, () => this.changed())));
    return element;
  }

  key(event, edit) {
    const { currentTarget: at } = event;
    const near = { ArrowLeft: at.previousElementSibling, ArrowRight: at.nextElementSibling,
      ArrowUp: at.parentElement.previousElementSibling?.children[at.cellIndex], ArrowDown: at.parentElement.nextElementSibling?.children[at.cellIndex] };
    if (event.target === at && (event.key === 'Enter' || event.key === 'F2')) edit(event);
    else if (near[event.key]) near[event.key].focus();
    else return;
    event.preventDefault();
  }

  draw() {
    const { table, rows, count, offset } = this;
    const body = rows.length ? rows.map(row => this.row(row)) : null;
    const nothing = table.isEvent ? empty('Waiting for events', 'Rows of an event table are shown as they are sent; none are stored.')
      : this.where ? empty('No row fits the filter') : empty('The table is empty');
    const top = this.scroll.scrollTop, left = this.scroll.scrollLeft;
    fill(this.scroll, h('table', {}, h('thead', {}, this.head()), h('tbody', {}, body)), !body && nothing);
    this.scroll.scrollTop = top;
    this.scroll.scrollLeft = left;
    this.fresh.clear();
    if (table.isEvent) {
      fill(this.pager, h('span.where', {}, `${grouped(count)} events since this page was opened`));
      return;
    }
    const last = Math.max(0, Math.floor((count - 1) / PAGE) * PAGE);
    const go = (text, to, label) => h('button', { disabled: to === null || to === offset, 'aria-label': label, onclick: () => { this.offset = to; this.scroll.scrollTop = 0; this.load(); } }, text);
    const range = count ? `Rows ${grouped(offset + 1)}–${grouped(offset + rows.length)} of ${grouped(count)}` : 'No rows';
    fill(this.pager, h('span.where', {}, range, this.canEdit && count > 0 && h('span.hint', {}, '   Enter or double click changes a cell')),
      count > PAGE && [go('First', 0), go('Previous', offset ? offset - PAGE : null), go('Next', offset < last ? offset + PAGE : null), go('Last', last)]);
  }
}

function compare(a, b) {
  if (Array.isArray(a)) {
    for (let at = 0; at < Math.min(a.length, b.length); at++) {
      const order = compare(a[at], b[at]);
      if (order) return order;
    }
    return a.length - b.length;
  }
  if (typeof a === 'string' && a.startsWith('0x')) [a, b] = [BigInt(a), BigInt(b)];
  return a < b ? -1 : a > b ? 1 : 0;
}
