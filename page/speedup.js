/**
 * Statistics of measured times: medians, speed-up, efficiency and the fitted serial fraction, as CSV and SVG.
 *
 * Not here: the page. This module needs no DOM.
 */

/** @typedef {{ workers: number, times: number[] }} Measured times in ms */
/** @typedef {Measured & { median: number, speedup: number, efficiency: number, amdahl: number }} Row */
/** @typedef {{ rows: Row[], serial: number }} Summary */

/** @param {number[]} values */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/**
 * The serial fraction s, 0 to 1, of Amdahl's law T(n) / T(1) = s + (1 - s) / n, fitted by least squares.
 * @param {{ workers: number, median: number }[]} rows the first is of one worker
 */
export function serialFraction(rows) {
  let above = 0;
  let below = 0;
  for (const { workers, median: time } of rows) {
    const parallel = 1 - 1 / workers;
    above += (time / rows[0].median - 1 / workers) * parallel;
    below += parallel * parallel;
  }
  return below === 0 ? 0 : Math.min(1, Math.max(0, above / below));
}

/** @param {Measured[]} measured by number of workers, from one on; rows without a time are ignored @returns {Summary} */
export function summarize(measured) {
  const known = measured.filter(({ times }) => times.length > 0);
  const medians = known.map((row) => ({ ...row, median: median(row.times) }));
  const serial = serialFraction(medians);
  const rows = medians.map((row) => {
    const speedup = medians[0].median / row.median;
    const amdahl = 1 / (serial + (1 - serial) / row.workers);
    return { ...row, speedup, efficiency: speedup / row.workers, amdahl };
  });
  return { rows, serial };
}

/**
 * CSV as in RFC 4180, one line for each number of workers.
 * @param {Summary} summary @param {Record<string, string | number>} about columns that are the same in each line
 * @param {boolean} comma decimal commas, and semicolons between: what a spreadsheet of that language opens
 */
