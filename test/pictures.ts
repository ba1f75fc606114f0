// Pictures for the tests: a writer of every kind of PNG, broken ones too, and the grey that each should become. Written
// from the specification, pixel by pixel. Nothing here is shared with the reader and writer in picture/.
import { expect } from "bun:test";
import { crc32, deflateSync } from "node:zlib";
import { type Channels, collectPixels, type PixelLimits, type Raster } from "../picture/picture.ts";
import { readPng } from "../picture/png-read.ts";

export const GREY = 0;
export const RGB = 2;
export const PALETTE = 3;
export const GREY_ALPHA = 4;
export const RGBA = 6;
export const CHANNELS: Record<number, number> = { [GREY]: 1, [RGB]: 3, [PALETTE]: 1, [GREY_ALPHA]: 2, [RGBA]: 4 };

export const SIGNATURE = Buffer.from("89504e470d0a1a0a", "hex");

export interface Picture {
  width: number;
  height: number;
  colour: number;
  depth: number;
  /** `width × height × channels`, interleaved, each of `depth` bits. */
  samples: Uint16Array;
  interlaced?: boolean;
  /** RGB triples. */
  palette?: Uint8Array;
  /** The payload of tRNS. */
  transparency?: Uint8Array;
  /** The filter of each scanline; by default all five in turn. */
  filter?: (line: number) => number;
}

/** The pass of each pixel in Adam7: the 8 × 8 pattern of the specification. */
const PATTERN = ["16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777"];

export function chunk(type: string, payload: Uint8Array = Buffer.alloc(0)): Buffer {
  const bytes = Buffer.alloc(12 + payload.length);
  bytes.writeUInt32BE(payload.length, 0);
  bytes.write(type, 4, "latin1");
  bytes.set(payload, 8);
  bytes.writeUInt32BE(crc32(bytes.subarray(4, -4)), 8 + payload.length);
  return bytes;
}

export function ihdr(width: number, height: number, depth: number, colour: number, rest = [0, 0, 0]): Buffer {
  const payload = Buffer.alloc(13);
  payload.writeUInt32BE(width, 0);
  payload.writeUInt32BE(height, 4);
  payload.set([depth, colour, ...rest], 8);
  return chunk("IHDR", payload);
}

export function headerOf({ width, height, depth, colour, interlaced }: Picture): Buffer {
  return ihdr(width, height, depth, colour, [0, 0, interlaced ? 1 : 0]);
}

/** A whole file. `idat` are the sizes of its IDAT chunks; the last size repeats. */
export function pngOf(picture: Picture, idat = [Number.POSITIVE_INFINITY]): Buffer {
  const parts: Uint8Array[] = [SIGNATURE, headerOf(picture)];
  if (picture.palette) parts.push(chunk("PLTE", picture.palette));
  if (picture.transparency) parts.push(chunk("tRNS", picture.transparency));
  const data = deflateSync(scanlines(picture));
  for (let at = 0, i = 0; at < data.length; i++) {
    const part = data.subarray(at, at + idat[Math.min(i, idat.length - 1)]);
    parts.push(chunk("IDAT", part));
    at += part.length;
  }
  return Buffer.concat([...parts, chunk("IEND")]);
}

/** The data of a file before compression: the filtered scanlines of the picture, or of its seven passes. */
export function scanlines(picture: Picture): Buffer {
  const { width, height, interlaced, filter = (line) => line % 5 } = picture;
  const passes = interlaced ? [1, 2, 3, 4, 5, 6, 7] : [0];
  const lines: Uint8Array[] = [];
  for (const pass of passes) {
    let above: Uint8Array | undefined;
    for (let y = 0; y < height; y++) {
      const columns = [...Array(width).keys()].filter((x) => !pass || PATTERN[y % 8][x % 8] === `${pass}`);
      if (columns.length === 0) continue;
      const row = packed(picture, y, columns);
      lines.push(filtered(filter(lines.length), row, above ?? new Uint8Array(row.length), picture));
      above = row;
    }
  }
  return Buffer.concat(lines);
}

function packed({ width, colour, depth, samples }: Picture, y: number, columns: number[]): Uint8Array {
  const channels = CHANNELS[colour];
  const row = new Uint8Array(Math.ceil((columns.length * channels * depth) / 8));
  let bit = 0;
  for (const x of columns) {
    for (let c = 0; c < channels; c++) {
      const sample = samples[(y * width + x) * channels + c];
      for (let b = depth - 1; b >= 0; b--, bit++) row[bit >> 3] |= ((sample >> b) & 1) << (7 - (bit & 7));
    }
  }
  return row;
}

