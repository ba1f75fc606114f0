// The loops over pixels and bytes, 16 at a time: AssemblyScript, compiled by `bun run build` to kernel.wasm,
// which is committed. Not a module to import: kernel.ts loads the .wasm, checks every length and copies
// strips in and out. The scalar twins in scalar.ts say the same in plain TypeScript.
//
// Invariant: nothing here allocates or keeps state. Every pointer comes from kernel.ts, and every result
// is the scalar twin's, byte for byte. Loads may run up to 16 bytes past the end of a buffer (kernel.ts
// leaves that room); stores there put back what was there, where nothing else is said.

const SUB = 1;
const UP = 2;
const AVERAGE = 3;
const PAETH = 4;

const A: u8 = 65;
const EQUALS: u8 = 61;

/** Undo the row filters of `rows` scanlines (1 + rowBytes bytes each) in place; `previous` takes the last row. */
export function unfilter(lines: usize, rows: usize, rowBytes: usize, bpp: usize, previous: usize): void {
  const stride: usize = 1 + rowBytes;
  let up = previous;
  for (let line = lines, end = lines + rows * stride; line < end; ) {
    line += stride * unfilterNext(line, end, up, rowBytes, bpp);
    up = line - rowBytes;
  }
  memory.copy(previous, up, rowBytes);
}

/** `count` pixels of 1 to 4 interleaved 8-bit channels to luminance. */
export function luminance(pixels: usize, channels: usize, count: usize, grey: usize): void {
  if (channels == 1) memory.copy(grey, pixels, count);
  else if (channels == 2) luminanceGreyAlpha(pixels, count, grey);
  else if (channels == 3) luminanceRgb(pixels, count, grey);
  else luminanceRgba(pixels, count, grey);
}

/** Both of the above, a row or two at a time, so that the row is still in the first-level cache for the second. */
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

    // BORDER_REFLECT_101: the neighbour beyond the edge is the one before it; a single column is its own.
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
      // The last step overlaps the one before: cheaper than a loop over the rest.
      x = min(x + 16, last - 16);
    }
  }
}

/** PNG scanlines with filter Sub; returns the running Adler-32 of everything written, from `adler`. */
export function filterSub(grey: usize, width: usize, rows: usize, lines: usize, adler: u32): u32 {
  for (let y: usize = 0; y < rows; y++) {
    const row = grey + y * width;
    const line = lines + y * (1 + width);
    store<u8>(line, SUB);
    store<u8>(line + 1, load<u8>(row));
    let x: usize = 1;
    for (; x + 16 <= width; x += 16) {
      v128.store(line + 1 + x, i8x16.sub(v128.load(row + x), v128.load(row + x - 1)));
    }
    for (; x < width; x++) store<u8>(line + 1 + x, load<u8>(row + x) - load<u8>(row + x - 1));
  }
  return adler32(lines, rows * (1 + width), adler);
}

/** Undoes the filter of the row at `line`, or of two rows at once; returns how many. */
function unfilterNext(line: usize, end: usize, up: usize, rowBytes: usize, bpp: usize): usize {
  const second = line + 1 + rowBytes;
  const filter = load<u8>(line);
  if ((bpp == 3 || bpp == 4) && second < end && load<u8>(second) == filter && filter != UP && filter != 0) {
    store<u8>(line, 0);
    store<u8>(second, 0);
    if (filter == SUB) unfilterTwo(SUB, line + 1, up, rowBytes, bpp);
    else if (filter == AVERAGE) unfilterTwo(AVERAGE, line + 1, up, rowBytes, bpp);
    else unfilterTwo(PAETH, line + 1, up, rowBytes, bpp);
    return 2;
  }
  unfilterRow(line, up, rowBytes, bpp);
  return 1;
}

/**
 * Adler-32 (RFC 1950), carried on from `adler`, 16 bytes a step. For a block of n bytes after sums s1 and s2: s2 grows
 * by n·s1, by 16 times the bytes of the steps before each step, and within a step by the bytes weighted 16 .. 1.
 */
