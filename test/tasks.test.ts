// Tasks through HTTP: in one process, and in a fleet on a real RabbitMQ and a real Redis. The fleet's workers have
// different tasks, different versions, or are written in another language.
//
// The expected bytes are those of the one-machine program (cli/local.ts).

import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { connect as amqp, type Channel, type ChannelModel } from "amqplib";
import { decode, encode } from "fast-png";
import { Redis } from "ioredis";
import sharp from "sharp";
import { decodeMessage, encodeMessage, fromBase64 } from "../chunk.ts";
import { transform } from "../cli/local.ts";
import { createApp } from "../coordinator.ts";
import { LocalQueue } from "../embedded/queue.ts";
import { LocalResults } from "../embedded/results.ts";
import { collectPixels, onePiece } from "../picture/picture.ts";
import { readImage } from "../picture/read.ts";
import { DEAD_LETTERS, QUEUE, queueOf } from "../queue.ts";
import { BEAT_MS } from "../results.ts";
import { isList } from "../task.ts";
import { loadTasks } from "../tasks/index.ts";
import { queryValues } from "../tasks/params.ts";
import { encodedResult, runTask } from "../tasks/run.ts";
import { expectSame, random } from "./pictures.ts";
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

const tasks = await loadTasks();
/** The others are in list.test.ts. */
const ofPictures = tasks.names().filter((name) => !isList(tasks.newest(name)!));

setDefaultTimeout(60_000);

/** The longest wait in this file, ms. */
const DEADLINE = 40_000;
/** The time limit of a test of a fleet, on a busy machine, ms. */
const LONG = 120_000;
/** 100 × 97, cut into 1, 7 and 97 bands. */
const WIDTH = 100;
const HEIGHT = 97;
const grey = random(WIDTH * HEIGHT, 200);
const photo = greyPng(grey, HEIGHT);
const colours = random(WIDTH * HEIGHT * 4);
const colourPhoto: Bytes = Buffer.from(encode({ width: WIDTH, height: HEIGHT, channels: 4, data: colours }));
const CUTS = [WIDTH * HEIGHT, WIDTH * 14, WIDTH];
const SOME = CUTS[1];
const QUERIES: Record<string, string[]> = {
  blur: ["", "sigma=0.5", "sigma=40"], // the last halo is higher than a band, and than the picture
  threshold: ["", "level=100"],
  thumbnail: ["", "factor=3", "factor=64"],
};

const programs: Program[] = [];

/** Compares the result of every task, by `POST` and by `PUT`, with that of the one-machine program. */
async function expectAllTasks(origin: string, bandPixels: number): Promise<void> {
  for (const name of ofPictures) {
    for (const query of QUERIES[name] ?? [""]) {
      const body = tasks.newest(name)!.channels ? colourPhoto : photo;
      const expected = await alone(name, query, bandPixels, body);
      const answer = await ask(`${origin}/tasks/${name}?${query}`, { method: "POST", body });
      expectSame(await bytesOf(answer), expected, `${name}?${query}`);
      const type = name === "histogram" ? "application/json" : "image/png";
      expect(answer.headers.get("content-type")).toBe(type);
      const id = crypto.randomUUID();
      const accepted = await put(origin, id, `task=${name}&${query}`, body);
      expect([name, accepted.status]).toEqual([name, 202]);
      await done(origin, id);
      const result = await ask(`${origin}/jobs/${id}/result`);
      expect(result.headers.get("content-type")).toBe(type);
      expectSame(await bytesOf(result), expected, `${name}?${query}`);
      expect((await ask(`${origin}/jobs/${id}`, { method: "DELETE" })).status).toBe(204);
    }
  }
}

