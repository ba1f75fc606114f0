/**
 * Histogram equalization: spreads the greys so that each is about as frequent as any other. It needs the histogram of
 * the whole picture, so such a job has two steps. The table of new greys is a parameter that the first step finds.
 *
 * Equal to OpenCV's `equalizeHist(grey)`: with a scale of single precision, and halves rounded to even.
 */
import { pictureTask } from "../task.ts";
import { task as histogram } from "./histogram.ts";

export const task = pictureTask({
  name: "equalize",
  description: "More contrast: the greys are spread evenly (histogram equalization)",
  halo: 0,
  params: {
    table: {
      type: "array",
      items: { type: "integer", minimum: 0, maximum: 255 },
      minItems: 256,
      maxItems: 256,
      hidden: true,
    },
  },
  first: { params: ["table"], task: histogram, find: (counts) => ({ table: tableOf(counts as number[]) }) },
  run({ pixels }, { table }) {
    const grey = Uint8Array.from(table!);
    return pixels.map((old) => grey[old]);
  },
});

/** The new grey for each grey. @param counts how often each occurs */
function tableOf(counts: number[]): number[] {
  const total = counts.reduce((sum, count) => sum + count, 0);
  const darkest = counts.findIndex((count) => count > 0);
  const others = total - counts[darkest];
  if (others === 0) return counts.map(() => darkest);
  const scale = Math.fround(255 / Math.fround(others));
  let sum = 0;
  return counts.map((count, grey) => {
    if (grey > darkest) sum += count;
    return Math.min(255, roundHalfEven(Math.fround(Math.fround(sum) * scale)));
  });
}

export function roundHalfEven(value: number): number {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
