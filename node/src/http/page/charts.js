// The charts of the history, drawn by uPlot. Colours are the page's.

import * as format from './format.js';

const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const LINES = ['--line-1', '--line-2', '--line-3', '--line-4', '--line-5', '--line-6'];
// Lines differ in their dashes too, not in colour alone.
const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3], [5, 2], [1, 4]];

function series(label, at, show) {
  return { label, stroke: token(LINES[at % 6]), dash: DASHES[at % 6], width: 1.6, spanGaps: false, points: { show: false }, value: (_, value) => show(value) };
}

function options(title, lines, show, width) {
  const axis = { stroke: token('--muted'), grid: { stroke: token('--grid'), width: 1 }, ticks: { show: false }, font: '11px system-ui, sans-serif' };
  return {
    width,
    height: 150,
    title,
    cursor: { y: false, sync: { key: 'history' } },
    legend: { live: true },
    scales: { y: { range: (_, min, max) => [0, max > 0 ? max * 1.15 : 1] } },
    axes: [
      { ...axis, size: 26, space: 70, values: (_, ticks, __, ___, step) => ticks.map((tick) => format.clock(tick * 1000).slice(0, step < 60 ? 8 : 5)) },
      { ...axis, size: 62, values: (_, ticks) => ticks.map(show) },
    ],
    series: [{ value: (_, value) => (value === null ? '–' : format.clock(value * 1000)) }, ...lines.map(([label], at) => series(label, at, show))],
  };
}

function definitions(history) {
  const us = (values) => values;
  const followers = Object.entries(history.followers);
  const lag = followers.flatMap(([name, data]) => [[`${name} durable`, data.durable_lag_us], [`${name} applied`, data.applied_lag_us]]);
  return [
    { key: 'commit', title: 'Commit latency', show: format.time, lines: [['p50', us(history.commit_p50_us)], ['p99', history.commit_p99_us], ['max', history.commit_max_us]] },
    { key: 'lag', title: 'Follower lag', show: format.time, lines: lag.length ? lag : [['no follower', history.at_s.map(() => null)]] },
    { key: 'rate', title: 'Commands per second', show: format.short, lines: [['commands/s', history.commands_per_s]] },
    { key: 'redo', title: 'Log written per second', show: format.bytes, lines: [['redo/s', history.redo_bytes_per_s]] },
  ];
}

const drawn = new Map();

// While nobody points at a time, the figures below a chart are the latest.
function showLast(plot, data) {
  // The plot draws itself, and its legend, once this script is done.
  setTimeout(() => {
    if (!(plot.cursor.left >= 0)) plot.setLegend({ idx: data[0].length - 1 });
  });
}

export function draw(container, history) {
  const width = Math.max(280, Math.floor(container.clientWidth / (container.clientWidth > 800 ? 2 : 1)) - 34);
  for (const chart of definitions(history)) {
    const data = [history.at_s, ...chart.lines.map(([, values]) => values)];
    const shape = `${width}|${chart.lines.map(([label]) => label).join('|')}|${document.documentElement.dataset.theme ?? ''}`;
    const old = drawn.get(chart.key);
    if (old && old.shape === shape) {
      old.plot.setData(data);
      showLast(old.plot, data);
      continue;
    }
    let holder = old?.holder;
    if (holder) {
      old.plot.destroy();
    } else {
      holder = document.createElement('div');
      holder.className = 'chart panel';
      container.append(holder);
    }
    const plot = new uPlot(options(chart.title, chart.lines, chart.show, width), data, holder);
    showLast(plot, data);
    plot.root.setAttribute('role', 'img');
    plot.root.setAttribute('aria-label', `${chart.title}, chart`);
    drawn.set(chart.key, { plot, shape, holder });
  }
}

export function redraw() {
  for (const chart of drawn.values()) chart.shape = '';
}

// A line of a few pixels: the shape of the last minutes.
export function spark(svg, values) {
  const known = values.filter((value) => value !== null);
  const top = Math.max(1, ...known);
  const width = 120;
  const step = width / Math.max(1, values.length - 1);
  let path = '';
  let pen = false;
  values.forEach((value, at) => {
    if (value === null) {
      pen = false;
      return;
    }
    path += `${pen ? 'L' : 'M'}${(at * step).toFixed(1)} ${(26 - (value / top) * 24).toFixed(1)}`;
    pen = true;
  });
  svg.firstElementChild.setAttribute('d', path);
  svg.setAttribute('aria-label', `durable lag of the last 5 minutes, at most ${format.time(known.length ? Math.max(...known) : null)}`);
}
