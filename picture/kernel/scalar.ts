// The loops over pixels and bytes in plain TypeScript: the twins of kernel.as.ts, for engines without WebAssembly SIMD
// and for readers. They keep no state, and check nothing: kernel.ts checks before it calls them.
//
// Invariant: every byte equals that of kernel.as.ts. The tests run one table of cases on both.

import type { Loops } from "./kernel.ts";

const SUB = 1;

export function unfilter(lines: Uint8Array, rowBytes: number, bytesPerPixel: number, previous: Uint8Array): void {
  let above = previous;
  for (let at = 0; at < lines.length; at += 1 + rowBytes) {
    const filter = lines[at];
    lines[at] = 0;
    const row = lines.subarray(at + 1, at + 1 + rowBytes);
    for (let i = 0; i < rowBytes; i++) {
      const [left, aboveLeft] = i < bytesPerPixel ? [0, 0] : [row[i - bytesPerPixel], above[i - bytesPerPixel]];
      row[i] += predicted(filter, left, above[i], aboveLeft);
    }
    above = row;
  }
  previous.set(above);
}

/** What a filter predicts from the bytes to the left (a), above (b) and above left (c): PNG specification, clause 9. */
function predicted(filter: number, a: number, b: number, c: number): number {
  if (filter === 0) return 0;
  if (filter === SUB) return a;
  if (filter === 2) return b;
  if (filter === 3) return (a + b) >> 1;
  const [toA, toB, toC] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
  if (toA <= toB && toA <= toC) return a;
  return toB <= toC ? b : c;
}

export function luminance(pixels: Uint8Array, channels: number, grey: Uint8Array): void {
  for (let i = 0, at = 0; i < grey.length; i++, at += channels) {
    const y = channels < 3 ? pixels[at] : weigh(pixels[at], pixels[at + 1], pixels[at + 2]);
    grey[i] = channels % 2 === 1 ? y : overWhite(y, pixels[at + channels - 1]);
  }
}

export const unfilterLuminance: Loops["unfilterLuminance"] = (lines, width, channels, previous, grey) => {
  const rowBytes = width * channels;
  unfilter(lines, rowBytes, channels, previous);
  for (let line = 1, at = 0; line < lines.length; line += 1 + rowBytes, at += width)
    luminance(lines.subarray(line, line + rowBytes), channels, grey.subarray(at, at + width));
};

export const filterSub: Loops["filterSub"] = (pixels, rowBytes, rows, lines, bytesPerPixel) => {
  for (let y = 0, at = 0, to = 0; y < rows; y++) {
    lines[to++] = SUB;
    for (let x = 0; x < rowBytes; x++, at++)
      lines[to++] = x < bytesPerPixel ? pixels[at] : pixels[at] - pixels[at - bytesPerPixel];
  }
  return adler32(lines);
};

/** Adler-32 (RFC 1950). 3800 bytes between remainders keep `s2` in 31 bits. */
function adler32(bytes: Uint8Array): number {
  let s1 = 1;
  let s2 = 0;
  for (let at = 0; at < bytes.length; ) {
    const stop = Math.min(at + 3800, bytes.length);
    while (at < stop) {
      s1 += bytes[at++];
      s2 += s1;
    }
    s1 %= 65521;
    s2 %= 65521;
  }
  return ((s2 << 16) | s1) >>> 0;
}

/** BT.601 in 15 bits, as OpenCV's cvtColor(BGR2GRAY). */
function weigh(r: number, g: number, b: number): number {
  return (9798 * r + 19235 * g + 3735 * b + 16384) >> 15;
}

/** A sample over white. floor(n / 255) without the division: exact for every n below 65535. */
export function overWhite(y: number, a: number): number {
  const n = y * a + 255 * (255 - a) + 127;
  return (n + 1 + (n >> 8)) >> 8;
}
