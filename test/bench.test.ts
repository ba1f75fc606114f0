// The benchmark: its pictures are the same in every run and for every reader, its statistics and tables are right, and it
// runs from start to end. Not here: whether the figures are good.
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { decode } from "fast-png";
import sharp from "sharp";
import { alternate, compare, median, quantile, type Row } from "../bench/measure.ts";
import { drawn, KINDS, pngPieces } from "../bench/pictures.ts";
import {
  asMarkdown,
  asText,
  checkDocuments,
  type Report,
  readmeRows,
  replaceIn,
  rowTable,
  scalingPlot,
  scalingTable,
  sizingTable,
} from "../bench/report.ts";
import { ROWS } from "../bench/rows.ts";
import { collectPixels } from "../picture/picture.ts";
import { readPng } from "../picture/png-read.ts";
import { inPieces, UNLIMITED } from "./pictures.ts";
import { describeWith } from "./servers.ts";

setDefaultTimeout(30_000);

const root = join(import.meta.dirname, "..");

describe("pictures", () => {
  test.each([
    ["photo", 0xa97e081d],
    ["line art", 0x0c8b5c40],
    ["flat", 0x25afcd87],
  ] as const)("%s: the pixels never change", async (kind, crc) => {
    expect(crc32(await drawn({ kind, width: 97, height: 61 }))).toBe(crc);
  });

  test.each(KINDS)("%s: another reader decodes the pixels that were drawn", async (kind) => {
    const sketch = { kind, width: 97, height: 61 };
    const file = Buffer.concat(await Array.fromAsync(pngPieces(sketch)));
    const { width, height, channels, data } = decode(file, { checkCrc: true });
    expect([width, height, channels]).toEqual([97, 61, 3]);
    expect(Buffer.from(data as Uint8Array).equals(await drawn(sketch))).toBe(true);
  });

  test("a large picture repeats its top rows", async () => {
    const [tile, whole] = [7, 30].map((height) => ({ kind: "photo", width: 40, height }) as const);
    const file = Buffer.concat(await Array.fromAsync(pngPieces(whole, 40 * 7 + 39)));
    const image = decode(file, { checkCrc: true });
    const top = await drawn(tile);
    const expected = Buffer.concat([top, top, top, top, top.subarray(0, 2 * 40 * 3)]);
    expect(Buffer.from(image.data as Uint8Array).equals(expected)).toBe(true);
    // Our reader also checks the Adler-32 of the whole stream.
    const grey = await collectPixels(await readPng(inPieces(file, 1000), UNLIMITED));
    expect(grey.length).toBe(40 * 30);
  });
});

describe("measuring", () => {
  test("every subject warms up once, then the order alternates", async () => {
    const order: string[] = [];
    const subject = (name: string, seconds: number) => ({
      name,
      async once() {
        order.push(name);
        return seconds;
      },
    });
    const series = await alternate([subject("a", 1), subject("b", 2)], 3);
    expect(order.join("")).toBe("ab" + "ab" + "ba" + "ab");
    expect(series).toEqual([
      [1, 1, 1],
      [2, 2, 2],
    ]);
  });

  test("medians, quantiles and ratios", () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(quantile([1, 2, 3, 4], 0.5)).toBe(2.5);
    expect(quantile([4, 1, 3, 2, 5], 0.99)).toBeCloseTo(4.96, 10);
    expect(compare([1, 2, 9, 3, 4], [2, 2, 2, 2, 2])).toEqual({ value: 1.5, low: 1, high: 2 });
  });
});

