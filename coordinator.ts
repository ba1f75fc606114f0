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
import { createHash, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import process from "node:process";
import { Readable } from "node:stream";
import { Busboy, type BusboyInstance } from "@fastify/busboy";
import { Elysia, NotFoundError } from "elysia";
import { DEFAULT_BAND_PIXELS, isJobId, planBands } from "./chunk.ts";
import { DEFAULT_LIMITS, readImage } from "./image.ts";
import { feed, merge } from "./job.ts";
import { ImageError, type PixelLimits } from "./png.ts";
import { LocalQueue, QueueError, RabbitQueue } from "./queue.ts";
import { type Done, type Job, LocalResults, RedisResults, type WorkerInfo } from "./results.ts";
import { type Backends, JobError, JobWatch, lookUp, stateOf } from "./watch.ts";
import { setting, TASKS, Worker } from "./worker.ts";

export interface Dependencies extends Backends {
  bandPixels?: number;
  maxUploadBytes?: number;
  limits?: PixelLimits;
  /** Uploads that are taken at a time. */
  maxJobs?: number;
  /** Aborted when the program is to end: whoever reads events is let go, and asks another coordinator. */
  stopping?: AbortSignal;
}

const MAX_WORKERS = 1024;
const DEFAULT_UPLOAD_BYTES = 4 * 2 ** 30;
const DEFAULT_JOBS = 64;
/** An upload that sends nothing for so long is given up, ms. */
const SILENCE_MS = 60_000;
/** Of an upload that was refused, this much is still read, for this long, so that the client comes to read the answer. */
const DISCARD_BYTES = 4 * 2 ** 30;
const DISCARD_MS = 60_000;
/** The right to feed a job lapses after this, unless it is renewed, ms. */
const LEASE_MS = 10_000;
const HEARTBEAT_MS = 10_000;
const RETRY_SECONDS = 5;
/** How long answers that have begun may take once the program is told to end, ms. Kubernetes waits for 30 s. */
const DRAIN_MS = 20_000;

/** An answer other than success: RFC 9457. */
class HttpError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly headers: Record<string, string> = {},
  ) {
    super(message);
  }
}

