/**
 * What the rest of the program expects of a queue and of a result store. RabbitMQ and Redis keep these promises (queue.ts,
 * results.ts), and so does the embedded mode (embedded.ts).
 *
 * A chunk goes to one worker at a time until a worker settles it. What a worker can answer (`Outcome`):
 *
 *     done         settled: the result is stored, or the job needs no work any more
 *     retry        requeued, for any free worker
 *     renew        enqueued again as a new message, so that the queue's count of deliveries starts again
 *     dead-letter  moved to `tareas.muertas`, with the reason in the header `x-reason`
 *     (crash)      the queue redelivers it; after 20 deliveries it dead-letters it
 */

import type { Chunk } from "./chunk.ts";
import type { Action } from "./ops/obey.ts";
import type { Trouble } from "./ops/trouble.ts";
import type { Channels } from "./picture/picture.ts";
import type { Values } from "./task.ts";
import type { Offer } from "./tasks/offer.ts";

export interface Backends {
  queue: Queue;
  results: Results;
}

/** The queue cannot be used now; retry later. */
export class QueueError extends Error {
  override name = "QueueError";
}

export type Outcome = { do: "done" } | { do: "retry" } | { do: "renew" } | { do: "dead-letter"; reason: string };

export interface Delivery {
  /** The chunk's id from the envelope: known even where the message cannot be read. */
  chunkId: string;
  /** How often it was delivered before, as far as the queue knows. */
  deliveries: number;
  /** When it was enqueued, ms since 1970 by the sender's clock; NaN where the sender does not say. */
  sent: number;
  /** The job's attempt that it was sent for; undefined where a third party sent it. */
  attempt: number | undefined;
  /** Resolves when the queue has taken the band back: its connection is lost. */
  lost?: Promise<void>;
  /** Decodes the message. The pixels are a copy. @throws WireError where the message is invalid */
  open(): Promise<Chunk>;
}

export type Handler = (delivery: Delivery) => Promise<Outcome>;

export interface Queue {
  /**
   * Resolves once the queue has the chunk, its pixels copied. Rejects with `QueueError` when the queue accepts nothing for
   * `PUBLISH_MS`.
   */
  publish(chunk: Chunk): Promise<void>;
  /**
   * Passes chunks of these tasks to `handle`, one at a time.
   * @param onConsuming called when it begins or ends to be a consumer of the queues, as `depth` counts them
   * @returns a function that stops it, and resolves when the chunk in progress, if any, is settled
   */
  consume(tasks: string[], handle: Handler, onConsuming?: (consuming: boolean) => void): Promise<() => Promise<void>>;
  /** Chunks of a task that wait for a worker, and the number of its consumers, busy ones included. */
  depth(task: string): Promise<{ waiting: number; consumers: number }>;
  /** Number of dead-lettered chunks. */
  deadLetters(): Promise<number>;
  /** The chunk of a task that waits longest, null where none waits. It waits last after that. */
  peek(task: string): Promise<Peeked | null>;
  /** Some dead letters. */
  letters(limit: number): Promise<Letter[]>;
  /** Puts dead letters back, all or those of one chunk. Rejects with `QueueError` where that is not possible. */
  putBack(results: Results, chunkId: string | null): Promise<Letter[]>;
  /** Why it cannot be used; null while it is connected. It may still not answer: that `ping` finds out. */
  trouble(): Trouble | null;
  /** Rejects with `UnavailableError` while it cannot be used, or takes nothing. Does not end while it is silent. */
  ping(): Promise<void>;
  /** Whether it is in this process. */
  readonly isLocal: boolean;
  close(): Promise<void>;
}

/** A message as it waits in a queue. */
export interface Peeked {
  /** Its chunk's id. */
  id: string;
  headers: Record<string, unknown>;
  body: Uint8Array;
}

