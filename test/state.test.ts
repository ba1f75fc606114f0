// The state machine of docs/architecture.md: every order in which a few actors can act on one job of two bands, on a real
// Redis and in memory. After each step the records are read, and each change is compared with what may change.
//
// The scripts are atomic, so an order of calls is an order of transactions: to try all merges of the actors' calls is to
// try all races between them.
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { Redis } from "ioredis";
import type { BandTimes, Begun, Claimant, Job, Results } from "../backends.ts";
import { chunkIdOf } from "../chunk.ts";
import { LocalResults } from "../embedded/results.ts";
import { startOrResume } from "../jobs/record.ts";
import { RedisResults } from "../results.ts";
import { JobError, stateOf } from "../watch.ts";
import { describeWith, type RedisServer, startRedis } from "./servers.ts";
import { sleep, until } from "./wait.ts";

const TTL = 100;
/** All keys grow older by this before each step, s: a key that is not renewed shows. */
const STEP_AGE = 4;
const CRC = [10, 11];
/** Orders that run at the same time, each on a job of its own. */
const BATCH = 256;

/** What the actors of one order share. */
interface World {
  results: Results;
  id: string;
  /** Attempt that the resender has enqueued; undefined before that. */
  resent: number | undefined;
}

/** One call of an actor. Returns the answer, to be compared between the stores. */
interface Step {
  name: string;
  /** What the records may undergo besides what every step may do. */
  may?: ("remove" | "revive" | "replace" | "forget" | "drop" | "fail")[];
  /** The attempt that the caller works for: once there is another one, the step must change nothing. */
  attempt?: number;
  run(world: World): Promise<unknown>;
}
type Actor = Step[];

/** The records as one step leaves them. */
interface Records {
  job: Record<string, string>;
  rows: Record<string, string>;
  sent: Record<string, string>;
  done: Record<string, string>;
  failures: Record<string, string>;
  claims: Record<string, string>;
  stored: Record<string, string>;
  /** Seconds to live of each key. */
  ttl: Record<string, number>;
}

/** Reads everything about a job in one transaction, and makes all its keys older. */
const SNAPSHOT = `
local ttl, all, stored = {}, {}, {}
local function age(name, key)
  local left = redis.call('PTTL', key)
  if left == -2 then return end
  ttl[name] = left / 1000
  if left == -1 then return end
  redis.call('PEXPIRE', key, left - tonumber(ARGV[1]) * 1000)
end
if redis.call('HEXISTS', KEYS[1], 'renewed') == 1 then redis.call('HINCRBY', KEYS[1], 'renewed', -ARGV[1]) end
for _, part in ipairs({'job', 'rows', 'sent', 'done', 'failures', 'claims'}) do
  local key = part == 'job' and KEYS[1] or KEYS[1] .. ':' .. part
  local flat, fields = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  all[part] = fields
  age(part, key)
end
age('log', KEYS[1] .. ':log')
for band = 0, 1 do
  local key = 'resultado:' .. KEYS[1]:sub(5) .. ':' .. band
  local result = redis.call('GET', key)
  if result then stored[tostring(band)] = result end
  age('result ' .. band, key)
end
all.stored, all.ttl = stored, ttl
return cjson.encode(all)`;

function newJob(id: string, attempt: number, p: string): Job {
  const plan = { width: 3, height: 2, rows: 1, bands: 2, channels: 1, shrink: 1 } as const;
  const shape = { ...plan, bandsBy: "size", workers: null } as const;
  const state = {
    began: 0,
    enqueuedAt: null,
    cutMs: null,
    mergedAt: null,
    mergeMs: null,
    enqueued: false,
    error: null,
    failure: null,
    preJobId: null,
    derivedParams: null,
  };
  return { id, task: "sobel", kind: "picture", params: { p }, created: attempt, attempt, ...shape, ...state };
}

const chunk = ({ id }: World, band: number) => chunkIdOf(id, band);
const tag = (p: string) => new TextEncoder().encode(p);
const record = (band: number) => ({ worker: "w", ms: 1, crc: CRC[band], bytes: 1, deliveries: 0 });
const claimant = (name: string, attempt: number): Claimant => ({ name, since: 1, attempt, deliveries: 1, heldMs: 0 });

