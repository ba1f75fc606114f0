/**
 * A job as the API shows it: as JSON, and as server-sent events.
 *
 * Not here: where it comes from (watch.ts).
 */
import type { Done, Job, WorkerInfo } from "./results.ts";
import { type JobWatch, stateOf } from "./watch.ts";

/** Something is sent at least this often, so that neither side takes the other for dead, ms. */
const HEARTBEAT_MS = 10_000;

/** A job as JSON. `waiting`: there is work, and no worker alive that knows the task. */
export function view(job: Job, done: Map<number, Done>, fleet: WorkerInfo[]) {
  const { id, task, kind, first, width, height, rows, bands, workers, created, error } = job;
  const params = { ...job.params, ...job.found };
  const state = stateOf(job, done.size);
  // A worker may call itself `__proto__`.
  const byWorker: Record<string, { bands: number; ms: number }> = Object.create(null);
  for (const { worker, ms } of done.values()) {
    byWorker[worker] ??= { bands: 0, ms: 0 };
    byWorker[worker].bands++;
    byWorker[worker].ms += ms;
  }
  const open = state === "uploading" || state === "running";
  const waiting = open && !fleet.some(({ tasks }) => tasks.includes(task));
  const lossy = [...done.values()].some((record) => record.lossy);
  const asked = { task, kind, params, first, width, height, workers, created };
  return { id, state, ...asked, rows, bands, done: done.size, error, waiting, lossy, byWorker };
}

/** Server-sent events of a job: `job`, a `band` for each that is done, and at last `done` or `failed`. */
export function eventStream(watch: JobWatch, fleet: WorkerInfo[], stopping: AbortSignal): ReadableStream<Uint8Array> {
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
