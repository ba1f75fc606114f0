// Every request gives back what it took, whenever its client goes: watches, listeners, timers, channels, descriptors. And what
// clients may take at a time is limited. Nothing here measures time: what is compared is counts and answers.
import { afterEach, describe, expect, setDefaultTimeout, spyOn, test } from "bun:test";
import { getEventListeners } from "node:events";
import { readdirSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { encode } from "fast-png";
import { Redis } from "ioredis";
import { serve } from "../http/serve.ts";
import { type Bytes, edgesOf, type Kit, rawUpload, startKit } from "./kit.ts";
import { random } from "./pictures.ts";
import { describeWith, sharedServers, spawnProgram } from "./servers.ts";
import { sleep, until, within } from "./wait.ts";

setDefaultTimeout(90_000);

function png(width: number, height: number): Bytes {
  return Buffer.from(encode({ width, height, channels: 1, data: random(width * height) }, { zlib: { level: 1 } }));
}

/** 20 bands of the kit's size, and more bytes than are read ahead. */
const tall = png(400, 200);
const small = png(40, 40);

interface Client {
  socket: Socket;
  /** What it has received. */
  readonly text: string;
}

/** Sends the head of a request. */
async function send(origin: string, head: string): Promise<Client> {
  const { hostname, port } = new URL(origin);
  const socket = connect(Number(port), hostname);
  let text = "";
  socket.on("error", () => {}); // `close` follows
  socket.setEncoding("latin1").on("data", (piece: string) => {
    text += piece;
  });
  await new Promise((resolve, reject) => socket.once("connect", resolve).once("close", reject));
  socket.write(`${head} HTTP/1.1\r\nhost: test\r\n\r\n`);
  return {
    socket,
    get text() {
      return text;
    },
  };
}

/** Requests of every route that only reads, `count` times, from clients that go at once, after some bytes, and after HEAD. */
async function comeAndGo(origin: string, paths: string[], count: number): Promise<void> {
  for (const path of paths) {
    for (let i = 0; i < count; i += 20) {
      const clients = await Promise.all(
        Array.from({ length: 20 }, (_, j) => send(origin, `${j % 4 === 0 ? "HEAD" : "GET"} ${path}`)),
      );
      // A quarter goes before the answer, the others when it has begun.
      await until(() => clients.every(({ text }, j) => j % 4 === 1 || text !== ""));
      for (const { socket } of clients) socket.destroy();
    }
  }
}

function pathsOf(done: string, open: string, unknown: string): string[] {
  const paths = [
    "/",
    "/page/page.css",
    "/healthz",
    "/readyz",
    "/openapi.json",
    "/metrics",
    "/workers",
    "/tasks",
    "/nothing",
  ];
  for (const id of [done, open, unknown]) {
    paths.push(`/jobs/${id}`, `/jobs/${id}/events`, `/jobs/${id}/result`, `/jobs/${id}/bands/0`);
  }
  return [...paths, `/events?jobs=${done},${open},${unknown}`];
}

/** Intervals that are not cleared. */
function countIntervals() {
  const live = new Set<unknown>();
  const set = globalThis.setInterval;
  const clear = globalThis.clearInterval;
  const spies = [
    spyOn(globalThis, "setInterval").mockImplementation(((...args: Parameters<typeof set>) => {
      const timer = set(...args);
      live.add(timer);
      return timer;
    }) as typeof set),
    spyOn(globalThis, "clearInterval").mockImplementation(((timer: Parameters<typeof clear>[0]) => {
      live.delete(timer);
      clear(timer);
    }) as typeof clear),
  ];
  return { live, restore: () => spies.map((spy) => spy.mockRestore()) };
}

test("a thousand requests of each route leave no watch, listener, timer or place", async () => {
  const stopping = new AbortController();
  const kit = await startKit({ workers: 1, stopping: stopping.signal });
  const intervals = countIntervals();
  try {
    const [done, open, unknown] = [0, 0, 0].map(() => crypto.randomUUID());
    await kit.ask(`/jobs/${done}`, { method: "PUT", body: small });
    await until(async () => (await (await kit.ask(`/jobs/${done}`)).json()).state === "done");
    await kit.results.putJob({ ...(await kit.results.findJob(done))!, id: open, enqueued: false });
    await comeAndGo(kit.origin, pathsOf(done, open, unknown), 1000);
    const left = () => ({
      watched: kit.results.watched,
      listeners: getEventListeners(stopping.signal, "abort").length,
      timers: intervals.live.size,
    });
    await until(() => Object.values(left()).every((count) => count === 0)).catch(() => {});
    expect(left()).toEqual({ watched: 0, listeners: 0, timers: 0 });
  } finally {
    intervals.restore();
    await kit.stop();
  }
});

test("a band leaves no listener in its worker", async () => {
  const listen = spyOn(AbortSignal.prototype, "addEventListener");
  const kit = await startKit({ workers: 2 });
  try {
    const answer = await kit.ask("/tasks/sobel", { method: "POST", body: tall });
    expect((await answer.bytes()).length).toBeGreaterThan(0);
    await until(() => kit.idle());
    const signals = [...new Set(listen.mock.contexts as AbortSignal[])];
    expect(listen.mock.calls.length).toBeGreaterThanOrEqual(20);
    expect(signals.map((signal) => getEventListeners(signal, "abort").length).filter((count) => count > 1)).toEqual([]);
  } finally {
    listen.mockRestore();
    await kit.stop();
  }
});

test("a client that goes before its answer is ready leaves nothing", async () => {
  const stopping = new AbortController();
  const kit = await startKit({ workers: 0, stopping: stopping.signal });
  const server = serve(kit.app.fetch, "127.0.0.1", 0);
  const gate = Promise.withResolvers<void>();
  kit.results.gate = gate.promise;
  const client = await send(`http://127.0.0.1:${server.port}`, `GET /events?jobs=${crypto.randomUUID()}`);
  await until(() => kit.results.held > 0);
  client.socket.destroy();
  await fetch(`http://127.0.0.1:${server.port}/healthz`); // the server has seen the end of the connection
  gate.resolve();
  await until(() => kit.results.opened === 1);
  await until(() => kit.results.watched === 0);
  expect(getEventListeners(stopping.signal, "abort")).toHaveLength(0);
  await server.stop();
  await kit.stop();
});

describeWith(["rabbitmq", "redis"], "with Redis", () => {
  test("clients that go leave no channel and no descriptor", async () => {
    const { rabbitmq, redis } = await sharedServers();
    const store = new Redis(redis.url);
    const env = { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url, PORT: "0" };
    const coordinator = spawnProgram("coordinator.ts", env);
    const worker = spawnProgram("worker.ts", env);
    try {
      const [, origin] = await coordinator.waitFor(/distributed: (http:\S+)/, 20_000);
      await worker.waitFor(/at work/, 20_000);
      const [done, open, unknown] = [0, 0, 0].map(() => crypto.randomUUID());
      await fetch(`${origin}/jobs/${done}`, { method: "PUT", body: small });
      await until(async () => (await (await fetch(`${origin}/jobs/${done}`)).json()).state === "done");
      // Each program has the channel `job:{ready}` open all the time.
      const channels = async () => {
        const names = (await store.call("PUBSUB", "CHANNELS")) as string[];
        return names.filter((name) => name !== "job:{ready}").length;
      };
      const descriptors = () => readdirSync(`/proc/${coordinator.pid}/fd`).length;
      await comeAndGo(origin, pathsOf(done, open, unknown), 20);
      await until(async () => (await channels()) === 0);
      const before = descriptors();
      await comeAndGo(origin, pathsOf(done, open, unknown), 100);
      await until(async () => (await channels()) === 0);
      await until(() => descriptors() <= before);
    } finally {
      store.disconnect();
      for (const program of [coordinator, worker]) program.kill();
      await Promise.all([coordinator.exited, worker.exited]);
    }
  });
});

describe("event streams", () => {
  let kit: Kit;
  let clients: Client[] = [];
  afterEach(async () => {
    for (const { socket } of clients) socket.destroy();
    clients = [];
    await kit.stop();
  });
  const unknownIds = (count: number) => Array.from({ length: count }, () => crypto.randomUUID()).join();
  /** @returns the status */
  const open = async (path: string): Promise<number> => {
    const client = await send(kit.origin, `GET ${path}`);
    clients.push(client);
    await until(() => client.text.includes("\r\n"));
    return Number(client.text.split(" ")[1]);
  };

  test("have a limit in all and for each address, and a place is free again when a client goes", async () => {
    kit = await startKit({ workers: 0, maxStreams: { streams: 4, unknown: 1000 } });
    const at = (address: string) =>
      kit.app.fetch(new Request(`http://localhost/events?jobs=${unknownIds(1)}`), address);
    for (let i = 0; i < 2; i++) expect(await open(`/events?jobs=${unknownIds(1)}`)).toBe(200);
    expect(await open(`/events?jobs=${unknownIds(1)}`)).toBe(503);
    const others = [await at("192.0.2.1"), await at("192.0.2.1"), await at("192.0.2.2")];
    expect(others.map(({ status }) => status)).toEqual([200, 200, 503]);
    expect(others[2].headers.get("retry-after")).toMatch(/^\d+$/);
    clients[0].socket.destroy();
    await until(async () => (await open(`/events?jobs=${unknownIds(1)}`)) === 200);
    for (const other of others) await other.body?.cancel();
  });

  test("follow a limited number of jobs that do not exist", async () => {
    kit = await startKit({ workers: 1, maxStreams: { streams: 1000, unknown: 300 } });
    expect(await open(`/events?jobs=${unknownIds(100)}`)).toBe(200);
    expect(await open(`/events?jobs=${unknownIds(51)}`)).toBe(503);
    expect(await open(`/events?jobs=${unknownIds(50)}`)).toBe(200);
    expect(await open(`/events?jobs=${unknownIds(1)}`)).toBe(503);
    expect(kit.results.watched).toBe(150);
    clients[0].socket.destroy();
    await until(() => kit.results.watched === 50);
    expect(await open(`/events?jobs=${unknownIds(100)}`)).toBe(200);
  });

  test("of jobs that do not exist look for them when they open, and then seldom", async () => {
    kit = await startKit({ workers: 0 });
    const find = spyOn(kit.results, "findJob");
    for (let i = 0; i < 20; i++) expect(await open(`/events?jobs=${unknownIds(100)}`)).toBe(200);
    expect(find.mock.calls.length).toBe(2000);
    await sleep(3_000);
    expect(find.mock.calls.length).toBe(2000);
    find.mockRestore();
  });

  test("serialise each band once, however many clients follow", async () => {
    kit = await startKit({ workers: 0 });
    const id = crypto.randomUUID();
    const accepted = kit.ask(`/jobs/${id}?workers=20`, { method: "PUT", body: tall });
    await until(() => kit.queue.published.length === 20);
    for (let i = 0; i < 50; i++) expect(await open(`/jobs/${id}/events`)).toBe(200);
    const stringify = spyOn(JSON, "stringify");
    await kit.startWorkers(1);
    await accepted;
    await until(() => clients.every(({ text }) => text.includes("event: done")));
    const events = stringify.mock.calls.filter(([value]) => value?.id === id && "deliveries" in value);
    stringify.mockRestore();
    const bands = events.filter(([value]) => "y" in value);
    expect(bands).toHaveLength(20);
    expect(events.length - bands.length).toBeLessThanOrEqual(20); // claims
    for (const { text } of clients) expect(text.match(/event: band/g)).toHaveLength(20);
  });
});

describe("a place for an upload", () => {
  test("that waits for room goes to one that needs it; the first is resumed when it is sent again", async () => {
    const kit = await startKit({ workers: 0, maxJobs: 1, stalledMs: 100 });
    const first = crypto.randomUUID();
    const put = (id: string, body: Bytes) => kit.ask(`/jobs/${id}?workers=1`, { method: "PUT", body });
    const stalled = put(first, tall);
    await until(() => kit.queue.published.length === 1);
    await sleep(150);
    const second = put(crypto.randomUUID(), small);
    const answer = await stalled;
    expect([answer.status, answer.headers.get("retry-after")]).toEqual([503, "5"]);
    expect((await answer.json()).detail).toMatch(/^no room in the queue for \d+ s, and another upload needs the place/);
    expect((await second).status).toBe(202);
    expect(await (await kit.ask(`/jobs/${first}`)).json()).toMatchObject({ state: "uploading" });
    await kit.startWorkers(1);
    expect((await put(first, tall)).status).toBe(202);
    await until(async () => (await (await kit.ask(`/jobs/${first}`)).json()).state === "done");
    const result = await kit.ask(`/jobs/${first}/result`);
    expect(Buffer.from(await result.arrayBuffer())).toEqual(await edgesOf(tall));
    await kit.stop();
  });

  test("that has waited for room for an hour is given back, and the lease of its job", async () => {
    const kit = await startKit({ workers: 0, stalledMs: 5 });
    const id = crypto.randomUUID();
    const put = () => kit.ask(`/jobs/${id}?workers=1`, { method: "PUT", body: tall });
    const stalled = put();
    await until(async () => await kit.results.isLeased(id));
    expect((await (await stalled).json()).detail).toMatch(/^no room in the queue for \d s, and its client may be gone/);
    expect([kit.uploads, await kit.results.isLeased(id)]).toEqual([0, false]);
    await kit.startWorkers(1);
    expect((await put()).status).toBe(202);
    await kit.stop();
  });

  test("goes from clients that hardly send, and from one that waits for the same job, to one that needs it", async () => {
    const kit = await startKit({ workers: 1, maxJobs: 2 });
    const id = crypto.randomUUID();
    const slow = [
      await rawUpload(kit.origin, `PUT /jobs/${id}`, 1000),
      await rawUpload(kit.origin, `PUT /jobs/${id}`, 1000),
    ];
    for (const upload of slow) upload.write(small.subarray(0, 100));
    await until(() => kit.uploads === 2);
    const post = async () => (await kit.ask("/tasks/sobel", { method: "POST", body: small })).status;
    expect(await post()).toBe(503);
    await sleep(5_500);
    expect(await post()).toBe(200);
    const answer = await Promise.race(slow.map((upload) => upload.answer()));
    expect(answer).toStartWith("HTTP/1.1 503");
    expect(answer).toContain("the upload is slow, and another upload needs the place; send it again");
    for (const { socket } of slow) socket.destroy();
    await kit.stop();
  });

  test("stays with a job that takes no file, and waits for room", async () => {
    const kit = await startKit({ workers: 0, maxJobs: 1 });
    const put = (query: string, body?: Bytes) =>
      kit.ask(`/jobs/${crypto.randomUUID()}${query}`, { method: "PUT", body });
    const waiting = put("?task=primes&workers=1");
    await until(() => kit.queue.published.length === 1);
    await sleep(5_500);
    expect((await put("", small)).status).toBe(503);
    await kit.startWorkers(1);
    expect((await waiting).status).toBe(202);
    await kit.stop();
  });

  test("stays with one that has waited for a short time, and with one whose client is slow", async () => {
    const kit = await startKit({ workers: 0, maxJobs: 1 });
    const stalled = kit.ask(`/jobs/${crypto.randomUUID()}?workers=1`, { method: "PUT", body: tall });
    await until(() => kit.queue.published.length === 1);
    expect((await kit.ask("/tasks/sobel", { method: "POST", body: small })).status).toBe(503);
    await kit.startWorkers(1);
    expect((await stalled).status).toBe(202);
    await kit.stop();
    const other = await startKit({ workers: 1, maxJobs: 1, stalledMs: 1 });
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    const slow = other.ask("/tasks/sobel", { method: "POST", body: readable });
    const writer = writable.getWriter();
    await writer.write(small.subarray(0, 200));
    await until(() => other.uploads === 1);
    await sleep(100);
    expect((await other.ask("/tasks/sobel", { method: "POST", body: small })).status).toBe(503);
    await writer.write(small.subarray(200));
    await writer.close();
    expect((await slow).status).toBe(200);
    await other.stop();
  });
});

test("a job whose client has gone silent is resumed by its next attempt, at once", async () => {
  const kit = await startKit({ workers: 1 });
  const id = crypto.randomUUID();
  const taller = png(400, 4000);
  const silent = await rawUpload(kit.origin, `PUT /jobs/${id}`, taller.length);
  silent.write(taller.subarray(0, taller.length >> 1));
  await until(() => kit.queue.published.length > 10);
  expect((await kit.ask(`/jobs/${id}`, { method: "PUT", body: taller })).status).toBe(202);
  expect(new Set(kit.queue.published).size).toBe(400);
  expect(kit.queue.published).toHaveLength(400);
  silent.write(taller.subarray(taller.length >> 1));
  // It was overtaken; if the job is done by now, its picture is the same one.
  expect(await silent.answer()).toMatch(/^HTTP\/1\.1 (202|503 [\s\S]*another coordinator has taken this job over)/);
  const result = await kit.ask(`/jobs/${id}/result`);
  expect(Buffer.from(await result.arrayBuffer())).toEqual(await edgesOf(taller));
  await kit.stop();
});

test("a connection between two requests is closed after a while, and one whose answer is silent is not", async () => {
  let end = () => {};
  const kit = await startKit({ workers: 0 });
  const server = serve(
    async (request) => {
      if (request.url.endsWith("/events")) return kit.app.fetch(request);
      await new Promise<void>((resolve) => {
        end = resolve;
        if (request.url.endsWith("/short")) resolve();
      });
      return new Response("answer");
    },
    "127.0.0.1",
    0,
    1,
  );
  const origin = `http://127.0.0.1:${server.port}`;
  try {
    const id = crypto.randomUUID();
    expect((await kit.ask(`/jobs/${id}`, { method: "PUT", body: small })).status).toBe(202);
    const [silent, short, long, stream] = await Promise.all([
      send(origin, ""),
      send(origin, "GET /short"),
      send(origin, "GET /long"),
      send(origin, `GET /jobs/${id}/events`),
    ]);
    await until(() => short.socket.destroyed);
    expect(short.text).toEndWith("answer");
    await until(() => silent.socket.destroyed);
    await sleep(4_000);
    expect([long.socket.destroyed, stream.socket.destroyed]).toEqual([false, false]);
    end();
    await until(() => long.socket.destroyed);
    expect(long.text).toEndWith("answer");
    await kit.startWorkers(1);
    await until(() => stream.socket.destroyed);
    expect(stream.text).toContain("event: done");
  } finally {
    await within(Promise.race([server.stop(), sleep(1_000)]));
    await kit.stop();
  }
});

test("a done job is watched a moment longer, where a third-party worker may still say its name", async () => {
  const kit = await startKit({ workers: 0 });
  try {
    const id = crypto.randomUUID();
    const body = Buffer.from(encode({ width: 3, height: 3, channels: 1, data: new Uint8Array(9) }));
    expect((await kit.ask(`/jobs/${id}`, { method: "PUT", body })).status).toBe(202);
    const crc = (await kit.results.sent(id)).get(0)!;
    const done = { worker: "foreign", ms: 0, crc, bytes: 0, deliveries: 0 };
    await kit.results.store(`{${id}}:0`, body, done, undefined);
    expect((await (await kit.ask(`/jobs/${id}`)).json()).state).toBe("done");
    expect(kit.results.watched).toBe(1);
    await until(() => kit.results.watched === 0);
  } finally {
    await kit.stop();
  }
});
