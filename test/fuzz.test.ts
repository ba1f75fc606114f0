// Whatever arrives is read right or refused: thousands of files, bands and messages, each broken in its own way, many
// with their checksums mended so that the damage gets deeper. For each: an end in time, no array larger than the limits
// allow, an error of the documented class and no other, and nothing accepted that others read differently (fast-png,
// libvips, zlib).
//
//     FUZZ_SEED=123 bun test test/fuzz.test.ts      the same cases again; the seed is printed, failures name the case
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { Worker } from "node:worker_threads";
import { deflateSync, inflateSync } from "node:zlib";
import { decode } from "fast-png";
import sharp from "sharp";
import { type Chunk, chunkIdOf, decodeMessage, encodeMessage, parseChunkId, WireError } from "../chunk.ts";
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

setDefaultTimeout(120_000);

const SEED = process.env.FUZZ_SEED ? Number(process.env.FUZZ_SEED) : Math.floor(Math.random() * 2 ** 32);
const LIMITS: PixelLimits = { streamed: 1_000_000, whole: 100_000 };
/** No case may take longer, ms. A healthy one takes 1 ms; the machine may be busy. */
const DEADLINE = 5_000;
/** Bytes of the widest pixel (RGBA of 16 bits), and what is spent around a row. */
const PIXEL_BYTES = 8;
const AROUND = 1 << 19;

const KINDS: [colour: number, depth: number][] = [
  ...[1, 2, 4, 8, 16].map((depth): [number, number] => [GREY, depth]),
  ...[8, 16].map((depth): [number, number] => [RGB, depth]),
  ...[1, 2, 4, 8].map((depth): [number, number] => [PALETTE, depth]),
  ...[8, 16].map((depth): [number, number] => [GREY_ALPHA, depth]),
  ...[8, 16].map((depth): [number, number] => [RGBA, depth]),
];

/** The state of the generator: set anew for each case, so that each can be had by itself. */
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

/** The largest array that was asked for: memory that is not touched shows nowhere else. */
let largest = 0;
const RealArray = globalThis.Uint8Array;
/** Case in hand, and when it began: for the watchdog. */
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
  // A loop without end would block this thread, and the timers of the tests with it.
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

