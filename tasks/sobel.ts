/**
 * Sobel: the magnitude of the gradient with the 3 × 3 kernels of Sobel and Feldman (1968),
 * min(255, round(√(gx² + gy²))), edges mirrored without repeating the edge pixel. The loop itself is in kernel.ts.
 *
 * Pixel for pixel OpenCV's `convertScaleAbs(magnitude(…))` of `Sobel(grey, CV_64F, …, ksize=3)`.
 */
import { kernel } from "../kernel.ts";
import { Scratch } from "../scratch.ts";
import { pictureTask } from "../task.ts";

const memory = new Scratch();

export const task = pictureTask({
  name: "sobel",
  description: "Edges: the magnitude of the 3 × 3 Sobel gradient",
  halo: 1,
  run({ pixels, width, rows }) {
    const edges = memory.take(rows * width);
    kernel.sobel(pixels, width, rows, edges);
    return edges;
  },
});
