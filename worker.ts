/**
 * A worker: takes a band off the queue, runs its task, stores the result. `bun run worker.ts` joins the fleet.
 *
 * What becomes of a band:
 *
 *     done                              stored, marked done and published in one transaction; then acknowledged
 *     the message cannot be read        the job fails with the reason; dead-lettered
 *     its task is unknown here          the same
 *     the task threw, or took too long  requeued, three times; then the job fails; dead-lettered
 *     it has killed its workers         redelivered until just below the queue's limit; then the job fails; dead-lettered
 *     the job was cancelled or failed   dropped
 *     Redis is unavailable              kept and retried, for ever
 *     RabbitMQ is unavailable           the queue reconnects; RabbitMQ redelivers the band, which is harmless
 *     SIGTERM                           finished and acknowledged; then exit 0. A second signal: exit 1 at once
 *     SIGKILL                           RabbitMQ redelivers it to another worker
 *
 * Invariant: a band done twice gives the same bytes under the same key, so a redelivery is harmless.
 *
 * Tasks run in a thread of this same file: the process answers the broker's heartbeats while a band is computed, and a
 * task that does not end can be terminated. The embedded coordinator starts several `Worker`s in its own process.
 *
 * Not here: what a band is (chunk.ts), what a task is (task.ts), the queue and the store (queue.ts, results.ts).
 */
import { availableParallelism, hostname } from "node:os";
import process from "node:process";
import { isMainThread, parentPort, Worker as Thread, workerData } from "node:worker_threads";
import { type Chunk, isChunkId, parseChunkId, rowsCrc } from "./chunk.ts";
import { type Fields, type Log, openLog } from "./ops/log.ts";
import type { DeadLetterReason, WorkerMetrics } from "./ops/metrics.ts";
import { answerHelp, levelSetting, setting } from "./ops/settings.ts";
import { encodeBand } from "./picture/png-write.ts";
import type { Delivery, Outcome, Queue } from "./queue.ts";
import { BEAT_MS, type Failure, type Results, type WorkerInfo } from "./results.ts";
import { offerOf, runTask } from "./task.ts";
import { loadTasks, namesIn, type Tasks } from "./tasks/index.ts";

/** Failures of a band before its job fails. */
const ATTEMPTS = 3;
/** How long the band in progress may take after SIGTERM, ms. Kubernetes waits for 30 s. */
const STOP_MS = 25_000;
/** At 20 deliveries the queue itself dead-letters the band, and the job would not learn why. */
const MAX_DELIVERIES = 18;
/** Marks the threads that this file starts. A thread that only imports it does not serve tasks. */
const ROLE = "tasks";
/** A task is terminated at its time limit. One that still runs this much later cannot be, ms. */
const STUCK_MS = 30_000;

const FAILURES: Record<DeadLetterReason, Failure> = {
  kills_workers: "lost",
  unreadable: "bad_message",
  unknown_task: "bad_message",
  task_failed: "task_failed",
};

export interface WorkerOptions {
  queue: Queue;
  results: Results;
  name: string;
  /** The tasks that this program has. */
  tasks: Tasks;
  /** Those that it does, by their names on the wire; all of them where absent. */
  only?: string[] | undefined;
  /** The setting `TASKS`: the thread loads these modules too. */
  modules?: string | undefined;
  /** How long a task may take for one band, ms. */
  bandTimeout: number;
  log: Log;
  /** Counts outcomes. */
  metrics?: WorkerMetrics | undefined;
}

