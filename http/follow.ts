/**
 * Logs and counts a job from its upload to its end.
 *
 * The coordinator that accepted a job watches it until it ends, because perhaps no other process does. If that
 * coordinator dies first, the end is not logged. The job itself is not affected.
 *
 * Not here: the job itself (job.ts, watch.ts), the counters (ops/metrics.ts).
 */

import type { Failure, Job } from "../backends.ts";
import { QueueError } from "../backends.ts";
import type { Log } from "../ops/log.ts";
import type { CoordinatorMetrics } from "../ops/metrics.ts";
import { BusyError } from "../picture/budget.ts";
import { ImageError } from "../picture/picture.ts";
import { JobError, type JobWatch, stateOf } from "../watch.ts";
import { HttpError, pathOf } from "./respond.ts";

/** `gone`: the job was cancelled through another coordinator, or its records have expired. */
export type End = "done" | "failed" | "cancelled" | "gone";

/** A third-party worker may report its name this long after its result was seen, ms. */
const NAME_MS = 1_000;

export class Follower {
  /** Jobs that have not ended, by id. The same picture sent twice is one job. */
  readonly #followed = new Map<string, { cancelled: boolean }>();

  constructor(
    readonly metrics: CoordinatorMetrics,
    readonly log: Log,
  ) {}

  /** Reports an upload that did not become a job. */
  refused(request: Request, error: unknown): void {
    const reason = refusalOf(error, request);
    this.metrics.refused.inc({ reason });
    // A band failed before the upload was complete, so `follow` never saw the job.
    if (reason === "job_failed") this.metrics.failed.inc({ reason: failureOf(error) });
    const level = reason === "job_failed" ? "error" : ["busy", "queue"].includes(reason) ? "warn" : "info";
    const { method } = request;
    if (reason === "store") return; // http/respond.ts logs this error
    this.log[level]("upload refused", { method, path: pathOf(request), reason, error });
  }

  /** Reports an accepted job. @param bytes size of the upload */
  accepted({ id, task, width, height, bands, workers }: Job, bytes: number): void {
    this.metrics.accepted.inc({ task });
    this.log.info("job accepted", { job: id, task, width, height, bands, workers, bytes });
  }

  /** Reports the end of an accepted job, in the background. Closes the watch. */
  follow(watch: JobWatch, job: Job): void {
    const { id } = watch;
    if (this.#followed.has(id)) {
      watch.close();
      return;
    }
    const entry = { cancelled: false };
    this.#followed.set(id, entry);
    this.metrics.open.inc({ state: "running" });
    const isDone = () => watch.job !== null && stateOf(watch.job, watch.done.size) === "done";
    const failed = (error: unknown) => {
      if (error instanceof JobError && error.code === "failed") return this.ended(job, "failed", error);
      this.ended(job, entry.cancelled ? "cancelled" : "gone");
    };
    const close = () => {
      watch.close();
      this.#followed.delete(id);
      this.metrics.open.dec({ state: "running" });
    };
    watch
      .until(isDone)
      .then(() => this.ended(job, "done"), failed)
      .finally(() => (isNamed(watch) ? close() : setTimeout(close, NAME_MS)));
  }

  /** Call this before an unfinished job is removed. */
  cancelling(job: Job): void {
    const entry = this.#followed.get(job.id);
    if (entry) entry.cancelled = true;
    else this.ended(job, "cancelled");
  }

  ended({ id, task, created }: Job, state: End, error?: unknown): void {
    const ms = Math.max(0, Date.now() - created);
    this.metrics.ended.inc({ task, state });
    if (state === "done") {
      this.metrics.seconds.observe({ task }, ms / 1000);
      this.log.info("job done", { job: id, task, ms });
    } else if (state === "failed") {
      this.metrics.failed.inc({ reason: failureOf(error) });
      this.log.error("job failed", { job: id, task, ms, error });
    } else {
      this.log.info(`job ${state}`, { job: id, task, ms });
    }
  }
}

/** Whether all workers have reported their names. redis/foreign.ts records the others as `foreign`. */
function isNamed({ done }: JobWatch): boolean {
  return [...done.values()].every(({ worker }) => worker !== "foreign");
}

export function failureOf(error: unknown): Failure {
  return error instanceof JobError ? error.failure : "other";
}

/** The reason of a refused upload, for the metrics. */
function refusalOf(error: unknown, request: Request): string {
  if (error instanceof QueueError) return "queue";
  if (error instanceof BusyError) return "busy";
  if (error instanceof ImageError) return "picture";
  if (error instanceof JobError) return error.code === "failed" ? "job_failed" : "job_conflict";
  if (error === request.signal.reason) return "client_closed";
  if (!(error instanceof HttpError)) return "store";
  return { 401: "token", 503: "busy" }[error.status] ?? "request";
}
