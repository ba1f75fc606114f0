/**
 * The queue between coordinator and workers: RabbitMQ, or this process.
 *
 * What both promise: a published chunk is handed to one worker at a time until a worker says that it is settled. A
 * worker holds one chunk at a time. What a worker can say of a chunk (`Outcome`):
 *
 *     done    it is settled: the result is stored, or nobody wants it
 *     retry   hand it out again, to whoever is free
 *     bury    never again: to `tareas.muertas`, with the reason in the header `x-reason`
 *     (dies)  the broker hands it out again; after 20 deliveries it buries it
 *
 * In RabbitMQ the queues are `tareas` for Sobel and `tareas.<task>` for any other task: durable quorum queues, so an
 * acknowledged publish survives a crash of the broker, and, in a cluster, of a node.
 *
 * Not here: the message itself (chunk.ts), when to say what (worker.ts).
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
  /** The chunk's id as the envelope has it, readable even if the message is not. */
  chunkId: string;
  /** How often it was handed out before, as far as the queue knows. */
  deliveries: number;
  /** When it was put into the queue, ms since 1970 by the sender's clock; NaN where the sender does not say. */
  sent: number;
  /** The chunk, its pixels in memory of their own. @throws WireError where it is none */
  open(): Promise<Chunk>;
}

export type Handler = (delivery: Delivery) => Promise<Outcome>;

export interface Queue {
  /**
   * Resolves once the chunk is safe in the queue, its pixels copied. Rejects with `QueueError` when the queue takes nothing
   * for `PUBLISH_MS`.
   */
  publish(chunk: Chunk): Promise<void>;
  /**
   * Hands chunks of these tasks to `handle`, one at a time.
   * @returns a function that stops it, and resolves when the chunk in hand, if any, is settled
   */
  consume(tasks: string[], handle: Handler): Promise<() => Promise<void>>;
  /** Chunks of a task that wait for a worker, and those who wait for chunks, busy ones included. */
  depth(task: string): Promise<{ waiting: number; consumers: number }>;
  /** Chunks that were buried. */
  deadLetters(): Promise<number>;
  /** Whether it could be used now. */
  ready(): boolean;
  close(): Promise<void>;
}

/** The queue cannot be used: try again later. */
export class QueueError extends Error {
  override name = "QueueError";
}

export const QUEUE = "tareas";
export const DEAD_LETTERS = "tareas.muertas";
export const DELIVERY_LIMIT = 20;

/** How long a publish is tried for, ms. */
const PUBLISH_MS = 30_000;
/** How many are on their way to the broker at a time: of more at once, none would be confirmed in time. */
const MAX_PUBLISHING = 16;
/** How long the broker may take to confirm one, ms. */
const CONFIRM_MS = 5_000;
/** How long the broker may take to say how much is in a queue, or goodbye, ms. */
const ANSWER_MS = 2_000;
/** After two of these without a sign of life the broker takes a worker for dead, and hands its chunk out again. */
const HEARTBEAT_SECONDS = 10;

export function queueOf(task: string): string {
  return task === "sobel" ? QUEUE : `${QUEUE}.${task}`;
}

/** The queue in RabbitMQ. It reconnects by itself, for as long as it takes. */
export class RabbitQueue implements Queue {
  #connection!: RecoveringChannelModel;
  #channel: ConfirmChannel | undefined;
  #blocked = false;
  #publishing = 0;
  /** When the last chunk was safe, ms since 1970. */
  #confirmedAt = 0;
  /** Queues known to exist, as of this connection. */
  #declared = new Set<string>();
  /** Chunks that came back because no queue took them. */
  readonly #returned = new Set<string>();
  readonly #consumers = new Set<Consumer>();
  readonly #changes = new EventEmitter().setMaxListeners(0);

  /**
   * Returns at once; until the broker answers, `ready()` is false, and everything waits.
   * @param url `amqp://` or `amqps://`
   * @param log is told of every loss of the connection
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
    queue.#connection.on("connect-failed", (error) => log.warn("RabbitMQ cannot be reached", { error }));
    queue.#connection.on("disconnect", (error) => {
      queue.#channel = undefined;
      log.warn("RabbitMQ is away", { error });
    });
    return queue;
  }

  /** Runs after every connect. Any trouble with a channel closes the connection, so that this runs again. */
  async #setUp(model: ChannelModel): Promise<void> {
    // Until this is through, nobody else listens, and an `error` that nobody listens to would end the program.
    model.on("error", () => {});
    const channel = await model.createConfirmChannel();
    const restart = () => void model.close().catch(() => {});
    channel.on("error", () => {});
    channel.on("close", restart);
    channel.on("return", (message) => this.#returned.add(message.properties.messageId));
    this.#declared = new Set();
    this.#blocked = false;
    await this.#assertDeadLetters(channel);
    // Before the first chunk: a worker in another language may come first, and only look whether it is there.
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
    // Asserted, not checked: a check of a queue that is not there closes the channel.
    const asserted = await this.#answered((channel) => this.#assert(channel, queueOf(task)));
    return { waiting: asserted.messageCount, consumers: asserted.consumerCount };
  }

