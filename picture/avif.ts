/**
 * The boxes of an AVIF: its size, and whether it has a picture that the decoder reads.
 *
 *     ftyp: brands · meta: the items of the picture, their sizes (ispe) and codecs · mdat: data      (moov: a sequence)
 *
 * Sources: ISO/IEC 14496-12 (boxes); ISO/IEC 23008-12, 6.5.3 (ispe); AV1 Image File Format.
 */
import { ImageError } from "./picture.ts";

/**
 * Makes the major brand `avif`, in place: the decoder does not know all valid brands.
 * @throws ImageError "unknown-format" for a sequence without a picture, and for the codec of HEIC
 */
export function readAvif(bytes: Buffer): void {
  const meta = boxIn(bytes, "meta");
  if (!meta && boxIn(bytes, "moov"))
    throw unread("an AVIF sequence (an animation) without a still picture", "save a frame");
  if (!meta) throw new ImageError("corrupt", "corrupt AVIF: it has no meta box");
  if (meta.includes("hvc1")) throw unread("a HEIF picture of the codec HEVC (HEIC)", "save it as JPEG");
  bytes.write("avif", 8, "latin1");
}

/** The largest of the sizes: each tile of a grid has its own. Undefined if no size has arrived. */
export function sizeInAvif(bytes: Buffer): { width: number; height: number } | undefined {
  const mediaData = bytes.indexOf("mdat"); // its bytes mean nothing here
  const boxes = mediaData < 0 ? bytes : bytes.subarray(0, mediaData);
  let largest: { width: number; height: number } | undefined;
  for (let at = boxes.indexOf("ispe"); at >= 0 && at + 16 <= boxes.length; at = boxes.indexOf("ispe", at + 4)) {
    const size = { width: boxes.readUInt32BE(at + 8), height: boxes.readUInt32BE(at + 12) };
    if (!largest || size.width * size.height > largest.width * largest.height) largest = size;
  }
  return largest;
}

/** A box at the top level. */
function boxIn(bytes: Buffer, type: string): Buffer | undefined {
  for (let at = 0; at + 8 <= bytes.length; ) {
    const short = bytes.readUInt32BE(at);
    const size = short === 1 && at + 16 <= bytes.length ? Number(bytes.readBigUInt64BE(at + 8)) : short;
    if (bytes.toString("latin1", at + 4, at + 8) === type) return bytes.subarray(at, at + size);
    if (size < 8) return undefined;
    at += size;
  }
  return undefined;
}

function unread(what: string, remedy: string): ImageError {
  return new ImageError("unknown-format", `${what} is not read; ${remedy}`);
}
