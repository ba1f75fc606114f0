/**
 * Whatever a task throws, as an Error with its place: file and line.
 *
 * Invariant: an Error stays the same object, with `at` added. Anything else that is thrown becomes an Error.
 *
 * Not here: where it is shown. The functions of a task are wrapped once, when its file is loaded (index.ts).
 */
import { relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { stripVTControlCharacters } from "node:util";
import { shown } from "../ops/shown.ts";
import { isData, isList, type Task, TaskError } from "../task.ts";

export type Placed = Error & { at?: string | undefined };

type Call = (...args: never[]) => unknown;

const PROJECT = fileURLToPath(new URL("..", import.meta.url));
const [LIST, ...CALLERS] = ["list.ts", "thrown.ts", "index.ts"].map((name) =>
  fileURLToPath(new URL(name, import.meta.url)),
);
const FRAME = /(?:^|[ (])((?:file:\/\/)?\/.+?):(\d+):\d+\)?$/gm;

/** @returns the task, whose functions throw Errors with their place */
export function placed(task: Task, file: string): Task {
  const all = task as unknown as Record<string, unknown>;
  const own: Record<string, unknown> = {};
  for (const name of ["run", "halo", "shrink", "merge", "isDecided", "finish"])
    if (typeof all[name] === "function") own[name] = guarded(all[name] as Call, name);
  if (isList(task)) own.pieces = guarded((values, input) => walked(task.pieces(values, input)), "pieces");
  const first = isData(task) ? undefined : task.first;
  if (first) own.first = { ...first, task: placed(first.task, file), find: guarded(first.find, "find") };
  // The other properties may be inherited, as from a class.
  return Object.assign(Object.create(task, { file: { value: shortOf(file) } }), own);

  function guarded(call: Call, name: string): Call {
    const fail = (error: unknown): never => {
      throw errorOf(error, file, name);
    };
    return (...args: never[]) => {
      try {
        const made = call.apply(task, args);
        if (!(made instanceof Promise)) return made;
        if (name === "run") return made.catch(fail);
        made.catch(() => {});
        throw new TaskError(`expected ${name} to return a value, got a Promise: only run is awaited`, task);
      } catch (error) {
        fail(error);
      }
    };
  }

  function walked(made: Iterable<unknown> | AsyncIterable<unknown>): Iterable<unknown> | AsyncIterable<unknown> {
    if (made instanceof Promise) return made as never; // `guarded` refuses it
    if (Symbol.iterator in Object(made)) return each(made as Iterable<unknown>);
    if (Symbol.asyncIterator in Object(made)) return eachAwaited(made as AsyncIterable<unknown>);
    throw new TaskError(`expected pieces to return an iterable, such as a list, got ${shown(made)}`, task);
  }

  function* each(made: Iterable<unknown>) {
    try {
      yield* made;
    } catch (error) {
      throw errorOf(error, file, "pieces");
    }
  }

  async function* eachAwaited(made: AsyncIterable<unknown>) {
    try {
      yield* made;
    } catch (error) {
      throw errorOf(error, file, "pieces");
    }
  }
}

/** @param by the thrower: a function of the task, or its file */
export function errorOf(thrown: unknown, file: string, by: string): Placed {
  const [first] = thrown instanceof AggregateError ? thrown.errors : [thrown]; // Bun's, for a syntax error
  if (!isError(first)) {
    const got = first instanceof Promise ? "a Promise: is an await missing?" : shown(first);
    return Object.assign(new Error(`${by}: expected an Error to be thrown, got ${got}`), { at: shortOf(file) });
  }
  // Not assigned: the error may be frozen.
  if (!("at" in first)) Reflect.defineProperty(first, "at", { value: placeOf(first, file), configurable: true });
  return first;
}

/** One line, for the client and the command line. */
export function sentenceOf({ message, name, at }: Placed): string {
  const [line] = (message || name).split("\n");
  return at === undefined ? line : `${line} (${at})`;
}

/** Bun's own errors for a file that cannot be read have a message, but are not of class Error. */
function isError(thrown: unknown): thrown is Placed & { position?: { file: string; line: number } | null } {
  return thrown instanceof Error || typeof (thrown as Error | undefined)?.message === "string";
}

/** A line of the task's own file. If the stack has none, a line of code that it calls, or the file alone. */
function placeOf({ stack, position }: Placed & { position?: { file: string; line: number } | null }, file: string) {
  if (position) return `${shortOf(position.file)}:${position.line}`;
  const frames = Array.from(stripVTControlCharacters(String(stack)).matchAll(FRAME), ([, path, line]) => ({
    path: path.startsWith("file:") ? fileURLToPath(path) : path,
    line,
  }));
  const end = frames.findIndex(({ path }) => CALLERS.includes(path));
  const called = end < 0 ? frames : frames.slice(0, end);
  const own = called.find(({ path }) => path === file);
  // The input of `pieces` is in `LIST`. Bun leaves the task's own line out if the call is the last of a function.
  const frame = own ?? called.find(({ path }) => path !== LIST && !path.includes(`${sep}node_modules${sep}`));
  return frame ? `${shortOf(frame.path)}:${frame.line}` : shortOf(file);
}

/** The path of a file, relative to the project's folder if it is in it. */
export function shortOf(file: string): string {
  return file.startsWith(PROJECT) ? relative(PROJECT, file) : file;
}
