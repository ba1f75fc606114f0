/**
 * A small picture: a pixel is the mean of a square, as OpenCV's `resize` with `INTER_AREA` and a whole factor. At the
 * right and lower edge, a square may have fewer pixels.
 */
import { pictureTask } from "../task.ts";

const CHANNELS = 3;

export const task = pictureTask({
  name: "thumbnail",
  description: "A small picture, in colour",
  channels: CHANNELS,
  halo: 0,
  params: {
    factor: {
      type: "integer",
      minimum: 2,
      maximum: 64,
      default: 8,
      description: "how many times smaller each side is",
    },
  },
  shrink: ({ factor }) => factor,
  run: ({ pixels, width, rows }, { factor }) => meansOf(pixels, width, rows, factor),
});

/** The means of squares of `by × by` pixels of RGB: `⌈width / by⌉ × ⌈rows / by⌉` of them. */
export function meansOf(pixels: Uint8Array, width: number, rows: number, by: number): Uint8Array {
  const columns = Math.ceil(width / by);
  const made = new Uint8Array(Math.ceil(rows / by) * columns * CHANNELS);
  const sums = new Int32Array(columns * CHANNELS);
  for (let top = 0, to = 0; top < rows; top += by) {
    const height = Math.min(by, rows - top);
    sums.fill(0);
    for (let y = top; y < top + height; y++) {
      let at = y * width * CHANNELS;
      for (let column = 0, x = 0; column < sums.length; column += CHANNELS, x += by) {
        for (const end = at + Math.min(by, width - x) * CHANNELS; at < end; at += CHANNELS) {
          sums[column] += pixels[at];
          sums[column + 1] += pixels[at + 1];
          sums[column + 2] += pixels[at + 2];
        }
      }
    }
    for (let i = 0; i < sums.length; i++) {
      const count = height * Math.min(by, width - Math.floor(i / CHANNELS) * by);
      made[to++] = mean(sums[i], count, by);
    }
  }
  return made;
}

/** OpenCV's rounding: of four pixels a half goes up; otherwise in 32-bit floats, a half to the even number. */
function mean(sum: number, count: number, by: number): number {
  if (by === 2 && count === 4) return (sum + 2) >> 2;
  const exact = count === by * by ? Math.fround(sum * Math.fround(1 / count)) : Math.fround(sum / count);
  return exact % 1 === 0.5 ? 2 * Math.round(exact / 2) : Math.round(exact);
}
