/**
 * Which tasks this program has: the built-in ones, and the `task` of every module in the setting `TASKS`.
 *
 * Not here: what a task is (task.ts).
 */
import { resolve } from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";
import { expectTask, type Task, versionOf, wireName } from "../task.ts";
import { blur } from "./blur.ts";
import { histogram } from "./histogram.ts";
import { scharr } from "./scharr.ts";
import { sobel } from "./sobel.ts";
import { threshold } from "./threshold.ts";

export const BUILT_IN: Task[] = [sobel, scharr, blur, threshold, histogram];

/** By the names that queues, records and messages use: all versions. */
export const TASKS = new Map<string, Task>(BUILT_IN.map((task) => [wireName(task), task]));

for (const path of (process.env.TASKS ?? "").split(",").filter(Boolean)) {
  const task = await load(path);
  TASKS.set(wireName(task), task);
}

/** A task of its own may take the place of one that is built in. */
async function load(path: string): Promise<Task> {
  try {
    const { task } = (await import(pathToFileURL(resolve(path)).href)) as { task?: Partial<Task> };
    expectTask(task);
    return task;
  } catch (cause) {
    throw new Error(`TASKS: ${path}: ${(cause as Error).message}`, { cause });
  }
}

/** The newest version of a task. */
export function taskNamed(name: string): Task | undefined {
  const versions = [...TASKS.values()].filter((task) => task.name === name);
  return versions.toSorted((a, b) => versionOf(a) - versionOf(b)).at(-1);
}
