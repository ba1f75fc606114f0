/**
 * The coordinator: HTTP only. The page, jobs, events, results, the fleet, health.
 *
 *     bun run coordinator.ts          everything in one process, a thread a core, http://127.0.0.1:8080
 *     RABBITMQ_URL=… REDIS_URL=… bun run coordinator.ts       workers are other processes: bun run worker.ts
 *
 * It keeps no state: every answer is derived from the records in the result store, so any number of coordinators may
 * serve the same jobs. A picture is read at its own pace; an answer starts when the input has been read and checked to
 * its end, since most clients read only after they have sent everything. So every bad input gets its status.
 *
 * Not here: what a job does (job.ts), how pictures are read (image.ts).
 */
import { randomUUID } from "node:crypto";
import process from "node:process";
import { Elysia } from "elysia";
import type { Registry } from "prom-client";
import { isJobId } from "./chunk.ts";
import { LocalQueue, LocalResults } from "./embedded.ts";
import { eventStream, view } from "./http/events.ts";
import { apiDocument } from "./http/openapi.ts";
import { Previews, WIDTHS } from "./http/preview.ts";
import { expectToken, HttpError, problem, rangeOf, slice, streamed, unavailable } from "./http/respond.ts";
import { serve } from "./http/serve.ts";
import { readPage, servePage } from "./http/static.ts";
import { Upload } from "./http/upload.ts";
import { enqueue, jobOf, merge, removeJob, startOrResume } from "./job.ts";
import { type End, Follower, failureOf } from "./ops/follow.ts";
import { backendHealth } from "./ops/health.ts";
import { type Log, openLog } from "./ops/log.ts";
import { BackendGauges, CoordinatorMetrics, FleetMetrics, openRegistry, WorkerMetrics } from "./ops/metrics.ts";
import {
  answerHelp,
  DEFAULT_BAND_PIXELS,
  DEFAULT_JOBS,
  DEFAULT_UPLOAD_BYTES,
  keepMemory,
  levelSetting,
  MAX_WORKERS,
  setting,
  tokenSetting,
} from "./ops/settings.ts";
import { ImageError, type PixelLimits } from "./picture/picture.ts";
import { Stitcher } from "./picture/png-write.ts";
import { DEFAULT_LIMITS, readImage } from "./picture/read.ts";
import { RabbitQueue } from "./queue.ts";
import { type Job, RedisResults } from "./results.ts";
import {
  type DataTask,
  isData,
  kindOf,
  ParamError,
  queryValues,
  schemaOf,
  type Task,
  taskOf,
  type Values,
  versionOf,
  wireName,
} from "./task.ts";
import { loadTasks, type Tasks } from "./tasks/index.ts";
import { type Backends, JobError, JobWatch, lookUp, stateOf } from "./watch.ts";
import { Worker } from "./worker.ts";

export interface Dependencies extends Backends {
  /** The tasks that this program has. */
  tasks: Tasks;
  bandPixels?: number;
  maxUploadBytes?: number;
  limits?: PixelLimits;
  /** Uploads that are taken at a time. */
  maxJobs?: number;
  /** What sending, cancelling and listing the fleet ask for. */
  authToken?: string | undefined;
  /** Aborted when the program is to end: whoever reads events is let go, and asks another coordinator. */
  stopping?: AbortSignal;
  log?: Log;
  /** Where it counts, beside whatever else the process counts there. */
  registry?: Registry;
}

/** A result is what it is said to be, whatever stands in it: no browser is to take it for a page. */
const HEADERS = {
  picture: { "content-type": "image/png", "x-content-type-options": "nosniff" },
  data: { "content-type": "application/json", "x-content-type-options": "nosniff" },
};
const EVENT_HEADERS = { "content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no" };
/** Jobs that one stream of events follows. */
const MAX_FOLLOWED = 100;
/** The right to feed a job lapses after this, unless it is renewed, ms. */
const LEASE_MS = 10_000;
const SWEEP_MS = 60_000;
/** How long answers that have begun may take once the program is told to end, ms. Kubernetes waits for 30 s. */
const DRAIN_MS = 20_000;

