// The smoke script against a real coordinator in one process, and against every fault that it must find: no server, a
// missing token, a late start, wrong bytes.
import { afterAll, afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawn } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { freePort, type Program, spawnProgram } from "./servers.ts";

setDefaultTimeout(60_000);

const SCRIPT = join(dirname(dirname(fileURLToPath(import.meta.url))), "pipelines/6-smoke.sh");
const TOKEN = "correct-horse~battery+staple/0";

const programs: Program[] = [];
const fakes: { stop(force: boolean): unknown }[] = [];

async function coordinator(env: Record<string, string> = {}, port?: number): Promise<string> {
  const PORT = String(port ?? (await freePort()));
  const program = spawnProgram("coordinator.ts", { PORT, WORKERS: "2", ...env });
  programs.push(program);
  if (port === undefined) await program.waitFor(/http:\/\/|listening|"port"/);
  return `http://127.0.0.1:${PORT}`;
}

/** Both outputs in the order of their arrival, and the exit code. */
function smoke(args: string[], env: Record<string, string> = {}): Promise<{ code: number | null; text: string }> {
  const { PATH = "", HOME = "" } = process.env;
  // The runtime of these tests first: the script takes the first `bun` on the PATH.
  const child = spawn("bash", [SCRIPT, ...args], {
    env: { PATH: `${dirname(process.execPath)}:${PATH}`, HOME, NO_COLOR: "1", ...env },
  });
  let text = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (some) => (text += some));
  return new Promise((resolve) => child.on("close", (code) => resolve({ code, text })));
}

/** A proxy between the script and a coordinator: `answer` may replace an answer. */
function between(origin: string, answer: (path: string, real: Response) => Response | Promise<Response>): string {
  const fake = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request) {
      const { pathname, search } = new URL(request.url);
      const body = request.method === "PUT" ? await request.arrayBuffer() : undefined;
      return answer(pathname, await fetch(origin + pathname + search, { method: request.method, body }));
    },
  });
  fakes.push(fake);
  return `http://127.0.0.1:${fake.port}`;
}

describe("the smoke script", () => {
  afterEach(() => {
    for (const fake of fakes.splice(0)) fake.stop(true);
  });
  afterAll(() => {
    for (const program of programs) program.kill("SIGKILL");
  });

  test("prints what it finds, and `all well`", async () => {
    const origin = await coordinator();
    const { code, text } = await smoke([origin]);
    expect(text).toMatch(/==> .*: healthy and ready\n/);
    expect(text).toMatch(/1920 × 1280, \d+ bands, by thread-\d/);
    expect(text).toMatch(/\d+ bytes, SHA-256 [0-9a-f]{16}…/);
    expect(text).toMatch(/thread-1 \(bun on \S+\)\n/);
    expect(text).toEndWith(`all well: ${origin}\n`);
    expect(code).toBe(0);
  });

  test("passes with another band size and a token; without the token it names AUTH_TOKEN", async () => {
    const origin = await coordinator({ BAND_PIXELS: "50000", AUTH_TOKEN: TOKEN });
    const given = await smoke([`${origin}/`], { AUTH_TOKEN: TOKEN });
    expect(given.text).toMatch(/1920 × 1280, 50 bands/);
    expect(given).toMatchObject({ code: 0, text: expect.stringMatching(/all well/) });
    for (const env of [{}, { AUTH_TOKEN: "wrong" }] as Record<string, string>[]) {
      const refused = await smoke([origin], env);
      expect(refused.text).toMatch(/error: PUT jobs\/\S+: a token is needed.*; set AUTH_TOKEN/);
      expect(refused.code).toBe(1);
    }
  });

  test("waits for a coordinator that starts late, for as long as --wait allows", async () => {
    const port = await freePort();
    const origin = `http://127.0.0.1:${port}`;
    const absent = await smoke([origin, "--wait", "1"]);
    expect(absent.text).toMatch(/error: GET healthz: no answer from http:\/\/127\.0\.0\.1:\d+: /);
    expect(absent.code).toBe(1);
    const waiting = smoke([origin, "--wait", "40"]);
    await new Promise((wake) => setTimeout(wake, 2_000));
    await coordinator({}, port);
    expect(await waiting).toMatchObject({ code: 0, text: expect.stringMatching(/all well/) });
  });

  test("fails on wrong bytes, an unhealthy coordinator, another kind of server, and missing workers", async () => {
    const origin = await coordinator();
    const changed = between(origin, async (path, real) => {
      if (!path.endsWith("/result")) return real;
      const bytes = new Uint8Array(await real.arrayBuffer());
      bytes[1000] ^= 1;
      return new Response(bytes);
    });
    expect(await smoke([changed])).toMatchObject({
      code: 1,
      text: expect.stringMatching(/error: expected (\d+) bytes, got \1; they differ from byte 1000 on\n$/),
    });
    const cut = between(origin, async (path, real) => {
      return path.endsWith("/result") ? new Response((await real.arrayBuffer()).slice(0, 999)) : real;
    });
    expect((await smoke([cut])).text).toMatch(/error: expected \d+ bytes, got 999; they differ from byte 999 on/);
    const ill = between(origin, (path, real) => (path === "/readyz" ? new Response("ill", { status: 500 }) : real));
    expect((await smoke([ill])).text).toMatch(/error: GET readyz: expected HTTP 200, got HTTP 500: ill\n/);
    const alone = between(origin, (path, real) => (path === "/workers" ? Response.json({ workers: [] }) : real));
    expect((await smoke([alone])).text).toMatch(/error: \/workers: expected at least one, got none/);
    const other = between(origin, () => new Response("<h1>It works!</h1>"));
    expect((await smoke([other])).text).toMatch(
      /error: PUT jobs\/\S+: expected HTTP 202, got HTTP 200: <h1>It works!<\/h1>\n/,
    );
  });

  test("rejects invalid arguments, and has --help", async () => {
    const cases: [string[], RegExp][] = [
      [[], /^error: expected an address/],
      [["localhost:8080"], /^error: expected http:\/\/… or https:\/\/…, got localhost:8080/],
      [["http://a", "http://b"], /^error: one address at a time/],
      [["http://a", "--wait"], /^error: --wait: expected seconds, got nothing/],
      [["http://a", "--wait", "1m"], /^error: --wait: expected seconds, got 1m/],
      [["--fast"], /^error: unknown option --fast/],
    ];
    for (const [args, message] of cases)
      expect(await smoke(args)).toMatchObject({ code: 1, text: expect.stringMatching(message) });
    expect(await smoke(["--help"])).toMatchObject({
      code: 0,
      text: expect.stringMatching(/^Smoke test of a running system/),
    });
  });
});
