// PNG in: every kind there is, in pieces of every size, and whatever can be wrong with a file. PNG out: the bytes of a
// band, and that bands joined are the picture. Oracles that are not ours: the writer and the grey of pictures.ts (written
// from the specification), fast-png, zlib, pngcheck.
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { constants, crc32, deflateRawSync, deflateSync, inflateSync } from "node:zlib";
import { decode, encode } from "fast-png";
import sharp from "sharp";
import { ImageError, type ImageErrorCode } from "../picture/picture.ts";
import { combineAdler } from "../picture/png-format.ts";
import { readPng } from "../picture/png-read.ts";
import { decodeStored, encodeBand, encodeStored, Stitcher } from "../picture/png-write.ts";
import {
  chance,
  chunk,
  expectSame,
  GREY,
  GREY_ALPHA,
  greyOf,
  headerOf,
  ihdr,
  inPieces,
  over,
  PALETTE,
  pngOf,
  RGB,
  RGBA,
  random,
  randomPicture,
  read,
  SIGNATURE,
  scanlines,
  UNLIMITED,
} from "./pictures.ts";

setDefaultTimeout(30_000);

const WIDTHS = [1, 2, 7, 8, 9, 33];
const HEIGHTS = [1, 2, 5, 13];
const KINDS: [name: string, colour: number, depth: number][] = [
  ...[1, 2, 4, 8, 16].map((depth): [string, number, number] => ["grey", GREY, depth]),
  ...[8, 16].map((depth): [string, number, number] => ["RGB", RGB, depth]),
  ...[1, 2, 4, 8].map((depth): [string, number, number] => ["palette", PALETTE, depth]),
  ...[8, 16].map((depth): [string, number, number] => ["grey and alpha", GREY_ALPHA, depth]),
  ...[8, 16].map((depth): [string, number, number] => ["RGBA", RGBA, depth]),
];

const END = chunk("IEND");

describe("reads", () => {
  describe.each([false, true])("interlaced %p", (interlaced) => {
    test.each(KINDS)("%s, %i: %i bits a sample", async (_name, colour, depth) => {
      for (const width of WIDTHS) {
        for (const height of HEIGHTS) {
          for (const transparent of colour > PALETTE ? [false] : [false, true]) {
            const picture = randomPicture(width, height, colour, depth, transparent);
            picture.interlaced = interlaced;
            const png = pngOf(picture);
            const what = `${width} × ${height}, ${transparent ? "with" : "without"} tRNS`;
            expectSame(await read(inPieces(png)), greyOf(picture), what);
            if (transparent) continue;
            // That the writer wrote what was meant, by others' reading. Fast-png misreads interlaced samples below 8 bits.
            if (!interlaced || depth >= 8) expectSame(samplesByFastPng(png), picture.samples, what);
            else expectSame(await greyBySharp(png), greyOf(picture), what);
          }
        }
      }
    });

    test.each([0, 1, 2, 3, 4])("filter %i on every line", async (filter) => {
      for (const [, colour, depth] of KINDS) {
        const picture = { ...randomPicture(9, 7, colour, depth), interlaced, filter: () => filter };
        expectSame(await read(inPieces(pngOf(picture))), greyOf(picture), `colour type ${colour}, ${depth} bits`);
      }
    });

    test("more lines than are unfiltered at once, and a line longer than that", async () => {
      for (const [width, height, colour, depth] of [
        [301, 1000, RGB, 8],
        [1201, 999, GREY, 4],
        [90_001, 3, RGBA, 8],
        [40_001, 9, RGB, 16],
      ]) {
        const picture = { ...randomPicture(width, height, colour, depth), interlaced };
        expectSame(await read(inPieces(pngOf(picture), 10_007)), greyOf(picture), `${width} × ${height}`);
      }
    });

    test("the same rows, whatever pieces the file comes in", async () => {
      const picture = { ...randomPicture(33, 21, RGB, 8, true), interlaced };
      const png = pngOf(picture);
      for (const size of [1, 2, 3, 5, 7, 11, 13, 97, 1009]) {
        expectSame(await read(inPieces(png, size)), greyOf(picture), `pieces of ${size}`);
      }
      const withEmptyOnes = async function* () {
        for await (const piece of inPieces(png, 31)) yield* [new Uint8Array(0), piece, new Uint8Array(0)];
      };
      expectSame(await read(withEmptyOnes()), greyOf(picture), "pieces of no bytes");
    });

    test("the same rows, however the data are cut into IDATs", async () => {
      const picture = { ...randomPicture(33, 21, RGB, 8), interlaced };
      for (const sizes of [[1], [2], [0, 0, 1, 0, 1, 7], [1000, 0, 1], [17, 8192]]) {
        const png = pngOf(picture, sizes);
        for (const size of [1, 13, png.length]) {
          expectSame(await read(inPieces(png, size)), greyOf(picture), `IDATs of ${sizes}, pieces of ${size}`);
        }
      }
    });
  });

  test("size at once, and blocks of whole rows", async () => {
    const picture = randomPicture(1000, 1200, GREY, 8);
    const { width, height, blocks } = await readPng(inPieces(pngOf(picture)), UNLIMITED);
    expect([width, height]).toEqual([1000, 1200]);
    const lengths: number[] = [];
    for await (const block of blocks) lengths.push(block.length);
    expect(lengths.length).toBeGreaterThan(2);
    expect(lengths.filter((length) => length % width !== 0 || length === 0)).toEqual([]);
  });

  test("rows before the file has come to its end", async () => {
    const png = pngOf(randomPicture(1000, 2000, GREY, 8));
    let given = 0;
    const counted = async function* () {
      for await (const piece of inPieces(png, 1000)) {
        given += piece.length;
        yield piece;
      }
    };
    const { blocks } = await readPng(counted(), UNLIMITED);
    await blocks[Symbol.asyncIterator]().next();
    expect(given).toBeLessThan(png.length / 2);
  });

  test("ancillary chunks it does not know, anywhere, and a palette that is only suggested", async () => {
    const picture = randomPicture(9, 5, RGB, 8);
    const [header, data] = [headerOf(picture), chunk("IDAT", deflateSync(scanlines(picture)))];
    const text = chunk("tEXt", random(1000));
    const png = file(header, text, chunk("PLTE", random(27)), chunk("zzZz"), data, text, END);
    for (const size of [1, png.length]) expectSame(await read(inPieces(png, size)), greyOf(picture));
  });

  test("nothing behind IEND", async () => {
    const picture = randomPicture(9, 5, RGB, 8);
    for (const behind of [Buffer.alloc(1), random(100_000), pngOf(picture)]) {
      expectSame(await read(inPieces(Buffer.concat([pngOf(picture), behind]), 1000)), greyOf(picture));
    }
  });

  test("tRNS: only as many bits as the samples have, fewer alphas than colours, none of what it may not stand with", async () => {
    for (const [, colour, depth] of KINDS.filter(([, colour]) => colour === GREY || colour === RGB)) {
      const picture = randomPicture(33, 5, colour, depth, true);
      const lavish = picture.transparency!.slice();
      if (depth < 16) for (let i = 0; i < lavish.length; i += 2) lavish[i] = 0xab;
      if (depth < 8) lavish[1] |= 0xff << depth;
      expectSame(await read(inPieces(pngOf({ ...picture, transparency: lavish }))), greyOf(picture), `${depth} bits`);
    }
    const palette = { ...randomPicture(33, 5, PALETTE, 4, true), transparency: Uint8Array.of(0, 128) };
    expectSame(await read(inPieces(pngOf(palette))), greyOf(palette), "two alphas");
    for (const colour of [GREY_ALPHA, RGBA]) {
      const picture = randomPicture(33, 5, colour, 8);
      const png = pngOf({ ...picture, transparency: Uint8Array.of(0, 0, 0, 0, 0, 0) });
      expectSame(await read(inPieces(png)), greyOf(picture), `colour type ${colour}`);
    }
  });

  test("indices past the palette where they are not pixels", async () => {
    const palette = Uint8Array.of(10, 20, 30, 40, 50, 60);
    const line = Uint8Array.of(0, 0b01_00_01_11); // three pixels, and two bits to spare
    const png = file(ihdr(3, 1, 2, PALETTE), chunk("PLTE", palette), chunk("IDAT", deflateSync(line)), END);
    const picture = { width: 3, height: 1, colour: PALETTE, depth: 2, samples: Uint16Array.of(1, 0, 1), palette };
    expectSame(await read(inPieces(png)), greyOf(picture));
  });
});

