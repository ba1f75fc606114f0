/**
 * Bands: how a picture is cut into them, their halo, their ids, and their form on the wire.
 *
 *     message on the queue `tareas` (or `tareas.<task>`): JSON in UTF-8
 *       chunk_id   "{<job id>}:<band number>"   the braces keep a job's keys on one slot of a Redis Cluster
 *       task       "sobel"
 *       halo       [rows above, rows below]     rows of `imagen` that belong to the neighbours
 *       position   [first own row, rows of the picture]; may be absent
 *       params     the task's parameters, by name; may be absent
 *       imagen     base64 of an 8-bit PNG, grey, RGB or RGBA: halo above · the band's rows · halo below
 *       datos      replaces imagen and halo for a task without a picture: a JSON array of pieces
 *
 *     result in Redis
 *       resultado:<chunk_id>                    base64 of an image of the band, with or without its halo;
 *                                               for a task that returns data, base64 of its JSON
 *
 * Bands are whole rows and cover the picture from the top down without overlap. Each has the halo that its task needs:
 * rows of the neighbours, mirrored at the picture's edges without repeating the edge row (BORDER_REFLECT_101).
 *
 * Invariant: the pixels of the whole do not depend on the number of bands.
 *
 * docs/wire.md describes the wire in full, for workers in other languages.
 *
 * Not here: what a task is (task.ts), how messages travel (queue.ts), where results are stored (results.ts), how pixels
 * are compressed (picture/).
 */
import { crc32 } from "node:zlib";
import { shown } from "./ops/shown.ts";
import { Pool, Scratch } from "./picture/buffers.ts";
import { type Channels, collectPixels, ImageError, onePiece, type Raster } from "./picture/picture.ts";
import { GREY, GREY_ALPHA } from "./picture/png-format.ts";
import { readPng } from "./picture/png-read.ts";
import { decodeStored, encodeStored, type Pixels } from "./picture/png-write.ts";

/** How a picture is cut: into `bands` bands of `rows` rows. The last band may have fewer rows. */
export interface Plan {
  width: number;
  height: number;
  rows: number;
  bands: number;
  /** Rows of halo above and below each band. */
  halo: number;
}

/** Rows `y` to `y + rows` of a picture, with their halo: `pixels` has `(halo[0] + rows + halo[1]) × width` pixels. */
export interface Band {
  number: number;
  y: number;
  rows: number;
  width: number;
  channels: Channels;
  halo: [above: number, below: number];
  pixels: Uint8Array;
  /** In a list, `pixels` is a JSON array of pieces in UTF-8: one row of `width` bytes. `y` and `rows` count pieces. */
  isList?: true;
}

/** A band as a worker receives it, with its task and its job. */
export interface Chunk {
  chunkId: string;
  task: string;
  params?: unknown;
  /** The attempt of the job. It is in a header of the message, not in the body; undefined if a third party sent it. */
  attempt?: number | undefined;
  halo: [above: number, below: number];
  /** The first of the band's own rows, and the rows of the picture; undefined if a third party left it out. */
  position?: [y: number, height: number] | undefined;
  width: number;
  /** Rows of `pixels`, halo included. */
  height: number;
  channels: Channels;
  pixels: Uint8Array;
  /** The same as in `Band`. */
  isList?: true | undefined;
}

/** A message, an id or a result that does not have the form above. */
export class WireError extends Error {
  override name = "WireError";
}

/** A request can ask for at most this many bands. */
export const MAX_BANDS = 4096;
/** RabbitMQ refuses messages over 16 MiB by default. This leaves room for the other fields. */
const MAX_BASE64_BYTES = 12 << 20;
const MAX_PICTURE_BYTES = (MAX_BASE64_BYTES * 3) / 4;

/** The bytes before and after the picture, in a message that ends with it. */
const BEFORE_IMAGEN = Buffer.from(',"imagen":"');
const END = Buffer.from('"}');

const UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
const CHUNK_ID = new RegExp(`^\\{(${UUID})\\}:(0|[1-9]\\d{0,9})$`);
const JOB_ID = new RegExp(`^${UUID}$`);
/** The name has the version if that is not 1: `median.2`. */
const TASK_NAME = /^[a-z][a-z0-9-]{0,63}(\.(?!1$)[1-9]\d{0,8})?$/;