/** One worker: computes one band at a time. */
export class Worker {
  readonly #options: WorkerOptions;
  readonly #thread: TaskThread;
  readonly #info: WorkerInfo;
  readonly #log: Log;
  /** When the task in progress began; null while idle. */
  #begun: number | null = null;
  #beating: ReturnType<typeof setInterval> | undefined;
  #stopConsuming: (() => Promise<void>)[] = [];
  #stopping = false;
  /** The jobs of the bands it has: the one in progress, and those of other queues that wait. */
  readonly #held: string[] = [];
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: WorkerOptions) {
    this.#options = options;
    const runtime = "Deno" in globalThis ? "deno" : "bun";
    const { name, only: tasks = [...options.tasks.keys()] } = options;
    this.#thread = new TaskThread(options.modules);
    this.#log = options.log.with({ worker: name });
    const counts = { since: Date.now(), bands: 0, pixels: 0, ms: 0, busy: "" };
    const offers = tasks.flatMap((task) => offerOf(options.tasks.get(task)!) ?? []);
    const machine = { host: hostname(), pid: process.pid, runtime, cores: availableParallelism() };
    this.#info = { name, ...machine, tasks, offers, ...counts };
  }

  async start(): Promise<void> {
    const beat = () => this.#options.results.beat(this.#info);
    this.#beating = setInterval(() => beat().catch((error) => this.#log.warn("heartbeat failed", { error })), BEAT_MS);
    await this.#retry(beat);
    const { queue } = this.#options;
    for (const task of this.#info.tasks) {
      this.#stopConsuming.push(await queue.consume([task], (delivery) => this.#inTurn(delivery)));
    }
  }

  /** Finishes the band in progress and takes no other. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#stopConsuming.map((stop) => stop()));
    clearInterval(this.#beating);
    await this.#options.results.leave(this.#info.name).catch(() => {});
    await this.#thread.end();
  }

  /**
   * Every task has a queue, and each delivers one band at a time. Bands are computed one after another. The heartbeat names
   * the waiting ones too, otherwise their jobs would take them for lost.
   */
  async #inTurn(delivery: Delivery): Promise<Outcome> {
    const { chunkId } = delivery;
    const job = isChunkId(chunkId) ? parseChunkId(chunkId).jobId : "";
    this.#hold(() => this.#held.push(job));
    const before = this.#turn;
    const outcome = before.then(() => (this.#stopping ? ({ do: "retry" } as const) : this.#handle(delivery)));
    this.#turn = outcome;
    return outcome.finally(() => this.#hold(() => this.#held.splice(this.#held.indexOf(job), 1)));
  }

  #hold(change: () => void): void {
    change();
    this.#info.busy = [...new Set(this.#held)].join(" ");
  }

  /** Why the process should be restarted; null where it should not. */
  stuck(): string | null {
    const ms = this.#begun === null ? 0 : performance.now() - this.#begun;
    return ms > this.#options.bandTimeout + STUCK_MS ? `a task has not ended for ${Math.round(ms)} ms` : null;
  }

  /** Never throws. */
  async #handle(delivery: Delivery): Promise<Outcome> {
    const { metrics } = this.#options;
    metrics?.busy.inc();
    try {
      return await this.#outcomeOf(delivery);
    } catch (error) {
      // Redis is unavailable while this worker shuts down: another worker gets the band.
      this.#log.warn("band requeued", { chunk: delivery.chunkId, error });
      metrics?.bands.inc({ task: "", outcome: "requeued" });
      return { do: "retry" };
    } finally {
      metrics?.busy.dec();
    }
  }

  /** Every outcome, in the order of the table above. */
  async #outcomeOf(delivery: Delivery): Promise<Outcome> {
    if (delivery.deliveries >= MAX_DELIVERIES) {
      const times = `handed out ${delivery.deliveries} times`;
      return this.#giveUp(delivery.chunkId, `${times}, and no worker came back with it`, "kills_workers");
    }
    let chunk: Chunk;
    try {
      chunk = await delivery.open();
    } catch (error) {
      return this.#giveUp(delivery.chunkId, `message cannot be read: ${(error as Error).message}`, "unreadable");
    }
    const { chunkId, task } = chunk;
    const { tasks } = this.#options;
    if (!tasks.has(task))
      return this.#giveUp(chunkId, `unknown task ${task}: this worker has ${[...tasks.keys()]}`, "unknown_task");
    this.#taken(delivery, task);
    const { jobId } = parseChunkId(chunkId);
    const job = await this.#retry(() => this.#options.results.findJob(jobId));
    if (!job || job.error !== null) return this.#settled(chunkId, task, "dropped");
    const start = performance.now();
    let result: BandResult;
    try {
      this.#begun = start;
      result = await this.#thread.run(chunk, this.#options.bandTimeout);
    } catch (error) {
      return this.#failed(chunkId, task, (error as Error).message);
    } finally {
      this.#begun = null;
    }
    const ms = Math.round((performance.now() - start) * 10) / 10;
    const { deliveries } = delivery;
    const done = { worker: this.#info.name, ms, crc: result.crc, bytes: result.made.length, deliveries };
    await this.#retry(() => this.#options.results.store(chunkId, result.made, done));
    const pixels = chunk.width * (chunk.height - chunk.halo[0] - chunk.halo[1]);
    this.#info.bands++;
    this.#info.pixels += pixels;
    this.#info.ms += ms;
    const storeMs = Math.max(0, performance.now() - start - ms);
    const { metrics } = this.#options;
    metrics?.compute.observe({ task }, ms / 1000);
    metrics?.store.observe(storeMs / 1000);
    metrics?.pixels.inc({ task }, pixels);
    metrics?.resultBytes.inc({ task }, done.bytes);
    return this.#settled(chunkId, task, "done", { ms, pixels, bytes: done.bytes, storeMs: Math.round(storeMs) });
  }

  #taken({ deliveries, sent }: Delivery, task: string): void {
    const { metrics } = this.#options;
    if (deliveries > 0) metrics?.redelivered.inc({ task });
    // A third-party sender may not say when.
    else if (!Number.isNaN(sent)) metrics?.wait.observe({ task }, Math.max(0, Date.now() - sent) / 1000);
  }

  #settled(chunkId: string, task: string, outcome: "done" | "dropped", fields: Fields = {}): Outcome {
    this.#options.metrics?.bands.inc({ task, outcome });
    this.#log.debug(`band ${outcome}`, { job: parseChunkId(chunkId).jobId, chunk: chunkId, task, ...fields });
    return { do: "done" };
  }

  async #failed(chunkId: string, task: string, why: string): Promise<Outcome> {
    const failures = await this.#retry(() => this.#options.results.countFailure(chunkId));
    const { jobId: job } = parseChunkId(chunkId);
    this.#log.warn("band failed", { job, chunk: chunkId, task, attempt: failures, of: ATTEMPTS, error: why });
    if (failures >= ATTEMPTS) return this.#giveUp(chunkId, `failed ${failures} times: ${why}`, "task_failed", task);
    this.#options.metrics?.bands.inc({ task, outcome: "retried" });
    return { do: "retry" };
  }

  async #giveUp(chunkId: string, why: string, reason: DeadLetterReason, task = ""): Promise<Outcome> {
    const job = isChunkId(chunkId) ? parseChunkId(chunkId).jobId : undefined;
    this.#log.error("band dead-lettered", { job, chunk: chunkId, error: why });
    this.#options.metrics?.deadLettered.inc({ reason });
    this.#options.metrics?.bands.inc({ task, outcome: "dead_lettered" });
    // A message without a readable id belongs to no job.
    if (isChunkId(chunkId)) {
      const { jobId, band } = parseChunkId(chunkId);
      const change = { error: `band ${band}: ${why}`, failure: FAILURES[reason] };
      await this.#retry(() => this.#options.results.updateJob(jobId, change));
    }
    return { do: "dead-letter", reason: why };
  }

  /** Retries until the store answers. Throws only while the worker shuts down. */
  async #retry<T>(step: () => Promise<T>): Promise<T> {
    for (let pause = 100; ; pause = Math.min(2 * pause, 2_000)) {
      try {
        return await step();
      } catch (error) {
        if (this.#stopping) throw error;
        this.#log.warn("result store unavailable, retrying", { error });
        this.#options.metrics?.storeRetries.inc();
        await new Promise((wake) => setTimeout(wake, pause));
      }
    }
  }
}

