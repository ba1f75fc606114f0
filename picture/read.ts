/**
 * Any picture → rows of grey, RGB or RGBA. Only the first bytes decide the format, never a name or a declared type.
 *
 *     PNG                               streamed (png-read.ts)
 *     JPEG, WebP, TIFF, GIF, AVIF       held whole, decoded by sharp (libvips); of a GIF the first frame
 *     anything else                     refused; libvips could read more (SVG, PDF), but does not get it
 *
 * All formats go through the same luminance formula, so the same samples give the same grey. The size is checked in the
 * header, before pixels are allocated. The limit is lower where the picture is held whole.
 *
 * Not here: what happens to the rows.
 */
import type { Metadata } from "sharp";
import { breathe, free, type HeldMemory } from "./budget.ts";
import { collect } from "./collect.ts";
import { convert } from "./colour.ts";
import { holdsCoefficients, sizeIn } from "./header.ts";
import { type Channels, checkSize, ImageError, type PixelLimits, type Raster } from "./picture.ts";
import { PNG_SIGNATURE } from "./png-format.ts";
import { readPng } from "./png-read.ts";

/** 128 Mpx where the whole picture is held. */
const WHOLE_PIXELS = 1 << 27;

/** The limits for `streamed` pixels. A row counts as 64 pixels at least, but 65,536 rows are always allowed. */
export function limitsOf(streamed: number): PixelLimits {
  return { streamed, whole: Math.min(streamed, WHOLE_PIXELS), rows: Math.max(65_536, Math.ceil(streamed / 64)) };
}

export const DEFAULT_LIMITS = limitsOf(1_000_000_000);

/** The first bytes of a file, as many as its format needs. */
const FIRST_BYTES = 16;
/** Luminance is computed in blocks of about this many pixels: a block stays in the cache. */
const BLOCK_PIXELS = 1 << 16;
/** Above this many pixels libvips makes the luminance: slower, but the colours are never held. */
const LARGE_PIXELS = 1 << 25;
/** The time limit of a decode, seconds. */
const DECODE_SECONDS = 60;
/** Bytes that a decode takes beside its pixels. */
const DECODE_BYTES = 4 << 20;
/** Bytes a pixel that decoders take at their peak, output included: measured. */
const BYTES_PER_PIXEL: Record<string, number> = { WebP: 8.4, GIF: 8.4, AVIF: 18.5 };

/**
 * Reads a picture's header at once and its rows on demand.
 * @param memory what a picture that is held whole may take; the caller releases it after the walk over the rows
 * @throws ImageError "not-an-image" for nothing and for text; "unknown-format"; "too-large" beyond `limits` and what
 *   `memory` can ever hold; "corrupt". BusyError where `memory` is full for now
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
async function peek(
  source: AsyncIterable<Uint8Array>,
): Promise<{ first: Uint8Array; all: AsyncGenerator<Uint8Array> }> {
  const pieces = source[Symbol.asyncIterator]();
  let first: Uint8Array = new Uint8Array(0);
  while (first.length < FIRST_BYTES) {
    const next = await pieces.next();
    if (next.done) break;
    first = first.length === 0 ? next.value : Buffer.concat([first, next.value]);
  }
  const rest = { [Symbol.asyncIterator]: () => pieces };
  const all = async function* () {
    try {
      yield first;
      yield* rest;
    } finally {
      await pieces.return?.(); // a reader may stop before `rest` has begun
    }
  };
  return { first, all: all() };
}

/** @throws ImageError "not-an-image", "unknown-format" */
function formatOf(first: Uint8Array): string {
  if (first.length === 0) throw new ImageError("not-an-image", "not an image: expected a picture, got no bytes");
  if (PNG_SIGNATURE.every((byte, i) => first[i] === byte)) return "PNG";
  const text = String.fromCharCode(...first.subarray(0, FIRST_BYTES));
  if (text.startsWith("\xff\xd8\xff")) return "JPEG";
  if (text.startsWith("RIFF") && text.startsWith("WEBP", 8)) return "WebP";
  if (text.startsWith("II*\0") || text.startsWith("MM\0*")) return "TIFF";
  if (text.startsWith("GIF87a") || text.startsWith("GIF89a")) return "GIF";
  if (text.startsWith("ftypavi", 4)) return "AVIF";
  const readable = "expected PNG, JPEG, WebP, TIFF, GIF or AVIF";
  const shown = JSON.stringify(text);
  if (/^[\t\r\n\x20-\x7e]+$/.test(text) && !/^(\s*<|%PDF)/.test(text)) {
    throw new ImageError("not-an-image", `not an image: ${readable}, got text that begins with ${shown}`);
  }
  throw new ImageError("unknown-format", `unknown format: ${readable}, got a file that begins with ${shown}`);
}

/**
 * Reads a file that libvips decodes, all of it.
 * @throws ImageError "unknown-format", "too-large", "corrupt"; BusyError
 */
