/**
 * The jobs of this page: sent two at a time, followed by one stream of events, tried again when the way is cut, kept over
 * a reload.
 *
 *     queued ─► sending ─► running ─► done ─► expired
 *       ▲        │   ▲        │
 *       │        ▼   │        ▼
 *       └── interrupted ◄── (the server has lost it)          failed · cancelled · lost: an end, unless it is retried
 *
 * Invariant: a job keeps its id for as long as its picture may be sent again under it. So sending it twice does no harm.
 *
 * Not here: how anything looks (stage.js, list.js).
 */
import { preview } from "./preview.js";
import { ask, fleet, follow, onFleet, Problem, upload } from "./server.js";
import * as store from "./store.js";

const UPLOADS = 2;
/** The pause before another try doubles to this, s. */
const MAX_PAUSE = 30;
/** As many as one stream takes. */
const MAX_FOLLOWED = 100;
/** What a job fails with while its upload lasts is said better by the upload's own answer, which comes at once, ms. */
const ANSWER_FIRST_MS = 2_000;
/** Refused for what it is: sending the same again would end the same way. */
const FINAL = [400, 413, 415, 422];

/** @typedef {"queued" | "sending" | "interrupted" | "running" | "done" | "failed" | "cancelled" | "expired" | "lost"} Phase */

/**
 * @typedef {object} Job
 * @property {string} id
 * @property {string} name
 * @property {number} size bytes
 * @property {number | null} workers at most so many; null for all
 * @property {string} task @property {string} query its parameters
 * @property {number} added when, ms since 1970, and its place in line
 * @property {number} batch of the first that came with it
 * @property {Phase} phase
 * @property {number} sent 0 to 1
 * @property {number} start @property {number} end ms since 1970; 0 before
 * @property {Problem | null} problem
 * @property {File | Blob | null} file null after a reload, once the server has accepted it
 * @property {import("./preview.js").Preview | null} preview
 * @property {boolean} downloaded by itself
 * @property {boolean} kept over a reload
 * @property {number} tries in a row @property {number} retryAt ms since 1970
 * @property {{ kind?: string, params?: Record<string, unknown>, width?: number, height?: number, rows?: number, bands?: number, done?: number, waiting?: boolean }} status
 * @property {Map<number, { worker: string, ms: number, deliveries: number, y: number, rows: number }>} told
 * @property {AbortController} control ends the upload
 */

/** Newest batch first. @type {Job[]} */
export const jobs = [];

/** Called with a job that has changed, and what of it. @type {Set<(job: Job, what: "phase" | "progress" | "list") => void>} */
export const onJob = new Set();

let sending = 0;
let held = false;
let away = false;
let tab = "";
/** @type {() => void} */
let unfollow = () => {};
let followed = new Set(/** @type {string[]} */ ([]));

export const isOpen = (/** @type {Job} */ { phase }) => ["queued", "sending", "interrupted", "running"].includes(phase);
export const isFinal = (/** @type {Job} */ { problem }) => FINAL.includes(Number(problem?.status));

/** @param {Job} job @param {"phase" | "progress" | "list"} what */
function tell(job, what) {
  for (const listener of onJob) listener(job, what);
}

/**
 * Puts files in line, in their order.
 * @param {File[]} files @param {number | null} workers @param {{ task: string, query: string }} what
 */
export function add(files, workers, what) {
  const added = Math.max(Date.now(), (jobs[0]?.added ?? 0) + 1);
  const batch = files.map((file, i) => newJob(file, workers, what, added + i, added));
  jobs.unshift(...batch);
  for (const job of batch) {
    tell(job, "list");
    keep(job);
    keepFile(job);
  }
  show(batch);
  next();
  return batch;
}

/**
 * @param {File} file @param {number | null} workers @param {{ task: string, query: string }} what
 * @param {number} added @param {number} batch @returns {Job}
 */
function newJob(file, workers, what, added, batch) {
  const { name, size } = file;
  const asked = { name, size, workers, ...what, added, batch, file };
  return { ...fresh(), ...asked, id: store.newId(), preview: null, phase: "queued" };
}

