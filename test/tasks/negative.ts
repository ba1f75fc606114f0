// The smallest task: no halo, no parameters.
import type { Task } from "../../task.ts";

export const task: Task = {
  name: "negative",
  halo: 0,
  run: ({ pixels }) => pixels.map((grey) => 255 - grey),
};