/** A band for the thread. The buffer and not a view of it: Deno searches every view it is sent for ports, byte by byte. */
type Order = Omit<Chunk, "pixels"> & { pixels: ArrayBuffer; at: number };

interface BandResult {
  /** A PNG as `encodeBand` makes it, or a data task's JSON in UTF-8. */
  made: Uint8Array;
  /** CRC-32 of the band's own rows, as received. */
  crc: number;
}

/** The thread that tasks run in. It is replaced after a task that had to be terminated. */
class TaskThread {
  #thread: Thread | undefined;

  constructor(readonly modules: string | undefined) {}

  /**
   * @param chunk its pixels are transferred to the thread
   * @throws Error what the task threw, or that it took longer than `timeout` ms
   */
  async run(chunk: Chunk, timeout: number): Promise<BandResult> {
    this.#thread ??= new Thread(new URL(import.meta.url), { workerData: { role: ROLE, modules: this.modules } });
    const thread = this.#thread;
    const giveUp = new AbortController();
    const timer = setTimeout(() => giveUp.abort(), timeout);
    try {
      return await new Promise<BandResult>((resolve, reject) => {
        thread.once("message", (reply: BandResult | { error: string }) => {
          if ("error" in reply) reject(new Error(reply.error));
          else resolve(reply);
        });
        const lost = (why: string) => {
          this.#thread = undefined;
          reject(new Error(why));
        };
        thread.once("error", (error: Error) => lost(`the task's thread failed: ${error.message}`));
        thread.once("exit", () => lost("the task's thread ended"));
        giveUp.signal.addEventListener("abort", () => {
          lost(`the task took longer than ${timeout} ms`);
          thread.terminate();
        });
        const { buffer, byteOffset } = chunk.pixels;
        const order: Order = { ...chunk, pixels: buffer as ArrayBuffer, at: byteOffset };
        thread.postMessage(order, [order.pixels]);
      });
    } finally {
      clearTimeout(timer);
      thread.removeAllListeners();
    }
  }

  async end(): Promise<void> {
    await this.#thread?.terminate();
  }
}

