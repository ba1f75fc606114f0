/**
 * The checks of a task, before it is run for the first time. A task comes from a module (tasks/index.ts) or from a
 * worker's offer, which can be any JSON.
 *
 * Not here: the checks of values (params.ts) and results (run.ts).
 */

import { shown } from "../ops/shown.ts";
import {
  firstStepOf,
  haloOf,
  isData,
  isHalo,
  isList,
  isShrink,
  kindOf,
  type ListTask,
  MAX_HALO,
  MAX_SHRINK,
  type PictureTask,
  shrinkOf,
  type Task,
  TaskError,
  type Values,
} from "../task.ts";
import { checkedValues, RESERVED } from "./params.ts";

/** The version follows the name, after a dot. `tareas.muertas` is the queue of dead letters. */
const NAME = /^(?!muertas$)[a-z][a-z0-9-]{0,63}$/;
/** A name that can be written in a query and read in a form. */
const PARAM_NAME = /^[a-z][a-z0-9_-]{0,63}$/i;
/** The keys that the schema of any parameter may have, and those that depend on its type. */
const COMMON = ["type", "description", "hidden", "default"];
const KEYWORDS = new Map<unknown, string[]>([
  ["number", ["minimum", "maximum"]],
  ["integer", ["minimum", "maximum"]],
  ["boolean", []],
  ["string", ["enum"]],
  ["array", ["items", "minItems", "maxItems"]],
  ["object", []],
]);

/** The keys that a task of each kind may have. Any other key would do nothing. */
const ANY = ["name", "version", "description", "params", "run"];
const BAND = [...ANY, "halo", "channels", "bandPixels"];
const KEYS = {
  picture: [...BAND, "first", "shrink", "resultChannels"],
  data: [...BAND, "merge", "finish"],
  list: [...ANY, "pieces", "takes", "merge", "isDecided", "finish"],
};

/** Checks a module's export `task`. @throws TaskError that names the first fault */
export function expectTask(task: Partial<Task> | undefined): asserts task is Task {
  expect(isRecord(task), "an export called task", task);
  const { name, version = 1, description, params = {}, run } = task as Partial<Task>;
  const { halo, bandPixels = 1, channels = 1, resultChannels = 1 } = task as Partial<PictureTask>;
  const { pieces, takes, merge, finish, isDecided } = task as Partial<ListTask>;
  expect(isString(name) && NAME.test(name), "a name of lower-case letters, digits and hyphens", name);
  expect(Number.isInteger(version) && version >= 1, "a version that is a whole number from 1", version);
  const isBand = pieces === undefined;
  expect(
    !isBand || typeof halo === "function" || isHalo(halo),
    `a halo of 0 to ${MAX_HALO} whole rows, or a function`,
    halo,
  );
  expect(isBand || typeof pieces === "function", "a function pieces", pieces);
  expect(isBand || "merge" in task, "a function merge beside pieces", undefined);
  expect(takes === undefined || takes === "text" || takes === "bytes", "takes to be text or bytes", takes);
  expect(typeof run === "function", "a function run", run);
  expect(Number.isInteger(bandPixels) && bandPixels >= 1, "bandPixels that is a whole number from 1", bandPixels);
  for (const depth of [channels, resultChannels])
    expect([1, 3, 4].includes(depth), "channels that are 1, 3 or 4", depth);
  expect(description === undefined || isString(description), "a description that is a string", description);
  expect(isRecord(params), "params to be an object", params);
  for (const [param, schema] of Object.entries(params)) expectParam(param, schema);
  const keys = KEYS[kindOf(task as Task)];
  const unknown = Object.entries(task).find(([key, value]) => value !== undefined && !keys.includes(key));
  expect(unknown === undefined, `only ${keys.join(", ")}`, unknown?.[0]);
  const { first, shrink = 1 } = task as Partial<PictureTask>;
  const shrinks = typeof shrink === "function" || isShrink(shrink);
  expect(shrinks, `shrink to be a whole number from 1 to ${MAX_SHRINK}, or a function`, shrink);
  expect(!("merge" in task) || typeof merge === "function", "a function merge", merge);
  for (const [name, own] of Object.entries({ finish, isDecided }))
    expect(own === undefined || typeof own === "function", `a function ${name}`, own);
  const defaults = defaultsOf(task as Task);
  if (first !== undefined) expectFirst(first, task as Task, defaults);
  // A halo that depends on a derived parameter cannot be computed yet.
  if (firstStepOf(task as Task, defaults)) return;
  haloOf(task as Task, defaults);
  shrinkOf(task as Task, defaults);
}

