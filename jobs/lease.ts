/**
 * What the coordinator that enqueues a job has of it: a lease, a window, and the lanes in which it sends the bands.
 *
 * Invariant: at most one coordinator enqueues a job. One that dies, or that has lost contact with the store, stops being it.
 *
 * Not here: what that coordinator does (job.ts), what a job is when none has the lease (watch.ts).
 */
import { randomUUID } from "node:crypto";
import type { Job, Results } from "../backends.ts";
import { JobError, type JobWatch } from "../watch.ts";

/** A coordinator may enqueue a job for so long, unless it renews its lease, ms. */
const LEASE_MS = 10_000;
/** How often a request that waits for the lease asks for it, ms. */
const LEASE_POLL_MS = 200;
/** Bands in flight where `workers` is not set: this many, or twice the live workers, which keeps them all busy. */
const MIN_WINDOW = 4;
/** How often the live workers are counted, ms. */
const COUNT_MS = 2_000;

/**
 * Runs `step` as the only coordinator that enqueues this job. Waits for the one that does so now, or until its lease
 * lapses because it died.
 * @param step gets a signal that is aborted when the client closes the connection or the lease is lost
 * @param client `isSilent`: it sends nothing, though it should. It may be gone, and the request that waits for the lease
 *   may be its next attempt, so the lease is offered to that request
 */
export async function withLease(
  results: Results,
  id: string,
  client: { signal: AbortSignal; isSilent: boolean },
  step: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const owner = randomUUID();
  while (!(await results.lease(id, owner, LEASE_MS))) {
    client.signal.throwIfAborted();
    await new Promise((wake) => setTimeout(wake, LEASE_POLL_MS));
  }
  const lost = new AbortController();
  let isOver = false;
  const renew = async () => {
    if (client.isSilent) {
      await results.release(id, owner);
      await new Promise((wake) => setTimeout(wake, 2 * LEASE_POLL_MS));
    }
    if (isOver) return;
    if (!(await results.lease(id, owner, LEASE_MS)))
      lost.abort(new JobError("taken-over", "another coordinator has taken this job over"));
  };
  const timer = setInterval(() => renew().catch(() => {}), LEASE_MS / 4);
  try {
    await step(AbortSignal.any([client.signal, lost.signal]));
  } finally {
    isOver = true;
    clearInterval(timer);
    await results.release(id, owner).catch(() => {});
  }
}

/**
 * Gives each band that is sent the first lane without a band in flight; undefined where the job has no limit. Bands that
 * another coordinator sent before this one took over keep theirs.
 */
export function lanesOf(watch: JobWatch): (band: number) => number | undefined {
  const { workers } = watch.expectJob();
  const taken = new Map<number, number>();
  return (band) => {
    if (workers === null) return undefined;
    for (const [other, { lane }] of watch.claims) if (lane !== undefined) taken.set(other, lane);
    for (const other of taken.keys()) if (watch.done.has(other)) taken.delete(other);
    const used = new Set(taken.values());
    let lane = 0;
    while (used.has(lane)) lane++;
    taken.set(band, lane);
    return lane;
  };
}

/** Whether one more band may be sent, given how many are in flight. */
export function windowOf({ workers }: Job, results: Results): (inFlight: number) => boolean {
  if (workers !== null) return (inFlight) => inFlight < workers;
  let alive = 0;
  let asked = 0;
  return (inFlight) => {
    if (inFlight < MIN_WINDOW) return true;
    // In the background, and only for jobs with more bands than that.
    if (Date.now() - asked > COUNT_MS) {
      asked = Date.now();
      const count = (fleet: unknown[]) => {
        alive = fleet.length;
      };
      results.workers(COUNT_MS).then(count, () => {});
    }
    return inFlight < 2 * alive;
  };
}
