// A task that takes `ms` for each band.
import { pictureTask } from "../../task.ts";

export const task = pictureTask({
  name: "slow",
  halo: 0,
  params: { ms: { type: "integer", minimum: 0, default: 0 } },
  run({ pixels }, { ms }) {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
    return pixels;
  },
});
