// Faults of one message, one record or one task, beside those of whole processes (faults.test.ts): copies, records that are
// old or false, tasks that throw late. An accepted job still ends right, or fails with a reason.
import { afterAll, afterEach, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { connect as tcp } from "node:net";
import { join } from "node:path";
import { connect as amqp, type Channel, type ConfirmChannel, type Options } from "amqplib";
import { encode } from "fast-png";
import { Redis } from "ioredis";
import { Consumer } from "../amqp/consumer.ts";
import type { Backends, WorkerInfo } from "../backends.ts";
import { isKnown } from "../http/events.ts";
import { jobOf } from "../jobs/record.ts";
import { openLog } from "../ops/log.ts";
import { DEAD_LETTERS, QUEUE, RabbitQueue } from "../queue.ts";
import { RedisResults } from "../results.ts";
import { loadTasks } from "../tasks/index.ts";
import { lookUp } from "../watch.ts";
import { generator, startProxy } from "./faults.ts";
import { type Bytes, bytesOf, edgesOf } from "./kit.ts";
import { expectSame } from "./pictures.ts";
import {
  describeWith,
  freePort,
  type Program,
  type RabbitMQ,
  type RedisServer,
  spawnProgram,
  startRabbitMQ,
  startRedis,
  temporaryFolder,
} from "./servers.ts";
import { sleep, until, within } from "./wait.ts";

/** Every picture here has bands of 10 rows. */
const WIDTH = 100;
const BAND_PIXELS = 1_000;

let rabbitmq: RabbitMQ;
let redis: RedisServer;
let store: Redis;
let results: RedisResults;
const programs: Program[] = [];
const four = photo(4);

describeWith(["rabbitmq", "redis"], "recovery", () => {
  setDefaultTimeout(60_000);

  beforeAll(async () => {
    [rabbitmq, redis] = await Promise.all([startRabbitMQ(), startRedis()]);
    store = new Redis(redis.url, { maxRetriesPerRequest: null });
    store.on("error", () => {}); // it is stopped below
    results = new RedisResults(redis.url, 300, false);
  });
  afterAll(async () => {
    store?.disconnect();
    await results?.close();
    await Promise.all([rabbitmq?.stop(), redis?.stop()]);
  });
  /** Every program that still runs must exit with 0: none of these faults ends one. */
  afterEach(async () => {
    await stopped();
    // A worker that is stopped while it waits for a copy of a band leaves the message for the next one.
    await withChannel(async (channel) => {
      for (const queue of [QUEUE, DEAD_LETTERS]) await channel.purgeQueue(queue);
      for (const task of ["diary", "negative", "slow", "throws"]) await channel.deleteQueue(`${QUEUE}.${task}`);
    });
    await store.flushall();
  });

  test("a job that takes longer than its TTL has all its results for a whole TTL after its last band", async () => {
    const env = { RESULT_TTL_SECONDS: "4", TASKS: "test/tasks/slow.ts" };
    const origin = await startCoordinator(env);
    await startWorker("one", env);
    const id = await accepted(origin, photo(3), "task=slow&ms=1600&workers=3");
    await until(async () => (await jobAt(origin, id)).state === "done");
    await sleep(2_500); // band 0 is 5.7 s old
    expect((await jobAt(origin, id)).state).toBe("done");
    await bytesOf(await ask(`${origin}/jobs/${id}/result`));
  });

  test("an upload that waits for a worker for longer than the TTL keeps its job", async () => {
    const env = { RESULT_TTL_SECONDS: "4" };
    const origin = await startCoordinator(env);
    const put = accepted(origin, four, "workers=1");
    await sleep(6_000); // its first band is in the queue, the rest of the picture waits
    await startWorker("one", env);
    await expectEdges(origin, await put, four);
  });

  test("a done job without the result of a band: its client is asked to send again, and gets its edges", async () => {
    const origin = await startCoordinator();
    await startWorker("one");
    const id = await accepted(origin, four);
    await until(async () => (await jobAt(origin, id)).state === "done");
    await store.del(`resultado:{${id}}:0`);
    const broken = await ask(`${origin}/jobs/${id}/result`).then((answer) => answer.text(), String);
    expect(broken).not.toBeEmpty();
    expect(await jobAt(origin, id)).toMatchObject({ state: "uploading", done: 3 });
    await resent(origin, id, four);
    await expectEdges(origin, id, four);
  });

  test.each(["", "!", Buffer.from("no picture").toString("base64")])(
    "a done job with a result that cannot be used (%p): its client gets the reason, sends again, and gets its edges",
    async (result) => {
      const origin = await startCoordinator();
      await startWorker("one");
      const id = await accepted(origin, four);
      await until(async () => (await jobAt(origin, id)).state === "done");
      await store.set(`resultado:{${id}}:0`, result, "KEEPTTL");
      const answer = await ask(`${origin}/jobs/${id}/result`);
      expect([answer.status, (await answer.json()).detail]).toEqual([
        500,
        expect.stringMatching(/^band 0: its result cannot be used: /),
      ]);
      expect(await jobAt(origin, id)).toMatchObject({ state: "uploading", done: 3 });
      await resent(origin, id, four);
      await expectEdges(origin, id, four);
    },
  );

  test("a job is revived and sent again while a client follows it: every band is enqueued again", async () => {
    const origin = await startCoordinator();
    const id = await accepted(origin, four);
    const events = await ask(`${origin}/events?jobs=${id},${crypto.randomUUID()}`);
    await withChannel((channel) => channel.purgeQueue(QUEUE)); // its bands are dropped
    await results.failJob(id, "band 0: ill", "task_failed");
    await until(async () => (await jobAt(origin, id)).state === "failed");
    await results.reviveJob(id);
    await sleep(300); // the stream has seen it
    await resent(origin, id, four);
    await startWorker("one");
    await expectEdges(origin, id, four);
    await events.body?.cancel();
  });

  test("a dead letter is put back after its job was sent again and is done: the job stays done", async () => {
    const origin = await startCoordinator();
    const id = await accepted(origin, four);
    await withChannel(async (channel) => {
      const message = await channel.get(QUEUE);
      if (!message) throw new Error("no message");
      const headers = { "x-reason": "ill", "x-queue": QUEUE };
      channel.sendToQueue(DEAD_LETTERS, message.content, { ...message.properties, headers });
      channel.ack(message);
    });
    await results.failJob(id, "band 0: ill", "task_failed");
    await resent(origin, id, four);
    await startWorker("one");
    await expectEdges(origin, id, four);
    expect(await putBack()).toBe(`{${id}}:0  ${QUEUE}  ill: job is done: nothing to put back\n`);
    expect([await messages(QUEUE), await messages(DEAD_LETTERS)]).toEqual([0, 0]);
    await until(async () => (await messages(QUEUE)) === 0);
    await sleep(200); // for what a worker might do with it
    await expectEdges(origin, id, four);
  });

  test("a dead letter is put back after its job was replaced by one with other parameters: the band is dropped", async () => {
    const env = { TASKS: "test/tasks/throws.ts,test/tasks/negative.ts" };
    const origin = await startCoordinator(env);
    await startWorker("one", env);
    const id = await accepted(origin, photo(1), "task=throws");
    await until(async () => (await messages(DEAD_LETTERS)) === 1);
    await stopped();
    const next = await startCoordinator(env);
    await resent(next, id, photo(1), "task=negative");
    // A copy for a worker, which drops it, too.
    await withChannel(async (channel) => {
      const message = await channel.get(DEAD_LETTERS);
      if (!message) throw new Error("no message");
      channel.sendToQueue(`${QUEUE}.throws`, message.content, message.properties);
    });
    await until(async () => (await messages(DEAD_LETTERS)) === 1);
    expect(await putBack()).toEndWith(": job has begun another attempt: nothing to put back\n");
    await until(async () => (await messages(`${QUEUE}.throws`)) === 1);
    const worker = await startWorker("two", { ...env, WORKER_TASKS: "throws", LOG_LEVEL: "debug" });
    await worker.waitFor(/band dropped/);
    expect(await jobAt(next, id)).toMatchObject({ state: "running", error: null });
    await startWorker("three", env);
    await until(async () => (await jobAt(next, id)).state === "done");
    await withChannel(async (channel) => {
      for (const task of ["throws", "negative"]) await channel.deleteQueue(`${QUEUE}.${task}`);
    });
  });

  test("a copy of a band that is done, delivered 18 times, is dropped: the job stays done", async () => {
    const origin = await startCoordinator();
    const id = await accepted(origin, four);
    const copy = await withChannel((channel) => channel.get(QUEUE)); // requeued at once
    if (!copy) throw new Error("no message");
    await startWorker("one");
    await expectEdges(origin, id, four);
    await stopped();
    await withChannel(async (channel) => channel.sendToQueue(QUEUE, copy.content, copy.properties));
    await until(async () => (await messages(QUEUE)) === 1);
    await redeliver(18, 1);
    await startWorker("two");
    await until(async () => (await messages(QUEUE)) === 0);
    await stopped(); // it has settled what it had
    const next = await startCoordinator();
    await expectEdges(next, id, four);
    expect(await messages(DEAD_LETTERS)).toBe(0);
  });

  test("bands that were delivered often are enqueued anew, and whichever worker gets them does them", async () => {
    const origin = await startCoordinator();
    const many = photo(24);
    const id = await accepted(origin, many, "workers=24");
    await redeliver(18, 24);
    for (const name of ["one", "two"]) await startWorker(name);
    await expectEdges(origin, id, many);
    // A new message begins at 0.
    for (const { deliveries } of (await results.done(id)).values()) expect(deliveries).toBeLessThan(12);
    expect(await messages(DEAD_LETTERS)).toBe(0);
  });

  test("a queue that is deleted without a consumer is declared again with the next band", async () => {
    const origin = await startCoordinator();
    await accepted(origin, photo(1)); // the coordinator has declared it
    await withChannel((channel) => channel.deleteQueue(QUEUE));
    const id = await accepted(origin, four);
    await startWorker("one");
    await expectEdges(origin, id, four);
  });

  test("RabbitMQ silent for 8 s, so that a band is published twice: it is computed once, one band at a time", async () => {
    const DIARY = join(temporaryFolder("diary"), "diary");
    const env = { TASKS: "test/tasks/diary.ts", DIARY };
    const origin = await startCoordinator(env);
    for (const name of ["one", "two", "three"]) await startWorker(name, env);
    const post = { method: "POST", body: photo(1, true) };
    await bytesOf(await ask(`${origin}/tasks/diary`, post)); // the coordinator knows the queue from now on
    writeFileSync(DIARY, "");
    const bands = 3;
    const id = crypto.randomUUID();
    // Idle workers: one in a band would lose its connection, and its band would be redelivered besides.
    rabbitmq.pause();
    const put = ask(`${origin}/jobs/${id}?task=diary&workers=1`, { method: "PUT", body: photo(bands, true) });
    await sleep(8_000); // longer than the time for a confirm
    rabbitmq.resume();
    expect((await put).status).toBe(202);
    await until(async () => (await jobAt(origin, id)).state === "done");
    await until(async () => (await messages(`${QUEUE}.diary`)) === 0);
    await stopped(); // each worker has settled what it had
    const lines = Array.from({ length: bands }, (_, band) => [`begin ${10 * band}`, `end ${10 * band}`]).flat();
    expect(readFileSync(DIARY, "utf8").trim().split("\n")).toEqual(lines);
  });

  test("connections to RabbitMQ are cut six times in the middle of a band: its worker goes on, and the band is computed once", async () => {
    const DIARY = join(temporaryFolder("diary"), "diary");
    writeFileSync(DIARY, "");
    const proxy = await startProxy(await freePort(), rabbitmq.port);
    const env = { TASKS: "test/tasks/diary.ts", DIARY, DIARY_MS: "10000" };
    const origin = await startCoordinator(env);
    const RABBITMQ_URL = `amqp://guest:guest@127.0.0.1:${proxy.port}`;
    for (const name of ["one", "two"]) await startWorker(name, { ...env, RABBITMQ_URL });
    const id = await accepted(origin, photo(1, true), "task=diary");
    await until(() => readFileSync(DIARY, "utf8") !== "");
    for (let i = 0; i < 6; i++) {
      proxy.cut();
      await sleep(1_200); // the other worker connects, and gets the band
    }
    await until(async () => (await jobAt(origin, id)).state !== "running");
    expect(await jobAt(origin, id)).toMatchObject({ state: "done", error: null });
    await until(async () => (await messages(`${QUEUE}.diary`)) === 0);
    await stopped();
    expect(readFileSync(DIARY, "utf8")).toBe("begin 0\nend 0\n");
    expect(await results.incidents(id)).toEqual([]);
    await proxy.refuse();
  });

  test("RabbitMQ is cut while a band fails for the third time: its dead letter is kept", async () => {
    const proxy = await startProxy(await freePort(), rabbitmq.port);
    const env = { TASKS: "test/tasks/throws.ts", THROWS_MS: "1000" };
    const origin = await startCoordinator(env);
    await startWorker("one", { ...env, RABBITMQ_URL: `amqp://guest:guest@127.0.0.1:${proxy.port}` });
    await withChannel((channel) => channel.deleteQueue(DEAD_LETTERS)); // and the queue is declared again
    const id = await accepted(origin, photo(1), "task=throws");
    const failures = () => store.hget(`job:{${id}}:failures`, "0");
    await until(async () => (await failures()) === "2" && (await results.claims(id)).size === 1);
    proxy.cut();
    await until(async () => (await jobAt(origin, id)).state === "failed");
    const quorum = { durable: true, arguments: { "x-queue-type": "quorum" } };
    await withChannel((channel) => channel.assertQueue(DEAD_LETTERS, quorum)); // the next line needs it
    await until(async () => (await messages(DEAD_LETTERS)) === 1);
    await stopped();
    await proxy.refuse();
  });

  test("all machines sleep for 40 s in the middle of a job: it goes on", async () => {
    const env = { TASKS: "test/tasks/slow.ts" };
    const origin = await startCoordinator(env);
    for (const name of ["one", "two"]) await startWorker(name, env);
    const id = await accepted(origin, photo(6), "task=slow&ms=2500&workers=6");
    await until(async () => (await jobAt(origin, id)).done >= 2);
    await until(async () => (await results.claims(id)).size === 2);
    for (const machine of [rabbitmq, redis]) machine.pause();
    for (const program of programs) program.kill("SIGSTOP");
    await sleep(40_000);
    for (const program of programs.toReversed()) program.kill("SIGCONT");
    for (const machine of [redis, rabbitmq]) machine.resume();
    await until(async () => (await jobAt(origin, id)).state !== "running");
    expect(await jobAt(origin, id)).toMatchObject({ state: "done", error: null });
    expect(await results.incidents(id)).toEqual([]);
  }, 120_000);

  test("Redis is killed again and again, needs no password and is old-fashioned: every line of the logs is JSON", async () => {
    const own = await startRedis({ args: ["--rename-command", "HELLO", ""] });
    const env = { TASKS: "test/tasks/slow.ts", REDIS_URL: own.url.replace("//", "//:needless@") };
    const origin = await startCoordinator(env);
    const worker = await startWorker("one", env);
    const put = (id: string) =>
      ask(`${origin}/jobs/${id}?task=slow&ms=500`, { method: "PUT", body: four }).catch(() => {});
    for (let i = 0; i < 3; i++) {
      const early = put(crypto.randomUUID());
      await sleep(300); // a band is in progress
      await own.kill();
      const late = put(crypto.randomUUID());
      await sleep(300);
      await own.restart();
      await Promise.all([early, late]);
    }
    expect(worker.out).toMatch(/^\{.*does not require a password.*\}$/m);
    await stopped();
    await own.stop();
  });

  test("Redis comes back with older data: an accepted job fails with the reason, and is done once sent again", async () => {
    const bandPixels = 50_000;
    const origin = await startCoordinator({ BAND_PIXELS: String(bandPixels) });
    await startWorker("one");
    const id = crypto.randomUUID();
    const large = photo(700); // more than a coordinator reads before it has the first rows
    const client = tcp(Number(new URL(origin).port), "127.0.0.1");
    client.on("error", () => {});
    client.write(`PUT /jobs/${id}?workers=4 HTTP/1.1\r\nhost: test\r\ncontent-length: ${large.length}\r\n\r\n`);
    client.write(large.subarray(0, -30));
    const count = (what: string) => store.hlen(`job:{${id}}:${what}`);
    await until(async () => (await count("done")) >= 3);
    await sleep(200); // all that has arrived is sent
    await until(async () => (await count("done")) === (await count("sent")));
    await store.save();
    client.write(large.subarray(-30));
    await until(async () => (await jobAt(origin, id)).state === "done");
    client.destroy();
    await redis.kill();
    await redis.restart();
    const suspect = () => store.hget(`job:{${id}}`, "suspect");
    await until(async () => {
      expect((await jobAt(origin, id)).state).toBe("uploading");
      return (await suspect()) !== null;
    });
    await store.hset(`job:{${id}}`, "suspect", 19_000); // not to wait for all of the 20 s
    const failed = await until(async () => {
      const job = await jobAt(origin, id);
      return job.state === "failed" && job;
    });
    expect(failed.error).toBe(
      "the picture has not arrived completely: its upload was cut off, or Redis came back with older data; send it again",
    );
    await resent(origin, id, large);
    await expectEdges(origin, id, large, bandPixels);
  });

  test("a worker whose connection to Redis is silent: its band goes to another worker, and later it takes bands again", async () => {
    const env = { TASKS: "test/tasks/slow.ts" };
    const origin = await startCoordinator(env);
    const proxy = await startProxy(await freePort(), redis.port);
    const port = String(await freePort());
    const cut = await startWorker("cut", { ...env, REDIS_URL: `redis://127.0.0.1:${proxy.port}`, METRICS_PORT: port });
    const probe = async () => (await ask(`http://127.0.0.1:${port}/readyz`)).status;
    const id = await accepted(origin, photo(1), "task=slow&ms=2000");
    await until(async () => (await store.hgetall("worker:cut")).busy === id);
    const speak = proxy.silence();
    await startWorker("well", env);
    await until(async () => (await jobAt(origin, id)).state === "done", 20_000);
    expect((await jobAt(origin, id)).byWorker).toEqual({ well: { bands: 1, ms: expect.any(Number) } });
    expect(cut.out).toMatch(/result store unreachable, taking no bands until it answers/);
    expect(await probe()).toBe(503);
    speak();
    await cut.waitFor(/result store answers again, taking bands/, 20_000);
    // Its second connection may follow a moment later.
    await until(async () => (await probe()) === 200);
    await ended("well");
    const next = await accepted(origin, photo(2), "task=slow&ms=1");
    await until(async () => (await jobAt(origin, next)).state === "done");
    await stopped();
    await proxy.refuse();
  });

  test.each(["before it has claimed the band", "while it computes the band"])(
    "a worker whose connection to Redis is silent %s gives it back: later it neither computes nor claims it",
    async (when) => {
      const DIARY = join(temporaryFolder("diary"), "diary");
      writeFileSync(DIARY, "");
      const env = { TASKS: "test/tasks/diary.ts", DIARY, DIARY_MS: "60000" };
      const origin = await startCoordinator(env);
      const proxy = await startProxy(await freePort(), redis.port);
      const worker = await startWorker("one", { ...env, REDIS_URL: `redis://127.0.0.1:${proxy.port}` });
      const isEarly = when.startsWith("before");
      let speak = isEarly ? proxy.silence() : undefined;
      const id = await accepted(origin, photo(1, true), "task=diary");
      const wrote = isEarly ? "" : "begin 0\n";
      await until(() => readFileSync(DIARY, "utf8") === wrote);
      speak ??= proxy.silence();
      await worker.waitFor(/band requeued/, 30_000);
      await until(async () => (await messages(`${QUEUE}.diary`)) === 1);
      await withChannel((channel) => channel.purgeQueue(`${QUEUE}.diary`)); // so that the worker does not get it again
      speak();
      await worker.waitFor(/result store answers again, taking bands/, 20_000);
      await sleep(500);
      expect(await results.claims(id)).toEqual(new Map());
      expect(readFileSync(DIARY, "utf8")).toBe(wrote);
      expect(await store.exists(`job:{${id}}:failures`)).toBe(0); // its thread was ended: the task did not throw
      await stopped();
      await proxy.refuse();
    },
  );

  test("a consumer that is stopped while it subscribes leaves no consumer behind", async () => {
    const connection = await amqp(rabbitmq.url);
    const channel = await connection.createChannel();
    const queues = Array.from({ length: 20 }, (_, i) => `${QUEUE}.stopped-${i}`);
    for (const queue of queues) await channel.assertQueue(queue, { exclusive: true });
    const stopped = Promise.withResolvers<void>();
    const open = async (queue: string) => {
      const own = await connection.createConfirmChannel();
      const consume = own.consume.bind(own);
      own.consume = (...args) => {
        const consuming = consume(...args);
        if (queue === queues[10]) stopped.resolve(consumer.stop());
        return consuming;
      };
      return own;
    };
    const consumer = new Consumer(queues, async () => {}, { open, waiting: async () => 0, restart() {} });
    consumer.attach();
    await stopped.promise;
    for (const queue of queues) expect((await channel.checkQueue(queue)).consumerCount).toBe(0);
    await connection.close();
  });

  test("a consumer that RabbitMQ loses without a word is replaced as soon as its worker has been idle", async () => {
    const connection = await amqp(rabbitmq.url);
    const queue = `${QUEUE}.lost`;
    let own: Promise<ConfirmChannel> | undefined;
    const open = () => {
      own ??= connection.createConfirmChannel().then(async (channel) => {
        await channel.assertQueue(queue, { exclusive: true });
        channel.on("close", () => {
          own = undefined;
          consumer.closed(channel);
        });
        return channel;
      });
      return own;
    };
    const waiting = async () => (await (await open()).checkQueue(queue)).messageCount;
    const delivered = Promise.withResolvers<void>();
    const consumer = new Consumer([queue], async () => delivered.resolve(), { open, waiting, restart() {} });
    consumer.attach();
    const channel = await open();
    const { consumers } = channel as unknown as { consumers: Map<string, unknown> };
    await until(() => consumers.size === 1);
    const [tag] = consumers.keys();
    await channel.cancel(tag); // the consumer gets no notice
    channel.sendToQueue(queue, Buffer.from("a band"));
    await within(delivered.promise, 20_000);
    await consumer.stop();
    await connection.close();
  });

  test.each(["distributed", "in one process"])(
    "a task that throws after it has returned, %s: the log has its place",
    async (how) => {
      const env: Record<string, string> = { TASKS: "test/tasks/late.ts" };
      const alone = how === "in one process";
      const origin = await startCoordinator(alone ? { ...env, WORKERS: "1", RABBITMQ_URL: "", REDIS_URL: "" } : env);
      const worker = alone ? programs[0] : await startWorker("one", env);
      for (let i = 0; i < 2; i++) {
        expect((await ask(`${origin}/tasks/late`, { method: "POST", body: four })).status).toBe(200);
        await sleep(50);
      }
      for (const what of ["timer", "promise"]) {
        await worker.waitFor(
          new RegExp(`task threw after it had returned.*thrown by a ${what} \\(test/tasks/late\\.ts:\\d+\\)`),
        );
      }
      expectSame(await bytesOf(await ask(`${origin}/tasks/sobel`, { method: "POST", body: four })), await edges(four));
    },
  );

  test("a first step that no task file exports", async () => {
    const env = { TASKS: "test/tasks/brightest.ts" };
    const origin = await startCoordinator(env);
    await startWorker("one", env);
    const answer = await ask(`${origin}/tasks/brightest`, { method: "POST", body: four });
    expect((await bytesOf(answer)).length).toBeGreaterThan(100);
  });

  test("jobs with a first step, cancelled at any moment of it, leave no key", async () => {
    const origin = await startCoordinator();
    await startWorker("one");
    const large = photo(200);
    const cancel = async (delay: number) => {
      const id = crypto.randomUUID();
      const put = ask(`${origin}/jobs/${id}?task=threshold&workers=2`, { method: "PUT", body: large });
      await until(async () => (await store.exists(`job:{${id}}`)) === 1);
      await sleep(delay);
      expect((await ask(`${origin}/jobs/${id}`, { method: "DELETE" })).status).toBe(204);
      expect([202, 404, 410]).toContain((await put).status);
    };
    for (let i = 0; i < 40; i += 4) await Promise.all([0, 1, 2, 3].map((j) => cancel((i + j) / 2)));
    await until(async () => (await keys()).length === 0, 5_000).catch(() => {});
    expect(await keys()).toEqual([]);
  });

  test("messages on a job's channel that no program of this project writes change nothing", async () => {
    const origin = await startCoordinator();
    const id = crypto.randomUUID();
    const put = resent(origin, id, four, "workers=1"); // it waits for room
    await until(async () => (await results.sent(id)).size === 1);
    const events = await ask(`${origin}/jobs/${id}/events`);
    const poison = [
      "",
      "x y",
      "0 {",
      "0 null",
      "0 5",
      "0 {}",
      '99999999999 {"worker":"x"}',
      '0 {"worker":null,"ms":"x"}',
      '77 {"worker":"x","ms":1,"bytes":1}', // it has four bands
      "claim",
      "claim x {}",
      "claim 0 {}",
      'claim 77 {"worker":"x","deliveries":0}',
      "incident",
      'incident {"n":99,"what":"lost"}',
      'incident {"n":1,"what":"x"}',
      "enqueued x y",
      "enqueued 1 2 77 770",
      "{",
      "{}",
      '{"band":77,"worker":"x"}',
      '{"band":-1}',
      '{"band":1e300}',
      `{"band":0,"worker":"${"x".repeat(100_000)}","ms":-1}`,
      '{"band":0,"worker":"\\u0000","ms":"x","store":1e99}',
      '{"band":0,"worker":"liar","ms":5}', // it has set no result
    ];
    for (const message of poison) expect(await store.publish(`job:{${id}}`, message)).toBe(1);
    await startWorker("one");
    await put;
    await expectEdges(origin, id, four);
    const text = await events.text();
    expect(text.match(/^event: band$/gm)).toHaveLength(4);
    expect(text.match(/^event: incident$/gm)).toBeNull();
    expect(Object.keys((await jobAt(origin, id)).byWorker)).toEqual(["one"]);
  });

  test("a class kills a worker, pauses and stops another; the band goes back, and the job goes on", async () => {
    const env = { CLASSROOM: "control", TASKS: "test/tasks/slow.ts" };
    const origin = await startCoordinator(env);
    const order = (path: string) => ask(`${origin}/workers/${path}`, { method: "POST" });
    const doomed = await startWorker("doomed", env);
    const free = await startWorker("free", { TASKS: env.TASKS });
    expect((await order("free/kill")).status).toBe(409); // it lacks the setting
    free.kill();
    const id = await accepted(origin, four, "task=slow&ms=1500&bands=1");
    const events = await ask(`${origin}/jobs/${id}/events`);
    await until(async () => (await store.hlen(`job:{${id}}:claims`)) > 0);
    expect((await order("doomed/kill")).status).toBe(202);
    expect(await doomed.exited).toBe(128 + 9);
    programs.splice(programs.indexOf(doomed), 1);
    const heir = await startWorker("heir", env);
    const text = await events.text();
    expect(text).toMatch(/event: incident\ndata: .*"what":"lost".*\n/);
    expect(text).toMatch(/event: band\ndata: .*"lost":\["doomed"\]/);
    expect((await order("heir/pause")).status).toBe(202);
    const paused = async () =>
      (await (await ask(`${origin}/workers`)).json()).workers as { name: string; paused: boolean }[];
    await until(async () => (await paused()).some(({ name, paused }) => name === "heir" && paused));
    expect((await order("heir/stop")).status).toBe(202);
    expect(await heir.exited).toBe(0);
  });

  test("a queue that was declared with other arguments stops its own task only, until it is deleted", async () => {
    const env = { TASKS: "test/tasks/negative.ts" };
    const queue = `${QUEUE}.negative`;
    await withChannel((channel) => channel.assertQueue(queue, { durable: true }));
    const origin = await startCoordinator(env);
    const worker = await startWorker("one", env);
    const post = (task: string) => ask(`${origin}/tasks/${task}`, { method: "POST", body: four });
    const refused = await within(post("negative"), 5_000);
    expect([refused.status, (await refused.json()).detail]).toEqual([503, expect.stringContaining(queue)]);
    for (const program of programs) {
      await program.waitFor(/queue tareas\.negative was declared with other arguments; delete it/);
    }
    expectSame(await bytesOf(await post("sobel")), await edges(four));
    expect(programs.map(({ out }) => out).join("")).not.toMatch(/connection lost/);
    await withChannel((channel) => channel.deleteQueue(queue));
    expect((await within(post("negative"), 15_000)).status).toBe(200);
    expect(worker.out).not.toMatch(/connection lost/);
    await withChannel((channel) => channel.deleteQueue(queue));
  });

  test("the queue of dead letters with other arguments is no outage", async () => {
    const quorum = { durable: true, arguments: { "x-queue-type": "quorum" } };
    const declared = (options: Options.AssertQueue) =>
      withChannel(async (channel) => {
        await channel.deleteQueue(DEAD_LETTERS);
        await channel.assertQueue(DEAD_LETTERS, options);
      });
    await declared({ durable: true });
    const queue = await RabbitQueue.connect(rabbitmq.url, openLog("error"));
    await until(() => queue.trouble() === null);
    await queue.ping();
    await queue.close();
    await declared(quorum);
  });

  test("a queue that the user may not declare stops its own task only, and is logged", async () => {
    await rabbitmq.ctl("add_user", "poor", "s3cret");
    const own = `^(${QUEUE}|${DEAD_LETTERS})$`.replaceAll(".", "[.]");
    await rabbitmq.ctl("set_permissions", "poor", own, ".*", ".*");
    const url = `amqp://poor:s3cret@127.0.0.1:${rabbitmq.port}`;
    const worker = await startWorker("one", { TASKS: "test/tasks/negative.ts", RABBITMQ_URL: url });
    await worker.waitFor(/queue cannot be used.*tareas\.negative.*ACCESS_REFUSED/);
    const origin = await startCoordinator();
    const sobel = await ask(`${origin}/tasks/sobel`, { method: "POST", body: four });
    expectSame(await bytesOf(sobel), await edges(four));
  });

  test("the list of workers is read once for all jobs that are looked at within a second", async () => {
    const queue = { depth: async () => ({ waiting: 0, consumers: 0 }) };
    const backends = { queue, results } as unknown as Backends;
    const tasks = await loadTasks();
    const asked = { params: {}, workers: null, bandPixels: BAND_PIXELS };
    const image = { width: WIDTH, height: 40, channels: 1 as const };
    const ids = await Promise.all(
      Array.from({ length: 20 }, async () => {
        const job = jobOf(crypto.randomUUID(), tasks.get("sobel")!, asked, image);
        await results.putJob(job);
        await results.markSent(job.id, 0, 1, job.attempt); // it is awaited, and in no queue
        return job.id;
      }),
    );
    await store.config("RESETSTAT");
    for (const id of ids) await lookUp(backends, id);
    const [, calls] = /cmdstat_zrange:calls=(\d+)/.exec(await store.info("commandstats"))!;
    expect(Number(calls)).toBe(1);
  });
});

test("a job with a first step waits for a worker that has the task of its current step", async () => {
  const tasks = await loadTasks();
  const asked = { params: {}, workers: null, bandPixels: BAND_PIXELS };
  const job = jobOf(crypto.randomUUID(), tasks.get("threshold")!, asked, {
    width: WIDTH,
    height: 40,
    channels: 1 as const,
  });
  const isWaiting = (derivedParams: { level: number } | null, ...known: string[]) =>
    !isKnown({ ...job, derivedParams }, [{ tasks: known } as WorkerInfo], tasks);
  expect(isWaiting(null, "threshold")).toBe(true);
  expect(isWaiting(null, "histogram")).toBe(false);
  expect(isWaiting({ level: 7 }, "threshold")).toBe(false);
  expect(isWaiting({ level: 7 }, "histogram")).toBe(true);
});

/** @param plain each band has one grey: 10 times its number */
function photo(bands: number, plain = false): Bytes {
  const height = (bands * BAND_PIXELS) / WIDTH;
  const random = generator(1);
  const data = new Uint8Array(WIDTH * height).map((_, i) =>
    plain ? 10 * Math.floor(i / BAND_PIXELS) : random() * 256,
  );
  return Buffer.from(encode({ width: WIDTH, height, data, channels: 1 }));
}

function edges(picture: Bytes): Promise<Bytes> {
  return edgesOf(picture, BAND_PIXELS);
}

function servers(): Record<string, string> {
  return { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url, RESULT_TTL_SECONDS: "300" };
}

async function startCoordinator(env: Record<string, string> = {}): Promise<string> {
  const program = spawnProgram("coordinator.ts", {
    ...servers(),
    PORT: String(await freePort()),
    BAND_PIXELS: String(BAND_PIXELS),
    ...env,
  });
  programs.push(program);
  const [, origin] = await program.waitFor(/Sobel, distributed: (http:\S+)/);
  await until(async () => (await ask(`${origin}/readyz`)).ok);
  return origin;
}

const names = new Map<string, Program>();

async function startWorker(name: string, env: Record<string, string> = {}): Promise<Program> {
  const program = spawnProgram("worker.ts", { ...servers(), WORKER_NAME: name, ...env });
  programs.push(program);
  names.set(name, program);
  await program.waitFor(/: at work\n/);
  return program;
}

/** Ends a worker, or all programs, as SIGTERM does: what they have in progress is settled. */
async function ended(name: string): Promise<void> {
  const program = names.get(name)!;
  programs.splice(programs.indexOf(program), 1);
  program.kill();
  expect(await within(program.exited), program.out).toBe(0);
}

async function stopped(): Promise<void> {
  for (const program of programs) program.kill();
  for (const program of programs.splice(0)) {
    expect(await within(program.exited), program.out).toBe(0);
    const rest = program.out
      .split("\n")
      .filter((line) => !/^(Sobel, distributed: .*|\w+: (at work|finishing .*)|)$/.test(line));
    for (const line of rest) expect(() => JSON.parse(line)).not.toThrow();
  }
}

async function accepted(origin: string, body: Bytes, query = "workers=4"): Promise<string> {
  const id = crypto.randomUUID();
  await resent(origin, id, body, query);
  return id;
}

async function resent(origin: string, id: string, body: Bytes, query = "workers=4"): Promise<void> {
  const answer = await ask(`${origin}/jobs/${id}?${query}`, { method: "PUT", body });
  if (answer.status !== 202) throw new Error(`expected 202, got ${answer.status}: ${await answer.text()}`);
}

async function expectEdges(origin: string, id: string, picture: Bytes, bandPixels = BAND_PIXELS): Promise<void> {
  await until(async () => !["running", "uploading"].includes((await jobAt(origin, id)).state));
  expect(await jobAt(origin, id)).toMatchObject({ state: "done", error: null });
  expectSame(await bytesOf(await ask(`${origin}/jobs/${id}/result`)), await edgesOf(picture, bandPixels));
}

async function jobAt(origin: string, id: string) {
  const answer = await ask(`${origin}/jobs/${id}`);
  const job = await answer.json();
  if (!answer.ok) throw new Error(`expected success, got ${answer.status}: ${job.detail}`);
  return job;
}

/** All keys except those of the workers. */
async function keys(): Promise<string[]> {
  return (await store.keys("*")).filter((key) => key !== "workers" && !key.startsWith("worker:"));
}

async function messages(queue: string): Promise<number> {
  return withChannel(async (channel) => (await channel.checkQueue(queue)).messageCount);
}

/** Delivers the first messages of the queue, and closes the connection with them unsettled, this many times. */
async function redeliver(times: number, count: number): Promise<void> {
  for (let i = 0; i < times; i++) {
    await withChannel(async (channel) => {
      for (let j = 0; j < count; j++) await channel.get(QUEUE);
    });
    await until(async () => (await messages(QUEUE)) === count);
  }
}

/** @returns the standard output of the program */
async function putBack(): Promise<string> {
  const command = ["bun", "run", "pipelines/dead-letters.ts", "--back"];
  const back = Bun.spawn(command, { env: { ...process.env, ...servers() }, stdout: "pipe" });
  expect(await within(back.exited)).toBe(0);
  return new Response(back.stdout).text();
}

async function withChannel<T>(step: (channel: Channel) => Promise<T>): Promise<T> {
  const connection = await amqp(rabbitmq.url);
  connection.on("error", () => {});
  const channel = await connection.createChannel();
  channel.on("error", () => {}); // its user gets the error
  try {
    return await step(channel);
  } finally {
    await channel.close().catch(() => {}); // what was published is on its way before the connection is closed
    await connection.close().catch(() => {});
  }
}

function ask(url: string, init: RequestInit = {}): Promise<Response> {
  return fetch(url, { signal: AbortSignal.timeout(40_000), ...init });
}
