// The cost of a job in counts that do not depend on the machine: bytes on the wire, messages, commands, the size of the
// largest buffer. A change that raises one of them fails here.
//
// Commands are counted by a private Redis, messages and bytes by a proxy that reads the AMQP frames. The coordinator and
// the worker are the project's own. Their periodic requests (heartbeats, polls of a quiet job) can only raise a count, so
// the minimum of a few runs is the cost of the job.
import { afterAll, beforeAll, expect, spyOn, test } from "bun:test";
import { connect, createServer, type Socket } from "node:net";
import { Readable } from "node:stream";
import { Worker as Thread } from "node:worker_threads";
import { Redis } from "ioredis";
import { pngPieces } from "../bench/pictures.ts";
import { planBands } from "../chunk.ts";
import { createApp } from "../coordinator.ts";
import { LocalQueue } from "../embedded/queue.ts";
import { LocalResults } from "../embedded/results.ts";
import { openLog } from "../ops/log.ts";
import { RabbitQueue } from "../queue.ts";
import { RedisResults } from "../results.ts";
import { loadTasks } from "../tasks/index.ts";
import { Worker } from "../worker.ts";
import { describeWith, freePort, type RedisServer, sharedServers, startRedis } from "./servers.ts";
import { until } from "./wait.ts";

const tasks = await loadTasks();

const RUNS = 3;
const BAND_PIXELS = 1 << 16;
const log = openLog("error");

/** A photo that splits into `bands` equal bands. */
async function photo(bands: number) {
  const [width, rows] = [512, BAND_PIXELS / 512];
  const sketch = { kind: "photo", width, height: rows * bands } as const;
  return { ...sketch, bytes: Buffer.concat(await Array.fromAsync(pngPieces(sketch))) };
}

