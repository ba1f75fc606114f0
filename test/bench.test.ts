// The benchmark: that its pictures are the same in every run and for every reader, that what it makes of its measurements
// follows from them, and that it runs. What it measures is for people to judge.
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { decode } from "fast-png";
import sharp from "sharp";
import { duel, inTurn, leastSquares, median, quantile } from "../bench/measure.ts";
import { type Cost, fitCost, type Model, needed, predict } from "../bench/model.ts";
import { drawnRows, KINDS, type Kind, pngPieces, scanlines } from "../bench/pictures.ts";
import { plot } from "../bench/plot.ts";
import { asMarkdown, asText, cells } from "../bench/report.ts";
import type { Row } from "../bench/rows.ts";
import { collectPixels } from "../picture/picture.ts";
import { readPng } from "../picture/png-read.ts";
import { inPieces, UNLIMITED } from "./pictures.ts";

setDefaultTimeout(30_000);

const root = join(import.meta.dirname, "..");

describe("pictures", () => {
  test.each([
    ["photo", 0x75e0b06b],
    ["line art", 0x3b98e5fc],
    ["flat", 0xf7a907b0],
    ["noise", 0x3d4628dd],
  ] satisfies [Kind, number][])("%s: the same scanlines as ever", (kind, crc) => {
    expect(crc32(scanlines({ kind, width: 97, height: 61 }))).toBe(crc);
  });

  test.each(KINDS)("%s: what another reader makes of the file is what was drawn", (kind) => {
    const sketch = { kind, width: 97, height: 61 };
    const { width, height, channels, data } = decode(Buffer.concat([...pngPieces(sketch)]), { checkCrc: true });
    expect([width, height, channels]).toEqual([97, 61, 3]);
    expect(Buffer.from(data as Uint8Array).equals(pixelsOf(sketch))).toBe(true);
  });

  test("a large one is its uppermost rows again and again", async () => {
    const [tile, whole] = [7, 30].map((height) => ({ kind: "photo", width: 40, height }) as const);
    const file = Buffer.concat([...pngPieces(whole, 40 * 7 + 39)]);
    const image = decode(file, { checkCrc: true });
    const drawn = pixelsOf(tile);
    const expected = Buffer.concat([drawn, drawn, drawn, drawn, drawn.subarray(0, 2 * 40 * 3)]);
    expect(Buffer.from(image.data as Uint8Array).equals(expected)).toBe(true);
    // The sum over all of it, too: our reader is strict.
    const grey = await collectPixels(await readPng(inPieces(file, 1000), UNLIMITED));
    expect(grey.length).toBe(40 * 30);
  });

  function pixelsOf(sketch: { kind: Kind; width: number; height: number }): Buffer {
    const rows: Uint8Array[] = [];
    for (const row of drawnRows(sketch)) rows.push(row.slice()); // its buffer is used again
    return Buffer.concat(rows);
  }
});

describe("measuring", () => {
  test("everyone is warmed up, and takes turns at being first", async () => {
    const order: string[] = [];
    const contestant = (name: string, seconds: number) => ({
      name,
      async once() {
        order.push(name);
        return seconds;
      },
    });
    const seconds = await inTurn([contestant("a", 1), contestant("b", 2)], 3);
    expect(order.join("")).toBe("ab" + "ab" + "ba" + "ab");
    expect(seconds).toEqual([
      [1, 1, 1],
      [2, 2, 2],
    ]);
  });

  test("medians, and the middle half", () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(quantile([1, 2, 3, 4], 0.5)).toBe(2.5);
    expect(duel([1, 2, 9, 3, 4], [2, 2, 2, 2, 2])).toEqual({ ours: 3, peer: 2, ratio: 1.5, low: 1, high: 2 });
  });

  test("least squares: exact where it can be, nothing below zero, an error where columns are alike", () => {
    const rows = [
      [1, 2, 5],
      [1, 7, 1],
      [1, 1, 1],
      [1, 9, 4],
    ];
    const values = rows.map(([a, b, c]) => 3 * a + 0.5 * b + 0.25 * c);
    for (const [i, value] of leastSquares(rows, values).entries()) expect(value).toBeCloseTo([3, 0.5, 0.25][i], 10);
    const falling = [
      [1, 1],
      [1, 2],
      [1, 3],
    ];
    expect(leastSquares(falling, [3, 2, 1])).toEqual([2, 0]);
    expect(() =>
      leastSquares(
        [
          [1, 2],
          [2, 4],
        ],
        [1, 2],
      ),
    ).toThrow("expected rows that differ in every column");
  });
});

