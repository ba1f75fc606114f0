/**
 * Results, job records, events and the list of workers, in Redis.
 *
 *     job:{<id>}           hash: the request, the size, the plan, `enqueued`, `error`, `failure`, `suspect`
 *     job:{<id>}:rows      hash: band → CRC-32 of its rows, set before it is sent; a result made of other rows is refused
 *     job:{<id>}:sent      hash: band → CRC-32 of its rows, set when the queue has confirmed it
 *     job:{<id>}:done      hash: band → JSON { worker, ms, crc, bytes, deliveries, lossy }
 *     job:{<id>}:failures  hash: band → how often its task threw
 *     job:{<id>}:feeder    the lease of the coordinator that enqueues the job
 *     resultado:<chunk id> base64 of the band as a picture, or of its JSON
 *     workers              sorted set: name → time of the last heartbeat, ms by Redis' clock
 *     worker:<name>        hash: what the worker is and has done
 *     channel job:{<id>}   a band's number and its done record; "enqueued" when only that changed; "job" when anything may have
 *
 * Invariant: every key of a job has a TTL, renewed with every band, and nothing about a job is written unless its record
 * exists. So a late worker cannot bring a removed job back. Messages on the channel are hints; the hashes are the truth.
 *
 * Not here: what follows from the records (watch.ts, job.ts), the scripts that write them (lua.ts), the queue (queue.ts).
 */
import { tracingChannel } from "node:diagnostics_channel";
import { EventEmitter } from "node:events";
import { type ChainableCommander, Redis } from "ioredis";
import { chunkIdOf, fromBase64, parseChunkId, toBase64 } from "./chunk.ts";
import { LEASE, MARK, RECORD_FOREIGN, RELEASE, STORE, TRACK_MISSING, UPDATE } from "./lua.ts";
import { serverUrl } from "./ops/settings.ts";
import type { Offer, Values } from "./task.ts";

export interface Job {
  id: string;
  /** Name on the wire, with its version: `sobel`, `median.2`. */
  task: string;
  /** Whether the task returns pixels or JSON. */
  kind: "picture" | "data";
  /** As requested, defaults filled in. */
  params: Values;
  /** The job of the first step of a task with two; null for a task with one. */
  preJobId: string | null;
  /** The parameters that the first step has found; null until then. */
  derivedParams: Values | null;
  /** At most this many bands in flight; null: as many as the workers can use. */
  workers: number | null;
  width: number;
  height: number;
  /** Rows of a band; the last may have fewer. */
  rows: number;
  bands: number;
  /** When it was first requested, ms since 1970. */
  created: number;
  /** The whole picture has been read, and every band is in the queue or done. */
  enqueued: boolean;
  /** Why it failed, in a sentence. */
  error: string | null;
  /** The same in a word, for metrics. */
  failure: Failure | null;
}

/** Why a job fails: a band that is nowhere, a task that threw, a message or a result that cannot be read. */
export type Failure = "lost" | "task_failed" | "bad_message" | "bad_result" | "other";

export interface Done {
  worker: string;
  /** How long the task took, ms. */
  ms: number;
  /** CRC-32 of the grey rows it was made from, without halo. */
  crc: number;
  /** Bytes of the result as `encodeBand` makes it; 0 for a third-party result. */
  bytes: number;
  /** How often it had been delivered before, to workers that did not return it. */
  deliveries: number;
  /** Stored as a picture that is not a PNG, so its pixels may not be exact. */
  lossy?: true;
}

export interface WorkerInfo {
  name: string;
  host: string;
  pid: number;
  /** A worker that sends it also keeps `busy` right; empty where it does not. */
  runtime: string;
  /** Cores of its host, shared with other programs. */
  cores: number;
  tasks: string[];
  /** Those of them that a coordinator can enqueue without having their modules. */
  offers: Offer[];
  /** When it joined, ms since 1970. */
  since: number;
  /** Done so far: bands, their pixels, and the ms that the task took. */
  bands: number;
  pixels: number;
  ms: number;
  /** Ids of the jobs whose bands it has, separated by spaces; empty when it is idle. */
  busy: string;
}

/** What a watcher gets: a band is done, or the whole picture is enqueued. Undefined: anything may have changed. */
export type Hint = { band: number; done: Done } | "enqueued";

export interface Results {
  /** Writes a whole record. It expires `ttl` seconds after the job's last band. */
  putJob(job: Job): Promise<void>;
  findJob(id: string): Promise<Job | null>;
  /** Changes a record; false where there is none. */
  updateJob(id: string, change: Change): Promise<boolean>;
  /** Removes the record and everything that belongs to it. @param bands how many it has, where known */
  removeJob(id: string, bands?: number): Promise<void>;

