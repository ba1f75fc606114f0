// Bands: how pictures are cut, that the edges do not depend on the cut, and the bytes on the wire. The mirroring is
// OpenCV's: golden/reflect101.json holds, for sizes 1 to 7 and rows -9 to size + 8, the output of
//   /usr/bin/python3 -c 'import cv2; print([[cv2.borderInterpolate(p, n, cv2.BORDER_REFLECT_101)
//     for p in range(-9, 9 + n + 1)] for n in range(1, 8)])'
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { decode } from "fast-png";
import {
  type Band,
  bandRows,
  type Chunk,
  chunkIdOf,
  decodeMessage,
  encodeMessage,
  fromBase64,
  isJobId,
  isTaskName,
  type Plan,
  parseChunkId,
  planBands,
  reflect101,
  split,
  WireError,
} from "../chunk.ts";
import { transform } from "../cli/local.ts";
import { Pool } from "../picture/buffers.ts";
import { ImageError } from "../picture/picture.ts";
import { encodeBand, Stitcher } from "../picture/png-write.ts";
import { task as sobel } from "../sobel.ts";
import type { Task } from "../task.ts";
import { resultOf } from "../tasks/plan.ts";
import { runTask } from "../tasks/run.ts";
import mirrored from "./golden/reflect101.json";
import { chunk, expectSame, GREY, ihdr, imageOf, pngOf, RGB, random, SIGNATURE, sobelOf } from "./pictures.ts";

setDefaultTimeout(30_000);

const golden = (name: string) => readFileSync(join(import.meta.dirname, "golden", name));
const JOB = "01234567-89ab-4cde-8f01-23456789abcd";
const MI = 1 << 20;

