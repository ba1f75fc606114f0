/**
 * A data result on the stage: its JSON, and bars where it is a list of numbers.
 *
 * Not here: pictures (compare.js).
 */
import { element } from "./lanes.js";
import { number, t } from "./words.js";

/** Limit of a data result on the page, characters. The download is complete. */
const MAX_TEXT = 20_000;
const MAX_BARS = 1024;
/** A result that is shown large, characters. */
const SHORT = 24;

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

export function setUpData() {
  for (const id of ["data-bars", "data-json"]) $(id).addEventListener("click", () => look(id));
}

/** @param {string} id of the pressed button */
function look(id) {
  $("data").hidden = id === "data-bars";
  $("bars-picture").toggleAttribute("hidden", id !== "data-bars");
  for (const other of ["data-bars", "data-json"]) $(other).setAttribute("aria-pressed", String(other === id));
}

/** @param {unknown} value of the result; undefined: none yet */
export function showData(value) {
  $("data").textContent = value === undefined ? "" : jsonOf(value).slice(0, MAX_TEXT);
  $("data").toggleAttribute("data-short", $("data").textContent.length <= SHORT);
  const isList = Array.isArray(value) && value.length > 1 && value.length <= MAX_BARS;
  const bars = isList && value.every((item) => Number.isFinite(item) && item >= 0);
  $("data-views").hidden = !bars;
  $("bars-picture").replaceChildren(...(bars ? partsOf(value) : []));
  if (bars) $("bars-picture").setAttribute("aria-label", t.barsOf(number(value.length), number(Math.max(...value))));
  look(bars ? "data-bars" : "data-json");
}

/** Indented JSON, with lists of numbers on one line. @param {unknown} value */
export function jsonOf(value) {
  return JSON.stringify(value, null, 2).replace(/\[[\d\s,.eE+-]*\]/g, (list) => list.replace(/\s+/g, " "));
}

/** Bars of 256 or so numbers, with a few values below and the largest at its top. @param {number[]} values */
function partsOf(values) {
  const [width, height] = [1000, 400];
  const top = Math.max(1, ...values);
  const step = width / values.length;
  const path = values
    .map((value, i) => {
      const tall = Math.max(value > 0 ? 1 : 0, (value / top) * (height - 80));
      return `M${(i * step).toFixed(2)} ${height - 40}v${(-tall).toFixed(2)}h${(step * 0.86).toFixed(2)}v${tall.toFixed(2)}z`;
    })
    .join("");
  const most = values.indexOf(Math.max(...values));
  const at = Math.min(width - 60, Math.max(60, (most + 0.5) * step));
  const marks = [0, 0.25, 0.5, 0.75, 1].map((part) => {
    const i = Math.round(part * (values.length - 1));
    const anchor = part === 0 ? "start" : part === 1 ? "end" : "middle";
    return element("text", { x: (i + 0.5) * step, y: height - 8, "text-anchor": anchor }, number(i));
  });
  return [
    element("path", { stroke: "var(--soft)", d: `M0 ${height - 39.5}h${width}` }),
    element("path", { class: "values", d: path }),
    element("text", { x: at, y: 30, "text-anchor": "middle" }, `${number(most)}: ${number(top)}`),
    ...marks,
  ];
}
