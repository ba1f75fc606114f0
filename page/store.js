/**
 * Storage that survives a reload: the list of jobs, files that no server has accepted yet, and previews, in IndexedDB. The other
 * tabs of this browser hear of each record that is put or dropped. Without IndexedDB nothing survives a reload, and everything
 * else works.
 *
 * Invariant: the number of jobs and the bytes of files are bounded.
 *
 * Not here: small settings of the browser (words.js).
 */

const MAX_JOBS = 50;
/** Limits of one stored file and of all of them, bytes. Files beyond are not stored. */
const MAX_FILE = 512 * 2 ** 20;
const MAX_FILES = 1024 * 2 ** 20;
/** A tab that is reloaded is back within this time, ms. */
const RELOAD_MS = 2_000;

/** @typedef {"jobs" | "files" | "previews"} Shelf */

const kept = new Map(/** @type {[string, number][]} */ ([]));
let tab = "";

/** @type {Promise<IDBDatabase | null>} */
const database = new Promise((resolve) => {
  try {
    const request = indexedDB.open("sobel", 1);
    request.onupgradeneeded = () => {
      for (const shelf of ["jobs", "files", "previews"]) request.result.createObjectStore(shelf);
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = request.onblocked = () => resolve(null);
  } catch {
    resolve(null); // some browsers, in private windows
  }
});

/**
 * @template T
 * @param {Shelf[]} shelves @param {IDBTransactionMode} mode
 * @param {(open: (shelf: Shelf) => IDBObjectStore) => IDBRequest<T> | undefined} step
 * @returns {Promise<T | undefined>} undefined on any error
 */
async function transact(shelves, mode, step) {
  const db = await database;
  if (!db) return undefined;
  return new Promise((resolve) => {
    try {
      const transaction = db.transaction(shelves, mode);
      const request = step((shelf) => transaction.objectStore(shelf));
      transaction.oncomplete = () => resolve(request?.result);
      transaction.onerror = transaction.onabort = () => resolve(undefined);
    } catch {
      resolve(undefined); // the value cannot be cloned, or the database was closed
    }
  });
}

/** @param {Shelf} shelf @param {string} key @param {unknown} value @returns {Promise<boolean>} whether it was stored */
async function put(shelf, key, value) {
  return (await transact([shelf], "readwrite", (open) => open(shelf).put(value, key))) !== undefined;
}

/** The channel between the tabs; null if the browser has none. */
const news = openNews();

function openNews() {
  try {
    return new BroadcastChannel("jobs");
  } catch {
    return null;
  }
}

/** @param {(record: any) => void} onPut @param {(id: string) => void} onDrop what other tabs put and drop */
export function hearTabs(onPut, onDrop) {
  news?.addEventListener("message", ({ data }) => (typeof data === "string" ? onDrop(data) : onPut(data)));
}

/** Puts a record, with the name of this tab. @param {{ id: string }} record plain data */
export function putRecord(record) {
  const named = { ...record, tab };
  news?.postMessage(named);
  return put("jobs", record.id, named);
}

/** @param {string} picture @param {Blob} file @returns {Promise<boolean>} whether it was stored: false if it is too large */
export async function putFile(picture, file) {
  if (kept.has(picture)) return true;
  const sum = [...kept.values()].reduce((total, size) => total + size, 0);
  if (file.size > MAX_FILE || sum + file.size > MAX_FILES) return false;
  kept.set(picture, file.size);
  const done = await put("files", picture, file);
  if (!done) kept.delete(picture);
  return done;
}

/** @param {string} id @param {unknown} preview */
export function putPreview(id, preview) {
  return put("previews", id, preview);
}

/** @param {string} id @returns {Promise<Blob | undefined>} */
export function getFile(id) {
  return transact(["files"], "readonly", (open) => open("files").get(id));
}

/** @param {string} id @returns {Promise<any>} */
export function getPreview(id) {
  return transact(["previews"], "readonly", (open) => open("previews").get(id));
}

/** @param {string} id */
export async function dropFile(id) {
  kept.delete(id);
  await transact(["files"], "readwrite", (open) => void open("files").delete(id));
}

/** Drops a job. Its file may belong to other jobs too. @param {string} id */
export async function drop(id) {
  news?.postMessage(id);
  await transact(["jobs", "previews"], "readwrite", (open) => {
    for (const shelf of /** @type {Shelf[]} */ (["jobs", "previews"])) open(shelf).delete(id);
    return undefined;
  });
}

/**
 * All records, oldest first. Above the limit the oldest ended ones are dropped.
 * @param {(record: any) => boolean} isOver @returns {Promise<any[]>}
 */
export async function records(isOver) {
  let all = (await transact(["jobs"], "readonly", (open) => open("jobs").getAll())) ?? [];
  all.sort((a, b) => a.added - b.added);
  const surplus = new Set(all.filter(isOver).slice(0, Math.max(0, all.length - MAX_JOBS)));
  await Promise.all([...surplus].map(({ id }) => drop(id)));
  all = all.filter((record) => !surplus.has(record));
  const sizes = new Map(all.map(({ id, picture = id, size }) => [picture, size]));
  for (const key of (await transact(["files"], "readonly", (open) => open("files").getAllKeys())) ?? []) {
    if (sizes.has(key)) kept.set(String(key), sizes.get(key));
    else await dropFile(String(key));
  }
  return all;
}

/**
 * Names this tab. A reload keeps the name; a copy of the tab gets a new one.
 * @returns {Promise<(tab: string) => boolean>} whether a name belongs to another open tab: two must not send the same picture
 */
export async function thisTab() {
  tab = newId();
  try {
    tab = sessionStorage.getItem("tab") ?? tab;
  } catch {
    // Storage is disabled: each load counts as a new tab.
  }
  if (navigator.locks) {
    if (!(await hold(tab))) {
      tab = newId();
      await hold(tab);
    }
  }
  try {
    sessionStorage.setItem("tab", tab);
  } catch {
    // Storage is disabled.
  }
  const held = new Set((await navigator.locks?.query())?.held?.map(({ name }) => name));
  // Without locks (plain HTTP from another host) every other tab counts as open, so its jobs are left alone.
  return (other) => other !== tab && (!navigator.locks || held.has(`tab ${other}`));
}

/** Holds the lock of a tab's name until the page is closed. @param {string} tab @returns {Promise<boolean>} */
function hold(tab) {
  return new Promise((resolve) => {
    // On a reload the old page releases the lock a moment after the new one requests it.
    const signal = AbortSignal.timeout(3_000);
    const forGood = () => {
      resolve(true);
      return new Promise(() => {});
    };
    navigator.locks.request(`tab ${tab}`, { signal }, forGood).catch(() => resolve(false));
  });
}

/**
 * Calls `then` when another tab has been closed, not only reloaded. Of several tabs that wait, one at a time calls its own.
 * In a browser without locks it never does.
 * @param {string} tab @param {() => Promise<void>} then
 */
export async function onceClosed(tab, then) {
  let closed = !navigator.locks;
  while (!closed) {
    await navigator.locks.request(`tab ${tab}`, () => {});
    await new Promise((wake) => setTimeout(wake, RELOAD_MS));
    await navigator.locks.request(`tab ${tab}`, { ifAvailable: true }, async (lock) => {
      closed = lock !== null;
      if (lock) await then();
    });
  }
}

/** A version 4 UUID. `randomUUID` is missing on plain HTTP from another host. @returns {string} */
export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