export function adler32(at: usize, length: usize, adler: u32): u32 {
  let s1 = adler & 0xffff;
  let s2 = adler >> 16;
  const end = at + length;
  while (at + 16 <= end) {
    // 5552 bytes is the most before s2 could pass 32 bits (zlib's NMAX); it is 347 steps.
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

/** `length` bytes as base64, with its padding. Writes past the end of both, as far as loads may go. */
export function toBase64(bytes: usize, length: usize, text: usize): void {
  const end = bytes + length;
  const padding = text + (length * 4 + 2) / 3;
  const stop = text + ((length + 2) / 3) * 4;
  for (let at = end; at < end + 12; at++) store<u8>(at, 0);
  for (; bytes < end; bytes += 12, text += 16) v128.store(text, letters(sextets(v128.load(bytes))));
  for (let at = padding; at < stop; at++) store<u8>(at, EQUALS);
}

/**
 * Base64 without padding, in quartets, to bytes; returns whether every character is one of the alphabet. Writes past the
 * end of both, as far as loads may go.
 */
export function fromBase64(text: usize, length: usize, bytes: usize): bool {
  const end = text + length;
  let strange = i8x16.splat(0);
  for (let at = end; at < end + 12; at++) store<u8>(at, A);
  for (; text < end; text += 16, bytes += 12) {
    const characters = v128.load(text);
    const values = sextetsOf(characters);
    strange = v128.or(strange, strangers(characters, values));
    v128.store(bytes, packed(values));
  }
  return !v128.any_true(strange);
}

function unfilterRow(line: usize, up: usize, rowBytes: usize, bpp: usize): void {
  const filter = load<u8>(line);
  store<u8>(line, 0);
  const row = line + 1;
  const end = row + rowBytes;
  if (filter == UP) {
    addUp(row, up, end);
  } else if (bpp == 1) {
    // One byte depends on the one before it: a vector of one lane would be slower than none.
    if (filter == SUB) unfilterBytes(SUB, row, up, end);
    else if (filter == AVERAGE) unfilterBytes(AVERAGE, row, up, end);
    else if (filter == PAETH) unfilterBytes(PAETH, row, up, end);
  } else if (bpp <= 4) {
    if (filter == SUB) unfilterPixels<u32>(SUB, row, up, end, bpp);
    else if (filter == AVERAGE) unfilterPixels<u32>(AVERAGE, row, up, end, bpp);
    else if (filter == PAETH) unfilterPixels<u32>(PAETH, row, up, end, bpp);
  } else {
    if (filter == SUB) unfilterPixels<u64>(SUB, row, up, end, bpp);
    else if (filter == AVERAGE) unfilterPixels<u64>(AVERAGE, row, up, end, bpp);
    else if (filter == PAETH) unfilterPixels<u64>(PAETH, row, up, end, bpp);
  }
}

function addUp(row: usize, up: usize, end: usize): void {
  for (; row + 16 <= end; row += 16, up += 16) v128.store(row, i8x16.add(v128.load(row), v128.load(up)));
  for (; row < end; row++, up++) store<u8>(row, load<u8>(row) + load<u8>(up));
}

/**
 * A pixel at a time, its channels side by side in 16-bit lanes; T is the word that holds a pixel. `filter` is a
 * constant at every call, so inlining leaves one branch of the three.
 */
// @ts-ignore: decorator
@inline
function unfilterPixels<T>(filter: i32, row: usize, up: usize, end: usize, bpp: usize): void {
  const pixel = i64x2.splat(u64.MAX_VALUE >> (64 - 8 * u64(bpp)));
  const mask = i16x8.extend_low_i8x16_u(pixel);
  let a = i64x2.splat(0); // left
  let c = i64x2.splat(0); // above left
  let next = loadPixel<T>(row);
  while (row < end) {
    const raw = next;
    // Before the store below, whose word overlaps it: a load just after would wait for that store to retire.
    next = loadPixel<T>(row + bpp);
    const x = i16x8.extend_low_i8x16_u(raw);
    const b = filter == SUB ? a : i16x8.extend_low_i8x16_u(loadPixel<T>(up)); // above
    const sum = i16x8.add(x, predicted(filter, a, b, c));
    c = b;
    // Modulo 256, and zero in the lanes that are the next pixel's: these are stored as they were.
    a = v128.and(sum, mask);
    const out = v128.or(i8x16.narrow_i16x8_u(a, a), v128.andnot(raw, pixel));
    if (sizeof<T>() == 4) v128.store32_lane(row, out, 0);
    else v128.store64_lane(row, out, 0);
    row += bpp;
    up += bpp;
  }
}

/**
 * Two rows of the same filter, in the even and odd 16-bit lanes of one vector: the second a pixel behind the first,
 * which is what it needs of it. A row alone is a chain of pixels that wait for each other, and leaves most of the
 * processor idle. Pixels have 3 or 4 bytes: the word that holds the first row's last then reaches no pixel of the second.
 */
// @ts-ignore: decorator
@inline
function unfilterTwo(filter: i32, row: usize, up: usize, rowBytes: usize, bpp: usize): void {
  const end = row + rowBytes;
  const behind = rowBytes + 1 - bpp;
  const pixel = i32x4.splat(u32.MAX_VALUE >> (32 - 8 * u32(bpp)));
  // An index of 16 or more gives 0.
  const spread = i8x16(0, 16, 4, 16, 1, 16, 5, 16, 2, 16, 6, 16, 3, 16, 7, 16);
  const even = i8x16(0, 16, 16, 16, 1, 16, 16, 16, 2, 16, 16, 16, 3, 16, 16, 16);
  const gather = i8x16(0, 4, 8, 12, 2, 6, 10, 14, 16, 16, 16, 16, 16, 16, 16, 16);
  const mask = i8x16.swizzle(pixel, spread);
  let a = i64x2.splat(0); // left
  let c = i64x2.splat(0); // above left
  // Zeros stand for the second row's pixel before its first.
  let next = v128.load32_zero(row);
  for (let first = true; row <= end; first = false, row += bpp, up += bpp) {
    const raw = next;
    next = v128.load32_lane(row + bpp + behind, v128.load32_zero(row + bpp), 1);
    let b = a;
    // Above the second row's pixel is the one that the first row had in the step before.
    if (filter != SUB) b = v128.or(i8x16.swizzle(v128.load32_zero(up), even), i32x4.shl(a, 16));
    a = v128.and(i16x8.add(i8x16.swizzle(raw, spread), predicted(filter, a, b, c)), mask);
    c = b;
    const out = v128.or(i8x16.swizzle(a, gather), v128.andnot(raw, pixel));
    if (row < end) v128.store32_lane(row, out, 0);
    if (!first) v128.store32_lane(row + behind, out, 1);
  }
}

/** What stands in for a pixel, of the one to its left, above, and above left, modulo 256. */
// @ts-ignore: decorator
@inline
function predicted(filter: i32, a: v128, b: v128, c: v128): v128 {
  if (filter == SUB) return a;
  if (filter == AVERAGE) return i16x8.shr_u(i16x8.add(a, b), 1);
  return i16x8.add(c, paethLessC(a, b, c));
}

// @ts-ignore: decorator
@inline
function loadPixel<T>(at: usize): v128 {
  return sizeof<T>() == 4 ? v128.load32_zero(at) : v128.load64_zero(at);
}

/**
 * The Paeth predictor minus c. With t = 3c − a − b the predictor is max(a, b) where t ≤ min(a, b), min(a, b) where
 * t ≥ max(a, b), else c, ties included (Fabian Giesen's form, as in stb_image). It is the spec's, with a shorter
 * chain from `a`, which is what the time goes into: the next pixel waits for this one.
 */
// @ts-ignore: decorator
@inline
function paethLessC(a: v128, b: v128, c: v128): v128 {
  const t = i16x8.sub(i16x8.sub(i16x8.add(c, i16x8.add(c, c)), b), a);
  const low = i16x8.min_s(a, b);
  const high = i16x8.max_s(a, b);
  return v128.or(
    v128.andnot(i16x8.sub(low, c), i16x8.gt_s(high, t)),
    v128.andnot(i16x8.sub(high, c), i16x8.gt_s(t, low)),
  );
}

// @ts-ignore: decorator
@inline
function unfilterBytes(filter: i32, row: usize, up: usize, end: usize): void {
  let a: i32 = 0;
  let c: i32 = 0;
  for (; row < end; row++, up++) {
    const b: i32 = load<u8>(up);
    let predicted = a;
    if (filter == AVERAGE) predicted = (a + b) >> 1;
    if (filter == PAETH) {
      const t = 3 * c - b - a;
      const low = min(a, b);
      const high = max(a, b);
      predicted = select(high, select(low, c, t >= high), t <= low);
      c = b;
    }
    a = (<i32>load<u8>(row) + predicted) & 255;
    store<u8>(row, a);
  }
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
// @ts-ignore: decorator
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
// @ts-ignore: decorator
@inline
function rgba4(p: v128): v128 {
  return weigh(
    i32x4.dot_i16x8_s(v128.and(p, i16x8.splat(255)), i16x8(9798, 3735, 9798, 3735, 9798, 3735, 9798, 3735)),
    i32x4.dot_i16x8_s(i16x8.shr_u(p, 8), i16x8(19235, 0, 19235, 0, 19235, 0, 19235, 0)),
  );
}

// @ts-ignore: decorator
@inline
function weigh(a: v128, b: v128): v128 {
  return i32x4.shr_u(i32x4.add(i32x4.add(a, b), i32x4.splat(16384)), 15);
}

// @ts-ignore: decorator
@inline
function rgb(p: usize): u32 {
  return (9798 * <u32>load<u8>(p) + 19235 * <u32>load<u8>(p, 1) + 3735 * <u32>load<u8>(p, 2) + 16384) >> 15;
}

/**
 * n = y·a + 255·(255 − a) + 127, over 255. n fits in 16 unsigned bits, so the lanes may wrap on the way to it, and
 * n / 255 = (n + 1 + (n >> 8)) >> 8 for every n below 65535.
 */
// @ts-ignore: decorator
@inline
function overWhite8(y: v128, a: v128): v128 {
  const n = i16x8.add(i16x8.mul(i16x8.sub(y, i16x8.splat(255)), a), i16x8.splat(<i16>(255 * 255 + 127)));
  return i16x8.shr_u(i16x8.add(i16x8.add(n, i16x8.splat(1)), i16x8.shr_u(n, 8)), 8);
}

// @ts-ignore: decorator
@inline
function overWhite(y: u32, a: u32): u32 {
  return (y * a + 255 * (255 - a) + 127) / 255;
}

/** Magnitudes of the 8 pixels below `above`, in 16-bit lanes, not yet cut to 255. */
// @ts-ignore: decorator
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
  // The diagonals shared: gx = (c2 − a0) + (a2 − c0) + 2dx, gy = (c2 − a0) − (a2 − c0) + 2dy.
  const down = i16x8.sub(c2, a0);
  const rise = i16x8.sub(a2, c0);
  const gx = i16x8.add(i16x8.add(down, rise), i16x8.add(dx, dx));
  const gy = i16x8.add(i16x8.sub(down, rise), i16x8.add(dy, dy));
  // Pairs gx, gy for the dot product with themselves: even columns, then odd ones. No shuffles, no narrowing.
  const word = i32x4.splat(0xffff);
  const even = v128.or(v128.and(gx, word), i32x4.shl(gy, 16));
  const odd = v128.or(i32x4.shr_u(gx, 16), v128.andnot(gy, word));
  return v128.or(
    v128.and(roundedRoot(i32x4.dot_i16x8_s(even, even)), word),
    i32x4.shl(roundedRoot(i32x4.dot_i16x8_s(odd, odd)), 16),
  );
}

/**
 * round(sqrt(n)) in the low 16 bits of 32-bit lanes: an f32 of 2²³ or more has no fraction, so adding 2²³ rounds, and
 * leaves the integer in the low bits of the word.
 *
 * f32 is exact here: n ≤ 2 · 1020² < 2²⁴ converts without loss, and a root never falls on a half (k² + k + ¼ is no
 * integer). The nearest it comes below 256 is 1 / (8 · 255 + 4) away, thirty times the rounding of an f32 there;
 * above, every answer is 255.
 */
// @ts-ignore: decorator
@inline
function roundedRoot(n: v128): v128 {
  return f32x4.add(f32x4.sqrt(f32x4.convert_i32x4_s(n)), f32x4.splat(8388608));
}

/** The magnitude at column `x`, its neighbours at columns `left` and `right`. */
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

/** The first 12 bytes as 16 numbers of six bits. */
// @ts-ignore: decorator
@inline
function sextets(bytes: v128): v128 {
  // Three bytes a 32-bit lane, the first uppermost.
  const three = i8x16.swizzle(bytes, i8x16(2, 1, 0, 16, 5, 4, 3, 16, 8, 7, 6, 16, 11, 10, 9, 16));
  const first = i32x4.shr_u(three, 18);
  const second = v128.and(i32x4.shr_u(three, 4), i32x4.splat(0x3f00));
  const third = v128.and(i32x4.shl(three, 10), i32x4.splat(0x3f0000));
  const fourth = i32x4.shl(v128.and(three, i32x4.splat(0x3f)), 24);
  return v128.or(v128.or(first, second), v128.or(third, fourth));
}

/**
 * Numbers of six bits to `A` … `Z`, `a` … `z`, `0` … `9`, `+`, `/`: each range has one difference, found by what exceeds
 * 51, which is 0 for both alphabets, 1 to 10 for the digits, 11 and 12 (Wojciech Muła's way).
 */
// @ts-ignore: decorator
@inline
function letters(values: v128): v128 {
  const capital = i8x16.lt_s(values, i8x16.splat(26));
  const range = v128.or(i8x16.sub_sat_u(values, i8x16.splat(51)), v128.and(capital, i8x16.splat(13)));
  const differences = i8x16(71, -4, -4, -4, -4, -4, -4, -4, -4, -4, -4, -19, -16, 65, 0, 0);
  return i8x16.add(values, i8x16.swizzle(differences, range));
}

/** The inverse of `letters`; of other characters, anything. */
// @ts-ignore: decorator
@inline
function sextetsOf(characters: v128): v128 {
  // By the upper half of the character: 2 (`+`), 3 digits, 4 and 5 capitals, 6 and 7 small. `/` is told apart.
  const differences = i8x16(0, 0, 19, 4, -65, -65, -71, -71, 0, 0, 0, 0, 0, 0, 0, 0);
  const slash = v128.and(i8x16.eq(characters, i8x16.splat(47)), i8x16.splat(-3));
  return i8x16.add(i8x16.add(characters, i8x16.swizzle(differences, i8x16.shr_u(characters, 4))), slash);
}

/** Not zero where a character is none of the alphabet: it is not what its number would be written as. */
// @ts-ignore: decorator
@inline
function strangers(characters: v128, values: v128): v128 {
  return v128.or(
    v128.xor(letters(v128.and(values, i8x16.splat(63))), characters),
    v128.andnot(values, i8x16.splat(63)),
  );
}

/** 16 numbers of six bits as 12 bytes. */
// @ts-ignore: decorator
@inline
function packed(values: v128): v128 {
  const pairs = v128.or(i16x8.shl(v128.and(values, i16x8.splat(63)), 6), i16x8.shr_u(values, 8));
  const three = i32x4.dot_i16x8_s(pairs, i16x8(4096, 1, 4096, 1, 4096, 1, 4096, 1));
  return i8x16.swizzle(three, i8x16(2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, 16, 16, 16, 16));
}
