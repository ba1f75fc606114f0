/**
 * How many pixels the first frame of a GIF really has. A decoder fills what is missing and does not say so.
 *
 *     signature · screen · palette · { extension } · frame: place, size, palette · LZW codes in blocks of up to 255 bytes
 *
 * Not here: the pixels (libvips decodes them).
 * Source: GIF89a (CompuServe, 1990), 20 to 22 and appendix F.
 */
import { breathe } from "./budget.ts";
import { ImageError } from "./picture.ts";

/** @throws ImageError "corrupt" where the codes of the first frame make fewer pixels than its size says */
export async function expectWholeFrame(gif: Buffer): Promise<void> {
  const frame = firstFrame(gif);
  if (!frame) throw corrupt("there is no frame");
  const expected = frame.width * frame.height;
  const got = await pixelsIn(gif, frame.at, expected);
  if (got < expected) throw corrupt(`expected ${expected} pixels in the first frame, got ${got}`);
}

const [EXTENSION, FRAME] = [0x21, 0x2c];

/** `at`: where its codes begin, at the byte with their size. */
function firstFrame(gif: Buffer): { width: number; height: number; at: number } | undefined {
  const paletteBytes = (flags: number) => ((flags & 0x80) > 0 ? 3 << ((flags & 7) + 1) : 0);
  if (gif.length < 13) return undefined;
  let at = 13 + paletteBytes(gif[10]);
  while (gif[at] === EXTENSION) {
    at += 2;
    while (gif[at] > 0) at += 1 + gif[at];
    at++;
  }
  if (gif[at] !== FRAME || at + 11 > gif.length) return undefined;
  const [width, height] = [gif.readUInt16LE(at + 5), gif.readUInt16LE(at + 7)];
  return { width, height, at: at + 10 + paletteBytes(gif[at + 9]) };
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
