// More load than the programs can handle at once: a large job beside small ones, a thousand clients that follow a job, uploads
// and downloads that hardly move. Small jobs are not starved, what is held for a client is bounded, and a refused client
// gets a time for its retry.
//
// Most programs are real processes. No test measures time: what is compared is orders, counts and bytes.
import { afterEach, beforeAll, describe, expect, setDefaultTimeout, spyOn, test } from "bun:test";
import { connect, type Socket } from "node:net";
import { encode } from "fast-png";
import { Redis } from "ioredis";
import { chunkIdOf } from "../chunk.ts";
import { Upload } from "../http/upload.ts";
import { openLog } from "../ops/log.ts";
import { RabbitQueue } from "../queue.ts";
import { RedisResults } from "../results.ts";
import { loadTasks } from "../tasks/index.ts";
import { Worker } from "../worker.ts";
import { type Bytes, bytesOf, edgesOf, parsedEvents, rawUpload, startKit } from "./kit.ts";
import { expectSame, random } from "./pictures.ts";
import { describeWith, type Program, type RabbitMQ, type RedisServer, sharedServers, spawnProgram } from "./servers.ts";
import { sleep, until } from "./wait.ts";

setDefaultTimeout(60_000);

const BAND_PIXELS = 20_000;
/** One band. */
const small = png(100, 80);
/** 300 bands, and more bytes than are read before the first band is sent. */
const large = png(1000, 6000);
const LARGE_BANDS = 300;
/** 24 MB; its result has 17 MB, four times what the kernel buffers of a connection. */
const huge = png(1000, 24_000);

