/**
 * The interfaces of the queue and of the result store. queue.ts implements them with RabbitMQ, and results.ts with
 * Redis. embedded/ implements both in one process.
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
import type { Action } from "./ops/commands.ts";
import type { Letter, Peeked, StoredKey } from "./ops/inside.ts";
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
  /** The chunk's id from the envelope. It is known even if the message cannot be read. */
  chunkId: string;
  /** How often it was delivered before, as far as the queue knows. */
  deliveries: number;
  /** When it was enqueued, ms since 1970 by the sender's clock; NaN if the sender did not record it. */
  sent: number;
  /** The attempt of the job that it was sent for; undefined if a third party sent it. */
  attempt: number | undefined;
  /** Resolves when the connection is lost, because the queue then redelivers the band. */
  lost?: Promise<void>;
  /** Decodes the message. The pixels are a copy. @throws WireError if the message is invalid */
  open(): Promise<Chunk>;
}

export type Handler = (delivery: Delivery) => Promise<Outcome>;

export interface Queue {
  /**
   * Resolves once the queue has the chunk. The pixels are copied, so the caller may reuse their buffer. Rejects with
   * `QueueError` if the queue accepts nothing for `PUBLISH_MS`.
   */
  publish(chunk: Chunk): Promise<void>;
  /**
   * Passes chunks of these tasks to `handle`, one at a time.
   * @param onConsuming called with true when it becomes a consumer of the queues, with false when it stops being one
   * @returns a function that stops it, and resolves when the chunk in progress, if any, is settled
   */
  consume(tasks: string[], handle: Handler, onConsuming?: (consuming: boolean) => void): Promise<() => Promise<void>>;
  /** Chunks of a task that wait for a worker, and the number of its consumers, busy ones included. */
  depth(task: string): Promise<{ waiting: number; consumers: number }>;
  /** Number of dead-lettered chunks. */
  deadLetters(): Promise<number>;
  /** The chunk of a task that has waited longest; null if none waits. In RabbitMQ it goes to the end of the queue. */
  peek(task: string): Promise<Peeked | null>;
  /** Dead letters, at most `limit`. */
  letters(limit: number): Promise<Letter[]>;
  /** Puts dead letters back, all or those of one chunk. Rejects with `QueueError` if that is not possible. */
  putBack(results: Results, chunkId: string | null): Promise<Letter[]>;
  /** Why the queue cannot be used; null while it is connected. `ping` also checks whether it answers. */
  trouble(): Trouble | null;
  /** Rejects with `UnavailableError` while the queue cannot be used or accepts nothing. Pending while it is silent. */
  ping(): Promise<void>;
  /** Whether the queue is in this process. */
  readonly isLocal: boolean;
  close(): Promise<void>;
}

export interface Job {
  id: string;
  /** Name on the wire, with its version: `sobel`, `median.2`. */
  task: string;
  /** `picture`: the task returns pixels. `data`: it returns JSON. `list`: it returns JSON and needs no picture. */
  kind: "picture" | "data" | "list";
  /** The requested parameters, with the defaults filled in. */
  params: Values;
  /** The id of the job of the first step, if the task needs one; else null. */
  preJobId: string | null;
  /** The parameters that the first step has computed; null until then. */
  derivedParams: Values | null;
  /** At most this many bands are in flight. Null: as many as the live workers can use. */
  workers: number | null;
  /** Pixels. A list has `height` pieces; the longest is `width` bytes as JSON. */
  width: number;
  height: number;
  /** Rows (of a list, pieces) of a band. The last band may have fewer. */
  rows: number;
  /** Channels of the result: 1 grey, 3 RGB, 4 RGBA. */
  channels: Channels;
  /** `shrink × shrink` pixels become one pixel of the result. */
  shrink: number;
  /** Number of bands. It is an estimate while the length of a list is not known. */
  bands: number;
  /** What decided the number of bands: the size of a band, one band for each of `workers`, or the request. */
  bandsBy: "size" | "workers" | "request";
  /** When it was first requested, ms since 1970 by the coordinator's clock. */
  created: number;
  /** When its record was written, ms since 1970 by the store's clock; 0 before that, or with an older coordinator. */
  began: number;
  /** When all its bands were enqueued, ms since `began`. */
  enqueuedAt: number | null;
  /** How long the coordinator took to read and cut the picture, without waiting for room in the queue, ms. */
  cutMs: number | null;
  /** When its result was first merged, ms since `began`, and how long that took, ms. */
  mergedAt: number | null;
  mergeMs: number | null;
  /** Rises when a failed job is sent again. Messages and reports of earlier attempts are dropped. */
  attempt: number;
  /** The whole picture has been read, and every band is in the queue or done. */
  enqueued: boolean;
  /** Why it failed, as a sentence. */
  error: string | null;
  /** The same reason as one word, for metrics. */
  failure: Failure | null;
}

/** Why a job failed: its upload stopped, a band was lost, the task threw, or a message or a result cannot be read. */
export type Failure = "interrupted" | "lost" | "task_failed" | "bad_message" | "bad_result" | "other";