describeWith(["rabbitmq", "redis"], "a distributed job", () => {
  const redis = { server: undefined as RedisServer | undefined, client: undefined as Redis | undefined };
  let wire: CountingProxy;
  let fetch: (request: Request) => Response | Promise<Response>;
  let results: RedisResults;
  let worker: Worker;
  let workers = 1;
  const closing: (() => Promise<void>)[] = [];

  beforeAll(async () => {
    const { rabbitmq } = await sharedServers();
    redis.server = await startRedis();
    redis.client = new Redis(redis.server.url);
    wire = await countingProxy(rabbitmq.port);
    results = new RedisResults(redis.server.url, 600, false);
    // A band that takes long costs more: never here, however slow the machine.
    const queue = await RabbitQueue.connect(`amqp://guest:guest@127.0.0.1:${wire.port}`, log, 60_000);
    worker = new Worker({ queue, results, tasks, name: "counted", bandTimeout: 10_000, log });
    await worker.start();
    fetch = createApp({ queue, results, tasks, bandPixels: BAND_PIXELS }).fetch;
    closing.push(
      () => worker.stop(),
      () => queue.close(),
      () => results.close(),
      async () => redis.client?.disconnect(),
      () => wire.close(),
      () => redis.server!.stop(),
    );
    await send((await photo(1)).bytes);
  });

  afterAll(async () => {
    for (const close of closing) await close();
  });

  async function send(picture: Buffer): Promise<number> {
    // With a limit of two bands in flight, the job does not read the list of workers.
    const response = await fetch(
      new Request("http://localhost/tasks/sobel?workers=2", { method: "POST", body: new Uint8Array(picture) }),
    );
    expect(response.status).toBe(200);
    return (await response.arrayBuffer()).byteLength;
  }

  /** What a job of `bands` bands adds to the counts: the minimum of a few runs. */
  async function counted(bands: number): Promise<Record<string, number>> {
    const { bytes } = await photo(bands);
    const lowest: Record<string, number> = {};
    for (let run = 0; run < RUNS; run++) {
      const before = await counts();
      await send(bytes);
      const after = await counts();
      for (const [name, value] of Object.entries(after)) {
        lowest[name] = Math.min(lowest[name] ?? Number.POSITIVE_INFINITY, value - (before[name] ?? 0));
      }
    }
    return lowest;
  }

  /** Redis's count of each command, commands inside scripts included, and the counts of the proxy. */
  async function counts(): Promise<Record<string, number>> {
    // A finished job is removed in the background. The list of workers remains, and a key for each.
    while ((await redis.client!.dbsize()) > 1 + workers) await Bun.sleep(5);
    await Bun.sleep(50);
    const info = await redis.client!.info("commandstats");
    const commands = [...info.matchAll(/cmdstat_([a-z|]+):calls=(\d+)/g)].map(([, name, calls]) => [
      name,
      Number(calls),
    ]);
    return { ...Object.fromEntries(commands), ...wire.counts() };
  }

  test("a band costs at most four scripts and two other commands in Redis", async () => {
    const [few, many] = [await counted(2), await counted(12)];
    const perBand = (name: string) => ((many[name] ?? 0) - (few[name] ?? 0)) / 10;
    // The coordinator records the band's rows and marks it as sent; the worker claims it and stores it.
    expect(perBand("evalsha") + perBand("eval")).toBeLessThanOrEqual(4);
    // The coordinator loads the result and drops it.
    expect(perBand("hgetall")).toBe(0);
    expect(perBand("get")).toBeLessThanOrEqual(1);
    expect(perBand("unlink")).toBeLessThanOrEqual(1);
    for (const name of ["subscribe", "multi", "keys", "scan", "hmset", "del", "ping"]) expect(perBand(name)).toBe(0);
    // The rest is the cost of a job, whatever its number of bands. Two of them are inside scripts: its TTLs are renewed at
    // its first band and at its last.
    const perJob = [
      "evalsha",
      "eval",
      "hgetall",
      "get",
      "unlink",
      "hset",
      "multi",
      "exec",
      "del",
      "subscribe",
      "unsubscribe",
    ];
    const once = perJob.reduce((sum, name) => sum + (few[name] ?? 0) - 2 * perBand(name), 0);
    expect(once).toBeLessThanOrEqual(10);
  });

  test("ten times as many waiting jobs do not cause more looks for results", async () => {
    await worker.pause(true);
    const looks = spyOn(results, "recordForeign");
    const { bytes } = await photo(1);
    const ids: string[] = [];
    const job = (method: string, id: string, body?: Uint8Array<ArrayBuffer>) =>
      fetch(new Request(`http://localhost/jobs/${id}`, { method, body }));
    const countedWith = async (jobs: number) => {
      while (ids.length < jobs) {
        ids.push(crypto.randomUUID());
        expect((await job("PUT", ids.at(-1)!, new Uint8Array(bytes))).status).toBe(202);
      }
      looks.mockClear();
      await Bun.sleep(3_000);
      return looks.mock.calls.length;
    };
    const few = await countedWith(30);
    expect(few).toBeGreaterThan(0);
    expect(await countedWith(300)).toBeLessThanOrEqual(2 * few);
    for (const id of ids) await job("DELETE", id);
    looks.mockRestore();
    await worker.pause(false);
  }, 60_000);

  test("a band is one message: published, confirmed, delivered, acknowledged", async () => {
    const [few, many] = [await counted(2), await counted(12)];
    const perBand = (name: string) => ((many[name] ?? 0) - (few[name] ?? 0)) / 10;
    expect(perBand(`sent ${PUBLISH}`)).toBe(1);
    expect(perBand(`got ${DELIVER}`)).toBe(1);
    expect(perBand(`sent ${ACK}`)).toBe(1);
    expect(many[`got ${ACK}`]).toBeLessThanOrEqual(12); // the broker may confirm several at once
    expect(few[`sent ${DECLARE}`] ?? 0).toBe(0); // a job declares no queue
  });

  test("a band that takes long costs one get of one queue, however many queues there are", async () => {
    const log = openLog("error");
    const queue = await RabbitQueue.connect(`amqp://guest:guest@127.0.0.1:${wire.port}`, log, 0);
    const slow = new Worker({ queue, results, tasks, name: "slow", bandTimeout: 10_000, log });
    await worker.pause(true);
    await slow.start();
    workers++;
    const [few, many] = [await counted(2), await counted(12)];
    await slow.stop();
    workers--;
    await queue.close();
    await worker.pause(false);
    expect(tasks.size).toBeGreaterThan(10);
    const gets = (many[`sent ${GET}`] - few[`sent ${GET}`]) / 10;
    expect(gets).toBeGreaterThan(0);
    expect(gets).toBeLessThanOrEqual(1.5);
    // None was requeued: a redelivery looks like the loss of a worker.
    expect(many[`sent ${REJECT}`] ?? 0).toBe(0);
  });

  test("a pixel is 4/3 bytes on the wire to a worker, plus at most 1 %", async () => {
    const { width, height } = await photo(12);
    const plan = planBands(width, height, 1, { pixels: BAND_PIXELS });
    const pixels = width * (height + 2 * plan.bands);
    const { "sent bytes": sent, "got bytes": got } = await counted(12);
    expect(sent / pixels).toBeLessThan((4 / 3) * 1.01);
    expect(got / pixels).toBeLessThan((4 / 3) * 1.01);
  });

  test("the result of a 0.8-megapixel photo has at most 520,300 bytes", async () => {
    const { bytes } = await photo(12);
    expect(await send(bytes)).toBeLessThanOrEqual(520_300);
  });
});