describe("in one process", () => {
  let origin: string;

  beforeAll(async () => {
    const program = spawnProgram("coordinator.ts", { PORT: "0", WORKERS: "2", BAND_PIXELS: String(SOME) });
    [origin] = await program.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
    programs.push(program);
  });
  afterAll(endAll);

  test("every task gives the bytes of the one-machine program", async () => {
    await expectAllTasks(origin, SOME);
  });

  test("the command line gives the same bytes, locally and with --remote", async () => {
    const folder = temporaryFolder("tasks");
    const [from, to] = [join(folder, "in.png"), join(folder, "out")];
    writeFileSync(from, colourPhoto);
    for (const [task, query] of [
      ["blur", "sigma=3"],
      ["threshold", ""],
      ["histogram", ""],
      ["sepia", ""],
    ]) {
      for (const remote of [[], ["--remote", origin]]) {
        const args = ["run", "sobel.ts", ...remote, "--task", task, "--params", query, from, to];
        const env = { ...process.env, BAND_PIXELS: String(SOME) };
        const { status, stderr } = spawnSync(process.execPath, args, { env });
        expect([task, status], String(stderr)).toEqual([task, 0]);
        expectSame(readFileSync(to), await alone(task, query, SOME, colourPhoto));
      }
    }
    const wrong = (...args: string[]) => spawnSync(process.execPath, ["run", "sobel.ts", ...args, from, to]);
    for (const [args, sentence] of [
      [
        ["--task", "canny"],
        "unknown task canny: expected blur, crack, equalize, half, histogram, invert, median, pi, primes, scharr, sepia, sobel, stretch, threshold, thumbnail, words",
      ],
      [["--task", "blur", "--params", "sigma=0"], "sigma: expected a number from 0.1 to 50, got 0"],
    ] as const) {
      const { status, stderr } = wrong(...args);
      expect([status, String(stderr)]).toEqual([2, `sobel.ts: ${sentence}\n`]);
    }
  });

  test("GET /tasks lists the tasks with the schemas of their parameters", async () => {
    const { tasks } = await json(`${origin}/tasks`);
    const shown = ({ name, kind, halo, channels, shrink }: Record<string, unknown>) => {
      return [name, kind, halo, channels, shrink];
    };
    expect(tasks.map(shown)).toEqual([
      ["blur", "picture", null, 1, 1],
      ["crack", "list", null, 1, 1],
      ["equalize", "picture", 0, 1, 1],
      ["half", "picture", 0, 3, 2],
      ["histogram", "data", 0, 1, 1],
      ["invert", "picture", 0, 3, 1],
      ["median", "picture", null, 1, 1],
      ["pi", "list", null, 1, 1],
      ["primes", "list", null, 1, 1],
      ["scharr", "picture", 1, 1, 1],
      ["sepia", "picture", 0, 3, 1],
      ["sobel", "picture", 1, 1, 1],
      ["stretch", "picture", 0, 1, 1],
      ["threshold", "picture", 0, 1, 1],
      ["thumbnail", "picture", 0, 3, null],
      ["words", "list", null, 1, 1],
    ]);
    const { sigma } = tasks[0].params.properties;
    expect(sigma).toMatchObject({ type: "number", minimum: 0.1, maximum: 50, default: 2 });
    for (const { description, version } of tasks) expect([version, description.length > 5]).toEqual([1, true]);
  });

  test("400 names a parameter that is unknown or invalid", async () => {
    for (const [query, sentence] of [
      ["sigma=wide", 'sigma: expected a number from 0.1 to 50, got "wide"'],
      ["sigma=51", "sigma: expected a number from 0.1 to 50, got 51"],
      ["size=3", 'unknown parameter "size": blur has sigma'],
    ]) {
      for (const [method, path] of [
        ["POST", `/tasks/blur?${query}`],
        ["PUT", `/jobs/${crypto.randomUUID()}?task=blur&${query}`],
      ]) {
        const answer = await ask(`${origin}${path}`, { method, body: photo });
        expect([answer.status, (await answer.json()).detail]).toEqual([400, sentence]);
      }
    }
  });

  test("409 if an id is sent again with other parameters", async () => {
    const id = crypto.randomUUID();
    expect((await put(origin, id, "task=blur&sigma=3")).status).toBe(202);
    expect((await put(origin, id, "task=blur&sigma=3.0")).status).toBe(202);
    const answer = await put(origin, id, "task=blur");
    expect([answer.status, (await answer.json()).detail]).toEqual([
      409,
      "this job was started with another picture or task: 100 × 97, blur, sigma 3; this one is 100 × 97, blur, sigma 2",
    ]);
    expect((await state(origin, id)).params).toEqual({ sigma: 3 });
  });

  test("a job of two steps reports the derived parameter, and its first step is removed with it", async () => {
    const id = crypto.randomUUID();
    const send = (body: Bytes) => put(origin, id, "task=threshold", body);
    expect((await send(photo)).status).toBe(202);
    await done(origin, id);
    const { params, first, kind } = await state(origin, id);
    expect([kind, Object.keys(params)]).toEqual(["picture", ["level"]]);
    const counts = await json(`${origin}/jobs/${first}/result`);
    expect(JSON.stringify(counts)).toBe((await alone("histogram", "", SOME)).toString().trim());
    expect((await send(photo)).status).toBe(202);
    const other = greyPng(tinted(1), HEIGHT);
    expect([(await send(other)).status, (await send(photo)).status]).toEqual([409, 202]);
    expect((await ask(`${origin}/jobs/${id}`, { method: "DELETE" })).status).toBe(204);
    expect((await ask(`${origin}/jobs/${first}`)).status).toBe(404);
  });

  test("a picture found corrupt in the first step fails the job, and may be sent again", async () => {
    const id = crypto.randomUUID();
    expect((await put(origin, id, "task=threshold", photo.subarray(0, -20))).status).toBe(422);
    expect((await state(origin, id)).state).toBe("failed");
    expect((await put(origin, id, "task=threshold")).status).toBe(202);
    await done(origin, id);
    expectSame(await resultOf(origin, id), await alone("threshold", "", SOME));
  });
});

