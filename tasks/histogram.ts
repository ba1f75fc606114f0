/**
 * The histogram: how often each of the 256 greys occurs. A data task, and the first step of others.
 *
 * Equal to OpenCV's `calcHist([grey], [0], None, [256], [0, 256])`.
 */
import { dataTask } from "../task.ts";

export const task = dataTask({
  name: "histogram",
  description: "How often each of the 256 greys occurs",
  halo: 0,
  run({ pixels }) {
    const counts = new Uint32Array(256);
    for (let i = 0; i < pixels.length; i++) counts[pixels[i]]++;
    return [...counts];
  },
  merge: (upper, lower) => upper.map((count, grey) => count + lower[grey]),
});