/** How a job is asked for, behind its address. @param {{ task: string, query: string, workers: number | null }} job */
export function queryOf({ task, query, workers }) {
  return [`task=${task}`, query, workers && `workers=${workers}`].filter(Boolean).join("&");
}

function fresh() {
  return {
    sent: 0,
    start: 0,
    end: 0,
    problem: null,
    downloaded: false,
    kept: false,
    tries: 0,
    retryAt: 0,
    status: {},
    told: new Map(),
    control: new AbortController(),
  };
}

/** One preview after the other: each may hold a whole picture for a moment. @param {Job[]} batch */
async function show(batch) {
  for (const job of batch) {
    if (!job.file) continue;
    job.preview = await preview(job.file);
    if (job.preview) store.putPreview(job.id, job.preview);
    tell(job, "progress");
  }
}

/** @param {Job} job */
async function keepFile(job) {
  if (job.file) job.kept = await store.putFile(job.id, job.file);
  if (!isUnsent(job)) store.dropFile(job.id); // accepted, or cancelled, meanwhile
}

/** Whether a reload would lose a picture: it is not sent, and not kept (yet). */
export const wouldLose = () => jobs.some((job) => isUnsent(job) && !job.kept);

const isUnsent = (/** @type {Job} */ { phase }) => ["queued", "sending", "interrupted"].includes(phase);

/** @param {Job} job */
function keep(job) {
  if (!jobs.includes(job)) return;
  const { id, name, size, workers, task, query, added, batch, phase, start, end, downloaded, status, problem } = job;
  const why = problem && { status: problem.status, detail: problem.detail };
  const asked = { id, name, size, workers, task, query, added, batch };
  store.putRecord(/** @type {any} */ ({ ...asked, phase, start, end, downloaded, status, why, tab }));
}

/** Takes up what a page before this one has left. */
export async function restore() {
  const found = await store.thisTab();
  tab = found.tab;
  for (const job of jobs) keep(job); // those that came meanwhile
  const before = (await store.records(({ phase }) => !isOpen(/** @type {Job} */ ({ phase })))).filter(
    (record) => !found.isAlive(record.tab),
  );
  for (const record of before) {
    if (jobs.some(({ id }) => id === record.id)) continue;
    const { why, tab: _, ...rest } = record;
    /** @type {Job} */
    const job = { ...fresh(), ...rest, file: null, preview: (await store.getPreview(record.id)) ?? null };
    if (why) job.problem = new Problem(why.status, why.detail);
    if (job.phase === "cancelled") {
      store.drop(job.id);
      continue;
    }
    if (isUnsent(job)) await takeUp(job);
    jobs.unshift(job);
    jobs.sort((a, b) => b.batch - a.batch || a.added - b.added);
    keep(job);
    tell(job, "list");
  }
  refollow();
  next();
}

/** A job that was on its way when its page was closed. @param {Job} job */
async function takeUp(job) {
  job.file = (await store.getFile(job.id)) ?? null;
  job.kept = job.file !== null;
  job.phase = "queued";
  if (job.file) return;
  // The server may have accepted it in the last moment.
  const known = await ask(`/jobs/${job.id}`).then(
    (answer) => answer.json(),
    () => null,
  );
  job.phase = known && known.state !== "uploading" ? "running" : "lost";
}

/** Nothing is sent while this is so. @param {boolean} yes */
export function hold(yes) {
  held = yes;
  next();
}

