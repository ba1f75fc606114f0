/**
 * The state of a job, derived from its records, and a watch that keeps it up to date.
 *
 *     uploading   the picture is still arriving; some bands may be done already
 *     running     every band is in the queue, with a worker or done. Only workers are needed from now on
 *     done        every band is done
 *     failed      `error` has the reason
 *
 * Messages from the store are hints; the records are the truth. A watch that gets no hint reads the records again. It
 * also looks for what no message announces: results of third-party workers, which only SET a key, and missing bands.
 *
 * Invariant: no job is stuck for ever. It makes progress, or waits for workers with its bands in the queue, or fails.
 *
 * Not here: what moves a job forward (job.ts, worker.ts), the lease of its coordinator (jobs/lease.ts).
 */

import { EventEmitter } from "node:events";
import type { Backends, Claim, Done, Failure, Hint, Incident, Job, Results } from "./backends.ts";
import { Pace } from "./jobs/pace.ts";
import { awaitedOf, failIfStuck, type Known, noteDeadWorkers } from "./jobs/stuck.ts";

/** A job cannot go on: it has failed, is gone, differs from what was sent, or was taken over. */
export class JobError extends Error {
  /** @param failure the reason of a failed job, for metrics */
  constructor(
    readonly code: "failed" | "gone" | "conflict" | "taken-over",
    message: string,
    readonly failure: Failure = "other",
  ) {
    super(message);
    this.name = "JobError";
  }
}

export function gone(): JobError {
  return new JobError("gone", "the job was cancelled or has expired");
}

export type State = "uploading" | "running" | "done" | "failed";

export function stateOf(job: Job, done: number): State {
  if (job.error !== null) return "failed";
  if (done === job.bands && job.enqueued) return "done";
  return job.enqueued ? "running" : "uploading";
}

/** The pause between two looks of a watch without hints, ms: the shortest one, and the one after a long silence. */
const LOOK_MS = 200;
const REFRESH_MS = 2_000;
/** A watch looks for a job that does not exist every 10 to 20 s, ms. Rarely, because anyone may ask for such a job. */
const UNKNOWN_MS = 10_000;

/** Something that happened to a job, as clients see it: a band was done, a band was claimed, something went wrong. */
export type Happening = { band: number } | { band: number; claim: Claim } | { incident: Incident };

/**
 * Reads a job, and fails it if it cannot go on.
 * @param isEnqueuing whether this process enqueues it now. Such a job needs no lease to count as alive
 * @returns null if there is no such job
 */
export async function lookUp(backends: Backends, id: string, isEnqueuing = JobWatch.enqueues(backends, id)) {
  let known = await read(backends.results, id);
  if (!known || known.job.error !== null || stateOf(known.job, known.done.size) === "done") return known;
  const awaited = awaitedOf(known);
  if (awaited.length > 0) {
    await backends.results.recordForeign(id, awaited);
    known = await read(backends.results, id);
  }
  if (!known || !(await failIfStuck(backends, known, isEnqueuing))) return known;
  return read(backends.results, id);
}

async function read(results: Results, id: string): Promise<Known | null> {
  const [job, sent, done, claims, incidents] = await Promise.all([
    results.findJob(id),
    results.sent(id),
    results.done(id),
    results.claims(id),
    results.incidents(id),
  ]);
  return job && { job, sent, done, claims, incidents };
}

function withoutBands(job: Job): Known {
  return { job, sent: new Map(), done: new Map(), claims: new Map(), incidents: [] };
}

/** The records of a job, kept up to date. Callers in this process share one watch per job. */
export class JobWatch {
  static readonly #shared = new WeakMap<Results, Map<string, JobWatch>>();

  job: Job | null = null;
  done = new Map<number, Done>();
  /** What happened in this generation, oldest first. */
  happened: Happening[] = [];
  /** The unfinished bands that a worker has. */
  claims = new Map<number, Claim>();
  /** Rises when the bands start again: the id was used for a new job, or the job started its next attempt. */
  generation = 0;
  /** Rises with every change. */
  version = 0;
  /** Bands that were or are being published, with the CRC-32 of their rows. */
  sent = new Map<number, number>();
  /** How many callers have opened it. */
  #users = 0;
  /** The number of the last incident in `happened`. */
  #incidents = 0;
  readonly #changes = new EventEmitter().setMaxListeners(0);
  #lastHint = Date.now();
  #lastRead = 0;
  /** Reads in progress. */
  #reading = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #closed = false;
  #enqueuing = 0;
  /** When the next look is due, ms since 1970. */
  #due = 0;
  /** The first unclaimed band at the last look. It changes from look to look while workers take bands. */
  #firstUnclaimed: number | undefined;
  /** Claims whose worker is missing, and since when (`noteDeadWorkers`). */
  #missing = new Map<string, number>();
  readonly #pace: Pace;
  #unwatch: Promise<() => void> | undefined;

