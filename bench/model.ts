/**
 * A model of a job as a pipeline: how long it takes with any number of workers, and what holds it up.
 *
 *     reader ──► coordinator ──► RabbitMQ ──► workers × N ──► Redis ──► coordinator
 *
 * Each stage has a cost in CPU seconds: so much a job, a megapixel and a band, found by least squares over jobs that were
 * measured. Bands follow one another, so a job takes what a stage needs for all of them, the way of one band through the
 * others, and a latency that is nobody's work: by whichever stage that is the longest. Each stage but the workers is taken to
 * have one core, as an Erlang queue, Redis and JavaScript do; where everything shares a machine, its cores are a stage of
 * their own, which takes for granted that all are busy all the time.
 *
 * Not here: measuring (scaling.ts).
 */
import { leastSquares } from "./measure.ts";

/** Seconds a job, a megapixel and a band. */
export interface Cost {
  job: number;
  mpx: number;
  band: number;
}

/** A job: its megapixels, and the bands that they are cut into. */
export interface Load {
  mpx: number;
  bands: number;
}

export const STAGES = ["reader", "coordinator", "RabbitMQ", "workers", "Redis"] as const;
export type Stage = (typeof STAGES)[number];
export type Bottleneck = Stage | "bands" | "cores";

export interface Model {
  /** What each stage does one thing after another; of the workers, all they do. */
  stages: Record<Stage, Cost>;
  /** All CPU of all processes, the client's too. */
  total: Cost;
  /** What a job of one band takes beyond its stages, seconds. */
  latency: number;
}

export interface Fleet {
  workers: number;
  /** Of a worker, to the core that the costs were measured on. */
  speed?: number;
  /** Work of the task, to Sobel's. */
  task?: number;
  /** Where all share a machine. */
  cores?: number;
}

export interface Prediction {
  seconds: number;
  bottleneck: Bottleneck;
}

/** The cost that fits measured jobs best; errors count in proportion, so that small jobs have their say. */
export function fitCost(jobs: (Load & { seconds: number })[]): Cost {
  const known = jobs.filter(({ seconds }) => seconds > 0);
  if (known.length === 0) return { job: 0, mpx: 0, band: 0 };
  const rows = known.map(({ mpx, bands, seconds }) => [1 / seconds, mpx / seconds, bands / seconds]);
  const [job, mpx, band] = leastSquares(
    rows,
    known.map(() => 1),
  );
  return { job, mpx, band };
}

export function costOf(cost: Cost, { mpx, bands }: Load): number {
  return cost.job + cost.mpx * mpx + cost.band * bands;
}

export function predict(model: Model, load: Load, { workers, speed = 1, task = 1, cores }: Fleet): Prediction {
  const { job, mpx, band } = model.stages.workers;
  const worked = ((job + mpx * load.mpx) / load.bands + band) * (task / speed);
  // A worker has one band in hand: the last round is as long as any, however few take part in it.
  const rounds = Math.ceil(load.bands / workers);
  const stages = STAGES.map((name) => {
    const whole = name === "workers" ? rounds * worked : costOf(model.stages[name], load);
    return { name, whole, oneBand: name === "workers" ? worked : whole / load.bands };
  });
  const way = stages.reduce((sum, { oneBand }) => sum + oneBand, model.latency);
  const seconds = Math.max(...stages.map(({ whole, oneBand }) => whole + way - oneBand));
  const slowest = stages.reduce((a, b) => (b.whole > a.whole ? b : a));
  const total = costOf(model.total, load) + (task - 1) * costOf(model.stages.workers, load);
  const shared = cores === undefined ? 0 : total / cores + model.latency;
  if (shared > seconds) return { seconds: shared, bottleneck: "cores" };
  const tooFew = slowest.name === "workers" && workers >= load.bands;
  return { seconds, bottleneck: tooFew ? "bands" : slowest.name };
}

/** What keeps `workers` workers busy, when there are as many pictures as that takes: of each stage, how many. */
export function needed(model: Model, load: Load, { workers, speed = 1, task = 1 }: Fleet): Record<Stage, number> {
  const jobsPerSecond = (workers * speed) / (task * costOf(model.stages.workers, load));
  const of = (stage: Stage) => jobsPerSecond * costOf(model.stages[stage], load);
  return Object.fromEntries(STAGES.map((stage) => [stage, of(stage)])) as Record<Stage, number>;
}
