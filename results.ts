/**
 * Results, job records, events and the list of workers, in Redis.
 *
 *     job:{<id>}           hash: the request, the size, the plan, `attempt`, `enqueued`, `error`, `failure`;
 *                          `suspect`, `looked`: for how long it has been stuck, and when that was measured, ms
 *     job:{<id>}:rows      hash: band → CRC-32 of its rows, set once, before it is sent. `store` refuses other rows
 *                          "<band> sent", "<band> confirmed" → when, ms since `began`; "<band> lane" → its lane
 *     job:{<id>}:sent      hash: band → CRC-32 of its rows, set when the queue has confirmed it
 *     job:{<id>}:done      hash: band → JSON of its done record (`Done`)
 *     job:{<id>}:failures  hash: band → how often its task threw
 *     job:{<id>}:claims    hash: band → its worker; "<band> claim" → JSON of its `Claim`
 *                          "<band> lost", "<band> losers" → number and names of the workers that died with it
 *                          "<band> cut off" → its worker, if that has lost the queue and still computes the band
 *     job:{<id>}:log       list: JSON of what went wrong (`Incident`)
 *     job:{<id>}:feeder    the lease: which coordinator enqueues the job
 *     resultado:<chunk id> base64 of the band as a picture, or of its JSON
 *     job:list             sorted set: id → when it was sent, with the setting `CLASSROOM=wall`
 *     workers              sorted set: name → time of the last heartbeat, ms by Redis' clock
 *     worker:<name>        hash: the fields of `WorkerInfo`
 *     channel job:{<id>}   "<band> <done>", "claim <band> <claim>", "incident <incident>", the JSON of a `Report`,
 *                          "enqueued <enqueuedAt> <cutMs> <bands> <height>"; "job": anything may have changed
 *     channel worker:<name> commands to the worker (ops/commands.ts), with the setting `CLASSROOM=control`
 *
 * Invariant: every key of a job has a TTL, renewed with every band. Nothing about a job is written unless its record
 * exists, except the result of a third party's message. So a late worker cannot bring a removed job back. Messages on
 * the channel are hints; the hashes are the truth.
 *
 * Not here: the state that follows from the records (watch.ts), the scripts, the text form of the records and the
 * connections (redis/), the queue (queue.ts).
 */
import { EventEmitter } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import type { ChainableCommander, Cluster, Redis } from "ioredis";
import type {
  Begun,
  Change,
  Claim,
  Claimant,
  Done,
  FailedBand,
  Failure,
  Hint,
  Incident,
  Job,
  Report,
  Results,
  WorkerInfo,
} from "./backends.ts";
import { chunkIdOf, fromBase64, parseChunkId } from "./chunk.ts";
import type { Action } from "./ops/commands.ts";
import type { StoredKey } from "./ops/inside.ts";
import type { Log } from "./ops/log.ts";
import { RedisConnection, replyCodeOf } from "./redis/connection.ts";
import { RECORD_FOREIGN } from "./redis/foreign.ts";
import * as lua from "./redis/lua.ts";
import { claimFrom, fieldsOf, hintFrom, incidentFrom, jobFrom, workerOf } from "./redis/records.ts";

export const BEAT_MS = 4_000;
export const LIVE_MS = 12_000;

const jobKey = (id: string) => `job:{${id}}`;
/** The other keys of a job: its record's key with one of these suffixes. */
const PARTS = ["rows", "sent", "done", "failures", "claims", "log"];
const resultKey = (chunkId: string) => `resultado:${chunkId}`;

/** One look adds at most this time to `stuckFor`, ms. It is more than twice the pause between two looks. */
const MAX_LOOK_MS = 5_000;

/** How long a worker may take to report that it has lost the queue and still computes its band, ms. */
const CUT_OFF_MS = 300;

/** The list of all jobs, for `CLASSROOM=wall`, and its maximum length. */
const JOB_LIST = "job:list";
const MAX_LISTED = 1_000;
/** A task's error is cut to this many characters. */
const MAX_ERROR = 300;

/** The result store of the distributed mode. All its processes share it. */
export class RedisResults implements Results {
  readonly #connection: RedisConnection;
  readonly #redis: Redis | Cluster;
  readonly #events = new EventEmitter().setMaxListeners(0);
  #fleet: { at: number; workers: Promise<WorkerInfo[]> } | undefined;

