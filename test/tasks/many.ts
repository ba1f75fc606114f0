// A list of small pieces. Each takes `ms`; the sum of all is n(n − 1)/2, and `order` is false if they were merged out of order.
import { listTask } from "../../task.ts";

export const task = listTask({
  name: "many",
  params: {
    n: { type: "integer", minimum: 0, default: 1000 },
    ms: { type: "integer", minimum: 0, default: 0 },
    enough: { type: "integer", minimum: -1, default: -1 },
    fail: { type: "integer", minimum: -1, default: -1 },
  },
  *pieces({ n, fail }) {
    for (let i = 0; i < n; i++) {
      if (i === fail) throw new Error(`piece ${i} cannot be made`);
      yield i;
    }
  },
  async run(i, { ms }) {
    if (ms > 0) await new Promise((wake) => setTimeout(wake, ms));
    return { sum: i, from: i, to: i + 1, order: true };
  },
  merge: (a, b) => ({ sum: a.sum + b.sum, from: a.from, to: b.to, order: a.order && b.order && a.to === b.from }),
  isDecided: ({ to }, { enough }) => to === enough,
  finish: ({ sum, from, to, order }) => ({ sum, from, to, order }),
});