describe("refuses", () => {
  const picture = randomPicture(9, 6, PALETTE, 8, true);
  const [header, palette] = [headerOf(picture), chunk("PLTE", picture.palette)];
  const data = deflateSync(scanlines(picture));
  const whole = file(
    ...[header, chunk("gAMA", random(4)), palette, chunk("tRNS", picture.transparency)],
    ...[chunk("IDAT", data.subarray(0, 40)), chunk("IDAT", data.subarray(40)), chunk("tEXt", random(20)), END],
  );

  test("a file cut off anywhere", async () => {
    for (const interlaced of [false, true]) {
      const png = interlaced ? pngOf({ ...picture, interlaced }, [40]) : whole;
      expectSame(await read(inPieces(png)), greyOf(picture)); // which is whole
      for (let length = 0; length < png.length; length++) {
        await expectRefusal(png.subarray(0, length), "corrupt", /^corrupt PNG: the file ends before its IEND chunk$/);
        await expectRefusal(png.subarray(0, length), "corrupt", /the file ends before its IEND chunk/, 1);
      }
    }
  });

  test("a file cut off in its compressed data, behind rows that were good", async () => {
    const png = pngOf(randomPicture(1000, 2000, GREY, 8));
    for (const length of [1_000_000, png.length - 13, png.length - 1]) {
      const { blocks } = await readPng(inPieces(png.subarray(0, length), 4096), UNLIMITED);
      let good = 0;
      const walk = async () => {
        for await (const block of blocks) good += block.length;
      };
      await expect(walk()).rejects.toThrow("the file ends before its IEND chunk");
      expect(good).toBeGreaterThan(0);
    }
  });

  test("a CRC that is wrong, in every chunk and every bit of it", async () => {
    let seen = "";
    for (const { type, end } of chunksOf(whole)) {
      seen += `${type} `;
      for (let bit = 0; bit < 32; bit++) {
        const broken = Buffer.from(whole);
        broken[end - 4 + (bit >> 3)] ^= 1 << (bit & 7);
        await expectRefusal(
          broken,
          "corrupt",
          new RegExp(`^corrupt PNG: ${type} chunk: expected CRC [0-9a-f]{8}, got [0-9a-f]{8}$`),
        );
      }
    }
    expect(seen).toBe("IHDR gAMA PLTE tRNS IDAT IDAT tEXt IEND ");
  });

  test("a file with any one bit flipped", async () => {
    for (let bit = 0; bit < whole.length * 8; bit++) {
      const broken = Buffer.from(whole);
      broken[bit >> 3] ^= 1 << (bit & 7);
      expect(["too-large", "corrupt"]).toContain((await caught(read(inPieces(broken)))).code);
    }
  });

  const grey = ihdr(4, 3, 8, GREY);
  const idat = chunk("IDAT", deflateSync(Buffer.alloc(15)));
  const packed = (...bytes: number[]) => chunk("IDAT", deflateSync(Uint8Array.from(bytes)));
  const zlib = deflateSync(Buffer.alloc(15));
  const brokenAdler = Buffer.from(zlib);
  brokenAdler[brokenAdler.length - 1] ^= 1;
  const rgb = (count: number) => chunk("PLTE", random(3 * count));
  const cases: [what: string, png: Uint8Array, message: RegExp][] = [
    ["no signature", Buffer.concat([Buffer.alloc(8), grey, idat, END]), /no PNG signature/],
    [
      "a first chunk that is not IHDR",
      file(chunk("gAMA", random(4)), grey, idat, END),
      /first chunk: expected IHDR, got gAMA/,
    ],
    ["an IHDR that is too short", file(chunk("IHDR", random(12))), /IHDR chunk: expected 13 to 13 bytes, got 12/],
    ["an IHDR that is too long", file(chunk("IHDR", random(14))), /IHDR chunk: expected 13 to 13 bytes, got 14/],
    ["a second IHDR", file(grey, grey, idat, END), /IHDR chunk: not expected here/],
    ["no width", file(ihdr(0, 3, 8, GREY), idat, END), /size: expected at least 1 × 1, got 0 × 3/],
    ["no height", file(ihdr(4, 0, 8, GREY), idat, END), /size: expected at least 1 × 1, got 4 × 0/],
    ["another compression", file(ihdr(4, 3, 8, GREY, [1, 0, 0]), idat, END), /expected 0 and 0, got 1 and 0/],
    ["another filter method", file(ihdr(4, 3, 8, GREY, [0, 64, 0]), idat, END), /expected 0 and 0, got 0 and 64/],
    [
      "another interlacing",
      file(ihdr(4, 3, 8, GREY, [0, 0, 2]), idat, END),
      /interlace method: expected 0 or 1, got 2/,
    ],
    [
      "a chunk type that is not letters",
      file(grey, chunk("IDA1"), idat, END),
      /chunk type: expected four letters, got "IDA1"/,
    ],
    [
      "a chunk of 2 GiB",
      file(grey, Buffer.from("80000000", "hex"), Buffer.from("IDAT")),
      /IDAT chunk: expected at most 2147483647 bytes, got 2147483648/,
    ],
    ["a critical chunk it does not know", file(grey, chunk("IDAX"), idat, END), /IDAX chunk: not expected here/],
    ["one behind the data", file(grey, idat, chunk("IDAX"), END), /IDAX chunk: not expected here/],
    ["no IDAT", file(grey, END), /no IDAT chunk/],
    [
      "nothing in IDAT",
      file(grey, chunk("IDAT"), END),
      /compressed data: unexpected end of file|too little image data/,
    ],
    [
      "IDATs apart",
      file(grey, chunk("IDAT", zlib.subarray(0, 5)), chunk("tEXt"), chunk("IDAT", zlib.subarray(5)), END),
      /IDAT chunk: not expected here/,
    ],
    ["an IDAT more", file(grey, idat, chunk("tEXt"), idat, END), /IDAT chunk: not expected here/],
    ["no PLTE", file(ihdr(4, 3, 8, PALETTE), idat, END), /no PLTE chunk before IDAT/],
    ["a PLTE behind the data", file(ihdr(4, 3, 8, PALETTE), idat, rgb(2), END), /no PLTE chunk before IDAT/],
    ["two PLTEs", file(ihdr(4, 3, 8, PALETTE), rgb(2), rgb(2), idat, END), /two PLTE chunks/],
    ["an empty PLTE", file(ihdr(4, 3, 8, PALETTE), rgb(0), idat, END), /PLTE chunk: expected 3 to 768 bytes, got 0/],
    ["257 colours", file(ihdr(4, 3, 8, PALETTE), rgb(257), idat, END), /PLTE chunk: expected 3 to 768 bytes, got 771/],
    [
      "a colour and a third",
      file(ihdr(4, 3, 8, PALETTE), chunk("PLTE", random(4)), idat, END),
      /PLTE chunk: expected triples, got 4 bytes/,
    ],
    [
      "tRNS before PLTE",
      file(ihdr(4, 3, 8, PALETTE), chunk("tRNS", random(1)), rgb(2), idat, END),
      /tRNS chunk before PLTE/,
    ],
    [
      "more alphas than colours",
      file(ihdr(4, 3, 8, PALETTE), rgb(2), chunk("tRNS", random(3)), idat, END),
      /tRNS chunk: expected 0 to 2 bytes, got 3/,
    ],
    [
      "a tRNS of three greys",
      file(grey, chunk("tRNS", random(6)), idat, END),
      /tRNS chunk: expected 2 to 2 bytes, got 6/,
    ],
    [
      "a tRNS of one sample in RGB",
      file(ihdr(1, 1, 8, RGB), chunk("tRNS", random(2)), idat, END),
      /tRNS chunk: expected 6 to 6 bytes, got 2/,
    ],
    ["two tRNS", file(grey, chunk("tRNS", random(2)), chunk("tRNS", random(2)), idat, END), /two tRNS chunks/],
    [
      "an index past the palette",
      file(ihdr(2, 1, 8, PALETTE), rgb(2), packed(0, 1, 2), END),
      /palette index: expected less than 2, got 2/,
    ],
    [
      "one of 4 bits",
      file(ihdr(3, 1, 4, PALETTE), rgb(15), packed(0, 0x11, 0xf0), END),
      /palette index: expected less than 15, got 15/,
    ],
    [
      "one of 2 bits",
      file(ihdr(3, 1, 2, PALETTE), rgb(3), packed(0, 0b00_01_11_00), END),
      /palette index: expected less than 3, got 3/,
    ],
    [
      "one of 1 bit",
      file(ihdr(8, 1, 1, PALETTE), rgb(1), packed(0, 1), END),
      /palette index: expected less than 1, got 1/,
    ],
    ["a row less", file(ihdr(4, 4, 8, GREY), idat, END), /too little image data/],
    ["a byte less", file(grey, chunk("IDAT", deflateSync(Buffer.alloc(14))), END), /too little image data/],
    ["a byte more", file(grey, chunk("IDAT", deflateSync(Buffer.alloc(16))), END), /too much image data/],
    ["a row more", file(ihdr(4, 2, 8, GREY), idat, END), /too much image data/],
    ["a pass less", file(ihdr(4, 3, 8, GREY, [0, 0, 1]), idat, END), /too little image data/],
    ["a byte more, interlaced", file(ihdr(1, 1, 8, GREY, [0, 0, 1]), packed(0, 1, 2), END), /too much image data/],
    [
      "data that are not zlib's",
      file(grey, chunk("IDAT", Buffer.alloc(30)), END),
      /compressed data: unknown compression method/,
    ],
    [
      "data that are cut off",
      file(grey, chunk("IDAT", zlib.subarray(0, -5)), END),
      /compressed data: unexpected end of file/,
    ],
    [
      "a checksum that is cut off",
      file(grey, chunk("IDAT", zlib.subarray(0, -1)), END),
      /compressed data: unexpected end of file/,
    ],
    ["a checksum that is wrong", file(grey, chunk("IDAT", brokenAdler), END), /compressed data: incorrect data check/],
    [
      "a dictionary",
      file(grey, chunk("IDAT", deflateSync(Buffer.alloc(15), { dictionary: Buffer.from("sobel") })), END),
      /compressed data: missing dictionary/i,
    ],
    [
      "a byte behind the compressed data",
      file(grey, chunk("IDAT", Buffer.concat([zlib, Buffer.alloc(1)])), END),
      /expected to end with IDAT, 1 bytes follow/,
    ],
    [
      "a byte behind them in an IDAT of its own",
      file(grey, idat, chunk("IDAT", Buffer.alloc(1)), END),
      /expected to end with IDAT, 1 bytes follow/,
    ],
    [
      "many bytes behind them",
      file(grey, idat, chunk("IDAT", random(1_000_000)), END),
      /expected to end with IDAT, \d+ bytes follow/,
    ],
    [
      "a second zlib stream behind the first",
      file(grey, idat, idat, END),
      /expected to end with IDAT, \d+ bytes follow/,
    ],
  ];
  test.each(cases)("%s", async (_what, png, message) => {
    for (const size of [png.length, 1 + (png.length >> 6)]) await expectRefusal(png, "corrupt", message, size);
  });

  test("a row filter above 4, whatever the pixels are and on whichever line", async () => {
    for (const [, colour, depth] of KINDS) {
      for (const interlaced of [false, true]) {
        for (const line of [0, 3, 6]) {
          for (const filter of [5, 255]) {
            const broken = { ...randomPicture(7, 7, colour, depth), interlaced };
            broken.filter = (i) => (i === line ? filter : 0);
            await expectRefusal(pngOf(broken), "corrupt", new RegExp(`row filter: expected 0 to 4, got ${filter}$`));
          }
        }
      }
    }
  });

  test("every colour type and depth that there is not", async () => {
    const known = KINDS.map(([, colour, depth]) => `${colour} ${depth}`);
    for (let colour = 0; colour < 256; colour += colour < 9 ? 1 : 13) {
      for (const depth of [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 24, 32, 255]) {
        if (known.includes(`${colour} ${depth}`)) continue;
        const message = new RegExp(`^corrupt PNG: colour type ${colour} with ${depth} bits a sample$`);
        await expectRefusal(file(ihdr(4, 3, depth, colour), idat, END), "corrupt", message);
      }
    }
  });

  test("more pixels than the limit, on the header alone", async () => {
    for (const [width, height, interlace, limits, limit] of [
      [2 ** 31 - 1, 2 ** 31 - 1, 0, UNLIMITED, 1e9],
      [2 ** 31, 2 ** 31, 0, UNLIMITED, 1e9],
      [50_000, 50_000, 0, UNLIMITED, 1e9],
      [1_000_000_001, 1, 0, UNLIMITED, 1e9],
      [4, 3, 0, { streamed: 11, whole: 1e9 }, 11],
      [4, 3, 1, { streamed: 1e9, whole: 11 }, 11],
    ] as const) {
      const png = file(ihdr(width, height, 8, GREY, [0, 0, interlace]), idat, END);
      let given = 0;
      const counted = async function* () {
        for await (const piece of inPieces(png, 1)) {
          given++;
          yield piece;
        }
      };
      const error = await caught(readPng(counted(), limits));
      expect([error.code, error.message]).toEqual([
        "too-large",
        `image too large: expected at most ${limit} pixels, got ${width} × ${height}`,
      ]);
      expect(given).toBe(8 + header.length);
    }
    const limits = { streamed: 12, whole: 11 };
    expectSame(await read(inPieces(file(grey, idat, END)), limits), new Uint8Array(12), "at the limit");
  });

  test("a bomb: a gigabyte in 1 MB, of which no more is inflated than the header promises", async () => {
    const zeros = deflateRawSync(Buffer.alloc(1 << 24), { finishFlush: constants.Z_SYNC_FLUSH });
    const data = [Buffer.from("7801", "hex"), ...Array(64).fill(zeros)];
    const png = file(ihdr(100, 100, 8, GREY), ...data.map((part) => chunk("IDAT", part)), END);
    let given = 0;
    const counted = async function* () {
      for await (const piece of inPieces(png, 1000)) {
        given += piece.length;
        yield piece;
      }
    };
    const error = await caught(read(counted()));
    expect(error.message).toBe("corrupt PNG: too much image data");
    expect(given).toBeLessThan(700_000);
  });
});

