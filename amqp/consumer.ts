/**
 * Takes messages from several queues, one at a time.
 *
 * A prefetch counts per consumer, so one that is busy with a message of one queue would hold one of each other queue, which
 * an idle worker could do. Therefore: while it is idle it consumes from all queues. When a message takes longer than
 * `HOLD_MS` it cancels, requeues what else has arrived, and from then on gets messages one by one (`basic.get`) from the
 * queues that have some, in turn, so that each gets its share. Which queues these are it asks while a message is worked on,
 * so that over a long way a message costs one round trip. When all are empty it consumes again. Small bands never come to
 * that, so they cost nothing more.
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
/** How long the broker may take to answer the cancels of all queues, one after the other, ms. */
const ANSWER_MS = 10_000;
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
  #working = false;
  /** The queue that is asked first. */
  #turn = 0;
  #running: Promise<void> = Promise.resolve();

  constructor(
    readonly queues: string[],
    readonly deliver: (message: Message, channel: ConfirmChannel) => Promise<void>,
    readonly broker: { waiting(queue: string): Promise<number>; restart(): void },
    readonly onConsuming: (consuming: boolean) => void = () => {},
    readonly holdMs = HOLD_MS,
  ) {}

  /** A new connection: what was in progress on the old one has been requeued by the broker. */
  attach(channel: ConfirmChannel): void {
    this.detach();
    this.#channel = channel;
    const failed = () => {
      if (this.#channel === channel) this.broker.restart(); // not where another connection has replaced it
    };
    this.#running = this.#running.then(() => this.#run(channel)).catch(failed);
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
    // It may have been consuming from more queues meanwhile.
    if (channel) await this.#unsubscribe(channel).catch(() => {});
  }

  async #run(channel: ConfirmChannel): Promise<void> {
    const isCurrent = () => this.#channel === channel && !this.#stopped;
    // A consume on the last connection may have been answered after that was detached.
    this.#tags.clear();
    let slow = false;
    let look: Promise<string[]> | undefined;
    while (isCurrent()) {
      const message =
        this.#arrived.shift() ?? (slow ? await this.#get(channel, look) : await this.#next(channel, isCurrent));
      look = undefined;
      if (!message) {
        slow = false;
        continue;
      }
      if (!isCurrent()) return settle(() => requeue(channel, message)); // stopped before it arrived
      this.#working = true;
      const delivered = this.deliver(message, channel);
      let leaving: Promise<void> | undefined;
      const leave = () => {
        leaving = this.#unsubscribe(channel);
        leaving.catch(() => {}); // awaited below
      };
      const timer = slow ? undefined : setTimeout(leave, this.holdMs);
      if (slow) look = this.#filled();
      look?.catch(() => {}); // awaited by `#get`
      await delivered;
      this.#working = false;
      clearTimeout(timer);
      await leaving;
      slow = this.#tags.size === 0;
    }
  }

  /** Consumes from all queues until a message arrives. */
  async #next(channel: ConfirmChannel, isCurrent: () => boolean): Promise<Message | undefined> {
    if (this.#tags.size < this.queues.length) await this.#subscribe(channel);
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

  /** The next message of one of the queues, in turn. @param look the queues that had messages a while ago */
  async #get(channel: ConfirmChannel, look: Promise<string[]> = this.#filled()): Promise<Message | undefined> {
    for (let queues = await look; queues.length > 0; queues = await this.#filled()) {
      for (const queue of queues) {
        const message = await channel.get(queue);
        if (!message) continue; // another worker was faster
        this.#turn = this.queues.indexOf(queue) + 1;
        return message;
      }
    }
    return undefined;
  }

  /** The queues that have messages, in turn. All are asked at once. */
  async #filled(): Promise<string[]> {
    const inTurn = [...this.queues.slice(this.#turn), ...this.queues.slice(0, this.#turn)];
    const counts = await Promise.all(inTurn.map((queue) => this.#waiting(queue)));
    return inTurn.filter((_, i) => counts[i] > 0);
  }

  async #subscribe(channel: ConfirmChannel): Promise<void> {
    const missing = this.queues.filter((queue) => !this.#tags.has(queue));
    await Promise.all(missing.map((queue) => this.#waiting(queue)));
    for (const queue of missing) {
      if (this.#stopped) return;
      if (this.#refused.has(queue)) continue;
      const { consumerTag } = await channel.consume(queue, (message) => {
        // Null: the broker has cancelled this consumer, for example because the queue was deleted.
        if (message === null) return this.broker.restart();
        if (this.#channel !== channel) return;
        this.#arrived.push(message);
        this.#wake();
      });
      this.#tags.set(queue, consumerTag);
    }
    this.onConsuming(true);
  }

  /** How many messages wait in a queue. One that cannot be used is logged, and left alone for a while. */
  async #waiting(queue: string): Promise<number> {
    if ((this.#refused.get(queue) ?? 0) > Date.now()) return 0;
    try {
      const count = await this.broker.waiting(queue);
      this.#refused.delete(queue);
      return count;
    } catch (error) {
      if (!(error instanceof QueueError)) throw error;
      this.#refused.set(queue, Date.now() + RETRY_MS);
      return 0;
    }
  }

  async #unsubscribe(channel: ConfirmChannel): Promise<void> {
    const tags = [...this.#tags.values()];
    this.#tags.clear();
    const cancelled = Promise.all(tags.map((tag) => channel.cancel(tag)));
    await within(cancelled, ANSWER_MS, "RabbitMQ did not answer a cancel");
    // The next message may come between the acknowledgement of one and the cancel: it is worked on.
    const kept = this.#working || this.#stopped ? 0 : 1;
    for (const message of this.#arrived.splice(kept)) settle(() => requeue(channel, message));
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