// The actors.

/** A coordinator that enqueues both bands for attempt 1. */
const enqueuer: Actor = [
  {
    name: "expect the rows",
    attempt: 1,
    run: async ({ results, id }) => {
      for (const band of [0, 1]) await results.expectRows(id, band, CRC[band], 1);
    },
  },
  ...[0, 1].map((band) => ({
    name: `mark band ${band} as sent`,
    attempt: 1,
    run: ({ results, id }: World) => results.markSent(id, band, CRC[band], 1),
  })),
  {
    name: "mark the job as enqueued",
    attempt: 1,
    run: ({ results, id }) => results.updateJob(id, { enqueued: true, cutMs: 1 }, 1),
  },
];

/** A worker that begins a band and stores it, with the result that these parameters give. */
function worker(name: string, band: number, attempt: number, p = "x"): Actor {
  let begun: Begun = null;
  return [
    {
      name: `${name} begins band ${band}`,
      attempt,
      run: async (world) => {
        begun = await world.results.begin(chunk(world, band), claimant(name, attempt));
        return begun !== null;
      },
    },
    {
      name: `${name} stores band ${band}`,
      attempt,
      // Whether or not it may begin: it may have begun a while ago, before the first step here.
      run: (world) => world.results.store(chunk(world, band), tag(p), record(band), attempt),
    },
  ];
}

/** A worker loses its connection to the queue. */
function cutOff(name: string, band: number): Step {
  return {
    name: `${name} loses the queue`,
    run: async (world) => void (await world.results.cutOff(chunk(world, band), claimant(name, 1))),
  };
}

/** A worker whose task throws: `counts` steps, then it fails the job if there were three failures. */
function thrower(band: number, attempt: number, counts: number[]): Actor {
  let failures = 0;
  return [
    ...counts.map((times) => ({
      name: `band ${band} throws ${times} times`,
      attempt,
      run: async ({ results, id }: World) => {
        for (let i = 0; i < times; i++) failures = await results.countFailure(chunkIdOf(id, band), attempt, "w", "no");
        return failures;
      },
    })),
    {
      name: `band ${band} fails the job`,
      attempt,
      may: ["fail"],
      // Unconditional: a worker may also die of it, or have an older count.
      run: ({ results, id }) =>
        results.failJob(id, `band ${band} threw`, "task_failed", { band, attempt, worker: "w" }),
    },
  ];
}

/** The watch that misses a band. */
const detector: Actor = [
  { name: "a band is lost", may: ["fail"], run: ({ results, id }) => results.failJob(id, "lost", "lost") },
];
const operator: Actor = [
  { name: "the operator revives the job", may: ["revive"], run: ({ results, id }) => results.reviveJob(id) },
];
const canceller: Actor = [
  { name: "the client cancels", may: ["remove"], run: ({ results, id }) => results.removeJob(id, 2) },
];

/** A client that sends the picture again, with these parameters, and the worker that gets its first band. */
function resender(p: string, withWorker: boolean): Actor {
  const steps: Actor = [
    {
      name: `the picture is sent again with ${p}`,
      may: ["revive", "replace", "forget"],
      run: async (world) => {
        const { results, id } = world;
        try {
          await startOrResume(results, newJob(id, 100, p));
          world.resent = (await results.findJob(id))?.attempt;
          return world.resent;
        } catch (error) {
          if (error instanceof JobError) return error.code;
          throw error;
        }
      },
    },
    {
      name: "its bands are enqueued",
      run: async ({ results, id, resent }) => {
        if (resent === undefined) return;
        const [sent, done] = [await results.sent(id), await results.done(id)];
        for (const band of [0, 1]) {
          if (sent.has(band) || done.has(band)) continue;
          await results.expectRows(id, band, CRC[band], resent);
          await results.markSent(id, band, CRC[band], resent);
        }
      },
    },
    {
      name: "it is marked as enqueued",
      run: async ({ results, id, resent }) =>
        resent !== undefined && results.updateJob(id, { enqueued: true, cutMs: 1 }, resent),
    },
  ];
  if (!withWorker) return steps;
  const store: Step = {
    name: "a worker stores its band 0",
    run: async (world) => {
      const { results, resent } = world;
      return resent !== undefined && results.store(chunk(world, 0), tag(p), record(0), resent);
    },
  };
  return [...steps, store];
}

