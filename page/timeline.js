/**
 * The timeline: a lane for each worker, or for each of the N lanes of `workers=N`, with a bar for each turn and its phases;
 * above them the depth of the queue and the coordinator's own lane. It is SVG, so that a report can take it.
 *
 * Times are percentages of a nested `<svg>` that is SCALE_MS wide, so growing and zooming change two attributes of that
 * element and none of the bars.
 *
 * Not here: the turns (turns.js), the axis and the pictures of one row (lanes.js), zooming (view.js), the
 * log of failures (log.js).
 */
import { colourOf } from "./colours.js";
import { figuresOf } from "./figures.js";
import { isOpen } from "./job.js";
import { onJob } from "./jobs.js";
import {
  axisOf,
  dressed,
  element,
  fillBar,
  fillDepth,
  fillOwn,
  hasRoomFor,
  percentOf,
  roomOf,
  textIn,
} from "./lanes.js";
import { byName, fleet } from "./server.js";
import { beginOf, depthOf, endOf, keyOf, lostAt, nowOf, turnsOf } from "./turns.js";
import { View } from "./view.js";
import { t } from "./words.js";

/** Room for the names, px. */
const GUTTER = 104;
const STRIP = 30;
const AXIS = 22;
/** The axis grows by this factor, so that bars are laid out again rarely while a job runs. */
const GROWTH = 1.25;
const MIN_SPAN_MS = 2;

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

/** @type {import("./jobs.js").Job | null} */
let job = null;
let id = "";
/** @type {View} */
let view;
/** @type {"workers" | "lanes"} */
let grouped = "workers";
/** @type {number | null} */
let marked = null;
/** @type {(band: number | null) => void} */
let onMark = () => {};
let scheduled = false;
/** When it was drawn last, and how long that took, ms. */
let last = 0;
let cost = 0;
/** The bars by the key of their turn. @type {Map<string, { bar: SVGGElement, text: string }>} */
let bars = new Map();
/** The rows by their name. @type {Map<string, { row: SVGSVGElement, label: SVGGElement, time: SVGSVGElement, text: string }>} */
let rows = new Map();
/** The part of the picture that is drawn again on every change of its size. */
let drawn = "";

/** @param {(band: number | null) => void} marks called when a bar was chosen */
export function setUpTimeline(marks) {
  onMark = marks;
  const svg = $("timeline-picture");
  view = new View(svg, GUTTER, wholeOf, schedule);
  new ResizeObserver(schedule).observe($("timeline-box"));
  onJob.add((changed) => changed === job && schedule());
  $("timeline-out").addEventListener("click", () => view.zoomBy(2));
  $("timeline-in").addEventListener("click", () => view.zoomBy(0.5));
  $("timeline-fit").addEventListener("click", () => view.zoomTo(null));
  for (const way of /** @type {const} */ (["workers", "lanes"])) {
    $(`timeline-${way}`).addEventListener("click", () => group(way));
  }
  $("timeline-save").addEventListener("click", save);
  svg.addEventListener("click", (/** @type {Event} */ event) => {
    const bar = barOf(event.target);
    if (bar?.dataset.band && !view.dragged)
      onMark(Number(bar.dataset.band) === marked ? null : Number(bar.dataset.band));
  });
  for (const kind of ["pointerover", "focusin"]) {
    svg.addEventListener(kind, (/** @type {Event} */ event) => tell(barOf(event.target)));
  }
  svg.addEventListener("pointerleave", () => tell(null));
  svg.addEventListener("keydown", onKey);
}

/** Shows the timeline of a job. @param {import("./jobs.js").Job | null} other */
export function showTimeline(other) {
  job = other;
  schedule();
}

/** Marks the bars of a band. @param {number | null} band */
export function markBar(band) {
  marked = band;
  for (const { bar } of bars.values()) {
    if (bar.dataset.band) bar.setAttribute("aria-pressed", String(Number(bar.dataset.band) === band));
  }
  const bar = [...bars.values()].find(({ bar }) => Number(bar.dataset.band) === band && bar.dataset.band)?.bar;
  if (bar) rove(bar);
  tell(bar ?? null);
}

