/**
 * PNG as a stream of rows. Bytes arrive in pieces of any size, rows of 8-bit grey leave in blocks; nothing but a block, a
 * row and the inflater's window is held, so memory does not grow with the image. (An interlaced image is the exception:
 * its rows come in seven passes, so its grey pixels are held whole.)
 *
 * Invariant: every CRC is checked, and the zlib stream must hold exactly the pixels that the header promises. What is
 * read to its end without an error is what was encoded.
 *
 * Not here: which format a file has (read.ts), how bytes are inflated and filters undone (kernel/).
 * Source: PNG Specification (Third Edition), https://www.w3.org/TR/png-3/; RFC 1950; RFC 1951.
 */
import { crc32 } from "node:zlib";
import { Scratch } from "./buffers.ts";
import { InflateError, Inflater } from "./kernel/inflate.ts";
import { kernel } from "./kernel/kernel.ts";
import { checkPixels, type GreyImage, ImageError, type PixelLimits } from "./picture.ts";
import { CHANNELS, DEPTHS, GREY, hex, PALETTE, PNG_SIGNATURE, RGB, uint32At } from "./png-format.ts";

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

function corrupt(what: string, cause?: unknown): ImageError {
  return new ImageError("corrupt", `corrupt PNG: ${what}`, { cause });
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
