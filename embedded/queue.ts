/**
 * The queue of the embedded mode, in this process.
 *
 * It implements `Queue` (backends.ts). When the process ends, its chunks are lost.
 *
 * Not here: the store (embedded/results.ts), what a worker answers and when (worker.ts).
 */
import { EventEmitter, once } from "node:events";
import { type Handler, type Queue, QueueError } from "../backends.ts";
import { type Chunk, encodeMessage } from "../chunk.ts";
import type { Letter, Peeked } from "../ops/inside.ts";
import { Pool } from "../picture/buffers.ts";

/** Buffers of settled chunks that are kept for reuse, bytes. */
const POOL_BYTES = 16 << 20;

export class LocalQueue implements Queue {
  readonly #waiting: { chunk: Chunk; deliveries: number; sent: number }[] = [];
  readonly #arrivals = new EventEmitter().setMaxListeners(0);
  readonly #consumers: string[][] = [];
  readonly #pool = new Pool(POOL_BYTES);
  /** The last 100 dead letters, newest last. */
  readonly deadLettered: { chunkId: string; reason: string }[] = [];

  async publish(chunk: Chunk): Promise<void> {
    const pixels = this.#pool.take(chunk.pixels.length);
    pixels.set(chunk.pixels);
    this.#waiting.push({ chunk: { ...chunk, pixels }, deliveries: 0, sent: Date.now() });
    this.#arrivals.emit("chunk");
  }

  async consume(tasks: string[], handle: Handler): Promise<() => Promise<void>> {
    const stop = new AbortController();
    this.#consumers.push(tasks);
    const running = this.#serve(tasks, handle, stop.signal);
    return () => {
      stop.abort();
      this.#consumers.splice(this.#consumers.indexOf(tasks), 1);
      return running;
    };
  }

  async depth(task: string): Promise<{ waiting: number; consumers: number }> {
    const waiting = this.#waiting.filter(({ chunk }) => chunk.task === task).length;
    return { waiting, consumers: this.#consumers.filter((tasks) => tasks.includes(task)).length };
  }

  async deadLetters(): Promise<number> {
    return this.deadLettered.length;
  }

  async peek(task: string): Promise<Peeked | null> {
    const { chunk, sent } = this.#waiting.find((one) => one.chunk.task === task) ?? {};
    if (!chunk) return null;
    return {
      id: chunk.chunkId,
      headers: { "x-sent": sent, "x-attempt": chunk.attempt },
      body: Buffer.from(encodeMessage(chunk)),
    };
  }

  async letters(limit: number): Promise<Letter[]> {
    return this.deadLettered.slice(0, limit).map(({ chunkId, reason }) => ({ id: chunkId, queue: "", reason }));
  }

  async putBack(): Promise<Letter[]> {
    throw new QueueError("the embedded mode cannot put dead letters back: send the picture again");
  }

  async #serve(tasks: string[], handle: Handler, stop: AbortSignal): Promise<void> {
    while (!stop.aborted) {
      const at = this.#waiting.findIndex(({ chunk }) => tasks.includes(chunk.task));
      if (at < 0) {
        await once(this.#arrivals, "chunk", { signal: stop }).catch(() => {});
        continue;
      }
      const [{ chunk, deliveries, sent }] = this.#waiting.splice(at, 1);
      const open = async () => ({ ...chunk, pixels: chunk.pixels.slice() });
      const { chunkId, attempt } = chunk;
      const outcome = await handle({ chunkId, deliveries, sent, attempt, open });
      if (outcome.do === "retry" || outcome.do === "renew") {
        this.#waiting.push({ chunk, deliveries: deliveries + 1, sent });
        this.#arrivals.emit("chunk");
        continue;
      }
      this.#pool.give(chunk.pixels);
      if (outcome.do === "dead-letter") {
        this.deadLettered.push({ chunkId: chunk.chunkId, reason: outcome.reason });
        this.deadLettered.splice(0, this.deadLettered.length - 100);
      }
    }
  }

  readonly isLocal = true;

  trouble(): null {
    return null;
  }

  async ping(): Promise<void> {}

  async close(): Promise<void> {}
}
