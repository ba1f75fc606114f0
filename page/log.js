/**
 * The log under the timeline: what went wrong in the job on the stage, the latest last. A line of a band marks it.
 *
 * Not here: where the incidents come from (turns.js), the lights of now (pipeline.js).
 */

import { seconds } from "./figures.js";
import { isOpen } from "./job.js";
import { onJob } from "./jobs.js";
import { onSystem, system } from "./system.js";
import { number, t } from "./words.js";

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

/** @typedef {{ at: number, text: string, band?: number, bad: boolean }} Line */

/** @type {import("./jobs.js").Job | null} */
let job = null;
/** The changes of the lights while a job was open. @type {WeakMap<import("./jobs.js").Job, Map<string, { at: number, backend: string, up: boolean }>>} */
const outages = new WeakMap();
/** @type {(band: number) => void} */
let onMark = () => {};

/** @param {(band: number) => void} marks called when the line of a band was chosen */
export function setUpLog(marks) {
  onMark = marks;
  onJob.add((changed) => changed === job && renderLog());
  onSystem.add(() => {
    if (job && isOpen(job)) noteLights(job);
    renderLog();
  });
}

/** @param {import("./jobs.js").Job | null} other */
export function showLog(other) {
  job = other;
  renderLog();
}

/** A light that went out, or came back, since the job began. @param {import("./jobs.js").Job} of */
function noteLights(of) {
  const began = of.status.times?.began;
  if (began === undefined) return;
  const noted = outages.get(of) ?? new Map();
  outages.set(of, noted);
  const coordinator = { up: !system.silent, since: began + Date.now() - of.start };
  for (const [backend, light] of Object.entries({ ...system.backends, coordinator })) {
    const wasOut = [...noted.values()].findLast((line) => line.backend === backend)?.up === false;
    if (light.since < began || light.up !== wasOut) continue;
    noted.set(`${backend} ${light.since}`, { at: light.since - began, backend, up: light.up });
  }
}

/** @param {import("./jobs.js").Job} of @returns {Line[]} */
function linesOf(of) {
  const incidents = [...of.trace.incidents.values()].map(({ what, at, band, worker = "", by, error }) => {
    const no = band === undefined ? "" : number(band);
    const who = worker === "foreign" ? t.thirdParty : worker;
    const texts = {
      lost: () => t.lostLine(who, no, by ?? ""),
      threw: () => t.threwLine(who, no),
      failed: () => t.failedLine(no),
    };
    return { at, band, bad: true, text: [texts[what]?.() ?? what, error].filter(Boolean).join(" ") };
  });
  const lights = [...(outages.get(of)?.values() ?? [])].map(({ at, backend, up }) => {
    const name = { redis: "Redis", rabbitmq: "RabbitMQ" }[backend] ?? t.theCoordinator;
    return { at, band: undefined, bad: !up, text: up ? t.backLine(name) : t.awayLine(name) };
  });
  return [...incidents, ...lights].sort((a, b) => a.at - b.at);
}

export function renderLog() {
  const lines = job ? linesOf(job) : [];
  $("log").hidden = lines.length === 0;
  const key = lines.map(({ at, text }) => `${at} ${text}`).join("\n");
  if ($("log").dataset.key === key) return;
  $("log").dataset.key = key;
  const items = lines.map(({ at, text, band, bad }) => {
    const item = document.createElement("li");
    item.toggleAttribute("data-bad", bad);
    const time = document.createElement("span");
    time.className = "soft";
    time.textContent = seconds(at);
    const line = document.createElement(band === undefined ? "span" : "button");
    line.textContent = text;
    if (band !== undefined) {
      line.setAttribute("type", "button");
      line.className = "bare";
      line.addEventListener("click", () => onMark(band));
    }
    item.append(time, " ", line);
    return item;
  });
  const focused = [...$("log-lines").querySelectorAll("button")].indexOf(document.activeElement);
  $("log-lines").replaceChildren(...items);
  if (focused >= 0) $("log-lines").querySelectorAll("button")[focused]?.focus();
}
