/**
 * A job as the API shows it: as JSON, and as server-sent events.
 *
 * Not here: where its state comes from (watch.ts).
 */

import type { Done, Job, WorkerInfo } from "../backends.ts";
import { firstStepOf, wireName } from "../task.ts";
import type { Tasks } from "../tasks/index.ts";
import { gone, type Happening, type JobWatch, stateOf } from "../watch.ts";
import type { State } from "./lights.ts";
import type { ServiceReads } from "./service.ts";

/** A comment is sent this often, ms. So a client can treat a longer silence as a lost connection. */
const HEARTBEAT_MS = 5_000;
/** About this many bytes may wait for a client. Later events are sent when it has read them. */
const WAITING_BYTES = 1 << 16;
/** At most this many events are sent at once. More would exceed `WAITING_BYTES` by far. */
const EVENTS_AT_ONCE = 256;
/** A client that has read nothing for this many heartbeats is disconnected. It may connect again. */
const MAX_UNREAD = 12;

/**
 * A job as JSON. `waiting` is true if the job is unfinished and no live worker has the task of its current step. A
 * third-party worker sends no heartbeat. If one has finished a band of the job, it is assumed to be alive.
 * @param isKnown whether a live worker has that task
 */
export function view(job: Job, done: Map<number, Done>, isKnown: boolean) {
  const { id, task, kind, preJobId: first, width, height, rows, bands, created, error } = job;
  const params = { ...job.params, ...job.derivedParams };
  const state = stateOf(job, done.size);
  // No prototype, because a worker may be called `__proto__`.
  const byWorker: Record<string, { bands: number; ms: number }> = Object.create(null);
  for (const { worker, ms } of done.values()) {
    byWorker[worker] ??= { bands: 0, ms: 0 };
    byWorker[worker].bands++;
    byWorker[worker].ms += ms;
  }
  const open = state === "uploading" || state === "running";
  const isForeign = [...done.values()].some(({ foreign }) => foreign);
  const waiting = open && !isForeign && !isKnown;
  const lossy = [...done.values()].some((record) => record.lossy);
  const asked = { task, kind, params, first, width, height, workers: job.workers, created };
  const cut = { rows, bands, bandsBy: job.bandsBy };
  return { id, state, ...asked, ...cut, done: done.size, error, waiting, lossy, byWorker, times: timesOf(job, done) };
}

/** The times of the job. The times of its bands are in the events. */
function timesOf(
  { began, enqueued: isEnqueued, enqueuedAt, cutMs, mergedAt, mergeMs, bands }: Job,
  done: Map<number, Done>,
) {
  let last: number | null = null;
  if (done.size === bands) for (const { stored = 0 } of done.values()) last = Math.max(last ?? 0, stored);
  const [cut, enqueued] = isEnqueued ? [cutMs, enqueuedAt] : [null, null];
  const merged = mergedAt === null || mergeMs === null ? null : { at: mergedAt, ms: mergeMs };
  return { began, cut, enqueued, done: last, merged };
}

/**
 * Whether a live worker has the task of a job's current step.
 * @param tasks the tasks of this program, to find the task of the first step
 */
export function isKnown(job: Job, workers: WorkerInfo[], tasks: Tasks): boolean {
  const task = isInFirstStep(job) && tasks.get(job.task);
  const first = task && firstStepOf(task, job.params);
  const name = first ? wireName(first.task) : job.task;
  return workers.some((worker) => worker.tasks.includes(name));
}

function isInFirstStep({ preJobId, derivedParams }: Job): boolean {
  return preJobId !== null && derivedParams === null;
}

/**
 * The server-sent events of one or more jobs. `backends` is sent if RabbitMQ or Redis is down, and when that changes.
 *
 * Each job gets a `job`, a `claim` for each band that a worker takes, a `band` for each finished one, an `incident` for
 * each thing that goes wrong, and last `done` or `failed`. A job that does not exist gets `unknown`, and its events
 * once it exists. So a client may subscribe before it uploads. The data of every event of a job has the job's id. The
 * stream ends after the last event of the last job. A client that reads slowly gets the same events later. A client
 * that reads nothing is disconnected.
 *
 * docs/openapi.json documents the events for clients.
 * @param watches at least one
 * @param workers the live workers. They are read again with each heartbeat
 * @param onClose called once, when the stream has ended for any reason
 */
export function eventStream(
  watches: JobWatch[],
  workers: WorkerInfo[],
  context: StreamContext,
  onClose: () => void,
): ReadableStream<Uint8Array> {
  const source = new EventStream(watches, workers, context, onClose);
  return new ReadableStream(source, { highWaterMark: WAITING_BYTES, size: (event) => event!.length });
}

