/**
 * Median filter: each pixel becomes the median of the square around it, several times over. This task is slow enough to
 * show the speed-up with more workers: a pixel costs about `4 × radius × times` steps.
 *
 * Equal to OpenCV's `medianBlur` on a picture that is reflected at its edges (BORDER_REFLECT_101), pixel for pixel.
 *
 * Huang, Yang and Tang (1979): the histogram of the square moves along the row, one column out and one in, and the
 * median moves with it.
 */
import { reflectedColumns } from "../chunk.ts";
import { pictureTask } from "../task.ts";

export const task = pictureTask({
  name: "median",
  description: "Median filter, repeated: real work for every pixel",
  params: {
    radius: {
      type: "integer",
      minimum: 1,
      maximum: 32,
      default: 8,
      description: "half the side of the square, in pixels",
    },
    times: { type: "integer", minimum: 1, maximum: 8, default: 3, description: "how often the filter is applied" },
  },
  halo: ({ radius, times }) => radius * times,
  run({ pixels, width, rows, halo }, { radius, times }) {
    // Stored column by column: the columns that leave and enter the histogram are then contiguous.
    let height = rows + 2 * halo;
    let columns = transposed(pixels, width, height);
    for (let i = 0; i < times; i++) {
      columns = filtered(columns, width, height, radius);
      height -= 2 * radius;
    }
    return transposed(columns, height, width);
  },
});

/**
 * @param columns `width` columns of `height` pixels
 * @returns `width` columns of `height − 2 × radius` pixels
 */
function filtered(columns: Uint8Array, width: number, height: number, radius: number): Uint8Array {
  const side = 2 * radius + 1;
  const half = (side * side) >> 1;
  const starts = Array.from(reflectedColumns(width, radius), (column) => column * height);
  const out = new Uint8Array(width * (height - 2 * radius));
  const counts = new Int32Array(256);
  for (let y = 0; y < height - 2 * radius; y++) {
    counts.fill(0);
    for (let x = 0; x < side; x++) {
      for (let at = starts[x] + y, end = at + side; at < end; at++) counts[columns[at]]++;
    }
    // `below` pixels of the square are darker than `median`.
    let [median, below] = [0, 0];
    for (let x = 0; ; x++) {
      while (below > half) below -= counts[--median];
      while (below + counts[median] <= half) below += counts[median++];
      out[x * (height - 2 * radius) + y] = median;
      if (x === width - 1) break;
      for (let at = starts[x] + y, end = at + side; at < end; at++) {
        const grey = columns[at];
        counts[grey]--;
        if (grey < median) below--;
      }
      for (let at = starts[x + side] + y, end = at + side; at < end; at++) {
        const grey = columns[at];
        counts[grey]++;
        if (grey < median) below++;
      }
    }
  }
  return out;
}

/** @param pixels `height` rows of `width` pixels @returns `width` rows of `height` pixels */
function transposed(pixels: Uint8Array, width: number, height: number): Uint8Array {
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) out[x * height + y] = pixels[y * width + x];
  }
  return out;
}
