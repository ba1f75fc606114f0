/**
 * Jobs that did not begin on this page: those from before a reload, those of other tabs, and those that an address names.
 *
 * Invariant: a picture is sent by the tab that began its job. Another tab sends it once that one is closed. Without Web Locks
 * (plain HTTP from another host) it cannot know, so it asks its user.
 *
 * Not here: sending and following (jobs.js), what is stored (store.js).
 */
import { isElsewhere, isOpen, isUnsent, jobOf } from "./job.js";
import * as own from "./jobs.js";
import { byId, cancel, jobs, keep, learn, list, next, notify, refollow, unlist } from "./jobs.js";
import { accountOf } from "./server.js";
import * as store from "./store.js";

/** @typedef {import("./job.js").Job} Job */

/** Other tabs with jobs. */
const watched = new Set(/** @type {string[]} */ ([]));

/** Restores the jobs of an earlier page, and lists those of other tabs. */
export async function restore() {
  const isAlive = await store.thisTab();
  for (const job of jobs) keep(job); // jobs that were added meanwhile
  store.hearTabs(
    (record) => hearPut(record).then(refollow),
    (id) => unlist(byId(id)),
  );
  await load(isAlive);
}

/** Lists the stored jobs, and continues those whose tab was closed. @param {(tab: string) => boolean} isAlive */
async function load(isAlive) {
  for (const record of await store.records((record) => !isOpen(record))) {
    const known = byId(record.id);
    if (known && (!known.elsewhere || isAlive(record.tab))) continue;
    if (isAlive(record.tab)) await hearPut(record);
    else if (record.phase === "cancelled") store.drop(record.id);
    else await takeOver(record, known ?? jobOf(record));
  }
  refollow();
  next();
}

/** @param {any} record @param {Job} job */
async function takeOver({ downloaded }, job) {
  job.preview ??= (await store.getPreview(job.id)) ?? null;
  job.file ??= (await store.getFile(job.picture)) ?? null;
  if (isUnsent(job)) await requeue(job);
  Object.assign(job, { elsewhere: false, downloaded });
  list(job);
  await keep(job); // the next tab that looks must read it
}

/** Takes over the jobs of another tab once it is closed. @param {string} other */
function watch(other) {
  if (watched.has(other)) return;
  watched.add(other);
  store.onceClosed(other, () => {
    watched.delete(other);
    return load((tab) => tab !== other);
  });
}

/** News of a job of another tab. It may be that this tab's was cancelled there. @param {any} record */
async function hearPut(record) {
  const known = byId(record.id);
  if (known && !known.elsewhere) return record.phase === "cancelled" && isOpen(known) ? cancel(known) : undefined;
  const { phase, start, end, status, problem } = jobOf(record);
  const job = known ?? jobOf(record);
  Object.assign(job, { phase, start, end, status, problem, elsewhere: true, kept: true, downloaded: true });
  watch(record.tab);
  if (!known) list(job);
  notify(job, "phase");
  job.preview ??= (await store.getPreview(job.id)) ?? null;
  if (!isOpen(job)) job.file ??= (await store.getFile(job.picture)) ?? null;
  notify(job, "phase");
}

/** Lists and follows a job of another browser. Its result is not saved by itself. @param {string} id @param {string} name */
export async function visit(id, name) {
  const known = await accountOf(id);
  const found = byId(id);
  if (found || !known) return found;
  const { task, params, workers, created } = known;
  const query = new URLSearchParams(Object.entries(params ?? {}).map(([key, value]) => [key, String(value)]));
  const added = (jobs[0]?.added ?? 0) + 1;
  const job = jobOf({
    ...{ id, name, size: 0, workers: workers ?? null, query: query.toString(), added, batch: added },
    ...{ task: task.split(".")[0], phase: "running", start: created ?? Date.now(), downloaded: true },
  });
  if (known.times?.done) job.end = job.start + known.times.done;
  list(job);
  learn(job, known);
  refollow();
  return job;
}

/** Queues a job whose upload was cut by closing its page. @param {Job} job */
async function requeue(job) {
  job.kept = job.file !== null;
  job.phase = "queued";
  if (job.file) return;
  // The server may have accepted it just before the page was closed.
  const known = await accountOf(job.id);
  job.phase = known && known.state !== "uploading" ? "running" : "lost";
}

/** Sends a job again, or one of another tab from here. @param {Job} job */
export async function retry(job) {
  if (!isElsewhere(job)) return own.retry(job);
  await takeOver({ downloaded: false }, job);
  refollow();
  next();
}
