// A task that throws after it has returned, from a timer and from a promise.
import type { Task } from "../../task.ts";

export const task: Task = {
  name: "late",
  halo: 0,
  run({ pixels }) {
    setTimeout(() => {
      throw new Error("thrown by a timer");
    }, 20);
    Promise.resolve().then(() => {
      throw new Error("thrown by a promise");
    });
    return pixels.slice();
  },
};
