/**
 * One job: enqueue (rows → bands → queue, at most N in flight) and merge (results → one PNG, or one JSON).
 *
 * The two share only the records in the result store. So one coordinator may enqueue a job and another merge it.
 *
 * A task may need a first step over the whole picture (tasks/threshold.ts). That step is a job of its own, with its own
 * record and bands. It is merged here before the second step begins. Meanwhile the rows are kept on disk, so the client
 * sends the picture once. Both steps are enqueued before the picture is accepted (202). After that, only workers are
 * needed.
 *
 * Invariant: at most `workers` bands of a job are in flight, so at most that many workers are busy with it.
 *
 * Not here: HTTP (coordinator.ts), the state of a job (watch.ts), its record and lease (jobs/), reading and stitching
 * pictures (picture/).
 */
import type { Change, Job } from "./backends.ts";
import { type Band, bandRows, chunkIdOf, jsonIn, rowsCrc, split, WireError } from "./chunk.ts";
import { decider } from "./jobs/decided.ts";
import { lanesOf, windowOf, withLease } from "./jobs/lease.ts";
import { jobOf, ofTask, startOrResume } from "./jobs/record.ts";
import { Pool } from "./picture/buffers.ts";
import { type BandForm, pixelsOf } from "./picture/foreign.ts";
import type { Raster } from "./picture/picture.ts";
import { encodeBand, Stitcher } from "./picture/png-write.ts";
import type { SpoolDisk } from "./picture/spool.ts";
import { type DataTask, firstStepOf, haloOf, isList, type ListTask, type Task, type Values } from "./task.ts";
import type { PieceList } from "./tasks/list.ts";
import { derivedParams, sharedParams } from "./tasks/params.ts";
import { resultOf } from "./tasks/plan.ts";
import { finished } from "./tasks/run.ts";
import { sentenceOf } from "./tasks/thrown.ts";
import { gone, JobError, JobWatch } from "./watch.ts";

/** Buffers of confirmed bands, reused for the next bands of any job. */
const pool = new Pool(16 << 20);
/** This many results are loaded ahead of the one that is merged, because each load costs a round trip. */
const AHEAD = 8;

/**
 * Runs the first step of a job, if it has one, and enqueues its bands. After that, the job needs only workers.
 * @param watch of a job whose record exists
 * @param disk keeps the rows of a job with two steps
 * @throws JobError, ImageError, QueueError, BusyError
 */
export async function enqueue(
  watch: JobWatch,
  input: Raster | PieceList,
  task: Task,
  signal: AbortSignal,
  disk: SpoolDisk,
): Promise<void> {
  const { params, preJobId } = watch.expectJob();
  const step = firstStepOf(task, params);
  if (!step || !preJobId || "bands" in input)
    return watch.enqueuing(() => enqueueBands(watch, input, task, params, signal));
  const spool = await disk.open(input);
  try {
    await watch.enqueuing(async () => {
      const data = await runFirstStep(watch, preJobId, step.task, spool.passing(input), signal);
      const found = ofTask(() => derivedParams(task, step, data, params));
      await update(watch, { derivedParams: found }, watch.expectJob().attempt);
      const complete = { ...params, ...found };
      await enqueueBands(watch, spool.again(input), task, complete, signal);
    });
  } finally {
    await spool.close();
  }
}

/** Runs the job of the first step to its end. @returns the data of the whole picture */
async function runFirstStep(
  main: JobWatch,
  id: string,
  task: DataTask,
  image: Raster,
  signal: AbortSignal,
): Promise<unknown> {
  const { results } = main.backends;
  const { workers, rows, width } = main.expectJob();
  const params = sharedParams(task, main.expectJob().params);
  let data: unknown;
  await withLease(results, id, { signal, isSilent: false }, async (signal) => {
    // The same bands as in the second step.
    const asked = { params, workers, bandPixels: rows * width, bandRows: rows };
    await startOrResume(results, jobOf(id, task, asked, image));
    const watch = await JobWatch.open(main.backends, id);
    // The client may cancel the job before the record of its first step exists. Then nothing else would stop this step.
    const cancelled = new AbortController();
    const stop = main.onChange(() => {
      if (main.job === null) cancelled.abort(gone());
    });
    try {
      const either = AbortSignal.any([signal, cancelled.signal]);
      if (!(await results.findJob(main.id))) throw gone();
      await watch.enqueuing(() => enqueueBands(watch, image, task, params, either));
      data = await mergeData(watch, task, true, either);
    } catch (error) {
      if (!(await results.findJob(main.id))) await results.removeJob(id);
      throw error;
    } finally {
      stop();
      watch.close();
    }
  });
  return data;
}

