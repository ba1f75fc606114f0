/**
 * The coordinator: an HTTP server for the page, jobs, events, results and the list of workers.
 *
 *     bun run coordinator.ts          everything in one process, a worker thread per core, http://127.0.0.1:8080
 *     RABBITMQ_URL=… REDIS_URL=… bun run coordinator.ts       workers are separate processes: bun run worker.ts
 *
 * It keeps no state: every answer is derived from the records in the result store. So any number of coordinators can
 * serve the same jobs. An upload is answered only when it has been read and checked to its end, so every bad input gets
 * its HTTP status.
 *
 * Not here: what a job does (job.ts), how requests are read and answered (http/), how pictures are read (picture/).
 */
import { randomUUID } from "node:crypto";
import process from "node:process";
import { Elysia } from "elysia";
import type { Registry } from "prom-client";
import type { Backends, Job } from "./backends.ts";
import { startEmbedded } from "./embedded/workers.ts";
import { controlWorker, listJobs } from "./http/classroom.ts";
import { type End, Follower, failureOf } from "./http/follow.ts";
import { allowedHosts, guarded } from "./http/guard.ts";
import { inputOf, taskOr422 } from "./http/input.ts";
import { deadLetters, inside, keysOf, peek, putBack } from "./http/inside.ts";
import { brokenOff, cancel, describe, events, eventsOfMany, fileOf, HEADERS, preview, result } from "./http/jobs.ts";
import { Lights } from "./http/lights.ts";
import { decodable, jobId, query } from "./http/params.ts";
import { StreamPlaces, UploadPlaces } from "./http/places.ts";
import { Previews } from "./http/preview.ts";
import { expectToken, methodNotAllowed, problem, streamed } from "./http/respond.ts";
import { serve } from "./http/serve.ts";
import { listTasks, listWorkers, metricsText, readiness, systemState } from "./http/service.ts";
import { readApiDocument, readPage, servePage } from "./http/static.ts";
import { Upload } from "./http/upload.ts";
import { enqueue, merge } from "./job.ts";
import { withLease } from "./jobs/lease.ts";
import { jobOf, removeJob, startOrResume } from "./jobs/record.ts";
import { caSetting } from "./ops/address.ts";
import { type Log, openLog, openProgramLog } from "./ops/log.ts";
import { BackendGauges, CoordinatorMetrics, FleetMetrics, openRegistry } from "./ops/metrics.ts";
import {
  answerHelp,
  type Classroom,
  classroomSetting,
  DEFAULT_BAND_PIXELS,
  DRAIN_MS,
  hostsSetting,
  NUMBERS,
  setting,
  tokenSetting,
} from "./ops/settings.ts";
import { type HeldMemory, PictureMemory } from "./picture/budget.ts";
import { ImageError, type PixelLimits } from "./picture/picture.ts";
import { DEFAULT_LIMITS, limitsOf } from "./picture/read.ts";
import { SpoolDisk } from "./picture/spool.ts";
import { RabbitQueue } from "./queue.ts";
import { RedisResults } from "./results.ts";
import { isData, type Task } from "./task.ts";
import { findTaskToResume, loadTasks, type Tasks } from "./tasks/index.ts";
import { JobError, JobWatch } from "./watch.ts";

export interface Dependencies extends Backends {
  /** The tasks that this program has. */
  tasks: Tasks;
  bandPixels?: number;
  maxUploadBytes?: number;
  limits?: PixelLimits;
  /** Memory for pictures that must be held whole. */
  memory?: PictureMemory;
  /** Disk for pictures that are read twice. */
  disk?: SpoolDisk;
  /** Limit of concurrent uploads. */
  maxJobs?: number;
  /** An upload that has waited for room in the queue for this long may lose its place to another, ms. */
  stalledMs?: number;
  /** Limits of open event streams, and of jobs in them that do not exist. */
  maxStreams?: { streams: number; unknown: number };
  /** The token that uploads, cancelling, /workers and /metrics require. */
  authToken?: string | undefined;
  /** Aborted when the program is about to end. Event streams are then closed, so that clients reconnect elsewhere. */
  stopping?: AbortSignal;
  /** The host names that browsers may use; null for any. */
  hosts?: string[] | null;
  /** What a class may do (http/classroom.ts). */
  classroom?: Classroom;
  log?: Log;
  /** The registry for its metrics. Other parts of the process may use it too. */
  registry?: Registry;
}