async function readWhole(
  all: AsyncIterable<Uint8Array>,
  format: string,
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
    const { data, info } = await decode(body, format, channels, limits, memory);
    memory?.decoded(data);
    const { width, height } = info;
    return { width, height, channels, blocks: rowsOf(data, width, height, info.channels, channels) };
  } finally {
    free(body.buffer);
  }
}

async function decode(body: Buffer, format: string, channels: Channels, limits: PixelLimits, memory?: HeldMemory) {
  // Loaded on demand: 20 MB of native code that PNGs do not need.
  const { default: sharp } = await import("sharp");
  sharp.cache(false);
  const started = performance.now();
  const described = <T>(step: Promise<T>) =>
    step.catch((cause: Error) => {
      if (performance.now() - started > DECODE_SECONDS * 1000) {
        throw new ImageError("too-large", `image too large: not decoded in ${DECODE_SECONDS} s`, { cause });
      }
      throw new ImageError("corrupt", `corrupt ${format}: ${cause.message.split("\n")[0]}`, { cause });
    });
  // The formula takes the samples as stored, as other implementations of it do. So ICC profiles are ignored.
  const picture = sharp(body, { limitInputPixels: false, ignoreIcc: true });
  const meta = await described(picture.metadata());
  checkSize(meta.width, meta.height, limits.whole, limits.rows);
  // A TIFF may have samples beside colour and alpha. Their meaning is not defined.
  if (format === "TIFF" && meta.channels > (meta.space === "cmyk" ? 5 : 4)) throw unknownKind(format, meta.channels);
  const isColour = meta.space === "srgb" && meta.channels === 3 && meta.depth === "uchar";
  const asGrey = channels === 1 && isColour && meta.width * meta.height > LARGE_PIXELS;
  await enter(decodeBytes(meta, format, body, asGrey), meta, memory);
  const oriented = picture.timeout({ seconds: DECODE_SECONDS }).autoOrient().toColourspace("srgb");
  const samples = asGrey ? oriented.recomb(LUMINANCE).linear(1, 0.5).extractChannel(0) : oriented;
  const decoded = await described(samples.raw({ depth: "uchar" }).toBuffer({ resolveWithObject: true }));
  if (decoded.info.channels > 4) throw unknownKind(format, decoded.info.channels);
  return decoded;
}

/**
 * The kernel's formula as a matrix, in its first row. libvips computes it in 32-bit floats, which hold these sums exactly.
 * Half is added to the result before its fraction is cut off, so each pixel equals the kernel's.
 */
const LUMINANCE: [[number, number, number], [number, number, number], [number, number, number]] = [
  [9798 / 32768, 19235 / 32768, 3735 / 32768],
  [0, 1, 0],
  [0, 0, 1],
];

function unknownKind(format: string, channels: number): ImageError {
  return new ImageError("unknown-format", `unknown kind of ${format}: expected at most RGBA, got ${channels} channels`);
}

/** The bytes that a decode takes at its peak. @param asGrey whether libvips makes the luminance */
function decodeBytes(meta: Metadata, format: string, body: Buffer, asGrey: boolean): number {
  const { width, height, channels, depth, orientation = 1, chromaSubsampling = "" } = meta;
  const output = asGrey ? 1 : Math.min(4, channels);
  const sampleBytes = depth === "uchar" || depth === "char" ? 1 : depth === "ushort" || depth === "short" ? 2 : 8;
  let bytes = output;
  if (format === "JPEG" && holdsCoefficients(body)) {
    bytes += 2 * (chromaSubsampling === "4:2:0" ? channels / 2 : channels); // 16-bit coefficients
  } else if (format === "TIFF") {
    bytes += channels * sampleBytes; // all of it may be one strip
  } else {
    bytes = (BYTES_PER_PIXEL[format] ?? output) * sampleBytes;
  }
  if (orientation > 1) bytes += channels * sampleBytes; // it cannot be turned row by row
  return DECODE_BYTES + Math.ceil(bytes * 1.05 * width * height);
}

/** Waits for `bytes` of memory. @throws ImageError "too-large" where there will never be so much; BusyError */
async function enter(bytes: number, { width, height }: Metadata, memory?: HeldMemory): Promise<void> {
  if (!memory) return;
  if (bytes > memory.maxDecode) {
    const most = Math.floor(((memory.maxDecode - DECODE_BYTES) / (bytes - DECODE_BYTES)) * width * height);
    const why = "of a picture of this kind, for the memory of the coordinator";
    throw new ImageError(
      "too-large",
      `image too large: expected at most ${most} pixels ${why}, got ${width} × ${height}`,
    );
  }
  await memory.decode(bytes);
}

async function* rowsOf(pixels: Uint8Array, width: number, height: number, from: number, to: Channels) {
  const most = Math.max(1, Math.floor(BLOCK_PIXELS / width));
  for (let y = 0; y < height; y += most) {
    await breathe();
    const rows = Math.min(most, height - y);
    const samples = pixels.subarray(y * width * from, (y + rows) * width * from);
    if (from === to) {
      yield samples; // also grey: the formula leaves it as it is
      continue;
    }
    const made = new Uint8Array(rows * width * to);
    convert(samples, from, made, to);
    yield made;
  }
}
