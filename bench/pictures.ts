/**
 * The benchmark's pictures: drawn here, the same pixels in every run, and written as PNG the way libpng does: each row
 * with the filter of the smallest sum (PNG, 12.7), deflated, in IDAT chunks of 8 KiB.
 *
 *     photo      smooth colour, discs, bars and lettering with soft edges, and a sensor's noise over everything
 *     line art   the same shapes, black on white, without noise
 *     flat       one colour
 *
 * Above 24 megapixels a picture repeats its top rows, which are compressed only once. A picture of a gigapixel therefore
 * costs no more to make than one of 24 megapixels and is never in memory as a whole. For a reader it is an ordinary PNG.
 *
 * Not here: the project's own reader, writer or kernel, except for the sum of two Adler-32 checksums.
 */
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { constants, deflateRawSync, deflateSync } from "node:zlib";
import { combineAdler } from "../picture/png-format.ts";
import { chunk, ihdr, RGB, SIGNATURE } from "../test/pictures.ts";

export const KINDS = ["photo", "line art", "flat"] as const;
export type Kind = (typeof KINDS)[number];

export interface Sketch {
  kind: Kind;
  width: number;
  height: number;
}

/** Part of the file names in the cache. Increment it when the drawing changes. */
const EDITION = 1;
const CHANNELS = 3;
const IDAT_BYTES = 8192;
/** Pixels that are drawn before they repeat. */
const MAX_DRAWN_PIXELS = 24_000_000;
const SHAPES = 160;
/** Knots of the smooth background. */
const BACKGROUND = { columns: 36, rows: 24 };
/** Standard deviation of the noise, in grey levels. */
const SIGMA = 1.5;

export function megapixels({ width, height }: Sketch): number {
  return (width * height) / 1e6;
}

/** The path of a picture's file. It is drawn at the first call and cached in the temporary folder. */
export async function pictureFile(sketch: Sketch): Promise<string> {
  const folder = join(tmpdir(), "sobel-bench");
  const { kind, width, height } = sketch;
  const path = join(folder, `${kind.replace(" ", "-")}-${width}x${height}-${EDITION}.png`);
  if (existsSync(path)) return path;
  mkdirSync(folder, { recursive: true });
  const part = `${path}.${process.pid}`;
  try {
    const file = await open(part, "w");
    for (const piece of pngPieces(sketch)) await file.writeFile(piece);
    await file.close();
    renameSync(part, path);
  } finally {
    rmSync(part, { force: true });
  }
  return path;
}

/**
 * The PNG file in pieces.
 * @param maxDrawn pixels that are drawn before they repeat
 */
export function* pngPieces(sketch: Sketch, maxDrawn = MAX_DRAWN_PIXELS): Generator<Uint8Array> {
  const { kind, width, height } = sketch;
  const tile = { kind, width, height: Math.min(height, Math.max(1, Math.floor(maxDrawn / width))) };
  yield Buffer.concat([SIGNATURE, ihdr(width, height, 8, RGB), chunk("IDAT", Buffer.of(0x78, 0x01))]);
  const lines = scanlines(tile);
  const tileSum = adlerOf(lines);
  const tileChunks = idats(lines);
  let adler = 1;
  let y = 0;
  for (; y + tile.height <= height; y += tile.height) {
    adler = combineAdler(adler, tileSum, lines.length);
    yield tileChunks;
  }
  if (y < height) {
    const rest = lines.subarray(0, (height - y) * (1 + CHANNELS * width));
    adler = combineAdler(adler, adlerOf(rest), rest.length);
    yield idats(rest);
  }
  const end = Buffer.of(0x03, 0, 0, 0, 0, 0);
  end.writeUInt32BE(adler, 2);
  yield Buffer.concat([chunk("IDAT", end), chunk("IEND")]);
}

/** Deflated with a full flush and no final block: the next part refers to nothing before it, so parts can repeat. */
function idats(lines: Uint8Array): Uint8Array {
  const { Z_FILTERED, Z_FULL_FLUSH } = constants;
  const data = deflateRawSync(lines, { level: 3, strategy: Z_FILTERED, finishFlush: Z_FULL_FLUSH, chunkSize: 1 << 20 });
  const chunks = [];
  for (let at = 0; at < data.length; at += IDAT_BYTES) chunks.push(chunk("IDAT", data.subarray(at, at + IDAT_BYTES)));
  return Buffer.concat(chunks);
}

