/**
 * The stage: one job in full size, with its mosaic while it runs, before and after when it is done, and actions.
 *
 * Not here: the texts about a job (texts.js), the job itself (jobs.js), drawing the canvas (mosaic.js), zoom and slider
 * (compare.js), who did what (legend.js), when (timeline.js), data results (data.js).
 */
import { Compare } from "./compare.js";
import { setUpData, showData } from "./data.js";
import { choosePicture } from "./experiment.js";
import { isFinal, isOpen } from "./job.js";
import { cancel, isThere, jobs, onJob } from "./jobs.js";
import { clearLegend, renderLegend, setUpLegend } from "./legend.js";
import { setUpLog, showLog } from "./log.js";
import { Mosaic } from "./mosaic.js";
import { showPipeline } from "./pipeline.js";
import { showRuns } from "./runs.js";
import { ask, fleet, hasToken, onFleet } from "./server.js";
import { retry } from "./tabs.js";
import {
  askedOf,
  canRetry,
  detailOf,
  doneOf,
  isData,
  isList,
  leadOf,
  metaOf,
  resultName,
  stateOf,
  timeOf,
} from "./texts.js";
import { markBar, setUpTimeline, showTimeline } from "./timeline.js";
import { number, remember, remembered, t } from "./words.js";

/** Larger pictures are compared at the size of the mosaic. Two decoded pictures take eight bytes a pixel. */
const MAX_SHOWN = 50_000_000;
/** The finished mosaic stays this long before the result replaces it, ms. */
const DWELL_MS = 1_200;
const COPIED_MS = 2_000;

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

/** @type {import("./jobs.js").Job | null} */
let job = null;
/** @type {"mosaic" | "compare"} */
let view = "mosaic";
/** The pictures that are compared, and the object URLs to revoke. @type {{ id: string, urls: string[], result: string } | null} */
let compared = null;
let dirty = false;
/** Turns from the mosaic to the result. @type {ReturnType<typeof setTimeout> | undefined} */
let turning;
/** The band that is marked. @type {number | null} */
let marked = null;

/** @type {Mosaic} */
let mosaic;
/** @type {Compare} */
let compare;

export function setUpStage() {
  mosaic = new Mosaic($("mosaic"), $("frame"));
  compare = new Compare($("compare"), (zoom) => {
    $("zoom").textContent = number(zoom, { style: "percent" });
  });
  $("mosaic").addEventListener("complete", () => view === "compare" && !compared && open());
  $("mosaic").addEventListener("band", (/** @type {CustomEvent<number>} */ { detail }) =>
    mark(detail === marked ? null : detail),
  );
  setUpTimeline(mark);
  setUpLog(mark);
  setUpLegend(highlight);
  setUpData();
  for (const wanted of /** @type {const} */ (["mosaic", "compare"])) {
    $(`view-${wanted}`).addEventListener("click", () => {
      clearTimeout(turning); // the user has chosen
      look(wanted);
    });
  }
  $("zoom-in").addEventListener("click", () => compare.zoomIn());
  $("zoom-out").addEventListener("click", () => compare.zoomOut());
  $("zoom-fit").addEventListener("click", () => compare.zoomTo(0));
  $("zoom-full").addEventListener("click", () => compare.zoomTo(1 / devicePixelRatio));
  $("cancel").addEventListener("click", () => job && cancel(job));
  $("retry").addEventListener("click", () => job && retry(job));
  $("download").addEventListener("click", () => job && download(job));
  $("curl").addEventListener("click", copyCommand);
  $("save").checked = remembered("save") !== "no";
  $("save").addEventListener("change", () => remember("save", $("save").checked ? "yes" : "no"));
  onJob.add((changed, what) => {
    if (changed.phase === "done" && what === "phase") finish(changed);
    if (changed !== job) return;
    if (!jobs.includes(job)) return choose(jobs.find((other) => isBelow(other, changed)) ?? jobs.at(-1) ?? null);
    // The preview may come after the result.
    if (compared?.id === job.id && !compared.urls[0] && job.preview) close();
    if (view === "compare" && !compared) open();
    refresh();
  });
  onFleet.add(refresh);
  setInterval(() => job && isOpen(job) && refresh(), 100); // the clock
}

/** Its place in the list. @param {import("./jobs.js").Job} job @param {import("./jobs.js").Job} other */
const isBelow = (job, other) => job.batch < other.batch || (job.batch === other.batch && job.added > other.added);