describe("a task's own functions", () => {
  test("that throw fail the job, not the coordinator, with their place", async () => {
    const folder = temporaryFolder("tasks");
    const program = spawnProgram("coordinator.ts", { PORT: "0", WORKERS: "1", TASKS: broken(folder) });
    programs.push(program);
    const [origin] = await program.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
    for (const [task, sentence] of [
      ["no-halo?by=-1", "the task failed: task no-halo: expected a halo of 0 to 256 whole rows, got -1 (no-halo.ts)"],
      ["no-finish", "the task failed: nothing can be made of this (no-finish.ts:1)"],
      ["no-find", "the task failed: nothing was found (no-find.ts:2)"],
      ["no-error", 'band 0: failed 3 times: run: expected an Error to be thrown, got "sick" (no-error.ts)'],
      ["no-await", "run: expected an Error to be thrown, got a Promise: is an await missing? (no-await.ts)"],
      ["no-pixels", "task no-pixels: expected a Uint8Array of 100 × 97 pixels, got undefined (no-pixels.ts)"],
      ["no-list", "expected pieces to return an iterable, such as a list, got undefined (no-list.ts)"],
      ["no-wait", "expected pieces to return a value, got a Promise: only run is awaited (no-wait.ts)"],
      ["no-decision", "expected isDecided to return a value, got a Promise: only run is awaited (no-decision.ts)"],
      ["no-sum", "expected merge to return a value, got a Promise: only run is awaited (no-sum.ts)"],
      ["no-helper", "the helper is ill (lib/helper.ts:2)"],
    ]) {
      const [body, query] = /no-(list|wait|decision)/.test(task)
        ? [null, ""]
        : [photo, task === "no-sum" ? "?bands=2" : ""];
      const answer = await ask(`${origin}/tasks/${task}${query}`, { method: "POST", body });
      const detail = (await answer.json()).detail.replaceAll(`${folder}/`, "");
      expect([task, answer.status, detail]).toEqual([task, 500, expect.stringContaining(sentence)]);
    }
    const id = crypto.randomUUID();
    expect((await put(origin, id, "task=no-find")).status).toBe(500);
    expect(await state(origin, id)).toMatchObject({
      state: "failed",
      error: expect.stringContaining("nothing was found"),
    });
    await endAll();
  });

  test("that throw a TypeError on the command line have their place, too", () => {
    const folder = temporaryFolder("tasks");
    const file = join(folder, "typo.ts");
    writeFileSync(
      file,
      "export const task = { name: 'typo', pieces: () => [1],\n  run: (n) => n.a.b, merge: (a) => a };\n",
    );
    const args = ["run", "sobel.ts", "--task", "typo", "-"];
    const ran = spawnSync(process.execPath, args, { env: { ...process.env, TASKS: file }, encoding: "utf8" });
    expect([ran.status, ran.stderr]).toEqual([
      1,
      expect.stringMatching(/^sobel\.ts: undefined is not .*\(.*\/typo\.ts:2\)\n$/),
    ]);
  });

  test("that throw in a worker are logged with their file and line", async () => {
    const program = spawnProgram("coordinator.ts", { PORT: "0", WORKERS: "1", TASKS: "test/tasks/throws.ts" });
    programs.push(program);
    const [origin] = await program.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
    expect((await ask(`${origin}/tasks/throws?bands=1`, { method: "POST", body: photo })).status).toBe(500);
    await program.waitFor(/"error":"this task is ill","at":"test\/tasks\/throws\.ts:10"/);
    await endAll();
  });

  test("a module that is no task ends the program with one sentence", async () => {
    const folder = temporaryFolder("tasks");
    const file = (name: string, code: string) => {
      writeFileSync(join(folder, name), code);
      return join(folder, name);
    };
    const none = file("none.ts", "export const task = { name: 'None' };\n");
    const broken = file("broken.ts", "export const = 5;\n");
    const lost = file("lost.ts", "import { a } from './nowhere.ts';\nexport const task = a;\n");
    const lib = file("lib.ts", "import { a } from './broken.ts';\nexport const task = a;\n");
    const thrown = file("thrown.ts", "throw 'no reason';\n");
    const again = file("again.ts", "export const task = { name: 'sobel', halo: 0, run: ({ pixels }) => pixels };\n");
    const [one, two] = ["one.ts", "two.ts"].map((name) => file(name, again2));
    file(
      "half.ts",
      "export const task = {\n  name: 'half-way', run: () => 1, halo: () => {\n    throw new Error('too wide');\n  } };\n",
    );
    const taskModule = JSON.stringify(new URL("../task.ts", import.meta.url).pathname);
    file(
      "empty.ts",
      `import { dataTask } from ${taskModule};\nexport const task = dataTask({ name: 'empty', halo: 0, run: () => 1 });\n`,
    );
    const taken = (name: string) => `expected a name and version of its own, got ${name}, as in`;
    for (const [TASKS, sentence] of [
      [none, `${none}: expected a name of lower-case letters, digits and hyphens, got "None"`],
      [`${one}, ${folder}/nowhere.ts`, `${folder}/nowhere.ts: expected a module, but there is no such file`],
      [broken, `${broken}: Expected identifier but found "=" (${broken}:1)`],
      [lib, `${lib}: Expected identifier but found "=" (${broken}:1)`],
      [lost, `${lost}: Cannot find module './nowhere.ts' imported from ${lost}\n`],
      [thrown, `${thrown}: the file: expected an Error to be thrown, got "no reason"\n`],
      [`${folder}/half.ts`, `${folder}/half.ts: too wide (${folder}/half.ts:3)`],
      [`${folder}/empty.ts`, `${folder}/empty.ts: expected a function merge, got undefined`],
      [again, `${again}: ${taken("sobel")} sobel.ts`],
      [`${one}, ${two}`, `${two}: ${taken("again.2")} TASKS: ${one}`],
    ]) {
      for (const program of ["coordinator.ts", "worker.ts"]) {
        const started = spawnProgram(program, { PORT: "0", TASKS });
        expect(await started.exited).toBe(1);
        expect(started.out).toStartWith(`${program}: TASKS: ${sentence}`);
        expect(started.out.trim().split("\n")).toHaveLength(1);
      }
    }
  });

  const again2 = "export const task = { name: 'again', version: 2, halo: 0, run: ({ pixels }) => pixels };\n";

  /** The setting `TASKS` for three modules. One function of each throws. */
  function broken(folder: string): string {
    mkdirSync(join(folder, "lib"));
    writeFileSync(
      join(folder, "lib/helper.ts"),
      "export const help = () => {\n  throw new Error('the helper is ill');\n};\n",
    );
    const data = "halo: 0, run: () => 1, merge: (a, b) => a + b";
    const tasks = {
      "no-halo":
        "{ name: 'no-halo', halo: ({ by = 0 }) => by, params: { by: { type: 'integer' } }, run: ({ pixels }) => pixels }",
      "no-finish": `{ name: 'no-finish', ${data}, finish() { throw new Error('nothing can be made of this'); } }`,
      "no-find": `{ name: 'no-find', halo: 0, params: { by: { type: 'integer' } }, run: ({ pixels }) => pixels,
        first: { params: ['by'], task: { name: 'histogram', ${data} }, find() { throw new Error('nothing was found'); } } }`,
      "no-error": "{ name: 'no-error', halo: 0, run() { throw 'sick'; } }",
      "no-await": "{ name: 'no-await', halo: 0, run() { throw Promise.resolve(1); } }",
      "no-pixels": "{ name: 'no-pixels', halo: 0, run() {} }",
      "no-list": "{ name: 'no-list', pieces() {}, run: () => 1, merge: (a) => a }",
      "no-wait": "{ name: 'no-wait', pieces: async () => [1], run: () => 1, merge: (a) => a }",
      "no-decision":
        "{ name: 'no-decision', pieces: () => [1, 2], run: () => 1, merge: (a) => a, isDecided: async () => false }",
      "no-sum": "{ name: 'no-sum', halo: 0, run: () => 1, merge: async (a, b) => a + b }",
      "no-helper": "{ name: 'no-helper', halo: 0, run: () => help() };\nimport { help } from './lib/helper.ts'",
    };
    return Object.entries(tasks)
      .map(([name, code]) => {
        const file = join(folder, `${name}.ts`);
        writeFileSync(file, `export const task = ${code};\n`);
        return file;
      })
      .join(",");
  }
});

