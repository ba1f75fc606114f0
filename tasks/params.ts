/**
 * The values of a task's parameters: read from a query, checked against their schemas, completed with the defaults, and
 * computed by a first step.
 *
 * Invariant: a task runs only with values that fit its schemas.
 *
 * Not here: the schemas (task.ts), and the check that they are valid (check.ts).
 */
import { shown } from "../ops/shown.ts";
import {
  type DataTask,
  MAX_HALO,
  type Param,
  type Params,
  type PictureTask,
  type Scalar,
  type Task,
  TaskError,
  type Values,
} from "../task.ts";

/** The client sent a value that does not fit the parameters. */
export class ParamError extends Error {
  override name = "ParamError";
}

/** A task's parameters as one JSON schema, without the hidden ones. Clients make a form from it. */
export function schemaOf(params: Params = {}) {
  const visible = Object.entries(params).filter(([, { hidden }]) => !hidden);
  return { type: "object", properties: Object.fromEntries(visible), additionalProperties: false };
}

/** Parameters of the API itself. A task may not have parameters with these names. */
export const RESERVED = ["task", "workers", "bands", "bandRows"];
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/**
 * Reads the values in a query, converts them to their types and fills in the defaults. An empty value counts as absent.
 * The result is in the order of the schema.
 * @param body more values, which have their types already
 * @throws ParamError that names the parameter
 */
export function queryValues(
  task: Pick<Task, "name" | "params" | "halo">,
  query: URLSearchParams,
  body: Record<string, unknown> = {},
): Values {
  const given: Record<string, unknown> = Object.assign(Object.create(null), body);
  for (const [name, text] of query) {
    if (RESERVED.includes(name) || text === "") continue;
    if (name in given) throw new ParamError(`${name}: expected one value, got several`);
    given[name] = typed(task.params?.[name], text);
  }
  const values = checkedValues(task, given);
  const halo = requestedHalo(task, values);
  if (halo > MAX_HALO)
    throw new ParamError(`expected parameters with which ${task.name} has a halo up to ${MAX_HALO} rows, got ${halo}`);
  return values;
}

/** @returns the text itself if it is not of the type, so that an error can quote it */
function typed(schema: Param | Scalar | undefined, text: string): unknown {
  if (schema?.type === "object" || (schema?.type === "array" && text.startsWith("["))) return fromJson(text) ?? text;
  if (schema?.type === "array") return text.split(",").map((item) => typed(schema.items, item.trim()));
  const type = schema?.type;
  if ((type === "number" || type === "integer") && NUMBER.test(text)) return Number(text);
  return type === "boolean" && (text === "true" || text === "false") ? text === "true" : text;
}

function fromJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/**
 * The halo for these values. 0 if the task's function throws: `haloOf` reports that later, as an error of the task.
 * @throws ParamError if an offer has no halo for them
 */
function requestedHalo({ halo = 0 }: Pick<Task, "halo">, values: Values): number {
  try {
    return typeof halo === "function" ? halo(values) : halo;
  } catch (error) {
    if (error instanceof ParamError) throw error;
    return 0;
  }
}

/** Checks values that have their types already, and fills in the defaults. @throws ParamError */
export function checkedValues({ name, params = {} }: Pick<Task, "name" | "params">, given: unknown): Values {
  const values = (given ?? {}) as Record<string, unknown>;
  for (const param of Object.keys(values)) {
    if (Object.hasOwn(params, param)) continue;
    const known = Object.keys(params).join(", ") || "no parameters";
    throw new ParamError(`unknown parameter ${JSON.stringify(param)}: ${name} has ${known}`);
  }
  const complete: Record<string, unknown> = {};
  for (const [param, schema] of Object.entries(params)) {
    const value = Object.hasOwn(values, param) ? values[param] : schema.default;
    if (value === undefined) continue;
    if (!fits(schema, value)) throw new ParamError(`${param}: expected ${wanted(schema)}, got ${shown(value)}`);
    complete[param] = value;
  }
  return complete as Values;
}

function fits(schema: Param | Scalar, value: unknown): boolean {
  if (schema.type === "object") return value !== null && typeof value === "object" && !Array.isArray(value);
  if (schema.type === "array") {
    const { items, minItems = 0, maxItems = Number.POSITIVE_INFINITY } = schema;
    if (!Array.isArray(value) || value.length < minItems || value.length > maxItems) return false;
    return value.every((item) => fits(items, item));
  }
  if (schema.type === "boolean") return typeof value === "boolean";
  if (schema.type === "string") return typeof value === "string" && (schema.enum?.includes(value) ?? true);
  const { type, minimum = Number.NEGATIVE_INFINITY, maximum = Number.POSITIVE_INFINITY } = schema;
  if (typeof value !== "number" || !Number.isFinite(value) || value < minimum || value > maximum) return false;
  return type === "number" || Number.isInteger(value);
}

function wanted(schema: Param | Scalar): string {
  if (schema.type === "object") return "a JSON object";
  if (schema.type === "array") {
    const { items, minItems = 0, maxItems } = schema;
    const count = minItems === maxItems ? `${minItems}` : `${minItems} to ${maxItems ?? "any number"}`;
    return `a list of ${count}, each ${wanted(items)}`;
  }
  if (schema.type === "boolean") return "true or false";
  if (schema.type === "string") return schema.enum ? `one of ${schema.enum.join(", ")}` : "a string";
  const { type, minimum, maximum } = schema;
  const from = minimum === undefined ? "" : ` from ${minimum}`;
  const to = maximum === undefined ? "" : ` ${from ? "to" : "up to"} ${maximum}`;
  return `a ${type === "number" ? "number" : "whole number"}${from}${to}`;
}

/** The values for a first step: those of the parameters that both tasks have. @throws ParamError */
export function sharedParams(step: DataTask, params: Values): Values {
  const shared = Object.entries(params).filter(([param]) => Object.hasOwn(step.params ?? {}, param));
  return checkedValues(step, Object.fromEntries(shared));
}

/** Computes the parameters that were not given from the first step's result. @throws TaskError */
export function derivedParams(
  task: Task,
  { params, find }: NonNullable<PictureTask["first"]>,
  data: unknown,
  given: Values,
) {
  const found: Record<string, unknown> = find(data, given);
  const open = params.filter((param) => given[param] === undefined);
  const missing = open.find((param) => found?.[param] === undefined);
  if (missing !== undefined) throw new TaskError(`expected find to return ${missing}, got ${shown(found)}`, task);
  const derived = Object.fromEntries(open.map((param) => [param, found[param]]));
  try {
    checkedValues(task, { ...given, ...derived });
  } catch (error) {
    throw new TaskError(`find: ${(error as Error).message}`, task, { cause: error });
  }
  return derived as Values;
}
