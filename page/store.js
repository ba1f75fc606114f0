/**
 * What outlives a reload: the list of jobs, the files that no server has accepted yet, small previews. In IndexedDB;
 * where there is none, nothing outlives a reload, and nothing else changes.
 *
 * Invariant: what is kept is bounded, in number and in bytes.
 */

const MAX_JOBS = 50;
/** Files larger than this, or together larger than that, are not kept, bytes. */
const MAX_FILE = 512 * 2 ** 20;
const MAX_FILES = 1024 * 2 ** 20;

/** @typedef {"jobs" | "files" | "previews"} Shelf */

const kept = new Map(/** @type {[string, number][]} */ ([]));

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
    resolve(null); // private windows of some browsers
  }
});

/**
 * @template T
 * @param {Shelf[]} shelves @param {IDBTransactionMode} mode
 * @param {(open: (shelf: Shelf) => IDBObjectStore) => IDBRequest<T> | undefined} step
 * @returns {Promise<T | undefined>} undefined where nothing is stored
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
      resolve(undefined); // what cannot be cloned, a database that was closed
    }
  });
}

/** @param {Shelf} shelf @param {string} key @param {unknown} value @returns {Promise<boolean>} whether it is kept */
async function put(shelf, key, value) {
  return (await transact([shelf], "readwrite", (open) => open(shelf).put(value, key))) !== undefined;
}

/** @param {{ id: string }} record plain data */
export function putRecord(record) {
  return put("jobs", record.id, record);
}

/** @param {string} id @param {Blob} file @returns {Promise<boolean>} false where it is too large to keep */
export async function putFile(id, file) {
  const sum = [...kept.values()].reduce((total, size) => total + size, 0);
  if (file.size > MAX_FILE || sum + file.size > MAX_FILES) return false;
  kept.set(id, file.size);
  const done = await put("files", id, file);
  if (!done) kept.delete(id);
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

/** @param {string} id */
export async function drop(id) {
  kept.delete(id);
  await transact(["jobs", "files", "previews"], "readwrite", (open) => {
    for (const shelf of /** @type {Shelf[]} */ (["jobs", "files", "previews"])) open(shelf).delete(id);
    return undefined;
  });
}

/**
 * All records, oldest first. Of too many the oldest that are over are dropped.
 * @param {(record: any) => boolean} isOver @returns {Promise<any[]>}
 */
export async function records(isOver) {
  let all = (await transact(["jobs"], "readonly", (open) => open("jobs").getAll())) ?? [];
  all.sort((a, b) => a.added - b.added);
  const surplus = new Set(all.filter(isOver).slice(0, Math.max(0, all.length - MAX_JOBS)));
  await Promise.all([...surplus].map(({ id }) => drop(id)));
  all = all.filter((record) => !surplus.has(record));
  for (const { id, size } of all) if (await getFile(id)) kept.set(id, size);
  return all;
}

/**
 * This tab's name, and whether another tab, alive, goes by a name. Two tabs must not send the same picture; a reload
 * keeps the name, a copy of the tab gets its own.
 * @returns {Promise<{ tab: string, isAlive(tab: string): boolean }>}
 */
export async function thisTab() {
  let tab = newId();
  try {
    tab = sessionStorage.getItem("tab") ?? tab;
  } catch {
    // each load is a tab of its own
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
    // as above
  }
  const held = new Set((await navigator.locks?.query())?.held?.map(({ name }) => name));
  // Without locks (plain HTTP from another host) nobody can tell: the others are left alone.
  return { tab, isAlive: (other) => other !== tab && (!navigator.locks || held.has(`tab ${other}`)) };
}

/** Takes the lock of a tab's name for as long as the page lives. @param {string} tab @returns {Promise<boolean>} */
function hold(tab) {
  return new Promise((resolve) => {
    // A page that is being reloaded lets go of it a moment later than the new one asks.
    const signal = AbortSignal.timeout(3_000);
    const forGood = () => {
      resolve(true);
      return new Promise(() => {});
    };
    navigator.locks.request(`tab ${tab}`, { signal }, forGood).catch(() => resolve(false));
  });
}

/** A version 4 UUID. `randomUUID` is missing where the page came over plain HTTP from another host. @returns {string} */
export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