/** The wanted size of a band: `rows` if it is set, else `bands` if that is set, else `pixels` and `atLeast`. */
export interface Cut {
  /** Pixels of a band, about. */
  pixels: number;
  /** At least this many bands, if the picture has that many rows. */
  atLeast?: number;
  /** About this many bands, not fewer. */
  bands?: number | undefined;
  /** Rows of a band. */
  rows?: number | undefined;
  channels?: Channels;
  /** The rows of a band are a multiple of this, because `shrink` rows become one row of the result. */
  shrink?: number;
}

/**
 * Cuts `width × height` into bands of even height.
 * @throws ImageError "too-large" if not even `shrink` rows fit into a message
 */
export function planBands(width: number, height: number, halo: number, cut: Cut): Plan {
  const { channels = 1, shrink = 1 } = cut;
  const maxRows = Math.floor(MAX_PICTURE_BYTES / (width * channels + 1)) - 2 * halo;
  if (maxRows < shrink) {
    const maxWidth = Math.floor((Math.floor(MAX_PICTURE_BYTES / (shrink + 2 * halo)) - 1) / channels);
    throw new ImageError("too-large", `image too wide: expected at most ${maxWidth} pixels a row, got ${width}`);
  }
  const wanted = Math.min(maxRows, height, wantedRows(width, height, maxRows, cut));
  const rows = wanted === height ? height : Math.min(height, Math.max(shrink, wanted - (wanted % shrink)));
  return { width, height, rows, bands: Math.ceil(height / rows), halo };
}

function wantedRows(width: number, height: number, maxRows: number, cut: Cut): number {
  const { pixels, atLeast = 1, bands, rows } = cut;
  // Limit the number of bands: a request for one row in each band must not flood the queue.
  if (rows !== undefined) return Math.max(rows, Math.ceil(height / MAX_BANDS));
  if (bands !== undefined) return rowsOf(height, bands);
  const sized = Math.min(maxRows, Math.max(1, Math.floor(pixels / width)));
  return rowsOf(height, Math.max(Math.ceil(height / sized), atLeast));
}

/** The largest number of rows in a band that gives at least `bands` bands. */
function rowsOf(height: number, bands: number): number {
  const even = Math.ceil(height / bands);
  return Math.ceil(height / even) >= bands ? even : Math.max(1, Math.floor(height / bands));
}

/** First row and number of rows of a band. */
export function bandRows(plan: Pick<Plan, "rows" | "height">, number: number): { y: number; rows: number } {
  const y = number * plan.rows;
  return { y, rows: Math.min(plan.rows, plan.height - y) };
}

/**
 * Turns a stream of rows into a stream of bands. Each band owns its pixels. Only the buffer of the next band is held.
 * @param pool provides the buffers; the caller may return them to it
 */
export async function* split(image: Raster, plan: Plan, pool = new Pool(0)): AsyncGenerator<Band> {
  const { height, halo } = plan;
  const { channels } = image;
  const rowBytes = plan.width * channels;
  let band: Band | undefined = emptyBand(plan, 0, channels, pool);
  let y = 0; // the next row of the stream
  // Read to the end even after the last band: an error may follow the last row.
  for await (const block of image.blocks) {
    let at = 0;
    while (band) {
      const end = Math.min(band.y + band.rows + halo, height);
      if (y === end) {
        mirrorEdges(band, height, halo);
        const next = following(band, plan, pool); // copies the shared rows before the caller gets the band
        yield band;
        band = next;
      } else if (at < block.length) {
        const rows = Math.min((block.length - at) / rowBytes, end - y);
        band.pixels.set(block.subarray(at, at + rows * rowBytes), (y - band.y + halo) * rowBytes);
        at += rows * rowBytes;
        y += rows;
      } else {
        break;
      }
    }
  }
}

/** The next band, with the rows that it shares with this one; undefined after the last. */
function following(band: Band, plan: Plan, pool: Pool): Band | undefined {
  if (band.number + 1 === plan.bands) return undefined;
  const next = emptyBand(plan, band.number + 1, band.channels, pool);
  next.pixels.set(band.pixels.subarray(band.rows * band.width * band.channels));
  return next;
}

function emptyBand(plan: Plan, number: number, channels: Channels, pool: Pool): Band {
  const { width, halo } = plan;
  const { y, rows } = bandRows(plan, number);
  const pixels = pool.take((rows + 2 * halo) * width * channels); // every row is filled before the band is yielded
  return { number, y, rows, width, channels, halo: [halo, halo], pixels };
}

