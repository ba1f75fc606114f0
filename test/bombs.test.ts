// Small files that promise large pictures: what one picture, and all of them together, may take of a process. A file that
// can never be read gets 413, early; one that has no room now waits, or gets 503 with a time for its retry.
//
// No test measures time or the memory of the process: what is compared is bytes that were read, shares, and answers.
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { availableParallelism } from "node:os";
import { deflateSync } from "node:zlib";
import sharp from "sharp";
import { BusyError, breathe, PictureMemory } from "../picture/budget.ts";
import { readJpeg } from "../picture/jpeg.ts";
import { collectPixels, ImageError, type PixelLimits } from "../picture/picture.ts";
import { DEFAULT_LIMITS, limitsOf, readImage } from "../picture/read.ts";
import { SpoolDisk } from "../picture/spool.ts";
import { startKit } from "./kit.ts";
import { chunk, expectSame, GREY, ihdr, inPieces, over, pngOf, RGB, random, SIGNATURE } from "./pictures.ts";
import { until } from "./wait.ts";

setDefaultTimeout(30_000);

const MIB = 1 << 20;

describe("the size is checked before the rest arrives", () => {
  const sof = Buffer.from("ffc0001108ffffffff03012200021101031101", "hex"); // 65535 × 65535
  const app = (bytes: number) =>
    Buffer.concat([Buffer.from([0xff, 0xe1, bytes >> 8, bytes & 255]), Buffer.alloc(bytes - 2)]);
  const vp8x = Buffer.concat([
    Buffer.from("RIFF\xff\xff\xff\x7fWEBPVP8X\n\0\0\0\0\0\0\0", "latin1"),
    Buffer.alloc(6, 0xff),
  ]);
  const ispe = Buffer.concat([Buffer.from("\0\0\0\x14ispe\0\0\0\0\0\x01\0\0\0\x01\0\0", "latin1")]);
  const cases: [what: string, beginning: Buffer][] = [
    ["JPEG", Buffer.concat([Buffer.from([0xff, 0xd8]), sof])],
    [
      "JPEG with 300 KB of other segments before",
      Buffer.concat([Buffer.from([0xff, 0xd8]), ...Array(5).fill(app(60_000)), sof]),
    ],
    ["WebP", vp8x],
    ["GIF", Buffer.from("GIF89a\xff\xff\xff\xff\0\0\0\0\0\0", "latin1")],
    ["AVIF", Buffer.concat([Buffer.from("\0\0\0\x10ftypavif\0\0\0\0", "latin1"), ispe])],
  ];
  test.each(cases)("%s", async (_what, beginning) => {
    const source = endless(beginning);
    const error = await caught(readImage(source.pieces, DEFAULT_LIMITS));
    expect([error.code, error.message]).toEqual([
      "too-large",
      expect.stringMatching(/^image too large: expected at most/),
    ]);
    expect(source.bytes).toBeLessThan(2 * MIB);
  });

  test("a body that only begins as a JPEG is refused at once", async () => {
    const source = endless(Buffer.from([0xff, 0xd8, 0xff, 0xe0]));
    expect(await caught(readImage(source.pieces, DEFAULT_LIMITS))).toMatchObject({ code: "corrupt" });
    expect(source.bytes).toBeLessThan(2 * MIB);
  });

  test("a body without a header is read up to its share", async () => {
    const memory = new PictureMemory(64 * MIB);
    const source = endless(Buffer.from("II*\0\xff\xff\xff\xff", "latin1"));
    const held = memory.open();
    const error = await caught(readImage(source.pieces, DEFAULT_LIMITS, held));
    expect([error.code, error.message]).toEqual([
      "too-large",
      expect.stringContaining(`at most ${memory.bodies.bytes} bytes`),
    ]);
    expect(source.bytes).toBeLessThan(memory.bodies.bytes + 2 * MIB);
    held.release();
    expect(memory.bodies.free).toBe(memory.bodies.bytes);
  });
});

