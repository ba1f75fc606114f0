/**
 * The experiment: runs the chosen picture with 1, 2, … N workers, three times each, and charts the times.
 *
 * A time runs from sending the PUT to the event of the last band. The bytes of the picture are in memory, no other job
 * is sent, and no picture of a band is fetched. Each round runs every number of workers once, so that a slow moment does
 * not affect only one of them.
 *
 * Not here: the arithmetic and the charts (speedup.js).
 */
import { isOpen, queryOf } from "./job.js";
import { hold, jobs, onJob, repeat } from "./jobs.js";
import { sameCut } from "./runs.js";
import { ask, fleet, follow, onFleet, Problem, upload } from "./server.js";
import { csvOf, median, panels, summarize, svgOf } from "./speedup.js";
import { choose } from "./stage.js";
import { newId } from "./store.js";
import { lang, number, remember, remembered, t } from "./words.js";

const RUNS = 3;
/** The most experiments that are kept. */
const MAX_KEPT = 8;
/** The task of real work. */
const HEAVY = "median";
/** A band that is computed in less than this is hardly more than its transport, ms. */
const MIN_WORK_MS = 15;

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

/** @type {import("./jobs.js").Job | null} */
let picture = null;
/**
 * What was measured, on what and when, ms since 1970.
 * @typedef {object} Result
 * @property {string} name @property {string} task @property {string} query
 * @property {number} machines @property {number} cores @property {number} date
 * @property {import("./speedup.js").Measured[]} measured
 */
/** The last of them first; kept over a reload. @type {Result[]} */
const results = kept();
/** @type {Result | null} */
let result = results[0] ?? null;
/** What is rendered now, as a key. */
let shown = "";
/** @type {AbortController | null} */
let running = null;
/** The progress, or why it ended. A function, because the language may change. @type {() => string} */
let status = () => "";

export function setUpExperiment() {
  $("measure").addEventListener("click", run);
  $("stop").addEventListener("click", () => running?.abort());
  $("csv").addEventListener("click", () => save(csvText(), "text/csv", "csv"));
  $("svg").addEventListener("click", () => save(figureOf(result) ?? "", "image/svg+xml", "svg"));
  $("light-change").addEventListener("click", () => {
    const job = picture && repeat(picture, null, { task: HEAVY, query: "", cut: "" });
    if (job) choose(job);
  });
  onFleet.add(renderExperiment);
  onJob.add((_, what) => what !== "progress" && renderExperiment());
}

/** Sets the picture to measure. @param {import("./jobs.js").Job | null} job */
export function choosePicture(job) {
  picture = job;
  renderExperiment();
}

const summary = () => summarize(result?.measured ?? []);

/** @returns {Result[]} */
function kept() {
  try {
    return JSON.parse(remembered("experiments") ?? "[]");
  } catch {
    return [];
  }
}

/** Picture, task, workers, machines and date of an experiment. @param {Result} of */
function captionOf({ name, task, query, measured, machines, cores, date }) {
  const when = new Date(date).toLocaleString(lang, { dateStyle: "medium", timeStyle: "short" });
  return [name, task, ...(query ? query.split("&") : []), t.fleet(measured.length, machines, cores), when].join(" · ");
}

/** The figure of an experiment as a file, if there is one. @param {Result | null | undefined} of */
export function figureOf(of) {
  return of ? svgOf(summarize(of.measured), t, write, captionOf(of)) : null;
}

/** The latest experiment with a picture of this name. @param {string} name */
export const experimentOf = (name) => results.find((other) => other.name === name);

function csvText() {
  if (!result) return "";
  const { name: picture, task, query: parameters, machines, cores, date } = result;
  const about = { picture, task, parameters, machines, cores, date: new Date(date).toISOString() };
  return csvOf(summary(), about, write(0.5, 1).includes(","));
}
const write = (/** @type {number} */ value, digits = 0) =>
  number(value, { minimumFractionDigits: digits, maximumFractionDigits: digits });