/** Fills the halo rows that lie outside the picture. */
function mirrorEdges({ y, rows, width, channels, pixels }: Band, height: number, halo: number): void {
  const rowBytes = width * channels;
  for (let row = y - halo; row < y + rows + halo; row++) {
    if (row >= 0 && row < height) continue;
    const from = (reflect101(row, height) - y + halo) * rowBytes;
    pixels.copyWithin((row - y + halo) * rowBytes, from, from + rowBytes);
  }
}

/** The row inside `0 … size - 1` that replaces a row outside: `dcb|abcd|cba`, repeated. A single row replaces all. */
export function reflect101(row: number, size: number): number {
  if (size === 1) return 0;
  const period = 2 * (size - 1);
  const folded = ((row % period) + period) % period;
  return Math.min(folded, period - folded);
}

/** For each column from `-halo` to `width - 1 + halo`, in this order, the column to read instead. */
export function reflectedColumns(width: number, halo: number): Int32Array {
  return Int32Array.from({ length: width + 2 * halo }, (_, i) => reflect101(i - halo, width));
}

/** CRC-32 of a band's own rows. It identifies the input of a result. */
export function rowsCrc({
  pixels,
  width,
  channels,
  halo,
}: Pick<Band, "pixels" | "width" | "channels" | "halo">): number {
  const rowBytes = width * channels;
  return crc32(pixels.subarray(halo[0] * rowBytes, pixels.length - halo[1] * rowBytes));
}

export function chunkIdOf(jobId: string, band: number): string {
  return `{${jobId}}:${band}`;
}

/** @throws WireError */
export function parseChunkId(chunkId: unknown): { jobId: string; band: number } {
  const match = typeof chunkId === "string" ? CHUNK_ID.exec(chunkId) : null;
  if (!match) throw new WireError(`chunk_id: expected "{<job id>}:<band>", got ${quoted(chunkId)}`);
  return { jobId: match[1], band: Number(match[2]) };
}

export function isChunkId(chunkId: string): boolean {
  return CHUNK_ID.test(chunkId);
}

export function isJobId(id: string): boolean {
  return JOB_ID.test(id);
}

export function isTaskName(name: unknown): name is string {
  return typeof name === "string" && TASK_NAME.test(name);
}

/** Buffers for the last outgoing message and the last incoming picture. */
const outgoing = new Scratch();
const incoming = new Scratch();

/**
 * The message for a chunk. The picture comes last, so that the other fields can be read without it.
 * @returns bytes that are valid until the next call. Send or copy them at once
 */
export function encodeMessage(chunk: Chunk): Buffer {
  const { chunkId, task, halo, position, params, width, height, channels, pixels } = chunk;
  if (chunk.isList) {
    const fields = JSON.stringify({ chunk_id: chunkId, task, params }).slice(0, -1);
    return Buffer.concat([Buffer.from(`${fields},"datos":`), pixels, Buffer.from("}")]);
  }
  const head =
    JSON.stringify({ chunk_id: chunkId, task, halo, position, params }).slice(0, -1) + BEFORE_IMAGEN.toString();
  const imagen = encodeStored(pixels, width, height, channels).toBase64();
  const at = Buffer.byteLength(head);
  const end = at + imagen.length;
  const { buffer, byteOffset, length } = outgoing.take(end + END.length);
  const message = Buffer.from(buffer, byteOffset, length);
  message.write(head);
  message.write(imagen, at);
  message.set(END, end);
  return message;
}

/** @throws WireError that names the invalid field */
export async function decodeMessage(body: Uint8Array): Promise<Chunk> {
  const { chunk_id: chunkId, task, halo, position, params, imagen, datos } = quickFields(body) ?? parseObject(body);
  parseChunkId(chunkId);
  if (!isTaskName(task)) throw new WireError(`task: expected a task's name, got ${quoted(task)}`);
  if (datos !== undefined && imagen === undefined) {
    if (!Array.isArray(datos) || datos.length === 0)
      throw new WireError(`datos: expected a list, got ${quoted(datos)}`);
    const pixels = new TextEncoder().encode(JSON.stringify(datos)); // the same bytes if `JSON.stringify` made them
    const shape = { width: pixels.length, height: 1, channels: 1 as const };
    return { chunkId: chunkId as string, task, params, halo: [0, 0], ...shape, pixels, isList: true };
  }
  if (!isPair(halo)) throw new WireError(`halo: expected [rows above, rows below], got ${quoted(halo)}`);
  const picture = await decodePicture(imagen instanceof Uint8Array ? imagen : bytesOf(imagen));
  if (halo[0] + halo[1] >= picture.height)
    throw new WireError(`halo: expected fewer than ${picture.height} rows, got ${quoted(halo)}`);
  if (position !== undefined && !isPair(position))
    throw new WireError(`position: expected [first row, rows of the picture], got ${quoted(position)}`);
  return { chunkId: chunkId as string, task, halo, ...(position && { position }), params, ...picture };
}

