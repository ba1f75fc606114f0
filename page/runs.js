/**
 * The runs of the picture on the stage: buttons that send it again, and a table of times and speed-ups.
 *
 * The speed-up compares a run with the latest one of the same task and parameters with one worker.
 *
 * Not here: measuring several times (experiment.js).
 */
import { isOpen } from "./job.js";
import { jobs, onJob, repeat } from "./jobs.js";
import { fleet, onFleet } from "./server.js";
import { choose } from "./stage.js";
import { timeOf } from "./texts.js";
import { number, t } from "./words.js";

/** The most workers that have a button each. */
const MAX_BUTTONS = 6;

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

/** @type {import("./jobs.js").Job | null} */
let shown = null;
/** @type {() => { workers: number | null, what: import("./job.js").Asked } | null} */
let choices = () => null;

/** @param {typeof choices} ofForm what the form above asks for; null if it is invalid */
export function setUpRuns(ofForm) {
  choices = ofForm;
  $("again-chosen").addEventListener("click", () => {
    const chosen = choices();
    if (chosen) again(chosen.workers, chosen.what);
  });
  onFleet.add(renderRuns);
  onJob.add((_, what) => what !== "progress" && renderRuns());
}

/** @param {import("./jobs.js").Job | null} job */
export function showRuns(job) {
  shown = job;
  renderRuns();
}

/** @param {number | null} workers @param {import("./job.js").Asked} what */
function again(workers, what) {
  const job = shown && repeat(shown, workers, what);
  if (job) choose(job);
}

/**
 * Cuts a picture as before, so that times can be compared, if there are enough bands for the workers.
 * @param {import("./jobs.js").Job} job @param {number} workers
 */
export function sameCut({ cut, status }, workers) {
  return cut || ((status.bands ?? 0) >= workers && status.rows ? `bandRows=${status.rows}` : "");
}

/** The jobs with the same picture, the latest first. @param {import("./jobs.js").Job} of */
function runsOf(of) {
  return jobs
    .filter(({ name, size, picture }) => picture === of.picture || (name === of.name && size === of.size))
    .sort((a, b) => b.added - a.added);
}

/** @param {import("./jobs.js").Job} run @param {import("./jobs.js").Job[]} all @returns {number | null} */
function speedupOf(run, all) {
  const first = all.find((other) => {
    return other.workers === 1 && other.phase === "done" && other.task === run.task && other.query === run.query;
  });
  return first && run.phase === "done" ? (first.end - first.start) / (run.end - run.start || 1) : null;
}

export function renderRuns() {
  $("runs").hidden = !shown;
  if (!shown) return;
  renderButtons(shown);
  const all = runsOf(shown);
  $("runs-cold").hidden = !all.some((run) => run.workers && Number(speedupOf(run, all)) > 1.1 * run.workers);
  const rows = all.map((run) => rowOf(run, all));
  // Nothing is replaced while it has the focus, or while nothing has changed.
  const text = (/** @type {Iterable<Element>} */ list) => [...list].map((row) => row.outerHTML).join();
  if (text(rows) === text($("runs-rows").children)) return;
  const focused = [...$("runs-rows").querySelectorAll("button")].indexOf(document.activeElement);
  $("runs-rows").replaceChildren(...rows);
  if (focused >= 0) $("runs-rows").querySelectorAll("button")[focused]?.focus();
}

/** @param {import("./jobs.js").Job} job */
function renderButtons(job) {
  const alive = fleet.workers?.length ?? 0;
  const counts = Array.from({ length: Math.min(alive, MAX_BUTTONS) }, (_, i) => i + 1);
  const group = $("again-workers");
  const key = `${counts.length} ${alive} ${t.everyone}`;
  if (group.dataset.key !== key) {
    group.dataset.key = key;
    const button = (/** @type {number | null} */ workers) => {
      const made = document.createElement("button");
      made.type = "button";
      made.textContent = workers ? number(workers) : t.everyone;
      made.ariaLabel = workers ? t.again(workers) : t.againAll;
      made.addEventListener("click", () => {
        if (!shown) return;
        const { task, query } = shown;
        again(workers, { task, query, cut: sameCut(shown, workers ?? alive) });
      });
      return made;
    };
    group.replaceChildren(...counts.map(button), button(null));
  }
  for (const button of [...group.children, $("again-chosen")]) button.disabled = !job.file;
}

/** @param {import("./jobs.js").Job} run @param {import("./jobs.js").Job[]} all */
function rowOf(run, all) {
  const row = document.createElement("tr");
  row.toggleAttribute("data-chosen", run === shown);
  const speedup = speedupOf(run, all);
  const workers = run.workers ? number(run.workers) : t.everyone;
  const show = document.createElement("button");
  show.type = "button";
  show.textContent = workers;
  show.ariaLabel = t.showRun(workers);
  if (run === shown) show.setAttribute("aria-current", "true");
  show.addEventListener("click", () => choose(run));
  const time = isOpen(run) ? "…" : run.phase === "done" ? timeOf(run) : t.phases[run.phase];
  const two = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
  const cells = [
    show,
    run.task,
    run.status.bands ? number(run.status.bands) : "",
    time,
    speedup === null ? "–" : number(speedup, two),
  ];
  row.append(
    ...cells.map((content, i) => {
      const cell = document.createElement(i === 0 ? "th" : "td");
      if (i === 0) cell.setAttribute("scope", "row");
      cell.append(content);
      return cell;
    }),
  );
  return row;
}
