/**
 * What a look inside the queue and the store shows: waiting messages, dead letters and keys.
 *
 * Not here: who may look (http/inside.ts), how it is read (amqp/letters.ts, results.ts).
 */

/** A message as it waits in a queue. */
export interface Peeked {
  /** Its chunk's id. */
  id: string;
  headers: Record<string, unknown>;
  body: Uint8Array;
}

/** A dead letter. `outcome`: after it was put back, a remark for the user; empty if there is none. */
export interface Letter {
  /** Its chunk's id. */
  id: string;
  /** The queue that it came from. */
  queue: string;
  reason: string;
  outcome?: string;
}

/** A key of a job in the store. `size`: bytes of a string, fields of a hash, entries of a list. `ttl`: seconds. */
export interface StoredKey {
  key: string;
  type: "string" | "hash" | "list";
  size: number;
  ttl: number;
}
