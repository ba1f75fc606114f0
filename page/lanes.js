/**
 * The pictures inside the timeline: axis, bars, the strip of the queue's depth, the coordinator's lane, and the SVG file.
 *
 * Not here: which bars there are and where (timeline.js).
 */
import { number, t } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
/** The width of a nested `<svg class="time">`, ms: a time is a percentage of it. */
const SCALE_MS = 1000;
/** Attributes of an `<svg>` whose x axis is in ms, stretched to its row. */
const STRETCHED = { x: 0, width: "100%", preserveAspectRatio: "none", overflow: "visible" };
/** Width of a letter, px. */
const LETTER = 7;

/** The colours of the file are those of the light page. */
const FILE_STYLE = `text{font:12px system-ui,sans-serif;fill:#14191b}.axis text,.depth-max{fill:#556167;font-size:11px}
.grid{stroke:#d3dadc}.fetch{fill:#9faab0}.store{fill:#56616a}.wait{stroke:#9faab0;stroke-width:1.5}.depth{fill:#cfd8da}
.gone{fill:none;stroke:#a3261b;stroke-dasharray:3 2}.cross{stroke:#a3261b;stroke-width:1.5;fill:none}.why,.lost{fill:#a3261b}.lost{text-decoration:line-through}
.cut{fill:#cfd8da}.tick{stroke:#56616a;opacity:.45}.merge,.serial{fill:#56616a}.own{font-size:11px;text-anchor:middle;paint-order:stroke;stroke:#cfd8da;stroke-width:4px}.no{font-size:11px;text-anchor:middle}.back{fill:#fff}`;

/**
 * @template {keyof SVGElementTagNameMap} K
 * @param {K} kind @param {Record<string, string | number>} [attributes] @param {string} [text]
 * @returns {SVGElementTagNameMap[K]}
 */
export function element(kind, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  if (text) made.textContent = text;
  return made;
}

const percent = (/** @type {number} */ ms) => `${((100 * ms) / SCALE_MS).toFixed(4)}%`;

/** Places a nested `<svg>` so that `from` is at its row's left edge. @param {SVGSVGElement} time @param {number} scale px per ms @param {number} from @param {number} height */
export function percentOf(time, scale, from, height) {
  const place = { x: -from * scale, width: SCALE_MS * scale, height };
  for (const [name, value] of Object.entries(place)) time.setAttribute(name, String(value));
}

/** The end of a name says most. @param {string} text @param {number} width px */
export function textIn(text, width) {
  const letters = Math.floor(width / LETTER);
  return text.length > letters ? `…${text.slice(1 - letters)}` : text;
}

/** Grid and axis. @param {SVGSVGElement} svg @param {{ width: number, tall: number, gutter: number, from: number, to: number }} view */
export function axisOf(svg, { width, tall, gutter, from, to }) {
  svg.querySelector(".axis")?.remove();
  const axis = element("g", { class: "axis", "aria-hidden": "true" });
  const scale = (width - gutter) / (to - from);
  const step = niceStep(90 / scale);
  const unit = to < 1000 ? 1 : 1000;
  const digits = Math.max(0, -Math.floor(Math.log10(step / unit) + 1e-9));
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) {
    const x = gutter + (at - from) * scale;
    if (x > width - 8) break;
    const text = `${number(at / unit, { minimumFractionDigits: digits, maximumFractionDigits: digits })} ${unit === 1 ? "ms" : "s"}`;
    axis.append(element("path", { class: "grid", d: `M${x.toFixed(1)} 0V${tall - 20}` }));
    axis.append(
      element(
        "text",
        { x: Math.min(x, width - 24).toFixed(1), y: tall - 5, "text-anchor": x > gutter + 12 ? "middle" : "start" },
        text,
      ),
    );
  }
  svg.prepend(axis);
  if (svg.querySelector("defs")) return;
  const defs = element("defs");
  const hatch = element("pattern", {
    id: "hatch",
    width: 6,
    height: 6,
    patternUnits: "userSpaceOnUse",
    patternTransform: "rotate(45)",
  });
  hatch.append(element("path", { d: "M0 0V6", stroke: "#14191b", "stroke-opacity": 0.75, "stroke-width": 2.4 }));
  defs.append(hatch);
  svg.prepend(defs);
}

