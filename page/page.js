/**
 * Entry point of the page: input of pictures (drop, paste, file, camera), number of workers, token, language.
 *
 * Not here: tasks and parameters (tasks.js), jobs (jobs.js), what is shown of them (stage.js, list.js), the experiment
 * (experiment.js).
 */
import { openAddress, writeAddress } from "./address.js";
import { renderExperiment, setUpExperiment } from "./experiment.js";
import { renderInside, setUpInside } from "./inside.js";
import { isOpen } from "./job.js";
import { add, jobs, onJob, wouldLose } from "./jobs.js";
import { refreshList, renderList, setUpList } from "./list.js";
import { renderLog } from "./log.js";
import { renderPipeline, setUpPipeline } from "./pipeline.js";
import { renderRuns, setUpRuns } from "./runs.js";
import { renderSamples, setUpSamples } from "./samples.js";
import { setUpSaving } from "./save.js";
import { fleet, giveToken, onFleet, watchFleet } from "./server.js";
import { choose, chosen, refresh, setUpStage } from "./stage.js";
import { watchSystem } from "./system.js";
import { restore } from "./tabs.js";
import { chosenTask, isValid, renderParams, setUpTasks, taken } from "./tasks.js";
import { detailOf, doneOf, leadOf, stateOf } from "./texts.js";
import { renderTimeline } from "./timeline.js";
import { setUpWall } from "./wall.js";
import { lang, number, speak, t, translate } from "./words.js";

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

/** Maximum workers of the next job; null for all. @type {number | null} */
let wanted = null;
/** Files that wait until all parameters are valid. @type {File[]} */
let held = [];
/** The last state of each job that was announced. @type {WeakMap<import("./jobs.js").Job, string>} */
const announced = new WeakMap();

/** @param {Iterable<File> | "start" | null | undefined} files */
function take(files) {
  const what = chosenTask();
  // A task that takes nothing is sent as an empty file.
  const sent = taken() === null ? (files === "start" ? [new File([], what.task)] : []) : [...(files ?? [])];
  // Files for which a parameter is invalid wait for its correction.
  held = isValid() ? [] : /** @type {File[]} */ (sent);
  $("held").hidden = held.length === 0;
  if (held.length > 0) $("held-text").textContent = t.held(held.map(({ name }) => name).join(", "));
  const batch = held.length > 0 ? [] : add(/** @type {File[]} */ (sent), wanted, what);
  if (batch.length === 0) return;
  showOptions(false);
  const now = chosen();
  if (!now || !isOpen(now)) choose(batch[0]);
  renderList();
}

/** @param {boolean} yes */
function over(yes) {
  document.body.toggleAttribute("data-over", yes);
}

/** Changes the select only when its options differ, so that an open list stays open. */
function renderWorkers() {
  const alive = fleet.workers?.length ?? 0;
  const options = [new Option(t.all(alive), "")];
  for (let n = 1; n <= Math.max(alive, wanted ?? 0); n++) options.push(new Option(String(n), String(n)));
  const select = $("workers");
  const texts = (/** @type {Iterable<HTMLOptionElement>} */ list) => [...list].map((option) => option.text).join();
  if (texts(options) !== texts(select.options)) {
    select.replaceChildren(...options);
    select.value = wanted ?? "";
  }
  const text = fleet.trouble ? fleet.trouble() : alive ? t.alive(alive) : fleet.workers ? t.none : "";
  if ($("alive").dataset.text === text) return;
  $("alive").dataset.text = text;
  $("alive").toggleAttribute("data-ready", !fleet.trouble && alive > 0);
  const command = document.createElement("code");
  command.textContent = "bun run worker.ts";
  $("alive").replaceChildren(text, ...(text === t.none ? [" ", command] : []));
}

/** Shows or hides the token field. Jobs stay queued while it is shown. */
function renderLock() {
  const text = fleet.refused ? t.refused : "";
  if ($("refused").textContent !== text) $("refused").textContent = text;
  if ($("access").hidden === !fleet.locked) return;
  const focused = $("access").contains(document.activeElement);
  $("access").hidden = !fleet.locked;
  $("token").value = "";
  if (!fleet.locked && focused) $("file").focus();
}