describe("the report", () => {
  const picture = { kind: "photo", width: 6000, height: 4000 } as const;
  const job = (count: number, share: number, ours: number, roundTrip?: number): Row => {
    return { what: "distributed", picture, ours, unit: "s", workers: { count, share, roundTrip } };
  };

  test("a row names its picture, both figures and their ratio", () => {
    const peer = { name: "OpenCV", value: 0.6 };
    const row: Row = { what: "one process", picture, ours: 0.41234, unit: "s", peer };
    const small: Row = {
      what: "small",
      picture: { kind: "photo", width: 640, height: 480 },
      ours: 130.4,
      unit: "jobs/s",
    };
    expect(rowTable([{ ...row, ratio: { value: 0.687, low: 0.6, high: 0.7 } }, small]).slice(1)).toEqual([
      ["one process", "24 Mpx photo", "0.412 s", "OpenCV: 0.6 s", "0.69 (0.60–0.70)"],
      ["small", "640 × 480 photo", "130 jobs/s", "", ""],
    ]);
    expect(rowTable([{ ...row, ratio: { value: 0.99, low: 0.99, high: 0.99 } }])[1].at(-1)).toBe("0.99");
  });

  test("speed-up is relative to one worker of the same share and distance", () => {
    const near = [job(1, 1, 0.9), job(2, 1, 0.75), job(1, 0.1, 4), job(4, 0.1, 1.25), job(2, 0.5, 1)];
    const rows = [...near, job(1, 0.1, 5, 50), job(2, 0.1, 4, 50)];
    expect(scalingTable(rows).slice(1)).toEqual([
      ["1", "full speed", "", "24 Mpx photo", "0.9 s", "1.00", "100 %"],
      ["2", "full speed", "", "24 Mpx photo", "0.75 s", "1.20", "60 %"],
      ["1", "10 %", "", "24 Mpx photo", "4 s", "1.00", "100 %"],
      ["4", "10 %", "", "24 Mpx photo", "1.25 s", "3.20", "80 %"],
      ["1", "10 %", "50 ms", "24 Mpx photo", "5 s", "1.00", "100 %"],
      ["2", "10 %", "50 ms", "24 Mpx photo", "4 s", "1.25", "63 %"],
    ]);
  });

  test("CPU time gives what one core carries", () => {
    const rows: Row[] = [{ what: "Redis", picture, ours: 2, unit: "CPU ms/Mpx" }, job(1, 1, 2)];
    expect(sizingTable(rows).slice(1)).toEqual([["Redis", "24 Mpx photo", "2 ms", "500 Mpx/s"]]);
  });

  test("prints columns, and Markdown", () => {
    const table = [
      ["a", "b"],
      ["long", "c"],
    ];
    expect(asText(table)).toBe("a     b\nlong  c");
    expect(asMarkdown(table)).toBe("| a | b |\n|---|---|\n| long | c |");
  });

  test("replaces what is between two comments of a document, and nothing else", () => {
    const text = "a\n<!-- bench: rows -->\nold\n<!-- end -->\nb\n<!-- end -->\n";
    const expected = "a\n<!-- bench: rows -->\nnew\n<!-- end -->\nb\n<!-- end -->\n";
    expect(replaceIn(text, "x.md", "rows", "new")).toBe(expected);
    expect(() => replaceIn(text, "x.md", "sizing", "new")).toThrow("x.md: expected <!-- bench: sizing -->");
    expect(checkDocuments).not.toThrow();
  });

  test("draws the jobs of slow workers as an SVG that another program reads", async () => {
    const svg = scalingPlot([job(1, 1, 1), job(1, 0.1, 4), job(2, 0.1, 2), job(4, 0.1, 1.25), job(1, 0.1, 9, 50)]);
    const { format, width } = await sharp(Buffer.from(svg)).metadata();
    expect([format, width]).toEqual(["svg", 960]);
    expect(svg).toContain("<title>24 Mpx photo, workers at 10 % of a core each</title>");
    expect(svg.match(/class="point"/g)?.length).toBe(3 * 3);
    expect(svg).not.toContain("NaN");
  });
});

describe("the command line", () => {
  test("invalid arguments exit with 2 and name the expected rows", () => {
    const { status, stdout, stderr } = run("bench", "--only", "kernel,speed");
    expect([status, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(`bench: --only: expected ${Object.keys(ROWS).join(", ")}, got speed\n`);
    expect(run("bench", "--write", "--only", "kernel").status).toBe(2);
    expect(run("bench", "--write", "--quick").status).toBe(2);
  });

  test("--help; `bun run bench.ts` is the same command", () => {
    const { status, stdout } = run("bench", "--help");
    expect([status, stdout]).toEqual([0, expect.stringContaining("usage: bun run bench [--quick]")]);
    expect(run("bench.ts", "--help")).toMatchObject({ status, stdout });
  });
});

describeWith(["rabbitmq", "redis", "python"], "the whole benchmark in short", () => {
  test("exits with 0 and reports every row, each with finite, positive figures", () => {
    const { status, stdout, stderr } = run("bench", "--quick", "--json");
    expect({ status, stderr }).toMatchObject({ status: 0 });
    const { rows, missing, versions, ...report }: Report = JSON.parse(stdout);
    expect(report).toMatchObject({ quick: true, machine: { cores: expect.any(Number) } });
    expect(report.commit).toMatch(/^[0-9a-f]{7,}( with changes)?$|^unknown$/);
    expect(Object.keys(versions)).toEqual(expect.arrayContaining(["Bun", "OpenCV", "sharp", "RabbitMQ", "Redis"]));

    // libvips may not be installed, and a CPU quota needs root.
    const absent = missing.map((text) => text.split(" (")[0]);
    expect(["libvips", "scaling"]).toEqual(expect.arrayContaining(absent));
    expect([...new Set(rows.map(({ row }) => row))]).toEqual(
      Object.keys(ROWS).filter((name) => !absent.includes(name)),
    );
    for (const { peer, ratio } of readmeRows(rows))
      expect([peer, ratio]).toEqual([expect.anything(), expect.anything()]);
    for (const { what, ours, peer, ratio } of rows) {
      const figures = [ours, ...(peer ? [peer.value] : []), ...(ratio ? [ratio.value, ratio.low, ratio.high] : [])];
      expect({ what, figures: figures.filter((figure) => !(figure > 0 && figure < 1e6)) }).toEqual({
        what,
        figures: [],
      });
    }
  }, 600_000);
});

function run(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, ["run", ...args], { cwd: root });
  return { status, stdout: stdout.toString(), stderr: stderr.toString() };
}
