// The loops over pixels (unfilter, luminance, Sobel, filter) and over bytes (Adler-32, base64). Two implementations of
// one interface, SIMD in WebAssembly (kernel.as.ts) and plain TypeScript (scalar.ts). It knows bytes, not
// PNG chunks, bands or jobs: png.ts, chunk.ts and sobel.ts do. Nothing is asynchronous, and no thread shares anything
// with another.
//
// Invariant: the two give the same bytes and the same errors, so which one a worker has never shows in a picture.

import { readFileSync } from "node:fs";
import * as loops from "./scalar.ts";

/**
 * Samples are 8-bit, images row-major. A "line" is a PNG scanline: the filter byte, then the row. Every length is
 * checked (RangeError, before anything is written). An output must not overlap an input.
 */
export interface Kernel {
  readonly name: "simd" | "scalar";

  /**
   * Undoes the PNG row filters (PNG spec, clause 9) in place and sets every filter byte to 0.
   * @param lines k × (1 + rowBytes) bytes.
   * @param bytesPerPixel of the filter: 1, 2, 3, 4, 6 or 8; it is 1 for depths below 8 bits.
   * @param previous rowBytes bytes: the row above, unfiltered (zeros at the top). It becomes the last row.
   * @throws RangeError on a filter byte above 4, too.
   */
  unfilter(lines: Uint8Array, rowBytes: number, bytesPerPixel: number, previous: Uint8Array): void;

  /**
   * (9798 R + 19235 G + 3735 B + 16384) >> 15: BT.601, equal to OpenCV's cvtColor(BGR2GRAY). Alpha is composited
   * over white afterwards: floor((Y·a + 255·(255 − a) + 127) / 255).
   * @param pixels n × channels interleaved samples.
   * @param channels 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
   * @param grey n bytes.
   */
  luminance(pixels: Uint8Array, channels: number, grey: Uint8Array): void;

  /**
   * `unfilter` and `luminance` in one pass, the hot path of reading a PNG. `lines` is left as it may be.
   * @param lines k × (1 + width · channels) bytes.
   * @param previous width · channels bytes, as in `unfilter`.
   * @param grey k × width bytes.
   */
  unfilterLuminance(lines: Uint8Array, width: number, channels: number, previous: Uint8Array, grey: Uint8Array): void;

  /**
   * The loop of sobel.ts; absent in the scalar kernel: that one is its twin. Left and right edges are BORDER_REFLECT_101 (a
   * single column is its own neighbour); above and below it is for the caller to put the right rows.
   * @param band (rows + 2) × width grey: the rows and one halo row on either side.
   * @param edges rows × width.
   */
  sobel?(band: Uint8Array, width: number, rows: number, edges: Uint8Array): void;

  /**
   * Grey rows to PNG scanlines, every one with filter Sub.
   * @param grey rows × width.
   * @param lines rows × (1 + width).
   * @returns the Adler-32 of `lines`, unsigned.
   */
  filterSub(grey: Uint8Array, width: number, rows: number, lines: Uint8Array): number;

  /**
   * Adler-32 (RFC 1950), unsigned.
   * @param adler of the bytes before these, if there are any.
   */
  adler32(bytes: Uint8Array, adler?: number): number;

  /**
   * Base64 (RFC 4648, 4) in ASCII, without the string in between that the runtimes would make of it.
   * @param text as many bytes as `base64Length` says.
   */
  toBase64(bytes: Uint8Array, text: Uint8Array): void;

  /**
   * @param text whole quartets, the last with its padding.
   * @param bytes as many as `base64Bytes` says; they may be the first of `text` itself.
   * @returns whether it is base64; if not, anything stands in `bytes`.
   */
  fromBase64(text: Uint8Array, bytes: Uint8Array): boolean;
}

export type SimdKernel = Kernel & Required<Pick<Kernel, "sobel">>;

/** How many characters of base64 stand for these bytes, padding included. */
export function base64Length(bytes: Uint8Array): number {
  return 4 * Math.ceil(bytes.length / 3);
}

