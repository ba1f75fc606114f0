/**
 * What the first bytes of a file show: its kind, with an error text for those that are not read, and its size.
 *
 * Not here: reading (read.ts); the size of a JPEG (jpeg.ts) and of an AVIF (avif.ts).
 * Sources: RFC 9649 (WebP); GIF89a, 18.
 */
import { sizeInAvif } from "./avif.ts";
import { sizeInJpeg } from "./jpeg.ts";
import { ImageError } from "./picture.ts";
import { PNG_SIGNATURE } from "./png-format.ts";
import { isTiff } from "./tiff.ts";

export type Format = "PNG" | "JPEG" | "WebP" | "TIFF" | "GIF" | "AVIF";

/** The number of first bytes that decide the kind of a file. */
export const FIRST_BYTES = 64;

const READABLE = "expected PNG, JPEG, WebP, TIFF, GIF or AVIF";
const AS_JPEG = "save it as JPEG or PNG";

/** @throws ImageError "not-an-image" for an empty file and for text; "unknown-format" */
export function formatOf(first: Uint8Array): Format {
  if (first.length === 0) throw new ImageError("not-an-image", "not an image: expected a picture, got no bytes");
  const text = String.fromCharCode(...first.subarray(0, FIRST_BYTES));
  if (PNG_SIGNATURE.every((byte, i) => first[i] === byte)) return "PNG";
  if (/^\xff\xd8\xff/.test(text)) return "JPEG";
  if (/^RIFF....WEBP/s.test(text)) return "WebP";
  if (isTiff(first)) return "TIFF";
  if (/^GIF8[79]a/.test(text)) return "GIF";
  const brands = brandsIn(text);
  if (brands.some((brand) => AVIF.has(brand)) && !brands.some((brand) => HEIC.has(brand))) return "AVIF";
  const isHeic = brands.some((brand) => HEIC.has(brand));
  const [, what, remedy] = OTHERS.find(([pattern]) => pattern.test(text)) ?? (isHeic ? HEIC_KIND : []);
  if (what) throw new ImageError("unknown-format", `${what}: ${READABLE}; ${remedy}`);
  if (/^[\t\r\n\x20-\x7e]+$/.test(text)) {
    const shown = JSON.stringify(text.slice(0, 16));
    throw new ImageError("not-an-image", `not an image: ${READABLE}, got text that begins with ${shown}`);
  }
  const bytes = Array.from(first.subarray(0, 8), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  throw new ImageError("unknown-format", `unknown format: ${READABLE}, got a file that begins with the bytes ${bytes}`);
}

/** `mif1`, `miaf` and `msf1` name the container. They come with AVIF and with HEIC; the decoder reads AVIF only. */
const AVIF = new Set(["avif", "avis", "MA1A", "MA1B", "mif1", "miaf", "msf1"]);
const HEIC = new Set(["heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs"]);
const HEIC_KIND: readonly [null, string, string] = [
  null,
  "a HEIC picture, as iPhones take them, is not read",
  "share it as JPEG, or set Camera, Formats to Most Compatible",
];

/** The brands of an ISO media file: the major one, then the compatible ones. */
function brandsIn(text: string): string[] {
  if (!text.startsWith("ftyp", 4)) return [];
  const end = Math.min(text.length, (text.charCodeAt(2) << 8) | text.charCodeAt(3));
  const brands = [text.slice(8, 12)];
  for (let at = 16; at + 4 <= end; at += 4) brands.push(text.slice(at, at + 4));
  return brands;
}

/** What a file begins with, what it is, and what its sender can do. */
const OTHERS: (readonly [RegExp, string, string])[] = [
  [/^(\xff\x0a|\0\0\0\x0cJXL )/, "a JPEG XL picture is not read", AS_JPEG],
  [/^(\0\0\0\x0cjP {2}|\xff\x4f\xff\x51)/, "a JPEG 2000 picture is not read", AS_JPEG],
  [/^BM....\0\0\0\0/s, "a BMP picture is not read", AS_JPEG],
  [/^\0\0[\x01\x02]\0/, "an icon (ICO) is not read", AS_JPEG],
  [/^8BPS/, "a Photoshop file is not read", AS_JPEG],
  [/^%PDF/, "a PDF is not read", "export the page as PNG"],
  [/^\s*</, "an SVG, XML or HTML file is not read", "export it as PNG"],
  [/^P[1-7fF]\s/, "a Netpbm picture (PBM, PGM, PPM, PAM, PFM) is not read", "save it as PNG"],
  [/^(v\/1\x01|#\?RADIANCE|#\?RGBE)/, "a high-dynamic-range picture is not read", AS_JPEG],
  [/^DDS /, "a DDS texture is not read", "save it as PNG"],
  [/^(PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!)/, "an archive is not read", "send the pictures in it one by one"],
  [/^....ftyp(qt {2}|isom|iso\d|mp4|M4V|3gp|avc1)/s, "a video is not read", "send one frame of it as JPEG or PNG"],
  [/^\x1aE\xdf\xa3/, "a video is not read", "send one frame of it as JPEG or PNG"],
];

export interface Size {
  width: number;
  height: number;
}

/**
 * The size in the first bytes of a file, before the rest of it has arrived. So a picture that is too large is refused
 * at once. A TIFF may have its directory at the end. The size that the decoder finds is checked as well (read.ts).
 * @param bytes the file from its beginning, as much as has arrived
 * @returns undefined if the size is not in these bytes
 * @throws ImageError "corrupt" if the sequence of a JPEG's segments breaks off
 */
export function sizeIn(bytes: Buffer, format: Format): Size | undefined {
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