describe("a plan", () => {
  const HALOS = [0, 1, 2, 5];
  const sizes = [1, 2, 3, 7, 97, 100, 1000, 4096, 65_521, 800_000];

  test("covers the picture with as few and as even bands as their size allows", () => {
    for (const width of sizes) {
      for (const height of [...sizes, 2 ** 31 - 1]) {
        for (const halo of HALOS) {
          for (const bandPixels of [1, 1.5, 2, 100, 4097, MI, 1e9, Number.MAX_SAFE_INTEGER, Number.POSITIVE_INFINITY]) {
            const plan = planBands(width, height, halo, { pixels: bandPixels });
            const { rows, bands } = plan;
            const fits = {
              given: plan.width === width && plan.height === height && plan.halo === halo,
              whole: Number.isSafeInteger(rows) && Number.isSafeInteger(bands) && rows >= 1 && bands >= 1,
              covers: rows * bands >= height,
              lastNotEmpty: rows * (bands - 1) < height,
              even: (rows - 1) * bands < height,
              asAsked: rows === 1 || rows * width <= bandPixels,
              asFew: bands === 1 || wanted(width, halo, bandPixels) * (bands - 1) < height,
              sendable: (rows + 2 * halo) * (width + 1) <= 9 * MI,
            };
            const wrong = Object.entries(fits).filter(([, holds]) => !holds);
            if (wrong.length > 0) expect({ width, height, halo, bandPixels, rows, bands, wrong }).toBeUndefined();
          }
        }
      }
    }
  });

  /** The most rows within `bandPixels` and within 9 MiB of scanlines; at least one. */
  function wanted(width: number, halo: number, bandPixels: number): number {
    let [low, high] = [1, 1e9];
    while (low < high) {
      const rows = Math.ceil((low + high) / 2);
      if (rows * width <= bandPixels && (rows + 2 * halo) * (width + 1) <= 9 * MI) low = rows;
      else high = rows - 1;
    }
    return low;
  }

  test("has at least the bands that are asked for, where there are so many rows, and never more than twice as many", () => {
    for (const height of [1, 2, 3, 7, 97, 480, 4095, 65_521]) {
      for (const bands of [1, 2, 3, 4, 7, 64, 100, 4096]) {
        for (const cut of [
          { pixels: 1e12, atLeast: bands },
          { pixels: 1, bands },
        ]) {
          const plan = planBands(9, height, 1, cut);
          const wrong = plan.bands < Math.min(bands, height) || plan.bands > 2 * bands;
          const covers = plan.rows * plan.bands >= height && plan.rows * (plan.bands - 1) < height;
          expect({ height, cut, plan, wrong, covers }).toMatchObject({ wrong: false, covers: true });
        }
      }
    }
    expect(planBands(640, 480, 1, { pixels: MI, atLeast: 4 })).toMatchObject({ rows: 120, bands: 4 });
    expect(planBands(640, 480, 1, { pixels: 640, atLeast: 4 })).toMatchObject({ rows: 1, bands: 480 });
    expect(planBands(640, 480, 1, { pixels: MI, rows: 100 })).toMatchObject({ rows: 100, bands: 5 });
    expect(planBands(640, 480, 1, { pixels: MI, rows: 1e9 })).toMatchObject({ rows: 480, bands: 1 });
    // A request must not flood the queue, and a band must fit into a message.
    expect(planBands(1, 1_000_000, 1, { pixels: MI, rows: 1 })).toMatchObject({ rows: 245, bands: 4082 });
    expect(planBands(65_521, 1000, 1, { pixels: 1, bands: 1 })).toMatchObject({ rows: 142, bands: 8 });
  });

  test("of a result that is smaller has bands whose rows shrink evenly, within a message", () => {
    for (const channels of [1, 3, 4] as const) {
      for (const shrink of [1, 2, 3, 64, 256]) {
        for (const height of [1, 2, 3, 63, 64, 65, 1000, 10_007]) {
          for (const pixels of [1, 1000, MI, 1e12]) {
            const plan = planBands(2000, height, 5, { pixels, channels, shrink });
            const { rows, bands } = plan;
            const whole = resultOf({ ...plan, shrink });
            let made = 0;
            for (let band = 0; band < bands; band++) {
              const own = bandRows(plan, band);
              const result = bandRows(whole, band);
              expect(result).toEqual({ y: own.y / shrink, rows: Math.ceil(own.rows / shrink) });
              made += result.rows;
            }
            expect({ made, height: whole.height }).toEqual({ made: Math.ceil(height / shrink), height: made });
            expect(rows).toBeWithin(1, height + 1);
            expect((rows + 10) * (2000 * channels + 1)).toBeLessThanOrEqual(9 * MI);
          }
        }
      }
    }
    const wide = (width: number) => () => planBands(width, 9, 1, { pixels: 1, channels: 3, shrink: 4 });
    expect(wide(524_287)()).toMatchObject({ rows: 4 });
    expect(wide(524_288)).toThrow("image too wide: expected at most 524287 pixels a row, got 524288");
  });

  test("has consecutive bands", () => {
    for (const [width, height, bandPixels] of [
      [1, 1, 1],
      [3, 97, 15],
      [1000, 2001, 50_000],
    ]) {
      const plan = planBands(width, height, 1, { pixels: bandPixels });
      let next = 0;
      for (let number = 0; number < plan.bands; number++) {
        const { y, rows } = bandRows(plan, number);
        expect(y).toBe(next);
        expect(rows).toBeGreaterThanOrEqual(1);
        expect(rows).toBeLessThanOrEqual(plan.rows);
        next = y + rows;
      }
      expect(next).toBe(height);
    }
  });

  test("of one pixel is one band", () => {
    expect(planBands(1, 1, 1, { pixels: MI })).toEqual({ width: 1, height: 1, rows: 1, bands: 1, halo: 1 });
  });

  test.each(HALOS)("keeps messages within RabbitMQ's limit, halo %i", async (halo) => {
    for (const width of [1, widest(halo)]) {
      const { rows } = planBands(width, 2 ** 31 - 1, halo, { pixels: Number.POSITIVE_INFINITY });
      const height = rows + 2 * halo;
      const message = encodeMessage({
        ...example,
        halo: [halo, halo],
        width,
        height,
        pixels: new Uint8Array(width * height),
      });
      expect(message.length).toBeGreaterThan(11 * MI); // nearly the largest message
      expect(message.length).toBeLessThan(16 * MI);
      expect((await decodeMessage(message)).height).toBe(height); // a worker accepts it, too
    }
  });

  test("is refused where a row does not fit", () => {
    for (const halo of HALOS) {
      const width = widest(halo);
      expect(planBands(width, 3, halo, { pixels: MI })).toMatchObject({ rows: 1, bands: 3 });
      const refused = new ImageError(
        "too-large",
        `image too wide: expected at most ${width} pixels a row, got ${width + 1}`,
      );
      expect(() => planBands(width + 1, 3, halo, { pixels: MI })).toThrow(refused);
      expect(caught(() => planBands(width + 1, 3, halo, { pixels: MI }))).toMatchObject({ code: "too-large" });
    }
  });

  /** The width at which a row, its halo and their filter bytes have 9 MiB, 12 MiB in base64. */
  function widest(halo: number): number {
    return Math.floor((9 * MI) / (1 + 2 * halo)) - 1;
  }
});

