// A task that never ends.
import type { Task } from "../../task.ts";

export const task: Task = {
  name: "endless",
  halo: 0,
  run() {
    for (;;);
  },
};
