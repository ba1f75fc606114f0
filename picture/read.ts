/**
 * Any picture → rows of grey, RGB or RGBA. Only the first bytes decide the format, never a name or a declared type.
 *
 *     PNG                               streamed (png-read.ts)
 *     JPEG, WebP, TIFF, GIF, AVIF       held whole, decoded by sharp (libvips); only the first frame of a GIF
 *     anything else                     refused (kinds.ts), even if libvips could read it (SVG, PDF)
 *
 * Before libvips gets a file, its directory, frame or codes are read here. Pictures that libvips would convert unlike
 * OpenCV, or fill with grey, are converted or refused here.
 *
 * All formats go through the same luminance formula, so the same samples give the same grey. The size is checked in the
 * header, before pixels are allocated. The limit is lower for pictures that are held whole.
 *
 * Not here: what happens to the rows.
 */
import type { Metadata } from "sharp";
import { readAvif } from "./avif.ts";
import { breathe, free, type HeldMemory } from "./budget.ts";
import { collect } from "./byte-reader.ts";
import { convert } from "./colour.ts";
import { expectWholeFrame, fillAround, type Island } from "./gif.ts";
import { readJpeg } from "./jpeg.ts";
import { FIRST_BYTES, type Format, formatOf, sizeIn } from "./kinds.ts";
import { type Channels, checkSize, ImageError, type PixelLimits, type Raster, startingWith } from "./picture.ts";
import { readPng } from "./png-read.ts";
import { converted, inkToRgb, lightToRgb, type ToRgb, ycbcrToRgb } from "./spaces.ts";
import { readTiff } from "./tiff.ts";

/** The most pixels of a picture that is held whole: 128 Mpx. */
const WHOLE_PIXELS = 1 << 27;

/** The limits for `streamed` pixels. There may be a row for every 64 pixels, and 65,536 rows in any case. */
export function limitsOf(streamed: number): PixelLimits {
  return { streamed, whole: Math.min(streamed, WHOLE_PIXELS), rows: Math.max(65_536, Math.ceil(streamed / 64)) };
}

export const DEFAULT_LIMITS = limitsOf(1_000_000_000);

/** Luminance is computed in blocks of about this many pixels: a block stays in the cache. */
const BLOCK_PIXELS = 1 << 16;
/** Above this many pixels libvips makes the luminance: slower, but the colours are never held. */
const LARGE_PIXELS = 1 << 25;
/** The time limit of a decode, seconds. */
const DECODE_SECONDS = 60;
/** Bytes that a decode takes in addition to its pixels. */
const DECODE_BYTES = 4 << 20;
/** Bytes per pixel that decoders take at their peak, output included: measured. */
const BYTES_PER_PIXEL: Record<string, number> = { WebP: 8.4, GIF: 8.4, AVIF: 18.5 };

/**
 * Reads a picture's header at once and its rows on demand.
 * @param memory what a picture that is held whole may take; the caller releases it after the walk over the rows
 * @throws ImageError "not-an-image" for an empty file and for text; "unknown-format"; "too-large" beyond `limits` and
 *   what `memory` can ever hold; "corrupt". BusyError if `memory` is full for now
 */
export async function readImage(
  source: AsyncIterable<Uint8Array>,
  limits: PixelLimits = DEFAULT_LIMITS,
  memory?: HeldMemory,
  channels: Channels = 1,
): Promise<Raster> {
  const { first, all } = await peek(source);
  const format = formatOf(first);
  return format === "PNG" ? readPng(all, limits, memory, channels) : readWhole(all, format, channels, limits, memory);
}

/** The first bytes, and a source that still begins with them. */
async function peek(source: AsyncIterable<Uint8Array>) {
  const pieces = source[Symbol.asyncIterator]();
  let first: Uint8Array = new Uint8Array(0);
  while (first.length < FIRST_BYTES) {
    const next = await pieces.next();
    if (next.done) break;
    first = first.length === 0 ? next.value : Buffer.concat([first, next.value]);
  }
  return { first, all: startingWith(first, pieces) };
}

/** What a file is, and how the decoder gets its pixels. */
interface Examined {
  /** The file for the decoder, in the memory of the file that arrived. */
  file: Buffer;
  /** Converts samples that are not grey or RGB. The decoder then returns all samples of a pixel. */
  toRgb?: ToRgb;
  isCmyk?: boolean;
  /** The last sample of a pixel is not alpha. */
  hasSurplus?: boolean;
  /** The only part of a GIF's screen that has pixels. */
  island?: Island;
  /** A JPEG whose coefficients the decoder holds. */
  holdsCoefficients?: boolean;
}

/**
 * Reads a file that libvips decodes, all of it.
 * @throws ImageError "unknown-format", "too-large", "corrupt"; BusyError
 */
async function readWhole(
  all: AsyncIterable<Uint8Array>,
  format: Format,
  channels: Channels,
  limits: PixelLimits,
  memory?: HeldMemory,
): Promise<Raster> {
  const body = await collect(all, memory, (beginning) => {
    const size = sizeIn(beginning, format);
    if (size) checkSize(size.width, size.height, limits.whole, limits.rows);
    return size !== undefined;
  });
  try {
    const examined = await examine(body, format);
    const { data, info } = await decode(examined, format, channels, limits, memory);
    memory?.decoded(data);
    const { width, height } = info;
    if (examined.island) await fillAround(examined.island, data, width, info.channels);
    return { width, height, channels, blocks: rowsOf(data, width, height, info.channels, channels, examined.toRgb) };
  } finally {
    free(body.buffer);
  }
}