/** Draws everything again: the language has changed. */
export function renderTimeline() {
  clear();
  schedule();
}

/** The timeline on the page as an SVG file, in light colours. */
export const timelineSvg = () => dressed($("timeline-picture"), $("timeline").dataset.title ?? "");

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([timelineSvg()], { type: "image/svg+xml" }));
  link.download = `${job?.name.replace(/\.[^.]*$/, "") || "image"}.timeline.svg`;
  link.click();
  URL.revokeObjectURL(link.href);
}

function clear() {
  $("timeline-tell").textContent = "";
  $("timeline-picture").replaceChildren();
  bars = new Map();
  rows = new Map();
  drawn = "";
}

/** Draws at the next frame, and again while the job runs. It takes a fifth of the time at most. */
function schedule() {
  if (scheduled) return;
  scheduled = true;
  const pause = Math.max(0, 4 * cost - (performance.now() - last));
  setTimeout(() => {
    requestAnimationFrame(() => {
      scheduled = false;
      last = performance.now();
      draw();
      cost = performance.now() - last;
      if (job && isOpen(job) && job.trace.claims.size > 0) schedule();
    });
  }, pause);
}

function draw() {
  if (job && job.id !== id) {
    id = job.id;
    view.zoomed = null;
    marked = null;
    clear();
    group(job.workers ? "lanes" : "workers");
  }
  const turns = job ? turnsOf(job) : [];
  // From the start, so that nothing below it moves.
  $("timeline").hidden = !job || (turns.length === 0 && !["sending", "running"].includes(job.phase));
  if (!job || $("timeline").hidden) return;
  const now = isOpen(job) ? nowOf(job) : 0;
  const whole = wholeOf();
  const { from, to } = view.zoomed ?? { from: 0, to: whole };
  for (const name of ["out", "fit"]) $(`timeline-${name}`).disabled = !view.zoomed;
  $("timeline-by").hidden = !job.workers;
  $("timeline").dataset.title = job.name;
  layOut(job, turns, { from, to, now });
  if ($("timeline-tell").textContent === "") tell(null);
}

/** The whole of the axis, ms. It grows in steps while the job runs. */
function wholeOf() {
  if (!job) return MIN_SPAN_MS;
  const end = Math.max(lastOf(job, turnsOf(job)), isOpen(job) ? nowOf(job) : 0, MIN_SPAN_MS);
  return isOpen(job) ? GROWTH ** Math.ceil(Math.log(end) / Math.log(GROWTH)) : end * 1.01;
}

/** @param {import("./jobs.js").Job} of @param {import("./turns.js").Turn[]} turns */
function lastOf({ status }, turns) {
  const { done, merged } = status.times ?? {};
  const ends = turns.map((turn) => endOf(turn, beginOf(turn)));
  return ends.reduce((last, at) => Math.max(last, at), (done ?? 0) + (merged?.ms ?? 0));
}

/**
 * @param {import("./jobs.js").Job} of @param {import("./turns.js").Turn[]} turns
 * @param {{ from: number, to: number, now: number }} shown
 */