/** A dead letter. `outcome`: what is to be said about it where it was put back, empty if nothing. */
export interface Letter {
  /** Its chunk's id. */
  id: string;
  /** The queue that it came from. */
  queue: string;
  reason: string;
  outcome?: string;
}

/** A key of a job in the store. `size`: bytes of a string, fields of a hash, entries of a list. `ttl`: seconds. */
export interface StoredKey {
  key: string;
  type: "string" | "hash" | "list";
  size: number;
  ttl: number;
}

export interface Job {
  id: string;
  /** Name on the wire, with its version: `sobel`, `median.2`. */
  task: string;
  /** Whether the task returns pixels or JSON; `list`: JSON, without a picture. */
  kind: "picture" | "data" | "list";
  /** As requested, defaults filled in. */
  params: Values;
  /** The job of the first step of a task with two; null for a task with one. */
  preJobId: string | null;
  /** The parameters that the first step has found; null until then. */
  derivedParams: Values | null;
  /** At most this many bands in flight; null: as many as the workers can use. */
  workers: number | null;
  /** Of a list: `height` pieces, the longest of `width` bytes. */
  width: number;
  height: number;
  /** Rows, or pieces, of a band; the last may have fewer. */
  rows: number;
  /** Of the result. */
  channels: Channels;
  /** How many pixels become one in the result, in each direction. */
  shrink: number;
  /** Of a list whose length is not known yet, about how many. */
  bands: number;
  /** Why it has so many bands: their size, at least one for each of `workers`, or the request. */
  bandsBy: "size" | "workers" | "request";
  /** When it was first requested, ms since 1970 by the coordinator's clock. */
  created: number;
  /** When its record was written, ms since 1970 by the store's clock; 0 before that, and from an older coordinator. */
  began: number;
  /** When all its bands were enqueued, ms since `began`. */
  enqueuedAt: number | null;
  /** How long the coordinator read and cut the picture, without the time that it waited for room in the queue, ms. */
  cutMs: number | null;
  /** When its result was first merged, ms since `began`, and how long that took, ms. */
  mergedAt: number | null;
  mergeMs: number | null;
  /** Rises when a failed job is sent again. Messages and reports of earlier attempts are dropped. */
  attempt: number;
  /** The whole picture has been read, and every band is in the queue or done. */
  enqueued: boolean;
  /** Why it failed, in a sentence. */
  error: string | null;
  /** The same in a word, for metrics. */
  failure: Failure | null;
}

/** Why a job fails: an upload that stopped, a band that is lost, a task that threw, a message or result that cannot be read. */
export type Failure = "interrupted" | "lost" | "task_failed" | "bad_message" | "bad_result" | "other";

/**
 * When what happened to a band, in ms since its job began, by the store's clock alone, so that all of them can be compared.
 * One that is not known is absent.
 */
export interface BandTimes {
  /** The coordinator had cut it and gave it to the queue. */
  sent?: number;
  /** The queue confirmed it, maybe after a worker had it. */
  confirmed?: number;
  /** The worker received its message. */
  taken?: number;
  /** The worker had decoded it and claimed it. */
  claimed?: number;
  /** The task had returned. */
  computed?: number;
  /** The result was in the store. */
  stored?: number;
}

/** A worker has a band. */
export interface Claim extends BandTimes {
  worker: string;
  /** How often it had been delivered before, to workers that did not return it. */
  deliveries: number;
  /** One of the job's `workers` lanes, from 0 on: a lane has one band at a time. Absent where the job has no such limit. */
  lane?: number;
  /** The workers that died while they had it, in that order. */
  lost?: string[];
  /** A third-party worker has it, or made it. */
  foreign?: true;
}

/** What a third-party worker says about a band, or just the band where it says nothing. Checked: anyone may publish it. */
export interface Report {
  band: number;
  worker?: string;
  /** How long it took to decode the band, to run the task, and to store the result, ms. */
  decode?: number;
  ms?: number;
  store?: number;
}