describe("split", () => {
  test.each([0, 1, 2, 5])("yields the rows and a mirrored halo of %i", async (halo) => {
    for (const height of [1, 2, 3, 4, 6, 17]) {
      for (const width of [1, 2, 5]) {
        const pixels = random(width * height);
        for (let rows = 1; rows <= height; rows++) {
          for (let most = 1; most <= height; most++) {
            const plan: Plan = { width, height, rows, bands: Math.ceil(height / rows), halo };
            const bands = await Array.fromAsync(split(imageOf(pixels, width, most), plan));
            expect(bands.map(({ number, y }) => [number, y])).toEqual(
              Array.from({ length: plan.bands }, (_, number) => [number, number * rows]),
            );
            for (const band of bands) expectBand(band, plan, pixels);
          }
        }
      }
    }
  });

  function expectBand(band: Band, { width, height, rows, halo }: Plan, pixels: Uint8Array): void {
    const own = Math.min(rows, height - band.y);
    expect(band).toMatchObject({ rows: own, width, halo: [halo, halo] });
    const expected = new Uint8Array((own + 2 * halo) * width);
    for (let row = -halo; row < own + halo; row++) {
      let from = band.y + row;
      while (from < 0 || from >= height) from = height === 1 ? 0 : from < 0 ? -from : 2 * (height - 1) - from;
      expected.set(pixels.subarray(from * width, (from + 1) * width), (row + halo) * width);
    }
    expectSame(band.pixels, expected, `${width} × ${height}, band ${band.number} of ${rows} rows, halo ${halo}`);
  }

  test("reads no further than a band's halo before it yields the band", async () => {
    const image = imageOf(random(5 * 40), 5, 1);
    let read = 0;
    const counted = async function* () {
      for await (const block of image.blocks) {
        read++;
        yield block;
      }
    };
    const plan: Plan = { width: 5, height: 40, rows: 7, bands: 6, halo: 2 };
    for await (const { y, rows } of split({ ...image, blocks: counted() }, plan)) {
      expect(read).toBe(Math.min(y + rows + 2, 40));
    }
  });

  test.each([1, 3])("reuses only buffers that were given back: %i bands held at a time", async (most) => {
    const pixels = random(5 * 60);
    const plan: Plan = { width: 5, height: 60, rows: 4, bands: 15, halo: 2 };
    const pool = new Pool(1 << 20);
    const memory = new Set<ArrayBufferLike>();
    const held: Band[] = [];
    for await (const band of split(imageOf(pixels, 5, 3), plan, pool)) {
      memory.add(band.pixels.buffer);
      held.push(band);
      if (held.length < most) continue;
      const done = held.shift()!;
      expectBand(done, plan, pixels);
      done.pixels.fill(0xaa);
      pool.give(done.pixels);
    }
    for (const band of held) expectBand(band, plan, pixels);
    expect(memory.size).toBe(most + 1); // the bands that are held, and the one that is being filled
  });

  test("passes on an error, also one after the last row", async () => {
    const end = new Error("the checksum is wrong");
    const plan: Plan = { width: 5, height: 6, rows: 2, bands: 3, halo: 1 };
    for (const [rows, whole] of [
      [0, 0],
      [1, 0],
      [4, 1],
      [6, 3],
    ]) {
      const numbers: number[] = [];
      const walk = async () => {
        for await (const { number } of split(imageOf(random(5 * rows), 5, 2, end), plan)) numbers.push(number);
      };
      expect(await walk().catch((error) => error)).toBe(end);
      expect(numbers).toEqual([0, 1, 2].slice(0, whole));
    }
  });
});

