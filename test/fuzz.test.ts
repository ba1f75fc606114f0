// Broken input is read right or refused. Thousands of files, bands and messages, each broken in its own way; many have
// valid checksums, so that the damage gets past them. For each case: it ends in time, no array is larger than the
// limits allow, an error has the documented class, and accepted input is what other readers read (fast-png, libvips,
// zlib).
//
//     bun test test/fuzz.test.ts                       the same cases in every run
//     FUZZ_SEED=random bun test test/fuzz.test.ts      other cases; the seed is printed
//     FUZZ_SEED=123 bun test test/fuzz.test.ts         the cases of a seed; failures name seed and case
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { Worker } from "node:worker_threads";
import { deflateSync, inflateSync } from "node:zlib";
import { decode } from "fast-png";
import sharp from "sharp";
import { type Chunk, chunkIdOf, decodeMessage, encodeMessage, parseChunkId, WireError } from "../chunk.ts";
import { convert } from "../picture/colour.ts";
import { ImageError, type PixelLimits } from "../picture/picture.ts";
import { encodeBand, Stitcher } from "../picture/png-write.ts";
import {
  CHANNELS,
  chunk,
  expectSame,
  GREY,
  GREY_ALPHA,
  greyOf,
  inPieces,
  over,
  PALETTE,
  type Picture,
  pngOf,
  RGB,
  RGBA,
  read,
  SIGNATURE,
  scanlines,
} from "./pictures.ts";
import { within } from "./wait.ts";

setDefaultTimeout(120_000);

const { FUZZ_SEED = "1" } = process.env;
const SEED = FUZZ_SEED === "random" ? Math.floor(Math.random() * 2 ** 32) : Number(FUZZ_SEED);
if (!Number.isSafeInteger(SEED)) throw new Error(`FUZZ_SEED: expected a whole number or "random", got ${FUZZ_SEED}`);
const LIMITS: PixelLimits = { streamed: 1_000_000, whole: 100_000 };
/** The longest time of a case, ms. Most take 1 ms, but the machine may be busy. */
const DEADLINE = 5_000;
/** Bytes of the widest pixel (RGBA of 16 bits), and of other buffers. */
const PIXEL_BYTES = 8;
const AROUND = 1 << 19;

const KINDS: [colour: number, depth: number][] = [
  ...[1, 2, 4, 8, 16].map((depth): [number, number] => [GREY, depth]),
  ...[8, 16].map((depth): [number, number] => [RGB, depth]),
  ...[1, 2, 4, 8].map((depth): [number, number] => [PALETTE, depth]),
  ...[8, 16].map((depth): [number, number] => [GREY_ALPHA, depth]),
  ...[8, 16].map((depth): [number, number] => [RGBA, depth]),
];

/** The state of the generator. Each case sets it, so that it can run alone. */
let state = 0;

/** 0 to 1 (mulberry32). */
function chance(): number {
  state = (state + 0x6d2b79f5) | 0;
  let mixed = Math.imul(state ^ (state >>> 15), state | 1);
  mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
}

const below = (n: number) => Math.floor(chance() * n);
const pick = <T>(list: T[]): T => list[below(list.length)];
const noise = (length: number) => Buffer.from(Array.from({ length }, () => below(256)));
const uuid = () =>
  noise(16)
    .toString("hex")
    .replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");

/** The length of the largest array that was requested. Memory that is never touched shows in no other measure. */
let largest = 0;
const RealArray = globalThis.Uint8Array;
/** The current case and its start time, for the watchdog. */
const progress = new Float64Array(new SharedArrayBuffer(16));
let watchdog: Worker;

beforeAll(() => {
  console.log(`FUZZ_SEED=${SEED}`);
  globalThis.Uint8Array = new Proxy(RealArray, {
    construct(target, args, self) {
      if (typeof args[0] === "number") largest = Math.max(largest, args[0]);
      return Reflect.construct(target, args, self);
    },
  });
  // An endless loop would block this thread, and with it the timers of the tests.
  watchdog = new Worker(
    `const { workerData: at } = require("node:worker_threads");
     setInterval(() => {
       if (at[1] === 0 || Date.now() - at[1] < ${4 * DEADLINE}) return;
       require("node:fs").writeSync(2, "fuzz: FUZZ_SEED=${SEED} case " + at[0] + " does not end\\n");
       process.kill(process.pid, "SIGKILL");
     }, 500)`,
    { eval: true, workerData: progress },
  );
});
afterAll(async () => {
  globalThis.Uint8Array = RealArray;
  await watchdog.terminate();
});