/** 1, 2 or 5 times a power of ten, at least `min`. @param {number} min */
function niceStep(min) {
  const power = 10 ** Math.floor(Math.log10(min));
  return power * /** @type {number} */ ([1, 2, 5, 10].find((by) => by * power >= min));
}

/** Whether a bar has room for its band and the name of its worker. @param {string} name @param {number} wide px */
export const hasRoomFor = (name, wide) => wide > 40 + LETTER * name.length;

/**
 * The bar of one turn.
 * @param {SVGGElement} bar @param {import("./turns.js").Turn} turn
 * @param {{ begin: number, before: number, end: number, height: number, wide: number, name: string, colour: string, room: Room }} place
 */
export function fillBar(bar, turn, { begin, before, end, height, wide, name, colour, room }) {
  const [y, tall] = [3, height - 6];
  const rect = (
    /** @type {string} */ kind,
    /** @type {number} */ from,
    /** @type {number} */ to,
    /** @type {string} */ fill = "",
  ) =>
    element("rect", {
      class: kind,
      x: percent(from),
      y,
      width: percent(Math.max(0, to - from)),
      height: tall,
      ...(fill ? { fill } : {}),
    });
  /** @type {SVGElement[]} */
  const parts = [];
  const since = Math.max(before, turn.sent ?? begin);
  const middle = height / 2;
  if (begin > since)
    parts.push(element("line", { class: "wait", x1: percent(since), x2: percent(begin), y1: middle, y2: middle }));
  if (turn.failed !== undefined) parts.push(...gone(turn, { begin, y, tall, height, rect, room }));
  else {
    const claimed = Math.max(begin, turn.claimed ?? begin);
    const computed = Math.max(claimed, turn.computed ?? end);
    parts.push(rect("fetch", begin, claimed), rect("compute", claimed, computed, colour));
    if (turn.deliveries > 0) parts.push(rect("handed", claimed, computed, "url(#hatch)"));
    parts.push(rect("store", computed, Math.max(computed, end)));
    const at = percent((claimed + computed) / 2);
    const text = name ? `${number(turn.band)} · ${name}` : number(turn.band);
    if (wide > 24 && turn.deliveries === 0) parts.push(element("text", { class: "no", x: at, y: middle + 4 }, text));
    if (wide > 24 && turn.deliveries > 0) parts.push(element("text", { class: "no halo", x: at, y: middle + 4 }, text));
  }
  parts.push(rect("hit", begin, Math.max(begin, end)));
  bar.replaceChildren(...parts);
}

/** Where beside its cross the text of a turn without a result has room. @typedef {"right" | "left" | "none"} Room */

/** @param {import("./turns.js").Turn["why"]} why @param {number} band */
const whyOf = (why, band) => (why === "threw" ? t.threwShort : t.lostShort)(number(band));

/** @param {import("./turns.js").Turn} turn @param {number} at px from the left edge of the row @param {number} width px @returns {Room} */
export function roomOf({ why, band }, at, width) {
  const text = 20 + LETTER * whyOf(why, band).length;
  return at + text <= width ? "right" : at >= text ? "left" : "none";
}

/**
 * A turn without a result: an empty box, crossed out.
 * @param {import("./turns.js").Turn} turn
 * @param {{ begin: number, y: number, tall: number, height: number, rect: (kind: string, from: number, to: number) => SVGElement, room: Room }} place
 */
function gone(turn, { begin, y, tall, height, rect, room }) {
  const { failed = begin, band } = turn;
  const cross = element("svg", { x: percent(failed), y: 0, overflow: "visible", width: 1, height });
  const middle = height / 2;
  cross.append(element("path", { class: "cross", d: `M4 ${middle - 4}l8 8m0 -8l-8 8` }));
  const text = whyOf(turn.why, band);
  const place = room === "left" ? { x: -3, "text-anchor": "end" } : { x: 17, "text-anchor": "start" };
  if (room !== "none") cross.append(element("text", { class: "why", y: middle + 4, ...place }, text));
  const box = rect("gone", Math.min(begin, failed), failed);
  box.setAttribute("y", String(y + 0.5));
  box.setAttribute("height", String(tall - 1));
  return [box, cross];
}

