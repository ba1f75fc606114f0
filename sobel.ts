/**
 * Sobel: the magnitude of the gradient of a grey picture. This is what the project computes.
 *
 *     gx = −1 0 1     gy = −1 −2 −1     edge = min(255, round(√(gx² + gy²)))
 *          −2 0 2           0  0  0
 *          −1 0 1           1  2  1
 *
 * `task` is what workers run, one band at a time, with a halo of one row above and below. `sobel` is the loop in its
 * simplest form. The SIMD kernel (picture/kernel/) does the same in a tenth of the time, and the tests compare the two.
 * The pixels are those of OpenCV's `convertScaleAbs(magnitude(…))` of `Sobel(grey, CV_64F, …, ksize=3)`.
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
    // `kernel.sobel` is missing only in an engine without WebAssembly SIMD.
    (kernel.sobel ?? sobel)(pixels, width, rows, edges);
    return edges;
  },
});

/**
 * Computes the edges of a band. It mirrors the left and right edges of the picture (BORDER_REFLECT_101).
 * @param band `(rows + 2) × width` pixels, 8-bit grey, row-major: the rows, and one halo row above and below
 * @param edges `rows × width` pixels, overwritten
 */
export function sobel(band: Uint8Array, width: number, rows: number, edges: Uint8Array): void {
  expectSobel(band, width, rows, edges);
  for (let y = 0; y < rows; y++) {
    const above = band.subarray(y * width, (y + 1) * width);
    const row = band.subarray((y + 1) * width, (y + 2) * width);
    const below = band.subarray((y + 2) * width, (y + 3) * width);
    for (let x = 0; x < width; x++) {
      // Beyond an edge, the neighbour on the other side is read. A single column is its own neighbour.
      const left = x > 0 ? x - 1 : Math.min(1, width - 1);
      const right = x < width - 1 ? x + 1 : Math.max(0, width - 2);
      const gx = above[right] + 2 * row[right] + below[right] - above[left] - 2 * row[left] - below[left];
      const gy = below[left] + 2 * below[x] + below[right] - above[left] - 2 * above[x] - above[right];
      // The root of an integer is never k + ½, because k² + k + ¼ is not an integer. So there are no ties to round.
      edges[y * width + x] = Math.min(255, Math.round(Math.sqrt(gx * gx + gy * gy)));
    }
  }
}

// Loaded here and not at the top, because it imports this file.
if (import.meta.main) import("./cli/local.ts").then(({ main }) => main(process.argv.slice(2)));
