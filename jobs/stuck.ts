/**
 * Finds jobs that are stuck (no coordinator enqueues them, or a band is neither in the queue nor with a worker), and
 * workers that died while they had a band.
 *
 * Invariant: a job is failed only after it was stuck at every look for some time. `stuckFor` measures that time.
 *
 * Not here: when to look (watch.ts).
 */
import type { Backends, Claim, Done, Incident, Job } from "../backends.ts";
import { DEAD_LETTERS } from "../queue.ts";
import { BEAT_MS } from "../results.ts";

/** A band that is neither in the queue nor with a worker for this long is lost, ms. It is several heartbeats. */
const VANISHED_MS = 15_000;
/** The same limit if some consumers of the queue do not report which jobs they have, ms. */
const VANISHED_UNSEEN_MS = 90_000;
/** An upload without a coordinator for this long has stopped, ms. A client that retries does so sooner. */
const INTERRUPTED_MS = 20_000;
/** All watches share one list of workers. It may be this old, ms. */
const FLEET_MS = 1_000;

/** The records of a job, as read at one moment. */
export interface Known {
  job: Job;
  /** Bands that the queue has confirmed, with the CRC-32 of their rows. */
  sent: Map<number, number>;
  done: Map<number, Done>;
  claims: Map<number, Claim>;
  incidents: Incident[];
}

/** The bands that were sent and are not done: the queue has them, or a worker. */
export function awaitedOf({ sent, done }: Pick<Known, "sent" | "done">): { band: number }[] {
  return [...sent.keys()].filter((band) => !done.has(band)).map((band) => ({ band }));
}

/**
 * Fails a job that is stuck: its upload has stopped, or bands are lost (for example, the queue was deleted). Both can
 * seem so for a moment. A band is in neither place between its delivery and the worker's next heartbeat. An upload has
 * no coordinator until its client retries. So the state must last for some time.
 */
export async function failIfStuck(backends: Backends, known: Known, isEnqueuing: boolean): Promise<boolean> {
  const { results } = backends;
  const { job } = known;
  if (job.error !== null) return false;
  const interrupted = !job.enqueued && !isEnqueuing && !(await results.isLeased(job.id));
  const awaited = awaitedOf(known)[0]?.band;
  const missing = awaited === undefined ? { isMissing: false, limit: VANISHED_MS } : await missingOf(backends, job);
  const stuckMs = await results.stuckFor(job.id, interrupted || missing.isMissing);
  if (missing.isMissing && stuckMs >= missing.limit) {
    const where = `the queue is empty, and no worker has it; a rejected band is in ${DEAD_LETTERS}`;
    return results.failJob(job.id, `band ${awaited} has vanished: ${where}`, "lost");
  }
  if (!interrupted || stuckMs < INTERRUPTED_MS) return false;
  const why = "its upload was cut off, or Redis came back with older data";
  return results.failJob(job.id, `the picture has not arrived completely: ${why}; send it again`, "interrupted");
}

/**
 * Records each worker that died while it had a claim. Without this, the loss would be seen only when another worker
 * takes the band. After all machines have slept, every heartbeat is old. So a worker counts as dead only if it is still
 * missing one heartbeat interval later.
 * @param missing what the last call returned
 * @returns for each claim whose worker is missing, the time when that was first seen, ms
 */
export async function noteDeadWorkers(
  { results }: Backends,
  { job, claims }: { job: Job | null; claims: Map<number, Claim> },
  missing: Map<string, number>,
): Promise<Map<string, number>> {
  const still = new Map<string, number>();
  const own = [...claims].filter(([, { foreign }]) => !foreign);
  if (own.length === 0 || !job || job.error !== null) return still;
  const alive = new Set((await results.workers(FLEET_MS)).map(({ name }) => name));
  for (const [band, { worker }] of own.filter(([, { worker }]) => !alive.has(worker))) {
    const since = missing.get(`${band} ${worker}`) ?? performance.now();
    still.set(`${band} ${worker}`, since);
    if (performance.now() - since >= BEAT_MS) await results.noteLost(job.id, band, worker);
  }
  return still;
}

/** Whether the job has bands that are neither in the queue nor with a worker, and the time limit for this state, ms. */
async function missingOf(
  { queue, results }: Backends,
  { id, task }: Job,
): Promise<{ isMissing: boolean; limit: number }> {
  // While RabbitMQ does not answer, it may still have the band. So the band does not count as missing.
  const unknown = { waiting: Number.POSITIVE_INFINITY, consumers: 0 };
  const [depth, workers] = await Promise.all([queue.depth(task).catch(() => unknown), results.workers(FLEET_MS)]);
  const fleet = workers.filter(({ tasks }) => tasks.includes(task));
  const isMissing = depth.waiting === 0 && !fleet.some(({ busy }) => busy.split(" ").includes(id));
  // Third-party workers send no heartbeat or leave `busy` empty. A worker that sends `runtime` keeps `busy` up to date.
  const consuming = fleet.filter((worker) => worker.consuming).length;
  const allReport = depth.consumers <= consuming && fleet.every(({ runtime }) => runtime !== "");
  return { isMissing, limit: allReport ? VANISHED_MS : VANISHED_UNSEEN_MS };
}
