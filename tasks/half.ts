/** Half the width and half the height: a pixel is the mean of four, as OpenCV's `resize` with `INTER_AREA`. */
import { pictureTask } from "../task.ts";
import { meansOf } from "./thumbnail.ts";

export const task = pictureTask({
  name: "half",
  description: "Half the width and half the height, in colour",
  channels: 3,
  halo: 0,
  shrink: 2,
  run: ({ pixels, width, rows }) => meansOf(pixels, width, rows, 2),
});
