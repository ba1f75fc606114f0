/**
 * The requests about a job that exists: its state, its events, its result, previews of its bands, and its removal.
 *
 * Not here: the routes, and how a job is sent (coordinator.ts); the state itself (watch.ts).
 */

import type { Backends, Job } from "../backends.ts";
import { merge } from "../job.ts";
import { removeJob } from "../jobs/record.ts";
import type { Log } from "../ops/log.ts";
import type { CoordinatorMetrics } from "../ops/metrics.ts";
import { Stitcher } from "../picture/png-write.ts";
import { type DataTask, isData, type ListTask } from "../task.ts";
import { findTaskOfJob, type Tasks } from "../tasks/index.ts";
import { resultOf } from "../tasks/plan.ts";
import { JobWatch, lookUp, stateOf } from "../watch.ts";
import { eventStream, isKnown, view } from "./events.ts";
import type { Follower } from "./follow.ts";
import { clientOf } from "./guard.ts";
import type { Lights } from "./lights.ts";
import { disposition, jobId, query, widthOf } from "./params.ts";
import type { StreamPlaces } from "./places.ts";
import type { Previews } from "./preview.ts";
import {
  expectToken,
  HttpError,
  isUnchanged,
  rangeOf,
  slice,
  streamed,
  streamResponse,
  unavailable,
} from "./respond.ts";

/** What these requests need. */
export interface JobReads extends Backends {
  tasks: Tasks;
  metrics: CoordinatorMetrics;
  previews: Previews;
  streams: StreamPlaces;
  lights: Lights;
  log: Log;
  /** Aborted when the program is about to end. Event streams are then closed, so that clients reconnect elsewhere. */
  stopping: AbortSignal;
}

interface Cancels extends JobReads {
  follower: Follower;
  authToken: string | undefined;
}

/** `nosniff`: a browser must not treat a result as a page, whatever its bytes are. */
export const HEADERS = {
  picture: { "content-type": "image/png", "x-content-type-options": "nosniff" },
  data: { "content-type": "application/json", "x-content-type-options": "nosniff" },
  list: { "content-type": "application/json", "x-content-type-options": "nosniff" },
};
const EVENT_HEADERS = { "content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no" };
/** One event stream follows at most this many jobs. */
const MAX_FOLLOWED = 100;
/** The list of workers in a stream may be this old, ms. */
const FLEET_MS = 1_000;

/** The job as JSON. */
export async function describe(context: JobReads, id: string) {
  const { job, done } = await jobOr404(context, id);
  return view(job, done, isKnown(job, await context.results.workers(), context.tasks));
}

/** @throws HttpError 404 */
async function jobOr404(context: JobReads, id: string) {
  const known = await lookUp(context, id);
  if (!known) throw notFound(id);
  return known;
}

export function notFound(id: string): HttpError {
  return new HttpError(404, `no job ${id}: it was never sent, was cancelled, or has expired`);
}

/** GET /jobs/:id/result */
export async function result(context: JobReads, request: Request, id: string): Promise<Response> {
  const { job, done } = await jobOr404(context, id);
  const state = stateOf(job, done.size);
  if (state === "failed") throw new HttpError(409, `the job has failed: ${job.error}`);
  if (state !== "done") {
    throw new HttpError(409, `not ready: ${done.size} of ${job.bands} bands are done`, { "retry-after": "1" });
  }
  // The creation time is part of it, because the same id may be sent again with another picture.
  const etag = `"${id}-${job.created}"`;
  const name = disposition(query(request, "name") || `${id}.${fileOf(job.task, job)}`);
  const headers = { ...HEADERS[job.kind], "content-disposition": name, etag };
  if (isUnchanged(request, etag)) return new Response(null, { status: 304, headers });
  const task = await dataTaskOf(context, job);
  const pieces = async () => context.metrics.sending(merge(await JobWatch.open(context, id), task, true));
  const whole = async () => timed(await pieces(), (ms) => context.results.noteMerge(id, ms));
  const sizes = [...done.values()].map(({ bytes }) => bytes);
  // A third-party result has 0 bytes in its record: its length is known only after it has been encoded again.
  const onBroken = brokenOff(context, job, request);
  if (task || sizes.includes(0)) return streamed(await whole(), { headers }, onBroken);
  const made = resultOf(job);
  const length = new Stitcher(made.width, made.height, job.channels).length(sizes);
  const range = rangeOf(request, length, etag);
  const { from, to } = range ?? { from: 0, to: length };
  return streamed(
    range ? slice(await pieces(), from, to) : await whole(),
    {
      status: range ? 206 : 200,
      headers: {
        ...headers,
        "accept-ranges": "bytes",
        "content-length": String(to - from),
        ...(range && { "content-range": `bytes ${from}-${to - 1}/${length}` }),
      },
    },
    onBroken,
  );
}

