// The metrics as Prometheus reads them, from real coordinators and workers as processes, before and after jobs.
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { encode } from "fast-png";
import { Registry } from "prom-client";
import { LocalQueue } from "../embedded/queue.ts";
import { LocalResults } from "../embedded/results.ts";
import { FleetMetrics } from "../ops/metrics.ts";
import {
  binaries,
  describeWith,
  type Program,
  type RabbitMQ,
  type RedisServer,
  spawnProgram,
  startRabbitMQ,
  startRedis,
  temporaryFolder,
} from "./servers.ts";
import { until } from "./wait.ts";

setDefaultTimeout(60_000);

const TOKEN = "open-sesame";
const photo = Buffer.from(encode({ width: 90, height: 60, channels: 1, data: new Uint8Array(5400).fill(7) }));
const broken = join(temporaryFolder("metrics"), "fails.ts");
writeFileSync(broken, `export const task = { name: "fails", halo: 0, run() { throw new Error("cannot") } };`);

/** Samples by name and labels, as in the text format: `sobel_bands_total{task="sobel",outcome="done"}`. */
type Samples = Map<string, number>;

async function scrape(url: string): Promise<Samples> {
  const answer = await fetch(url, { headers: { authorization: `Bearer ${TOKEN}` } });
  expect(answer.status).toBe(200);
  expect(answer.headers.get("content-type")).toStartWith("text/plain; version=0.0.4");
  const lines = (await answer.text()).split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return new Map(
    lines.map((line) => {
      const [, name, value] = /^(\w+(?:\{.*\})?) (\S+)$/.exec(line)!;
      return [name, Number(value)];
    }),
  );
}

