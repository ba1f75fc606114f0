/**
 * What is counted, for Prometheus: one registry a process. The coordinator serves its own, a worker its own; the
 * threads of the one-process mode count into the coordinator's.
 *
 * Two kinds: what this process did (counters, histograms), and how things stand at the moment of the scrape (`BackendGauges`:
 * the queue's depth, the fleet). The latter every coordinator tells alike: take the maximum over them, not the sum.
 *
 * Invariant: what there is to tell does not grow with time. Labels are tasks, states, reasons and routes, all of them
 * few; workers, which come and go, are told only while they live, from their heartbeats and not from what they have done.
 *
 * Not here: who may read it, and where (coordinator.ts, probes.ts).
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { Backends } from "../watch.ts";
import { backendHealth, within } from "./health.ts";

const BAND_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
const JOB_SECONDS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600];
/** Whoever may write to Redis may say that there are more workers; they are not told. */
const MAX_WORKERS = 1024;
/**
 * Of prom-client's own these mean something on V8 alone. Bun has them too, with zeros for V8's heap spaces, handles and
 * requests, gigabytes of address space that its engine only reserves as the heap, and Node's version. Of the rest, all that this
 * program's operator may ask for (CPU, memory, file descriptors, the event loop's lag) is right on both.
 */
const MISLEADING = [
  /^nodejs_heap_space_/,
  /^nodejs_active_/,
  /^nodejs_gc_/,
  /^process_heap_bytes$/,
  /^nodejs_version_info$/,
];

/** @param ofProcess whether CPU, memory and the event loop of this process belong to it */
export function openRegistry(ofProcess: boolean): Registry {
  const registry = new Registry();
  if (!ofProcess) return registry;
  collectDefaultMetrics({ register: registry });
  for (const { name } of registry.getMetricsAsArray()) {
    if (MISLEADING.some((pattern) => pattern.test(name))) registry.removeSingleMetric(name);
  }
  return registry;
}

class Maker {
  readonly #registers: Registry[];

  constructor(registry: Registry) {
    this.#registers = [registry];
  }