describeWith(["rabbitmq", "redis"], "a fleet", () => {
  let rabbitmq: RabbitMQ;
  let redis: RedisServer;
  let store: Redis;
  let connection: ChannelModel;
  let channel: Channel;

  beforeAll(async () => {
    ({ rabbitmq, redis } = await sharedServers());
    store = new Redis(redis.url);
    await store.flushall();
    connection = await amqp(rabbitmq.url);
    channel = await connection.createChannel();
  }, 90_000);
  afterEach(async () => {
    await endAll();
    for (const queue of ["", ".tint", ".tint.2", ".slow", ".thin"]) await channel.deleteQueue(`${QUEUE}${queue}`);
    for (const name of tasks.names()) await channel.deleteQueue(queueOf(name));
    await channel.deleteQueue(DEAD_LETTERS);
    await store.flushall();
  });
  afterAll(async () => {
    await connection.close();
    store.disconnect();
  });

  async function coordinator(settings: Record<string, string> = {}, bandPixels = SOME): Promise<string> {
    const env = { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url, PORT: "0", BAND_PIXELS: String(bandPixels) };
    const program = spawnProgram("coordinator.ts", { ...env, ...settings });
    programs.push(program);
    const [origin] = await program.waitFor(/http:\/\/127\.0\.0\.1:\d+/, DEADLINE);
    await until(async () => (await ask(`${origin}/readyz`)).ok);
    return origin;
  }

  async function worker(name: string, settings: Record<string, string> = {}, runtime: "bun" | "deno" = "bun") {
    const env = { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url, WORKER_NAME: name };
    const program = spawnProgram("worker.ts", { ...env, ...settings }, runtime);
    programs.push(program);
    await program.waitFor(/: at work\n/, DEADLINE);
    return program;
  }

  async function beat(name: string, fields: Record<string, string>): Promise<void> {
    const [seconds] = await store.time();
    await store.zadd("workers", Number(seconds) * 1000, name);
    await store.hset(`worker:${name}`, { name, ...fields });
  }

  async function listed(origin: string): Promise<string[]> {
    const { tasks } = await json(`${origin}/tasks`);
    return tasks.map(({ name }: { name: string }) => name).toSorted();
  }

  const workersOf = async (origin: string) => (await json(`${origin}/workers`)).workers;

  test(
    "every task gives the bytes of the one-machine program, for any bands, on both runtimes, and leaves no keys",
    async () => {
      await worker("bun");
      await worker("deno", {}, "deno");
      for (const bandPixels of CUTS) await expectAllTasks(await coordinator({}, bandPixels), bandPixels);
      await until(async () => (await store.keys("*job:*")).length + (await store.keys("resultado:*")).length === 0);
    },
    LONG,
  );

  test(
    "if a coordinator is killed in either step, another resumes and no band is computed twice",
    async () => {
      const slow = greyPng(random(WIDTH * 200, 200), 200);
      const expected = await alone("threshold", "", WIDTH, slow);
      for (const step of [1, 2]) {
        const id = crypto.randomUUID();
        const send = (at: string) => put(at, id, "task=threshold&workers=4", slow);
        const origin = await coordinator({}, WIDTH);
        const doomed = programs.at(-1)!;
        const fleet = await worker(`step-${step}`);
        const lost = send(origin).catch(() => null);
        const first = await until(async () => (await state(origin, id)).first as string | undefined);
        const at = step === 1 ? first : id;
        await until(async () => (await store.hlen(`job:{${at}}:done`)) > 20);
        doomed.kill("SIGKILL");
        programs.splice(programs.indexOf(doomed), 1);
        await lost;
        const other = await coordinator({}, WIDTH);
        expect((await state(other, id)).state).toBe("uploading");
        // Wait for the queue: the record may lack the last bands that the dead coordinator sent.
        const busy = async () => (await workersOf(other))[0].busy as string;
        await until(async () => (await busy()) === "" && (await store.hlen(`job:{${at}}:sent`)) > 0);
        for (const name of ["histogram", "threshold"]) {
          await until(async () => (await channel.checkQueue(queueOf(name))).messageCount === 0);
        }
        const before = await store.hgetall(`job:{${first}}:done`);
        expect((await send(other)).status).toBe(202);
        await done(other, id);
        expectSame(await resultOf(other, id), expected);
        expect(await store.hgetall(`job:{${first}}:done`)).toMatchObject(before);
        const counted = async () => (await workersOf(other))[0].bands as number;
        await until(async () => (await counted()) >= 400); // 200 bands in each step, reported by the next heartbeat
        await sleep(BEAT_MS);
        expect(await counted()).toBe(400);
        fleet.kill();
        expect(await fleet.exited).toBe(0);
      }
    },
    LONG,
  );

  test(
    "a job that is cancelled in its first step leaves no keys but leases",
    async () => {
      const origin = await coordinator();
      const id = crypto.randomUUID();
      const sent = put(origin, id, "task=threshold");
      const first = await until(async () => (await state(origin, id)).first as string | undefined);
      await until(async () => (await store.hlen(`job:{${first}}:sent`)) > 0);
      expect((await ask(`${origin}/jobs/${id}`, { method: "DELETE" })).status).toBe(204);
      expect((await sent).status).toBe(410);
      expect((await store.keys("*job:*")).filter((key) => !key.endsWith(":feeder"))).toEqual([]);
    },
    LONG,
  );

  test(
    "each version computes its own jobs, and a job waits while no worker has its version",
    async () => {
      const [one, two] = ["test/tasks/tint.ts", "test/tasks/tint-2.ts"];
      const [old, young] = [await coordinator({ TASKS: one }), await coordinator({ TASKS: `${two},${one}` })];
      const post = async (origin: string, task = "tint") =>
        pixelsOf(await bytesOf(await ask(`${origin}/tasks/${task}`, { method: "POST", body: photo })));
      const id = crypto.randomUUID();
      const accepted = await put(young, id, "task=tint&workers=7");
      expect(await accepted.json()).toMatchObject({ task: "tint.2", state: "running", waiting: true });
      await worker("old", { TASKS: one });
      expectSame(await post(old), tinted(1));
      expect(await state(young, id)).toMatchObject({ state: "running", done: 0, waiting: true });
      await worker("young", { TASKS: two });
      await done(young, id);
      expect(Object.keys((await state(young, id)).byWorker)).toEqual(["young"]);
      expectSame(await post(young), tinted(2));
      expectSame(await post(old), tinted(1));
      // A coordinator without the task enqueues it for the workers that offer it.
      const plain = await coordinator();
      expectSame(await post(plain), tinted(2));
      for (const origin of [young, plain]) expectSame(await post(origin, "tint.2"), tinted(2));
      expectSame(await post(young, "tint.1"), tinted(1));
      expect((await ask(`${young}/tasks/tint.3`, { method: "POST", body: photo })).status).toBe(422);
      expectSame(await pixelsOf(await resultOf(plain, id)), tinted(2));
    },
    LONG,
  );

  test(
    "an upload that an old coordinator began is resumed in the old version by a new one",
    async () => {
      const [one, two] = ["test/tasks/tint.ts", "test/tasks/tint-2.ts"];
      const [old, young] = [await coordinator({ TASKS: one }), await coordinator({ TASKS: `${two},${one}` })];
      const onlyNew = await coordinator({ TASKS: two });
      const id = crypto.randomUUID();
      const query = "task=tint&workers=1";
      // Without a worker there is only room for one band.
      const cut = new AbortController();
      const started = put(old, id, query, photo, cut.signal);
      await until(async () => (await store.hlen(`job:{${id}}:sent`)) > 0);
      cut.abort();
      await started.catch(() => {});
      const refused = await put(onlyNew, id, query);
      expect([refused.status, (await refused.json()).detail]).toEqual([
        409,
        "this job was started with another picture or task: 100 × 97, tint; this one is 100 × 97, tint.2",
      ]);
      await worker("old", { TASKS: one });
      expect(await (await put(young, id, query)).json()).toMatchObject({ task: "tint" });
      await done(young, id);
      expectSame(await pixelsOf(await resultOf(young, id)), tinted(1));
    },
    LONG,
  );

  test(
    "a worker computes only the tasks in WORKER_TASKS",
    async () => {
      const origin = await coordinator();
      const TASKS = "test/tasks/tint.ts, test/tasks/tint-2.ts, test/tasks/tint.ts";
      await worker("choosy", { TASKS, WORKER_TASKS: "blur, histogram,tint.2" });
      expect((await workersOf(origin))[0].tasks).toEqual(["blur", "histogram", "tint.2"]);
      expect((await ask(`${origin}/tasks/blur`, { method: "POST", body: photo })).status).toBe(200);
      const id = crypto.randomUUID();
      expect(await (await put(origin, id, "workers=7")).json()).toMatchObject({ task: "sobel", waiting: true });
      const wrong = spawnProgram("worker.ts", {
        RABBITMQ_URL: rabbitmq.url,
        REDIS_URL: redis.url,
        WORKER_TASKS: "canny",
      });
      expect(await wrong.exited).toBe(1);
      expect(wrong.out).toContain(
        "WORKER_TASKS: expected some of blur, crack, equalize, half, histogram, invert, median, pi, primes, scharr, sepia, sobel, stretch, threshold, thumbnail, words, got canny",
      );
    },
    LONG,
  );

  test(
    "a band does not wait behind a long band of another task while a worker is idle",
    async () => {
      const origin = await coordinator({ TASKS: "test/tasks/slow.ts" }, WIDTH * HEIGHT);
      for (const name of ["one", "two"]) await worker(name, { TASKS: "test/tasks/slow.ts" });
      const slow = crypto.randomUUID();
      expect((await put(origin, slow, `task=slow&ms=${2 * BEAT_MS}`)).status).toBe(202);
      await until(async () => (await channel.checkQueue(`${QUEUE}.slow`)).messageCount === 0);
      // Each of them could be held by the busy worker.
      for (let i = 0; i < 6; i++) {
        const quick = crypto.randomUUID();
        expect((await put(origin, quick)).status).toBe(202);
        await done(origin, quick);
      }
      expect((await state(origin, slow)).state).toBe("running");
      await done(origin, slow);
    },
    LONG,
  );

  test(
    "a busy worker takes bands of its tasks in turn, so that none waits for ever",
    async () => {
      const origin = await coordinator({ TASKS: "test/tasks/slow.ts" }, WIDTH * HEIGHT);
      await worker("alone", { TASKS: "test/tasks/slow.ts" });
      const slow = Array.from({ length: 6 }, () => crypto.randomUUID());
      for (const id of slow) expect((await put(origin, id, "task=slow&ms=300")).status).toBe(202);
      const quick = crypto.randomUUID();
      expect((await put(origin, quick)).status).toBe(202);
      await done(origin, quick);
      expect((await state(origin, slow.at(-1)!)).state).toBe("running");
      await done(origin, slow.at(-1)!);
    },
    LONG,
  );

  test(
    "a band that is not a PNG, PGM or PPM makes its job lossy; data do not",
    async () => {
      const origin = await coordinator({}, WIDTH * HEIGHT);
      const made = sharp(grey, { raw: { width: WIDTH, height: HEIGHT, channels: 1 } });
      const pnm = (head: string, samples: Uint8Array) => Buffer.concat([Buffer.from(head), samples]);
      const haloed = Buffer.concat([Buffer.alloc(WIDTH), grey, Buffer.alloc(WIDTH)]);
      const rgb = Uint8Array.from({ length: 3 * grey.length }, (_, i) => grey[Math.floor(i / 3)]);
      for (const [value, lossy, task] of [
        [await made.clone().png().toBuffer(), false, "sobel"],
        [pnm(`P5\n${WIDTH} ${HEIGHT}\n255\n`, grey), false, "sobel"],
        [pnm(`P5 ${WIDTH} ${HEIGHT + 2} 255\n`, haloed), false, "sobel"],
        [pnm(`P5\n# by GIMP version 2.10.34 PNM plug-in\r\n${WIDTH}  ${HEIGHT}\n255\n`, grey), false, "sobel"],
        [pnm(`P6\n${WIDTH} ${HEIGHT}\n255\n`, rgb), false, "sobel"],
        [await made.clone().jpeg().toBuffer(), true, "sobel"],
        [await made.clone().webp().toBuffer(), true, "sobel"],
        [await made.clone().avif().toBuffer(), true, "sobel"],
        [Buffer.from(JSON.stringify(Array(256).fill(0))), false, "histogram"],
      ] as const) {
        const id = crypto.randomUUID();
        await put(origin, id, `task=${task}`);
        await store.set(`resultado:{${id}}:0`, value.toString("base64"));
        await done(origin, id);
        expect(await state(origin, id)).toMatchObject({ lossy, byWorker: { foreign: { bands: 1 } } });
        const result = await resultOf(origin, id);
        if (task === "sobel" && !lossy) expectSame(await pixelsOf(result), grey);
        expect(result.length).toBeGreaterThan(0);
      }
    },
    LONG,
  );

  test(
    "a worker in another language offers a task that no coordinator has",
    async () => {
      const origin = await coordinator();
      const unknown = await ask(`${origin}/tasks/thin`, { method: "POST", body: photo });
      expect([unknown.status, (await unknown.json()).detail]).toEqual([
        422,
        'unknown task "thin": expected blur, crack, equalize, half, histogram, invert, median, pi, primes, scharr, sepia, sobel, stretch, threshold, thumbnail, words',
      ]);
      // As in docs/wire.md.
      const by = { type: "integer", minimum: 1, maximum: 9, default: 1 };
      const offers = JSON.stringify([{ name: "thin", halo: 2, params: { by } }, { name: "Nonsense" }, 5]);
      await beat("snake", { tasks: '["thin"]', busy: "", offers });
      await store.pexpire("worker:snake", 12_000);
      expect(await listed(origin)).toEqual([...tasks.names(), "thin"].toSorted());

      const answer = ask(`${origin}/tasks/thin?by=3`, { method: "POST", body: photo });
      await until(() => store.keys("job:*:sent").then((keys) => keys.length === 1));
      const { consumerTag } = await channel.consume(`${QUEUE}.thin`, async (message) => {
        const { chunkId, pixels, width, height, halo, params } = await decodeMessage(message!.content);
        expect([halo, params]).toEqual([[2, 2], { by: 3 }]);
        const made = pixels.subarray(2 * width, -2 * width).map((value) => value + 3);
        await store.set(`resultado:${chunkId}`, Buffer.from(greyPng(made, height - 4)).toString("base64"), "EX", 60);
        channel.ack(message!);
      });
      expectSame(
        await pixelsOf(await bytesOf(await answer)),
        grey.map((value) => value + 3),
      );
      await channel.cancel(consumerTag);
    },
    LONG,
  );

  test(
    "a worker in another language offers a task in colour that shrinks, and may leave the halo on",
    async () => {
      const origin = await coordinator();
      await beat("snake", {
        tasks: '["tiny"]',
        busy: "",
        offers: '[{"name":"tiny","halo":2,"channels":3,"shrink":2}]',
      });
      await store.pexpire("worker:snake", 12_000);
      const id = crypto.randomUUID();
      const sent = put(origin, id, "task=tiny", colourPhoto);
      await until(() => store.exists(`job:{${id}}:sent`));
      const half = tasks.get("half")!;
      const { consumerTag } = await channel.consume(`${QUEUE}.tiny`, async (message) => {
        const { chunkId, pixels, width, height, channels, halo } = await decodeMessage(message!.content);
        expect([channels, halo]).toEqual([3, [2, 2]]);
        // Every other one with its halo.
        const [from, rows] = chunkId.endsWith("1") ? [0, height] : [2, height - 4];
        const own = pixels.subarray(from * width * 3, (from + rows) * width * 3);
        const made = (await runTask(half, { pixels: own, width, height: rows, channels, halo: [0, 0] })) as Uint8Array;
        const size = { width: width / 2, height: Math.ceil(rows / 2) };
        const png = encode({ ...size, channels: 3, data: made });
        await store.set(`resultado:${chunkId}`, Buffer.from(png).toString("base64"), "EX", 60);
        channel.ack(message!);
      });
      expect((await sent).status).toBe(202);
      await done(origin, id);
      const preview = await ask(`${origin}/jobs/${id}/bands/1?width=20`);
      expect([preview.status, decode(await bytesOf(preview)).channels]).toEqual([200, 3]);
      const { width, height, channels, data } = decode(await resultOf(origin, id));
      expect([width, height, channels]).toEqual([WIDTH / 2, Math.ceil(HEIGHT / 2), 3]);
      expectSame(data as Uint8Array, decode(await alone("half", "", SOME, colourPhoto)).data as Uint8Array);
      await channel.cancel(consumerTag);
      await channel.deleteQueue(`${QUEUE}.tiny`);
    },
    LONG,
  );

  test(
    "a garbled heartbeat is shown as far as it can be read, and does not hide other workers",
    async () => {
      const origin = await coordinator();
      await beat("valid", { tasks: '["thin"]', offers: '[{"name":"thin","halo":2}]', bands: "7" });
      const garbled = ["", "null", "5", '"sobel"', "{}", "[", "[null, 5, {}, []]", '[{"name":"thick","halo":"2"}]'];
      for (const [i, text] of garbled.entries()) await beat(`garbled-${i}`, { tasks: text, offers: text, bands: text });
      const offer = { name: "thick", halo: 2, params: { by: { type: "string", enum: 5 } } };
      await beat("half", { tasks: '[5,"sobel"]', offers: JSON.stringify([offer]), bands: "-1", ms: "Infinity" });
      const id = crypto.randomUUID();
      expect((await put(origin, id)).status).toBe(202);
      for (const path of ["/workers", "/tasks", `/jobs/${id}`]) {
        const answer = await ask(`${origin}${path}`);
        expect([path, answer.status]).toEqual([path, 200]);
      }
      const workers = await workersOf(origin);
      const shown = new Map(workers.map((worker: { name: string }) => [worker.name, worker]));
      expect(shown.size).toBe(garbled.length + 2);
      expect(shown.get("valid")).toMatchObject({ tasks: ["thin"], bands: 7 });
      expect(shown.get("garbled-0")).toMatchObject({ tasks: [], bands: 0 });
      expect(shown.get("half")).toMatchObject({ tasks: ["sobel"], bands: 0, ms: 0 });
      expect(await listed(origin)).toEqual([...tasks.names(), "thin"].toSorted());
    },
    LONG,
  );

  test(
    "a heartbeat that is no hash is not shown, and does not hide other workers",
    async () => {
      const origin = await coordinator({}, WIDTH * HEIGHT);
      await beat("valid", { tasks: '["sobel"]' });
      await store.zadd("workers", (await store.zscore("workers", "valid"))!, "odd");
      await store.set("worker:odd", "x");
      const answer = await ask(`${origin}/workers`);
      expect(answer.status).toBe(200);
      const { workers } = await answer.json();
      expect(workers.map(({ name }: { name: string }) => name)).toEqual(["valid"]);
      const id = crypto.randomUUID();
      expect((await put(origin, id)).status).toBe(202);
      for (const path of ["/tasks", `/jobs/${id}`]) {
        const { status } = await ask(`${origin}${path}`);
        expect([path, status]).toEqual([path, 200]);
      }
    },
    LONG,
  );

  test(
    "a band is missed later if a worker may have it without reporting so",
    async () => {
      const origin = await coordinator({}, WIDTH * HEIGHT);
      const snake = (fields: Record<string, string>) => beat("snake", { tasks: '["sobel"]', busy: "", ...fields });
      for (const [fields, limit] of [
        [{}, 90_000], // as in docs/wire.md
        [{ runtime: "python" }, 15_000],
      ] as const) {
        const id = crypto.randomUUID();
        expect((await put(origin, id)).status).toBe(202);
        await snake(fields);
        let taken = 0;
        const { consumerTag } = await channel.consume(QUEUE, (message) => {
          channel.ack(message!); // the band is lost
          taken++;
        });
        await until(() => taken === 1);
        const since = async (ms: number) => {
          await snake(fields);
          await until(async () => {
            await state(origin, id); // makes the coordinator look for the band
            return (await store.hexists(`job:{${id}}`, "suspect")) === 1;
          });
          await store.hset(`job:{${id}}`, "suspect", ms);
          return state(origin, id);
        };
        expect(await since(limit - 5_000)).toMatchObject({ state: "running", error: null });
        expect(await since(limit + 1_000)).toMatchObject({
          state: "failed",
          error: "band 0 has vanished: the queue is empty, and no worker has it; a rejected band is in tareas.muertas",
        });
        await channel.cancel(consumerTag);
      }
    },
    LONG,
  );
});

