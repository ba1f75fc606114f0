// A task that always throws, at once or after THROWS_MS.
import process from "node:process";
import type { Task } from "../../task.ts";

export const task: Task = {
  name: "throws",
  halo: 0,
  run() {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Number(process.env.THROWS_MS ?? 0));
    throw new Error("this task is ill");
  },
};
