/**
 * Which tasks a program has: Sobel, the `task` of every other file in this folder, and that of every module in the setting
 * `TASKS`. So a file that is put into the folder is a task, here and in the images. No two have the same name and version:
 * a module that is to take the place of another has a higher version.
 *
 * Not here: what a task is (task.ts).
 */
import { existsSync, readdirSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { Results } from "../results.ts";
import { expectTask, type Task, taskOf, versionOf, wireName } from "../task.ts";

/** By the names that queues, records and messages use: all versions. */
export class Tasks extends Map<string, Task> {
  /** The newest version of a task. */
  newest(name: string): Task | undefined {
    const versions = [...this.values()].filter((task) => task.name === name);
    return versions.toSorted((a, b) => versionOf(a) - versionOf(b)).at(-1);
  }

  /** Every name once. */
  names(): string[] {
    return [...new Set([...this.values()].map(({ name }) => name))];
  }
}

/**
 * @param modules the setting `TASKS`: paths, with commas between
 * @throws Error with the file's name, and what is wrong with it in one sentence
 */
export async function loadTasks(modules?: string): Promise<Tasks> {
  const folder = fileURLToPath(new URL(".", import.meta.url));
  const own = readdirSync(folder).filter((name) => name.endsWith(".ts") && name !== "index.ts");
  /** The files, and how each is called in an error. */
  const files = new Map([[fileURLToPath(new URL("../sobel.ts", import.meta.url)), "sobel.ts"]]);
  for (const name of own) files.set(resolve(folder, name), `tasks/${name}`);
  for (const path of namesIn(modules)) {
    const file = resolve(path);
    if (!files.has(file)) files.set(file, `TASKS: ${path}`);
  }
  const tasks = new Tasks();
  const from = new Map<string, string>();
  for (const [file, shown] of files) {
    try {
      const task = await load(file);
      const name = wireName(task);
      if (tasks.has(name))
        throw new Error(`expected another name or version than ${name}, which is that of ${from.get(name)}`);
      tasks.set(name, task);
      from.set(name, shown);
    } catch (error) {
      const first = error instanceof AggregateError ? error.errors[0] : error; // Bun's, where a module cannot be parsed
      const [sentence] = String((first as Error)?.message ?? first).split("\n");
      throw new Error(`${shown}: ${sentence}`, { cause: error });
    }
  }
  return new Tasks([...tasks].toSorted(([a], [b]) => (a < b ? -1 : 1)));
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

/** Every task that can be asked for: this program's own, and what other workers offer; the newest version of each. */
export async function allTasks(tasks: Tasks, results: Results): Promise<Task[]> {
  const own = new Map(tasks.names().map((name) => [name, tasks.newest(name)!]));
  const others = new Map<string, Task>();
  for (const task of await advertisedTasks(results)) {
    const isNewer = versionOf(task) > versionOf(others.get(task.name));
    if (isNewer && !own.has(task.name)) others.set(task.name, task);
  }
  return [...own.values(), ...others.values()];
}

/** The newest version of a task; undefined where no coordinator and no live worker has it. */
export async function findTask(tasks: Tasks, results: Results, name: string): Promise<Task | undefined> {
  return tasks.newest(name) ?? (await allTasks(tasks, results)).find((task) => task.name === name);
}

/** For a job that is sent again: the very version it was begun with, as long as that can be had. */
export async function findTaskToResume(
  tasks: Tasks,
  results: Results,
  id: string,
  name: string,
): Promise<Task | undefined> {
  const begun = (await results.findJob(id))?.task;
  if (begun?.split(".")[0] !== name) return undefined;
  return tasks.get(begun) ?? (await advertisedTasks(results)).find((task) => wireName(task) === begun);
}

async function advertisedTasks(results: Results): Promise<Task[]> {
  const offers = (await results.workers()).flatMap((worker) => worker.offers);
  return offers.flatMap((offer) => taskOf(offer) ?? []);
}