const namesOf = (samples: Samples) => new Set([...samples.keys()].map((key) => key.replace(/\{.*/, "")));
const only = (samples: Samples, start: string) =>
  Object.fromEntries([...samples].filter(([key]) => key.startsWith(start)));

async function send(origin: string, query = "", body: BodyInit = photo, token = TOKEN): Promise<string> {
  const id = crypto.randomUUID();
  const headers = { authorization: `Bearer ${token}` };
  await (await fetch(`${origin}/jobs/${id}${query}`, { method: "PUT", body, headers })).arrayBuffer();
  return id;
}

describe.each(["bun", "deno"] as const)("one process, on %s", (runtime) => {
  test.skipIf(!binaries[runtime as "deno"] && runtime === "deno")("counts jobs, bands and bytes", async () => {
    const settings = { PORT: "0", WORKERS: "2", BAND_PIXELS: "900", AUTH_TOKEN: TOKEN, TASKS: broken, MAX_JOBS: "7" };
    const program = spawnProgram("coordinator.ts", settings, runtime);
    const [origin] = await program.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
    const now = () => scrape(`${origin}/metrics`);
    for (const token of ["", "wrong"]) {
      expect((await fetch(`${origin}/metrics`, { headers: { authorization: `Bearer ${token}` } })).status).toBe(401);
    }
    const before = await now();
    expect(before.get("sobel_queue_up")).toBe(1);
    expect(before.get("sobel_store_up")).toBe(1);
    expect(before.get("sobel_uploads_limit")).toBe(7);
    expect(before.get('sobel_workers{task="sobel"}')).toBe(2);
    expect(before.get('sobel_queue_bands_waiting{task="sobel"}')).toBe(0);
    expect(before.get('sobel_queue_consumers{task="fails"}')).toBe(2);

    const id = await send(origin);
    await until(async () => (await now()).get('sobel_jobs_ended_total{task="sobel",state="done"}') === 1);
    const result = await fetch(`${origin}/jobs/${id}/result`);
    const bytes = (await result.arrayBuffer()).byteLength;
    await send(origin, "", photo); // another
    await send(origin, "?task=fails");
    await send(origin, "", "a text");
    await send(origin, "", photo, "wrong");
    await fetch(`${origin}/${crypto.randomUUID()}`);
    await until(async () => (await now()).get('sobel_jobs_failed_total{reason="task_failed"}') === 1);
    await until(async () => (await now()).get('sobel_jobs_ended_total{task="sobel",state="done"}') === 2);

    const after = await now();
    const expected = {
      'sobel_jobs_accepted_total{task="sobel"}': 2,
      'sobel_jobs_open{state="running"}': 0,
      'sobel_jobs_open{state="uploading"}': 0,
      'sobel_job_seconds_count{task="sobel"}': 2,
      'sobel_bands_total{task="sobel",outcome="done"}': 12,
      'sobel_band_pixels_total{task="sobel"}': 10_800,
      'sobel_band_task_seconds_count{task="sobel"}': 12,
      'sobel_band_wait_seconds_count{task="sobel"}': 12,
      sobel_band_store_seconds_count: 12,
      'sobel_uploads_refused_total{reason="picture"}': 1,
      'sobel_uploads_refused_total{reason="token"}': 1,
      'sobel_uploads_refused_total{reason="busy"}': 0,
      'sobel_uploads_refused_total{reason="job_failed"}': 1,
      sobel_result_bytes_total: bytes,
      'sobel_http_responses_total{method="PUT",route="/jobs/:id",status="202"}': 2,
      'sobel_http_responses_total{method="PUT",route="/jobs/:id",status="401"}': 1,
      'sobel_http_responses_total{method="GET",route="/metrics",status="401"}': 2,
      'sobel_http_responses_total{method="",route="",status="404"}': 1,
      sobel_bands_in_progress: 0,
    };
    expect(Object.fromEntries(Object.keys(expected).map((name) => [name, after.get(name)]))).toEqual(expected);
    for (const name of ['sobel_bands_dead_lettered_total{reason="task_failed"}', "sobel_queue_dead_letters"]) {
      expect([name, after.get(name)! >= 1]).toEqual([name, true]);
    }
    expect(after.get("sobel_upload_bytes_total")).toBeGreaterThanOrEqual(3 * photo.length);
    for (const name of ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds"]) {
      expect([name, after.get(name)! > 0]).toEqual([name, true]);
    }
    expect(after.has("nodejs_eventloop_lag_p99_seconds")).toBe(true);
    expect([...after.keys()].join("\n")).not.toContain(TOKEN);
    program.kill();
    expect(await program.exited).toBe(0);
  });
});

describeWith(["rabbitmq", "redis"], "coordinator and workers", () => {
  let rabbitmq: RabbitMQ;
  let redis: RedisServer;
  const programs: Program[] = [];
  let origin: string;
  let probes: string;

  beforeAll(async () => {
    [rabbitmq, redis] = await Promise.all([startRabbitMQ(), startRedis()]);
    const servers = { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url };
    const coordinator = spawnProgram("coordinator.ts", {
      ...servers,
      PORT: "0",
      BAND_PIXELS: "900",
      AUTH_TOKEN: TOKEN,
    });
    const worker = spawnProgram("worker.ts", { ...servers, WORKER_NAME: "counted", METRICS_PORT: "0" });
    programs.push(coordinator, worker);
    [origin] = await coordinator.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
    const [, port] = await worker.waitFor(/probes and metrics are served".*"port":(\d+)/);
    probes = `http://127.0.0.1:${port}`;
    await worker.waitFor(/at work/);
  });
  afterAll(async () => {
    for (const program of programs) program.kill("SIGKILL");
    await Promise.all([rabbitmq.stop(), redis.stop()]);
  });

  test("the dashboard shows every metric of ours, and only metrics that exist", async () => {
    const id = await send(origin);
    await until(
      async () => (await scrape(`${origin}/metrics`)).get('sobel_jobs_ended_total{task="sobel",state="done"}') === 1,
    );
    await (await fetch(`${origin}/jobs/${id}/result`)).arrayBuffer();
    const worker = await scrape(`${probes}/metrics`);
    expect(worker.get('sobel_bands_total{task="sobel",outcome="done"}')).toBe(6);
    expect(worker.get('sobel_band_wait_seconds_count{task="sobel"}')).toBe(6);
    // The coordinator reports a worker's bands from its next heartbeat.
    await until(
      async () => (await scrape(`${origin}/metrics`)).get('sobel_worker_bands_total{worker="counted"}') === 6,
    );
    const coordinator = await scrape(`${origin}/metrics`);
    expect(namesOf(coordinator).has("sobel_bands_total")).toBe(false);

    const sampled = namesOf(new Map([...worker, ...coordinator]));
    // A metric of an event that has not happened has a TYPE line but no sample.
    const typed = await Promise.all([`${origin}/metrics`, `${probes}/metrics`].map(typedNames));
    const known = new Set([...sampled, ...typed.flat()]);
    const dashboard = JSON.parse(readFileSync(join(import.meta.dirname, "../docs/grafana.json"), "utf8"));
    const expressions: string[] = dashboard.panels.flatMap((panel: { targets?: { expr: string }[] }) =>
      (panel.targets ?? []).map(({ expr }) => expr),
    );
    expect(expressions.length).toBeGreaterThan(30);
    const used = expressions.flatMap((text) => text.match(/\b(?:sobel|process|nodejs)_\w+/g) ?? []);
    const alerts = readFileSync(join(import.meta.dirname, "../docs/alerts.yaml"), "utf8").match(/\bsobel_\w+/g)!;
    expect([...new Set(alerts)].filter((name) => !known.has(name))).toEqual([]);
    for (const text of expressions) expect([text, /\b(sobel|process|nodejs)_/.test(text)]).toEqual([text, true]);
    expect([...new Set(used)].filter((name) => !known.has(name))).toEqual([]);
    const shown = used.map((name) => name.replace(/_(bucket|sum|count)$/, ""));
    const ours = new Set(
      [...known].filter((name) => name.startsWith("sobel_")).map((name) => name.replace(/_(bucket|sum|count)$/, "")),
    );
    expect([...ours].filter((name) => !shown.includes(name))).toEqual([]);
  });

  /** Names on the TYPE lines; for a histogram, the names of its samples. */
  async function typedNames(url: string): Promise<string[]> {
    const text = await (await fetch(url, { headers: { authorization: `Bearer ${TOKEN}` } })).text();
    return [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].flatMap(([, name, type]) => {
      return type === "histogram" ? ["_bucket", "_sum", "_count"].map((end) => name + end) : [name];
    });
  }

  test("the labels of a worker disappear when it leaves", async () => {
    const servers = { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url };
    const passing = spawnProgram("worker.ts", { ...servers, WORKER_NAME: "passing" });
    await passing.waitFor(/at work/);
    const named = async () => Object.keys(only(await scrape(`${origin}/metrics`), "sobel_worker_bands_total"));
    expect(await named()).toContain('sobel_worker_bands_total{worker="passing"}');
    passing.kill();
    expect(await passing.exited).toBe(0);
    expect(await named()).toEqual(['sobel_worker_bands_total{worker="counted"}']);
  });

  test("a worker's probes are ready only while RabbitMQ and Redis are available", async () => {
    const ask = async (path: string) => {
      const answer = await fetch(probes + path);
      return [answer.status, (await answer.json()).status];
    };
    expect(await ask("/healthz")).toEqual([200, "ok"]);
    expect(await ask("/readyz")).toEqual([200, "ready"]);
    expect(await ask("/nothing")).toEqual([404, "not found"]);

    const lights = async () => (await (await fetch(`${origin}/state`)).json()).backends;
    const [up, down] = [
      { up: true, code: null },
      { up: false, code: "silent" },
    ];
    expect(await lights()).toMatchObject({ rabbitmq: up, redis: up });
    const events = await fetch(`${origin}/events?jobs=${crypto.randomUUID()}`);
    const reader = events.body!.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    const said = async (what: RegExp) => {
      while (!what.test(text)) text += (await reader.read()).value;
      text = "";
    };

    redis.pause();
    expect(await ask("/readyz")).toEqual([503, "Redis is unavailable: no answer in 2000 ms"]);
    await said(/event: backends\ndata: .*"redis":\{"up":false,"since":\d+,"code":"silent"/);
    expect(await lights()).toMatchObject({ rabbitmq: up, redis: down });
    expect(await ask("/healthz")).toEqual([200, "ok"]);
    expect((await scrape(`${probes}/metrics`)).get("sobel_store_up")).toBe(0);
    const coordinator = await scrape(`${origin}/metrics`);
    expect([coordinator.get("sobel_store_up"), coordinator.get("sobel_queue_up")]).toEqual([0, 1]);
    redis.resume();
    await until(async () => (await ask("/readyz"))[0] === 200);

    await said(/event: backends\ndata: .*"redis":\{"up":true,"since":\d+,"code":null/);
    await rabbitmq.kill();
    await said(/event: backends\ndata: \{"rabbitmq":\{"up":false,"since":\d+,"code":"unreachable"/);
    await reader.cancel();
    const refused = await (await fetch(`${origin}/readyz`)).json();
    expect(refused).toMatchObject({ status: 503, backends: { rabbitmq: "unreachable", redis: null } });
    await until(async () => (await ask("/readyz"))[1] === "RabbitMQ is unavailable: not connected");
    expect(await ask("/healthz")).toEqual([200, "ok"]);
    const without = await scrape(`${origin}/metrics`);
    expect(without.get("sobel_queue_up")).toBe(0);
    // A value that cannot be read is absent, not 0.
    expect([...without.keys()].filter((name) => /^sobel_queue_(bands|consumers|dead)/.test(name))).toEqual([]);
    await rabbitmq.restart();
    await until(async () => (await ask("/readyz"))[0] === 200);
    await until(async () => (await scrape(`${origin}/metrics`)).get("sobel_queue_up") === 1);
  });

  test("METRICS_PORT: a port in use or an invalid one ends the worker with one line of error", async () => {
    const servers = { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url };
    for (const port of [new URL(probes).port, "http"]) {
      const worker = spawnProgram("worker.ts", { ...servers, METRICS_PORT: port });
      expect(await worker.exited).toBe(1);
      expect(worker.out).toMatch(/^worker\.ts: .*\n$/);
    }
  });
});

test("the worker label has at most 1024 values, however many workers Redis lists", async () => {
  const results = new LocalResults(60);
  const info = {
    host: "h",
    pid: 1,
    runtime: "bun",
    cores: 2,
    tasks: ["sobel"],
    offers: [],
    since: 0,
    bands: 1,
    pixels: 1,
    ms: 1,
    busy: "",
    consuming: true,
    paused: false,
    control: false,
  };
  for (let i = 0; i < 5000; i++) await results.beat({ name: `worker-${i}`, ...info });
  const registry = new Registry();
  await new FleetMetrics(registry, { queue: new LocalQueue(), results }, ["sobel"]).observe();
  const text = await registry.metrics();
  expect(text.match(/^sobel_worker_bands_total\{/gm)).toHaveLength(1024);
  expect(text).toContain('sobel_workers{task="sobel"} 5000');
});
