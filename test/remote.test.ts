// `sobel.ts --remote`, as a process, with a real coordinator: its output and its messages; a coordinator that is absent, late,
// killed, busy, or refuses; and interrupts. Also the codes of the client's errors.
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encode } from "fast-png";
import { Client, ClientError } from "../cli/client.ts";
import { chunk } from "./pictures.ts";
import { binaries, freePort, type Program, spawnProgram, temporaryFolder } from "./servers.ts";
import { sleep, until } from "./wait.ts";

setDefaultTimeout(60_000);

const root = join(import.meta.dirname, "..");
const RUNTIMES: Record<string, string[]> = { Bun: [process.execPath, "run"], Deno: [binaries.deno ?? "", "run", "-A"] };
const TOKEN = "open-sesame";
const BAND_PIXELS = "6000";

const folder = temporaryFolder("remote");
/** 12 bands. */
const photo = join(folder, "photo.png");
writeFileSync(photo, noise(300, 240));
const edges = join(folder, "edges.png");
spawnSync(process.execPath, ["run", "sobel.ts", photo, edges], { cwd: root, env: { ...process.env, BAND_PIXELS } });
const expected = readFileSync(edges);

/** Sobel, 250 ms a band. */
const slow = join(folder, "slow.ts");
writeFileSync(
  slow,
  `import { task as sobel } from ${JSON.stringify(join(root, "sobel.ts"))};
  export const task = { name: "slow", halo: 1, run(chunk) {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 250);
    return sobel.run(chunk);
  } };`,
);

function noise(width: number, height: number): Uint8Array {
  let x = 7;
  const data = Uint8Array.from({ length: width * height }, () => {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    return x >>> 24;
  });
  return encode({ width, height, channels: 1, data });
}

const coordinators: Program[] = [];
const commands: ChildProcess[] = [];
const proxies: Server[] = [];
afterEach(async () => {
  for (const command of commands.splice(0)) command.kill("SIGKILL");
  for (const proxy of proxies.splice(0)) proxy.close();
  for (const coordinator of coordinators.splice(0)) {
    coordinator.kill("SIGKILL");
    await coordinator.exited;
  }
});

async function startCoordinator(port: number, own: Record<string, string> = {}): Promise<Program> {
  const settings = { PORT: String(port), WORKERS: "2", BAND_PIXELS, TASKS: slow, ...own };
  const program = spawnProgram("coordinator.ts", settings);
  coordinators.push(program);
  await program.waitFor(/Sobel, distributed/);
  return program;
}

interface Command {
  process: ChildProcess;
  readonly stderr: string;
  stdout: Buffer[];
  ended: Promise<number | null>;
  says(pattern: RegExp): Promise<void>;
}

interface Options {
  runtime?: string;
  token?: string;
  input?: Uint8Array;
}

function start(args: string[], { runtime = "Bun", token, input }: Options = {}): Command {
  const [command, ...before] = RUNTIMES[runtime];
  const env = { PATH: process.env.PATH, HOME: process.env.HOME, NO_COLOR: "1", ...(token && { AUTH_TOKEN: token }) };
  const child = spawn(command, [...before, "sobel.ts", ...args], { cwd: root, env, stdio: "pipe" });
  commands.push(child);
  child.stdin.end(input);
  let stderr = "";
  const stdout: Buffer[] = [];
  child.stdout.on("data", (piece) => stdout.push(piece));
  child.stderr.on("data", (piece) => {
    stderr += piece;
  });
  return {
    process: child,
    get stderr() {
      return stderr;
    },
    stdout,
    ended: new Promise((resolve) => child.on("close", resolve)),
    async says(pattern) {
      await until(() => {
        if (child.exitCode !== null && !pattern.test(stderr)) throw new Error(`did not print ${pattern}: ${stderr}`);
        return pattern.test(stderr);
      });
    },
  };
}

/** A path for a result, in a new folder. */
function place(): string {
  const own = join(folder, crypto.randomUUID());
  mkdirSync(own);
  return join(own, "out.png");
}

function expectEdges(file: string): void {
  expect(readFileSync(file).equals(expected)).toBe(true);
  expect(readdirSync(join(file, ".."))).toEqual(["out.png"]);
}

/** Temporary folders of pictures from standard input. */
const spooled = () => readdirSync(tmpdir()).filter((name) => /^sobel-[A-Za-z0-9]{6}$/.test(name));

