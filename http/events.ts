/**
 * A job as the API shows it: as JSON, and as server-sent events.
 *
 * Not here: where it comes from (watch.ts).
 */
import { type Done, FOREIGN_WORKER, type Job, type WorkerInfo } from "../results.ts";
import { type JobWatch, stateOf } from "../watch.ts";

/** Something is sent at least this often, so that neither side takes the other for dead, ms. */
const HEARTBEAT_MS = 10_000;

/**
 * A job as JSON. `waiting`: there is work, and no worker alive that knows the task. One that sends no heartbeat cannot be
 * seen to live; where such a one has done a band it is taken to be at work still.
 */
export function view(job: Job, done: Map<number, Done>, fleet: WorkerInfo[]) {
  const { id, task, kind, preJobId: first, width, height, rows, bands, workers, created, error } = job;
  const params = { ...job.params, ...job.derivedParams };
  const state = stateOf(job, done.size);
  // A worker may call itself `__proto__`.
  const byWorker: Record<string, { bands: number; ms: number }> = Object.create(null);
  for (const { worker, ms } of done.values()) {
    byWorker[worker] ??= { bands: 0, ms: 0 };
    byWorker[worker].bands++;
    byWorker[worker].ms += ms;
  }
  const open = state === "uploading" || state === "running";
  const waiting = open && !(FOREIGN_WORKER in byWorker) && !fleet.some(({ tasks }) => tasks.includes(task));
  const lossy = [...done.values()].some((record) => record.lossy);
  const asked = { task, kind, params, first, width, height, workers, created };
  return { id, state, ...asked, rows, bands, done: done.size, error, waiting, lossy, byWorker };
}

/**
 * Server-sent events of one job or several: of each a `job`, a `band` for each that is done, and at last `done` or
 * `failed`. A job that is not there is told as `unknown`, and its story as soon as it is: whoever sends a picture may
 * listen before. All carry the job's id. The stream ends when every job has.
 * @param watches are closed at the end
 */
export function eventStream(
  watches: JobWatch[],
  fleet: WorkerInfo[],
  stopping: AbortSignal,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let stop = () => {};
  return new ReadableStream({
    start(controller) {
      const write = (text: string) => controller.enqueue(encoder.encode(text));
      const event = (name: string, data: unknown) => write(`event: ${name}\ndata: ${JSON.stringify(data)}\n\n`);
      const end = () => {
        stop();
        controller.close();
      };
      const open = new Set<EventCursor>();
      const go = (story: EventCursor) => {
        if (!open.has(story) || !story.tell()) return;
        open.delete(story);
        if (open.size === 0) end();
      };
      const heartbeat = setInterval(async () => {
        write(": still here\n\n");
        const alive = await watches[0].backends.results.workers().catch(() => fleet);
        for (const story of [...open]) {
          story.fleet = alive;
          go(story);
        }
      }, HEARTBEAT_MS / 2);
      const unlisten: (() => void)[] = [];
      let ended = false;
      stop = () => {
        if (ended) return;
        ended = true;
        open.clear();
        stopping.removeEventListener("abort", end);
        clearInterval(heartbeat);
        for (const off of unlisten) off();
        for (const watch of watches) watch.close();
      };
      stopping.addEventListener("abort", end);
      for (const watch of watches) open.add(new EventCursor(watch, event, fleet));
      for (const story of [...open]) {
        unlisten.push(story.watch.onChange(() => go(story)));
        go(story);
      }
      if (stopping.aborted && !ended) end();
    },
    cancel: () => stop(),
  });
}

/** What one listener has been told of one job. */
class EventCursor {
  readonly #told = new Set<number>();
  #shown = "";
  #created: number | undefined;

  constructor(
    readonly watch: JobWatch,
    readonly event: (name: string, data: unknown) => void,
    public fleet: WorkerInfo[],
  ) {}

  /** Tells what is new. True: there will be no more. */
  tell(): boolean {
    const { job, done, id } = this.watch;
    if (!job) return this.#absent(id);
    if (job.created !== this.#created) this.#told.clear(); // the same id, sent anew
    this.#created = job.created;
    for (const [band, { worker, ms, deliveries = 0 }] of done) {
      if (this.#told.has(band)) continue;
      this.#told.add(band);
      const y = band * job.rows;
      this.event("band", { id, band, y, rows: Math.min(job.rows, job.height - y), worker, ms, deliveries });
    }
    const now = view(job, done, this.fleet);
    const summary = `${now.state} ${now.waiting}`;
    if (summary !== this.#shown) this.event("job", now);
    this.#shown = summary;
    if (now.state !== "done" && now.state !== "failed") return false;
    this.event(now.state, now);
    return true;
  }

  #absent(id: string): boolean {
    if (this.#created !== undefined) {
      this.event("failed", { id, state: "failed", code: "gone", error: "the job was cancelled or has expired" });
      return true;
    }
    if (this.#shown === "") this.event("unknown", { id });
    this.#shown = "unknown";
    return false;
  }
}