/** What the handlers share. */
type Context = ReturnType<typeof contextOf>;

const SWEEP_MS = 60_000;

/** The coordinator without its port: `fetch` answers a Request with a Response. */
export function createApp(dependencies: Dependencies) {
  const context = contextOf(dependencies);
  const { metrics, log } = context;
  const page = readPage();
  const apiDocument = readApiDocument();
  // With Elysia's default, no path is found after a host name of fewer than four letters.
  const app = new Elysia({ handler: { standardHostname: false } })
    .onError(({ error, request, route }) =>
      metrics.answered(request, route, problem(methodNotAllowed(error, request, app.routes) ?? error, request, log)),
    )
    .onBeforeHandle(({ params }) => decodable(params))
    .onAfterHandle(({ request, route, responseValue }) => {
      metrics.answered(request, route, responseValue as Response);
    })
    .get("/", ({ request }) => servePage(request, page, "index.html"))
    .get("/page/:file", ({ request, params }) => servePage(request, page, params.file))
    .get("/healthz", () => Response.json({ status: "ok" }))
    .get("/readyz", () => readiness(context))
    .get("/state", () => systemState(context))
    .get("/openapi.json", () => new Response(apiDocument, { headers: { "content-type": "application/json" } }))
    .get("/metrics", ({ request }) => metricsText(context, request))
    .get("/workers", ({ request }) => listWorkers(context, request))
    .post("/workers/:name/:action", ({ request, params }) => controlWorker(context, request, params))
    .get("/inside", ({ request }) => inside(context, request))
    .get("/inside/queues/:task", ({ request, params }) => peek(context, request, params.task))
    .get("/inside/jobs/:id", ({ request, params }) => keysOf(context, request, jobId(params.id)))
    .get("/inside/dead-letters", ({ request }) => deadLetters(context, request))
    .post("/inside/dead-letters/back", ({ request }) => putBack(context, request))
    .get("/jobs", ({ request }) => listJobs(context, request))
    .get("/tasks", () => listTasks(context))
    .post("/tasks/:task", ({ request, params }) => runOnce(context, request, params.task), { parse: "none" })
    .put("/jobs/:id", ({ request, params }) => startJob(context, request, jobId(params.id)), { parse: "none" })
    .get("/jobs/:id", async ({ params }) => Response.json(await describe(context, jobId(params.id))))
    .get("/events", ({ request }) => eventsOfMany(context, request))
    .get("/jobs/:id/events", ({ request, params }) => events(context, request, jobId(params.id)))
    .get("/jobs/:id/bands/:band", ({ request, params }) => preview(context, request, jobId(params.id), params.band))
    .get("/jobs/:id/result", ({ request, params }) => result(context, request, jobId(params.id)))
    .delete("/jobs/:id", ({ request, params }) => cancel(context, request, jobId(params.id)));
  const refuse = (error: unknown, request: Request) =>
    metrics.answered(request, undefined, problem(error, request, log));
  return { fetch: guarded(app.fetch, context.hosts, refuse), routes: app.routes };
}

function contextOf({
  bandPixels = DEFAULT_BAND_PIXELS,
  maxUploadBytes = NUMBERS.MAX_UPLOAD_BYTES.default,
  limits = DEFAULT_LIMITS,
  memory = new PictureMemory(NUMBERS.PICTURE_MEMORY_BYTES.default),
  disk = new SpoolDisk(NUMBERS.MAX_SPOOL_BYTES.default),
  maxJobs = NUMBERS.MAX_JOBS.default,
  stalledMs,
  maxStreams = { streams: NUMBERS.MAX_EVENT_STREAMS.default, unknown: NUMBERS.MAX_UNKNOWN_JOBS.default },
  authToken,
  stopping = new AbortController().signal,
  hosts = null,
  classroom = { control: false, wall: false, inside: false },
  log = openLog("warn"),
  registry = openRegistry(false),
  ...backends
}: Dependencies) {
  const metrics = new CoordinatorMetrics(registry, maxJobs);
  const follower = new Follower(metrics, log);
  const previews = new Previews(backends.results);
  const gauges = [
    new BackendGauges(registry, backends),
    new FleetMetrics(registry, backends, [...backends.tasks.keys()]),
  ];
  const places = new UploadPlaces(maxJobs, (taken) => metrics.open.set({ state: "uploading" }, taken), stalledMs);
  const streams = new StreamPlaces(maxStreams);
  const settings = { bandPixels, maxUploadBytes, limits, memory, disk, authToken, hosts };
  const allowed = { ...classroom, inside: classroom.inside || authToken !== undefined };
  const parts = { metrics, follower, previews, gauges, places, streams, lights: new Lights(backends) };
  return { ...backends, ...settings, ...parts, classroom: allowed, stopping, log, registry };
}