test("a pool returns buffers that are large enough, and keeps the most recent ones within its limit", () => {
  const pool = new Pool(100);
  const small = pool.take(40);
  const large = pool.take(60);
  expect([small.length, large.length]).toEqual([40, 60]);
  expect(small.buffer).not.toBe(large.buffer);
  const tiny = new Uint8Array(1);
  for (const bytes of [small, large, tiny]) pool.give(bytes); // the first is dropped
  const first = pool.take(50);
  expect(first.buffer).toBe(large.buffer);
  expect(first.length).toBe(50);
  expect(pool.take(1).buffer).toBe(tiny.buffer);
  expect([small.buffer, large.buffer, tiny.buffer]).not.toContain(pool.take(1).buffer);
  const huge = new Uint8Array(101);
  for (const bytes of [large, huge]) pool.give(bytes);
  expect([large.buffer, huge.buffer]).not.toContain(pool.take(1).buffer);
});

test("reflect101 is OpenCV's", () => {
  for (const [size, rows] of Object.entries(mirrored)) {
    expect(rows.map((_, i) => reflect101(i - 9, Number(size)))).toEqual(rows);
  }
});

describe("stitched edges of bands equal the edges of the whole picture", () => {
  const sizes = [
    [61, 97],
    [33, 31],
    [1, 97],
    [97, 1],
    [2, 3],
    [1, 1],
  ];

  test.each(sizes)("%i × %i, bands of 1 row to all", async (width, height) => {
    const pixels = random(width * height);
    const expected = sobelOf(pixels, width, height);
    const seen = new Set<number>();
    for (let rows = 1; rows <= height; rows++) {
      const plan: Plan = { width, height, rows, bands: Math.ceil(height / rows), halo: 1 };
      seen.add(plan.bands);
      expectSame(await edges(pixels, plan), expected, `${plan.bands} bands`);
    }
    expect([seen.has(1), seen.has(height)]).toEqual([true, true]);
  });

  test.each(sizes)("%i × %i, in one process", async (width, height) => {
    const pixels = random(width * height);
    for (let rows = 1; rows <= height; rows++) {
      const pieces = await Array.fromAsync(transform(imageOf(pixels, width, 5), sobel, rows * width));
      const { data } = decode(Buffer.concat(pieces), { checkCrc: true });
      expectSame(data as Uint8Array, sobelOf(pixels, width, height), `bands of ${rows} rows`);
    }
  });

  test("a halo higher than the task's own changes nothing", async () => {
    const pixels = random(61 * 31);
    for (const halo of [2, 5, 40]) {
      const plan: Plan = { width: 61, height: 31, rows: 4, bands: 8, halo };
      expectSame(await edges(pixels, plan), sobelOf(pixels, 61, 31), `halo ${halo}`);
    }
  });

  test("a task with a higher halo: the mean of 11 rows", async () => {
    const mean: Task = {
      name: "mean",
      halo: 5,
      run: ({ pixels, width, rows }) =>
        Uint8Array.from({ length: rows * width }, (_, at) => {
          let sum = 0;
          for (let row = 0; row <= 10; row++) sum += pixels[at + row * width];
          return Math.round(sum / 11);
        }),
    };
    const pixels = random(7 * 23);
    const outputs = new Set<string>();
    for (let rows = 1; rows <= 23; rows++) {
      const pieces = await Array.fromAsync(transform(imageOf(pixels, 7, 3), mean, rows * 7));
      outputs.add(Buffer.from(decode(Buffer.concat(pieces)).data as Uint8Array).toString("hex"));
    }
    expect(outputs.size).toBe(1);
  });

  /** Splits, sends each band over the wire, computes and compresses its edges, stitches, and decodes with fast-png. */
  async function edges(pixels: Uint8Array, plan: Plan): Promise<Uint8Array> {
    const stitcher = new Stitcher(plan.width, plan.height);
    const parts = [stitcher.head()];
    for await (const band of split(imageOf(pixels, plan.width, 3), plan)) {
      const { rows, width, channels, halo } = band;
      const height = rows + halo[0] + halo[1];
      const message = encodeMessage({ ...example, halo, width, height, channels, pixels: band.pixels });
      const png = await encodeBand(await runSobel(await decodeMessage(message)), width, rows);
      parts.push(stitcher.band(png, rows)!);
    }
    const { data } = decode(Buffer.concat([...parts, stitcher.tail()]), { checkCrc: true });
    return data as Uint8Array;
  }
});

