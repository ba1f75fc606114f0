// PNGs read in a thread of their own: the rows, the complaints and the errors of whoever reads them here; what becomes of the
// thread when nobody wants the rest; and that neither side runs ahead.
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { availableParallelism } from "node:os";
import { deflateSync } from "node:zlib";
import { blocksAside } from "../picture/kernel/reader.ts";
import { collectPixels, ImageError } from "../picture/picture.ts";
import { readPng } from "../picture/png-read.ts";
import { readImage } from "../picture/read.ts";
import {
  chance,
  chunk,
  expectSame,
  GREY,
  GREY_ALPHA,
  greyOf,
  ihdr,
  inPieces,
  PALETTE,
  type Picture,
  pngOf,
  RGB,
  RGBA,
  randomPicture,
  SIGNATURE,
  UNLIMITED,
} from "./pictures.ts";

setDefaultTimeout(30_000);

/** Bytes of a buffer that the two share. */
const BUFFER = 1 << 19;

async function readAside(source: AsyncIterable<Uint8Array>, { width, height }: Picture): Promise<Uint8Array> {
  return collectPixels({ width, height, blocks: blocksAside(source, width, UNLIMITED) });
}

/** More than all buffers hold, both ways: 9 MB in, 6 Mpx out. */
const large = randomPicture(2000, 3000, GREY, 8);
const largePng = pngOf(large, [8192]);
const largeGrey = greyOf(large);

describe("the rows", () => {
  test("of every kind of picture, in pieces of any size", async () => {
    const kinds = [randomPicture(33, 21, RGB, 8), randomPicture(70, 9, PALETTE, 4), randomPicture(40, 30, RGBA, 16)];
    kinds.push(
      randomPicture(9, 400, GREY, 1),
      { ...randomPicture(50, 50, GREY_ALPHA, 8), interlaced: true },
      randomPicture(1, 1, GREY, 8),
    );
    for (const picture of kinds) {
      const png = pngOf(picture, [100]);
      for (const size of [1, 37, png.length])
        expectSame(await readAside(inPieces(png, size), picture), greyOf(picture));
    }
  });

  test("of a picture that fills the buffers many times, whoever is slow", async () => {
    for (const size of [5000, 3 * BUFFER + 1]) expectSame(await readAside(inPieces(largePng, size), large), largeGrey);
    const lazy = async function* () {
      for await (const piece of inPieces(largePng, 1_000_000)) {
        await Bun.sleep(20);
        yield piece;
      }
    };
    expectSame(await readAside(lazy(), large), largeGrey, "slow to come");
    const rows: Buffer[] = [];
    for await (const block of blocksAside(inPieces(largePng), large.width, UNLIMITED)) {
      await Bun.sleep(30);
      expect(block.length % large.width).toBe(0);
      rows.push(Buffer.from(block));
    }
    expectSame(new Uint8Array(Buffer.concat(rows)), largeGrey, "slow to be taken");
  });

  test("of rows that are as long as a buffer, and longer", async () => {
    for (const width of [BUFFER, BUFFER + 1]) {
      const wide = randomPicture(width, 2, GREY, 8);
      expectSame(await readAside(inPieces(pngOf(wide), 100_000), wide), greyOf(wide), String(width));
    }
  });

  test("of several at once, more than there are threads", async () => {
    const read = Array.from({ length: 6 }, (_, i) => readAside(inPieces(largePng, 50_000 + i), large));
    for (const pixels of await Promise.all(read)) expectSame(pixels, largeGrey);
  });

  test.skipIf(availableParallelism() === 1)("come from another thread where the picture is large", async () => {
    const sharedRows = async (picture: Picture, png: Uint8Array) => {
      const { width, height, blocks } = await readImage(inPieces(png, 100_000), UNLIMITED);
      expect([width, height]).toEqual([picture.width, picture.height]);
      for await (const block of blocks) return block.buffer instanceof SharedArrayBuffer;
    };
    expect(await sharedRows(large, largePng)).toBe(true);
    const small = randomPicture(200, 300, GREY, 8);
    expect(await sharedRows(small, pngOf(small))).toBe(false);
  });
});

test("the complaints are those of whoever reads it here", async () => {
  const outcome = async (read: Promise<Uint8Array>) =>
    read.catch((error: ImageError) => ({
      sound: error instanceof ImageError,
      code: error.code,
      is: error.message,
    }));
  let refused = 0;
  const picture = randomPicture(33, 21, RGB, 8);
  const png = pngOf(picture, [100]);
  for (let i = 0; i < 600; i++) {
    const harmed = Uint8Array.from(png);
    // The size is known by then.
    const at = i < 64 ? i % 16 : 24 + Math.floor(chance() * (png.length - 24));
    harmed[at] ^= 1 << (i % 8);
    const file = i % 3 === 0 ? png.subarray(0, at) : harmed;
    const here = await outcome(readPng(inPieces(file, 50), UNLIMITED).then(collectPixels));
    expect(await outcome(readAside(inPieces(file, 50), picture))).toEqual(here);
    if ("is" in here) refused++;
  }
  expect(refused).toBeGreaterThan(550);
  const limits = { streamed: 1000, whole: 100 };
  const inside = blocksAside(inPieces(pngOf({ ...picture, interlaced: true })), 33, limits);
  expect(await outcome(inside.next() as never)).toMatchObject({ sound: true, code: "too-large" });
});

