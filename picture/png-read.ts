/**
 * PNG → rows of grey, RGB or RGBA, as a stream.
 *
 *     ┌ signature
 *     │ IHDR            size, colour type, depth, interlacing
 *     │ PLTE, tRNS      palette, transparency
 *     │ IDAT ┐
 *     │ IDAT ├ joined ──► zlib inflates ──► scanlines ──► png-samples.ts ──► blocks of rows
 *     │ IDAT ┘
 *     └ IEND            bytes behind it are not read
 *
 * Bytes arrive in pieces of any size. Only a few buffers are in memory, whatever the picture's size. An interlaced
 * picture is the exception: its rows come in seven passes, so all its pixels are held.
 *
 * Invariant: every CRC is checked but those of metadata, and the compressed data hold all pixels that the header
 * promises. A picture that is read to its end without an error is the picture that was encoded.
 *
 * Not here: which format a file has (read.ts), filters and samples (png-samples.ts).
 * Source: PNG Specification (Third Edition), https://www.w3.org/TR/png-3/; RFC 1950; RFC 1951.
 */
import { crc32, createInflate, type Inflate } from "node:zlib";
import { breathe, breatheAtTimes, type HeldMemory } from "./budget.ts";
import { ByteReader } from "./byte-reader.ts";
import { turned } from "./orientation.ts";
import { type Channels, checkSize, ImageError, type PixelLimits, type Raster } from "./picture.ts";
import { corrupt, DEPTHS, GREY, type Header, PALETTE, PNG_SIGNATURE, pngChunk, RGB, uint32At } from "./png-format.ts";
import { converter, rowBytes } from "./png-samples.ts";
import { orientationIn } from "./tiff.ts";

/** Scanlines are converted in blocks of about this many bytes: a block fits into the second-level cache. */
const BLOCK_BYTES = 1 << 18;
/** Compressed bytes that zlib gets at a time. Each write is a round trip to a thread, and libpng's IDATs have 8 KiB. */
const COMPRESSED_BYTES = 1 << 18;
/** Bytes that zlib returns at a time, and how many it may be ahead of the reader. */
const INFLATE = { chunkSize: 1 << 20, highWaterMark: 1 << 20 };

/** Ancillary chunks of the specification that change no sample. */
const METADATA = new Set([
  ...["acTL", "bKGD", "cHRM", "cICP", "cLLI", "dSIG", "eXIf", "fcTL", "fdAT", "gAMA", "hIST", "iCCP", "iTXt"],
  ...["mDCV", "oFFs", "pCAL", "pHYs", "sBIT", "sCAL", "sPLT", "sRGB", "sTER", "tEXt", "tIME", "zTXt"],
]);
/**
 * Before the first row is read, this many bytes are searched for an eXIf chunk behind the pixels. This delays no row:
 * zlib gets its input in parts of the same size.
 */
const LOOK_AHEAD_BYTES = COMPRESSED_BYTES;
const IEND = pngChunk("IEND");
/** The most bytes of scanlines beyond the last row that are ignored. */
const MAX_SURPLUS_BYTES = 1 << 20;
/** Longer blocks of EXIF are ignored, bytes. */
const MAX_EXIF_BYTES = 1 << 20;

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
 * @param source the file's bytes, in pieces of any size; closed when the walk over the rows ends, also early or on an
 *   error
 * @param memory what an interlaced or turned picture may take; the caller releases it after the walk
 * @throws ImageError "too-large" beyond `limits`; "corrupt" if the file breaks a rule that could change a pixel.
 *   BusyError if `memory` is full for now
 */
export async function readPng(
  source: AsyncIterable<Uint8Array>,
  limits: PixelLimits,
  memory?: HeldMemory,
  channels: Channels = 1,
): Promise<Raster> {
  const file = new ByteReader(source, () => corrupt("the file ends before its IEND chunk"));
  const header = await readHeader(file, limits);
  const { width, height, interlaced } = header;
  const firstIdat = await readUpToIdat(file, header);
  if (header.orientation === 1) {
    header.orientation = orientationBehind(await file.ahead(LOOK_AHEAD_BYTES, IEND), firstIdat);
  }
  const isTurned = header.orientation > 1;
  if (isTurned) checkSize(width, height, limits.whole);
  const copies = (interlaced ? 1 : 0) + (isTurned ? 2 : 0);
  if (copies > 0 && memory) {
    await file.complete(memory);
    await memory.hold(copies * width * height * channels);
  }
  const rows = (lines: ByteReader) =>
    interlaced ? deinterlaced(header, lines, channels, memory) : rowsOf(header, lines, width, height, channels);
  const read = { width, height, channels, blocks: walk(file, firstIdat, header, rows) };
  return isTurned ? turned(read, header.orientation, memory) : read;
}

