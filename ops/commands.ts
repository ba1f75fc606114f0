/**
 * The commands to a worker, for demonstrations in a class.
 *
 *     pause    it finishes its band and takes no other
 *     resume   it takes bands again
 *     stop     it finishes its band and ends, as at SIGTERM
 *     kill     it ends at once, as at SIGKILL: its band goes back to the queue
 *
 * Invariant: a worker without the setting `CLASSROOM=control` subscribes to no commands.
 *
 * Not here: which clients may send a command (http/classroom.ts).
 */
import type { Results } from "../backends.ts";
import type { Log } from "./log.ts";

export const ACTIONS = ["stop", "pause", "resume", "kill"] as const;
export type Action = (typeof ACTIONS)[number];

/**
 * Subscribes a worker to its commands and runs them.
 * @param life how the worker ends: after its band, or at once
 * @returns a function that unsubscribes
 */
export function runCommands(
  results: Results,
  name: string,
  worker: { pause(paused: boolean): Promise<void> },
  life: { stop(): unknown; kill(): unknown },
  log: Log,
): Promise<() => void> {
  const actions = { ...life, pause: () => worker.pause(true), resume: () => worker.pause(false) };
  return results.onCommand(name, (text) => {
    const action = ACTIONS.find((known) => known === text);
    if (!action) return;
    log.warn("command received", { worker: name, action });
    actions[action]();
  });
}
