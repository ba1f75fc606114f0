/**
 * The task interface, which Sobel and every other task implements.
 *
 *     export const task = pictureTask({
 *       name: "brighten",
 *       halo: 0,
 *       params: { by: { type: "integer", minimum: 0, maximum: 255, default: 40 } },
 *       run: ({ pixels }, { by }) => pixels.map((grey) => Math.min(255, grey + by)),
 *     });
 *
 * A task sees one band at a time and nothing else. So it may run in a thread, in another process or on another machine,
 * and it may run again. A picture task returns pixels. A data task returns JSON, and merges the data of two bands. A
 * list task needs no picture: it makes pieces of JSON, runs each, and merges the data of two.
 *
 * Invariant: the result does not depend on the number of bands. For picture tasks the halo ensures this. Data tasks and
 * list tasks ensure it themselves: their `merge` must be associative.
 *
 * Not here: how tasks are found (tasks/index.ts), checked (tasks/check.ts) and run (tasks/run.ts), and the values of
 * their parameters (tasks/params.ts).
 */

import type { Channels } from "./picture/picture.ts";

/**
 * A band with its halo: `width × (halo + rows + halo)` pixels, row-major, 8 bits a channel. A task with several
 * `channels` gets them interleaved. The task may overwrite the pixels.
 */
export interface View {
  pixels: Uint8Array;
  width: number;
  /** The band's own rows: all but the first and the last `halo`. */
  rows: number;
  halo: number;
  /** `y`: the first of the band's own rows, counted from the top of the picture. `height`: the rows of the picture. */
  y: number;
  height: number;
}

export type Scalar =
  | { type: "number" | "integer"; minimum?: number; maximum?: number }
  | { type: "boolean" }
  | { type: "string"; enum?: readonly string[] };

/**
 * One parameter: a JSON schema with these keywords only. A parameter without a default may be absent. A `hidden` one is
 * not in the form. Most hidden ones are computed by a first step.
 */
export type Param = { description?: string; hidden?: boolean } & (
  | { type: "number" | "integer"; minimum?: number; maximum?: number; default?: number }
  | { type: "boolean"; default?: boolean }
  | { type: "string"; enum?: readonly string[]; default?: string }
  | { type: "array"; items: Scalar; minItems?: number; maxItems?: number; default?: readonly unknown[] }
  | { type: "object"; default?: object }
);
/** A task's parameters by name. */
export type Params = { readonly [name: string]: Param };

type ValueOf<P> = P extends { type: "number" | "integer" }
  ? number
  : P extends { type: "boolean" }
    ? boolean
    : P extends { type: "array"; items: infer Item }
      ? readonly ValueOf<Item>[]
      : P extends { type: "object" }
        ? Readonly<Record<string, unknown>>
        : P extends { enum: readonly (infer Choice)[] }
          ? Choice
          : string;
/** The values of the parameters, as `run` gets them. */
export type Values<P extends Params = Params> = {
  [Name in keyof P]: P[Name] extends { default: unknown } ? ValueOf<P[Name]> : ValueOf<P[Name]> | undefined;
};

/** `run` may be async. It is awaited, within the time limit. */
type Awaitable<T> = T | Promise<T>;

interface TaskBase<P extends Params> {
  /** Lower-case letters, digits and hyphens. The queue is named after it. */
  name: string;
  /** A whole number, by default 1. Raise it when the results change: all bands of a job are computed by one version. */
  version?: number;
  /** One line for the page. */
  description?: string;
  params?: P;
  /** The file of the task, for errors. Set when the task is loaded. */
  readonly file?: string;
}

/** A task on a picture. */
interface BandTask<P extends Params> extends TaskBase<P> {
  pieces?: undefined;
  /** How many rows above and below a pixel the task reads. */
  halo: number | ((params: Values<P>) => number);
  /** Channels of a pixel: 1 grey (the default), 3 RGB (transparent pixels over white), 4 RGBA. */
  channels?: Channels;
  /** Pixels of a band, about. By default the setting `BAND_PIXELS`. Choose fewer if the task is slow. */
  bandPixels?: number;
}

/** Returns pixels. */
export interface PictureTask<P extends Params = Params> extends BandTask<P> {
  /**
   * A first step over the whole picture. It runs if one of `params` is not given. `task` gets the parameters that both
   * tasks have. `find` computes `params` from its result.
   */
  first?: {
    params: readonly (keyof P & string)[];
    task: DataTask;
    find(data: unknown, params: Values<P>): { [Name in keyof P]?: NoInfer<ValueOf<P[Name]>> };
  };
  /** Channels of a pixel of the result. By default the same as `channels`. */
  resultChannels?: Channels;
  /** `shrink × shrink` pixels become one: the result is `⌈width / shrink⌉ × ⌈height / shrink⌉`. By default 1. */
  shrink?: number | ((params: Values<P>) => number);
  /** @returns `width × rows` pixels, or fewer with `shrink`. `run` may reuse their buffer for the next band. */
  run(band: View, params: Values<P>): Awaitable<Uint8Array | Uint8ClampedArray>;
}

interface Merging<P extends Params, Part, Whole> {
  /** Merges the data of two neighbours. `upper` is above or before `lower`. Each has one or more bands or pieces. */
  merge(upper: Part, lower: Part): Part;
  /** Makes the answer from the merged data of all bands. By default the answer is that data. */
  finish?(all: Part, params: Values<P>): Whole;
}