  /** Takes or renews the lease to enqueue a job, for `ms`; false while another owner has it. */
  lease(id: string, owner: string, ms: number): Promise<boolean>;
  release(id: string, owner: string): Promise<void>;

  /** Records the CRC-32 of a band's rows, before it is sent. */
  expectRows(id: string, band: number, crc: number): Promise<void>;
  markSent(id: string, band: number, crc: number): Promise<void>;
  sent(id: string): Promise<Map<number, number>>;
  done(id: string): Promise<Map<number, Done>>;
  /** Counts a failure of a band's task; returns how many there were. */
  countFailure(chunkId: string): Promise<number>;

  /**
   * Stores a band, marks it done and publishes that, in one transaction. False: the job is gone or has failed, or
   * `done.crc` is not what `expectRows` recorded, so the band is left over from an earlier job with the same id.
   * @param picture must not change until this resolves
   */
  store(chunkId: string, picture: Uint8Array, done: Done): Promise<boolean>;
  /** Marks as done those bands of `awaited` (band → CRC) whose result a third-party worker has SET. */
  recordForeignResults(id: string, awaited: Map<number, number>): Promise<void>;
  /**
   * Records whether a job has bands that are missing: neither in the queue nor with a worker.
   * @returns for how long they have been missing, ms; 0 while none is. A stored band resets it.
   */
  trackMissing(id: string, nowhere: boolean): Promise<number>;
  load(chunkId: string): Promise<Uint8Array | null>;
  drop(chunkId: string): Promise<void>;

  /** Gives every third-party result a TTL, even where its job is gone. */
  sweep(): Promise<void>;

  watch(id: string, listener: (hint?: Hint) => void): Promise<() => void>;

  beat(worker: WorkerInfo): Promise<void>;
  leave(name: string): Promise<void>;
  /** Live workers: those with a heartbeat in the last `LIVE_MS`. */
  workers(): Promise<WorkerInfo[]>;

  /** Rejects while the store cannot be used. */
  ping(): Promise<void>;
  close(): Promise<void>;
}

export const BEAT_MS = 4_000;
export const LIVE_MS = 12_000;

/** Recorded as the worker of a third-party result. */
export const FOREIGN_WORKER = "foreign";

const jobKey = (id: string) => `job:{${id}}`;
const resultKey = (chunkId: string) => `resultado:${chunkId}`;

export type Change = Partial<Pick<Job, "enqueued" | "error" | "failure" | "derivedParams">>;

export function hintOf(change: Change): "enqueued" | undefined {
  return change.enqueued && Object.keys(change).length === 1 ? "enqueued" : undefined;
}

// Bun's channels do not say whether anybody listens, as Node's and Deno's do, and so ioredis tells each command with its
// arguments, megabytes among them, to nobody.
const tracing = Object.getPrototypeOf(tracingChannel("ioredis:command"));
if (!("hasSubscribers" in tracing)) {
  const parts = ["start", "end", "asyncStart", "asyncEnd", "error"] as const;
  const get = function (this: Record<string, { hasSubscribers: boolean }>) {
    return parts.some((part) => this[part].hasSubscribers);
  };
  Object.defineProperty(tracing, "hasSubscribers", { get, configurable: true });
}

/** What the processes of the distributed mode share. */
export class RedisResults implements Results {
  readonly #redis: Redis;
  readonly #subscriber: Redis;
  readonly #events = new EventEmitter().setMaxListeners(0);

