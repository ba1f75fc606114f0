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
import { number, t } from "./words.js";

const RUNS = 3;
/** The task of real work. */
const HEAVY = "median";
/** A band that is computed in less than this is hardly more than its transport, ms. */
const MIN_WORK_MS = 15;

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

/** @type {import("./jobs.js").Job | null} */
let picture = null;
/** @type {{ name: string, measured: import("./speedup.js").Measured[], complete: boolean } | null} */
let result = null;
/** @type {AbortController | null} */
let running = null;
/** The progress, or why it ended. A function, because the language may change. @type {() => string} */
let status = () => "";

export function setUpExperiment() {
  $("measure").addEventListener("click", run);
  $("stop").addEventListener("click", () => running?.abort());
  $("csv").addEventListener("click", () => save(csvOf(summary()), "text/csv", "csv"));
  $("svg").addEventListener("click", () =>
    save(svgOf(summary(), t, write, result?.name ?? ""), "image/svg+xml", "svg"),
  );
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
  result = { name, measured, complete: false };
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
    result.complete = true;
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

function renderResult() {
  const { rows, serial } = summary();
  const some = rows.length > 1;
  $("figures").hidden = !some;
  if (!some) return;
  for (const name of ["csv", "svg"]) $(name).disabled = running !== null;
  const box = (/** @type {string} */ inside) => `<svg viewBox="0 0 320 250" aria-hidden="true">${inside}</svg>`;
  $("charts").innerHTML = panels({ rows, serial }, t, write).map(box).join("");
  $("charts").setAttribute("aria-label", t.chart);
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
