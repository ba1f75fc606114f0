/**
 * The metrics of a process, for Prometheus. Each process has one registry and serves it. In the embedded mode, the
 * worker threads count into the coordinator's registry.
 *
 * There are two kinds. Counters and histograms count what this process did. `BackendGauges` and `FleetMetrics` show
 * queue, store and fleet at the moment of the scrape. Every coordinator reports the same values for these, so take
 * their maximum, not their sum.
 *
 * Invariant: the number of series does not grow with time. Labels are tasks, states, reasons and routes, and there are
 * few of each. A worker is a label only while it lives: its figures come from its heartbeat.
 *
 * Not here: the routes that serve the registry (coordinator.ts, health.ts).
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { Backends, Delivery, Done } from "../backends.ts";
import { within } from "./deadline.ts";
import { ANSWER_MS, backendHealth } from "./health.ts";

const BAND_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
const JOB_SECONDS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600];
/** At most this many workers are labels, because any client of Redis can register workers. */
const MAX_WORKERS = 1024;
/**
 * Default metrics of prom-client that are correct on V8 only. Bun reports zeros for V8's heap spaces, handles and
 * requests, the reserved address space of its engine as the heap, and a version of Node. CPU, memory, file descriptors
 * and event loop lag are correct on both.
 */
const MISLEADING = [
  /^nodejs_heap_space_/,
  /^nodejs_active_/,
  /^nodejs_gc_/,
  /^process_heap_bytes$/,
  /^nodejs_version_info$/,
];

/** @param ofProcess whether the registry includes CPU, memory and event loop lag of this process */
export function openRegistry(ofProcess: boolean): Registry {
  const registry = new Registry();
  if (!ofProcess) return registry;
  collectDefaultMetrics({ register: registry });
  for (const { name } of registry.getMetricsAsArray()) {
    if (MISLEADING.some((pattern) => pattern.test(name))) registry.removeSingleMetric(name);
  }
  return registry;
}

/** Makes metrics for one registry. */
class Metrics {
  constructor(readonly registry: Registry) {}

  protected counter<L extends string>(name: string, help: string, ...labelNames: L[]): Counter<L> {
    return new Counter({ name, help, labelNames, registers: [this.registry] });
  }

  protected gauge<L extends string>(name: string, help: string, ...labelNames: L[]): Gauge<L> {
    return new Gauge({ name, help, labelNames, registers: [this.registry] });
  }

  protected histogram<L extends string>(name: string, help: string, buckets: number[], ...labelNames: L[]) {
    return new Histogram({ name, help, buckets, labelNames, registers: [this.registry] });
  }
}

export type DeadLetterReason = "unreadable" | "unknown_task" | "task_failed" | "kills_workers";

/** What a worker counts. */
export class WorkerMetrics extends Metrics {
  readonly bands = this.counter("sobel_bands_total", "Bands taken from the queue, by outcome", "task", "outcome");
  readonly deadLettered = this.counter("sobel_bands_dead_lettered_total", "Dead-lettered bands by reason", "reason");
  readonly redelivered = this.counter("sobel_bands_redelivered_total", "Redelivered bands", "task");
  readonly wait = this.histogram(
    "sobel_band_wait_seconds",
    "Seconds from the publish of a band to its first delivery, by the clocks of coordinator and worker",
    BAND_SECONDS,
    "task",
  );
  readonly compute = this.histogram(
    "sobel_band_task_seconds",
    "Seconds of a task for one band, compression included",
    BAND_SECONDS,
    "task",
  );
  readonly store = this.histogram("sobel_band_store_seconds", "Seconds to store the result of a band", BAND_SECONDS);
  readonly pixels = this.counter("sobel_band_pixels_total", "Pixels of finished bands", "task");
  readonly resultBytes = this.counter(
    "sobel_band_result_bytes_total",
    "Bytes of the results of finished bands",
    "task",
  );
  readonly storeRetries = this.counter("sobel_store_retries_total", "Retried requests to the result store");
  readonly busy = this.gauge("sobel_bands_in_progress", "Bands in progress");

  /** A message was delivered. */
  delivered(task: string, { deliveries, sent }: Pick<Delivery, "deliveries" | "sent">): void {
    if (deliveries > 0) this.redelivered.inc({ task });
    // A third-party sender may omit the time.
    else if (!Number.isNaN(sent)) this.wait.observe({ task }, Math.max(0, Date.now() - sent) / 1000);
  }

  /** A band was stored. @param storeMs how long that took */
  done(task: string, { ms, bytes }: Pick<Done, "ms" | "bytes">, pixels: number, storeMs: number): void {
    this.compute.observe({ task }, ms / 1000);
    this.store.observe(storeMs / 1000);
    this.pixels.inc({ task }, pixels);
    this.resultBytes.inc({ task }, bytes);
  }
}