/** How many bytes there are in base64 of whole quartets. */
export function base64Bytes(text: Uint8Array): number {
  const padding = text.at(-1) !== EQUALS ? 0 : text.at(-2) !== EQUALS ? 1 : 2;
  return (text.length / 4) * 3 - padding;
}

const EQUALS = 61;
const LETTER_OF_ZERO = 65;

/** The plain TypeScript twins. */
export const scalar: Kernel = checked("scalar", loops);

/**
 * A SIMD kernel of its own, with its own memory.
 * @throws if the engine has no WebAssembly SIMD, and (the engine's own errors) if kernel.wasm is missing or broken.
 */
export function simd(): SimdKernel {
  if (!simdSupported()) throw new Error("simd kernel: expected an engine with WebAssembly SIMD, got one without");
  const loops = simdLoops();
  return {
    ...checked("simd", loops),
    sobel(band, width, rows, edges) {
      expectSobel(band, width, rows, edges);
      loops.sobel(band, width, rows, edges);
    },
  };
}

/**
 * The kernel to use. Only an engine without SIMD gets the scalar one, and says so: a missing or broken kernel.wasm is
 * a broken installation, and throws.
 */
export const kernel: Kernel = simdSupported() ? simd() : slow();

function slow(): Kernel {
  console.warn("kernel: this engine has no WebAssembly SIMD; the scalar loops, several times slower, take over");
  return scalar;
}

/** Asks about the least module that needs SIMD: `() => i8x16.popcnt(i8x16.splat(0))`. */
function simdSupported(): boolean {
  return WebAssembly.validate(
    Uint8Array.of(
      ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0], // magic, version 1
      ...[1, 5, 1, 0x60, 0, 1, 0x7b], // types: [] -> v128
      ...[3, 2, 1, 0], // functions
      ...[10, 10, 1, 8, 0, 0x41, 0, 0xfd, 15, 0xfd, 98, 0x0b], // code
    ),
  );
}

type Loops = Omit<Kernel, "name" | "sobel">;

function checked(name: Kernel["name"], run: Loops): Kernel {
  return {
    name,
    unfilter(lines, rowBytes, bytesPerPixel, previous) {
      expectWhole("row bytes", rowBytes, 1);
      if (![1, 2, 3, 4, 6, 8].includes(bytesPerPixel)) {
        throw new RangeError(`bytes per pixel: expected 1, 2, 3, 4, 6 or 8, got ${bytesPerPixel}`);
      }
      if (rowBytes % bytesPerPixel) {
        throw new RangeError(`row bytes: expected a multiple of ${bytesPerPixel}, got ${rowBytes}`);
      }
      expectLines(lines, rowBytes);
      expectLength("previous row", previous, rowBytes);
      run.unfilter(lines, rowBytes, bytesPerPixel, previous);
    },
    luminance(pixels, channels, grey) {
      expectChannels(channels);
      expectLength("pixels", pixels, channels * grey.length);
      run.luminance(pixels, channels, grey);
    },
    unfilterLuminance(lines, width, channels, previous, grey) {
      expectWhole("width", width, 1);
      expectChannels(channels);
      const rows = expectLines(lines, width * channels);
      expectLength("previous row", previous, width * channels);
      expectLength("grey", grey, rows * width);
      run.unfilterLuminance(lines, width, channels, previous, grey);
    },
    filterSub(grey, width, rows, lines) {
      expectWhole("width", width, 1);
      expectWhole("rows", rows, 0);
      expectLength("grey", grey, rows * width);
      expectLength("lines", lines, rows * (1 + width));
      return run.filterSub(grey, width, rows, lines);
    },
    adler32: run.adler32,
    toBase64(bytes, text) {
      expectLength("text", text, base64Length(bytes));
      run.toBase64(bytes, text);
    },
    fromBase64(text, bytes) {
      if (text.length % 4) throw new RangeError(`text: expected a multiple of 4 bytes, got ${text.length}`);
      expectLength("bytes", bytes, base64Bytes(text));
      return run.fromBase64(text, bytes);
    },
  };
}

