/**
 * What a worker offers: a task that a coordinator can cut and merge without having its module. A worker in any language
 * may offer one; docs/wire.md describes the fields.
 *
 *     halo    rows, an expression of one parameter ("radius", "2*radius+1", rounded up), or a table by its values
 *             ({ "param": "size", "3": 1, "5": 2 })
 *     merge   of a data or list task, by name: `MERGES`
 *     pieces  of a list task: a range ({ "from": 0, "to": "below", "step": 1000 }: pieces [from, to)), an array
 *             parameter whose items are the pieces ({ "each": "names" }), or the body, cut ({ "lines": 65536 },
 *             "words", "bytes")
 *     first   { "param": "counts", "task": "histogram" }: the data of that task becomes the parameter
 *
 * Invariant: an offer is only data. None of it is run as code.
 *
 * Not here: which workers offer what (index.ts), how the tasks are checked (check.ts).
 */

import { shown } from "../ops/shown.ts";
import type { Channels } from "../picture/picture.ts";
import {
  type DataTask,
  type Input,
  isData,
  isList,
  type Params,
  type PictureTask,
  type Task,
  TaskError,
  type Values,
} from "../task.ts";
import { expectTask } from "./check.ts";
import { ParamError } from "./params.ts";

type Amount = number | string;

export interface Offer extends Pick<PictureTask, "name" | "version" | "description" | "params" | "channels"> {
  resultChannels?: Channels | undefined;
  halo?: Amount | Record<string, unknown>;
  shrink?: number | undefined;
  bandPixels?: number | undefined;
  merge?: string;
  pieces?: Record<string, unknown>;
  first?: { param: string; task: string };
}

/** The values of `merge`. All but the last two merge arrays item by item, and objects key by key. */
const MERGES: Record<string, (a: unknown, b: unknown) => unknown> = {
  sum: each((a, b) => a + b),
  min: each(Math.min),
  max: each(Math.max),
  concat(a, b) {
    if (Array.isArray(a) && Array.isArray(b)) return [...a, ...b];
    if (typeof a === "string" && typeof b === "string") return a + b;
    throw new TaskError(`expected two lists or two strings, got ${shown(a)} and ${shown(b)}`);
  },
  first: (a, b) => a ?? b,
};

/** The offer that workers of this project make for a task. Null if coordinators need the task's module. */
export function offerOf(task: Task): Offer | null {
  if (isData(task) || task.first) return null;
  const { name, version, description, params, channels, resultChannels, halo, shrink, bandPixels } = task;
  if (typeof halo === "function" || typeof shrink === "function") return null;
  return { name, version, description, params, channels, resultChannels, halo, shrink, bandPixels };
}

/**
 * A task that only workers can run. Null if the offer is invalid.
 * @param known finds the task of a first step
 * @param report called with the fault of an invalid offer
 */
export function taskOf(
  offer: Offer,
  known: (name: string) => Task | undefined = () => undefined,
  report: (fault: string) => void = () => {},
): Task | null {
  const run = () => {
    throw new TaskError("expected to be run by the workers that offer it", offer);
  };
  try {
    const { merge, pieces, halo, first, ...same } = offer;
    const { params } = same;
    const task: Record<string, unknown> = { ...same, run };
    if (merge !== undefined) task.merge = mergeOf(merge);
    if (merge === "first" && pieces) task.isDecided = (merged: unknown) => merged !== null;
    if (pieces !== undefined) Object.assign(task, piecesOf(pieces, params));
    if (pieces === undefined || halo !== undefined) task.halo = haloOf(halo, params);
    if (first !== undefined) task.first = firstOf(first, known);
    expectTask(task as Partial<Task>);
    return task as unknown as Task;
  } catch (error) {
    report((error as Error).message);
    return null;
  }
}

function mergeOf(name: unknown): (a: unknown, b: unknown) => unknown {
  if (typeof name === "string" && Object.hasOwn(MERGES, name)) return MERGES[name];
  throw new TaskError(`expected merge to be one of ${Object.keys(MERGES).join(", ")}, got ${name}`);
}

/** Applies `merge` to the numbers in two values of the same form. Items and keys that only one of them has are kept. */
function each(merge: (a: number, b: number) => number): (a: unknown, b: unknown) => unknown {
  const merged = (a: unknown, b: unknown): unknown => {
    if (a === undefined || a === null) return b;
    if (b === undefined || b === null) return a;
    if (typeof a === "number" && typeof b === "number") return merge(a, b);
    if (Array.isArray(a) && Array.isArray(b))
      return Array.from({ length: Math.max(a.length, b.length) }, (_, i) => merged(a[i], b[i]));
    if ([a, b].some((one) => typeof one !== "object" || Array.isArray(one)))
      throw new TaskError(`expected two numbers, lists or objects, got ${shown(a)} and ${shown(b)}`);
    const [left, right] = [new Map(Object.entries(a)), new Map(Object.entries(b))];
    const keys = new Set([...left.keys(), ...right.keys()]);
    return Object.fromEntries(Array.from(keys, (key) => [key, merged(left.get(key), right.get(key))]));
  };
  return merged;
}