/** The program without its port: give `fetch` a Request, get a Response. */
export function createApp({
  queue,
  results,
  tasks: known,
  bandPixels = DEFAULT_BAND_PIXELS,
  maxUploadBytes = DEFAULT_UPLOAD_BYTES,
  limits = DEFAULT_LIMITS,
  maxJobs = DEFAULT_JOBS,
  authToken,
  stopping = new AbortController().signal,
  log = openLog("warn"),
  registry = openRegistry(false),
}: Dependencies) {
  const page = readPage();
  const previews = new Previews(results);
  const metrics = new CoordinatorMetrics(registry, maxJobs);
  const observed = [
    new BackendGauges(registry, { queue, results }),
    new FleetMetrics(registry, { queue, results }, [...known.keys()]),
  ];
  const follower = new Follower(metrics, log);
  let uploads = 0;

  /** Counts the upload in, and out when `step` is over; what remains of a refused one is read and thrown away. */
  async function withUpload<T>(request: Request, step: (upload: Upload) => Promise<T>): Promise<T> {
    const upload = new Upload(request, maxUploadBytes);
    try {
      expectToken(request, authToken);
      if (uploads >= maxJobs) throw unavailable(`${uploads} uploads are being taken: send it again later`);
      metrics.open.set({ state: "uploading" }, ++uploads);
      try {
        upload.checkLength();
        return await step(upload);
      } finally {
        metrics.open.set({ state: "uploading" }, --uploads);
      }
    } catch (error) {
      follower.refused(request, error);
      throw error;
    } finally {
      metrics.uploadBytes.inc(upload.bytes);
      upload.discard();
    }
  }

  async function advertisedTasks(): Promise<Task[]> {
    const offers = (await results.workers()).flatMap((worker) => worker.offers);
    return offers.flatMap((offer) => taskOf(offer) ?? []);
  }

  /** Its own tasks, and what else workers offer: the newest version of each. */
  async function allTasks(): Promise<Task[]> {
    const own = new Map<string, Task>(known.names().map((name) => [name, known.newest(name)!]));
    const others = new Map<string, Task>();
    for (const task of await advertisedTasks()) {
      const newest = versionOf(task) > versionOf(others.get(task.name));
      if (newest && !own.has(task.name)) others.set(task.name, task);
    }
    return [...own.values(), ...others.values()];
  }

  async function taskOrRefuse(name: string): Promise<Task> {
    const own = known.newest(name);
    if (own) return own;
    const all = await allTasks();
    const found = all.find((task) => task.name === name);
    if (found) return found;
    throw new HttpError(
      422,
      `unknown task ${JSON.stringify(name)}: expected ${all.map((task) => task.name).join(", ")}`,
    );
  }

  /** The newest version; of a job that is sent again, the one that it was begun with, where that can be had. */
  async function taskToResume(id: string, name: string): Promise<Task> {
    const begun = (await results.findJob(id))?.task;
    if (begun?.split(".")[0] !== name) return taskOrRefuse(name);
    const same = known.get(begun) ?? (await advertisedTasks()).find((task) => wireName(task) === begun);
    return same ?? taskOrRefuse(name);
  }

  async function newJob(id: string, request: Request, task: Task, upload: Upload) {
    const asked = { params: paramsOf(request, task), workers: workersOf(request), bandPixels };
    const image = await readImage(await upload.image(request), limits);
    return { job: jobOf(id, task, asked, image), image };
  }

  async function send(request: Request, taskName: string): Promise<Response> {
    const id = randomUUID();
    const { watch, job, task } = await withUpload(request, async (upload) => {
      const task = await taskOrRefuse(taskName);
      const { job, image } = await newJob(id, request, task, upload);
      await results.putJob(job);
      const watch = await JobWatch.open({ queue, results }, id, job);
      try {
        await enqueue(watch, image, task, bandPixels, request.signal);
      } catch (error) {
        watch.close();
        await removeJob(results, job);
        throw error;
      }
      follower.accepted(job, upload.bytes);
      return { watch, job, task };
    });
    const name = `inline; filename="${fileOf(task.name, job)}"`;
    const pieces = streamThenDelete(watch, job, task, request.signal);
    return streamed(pieces, { headers: { ...HEADERS[job.kind], "x-job-id": id, "content-disposition": name } });
  }

  async function* streamThenDelete(
    watch: JobWatch,
    job: Job,
    task: Task,
    signal: AbortSignal,
  ): AsyncGenerator<Uint8Array> {
    let end: [state: End, error?: unknown] = ["cancelled"]; // whoever hangs up ends this here
    try {
      yield* metrics.sending(merge(watch, isData(task) ? task : null, false, signal));
      end = ["done"];
    } catch (error) {
      if (error !== signal.reason) end = ["failed", error];
      throw error;
    } finally {
      follower.ended(job, ...end);
      removeInBackground(job);
    }
  }

  /** The client need not wait for it. */
  function removeInBackground(job: Job): void {
    removeJob(results, job).catch(() => {}); // its keys expire by themselves
  }

  async function put(request: Request, id: string): Promise<Response> {
    await withUpload(request, (upload) =>
      leased(id, request.signal, async (signal) => {
        const task = await taskToResume(id, parameter(request, "task") ?? "sobel");
        const { job: asked, image } = await newJob(id, request, task, upload);
        await startOrResume(results, asked);
        const watch = await JobWatch.open({ queue, results }, id);
        const sentAgain = watch.job?.enqueued === true;
        try {
          await enqueue(watch, image, task, bandPixels, signal);
        } catch (error) {
          watch.close();
          // Sending the same bytes again would end the same way. A job that has its picture is not harmed by a bad copy.
          const lasting = error instanceof ImageError || (error instanceof JobError && error.code === "failed");
          if (lasting && !watch.job?.enqueued) {
            await results.updateJob(id, { error: error.message, failure: failureOf(error) });
          }
          throw error;
        }
        if (sentAgain) return watch.close();
        const job = watch.job ?? asked; // it may have been cancelled this moment
        follower.accepted(job, upload.bytes);
        follower.follow(watch, job);
      }),
    );
    const location = `/jobs/${id}`;
    return Response.json(await describe(id), { status: 202, headers: { location } });
  }

  /** Runs `step` as the only feeder of a job, after the feeder that there is, or instead of one that has died. */
  async function leased(id: string, signal: AbortSignal, step: (signal: AbortSignal) => Promise<void>): Promise<void> {
    const owner = randomUUID();
    while (!(await results.lease(id, owner, LEASE_MS))) {
      signal.throwIfAborted();
      await new Promise((wake) => setTimeout(wake, 200));
    }
    const lost = new AbortController();
    const renew = async () => {
      if (!(await results.lease(id, owner, LEASE_MS)))
        lost.abort(unavailable("another coordinator has taken this job over"));
    };
    const timer = setInterval(() => renew().catch(() => {}), LEASE_MS / 4);
    try {
      await step(AbortSignal.any([signal, lost.signal]));
    } finally {
      clearInterval(timer);
      await results.release(id, owner).catch(() => {});
    }
  }

  async function describe(id: string) {
    const { job, done } = await jobOr404(id);
    return view(job, done, await results.workers());
  }

  async function jobOr404(id: string) {
    const records = await lookUp({ queue, results }, id);
    if (!records) throw new HttpError(404, `no job ${id}: it was never sent, was cancelled, or has expired`);
    return records;
  }

  async function result(request: Request, id: string): Promise<Response> {
    const { job, done } = await jobOr404(id);
    const state = stateOf(job, done.size);
    if (state === "failed") throw new HttpError(409, `the job has failed: ${job.error}`);
    if (state !== "done") {
      throw new HttpError(409, `not ready: ${done.size} of ${job.bands} bands are done`, { "retry-after": "1" });
    }
    // The same id may be sent again, with another picture.
    const etag = `"${id}-${job.created}"`;
    const name = disposition(parameter(request, "name") || `${id}.${fileOf(job.task, job)}`);
    const headers = { ...HEADERS[job.kind], "content-disposition": name, etag };
    const task = dataTaskOf(job, known);
    const pieces = async () => metrics.sending(merge(await JobWatch.open({ queue, results }, id), task, true));
    if (task) return streamed(await pieces(), { headers });
    const sizes = [...done.values()].map(({ bytes }) => bytes);
    // Of a result of another form the length is known only when it has been encoded.
    if (sizes.includes(0)) return streamed(await pieces(), { headers });
    const length = new Stitcher(job.width, job.height).length(sizes);
    const range = rangeOf(request, length, etag);
    const { from, to } = range ?? { from: 0, to: length };
    return streamed(slice(await pieces(), from, to), {
      status: range ? 206 : 200,
      headers: {
        ...headers,
        "accept-ranges": "bytes",
        "content-length": String(to - from),
        ...(range && { "content-range": `bytes ${from}-${to - 1}/${length}` }),
      },
    });
  }

  async function events(id: string): Promise<Response> {
    const fleet = await results.workers();
    const watch = await JobWatch.open({ queue, results }, id);
    if (!watch.job) {
      watch.close();
      throw new HttpError(404, `no job ${id}: it was never sent, was cancelled, or has expired`);
    }
    return new Response(eventStream([watch], fleet, stopping), { headers: EVENT_HEADERS });
  }

  /** Of several jobs at once: a browser has six connections to a host. */
  async function eventsOf(request: Request): Promise<Response> {
    const ids = [...new Set((parameter(request, "jobs") ?? "").split(",").map(jobId))];
    if (ids.length > MAX_FOLLOWED) {
      throw new HttpError(400, `jobs: expected at most ${MAX_FOLLOWED} ids, got ${ids.length}`);
    }
    const fleet = await results.workers();
    const opened = await Promise.allSettled(ids.map((id) => JobWatch.open({ queue, results }, id)));
    const watches = opened.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
    const refused = opened.find((one) => one.status === "rejected");
    if (refused) {
      for (const watch of watches) watch.close();
      throw refused.reason;
    }
    return new Response(eventStream(watches, fleet, stopping), { headers: EVENT_HEADERS });
  }

  async function bandPicture(request: Request, id: string, number: string): Promise<Response> {
    const [job, done] = await Promise.all([results.findJob(id), results.done(id)]);
    const band = /^\d{1,10}$/.test(number) ? Number(number) : Number.NaN;
    if (!job) throw new HttpError(404, `no job ${id}: it was never sent, was cancelled, or has expired`);
    if (!(band < job.bands)) throw new HttpError(404, `no band ${number}: the job has bands 0 to ${job.bands - 1}`);
    if (job.kind === "data") throw new HttpError(404, `${job.task} returns data: its bands are no pictures`);
    const record = done.get(band);
    if (!record) throw new HttpError(409, `not ready: band ${band} is not done`, { "retry-after": "1" });
    const width = widthOf(request);
    // Asked again each time, not kept for good: the same id may be sent again with another picture.
    const etag = `"${job.created}-${record.crc}-${width}"`;
    const headers = { ...HEADERS.picture, etag, "cache-control": "private, no-cache" };
    if (request.headers.get("if-none-match") === etag) return new Response(null, { status: 304, headers });
    if (!previews.hasRoom) throw unavailable("many pictures of bands are being made: ask again later");
    return new Response(await previews.png(job, band, record, width), { headers });
  }

  async function fleet(request: Request): Promise<Response> {
    expectToken(request, authToken);
    const workers = (await results.workers()).map(({ offers, ...worker }) => worker);
    return Response.json({ workers });
  }

  async function tasks(): Promise<Response> {
    const all = (await allTasks()).map((task) => {
      const { name, version = 1, description = "", halo, params } = task;
      const rows = typeof halo === "number" ? halo : null;
      return { name, version, description, kind: kindOf(task), halo: rows, params: schemaOf(params) };
    });
    return Response.json({ tasks: all });
  }

  async function cancel(request: Request, id: string): Promise<Response> {
    expectToken(request, authToken);
    const job = await results.findJob(id);
    if (!job) throw new HttpError(404, `no job ${id}: nothing to cancel`);
    const state = stateOf(job, (await results.done(id)).size);
    if (state !== "done" && state !== "failed") follower.cancelling(job);
    await removeJob(results, job);
    return new Response(null, { status: 204 });
  }

  async function ready(): Promise<Response> {
    if (stopping.aborted) throw unavailable("this coordinator is about to end");
    const { queue: noQueue, store: noStore } = await backendHealth({ queue, results });
    const trouble = noQueue ?? noStore;
    if (trouble !== null) throw unavailable(trouble);
    return Response.json({ status: "ready" });
  }

  async function metricsText(request: Request): Promise<Response> {
    expectToken(request, authToken);
    await Promise.all(observed.map((part) => part.observe()));
    return new Response(await registry.metrics(), { headers: { "content-type": registry.contentType } });
  }

  let document: string | undefined;

  function api(): Response {
    const facts = { tasks: known.names(), maxWorkers: MAX_WORKERS, maxUploadBytes };
    document ??= JSON.stringify(apiDocument(app.routes, facts));
    return new Response(document, { headers: { "content-type": "application/json" } });
  }

  // The default finds no path behind a host name of less than four letters.
  const app = new Elysia({ handler: { standardHostname: false } })
    .onError(({ error, request, route }) => metrics.answered(request, route, problem(error, request, log)))
    .onAfterHandle(({ request, route, responseValue }) => {
      metrics.answered(request, route, responseValue as Response);
    })
    .get("/", ({ request }) => servePage(request, page, "index.html"))
    .get("/page/:file", ({ request, params }) => servePage(request, page, params.file))
    .get("/healthz", () => Response.json({ status: "ok" }))
    .get("/readyz", ready)
    .get("/openapi.json", (): Response => api())
    .get("/metrics", ({ request }) => metricsText(request))
    .get("/workers", ({ request }) => fleet(request))
    .get("/tasks", tasks)
    .post("/tasks/:task", ({ request, params }) => send(request, params.task), { parse: "none" })
    .put("/jobs/:id", ({ request, params }) => put(request, jobId(params.id)), { parse: "none" })
    .get("/jobs/:id", async ({ params }) => Response.json(await describe(jobId(params.id))))
    .get("/events", ({ request }) => eventsOf(request))
    .get("/jobs/:id/events", ({ params }) => events(jobId(params.id)))
    .get("/jobs/:id/bands/:band", ({ request, params }) => bandPicture(request, jobId(params.id), params.band))
    .get("/jobs/:id/result", ({ request, params }) => result(request, jobId(params.id)))
    .delete("/jobs/:id", ({ request, params }) => cancel(request, jobId(params.id)));
  return app;
}

