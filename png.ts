/**
 * PNG as a stream of rows, in; PNG stitched of compressed bands, out.
 *
 * Reading: bytes arrive in pieces of any size, rows of 8-bit grey leave in blocks; nothing but a block, a row and
 * the inflater's window is held, so memory does not grow with the image. (An interlaced image is the exception: its
 * rows come in seven passes, so its grey pixels are held whole.) Every CRC is checked, and the zlib stream must hold
 * exactly the pixels that the header promises: what is read to its end without an error is what was encoded.
 *
 * Writing: a band is a complete PNG whose deflate data ends on a byte boundary with no final block. Such bands are
 * joined by copying their bytes; only the checksum of the whole is computed anew.
 *
 *     a band as a worker stores it                      the stitched image
 *     ┌ signature                                       ┌ signature
 *     │ IHDR  width × rows, 8-bit grey                  │ IHDR  width × height, 8-bit grey
 *     │ soBD  1          marks this very layout         │ IDAT  78 01
 *     │ IDAT  78 01      zlib header                    │ IDAT  band 0's, copied with its CRC
 *     │ IDAT  deflate of the rows, sync-flushed    ──►  │ IDAT  band 1's …
 *     │ IDAT  03 00 + Adler-32 of the rows              │ IDAT  03 00 + Adler-32 of all rows
 *     └ IEND                                            └ IEND
 *
 * Not here: which format a file has (image.ts), where bands begin and end (chunk.ts), the loops over pixels (kernel.ts),
 * how bands are compressed (deflate.ts) and pictures decompressed (inflate.ts).
 * Source: PNG Specification (Third Edition), https://www.w3.org/TR/png-3/; RFC 1950; RFC 1951.
 */
import { crc32 } from "node:zlib";
import { deflateRuns } from "./deflate.ts";
import { InflateError, Inflater } from "./inflate.ts";
import { kernel } from "./kernel.ts";
import { Scratch } from "./scratch.ts";

/** A picture as a stream of rows: each block holds whole rows, `width` bytes of 8-bit grey a row, top to bottom. */
export interface GreyImage {
  width: number;
  height: number;
  /** May be walked once. A block is valid until the next is asked for. Rejects with `ImageError`. */
  blocks: AsyncIterable<Uint8Array>;
}

/** What the sender can do about a picture that cannot be read, as an HTTP status: 400 and 415 send another file, 413 a smaller one, 422 repair it. */
export class ImageError extends Error {
  constructor(
    readonly status: 400 | 413 | 415 | 422,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = "ImageError";
  }
}

/** Most pixels that are read: `streamed` where rows are passed on as they come, `whole` where the image must be held. */
export interface PixelLimits {
  streamed: number;
  whole: number;
}

export const PNG_SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);

const GREY = 0;
const RGB = 2;
const PALETTE = 3;
const GREY_ALPHA = 4;
const RGBA = 6;
const CHANNELS: Record<number, number> = { [GREY]: 1, [RGB]: 3, [PALETTE]: 1, [GREY_ALPHA]: 2, [RGBA]: 4 };
const DEPTHS: Record<number, number[]> = {
  [GREY]: [1, 2, 4, 8, 16],
  [RGB]: [8, 16],
  [PALETTE]: [1, 2, 4, 8],
  [GREY_ALPHA]: [8, 16],
  [RGBA]: [8, 16],
};

/** Scanlines are unfiltered in blocks of about this many bytes: fits the second-level cache. */
const BLOCK_BYTES = 1 << 18;

/** Where each pass of an Adam7 image begins, and its steps: x0, y0, dx, dy (PNG, 8.1). */
const ADAM7 = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
] as const;

interface Header {
  width: number;
  height: number;
  depth: number;
  colour: number;
  interlaced: boolean;
  /** RGB triples of PLTE. */
  palette?: Uint8Array;
  /** The payload of tRNS: alphas of the palette, or the one transparent colour as 16-bit samples. */
  transparency?: Uint8Array;
}

