// The loops over pixels and bytes, 16 at a time. AssemblyScript: `bun run build` compiles it to kernel.wasm, which is
// committed. The row filters are in unfilter.as.ts. Not a module to import: kernel.ts loads the .wasm, checks every
// length, and copies bytes in and out.
//
// Invariant: nothing here allocates or keeps state. Every pointer comes from kernel.ts, and every result equals that of
// the twin in scalar.ts, byte for byte. Loads may run up to 16 bytes past the end of a buffer; kernel.ts leaves that
// room. Stores past the end write back the bytes that were there.

import { SUB, unfilterNext } from "./unfilter.as";

/** Undoes the filters of `rows` scanlines of 1 + rowBytes bytes, in place. `previous` receives the last row. */
export function unfilter(lines: usize, rows: usize, rowBytes: usize, bpp: usize, previous: usize): void {
  const stride: usize = 1 + rowBytes;
  let up = previous;
  for (let line = lines, end = lines + rows * stride; line < end; ) {
    line += stride * unfilterNext(line, end, up, rowBytes, bpp);
    up = line - rowBytes;
  }
  memory.copy(previous, up, rowBytes);
}

/** Luminance of `count` pixels of 1 to 4 interleaved 8-bit channels. */
export function luminance(pixels: usize, channels: usize, count: usize, grey: usize): void {
  if (channels == 1) memory.copy(grey, pixels, count);
  else if (channels == 2) luminanceGreyAlpha(pixels, count, grey);
  else if (channels == 3) luminanceRgb(pixels, count, grey);
  else luminanceRgba(pixels, count, grey);
}

/** `unfilter`, then `luminance`, a row or two at a time: the second step finds the row in the first-level cache. */
export function unfilterLuminance(
  lines: usize, rows: usize, width: usize, channels: usize, previous: usize, grey: usize,
): void {
  const rowBytes = width * channels;
  const stride: usize = 1 + rowBytes;
  let up = previous;
  for (let line = lines, end = lines + rows * stride; line < end; ) {
    const stop = line + stride * unfilterNext(line, end, up, rowBytes, channels);
    for (; line < stop; line += stride, grey += width) luminance(line + 1, channels, width, grey);
    up = line - rowBytes;
  }
  memory.copy(previous, up, rowBytes);
}

/** Sobel magnitude of rows 1 .. rows of a band of rows + 2. */
export function sobel(band: usize, width: usize, rows: usize, edges: usize): void {
  const last = width - 1;
  for (let y: usize = 0; y < rows; y++) {
    const above = band + y * width;
    const below = above + 2 * width;
    const out = edges + y * width;

    // BORDER_REFLECT_101: beyond the edge is the neighbour before it. A single column is its own neighbour.
    const inner: usize = width > 1 ? 1 : 0;
    store<u8>(out, magnitude(above, width, inner, 0, inner));
    store<u8>(out + last, magnitude(above, width, last - inner, last, last - inner));

    if (width < 18) {
      for (let x: usize = 1; x < last; x++) store<u8>(out + x, magnitude(above, width, x - 1, x, x + 1));
      continue;
    }
    let x: usize = 1;
    while (true) {
      v128.store(out + x, i8x16.narrow_i16x8_u(magnitude8(above + x, width), magnitude8(above + x + 8, width)));
      if (x == last - 16) break;
      // The last step overlaps the one before. That is cheaper than a loop over the rest.
      x = min(x + 16, last - 16);
    }
  }
}

/** Writes PNG scanlines with filter Sub. Returns the Adler-32 of all lines. */
export function filterSub(pixels: usize, rowBytes: usize, rows: usize, lines: usize, bpp: usize): u32 {
  for (let y: usize = 0; y < rows; y++) {
    const row = pixels + y * rowBytes;
    const line = lines + y * (1 + rowBytes);
    store<u8>(line, SUB);
    let x: usize = 0;
    for (; x < bpp; x++) store<u8>(line + 1 + x, load<u8>(row + x));
    for (; x + 16 <= rowBytes; x += 16) {
      v128.store(line + 1 + x, i8x16.sub(v128.load(row + x), v128.load(row + x - bpp)));
    }
    for (; x < rowBytes; x++) store<u8>(line + 1 + x, load<u8>(row + x) - load<u8>(row + x - bpp));
  }
  return adler32(lines, rows * (1 + rowBytes));
}

/**
 * Adler-32 (RFC 1950), 16 bytes a step. A block of n bytes adds three terms to s2: n·s1; 16 times the bytes before
 * each step; and within a step the bytes weighted 16 .. 1.
 */
