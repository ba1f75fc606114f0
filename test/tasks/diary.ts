// A task that takes 300 ms, or DIARY_MS, for each band, and writes when it begins and ends to the file DIARY.
import { appendFileSync } from "node:fs";
import process from "node:process";
import type { Task } from "../../task.ts";

export const task: Task = {
  name: "diary",
  halo: 0,
  run({ pixels }) {
    const file = process.env.DIARY!;
    appendFileSync(file, `begin ${pixels[0]}\n`);
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Number(process.env.DIARY_MS ?? 300));
    appendFileSync(file, `end ${pixels[0]}\n`);
    return pixels.slice();
  },
};