/** The program without its port: give `fetch` a Request, get a Response. */
export function createApp({
  queue,
  results,
  bandPixels = DEFAULT_BAND_PIXELS,
  maxUploadBytes = DEFAULT_UPLOAD_BYTES,
  limits = DEFAULT_LIMITS,
  maxJobs = DEFAULT_JOBS,
  stopping = new AbortController().signal,
}: Dependencies) {
  const page = readPage();
  let uploads = 0;

  /** Counts the upload in, and out when `step` is over; what remains of a refused one is read and thrown away. */
  async function withUpload<T>(request: Request, step: (upload: Upload) => Promise<T>): Promise<T> {
    const upload = new Upload(request, maxUploadBytes);
    try {
      if (uploads >= maxJobs) throw unavailable(`${uploads} uploads are being taken: send it again later`);
      uploads++;
      try {
        upload.checkLength();
        return await step(upload);
      } finally {
        uploads--;
      }
    } finally {
      upload.discard();
    }
  }

  async function newJob(id: string, request: Request, taskName: string, upload: Upload) {
    const task = TASKS.get(taskName);
    if (!task)
      throw new HttpError(404, `unknown task ${JSON.stringify(taskName)}: expected ${[...TASKS.keys()].join(", ")}`);
    const workers = workersOf(request);
    const image = await readImage(await upload.image(request), limits);
    const { width, height, rows, bands } = planBands(image.width, image.height, task.halo, bandPixels);
    const job: Job = {
      id,
      task: task.name,
      workers,
      width,
      height,
      rows,
      bands,
      created: Date.now(),
      fed: false,
      error: null,
    };
    return { job, image, halo: task.halo };
  }

  async function send(request: Request, taskName: string): Promise<Response> {
    const id = randomUUID();
    const pieces = await withUpload(request, async (upload) => {
      const { job, image, halo } = await newJob(id, request, taskName, upload);
      await results.putJob(job);
      const watch = await JobWatch.open({ queue, results }, id);
      try {
        await feed(watch, image, halo, request.signal);
      } catch (error) {
        watch.close();
        await results.removeJob(id);
        throw error;
      }
      return removedBehind(watch, request.signal);
    });
    // With the first piece at hand, a job that fails at once still gets its status.
    const first = await pieces.next();
    const headers = { "content-type": "image/png", "x-job-id": id };
    const name = { "content-disposition": `inline; filename="${taskName}.png"` };
    return new Response(streamOf(first, pieces), { headers: { ...headers, ...name } });
  }

  async function* removedBehind(watch: JobWatch, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    try {
      yield* merge(watch, false, signal);
    } finally {
      // In the background: the client need not wait for it.
      results.removeJob(watch.id).catch(() => {}); // its keys expire by themselves
    }
  }

  async function put(request: Request, id: string): Promise<Response> {
    await withUpload(request, (upload) =>
      leased(id, request.signal, async (signal) => {
        const { job: asked, image, halo } = await newJob(id, request, parameter(request, "task") ?? "sobel", upload);
        await startOrResume(asked);
        const watch = await JobWatch.open({ queue, results }, id);
        try {
          await feed(watch, image, halo, signal);
        } catch (error) {
          // Sending the same bytes again would end the same way. A job that has its picture is not harmed by a bad copy.
          if (error instanceof ImageError && !watch.job?.fed) await results.updateJob(id, { error: error.message });
          throw error;
        } finally {
          watch.close();
        }
      }),
    );
    const location = `/jobs/${id}`;
    return Response.json(await describe(id), { status: 202, headers: { location } });
  }

  /** The record that stands, if it is of the same picture and task as far as the header tells; else a new one. */
  async function startOrResume(asked: Job): Promise<void> {
    const found = await results.findJob(asked.id);
    if (found && found.error === null) {
      const same = found.task === asked.task && found.width === asked.width && found.height === asked.height;
      if (same) return;
      throw new JobError(
        409,
        `this job was started with another picture: ${found.width} × ${found.height}, ${found.task}`,
      );
    }
    if (found) await results.removeJob(asked.id);
    await results.putJob(asked);
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
    const { job, done } = await found(id);
    return view(job, done, await results.workers());
  }

  async function found(id: string) {
    const records = await lookUp({ queue, results }, id);
    if (!records) throw new HttpError(404, `no job ${id}: it was never sent, was cancelled, or has expired`);
    return records;
  }

  async function result(id: string): Promise<Response> {
    const { job, done } = await found(id);
    const state = stateOf(job, done.size);
    if (state === "failed") throw new HttpError(409, `the job has failed: ${job.error}`);
    if (state !== "done") {
      throw new HttpError(409, `not ready: ${done.size} of ${job.bands} bands are done`, { "retry-after": "1" });
    }
    const pieces = merge(await JobWatch.open({ queue, results }, id), true);
    const first = await pieces.next();
    return new Response(streamOf(first, pieces), {
      headers: { "content-type": "image/png", "content-disposition": `attachment; filename="${id}.${job.task}.png"` },
    });
  }

  async function events(id: string): Promise<Response> {
    const fleet = await results.workers();
    const watch = await JobWatch.open({ queue, results }, id);
    if (!watch.job) {
      watch.close();
      throw new HttpError(404, `no job ${id}: it was never sent, was cancelled, or has expired`);
    }
    const headers = { "content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no" };
    return new Response(eventStream(watch, fleet, stopping), { headers });
  }

  async function cancel(id: string): Promise<Response> {
    if (!(await results.findJob(id))) throw new HttpError(404, `no job ${id}: nothing to cancel`);
    await results.removeJob(id);
    return new Response(null, { status: 204 });
  }

  async function ready(): Promise<Response> {
    if (!queue.ready()) throw unavailable("RabbitMQ is away");
    const late = new Promise<never>((_, reject) => setTimeout(() => reject(new Error("no answer")), 2_000));
    await Promise.race([results.ping(), late]).catch((error) => {
      throw unavailable(`Redis is away: ${error.message}`);
    });
    return Response.json({ status: "ready" });
  }

  return new Elysia()
    .onError(({ error, request }) => problem(error, request))
    .get("/", () => new Response(page.html, { headers: page.headers }))
    .get("/healthz", () => Response.json({ status: "ok" }))
    .get("/readyz", ready)
    .get("/workers", async () => Response.json({ workers: await results.workers() }))
    .post("/tasks/:task", ({ request, params }) => send(request, params.task), { parse: "none" })
    .put("/jobs/:id", ({ request, params }) => put(request, jobId(params.id)), { parse: "none" })
    .get("/jobs/:id", async ({ params }) => Response.json(await describe(jobId(params.id))))
    .get("/jobs/:id/events", ({ params }) => events(jobId(params.id)))
    .get("/jobs/:id/result", ({ params }) => result(jobId(params.id)))
    .delete("/jobs/:id", ({ params }) => cancel(jobId(params.id)));
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

function workersOf(request: Request): number | null {
  const text = parameter(request, "workers");
  if (text === null || text === "") return null;
  const workers = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (workers >= 1 && workers <= MAX_WORKERS) return workers;
  throw new HttpError(400, `workers: expected a whole number from 1 to ${MAX_WORKERS}, got ${JSON.stringify(text)}`);
}

function unavailable(message: string): HttpError {
  return new HttpError(503, message, { "retry-after": String(RETRY_SECONDS) });
}

/** Every error as problem details; never a stack trace. */
function problem(error: unknown, request: Request): Response {
  const { status, detail, headers } = explained(error, request);
  const title = TITLES[status] ?? "Error";
  const body = JSON.stringify({ type: "about:blank", title, status, detail });
  return new Response(body, { status, headers: { ...headers, "content-type": "application/problem+json" } });
}

function explained(
  error: unknown,
  request: Request,
): { status: number; detail: string; headers?: Record<string, string> } {
  if (error instanceof HttpError) return { status: error.status, detail: error.message, headers: error.headers };
  if (error instanceof ImageError || error instanceof JobError) return { status: error.status, detail: error.message };
  if (error instanceof QueueError) return explained(unavailable(error.message), request);
  if (error instanceof NotFoundError) {
    return { status: 404, detail: `nothing here: ${request.method} ${new URL(request.url).pathname}` };
  }
  if (error === request.signal.reason) return { status: 400, detail: "the client has hung up" };
  console.error(error);
  return explained(unavailable("something this coordinator needs does not work: its log says more"), request);
}

const TITLES: Record<number, string> = {
  400: "Bad request",
  404: "Not found",
  408: "Request timeout",
  409: "Conflict",
  410: "Gone",
  413: "Content too large",
  415: "Unsupported media type",
  422: "Unprocessable content",
  500: "The job failed",
  503: "Service unavailable",
};

/** The body of a request: counted, watched for silence, and never left half read. */
class Upload {
  readonly #body: ReadableStreamDefaultReader<Uint8Array> | undefined;
  readonly #announced: number;
  #bytes = 0;
  #ended: boolean;

  constructor(
    request: Request,
    readonly maxBytes: number,
  ) {
    this.#body = request.body?.getReader();
    this.#ended = !this.#body;
    this.#announced = Number(request.headers.get("content-length") ?? 0);
  }

  checkLength(): void {
    if (this.#announced > this.maxBytes) throw this.#tooLarge(this.#announced);
  }

  #tooLarge(bytes: number): HttpError {
    return new HttpError(413, `upload too large: expected at most ${this.maxBytes} bytes, got ${bytes} or more`);
  }

  /** The picture's bytes: the body, or the part `image` of a form. */
  async image(request: Request): Promise<AsyncIterable<Uint8Array>> {
    const type = request.headers.get("content-type") ?? "";
    return /^multipart\/form-data/i.test(type) ? imagePart(Readable.from(this.#read()), type) : this.#read();
  }

  async *#read(): AsyncGenerator<Uint8Array> {
    for (;;) {
      const piece = await this.#next();
      if (!piece) return;
      this.#bytes += piece.length;
      if (this.#bytes > this.maxBytes) throw this.#tooLarge(this.#bytes);
      yield piece;
    }
  }

  async #next(): Promise<Uint8Array | undefined> {
    if (!this.#body) return undefined;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const silent = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new HttpError(408, `the upload was silent for ${SILENCE_MS / 1000} s`)),
        SILENCE_MS,
      );
    });
    try {
      const { done, value } = await Promise.race([this.#body.read(), silent]);
      this.#ended = done;
      return value;
    } catch (error) {
      this.#ended = true;
      if (error instanceof HttpError) throw error;
      throw new HttpError(400, "the upload was cut off");
    } finally {
      clearTimeout(timer);
    }
  }

  /** Reads on without keeping, in the background: else a client that is still sending sees a broken connection. */
  async discard(): Promise<void> {
    const deadline = Date.now() + DISCARD_MS;
    try {
      for (let bytes = 0; !this.#ended && bytes < DISCARD_BYTES && Date.now() < deadline; ) {
        bytes += (await this.#next())?.length ?? 0;
      }
    } catch {
      // The client is gone, or silent: nobody waits for an answer.
    }
    if (!this.#ended) this.#body?.cancel().catch(() => {});
  }
}

/** @throws HttpError 400 where the form has no file `image` */
function imagePart(body: Readable, type: string): Promise<AsyncIterable<Uint8Array>> {
  return new Promise((resolve, reject) => {
    const bad = (error: unknown) => {
      reject(error instanceof HttpError ? error : new HttpError(400, `form: ${(error as Error).message}`));
    };
    let form: BusboyInstance;
    try {
      form = new Busboy({ headers: { "content-type": type } });
    } catch (error) {
      return bad(error);
    }
    form.on("file", (field, part) => {
      part.on("error", () => {}); // whoever reads it sees the error; nobody may be reading
      if (field !== "image") return part.resume();
      const cut = (error: Error) => part.destroy(error);
      body.once("error", cut);
      form.once("error", cut);
      resolve(piecesOf(part));
    });
    form.on("finish", () => bad(new Error("expected a file in the field image, got none")));
    form.on("error", bad);
    body.on("error", bad);
    body.pipe(form);
  });
}

/** @throws HttpError 400 where the form ends within the part */
async function* piecesOf(part: Readable): AsyncGenerator<Uint8Array> {
  try {
    yield* part;
  } catch (error) {
    throw error instanceof HttpError ? error : new HttpError(400, `form: ${(error as Error).message}`);
  }
}

function streamOf(first: IteratorResult<Uint8Array>, rest: AsyncGenerator<Uint8Array>): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      if (!first.done) controller.enqueue(first.value);
    },
    async pull(controller) {
      const { done, value } = await rest.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    async cancel() {
      await rest.return(undefined);
    },
  });
}

/** A job as the API shows it. */
function view(job: Job, done: Map<number, Done>, fleet: WorkerInfo[]) {
  const { id, task, width, height, rows, bands, workers, created, error } = job;
  const state = stateOf(job, done.size);
  const byWorker: Record<string, { bands: number; ms: number }> = {};
  for (const { worker, ms } of done.values()) {
    byWorker[worker] ??= { bands: 0, ms: 0 };
    byWorker[worker].bands++;
    byWorker[worker].ms += ms;
  }
  const open = state === "uploading" || state === "running";
  const waiting = open && !fleet.some(({ tasks }) => tasks.includes(task));
  return { id, state, task, width, height, rows, bands, done: done.size, workers, created, error, waiting, byWorker };
}

/** Server-sent events of a job: `job`, a `band` for each that is done, and at last `done` or `failed`. */
function eventStream(watch: JobWatch, fleet: WorkerInfo[], stopping: AbortSignal): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  const told = new Set<number>();
  let shown = "";
  let alive = fleet;
  let ended = false;
  let stop = () => {};
  return new ReadableStream({
    start(controller) {
      const write = (text: string) => controller.enqueue(encoder.encode(text));
      const event = (name: string, data: unknown) => write(`event: ${name}\ndata: ${JSON.stringify(data)}\n\n`);
      const tell = () => {
        if (ended) return;
        const { job, done } = watch;
        if (!job) {
          event("failed", { id: watch.id, state: "failed", error: "the job was cancelled or has expired" });
          return end();
        }
        for (const [band, { worker, ms }] of done) {
          if (told.has(band)) continue;
          told.add(band);
          const y = band * job.rows;
          event("band", { band, y, rows: Math.min(job.rows, job.height - y), worker, ms });
        }
        const now = view(job, done, alive);
        const summary = `${now.state} ${now.waiting}`;
        if (summary !== shown) event("job", now);
        shown = summary;
        if (now.state !== "done" && now.state !== "failed") return;
        event(now.state, now);
        end();
      };
      const end = () => {
        stop();
        controller.close();
      };
      const unlisten = watch.onChange(tell);
      const heartbeat = setInterval(async () => {
        write(": still here\n\n");
        alive = await watch.backends.results.workers().catch(() => alive);
        tell();
      }, HEARTBEAT_MS / 2);
      stopping.addEventListener("abort", end);
      stop = () => {
        if (ended) return;
        ended = true;
        stopping.removeEventListener("abort", end);
        clearInterval(heartbeat);
        unlisten();
        watch.close();
      };
      tell();
      if (stopping.aborted && !ended) end();
    },
    cancel: () => stop(),
  });
}

