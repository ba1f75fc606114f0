/**
 * Threshold: white above a level, black up to it. The default is Otsu's level, which needs the histogram of the whole
 * picture before the first pixel is written. So such a job has two steps.
 *
 * Otsu (1979): the level that divides the greys into two classes with the greatest variance between them, q1 · q2 ·
 * (mean1 − mean2)². Of several, the lowest. In doubles and in OpenCV's order, so that the level equals that of
 * `threshold(grey, 0, 255, THRESH_BINARY | THRESH_OTSU)`.
 */
import { pictureTask } from "../task.ts";
import { task as histogram } from "./histogram.ts";

/** OpenCV ignores a class with a smaller share of the picture (2⁻²³, a float's epsilon). */
const MIN_SHARE = 2 ** -23;

export const task = pictureTask({
  name: "threshold",
  description: "Black and white: white above a level, by default Otsu's of the whole picture",
  halo: 0,
  params: {
    level: { type: "integer", minimum: 0, maximum: 255, description: "white above this grey; empty: Otsu's level" },
  },
  first: { params: ["level"], task: histogram, find: (counts) => ({ level: otsu(counts as number[]) }) },
  run({ pixels }, { level }) {
    const white = level!;
    const out = new Uint8Array(pixels.length);
    for (let i = 0; i < out.length; i++) out[i] = pixels[i] > white ? 255 : 0;
    return out;
  },
});

/** @param counts how often each grey occurs */
function otsu(counts: number[]): number {
  const scale = 1 / counts.reduce((sum, count) => sum + count, 0);
  const mean = counts.reduce((sum, count, grey) => sum + grey * count, 0) * scale;
  let [share1, mean1, best, level] = [0, 0, 0, 0];
  for (let grey = 0; grey < 256; grey++) {
    const share = counts[grey] * scale;
    mean1 *= share1;
    share1 += share;
    const share2 = 1 - share1;
    if (Math.min(share1, share2) < MIN_SHARE || Math.max(share1, share2) > 1 - MIN_SHARE) continue;
    mean1 = (mean1 + grey * share) / share1;
    const mean2 = (mean - share1 * mean1) / share2;
    const between = share1 * share2 * (mean1 - mean2) * (mean1 - mean2);
    if (between > best) [best, level] = [between, grey];
  }
  return level;
}
