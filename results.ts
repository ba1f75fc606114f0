/**
 * Where results, job records, the fleet and events are kept: Redis, or this process.
 *
 *     job:{<id>}           hash: what was asked, the size, the plan, `enqueued`, `error`, `suspect`; TTL renewed with every band
 *     job:{<id>}:rows      hash: band → CRC-32 of its rows, before it is sent: a result made of other rows is not taken
 *     job:{<id>}:sent      hash: band → CRC-32 of its rows, once the queue has confirmed it
 *     job:{<id>}:done      hash: band → JSON { worker, ms, crc, bytes, deliveries, lossy }
 *     job:{<id>}:failures  hash: band → how often its task threw
 *     job:{<id>}:feeder    the coordinator that feeds the job: a lease
 *     resultado:<chunk id> base64 of the band as a picture, or of its JSON
 *     workers              sorted set: name → time of the last heartbeat, ms by Redis's clock
 *     worker:<name>        hash: what it is and has done
 *     channel job:{<id>}   a band's number and record; "enqueued" when only that has changed; "job" when more may have. Hints:
 *                          the hashes are the truth
 *
 * Every key of a job has a TTL, and everything written about a job is written only while its record stands: what was
 * removed is not brought back by a worker that comes late.
 *
 * Not here: what follows from the records (job.ts), the queue (queue.ts).
 */

import { tracingChannel } from "node:diagnostics_channel";
import { EventEmitter } from "node:events";
import { Redis } from "ioredis";
import { chunkIdOf, fromBase64, parseChunkId, toBase64 } from "./chunk.ts";
import { LEASE, MARK, RECORD_FOREIGN, RELEASE, STORE, TRACK_MISSING, UPDATE } from "./lua.ts";
import { serverUrl } from "./ops/settings.ts";
import type { Offer, Values } from "./task.ts";

export interface Job {
  id: string;
  /** By its name on the wire, with its version. */
  task: string;
  /** What the task returns: pixels, or JSON. */
  kind: "picture" | "data";
  /** As they were asked for, with the defaults filled in. */
  params: Values;
  /** The job of the step that comes before this one; null where there is none. */
  preJobId: string | null;
  /** The parameters that the first step has found; null before. */
  derivedParams: Values | null;
  /** At most this many bands in flight; null: as many as the fleet can use. */
  workers: number | null;
  width: number;
  height: number;
  /** Rows of a band; the last may have fewer. */
  rows: number;
  bands: number;
  /** When it was first asked for, ms since 1970. */
  created: number;
  /** The whole picture has been read, and all its bands are in the queue or done. */
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
  /** CRC-32 of the grey rows it was made from, without the halo. */
  crc: number;
  /** Length of the result, as `encodeBand` makes it; 0 where it is of another form. */
  bytes: number;
  /** How often it had been handed out before to a worker that did not come back with it. */
  deliveries: number;
  /** A picture that is not a PNG, so its pixels may be only nearly those of the task. */
  lossy?: true;
}

export interface WorkerInfo {
  name: string;
  host: string;
  pid: number;
  /** Who tells it promises that `busy` is filled, too; empty where nothing is promised. */
  runtime: string;
  /** Cores of its host, shared with whatever else runs there. */
  cores: number;
  tasks: string[];
  /** Those of them that a coordinator can hand out without having their modules. */
  offers: Offer[];
  /** When it joined, ms since 1970. */
  since: number;
  /** What it has done: bands, their pixels, and the ms its task took for them. */
  bands: number;
  pixels: number;
  ms: number;
  /** The jobs whose bands it has, with spaces between; empty when it has none. */
  busy: string;
}

/** What a watcher is told: a band is done, or the whole picture is in the queue; with nothing, anything may have changed. */
export type Hint = { band: number; done: Done } | "enqueued";

