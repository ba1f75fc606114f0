// A task that throws, whatever it is given.
import type { Task } from "../../task.ts";

export const task: Task = {
  name: "throws",
  halo: 0,
  run() {
    throw new Error("this task is ill");
  },
};
