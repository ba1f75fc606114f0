/**
 * What a task is: the one interface that Sobel and every other task is written against, and what is checked around it.
 *
 *     export const task = pictureTask({
 *       name: "brighten",
 *       halo: 0,
 *       params: { by: { type: "integer", minimum: 0, maximum: 255, default: 40 } },
 *       run: ({ pixels }, { by }) => pixels.map((grey) => Math.min(255, grey + by)),
 *     });
 *
 * A task sees one band at a time and nothing else, so it may run anywhere: in a thread, in another process, on another
 * machine, and again where that one died. A picture task gives pixels for pixels. A data task gives JSON for pixels,
 * and says how the data of two bands become those of both.
 *
 * Invariant: what a task makes does not depend on how many bands there are. The halo sees to that for pixels; for data
 * it is the task's own promise: `merge` must be associative.
 *
 * Not here: which tasks there are (tasks.ts), how a band reaches one (worker.ts).
 */

/**
 * Rows of a picture, and the rows around them: `(halo + rows + halo) × width` pixels, row-major, 8-bit grey. They may be
 * written over.
 */
export interface View {
  pixels: Uint8Array;
  width: number;
  /** The band's own rows: those below the first `halo` and above the last `halo`. */
  rows: number;
  halo: number;
}

/** One parameter, as a JSON schema. Without a default it may be absent. */
export type Param = { description?: string } & (
  | { type: "number" | "integer"; minimum?: number; maximum?: number; default?: number }
  | { type: "boolean"; default?: boolean }
  | { type: "string"; enum?: readonly string[]; default?: string }
);
/** A task's parameters by name. */
export type Params = { readonly [name: string]: Param };

type ValueOf<P extends Param> = P extends { type: "number" | "integer" }
  ? number
  : P extends { type: "boolean" }
    ? boolean
    : P extends { enum: readonly (infer Choice)[] }
      ? Choice
      : string;
/** What `run` gets for them. */
export type Values<P extends Params = Params> = {
  [Name in keyof P]: P[Name] extends { default: unknown } ? ValueOf<P[Name]> : ValueOf<P[Name]> | undefined;
};

interface Described<P extends Params> {
  /** Lower-case letters, digits and hyphens: it names the queue. */
  name: string;
  /** To be raised when the results change: a job's bands are never done by two versions. 1 where it is absent. */
  version?: number;
  /** A line for the page. */
  description?: string;
  params?: P;
  /** Rows that it looks at above and below the one it computes. */
  halo: number | ((params: Values<P>) => number);
}

/** Pixels for pixels. */
export interface PictureTask<P extends Params = Params> extends Described<P> {
  /** A parameter that, where it is not given, is made of a data task's result for the whole picture. */
  first?: { param: keyof P & string; task: DataTask; find(data: unknown): number | boolean | string };
  /** @returns the band's own rows, `rows × width`; they are looked at before the next band is run, and not after */
  run(band: View, params: Values<P>): Uint8Array | Uint8ClampedArray;
}

/** JSON for pixels. */
export interface DataTask<P extends Params = Params, Part = unknown, Whole = unknown> extends Described<P> {
  /** @returns what is known of the band's own rows */
  run(band: View, params: Values<P>): Part;
  /** What is known of two bands, `upper` above `lower`, or of two runs of bands. */
  merge(upper: Part, lower: Part): Part;
  /** What is answered, made of what is known of the whole picture; that itself where this is absent. */
  finish?(all: Part, params: Values<P>): Whole;
}

export type Task = PictureTask | DataTask;

/** A value that does not fit a task's parameters. */
export class ParamError extends Error {
  override name = "ParamError";
}

/** A task that does what none may do: the fault of whoever wrote it. */
export class TaskError extends Error {
  override name = "TaskError";
}