describe.each(Object.keys(RUNTIMES))("on %s", (runtime) => {
  const there = RUNTIMES[runtime][0] !== "";

  test.skipIf(!there)(
    "writes the one-machine program's bytes, prints nothing on standard output, and removes the job",
    async () => {
      const port = await freePort();
      const coordinator = await startCoordinator(port, { AUTH_TOKEN: TOKEN });
      const out = place();
      const origin = `http://127.0.0.1:${port}`;
      const client = start(["--remote", origin, "--workers", "2", photo, out], { runtime, token: TOKEN });
      expect([await client.ended, client.stderr]).toEqual([0, expect.any(String)]);
      expectEdges(out);
      expect(client.stdout).toEqual([]);
      expect(client.stderr).toMatch(
        /^picture uploaded, 0\.1 MB\n12 of 12 bands: thread-1 \d+, thread-2 \d+ in [\d.]+ s\n$/,
      );
      const [, id] = /"job accepted","job":"([^"]+)".*"workers":2/.exec(coordinator.out) ?? [];
      expect((await fetch(`${origin}/jobs/${id}`)).status).toBe(404);
    },
  );

  test.skipIf(!there)(
    "from standard input to standard output: only the picture, and no temporary file remains",
    async () => {
      const port = await freePort();
      await startCoordinator(port);
      const before = spooled();
      const input = readFileSync(photo);
      const client = start(["--remote", `http://127.0.0.1:${port}`, "-", "-"], { runtime, input });
      expect([await client.ended, client.stderr]).toEqual([0, expect.stringContaining("12 of 12 bands")]);
      expect(Buffer.concat(client.stdout).equals(expected)).toBe(true);
      expect(spooled()).toEqual(before);
    },
  );

  test.skipIf(!there)(
    "a final error: the coordinator's message on one line, exit code 1, and the output file is unchanged",
    async () => {
      const port = await freePort();
      const origin = `http://127.0.0.1:${port}`;
      await startCoordinator(port, { AUTH_TOKEN: TOKEN, MAX_UPLOAD_BYTES: String(20 << 20) });
      const [text, large, cut] = ["text", "large.bin", "cut.png"].map((name) => join(folder, name));
      writeFileSync(text, "a text");
      const head = readFileSync(photo).subarray(0, 33); // signature and header
      writeFileSync(large, Buffer.concat([head, chunk("juNk", new Uint8Array(24 << 20))]));
      writeFileSync(cut, readFileSync(photo).subarray(0, -30));
      const cases: [args: string[], sentence: RegExp, token?: string][] = [
        [[photo], /^a token is needed/, "wrong"],
        [[large], /^a token is needed/, "wrong"],
        [[text], /^not an image: expected PNG/],
        [[large], /^upload too large: expected at most 20971520 bytes/],
        [[cut], /ends|cut|expected|truncated/],
        [["--task", "nope", photo], /^unknown task "nope"/],
        [["--workers", "0", photo], /^workers: expected a whole number from 1 to 1024, got "0"/],
        [[join(folder, "missing.png")], /ENOENT/],
        [[folder], /EISDIR|directory/],
      ];
      for (const [args, sentence, token = TOKEN] of cases) {
        const out = place();
        writeFileSync(out, "earlier");
        const client = start(["--remote", origin, ...args, out], { runtime, token });
        expect([args, await client.ended]).toEqual([args, 1]);
        expect(client.stderr.replace(/^sobel\.ts: /, "")).toMatch(sentence);
        expect(client.stderr).toMatch(/^sobel\.ts: [^\n]*\n$/);
        expect(readFileSync(out, "utf8")).toBe("earlier");
        expect(existsSync(`${out}.part`)).toBe(false);
        expect(client.stderr).not.toContain(TOKEN);
      }
    },
  );

  test.skipIf(!there)("a coordinator is killed during the upload, and restarted: the job is done", async () => {
    const port = await freePort();
    const first = await startCoordinator(port);
    const out = place();
    // One band at a time: the upload lasts as long as the job.
    const client = start(["--remote", `http://127.0.0.1:${port}`, "--task", "slow", "--workers", "1", photo, out], {
      runtime,
    });
    await someBands(port);
    first.kill("SIGKILL");
    await first.exited;
    await client.says(/; retrying/);
    await startCoordinator(port);
    expect([await client.ended, client.stderr]).toEqual([0, expect.any(String)]);
    expectEdges(out);
  });
});

/** Waits until two bands are done, by the metrics. */
async function someBands(port: number): Promise<void> {
  await until(async () => {
    const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
    return /^sobel_bands_total\{.*outcome="done"\} [2-9]/m.test(text);
  });
}