/** POST /tasks/:task: takes a picture, answers with the result, and keeps nothing. */
async function runOnce(context: Context, request: Request, taskName: string): Promise<Response> {
  const { results, follower, disk, classroom } = context;
  const id = randomUUID();
  const { watch, job, task } = await withUpload(context, request, async (upload, memory) => {
    const task = await taskOr422(context, taskName);
    const { asked, image } = await inputOf(request, task, upload, { ...context, memory });
    const job = jobOf(id, task, asked, image);
    await results.putJob(job);
    if (classroom.wall) await results.listJob(id);
    const watch = await JobWatch.open(context, id, job);
    try {
      await enqueue(watch, image, task, upload.signal, disk);
    } catch (error) {
      watch.close();
      await removeJob(results, job);
      throw error;
    }
    follower.accepted(job, upload.bytes);
    return { watch, job, task };
  });
  const name = `inline; filename="${fileOf(task.name, job)}"`;
  const pieces = streamThenDelete(context, watch, job, task, request.signal);
  const headers = { ...HEADERS[job.kind], "x-job-id": id, "content-disposition": name };
  return streamed(pieces, { headers }, brokenOff(context, job, request));
}

async function* streamThenDelete(
  { metrics, follower, results }: Context,
  watch: JobWatch,
  job: Job,
  task: Task,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  let end: [state: End, error?: unknown] = ["cancelled"]; // stays so if the client closes the connection
  try {
    yield* metrics.sending(merge(watch, isData(task) ? task : null, false, signal));
    end = ["done"];
  } catch (error) {
    if (error !== signal.reason) end = ["failed", error];
    throw error;
  } finally {
    follower.ended(job, ...end);
    // The client does not wait for this. If it fails, the keys expire by themselves.
    removeJob(results, job).catch(() => {});
  }
}

/** PUT /jobs/:id: takes a picture, answers 202 when every band is in the queue or done. If sent again, it resumes. */
async function startJob(context: Context, request: Request, id: string): Promise<Response> {
  const { results, follower, disk, classroom } = context;
  await withUpload(context, request, (upload, memory) =>
    withLease(results, id, upload, async (signal) => {
      const name = query(request, "task") ?? "sobel";
      const task = (await findTaskToResume(context.tasks, results, id, name)) ?? (await taskOr422(context, name));
      const { asked, image } = await inputOf(request, task, upload, { ...context, memory });
      const begun = jobOf(id, task, asked, image);
      await startOrResume(results, begun);
      if (classroom.wall) await results.listJob(id);
      const watch = await JobWatch.open(context, id);
      const resent = watch.job?.enqueued === true;
      try {
        await enqueue(watch, image, task, signal, disk);
      } catch (error) {
        watch.close();
        // The same bytes would fail in the same way again. But a bad second copy does not fail a job that is enqueued.
        const final = error instanceof ImageError || (error instanceof JobError && error.code === "failed");
        if (final && !watch.job?.enqueued) await results.failJob(id, error.message, failureOf(error));
        throw error;
      }
      if (resent) return watch.close();
      const job = watch.job ?? begun; // null if the job was cancelled just now
      follower.accepted(job, upload.bytes);
      follower.follow(watch, job);
    }),
  );
  return Response.json(await describe(context, id), { status: 202, headers: { location: `/jobs/${id}` } });
}