/** What both Sobel loops check. @throws RangeError */
export function expectSobel(band: Uint8Array, width: number, rows: number, edges: Uint8Array): void {
  expectWhole("width", width, 1);
  expectWhole("rows", rows, 0);
  expectLength("band", band, (rows + 2) * width);
  expectLength("edges", edges, rows * width);
}

function expectWhole(what: string, value: number, least: number): void {
  if (!Number.isSafeInteger(value) || value < least) {
    throw new RangeError(`${what}: expected a whole number from ${least}, got ${value}`);
  }
}

function expectChannels(channels: number): void {
  if (![1, 2, 3, 4].includes(channels)) throw new RangeError(`channels: expected 1 to 4, got ${channels}`);
}

function expectLength(what: string, bytes: Uint8Array, length: number): void {
  if (bytes.length !== length) throw new RangeError(`${what}: expected ${length} bytes, got ${bytes.length}`);
}

function expectLines(lines: Uint8Array, rowBytes: number): number {
  const rows = lines.length / (1 + rowBytes);
  if (!Number.isInteger(rows)) {
    throw new RangeError(`lines: expected a multiple of ${1 + rowBytes} bytes, got ${lines.length}`);
  }
  for (let at = 0; at < lines.length; at += 1 + rowBytes) {
    if (lines[at] > 4) throw new RangeError(`row filter: expected 0 to 4, got ${lines[at]}`);
  }
  return rows;
}

/** The exports of kernel.wasm: every argument a pointer or a count. */
interface Wasm {
  memory: WebAssembly.Memory;
  unfilter(lines: number, rows: number, rowBytes: number, bytesPerPixel: number, previous: number): void;
  luminance(pixels: number, channels: number, count: number, grey: number): void;
  unfilterLuminance(lines: number, rows: number, width: number, channels: number, previous: number, grey: number): void;
  sobel(band: number, width: number, rows: number, edges: number): void;
  filterSub(grey: number, width: number, rows: number, lines: number, adler: number): number;
  adler32(at: number, length: number, adler: number): number;
  toBase64(bytes: number, length: number, text: number): void;
  fromBase64(text: number, length: number, bytes: number): number;
}

// Images go through the WebAssembly memory in strips of about this many bytes, or of one row where a row is longer:
// they stay in the second-level cache, and the memory, which can only grow, stays small whatever the image.
const STRIP = 1 << 17;
// Of base64 in quartets, and of what becomes of them.
const QUARTETS = STRIP / 4;
// The loops may load this far past the end of a buffer.
const SLACK = 16;