function expectParam(name: string, schema: unknown): void {
  expect(PARAM_NAME.test(name), "a parameter name of letters, digits, _ and -, a letter first", name);
  expect(!RESERVED.includes(name), `a parameter name other than ${RESERVED.join(", ")}`, name);
  const where = `parameter ${name}: `;
  expect(isRecord(schema), "a schema", schema, where);
  const { type, description, hidden, items, minItems, maxItems } = schema;
  const own = KEYWORDS.get(type);
  expect(own !== undefined, `the type ${[...KEYWORDS.keys()].join(", ")}`, type, where);
  expectKeywords(schema, [...COMMON, ...own], where);
  expect(description === undefined || isString(description), "a description that is a string", description, where);
  expect(hidden === undefined || typeof hidden === "boolean", "hidden to be true or false", hidden, where);
  for (const count of [minItems, maxItems])
    expect(count === undefined || Number.isInteger(count), "a number of items that is whole", count, where);
  expectBounds(schema, where);
  if (type !== "array") return;
  expect(isRecord(items), "items, a schema", items, where);
  const ofItems = items.type === "array" || items.type === "object" ? undefined : KEYWORDS.get(items.type);
  expect(ofItems !== undefined, "items of the type number, integer, boolean or string", items.type, where);
  expectKeywords(items, ["type", ...ofItems], `${where}items: `);
  expectBounds(items, `${where}items: `);
}

function expectKeywords(schema: Record<string, unknown>, keywords: string[], where: string): void {
  const unknown = Object.keys(schema).find((keyword) => !keywords.includes(keyword));
  expect(unknown === undefined, `only the keywords ${keywords.join(", ")}`, unknown, where);
}

function expectBounds({ minimum, maximum, enum: choices }: Record<string, unknown>, where: string): void {
  for (const bound of [minimum, maximum])
    expect(bound === undefined || Number.isFinite(bound), "bounds that are numbers", bound, where);
  const empty = minimum !== undefined && maximum !== undefined && Number(minimum) > Number(maximum);
  expect(!empty, `a minimum up to the maximum ${maximum}`, minimum, where);
  const strings = Array.isArray(choices) && choices.length > 0 && choices.every(isString);
  expect(choices === undefined || strings, "an enum of strings", choices, where);
}

function defaultsOf(task: Task): Values {
  try {
    return checkedValues(task, {});
  } catch (error) {
    throw new TaskError(`default of ${(error as Error).message}`, undefined, { cause: error });
  }
}

function expectFirst(first: NonNullable<PictureTask["first"]>, task: Task, defaults: Values): void {
  expect(isRecord(first), "first, if any, to be an object", first);
  const { params, task: step, find } = first;
  const isNames = Array.isArray(params) && params.length > 0 && params.every(isString);
  expect(isNames, "first.params to be a list of parameters", params);
  const closed = params.find((param) => !Object.hasOwn(task.params ?? {}, param) || defaults[param] !== undefined);
  expect(closed === undefined, "first.params to name parameters without a default", closed);
  expect(typeof find === "function", "a function first.find", find);
  expectTask(step);
  expect(isData(step) && !isList(step), "first.task to be a data task", step.name);
}

function expect(holds: boolean, what: string, got: unknown, where = ""): asserts holds {
  if (!holds) throw new TaskError(`${where}expected ${what}, got ${shown(got)}`);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isString(value: unknown): value is string {
  return typeof value === "string";
}
