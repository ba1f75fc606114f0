// The one-machine program, as a process: its output, its errors, and the files that it must not touch. The golden edges are
// OpenCV's, computed from golden/scene.png:
//   /usr/bin/python3 -c '
//   import cv2
//   grey = cv2.cvtColor(cv2.imread("scene.png"), cv2.COLOR_BGR2GRAY)
//   gx, gy = (cv2.Sobel(grey, cv2.CV_64F, *d, ksize=3) for d in ((1, 0), (0, 1)))
//   cv2.imwrite("scene-edges.png", cv2.convertScaleAbs(cv2.magnitude(gx, gy)))'
import { afterAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawn, spawnSync } from "node:child_process";
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { decode } from "fast-png";
import sharp from "sharp";
import { task as sobel } from "../sobel.ts";
import { runTask } from "../tasks/run.ts";
import { chunk, expectSame, GREY, greyOf, ihdr, pngOf, RGB, RGBA, random, SIGNATURE, sobelOf } from "./pictures.ts";

setDefaultTimeout(30_000);

const root = join(import.meta.dirname, "..");
const golden = (name: string) => join(import.meta.dirname, "golden", name);
const scene = golden("scene.png");
const scratch = mkdtempSync(join(tmpdir(), "sobel-"));
afterAll(() => rmSync(scratch, { recursive: true }));

const RUNTIMES: Record<string, string[]> = {
  Bun: [process.execPath, "run", "sobel.ts"],
  Deno: [join(root, "node_modules/.bin/deno"), "run", "-A", "sobel.ts"],
};

let folder = "";
let out = "";
beforeEach(() => {
  folder = mkdtempSync(join(scratch, "test-"));
  out = join(folder, "edges.png");
});

interface Options {
  input?: Uint8Array;
  env?: Record<string, string>;
  runtime?: string;
}

function run(args: string[], { input = Buffer.alloc(0), env, runtime = "Bun" }: Options = {}) {
  const [program, ...before] = RUNTIMES[runtime];
  const settings = { cwd: root, input, env: { ...process.env, ...env }, maxBuffer: 1 << 30 };
  const { status, stdout, stderr } = spawnSync(program, [...before, ...args], settings);
  return { status, stdout, stderr: stderr.toString() };
}

async function edgesOf(band: Parameters<typeof runTask>[1]): Promise<Uint8Array> {
  return (await runTask(sobel, band)) as Uint8Array;
}

/** Like /dev/full, which must survive a failure of these tests. Only root can make one; other users cannot replace the original. */
function fullDevice(folder: string): string {
  if (process.getuid?.() !== 0) return "/dev/full";
  const device = join(folder, "full");
  const { status, stderr } = spawnSync("mknod", [device, "c", "1", "7"]);
  if (status !== 0) throw new Error(`mknod: ${stderr}`);
  return device;
}

const DONE = { status: 0, stdout: Buffer.alloc(0), stderr: "" };

describe("edges", () => {
  const expected = decode(readFileSync(golden("scene-edges.png")));

  test("are OpenCV's, pixel for pixel", () => {
    expect(run([scene, out])).toEqual(DONE);
    const { width, height, channels, depth, data } = decode(readFileSync(out), { checkCrc: true });
    expect([width, height, channels, depth]).toEqual([101, 75, 1, 8]);
    expectSame(data as Uint8Array, expected.data as Uint8Array);
  });

  test.each([1, 100, 101 * 2, 1000, 101 * 75])("do not depend on the band size: %i pixels", (pixels) => {
    const plain = run([scene, "-"]).stdout;
    const banded = run([scene, "-"], { env: { BAND_PIXELS: `${pixels}` } }).stdout;
    expect(banded.equals(plain)).toBe(pixels === 101 * 75); // more bands, other bytes
    expectSame(decode(banded, { checkCrc: true }).data as Uint8Array, expected.data as Uint8Array);
  });

  test("are right for every file format", async () => {
    const samples = random(40 * 30 * 3);
    const image = sharp(samples, { raw: { width: 40, height: 30, channels: 3 } });
    const files = {
      png: image.clone().png(),
      jpeg: image.clone().jpeg(),
      webp: image.clone().webp({ lossless: true }),
      tiff: image.clone().tiff(),
      gif: image.clone().gif(),
      avif: image.clone().avif({ effort: 0 }),
    };
    for (const [name, file] of Object.entries(files)) {
      const bytes = await file.toBuffer();
      writeFileSync(join(folder, "in.bin"), bytes); // the name does not show the format
      expect({ name, ...run([join(folder, "in.bin"), out]) }).toEqual({ name, ...DONE });
      const rgb = Uint16Array.from(await sharp(bytes).removeAlpha().raw().toBuffer());
      const grey = greyOf({ width: 40, height: 30, colour: RGB, depth: 8, samples: rgb });
      expectSame(decode(readFileSync(out)).data as Uint8Array, sobelOf(grey, 40, 30), name);
    }
  });

  test("are right for pictures one pixel wide, or high, or both", () => {
    for (const [width, height] of [
      [1, 1],
      [1, 50],
      [50, 1],
      [2, 2],
    ]) {
      const picture = { width, height, colour: RGBA, depth: 16, samples: Uint16Array.from(random(width * height * 8)) };
      picture.samples = picture.samples.subarray(0, width * height * 4).map((sample) => sample * 257);
      const { status, stdout } = run(["-", "-"], { input: pngOf(picture) });
      expect(status).toBe(0);
      expectSame(decode(stdout).data as Uint8Array, sobelOf(greyOf(picture), width, height), `${width} × ${height}`);
    }
  });
});

