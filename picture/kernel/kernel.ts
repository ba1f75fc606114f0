// The loops over pixels: unfilter, luminance, Sobel, filter (with the Adler-32 of its bytes). One interface, two
// implementations: SIMD in WebAssembly (simd.ts, kernel.as.ts) and plain TypeScript (scalar.ts). Here every length is
// checked, for both. Nothing is asynchronous, and no memory is shared between threads.
//
// Invariant: both give the same bytes and the same errors. A result does not depend on which one a worker has.
//
// Not here: the loops, chunks of a PNG (picture/png-read.ts), bands (chunk.ts), tasks (tasks/).

import * as scalarLoops from "./scalar.ts";
import { SimdLoops } from "./simd.ts";

/**
 * Samples are 8-bit, pictures row-major. A "line" is a PNG scanline: the filter byte, then the row. Every length is
 * checked before anything is written (RangeError). An output must not overlap an input.
 */
export interface Kernel {
  readonly name: "simd" | "scalar";

  /**
   * Undoes the row filters (PNG specification, clause 9) in place, and sets every filter byte to 0.
   * @param lines k × (1 + rowBytes) bytes; a filter byte above 4 means no filter
   * @param bytesPerPixel 1, 2, 3, 4, 6 or 8; 1 for depths below 8 bits
   * @param previous rowBytes bytes: the row above, unfiltered (zeros at the top); overwritten with the last row
   */
  unfilter(lines: Uint8Array, rowBytes: number, bytesPerPixel: number, previous: Uint8Array): void;

  /**
   * (9798 R + 19235 G + 3735 B + 16384) >> 15: BT.601, equal to OpenCV's cvtColor(BGR2GRAY). Then alpha is composited
   * over white: floor((Y·a + 255·(255 − a) + 127) / 255).
   * @param pixels n × channels interleaved samples
   * @param channels 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA
   * @param grey n bytes
   */
  luminance(pixels: Uint8Array, channels: number, grey: Uint8Array): void;

  /**
   * `unfilter` and `luminance` in one pass: the hot path of reading a PNG. The content of `lines` is undefined
   * afterwards.
   * @param lines k × (1 + width · channels) bytes
   * @param previous width · channels bytes, as in `unfilter`
   * @param grey k × width bytes
   */
  unfilterLuminance(lines: Uint8Array, width: number, channels: number, previous: Uint8Array, grey: Uint8Array): void;

  /**
   * The loop of sobel.ts. The scalar kernel has none, because sobel.ts is its twin. Left and right edges are
   * BORDER_REFLECT_101; a single column is its own neighbour. The caller provides the rows above and below.
   * @param band (rows + 2) × width grey: the rows, and one halo row on either side
   * @param edges rows × width
   */
  sobel?(band: Uint8Array, width: number, rows: number, edges: Uint8Array): void;

  /**
   * Rows to PNG scanlines, all with filter Sub.
   * @param pixels rows × rowBytes
   * @param lines rows × (1 + rowBytes)
   * @param bytesPerPixel 1 grey, 3 RGB, 4 RGBA
   * @returns the Adler-32 of `lines`, unsigned
   */
  filterSub(pixels: Uint8Array, rowBytes: number, rows: number, lines: Uint8Array, bytesPerPixel: number): number;
}

export type SimdKernel = Kernel & Required<Pick<Kernel, "sobel">>;

/** The loops of an implementation. They check nothing. */
export type Loops = Omit<Kernel, "name" | "sobel">;

/** The plain TypeScript twins. */
export const scalar: Kernel = checked("scalar", scalarLoops);

/**
 * A SIMD kernel with a memory of its own.
 * @throws Error if the engine has no WebAssembly SIMD; the engine's own error if kernel.wasm is missing or broken
 */
export function simd(): SimdKernel {
  if (!simdSupported()) throw new Error("simd kernel: expected an engine with WebAssembly SIMD, got one without");
  const loops = new SimdLoops();
  return {
    ...checked("simd", loops),
    sobel(band, width, rows, edges) {
      expectSobel(band, width, rows, edges);
      loops.sobel(band, width, rows, edges);
    },
  };
}

/**
 * The kernel of this process. Only an engine without SIMD gets the scalar one, with a warning. A missing or broken
 * kernel.wasm is a broken installation, and throws.
 */
export const kernel: Kernel = simdSupported() ? simd() : slow();

function slow(): Kernel {
  console.warn("kernel: this engine has no WebAssembly SIMD; using the scalar loops, which are several times slower");
  return scalar;
}

/** Validates the smallest module that needs SIMD: `() => i8x16.popcnt(i8x16.splat(0))`. */
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

function checked(name: Kernel["name"], run: Loops): Kernel {
  return {
    name,
    unfilter(lines, rowBytes, bytesPerPixel, previous) {
      expectLength("lines", lines, rowsIn(lines, rowBytes) * (1 + rowBytes));
      expectLength("previous row", previous, rowBytes);
      run.unfilter(lines, rowBytes, bytesPerPixel, previous);
    },
    luminance(pixels, channels, grey) {
      expectLength("pixels", pixels, channels * grey.length);
      run.luminance(pixels, channels, grey);
    },
    unfilterLuminance(lines, width, channels, previous, grey) {
      const rows = rowsIn(lines, width * channels);
      expectLength("lines", lines, rows * (1 + width * channels));
      expectLength("previous row", previous, width * channels);
      expectLength("grey", grey, rows * width);
      run.unfilterLuminance(lines, width, channels, previous, grey);
    },
    filterSub(pixels, rowBytes, rows, lines, bytesPerPixel) {
      expectLength("pixels", pixels, rows * rowBytes);
      expectLength("lines", lines, rows * (1 + rowBytes));
      return run.filterSub(pixels, rowBytes, rows, lines, bytesPerPixel);
    },
  };
}

/** The checks of both Sobel loops. @throws RangeError */
export function expectSobel(band: Uint8Array, width: number, rows: number, edges: Uint8Array): void {
  expectLength("band", band, (rows + 2) * width);
  expectLength("edges", edges, rows * width);
}

function expectLength(what: string, bytes: Uint8Array, length: number): void {
  if (bytes.length !== length) throw new RangeError(`${what}: expected ${length} bytes, got ${bytes.length}`);
}

function rowsIn(lines: Uint8Array, rowBytes: number): number {
  return Math.ceil(lines.length / (1 + rowBytes));
}
