// `--help` and the settings of the three programs: what is listed, what is read, and how an invalid one is reported. Also
// the documents: their table of settings, and their links.
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { SETTINGS } from "../ops/settings.ts";
import { spanishTasks } from "../page/descriptions.js";
import { DEFAULT_LIMITS } from "../picture/read.ts";
import { loadTasks } from "../tasks/index.ts";
import { binaries, temporaryFolder } from "./servers.ts";

setDefaultTimeout(30_000);

const root = join(import.meta.dirname, "..");
const PROGRAMS = ["coordinator.ts", "worker.ts", "sobel.ts"] as const;
const RUNTIMES = { Bun: [process.execPath, "run"], Deno: [binaries.deno ?? "deno", "run", "-A"] };

function run(file: string, args: string[], runtime: keyof typeof RUNTIMES = "Bun", env: Record<string, string> = {}) {
  const [command, ...before] = RUNTIMES[runtime];
  const settings = { cwd: root, encoding: "utf8" as const, timeout: 20_000, env: { ...process.env, ...env } };
  const { status, stdout, stderr } = spawnSync(command, [...before, file, ...args], settings);
  return { status, stdout, stderr };
}

function ownSettings(file: (typeof PROGRAMS)[number]): string[] {
  return Object.keys(SETTINGS).filter((name) => SETTINGS[name].of.includes(file));
}

/** The settings that a text lists in a column. */
function namesIn(text: string): string[] {
  return [...text.matchAll(/^ {2}([A-Z][A-Z_]{3,}) {2}/gm)].map(([, name]) => name).toSorted();
}

describe.each(PROGRAMS)("%s --help", (file) => {
  const own = ownSettings(file);

  test("prints the usage, the program's settings with their defaults, and the exit codes", () => {
    for (const option of ["--help", "-h"]) {
      const { status, stdout, stderr } = run(file, [option]);
      expect([status, stderr]).toEqual([0, ""]);
      expect(stdout).toStartWith(`usage: bun run ${file}`);
      expect(stdout).toMatch(/\nexit codes\n {2}0 /);
      expect(namesIn(stdout)).toEqual(own.toSorted());
      if (own.includes("BAND_PIXELS")) expect(stdout).toMatch(/BAND_PIXELS +1048576 +pixels of a band/);
    }
  });

  test.skipIf(!binaries.deno)("prints the same on Deno", () => {
    expect(run(file, ["--help"], "Deno")).toEqual(run(file, ["--help"]));
  });

  test("ignores invalid settings", () => {
    expect(run(file, ["--help"], "Bun", { PORT: "x", AUTH_TOKEN: "two words", LOG_LEVEL: "loud" }).status).toBe(0);
  });

  test("an unknown option: exit code 2 and one line that names it", () => {
    for (const args of [["--port", "80"], ["--verbose"], ...(file === "sobel.ts" ? [] : [["photo.jpg"]])]) {
      const { status, stdout, stderr } = run(file, args);
      expect([args, status, stdout]).toEqual([args, 2, ""]);
      expect(stderr).toMatch(new RegExp(`^${file}: [^\\n]*${args[0]}[^\\n]*\\n$`));
    }
  });

  test("an unknown option: its value is not printed, since it may be a secret", () => {
    expect(run(file, ["--token=s3cret"]).stderr).not.toContain("s3cret");
  });
});

test("docs/settings.md lists the settings of the programs, and no others", () => {
  const page = readFileSync(join(root, "docs/settings.md"), "utf8");
  const rows = [...page.matchAll(/^\| (`.*?`) \|/gm)].flatMap(([, cell]) => [...cell.matchAll(/`([A-Z_]+)`/g)]);
  expect(rows.map(([, name]) => name).toSorted()).toEqual(Object.keys(SETTINGS).toSorted());
  for (const { of } of Object.values(SETTINGS)) expect(of.length).toBeGreaterThan(0);
});

