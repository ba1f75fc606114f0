// A task that kills its worker, as one does that runs out of memory.
import process from "node:process";
import type { Task } from "../../task.ts";

export const task: Task = {
  name: "killer",
  halo: 0,
  run({ pixels }) {
    process.kill(process.pid, "SIGKILL");
    return pixels.slice();
  },
};
