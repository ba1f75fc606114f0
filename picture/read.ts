/**
 * Any picture → rows of grey. Looks at the first bytes, never at a name or a declared type.
 *
 * PNG is streamed by png.ts. JPEG, WebP, TIFF, GIF (first frame) and AVIF go through sharp (libvips), which holds the
 * whole picture; hence their lower pixel limit. Every format meets the same luminance formula, so grey does not
 * depend on the way in. Sizes are checked in the header, before pixels are allocated.
 *
 * Not here: what happens to the rows. Anything whose first bytes are not known is refused; libvips could read more
 * (SVG, PDF), and is not asked to.
 */
import { kernel } from "./kernel/kernel.ts";
import { blocksAside } from "./kernel/reader.ts";
import { checkPixels, type GreyImage, ImageError, onePiece, type PixelLimits } from "./picture.ts";
import { PNG_SIGNATURE } from "./png-format.ts";
import { readPng, readPngSize } from "./png-read.ts";

/** 1 Gpx streamed; 128 Mpx where the whole picture is held (four bytes a pixel at most). */
export const DEFAULT_LIMITS: PixelLimits = { streamed: 1_000_000_000, whole: 1 << 27 };

/** How many first bytes tell a format, and a PNG's size: its signature and its first chunk. */
const FIRST_BYTES = 33;
/** PNGs with more pixels are read in a thread of their own: with fewer, it is there and back that takes the time. */
const LARGE_PIXELS = 1 << 21;
/** Luminance is computed in blocks of about this many pixels, so that a block stays in the cache. */
const BLOCK_PIXELS = 1 << 16;

/**
 * Reads a picture's header at once and its rows on demand.
 * @throws ImageError 400 empty or text, 413 more pixels than `limits`, 415 a format that is not read, 422 corrupt
 */
export async function readImage(
  source: AsyncIterable<Uint8Array>,
  limits: PixelLimits = DEFAULT_LIMITS,
): Promise<GreyImage> {
  const { first, all } = await peek(source);
  const format = formatOf(first);
  if (format !== "PNG") return readWhole(all, format, limits);
  const { width, height } = await readPngSize(onePiece(first), limits);
  if (width * height <= LARGE_PIXELS) return readPng(all, limits);
  return { width, height, blocks: blocksAside(all, width, limits) };
}

/** The first bytes, and an iterable that has them still. */
async function peek(
  source: AsyncIterable<Uint8Array>,
): Promise<{ first: Uint8Array; all: AsyncGenerator<Uint8Array> }> {
  const pieces = source[Symbol.asyncIterator]();
  let first: Uint8Array = new Uint8Array(0);
  while (first.length < FIRST_BYTES) {
    const next = await pieces.next();
    if (next.done) break;
    first = first.length === 0 ? next.value : Buffer.concat([first, next.value]);
  }
  const rest = { [Symbol.asyncIterator]: () => pieces };
  const all = async function* () {
    yield first;
    yield* rest;
  };
  return { first, all: all() };
}

/** @throws ImageError 400, 415 */
function formatOf(first: Uint8Array): string {
  if (first.length === 0) throw new ImageError("not-an-image", "not an image: expected a picture, got no bytes");
  if (PNG_SIGNATURE.every((byte, i) => first[i] === byte)) return "PNG";
  const text = String.fromCharCode(...first.subarray(0, 16));
  if (text.startsWith("\xff\xd8\xff")) return "JPEG";
  if (text.startsWith("RIFF") && text.startsWith("WEBP", 8)) return "WebP";
  if (text.startsWith("II*\0") || text.startsWith("MM\0*")) return "TIFF";
  if (text.startsWith("GIF87a") || text.startsWith("GIF89a")) return "GIF";
  if (text.startsWith("ftypavi", 4)) return "AVIF";
  const readable = "expected PNG, JPEG, WebP, TIFF, GIF or AVIF";
  const shown = JSON.stringify(text);
  if (/^[\t\r\n\x20-\x7e]+$/.test(text) && !/^(\s*<|%PDF)/.test(text)) {
    throw new ImageError("not-an-image", `not an image: ${readable}, got text that begins with ${shown}`);
  }
  throw new ImageError("unknown-format", `unknown format: ${readable}, got a file that begins with ${shown}`);
}

async function readWhole(all: AsyncIterable<Uint8Array>, format: string, limits: PixelLimits): Promise<GreyImage> {
  const pieces: Uint8Array[] = [];
  for await (const piece of all) pieces.push(piece);
  // Loaded only when needed: 20 MB of native code that the streamed path does without.
  const { default: sharp } = await import("sharp");
  sharp.cache(false);
  // ICC profiles are left aside: the samples as stored are what other implementations of this formula see.
  const picture = sharp(Buffer.concat(pieces), { limitInputPixels: false, ignoreIcc: true });
  const described = <T>(step: Promise<T>) =>
    step.catch((cause: Error) => {
      throw new ImageError("corrupt", `corrupt ${format}: ${cause.message.split("\n")[0]}`, { cause });
    });
  const { width, height } = await described(picture.metadata());
  checkPixels(width, height, limits.whole);
  const { data, info } = await described(
    picture.autoOrient().toColourspace("srgb").raw({ depth: "uchar" }).toBuffer({ resolveWithObject: true }),
  );
  // A TIFF may have samples beside colour and alpha, and does not say what they mean.
  if (info.channels > 4) {
    throw new ImageError(
      "unknown-format",
      `unknown kind of ${format}: expected at most RGBA, got ${info.channels} channels`,
    );
  }
  return { width: info.width, height: info.height, blocks: greyOf(data, info.width, info.height, info.channels) };
}

async function* greyOf(pixels: Uint8Array, width: number, height: number, channels: number) {
  const most = Math.max(1, Math.floor(BLOCK_PIXELS / width));
  for (let y = 0; y < height; y += most) {
    const rows = Math.min(most, height - y);
    const grey = new Uint8Array(rows * width);
    kernel.luminance(pixels.subarray(y * width * channels, (y + rows) * width * channels), channels, grey);
    yield grey;
  }
}
