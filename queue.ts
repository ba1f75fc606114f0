/**
 * The queue between coordinator and workers, in RabbitMQ.
 *
 * The queues are `tareas` for Sobel and `tareas.<task>` for any other task. They are durable quorum queues, so a
 * confirmed publish survives a crash of the broker and, in a cluster, the loss of a node.
 *
 * Invariant: a publish resolves only after RabbitMQ has confirmed it.
 *
 * Not here: the connection and its channels (amqp/), the message itself (chunk.ts), what a worker answers and when
 * (worker.ts), the queue of one process (embedded/queue.ts).
 */

import { EventEmitter, once } from "node:events";
import type { ChannelModel, ConfirmChannel } from "amqplib";
import { Channels } from "./amqp/channels.ts";
import { NOT_CONNECTED, RabbitConnection } from "./amqp/connection.ts";
import { Consumer, HOLD_MS, type Message, requeue, settle } from "./amqp/consumer.ts";
import { DEAD_LETTERS, listLetters, peekAt, putBack, QUEUE } from "./amqp/letters.ts";
import { type Delivery, type Handler, type Outcome, type Queue, QueueError, type Results } from "./backends.ts";
import { type Chunk, decodeMessage, encodeMessage } from "./chunk.ts";
import { within } from "./ops/deadline.ts";
import type { Letter, Peeked } from "./ops/inside.ts";
import type { Log } from "./ops/log.ts";
import { type Trouble, UnavailableError } from "./ops/trouble.ts";

export { DEAD_LETTERS, QUEUE };

/** How long a publish is retried, ms. */
const PUBLISH_MS = 30_000;
/** The most publishes in flight to the broker. With more at once, none would be confirmed in time. */
const MAX_PUBLISHING = 16;
/** How long the broker may take to answer a question about a queue, ms. */
const ANSWER_MS = 2_000;

export function queueOf(task: string): string {
  return task === "sobel" ? QUEUE : `${QUEUE}.${task}`;
}

const BLOCKED: Trouble = {
  code: "blocked",
  detail: "RabbitMQ is unavailable: short of memory or disk, it blocks publishers",
};

/** The queue in RabbitMQ. */
export class RabbitQueue implements Queue {
  readonly #log: Log;
  readonly #connection: RabbitConnection;
  /** Undefined while there is no connection. */
  #opened: Channels | undefined;
  #blocked = false;
  #trouble: Trouble | null = NOT_CONNECTED;
  #publishing = 0;
  /** When the last publish was confirmed, ms since 1970. */
  #confirmedAt = 0;
  readonly #consumers = new Set<Consumer>();
  readonly #changes = new EventEmitter().setMaxListeners(0);

  private constructor(
    url: string,
    log: Log,
    readonly holdMs: number,
    ca: string[] | undefined,
  ) {
    this.#log = log;
    const owner = {
      setUp: (model: ChannelModel) => this.#setUp(model),
      lost: (trouble: Trouble) => this.#lost(trouble),
    };
    this.#connection = new RabbitConnection(url, owner, log, ca);
  }

  /**
   * Returns at once. Until the broker answers, publishes and consumers wait, all else fails, and `trouble()` says why.
   * @param url as in ops/address.ts
   * @param log gets a line for every lost connection
   * @param holdMs how long a message may wait behind another one in this process
   * @param ca certificates to trust, PEM
   */
  static async connect(url: string, log: Log, holdMs = HOLD_MS, ca?: string[]): Promise<RabbitQueue> {
    return new RabbitQueue(url, log, holdMs, ca);
  }

  /** @throws QueueError while there is no connection */
  get #channels(): Channels {
    if (!this.#opened) throw new QueueError(NOT_CONNECTED.detail);
    return this.#opened;
  }

  #lost(trouble: Trouble): void {
    this.#trouble = trouble;
    this.#opened = undefined;
    for (const consumer of this.#consumers) consumer.detach();
  }

