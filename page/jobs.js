/**
 * The jobs of this page. Two uploads run at a time, one event stream follows all jobs, and a cut connection is retried.
 *
 *     queued ─► sending ─► running ─► done ─► expired
 *       ▲        │   ▲        │
 *       │        ▼   │        ▼
 *       └── interrupted ◄── (the server has lost it)          failed · cancelled · lost: final, unless the user retries
 *
 * Invariant: a job keeps its id while its picture may be sent again, so uploads are idempotent.
 *
 * Not here: jobs from before a reload, of other tabs and of other browsers (tabs.js); what is shown (stage.js, list.js).
 */
import { fresh, isOpen, isUnsent, newJob, queryOf, recordOf } from "./job.js";
import { preview } from "./preview.js";
import { ask, fleet, follow, onFleet, Problem, upload } from "./server.js";
import * as store from "./store.js";
import { hearLights } from "./system.js";
import { record } from "./turns.js";

const UPLOADS = 2;
/** Larger pictures are not kept once they were sent, bytes. */
const MAX_REUSED = 16 * 2 ** 20;
/** The pause between retries doubles up to this, s. */
const MAX_PAUSE = 30;
/** Limit of jobs in one event stream. */
const MAX_FOLLOWED = 100;
/** When a job fails during its upload, wait this long for the answer of the upload, which says more, ms. */
const ANSWER_FIRST_MS = 2_000;
const FRAME_MS = 33;
/** @typedef {import("./job.js").Job} Job @typedef {import("./job.js").Phase} Phase @typedef {import("./job.js").Asked} Asked */

/** Newest batch first. @type {Job[]} */
export const jobs = [];

/** Called with a job that has changed, and the kind of change. @type {Set<(job: Job, what: "phase" | "progress" | "list") => void>} */
export const onJob = new Set();

let sending = 0;
let held = false;
let away = false;
/** @type {() => void} */
let unfollow = () => {};
/** Jobs whose progress is reported soon. */
const late = new Set(/** @type {Job[]} */ ([]));
let followed = new Set(/** @type {string[]} */ ([]));

/** Progress is reported once a frame, however many events arrive before it. @param {Job} job @param {"phase" | "progress" | "list"} what */
export function notify(job, what) {
  const report = () => {
    late.delete(job);
    for (const listener of onJob) listener(job, what);
  };
  if (what !== "progress") return report();
  if (!late.has(job)) setTimeout(report, FRAME_MS);
  late.add(job);
}

export const byId = (/** @type {string} */ id) => jobs.find((job) => job.id === id);

/**
 * Queues files in their order.
 * @param {File[]} files @param {number | null} workers @param {Asked} what
 */
export function add(files, workers, what) {
  const added = Math.max(Date.now(), (jobs[0]?.added ?? 0) + 1);
  const batch = files.map((file, i) => newJob(file, workers, what, added + i, added));
  jobs.unshift(...batch);
  for (const job of batch) {
    notify(job, "list");
    keep(job);
    keepFile(job);
  }
  show(batch);
  next();
  return batch;
}

/** Makes one preview at a time: each may hold a whole picture for a moment. @param {Job[]} batch */
async function show(batch) {
  for (const job of batch) {
    job.preview ??= await preview(/** @type {File} */ (job.file));
    job.unseen = !job.preview;
    if (job.preview) store.putPreview(job.id, job.preview);
    notify(job, "progress");
  }
}

/** @param {Job} job */
async function keepFile(job) {
  if (job.file) job.kept = await store.putFile(job.picture, job.file);
  release(job); // it was accepted or cancelled meanwhile
}

/** Drops the stored file of a picture that no job needs: to send it, or, if it is small, to send it again. @param {Job} job */
function release(job) {
  const users = jobs.filter(({ picture }) => picture === job.picture);
  if (!users.some((user) => isUnsent(user) || user.size <= MAX_REUSED)) store.dropFile(job.picture);
}