test("a file that goes on and on and says nothing leaves others their turn", async () => {
  // A block of codes of its own that holds nothing but its end, 91 bits: the lengths told are 138 and 118 zeros, 1 and 0.
  const bits: number[] = [];
  const put = (value: number, length: number) => {
    for (let i = 0; i < length; i++) bits.push((value >> i) & 1);
  };
  for (let block = 0; block < 8; block++) {
    for (const [value, length] of [
      [0b100, 3],
      [0, 5],
      [0, 5],
      [14, 4],
    ])
      put(value, length);
    for (let i = 0; i < 18; i++) put(i === 2 ? 1 : i === 3 || i === 17 ? 2 : 0, 3);
    for (const [value, length] of [
      [0, 1],
      [127, 7],
      [0, 1],
      [107, 7],
      [0b11, 2],
      [0b01, 2],
      [0, 1],
    ])
      put(value, length);
  }
  const eight = Buffer.alloc(bits.length / 8);
  bits.forEach((bit, at) => {
    eight[at >> 3] |= bit << (at & 7);
  });
  const endless = Buffer.concat([Buffer.from("7801", "hex"), ...Array(20_000).fill(eight)]);
  let turns = 0;
  const others = setInterval(() => turns++, 0);
  const error = await caught(read(inPieces(file(ihdr(1, 1, 8, GREY), chunk("IDAT", endless), END), 65_536)));
  clearInterval(others);
  expect(error.message).toBe("corrupt PNG: compressed data: unexpected end of file");
  expect(turns).toBeGreaterThan(3);
});

