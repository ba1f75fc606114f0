/**
 * Two lights, for RabbitMQ and Redis. A light shows whether the backend can be used now, since when, and why not.
 *
 * Both backends are asked twice a second, but only while a client watches. A light is late by at most 3 s: the interval
 * and the time limit of an answer.
 *
 * Not here: how a backend is asked (ops/health.ts), the probes of Kubernetes (service.ts).
 */
import type { Backends } from "../backends.ts";
import { troubleOf } from "../ops/health.ts";
import type { Trouble, TroubleCode } from "../ops/trouble.ts";

const INTERVAL_MS = 500;

export interface Light {
  up: boolean;
  /** When it changed to this state, ms since 1970 by the coordinator's clock. */
  since: number;
  /** Null while it is up. */
  code: TroubleCode | null;
  detail: string | null;
}

export interface State {
  rabbitmq: Light;
  redis: Light;
}

export class Lights {
  #state: State = { rabbitmq: lit(), redis: lit() };
  #asked = 0;
  #asking: Promise<void> | undefined;
  #timer: ReturnType<typeof setInterval> | undefined;
  readonly #listeners = new Set<(state: State) => void>();

  constructor(readonly backends: Backends) {}

  /** The state of both. Null in the embedded mode. */
  async read(): Promise<State | null> {
    if (this.backends.queue.isLocal) return null;
    if (Date.now() - this.#asked >= INTERVAL_MS) await this.#ask();
    return this.#state;
  }

  /** Calls `listener` now if a backend is down, and on every change. Returns a function that removes it. */
  watch(listener: (state: State) => void): () => void {
    if (this.backends.queue.isLocal) return () => {};
    this.#listeners.add(listener);
    if (!this.#state.rabbitmq.up || !this.#state.redis.up) listener(this.#state);
    this.#timer ??= setInterval(() => this.#ask(), INTERVAL_MS);
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size > 0) return;
      clearInterval(this.#timer);
      this.#timer = undefined;
    };
  }

  /** Asks both. Only one round runs at a time. Never rejects. */
  #ask(): Promise<void> {
    this.#asking ??= this.#askBoth().finally(() => {
      this.#asking = undefined;
    });
    return this.#asking;
  }

  async #askBoth(): Promise<void> {
    const { queue, results } = this.backends;
    const take = async (name: keyof State, trouble: Promise<Trouble | null>) => this.#take(name, await trouble);
    // Each light is set on its own: a backend that does not answer must not delay the other.
    await Promise.all([
      take("rabbitmq", troubleOf("RabbitMQ", queue.ping())),
      take("redis", troubleOf("Redis", results.ping())),
    ]);
    this.#asked = Date.now();
  }

  #take(name: keyof State, trouble: Trouble | null): void {
    const { code = null, detail = null } = trouble ?? {};
    if (this.#state[name].code === code) return;
    this.#state = { ...this.#state, [name]: { up: code === null, since: Date.now(), code, detail } };
    for (const listener of this.#listeners) listener(this.#state);
  }
}

function lit(): Light {
  return { up: true, since: Date.now(), code: null, detail: null };
}