test("a decode has a time limit", async () => {
  // A TIFF of two million strips, all of them the same pixels: seconds of work, and hardly any memory.
  const [rows, strip] = [2_000_000, deflateSync(Buffer.from(Array.from({ length: 64 }, (_, i) => (i * i) % 61)))];
  const [at, table] = [122, 122 + strip.length];
  const shape = [
    [256, 64],
    [257, rows],
    [258, 8],
    [259, 8],
    [262, 1],
    [273, table, rows],
    [277, 1],
    [278, 1],
    [279, table + 4 * rows, rows],
  ];
  const tiff = Buffer.alloc(table + 8 * rows);
  tiff.write("II*\0\x08\0\0\0\x09\0", "latin1");
  for (const [i, [tag, value, count = 1]] of shape.entries()) {
    tiff.writeUInt16LE(tag, 10 + 12 * i);
    tiff.writeUInt16LE(4, 12 + 12 * i);
    tiff.writeUInt32LE(count, 14 + 12 * i);
    tiff.writeUInt32LE(value, 18 + 12 * i);
  }
  tiff.set(strip, at);
  for (let i = 0; i < rows; i++) {
    tiff.writeUInt32LE(at, table + 4 * i);
    tiff.writeUInt32LE(strip.length, table + 4 * (rows + i));
  }
  const error = await caught(readImage(inPieces(tiff), { ...DEFAULT_LIMITS, seconds: 1 }));
  expect([error.code, error.message]).toEqual(["too-large", "image too large: not decoded in 1 s"]);
});

describe("rows", () => {
  const png = (width: number, height: number, interlace = 0) =>
    Buffer.concat([
      SIGNATURE,
      ihdr(width, height, 1, GREY, [0, 0, interlace]),
      chunk("IDAT", deflateSync(Buffer.alloc(9))),
    ]);

  test.each([0, 1])("a picture of a billion narrow rows is too tall, interlace %d", async (interlace) => {
    const error = await caught(readImage(inPieces(png(1, interlace ? 100_000_000 : 1_000_000_000, interlace))));
    expect(error.message).toStartWith("image too tall: expected at most 15625000 rows, got 1 × ");
    expect(error.code).toBe("too-large");
  });

  test("as many rows as a square picture may have are never too many", async () => {
    const { height } = await readImage(inPieces(png(1, 65_536)), limitsOf(100_000));
    expect(height).toBe(65_536);
  });
});

describe("large pictures are exact", () => {
  test("libvips computes the luminance of every colour as the kernel does", async () => {
    const [width, height] = [4096, 8193]; // all colours twice, and a row, so that it is a large picture
    const colours = Buffer.alloc(width * height * 3);
    for (let i = 0; i < width * height; i++) colours.writeUIntBE(i & 0xffffff, i * 3, 3);
    const tiff = await sharp(colours, { raw: { width, height, channels: 3 } })
      .tiff({ compression: "none" })
      .toBuffer();
    const memory = new PictureMemory(2 ** 30).open();
    const grey = await collectPixels(await readImage(inPieces(tiff), DEFAULT_LIMITS, memory));
    let different = 0;
    for (let i = 0; i < grey.length; i++) {
      const [r, g, b] = [colours[i * 3], colours[i * 3 + 1], colours[i * 3 + 2]];
      if (grey[i] !== (9798 * r + 19_235 * g + 3735 * b + 16_384) >> 15) different++;
    }
    expect(different).toBe(0);
    memory.release();
  });

  test("with an orientation too, and with alpha", async () => {
    const [width, height] = [8000, 4200];
    const row = random(width * 4);
    for (const channels of [3, 4] as const) {
      const samples = Buffer.alloc(width * height * channels);
      for (let y = 0; y < height; y++) samples.set(row.subarray(0, width * channels), y * width * channels);
      const raw = { width, height, channels };
      const tiff = await sharp(samples, { raw })
        .withMetadata({ orientation: 6 })
        .tiff({ compression: "deflate" })
        .toBuffer();
      const memory = new PictureMemory(2 ** 32).open();
      const image = await readImage(inPieces(tiff), DEFAULT_LIMITS, memory);
      expect([image.width, image.height]).toEqual([height, width]);
      const grey = await collectPixels(image);
      const expected = Uint8Array.from({ length: width }, (_, x) => {
        const [r, g, b, alpha = 255] = row.subarray(x * channels, (x + 1) * channels);
        return over([r, g, b], alpha);
      });
      for (const column of [0, height - 1]) {
        expectSame(
          Uint8Array.from(expected, (_, x) => grey[x * height + column]),
          expected,
          `${channels} channels`,
        );
      }
      memory.release();
    }
  });

  test("an interlaced PNG, in any pieces", async () => {
    const picture = {
      width: 61,
      height: 47,
      colour: RGB,
      depth: 8,
      samples: new Uint16Array(random(61 * 47 * 3)),
      interlaced: true,
    };
    const file = pngOf(picture);
    const memory = new PictureMemory(64 * MIB).open();
    const grey = await collectPixels(await readImage(inPieces(file, 13), DEFAULT_LIMITS, memory));
    expectSame(grey, await collectPixels(await readImage(inPieces(file))));
    memory.release();
  });
});