test("an error of the source comes out as it is", async () => {
  const png = pngOf(randomPicture(33, 21, RGB, 8), [100]);
  for (const error of [new TypeError("socket hang up"), Object.assign(new Error("reset"), { code: "ECONNRESET" })]) {
    for (const size of [1, 64]) {
      for (let length = 0; length < png.length; length += 1 + (png.length >> 7)) {
        const failing = async function* () {
          yield* inPieces(png.subarray(0, length), size);
          throw error;
        };
        const got = await read(failing()).catch((thrown) => thrown);
        if (got !== error) expect({ length, got }).toEqual({ length, got: error });
      }
    }
  }
});

describe("a band", () => {
  // prettier-ignore
  const grey = Uint8Array.of(0, 1, 3, 7, 15, 255, 255, 255, 255, 255, 9, 8, 250, 0, 0);

  test("is these bytes", async () => {
    expect(hexOf(await encodeBand(grey, 5, 3))).toEqual([
      "89504e470d0a1a0a",
      "0000000d IHDR 00000005000000030800000000 7e5d9a24",
      "00000001 soBD 01 8b19696e",
      "00000002 IDAT 7801 ec1a7ed2",
      "0000001d IDAT ecc1810d000004c0b04d44f8ff530f70492b46b607e0dc160f0000ffff f006c5b6",
      "00000006 IDAT 030013040312 2b531948",
      "00000000 IEND  ae426082",
    ]);
  });

  test("stored is these bytes", () => {
    expect(hexOf(encodeStored(grey, 5, 3))).toEqual([
      "89504e470d0a1a0a",
      "0000000d IHDR 00000005000000030800000000 7e5d9a24",
      "0000001d IDAT 7801011200edff00000103070f00ffffffffff000908fa000031820621 3dfc0a63",
      "00000000 IEND  ae426082",
    ]);
  });

  test("is the picture to anyone, compressed or stored", async () => {
    // A stored block of deflate has 65,535 bytes: of these it ends with a row, behind a row's filter, and elsewhere.
    for (const width of [...WIDTHS, 257, 65_533, 65_534, 70_000]) {
      for (const rows of [1, 2, 13]) {
        const pixels = random(width * rows, chance() < 0.5 ? 2 : 256);
        for (const png of [await encodeBand(pixels, width, rows), Buffer.from(encodeStored(pixels, width, rows))]) {
          expectPicture(png, pixels, width, rows);
          expectSame(await read(inPieces(png)), pixels, `${width} × ${rows}, by readPng`);
        }
      }
    }
  });

  test("has no final block in its middle chunk, so that another can follow", async () => {
    const [, , data] = chunksOf(await encodeBand(grey, 5, 3)).filter(({ type }) => type === "IDAT" || type === "soBD");
    expect(Buffer.from(data.payload.subarray(-4)).toString("hex")).toBe("0000ffff"); // an empty stored block
    expect(data.payload[0] & 1).toBe(0);
  });
});

