// More than the programs can do at once: a large job beside small ones, a thousand who look on, uploads and downloads
// that hardly move. Nobody is starved, memory stays bounded, and whoever is told to come back is told when.
//
// The programs are real processes; how long anything takes is not judged, but what comes before what.
import { afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { encode } from "fast-png";
import { transform } from "../cli/local.ts";
import { Upload } from "../http/upload.ts";
import { readImage } from "../picture/read.ts";
import { task as sobel } from "../sobel.ts";
import { expectSame, inPieces, random } from "./pictures.ts";
import { describeWith, type Program, type RabbitMQ, type RedisServer, sharedServers, spawnProgram } from "./servers.ts";

type Bytes = Buffer<ArrayBuffer>;

setDefaultTimeout(60_000);

const BAND_PIXELS = 20_000;
const small = png(100, 80);
/** 300 bands, and more than is read before the first is sent. */
const large = png(1000, 6000);
const LARGE_BANDS = 300;

describeWith(["rabbitmq", "redis"], "overload", () => {
  let rabbitmq: RabbitMQ;
  let redis: RedisServer;
  let edges: Bytes;
  const programs: Program[] = [];
  const sockets: Socket[] = [];
  beforeAll(async () => {
    ({ rabbitmq, redis } = await sharedServers());
    edges = await edgesOf(small);
  });
  afterEach(async () => {
    for (const socket of sockets.splice(0)) socket.destroy();
    for (const program of programs) program.kill();
    for (const program of programs.splice(0)) expect(await program.exited, program.out).toBe(0);
  });

  async function start(file: "coordinator.ts" | "worker.ts", env: Record<string, string> = {}) {
    const servers = { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url, BAND_PIXELS: String(BAND_PIXELS) };
    const program = spawnProgram(file, { ...servers, PORT: "0", ...env });
    programs.push(program);
    const [, origin = ""] = await program.waitFor(/distributed: (http:\S+)|: at work\n/, 20_000);
    if (origin) await until(async () => (await fetch(`${origin}/readyz`)).ok);
    return { program, origin };
  }

  /** A request of which `body` is sent, and nothing read until it is asked for. */
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

  test("a large job does not hold up the small ones behind it", async () => {
    const { origin } = await start("coordinator.ts");
    await Promise.all([start("worker.ts"), start("worker.ts")]);
    const id = crypto.randomUUID();
    const put = fetch(`${origin}/jobs/${id}`, { method: "PUT", body: large });
    const done = async () => (await (await fetch(`${origin}/jobs/${id}`)).json()).done ?? 0;
    await until(async () => (await done()) > 10);
    let most = 0;
    for (let i = 0; i < 5; i++) {
      const before = await done();
      expectSame(await bytesOf(await fetch(`${origin}/tasks/sobel`, { method: "POST", body: small })), edges);
      most = Math.max(most, (await done()) - before);
    }
    // At most what was in the queue before it, and what the two workers did while it was read and answered.
    expect(most).toBeLessThan(LARGE_BANDS / 4);
    expect((await put).status).toBe(202);
    await until(async () => (await done()) === LARGE_BANDS);
    await fetch(`${origin}/jobs/${id}`, { method: "DELETE" });
  });

  test("a thousand who look on: all are told, little memory is taken, and the probe answers", async () => {
    const { origin, program } = await start("coordinator.ts");
    const id = crypto.randomUUID();
    const put = await fetch(`${origin}/jobs/${id}`, { method: "PUT", body: small });
    expect([put.status, (await put.json()).waiting]).toEqual([202, true]);
    const before = residentMegabytes(program);
    const streams: string[] = [];
    for (let i = 0; i < 1000; i++) {
      const socket = await open(origin, `GET /jobs/${id}/events`);
      socket.setEncoding("latin1").on("data", (text: string) => {
        streams[i] = (streams[i] ?? "") + text;
      });
      socket.resume();
    }
    await until(() => streams.filter((text) => text?.includes("event: job")).length === 1000);
    // Long enough for each to have its heartbeat.
    await until(() => streams.every((text) => text.includes(": still here")));
    expect((await fetch(`${origin}/healthz`)).status).toBe(200);
    expect(residentMegabytes(program) - before).toBeLessThan(150);
    await start("worker.ts");
    await until(() => streams.every((text) => text.includes("event: done")));
    await fetch(`${origin}/jobs/${id}`, { method: "DELETE" });
  });

  test("uploads that hardly move: the others are told to come back, and all end right", async () => {
    const { origin, program } = await start("coordinator.ts", { MAX_JOBS: "50" });
    await start("worker.ts");
    const before = residentMegabytes(program);
    const half = small.length >> 1;
    const slow = await Promise.all(
      Array.from({ length: 50 }, () => open(origin, "POST /tasks/sobel", small.subarray(0, half), small.length)),
    );
    const refused = await until(async () => {
      const answer = await fetch(`${origin}/tasks/sobel`, { method: "POST", body: small });
      return answer.status === 503 ? answer : undefined;
    });
    expect(refused.headers.get("retry-after")).toMatch(/^\d+$/);
    expect((await refused.json()).detail).toBe("too many uploads in progress (50); retry later");
    for (const path of ["/healthz", "/readyz", "/workers"]) expect((await fetch(origin + path)).status).toBe(200);
    expect(residentMegabytes(program) - before).toBeLessThan(150);
    const answers = slow.map((socket) => wholeOf(socket));
    for (const socket of slow) socket.write(small.subarray(half));
    for (const answer of await Promise.all(answers)) expect(answer.startsWith("HTTP/1.1 200")).toBe(true);
    expectSame(await bytesOf(await fetch(`${origin}/tasks/sobel`, { method: "POST", body: small })), edges);
  });

  test("downloads that nobody reads hold no more than a few bands each", async () => {
    const { origin, program } = await start("coordinator.ts", { BAND_PIXELS: "100000" });
    await start("worker.ts");
    const id = crypto.randomUUID();
    const put = await fetch(`${origin}/jobs/${id}`, { method: "PUT", body: large });
    expect(put.status).toBe(202);
    await until(async () => (await (await fetch(`${origin}/jobs/${id}`)).json()).state === "done");
    const whole = await bytesOf(await fetch(`${origin}/jobs/${id}/result`));
    expect(whole.length).toBeGreaterThan(4e6); // forty of them are more than what is allowed below
    const before = residentMegabytes(program);
    const idle = await Promise.all(Array.from({ length: 40 }, () => open(origin, `GET /jobs/${id}/result`)));
    expectSame(await bytesOf(await fetch(`${origin}/jobs/${id}/result`)), whole);
    expect((await fetch(`${origin}/healthz`)).status).toBe(200);
    expect(residentMegabytes(program) - before).toBeLessThan(150);
    expect((await wholeOf(idle[0])).length).toBeGreaterThan(whole.length);
    await fetch(`${origin}/jobs/${id}`, { method: "DELETE" });
  });
});

describe("an upload's pace", () => {
  const slowly = (pieces: number, bytes: number, pause: number) => {
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        await new Promise((wake) => setTimeout(wake, pause));
        if (pieces-- > 0) controller.enqueue(new Uint8Array(bytes));
        else controller.close();
      },
    });
    return new Request("http://localhost/", { method: "POST", body });
  };
  const readAll = async (request: Request, patience: number) => {
    let bytes = 0;
    for await (const piece of await new Upload(request, 1e9, patience).image(request)) bytes += piece.length;
    return bytes;
  };

  test("one that says nothing is given up", async () => {
    await expect(readAll(slowly(1, 10, 10_000), 100)).rejects.toThrow("the upload is too slow: 0 bytes in 0.1 s");
  });
  test("and one that drips", async () => {
    await expect(readAll(slowly(1000, 1, 20), 200)).rejects.toThrow(/^the upload is too slow: \d bytes in 0.2 s$/);
  });
  test("not one that is slow and steady", async () => {
    expect(await readAll(slowly(20, 70_000, 50), 500)).toBe(1_400_000);
  });
  test("nor one that waits for us", async () => {
    const request = slowly(5, 10, 1);
    let bytes = 0;
    for await (const piece of await new Upload(request, 1e9, 200).image(request)) {
      bytes += piece.length;
      await new Promise((wake) => setTimeout(wake, 100));
    }
    expect(bytes).toBe(50);
  });
});

function png(width: number, height: number): Bytes {
  return Buffer.from(encode({ width, height, data: random(width * height), channels: 1 }, { zlib: { level: 1 } }));
}

async function edgesOf(bytes: Uint8Array): Promise<Bytes> {
  return Buffer.concat(await Array.fromAsync(transform(await readImage(inPieces(bytes)), sobel, BAND_PIXELS)));
}

async function bytesOf(answer: Response): Promise<Bytes> {
  const bytes = Buffer.from(await answer.arrayBuffer());
  if (!answer.ok) throw new Error(`expected success, got ${answer.status}: ${bytes}`);
  return bytes;
}

/** All that a socket brings until the other side closes. */
async function wholeOf(socket: Socket): Promise<string> {
  let text = "";
  socket.setEncoding("latin1").on("data", (piece: string) => {
    text += piece;
  });
  socket.resume();
  await new Promise((resolve) => socket.once("close", resolve));
  return text;
}

function residentMegabytes({ pid }: Program): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]) / 1024;
}

async function until<T>(condition: () => T | Promise<T>): Promise<NonNullable<T>> {
  for (const deadline = Date.now() + 30_000; ; await new Promise((wake) => setTimeout(wake, 20))) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`not true after 30 s: ${condition}`);
  }
}