/** Runs `step` for each case. A failure names the seed and the case. */
async function fuzz(cases: number, most: number, step: (number: number) => Promise<void>): Promise<void> {
  for (let number = 0; number < cases; number++) {
    state = (SEED + Math.imul(number, 0x9e3779b1)) | 0;
    largest = 0;
    progress.set([number, Date.now()]);
    try {
      await within(step(number), DEADLINE);
      if (largest > most) throw new Error(`an array of ${largest} bytes, expected at most ${most}`);
    } catch (cause) {
      throw new Error(`FUZZ_SEED=${SEED}, case ${number}: ${(cause as Error).message}`, { cause });
    } finally {
      progress[1] = 0;
    }
  }
}

describe("fuzz", () => {
  test("PNG files are read as other readers read them, or refused", async () => {
    let right = 0;
    const refusals = new Map<string, number>();
    await fuzz(6000, PIXEL_BYTES * LIMITS.streamed + AROUND, async () => {
      const picture = randomPicture();
      const original = pngOf(picture, [1 + below(200), 1 + below(2000)]);
      const png = chance() < 0.02 ? original : brokenPng(original, picture);
      let grey: Uint8Array;
      try {
        grey = await read(inPieces(png, 1 + below(png.length)), LIMITS);
      } catch (error) {
        if (!(error instanceof ImageError) || png === original) throw error;
        refusals.set(error.code, (refusals.get(error.code) ?? 0) + 1);
        return;
      }
      right++;
      expectSame(grey, await judged(png));
      if (png === original) expectSame(grey, greyOf(picture));
    });
    // Damage of every kind occurs, and some of it changes nothing.
    expect(right).toBeGreaterThan(500);
    expect([...refusals.keys()].sort()).toEqual(["corrupt", "too-large"]);
    expect(refusals.get("corrupt")).toBeGreaterThan(2000);
  });

  test("bands with wrong CRCs are not stitched; with valid ones the Adler-32 of the whole is wrong", async () => {
    const seen = { refused: 0, stitched: 0 };
    await fuzz(6000, AROUND, async () => {
      const [width, rows] = [1 + below(60), 1 + below(20)];
      const pixels = noise(width * rows);
      const band = Buffer.from(await encodeBand(pixels, width, rows));
      const validCrcs = chance() < 0.6;
      const broken = validCrcs ? assemble(damaged(chunksOf(band))) : damagedBytes(band);
      const stitcher = new Stitcher(width, rows);
      const taken = stitcher.band(broken, rows);
      if (taken === undefined) {
        seen.refused++;
        // The stitcher is unchanged.
        expectSame(stitcher.band(band, rows)!, middleOf(band));
        expectSame(stitched(stitcher, middleOf(band))!, pixels);
        expect(new Stitcher(width + 1, rows).band(band, rows)).toBeUndefined();
        expect(new Stitcher(width, rows + 1).band(band, rows + 1)).toBeUndefined();
      } else if (!broken.equals(band)) {
        seen.stitched++;
        if (!validCrcs) throw new Error("a band with wrong checksums was stitched");
        const whole = stitched(stitcher, taken);
        if (whole) expectSame(whole, pixels);
      }
    });
    expect(seen.refused).toBeGreaterThan(3000);
    expect(seen.stitched).toBeGreaterThan(100);
  });

  test("messages give the band that they describe, or a WireError", async () => {
    const seen = { right: 0, refused: 0 };
    await fuzz(4000, PIXEL_BYTES * (12 << 20) + AROUND, async () => {
      const [width, height] = [1 + below(40), 1 + below(20)];
      const halo: [number, number] = [below(Math.min(3, height)), 0];
      const chunkId = chunkIdOf(uuid(), below(1000));
      const sent: Chunk = { chunkId, task: "sobel", halo, width, height, channels: 1, pixels: noise(width * height) };
      const message = Buffer.from(encodeMessage(sent)); // a copy: the next message reuses the buffer
      const intact = chance() < 0.02;
      const broken = intact ? message : brokenMessage(message);
      let got: Chunk;
      try {
        got = await decodeMessage(broken);
      } catch (error) {
        if (!(error instanceof WireError) || intact) throw error;
        seen.refused++;
        return;
      }
      seen.right++;
      parseChunkId(got.chunkId);
      expect(got.task).toMatch(/^[a-z][a-z0-9-]*$/);
      expect(got.pixels).toHaveLength(got.width * got.height * got.channels);
      for (const rows of got.halo) expect(Number.isInteger(rows) && rows >= 0).toBe(true);
      expect(got.halo[0] + got.halo[1]).toBeLessThan(got.height);
      const { imagen } = JSON.parse(broken.toString());
      const grey = new Uint8Array(got.width * got.height);
      convert(got.pixels, got.channels, grey, 1);
      expectSame(grey, await judged(Buffer.from(imagen, "base64")));
      if (intact) expect({ ...got, pixels: sent.pixels, params: 0 }).toEqual({ ...sent, params: 0 });
    });
    expect(seen.right).toBeGreaterThan(300);
    expect(seen.refused).toBeGreaterThan(2000);
  });

  test.each(["chunk_id", "task", "halo", "imagen"])(
    "a message whose %s is nested deeper than the stack is a WireError",
    async (name) => {
      const chunkId = chunkIdOf(uuid(), 0);
      const valid = encodeMessage({
        chunkId,
        task: "sobel",
        halo: [0, 0],
        width: 1,
        height: 1,
        channels: 1,
        pixels: noise(1),
      });
      const fields = { ...JSON.parse(valid.toString()), [name]: 0 };
      const text = JSON.stringify(fields).replace(
        `"${name}":0`,
        `"${name}":${"[".repeat(100_000)}${"]".repeat(100_000)}`,
      );
      const error = await decodeMessage(Buffer.from(text)).catch((cause) => cause);
      expect(error).toBeInstanceOf(WireError);
      expect(error.message).toStartWith(`${name}: expected `);
    },
  );
});