function layOut(of, turns, shown) {
  const svg = $("timeline-picture");
  const width = Math.max(240, $("timeline-box").clientWidth);
  const names = lanesOf(of, turns);
  const height = names.length > 6 ? 22 : 30;
  const tall = STRIP + height * (names.length + 1) + AXIS + 6;
  const scale = (width - GUTTER) / (shown.to - shown.from);
  const key = [width, shown.from, shown.to, tall, names.join("\n"), t.queueDepth].join("|");
  if (key !== drawn) {
    drawn = key;
    svg.setAttribute("viewBox", `0 0 ${width} ${tall}`);
    svg.setAttribute("height", tall);
    svg.setAttribute("aria-label", t.timelineOf(of.name));
    axisOf(svg, { width, tall, gutter: GUTTER, ...shown });
  }
  const place = (/** @type {string} */ name, /** @type {number} */ y, /** @type {number} */ h) =>
    rowOf(name, { y, height: h, width: width - GUTTER, scale, from: shown.from });
  const strip = place("", 0, STRIP);
  fillDepth(strip.time, depthOf(of, turns), Math.max(shown.now, lastOf(of, turns)));
  label(strip, t.queueDepth);
  const own = place("\n", STRIP, height);
  label(own, t.coordinator);
  fillOwn(own.time, of, turns, { height, scale, now: shown.now });
  const ends = new Map();
  const seen = new Set();
  names.forEach((name, i) => {
    const row = place(name, STRIP + height * (i + 1), height);
    const lane = name.match(/^\0(\d+)$/)?.[1];
    const lost = lane ? undefined : lostAt(of, name);
    label(row, lane ? t.lane(Number(lane) + 1) : name, lane ? "" : colourOf(name), lost !== undefined);
  });
  for (const turn of turns) {
    const name = rowNameOf(turn);
    const row = rows.get(name);
    if (!row) continue;
    const begin = Math.max(ends.get(name) ?? 0, beginOf(turn));
    const key = keyOf(turn);
    seen.add(key);
    const room = roomOf(turn, ((turn.failed ?? 0) - shown.from) * scale, width - GUTTER);
    drawBar(row, turn, key, { begin, before: ends.get(name) ?? 0, height, scale, now: shown.now, room });
    ends.set(name, Math.max(ends.get(name) ?? 0, endOf(turn, shown.now)));
  }
  for (const [key, { bar }] of bars) {
    if (seen.has(key)) continue;
    bar.remove();
    bars.delete(key);
  }
  if (!svg.querySelector('[role="button"][tabindex="0"]'))
    svg.querySelector('[role="button"]')?.setAttribute("tabindex", "0");
}

/**
 * The rows in their order. A worker that got no band keeps its empty row when the job has ended, or the worker has left.
 * @param {import("./jobs.js").Job} of @param {import("./turns.js").Turn[]} turns
 */
function lanesOf(of, turns) {
  const names = new Set(turns.map(rowNameOf));
  const known = [...rows.keys(), ...((isOpen(of) && fleet.workers) || []).map(({ name }) => name)];
  if (grouped === "lanes" && of.workers) for (let lane = 0; lane < of.workers; lane++) names.add(`\0${lane}`);
  else for (const name of known) if (!/^(\0|\n|$)/.test(name)) names.add(name);
  return [...names].sort(byName);
}

/** @param {import("./turns.js").Turn} turn */
function rowNameOf({ worker, lane }) {
  return grouped === "lanes" && lane !== undefined ? `\0${lane}` : worker;
}

/** @param {"workers" | "lanes"} way */
function group(way) {
  grouped = way;
  for (const other of ["workers", "lanes"]) $(`timeline-${other}`).setAttribute("aria-pressed", String(other === way));
  clear();
  schedule();
}

/**
 * The row of a worker, placed. Its label is outside of the nested `<svg>` that clips its bars.
 * @param {string} name @param {{ y: number, height: number, width: number, scale: number, from: number }} place
 */
function rowOf(name, { y, height, width, scale, from }) {
  let found = rows.get(name);
  if (!found) {
    const row = element("svg", { class: "lane", x: GUTTER });
    const time = element("svg", { class: "time", overflow: "visible" });
    const label = element("g", { class: "label" });
    row.append(time);
    $("timeline-picture").append(label, row);
    found = { row, label, time, text: "" };
    rows.set(name, found);
  }
  const key = [y, height, width, scale, from].join();
  if (found.row.dataset.key !== key) {
    found.row.dataset.key = key;
    for (const [at, value] of Object.entries({ y, height, width })) found.row.setAttribute(at, String(value));
    percentOf(found.time, scale, from, height);
    found.label.setAttribute("transform", `translate(0 ${y + height / 2})`);
  }
  return found;
}

/** @param {{ label: SVGGElement, text: string }} row @param {string} text @param {string} [colour] @param {boolean} [lost] */
function label(row, text, colour = "", lost = false) {
  const key = [text, colour, lost].join();
  if (row.text === key) return;
  row.text = key;
  const left = colour ? 18 : 2;
  const shown = textIn(text, GUTTER - left - 8);
  const name = element("text", { x: left, y: 4, class: lost ? "lost" : "" }, shown);
  const swatch = element("rect", { x: 2, y: -6, width: 11, height: 11, rx: 2, fill: colour });
  row.label.replaceChildren(element("title", {}, text), ...(colour ? [swatch] : []), name);
}