/** Runs `step` for each case; a failure names it. */
async function fuzz(cases: number, most: number, step: (number: number) => Promise<void>): Promise<void> {
  for (let number = 0; number < cases; number++) {
    state = (SEED + Math.imul(number, 0x9e3779b1)) | 0;
    largest = 0;
    progress.set([number, Date.now()]);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no end in ${DEADLINE} ms`)), DEADLINE);
    });
    try {
      await Promise.race([step(number), late]);
      if (largest > most) throw new Error(`an array of ${largest} bytes, expected at most ${most}`);
    } catch (cause) {
      throw new Error(`FUZZ_SEED=${SEED}, case ${number}: ${(cause as Error).message}`, { cause });
    } finally {
      clearTimeout(timer);
      progress[1] = 0;
    }
  }
}

describe("fuzz", () => {
  test("PNG files: read as others read them, or refused", async () => {
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
    // The damage is of every depth, and some of it is harmless.
    expect(right).toBeGreaterThan(500);
    expect([...refusals.keys()].sort()).toEqual(["corrupt", "too-large"]);
    expect(refusals.get("corrupt")).toBeGreaterThan(2000);
  });

  test("bands: the very bytes, or not taken; what is taken and harmed no reader accepts", async () => {
    const seen = { refused: 0, harmed: 0 };
    await fuzz(6000, AROUND, async () => {
      const [width, rows] = [1 + below(60), 1 + below(20)];
      const pixels = noise(width * rows);
      const band = Buffer.from(await encodeBand(pixels, width, rows));
      const mended = chance() < 0.6;
      const broken = mended ? assemble(harmed(takenApart(band))) : harmedBytes(band);
      const stitcher = new Stitcher(width, rows);
      const taken = stitcher.band(broken, rows);
      if (taken === undefined) {
        seen.refused++;
        // It has left no trace.
        expectSame(stitcher.band(band, rows)!, middleOf(band));
        expectSame(stitched(stitcher, middleOf(band))!, pixels);
        expect(new Stitcher(width + 1, rows).band(band, rows)).toBeUndefined();
        expect(new Stitcher(width, rows + 1).band(band, rows + 1)).toBeUndefined();
      } else if (!broken.equals(band)) {
        seen.harmed++;
        if (!mended) throw new Error("a band whose checksums are wrong was taken");
        // Whoever can mend a checksum can do harm; the checksum of the whole still tells.
        const shown = stitched(stitcher, taken);
        if (shown) expectSame(shown, pixels);
      }
    });
    expect(seen.refused).toBeGreaterThan(3000);
    expect(seen.harmed).toBeGreaterThan(100);
  });

  test("messages: a band that is as the message says, or a WireError", async () => {
    const seen = { right: 0, refused: 0 };
    await fuzz(4000, PIXEL_BYTES * (12 << 20) + AROUND, async () => {
      const [width, height] = [1 + below(40), 1 + below(20)];
      const halo: [number, number] = [below(Math.min(3, height)), 0];
      const chunkId = chunkIdOf(crypto.randomUUID(), below(1000));
      const sent: Chunk = { chunkId, task: "sobel", halo, width, height, pixels: noise(width * height) };
      const message = Buffer.from(encodeMessage(sent)); // kept while the next is made
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
      expect(got.pixels).toHaveLength(got.width * got.height);
      for (const rows of got.halo) expect(Number.isInteger(rows) && rows >= 0).toBe(true);
      expect(got.halo[0] + got.halo[1]).toBeLessThan(got.height);
      const { imagen } = JSON.parse(broken.toString());
      expectSame(got.pixels, await judged(Buffer.from(imagen, "base64")));
      if (intact) expect({ ...got, pixels: sent.pixels, params: 0 }).toEqual({ ...sent, params: 0 });
    });
    expect(seen.right).toBeGreaterThan(300);
    expect(seen.refused).toBeGreaterThan(2000);
  });

  test.each(["chunk_id", "task", "halo", "imagen"])(
    "a message whose %s is nested deeper than a stack",
    async (name) => {
      const chunkId = chunkIdOf(crypto.randomUUID(), 0);
      const sound = encodeMessage({ chunkId, task: "sobel", halo: [0, 0], width: 1, height: 1, pixels: noise(1) });
      const fields = { ...JSON.parse(sound.toString()), [name]: 0 };
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
function takenApart(bytes: Buffer): Part[] {
  const parts: Part[] = [];
  for (let at = SIGNATURE.length; parts.at(-1)?.type !== "IEND"; ) {
    const length = bytes.readUInt32BE(at);
    const whole = bytes.subarray(at, at + 12 + length);
    const part = { type: whole.toString("latin1", 4, 8), payload: Buffer.from(whole.subarray(8, -4)) };
    if (!chunk(part.type, part.payload).equals(whole)) throw new Error(`${part.type}: its CRC or its end is wrong`);
    parts.push(part);
    at += whole.length;
  }
  return parts;
}

/** A file of chunks, each with the length and CRC that it should have. */
function assemble(parts: Part[]): Buffer {
  return Buffer.concat([SIGNATURE, ...parts.map(({ type, payload }) => chunk(type, payload))]);
}

function brokenPng(png: Buffer, picture: Picture): Buffer {
  const how = chance();
  if (how < 0.2) return harmedBytes(png);
  const parts = takenApart(png);
  if (how < 0.6) return assemble(harmed(parts));
  if (how < 0.7) return withLength(png);
  return assemble(withData(parts, harmedLines(scanlines(picture))));
}

/** Damage of which the checksums know nothing. */
function harmedBytes(bytes: Buffer): Buffer {
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

/** Chunks harmed in one to three ways. */
function harmed(parts: Part[]): Part[] {
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

/** Another width, height, depth, colour type or method. */
function changeHeader(payload: Buffer): void {
  if (payload.length < 13) return;
  const field = below(7);
  if (field < 2) payload.writeUInt32BE(pick([0, 1, below(50), below(1e6), 2 ** 31 - 1, 2 ** 32 - 1]), 4 * field);
  else payload[6 + field] = pick([0, 1, 2, 3, 4, 6, 8, 16, below(256)]);
}

/** One chunk says another length than it has. */
function withLength(png: Buffer): Buffer {
  const copy = Buffer.from(png);
  const starts: number[] = [];
  for (let at = SIGNATURE.length; at < png.length; at += 12 + png.readUInt32BE(at)) starts.push(at);
  copy.writeUInt32BE(pick([0, 1, below(2000), 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1]), pick(starts));
  return copy;
}

/** Other rows, compressed anew: every checksum is right. */
function withData(parts: Part[], lines: Buffer): Part[] {
  const data = deflateSync(lines, { level: pick([0, 1, 9]) });
  const first = parts.findIndex(({ type }) => type === "IDAT");
  const rest = parts.filter(({ type }) => type !== "IDAT");
  rest.splice(first, 0, { type: "IDAT", payload: data });
  return rest;
}

function harmedLines(lines: Buffer): Buffer {
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
  if (how < 0.25) return harmedBytes(message);
  const fields = JSON.parse(message.toString());
  if (how < 0.75) {
    const png = Buffer.from(fields.imagen, "base64");
    fields.imagen = pick<() => Buffer>([
      () => harmedBytes(png),
      () => assemble(harmed(takenApart(png))),
      () => withLength(png),
      () => assemble(withData(takenApart(png), harmedLines(inflateSync(dataOf(takenApart(png)))))),
      () => pngOf(randomPicture()),
    ])().toString("base64");
    return Buffer.from(JSON.stringify(fields));
  }
  const name = pick([...Object.keys(fields), "params", "other"]);
  const value = pick<() => string>([
    () => String(pick([null, true, 0, -1, 1.5, 1e308, "{}", "[]", '""', '"AAAA"', '"===="', '"AA=A"', '"é"'])),
    () => JSON.stringify([below(30), below(30)]),
    () => JSON.stringify([below(3), below(3), below(3)]),
    () => JSON.stringify(`{${crypto.randomUUID()}}:${pick([0, "01", 12345678901, -1, "x", "0\n"])}`),
    () => JSON.stringify(harmedBytes(Buffer.from(String(fields[name]))).toString("latin1")),
    () => "[[]]",
  ])();
  const rest = Object.entries(fields).filter(([field]) => field !== name);
  return Buffer.from(`{${[...rest.map(([field, own]) => `"${field}":${JSON.stringify(own)}`), `"${name}":${value}`]}}`);
}

function dataOf(parts: Part[]): Buffer {
  return Buffer.concat(parts.filter(({ type }) => type === "IDAT").map(({ payload }) => payload));
}

/** The chunk of a band that is copied. */
function middleOf(band: Buffer): Uint8Array {
  const { type, payload } = takenApart(band)[3];
  return chunk(type, payload);
}

/** What zlib and the filters Sub and None make of a picture of one band; undefined where zlib refuses it. */
function stitched(stitcher: Stitcher, middle: Uint8Array): Uint8Array | undefined {
  const { width } = stitcher;
  const png = Buffer.concat([stitcher.head(), middle, stitcher.tail()]);
  let lines: Buffer;
  try {
    lines = inflateSync(dataOf(takenApart(png)));
  } catch {
    return undefined; // the checksum of the whole tells
  }
  const pixels = Buffer.alloc(width * stitcher.height);
  for (let i = 0; i < pixels.length; i++) {
    const [x, at] = [i % width, Math.floor(i / width) * (width + 1)];
    pixels[i] = lines[at + 1 + x] + (x > 0 && lines[at] === 1 ? pixels[i - 1] : 0);
  }
  return pixels;
}

/**
 * The grey as others read it: fast-png's samples, or libvips's pixels where fast-png misreads.
 * @throws where they refuse, and where a checksum is wrong: then nobody should have accepted it
 */
async function judged(png: Buffer): Promise<Uint8Array> {
  const parts = takenApart(png);
  const data = parts.findIndex(({ type }) => type === "IDAT");
  const before = (wanted: string) => parts.slice(0, data).find(({ type }) => type === wanted)?.payload;
  const [header, transparency] = [before("IHDR")!, before("tRNS")];
  const [depth, colour, , , interlace] = header.subarray(8);
  const palette = colour === PALETTE ? before("PLTE") : undefined;
  // Only what makes the pixels: fast-png is stricter than the specification about the rest.
  const essential: Part[] = [{ type: "IHDR", payload: header }];
  if (palette) essential.push({ type: "PLTE", payload: palette });
  const throughLibvips = interlace === 1 && depth < 8; // the other gives the samples, whatever is transparent
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
  if (palette && samples.some((index) => index >= palette.length / 3)) throw new Error("an index beyond the palette");
  return greyOf({ width, height, colour, depth, samples, palette, transparency });
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