/**
 * The steps of a band, in ms since its job began. All are by the store's clock, so they can be compared. A time that is
 * not known is absent.
 */
export interface BandTimes {
  /** The coordinator had cut the band and began to publish it. */
  sent?: number;
  /** The queue confirmed it. A worker may have received it earlier. */
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
  /** How often the band had been delivered before, to workers that did not finish it. */
  deliveries: number;
  /** One of the job's `workers` lanes, from 0 on. A lane has one band at a time. Absent if the job has no limit. */
  lane?: number;
  /** The workers that died while they had it, oldest first. */
  lost?: string[];
  /** A third-party worker has it, or made it. */
  foreign?: true;
}

/** What a third-party worker reports about a band. It is checked, because any client of Redis may publish one. */
export interface Report {
  band: number;
  worker?: string;
  /** How long the worker took to decode the band, to run the task, and to store the result, ms. */
  decode?: number;
  ms?: number;
  store?: number;
}

/** A job keeps this many incidents. Without a limit, a band that kills its workers would fill Redis. */
export const MAX_INCIDENTS = 1000;

/** Something that went wrong with a job. */
export interface Incident {
  /** Its number, from 1 on. */
  n: number;
  /** `lost`: the worker died or lost its connection. `threw`: the task threw an error. `failed`: the job failed. */
  what: "lost" | "threw" | "failed";
  /** ms since the job began, by the store's clock. */
  at?: number;
  band?: number;
  worker?: string;
  /** For `lost`: the worker that has the band now; absent if none has it. */
  by?: string;
  error?: string;
}

/** A band is done. */
export interface Done extends Claim {
  /** How long the task took, ms. */
  ms: number;
  /** CRC-32 of the pixels of the band's own rows, without halo. */
  crc: number;
  /** Size of the result, bytes; 0 for a third-party result. */
  bytes: number;
  /** The result is a picture, and no PNG, PGM or PPM, so its pixels may not be exact. */
  lossy?: true;
}

export interface WorkerInfo {
  name: string;
  host: string;
  pid: number;
  /** `bun` or `deno`; empty for a third-party worker. A worker that sends it also keeps `busy` up to date. */
  runtime: string;
  /** Cores of its host, shared with other programs. */
  cores: number;
  tasks: string[];
  /** Those of `tasks` that a coordinator can enqueue without their modules. */
  offers: Offer[];
  /** When it joined, ms since 1970. */
  since: number;
  /** Bands that it has done, the pixels of these bands, and the time that the task took, ms. */
  bands: number;
  pixels: number;
  ms: number;
  /** Ids of the jobs whose bands it has, separated by spaces; empty while it is idle. */
  busy: string;
  /** Whether it is a consumer of its queues now. During a long band it is not. */
  consuming: boolean;
  /** It takes no bands until it gets the command `resume`. */
  paused: boolean;
  /** It accepts commands (ops/commands.ts). */
  control: boolean;
}

/**
 * What a watcher gets: a band is done or claimed, something went wrong, a third-party worker reports, or all bands are
 * enqueued. Undefined: anything may have changed.
 */
export type Hint =
  | { band: number; done: Done }
  | { band: number; claim: Claim }
  | { incident: Incident }
  | { report: Report }
  | Enqueued;

/** All bands are enqueued. The length of a list is now known. */
export type Enqueued = Pick<Job, "enqueuedAt" | "cutMs"> & Partial<Pick<Job, "bands" | "height">>;

export interface Results {
  /** Writes a whole record and sets its `began`. The record expires one TTL after the last band was stored. */
  putJob(job: Job): Promise<void>;
  findJob(id: string): Promise<Job | null>;
  /** Changes a record. False if there is none, or if it is at another attempt than `attempt`. */
  updateJob(id: string, change: Change, attempt?: number): Promise<boolean>;
  /**
   * Fails a job, because of a band if `of` is given. Only the first call has an effect. Does nothing if the job or the
   * band is done, or if the job is at another attempt.
   */
  failJob(id: string, error: string, failure: Failure, of?: FailedBand): Promise<boolean>;
  /** Starts the next attempt of a failed job: done bands stay, the rest must be sent again. */
  reviveJob(id: string): Promise<void>;
  /** Removes the done records of bands whose results have expired. If there are any, the next attempt starts. */
  forgetExpired(id: string): Promise<void>;
  /** Removes the record and everything that belongs to it. @param bands how many it has, if known */
  removeJob(id: string, bands?: number): Promise<void>;

  /** Takes or renews the lease to enqueue a job, for `ms`. False while another owner has it. */
  lease(id: string, owner: string, ms: number): Promise<boolean>;
  release(id: string, owner: string): Promise<void>;
  /** Whether a coordinator has the lease now. */
  isLeased(id: string): Promise<boolean>;