describeWith(["rabbitmq", "redis"], "overload", () => {
  let rabbitmq: RabbitMQ;
  let redis: RedisServer;
  let store: Redis;
  let edges: Bytes;
  const programs: Program[] = [];
  const sockets: Socket[] = [];
  const crews: { stop(): Promise<void> }[] = [];
  beforeAll(async () => {
    ({ rabbitmq, redis } = await sharedServers());
    edges = await edgesOf(small, BAND_PIXELS);
    store = new Redis(redis.url);
    return () => store.disconnect();
  });
  afterEach(async () => {
    for (const socket of sockets.splice(0)) socket.destroy();
    for (const crew of crews.splice(0)) await crew.stop();
    for (const program of programs) program.kill();
    for (const program of programs.splice(0)) expect(await program.exited, program.out).toBe(0);
  });

  async function start(file: "coordinator.ts" | "worker.ts", env: Record<string, string> = {}): Promise<string> {
    const servers = { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url, BAND_PIXELS: String(BAND_PIXELS) };
    const program = spawnProgram(file, { ...servers, PORT: "0", ...env });
    programs.push(program);
    const [, origin = ""] = await program.waitFor(/distributed: (http:\S+)|: at work\n/, 20_000);
    if (origin) await until(async () => (await fetch(`${origin}/readyz`)).ok);
    return origin;
  }

  /** Sends a request and `body`. The socket is paused: nothing of the answer is read until the test resumes it. */
  async function open(origin: string, head: string, body: Uint8Array = Buffer.alloc(0), length = body.length) {
    const { hostname, port } = new URL(origin);
    const socket = connect(Number(port), hostname).pause();
    sockets.push(socket);
    socket.on("error", () => {}); // `close` follows
    await new Promise((resolve, reject) => socket.once("connect", resolve).once("close", reject));
    socket.write(`${head} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: ${length}\r\n\r\n`);
    socket.write(body);
    return socket;
  }

  const put = (origin: string, id: string, body: Bytes) => fetch(`${origin}/jobs/${id}`, { method: "PUT", body });
  const jobAt = async (origin: string, id: string) => (await fetch(`${origin}/jobs/${id}`)).json();

  test("a small job waits for a few bands of a large one, not for all", async () => {
    const origin = await start("coordinator.ts");
    const crew = await startGatedWorkers(2);
    const id = crypto.randomUUID();
    const accepted = put(origin, id, large);
    await until(async () => (await crew.waiting()) >= 2);
    for (let round = 0; round < 5; round++) {
      const next = crypto.randomUUID();
      const before = crew.delivered.length;
      expect((await put(origin, next, small)).status).toBe(202);
      // The workers go on until they have the small job's band, and so never finish the large job.
      crew.runUntil(chunkIdOf(next, 0));
      await until(async () => (await jobAt(origin, next)).state === "done");
      // Ahead of the small job is what was in the queue: at most two bands per live worker.
      expect(crew.delivered.indexOf(chunkIdOf(next, 0)) - before).toBeLessThan(LARGE_BANDS / 10);
      expectSame(await bytesOf(await fetch(`${origin}/jobs/${next}/result`)), edges);
    }
    expect((await jobAt(origin, id)).done).toBeLessThan(LARGE_BANDS);
    crew.runUntil(null);
    expect((await accepted).status).toBe(202);
    await until(async () => (await jobAt(origin, id)).done === LARGE_BANDS);
    await fetch(`${origin}/jobs/${id}`, { method: "DELETE" });
  });

  /** Workers in this process, each with its own connections. They take bands only between `runUntil` and its chunk. */
  async function startGatedWorkers(count: number) {
    const [log, tasks, delivered] = [openLog("error"), await loadTasks(), [] as string[]];
    let last: string | null = "";
    let gate = Promise.withResolvers<void>();
    const crew = Array.from({ length: count }, async (_, i) => {
      const queue = await RabbitQueue.connect(rabbitmq.url, log);
      const results = new RedisResults(redis.url, 60, true);
      const consume = queue.consume.bind(queue);
      queue.consume = (names, handle) =>
        consume(names, async (delivery) => {
          await gate.promise;
          delivered.push(delivery.chunkId);
          if (delivery.chunkId === last) gate = Promise.withResolvers();
          return handle(delivery);
        });
      const worker = new Worker({ queue, results, tasks, name: `gated-${i}`, bandTimeout: 10_000, log });
      await worker.start();
      return { queue, results, worker };
    });
    const members = await Promise.all(crew);
    const gated = {
      /** Every delivery, in order. */
      delivered,
      waiting: async () => (await members[0].queue.depth("sobel").catch(() => ({ waiting: 0 }))).waiting,
      /** @param chunkId null: for good */
      runUntil(chunkId: string | null) {
        last = chunkId;
        gate.resolve();
      },
      async stop() {
        gated.runUntil(null);
        for (const { queue, results, worker } of members) {
          await worker.stop();
          await queue.close();
          await results.close();
        }
      },
    };
    crews.push(gated);
    return gated;
  }

  test("a thousand clients follow a job: each gets the same events, and the coordinator still answers", async () => {
    const origin = await start("coordinator.ts");
    const id = crypto.randomUUID();
    const accepted = await put(origin, id, small);
    expect([accepted.status, (await accepted.json()).waiting]).toEqual([202, true]);
    const connections = async () => ((await store.client("LIST")) as string).trim().split("\n").length;
    const before = await connections();
    const streams = Array.from({ length: 1000 }, () => "");
    for (const i of streams.keys()) {
      const socket = await open(origin, `GET /jobs/${id}/events`);
      socket.setEncoding("latin1").on("data", (text: string) => {
        streams[i] += text;
      });
      socket.resume();
    }
    await until(() => streams.every((text) => text.includes("event: job")));
    await until(() => streams.every((text) => text.includes(": still here")));
    for (const path of ["/healthz", "/readyz", `/jobs/${id}`]) expect((await fetch(origin + path)).status).toBe(200);
    expect(await connections()).toBe(before);
    await start("worker.ts");
    await until(() => streams.every((text) => text.includes("event: done")));
    const count = (name: string) => [...new Set(streams.map((text) => text.split(`event: ${name}\n`).length - 1))];
    expect([count("band"), count("done"), count("failed")]).toEqual([[1], [1], [0]]);
    await fetch(`${origin}/jobs/${id}`, { method: "DELETE" });
  });

  test("uploads that hardly move: the next one gets 503, the rest of the API answers, and all end well", async () => {
    const origin = await start("coordinator.ts", { MAX_JOBS: "50" });
    await start("worker.ts");
    const half = small.length >> 1;
    const post = () => fetch(`${origin}/tasks/sobel`, { method: "POST", body: small });
    const slow = await Promise.all(
      Array.from({ length: 50 }, () => open(origin, "POST /tasks/sobel", small.subarray(0, half), small.length)),
    );
    const refused = await until(async () => {
      const answer = await post();
      return answer.status === 503 ? answer : undefined;
    });
    expect(refused.headers.get("retry-after")).toMatch(/^\d+$/);
    expect((await refused.json()).detail).toBe("too many uploads in progress (50); retry later");
    for (const path of ["/healthz", "/readyz", "/workers"]) expect((await fetch(origin + path)).status).toBe(200);
    // One upload that ends makes place for one other, as often as it is asked for.
    const [first, ...rest] = slow;
    const answer = wholeOf(first);
    first.write(small.subarray(half));
    expect(await answer).toStartWith("HTTP/1.1 200");
    for (let i = 0; i < 3; i++) expectSame(await bytesOf(await post()), edges);
    const answers = rest.map((socket) => wholeOf(socket));
    for (const socket of rest) socket.write(small.subarray(half));
    for (const answer of await Promise.all(answers)) expect(answer).toStartWith("HTTP/1.1 200");
  });

  test("of a download that is not read, only what the connection buffers is loaded", async () => {
    const origin = await start("coordinator.ts", { BAND_PIXELS: "100000" });
    await start("worker.ts");
    const id = crypto.randomUUID();
    const bands = 240;
    expect((await put(origin, id, huge)).status).toBe(202);
    await until(async () => (await jobAt(origin, id)).state === "done");
    const loads = async () => Number(/cmdstat_get:calls=(\d+)/.exec(await store.info("commandstats"))![1]);
    const before = await loads();
    const whole = await bytesOf(await fetch(`${origin}/jobs/${id}/result`));
    expect((await loads()) - before).toBe(bands);
    const idle = await Promise.all(Array.from({ length: 10 }, () => open(origin, `GET /jobs/${id}/result`)));
    await until(async () => (await loads()) - before >= bands + idle.length);
    expectSame(await bytesOf(await fetch(`${origin}/jobs/${id}/result`)), whole);
    expect((await loads()) - before - 2 * bands).toBeLessThan((idle.length * bands) / 2);
    expect((await wholeOf(idle[0])).length).toBeGreaterThan(whole.length);
    await fetch(`${origin}/jobs/${id}`, { method: "DELETE" });
  });
});