  async deadLetters(): Promise<number> {
    return (await this.#answered((channel) => this.#assertDeadLetters(channel))).messageCount;
  }

  /** What the broker answers, if it does within `ANSWER_MS`. @throws QueueError */
  async #answered<T>(ask: (channel: ConfirmChannel) => PromiseLike<T>): Promise<T> {
    if (!this.#channel) throw new QueueError("RabbitMQ is away");
    // While the broker is short of memory it reads nothing from those who publish, questions neither.
    if (this.#blocked) throw new QueueError("RabbitMQ takes nothing");
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new QueueError("RabbitMQ does not answer")), ANSWER_MS);
    });
    const answer = Promise.resolve(ask(this.#channel));
    answer.catch(() => {}); // it may come after nobody waits any more
    return Promise.race([answer, late]).finally(() => clearTimeout(timer));
  }

  async publish(chunk: Chunk): Promise<void> {
    const start = Date.now();
    while (this.#publishing >= MAX_PUBLISHING) {
      // As long as others are confirmed, the time begins anew.
      const left = Math.max(start, this.#confirmedAt) + PUBLISH_MS - Date.now();
      if (left <= 0) throw new QueueError("the queue takes no work: others wait for it too");
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
        // Made for each attempt, and so late: the message is in memory that the next one needs.
        const body = encodeMessage(chunk);
        return await this.#confirmed(channel, queue, body, chunk.chunkId, { "x-sent": Date.now() });
      } catch (cause) {
        if (Date.now() + pause > deadline)
          throw new QueueError(`the queue takes no work: ${(cause as Error).message}`, { cause });
        await new Promise((wake) => setTimeout(wake, pause));
      }
    }
  }

  async #usable(deadline: number): Promise<ConfirmChannel> {
    while (!this.#channel) {
      const signal = AbortSignal.timeout(Math.max(0, deadline - Date.now()));
      await once(this.#changes, "channel", { signal }).catch(() => {
        throw new Error("RabbitMQ is away");
      });
    }
    return this.#channel;
  }

  /**
   * Publishes once; resolves when the broker has it on disk. A chunk published twice does no harm.
   * @param body copied (by amqplib, into frames) before this returns its promise
   */
  async #confirmed(
    channel: ConfirmChannel,
    queue: string,
    body: Buffer,
    messageId: string,
    headers = {},
  ): Promise<void> {
    const options = { persistent: true, mandatory: true, contentType: "application/json", messageId, headers };
    // No waiting for `drain`: whoever publishes waits for the confirm, and the window of a job bounds how many do.
    return new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`no confirm within ${CONFIRM_MS} ms`)), CONFIRM_MS);
      channel.sendToQueue(queue, body, options, (error) => {
        clearTimeout(timer);
        // The broker returns a message before it confirms it.
        if (this.#returned.delete(messageId)) {
          this.#declared.delete(queue);
          reject(new Error(`there is no queue ${queue}`));
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
    // If that fails, its channel goes, and the next connection subscribes.
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
        // Null: the broker has cancelled this consumer, for instance because the queue was deleted.
        if (message === null) return restart();
        // A prefetch counts for each queue; in turn, so that a worker holds one chunk at work whatever its tasks.
        consumer.busy = consumer.busy.then(() => this.#deliver(channel, consumer, message));
      });
      consumer.tags.push(consumerTag);
    }
  }

  /** Never throws. What cannot be settled because the channel is gone is handed out again by the broker. */
  async #deliver(channel: ConfirmChannel, consumer: Consumer, message: ConsumeMessage): Promise<void> {
    const settle = (step: () => void) => {
      try {
        step();
      } catch {
        // `IllegalOperationError`: the channel was closed meanwhile.
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

/** Waits for a goodbye, but not for ever: a broker that is going away itself may never say it. */
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
  /** The chunk in hand, and those behind it. */
  busy: Promise<void>;
  stopped: boolean;
}
