/**
 * Bands → PNG, and bands stitched to one PNG.
 *
 *     a band as a worker stores it                      the stitched image
 *     ┌ signature                                       ┌ signature
 *     │ IHDR  width × rows, 8-bit                       │ IHDR  width × height, 8-bit
 *     │ soBD  1          marks this layout              │ IDAT  78 01
 *     │ IDAT  78 01      zlib header                    │ IDAT  band 0's, copied with its CRC
 *     │ IDAT  deflate of the rows, sync-flushed    ──►  │ IDAT  band 1's …
 *     │ IDAT  03 00 + Adler-32 of the rows              │ IDAT  03 00 + Adler-32 of all rows
 *     └ IEND                                            └ IEND
 *
 * A band is a complete PNG. Its compressed data end on a byte boundary, without a final block. So the stitched picture
 * is made of copies of the bands' bytes. Only the Adler-32 of the whole is computed anew, from those of the bands.
 *
 *     a band on its way to a worker: stored, not compressed
 *     ┌ signature
 *     │ IHDR  width × rows, 8-bit
 *     │ IDAT  78 01 · stored blocks of up to 65,535 bytes · Adler-32
 *     └ IEND
 *
 * Pixels are grey, RGB or RGBA (PNG's colour types 0, 2 and 6), row-major and interleaved.
 *
 * Invariant: stitching accepts a band only if its layout, size and CRCs are right. It does not inflate the data.
 *
 * Not here: where bands begin and end (chunk.ts), how they are compressed (kernel/deflate.ts).
 * Source: PNG Specification (Third Edition), https://www.w3.org/TR/png-3/; RFC 1950; RFC 1951.
 */
import { crc32, deflateSync, inflateSync } from "node:zlib";
import { Scratch } from "./buffers.ts";
import { deflateRuns } from "./kernel/deflate.ts";
import { kernel } from "./kernel/kernel.ts";
import type { Channels, Raster } from "./picture.ts";
import {
  chunkParts,
  combineAdler,
  headerChunk,
  PNG_SIGNATURE,
  pngChunk,
  RGB,
  RGBA,
  uint32,
  uint32At,
} from "./png-format.ts";

const scanlines = new Scratch();

const ZLIB_HEADER = Uint8Array.of(0x78, 0x01);
/** Shorter rows are copied byte by byte. */
const MIN_VIEW = 32;
/** Bytes of the signature and IHDR. */
const FRONT_BYTES = 8 + 12 + 13;
/** An empty final block with fixed codes. It ends a deflate stream that was sync-flushed. */
const LAST_BLOCK = Uint8Array.of(0x03, 0x00);
const MARK = pngChunk("soBD", Uint8Array.of(1));
const END = Buffer.from(pngChunk("IEND"));
const EMPTY_TAIL = pngChunk("IDAT", LAST_BLOCK, uint32(1));

/**
 * Compresses a band so that it can be stitched. All rows have filter Sub, which needs no row above.
 * @param pixels `rows × width` pixels
 * @returns a PNG in the layout at the top of this file
 */
export function encodeBand(pixels: Uint8Array, width: number, rows: number, channels: Channels = 1): Uint8Array {
  const rowBytes = width * channels;
  const lines = scanlines.take(rows * (1 + rowBytes));
  const adler = kernel.filterSub(pixels, rowBytes, rows, lines, channels);
  const tail = pngChunk("IDAT", LAST_BLOCK, uint32(adler));
  return Buffer.concat([frontOf(width, rows, channels), ...chunkParts("IDAT", deflateRuns(lines)), tail, END]);
}

/** The bytes before a band's compressed data. */
function frontOf(width: number, rows: number, channels: Channels): Buffer {
  return Buffer.concat([PNG_SIGNATURE, headerChunk(width, rows, channels), MARK, pngChunk("IDAT", ZLIB_HEADER)]);
}

/**
 * A band for a worker: a stored PNG, in the layout at the top of this file.
 * @param pixels `rows × width` pixels
 */
export function encodeStored(pixels: Uint8Array, width: number, rows: number, channels: Channels = 1): Uint8Array {
  const rowBytes = width * channels;
  const lines = scanlines.take(rows * (1 + rowBytes));
  for (let y = 0; y < rows; y++) {
    lines[y * (1 + rowBytes)] = 0; // filter None
    copySamples(pixels, y * rowBytes, lines, y * (1 + rowBytes) + 1, rowBytes);
  }
  // One buffer for all of it: by default, zlib returns 16 KiB at a time.
  const data = deflateSync(lines, { level: 0, chunkSize: lines.length + (lines.length >> 8) + 64 });
  return Buffer.concat([PNG_SIGNATURE, headerChunk(width, rows, channels), ...chunkParts("IDAT", data), END]);
}