  /**
   * Records the CRC-32 of a band's rows, and its lane if it has one. Called before the band is published.
   * @returns false if another coordinator has recorded other rows for the band in this attempt
   */
  expectRows(id: string, band: number, crc: number, attempt: number, lane?: number): Promise<boolean>;
  markSent(id: string, band: number, crc: number, attempt: number): Promise<void>;
  sent(id: string): Promise<Map<number, number>>;
  done(id: string): Promise<Map<number, Done>>;
  /** The bands that workers have now. */
  claims(id: string): Promise<Map<number, Claim>>;
  /** What went wrong, oldest first. */
  incidents(id: string): Promise<Incident[]>;
  /** A worker claims a band before it computes it. Then a second copy of the message is not computed as well. */
  begin(chunkId: string, by: Claimant): Promise<Begun>;
  /** A worker has lost the queue but continues with its band. A redelivery of the band does not mean that it died. */
  cutOff(chunkId: string, by: Claimant): Promise<void>;
  /** A worker removes its claim, because it returns the band unfinished. */
  unclaim(chunkId: string, by: Claimant): Promise<void>;
  /** Records, once, that a worker died while it had a claim on a band. */
  noteLost(id: string, band: number, worker: string): Promise<void>;
  /** Records, once, that the result of a job was merged now, and how long that took, ms. */
  noteMerge(id: string, ms: number): Promise<void>;
  /** Counts a failure of a band's task. @returns how many there were; 0 if the report is out of date */
  countFailure(chunkId: string, attempt: number | undefined, worker: string, error: string): Promise<number>;

  /**
   * Stores a result, marks the band done and publishes that, in one transaction. Without a job and an attempt, only the
   * result is stored. False: the job is gone or has failed, or the band belongs to an earlier attempt, or to an earlier
   * job with the same id (then `done.crc` differs from the recorded CRC).
   * @param picture must not change until this resolves
   */
  store(chunkId: string, picture: Uint8Array, done: Done, attempt: number | undefined): Promise<boolean>;
  /**
   * Records what third-party workers did. A band is marked done if its result is SET. It is marked claimed if the
   * result is missing but the report names a worker. A result that no worker has reported is recorded when it is seen
   * for the second time, so that a report has time to arrive.
   * @returns how many bands became done, or had their result seen for the first time
   */
  recordForeign(id: string, reports: Report[]): Promise<number>;
  /**
   * Records whether a job is stuck at this look: bands are missing, or its upload has no coordinator.
   * @returns for how long it has been stuck at every look, ms; 0 if it is not. A stored band resets it
   */
  stuckFor(id: string, isStuck: boolean): Promise<number>;
  load(chunkId: string): Promise<Uint8Array | null>;
  drop(chunkId: string): Promise<void>;

  /** Gives every third-party result a TTL, even if its job is gone. */
  sweep(): Promise<void>;

  watch(id: string, listener: (hint?: Hint) => void): Promise<() => void>;

  /** Sends a command to a worker. */
  command(worker: string, action: Action): Promise<void>;
  /** Calls `listener` with each command to the worker. Returns a function that unsubscribes. */
  onCommand(worker: string, listener: (action: string) => void): Promise<() => void>;

  /** The keys of a job, those of its results last. @param limit at most this many results */
  keysOf(job: Job, limit: number): Promise<StoredKey[]>;

  /** Adds a job to the list of all jobs. */
  listJob(id: string): Promise<void>;
  /** Ids of the jobs in the list, newest first, expired ones included. @param limit how many at most */
  listed(limit: number): Promise<string[]>;

  beat(worker: WorkerInfo): Promise<void>;
  leave(name: string): Promise<void>;
  /** Live workers: those with a heartbeat in the last `LIVE_MS`. @param maxAgeMs how old the list may be */
  workers(maxAgeMs?: number): Promise<WorkerInfo[]>;

  /** ms since 1970 by the store's clock, which all times of jobs and bands come from. */
  now(): Promise<number>;
  /** Rejects while the store cannot be used, with `UnavailableError` if the reason is known. */
  ping(): Promise<void>;
  close(): Promise<void>;
}

/** The band that fails a job. */
export interface FailedBand {
  band: number;
  attempt: number | undefined;
  worker: string;
}

/** The worker that computes a band. `since`, its start, distinguishes it from an earlier process with the same name. */
export interface Claimant {
  name: string;
  since: number;
  /** The job's attempt as the message has it; undefined if a third party sent it. */
  attempt: number | undefined;
  /** How often the message was delivered before. */
  deliveries: number;
  /** How long the worker has had the message, ms. */
  heldMs: number;
}

/**
 * Null: the band needs no work. `elsewhere`: a worker that has lost the queue still computes it. `lost`: the number of
 * workers that died while they computed it. `hasJob` is false for a third party's message: only its result is stored.
 */
export type Begun = { lost: number; claim: Claim; hasJob: boolean } | "elsewhere" | null;

/** Either all bands are enqueued, and the length of a list is known; or the first step has computed parameters. */
export type Change =
  | ({ enqueued: true; cutMs: number } & Partial<Pick<Job, "bands" | "height">>)
  | Pick<Job, "derivedParams">;