/** A chunk's payload length in bytes and its type. `crc` covers what has been read of it. */
interface ChunkHead {
  length: number;
  type: string;
  crc: number;
}

async function readChunkHead(file: ByteReader): Promise<ChunkHead> {
  await breatheAtTimes(); // a file may have millions of chunks
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

/** Skips a chunk. A wrong CRC of metadata cannot change a pixel. For other chunks, the type itself may be wrong. */
async function skipChunk(file: ByteReader, head: ChunkHead): Promise<void> {
  for (let left = head.length; left > 0; ) {
    const part = await file.more(left);
    head.crc = crc32(part, head.crc);
    left -= part.length;
  }
  const stored = await file.read(4);
  if (!METADATA.has(head.type)) expectCrc(head, stored);
}

/** Skips a chunk that cannot change a sample, but reads the orientation. @throws ImageError "corrupt" on any other */
async function skipOther(file: ByteReader, head: ChunkHead, header: Header): Promise<void> {
  if (head.type === "eXIf" && head.length <= MAX_EXIF_BYTES) {
    const exif = Buffer.from(await file.read(head.length));
    // libpng ignores an eXIf with a wrong CRC.
    if (uint32At(await file.read(4), 0) === crc32(exif, head.crc)) header.orientation = orientationIn(exif);
    return;
  }
  const isCritical = head.type[0] < "a";
  if (isCritical && !["PLTE", "IDAT", "IEND"].includes(head.type))
    throw corrupt(`${head.type} chunk: not expected here`);
  await skipChunk(file, head);
}

/** @throws ImageError "too-large" beyond `limits`; "corrupt" */
async function readHeader(file: ByteReader, limits: PixelLimits): Promise<Header> {
  const signature = await file.read(8);
  if (!PNG_SIGNATURE.every((byte, i) => signature[i] === byte)) throw corrupt("no PNG signature");
  const head = await readChunkHead(file);
  if (head.type === "CgBI") throw unread("optimised for iPhones (CgBI)", "as a plain PNG");
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
  return { width, height, depth, colour, interlaced, orientation: 1 };
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
    if (head.type === "PLTE" && header.colour === PALETTE) {
      if (header.palette) throw corrupt("two PLTE chunks");
      header.palette = await readPayload(file, head, 3, 768);
      if (header.palette.length % 3 !== 0) throw corrupt(`PLTE chunk: expected triples, got ${head.length} bytes`);
    } else if (head.type === "tRNS" && isTransparency(head, header)) {
      header.transparency = await readPayload(file, head, head.length, head.length);
    } else {
      await skipOther(file, head, header);
    }
  }
}

/** The orientation behind the pixels, if it is in these bytes; otherwise 1. @param file after the head of `idat` */
function orientationBehind(file: Uint8Array, idat: ChunkHead): number {
  for (let at = idat.length + 4; at + 8 <= file.length; ) {
    const [length, payload] = [uint32At(file, at), at + 8];
    const type = String.fromCharCode(...file.subarray(at + 4, payload));
    if (type === "IEND") break;
    if (type === "eXIf" && payload + length + 4 <= file.length) {
      const isWhole = crc32(file.subarray(at + 4, payload + length)) === uint32At(file, payload + length);
      return isWhole ? orientationIn(Buffer.from(file.subarray(payload, payload + length))) : 1;
    }
    at = payload + length + 4;
  }
  return 1;
}

/** libpng ignores a tRNS that is out of place, or of another length than its colour type needs. */
function isTransparency({ length }: ChunkHead, { colour, palette, transparency }: Header): boolean {
  if (transparency) return false;
  if (colour === GREY) return length === 2;
  if (colour === RGB) return length === 6;
  return colour === PALETTE && palette !== undefined && length > 0 && length <= palette.length / 3;
}

