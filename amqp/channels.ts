/**
 * The channels of one connection to RabbitMQ: one for each queue, on which everything about it happens. So a queue that
 * is deleted, or that has other arguments, affects no other queue, and several queues are asked at once.
 *
 * Invariant: a queue is declared before it is used. A publish resolves only after RabbitMQ has confirmed it.
 *
 * Not here: the connection (connection.ts), what is published, and the retries (queue.ts).
 */
import type { ChannelModel, ConfirmChannel, Replies } from "amqplib";
import { QueueError } from "../backends.ts";
import { within } from "../ops/deadline.ts";
import type { Log } from "../ops/log.ts";
import { DEAD_LETTERS } from "./letters.ts";

const DELIVERY_LIMIT = 20;

/** How long the broker may take to confirm a publish, ms. */
const CONFIRM_MS = 5_000;
/** How long a look at many messages may take, ms. */
const LOOK_MS = 10_000;
/** AMQP's reply code for a queue that exists with other arguments. */
const PRECONDITION_FAILED = 406;

export class Channels {
  readonly #model: ChannelModel;
  readonly #log: Log;
  readonly #onLost: (channel: ConfirmChannel) => void;
  /** The channels by queue. */
  readonly #opened = new Map<string, Promise<ConfirmChannel>>();
  /** Ids of messages that the broker returned because no queue exists for them. */
  readonly #returned = new Set<string>();

  /** @param onLost gets each channel that is closed, or whose queue was deleted */
  constructor(model: ChannelModel, log: Log, onLost: (channel: ConfirmChannel) => void) {
    this.#model = model;
    this.#log = log;
    this.#onLost = onLost;
  }

  /** The channel of a queue, which is declared if it was not before. @throws QueueError */
  of(queue: string): Promise<ConfirmChannel> {
    const known = this.#opened.get(queue);
    if (known) return known;
    const opened = this.#open(queue);
    this.#opened.set(queue, opened);
    const drop = () => this.#opened.get(queue) === opened && this.#opened.delete(queue);
    opened.then((channel) => {
      const lose = () => {
        drop();
        this.#onLost(channel);
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
    const channel = await this.#model.createConfirmChannel();
    channel.on("error", () => {});
    channel.on("return", (message) => this.#returned.add(message.properties.messageId));
    try {
      await channel.prefetch(1);
      await declare(channel, queue);
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

  /** The numbers of messages and consumers. Declares the queue, because a check of a missing one closes the channel. */
  async stateOf(queue: string): Promise<Replies.AssertQueue> {
    return declare(await this.of(queue), queue);
  }

  /** Runs `step` on a channel of its own, so that an error closes no other channel. @throws QueueError */
  async onOwnChannel<T>(step: (channel: ConfirmChannel) => Promise<T>): Promise<T> {
    const channel = await this.#model.createConfirmChannel();
    channel.on("error", () => {});
    try {
      return await within(step(channel), LOOK_MS, () => new QueueError("RabbitMQ is unavailable: no answer in time"));
    } finally {
      channel.close().catch(() => {});
    }
  }

  /**
   * Publishes once. Resolves when the broker has confirmed it. A second copy is harmless: bands are idempotent.
   * @param body amqplib copies it into frames before this function returns its promise
   */
  async publish(channel: ConfirmChannel, queue: string, body: Buffer, messageId: string, headers: object) {
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
    await this.stateOf(queue);
    throw new Error(`no queue ${queue}`);
  }
}

function declare(channel: ConfirmChannel, queue: string): PromiseLike<Replies.AssertQueue> {
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
