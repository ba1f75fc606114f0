/**
 * Gaussian blur in fixed point. The weights are multiples of 1/256, so every sum is exact, in any order.
 *
 * Equal to OpenCV's `GaussianBlur(grey, (0, 0), sigma)` for 8-bit pictures, pixel for pixel. OpenCV has about 6 σ + 1
 * weights. The rounding error of each is added to the next, and the middle one is what remains of 256.
 */
import { reflectedColumns } from "../chunk.ts";
import { pictureTask } from "../task.ts";

export const task = pictureTask({
  name: "blur",
  description: "Gaussian blur",
  params: {
    sigma: { type: "number", minimum: 0.1, maximum: 50, default: 2, description: "standard deviation, in pixels" },
  },
  halo: ({ sigma }) => radiusOf(sigma),
  run({ pixels, width, rows, halo }, { sigma }) {
    const weights = weightsOf(sigma);
    // Columns first: the rows then need no halo.
    const sums = new Int32Array(width);
    const columns = reflectedColumns(width, halo);
    const padded = new Int32Array(columns.length);
    const out = new Uint8Array(rows * width);
    for (let y = 0; y < rows; y++) {
      sums.fill(0);
      for (let k = 0; k < weights.length; k++) {
        const weight = weights[k];
        const row = pixels.subarray((y + k) * width, (y + k + 1) * width);
        for (let x = 0; x < width; x++) sums[x] += weight * row[x];
      }
      for (let i = 0; i < padded.length; i++) padded[i] = sums[columns[i]];
      sums.fill(1 << 15); // half of 256 × 256, so that the shift below rounds
      for (let k = 0; k < weights.length; k++) {
        const weight = weights[k];
        for (let x = 0; x < width; x++) sums[x] += weight * padded[x + k];
      }
      for (let x = 0; x < width; x++) out[y * width + x] = sums[x] >>> 16;
    }
    return out;
  },
});

/** The number of weights on either side of the middle one. */
function radiusOf(sigma: number): number {
  // OpenCV's size is round(6 σ + 1), plus 1 if that is even. A half is rounded to the even number.
  const size = 6 * sigma + 1;
  const rounded = size % 1 === 0.5 ? 2 * Math.round(size / 2) : Math.round(size);
  return rounded >> 1;
}

/** `2 × radius + 1` whole numbers. Their sum is 256. */
function weightsOf(sigma: number): Int32Array {
  const radius = radiusOf(sigma);
  const bell = Array.from({ length: radius }, (_, i) => Math.exp((-0.5 * (radius - i) ** 2) / (sigma * sigma)));
  const whole = 2 * bell.reduce((sum, value) => sum + value, 0) + 1;
  const weights = new Int32Array(2 * radius + 1);
  let [rest, error] = [256, 0];
  for (const [i, value] of bell.entries()) {
    const exact = (value / whole) * 256 + error;
    const weight = Math.round(exact);
    error = exact - weight;
    weights[i] = weights[2 * radius - i] = weight;
    rest -= 2 * weight;
  }
  weights[radius] = rest;
  return weights;
}
