/**
 * The two connections to Redis, one for commands and one for messages, and whether Redis can be used at all.
 *
 * Invariant: no command runs in another database than that of the address, and no error here holds a password: an error of
 * Redis is reported by its message only.
 *
 * Not here: keys and records (results.ts), the address itself (ops/settings.ts).
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import { type TroubleCode, UnavailableError } from "../backends.ts";
import { within } from "../ops/deadline.ts";
import type { Log } from "../ops/log.ts";
import { serverUrl } from "../ops/settings.ts";
import { PROBE } from "./lua.ts";

/** How long the start waits for Redis, ms. */
const CHECK_MS = 2_000;
/** How long Redis may take to answer before the connection is opened again, ms. */
const SILENCE_MS = 15_000;
/** The oldest version whose rights of channels (`&job:*`) these checks rely on. */
const MIN_VERSION = [6, 2];

/** A channel without messages, to try the right to subscribe. */
const READY = "job:{ready}";

/** Replies that end by themselves. Others, such as NOPERM, last until someone changes the settings or the accounts. */
const PASSING =
  /\b(LOADING|MASTERDOWN|OOM|READONLY|BUSY|MISCONF|NOREPLICAS|CLUSTERDOWN|TRYAGAIN|max number of clients)\b/;

export class RedisConnection {
  readonly commands: Redis;
  readonly subscriber: Redis;
  readonly #log: Log | undefined;
  /** Why the last attempt to connect failed. */
  #trouble: Error | undefined;
  /** Why this server can never be used; found once it has answered. */
  #unsuitable: string | undefined;

  /**
   * @param url `redis://` or `rediss://`
   * @param patient commands wait for Redis for ever, instead of failing after about 15 s
   * @param channels the channels that the subscriber must have, after each connect
   * @param log gets a line when Redis becomes unreachable, and one for each setting of the server that loses results
   */
  constructor(url: string, patient: boolean, channels: () => string[], log?: Log) {
    this.#log = log;
    const address = serverUrl("REDIS_URL", url, "redis").href;
    const options = {
      maxRetriesPerRequest: patient ? null : 20,
      retryStrategy: (times: number) => Math.min(50 * times, 1000),
      // A silent connection is opened again. TCP alone would notice after a quarter of an hour.
      socketTimeout: SILENCE_MS,
    };
    this.commands = new Redis(address, options);
    // The client's own resubscription leaves a refusal unhandled, which would end the process.
    this.subscriber = new Redis(address, { ...options, maxRetriesPerRequest: null, autoResubscribe: false });
    for (const redis of [this.commands, this.subscriber]) {
      // Without a listener an `error` event would end the process.
      redis.on("error", (error) => this.#failed(redis, error));
    }
    this.commands.on("ready", () => {
      this.#trouble = undefined;
      this.#inspect().catch(() => {});
    });
    this.subscriber.on("ready", () => {
      this.subscriber.subscribe(READY, ...channels()).catch((error) => this.#failed(this.subscriber, error));
    });
  }

  #failed(redis: Redis, error: Error & { command?: { name: string } }): void {
    redact(error);
    // Without this the client would go on in database 0.
    if (error.command?.name === "select") redis.disconnect(true);
    const isNew = error.message !== this.#trouble?.message;
    this.#trouble = error;
    if (isNew) this.#log?.warn("Redis cannot be reached, retrying", { error: textOf(error) });
  }

  /** Reads the server's version and settings where the user may. */
  async #inspect(): Promise<void> {
    const info = await this.commands.info();
    const [, version, major, minor] = /^redis_version:((\d+)\.(\d+)[^\r\n]*)/m.exec(info) ?? [];
    const isOld =
      Number(major) < MIN_VERSION[0] || (Number(major) === MIN_VERSION[0] && Number(minor) < MIN_VERSION[1]);
    this.#unsuitable = isOld ? `expected Redis ${MIN_VERSION.join(".")} or later, got ${version}` : undefined;
    if (isOld) this.#log?.error("Redis cannot be used", { error: this.#unsuitable });
    const [, policy = "noeviction"] = /^maxmemory_policy:([\w-]+)/m.exec(info) ?? [];
    if (policy === "noeviction") return;
    this.#log?.warn("Redis may evict results: expected maxmemory-policy noeviction", { policy });
  }

