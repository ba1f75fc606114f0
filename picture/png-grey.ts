/**
 * PNG scanlines → 8-bit grey. Undoes the row filters, then reduces samples of any colour type and depth to luminance.
 *
 *     8 bits, no palette, no tRNS             one pass in the kernel
 *     palette, or grey of up to 8 bits        a table: grey of every sample
 *     16 bits, or one transparent colour      to 8-bit samples with alpha, then the kernel
 *
 * Of 16-bit samples the high byte counts. Transparent pixels are laid over white.
 *
 * Not here: where scanlines come from (png-read.ts), the loops over bytes (kernel/).
 * Source: PNG Specification (Third Edition), https://www.w3.org/TR/png-3/
 */
import { kernel } from "./kernel/kernel.ts";
import { CHANNELS, corrupt, GREY, type Header, PALETTE } from "./png-format.ts";

/** Bytes of a scanline of `width` pixels, without its filter byte. */
export function rowBytes({ colour, depth }: Header, width: number): number {
  return Math.ceil((width * CHANNELS[colour] * depth) / 8);
}

/**
 * A function from filtered scanlines of `width` pixels to rows of grey. It keeps the last row for the next call, and
 * overwrites the scanlines. It throws `ImageError` "corrupt" on an unknown filter and on an index beyond the palette.
 */
export function converter(header: Header, width: number): (lines: Uint8Array, grey: Uint8Array) => void {
  const { colour, depth, transparency } = header;
  const bytes = rowBytes(header, width);
  const channels = CHANNELS[colour];
  const bytesPerPixel = Math.max(1, (channels * depth) / 8);
  const previous = new Uint8Array(bytes);
  const plain = depth === 8 && colour !== PALETTE && !transparency;
  const expand = plain ? undefined : expander(header, width);
  return (lines, grey) => {
    for (let at = 0; at < lines.length; at += 1 + bytes) {
      if (lines[at] > 4) throw corrupt(`row filter: expected 0 to 4, got ${lines[at]}`);
    }
    if (!expand) return kernel.unfilterLuminance(lines, width, channels, previous, grey);
    kernel.unfilter(lines, bytes, bytesPerPixel, previous);
    for (let at = 0, to = 0; at < lines.length; at += 1 + bytes, to += width) {
      expand(lines.subarray(at + 1, at + 1 + bytes), grey.subarray(to, to + width));
    }
  };
}

/** A function from one row of unfiltered samples to grey. */
function expander(header: Header, width: number): (row: Uint8Array, grey: Uint8Array) => void {
  const { colour, depth } = header;
  if (colour === PALETTE || (colour === GREY && depth <= 8)) return lookUp(greyTable(header), depth);
  return toEightBits(header, width);
}

/** Grey of every palette index, or of every grey sample of at most 8 bits. */
function greyTable({ colour, depth, palette, transparency }: Header): Uint8Array {
  const size = colour === PALETTE ? palette!.length / 3 : 1 << depth;
  const rgba = new Uint8Array(size * 4);
  // tRNS holds 16 bits; only as many as the depth count.
  const transparent =
    colour === GREY && transparency ? ((transparency[0] << 8) | transparency[1]) & (2 ** depth - 1) : -1;
  for (let i = 0; i < size; i++) {
    const grey = Math.round((i * 255) / ((1 << depth) - 1));
    const rgb = colour === PALETTE ? palette!.subarray(i * 3, i * 3 + 3) : [grey, grey, grey];
    rgba.set(rgb, i * 4);
    rgba[i * 4 + 3] = colour === PALETTE ? (transparency?.[i] ?? 255) : i === transparent ? 0 : 255;
  }
  const table = new Uint8Array(size);
  kernel.luminance(rgba, 4, table);
  return table;
}

function lookUp(table: Uint8Array, depth: number): (row: Uint8Array, grey: Uint8Array) => void {
  const perByte = 8 / depth;
  const mask = (1 << depth) - 1;
  return (row, grey) => {
    let largest = 0;
    for (let x = 0; x < grey.length; x++) {
      const index = (row[(x / perByte) | 0] >> (8 - depth - (x % perByte) * depth)) & mask;
      if (index > largest) largest = index;
      grey[x] = table[index];
    }
    if (largest >= table.length) throw corrupt(`palette index: expected less than ${table.length}, got ${largest}`);
  };
}

/** Samples of 8 or 16 bits. All 16 bits are compared with the transparent colour. */
function toEightBits(header: Header, width: number): (row: Uint8Array, grey: Uint8Array) => void {
  const { colour, depth, transparency } = header;
  const inputs = CHANNELS[colour];
  const channels = transparency ? inputs + 1 : inputs;
  const step = depth / 8;
  const samples = new Uint8Array(width * channels);
  // tRNS holds 16-bit samples; for an 8-bit picture the low byte counts.
  const key = transparency && (depth === 16 ? transparency : transparency.filter((_, i) => i % 2 === 1));
  return (row, grey) => {
    for (let x = 0, from = 0, to = 0; x < width; x++) {
      const pixel = from;
      for (let c = 0; c < inputs; c++, from += step) samples[to++] = row[from];
      if (key) samples[to++] = key.every((byte, i) => row[pixel + i] === byte) ? 0 : 255;
    }
    kernel.luminance(samples, channels, grey);
  };
}
