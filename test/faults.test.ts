// Whichever process dies, an accepted job ends right or fails with a reason. Programs and servers are real and private:
// the tests kill, pause, cut off and empty them.
//
// The expected bytes are those of the one-machine program.
import { afterAll, afterEach, beforeAll, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { connect as tcp } from "node:net";
import { connect as amqp, type Channel } from "amqplib";
import { decode, encode } from "fast-png";
import { Redis } from "ioredis";
import { chunkIdOf, planBands } from "../chunk.ts";
import { transform } from "../cli/local.ts";
import { openLog } from "../ops/log.ts";
import { readImage } from "../picture/read.ts";
import { DEAD_LETTERS, QUEUE, queueOf, RabbitQueue } from "../queue.ts";
import { task as sobel } from "../sobel.ts";
import { Client, generator, startProxy, type TcpProxy } from "./faults.ts";
import { expectSame, inPieces } from "./pictures.ts";
import {
  binaries,
  describeWith,
  freePort,
  type Program,
  type RabbitMQ,
  type RedisServer,
  spawnProgram,
  startRabbitMQ,
  startRedis,
} from "./servers.ts";
import { sleep, until, within } from "./wait.ts";

type Bytes = Buffer<ArrayBuffer>;

/** No wait in this file is longer, ms; a test may wait several times. */
const DEADLINE = 25_000;
/** After two or three of these without traffic the broker closes a connection, s. */
const HEARTBEAT = 2;
/** 720 kB, 100 bands of 4 rows. */
const BAND_PIXELS = 2_400;
const BANDS = 100;
const VANISHED = "band 0 has vanished: the queue is empty, and no worker has it; a rejected band is in tareas.muertas";
const picture = noise(600, 400, 1);
/** The result is larger than the buffers between a coordinator and a client that does not read: 12 MB, 12 bands. */
const hugeWidth = 4_000;
const huge = noise(hugeWidth, 3_000, 2, 1);

let rabbitmq: RabbitMQ;
let redis: RedisServer;
let proxy: TcpProxy;
let store: Redis;
let edges: Bytes;
/** When the queues were declared, ms since 1970. */
let born: number;
/** How often each result was written. */
const stores = new Map<string, number>();
const programs: Program[] = [];
let alarmed = false;

describeWith(["rabbitmq", "redis"], "faults", () => {
  const closers: (() => unknown)[] = [];
  // Longer than the waits inside: when a test times out, `bun test` kills what it started, the servers included.
  setDefaultTimeout(90_000);

  beforeAll(async () => {
    [rabbitmq, redis] = await Promise.all([
      startRabbitMQ(),
      startRedis({ args: ["--appendonly", "yes", "--appendfsync", "always"] }),
    ]);
    proxy = await startProxy(await freePort(), rabbitmq.port);
    store = new Redis(redis.url, { maxRetriesPerRequest: null });
    store.on("error", () => {}); // it is stopped below
    const watcher = store.duplicate();
    watcher.on("error", () => {});
    // ioredis cannot read commands of other clients in the same packet as the answer to MONITOR: there are none yet.
    await Promise.all([store.ping(), watcher.ping()]);
    const monitor = await watcher.monitor();
    monitor.on("error", () => {});
    monitor.on("monitor", (_time: string, [command, key]: string[]) => {
      if (command.toLowerCase() === "set" && key.startsWith("resultado:")) stores.set(key, (stores.get(key) ?? 0) + 1);
    });
    edges = await edgesOf(picture, BAND_PIXELS);
    await startCoordinators(1); // it declares the queues
    await ended(programs[0]);
    born = Date.now();
    closers.push(
      () => proxy.refuse(),
      () => monitor.disconnect(),
      () => watcher.disconnect(),
      () => store.disconnect(),
      () => rabbitmq.stop(),
      () => redis.stop(),
    );
  });
  afterAll(async () => {
    for (const close of closers) await close();
  });
  beforeEach(() => stores.clear());
  /** Leaves nothing for the next test. Every program that still runs must exit with 0. */
  afterEach(async () => {
    await proxy.refuse();
    await proxy.accept();
    for (const program of programs) program.kill("SIGTERM");
    for (const program of programs.splice(0)) expect(await within(program.exited), program.out).toBe(0);
    if (alarmed) await alarm(false);
    await store.config("SET", "maxmemory", "0");
    await withChannel(async (channel) => {
      for (const queue of [QUEUE, DEAD_LETTERS]) await channel.purgeQueue(queue);
    });
    await store.flushall();
  });

  test("a worker killed in the middle of a band: another worker does that band", async () => {
    const [origin] = await startCoordinators(1);
    const crew = [await startWorker("one"), await startWorker("two"), await startWorker("three")];
    const { id, worker } = await stopInBand(origin, crew);
    await sleep(300);
    expect(await count(id, "done")).toBe(BANDS - 1); // no other worker has it
    await killed(worker);
    await expectEdges(origin, id);
  });

  test("all workers killed, new ones later: the job continues", async () => {
    const [origin] = await startCoordinators(1);
    const crew = [await startWorker("one"), await startWorker("two")];
    const { id, put } = send(origin, "?workers=4");
    await until(async () => (await count(id, "done")) > 10);
    await Promise.all(crew.map(killed));
    const before = await store.hgetall(`job:{${id}}:done`);
    expect(Object.keys(before).length).toBeLessThan(BANDS);
    await sleep(300);
    expect(await jobOf(origin, id)).toMatchObject({ state: "uploading", done: Object.keys(before).length });
    await startWorker("three");
    await expectAccepted(put);
    await expectEdges(origin, id);
    expect(await store.hgetall(`job:{${id}}:done`)).toMatchObject(before);
  });

  test("workers that get SIGTERM exit with 0, and no band is done twice", async () => {
    const [origin] = await startCoordinators(1);
    const crew = [await startWorker("one"), await startWorker("two"), await startWorker("three")];
    const { id, put } = send(origin, "?workers=8");
    await until(async () => (await count(id, "done")) > 10);
    for (const worker of crew.slice(0, 2)) worker.kill("SIGTERM");
    for (const worker of crew.slice(0, 2)) {
      expect([await within(worker.exited), worker.out]).toEqual([
        0,
        expect.stringMatching(/finishing the band in progress\n$/),
      ]);
    }
    expect(await count(id, "done")).toBeLessThan(BANDS);
    expect(await fleet(origin)).toEqual(["three"]);
    await expectAccepted(put);
    await expectEdges(origin, id);
    expectStoredOnce(id);
  });

  test("a worker that hangs (SIGSTOP) loses its band; its late result changes nothing", async () => {
    const [origin] = await startCoordinators(1);
    const crew = [await startWorker("one"), await startWorker("two"), await startWorker("three")];
    const { id, worker, others } = await stopInBand(origin, crew);
    await expectEdges(origin, id); // RabbitMQ redelivers its band
    const before = await store.hgetall(`job:{${id}}:done`);
    for (const other of others) await ended(other);
    worker.kill("SIGCONT");
    // It is alone now: the next job is done only if it comes back.
    const next = send(origin, "");
    await expectAccepted(next.put);
    await expectEdges(origin, next.id);
    expect(await store.hgetall(`job:{${id}}:done`)).toEqual(before);
    await expectEdges(origin, id);
  });

  const away: [string, () => Promise<void>][] = [
    ["restarted", () => rabbitmq.restart()],
    [
      "killed and started again",
      async () => {
        await rabbitmq.kill();
        await rabbitmq.restart();
      },
    ],
  ];

  test.each(away)("RabbitMQ %s: accepted jobs and those on their way end right", async (_, fault) => {
    const [origin] = await startCoordinators(1);
    // RabbitMQ 3.10 writes a new queue to disk some seconds after it has confirmed it: a kill before that loses the queue.
    await sleep(Math.max(0, born + 5_000 - Date.now()));
    const waiting = send(origin, `?workers=${BANDS}`);
    await expectAccepted(waiting.put);
    const { id, put } = send(origin, "?workers=2");
    await until(async () => (await count(id, "sent")) === 2);
    for (const name of ["one", "two"]) await startWorker(name);
    await until(async () => (await count(waiting.id, "done")) > 10);
    await fault();
    expect(await count(waiting.id, "done")).toBeLessThan(BANDS);
    await expectAccepted(put);
    await expectEdges(origin, waiting.id);
    await expectEdges(origin, id);
    await until(async () => (await ask(`${origin}/readyz`)).ok);
  });

  test("the connection to RabbitMQ cut again and again, and refused for a while: nothing is lost", async () => {
    const [origin] = await startCoordinators(1, { RABBITMQ_URL: throughProxy() });
    for (const name of ["one", "two"]) await startWorker(name, { RABBITMQ_URL: throughProxy() });
    const { id, put } = send(origin, "?workers=2");
    for (const done of [5, 25, 45]) {
      await until(async () => (await count(id, "done")) > done);
      proxy.cut();
    }
    // So often that it is cut while a program still sets up its channel.
    for (let i = 0; i < 100; i++) {
      proxy.cut();
      await sleep(10);
    }
    await until(async () => (await count(id, "done")) > 60);
    await proxy.refuse();
    await until(async () => (await ask(`${origin}/readyz`)).status === 503);
    await sleep(500); // for the bands in progress
    const before = await count(id, "done");
    await sleep(1_500);
    expect(await count(id, "done")).toBe(before);
    expect(before).toBeLessThan(BANDS);
    await proxy.accept();
    await expectAccepted(put);
    await expectEdges(origin, id);
    expect((await ask(`${origin}/readyz`)).status).toBe(200);
  });

  test("many bands go to RabbitMQ a few at a time, as the earlier ones are confirmed", async () => {
    const queue = await RabbitQueue.connect(throughProxy(), openLog("warn"));
    await until(() => queue.trouble() === null);
    await queue.publish(tiny("sobel", 0)); // the queue is known from now on
    const letGo = proxy.hold();
    const job = crypto.randomUUID();
    const crowd = Array.from({ length: 40 }, (_, i) => queue.publish(tiny("sobel", i, job)));
    const waiting = () => withChannel(async (channel) => (await channel.checkQueue(QUEUE)).messageCount);
    await until(async () => (await waiting()) >= 17);
    await sleep(500);
    expect(await waiting()).toBe(17);
    letGo();
    await Promise.all(crowd);
    expect(await waiting()).toBe(41);
    await withChannel((channel) => channel.purgeQueue(QUEUE));
    await queue.close();
  });

  test("all queues are consumed at once, and left at once: over a long way, one round trip", async () => {
    await withQueues(["one", "two", "three", "four"], async (queue, tasks) => {
      const consumers = async (expected: number) => {
        for (const task of tasks) await until(async () => (await queueState(task)).consumerCount === expected);
      };
      await (await queue.consume(tasks, async () => ({ do: "done" })))(); // the queues are known from now on
      const answer = proxy.hold();
      const subscribed = Promise.withResolvers<void>();
      const stop = await queue.consume(
        tasks,
        async () => ({ do: "done" }),
        () => subscribed.resolve(),
      );
      await consumers(1);
      answer();
      await subscribed.promise;
      const answerAgain = proxy.hold();
      const stopped = stop();
      await consumers(0);
      answerAgain();
      await stopped;
    });
  });

  test("a queue deleted while a band of another is in progress costs only itself, and is consumed again", async () => {
    await withQueues(["one", "two"], async (queue, tasks) => {
      const [begun, end] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
      const done: string[] = [];
      let lost = false;
      const stop = await queue.consume(tasks, async (delivery) => {
        const { task } = await delivery.open();
        delivery.lost?.then(() => (lost = true));
        begun.resolve();
        if (task === "one") await end.promise;
        done.push(task);
        return { do: "done" };
      });
      await queue.publish(tiny("one", 0));
      await begun.promise;
      await withChannel((channel) => channel.deleteQueue(queueOf("two")));
      await queue.publish(tiny("two", 1)); // it comes back, and the queue is declared again
      expect(await queueState("two")).toMatchObject({ messageCount: 1, consumerCount: 0 });
      end.resolve();
      await until(() => done.length === 2);
      expect([done, lost]).toEqual([["one", "two"], false]);
      for (const task of tasks) {
        await until(async () => (await queueState(task)).consumerCount === 1);
        expect(await queueState(task)).toMatchObject({ messageCount: 0 });
      }
      // While it is idle: it consumes again at once.
      await withChannel((channel) => channel.deleteQueue(queueOf("one")));
      await until(
        () =>
          queueState("one").then(
            ({ consumerCount }) => consumerCount === 1,
            () => false,
          ),
        4_000,
      );
      await stop();
    });
  });

  test("RabbitMQ closes the channel of a band that takes too long: another queue keeps its consumer", async () => {
    const limit = (timeout: number, tick: number) =>
      rabbitmq.ctl(
        "eval",
        `[application:set_env(rabbit, K, V) || {K, V} <- [{consumer_timeout, ${timeout}}, {channel_tick_interval, ${tick}}]].`,
      );
    await limit(1_000, 200);
    await withQueues(["one", "two"], async (queue, tasks) => {
      const [cut, end] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
      const lost: boolean[] = [];
      const stop = await queue.consume(tasks, async (delivery) => {
        lost.push(false);
        const i = lost.length - 1;
        delivery.lost?.then(() => {
          lost[i] = true;
          cut.resolve();
        });
        if (i === 0) await end.promise;
        return { do: "done" };
      });
      await queue.publish(tiny("one", 0));
      await within(cut.promise);
      await until(async () => (await queueState("one")).messageCount === 1);
      expect([(await queueState("one")).consumerCount, (await queueState("two")).consumerCount]).toEqual([0, 1]);
      end.resolve();
      for (const task of tasks) await until(async () => (await queueState(task)).consumerCount === 1);
      await until(async () => (await queueState("one")).messageCount === 0);
      expect(lost).toEqual([true, false]);
      await stop();
    });
    await limit(1_800_000, 60_000);
  });

  test("several bands that come back at once, as their queue was deleted, are enqueued once each", async () => {
    await withQueues(["one"], async (queue) => {
      await queue.publish(tiny("one", 0));
      const channels = () => rabbitmq.ctl("list_channels", "pid");
      const before = await channels();
      await withChannel((channel) => channel.deleteQueue(queueOf("one")));
      await Promise.all(Array.from({ length: 8 }, (_, i) => queue.publish(tiny("one", i))));
      await until(async () => (await queueState("one")).messageCount === 8);
      expect(await channels()).toBe(before); // none was closed: it could have a band in progress
    });
  });

  test("the connection to RabbitMQ cut while a worker subscribes: it subscribes on the next one", async () => {
    const queue = await RabbitQueue.connect(throughProxy(), openLog("warn"));
    await until(() => queue.trouble() === null);
    proxy.cut();
    const stop = await queue.consume(["sobel"], async () => ({ do: "done" }));
    await until(() => withChannel(async (channel) => (await channel.checkQueue(QUEUE)).consumerCount === 1));
    await stop();
    await queue.close();
  });

  test("while RabbitMQ does not answer, no band counts as lost, and not at once when it does", async () => {
    const [origin] = await startCoordinators(1, { RABBITMQ_URL: throughProxy() });
    const { id, put } = send(origin, `?workers=${BANDS}`);
    await expectAccepted(put);
    await withChannel(async (channel) => {
      // A client holds all bands and sends no heartbeat: they look lost.
      await channel.consume(QUEUE, () => {});
      await until(async () => {
        await jobOf(origin, id); // makes the coordinator look for the bands
        return (await store.hexists(`job:{${id}}`, "suspect")) === 1;
      });
      await proxy.refuse();
      await until(async () => (await ask(`${origin}/readyz`)).status === 503);
      await store.hset(`job:{${id}}`, "suspect", 1); // for very long
      expect((await jobOf(origin, id)).state).toBe("running");
      await proxy.accept();
      await until(async () => (await ask(`${origin}/readyz`)).ok);
      expect((await jobOf(origin, id)).state).toBe("running");
    });
    await startWorker("one");
    await expectEdges(origin, id);
  });

  test("a queue deleted while a job waits in it: the job fails with a reason, and may be sent again", async () => {
    const [origin] = await startCoordinators(1);
    const { id, put } = send(origin, `?workers=${BANDS}`);
    await expectAccepted(put);
    await withChannel((channel) => channel.deleteQueue(QUEUE));
    // As promised in docs/faults.md.
    await until(async () => (await jobOf(origin, id)).state === "failed", 30_000);
    expect((await jobOf(origin, id)).error).toBe(VANISHED);
    await startWorker("one");
    await expectAccepted(ask(`${origin}/jobs/${id}`, { method: "PUT", body: picture }));
    await expectEdges(origin, id);
  });

  test("RabbitMQ short of memory: uploads wait, accepted jobs continue, every request is answered", async () => {
    const [origin] = await startCoordinators(1);
    const accepted = send(origin, `?workers=${BANDS}`);
    await expectAccepted(accepted.put);
    await alarm(true);
    let answered = false;
    const { id, put } = send(origin, "");
    put.then(() => {
      answered = true;
    });
    await startWorker("one");
    await expectEdges(origin, accepted.id);
    // The upload waits for RabbitMQ. Requests that need no RabbitMQ must not.
    for (let i = 0; i < 15; i++) {
      expect((await within(jobOf(origin, id))).state).toBe("uploading");
      await sleep(100);
    }
    expect([answered, await count(id, "done")]).toEqual([false, 0]);
    await alarm(false);
    await expectAccepted(put);
    await expectEdges(origin, id);
  });

  test("Redis restarted with its data: nothing is lost", async () => {
    const [origin] = await startCoordinators(1);
    for (const name of ["one", "two"]) await startWorker(name);
    const { id, put } = send(origin, "?workers=2");
    await until(async () => (await count(id, "done")) > 10);
    await redis.kill();
    await redis.restart();
    const before = await store.hgetall(`job:{${id}}:done`);
    expect(Object.keys(before).length).toBeWithin(11, BANDS);
    await expectAccepted(put);
    await expectEdges(origin, id);
    expect(await store.hgetall(`job:{${id}}:done`)).toMatchObject(before);
  });

  test("Redis restarted empty: its jobs are gone at once for every client; the next job is fine", async () => {
    const [origin] = await startCoordinators(1);
    const accepted = send(origin, `?workers=${BANDS}`);
    await expectAccepted(accepted.put);
    const events = await ask(`${origin}/jobs/${accepted.id}/events`);
    const waiting = send(origin, "?workers=2");
    const posted = ask(`${origin}/tasks/sobel?workers=2`, { method: "POST", body: picture });
    await until(async () => (await count(waiting.id, "sent")) === 2);
    await until(async () => (await store.keys("job:*:sent")).length === 3);
    await redis.restart({ empty: true });
    for (const answer of [await within(waiting.put), await within(posted)]) {
      expect([answer.status, (await answer.json()).detail]).toEqual([410, "the job was cancelled or has expired"]);
    }
    expect(await within(events.text())).toMatch(/event: failed\ndata: .*\n\n$/);
    expect((await ask(`${origin}/jobs/${accepted.id}`)).status).toBe(404);
    await startWorker("one");
    const next = send(origin, "");
    await expectAccepted(next.put);
    await expectEdges(origin, next.id);
    await until(async () => (await messages(QUEUE)) === 0); // of the jobs that are gone
  });

  test("Redis paused for 5 s: nothing is lost", async () => {
    const [origin] = await startCoordinators(1);
    for (const name of ["one", "two"]) await startWorker(name);
    const { id, put } = send(origin, "?workers=2");
    await until(async () => (await count(id, "done")) > 10);
    redis.pause();
    const ready = ask(`${origin}/readyz`);
    await sleep(5_000);
    expect((await ready).status).toBe(503);
    redis.resume();
    expect(await count(id, "done")).toBeLessThan(BANDS);
    await expectAccepted(put);
    await expectEdges(origin, id);
  });

  test("Redis out of memory: an upload is refused and resent, an accepted job waits; nothing is lost", async () => {
    const [origin] = await startCoordinators(1);
    const accepted = send(origin, `?workers=${BANDS}`);
    await expectAccepted(accepted.put);
    const { id, put } = send(origin, "?workers=2");
    await until(async () => (await count(id, "sent")) === 2);
    const events = await ask(`${origin}/jobs/${id}/events`); // as the page does, all the while
    await store.config("SET", "maxmemory", "1mb");
    for (const name of ["one", "two"]) void startWorker(name).catch(() => {});
    const refused = await ask(`${origin}/tasks/sobel`, { method: "POST", body: picture });
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "5"]);
    await sleep(2_000);
    expect(await count(accepted.id, "done")).toBe(0);
    await store.config("SET", "maxmemory", "0");
    // In its window there was no room: it may have waited, or been refused.
    let { status } = await put;
    while (status === 503) ({ status } = await ask(`${origin}/jobs/${id}?workers=2`, { method: "PUT", body: picture }));
    expect(status).toBe(202);
    await expectEdges(origin, accepted.id);
    await expectEdges(origin, id);
    expect((await events.text()).match(/^event: band$/gm)).toHaveLength(BANDS);
  });

  test("the same coordinator resumes an upload that it refused in the middle, while the page follows", async () => {
    const [origin] = await startCoordinators(1);
    await startWorker("one");
    const id = crypto.randomUUID();
    let goOn = () => {};
    const rest = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    const body = new ReadableStream<Uint8Array>({
      async start(controller) {
        controller.enqueue(picture.subarray(0, picture.length / 2));
        await rest;
        controller.enqueue(picture.subarray(picture.length / 2));
        controller.close();
      },
    });
    const path = `${origin}/jobs/${id}?workers=${BANDS}`;
    const put = ask(path, { method: "PUT", body });
    await until(async () => (await count(id, "done")) > 3);
    const events = await ask(`${origin}/jobs/${id}/events`);
    await until(async () => (await count(id, "done")) === (await count(id, "sent")));
    await store.config("SET", "maxmemory", "1mb");
    goOn();
    const { status, headers } = await put;
    expect([status, headers.get("retry-after")]).toEqual([503, "5"]);
    const before = await store.hgetall(`job:{${id}}:done`);
    expect(Object.keys(before).length).toBeLessThan(BANDS);
    await store.config("SET", "maxmemory", "0");
    await expectAccepted(ask(path, { method: "PUT", body: picture }));
    await expectEdges(origin, id);
    expect(await store.hgetall(`job:{${id}}:done`)).toMatchObject(before);
    expect((await events.text()).match(/^event: band$/gm)).toHaveLength(BANDS);
  });

  test("a coordinator killed while the picture arrives: another resumes it, and no band is done twice", async () => {
    const [first, second] = await startCoordinators(2);
    for (const name of ["one", "two"]) await startWorker(name);
    const id = crypto.randomUUID();
    const client = tcp(Number(new URL(first).port), "127.0.0.1");
    client.on("error", () => {});
    client.write(`PUT /jobs/${id} HTTP/1.1\r\nhost: test\r\ncontent-length: ${picture.length}\r\n\r\n`);
    client.write(picture.subarray(0, picture.length / 2));
    await until(async () => (await count(id, "done")) > 3);
    await until(async () => (await count(id, "done")) === (await count(id, "sent")));
    const before = await store.hgetall(`job:{${id}}:done`);
    await killed(programs[0]);
    expect(await jobOf(second, id)).toMatchObject({ state: "uploading", error: null });

    await expectAccepted(ask(`${second}/jobs/${id}`, { method: "PUT", body: picture }));
    await expectEdges(second, id);
    expect(await store.hgetall(`job:{${id}}:done`)).toMatchObject(before);
    expectStoredOnce(id);
  });

  test("a coordinator killed after 202: another serves the result", async () => {
    const [first, second] = await startCoordinators(2);
    const { id, put } = send(first, `?workers=${BANDS}`);
    await expectAccepted(put);
    await killed(programs[0]);
    expect(await jobOf(second, id)).toMatchObject({ state: "running", done: 0 });
    await startWorker("one");
    await expectEdges(second, id);
  });

  test("a coordinator killed while the result is fetched: another serves the rest", async () => {
    const [first, second] = await startCoordinators(2, { BAND_PIXELS: "1048576" });
    for (const name of ["one", "two"]) await startWorker(name);
    const id = crypto.randomUUID();
    await expectAccepted(ask(`${first}/jobs/${id}`, { method: "PUT", body: huge }));
    await until(async () => (await jobOf(second, id)).state === "done");
    const expected = await edgesOf(huge, 1_048_576);

    const client = tcp(Number(new URL(first).port), "127.0.0.1");
    const parts: Buffer[] = [];
    const cut = new Promise<void>((resolve) => client.on("error", () => {}).on("close", () => resolve()));
    // The head arrives in many parts. The coordinator is killed at the first bytes of the body, before the client reads more.
    client.on("data", (part: Buffer) => {
      parts.push(part);
      if (/\r\n\r\n./s.test(Buffer.concat(parts).toString("latin1"))) programs[0].kill("SIGKILL");
    });
    client.write(`GET /jobs/${id}/result HTTP/1.1\r\nhost: test\r\n\r\n`);
    await within(cut);
    await killed(programs[0]);
    const answer = Buffer.concat(parts);
    const body = answer.indexOf("\r\n\r\n") + 4;
    const head = answer.subarray(0, body).toString();
    expect(head).toMatch(/^HTTP\/1\.1 200 .*^transfer-encoding: chunked\r$/ims);
    const [, etag] = head.match(/^etag: (.*)\r$/im)!;
    const start = unchunked(answer.subarray(body));
    expect(start.length).toBeWithin(1, expected.length);

    const headers = { range: `bytes=${start.length}-`, "if-range": etag };
    const rest = await ask(`${second}/jobs/${id}/result`, { headers });
    expect(rest.status).toBe(206);
    expectSame(Buffer.concat([start, await bytesOf(rest)]), expected);
  });

  test("a task that kills its worker fails its own job, after five; jobs of other tasks on the same worker go on", async () => {
    const TASKS = "test/tasks/killer.ts";
    const [origin] = await startCoordinators(1, { TASKS });
    const deadly = send(origin, `?task=killer&workers=${BANDS}`);
    await expectAccepted(deadly.put);
    const others = [send(origin, `?workers=${BANDS}`), send(origin, `?task=scharr&workers=${BANDS}`)];
    for (const { put } of others) await expectAccepted(put);
    // Under the same name, as Kubernetes restarts it.
    let deaths = 0;
    while ((await jobOf(origin, deadly.id)).state === "running" && deaths < 10) {
      const worker = spawnProgram("worker.ts", { ...servers(), TASKS, WORKER_NAME: "one" });
      const failed = until(async () => (await jobOf(origin, deadly.id)).state === "failed");
      await Promise.race([worker.exited, failed]);
      if ((await jobOf(origin, deadly.id)).state === "failed") programs.push(worker);
      else expect(await within(worker.exited)).toBe(128 + 9);
      deaths++;
      failed.catch(() => {}); // it goes on beside the next
    }
    expect(deaths).toBe(6);
    const why = "5 workers died while they computed it";
    const { error } = await jobOf(origin, deadly.id);
    const [, band] = /^band (\d+): (.*)$/.exec(error)!;
    expect(error).toBe(`band ${band}: ${why}`);
    for (const { id } of others) await until(async () => (await jobOf(origin, id)).state === "done");
    await expectEdges(origin, others[0].id);
    await withChannel(async (channel) => {
      const deadLettered = await channel.get(DEAD_LETTERS);
      if (!deadLettered) throw new Error("no dead letter");
      const { messageId, headers } = deadLettered.properties;
      const expected = [`{${deadly.id}}:${band}`, why, `${QUEUE}.killer`];
      expect([messageId, headers?.["x-reason"], headers?.["x-queue"]]).toEqual(expected);
      expect(deadLettered.fields.messageCount).toBe(0);
      for (const task of ["killer", "scharr"]) await channel.deleteQueue(`${QUEUE}.${task}`);
    });
    expect(await messages(QUEUE)).toBe(0);
  });

  test("a band that was redelivered often is enqueued anew, and done", async () => {
    const [origin] = await startCoordinators(1);
    const { id, put } = send(origin, `?workers=${BANDS}`);
    await expectAccepted(put);
    for (let deliveries = 0; deliveries < 18; deliveries++) {
      await withChannel(async (channel) => {
        await channel.get(QUEUE);
      }); // closed with the message unsettled
    }
    await startWorker("one");
    await expectEdges(origin, id);
    expect([await messages(QUEUE), await messages(DEAD_LETTERS)]).toEqual([0, 0]);
  });

  test("a band acknowledged by a worker that then died: its job fails with a reason; other jobs go on", async () => {
    const [origin] = await startCoordinators(1);
    const { id, put } = send(origin, `?workers=${BANDS}`);
    await expectAccepted(put);
    await withChannel(async (channel) => {
      await channel.get(QUEUE, { noAck: true });
    });
    await startWorker("one");
    await until(async () => (await count(id, "done")) === BANDS - 1);
    const other = send(origin, "");
    await expectAccepted(other.put);
    await expectEdges(origin, other.id);
    expect(await jobOf(origin, id)).toMatchObject({ state: "running", error: null });
    await until(async () => (await jobOf(origin, id)).state === "failed", 30_000);
    expect((await jobOf(origin, id)).error).toBe(VANISHED);
  });

  test("the drill: 200 jobs, a fault every second, nothing wrong, lost or left over", async () => {
    const seed = Number(process.env.FAULT_SEED || Math.floor(Math.random() * 1e9));
    console.log(`FAULT_SEED=${seed}`);
    const drill = new Drill(generator(seed));
    await drill.start();
    const jobs = await drill.run(200, 7);
    const recovery = drill.longestRecovery(jobs);
    const counts = { faults: drill.faults.length, jobs: jobs.length, ...drill.failures };
    const left = await drill.leftOver();
    console.log(drill.faults.map(({ name, at }) => `${(at / 1000).toFixed(1)} s ${name}`).join("\n"));
    console.log({ seed, ...counts, leftOver: left.length, retries: drill.retries, longestRecoveryMs: recovery });
    expect(drill.troubles).toEqual([]);
    expect(left).toEqual([]);
    expect(jobs.length).toBe(200);
    expect(drill.faults.length).toBeGreaterThan(20);
  }, 150_000);
});