/** The depth of the queue. @param {SVGSVGElement} time @param {[number, number][]} steps @param {number} end */
export function fillDepth(time, steps, end) {
  const top = Math.max(1, ...steps.map(([, depth]) => depth));
  const key = `${steps.length} ${end} ${top}`;
  if (time.dataset.key === key) return;
  time.dataset.key = key;
  // In ms and bands, stretched to the row.
  const room = element("svg", { ...STRETCHED, y: 4, height: 24, viewBox: `0 0 ${SCALE_MS} ${top}` });
  const path = steps.map(([at, depth], i) => `${i === 0 ? `M${at} ${top}` : ""}H${at}V${top - depth}`).join("");
  room.append(element("path", { class: "depth", d: path ? `${path}H${end}V${top}Z` : "" }));
  time.replaceChildren(room);
}

/**
 * The coordinator's own lane: reading and cutting until the last band is in the queue, each cut a tick; then the merge.
 * @param {SVGSVGElement} time @param {import("./jobs.js").Job} of @param {import("./turns.js").Turn[]} turns
 * @param {{ height: number, scale: number, now: number }} view
 */
export function fillOwn(time, { status, doneBands }, turns, { height, scale, now }) {
  const { cut, enqueued, merged, done } = status.times ?? {};
  const sent = turns.flatMap(({ sent }) => sent ?? []);
  const last = sent.reduce((most, at) => Math.max(most, at), 0);
  const until = enqueued ?? Math.max(last, doneBands.size < (status.bands ?? 0) ? Math.min(now, last) : 0);
  const key = [sent.length, until, cut, merged?.at, height, scale > 0 && (until * scale).toFixed(0), t.cutting].join();
  if (time.dataset.key === key) return;
  time.dataset.key = key;
  const [y, tall] = [5, height - 10];
  const serial = cut == null ? "" : number(cut, { maximumFractionDigits: 0 });
  const box = element("g", {
    "data-tell": "",
    role: "img",
    "aria-label": t.cutFor(serial, number(until, { maximumFractionDigits: 0 })),
  });
  box.append(element("rect", { class: "cut", x: 0, y, width: percent(until), height: tall }));
  // How long each cut took is not known: only the sum, and when each ended.
  const each = (cut ?? 0) / Math.max(1, sent.length);
  const room = element("svg", { ...STRETCHED, y, height: tall, viewBox: `0 0 ${SCALE_MS} 1` });
  const cuts = sent.map((at) => `M${Math.max(0, at - each)} 0H${at}V1H${Math.max(0, at - each)}z`);
  room.append(element("path", { class: "serial", d: cuts.join("") }));
  room.append(
    element("path", {
      class: "tick",
      d: sent.map((at) => `M${at} 0V1`).join(""),
      "vector-effect": "non-scaling-stroke",
    }),
  );
  box.append(room);
  const text = serial ? `${t.cutting}: ${serial} ms` : t.cutting;
  if (until * scale > 130) {
    box.append(element("text", { class: "own", x: percent(until / 2), y: height / 2 + 4 }, text));
  }
  time.replaceChildren(box);
  if (!merged || done == null) return;
  // Drawn after the last band: the request for the result may have come minutes later.
  const end = element("g", {
    "data-tell": "",
    role: "img",
    "aria-label": t.mergedIn(number(merged.ms, { maximumFractionDigits: 1 })),
  });
  end.append(element("rect", { class: "merge", x: percent(done), y, width: percent(merged.ms), height: tall }));
  time.append(end);
}

/** The picture as a file. @param {SVGSVGElement} svg @param {string} title */
export function dressed(svg, title) {
  const copy = /** @type {SVGSVGElement} */ (svg.cloneNode(true));
  const [, , width, height] = (copy.getAttribute("viewBox") ?? "0 0 1 1").split(" ");
  for (const name of ["role", "aria-label", "id", "class"]) copy.removeAttribute(name);
  copy.setAttribute("width", width);
  copy.setAttribute("xmlns", SVG);
  for (const node of copy.querySelectorAll("[role], [data-key]")) {
    for (const name of ["role", "tabindex", "aria-pressed", "data-key"]) node.removeAttribute(name);
    const label = node.getAttribute("aria-label");
    if (label) node.prepend(element("title", {}, label));
    node.removeAttribute("aria-label");
  }
  for (const hit of copy.querySelectorAll(".hit")) hit.remove();
  copy.prepend(
    element("title", {}, title),
    element("style", {}, FILE_STYLE),
    element("rect", { class: "back", width, height }),
  );
  return new XMLSerializer().serializeToString(copy);
}