/** Any kind of picture, small. */
function randomPicture(): Picture {
  const [colour, depth] = pick(KINDS);
  const [width, height] = [1 + below(40), 1 + below(24)];
  const channels = CHANNELS[colour];
  const colours = colour === PALETTE ? Math.min(1 << depth, 1 + below(256)) : 1 << depth;
  const samples = Uint16Array.from({ length: width * height * channels }, () => below(colours));
  const picture: Picture = { width, height, colour, depth, samples, interlaced: chance() < 0.3 };
  if (colour === PALETTE) picture.palette = noise(colours * 3);
  if (colour > PALETTE || chance() < 0.5) return picture;
  if (colour === PALETTE) return { ...picture, transparency: noise(1 + below(colours)) };
  const key = Buffer.alloc(2 * channels);
  for (let c = 0; c < channels; c++) key.writeUInt16BE(samples[c], 2 * c);
  return { ...picture, transparency: key };
}

interface Part {
  type: string;
  payload: Buffer;
}

/**
 * The chunks of a file, up to IEND.
 * @throws where a CRC is wrong
 */
function chunksOf(bytes: Buffer): Part[] {
  const parts: Part[] = [];
  for (let at = SIGNATURE.length; parts.at(-1)?.type !== "IEND"; ) {
    const length = bytes.readUInt32BE(at);
    const whole = bytes.subarray(at, at + 12 + length);
    const part = { type: whole.toString("latin1", 4, 8), payload: Buffer.from(whole.subarray(8, -4)) };
    if (!chunk(part.type, part.payload).equals(whole)) throw new Error(`${part.type}: wrong CRC or length`);
    parts.push(part);
    at += whole.length;
  }
  return parts;
}

/** A file of chunks, each with the right length and CRC. */
function assemble(parts: Part[]): Buffer {
  return Buffer.concat([SIGNATURE, ...parts.map(({ type, payload }) => chunk(type, payload))]);
}

function brokenPng(png: Buffer, picture: Picture): Buffer {
  const how = chance();
  if (how < 0.2) return damagedBytes(png);
  const parts = chunksOf(png);
  if (how < 0.6) return assemble(damaged(parts));
  if (how < 0.7) return withLength(png);
  return assemble(withData(parts, damagedLines(scanlines(picture))));
}

/** Damage that leaves the checksums as they were. */
function damagedBytes(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes);
  const at = below(copy.length);
  const length = Math.min(1 + below(64), copy.length - at);
  return pick<() => Buffer>([
    () => {
      for (let flips = 1 + below(3); flips > 0; flips--) copy[below(copy.length)] ^= 1 << below(8);
      return copy;
    },
    () => {
      copy.fill(pick([0, 0xff, below(256)]), at, at + length);
      return copy;
    },
    () => copy.subarray(0, at),
    () => Buffer.concat([copy.subarray(0, at), copy.subarray(at + length)]),
    () => Buffer.concat([copy.subarray(0, at), noise(length), copy.subarray(at)]),
    () => Buffer.concat([copy.subarray(0, at + length), copy.subarray(at)]),
  ])();
}

