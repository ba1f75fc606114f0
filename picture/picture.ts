/**
 * What a picture is to this program: a stream of rows of 8-bit grey, and what can be wrong with one.
 *
 * Not here: how pictures are read (read.ts, png-read.ts) and written (png-write.ts).
 */

/** A picture as a stream of rows: each block holds whole rows, `width` bytes of 8-bit grey a row, top to bottom. */
export interface GreyImage {
  width: number;
  height: number;
  /** May be walked once. A block is valid until the next is asked for. Rejects with `ImageError`. */
  blocks: AsyncIterable<Uint8Array>;
}

/** Why a picture is refused. */
export type ImageErrorCode = "not-an-image" | "unknown-format" | "too-large" | "corrupt";

/** A picture that cannot be read. `code` says what the sender can do: send another file, a smaller one, or a repaired one. */
export class ImageError extends Error {
  constructor(
    readonly code: ImageErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = "ImageError";
  }
}

/** Most pixels that are read: `streamed` where rows are passed on as they come, `whole` where the image must be held. */
export interface PixelLimits {
  streamed: number;
  whole: number;
}

/** All rows of an image that is small enough to hold: `width × height` pixels. */
export async function collectPixels({ width, height, blocks }: GreyImage): Promise<Uint8Array> {
  const pixels = new Uint8Array(width * height);
  let at = 0;
  for await (const block of blocks) {
    pixels.set(block, at);
    at += block.length;
  }
  return pixels;
}

/** Bytes at hand, as a source. */
export async function* onePiece(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

/** @throws ImageError 413 */
export function checkPixels(width: number, height: number, limit: number): void {
  if (width * height <= limit) return;
  throw new ImageError("too-large", `image too large: expected at most ${limit} pixels, got ${width} × ${height}`);
}
