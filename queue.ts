/**
 * The queue between coordinator and workers, in RabbitMQ.
 *
 * A published chunk goes to one worker at a time until a worker settles it. What a worker can answer (`Outcome`):
 *
 *     done         settled: the result is stored, or the job no longer exists
 *     retry        requeued, for any free worker
 *     dead-letter  moved to `tareas.muertas`, with the reason in the header `x-reason`
 *     (crash)      RabbitMQ redelivers it; after 20 deliveries it dead-letters it
 *
 * The queues are `tareas` for Sobel and `tareas.<task>` for any other task. They are durable quorum queues, so a confirmed
 * publish survives a crash of the broker and, in a cluster, the loss of a node.
 *
 * Invariant: a publish resolves only after RabbitMQ has confirmed it. A connection that is lost is opened again, for ever.
 *
 * Not here: the message itself (chunk.ts), what a worker answers and when (worker.ts), the queue of one process (embedded.ts).
 */
import { EventEmitter, once } from "node:events";
import {
  type ChannelModel,
  type ConfirmChannel,
  type ConsumeMessage,
  connect,
  type RecoveringChannelModel,
} from "amqplib";
import { type Chunk, decodeMessage, encodeMessage } from "./chunk.ts";
import type { Log } from "./ops/log.ts";
import { serverUrl } from "./ops/settings.ts";

export type Outcome = { do: "done" } | { do: "retry" } | { do: "dead-letter"; reason: string };

export interface Delivery {
  /** The chunk's id from the envelope: known even where the message cannot be read. */
  chunkId: string;
  /** How often it was delivered before, as far as the queue knows. */
  deliveries: number;
  /** When it was enqueued, ms since 1970 by the sender's clock; NaN where the sender does not say. */
  sent: number;
  /** Decodes the message. The pixels are a copy. @throws WireError where the message is invalid */
  open(): Promise<Chunk>;
}

export type Handler = (delivery: Delivery) => Promise<Outcome>;

export interface Queue {
  /**
   * Resolves once the queue has the chunk, its pixels copied. Rejects with `QueueError` when the queue accepts nothing for
   * `PUBLISH_MS`.
   */
  publish(chunk: Chunk): Promise<void>;
  /**
   * Passes chunks of these tasks to `handle`, one at a time.
   * @returns a function that stops it, and resolves when the chunk in progress, if any, is settled
   */
  consume(tasks: string[], handle: Handler): Promise<() => Promise<void>>;
  /** Chunks of a task that wait for a worker, and the number of its consumers, busy ones included. */
  depth(task: string): Promise<{ waiting: number; consumers: number }>;
  /** Number of dead-lettered chunks. */
  deadLetters(): Promise<number>;
  /** Whether it can be used now. */
  ready(): boolean;
  close(): Promise<void>;
}

/** RabbitMQ is unavailable; retry later. */
export class QueueError extends Error {
  override name = "QueueError";
}

export const QUEUE = "tareas";
export const DEAD_LETTERS = "tareas.muertas";
export const DELIVERY_LIMIT = 20;

/** How long a publish is retried, ms. */
const PUBLISH_MS = 30_000;
/** Publishes in flight to the broker, at most. With more at once, none would be confirmed in time. */
const MAX_PUBLISHING = 16;
/** How long the broker may take to confirm a publish, ms. */
const CONFIRM_MS = 5_000;
/** How long the broker may take to answer a question about a queue, or a close, ms. */
const ANSWER_MS = 2_000;
/** After two intervals without traffic the broker closes a worker's connection and redelivers its chunk. */
const HEARTBEAT_SECONDS = 10;

export function queueOf(task: string): string {
  return task === "sobel" ? QUEUE : `${QUEUE}.${task}`;
}

/** The queue in RabbitMQ. */
export class RabbitQueue implements Queue {
  #connection!: RecoveringChannelModel;
  #channel: ConfirmChannel | undefined;
  #blocked = false;
  #publishing = 0;
  /** When the last publish was confirmed, ms since 1970. */
  #confirmedAt = 0;
  /** Queues declared on this connection. */
  #declared = new Set<string>();
  /** Ids of messages that the broker returned because no queue exists for them. */
  readonly #returned = new Set<string>();
  readonly #consumers = new Set<Consumer>();
  readonly #changes = new EventEmitter().setMaxListeners(0);

