/**
 * A job as the API shows it: as JSON, and as server-sent events.
 *
 * Not here: where its state comes from (watch.ts).
 */

import type { Done, Job, WorkerInfo } from "../backends.ts";
import { FOREIGN_WORKER } from "../results.ts";
import { gone, type JobWatch, stateOf } from "../watch.ts";

/** A comment is sent this often, ms. Each side can take a longer silence for a lost connection. */
const HEARTBEAT_MS = 5_000;

/**
 * A job as JSON. `waiting` is true if the job is unfinished and no live worker knows its task. A third-party worker sends
 * no heartbeat; if one has finished a band of the job, it is assumed to be alive.
 */
export function view(job: Job, done: Map<number, Done>, workers: WorkerInfo[]) {
  const { id, task, kind, preJobId: first, width, height, rows, bands, created, error } = job;
  const params = { ...job.params, ...job.derivedParams };
  const state = stateOf(job, done.size);
  // Without a prototype: a worker may be called `__proto__`.
  const byWorker: Record<string, { bands: number; ms: number }> = Object.create(null);
  for (const { worker, ms } of done.values()) {
    byWorker[worker] ??= { bands: 0, ms: 0 };
    byWorker[worker].bands++;
    byWorker[worker].ms += ms;
  }
  const open = state === "uploading" || state === "running";
  const waiting = open && !(FOREIGN_WORKER in byWorker) && !workers.some(({ tasks }) => tasks.includes(task));
  const lossy = [...done.values()].some((record) => record.lossy);
  const asked = { task, kind, params, first, width, height, workers: job.workers, created };
  return { id, state, ...asked, rows, bands, done: done.size, error, waiting, lossy, byWorker };
}

type SendEvent = (name: string, data: unknown) => void;

/**
 * The server-sent events of one job or several. For each job: a `job`, a `band` for each finished band, and at last `done`
 * or `failed`. A job that does not exist gets `unknown`, and its events once it exists, so that a client may subscribe
 * before it uploads. The data of every event has the job's id. The stream ends after the last event of the last job.
 *
 * docs/openapi.json documents the events for clients.
 * @param watches at least one; closed when the stream ends
 * @param workers the live workers; read again with each heartbeat
 * @param stopping ends the stream when it is aborted
 */
export function eventStream(
  watches: JobWatch[],
  workers: WorkerInfo[],
  stopping: AbortSignal,
): ReadableStream<Uint8Array> {
  let stream: EventStream;
  return new ReadableStream({
    start(controller) {
      stream = new EventStream(controller, watches, workers, stopping);
      stream.open();
    },
    cancel: () => stream.close(),
  });
}

/** One client's stream. Invariant: after `close`, nothing is sent, and no timer and no listener is left. */
class EventStream {
  readonly #encoder = new TextEncoder();
  /** The jobs whose last event has not been sent. */
  readonly #pending: Set<EventCursor>;
  readonly #unlisten: (() => void)[] = [];
  #heartbeat: ReturnType<typeof setInterval> | undefined;
  #closed = false;

  constructor(
    readonly controller: ReadableStreamDefaultController<Uint8Array>,
    readonly watches: JobWatch[],
    workers: WorkerInfo[],
    readonly stopping: AbortSignal,
  ) {
    const send: SendEvent = (name, data) => this.#write(`event: ${name}\ndata: ${JSON.stringify(data)}\n\n`);
    this.#pending = new Set(watches.map((watch) => new EventCursor(watch, send, workers)));
  }

  open(): void {
    this.#heartbeat = setInterval(() => this.#beat(), HEARTBEAT_MS);
    this.stopping.addEventListener("abort", this.#end);
    for (const cursor of [...this.#pending]) {
      this.#unlisten.push(cursor.watch.onChange(() => this.#advance(cursor)));
      this.#advance(cursor);
    }
    if (this.stopping.aborted && !this.#closed) this.#end();
  }

  #advance(cursor: EventCursor): void {
    if (!this.#pending.has(cursor) || !cursor.advance()) return;
    this.#pending.delete(cursor);
    if (this.#pending.size === 0) this.#end();
  }

  /** Also sends `job` where only `waiting` has changed: workers come and go without an event of the job. */
  async #beat(): Promise<void> {
    this.#write(": still here\n\n");
    const workers = await this.watches[0].backends.results.workers().catch(() => null);
    for (const cursor of [...this.#pending]) {
      if (workers) cursor.workers = workers;
      this.#advance(cursor);
    }
  }

  #write(text: string): void {
    this.controller.enqueue(this.#encoder.encode(text));
  }

  readonly #end = (): void => {
    this.close();
    this.controller.close();
  };

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#pending.clear();
    this.stopping.removeEventListener("abort", this.#end);
    clearInterval(this.#heartbeat);
    for (const off of this.#unlisten) off();
    for (const watch of this.watches) watch.close();
  }
}

/** What one client has been sent of one job. */
class EventCursor {
  readonly #sentBands = new Set<number>();
  /** Of the last `job` or `unknown`: the next one is sent only if this differs. */
  #summary = "";
  /** Of the job that was sent; undefined before the first event. */
  #created: number | undefined;

  constructor(
    readonly watch: JobWatch,
    readonly send: SendEvent,
    public workers: WorkerInfo[],
  ) {}

  /** Sends what is new. @returns true after the last event of the job */
  advance(): boolean {
    const { job, done, id } = this.watch;
    if (!job) return this.#absent(id);
    if (job.created !== this.#created) this.#sentBands.clear(); // a new job under the same id
    this.#created = job.created;
    for (const [band, { worker, ms, deliveries = 0 }] of done) {
      if (this.#sentBands.has(band)) continue;
      this.#sentBands.add(band);
      const y = band * job.rows;
      this.send("band", { id, band, y, rows: Math.min(job.rows, job.height - y), worker, ms, deliveries });
    }
    const now = view(job, done, this.workers);
    const summary = `${now.state} ${now.waiting}`;
    if (summary !== this.#summary) this.send("job", now);
    this.#summary = summary;
    if (now.state !== "done" && now.state !== "failed") return false;
    this.send(now.state, now);
    return true;
  }

  #absent(id: string): boolean {
    if (this.#created !== undefined) {
      const { code, message } = gone();
      this.send("failed", { id, state: "failed", code, error: message });
      return true;
    }
    if (this.#summary === "") this.send("unknown", { id });
    this.#summary = "unknown";
    return false;
  }
}