export interface Results {
  /** Writes a whole record; it is gone `ttl` seconds after its last band. */
  putJob(job: Job): Promise<void>;
  findJob(id: string): Promise<Job | null>;
  /** Changes a record that stands; false where there is none. */
  updateJob(id: string, change: Change): Promise<boolean>;
  /** Removes the record and all that belongs to it. @param bands how many it has, where that is known */
  removeJob(id: string, bands?: number): Promise<void>;

  /** Takes or renews the right to feed a job, for `ms`; false while another owner has it. */
  lease(id: string, owner: string, ms: number): Promise<boolean>;
  release(id: string, owner: string): Promise<void>;

  /** Says what a band's rows are, before it is sent. */
  expectRows(id: string, band: number, crc: number): Promise<void>;
  markSent(id: string, band: number, crc: number): Promise<void>;
  sent(id: string): Promise<Map<number, number>>;
  done(id: string): Promise<Map<number, Done>>;
  /** Counts a failure of a band's task; how many there were so far. */
  countFailure(chunkId: string): Promise<number>;

  /**
   * Stores a band, marks it done and tells so, all or nothing. False: the job is gone or has failed, or `done.crc` is not
   * what `expectRows` said, so the band is left over from a job that had the same id.
   * @param picture to be left as it is until this resolves
   */
  store(chunkId: string, picture: Uint8Array, done: Done): Promise<boolean>;
  /** Marks as done the bands of `awaited` (band → CRC) whose result was set by a worker that does no more than that. */
  recordForeignResults(id: string, awaited: Map<number, number>): Promise<void>;
  /**
   * Notes whether a job's bands are nowhere to be found.
   * @returns for how long that has been so, ms; 0 while it is not. A band that is stored ends it.
   */
  trackMissing(id: string, nowhere: boolean): Promise<number>;
  load(chunkId: string): Promise<Uint8Array | null>;
  drop(chunkId: string): Promise<void>;

  /** Sees to it that a result set by a worker that does no more than that expires, even if its job is gone. */
  sweep(): Promise<void>;

  watch(id: string, listener: (hint?: Hint) => void): Promise<() => void>;

  beat(worker: WorkerInfo): Promise<void>;
  leave(name: string): Promise<void>;
  /** Workers whose last heartbeat is younger than `LIVE_MS`. */
  workers(): Promise<WorkerInfo[]>;

  /** Rejects when the store cannot be used now. */
  ping(): Promise<void>;
  close(): Promise<void>;
}

export const BEAT_MS = 4_000;
export const LIVE_MS = 12_000;

/** A stored result that was made by a worker that leaves no record. */
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

/** Results in Redis: what the distributed mode shares. */
export class RedisResults implements Results {
  readonly #redis: Redis;
  readonly #subscriber: Redis;
  readonly #events = new EventEmitter().setMaxListeners(0);