/** Finds damage that the decoder would not report, and removes data that it would refuse. @throws ImageError */
async function examine(body: Buffer, format: Format): Promise<Examined> {
  if (format === "GIF") return { file: body, island: await expectWholeFrame(body) };
  if (format === "AVIF") readAvif(body);
  if (format === "JPEG") {
    const { components, ...jpeg } = readJpeg(body);
    return { ...jpeg, ...(components === 4 && { isCmyk: true, toRgb: lightToRgb }) };
  }
  if (format !== "TIFF") return { file: body };
  const { isCmyk, ycbcr, hasSurplus } = readTiff(body);
  if (isCmyk) return { file: body, isCmyk, toRgb: inkToRgb };
  return { file: body, hasSurplus, ...(ycbcr && { toRgb: ycbcrToRgb(ycbcr) }) };
}

async function decode(
  examined: Examined,
  format: Format,
  channels: Channels,
  limits: PixelLimits,
  memory?: HeldMemory,
) {
  // Loaded on demand: 20 MB of native code that PNGs do not need.
  const { default: sharp } = await import("sharp");
  sharp.cache(false);
  const { seconds = DECODE_SECONDS } = limits;
  let started = performance.now();
  const described = <T>(step: Promise<T>) =>
    step.catch((cause: Error) => {
      if (performance.now() - started > seconds * 1000)
        throw new ImageError("too-large", `image too large: not decoded in ${seconds} s`, { cause });
      throw new ImageError("corrupt", `corrupt ${format}: ${cause.message.split("\n")[0]}`, { cause });
    });
  // libtiff warns of tags only. It reports damage as an error.
  const failOn = format === "TIFF" ? "error" : "warning";
  // The formula takes the samples as stored, as other implementations of it do. So ICC profiles are ignored.
  const picture = sharp(examined.file, { limitInputPixels: false, ignoreIcc: true, failOn });
  const meta = await described(picture.metadata());
  checkSize(meta.width, meta.height, limits.whole, limits.rows);
  const isColour = meta.space === "srgb" && meta.channels === 3 && meta.depth === "uchar";
  const isPlain = isColour && !examined.toRgb && !examined.island;
  const asGrey = channels === 1 && isPlain && meta.width * meta.height > LARGE_PIXELS;
  await enter(decodeBytes(meta, format, examined, asGrey), meta, memory);
  started = performance.now(); // without the wait for memory
  const space = examined.isCmyk ? "cmyk" : "srgb";
  const oriented = picture.timeout({ seconds }).autoOrient().toColourspace(space);
  if (examined.isCmyk) oriented.pipelineColourspace("cmyk");
  if (examined.hasSurplus) oriented.removeAlpha();
  const samples = asGrey ? oriented.recomb(LUMINANCE).linear(1, 0.5).extractChannel(0) : oriented;
  return described(samples.raw({ depth: "uchar" }).toBuffer({ resolveWithObject: true }));
}

/**
 * The kernel's formula as a matrix, in its first row. libvips computes it in 32-bit floats, which hold these sums
 * exactly. Half is added to the result before its fraction is cut off, so each pixel equals the kernel's.
 */
const LUMINANCE: [[number, number, number], [number, number, number], [number, number, number]] = [
  [9798 / 32768, 19235 / 32768, 3735 / 32768],
  [0, 1, 0],
  [0, 0, 1],
];

/** The bytes that a decode takes at its peak. @param asGrey whether libvips makes the luminance */
function decodeBytes(meta: Metadata, format: Format, { holdsCoefficients }: Examined, asGrey: boolean): number {
  const { width, height, channels, depth, orientation = 1, chromaSubsampling = "" } = meta;
  const output = asGrey ? 1 : Math.min(4, channels);
  const sampleBytes = depth === "uchar" || depth === "char" ? 1 : depth === "ushort" || depth === "short" ? 2 : 8;
  let bytes = output;
  if (holdsCoefficients) {
    bytes += 2 * (chromaSubsampling === "4:2:0" ? channels / 2 : channels); // 16-bit coefficients
  } else if (format === "TIFF") {
    bytes += channels * sampleBytes; // all of it may be one strip
  } else {
    bytes = (BYTES_PER_PIXEL[format] ?? output) * sampleBytes;
  }
  if (orientation > 1) bytes += channels * sampleBytes; // it cannot be turned row by row
  return DECODE_BYTES + Math.ceil(bytes * 1.05 * width * height);
}

/** Waits for `bytes` of memory. @throws ImageError "too-large" if there will never be this much; BusyError */
async function enter(bytes: number, { width, height }: Metadata, memory?: HeldMemory): Promise<void> {
  if (!memory) return;
  if (bytes > memory.maxDecode) {
    const most = Math.floor(((memory.maxDecode - DECODE_BYTES) / (bytes - DECODE_BYTES)) * width * height);
    const limit = `${most} pixels of a picture of this kind, for the memory of the coordinator`;
    throw new ImageError("too-large", `image too large: expected at most ${limit}, got ${width} × ${height}`);
  }
  await memory.decode(bytes);
}

async function* rowsOf(pixels: Uint8Array, width: number, height: number, from: number, to: Channels, toRgb?: ToRgb) {
  const most = Math.max(1, Math.floor(BLOCK_PIXELS / width));
  for (let y = 0; y < height; y += most) {
    await breathe();
    const rows = Math.min(most, height - y);
    const samples = pixels.subarray(y * width * from, (y + rows) * width * from);
    if (from === to && !toRgb) {
      yield samples; // grey too: the formula does not change it
      continue;
    }
    const made = new Uint8Array(rows * width * to);
    if (toRgb) convert(converted(samples, from, toRgb), 3, made, to);
    else convert(samples, from, made, to);
    yield made;
  }
}
