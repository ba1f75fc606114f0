/**
 * The brown of old photographs: each colour is a weighted sum of all three. In 1024ths, half rounded up, as OpenCV's
 * `transform` does it in fixed point.
 */
import { pictureTask } from "../task.ts";

export const task = pictureTask({
  name: "sepia",
  description: "The brown of old photographs",
  channels: 3,
  halo: 0,
  run({ pixels }) {
    for (let i = 0; i < pixels.length; i += 3) {
      const r = pixels[i];
      const g = pixels[i + 1];
      const b = pixels[i + 2];
      pixels[i] = Math.min(255, (402 * r + 787 * g + 194 * b + 512) >> 10);
      pixels[i + 1] = Math.min(255, (357 * r + 702 * g + 172 * b + 512) >> 10);
      pixels[i + 2] = Math.min(255, (279 * r + 547 * g + 134 * b + 512) >> 10);
    }
    return pixels;
  },
});