/** What goes wrong with a job is kept up to this number: a band that kills its workers would fill Redis. */
export const MAX_INCIDENTS = 1000;

/** Something that went wrong with a job. */
export interface Incident {
  /** Its number, from 1 on. */
  n: number;
  /** `lost`: the worker died, or lost its connection. `threw`: its task did. `failed`: so the job has failed. */
  what: "lost" | "threw" | "failed";
  /** ms since the job began, by the store's clock. */
  at?: number;
  band?: number;
  worker?: string;
  /** `lost`: the worker that has the band now; absent while none has. */
  by?: string;
  error?: string;
}

export interface Done extends Omit<Claim, "deliveries"> {
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
  /** Whether it is a consumer of its queues now. During a long band it is not. */
  consuming: boolean;
  /** It takes no bands until it is asked to. */
  paused: boolean;
  /** It may be controlled (ops/obey.ts). */
  control: boolean;
}

/**
 * What a watcher gets: a band is done or claimed, something went wrong, a third-party worker reports, or the whole picture is
 * enqueued. Undefined: anything may have changed.
 */
export type Hint =
  | { band: number; done: Done }
  | { band: number; claim: Claim }
  | { incident: Incident }
  | { report: Report }
  | Enqueued;

/** The whole picture is enqueued, and so a list has this many bands. */
export type Enqueued = Pick<Job, "enqueuedAt" | "cutMs"> & Partial<Pick<Job, "bands" | "height">>;

export interface Results {
  /** Writes a whole record, and sets its `began`. It expires `ttl` seconds after the job's last band. */
  putJob(job: Job): Promise<void>;
  findJob(id: string): Promise<Job | null>;
  /** Changes a record. False where there is none, or where it is at another attempt than `attempt`. */
  updateJob(id: string, change: Change, attempt?: number): Promise<boolean>;
  /**
   * Fails a job, for the first reason given. Does nothing to a job that is done, for a band that is done, or for an earlier
   * attempt.
   */
  failJob(
    id: string,
    error: string,
    failure: Failure,
    of?: { band: number; attempt: number | undefined; worker: string },
  ): Promise<boolean>;
  /** Starts the next attempt of a failed job: done bands stay, the rest must be sent again. */
  reviveJob(id: string): Promise<void>;
  /** Takes back the done records of bands whose results are gone; these bands must be sent again. */
  forgetExpired(id: string): Promise<void>;
  /** Removes the record and everything that belongs to it. @param bands how many it has, where known */
  removeJob(id: string, bands?: number): Promise<void>;

  /** Takes or renews the lease to enqueue a job, for `ms`; false while another owner has it. */
  lease(id: string, owner: string, ms: number): Promise<boolean>;
  release(id: string, owner: string): Promise<void>;
  /** Whether a coordinator enqueues the job now. */
  isLeased(id: string): Promise<boolean>;

  /**
   * Records the CRC-32 of a band's rows, before it is sent, and its lane, if it has one.
   * @returns false where this attempt has other rows for the band, from another coordinator
   */
  expectRows(id: string, band: number, crc: number, attempt: number, lane?: number): Promise<boolean>;
  markSent(id: string, band: number, crc: number, attempt: number): Promise<void>;
  sent(id: string): Promise<Map<number, number>>;
  done(id: string): Promise<Map<number, Done>>;
  /** The bands that workers have now. */
  claims(id: string): Promise<Map<number, Claim>>;
  /** What went wrong, in order. */
  incidents(id: string): Promise<Incident[]>;
  /** A worker claims a band before it computes it, so that a second copy of its message is not computed as well. */
  begin(chunkId: string, by: Claimant): Promise<Begun>;
  /** A worker has lost the queue and goes on with its band: its redelivery does not mean that it has died. */
  cutOff(chunkId: string, by: Claimant): Promise<void>;
  /** A worker hands a band back unfinished. */
  unclaim(chunkId: string, by: Claimant): Promise<void>;
  /** Notes, once, that a worker which has claimed a band is alive no more. */
  noteLost(id: string, band: number, worker: string): Promise<void>;
  /** Notes, once, that the result of a job was merged now, and how long that took, ms. */
  noteMerge(id: string, ms: number): Promise<void>;
  /** Counts a failure of a band's task. @returns how many there were; 0 where the report is out of date */
  countFailure(chunkId: string, attempt: number | undefined, worker: string, error: string): Promise<number>;