/**
 * The picture's rows, from its scanlines. After the last row the file is read to its end, so that the checksum and the
 * other chunks are checked too. A little more image data cannot change a pixel and is ignored.
 */
async function* walk(
  file: ByteReader,
  first: ChunkHead,
  header: Header,
  rows: (lines: ByteReader) => AsyncGenerator<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const isUpright = header.orientation === 1;
  const lines = new ByteReader(inflated(file, first, header), () => corrupt("too little image data"));
  try {
    yield* rows(lines);
    for (let left = MAX_SURPLUS_BYTES; ; ) {
      const part = await lines.some(MAX_SURPLUS_BYTES);
      if (part.length === 0) break;
      left -= part.length;
      if (left < 0) throw corrupt("too much image data");
    }
    // The rows have been passed on already, and cannot be turned.
    if (isUpright && header.orientation > 1) throw unread("with its orientation behind its pixels", "turned upright");
  } finally {
    await lines.close();
  }
}

/**
 * The scanlines. zlib inflates in a thread of the runtime. Meanwhile this thread reads the file and converts rows.
 * Back-pressure keeps both from running ahead by more than a few buffers.
 */
async function* inflated(file: ByteReader, first: ChunkHead, header: Header): AsyncGenerator<Uint8Array> {
  const zlib = createInflate(INFLATE);
  zlib.on("error", () => {}); // the walk below throws it; a later one would end the process
  let fileError: unknown;
  const reading = writeIdats(zlib, file, first, header);
  reading.catch((error) => {
    fileError = error;
    zlib.destroy(error);
  });
  try {
    yield* zlib;
    await reading;
  } catch (error) {
    throw error === fileError ? error : corrupt(`compressed data: ${(error as Error).message}`, error);
  } finally {
    // Not awaited: a caller that stops early does not wait for a source that has stalled.
    file.close().catch(() => {});
  }
}

/**
 * Writes the joined payloads of the consecutive IDATs to zlib, and reads on to IEND. It waits only when it must,
 * because a piece of the file has many chunks. Bytes behind the end of the compressed data are ignored.
 * @throws ImageError "corrupt", or the source's own error
 */
async function writeIdats(zlib: Inflate, file: ByteReader, first: ChunkHead, header: Header): Promise<void> {
  const closed = new Promise<void>((wake) => zlib.once("close", wake));
  // One buffer is filled while zlib reads the other.
  let [buffer, other] = [Buffer.allocUnsafe(COMPRESSED_BYTES), Buffer.allocUnsafe(COMPRESSED_BYTES)];
  let consumed: Promise<void> | undefined;
  let filled = 0;
  const write = async () => {
    await consumed;
    const part = buffer.subarray(0, filled);
    // zlib does not acknowledge bytes behind the end of its stream. It closes instead.
    if (!zlib.destroyed) consumed = Promise.race([closed, new Promise<void>((wake) => zlib.write(part, () => wake()))]);
    [buffer, other] = [other, buffer];
    filled = 0;
  };
  let head = first;
  while (head.type === "IDAT") {
    await breatheAtTimes();
    for (let left = head.length; left > 0; ) {
      const most = Math.min(left, COMPRESSED_BYTES - filled);
      let part = file.take(most);
      if (part.length === 0) part = await file.more(most);
      head.crc = crc32(part, head.crc);
      buffer.set(part, filled);
      left -= part.length;
      filled += part.length;
      if (filled === COMPRESSED_BYTES) await write();
    }
    const between = file.exactly(12) ?? (await file.read(12));
    expectCrc(head, between.subarray(0, 4));
    head = headIn(between.subarray(4));
  }
  for (; head.type !== "IEND"; head = await readChunkHead(file)) await skipOther(file, head, header);
  await skipChunk(file, head);
  await write();
  if (!zlib.destroyed) zlib.end();
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
  lines: ByteReader,
  channels: Channels,
  memory?: HeldMemory,
): AsyncGenerator<Uint8Array> {
  const { width, height } = header;
  const whole = new Uint8Array(width * height * channels);
  memory?.own(whole);
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
  yield whole;
}

function unread(what: string, remedy: string): ImageError {
  return new ImageError("unknown-format", `unknown kind of PNG: a PNG ${what} is not read; save it ${remedy}`);
}
