/**
 * PNG scanlines → rows of 8-bit grey, RGB or RGBA. Undoes the row filters, then converts samples of any colour type and
 * depth.
 *
 *     8 bits, no palette, no tRNS, to grey    one pass in the kernel
 *     all others                              to 8-bit samples, then converted
 *
 * A 16-bit sample becomes its high byte.
 *
 * Not here: where scanlines come from (png-read.ts), the conversion (colour.ts), the loops over bytes (kernel/).
 * Source: PNG Specification (Third Edition), https://www.w3.org/TR/png-3/
 */
import { Scratch } from "./buffers.ts";
import { convert } from "./colour.ts";
import { kernel } from "./kernel/kernel.ts";
import type { Channels } from "./picture.ts";
import { CHANNELS, corrupt, type Header, PALETTE } from "./png-format.ts";

/** Bytes of a scanline of `width` pixels, without its filter byte. */
export function rowBytes({ colour, depth }: Header, width: number): number {
  return Math.ceil((width * CHANNELS[colour] * depth) / 8);
}

/**
 * A function from filtered scanlines of `width` pixels to rows of `to` channels. It keeps the last row for the next
 * call, and overwrites the scanlines. It throws `ImageError` "corrupt" on an unknown filter.
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

/**
 * A function from unfiltered scanlines to rows, by way of 8-bit samples. It makes no object per pixel, since a picture
 * may have billions of pixels.
 */
function expander(header: Header, width: number, to: Channels): Convert {
  const { colour, depth, transparency } = header;
  const inputs = CHANNELS[colour];
  const channels = (colour === PALETTE ? 3 : inputs) + (transparency ? 1 : 0);
  const samples = new Scratch();
  const bytes = rowBytes(header, width);
  const expandRow = depth >= 8 && channels === inputs ? copyRow : rowExpander(header, width, channels);
  return (lines, rows) => {
    const expanded = samples.take((rows.length / to) * channels);
    for (let row = 1, at = 0; row < lines.length; row += 1 + bytes, at += width * channels)
      expandRow(lines, row, expanded, at);
    convert(expanded, channels, rows, to);
  };

  /** Copies a row. A 16-bit sample becomes its high byte. */
  function copyRow(lines: Uint8Array, row: number, out: Uint8Array, at: number): void {
    if (depth === 8) out.set(lines.subarray(row, row + bytes), at);
    else for (let high = row; high < row + bytes; high += 2) out[at++] = lines[high];
  }
}

/** A function to 8-bit samples, from a row of palette indexes, of less than 8 bits, or with a transparent colour. */
function rowExpander(header: Header, width: number, channels: number) {
  const { colour, depth, transparency } = header;
  const inputs = CHANNELS[colour];
  const most = 2 ** depth - 1;
  const palette = colour === PALETTE ? rgbaOf(header) : undefined;
  // tRNS holds 16-bit samples. Only their lowest bits count, as many as a sample has.
  const keyOf = (tRNS: Uint8Array) => Array.from({ length: inputs }, (_, c) => sixteen(tRNS, c) & most);
  const key = palette || !transparency ? undefined : keyOf(transparency);
  return (lines: Uint8Array, row: number, out: Uint8Array, at: number) => {
    for (let i = 0; i < width * inputs; ) {
      let isKey = true;
      for (let c = 0; c < inputs; c++, i++) {
        const bit = i * depth;
        const byte = lines[row + (bit >> 3)];
        const value = depth === 16 ? sixteen(lines, i, row) : (byte >> (8 - depth - (bit & 7))) & most;
        if (palette) for (let k = 0; k < channels; k++) out[at++] = palette[4 * value + k];
        else out[at++] = depth === 16 ? byte : value * (255 / most);
        isKey &&= key?.[c] === value;
      }
      if (key) out[at++] = isKey ? 0 : 255;
    }
  };
}

/** A 16-bit sample. */
function sixteen(bytes: Uint8Array, number: number, from = 0): number {
  return (bytes[from + 2 * number] << 8) | bytes[from + 2 * number + 1];
}

/** The pixel of every index. Beyond the palette it is black, as in libpng. */
function rgbaOf({ palette, transparency }: Header): Uint8Array {
  const rgba = new Uint8Array(4 * 256);
  for (let i = 0; i < 256; i++) {
    rgba.set(palette!.subarray(3 * i, 3 * i + 3), 4 * i);
    rgba[4 * i + 3] = transparency?.[i] ?? 255;
  }
  return rgba;
}