/** @param {import("./jobs.js").Job | null} other */
export function choose(other) {
  if (job === other) return;
  job = other;
  clearLegend();
  $("stage").hidden = !job;
  $("command").hidden = true;
  marked = null;
  look(job?.phase === "done" ? "compare" : "mosaic");
  choosePicture(job);
  showRuns(job);
  showTimeline(job);
  showLog(job);
  showPipeline(job);
}

export const chosen = () => job;

/** Renders once at the next frame, however many events arrive before it. */
export function refresh() {
  if (dirty) return;
  dirty = true;
  requestAnimationFrame(render);
}

/** @param {"mosaic" | "compare"} wanted */
function look(wanted) {
  view = wanted;
  if (compared && (view === "mosaic" || compared.id !== job?.id)) close();
  if (view === "compare" && !compared) open();
  render();
}

/** Loads and shows before and after. */
async function open() {
  const now = job;
  if (now?.phase !== "done" || isData(now)) return;
  const { width = 0, height = 0 } = now.status;
  const shown = () => now === job && view === "compare" && !compared;
  if (width * height > MAX_SHOWN) {
    mosaic.show(now);
    const { edges } = mosaic; // if incomplete, the event `complete` calls this again
    const blob = edges && (await new Promise((resolve) => edges.toBlob(resolve)));
    if (blob && shown()) present(now, now.preview?.small, blob, "");
    return;
  }
  const blob = await ask(`/jobs/${now.id}/result`).then(
    (answer) => answer.blob(),
    () => null,
  );
  if (!blob && shown()) isThere(now);
  if (blob && shown()) present(now, now.preview && (now.file ?? now.preview.small), blob, "result");
  if (blob && now.status.times && !now.status.times.merged) isThere(now); // it has been merged meanwhile
}

/**
 * @param {import("./jobs.js").Job} now @param {Blob | null | undefined} before @param {Blob} after
 * @param {string} result not empty if `after` is the result itself
 */
function present(now, before, after, result) {
  const urls = [before ? URL.createObjectURL(before) : "", URL.createObjectURL(after)];
  compared = { id: now.id, urls, result: result && urls[1] };
  const { width = 1, height = 1 } = now.status;
  $("compare").hidden = false;
  compare.set(width, height, urls[0], urls[1]);
  refresh();
}

function close() {
  for (const url of compared?.urls ?? []) if (url) URL.revokeObjectURL(url);
  compared = null;
  $("compare").hidden = true;
  compare.clear();
}

/** Downloads the result of a job that has just ended, and shows it. @param {import("./jobs.js").Job} done */
function finish(done) {
  if ($("save").checked && !done.downloaded) {
    done.downloaded = true;
    download(done);
  }
  if (done !== job) return;
  clearTimeout(turning);
  turning = setTimeout(() => job === done && done.phase === "done" && view === "mosaic" && look("compare"), DWELL_MS);
}

/** Downloads the result from the page if it is shown, otherwise from the server. @param {import("./jobs.js").Job} done */
export async function download(done) {
  const name = resultName(done);
  const link = document.createElement("a");
  link.download = name;
  if (compared?.id === done.id && compared.result) link.href = compared.result;
  else if (await isThere(done)) link.href = `/jobs/${done.id}/result?name=${encodeURIComponent(name)}`;
  else return;
  link.click();
}

/** Copies the same request as a shell command, without the token. */
async function copyCommand() {
  if (!job) return;
  const quoted = (/** @type {string} */ text) => `'${text.replaceAll("'", "'\\''")}'`;
  const query = [job.query, job.workers && `workers=${job.workers}`, job.cut].filter(Boolean).join("&");
  const token = hasToken() || fleet.locked ? ' -H "Authorization: Bearer $AUTH_TOKEN"' : "";
  const body = job.size > 0 ? `--data-binary @${quoted(job.name)}` : "-X POST";
  const from = `${body} ${quoted(`${location.origin}/tasks/${job.task}${query && `?${query}`}`)}`;
  const command = `curl${token} ${from} -o ${quoted(resultName(job))}`;
  const copied = await navigator.clipboard?.writeText(command).then(
    () => true,
    () => false,
  );
  $("command").hidden = copied === true;
  $("command-text").textContent = command;
  $("curl-done").textContent = copied ? t.copied : t.notCopied;
  if (copied) setTimeout(() => $("curl-done").replaceChildren(), COPIED_MS);
}