  /**
   * @param url `redis://` or `rediss://`
   * @param patient commands wait for Redis for ever (a worker), instead of failing after about 15 s
   */
  constructor(
    url: string,
    readonly ttlSeconds: number,
    patient: boolean,
  ) {
    const address = serverUrl("REDIS_URL", url, "redis").href;
    const options = {
      maxRetriesPerRequest: patient ? null : 20,
      retryStrategy: (times: number) => Math.min(50 * times, 1000),
    };
    this.#redis = new Redis(address, options);
    this.#subscriber = new Redis(address, { ...options, maxRetriesPerRequest: null });
    // An `error` event without a listener would end the process. The commands themselves report failures.
    this.#redis.on("error", () => {});
    this.#subscriber.on("error", () => {});
    this.#subscriber.on("message", (channel: string, message: string) => {
      const space = message.indexOf(" ");
      const band = Number(message.slice(0, space));
      const whole: Hint | undefined = message === "enqueued" ? message : undefined;
      this.#events.emit(channel, space < 0 ? whole : { band, done: JSON.parse(message.slice(space)) });
    });
    // Messages published while the connection was down are lost: every watcher reads the records again.
    this.#subscriber.on("ready", () => {
      for (const channel of this.#events.eventNames()) this.#events.emit(channel);
    });
  }

  async putJob(job: Job): Promise<void> {
    const key = jobKey(job.id);
    const fields = { ...fieldsOf(job), ttl: this.ttlSeconds };
    await all(this.#redis.multi().hset(key, fields).expire(key, this.ttlSeconds).publish(key, "job"));
  }

  async findJob(id: string): Promise<Job | null> {
    const fields = await this.#redis.hgetall(jobKey(id));
    return fields.id ? jobFrom(fields) : null;
  }

  async updateJob(id: string, change: Change): Promise<boolean> {
    const fields = Object.entries(fieldsOf(change)).flat();
    return (await this.#redis.eval(UPDATE, 1, jobKey(id), hintOf(change) ?? "job", ...fields)) === 1;
  }

  /** Lets a failed job continue: done bands stay, the rest must be sent again. */
  async reviveJob(id: string): Promise<void> {
    if (!(await this.updateJob(id, { error: null, failure: null, enqueued: false }))) return;
    await this.#redis.del(`${jobKey(id)}:sent`, `${jobKey(id)}:failures`);
  }

  async removeJob(id: string, known?: number): Promise<void> {
    const key = jobKey(id);
    const bands = known ?? Number(await this.#redis.hget(key, "bands"));
    // The record first: without it nothing more is written about this job.
    const steps = this.#redis.pipeline().del(key, `${key}:rows`, `${key}:sent`, `${key}:done`, `${key}:failures`);
    steps.publish(key, "job");
    const results = Array.from({ length: bands }, (_, band) => resultKey(chunkIdOf(id, band)));
    for (let i = 0; i < results.length; i += 500) steps.unlink(...results.slice(i, i + 500));
    await all(steps);
  }

  async lease(id: string, owner: string, ms: number): Promise<boolean> {
    return (await this.#redis.eval(LEASE, 1, `${jobKey(id)}:feeder`, owner, ms)) === 1;
  }

  async release(id: string, owner: string): Promise<void> {
    await this.#redis.eval(RELEASE, 1, `${jobKey(id)}:feeder`, owner);
  }

  async expectRows(id: string, band: number, crc: number): Promise<void> {
    await this.#redis.eval(MARK, 2, jobKey(id), `${jobKey(id)}:rows`, "HSET", band, crc);
  }

  async markSent(id: string, band: number, crc: number): Promise<void> {
    await this.#redis.eval(MARK, 2, jobKey(id), `${jobKey(id)}:sent`, "HSET", band, crc);
  }

  async sent(id: string): Promise<Map<number, number>> {
    const fields = Object.entries(await this.#redis.hgetall(`${jobKey(id)}:sent`));
    return new Map(fields.map(([band, crc]) => [Number(band), Number(crc)]));
  }

  async done(id: string): Promise<Map<number, Done>> {
    const fields = Object.entries(await this.#redis.hgetall(`${jobKey(id)}:done`));
    return new Map(fields.map(([band, record]) => [Number(band), JSON.parse(record)]));
  }

  async countFailure(chunkId: string): Promise<number> {
    const { jobId, band } = parseChunkId(chunkId);
    const key = jobKey(jobId);
    return Number(await this.#redis.eval(MARK, 2, key, `${key}:failures`, "HINCRBY", band, 1));
  }

  async store(chunkId: string, picture: Uint8Array, done: Done): Promise<boolean> {
    const { jobId, band } = parseChunkId(chunkId);
    const key = jobKey(jobId);
    const keys = [key, `${key}:done`, resultKey(chunkId), `${key}:rows`];
    const record = JSON.stringify(done);
    return (await this.#redis.eval(STORE, keys.length, ...keys, band, record, toBase64(picture), done.crc)) === 1;
  }

  async recordForeignResults(id: string, awaited: Map<number, number>): Promise<void> {
    const key = jobKey(id);
    const keys = [...awaited.keys()].map((band) => resultKey(chunkIdOf(id, band)));
    const records = [...awaited].flatMap(([band, crc]) => {
      return [band, JSON.stringify({ worker: FOREIGN_WORKER, ms: 0, crc, bytes: 0, deliveries: 0 } satisfies Done)];
    });
    await this.#redis.eval(RECORD_FOREIGN, keys.length + 2, key, `${key}:done`, ...keys, ...records);
  }

  async trackMissing(id: string, nowhere: boolean): Promise<number> {
    return Number(await this.#redis.eval(TRACK_MISSING, 1, jobKey(id), nowhere ? 1 : 0));
  }

  async load(chunkId: string): Promise<Uint8Array | null> {
    const text = await this.#redis.getBuffer(resultKey(chunkId));
    return text && fromBase64(text, resultKey(chunkId));
  }

  async drop(chunkId: string): Promise<void> {
    await this.#redis.unlink(resultKey(chunkId));
  }

  async sweep(): Promise<void> {
    let cursor = "0";
    do {
      const [next, keys] = await this.#redis.scan(cursor, "MATCH", resultKey("*"), "COUNT", 500);
      for (const key of keys) await this.#redis.expire(key, this.ttlSeconds, "NX");
      cursor = next;
    } while (cursor !== "0");
  }

  async watch(id: string, listener: (hint?: Hint) => void): Promise<() => void> {
    const channel = jobKey(id);
    this.#events.on(channel, listener);
    await this.#subscriber.subscribe(channel);
    return () => {
      this.#events.off(channel, listener);
      if (this.#events.listenerCount(channel) === 0) this.#subscriber.unsubscribe(channel).catch(() => {});
    };
  }

  async beat(worker: WorkerInfo): Promise<void> {
    const key = `worker:${worker.name}`;
    const [seconds] = await this.#redis.time();
    const fields = { ...worker, tasks: JSON.stringify(worker.tasks), offers: JSON.stringify(worker.offers) };
    const beat = this.#redis.multi().zadd("workers", seconds * 1000, worker.name);
    await all(beat.hset(key, fields).pexpire(key, LIVE_MS));
  }

  async leave(name: string): Promise<void> {
    await this.#redis.zrem("workers", name);
    await this.#redis.del(`worker:${name}`);
  }

  async workers(): Promise<WorkerInfo[]> {
    const [seconds] = await this.#redis.time();
    const oldest = seconds * 1000 - LIVE_MS;
    await this.#redis.zremrangebyscore("workers", 0, oldest);
    const names = await this.#redis.zrangebyscore("workers", "-inf", "+inf");
    const found = await Promise.all(names.map((name) => this.#heartbeat(name)));
    return found.filter((fields) => fields.name).map(workerOf);
  }

  /** Empty where there is none, or where another program has stored something that is not a hash. */
  async #heartbeat(name: string): Promise<Record<string, string>> {
    try {
      return await this.#redis.hgetall(`worker:${name}`);
    } catch (error) {
      if ((error as Error).message.startsWith("WRONGTYPE")) return {};
      throw error;
    }
  }

  async ping(): Promise<void> {
    if (this.#redis.status !== "ready") throw new Error(`the connection is ${this.#redis.status}`);
    await this.#redis.ping();
  }

  async close(): Promise<void> {
    this.#redis.disconnect();
    this.#subscriber.disconnect();
  }
}

/** Runs the commands. @throws the first error of one of them */
async function all(commands: ChainableCommander): Promise<void> {
  for (const [error] of (await commands.exec()) ?? []) if (error) throw error;
}

/** A record, or a part of one, as the fields of a hash. */
function fieldsOf(job: Partial<Job>): Record<string, string | number> {
  const fields = Object.entries(job).map(([name, value]) => {
    if (value === null) return [name, ""];
    if (typeof value === "object") return [name, JSON.stringify(value)];
    return [name, typeof value === "boolean" ? Number(value) : value];
  });
  return Object.fromEntries(fields);
}

function jobFrom(fields: Record<string, string>): Job {
  return {
    id: fields.id,
    task: fields.task,
    // Older coordinators wrote only jobs of pictures.
    kind: fields.kind === "data" ? "data" : "picture",
    params: JSON.parse(fields.params || "{}"),
    preJobId: fields.preJobId || null,
    derivedParams: fields.derivedParams ? JSON.parse(fields.derivedParams) : null,
    workers: fields.workers ? Number(fields.workers) : null,
    width: Number(fields.width),
    height: Number(fields.height),
    rows: Number(fields.rows),
    bands: Number(fields.bands),
    created: Number(fields.created),
    enqueued: fields.enqueued === "1",
    error: fields.error || null,
    failure: (fields.failure as Failure) || null,
  };
}

/** Fields that a third-party worker leaves out or garbles become empty or 0. */
function workerOf(fields: Record<string, string>): WorkerInfo {
  const { name, host = "", runtime = "", busy = "" } = fields;
  const [pid, cores, since, bands, pixels, ms] = ["pid", "cores", "since", "bands", "pixels", "ms"].map((field) => {
    const value = Number(fields[field]);
    return Number.isFinite(value) && value >= 0 ? value : 0;
  });
  const tasks = listOf(fields.tasks).filter((task) => typeof task === "string");
  const offers = listOf(fields.offers).filter((offer) => typeof offer === "object" && offer !== null) as Offer[];
  return { name, host, runtime, tasks, offers, pid, cores, since, bands, pixels, ms, busy };
}

function listOf(json = "[]"): unknown[] {
  try {
    const list: unknown = JSON.parse(json);
    return Array.isArray(list) ? list : [];
  } catch {
    return [];
  }
}
