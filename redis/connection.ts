/**
 * The two connections to Redis, one for commands and one for messages, and the checks whether Redis can be used.
 *
 * Invariant: every command runs in the database of the address. No error here holds a password: of an error of Redis,
 * only the message is reported.
 *
 * Not here: keys and records (results.ts), the address itself (ops/address.ts).
 */
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { connect as connectTls } from "node:tls";
import { AbstractConnector, Cluster, type ClusterOptions, Redis, type RedisOptions } from "ioredis";
import { type RedisAddress, redisAddress } from "../ops/address.ts";
import { within } from "../ops/deadline.ts";
import type { Log } from "../ops/log.ts";
import { type TroubleCode, UnavailableError } from "../ops/trouble.ts";
import { PROBE } from "./lua.ts";

/** How long the program waits for Redis when it starts, ms. */
const CHECK_MS = 2_000;
/** A connection is opened again if Redis has not answered for this long, ms. */
const SILENCE_MS = 15_000;
/** The same with sentinels or a cluster, ms. It notices a failover: the client's own detector may stop for ever. */
const NODE_SILENCE_MS = 5_000;
/** How long a replica may take to confirm a write, ms. If none does, none is asked again for `NO_REPLICA_MS`. */
const REPLICA_MS = 500;
const NO_REPLICA_MS = 5_000;
/** How long a server may take to accept a connection, ms. */
const CONNECT_MS = 5_000;
/** How long a sentinel may take to answer, ms. */
const SENTINEL_MS = 2_000;
/** Without `patient`, a command is retried this often, which takes about 15 s. */
const MAX_RETRIES = 20;
/** How often the slots of a Redis Cluster are read again, ms. */
const SLOTS_MS = 5_000;
const pauseOf = (times: number) => Math.min(50 * times, 1000);

/** The oldest version with access rights for channels (`&job:*`), which `ping` tries. */
const MIN_VERSION = [6, 2];

/** A channel without messages, to try the right to subscribe. */
const READY = "job:{ready}";

/** Errors that go away without help. Others, such as NOPERM, need a change of the settings or the accounts. */
const PASSING =
  /\b(LOADING|MASTERDOWN|OOM|READONLY|BUSY|MISCONF|NOREPLICAS|CLUSTERDOWN|TRYAGAIN|max number of clients)\b/;

export class RedisConnection {
  readonly commands: Redis | Cluster;
  readonly subscriber: Redis;
  readonly #log: Log | undefined;
  readonly #isReplicated: boolean;
  /** No replica is asked before this time, because none has answered lately. Ms since 1970. */
  #noReplicaUntil = 0;
  /** Why the last attempt to connect failed. */
  #trouble: Error | undefined;
  /** Why this server can never be used; undefined if it can, or before it has answered. */
  #unsuitable: string | undefined;

  /**
   * @param url as in ops/address.ts
   * @param patient commands wait for Redis for ever, instead of failing after about 15 s
   * @param channels the channels that the subscriber must have, after each connect
   * @param log gets a line when Redis becomes unreachable, and one if its version or a setting is unsuitable
   * @param ca certificates to trust, PEM
   */
  constructor(url: string, patient: boolean, channels: () => string[], log?: Log, ca?: string[]) {
    this.#log = log;
    const address = redisAddress(url);
    this.#isReplicated = address.form !== "single";
    this.commands = address.form === "cluster" ? openCluster(address, patient, ca) : openRedis(address, patient, ca);
    // The client's own resubscription leaves a refusal unhandled, which would end the process.
    this.subscriber = openRedis(address, true, ca, { autoResubscribe: false });
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

  #failed(redis: Redis | Cluster, error: Error & { command?: { name: string } }): void {
    redact(error);
    // Without this, the client would continue in database 0.
    if (error.command?.name === "select") redis.disconnect(true);
    const isNew = error.message !== this.#trouble?.message;
    this.#trouble = error;
    if (isNew) this.#log?.warn("Redis cannot be reached, retrying", { error: textOf(error) });
  }

  /** Checks the server's version and settings. Rejects if the user has no right to read them. */
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

