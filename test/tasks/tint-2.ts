// A task with two versions: this is the second, with other pixels and another queue.
import type { Task } from "../../task.ts";

export const task: Task = { name: "tint", version: 2, halo: 0, run: ({ pixels }) => pixels.map((grey) => grey ^ 2) };