  /**
   * Returns at once. Until the broker answers, `ready()` is false and everything waits.
   * @param url `amqp://` or `amqps://`
   * @param log gets a line for every lost connection
   */
  static async connect(url: string, log: Log): Promise<RabbitQueue> {
    const queue = new RabbitQueue();
    const setup = (model: ChannelModel) => queue.#setUp(model);
    const address = serverUrl("RABBITMQ_URL", url, "amqp");
    if (!address.searchParams.has("heartbeat")) address.searchParams.set("heartbeat", String(HEARTBEAT_SECONDS));
    queue.#connection = await connect(address.href, {
      recovery: { initialDelay: 100, maxDelay: 2_000, waitForConnect: false, setup },
      timeout: 5_000,
    });
    queue.#connection.on("error", () => {});
    queue.#connection.on("blocked", () => {
      queue.#blocked = true;
    });
    queue.#connection.on("unblocked", () => {
      queue.#blocked = false;
    });
    queue.#connection.on("connect-failed", (error) => log.warn("RabbitMQ cannot be reached, retrying", { error }));
    queue.#connection.on("disconnect", (error) => {
      queue.#channel = undefined;
      log.warn("RabbitMQ connection lost, reconnecting", { error });
    });
    return queue;
  }

  /** Runs after every connect. A channel error closes the connection, so that this runs again. */
  async #setUp(model: ChannelModel): Promise<void> {
    // An `error` event without a listener would end the process, and amqplib adds its own only after this.
    model.on("error", () => {});
    const channel = await model.createConfirmChannel();
    const restart = () => void model.close().catch(() => {});
    channel.on("error", () => {});
    channel.on("close", restart);
    channel.on("return", (message) => this.#returned.add(message.properties.messageId));
    this.#declared = new Set();
    this.#blocked = false;
    await this.#assertDeadLetters(channel);
    // Before the first chunk: a third-party worker may connect first, with a passive declaration.
    await this.#declare(channel, QUEUE);
    await channel.prefetch(1);
    this.#channel = channel;
    for (const consumer of this.#consumers) await this.#subscribe(channel, consumer, restart);
    this.#changes.emit("channel");
  }

  async #declare(channel: ConfirmChannel, queue: string): Promise<void> {
    if (this.#declared.has(queue)) return;
    await this.#assert(channel, queue);
    this.#declared.add(queue);
  }

  #assertDeadLetters(channel: ConfirmChannel) {
    return channel.assertQueue(DEAD_LETTERS, { durable: true, arguments: { "x-queue-type": "quorum" } });
  }

  #assert(channel: ConfirmChannel, queue: string) {
    return channel.assertQueue(queue, {
      durable: true,
      deadLetterExchange: "",
      deadLetterRoutingKey: DEAD_LETTERS,
      arguments: {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        // At-least-once dead-lettering works only where a full queue refuses.
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
      },
    });
  }

  async depth(task: string): Promise<{ waiting: number; consumers: number }> {
    // Asserted, not checked: a check of a missing queue closes the channel.
    const asserted = await this.#answered((channel) => this.#assert(channel, queueOf(task)));
    return { waiting: asserted.messageCount, consumers: asserted.consumerCount };
  }

  async deadLetters(): Promise<number> {
    return (await this.#answered((channel) => this.#assertDeadLetters(channel))).messageCount;
  }

  /** Asks the broker, for `ANSWER_MS` at most. @throws QueueError */
  async #answered<T>(ask: (channel: ConfirmChannel) => PromiseLike<T>): Promise<T> {
    if (!this.#channel) throw new QueueError("RabbitMQ is unavailable: not connected");
    // While the broker is short of memory or disk it reads nothing from publishers, not even questions.
    if (this.#blocked) throw new QueueError("RabbitMQ is unavailable: short of memory or disk, it blocks publishers");
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new QueueError(`RabbitMQ is unavailable: no answer in ${ANSWER_MS} ms`)),
        ANSWER_MS,
      );
    });
    const answer = Promise.resolve(ask(this.#channel));
    answer.catch(() => {}); // it may fail after the time-out
    return Promise.race([answer, late]).finally(() => clearTimeout(timer));
  }

  async publish(chunk: Chunk): Promise<void> {
    const start = Date.now();
    while (this.#publishing >= MAX_PUBLISHING) {
      // While other publishes are confirmed, the time-out starts again.
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
    const deadline = Date.now() + PUBLISH_MS;
    for (let pause = 100; ; pause = Math.min(2 * pause, 1_000)) {
      try {
        const channel = await this.#usable(deadline);
        const queue = queueOf(chunk.task);
        await this.#declare(channel, queue);
        // Encoded here, for each attempt: the message is in a buffer that the next one uses.
        const body = encodeMessage(chunk);
        return await this.#confirmed(channel, queue, body, chunk.chunkId, { "x-sent": Date.now() });
      } catch (cause) {
        if (Date.now() + pause > deadline)
          throw new QueueError(`RabbitMQ is unavailable: ${(cause as Error).message}`, { cause });
        await new Promise((wake) => setTimeout(wake, pause));
      }
    }
  }

  async #usable(deadline: number): Promise<ConfirmChannel> {
    while (!this.#channel) {
      const signal = AbortSignal.timeout(Math.max(0, deadline - Date.now()));
      await once(this.#changes, "channel", { signal }).catch(() => {
        throw new Error("not connected");
      });
    }
    return this.#channel;
  }

  /**
   * Publishes once. Resolves when the broker has confirmed it. Publishing twice is harmless: bands are idempotent.
   * @param body is copied by amqplib into frames before this returns its promise
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
    return new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`no confirm within ${CONFIRM_MS} ms`)), CONFIRM_MS);
      channel.sendToQueue(queue, body, options, (error) => {
        clearTimeout(timer);
        // The broker returns a message before it confirms it.
        if (this.#returned.delete(messageId)) {
          this.#declared.delete(queue);
          reject(new Error(`no queue ${queue}`));
        } else if (error) reject(error);
        else resolve();
      });
    });
  }

  async consume(tasks: string[], handle: Handler): Promise<() => Promise<void>> {
    const consumer: Consumer = { tasks, handle, tags: [], busy: Promise.resolve(), stopped: false };
    this.#consumers.add(consumer);
    const channel = this.#channel;
    const restart = () => void channel?.close().catch(() => {});
    // On failure the channel is closed, and the next connection subscribes.
    if (channel) await this.#subscribe(channel, consumer, restart).catch(restart);
    return async () => {
      consumer.stopped = true;
      this.#consumers.delete(consumer);
      for (const tag of consumer.tags) await withinAnswer(this.#channel?.cancel(tag));
      await consumer.busy;
    };
  }

  async #subscribe(channel: ConfirmChannel, consumer: Consumer, restart: () => void): Promise<void> {
    consumer.tags = [];
    for (const task of consumer.tasks) {
      const queue = queueOf(task);
      await this.#declare(channel, queue);
      const { consumerTag } = await channel.consume(queue, (message) => {
        // Null: the broker has cancelled this consumer, for example because the queue was deleted.
        if (message === null) return restart();
        // Prefetch counts per queue. Deliveries are handled in turn, so that a worker computes one chunk at a time.
        consumer.busy = consumer.busy.then(() => this.#deliver(channel, consumer, message));
      });
      consumer.tags.push(consumerTag);
    }
  }

  /** Never throws. A chunk that cannot be settled because the channel is closed is redelivered by the broker. */
  async #deliver(channel: ConfirmChannel, consumer: Consumer, message: ConsumeMessage): Promise<void> {
    const settle = (step: () => void) => {
      try {
        step();
      } catch {
        // `IllegalOperationError`: the channel was closed in the meantime.
      }
    };
    if (consumer.stopped) return settle(() => channel.reject(message, true));
    const headers = message.properties.headers ?? {};
    const chunkId = String(message.properties.messageId ?? "");
    const deliveries = Number(headers["x-delivery-count"] ?? 0);
    const sent = Number(headers["x-sent"]);
    const open = () => decodeMessage(message.content);
    const outcome = await consumer.handle({ chunkId, deliveries, sent, open });
    if (outcome.do === "dead-letter") {
      const reason = { "x-reason": outcome.reason, "x-queue": message.fields.routingKey };
      const deadLettered = this.#confirmed(channel, DEAD_LETTERS, message.content, chunkId, reason);
      const safe = await deadLettered.then(
        () => true,
        () => false,
      );
      if (!safe) return settle(() => channel.reject(message, true));
    }
    // A reject, not a nack: from RabbitMQ 4.3 on only rejects count as deliveries.
    if (outcome.do === "retry") settle(() => channel.reject(message, true));
    else settle(() => channel.ack(message));
  }

  ready(): boolean {
    return this.#channel !== undefined;
  }

  async close(): Promise<void> {
    this.#channel = undefined;
    await withinAnswer(this.#connection.close());
  }
}

/** Waits for the answer to a close, but not for ever: a broker that is shutting down may not send it. */
async function withinAnswer(goodbye: Promise<unknown> | undefined): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<void>((wake) => {
    timer = setTimeout(wake, ANSWER_MS);
  });
  await Promise.race([goodbye?.catch(() => {}), late]).finally(() => clearTimeout(timer));
}

interface Consumer {
  tasks: string[];
  handle: Handler;
  tags: string[];
  /** The chunk in progress, and those behind it. */
  busy: Promise<void>;
  stopped: boolean;
}