/**
 * As `parseObject`, but with `imagen` decoded, and without parsing megabytes as JSON. The bytes of `imagen` are valid
 * until the next message.
 * @returns undefined if the picture is not the last field, or if a field is invalid
 */
function quickFields(body: Uint8Array): Record<string, unknown> | undefined {
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.length);
  const at = bytes.indexOf(BEFORE_IMAGEN);
  if (at < 0 || !bytes.subarray(-2).equals(END)) return undefined;
  const base64 = bytes.toString("latin1", at + BEFORE_IMAGEN.length, bytes.length - END.length);
  try {
    // Base64 has no quotation mark and no backslash. So if this decodes, the JSON string really ends at `END`.
    const imagen = fromBase64(base64, "imagen", incoming);
    return { ...JSON.parse(`${utf8.decode(bytes.subarray(0, at))}}`), imagen };
  } catch {
    return undefined; // `parseObject` reports what is wrong
  }
}

/** @throws WireError */
function parseObject(body: Uint8Array): Record<string, unknown> {
  const fields = jsonIn(body, "message");
  if (fields === null || typeof fields !== "object") throw new WireError("message: expected a JSON object");
  return fields as Record<string, unknown>;
}

/** @throws WireError */
function bytesOf(imagen: unknown): Uint8Array {
  if (typeof imagen !== "string") throw new WireError(`imagen: expected base64, got ${quoted(imagen)}`);
  return fromBase64(imagen, "imagen");
}

const utf8 = new TextDecoder("utf-8", { fatal: true }); // throws a TypeError for other bytes

/** @throws WireError that names `what` */
export function jsonIn(bytes: Uint8Array, what: string): unknown {
  try {
    return JSON.parse(utf8.decode(bytes));
  } catch (cause) {
    const why = (cause as Error).message;
    throw new WireError(`${what}: expected JSON, got ${bytes.length} bytes that are not: ${why}`, { cause });
  }
}

/** Decodes a PNG. If it is not one of `encodeStored`, its pixels become grey or RGBA. @throws WireError */
async function decodePicture(png: Uint8Array): Promise<Pixels> {
  const stored = decodeStored(png);
  if (stored) return stored;
  const limit = MAX_BASE64_BYTES;
  try {
    const channels = [GREY, GREY_ALPHA].includes(png[25]) ? 1 : 4;
    const image = await readPng(onePiece(png.slice()), { streamed: limit, whole: limit }, undefined, channels);
    return { width: image.width, height: image.height, channels, pixels: await collectPixels(image) };
  } catch (cause) {
    throw new WireError(`imagen: ${(cause as Error).message}`, { cause });
  }
}

function isPair(rows: unknown): rows is [number, number] {
  return Array.isArray(rows) && rows.length === 2 && rows.every((count) => Number.isInteger(count) && count >= 0);
}

/**
 * Decodes strict base64: padded, without white space or other characters, without stray bits in the last character.
 * @param where the buffer for the bytes, which are valid until its next use
 * @throws WireError
 */
export function fromBase64(base64: string, field: string, where = new Scratch()): Uint8Array {
  if (base64.length % 4 !== 0)
    throw new WireError(`${field}: expected base64, got ${base64.length} characters, not a multiple of 4`);
  const bytes = where.take((base64.length / 4) * 3);
  let written: number;
  try {
    ({ written } = bytes.setFromBase64(base64, { lastChunkHandling: "strict" }));
  } catch (cause) {
    throw new WireError(`${field}: expected base64, got other characters`, { cause });
  }
  // `setFromBase64` skips white space. Then there are fewer bytes than the length implies.
  if (Math.ceil(written / 3) * 4 !== base64.length) throw new WireError(`${field}: expected base64, got white space`);
  return bytes.subarray(0, written);
}

const quoted = (value: unknown) => shown(value, 80);