test("an error of the source comes out as it is, wherever it comes, and the next picture is read", async () => {
  for (const error of [new TypeError("socket hang up"), new ImageError("corrupt", "of the source's own")]) {
    for (const length of [0, 10, 1_000_000, 4_000_000, largePng.length - 1]) {
      const failing = async function* () {
        yield* inPieces(largePng.subarray(0, length), 300_000);
        throw error;
      };
      expect(await readAside(failing(), large).catch((thrown) => thrown)).toBe(error);
    }
    expectSame(await readAside(inPieces(largePng, 300_000), large), largeGrey);
  }
});

describe("whoever wants no more rows", () => {
  test("is not waited for: the source is closed, and the next picture is read", async () => {
    for (const blocks of [1, 2, 5]) {
      let closed = false;
      const source = async function* () {
        try {
          yield* inPieces(largePng, 100_000);
        } finally {
          closed = true;
        }
      };
      let taken = 0;
      let aside = false;
      for await (const block of blocksAside(source(), large.width, UNLIMITED)) {
        aside = block.buffer instanceof SharedArrayBuffer;
        if (++taken === blocks) break;
      }
      while (aside && !closed) await Bun.sleep(1); // the test's own time limit is the assertion
      expectSame(await readAside(inPieces(largePng), large), largeGrey);
    }
  });

  test("has not begun anything before the first is asked for", async () => {
    let asked = false;
    const source = async function* () {
      asked = true;
      yield* inPieces(largePng);
    };
    const blocks = blocksAside(source(), large.width, UNLIMITED);
    await Bun.sleep(50);
    expect(asked).toBe(false);
    await blocks.return(undefined);
  });
});

describe("a thread is of one picture", () => {
  const other = randomPicture(1000, 2000, GREY, 8);
  const otherPng = pngOf(other, [8192]);
  const otherGrey = greyOf(other);

  test("until its rows have been let go of, though it has read them all", async () => {
    // As many rows as there are buffers for: the thread is done before they are taken.
    const few = randomPicture(1000, 1200, GREY, 8);
    const expected = greyOf(few);
    for (let round = 0; round < 5; round++) {
      const rows: Buffer[] = [];
      for await (const block of blocksAside(inPieces(pngOf(few, [8192])), few.width, UNLIMITED)) {
        await Bun.sleep(30);
        expectSame(await readAside(inPieces(otherPng), other), otherGrey);
        rows.push(Buffer.from(block));
      }
      expectSame(new Uint8Array(Buffer.concat(rows)), expected);
    }
  });

  test("whatever its file still brings, once it has been refused or given up", async () => {
    for (const stops of ["refused", "given up"]) {
      const harmed = Uint8Array.from(largePng);
      if (stops === "refused") harmed[1000] ^= 1;
      let bring = () => {};
      const late = new Promise<void>((wake) => {
        bring = wake;
      });
      let brought = false;
      const source = async function* () {
        yield harmed.subarray(0, 1_200_000);
        await late;
        brought = true;
        yield harmed.subarray(1_200_000, 2_400_000).fill(0xee);
      };
      const blocks = blocksAside(source(), large.width, UNLIMITED);
      const first = blocks.next();
      if (stops === "refused") await expect(first).rejects.toThrow("expected CRC");
      else await first;
      // What is given up waits for the file, and the next picture does not wait for it.
      const left = stops === "refused" ? undefined : blocks.return(undefined);
      // All buffers are full of the next picture when it comes.
      const pieces = async function* () {
        for await (const piece of inPieces(otherPng, 3 * BUFFER)) {
          yield piece;
          bring();
          await Bun.sleep(1);
        }
      };
      expectSame(await readAside(pieces(), other), otherGrey);
      await left;
      expect(brought).toBe(true);
    }
  });
});

test("a picture is read as it comes, and nothing behind its end is waited for", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const open = async function* () {
    yield largePng;
    await promise;
  };
  expectSame(await readAside(open(), large), largeGrey);
  resolve();
});

test.skipIf(availableParallelism() === 1)(
  "neither runs ahead: of a file that nobody takes the rows of, only so much is read",
  async () => {
    const stored = deflateSync(new Uint8Array(2001 * 12_000), { level: 0 });
    const endless = Buffer.concat([SIGNATURE, ihdr(2000, 12_000, 8, GREY), chunk("IDAT", stored)]);
    let given = 0;
    const counted = async function* () {
      for await (const piece of inPieces(endless, 100_000)) {
        given += piece.length;
        yield piece;
      }
    };
    const blocks = blocksAside(counted(), 2000, UNLIMITED);
    await blocks.next();
    await Bun.sleep(300);
    // Three buffers each way, what the inflater holds, what is being decoded.
    expect(given).toBeGreaterThan(2 * BUFFER);
    expect(given).toBeLessThan(10 * BUFFER);
    await blocks.return(undefined);
  },
);