/** Higher halos would send more halo than picture. */
export const MAX_HALO = 256;
/** What a name may be: the version is written behind it with a dot. `tareas.muertas` is taken. */
const NAME = /^(?!muertas$)[a-z][a-z0-9-]{0,63}$/;
/** As it can be written in a query and read in a form. */
const PARAM_NAME = /^[a-z][a-z0-9_-]{0,63}$/i;
/** Taken by the API itself. */
const RESERVED = ["task", "workers"];
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/** For the types: the parameters that `run` gets are those of `params`. */
export function pictureTask<const P extends Params = Record<never, never>>(task: PictureTask<P>): PictureTask {
  return task as unknown as PictureTask;
}

/** The same for data. */
export function dataTask<Part, Whole = Part, const P extends Params = Record<never, never>>(
  task: DataTask<P, Part, Whole>,
): DataTask {
  return task as unknown as DataTask;
}

export function isData(task: Task): task is DataTask {
  return "merge" in task;
}

export function kindOf(task: Task): "picture" | "data" {
  return isData(task) ? "data" : "picture";
}

/** 0 where there is no task. */
export function versionOf(task: Pick<Task, "version"> | undefined): number {
  return task ? (task.version ?? 1) : 0;
}

/** The name by which queues, records and messages know this version of a task: `median`, `median.2`. */
export function wireName(task: Pick<Task, "name" | "version">): string {
  return versionOf(task) === 1 ? task.name : `${task.name}.${versionOf(task)}`;
}

/** The step that must come first for these values, if any. */
export function firstOf(task: Task, params: Values): PictureTask["first"] {
  return !isData(task) && task.first && params[task.first.param] === undefined ? task.first : undefined;
}

