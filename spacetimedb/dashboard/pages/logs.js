// The module's log: its end, and what comes.

import { inDatabase } from '../api.js';
import { failure, fill, grouped, h } from '../dom.js';
import { parse } from '../json.js';

const FIRST_LINES = 500;
const KEPT = 5000;
const AT_ONCE = 400;
const RETRY_MS = 1000;
const SERVER = '__spacetimedb__'; // file, and function, of what the server itself says
const LEVELS = ['Trace', 'Debug', 'Info', 'Warn', 'Error', 'Panic'];

export function show(body, context) {
  const records = [], scroll = h('div.log', { tabindex: '0', 'aria-label': 'Log' }), problem = h('div');
  const level = h('select', { 'aria-label': 'Lowest level' }, LEVELS.slice(0, 5).map(name => h('option', { value: name }, `${name} and above`)));
  level.value = 'Debug';
  const search = h('input', { type: 'search', placeholder: 'Contains', 'aria-label': 'Contains' });
  const state = h('span.live-state', {}, 'connecting'), count = h('span.hint');
  const bottom = h('button', { hidden: true, onclick: () => { scroll.scrollTop = scroll.scrollHeight; } }, 'Newest');
  fill(context.tools, state, level, search);
  fill(body, problem, scroll, h('div.pager', {}, h('span.where', {}, count), bottom));
  const stop = new AbortController();
  let sticks = true, queued = null, drawn = 0;

  const fits = record => LEVELS.indexOf(record.level) >= LEVELS.indexOf(level.value)
    && (!search.value || `${record.message} ${record.function ?? ''}`.toLowerCase().includes(search.value.toLowerCase()));
  const line = record => {
    const at = new Date(Number(record.ts) / 1000);
    const from = record.filename && record.filename !== SERVER ? `${record.filename}:${record.line_number ?? ''}`
      : record.function === SERVER ? 'server' : record.function ?? '';
    return h('div.line', { class: record.level.toLowerCase() },
      h('time', { title: at.toISOString() }, `${at.toLocaleTimeString('en-GB')}.${String(at.getMilliseconds()).padStart(3, '0')}`),
      h('span.level', {}, record.level), h('span.text', {}, from && h('span.from', {}, from), record.message));
  };
  const toEnd = () => { if (sticks) scroll.scrollTop = scroll.scrollHeight; };
  const redraw = () => {
    const shown = records.filter(fits);
    fill(scroll, shown.slice(-KEPT).map(line));
    if (!shown.length) fill(scroll, h('div.empty', {}, records.length ? 'No line fits' : 'The log is empty'));
    drawn = shown.length;
    tell();
    toEnd();
  };
  const tell = () => { count.textContent = `${grouped(drawn)} of ${grouped(records.length)} lines`; };
  const append = fresh => {
    records.push(...fresh);
    const shown = fresh.filter(fits);
    if (records.length > KEPT + AT_ONCE || !drawn) {
      records.splice(0, Math.max(0, records.length - KEPT));
      redraw();
      return;
    }
    scroll.append(...shown.map(line));
    drawn += shown.length;
    tell();
    toEnd();
  };
  scroll.addEventListener('scroll', () => {
    sticks = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 40;
    bottom.hidden = sticks;
  });
  level.addEventListener('change', redraw);
  search.addEventListener('input', () => { clearTimeout(queued); queued = setTimeout(redraw, 80); });

  const status = text => { state.textContent = text; state.className = `live-state ${text}`; };
  const read = async () => {
    const answer = await inDatabase(context.database.identity, `/logs?num_lines=${FIRST_LINES}&follow=true`, { signal: stop.signal });
    status('live');
    fill(problem);
    records.length = 0;
    redraw();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split('\n');
      rest = lines.pop();
      append(lines.filter(Boolean).map(parse));
    }
  };
  const follow = async () => {
    try {
      await read();
    } catch (error) {
      if (stop.signal.aborted) return;
      if (error.status) fill(problem, failure(error));
    }
    if (stop.signal.aborted) return;
    status('offline');
    setTimeout(follow, RETRY_MS);
  };
  redraw();
  follow();
  return () => stop.abort();
}