/** @param {string} text @param {string} type @param {string} extension */
function save(text, type, extension) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = `${result?.name.replace(/\.[^.]*$/, "") || "picture"}.speedup.${extension}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function run() {
  const maxWorkers = fleet.workers?.length ?? 0;
  if (!picture?.file || maxWorkers < 2) return;
  const { name, file, task, query } = picture;
  const what = { task, query, cut: sameCut(picture, maxWorkers) };
  const measured = Array.from({ length: maxWorkers }, (_, i) => ({
    workers: i + 1,
    times: /** @type {number[]} */ ([]),
  }));
  const stop = new AbortController();
  running = stop;
  hold(true);
  const hosts = new Set(fleet.workers?.map(({ host }) => host));
  result = { name, task, query, measured, machines: hosts.size, cores: cores(), date: Date.now() };
  try {
    const bytes = new Blob([await file.arrayBuffer()]); // no disk is read from here on
    status = () => t.warmUp;
    renderExperiment();
    await timed(bytes, what, maxWorkers, stop.signal);
    for (let round = 0; round < RUNS; round++) {
      for (const row of measured) {
        const at = round * maxWorkers + row.workers;
        status = () => t.runOf(at, RUNS * maxWorkers, row.workers);
        renderExperiment();
        row.times.push(await timed(bytes, what, row.workers, stop.signal));
      }
    }
    results.unshift(result);
    results.splice(MAX_KEPT);
    remember("experiments", JSON.stringify(results));
    status = () => "";
  } catch (error) {
    const problem = error instanceof Problem ? error : new Problem(0);
    status = () => (stop.signal.aborted ? t.stopped : `${problem.title}. ${problem.detail ?? ""}`);
  }
  running = null;
  hold(false);
  renderExperiment();
}

/**
 * Sends the picture as a job of its own, waits for its end, and deletes it.
 * @param {Blob} bytes @param {import("./job.js").Asked} what @param {number} workers @param {AbortSignal} signal
 * @returns {Promise<number>} ms
 */
async function timed(bytes, what, workers, signal) {
  signal.throwIfAborted();
  const id = newId();
  const { promise: listening, resolve: listens } = Promise.withResolvers();
  const { promise: done, resolve, reject } = Promise.withResolvers();
  done.catch(() => {}); // it may fail before it is awaited
  const unfollow = follow([id], (name, data) => {
    if (name === "unknown") listens(undefined);
    if (name === "done") resolve(performance.now());
    if (name === "failed") reject(new Problem("job", data.error));
  });
  const abort = () => reject(new Problem(0));
  signal.addEventListener("abort", abort);
  try {
    await Promise.race([listening, done]);
    const start = performance.now();
    await Promise.race([upload(`/jobs/${id}?${queryOf({ ...what, workers })}`, bytes, signal, () => {}), done]);
    return (await done) - start;
  } finally {
    signal.removeEventListener("abort", abort);
    unfollow();
    await ask(`/jobs/${id}`, { method: "DELETE" }).catch(() => {}); // the job expires anyway
  }
}

/** Cores of all machines with workers. */
function cores() {
  const hosts = new Map(fleet.workers?.map(({ host, cores: own }) => [host, own]));
  return [...hosts.values()].reduce((sum, own) => sum + (own || 0), 0);
}

/** Why the experiment cannot start; empty when it can. @param {number} maxWorkers @param {boolean} others */
function whyNot(maxWorkers, others) {
  if (!picture || picture.phase === "failed") return t.needsPicture;
  if (!picture.file) return t.needsFile;
  if (maxWorkers < 2) return t.needsTwo;
  return others ? t.needsQuiet : "";
}

export function renderExperiment() {
  const maxWorkers = fleet.workers?.length ?? 0;
  const others = !running && jobs.some(isOpen);
  const why = whyNot(maxWorkers, others);
  $("measure").textContent = t.measure(Math.max(2, maxWorkers));
  $("measure").disabled = running !== null || why !== "";
  $("stop").hidden = !running;
  const text = running ? status() : why || status();
  if ($("measuring").textContent !== text) $("measuring").textContent = text;
  const few = cores() > 0 && cores() < maxWorkers && maxWorkers >= 2;
  $("cores").hidden = !few;
  $("cores").textContent = few ? t.fewCores(cores(), maxWorkers) : "";
  renderLight();
  renderResult();
}

/** Proposes the task of real work, where the bands of this one are computed too fast for a speed-up. */
function renderLight() {
  const done = /** @type {any[]} */ ([...(picture?.doneBands.values() ?? [])]);
  const work = done.length > 0 ? median(done.map(({ ms }) => ms)) : Infinity;
  // Fetched and decoded, stored and acknowledged; NaN where a worker reports no times.
  const carried = median(done.map(({ taken, claimed, computed, stored }) => claimed - taken + stored - computed));
  const light =
    picture?.phase === "done" &&
    picture.status.kind !== "list" &&
    picture.file !== null &&
    (work < MIN_WORK_MS || work < 2 * carried);
  const offered = fleet.all.some(({ tasks }) => tasks.includes(HEAVY));
  $("light").hidden = !light || !offered || picture?.task === HEAVY;
  if ($("light").hidden) return;
  $("light-text").textContent = t.light(picture?.task ?? "", `${write(work, 1)} ms`, HEAVY);
  $("light-change").textContent = t.useHeavy(HEAVY);
}

const box = (/** @type {string} */ inside) => `<svg viewBox="0 0 320 250" aria-hidden="true">${inside}</svg>`;

function renderResult() {
  // Anything else would take the focus from a button.
  const key = JSON.stringify([lang, running !== null, result, results]);
  if (shown === key) return;
  shown = key;
  const { rows, serial } = summary();
  const some = rows.length > 1;
  $("figures").hidden = !some;
  if (!some) return;
  for (const name of ["csv", "svg"]) $(name).disabled = running !== null;
  $("charts").innerHTML = panels({ rows, serial }, t, write).map(box).join("");
  $("charts").setAttribute("aria-label", t.chart);
  $("caption").textContent = result ? captionOf(result) : "";
  renderEarlier();
  $("serial").textContent = t.serial(number(serial, { style: "percent", maximumFractionDigits: 1 }));
  $("key-measured").textContent = t.measured;
  $("key-ideal").textContent = t.ideal;
  $("key-law").textContent = t.amdahl;
  const cells = rows.map(({ workers, times, median, speedup, efficiency }) => [
    write(workers),
    times.map((ms) => write(ms / 1000, 3)).join(" · "),
    write(median / 1000, 3),
    write(speedup, 2),
    number(efficiency, { style: "percent" }),
  ]);
  const line = (/** @type {string[]} */ row) => {
    const tr = document.createElement("tr");
    tr.append(
      ...row.map((text, i) => {
        const cell = document.createElement(i === 0 ? "th" : "td");
        if (i === 0) cell.setAttribute("scope", "row");
        cell.textContent = text;
        return cell;
      }),
    );
    return tr;
  };
  $("rows").replaceChildren(...cells.map(line));
}

/** The experiments that are kept, side by side; a click shows one with its times. */
function renderEarlier() {
  const items = results.map((other) => {
    const all = summarize(other.measured);
    const best = t.best(write(Math.max(...all.rows.map(({ speedup }) => speedup)), 2));
    const [item, show, caption] = ["li", "button", "span"].map((kind) => document.createElement(kind));
    show.innerHTML = box(panels(all, t, write)[1]);
    caption.textContent = `${captionOf(other)}: ${best}`;
    show.append(caption);
    if (other === result) show.setAttribute("aria-current", "true");
    show.toggleAttribute("disabled", running !== null);
    show.addEventListener("click", () => {
      result = other;
      renderResult();
      /** @type {HTMLElement | null} */ ($("earlier").querySelector("[aria-current]"))?.focus();
    });
    item.append(show);
    return item;
  });
  $("earlier").hidden = results.length < 2;
  $("earlier").replaceChildren(...items);
}
