/**
 * Why RabbitMQ or Redis cannot be used: as a code for programs, and as a sentence for people.
 *
 * Not here: how the reason is found (queue.ts, redis/connection.ts), how it is shown (health.ts, http/lights.ts).
 */

/** Why a backend cannot be used, as a code. */
export type TroubleCode =
  | "unreachable" // no connection
  | "login" // it refuses the user or the password
  | "vhost" // RabbitMQ has no such virtual host, or refuses it to the user
  | "rights" // the user may not do what is needed
  | "silent" // it is connected but does not answer
  | "blocked" // it is short of memory or disk, and accepts no writes
  | "starting" // it is loading its data
  | "version"; // it is too old

export interface Trouble {
  code: TroubleCode;
  /** The same reason as a sentence. */
  detail: string;
}

/** A backend cannot be used. `code` has the reason. */
export class UnavailableError extends Error {
  override name = "UnavailableError";
  constructor(
    readonly code: TroubleCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}
