/**
 * What is known of a job: its state, derived from the records, and a watch that keeps it up to date.
 *
 *     uploading   the picture is still arriving; bands may be done already
 *     running     every band is in the queue or done: from here on no client and no coordinator is needed
 *     done        every band is done
 *     failed      `error` says why
 *
 * Events are hints, the records the truth: whoever watches reads them again when hints do not come. It also looks for
 * what nobody tells: results of workers that only set a key, and bands that have vanished.
 *
 * Invariant: nobody waits for ever. A job goes on, or waits for workers with its bands in the queue, or fails.
 *
 * Not here: what moves a job forward (job.ts, worker.ts).
 */
import { EventEmitter } from "node:events";
import { DEAD_LETTERS, type Queue } from "./queue.ts";
import type { Done, Failure, Hint, Job, Results } from "./results.ts";

export interface Backends {
  queue: Queue;
  results: Results;
}

/** Why a job cannot go on: it has failed, is gone, or is another one than what was sent. */
export class JobError extends Error {
  /** @param failure of a job that has failed: why, for metrics */
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

/** How long a watch goes without a hint before it looks for itself: at first, and when nothing has happened for long, ms. */
const LOOK_MS = 200;
const REFRESH_MS = 2_000;
/** A band that is neither in the queue nor with a worker for so long has vanished: several heartbeats, ms. */
const VANISHED_MS = 15_000;
/** The same where workers are at the queue that may have it without saying so, ms. */
const VANISHED_UNSEEN_MS = 90_000;

/** Everything recorded of a job, as it stands now. */
export interface Known {
  job: Job;
  /** Bands that the queue has confirmed, and the CRC-32 of their rows. */
  sent: Map<number, number>;
  done: Map<number, Done>;
}

/** @returns null where there is no such job */
export async function lookUp(backends: Backends, id: string): Promise<Known | null> {
  let known = await read(backends.results, id);
  if (!known) return null;
  const awaited = awaitedOf(known);
  if (awaited.size === 0 || known.job.error !== null) return known;
  await backends.results.recordForeignResults(id, awaited);
  known = await read(backends.results, id);
  if (!known || !(await failIfVanished(backends, known))) return known;
  return read(backends.results, id);
}

async function read(results: Results, id: string): Promise<Known | null> {
  const [job, sent, done] = await Promise.all([results.findJob(id), results.sent(id), results.done(id)]);
  return job && { job, sent, done };
}

function awaitedOf({ sent, done }: Known): Map<number, number> {
  return new Map([...sent].filter(([band]) => !done.has(band)));
}

/**
 * Fails a job whose bands are nowhere: a queue that was deleted, a worker that acknowledged and died. Since a band on
 * its way from the queue to a worker's heartbeat is nowhere for a moment, that must hold for some time.
 */
async function failIfVanished({ queue, results }: Backends, known: Known): Promise<boolean> {
  const { job } = known;
  const [awaited] = awaitedOf(known).keys();
  if (awaited === undefined || job.error !== null) return false;
  // A broker that does not answer may have it: the time begins anew when it is back.
  const unknown = { waiting: Number.POSITIVE_INFINITY, consumers: 0 };
  const [depth, workers] = await Promise.all([queue.depth(job.task).catch(() => unknown), results.workers()]);
  const { waiting, consumers } = depth;
  const fleet = workers.filter(({ tasks }) => tasks.includes(job.task));
  const nowhere = waiting === 0 && !fleet.some(({ busy }) => busy.split(" ").includes(job.id));
  const held = await results.trackMissing(job.id, nowhere);
  // Others send no heartbeat, or one in which `busy` is always empty. Ours fill it, and who tells a runtime says so too.
  const allTell = consumers <= fleet.length && fleet.every(({ runtime }) => runtime !== "");
  if (held < (allTell ? VANISHED_MS : VANISHED_UNSEEN_MS)) return false;
  const where = `the queue is empty, and no worker has it; one that was rejected lies in ${DEAD_LETTERS}`;
  const error = `band ${awaited} has vanished: ${where}`;
  return results.updateJob(job.id, { error, failure: "lost" });
}

interface Shared {
  watch: JobWatch;
  users: number;
}

/** What is known of a job, kept up to date: one for all in this process who ask for the same job. */
export class JobWatch {
  static readonly #shared = new WeakMap<Results, Map<string, Shared>>();