describe("the documents", () => {
  const pages = readdirSync(join(root, "docs")).filter((name) => name.endsWith(".md"));
  const documents = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "pipelines/README.md"];
  documents.push(...pages.map((name) => `docs/${name}`));
  const textOf = (file: string) => readFileSync(join(root, file), "utf8").replace(/^```[\s\S]*?^```/gm, "");
  /** As GitHub makes them of headings. */
  const anchorsOf = (file: string) =>
    [...textOf(file).matchAll(/^#+ (.*)$/gm)].map(([, heading]) => {
      return heading
        .toLowerCase()
        .replace(/[^\p{L}\p{N} _-]/gu, "")
        .replaceAll(" ", "-");
    });
  const linksOf = (file: string) => [...textOf(file).matchAll(/\]\(([^)\s]+)\)/g)].map(([, to]) => to);

  test.each(documents)("%s: every relative link leads to a file, and to a heading in it", (file) => {
    const broken = linksOf(file).filter((to) => {
      if (/^https?:/.test(to)) return false;
      const [path, anchor] = to.split("#");
      const target = path ? join(dirname(file), path) : file;
      if (!existsSync(join(root, target))) return true;
      return anchor !== undefined && !anchorsOf(target).includes(anchor);
    });
    expect(broken).toEqual([]);
  });

  test("the README leads to every page, and has at most 180 lines", () => {
    const missing = pages.filter((name) => !linksOf("README.md").includes(`docs/${name}`));
    expect(missing).toEqual([]);
    expect(readFileSync(join(root, "README.md"), "utf8").split("\n").length).toBeLessThanOrEqual(181);
  });

  test("every task is in both READMEs, and is described in Spanish with its parameters", async () => {
    const missing = [...(await loadTasks()).values()].flatMap(({ name, params = {} }) => {
      const readmes = ["README.md", "docs/README.es.md"].filter((file) => !textOf(file).includes(`\`${name}\``));
      const shown = Object.entries(params).filter(([, { description, hidden }]) => description && !hidden);
      const described = [name, ...shown.map(([param]) => `${name}.${param}`)];
      return [...readmes.map((file) => `${file}: ${name}`), ...described.filter((text) => !spanishTasks[text])];
    });
    expect(missing).toEqual([]);
  });
});

test.each([
  ["coordinator.ts", [{ args: [], env: { HOST: "192.0.2.1", PORT: "0" } }]], // no address of this machine
  ["worker.ts", [{ args: [], env: { RABBITMQ_URL: "amqp://127.0.0.1:1", REDIS_URL: "none" } }]],
  [
    "sobel.ts",
    [
      { args: ["missing.png", "out.png"], env: {} },
      { args: ["--remote", "http://127.0.0.1:1", "missing.png", "out.png"], env: {} },
    ],
  ],
] as const)("%s reads the settings that --help lists, and no others", (file, runs) => {
  const read = runs.flatMap(({ args, env }) => settingsReadBy(file, [...args], env));
  expect([...new Set(read)].toSorted()).toEqual(ownSettings(file).toSorted());
});

/** Runs a program to its end, and returns the environment variables that the project's own code has read. */
function settingsReadBy(file: string, args: string[], env: Record<string, string>): string[] {
  const spy = join(temporaryFolder("help"), "spy.ts");
  writeFileSync(
    spy,
    `const names = new Set();
    process.env = new Proxy(process.env, {
      get(variables, name) {
        const caller = new Error().stack.split("\\n")[2] ?? "";
        if (caller.includes(${JSON.stringify(root)}) && !caller.includes("node_modules")) names.add(name);
        return variables[name];
      },
    });
    process.on("exit", () => console.log(JSON.stringify([...names])));`,
  );
  const options = { cwd: root, encoding: "utf8" as const, timeout: 20_000, env: { ...process.env, ...env } };
  const { status, stdout } = spawnSync(process.execPath, ["--preload", spy, file, ...args], options);
  expect([file, status]).toEqual([file, 1]);
  return JSON.parse(stdout.trim().split("\n").at(-1)!);
}

describe.each(PROGRAMS)("%s, an invalid setting", (file) => {
  // A name and an address can be any text.
  const names = ownSettings(file).filter((name) => !["WORKER_NAME", "HOST"].includes(name));
  const urls = { RABBITMQ_URL: "amqp://127.0.0.1:1", REDIS_URL: "redis://127.0.0.1:1" };

  test.each(names)("%s ends it with the name of the setting", (name) => {
    const remote = name === "AUTH_TOKEN" ? ["--remote", "http://127.0.0.1:1"] : [];
    const args = file === "sobel.ts" ? [...remote, "missing.png", "out.png"] : [];
    const env = { ...(name in urls && urls), PORT: "0", [name]: "not valid" };
    const { status, stdout, stderr } = run(file, args, "Bun", env);
    expect([status, stdout]).toEqual([file === "sobel.ts" && name === "BAND_PIXELS" ? 2 : 1, ""]);
    expect(stderr).toMatch(new RegExp(`^${file}: ${name}: [^\\n]+\\n$`));
  });
});

test("MAX_PIXELS: the default is the limit of the one-machine program", () => {
  expect(SETTINGS.MAX_PIXELS).toMatchObject({ default: DEFAULT_LIMITS.streamed });
});

test.each(["coordinator.ts", "worker.ts"])("%s: the error of LOG_LEVEL lists the levels", (file) => {
  const { stderr } = run(file, [], "Bun", { PORT: "0", LOG_LEVEL: "loud" });
  expect(stderr).toBe(`${file}: LOG_LEVEL: expected debug, info, warn, error, got "loud"\n`);
});
