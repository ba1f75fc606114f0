/**
 * Results, job records, events and the list of workers, in Redis.
 *
 *     job:{<id>}           hash: the request, the size, the plan, `attempt`, `enqueued`, `error`, `failure`, `suspect`
 *     job:{<id>}:rows      hash: band → CRC-32 of its rows, set before it is sent; a result made of other rows is refused
 *     job:{<id>}:sent      hash: band → CRC-32 of its rows, set when the queue has confirmed it
 *     job:{<id>}:done      hash: band → JSON { worker, ms, crc, bytes, deliveries, lossy }
 *     job:{<id>}:failures  hash: band → how often its task threw
 *     job:{<id>}:claims    hash: band → the worker that computes it; "<band> lost" → how many died while they did
 *     job:{<id>}:feeder    the lease of the coordinator that enqueues the job
 *     resultado:<chunk id> base64 of the band as a picture, or of its JSON
 *     workers              sorted set: name → time of the last heartbeat, ms by Redis' clock
 *     worker:<name>        hash: what the worker is and has done
 *     channel job:{<id>}   a band's number and its done record; "enqueued" when only that changed; "job" when anything may have
 *
 * Invariant: every key of a job has a TTL, renewed with every band, and nothing about a job is written unless its record
 * exists. So a late worker cannot bring a removed job back. Messages on the channel are hints; the hashes are the truth.
 *
 * Not here: what follows from the records (watch.ts, job.ts), the scripts that write them (lua.ts), the connections (redis/), the queue (queue.ts).
 */
import { EventEmitter } from "node:events";
import type { ChainableCommander, Redis } from "ioredis";
import {
  type Begun,
  type Change,
  type Claimant,
  type Done,
  type Failure,
  type Hint,
  hintOf,
  type Job,
  type Results,
  type WorkerInfo,
} from "./backends.ts";
import { chunkIdOf, fromBase64, parseChunkId } from "./chunk.ts";
import {
  BEGIN,
  COUNT_FAILURE,
  EXPIRE_ONCE,
  FAIL,
  FORGET_EXPIRED,
  LEASE,
  MARK,
  RECORD_FOREIGN,
  RELEASE,
  REVIVE,
  STORE,
  TRACK_SUSPICION,
  UNCLAIM,
  UPDATE,
} from "./lua.ts";
import type { Log } from "./ops/log.ts";
import { RedisConnection } from "./redis/connection.ts";
import type { Offer } from "./task.ts";

export const BEAT_MS = 4_000;
export const LIVE_MS = 12_000;

/** Recorded as the worker of a third-party result. */
export const FOREIGN_WORKER = "foreign";

const jobKey = (id: string) => `job:{${id}}`;
const resultKey = (chunkId: string) => `resultado:${chunkId}`;

/** The time that one look adds to a suspicion, at most, ms: several times the pause between two looks. */
const MAX_LOOK_MS = 5_000;

/** What the processes of the distributed mode share. */
export class RedisResults implements Results {
  readonly #connection: RedisConnection;
  readonly #redis: Redis;
  readonly #events = new EventEmitter().setMaxListeners(0);
  #fleet: { at: number; workers: Promise<WorkerInfo[]> } | undefined;

