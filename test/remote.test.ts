// A job sent from the shell, as a process, to a real coordinator: what it writes, what it says, what it does when the
// coordinator is not there, dies, is busy or refuses, and what is left when it is interrupted.
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, request, type Server } from "node:http";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encode } from "fast-png";
import { chunk } from "./pictures.ts";
import { binaries, freePort, type Program, spawnProgram, temporaryFolder } from "./servers.ts";

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

/** Sobel, which takes its time. */
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
const clients: ChildProcess[] = [];
const proxies: Server[] = [];
afterEach(async () => {
  for (const client of clients.splice(0)) client.kill("SIGKILL");
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

interface Client {
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

function start(args: string[], { runtime = "Bun", token, input }: Options = {}): Client {
  const [command, ...before] = RUNTIMES[runtime];
  const env = { PATH: process.env.PATH, HOME: process.env.HOME, NO_COLOR: "1", ...(token && { AUTH_TOKEN: token }) };
  const child = spawn(command, [...before, "sobel.ts", ...args], { cwd: root, env, stdio: "pipe" });
  clients.push(child);
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
      for (const deadline = Date.now() + 20_000; !pattern.test(stderr); ) {
        if (Date.now() > deadline || child.exitCode !== null) throw new Error(`did not say ${pattern}: ${stderr}`);
        await new Promise((wake) => setTimeout(wake, 20));
      }
    },
  };
}

/** A place for a result, in a folder of its own. */
function place(): string {
  const own = join(folder, crypto.randomUUID());
  mkdirSync(own);
  return join(own, "out.png");
}

function expectEdges(file: string): void {
  expect(readFileSync(file).equals(expected)).toBe(true);
  expect(readdirSync(join(file, ".."))).toEqual(["out.png"]);
}

/** What was spooled and is still there. */
const spooled = () => readdirSync(tmpdir()).filter((name) => /^sobel-[A-Za-z0-9]{6}$/.test(name));

describe.each(Object.keys(RUNTIMES))("on %s", (runtime) => {
  const there = RUNTIMES[runtime][0] !== "";

  test.skipIf(!there)("the one-machine program's bytes; the job is removed; nothing on standard output", async () => {
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
  });

  test.skipIf(!there)("from standard input to standard output: only the picture, and nothing is left", async () => {
    const port = await freePort();
    await startCoordinator(port);
    const before = spooled();
    const input = readFileSync(photo);
    const client = start(["--remote", `http://127.0.0.1:${port}`, "-", "-"], { runtime, input });
    expect([await client.ended, client.stderr]).toEqual([0, expect.stringContaining("12 of 12 bands")]);
    expect(Buffer.concat(client.stdout).equals(expected)).toBe(true);
    expect(spooled()).toEqual(before);
  });

  test.skipIf(!there)(
    "what is final: one sentence, the server's, exit code 1, and the file that stood there",
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
        writeFileSync(out, "what stood there");
        const client = start(["--remote", origin, ...args, out], { runtime, token });
        expect([args, await client.ended]).toEqual([args, 1]);
        expect(client.stderr.replace(/^sobel\.ts: /, "")).toMatch(sentence);
        expect(client.stderr).toMatch(/^sobel\.ts: [^\n]*\n$/);
        expect(readFileSync(out, "utf8")).toBe("what stood there");
        expect(existsSync(`${out}.part`)).toBe(false);
        expect(client.stderr).not.toContain(TOKEN);
      }
    },
  );

  test.skipIf(!there)("a coordinator that is killed while the picture goes up, and started again", async () => {
    const port = await freePort();
    const first = await startCoordinator(port);
    const out = place();
    // One band at a time: the picture goes up for as long as the job lasts.
    const client = start(["--remote", `http://127.0.0.1:${port}`, "--task", "slow", "--workers", "1", photo, out], {
      runtime,
    });
    await first.waitFor(/Sobel/);
    const id = await jobOf(port);
    first.kill("SIGKILL");
    await first.exited;
    await client.says(/; retrying/);
    await startCoordinator(port);
    expect([await client.ended, client.stderr]).toEqual([0, expect.any(String)]);
    expectEdges(out);
    expect(id).not.toBe("");
  });
});