/**
 * Reads a picture to its end and enqueues its bands. Bands that are already enqueued or done are only compared. So a
 * picture can be sent again at any time, and the job resumes where it stopped.
 * @param watch of a job whose record exists
 * @throws JobError "conflict" if the rows differ from the first time; ImageError; QueueError
 */
async function enqueueBands(
  watch: JobWatch,
  input: Raster | PieceList,
  task: Task,
  params: Values,
  signal: AbortSignal,
): Promise<void> {
  const halo = ofTask(() => haloOf(task, params));
  const askDecided = decider(watch, task, params);
  const job = watch.expectJob();
  const hasRoom = windowOf(job, watch.backends.results);
  const ownParams = Object.keys(params).length > 0 ? params : undefined;
  const sending = new Set<Promise<void>>();
  const failed = new AbortController();
  const stop = AbortSignal.any([signal, failed.signal]);
  const lanes = lanesOf(watch);
  let [bands, waited, isDecided] = [0, 0, false];
  const start = performance.now();
  try {
    for await (const band of "bands" in input ? input.bands(job) : split(input, { ...job, halo }, pool)) {
      isDecided = (await askDecided()) && band.number >= knownBands(watch);
      if (isDecided) break;
      bands = band.number + 1;
      const crc = rowsCrc(band);
      const before = watch.done.get(band.number)?.crc ?? watch.sent.get(band.number);
      if (before !== undefined && before !== crc) throw differs(band.number);
      if (before !== undefined) {
        pool.give(band.pixels);
        continue;
      }
      const full = performance.now();
      await watch.until(() => hasRoom(watch.inFlight), stop);
      waited += performance.now() - full;
      watch.markSending(band.number, crc);
      const sent = publish(watch, job, band, crc, ownParams, lanes(band.number))
        .catch((error) => {
          watch.sent.delete(band.number); // the watch is shared: its other users must not see the band as sent
          failed.abort(error);
        })
        .finally(() => {
          sending.delete(sent);
          pool.give(band.pixels);
        });
      sending.add(sent);
    }
  } finally {
    // Wait for pending publishes, so that a retry does not race them.
    await Promise.all(sending);
  }
  stop.throwIfAborted();
  expectAsMany(bands, watch, job);
  const cutMs = Math.round((performance.now() - start - waited) * 10) / 10;
  const isNew = "isCounted" in input && (isDecided || !input.isCounted);
  const counted = isNew && { bands, height: input.isCounted ? Math.min(job.height, bands * job.rows) : bands };
  await update(watch, { enqueued: true, cutMs, ...counted }, job.attempt);
}

/** How many bands were sent or done before, as far as they are known. */
function knownBands({ sent, done }: JobWatch): number {
  return [...sent.keys(), ...done.keys()].reduce((all, band) => Math.max(all, band + 1), 0);
}

/** @throws JobError "conflict" if the job had more bands before; or any other number, once all were enqueued */
function expectAsMany(bands: number, watch: JobWatch, job: Job): void {
  const before = job.enqueued ? job.bands : knownBands(watch);
  if (bands < before || (job.enqueued && bands > before))
    throw new JobError("conflict", `this job was started with another text, of ${before} bands; this one has ${bands}`);
}

/** Records a band's rows, publishes it, and records that it is sent. @throws JobError "conflict"; QueueError */
async function publish(
  { backends: { queue, results } }: JobWatch,
  job: Job,
  band: Band,
  crc: number,
  params: Values | undefined,
  lane: number | undefined,
): Promise<void> {
  const { id, task, attempt } = job;
  const { number, y, halo, width, channels, pixels, isList } = band;
  if (!(await results.expectRows(id, number, crc, attempt, lane))) throw differs(number);
  const height = pixels.length / width / channels;
  const position: [number, number] = [y, job.height];
  const chunkId = chunkIdOf(id, number);
  await queue.publish({ chunkId, task, params, attempt, halo, position, width, height, channels, pixels, isList });
  await results.markSent(id, number, crc, attempt);
}

function differs(band: number): JobError {
  return new JobError("conflict", `this job was started with another picture: band ${band} differs`);
}

/** Changes the record of a job. @throws JobError if the job is gone or is no longer at this attempt */
async function update({ backends: { results }, id }: JobWatch, change: Change, attempt: number): Promise<void> {
  if (await results.updateJob(id, change, attempt)) return;
  if (!(await results.findJob(id))) throw gone();
  throw new JobError("taken-over", "this job has started another attempt: send the picture again");
}

