// A task with two versions: this is the first.
import type { Task } from "../../task.ts";

export const task: Task = { name: "tint", halo: 0, run: ({ pixels }) => pixels.map((grey) => grey ^ 1) };