const example: Chunk = {
  chunkId: `{${JOB}}:42`,
  task: "sobel",
  params: { threshold: 7 },
  halo: [1, 1],
  width: 3,
  height: 4,
  channels: 1,
  pixels: Uint8Array.of(0, 1, 2, 3, 4, 5, 253, 254, 255, 9, 8, 7),
};

describe("a message", () => {
  test("is these bytes", () => {
    expect(encodeMessage(example).toString()).toBe(golden("message.txt").toString());
  });

  test("of these bytes is this chunk", async () => {
    expect(await decodeMessage(golden("message.txt"))).toEqual(example);
  });

  test("decodes to the chunk that was encoded, also without params", async () => {
    const chunks: Chunk[] = [
      { ...example, params: undefined },
      { ...example, params: [1, "ñ", null], task: "a-2", halo: [0, 3] },
      { ...example, width: 1, height: 12, halo: [11, 0] },
      { ...example, position: [512, 1024] },
      { ...example, chunkId: `{${JOB}}:0`, width: 300, height: 400, pixels: random(120_000) },
      { ...example, channels: 3, pixels: random(36) },
      { ...example, channels: 4, width: 301, height: 99, pixels: random(301 * 99 * 4) },
    ];
    for (const chunk of chunks) expect(await decodeMessage(encodeMessage(chunk))).toEqual(chunk);
    expect(encodeMessage(chunks[0]).toString()).not.toContain("params");
  });

  test("may come from other programs: other order of fields, spaces, another kind of PNG", async () => {
    const samples = Uint16Array.of(255, 0, 0, 0, 255, 0);
    const imagen = pngOf({ width: 1, height: 2, colour: RGB, depth: 8, samples }).toString("base64");
    const fields = { imagen, extra: 1, halo: [0, 1], task: "sobel", chunk_id: example.chunkId };
    expect(await decodeMessage(Buffer.from(JSON.stringify(fields, null, 4)))).toEqual({
      ...example,
      ...{ params: undefined, halo: [0, 1], width: 1, height: 2 },
      ...{ channels: 4, pixels: Uint8Array.of(255, 0, 0, 255, 0, 255, 0, 255) }, // the task takes what it needs of it
    });
  });

  test("decodes to the same chunk, whatever the position of the picture and the form of the JSON", async () => {
    const picture = JSON.parse(golden("message.txt").toString()).imagen;
    const head = `"chunk_id":"${example.chunkId}","task":"sobel","halo":[1,1]`;
    const params = (text: string) => ({ ...example, params: { text } });
    const bodies: [body: string, chunk: Chunk][] = [
      [`{${head},"imagen":"${picture}"}`, { ...example, params: undefined }],
      [`{"imagen":"${picture}",${head}}`, { ...example, params: undefined }],
      [`{${head},"imagen":"${picture}","params":{"text":"\\"}"}}`, params('"}')],
      [`{${head},"params":{"text":",\\"imagen\\":\\"AAAA\\"}"},"imagen":"${picture}"}`, params(',"imagen":"AAAA"}')],
      [`{${head},"params":{"text":"é"},"imagen":"${picture}"}`, params("é")],
      [`{${head},"imagen":"AAAA","imagen":"${picture}"}`, { ...example, params: undefined }],
      [`{${head},"params":{"a":1,"imagen":"b"},"imagen":"${picture}"}`, { ...example, params: { a: 1, imagen: "b" } }],
      [`{${head},"imagen":"${picture.replaceAll("/", "\\/")}"}`, { ...example, params: undefined }],
    ];
    for (const [body, chunk] of bodies) expect(await decodeMessage(Buffer.from(body))).toEqual(chunk);
  });

  const good = JSON.parse(golden("message.txt").toString());
  const bytes = (png: Uint8Array) => Buffer.from(png).toString("base64");
  const huge = Buffer.concat([SIGNATURE, ihdr(5000, 5000, 8, GREY), chunk("IEND")]);
  const cut = Buffer.from(good.imagen, "base64").subarray(0, -1);
  const cases: [what: string, body: unknown, message: string | RegExp][] = [
    ["nothing", Buffer.alloc(0), /^message: expected JSON, got 0 bytes that are not: /],
    ["not JSON", Buffer.from("{imagen}"), /^message: expected JSON, got 8 bytes that are not: /],
    [
      "not JSON before its picture",
      Buffer.from(',"imagen":"AAAA"}'),
      /^message: expected JSON, got 17 bytes that are not: /,
    ],
    [
      "not UTF-8 before its picture",
      Buffer.from('{"task":"\xff","imagen":""}', "latin1"),
      /^message: expected JSON, got 24 /,
    ],
    ["not UTF-8", Buffer.from('{"task":"\xff"}', "latin1"), /^message: expected JSON, got 12 bytes that are not: /],
    ["cut off", golden("message.txt").subarray(0, -1), /^message: expected JSON, got \d+ bytes that are not: /],
    ["a number", 5, "message: expected a JSON object"],
    ["a string", "sobel", "message: expected a JSON object"],
    ["null", null, "message: expected a JSON object"],
    ["an array", [good], 'chunk_id: expected "{<job id>}:<band>", got undefined'],
    ["no chunk_id", { ...good, chunk_id: undefined }, 'chunk_id: expected "{<job id>}:<band>", got undefined'],
    ["another chunk_id", { ...good, chunk_id: "tile-1" }, 'chunk_id: expected "{<job id>}:<band>", got "tile-1"'],
    [
      "a long chunk_id",
      { ...good, chunk_id: "x".repeat(1000) },
      `chunk_id: expected "{<job id>}:<band>", got "${"x".repeat(79)}…`,
    ],
    ["no task", { ...good, task: undefined }, "task: expected a task's name, got undefined"],
    ["an invalid task name", { ...good, task: "Sobel" }, 'task: expected a task\'s name, got "Sobel"'],
    ["no halo", { ...good, halo: undefined }, "halo: expected [rows above, rows below], got undefined"],
    ["a halo of one", { ...good, halo: [1] }, "halo: expected [rows above, rows below], got [1]"],
    ["a halo of three", { ...good, halo: [1, 1, 1] }, "halo: expected [rows above, rows below], got [1,1,1]"],
    ["a number for a halo", { ...good, halo: 1 }, "halo: expected [rows above, rows below], got 1"],
    ["a negative halo", { ...good, halo: [-1, 1] }, "halo: expected [rows above, rows below], got [-1,1]"],
    ["a broken halo", { ...good, halo: [0.5, 1] }, "halo: expected [rows above, rows below], got [0.5,1]"],
    ["a halo with a string", { ...good, halo: ["1", 1] }, 'halo: expected [rows above, rows below], got ["1",1]'],
    ["a position of one", { ...good, position: [1] }, "position: expected [first row, rows of the picture], got [1]"],
    ["a halo as high as the picture", { ...good, halo: [2, 2] }, "halo: expected fewer than 4 rows, got [2,2]"],
    ["a halo higher than the picture", { ...good, halo: [0, 9] }, "halo: expected fewer than 4 rows, got [0,9]"],
    ["an infinite halo", { ...good, halo: [1e308, 1e308] }, "halo: expected fewer than 4 rows, got [1e+308,1e+308]"],
    ["no imagen", { ...good, imagen: undefined }, "imagen: expected base64, got undefined"],
    ["a number for an imagen", { ...good, imagen: 7 }, "imagen: expected base64, got 7"],
    [
      "truncated base64",
      { ...good, imagen: good.imagen.slice(0, -1) },
      /^imagen: expected base64, got \d+ characters, not a multiple of 4$/,
    ],
    [
      "base64 with other characters",
      { ...good, imagen: `****${good.imagen}` },
      "imagen: expected base64, got other characters",
    ],
    ["an empty imagen", { ...good, imagen: "" }, "imagen: corrupt PNG: the file ends before its IEND chunk"],
    ["a JPEG", { ...good, imagen: "/9j/4AAQSkZJRgABAQAA" }, "imagen: corrupt PNG: no PNG signature"],
    ["a truncated PNG", { ...good, imagen: bytes(cut) }, "imagen: corrupt PNG: the file ends before its IEND chunk"],
    [
      "a huge PNG",
      { ...good, imagen: bytes(huge) },
      "imagen: image too large: expected at most 12582912 pixels, got 5000 × 5000",
    ],
  ];
  test.each(cases)("is refused: %s", async (_what, body, message) => {
    const sent = Buffer.isBuffer(body) ? body : Buffer.from(JSON.stringify(body));
    const error = await decodeMessage(sent).catch((thrown) => thrown);
    expect(error).toBeInstanceOf(WireError);
    expect(error.name).toBe("WireError");
    if (typeof message === "string") expect(error.message).toBe(message);
    else expect(error.message).toMatch(message);
  });

  test("is refused with the cause", async () => {
    const error = await decodeMessage(Buffer.from(JSON.stringify({ ...good, imagen: "" }))).catch((thrown) => thrown);
    expect(error.cause).toBeInstanceOf(ImageError);
  });
});

