/**
 * The colour of each worker, by its name: w0, w1, w2 … take the colours in their order, other names one by their hash. Where
 * two names would share a colour, the second takes the next free one. They keep them over a reload.
 *
 * Not here: where the colours are used (mosaic.js, timeline.js, legend.js).
 */
import { remember, remembered } from "./words.js";

/** Light enough for dark text and for the dark stage. The first ten are distinct for most kinds of colour blindness; the others are darker. */
const COLOURS = [
  "#4fd6be",
  "#ffb347",
  "#a99bff",
  "#ff7a70",
  "#62b6ff",
  "#c9e265",
  "#ff9bd0",
  "#d9b38c",
  "#8de8f0",
  "#e0e6e8",
  "#2aa38d",
  "#cf8420",
  "#8a7bf0",
  "#e0574b",
  "#3a93e0",
  "#98b52c",
  "#d768a8",
  "#b0855a",
  "#3fb0c2",
  "#98a6ac",
];
/** Names that are kept, the oldest first. */
const MAX_NAMES = 60;

/** @type {Map<string, number>} */
const given = new Map(stored());

/** @returns {[string, number][]} */
function stored() {
  try {
    const list = JSON.parse(remembered("colours") ?? "[]");
    return list.filter((/** @type {any} */ of) => typeof of?.[0] === "string" && COLOURS[of[1]]);
  } catch {
    return [];
  }
}

/** @param {string} worker @returns {string} `#rrggbb` */
export function colourOf(worker) {
  let index = given.get(worker);
  if (index === undefined) {
    const taken = new Set([...given.values()].slice(1 - COLOURS.length));
    const own = wantedBy(worker);
    const order = COLOURS.map((_, i) => (own + i) % COLOURS.length);
    index = /** @type {number} */ (order.find((i) => !taken.has(i)));
    given.set(worker, index);
    remember("colours", JSON.stringify([...given].slice(-MAX_NAMES)));
  }
  return COLOURS[index];
}

/** The number at the end of a name, or a hash (FNV-1a). @param {string} name */
function wantedBy(name) {
  const number = name.match(/\D(\d{1,3})$/)?.[1];
  if (number) return Number(number) % COLOURS.length;
  const hash = [...name].reduce((sum, letter) => Math.imul(sum ^ letter.charCodeAt(0), 16777619), 2166136261);
  return (hash >>> 0) % COLOURS.length;
}