/** What a coordinator counts. */
export class CoordinatorMetrics extends Metrics {
  readonly refused = this.counter(
    "sobel_uploads_refused_total",
    "Refused uploads by reason; busy, queue and store are answered with 503",
    "reason",
  );
  readonly uploadBytes = this.counter("sobel_upload_bytes_total", "Bytes read from uploads, refused ones included");
  readonly resultBytes = this.counter("sobel_result_bytes_total", "Bytes of results sent to clients");
  readonly accepted = this.counter("sobel_jobs_accepted_total", "Jobs with all bands in the queue or done", "task");
  readonly open = this.gauge("sobel_jobs_open", "Open jobs of this coordinator by state", "state");
  readonly ended = this.counter(
    "sobel_jobs_ended_total",
    "Ended jobs of this coordinator by state; gone: cancelled through another coordinator, or expired",
    "task",
    "state",
  );
  readonly failed = this.counter("sobel_jobs_failed_total", "Failed jobs by reason, failed uploads included", "reason");
  readonly seconds = this.histogram(
    "sobel_job_seconds",
    "Seconds from the first request for a job to its last band",
    JOB_SECONDS,
    "task",
  );
  readonly responses = this.counter(
    "sobel_http_responses_total",
    "HTTP responses; method and route are empty for an unknown path",
    "method",
    "route",
    "status",
  );

  constructor(registry: Registry, maxUploads: number) {
    super(registry);
    this.gauge("sobel_uploads_limit", "Maximum concurrent uploads").set(maxUploads);
    for (const state of ["uploading", "running"]) this.open.set({ state }, 0);
    for (const reason of ["busy", "queue", "store"]) this.refused.inc({ reason }, 0);
  }

  /** Counts a response and returns it. */
  answered(request: Request, route: string | undefined, response: Response): Response {
    // For an unknown path, both labels stay empty. Otherwise a client could create any number of series.
    const method = route ? request.method : "";
    this.responses.inc({ method, route: route ?? "", status: response.status });
    return response;
  }

  /** Counts the bytes of a result that a client reads. */
  async *sending(pieces: AsyncGenerator<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const piece of pieces) {
      this.resultBytes.inc(piece.length);
      yield piece;
    }
  }
}

/** Availability of queue and store at the scrape. The checks have a time limit, so a scrape never hangs. */
export class BackendGauges extends Metrics {
  readonly #queueUp = this.gauge("sobel_queue_up", "1 if the queue is available, else 0");
  readonly #storeUp = this.gauge("sobel_store_up", "1 if the result store is available, else 0");

  constructor(
    registry: Registry,
    readonly backends: Backends,
  ) {
    super(registry);
  }

  async observe(): Promise<void> {
    const { queue, store } = await backendHealth(this.backends);
    this.#queueUp.set(queue === null ? 1 : 0);
    this.#storeUp.set(store === null ? 1 : 0);
  }
}

/** Queue depth and live workers at the scrape. If the queue does not answer, its gauges are absent, not 0. */
export class FleetMetrics extends Metrics {
  readonly #waiting = this.gauge("sobel_queue_bands_waiting", "Bands waiting for a worker", "task");
  readonly #consumers = this.gauge("sobel_queue_consumers", "Consumers of the queue, third-party ones too", "task");
  readonly #deadLetters = this.gauge("sobel_queue_dead_letters", "Messages in the dead-letter queue tareas.muertas");
  readonly #workers = this.gauge("sobel_workers", "Live workers by task", "task");
  readonly #busy = this.gauge("sobel_workers_busy", "Live workers with a band in progress at their last heartbeat");
  readonly #bands = this.counter("sobel_worker_bands_total", "Bands done by a live worker since it joined", "worker");
  readonly #pixels = this.counter("sobel_worker_pixels_total", "Pixels of the bands done by a live worker", "worker");
  readonly #seconds = this.counter(
    "sobel_worker_task_seconds_total",
    "Seconds of task time of a live worker",
    "worker",
  );

  constructor(
    registry: Registry,
    readonly backends: Backends,
    readonly tasks: string[],
  ) {
    super(registry);
  }

  async observe(): Promise<void> {
    const { queue, results } = this.backends;
    const depths = await Promise.all(this.tasks.map((task) => queue.depth(task).catch(() => null)));
    const deadLetters = await queue.deadLetters().catch(() => null);
    const fleet = await within(results.workers(), ANSWER_MS, "no answer from the result store").catch(() => []);
    // No await from here on: a concurrent scrape must not see half of the values.
    for (const metric of [this.#waiting, this.#consumers, this.#workers, this.#bands, this.#pixels, this.#seconds]) {
      metric.reset();
    }
    this.#deadLetters.remove();
    if (deadLetters !== null) this.#deadLetters.set(deadLetters);
    for (const [i, depth] of depths.entries()) {
      const task = this.tasks[i];
      this.#workers.set({ task }, fleet.filter(({ tasks }) => tasks.includes(task)).length);
      if (!depth) continue;
      this.#waiting.set({ task }, depth.waiting);
      this.#consumers.set({ task }, depth.consumers);
    }
    this.#busy.set(fleet.filter(({ busy }) => busy !== "").length);
    for (const { name, bands, pixels, ms } of fleet.slice(0, MAX_WORKERS)) {
      this.#bands.inc({ worker: name }, bands);
      this.#pixels.inc({ worker: name }, pixels);
      this.#seconds.inc({ worker: name }, ms / 1000);
    }
  }
}