  private constructor(
    readonly backends: Backends,
    readonly id: string,
  ) {
    this.#pace = Pace.of(backends.results);
  }

  /**
   * Every `open` needs a `close`.
   * @param fresh the record of a new job, just written. There is nothing else to read about it
   */
  static async open(backends: Backends, id: string, fresh?: Job): Promise<JobWatch> {
    const all = JobWatch.#shared.get(backends.results) ?? new Map<string, JobWatch>();
    JobWatch.#shared.set(backends.results, all);
    const watch = all.get(id) ?? new JobWatch(backends, id);
    all.set(id, watch);
    watch.#users++;
    try {
      // Subscribe first, read second, so that nothing is missed in between.
      watch.#unwatch ??= backends.results.watch(id, (hint) => watch.#onHint(hint));
      await watch.#unwatch;
      watch.#apply(fresh ? withoutBands(fresh) : await read(backends.results, id));
    } catch (error) {
      watch.close();
      throw error;
    }
    if (!watch.#timer) watch.#schedule();
    return watch;
  }

  close(): void {
    if (--this.#users > 0) return;
    JobWatch.#shared.get(this.backends.results)!.delete(this.id);
    this.#closed = true;
    this.#pace.open.delete(this);
    clearTimeout(this.#timer);
    this.#unwatch?.then(
      (unwatch) => unwatch(),
      () => {},
    );
  }

  /** Whether this process enqueues the job now. */
  static enqueues({ results }: Backends, id: string): boolean {
    const watch = JobWatch.#shared.get(results)?.get(id);
    return watch !== undefined && watch.#enqueuing > 0;
  }

  /** Runs `step` while the job counts as being enqueued by this process. */
  async enqueuing<T>(step: () => Promise<T>): Promise<T> {
    this.#enqueuing++;
    try {
      return await step();
    } finally {
      this.#enqueuing--;
    }
  }

  /** Bands that were sent and are not done. */
  get inFlight(): number {
    let count = 0;
    for (const band of this.sent.keys()) if (!this.done.has(band)) count++;
    return count;
  }

  /** @throws JobError "gone" */
  expectJob(): Job {
    if (this.job === null) throw gone();
    return this.job;
  }

  /** Calls `listener` on every change. Returns a function that removes it. */
  onChange(listener: () => void): () => void {
    this.#changes.on("change", listener);
    return () => this.#changes.off("change", listener);
  }

  /**
   * Waits until `condition` is true. It is checked on every change.
   * @throws JobError if the job has failed or is gone; the signal's reason if the signal is aborted
   */
  async until(condition: () => boolean, signal?: AbortSignal): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const settle = (error?: unknown) => {
        this.#changes.off("change", check);
        signal?.removeEventListener("abort", check);
        if (error === undefined) resolve();
        else reject(error);
      };
      const check = () => {
        if (signal?.aborted) settle(signal.reason);
        else if (this.job === null) settle(gone());
        else if (this.job.error !== null) settle(new JobError("failed", this.job.error, this.job.failure ?? "other"));
        else if (condition()) settle();
      };
      this.#changes.on("change", check);
      signal?.addEventListener("abort", check);
      check();
    });
  }

  #onHint(hint?: Hint): void {
    this.#lastHint = Date.now();
    // A read in progress may be older than this hint and would overwrite it, so the records are read once more.
    if (hint === undefined || ("enqueuedAt" in hint && this.#reading > 0)) {
      this.#readAgain(read(this.backends.results, this.id)).catch(() => {}); // the next look reads again
      return;
    }
    if ("report" in hint) {
      return void this.backends.results.recordForeign(this.id, [hint.report]).catch(() => {}); // a look finds it
    }
    if (!this.job) return;
    // Only a list gets its number of bands later. For any other job, a message with another number is invalid.
    const { kind, bands, height } = this.job;
    if ("done" in hint) {
      if (kind === "list" || hint.band < bands) this.#noteDone(hint.band, hint.done);
    } else if ("claim" in hint) this.#noteClaim(hint.band, hint.claim);
    else if ("incident" in hint) this.#noteIncident(hint.incident);
    else Object.assign(this.job, hint, { enqueued: true }, kind !== "list" && { bands, height });
    this.#emit();
  }

  async #readAgain(reading: Promise<Known | null>): Promise<void> {
    this.#reading++;
    try {
      this.#apply(await reading);
    } finally {
      this.#reading--;
    }
  }

  #apply(known: Known | null): void {
    // A new job under the same id, or the next attempt: what was known about the bands is out of date.
    if (known?.job.created !== this.job?.created || known?.job.attempt !== this.job?.attempt) {
      this.sent.clear();
      this.done.clear();
      this.claims.clear();
      this.happened = [];
      this.#incidents = 0;
      this.generation++;
    }
    const appeared = this.job === null && known !== null;
    this.job = known?.job ?? null;
    for (const [band, crc] of known?.sent ?? []) this.sent.set(band, crc);
    for (const incident of known?.incidents ?? []) this.#noteIncident(incident);
    for (const [band, record] of known?.done ?? []) this.#noteDone(band, record);
    for (const [band, claim] of known?.claims ?? []) this.#noteClaim(band, claim);
    if (appeared && this.#timer) this.#schedule();
    this.#emit();
  }

  #noteDone(band: number, record: Done): void {
    // The record is announced again when a third-party worker reports its name later.
    if (this.done.get(band)?.worker !== record.worker) this.happened.push({ band });
    this.done.set(band, record);
    this.claims.delete(band);
  }

  #noteClaim(band: number, claim: Claim): void {
    const known = this.claims.get(band);
    // The message is invalid or late, or the records have shown the claim already.
    if (
      !(band < (this.job?.bands ?? 0)) ||
      this.done.has(band) ||
      (known?.worker === claim.worker && known.claimed === claim.claimed)
    )
      return;
    this.claims.set(band, claim);
    this.happened.push({ band, claim });
  }

  #noteIncident(incident: Incident): void {
    // Known already, or one before it is missing. In the second case the next read of the records brings both.
    if (incident.n !== this.#incidents + 1) return;
    this.#incidents = incident.n;
    const isBack = incident.what === "threw" || (incident.what === "lost" && incident.by === undefined);
    if (isBack && incident.band !== undefined) this.claims.delete(incident.band);
    this.happened.push({ incident });
  }

  #emit(): void {
    const isOpen = this.job && ["uploading", "running"].includes(stateOf(this.job, this.done.size));
    if (isOpen && !this.#closed) this.#pace.open.add(this);
    else this.#pace.open.delete(this);
    this.version++;
    this.#changes.emit("change");
  }

  /** Records that a band is about to be sent. */
  markSending(band: number, crc: number): void {
    this.sent.set(band, crc);
    if (this.#pace.isFast && this.#due - Date.now() > this.#pause()) this.#schedule();
  }

  /** The pause before the next look, ms. It grows while nothing changes. */
  #pause(): number {
    const quiet = Date.now() - this.#lastHint;
    const usual = this.job ? Math.min(Math.max(LOOK_MS, quiet / 4), REFRESH_MS) : UNKNOWN_MS * (1 + Math.random());
    const own = this.#unclaimed().length > 0 ? Math.min(usual, this.#pace.pause) : usual;
    return Math.max(own, this.#pace.minPause);
  }

  #schedule(): void {
    const pause = this.#pause();
    this.#due = Date.now() + pause;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(async () => {
      await this.#look().catch(() => {}); // the store is unavailable: the next look tries again
      if (!this.#closed) this.#schedule();
    }, pause);
  }

  async #look(): Promise<void> {
    const now = Date.now();
    // A new record is announced when it is written. This look finds it if that message was lost.
    if (!this.job && !(await this.backends.results.findJob(this.id))) return;
    if (now - this.#lastHint >= LOOK_MS && now - this.#lastRead >= REFRESH_MS) {
      this.#lastRead = now;
      await this.#readAgain(lookUp(this.backends, this.id, this.#enqueuing > 0));
      this.#missing = await noteDeadWorkers(this.backends, this, this.#missing);
      return;
    }
    const unclaimed = this.#unclaimed();
    const isStuck = unclaimed.length > 0 && unclaimed[0].band === this.#firstUnclaimed;
    this.#firstUnclaimed = unclaimed[0]?.band;
    if (isStuck || (this.#pace.isFast && unclaimed.length > 0)) {
      this.#pace.looked(await this.backends.results.recordForeign(this.id, unclaimed));
    }
  }

  /** Bands in the queue or with a third-party worker. The others are announced when they are done, so need no look. */
  #unclaimed(): { band: number }[] {
    return awaitedOf(this).filter(({ band }) => (this.claims.get(band) ?? { foreign: true }).foreign === true);
  }
}