/** A zlib stream ends with the Adler-32 of its content. */
function adlerOf(bytes: Uint8Array): number {
  return deflateSync(bytes, { level: 0, chunkSize: 1 << 20 })
    .subarray(-4)
    .readUInt32BE();
}

/** All rows of a picture as PNG scanlines. The first does not refer to a row above, so that it may follow the last. */
export function scanlines(sketch: Sketch): Uint8Array {
  const length = CHANNELS * sketch.width;
  const lines = new Uint8Array((1 + length) * sketch.height);
  const candidates = Array.from({ length: 5 }, () => new Uint8Array(length));
  let above: Uint8Array = new Uint8Array(length);
  let at = 0;
  for (const row of drawnRows(sketch)) {
    const best = filtered(row, above, candidates, at === 0 ? 2 : 5);
    lines[at] = best;
    lines.set(candidates[best], at + 1);
    at += 1 + length;
    above = row;
  }
  return lines;
}

/** Applies the first `count` filters. @returns the one whose bytes, taken as signed, have the smallest absolute sum */
function filtered(row: Uint8Array, above: Uint8Array, out: Uint8Array[], count: number): number {
  let best = 0;
  let smallest = Number.POSITIVE_INFINITY;
  for (let type = 0; type < count; type++) {
    const sum = applyFilter(type, row, above, out[type]);
    if (sum < smallest) [best, smallest] = [type, sum];
  }
  return best;
}

function applyFilter(type: number, row: Uint8Array, above: Uint8Array, out: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < row.length; i++) {
    const a = i < CHANNELS ? 0 : row[i - CHANNELS];
    const b = above[i];
    let guess = 0;
    if (type === 1) guess = a;
    else if (type === 2) guess = b;
    else if (type === 3) guess = (a + b) >> 1;
    else if (type === 4) guess = paeth(a, b, i < CHANNELS ? 0 : above[i - CHANNELS]);
    const byte = (row[i] - guess) & 255;
    out[i] = byte;
    sum += byte < 128 ? byte : 256 - byte;
  }
  return sum;
}

function paeth(a: number, b: number, c: number): number {
  const [pa, pb, pc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
  return pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
}

/** The pixels, RGB, row by row. A row is valid until the second next one is requested. */
export function* drawnRows({ kind, width, height }: Sketch): Generator<Uint8Array> {
  const next = random(7);
  const paint = painter(kind, width, height, next);
  const rows = [new Uint8Array(CHANNELS * width), new Uint8Array(CHANNELS * width)];
  const colours = new Float64Array(CHANNELS * width);
  for (let y = 0; y < height; y++) {
    const row = rows[y % 2];
    paint(y, colours);
    if (kind === "photo") addNoise(colours, row, next);
    else for (let i = 0; i < row.length; i++) row[i] = colours[i];
    yield row;
  }
}

/** About normally distributed: the sum of four bytes. Math.log and its like may differ in the last bit between engines. */
function addNoise(colours: Float64Array, row: Uint8Array, next: () => number): void {
  const scale = SIGMA / Math.sqrt((4 * (256 * 256 - 1)) / 12);
  for (let i = 0; i < row.length; i++) {
    const bits = next();
    const sum = (bits & 255) + ((bits >>> 8) & 255) + ((bits >>> 16) & 255) + (bits >>> 24) - 510;
    const level = colours[i] + sum * scale + 0.5;
    row[i] = clamp(level, 255);
  }
}

/** Marsaglia's xorshift, 32 bits. */
function random(seed: number): () => number {
  let state = seed * 2654435761;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state;
  };
}

