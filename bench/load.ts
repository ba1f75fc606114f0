/**
 * Rows of the benchmark on load: large pictures, many jobs, many workers, a slow network.
 *
 * Not here: the comparisons (rows.ts), how time is measured (measure.ts), what is started (setup.ts).
 */
import { Readable } from "node:stream";
import { type Cluster, forgetPeak, limitCpu, peakMegabytes, Service } from "./cluster.ts";
import { alternate, distributedName, median, type Row, subject, timed } from "./measure.ts";
import { pngPieces } from "./pictures.ts";
import { type Bench, PICTURES } from "./setup.ts";

/** This share of a core imitates a worker on a slow machine. */
const SLOW_SHARE = 0.1;
/** The round trip of the slow network, ms. */
const ROUND_TRIP_MS = 50;

/** Time of a single large picture, and peak memory of each process. Coordinator and workers are started for it. */
export async function memory(bench: Bench): Promise<Row[]> {
  const cluster = await bench.cluster();
  const names = ["24 Mpx", "216 Mpx", "1000 Mpx", "1000 Mpx photo"] as const;
  const rows: Row[] = [];
  for (const picture of bench.quick ? [bench.sketch] : names.map((name) => PICTURES[name])) {
    await cluster.resize(0);
    await cluster.resize(2);
    const service = await Service.start(cluster.env);
    const servers = { RabbitMQ: cluster.rabbitmq.pid, Redis: cluster.redis.pid };
    for (const pid of Object.values(servers)) forgetPeak(pid);
    // Line art is drawn while it is sent. A photo comes from its file, because drawing it is slower than the job.
    const drawn = () => Readable.toWeb(Readable.from(pngPieces(picture))) as unknown as ReadableStream;
    const body = picture.kind === "photo" ? await bench.file(picture) : drawn();
    const id = crypto.randomUUID();
    const ours = await timed(async () => {
      await service.accept(id, body);
      await service.done(id);
    });
    rows.push({ what: "distributed, 2 workers, until the last band", picture, ours, unit: "s" });
    const peak = (what: string, ours: number) => rows.push({ what: `peak memory, ${what}`, picture, ours, unit: "MB" });
    peak("coordinator", peakMegabytes(service.program.pid));
    peak("larger of 2 workers", Math.max(...cluster.workers.map(({ pid }) => peakMegabytes(pid))));
    for (const [name, pid] of Object.entries(servers)) peak(name, peakMegabytes(pid));
    await service.remove(id);
    await service.stop();
  }
  return rows;
}

/** Many small jobs without a worker: how fast they are accepted, the memory they take, and when the last is done. */
export async function backlog(bench: Bench): Promise<Row[]> {
  const cluster = await bench.cluster();
  await cluster.resize(0);
  const service = await Service.start(cluster.env);
  const picture = PICTURES.tiny;
  const file = await bench.file(picture);
  const ids = Array.from({ length: bench.quick ? 300 : 10_000 }, () => crypto.randomUUID());
  const waiting = ids.values();
  const client = async () => {
    for (const id of waiting) await service.accept(id, file);
  };
  const accepting = await timed(() => Promise.all(Array.from({ length: 8 }, client)));
  const peak = peakMegabytes(service.program.pid);
  const ready = await timed(() => fetch(`${service.url}/healthz`));
  const working = await timed(async () => {
    await cluster.resize(2);
    await service.done(ids.at(-1)!);
  });
  for (const id of ids) await service.remove(id);
  await service.stop();
  const what = (text: string) => ({ what: `${ids.length} jobs wait: ${text}`, picture });
  return [
    { ...what("accepted"), ours: ids.length / accepting, unit: "jobs/s" },
    { ...what("peak memory, coordinator"), ours: peak, unit: "MB" },
    { ...what("/healthz answers"), ours: 1000 * ready, unit: "ms" },
    { ...what("the last is done, 2 workers"), ours: working, unit: "s" },
  ];
}

/**
 * Workers that may use a tenth of a core each, so that this machine has room for several. Each gets 1 ms of every 10
 * ms, finds its caches cold and needs more CPU time than at full speed. So the speed-up holds only for such workers.
 */
export async function scaling(bench: Bench): Promise<Row[]> {
  return slowWorkers(bench, await bench.cluster(), 400);
}

/** `scaling` with less work, and a slow network between coordinator, workers and servers. */
export async function latency(bench: Bench): Promise<Row[]> {
  const far = await (await bench.cluster()).behind(ROUND_TRIP_MS);
  await (await bench.cluster()).leave(); // its workers share the queues
  const rows = await slowWorkers(bench, far, 20, ROUND_TRIP_MS);
  await far.leave();
  return rows;
}

async function slowWorkers(bench: Bench, cluster: Cluster, most: number, roundTrip?: number): Promise<Row[]> {
  if (bench.noCpuLimit) return [];
  const service = await cluster.coordinator();
  const millions = bench.quick ? 1 : most;
  const task = `primes?below=${millions * 1e6}${bench.quick ? "&bands=4" : ""}`;
  const rows: Row[] = [];
  for (const count of bench.quick ? [1, 2] : [1, 2, 4, 8]) {
    await cluster.resize(count);
    await service.run(task); // at full speed, until the runtime has compiled the hot code
    const release = limitCpu(
      cluster.workers.map(({ pid }) => pid),
      SLOW_SHARE,
    );
    try {
      const [seconds] = await alternate([subject(() => service.run(task))], bench.quick ? 1 : 3);
      const what = `${distributedName(count)} at ${100 * SLOW_SHARE} % of a core`;
      const workers = { count, share: SLOW_SHARE, roundTrip };
      rows.push({ what, picture: `primes below ${millions} million`, ours: median(seconds), unit: "s", workers });
    } finally {
      release();
    }
  }
  return rows;
}