test("a coordinator is killed after it has accepted the job, and loses it: the picture is uploaded again", async () => {
  const port = await freePort();
  const first = await startCoordinator(port, { BAND_PIXELS: "18000" });
  const out = place();
  const client = start(["--remote", `http://127.0.0.1:${port}`, "--task", "slow", photo, out]);
  await client.says(/picture uploaded/);
  first.kill("SIGKILL");
  await first.exited;
  await client.says(/; retrying/);
  await startCoordinator(port);
  expect([await client.ended, client.stderr]).toEqual([0, expect.stringContaining("uploading the picture again")]);
  expectEdges(out);
});

test("a coordinator starts late: the job is done", async () => {
  const port = await freePort();
  const out = place();
  const client = start(["--remote", `http://127.0.0.1:${port}`, photo, out]);
  await client.says(/no answer from http:\/\/127\.0\.0\.1:\d+: .*; retrying/);
  await startCoordinator(port);
  expect([await client.ended, client.stderr]).toEqual([0, expect.any(String)]);
  expectEdges(out);
});

test("a coordinator never starts: exit code 1", async () => {
  const client = start(["--remote", `http://127.0.0.1:${await freePort()}`, photo, place()]);
  expect(await client.ended).toBe(1);
  expect(client.stderr).toMatch(/\nsobel\.ts: no answer from http:\/\/127\.0\.0\.1:\d+: [^.?\n]*\n$/);
});

test("a coordinator is busy: the upload is retried after Retry-After", async () => {
  const port = await freePort();
  await startCoordinator(port, { MAX_JOBS: "1" });
  const other = connect(port, "127.0.0.1");
  other.write("POST /tasks/sobel HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1000\r\n\r\n");
  const out = place();
  await sleep(200);
  const client = start(["--remote", `http://127.0.0.1:${port}`, photo, out]);
  await client.says(/^too many uploads in progress \(1\); retry later; retrying\n/);
  other.destroy();
  expect([await client.ended, client.stderr]).toEqual([0, expect.any(String)]);
  expectEdges(out);
});

test("a job is cancelled by another client: the picture is uploaded again", async () => {
  const port = await freePort();
  const coordinator = await startCoordinator(port, { BAND_PIXELS: "18000" });
  const client = start(["--remote", `http://127.0.0.1:${port}`, "--task", "slow", photo, place()]);
  await client.says(/picture uploaded/);
  const [, id] = await coordinator.waitFor(/"job accepted","job":"([^"]+)"/);
  expect((await fetch(`http://127.0.0.1:${port}/jobs/${id}`, { method: "DELETE" })).status).toBe(204);
  expect([await client.ended, client.stderr]).toEqual([
    0,
    expect.stringContaining("the job was cancelled or has expired; uploading the picture again\n"),
  ]);
});

/** Cuts the answers to `/result` after 1000 bytes, while `cut` says so, and passes everything else on. @returns its port */
async function cutting(port: number, cut: (from: IncomingMessage, to: ServerResponse) => boolean): Promise<number> {
  const proxy = createServer((from, to) => {
    const { method, headers, url } = from;
    const onward = request({ host: "127.0.0.1", port, method, headers, path: url }, (answer) => {
      if (url!.endsWith("/result") && cut(from, to)) {
        if (to.writableEnded) return;
        to.writeHead(answer.statusCode!, answer.headers);
        answer.once("data", (piece: Buffer) => {
          // A reset at once would discard bytes on their way.
          to.write(piece.subarray(0, 1000), () => setTimeout(() => to.destroy(), 300));
        });
      } else {
        to.writeHead(answer.statusCode!, answer.headers);
        answer.pipe(to);
      }
    });
    from.pipe(onward);
  });
  proxies.push(proxy);
  await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  return (proxy.address() as AddressInfo).port;
}

test("a result that breaks off is resumed at the next byte", async () => {
  const port = await freePort();
  await startCoordinator(port);
  const asked: (string | undefined)[] = [];
  const through = await cutting(port, ({ headers }) => asked.push(headers.range) <= 2);
  for (const to of ["file", "-"]) {
    asked.length = 0;
    const out = to === "-" ? to : place();
    const client = start(["--remote", `http://127.0.0.1:${through}`, photo, out]);
    expect([await client.ended, client.stderr]).toEqual([0, expect.any(String)]);
    expect(asked).toEqual([undefined, "bytes=1000-", "bytes=2000-"]);
    if (to === "-") expect(Buffer.concat(client.stdout).equals(expected)).toBe(true);
    else expectEdges(out);
  }
});