/** Chunks damaged in one to three ways. */
function damaged(parts: Part[]): Part[] {
  for (let times = 1 + below(3); times > 0; times--) {
    const at = below(parts.length);
    const part = parts[at];
    pick<() => void>([
      () => flip(part.payload),
      () => flip(part.payload),
      () => part.payload.fill(below(256), below(part.payload.length + 1)),
      () => changeHeader(parts[0].payload),
      () => changeHeader(parts[0].payload),
      () => {
        part.payload = part.payload.subarray(0, below(part.payload.length + 1));
      },
      () => {
        part.payload = Buffer.concat([part.payload, noise(1 + below(20))]);
      },
      () => {
        part.type = pick(["IHDR", "PLTE", "IDAT", "IEND", "tRNS", "tEXt", "ABCD", "soBD", "aBcd", "1234"]);
      },
      () => parts.splice(at, 1),
      () => parts.splice(below(parts.length), 0, { ...part, payload: Buffer.from(part.payload) }),
      () => parts.splice(below(parts.length), 0, ...parts.splice(at, 1)),
      () => parts.splice(at, 0, { type: "tEXt", payload: Buffer.alloc(pick([0, 1, 70_000])) }),
      () => parts.splice(at, 0, { type: pick(["PLTE", "tRNS"]), payload: noise(pick([0, 1, 2, 3, 6, 768, 771])) }),
    ])();
    if (parts.length === 0) break;
  }
  return parts;
}

function flip(bytes: Buffer): void {
  if (bytes.length > 0) bytes[below(bytes.length)] ^= 1 << below(8);
}

/** Changes width, height, depth, colour type or a method. */
function changeHeader(payload: Buffer): void {
  if (payload.length < 13) return;
  const field = below(7);
  if (field < 2) payload.writeUInt32BE(pick([0, 1, below(50), below(1e6), 2 ** 31 - 1, 2 ** 32 - 1]), 4 * field);
  else payload[6 + field] = pick([0, 1, 2, 3, 4, 6, 8, 16, below(256)]);
}

/** One chunk has a wrong length field. */
function withLength(png: Buffer): Buffer {
  const copy = Buffer.from(png);
  const starts: number[] = [];
  for (let at = SIGNATURE.length; at < png.length; at += 12 + png.readUInt32BE(at)) starts.push(at);
  copy.writeUInt32BE(pick([0, 1, below(2000), 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1]), pick(starts));
  return copy;
}

/** Other rows, compressed again: every checksum is right. */
function withData(parts: Part[], lines: Buffer): Part[] {
  const data = deflateSync(lines, { level: pick([0, 1, 9]) });
  const first = parts.findIndex(({ type }) => type === "IDAT");
  const rest = parts.filter(({ type }) => type !== "IDAT");
  rest.splice(first, 0, { type: "IDAT", payload: data });
  return rest;
}

function damagedLines(lines: Buffer): Buffer {
  return pick<() => Buffer>([
    () => lines.subarray(0, below(lines.length)),
    () => Buffer.concat([lines, Buffer.alloc(pick([1, 100, 4 << 20]))]),
    ...Array(4).fill(() => {
      for (let flips = 1 + below(4); flips > 0; flips--) lines[below(lines.length)] ^= 1 << below(8);
      return lines;
    }),
  ])();
}

function brokenMessage(message: Buffer): Buffer {
  const how = chance();
  if (how < 0.25) return damagedBytes(message);
  const fields = JSON.parse(message.toString());
  if (how < 0.75) {
    const png = Buffer.from(fields.imagen, "base64");
    fields.imagen = pick<() => Buffer>([
      () => damagedBytes(png),
      () => assemble(damaged(chunksOf(png))),
      () => withLength(png),
      () => assemble(withData(chunksOf(png), damagedLines(inflateSync(dataOf(chunksOf(png)))))),
      () => pngOf(randomPicture()),
    ])().toString("base64");
    return Buffer.from(JSON.stringify(fields));
  }
  const name = pick([...Object.keys(fields), "params", "other"]);
  const value = pick<() => string>([
    () => String(pick([null, true, 0, -1, 1.5, 1e308, "{}", "[]", '""', '"AAAA"', '"===="', '"AA=A"', '"é"'])),
    () => JSON.stringify([below(30), below(30)]),
    () => JSON.stringify([below(3), below(3), below(3)]),
    () => JSON.stringify(`{${uuid()}}:${pick([0, "01", 12345678901, -1, "x", "0\n"])}`),
    () => JSON.stringify(damagedBytes(Buffer.from(String(fields[name]))).toString("latin1")),
    () => "[[]]",
  ])();
  const rest = Object.entries(fields).filter(([field]) => field !== name);
  return Buffer.from(`{${[...rest.map(([field, own]) => `"${field}":${JSON.stringify(own)}`), `"${name}":${value}`]}}`);
}

