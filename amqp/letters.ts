/**
 * Dead letters, and looks into a queue: what waits there, why, and how it is put back.
 *
 * Invariant: a message is acknowledged only after RabbitMQ has its copy in a queue. A look enqueues such a copy.
 * Returning the message instead would count as a delivery, and RabbitMQ removes a message after 20 deliveries.
 *
 * Not here: how a message becomes a dead letter (worker.ts, queue.ts).
 */
import type { ConfirmChannel, GetMessage } from "amqplib";
import type { Results } from "../backends.ts";
import { isChunkId, parseChunkId } from "../chunk.ts";
import type { Letter, Peeked } from "../ops/inside.ts";

export const QUEUE = "tareas";
export const DEAD_LETTERS = "tareas.muertas";

/** What to do with a dead letter: publish it for an attempt, or drop it for a reason. */
type Decision = { attempt: number | undefined } | { drop: string };

/** The message that has waited longest in a queue. The look moves it to the end of the queue. */
export async function peekAt(channel: ConfirmChannel, queue: string): Promise<Peeked | null> {
  const message = await channel.get(queue);
  if (!message) return null;
  const { messageId, headers = {} } = message.properties;
  await enqueueAgain(channel, queue, message, ownHeaders(headers));
  return { id: String(messageId ?? ""), headers: ownHeaders(headers), body: message.content };
}

/** Up to `limit` dead letters, the oldest first. The look moves them to the end of their queue. */
export async function listLetters(channel: ConfirmChannel, limit: number): Promise<Letter[]> {
  return eachLetter(channel, limit, async (message, letter) => {
    await keep(channel, message);
    return letter;
  });
}

/** Puts dead letters back: all, or those of one band. @returns them, each with its outcome */
export async function putBack(channel: ConfirmChannel, results: Results, only: string | null): Promise<Letter[]> {
  const back = new Redrive(channel, results);
  const all = await eachLetter(channel, Number.POSITIVE_INFINITY, async (message, letter) => {
    if (only === null || letter.id === only) return { ...letter, outcome: await back.put(message) };
    await keep(channel, message);
    return null;
  });
  return all.filter((letter) => letter !== null);
}

async function eachLetter<T>(
  channel: ConfirmChannel,
  limit: number,
  step: (message: GetMessage, letter: Letter) => Promise<T>,
): Promise<T[]> {
  const { messageCount } = await channel.checkQueue(DEAD_LETTERS);
  const made: T[] = [];
  while (made.length < Math.min(limit, messageCount)) {
    const message = await channel.get(DEAD_LETTERS);
    if (!message) break;
    made.push(await step(message, letterOf(message)));
  }
  return made;
}

/** Keeps a dead letter, at the end of its queue. */
export function keep(channel: ConfirmChannel, message: GetMessage): Promise<void> {
  const { queue, reason } = letterOf(message);
  const headers = { ...ownHeaders(message.properties.headers ?? {}), "x-queue": queue, "x-reason": reason };
  return enqueueAgain(channel, DEAD_LETTERS, message, headers);
}

/** First the copy, then the acknowledgement: a crash in between leaves both, which is harmless. */
async function enqueueAgain(
  channel: ConfirmChannel,
  queue: string,
  message: GetMessage,
  headers: object,
): Promise<void> {
  const { contentType, messageId } = message.properties;
  channel.sendToQueue(queue, message.content, { persistent: true, contentType, messageId, headers });
  await channel.waitForConfirms();
  channel.ack(message);
}

/** The headers that this project's programs write. */
function ownHeaders(headers: Record<string, unknown>): Record<string, unknown> {
  const own = ["x-sent", "x-attempt", "x-queue", "x-reason"];
  return Object.fromEntries(Object.entries(headers).filter(([name]) => own.includes(name)));
}

/** A worker writes x-queue and x-reason. For a band that the broker itself dead-lettered, x-death has both. */
export function letterOf({ properties: { messageId, headers } }: GetMessage): Letter {
  const [death] = (headers?.["x-death"] ?? []) as { queue: string; reason: string }[];
  return {
    id: String(messageId ?? "(no id)"),
    queue: String(headers?.["x-queue"] ?? death?.queue ?? QUEUE),
    reason: String(headers?.["x-reason"] ?? death?.reason ?? "(no reason)"),
  };
}

/** Puts dead letters back into their queues. A job that has not failed stays as it is. */
export class Redrive {
  readonly #channel: ConfirmChannel;
  readonly #results: Results;
  /** The new attempt of each revived job, by job and earlier attempt: a job may have several dead letters. */
  readonly #revived = new Map<string, number>();
  #returned = false;

  constructor(channel: ConfirmChannel, results: Results) {
    this.#channel = channel;
    this.#results = results;
    channel.on("return", () => {
      this.#returned = true;
    });
  }

  /** Requeues a band, or drops it if it is not needed. @returns why it was not requeued; empty if it was */
  async put(message: GetMessage): Promise<string> {
    const { id, queue } = letterOf(message);
    const decision = await this.#decide(id, message.properties.headers?.["x-attempt"]);
    if ("drop" in decision) {
      this.#channel.ack(message);
      return `${decision.drop}: nothing to put back`;
    }
    const { attempt } = decision;
    const { contentType, messageId } = message.properties;
    this.#returned = false;
    this.#channel.sendToQueue(queue, message.content, {
      persistent: true,
      mandatory: true,
      contentType,
      messageId,
      headers: attempt === undefined ? {} : { "x-attempt": attempt },
    });
    // The broker returns a message before it confirms it.
    await this.#channel.waitForConfirms();
    if (this.#returned) {
      await keep(this.#channel, message);
      return `no queue ${queue}: kept`;
    }
    this.#channel.ack(message);
    return "";
  }

  /** @param sent the attempt that the band was sent for; third-party senders give none */
  async #decide(chunkId: string, sent: number | undefined): Promise<Decision> {
    if (!isChunkId(chunkId)) return { attempt: sent };
    const { jobId } = parseChunkId(chunkId);
    const job = await this.#results.findJob(jobId);
    if (!job) return sent === undefined ? { attempt: sent } : { drop: "job is gone" };
    const { size } = await this.#results.done(jobId);
    if (job.error === null && job.enqueued && size === job.bands) return { drop: "job is done" };
    const revived = this.#revived.get(`${jobId} ${sent}`);
    if (revived !== undefined) return { attempt: revived };
    // The other attempt may have other parameters.
    if (sent !== undefined && sent !== job.attempt) return { drop: "job has begun another attempt" };
    await this.#results.reviveJob(jobId);
    if (sent === undefined) return { attempt: sent };
    const attempt = (await this.#results.findJob(jobId))?.attempt ?? sent;
    this.#revived.set(`${jobId} ${sent}`, attempt);
    return { attempt };
  }
}