/** @param text null where it is not valid percent-encoding */
function jobId(text: string | null): string {
  const id = text?.toLowerCase();
  if (!id || !isJobId(id)) throw new HttpError(400, `job id: expected a UUID, got ${JSON.stringify(text)}`);
  return id;
}

function parameter(request: Request, name: string): string | null {
  return new URL(request.url).searchParams.get(name);
}

/** @throws HttpError 400 */
function paramsOf(request: Request, task: Task): Values {
  try {
    return queryValues(task, new URL(request.url).searchParams);
  } catch (error) {
    throw error instanceof ParamError ? new HttpError(400, error.message) : error;
  }
}

/** Null for a job of pictures: those are merged by any coordinator. @throws HttpError 503 */
function dataTaskOf({ kind, task }: Job, tasks: Tasks): DataTask | null {
  if (kind === "picture") return null;
  const known = tasks.get(task);
  if (known && isData(known)) return known;
  throw unavailable(`this coordinator has no task ${task}: ask one that has`);
}

function fileOf(task: string, { kind }: Job): string {
  return `${task}.${kind === "data" ? "json" : "png"}`;
}

function workersOf(request: Request): number | null {
  const text = parameter(request, "workers");
  if (text === null || text === "") return null;
  const workers = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (workers >= 1 && workers <= MAX_WORKERS) return workers;
  throw new HttpError(400, `workers: expected a whole number from 1 to ${MAX_WORKERS}, got ${JSON.stringify(text)}`);
}