function dataOf(parts: Part[]): Buffer {
  return Buffer.concat(parts.filter(({ type }) => type === "IDAT").map(({ payload }) => payload));
}

/** The chunk of a band that stitching copies. */
function middleOf(band: Buffer): Uint8Array {
  const { type, payload } = chunksOf(band)[3];
  return chunk(type, payload);
}

/** The pixels of a picture of one band, by zlib and the filters Sub and None; undefined where zlib refuses it. */
function stitched(stitcher: Stitcher, middle: Uint8Array): Uint8Array | undefined {
  const { width } = stitcher;
  const png = Buffer.concat([stitcher.head(), middle, stitcher.tail()]);
  let lines: Buffer;
  try {
    lines = inflateSync(dataOf(chunksOf(png)));
  } catch {
    return undefined; // the Adler-32 of the whole is wrong
  }
  const pixels = Buffer.alloc(width * stitcher.height);
  for (let i = 0; i < pixels.length; i++) {
    const [x, at] = [i % width, Math.floor(i / width) * (width + 1)];
    pixels[i] = lines[at + 1 + x] + (x > 0 && lines[at] === 1 ? pixels[i - 1] : 0);
  }
  return pixels;
}

/**
 * The grey by other readers: fast-png's samples, or libvips' pixels where fast-png misreads.
 * @throws where they refuse, and where a checksum is wrong
 */
async function judged(png: Buffer): Promise<Uint8Array> {
  const parts = chunksOf(png);
  const data = parts.findIndex(({ type }) => type === "IDAT");
  const before = (wanted: string) => parts.slice(0, data).find(({ type }) => type === wanted)?.payload;
  const header = before("IHDR")!;
  const [depth, colour, , , interlace] = header.subarray(8);
  const palette = colour === PALETTE ? before("PLTE") : undefined;
  // As libpng: one that is out of place or of another length is passed over.
  const colours = parts.findIndex(({ type }) => type === "PLTE");
  const transparency = parts.slice(0, data).find(({ type, payload: { length } }, place) => {
    if (type !== "tRNS") return false;
    if (colour !== PALETTE) return length === (colour === GREY ? 2 : 6);
    return colours < place && length > 0 && length <= palette!.length / 3;
  })?.payload;
  // Only the chunks that make pixels: fast-png is stricter than the specification about others.
  const essential: Part[] = [{ type: "IHDR", payload: header }];
  if (palette) essential.push({ type: "PLTE", payload: palette });
  const throughLibvips = interlace === 1 && depth < 8; // fast-png gives samples, and transparency does not change them
  if (throughLibvips && transparency && colour <= PALETTE) essential.push({ type: "tRNS", payload: transparency });
  essential.push({ type: "IDAT", payload: dataOf(parts) }, { type: "IEND", payload: Buffer.alloc(0) });
  const plain = assemble(essential);
  if (throughLibvips) return byLibvips(plain);
  const { width, height, channels, data: bytes } = decode(plain, { checkCrc: true });
  const stride = Math.ceil((width * channels * depth) / 8);
  const samples = Uint16Array.from({ length: width * height * channels }, (_, i) => {
    if (depth >= 8) return bytes[i];
    const bit = (i % width) * depth;
    return (bytes[Math.floor(i / width) * stride + (bit >> 3)] >> (8 - depth - (bit & 7))) & ((1 << depth) - 1);
  });
  // An index beyond the palette is black.
  const whole = palette && Uint8Array.from({ ...palette, length: 3 * 256 });
  return greyOf({ width, height, colour, depth, samples, palette: whole, transparency });
}

async function byLibvips(png: Buffer): Promise<Uint8Array> {
  const { data, info } = await sharp(png).raw().toBuffer({ resolveWithObject: true });
  const { width, height, channels } = info;
  const colours = channels % 2 === 0 ? channels - 1 : channels;
  return Uint8Array.from({ length: width * height }, (_, i) => {
    const pixel = [...data.subarray(i * channels, (i + 1) * channels)];
    return over(pixel.slice(0, colours), pixel[colours]);
  });
}