/** Measures how long the pieces take, without the client's time. @param onEnd gets that in ms, after the last piece */
async function* timed(pieces: AsyncGenerator<Uint8Array>, onEnd: (ms: number) => Promise<void>) {
  let ms = 0;
  let start = performance.now();
  for await (const piece of pieces) {
    ms += performance.now() - start;
    yield piece;
    start = performance.now();
  }
  // Not awaited: while Redis is unavailable, the client must not wait for this note.
  onEnd(Math.round((ms + performance.now() - start) * 10) / 10).catch(() => {});
}

/** Logs a download that breaks off, unless its client has closed the connection. */
export function brokenOff({ log }: Pick<JobReads, "log">, { id, task }: Job, { signal }: Request) {
  return (error: unknown): void => {
    if (!signal.aborted) log.error("download broke off", { job: id, task, error });
  };
}

/** The task that merges a job's data; null for a picture, which needs no task. @throws HttpError 503 */
async function dataTaskOf({ tasks, results }: JobReads, { kind, task }: Job): Promise<DataTask | ListTask | null> {
  if (kind === "picture") return null;
  const known = await findTaskOfJob(tasks, results, task);
  if (known && isData(known)) return known;
  throw unavailable(`this coordinator does not have the task ${task}; ask a coordinator that does`);
}

export function fileOf(task: string, { kind }: Job): string {
  return `${task}.${kind === "picture" ? "png" : "json"}`;
}

/** GET /jobs/:id/events */
export function events(context: JobReads, request: Request, id: string): Promise<Response> {
  return follow(context, request, [id], true);
}

/** GET /events: several jobs in one stream, because a browser has only six connections to a host. */
export async function eventsOfMany(context: JobReads, request: Request): Promise<Response> {
  const ids = [...new Set((query(request, "jobs") ?? "").split(",").map(jobId))];
  if (ids.length > MAX_FOLLOWED) {
    throw new HttpError(400, `jobs: expected at most ${MAX_FOLLOWED} ids, got ${ids.length}`);
  }
  return follow(context, request, ids, false);
}

/** @throws HttpError 404 if a job does not exist but must */
async function follow(context: JobReads, request: Request, ids: string[], mustExist: boolean): Promise<Response> {
  const place = context.streams.take(clientOf(request), ids.length);
  const watches: JobWatch[] = [];
  const close = () => {
    place.release();
    for (const watch of watches) watch.close();
  };
  try {
    const workers = await context.results.workers(FLEET_MS);
    const opened = await Promise.allSettled(ids.map((id) => JobWatch.open(context, id)));
    for (const one of opened) if (one.status === "fulfilled") watches.push(one.value);
    const failed = opened.find((one) => one.status === "rejected");
    if (failed) throw failed.reason;
    const unknown = watches.filter(({ job }) => job === null);
    if (mustExist && unknown.length > 0) throw notFound(unknown[0].id);
    place.setUnknown(unknown.length);
    return streamResponse(eventStream(watches, workers, context, close), { headers: EVENT_HEADERS });
  } catch (error) {
    close();
    throw error;
  }
}

/** GET /jobs/:id/bands/:band: a preview of a finished band, scaled down. */
export async function preview(context: JobReads, request: Request, id: string, number: string): Promise<Response> {
  const { results, previews } = context;
  const [job, done] = await Promise.all([results.findJob(id), results.done(id)]);
  const band = /^\d{1,10}$/.test(number) ? Number(number) : Number.NaN;
  if (!job) throw notFound(id);
  if (!(band < job.bands)) throw new HttpError(404, `no band ${number}: the job has bands 0 to ${job.bands - 1}`);
  if (job.kind !== "picture") throw new HttpError(404, `${job.task} returns data: its bands are not pictures`);
  const record = done.get(band);
  if (!record) throw new HttpError(409, `not ready: band ${band} is not done`, { "retry-after": "1" });
  const width = widthOf(request);
  // The browser must check each time (`no-cache`), because the same id may be sent again with another picture.
  const etag = `"${job.created}-${record.crc}-${width}"`;
  const headers = { ...HEADERS.picture, etag, "cache-control": "private, no-cache" };
  if (isUnchanged(request, etag)) return new Response(null, { status: 304, headers });
  if (!previews.hasRoom) throw unavailable("too many previews are being made; retry later");
  return new Response(await previews.png(job, band, record, width), { headers });
}

/** DELETE /jobs/:id */
export async function cancel(context: Cancels, request: Request, id: string): Promise<Response> {
  const { results, follower, authToken } = context;
  expectToken(request, authToken);
  const job = await results.findJob(id);
  if (!job) throw notFound(id);
  const state = stateOf(job, (await results.done(id)).size);
  if (state !== "done" && state !== "failed") follower.cancelling(job);
  await removeJob(results, job);
  return new Response(null, { status: 204 });
}
