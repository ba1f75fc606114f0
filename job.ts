/**
 * One job: feed (rows → bands → queue, at most N in flight) and merge (results → one PNG).
 *
 * The two share nothing but the records in the result store, so they may run in two coordinators, or in one after
 * another that died.
 *
 * Invariant: at most `workers` bands of a job are in the queue or at work, so at most that many workers are busy with it.
 *
 * Not here: HTTP (coordinator.ts), what is known of a job (watch.ts), how a picture is read (image.ts) or joined (png.ts).
 */
import { crc32 } from "node:zlib";
import { type Band, bandRows, chunkIdOf, split, WireError } from "./chunk.ts";
import { readImage } from "./image.ts";
import { collectPixels, encodeBand, type GreyImage, ImageError, onePiece, Stitcher } from "./png.ts";
import type { Job, Results } from "./results.ts";
import { gone, JobError, type JobWatch } from "./watch.ts";

/** Without `workers`, this many bands in flight at least, or twice the live workers: enough to keep them all busy. */
const LEAST_WINDOW = 4;
/** No band of ours has a higher halo: a result that has more rows was not made of one. */
const MOST_HALO = 256;
/** How often the fleet is counted, ms. */
const COUNT_MS = 2_000;

/**
 * Reads a picture to its end and puts its bands into the queue. Bands that are there already, or done, are only
 * compared: sending a picture again is harmless, and resumes where it stopped.
 * @param watch of a job whose record stands
 * @throws JobError 409 if the rows are not those of the first time; ImageError; QueueError
 */
export async function feed(watch: JobWatch, image: GreyImage, halo: number, signal: AbortSignal): Promise<void> {
  const { queue, results } = watch.backends;
  const job = watch.expectJob();
  const hasRoom = windowOf(job, results);
  const sending = new Set<Promise<void>>();
  const failed = new AbortController();
  const stop = AbortSignal.any([signal, failed.signal]);
  const send = async (band: Band, crc: number) => {
    const { width, pixels, number } = band;
    const height = pixels.length / width;
    await results.expectRows(job.id, number, crc);
    await queue.publish({ chunkId: chunkIdOf(job.id, number), task: job.task, halo: band.halo, width, height, pixels });
    await results.markSent(job.id, number, crc);
  };
  try {
    for await (const band of split(image, { ...job, halo })) {
      const crc = crcOf(band);
      const before = watch.done.get(band.number)?.crc ?? watch.sent.get(band.number);
      if (before !== undefined && before !== crc) {
        throw new JobError(409, `this job was started with another picture: band ${band.number} differs`);
      }
      if (before !== undefined) continue;
      await watch.until(() => hasRoom(watch.inFlight), stop);
      watch.sent.set(band.number, crc);
      const sent = send(band, crc).catch((error) => {
        watch.sent.delete(band.number); // whoever else watches this job must not take it for sent
        failed.abort(error);
      });
      sending.add(sent);
      sent.finally(() => sending.delete(sent));
    }
  } finally {
    // Whoever sends the picture again must not meet sends that are still under way.
    await Promise.all(sending);
  }
  stop.throwIfAborted();
  if (!(await results.updateJob(job.id, { fed: true }))) throw gone();
}

/** CRC-32 of a band's own rows. */
function crcOf({ pixels, width, rows, halo }: Band): number {
  return crc32(pixels.subarray(halo[0] * width, (halo[0] + rows) * width));
}

/** Whether one more band may be sent, with so many in flight. */
function windowOf({ workers }: Job, results: Results): (inFlight: number) => boolean {
  if (workers !== null) return (inFlight) => inFlight < workers;
  let alive = 0;
  let asked = 0;
  return (inFlight) => {
    if (inFlight < LEAST_WINDOW) return true;
    // Counted in the background, and only for jobs that are large enough to ask.
    if (Date.now() - asked > COUNT_MS) {
      asked = Date.now();
      const count = (fleet: unknown[]) => {
        alive = fleet.length;
      };
      results.workers().then(count, () => {});
    }
    return inFlight < 2 * alive;
  };
}

/**
 * The pieces of a job's PNG, as its bands become done, from the top down.
 * @param watch of a job whose record stands; closed at the end
 * @param keep whether the bands stay in the store once they are passed on
 * @throws JobError
 */
export async function* merge(watch: JobWatch, keep: boolean, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
  const { results } = watch.backends;
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
      // The last is left to whoever removes the job.
      if (!keep && band + 1 < job.bands) await results.drop(chunkIdOf(job.id, band));
    }
    yield stitcher.tail();
  } finally {
    watch.close();
  }
}

/** The fault of whoever stored it, not of the picture that was sent. */
export function unusable(band: number, cause: Error): JobError {
  return new JobError(500, `band ${band}: its result cannot be used: ${cause.message}`);
}

/** A band as another program may store it in the form that can be stitched. */
async function ownForm(picture: Uint8Array, job: Job, band: number): Promise<Uint8Array> {
  return encodeBand(await pixelsOf(picture, job, band), job.width, bandRows(job, band).rows);
}

/**
 * The pixels of a band that another program has stored as any picture, with or without its halo.
 * @throws JobError where it is none, or not of the band's size
 */
export async function pixelsOf(picture: Uint8Array, job: Job, band: number): Promise<Uint8Array> {
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
  return pixels.subarray(above, above + rows * job.width);
}
