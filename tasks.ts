/**
 * Which tasks this program has: the `task` of every file in the folder tasks/, and of every module in the setting `TASKS`.
 * So a file that is put into the folder is a task, here and in the images. No two have the same name and version: a module
 * that is to take the place of another has a higher version.
 *
 * Not here: what a task is (task.ts).
 */
import { existsSync, readdirSync } from "node:fs";
import { basename, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath, pathToFileURL } from "node:url";
import { expectTask, type Task, versionOf, wireName } from "./task.ts";

/** By the names that queues, records and messages use: all versions. */
export const TASKS = new Map<string, Task>();

const folder = fileURLToPath(new URL("tasks/", import.meta.url));
const own = readdirSync(folder).filter((name) => name.endsWith(".ts"));
/** The files, and how each is called where it is told of. */
const files = new Map(own.toSorted().map((name) => [resolve(folder, name), `tasks/${name}`]));
for (const path of namesIn(process.env.TASKS)) {
  const file = resolve(path);
  if (!files.has(file)) files.set(file, `TASKS: ${path}`);
}
const from = new Map<string, string>();
for (const [file, shown] of files) {
  try {
    const task = await load(file);
    const name = wireName(task);
    if (TASKS.has(name))
      throw new Error(`expected another name or version than ${name}, which is that of ${from.get(name)}`);
    TASKS.set(name, task);
    from.set(name, shown);
  } catch (error) {
    // Not thrown: nobody could catch it before the program's own code begins, and its stack would be of no use.
    const first = error instanceof AggregateError ? error.errors[0] : error; // Bun's, where a module cannot be parsed
    const [sentence] = String((first as Error)?.message ?? first).split("\n");
    console.error(`${basename(process.argv[1] ?? "tasks.ts")}: ${shown}: ${sentence}`);
    process.exit(1);
  }
}

async function load(file: string): Promise<Task> {
  if (!existsSync(file)) throw new Error("expected a module, there is no such file");
  const { task } = (await import(pathToFileURL(file).href)) as { task?: Partial<Task> };
  expectTask(task);
  return task;
}

/** A setting that is a list, with commas between. */
export function namesIn(setting = ""): string[] {
  return setting
    .split(",")
    .map((name) => name.trim())
    .filter(Boolean);
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
