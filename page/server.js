/**
 * The client of the coordinator: requests, uploads, events, the list of workers, the token.
 *
 * Not here: the states of a job (jobs.js), what is shown (stage.js, list.js).
 */
import { t } from "./words.js";

/** Statuses after which a retry may succeed: no connection, or a busy server. */
const TRANSIENT = [0, 408, 429, 502, 503, 504];
const POLL_MS = 3_000;
const ANSWER_MS = 5_000;
const EVENTS = /** @type {const} */ (["unknown", "job", "claim", "band", "incident", "backends", "done", "failed"]);

/** A failed request or job. `status` is the HTTP status, 0 for a lost connection, "job" for a job that failed after its upload. */
export class Problem extends Error {
  /** @param {number | "job"} status @param {string} [detail] the server's message @param {number} [retryAfter] seconds */
  constructor(status, detail, retryAfter = 0) {
    super(detail ?? String(status));
    this.status = status;
    this.detail = detail;
    this.retryAfter = retryAfter;
  }

  get isTransient() {
    return TRANSIENT.includes(Number(this.status));
  }

  /** The meaning, in the page's language. */
  get title() {
    const { problems } = t;
    return problems[/** @type {keyof typeof problems} */ (this.status)] ?? problems.other;
  }

  /** The server's message, which is English; otherwise the page's own. */
  get sentence() {
    return this.detail || (this.status === 0 ? t.offline : t.unknown(Number(this.status)));
  }
}

/**
 * A worker, as the coordinator lists it.
 * @typedef {{ name: string, host: string, cores: number, tasks: string[], paused?: boolean, control?: boolean }} WorkerInfo
 */

/**
 * The workers and the access. `workers`: those that have the chosen task; null until the server has answered. `locked`:
 * the server requires a token, and no valid one was entered. `refused`: it refused the one that was.
 */
export const fleet = {
  /** @type {WorkerInfo[] | null} */ workers: null,
  /** @type {WorkerInfo[]} */ all: [],
  /** Why the workers are unknown. A function, because the language may change. @type {(() => string) | null} */ trouble:
    null,
  locked: false,
  refused: false,
};

/** The order of workers: w2 before w10. */
export const byName = new Intl.Collator("en", { numeric: true }).compare;

/** Called on every change of `fleet`, and after every count. */
export const onFleet = new Set(/** @type {(() => void)[]} */ ([]));

let token = storedToken();
let task = "sobel";

function storedToken() {
  try {
    return sessionStorage.getItem("token") ?? "";
  } catch {
    return "";
  }
}

/** Sets the token. It is kept while the tab is open. @param {string} text */
export function giveToken(text) {
  token = text;
  fleet.refused = false;
  try {
    sessionStorage.setItem("token", text);
  } catch {
    // Storage is disabled: the page asks again after a reload.
  }
  return count();
}

export const hasToken = () => token !== "";

/** @returns {Record<string, string>} */
function credentials() {
  return token ? { authorization: `Bearer ${token}` } : {};
}

/** Handles a 401 to the token `used`. @param {string} used */
function refuse(used) {
  if (used !== token) return; // another one was entered meanwhile
  fleet.refused = used !== "";
  fleet.locked = true;
  notify();
}

function notify() {
  for (const listener of onFleet) listener();
}

/** Counts the workers of this task from now on. @param {string} name */
export function forTask(name) {
  if (task === name) return;
  task = name;
  if (fleet.workers) fleet.workers = fleet.all.filter(({ tasks }) => tasks.includes(task));
  notify();
}

/** Counts the workers periodically. Never returns. */
export async function watchFleet() {
  for (;;) {
    await count();
    await new Promise((wake) => setTimeout(wake, POLL_MS));
  }
}

async function count() {
  try {
    const answer = await ask("/workers", { signal: AbortSignal.timeout(ANSWER_MS) });
    const { workers } = /** @type {{ workers: WorkerInfo[] }} */ (await answer.json());
    fleet.all = workers.sort((a, b) => byName(a.name, b.name));
    fleet.workers = fleet.all.filter(({ tasks }) => tasks.includes(task));
    fleet.trouble = null;
    fleet.locked = false;
  } catch (error) {
    const { status, detail } = error instanceof Problem ? error : new Problem(0);
    fleet.trouble = () => (status === 401 ? t.locked : (detail ?? t.silent));
  }
  notify();
}

/** `fetch` with the token. Throws a Problem for any status but success. @param {string} url @param {RequestInit} [options] */
export async function ask(url, options) {
  const used = token;
  const answer = await fetch(url, { ...options, headers: credentials() }).catch(() => {
    throw new Problem(0);
  });
  if (answer.ok) return answer;
  if (answer.status === 401) refuse(used);
  const { detail } = await answer.json().catch(() => ({}));
  throw new Problem(answer.status, detail, Number(answer.headers.get("retry-after")));
}

/** The state of a job; null if the server has none. @param {string} id */
export const accountOf = (id) =>
  ask(`/jobs/${id}`).then(
    (answer) => answer.json(),
    () => null,
  );

/**
 * PUTs the raw file. Resolves with the state of the job when every band is in the queue or done. Until then the page
 * must be able to send the file again.
 * @param {string} url @param {Blob} file @param {AbortSignal} signal @param {(sent: number) => void} progress 0 to 1
 * @returns {Promise<any>}
 */
export function upload(url, file, signal, progress) {
  const { promise, resolve, reject } = Promise.withResolvers();
  // Not `fetch`: it does not report upload progress.
  const xhr = new XMLHttpRequest();
  const used = token;
  xhr.open("PUT", url);
  for (const [name, value] of Object.entries(credentials())) xhr.setRequestHeader(name, value);
  xhr.responseType = "json";
  xhr.upload.onprogress = (event) => progress(event.total ? event.loaded / event.total : 0);
  xhr.onerror = xhr.onabort = () => reject(new Problem(0));
  xhr.onload = () => {
    if (xhr.status === 401) refuse(used);
    if (xhr.status < 300) return resolve(xhr.response);
    reject(new Problem(xhr.status, xhr.response?.detail, Number(xhr.getResponseHeader("retry-after"))));
  };
  signal.addEventListener("abort", () => xhr.abort());
  xhr.send(file);
  return promise;
}

/**
 * One event stream for several jobs. It reconnects automatically, and the server then sends all events again.
 * @param {string[]} ids
 * @param {(name: typeof EVENTS[number], data: any) => void} on
 * @returns {() => void} closes the stream
 */
export function follow(ids, on) {
  /** @type {EventSource} */
  let source;
  let ended = false;
  const open = () => {
    if (ended) return;
    source = new EventSource(`/events?jobs=${ids.join()}`);
    for (const name of EVENTS) {
      source.addEventListener(name, (event) => on(name, JSON.parse(event.data)));
    }
    source.onerror = () => {
      // CLOSED: the answer was no event stream. Otherwise the browser reconnects.
      if (source.readyState === EventSource.CLOSED) setTimeout(open, 1_000);
    };
  };
  open();
  return () => {
    ended = true;
    source.close();
  };
}
