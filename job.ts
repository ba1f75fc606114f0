/**
 * One job: feed (rows → bands → queue, at most N in flight) and merge (results → one PNG).
 *
 * The two share nothing but the records in the result store, so they may run in two coordinators, or in one after
 * another that died. A job's state is derived from the records (`stateOf`), never kept.
 *
 *     uploading   the picture is still arriving; bands may be done already
 *     running     every band is in the queue or done: from here on no client and no coordinator is needed
 *     done        every band is done
 *     failed      `error` says why
 *
 * Invariant: at most `workers` bands of a job are in the queue or at work, so at most that many workers are busy with it.
 *
 * Not here: HTTP (coordinator.ts), how a picture is read (image.ts) or joined (png.ts).
 */
import { EventEmitter } from "node:events";
import { crc32 } from "node:zlib";
import { type Band, bandRows, chunkIdOf, split, WireError } from "./chunk.ts";
import { readImage } from "./image.ts";
import { collectPixels, encodeBand, type GreyImage, ImageError, onePiece, Stitcher } from "./png.ts";
import type { Queue } from "./queue.ts";
import type { Done, Job, Results } from "./results.ts";

export interface Backends {
  queue: Queue;
  results: Results;
}

/** Why a job cannot go on. `status` is that of the answer. */
export class JobError extends Error {
  constructor(
    readonly status: 404 | 409 | 410 | 500,
    message: string,
  ) {
    super(message);
    this.name = "JobError";
  }
}

export type State = "uploading" | "running" | "done" | "failed";

export function stateOf(job: Job, done: number): State {
  if (job.error !== null) return "failed";
  if (done === job.bands && job.fed) return "done";
  return job.fed ? "running" : "uploading";
}

/** Without `workers`, this many bands in flight at least, or twice the live workers: enough to keep them all busy. */
const LEAST_WINDOW = 4;
/** No band of ours has a higher halo: a result that has more rows was not made of one. */
const MOST_HALO = 256;
/** How long a watch may go without a hint before it looks for itself, ms. */
const LOOK_MS = 200;
const REFRESH_MS = 2_000;

/**
 * What is known of a job, kept up to date: by events while they come, by reading the records again when they do not.
 * Also notices the results of workers that only set the key.
 */
export class JobWatch {
  job: Job | null = null;
  done = new Map<number, Done>();
  /** Bands that the queue has confirmed, or is about to, and the CRC of their rows. */
  sent = new Map<number, number>();
  readonly #changes = new EventEmitter().setMaxListeners(0);
  #heard = Date.now();
  #refreshed = 0;
  #timer: ReturnType<typeof setInterval> | undefined;
  #unwatch: () => void = () => {};

  private constructor(
    readonly results: Results,
    readonly id: string,
  ) {}

  static async open(results: Results, id: string): Promise<JobWatch> {
    const watch = new JobWatch(results, id);
    // Events first, records second: nothing falls between.
    watch.#unwatch = await results.watch(id, (band, done) => watch.#hear(band, done));
    await watch.refresh();
    watch.#timer = setInterval(() => watch.#look().catch(() => {}), LOOK_MS);
    return watch;
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

  close(): void {
    clearInterval(this.#timer);
    this.#unwatch();
  }

  /** Reads the records again. */
  async refresh(): Promise<void> {
    this.#refreshed = Date.now();
    const [job, sent, done] = await Promise.all([
      this.results.findJob(this.id),
      this.results.sent(this.id),
      this.results.done(this.id),
    ]);
    this.job = job;
    for (const [band, crc] of sent) this.sent.set(band, crc);
    for (const [band, record] of done) this.done.set(band, record);
    this.#changes.emit("change");
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
        else if (this.job.error !== null) settle(new JobError(500, this.job.error));
        else if (condition()) settle();
      };
      this.#changes.on("change", check);
      signal?.addEventListener("abort", check);
      check();
    });
  }

  #hear(band?: number, done?: Done): void {
    this.#heard = Date.now();
    if (band === undefined || done === undefined) {
      this.refresh().catch(() => {});
      return;
    }
    this.done.set(band, done);
    this.#changes.emit("change");
  }

  async #look(): Promise<void> {
    const now = Date.now();
    if (now - this.#heard < LOOK_MS) return;
    const awaited = new Map([...this.sent].filter(([band]) => !this.done.has(band)));
    if (awaited.size > 0) await this.results.adopt(this.id, awaited);
    if (now - this.#refreshed >= REFRESH_MS) await this.refresh();
  }
}

/** A job and its bands that are done, as they stand now; with the results of workers that only set the key. */
export async function lookUp(results: Results, id: string): Promise<{ job: Job; done: Map<number, Done> } | null> {
  const [job, sent, done] = await Promise.all([results.findJob(id), results.sent(id), results.done(id)]);
  if (!job) return null;
  const awaited = new Map([...sent].filter(([band]) => !done.has(band)));
  if (awaited.size === 0) return { job, done };
  await results.adopt(id, awaited);
  return { job, done: await results.done(id) };
}