/** Returns JSON. */
export interface DataTask<P extends Params = Params, Part = unknown, Whole = unknown>
  extends BandTask<P>,
    Merging<P, Part, Whole> {
  /** @returns the data of the band's own rows */
  run(band: View, params: Values<P>): Awaitable<Part>;
}

/** The body of a request. It is cut while it arrives, into pieces of about `bytes` bytes, 256 KiB by default. */
export interface Input {
  /** Each piece has whole lines. */
  lines(bytes?: number): AsyncIterable<string>;
  /** Each piece has whole words: it is cut behind white space. */
  words(bytes?: number): AsyncIterable<string>;
  /** Each piece has exactly `bytes` bytes, except the last one. As base64. */
  bytes(bytes?: number): AsyncIterable<string>;
}

/** JSON in, JSON out, without a picture. */
export interface ListTask<P extends Params = Params, Piece = unknown, Part = unknown, Whole = unknown>
  extends TaskBase<P>,
    Merging<P, Part, Whole> {
  halo?: undefined;
  channels?: undefined;
  bandPixels?: undefined;
  /** What the body of a request is. By default there is no body. */
  takes?: "text" | "bytes";
  /** The pieces of the work, each a JSON value. An iterable is read twice, first to count its pieces. */
  pieces(params: Values<P>, input: Input): Iterable<Piece> | AsyncIterable<Piece>;
  /** Whether the other pieces cannot change the answer any more. Then they are not run. */
  isDecided?(merged: Part, params: Values<P>): boolean;
  /** @returns the data of one piece */
  run(piece: Piece, params: Values<P>): Awaitable<Part>;
}

export type Task = PictureTask | DataTask | ListTask;

/** A task breaks the interface. Its author must fix it. */
export class TaskError extends Error {
  override name = "TaskError";

  constructor(message: string, task?: Pick<Task, "name" | "file">, options?: ErrorOptions) {
    super(task ? `task ${task.name}: ${message}` : message, options);
    if (task?.file) Object.assign(this, { at: task.file }); // as tasks/thrown.ts does for errors that a task throws
  }
}

/** Rows. With more, most rows of a band would be halo. */
export const MAX_HALO = 256;
export const MAX_SHRINK = 256;

/** Returns the task. It derives the types of `run`'s parameters from `params`. */
export function pictureTask<const P extends Params = Record<never, never>>(task: PictureTask<P>): PictureTask {
  return task as unknown as PictureTask;
}

/** The same for a data task. */
export function dataTask<Part, Whole = Part, const P extends Params = Record<never, never>>(
  task: DataTask<P, Part, Whole>,
): DataTask {
  return having(task, "merge") as unknown as DataTask;
}

/** The same for a list task. */
export function listTask<Piece, Part, Whole = Part, const P extends Params = Record<never, never>>(
  task: ListTask<P, Piece, Part, Whole>,
): ListTask {
  return having(task, "pieces", "merge") as unknown as ListTask;
}

/** Checks that the task has these functions. Without them it would be checked as a task of another kind. */
function having<T extends object>(task: T, ...names: string[]): T {
  for (const name of names) if (!(name in task)) throw new TaskError(`expected a function ${name}, got undefined`);
  return task;
}

/** Whether the task returns JSON. */
export function isData(task: Task): task is DataTask | ListTask {
  return "merge" in task;
}

export function isList(task: Task): task is ListTask {
  return task.pieces !== undefined;
}

export function kindOf(task: Task): "picture" | "data" | "list" {
  if (isList(task)) return "list";
  return isData(task) ? "data" : "picture";
}

/** The version of a task; 0 if there is no task. */
export function versionOf(task: Pick<Task, "version"> | undefined): number {
  return task ? (task.version ?? 1) : 0;
}

/** The name of this version in queues, records and messages: `median`, `median.2`. */
export function wireName(task: Pick<Task, "name" | "version">): string {
  return versionOf(task) === 1 ? task.name : `${task.name}.${versionOf(task)}`;
}

/** The first step, if these values need it. */
export function firstStepOf(task: Task, params: Values): PictureTask["first"] {
  if (isData(task) || !task.first?.params.some((param) => params[param] === undefined)) return undefined;
  return task.first;
}

/** Rows of halo for these values. @throws TaskError if they are not 0 to `MAX_HALO` */
export function haloOf(task: Pick<Task, "name" | "file" | "halo">, params: Values): number {
  const halo = typeof task.halo === "function" ? task.halo(params) : (task.halo ?? 0);
  if (isHalo(halo)) return halo;
  throw new TaskError(`expected a halo of 0 to ${MAX_HALO} whole rows, got ${halo}`, task);
}

export function resultChannelsOf(task: Task): Channels {
  return (isData(task) ? undefined : task.resultChannels) ?? task.channels ?? 1;
}

/** The task's `shrink` for these values. @throws TaskError if it is not 1 to `MAX_SHRINK` */
export function shrinkOf(task: Task, params: Values): number {
  if (isData(task)) return 1;
  const shrink = typeof task.shrink === "function" ? task.shrink(params) : (task.shrink ?? 1);
  if (isShrink(shrink)) return shrink;
  throw new TaskError(`expected to shrink by 1 to ${MAX_SHRINK}, got ${shrink}`, task);
}

const isWhole = (value: unknown, from: number, to: number) =>
  typeof value === "number" && Number.isInteger(value) && from <= value && value <= to;
export const isShrink = (shrink: unknown) => isWhole(shrink, 1, MAX_SHRINK);
export const isHalo = (halo: unknown) => isWhole(halo, 0, MAX_HALO);