/** Whether a module's `task` is one. @throws TaskError, ParamError what is wrong with it */
export function expectTask(task: Partial<Task> | undefined): asserts task is Task {
  const expect = (sound: boolean, what: string, got: unknown) => {
    if (!sound) throw new TaskError(`expected ${what}, got ${shown(got)}`);
  };
  expect(typeof task === "object" && task !== null, "an export called task", task);
  const { name, version = 1, description, halo, params = {}, run } = task as Partial<Task>;
  expect(NAME.test(name ?? ""), "a name of lower-case letters, digits and hyphens", name);
  expect(Number.isInteger(version) && version >= 1, "a version that is a whole number from 1", version);
  expect(typeof halo === "function" || isHalo(halo), `a halo of 0 to ${MAX_HALO} rows, or a function`, halo);
  expect(typeof run === "function", "a function run", run);
  expect(["string", "undefined"].includes(typeof description), "a description that is a text", description);
  expect(isRecord(params), "parameters by their names", params);
  for (const [param, schema] of Object.entries(params as Params)) {
    expect(PARAM_NAME.test(param), "parameters with names of letters, digits, _ and -, a letter first", param);
    expect(!RESERVED.includes(param), `parameters with other names than ${RESERVED.join(" and ")}`, param);
    expect(isRecord(schema), `${param} to be a schema`, schema);
    // All fields of all types, whichever this one has.
    type Fields = { type: string; description?: string; minimum?: number; maximum?: number; enum?: readonly string[] };
    const { type, description, minimum, maximum, enum: choices } = schema as Fields;
    const known = ["number", "integer", "boolean", "string"].includes(type);
    expect(known, `${param} to have the type number, integer, boolean or string`, type);
    const told = ["string", "undefined"].includes(typeof description);
    expect(told, `${param} to have a description that is a text`, description);
    for (const bound of [minimum, maximum])
      expect(bound === undefined || Number.isFinite(bound), `${param} to have bounds that are numbers`, bound);
    const ordered = minimum === undefined || maximum === undefined || minimum <= maximum;
    expect(ordered, `${param} to have a minimum up to its maximum`, minimum);
    const texts = Array.isArray(choices) && choices.length > 0 && choices.every((one) => typeof one === "string");
    expect(choices === undefined || texts, `${param} to have an enum of texts`, choices);
  }
  const defaults = checkedValues(task as Task, {});
  const { merge, finish, first } = task as Partial<DataTask> & Partial<PictureTask>;
  if ("merge" in (task as Task)) expect(typeof merge === "function", "a function merge", merge);
  if (finish !== undefined) {
    expect(typeof finish === "function", "a function finish", finish);
    expect(merge !== undefined, "merge where there is finish", merge);
  }
  if (first !== undefined) {
    expect(merge === undefined && isRecord(first), "first, if any, of a task that returns a picture", first);
    const { param, task: before, find } = first as NonNullable<PictureTask["first"]>;
    const open = Object.hasOwn(params, param) && defaults[param] === undefined;
    expect(open, "first to be for a parameter without a default", param);
    expect(typeof find === "function", "first to have a function find", find);
    expectTask(before);
    expect(isData(before), "first to have a task that returns data", before.name);
  }
  // What depends on a parameter that is yet to be found cannot be tried.
  if (!firstOf(task as Task, defaults)) haloOf(task as Task, defaults);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Rows of halo for these values. @throws TaskError where it asks for what cannot be */
export function haloOf(task: Pick<Task, "name" | "halo">, params: Values): number {
  const halo = typeof task.halo === "function" ? task.halo(params) : task.halo;
  if (isHalo(halo)) return halo;
  throw new TaskError(`task ${task.name}: expected a halo of 0 to ${MAX_HALO} rows, got ${halo}`);
}

function isHalo(halo: unknown): halo is number {
  return Number.isInteger(halo) && (halo as number) >= 0 && (halo as number) <= MAX_HALO;
}

/**
 * The values of a query, with the defaults filled in, in the order of the schema. An empty one counts as not given.
 * @throws ParamError that names the parameter, and what was expected
 */
export function queryValues(
  task: Pick<Task, "name" | "params"> & Partial<Pick<Task, "halo">>,
  query: URLSearchParams,
): Values {
  const given = [...query].filter(([name, text]) => !RESERVED.includes(name) && text !== "");
  const names = given.map(([name]) => name);
  const twice = names.find((name, i) => names.indexOf(name) < i);
  if (twice !== undefined) throw new ParamError(`${twice}: expected one value, got several`);
  const typed = given.map(([name, text]) => {
    const type = task.params?.[name]?.type;
    if ((type === "number" || type === "integer") && NUMBER.test(text)) return [name, Number(text)];
    if (type === "boolean" && (text === "true" || text === "false")) return [name, text === "true"];
    return [name, text];
  });
  const values = checkedValues(task, Object.fromEntries(typed));
  const halo = askedHalo(task, values);
  if (halo > MAX_HALO)
    throw new ParamError(`expected parameters with which ${task.name} has a halo up to ${MAX_HALO} rows, got ${halo}`);
  return values;
}

/** 0 where it is the task's own fault that there is none: `haloOf` tells. */
function askedHalo({ halo = 0 }: Partial<Pick<Task, "halo">>, values: Values): number {
  try {
    return typeof halo === "function" ? halo(values) : halo;
  } catch {
    return 0;
  }
}

/** The same for values that have their types: those of a message. */
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

function shown(value: unknown): string {
  return typeof value === "number" ? String(value) : (JSON.stringify(value) ?? typeof value);
}

function fits(schema: Param, value: unknown): boolean {
  if (schema.type === "boolean") return typeof value === "boolean";
  if (schema.type === "string") return typeof value === "string" && (schema.enum?.includes(value) ?? true);
  const { type, minimum = Number.NEGATIVE_INFINITY, maximum = Number.POSITIVE_INFINITY } = schema;
  if (typeof value !== "number" || !Number.isFinite(value) || value < minimum || value > maximum) return false;
  return type === "number" || Number.isInteger(value);
}

function wanted(schema: Param): string {
  if (schema.type === "boolean") return "true or false";
  if (schema.type === "string") return schema.enum ? `one of ${schema.enum.join(", ")}` : "a text";
  const { type, minimum, maximum } = schema;
  const bounds = [minimum !== undefined && `from ${minimum}`, maximum !== undefined && `to ${maximum}`];
  return [type === "number" ? "a number" : "a whole number", ...bounds].filter(Boolean).join(" ");
}

/** A task as a worker announces it: what a coordinator needs to know in order to hand out its bands. */
export interface Offer extends Pick<Task, "name" | "version" | "description" | "params"> {
  halo: number;
}

/**
 * What can be said of a task without its functions; null where that is not enough: a coordinator needs the module of a
 * task whose halo depends on its parameters, that returns data, or that needs a first step.
 */
export function offerOf(task: Task): Offer | null {
  const { name, version, description, params, halo } = task;
  if (typeof halo === "function" || isData(task) || task.first) return null;
  return { name, version, description, params, halo };
}

/** A task that only others can run; null where what they offer is none. */
export function taskOf(offer: Offer): PictureTask | null {
  const run = () => {
    throw new TaskError(`task ${offer.name}: expected to be run by the workers that offer it`);
  };
  try {
    const { name, version, description, params, halo } = offer;
    const task: Partial<Task> = { name, version, description, params, halo, run };
    expectTask(task);
    return task as PictureTask;
  } catch {
    return null; // whatever it is, it is not ours to mend
  }
}

/** A task's parameters as one JSON schema, for whoever makes a form of it. */
export function schemaOf(params: Params = {}) {
  return { type: "object", properties: params, additionalProperties: false };
}

/**
 * Runs a task on a band with a halo of at least the task's own rows.
 * @returns `rows × width` pixels; of a data task, its JSON
 * @throws whatever the task throws; TaskError where it returns what cannot be
 */
export function runTask(
  task: Task,
  band: { pixels: Uint8Array; width: number; height: number; halo: [above: number, below: number]; params?: unknown },
): Uint8Array | string {
  const params = checkedValues(task, band.params);
  const { width, height, pixels } = band;
  const [above, below] = band.halo;
  const halo = haloOf(task, params);
  if (above < halo || below < halo)
    throw new RangeError(`halo: expected at least ${halo} rows above and below, got ${above} and ${below}`);
  const rows = height - above - below;
  const own = pixels.subarray((above - halo) * width, (above + rows + halo) * width);
  const view = { pixels: own, width, rows, halo };
  if (isData(task)) return jsonOf(task, task.run(view, params));
  const made: unknown = task.run(view, params);
  const bytes = made instanceof Uint8ClampedArray ? new Uint8Array(made.buffer, made.byteOffset, made.length) : made;
  if (bytes instanceof Uint8Array && bytes.length === rows * width) return bytes;
  const got = bytes instanceof Uint8Array ? bytes.length : "no Uint8Array";
  throw new TaskError(`task ${task.name}: expected ${rows} × ${width} pixels, got ${got}`);
}

/** What a data task answers with, once all bands are merged. */
export function finished(task: DataTask, all: unknown, params: Values): unknown {
  const whole = task.finish ? task.finish(all, params) : all;
  jsonOf(task, whole);
  return whole;
}

function jsonOf(task: DataTask, data: unknown): string {
  const lost = lostInJson(data);
  if (lost !== null) throw new TaskError(`task ${task.name}: expected data that can be JSON, got ${lost}`);
  return JSON.stringify(data);
}

/**
 * The first value that would come back as another one, and where it is; null where JSON holds all of them. A property
 * that is undefined comes back as none, which is the same to whoever reads it.
 */
function lostInJson(data: unknown, at = "", around: object[] = []): string | null {
  const where = at && ` at ${at}`;
  if (data === null || typeof data === "string" || typeof data === "boolean") return null;
  if (typeof data === "number") return Number.isFinite(data) ? null : `${data}${where}`;
  if (typeof data !== "object") return `${typeof data}${where}`;
  if (around.includes(data)) return `what it is itself in${where}`;
  const inside = [...around, data];
  if (Array.isArray(data)) {
    for (let i = 0; i < data.length; i++) {
      const lost = lostInJson(data[i], `${at}[${i}]`, inside);
      if (lost !== null) return lost;
    }
    return null;
  }
  const kind = Object.getPrototypeOf(data)?.constructor ?? Object;
  if (ArrayBuffer.isView(data)) return `${kind.name}${where}: use Array.from`;
  if (kind !== Object) return `${kind.name}${where}`;
  for (const [name, value] of Object.entries(data)) {
    const lost = value === undefined ? null : lostInJson(value, at ? `${at}.${name}` : name, inside);
    if (lost !== null) return lost;
  }
  return null;
}
