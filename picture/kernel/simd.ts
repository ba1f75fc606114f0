// The loops of kernel.wasm, 16 bytes at a time: copies bytes in, runs the loop, copies the result out.
//
// They check nothing: kernel.ts checks before it calls them. The loops themselves are in kernel.as.ts.

import { readFileSync } from "node:fs";
import type { Loops, SimdKernel } from "./kernel.ts";

/** The loops may load this far past the end of a buffer. */
const SLACK = 16;

/** The exports of kernel.wasm. Every argument is a pointer or a count. */
interface Wasm {
  memory: WebAssembly.Memory;
  unfilter(lines: number, rows: number, rowBytes: number, bytesPerPixel: number, previous: number): void;
  luminance(pixels: number, channels: number, count: number, grey: number): void;
  unfilterLuminance(lines: number, rows: number, width: number, channels: number, previous: number, grey: number): void;
  sobel(band: number, width: number, rows: number, edges: number): void;
  filterSub(pixels: number, rowBytes: number, rows: number, lines: number, bpp: number): number;
}

/**
 * An instance of kernel.wasm, with a memory of its own. The memory can only grow: to the largest band that was in it,
 * and its result. A message limits both to some megabytes.
 */
export class SimdLoops implements Loops, Pick<SimdKernel, "sobel"> {
  readonly #wasm = instantiate();
  #heap = new Uint8Array(this.#wasm.memory.buffer);

  unfilter(lines: Uint8Array, rowBytes: number, bytesPerPixel: number, previous: Uint8Array): void {
    const heap = this.#reserve(rowBytes + lines.length);
    heap.set(previous, 0);
    heap.set(lines, rowBytes);
    this.#wasm.unfilter(rowBytes, lines.length / (1 + rowBytes), rowBytes, bytesPerPixel, 0);
    lines.set(heap.subarray(rowBytes, rowBytes + lines.length));
    previous.set(heap.subarray(0, rowBytes));
  }

  luminance(pixels: Uint8Array, channels: number, grey: Uint8Array): void {
    const out = pixels.length + SLACK;
    const heap = this.#reserve(out + grey.length);
    heap.set(pixels, 0);
    this.#wasm.luminance(0, channels, grey.length, out);
    grey.set(heap.subarray(out, out + grey.length));
  }

  unfilterLuminance(lines: Uint8Array, width: number, channels: number, previous: Uint8Array, grey: Uint8Array): void {
    const rowBytes = width * channels;
    const out = rowBytes + lines.length + SLACK;
    const heap = this.#reserve(out + grey.length);
    heap.set(previous, 0);
    heap.set(lines, rowBytes);
    this.#wasm.unfilterLuminance(rowBytes, lines.length / (1 + rowBytes), width, channels, 0, out);
    grey.set(heap.subarray(out, out + grey.length));
    previous.set(heap.subarray(0, rowBytes));
  }

  sobel(band: Uint8Array, width: number, rows: number, edges: Uint8Array): void {
    const heap = this.#reserve(band.length + edges.length);
    heap.set(band, 0);
    this.#wasm.sobel(0, width, rows, band.length);
    edges.set(heap.subarray(band.length, band.length + edges.length));
  }

  filterSub(pixels: Uint8Array, rowBytes: number, rows: number, lines: Uint8Array, bytesPerPixel: number): number {
    const heap = this.#reserve(pixels.length + lines.length);
    heap.set(pixels, 0);
    const adler = this.#wasm.filterSub(0, rowBytes, rows, pixels.length, bytesPerPixel);
    lines.set(heap.subarray(pixels.length, pixels.length + lines.length));
    return adler >>> 0;
  }

  /** Makes room for a whole call. Growing detaches every view, so it happens before the first byte goes in. */
  #reserve(bytes: number): Uint8Array {
    const missing = bytes + SLACK - this.#heap.length;
    if (missing > 0) {
      this.#wasm.memory.grow(Math.ceil(missing / 65536));
      this.#heap = new Uint8Array(this.#wasm.memory.buffer);
    }
    return this.#heap;
  }
}

function instantiate(): Wasm {
  const file = readFileSync(new URL("./kernel.wasm", import.meta.url));
  return new WebAssembly.Instance(new WebAssembly.Module(file)).exports as unknown as Wasm;
}