describe.each(Object.keys(RUNTIMES))("under %s", (runtime) => {
  const bytes = () => readFileSync(out);

  test("reads a file or standard input, and writes a file or standard output", () => {
    expect(run([scene, out], { runtime })).toEqual(DONE);
    const first = bytes();
    expect(readdirSync(folder)).toEqual(["edges.png"]);
    expect(run(["-", out], { runtime, input: readFileSync(scene) })).toEqual(DONE);
    expect(bytes()).toEqual(first);
    expect(run([scene, "-"], { runtime })).toEqual({ ...DONE, stdout: first });
    expect(run(["-", "-"], { runtime, input: readFileSync(scene) })).toEqual({ ...DONE, stdout: first });
    expect(run([out, out], { runtime })).toEqual(DONE); // over its input
    expect(bytes()).not.toEqual(first);
  });

  test("writes the same bytes as Bun, for every band size", () => {
    for (const pixels of ["1", "1000", "1048576"]) {
      const env = { BAND_PIXELS: pixels };
      const { stdout } = run([scene, "-"], { runtime, env });
      expect(stdout.length).toBeGreaterThan(1000);
      expect(stdout.equals(run([scene, "-"], { env }).stdout)).toBe(true);
    }
  });

  test("writes more to standard output than a pipe holds", async () => {
    const picture = { width: 1500, height: 1000, colour: GREY, depth: 8, samples: Uint16Array.from(random(1_500_000)) };
    const { status, stdout } = run(["-", "-"], { runtime, input: pngOf({ ...picture, filter: () => 0 }) });
    expect(status).toBe(0);
    const edges = decode(stdout, { checkCrc: true }).data as Uint8Array;
    const expected = new Uint8Array(1_500_000);
    const grey = Uint8Array.from(picture.samples);
    const mirrored = Buffer.concat([grey.subarray(1500, 3000), grey, grey.subarray(-3000, -1500)]);
    expected.set(await edgesOf({ pixels: mirrored, width: 1500, height: 1002, channels: 1, halo: [1, 1] }));
    expectSame(edges, expected);
  });

  test("exits at the end of the picture, though standard input stays open or has more bytes", async () => {
    const [program, ...before] = RUNTIMES[runtime];
    const child = spawn(program, [...before, "-", out], { cwd: root, stdio: ["pipe", "ignore", "inherit"] });
    child.stdin.on("error", () => {}); // the program may exit before it has read everything
    child.stdin.write(readFileSync(scene));
    expect(await new Promise((done) => child.on("exit", done))).toBe(0);
    const input = Buffer.concat([readFileSync(scene), Buffer.alloc(3_000_000)]);
    expect(run(["-", join(folder, "other.png")], { runtime, input }).status).toBe(0);
    expect(readFileSync(join(folder, "other.png"))).toEqual(bytes());
  });

  test("a picture that cannot be read: one error line, status 1, and the output file is unchanged", () => {
    const whole = readFileSync(scene);
    const large = Buffer.concat([SIGNATURE, ihdr(50_000, 50_000, 8, RGB), chunk("IEND")]);
    const readable = "expected PNG, JPEG, WebP, TIFF, GIF or AVIF";
    const cases: [input: Uint8Array, sentence: string][] = [
      [Buffer.alloc(0), "not an image: expected a picture, got no bytes"],
      [Buffer.from("To do: buy film"), `not an image: ${readable}, got text that begins with "To do: buy film"`],
      [Buffer.from("<svg/>"), `an SVG, XML or HTML file is not read: ${readable}; export it as PNG`],
      [whole.subarray(0, whole.length >> 1), "corrupt PNG: the file ends before its IEND chunk"],
      [whole.subarray(0, -1), "corrupt PNG: the file ends before its IEND chunk"],
      [large, "image too large: expected at most 1000000000 pixels, got 50000 × 50000"],
    ];
    writeFileSync(out, "precious");
    writeFileSync(join(folder, "stays"), "");
    for (const [input, sentence] of cases) {
      const refusal = { status: 1, stdout: Buffer.alloc(0), stderr: `sobel.ts: ${sentence}\n` };
      expect(run(["-", out], { runtime, input })).toEqual(refusal);
      writeFileSync(join(folder, "in"), input);
      expect(run([join(folder, "in"), out], { runtime, env: { BAND_PIXELS: "1" } })).toEqual(refusal);
      expect(bytes().toString()).toBe("precious");
      expect(readdirSync(folder).sort()).toEqual(["edges.png", "in", "stays"]);
    }
  });

  test("a pipe is written through and stays a pipe", async () => {
    const expected = run([scene, "-"]).stdout;
    const pipe = join(folder, "pipe");
    spawnSync("mkfifo", [pipe]);
    const reader = Bun.spawn(["cat", pipe], { stdout: "pipe" });
    const [program, ...before] = RUNTIMES[runtime];
    const writer = Bun.spawn([program, ...before, scene, pipe], { cwd: root });
    expect(Buffer.from(await new Response(reader.stdout).arrayBuffer())).toEqual(expected);
    expect(await writer.exited).toBe(0);
    expect(lstatSync(pipe).isFIFO()).toBe(true);
  });

  test("a link stays a link: its target is replaced, or made", () => {
    const expected = run([scene, "-"]).stdout;
    mkdirSync(join(folder, "sub"));
    for (const name of ["old.png", "new.png"]) {
      const [target, link] = [join(folder, "sub", name), join(folder, `to-${name}`)];
      if (name === "old.png") writeFileSync(target, "old");
      symlinkSync(join("sub", name), link);
      expect(run([scene, link], { runtime })).toEqual(DONE);
      expect([lstatSync(link).isSymbolicLink(), readFileSync(target)]).toEqual([true, expected]);
    }
    expect(readdirSync(join(folder, "sub")).sort()).toEqual(["new.png", "old.png"]);
    const circle = join(folder, "circle");
    symlinkSync(circle, circle);
    const { status, stderr } = run([scene, circle], { runtime });
    expect([status, stderr]).toEqual([1, expect.stringMatching(/^sobel\.ts: ELOOP: [^\n]*circle[^\n]*\n$/)]);
  });

  test("a full device stays a device, through a link too: one error line that names it, status 1", () => {
    const device = fullDevice(folder);
    const link = join(folder, "link");
    symlinkSync(device, link);
    for (const to of [device, link]) {
      const { status, stderr } = run([scene, to], { runtime });
      expect([status, stderr]).toEqual([
        1,
        expect.stringMatching(/^sobel\.ts: cannot write .*no space left[^\n]*\n$/i),
      ]);
      expect(stderr).toContain(to);
    }
    expect([lstatSync(device).isCharacterDevice(), lstatSync(link).isSymbolicLink()]).toEqual([true, true]);
  });

  test("a missing file, a missing folder, a folder as output: status 1", () => {
    mkdirSync(join(folder, "folder"));
    for (const [args, sentence] of [
      [[join(folder, "none.png"), out], /^sobel\.ts: .*ENOENT.*none\.png/],
      [[scene, join(folder, "none", "edges.png")], /^sobel\.ts: .*ENOENT.*none/],
      [[scene, join(folder, "folder")], /^sobel\.ts: .*(EISDIR|directory).*folder/],
    ] as const) {
      const { status, stdout, stderr } = run([...args], { runtime });
      expect({ args, status, stdout: stdout.toString(), lines: stderr.trimEnd().split("\n").length }).toEqual({
        args,
        status: 1,
        stdout: "",
        lines: 1,
      });
      expect(stderr).toMatch(sentence);
    }
    expect(readdirSync(folder)).toEqual(["folder"]);
  });

  test("invalid arguments: the usage, status 2", () => {
    const usage = "usage: bun run sobel.ts [--task NAME] [--params QUERY] IN OUT\n";
    for (const args of [[], [scene], [scene, out, out]]) {
      const { status, stdout, stderr } = run(args, { runtime });
      expect([status, stdout.toString()]).toEqual([2, ""]);
      expect(stderr).toStartWith(`sobel.ts: expected two files, got ${args.length}\n${usage}`);
    }
    const unknown = run(["--threshold", scene, out], { runtime });
    expect(unknown).toMatchObject({ status: 2, stderr: expect.stringMatching(/^sobel\.ts: .*--threshold/) });
    for (const bad of ["0", "-5", "many", "NaN"]) {
      expect(run([scene, out], { runtime, env: { BAND_PIXELS: bad } })).toEqual({
        ...DONE,
        status: 2,
        stderr: `sobel.ts: BAND_PIXELS: expected a number of pixels, got ${bad}\n`,
      });
    }
    const help = run(["--help"], { runtime });
    expect([help.status, help.stderr]).toEqual([0, ""]);
    expect(help.stdout.toString()).toStartWith(usage);
    expect(readdirSync(folder)).toEqual([]);
  });
});

test("the task leaves out the halo, whatever its height", async () => {
  const pixels = random(9 * 30);
  const whole = sobelOf(pixels, 9, 30);
  expect(sobel.halo).toBe(1);
  for (const [above, below] of [
    [1, 1],
    [4, 1],
    [1, 5],
    [7, 8],
  ]) {
    const edges = await edgesOf({ pixels, width: 9, height: 30, channels: 1, halo: [above, below] });
    expectSame(edges, whole.subarray(above * 9, (30 - below) * 9), `halo ${above}, ${below}`);
  }
  for (const halo of [
    [0, 1],
    [1, 0],
    [0, 0],
  ] as [number, number][]) {
    await expect(edgesOf({ pixels, width: 9, height: 30, channels: 1, halo })).rejects.toThrow(
      "halo: expected at least 1 rows above and below, got",
    );
  }
});