describe("stitched", () => {
  test("random pictures, cut anywhere, are whole", async () => {
    for (let i = 0; i < 60; i++) {
      const width = [1, 2, 7, 33, 257, 65_521][i % 6];
      const height = 1 + Math.floor(chance() * (i % 6 === 5 ? 4 : 40));
      const pixels = random(width * height, i % 2 ? 256 : 3);
      expectPicture(await stitched(pixels, width, randomSplit(height)), pixels, width, height);
    }
  });

  test("one band for every row, and one for all, are the same pixels", async () => {
    const pixels = random(33 * 64);
    for (const rows of [Array(64).fill(1), [64]]) expectPicture(await stitched(pixels, 33, rows), pixels, 33, 64);
  });

  test("is these bytes", async () => {
    const png = await stitched(Uint8Array.of(1, 2, 3, 4, 5, 6), 2, [1, 2]);
    expect(hexOf(png)).toEqual([
      "89504e470d0a1a0a",
      "0000000d IHDR 00000002000000030800000000 9c81815d",
      "00000002 IDAT 7801 ec1a7ed2",
      "00000012 IDAT ecc101090000000090fc3f6d09080000ffff 8e3ab022",
      "00000015 IDAT ecc10109000000c320e4bc7fe52551e3020000ffff 43315e14",
      "00000006 IDAT 030000480010 d55ca772",
      "00000000 IEND  ae426082",
    ]);
  });

  test("gives each band's chunk as a view, not a copy", async () => {
    const png = await encodeBand(random(12), 4, 3);
    const copied = new Stitcher(4, 3).band(png, 3)!;
    expect(copied.buffer).toBe(png.buffer);
  });

  test("bands may lie anywhere in memory", async () => {
    const png = await encodeBand(random(12), 4, 3);
    const shifted = new Uint8Array(png.length + 7).subarray(3, 3 + png.length);
    shifted.set(png);
    expectSame(new Stitcher(4, 3).band(shifted, 3)!, new Stitcher(4, 3).band(png, 3)!);
  });

  test.skipIf(spawnSync("pngcheck", ["-h"]).error !== undefined)("pleases pngcheck", async () => {
    const folder = mkdtempSync(join(tmpdir(), "stitched-"));
    afterAll(() => rmSync(folder, { recursive: true }));
    const pixels = random(257 * 90);
    const path = join(folder, "stitched.png");
    for (const png of [await stitched(pixels, 257, [1, 20, 69]), await encodeBand(pixels, 257, 90)]) {
      writeFileSync(path, png);
      const { status, stdout } = spawnSync("pngcheck", ["-v", path], { encoding: "utf8" });
      expect({ status, said: stdout }).toEqual({ status: 0, said: expect.stringContaining("No errors detected") });
    }
    writeFileSync(path, pngOf({ ...randomPicture(9, 5, GREY, 8), filter: () => 5 }));
    expect(spawnSync("pngcheck", [path]).status).not.toBe(0); // it does look at the rows
  });

  test("refuses to end before the last row, or past it", async () => {
    const bands = await Promise.all([1, 2, 2].map((rows) => encodeBand(random(4 * rows), 4, rows)));
    const stitcher = new Stitcher(4, 4);
    expect(() => stitcher.tail()).toThrow(new RangeError("stitch: expected 4 rows, got 0"));
    stitcher.band(bands[0], 1);
    stitcher.band(bands[1], 2);
    expect(() => stitcher.tail()).toThrow(new RangeError("stitch: expected 4 rows, got 3"));
    stitcher.band(bands[2], 2);
    expect(() => stitcher.tail()).toThrow(new RangeError("stitch: expected 4 rows, got 5"));
  });
});