/** Announces each state of a job that stays, once, for screen readers. @param {import("./jobs.js").Job} job */
function announce(job) {
  const state = stateOf(job);
  if (announced.get(job) === state || ["queued", "sending", "running"].includes(state)) return;
  if (announced.get(job) === undefined && !isOpen(job) && job.end < performance.timeOrigin) return; // from before the reload
  announced.set(job, state);
  $("announce").textContent = [`${job.name}: ${leadOf(job)}`, job.phase === "failed" && detailOf(job)]
    .filter(Boolean)
    .join(". ");
}

/** Shows or hides the options of the next job, which lie over the stage. @param {boolean} yes */
function showOptions(yes) {
  $("options").hidden = !yes;
  $("more").setAttribute("aria-expanded", String(yes));
}

function listenToOptions() {
  $("held-send").addEventListener("click", () => take(taken() === null ? "start" : held));
  for (const id of ["params", "cutting"])
    $(id).addEventListener("submit", (/** @type {Event} */ e) => e.preventDefault());
  $("more").addEventListener("click", () => showOptions($("options").hidden));
  // A task with parameters shows them.
  $("task").addEventListener("change", () => showOptions(!$("params").hidden));
  // An invalid value must be seen to be reported.
  $("params").addEventListener("invalid", () => showOptions(true), true);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || $("options").hidden) return;
    if ($("options").contains(document.activeElement)) $("more").focus();
    showOptions(false);
  });
  document.addEventListener("pointerdown", (event) => {
    if (/** @type {Element} */ (event.target).closest("section")) showOptions(false);
  });
}

/** The address of the job on the stage, and its percentage in the tab's title. */
function renderTitle() {
  const job = chosen();
  if (job && job.phase !== "queued") writeAddress(job);
  const share = job && isOpen(job) && job.status.bands ? doneOf(job) / job.status.bands : 0;
  const title = $("title").textContent;
  document.title = share > 0 && job ? `${number(share, { style: "percent" })} · ${job.name}` : title;
}

function renderLanguage() {
  document.documentElement.lang = lang;
  translate(document);
  renderTitle();
  for (const code of /** @type {const} */ (["en", "es"])) $(code).setAttribute("aria-pressed", String(code === lang));
  $("alive").dataset.text = "";
  renderWorkers();
  renderLock();
  renderExperiment();
  renderParams();
  renderRuns();
  renderSamples();
  renderTimeline();
  renderLog();
  renderPipeline();
  renderInside();
  for (const row of $("list").children) translate(row);
  refreshList();
  refresh();
}

function listen() {
  for (const id of ["file", "photo"]) {
    $(id).addEventListener("change", () => {
      take($(id).files);
      $(id).value = "";
    });
  }
  $("start").addEventListener("click", () => take("start"));
  $("workers").addEventListener("change", () => {
    wanted = Number($("workers").value) || null;
  });
  $("access").addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    $("refused").textContent = "";
    giveToken($("token").value);
  });
  for (const code of /** @type {const} */ (["en", "es"])) {
    $(code).addEventListener("click", () => {
      speak(code);
      renderLanguage();
    });
  }
  document.addEventListener("paste", (event) => take(event.clipboardData?.files));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    over(event.dataTransfer?.types.includes("Files") ?? false);
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) over(false);
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    take(event.dataTransfer?.files);
  });
  // Ask only if a reload would lose a picture.
  addEventListener("beforeunload", (event) => {
    if (wouldLose()) event.preventDefault();
  });
  onFleet.add(renderWorkers);
  onFleet.add(renderLock);
  onJob.add(announce);
  onJob.add(renderTitle);
}

listen();
setUpStage();
setUpList();
setUpRuns(() => (isValid() ? { workers: wanted, what: chosenTask() } : null));
setUpExperiment();
setUpTasks();
setUpPipeline();
listenToOptions();
setUpSaving();
setUpSamples(take);
renderLanguage();
watchFleet();
setUpWall();
setUpInside();
watchSystem();
await restore();
addEventListener("hashchange", openAddress);
if (!chosen()) await openAddress();
if (!chosen() && jobs.length > 0) choose(jobs.find(isOpen) ?? jobs[0]);
renderList();
// The first job of another tab.
onJob.add((job, what) => what === "list" && !chosen() && jobs.includes(job) && choose(job));