function filtered(type: number, row: Uint8Array, above: Uint8Array, { colour, depth }: Picture): Uint8Array {
  const step = Math.max(1, (CHANNELS[colour] * depth) / 8);
  const line = new Uint8Array(1 + row.length);
  line[0] = type;
  for (let i = 0; i < row.length; i++) {
    const a = row[i - step] ?? 0;
    const b = above[i];
    const c = above[i - step] ?? 0;
    const [pa, pb, pc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
    const paeth = pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
    line[1 + i] = row[i] - ([0, a, b, (a + b) >> 1, paeth][type] ?? 0);
  }
  return line;
}

/** The grey that a picture should become, `width × height`. */
export function greyOf(picture: Picture): Uint8Array {
  return channelsOf(picture, 1);
}

/** The grey, RGB or RGBA that a picture should become. */
export function channelsOf({ colour, depth, samples, palette, transparency }: Picture, to: Channels): Uint8Array {
  const channels = CHANNELS[colour];
  const to8 = (sample: number) => (depth === 16 ? sample >> 8 : (sample * 255) / ((1 << depth) - 1));
  const key = Array.from({ length: (transparency?.length ?? 0) / 2 }, (_, i) => {
    return ((transparency![2 * i] << 8) | transparency![2 * i + 1]) & ((1 << depth) - 1);
  });
  const pixels = Array.from({ length: samples.length / channels }, (_, pixel) => {
    const own = [...samples.subarray(pixel * channels, (pixel + 1) * channels)];
    if (colour === PALETTE)
      return inChannels([...palette!.subarray(own[0] * 3, own[0] * 3 + 3)], transparency?.[own[0]] ?? 255, to);
    if (colour === GREY_ALPHA || colour === RGBA) return inChannels(own.slice(0, -1).map(to8), to8(own.at(-1)!), to);
    return inChannels(own.map(to8), transparency && own.every((sample, i) => sample === key[i]) ? 0 : 255, to);
  });
  return Uint8Array.from(pixels.flat());
}

/** One pixel. @param colour one or three samples */
export function inChannels(colour: number[], alpha: number, to: Channels): number[] {
  if (to === 1) return [over(colour, alpha)];
  const [r, g = r, b = r] = colour;
  return to === 4 ? [r, g, b, alpha] : [r, g, b].map((sample) => over([sample], alpha));
}

/** Luminance of one or three samples, over white. */
export function over(colour: number[], alpha = 255): number {
  const [r, g = r, b = r] = colour;
  const y = Math.floor((9798 * r + 19235 * g + 3735 * b + 16384) / 32768);
  return Math.floor((y * alpha + 255 * (255 - alpha) + 127) / 255);
}

/** The magnitude by its definition. Beyond an edge is the neighbour before it (BORDER_REFLECT_101). */
export function sobelOf(grey: Uint8Array, width: number, height: number): Uint8Array {
  const inside = (i: number, size: number) => (size === 1 ? 0 : i < 0 ? -i : i < size ? i : 2 * size - 2 - i);
  return Uint8Array.from(grey, (_, i) => {
    const at = (dx: number, dy: number) =>
      grey[inside(Math.floor(i / width) + dy, height) * width + inside((i % width) + dx, width)];
    const gx = at(1, -1) + 2 * at(1, 0) + at(1, 1) - at(-1, -1) - 2 * at(-1, 0) - at(-1, 1);
    const gy = at(-1, 1) + 2 * at(0, 1) + at(1, 1) - at(-1, -1) - 2 * at(0, -1) - at(1, -1);
    return Math.min(255, Math.round(Math.sqrt(gx * gx + gy * gy)));
  });
}

let seed = 1;

/** 0 to 1, the same sequence in every run (the congruential generator of Numerical Recipes). */
export function chance(): number {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return seed / 2 ** 32;
}

export function random(length: number, range = 256): Uint8Array {
  return Uint8Array.from({ length }, () => chance() * range);
}

/**
 * A transparent picture has pixels of the transparent colour. With 16 bits it also has colours that differ from it only
 * in the low byte.
 */
export function randomPicture(
  width: number,
  height: number,
  colour: number,
  depth: number,
  transparent = false,
): Picture {
  const channels = CHANNELS[colour];
  const colours = colour === PALETTE ? Math.min(1 << depth, 1 + Math.floor(chance() * 256)) : 1 << depth;
  const samples = Uint16Array.from({ length: width * height * channels }, () => chance() * colours);
  const picture: Picture = { width, height, colour, depth, samples };
  if (colour === PALETTE) picture.palette = random(colours * 3);
  if (!transparent) return picture;
  if (colour === PALETTE) return { ...picture, transparency: random(colours) };
  const key = samples.slice(0, channels);
  for (let i = 0; i < samples.length; i += channels) {
    if (chance() < 0.5) samples.set(key, i);
    if (chance() < 0.3) samples[i + Math.floor(chance() * channels)] ^= 1;
  }
  samples.set(key, 0);
  return { ...picture, transparency: bigEndian(key) };
}

function bigEndian(samples: Uint16Array): Uint8Array {
  return Uint8Array.from({ length: samples.length * 2 }, (_, i) => samples[i >> 1] >> (i % 2 ? 0 : 8));
}

/** Adler-32 by zlib, which writes it after the data. */
export function adlerOf(bytes: Uint8Array): number {
  return deflateSync(bytes, { level: 0 }).subarray(-4).readUInt32BE();
}

export async function* inPieces(bytes: Uint8Array, size = bytes.length): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

export const UNLIMITED: PixelLimits = { streamed: 1e9, whole: 1e9 };

export async function read(
  png: AsyncIterable<Uint8Array>,
  limits = UNLIMITED,
  channels: Channels = 1,
): Promise<Uint8Array> {
  return collectPixels(await readPng(png, limits, undefined, channels));
}

/** Pixels as a reader yields them, in blocks of up to `most` rows that share one buffer. */
export function imageOf(pixels: Uint8Array, width: number, most: number, end?: Error, channels: Channels = 1): Raster {
  const blocks = async function* () {
    const shared = new Uint8Array(most * width * channels);
    for (let at = 0; at < pixels.length; at += shared.length) {
      const rows = pixels.subarray(at, at + shared.length);
      shared.set(rows);
      yield shared.subarray(0, rows.length);
      shared.fill(0xee);
    }
    if (end) throw end;
  };
  return { width, height: pixels.length / width / channels, channels, blocks: blocks() };
}

/** Compares two arrays. A failure shows the first difference instead of whole arrays. */
export function expectSame<T extends Uint8Array | Uint16Array>(got: T, expected: T, what = ""): void {
  const at = got.length === expected.length ? got.findIndex((value, i) => value !== expected[i]) : got.length;
  if (at >= 0) expect({ what, at, value: got[at] }).toEqual({ what, at, value: expected[at] });
  expect({ what, length: got.length }).toEqual({ what, length: expected.length });
}
