/**
 * The result of a third-party worker: a band in any picture format, with or without its halo.
 *
 * Not here: results of this project's workers, which are stitched without being decoded (png-write.ts).
 */
import { MAX_HALO } from "../task.ts";
import { convert } from "./colour.ts";
import { type Channels, checkSize, collectPixels, ImageError, onePiece, type Raster } from "./picture.ts";
import { readImage } from "./read.ts";

/** Header of a PGM or PPM with 8-bit samples. Its numbers may be separated by comments. */
const PNM = /^P([56])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+255\s/;
const MAX_PNM_HEADER_BYTES = 512;

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
  const limits = { streamed: limit, whole: limit };
  const image = readPnm(picture, limit, channels) ?? (await readImage(onePiece(picture), limits, undefined, channels));
  const surplus = image.height - rows;
  if (image.width !== width || surplus < 0 || surplus % 2 !== 0) {
    const got = `${image.width} × ${image.height}`;
    throw new ImageError("corrupt", `expected ${width} × ${rows} pixels, got ${got}`);
  }
  const pixels = await collectPixels(image);
  const above = (surplus / 2) * width * channels;
  return pixels.subarray(above, above + rows * width * channels);
}

/**
 * A PGM or PPM with 8-bit samples, as OpenCV, netpbm and Go programs write it: a worker need not compress.
 * @returns undefined if the bytes begin otherwise
 * @throws ImageError if it has more pixels than `limit`, or more or fewer samples than its header says
 * Source: https://netpbm.sourceforge.net/doc/pgm.html
 */
function readPnm(picture: Uint8Array, limit: number, channels: Channels): Raster | undefined {
  const head = PNM.exec(String.fromCharCode(...picture.subarray(0, MAX_PNM_HEADER_BYTES)));
  if (!head) return undefined;
  const [width, height] = [Number(head[2]), Number(head[3])];
  checkSize(width, height, limit);
  const from = head[1] === "5" ? 1 : 3;
  const samples = picture.subarray(head[0].length);
  const expected = width * height * from;
  if (samples.length !== expected)
    throw new ImageError("corrupt", `expected ${expected} bytes of pixels, got ${samples.length}`);
  const pixels = new Uint8Array(width * height * channels);
  convert(samples, from, pixels, channels);
  return { width, height, channels, blocks: onePiece(pixels) };
}