describe("a band that is not ours is known by", () => {
  const pixels = random(7 * 3);

  test("its layout", async () => {
    const ours = Buffer.from(await encodeBand(pixels, 7, 3));
    const [header, mark, first, middle, last, end] = chunksOf(ours).map((part) => ours.subarray(part.at, part.end));
    expectSame(file(header, mark, first, middle, last, end), ours, "taken apart and put together");
    expect(new Stitcher(7, 3).band(ours, 3)).toBeDefined();
    const joined = chunk("IDAT", Buffer.concat([first, middle, last].map((part) => part.subarray(8, -4))));
    const others: Record<string, Uint8Array> = {
      "no bytes": new Uint8Array(0),
      "a JPEG": Buffer.from("ffd8ffe000104a464946", "hex"),
      stored: Buffer.from(encodeStored(pixels, 7, 3)),
      "by fast-png": encode({ width: 7, height: 3, data: pixels, channels: 1, depth: 8 }),
      unmarked: file(header, first, middle, last, end),
      "marked otherwise": file(header, chunk("soBD", Uint8Array.of(2)), first, middle, last, end),
      "one IDAT": file(header, mark, joined, end),
      "no middle": file(header, mark, first, last, end),
      "a chunk more": file(header, mark, first, middle, chunk("tEXt"), last, end),
      "a chunk of another name": file(header, mark, first, chunk("IDAX", middle.subarray(8, -4)), last, end),
      RGB: file(ihdr(7, 3, 8, RGB), mark, first, middle, last, end),
      interlaced: file(ihdr(7, 3, 8, GREY, [0, 0, 1]), mark, first, middle, last, end),
      "bytes behind": Buffer.concat([ours, Buffer.alloc(1)]),
      "bytes before": Buffer.concat([Buffer.alloc(1), ours]),
      "another end of the data": file(
        header,
        mark,
        first,
        middle,
        chunk("IDAT", Buffer.from("010000ffff", "hex")),
        end,
      ),
    };
    for (const [what, png] of Object.entries(others)) {
      expect([what, new Stitcher(7, 3).band(png, 3)]).toEqual([what, undefined]);
    }
  });

  test("its size", async () => {
    const ours = await encodeBand(pixels, 7, 3);
    expect(new Stitcher(8, 9).band(ours, 3)).toBeUndefined();
    expect(new Stitcher(3, 9).band(ours, 7)).toBeUndefined();
    for (const rows of [0, 1, 2, 4]) expect(new Stitcher(7, 9).band(ours, rows)).toBeUndefined();
  });

  test("any byte that it lacks", async () => {
    const ours = await encodeBand(pixels, 7, 3);
    for (let length = 0; length < ours.length; length++) {
      expect([length, new Stitcher(7, 3).band(ours.subarray(0, length), 3)]).toEqual([length, undefined]);
    }
  });

  test("any bit that has flipped", async () => {
    const ours = await encodeBand(pixels, 7, 3);
    for (let bit = 0; bit < ours.length * 8; bit++) {
      const broken = Uint8Array.from(ours);
      broken[bit >> 3] ^= 1 << (bit & 7);
      expect([bit, new Stitcher(7, 3).band(broken, 3)]).toEqual([bit, undefined]);
    }
  });

  test("and leaves the picture as it was", async () => {
    const [ours, foreign] = [await encodeBand(pixels, 7, 3), Buffer.from(encodeStored(pixels, 7, 3))];
    const stitcher = new Stitcher(7, 3);
    expect(stitcher.band(foreign, 3)).toBeUndefined();
    const png = Buffer.concat([stitcher.head(), stitcher.band(ours, 3)!, stitcher.tail()]);
    expectPicture(png, pixels, 7, 3);
  });
});