  /** Tries every right that this program needs. @throws UnavailableError unless Redis works */
  async ping(): Promise<void> {
    for (const { status } of [this.commands, this.subscriber]) {
      if (status === "ready") continue;
      const why = `the connection is ${status}${this.#trouble ? `: ${textOf(this.#trouble)}` : ""}`;
      throw new UnavailableError(codeOf(this.#trouble), why, { cause: this.#trouble });
    }
    if (this.#unsuitable !== undefined) throw new UnavailableError("version", this.#unsuitable);
    const redis = this.commands;
    const tries = [
      redis.eval(PROBE, 2, "job:{probe}", "resultado:{probe}:0"),
      redis.eval(PROBE, 1, "worker:probe"),
      redis.zrem("workers", ""),
      redis.publish("job:{probe}", "probe"),
      this.subscriber.subscribe(READY),
    ];
    await Promise.all(tries).catch((cause: Error) => {
      throw new UnavailableError(codeOf(cause), cause.message, { cause });
    });
  }

  /**
   * Waits for the first answer of Redis, `CHECK_MS` at most.
   * @throws Error if waiting does not help: a wrong password or database, missing rights, an old version. An
   *   unreachable Redis is no error here
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
      await this.ping();
    };
    await within(first(), CHECK_MS, "no answer").catch((error: Error) => {
      if (error instanceof UnavailableError && error.code === "version") throw new Error(`REDIS_URL: ${error.message}`);
      const reply = error instanceof UnavailableError ? (error.cause as Error | undefined) : error;
      if (isRefusal(reply)) throw new Error(`REDIS_URL: ${cureOf(reply)}: ${reply.message}`, { cause: reply });
    });
  }

  /**
   * Runs a script and waits until a replica has what it wrote. So the death of the leader loses nothing. If no replica
   * answers in time, that is only logged. The script must be idempotent, because it may run twice.
   */
  async evalReplicated(script: string, keys: string[], args: (string | number)[]): Promise<unknown> {
    const run = () => this.commands.eval(script, keys.length, ...keys, ...args);
    for (let tries = 0; ; tries++) {
      if (!this.#isReplicated || Date.now() < this.#noReplicaUntil) return run();
      // One pipeline: `WAIT` counts only what the same connection has written.
      const steps = this.commands.pipeline().eval(script, keys.length, ...keys, ...args);
      const [[error, reply], [lost, replicas]] = (await steps.wait(1, REPLICA_MS).exec()) ?? [];
      // The slot has moved. Outside a pipeline, the client follows the redirection and learns the new node.
      if (["MOVED", "ASK"].includes(replyCodeOf(error)) && tries < MAX_RETRIES) await run();
      else if (error) throw error;
      // The connection was lost between script and WAIT. The leader may have died, so the script is run again.
      else if (lost && tries < MAX_RETRIES) continue;
      else if (lost) throw lost;
      else {
        if (replicas === 0) {
          this.#noReplicaUntil = Date.now() + NO_REPLICA_MS;
          this.#log?.warn("no replica of Redis answers: what is written now is lost if its leader dies");
        }
        return reply;
      }
    }
  }

  /** The servers that together have all keys. */
  leaders(): Redis[] {
    return this.commands instanceof Cluster ? this.commands.nodes("master") : [this.commands];
  }

  close(): void {
    this.commands.disconnect();
    this.subscriber.disconnect();
  }
}

/** Connects to the server, to the leader that sentinels name, or to any node of a cluster: each gets all messages. */
function openRedis(address: RedisAddress, patient: boolean, ca?: string[], more: RedisOptions = {}): Redis {
  const { form, nodes, isTls, username, password, db, name } = address;
  const tls = isTls ? { ...(ca && { ca }) } : undefined;
  const options: RedisOptions = {
    username,
    password,
    db,
    maxRetriesPerRequest: patient ? null : MAX_RETRIES,
    retryStrategy: pauseOf,
    // TCP alone would notice a dead connection only after a quarter of an hour.
    socketTimeout: form === "single" ? SILENCE_MS : NODE_SILENCE_MS,
    connectTimeout: CONNECT_MS,
    ...(tls && { tls }),
    ...more,
  };
  if (form === "single") return new Redis({ ...nodes[0], ...options });
  if (form === "cluster") return new Redis({ ...options, Connector: nodesInTurn(nodes, tls) });
  return new Redis({
    ...options,
    sentinels: nodes,
    name,
    sentinelUsername: address.sentinelUsername,
    sentinelPassword: address.sentinelPassword,
    ...(tls && { sentinelTLS: tls, enableTLSForSentinelMode: true }),
    sentinelRetryStrategy: pauseOf,
    sentinelCommandTimeout: SENTINEL_MS,
    // READONLY comes from a former leader. 2: reconnect to the new one and send the command again.
    reconnectOnError: ({ message }) => (/\bREADONLY\b/.test(message) ? 2 : false),
  });
}

function openCluster(address: RedisAddress, patient: boolean, ca?: string[]): Cluster {
  const { nodes, isTls, username, password } = address;
  const options = {
    redisOptions: {
      username,
      password,
      socketTimeout: NODE_SILENCE_MS,
      connectTimeout: CONNECT_MS,
      ...(isTls && { tls: { ...(ca && { ca }) } }),
    },
    clusterRetryStrategy: pauseOf,
    // Each redirection costs `retryDelayOnFailover`, 100 ms.
    maxRedirections: patient ? Number.POSITIVE_INFINITY : SILENCE_MS / 100,
    // With an offline queue, commands would wait without a limit while no node can be reached.
    enableOfflineQueue: patient,
    slotsRefreshInterval: SLOTS_MS,
    // Keep the names of the nodes: certificates name them, and in Kubernetes their addresses change.
    dnsLookup: (host, done) => done(null, host),
  } satisfies ClusterOptions;
  return new NamedCluster(nodes, options);
}

/** The client's own errors of a cluster, such as `Too many Cluster redirections`, are plain. They get a name. */
class NamedCluster extends Cluster {
  override sendCommand(...sent: Parameters<Cluster["sendCommand"]>): unknown {
    sent[0].promise.catch((error: Error) => {
      if (error.name === "Error") error.name = "RedisError";
    });
    return super.sendCommand(...sent);
  }
}

/** Connects to another node at each attempt. */
function nodesInTurn(nodes: RedisAddress["nodes"], tls: object | undefined) {
  let turn = Math.floor(Math.random() * nodes.length);
  return class extends AbstractConnector {
    constructor() {
      super(CONNECT_MS);
    }

    async connect() {
      this.connecting = true;
      const node = nodes[turn++ % nodes.length];
      this.stream = tls ? connectTls({ ...node, ...tls }) : connect(node);
      this.stream.once("error", (error) => {
        this.firstError = error;
      });
      return this.stream;
    }
  };
}

function isRefusal(error: Error | undefined): error is Error {
  return error?.name === "ReplyError" && !PASSING.test(error.message);
}

/** The code of an error of Redis: its first word. Empty for another error. */
export function replyCodeOf(error: Error | null | undefined): string {
  return /^[A-Z]+(?= )/.exec(error?.message ?? "")?.[0] ?? "";
}

function codeOf(error: Error | undefined): TroubleCode {
  return REPLIES[replyCodeOf(error)] ?? "unreachable";
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

/** What to change in the settings. */
function cureOf(error: Error & { command?: { name: string } }): string {
  if (codeOf(error) === "login") return "expected a valid user and password";
  if (error.command?.name === "select") return "expected the number of a database that exists";
  return "expected a user with the rights of docs/settings.md";
}

/**
 * Removes the password from an error. Some servers repeat the arguments of a command that they do not know, and those
 * of the first command hold the password. The object itself is changed, because every waiting command gets the same
 * one.
 */
function redact(error: Error): void {
  const [message] = error.message.split(/,? with args beginning with/, 1);
  if (message === error.message) return;
  error.message = message;
  error.stack = `${error.name}: ${message}`;
}

/** The error of a connection that failed at several addresses has no message. */
function textOf(error: Error & { code?: string }): string {
  return error.message || error.code || error.name;
}