/** The page, under a policy that lets run what is in the file and nothing else. */
function readPage(): { html: string; headers: Record<string, string> } {
  const html = readFileSync(new URL("page.html", import.meta.url), "utf8");
  const hashes = (tag: string) => {
    const parts = [...html.matchAll(new RegExp(`<${tag}[^>]*>([\\s\\S]*?)</${tag}>`, "g"))];
    return parts.map(([, text]) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`).join(" ");
  };
  const policy = [
    "default-src 'none'",
    `script-src ${hashes("script")}`,
    `style-src ${hashes("style")}`,
    "img-src 'self' blob: data:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'self'",
    "frame-ancestors 'none'",
  ];
  return {
    html,
    headers: {
      "content-type": "text/html; charset=utf-8",
      "content-security-policy": policy.join("; "),
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
      "cache-control": "no-cache",
    },
  };
}

interface Server {
  port: number;
  stop(): Promise<void>;
}

/** Serves on Bun or Deno. Time-outs are ours: a window of bands may hold an upload up for as long as it likes. */
function serve(fetch: (request: Request) => Response | Promise<Response>, hostname: string, port: number): Server {
  if (typeof Bun !== "undefined") {
    const server = Bun.serve({
      hostname,
      port,
      maxRequestBodySize: Number.MAX_SAFE_INTEGER,
      fetch(request, self) {
        self.timeout(request, 0);
        return fetch(request);
      },
    });
    return { port: server.port!, stop: () => server.stop() };
  }
  const { Deno } = globalThis as unknown as { Deno: DenoHttp };
  const server = Deno.serve({ hostname, port, onListen() {} }, fetch);
  return { port: server.addr.port, stop: () => server.shutdown() };
}

/** The part of Deno that is used here. */
interface DenoHttp {
  serve(
    options: { hostname: string; port: number; onListen(): void },
    fetch: (request: Request) => Response | Promise<Response>,
  ): { addr: { port: number }; shutdown(): Promise<void> };
}

/** Both URLs: RabbitMQ and Redis. Neither: this process, with `WORKERS` threads. */
async function connect(say: (text: string) => void): Promise<Backends & { stop(): Promise<void> }> {
  const { RABBITMQ_URL, REDIS_URL } = process.env;
  const ttl = setting("RESULT_TTL_SECONDS", 3600, 1, 31_536_000);
  if (RABBITMQ_URL && REDIS_URL) {
    const results = new RedisResults(REDIS_URL, ttl, false);
    const queue = await RabbitQueue.connect(RABBITMQ_URL, say);
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
  const bandTimeout = setting("BAND_TIMEOUT_SECONDS", 60, 1, 86_400) * 1000;
  const count = setting("WORKERS", availableParallelism(), 1, MAX_WORKERS);
  const names = Array.from({ length: count }, (_, i) => `thread-${i + 1}`);
  const workers = names.map((name) => new Worker({ queue, results, name, bandTimeout, say }));
  await Promise.all(workers.map((worker) => worker.start()));
  return {
    queue,
    results,
    async stop() {
      await Promise.all(workers.map((worker) => worker.stop()));
    },
  };
}

async function main(): Promise<void> {
  const hostname = process.env.HOST || "127.0.0.1";
  const port = setting("PORT", 8080, 0, 65_535);
  const most = Number.MAX_SAFE_INTEGER;
  const streamed = setting("MAX_PIXELS", DEFAULT_LIMITS.streamed, 1, most);
  const options = {
    bandPixels: setting("BAND_PIXELS", DEFAULT_BAND_PIXELS, 1, most),
    maxUploadBytes: setting("MAX_UPLOAD_BYTES", DEFAULT_UPLOAD_BYTES, 1, most),
    limits: { streamed, whole: Math.min(streamed, DEFAULT_LIMITS.whole) },
    maxJobs: setting("MAX_JOBS", DEFAULT_JOBS, 1, 100_000),
  };
  const backends = await connect((text) => console.error(text));
  const stopping = new AbortController();
  const app = createApp({ ...backends, ...options, stopping: stopping.signal });
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