/** `stopping` ends the stream when it is aborted. */
type StreamContext = Pick<ServiceReads, "tasks" | "lights" | "stopping">;

/**
 * The source of one client's stream. Invariants: after `cancel`, nothing is sent, and no timer and no listener is left.
 * While `WAITING_BYTES` wait for the client, no event is sent.
 */
class EventStream implements UnderlyingDefaultSource<Uint8Array> {
  #controller!: ReadableStreamDefaultController<Uint8Array>;
  /** The cursors of the jobs whose last event has not been sent. */
  readonly #pending: Set<EventCursor>;
  readonly #unlisten: (() => void)[] = [];
  #heartbeat: ReturnType<typeof setInterval> | undefined;
  #closed = false;
  #scheduled = false;
  /** The newest state of RabbitMQ and Redis, until it has been sent. */
  #lights: State | undefined;
  /** Heartbeats since the client last read, while something waits for it. */
  #unread = 0;
  #isBehind = false;

  constructor(
    readonly watches: JobWatch[],
    workers: WorkerInfo[],
    readonly context: StreamContext,
    readonly onClose: () => void,
  ) {
    const { tasks } = context;
    this.#pending = new Set(watches.map((watch) => new EventCursor(watch, this, workers, tasks)));
  }

  start(controller: ReadableStreamDefaultController<Uint8Array>): void {
    this.#controller = controller;
    this.#heartbeat = setInterval(() => this.#beat(), HEARTBEAT_MS);
    this.context.stopping.addEventListener("abort", this.#end);
    const onLights = (state: State) => {
      this.#lights = state;
      this.#advanceSoon();
    };
    this.#unlisten.push(this.context.lights.watch(onLights));
    for (const { watch } of this.#pending) this.#unlisten.push(watch.onChange(() => this.#advanceSoon()));
    this.#advance();
    if (this.context.stopping.aborted && !this.#closed) this.#end();
  }

  /** Sends changes that come together in one write. Otherwise each change would cost one write for every client. */
  #advanceSoon(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#advance();
    });
  }

