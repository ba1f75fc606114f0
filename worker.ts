/**
 * A worker: takes a band off the queue, runs its task, stores the result. `bun run worker.ts` joins the fleet.
 *
 * What becomes of a band:
 *
 *     done                              stored, marked done and published in one transaction; then acknowledged
 *     the message cannot be read        the job fails with the reason; dead-lettered
 *     its task is unknown here          the same
 *     the task threw, or took too long  requeued, three times; then the job fails; dead-lettered
 *     five workers died computing it    the job fails; dead-lettered
 *     a third party's, without a job    computed, stored, acknowledged; dead-lettered if its task throws three times
 *     it needs no work                  dropped: it is done, or another worker computes a copy, or its job is cancelled,
 *                                       has failed or has begun another attempt
 *     it was delivered many times       enqueued anew, so that the queue's own limit is never reached
 *     Redis is unavailable              kept and retried; after three missed heartbeats requeued, and no band is taken
 *                                       until Redis answers again
 *     RabbitMQ is unavailable           the queue reconnects. The band is finished; another worker that gets it waits
 *     SIGTERM                           finished and acknowledged; then exit 0. A second signal: exit 1 at once
 *     SIGKILL                           RabbitMQ redelivers it to another worker
 *
 * Invariant: a band done twice gives the same bytes under the same key, so a redelivery is harmless.
 *
 * Not here: what a band is (chunk.ts), what a task is (task.ts) and the thread it runs in (tasks/thread.ts), the queue
 * and the store (queue.ts, results.ts).
 */
import { availableParallelism, hostname } from "node:os";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import type { Begun, Claimant, Delivery, Failure, Outcome, Queue, Results, WorkerInfo } from "./backends.ts";
import { type Chunk, isChunkId, parseChunkId } from "./chunk.ts";
import { caSetting } from "./ops/address.ts";
import { runCommands } from "./ops/commands.ts";
import { unlessAborted, within } from "./ops/deadline.ts";
import { serveProbes } from "./ops/health.ts";
import { type Fields, type Log, openProgramLog } from "./ops/log.ts";
import { BackendGauges, type DeadLetterReason, openRegistry, WorkerMetrics } from "./ops/metrics.ts";
import { answerHelp, classroomSetting, STOP_MS, setting } from "./ops/settings.ts";
import { RabbitQueue } from "./queue.ts";
import { BEAT_MS, RedisResults } from "./results.ts";
import { loadTasks, onlyThese, type Tasks } from "./tasks/index.ts";
import { offerOf } from "./tasks/offer.ts";
import { type BandResult, TaskThread } from "./tasks/thread.ts";
import { type Placed, sentenceOf } from "./tasks/thrown.ts";

/** A job fails when one of its bands has failed this often. */
const ATTEMPTS = 3;
/** A job fails when this many workers have died while they computed the same band. */
const MAX_LOST = 5;
/** At 20 deliveries the queue itself dead-letters a message, without a reason. A new message starts at 0. */
const RENEW_DELIVERIES = 12;
/** How often a worker asks again for a band that another worker is still computing, ms. */
const ELSEWHERE_MS = 500;
/** How long a heartbeat may take, ms, and how many in a row may fail before the store counts as unreachable. */
const BEAT_ANSWER_MS = 3_000;
const MAX_MISSED_BEATS = 3;
/** A task is terminated at its time limit. If it still runs this much later, that has failed, ms. */
const STUCK_MS = 30_000;

const FAILURES: Record<DeadLetterReason, Failure> = {
  kills_workers: "lost",
  unreadable: "bad_message",
  unknown_task: "bad_message",
  task_failed: "task_failed",
};

/** What identifies a message: its chunk, and the attempt of the job. */
type MessageId = Pick<Delivery, "chunkId" | "attempt">;
type Claimed = Exclude<Begun, "elsewhere" | null>;

export interface WorkerOptions {
  queue: Queue;
  results: Results;
  name: string;
  /** The tasks that this program has. */
  tasks: Tasks;
  /** The tasks that this worker takes, by their names on the wire. Default: all. */
  only?: string[] | undefined;
  /** The setting `TASKS`: the thread loads these modules too. */
  modules?: string | undefined;
  /** How long a task may take for one band, ms. */
  bandTimeout: number;
  log: Log;
  /** Whether it accepts commands (ops/commands.ts). */
  control?: boolean;
  metrics?: WorkerMetrics;
}

/** One worker: computes one band at a time. */
export class Worker {
  readonly #options: WorkerOptions;
  readonly #thread: TaskThread;
  readonly #info: WorkerInfo;
  readonly #log: Log;
  readonly #metrics: WorkerMetrics;
  /** When the task in progress began; null while idle. */
  #taskStart: number | null = null;
  #beating: ReturnType<typeof setInterval> | undefined;
  #missedBeats = 0;
  /** Aborted when the store becomes unreachable. Replaced when the store answers again. */
  #contact = new AbortController();
  #stopConsuming: (() => Promise<void>) | undefined;
  #stopping = false;