/** How wide a band's picture is to be. @throws HttpError 400 */
function widthOf(request: Request): number {
  const text = parameter(request, "width");
  if (text === null || text === "") return WIDTHS.usual;
  const width = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
  if (width >= WIDTHS.least && width <= WIDTHS.most) return width;
  const expected = `expected a whole number from ${WIDTHS.least} to ${WIDTHS.most}`;
  throw new HttpError(400, `width: ${expected}, got ${JSON.stringify(text)}`);
}

/** A name for the file that a browser saves; in full where ASCII has no letters for it (RFC 6266). */
function disposition(name: string): string {
  const bare = name.toWellFormed().replace(/[\p{Cc}"\\/:*?<>|%]/gu, "_");
  const plain = bare.replace(/[^\x20-\x7e]/g, "_").slice(-150);
  if (plain === bare) return `attachment; filename="${plain}"`;
  const full = encodeURIComponent(Array.from(bare).slice(-150).join("")).replace(/['()]/g, escape);
  return `attachment; filename="${plain}"; filename*=UTF-8''${full}`;
}

/** Both URLs: RabbitMQ and Redis. Neither: this process, with `WORKERS` threads. */
async function connect(tasks: Tasks, log: Log, registry: Registry): Promise<Backends & { stop(): Promise<void> }> {
  const { RABBITMQ_URL, REDIS_URL } = process.env;
  const ttl = setting("RESULT_TTL_SECONDS");
  if (RABBITMQ_URL && REDIS_URL) {
    const results = new RedisResults(REDIS_URL, ttl, false);
    const queue = await RabbitQueue.connect(RABBITMQ_URL, log);
    return {
      queue,
      results,
      async stop() {
        await queue.close();
        await results.close();
      },
    };
  }
  if (RABBITMQ_URL || REDIS_URL) {
    const [set, unset] = RABBITMQ_URL ? ["RABBITMQ_URL", "REDIS_URL"] : ["REDIS_URL", "RABBITMQ_URL"];
    throw new Error(`${unset}: expected both RABBITMQ_URL and REDIS_URL, or neither, got only ${set}`);
  }
  const queue = new LocalQueue();
  const results = new LocalResults(ttl);
  const bandTimeout = setting("BAND_TIMEOUT_SECONDS") * 1000;
  const names = Array.from({ length: setting("WORKERS") }, (_, i) => `thread-${i + 1}`);
  const metrics = new WorkerMetrics(registry);
  const modules = process.env.TASKS;
  const workers = names.map((name) => new Worker({ queue, results, name, tasks, modules, bandTimeout, log, metrics }));
  await Promise.all(workers.map((worker) => worker.start()));
  return {
    queue,
    results,
    async stop() {
      await Promise.all(workers.map((worker) => worker.stop()));
    },
  };
}

const ABOUT = `Serves the page and the API. Without RABBITMQ_URL and REDIS_URL everything is in this process, a worker thread for each core;
with both, the workers are other processes (worker.ts), and there may be several coordinators.

exit codes
  0  ended by SIGTERM or SIGINT, the answers that had begun finished
  1  a setting is bad, or the port is taken
  2  an option is not known`;

async function main(): Promise<void> {
  answerHelp("coordinator.ts", ABOUT);
  keepMemory();
  const hostname = process.env.HOST || "127.0.0.1";
  const port = setting("PORT");
  const streamed = setting("MAX_PIXELS");
  const options = {
    bandPixels: setting("BAND_PIXELS"),
    maxUploadBytes: setting("MAX_UPLOAD_BYTES"),
    limits: { streamed, whole: Math.min(streamed, DEFAULT_LIMITS.whole) },
    maxJobs: setting("MAX_JOBS"),
  };
  const authToken = tokenSetting();
  const log = openLog(levelSetting());
  const registry = openRegistry(true);
  const tasks = await loadTasks(process.env.TASKS);
  const backends = await connect(tasks, log, registry);
  setInterval(() => backends.results.sweep().catch(() => {}), SWEEP_MS); // if the store is away: the next time
  const stopping = new AbortController();
  const app = createApp({ ...backends, tasks, ...options, authToken, log, registry, stopping: stopping.signal });
  const server = serve(app.fetch, hostname, port);
  console.log(`Sobel, distributed: http://${hostname}:${server.port}`);
  const stop = async () => {
    if (stopping.signal.aborted) process.exit(1);
    stopping.abort();
    await Promise.race([server.stop(), new Promise((wake) => setTimeout(wake, DRAIN_MS))]);
    await backends.stop();
    process.exit(0);
  };
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
}

if (import.meta.main) {
  main().catch((error) => {
    console.error(`coordinator.ts: ${error.message}`);
    process.exit(1);
  });
}
