/**
 * What the PNG reader and the PNG writer share: the signature, colour types, chunks, and Adler-32 of joined parts.
 *
 *     a file      signature, IHDR, other chunks, IDAT …, other chunks, IEND
 *     a chunk     length of the payload (4 bytes) · type (4 letters) · payload · CRC-32 of type and payload (4 bytes)
 *
 * Numbers are big-endian. Not here: reading (png-read.ts), writing (png-write.ts).
 * Source: PNG Specification (Third Edition), https://www.w3.org/TR/png-3/
 */
import { crc32 } from "node:zlib";
import { type Channels, ImageError } from "./picture.ts";

export const PNG_SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);

export const GREY = 0;
export const RGB = 2;
export const PALETTE = 3;
export const GREY_ALPHA = 4;
export const RGBA = 6;
/** Samples per pixel, by colour type. */
export const CHANNELS: Record<number, number> = { [GREY]: 1, [RGB]: 3, [PALETTE]: 1, [GREY_ALPHA]: 2, [RGBA]: 4 };
/** Bits per sample that the specification allows, by colour type. */
export const DEPTHS: Record<number, number[]> = {
  [GREY]: [1, 2, 4, 8, 16],
  [RGB]: [8, 16],
  [PALETTE]: [1, 2, 4, 8],
  [GREY_ALPHA]: [8, 16],
  [RGBA]: [8, 16],
};

/** The fields of IHDR, and the two chunks that change what samples mean. */
export interface Header {
  width: number;
  height: number;
  /** Bits per sample. */
  depth: number;
  /** Colour type. */
  colour: number;
  interlaced: boolean;
  /** The orientation in eXIf, 1 to 8. */
  orientation: number;
  /** RGB triples of PLTE. */
  palette?: Uint8Array;
  /** The payload of tRNS: alphas of the palette, or the one transparent colour as 16-bit samples. */
  transparency?: Uint8Array;
}

/** The error for a PNG that breaks a rule of the specification. */
export function corrupt(what: string, cause?: unknown): ImageError {
  return new ImageError("corrupt", `corrupt PNG: ${what}`, { cause });
}

/** Adler-32 of two joined parts, from their checksums and the second's length in bytes (zlib's `adler32_combine`). */
export function combineAdler(first: number, second: number, length: number): number {
  const n = length % 65521;
  const [a1, b1] = [first & 0xffff, first >>> 16];
  const [a2, b2] = [second & 0xffff, second >>> 16];
  const low = (a1 + a2 + 65520) % 65521;
  const high = (n * a1 + b1 + b2 + 65521 - n) % 65521;
  return ((high << 16) | low) >>> 0;
}

/** IHDR of an 8-bit picture, not interlaced. */
export function headerChunk(width: number, height: number, channels: Channels): Uint8Array {
  const colour = { 1: GREY, 3: RGB, 4: RGBA }[channels];
  return pngChunk("IHDR", uint32(width), uint32(height), Uint8Array.of(8, colour, 0, 0, 0));
}

export function pngChunk(type: string, ...payload: Uint8Array[]): Uint8Array {
  return Buffer.concat(chunkParts(type, ...payload));
}

/** The parts of a chunk; the payload is not copied. */
export function chunkParts(type: string, ...payload: Uint8Array[]): Uint8Array[] {
  const body = [Buffer.from(type, "latin1"), ...payload];
  const length = payload.reduce((sum, part) => sum + part.length, 0);
  const crc = body.reduce((sum, part) => crc32(part, sum), 0);
  return [uint32(length), ...body, uint32(crc)];
}

export function uint32(value: number): Uint8Array {
  return Uint8Array.of(value >>> 24, value >>> 16, value >>> 8, value);
}

export function uint32At(bytes: Uint8Array, at: number): number {
  return ((bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3]) >>> 0;
}
