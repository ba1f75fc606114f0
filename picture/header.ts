/**
 * The size in the first bytes of a file, before the rest of it has arrived. So a picture that is too large is refused
 * at once.
 *
 * Not here: JPEG (jpeg.ts), AVIF (avif.ts); TIFF, whose directory may be at the end. The size that the decoder finds is
 * checked as well (read.ts).
 * Sources: RFC 9649 (WebP); GIF89a, 18.
 */
import { sizeInAvif } from "./avif.ts";
import { sizeInJpeg } from "./jpeg.ts";

export interface Size {
  width: number;
  height: number;
}

/**
 * @param bytes the file from its beginning, as much as has arrived
 * @returns undefined if the size is not in these bytes
 * @throws ImageError "corrupt" if the sequence of a JPEG's segments breaks off
 */
export function sizeIn(bytes: Buffer, format: string): Size | undefined {
  return SIZES[format]?.(bytes);
}

const SIZES: Record<string, (bytes: Buffer) => Size | undefined> = {
  JPEG: sizeInJpeg,
  WebP: sizeInWebp,
  AVIF: sizeInAvif,
  GIF: (bytes) => (bytes.length < 10 ? undefined : { width: bytes.readUInt16LE(6), height: bytes.readUInt16LE(8) }),
};

function sizeInWebp(bytes: Buffer): Size | undefined {
  if (bytes.length < 30) return undefined;
  const kind = bytes.toString("latin1", 12, 16);
  if (kind === "VP8X") return { width: 1 + bytes.readUIntLE(24, 3), height: 1 + bytes.readUIntLE(27, 3) };
  if (kind === "VP8 ") return { width: bytes.readUInt16LE(26) & 0x3fff, height: bytes.readUInt16LE(28) & 0x3fff };
  if (kind !== "VP8L") return undefined;
  const bits = bytes.readUInt32LE(21);
  return { width: 1 + (bits & 0x3fff), height: 1 + ((bits >> 14) & 0x3fff) };
}
