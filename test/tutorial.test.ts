// docs/your-own-task.md: its files are written and its commands are run, in its order, in a copy of the project. Only the
// port and the servers' addresses differ. The commands for Google Cloud are not run: their scripts must exist.
import { afterAll, expect, test } from "bun:test";
import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describeWith, freePort, sharedServers, temporaryFolder } from "./servers.ts";
import { until } from "./wait.ts";

const PROJECT = join(import.meta.dirname, "..");
const text = readFileSync(join(PROJECT, "docs", "your-own-task.md"), "utf8");

const [local, cloud] = text.split("## On GKE");
const [, change] = cloud.match(/^(## When it changes$.*?)^## /ms)!;
const blocks = (part: string, language: string) =>
  [...part.matchAll(new RegExp(`^\`\`\`${language}\n([\\s\\S]*?)^\`\`\`$`, "gm"))].map(([, code]) => code);

/** No `-m`: each job would get a process group of its own, and outlive the script. */
const OPTIONS = "set -eo pipefail";

describeWith(["rabbitmq", "redis"], "the tutorial", () => {
  const folder = temporaryFolder("tutorial");
  const groups = new Set<number>();
  const endGroup = (group: number) => {
    try {
      process.kill(-group, "SIGKILL");
    } catch {} // it has ended already
    groups.delete(group);
  };
  const endAll = () => groups.forEach(endGroup);
  afterAll(endAll);
  process.on("exit", endAll); // Ctrl-C

  test.each(["fails", "is cut short"])("leaves no process when it %s", async (how) => {
    const marks = [1, 2, 3].map((i) => `300.${i}${process.pid}`);
    const sleeping = () => marks.filter((seconds) => commandLines().includes(`sleep\0${seconds}\0`));
    const started = `sleep ${marks[0]} &\n(sleep ${marks[1]} &)`;
    const last = how === "fails" ? "until test -e go; do sleep 0.01; done; false" : `sleep ${marks[2]}`;
    const ended = bash(`${OPTIONS}\n${started}\n${last}`);
    await until(() => sleeping().length === (how === "fails" ? 2 : 3));
    if (how === "fails") writeFileSync(join(folder, "go"), "");
    else endAll();
    expect((await ended).code).toBe(how === "fails" ? 1 : null);
    expect(sleeping()).toEqual([]);
  });

  test("works, command by command", async () => {
    const { rabbitmq, redis } = await sharedServers();
    copyProject(folder);
    const files = blocks(local, "ts");
    expect(files).toHaveLength(6);
    for (const code of files) {
      const [, name] = code.match(/^\/\/ (tasks\/\w+\.ts)\n/)!;
      writeFileSync(join(folder, name), code);
    }
    const port = await freePort();
    const commands = blocks(local + change, "sh")
      .join("\n")
      .replaceAll("amqp://guest:guest@127.0.0.1 REDIS_URL=redis://127.0.0.1", `${rabbitmq.url} REDIS_URL=${redis.url}`)
      .replaceAll("localhost:8080", `localhost:${port}`);
    const { code, out } = await bash(`${OPTIONS}\nexport PORT=${port}\n${commands}`);
    expect(code, out).toBe(0);

    const sums = out.match(/^[0-9a-f]{64} {2}-$/gm);
    expect(sums, out).toHaveLength(1); // the same for any number of bands
    // The programs' log may be on the same line.
    const light = out.match(/\{"darkest"[^}]*\}/g);
    expect(light).toHaveLength(5);
    expect(new Set(light).size).toBe(2); // of the picture, and of the exposed one
    for (const [pattern, first] of [
      [/\{"nonce"[^}]*\}/g, '{"nonce":'],
      [/\{"count"[^}]*\}/g, '{"count":'],
    ] as const) {
      const found = out.match(pattern) ?? [];
      expect([found.length, new Set(found).size, found[0]]).toEqual([3, 1, expect.stringContaining(first)]);
    }
    expect(out).toContain("radius: expected a whole number from 1 to 20, got 99");
    expect(out).toContain('"grow","grow.2"');
    expect(out).toContain('"name":"grow","version":1,"description":"Each pixel becomes the brightest around it"');
  }, 120_000);

  test("passes the type check", async () => {
    const { code, out } = await bash("bun x tsc");
    expect(code, out).toBe(0);
  }, 120_000);

  test("names scripts and files that exist", () => {
    const links = [...text.matchAll(/\]\(([^)#]+)\)/g)].map(([, to]) => join(PROJECT, "docs", to));
    expect(links.filter((file) => !existsSync(file))).toEqual([]);
    const scripts = [...cloud.matchAll(/pipelines\/[\w.-]+/g)].map(([path]) => path);
    expect(scripts.length).toBeGreaterThan(4);
    expect(scripts.filter((path) => !existsSync(join(PROJECT, path)))).toEqual([]);
  });

  /** Runs a script in the copy, in its own process group, so that nothing that it starts outlives the test. */
  function bash(script: string): Promise<{ code: number | null; out: string }> {
    const env = { ...process.env, PATH: `${dirname(process.execPath)}:${process.env.PATH}`, NO_COLOR: "1" };
    const child = spawn("bash", ["-c", script], {
      cwd: folder,
      env,
      detached: true,
      stdio: ["ignore", "pipe", "pipe"],
    });
    groups.add(child.pid!);
    // A process that it left would keep its output open.
    child.on("exit", () => endGroup(child.pid!));
    let out = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (piece: string) => {
        out += piece;
      });
    }
    return new Promise((resolve) => child.on("close", (code) => resolve({ code, out })));
  }
});

/** Of all processes. Every word ends with a zero byte. */
function commandLines(): string[] {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return pids.map((pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "utf8");
    } catch {
      return ""; // it has ended in the meantime
    }
  });
}

/** Copies what a clone has. The packages are a link. */
function copyProject(to: string): void {
  mkdirSync(to, { recursive: true });
  const names = readdirSync(PROJECT, { withFileTypes: true }).filter(
    ({ name }) => !/^(\.|node_modules$|out$)/.test(name),
  );
  for (const { name } of names) cpSync(join(PROJECT, name), join(to, name), { recursive: true });
  symlinkSync(join(PROJECT, "node_modules"), join(to, "node_modules"));
}