  #advance(): void {
    if (this.#closed) return;
    if (this.#lights && this.hasRoom()) {
      this.send(eventOf("backends", this.#lights));
      this.#lights = undefined;
    }
    for (const cursor of this.#pending) if (cursor.advance()) this.#pending.delete(cursor);
    if (this.#pending.size === 0) this.#end();
  }

  /** Whether the client has read enough to get more. If not, `pull` continues when it has. */
  hasRoom(): boolean {
    this.#isBehind ||= (this.#controller.desiredSize ?? 0) <= 0;
    return !this.#isBehind;
  }

  send(event: Uint8Array): void {
    this.#controller.enqueue(event);
  }

  /** The client has read something. */
  pull(): void {
    if (!this.#isBehind) return;
    this.#isBehind = false;
    this.#unread = 0;
    this.#advance();
  }

  /** Sends a comment. Reads the workers again, because they come and go without an event of the job. */
  async #beat(): Promise<void> {
    if (this.hasRoom()) this.send(STILL_HERE);
    else if (++this.#unread >= MAX_UNREAD) {
      this.cancel();
      return this.#controller.error(new Error("the client does not read its events"));
    }
    const workers = await this.watches[0].backends.results.workers(HEARTBEAT_MS).catch(() => null);
    for (const cursor of this.#pending) cursor.workers = workers ?? cursor.workers;
    this.#advance();
  }

  readonly #end = (): void => {
    this.cancel();
    this.#controller.close();
  };

  cancel(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#pending.clear();
    this.context.stopping.removeEventListener("abort", this.#end);
    clearInterval(this.#heartbeat);
    for (const off of this.#unlisten) off();
    this.onClose();
  }
}

const encoder = new TextEncoder();
const STILL_HERE = encoder.encode(": still here\n\n");

function eventOf(name: string, data: unknown): Uint8Array {
  return encoder.encode(`event: ${name}\ndata: ${JSON.stringify(data)}\n\n`);
}

/** The events of a job. They are serialised once for all clients. */
class SharedEvents {
  static readonly #ofWatch = new WeakMap<JobWatch, SharedEvents>();
  #generation = -1;
  #events: (Uint8Array | undefined)[] = [];
  /** The events that were asked for last, joined once for all clients: most of them ask for the same ones. */
  #latest = { from: -1, to: -1, bytes: new Uint8Array() };
  /** The job as JSON: one entry if a live worker has its task, one if none has. */
  readonly #views = new Map<boolean, { version: number; now: ReturnType<typeof view>; job?: Uint8Array }>();

  private constructor(readonly watch: JobWatch) {}

  static of(watch: JobWatch): SharedEvents {
    const events = SharedEvents.#ofWatch.get(watch) ?? new SharedEvents(watch);
    SharedEvents.#ofWatch.set(watch, events);
    return events;
  }

  /** The events from number `from` up to, but not including, `to`. */
  since(job: Job, from: number): { to: number; bytes: Uint8Array } {
    const { happened, generation } = this.watch;
    const to = Math.min(from + EVENTS_AT_ONCE, happened.length);
    if (this.#generation !== generation) this.#events = [];
    if (this.#generation !== generation || this.#latest.from !== from || this.#latest.to !== to) {
      const isNew = (what: Happening, i: number) => (this.#isPast(what) ? [] : this.#event(job, from + i));
      this.#latest = { from, to, bytes: Buffer.concat(happened.slice(from, to).flatMap(isNew)) };
    }
    this.#generation = generation;
    return this.#latest;
  }

  /** Whether this is an outdated claim: the band is done or has another worker. Such a claim is not sent. */
  #isPast(what: Happening): boolean {
    return "claim" in what && this.watch.claims.get(what.band) !== what.claim;
  }

  #event(job: Job, place: number): Uint8Array {
    this.#events[place] ??= this.#encoded(job, this.watch.happened[place]);
    return this.#events[place];
  }

  #encoded({ rows: height, ...job }: Job, what: Happening): Uint8Array {
    const { id } = this.watch;
    if ("incident" in what) return eventOf("incident", { id, ...what.incident });
    const { band } = what;
    if ("claim" in what) return eventOf("claim", { id, band, ...what.claim });
    const { crc, bytes, lossy, ...done } = this.watch.done.get(band)!;
    const y = band * height;
    // A list may be longer than the estimate in its job.
    const rows = Math.max(1, Math.min(height, job.height - y));
    return eventOf("band", { id, band, y, rows, ...done });
  }

  view(job: Job, isKnown: boolean): { now: ReturnType<typeof view>; job?: Uint8Array } {
    const { version, done } = this.watch;
    let entry = this.#views.get(isKnown);
    if (entry?.version !== version) {
      entry = { version, now: view(job, done, isKnown) };
      this.#views.set(isKnown, entry);
    }
    return entry;
  }
}

/** How far one client has received the events of one job. */
class EventCursor {
  readonly #events: SharedEvents;
  /** How many entries of the watch's `happened` have been sent, in its current generation. */
  #sent = 0;
  #generation = -1;
  /** State and `waiting` in the last `job`, or "unknown". The next `job` is sent only if they differ. */
  #summary = "";
  #workers: WorkerInfo[] | undefined;
  #isFirstStep = false;
  #isKnown = false;
  /** Whether the job has existed since the stream began. */
  #existed = false;

  constructor(
    readonly watch: JobWatch,
    readonly client: Pick<EventStream, "hasRoom" | "send">,
    public workers: WorkerInfo[],
    readonly tasks: Tasks,
  ) {
    this.#events = SharedEvents.of(watch);
  }

  /** Sends the new events, while the client has room for them. @returns true after the last event of the job */
  advance(): boolean {
    if (!this.client.hasRoom()) return false;
    const { job, happened, generation } = this.watch;
    if (!job) return this.#absent();
    this.#existed = true;
    if (generation !== this.#generation) this.#sent = 0;
    this.#generation = generation;
    if (this.#sent < happened.length) {
      const { to, bytes } = this.#events.since(job, this.#sent);
      this.#sent = to;
      this.client.send(bytes);
      return this.advance();
    }
    const isFirstStep = isInFirstStep(job);
    if (this.#workers !== this.workers || this.#isFirstStep !== isFirstStep) {
      this.#isKnown = isKnown(job, this.workers, this.tasks);
    }
    this.#workers = this.workers;
    this.#isFirstStep = isFirstStep;
    const shared = this.#events.view(job, this.#isKnown);
    const { state, waiting } = shared.now;
    const summary = `${state} ${waiting}`;
    if (summary !== this.#summary) {
      shared.job ??= eventOf("job", shared.now);
      this.client.send(shared.job);
    }
    this.#summary = summary;
    if (state !== "done" && state !== "failed") return false;
    this.client.send(eventOf(state, shared.now));
    return true;
  }

  #absent(): boolean {
    const { id } = this.watch;
    if (this.#existed) {
      const { code, message } = gone();
      this.client.send(eventOf("failed", { id, state: "failed", code, error: message }));
      return true;
    }
    if (this.#summary === "") this.client.send(eventOf("unknown", { id }));
    this.#summary = "unknown";
    return false;
  }
}
