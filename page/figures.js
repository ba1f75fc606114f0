/**
 * The figures of a turn in words, for its bar, and the format of times and sizes.
 *
 * Not here: the bars (lanes.js), the turns (turns.js).
 */
import { number, t } from "./words.js";

/** @param {import("./turns.js").Turn} turn @param {boolean} inLanes */
export function figuresOf(turn, inLanes) {
  const { band, worker, lane, sent, taken, claimed, computed, stored, ms, deliveries, failed, why, lost } = turn;
  const span = (
    /** @type {string} */ name,
    /** @type {number | undefined} */ a,
    /** @type {number | undefined} */ b,
  ) => (a === undefined || b === undefined ? "" : `${name} ${millis(b - a)}`);
  return [
    t.bandNo(number(band)),
    worker === "foreign" ? t.thirdParty : worker,
    inLanes && lane !== undefined ? t.lane(lane + 1).toLowerCase() : "",
    why && (why === "threw" ? t.threwShort : t.lostShort)(number(band)),
    span(t.inQueue, sent, taken),
    span(t.fetched, taken, claimed),
    span(t.computed, claimed, computed) || (ms ? `${t.computed} ${millis(ms)}` : ""),
    span(t.storedIn, computed, stored),
    failed === undefined ? "" : t.failedAt(seconds(failed)),
    deliveries > 0 && failed === undefined ? t.againAfter(lost?.join(", ") ?? "") : "",
  ]
    .filter(Boolean)
    .join(" · ");
}

const millis = (/** @type {number} */ ms) =>
  `${number(Math.max(0, ms), { maximumFractionDigits: ms < 10 ? 1 : 0 })} ms`;

/** @param {number} ms */
export const seconds = (ms) =>
  `${number(ms / 1000, { minimumFractionDigits: ms < 10_000 ? 2 : 1, maximumFractionDigits: ms < 10_000 ? 2 : 1 })} s`;

/** @param {number} bytes */
export function fileSize(bytes) {
  if (bytes < 1e3) return `${bytes} B`;
  const [scale, unit] = bytes < 1e6 ? [1e3, "kilobyte"] : [1e6, "megabyte"];
  return number(bytes / scale, { style: "unit", unit, maximumFractionDigits: 1 });
}

/** @param {number} ms */
export function elapsed(ms) {
  const seconds = Math.floor(ms / 100) / 10;
  if (seconds < 60) return `${number(seconds, { minimumFractionDigits: 1 })} s`;
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")} min`;
}