test("a job is lost after a part of its result: a file is begun again, standard output is not", async () => {
  const port = await freePort();
  await startCoordinator(port);
  let asked = 0;
  const through = await cutting(port, (_, to) => {
    if (++asked === 2) {
      to.writeHead(404, { "content-type": "application/problem+json" }).end('{"detail":"no such job"}');
    }
    return asked <= 2;
  });
  const out = place();
  const file = start(["--remote", `http://127.0.0.1:${through}`, photo, out]);
  expect([await file.ended, file.stderr]).toEqual([0, expect.stringContaining("no such job; uploading the picture")]);
  expectEdges(out);
  asked = 0;
  const output = start(["--remote", `http://127.0.0.1:${through}`, photo, "-"]);
  expect([await output.ended, output.stderr]).toEqual([1, expect.stringMatching(/\nsobel\.ts: no such job\n$/)]);
  expect(Buffer.concat(output.stdout).equals(expected.subarray(0, 1000))).toBe(true);
});

test("a pipe is written through, and is not begun again; a link's target is replaced", async () => {
  const port = await freePort();
  await startCoordinator(port);
  const pipe = join(place(), "..", "pipe");
  spawnSync("mkfifo", [pipe]);
  const whole = spawn("cat", [pipe], { stdio: ["ignore", "pipe", "inherit"] });
  commands.push(whole);
  const first = start(["--remote", `http://127.0.0.1:${port}`, photo, pipe]);
  const read: Buffer[] = [];
  whole.stdout.on("data", (piece) => read.push(piece));
  expect(await first.ended).toBe(0);
  await until(() => Buffer.concat(read).equals(expected));

  let asked = 0;
  const through = await cutting(port, (_, to) => {
    if (++asked === 2) {
      to.writeHead(404, { "content-type": "application/problem+json" }).end('{"detail":"no such job"}');
    }
    return asked <= 2;
  });
  commands.push(spawn("cat", [pipe], { stdio: "ignore" }));
  const broken = start(["--remote", `http://127.0.0.1:${through}`, photo, pipe]);
  expect([await broken.ended, broken.stderr]).toEqual([1, expect.stringMatching(/\nsobel\.ts: no such job\n$/)]);
  expect(lstatSync(pipe).isFIFO()).toBe(true);

  const target = place();
  const link = join(place(), "..", "link.png");
  symlinkSync(target, link);
  const linked = start(["--remote", `http://127.0.0.1:${port}`, photo, link]);
  expect(await linked.ended).toBe(0);
  expect(lstatSync(link).isSymbolicLink()).toBe(true);
  expectEdges(target);
});

test("an interrupt ends it while no program reads the pipe", async () => {
  const port = await freePort();
  const coordinator = await startCoordinator(port);
  const pipe = join(place(), "..", "pipe");
  spawnSync("mkfifo", [pipe]);
  const command = start(["--remote", `http://127.0.0.1:${port}`, photo, pipe]);
  await coordinator.waitFor(/job done/);
  command.process.kill("SIGINT");
  expect([await command.ended, command.stderr]).toEqual([130, expect.stringMatching(/sobel\.ts: interrupted\n$/)]);
});

