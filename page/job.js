/**
 * One job of the page: its record, how it begins, and its query.
 *
 * Not here: what happens to it (jobs.js).
 */
import { Problem } from "./server.js";
import { newId } from "./store.js";
import { newTrace } from "./turns.js";

/** Statuses that refuse the picture itself: a retry would end the same way. */
const FINAL = [400, 413, 415, 422];

/** @typedef {"queued" | "sending" | "interrupted" | "running" | "done" | "failed" | "cancelled" | "expired" | "lost"} Phase */

/** Of the server, ms since it began. @typedef {{ began: number, cut: number | null, enqueued: number | null, done: number | null, merged?: { at: number, ms: number } | null }} Times */

/**
 * @typedef {object} Job
 * @property {string} id
 * @property {string} name
 * @property {number} size bytes
 * @property {number | null} workers maximum; null for all
 * @property {string} task @property {string} query its parameters
 * @property {string} cut how the picture is cut: "", `bands=N` or `bandRows=N`
 * @property {string} picture the id of the first job with this picture
 * @property {number} added time, ms since 1970, and position in the queue
 * @property {number} batch `added` of the first job of its batch
 * @property {Phase} phase
 * @property {number} sent 0 to 1
 * @property {number} start @property {number} end ms since 1970; 0 before
 * @property {import("./server.js").Problem | null} problem
 * @property {File | Blob | null} file null after a reload, if it was too large to keep
 * @property {import("./preview.js").Preview | null} preview
 * @property {boolean} unseen the browser cannot show the picture
 * @property {boolean} downloaded automatically
 * @property {boolean} elsewhere another tab sends it; this one only shows it
 * @property {boolean} kept its file is stored and survives a reload
 * @property {number} tries in a row @property {number} retryAt ms since 1970
 * @property {{ kind?: string, params?: Record<string, unknown>, width?: number, height?: number, rows?: number, bands?: number, done?: number, waiting?: boolean, times?: Times }} status
 * @property {Map<number, import("./turns.js").Turn & { ms: number, y: number, rows: number }>} doneBands by number of the band
 * @property {import("./turns.js").Trace} trace
 * @property {AbortController} control aborts the upload
 */

/**
 * What is asked of a picture. `picture` and `preview` are those of an earlier job with the same one.
 * @typedef {{ task: string, query: string, cut: string, picture?: string, preview?: Job["preview"] }} Asked
 */

export const isOpen = (/** @type {{ phase: Phase }} */ { phase }) =>
  ["queued", "sending", "interrupted", "running"].includes(phase);
export const isUnsent = (/** @type {{ phase: Phase }} */ { phase }) =>
  ["queued", "sending", "interrupted"].includes(phase);
/** Whether another tab has it, open or closed: without Web Locks they look alike. @param {Job} job */
export const isElsewhere = (job) => job.elsewhere && isUnsent(job) && !navigator.locks;
export const isFinal = (/** @type {Job} */ { problem }) => FINAL.includes(Number(problem?.status));

/**
 * @param {File} file @param {number | null} workers @param {Asked} what
 * @param {number} added @param {number} batch @returns {Job}
 */
export function newJob(file, workers, what, added, batch) {
  const { name, size } = file;
  const id = newId();
  const asked = { name, size, workers, picture: id, preview: null, ...what, added, batch, file };
  return { ...fresh(), ...asked, id, phase: "queued" };
}

/** What is not known yet of a job, or no longer. */
export function fresh() {
  return {
    sent: 0,
    start: 0,
    end: 0,
    problem: null,
    unseen: false,
    downloaded: false,
    elsewhere: false,
    kept: false,
    tries: 0,
    retryAt: 0,
    status: {},
    doneBands: new Map(),
    trace: newTrace(),
    control: new AbortController(),
  };
}

/** The query of the URL of a job. @param {{ task: string, query: string, cut: string, workers: number | null }} job */
export function queryOf({ task, query, cut, workers }) {
  return [`task=${task}`, query, workers && `workers=${workers}`, cut].filter(Boolean).join("&");
}

/** What is stored of a job. @param {Job} job */
export function recordOf(job) {
  const { id, name, size, workers, task, query, cut, picture, added, batch } = job;
  const { phase, start, end, downloaded, status, problem } = job;
  const why = problem && { status: problem.status, detail: problem.detail };
  const asked = { id, name, size, workers, task, query, cut, picture, added, batch };
  return { ...asked, phase, start, end, downloaded, status: /** @type {any} */ (status), why };
}

/** The job of a record, without its picture. @param {any} record @returns {Job} */
export function jobOf({ why, tab: _, ...record }) {
  const problem = why ? new Problem(why.status, why.detail) : null;
  return { ...fresh(), cut: "", picture: record.id, ...record, problem, preview: null, file: null };
}
