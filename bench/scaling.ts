/**
 * How it grows: what a band costs by its size, the model's coefficients out of that, and the model held against jobs
 * that were measured, with workers as fast as this machine's cores and with workers that are held back.
 *
 * Not here: the model itself (model.ts), its tables and its plot (report.ts, plot.ts).
 */
import process from "node:process";
import { planBands } from "../chunk.ts";
import { DEFAULT_BAND_PIXELS } from "../ops/settings.ts";
import {
  type Cluster,
  cpuSeconds,
  limitCpu,
  mainThreadSeconds,
  type Role,
  type Service,
  whyNoLimit,
} from "./cluster.ts";
import { median, timed } from "./measure.ts";
import { costOf, fitCost, type Load, type Model, type Prediction, predict, STAGES } from "./model.ts";
import { megapixels, type Sketch } from "./pictures.ts";
import type { Row } from "./rows.ts";
import { type Bench, PICTURES } from "./setup.ts";

const BAND_SIZES = [1 << 16, 1 << 18, DEFAULT_BAND_PIXELS, 1 << 22];

/** Of a core, that a slow worker has. */
const HELD_AT = 0.1;

/** What jobs of one kind cost, CPU seconds a job. */
interface Observation extends Load {
  picture: Sketch;
  seconds: Record<Role | "client" | "main thread", number>;
}

/** A job that was measured, and what the model had said. */
export interface Check extends Prediction {
  workers: number;
  /** Of a core, that each worker may have. */
  part: number;
  measured: number;
}

export interface Scaling {
  model: Model;
  picture: Sketch;
  load: Load;
  checks: Check[];
  /** Why there are no checks with slow workers. */
  unchecked?: string;
}

const observed = new WeakMap<Bench, Promise<Observation[]>>();

/** The same jobs serve both rows. */
function observations(bench: Bench): Promise<Observation[]> {
  const found = observed.get(bench) ?? observe(bench);
  observed.set(bench, found);
  return found;
}

async function observe(bench: Bench): Promise<Observation[]> {
  const cluster = await bench.cluster();
  await cluster.resize(2);
  const found: Observation[] = [];
  for (const picture of [PICTURES.small, ...(bench.quick ? [] : [PICTURES["6 Mpx"]]), bench.sketch]) {
    const file = await bench.file(picture);
    const sizes = picture === PICTURES.small ? [DEFAULT_BAND_PIXELS] : BAND_SIZES;
    for (const size of sizes) {
      const service = await cluster.coordinator(size);
      // Enough that a tick of the kernel's clock, 10 ms, is little.
      const jobs = Math.ceil((bench.quick ? 18 : 96) / megapixels(picture) ** 0.6);
      for (let i = 0; i < 5; i++) await service.send(file);
      const before = usage(cluster, service);
      for (let i = 0; i < jobs; i++) await service.send(file);
      const after = usage(cluster, service);
      const seconds = { ...after };
      for (const name of Object.keys(after) as (keyof typeof after)[])
        seconds[name] = (after[name] - before[name]) / jobs;
      found.push({ picture, mpx: megapixels(picture), bands: bandsOf(picture, size), seconds });
    }
  }
  return found;
}

function usage(cluster: Cluster, service: Service): Observation["seconds"] {
  const { user, system } = process.cpuUsage();
  return {
    ...cluster.cpu(service),
    client: (user + system) / 1e6,
    "main thread": mainThreadSeconds(service.program.pid),
  };
}

function bandsOf({ width, height }: Sketch, bandPixels: number): number {
  return planBands(width, height, 1, bandPixels).bands;
}

export async function bandRow(bench: Bench): Promise<Row[]> {
  const jobs = (await observations(bench)).filter(({ picture }) => picture === bench.sketch);
  return jobs.map(({ picture, bands, seconds }) => ({
    what: `coordinator's CPU for each of ${bands} bands`,
    picture,
    ours: (seconds.coordinator / bands) * 1000,
    unit: "CPU ms",
  }));
}

