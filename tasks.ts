/**
 * Which tasks this program has: the `task` of every file in the folder tasks/, and of every module in the setting `TASKS`.
 * So a file that is put into the folder is a task, here and in the images.
 *
 * Not here: what a task is (task.ts).
 */
import { readdirSync } from "node:fs";
import { resolve } from "node:path";
import process from "node:process";
import { fileURLToPath, pathToFileURL } from "node:url";
import { expectTask, type Task, versionOf, wireName } from "./task.ts";

/** By the names that queues, records and messages use: all versions. A later one takes the place of an earlier. */
export const TASKS = new Map<string, Task>();

const folder = fileURLToPath(new URL("tasks/", import.meta.url));
const own = readdirSync(folder).filter((name) => name.endsWith(".ts"));
const others = (process.env.TASKS ?? "").split(",").filter(Boolean);
for (const path of own.toSorted()) add(await load(resolve(folder, path), `tasks/${path}`));
for (const path of others) add(await load(resolve(path), `TASKS: ${path}`));

function add(task: Task): void {
  TASKS.set(wireName(task), task);
}

async function load(file: string, shown: string): Promise<Task> {
  try {
    const { task } = (await import(pathToFileURL(file).href)) as { task?: Partial<Task> };
    expectTask(task);
    return task;
  } catch (cause) {
    throw new Error(`${shown}: ${(cause as Error).message}`, { cause });
  }
}

/** The newest version of a task. */
export function taskNamed(name: string): Task | undefined {
  const versions = [...TASKS.values()].filter((task) => task.name === name);
  return versions.toSorted((a, b) => versionOf(a) - versionOf(b)).at(-1);
}

/** Every name once. */
export function taskNames(): string[] {
  return [...new Set([...TASKS.values()].map(({ name }) => name))];
}