function adler32(at: usize, length: usize): u32 {
  let s1: u32 = 1;
  let s2: u32 = 0;
  const end = at + length;
  while (at + 16 <= end) {
    // After 5552 bytes s2 could exceed 32 bits (zlib's NMAX). That is 347 steps.
    const block: usize = min<usize>(5552, (end - at) & ~15);
    const stop = at + block;
    let sum = i32x4.splat(0);
    let before = i32x4.splat(0);
    let weighted = i32x4.splat(0);
    for (; at < stop; at += 16) {
      const v = v128.load(at);
      before = i32x4.add(before, sum);
      sum = i32x4.add(sum, i32x4.extadd_pairwise_i16x8_u(i16x8.extadd_pairwise_i8x16_u(v)));
      weighted = i32x4.add(
        weighted,
        i32x4.add(
          i32x4.dot_i16x8_s(i16x8.extend_low_i8x16_u(v), i16x8(16, 15, 14, 13, 12, 11, 10, 9)),
          i32x4.dot_i16x8_s(i16x8.extend_high_i8x16_u(v), i16x8(8, 7, 6, 5, 4, 3, 2, 1)),
        ),
      );
    }
    s2 = (s2 + <u32>block * s1 + 16 * total(before) + total(weighted)) % 65521;
    s1 = (s1 + total(sum)) % 65521;
  }
  for (; at < end; at++) {
    s1 += load<u8>(at);
    s2 += s1;
  }
  return ((s2 % 65521) << 16) | s1 % 65521;
}

function luminanceGreyAlpha(pixels: usize, count: usize, grey: usize): void {
  let i: usize = 0;
  for (; i + 8 <= count; i += 8) {
    const p = v128.load(pixels + 2 * i);
    const y = overWhite8(v128.and(p, i16x8.splat(255)), i16x8.shr_u(p, 8));
    v128.store64_lane(grey + i, i8x16.narrow_i16x8_u(y, y), 0);
  }
  for (; i < count; i++) store<u8>(grey + i, overWhite(load<u8>(pixels + 2 * i), load<u8>(pixels + 2 * i + 1)));
}

function luminanceRgb(pixels: usize, count: usize, grey: usize): void {
  let i: usize = 0;
  for (; i + 16 <= count; i += 16) {
    const p = pixels + 3 * i;
    v128.store(
      grey + i,
      i8x16.narrow_i16x8_u(
        i16x8.narrow_i32x4_s(rgb4(v128.load(p)), rgb4(v128.load(p, 12))),
        i16x8.narrow_i32x4_s(rgb4(v128.load(p, 24)), rgb4(v128.load(p, 36))),
      ),
    );
  }
  for (; i < count; i++) store<u8>(grey + i, rgb(pixels + 3 * i));
}

function luminanceRgba(pixels: usize, count: usize, grey: usize): void {
  let i: usize = 0;
  for (; i + 8 <= count; i += 8) {
    const p = v128.load(pixels + 4 * i);
    const q = v128.load(pixels + 4 * i, 16);
    const y = overWhite8(
      i16x8.narrow_i32x4_s(rgba4(p), rgba4(q)),
      i16x8.narrow_i32x4_s(i32x4.shr_u(p, 24), i32x4.shr_u(q, 24)),
    );
    v128.store64_lane(grey + i, i8x16.narrow_i16x8_u(y, y), 0);
  }
  for (; i < count; i++) store<u8>(grey + i, overWhite(rgb(pixels + 4 * i), load<u8>(pixels + 4 * i + 3)));
}

/** Luminance of the four RGB pixels in the low 12 bytes, in 32-bit lanes. */
@inline
function rgb4(p: v128): v128 {
  // An index of 16 or more gives 0: pairs of 16-bit lanes R, G and B, 0.
  const rg = i8x16.swizzle(p, i8x16(0, 16, 1, 16, 3, 16, 4, 16, 6, 16, 7, 16, 9, 16, 10, 16));
  const b = i8x16.swizzle(p, i8x16(2, 16, 16, 16, 5, 16, 16, 16, 8, 16, 16, 16, 11, 16, 16, 16));
  return weigh(
    i32x4.dot_i16x8_s(rg, i16x8(9798, 19235, 9798, 19235, 9798, 19235, 9798, 19235)),
    i32x4.dot_i16x8_s(b, i16x8(3735, 0, 3735, 0, 3735, 0, 3735, 0)),
  );
}

/** Luminance of four RGBA pixels, alpha ignored, in 32-bit lanes. */
@inline
function rgba4(p: v128): v128 {
  return weigh(
    i32x4.dot_i16x8_s(v128.and(p, i16x8.splat(255)), i16x8(9798, 3735, 9798, 3735, 9798, 3735, 9798, 3735)),
    i32x4.dot_i16x8_s(i16x8.shr_u(p, 8), i16x8(19235, 0, 19235, 0, 19235, 0, 19235, 0)),
  );
}

