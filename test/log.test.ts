// The log: its format, its lines for a job and its bands, and that the last line before an exit is written. Real
// programs, as processes, on both runtimes.
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawn, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { encode } from "fast-png";
import { binaries, describeWith, freePort, spawnProgram, temporaryFolder } from "./servers.ts";

setDefaultTimeout(30_000);

const root = join(import.meta.dirname, "..");
const RUNTIMES: Record<string, string[]> = { Bun: [process.execPath, "run"], Deno: [binaries.deno ?? "", "run", "-A"] };
const folder = temporaryFolder("log");
const photo = Buffer.from(encode({ width: 90, height: 60, channels: 1, data: new Uint8Array(5400).fill(7) }));

type Line = Record<string, unknown> & { time: string; level: string; msg: string };

/** The lines of JSON. Other lines are messages for the user. */
function linesOf(out: string): Line[] {
  const lines = out.split("\n").filter((line) => line.startsWith("{"));
  return lines.map((line) => JSON.parse(line));
}

/** Writes a small program that uses ops/log.ts. `$LOG` is replaced by its path. */
function program(text: string): string {
  const file = join(folder, `${crypto.randomUUID()}.ts`);
  writeFileSync(file, text.replace("$LOG", join(root, "ops/log.ts")));
  return file;
}