/** The model out of what jobs cost. Whatever is not the coordinator's main thread is taken for the one that reads. */
export async function scaling(bench: Bench): Promise<Scaling> {
  const jobs = await observations(bench);
  const cost = (pick: (seconds: Observation["seconds"]) => number) =>
    fitCost(jobs.map(({ mpx, bands, seconds }) => ({ mpx, bands, seconds: pick(seconds) })));
  const load = { mpx: megapixels(bench.sketch), bands: bandsOf(bench.sketch, DEFAULT_BAND_PIXELS) };
  const stages = {
    reader: cost((seconds) => seconds.coordinator - seconds["main thread"]),
    coordinator: cost((seconds) => seconds["main thread"]),
    RabbitMQ: cost((seconds) => seconds.RabbitMQ),
    workers: cost((seconds) => seconds.workers),
    Redis: cost((seconds) => seconds.Redis),
  };
  const total = cost(({ coordinator, workers, RabbitMQ, Redis, client }) => {
    return coordinator + workers + RabbitMQ + Redis + client;
  });
  const model = { stages, total, latency: 0 };
  model.latency = await latencyOf(bench, model);
  const checks = await checkedHere(bench, model, load);
  const unchecked = whyNoLimit();
  if (unchecked === undefined) checks.push(...(await checkedSlow(bench, model, load)));
  return { model, picture: bench.sketch, load, checks, ...(unchecked && { unchecked }) };
}

/** What a job of one band takes beyond the work in it. */
async function latencyOf(bench: Bench, { stages }: Model): Promise<number> {
  const picture = PICTURES.small;
  const load = { mpx: megapixels(picture), bands: bandsOf(picture, DEFAULT_BAND_PIXELS) };
  const work = STAGES.reduce((sum, stage) => sum + costOf(stages[stage], load), 0);
  const seconds = await jobSeconds(await (await bench.cluster()).coordinator(), await bench.file(picture), 40);
  return Math.max(0, seconds - work);
}

/** All on this machine, as measured for the rows of distributed jobs, or here. */
async function checkedHere(bench: Bench, model: Model, load: Load): Promise<Check[]> {
  const cluster = await bench.cluster();
  const [service, file] = [await cluster.coordinator(), await bench.file()];
  const checks: Check[] = [];
  for (const workers of [1, 2, 3, 4]) {
    let measured = bench.distributed.get(workers);
    if (measured === undefined) {
      await cluster.resize(workers);
      measured = await jobSeconds(service, file, bench.pairs);
    }
    checks.push({ workers, part: 1, measured, ...predict(model, load, { workers, cores: bench.cores }) });
  }
  return checks;
}

/**
 * Workers at a part of a core: so many fit on this machine beside the rest. Who runs a millisecond at a time finds the
 * caches cold, and needs more CPU for the same work, the more so the more of them there are. How much more is measured
 * too: it belongs to the imitation, not to a fleet.
 */
async function checkedSlow(bench: Bench, model: Model, load: Load): Promise<Check[]> {
  const cluster = await bench.cluster();
  const [service, file] = [await cluster.coordinator(), await bench.file()];
  const jobs = bench.quick ? 2 : 4;
  const checks: Check[] = [];
  for (const workers of bench.quick ? [1, 2, 4] : [1, 2, 4, 8]) {
    await cluster.resize(workers);
    await service.send(file); // at full speed: until the runtime has compiled what it will
    const pids = cluster.workers.map(({ pid }) => pid);
    const letGo = limitCpu(pids, HELD_AT);
    try {
      const before = pids.map(cpuSeconds);
      const measured = await jobSeconds(service, file, jobs);
      const spent = pids.reduce((sum, pid, i) => sum + cpuSeconds(pid) - before[i], 0) / (jobs + 1);
      const speed = Math.min(HELD_AT, (HELD_AT * costOf(model.stages.workers, load)) / spent);
      checks.push({
        workers,
        part: HELD_AT,
        measured,
        ...predict(model, load, { workers, speed, cores: bench.cores }),
      });
    } finally {
      letGo();
    }
  }
  return checks;
}

async function jobSeconds(service: Service, file: Blob, jobs: number): Promise<number> {
  const seconds: number[] = [];
  await service.send(file);
  for (let i = 0; i < jobs; i++) seconds.push(await timed(() => service.send(file)));
  return median(seconds);
}