/**
 * @param {{ time: SVGSVGElement }} row @param {import("./turns.js").Turn} turn @param {string} key
 * @param {{ begin: number, before: number, height: number, scale: number, now: number, room: import("./lanes.js").Room }} place
 */
function drawBar(row, turn, key, { begin, before, height, scale, now, room }) {
  const { claimed, computed, stored, failed, deliveries } = turn;
  const wide = (endOf(turn, now) - begin) * scale;
  const name = grouped === "lanes" && hasRoomFor(turn.worker, wide) ? turn.worker : "";
  const open = stored === undefined && failed === undefined;
  const at = [begin, claimed, computed, stored, failed, open && now];
  const text = [...at, deliveries, height, wide > 24, name, room].join();
  let found = bars.get(key);
  if (found?.text === text) return;
  if (!found) {
    const bar = element("g", { class: "turn", role: "button", tabindex: -1, "data-band": turn.band });
    bar.setAttribute("aria-pressed", String(turn.band === marked));
    found = { bar, text };
    bars.set(key, found);
  }
  if (found.bar.parentNode !== row.time) row.time.append(found.bar);
  found.text = text;
  fillBar(found.bar, turn, {
    begin,
    before,
    end: endOf(turn, now),
    height,
    wide,
    name,
    colour: colourOf(turn.worker),
    room,
  });
  found.bar.setAttribute("aria-label", figuresOf(turn, Boolean(job?.workers)));
}

/** @param {EventTarget | null} target @returns {SVGGElement | null} */
const barOf = (target) => /** @type {Element} */ (target).closest?.("[data-tell], [data-band]") ?? null;

/** Shows the figures of a bar under the picture. @param {SVGGElement | null} bar */
function tell(bar) {
  const pressed = bar ?? $("timeline-picture").querySelector('[aria-pressed="true"]');
  const text = pressed?.getAttribute("aria-label") ?? t.tellHow;
  if ($("timeline-tell").textContent !== text) $("timeline-tell").textContent = text;
}

/** Makes one bar the tab stop. @param {SVGGElement} bar */
function rove(bar) {
  for (const other of $("timeline-picture").querySelectorAll('[tabindex="0"]')) other.setAttribute("tabindex", "-1");
  bar.setAttribute("tabindex", "0");
}

/** Arrows: the neighbours in time, and the rows above and below. @param {KeyboardEvent} event */
function onKey(event) {
  const bar = barOf(event.target);
  const zooms = { "+": 0.5, "-": 2, 0: 0 };
  if (event.key in zooms && !event.ctrlKey && !event.metaKey) {
    const by = zooms[/** @type {keyof typeof zooms} */ (event.key)];
    return by ? view.zoomBy(by) : view.zoomTo(null);
  }
  if (!bar) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    return onMark(Number(bar.dataset.band) === marked ? null : Number(bar.dataset.band));
  }
  const next = neighbour(bar, event.key);
  if (!next) return;
  event.preventDefault();
  rove(next);
  next.focus();
}

/** @param {SVGGElement} bar @param {string} key @returns {SVGGElement | undefined} */
function neighbour(bar, key) {
  const lane = [.../** @type {Element} */ (bar.parentNode).querySelectorAll("[data-band]")];
  const at = lane.indexOf(bar);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: lane.length - 1 }[key];
  if (to !== undefined) return /** @type {SVGGElement} */ (lane[to]);
  if (key !== "ArrowUp" && key !== "ArrowDown") return undefined;
  const lanes = [...$("timeline-picture").querySelectorAll(".time:has([data-band])")].sort(
    (a, b) => Number(a.parentNode.getAttribute("y")) - Number(b.parentNode.getAttribute("y")),
  );
  const other = lanes[lanes.indexOf(bar.parentNode) + (key === "ArrowUp" ? -1 : 1)];
  const x = bar.getBoundingClientRect().left;
  const far = (/** @type {Element} */ of) => Math.abs(of.getBoundingClientRect().left - x);
  return [...(other?.querySelectorAll("[data-band]") ?? [])].sort((a, b) => far(a) - far(b))[0];
}