interface Ended {
  start: number;
  end: number;
}

interface Hand {
  name: string;
  runtime: "bun" | "deno";
  program: Program;
}

/** Two coordinators, three workers, a mixed load, random faults. Every picture differs, so a mixed-up result shows. */
class Drill {
  readonly faults: { name: string; at: number }[] = [];
  readonly failures = { wrong: 0, lost: 0 };
  readonly troubles: string[] = [];
  retries = 0;
  readonly #random: () => number;
  readonly #began = Date.now();
  readonly #env = { RABBITMQ_URL: throughProxy(), BAND_PIXELS: "4000", RESULT_TTL_SECONDS: "40" };
  /** With the pixels of their edges: how a PNG is cut depends on `workers`. */
  readonly #pictures: { bytes: Bytes; edges: Bytes }[] = [];
  readonly #origins: string[] = [];
  readonly #coordinators: { port: number; program: Program }[] = [];
  readonly #workers: Hand[] = [];
  /** Undoes a fault. */
  readonly #mending = new Set<Promise<unknown>>();

  constructor(random: () => number) {
    this.#random = random;
  }

  async start(): Promise<void> {
    for (let bands = 1; bands <= 12; bands++) {
      for (const colour of [1, 3] as const) {
        const [width, height] = [80 + Math.floor(this.#random() * 20), 40 * bands];
        const bytes = noise(width, height, Math.floor(this.#random() * 1e9), colour);
        expect(planBands(width, height, 1, { pixels: 4_000 }).bands).toBeWithin(bands === 1 ? 1 : 2, 13);
        this.#pictures.push({ bytes, edges: pixelsOf(await edgesOf(bytes, 4_000)) });
      }
    }
    for (let i = 0; i < 2; i++) {
      const port = await freePort();
      const { origin, program } = await startCoordinator(port, this.#env);
      this.#origins.push(origin);
      this.#coordinators.push({ port, program });
    }
    for (const name of ["one", "two", "three"]) {
      const runtime = name === "three" && binaries.deno ? "deno" : "bun";
      this.#workers.push({ name, runtime, program: await startWorker(name, this.#env, runtime) });
    }
  }

  /** Starts this many jobs at once every second, and a fault while they run. */
  async run(number: number, perSecond: number): Promise<Ended[]> {
    const jobs: Promise<Ended | undefined>[] = [];
    while (jobs.length < number) {
      for (let i = 0; i < perSecond && jobs.length < number; i++) jobs.push(this.#job(jobs.length));
      const delay = Math.floor(this.#random() * 200);
      await sleep(delay);
      this.#fault();
      await sleep(1_000 - delay);
    }
    const ended = await Promise.all(jobs);
    while (this.#mending.size > 0) await Promise.all(this.#mending);
    return ended.filter((job) => job !== undefined);
  }

  /** The longest time from a fault to the end of the jobs that ran at that moment, ms. */
  longestRecovery(jobs: Ended[]): number {
    const recoveries = this.faults.map(({ at }) => {
      const hit = jobs.filter(({ start, end }) => start <= at && end >= at);
      return Math.max(0, ...hit.map(({ end }) => end - at));
    });
    return Math.max(...recoveries);
  }

  /** Keys and messages that are left after everything that expires has had the time to. */
  async leftOver(): Promise<string[]> {
    const rest = async () => [
      ...(await keys()),
      ...(await Promise.all([QUEUE, DEAD_LETTERS].map(messages))).flatMap((count, i) =>
        count ? [`${count} in ${i}`] : [],
      ),
    ];
    for (const deadline = Date.now() + 45_000; Date.now() < deadline; await sleep(200)) {
      if ((await rest()).length === 0) return [];
    }
    return rest();
  }

  async #job(number: number): Promise<Ended | undefined> {
    const { bytes, edges } = this.#pictures[number % this.#pictures.length];
    const query = ["", "?workers=1", "?workers=2", "?workers=3"][Math.floor(this.#random() * 4)];
    const post = this.#random() < 0.5;
    const client = new Client(this.#random() < 0.5 ? this.#origins : this.#origins.toReversed());
    const start = Date.now() - this.#began;
    try {
      const id = crypto.randomUUID();
      const got = post ? await client.post(bytes, query) : await client.put(id, bytes, query);
      if (!pixelsOf(got).equals(edges)) {
        this.failures.wrong++;
        this.troubles.push(`job ${number}: wrong pixels`);
      }
      return { start, end: Date.now() - this.#began };
    } catch (error) {
      this.failures.lost++;
      this.troubles.push(`job ${number}, ${post ? "POST" : "PUT"}${query}: ${(error as Error).message}`);
      return undefined;
    } finally {
      this.retries += client.retries;
    }
  }

  #fault(): void {
    const any = <T>(list: T[]) => list[Math.floor(this.#random() * list.length)];
    const worker = any(this.#workers);
    const coordinator = any(this.#coordinators);
    const faults: [string, () => unknown][] = [
      [`worker ${worker.name} SIGKILL`, () => this.#respawn(worker, "SIGKILL")],
      [`worker ${worker.name} SIGTERM`, () => this.#respawn(worker, "SIGTERM")],
      [
        `worker ${worker.name} SIGSTOP`,
        async () => {
          const { program } = worker;
          program.kill("SIGSTOP");
          await sleep(3_000);
          program.kill("SIGCONT");
        },
      ],
      [
        `coordinator ${coordinator.port} SIGKILL`,
        async () => {
          const { port, program } = coordinator;
          if (!programs.includes(program)) return; // it is on its way back already
          await killed(program);
          coordinator.program = (await startCoordinator(port, this.#env)).program;
        },
      ],
      ["RabbitMQ's connections cut", () => proxy.cut()],
      [
        "Redis paused for 1 s",
        async () => {
          redis.pause();
          await sleep(1_000);
          redis.resume();
        },
      ],
      ["Redis's connections cut", () => store.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")],
      ["Redis's subscribers cut", () => store.call("CLIENT", "KILL", "TYPE", "pubsub")],
    ];
    const [name, fault] = any(faults);
    this.faults.push({ name, at: Date.now() - this.#began });
    const mended = Promise.resolve(fault()).catch((error) => this.troubles.push(`${name}: ${error.message}`));
    this.#mending.add(mended);
    mended.finally(() => this.#mending.delete(mended));
  }

  async #respawn(worker: Hand, signal: "SIGKILL" | "SIGTERM"): Promise<void> {
    const { program, name, runtime } = worker;
    if (!programs.includes(program)) return; // it is on its way back already
    if (signal === "SIGKILL") await killed(program);
    else await ended(program);
    worker.program = await startWorker(name, this.#env, runtime);
  }
}

function pixelsOf(png: Uint8Array): Bytes {
  return Buffer.from(decode(png).data);
}

/** RabbitMQ's memory alarm. */
async function alarm(on: boolean): Promise<void> {
  alarmed = on;
  await rabbitmq.ctl("set_vm_memory_high_watermark", ...(on ? ["0.0001"] : ["absolute", "1GiB"]));
}

/**
 * The origins of coordinators, in the order in which `programs` has them.
 *
 * @param env besides where the servers are
 */
async function startCoordinators(number: number, env: Record<string, string> = {}): Promise<string[]> {
  const ports = await Promise.all(Array.from({ length: number }, freePort));
  const started = await Promise.all(ports.map((port) => startCoordinator(port, env)));
  return started.map(({ origin }) => origin);
}

async function startCoordinator(port: number, env: Record<string, string>) {
  const all = { ...servers(), PORT: String(port), BAND_PIXELS: String(BAND_PIXELS), ...env };
  const program = spawnProgram("coordinator.ts", all);
  programs.push(program);
  const [, origin] = await program.waitFor(/Sobel, distributed: (http:\S+)/, DEADLINE);
  await until(async () => (await ask(`${origin}/readyz`)).ok);
  return { origin, program };
}

async function startWorker(name: string, env: Record<string, string> = {}, runtime: "bun" | "deno" = "bun") {
  const program = spawnProgram("worker.ts", { ...servers(), WORKER_NAME: name, ...env }, runtime);
  programs.push(program);
  await program.waitFor(/: at work\n/, DEADLINE);
  return program;
}

function servers(): Record<string, string> {
  return { RABBITMQ_URL: `${rabbitmq.url}?heartbeat=${HEARTBEAT}`, REDIS_URL: redis.url, RESULT_TTL_SECONDS: "300" };
}

function throughProxy(heartbeat = HEARTBEAT): string {
  return `amqp://guest:guest@127.0.0.1:${proxy.port}?heartbeat=${heartbeat}`;
}

/** Sends the picture; `put` is its answer. */
function send(origin: string, query: string): { id: string; put: Promise<Response> } {
  const id = crypto.randomUUID();
  const put = ask(`${origin}/jobs/${id}${query}`, { method: "PUT", body: picture });
  put.catch(() => {}); // it is awaited later
  return { id, put };
}

/**
 * Sends a job and stops one of the workers during a band: the others then do all bands but one. If the worker was stopped
 * between two bands, it tries again with the next job.
 */
async function stopInBand(origin: string, crew: Program[]) {
  const [worker, ...others] = crew;
  for (let tries = 0; tries < 10; tries++) {
    const { id, put } = send(origin, "?workers=8");
    await until(async () => (await count(id, "done")) > 10);
    worker.kill("SIGSTOP");
    await expectAccepted(put);
    await until(async () => (await count(id, "done")) >= BANDS - 1);
    await sleep(200);
    if ((await count(id, "done")) === BANDS - 1) return { id, worker, others };
    worker.kill("SIGCONT");
  }
  throw new Error("the worker had no band in its hands, in ten tries");
}

/** Kills a program with SIGKILL, and waits for its end. */
async function killed(program: Program): Promise<void> {
  programs.splice(programs.indexOf(program), 1);
  program.kill("SIGKILL");
  expect(await within(program.exited), program.out).toBe(128 + 9);
}

async function ended(program: Program): Promise<void> {
  programs.splice(programs.indexOf(program), 1);
  program.kill("SIGTERM");
  expect(await within(program.exited), program.out).toBe(0);
}

async function expectAccepted(put: Promise<Response>): Promise<void> {
  const answer = await put;
  if (answer.status !== 202) throw new Error(`expected 202, got ${answer.status}: ${await answer.text()}`);
}

async function expectEdges(origin: string, id: string): Promise<void> {
  await until(async () => (await jobOf(origin, id)).state !== "running");
  expect(await jobOf(origin, id)).toMatchObject({ state: "done", error: null, done: BANDS });
  expectSame(await bytesOf(await ask(`${origin}/jobs/${id}/result`)), edges);
}

async function jobOf(origin: string, id: string) {
  const answer = await ask(`${origin}/jobs/${id}`);
  const job = await answer.json();
  if (!answer.ok) throw new Error(`expected success, got ${answer.status}: ${job.detail}`);
  return job;
}

async function fleet(origin: string): Promise<string[]> {
  const { workers } = await (await ask(`${origin}/workers`)).json();
  return workers.map(({ name }: { name: string }) => name).toSorted();
}

/** Number of bands of a job that were sent, or are done. */
function count(id: string, what: "sent" | "done"): Promise<number> {
  return store.hlen(`job:{${id}}:${what}`);
}

function expectStoredOnce(id: string): void {
  const expected = Array.from({ length: BANDS }, (_, band) => [`resultado:{${id}}:${band}`, 1]);
  const got = [...stores].filter(([key]) => key.startsWith(`resultado:{${id}}`));
  expect(Object.fromEntries(got)).toEqual(Object.fromEntries(expected));
}

/** All keys except those of the workers. */
async function keys(): Promise<string[]> {
  return (await store.keys("*")).filter((key) => key !== "workers" && !key.startsWith("worker:"));
}

async function messages(queue: string): Promise<number> {
  return withChannel(async (channel) => (await channel.checkQueue(queue)).messageCount);
}

/** A client of queues that no other test uses. Its connection and what it holds stay as they are for a minute. */
async function withQueues(tasks: string[], step: (queue: RabbitQueue, tasks: string[]) => Promise<void>) {
  const queue = await RabbitQueue.connect(throughProxy(60), openLog("error"), 60_000);
  await until(() => queue.trouble() === null);
  await step(queue, tasks);
  await queue.close();
  await withChannel((channel) => Promise.all(tasks.map((task) => channel.deleteQueue(queueOf(task)))));
}

function queueState(task: string) {
  return withChannel((channel) => channel.checkQueue(queueOf(task)));
}

/** A band of three pixels. */
function tiny(task: string, band: number, job: string = crypto.randomUUID()) {
  const size = { width: 3, height: 1, channels: 1 as const };
  return { task, chunkId: chunkIdOf(job, band), halo: [0, 0] as [number, number], ...size, pixels: new Uint8Array(3) };
}

/** A connection for one step: earlier ones may have died with the server. Unsettled messages are requeued at its end. */
async function withChannel<T>(step: (channel: Channel) => Promise<T>): Promise<T> {
  const connection = await amqp(rabbitmq.url);
  connection.on("error", () => {});
  const channel = await connection.createChannel();
  channel.on("error", () => {}); // its user gets the error
  try {
    return await step(channel);
  } finally {
    await connection.close().catch(() => {});
  }
}

function ask(url: string, init: RequestInit = {}): Promise<Response> {
  return fetch(url, { signal: AbortSignal.timeout(DEADLINE + 10_000), ...init });
}

async function bytesOf(answer: Response): Promise<Bytes> {
  const bytes = Buffer.from(await answer.arrayBuffer());
  if (!answer.ok) throw new Error(`expected success, got ${answer.status}: ${bytes}`);
  return bytes;
}

async function edgesOf(bytes: Uint8Array, bandPixels: number): Promise<Bytes> {
  return Buffer.concat(await Array.fromAsync(transform(await readImage(inPieces(bytes)), sobel, bandPixels)));
}

/** What has arrived of a chunked body (RFC 9112, 7.1), the last chunk cut. */
function unchunked(body: Buffer): Bytes {
  const parts: Buffer[] = [];
  for (let at = 0; ; ) {
    const end = body.indexOf("\r\n", at);
    if (end < 0) return Buffer.concat(parts);
    const length = Number.parseInt(body.subarray(at, end).toString(), 16);
    parts.push(body.subarray(end + 2, end + 2 + length));
    at = end + 2 + length + 2;
  }
}

function noise(width: number, height: number, seed: number, channels: 1 | 3 = 3): Bytes {
  const random = generator(seed);
  const data = new Uint8Array(width * height * channels).map(() => random() * 256);
  return Buffer.from(encode({ width, height, data, channels }, { zlib: { level: 1 } }));
}