/** Copies short rows without a view: it costs more than the copy, and a narrow picture has millions of rows. */
function copySamples(from: Uint8Array, start: number, to: Uint8Array, at: number, length: number): void {
  if (length >= MIN_VIEW) to.set(from.subarray(start, start + length), at);
  else for (let i = 0; i < length; i++) to[at + i] = from[start + i];
}

/** A whole picture: `width × height` pixels. */
export type Pixels = Omit<Raster, "blocks"> & { pixels: Uint8Array };

/**
 * The inverse of `encodeStored`. It is synchronous, while `readPng` takes a dozen turns of the event loop.
 * @returns undefined if `png` is not exactly in that layout; `readPng` then reads it, or reports why it cannot
 */
export function decodeStored(png: Uint8Array): Pixels | undefined {
  const end = png.length - END.length;
  if (end < FRONT_BYTES) return undefined;
  const [width, height] = [uint32At(png, 16), uint32At(png, 20)];
  const channels = png[25] === RGB ? 3 : png[25] === RGBA ? 4 : 1;
  const expected = Buffer.concat([PNG_SIGNATURE, headerChunk(width, height, channels)]);
  const idat = png.subarray(FRONT_BYTES, end);
  if (!expected.equals(png.subarray(0, FRONT_BYTES)) || !isIdat(idat) || !END.equals(png.subarray(end)))
    return undefined;
  const rowBytes = width * channels;
  const lines = storedBytes(idat.subarray(8, -4), height * (1 + rowBytes));
  if (!lines || width === 0) return undefined;
  const pixels = new Uint8Array(height * rowBytes);
  for (let y = 0; y < height; y++) {
    const at = y * (1 + rowBytes);
    if (lines[at] !== 0) return undefined;
    copySamples(lines, at + 1, pixels, y * rowBytes, rowBytes);
  }
  return { width, height, channels, pixels };
}

/** The content of a zlib stream. @returns undefined unless it has `length` bytes, and is not compressed */
function storedBytes(data: Uint8Array, length: number): Uint8Array | undefined {
  if (length === 0 || data.length < length) return undefined;
  try {
    const bytes = inflateSync(data, { chunkSize: Math.max(64, length), maxOutputLength: length });
    return bytes.length === length ? bytes : undefined;
  } catch {
    return undefined;
  }
}

/** Stitches bands to one PNG: `head()`, then `band()` for each band from the top down, then `tail()`, in file order. */
export class Stitcher {
  #adler = 1;
  #rows = 0;

  constructor(
    readonly width: number,
    readonly height: number,
    readonly channels: Channels = 1,
  ) {}

  /** Length of the whole in bytes. @param bands lengths of the bands in bytes, each from `encodeBand` */
  length(bands: number[]): number {
    const around = this.head().length + EMPTY_TAIL.length + END.length;
    const spent = frontOf(this.width, 0, this.channels).length + EMPTY_TAIL.length + END.length;
    return bands.reduce((sum, bytes) => sum + bytes - spent, around);
  }

  head(): Uint8Array {
    const header = headerChunk(this.width, this.height, this.channels);
    return Buffer.concat([PNG_SIGNATURE, header, pngChunk("IDAT", ZLIB_HEADER)]);
  }

  /**
   * The next band's chunk, as a view of `png`.
   * @returns undefined if `png` is not exactly a band of `rows × width` from `encodeBand`
   */
  band(png: Uint8Array, rows: number): Uint8Array | undefined {
    const data = bandData(png, frontOf(this.width, rows, this.channels));
    if (!data) return undefined;
    this.#adler = combineAdler(this.#adler, data.adler, rows * (1 + this.width * this.channels));
    this.#rows += rows;
    return data.chunk;
  }

  tail(): Uint8Array {
    if (this.#rows !== this.height) throw new RangeError(`stitch: expected ${this.height} rows, got ${this.#rows}`);
    return Buffer.concat([pngChunk("IDAT", LAST_BLOCK, uint32(this.#adler)), END]);
  }
}

/** Finds the middle IDAT by its position: all bytes around it are fixed, except for the checksum. */
function bandData(png: Uint8Array, before: Buffer): { chunk: Uint8Array; adler: number } | undefined {
  const end = png.length - EMPTY_TAIL.length - END.length;
  const chunk = png.subarray(before.length, end);
  const adler = uint32At(png, end + 10);
  const tail = Buffer.concat([pngChunk("IDAT", LAST_BLOCK, uint32(adler)), END]);
  const fits = end >= before.length && before.equals(png.subarray(0, before.length)) && tail.equals(png.subarray(end));
  return fits && isIdat(chunk) ? { chunk, adler } : undefined;
}

/** Whether these bytes are one IDAT chunk with the right CRC. */
function isIdat(chunk: Uint8Array): boolean {
  const end = chunk.length - 4;
  const type = String.fromCharCode(...chunk.subarray(4, 8));
  return uint32At(chunk, 0) === end - 8 && type === "IDAT" && uint32At(chunk, end) === crc32(chunk.subarray(4, end));
}
