/**
 * The record of a job: written for a new job, kept for one that is sent again, removed.
 *
 * Invariant: an id keeps its record until its job has failed, or is removed or expired: another picture is a conflict.
 *
 * Not here: what a job does (job.ts), how records are stored (results.ts, embedded.ts).
 */
import { randomUUID } from "node:crypto";
import type { Job, Results } from "../backends.ts";
import { ImageError, type Raster } from "../picture/picture.ts";
import { firstOf, kindOf, type Task, wireName } from "../task.ts";
import { type Asked, planOf } from "../tasks/plan.ts";
import { sentenceOf } from "../tasks/thrown.ts";
import { JobError } from "../watch.ts";

/** The record of a new job. */
export function jobOf(id: string, task: Task, asked: Asked, image: Omit<Raster, "blocks">): Job {
  const { params, workers } = asked;
  const { width, height, rows, bands, bandsBy, channels, shrink } = ofTask(() => planOf(task, asked, image));
  return {
    id,
    task: wireName(task),
    kind: kindOf(task),
    params,
    preJobId: firstOf(task, params) ? randomUUID() : null,
    derivedParams: null,
    workers,
    width,
    height,
    rows,
    bands,
    bandsBy,
    channels,
    shrink,
    created: Date.now(),
    began: 0,
    enqueuedAt: null,
    cutMs: null,
    mergedAt: null,
    mergeMs: null,
    attempt: Date.now(),
    enqueued: false,
    error: null,
    failure: null,
  };
}

/** Runs a function of the task. What it throws fails the job. @throws JobError; ImageError */
export function ofTask<T>(step: () => T): T {
  try {
    return step();
  } catch (error) {
    if (error instanceof ImageError) throw error;
    throw new JobError("failed", `the task failed: ${sentenceOf(error as Error)}`);
  }
}

/**
 * Writes a job's record, unless there is one with the same task, parameters and size.
 * @throws JobError "conflict"
 */
export async function startOrResume(results: Results, asked: Job): Promise<void> {
  const found = await results.findJob(asked.id);
  if (!found) return results.putJob(asked);
  if (shown(found) === shown(asked)) {
    // A failed job starts its next attempt. Bands that are done are not done again, unless their results are gone.
    await results.reviveJob(asked.id);
    return results.forgetExpired(asked.id);
  }
  if (found.error === null) {
    const [begun, now] = [shown(found), shown(asked)];
    throw new JobError("conflict", `this job was started with another picture or task: ${begun}; this one is ${now}`);
  }
  await removeJob(results, found);
  await results.putJob(asked);
}

/** What must be the same when a picture is sent again, as far as its header shows it. */
function shown({ task, kind, params, width, height }: Job): string {
  const values = Object.entries(params).map(
    ([name, value]) => `, ${name} ${typeof value === "object" ? JSON.stringify(value) : value}`,
  );
  // A list follows from the parameters, or it is not known how long it is.
  return `${kind === "list" ? "" : `${width} × ${height}, `}${task}${values.join("")}`;
}

/** Removes a job, and the job of its first step. */
export async function removeJob(results: Results, { id, kind, preJobId, bands }: Job): Promise<void> {
  await results.removeJob(id, kind === "list" ? undefined : bands);
  if (preJobId) await results.removeJob(preJobId);
}