@inline
function weigh(a: v128, b: v128): v128 {
  return i32x4.shr_u(i32x4.add(i32x4.add(a, b), i32x4.splat(16384)), 15);
}

@inline
function rgb(p: usize): u32 {
  return (9798 * <u32>load<u8>(p) + 19235 * <u32>load<u8>(p, 1) + 3735 * <u32>load<u8>(p, 2) + 16384) >> 15;
}

/**
 * y over white: n / 255 with n = y·a + 255·(255 − a) + 127. n fits in 16 unsigned bits, so intermediate lanes may wrap.
 * n / 255 = (n + 1 + (n >> 8)) >> 8 for every n below 65535.
 */
@inline
function overWhite8(y: v128, a: v128): v128 {
  const n = i16x8.add(i16x8.mul(i16x8.sub(y, i16x8.splat(255)), a), i16x8.splat(<i16>(255 * 255 + 127)));
  return i16x8.shr_u(i16x8.add(i16x8.add(n, i16x8.splat(1)), i16x8.shr_u(n, 8)), 8);
}

@inline
function overWhite(y: u32, a: u32): u32 {
  return (y * a + 255 * (255 - a) + 127) / 255;
}

/** Magnitudes of the 8 pixels below `above`, in 16-bit lanes, not yet limited to 255. */
@inline
function magnitude8(above: usize, width: usize): v128 {
  const at = above + width;
  const below = at + width;
  const a0 = v128.load8x8_u(above - 1);
  const a2 = v128.load8x8_u(above + 1);
  const c0 = v128.load8x8_u(below - 1);
  const c2 = v128.load8x8_u(below + 1);
  const dx = i16x8.sub(v128.load8x8_u(at + 1), v128.load8x8_u(at - 1));
  const dy = i16x8.sub(v128.load8x8_u(below), v128.load8x8_u(above));
  // Both share the diagonals: gx = (c2 − a0) + (a2 − c0) + 2dx, gy = (c2 − a0) − (a2 − c0) + 2dy.
  const down = i16x8.sub(c2, a0);
  const rise = i16x8.sub(a2, c0);
  const gx = i16x8.add(i16x8.add(down, rise), i16x8.add(dx, dx));
  const gy = i16x8.add(i16x8.sub(down, rise), i16x8.add(dy, dy));
  // Pairs gx, gy for the dot product with themselves: even columns, then odd ones. This needs no shuffles.
  const word = i32x4.splat(0xffff);
  const even = v128.or(v128.and(gx, word), i32x4.shl(gy, 16));
  const odd = v128.or(i32x4.shr_u(gx, 16), v128.andnot(gy, word));
  return v128.or(
    v128.and(roundedRoot(i32x4.dot_i16x8_s(even, even)), word),
    i32x4.shl(roundedRoot(i32x4.dot_i16x8_s(odd, odd)), 16),
  );
}

/**
 * round(sqrt(n)) in the low 16 bits of 32-bit lanes. An f32 of 2²³ or more has no fraction, so adding 2²³ rounds, and
 * the integer is in the low bits of the word.
 *
 * f32 is exact here: n ≤ 2 · 1020² < 2²⁴ converts without loss, and a root is never a half (k² + k + ¼ is no integer).
 * Below 256 it is at least 1 / (8 · 255 + 4) away from one, thirty times the rounding error of an f32 there. Above 256
 * every result is 255.
 */
@inline
function roundedRoot(n: v128): v128 {
  return f32x4.add(f32x4.sqrt(f32x4.convert_i32x4_s(n)), f32x4.splat(8388608));
}

/** The magnitude at column `x`, with its neighbours in columns `left` and `right`. */
function magnitude(above: usize, width: usize, left: usize, x: usize, right: usize): u32 {
  const at = above + width;
  const below = at + width;
  const down = <i32>load<u8>(below + right) - <i32>load<u8>(above + left);
  const rise = <i32>load<u8>(above + right) - <i32>load<u8>(below + left);
  const gx = down + rise + 2 * (<i32>load<u8>(at + right) - <i32>load<u8>(at + left));
  const gy = down - rise + 2 * (<i32>load<u8>(below + x) - <i32>load<u8>(above + x));
  return min<u32>(255, <u32>nearest<f32>(sqrt<f32>(<f32>(gx * gx + gy * gy))));
}

function total(v: v128): u32 {
  return i32x4.extract_lane(v, 0) + i32x4.extract_lane(v, 1) + i32x4.extract_lane(v, 2) + i32x4.extract_lane(v, 3);
}
