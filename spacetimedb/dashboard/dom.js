// Building pages: everything a server says becomes text, never markup.

/** An element: h('button.primary', {onclick, disabled}, 'Save'). Attributes that are null or false are left out. */
export function h(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split('.');
  const element = document.createElement(name || 'div');
  if (classes.length) element.className = classes.join(' ');
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (key === 'class') element.classList.add(...String(value).split(' ').filter(Boolean));
    else if (key === 'dataset') Object.assign(element.dataset, value);
    else if (key === 'value') element.value = value;
    else element.setAttribute(key, value === true ? '' : value);
  }
  add(element, children);
  return element;
}

/** Appends nodes, texts, and lists of them; null and false are nothing. */
export function add(element, children) {
  for (const child of [children].flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child);
  }
  return element;
}

/** Replaces all children. */
export function fill(element, ...children) {
  element.replaceChildren();
  return add(element, children);
}

/** An SVG element. */
export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (value !== null) element.setAttribute(key, value);
  }
  return add(element, children);
}

/** Nothing to see: why, and what to do about it. */
export function empty(title, ...text) {
  return h('div.empty', {}, h('strong', {}, title), h('p', {}, ...text));
}

/** Something failed: what the server said. */
export function failure(error, retry = null) {
  return h('div.failure', { role: 'alert' }, h('span', {}, error.message ?? String(error)),
    retry && h('button', { onclick: retry }, 'Try again'));
}

/** A line of text that comes and goes at the bottom. */
export function toast(text, kind = '') {
  const old = document.querySelector('.toast');
  old?.remove();
  const made = h('div.toast', { class: kind, role: 'status' }, text);
  document.body.append(made);
  setTimeout(() => made.remove(), 4000);
}

/** Puts text on the clipboard, and says so. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast('Copied');
  } catch {
    toast('The browser does not let this page use the clipboard', 'bad');
  }
}

/** Offers text as a file. */
export function download(name, kind, text) {
  const link = h('a', { href: URL.createObjectURL(new Blob([text], { type: kind })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const SHORT = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
const LONG = new Intl.NumberFormat('en', { maximumFractionDigits: 2 });

/** 1234567 as 1,234,567. */
export const grouped = value => LONG.format(value);
/** 1234567 as 1.2M; small numbers with three digits. */
export function short(value) {
  return Math.abs(value) >= 1000 ? SHORT.format(value) : digits(value);
}

/** Three digits that mean something: 120, 49.5, 0.83. */
const digits = value => String(Number(value.toPrecision(Math.abs(value) >= 1 ? 3 : 2)));

/** Bytes in binary units. */
export function bytes(value) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let at = 0;
  while (Math.abs(value) >= 1024 && at < units.length - 1) { value /= 1024; at++; }
  return `${value >= 100 || at === 0 ? Math.round(value) : value.toFixed(1).replace('.0', '')} ${units[at]}`;
}

/** Seconds as us, ms or s. */
export function seconds(value) {
  if (!value) return '0';
  if (value < 9.995e-4) return `${digits(value * 1e6)} µs`;
  return value < 0.9995 ? `${digits(value * 1e3)} ms` : `${digits(value)} s`;
}
