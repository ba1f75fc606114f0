/**
 * Scharr: the magnitude of the gradient, min(255, round(√(gx² + gy²))). The weights 3, 10, 3 (Scharr 2000) preserve its
 * direction better than Sobel's. The edges are mirrored without repeating the edge pixel.
 *
 * Equal to OpenCV's `convertScaleAbs(magnitude(…))` of `Scharr(grey, CV_64F, …)`, pixel for pixel.
 */
import { reflectedColumns } from "../chunk.ts";
import { pictureTask } from "../task.ts";

/** The smallest square whose root is rounded to 255. From here on, no root is needed. */
const SATURATED = 64_771;

export const task = pictureTask({
  name: "scharr",
  description: "Edges: the magnitude of the 3 × 3 Scharr gradient",
  halo: 1,
  run({ pixels, width, rows }) {
    const edges = new Uint8Array(rows * width);
    const columns = reflectedColumns(width, 1);
    for (let y = 0; y < rows; y++) {
      const above = y * width;
      const row = above + width;
      const below = row + width;
      for (let x = 0; x < width; x++) {
        const left = columns[x];
        const right = columns[x + 2];
        // Both gradients use the two diagonal differences.
        const down = pixels[below + right] - pixels[above + left];
        const up = pixels[above + right] - pixels[below + left];
        const gx = 3 * (down + up) + 10 * (pixels[row + right] - pixels[row + left]);
        const gy = 3 * (down - up) + 10 * (pixels[below + x] - pixels[above + x]);
        const square = gx * gx + gy * gy;
        edges[above + x] = square < SATURATED ? Math.sqrt(square) + 0.5 : 255;
      }
    }
    return edges;
  },
});