/**
 * Reads a picture to its end and puts its bands into the queue. Bands that are there already, or done, are only
 * compared: sending a picture again is harmless, and resumes where it stopped.
 * @param watch of a job whose record stands
 * @throws JobError 409 if the rows are not those of the first time; ImageError; QueueError
 */
export async function feed(
  { queue, results }: Backends,
  watch: JobWatch,
  image: GreyImage,
  halo: number,
  signal: AbortSignal,
): Promise<void> {
  const job = watch.expectJob();
  const window = windowOf(job, results);
  const sending = new Set<Promise<void>>();
  const failed = new AbortController();
  const stop = AbortSignal.any([signal, failed.signal]);
  const send = async (band: Band, crc: number) => {
    const { width, pixels, number } = band;
    const height = pixels.length / width;
    await queue.publish({ chunkId: chunkIdOf(job.id, number), task: job.task, halo: band.halo, width, height, pixels });
    await results.markSent(job.id, number, crc);
  };
  for await (const band of split(image, { ...job, halo })) {
    const crc = crcOf(band);
    const before = watch.done.get(band.number)?.crc ?? watch.sent.get(band.number);
    if (before !== undefined && before !== crc) {
      throw new JobError(409, `this job was started with another picture: band ${band.number} differs`);
    }
    if (before !== undefined) continue;
    await watch.until(() => watch.inFlight < window(), stop);
    watch.sent.set(band.number, crc);
    const sent = send(band, crc).catch((error) => failed.abort(error));
    sending.add(sent);
    sent.finally(() => sending.delete(sent));
  }
  await Promise.all(sending);
  stop.throwIfAborted();
  if (!(await results.updateJob(job.id, { fed: true }))) throw gone();
}

function gone(): JobError {
  return new JobError(410, "the job was cancelled or has expired");
}

/** CRC-32 of a band's own rows. */
function crcOf({ pixels, width, rows, halo }: Band): number {
  return crc32(pixels.subarray(halo[0] * width, (halo[0] + rows) * width));
}

/** How many bands may be in flight, now. The fleet is counted in the background: a small job does not wait for that. */
function windowOf({ workers }: Job, results: Results): () => number {
  if (workers !== null) return () => workers;
  let alive = 0;
  let asked = 0;
  return () => {
    if (Date.now() - asked > REFRESH_MS) {
      asked = Date.now();
      const count = (fleet: unknown[]) => {
        alive = fleet.length;
      };
      results.workers().then(count, () => {});
    }
    return Math.max(LEAST_WINDOW, 2 * alive);
  };
}

/**
 * The pieces of a job's PNG, as its bands become done, from the top down.
 * @param watch of a job whose record stands; closed at the end
 * @param keep whether the bands stay in the store once they are passed on
 * @throws JobError
 */
export async function* merge(watch: JobWatch, keep: boolean, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
  const { results } = watch;
  const job = watch.expectJob();
  const stitcher = new Stitcher(job.width, job.height);
  const load = async (band: number) => {
    await watch.until(() => watch.done.has(band), signal);
    const picture = await results.load(chunkIdOf(job.id, band)).catch((error) => {
      throw error instanceof WireError ? unusable(band, error) : error;
    });
    if (!picture) throw new JobError(410, `the result of band ${band} has expired`);
    return picture;
  };
  let next = load(0);
  try {
    for (let band = 0; band < job.bands; band++) {
      const picture = await next;
      if (band + 1 < job.bands) {
        next = load(band + 1);
        next.catch(() => {}); // it is awaited in the next round
      }
      const { rows } = bandRows(job, band);
      const part = stitcher.band(picture, rows) ?? stitcher.band(await ownForm(picture, job, band), rows)!;
      yield band === 0 ? Buffer.concat([stitcher.head(), part]) : part;
      if (!keep) await results.drop(chunkIdOf(job.id, band));
    }
    yield stitcher.tail();
  } finally {
    watch.close();
  }
}

/** The fault of whoever stored it, not of the picture that was sent. */
function unusable(band: number, cause: Error): JobError {
  return new JobError(500, `band ${band}: its result cannot be used: ${cause.message}`);
}

/** A band as another program may store it, any picture with or without its halo, in the form that can be stitched. */
async function ownForm(picture: Uint8Array, job: Job, band: number): Promise<Uint8Array> {
  const { rows } = bandRows(job, band);
  const limit = job.width * (rows + 2 * MOST_HALO);
  const blamed = (error: Error): never => {
    throw error instanceof ImageError ? unusable(band, error) : error;
  };
  const image = await readImage(onePiece(picture), { streamed: limit, whole: limit }).catch(blamed);
  const surplus = image.height - rows;
  if (image.width !== job.width || surplus < 0 || surplus % 2 !== 0) {
    throw unusable(band, new Error(`expected ${job.width} × ${rows} pixels, got ${image.width} × ${image.height}`));
  }
  const pixels = await collectPixels(image).catch(blamed);
  const above = (surplus / 2) * job.width;
  return encodeBand(pixels.subarray(above, above + rows * job.width), job.width, rows);
}