/** Runs `step` as one of at most `maxJobs` uploads. The rest of a refused upload is read and discarded. */
async function withUpload<T>(
  context: Context,
  request: Request,
  step: (upload: Upload, memory: HeldMemory) => Promise<T>,
): Promise<T> {
  const { maxUploadBytes, authToken, places, metrics, follower } = context;
  const upload = new Upload(request, maxUploadBytes);
  try {
    expectToken(request, authToken);
    return await places.within(upload, async () => {
      const memory = context.memory.open();
      try {
        upload.checkLength();
        return await step(upload, memory);
      } finally {
        memory.release();
      }
    });
  } catch (error) {
    follower.refused(request, error);
    // A client that asked to close the connection gets the answer only if the rest of its upload was read first.
    if (/close/i.test(request.headers.get("connection") ?? "")) await upload.discard();
    throw error;
  } finally {
    metrics.uploadBytes.inc(upload.bytes);
    upload.discard();
  }
}

const ABOUT = `Serves the page and the API. Without RABBITMQ_URL and REDIS_URL everything runs in this process, with a
worker thread per core. With both, workers are separate processes (worker.ts), and there may be several coordinators.

exit codes
  0  ended by SIGTERM or SIGINT, after the answers that had begun
  1  a setting is invalid, or the port is in use
  2  an option is unknown`;

/** Connects to RabbitMQ and Redis if both URLs are set. If neither is, starts both in this process, with workers. */
async function connect(tasks: Tasks, log: Log, registry: Registry): Promise<Backends & { stop(): Promise<void> }> {
  const { RABBITMQ_URL, REDIS_URL } = process.env;
  const ttlSeconds = setting("RESULT_TTL_SECONDS");
  const ca = caSetting();
  if (!RABBITMQ_URL && !REDIS_URL) {
    const bandTimeout = setting("BAND_TIMEOUT_SECONDS") * 1000;
    const modules = process.env.TASKS;
    const { control } = classroomSetting();
    const threads = setting("WORKERS");
    return startEmbedded({ threads, ttlSeconds, tasks, modules, bandTimeout, log, registry, control });
  }
  if (!RABBITMQ_URL || !REDIS_URL) {
    const [set, unset] = RABBITMQ_URL ? ["RABBITMQ_URL", "REDIS_URL"] : ["REDIS_URL", "RABBITMQ_URL"];
    throw new Error(`${unset}: expected both RABBITMQ_URL and REDIS_URL, or neither, got only ${set}`);
  }
  const results = new RedisResults(REDIS_URL, ttlSeconds, false, log, ca);
  const queue = await RabbitQueue.connect(RABBITMQ_URL, log, undefined, ca);
  await results.check();
  const stop = async () => {
    await queue.close();
    await results.close();
  };
  return { queue, results, stop };
}

async function main(): Promise<void> {
  answerHelp("coordinator.ts", ABOUT);
  const hostname = process.env.HOST || "127.0.0.1";
  const port = setting("PORT");
  const options = {
    bandPixels: setting("BAND_PIXELS"),
    maxUploadBytes: setting("MAX_UPLOAD_BYTES"),
    limits: limitsOf(setting("MAX_PIXELS")),
    memory: new PictureMemory(setting("PICTURE_MEMORY_BYTES")),
    disk: new SpoolDisk(setting("MAX_SPOOL_BYTES")),
    maxJobs: setting("MAX_JOBS"),
    maxStreams: { streams: setting("MAX_EVENT_STREAMS"), unknown: setting("MAX_UNKNOWN_JOBS") },
  };
  const authToken = tokenSetting();
  const classroom = classroomSetting();
  const log = openProgramLog();
  const registry = openRegistry(true);
  const tasks = await loadTasks(process.env.TASKS);
  const backends = await connect(tasks, log, registry);
  setInterval(() => backends.results.sweep().catch(() => {}), SWEEP_MS); // after an error, the next sweep tries again
  const stopping = new AbortController();
  const hosts = allowedHosts(hostname, hostsSetting());
  const app = createApp({
    ...backends,
    tasks,
    ...options,
    authToken,
    hosts,
    classroom,
    log,
    registry,
    stopping: stopping.signal,
  });
  const server = serve(app.fetch, hostname, port);
  console.log(`Sobel, distributed: http://${hostname.includes(":") ? `[${hostname}]` : hostname}:${server.port}`);
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
