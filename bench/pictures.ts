/**
 * The benchmark's pictures: drawn here, the same pixels in every run, and written as PNG the way libpng does: each row
 * with the filter of the smallest sum (PNG, 12.7), deflated, in IDAT chunks of 8 KiB.
 *
 *     photo      smooth colour, discs, bars and lettering with soft edges, and a sensor's noise over everything
 *     line art   the same shapes, black on white, without noise
 *     flat       one colour
 *
 * Above 24 megapixels a picture repeats its top rows, which are compressed only once. A picture of a gigapixel
 * therefore costs no more to make than one of 24 megapixels and is never in memory as a whole. For a reader it is an
 * ordinary PNG.
 *
 * Not here: the project's own reader, writer or kernel, except for the sum of two Adler-32 checksums. sharp draws and
 * filters.
 */
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { constants, deflateRawSync, deflateSync, inflateSync } from "node:zlib";
import sharp from "sharp";
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
const EDITION = 2;
const CHANNELS = 3;
const IDAT_BYTES = 8192;
/** Pixels that are drawn before they repeat. */
const MAX_DRAWN_PIXELS = 24_000_000;
const SHAPES = 160;
/** Knots of the smooth background. */
const BACKGROUND = { width: 36, height: 24, channels: CHANNELS } as const;
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
    for await (const piece of pngPieces(sketch)) await file.writeFile(piece);
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
export async function* pngPieces(sketch: Sketch, maxDrawn = MAX_DRAWN_PIXELS): AsyncGenerator<Uint8Array> {
  const { kind, width, height } = sketch;
  const tile = { kind, width, height: Math.min(height, Math.max(1, Math.floor(maxDrawn / width))) };
  yield Buffer.concat([SIGNATURE, ihdr(width, height, 8, RGB), chunk("IDAT", Buffer.of(0x78, 0x01))]);
  const lines = await scanlines(tile);
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
async function scanlines({ kind, width, height }: Sketch): Promise<Buffer> {
  const pixels = await drawn({ kind, width, height });
  const image = sharp(pixels, { raw: { width, height, channels: CHANNELS } });
  const png = await image.png({ adaptiveFiltering: true, compressionLevel: 0 }).toBuffer();
  const lines = inflateSync(idatOf(png), { chunkSize: 1 << 20 });
  lines[0] = 0;
  lines.set(pixels.subarray(0, CHANNELS * width), 1);
  return lines;
}

/** The zlib stream of a PNG. */
export function idatOf(file: Buffer): Buffer {
  const parts: Buffer[] = [];
  for (let at = 8; at < file.length; at += 12 + file.readUInt32BE(at)) {
    const payload = file.subarray(at + 8, at + 8 + file.readUInt32BE(at));
    if (file.toString("latin1", at + 4, at + 8) === "IDAT") parts.push(payload);
  }
  return Buffer.concat(parts);
}

/** The pixels, RGB, row-major. */
export async function drawn({ kind, width, height }: Sketch): Promise<Buffer> {
  const next = random(7);
  const below = (limit: number) => Math.floor(((next() >>> 0) / 2 ** 32) * limit);
  const colour = kind === "flat" ? "#787878" : "white";
  const knots = Uint8Array.from({ length: BACKGROUND.width * BACKGROUND.height * CHANNELS }, () => below(256));
  const background =
    kind === "photo"
      ? sharp(knots, { raw: BACKGROUND }).resize(width, height, { fit: "fill", kernel: "cubic" })
      : sharp({ create: { width, height, channels: CHANNELS, background: colour } });
  if (kind !== "flat") background.composite([{ input: shapes(kind, width, height, below) }]);
  const pixels = await background.removeAlpha().raw().toBuffer();
  if (kind === "photo") addNoise(pixels, next);
  return pixels;
}

/** Discs, slanting bars, and lines of lettering with strokes as thin as in print, as an SVG. */
function shapes(kind: Kind, width: number, height: number, below: (limit: number) => number): Buffer {
  const one = () => {
    const [x, y] = [below(width), below(height)];
    const fill = kind === "photo" ? `rgb(${below(256)}, ${below(256)}, ${below(256)})` : "black";
    const size = Math.max(2, width / 200 + below(width / 13));
    const thick = Math.max(1, size / 20);
    const [disc, bar] = [below(3) === 0, below(2) === 0];
    if (disc) return `<circle cx="${x}" cy="${y}" r="${size}" fill="${fill}"/>`;
    const lean = ((below(400) - 200) / 100) * size;
    const strokes = Array.from({ length: 12 }, (_, i) => x + i * 4 * thick + below(2 * thick));
    const letters = strokes.map((from) => `M${from} ${y}h${thick}v${6 * thick}h${-thick}z`).join("");
    return `<path d="${bar ? `M${x} ${y}h${thick}l${lean} ${size}h${-thick}z` : letters}" fill="${fill}"/>`;
  };
  const rendering = kind === "photo" ? "auto" : "crispEdges";
  const size = `width="${width}" height="${height}" shape-rendering="${rendering}"`;
  const all = Array.from({ length: SHAPES }, one).join("");
  return Buffer.from(`<svg xmlns="http://www.w3.org/2000/svg" ${size}>${all}</svg>`);
}

/** About normally distributed: the sum of four bytes. The last bit of Math.log may differ between engines. */
function addNoise(pixels: Uint8Array, next: () => number): void {
  const noisy = new Uint8ClampedArray(pixels.buffer, pixels.byteOffset, pixels.length);
  const scale = SIGMA / Math.sqrt((4 * (256 * 256 - 1)) / 12);
  for (let i = 0; i < noisy.length; i++) {
    const bits = next();
    const sum = (bits & 255) + ((bits >>> 8) & 255) + ((bits >>> 16) & 255) + (bits >>> 24) - 510;
    noisy[i] += sum * scale;
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
