/** The negative: each sample becomes 255 less itself, as OpenCV's `bitwise_not`. */
import { pictureTask } from "../task.ts";

export const task = pictureTask({
  name: "invert",
  description: "The negative, in colour",
  channels: 3,
  halo: 0,
  run({ pixels }) {
    for (let i = 0; i < pixels.length; i++) pixels[i] ^= 255;
    return pixels;
  },
});
