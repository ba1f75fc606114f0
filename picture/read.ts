/**
 * Any picture → rows of grey. Only the first bytes decide the format, never a name or a declared type.
 *
 *     PNG                               streamed (png-read.ts)
 *     JPEG, WebP, TIFF, GIF, AVIF       held whole, decoded by sharp (libvips); of a GIF the first frame
 *     anything else                     refused; libvips could read more (SVG, PDF), but does not get it
 *
 * All formats go through the same luminance formula, so the same samples give the same grey. The size is checked in the
 * header, before pixels are allocated. The limit is lower where the picture is held whole.
 *
 * Not here: what happens to the rows.
 */
import { kernel } from "./kernel/kernel.ts";
import { checkPixels, type GreyImage, ImageError, type PixelLimits } from "./picture.ts";
import { PNG_SIGNATURE } from "./png-format.ts";
import { readPng } from "./png-read.ts";

/** 1 Gpx streamed; 128 Mpx where the whole picture is held, at up to four bytes a pixel. */
export const DEFAULT_LIMITS: PixelLimits = { streamed: 1_000_000_000, whole: 1 << 27 };

/** The first bytes of a file, as many as its format needs. */
const FIRST_BYTES = 16;
/** Luminance is computed in blocks of about this many pixels: a block stays in the cache. */
const BLOCK_PIXELS = 1 << 16;

/**
 * Reads a picture's header at once and its rows on demand.
 * @throws ImageError "not-an-image" for nothing and for text; "unknown-format"; "too-large" beyond `limits`; "corrupt"
 */
export async function readImage(
  source: AsyncIterable<Uint8Array>,
  limits: PixelLimits = DEFAULT_LIMITS,
): Promise<GreyImage> {
  const { first, all } = await peek(source);
  const format = formatOf(first);
  return format === "PNG" ? readPng(all, limits) : readWhole(all, format, limits);
}

/** The first bytes, and a source that still begins with them. */
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
    try {
      yield first;
      yield* rest;
    } finally {
      await pieces.return?.(); // a reader may stop before `rest` has begun
    }
  };
  return { first, all: all() };
}

/** @throws ImageError "not-an-image", "unknown-format" */
function formatOf(first: Uint8Array): string {
  if (first.length === 0) throw new ImageError("not-an-image", "not an image: expected a picture, got no bytes");
  if (PNG_SIGNATURE.every((byte, i) => first[i] === byte)) return "PNG";
  const text = String.fromCharCode(...first.subarray(0, FIRST_BYTES));
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

/** Reads a file that libvips decodes, all of it. @throws ImageError "unknown-format", "too-large", "corrupt" */
async function readWhole(all: AsyncIterable<Uint8Array>, format: string, limits: PixelLimits): Promise<GreyImage> {
  const pieces: Uint8Array[] = [];
  for await (const piece of all) pieces.push(piece);
  // Loaded on demand: 20 MB of native code that PNGs do not need.
  const { default: sharp } = await import("sharp");
  sharp.cache(false);
  // The formula takes the samples as stored, as other implementations of it do. So ICC profiles are ignored.
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
  // A TIFF may have samples beside colour and alpha. Their meaning is not defined.
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
