/**
 * Contrast stretching: the darkest grey of the picture becomes black, the brightest white. Such a job has two steps:
 * both greys are parameters that the first step finds, unless they are given.
 *
 * Equal to OpenCV's `normalize(grey, None, 0, 255, NORM_MINMAX)`: scale and shift in single precision, halves rounded
 * to even.
 */
import { pictureTask } from "../task.ts";
import { roundHalfEven } from "./equalize.ts";
import { task as histogram } from "./histogram.ts";

export const task = pictureTask({
  name: "stretch",
  description: "More contrast: from black to white",
  halo: 0,
  params: {
    low: { type: "integer", minimum: 0, maximum: 255, description: "becomes black; empty: the darkest grey" },
    high: { type: "integer", minimum: 0, maximum: 255, description: "becomes white; empty: the brightest grey" },
  },
  first: {
    params: ["low", "high"],
    task: histogram,
    find(data) {
      const counts = data as number[];
      return { low: counts.findIndex((count) => count > 0), high: counts.findLastIndex((count) => count > 0) };
    },
  },
  run({ pixels }, { low = 0, high = 255 }) {
    const exact = high > low ? 255 / (high - low) : 0;
    const [scale, shift] = [Math.fround(exact), Math.fround(-low * exact)];
    const grey = Uint8ClampedArray.from({ length: 256 }, (_, old) => roundHalfEven(Math.fround(old * scale + shift)));
    return pixels.map((old) => grey[old]);
  },
});
