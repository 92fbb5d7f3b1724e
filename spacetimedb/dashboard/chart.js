// A line chart over time: SVG, one y axis, a pointer that reads all series at once.

import { fill, h, svg } from './dom.js';

const HEIGHT = 132, TOP = 8, BOTTOM = 18, LEFT = 58, RIGHT = 6;
const LEAST_SPAN = 20;

/** A round number not below the value and `least`, in units of 1000 or 1024, and its steps. */
function scale(value, least, base) {
  const wanted = Math.max(value, least) * 1.0001;
  const unit = base === 1024 ? 1024 ** Math.floor(Math.log2(wanted) / 10) : 1;
  const power = unit * 10 ** Math.floor(Math.log10(wanted / unit));
  const top = [1, 2, 4, 6, 8, 10].find(step => step * power >= wanted / 1.0001) * power;
  return { top, steps: [0, top / 2, top] };
}

/**
 * options: title, unit(value) -> text, series: [{name, colour: 1..6}], span: seconds shown, or fromStart: all,
 *   least: the least height of the y axis, base: 1000 or 1024
 * `draw(points)`: [{at: seconds, values: [number | null, ...]}], oldest first.
 */
export class Chart {
  constructor({ title, unit, series, span = 120, fromStart = false, least = 2, base = 1000 }) {
    Object.assign(this, { title, unit, series, span, fromStart, least, base });
    this.points = [];
    this.now = series.map(() => h('span.figure', {}, '–'));
    this.plot = h('div.plot');
    const legend = series.length > 1
      ? series.map((one, at) => h('span.key', {}, h('i', { class: `c${one.colour}` }), one.name, this.now[at]))
      : this.now[0];
    this.element = h('section.chart', {}, h('header', {}, h('h3', {}, title), h('div.legend', {}, legend)), this.plot);
    this.plot.addEventListener('pointermove', event => this.point(event));
    this.plot.addEventListener('pointerleave', () => { this.pointer = null; this.paint(); });
    this.observer = new ResizeObserver(() => requestAnimationFrame(() => this.paint()));
    this.observer.observe(this.plot);
  }

  draw(points) {
    this.points = points;
    this.paint();
  }

  point(event) {
    this.pointer = event.clientX - this.plot.getBoundingClientRect().left;
    this.paint();
  }

  paint() {
    const { points, series } = this, width = this.plot.clientWidth;
    if (!width) return;
    const known = points.filter(point => point.values.some(value => value !== null));
    if (!known.length) {
      fill(this.plot, h('div.waiting', {}, points.length ? 'Nothing happened yet' : 'Waiting for figures'));
      return;
    }
    const end = points.at(-1).at, start = this.fromStart ? Math.min(points[0].at, end - 1) : Math.max(end - this.span, Math.min(points[0].at, end - LEAST_SPAN));
    const inside = points.filter(point => point.at >= start - 2);
    const { top, steps } = scale(Math.max(...inside.flatMap(point => point.values.filter(value => value !== null)), 0), this.least, this.base);
    const x = at => LEFT + ((at - start) / (end - start)) * (width - LEFT - RIGHT);
    const y = value => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    const drawing = svg('svg', { width, height: HEIGHT, role: 'img', 'aria-label': this.title });
    for (const step of steps) {
      drawing.append(svg('line', { x1: LEFT, x2: width - RIGHT, y1: y(step), y2: y(step), class: 'grid' }));
      drawing.append(svg('text', { x: LEFT - 6, y: y(step) + 3.5, class: 'tick', 'text-anchor': 'end' }, this.unit(step)));
    }
    const ago = Math.round(end - start);
    const ends = this.fromStart ? [`${Math.round(start)} s`, `${Math.round(end)} s`] : [`${ago} s ago`, 'now'];
    drawing.append(svg('text', { x: LEFT, y: HEIGHT - 4, class: 'tick' }, ends[0]));
    drawing.append(svg('text', { x: width - RIGHT, y: HEIGHT - 4, class: 'tick', 'text-anchor': 'end' }, ends[1]));
    series.forEach((one, which) => {
      const line = runs(inside, which).map(run => run.map(({ at, value }) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`));
      for (const run of line) {
        if (series.length === 1 && run.length > 1) {
          const area = `${run[0].split(',')[0]},${y(0)} ${run.join(' ')} ${run.at(-1).split(',')[0]},${y(0)}`;
          drawing.append(svg('polygon', { points: area, class: `area c${one.colour}` }));
        }
        if (run.length === 1) {
          const [cx, cy] = run[0].split(',');
          drawing.append(svg('circle', { cx, cy, r: 2, class: `dot c${one.colour}` }));
        } else {
          drawing.append(svg('polyline', { points: run.join(' '), class: `line c${one.colour}` }));
        }
      }
    });
    let shown = points.at(-1);
    if (this.pointer !== null && this.pointer !== undefined) {
      const wanted = start + ((this.pointer - LEFT) / (width - LEFT - RIGHT)) * (end - start);
      shown = inside.reduce((best, point) => (Math.abs(point.at - wanted) < Math.abs(best.at - wanted) ? point : best));
      drawing.append(svg('line', { x1: x(shown.at), x2: x(shown.at), y1: TOP, y2: HEIGHT - BOTTOM, class: 'cursor' }));
      series.forEach((one, which) => {
        const value = shown.values[which];
        if (value !== null) drawing.append(svg('circle', { cx: x(shown.at), cy: y(value), r: 3, class: `dot c${one.colour}` }));
      });
    }
    series.forEach((_one, which) => {
      const value = shown.values[which];
      this.now[which].textContent = value === null || value === undefined ? '–' : this.unit(value);
    });
    fill(this.plot, drawing);
  }
}

/** The parts of a series without gaps. */
function runs(points, which) {
  const out = [];
  let run = [];
  for (const point of points) {
    const value = point.values[which];
    if (value === null || value === undefined) {
      if (run.length) out.push(run);
      run = [];
    } else {
      run.push({ at: point.at, value });
    }
  }
  if (run.length) out.push(run);
  return out;
}