  counter<L extends string>(name: string, help: string, ...labelNames: L[]): Counter<L> {
    return new Counter({ name, help, labelNames, registers: this.#registers });
  }

  gauge<L extends string>(name: string, help: string, ...labelNames: L[]): Gauge<L> {
    return new Gauge({ name, help, labelNames, registers: this.#registers });
  }

  seconds<L extends string>(name: string, help: string, buckets: number[], ...labelNames: L[]): Histogram<L> {
    return new Histogram({ name, help, buckets, labelNames, registers: this.#registers });
  }
}

export type DeadLetterReason = "unreadable" | "unknown_task" | "task_failed" | "kills_workers";

/** What workers count. */
export class WorkerMetrics {
  readonly bands: Counter<"task" | "outcome">;
  readonly deadLettered: Counter<"reason">;
  readonly redelivered: Counter<"task">;
  readonly wait: Histogram<"task">;
  readonly compute: Histogram<"task">;
  readonly store: Histogram;
  readonly pixels: Counter<"task">;
  readonly resultBytes: Counter<"task">;
  readonly storeRetries: Counter;
  readonly busy: Gauge;

  constructor(registry: Registry) {
    const make = new Maker(registry);
    this.bands = make.counter(
      "sobel_bands_total",
      "Bands taken off the queue, by what became of them",
      "task",
      "outcome",
    );
    this.deadLettered = make.counter(
      "sobel_bands_dead_lettered_total",
      "Bands given up, whose jobs have failed, by reason",
      "reason",
    );
    this.redelivered = make.counter("sobel_bands_redelivered_total", "Bands that had been handed out before", "task");
    this.wait = make.seconds(
      "sobel_band_wait_seconds",
      "Time from a band's sending to the worker that took it first; where clocks differ, as far as they agree",
      BAND_SECONDS,
      "task",
    );
    this.compute = make.seconds(
      "sobel_band_task_seconds",
      "Time the task took for a band, with compression",
      BAND_SECONDS,
      "task",
    );
    this.store = make.seconds("sobel_band_store_seconds", "Time until a band's result was stored", BAND_SECONDS);
    this.pixels = make.counter("sobel_band_pixels_total", "Pixels of the bands done", "task");
    this.resultBytes = make.counter("sobel_band_result_bytes_total", "Bytes of the bands' results, as PNG", "task");
    this.storeRetries = make.counter(
      "sobel_store_retries_total",
      "Times that a worker had to ask the result store again",
    );
    this.busy = make.gauge("sobel_bands_in_progress", "Bands in the hands of this process");
  }
}

/** What a coordinator counts. */
export class CoordinatorMetrics {
  readonly refused: Counter<"reason">;
  readonly uploadBytes: Counter;
  readonly resultBytes: Counter;
  readonly accepted: Counter<"task">;
  readonly open: Gauge<"state">;
  readonly ended: Counter<"task" | "state">;
  readonly failed: Counter<"reason">;
  readonly seconds: Histogram<"task">;
  readonly responses: Counter<"method" | "route" | "status">;

  constructor(
    readonly registry: Registry,
    maxUploads: number,
  ) {
    const make = new Maker(registry);
    make.gauge("sobel_uploads_limit", "Uploads that are taken at a time").set(maxUploads);
    this.refused = make.counter(
      "sobel_uploads_refused_total",
      "Uploads that did not become a job: busy, queue and store are answered with 503, the others are the client's",
      "reason",
    );
    this.uploadBytes = make.counter(
      "sobel_upload_bytes_total",
      "Bytes read of uploads, with those of refused ones up to their refusal",
    );
    this.resultBytes = make.counter("sobel_result_bytes_total", "Bytes of results sent");
    this.accepted = make.counter("sobel_jobs_accepted_total", "Jobs whose every band was in the queue or done", "task");
    this.open = make.gauge("sobel_jobs_open", "Jobs of this coordinator that have not ended, by state", "state");
    this.ended = make.counter(
      "sobel_jobs_ended_total",
      "Jobs accepted by this coordinator that have ended; gone: cancelled elsewhere, or expired",
      "task",
      "state",
    );
    this.failed = make.counter(
      "sobel_jobs_failed_total",
      "Jobs that have failed of a band, by reason, also while their picture was still arriving",
      "reason",
    );
    this.seconds = make.seconds(
      "sobel_job_seconds",
      "Time from the first asking for a job to its last band",
      JOB_SECONDS,
      "task",
    );
    this.responses = make.counter(
      "sobel_http_responses_total",
      "Responses, by the pattern of their route, empty where there is none",
      "method",
      "route",
      "status",
    );
    for (const state of ["uploading", "running"]) this.open.set({ state }, 0);
    for (const reason of ["busy", "queue", "store"]) this.refused.inc({ reason }, 0);
  }

  /** Counts an answer, and gives it back. */
  answered(request: Request, route: string | undefined, response: Response): Response {
    // Of what is not there, neither the path nor the method, which are the client's to invent.
    const method = route ? request.method : "";
    this.responses.inc({ method, route: route ?? "", status: response.status });
    return response;
  }

  /** Counts what a client takes of a result. */
  async *sending(pieces: AsyncGenerator<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const piece of pieces) {
      this.resultBytes.inc(piece.length);
      yield piece;
    }
  }
}

/** How queue and store stand, as of the scrape. Asked together, and with a limit of time: a scrape never hangs. */
export class BackendGauges {
  readonly #backends: Backends;
  readonly #queueUp: Gauge;
  readonly #storeUp: Gauge;

  constructor(registry: Registry, backends: Backends) {
    const make = new Maker(registry);
    this.#backends = backends;
    this.#queueUp = make.gauge("sobel_queue_up", "1 while the queue can be used");
    this.#storeUp = make.gauge("sobel_store_up", "1 while the result store can be used");
  }

  async observe(): Promise<void> {
    const { queue, store } = await backendHealth(this.#backends);
    this.#queueUp.set(queue === null ? 1 : 0);
    this.#storeUp.set(store === null ? 1 : 0);
  }
}

/** The queue's depth and the fleet, as of the scrape; what cannot be asked is absent. */
export class FleetMetrics {
  readonly #backends: Backends;
  readonly #tasks: string[];
  readonly #waiting: Gauge<"task">;
  readonly #consumers: Gauge<"task">;
  readonly #deadLetters: Gauge;
  readonly #workers: Gauge<"task">;
  readonly #busy: Gauge;
  readonly #bands: Counter<"worker">;
  readonly #pixels: Counter<"worker">;
  readonly #seconds: Counter<"worker">;

  constructor(registry: Registry, backends: Backends, tasks: string[]) {
    this.#backends = backends;
    this.#tasks = tasks;
    const make = new Maker(registry);
    const gauge = (name: string, help: string) => make.gauge(name, help, "task");
    const byWorker = (name: string, help: string) => make.counter(name, help, "worker");
    this.#waiting = gauge("sobel_queue_bands_waiting", "Bands that wait for a worker");
    this.#consumers = gauge("sobel_queue_consumers", "Workers at the queue, those of others included");
    this.#deadLetters = make.gauge("sobel_queue_dead_letters", "Bands in tareas.muertas");
    this.#workers = gauge("sobel_workers", "Workers whose heart beats, by the tasks that they know");
    this.#busy = make.gauge("sobel_workers_busy", "Workers that had a band in hand at their last beat");
    this.#bands = byWorker("sobel_worker_bands_total", "Bands that a live worker has done since it joined");
    this.#pixels = byWorker("sobel_worker_pixels_total", "Pixels of those bands");
    this.#seconds = byWorker("sobel_worker_task_seconds_total", "Time that its task took for them");
  }

  async observe(): Promise<void> {
    const { queue, results } = this.#backends;
    const depths = await Promise.all(this.#tasks.map((task) => queue.depth(task).catch(() => null)));
    const deadLetters = await queue.deadLetters().catch(() => null);
    const fleet = await within(results.workers()).catch(() => []);
    // From here on without a pause, so that two scrapes at once do not see half of it.
    for (const metric of [this.#waiting, this.#consumers, this.#workers, this.#bands, this.#pixels, this.#seconds]) {
      metric.reset();
    }
    this.#deadLetters.remove();
    if (deadLetters !== null) this.#deadLetters.set(deadLetters);
    for (const [i, depth] of depths.entries()) {
      const task = this.#tasks[i];
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
