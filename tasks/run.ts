/**
 * The calls that run a task: on a band, and on the merged data of all bands. What a task returns is checked here.
 *
 * Not here: what a task is (task.ts), the thread that it runs in (thread.ts).
 */
import type { Chunk } from "../chunk.ts";
import { convert } from "../picture/colour.ts";
import type { Channels } from "../picture/picture.ts";
import { encodeBand } from "../picture/png-write.ts";
import {
  type DataTask,
  haloOf,
  isData,
  isList,
  type ListTask,
  resultChannelsOf,
  shrinkOf,
  type Task,
  TaskError,
  type Values,
} from "../task.ts";
import { checkedValues } from "./params.ts";

/** A band that has the task's halo, or more. Without a position, it is the whole picture. */
export type BandToRun = Omit<Chunk, "chunkId" | "task" | "attempt">;

/**
 * Runs a task on a band.
 * @returns the pixels of the result's rows; the JSON of a data task
 * @throws whatever the task throws; TaskError if it returns something else; ParamError; RangeError if the halo is too
 *   small
 */
export async function runTask(task: Task, band: BandToRun): Promise<Uint8Array | string> {
  const params = checkedValues(task, band.params);
  const [expected, found] = [isList(task), band.isList === true].map((list) => (list ? "pieces" : "a picture"));
  if (expected !== found) throw new TaskError(`expected a message with ${expected}, got ${found}`, task);
  if (isList(task)) return runPieces(task, band.pixels, params);
  const { width, height } = band;
  const [above, below] = band.halo;
  const halo = haloOf(task, params);
  if (above < halo || below < halo)
    throw new RangeError(`halo: expected at least ${halo} rows above and below, got ${above} and ${below}`);
  const rows = height - above - below;
  const channels = task.channels ?? 1;
  const rowBytes = width * channels;
  const own = samplesOf(band, channels).subarray((above - halo) * rowBytes, (above + rows + halo) * rowBytes);
  const [y, of] = band.position ?? [0, rows];
  const view = { pixels: own, width, rows, halo, y, height: of };
  if (isData(task)) return jsonOf(task, await task.run(view, params));
  const made: unknown = await task.run(view, params);
  const bytes = made instanceof Uint8ClampedArray ? new Uint8Array(made.buffer, made.byteOffset, made.length) : made;
  const shrink = shrinkOf(task, params);
  const [w, h, depth] = [Math.ceil(width / shrink), Math.ceil(rows / shrink), resultChannelsOf(task)];
  if (bytes instanceof Uint8Array && bytes.length === h * w * depth) return bytes;
  const got =
    bytes instanceof Uint8Array ? `${bytes.length} bytes` : ((bytes as object | null)?.constructor?.name ?? bytes);
  const pixels = depth === 1 ? "pixels" : `pixels of ${depth} bytes`;
  throw new TaskError(`expected a Uint8Array of ${w} × ${h} ${pixels}, got ${got}`, task);
}

/** The result of `runTask` in the form in which it is stored: a PNG from `encodeBand`, or JSON in UTF-8. */
export async function encodedResult(task: Task, band: BandToRun): Promise<Uint8Array> {
  const made = await runTask(task, band);
  if (typeof made === "string") return Buffer.from(made);
  const channels = resultChannelsOf(task);
  const width = Math.ceil(band.width / shrinkOf(task, checkedValues(task, band.params)));
  return encodeBand(made, width, made.length / width / channels, channels);
}

/** The band in the task's channels. A third party may have sent others. */
function samplesOf({ pixels, channels: from }: BandToRun, to: Channels): Uint8Array {
  if (from === to) return pixels;
  const samples = new Uint8Array((pixels.length / from) * to);
  convert(pixels, from, samples, to);
  return samples;
}

/** Runs each piece and merges the data, as if each had come from another worker. @returns JSON */
async function runPieces(task: ListTask, json: Uint8Array, params: Values): Promise<string> {
  const pieces = JSON.parse(new TextDecoder().decode(json)) as unknown[];
  let merged = await partOf(task, pieces[0], params);
  for (const piece of pieces.slice(1)) {
    if (task.isDecided?.(merged, params)) break;
    merged = task.merge(merged, await partOf(task, piece, params));
  }
  return jsonOf(task, merged);
}

async function partOf(task: ListTask, piece: unknown, params: Values): Promise<unknown> {
  return JSON.parse(jsonOf(task, await task.run(piece, params)));
}

/** The answer of a data or list task, from the merged data of all bands. @throws whatever the task throws; TaskError */
export function finished(task: DataTask | ListTask, all: unknown, params: Values): unknown {
  const whole = task.finish ? task.finish(all, params) : all;
  jsonOf(task, whole);
  return whole;
}

/** @returns `data` as JSON. @throws TaskError if JSON would change it */
export function jsonOf(task: DataTask | ListTask, data: unknown, what = "data"): string {
  const lost = lostInJson(data);
  if (lost !== null) throw new TaskError(`expected ${what} that JSON can hold, got ${lost}`, task);
  return JSON.stringify(data);
}

const HINTS: Record<string, string> = { Array: ": use Array.from", Promise: ": await it in run" };

/**
 * The first value that JSON would change or drop, and its place: `Infinity at least`. Null if there is none. An
 * undefined property may be dropped, because it still reads as undefined.
 */
function lostInJson(data: unknown, path = "", parents: object[] = []): string | null {
  const at = path && ` at ${path}`;
  if (data === null || typeof data === "string" || typeof data === "boolean") return null;
  if (typeof data === "number") return Number.isFinite(data) ? null : `${data}${at}`;
  if (typeof data !== "object") return `${typeof data}${at}`;
  if (parents.includes(data)) return `a circular reference${at}`;
  const kind = Array.isArray(data) ? Object : (Object.getPrototypeOf(data)?.constructor ?? Object);
  if (kind !== Object) return `${kind.name}${at}${HINTS[ArrayBuffer.isView(data) ? "Array" : kind.name] ?? ""}`;
  const inside = [...parents, data];
  for (const key of Array.isArray(data) ? data.keys() : Object.keys(data)) {
    const value = (data as Record<PropertyKey, unknown>)[key];
    if (value === undefined && typeof key === "string") continue;
    const lost = lostInJson(value, typeof key === "number" ? `${path}[${key}]` : path ? `${path}.${key}` : key, inside);
    if (lost !== null) return lost;
  }
  return null;
}