describe("fromBase64", () => {
  const refused = (text: string) => {
    expect(() => fromBase64(text, "imagen")).toThrow(/^imagen: expected base64, got /);
    expect(() => fromBase64(text, "imagen")).toThrow(WireError);
  };

  test("decodes bytes of any number", () => {
    for (const length of [...Array(60).keys(), 98_303, 98_304, 98_305, 300_001]) {
      const bytes = random(length);
      expectSame(fromBase64(Buffer.from(bytes).toString("base64"), "x"), bytes, `${length} bytes`);
    }
  });

  test("refuses every character that is not base64, at every position", () => {
    const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (const length of [4, 8, 16, 20, 28, 131_072]) {
      for (const at of length > 100 ? [0, 65_537, length - 5] : Array(length).keys()) {
        for (let code = 0; code < 256; code++) {
          const character = String.fromCharCode(code);
          const text = `${"A".repeat(at)}${character}${"A".repeat(length - at - 1)}`;
          if (alphabet.includes(character)) expect(fromBase64(text, "x")).toHaveLength((length / 4) * 3);
          else if (character === "=" && at === length - 1)
            expect(fromBase64(text, "x")).toHaveLength((length / 4) * 3 - 1);
          else refused(text);
        }
      }
    }
  });

  test.each([
    ["missing padding", ["A", "AA", "AAA", "AAAAAA"]],
    ["wrong padding", ["A===", "====", "AA==AAAA", "AAAA====", "=AAA", "AA.=", "AA=A"]],
    ["white space", ["AA A", "AAA\n", "AA  ", "    ", "AAAA\r\n  ", "AA= =   ", "AAAAAAA ", " AAAAAA=", "AAA=    "]],
    ["bits after the last byte", ["AB==", "AAB="]],
    ["characters of other alphabets", ["AA-_", "AAAé", "AAA\u0141", "ＡＡＡＡ"]],
  ])("refuses %s", (_what, texts) => {
    texts.forEach(refused);
  });
});

