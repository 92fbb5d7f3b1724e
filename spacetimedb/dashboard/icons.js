// Line icons, 16 x 16.

import { svg } from './dom.js';

const PATHS = {
  overview: 'M2 9.5 5 6l3 3 3-5 3 4M2 13.5h12',
  tables: 'M2.5 3.5h11v9h-11zM2.5 6.5h11M6.5 6.5v6',
  sql: 'M3 4.5 6 8l-3 3.5M8 12h5',
  reducers: 'M9 2 4 9h4l-1 5 5-7H8z',
  logs: 'M3 4h10M3 7h7M3 10h10M3 13h5',
  clients: 'M8 7.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5zM3 13.5c.5-2.8 2.4-4 5-4s4.5 1.2 5 4',
  subscriptions: 'M3 13a1 1 0 1 0 0-.01M3 8.5a4.5 4.5 0 0 1 4.5 4.5M3 4.5A8.5 8.5 0 0 1 11.5 13',
  schedules: 'M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12zM8 4.5V8l2.5 1.5',
  schema: 'M2.5 2.5h4v4h-4zM9.5 9.5h4v4h-4zM4.5 6.5v5h5',
  loadtest: 'M2.5 11.5a5.5 5.5 0 1 1 11 0M8 11.5l2.5-4',
  close: 'M4 4l8 8M12 4l-8 8',
  menu: 'M2.5 4.5h11M2.5 8h11M2.5 11.5h11',
  theme: 'M8 2.5a5.5 5.5 0 1 0 0 11zM8 2.5a5.5 5.5 0 0 1 0 11',
  key: 'M10.5 9a3.5 3.5 0 1 0-3.300-2.300L2.5 11.5v2h2v-1.5H6V10.5h1.5l.9-.9c.6.3 1.3.4 2.1.4M11 5.5h.01',
  plus: 'M8 3v10M3 8h10',
  trash: 'M3 4.5h10M6.5 4.5v-2h3v2M4.5 4.5l.5 9h6l.5-9',
  refresh: 'M13 8a5 5 0 1 1-1.5-3.5M13 2v3h-3',
};

export function icon(name) {
  return svg('svg', { viewBox: '0 0 16 16', width: 16, height: 16, class: 'icon', 'aria-hidden': 'true' },
    svg('path', { d: PATHS[name] }));
}