/**
 * Yields a job's PNG from the top down, each piece as soon as its band is done. For a data task, yields its JSON.
 * @param watch of a job whose record exists; closed at the end
 * @param task the job's task if it returns data, else null
 * @param keep whether bands stay in the store after they have been sent
 * @throws JobError
 */
export async function* merge(
  watch: JobWatch,
  task: DataTask | ListTask | null,
  keep: boolean,
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array> {
  try {
    const job = watch.expectJob();
    if (task) return yield Buffer.from(`${JSON.stringify(await mergeData(watch, task, keep, signal))}\n`);
    const whole = resultOf(job);
    const stitcher = new Stitcher(whole.width, whole.height, job.channels);
    let band = 0;
    for await (const picture of resultsOf(watch, keep, signal)) {
      const { rows } = bandRows(whole, band);
      const form = { width: whole.width, rows, channels: job.channels };
      const again = () => encodedAgain(picture, form).catch((error) => dropUnusable(watch, band, error, keep));
      const part = stitcher.band(picture, rows) ?? stitcher.band(await again(), rows)!;
      // The head and the first band are one piece, so a small picture costs one write less.
      yield band === 0 ? Buffer.concat([stitcher.head(), part]) : part;
      band++;
    }
    yield stitcher.tail();
  } finally {
    watch.close();
  }
}

/**
 * A data task's result for the whole picture. It holds the merged data and the data of at most `AHEAD` + 1 bands.
 * @param watch of a job whose record exists
 * @throws JobError
 */
async function mergeData(
  watch: JobWatch,
  task: DataTask | ListTask,
  keep: boolean,
  signal?: AbortSignal,
): Promise<unknown> {
  const { params } = watch.expectJob();
  let all: unknown;
  let band = 0;
  for await (const bytes of resultsOf(watch, keep, signal)) {
    try {
      const data = jsonIn(bytes, "data");
      all = band === 0 ? data : task.merge(all, data);
      if (isList(task) && task.isDecided?.(all, params)) break;
    } catch (error) {
      // Only a third-party result is dropped. The project's workers would compute the same again: `merge` is at fault.
      await dropUnusable(watch, band, error as Error, keep && watch.done.get(band)?.foreign === true);
    }
    band++;
  }
  return ofTask(() => finished(task, all, params));
}

/** Yields the results of a job's bands from the top down, each as soon as it is stored. */
async function* resultsOf(watch: JobWatch, keep: boolean, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
  const { results } = watch.backends;
  if (watch.expectJob().kind === "list") await watch.until(() => watch.expectJob().enqueued, signal);
  const { id, bands } = watch.expectJob();
  const load = async (band: number) => {
    await watch.until(() => watch.done.has(band), signal);
    const result = await results.load(chunkIdOf(id, band)).catch((error) => {
      if (error instanceof WireError) return dropUnusable(watch, band, error, keep);
      throw error;
    });
    if (!result) {
      // A done job must have all its results. When the picture is sent again, this band is computed again.
      if (keep) await results.forgetExpired(id);
      throw new JobError("gone", `the result of band ${band} has expired: send the picture again`);
    }
    return result;
  };
  const loading: Promise<Uint8Array>[] = [];
  for (let band = 0, next = 0; band < bands; band++) {
    for (; next < bands && next <= band + AHEAD; next++) {
      loading.push(load(next));
      loading.at(-1)!.catch(() => {}); // awaited below, in order
    }
    yield (await loading.shift())!;
    // Not awaited: the result would expire anyway. The last one is removed with the job.
    if (!keep && band + 1 < bands) results.drop(chunkIdOf(id, band)).catch(() => {});
  }
}

/** The error for a stored result that cannot be used. The worker that stored it is at fault, not the picture. */
export function unusable(band: number, cause: Error): JobError {
  return new JobError("failed", `band ${band}: its result cannot be used: ${sentenceOf(cause)}`, "bad_result");
}

/** Drops an unusable result if `keep`: the band is computed again when the picture is sent again. @throws JobError */
async function dropUnusable({ id, backends }: JobWatch, band: number, cause: Error, keep: boolean): Promise<never> {
  if (keep) await backends.results.drop(chunkIdOf(id, band));
  if (keep) await backends.results.forgetExpired(id);
  throw unusable(band, cause);
}

/** A third-party result, encoded so that it can be stitched. @throws ImageError */
async function encodedAgain(picture: Uint8Array, form: BandForm): Promise<Uint8Array> {
  return encodeBand(await pixelsOf(picture, form), form.width, form.rows, form.channels);
}