  /** Runs after every connect. */
  async #setUp(model: ChannelModel): Promise<void> {
    model.on("blocked", () => {
      this.#blocked = true;
    });
    model.on("unblocked", () => {
      this.#blocked = false;
    });
    const channels = new Channels(model, this.#log, (channel) => {
      for (const consumer of this.#consumers) consumer.closed(channel);
    });
    this.#blocked = false;
    this.#opened = channels;
    // Declared before the first chunk: third-party workers may come earlier, and only check that the queue exists.
    const declare = (queue: string) =>
      channels.of(queue).catch((error) => {
        if (!(error instanceof QueueError)) throw error;
      });
    await Promise.all([DEAD_LETTERS, QUEUE].map(declare));
    this.#trouble = null;
    for (const consumer of this.#consumers) consumer.attach();
    this.#changes.emit("connected");
  }

  async depth(task: string): Promise<{ waiting: number; consumers: number }> {
    const { messageCount: waiting, consumerCount: consumers } = await this.#stateOf(queueOf(task));
    return { waiting, consumers };
  }

  async deadLetters(): Promise<number> {
    return (await this.#stateOf(DEAD_LETTERS)).messageCount;
  }

  async peek(task: string): Promise<Peeked | null> {
    await this.#channels.of(queueOf(task));
    return this.#channels.onOwnChannel((channel) => peekAt(channel, queueOf(task)));
  }

  async letters(limit: number): Promise<Letter[]> {
    return this.#channels.onOwnChannel((channel) => listLetters(channel, limit));
  }

  async putBack(results: Results, chunkId: string | null): Promise<Letter[]> {
    return this.#channels.onOwnChannel((channel) => putBack(channel, results, chunkId));
  }

  /** Asks the broker about a queue, for `ANSWER_MS` at most. @throws QueueError */
  async #stateOf(queue: string) {
    if (this.#trouble) throw new QueueError(NOT_CONNECTED.detail);
    // While the broker is short of memory or disk it reads nothing from publishers, not even questions.
    if (this.#blocked) throw new QueueError(BLOCKED.detail);
    const late = () => new QueueError(`RabbitMQ is unavailable: no answer in ${ANSWER_MS} ms`);
    return within(this.#channels.stateOf(queue), ANSWER_MS, late);
  }

  async publish(chunk: Chunk): Promise<void> {
    const start = Date.now();
    while (this.#publishing >= MAX_PUBLISHING) {
      // The time-out starts again whenever another publish is confirmed.
      const left = Math.max(start, this.#confirmedAt) + PUBLISH_MS - Date.now();
      if (left <= 0) throw new QueueError("RabbitMQ is unavailable: no publish was confirmed in time; retry later");
      await once(this.#changes, "place", { signal: AbortSignal.timeout(left) }).catch(() => {});
    }
    this.#publishing++;
    try {
      const queue = queueOf(chunk.task);
      const attempt = chunk.attempt !== undefined && { "x-attempt": chunk.attempt };
      // Encoded anew for each attempt: the next message overwrites the buffer.
      await this.#untilConfirmed(queue, (channel) =>
        this.#channels.publish(channel, queue, encodeMessage(chunk), chunk.chunkId, {
          "x-sent": Date.now(),
          ...attempt,
        }),
      );
      this.#confirmedAt = Date.now();
    } finally {
      this.#publishing--;
      this.#changes.emit("place");
    }
  }

  /** Runs `step` on a queue's channel, and retries it for `PUBLISH_MS`. @throws QueueError */
  async #untilConfirmed(queue: string, step: (channel: ConfirmChannel) => Promise<void>): Promise<void> {
    const deadline = Date.now() + PUBLISH_MS;
    for (let pause = 100; ; pause = Math.min(2 * pause, 1_000)) {
      try {
        await this.#connected(deadline);
        return await step(await this.#channels.of(queue));
      } catch (cause) {
        if (cause instanceof QueueError && !this.#trouble) throw cause;
        if (Date.now() + pause > deadline)
          throw new QueueError(`RabbitMQ is unavailable: ${(cause as Error).message}`, { cause });
        await new Promise((wake) => setTimeout(wake, pause));
      }
    }
  }

  async #connected(deadline: number): Promise<void> {
    while (this.#trouble) {
      const signal = AbortSignal.timeout(Math.max(0, deadline - Date.now()));
      await once(this.#changes, "connected", { signal }).catch(() => {
        throw new Error("not connected");
      });
    }
  }

  async consume(
    tasks: string[],
    handle: Handler,
    onConsuming?: (consuming: boolean) => void,
  ): Promise<() => Promise<void>> {
    const consumer = new Consumer(
      tasks.map(queueOf),
      (message, channel) => this.#deliver(message, channel, handle),
      {
        open: async (queue) => this.#channels.of(queue),
        waiting: async (queue) => (await this.#channels.stateOf(queue)).messageCount,
        // The next connection attaches the consumer again.
        restart: () => this.#connection.restart(),
      },
      onConsuming,
      this.holdMs,
    );
    this.#consumers.add(consumer);
    if (!this.#trouble) consumer.attach();
    return async () => {
      this.#consumers.delete(consumer);
      await consumer.stop();
    };
  }

  /** Never throws. If the channel closes before the chunk is settled, the broker redelivers it. */
  async #deliver(message: Message, channel: ConfirmChannel, handle: Handler): Promise<void> {
    const headers = message.properties.headers ?? {};
    const chunkId = String(message.properties.messageId ?? "");
    const deliveries = Math.max(Number(headers["x-delivery-count"] ?? 0), message.fields.redelivered ? 1 : 0);
    const sent = Number(headers["x-sent"]);
    const attempt = headers["x-attempt"] === undefined ? undefined : Number(headers["x-attempt"]);
    const open = async () => ({ ...(await decodeMessage(message.content)), attempt });
    const { promise: lost, resolve: lose } = Promise.withResolvers<void>();
    channel.once("close", lose);
    const outcome = await handle({ chunkId, deliveries, sent, attempt, lost, open });
    channel.off("close", lose);
    const isSettled = await this.#settles(outcome, message, channel, { sent, attempt });
    settle(() => (isSettled ? channel.ack(message) : requeue(channel, message)));
  }

  /**
   * Publishes the copy that some outcomes need. First the copy, then the acknowledgement: a crash in between leaves
   * both, which is harmless.
   * @returns whether the message may be acknowledged
   */
  async #settles(
    outcome: Outcome,
    { content, properties, fields: { routingKey } }: Message,
    channel: ConfirmChannel,
    { sent, attempt }: Pick<Delivery, "sent" | "attempt">,
  ): Promise<boolean> {
    if (outcome.do === "done" || outcome.do === "retry") return outcome.do === "done";
    const isRenewal = outcome.do === "renew";
    const queue = isRenewal ? routingKey : DEAD_LETTERS;
    const headers = {
      ...(attempt !== undefined && { "x-attempt": attempt }),
      ...(isRenewal ? { "x-sent": sent } : { "x-reason": outcome.reason, "x-queue": routingKey }),
    };
    const copy = async (on: ConfirmChannel) => {
      await this.#channels.of(queue).catch(() => {}); // a queue with other arguments takes messages, too
      return this.#channels.publish(on, queue, content, String(properties.messageId ?? ""), headers);
    };
    // The copy of a dead letter is retried on the next connection: its job has failed, so a worker that gets the band
    // again drops it.
    return (isRenewal ? copy(channel) : this.#untilConfirmed(routingKey, copy)).then(
      () => true,
      () => false,
    );
  }

  readonly isLocal = false;

  trouble(): Trouble | null {
    return this.#trouble;
  }

  async ping(): Promise<void> {
    const trouble = this.#blocked ? BLOCKED : this.trouble();
    if (trouble) throw new UnavailableError(trouble.code, trouble.detail);
    // A small request that has an answer. It changes nothing, and needs no queue: one that cannot be used is no outage.
    await this.#channels.onOwnChannel((channel) => channel.prefetch(1));
  }

  async close(): Promise<void> {
    this.#trouble = NOT_CONNECTED;
    await this.#connection.stop();
  }
}
