// Pictures for the tests: deterministic pixels, and PNGs put together chunk by chunk, so that any part of them can be
// left out, doubled or damaged. Written from the specification, with nothing of png.ts in it.
import { crc32, deflateSync } from "node:zlib";

/** Samples that look like nothing and compress badly, the same for the same seed: xorshift32. */
export function noise(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length);
  let x = (seed * 2654435761) | 1;
  for (let i = 0; i < length; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    bytes[i] = x;
  }
  return bytes;
}

const CHANNELS: Record<number, number> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };

export const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

/** A chunk with its CRC, or with the wrong one that is given. */
export function pngChunk(type: string, payload: Uint8Array = new Uint8Array(0), crc?: number): Buffer {
  const body = Buffer.concat([Buffer.from(type, "latin1"), payload]);
  const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(payload.length);
  sum.writeUInt32BE(crc ?? crc32(body));
  return Buffer.concat([length, body, sum]);
}

/** `colour`: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA. */
export function ihdr(width: number, height: number, colour = 0, depth = 8, interlace = 0): Buffer {
  const payload = Buffer.alloc(13);
  payload.writeUInt32BE(width, 0);
  payload.writeUInt32BE(height, 4);
  payload.set([depth, colour, 0, 0, interlace], 8);
  return pngChunk("IHDR", payload);
}

export interface Made {
  colour?: number;
  /** The samples, 8 bits each; noise where nothing else is said. */
  samples?: Uint8Array;
  seed?: number;
  /** What is compressed into IDAT in place of the scanlines. */
  scanlines?: Uint8Array;
  /** The payload of IDAT, in place of the compressed scanlines. */
  idat?: Uint8Array;
  /** Whole chunks between IHDR and IDAT. */
  before?: Buffer[];
}

/** A PNG of 8-bit samples, every row without a filter. */
export function png(width: number, height: number, made: Made = {}): Buffer {
  const { colour = 2, seed, before = [] } = made;
  const stride = width * CHANNELS[colour];
  const samples = made.samples ?? noise(stride * height, seed);
  const scanlines = made.scanlines ?? unfiltered(samples, stride);
  const idat = made.idat ?? deflateSync(scanlines, { level: 1 });
  return Buffer.concat([SIGNATURE, ihdr(width, height, colour), ...before, pngChunk("IDAT", idat), pngChunk("IEND")]);
}

/** Scanlines of filter type 0: a zero in front of every `stride` bytes. */
export function unfiltered(samples: Uint8Array, stride: number): Uint8Array {
  const lines = new Uint8Array(samples.length + samples.length / stride);
  for (let from = 0, to = 0; from < samples.length; from += stride, to += 1 + stride) {
    lines.set(samples.subarray(from, from + stride), to + 1);
  }
  return lines;
}
