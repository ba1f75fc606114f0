/**
 * The system as it is now: the mode, what a class may do, and a light each for RabbitMQ and Redis. Asked every second while
 * the page is visible; the event streams report a change at once.
 *
 * Not here: the workers (server.js), what is shown (pipeline.js).
 */
import { ask } from "./server.js";

const POLL_MS = 1_000;
const ANSWER_MS = 6_000;

/** @typedef {{ up: boolean, since: number, code: string | null, detail: string | null }} Light */
/** @typedef {{ rabbitmq: Light, redis: Light }} Lights */

/** `backends` is null in the embedded mode and until the server has answered; `silent`: it does not answer. */
export const system = {
  /** @type {"embedded" | "distributed" | null} */ mode: null,
  /** @type {Lights | null} */ backends: null,
  classroom: { control: false, wall: false, inside: false },
  silent: false,
};

/** Called on every change of `system`. */
export const onSystem = new Set(/** @type {(() => void)[]} */ ([]));

/** @param {Partial<typeof system>} news */
function change(news) {
  const before = JSON.stringify(system);
  Object.assign(system, news);
  if (JSON.stringify(system) !== before) for (const listener of onSystem) listener();
}

/** The event `backends` of a stream. @param {Lights} backends */
export function hearLights(backends) {
  change({ backends });
}

/** Never returns. */
export async function watchSystem() {
  for (;;) {
    if (!document.hidden || system.mode === null) await look();
    await new Promise((wake) => setTimeout(wake, POLL_MS));
  }
}

async function look() {
  try {
    const answer = await ask("/state", { signal: AbortSignal.timeout(ANSWER_MS) });
    const { mode, backends, classroom } = await answer.json();
    change({ mode, backends, classroom, silent: false });
  } catch {
    change({ silent: true });
  }
}