/** Sends the picture of a job again. @param {Job} job @param {number | null} workers @param {Asked} what */
export function repeat(job, workers, what) {
  const file = job.file && new File([job.file], job.name, { type: job.file.type });
  return file ? add([file], workers, { ...what, picture: job.picture, preview: job.preview })[0] : null;
}

/** Whether a reload would lose a picture: one that is neither sent nor stored. */
export const wouldLose = () => jobs.some((job) => isUnsent(job) && !job.kept);

/** @param {Job} job */
export function keep(job) {
  // That of another tab is its own to keep, but that it was cancelled here is news.
  if (jobs.includes(job) && (!job.elsewhere || job.phase === "cancelled")) return store.putRecord(recordOf(job));
}

/** Puts a job in its place in the list. @param {Job} job */
export function list(job) {
  if (!jobs.includes(job)) jobs.unshift(job);
  jobs.sort((a, b) => b.batch - a.batch || a.added - b.added);
  notify(job, "list");
}

/** Holds back uploads, or continues them. @param {boolean} yes */
export function hold(yes) {
  held = yes;
  next();
}

export function next() {
  if (held || fleet.locked) return;
  const line = jobs.filter(({ phase, file }) => phase === "queued" && file).sort((a, b) => a.added - b.added);
  while (sending < UPLOADS && line.length > 0) send(/** @type {Job} */ (line.shift()));
}

/** @param {Job} job */
async function send(job) {
  sending++;
  job.control = new AbortController();
  job.start ||= Date.now();
  enter(job, "sending");
  refollow();
  try {
    // A file that was moved or changed on disk cannot be read again, but its stored copy can.
    const file = (job.tries > 0 && (await store.getFile(job.picture))) || /** @type {Blob} */ (job.file);
    const account = await upload(`/jobs/${job.id}?${queryOf(job)}`, file, job.control.signal, (sent) => {
      job.sent = sent;
      notify(job, "progress");
    });
    job.sent = 1;
    job.tries = 0;
    if (job.phase === "sending") enter(job, "running");
    learn(job, account);
  } catch (error) {
    fail(job, error instanceof Problem ? error : new Problem(0));
  } finally {
    sending--;
    next();
  }
}

/** @param {Job} job @param {Problem} problem */
function fail(job, problem) {
  if (!isOpen(job)) return;
  if (problem.status === 401) return enter(job, "queued"); // it waits for the token
  job.problem = problem;
  if (problem.isTransient) return interrupt(job, problem.retryAfter);
  enter(job, "failed");
}

/** Retries after a growing pause, or when the server answers again. @param {Job} job @param {number} min pause, s */
function interrupt(job, min) {
  const pause = Math.max(min, Math.min(MAX_PAUSE, 2 ** job.tries)) * (1 + Math.random() / 4);
  job.tries++;
  job.retryAt = Date.now() + pause * 1000;
  enter(job, "interrupted");
  const { retryAt } = job;
  setTimeout(() => {
    if (job.phase === "interrupted" && job.retryAt === retryAt) again(job);
  }, pause * 1000);
}

/** @param {Job} job */
function again(job) {
  if (job.elsewhere) return;
  job.problem = null;
  enter(job, "queued");
  next();
}

// Retry at once when the server is back or a token was entered.
onFleet.add(() => {
  if (away && !fleet.trouble) for (const job of jobs) if (job.phase === "interrupted") again(job);
  away = fleet.trouble !== null;
  next();
});

document.addEventListener("visibilitychange", refollow);