describe.each(Object.keys(RUNTIMES))("on %s", (runtime) => {
  const [command, ...args] = RUNTIMES[runtime];
  const start = (text: string) => spawnSync(command, [...args, program(text)], { encoding: "utf8", timeout: 20_000 });

  test.skipIf(!command)("an event is one line of JSON, whatever its fields contain", () => {
    const { stdout, stderr } = start(`
      import { openLog } from "$LOG";
      const log = openLog("info").with({ worker: "one\\ntwo\\u001b[2J" });
      const error = Object.assign(new Error("no\\nway"), { command: { args: ["s3cret"] } });
      log.debug("is not written");
      log.warn("a band", { job: "j", ms: 1.5, error, nothing: undefined });
      log.with({ chunk: "c" }).error("more");`);
    expect(stdout).toBe("");
    expect(stderr).not.toContain("s3cret");
    expect(stderr.split("\n")).toHaveLength(3);
    const [first, second] = linesOf(stderr);
    const worker = "one\ntwo\x1b[2J";
    expect(first).toEqual({
      time: first.time,
      level: "warn",
      msg: "a band",
      worker,
      job: "j",
      ms: 1.5,
      error: "no\nway",
    });
    expect(Object.keys(first).slice(0, 3)).toEqual(["time", "level", "msg"]);
    expect(new Date(first.time).toISOString()).toBe(first.time);
    expect(second).toMatchObject({ level: "error", msg: "more", worker, chunk: "c" });
  });

  test.skipIf(!command)("every line is written before an exit, even to a slow reader", async () => {
    const file = program(`
      import { openLog } from "$LOG";
      const log = openLog("info");
      for (let i = 0; i < 5000; i++) log.info("x".repeat(100), { i });
      process.exit(3);`);
    const child = spawn(command, [...args, file], { stdio: ["ignore", "ignore", "pipe"] });
    await new Promise((wake) => setTimeout(wake, 1000)); // the pipe is full by now
    let text = "";
    for await (const piece of child.stderr) text += piece;
    expect(linesOf(text).map(({ i }) => i)).toEqual(Array.from({ length: 5000 }, (_, i) => i));
  });

  test.skipIf(!command)("a terminal gets plain text, and no value moves the cursor", () => {
    const file = program(`
      import { openLog } from "$LOG";
      openLog("info").warn("a band", { chunk: "{1-2}:3", worker: "a\\u001b[2Jb", ms: 2, error: new Error("two words") });`);
    const { stdout } = spawnSync("script", ["-qec", [command, ...args, file].join(" "), "/dev/null"], {
      encoding: "utf8",
    });
    // Without the colours.
    expect(stdout.replace(/\x1b\[\d*m/g, "")).toMatch(
      /^\d\d:\d\d:\d\d warn {2}a band chunk=\{1-2\}:3 worker="a\\u001b\[2Jb" ms=2 error="two words"\r\n$/,
    );
  });
});

test("logs a job from its acceptance to its end, with a debug line for each band", async () => {
  const coordinator = spawnProgram("coordinator.ts", {
    PORT: "0",
    WORKERS: "2",
    BAND_PIXELS: "900",
    LOG_LEVEL: "debug",
  });
  const [origin] = await coordinator.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
  const kept = crypto.randomUUID();
  await fetch(`${origin}/jobs/${kept}?workers=2`, { method: "PUT", body: photo });
  await coordinator.waitFor(/job done/);
  await fetch(`${origin}/jobs/${kept}`, { method: "PUT", body: photo }); // a repeated upload logs nothing
  const answer = await fetch(`${origin}/tasks/sobel`, { method: "POST", body: photo });
  const passing = answer.headers.get("x-job-id")!;
  await answer.arrayBuffer();
  await fetch(`${origin}/jobs/${kept}`, { method: "DELETE" }); // it is done, so nothing is cancelled
  await fetch(`${origin}/tasks/sobel`, { method: "POST", body: "a text" });
  await fetch(`${origin}/tasks/sobel?token=s3cret`, { method: "POST", body: photo });
  coordinator.kill();
  expect(await coordinator.exited).toBe(0);
  expect(coordinator.out).not.toContain("s3cret");

  const lines = linesOf(coordinator.out);
  const of = (job: string) => lines.filter((line) => line.job === job);
  for (const [job, workers] of [
    [kept, 2],
    [passing, null],
  ] as const) {
    const logged = of(job).filter(({ level }) => level !== "debug");
    expect(logged.map(({ msg }) => msg)).toEqual(["job accepted", "job done"]);
    const size = { task: "sobel", width: 90, height: 60, bands: 6, bytes: photo.length };
    expect(logged[0]).toMatchObject({ level: "info", workers, ...size });
    expect(logged[1]).toMatchObject({ level: "info", ms: expect.any(Number) });
    const bands = of(job).filter(({ level }) => level === "debug");
    expect(bands.map(({ chunk }) => chunk).toSorted()).toEqual(Array.from({ length: 6 }, (_, i) => `{${job}}:${i}`));
    for (const band of bands) {
      expect(band).toMatchObject({ msg: "band done", task: "sobel", worker: expect.stringMatching(/^thread-[12]$/) });
      expect(band).toMatchObject({ ms: expect.any(Number), pixels: 900, bytes: expect.any(Number) });
    }
  }
  const refused = { level: "info", method: "POST", path: "/tasks/sobel" };
  expect(lines.filter(({ msg }) => msg === "upload refused")).toMatchObject([
    { ...refused, reason: "picture", error: expect.stringMatching(/^not an image/) },
    { ...refused, reason: "request", error: 'unknown parameter "token": sobel has no parameters' },
  ]);
});

test("logs a cancelled job, and each failed attempt of a job whose task throws", async () => {
  const task = join(folder, "fails.ts");
  writeFileSync(task, `export const task = { name: "fails", halo: 0, run() { throw new Error("cannot") } };`);
  const slow = join(folder, "slow.ts");
  writeFileSync(
    slow,
    `export const task = { name: "slow", halo: 0, run({ pixels }) {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3000); return pixels } };`,
  );
  const coordinator = spawnProgram("coordinator.ts", { PORT: "0", WORKERS: "1", TASKS: `${task},${slow}` });
  const [origin] = await coordinator.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
  const [failing, cancelled] = [crypto.randomUUID(), crypto.randomUUID()];
  await fetch(`${origin}/jobs/${failing}?task=fails`, { method: "PUT", body: photo });
  await coordinator.waitFor(/job failed/);
  await fetch(`${origin}/jobs/${cancelled}?task=slow`, { method: "PUT", body: photo });
  await fetch(`${origin}/jobs/${cancelled}`, { method: "DELETE" });
  await coordinator.waitFor(/job cancelled/);
  coordinator.kill("SIGKILL");
  await coordinator.exited;

  const lines = linesOf(coordinator.out);
  const chunk = `{${failing}}:0`;
  const error = expect.stringContaining("cannot");
  expect(lines.filter(({ job }) => job === failing)).toMatchObject([
    { msg: "job accepted" },
    { level: "warn", msg: "band failed", chunk, worker: "thread-1", attempt: 1, of: 3, error },
    { level: "warn", msg: "band failed", chunk, worker: "thread-1", attempt: 2, of: 3, error },
    { level: "warn", msg: "band failed", chunk, worker: "thread-1", attempt: 3, of: 3, error },
    { level: "error", msg: "band dead-lettered", chunk, worker: "thread-1", error },
    { level: "error", msg: "job failed", error },
  ]);
  expect(lines.filter(({ job }) => job === cancelled)).toMatchObject([
    { msg: "job accepted" },
    { msg: "job cancelled" },
  ]);
});

describeWith(["deno"], "unreachable servers", () => {
  test.each(["bun", "deno"] as const)("are logged at warn, without the password, on %s", async (runtime) => {
    const at = `127.0.0.1:${await freePort()}`;
    const servers = { RABBITMQ_URL: `amqp://guest:s3cret@${at}`, REDIS_URL: `redis://:s3cret@${at}` };
    const worker = spawnProgram("worker.ts", { ...servers, WORKER_NAME: "lost" }, runtime);
    await worker.waitFor(/RabbitMQ cannot be reached/);
    worker.kill("SIGKILL");
    await worker.exited;
    expect(worker.out).not.toContain("s3cret");
    const [line] = linesOf(worker.out).filter(({ msg }) => msg === "RabbitMQ cannot be reached, retrying");
    expect(line).toMatchObject({ level: "warn", worker: "lost", error: expect.any(String) });
  });
});