  /**
   * @param url `redis://` or `rediss://`
   * @param patient commands wait for Redis for ever (a worker), instead of failing after about 15 s
   */
  constructor(
    url: string,
    readonly ttlSeconds: number,
    patient: boolean,
    log?: Log,
  ) {
    const channels = () => this.#events.eventNames().map(String);
    this.#connection = new RedisConnection(url, patient, channels, log);
    this.#redis = this.#connection.commands;
    const { subscriber } = this.#connection;
    subscriber.on("message", (channel: string, message: string) => this.#events.emit(channel, hintFrom(message)));
    // Messages published while the connection was down are lost: every watcher reads the records again.
    subscriber.on("ready", () => {
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

  async updateJob(id: string, change: Change, attempt?: number): Promise<boolean> {
    const fields = Object.entries(fieldsOf(change)).flat();
    const args = [hintOf(change) ?? "job", attempt ?? "", ...fields];
    return (await this.#redis.eval(UPDATE, 1, jobKey(id), ...args)) === 1;
  }

  async failJob(id: string, error: string, failure: Failure, of?: { band: number; attempt: number | undefined }) {
    const args = [error, failure, of?.band ?? "", of?.attempt ?? ""];
    return (await this.#redis.eval(FAIL, 1, jobKey(id), ...args.map(String))) === 1;
  }

  async reviveJob(id: string): Promise<void> {
    await this.#redis.eval(REVIVE, 1, jobKey(id));
  }

  async forgetExpired(id: string): Promise<void> {
    await this.#redis.eval(FORGET_EXPIRED, 1, jobKey(id));
  }

  async removeJob(id: string, known?: number): Promise<void> {
    const key = jobKey(id);
    const bands = known ?? Number(await this.#redis.hget(key, "bands"));
    // The record first: without it nothing more is written about this job.
    const hashes = ["rows", "sent", "done", "failures", "claims"].map((part) => `${key}:${part}`);
    const steps = this.#redis.pipeline().del(key, ...hashes);
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

  async isLeased(id: string): Promise<boolean> {
    return (await this.#redis.exists(`${jobKey(id)}:feeder`)) === 1;
  }

  async expectRows(id: string, band: number, crc: number, attempt: number): Promise<void> {
    await this.#redis.eval(MARK, 2, jobKey(id), `${jobKey(id)}:rows`, band, crc, attempt);
  }

  async markSent(id: string, band: number, crc: number, attempt: number): Promise<void> {
    await this.#redis.eval(MARK, 2, jobKey(id), `${jobKey(id)}:sent`, band, crc, attempt);
  }

  async sent(id: string): Promise<Map<number, number>> {
    const fields = Object.entries(await this.#redis.hgetall(`${jobKey(id)}:sent`));
    return new Map(fields.map(([band, crc]) => [Number(band), Number(crc)]));
  }

  async done(id: string): Promise<Map<number, Done>> {
    const fields = Object.entries(await this.#redis.hgetall(`${jobKey(id)}:done`));
    return new Map(fields.map(([band, record]) => [Number(band), JSON.parse(record)]));
  }

  async begin(chunkId: string, by: Claimant): Promise<Begun> {
    const { jobId, band } = parseChunkId(chunkId);
    const ask = async (isVoid: boolean) => {
      const args = [band, claimOf(by), by.attempt ?? "", by.redelivered ? 1 : 0, isVoid ? 1 : 0];
      return String(await this.#redis.eval(BEGIN, 1, jobKey(jobId), ...args)).split(" ");
    };
    let [answer, ...rest] = await ask(false);
    if (answer === "claimed") {
      // Another worker has the other copy. While it lives, this copy needs no work.
      if ((await this.workers()).some((worker) => claimOf(worker) === rest.join(" "))) return null;
      [answer, ...rest] = await ask(true);
    }
    return answer === "go" ? { lost: Number(rest[0]) } : null;
  }

  async unclaim(chunkId: string, by: Claimant): Promise<void> {
    const { jobId, band } = parseChunkId(chunkId);
    await this.#redis.eval(UNCLAIM, 1, jobKey(jobId), band, claimOf(by));
  }

  async countFailure(chunkId: string, attempt: number | undefined): Promise<number> {
    const { jobId, band } = parseChunkId(chunkId);
    return Number(await this.#redis.eval(COUNT_FAILURE, 1, jobKey(jobId), band, attempt ?? ""));
  }

  async store(chunkId: string, picture: Uint8Array, done: Done, attempt: number | undefined): Promise<boolean> {
    const { jobId, band } = parseChunkId(chunkId);
    const args = [band, JSON.stringify(done), picture.toBase64(), done.crc, attempt ?? ""];
    return (await this.#redis.eval(STORE, 2, jobKey(jobId), resultKey(chunkId), ...args)) === 1;
  }

  async recordForeignResults(id: string, awaited: Map<number, number>): Promise<void> {
    const key = jobKey(id);
    const keys = [...awaited.keys()].map((band) => resultKey(chunkIdOf(id, band)));
    const records = [...awaited].flatMap(([band, crc]) => {
      return [band, JSON.stringify({ worker: FOREIGN_WORKER, ms: 0, crc, bytes: 0, deliveries: 0 } satisfies Done)];
    });
    await this.#redis.eval(RECORD_FOREIGN, keys.length + 1, key, ...keys, ...records);
  }

  async trackSuspicion(id: string, suspicious: boolean): Promise<number> {
    return Number(await this.#redis.eval(TRACK_SUSPICION, 1, jobKey(id), suspicious ? 1 : 0, MAX_LOOK_MS));
  }

  async load(chunkId: string): Promise<Uint8Array | null> {
    const text = await this.#redis.get(resultKey(chunkId));
    return text === null ? null : fromBase64(text, resultKey(chunkId));
  }

  async drop(chunkId: string): Promise<void> {
    await this.#redis.unlink(resultKey(chunkId));
  }

  async sweep(): Promise<void> {
    let cursor = "0";
    do {
      const [next, keys] = await this.#redis.scan(cursor, "MATCH", resultKey("*"), "COUNT", 500);
      for (const key of keys) await this.#redis.eval(EXPIRE_ONCE, 1, key, this.ttlSeconds);
      cursor = next;
    } while (cursor !== "0");
  }

  async watch(id: string, listener: (hint?: Hint) => void): Promise<() => void> {
    const channel = jobKey(id);
    this.#events.on(channel, listener);
    await this.#connection.subscriber.subscribe(channel);
    return () => {
      this.#events.off(channel, listener);
      if (this.#events.listenerCount(channel) > 0) return;
      this.#connection.subscriber.unsubscribe(channel).catch(() => {});
    };
  }

  async beat(worker: WorkerInfo): Promise<void> {
    this.#fleet = undefined;
    const key = `worker:${worker.name}`;
    const [seconds] = await this.#redis.time();
    const lists = { tasks: JSON.stringify(worker.tasks), offers: JSON.stringify(worker.offers) };
    const fields = { ...worker, ...lists, consuming: worker.consuming ? 1 : 0 };
    const beat = this.#redis.multi().zadd("workers", seconds * 1000, worker.name);
    await all(beat.hset(key, fields).pexpire(key, LIVE_MS));
  }

  async leave(name: string): Promise<void> {
    await this.#redis.zrem("workers", name);
    await this.#redis.del(`worker:${name}`);
  }

  workers(maxAgeMs = 0): Promise<WorkerInfo[]> {
    if (!this.#fleet || Date.now() - this.#fleet.at >= maxAgeMs) {
      const fleet = { at: Date.now(), workers: this.#readWorkers() };
      this.#fleet = fleet;
      fleet.workers.catch(() => {
        if (this.#fleet === fleet) this.#fleet = undefined;
      });
    }
    return this.#fleet.workers;
  }

  async #readWorkers(): Promise<WorkerInfo[]> {
    const [seconds] = await this.#redis.time();
    await this.#redis.zremrangebyscore("workers", 0, seconds * 1000 - LIVE_MS);
    const names = await this.#redis.zrange("workers", "0", "-1");
    const reads = this.#redis.pipeline();
    for (const name of names) reads.hgetall(`worker:${name}`);
    const replies = names.length > 0 ? ((await reads.exec()) ?? []) : [];
    return replies.flatMap(([error, fields]) => {
      // Another program may have stored something that is not a hash: that one is left out.
      if (error && !error.message.startsWith("WRONGTYPE")) throw error;
      const found = (error ? {} : fields) as Record<string, string>;
      return found.name ? [workerOf(found)] : [];
    });
  }

  ping(): Promise<void> {
    return this.#connection.ping();
  }

  /** @throws Error for what never works, as `RedisConnection.check` */
  check(): Promise<void> {
    return this.#connection.check();
  }

  async close(): Promise<void> {
    this.#connection.close();
  }
}

/** Anyone may publish on the channel. What cannot be read is a hint that anything may have changed. */
function hintFrom(message: string): Hint | undefined {
  if (message === "enqueued") return message;
  const [, band, record] = /^(\d{1,10}) (\{.*\})$/s.exec(message) ?? [];
  if (band === undefined) return undefined;
  try {
    return { band: Number(band), done: doneFrom(record) };
  } catch {
    return undefined;
  }
}

/** @throws SyntaxError, TypeError */
function doneFrom(record: string): Done {
  const done = JSON.parse(record) as Done;
  if (typeof done.worker !== "string" || !Number.isFinite(done.ms) || !Number.isFinite(done.bytes)) {
    throw new TypeError("done record: expected worker, ms and bytes");
  }
  return done;
}

/** A claim of this process, and of no other: a worker may be restarted under the same name. */
const claimOf = ({ name, since }: { name: string; since: number }) => `${name} ${since}`;

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
    attempt: Number(fields.attempt) || 0,
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
  const consuming = fields.consuming !== "0";
  return { name, host, runtime, tasks, offers, pid, cores, since, bands, pixels, ms, busy, consuming };
}

function listOf(json = "[]"): unknown[] {
  try {
    const list: unknown = JSON.parse(json);
    return Array.isArray(list) ? list : [];
  } catch {
    return [];
  }
}