function simdLoops(): Loops & Pick<SimdKernel, "sobel"> {
  const file = readFileSync(new URL("./kernel.wasm", import.meta.url));
  const wasm = new WebAssembly.Instance(new WebAssembly.Module(file)).exports as unknown as Wasm;
  let heap = new Uint8Array(wasm.memory.buffer);

  /** Growing detaches every view, so all the room of a call is made before the first byte goes in. */
  function reserve(bytes: number): void {
    const missing = bytes + SLACK - heap.length;
    if (missing <= 0) return;
    wasm.memory.grow(Math.ceil(missing / 65536));
    heap = new Uint8Array(wasm.memory.buffer);
  }

  return {
    unfilter(lines, rowBytes, bytesPerPixel, previous) {
      const stride = 1 + rowBytes;
      const step = rowsPerStrip(stride) * stride;
      reserve(rowBytes + Math.min(step, lines.length));
      heap.set(previous, 0);
      for (let at = 0; at < lines.length; at += step) {
        const strip = lines.subarray(at, at + step);
        heap.set(strip, rowBytes);
        wasm.unfilter(rowBytes, strip.length / stride, rowBytes, bytesPerPixel, 0);
        strip.set(heap.subarray(rowBytes, rowBytes + strip.length));
      }
      previous.set(heap.subarray(0, rowBytes));
    },
    luminance(pixels, channels, grey) {
      const step = Math.floor(STRIP / channels);
      const out = step * channels + SLACK;
      reserve(out + step);
      for (let at = 0; at < grey.length; at += step) {
        const count = Math.min(step, grey.length - at);
        heap.set(pixels.subarray(at * channels, (at + count) * channels), 0);
        wasm.luminance(0, channels, count, out);
        grey.set(heap.subarray(out, out + count), at);
      }
    },
    unfilterLuminance(lines, width, channels, previous, grey) {
      const rowBytes = width * channels;
      const stride = 1 + rowBytes;
      const step = rowsPerStrip(stride) * stride;
      const out = rowBytes + Math.min(step, lines.length) + SLACK;
      reserve(out + Math.min(rowsPerStrip(stride) * width, grey.length));
      heap.set(previous, 0);
      for (let at = 0, to = 0; at < lines.length; at += step) {
        const strip = lines.subarray(at, at + step);
        const rows = strip.length / stride;
        heap.set(strip, rowBytes);
        wasm.unfilterLuminance(rowBytes, rows, width, channels, 0, out);
        grey.set(heap.subarray(out, out + rows * width), to);
        to += rows * width;
      }
      previous.set(heap.subarray(0, rowBytes));
    },
    sobel(band, width, rows, edges) {
      const step = Math.min(rowsPerStrip(width), rows);
      const out = (step + 2) * width;
      reserve(out + step * width);
      for (let y = 0; y < rows; y += step) {
        const count = Math.min(step, rows - y);
        heap.set(band.subarray(y * width, (y + count + 2) * width), 0);
        wasm.sobel(0, width, count, out);
        edges.set(heap.subarray(out, out + count * width), y * width);
      }
    },
    filterSub(grey, width, rows, lines) {
      const step = Math.min(rowsPerStrip(width), rows);
      const out = step * width;
      reserve(out + step * (1 + width));
      let adler = 1;
      for (let y = 0; y < rows; y += step) {
        const count = Math.min(step, rows - y);
        heap.set(grey.subarray(y * width, (y + count) * width), 0);
        adler = wasm.filterSub(0, width, count, out, adler);
        lines.set(heap.subarray(out, out + count * (1 + width)), y * (1 + width));
      }
      return adler >>> 0;
    },
    adler32(bytes, adler = 1) {
      reserve(STRIP);
      for (let at = 0; at < bytes.length; at += STRIP) {
        const strip = bytes.subarray(at, at + STRIP);
        heap.set(strip, 0);
        adler = wasm.adler32(0, strip.length, adler);
      }
      return adler >>> 0;
    },
    toBase64(bytes, text) {
      const step = 3 * QUARTETS;
      const out = step + SLACK;
      reserve(out + 4 * QUARTETS);
      for (let at = 0, to = 0; at < bytes.length; at += step) {
        const strip = bytes.subarray(at, at + step);
        const length = base64Length(strip);
        heap.set(strip, 0);
        wasm.toBase64(0, strip.length, out);
        text.set(heap.subarray(out, out + length), to);
        to += length;
      }
    },
    fromBase64(text, bytes) {
      const step = 4 * QUARTETS;
      const out = step + SLACK;
      reserve(out + 3 * QUARTETS);
      let sound = true;
      for (let at = 0, to = 0; at < text.length; at += step, to += 3 * QUARTETS) {
        const strip = text.subarray(at, at + step);
        heap.set(strip, 0);
        const count = Math.min((strip.length / 4) * 3, bytes.length - to);
        // Padding stands for zeros, as this letter does.
        heap.fill(LETTER_OF_ZERO, strip.length - ((strip.length / 4) * 3 - count), strip.length);
        sound = wasm.fromBase64(0, strip.length, out) === 1 && sound;
        bytes.set(heap.subarray(out, out + count), to);
      }
      return sound;
    },
  };
}

function rowsPerStrip(rowBytes: number): number {
  return Math.max(1, Math.floor(STRIP / rowBytes));
}