  /**
   * Stores a band, marks it done and publishes that, in one transaction. Of a message without a job and an attempt,
   * only the result is stored. False: the job is gone or has failed, or the band is left over from an earlier attempt or an
   * earlier job with the same id (`done.crc` is not that of its rows).
   * @param picture must not change until this resolves
   */
  store(chunkId: string, picture: Uint8Array, done: Done, attempt: number | undefined): Promise<boolean>;
  /**
   * Records what third-party workers did: marks each of these bands as done if its result is SET, and as claimed if not and
   * a worker says that it has it.
   * A result that no worker has announced is recorded when it is seen for the second time.
   * @returns how many are done now that were not, or were seen for the first time
   */
  recordForeign(id: string, reports: Report[]): Promise<number>;
  /**
   * Records whether something seems wrong with a job: bands that are missing, an upload without a coordinator.
   * @returns for how long it has been seen so, ms; 0 while nothing is wrong. A stored band resets it.
   */
  trackSuspicion(id: string, suspicious: boolean): Promise<number>;
  load(chunkId: string): Promise<Uint8Array | null>;
  drop(chunkId: string): Promise<void>;

  /** Gives every third-party result a TTL, even where its job is gone. */
  sweep(): Promise<void>;

  watch(id: string, listener: (hint?: Hint) => void): Promise<() => void>;

  /** Asks a worker to do something. */
  command(worker: string, action: Action): Promise<void>;
  /** Calls `listener` with what the worker is asked to do. Returns a function that stops that. */
  onCommand(worker: string, listener: (action: string) => void): Promise<() => void>;

  /** The keys of a job, those of its results last. @param limit of results */
  keysOf(job: Job, limit: number): Promise<StoredKey[]>;

  /** Adds a job to the list of all jobs. */
  listJob(id: string): Promise<void>;
  /** Ids of the jobs in the list, newest first, expired ones included. @param limit how many at most */
  listed(limit: number): Promise<string[]>;

  beat(worker: WorkerInfo): Promise<void>;
  leave(name: string): Promise<void>;
  /** Live workers: those with a heartbeat in the last `LIVE_MS`. @param maxAgeMs how old the list may be */
  workers(maxAgeMs?: number): Promise<WorkerInfo[]>;

  /** ms since 1970 by the store's clock, the one that all times of jobs and bands come from. */
  now(): Promise<number>;
  /** Rejects while the store cannot be used, with `UnavailableError` where the reason is known. */
  ping(): Promise<void>;
  close(): Promise<void>;
}

/** Who computes a band: the worker's name, and since when it runs, which differs after a restart under the same name. */
export interface Claimant {
  name: string;
  since: number;
  /** The job's attempt as the message has it; undefined where a third party sent it. */
  attempt: number | undefined;
  /** How often the message was delivered before. */
  deliveries: number;
  /** How long the worker has had the message, ms. */
  heldMs: number;
}

/**
 * Null: the band needs no work. `elsewhere`: a worker that has lost the queue goes on with it. `lost`: how many workers died
 * while they computed it. Without a job, a third party sent the message: the result is stored, and nothing is recorded.
 */
export type Begun = { lost: number; claim: Claim; hasJob: boolean } | "elsewhere" | null;

/** The whole picture is enqueued, after `cutMs`, and so a list has this many bands; or a parameter was found. */
export type Change =
  | ({ enqueued: true; cutMs: number } & Partial<Pick<Job, "bands" | "height">>)
  | Pick<Job, "derivedParams">;
