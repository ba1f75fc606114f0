// The examples of workers, as processes, on a real RabbitMQ and a real Redis: alone, beside a worker of this project, and
// killed. The expected pixels are those of the definition (pictures.ts).
import { afterAll, afterEach, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { connect as amqp, type Channel, type ChannelModel } from "amqplib";
import { encode } from "fast-png";
import { Redis } from "ioredis";
import { collectPixels, onePiece } from "../picture/picture.ts";
import { readImage } from "../picture/read.ts";
import { DEAD_LETTERS, QUEUE } from "../queue.ts";
import { expectSame, random, sobelOf } from "./pictures.ts";
import {
  describeWith,
  type Program,
  type RabbitMQ,
  type RedisServer,
  sharedServers,
  spawnProgram,
  temporaryFolder,
} from "./servers.ts";
import { sleep, until as waitUntil } from "./wait.ts";

/** For a test on a busy machine, ms. */
const LONG = 120_000;
/** No wait in this file is longer, ms. */
const DEADLINE = 40_000;
const until = (condition: () => boolean | Promise<boolean>) => waitUntil(condition, DEADLINE);
const WIDTH = 100;
const HEIGHT = 97;
const grey = random(WIDTH * HEIGHT, 200);
const photo = greyPng(grey, WIDTH, HEIGHT);

let rabbitmq: RabbitMQ;
let redis: RedisServer;
let store: Redis;
let connection: ChannelModel;
let channel: Channel;
const programs: Program[] = [];
const examples: Program[] = [];

type Runtime = "bun" | "deno" | "python";

async function start(): Promise<void> {
  ({ rabbitmq, redis } = await sharedServers());
  store = new Redis(redis.url);
  await store.flushall();
  connection = await amqp(rabbitmq.url);
  channel = await connection.createChannel();
}

async function endPrograms(): Promise<void> {
  for (const example of examples) example.kill("SIGKILL"); // it does not handle SIGTERM
  for (const example of examples.splice(0)) await example.exited;
  for (const program of programs) program.kill("SIGTERM");
  for (const program of programs.splice(0)) expect(await program.exited, program.out).toBe(0);
  for (const queue of [QUEUE, DEAD_LETTERS]) await channel.deleteQueue(queue);
  await store.flushall();
}

async function end(): Promise<void> {
  await connection.close();
  store.disconnect();
}

describeWith(["rabbitmq", "redis", "deno"], "examples/worker.ts", () => {
  beforeAll(start, 90_000);
  afterEach(endPrograms);
  afterAll(end);
  setDefaultTimeout(LONG);

  const file = "examples/worker.ts";

  test("is at most 40 lines and imports nothing of this project", () => {
    const code = readFileSync(file, "utf8");
    expect(code.trimEnd().split("\n").length).toBeLessThanOrEqual(40);
    expect([...code.matchAll(/from "(.*)"/g)].map(([, name]) => name)).toEqual(["amqplib", "fast-png", "ioredis"]);
  });

  test.each(["bun", "deno"] as const)("does jobs alone, exactly, on %s", async (runtime) => {
    const rows = [1, 3, 14, HEIGHT];
    const origins = [];
    for (const each of rows) origins.push(await startCoordinator(WIDTH * each));
    await startExample(file, runtime);
    for (const origin of origins) await expectEdges(origin, grey, WIDTH, HEIGHT);
    for (const [width, height] of [
      [1, 1],
      [1, 300],
      [2, 300],
      [300, 2],
      [300, 1],
    ]) {
      await expectEdges(origins[0], random(width * height), width, height);
    }
  });

  /** Sends a picture, which no other worker has a part in. */
  async function expectEdges(origin: string, grey: Uint8Array, width: number, height: number): Promise<void> {
    const id = crypto.randomUUID();
    expect((await put(origin, id, greyPng(grey, width, height))).status).toBe(202);
    await done(origin, id);
    const { byWorker, bands, lossy } = await state(origin, id);
    expect([byWorker, lossy]).toEqual([{ foreign: { bands, ms: 0 } }, false]);
    expectSame(await resultOf(origin, id), sobelOf(grey, width, height), `${width} × ${height}`);
  }

  test("is killed during a band: another worker does that band and the rest", async () => {
    const origin = await startCoordinator(WIDTH);
    const example = await startExample(file);
    const id = crypto.randomUUID();
    const count = (what: "sent" | "done") => store.hlen(`job:{${id}}:${what}`);
    const sending = put(origin, id, photo, "?workers=8");
    await until(async () => (await count("done")) > 3);
    // Of eight bands in flight, seven are in the queue. Where it stopped between storing and acknowledging, it goes on.
    for (;;) {
      example.kill("SIGSTOP");
      await until(async () => (await count("sent")) - (await count("done")) === 8);
      if ((await channel.checkQueue(QUEUE)).messageCount === 7) break;
      example.kill("SIGCONT");
      await sleep(5);
    }
    example.kill("SIGKILL");
    expect(await example.exited).toBe(128 + 9);
    const before = await count("done");
    expect(before).toBeLessThan(HEIGHT);
    await startWorker("ours");
    expect((await sending).status).toBe(202);
    await done(origin, id);
    const { byWorker } = await state(origin, id);
    expect([byWorker.foreign.bands, byWorker.ours.bands]).toEqual([before, HEIGHT - before]);
    expectSame(await resultOf(origin, id), sobelOf(grey, WIDTH, HEIGHT));
  });
});

describeWith(["rabbitmq", "redis", "python"], "examples/worker.py", () => {
  beforeAll(start, 90_000);
  afterEach(endPrograms);
  afterAll(end);
  setDefaultTimeout(LONG);

  const code = readFileSync("examples/worker.py", "utf8");

  test("does a share of a job beside a worker of this project, exactly", async () => {
    const origin = await startCoordinator(WIDTH);
    await startExample("examples/worker.py", "python");
    const id = crypto.randomUUID();
    const sending = put(origin, id, photo, "?workers=8");
    await until(async () => Object.keys((await state(origin, id)).byWorker ?? {}).includes("foreign"));
    await startWorker("ours");
    expect((await sending).status).toBe(202);
    await done(origin, id);
    const { byWorker, lossy } = await state(origin, id);
    expect([Object.keys(byWorker).toSorted(), lossy]).toEqual([["foreign", "ours"], false]);
    expect(byWorker.foreign.bands + byWorker.ours.bands).toBe(HEIGHT);
    expectSame(await resultOf(origin, id), sobelOf(grey, WIDTH, HEIGHT));
  });

  test("may store JPEGs: the job is lossy", async () => {
    const origin = await startCoordinator(WIDTH * 14);
    expect(code).toContain('".png"');
    const file = join(temporaryFolder("python"), "worker.py");
    writeFileSync(file, code.replace('".png"', '".jpg"'));
    await startExample(file, "python");
    const id = crypto.randomUUID();
    expect((await put(origin, id, photo)).status).toBe(202);
    await done(origin, id);
    expect(await state(origin, id)).toMatchObject({ lossy: true, byWorker: { foreign: { bands: 7 } } });
    const expected = sobelOf(grey, WIDTH, HEIGHT);
    const got = await resultOf(origin, id);
    const difference = got.reduce((sum, value, i) => sum + Math.abs(value - expected[i]), 0) / got.length;
    expect(difference).toBeGreaterThan(0);
    expect(difference).toBeLessThan(12);
  });
});

async function startCoordinator(bandPixels: number): Promise<string> {
  const program = spawnProgram("coordinator.ts", { ...servers(), PORT: "0", BAND_PIXELS: String(bandPixels) });
  programs.push(program);
  const [origin] = await program.waitFor(/http:\/\/127\.0\.0\.1:\d+/, DEADLINE);
  await until(async () => (await ask(`${origin}/readyz`)).ok);
  return origin;
}

async function startWorker(name: string): Promise<void> {
  const program = spawnProgram("worker.ts", { ...servers(), WORKER_NAME: name });
  programs.push(program);
  await program.waitFor(/: at work\n/, DEADLINE);
}

async function startExample(file: string, runtime: Runtime = "bun"): Promise<Program> {
  const program = spawnProgram(file, servers(), runtime);
  examples.push(program);
  await program.waitFor(/at work/, DEADLINE);
  return program;
}

function servers(): Record<string, string> {
  return { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url };
}

function put(origin: string, id: string, body: Buffer<ArrayBuffer>, query = ""): Promise<Response> {
  return ask(`${origin}/jobs/${id}${query}`, { method: "PUT", body });
}

async function state(origin: string, id: string) {
  return (await ask(`${origin}/jobs/${id}`)).json();
}

async function done(origin: string, id: string): Promise<void> {
  await until(async () => {
    const job = await state(origin, id);
    if (job.state === "failed") throw new Error(job.error);
    return job.state === "done";
  });
}

async function resultOf(origin: string, id: string): Promise<Uint8Array> {
  const answer = await ask(`${origin}/jobs/${id}/result`);
  expect(answer.status).toBe(200);
  return collectPixels(await readImage(onePiece(new Uint8Array(await answer.arrayBuffer()))));
}

function greyPng(data: Uint8Array, width: number, height: number): Buffer<ArrayBuffer> {
  return Buffer.from(encode({ width, height, channels: 1, data }));
}

function ask(url: string, init: RequestInit = {}): Promise<Response> {
  return fetch(url, { signal: AbortSignal.timeout(DEADLINE), ...init });
}
