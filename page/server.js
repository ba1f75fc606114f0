/**
 * Talking to the coordinator: requests, uploads, events, the fleet, the token.
 *
 * Not here: what becomes of a job (jobs.js), what is shown of it.
 */
import { t } from "./words.js";

/** Who may be asked again for the same, later: nobody there, or too busy. */
const PASSING = [0, 408, 429, 502, 503, 504];
const POLL_MS = 3_000;
const ANSWER_MS = 5_000;

/** A refusal. `status` is the HTTP status, 0 for a lost connection, "job" for a job that failed after its upload. */
export class Problem extends Error {
  /** @param {number | "job"} status @param {string} [detail] the server's words @param {number} [retryAfter] seconds */
  constructor(status, detail, retryAfter = 0) {
    super(detail ?? String(status));
    this.status = status;
    this.detail = detail;
    this.retryAfter = retryAfter;
  }

  get isPassing() {
    return PASSING.includes(Number(this.status));
  }

  /** What it means, in the page's language. */
  get title() {
    const { problems } = t;
    return problems[/** @type {keyof typeof problems} */ (this.status)] ?? problems.other;
  }

  /** The server's own sentence, in English; else ours. */
  get sentence() {
    return this.detail || (this.status === 0 ? t.offline : t.unknown(Number(this.status)));
  }
}

/**
 * What the coordinator tells of a worker.
 * @typedef {{ name: string, host: string, cores: number, tasks: string[] }} WorkerInfo
 */

/**
 * `workers`: those that know the chosen task; null until the server has told. `locked`: it wants a token that it has not
 * been given.
 */
export const fleet = {
  /** @type {WorkerInfo[] | null} */ workers: null,
  /** @type {WorkerInfo[]} */ all: [],
  /** Why they are not known: a function, since the language may change. @type {(() => string) | null} */ trouble: null,
  locked: false,
  refused: false,
};

/** Called on every change of `fleet`, and whenever the server has answered. */
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

/** Tries a token; it is kept for as long as this tab is open. @param {string} text */
export function giveToken(text) {
  token = text;
  fleet.refused = false;
  try {
    sessionStorage.setItem("token", text);
  } catch {
    // a browser that stores nothing: asked for again next time
  }
  return count();
}

export const hasToken = () => token !== "";

/** @returns {Record<string, string>} */
function credentials() {
  return token ? { authorization: `Bearer ${token}` } : {};
}

/** The server has answered 401 to `used`. @param {string} used */
function refuse(used) {
  if (used !== token) return; // another was given meanwhile
  fleet.refused = used !== "";
  fleet.locked = true;
  tell();
}

function tell() {
  for (const listener of onFleet) listener();
}

/** From now on the fleet is those who know this task. @param {string} name */
export function forTask(name) {
  if (task === name) return;
  task = name;
  if (fleet.workers) fleet.workers = fleet.all.filter(({ tasks }) => tasks.includes(task));
  tell();
}

/** Counts the fleet, again and again. */
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
    fleet.all = workers.sort((a, b) => (a.name < b.name ? -1 : 1));
    fleet.workers = fleet.all.filter(({ tasks }) => tasks.includes(task));
    fleet.trouble = null;
    fleet.locked = false;
  } catch (error) {
    const { status, detail } = error instanceof Problem ? error : new Problem(0);
    fleet.trouble = () => (status === 401 ? t.locked : (detail ?? t.silent));
  }
  tell();
}

/** `fetch` that answers with a Problem unless all is well. @param {string} url @param {RequestInit} [options] */
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

/**
 * PUTs the raw file. Resolves with the server's account when every band is in the queue or done: until then the file
 * is ours to send again.
 * @param {string} url @param {Blob} file @param {AbortSignal} signal @param {(sent: number) => void} progress 0 to 1
 * @returns {Promise<any>}
 */
export function upload(url, file, signal, progress) {
  const { promise, resolve, reject } = Promise.withResolvers();
  // Not fetch: it does not tell how much is sent.
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
 * One stream of events for several jobs. It reconnects by itself; the server then tells all again.
 * @param {string[]} ids
 * @param {(name: "unknown" | "job" | "band" | "done" | "failed", data: any) => void} on
 * @returns {() => void} ends it
 */
export function follow(ids, on) {
  /** @type {EventSource} */
  let source;
  let ended = false;
  const open = () => {
    if (ended) return;
    source = new EventSource(`/events?jobs=${ids.join()}`);
    for (const name of /** @type {const} */ (["unknown", "job", "band", "done", "failed"])) {
      source.addEventListener(name, (event) => on(name, JSON.parse(event.data)));
    }
    source.onerror = () => {
      // Closed for good: the answer was no stream. Otherwise the browser tries again.
      if (source.readyState === EventSource.CLOSED) setTimeout(open, 1_000);
    };
  };
  open();
  return () => {
    ended = true;
    source.close();
  };
}
