/**
 * The size that the first bytes of a file promise, before the rest of it has arrived: so a picture that is too large is
 * refused at once.
 *
 * Not here: TIFF, whose directory may be at the end. What the decoder finds decides (read.ts); this is earlier only.
 * Sources: ITU-T T.81, B; RFC 9649 (WebP); GIF89a, 18; ISO/IEC 23008-12, 6.5.3 (`ispe` of AVIF).
 */
import { ImageError } from "./picture.ts";

export interface Size {
  width: number;
  height: number;
}

/**
 * @param bytes the file from its beginning, as much as has arrived
 * @returns undefined where the size is not in these bytes
 * @throws ImageError "corrupt" where a JPEG breaks off the sequence of its segments
 */
export function sizeIn(bytes: Buffer, format: string): Size | undefined {
  if (format === "JPEG") return sizeInJpeg(bytes);
  if (format === "WebP") return sizeInWebp(bytes);
  if (format === "GIF") return sizeInGif(bytes);
  if (format === "AVIF") return sizeInAvif(bytes);
  return undefined;
}

function sizeInJpeg(bytes: Buffer): Size | undefined {
  for (const { marker, at } of segments(bytes)) {
    if (isFrame(marker)) return { width: bytes.readUInt16BE(at + 7), height: bytes.readUInt16BE(at + 5) };
  }
  return undefined;
}

/** Whether the decoder holds all coefficients of a JPEG: it is progressive, or its components come in several scans. */
export function holdsCoefficients(jpeg: Buffer): boolean {
  let components = 0;
  for (const { marker, at } of segments(jpeg)) {
    if (isFrame(marker)) {
      if ((marker & 3) === 2) return true;
      components = jpeg[at + 9];
    }
    if (marker === START_OF_SCAN) return jpeg[at + 4] < components;
  }
  return true;
}

const START_OF_SCAN = 0xda;

function isFrame(marker: number): boolean {
  return marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc;
}

/** The segments of a JPEG. Bytes between segments are skipped, as decoders do. @throws ImageError "corrupt" */
function* segments(bytes: Buffer): Generator<{ marker: number; at: number }> {
  let at = 2;
  for (;;) {
    at = bytes.indexOf(0xff, at);
    while (at >= 0 && bytes[at + 1] === 0xff) at++;
    if (at < 0 || at + 10 > bytes.length) return;
    const marker = bytes[at + 1];
    const isAlone = marker === 0 || marker === 1 || (marker >= 0xd0 && marker <= 0xd8);
    const length = isAlone ? 0 : bytes.readUInt16BE(at + 2);
    if (!isAlone && length < 2) {
      throw new ImageError("corrupt", `corrupt JPEG: segment length: expected at least 2, got ${length}`);
    }
    yield { marker, at };
    at += 2 + length;
  }
}

function sizeInWebp(bytes: Buffer): Size | undefined {
  if (bytes.length < 30) return undefined;
  const kind = bytes.toString("latin1", 12, 16);
  if (kind === "VP8X") return { width: 1 + bytes.readUIntLE(24, 3), height: 1 + bytes.readUIntLE(27, 3) };
  if (kind === "VP8 ") return { width: bytes.readUInt16LE(26) & 0x3fff, height: bytes.readUInt16LE(28) & 0x3fff };
  if (kind !== "VP8L") return undefined;
  const bits = bytes.readUInt32LE(21);
  return { width: 1 + (bits & 0x3fff), height: 1 + ((bits >> 14) & 0x3fff) };
}

function sizeInGif(bytes: Buffer): Size | undefined {
  return bytes.length < 10 ? undefined : { width: bytes.readUInt16LE(6), height: bytes.readUInt16LE(8) };
}

/** The largest of the sizes: a picture may be a grid of tiles, each with its own. */
function sizeInAvif(bytes: Buffer): Size | undefined {
  const mediaData = bytes.indexOf("mdat"); // its bytes mean nothing here
  const boxes = mediaData < 0 ? bytes : bytes.subarray(0, mediaData);
  let largest: Size | undefined;
  for (let at = boxes.indexOf("ispe"); at >= 0 && at + 16 <= boxes.length; at = boxes.indexOf("ispe", at + 4)) {
    const size = { width: boxes.readUInt32BE(at + 8), height: boxes.readUInt32BE(at + 12) };
    if (!largest || size.width * size.height > largest.width * largest.height) largest = size;
  }
  return largest;
}