interface Scenario {
  title: string;
  /** Runs before the order: the job is at attempt 1, with the parameter x. */
  setup: Step[];
  /** Made anew for each order. */
  actors: () => Actor[];
  /** How many orders there are: a wrong merge would prove less. */
  orders: number;
  /** Whether the store in this process can do the same: nothing expires there before its job. */
  local?: false;
}

const storeBoth: Step[] = [0, 1].map((band) => worker("earlier", band, 1)[1]);

const scenarios: Scenario[] = [
  {
    title: "a picture arrives while two workers do its bands",
    setup: [],
    actors: () => [enqueuer, worker("a", 0, 1), worker("b", 1, 1)],
    orders: 420,
  },
  {
    title: "two copies of a band, one of which throws, while the operator revives the job and the client sends again",
    setup: [...enqueuer, storeBoth[1]],
    actors: () => [worker("a", 0, 1), thrower(0, 1, [3]), operator, resender("x", false)],
    orders: 1680,
  },
  {
    title: "a job is cancelled while its picture arrives, one worker stores and one fails",
    setup: [],
    actors: () => [canceller, enqueuer.slice(1), worker("a", 0, 1), thrower(1, 1, [3])],
    orders: 1680,
  },
  {
    title: "a failed job is sent again with other parameters while workers of the first attempt report late",
    setup: enqueuer,
    actors: () => [detector, resender("y", true), worker("a", 0, 1).slice(1), thrower(1, 1, [3])],
    orders: 840,
  },
  {
    title: "a coordinator goes on enqueueing while its job fails and is revived",
    setup: [],
    actors: () => [enqueuer, detector, operator, worker("a", 0, 1)],
    orders: 840,
  },
  {
    title: "a job is done, then late copies throw, its watch misses a band, and the operator revives it",
    setup: enqueuer,
    actors: () => [storeBoth, thrower(0, 1, [3]), detector, operator, worker("a", 1, 1).slice(0, 1)],
    orders: 1260,
  },
  {
    title: "a band throws, a result of a done job expires, and the picture is sent again",
    setup: [...enqueuer, thrower(1, 1, [1])[0], ...storeBoth],
    actors: () => [
      [{ name: "the result of band 0 expires", may: ["drop"], run: (world) => world.results.drop(chunk(world, 0)) }],
      resender("x", true),
      worker("a", 0, 1),
      thrower(0, 1, []),
    ],
    orders: 840,
    local: false,
  },
  {
    title: "a worker loses the queue and goes on with its band, while another one gets it, and the client cancels",
    setup: enqueuer,
    actors: () => [worker("a", 0, 1).toSpliced(1, 0, cutOff("a", 0)), worker("b", 0, 1), canceller],
    orders: 60,
  },
  {
    title: "a third-party worker stores a band that another worker stores as well, and the job fails",
    setup: [...enqueuer.slice(0, 2), storeBoth[1]],
    actors: () => [foreign, enqueuer.slice(2), worker("a", 0, 1), detector],
    orders: 630,
    local: false,
  },
];

/** A worker in another language: it SETs its result, and a watch finds it. */
const foreign: Actor = [
  {
    name: "a third-party worker sets the result of band 0",
    run: ({ id }) => store.set(`resultado:${chunkIdOf(id, 0)}`, Buffer.from("x").toString("base64")),
  },
  { name: "a watch finds it", run: ({ results, id }) => results.recordForeign(id, [{ band: 0 }]) },
];

/** Every merge of the actors' steps that keeps the order within each, as the number of the actor that acts. */
function* merges(lengths: number[], order: number[] = []): Generator<number[]> {
  if (lengths.every((length) => length === 0)) yield order;
  for (const [i, length] of lengths.entries()) {
    if (length > 0) yield* merges(lengths.with(i, length - 1), [...order, i]);
  }
}