describe("the golden messages of docs/wire.md", () => {
  interface Golden {
    queue: string;
    message_id: string;
    message: { chunk_id: string; task: string };
    result: { key: string; value: string };
  }

  test.each(["sobel", "blur", "half", "histogram"])(
    "%s: our own message and result are the same bytes",
    async (name) => {
      const { queue, message_id, message, result }: Golden = JSON.parse(readFileSync(`docs/wire/${name}.json`, "utf8"));
      const body = Buffer.from(JSON.stringify(message));
      const chunk = await decodeMessage(body);
      expect(encodeMessage(chunk).toString()).toBe(body.toString());
      expect(queueOf(message.task)).toBe(queue);
      expect([message_id, result.key]).toEqual([message.chunk_id, `resultado:${message.chunk_id}`]);
      const made = await runTask(tasks.newest(name)!, chunk);
      const value = Buffer.from(fromBase64(result.value, "value"));
      if (typeof made === "string") expect(value.toString()).toBe(made);
      else expectSame(decode(value, { checkCrc: true }).data as Uint8Array, made);
      const stored = await encodedResult(tasks.newest(name)!, await decodeMessage(body));
      expect(Buffer.from(stored).toString("base64")).toBe(result.value);
    },
  );
});

test("a first step reads the picture once, and enqueues no more bands than any other job", async () => {
  const queue = new LocalQueue();
  const app = createApp({ queue, results: new LocalResults(60), tasks, bandPixels: SOME });
  const id = crypto.randomUUID();
  const body = new ReadableStream({
    start(controller) {
      controller.enqueue(photo);
      controller.close();
    },
  });
  const request = new Request(`http://test/jobs/${id}?task=threshold`, { method: "PUT", body });
  const answer = app.fetch(request);
  await until(async () => (await queue.depth("histogram")).waiting === 4);
  expect((await queue.depth("threshold")).waiting).toBe(0);
  await app.fetch(new Request(`http://test/jobs/${id}`, { method: "DELETE" }));
  expect((await answer).status).toBe(410);
});