/** Waits until a job's first bands are done, by the metrics; a job's id is nobody's business. */
async function jobOf(port: number): Promise<string> {
  for (;;) {
    const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
    const [done] = text.match(/^sobel_bands_total\{.*outcome="done"\} [2-9]/m) ?? [""];
    if (done !== "") return done;
    await new Promise((wake) => setTimeout(wake, 20));
  }
}

test("a coordinator that is killed after it has accepted the job, and forgets it: the picture is sent again", async () => {
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

test("a coordinator that comes late", async () => {
  const port = await freePort();
  const out = place();
  const client = start(["--remote", `http://127.0.0.1:${port}`, photo, out]);
  await client.says(/no answer from http:\/\/127\.0\.0\.1:\d+: .*; retrying/);
  await startCoordinator(port);
  expect([await client.ended, client.stderr]).toEqual([0, expect.any(String)]);
  expectEdges(out);
});

test("a coordinator that never comes: patience has an end", async () => {
  const client = start(["--remote", `http://127.0.0.1:${await freePort()}`, photo, place()]);
  expect(await client.ended).toBe(1);
  expect(client.stderr).toMatch(/\nsobel\.ts: no answer from http:\/\/127\.0\.0\.1:\d+: [^.?\n]*\n$/);
});

test("a coordinator that is busy: it is asked again when it says so", async () => {
  const port = await freePort();
  await startCoordinator(port, { MAX_JOBS: "1" });
  const other = connect(port, "127.0.0.1");
  other.write("POST /tasks/sobel HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1000\r\n\r\n");
  const out = place();
  await new Promise((wake) => setTimeout(wake, 200));
  const client = start(["--remote", `http://127.0.0.1:${port}`, photo, out]);
  await client.says(/^too many uploads in progress \(1\); retry later; retrying\n/);
  other.destroy();
  expect([await client.ended, client.stderr]).toEqual([0, expect.any(String)]);
  expectEdges(out);
});

test("a result that breaks off is fetched from where it broke", async () => {
  const port = await freePort();
  await startCoordinator(port);
  const asked: (string | undefined)[] = [];
  const proxy = createServer((from, to) => {
    const { method, headers, url } = from;
    const onward = request({ host: "127.0.0.1", port, method, headers, path: url }, (answer) => {
      to.writeHead(answer.statusCode!, answer.headers);
      if (!url!.endsWith("/result")) return answer.pipe(to);
      asked.push(headers.range);
      if (asked.length > 2) return answer.pipe(to);
      answer.once("data", (piece: Buffer) => {
        // Given time to arrive: a reset takes what is under way with it.
        to.write(piece.subarray(0, 1000), () => setTimeout(() => to.destroy(), 300));
      });
    });
    from.pipe(onward);
  });
  proxies.push(proxy);
  await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  const { port: through } = proxy.address() as { port: number };
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

test.each(["SIGINT", "SIGTERM"] as const)("%s cancels the job, and leaves nothing", async (signal) => {
  const port = await freePort();
  const coordinator = await startCoordinator(port);
  const out = place();
  const before = spooled();
  const input = readFileSync(photo);
  const client = start(["--remote", `http://127.0.0.1:${port}`, "--task", "slow", "--workers", "1", "-", out], {
    input,
  });
  await jobOf(port);
  client.process.kill(signal);
  expect(await client.ended).toBe(130);
  expect(client.stderr).toBe("sobel.ts: interrupted\n");
  await coordinator.waitFor(/job cancelled/);
  expect(readdirSync(join(out, ".."))).toEqual([]);
  expect(spooled()).toEqual(before);
});

test("interrupted while standard input is silent, too", async () => {
  const before = spooled();
  const child = spawn(process.execPath, ["run", "sobel.ts", "--remote", "http://127.0.0.1:1", "-", "-"], { cwd: root });
  clients.push(child);
  child.stdin.write("half a picture");
  for (; spooled().length === before.length; ) await new Promise((wake) => setTimeout(wake, 20));
  child.kill("SIGINT");
  expect(await new Promise((resolve) => child.on("close", resolve))).toBe(130);
  expect(spooled()).toEqual(before);
});

test("in a terminal there is a bar", async () => {
  const port = await freePort();
  await startCoordinator(port);
  const out = place();
  const command = `${process.execPath} run sobel.ts --remote http://127.0.0.1:${port} --task slow ${photo} ${out}`;
  const child = spawn("script", ["-qec", command, "/dev/null"], { cwd: root });
  clients.push(child);
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