function render() {
  dirty = false;
  document.body.dataset.stage = job ? stateOf(job) : "";
  if (!job) return;
  const { phase, status } = job;
  $("stage").dataset.phase = phase;
  $("stage").toggleAttribute("data-some", doneOf(job) > 0);
  setText("name", job.name);
  $("name").title = job.name;
  setText("asked", askedOf(job));
  $("asked").title = askedOf(job);
  setText("meta", metaOf(job));
  setText("lead", leadOf(job));
  setText("time", timeOf(job));
  renderFrame(job);
  const bands = status.bands ?? 0;
  const done = doneOf(job);
  $("sent").value = job.sent || Number(["running", "done", "expired"].includes(phase));
  setText("percent", number($("sent").value, { style: "percent" }));
  $("bands").max = bands || 1;
  $("bands").value = bands && done;
  $("bands").classList.toggle("cut", bands > 1 && bands <= 64);
  $("bands").style.setProperty("--bands", String(bands || 1));
  setText("ratio", bands ? t.ofBands(number(done), number(bands)) : "");
  renderLegend(job);
  renderActions(job);
}

/** Changes a text only if it differs, so that screen readers do not repeat it. @param {string} id @param {string} text */
function setText(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

/** @param {import("./jobs.js").Job} of */
function renderFrame(of) {
  const { phase, name, problem } = of;
  const comparing = view === "compare" && compared !== null;
  renderData(of);
  $("picture").hidden = comparing;
  if (!comparing) mosaic.show(of);
  $("mosaic").setAttribute("aria-label", t.mosaicOf(name));
  compare.before.alt = t.originalOf(name);
  compare.after.alt = t.edgesOf(name);
  const bare = $("mosaic").hidden || (of.doneBands.size === 0 && !of.preview);
  const halted = ["failed", "interrupted", "cancelled", "expired", "lost"].includes(phase) || stateOf(of) === "waiting";
  const halting = halted || stateOf(of) === "locked";
  $("say").hidden = comparing || !(halting || bare);
  $("frame").classList.toggle("veiled", halting && !comparing);
  setText("say-lead", leadOf(of));
  setText("say-remedy", phase === "failed" ? (t.remedies[String(problem?.status)] ?? "") : "");
  $("say-another").hidden = !["failed", "lost", "expired"].includes(phase);
  setText(
    "say-detail",
    halting ? detailOf(of) : bare && of.unseen && !isList(of) && phase !== "queued" ? t.unseen : "",
  );
  $("say-detail").lang = phase === "failed" && problem?.detail ? "en" : "";
  $("say-start").hidden = stateOf(of) !== "waiting";
  const large = (of.status.width ?? 0) * (of.status.height ?? 0) > MAX_SHOWN;
  setText("large", comparing && large ? t.large : "");
  for (const id of ["zoom-in", "zoom-out", "zoom-full", "zoom-fit"]) $(id).disabled = !comparing || large;
  $("zoom").hidden = !comparing;
  $("view-mosaic").setAttribute("aria-pressed", String(view === "mosaic"));
  $("view-compare").setAttribute("aria-pressed", String(view === "compare"));
  $("view-compare").disabled = phase !== "done";
  $("tools").hidden = isData(of); // data cannot be compared or enlarged
}

/** Loads and shows the result of a data task, once. @param {import("./jobs.js").Job} of */
async function renderData(of) {
  const shown = of.phase === "done" && isData(of);
  $("data-box").hidden = !shown;
  if (!shown || $("data").dataset.of === of.id) return;
  $("data").dataset.of = of.id;
  showData(undefined);
  const answer = await ask(`/jobs/${of.id}/result`).catch(() => null);
  const value = await answer?.json();
  if (value === undefined) isThere(of);
  else if ($("data").dataset.of === of.id) showData(value);
}

/** Dims the bands of all other workers. @param {string | null} worker */
function highlight(worker) {
  clearTimeout(turning);
  mosaic.highlight(worker);
  if (worker && view === "compare") {
    look("mosaic");
    mosaic.highlight(worker);
  }
}

/** Marks a band in the mosaic and in the timeline. @param {number | null} band */
function mark(band) {
  clearTimeout(turning);
  marked = band;
  if (band !== null && view === "compare") look("mosaic");
  mosaic.mark(band);
  markBar(band);
}

/** @param {import("./jobs.js").Job} of */
function renderActions(of) {
  const focused = /** @type {HTMLElement} */ (document.activeElement); // read before hiding, which moves the focus to the body
  $("cancel").hidden = !isOpen(of);
  $("retry").hidden = !canRetry(of);
  $("download").hidden = of.phase !== "done";
  $("curl").hidden = of.phase === "lost" || isFinal(of);
  const actions = $("actions");
  if (focused?.hidden && actions.contains(focused)) actions.querySelector("button:not([hidden])")?.focus();
}