/** Follows all open jobs in one stream. It is reopened only for a job that it does not follow yet. */
export function refollow() {
  // After a reload, done jobs are followed once, since they may have expired.
  const wanted = jobs.filter((job) => {
    if (job.elsewhere && document.hidden) return false; // a browser opens six connections at most, for all of its tabs
    return (isOpen(job) && job.phase !== "queued") || (job.phase === "done" && job.doneBands.size === 0);
  });
  const tooMany = document.hidden && jobs.some(({ id, elsewhere }) => elsewhere && followed.has(id));
  if (!tooMany && wanted.every(({ id }) => followed.has(id))) return;
  unfollow();
  followed = new Set(wanted.slice(0, MAX_FOLLOWED).map(({ id }) => id));
  unfollow = followed.size > 0 ? follow([...followed], hear) : () => {};
}

/** @param {string} name @param {any} data */
function hear(name, data) {
  if (name === "backends") return hearLights(data);
  const job = byId(data.id);
  if (name === "done" || name === "failed" || (name === "unknown" && job?.phase === "done")) followed.delete(data.id);
  if (followed.size === 0) unfollow(); // otherwise the browser would reconnect
  if (!job) return;
  if (name === "unknown") return missing(job);
  if (name !== "band" && name !== "claim" && name !== "incident") return learn(job, data);
  record(job.trace, name, data);
  if (name === "band") job.doneBands.set(data.band, data);
  job.status.waiting = false;
  notify(job, "progress");
}

/** Takes over the server's state of the job. @param {Job} job @param {any} account */
export function learn(job, account) {
  if (!account) return;
  const { state, error, ...status } = account;
  if (status.bands) job.status = status;
  if (state === "failed" && isOpen(job)) {
    const problem = new Problem("job", error);
    const { control } = job;
    // If the job was sent again meanwhile, the failure is of the earlier upload.
    setTimeout(() => job.control === control && fail(job, problem), job.phase === "sending" ? ANSWER_FIRST_MS : 0);
  } else if (state === "done" && isOpen(job)) enter(job, "done");
  else notify(job, "progress");
}

/** The server does not know the job. Before its upload that is normal; later it has expired or was lost. @param {Job} job */
async function missing(job) {
  if (job.phase === "done") return expire(job);
  if (job.phase !== "running") return;
  const answer = await ask(`/jobs/${job.id}`).catch((error) => error);
  if (job.phase !== "running" || answer.status !== 404) return;
  fail(job, job.file ? new Problem(0) : answer);
}

/** @param {Job} job */
function expire(job) {
  job.doneBands.clear();
  enter(job, "expired");
}

/** Whether the server still has the result; if not, the job has expired. @param {Job} job */
export async function isThere(job) {
  const answer = await ask(`/jobs/${job.id}`).catch((error) => error);
  if (answer.status === 404) expire(job);
  if (answer.status === 200) learn(job, await answer.json());
  return answer.status === 200;
}

/** @param {Job} job @param {Phase} phase */
function enter(job, phase) {
  if (!jobs.includes(job)) return;
  job.phase = phase;
  if (!isOpen(job)) job.end ||= Date.now();
  if (!job.elsewhere) release(job);
  notify(job, "phase"); // it may be downloaded
  keep(job);
}

/** @param {Job} job */
export function cancel(job) {
  const known = job.phase !== "queued"; // to the server
  enter(job, "cancelled");
  job.control.abort();
  if (known) ask(`/jobs/${job.id}`, { method: "DELETE" }).catch(() => {});
}

/** An interrupted upload resumes under its id. A job that has ended needs a new id. @param {Job} job */
export function retry(job) {
  if (!job.file) return;
  if (job.phase !== "interrupted") {
    store.drop(job.id);
    Object.assign(job, fresh(), { id: store.newId() });
    if (job.preview) store.putPreview(job.id, job.preview);
    keepFile(job);
  }
  again(job);
}

/** Removes an ended job from the list. @param {Job} job */
export function forget(job) {
  store.drop(job.id);
  unlist(job);
  release(job);
}

/** @param {Job | undefined} job */
export function unlist(job) {
  if (!job) return;
  jobs.splice(jobs.indexOf(job), 1);
  notify(job, "list");
}