/**
 * Reads a PNG's header at once and its rows on demand.
 * @param source the file's bytes, in pieces of any size; what follows IEND is left unread
 * @throws ImageError 413 past `limits`, 422 for anything the specification forbids that could change a pixel
 */
export async function readPng(source: AsyncIterable<Uint8Array>, limits: PixelLimits): Promise<GreyImage> {
  const file = readerOf(source);
  const header = await readHeader(file, limits);
  const { width, height, interlaced } = header;
  const firstIdat = await readUpToIdat(file, header);
  const scanlines = inflated(file, firstIdat);
  return { width, height, blocks: interlaced ? deinterlaced(header, scanlines) : greyBlocks(header, scanlines) };
}

/**
 * What a PNG's first 33 bytes say of its size in pixels.
 * @throws ImageError as `readPng` does of these bytes
 */
export async function readPngSize(
  source: AsyncIterable<Uint8Array>,
  limits: PixelLimits,
): Promise<{ width: number; height: number }> {
  return readHeader(readerOf(source), limits);
}

/** All rows of an image that is small enough to hold: `width × height` pixels. */
export async function collectPixels({ width, height, blocks }: GreyImage): Promise<Uint8Array> {
  const pixels = new Uint8Array(width * height);
  let at = 0;
  for await (const block of blocks) {
    pixels.set(block, at);
    at += block.length;
  }
  return pixels;
}

