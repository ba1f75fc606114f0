// The examples of workers, as processes, on a real RabbitMQ and a real Redis: alone, beside a worker of this project, and
// killed. The expected pixels are those of the definition (pictures.ts).
import { afterAll, afterEach, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { connect as amqp, type Channel, type ChannelModel } from "amqplib";
import { encode } from "fast-png";
import { Redis } from "ioredis";
import { collectPixels, onePiece } from "../picture/picture.ts";
import { readImage } from "../picture/read.ts";
import { DEAD_LETTERS, QUEUE } from "../queue.ts";
import { expectSame, random, sobelOf } from "./pictures.ts";
import {
  binaries,
  describeWith,
  GO_PATH,
  type Program,
  type RabbitMQ,
  type RedisServer,
  type Runtime,
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

describeWith(["rabbitmq", "redis", "deno", "node", "go"], "examples/worker.ts and worker.go", () => {
  beforeAll(start, 90_000);
  afterEach(endPrograms);
  afterAll(end);
  setDefaultTimeout(LONG);

  const file = "examples/worker.ts";

  test("worker.ts is at most 40 lines and imports nothing of this project", () => {
    const code = readFileSync(file, "utf8");
    expect(code.trimEnd().split("\n").length).toBeLessThanOrEqual(40);
    expect([...code.matchAll(/from "(.*)"/g)].map(([, name]) => name)).toEqual(["amqplib", "fast-png", "ioredis"]);
  });

  test.each(["bun", "deno", "node", "go"] as const)("does jobs alone, exactly: %s", async (language) => {
    const origin = await startCoordinator(WIDTH * 14);
    if (language === "go") await startExample(compiled("examples/worker.go"), "binary");
    else await startExample(language === "node" ? withoutTypes(file) : file, language);
    const isNamed = language !== "go"; // Go's example announces nothing
    await expectEdges(origin, isNamed, grey, WIDTH, HEIGHT);
    for (const [width, height] of [
      [1, 1],
      [1, 300],
      [2, 300],
      [300, 2],
      [300, 1],
    ]) {
      await expectEdges(origin, isNamed, random(width * height), width, height);
    }
  });

  /** Node runs TypeScript from version 22 on. For an older one the types are removed. */
  function withoutTypes(source: string): string {
    const script = join("node_modules", ".cache", "worker.mjs"); // where its imports are found
    mkdirSync(join("node_modules", ".cache"), { recursive: true });
    writeFileSync(script, new Bun.Transpiler({ loader: "ts" }).transformSync(readFileSync(source, "utf8")));
    return script;
  }

  /** A program in Go, without a network: its packages are Debian's. */
  function compiled(source: string): string {
    const program = join(temporaryFolder("go"), "worker");
    const env = { ...process.env, GO111MODULE: "off", GOPATH: GO_PATH, GOPROXY: "off", GOFLAGS: "-mod=" };
    execFileSync(binaries.go!, ["build", "-o", program, source], { env });
    return program;
  }

  /** Sends a picture, which no other worker has a part in. @param isNamed the worker says who it is */
  async function expectEdges(
    origin: string,
    isNamed: boolean,
    grey: Uint8Array,
    width: number,
    height: number,
  ): Promise<void> {
    const id = crypto.randomUUID();
    expect((await put(origin, id, greyPng(grey, width, height))).status).toBe(202);
    await done(origin, id);
    if (isNamed) await named(origin, id);
    const { byWorker, bands, lossy } = await state(origin, id);
    const [[name, share], ...others] = Object.entries(byWorker);
    const expected = isNamed ? expect.stringMatching(/^js-\d+$/) : "foreign";
    expect([name, share.bands, others, lossy]).toEqual([expected, bands, [], false]);
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
    const { ours, ...theirs } = byWorker;
    // The last result may have been stored and not announced: it counts as done by `foreign`, and maybe later.
    const alone = Object.values(theirs).reduce((sum, { bands }) => sum + bands, 0);
    expect(alone).toBeWithin(before, before + 2);
    expect(ours.bands).toBe(HEIGHT - alone);
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
    const python = await startExample("examples/worker.py", "python");
    const id = crypto.randomUUID();
    const sending = put(origin, id, photo, "?workers=8");
    await until(async () =>
      Object.keys((await state(origin, id)).byWorker ?? {}).some((name) => /^python-/.test(name)),
    );
    // It would do the rest alone while the other one starts.
    python.kill("SIGSTOP");
    await startWorker("ours");
    python.kill("SIGCONT");
    expect((await sending).status).toBe(202);
    await done(origin, id);
    await named(origin, id);
    const { byWorker, lossy } = await state(origin, id);
    const [[, ours], [, theirs]] = Object.entries(byWorker).toSorted();
    expect([Object.keys(byWorker).toSorted(), lossy]).toEqual([["ours", expect.stringMatching(/^python-\d+$/)], false]);
    expect(ours.bands + theirs.bands).toBe(HEIGHT);
    expect(theirs.ms).toBeGreaterThan(0);
    expectSame(await resultOf(origin, id), sobelOf(grey, WIDTH, HEIGHT));
  });

  test("the course's worker joins with the one line of docs/wire.md changed", async () => {
    const [, , before, after] = readFileSync("docs/wire.md", "utf8").match(/```diff\n(-(.*)\n\+(.*)\n)```/) ?? [];
    const original = readFileSync("test/course/worker.py", "utf8");
    expect(original).toContain(`${before}\n`);
    const file = join(temporaryFolder("course"), "worker.py");
    writeFileSync(file, original.replace(before, after));
    const origin = await startCoordinator(WIDTH * 14);
    await startExample(file, "python");
    const id = crypto.randomUUID();
    expect((await put(origin, id, photo)).status).toBe(202);
    await done(origin, id);
    expect(await state(origin, id)).toMatchObject({ lossy: false, byWorker: { foreign: { bands: 7 } } });
    expectSame(await resultOf(origin, id), sobelOf(grey, WIDTH, HEIGHT));
  });

  test("may store JPEGs: the job is lossy", async () => {
    const origin = await startCoordinator(WIDTH * 14);
    expect(code).toContain('".pgm"');
    const file = join(temporaryFolder("python"), "worker.py");
    writeFileSync(file, code.replace('".pgm"', '".jpg"'));
    await startExample(file, "python");
    const id = crypto.randomUUID();
    expect((await put(origin, id, photo)).status).toBe(202);
    await done(origin, id);
    expect(await state(origin, id)).toMatchObject({ lossy: true, done: 7 });
    const expected = sobelOf(grey, WIDTH, HEIGHT);
    const got = await resultOf(origin, id);
    const difference = got.reduce((sum, value, i) => sum + Math.abs(value - expected[i]), 0) / got.length;
    expect(difference).toBeGreaterThan(0);
    expect(difference).toBeLessThan(12);
  });
});

/** Kills a process group that this test has started; it may have ended. */
function endGroup(pid: number): void {
  try {
    process.kill(-pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

describeWith(["rabbitmq", "redis", "bash"], "examples/worker.sh", () => {
  beforeAll(start, 90_000);
  afterEach(endPrograms);
  afterAll(end);
  setDefaultTimeout(LONG);

  test("offers a task that the coordinator does not have, and does it exactly; killed, it offers nothing", async () => {
    const origin = await startCoordinator(WIDTH * 14);
    const { pid } = await startExample("examples/worker.sh", "bash");
    try {
      await until(async () => (await (await ask(`${origin}/tasks`)).text()).includes('"brighten"'));
      const answer = await ask(`${origin}/tasks/brighten?by=60`, { method: "POST", body: photo });
      expect(answer.status).toBe(200);
      const brighter = grey.map((value) => Math.min(255, value + 60));
      expectSame(await pixelsOf(answer), brighter);
      const consumers = async () => (await channel.checkQueue("tareas.brighten")).consumerCount;
      expect(await consumers()).toBe(1);
      process.kill(pid, "SIGKILL"); // and not what it has started
      await until(async () => (await consumers()) === 0);
      await until(async () => (await store.exists(`worker:bash-${pid}`)) === 0);
    } finally {
      endGroup(pid); // whatever is left if the test has failed
      await channel.deleteQueue("tareas.brighten");
    }
  });
});

describeWith(["rabbitmq", "redis"], "a message of no job", () => {
  beforeAll(start, 90_000);
  afterEach(endPrograms);
  afterAll(end);

  test("the golden messages of docs/wire.md give their results for any sender", async () => {
    await startWorker("ours");
    for (const name of ["sobel", "blur", "half", "histogram"]) {
      const { queue, message, result } = JSON.parse(readFileSync(`docs/wire/${name}.json`, "utf8"));
      await channel.sendToQueue(queue, Buffer.from(JSON.stringify(message)));
      await until(async () => (await store.exists(result.key)) === 1);
      expect(await store.ttl(result.key)).toBeGreaterThan(0);
      expect(await store.getdel(result.key)).toBe(result.value); // all have the same id
      await until(async () => (await channel.checkQueue(queue)).messageCount === 0);
    }
    expect(await store.keys("job:*")).toEqual([]);
  });

  test("a task that throws is tried three times, then dead-lettered", async () => {
    const modules = join(import.meta.dirname, "tasks", "throws.ts");
    await startWorker("ours", { TASKS: modules });
    const { message } = JSON.parse(readFileSync("docs/wire/sobel.json", "utf8"));
    await channel.sendToQueue("tareas.throws", Buffer.from(JSON.stringify({ ...message, task: "throws" })));
    await until(async () => (await channel.checkQueue(DEAD_LETTERS)).messageCount === 1);
    await programs[0].waitFor(/"band failed".*"attempt":3,"of":3/);
    await programs[0].waitFor(
      /"band dead-lettered".*"failed 3 times: this task is ill \(test\/tasks\/throws\.ts:10\)"/,
    );
    expect(await store.keys("*{*")).toEqual([]);
    await channel.deleteQueue("tareas.throws");
  });
});

async function startCoordinator(bandPixels: number): Promise<string> {
  const program = spawnProgram("coordinator.ts", { ...servers(), PORT: "0", BAND_PIXELS: String(bandPixels) });
  programs.push(program);
  const [origin] = await program.waitFor(/http:\/\/127\.0\.0\.1:\d+/, DEADLINE);
  await until(async () => (await ask(`${origin}/readyz`)).ok);
  return origin;
}

async function startWorker(name: string, settings: Record<string, string> = {}): Promise<void> {
  const program = spawnProgram("worker.ts", { ...servers(), WORKER_NAME: name, ...settings });
  programs.push(program);
  await program.waitFor(/: at work\n/, DEADLINE);
  await until(async () => (await store.hget(`worker:${name}`, "consuming")) === "1");
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

interface State {
  state: string;
  error: string | null;
  byWorker: Record<string, { bands: number; ms: number }>;
  bands: number;
  lossy: boolean;
}

async function state(origin: string, id: string): Promise<State> {
  return (await ask(`${origin}/jobs/${id}`)).json();
}

/** Waits until each worker has said its name: it does so after its result is stored. */
async function named(origin: string, id: string): Promise<void> {
  await until(async () => !("foreign" in (await state(origin, id)).byWorker));
}

async function done(origin: string, id: string): Promise<void> {
  await until(async () => {
    const job = await state(origin, id);
    if (job.state === "failed") throw new Error(job.error ?? "");
    return job.state === "done";
  });
}

async function resultOf(origin: string, id: string): Promise<Uint8Array> {
  const answer = await ask(`${origin}/jobs/${id}/result`);
  expect(answer.status).toBe(200);
  return pixelsOf(answer);
}

async function pixelsOf(answer: Response): Promise<Uint8Array> {
  return collectPixels(await readImage(onePiece(new Uint8Array(await answer.arrayBuffer()))));
}

function greyPng(data: Uint8Array, width: number, height: number): Buffer<ArrayBuffer> {
  return Buffer.from(encode({ width, height, channels: 1, data }));
}

function ask(url: string, init: RequestInit = {}): Promise<Response> {
  return fetch(url, { signal: AbortSignal.timeout(DEADLINE), ...init });
}