  /** Needs all the rights of this program. @throws UnavailableError unless Redis works */
  async ping(): Promise<void> {
    for (const { status } of [this.commands, this.subscriber]) {
      if (status === "ready") continue;
      const why = `the connection is ${status}${this.#trouble ? `: ${textOf(this.#trouble)}` : ""}`;
      throw new UnavailableError(codeOf(this.#trouble), why, { cause: this.#trouble });
    }
    if (this.#unsuitable !== undefined) throw new UnavailableError("version", this.#unsuitable);
    const keys = ["job:{probe}", "resultado:{probe}:0", "worker:probe", "workers"];
    const tries = [this.commands.eval(PROBE, keys.length, ...keys), this.subscriber.subscribe(READY)];
    await Promise.all(tries).catch((cause: Error) => {
      throw new UnavailableError(codeOf(cause), cause.message, { cause });
    });
  }

  /**
   * Waits for the first answer of Redis, `CHECK_MS` at most.
   * @throws Error for what lasts: a wrong password or database, missing rights, an old version. Not while Redis is unreachable
   */
  async check(): Promise<void> {
    const end = Date.now() + CHECK_MS;
    const first = async () => {
      while ([this.commands, this.subscriber].some(({ status }) => status !== "ready")) {
        if (isRefusal(this.#trouble)) throw this.#trouble;
        if (Date.now() > end) return;
        await sleep(20);
      }
      await this.#inspect().catch(() => {});
      if (this.#unsuitable !== undefined) throw new Error(`REDIS_URL: ${this.#unsuitable}`);
      await this.ping();
    };
    await within(first(), CHECK_MS, "no answer").catch((error: Error) => {
      if (error.message.startsWith("REDIS_URL: ")) throw error;
      const reply = error instanceof UnavailableError ? (error.cause as Error | undefined) : error;
      if (isRefusal(reply)) throw new Error(`REDIS_URL: ${cureOf(reply)}: ${reply.message}`, { cause: reply });
    });
  }

  close(): void {
    this.commands.disconnect();
    this.subscriber.disconnect();
  }
}

function isRefusal(error: Error | undefined): error is Error {
  return error?.name === "ReplyError" && !PASSING.test(error.message);
}

/** By the code with which a reply begins. */
function codeOf(error: Error | undefined): TroubleCode {
  const [reply] = /^[A-Z]+(?= )/.exec(error?.message ?? "") ?? [""];
  return REPLIES[reply] ?? "unreachable";
}

const REPLIES: Record<string, TroubleCode> = {
  WRONGPASS: "login",
  NOAUTH: "login",
  NOPERM: "rights",
  LOADING: "starting",
  MASTERDOWN: "starting",
  BUSY: "silent",
  OOM: "blocked",
  MISCONF: "blocked",
  READONLY: "blocked",
  NOREPLICAS: "blocked",
};

/** What to change, by the code with which the reply begins. */
function cureOf(error: Error & { command?: { name: string } }): string {
  if (/^(WRONGPASS|NOAUTH)\b/.test(error.message)) return "expected a valid user and password";
  if (error.command?.name === "select") return "expected the number of a database that exists";
  return "expected a user with the rights of docs/settings.md";
}

/**
 * Some servers repeat the arguments of a command that they do not know, and those of the first command hold the password.
 * The same error object goes to every command that waits for the connection.
 */
function redact(error: Error): void {
  const [message] = error.message.split(/,? with args beginning with/, 1);
  if (message === error.message) return;
  error.message = message;
  error.stack = `${error.name}: ${message}`;
}

/** A connection that fails at several addresses has an error without a message. */
function textOf(error: Error & { code?: string }): string {
  return error.message || error.code || error.name;
}
