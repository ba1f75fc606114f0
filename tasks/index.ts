/**
 * The tasks of a program: Sobel, the `task` of every task file in this folder, and that of every module in the setting
 * `TASKS`. A new file in the folder is a task, here and in the images. Coordinators also find what live workers offer.
 *
 * Invariant: every task is valid (check.ts), and no two have the same name and version.
 *
 * Not here: what a task is (task.ts).
 */
import { existsSync, readdirSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { Results } from "../backends.ts";
import { namesIn } from "../ops/settings.ts";
import { isData, type Task, TaskError, versionOf, wireName } from "../task.ts";
import { expectTask } from "./check.ts";
import { taskOf } from "./offer.ts";
import { errorOf, placed, sentenceOf, shortOf } from "./thrown.ts";

/** Files in this folder that are not tasks. */
const NO_TASKS = [
  "index.ts",
  "check.ts",
  "list.ts",
  "offer.ts",
  "params.ts",
  "plan.ts",
  "run.ts",
  "thread.ts",
  "thrown.ts",
];

/** All versions of all tasks, by their names on the wire. */
export class Tasks extends Map<string, Task> {
  /** What is wrong with the tasks that were ignored, by their names. */
  readonly faults = new Map<string, string>();
  /** The file of each task. */
  readonly files = new Map<string, string>();

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
 * @param modules the setting `TASKS`: paths, separated by commas
 * @throws Error the name of the file and the first fault, in one sentence
 */
export async function loadTasks(modules?: string): Promise<Tasks> {
  const folder = fileURLToPath(new URL(".", import.meta.url));
  const own = readdirSync(folder).filter((name) => name.endsWith(".ts") && !NO_TASKS.includes(name));
  /** Each file once, with its name in errors. */
  const files = new Map([[fileURLToPath(new URL("../sobel.ts", import.meta.url)), "sobel.ts"]]);
  for (const name of own) files.set(resolve(folder, name), `tasks/${name}`);
  for (const path of namesIn(modules)) {
    const file = resolve(path);
    if (!files.has(file)) files.set(file, `TASKS: ${path}`);
  }
  const tasks = new Tasks();
  for (const [file, label] of files) {
    try {
      const task = await load(file);
      const name = wireName(task);
      const same = files.get(tasks.files.get(name)!);
      if (same) throw new Error(`expected a name and version of its own, got ${name}, as in ${same}`);
      tasks.set(name, task);
      tasks.files.set(name, file);
    } catch (error) {
      const fault = error instanceof TaskError ? error : errorOf(error, file, "the file");
      const sentence = sentenceOf(fault).replace(` (${shortOf(file)})`, ""); // the label has it
      throw new Error(`${label}: ${sentence}`, { cause: error });
    }
  }
  for (const task of [...tasks.values()]) addFirstStep(tasks, task);
  const sorted = new Tasks([...tasks].toSorted(([a], [b]) => (a < b ? -1 : 1)));
  for (const [name, file] of tasks.files) sorted.files.set(name, file);
  return sorted;
}

/** A first step needs workers and a queue too, so it is a task like the others, even if no file exports it. */
function addFirstStep(tasks: Tasks, task: Task): void {
  const step = isData(task) ? undefined : task.first?.task;
  if (!step || tasks.has(wireName(step))) return;
  tasks.set(wireName(step), step);
  tasks.files.set(wireName(step), tasks.files.get(wireName(task))!);
}

async function load(file: string): Promise<Task> {
  if (!existsSync(file)) throw new Error("expected a module, but there is no such file");
  const { task }: { task?: Partial<Task> } = await import(pathToFileURL(file).href);
  expectTask(task);
  return placed(task, file);
}

/** Every task that a client can ask for: the newest version of the program's own, then of those that workers offer. */
export async function allTasks(own: Tasks, results: Results): Promise<Task[]> {
  const offered = await offeredTasks(own, results);
  const others = offered.names().filter((name) => !own.newest(name));
  return [...own.names().map((name) => own.newest(name)!), ...others.map((name) => offered.newest(name)!)];
}

/** The newest version of a task, or the one in its name: `grow.1`, `grow.2`. Undefined if no live program has it. */
export async function findTask(own: Tasks, results: Results, name: string): Promise<Task | undefined> {
  const wire = name.replace(/\.1$/, "");
  const known = own.newest(name) ?? own.get(wire);
  if (known) return known;
  const offered = await offeredTasks(own, results);
  return offered.newest(name) ?? offered.get(wire);
}

/** Why a task that a worker offers is ignored. */
export async function faultOf(own: Tasks, results: Results, name: string): Promise<string | undefined> {
  return (await offeredTasks(own, results)).faults.get(name);
}

/** The version with which a job was begun, for a client that sends the job again. Undefined if no program has it. */
export async function findTaskToResume(
  own: Tasks,
  results: Results,
  id: string,
  name: string,
): Promise<Task | undefined> {
  const begun = (await results.findJob(id))?.task;
  if (begun === undefined || (begun !== name && begun.split(".")[0] !== name)) return undefined;
  return own.get(begun) ?? (await offeredTasks(own, results)).get(begun);
}

/** The task of a job, by its name on the wire. An offered task is remembered after its workers have left. */
export async function findTaskOfJob(own: Tasks, results: Results, name: string): Promise<Task | undefined> {
  const known = own.get(name);
  if (known) return known;
  await offeredTasks(own, results);
  return remembered.get(results)?.get(name);
}

/** The tasks offered so far, by their names on the wire. */
const remembered = new WeakMap<Results, Map<string, Task>>();
const MAX_REMEMBERED = 1000;

/** The tasks that live workers offer. An invalid offer is ignored. */
async function offeredTasks(own: Tasks, results: Results): Promise<Tasks> {
  const offered = new Tasks();
  const seen = remembered.get(results) ?? new Map<string, Task>();
  remembered.set(results, seen);
  for (const offer of (await results.workers()).flatMap(({ offers }) => offers)) {
    const report = (fault: string) => offered.faults.set(offer?.name, fault);
    const task = taskOf(offer, (name) => own.newest(name), report);
    if (!task || offered.has(wireName(task))) continue;
    offered.set(wireName(task), task);
    seen.delete(wireName(task));
    seen.set(wireName(task), task);
  }
  for (const name of seen.keys()) if (seen.size > MAX_REMEMBERED) seen.delete(name);
  return offered;
}

/** The setting `WORKER_TASKS`: `grow` means all its versions, `grow.2` one. Undefined if it is not set: all tasks. */
export function onlyThese(tasks: Tasks, setting: string | undefined): string[] | undefined {
  const names = namesIn(setting);
  if (names.length === 0) return undefined;
  const known = tasks.names();
  for (const name of names) {
    if (known.includes(name) || tasks.has(name)) continue;
    throw new Error(`WORKER_TASKS: expected some of ${known.join(", ")}, got ${name}`);
  }
  return [...tasks].filter(([wire, { name }]) => names.includes(name) || names.includes(wire)).map(([wire]) => wire);
}