describe("the memory of all pictures", () => {
  const small = () => new PictureMemory(64 * MIB);

  test("a picture that would never fit is too large, with the size that fits", async () => {
    const picture = sharp({ create: { width: 4000, height: 4000, channels: 4, background: "#123" } });
    for (const file of [
      picture.clone().webp({ lossless: true, effort: 0 }),
      picture.clone().gif(),
      picture.clone().avif({ effort: 0 }),
    ]) {
      const error = await caught(readImage(inPieces(await file.toBuffer()), DEFAULT_LIMITS, small().open()));
      expect(error.code).toBe("too-large");
      const [, most] = /expected at most (\d+) pixels of a picture of this kind/.exec(error.message)!;
      expect(Number(most)).toBeWithin(2_000_000, 7_000_000);
    }
  });

  test("a progressive JPEG counts its coefficients", async () => {
    const picture = sharp({ create: { width: 4000, height: 3000, channels: 3, background: "#123" } });
    const options = { chromaSubsampling: "4:4:4", quality: 10 };
    const memory = small();
    const baseline = await picture.clone().jpeg(options).toBuffer();
    const held = memory.open();
    expect(await readImage(inPieces(baseline), DEFAULT_LIMITS, held)).toMatchObject({ width: 4000 });
    held.release();
    const progressive = await picture
      .clone()
      .jpeg({ ...options, progressive: true })
      .toBuffer();
    const error = await caught(readImage(inPieces(progressive), DEFAULT_LIMITS, memory.open()));
    expect(error.code).toBe("too-large");
  });

  test("a JPEG whose components come in several scans counts them too", () => {
    const scan = (ids: string[]) =>
      `ffda000${(6 + 2 * ids.length).toString(16)}0${ids.length}${ids.map((id) => `${id}00`).join("")}003f00`;
    const jpeg = (frame: number, scans: string[][]) => {
      const start = `ffd8ff${frame.toString(16)}0011080020002003012200021101031101`;
      return Buffer.from(`${start}${scans.map(scan).join("")}ffd9`, "hex");
    };
    const cases = [
      [0xc0, [["01", "02", "03"]], false],
      [0xc0, [["01"], ["02"], ["03"]], true],
      [0xc1, [["01", "02"], ["03"]], true],
      [0xc2, [["01", "02", "03"]], true],
    ] as const;
    for (const [frame, scans, expected] of cases) {
      const ids = scans.map((ids) => [...ids]);
      expect(readJpeg(jpeg(frame, ids)).holdsCoefficients, `${frame} ${ids.join("; ")}`).toBe(expected);
    }
  });

  test("large decodes wait for each other, however much memory there is: they take the threads that inflate PNGs", async () => {
    const { decodes } = new PictureMemory(2 ** 40);
    let running = 0;
    const shares = Array.from({ length: availableParallelism() }, async () => {
      const share = await decodes.enter(512 * MIB);
      running++;
      return share;
    });
    await new Promise((wake) => setImmediate(wake));
    expect(running).toBe(Math.max(1, availableParallelism() >> 1));
    (await decodes.enter(64 * MIB)).release();
    for (const share of shares) (await share).release();
    expect(decodes.free).toBe(decodes.bytes);
  });

  test("large decodes wait for each other, in their order; a small one passes", async () => {
    const { decodes } = small();
    const first = await decodes.enter(decodes.bytes);
    const order: string[] = [];
    const enter = async (name: string, bytes: number) => {
      const share = await decodes.enter(bytes);
      order.push(name);
      return share;
    };
    const second = enter("second", 40 * MIB);
    const third = enter("third", 40 * MIB);
    first.resize(decodes.bytes - MIB); // it still has its turn
    (await enter("small", MIB)).release();
    expect(order).toEqual(["small"]);
    first.release();
    await until(() => order.length === 2);
    expect(order).toEqual(["small", "second"]);
    (await second).release();
    (await third).release();
    expect(order).toEqual(["small", "second", "third"]);
    expect(decodes.free).toBe(decodes.bytes);
  });

  test("what is given back twice counts once", async () => {
    const memory = small();
    const held = memory.open();
    held.body(MIB);
    await held.decode(MIB);
    for (let i = 0; i < 3; i++) held.release();
    expect([memory.bodies.free, memory.decodes.free]).toEqual([memory.bodies.bytes, memory.decodes.bytes]);
  });

  test("beyond sixteen that wait: busy", async () => {
    const { decodes } = small();
    const first = await decodes.enter(decodes.bytes);
    const waiting = Array.from({ length: 16 }, () => decodes.enter(decodes.bytes));
    expect(await decodes.enter(decodes.bytes).catch((error) => error)).toBeInstanceOf(BusyError);
    first.release();
    for (const one of waiting) (await one).release();
    expect(decodes.free).toBe(decodes.bytes);
  });

  test("bodies beyond their share: busy", async () => {
    const memory = small();
    const held = memory.open();
    held.body(memory.bodies.bytes);
    expect(() => memory.open().body(1)).toThrow(BusyError);
    held.release();
    memory.open().body(1);
  });
});