describe("what is held for a client is bounded", () => {
  test("a thousand clients that follow a job share one watch of it", async () => {
    const kit = await startKit({ workers: 0 });
    const id = crypto.randomUUID();
    expect((await kit.ask(`/jobs/${id}`, { method: "PUT", body: small })).status).toBe(202);
    const open = () => kit.app.fetch(new Request(`http://localhost/jobs/${id}/events`));
    const streams = await Promise.all(Array.from({ length: 1000 }, open));
    expect(kit.results.opened).toBe(1);
    await kit.startWorkers(1);
    for (const stream of streams) expect(parsedEvents(await stream.text()).at(-1)!.event).toBe("done");
    await until(() => kit.results.watched === 0);
    await kit.stop();
  });

  /** A job of 48 MB of events, several times what the kernel buffers of a connection; and a client that reads none of them. */
  async function unreadEvents() {
    const kit = await startKit({ workers: 0 });
    const [other, id] = [crypto.randomUUID(), crypto.randomUUID()];
    const bands = 3000;
    expect((await kit.ask(`/jobs/${other}`, { method: "PUT", body: small })).status).toBe(202);
    const job = (await kit.results.findJob(other))!;
    await kit.ask(`/jobs/${other}`, { method: "DELETE" });
    await kit.results.putJob({ ...job, id, bands });
    const enqueue = spyOn(ReadableStreamDefaultController.prototype, "enqueue");
    const setTimer = spyOn(globalThis, "setInterval");
    const client = await rawUpload(kit.origin, `GET /jobs/${id}/events`, 0);
    await until(() => enqueue.mock.calls.length > 0);
    const [beat] = setTimer.mock.calls[0] as [() => Promise<void>];
    setTimer.mockRestore();
    client.socket.pause();
    const done = { worker: "w".repeat(16_000), deliveries: 0, ms: 1, crc: 0, bytes: 1 };
    for (let band = 0; band < bands; band++) {
      await kit.results.expectRows(id, band, 0, job.attempt);
      await kit.results.store(chunkIdOf(id, band), new Uint8Array(1), done, undefined);
    }
    await until(async () => (await (await kit.ask(`/jobs/${id}`)).json()).state === "done");
    const sent = enqueue.mock.calls.reduce((sum, [event]) => sum + event.length, 0);
    enqueue.mockRestore();
    return { kit, client, bands, sent, beat };
  }

  test("events that a client does not read wait in the records; it gets them all when it reads", async () => {
    const { kit, client, bands, sent } = await unreadEvents();
    client.socket.resume();
    const text = await client.answer();
    expect(text.match(/event: band/g)).toHaveLength(bands);
    expect(text).toContain("event: done");
    expect(sent).toBeLessThan(text.length / 2);
    await kit.stop();
  });

  test("a client that has read no events for a minute is disconnected", async () => {
    const { kit, client, beat } = await unreadEvents();
    for (let i = 0; i < 12; i++) {
      expect(kit.results.watched).toBe(1);
      await beat();
    }
    await until(() => kit.results.watched === 0);
    client.socket.resume();
    expect(await client.answer()).not.toContain("event: done");
    await kit.stop();
  });

  test("an upload is not read to its end before its bands are done", async () => {
    const kit = await startKit({ workers: 0, bandPixels: BAND_PIXELS });
    let read = 0;
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        controller.enqueue(huge.subarray(read, read + 10_000));
        read += 10_000;
        if (read >= huge.length) controller.close();
      },
    });
    const path = `http://localhost/jobs/${crypto.randomUUID()}`;
    const accepted = kit.app.fetch(new Request(path, { method: "PUT", body }));
    // Four bands is the smallest window of a job.
    await until(() => kit.queue.published.length === 4);
    for (let i = 0; i < 200; i++) expect((await kit.ask("/healthz")).status).toBe(200);
    expect(kit.queue.published).toHaveLength(4);
    expect(read).toBeLessThan(huge.length / 2);
    await kit.startWorkers(1);
    expect((await accepted).status).toBe(202);
    await kit.stop();
  });
});

