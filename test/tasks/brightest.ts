// A task with a first step that no file exports: it divides by the brightest grey of the whole picture.
import { dataTask, pictureTask } from "../../task.ts";

const peak = dataTask({
  name: "peak",
  halo: 0,
  run: ({ pixels }) => pixels.reduce((most, grey) => Math.max(most, grey), 1),
  merge: (a: number, b: number) => Math.max(a, b),
});

export const task = pictureTask({
  name: "brightest",
  halo: 0,
  params: { peak: { type: "integer", minimum: 1, maximum: 255 } },
  first: { params: ["peak"], task: peak, find: (found) => ({ peak: found as number }) },
  run: ({ pixels }, { peak }) => pixels.map((grey) => Math.floor((grey * 255) / peak!)),
});
