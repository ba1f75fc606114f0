/**
 * The turns of a job: each time that a worker had a band, with the times of its phases. A turn ends when its result is
 * stored, or when its worker is lost or its task throws.
 *
 * Invariant: all times are ms since the job began, by the one clock of the server.
 *
 * Not here: drawing them (timeline.js), the events' transport (jobs.js).
 */

/**
 * @typedef {object} Turn
 * @property {number} band
 * @property {string} worker
 * @property {number} [lane] with `workers=N`
 * @property {number} deliveries
 * @property {number} [sent] @property {number} [confirmed] @property {number} [taken] @property {number} [claimed]
 * @property {number} [computed] @property {number} [stored] @property {number} [ms]
 * @property {string[]} [lost] the workers that died while they had the band
 * @property {number} [failed] when this turn ended without a result
 * @property {"lost" | "threw"} [why] it failed
 */

/** @typedef {{ n: number, what: "lost" | "threw" | "failed", at: number, band?: number, worker?: string, by?: string, error?: string }} Incident */

/**
 * @typedef {object} Trace
 * @property {Map<number, Turn>} claims bands that a worker has now
 * @property {Map<string, Turn>} failed turns without a result
 * @property {Map<number, Incident>} incidents by their number
 * @property {number} origin when the job began, by `performance.now()` of this page
 */

/** @returns {Trace} */
export function newTrace() {
  return { claims: new Map(), failed: new Map(), incidents: new Map(), origin: Number.POSITIVE_INFINITY };
}

/** @param {Trace} trace @param {"claim" | "band" | "incident"} name @param {any} data of the event */
export function record(trace, name, data) {
  const last = data.at ?? data.stored ?? data.claimed;
  // An event is never early, so the smallest difference is the best estimate.
  if (last !== undefined) trace.origin = Math.min(trace.origin, performance.now() - last);
  if (name === "incident") return incident(trace, data);
  const before = trace.claims.get(data.band);
  // The incident says when it ended.
  if (before && before.deliveries < data.deliveries) trace.failed.set(keyOf(before), before);
  if (name === "claim") trace.claims.set(data.band, data);
  else trace.claims.delete(data.band);
}

/** @param {Trace} trace @param {Incident} data */
function incident(trace, data) {
  trace.incidents.set(data.n, data);
  const { band, worker, at, what } = data;
  if (band === undefined || worker === undefined || what === "failed") return;
  const claim = trace.claims.get(band);
  const open = claim?.worker === worker && (claim.claimed ?? 0) <= at ? claim : undefined;
  if (open) trace.claims.delete(band);
  const known =
    open ?? [...trace.failed.values()].find((turn) => turn.band === band && turn.worker === worker && !turn.why);
  const turn = { deliveries: 0, ...known, band, worker, failed: at, why: what };
  if (known) trace.failed.delete(keyOf(known));
  trace.failed.set(keyOf(turn), turn);
}

/** @param {Turn} turn */
export const keyOf = ({ band, worker, deliveries, failed }) => `${band} ${worker} ${deliveries} ${failed ?? ""}`;

/** The time since the job began, ms. @param {import("./jobs.js").Job} job */
export function nowOf({ trace }) {
  return Math.max(0, performance.now() - trace.origin);
}

/** All turns, in the order of their beginning. @param {import("./jobs.js").Job} job @returns {Turn[]} */
export function turnsOf({ doneBands, trace }) {
  const done = [...doneBands].map(([band, of]) => ({ ...of, band }));
  const claims = [...trace.claims.values()].filter(({ band }) => !doneBands.has(band));
  const failed = [...trace.failed.values()].filter(({ why }) => why);
  return [...done, ...claims, ...failed].sort((a, b) => beginOf(a) - beginOf(b) || a.band - b.band);
}

/** @param {Turn} turn */
export const beginOf = (turn) => turn.taken ?? turn.claimed ?? turn.computed ?? turn.stored ?? turn.failed ?? 0;
/** @param {Turn} turn @param {number} now */
export const endOf = (turn, now) => turn.failed ?? turn.stored ?? turn.computed ?? now;

/**
 * How far the job is. A band that no worker has had is known only when all are in the queue.
 * @param {import("./jobs.js").Job} job
 */
export function progressOf({ doneBands, trace, status, phase }) {
  const { bands = 0, done = 0 } = status;
  const seen = [...doneBands.keys(), ...trace.claims.keys()];
  const all = status.times?.enqueued != null || ["running", "done", "expired"].includes(phase);
  const cut = all
    ? bands
    : Math.min(
        bands,
        seen.reduce((most, band) => Math.max(most, band + 1), 0),
      );
  const stored = Math.max(doneBands.size, done);
  const held = [...trace.claims.keys()].filter((band) => !doneBands.has(band)).length;
  return { cut, queued: Math.max(0, cut - stored - held), held, stored };
}

/**
 * The depth of the queue: pairs of a time and the number of bands that wait from then on.
 * @param {import("./jobs.js").Job} job @param {Turn[]} turns @returns {[number, number][]}
 */
export function depthOf({ status }, turns) {
  /** @type {[number, number][]} */
  const changes = [];
  const seen = new Set();
  for (const turn of turns) {
    const { band, sent, failed } = turn;
    if (!seen.has(band) && sent !== undefined) changes.push([sent, 1]);
    seen.add(band);
    if (sent !== undefined) changes.push([Math.max(sent, beginOf(turn)), -1]);
    if (failed !== undefined && sent !== undefined) changes.push([failed, 1]);
  }
  const enqueued = status.times?.enqueued;
  if (enqueued != null && (status.bands ?? 0) > seen.size) changes.push([enqueued, (status.bands ?? 0) - seen.size]);
  changes.sort(([a, up], [b, down]) => a - b || up - down);
  let depth = 0;
  return changes.map(([at, by]) => {
    depth = Math.max(0, depth + by);
    return [at, depth];
  });
}

/** When a worker was lost and did not come back, ms; undefined if it was not. @param {import("./jobs.js").Job} job @param {string} name */
export function lostAt({ doneBands, trace }, name) {
  const at = Math.max(
    ...[...trace.incidents.values()].map(({ what, worker, at }) => (what === "lost" && worker === name ? at : -1)),
    -1,
  );
  if (at < 0) return undefined;
  const back = [...doneBands.values(), ...trace.claims.values()].some(
    (of) => of.worker === name && (of.stored ?? of.claimed ?? 0) > at,
  );
  return back ? undefined : at;
}
