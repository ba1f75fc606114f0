/**
 * Checks whether the answer of a list job is decided before all its pieces are done. The coordinator asks this before
 * it enqueues a band. Once the answer is decided, it enqueues no more bands.
 *
 * Not here: the merge of the whole job (job.ts), which also reports invalid results.
 */
import { chunkIdOf, jsonIn } from "../chunk.ts";
import { isList, type Task, type Values } from "../task.ts";
import type { JobWatch } from "../watch.ts";

/** @returns a function that merges the bands done so far, from the first one on, and asks the task's `isDecided` */
export function decider({ id, done, backends }: JobWatch, task: Task, params: Values): () => Promise<boolean> {
  if (!isList(task) || !task.isDecided) return async () => false;
  let [merged, next, isDecided]: [unknown, number, boolean] = [undefined, 0, false];
  return async () => {
    try {
      while (!isDecided && done.has(next)) {
        const bytes = await backends.results.load(chunkIdOf(id, next));
        const data = jsonIn(bytes!, "data");
        merged = next++ === 0 ? data : task.merge(merged, data);
        isDecided = task.isDecided!(merged, params);
      }
    } catch {
      next = -1; // stop asking: the merge in job.ts reports this error
    }
    return isDecided;
  };
}
