/**
 * The queue between coordinator and workers, in RabbitMQ.
 *
 * The queues are `tareas` for Sobel and `tareas.<task>` for any other task. They are durable quorum queues, so a
 * confirmed publish survives a crash of the broker and, in a cluster, the loss of a node.
 *
 * Invariant: a publish resolves only after RabbitMQ has confirmed it.
 *
 * Not here: the connection (amqp/connection.ts), the message itself (chunk.ts), what a worker answers and when
 * (worker.ts), the queue of one process (embedded/queue.ts).
 */

import { EventEmitter, once } from "node:events";
import type { ChannelModel, ConfirmChannel, ConsumeMessage, GetMessage } from "amqplib";
import { NOT_CONNECTED, RabbitConnection } from "./amqp/connection.ts";
import { Consumer, HOLD_MS, requeue, settle } from "./amqp/consumer.ts";
import { DEAD_LETTERS, lookAt, peekAt, putBack, QUEUE } from "./amqp/letters.ts";
import { type Handler, type Letter, type Peeked, type Queue, QueueError, type Results } from "./backends.ts";
import { type Chunk, decodeMessage, encodeMessage } from "./chunk.ts";
import { within } from "./ops/deadline.ts";
import type { Log } from "./ops/log.ts";
import { type Trouble, UnavailableError } from "./ops/trouble.ts";

export { DEAD_LETTERS, QUEUE };
export const DELIVERY_LIMIT = 20;

