/**
 * The text form of the records in Redis (jobs, bands, workers) and of the messages on a job's channel.
 *
 * Invariant: values that another program may have written are checked. One that can be left out never causes an error.
 *
 * Not here: the keys (results.ts), what the fields mean (backends.ts).
 */
import type { BandTimes, Claim, Done, Failure, Hint, Incident, Job, Report, WorkerInfo } from "../backends.ts";
import type { Offer } from "../tasks/offer.ts";

/** Any client of Redis may publish on the channel. An unreadable message means that anything may have changed. */
export function hintFrom(message: string): Hint | undefined {
  const [, kind = "", band, json = "null"] =
    /^(claim |incident |enqueued ?)?(?:(\d{1,10}) )?(.*)$/s.exec(message) ?? [];
  try {
    if (message.startsWith("{")) return { report: reportFrom(message) };
    if (kind === "claim ") return { band: Number(band), claim: claimFrom(json) };
    if (kind === "incident ") return { incident: incidentFrom(json) };
    if (kind.startsWith("enqueued")) return enqueuedFrom(message);
    if (band !== undefined) return { band: Number(band), done: doneFrom(json) };
  } catch {
    // The message cannot be read.
  }
  return undefined;
}

/** @returns undefined if the message has no times: then an older coordinator sent it, and the records are read */
function enqueuedFrom(message: string): Hint | undefined {
  const [, at, cut, bands, height] = message.split(" ").map(Number);
  if (!Number.isFinite(at) || !Number.isFinite(cut)) return undefined;
  return { enqueuedAt: at, cutMs: cut, ...(bands > 0 && height > 0 && { bands, height }) };
}

/** @throws SyntaxError, TypeError */
function doneFrom(json: string): Done {
  const done = JSON.parse(json) as Done;
  if (typeof done.worker !== "string" || !Number.isFinite(done.ms) || !Number.isFinite(done.bytes)) {
    throw new TypeError("done record: expected worker, ms and bytes");
  }
  return { ...done, ...checkedTimes(done) };
}

/** @throws SyntaxError, TypeError */
export function claimFrom(json: string): Claim {
  const claim = JSON.parse(json) as Claim;
  if (typeof claim.worker !== "string" || !Number.isInteger(claim.deliveries)) {
    throw new TypeError("claim: expected worker and deliveries");
  }
  return { ...claim, ...checkedTimes(claim) };
}

const INCIDENTS = ["lost", "threw", "failed"];

/** @throws SyntaxError, TypeError */
export function incidentFrom(json: string): Incident {
  const incident = JSON.parse(json) as Incident;
  if (!Number.isInteger(incident.n) || !INCIDENTS.includes(incident.what)) {
    throw new TypeError("incident: expected n and what");
  }
  return incident;
}

/** Limits of a third-party worker's report. */
const MAX_NAME = 64;
const MAX_MS = 1e9;

/** @throws SyntaxError, TypeError */
function reportFrom(json: string): Report {
  const { band, worker, ...times } = JSON.parse(json) as Report;
  if (!Number.isInteger(band) || band < 0) throw new TypeError("report: expected a band");
  const named = typeof worker === "string" && worker !== "" && worker.length <= MAX_NAME && !/\p{Cc}/u.test(worker);
  const spans = (["decode", "ms", "store"] as const).flatMap((name) => {
    const ms = times[name];
    return typeof ms === "number" && ms >= 0 && ms <= MAX_MS ? [[name, Math.round(ms * 10) / 10] as const] : [];
  });
  return { band, ...(named && { worker }), ...Object.fromEntries(spans) };
}

/** The times of a record. A value that is not a number is left out. */
function checkedTimes(times: BandTimes): BandTimes {
  const names = ["sent", "confirmed", "taken", "claimed", "computed", "stored"] as const;
  return Object.fromEntries(names.map((name) => [name, Number.isFinite(times[name]) ? times[name] : undefined]));
}

/** A job's record, or a part of it, as the fields of a hash. */
export function fieldsOf(job: Partial<Job>): Record<string, string | number> {
  const fields = Object.entries(job).map(([name, value]) => {
    if (value === null) return [name, ""];
    if (typeof value === "object") return [name, JSON.stringify(value)];
    return [name, typeof value === "boolean" ? Number(value) : value];
  });
  return Object.fromEntries(fields);
}

export function jobFrom(fields: Record<string, string>): Job {
  return {
    id: fields.id,
    task: fields.task,
    // Older coordinators wrote only jobs of pictures.
    kind: fields.kind === "data" || fields.kind === "list" ? fields.kind : "picture",
    params: JSON.parse(fields.params || "{}"),
    preJobId: fields.preJobId || null,
    derivedParams: fields.derivedParams ? JSON.parse(fields.derivedParams) : null,
    workers: fields.workers ? Number(fields.workers) : null,
    width: Number(fields.width),
    height: Number(fields.height),
    rows: Number(fields.rows),
    // Older coordinators wrote only grey jobs.
    channels: (Number(fields.channels) || 1) as Job["channels"],
    shrink: Number(fields.shrink) || 1,
    bands: Number(fields.bands),
    bandsBy: (fields.bandsBy as Job["bandsBy"]) || "size",
    created: Number(fields.created),
    began: Number(fields.began) || 0,
    enqueuedAt: fields.enqueuedAt ? Number(fields.enqueuedAt) : null,
    cutMs: fields.cutMs ? Number(fields.cutMs) : null,
    mergedAt: fields.mergedAt ? Number(fields.mergedAt) : null,
    mergeMs: fields.mergeMs ? Number(fields.mergeMs) : null,
    attempt: Number(fields.attempt) || 0,
    enqueued: fields.enqueued === "1",
    error: fields.error || null,
    failure: (fields.failure as Failure) || null,
  };
}

/** Fields that are missing or invalid, as a third-party worker may send them, become empty or 0. */
export function workerOf(fields: Record<string, string>): WorkerInfo {
  const { name, host = "", runtime = "", busy = "" } = fields;
  const [pid, cores, since, bands, pixels, ms] = ["pid", "cores", "since", "bands", "pixels", "ms"].map((field) => {
    const value = Number(fields[field]);
    return Number.isFinite(value) && value >= 0 ? value : 0;
  });
  const tasks = listOf(fields.tasks).filter((task) => typeof task === "string");
  const offers = listOf(fields.offers).filter((offer) => typeof offer === "object" && offer !== null) as Offer[];
  const consuming = fields.consuming !== "0";
  const [paused, control] = [fields.paused === "1", fields.control === "1"];
  return { name, host, runtime, tasks, offers, pid, cores, since, bands, pixels, ms, busy, consuming, paused, control };
}

function listOf(json = "[]"): unknown[] {
  try {
    const list: unknown = JSON.parse(json);
    return Array.isArray(list) ? list : [];
  } catch {
    return [];
  }
}
