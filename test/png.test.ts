// Reading PNGs: every kind, in pieces of every size, from sources that stall or fail, and every fault a file can have.
// Writing PNGs: the bytes of a band, and that stitched bands are the picture. The oracles: the writer and the grey of
// pictures.ts (written from the specification), fast-png, libvips, zlib, pngcheck.
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { constants, crc32, deflateRawSync, deflateSync, inflateSync } from "node:zlib";
import { decode, encode } from "fast-png";
import sharp from "sharp";
import { type Channels, ImageError, type ImageErrorCode } from "../picture/picture.ts";
import { combineAdler } from "../picture/png-format.ts";
import { readPng } from "../picture/png-read.ts";
import { decodeStored, encodeBand, encodeStored, Stitcher } from "../picture/png-write.ts";
import {
  adlerOf,
  chance,
  channelsOf,
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
import { sleep, until, within } from "./wait.ts";

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
            for (const channels of [3, 4] as const) {
              const got = await read(inPieces(png), UNLIMITED, channels);
              expectSame(got, channelsOf(picture, channels), `${what}, in ${channels} channels`);
            }
            if (transparent) continue;
            // Other readers check the writer of this test. Fast-png misreads interlaced samples below 8 bits.
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

    test("pictures of more than one block, and lines longer than a block", async () => {
      for (const [width, height, colour, depth] of [
        [301, 1000, RGB, 8],
        [1201, 999, GREY, 4],
        [90_001, 3, RGBA, 8],
        [40_001, 9, RGB, 16],
      ]) {
        const picture = { ...randomPicture(width, height, colour, depth), interlaced };
        expectSame(await read(inPieces(pngOf(picture), 10_007)), greyOf(picture), `${width} × ${height}`);
        expectSame(await read(inPieces(pngOf(picture), 10_007), UNLIMITED, 3), channelsOf(picture, 3));
      }
    });

    test("the same rows, in pieces of any size", async () => {
      const picture = { ...randomPicture(33, 21, RGB, 8, true), interlaced };
      const png = pngOf(picture);
      for (const size of [1, 2, 3, 5, 7, 11, 13, 97, 1009]) {
        expectSame(await read(inPieces(png, size)), greyOf(picture), `pieces of ${size}`);
      }
      const withEmptyPieces = async function* () {
        for await (const piece of inPieces(png, 31)) yield* [new Uint8Array(0), piece, new Uint8Array(0)];
      };
      expectSame(await read(withEmptyPieces()), greyOf(picture), "empty pieces");
    });

    test("the same rows, with IDATs of any size", async () => {
      const picture = { ...randomPicture(33, 21, RGB, 8), interlaced };
      for (const sizes of [[1], [2], [0, 0, 1, 0, 1, 7], [1000, 0, 1], [17, 8192]]) {
        const png = pngOf(picture, sizes);
        for (const size of [1, 13, png.length]) {
          expectSame(await read(inPieces(png, size)), greyOf(picture), `IDATs of ${sizes}, pieces of ${size}`);
        }
      }
    });
  });

  test("the size before the rows, and blocks of whole rows", async () => {
    const picture = randomPicture(1000, 1200, GREY, 8);
    const { width, height, blocks } = await readPng(inPieces(pngOf(picture)), UNLIMITED);
    expect([width, height]).toEqual([1000, 1200]);
    const lengths: number[] = [];
    for await (const block of blocks) lengths.push(block.length);
    expect(lengths.length).toBeGreaterThan(2);
    expect(lengths.filter((length) => length % width !== 0 || length === 0)).toEqual([]);
  });

  test("rows before the end of the file has arrived", async () => {
    const png = pngOf(randomPicture(1000, 2000, GREY, 8));
    const { source, seen } = watched(png, 1000);
    const { blocks } = await readPng(source, UNLIMITED);
    await blocks[Symbol.asyncIterator]().next();
    expect(seen.bytes).toBeLessThan(png.length / 2);
  });

  test("data compressed in any way: strategies, levels, windows, flushes", async () => {
    const { Z_DEFAULT_STRATEGY, Z_FILTERED, Z_FIXED, Z_HUFFMAN_ONLY, Z_RLE } = constants;
    const picture = randomPicture(301, 200, RGB, 8);
    const [lines, grey] = [scanlines(picture), greyOf(picture)];
    for (const strategy of [Z_DEFAULT_STRATEGY, Z_FILTERED, Z_FIXED, Z_HUFFMAN_ONLY, Z_RLE]) {
      for (const options of [{ level: 0 }, { level: 1, windowBits: 9, memLevel: 1 }, { level: 9 }]) {
        const data = deflateSync(lines, { ...options, strategy });
        const png = file(headerOf(picture), chunk("IDAT", data), END);
        expectSame(await read(inPieces(png, 7001)), grey, `strategy ${strategy}, ${JSON.stringify(options)}`);
      }
    }
    const flushed = [Buffer.from("7801", "hex")];
    for (let at = 0; at < lines.length; at += 20_000) {
      const options = { level: at % 3, finishFlush: constants.Z_SYNC_FLUSH };
      flushed.push(deflateRawSync(lines.subarray(at, at + 20_000), options), deflateRawSync(Buffer.alloc(0), options));
    }
    const end = Buffer.from("030000000000", "hex");
    end.writeUInt32BE(adlerOf(lines), 2);
    const idats = [...flushed, end].map((data) => chunk("IDAT", data));
    expectSame(await read(inPieces(file(headerOf(picture), ...idats, END), 7001)), grey, "flushed");
  });

  test("files with unknown ancillary chunks anywhere, and with a suggested palette", async () => {
    const picture = randomPicture(9, 5, RGB, 8);
    const [header, data] = [headerOf(picture), chunk("IDAT", deflateSync(scanlines(picture)))];
    const text = chunk("tEXt", random(1000));
    const png = file(header, text, chunk("PLTE", random(27)), chunk("zzZz"), data, text, END);
    for (const size of [1, png.length]) expectSame(await read(inPieces(png, size)), greyOf(picture));
  });

  test("nothing after IEND", async () => {
    const picture = randomPicture(9, 5, RGB, 8);
    for (const rest of [Buffer.alloc(1), random(100_000), pngOf(picture)]) {
      expectSame(await read(inPieces(Buffer.concat([pngOf(picture), rest]), 1000)), greyOf(picture));
    }
  });

  test("tRNS: only the bits of the depth, fewer alphas than colours, ignored beside alpha", async () => {
    for (const [, colour, depth] of KINDS.filter(([, colour]) => colour === GREY || colour === RGB)) {
      const picture = randomPicture(33, 5, colour, depth, true);
      const surplus = picture.transparency!.slice();
      if (depth < 16) for (let i = 0; i < surplus.length; i += 2) surplus[i] = 0xab;
      if (depth < 8) surplus[1] |= 0xff << depth;
      expectSame(await read(inPieces(pngOf({ ...picture, transparency: surplus }))), greyOf(picture), `${depth} bits`);
    }
    const palette = { ...randomPicture(33, 5, PALETTE, 4, true), transparency: Uint8Array.of(0, 128) };
    expectSame(await read(inPieces(pngOf(palette))), greyOf(palette), "two alphas");
    for (const colour of [GREY_ALPHA, RGBA]) {
      const picture = randomPicture(33, 5, colour, 8);
      const png = pngOf({ ...picture, transparency: Uint8Array.of(0, 0, 0, 0, 0, 0) });
      expectSame(await read(inPieces(png)), greyOf(picture), `colour type ${colour}`);
    }
  });

  test("padding bits that would be indices beyond the palette", async () => {
    const palette = Uint8Array.of(10, 20, 30, 40, 50, 60);
    const line = Uint8Array.of(0, 0b01_00_01_11); // three pixels, and two bits to spare
    const png = file(ihdr(3, 1, 2, PALETTE), chunk("PLTE", palette), chunk("IDAT", deflateSync(line)), END);
    const picture = { width: 3, height: 1, colour: PALETTE, depth: 2, samples: Uint16Array.of(1, 0, 1), palette };
    expectSame(await read(inPieces(png)), greyOf(picture));
  });
});