describe("the client's errors", () => {
  const problem = { "content-type": "application/problem+json" };
  const cases: [method: "GET" | "PUT", status: number, headers: Record<string, string>, code: string][] = [
    ["GET", 404, problem, "gone"],
    ["GET", 410, problem, "gone"],
    ["PUT", 410, problem, "refused"],
    ["GET", 404, {}, "refused"], // of a proxy
    ["GET", 400, problem, "refused"],
    ["PUT", 401, problem, "refused"],
    ["GET", 409, problem, "refused"],
    ["GET", 409, { ...problem, "retry-after": "1" }, "unavailable"],
    ["PUT", 408, problem, "unavailable"],
    ["PUT", 429, {}, "unavailable"],
    ["GET", 500, problem, "refused"],
    ["GET", 500, {}, "refused"],
    ["GET", 502, {}, "unavailable"],
    ["GET", 503, problem, "unavailable"],
    ["GET", 204, {}, "refused"],
  ];

  test.each(cases)("%s, HTTP %i, %j: %s", async (method, status, headers, code) => {
    const isProblem = "content-type" in headers;
    const body = status === 204 ? null : isProblem ? '{"detail":"its own words"}' : "<h1>Bad</h1>\n<p>words";
    const fetch = ({ url }: Request) => {
      // The stream of events is silent: it must not fail before the upload does.
      return url.includes("/events") ? new Response(new ReadableStream()) : new Response(body, { status, headers });
    };
    const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch });
    const { signal } = new AbortController();
    const client = new Client({ origin: server.url, patience: () => -1 });
    const step = method === "GET" ? client.get("x", signal) : client.run("x", { body: () => Buffer.of(1) }, signal);
    const error = await step.then(
      () => null,
      (error) => error,
    );
    server.stop(true);
    expect(error).toBeInstanceOf(ClientError);
    const message = isProblem ? "its own words" : `expected HTTP ${method === "GET" ? 200 : 202}, got HTTP ${status}`;
    expect([error.code, error.message]).toEqual([code, body && !isProblem ? `${message}: <h1>Bad</h1>` : message]);
  });

  test("a step is retried after Retry-After, for as long as the patience lasts", async () => {
    let asked = 0;
    const fetch = () => new Response(null, { status: ++asked < 3 ? 503 : 200, headers: { "retry-after": "0" } });
    const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch });
    const retried: string[] = [];
    const onRetry = ({ message }: ClientError) => retried.push(message);
    const client = new Client({ origin: server.url, patience: () => 60_000, onRetry });
    expect((await client.get("x", new AbortController().signal)).status).toBe(200);
    expect(retried).toEqual(Array(2).fill("expected HTTP 200, got HTTP 503"));
    server.stop(true);
  });
});

test.each(["SIGINT", "SIGTERM"] as const)("%s cancels the job, and no file remains", async (signal) => {
  const port = await freePort();
  const coordinator = await startCoordinator(port);
  const out = place();
  const before = spooled();
  const input = readFileSync(photo);
  const client = start(["--remote", `http://127.0.0.1:${port}`, "--task", "slow", "--workers", "1", "-", out], {
    input,
  });
  await someBands(port);
  client.process.kill(signal);
  expect(await client.ended).toBe(130);
  expect(client.stderr).toBe("sobel.ts: interrupted\n");
  await coordinator.waitFor(/job cancelled/);
  expect(readdirSync(join(out, ".."))).toEqual([]);
  expect(spooled()).toEqual(before);
});

test("an interrupt ends it while standard input is silent", async () => {
  const before = spooled();
  const child = spawn(process.execPath, ["run", "sobel.ts", "--remote", "http://127.0.0.1:1", "-", "-"], { cwd: root });
  commands.push(child);
  child.stdin.write("half a picture");
  await until(() => spooled().length > before.length);
  child.kill("SIGINT");
  expect(await new Promise((resolve) => child.on("close", resolve))).toBe(130);
  expect(spooled()).toEqual(before);
});

test("a terminal shows a bar", async () => {
  const port = await freePort();
  await startCoordinator(port);
  const out = place();
  const command = `${process.execPath} run sobel.ts --remote http://127.0.0.1:${port} --task slow ${photo} ${out}`;
  const child = spawn("script", ["-qec", command, "/dev/null"], { cwd: root });
  commands.push(child);
  let shown = "";
  child.stdout.on("data", (piece) => {
    shown += piece;
  });
  expect(await new Promise((resolve) => child.on("close", resolve))).toBe(0);
  expect(shown).toMatch(/\r\x1b\[K█+░* 0\.1 MB of 0\.1 MB · [1-9]\d? of 12 bands: thread-1 \d/);
  expect(shown).toMatch(/\r\x1b\[K12 of 12 bands: thread-1 \d+, thread-2 \d+ in [\d.]+ s\r\n/);
  expectEdges(out);
});

describe("the command line", () => {
  test.each([
    [["--remote", "ftp://host", "a", "b"], /^sobel\.ts: --remote: expected http:\/\/host:port/],
    [["--remote", "http://user:s3cret@host", "a", "b"], /^sobel\.ts: --remote: expected http:\/\/host:port/],
    [["--remote", "host:8080", "a", "b"], /^sobel\.ts: --remote: expected http:\/\/host:port/],
    [["--workers", "2", "a", "b"], /^sobel\.ts: --workers: only with --remote/],
    [["--remote", "http://host", "a"], /^sobel\.ts: expected two files, got 1/],
  ])("%j", (args, sentence) => {
    const { status, stdout, stderr } = spawnSync(process.execPath, ["run", "sobel.ts", ...args], {
      cwd: root,
      encoding: "utf8",
    });
    expect([status, stdout]).toEqual([2, ""]);
    expect(stderr).toMatch(sentence);
    expect(stderr).not.toContain("s3cret");
  });
});