describe("the model", () => {
  const cost = (job: number, mpx: number, band: number): Cost => ({ job, mpx, band });
  const model: Model = {
    stages: {
      reader: cost(0, 0.005, 0),
      coordinator: cost(0.002, 0.01, 0.001),
      RabbitMQ: cost(0, 0.003, 0.001),
      workers: cost(0, 0.1, 0.002),
      Redis: cost(0, 0.001, 0.0005),
    },
    total: cost(0.002, 0.12, 0.005),
    latency: 0.004,
  };
  const load = { mpx: 24, bands: 24 };

  test("finds the costs that jobs were made of", () => {
    const jobs = [0.3, 6, 24].flatMap((mpx) => [1, 4, 24, 100].map((bands) => ({ mpx, bands })));
    const found = fitCost(jobs.map((job) => ({ ...job, seconds: 0.004 + 0.013 * job.mpx + 0.0007 * job.bands })));
    expect(found.job).toBeCloseTo(0.004, 10);
    expect(found.mpx).toBeCloseTo(0.013, 10);
    expect(found.band).toBeCloseTo(0.0007, 10);
  });

  test("a job takes its slowest stage, the way of a band through the others, and the latency", () => {
    const { seconds, bottleneck } = predict(model, load, { workers: 1 });
    const others = [24 * 0.005, 0.002 + 24 * 0.011, 24 * 0.004, 24 * 0.0015].reduce(
      (sum, stage) => sum + stage / 24,
      0,
    );
    expect(bottleneck).toBe("workers");
    expect(seconds).toBeCloseTo(24 * 0.102 + others + 0.004, 10);
  });

  test("names what holds it up as workers come", () => {
    const heldUpBy = (fleet: Parameters<typeof predict>[2]) => predict(model, load, fleet).bottleneck;
    expect(heldUpBy({ workers: 2 })).toBe("workers");
    expect(heldUpBy({ workers: 12 })).toBe("coordinator");
    expect(heldUpBy({ workers: 1000, task: 10 })).toBe("bands");
    expect(heldUpBy({ workers: 12, cores: 2 })).toBe("cores");
    expect(heldUpBy({ workers: 12, speed: 0.1 })).toBe("workers");
  });

  test("more workers never take longer, and ask for more of the rest", () => {
    const fleets = [1, 2, 3, 7, 24, 25, 1000];
    const seconds = fleets.map((workers) => predict(model, load, { workers, task: 30 }).seconds);
    expect(seconds).toEqual(seconds.toSorted((a, b) => b - a));
    expect(needed(model, load, { workers: 10 }).workers).toBeCloseTo(10, 10);
    expect(needed(model, load, { workers: 10 }).coordinator).toBeCloseTo((10 * 0.266) / 2.448, 10);
  });
});

describe("the report", () => {
  const row: Row = {
    what: "one process",
    picture: { kind: "photo", width: 6000, height: 4000 },
    ours: 0.41234,
    unit: "s",
    peer: { name: "OpenCV", value: 0.6 },
    ratio: { value: 0.687, low: 0.6, high: 0.7 },
    target: { ratio: 0.55 },
  };

  test("says what was missed", () => {
    const expected = [
      "one process",
      "24 Mpx photo",
      "0.412 s",
      "OpenCV: 0.6 s",
      "0.69 (0.60–0.70)",
      "÷ ≤ 0.55, missed",
    ];
    expect(cells(row)).toEqual(expected);
    expect(cells({ ...row, target: { ratio: 0.7 } }).at(-1)).toBe("÷ ≤ 0.7");
    expect(cells({ ...row, target: { most: 0.4 } }).at(-1)).toBe("≤ 0.4, missed");
    const { peer, ratio, ...alone } = row;
    expect(cells({ ...alone, unit: "jobs/s", ours: 130.4, target: { least: 100 } }).slice(2)).toEqual([
      "130 jobs/s",
      "",
      "",
      "≥ 100",
    ]);
  });

  test("stands in columns, and as Markdown", () => {
    expect(
      asText([
        ["a", "b"],
        ["long", "c"],
      ]),
    ).toBe("a     b\nlong  c");
    expect(
      asMarkdown([
        ["a", "b"],
        ["1", "2"],
      ]),
    ).toBe("| a | b |\n|---|---|\n| 1 | 2 |");
  });

  test("is drawn as an SVG that another program reads", async () => {
    const svg = plot([
      {
        name: "a < b & c",
        colour: "#2a9d5c",
        line: [
          [1, 5],
          [1000, 2000],
        ],
        dots: [[2, 9]],
      },
      {
        name: "d",
        colour: "#888",
        line: [
          [1, 1],
          [10, 10],
        ],
      },
    ]);
    const { format, width, height } = await sharp(Buffer.from(svg)).metadata();
    expect([format, width, height]).toEqual(["svg", 720, 420]);
    expect(svg.match(/<polyline /g)?.length).toBe(2);
    expect(svg.match(/<circle /g)?.length).toBe(1);
    expect(svg).not.toContain("NaN");
  });
});

describe("the program", () => {
  const run = (...args: string[]) => {
    const { status, stdout, stderr } = spawnSync(process.execPath, ["run", "bench/main.ts", ...args], { cwd: root });
    return { status, stdout: stdout.toString(), stderr: stderr.toString() };
  };

  test("measures a row, and tells it to programs", () => {
    const { status, stdout } = run("--quick", "--only", "kernel", "--json");
    expect(status).toBe(0);
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({ quick: true, machine: { cores: expect.any(Number) } });
    expect(report.commit).toMatch(/^[0-9a-f]{7,}( and changes)?$|^unknown$/);
    expect(report.versions.Bun).toBe(process.versions.bun);
    // The copy is there whatever is installed.
    const row = report.rows.find(({ peer }: Row) => peer?.name === "a copy in memory");
    expect(row).toMatchObject({ row: "kernel", unit: "Mpx/s", picture: { kind: "photo", width: 3000, height: 2000 } });
    expect(row.ours).toBeGreaterThan(0);
    expect(row.ratio.value).toBeGreaterThan(0);
    expect(report.rows.length + report.missing.length).toBeGreaterThanOrEqual(3);
    expect(report.rows.filter(({ target }: Row) => target)).toEqual([]); // the aims are for the larger picture
  });

  test("says what it does not know", () => {
    const { status, stdout, stderr } = run("--only", "kernel,speed");
    expect([status, stdout]).toEqual([2, ""]);
    expect(stderr).toStartWith("bench.ts: --only: expected kernel, inflate, decode, ");
    expect(stderr).toContain("got speed\n");
    expect(run("--write", "--only", "kernel").status).toBe(2);
    expect(run("--write", "--quick").status).toBe(2);
    expect(run("--help")).toMatchObject({ status: 0, stdout: expect.stringContaining("usage: bun run bench.ts") });
  });
});
