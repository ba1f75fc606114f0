/**
 * Takes messages from several queues, one at a time.
 *
 * A prefetch counts per consumer, so one that is busy with a message of one queue would hold one of each other queue, which
 * an idle worker could do. Therefore: while it is idle it consumes from all queues. When a message takes longer than
 * `HOLD_MS` it cancels, requeues what else has arrived, and from then on asks the queues in turn (`basic.get`), so that each
 * gets its share. When all are empty it consumes again. Small bands never come to that, so they cost nothing more.
 *
 * Invariant: a message that is not being worked on is held for `HOLD_MS` at most.
 *
 * Not here: connections, publishing, what a message means (queue.ts).
 */
import type { ConfirmChannel, ConsumeMessage, GetMessage } from "amqplib";
import { QueueError } from "../backends.ts";
import { within } from "../ops/deadline.ts";

/** A message that waits this long behind another one is requeued, for a worker that is idle, ms. */
export const HOLD_MS = 50;
/** How long the broker may take to answer a cancel, ms. */
const ANSWER_MS = 2_000;
/** A queue that cannot be used is tried again after this long, ms. */
const RETRY_MS = 5_000;

type Message = ConsumeMessage | GetMessage;

export class Consumer {
  #channel: ConfirmChannel | undefined;
  /** Tags of the running consumers, by queue. */
  readonly #tags = new Map<string, string>();
  /** Queues that cannot be used, and when to try them again, ms since 1970. */
  readonly #refused = new Map<string, number>();
  readonly #arrived: Message[] = [];
  #wake: () => void = () => {};
  #stopped = false;
  /** The queue that is asked first. */
  #turn = 0;
  #running: Promise<void> = Promise.resolve();

  constructor(
    readonly queues: string[],
    readonly deliver: (message: Message, channel: ConfirmChannel) => Promise<void>,
    readonly broker: { declare(queue: string): Promise<void>; restart(): void },
    readonly onConsuming: (consuming: boolean) => void = () => {},
    readonly holdMs = HOLD_MS,
  ) {}

  /** A new connection: what was in progress on the old one has been requeued by the broker. */
  attach(channel: ConfirmChannel): void {
    this.detach();
    this.#channel = channel;
    this.#running = this.#running.then(() => this.#run(channel)).catch(() => this.broker.restart());
  }

  detach(): void {
    this.#channel = undefined;
    this.#tags.clear();
    this.#refused.clear();
    this.#arrived.length = 0;
    this.#wake();
  }

  async stop(): Promise<void> {
    const channel = this.#channel;
    this.#stopped = true;
    if (channel) await this.#unsubscribe(channel).catch(() => {});
    this.#wake();
    await this.#running;
  }

  async #run(channel: ConfirmChannel): Promise<void> {
    const isCurrent = () => this.#channel === channel && !this.#stopped;
    // A consume on the last connection may have been answered after that was detached.
    this.#tags.clear();
    let slow = false;
    while (isCurrent()) {
      const message = slow ? await this.#ask(channel) : await this.#next(channel, isCurrent);
      if (!message) {
        slow = false;
        continue;
      }
      const delivered = this.deliver(message, channel);
      let leaving: Promise<void> | undefined;
      const timer = setTimeout(() => {
        leaving = this.#unsubscribe(channel);
        leaving.catch(() => {}); // awaited below
      }, this.holdMs);
      await delivered;
      clearTimeout(timer);
      await leaving;
      slow = this.#tags.size === 0;
    }
  }

  /** Consumes from all queues until a message arrives. */
  async #next(channel: ConfirmChannel, isCurrent: () => boolean): Promise<Message | undefined> {
    if (this.#tags.size === 0) await this.#subscribe(channel);
    while (isCurrent() && this.#arrived.length === 0) {
      const retry = this.#refused.size > 0 ? setTimeout(() => this.#wake(), RETRY_MS) : undefined;
      await new Promise<void>((wake) => {
        this.#wake = wake;
      });
      clearTimeout(retry);
      if (this.#refused.size > 0 && isCurrent() && this.#arrived.length === 0) await this.#subscribe(channel);
    }
    return isCurrent() ? this.#arrived.shift() : undefined;
  }

  /** The next message of one of the queues, in turn. */
  async #ask(channel: ConfirmChannel): Promise<Message | undefined> {
    for (let i = 0; i < this.queues.length; i++) {
      const queue = this.queues[this.#turn++ % this.queues.length];
      const usable = await this.#declared(queue);
      const message = usable && (await channel.get(queue));
      if (message) return message;
    }
    return undefined;
  }

  async #subscribe(channel: ConfirmChannel): Promise<void> {
    for (const queue of this.queues) {
      if (this.#tags.has(queue) || !(await this.#declared(queue))) continue;
      const { consumerTag } = await channel.consume(queue, (message) => {
        // Null: the broker has cancelled this consumer, for example because the queue was deleted.
        if (message === null) return this.broker.restart();
        if (this.#channel !== channel || this.#stopped) return settle(() => requeue(channel, message));
        this.#arrived.push(message);
        this.#wake();
      });
      this.#tags.set(queue, consumerTag);
    }
    this.onConsuming(true);
  }

  /** A queue that cannot be used is logged, and left alone for a while. */
  async #declared(queue: string): Promise<boolean> {
    if ((this.#refused.get(queue) ?? 0) > Date.now()) return false;
    try {
      await this.broker.declare(queue);
    } catch (error) {
      if (!(error instanceof QueueError)) throw error;
      this.#refused.set(queue, Date.now() + RETRY_MS);
      return false;
    }
    this.#refused.delete(queue);
    return true;
  }

  async #unsubscribe(channel: ConfirmChannel): Promise<void> {
    const tags = [...this.#tags.values()];
    this.#tags.clear();
    await Promise.all(tags.map((tag) => within(channel.cancel(tag), ANSWER_MS, "RabbitMQ did not answer a cancel")));
    for (const message of this.#arrived.splice(0)) settle(() => requeue(channel, message));
    this.onConsuming(false);
  }
}

/** `IllegalOperationError`: the channel was closed in the meantime, and the broker redelivers the message. */
export function settle(step: () => void): void {
  try {
    step();
  } catch {}
}

/** A reject, not a nack: from RabbitMQ 4.3 on only rejects count as deliveries. */
export function requeue(channel: ConfirmChannel, message: Message): void {
  channel.reject(message, true);
}