describe("what cannot change a pixel does not refuse a picture, as in libpng", () => {
  const black = Buffer.alloc(15);
  const [grey, rows] = [ihdr(4, 3, 8, GREY), deflateSync(black)];
  const idat = chunk("IDAT", rows);
  const palette = (...samples: number[]) => chunk("PLTE", Uint8Array.from(samples));
  const packed = (...bytes: number[]) => chunk("IDAT", deflateSync(Uint8Array.from(bytes)));
  const zeros = Array<number>(12).fill(0);
  const cases: [what: string, png: Uint8Array, pixels: number[]][] = [
    ["more rows than the header says", file(grey, chunk("IDAT", deflateSync(Buffer.alloc(99))), END), zeros],
    ["a byte too many, interlaced", file(ihdr(1, 1, 8, GREY, [0, 0, 1]), packed(0, 7, 2), END), [7]],
    ["a byte behind the compressed data", file(grey, chunk("IDAT", Buffer.concat([rows, black])), END), zeros],
    ["many bytes behind it, in another IDAT", file(grey, idat, chunk("IDAT", random(1_000_000)), END), zeros],
    ["a second stream behind it", file(grey, idat, idat, END), zeros],
    ["a tRNS of three greys", file(grey, chunk("tRNS", Buffer.alloc(6)), idat, END), zeros],
    ["an empty tRNS", file(grey, chunk("tRNS", Buffer.alloc(0)), idat, END), zeros],
    [
      "a second tRNS",
      file(grey, chunk("tRNS", Uint8Array.of(0, 9)), chunk("tRNS", black.subarray(2)), idat, END),
      zeros,
    ],
    [
      "a tRNS of one sample in RGB",
      file(ihdr(1, 1, 8, RGB), chunk("tRNS", black.subarray(2)), packed(0, 0, 0, 0), END),
      [0],
    ],
    [
      "a tRNS before PLTE",
      file(ihdr(1, 1, 8, PALETTE), chunk("tRNS", black), palette(5, 5, 5), packed(0, 0), END),
      [5],
    ],
    [
      "more alphas than colours",
      file(ihdr(1, 1, 8, PALETTE), palette(5, 5, 5), chunk("tRNS", black), packed(0, 0), END),
      [5],
    ],
    ["a PLTE that is no palette", file(grey, chunk("PLTE", random(4)), idat, END), zeros],
    [
      "an index beyond the palette: black",
      file(ihdr(2, 1, 8, PALETTE), palette(9, 9, 9), packed(0, 0, 1), END),
      [9, 0],
    ],
    [
      "an index of 1 bit beyond it",
      file(ihdr(8, 1, 1, PALETTE), palette(9, 9, 9), packed(0, 1), END),
      [9, 9, 9, 9, 9, 9, 9, 0],
    ],
  ];
  test.each(cases)("%s", async (_what, png, pixels) => {
    for (const size of [png.length, 7]) expectSame(await read(inPieces(png, size)), Uint8Array.from(pixels));
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
      expectSame(await read(inPieces(png)), greyOf(picture)); // the whole file
      for (let length = 0; length < png.length; length++) {
        await expectRefusal(png.subarray(0, length), "corrupt", /^corrupt PNG: the file ends before its IEND chunk$/);
        await expectRefusal(png.subarray(0, length), "corrupt", /the file ends before its IEND chunk/, 1);
      }
    }
  });

  test("a file cut off in its compressed data, after valid rows", async () => {
    const png = pngOf(randomPicture(1000, 2000, GREY, 8));
    for (const length of [1_000_000, png.length - 13, png.length - 1]) {
      const { blocks } = await readPng(inPieces(png.subarray(0, length), 4096), UNLIMITED);
      let valid = 0;
      const walk = async () => {
        for await (const block of blocks) valid += block.length;
      };
      await expect(walk()).rejects.toThrow("the file ends before its IEND chunk");
      expect(valid).toBeGreaterThan(0);
    }
  });

  test("a wrong CRC: every chunk but metadata, every bit of the CRC", async () => {
    let seen = "";
    for (const { type, end } of chunksOf(whole)) {
      seen += `${type} `;
      for (let bit = 0; bit < 32; bit++) {
        const broken = Buffer.from(whole);
        broken[end - 4 + (bit >> 3)] ^= 1 << (bit & 7);
        if (["gAMA", "tEXt"].includes(type)) {
          expectSame(await read(inPieces(broken)), await read(inPieces(whole)));
          continue;
        }
        await expectRefusal(
          broken,
          "corrupt",
          new RegExp(`^corrupt PNG: ${type} chunk: expected CRC [0-9a-f]{8}, got [0-9a-f]{8}$`),
        );
      }
    }
    expect(seen).toBe("IHDR gAMA PLTE tRNS IDAT IDAT tEXt IEND ");
  });

  test("a file with any one bit flipped, unless it is in metadata: then the pixels are the same", async () => {
    const pixels = await read(inPieces(whole));
    const metadata = chunksOf(whole).filter(({ type }) => ["gAMA", "tEXt"].includes(type));
    for (let bit = 0; bit < whole.length * 8; bit++) {
      const broken = Buffer.from(whole);
      broken[bit >> 3] ^= 1 << (bit & 7);
      const outcome = await read(inPieces(broken)).catch((error) => error);
      const isMetadata = metadata.some(({ at, end }) => at <= bit >> 3 && bit >> 3 < end);
      if (isMetadata && outcome instanceof Uint8Array) expectSame(outcome, pixels, `bit ${bit}`);
      else expect(outcome.code, `bit ${bit}`).toBeOneOf(["too-large", "corrupt"]);
    }
  });

  const grey = ihdr(4, 3, 8, GREY);
  const idat = chunk("IDAT", deflateSync(Buffer.alloc(15)));
  const zlib = deflateSync(Buffer.alloc(15));
  const wrongAdler = Buffer.from(zlib);
  wrongAdler[wrongAdler.length - 1] ^= 1;
  const rgb = (count: number) => chunk("PLTE", random(3 * count));
  const cases: [what: string, png: Uint8Array, message: RegExp][] = [
    ["no signature", Buffer.concat([Buffer.alloc(8), grey, idat, END]), /no PNG signature/],
    [
      "another first chunk than IHDR",
      file(chunk("gAMA", random(4)), grey, idat, END),
      /first chunk: expected IHDR, got gAMA/,
    ],
    ["a short IHDR", file(chunk("IHDR", random(12))), /IHDR chunk: expected 13 to 13 bytes, got 12/],
    ["a long IHDR", file(chunk("IHDR", random(14))), /IHDR chunk: expected 13 to 13 bytes, got 14/],
    ["a second IHDR", file(grey, grey, idat, END), /IHDR chunk: not expected here/],
    ["no width", file(ihdr(0, 3, 8, GREY), idat, END), /size: expected at least 1 × 1, got 0 × 3/],
    ["no height", file(ihdr(4, 0, 8, GREY), idat, END), /size: expected at least 1 × 1, got 4 × 0/],
    ["another compression method", file(ihdr(4, 3, 8, GREY, [1, 0, 0]), idat, END), /expected 0 and 0, got 1 and 0/],
    ["another filter method", file(ihdr(4, 3, 8, GREY, [0, 64, 0]), idat, END), /expected 0 and 0, got 0 and 64/],
    [
      "another interlace method",
      file(ihdr(4, 3, 8, GREY, [0, 0, 2]), idat, END),
      /interlace method: expected 0 or 1, got 2/,
    ],
    [
      "a chunk type with a digit",
      file(grey, chunk("IDA1"), idat, END),
      /chunk type: expected four letters, got "IDA1"/,
    ],
    [
      "a chunk of 2 GiB",
      file(grey, Buffer.from("80000000", "hex"), Buffer.from("IDAT")),
      /IDAT chunk: expected at most 2147483647 bytes, got 2147483648/,
    ],
    ["an unknown critical chunk", file(grey, chunk("IDAX"), idat, END), /IDAX chunk: not expected here/],
    ["an unknown critical chunk after the data", file(grey, idat, chunk("IDAX"), END), /IDAX chunk: not expected here/],
    ["no IDAT", file(grey, END), /no IDAT chunk/],
    ["an empty IDAT", file(grey, chunk("IDAT"), END), /compressed data: unexpected end of file|too little image data/],
    [
      "IDATs that are not consecutive",
      file(grey, chunk("IDAT", zlib.subarray(0, 5)), chunk("tEXt"), chunk("IDAT", zlib.subarray(5)), END),
      /compressed data: unexpected end of file/,
    ],
    ["no PLTE", file(ihdr(4, 3, 8, PALETTE), idat, END), /no PLTE chunk before IDAT/],
    ["a PLTE after the data", file(ihdr(4, 3, 8, PALETTE), idat, rgb(2), END), /no PLTE chunk before IDAT/],
    ["two PLTEs", file(ihdr(4, 3, 8, PALETTE), rgb(2), rgb(2), idat, END), /two PLTE chunks/],
    ["an empty PLTE", file(ihdr(4, 3, 8, PALETTE), rgb(0), idat, END), /PLTE chunk: expected 3 to 768 bytes, got 0/],
    ["257 colours", file(ihdr(4, 3, 8, PALETTE), rgb(257), idat, END), /PLTE chunk: expected 3 to 768 bytes, got 771/],
    [
      "a PLTE of four bytes",
      file(ihdr(4, 3, 8, PALETTE), chunk("PLTE", random(4)), idat, END),
      /PLTE chunk: expected triples, got 4 bytes/,
    ],
    ["a missing row", file(ihdr(4, 4, 8, GREY), idat, END), /too little image data/],
    ["a missing byte", file(grey, chunk("IDAT", deflateSync(Buffer.alloc(14))), END), /too little image data/],
    ["a missing pass", file(ihdr(4, 3, 8, GREY, [0, 0, 1]), idat, END), /too little image data/],
    [
      "data that are not a zlib stream",
      file(grey, chunk("IDAT", Buffer.alloc(30)), END),
      /compressed data: unknown compression method/,
    ],
    [
      "a zlib header with a wrong check",
      file(grey, chunk("IDAT", Buffer.from("7802030000000001", "hex")), END),
      /compressed data: incorrect header check/,
    ],
    [
      "a zlib header with a window of 64 KiB",
      file(grey, chunk("IDAT", Buffer.from("881c030000000001", "hex")), END),
      /compressed data: invalid window size/,
    ],
    ["truncated data", file(grey, chunk("IDAT", zlib.subarray(0, -5)), END), /compressed data: unexpected end of file/],
    [
      "a truncated checksum",
      file(grey, chunk("IDAT", zlib.subarray(0, -1)), END),
      /compressed data: unexpected end of file/,
    ],
    ["a wrong checksum", file(grey, chunk("IDAT", wrongAdler), END), /compressed data: incorrect data check/],
    [
      "a preset dictionary",
      file(grey, chunk("IDAT", deflateSync(Buffer.alloc(15), { dictionary: Buffer.from("sobel") })), END),
      /compressed data: missing dictionary/i,
    ],
  ];
  test.each(cases)("%s", async (_what, png, message) => {
    for (const size of [png.length, 1 + (png.length >> 6)]) await expectRefusal(png, "corrupt", message, size);
  });

  test("too much image data, unless it is little", async () => {
    const bomb = file(grey, chunk("IDAT", deflateSync(Buffer.alloc((1 << 20) + 100))), END);
    await expectRefusal(bomb, "corrupt", /too much image data/);
  });

  test("what an iPhone's tools make of a PNG (CgBI): unknown-format", async () => {
    const png = file(chunk("CgBI", Buffer.from("50002006", "hex")), grey, idat, END);
    await expectRefusal(png, "unknown-format", /a PNG optimised for iPhones \(CgBI\) is not read/);
  });

  test("a row filter above 4, in every kind of picture, on any line", async () => {
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

  test("every colour type and depth that the specification does not allow", async () => {
    const known = KINDS.map(([, colour, depth]) => `${colour} ${depth}`);
    for (let colour = 0; colour < 256; colour += colour < 9 ? 1 : 13) {
      for (const depth of [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 24, 32, 255]) {
        if (known.includes(`${colour} ${depth}`)) continue;
        const message = new RegExp(`^corrupt PNG: colour type ${colour} with ${depth} bits a sample$`);
        await expectRefusal(file(ihdr(4, 3, depth, colour), idat, END), "corrupt", message);
      }
    }
  });

  test("more pixels than the limit, after reading only the header", async () => {
    for (const [width, height, interlace, limits, limit] of [
      [2 ** 31 - 1, 2 ** 31 - 1, 0, UNLIMITED, 1e9],
      [2 ** 31, 2 ** 31, 0, UNLIMITED, 1e9],
      [50_000, 50_000, 0, UNLIMITED, 1e9],
      [1_000_000_001, 1, 0, UNLIMITED, 1e9],
      [4, 3, 0, { streamed: 11, whole: 1e9 }, 11],
      [4, 3, 1, { streamed: 1e9, whole: 11 }, 11],
    ] as const) {
      const png = file(ihdr(width, height, 8, GREY, [0, 0, interlace]), idat, END);
      const { source, seen } = watched(png, 1);
      const error = await caught(readPng(source, limits));
      expect([error.code, error.message]).toEqual([
        "too-large",
        `image too large: expected at most ${limit} pixels, got ${width} × ${height}`,
      ]);
      expect(seen.bytes).toBe(8 + header.length);
    }
    const limits = { streamed: 12, whole: 11 };
    expectSame(await read(inPieces(file(grey, idat, END)), limits), new Uint8Array(12), "at the limit");
  });

  test("compressed data with any bit flipped, or cut anywhere, with zlib's reason", async () => {
    const small = randomPicture(9, 6, GREY, 8);
    const lines = scanlines(small);
    let refused = 0;
    for (const options of [{}, { strategy: constants.Z_FIXED }, { level: 0 }]) {
      const data = deflateSync(lines, options);
      const broken = Array.from({ length: 8 * data.length }, (_, bit) => {
        const copy = Uint8Array.from(data);
        copy[bit >> 3] ^= 1 << (bit & 7);
        return copy;
      });
      for (let length = 1; length < data.length; length++) broken.push(data.subarray(0, length));
      for (const part of broken) {
        const outcome = await read(inPieces(file(headerOf(small), chunk("IDAT", part), END))).catch((error) => error);
        const reason = reasonOfZlib(part);
        if (reason === "") expectSame(outcome, greyOf(small));
        else expect(outcome).toMatchObject({ code: "corrupt", message: `corrupt PNG: compressed data: ${reason}` });
        if (reason !== "") refused++;
      }
    }
    expect(refused).toBeGreaterThan(1500);
  });

  test("random compressed data, with zlib's reason", async () => {
    // DEFLATE makes at most 1032 bytes of one, so no row is ever complete, and none is refused for its filter.
    const wide = ihdr(1032 * 403, 1, 8, GREY);
    for (let i = 0; i < 2000; i++) {
      const data = Buffer.concat([Buffer.from("7801", "hex"), random(1 + Math.floor(chance() * 400))]);
      if (i % 4 > 0) data[2] = (data[2] & ~7) | 4; // dynamic codes, which have the most rules
      const reason = reasonOfZlib(data);
      expect(reason).not.toBe("");
      const error = await caught(read(inPieces(file(wide, chunk("IDAT", data), END))));
      expect(error.message).toBe(`corrupt PNG: compressed data: ${reason}`);
    }
  });

  /** The message of `inflateSync`; empty where it accepts the data. */
  function reasonOfZlib(data: Uint8Array): string {
    try {
      inflateSync(data);
      return "";
    } catch (error) {
      return (error as Error).message;
    }
  }

  test("a bomb, a gigabyte in 1 MB, without inflating much more than the header promises", async () => {
    const zeros = deflateRawSync(Buffer.alloc(1 << 24), { finishFlush: constants.Z_SYNC_FLUSH });
    const data = [Buffer.from("7801", "hex"), ...Array(64).fill(zeros)];
    const png = file(ihdr(100, 100, 8, GREY), ...data.map((part) => chunk("IDAT", part)), END);
    const { source, seen } = watched(png, 1000);
    const error = await caught(read(source));
    expect(error.message).toBe("corrupt PNG: too much image data");
    expect(seen.bytes).toBeLessThan(700_000);
  });

  test("millions of empty blocks, without blocking the event loop", async () => {
    const empty = deflateRawSync(Buffer.alloc(0), { finishFlush: constants.Z_FULL_FLUSH });
    const data = Buffer.concat([Buffer.from("7801", "hex"), Buffer.alloc(20_000_000, empty)]);
    let turns = 0;
    const others = setInterval(() => turns++, 0);
    const error = await caught(read(inPieces(file(ihdr(1, 1, 8, GREY), chunk("IDAT", data), END), 65_536)));
    clearInterval(others);
    expect(error.message).toBe("corrupt PNG: compressed data: unexpected end of file");
    expect(turns).toBeGreaterThan(3);
  });
});

/** More than all buffers hold, compressed and inflated. */
const large = randomPicture(2000, 3000, GREY, 8);
const largePng = pngOf(large, [8192]);
const largeGrey = greyOf(large);

describe("the source", () => {
  test("may be slow", async () => {
    const slow = async function* () {
      for await (const piece of inPieces(largePng, 1_000_000)) {
        await sleep(20);
        yield piece;
      }
    };
    expectSame(await read(slow()), largeGrey);
  });

  test("may be faster than the caller", async () => {
    const rows: Buffer[] = [];
    for await (const block of (await readPng(inPieces(largePng), UNLIMITED)).blocks) {
      await sleep(5);
      rows.push(Buffer.from(block));
    }
    expectSame(new Uint8Array(Buffer.concat(rows)), largeGrey);
  });

  test("may be one of several at a time", async () => {
    const pictures = Array.from({ length: 6 }, (_, i) => read(inPieces(largePng, 50_000 + i)));
    for (const grey of await Promise.all(pictures)) expectSame(grey, largeGrey);
  });

  test("is read only a few buffers ahead of the caller", async () => {
    const stored = deflateSync(new Uint8Array(2001 * 12_000), { level: 0 });
    const { source, seen } = watched(file(ihdr(2000, 12_000, 8, GREY), chunk("IDAT", stored), END), 100_000);
    const { blocks } = await readPng(source, UNLIMITED);
    const rows = blocks[Symbol.asyncIterator]();
    await rows.next();
    let before = -1;
    await until(async () => {
      const still = seen.bytes === before;
      before = seen.bytes;
      await sleep(100);
      return still;
    });
    expect(seen.bytes).toBeLessThan(6 << 20); // of 24 MB
    await rows.return?.();
  });

  test("is not waited for after IEND", async () => {
    const open = async function* () {
      yield largePng;
      await new Promise(() => {});
    };
    expectSame(await within(read(open())), largeGrey);
  });

  test.each(["its end", "an error", "an early stop"])("is closed after %s", async (end) => {
    const broken = Uint8Array.from(largePng);
    broken[1_000_000] ^= 1;
    const { source, seen } = watched(end === "an error" ? broken : largePng, 100_000);
    const walk = async () => {
      for await (const _ of (await readPng(source, UNLIMITED)).blocks) if (end === "an early stop") break;
    };
    if (end === "an error") await expect(walk()).rejects.toThrow("corrupt PNG: ");
    else await walk();
    await until(() => seen.closed);
    expectSame(await read(inPieces(largePng)), largeGrey, "the next picture");
  });

  test("is not waited for when the caller stops early", async () => {
    let stalled = false;
    const source = async function* () {
      yield largePng.subarray(0, 1_000_000);
      stalled = true;
      await new Promise(() => {});
    };
    const { blocks } = await readPng(source(), UNLIMITED);
    const rows = blocks[Symbol.asyncIterator]();
    expect((await rows.next()).done).toBe(false);
    await until(() => stalled);
    await within(Promise.resolve(rows.return?.()), 5000);
    expectSame(await read(inPieces(largePng)), largeGrey, "the next picture");
  });

  test("may bring more after a refusal, without effect on the next picture", async () => {
    const data = Buffer.concat([Buffer.from("7801", "hex"), Buffer.alloc(1_000_000, 0xff)]);
    const broken = file(headerOf(large), chunk("IDAT", data.subarray(0, 600_000)), chunk("IDAT", data), END);
    const { promise: later, resolve: bring } = Promise.withResolvers<void>();
    const pieces = [
      async () => broken.subarray(0, 800_000),
      async () => later.then(() => broken.subarray(800_000).fill(0xee)),
    ];
    const asked: number[] = [];
    // An iterator without `return` cannot be closed.
    const next = async () => {
      const value = await pieces[asked.push(asked.length) - 1]?.();
      return value ? { value, done: false as const } : { value, done: true as const };
    };
    await expect(read({ [Symbol.asyncIterator]: () => ({ next }) })).rejects.toThrow("compressed data: invalid");
    await until(() => asked.length === 2);
    const healthy = async function* () {
      for await (const piece of inPieces(largePng, 500_000)) {
        yield piece;
        bring();
        await sleep(1);
      }
    };
    expectSame(await read(healthy()), largeGrey);
  });

  test("passes on its errors as they are", async () => {
    const small = pngOf(randomPicture(33, 21, RGB, 8), [100]);
    const errors = [
      new TypeError("socket hang up"),
      Object.assign(new Error("reset"), { code: "ECONNRESET" }),
      Object.assign(new Error("incorrect data check"), { code: "Z_DATA_ERROR" }), // of a zlib that is not ours
      new ImageError("corrupt", "an error of the source"),
    ];
    const failing = async function* (bytes: Uint8Array, size: number, error: Error) {
      yield* inPieces(bytes, size);
      throw error;
    };
    for (const error of errors) {
      for (let length = 0; length < small.length; length += 1 + (small.length >> 7)) {
        for (const size of [1, 64]) {
          const got = await read(failing(small.subarray(0, length), size, error)).catch((thrown) => thrown);
          if (got !== error) expect({ length, got }).toEqual({ length, got: error });
        }
      }
      for (const length of [1_000_000, 4_000_000, largePng.length - 1]) {
        const got = await read(failing(largePng.subarray(0, length), 300_000, error)).catch((thrown) => thrown);
        expect(got).toBe(error);
      }
    }
  });
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

  test("stored: is these bytes", () => {
    expect(hexOf(encodeStored(grey, 5, 3))).toEqual([
      "89504e470d0a1a0a",
      "0000000d IHDR 00000005000000030800000000 7e5d9a24",
      "0000001d IDAT 7801011200edff00000103070f00ffffffffff000908fa000031820621 3dfc0a63",
      "00000000 IEND  ae426082",
    ]);
  });

  test("is the picture to other readers, compressed and stored", async () => {
    // A stored block of deflate has 65,535 bytes. With these widths it ends with a row, after a filter byte, and
    // elsewhere.
    for (const width of [...WIDTHS, 257, 65_533, 65_534, 70_000]) {
      for (const rows of [1, 2, 13]) {
        const pixels = random(width * rows, chance() < 0.5 ? 2 : 256);
        for (const png of [await encodeBand(pixels, width, rows), Buffer.from(encodeStored(pixels, width, rows))]) {
          expectPicture(png, pixels, width, rows);
          expectSame(await read(inPieces(png)), pixels, `${width} × ${rows}, by readPng`);
        }
        if (width > 300) continue;
        for (const channels of [3, 4] as const) {
          const colours = random(width * rows * channels);
          const stored = Buffer.from(encodeStored(colours, width, rows, channels));
          for (const png of [encodeBand(colours, width, rows, channels), stored]) {
            expectPicture(png, colours, width, rows, channels);
          }
        }
      }
    }
  });

  test("has no final block in its middle chunk, so another band can follow", async () => {
    const [, , data] = chunksOf(await encodeBand(grey, 5, 3)).filter(({ type }) => type === "IDAT" || type === "soBD");
    expect(Buffer.from(data.payload.subarray(-4)).toString("hex")).toBe("0000ffff"); // an empty stored block
    expect(data.payload[0] & 1).toBe(0);
  });
});

describe("stitched", () => {
  test("random pictures, cut anywhere, are the whole picture", async () => {
    for (let i = 0; i < 60; i++) {
      const width = [1, 2, 7, 33, 257, 65_521][i % 6];
      const height = 1 + Math.floor(chance() * (i % 6 === 5 ? 4 : 40));
      const channels = ([1, 3, 4] as const)[i % 3];
      const pixels = random(width * height * channels, i % 2 ? 256 : 3);
      const png = await stitched(pixels, width, randomSplit(height), channels);
      expectPicture(png, pixels, width, height, channels);
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

  test("returns each band's chunk as a view, not a copy", async () => {
    const png = await encodeBand(random(12), 4, 3);
    const copied = new Stitcher(4, 3).band(png, 3)!;
    expect(copied.buffer).toBe(png.buffer);
  });

  test("accepts bands at any offset in memory", async () => {
    const png = await encodeBand(random(12), 4, 3);
    const shifted = new Uint8Array(png.length + 7).subarray(3, 3 + png.length);
    shifted.set(png);
    expectSame(new Stitcher(4, 3).band(shifted, 3)!, new Stitcher(4, 3).band(png, 3)!);
  });

  test.skipIf(spawnSync("pngcheck", ["-h"]).error !== undefined)("passes pngcheck", async () => {
    const folder = mkdtempSync(join(tmpdir(), "stitched-"));
    afterAll(() => rmSync(folder, { recursive: true }));
    const pixels = random(257 * 90);
    const path = join(folder, "stitched.png");
    for (const png of [await stitched(pixels, 257, [1, 20, 69]), await encodeBand(pixels, 257, 90)]) {
      writeFileSync(path, png);
      const { status, stdout } = spawnSync("pngcheck", ["-v", path], { encoding: "utf8" });
      expect({ status, stdout }).toEqual({ status: 0, stdout: expect.stringContaining("No errors detected") });
    }
    writeFileSync(path, pngOf({ ...randomPicture(9, 5, GREY, 8), filter: () => 5 }));
    expect(spawnSync("pngcheck", [path]).status).not.toBe(0); // it checks the rows
  });

  test("refuses to end with too few or too many rows", async () => {
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

describe("the stitcher recognizes a foreign band by", () => {
  const pixels = random(7 * 3);

  test("its layout", async () => {
    const ours = Buffer.from(await encodeBand(pixels, 7, 3));
    const [header, mark, first, middle, last, end] = chunksOf(ours).map((part) => ours.subarray(part.at, part.end));
    expectSame(file(header, mark, first, middle, last, end), ours, "split and joined");
    expect(new Stitcher(7, 3).band(ours, 3)).toBeDefined();
    const joined = chunk("IDAT", Buffer.concat([first, middle, last].map((part) => part.subarray(8, -4))));
    const others: Record<string, Uint8Array> = {
      "no bytes": new Uint8Array(0),
      "a JPEG": Buffer.from("ffd8ffe000104a464946", "hex"),
      stored: Buffer.from(encodeStored(pixels, 7, 3)),
      "by fast-png": encode({ width: 7, height: 3, data: pixels, channels: 1, depth: 8 }),
      unmarked: file(header, first, middle, last, end),
      "another mark": file(header, chunk("soBD", Uint8Array.of(2)), first, middle, last, end),
      "one IDAT": file(header, mark, joined, end),
      "no middle": file(header, mark, first, last, end),
      "an additional chunk": file(header, mark, first, middle, chunk("tEXt"), last, end),
      "another chunk type": file(header, mark, first, chunk("IDAX", middle.subarray(8, -4)), last, end),
      RGB: file(ihdr(7, 3, 8, RGB), mark, first, middle, last, end),
      interlaced: file(ihdr(7, 3, 8, GREY, [0, 0, 1]), mark, first, middle, last, end),
      "bytes after IEND": Buffer.concat([ours, Buffer.alloc(1)]),
      "bytes before the signature": Buffer.concat([Buffer.alloc(1), ours]),
      "another last block": file(header, mark, first, middle, chunk("IDAT", Buffer.from("010000ffff", "hex")), end),
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

  test("any missing byte", async () => {
    const ours = await encodeBand(pixels, 7, 3);
    for (let length = 0; length < ours.length; length++) {
      expect([length, new Stitcher(7, 3).band(ours.subarray(0, length), 3)]).toEqual([length, undefined]);
    }
  });

  test("any flipped bit", async () => {
    const ours = await encodeBand(pixels, 7, 3);
    for (let bit = 0; bit < ours.length * 8; bit++) {
      const broken = Uint8Array.from(ours);
      broken[bit >> 3] ^= 1 << (bit & 7);
      expect([bit, new Stitcher(7, 3).band(broken, 3)]).toEqual([bit, undefined]);
    }
  });

  test("and is unchanged by it", async () => {
    const [ours, foreign] = [await encodeBand(pixels, 7, 3), Buffer.from(encodeStored(pixels, 7, 3))];
    const stitcher = new Stitcher(7, 3);
    expect(stitcher.band(foreign, 3)).toBeUndefined();
    const png = Buffer.concat([stitcher.head(), stitcher.band(ours, 3)!, stitcher.tail()]);
    expectPicture(png, pixels, 7, 3);
  });
});

describe("combineAdler", () => {
  test("equals zlib's checksum of the whole", () => {
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

  test("is right where a sum is a multiple of 65521", () => {
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

  test("is right for lengths beyond 32 bits", () => {
    // The sums of n zero bytes are 1 and n.
    const zeros = (n: number) => (((n % 65_521) << 16) | 1) >>> 0;
    expect(zeros(70_000)).toBe(adlerOf(new Uint8Array(70_000)));
    for (const [a, b] of [
      [3_000_000_000, 2_000_000_000],
      [1, 2 ** 40],
      [2 ** 45, 2 ** 32 + 1],
    ]) {
      expect(combineAdler(zeros(a), zeros(b), b)).toBe(zeros(a + b));
    }
    // After other bytes, each zero adds the first sum to the second.
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

/** The file in pieces, and how much of it was read. */
function watched(png: Uint8Array, size: number) {
  const seen = { bytes: 0, closed: false };
  const source = async function* () {
    try {
      for await (const piece of inPieces(png, size)) {
        seen.bytes += piece.length;
        yield piece;
      }
    } finally {
      seen.closed = true;
    }
  };
  return { source: source(), seen };
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

/** Reads with fast-png, which checks the CRCs, and zlib, which checks the Adler-32. */
function expectPicture(png: Uint8Array, pixels: Uint8Array, width: number, height: number, channels = 1): void {
  const what = `${width} × ${height}, ${channels} channels`;
  const decoded = decode(png, { checkCrc: true });
  expect([decoded.width, decoded.height, decoded.channels, decoded.depth]).toEqual([width, height, channels, 8]);
  expectSame(decoded.data as Uint8Array, pixels, what);
  const idats = chunksOf(png).filter(({ type }) => type === "IDAT");
  const lines = inflateSync(Buffer.concat(idats.map(({ payload }) => payload)));
  expect({ what, inflated: lines.length }).toEqual({ what, inflated: height * (1 + width * channels) });
}

async function stitched(pixels: Uint8Array, width: number, bands: number[], channels: Channels = 1): Promise<Buffer> {
  const rowBytes = width * channels;
  const stitcher = new Stitcher(width, pixels.length / rowBytes, channels);
  const parts = [stitcher.head()];
  let at = 0;
  for (const rows of bands) {
    const png = encodeBand(pixels.subarray(at, at + rows * rowBytes), width, rows, channels);
    const band = stitcher.band(png, rows);
    if (!band) throw new Error(`band at ${at}: expected a band of encodeBand`);
    parts.push(band);
    at += rows * rowBytes;
  }
  return Buffer.concat([...parts, stitcher.tail()]);
}

function randomSplit(height: number): number[] {
  const bands: number[] = [];
  for (let left = height; left > 0; left -= bands.at(-1)!) bands.push(1 + Math.floor(chance() * left));
  return bands;
}

/** Fast-png returns samples below 8 bits, and palette indices, packed. */
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
  /** The same file with other zlib data and the right CRC. */
  const withData = (data: Uint8Array) => {
    const idat = Buffer.concat([Buffer.from("IDAT"), data]);
    const [length, crc] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    crc.writeUInt32BE(crc32(idat));
    return Buffer.concat([stored.subarray(0, 33), length, idat, crc, stored.subarray(-12)]);
  };

  test("inverts encodeStored, for pictures smaller and larger than a stored block", () => {
    expect(decodeStored(stored)).toEqual({ width: 7, height: 3, channels: 1, pixels });
    const large = Uint8Array.from({ length: 500 * 300 }, (_, i) => (i * 7919) >> 5);
    expect(Buffer.compare(decodeStored(Buffer.from(encodeStored(large, 500, 300)))!.pixels, large)).toBe(0);
    for (const channels of [3, 4] as const) {
      const picture = { width: 125, height: 300, channels, pixels: large.subarray(0, 125 * 300 * channels) };
      const png = Buffer.from(encodeStored(picture.pixels, 125, 300, channels));
      expect(decodeStored(png)).toEqual(picture);
    }
  });

  test("returns undefined for every flipped bit and every truncated length", () => {
    for (let bit = 0; bit < stored.length * 8; bit++) {
      const broken = Uint8Array.from(stored);
      broken[bit >> 3] ^= 1 << (bit & 7);
      expect(decodeStored(broken)).toBeUndefined();
    }
    for (let length = 0; length < stored.length; length++)
      expect(decodeStored(stored.subarray(0, length))).toBeUndefined();
  });

  test("returns undefined for other layouts: compressed, filtered, too long", () => {
    const lines = Buffer.from(Array.from({ length: 3 }, (_, y) => [0, ...pixels.subarray(y * 7, y * 7 + 7)]).flat());
    const data = deflateSync(lines, { level: 0 });
    // As in readPng, bytes after the data are passed over.
    for (const more of ["", "more"])
      expect(decodeStored(withData(Buffer.concat([data, Buffer.from(more)])))?.pixels).toEqual(pixels);
    expect(decodeStored(withData(deflateSync(Buffer.alloc(24))))).toBeUndefined();
    expect(decodeStored(withData(deflateSync(Buffer.concat([lines, lines]), { level: 0 })))).toBeUndefined();
    lines[8] = 1;
    expect(decodeStored(withData(deflateSync(lines, { level: 0 })))).toBeUndefined();
  });
});