  constructor(options: WorkerOptions) {
    this.#options = options;
    const runtime = "Deno" in globalThis ? "deno" : "bun";
    const { name, only: tasks = [...options.tasks.keys()] } = options;
    this.#log = options.log.with({ worker: name });
    this.#metrics = options.metrics ?? new WorkerMetrics(openRegistry(false));
    this.#thread = new TaskThread(options.modules, this.#log);
    const counts = { since: Date.now(), bands: 0, pixels: 0, ms: 0, busy: "" };
    const flags = { consuming: false, paused: false, control: options.control ?? false };
    const offers = tasks.flatMap((task) => offerOf(options.tasks.get(task)!) ?? []);
    const machine = { host: hostname(), pid: process.pid, runtime, cores: availableParallelism() };
    this.#info = { name, ...machine, tasks, offers, ...counts, ...flags };
  }

  async start(): Promise<void> {
    await this.#retry(() => this.#options.results.beat(this.#info));
    this.#beating = setInterval(() => this.#beat(), BEAT_MS);
    await this.#consume();
  }

  /** Finishes the band in progress, and takes no other while it is paused. */
  async pause(paused: boolean): Promise<void> {
    if (this.#info.paused === paused) return;
    this.#info.paused = paused;
    await (paused ? this.#stopConsuming?.() : this.#consume());
    await this.#options.results.beat(this.#info).catch(() => {}); // the next heartbeat repeats it
  }

  /** Finishes the band in progress and takes no other. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#stopConsuming?.();
    clearInterval(this.#beating);
    await this.#options.results.leave(this.#info.name).catch(() => {});
    await this.#thread.end();
  }

  /** Ends at once, like a process that is killed: the band in progress goes back to the queue. */
  async die(): Promise<void> {
    this.#contact.abort(new Error("killed"));
    await this.stop();
  }

  /** Why the process should be restarted; null if it should not. */
  stuck(): string | null {
    const ms = this.#taskStart === null ? 0 : performance.now() - this.#taskStart;
    return ms > this.#options.bandTimeout + STUCK_MS ? `a task has not ended for ${Math.round(ms)} ms` : null;
  }

  async #consume(): Promise<void> {
    if (this.#info.paused) return;
    const { queue, results } = this.#options;
    const onConsuming = (consuming: boolean) => {
      this.#info.consuming = consuming;
      // Sent at once: a job compares the number of its queue's consumers with the workers that report consuming.
      if (!this.#stopping) results.beat(this.#info).catch(() => {}); // the next heartbeat repeats it
    };
    this.#stopConsuming = await queue.consume(this.#info.tasks, (delivery) => this.#handle(delivery), onConsuming);
  }

  /** Never throws. */
  async #handle(delivery: Delivery): Promise<Outcome> {
    const { chunkId } = delivery;
    const { signal } = this.#contact;
    this.#metrics.busy.inc();
    this.#info.busy = isChunkId(chunkId) ? parseChunkId(chunkId).jobId : "";
    const outcome = this.#outcomeOf(delivery);
    try {
      return await unlessAborted(outcome, signal);
    } catch (error) {
      // Redis is unreachable, or unavailable while this worker shuts down: another worker gets the band.
      this.#log.warn("band requeued", { chunk: chunkId, error });
      this.#metrics.bands.inc({ task: "", outcome: "requeued" });
      if (signal.aborted) await this.#thread.end();
      // When Redis answers again, this worker is alive, but it no longer has the band that it claimed.
      const unclaim = () => this.#options.results.unclaim(chunkId, { ...this.#info, ...delivery, heldMs: 0 });
      if (signal.aborted && !this.#stopping) outcome.then(unclaim, unclaim).catch(() => {});
      return { do: "retry" };
    } finally {
      this.#metrics.busy.dec();
      this.#info.busy = "";
    }
  }

  /** Claims a band and computes it, with the outcomes in the table above. */
  async #outcomeOf(delivery: Delivery): Promise<Outcome> {
    const { attempt, deliveries, lost } = delivery;
    const received = performance.now();
    const chunk = await delivery.open().catch((error: Error) => error);
    if (chunk instanceof Error)
      return this.#deadLetter(delivery, `message cannot be read: ${chunk.message}`, "unreadable");
    const { chunkId, task } = chunk;
    const { tasks, results } = this.#options;
    if (!tasks.has(task)) {
      const why = `unknown task ${task}: this worker has ${[...tasks.keys()]}`;
      return this.#deadLetter({ chunkId, attempt }, why, "unknown_task");
    }
    this.#metrics.delivered(task, delivery);
    const by = () => ({ ...this.#info, attempt, deliveries, heldMs: tenths(performance.now() - received) });
    const begun = await this.#begin(chunkId, by);
    if (begun === "elsewhere") return { do: "retry" };
    if (!begun) return this.#settled(chunkId, task, "dropped");
    if (begun.lost >= MAX_LOST)
      return this.#deadLetter(delivery, `${begun.lost} workers died while they computed it`, "kills_workers");
    if (deliveries >= RENEW_DELIVERIES) {
      // The new message is not a redelivery. While this claim exists, a worker takes it for a second copy and drops it.
      await this.#retry(() => results.unclaim(chunkId, by()));
      return { do: "renew" };
    }
    const cutOff = () => results.beat(this.#info).then(() => results.cutOff(chunkId, by())); // the beat reports the job
    lost?.then(() => this.#retry(cutOff)).catch(() => {}); // without this it counts as lost
    return this.#compute(chunk, delivery, begun);
  }

  /** Waits while another worker computes the band, unless this one is stopping. */
  async #begin(chunkId: string, by: () => Claimant): Promise<Begun> {
    for (;;) {
      const begun = await this.#retry(() => this.#options.results.begin(chunkId, by()));
      if (begun !== "elsewhere" || this.#stopping) return begun;
      await sleep(ELSEWHERE_MS);
    }
  }

  /** Runs the task on a band that this worker has claimed, and stores the result. */
  async #compute(chunk: Chunk, { attempt, deliveries }: Delivery, { claim, hasJob }: Claimed): Promise<Outcome> {
    const { chunkId, task, width, height, halo } = chunk;
    const start = performance.now();
    let result: BandResult;
    try {
      this.#taskStart = start;
      result = await this.#thread.run(chunk, this.#options.bandTimeout);
    } catch (error) {
      // The thread was ended to requeue the band. The task has not failed.
      if (this.#contact.signal.aborted) throw error;
      // Without a job there is no record of failures. Each earlier delivery counts as one.
      return this.#failed({ chunkId, attempt }, task, error as Placed, hasJob ? undefined : deliveries + 1);
    } finally {
      this.#taskStart = null;
    }
    const ms = tenths(performance.now() - start);
    const computed = claim.claimed === undefined ? undefined : tenths(claim.claimed + ms);
    const done = { ...claim, computed, ms, crc: result.crc, bytes: result.made.length };
    const stored = await this.#retry(() => this.#options.results.store(chunkId, result.made, done, attempt));
    if (!stored) return this.#settled(chunkId, task, "dropped");
    const storeMs = Math.max(0, performance.now() - start - ms);
    const pixels = width * (height - halo[0] - halo[1]);
    this.#info.bands++;
    this.#info.pixels += pixels;
    this.#info.ms += ms;
    this.#metrics.done(task, done, pixels, storeMs);
    return this.#settled(chunkId, task, "done", { ms, pixels, bytes: done.bytes, storeMs: Math.round(storeMs) });
  }

  async #failed({ chunkId, attempt }: MessageId, task: string, error: Placed, counted?: number): Promise<Outcome> {
    const why = sentenceOf(error);
    const count = () => this.#options.results.countFailure(chunkId, attempt, this.#info.name, why);
    const failures = counted ?? (await this.#retry(count));
    // Another copy was faster, or the report belongs to an earlier attempt of the job.
    if (failures === 0) return this.#settled(chunkId, task, "dropped");
    const { jobId: job } = parseChunkId(chunkId);
    const { message, at } = error;
    this.#log.warn("band failed", { job, chunk: chunkId, task, attempt: failures, of: ATTEMPTS, error: message, at });
    if (failures >= ATTEMPTS)
      return this.#deadLetter({ chunkId, attempt }, `failed ${failures} times: ${why}`, "task_failed", task);
    this.#metrics.bands.inc({ task, outcome: "retried" });
    return { do: "retry" };
  }

  async #deadLetter(
    { chunkId, attempt }: MessageId,
    why: string,
    reason: DeadLetterReason,
    task = "",
  ): Promise<Outcome> {
    const { results } = this.#options;
    // A message without a readable id belongs to no job.
    const { jobId, band } = isChunkId(chunkId) ? parseChunkId(chunkId) : { jobId: undefined, band: 0 };
    this.#log.error("band dead-lettered", { job: jobId, chunk: chunkId, error: why });
    this.#metrics.deadLettered.inc({ reason });
    this.#metrics.bands.inc({ task, outcome: "dead_lettered" });
    if (jobId !== undefined) {
      const of = { band, attempt, worker: this.#info.name };
      await this.#retry(() => results.failJob(jobId, `band ${band}: ${why}`, FAILURES[reason], of));
    }
    return { do: "dead-letter", reason: why };
  }

  #settled(chunkId: string, task: string, outcome: "done" | "dropped", fields: Fields = {}): Outcome {
    this.#metrics.bands.inc({ task, outcome });
    this.#log.debug(`band ${outcome}`, { job: parseChunkId(chunkId).jobId, chunk: chunkId, task, ...fields });
    return { do: "done" };
  }

  /** Failed heartbeats are counted, not timed: after a machine has slept, one may have failed, but not three. */
  async #beat(): Promise<void> {
    try {
      await within(this.#options.results.beat(this.#info), BEAT_ANSWER_MS, `Redis: no answer in ${BEAT_ANSWER_MS} ms`);
      this.#missedBeats = 0;
    } catch (error) {
      this.#log.warn("heartbeat failed", { error });
      this.#missedBeats++;
    }
    const unreachable = this.#missedBeats >= MAX_MISSED_BEATS;
    if (this.#stopping || unreachable === this.#contact.signal.aborted) return;
    if (!unreachable) {
      this.#contact = new AbortController();
      this.#log.info("result store answers again, taking bands");
      return this.#consume();
    }
    this.#log.error("result store unreachable, taking no bands until it answers", { missed: this.#missedBeats });
    this.#contact.abort(new Error("result store unreachable"));
    await this.#stopConsuming?.();
  }

  /** Retries until the store answers. Throws while the worker shuts down, and once the store is unreachable. */
  async #retry<T>(step: () => Promise<T>): Promise<T> {
    const { signal } = this.#contact;
    for (let pause = 100; ; pause = Math.min(2 * pause, 2_000)) {
      try {
        return await unlessAborted(step(), signal); // a late answer is useless: the band has been requeued
      } catch (error) {
        if (this.#stopping || signal.aborted) throw error;
        this.#log.warn("result store unavailable, retrying", { error });
        this.#metrics.storeRetries.inc();
        await sleep(pause);
      }
    }
  }
}

const tenths = (ms: number) => Math.round(ms * 10) / 10;

const ABOUT = `Joins the fleet: takes bands off the queue in RabbitMQ, runs their task, stores the results in Redis. Start
as many as you like, on any machine that reaches both. For everything in one process, run coordinator.ts instead.

exit codes
  0  ended by SIGTERM or SIGINT, the band in progress finished
  1  a setting is invalid, or the band in progress was not finished in time
  2  an option is unknown`;

async function main(): Promise<void> {
  answerHelp("worker.ts", ABOUT);
  const { RABBITMQ_URL, REDIS_URL, WORKER_NAME, HOST, TASKS: modules } = process.env;
  const ca = caSetting();
  const ttl = setting("RESULT_TTL_SECONDS");
  const bandTimeout = setting("BAND_TIMEOUT_SECONDS") * 1000;
  const metricsPort = setting("METRICS_PORT");
  const { control } = classroomSetting();
  const name = WORKER_NAME || `${hostname()}-${process.pid}`;
  const tasks = await loadTasks(modules);
  const only = onlyThese(tasks, process.env.WORKER_TASKS);
  const log = openProgramLog();
  if (!RABBITMQ_URL || !REDIS_URL)
    throw new Error("RABBITMQ_URL and REDIS_URL: expected both; coordinator.ts runs without them, with own workers");
  const results = new RedisResults(REDIS_URL, ttl, true, log.with({ worker: name }), ca);
  const queue = await RabbitQueue.connect(RABBITMQ_URL, log.with({ worker: name }), undefined, ca);
  await results.check();
  let stopping = false;
  const registry = openRegistry(metricsPort >= 0);
  const metrics = new WorkerMetrics(registry);
  const worker = new Worker({ queue, results, name, tasks, only, modules, bandTimeout, log, metrics, control });
  if (metricsPort >= 0) {
    const gauges = new BackendGauges(registry, { queue, results });
    const [stuck, observe] = [() => worker.stuck(), () => gauges.observe()];
    const probed = { backends: { queue, results }, registry, observe, stuck, stopping: () => stopping };
    const port = await serveProbes(probed, HOST || "127.0.0.1", metricsPort);
    log.info("probes and metrics are served", { worker: name, port });
  }
  const stop = async () => {
    if (stopping) process.exit(1);
    stopping = true;
    console.log(`${name}: finishing the band in progress`);
    // While Redis is unavailable, the worker may never stop. RabbitMQ then redelivers the band to another worker.
    setTimeout(() => process.exit(1), STOP_MS);
    await worker.stop();
    await queue.close();
    await results.close();
    process.exit(0);
  };
  await worker.start();
  if (control) await runCommands(results, name, worker, { stop, kill: () => process.kill(process.pid, 9) }, log);
  console.log(`${name}: at work`);
  for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, stop);
}

if (import.meta.main) {
  main().catch((error) => {
    console.error(`worker.ts: ${error.message}`);
    process.exit(1);
  });
}
