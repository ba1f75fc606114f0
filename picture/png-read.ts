/**
 * PNG → rows of grey, RGB or RGBA, as a stream.
 *
 *     ┌ signature
 *     │ IHDR            size, colour type, depth, interlacing
 *     │ PLTE, tRNS      palette, transparency
 *     │ IDAT ┐
 *     │ IDAT ├ joined ──► zlib inflates ──► scanlines ──► png-samples.ts ──► blocks of rows
 *     │ IDAT ┘
 *     └ IEND            what follows is not read
 *
 * Bytes arrive in pieces of any size. Only a few buffers are in memory, whatever the picture's size. An interlaced
 * picture is the exception: its rows come in seven passes, so all its pixels are held.
 *
 * Invariant: every CRC is checked, and the compressed data hold exactly the pixels that the header promises. A picture
 * that is read to its end without an error is the picture that was encoded.
 *
 * Not here: which format a file has (read.ts), filters and samples (png-samples.ts).
 * Source: PNG Specification (Third Edition), https://www.w3.org/TR/png-3/; RFC 1950; RFC 1951.
 */
import { crc32, createInflate, type Inflate } from "node:zlib";
import { breathe, type HeldMemory } from "./budget.ts";
import { Scratch } from "./buffers.ts";
import { collect } from "./collect.ts";
import { type Channels, checkSize, type PixelLimits, type Raster } from "./picture.ts";
import { corrupt, DEPTHS, GREY, type Header, PALETTE, PNG_SIGNATURE, RGB, uint32At } from "./png-format.ts";
import { converter, rowBytes } from "./png-samples.ts";

/** Scanlines are converted in blocks of about this many bytes: a block fits into the second-level cache. */
const BLOCK_BYTES = 1 << 18;
/** Compressed bytes that zlib gets at a time. Each write is a round trip to a thread, and libpng's IDATs have 8 KiB. */
const COMPRESSED_BYTES = 1 << 18;
/** Bytes that zlib returns at a time, and how many it may be ahead of the reader. */
const INFLATE = { chunkSize: 1 << 20, highWaterMark: 1 << 20 };

/** Where each pass of an Adam7 picture begins, and its steps: x0, y0, dx, dy (PNG, 8.1). */
const ADAM7 = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
] as const;

/**
 * Reads a PNG's header at once and its rows on demand.
 * @param source the file's bytes, in pieces of any size; closed when the walk over the rows ends, early or on an error
 * too
 * @param memory what an interlaced picture may take; the caller releases it after the walk
 * @throws ImageError "too-large" beyond `limits`; "corrupt" where the file breaks a rule that could change a pixel.
 *   BusyError where `memory` is full for now
 */
export async function readPng(
  source: AsyncIterable<Uint8Array>,
  limits: PixelLimits,
  memory?: HeldMemory,
  channels: Channels = 1,
): Promise<Raster> {
  const file = new ByteReader(source, "the file ends before its IEND chunk");
  const header = await readHeader(file, limits);
  const { width, height, interlaced } = header;
  const firstIdat = await readUpToIdat(file, header);
  if (interlaced && memory) {
    await file.complete(memory);
    await memory.hold(width * height * channels);
  }
  const scanlines = inflated(file, firstIdat);
  const blocks = interlaced ? deinterlaced(header, scanlines, channels, memory) : blocksOf(header, scanlines, channels);
  return { width, height, channels, blocks };
}

/** Bytes on demand, out of pieces of any size. */
class ByteReader {
  #pieces: AsyncIterator<Uint8Array>;
  #piece: Uint8Array = new Uint8Array(0);
  #atEnd: string;
  readonly #unit = new Scratch();

  /** @param atEnd the error where the source ends too early */
  constructor(source: AsyncIterable<Uint8Array>, atEnd: string) {
    this.#pieces = source[Symbol.asyncIterator]();
    this.#atEnd = atEnd;
  }

  /** Up to `most` bytes, not copied, without waiting; there may be none. */
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