/** Bytes at hand, as a source. */
export async function* onePiece(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

/** @throws ImageError 413 */
export function checkPixels(width: number, height: number, limit: number): void {
  if (width * height <= limit) return;
  throw new ImageError(413, `image too large: expected at most ${limit} pixels, got ${width} × ${height}`);
}

function corrupt(what: string, cause?: unknown): ImageError {
  return new ImageError(422, `corrupt PNG: ${what}`, { cause });
}

/** Bytes on demand out of pieces of any size. */
class ByteReader {
  #pieces: AsyncIterator<Uint8Array>;
  #piece: Uint8Array = new Uint8Array(0);
  #atEnd: string;
  readonly #unit = new Scratch();

  /** @param atEnd what is wrong with the file when it ends too early */
  constructor(source: AsyncIterable<Uint8Array>, atEnd: string) {
    this.#pieces = source[Symbol.asyncIterator]();
    this.#atEnd = atEnd;
  }

  /** At most `most` bytes, not copied: what can be had without waiting, and that may be none. */
  take(most: number): Uint8Array {
    const part = this.#piece.subarray(0, most);
    this.#piece = this.#piece.subarray(part.length);
    return part;
  }

  /** Between one and `most` bytes, not copied; none at the end. */
  async some(most: number): Promise<Uint8Array> {
    while (this.#piece.length === 0) {
      const next = await this.#pieces.next();
      if (next.done) break;
      this.#piece = next.value;
    }
    return this.take(most);
  }

  /** Between one and `most` bytes, not copied. @throws ImageError at the end */
  async more(most: number): Promise<Uint8Array> {
    const part = await this.some(most);
    if (part.length === 0) throw corrupt(this.#atEnd);
    return part;
  }

  /** Exactly `length` bytes, not copied, if they can be had without waiting. */
  exactly(length: number): Uint8Array | undefined {
    return this.#piece.length < length ? undefined : this.take(length);
  }

  /**
   * At least one and at most `most` times `unit` bytes, until the next call: not copied, but for those that lie in two
   * pieces.
   */
  async units(unit: number, most: number): Promise<Uint8Array> {
    if (this.#piece.length === 0) this.#piece = (await this.#pieces.next()).value ?? this.#piece;
    const whole = Math.min(most, Math.floor(this.#piece.length / unit));
    return whole > 0 ? this.some(whole * unit) : this.read(unit, this.#unit.take(unit));
  }

  /** A copy of exactly `length` bytes. @param bytes where it is put */
  async read(length: number, bytes: Uint8Array = new Uint8Array(length)): Promise<Uint8Array> {
    for (let at = 0; at < length; ) {
      const part = await this.more(length - at);
      bytes.set(part, at);
      at += part.length;
    }
    return bytes;
  }

  /** Lets go of the source. */
  async close(): Promise<void> {
    await this.#pieces.return?.();
  }
}

/** A chunk's length in bytes and its type; `crc` of the type, to be carried on over the payload. */
interface ChunkHead {
  length: number;
  type: string;
  crc: number;
}

async function readChunkHead(file: ByteReader): Promise<ChunkHead> {
  return headIn(await file.read(8));
}

function headIn(bytes: Uint8Array): ChunkHead {
  const length = uint32At(bytes, 0);
  const type = String.fromCharCode(bytes[4], bytes[5], bytes[6], bytes[7]);
  if (!/^[A-Za-z]{4}$/.test(type)) throw corrupt(`chunk type: expected four letters, got ${JSON.stringify(type)}`);
  if (length > 0x7fffffff) throw corrupt(`${type} chunk: expected at most ${0x7fffffff} bytes, got ${length}`);
  return { length, type, crc: crc32(bytes.subarray(4)) };
}

async function checkCrc(file: ByteReader, head: ChunkHead): Promise<void> {
  expectCrc(head, await file.read(4));
}

function expectCrc({ type, crc }: ChunkHead, bytes: Uint8Array): void {
  const stored = uint32At(bytes, 0);
  if (stored !== crc) throw corrupt(`${type} chunk: expected CRC ${hex(crc)}, got ${hex(stored)}`);
}

async function readPayload(file: ByteReader, head: ChunkHead, least: number, most: number): Promise<Uint8Array> {
  const { type, length } = head;
  if (length < least || length > most)
    throw corrupt(`${type} chunk: expected ${least} to ${most} bytes, got ${length}`);
  const payload = await file.read(length);
  head.crc = crc32(payload, head.crc);
  await checkCrc(file, head);
  return payload;
}

async function skipChunk(file: ByteReader, head: ChunkHead): Promise<void> {
  for (let left = head.length; left > 0; ) {
    const part = await file.more(left);
    head.crc = crc32(part, head.crc);
    left -= part.length;
  }
  await checkCrc(file, head);
}

function readerOf(source: AsyncIterable<Uint8Array>): ByteReader {
  return new ByteReader(source, "the file ends before its IEND chunk");
}

/** @throws ImageError 413 past `limits`, too */
async function readHeader(file: ByteReader, limits: PixelLimits): Promise<Header> {
  const signature = await file.read(8);
  if (!PNG_SIGNATURE.every((byte, i) => signature[i] === byte)) throw corrupt("no PNG signature");
  const head = await readChunkHead(file);
  if (head.type !== "IHDR") throw corrupt(`first chunk: expected IHDR, got ${head.type}`);
  const payload = await readPayload(file, head, 13, 13);
  const width = uint32At(payload, 0);
  const height = uint32At(payload, 4);
  const [depth, colour, compression, filter, interlace] = payload.subarray(8);
  if (width === 0 || height === 0) throw corrupt(`size: expected at least 1 × 1, got ${width} × ${height}`);
  if (!DEPTHS[colour]?.includes(depth)) throw corrupt(`colour type ${colour} with ${depth} bits a sample`);
  if (compression !== 0 || filter !== 0)
    throw corrupt(`compression and filter method: expected 0 and 0, got ${compression} and ${filter}`);
  if (interlace > 1) throw corrupt(`interlace method: expected 0 or 1, got ${interlace}`);
  const interlaced = interlace === 1;
  checkPixels(width, height, interlaced ? limits.whole : limits.streamed);
  return { width, height, depth, colour, interlaced };
}

/** Takes in the palette and transparency; returns the head of the first IDAT, its payload unread. */
async function readUpToIdat(file: ByteReader, header: Header): Promise<ChunkHead> {
  for (;;) {
    const head = await readChunkHead(file);
    if (head.type === "IDAT") {
      if (header.colour === PALETTE && !header.palette) throw corrupt("no PLTE chunk before IDAT");
      return head;
    }
    if (head.type === "IEND") throw corrupt("no IDAT chunk");
    if (head.type === "PLTE") {
      if (header.palette) throw corrupt("two PLTE chunks");
      header.palette = await readPayload(file, head, 3, 768);
      if (header.palette.length % 3 !== 0) throw corrupt(`PLTE chunk: expected triples, got ${head.length} bytes`);
    } else if (head.type === "tRNS" && header.colour <= PALETTE) {
      if (header.transparency) throw corrupt("two tRNS chunks");
      header.transparency = await readTransparency(file, head, header);
    } else {
      await skipOther(file, head);
    }
  }
}

function readTransparency(file: ByteReader, head: ChunkHead, { colour, palette }: Header): Promise<Uint8Array> {
  if (colour === GREY) return readPayload(file, head, 2, 2);
  if (colour === RGB) return readPayload(file, head, 6, 6);
  if (!palette) throw corrupt("tRNS chunk before PLTE");
  return readPayload(file, head, 0, palette.length / 3);
}

async function skipOther(file: ByteReader, head: ChunkHead): Promise<void> {
  const critical = head.type[0] < "a";
  if (critical && !["PLTE", "IEND"].includes(head.type)) throw corrupt(`${head.type} chunk: not expected here`);
  await skipChunk(file, head);
}

/**
 * The scanlines: payloads of the run of IDATs, inflated; the last of them come when IEND has been read. Waits only where it
 * must: libpng writes IDATs of 8 KiB, so there are thousands of them, and a piece of the file has many.
 */
async function* inflated(file: ByteReader, first: ChunkHead): AsyncGenerator<Uint8Array> {
  const inflater = new Inflater();
  let head = first;
  try {
    while (head.type === "IDAT") {
      for (let left = head.length; left > 0; ) {
        let part = file.take(left);
        if (part.length === 0) part = await file.more(left);
        left -= part.length;
        head.crc = crc32(part, head.crc);
        for (;;) {
          part = part.subarray(inflater.take(part));
          if (part.length === 0) break;
          const before = inflater.length;
          yield* inflater.blocks(false);
          // Blocks may hold nothing, for as long as the file goes on: others get their turn meanwhile.
          if (inflater.length === before) await new Promise((wake) => setImmediate(wake));
        }
      }
      const between = file.exactly(12) ?? (await file.read(12));
      expectCrc(head, between.subarray(0, 4));
      head = headIn(between.subarray(4));
    }
    for (; head.type !== "IEND"; head = await readChunkHead(file)) await skipOther(file, head);
    await skipChunk(file, head);
    yield* inflater.blocks(true);
  } catch (error) {
    throw error instanceof InflateError ? corrupt(`compressed data: ${error.message}`, error) : error;
  } finally {
    inflater.close();
  }
  if (inflater.behind > 0) {
    throw corrupt(`compressed data: expected to end with IDAT, ${inflater.behind} bytes follow`);
  }
}

async function* greyBlocks(header: Header, scanlines: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const lines = new ByteReader(scanlines, "too little image data");
  try {
    yield* greyRows(header, lines, header.width, header.height);
    await expectEnd(lines);
  } finally {
    await lines.close();
  }
}

async function expectEnd(lines: ByteReader): Promise<void> {
  if ((await lines.some(1)).length > 0) throw corrupt("too much image data");
}

/** Reads `height` scanlines of `width` pixels; yields them as grey, in blocks that share one buffer. */
async function* greyRows(header: Header, lines: ByteReader, width: number, height: number): AsyncGenerator<Uint8Array> {
  const stride = 1 + rowBytes(header, width);
  const most = Math.max(1, Math.floor(BLOCK_BYTES / stride));
  const grey = new Uint8Array(Math.min(most, height) * width);
  const convert = converter(header, width);
  for (let y = 0; y < height; ) {
    const block = await lines.units(stride, Math.min(most, height - y));
    const rows = block.length / stride;
    convert(block, grey.subarray(0, rows * width));
    yield grey.subarray(0, rows * width);
    y += rows;
  }
}

/** Adam7: seven small images, one after the other, whose pixels lie on seven grids of the whole. */
async function* deinterlaced(header: Header, scanlines: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const { width, height } = header;
  const lines = new ByteReader(scanlines, "too little image data");
  const whole = new Uint8Array(width * height);
  try {
    for (const [x0, y0, dx, dy] of ADAM7) {
      const passWidth = Math.ceil((width - x0) / dx);
      const passHeight = Math.ceil((height - y0) / dy);
      if (passWidth <= 0 || passHeight <= 0) continue;
      let y = y0;
      for await (const block of greyRows(header, lines, passWidth, passHeight)) {
        for (let at = 0; at < block.length; y += dy) {
          for (let x = x0; x < width; x += dx) whole[y * width + x] = block[at++];
        }
      }
    }
    await expectEnd(lines);
  } finally {
    await lines.close();
  }
  yield whole;
}

function rowBytes({ colour, depth }: Header, width: number): number {
  return Math.ceil((width * CHANNELS[colour] * depth) / 8);
}

/** A function from filtered scanlines to grey rows; it keeps the row above for the next call. */
function converter(header: Header, width: number): (lines: Uint8Array, grey: Uint8Array) => void {
  const { colour, depth, transparency } = header;
  const bytes = rowBytes(header, width);
  const channels = CHANNELS[colour];
  const bytesPerPixel = Math.max(1, (channels * depth) / 8);
  const previous = new Uint8Array(bytes);
  const plain = depth === 8 && colour !== PALETTE && !transparency;
  const expand = plain ? undefined : expander(header, width);
  return (lines, grey) => {
    for (let at = 0; at < lines.length; at += 1 + bytes) {
      if (lines[at] > 4) throw corrupt(`row filter: expected 0 to 4, got ${lines[at]}`);
    }
    if (!expand) return kernel.unfilterLuminance(lines, width, channels, previous, grey);
    kernel.unfilter(lines, bytes, bytesPerPixel, previous);
    for (let at = 0, to = 0; at < lines.length; at += 1 + bytes, to += width) {
      expand(lines.subarray(at + 1, at + 1 + bytes), grey.subarray(to, to + width));
    }
  };
}

/** A function from one row of unfiltered samples, of any depth, to grey. */
function expander(header: Header, width: number): (row: Uint8Array, grey: Uint8Array) => void {
  const { colour, depth } = header;
  if (colour === PALETTE || (colour === GREY && depth <= 8)) return lookUp(greyTable(header), depth);
  return toEightBits(header, width);
}

/** Grey of every palette index, or of every grey sample of at most 8 bits; transparency over white. */
function greyTable({ colour, depth, palette, transparency }: Header): Uint8Array {
  const size = colour === PALETTE ? palette!.length / 3 : 1 << depth;
  const rgba = new Uint8Array(size * 4);
  // Of the 16 bits in tRNS those beyond the depth do not count.
  const transparent =
    colour === GREY && transparency ? ((transparency[0] << 8) | transparency[1]) & (2 ** depth - 1) : -1;
  for (let i = 0; i < size; i++) {
    const grey = Math.round((i * 255) / ((1 << depth) - 1));
    const rgb = colour === PALETTE ? palette!.subarray(i * 3, i * 3 + 3) : [grey, grey, grey];
    rgba.set(rgb, i * 4);
    rgba[i * 4 + 3] = colour === PALETTE ? (transparency?.[i] ?? 255) : i === transparent ? 0 : 255;
  }
  const table = new Uint8Array(size);
  kernel.luminance(rgba, 4, table);
  return table;
}

function lookUp(table: Uint8Array, depth: number): (row: Uint8Array, grey: Uint8Array) => void {
  const perByte = 8 / depth;
  const mask = (1 << depth) - 1;
  return (row, grey) => {
    let largest = 0;
    for (let x = 0; x < grey.length; x++) {
      const index = (row[(x / perByte) | 0] >> (8 - depth - (x % perByte) * depth)) & mask;
      if (index > largest) largest = index;
      grey[x] = table[index];
    }
    if (largest >= table.length) throw corrupt(`palette index: expected less than ${table.length}, got ${largest}`);
  };
}

/** Samples of 8 or 16 bits, of which the high byte is kept; the one transparent colour is compared whole. */
function toEightBits(header: Header, width: number): (row: Uint8Array, grey: Uint8Array) => void {
  const { colour, depth, transparency } = header;
  const inputs = CHANNELS[colour];
  const channels = transparency ? inputs + 1 : inputs;
  const step = depth / 8;
  const samples = new Uint8Array(width * channels);
  // tRNS holds 16-bit samples; of an 8-bit image's the low byte counts.
  const key = transparency && (depth === 16 ? transparency : transparency.filter((_, i) => i % 2 === 1));
  return (row, grey) => {
    for (let x = 0, from = 0, to = 0; x < width; x++) {
      const pixel = from;
      for (let c = 0; c < inputs; c++, from += step) samples[to++] = row[from];
      if (key) samples[to++] = key.every((byte, i) => row[pixel + i] === byte) ? 0 : 255;
    }
    kernel.luminance(samples, channels, grey);
  };
}

const scratch = new Scratch();

const ZLIB_HEADER = Uint8Array.of(0x78, 0x01);
/** Bytes of a stored block of deflate, at most. */
const MOST_STORED = 0xffff;
/** Bytes of a PNG before its first chunk that is not IHDR. */
const FRONT_BYTES = 8 + 12 + 13;
/** An empty final block with fixed codes: closes a deflate stream that was sync-flushed. */
const LAST_BLOCK = Uint8Array.of(0x03, 0x00);
const MARK = pngChunk("soBD", Uint8Array.of(1));
const END = Buffer.from(pngChunk("IEND"));
const EMPTY_TAIL = pngChunk("IDAT", LAST_BLOCK, uint32(1));

/**
 * Compresses a band so that it can be stitched: every row filtered with Sub, which needs no row above.
 * @param grey `rows × width` pixels, row-major
 * @returns a PNG of the layout at the top of this file
 */
export function encodeBand(grey: Uint8Array, width: number, rows: number): Uint8Array {
  const lines = scratch.take(rows * (1 + width));
  const adler = kernel.filterSub(grey, width, rows, lines);
  const tail = pngChunk("IDAT", LAST_BLOCK, uint32(adler));
  return Buffer.concat([frontOf(width, rows), ...chunkParts("IDAT", deflateRuns(lines)), tail, END]);
}

/** What stands before a band's data. */
function frontOf(width: number, rows: number): Buffer {
  return Buffer.concat([PNG_SIGNATURE, headerChunk(width, rows), MARK, pngChunk("IDAT", ZLIB_HEADER)]);
}

/**
 * A PNG that is stored, not compressed: for a band on its way to a worker. `grey` is `rows × width` pixels.
 * @returns bytes that hold until the next call: they are to be copied
 */
export function encodeStored(grey: Uint8Array, width: number, rows: number): Uint8Array {
  const length = rows * (1 + width);
  const data = ZLIB_HEADER.length + 5 * Math.ceil(length / MOST_STORED) + length + 4;
  const png = scratch.take(FRONT_BYTES + 8 + data + 4 + END.length);
  let at = 0;
  const put = (bytes: Uint8Array) => {
    png.set(bytes, at);
    at += bytes.length;
  };
  for (const part of [PNG_SIGNATURE, headerChunk(width, rows), uint32(data), Buffer.from("IDAT"), ZLIB_HEADER])
    put(part);
  let adler = 1;
  for (let from = 0; from < length; from += MOST_STORED) {
    const size = Math.min(MOST_STORED, length - from);
    const last = from + size === length ? 1 : 0;
    put(Uint8Array.of(last, size, size >> 8, ~size, ~size >> 8));
    const block = png.subarray(at, at + size);
    fillLines(block, grey, width, from);
    adler = kernel.adler32(block, adler);
    at += size;
  }
  put(uint32(adler));
  put(uint32(crc32(png.subarray(FRONT_BYTES + 4, at))));
  put(END);
  return png;
}

/** Fills `lines` with what stands from byte `from` on in the unfiltered scanlines of `grey`. */
function fillLines(lines: Uint8Array, grey: Uint8Array, width: number, from: number): void {
  for (let at = 0; at < lines.length; ) {
    const row = Math.floor((from + at) / (1 + width));
    const column = from + at - row * (1 + width);
    if (column === 0) lines[at++] = 0;
    const first = row * width + Math.max(0, column - 1);
    const part = grey.subarray(first, Math.min((row + 1) * width, first + lines.length - at));
    lines.set(part, at);
    at += part.length;
  }
}

/**
 * The inverse of `encodeStored`, at once, where `readPng` takes a dozen turns of the event loop.
 * @returns undefined if `png` is not of that very layout, whole and unharmed; `readPng` may read it still, or say why not
 */
export function decodeStored(png: Uint8Array): { width: number; height: number; pixels: Uint8Array } | undefined {
  const end = png.length - END.length;
  if (end < FRONT_BYTES) return undefined;
  const [width, height] = [uint32At(png, 16), uint32At(png, 20)];
  const expected = Buffer.concat([PNG_SIGNATURE, headerChunk(width, height)]);
  const idat = png.subarray(FRONT_BYTES, end);
  if (!expected.equals(png.subarray(0, FRONT_BYTES)) || !isSoundIdat(idat) || !END.equals(png.subarray(end)))
    return undefined;
  if (width === 0 || height === 0) return undefined;
  const lines = storedBytes(idat.subarray(8, -4), height * (1 + width));
  if (!lines) return undefined;
  const pixels = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const at = y * (1 + width);
    if (lines[at] !== 0) return undefined;
    pixels.set(lines.subarray(at + 1, at + 1 + width), y * width);
  }
  return { width, height, pixels };
}

/**
 * What a zlib stream of stored blocks holds (RFC 1951, 3.2.4), until the next call.
 * @returns undefined unless it is one, to its last byte, of `length` bytes
 */
function storedBytes(data: Uint8Array, length: number): Uint8Array | undefined {
  if (data.length < length || !ZLIB_HEADER.every((byte, i) => data[i] === byte)) return undefined;
  const bytes = scratch.take(length);
  let at = ZLIB_HEADER.length;
  let filled = 0;
  for (let last = false; !last; ) {
    const size = data[at + 1] | (data[at + 2] << 8);
    const complement = data[at + 3] | (data[at + 4] << 8);
    if (data[at] > 1 || (size ^ complement) !== 0xffff || filled + size > length) return undefined;
    last = data[at] === 1;
    bytes.set(data.subarray(at + 5, at + 5 + size), filled);
    at += 5 + size;
    filled += size;
  }
  const whole = filled === length && at + 4 === data.length;
  return whole && uint32At(data, at) === kernel.adler32(bytes) ? bytes : undefined;
}

/** Joins bands to one PNG: `head()`, then `band()` for each from the top down, then `tail()`, in this order in the file. */
export class Stitcher {
  #adler = 1;
  #rows = 0;

  constructor(
    readonly width: number,
    readonly height: number,
  ) {}

  /** Length in bytes of the whole, of the lengths of bands as `encodeBand` makes them. */
  length(bands: number[]): number {
    const around = this.head().length + EMPTY_TAIL.length + END.length;
    const spent = frontOf(this.width, 0).length + EMPTY_TAIL.length + END.length;
    return bands.reduce((sum, bytes) => sum + bytes - spent, around);
  }

  head(): Uint8Array {
    return Buffer.concat([PNG_SIGNATURE, headerChunk(this.width, this.height), pngChunk("IDAT", ZLIB_HEADER)]);
  }

  /**
   * The next band's chunk, to be copied; its bytes are those of `png`.
   * @returns undefined if `png` is not `rows × width` in the layout of `encodeBand`, whole and unharmed
   */
  band(png: Uint8Array, rows: number): Uint8Array | undefined {
    const data = bandData(png, this.width, rows);
    if (!data) return undefined;
    this.#adler = combineAdler(this.#adler, data.adler, rows * (1 + this.width));
    this.#rows += rows;
    return data.chunk;
  }

  tail(): Uint8Array {
    if (this.#rows !== this.height) throw new RangeError(`stitch: expected ${this.height} rows, got ${this.#rows}`);
    return Buffer.concat([pngChunk("IDAT", LAST_BLOCK, uint32(this.#adler)), END]);
  }
}

/** Finds the middle IDAT by its place: everything around it has a fixed length and, but for the checksum, fixed bytes. */
function bandData(png: Uint8Array, width: number, rows: number): { chunk: Uint8Array; adler: number } | undefined {
  const before = frontOf(width, rows);
  const end = png.length - EMPTY_TAIL.length - END.length;
  if (end < before.length + 12 || !before.equals(png.subarray(0, before.length))) return undefined;
  const chunk = png.subarray(before.length, end);
  const adler = uint32At(png, end + 10);
  const tail = Buffer.concat([pngChunk("IDAT", LAST_BLOCK, uint32(adler)), END]);
  if (!tail.equals(png.subarray(end))) return undefined;
  return isSoundIdat(chunk) ? { chunk, adler } : undefined;
}

/** Whether these bytes are one IDAT chunk, with the CRC that they should have. */
function isSoundIdat(chunk: Uint8Array): boolean {
  const length = chunk.length - 12;
  if (length < 0) return false;
  const type = String.fromCharCode(...chunk.subarray(4, 8));
  return (
    uint32At(chunk, 0) === length &&
    type === "IDAT" &&
    uint32At(chunk, 8 + length) === crc32(chunk.subarray(4, 8 + length))
  );
}

/** Adler-32 of two parts joined, of their own checksums and the second's length in bytes (zlib's `adler32_combine`). */
export function combineAdler(first: number, second: number, length: number): number {
  const n = length % 65521;
  const [a1, b1] = [first & 0xffff, first >>> 16];
  const [a2, b2] = [second & 0xffff, second >>> 16];
  const low = (a1 + a2 + 65520) % 65521;
  const high = (n * a1 + b1 + b2 + 65521 - n) % 65521;
  return ((high << 16) | low) >>> 0;
}

function headerChunk(width: number, height: number): Uint8Array {
  return pngChunk("IHDR", uint32(width), uint32(height), Uint8Array.of(8, GREY, 0, 0, 0));
}

function pngChunk(type: string, ...payload: Uint8Array[]): Uint8Array {
  return Buffer.concat(chunkParts(type, ...payload));
}

/** What a chunk is made of, the payload not copied. */
function chunkParts(type: string, ...payload: Uint8Array[]): Uint8Array[] {
  const body = [Buffer.from(type, "latin1"), ...payload];
  const length = payload.reduce((sum, part) => sum + part.length, 0);
  const crc = body.reduce((sum, part) => crc32(part, sum), 0);
  return [uint32(length), ...body, uint32(crc)];
}

function uint32(value: number): Uint8Array {
  return Uint8Array.of(value >>> 24, value >>> 16, value >>> 8, value);
}

function uint32At(bytes: Uint8Array, at: number): number {
  return ((bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3]) >>> 0;
}

function hex(value: number): string {
  return value.toString(16).padStart(8, "0");
}