/** A function that paints row `y` without noise. */
function painter(kind: Kind, width: number, height: number, next: () => number) {
  if (kind === "flat") return (_: number, out: Float64Array) => void out.fill(120);
  const below = (limit: number) => Math.floor(((next() >>> 0) / 2 ** 32) * limit);
  const shapes = Array.from({ length: SHAPES }, () => shape(width, height, below));
  const background =
    kind === "photo" ? smooth(width, height, below) : (_: number, out: Float64Array) => void out.fill(255);
  return (y: number, out: Float64Array) => {
    background(y, out);
    for (const { top, bottom, colour, spans } of shapes) {
      if (y < top || y > bottom) continue;
      for (const [from, to] of spans(y)) {
        if (kind === "photo") blend(out, from, to, colour);
        else out.fill(0, CHANNELS * clamp(Math.round(from), width), CHANNELS * clamp(Math.round(to), width));
      }
    }
  };
}

function clamp(x: number, max: number): number {
  return Math.max(0, Math.min(x, max));
}

interface Shape {
  top: number;
  bottom: number;
  colour: number[];
  /** The parts of row `y` that it covers. */
  spans(y: number): [from: number, to: number][];
}

/** A disc, a slanting bar, or a line of lettering: strokes as thin as in print. */
function shape(width: number, height: number, below: (limit: number) => number): Shape {
  const [x, top] = [below(width), below(height)];
  const colour = [below(256), below(256), below(256)];
  const size = Math.max(2, width / 200 + below(width / 13));
  const kind = below(3);
  if (kind === 0) {
    const across = (y: number) => Math.sqrt(Math.max(0, size * size - (y - top) ** 2));
    return { top: top - size, bottom: top + size, colour, spans: (y) => [[x - across(y), x + across(y)]] };
  }
  const slope = (below(400) - 200) / 100;
  const thick = Math.max(1, size / 20);
  if (kind === 1) {
    const left = (y: number) => x + (y - top) * slope;
    return { top, bottom: top + size, colour, spans: (y) => [[left(y), left(y) + thick]] };
  }
  const strokes = Array.from({ length: 12 }, (_, i) => x + i * 4 * thick + below(2 * thick));
  return { top, bottom: top + 6 * thick, colour, spans: () => strokes.map((from) => [from, from + thick]) };
}

/** Paints `from` to `to`. Pixels at the ends are blended by the part that is covered. */
function blend(out: Float64Array, from: number, to: number, colour: number[]): void {
  const last = Math.min(out.length / CHANNELS, Math.ceil(to));
  for (let x = Math.max(0, Math.floor(from)); x < last; x++) {
    const covered = Math.min(to, x + 1) - Math.max(from, x);
    for (let c = 0; c < CHANNELS; c++) out[CHANNELS * x + c] += (colour[c] - out[CHANNELS * x + c]) * covered;
  }
}

/** A smooth background through random colours: Catmull–Rom splines. */
function smooth(width: number, height: number, below: (limit: number) => number) {
  const { columns, rows } = BACKGROUND;
  const knots = Float64Array.from({ length: (columns + 3) * (rows + 3) * CHANNELS }, () => below(256));
  const across = Array.from({ length: width }, (_, x) => cubic((x / width) * columns));
  const line = new Float64Array((columns + 3) * CHANNELS);
  return (y: number, out: Float64Array) => {
    const [at, ...down] = cubic((y / height) * rows);
    for (let i = 0; i < line.length; i++) {
      line[i] = 0;
      for (let k = 0; k < 4; k++) line[i] += down[k] * knots[(at + k) * line.length + i];
    }
    for (let x = 0; x < width; x++) {
      const [column, a, b, c, d] = across[x];
      for (let i = 0, k = CHANNELS * column; i < CHANNELS; i++, k++) {
        out[CHANNELS * x + i] = a * line[k] + b * line[k + CHANNELS] + c * line[k + 6] + d * line[k + 9];
      }
    }
  };
}

/** The first of the four knots around a place, and the weight of each. */
function cubic(place: number): [at: number, a: number, b: number, c: number, d: number] {
  const at = Math.floor(place);
  const t = place - at;
  return [
    at,
    ((2 - t) * t - 1) * t * 0.5,
    ((3 * t - 5) * t * t + 2) * 0.5,
    ((4 - 3 * t) * t + 1) * t * 0.5,
    (t - 1) * t * t * 0.5,
  ];
}
