// The filters of PNG scanlines (PNG specification, clause 9), undone: a part of kernel.as.ts, under the same invariant.
//
// A row is a chain: each pixel waits for the pixel to its left. Vectors do not shorten the chain, but a vector holds
// all channels of a pixel, or one pixel of each of two rows.

export const SUB = 1;
const UP = 2;
const AVERAGE = 3;
const PAETH = 4;

/** Undoes the filter of the row at `line`, or of two rows at once. Returns how many. */
export function unfilterNext(line: usize, end: usize, up: usize, rowBytes: usize, bpp: usize): usize {
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

function unfilterRow(line: usize, up: usize, rowBytes: usize, bpp: usize): void {
  const filter = load<u8>(line);
  store<u8>(line, 0);
  const row = line + 1;
  const end = row + rowBytes;
  if (filter == SUB) unfilterAs(SUB, row, up, end, bpp);
  else if (filter == UP) addUp(row, up, end);
  else if (filter == AVERAGE) unfilterAs(AVERAGE, row, up, end, bpp);
  else if (filter == PAETH) unfilterAs(PAETH, row, up, end, bpp);
}

/** `filter` is a constant at every call, so inlining leaves one of its branches. */
@inline
function unfilterAs(filter: i32, row: usize, up: usize, end: usize, bpp: usize): void {
  // Each byte depends on the one before it: a vector of one lane would be slower than none.
  if (bpp == 1) unfilterBytes(filter, row, up, end);
  else if (bpp <= 4) unfilterPixels<u32>(filter, row, up, end, bpp);
  else unfilterPixels<u64>(filter, row, up, end, bpp);
}

function addUp(row: usize, up: usize, end: usize): void {
  for (; row + 16 <= end; row += 16, up += 16) v128.store(row, i8x16.add(v128.load(row), v128.load(up)));
  for (; row < end; row++, up++) store<u8>(row, load<u8>(row) + load<u8>(up));
}

/** One pixel at a time, its channels side by side in 16-bit lanes. T is the word that holds a pixel. */
@inline
function unfilterPixels<T>(filter: i32, row: usize, up: usize, end: usize, bpp: usize): void {
  const pixel = i64x2.splat(u64.MAX_VALUE >> (64 - 8 * u64(bpp)));
  const mask = i16x8.extend_low_i8x16_u(pixel);
  let a = i64x2.splat(0); // left
  let c = i64x2.splat(0); // above left
  let next = loadPixel<T>(row);
  while (row < end) {
    const raw = next;
    // Loaded before the store below, whose word overlaps it: a load after it would wait for the store to retire.
    next = loadPixel<T>(row + bpp);
    const x = i16x8.extend_low_i8x16_u(raw);
    const b = filter == SUB ? a : i16x8.extend_low_i8x16_u(loadPixel<T>(up)); // above
    const sum = i16x8.add(x, predicted(filter, a, b, c));
    c = b;
    // Modulo 256, and zero in the next pixel's lanes, which are stored as they were.
    a = v128.and(sum, mask);
    const out = v128.or(i8x16.narrow_i16x8_u(a, a), v128.andnot(raw, pixel));
    if (sizeof<T>() == 4) v128.store32_lane(row, out, 0);
    else v128.store64_lane(row, out, 0);
    row += bpp;
    up += bpp;
  }
}

/**
 * Two rows of the same filter, in the even and odd 16-bit lanes of one vector. The second row is one pixel behind the
 * first, because it needs the pixel above. A row alone is a chain of pixels that wait for each other, so most of the
 * processor is idle. Pixels have 3 or 4 bytes: the word of the first row's last pixel reaches no pixel of the second.
 */
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
  // The second row has zeros before its first pixel.
  let next = v128.load32_zero(row);
  for (let first = true; row <= end; first = false, row += bpp, up += bpp) {
    const raw = next;
    next = v128.load32_lane(row + bpp + behind, v128.load32_zero(row + bpp), 1);
    let b = a;
    // Above the second row's pixel is the first row's pixel of the step before.
    if (filter != SUB) b = v128.or(i8x16.swizzle(v128.load32_zero(up), even), i32x4.shl(a, 16));
    a = v128.and(i16x8.add(i8x16.swizzle(raw, spread), predicted(filter, a, b, c)), mask);
    c = b;
    const out = v128.or(i8x16.swizzle(a, gather), v128.andnot(raw, pixel));
    if (row < end) v128.store32_lane(row, out, 0);
    if (!first) v128.store32_lane(row + behind, out, 1);
  }
}

/** The prediction of a pixel from those to its left (a), above (b) and above left (c). */
@inline
function predicted(filter: i32, a: v128, b: v128, c: v128): v128 {
  if (filter == SUB) return a;
  if (filter == AVERAGE) return i16x8.shr_u(i16x8.add(a, b), 1);
  return i16x8.add(c, paethLessC(a, b, c));
}

@inline
function loadPixel<T>(at: usize): v128 {
  return sizeof<T>() == 4 ? v128.load32_zero(at) : v128.load64_zero(at);
}

/**
 * The Paeth predictor minus c. With t = 3c − a − b the predictor is max(a, b) if t ≤ min(a, b), min(a, b) if
 * t ≥ max(a, b), else c, ties included (Fabian Giesen's form, as in stb_image). It equals the specification's, but the
 * chain from `a` is shorter. That chain takes the time, because the next pixel waits for this one.
 */
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
