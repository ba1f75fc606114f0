// The first version of a task of which there are two.
import type { Task } from "../../task.ts";

export const task: Task = { name: "tint", halo: 0, run: ({ pixels }) => pixels.map((grey) => grey ^ 1) };