describe("through the API", () => {
  const png = new Uint8Array(
    pngOf({ width: 40, height: 30, colour: GREY, depth: 8, samples: new Uint16Array(random(1200)) }),
  );

  test("every answer gives the memory back", async () => {
    const memory = new PictureMemory(64 * MIB);
    const kit = await startKit({ workers: 1, memory });
    try {
      const picture = sharp(random(100 * 80 * 3), { raw: { width: 100, height: 80, channels: 3 } });
      const jpeg = await picture.clone().jpeg().toBuffer();
      const large = await sharp({ create: { width: 4000, height: 4000, channels: 4, background: "#123" } })
        .webp({ lossless: true, effort: 0 })
        .toBuffer();
      const interlaced = await picture.clone().png({ progressive: true }).toBuffer();
      const id = crypto.randomUUID();
      const statuses: number[] = [];
      for (const [method, path, body] of [
        ["POST", "/tasks/sobel", jpeg],
        ["POST", "/tasks/threshold", interlaced],
        ["POST", "/tasks/sobel", large],
        ["POST", "/tasks/sobel", jpeg.subarray(0, 400)],
        ["PUT", `/jobs/${id}`, jpeg],
        [
          "PUT",
          `/jobs/${id}`,
          await sharp(random(300), { raw: { width: 10, height: 10, channels: 3 } })
            .jpeg()
            .toBuffer(),
        ],
      ] as const) {
        const answer = await kit.ask(path, { method, body: new Uint8Array(body) });
        await answer.arrayBuffer();
        statuses.push(answer.status);
      }
      expect(statuses).toEqual([200, 200, 413, 422, 202, 409]);
      await until(() => memory.decodes.free === memory.decodes.bytes && memory.bodies.free === memory.bodies.bytes);
    } finally {
      await kit.stop();
    }
  });

  test("no room for a picture that is read twice: 503 with a time for the retry, and the job can be sent again", async () => {
    const disk = new SpoolDisk(1200);
    const kit = await startKit({ workers: 1, disk });
    try {
      const other = await disk.open({ width: 1, height: 1, channels: 1 });
      const id = crypto.randomUUID();
      for (const [method, path] of [
        ["POST", "/tasks/threshold"],
        ["PUT", `/jobs/${id}?task=threshold`],
      ]) {
        const answer = await kit.ask(path, { method, body: png });
        expect([answer.status, answer.headers.get("retry-after")]).toEqual([503, "5"]);
        expect((await answer.json()).detail).toBe(
          "the disk for pictures that are read twice is full (1200 bytes); retry later",
        );
      }
      expect((await kit.ask("/tasks/sobel", { method: "POST", body: png })).status).toBe(200);
      await other.close();
      expect((await kit.ask(`/jobs/${id}?task=threshold`, { method: "PUT", body: png })).status).toBe(202);
      expect(disk.free).toBe(1200);
    } finally {
      await kit.stop();
    }
  });
});

