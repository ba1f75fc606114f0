// A task that always throws.
import type { Task } from "../../task.ts";

export const task: Task = {
  name: "throws",
  halo: 0,
  run() {
    throw new Error("this task is ill");
  },
};