test("no buffer grows with the picture", async () => {
  const { worker, fetch } = await embedded();
  const largest: number[] = [];
  for (const height of [4000, 16_000]) {
    const pieces = pngPieces({ kind: "flat", width: 6000, height }, 6000 * 100);
    const body = Readable.toWeb(Readable.from(pieces)) as unknown as ReadableStream;
    largest.push(
      await largestBuffer(async () => {
        const init = { method: "POST", body, duplex: "half" } as RequestInit;
        const response = await fetch(new Request("http://localhost/tasks/sobel", init));
        expect(response.status).toBe(200);
        for await (const _ of response.body!);
      }),
    );
  }
  await worker.stop();
  expect(largest[1]).toBe(largest[0]);
  // A band with its halo. The smaller picture has 24 million bytes.
  expect(largest[0]).toBeGreaterThan(1_000_000);
  expect(largest[0]).toBeLessThan(2_000_000);
});

test("threads get ArrayBuffers and no views, which Deno would scan byte by byte", async () => {
  const { worker, fetch } = await embedded();
  const post = spyOn(Thread.prototype, "postMessage");
  const init = { method: "POST", body: (await photo(3)).bytes };
  await (await fetch(new Request("http://localhost/tasks/sobel", init))).arrayBuffer();
  await worker.stop();
  const sent = post.mock.calls.map(([message]) => Object.values(message as object));
  post.mockRestore();
  const bands = sent.filter((fields) => fields.some((field) => field instanceof ArrayBuffer));
  expect(bands.length).toBeGreaterThan(0);
  expect(sent.flat().filter((field) => ArrayBuffer.isView(field))).toEqual([]);
});

test("a merge loads a few results at once, and no more", async () => {
  const { worker, results, fetch } = await embedded(BAND_PIXELS);
  const url = `http://localhost/jobs/${crypto.randomUUID()}`;
  await fetch(new Request(url, { method: "PUT", body: (await photo(12)).bytes }));
  while ((await (await fetch(new Request(url))).json()).state !== "done") await Bun.sleep(5);
  const answer = Promise.withResolvers<void>();
  const load = results.load.bind(results);
  const loads = spyOn(results, "load").mockImplementation(async (id) => {
    await answer.promise;
    return load(id);
  });
  const result = fetch(new Request(`${url}/result`));
  await until(() => loads.mock.calls.length === 9);
  await Bun.sleep(50);
  expect(loads).toHaveBeenCalledTimes(9);
  answer.resolve();
  expect((await (await result).arrayBuffer()).byteLength).toBeGreaterThan(1_000);
  expect(loads).toHaveBeenCalledTimes(12);
  await worker.stop();
});

