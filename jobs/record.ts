/**
 * The record of a job: it is written for a new job, kept for a job that is sent again, and removed.
 *
 * Invariant: an id keeps its record until its job has failed, expired or been removed. Another picture under the same
 * id is a conflict.
 *
 * Not here: what a job does (job.ts), how records are stored (results.ts, embedded/results.ts).
 */
import { randomUUID } from "node:crypto";
import type { Job, Results } from "../backends.ts";
import { ImageError, type Raster } from "../picture/picture.ts";
import { firstStepOf, kindOf, type Task, wireName } from "../task.ts";
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
    preJobId: firstStepOf(task, params) ? randomUUID() : null,
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

/** Runs a function of the task. If it throws, the job fails. @throws JobError "failed"; ImageError as it is */
export function ofTask<T>(step: () => T): T {
  try {
    return step();
  } catch (error) {
    if (error instanceof ImageError) throw error;
    throw new JobError("failed", `the task failed: ${sentenceOf(error as Error)}`);
  }
}

/**
 * Writes a job's record. If there is one with the same task, parameters and size, that job is resumed instead. A failed
 * job with others is replaced.
 * @throws JobError "conflict" if the id belongs to another job that has not failed
 */
export async function startOrResume(results: Results, asked: Job): Promise<void> {
  const found = await results.findJob(asked.id);
  if (!found) return results.putJob(asked);
  if (shown(found) === shown(asked)) {
    // A failed job starts its next attempt. Done bands are computed again only if their results are gone.
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

/** What must be the same when a picture is sent again, without its pixels. An error also shows it. */
function shown({ task, kind, params, width, height }: Job): string {
  const values = Object.entries(params).map(
    ([name, value]) => `, ${name} ${typeof value === "object" ? JSON.stringify(value) : value}`,
  );
  // A list has no size to compare: it follows from the parameters, or its length is not known yet.
  return `${kind === "list" ? "" : `${width} × ${height}, `}${task}${values.join("")}`;
}

/** Removes a job, and the job of its first step. */
export async function removeJob(results: Results, { id, kind, preJobId, bands }: Job): Promise<void> {
  await results.removeJob(id, kind === "list" ? undefined : bands);
  if (preJobId) await results.removeJob(preJobId);
}
