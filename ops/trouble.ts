/**
 * Why RabbitMQ or Redis cannot be used: in a word for programs, and in a sentence.
 *
 * Not here: how it is found out (queue.ts, redis/connection.ts), and how it is shown (health.ts, http/lights.ts).
 */

/** Why a backend cannot be used, in a word that programs can compare. */
export type TroubleCode =
  | "unreachable" // no connection
  | "login" // it refuses the user or the password
  | "vhost" // RabbitMQ has no such virtual host, or refuses it to the user
  | "rights" // the user may not do what is needed
  | "silent" // it is connected, and does not answer
  | "blocked" // short of memory or disk, it takes nothing
  | "starting" // it loads its data
  | "version"; // it is too old

export interface Trouble {
  code: TroubleCode;
  /** The same in a sentence. */
  detail: string;
}

/** A backend cannot be used, for this reason. */
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
