/**
 * The result store of the embedded mode, in this process: one machine, with nothing installed but Bun or Deno.
 *
 * `LocalResults` implements `Results` (backends.ts). When the process ends, everything in it is lost.
 *
 * Not here: the queue (embedded/queue.ts) and the workers (embedded/workers.ts) of that mode.
 */
import { EventEmitter } from "node:events";
import type {
  BandTimes,
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
  Results,
  WorkerInfo,
} from "../backends.ts";
import { MAX_INCIDENTS } from "../backends.ts";
import { chunkIdOf, parseChunkId } from "../chunk.ts";
import type { Action } from "../ops/commands.ts";
import type { StoredKey } from "../ops/inside.ts";
import { LIVE_MS } from "../results.ts";

/** Maximum length of the list of all jobs. */
const MAX_LISTED = 1_000;

export class LocalResults implements Results {
  readonly #jobs = new Map<string, LocalJob>();
  readonly #leases = new Map<string, { owner: string; until: number }>();
  readonly #workers = new Map<string, { worker: WorkerInfo; at: number }>();
  readonly #events = new EventEmitter().setMaxListeners(0);
  /** Ids of jobs, newest first. */
  #list: string[] = [];

  constructor(readonly ttlSeconds: number) {}

  async putJob(job: Job): Promise<void> {
    const entry = this.#jobs.get(job.id) ?? {
      job,
      rows: new Map(),
      sent: new Map(),
      done: new Map(),
      failures: new Map(),
      bands: new Map(),
      claims: new Map(),
      incidents: [],
    };
    job.began = entry.job.began || now();
    entry.job = { ...job };
    this.#jobs.set(job.id, entry);
    this.#renew(entry);
    this.#publish(job.id);
  }

  async findJob(id: string): Promise<Job | null> {
    const entry = this.#jobs.get(id);
    return entry ? { ...entry.job } : null;
  }

  async updateJob(id: string, change: Change, attempt?: number): Promise<boolean> {
    const entry = this.#jobs.get(id);
    if (!entry || isStale(entry, attempt)) return false;
    if ("cutMs" in change && !entry.job.enqueued) Object.assign(entry.job, change, { enqueuedAt: elapsed(entry) });
    else if (!("cutMs" in change)) Object.assign(entry.job, change);
    const { enqueuedAt, cutMs, bands, height } = entry.job;
    this.#publish(id, "cutMs" in change ? { enqueuedAt, cutMs, bands, height } : undefined);
    return true;
  }

  async removeJob(id: string): Promise<void> {
    clearTimeout(this.#jobs.get(id)?.expiry);
    this.#jobs.delete(id);
    this.#list = this.#list.filter((other) => other !== id);
    this.#publish(id);
  }

  async lease(id: string, owner: string, ms: number): Promise<boolean> {
    const held = this.#leases.get(id);
    if (held && held.owner !== owner && held.until > Date.now()) return false;
    this.#leases.set(id, { owner, until: Date.now() + ms });
    const entry = this.#jobs.get(id);
    if (entry) this.#renew(entry); // a job that is being enqueued does not expire
    return true;
  }

  async release(id: string, owner: string): Promise<void> {
    if (this.#leases.get(id)?.owner === owner) this.#leases.delete(id);
  }

  async failJob(id: string, error: string, failure: Failure, of?: FailedBand): Promise<boolean> {
    const entry = this.#jobs.get(id);
    if (!entry || entry.job.error !== null || isStale(entry, of?.attempt)) return false;
    if (of && entry.done.has(of.band)) return false;
    if (entry.job.enqueued && entry.done.size === entry.job.bands) return false;
    Object.assign(entry.job, { error, failure });
    this.#note(entry, { what: "failed", error, band: of?.band, worker: of?.worker });
    this.#publish(id);
    return true;
  }

  async reviveJob(id: string): Promise<void> {
    const entry = this.#jobs.get(id);
    if (!entry || entry.job.error === null) return;
    const attempt = entry.job.attempt + 1;
    Object.assign(entry.job, { error: null, failure: null, enqueued: false, attempt });
    entry.rows.clear();
    entry.sent.clear();
    entry.failures.clear();
    entry.claims.clear();
    this.#publish(id);
  }

  /** Does nothing: results expire together with their job. */
  async forgetExpired(): Promise<void> {}

  async isLeased(id: string): Promise<boolean> {
    return (this.#leases.get(id)?.until ?? 0) > Date.now();
  }

  async expectRows(id: string, band: number, crc: number, attempt: number, lane?: number): Promise<boolean> {
    const entry = this.#jobs.get(id);
    if (!entry || isStale(entry, attempt)) return true;
    if ((entry.rows.get(band)?.crc ?? crc) !== crc) return false;
    entry.rows.set(band, { crc, lane, sent: elapsed(entry) });
    return true;
  }

  async markSent(id: string, band: number, crc: number, attempt: number): Promise<void> {
    const entry = this.#jobs.get(id);
    if (!entry || isStale(entry, attempt)) return;
    entry.sent.set(band, crc);
    const rows = entry.rows.get(band);
    if (rows) rows.confirmed = elapsed(entry);
  }

  async sent(id: string): Promise<Map<number, number>> {
    return new Map(this.#jobs.get(id)?.sent);
  }

  async done(id: string): Promise<Map<number, Done>> {
    return new Map(this.#jobs.get(id)?.done);
  }

  async claims(id: string): Promise<Map<number, Claim>> {
    return new Map(this.#jobs.get(id)?.claims);
  }

  async incidents(id: string): Promise<Incident[]> {
    return [...(this.#jobs.get(id)?.incidents ?? [])];
  }

  /** This queue never makes a second copy of a message, so a claim of another worker does not stop this one. */
  async begin(chunkId: string, { name: worker, attempt, deliveries, heldMs }: Claimant): Promise<Begun> {
    const { jobId, band } = parseChunkId(chunkId);
    const entry = this.#jobs.get(jobId);
    if (!entry || entry.job.error !== null || isStale(entry, attempt) || entry.done.has(band)) return null;
    const { crc, ...about } = entry.rows.get(band) ?? {};
    const claimed = elapsed(entry);
    const before = entry.claims.get(band);
    const lost = [...(before?.lost ?? []), ...(before && before.worker !== worker ? [before.worker] : [])];
    if (before && before.worker !== worker)
      this.#note(entry, { what: "lost", band, worker: before.worker, by: worker });
    const claim: Claim = { ...about, worker, deliveries, taken: Math.max(0, tenths(claimed - heldMs)), claimed };
    if (lost.length > 0) claim.lost = lost;
    entry.claims.set(band, claim);
    this.#publish(jobId, { band, claim });
    return { lost: 0, claim, hasJob: true };
  }

  /** Does nothing: this queue has no connection to lose. */
  async cutOff(): Promise<void> {}

  async unclaim(chunkId: string): Promise<void> {
    const { jobId, band } = parseChunkId(chunkId);
    this.#jobs.get(jobId)?.claims.delete(band);
  }

  /** Does nothing: a worker that ends here returns its band to the queue. */
  async noteLost(): Promise<void> {}

  async noteMerge(id: string, mergeMs: number): Promise<void> {
    const entry = this.#jobs.get(id);
    if (entry && entry.job.mergeMs === null) Object.assign(entry.job, { mergeMs, mergedAt: elapsed(entry) });
  }

  async countFailure(chunkId: string, attempt: number | undefined, worker: string, error: string): Promise<number> {
    const { jobId, band } = parseChunkId(chunkId);
    const entry = this.#jobs.get(jobId);
    if (!entry || isStale(entry, attempt) || entry.done.has(band)) return 0;
    const count = (entry.failures.get(band) ?? 0) + 1;
    entry.failures.set(band, count);
    entry.claims.delete(band);
    this.#note(entry, { what: "threw", band, worker, error });
    return count;
  }

  async store(chunkId: string, picture: Uint8Array, done: Done, attempt: number | undefined): Promise<boolean> {
    const { jobId, band } = parseChunkId(chunkId);
    const entry = this.#jobs.get(jobId);
    if (!entry || entry.job.error !== null || isStale(entry, attempt)) return false;
    if (entry.rows.get(band)?.crc !== done.crc) return false;
    if (entry.job.enqueued && band >= entry.job.bands) return false; // a list was decided without it
    entry.bands.set(band, picture.slice());
    entry.claims.delete(band);
    this.#renew(entry);
    if (entry.done.has(band)) return true;
    const record = { ...done, stored: elapsed(entry) };
    entry.done.set(band, record);
    this.#publish(jobId, { band, done: record });
    return true;
  }

  /** Third-party workers cannot reach this process. */
  async recordForeign(): Promise<number> {
    return 0;
  }

  /** Queue, coordinator and jobs are in this process. No band and no upload can be lost while its job still exists. */
  async stuckFor(): Promise<number> {
    return 0;
  }

  async load(chunkId: string): Promise<Uint8Array | null> {
    const { jobId, band } = parseChunkId(chunkId);
    return this.#jobs.get(jobId)?.bands.get(band) ?? null;
  }

  async drop(chunkId: string): Promise<void> {
    const { jobId, band } = parseChunkId(chunkId);
    this.#jobs.get(jobId)?.bands.delete(band);
  }

  async sweep(): Promise<void> {}

  async watch(id: string, listener: (hint?: Hint) => void): Promise<() => void> {
    this.#events.on(id, listener);
    return () => this.#events.off(id, listener);
  }

  async command(worker: string, action: Action): Promise<void> {
    this.#events.emit(`worker:${worker}`, action);
  }

  async onCommand(worker: string, listener: (action: string) => void): Promise<() => void> {
    this.#events.on(`worker:${worker}`, listener);
    return () => this.#events.off(`worker:${worker}`, listener);
  }

  async keysOf({ id }: Job, limit: number): Promise<StoredKey[]> {
    const { rows, sent, done, failures, bands } = this.#jobs.get(id) ?? {};
    const hashes = Object.entries({ rows, sent, done, failures }).filter(
      ([, map]) => map !== undefined && map.size > 0,
    );
    const key = (key: string, type: StoredKey["type"], size: number) => ({ key, type, size, ttl: this.ttlSeconds });
    const results = [...(bands ?? [])].slice(0, limit);
    return [
      ...hashes.map(([part, map]) => key(`job:{${id}}:${part}`, "hash", map!.size)),
      ...results.map(([band, bytes]) => key(`resultado:${chunkIdOf(id, band)}`, "string", bytes.length)),
    ];
  }

  async listJob(id: string): Promise<void> {
    this.#list = [id, ...this.#list.filter((other) => other !== id)].slice(0, MAX_LISTED);
  }

  async listed(limit: number): Promise<string[]> {
    return this.#list.slice(0, limit);
  }

  async beat(worker: WorkerInfo): Promise<void> {
    this.#workers.set(worker.name, { worker: { ...worker }, at: Date.now() });
  }

  async leave(name: string): Promise<void> {
    this.#workers.delete(name);
  }

  async workers(): Promise<WorkerInfo[]> {
    const alive = [...this.#workers.values()].filter(({ at }) => at > Date.now() - LIVE_MS);
    return alive.map(({ worker }) => worker);
  }

  async now(): Promise<number> {
    return now();
  }

  async ping(): Promise<void> {}

  async close(): Promise<void> {
    for (const { expiry } of this.#jobs.values()) clearTimeout(expiry);
  }

  #publish(id: string, hint?: Hint): void {
    this.#events.emit(id, hint);
  }

  #note(entry: LocalJob, what: Omit<Incident, "n" | "at">): void {
    const n = entry.incidents.length + 1;
    if (n > MAX_INCIDENTS) return;
    const incident = { n, at: elapsed(entry), ...what };
    entry.incidents.push(incident);
    this.#publish(entry.job.id, { incident });
  }

  #renew(entry: LocalJob): void {
    clearTimeout(entry.expiry);
    entry.expiry = setTimeout(() => this.removeJob(entry.job.id), this.ttlSeconds * 1000);
    entry.expiry.unref?.();
  }
}

function isStale({ job }: LocalJob, attempt: number | undefined): boolean {
  return attempt !== undefined && attempt !== job.attempt;
}

/** The clock of this process, ms since 1970. Finer than `Date.now`. */
const now = () => tenths(performance.timeOrigin + performance.now());
const tenths = (ms: number) => Math.round(ms * 10) / 10;
/** ms since the job began. */
const elapsed = ({ job }: LocalJob) => Math.max(0, tenths(now() - job.began));

interface LocalJob {
  job: Job;
  rows: Map<number, { crc: number; lane: number | undefined } & BandTimes>;
  claims: Map<number, Claim>;
  incidents: Incident[];
  sent: Map<number, number>;
  done: Map<number, Done>;
  failures: Map<number, number>;
  bands: Map<number, Uint8Array>;
  expiry?: ReturnType<typeof setTimeout>;
}