type Bytes = Buffer<ArrayBuffer>;

/** The bytes that the one-machine program writes. */
async function alone(name: string, query: string, bandPixels: number, picture = photo): Promise<Bytes> {
  const task = tasks.newest(name)!;
  const values = queryValues(task, new URLSearchParams(query));
  const image = await readImage(onePiece(picture), undefined, undefined, task.channels);
  return Buffer.concat(await Array.fromAsync(transform(image, task, bandPixels, values)));
}

function greyPng(data: Uint8Array, height: number): Bytes {
  return Buffer.from(encode({ width: WIDTH, height, channels: 1, data }));
}

async function pixelsOf(png: Uint8Array): Promise<Uint8Array> {
  return collectPixels(await readImage(onePiece(png)));
}

function tinted(by: number): Uint8Array {
  return grey.map((value) => value ^ by);
}

function ask(url: string, init: RequestInit = {}): Promise<Response> {
  return fetch(url, { signal: AbortSignal.timeout(DEADLINE), ...init });
}

async function json(url: string) {
  return (await ask(url)).json();
}

async function bytesOf(answer: Response): Promise<Bytes> {
  const bytes = Buffer.from(await answer.arrayBuffer());
  if (!answer.ok) throw new Error(`expected success, got ${answer.status}: ${bytes}`);
  return bytes;
}

function put(origin: string, id: string, query = "", body = photo, signal?: AbortSignal): Promise<Response> {
  return ask(`${origin}/jobs/${id}?${query}`, { method: "PUT", body, ...(signal && { signal }) });
}

function state(origin: string, id: string) {
  return json(`${origin}/jobs/${id}`);
}

async function resultOf(origin: string, id: string): Promise<Bytes> {
  return bytesOf(await ask(`${origin}/jobs/${id}/result`));
}

async function done(origin: string, id: string): Promise<void> {
  await until(async () => {
    const job = await state(origin, id);
    if (job.state === "failed") throw new Error(job.error);
    return job.state === "done";
  });
}

async function endAll(): Promise<void> {
  for (const program of programs) program.kill("SIGTERM");
  for (const program of programs.splice(0)) expect(await program.exited, program.out).toBe(0);
}

function until<T>(probe: () => T | Promise<T>): Promise<NonNullable<T>> {
  return waitUntil(probe, DEADLINE);
}