describe("the pace of an upload", () => {
  /** An upload of `pieces` × `bytes` bytes, with a pause before each piece, ms. */
  const slowly = (pieces: number, bytes: number, pause: number) => {
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        await sleep(pause);
        if (pieces-- > 0) controller.enqueue(new Uint8Array(bytes));
        else controller.close();
      },
    });
    return new Request("http://localhost/", { method: "POST", body });
  };
  /** @returns the number of bytes */
  const readAll = async (request: Request, patience: number) => {
    let bytes = 0;
    for await (const piece of await new Upload(request, 1e9, patience).file(request)) bytes += piece.length;
    return bytes;
  };

  test("a silent upload is refused", async () => {
    const sentence = "upload too slow: expected at least 65536 bytes in 0.1 s, got 0";
    await expect(readAll(slowly(1, 10, 10_000), 100)).rejects.toThrow(sentence);
  });
  test("a dripping upload is refused", async () => {
    const sentence = /^upload too slow: expected at least 65536 bytes in 0.2 s, got \d$/;
    await expect(readAll(slowly(1000, 1, 20), 200)).rejects.toThrow(sentence);
  });
  test("a slow and steady upload is accepted", async () => {
    expect(await readAll(slowly(45, 70_000, 50), 2_000)).toBe(3_150_000);
  });
  test("time in which the coordinator does not read is not counted", async () => {
    const request = slowly(5, 10, 1);
    let bytes = 0;
    for await (const piece of await new Upload(request, 1e9, 1_000).file(request)) {
      bytes += piece.length;
      await sleep(300);
    }
    expect(bytes).toBe(50);
  });
});

function png(width: number, height: number): Bytes {
  return Buffer.from(encode({ width, height, data: random(width * height), channels: 1 }, { zlib: { level: 1 } }));
}

/** Everything that a socket receives until the other side closes it. */
async function wholeOf(socket: Socket): Promise<string> {
  let text = "";
  socket.setEncoding("latin1").on("data", (piece: string) => {
    text += piece;
  });
  socket.resume();
  await new Promise((resolve) => socket.once("close", resolve));
  return text;
}