  /**
   * @param url as in ops/address.ts
   * @param patient true for a worker: commands wait for Redis for ever. False: they fail after about 15 s
   * @param ca certificates to trust, PEM
   */
  constructor(
    url: string,
    readonly ttlSeconds: number,
    patient: boolean,
    log?: Log,
    ca?: string[],
  ) {
    const channels = () => this.#events.eventNames().map(String);
    this.#connection = new RedisConnection(url, patient, channels, log, ca);
    this.#redis = this.#connection.commands;
    const { subscriber } = this.#connection;
    subscriber.on("message", (channel: string, message: string) =>
      this.#events.emit(channel, channel.startsWith("worker:") ? message : hintFrom(message)),
    );
  }

  async putJob(job: Job): Promise<void> {
    const { began, ...fields } = fieldsOf(job);
    const args = [this.ttlSeconds, ...Object.entries(fields).flat()];
    job.began = Number(await this.#connection.evalReplicated(lua.PUT, [jobKey(job.id)], args));
  }

  async findJob(id: string): Promise<Job | null> {
    const fields = await this.#redis.hgetall(jobKey(id));
    return fields.id ? jobFrom(fields) : null;
  }

  async updateJob(id: string, change: Change, attempt?: number): Promise<boolean> {
    const { cutMs = "", ...fields } = { cutMs: undefined, ...change };
    const args = [cutMs === "" ? "job" : "enqueued", attempt ?? "", cutMs, ...Object.entries(fieldsOf(fields)).flat()];
    return (await this.#connection.evalReplicated(lua.UPDATE, [jobKey(id)], args)) === 1;
  }

  async failJob(id: string, error: string, failure: Failure, of?: FailedBand): Promise<boolean> {
    const args = [error, failure, of?.band ?? "", of?.attempt ?? "", of?.worker ?? ""];
    return (await this.#redis.eval(lua.FAIL, 1, jobKey(id), ...args.map(String))) === 1;
  }

  async reviveJob(id: string): Promise<void> {
    await this.#redis.eval(lua.REVIVE, 1, jobKey(id));
  }

  async forgetExpired(id: string): Promise<void> {
    await this.#redis.eval(lua.FORGET_EXPIRED, 1, jobKey(id));
  }

  async removeJob(id: string, known?: number): Promise<void> {
    const key = jobKey(id);
    // A list may have more bands than its record has yet.
    const bands =
      known ?? Math.max(Number(await this.#redis.hget(key, "bands")), await this.#redis.hlen(`${key}:sent`));
    // The record goes first: without it, nothing more is written about this job.
    const hashes = PARTS.map((part) => `${key}:${part}`);
    const steps = this.#redis.pipeline().del(key, ...hashes);
    steps.publish(key, "job");
    const results = Array.from({ length: bands }, (_, band) => resultKey(chunkIdOf(id, band)));
    for (let i = 0; i < results.length; i += 500) steps.unlink(...results.slice(i, i + 500));
    await Promise.all([runAll(steps), this.#redis.zrem(JOB_LIST, id)]);
  }

  async lease(id: string, owner: string, ms: number): Promise<boolean> {
    return (await this.#redis.eval(lua.LEASE, 2, `${jobKey(id)}:feeder`, jobKey(id), owner, ms)) === 1;
  }

  async release(id: string, owner: string): Promise<void> {
    await this.#redis.eval(lua.RELEASE, 1, `${jobKey(id)}:feeder`, owner);
  }

  async isLeased(id: string): Promise<boolean> {
    return (await this.#redis.exists(`${jobKey(id)}:feeder`)) === 1;
  }

  async expectRows(id: string, band: number, crc: number, attempt: number, lane?: number): Promise<boolean> {
    const keys = [jobKey(id), `${jobKey(id)}:rows`, `${jobKey(id)}:rows`];
    return (await this.#connection.evalReplicated(lua.MARK, keys, [band, crc, attempt, "sent", lane ?? ""])) !== -1;
  }

  async markSent(id: string, band: number, crc: number, attempt: number): Promise<void> {
    const keys = [jobKey(id), `${jobKey(id)}:sent`, `${jobKey(id)}:rows`];
    await this.#redis.eval(lua.MARK, 3, ...keys, band, crc, attempt, "confirmed", "");
  }

  async sent(id: string): Promise<Map<number, number>> {
    const fields = Object.entries(await this.#redis.hgetall(`${jobKey(id)}:sent`));
    return new Map(fields.map(([band, crc]) => [Number(band), Number(crc)]));
  }

  async done(id: string): Promise<Map<number, Done>> {
    const fields = Object.entries(await this.#redis.hgetall(`${jobKey(id)}:done`));
    return new Map(fields.map(([band, record]) => [Number(band), JSON.parse(record)]));
  }

  async claims(id: string): Promise<Map<number, Claim>> {
    const fields = Object.entries(await this.#redis.hgetall(`${jobKey(id)}:claims`));
    const claims = fields.filter(([field]) => field.endsWith(" claim"));
    return new Map(claims.map(([field, record]) => [Number.parseInt(field, 10), claimFrom(record)]));
  }

  async incidents(id: string): Promise<Incident[]> {
    return (await this.#redis.lrange(`${jobKey(id)}:log`, 0, -1)).map(incidentFrom);
  }

  async begin(chunkId: string, by: Claimant): Promise<Begun> {
    const { jobId, band } = parseChunkId(chunkId);
    for (let looks = 0, deadClaim = ""; ; looks++) {
      const args = [band, processOf(by), by.attempt ?? "", deadClaim, by.name, by.deliveries, by.heldMs];
      const [answer, number, ...rest] = String(await this.#redis.eval(lua.BEGIN, 1, jobKey(jobId), ...args)).split(" ");
      const claim = rest.join(" ");
      if (answer === "alone") return { lost: 0, claim: { worker: by.name, deliveries: by.deliveries }, hasJob: false };
      if (answer === "go") return { lost: Number(number), claim: claimFrom(claim), hasJob: true };
      if (answer === "drop") return null;
      const holder = (await this.workers()).find((worker) => processOf(worker) === claim);
      // A repeated publish made a second copy of the message. The first copy is in progress.
      if (holder && by.deliveries === 0) return null;
      // `busy` is checked because the worker may have returned the band since it reported `cut off`.
      if (number === "1" && holder?.busy === jobId) return "elsewhere";
      // A killed worker still seems alive for some seconds. One that only lost its connection reports `cut off` sooner.
      if (holder && looks === 0) await sleep(CUT_OFF_MS);
      else deadClaim = claim;
    }
  }

  async cutOff(chunkId: string, by: Claimant): Promise<void> {
    const { jobId, band } = parseChunkId(chunkId);
    await this.#redis.eval(lua.CUT_OFF, 1, jobKey(jobId), band, processOf(by));
  }

  async unclaim(chunkId: string, by: Claimant): Promise<void> {
    const { jobId, band } = parseChunkId(chunkId);
    await this.#redis.eval(lua.UNCLAIM, 1, jobKey(jobId), band, processOf(by));
  }

  async noteLost(id: string, band: number, worker: string): Promise<void> {
    await this.#redis.eval(lua.NOTE_LOST, 1, jobKey(id), band, worker);
  }

  async noteMerge(id: string, ms: number): Promise<void> {
    await this.#redis.eval(lua.NOTE_MERGE, 1, jobKey(id), ms);
  }

  async countFailure(chunkId: string, attempt: number | undefined, worker: string, error: string): Promise<number> {
    const { jobId, band } = parseChunkId(chunkId);
    const args = [band, attempt ?? "", worker, error.slice(0, MAX_ERROR)];
    return Number(await this.#redis.eval(lua.COUNT_FAILURE, 1, jobKey(jobId), ...args));
  }

  async store(chunkId: string, picture: Uint8Array, done: Done, attempt: number | undefined): Promise<boolean> {
    const { jobId, band } = parseChunkId(chunkId);
    const args = [band, JSON.stringify(done), picture.toBase64(), done.crc, attempt ?? "", this.ttlSeconds];
    return (await this.#connection.evalReplicated(lua.STORE, [jobKey(jobId), resultKey(chunkId)], args)) === 1;
  }

  async recordForeign(id: string, reports: Report[]): Promise<number> {
    const keys = reports.map(({ band }) => resultKey(chunkIdOf(id, band)));
    const args = reports.flatMap(({ band, ...report }) => [band, JSON.stringify(report)]);
    return Number(await this.#redis.eval(RECORD_FOREIGN, keys.length + 1, jobKey(id), ...keys, ...args));
  }

  async stuckFor(id: string, isStuck: boolean): Promise<number> {
    return Number(await this.#redis.eval(lua.STUCK_FOR, 1, jobKey(id), isStuck ? 1 : 0, MAX_LOOK_MS));
  }

  async load(chunkId: string): Promise<Uint8Array | null> {
    const text = await this.#redis.get(resultKey(chunkId));
    return text === null ? null : fromBase64(text, resultKey(chunkId));
  }

  async drop(chunkId: string): Promise<void> {
    await this.#redis.unlink(resultKey(chunkId));
  }

  async sweep(): Promise<void> {
    for (const node of this.#connection.leaders()) {
      let cursor = "0";
      do {
        const [next, keys] = await node.scan(cursor, "MATCH", resultKey("*"), "COUNT", 500);
        for (const key of keys) await this.#redis.eval(lua.EXPIRE_ONCE, 1, key, this.ttlSeconds);
        cursor = next;
      } while (cursor !== "0");
    }
  }

  watch(id: string, listener: (hint?: Hint) => void): Promise<() => void> {
    return this.#subscribe(jobKey(id), listener);
  }

  async command(worker: string, action: Action): Promise<void> {
    await this.#redis.publish(`worker:${worker}`, action);
  }

  onCommand(worker: string, listener: (action: string) => void): Promise<() => void> {
    return this.#subscribe(`worker:${worker}`, listener);
  }

  async keysOf({ id, bands }: Job, limit: number): Promise<StoredKey[]> {
    const key = jobKey(id);
    const results = Array.from({ length: Math.min(bands, limit) }, (_, band) => resultKey(chunkIdOf(id, band)));
    const keys = [key, ...PARTS.map((part) => `${key}:${part}`), ...results];
    // All keys of a job are on one node of a Redis Cluster.
    const reads = this.#redis.pipeline();
    for (const one of keys) reads.type(one).ttl(one);
    for (const one of keys) reads[one === `${key}:log` ? "llen" : one.startsWith("job:") ? "hlen" : "strlen"](one);
    const answers = ((await reads.exec()) ?? []).map(([, answer]) => answer);
    return keys.flatMap((key, i) => {
      const [type, ttl, size] = [answers[2 * i], answers[2 * i + 1], answers[2 * keys.length + i]];
      return type === "none" ? [] : [{ key, type: type as StoredKey["type"], size: Number(size), ttl: Number(ttl) }];
    });
  }

  async listJob(id: string): Promise<void> {
    const list = this.#redis
      .pipeline()
      .zadd(JOB_LIST, Date.now(), id)
      .zremrangebyrank(JOB_LIST, 0, -MAX_LISTED - 1);
    await runAll(list.expire(JOB_LIST, this.ttlSeconds));
  }

  listed(limit: number): Promise<string[]> {
    return this.#redis.zrevrange(JOB_LIST, 0, limit - 1);
  }

  async #subscribe<T>(channel: string, listener: (message: T) => void): Promise<() => void> {
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
    const lists = { tasks: JSON.stringify(worker.tasks), offers: JSON.stringify(worker.offers) };
    const [consuming, paused, control] = [worker.consuming, worker.paused, worker.control].map(Number);
    const fields = { ...worker, ...lists, consuming, paused, control };
    await runAll(this.#redis.multi().hset(key, fields).pexpire(key, LIVE_MS));
    await this.#redis.eval(lua.BEAT, 1, "workers", worker.name);
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
    const names = (await this.#redis.eval(lua.LIVE, 1, "workers", LIVE_MS)) as string[];
    // Not one pipeline: in a Redis Cluster the workers are on several nodes.
    const reads = names.map((name) => this.#redis.hgetall(`worker:${name}`));
    return (await Promise.allSettled(reads)).flatMap((read) => {
      // Another program may have stored something that is not a hash. Such a worker is left out.
      if (read.status === "rejected" && replyCodeOf(read.reason) !== "WRONGTYPE") throw read.reason;
      const found = read.status === "rejected" ? {} : read.value;
      return found.name ? [workerOf(found)] : [];
    });
  }

  async now(): Promise<number> {
    const [seconds, micros] = await this.#redis.time();
    return Number(seconds) * 1000 + Math.floor(Number(micros) / 100) / 10;
  }

  ping(): Promise<void> {
    return this.#connection.ping();
  }

  /** @throws Error if Redis can never work with these settings; see `RedisConnection.check` */
  check(): Promise<void> {
    return this.#connection.check();
  }

  async close(): Promise<void> {
    this.#connection.close();
  }
}

/** Identifies a process. The name alone does not: a worker may be restarted with the same name. */
const processOf = ({ name, since }: { name: string; since: number }) => `${name} ${since}`;

/** Runs the commands. @throws the first error */
async function runAll(commands: ChainableCommander): Promise<void> {
  const replies = await commands.exec().catch((error: Error & { previousErrors?: Error[] }) => {
    // Redis did not run the transaction. The error of the command that it could not queue has the reason.
    throw error.previousErrors?.[0] ?? error;
  });
  for (const [error] of replies ?? []) if (error) throw error;
}