function haloOf(halo: Offer["halo"], params: Params = {}): number | ((values: Values) => number) {
  if (typeof halo === "number") return halo;
  if (typeof halo === "string") return amountOf("halo", halo, params);
  const { param, ...table } = (halo ?? {}) as Record<string, unknown>;
  if (typeof param !== "string" || !Object.hasOwn(params, param))
    throw new TaskError(`expected halo to be a number, an expression or a table of a parameter, got ${shown(halo)}`);
  return (values) => {
    const value = values[param];
    if (value === undefined || Object.hasOwn(table, String(value))) return table[String(value)] as number;
    throw new ParamError(`${param}: expected one of ${Object.keys(table).join(", ")}, got ${shown(value)}`);
  };
}

/** `3`, `below`, `2*radius+1`, rounded up. */
function amountOf(what: string, amount: unknown, params: Params = {}): (values: Values) => number {
  if (typeof amount === "number" && Number.isFinite(amount)) return () => amount;
  const match = /^(?:(\d+(?:\.\d+)?) ?\* ?)?([a-z][a-z0-9_-]*)(?: ?\+ ?(\d+))?$/i.exec(String(amount));
  const [, times = "1", param = "", plus = "0"] = match ?? [];
  const type = Object.hasOwn(params, param) ? params[param].type : undefined;
  if (type !== "number" && type !== "integer")
    throw new TaskError(`expected ${what} to be a number or an expression of a parameter, got ${shown(amount)}`);
  return (values) => Math.ceil(Number(times) * (values[param] as number)) + Number(plus);
}

const BODY: Record<string, "text" | "bytes"> = { lines: "text", words: "text", bytes: "bytes" };
/** The keys of each form, sorted. */
const FORMS = [...Object.keys(BODY), "each", "step to", "from step to"];

function piecesOf(pieces: Record<string, unknown>, params: Params = {}): object {
  const [how] = Object.keys(pieces);
  if (!FORMS.includes(Object.keys(pieces).toSorted().join(" ")))
    throw new TaskError(`expected pieces of lines, words, bytes, each, or to and step, got ${shown(pieces)}`);
  if (Object.hasOwn(BODY, how)) {
    const size = pieces[how];
    if (!Number.isInteger(size) || Number(size) < 1) throw new TaskError(`expected a number of bytes, got ${size}`);
    return {
      takes: BODY[how],
      pieces: (_: Values, input: Input) => input[how as keyof Input](Number(size)),
    };
  }
  const { each: param, from = 0, to, step } = pieces;
  if (param !== undefined) {
    if (params[String(param)]?.type !== "array") throw new TaskError(`expected an array parameter, got ${param}`);
    return {
      pieces(values: Values) {
        const items = (values[String(param)] ?? []) as unknown[];
        if (items.length === 0) throw new ParamError(`${param}: expected a list of one item or more, got none`);
        return items;
      },
    };
  }
  const [first, end, size] = Object.entries({ from, to, step }).map(([key, amount]) => {
    const of = amountOf(`pieces.${key}`, amount, params);
    const [least, wanted] = key === "step" ? [1, "a number from 1"] : [Number.NEGATIVE_INFINITY, "a number"];
    return (values: Values) => {
      const value = of(values);
      if (value >= least) return value;
      const got = Number.isNaN(value) ? "none" : value;
      throw new ParamError(`${amount} (pieces.${key}): expected ${wanted}, got ${got}`);
    };
  });
  if (typeof step === "number") size({}); // refuses the offer
  return {
    *pieces(values: Values) {
      const [start, last, by] = [first(values), end(values), size(values)];
      if (last <= start) throw new ParamError(`${to} (pieces.to): expected a number above ${start}, got ${last}`);
      for (let at = start; at < last; at += by) yield [at, Math.min(at + by, last)];
    },
  };
}

function firstOf(first: NonNullable<Offer["first"]>, known: (name: string) => Task | undefined) {
  if (Object.keys(first).toSorted().join(" ") !== "param task")
    throw new TaskError(`expected first to have param and task, got ${shown(first)}`);
  const { param, task } = first;
  const step = known(task);
  if (!step || !isData(step) || isList(step)) throw new TaskError(`expected first.task to be a data task, got ${task}`);
  return { params: [param], task: step as DataTask, find: (data: unknown) => ({ [param]: data }) };
}
