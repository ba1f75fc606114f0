/**
 * The result of a third-party worker: a band in any picture format, with or without its halo.
 *
 * Not here: results of this project's workers, which are stitched without being decoded (png-write.ts).
 */
import { MAX_HALO } from "../task.ts";
import { type Channels, collectPixels, ImageError, onePiece } from "./picture.ts";
import { readImage } from "./read.ts";

/** What a band's result must have. */
export interface BandForm {
  width: number;
  rows: number;
  channels: Channels;
}

/**
 * The pixels of a band. Half of the surplus rows are cut off above, and half below.
 * @returns `rows × width` pixels
 * @throws ImageError if it is not a picture, or not of the band's size
 */
export async function pixelsOf(picture: Uint8Array, { width, rows, channels }: BandForm): Promise<Uint8Array> {
  const limit = width * (rows + 2 * MAX_HALO);
  const image = await readImage(onePiece(picture), { streamed: limit, whole: limit }, undefined, channels);
  const surplus = image.height - rows;
  if (image.width !== width || surplus < 0 || surplus % 2 !== 0) {
    const got = `${image.width} × ${image.height}`;
    throw new ImageError("corrupt", `expected ${width} × ${rows} pixels, got ${got}`);
  }
  const pixels = await collectPixels(image);
  const above = (surplus / 2) * width * channels;
  return pixels.subarray(above, above + rows * width * channels);
}
