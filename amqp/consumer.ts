/**
 * Takes messages from several queues, one at a time.
 *
 * The broker counts a prefetch per consumer. So a worker that is busy with a message of one queue would also hold a
 * message of each other queue, although another worker may be idle. Therefore only an idle worker consumes from all
 * queues. When a message takes longer than `HOLD_MS`, the worker cancels its consumers and requeues the other messages
 * that have arrived. From then on it gets messages one by one (`basic.get`) from the queues that have some, in turn, so
 * that each queue gets its share. It asks for these queues while it works on a message, so a message costs one round
 * trip. When all queues are empty, it consumes again. Small bands end before `HOLD_MS`, so they cost nothing more.
 *
 * Each queue has a channel of its own. amqplib sends one request at a time on a channel, so this way all queues are
 * asked at once. A channel that closes affects no other queue, and its queue is consumed again.
 *
 * Invariant: a message waits about `HOLD_MS` at most behind another message.
 *
 * Not here: connections, publishing, what a message means (queue.ts).
 */
import type { ConfirmChannel, ConsumeMessage, GetMessage } from "amqplib";
import { within } from "../ops/deadline.ts";

/** A message that waits this long behind another one is requeued, for a worker that is idle, ms. */
export const HOLD_MS = 50;
/** How long the broker may take to answer the cancels, ms. */
const ANSWER_MS = 10_000;
/** A queue that cannot be used is tried again after this long, ms. */
const RETRY_MS = 5_000;
/** A worker that has been idle for this long checks for messages that it was not sent, ms. */
const IDLE_MS = 10_000;

export type Message = ConsumeMessage | GetMessage;
/** A message, and the channel that it came from. */
type Received = { message: Message; channel: ConfirmChannel };

interface Broker {
  /** Declares a queue. @returns its channel, with a prefetch of 1 */
  open(queue: string): Promise<ConfirmChannel>;
  waiting(queue: string): Promise<number>;
  restart(): void;
}

export class Consumer {
  /** Identifies the connection in use; undefined while there is none. */
  #attached: symbol | undefined;
  /** The channels of the running consumers, by queue. */
  readonly #channels = new Map<string, ConfirmChannel>();
  readonly #tag = crypto.randomUUID();
  /** Queues that cannot be used, and when to try them again, ms since 1970. */
  readonly #refused = new Map<string, number>();
  #arrived: Received[] = [];
  #wake: () => void = () => {};
  #stopped = false;
  #working = false;
  /** The index of the queue that is next in turn. */
  #next = 0;
  #running: Promise<void> = Promise.resolve();

  constructor(
    readonly queues: string[],
    readonly deliver: (message: Message, channel: ConfirmChannel) => Promise<void>,
    readonly broker: Broker,
    readonly onConsuming: (consuming: boolean) => void = () => {},
    readonly holdMs = HOLD_MS,
  ) {}