/** Coordinator and worker in this process. */
async function embedded(bandPixels?: number) {
  const results = new LocalResults(600);
  const queue = new LocalQueue();
  const worker = new Worker({ queue, results, tasks, name: "counted", bandTimeout: 10_000, log });
  await worker.start();
  return { worker, results, fetch: createApp({ queue, results, tasks, bandPixels }).fetch };
}

/** The largest buffer that this thread allocates while `step` runs, bytes. */
async function largestBuffer(step: () => Promise<void>): Promise<number> {
  const { Uint8Array: plain } = globalThis;
  const { alloc, allocUnsafe, allocUnsafeSlow, concat } = Buffer;
  let largest = 0;
  const note = <T>(bytes: T): T => {
    if (typeof bytes === "number") largest = Math.max(largest, bytes);
    return bytes;
  };
  globalThis.Uint8Array = new Proxy(plain, {
    construct(target, args, newTarget) {
      note(args[0]);
      return Reflect.construct(target, args, newTarget === globalThis.Uint8Array ? target : newTarget);
    },
  });
  Buffer.alloc = (size, ...rest) => alloc(note(size), ...(rest as []));
  Buffer.allocUnsafe = (size) => allocUnsafe(note(size));
  Buffer.allocUnsafeSlow = (size) => allocUnsafeSlow(note(size));
  Buffer.concat = (list, total) => {
    note(total ?? list.reduce((sum, { length }) => sum + length, 0));
    return concat(list, total) as never;
  };
  try {
    await step();
    return largest;
  } finally {
    globalThis.Uint8Array = plain;
    Object.assign(Buffer, { alloc, allocUnsafe, allocUnsafeSlow, concat });
  }
}

// Class and method of AMQP 0-9-1.
const DECLARE = "50.10";
const PUBLISH = "60.40";
const DELIVER = "60.60";
const ACK = "60.80";
const GET = "60.70";
const REJECT = "60.90";

interface CountingProxy {
  port: number;
  /** By direction: `sent 60.40` for methods, `sent bytes` for all. */
  counts(): Record<string, number>;
  close(): Promise<void>;
}

/** A proxy to a broker on this machine that counts bytes and AMQP methods. */
async function countingProxy(target: number): Promise<CountingProxy> {
  const port = await freePort();
  const found: Record<string, number> = {};
  const sockets = new Set<Socket>();
  const count = (name: string, by = 1) => {
    found[name] = (found[name] ?? 0) + by;
  };
  const server = createServer((client) => {
    const broker = connect(target, "127.0.0.1");
    for (const [from, to, direction] of [
      [client, broker, "sent"],
      [broker, client, "got"],
    ] as const) {
      const frames = frameReader((method) => count(`${direction} ${method}`));
      sockets.add(from);
      from.on("error", () => {}).on("close", () => to.destroy());
      from.on("data", (bytes: Buffer) => {
        count(`${direction} bytes`, bytes.length);
        frames(bytes);
      });
      from.pipe(to);
    }
  });
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  return {
    port,
    counts: () => ({ ...found }),
    close() {
      for (const socket of sockets) socket.destroy();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

/** Takes a stream in pieces and reports each method as `class.method`. */
function frameReader(report: (method: string) => void): (bytes: Buffer) => void {
  let rest = Buffer.alloc(0);
  return (bytes) => {
    rest = Buffer.concat([rest, bytes]);
    // The client starts with a protocol header, which is no frame.
    if (rest.toString("latin1", 0, 4) === "AMQP" && rest.length >= 8) rest = rest.subarray(8);
    while (rest.length >= 11) {
      const length = rest.readUInt32BE(3);
      if (rest.length < length + 8) return;
      if (rest[0] === 1) report(`${rest.readUInt16BE(7)}.${rest.readUInt16BE(9)}`);
      rest = rest.subarray(length + 8);
    }
  };
}
