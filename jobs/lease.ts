/**
 * The lease, the window and the lanes of a job. The lease says which coordinator enqueues it. The window limits the
 * bands in flight. A lane is one of the `workers` places of a job, and has one band at a time.
 *
 * Invariant: at most one coordinator enqueues a job. The lease of one that dies, or loses the store, lapses.
 *
 * Not here: how a job is enqueued (job.ts), the state of a job that no coordinator enqueues (watch.ts).
 */
import { randomUUID } from "node:crypto";
import type { Job, Results } from "../backends.ts";
import { JobError, type JobWatch } from "../watch.ts";

/** A lease lapses after this time, unless it is renewed, ms. */
const LEASE_MS = 10_000;
/** How often a request that waits for the lease asks for it, ms. */
const LEASE_POLL_MS = 200;
/** Bands in flight if `workers` is not set: at least this many, and up to two for each live worker to keep all busy. */
const MIN_WINDOW = 4;
/** How often the live workers are counted, ms. */
const COUNT_MS = 2_000;

/**
 * Runs `step` while this coordinator has the lease of the job. First waits until the coordinator that has it releases
 * it, or dies and lets it lapse.
 * @param step gets a signal that is aborted when the client closes the connection or the lease is lost
 * @param client while `isSilent`, it sends nothing of its picture. It may be gone, and its next attempt may wait for the
 *   lease. So at each renewal the lease is first released for a moment, and another request may take it
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
 * @returns a function that gives a band the first lane without a band in flight; undefined if the job has no limit.
 *   Bands that another coordinator sent before keep their lanes
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
    // Counted in the background, and only for jobs with more than `MIN_WINDOW` bands.
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