  /** Starts on a new connection. The broker has requeued what was in progress on the old one. */
  attach(): void {
    this.detach();
    const attached = Symbol();
    this.#attached = attached;
    const isCurrent = () => this.#attached === attached && !this.#stopped;
    const failed = () => {
      if (this.#attached === attached) this.broker.restart(); // not if another connection has replaced it
    };
    this.#running = this.#running.then(() => this.#run(isCurrent)).catch(failed);
  }

  detach(): void {
    this.#attached = undefined;
    this.#channels.clear();
    this.#arrived = [];
    this.#wake();
  }

  /** Forgets a channel that is closed or has lost its queue. The broker has requeued what it delivered. */
  closed(channel: ConfirmChannel): void {
    for (const [queue, of] of this.#channels) if (of === channel) this.#channels.delete(queue);
    this.#arrived = this.#arrived.filter((received) => received.channel !== channel);
    this.#wake();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#unsubscribe().catch(() => {});
    this.#wake();
    await this.#running;
  }

  async #run(isCurrent: () => boolean): Promise<void> {
    // A subscription to the last connection may have added channels after `detach`.
    this.#channels.clear();
    this.#refused.clear();
    /** The queues that have messages. Undefined while this worker consumes, and does not ask. */
    let filled: Promise<string[]> | undefined;
    while (isCurrent()) {
      const received = this.#arrived.shift() ?? (await (filled ? this.#get(filled) : this.#arrival(isCurrent)));
      if (!received) {
        filled = undefined;
        continue;
      }
      const { message, channel } = received;
      if (!isCurrent()) return settle(() => requeue(channel, message)); // stopped or detached meanwhile
      this.#working = true;
      const delivered = this.deliver(message, channel);
      let cancelled: Promise<void> | undefined;
      const cancel = () => {
        cancelled = this.#unsubscribe();
        filled = cancelled.then(() => this.#filledQueues());
        filled.catch(() => {}); // if `cancelled` fails, the await below throws
      };
      const timer = filled ? undefined : setTimeout(cancel, this.holdMs);
      if (filled) filled = this.#filledQueues(); // asked while the band is computed
      await delivered;
      this.#working = false;
      clearTimeout(timer);
      await cancelled;
    }
  }

  /** Consumes from all queues until a message arrives. */
  async #arrival(isCurrent: () => boolean): Promise<Received | undefined> {
    while (isCurrent() && this.#arrived.length === 0) {
      if (this.#channels.size < this.queues.length) await this.#subscribe();
      if (!isCurrent() || this.#arrived.length > 0) break;
      if (this.#channels.size + this.#refused.size < this.queues.length) continue; // a channel was closed meanwhile
      const check = () => {
        this.#checkConsumers().catch(() => {}); // tried again the next time
        this.#wake();
      };
      const timer = setTimeout(check, this.#refused.size > 0 ? RETRY_MS : IDLE_MS);
      await new Promise<void>((wake) => {
        this.#wake = wake;
      });
      clearTimeout(timer);
    }
    return isCurrent() ? this.#arrived.shift() : undefined;
  }

  /**
   * A broker may lose a consumer without a notice, as when a queue is deleted and at once declared again. Then messages
   * wait while this worker is idle. Closing the channel of such a queue has the queue consumed again.
   */
  async #checkConsumers(): Promise<void> {
    const consumed = [...this.#channels];
    const counts = await Promise.all(consumed.map(([queue]) => this.broker.waiting(queue)));
    if (this.#working || this.#arrived.length > 0) return;
    for (const [i, [queue, channel]] of consumed.entries()) {
      // It may be closed already, or be left to another consumer while the broker answered.
      if (counts[i] > 0 && this.#channels.get(queue) === channel) channel.close().catch(() => {});
    }
  }

  /** The next message of one of the queues, in turn. @param filled the queues that had messages when last asked */
  async #get(filled: Promise<string[]>): Promise<Received | undefined> {
    for (let queues = await filled; queues.length > 0; queues = await this.#filledQueues()) {
      for (const queue of queues) {
        const received = await this.#unlessRefused(queue, async () => {
          const channel = await this.broker.open(queue);
          const message = await channel.get(queue);
          return message && { message, channel };
        });
        if (!received) continue; // another worker was faster
        this.#next = this.queues.indexOf(queue) + 1;
        return received;
      }
    }
    return undefined;
  }

  /** The queues that have messages, in turn. All are asked at once. */
  async #filledQueues(): Promise<string[]> {
    const inTurn = [...this.queues.slice(this.#next), ...this.queues.slice(0, this.#next)];
    const waiting = (queue: string) => this.#unlessRefused(queue, () => this.broker.waiting(queue));
    const counts = await Promise.all(inTurn.map(waiting));
    return inTurn.filter((_, i) => (counts[i] ?? 0) > 0);
  }

  async #subscribe(): Promise<void> {
    const missing = this.queues.filter((queue) => !this.#channels.has(queue));
    await Promise.all(missing.map((queue) => this.#unlessRefused(queue, () => this.#consume(queue))));
    this.onConsuming(true);
  }

  async #consume(queue: string): Promise<void> {
    const channel = await this.broker.open(queue);
    if (this.#stopped) return;
    this.#channels.set(queue, channel); // before the answer, so that a cancel includes it
    const arrive = (message: ConsumeMessage | null) => {
      if (message === null) return; // the broker has cancelled this consumer: the channel is being closed
      this.#arrived.push({ message, channel });
      this.#wake();
    };
    await channel.consume(queue, arrive, { consumerTag: this.#tag });
  }

  /** @returns undefined for a queue that cannot be used; it is not asked again for `RETRY_MS` */
  async #unlessRefused<T>(queue: string, ask: () => Promise<T>): Promise<T | undefined> {
    if ((this.#refused.get(queue) ?? 0) > Date.now()) return undefined;
    try {
      const answer = await ask();
      this.#refused.delete(queue);
      return answer;
    } catch {
      this.#channels.delete(queue);
      this.#refused.set(queue, Date.now() + RETRY_MS);
      return undefined;
    }
  }

  async #unsubscribe(): Promise<void> {
    const channels = [...this.#channels.values()];
    this.#channels.clear();
    // A channel that is closed has no consumer to cancel.
    const cancelled = channels.map((channel) => channel.cancel(this.#tag).catch(() => {}));
    await within(Promise.all(cancelled), ANSWER_MS, "RabbitMQ did not answer a cancel");
    // A message may arrive between the last acknowledgement and the cancel. A worker that is idle keeps it.
    const kept = this.#working || this.#stopped ? 0 : 1;
    for (const { message, channel } of this.#arrived.splice(kept)) settle(() => requeue(channel, message));
    this.onConsuming(false);
  }
}

/** Ignores the `IllegalOperationError` of a channel that is closed: the broker redelivers its message. */
export function settle(step: () => void): void {
  try {
    step();
  } catch {}
}

/** A reject, not a nack: from RabbitMQ 4.3 on only rejects count as deliveries. */
export function requeue(channel: ConfirmChannel, message: Message): void {
  channel.reject(message, true);
}
