// Coordinators and workers as processes of their own, on a real RabbitMQ and a real Redis, on both runtimes. The tests read
// the queue and the store with plain clients, as another program would.
//
// The expected bytes are those of the one-machine program.
import { afterAll, afterEach, beforeAll, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { connect as tcp } from "node:net";
import { connect as amqp, type Channel, type ChannelModel, type ConsumeMessage, type GetMessage } from "amqplib";
import { decode, encode } from "fast-png";
import { Redis } from "ioredis";
import sharp from "sharp";
import type { Job } from "../backends.ts";
import type { Chunk } from "../chunk.ts";
import { transform } from "../cli/local.ts";
import { createApp } from "../coordinator.ts";
import { openLog } from "../ops/log.ts";
import { readImage } from "../picture/read.ts";
import { DEAD_LETTERS, QUEUE, RabbitQueue } from "../queue.ts";
import { RedisResults } from "../results.ts";
import { task as sobel } from "../sobel.ts";
import { loadTasks } from "../tasks/index.ts";
import { expectSame, greyOf, inPieces, RGB, sobelOf } from "./pictures.ts";
import { describeWith, type Program, type RabbitMQ, type RedisServer, sharedServers, spawnProgram } from "./servers.ts";
import { until, within } from "./wait.ts";

const tasks = await loadTasks();

setDefaultTimeout(60_000);

type Bytes = Buffer<ArrayBuffer>;

/** No wait in this file is longer, ms. */
const DEADLINE = 20_000;
/** 100 × 194 and the band sizes that cut it into 1, 2, 7 and 97. */
const photo = noise(100, 194);
const CUTS = [
  { bands: 1, bandPixels: 19_400 },
  { bands: 2, bandPixels: 9_700 },
  { bands: 7, bandPixels: 2_800 },
  { bands: 97, bandPixels: 200 },
];
const [whole, , seven, hundred] = CUTS;
/** 720 kB: half of it is more than a coordinator reads before the first rows are inflated. 100 bands of 4 rows. */
const large = noise(600, 400);
const LARGE_BAND_PIXELS = 2_400;

const png9x9 = Buffer.from(greyPng(new Uint8Array(81), 9, 9)).toString("base64");
const cutPng = png9x9.slice(0, 60);

let rabbitmq: RabbitMQ;
let redis: RedisServer;
let store: Redis;
let connection: ChannelModel;
let channel: Channel;
/** How often each result was written. */
const stores = new Map<string, number>();
const programs: Program[] = [];
const foreigners: (() => Promise<void>)[] = [];

describeWith(["rabbitmq", "redis"], "a cluster", () => {
  beforeAll(async () => {
    ({ rabbitmq, redis } = await sharedServers());
    store = new Redis(redis.url);
    await store.flushall(); // other files have been here
    connection = await amqp(rabbitmq.url);
    const monitor = await store.duplicate().monitor();
    monitor.on("monitor", (_time: string, [command, key]: string[]) => {
      if (command.toLowerCase() === "set" && key.startsWith("resultado:")) stores.set(key, (stores.get(key) ?? 0) + 1);
    });
    closers.push(
      () => monitor.disconnect(),
      () => store.disconnect(),
      () => connection.close(),
    );
  }, 90_000);
  afterAll(async () => {
    for (const close of closers.reverse()) await close();
  });
  beforeEach(async () => {
    stores.clear();
    channel = await connection.createChannel();
    channel.on("error", () => {}); // its user gets the error
  });
  /** Leaves nothing for the next test. Every program that was started must exit with 0. */
  afterEach(async () => {
    for (const stop of foreigners.splice(0)) await stop();
    for (const program of programs) program.kill("SIGTERM");
    for (const program of programs.splice(0)) expect(await within(program.exited), program.out).toBe(0);
    await Promise.all(apps.splice(0).map((close) => close()));
    await channel.close().catch(() => {}); // a test may have lost it; what was taken and not settled goes back
    const broom = await connection.createChannel();
    for (const queue of [QUEUE, DEAD_LETTERS]) await broom.deleteQueue(queue);
    await broom.close();
    await store.flushall();
  });

  const closers: (() => unknown)[] = [];

  test("gives the bytes of the one-machine program, for any bands and workers, on both runtimes", async () => {
    const pixels = await raw(await edgesOf(photo, whole.bandPixels));
    const alone = await startWorker("deno-1", "deno");
    for (const { bands, bandPixels } of [seven, hundred])
      await expectEdges(await startApp({ bandPixels }), bands, pixels);
    expect(alone.out).toMatch(/^deno-1: at work\n$/);
    for (const name of ["bun-1", "bun-2", "bun-3"]) await startWorker(name);
    for (const { bands, bandPixels } of CUTS) await expectEdges(await startApp({ bandPixels }), bands, pixels);

    const origins = [await startCoordinator(hundred.bandPixels), await startCoordinator(hundred.bandPixels, "deno")];
    const expected = await edgesOf(photo, hundred.bandPixels);
    for (const origin of origins) {
      for (const query of ["", "?workers=1", "?workers=3"]) {
        expectSame(
          await bytesOf(await ask(`${origin}/tasks/sobel${query}`, { method: "POST", body: photo })),
          expected,
        );
      }
      const form = new FormData();
      form.append("image", new File([photo], "photo.png"));
      expectSame(await bytesOf(await ask(`${origin}/tasks/sobel`, { method: "POST", body: form })), expected);
      const bad = await ask(`${origin}/tasks/sobel`, { method: "POST", body: photo.subarray(0, 999) });
      expect([bad.status, bad.headers.get("content-type")]).toEqual([422, "application/problem+json"]);
      const { workers } = await (await ask(`${origin}/workers`)).json();
      expect(workers.map(({ name, runtime }: Worker) => `${name} ${runtime}`).toSorted()).toEqual([
        "bun-1 bun",
        "bun-2 bun",
        "bun-3 bun",
        "deno-1 deno",
      ]);
      expect(await (await ask(`${origin}/readyz`)).json()).toEqual({ status: "ready" });
    }
    await expectNothingLeft();
  });

  /** Each of the four ways to run a job, on the app in this process. */
  async function expectEdges(app: App, bands: number, pixels: Bytes): Promise<void> {
    const expected = await edgesOf(photo, app.bandPixels);
    const id = crypto.randomUUID();
    for (const [method, path] of [
      ["POST", "/tasks/sobel"],
      ["PUT", `/jobs/${id}`],
    ]) {
      const answer = await app.ask(path, { method, body: photo });
      if (method === "POST") expectSame(await bytesOf(answer), expected);
      else expect([answer.status, (await answer.json()).bands]).toEqual([202, bands]);
    }
    const events = await (await app.ask(`/jobs/${id}/events`)).text();
    expect(events.match(/^event: band$/gm)).toHaveLength(bands);
    expect(events.match(/^event: done$/gm)).toHaveLength(1);
    const result = await bytesOf(await app.ask(`/jobs/${id}/result`));
    expectSame(result, expected);
    expectSame(await raw(result), pixels);
    expect((await app.ask(`/jobs/${id}`, { method: "DELETE" })).status).toBe(204);
  }

  test("workers=N: at most N bands are in the queue, and the job ends", async () => {
    const app = await startApp(seven);
    for (const workers of [1, 2, 3]) {
      const id = crypto.randomUUID();
      const put = app.ask(`/jobs/${id}?workers=${workers}`, { method: "PUT", body: photo });
      await until(async () => (await count(id, "sent")) === workers);
      await new Promise((wake) => setTimeout(wake, 100)); // time for one too many
      expect((await channel.checkQueue(QUEUE)).messageCount).toBe(workers);
      const crew = [await startWorker("one"), await startWorker("two"), await startWorker("three")];
      expect((await put).status).toBe(202);
      await finished(app, id);
      expect(app.mostInFlight).toBe(workers);
      expectSame(await bytesOf(await app.ask(`/jobs/${id}/result`)), await edgesOf(photo, seven.bandPixels));
      for (const worker of crew) worker.kill();
      await Promise.all(crew.map((worker) => within(worker.exited)));
      app.reset();
    }
  });

  test("a job sent to two coordinators at once is one job", async () => {
    const origins = [await startCoordinator(hundred.bandPixels), await startCoordinator(hundred.bandPixels, "deno")];
    for (const name of ["one", "two"]) await startWorker(name);
    const id = crypto.randomUUID();
    const answers = await Promise.all(origins.map((at) => ask(`${at}/jobs/${id}`, { method: "PUT", body: photo })));
    expect(answers.map(({ status }) => status)).toEqual([202, 202]);
    for (const origin of origins) {
      await until(async () => (await (await ask(`${origin}/jobs/${id}`)).json()).state === "done");
      expectSame(await bytesOf(await ask(`${origin}/jobs/${id}/result`)), await edgesOf(photo, hundred.bandPixels));
    }
    expectStoredOnce(id, 97);
  });

  test("another coordinator resumes an upload that was cut off: done bands are not done again", async () => {
    const [first, second] = [await startCoordinator(LARGE_BAND_PIXELS), await startCoordinator(LARGE_BAND_PIXELS)];
    for (const name of ["one", "two"]) await startWorker(name);
    const id = crypto.randomUUID();
    const { hostname, port } = new URL(first);
    const client = tcp(Number(port), hostname);
    client.write(`PUT /jobs/${id} HTTP/1.1\r\nhost: test\r\ncontent-length: ${large.length}\r\n\r\n`);
    client.write(large.subarray(0, large.length / 2));
    await until(async () => (await count(id, "done")) > 3);
    client.destroy();
    await until(async () => (await store.exists(`job:{${id}}:feeder`)) === 0);
    const asked = await (await ask(`${second}/jobs/${id}`)).json();
    expect(asked).toMatchObject({ state: "uploading", error: null, bands: 100 });
    await until(async () => (await count(id, "sent")) === (await count(id, "done")));
    const before = await store.hgetall(`job:{${id}}:done`);

    expect((await ask(`${second}/jobs/${id}`, { method: "PUT", body: large })).status).toBe(202);
    await until(async () => (await (await ask(`${second}/jobs/${id}`)).json()).state === "done");
    expectSame(await bytesOf(await ask(`${second}/jobs/${id}/result`)), await edgesOf(large, LARGE_BAND_PIXELS));
    expect(await store.hgetall(`job:{${id}}:done`)).toMatchObject(before);
    expectStoredOnce(id, 100);
  });

  test("another picture under the same id is a conflict, on every coordinator", async () => {
    const [first, second] = [await startApp(seven), await startApp(hundred)];
    await startWorker("one");
    const id = crypto.randomUUID();
    expect((await first.ask(`/jobs/${id}`, { method: "PUT", body: photo })).status).toBe(202);
    const answer = await second.ask(`/jobs/${id}`, { method: "PUT", body: noise(100, 194, 9) });
    expect([answer.status, (await answer.json()).detail]).toEqual([
      409,
      "this job was started with another picture: band 0 differs",
    ]);
    // The same picture keeps its plan, whatever the second coordinator's own band size is.
    const again = await second.ask(`/jobs/${id}`, { method: "PUT", body: photo });
    expect([again.status, (await again.json()).bands]).toEqual([202, 7]);
    await finished(first, id);
    expectSame(await bytesOf(await second.ask(`/jobs/${id}/result`)), await edgesOf(photo, seven.bandPixels));
    expectStoredOnce(id, 7);
  });

  test("the message on the wire, and the queues, which exist before the first message", async () => {
    const app = await startApp(seven);
    expect((await channel.checkQueue(QUEUE)).messageCount).toBe(0);
    const id = crypto.randomUUID();
    expect((await app.ask(`/jobs/${id}?workers=9&bandRows=28`, { method: "PUT", body: photo })).status).toBe(202);
    const message = await taken(QUEUE);
    expect(message.properties).toMatchObject({
      contentType: "application/json",
      deliveryMode: 2,
      messageId: `{${id}}:0`,
    });
    const text = message.content.toString();
    const head = `{"chunk_id":"{${id}}:0","task":"sobel","halo":[1,1],"position":[0,194],"imagen":"`;
    expect(text.slice(0, head.length)).toBe(head);
    const { imagen, ...rest } = JSON.parse(text);
    expect(rest).toEqual({ chunk_id: `{${id}}:0`, task: "sobel", halo: [1, 1], position: [0, 194] });
    const { width, height, depth, channels, data } = decode(Buffer.from(imagen, "base64"), { checkCrc: true });
    expect({ width, height, depth, channels }).toEqual({ width: 100, height: 30, depth: 8, channels: 1 });
    const grey = greyOfPhoto();
    const mirrored = Buffer.concat([grey.subarray(100, 200), grey.subarray(0, 29 * 100)]);
    expectSame(data as Uint8Array, mirrored);

    await expectDeclared(QUEUE, {
      "x-queue-type": "quorum",
      "x-delivery-limit": 20,
      "x-dead-letter-exchange": "",
      "x-dead-letter-routing-key": "tareas.muertas",
      "x-dead-letter-strategy": "at-least-once",
      "x-overflow": "reject-publish",
    });
    await expectDeclared(DEAD_LETTERS, { "x-queue-type": "quorum" });
  });

  /** The broker compares: it accepts a declaration with exactly these arguments, and none that lacks one. */
  async function expectDeclared(queue: string, args: Record<string, string | number>): Promise<void> {
    const declared = async (without?: string) => {
      const own = await connection.createChannel();
      own.on("error", () => {});
      const kept = Object.fromEntries(Object.entries(args).filter(([name]) => name !== without));
      await own.assertQueue(queue, { durable: true, arguments: kept });
      await own.close();
    };
    await declared();
    for (const name of Object.keys(args)) await expect(declared(name)).rejects.toThrow(/inequivalent arg/);
  }

  const broken: { what: string; body: string | object; reason: RegExp; nameless?: boolean }[] = [
    { what: "no JSON", body: "not JSON", reason: /^message cannot be read: message: expected JSON, got 8 bytes/ },
    { what: "no picture", body: { imagen: "AAAA" }, reason: /^message cannot be read: imagen: .*PNG/ },
    { what: "no base64", body: { imagen: "!!!!" }, reason: /^message cannot be read: imagen: expected base64/ },
    { what: "a cut picture", body: { imagen: cutPng }, reason: /^message cannot be read: imagen: corrupt PNG/ },
    { what: "no halo", body: { halo: "1,1" }, reason: /^message cannot be read: halo: expected \[rows above/ },
    {
      what: "a halo of all rows",
      body: { halo: [5, 5] },
      reason: /^message cannot be read: halo: expected fewer than 9/,
    },
    { what: "an unknown task", body: { task: "canny" }, reason: /^unknown task canny: this worker has blur,/ },
    // Sobel needs a row above and below.
    {
      what: "a task that throws",
      body: { halo: [0, 0] },
      reason: /^failed 3 times: halo: expected at least 1 rows above and below, got 0 and 0$/,
    },
    {
      what: "the same, nameless",
      body: { halo: [0, 0] },
      reason: /^failed 3 times: halo: expected at least 1 rows above and below, got 0 and 0$/,
      nameless: true,
    },
    { what: "no JSON, nameless", body: "not JSON", reason: /^message cannot be read/, nameless: true },
  ];

  test.each(broken)(
    "$what in a message: it is dead-lettered with the reason, and its job fails with the same",
    async ({ body, reason, nameless }) => {
      const app = await startApp(seven);
      await startWorker("one");
      const job = await aJob();
      const chunkId = `{${job.id}}:3`;
      const good = { chunk_id: chunkId, task: "sobel", halo: [1, 1], imagen: png9x9 };
      const content = typeof body === "string" ? body : JSON.stringify({ ...good, ...body });
      const events = await app.ask(`/jobs/${job.id}/events`);
      channel.sendToQueue(QUEUE, Buffer.from(content), nameless ? {} : { messageId: chunkId });
      const deadLettered = await taken(DEAD_LETTERS);
      channel.ack(deadLettered);
      expect(deadLettered.content.toString()).toBe(content);
      const { "x-reason": why, "x-queue": queue } = deadLettered.properties.headers ?? {};
      expect(why).toMatch(reason);
      expect(queue).toBe(QUEUE);
      if (nameless && typeof body === "string") {
        expect((await (await app.ask(`/jobs/${job.id}`)).json()).state).toBe("uploading"); // whose band was it?
      } else {
        expect(await (await app.ask(`/jobs/${job.id}`)).json()).toMatchObject({
          state: "failed",
          error: `band 3: ${why}`,
        });
        const failure = String(why).startsWith("failed 3 times") ? "task_failed" : "bad_message";
        expect(await store.hget(`job:{${job.id}}`, "failure")).toBe(failure);
        expect(await events.text()).toMatch(/event: failed\ndata: .*\n\n$/);
      }
      // The worker goes on.
      expectSame(
        await bytesOf(await app.ask("/tasks/sobel", { method: "POST", body: photo })),
        await edgesOf(photo, seven.bandPixels),
      );
    },
  );

  test("a cancelled job: its messages are dropped, no key is left", async () => {
    const app = await startApp({ bandPixels: LARGE_BAND_PIXELS });
    const worker = await startWorker("one");
    const id = crypto.randomUUID();
    const put = app.ask(`/jobs/${id}?workers=8`, { method: "PUT", body: large });
    await until(async () => (await count(id, "done")) > 3);
    const events = await app.ask(`/jobs/${id}/events`);
    expect((await app.ask(`/jobs/${id}`, { method: "DELETE" })).status).toBe(204);
    const answer = await put;
    expect([answer.status, (await answer.json()).detail]).toEqual([410, "the job was cancelled or has expired"]);
    expect(await events.text()).toMatch(/event: failed\ndata: .*cancelled.*\n\n$/);
    await until(async () => (await channel.checkQueue(QUEUE)).messageCount === 0);
    worker.kill();
    await within(worker.exited); // its band is settled
    await expectNothingLeft();
    // A late worker or coordinator brings nothing back.
    const results = new RedisResults(redis.url, 60, false);
    expect(
      await results.store(
        `{${id}}:0`,
        new Uint8Array(9),
        { worker: "late", ms: 1, crc: 1, bytes: 9, deliveries: 0 },
        1,
      ),
    ).toBe(false);
    await results.markSent(id, 0, 1, 1);
    expect(await results.updateJob(id, { enqueued: true, cutMs: 1 })).toBe(false);
    expect(await results.failJob(id, "late", "other")).toBe(false);
    const late = { name: "late", since: 1, attempt: 1, deliveries: 0, heldMs: 0 };
    expect(await results.begin(`{${id}}:0`, late)).toBe(null);
    await results.countFailure(`{${id}}:0`, 1, "late", "no");
    await results.recordForeign(id, [{ band: 0, worker: "late" }]);
    await results.close();
    await expectNothingLeft();
  });

  test("the user's own tasks: one works; one that throws and one that does not end fail their jobs, not the worker", async () => {
    const TASKS = ["negative", "throws", "endless"].map((name) => `test/tasks/${name}.ts`).join(",");
    const settings = { ...servers(), TASKS, BAND_TIMEOUT_SECONDS: "1" };
    const worker = spawnProgram("worker.ts", { ...settings, WORKER_NAME: "many-sided" });
    const coordinator = spawnProgram("coordinator.ts", { ...settings, PORT: "0", BAND_PIXELS: "2800" });
    programs.push(worker, coordinator);
    const [, origin] = await coordinator.waitFor(/(http:\S+)/);
    await worker.waitFor(/at work/);
    const send = (task: string) => ask(`${origin}/tasks/${task}`, { method: "POST", body: photo });

    const negative = await raw(await bytesOf(await send("negative")));
    expectSame(
      negative,
      greyOfPhoto().map((grey) => 255 - grey),
    );
    for (const [task, reason] of [
      ["throws", "failed 3 times: this task is ill"],
      ["endless", "failed 3 times: the task took longer than 1000 ms"],
    ]) {
      const answer = await send(task);
      const { detail } = await answer.json();
      expect([answer.status, detail]).toEqual([500, expect.stringContaining(reason)]);
      const deadLettered = await taken(DEAD_LETTERS);
      expect(deadLettered.properties.headers).toMatchObject({ "x-queue": `${QUEUE}.${task}` });
      expect(String(deadLettered.properties.headers?.["x-reason"])).toContain(reason);
    }
    expectSame(await bytesOf(await send("sobel")), await edgesOf(photo, 2800));
    for (const task of ["negative", "throws", "endless"]) await channel.deleteQueue(`${QUEUE}.${task}`);
  });

  test("a dead letter is listed and put back, and its job is completed", async () => {
    const id = crypto.randomUUID();
    const app = await startApp({ bandPixels: seven.bandPixels });
    const put = () => app.ask(`/jobs/${id}?workers=${seven.bands}`, { method: "PUT", body: photo });
    expect((await put()).status).toBe(202);
    // As a worker does that dead-letters the first band.
    const message = (await channel.get(QUEUE)) as GetMessage;
    const chunkId = message.properties.messageId;
    const headers = { "x-reason": "the task was ill", "x-queue": QUEUE };
    channel.sendToQueue(DEAD_LETTERS, message.content, { ...message.properties, headers, persistent: true });
    channel.ack(message);
    const results = new RedisResults(redis.url, 60, false);
    await results.failJob(id, "band 0: the task was ill", "task_failed");
    await results.close();
    await until(async () => (await channel.checkQueue(DEAD_LETTERS)).messageCount === 1);

    const command = async (...args: string[]) => {
      const env = { ...process.env, RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url };
      const program = Bun.spawn(["bun", "run", "pipelines/dead-letters.ts", ...args], { env, stdout: "pipe" });
      expect(await within(program.exited)).toBe(0);
      return new Response(program.stdout).text();
    };
    const line = `${chunkId}  tareas  the task was ill\n`;
    expect(await command()).toBe(line);
    // Looks take nothing away, and are no deliveries: after 20 of those RabbitMQ would drop the message.
    const inside = async (path: string, method = "GET") => (await app.ask(`/inside${path}`, { method })).json();
    const letters = [{ id: chunkId, queue: QUEUE, reason: "the task was ill" }];
    for (let i = 0; i < 3; i++) expect(await inside("/dead-letters")).toEqual({ letters });
    expect(await command()).toBe(line);
    const looked = (await channel.get(DEAD_LETTERS)) as GetMessage;
    expect(looked.properties.headers?.["x-delivery-count"] ?? 0).toBe(0);
    channel.nack(looked);
    await until(async () => (await channel.checkQueue(DEAD_LETTERS)).messageCount === 1);
    const { queues, dead } = await inside("");
    expect([dead, queues.find(({ task }: { task: string }) => task === "sobel")]).toEqual([
      1,
      { task: "sobel", waiting: 6, consumers: 0 },
    ]);
    const { waiting } = await inside("/queues/sobel");
    expect(waiting).toMatchObject({ id: `{${id}}:1`, message: { chunk_id: `{${id}}:1`, imagen: expect.any(String) } });
    expect(waiting.headers["x-attempt"]).toBeGreaterThan(0);
    expect((await inside("")).queues.find(({ task }: { task: string }) => task === "sobel").waiting).toBe(6);
    const { keys: stored } = await inside(`/jobs/${id}`);
    expect(stored).toContainEqual({ key: `job:{${id}}:sent`, type: "hash", size: 7, ttl: expect.any(Number) });
    expect(await inside("/dead-letters/back?id=other", "POST")).toEqual({ letters: [] });
    expect(await inside("/dead-letters/back", "POST")).toEqual({ letters: [{ ...letters[0], outcome: "" }] });
    expect(await command("--back")).toBe("");
    expect(await (await app.ask(`/jobs/${id}`)).json()).toMatchObject({ state: "uploading", error: null });
    await startWorker("mended");
    expect((await put()).status).toBe(202);
    await until(async () => (await (await app.ask(`/jobs/${id}`)).json()).state === "done");
    expectSame(await bytesOf(await app.ask(`/jobs/${id}/result`)), await edgesOf(photo, seven.bandPixels));
  });

  test("a third-party result whose job is gone gets a TTL", async () => {
    const results = new RedisResults(redis.url, 60, false);
    await store.set("resultado:{gone}:0", "left behind");
    await results.sweep();
    expect(await store.ttl("resultado:{gone}:0")).toBeGreaterThan(0);
    await store.del("resultado:{gone}:0");
    await results.close();
  });

  test("every key of a job expires", async () => {
    const app = await startApp({ ...seven, ttlSeconds: 3 });
    const waiting = crypto.randomUUID();
    const answer = await app.ask(`/jobs/${waiting}?workers=7`, { method: "PUT", body: photo });
    expect([answer.status, (await answer.json()).waiting]).toEqual([202, true]);
    await until(async () => (await keys()).length === 0);

    await startWorker("one");
    const id = crypto.randomUUID();
    expect((await app.ask(`/jobs/${id}`, { method: "PUT", body: photo })).status).toBe(202);
    await finished(app, id);
    expect((await keys()).length).toBeGreaterThan(7);
    await until(async () => (await keys()).length === 0);
    for (const path of ["", "/events", "/result"]) expect((await app.ask(`/jobs/${id}${path}`)).status).toBe(404);
    await expectNothingLeft();
  });

  test("a worker that gets SIGTERM finishes its band; the band of a killed worker goes to another", async () => {
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      const app = await startApp({ bandPixels: LARGE_BAND_PIXELS });
      const first = await startWorker("first");
      const id = crypto.randomUUID();
      const put = app.ask(`/jobs/${id}?workers=8`, { method: "PUT", body: large });
      await until(async () => (await count(id, "done")) > 3);
      // One of the eight in flight is in progress. If it was stopped between storing and acknowledging, go on.
      for (;;) {
        first.kill("SIGSTOP");
        await until(async () => (await count(id, "sent")) - (await count(id, "done")) === 8);
        const { messageCount } = await channel.checkQueue(QUEUE);
        if (messageCount === 7) break;
        first.kill("SIGCONT");
        await new Promise((wake) => setTimeout(wake, 5));
      }
      first.kill(signal);
      first.kill("SIGCONT");
      expect(await within(first.exited)).toBe(signal === "SIGTERM" ? 0 : 128 + 9);
      if (signal === "SIGKILL") programs.splice(programs.indexOf(first), 1);
      const done = await count(id, "done");
      if (signal === "SIGTERM") expect(await store.zscore("workers", "first")).toBeNull();
      expect(done).toBeLessThan(100);

      const second = await startWorker("second");
      expect((await put).status).toBe(202);
      await finished(app, id);
      expectSame(await bytesOf(await app.ask(`/jobs/${id}/result`)), await edgesOf(large, LARGE_BAND_PIXELS));
      const { byWorker } = await (await app.ask(`/jobs/${id}`)).json();
      expect([byWorker.first.bands, byWorker.second.bands]).toEqual([done, 100 - done]);
      if (signal === "SIGTERM") expectStoredOnce(id, 100);
      second.kill();
      await within(second.exited);
    }
  });

  const foreign: [string, (edges: Uint8Array, width: number, rows: number) => Promise<Uint8Array>, boolean][] = [
    ["another PNG", async (edges, width, rows) => greyPng(edges.subarray(width, -width), width, rows - 2), true],
    [
      "another PNG, in colour",
      async (edges, width, rows) => colourPng(edges.subarray(width, -width), width, rows - 2),
      true,
    ],
    ["a PNG with its halo still on", async (edges, width, rows) => greyPng(edges, width, rows), true],
    [
      "a JPEG",
      async (edges, width, rows) =>
        sharp(edges, { raw: { width, height: rows, channels: 1 } })
          .jpeg({ quality: 95 })
          .toBuffer(),
      false,
    ],
  ];

  test.each(foreign)("a third-party worker that stores %s and does nothing else", async (_, picture, exact) => {
    const app = await startApp(seven);
    await startForeignWorker(async ({ pixels, width, height }) => {
      return picture(sobelOf(pixels, width, height), width, height);
    });
    const expected = await edgesOf(photo, seven.bandPixels);
    const got = await bytesOf(await app.ask("/tasks/sobel", { method: "POST", body: photo }));
    if (exact) expectSame(got, expected);
    else expect(meanDifference(await raw(got), await raw(expected))).toBeLessThan(8);

    // A client that polls, and follows no events, sees the job end.
    const id = crypto.randomUUID();
    expect((await app.ask(`/jobs/${id}`, { method: "PUT", body: photo })).status).toBe(202);
    await finished(app, id);
    const { byWorker } = await (await app.ask(`/jobs/${id}`)).json();
    expect(byWorker).toEqual({ foreign: { bands: 7, ms: 0 } });
    expectSame(await bytesOf(await app.ask(`/jobs/${id}/result`)), got);
    // The worker sets no TTL, yet every key has one.
    const lives = await Promise.all((await keys()).map(async (key) => [key, await store.ttl(key)] as const));
    expect(lives.length).toBeGreaterThan(7);
    expect(lives.filter(([, seconds]) => seconds <= 0)).toEqual([]);
    expect((await app.ask(`/jobs/${id}`, { method: "DELETE" })).status).toBe(204);
    await expectNothingLeft();
  });

  test.each([
    ["text", async () => Buffer.from("done!"), /^band 0: its result cannot be used: not an image/],
    ["nothing", async () => Buffer.alloc(0), /^band 0: its result cannot be used: not an image: .*no bytes$/],
    [
      "a narrower picture",
      async () => greyPng(new Uint8Array(300), 10, 30),
      /: expected 100 × 28 pixels, got 10 × 30$/,
    ],
    [
      "a lower picture",
      async () => greyPng(new Uint8Array(2600), 100, 26),
      /: expected 100 × 28 pixels, got 100 × 26$/,
    ],
    ["half a halo", async () => greyPng(new Uint8Array(2900), 100, 29), /: expected 100 × 28 pixels, got 100 × 29$/],
    [
      "a cut picture",
      async () => greyPng(new Uint8Array(2800), 100, 28).subarray(0, 60),
      /^band 0: its result cannot be used: corrupt PNG/,
    ],
    ["a cut PGM", async () => Buffer.from("P5\n100 28\n255\n012"), /: expected 2800 bytes of pixels, got 3$/],
    [
      "a PGM with too many rows",
      async () => Buffer.concat([Buffer.from("P5 100 9028 255\n"), Buffer.alloc(902_800)]),
      /: image too large: expected at most \d+ pixels, got 100 × 9028$/,
    ],
  ])(
    "a third-party worker that stores %s: the error names the band, not the client's picture",
    async (_, picture, sentence) => {
      const app = await startApp(seven);
      await startForeignWorker(picture);
      const answer = await app.ask("/tasks/sobel", { method: "POST", body: photo });
      const { status, detail } = await answer.json();
      expect(detail).toMatch(sentence);
      expect([answer.status, status]).toEqual([500, 500]);
      await until(async () => !(await keys()).some((key) => key.startsWith("job:")));
    },
  );

  test("a result that is invalid in the middle breaks the download, which does not look complete", async () => {
    const origin = await startCoordinator(seven.bandPixels);
    let number = 0;
    await startForeignWorker(async ({ pixels, width, height }) => {
      return number++ < 3 ? greyPng(sobelOf(pixels, width, height), width, height) : Buffer.from("done!");
    });
    const answer = await ask(`${origin}/tasks/sobel`, { method: "POST", body: photo });
    expect(answer.status).toBe(200);
    await expect(answer.arrayBuffer()).rejects.toThrow();
    await until(async () => !(await keys()).some((key) => key.startsWith("job:")));
  });
});

interface Worker {
  name: string;
  runtime: string;
}

interface App {
  bandPixels: number;
  /** Most bands that were in the queue or at work. */
  readonly mostInFlight: number;
  reset(): void;
  ask(path: string, init?: RequestInit): Promise<Response>;
}

class CountedQueue {
  published = 0;
  most = 0;

  constructor(readonly queue: RabbitQueue) {}

  publish = async (chunk: Chunk) => {
    const job = chunk.chunkId.slice(0, chunk.chunkId.lastIndexOf(":"));
    this.published++;
    this.most = Math.max(this.most, this.published - (await store.hlen(`job:${job}:done`)));
    await this.queue.publish(chunk);
  };
}

const apps: (() => Promise<void>)[] = [];

/** A coordinator in this process, for those tests that need many. */
async function startApp({ bandPixels, ttlSeconds = 60 }: { bandPixels: number; ttlSeconds?: number }): Promise<App> {
  const queue = await RabbitQueue.connect(rabbitmq.url, openLog("warn"));
  const results = new RedisResults(redis.url, ttlSeconds, false);
  await until(() => queue.trouble() === null);
  const counted = new CountedQueue(queue);
  const watched = new Proxy(queue, {
    get: (target, name) => {
      const value = name === "publish" ? counted.publish : Reflect.get(target, name, target);
      return typeof value === "function" && name !== "publish" ? value.bind(target) : value;
    },
  });
  const classroom = { control: false, wall: false, inside: true };
  const app = createApp({ queue: watched, results, tasks, bandPixels, classroom });
  apps.push(async () => {
    await queue.close();
    await results.close();
  });
  return {
    bandPixels,
    get mostInFlight() {
      return counted.most;
    },
    reset() {
      counted.published = counted.most = 0;
    },
    ask: async (path, init) =>
      app.fetch(new Request(`http://coordinator${path}`, { signal: AbortSignal.timeout(DEADLINE), ...init })),
  };
}

function servers(): Record<string, string> {
  return { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url };
}

async function startCoordinator(bandPixels: number, runtime: "bun" | "deno" = "bun"): Promise<string> {
  const env = { ...servers(), PORT: "0", BAND_PIXELS: String(bandPixels) };
  const program = spawnProgram("coordinator.ts", env, runtime);
  programs.push(program);
  const [, origin] = await program.waitFor(/Sobel, distributed: (http:\S+)/, DEADLINE);
  await until(async () => (await ask(`${origin}/readyz`)).ok);
  return origin;
}

async function startWorker(name: string, runtime: "bun" | "deno" = "bun"): Promise<Program> {
  const program = spawnProgram("worker.ts", { ...servers(), WORKER_NAME: name }, runtime);
  programs.push(program);
  await program.waitFor(/: at work\n/, DEADLINE);
  return program;
}

type Band = { pixels: Uint8Array; width: number; height: number };

/** What a third-party worker does: consume, `SET`, acknowledge. It declares no queue. */
async function startForeignWorker(work: (band: Band) => Promise<Uint8Array>): Promise<void> {
  const own = await connection.createChannel();
  let closing = false;
  await own.checkQueue(QUEUE);
  await own.prefetch(1);
  await own.consume(QUEUE, async (message) => {
    if (!message) return;
    const { chunk_id, imagen } = JSON.parse(message.content.toString());
    const { data, width, height } = decode(Buffer.from(imagen, "base64"));
    const picture = await work({ pixels: data as Uint8Array, width, height });
    await store.set(`resultado:${chunk_id}`, Buffer.from(picture).toString("base64"));
    // The test may end as soon as the result is stored.
    if (!closing) own.ack(message);
  });
  foreigners.push(() => {
    closing = true;
    return own.close();
  });
}

/** The next message of a queue, once there is one. It is requeued when the channel is closed. */
async function taken(queue: string): Promise<ConsumeMessage> {
  let message: Awaited<ReturnType<Channel["get"]>> = false;
  await until(async () => {
    message = await channel.get(queue);
    return message !== false;
  });
  return message as unknown as ConsumeMessage;
}

/** The record of a job of 7 bands whose picture is still arriving. */
async function aJob(): Promise<Job> {
  const results = new RedisResults(redis.url, 60, false);
  const id = crypto.randomUUID();
  const plan = { width: 9, height: 49, rows: 7, bands: 7, channels: 1, shrink: 1 } as const;
  const asked = {
    task: "sobel",
    kind: "picture",
    params: {},
    preJobId: null,
    derivedParams: null,
    workers: null,
    bandsBy: "size",
  } as const;
  const times = { created: 0, began: 0, enqueuedAt: null, cutMs: null, mergedAt: null, mergeMs: null };
  const job = { id, ...asked, ...plan, ...times, attempt: 1, enqueued: false, error: null, failure: null };
  await results.putJob(job);
  await results.close();
  return job;
}

/** Number of bands of a job that were sent, or are done. */
function count(id: string, what: "sent" | "done"): Promise<number> {
  return store.hlen(`job:{${id}}:${what}`);
}

/** All keys except those of the workers. */
async function keys(): Promise<string[]> {
  return (await store.keys("*")).filter((key) => key !== "workers" && !key.startsWith("worker:"));
}

async function expectNothingLeft(): Promise<void> {
  await until(async () => (await keys()).length === 0);
  for (const queue of [QUEUE, DEAD_LETTERS]) expect((await channel.checkQueue(queue)).messageCount).toBe(0);
}

function expectStoredOnce(id: string, bands: number): void {
  const expected = Array.from({ length: bands }, (_, band) => [`resultado:{${id}}:${band}`, 1]);
  const got = [...stores].filter(([key]) => key.startsWith(`resultado:{${id}}`));
  expect(Object.fromEntries(got)).toEqual(Object.fromEntries(expected));
}

async function finished(app: App, id: string): Promise<void> {
  await until(async () => (await (await app.ask(`/jobs/${id}`)).json()).state === "done");
}

function ask(url: string, init: RequestInit = {}): Promise<Response> {
  return fetch(url, { signal: AbortSignal.timeout(DEADLINE), ...init });
}

async function bytesOf(answer: Response): Promise<Bytes> {
  const bytes = Buffer.from(await answer.arrayBuffer());
  if (!answer.ok) throw new Error(`expected success, got ${answer.status}: ${bytes}`);
  return bytes;
}

async function edgesOf(picture: Uint8Array, bandPixels: number): Promise<Bytes> {
  return Buffer.concat(await Array.fromAsync(transform(await readImage(inPieces(picture)), sobel, bandPixels)));
}

/** The grey pixels of a picture, by an independent decoder. */
async function raw(picture: Uint8Array): Promise<Bytes> {
  return sharp(picture).toColourspace("b-w").raw().toBuffer() as Promise<Bytes>;
}

function meanDifference(a: Uint8Array, b: Uint8Array): number {
  expect(a.length).toBe(b.length);
  return a.reduce((sum, value, i) => sum + Math.abs(value - b[i]), 0) / a.length;
}

function samples(length: number, seed: number): Uint8Array {
  let x = seed;
  return new Uint8Array(length).map(() => {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    return x >>> 24;
  });
}

function noise(width: number, height: number, seed = 1): Bytes {
  const data = samples(width * height * 3, seed);
  return Buffer.from(encode({ width, height, data, channels: 3 }, { zlib: { level: 1 } }));
}

function greyOfPhoto(): Uint8Array {
  const picture = {
    width: 100,
    height: 194,
    colour: RGB,
    depth: 8,
    samples: Uint16Array.from(samples(100 * 194 * 3, 1)),
  };
  return greyOf(picture);
}

function greyPng(pixels: Uint8Array, width: number, height: number): Uint8Array {
  return encode({ width, height, data: pixels, channels: 1 });
}

function colourPng(pixels: Uint8Array, width: number, height: number): Uint8Array {
  const data = new Uint8Array(pixels.length * 3).map((_, i) => pixels[Math.floor(i / 3)]);
  return encode({ width, height, data, channels: 3 });
}