  job: Job | null = null;
  done = new Map<number, Done>();
  /** Bands that the queue has confirmed, or is about to, and the CRC-32 of their rows. */
  sent = new Map<number, number>();
  readonly #changes = new EventEmitter().setMaxListeners(0);
  #heard = Date.now();
  #refreshed = 0;
  #reading = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #closed = false;
  #unwatch: Promise<() => void> | undefined;

  private constructor(
    readonly backends: Backends,
    readonly id: string,
  ) {}

  /**
   * To be closed by whoever opens it, each time.
   * @param fresh the record of a job that was written just now under a new id: nothing else is known of it
   */
  static async open(backends: Backends, id: string, fresh?: Job): Promise<JobWatch> {
    const all = JobWatch.#shared.get(backends.results) ?? new Map<string, Shared>();
    JobWatch.#shared.set(backends.results, all);
    const entry = all.get(id) ?? { watch: new JobWatch(backends, id), users: 0 };
    all.set(id, entry);
    entry.users++;
    const { watch } = entry;
    try {
      // Events first, records second: nothing falls between.
      watch.#unwatch ??= backends.results.watch(id, (hint) => watch.#hear(hint));
      await watch.#unwatch;
      watch.#take(fresh ? { job: fresh, sent: new Map(), done: new Map() } : await read(backends.results, id));
    } catch (error) {
      watch.close();
      throw error;
    }
    if (!watch.#timer) watch.#schedule();
    return watch;
  }

  close(): void {
    const all = JobWatch.#shared.get(this.backends.results)!;
    const entry = all.get(this.id)!;
    if (--entry.users > 0) return;
    all.delete(this.id);
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#unwatch?.then(
      (unwatch) => unwatch(),
      () => {},
    );
  }

  /** Bands that were sent and are not done. */
  get inFlight(): number {
    let count = 0;
    for (const band of this.sent.keys()) if (!this.done.has(band)) count++;
    return count;
  }

  /** @throws JobError 410 */
  expectJob(): Job {
    if (this.job === null) throw gone();
    return this.job;
  }

  /** Calls `listener` on every change. Returns a function that ends it. */
  onChange(listener: () => void): () => void {
    this.#changes.on("change", listener);
    return () => this.#changes.off("change", listener);
  }

  /**
   * Waits for `condition`.
   * @throws JobError as soon as the job has failed or is gone; the signal's reason when that is aborted
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

  #hear(hint?: Hint): void {
    this.#heard = Date.now();
    // What is being read may be from before.
    if (hint === undefined || (hint === "enqueued" && this.#reading > 0)) {
      this.#refresh(read(this.backends.results, this.id)).catch(() => {}); // the next look will tell
      return;
    }
    if (hint !== "enqueued") this.done.set(hint.band, hint.done);
    else if (this.job) this.job.enqueued = true;
    this.#changes.emit("change");
  }

  async #refresh(reading: Promise<Known | null>): Promise<void> {
    this.#reading++;
    try {
      this.#take(await reading);
    } finally {
      this.#reading--;
    }
  }

  #take(known: Known | null): void {
    if (known?.job.created !== this.job?.created) {
      this.sent.clear();
      this.done.clear();
    }
    this.job = known?.job ?? null;
    for (const [band, crc] of known?.sent ?? []) this.sent.set(band, crc);
    for (const [band, record] of known?.done ?? []) this.done.set(band, record);
    this.#changes.emit("change");
  }

  /** Looks often while things happen, and less and less while they do not. */
  #schedule(): void {
    const quiet = Date.now() - this.#heard;
    const pause = Math.min(Math.max(LOOK_MS, quiet / 4), REFRESH_MS);
    this.#timer = setTimeout(async () => {
      await this.#look().catch(() => {}); // the store is away: the next look will tell
      if (!this.#closed) this.#schedule();
    }, pause);
  }

  async #look(): Promise<void> {
    const now = Date.now();
    if (now - this.#heard < LOOK_MS) return;
    if (now - this.#refreshed >= REFRESH_MS) {
      this.#refreshed = now;
      return this.#refresh(lookUp(this.backends, this.id));
    }
    const awaited = awaitedOf(this as Known);
    if (awaited.size > 0) await this.backends.results.recordForeignResults(this.id, awaited);
  }
}