describe("combineAdler", () => {
  test("is zlib's checksum of the whole", () => {
    const lengths = [0, 1, 2, 1000, 65_519, 65_520, 65_521, 65_522, 131_041, 131_042, 200_000];
    for (const first of lengths) {
      for (const second of lengths) {
        for (const fill of [0, 255, undefined]) {
          const whole = fill === undefined ? random(first + second) : new Uint8Array(first + second).fill(fill);
          const parts = [whole.subarray(0, first), whole.subarray(first)];
          const combined = combineAdler(adlerOf(parts[0]), adlerOf(parts[1]), second);
          expect({ first, second, fill, combined }).toEqual({ first, second, fill, combined: adlerOf(whole) });
        }
      }
    }
  });

  test("holds where a sum is a multiple of 65521", () => {
    const full = new Uint8Array(257).fill(255, 0, 256).fill(240, 256); // 1 + 256 · 255 + 240 = 65521
    expect(adlerOf(full) & 0xffff).toBe(0);
    for (const parts of [
      [full, new Uint8Array(0)],
      [full, Uint8Array.of(255, 255, 255)],
      [full, full],
      [Uint8Array.of(7), full],
      [full, new Uint8Array(65_520)],
      ...Array.from({ length: 20 }, (_, i) => [full, random(65_500 - i)]),
    ]) {
      const combined = combineAdler(adlerOf(parts[0]), adlerOf(parts[1]), parts[1].length);
      expect(combined).toBe(adlerOf(Buffer.concat(parts)));
    }
  });

  test("holds for lengths past 32 bits", () => {
    // Of n zero bytes the sums are 1 and n.
    const zeros = (n: number) => (((n % 65_521) << 16) | 1) >>> 0;
    expect(zeros(70_000)).toBe(adlerOf(new Uint8Array(70_000)));
    for (const [a, b] of [
      [3_000_000_000, 2_000_000_000],
      [1, 2 ** 40],
      [2 ** 45, 2 ** 32 + 1],
    ]) {
      expect(combineAdler(zeros(a), zeros(b), b)).toBe(zeros(a + b));
    }
    // Behind other bytes each zero adds the first sum to the second once more.
    const [low, high] = [0xfff0, 0x1234];
    for (const length of [70_000, 2 ** 31 + 5, 2 ** 32 + 9, 2 ** 45 + 3]) {
      const sum = (BigInt(high) + BigInt(length) * BigInt(low)) % 65_521n;
      expect(combineAdler(high * 65_536 + low, zeros(length), length)).toBe(Number(sum) * 65_536 + low);
    }
  });
});

function file(...chunks: Uint8Array[]): Buffer {
  return Buffer.concat([SIGNATURE, ...chunks]);
}

async function expectRefusal(png: Uint8Array, code: ImageErrorCode, message: RegExp, size = png.length): Promise<void> {
  const error = await caught(read(inPieces(png, size)));
  expect({ code: error.code, message: error.message }).toEqual({
    code,
    message: expect.stringMatching(message),
  });
}

async function caught(promise: Promise<unknown>): Promise<ImageError> {
  const error = await promise.then(
    () => "no error",
    (thrown) => thrown,
  );
  expect(error).toBeInstanceOf(ImageError);
  return error;
}

interface Part {
  type: string;
  at: number;
  end: number;
  payload: Buffer;
}

function chunksOf(png: Uint8Array): Part[] {
  const bytes = Buffer.from(png.buffer, png.byteOffset, png.byteLength);
  const parts: Part[] = [];
  for (let at = 8; at < bytes.length; at = parts.at(-1)!.end) {
    const end = at + 12 + bytes.readUInt32BE(at);
    parts.push({ type: bytes.toString("latin1", at + 4, at + 8), at, end, payload: bytes.subarray(at + 8, end - 4) });
  }
  return parts;
}

