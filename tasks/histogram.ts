/**
 * How often each grey occurs: 256 counts. A task that returns data, and the first step of threshold.ts.
 *
 * Equal to OpenCV's `calcHist([grey], [0], None, [256], [0, 256])`.
 */
import { dataTask } from "../task.ts";

export const histogram = dataTask({
  name: "histogram",
  description: "How often each of the 256 greys occurs",
  halo: 0,
  run({ pixels }) {
    const counts = new Array<number>(256).fill(0);
    for (const grey of pixels) counts[grey]++;
    return counts;
  },
  merge: (upper, lower) => upper.map((count, grey) => count + lower[grey]),
});