export function csvOf({ rows, serial }, about = {}, comma = false) {
  const runs = Math.max(...rows.map(({ times }) => times.length));
  const names = Array.from({ length: runs }, (_, i) => `run_${i + 1}_ms`);
  const head = ["workers", ...names, "median_ms", "speedup", "efficiency", "ideal_speedup", "amdahl_speedup"];
  const lines = rows.map(({ workers, times, median: time, speedup, efficiency, amdahl }) => {
    const ms = names.map((_, i) => times[i]?.toFixed(1) ?? "");
    const figures = [speedup, efficiency, workers, amdahl, serial].map((figure) => figure.toFixed(4));
    return [workers, ...ms, time.toFixed(1), ...figures];
  });
  const cell = (/** @type {unknown} */ value) => {
    const text = String(value);
    if (comma && /^[\d.]+$/.test(text)) return text.replace(".", ",");
    return /[",;\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const all = [
    [...head, "serial_fraction", ...Object.keys(about)],
    ...lines.map((line) => [...line, ...Object.values(about)]),
  ];
  return all.map((line) => `${line.map(cell).join(comma ? ";" : ",")}\r\n`).join("");
}

/** @typedef {{ time: string, speedup: string, efficiency: string, workersAxis: string, measured: string, ideal: string, amdahl: string }} Words */

const WIDTH = 320;
const HEIGHT = 250;
const LEFT = 44;
const RIGHT = 14;
const TOP = 34;
const BOTTOM = 40;

/**
 * Three panels of 320 × 250: the content of an <svg> each, styled by classes.
 * @param {Summary} summary @param {Words} words @param {(value: number, digits?: number) => string} write
 */
export function panels({ rows, serial }, words, write) {
  const maxWorkers = rows[rows.length - 1].workers;
  const curve = Array.from({ length: 49 }, (_, i) => 1 + ((maxWorkers - 1) * i) / 48);
  const law = (/** @type {number} */ n) => 1 / (serial + (1 - serial) / n);
  const first = rows[0].median / 1000;
  const line = (/** @type {(n: number) => number} */ of) => curve.map((n) => /** @type {const} */ ([n, of(n)]));
  const points = (/** @type {(row: Row) => number} */ of) =>
    rows.map((row) => /** @type {const} */ ([row.workers, of(row)]));
  const runs = rows.flatMap(({ workers, times }) => times.map((ms) => /** @type {const} */ ([workers, ms / 1000])));
  const all = [
    {
      title: words.time,
      measured: points((row) => row.median / 1000),
      ideal: line((n) => first / n),
      law: line((n) => first / law(n)),
      runs,
    },
    { title: words.speedup, measured: points((row) => row.speedup), ideal: line((n) => n), law: line(law), runs: [] },
    {
      title: words.efficiency,
      measured: points((row) => row.efficiency),
      ideal: line(() => 1),
      law: line((n) => law(n) / n),
      runs: [],
    },
  ];
  return all.map((panel) => panelOf(panel, maxWorkers, words, write));
}

/** @typedef {readonly (readonly [number, number])[]} Points */

/**
 * @param {{ title: string, measured: Points, ideal: Points, law: Points, runs: Points }} panel
 * @param {number} maxWorkers workers @param {Words} words @param {(value: number, digits?: number) => string} write
 */
function panelOf({ title, measured, ideal, law, runs }, maxWorkers, words, write) {
  const highest = Math.max(...[...measured, ...ideal, ...runs].map(([, y]) => y));
  const { top, step, digits } = scaleOf(highest);
  const x = (/** @type {number} */ n) => LEFT + ((n - 1) / Math.max(1, maxWorkers - 1)) * (WIDTH - LEFT - RIGHT);
  const y = (/** @type {number} */ value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - TOP - BOTTOM);
  const path = (/** @type {string} */ name, /** @type {Points} */ points) =>
    `<path class="${name}" d="M${points.map(([n, value]) => `${x(n).toFixed(1)} ${y(value).toFixed(1)}`).join("L")}"/>`;
  const dots = (/** @type {string} */ name, /** @type {Points} */ points, /** @type {number} */ r) =>
    points
      .map(([n, value]) => `<circle class="${name}" cx="${x(n).toFixed(1)}" cy="${y(value).toFixed(1)}" r="${r}"/>`)
      .join("");
  const ticks = Array.from({ length: Math.round(top / step) + 1 }, (_, i) => i * step);
  const grid = ticks.map((value) => {
    const at = y(value).toFixed(1);
    const label = `<text class="tick" x="${LEFT - 8}" y="${at}" dy="4" text-anchor="end">${write(value, digits)}</text>`;
    return `<path class="grid" d="M${LEFT} ${at}H${WIDTH - RIGHT}"/>${label}`;
  });
  const every = Math.ceil(maxWorkers / 12);
  const counts = measured.filter(([n]) => n === 1 || n === maxWorkers || (n % every === 0 && maxWorkers - n >= every));
  const below = counts.map(
    ([n]) =>
      `<text class="tick" x="${x(n).toFixed(1)}" y="${HEIGHT - BOTTOM + 17}" text-anchor="middle">${write(n, 0)}</text>`,
  );
  const axis = `<text class="tick" x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 6}" text-anchor="middle">${escaped(words.workersAxis)}</text>`;
  return [
    `<text class="title" x="${LEFT}" y="16">${escaped(title)}</text>`,
    ...grid,
    ...below,
    axis,
    path("ideal", ideal),
    path("law", law),
    path("measured", measured),
    dots("run", runs, 2),
    dots("point", measured, 4),
  ].join("");
}

/** An axis with round steps that ends at or above `highest`. @param {number} highest */
function scaleOf(highest) {
  const rough = (highest || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough) ?? rough;
  const digits = Math.max(0, -Math.floor(Math.log10(step)) + (step / power === 2.5 ? 1 : 0));
  return { top: Math.ceil(highest / step - 1e-9) * step, step, digits };
}

/** Style of the saved file: on white, and complete without the page. */
const STYLE = `text{font:12px system-ui,sans-serif;fill:#333}.title{font-size:14px;font-weight:600;fill:#111}
.note{font-size:12px}.grid{stroke:#ddd}.ideal,.law,.measured{fill:none;stroke-width:1.5}.ideal{stroke:#777;stroke-dasharray:5 4}
.law{stroke:#b4530a;stroke-dasharray:1.5 3}.measured{stroke:#00695f;stroke-width:2.5}.point{fill:#00695f}.run{fill:#00695f;opacity:.4}`;

/**
 * The three panels side by side with a legend, as a file.
 * @param {Summary} summary @param {Words & { serial(percent: string): string }} words
 * @param {(value: number, digits?: number) => string} write @param {string} title
 */
export function svgOf(summary, words, write, title) {
  const width = 3 * WIDTH;
  const placed = panels(summary, words, write).map(
    (inside, i) => `<g transform="translate(${i * WIDTH} 34)">${inside}</g>`,
  );
  const key = (/** @type {string} */ name, /** @type {number} */ at, /** @type {string} */ text) =>
    `<path class="${name}" d="M${at} ${HEIGHT + 52}h26"/><text class="note" x="${at + 33}" y="${HEIGHT + 56}">${escaped(text)}</text>`;
  const legend = [
    key("measured", LEFT, words.measured),
    key("ideal", LEFT + 140, words.ideal),
    key("law", LEFT + 260, words.amdahl),
    `<text class="note" x="${LEFT + 470}" y="${HEIGHT + 56}">${escaped(words.serial(`${write(summary.serial * 100, 1)} %`))}</text>`,
  ].join("");
  const box = `xmlns="http://www.w3.org/2000/svg" width="${width}" height="${HEIGHT + 72}" viewBox="0 0 ${width} ${HEIGHT + 72}"`;
  const head = `<title>${escaped(title)}</title><style>${STYLE}</style><rect width="100%" height="100%" fill="#fff"/>`;
  return `<svg ${box}>${head}<text class="title" x="${LEFT}" y="20">${escaped(title)}</text>${placed.join("")}${legend}</svg>\n`;
}

/** For XML and HTML. @param {string} text */
export function escaped(text) {
  return text.replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
}
