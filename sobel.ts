/**
 * Sobel: the magnitude of the gradient of a grey picture. This is what the project computes.
 *
 *     gx = −1 0 1     gy = −1 −2 −1     edge = min(255, round(√(gx² + gy²)))
 *          −2 0 2           0  0  0
 *          −1 0 1           1  2  1
 *
 * `task` is what workers run, one band at a time, with a halo of one row above and below. `sobel` is its loop, as one would
 * write it down; the SIMD kernel (picture/kernel/) does the same in a tenth of the time, and the tests hold it against
 * this one. Pixel for pixel OpenCV's `convertScaleAbs(magnitude(…))` of `Sobel(grey, CV_64F, …, ksize=3)`.
 *
 *     bun run sobel.ts in.jpg out.png        one picture on one machine, without a queue (cli/local.ts)
 *
 * Source: I. Sobel, G. Feldman, "A 3x3 Isotropic Gradient Operator for Image Processing" (1968).
 */
import process from "node:process";
import { Scratch } from "./picture/buffers.ts";
import { expectSobel, kernel } from "./picture/kernel/kernel.ts";
import { pictureTask } from "./task.ts";

const memory = new Scratch();

export const task = pictureTask({
  name: "sobel",
  description: "Edges: the magnitude of the 3 × 3 Sobel gradient",
  halo: 1,
  run({ pixels, width, rows }) {
    const edges = memory.take(rows * width);
    // Only an engine without WebAssembly SIMD has no kernel for it.
    (kernel.sobel ?? sobel)(pixels, width, rows, edges);
    return edges;
  },
});

/**
 * @param band `(rows + 2) × width` pixels, 8-bit grey, row-major: the rows and one halo row on either side. The halo rows
 *   hold what lies above and below; left and right edges are mirrored here (BORDER_REFLECT_101)
 * @param edges `rows × width` pixels, written over
 */
export function sobel(band: Uint8Array, width: number, rows: number, edges: Uint8Array): void {
  expectSobel(band, width, rows, edges);
  for (let y = 0; y < rows; y++) {
    const above = band.subarray(y * width, (y + 1) * width);
    const row = band.subarray((y + 1) * width, (y + 2) * width);
    const below = band.subarray((y + 2) * width, (y + 3) * width);
    for (let x = 0; x < width; x++) {
      // The neighbour beyond an edge is the one before it; a single column is its own neighbour.
      const left = x > 0 ? x - 1 : Math.min(1, width - 1);
      const right = x < width - 1 ? x + 1 : Math.max(0, width - 2);
      const gx = above[right] + 2 * row[right] + below[right] - above[left] - 2 * row[left] - below[left];
      const gy = below[left] + 2 * below[x] + below[right] - above[left] - 2 * above[x] - above[right];
      // A root never falls on a half (k² + k + ¼ is no integer), so the direction of rounding does not matter.
      edges[y * width + x] = Math.min(255, Math.round(Math.sqrt(gx * gx + gy * gy)));
    }
  }
}

// Loaded here and not above: it imports this file.
if (import.meta.main) import("./cli/local.ts").then(({ main }) => main(process.argv.slice(2)));