describe("the main thread answers between blocks", () => {
  test("while a decoded picture is walked", async () => {
    const file = await sharp(random(2000 * 1000 * 3), { raw: { width: 2000, height: 1000, channels: 3 } })
      .webp({ quality: 1, effort: 0 })
      .toBuffer();
    const image = await readImage(inPieces(file));
    expect(await turnsDuring(image.blocks)).toBeGreaterThan(10);
  });

  test("many loops at once go on a turn each", async () => {
    let last = "";
    let repeated = 0;
    const loop = async (name: string) => {
      for (let i = 0; i < 20; i++) {
        await breathe();
        spin(10);
        if (last === name) repeated++;
        last = name;
      }
    };
    await Promise.all([loop("a"), loop("b"), loop("c")]);
    expect(repeated).toBeLessThan(5);
  });

  test.each([
    ["before the pixels", chunk("tEXt", Buffer.from("a\0b")), true],
    ["behind the pixels", chunk("tEXt", Buffer.from("a\0b")), false],
    ["of the pixels", chunk("IDAT", Buffer.alloc(0)), true],
  ])("a PNG with 100,000 chunks %s lets others have their turn", async (_where, small, isBefore) => {
    const [many, pixels] = [Buffer.concat(Array(100_000).fill(small)), chunk("IDAT", deflateSync(Buffer.alloc(2)))];
    const chunks = isBefore ? [many, pixels] : [pixels, many];
    const png = Buffer.concat([SIGNATURE, ihdr(1, 1, 8, GREY), ...chunks, chunk("IEND")]);
    let [turns, isRead] = [0, false];
    const others = () => {
      turns++;
      if (!isRead) setImmediate(others);
    };
    setImmediate(others);
    const whole = async function* () {
      yield png;
    };
    expect(await collectPixels(await readImage(whole(), DEFAULT_LIMITS))).toHaveLength(1);
    isRead = true;
    expect(turns).toBeGreaterThan(2);
  });
});

test("limits: the default, and those of a setting", () => {
  expect(DEFAULT_LIMITS).toEqual({ streamed: 1e9, whole: 1 << 27, rows: 15_625_000 } satisfies PixelLimits);
  expect(limitsOf(1000)).toEqual({ streamed: 1000, whole: 1000, rows: 65_536 });
});

/** `beginning`, then zeros: 64 MiB in pieces of 64 KiB. */
function endless(beginning: Buffer) {
  const source = { bytes: 0, pieces: pieces() };
  async function* pieces() {
    for (let i = 0; i < 1024; i++) {
      const piece = i === 0 ? Buffer.concat([beginning, Buffer.alloc(1 << 16)]) : Buffer.alloc(1 << 16);
      source.bytes += piece.length;
      yield piece;
    }
  }
  return source;
}

async function caught(reading: Promise<unknown>): Promise<ImageError> {
  const error = await reading.then(
    () => undefined,
    (error) => error,
  );
  expect(error).toBeInstanceOf(ImageError);
  return error;
}

/** How often other events were handled while the blocks were read and each took 10 ms. */
async function turnsDuring(blocks: AsyncIterable<Uint8Array>): Promise<number> {
  let turns = 0;
  let ended = false;
  const count = () => {
    turns++;
    if (!ended) setImmediate(count);
  };
  setImmediate(count);
  for await (const _ of blocks) spin(10);
  ended = true;
  return turns;
}

function spin(ms: number): void {
  for (const end = performance.now() + ms; performance.now() < end; );
}
