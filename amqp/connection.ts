/**
 * The connection to RabbitMQ: to one of its nodes, and to the next one when that fails.
 *
 * Invariant: a connection that fails or is lost is opened again, until `stop`.
 *
 * Not here: queues, channels, messages (queue.ts).
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type ChannelModel, connect } from "amqplib";
import { amqpNodes } from "../ops/address.ts";
import { within } from "../ops/deadline.ts";
import type { Log } from "../ops/log.ts";
import { type Trouble, type TroubleCode, UnavailableError } from "../ops/trouble.ts";

/** How long a node may take to accept a connection, ms. */
const CONNECT_MS = 5_000;
/** The first and the longest pause between two attempts, ms. The pause doubles each time all nodes have failed. */
const PAUSE_MS = [100, 2_000];
/** How long the broker may take to answer a close, ms. */
const CLOSE_MS = 2_000;
/** After two intervals without traffic the broker closes a worker's connection and redelivers its chunk. */
const HEARTBEAT_SECONDS = 10;
/** AMQP's reply code for an operation that the user has no permission for. */
const ACCESS_REFUSED = 403;

/** The first version with at-least-once dead-lettering of quorum queues. */
const MIN_VERSION = [3, 10];

export const NOT_CONNECTED: Trouble = { code: "unreachable", detail: "RabbitMQ is unavailable: not connected" };
/** Troubles that end only when a setting or an account is changed. */
const REFUSALS: TroubleCode[] = ["login", "vhost", "rights"];
const REFUSED =
  "RabbitMQ refuses access: check the user, the password, the virtual host and their permissions; retrying";

export interface Owner {
  /** Runs after every connect. The connection is closed if it throws. */
  setUp(model: ChannelModel): Promise<void>;
  /** Called when the connection is lost, and after each attempt that fails. */
  lost(trouble: Trouble): void;
}

export class RabbitConnection {
  readonly #nodes: string[];
  /** The node that is tried next. A random one at first, so that clients spread over the nodes. */
  #next: number;
  /** Closes the connection that is open now. */
  #close = async () => {};
  readonly #stopped = new AbortController();

  /**
   * Returns at once.
   * @param url as in ops/address.ts
   * @param log gets a line for every lost connection
   * @param ca certificates to trust, PEM
   */
  constructor(
    url: string,
    readonly owner: Owner,
    readonly log: Log,
    readonly ca?: string[],
  ) {
    this.#nodes = amqpNodes(url).map((node) => {
      if (!node.searchParams.has("heartbeat")) node.searchParams.set("heartbeat", String(HEARTBEAT_SECONDS));
      return node.href;
    });
    this.#next = Math.floor(Math.random() * this.#nodes.length);
    void this.#run();
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopped;
    for (let failures = 0; !signal.aborted; failures++) {
      try {
        const { model, lost } = await this.#open();
        await this.#setUp(model, lost);
        failures = 0;
        const error = await lost;
        if (!signal.aborted) this.log.warn("RabbitMQ connection lost, reconnecting", { error });
        this.owner.lost(NOT_CONNECTED);
      } catch (error) {
        const trouble = troubleOf(error as Error);
        const text = REFUSALS.includes(trouble.code) ? REFUSED : "RabbitMQ cannot be reached, retrying";
        if (!signal.aborted) this.log.warn(text, { error });
        this.owner.lost(trouble);
      }
      const [first, longest] = PAUSE_MS;
      const pause = Math.min(longest, first * 2 ** Math.floor(failures / this.#nodes.length));
      // Jitter: clients that lost one node do not all come to the next at the same moment.
      await sleep(pause * (0.8 + 0.4 * Math.random()), undefined, { signal }).catch(() => {});
    }
  }

  /** @returns the connection, and a promise of the error that ends it */
  async #open(): Promise<{ model: ChannelModel; lost: Promise<Error> }> {
    const node = this.#nodes[this.#next++ % this.#nodes.length];
    const model = await connect(node, { timeout: CONNECT_MS, ...(this.ca && { ca: this.ca }) });
    const { promise, resolve } = Promise.withResolvers<Error>();
    // An `error` event without a listener would end the process. `close` follows.
    model.on("error", () => {});
    model.on("close", (error?: Error) => resolve(error ?? new Error("connection closed")));
    this.#close = async () => {
      // A broker that is shutting down may never answer. The connection may be closed already, too.
      await within(model.close(), CLOSE_MS, "no answer").catch(() => {});
      resolve(new Error("connection closed"));
    };
    return { model, lost: promise };
  }

  async #setUp(model: ChannelModel, lost: Promise<Error>): Promise<void> {
    try {
      this.#stopped.signal.throwIfAborted();
      expectVersion(model.connection.serverProperties);
      const failed = lost.then((error) => {
        throw error;
      });
      await Promise.race([this.owner.setUp(model), failed]);
    } catch (error) {
      await this.#close();
      throw error;
    }
  }

  /** Closes the connection, so that another one is opened. */
  restart(): void {
    void this.#close();
  }

  /** Closes the connection for good. */
  async stop(): Promise<void> {
    this.#stopped.abort();
    await this.#close();
  }
}

/** Why a connection failed. It is retried even if RabbitMQ refuses it: an account may be created later. */
function troubleOf(error: Error & { code?: unknown }): Trouble {
  const { message, code } = error;
  const trouble = (code: TroubleCode, why: string) => ({ code, detail: `RabbitMQ is unavailable: ${why}` });
  if (error instanceof UnavailableError) return trouble(error.code, message);
  // amqplib gives a refused handshake no code. It does not read RabbitMQ's reason for refusing a virtual host.
  if (/\b403 \(ACCESS-REFUSED\)/.test(message)) return trouble("login", "it refuses the user or the password");
  if (/<ConnectionClose\b/.test(message))
    return trouble("vhost", "it has no such virtual host, or refuses it to the user");
  return code === ACCESS_REFUSED ? trouble("rights", "the user lacks a permission") : NOT_CONNECTED;
}

/** @throws UnavailableError if RabbitMQ is too old. Other brokers number their versions differently: not checked */
function expectVersion({ product, version }: { product: string; version: string }): void {
  const [major, minor] = version.split(".").map(Number);
  const isOld = major < MIN_VERSION[0] || (major === MIN_VERSION[0] && minor < MIN_VERSION[1]);
  if (product !== "RabbitMQ" || !isOld) return;
  throw new UnavailableError("version", `expected RabbitMQ ${MIN_VERSION.join(".")} or later, got ${version}`);
}