  /** Between one and `most` bytes, not copied. @throws ImageError "corrupt" at the end */
  async more(most: number): Promise<Uint8Array> {
    const part = await this.some(most);
    if (part.length === 0) throw corrupt(this.#atEnd);
    return part;
  }

  /** Exactly `length` bytes, not copied, without waiting; undefined where that needs the next piece. */
  exactly(length: number): Uint8Array | undefined {
    return this.#piece.length < length ? undefined : this.take(length);
  }

  /**
   * A whole number of units of `unit` bytes: at least one, at most `most`. They are valid until the next call. A unit
   * that spans two pieces is copied.
   */
  async units(unit: number, most: number): Promise<Uint8Array> {
    if (this.#piece.length === 0) this.#piece = (await this.#pieces.next()).value ?? this.#piece;
    const whole = Math.min(most, Math.floor(this.#piece.length / unit));
    return whole > 0 ? this.some(whole * unit) : this.read(unit, this.#unit.take(unit));
  }

  /** A copy of exactly `length` bytes, in `bytes`. */
  async read(length: number, bytes: Uint8Array = new Uint8Array(length)): Promise<Uint8Array> {
    for (let at = 0; at < length; ) {
      const part = await this.more(length - at);
      bytes.set(part, at);
      at += part.length;
    }
    return bytes;
  }

  /** Reads the rest of the source into memory. */
  async complete(memory: HeldMemory): Promise<void> {
    const first = this.#piece;
    const rest = { [Symbol.asyncIterator]: () => this.#pieces };
    const all = async function* () {
      yield first;
      yield* rest;
    };
    this.#piece = await collect(all(), memory, () => true);
  }

  /** Closes the source. */
  async close(): Promise<void> {
    await this.#pieces.return?.();
  }
}

/** A chunk's payload length in bytes and its type. `crc` covers what has been read of it. */
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

function expectCrc({ type, crc }: ChunkHead, bytes: Uint8Array): void {
  const stored = uint32At(bytes, 0);
  const hex = (value: number) => value.toString(16).padStart(8, "0");
  if (stored !== crc) throw corrupt(`${type} chunk: expected CRC ${hex(crc)}, got ${hex(stored)}`);
}

async function readPayload(file: ByteReader, head: ChunkHead, min: number, max: number): Promise<Uint8Array> {
  const { type, length } = head;
  if (length < min || length > max) throw corrupt(`${type} chunk: expected ${min} to ${max} bytes, got ${length}`);
  const payload = await file.read(length);
  head.crc = crc32(payload, head.crc);
  expectCrc(head, await file.read(4));
  return payload;
}

async function skipChunk(file: ByteReader, head: ChunkHead): Promise<void> {
  for (let left = head.length; left > 0; ) {
    const part = await file.more(left);
    head.crc = crc32(part, head.crc);
    left -= part.length;
  }
  expectCrc(head, await file.read(4));
}

/** Skips a chunk that cannot change a pixel. @throws ImageError "corrupt" on any other */
async function skipOther(file: ByteReader, head: ChunkHead): Promise<void> {
  const critical = head.type[0] < "a";
  if (critical && !["PLTE", "IEND"].includes(head.type)) throw corrupt(`${head.type} chunk: not expected here`);
  await skipChunk(file, head);
}

/** @throws ImageError "too-large" beyond `limits`; "corrupt" */
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
  checkSize(width, height, interlaced ? limits.whole : limits.streamed, limits.rows);
  return { width, height, depth, colour, interlaced };
}

/** Reads the palette and transparency into `header`. Returns the head of the first IDAT, its payload unread. */
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

/**
 * The scanlines. zlib inflates in a thread of the runtime. Meanwhile this thread reads the file and converts rows.
 * Back-pressure keeps both from running ahead by more than a few buffers.
 */
async function* inflated(file: ByteReader, first: ChunkHead): AsyncGenerator<Uint8Array> {
  const zlib = createInflate(INFLATE);
  const written = writeIdats(zlib, file, first);
  let fileError: unknown;
  written.catch((error) => {
    fileError = error;
    zlib.destroy(error);
  });
  let surplus: number;
  try {
    yield* zlib;
    surplus = (await written) - zlib.bytesWritten;
  } catch (error) {
    throw error === fileError ? error : corrupt(`compressed data: ${(error as Error).message}`, error);
  } finally {
    // Not awaited: a caller that stops early does not wait for a source that has stalled.
    file.close().catch(() => {});
  }
  if (surplus > 0) throw corrupt(`compressed data: expected to end with IDAT, ${surplus} bytes follow`);
}

/**
 * Writes the payloads of the run of IDATs to zlib, joined, and reads on to IEND. Waits only where it must: a piece of
 * the file has many chunks.
 * @returns how many bytes were written
 * @throws ImageError "corrupt", or the source's own error
 */
async function writeIdats(zlib: Inflate, file: ByteReader, first: ChunkHead): Promise<number> {
  const closed = new Promise<void>((wake) => zlib.once("close", wake));
  // One buffer is filled while zlib reads the other.
  let [buffer, other] = [Buffer.allocUnsafe(COMPRESSED_BYTES), Buffer.allocUnsafe(COMPRESSED_BYTES)];
  let consumed: Promise<void> | undefined;
  let filled = 0;
  let length = 0;
  const write = async () => {
    await consumed;
    const part = buffer.subarray(0, filled);
    // zlib does not acknowledge bytes behind the end of its stream. It closes instead.
    consumed = Promise.race([closed, new Promise<void>((wake) => zlib.write(part, () => wake()))]);
    [buffer, other] = [other, buffer];
    filled = 0;
  };
  let head = first;
  while (head.type === "IDAT") {
    for (let left = head.length; left > 0; ) {
      const most = Math.min(left, COMPRESSED_BYTES - filled);
      let part = file.take(most);
      if (part.length === 0) part = await file.more(most);
      head.crc = crc32(part, head.crc);
      buffer.set(part, filled);
      left -= part.length;
      filled += part.length;
      length += part.length;
      if (filled === COMPRESSED_BYTES) await write();
    }
    const between = file.exactly(12) ?? (await file.read(12));
    expectCrc(head, between.subarray(0, 4));
    head = headIn(between.subarray(4));
  }
  for (; head.type !== "IEND"; head = await readChunkHead(file)) await skipOther(file, head);
  await skipChunk(file, head);
  await write();
  zlib.end();
  return length;
}

async function* blocksOf(
  header: Header,
  scanlines: AsyncIterable<Uint8Array>,
  channels: Channels,
): AsyncGenerator<Uint8Array> {
  const lines = new ByteReader(scanlines, "too little image data");
  try {
    yield* rowsOf(header, lines, header.width, header.height, channels);
    await expectEnd(lines);
  } finally {
    await lines.close();
  }
}

async function expectEnd(lines: ByteReader): Promise<void> {
  if ((await lines.some(1)).length > 0) throw corrupt("too much image data");
}

/** Reads `height` scanlines of `width` pixels. Yields them as rows, in blocks that share one buffer. */
async function* rowsOf(
  header: Header,
  lines: ByteReader,
  width: number,
  height: number,
  channels: Channels,
): AsyncGenerator<Uint8Array> {
  const stride = 1 + rowBytes(header, width);
  const most = Math.max(1, Math.floor(BLOCK_BYTES / stride));
  const bytes = width * channels;
  const made = new Uint8Array(Math.min(most, height) * bytes);
  const convert = converter(header, width, channels);
  for (let y = 0; y < height; ) {
    await breathe();
    const block = await lines.units(stride, Math.min(most, height - y));
    const rows = block.length / stride;
    convert(block, made.subarray(0, rows * bytes));
    yield made.subarray(0, rows * bytes);
    y += rows;
  }
}

/** Adam7: seven small pictures, one after the other. Their pixels lie on seven grids of the whole. */
async function* deinterlaced(
  header: Header,
  scanlines: AsyncIterable<Uint8Array>,
  channels: Channels,
  memory?: HeldMemory,
): AsyncGenerator<Uint8Array> {
  const { width, height } = header;
  const lines = new ByteReader(scanlines, "too little image data");
  const whole = new Uint8Array(width * height * channels);
  memory?.own(whole);
  try {
    for (const [x0, y0, dx, dy] of ADAM7) {
      const passWidth = Math.ceil((width - x0) / dx);
      const passHeight = Math.ceil((height - y0) / dy);
      if (passWidth <= 0 || passHeight <= 0) continue;
      let y = y0;
      for await (const block of rowsOf(header, lines, passWidth, passHeight, channels)) {
        for (let at = 0; at < block.length; y += dy) {
          for (let x = x0; x < width; x += dx) {
            const to = (y * width + x) * channels;
            for (let c = 0; c < channels; c++) whole[to + c] = block[at++];
          }
        }
      }
    }
    await expectEnd(lines);
  } finally {
    await lines.close();
  }
  yield whole;
}