/** The thread's side of `TaskThread`. */
async function serveTasks(modules: string | undefined): Promise<void> {
  const tasks = await loadTasks(modules);
  parentPort!.on("message", ({ at, ...order }: Order) => {
    try {
      const { width, height, halo } = order;
      const pixels = new Uint8Array(order.pixels, at, width * height);
      const chunk: Chunk = { ...order, pixels };
      const rows = height - halo[0] - halo[1];
      const crc = rowsCrc(chunk);
      const result = runTask(tasks.get(chunk.task)!, chunk);
      const made = typeof result === "string" ? Buffer.from(result) : encodeBand(result, width, rows);
      const moved = made.byteOffset === 0 && made.length === made.buffer.byteLength ? [made.buffer as ArrayBuffer] : [];
      parentPort!.postMessage({ made, crc } satisfies BandResult, moved);
    } catch (error) {
      parentPort!.postMessage({ error: (error as Error).message });
    }
  });
}

/** The setting `WORKER_TASKS`: `grow` means all its versions, `grow.2` one. Undefined where it is not set: all tasks. */
function onlySetting(tasks: Tasks): string[] | undefined {
  const names = namesIn(process.env.WORKER_TASKS);
  if (names.length === 0) return undefined;
  const known = tasks.names();
  for (const name of names) {
    if (known.includes(name) || tasks.has(name)) continue;
    throw new Error(`WORKER_TASKS: expected some of ${known.join(", ")}, got ${name}`);
  }
  return [...tasks].filter(([wire, { name }]) => names.includes(name) || names.includes(wire)).map(([wire]) => wire);
}

const ABOUT = `Joins the fleet: takes bands off the queue in RabbitMQ, runs their task, stores the results in Redis. Start as many
as you like, on any machine that reaches both. For everything in one process, run coordinator.ts instead.

exit codes
  0  ended by SIGTERM or SIGINT, the band in progress finished
  1  a setting is invalid, or the band in progress was not finished in time
  2  an option is unknown`;

async function main(): Promise<void> {
  answerHelp("worker.ts", ABOUT);
  const { RABBITMQ_URL, REDIS_URL, WORKER_NAME, HOST } = process.env;
  const ttl = setting("RESULT_TTL_SECONDS");
  const bandTimeout = setting("BAND_TIMEOUT_SECONDS") * 1000;
  const metricsPort = setting("METRICS_PORT");
  const name = WORKER_NAME || `${hostname()}-${process.pid}`;
  const tasks = await loadTasks(process.env.TASKS);
  const only = onlySetting(tasks);
  const log = openLog(levelSetting());
  if (!RABBITMQ_URL || !REDIS_URL)
    throw new Error(
      "RABBITMQ_URL and REDIS_URL: expected both; without them, run coordinator.ts, which has workers of its own",
    );
  // Loaded here and not above: the thread does not need them.
  const { RabbitQueue } = await import("./queue.ts");
  const { RedisResults } = await import("./results.ts");
  const results = new RedisResults(REDIS_URL, ttl, true);
  const queue = await RabbitQueue.connect(RABBITMQ_URL, log.with({ worker: name }));
  let stopping = false;
  let worker: Worker | undefined;
  let metrics: WorkerMetrics | undefined;
  if (metricsPort >= 0) {
    const { openRegistry, BackendGauges, WorkerMetrics } = await import("./ops/metrics.ts");
    const { serveProbes } = await import("./ops/health.ts");
    const registry = openRegistry(true);
    metrics = new WorkerMetrics(registry);
    const now = new BackendGauges(registry, { queue, results });
    const stuck = () => worker?.stuck() ?? null;
    const watched = {
      backends: { queue, results },
      registry,
      observe: () => now.observe(),
      stuck,
      stopping: () => stopping,
    };
    const port = await serveProbes(watched, HOST || "127.0.0.1", metricsPort);
    log.info("probes and metrics are served", { worker: name, port });
  }
  worker = new Worker({ queue, results, name, tasks, only, modules: process.env.TASKS, bandTimeout, log, metrics });
  await worker.start();
  console.log(`${name}: at work`);
  const stop = async () => {
    if (stopping) process.exit(1);
    stopping = true;
    console.log(`${name}: finishing the band in progress`);
    // While Redis is unavailable this may not end. RabbitMQ then redelivers the band to another worker.
    setTimeout(() => process.exit(1), STOP_MS);
    await worker.stop();
    await queue.close();
    await results.close();
    process.exit(0);
  };
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
}

if (!isMainThread && workerData?.role === ROLE) serveTasks(workerData.modules);
else if (import.meta.main) {
  main().catch((error) => {
    console.error(`worker.ts: ${error.message}`);
    process.exit(1);
  });
}