/** What is wrong with a step, in a sentence each. */
function* faultsOf(step: Step, before: Records, after: Records, answer: unknown): Generator<string> {
  const may = (what: NonNullable<Step["may"]>[number]) => step.may?.includes(what) ?? false;
  const [job, was] = [after.job, before.job];
  if (!job.id) {
    if (was.id && !may("remove")) yield "removed the job";
    const left = Object.keys(after.ttl);
    if (left.length > 0) yield `left ${left} without a record`;
    return;
  }
  if (!was.id) yield* may("replace") ? [] : ["brought a removed job back"];
  const isReplaced = was.created !== job.created;
  if (isReplaced && !may("replace")) yield "replaced the job";
  if (isReplaced && stateIn(before) !== undefined && stateIn(before) !== "failed")
    yield "replaced a job that had not failed";
  yield* faultsOfResults(after, may("drop") || !isEqual(Object.keys(before.stored), Object.keys(before.done)));
  yield* faultsOfTtl(after);
  if (stateIn(before) !== "done" && stateIn(after) === "done" && after.ttl.job < TTL - 1) {
    yield `completed a job that lives only ${after.ttl.job} s more`;
  }
  if (job.enqueued === "1" && job.error === "") {
    const lost = ["0", "1"].filter((band) => !(band in after.sent) && !(band in after.done));
    if (lost.length > 0) yield `is enqueued, though band ${lost} is neither sent nor done`;
  }
  const isResumed = may("forget") && typeof answer === "number";
  if (isResumed && job.error !== "") yield "left a job failed that was sent again";
  if (isResumed && Object.keys(after.done).some((band) => !(band in after.stored)))
    yield "left a band without a result";
  if (isReplaced) return;
  if (step.attempt !== undefined && step.attempt !== Number(was.attempt)) {
    const [a, b] = [before, after].map(({ ttl, job: { renewed, ...fields }, ...hashes }) => ({ ...hashes, fields }));
    if (!isEqual(a, b)) yield `of attempt ${step.attempt} changed attempt ${was.attempt}`;
    if (answer === true || (typeof answer === "number" && answer > 0)) yield `of an earlier attempt got ${answer}`;
  }
  const gone = Object.keys(before.done).filter((band) => after.done[band] !== before.done[band]);
  if (gone.some((band) => !may("forget") || band in before.stored)) yield `took back the done record of band ${gone}`;
  if (gone.length > 0 && job.attempt === was.attempt) yield `took back the done record of band ${gone} of this attempt`;
  if (Number(job.attempt) < Number(was.attempt)) yield "went back to an earlier attempt";
  if (Number(job.attempt) > Number(was.attempt)) {
    const old = [...Object.keys(after.sent), ...Object.keys(after.failures), ...Object.keys(after.claims)];
    if (old.length > 0 || job.enqueued === "1" || job.suspect !== undefined)
      yield "began an attempt with what was noted of the one before";
  }
  if (was.error !== "" && job.error !== "" && !isEqual(before.done, after.done)) yield "changed a band of a failed job";
  if (stateIn(before) === "done" && stateIn(after) !== "done" && gone.length === 0)
    yield `made a done job ${stateIn(after)}`;
  if (was.error === "" && job.error !== "") {
    if (!may("fail")) yield "failed the job";
  } else if (was.error !== job.error && (job.error !== "" || job.attempt === was.attempt)) {
    yield `changed the error of attempt ${was.attempt} from ${was.error} to ${job.error}`;
  }
}

/** A done band has a result, made with the parameters of its job. */
function* faultsOfResults({ job, done, stored }: Records, isDropped: boolean): Generator<string> {
  const { p } = JSON.parse(job.params);
  for (const band of Object.keys(done)) {
    if (stored[band] === undefined && !isDropped) yield `marked band ${band} as done without a result`;
  }
  for (const [band, result] of Object.entries(stored)) {
    const made = Buffer.from(result, "base64").toString();
    if (made !== p) yield `stored band ${band} made with ${made} in a job with ${p}`;
  }
}

