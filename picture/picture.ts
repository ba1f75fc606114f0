/**
 * A picture as this program sees it: a stream of rows of 8-bit samples, and why a picture is refused.
 *
 * Not here: how pictures are read (read.ts, png-read.ts) and written (png-write.ts).
 */

/** Samples per pixel: 1 grey, 3 RGB, 4 RGBA. */
export type Channels = 1 | 3 | 4;

/** A picture as a stream of rows, top to bottom. A block holds whole rows of `width × channels` bytes, interleaved. */
export interface Raster {
  width: number;
  height: number;
  channels: Channels;
  /** Can be read once. A block is valid until the next one is requested. Rejects with `ImageError`. */
  blocks: AsyncIterable<Uint8Array>;
}

/** Why a picture is refused. */
export type ImageErrorCode = "not-an-image" | "unknown-format" | "too-large" | "corrupt";

/** A refused picture. `code` says what the sender can do: send another file, a smaller one, or a repaired one. */
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

/** The most pixels that are read: `streamed` if rows are passed on at once, `whole` if the whole picture is held. */
export interface PixelLimits {
  streamed: number;
  whole: number;
  /** The most rows: each takes time, however narrow it is. */
  rows?: number;
  /** The time limit of a decode, whole seconds. */
  seconds?: number;
}

/** All rows of a picture that fits into memory: `width × height` pixels, row-major. */
export async function collectPixels({ width, height, channels, blocks }: Raster): Promise<Uint8Array> {
  const pixels = new Uint8Array(width * height * channels);
  let at = 0;
  for await (const block of blocks) {
    pixels.set(block, at);
    at += block.length;
  }
  return pixels;
}

/** A source of one piece. */
export async function* onePiece(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

/** `first`, and then the rest of a source. The source is closed when the walk ends, also if it ends early. */
export async function* startingWith<T>(first: T, rest: AsyncIterator<T>): AsyncGenerator<T> {
  try {
    yield first;
    yield* { [Symbol.asyncIterator]: () => rest };
  } finally {
    await rest.return?.(); // the walk may end before `rest` has begun
  }
}

/** @throws ImageError "too-large" */
export function checkSize(width: number, height: number, limit: number, rows = Number.POSITIVE_INFINITY): void {
  if (width * height > limit) {
    throw new ImageError("too-large", `image too large: expected at most ${limit} pixels, got ${width} × ${height}`);
  }
  if (height > rows) {
    throw new ImageError("too-large", `image too tall: expected at most ${rows} rows, got ${width} × ${height}`);
  }
}
