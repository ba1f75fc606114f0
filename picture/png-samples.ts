/**
 * PNG scanlines → rows of 8-bit grey, RGB or RGBA. Undoes the row filters, then converts samples of any colour type and
 * depth.
 *
 *     8 bits, no palette, no tRNS             to grey: one pass in the kernel
 *     palette, or grey of up to 8 bits        a table: the pixel of every sample
 *     16 bits, or one transparent colour      to 8-bit samples with alpha, then converted
 *
 * Of 16-bit samples the high byte counts.
 *
 * Not here: where scanlines come from (png-read.ts), the conversion (colour.ts), the loops over bytes (kernel/).
 * Source: PNG Specification (Third Edition), https://www.w3.org/TR/png-3/
 */
import { Scratch } from "./buffers.ts";
import { convert } from "./colour.ts";
import { kernel } from "./kernel/kernel.ts";
import type { Channels } from "./picture.ts";
import { CHANNELS, corrupt, GREY, type Header, PALETTE } from "./png-format.ts";

/** Bytes of a scanline of `width` pixels, without its filter byte. */
export function rowBytes({ colour, depth }: Header, width: number): number {
  return Math.ceil((width * CHANNELS[colour] * depth) / 8);
}

/**
 * A function from filtered scanlines of `width` pixels to rows of `to` channels. It keeps the last row for the next
 * call, and overwrites the scanlines. It throws `ImageError` "corrupt" on an unknown filter and on an index beyond the
 * palette.
 */
export function converter(header: Header, width: number, to: Channels): Convert {
  const { colour, depth, transparency } = header;
  const bytes = rowBytes(header, width);
  const channels = CHANNELS[colour];
  const bytesPerPixel = Math.max(1, (channels * depth) / 8);
  const previous = new Uint8Array(bytes);
  const plain = depth === 8 && colour !== PALETTE && !transparency;
  const expand = plain && to === 1 ? undefined : expander(header, width, to);
  return (lines, out) => {
    for (let at = 0; at < lines.length; at += 1 + bytes) {
      if (lines[at] > 4) throw corrupt(`row filter: expected 0 to 4, got ${lines[at]}`);
    }
    if (!expand) return kernel.unfilterLuminance(lines, width, channels, previous, out);
    kernel.unfilter(lines, bytes, bytesPerPixel, previous);
    expand(lines, out);
  };
}

type Convert = (lines: Uint8Array, out: Uint8Array) => void;

/** A function from unfiltered scanlines to rows. It makes no object for a row: a picture may have millions of rows. */
function expander(header: Header, width: number, to: Channels): Convert {
  const { colour, depth } = header;
  if (colour === PALETTE || (colour === GREY && depth <= 8)) return lookUp(tableOf(header, to), to, depth, width);
  return toEightBits(header, width, to);
}

/** The pixel of every palette index, or of every grey sample of at most 8 bits. */
function tableOf({ colour, depth, palette, transparency }: Header, to: Channels): Uint8Array {
  // An index beyond the palette is black, as in libpng.
  const size = 1 << depth;
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
  const table = new Uint8Array(size * to);
  convert(rgba, 4, table, to);
  return table;
}

function lookUp(table: Uint8Array, to: Channels, depth: number, width: number): Convert {
  const perByte = 8 / depth;
  const mask = (1 << depth) - 1;
  const stride = 1 + Math.ceil(width / perByte);
  return (lines, out) => {
    for (let row = 1, at = 0; row < lines.length; row += stride) {
      for (let x = 0; x < width; x++) {
        const index = (lines[row + ((x / perByte) | 0)] >> (8 - depth - (x % perByte) * depth)) & mask;
        if (to === 1) out[at++] = table[index];
        else for (let c = 0; c < to; c++) out[at++] = table[index * to + c];
      }
    }
  };
}

/** Samples of 8 or 16 bits. All 16 bits are compared with the transparent colour. */
function toEightBits(header: Header, width: number, wanted: Channels): Convert {
  const { colour, depth, transparency } = header;
  const inputs = CHANNELS[colour];
  const channels = transparency ? inputs + 1 : inputs;
  const step = depth / 8;
  const samples = new Scratch();
  // tRNS holds 16-bit samples; for an 8-bit picture the low byte counts.
  const key = transparency && (depth === 16 ? transparency : transparency.filter((_, i) => i % 2 === 1));
  return (lines, rows) => {
    const pixels = rows.length / wanted;
    const expanded = samples.take(pixels * channels);
    let from = 0;
    let to = 0;
    for (let pixel = 0; pixel < pixels; pixel++) {
      if (pixel % width === 0) from++; // the filter byte
      const start = from;
      for (let c = 0; c < inputs; c++, from += step) expanded[to++] = lines[from];
      if (key) expanded[to++] = isAt(lines, start, key) ? 0 : 255;
    }
    convert(expanded, channels, rows, wanted);
  };
}

function isAt(bytes: Uint8Array, at: number, part: Uint8Array): boolean {
  for (let i = 0; i < part.length; i++) {
    if (bytes[at + i] !== part[i]) return false;
  }
  return true;
}
