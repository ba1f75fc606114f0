/**
 * The list of jobs: state, size, time and actions of each. Stage and list share their texts (texts.js).
 *
 * Not here: the jobs themselves (jobs.js).
 */
import { isOpen } from "./job.js";
import { cancel, forget, jobs, onJob } from "./jobs.js";
import { choose, chosen, download } from "./stage.js";
import { retry } from "./tabs.js";
import { askedOf, canRetry, doneOf, leadOf, metaOf, stateOf, timeOf } from "./texts.js";
import { number, t, translate } from "./words.js";

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

/** @type {Map<import("./jobs.js").Job, HTMLElement>} */
const rows = new Map();
let dirty = false;

export function setUpList() {
  onJob.add(refreshList);
  setInterval(() => jobs.some(isOpen) && refreshList(), 250); // the clock
}

export function refreshList() {
  if (dirty) return;
  dirty = true;
  requestAnimationFrame(renderList);
}

export function renderList() {
  dirty = false;
  $("jobs").hidden = jobs.length === 0;
  document.body.toggleAttribute("data-jobs", jobs.length > 0);
  for (const [job, row] of rows) {
    if (jobs.includes(job)) continue;
    row.remove();
    rows.delete(job);
  }
  jobs.forEach((job, at) => {
    const row = rows.get(job) ?? newRow(job);
    if ($("list").children[at] !== row) $("list").insertBefore(row, $("list").children[at] ?? null);
    renderRow(job, row);
  });
}

/** @param {import("./jobs.js").Job} job */
function newRow(job) {
  const row = $("job").content.firstElementChild.cloneNode(true);
  translate(row);
  const on = (/** @type {string} */ name, /** @type {() => void} */ then) =>
    row.querySelector(name).addEventListener("click", then);
  on(".show", () => {
    choose(job);
    renderList();
    $("stage").scrollIntoView({ block: "nearest" });
  });
  on(".cancel", () => cancel(job));
  on(".retry", () => retry(job));
  on(".download", () => download(job));
  on(".forget", () => forget(job));
  rows.set(job, row);
  return row;
}

/** @param {import("./jobs.js").Job} job @param {HTMLElement} row */
function renderRow(job, row) {
  const part = (/** @type {string} */ name) => /** @type {any} */ (row.querySelector(name));
  const set = (/** @type {string} */ name, /** @type {string} */ text) => {
    if (part(name).textContent !== text) part(name).textContent = text;
  };
  row.dataset.phase = stateOf(job);
  row.toggleAttribute("data-chosen", job === chosen());
  if (job === chosen()) part(".show").setAttribute("aria-current", "true");
  else part(".show").removeAttribute("aria-current");
  set(".name", job.name);
  part(".name").title = job.name;
  set(".asked", askedOf(job));
  part(".asked").title = askedOf(job);
  set(".meta", metaOf(job));
  const { bands } = job.status;
  const share = isOpen(job) && bands ? doneOf(job) / bands : 0;
  set(".state", share ? `${leadOf(job)} · ${number(share, { style: "percent" })}` : leadOf(job));
  set(".time", timeOf(job));
  part(".share").style.transform = `scaleX(${share})`;
  const thumb = part("img");
  if (job.preview && !thumb.src) thumb.src = URL.createObjectURL(job.preview.thumb);
  thumb.hidden = !job.preview;
  set(".kind", job.preview ? "" : (/\.(\w{1,5})$/.exec(job.name)?.[1].toUpperCase() ?? ""));
  part(".cancel").hidden = !isOpen(job);
  part(".retry").hidden = !canRetry(job);
  part(".download").hidden = job.phase !== "done";
  part(".forget").hidden = isOpen(job);
  part(".forget").setAttribute("aria-label", t.forget(job.name));
}
