/**
 * Scharr: the magnitude of the gradient with weights 3, 10, 3 (Scharr 2000), which keep directions better than Sobel's;
 * min(255, round(√(gx² + gy²))), edges mirrored without repeating the edge pixel.
 *
 * Pixel for pixel OpenCV's `convertScaleAbs(magnitude(…))` of `Scharr(grey, CV_64F, …)`.
 */
import { reflect101 } from "../chunk.ts";
import { pictureTask } from "../task.ts";

export const scharr = pictureTask({
  name: "scharr",
  description: "Edges: the magnitude of the 3 × 3 Scharr gradient",
  halo: 1,
  run({ pixels, width, rows }) {
    const edges = new Uint8Array(rows * width);
    for (let y = 0; y < rows; y++) {
      const above = y * width;
      const [row, below] = [above + width, above + 2 * width];
      for (let x = 0; x < width; x++) {
        const left = reflect101(x - 1, width);
        const right = reflect101(x + 1, width);
        const [a, b, c] = [pixels[above + left], pixels[above + x], pixels[above + right]];
        const [d, f] = [pixels[row + left], pixels[row + right]];
        const [g, h, i] = [pixels[below + left], pixels[below + x], pixels[below + right]];
        const gx = 3 * (c - a + i - g) + 10 * (f - d);
        const gy = 3 * (g - a + i - c) + 10 * (h - b);
        edges[above + x] = Math.min(255, Math.round(Math.sqrt(gx * gx + gy * gy)));
      }
    }
    return edges;
  },
});