/** No hash outlives its record. Of a done job, everything lives equally long. */
function* faultsOfTtl(after: Records): Generator<string> {
  const { job: life, ...others } = after.ttl;
  for (const [name, ttl] of Object.entries(others)) {
    if (ttl < 0 && !name.startsWith("result ")) yield `left ${name} without a TTL`; // a third party may set none
    if (ttl > life + 1) yield `left ${name} ${ttl} s to live, longer than its record (${life} s)`;
    if (stateIn(after) === "done" && ttl >= 0 && ttl < life - 1)
      yield `left ${name} of a done job ${ttl} s to live, its record ${life} s`;
  }
}

function stateIn({ job, done }: Records): string | undefined {
  if (!job.id) return undefined;
  const { bands, error, enqueued } = job;
  return stateOf(
    { ...newJob("", 0, ""), bands: Number(bands), error: error || null, enqueued: enqueued === "1" },
    Object.keys(done).length,
  );
}

/** The two stores have different clocks. */
function timeless({ sent, confirmed, taken, claimed, computed, stored, ...rest }: BandTimes): object {
  return rest;
}

function isEqual(a: unknown, b: unknown): boolean {
  return Bun.deepEquals(a, b);
}

let store: Redis;

describeWith(["redis"], "the state of a job", () => {
  let redis: RedisServer;
  let results: RedisResults;

  beforeAll(async () => {
    redis = await startRedis();
    store = new Redis(redis.url);
    results = new RedisResults(redis.url, TTL, false);
  });
  afterAll(async () => {
    store?.disconnect();
    await results?.close();
    await redis?.stop();
  });

  async function snapshot(id: string): Promise<Records> {
    return JSON.parse(String(await store.eval(SNAPSHOT, 1, `job:{${id}}`, STEP_AGE)));
  }

  /** What the interface shows of a job: the same of both stores. */
  async function shown({ results, id }: World) {
    const [found, sent, done] = [await results.findJob(id), await results.sent(id), await results.done(id)];
    const job = found && { ...found, began: 0, enqueuedAt: 0 };
    const claims = [...(await results.claims(id))].map(([band, claim]) => [band, timeless(claim)]);
    const incidents = (await results.incidents(id)).map(({ at, ...incident }) => incident);
    const stored = [await results.load(chunkIdOf(id, 0)), await results.load(chunkIdOf(id, 1))];
    const text = stored.map((bytes) => bytes && Buffer.from(bytes).toString());
    const sorted = [...done].sort(([a], [b]) => a - b).map(([band, record]) => [band, timeless(record)]);
    return { job, sent: [...sent].sort(), done: sorted, claims, incidents, text };
  }

  async function worldOf(results: Results, id: string, setup: Step[]): Promise<World> {
    const world = { results, id, resent: undefined };
    await results.putJob(newJob(id, 1, "x"));
    for (const step of setup) await step.run(world);
    return world;
  }

  /** Runs one order. @returns the faults, each with the order up to it */
  async function run({ setup, actors, local }: Scenario, order: number[]): Promise<string[]> {
    const id = crypto.randomUUID();
    const world = await worldOf(results, id, setup);
    const twin = local === false ? undefined : await worldOf(new LocalResults(TTL), id, setup);
    const [own, twins] = [actors(), actors()];
    const at = own.map(() => 0);
    const names: string[] = [];
    let before = await snapshot(id);
    for (const actor of order) {
      const step = own[actor][at[actor]];
      names.push(step.name);
      const answer = await step.run(world);
      const after = await snapshot(id);
      const faults = [...faultsOf(step, before, after, answer)];
      const other = await (twin && twins[actor][at[actor]].run(twin));
      if (twin && !isEqual(answer, other)) faults.push(`got ${answer} from Redis, ${other} in memory`);
      if (faults.length > 0) return faults.map((fault) => `${names.join(" → ")}: ${fault}`);
      before = after;
      at[actor]++;
    }
    if (twin) {
      const [a, b] = [await shown(world), await shown(twin)];
      await twin.results.close();
      if (!isEqual(a, b))
        return [`${names.join(" → ")}: ${JSON.stringify(a)} in Redis, ${JSON.stringify(b)} in memory`];
    }
    return [];
  }

  test.each(scenarios)(
    "$title",
    async (scenario) => {
      const orders = [...merges(scenario.actors().map((steps) => steps.length))];
      expect(orders.length).toBe(scenario.orders);
      const faults: string[] = [];
      for (let i = 0; i < orders.length && faults.length === 0; i += BATCH) {
        const batch = orders.slice(i, i + BATCH).map((order) => run(scenario, order));
        faults.push(...(await Promise.all(batch)).flat());
        await store.flushall();
      }
      expect(faults.slice(0, 3)).toEqual([]);
    },
    60_000,
  );

  test("the lease of a job has one owner, until that one releases it or lets it lapse", async () => {
    for (const store of [results, new LocalResults(TTL)]) {
      const { id } = await worldOf(store, crypto.randomUUID(), []);
      const take = (owner: string, ms = 10_000) => store.lease(id, owner, ms);
      expect([await take("a"), await take("b"), await take("a")]).toEqual([true, false, true]);
      await store.release(id, "b");
      expect([await store.isLeased(id), await take("b")]).toEqual([true, false]);
      await store.release(id, "a");
      expect([await store.isLeased(id), await take("b", 50), await take("a")]).toEqual([false, true, false]);
      await until(() => take("a"));
      await store.removeJob(id, 2);
    }
  });

  test("two coordinators with different pictures: one enqueues all its bands, or none does", async () => {
    // The first band is the same in both.
    const pictures = [CRC, [CRC[0], 12]];
    const enqueue = async (store: Results, order: number[]) => {
      const world = await worldOf(store, crypto.randomUUID(), []);
      const at = [0, 0];
      const isRefused = [false, false];
      for (const i of order) {
        const [step, band] = [at[i] % 2, at[i]++ >> 1];
        const crc = pictures[i][band];
        if (isRefused[i]) continue;
        if (band === 2) await store.updateJob(world.id, { enqueued: true, cutMs: 1 }, 1);
        else if (step === 0) isRefused[i] = !(await store.expectRows(world.id, band, crc, 1));
        else await store.store(chunk(world, band), tag("x"), { ...record(band), crc }, 1);
      }
      const [job, done] = [await store.findJob(world.id), await store.done(world.id)];
      const bands = [0, 1].map((band) => done.get(band)?.crc);
      await store.removeJob(world.id, 2);
      return { enqueued: job?.enqueued, isRefused, bands };
    };
    for (const order of merges([5, 5])) {
      const answer = await enqueue(results, order);
      const winner = answer.isRefused.indexOf(false);
      expect(answer.isRefused).toContain(true);
      expect(answer).toMatchObject({ enqueued: true, bands: pictures[winner] });
      expect(await enqueue(new LocalResults(TTL), order)).toEqual(answer);
    }
  });

  test("a list is decided while a band is under way that was sent and not noted as sent: it is done without that band", async () => {
    for (const store of [results, new LocalResults(TTL)]) {
      const world = await worldOf(store, crypto.randomUUID(), []);
      for (const band of [0, 1]) await store.expectRows(world.id, band, CRC[band], 1); // and the coordinator dies
      await store.updateJob(world.id, { enqueued: true, cutMs: 1, bands: 1, height: 1 }, 1); // the next one
      expect(await store.store(chunk(world, 1), tag("x"), record(1), 1)).toBe(false);
      expect(await store.store(chunk(world, 0), tag("x"), record(0), 1)).toBe(true);
      const [job, done] = [await store.findJob(world.id), await store.done(world.id)];
      expect(stateOf(job!, done.size)).toBe("done");
      await store.removeJob(world.id, 2);
    }
  });

  describe("two copies of a message", () => {
    const info = {
      host: "h",
      pid: 1,
      runtime: "bun",
      cores: 1,
      tasks: ["sobel"],
      offers: [],
      bands: 0,
      pixels: 0,
      ms: 0,
    };
    const alive = { ...info, since: 1, busy: "", consuming: true, paused: false, control: false };
    const first = { attempt: 1, deliveries: 0, heldMs: 0, since: 1 };
    beforeEach(() => Promise.all(["a", "b"].map((name) => results.beat({ ...alive, name }))));

    test.each([...merges([2, 2])])("are computed by one worker at a time (order %d %d %d %d)", async (...order) => {
      const world = await worldOf(results, crypto.randomUUID(), enqueuer);
      const begun = [null, null] as (Begun | undefined)[];
      const at = [0, 0];
      for (const i of order) {
        if (at[i]++ === 0) begun[i] = await results.begin(chunk(world, 0), { ...first, name: "ab"[i] });
        else if (begun[i] && (await results.store(chunk(world, 0), tag("x"), record(0), 1))) begun[i] = undefined;
        expect(begun.filter((one) => one).length).toBeLessThan(2);
      }
      expect((await results.done(world.id)).size).toBe(1);
    });

    test("a claim of a worker that has died, or was restarted under its name, is void and counts as lost", async () => {
      const world = await worldOf(results, crypto.randomUUID(), enqueuer);
      const begin = (by: Partial<Claimant>) => results.begin(chunk(world, 0), { ...first, name: "a", ...by });
      expect(await begin({ name: "dead" })).toMatchObject({ lost: 0 });
      expect(await begin({})).toMatchObject({ lost: 1 });
      expect(await begin({})).toMatchObject({ lost: 0 }); // its own claim
      expect(await begin({ name: "b" })).toBeNull(); // `a` lives
      expect(await begin({ name: "b", deliveries: 1 })).toMatchObject({ lost: 2 }); // RabbitMQ took it from `a`
      await results.beat({ ...alive, name: "b", since: 2 });
      expect(await begin({ since: 3 })).toMatchObject({ lost: 3 });
      await results.unclaim(chunk(world, 0), { ...first, name: "b" }); // not its claim
      expect(await begin({ name: "b" })).toMatchObject({ lost: 4 }); // so the claim was still there, of a dead process
    });

    test.each([...merges([2, 3])])(
      "a worker that loses the queue and goes on is no loss (order %d %d %d %d %d)",
      async (...order) => {
        const world = await worldOf(results, crypto.randomUUID(), enqueuer);
        const [a, b] = ["a", "b"].map((name) => ({ ...first, name, deliveries: name === "a" ? 0 : 1 }));
        await results.beat({ ...alive, name: "a", busy: world.id });
        expect(await results.begin(chunk(world, 0), a)).toMatchObject({ lost: 0 });
        let isCutOff = false;
        const begin = async () => {
          const begun = await results.begin(chunk(world, 0), b);
          const isDone = (await results.done(world.id)).size === 1;
          // Until it says so, it may be dead.
          if (isDone) expect(begun).toBeNull();
          else if (isCutOff && !isTaken) expect(begun).toBe("elsewhere");
          else expect(begun).toMatchObject({ lost: isTaken ? 0 : 1 });
          isTaken ||= begun !== null && begun !== "elsewhere";
        };
        let isTaken = false;
        const steps = [
          [
            async () => {
              await results.cutOff(chunk(world, 0), a);
              isCutOff = true;
            },
            () => results.store(chunk(world, 0), tag("x"), record(0), 1),
          ],
          [begin, begin, () => isTaken && results.store(chunk(world, 0), tag("x"), record(0), 1)],
        ];
        for (const i of order) {
          await steps[i].shift()!();
          if (isCutOff) expect(await store.hget(`job:{${world.id}}:claims`, "0 lost")).toBeOneOf([null, "0"]);
        }
        expect((await results.done(world.id)).size).toBe(1);
      },
    );

    test("a worker that loses the queue may say so after the next one has the band", async () => {
      const world = await worldOf(results, crypto.randomUUID(), enqueuer);
      const [a, b] = ["a", "b"].map((name) => ({ ...first, name, deliveries: 1 }));
      await results.beat({ ...alive, name: "a", busy: world.id });
      await results.begin(chunk(world, 0), a);
      const begun = results.begin(chunk(world, 0), b);
      await sleep(50); // it has looked for `a`
      await results.cutOff(chunk(world, 0), a);
      expect(await begun).toBe("elsewhere");
    });

    test("a worker that loses the queue, and then gives its band up, is not waited for", async () => {
      const world = await worldOf(results, crypto.randomUUID(), enqueuer);
      const [a, b] = ["a", "b"].map((name) => ({ ...first, name, deliveries: 1 }));
      await results.begin(chunk(world, 0), a);
      await results.cutOff(chunk(world, 0), a);
      await results.beat({ ...alive, name: "a", busy: "" });
      expect(await results.begin(chunk(world, 0), b)).toMatchObject({ lost: 1 });
    });

    test("a worker that loses the queue, goes on and dies counts as lost", async () => {
      const world = await worldOf(results, crypto.randomUUID(), enqueuer);
      const [a, b] = ["a", "b"].map((name) => ({ ...first, name, deliveries: 1 }));
      await results.beat({ ...alive, name: "a", busy: world.id });
      await results.begin(chunk(world, 0), a);
      await results.cutOff(chunk(world, 0), a);
      expect(await results.begin(chunk(world, 0), b)).toBe("elsewhere");
      await results.beat({ ...alive, name: "a", since: 2 }); // it was started again
      expect(await results.begin(chunk(world, 0), b)).toMatchObject({ lost: 1, claim: { lost: ["a"] } });
      await results.cutOff(chunk(world, 0), a); // reported late
      await results.beat({ ...alive, name: "b", since: 2 });
      expect(await results.begin(chunk(world, 0), { ...a, since: 2 })).toMatchObject({
        lost: 1,
        claim: { lost: ["b"] },
      });
    });

    test("a worker that hands a band back leaves no claim, and is not counted as lost", async () => {
      const world = await worldOf(results, crypto.randomUUID(), enqueuer);
      const [a, b] = ["a", "b"].map((name) => ({ ...first, name }));
      expect(await results.begin(chunk(world, 0), a)).toMatchObject({ lost: 0 });
      await results.unclaim(chunk(world, 0), a);
      expect(await results.begin(chunk(world, 0), b)).toMatchObject({ lost: 0 });
    });
  });

  test("a worker that is alive no more is noted once, and its band's next worker counts it as lost", async () => {
    const world = await worldOf(results, crypto.randomUUID(), enqueuer);
    const begin = (name: string) => results.begin(chunk(world, 0), claimant(name, 1));
    await begin("dead");
    for (const worker of ["dead", "dead", "other"]) await results.noteLost(world.id, 0, worker);
    const lost = { n: 1, what: "lost", at: expect.any(Number), band: 0, worker: "dead" } as const;
    expect(await results.incidents(world.id)).toEqual([lost]);
    expect((await results.claims(world.id)).size).toBe(0);
    const heir = await begin("heir");
    expect(heir).toMatchObject({ lost: 1, claim: { worker: "heir", lost: ["dead"] } });
    expect(await results.incidents(world.id)).toEqual([lost]);
    await begin("third");
    expect(await results.incidents(world.id)).toEqual([lost, { ...lost, n: 2, worker: "heir", by: "third" }]);
    await results.removeJob(world.id);
    await results.noteLost(world.id, 0, "third");
    await results.noteMerge(world.id, 5);
    expect(await store.keys(`job:{${world.id}}*`)).toEqual([]);
  });

  test("silence is counted from look to look: a long sleep counts as one look", async () => {
    const { id } = await worldOf(results, crypto.randomUUID(), enqueuer);
    const look = async (agoMs: number, wrong = true) => {
      const looked = await store.hget(`job:{${id}}`, "looked");
      if (looked) await store.hset(`job:{${id}}`, "looked", Number(looked) - agoMs);
      return results.stuckFor(id, wrong);
    };
    expect(await look(0)).toBe(0);
    expect(await look(2_000)).toBeWithin(2_000, 3_000);
    expect(await look(100_000)).toBeWithin(7_000, 8_000); // all machines slept
    expect(await look(-60_000)).toBeWithin(7_000, 8_000); // the clock was set back
    expect(await look(0, false)).toBe(0);
    expect(await look(2_000)).toBe(0); // what went before does not count
    await results.store(chunkIdOf(id, 0), tag("x"), record(0), 1);
    expect(await look(2_000)).toBe(0);
    await results.removeJob(id);
    expect(await look(2_000)).toBe(0);
    expect(await store.exists(`job:{${id}}`)).toBe(0);
  });
});