/** The signature, then a line a chunk: length, type, payload, CRC. */
function hexOf(png: Uint8Array): string[] {
  const chunks = chunksOf(png).map(({ at, end, type, payload }) => {
    const bytes = Buffer.from(png.buffer, png.byteOffset + at, end - at).toString("hex");
    return [bytes.slice(0, 8), type, payload.toString("hex"), bytes.slice(-8)].join(" ");
  });
  return [Buffer.from(png.subarray(0, 8)).toString("hex"), ...chunks];
}

/** By fast-png, which checks the CRCs, and by zlib, which checks the Adler-32. */
function expectPicture(png: Uint8Array, pixels: Uint8Array, width: number, height: number): void {
  const what = `${width} × ${height}`;
  const decoded = decode(png, { checkCrc: true });
  expect([decoded.width, decoded.height, decoded.channels, decoded.depth]).toEqual([width, height, 1, 8]);
  expectSame(decoded.data as Uint8Array, pixels, what);
  const idats = chunksOf(png).filter(({ type }) => type === "IDAT");
  const lines = inflateSync(Buffer.concat(idats.map(({ payload }) => payload)));
  expect({ what, inflated: lines.length }).toEqual({ what, inflated: height * (1 + width) });
}

async function stitched(pixels: Uint8Array, width: number, bands: number[]): Promise<Buffer> {
  const stitcher = new Stitcher(width, pixels.length / width);
  const parts = [stitcher.head()];
  let at = 0;
  for (const rows of bands) {
    const png = await encodeBand(pixels.subarray(at, at + rows * width), width, rows);
    const band = stitcher.band(png, rows);
    if (!band) throw new Error(`band at ${at}: expected to be known`);
    parts.push(band);
    at += rows * width;
  }
  return Buffer.concat([...parts, stitcher.tail()]);
}

function randomSplit(height: number): number[] {
  const bands: number[] = [];
  for (let left = height; left > 0; left -= bands.at(-1)!) bands.push(1 + Math.floor(chance() * left));
  return bands;
}

function adlerOf(bytes: Uint8Array): number {
  return deflateSync(bytes, { level: 0 }).subarray(-4).readUInt32BE();
}

/** Samples below 8 bits, and palette indices, come back from fast-png as packed as they were. */
function samplesByFastPng(png: Uint8Array): Uint16Array {
  const { width, height, depth, channels, data } = decode(png, { checkCrc: true });
  if (depth >= 8) return Uint16Array.from(data);
  const stride = Math.ceil((width * channels * depth) / 8);
  return Uint16Array.from({ length: width * height }, (_, i) => {
    const bit = (i % width) * depth;
    return (data[Math.floor(i / width) * stride + (bit >> 3)] >> (8 - depth - (bit & 7))) & ((1 << depth) - 1);
  });
}

async function greyBySharp(png: Uint8Array): Promise<Uint8Array> {
  const { data, info } = await sharp(png).raw().toBuffer({ resolveWithObject: true });
  return Uint8Array.from({ length: info.width * info.height }, (_, i) => {
    return over([...data.subarray(i * info.channels, (i + 1) * info.channels)]);
  });
}

describe("decodeStored", () => {
  const pixels = Uint8Array.from({ length: 21 }, (_, i) => i * 11);
  const stored = Buffer.from(encodeStored(pixels, 7, 3));
  /** The same file with other zlib data, its CRC mended. */
  const withData = (data: Uint8Array) => {
    const idat = Buffer.concat([Buffer.from("IDAT"), data]);
    const [length, crc] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    crc.writeUInt32BE(crc32(idat));
    return Buffer.concat([stored.subarray(0, 33), length, idat, crc, stored.subarray(-12)]);
  };

  test("gives back what encodeStored took, small and larger than a stored block", () => {
    expect(decodeStored(stored)).toEqual({ width: 7, height: 3, pixels });
    const large = Uint8Array.from({ length: 500 * 300 }, (_, i) => (i * 7919) >> 5);
    expect(Buffer.compare(decodeStored(Buffer.from(encodeStored(large, 500, 300)))!.pixels, large)).toBe(0);
  });

  test("leaves alone whatever is harmed: every bit flipped, every length cut", () => {
    for (let bit = 0; bit < stored.length * 8; bit++) {
      const harmed = Uint8Array.from(stored);
      harmed[bit >> 3] ^= 1 << (bit & 7);
      expect(decodeStored(harmed)).toBeUndefined();
    }
    for (let length = 0; length < stored.length; length++)
      expect(decodeStored(stored.subarray(0, length))).toBeUndefined();
  });

  test("leaves alone what is not as encodeStored makes it: compressed, filtered, too long, bytes behind", () => {
    const lines = Buffer.from(Array.from({ length: 3 }, (_, y) => [0, ...pixels.subarray(y * 7, y * 7 + 7)]).flat());
    const data = deflateSync(lines, { level: 0 });
    expect(decodeStored(withData(data))).toEqual({ width: 7, height: 3, pixels });
    expect(decodeStored(withData(deflateSync(Buffer.alloc(24))))).toBeUndefined();
    expect(decodeStored(withData(Buffer.concat([data, Buffer.from("behind")])))).toBeUndefined();
    expect(decodeStored(withData(deflateSync(Buffer.concat([lines, lines]), { level: 0 })))).toBeUndefined();
    lines[8] = 1;
    expect(decodeStored(withData(deflateSync(lines, { level: 0 })))).toBeUndefined();
  });
});