/** How long a publish is retried, ms. */
const PUBLISH_MS = 30_000;
/** The most publishes in flight to the broker. With more at once, none would be confirmed in time. */
const MAX_PUBLISHING = 16;
/** How long the broker may take to confirm a publish, ms. */
const CONFIRM_MS = 5_000;
/** How long the broker may take to answer a question about a queue, ms. */
const ANSWER_MS = 2_000;
/** How long a look at many messages may take, ms. */
const LOOK_MS = 10_000;
/** AMQP's reply code for a queue that exists with other arguments. */
const PRECONDITION_FAILED = 406;

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
  #model: ChannelModel | undefined;
  #blocked = false;
  #trouble: Trouble | null = NOT_CONNECTED;
  #publishing = 0;
  /** When the last publish was confirmed, ms since 1970. */
  #confirmedAt = 0;
  /**
   * The channels of the queues declared on this connection, one for each. So a queue that is deleted, or that has other
   * arguments, affects no other queue, and several queues are asked at once.
   */
  #declared = new Map<string, Promise<ConfirmChannel>>();
  /** Ids of messages that the broker returned because no queue exists for them. */
  readonly #returned = new Set<string>();
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

  #lost(trouble: Trouble): void {
    this.#trouble = trouble;
    this.#model = undefined;
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
    this.#declared = new Map();
    this.#blocked = false;
    this.#model = model;
    // Declared before the first chunk: a third-party worker may come earlier, and declares the queue passively.
    const declare = (queue: string) =>
      this.#declare(queue).catch((error) => {
        if (!(error instanceof QueueError)) throw error;
      });
    await Promise.all([DEAD_LETTERS, QUEUE].map(declare));
    this.#trouble = null;
    for (const consumer of this.#consumers) consumer.attach();
    this.#changes.emit("connected");
  }

  /**
   * Declares a queue once per connection.
   * @returns its channel
   * @throws QueueError
   */
  #declare(queue: string): Promise<ConfirmChannel> {
    const all = this.#declared;
    const known = all.get(queue);
    if (known) return known;
    const opened = this.#open(queue);
    all.set(queue, opened);
    const drop = () => all.get(queue) === opened && all.delete(queue);
    opened.then((channel) => {
      const lose = () => {
        drop();
        for (const consumer of this.#consumers) consumer.closed(channel);
      };
      channel.on("close", lose);
      channel.on("error", (error) => this.#log.warn("channel of a queue lost, opening another", { queue, error }));
      // The broker has cancelled a consumer: the queue was deleted.
      channel.on("cancel", () => {
        lose();
        channel.close().catch(() => {});
      });
    }, drop);
    return opened;
  }

  /** @throws QueueError with the remedy, if a third party has declared the queue with other arguments */
  async #open(queue: string): Promise<ConfirmChannel> {
    if (!this.#model) throw new QueueError(NOT_CONNECTED.detail);
    const channel = await this.#model.createConfirmChannel();
    channel.on("error", () => {});
    channel.on("return", (message) => this.#returned.add(message.properties.messageId));
    try {
      await channel.prefetch(1);
      await this.#assert(channel, queue);
    } catch (cause) {
      const { code } = cause as { code?: unknown };
      if (typeof code !== "number") throw cause; // not a reply of the broker: the connection is lost
      const cure = `delete it (rabbitmqctl delete_queue ${queue}), it is declared again by itself`;
      const why = `the queue ${queue} was declared with other arguments; ${cure}`;
      const error = code === PRECONDITION_FAILED ? new QueueError(why, { cause }) : cause;
      this.#log.error("queue cannot be used", { queue, error });
      throw error;
    }
    return channel;
  }

  #assert(channel: ConfirmChannel, queue: string) {
    if (queue === DEAD_LETTERS)
      return channel.assertQueue(DEAD_LETTERS, { durable: true, arguments: { "x-queue-type": "quorum" } });
    return channel.assertQueue(queue, {
      durable: true,
      deadLetterExchange: "",
      deadLetterRoutingKey: DEAD_LETTERS,
      arguments: {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        // At-least-once dead-lettering needs a queue that refuses messages when it is full.
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
      },
    });
  }

  async depth(task: string): Promise<{ waiting: number; consumers: number }> {
    const { messageCount: waiting, consumerCount: consumers } = await this.#stateOf(queueOf(task));
    return { waiting, consumers };
  }

  async deadLetters(): Promise<number> {
    return (await this.#stateOf(DEAD_LETTERS)).messageCount;
  }

  async peek(task: string): Promise<Peeked | null> {
    await this.#declare(queueOf(task));
    return this.#onChannel((channel) => peekAt(channel, queueOf(task)));
  }

  letters(limit: number): Promise<Letter[]> {
    return this.#onChannel((channel) => lookAt(channel, limit));
  }

  putBack(results: Results, chunkId: string | null): Promise<Letter[]> {
    return this.#onChannel((channel) => putBack(channel, results, chunkId));
  }

  /** Runs `step` on a channel of its own, so that an error closes no other channel. @throws QueueError */
  async #onChannel<T>(step: (channel: ConfirmChannel) => Promise<T>): Promise<T> {
    if (!this.#model) throw new QueueError(NOT_CONNECTED.detail);
    const channel = await this.#model.createConfirmChannel();
    channel.on("error", () => {});
    try {
      return await within(step(channel), LOOK_MS, () => new QueueError("RabbitMQ is unavailable: no answer in time"));
    } finally {
      channel.close().catch(() => {});
    }
  }

  /** Asks the broker about a queue, for `ANSWER_MS` at most. @throws QueueError */
  async #stateOf(queue: string) {
    if (this.#trouble) throw new QueueError(NOT_CONNECTED.detail);
    // While the broker is short of memory or disk it reads nothing from publishers, not even questions.
    if (this.#blocked) throw new QueueError(BLOCKED.detail);
    const late = () => new QueueError(`RabbitMQ is unavailable: no answer in ${ANSWER_MS} ms`);
    // Asserted, not checked: a check of a missing queue closes the channel.
    const state = this.#declare(queue).then((channel) => this.#assert(channel, queue));
    return within(state, ANSWER_MS, late);
  }

  async publish(chunk: Chunk): Promise<void> {
    const start = Date.now();
    while (this.#publishing >= MAX_PUBLISHING) {
      // The time-out starts again whenever another publish is confirmed.
      const left = Math.max(start, this.#confirmedAt) + PUBLISH_MS - Date.now();
      if (left <= 0) throw new QueueError("RabbitMQ is unavailable: no publish was confirmed in time; retry later");
      await once(this.#changes, "turn", { signal: AbortSignal.timeout(left) }).catch(() => {});
    }
    this.#publishing++;
    try {
      await this.#publish(chunk);
      this.#confirmedAt = Date.now();
    } finally {
      this.#publishing--;
      this.#changes.emit("turn");
    }
  }

  async #publish(chunk: Chunk): Promise<void> {
    const attempt = chunk.attempt !== undefined && { "x-attempt": chunk.attempt };
    const queue = queueOf(chunk.task);
    // Encoded anew for each attempt: the next message overwrites the buffer.
    await this.#untilConfirmed(queue, (channel) =>
      this.#confirmed(channel, queue, encodeMessage(chunk), chunk.chunkId, { "x-sent": Date.now(), ...attempt }),
    );
  }

  /** Runs `step` on a queue's channel, and retries it for `PUBLISH_MS`. @throws QueueError */
  async #untilConfirmed(queue: string, step: (channel: ConfirmChannel) => Promise<void>): Promise<void> {
    const deadline = Date.now() + PUBLISH_MS;
    for (let pause = 100; ; pause = Math.min(2 * pause, 1_000)) {
      try {
        await this.#connected(deadline);
        return await step(await this.#declare(queue));
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

  /**
   * Publishes once. Resolves when the broker has confirmed it. Publishing twice is harmless: bands are idempotent.
   * @param body amqplib copies it into frames before this function returns its promise
   */
  async #confirmed(
    channel: ConfirmChannel,
    queue: string,
    body: Buffer,
    messageId: string,
    headers = {},
  ): Promise<void> {
    const options = { persistent: true, mandatory: true, contentType: "application/json", messageId, headers };
    // No wait for `drain`: each publish waits for its confirm, and a job's window bounds how many there are.
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`no confirm within ${CONFIRM_MS} ms`)), CONFIRM_MS);
      channel.sendToQueue(queue, body, options, (error) => {
        clearTimeout(timer);
        if (error) reject(error);
        else resolve();
      });
    });
    // The broker returns a message before it confirms it.
    if (!this.#returned.delete(messageId)) return;
    // Declares the queue for the next attempt. The channel stays open: it may have other messages in flight.
    await this.#assert(await this.#declare(queue), queue);
    throw new Error(`no queue ${queue}`);
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
        open: (queue) => this.#declare(queue),
        waiting: async (queue) => (await this.#assert(await this.#declare(queue), queue)).messageCount,
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
  async #deliver(message: ConsumeMessage | GetMessage, channel: ConfirmChannel, handle: Handler): Promise<void> {
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
    const { routingKey } = message.fields;
    let settled = outcome.do !== "retry";
    if (outcome.do === "dead-letter" || outcome.do === "renew") {
      const kept = attempt === undefined ? {} : { "x-attempt": attempt };
      const [to, also] =
        outcome.do === "renew"
          ? [routingKey, { ...kept, "x-sent": sent }]
          : [DEAD_LETTERS, { ...kept, "x-reason": outcome.reason, "x-queue": routingKey }];
      const copy = async (on: ConfirmChannel) => {
        await this.#declare(to).catch(() => {}); // a queue with other arguments takes messages, too
        return this.#confirmed(on, to, message.content, chunkId, also);
      };
      // First the copy, then the acknowledgement: a crash in between leaves both, which is harmless. The copy of a dead
      // letter is retried on the next connection: its job has failed, so a worker that gets the band again drops it.
      settled = await (outcome.do === "renew" ? copy(channel) : this.#untilConfirmed(routingKey, copy)).then(
        () => true,
        () => false,
      );
    }
    settle(() => (settled ? channel.ack(message) : requeue(channel, message)));
  }

  readonly isLocal = false;

  trouble(): Trouble | null {
    return this.#trouble;
  }

  async ping(): Promise<void> {
    const trouble = this.#blocked ? BLOCKED : this.trouble();
    if (trouble) throw new UnavailableError(trouble.code, trouble.detail);
    // A small request that has an answer. It changes nothing, and needs no queue: one that cannot be used is no outage.
    await this.#onChannel((channel) => channel.prefetch(1));
  }

  async close(): Promise<void> {
    this.#trouble = NOT_CONNECTED;
    await this.#connection.stop();
  }
}
