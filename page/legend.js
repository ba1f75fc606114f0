/**
 * Who did what: bands and speed of each worker of the job on the stage. A worker that was lost is struck through. Where the
 * server allows it, buttons pause, stop and kill a worker.
 *
 * Not here: the bars of their bands (timeline.js).
 */
import { colourOf } from "./colours.js";
import { isOpen } from "./job.js";
import { ask, byName, fleet, Problem } from "./server.js";
import { system } from "./system.js";
import { lostAt } from "./turns.js";
import { number, t } from "./words.js";

const ACTIONS = /** @type {const} */ (["pause", "stop", "kill"]);
/** Signs, because words would need a second line for each worker. */
const SIGNS = { pause: "❚❚", resume: "►", stop: "■", kill: "✕" };

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

/** @type {Map<string, HTMLElement>} */
let rows = new Map();
/** @type {string | null} */
let highlighted = null;
/** @type {(worker: string | null) => void} */
let onHighlight = () => {};

/** @param {(worker: string | null) => void} highlight called with the worker whose bands are wanted; null: all */
export function setUpLegend(highlight) {
  onHighlight = highlight;
}

/** Removes the rows, for another job. */
export function clearLegend() {
  rows = new Map();
  highlighted = null;
  $("legend").replaceChildren();
}

/**
 * Live workers without a band are listed with 0, so that the layout does not jump.
 * @param {import("./jobs.js").Job} of
 */
export function renderLegend(of) {
  const isList = of.status.kind === "list";
  const shares = sharesOf(of, isList);
  const names = [...shares.keys()].sort(byName);
  for (const [at, name] of names.entries()) {
    const share = shares.get(name);
    const row = rows.get(name) ?? newRow(name);
    const set = (/** @type {string} */ part, /** @type {string} */ text) => {
      const node = /** @type {HTMLElement} */ (row.querySelector(part));
      if (node.textContent !== text) node.textContent = text;
    };
    set("b", number(share.bands));
    const speed = share.ms > 0 ? share.pixels / share.ms / 1000 : 0;
    const digits = { maximumFractionDigits: speed < 10 ? 1 : 0 };
    set(".speed", speed ? `${number(speed, digits)} ${isList ? "/s" : "Mpx/s"}` : "–");
    const lost = lostAt(of, name) !== undefined;
    row.toggleAttribute("data-lost", lost);
    set(".gone", lost ? t.lostNow : pausedOf(name) ? t.paused : "");
    set(".again", share.again ? `↻ ${t.takenOver(share.again)}` : "");
    const bar = /** @type {HTMLElement} */ (row.querySelector("i"));
    bar.style.transform = `scaleX(${of.status.bands ? share.bands / of.status.bands : 0})`;
    renderOrders(row, name, lost);
    if ($("legend").children[at] !== row) $("legend").insertBefore(row, $("legend").children[at] ?? null);
  }
  $("legend-head").hidden = rows.size === 0;
}

/** @param {import("./jobs.js").Job} of @param {boolean} isList @returns {Map<string, any>} */
function sharesOf(of, isList) {
  const shares = new Map();
  const shareOf = (/** @type {string} */ name) => {
    if (!shares.has(name)) shares.set(name, { bands: 0, ms: 0, pixels: 0, again: 0 });
    return shares.get(name);
  };
  for (const name of rows.keys()) shareOf(name);
  if (isOpen(of)) for (const { name } of fleet.workers ?? []) shareOf(name);
  for (const { worker } of of.trace.failed.values()) shareOf(worker);
  for (const { worker, ms, rows: height, deliveries } of of.doneBands.values()) {
    const share = shareOf(worker);
    share.bands++;
    share.ms += ms;
    // A list has pieces a second where a picture has megapixels a second.
    share.pixels += height * (isList ? 1e6 : (of.status.width ?? 0));
    share.again += Number(deliveries > 0);
  }
  return shares;
}

/** @param {string} name */
const pausedOf = (name) => fleet.all.find((worker) => worker.name === name)?.paused ?? false;

/** @param {string} name */
function newRow(name) {
  const row = $("legend-row").content.firstElementChild.cloneNode(true);
  const button = row.querySelector("button");
  row.style.setProperty("--own", colourOf(name));
  row.querySelector(".worker").textContent = row.title = name;
  row.querySelector(".again").title = t.takenOverWhy;
  button.addEventListener("click", () => {
    highlighted = highlighted === name ? null : name;
    for (const [other, { firstElementChild }] of rows) {
      firstElementChild?.setAttribute("aria-pressed", String(other === highlighted));
    }
    onHighlight(highlighted);
  });
  rows.set(name, row);
  return row;
}

/** The buttons for demonstrations. @param {HTMLElement} row @param {string} name @param {boolean} lost */
function renderOrders(row, name, lost) {
  const worker = fleet.all.find((other) => other.name === name);
  const box = /** @type {HTMLElement} */ (row.querySelector(".orders"));
  const allowed = !lost && system.classroom.control && worker?.control === true;
  box.hidden = !allowed;
  const key = allowed ? [worker?.paused, t.actions.kill].join() : "";
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  const names = allowed ? ACTIONS.map((name) => (name === "pause" && worker?.paused ? "resume" : name)) : [];
  const focused = [...box.children].indexOf(/** @type {Element} */ (document.activeElement));
  box.replaceChildren(
    ...names.map((action) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.action = action;
      button.textContent = SIGNS[action];
      button.title = t.actions[action];
      button.ariaLabel = t.actionOn(t.actions[action], name);
      button.addEventListener("click", () => order(name, action));
      return button;
    }),
  );
  /** @type {HTMLElement | undefined} */ (box.children[focused])?.focus();
}

/** @param {string} name @param {"pause" | "resume" | "stop" | "kill"} action */
async function order(name, action) {
  try {
    await ask(`/workers/${encodeURIComponent(name)}/${action}`, { method: "POST" });
    $("announce").textContent = t.ordered(t.actions[action], name);
    const worker = fleet.all.find((other) => other.name === name);
    if (worker && (action === "pause" || action === "resume")) worker.paused = action === "pause";
  } catch (error) {
    $("announce").textContent = error instanceof Problem ? error.sentence : String(error);
  }
}
