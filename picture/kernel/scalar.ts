// The loops over pixels and bytes in plain TypeScript: the twins of kernel.as.ts, for engines without WebAssembly SIMD
// and for readers. They keep no state, and check nothing: kernel.ts checks before it calls them.
//
// Invariant: every byte equals that of kernel.as.ts. The tests run one table of cases on both.

const SUB = 1;
const UP = 2;
const AVERAGE = 3;
const PAETH = 4;

export function unfilter(lines: Uint8Array, rowBytes: number, bytesPerPixel: number, previous: Uint8Array): void {
  let above = previous;
  let up = 0;
  for (let row = 1; row < lines.length; row += 1 + rowBytes) {
    unfilterRow(lines, row, rowBytes, bytesPerPixel, above, up);
    above = lines;
    up = row;
  }
  if (above === lines) previous.set(lines.subarray(up, up + rowBytes));
}

export function luminance(pixels: Uint8Array, channels: number, grey: Uint8Array): void {
  luminanceRun(pixels, 0, channels, grey, 0, grey.length);
}

export function unfilterLuminance(
  lines: Uint8Array,
  width: number,
  channels: number,
  previous: Uint8Array,
  grey: Uint8Array,
): void {
  const rowBytes = width * channels;
  let above = previous;
  let up = 0;
  for (let row = 1, out = 0; row < lines.length; row += 1 + rowBytes, out += width) {
    unfilterRow(lines, row, rowBytes, channels, above, up);
    luminanceRun(lines, row, channels, grey, out, width);
    above = lines;
    up = row;
  }
  if (above === lines) previous.set(lines.subarray(up, up + rowBytes));
}

export function filterSub(
  pixels: Uint8Array,
  rowBytes: number,
  rows: number,
  lines: Uint8Array,
  bytesPerPixel: number,
): number {
  let at = 0;
  let pos = 0;
  for (let y = 0; y < rows; y++) {
    lines[pos++] = SUB;
    for (let x = 0; x < rowBytes; x++, at++) {
      lines[pos++] = x < bytesPerPixel ? pixels[at] : pixels[at] - pixels[at - bytesPerPixel];
    }
  }
  return adler32(lines);
}

/** Adler-32 (RFC 1950). 3800 bytes between remainders keep `s2` in 31 bits. */
export function adler32(bytes: Uint8Array, adler = 1): number {
  let s1 = adler & 0xffff;
  let s2 = adler >>> 16;
  for (let at = 0; at < bytes.length; ) {
    const stop = Math.min(at + 3800, bytes.length);
    while (at < stop) {
      s1 += bytes[at++];
      s2 += s1;
    }
    s1 %= 65521;
    s2 %= 65521;
  }
  return s2 * 65536 + s1;
}

function unfilterRow(
  lines: Uint8Array,
  row: number,
  rowBytes: number,
  bpp: number,
  above: Uint8Array,
  up: number,
): void {
  const filter = lines[row - 1];
  const first = row + bpp;
  const end = row + rowBytes;
  lines[row - 1] = 0;
  // The bytes to the left of the first pixel are 0, so Sub adds nothing there, and Paeth predicts the byte above.
  if (filter === SUB) {
    for (let i = first; i < end; i++) lines[i] += lines[i - bpp];
  } else if (filter === UP) {
    for (let i = row; i < end; i++) lines[i] += above[up++];
  } else if (filter === AVERAGE) {
    for (let i = row; i < first; i++) lines[i] += above[up++] >> 1;
    for (let i = first; i < end; i++) lines[i] += (lines[i - bpp] + above[up++]) >> 1;
  } else if (filter === PAETH) {
    for (let i = row; i < first; i++) lines[i] += above[up++];
    for (let i = first; i < end; i++, up++) {
      const a = lines[i - bpp];
      const b = above[up];
      const c = above[up - bpp];
      // The specification's predictor, without its distances (see paethLessC in unfilter.as.ts) and without branches:
      // in a photograph the processor would mispredict every other one. Shifts by 31 make masks of signs.
      const t = 3 * c - a - b;
      const less = (a - b) & ((a - b) >> 31);
      const low = b + less;
      const high = a - less;
      lines[i] += c + (((high - c) & ((t - low - 1) >> 31)) | ((low - c) & ((high - t - 1) >> 31)));
    }
  }
}

function luminanceRun(
  pixels: Uint8Array,
  pos: number,
  channels: number,
  grey: Uint8Array,
  out: number,
  count: number,
): void {
  const end = out + count;
  if (channels === 1) {
    grey.set(pixels.subarray(pos, pos + count), out);
  } else if (channels === 2) {
    for (; out < end; pos += 2) grey[out++] = overWhite(pixels[pos], pixels[pos + 1]);
  } else if (channels === 3) {
    for (; out < end; pos += 3) grey[out++] = weigh(pixels[pos], pixels[pos + 1], pixels[pos + 2]);
  } else {
    for (; out < end; pos += 4) {
      grey[out++] = overWhite(weigh(pixels[pos], pixels[pos + 1], pixels[pos + 2]), pixels[pos + 3]);
    }
  }
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