  /**
   * @param url `redis://` or `rediss://`
   * @param patient commands wait for Redis for as long as it takes (a worker), instead of failing after some 15 s
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
    // Without a listener an `error` event would end the process; the commands themselves report what fails.
    this.#redis.on("error", () => {});
    this.#subscriber.on("error", () => {});
    this.#subscriber.on("message", (channel: string, message: string) => {
      const space = message.indexOf(" ");
      const band = Number(message.slice(0, space));
      const told: Hint | undefined = message === "enqueued" ? message : undefined;
      this.#events.emit(channel, space < 0 ? told : { band, done: JSON.parse(message.slice(space)) });
    });
    // What was published while the connection was away is lost: everybody reads again.
    this.#subscriber.on("ready", () => {
      for (const channel of this.#events.eventNames()) this.#events.emit(channel);
    });
  }

  async putJob(job: Job): Promise<void> {
    const key = jobKey(job.id);
    const fields = {
      ...job,
      params: JSON.stringify(job.params),
      preJobId: job.preJobId ?? "",
      derivedParams: job.derivedParams ? JSON.stringify(job.derivedParams) : "",
      workers: job.workers ?? "",
      enqueued: job.enqueued ? 1 : 0,
      error: job.error ?? "",
      failure: job.failure ?? "",
      ttl: this.ttlSeconds,
    };
    const replies = await this.#redis.multi().hset(key, fields).expire(key, this.ttlSeconds).publish(key, "job").exec();
    for (const [error] of replies ?? []) if (error) throw error;
  }

  async findJob(id: string): Promise<Job | null> {
    const fields = await this.#redis.hgetall(jobKey(id));
    if (!fields.id) return null;
    const {
      task,
      kind,
      params,
      preJobId,
      derivedParams,
      workers,
      width,
      height,
      rows,
      bands,
      created,
      enqueued,
      error,
      failure,
    } = fields;
    return {
      id,
      task,
      // A record of a coordinator that knew nothing of these is of a picture.
      kind: kind === "data" ? kind : "picture",
      params: JSON.parse(params || "{}"),
      preJobId: preJobId || null,
      derivedParams: derivedParams ? JSON.parse(derivedParams) : null,
      workers: workers === "" ? null : Number(workers),
      width: Number(width),
      height: Number(height),
      rows: Number(rows),
      bands: Number(bands),
      created: Number(created),
      enqueued: enqueued === "1",
      error: error === "" ? null : error,
      failure: failure ? (failure as Failure) : null,
    };
  }

  async updateJob(id: string, change: Change): Promise<boolean> {
    const fields: string[] = [];
    if (change.derivedParams) fields.push("derivedParams", JSON.stringify(change.derivedParams));
    if (change.enqueued !== undefined) fields.push("enqueued", change.enqueued ? "1" : "0");
    if (change.error !== undefined) fields.push("error", change.error ?? "");
    if (change.failure !== undefined) fields.push("failure", change.failure ?? "");
    return (await this.#redis.eval(UPDATE, 1, jobKey(id), hintOf(change) ?? "job", ...fields)) === 1;
  }

  /** Lets a failed job go on: what is done stays, the rest is to be sent again. */
  async reviveJob(id: string): Promise<void> {
    if (!(await this.updateJob(id, { error: null, failure: null, enqueued: false }))) return;
    await this.#redis.del(`${jobKey(id)}:sent`, `${jobKey(id)}:failures`);
  }

  async removeJob(id: string, known?: number): Promise<void> {
    const key = jobKey(id);
    const bands = known ?? Number(await this.#redis.hget(key, "bands"));
    // The record first: from then on nobody writes about this job.
    const steps = this.#redis.pipeline().del(key, `${key}:rows`, `${key}:sent`, `${key}:done`, `${key}:failures`);
    steps.publish(key, "job");
    const results = Array.from({ length: bands }, (_, band) => resultKey(chunkIdOf(id, band)));
    for (let i = 0; i < results.length; i += 500) steps.unlink(...results.slice(i, i + 500));
    for (const [error] of (await steps.exec()) ?? []) if (error) throw error;
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
    const step = this.#redis
      .multi()
      .zadd("workers", seconds * 1000, worker.name)
      .hset(key, fields);
    const replies = await step.pexpire(key, LIVE_MS).exec();
    for (const [error] of replies ?? []) if (error) throw error;
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

  /** Empty where there is none, or where another program has stored something else than a hash. */
  async #heartbeat(name: string): Promise<Record<string, string>> {
    try {
      return await this.#redis.hgetall(`worker:${name}`);
    } catch (error) {
      if ((error as Error).message.startsWith("WRONGTYPE")) return {};
      throw error;
    }
  }

  async ping(): Promise<void> {
    if (this.#redis.status !== "ready") throw new Error(`Redis: expected ready, is ${this.#redis.status}`);
    await this.#redis.ping();
  }

  async close(): Promise<void> {
    this.#redis.disconnect();
    this.#subscriber.disconnect();
  }
}

/** What a worker in another language leaves out of its heartbeat, or garbles, is none, or nothing: the others are shown. */
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