describe("a chunk id", () => {
  test("is the job's id in braces, and the band's number", () => {
    expect(chunkIdOf(JOB, 42)).toBe("{01234567-89ab-4cde-8f01-23456789abcd}:42");
    for (const band of [0, 1, 10, 1_000_000, 2 ** 31 - 1]) {
      expect(parseChunkId(chunkIdOf(JOB, band))).toEqual({ jobId: JOB, band });
    }
  });

  test("of another form is refused", () => {
    const forms = [
      ...["", JOB, `{${JOB}}`, `{${JOB}}:`, `${JOB}:1`, `{${JOB}}1`, `{${JOB}}:-1`, `{${JOB}}:01`, `{${JOB}}:1.5`],
      ...[`{${JOB}}:1 `, ` {${JOB}}:1`, `{${JOB}}:1\n`, `{${JOB}}:1e3`, `{${JOB}}:12345678901`, `{${JOB}}:١`],
      ...[`{${JOB.toUpperCase()}}:1`, `{${JOB.slice(1)}}:1`, `{${JOB}0}:1`, `{${JOB.replaceAll("-", "")}}:1`, "{*}:1"],
      ...[undefined, null, 5, [], {}, [chunkIdOf(JOB, 1)]],
    ];
    for (const form of forms) {
      const error = caught(() => parseChunkId(form));
      expect({ form, error: String(error) }).toEqual({
        form,
        error: `WireError: chunk_id: expected "{<job id>}:<band>", got ${JSON.stringify(form) ?? "undefined"}`,
      });
    }
  });

  test("has a lower-case UUID as the job's id; a task's name is valid as a queue's name", () => {
    expect([JOB, JOB.toUpperCase(), `${JOB} `, "", `{${JOB}}`].map(isJobId)).toEqual([
      true,
      false,
      false,
      false,
      false,
    ]);
    for (const name of ["sobel", "a", "a-1", "a.2", "a.10", "x".repeat(64)])
      expect([name, isTaskName(name)]).toEqual([name, true]);
    for (const name of [
      "",
      "Sobel",
      "1a",
      "-a",
      "a.b",
      "a.0",
      "a.1.1",
      "a b",
      "a\n",
      "ñ",
      "x".repeat(65),
      5,
      null,
      undefined,
      ["sobel"],
    ]) {
      expect([name, isTaskName(name)]).toEqual([name, false]);
    }
  });
});

/** Without the parameters of `example`: Sobel has none. */
async function runSobel({ params, ...band }: Chunk): Promise<Uint8Array> {
  return (await runTask(sobel, band)) as Uint8Array;
}

function caught(run: () => unknown): unknown {
  try {
    return run();
  } catch (error) {
    return error;
  }
}
