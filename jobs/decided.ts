/**
 * Whether the answer of a list is decided before all its pieces are done. Asked before each band that is enqueued, so the
 * rest is not computed.
 *
 * Not here: the merge of the whole job (job.ts), which also reports what is wrong with a result.
 */
import { chunkIdOf } from "../chunk.ts";
import { isList, type Task, type Values } from "../task.ts";
import type { JobWatch } from "../watch.ts";

/** Merges the results of the first bands, each when it is done. */
export function decider({ id, done, backends }: JobWatch, task: Task, params: Values): () => Promise<boolean> {
  if (!isList(task) || !task.isDecided) return async () => false;
  let [merged, next, isDecided]: [unknown, number, boolean] = [undefined, 0, false];
  return async () => {
    try {
      while (!isDecided && done.has(next)) {
        const bytes = await backends.results.load(chunkIdOf(id, next));
        const data: unknown = JSON.parse(Buffer.from(bytes!).toString());
        merged = next++ === 0 ? data : task.merge(merged, data);
        isDecided = task.isDecided!(merged, params);
      }
    } catch {
      next = -1; // the merge meets the same error
    }
    return isDecided;
  };
}
