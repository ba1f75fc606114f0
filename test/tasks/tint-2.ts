// The second version of a task of which there are two: other pixels, another queue.
import type { Task } from "../../task.ts";

export const task: Task = { name: "tint", version: 2, halo: 0, run: ({ pixels }) => pixels.map((grey) => grey ^ 2) };