function next() {
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
  const progress = (/** @type {number} */ sent) => {
    job.sent = sent;
    tell(job, "progress");
  };
  try {
    const { signal } = job.control;
    // A file that was moved or changed on disk cannot be read again; the copy can.
    const file = (job.tries > 0 && (await store.getFile(job.id))) || /** @type {Blob} */ (job.file);
    const account = await upload(`/jobs/${job.id}?${queryOf(job)}`, file, signal, progress);
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
  if (problem.status === 401) return enter(job, "queued"); // until there is a token
  job.problem = problem;
  if (problem.isPassing) return interrupt(job, problem.retryAfter);
  enter(job, "failed");
}

/** Tries again by itself, later and later, or as soon as the server is heard of. @param {Job} job @param {number} atLeast s */
function interrupt(job, atLeast) {
  const pause = Math.max(atLeast, Math.min(MAX_PAUSE, 2 ** job.tries)) * (1 + Math.random() / 4);
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
  job.problem = null;
  enter(job, "queued");
  next();
}

// A server that is back is worth a try at once; and so is a token.
onFleet.add(() => {
  if (away && !fleet.trouble) for (const job of jobs) if (job.phase === "interrupted") again(job);
  away = fleet.trouble !== null;
  next();
});

/** One stream for all that is open; opened anew only for a job that it does not follow yet. */
function refollow() {
  // Those that are done are asked for once, after a reload: they may have expired.
  const wanted = jobs.filter((job) => {
    return ["sending", "interrupted", "running"].includes(job.phase) || (job.phase === "done" && job.told.size === 0);
  });
  if (wanted.every(({ id }) => followed.has(id))) return;
  unfollow();
  followed = new Set(wanted.slice(0, MAX_FOLLOWED).map(({ id }) => id));
  unfollow = follow([...followed], hear);
}

/** @param {string} name @param {any} data */
function hear(name, data) {
  const job = jobs.find(({ id }) => id === data.id);
  if (name === "done" || name === "failed" || (name === "unknown" && job?.phase === "done")) followed.delete(data.id);
  if (followed.size === 0) unfollow(); // else the browser would ask again
  if (!job) return;
  if (name === "unknown") return missing(job);
  if (name !== "band") return learn(job, data);
  const { band, ...record } = data;
  job.told.set(band, record);
  job.status.waiting = false;
  tell(job, "progress");
}

/** Takes the server's account of the job. @param {Job} job @param {any} account */
function learn(job, account) {
  if (!account) return;
  const { state, error, ...status } = account;
  if (status.bands) job.status = status;
  if (state === "failed" && isOpen(job)) {
    const problem = new Problem("job", error);
    const { control } = job;
    const sooner = job.phase !== "sending";
    // Of a job that was sent again meanwhile it is old news.
    setTimeout(() => job.control === control && fail(job, problem), sooner ? 0 : ANSWER_FIRST_MS);
  } else if (state === "done" && isOpen(job)) enter(job, "done");
  else tell(job, "progress");
}

/** The server knows of no such job: before an upload that is as it should be. Later it has expired, or was lost. @param {Job} job */
async function missing(job) {
  if (job.phase === "done") return expire(job);
  if (job.phase !== "running") return;
  const answer = await ask(`/jobs/${job.id}`).catch((error) => error);
  if (job.phase !== "running" || answer.status !== 404) return;
  if (job.file) fail(job, new Problem(0));
  else fail(job, answer);
}

/** @param {Job} job */
export function expire(job) {
  job.told.clear();
  enter(job, "expired");
}

/** Whether the server still has the result; if not, the job has expired. @param {Job} job */
export async function isThere(job) {
  const answer = await ask(`/jobs/${job.id}`).catch((error) => error);
  if (answer.status === 404) expire(job);
  return answer.status === 200;
}

/** @param {Job} job */
export function markDownloaded(job) {
  job.downloaded = true;
  keep(job);
}

/** @param {Job} job @param {Phase} phase */
function enter(job, phase) {
  if (!jobs.includes(job)) return;
  job.phase = phase;
  if (!isOpen(job)) job.end ||= Date.now();
  if (!isUnsent(job)) store.dropFile(job.id);
  keep(job);
  tell(job, "phase");
}

/** @param {Job} job */
export function cancel(job) {
  const told = job.phase !== "queued"; // the server, of this job
  enter(job, "cancelled");
  job.control.abort();
  if (told) ask(`/jobs/${job.id}`, { method: "DELETE" }).catch(() => {});
}

/** The same id resumes what was cut short. What the server has ended needs a new one. @param {Job} job */
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

/** Takes a job that is over off the list. @param {Job} job */
export function forget(job) {
  jobs.splice(jobs.indexOf(job), 1);
  store.drop(job.id);
  tell(job, "list");
}
