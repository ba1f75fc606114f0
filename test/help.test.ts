// What the programs print about themselves, and that the documents say the same.
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { SETTINGS } from "../ops/settings.ts";
import { DEFAULT_LIMITS } from "../picture/read.ts";
import { binaries } from "./servers.ts";

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

/** The settings that a text lists in a column of its own. */
function namesIn(text: string): string[] {
  return [...text.matchAll(/^ {2}([A-Z][A-Z_]{3,}) {2}/gm)].map(([, name]) => name).toSorted();
}

describe.each(PROGRAMS)("%s --help", (file) => {
  const own = Object.keys(SETTINGS).filter((name) => SETTINGS[name].of.includes(file));

  test("tells its usage, every setting of its own with the default, and its exit codes", () => {
    for (const option of ["--help", "-h"]) {
      const { status, stdout, stderr } = run(file, [option]);
      expect([status, stderr]).toEqual([0, ""]);
      expect(stdout).toStartWith(`usage: bun run ${file}`);
      expect(stdout).toMatch(/\nexit codes\n {2}0 /);
      expect(namesIn(stdout)).toEqual(own.toSorted());
      if (own.includes("BAND_PIXELS")) expect(stdout).toMatch(/BAND_PIXELS +1048576 +size of a band in pixels/);
    }
  });

  test.skipIf(!binaries.deno)("is the same under Deno", () => {
    expect(run(file, ["--help"], "Deno")).toEqual(run(file, ["--help"]));
  });

  test("settings that are bad do not keep it from helping", () => {
    expect(run(file, ["--help"], "Bun", { PORT: "x", AUTH_TOKEN: "two words", LOG_LEVEL: "loud" }).status).toBe(0);
  });

  test("an option that is not known ends it with 2 and a sentence", () => {
    for (const args of [["--port", "80"], ["--verbose"], ...(file === "sobel.ts" ? [] : [["photo.jpg"]])]) {
      const { status, stdout, stderr } = run(file, args);
      expect([args, status, stdout]).toEqual([args, 2, ""]);
      expect(stderr).toMatch(new RegExp(`^${file}: [^\\n]*${args[0]}[^\\n]*\\n$`));
    }
  });

  test("an option is told by what it is not, not by its value", () => {
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
});

test("every setting that a program reads is told, and every one that is told is read", () => {
  const texts = [...PROGRAMS, "cli/local.ts", "ops/settings.ts", "ops/log.ts"]
    .map((file) => readFileSync(join(root, file), "utf8"))
    .join("\n");
  const read = [...texts.matchAll(/(?:setting\("|process\.env\.)([A-Z][A-Z_]+)/g)].map(([, name]) => name);
  const taken = [...texts.matchAll(/const \{([A-Z_, ]+)\} = process\.env/g)].flatMap(([, names]) => names.split(","));
  const all = new Set([...read, ...taken.map((name) => name.trim())]);
  expect([...all].toSorted()).toEqual(Object.keys(SETTINGS).toSorted());
});

test("the limit of pixels is the one-machine program's too", () => {
  expect(SETTINGS.MAX_PIXELS).toMatchObject({ default: DEFAULT_LIMITS.streamed });
});

test("LOG_LEVEL that is none ends the program with the variable's name", () => {
  for (const file of ["coordinator.ts", "worker.ts"]) {
    const { status, stderr } = run(file, [], "Bun", { PORT: "0", LOG_LEVEL: "loud" });
    expect([status, stderr]).toEqual([1, `${file}: LOG_LEVEL: expected debug, info, warn, error, got "loud"\n`]);
  }
});
