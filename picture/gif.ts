/**
 * How many pixels the first frame of a GIF really has. A decoder fills in missing pixels without an error.
 *
 *     signature · screen · palette · { extension } · frame: place, size, palette · blocks of LZW codes
 *
 * Not here: the pixels (libvips decodes them).
 * Source: GIF89a (CompuServe, 1990), 20 to 22 and appendix F.
 */
import { breathe } from "./budget.ts";
import { ImageError } from "./picture.ts";

/** A first frame that covers only a part of the screen and has no transparent pixel. */
export interface Island {
  left: number;
  top: number;
  width: number;
  height: number;
  /** Red, green and blue of the background. */
  colour: Uint8Array;
}

/**
 * @returns the first frame if the decoder would leave the rest of the screen black
 * @throws ImageError "corrupt" if the codes of the first frame make fewer pixels than its size says
 */
export async function expectWholeFrame(gif: Buffer): Promise<Island | undefined> {
  const frame = firstFrame(gif);
  if (!frame) throw corrupt("there is no frame");
  const expected = frame.width * frame.height;
  const got = await pixelsIn(gif, frame.at, expected);
  if (got < expected) throw corrupt(`expected ${expected} pixels in the first frame, got ${got}`);
  const covers = frame.width >= gif.readUInt16LE(6) && frame.height >= gif.readUInt16LE(8);
  if (covers || frame.isTransparent || (gif[10] & 0x80) === 0) return undefined;
  const colour = 13 + 3 * gif[11];
  return { ...frame, colour: Uint8Array.from(gif.subarray(colour, colour + 3)) };
}

/** Gives the background its colour. @param pixels of a screen of this width, `width × height × channels` */
export async function fillAround(
  { left, top, colour, ...frame }: Island,
  pixels: Uint8Array,
  width: number,
  channels: number,
): Promise<void> {
  const [right, bottom] = [left + frame.width, top + frame.height];
  for (let y = 0; y * width * channels < pixels.length; y++) {
    await breathe();
    const isBeside = y >= top && y < bottom;
    for (let x = 0; x < width; x++) {
      if (isBeside && x >= left && x < right) continue;
      const at = (y * width + x) * channels;
      for (let c = 0; c < channels && c < 3; c++) pixels[at + c] = colour[c];
    }
  }
}

const [EXTENSION, GRAPHIC_CONTROL, FRAME] = [0x21, 0xf9, 0x2c];

/** The first frame. `at` is the position of the byte before its codes, which has their size. */
function firstFrame(gif: Buffer): (Omit<Island, "colour"> & { isTransparent: boolean; at: number }) | undefined {
  const paletteBytes = (flags: number) => ((flags & 0x80) > 0 ? 3 << ((flags & 7) + 1) : 0);
  if (gif.length < 13) return undefined;
  let at = 13 + paletteBytes(gif[10]);
  let isTransparent = false;
  while (gif[at] === EXTENSION) {
    if (gif[at + 1] === GRAPHIC_CONTROL) isTransparent = (gif[at + 3] & 1) > 0;
    at += 2;
    while (gif[at] > 0) at += 1 + gif[at];
    at++;
  }
  if (gif[at] !== FRAME || at + 11 > gif.length) return undefined;
  const [left, top, width, height] = [1, 3, 5, 7].map((i) => gif.readUInt16LE(at + i));
  return { left, top, width, height, isTransparent, at: at + 10 + paletteBytes(gif[at + 9]) };
}

/** The number of pixels, up to `most`. Only the lengths of the strings are kept, not the strings. */
async function pixelsIn(gif: Buffer, at: number, most: number): Promise<number> {
  const bits = gif[at++];
  if (bits === undefined || bits < 1 || bits > 11) throw corrupt(`code size: expected 1 to 11 bits, got ${bits}`);
  const clear = 1 << bits;
  const lengths = new Uint32Array(4096).fill(1, 0, clear);
  let [next, size, previous, pixels] = [clear + 2, bits + 1, -1, 0];
  let [buffer, filled] = [0, 0];
  for (let left = 0; ; left--) {
    if (left === 0) {
      await breathe();
      left = gif[at++];
      if (!(left > 0)) return pixels;
    }
    if (at >= gif.length) return pixels;
    buffer |= gif[at++] << filled;
    filled += 8;
    while (filled >= size) {
      const code = buffer & ((1 << size) - 1);
      buffer >>>= size;
      filled -= size;
      if (code === clear + 1) return pixels;
      if (code === clear) {
        [next, size, previous] = [clear + 2, bits + 1, -1];
        continue;
      }
      if (previous >= 0 && next < 4096) lengths[next++] = lengths[previous] + 1;
      if (code >= next || (code > clear && lengths[code] === 0)) return pixels;
      pixels += lengths[code];
      if (pixels >= most) return most;
      if (next === 1 << size && size < 12) size++;
      previous = code;
    }
  }
}

function corrupt(what: string): ImageError {
  return new ImageError("corrupt", `corrupt GIF: ${what}`);
}
