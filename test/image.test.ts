// Any picture: each format gives the luminance of its own pixels, the right way up. Anything else is refused, with a
// code that says what the sender can do. sharp writes the files.
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { deflateSync } from "node:zlib";
import sharp, { type Sharp } from "sharp";
import { type Channels, collectPixels, ImageError, type ImageErrorCode, type PixelLimits } from "../picture/picture.ts";
import { DEFAULT_LIMITS, readImage } from "../picture/read.ts";
import {
  chunk,
  expectSame,
  GREY,
  ihdr,
  inChannels,
  inPieces,
  over,
  pngOf,
  RGB,
  random,
  SIGNATURE,
} from "./pictures.ts";
import { until } from "./wait.ts";

setDefaultTimeout(30_000);

const WIDTH = 37;
const HEIGHT = 23;
const READABLE = "expected PNG, JPEG, WebP, TIFF, GIF or AVIF";

const noise = { 1: random(WIDTH * HEIGHT), 3: random(WIDTH * HEIGHT * 3), 4: random(WIDTH * HEIGHT * 4) };

function picture(channels: 1 | 3 | 4): Sharp {
  return sharp(noise[channels], { raw: { width: WIDTH, height: HEIGHT, channels } });
}

describe("lossless formats give exact grey", () => {
  const formats: [format: string, encode: (image: Sharp) => Sharp, channels: (1 | 3 | 4)[]][] = [
    ["PNG", (image) => image.png(), [1, 3, 4]],
    ["WebP, lossless", (image) => image.webp({ lossless: true, exact: true }), [1, 3, 4]],
    ["TIFF", (image) => image.tiff({ compression: "lzw" }), [1, 3, 4]],
    ["TIFF, uncompressed", (image) => image.tiff({ compression: "none" }), [1, 3]],
    ["AVIF, lossless", (image) => image.avif({ lossless: true, chromaSubsampling: "4:4:4", effort: 0 }), [1, 3]],
  ];
  test.each(formats)("%s", async (_format, encode, kinds) => {
    for (const channels of kinds) {
      const file = await encode(picture(channels)).toBuffer();
      for (const size of [file.length, 1, 15, 16, 17]) {
        const { width, height, grey } = await read(file, size);
        expect([width, height]).toEqual([WIDTH, HEIGHT]);
        expectSame(grey, greyOfSamples(noise[channels], channels), `${channels} channels, pieces of ${size}`);
      }
      for (const to of [3, 4] as const) {
        const colours = await collectPixels(await readImage(inPieces(file), DEFAULT_LIMITS, undefined, to));
        expectSame(colours, inSamples(noise[channels], channels, to), `${channels} channels as ${to}`);
      }
    }
  });

  test("GIF of 64 colours, one of them transparent", async () => {
    const colours = random(64 * 3);
    const indices = Uint8Array.from({ length: WIDTH * HEIGHT }, (_, i) => (i * 7) % 64);
    const file = gifOf(WIDTH, HEIGHT, colours, [indices], 5);
    const expected = Uint8Array.from(indices, (i) => (i === 5 ? 255 : over([...colours.subarray(i * 3, i * 3 + 3)])));
    expectSame((await read(file)).grey, expected);
  });
});

describe("lossy formats give the grey of the decoded pixels", () => {
  const formats: [format: string, image: Sharp, channels: 1 | 3 | 4][] = [
    ["JPEG", picture(3).jpeg({ quality: 90 }), 3],
    ["JPEG, progressive", picture(3).jpeg({ progressive: true }), 3],
    ["JPEG, grey", picture(1).toColourspace("b-w").jpeg(), 1],
    ["WebP", picture(3).webp({ quality: 80 }), 3],
    ["WebP with alpha", picture(4).webp({ quality: 80 }), 4],
    ["AVIF", picture(3).avif({ quality: 60, effort: 0 }), 3],
    ["AVIF with alpha", picture(4).avif({ quality: 60, effort: 0 }), 4],
  ];
  test.each(formats)("%s", async (_format, image, channels) => {
    const file = await image.toBuffer();
    expect((await sharp(file).metadata()).channels).toBe(channels);
    const { data, info } = await sharp(file).raw().toBuffer({ resolveWithObject: true });
    expectSame((await read(file)).grey, greyOfSamples(data, info.channels));
  });

  test("CMYK JPEG: paper is white, ink is dark", async () => {
    const cmyk = async (background: string) => {
      const image = sharp({ create: { width: WIDTH, height: HEIGHT, channels: 3, background } });
      const file = await image.toColourspace("cmyk").jpeg({ quality: 100 }).toBuffer();
      expect((await sharp(file).metadata()).space).toBe("cmyk");
      const { width, height, grey } = await read(file);
      expect([width, height, new Set(grey).size]).toEqual([WIDTH, HEIGHT, 1]);
      return grey[0];
    };
    expect(await cmyk("white")).toBeGreaterThan(250);
    expect(await cmyk("black")).toBeLessThan(50);
    const red = await cmyk("red");
    expect(red).toBeGreaterThan(60);
    expect(red).toBeLessThan(120);
  });
});

test("of a 16-bit TIFF the high byte counts", async () => {
  const samples = Uint16Array.from({ length: WIDTH * HEIGHT * 3 }, (_, i) => (i * 12_345) & 0xffff);
  const raw = { width: WIDTH, height: HEIGHT, channels: 3 } as const;
  const file = await sharp(samples, { raw }).toColourspace("rgb16").tiff({ compression: "none" }).toBuffer();
  expect((await sharp(file).metadata()).depth).toBe("ushort");
  expectSame(
    (await read(file)).grey,
    greyOfSamples(
      Uint8Array.from(samples, (sample) => sample >> 8),
      3,
    ),
  );
});

test("TIFF of big-endian byte order", async () => {
  const samples = random(WIDTH * HEIGHT);
  expectSame((await read(tiffOf(1, samples))).grey, samples);
});

test("a colour profile is ignored", async () => {
  const plain = await picture(3).jpeg({ quality: 90 }).toBuffer();
  const profiled = await picture(3).jpeg({ quality: 90 }).withIccProfile("p3", { attach: true }).toBuffer();
  const samples = await sharp(profiled, { ignoreIcc: true }).raw().toBuffer();
  expect((await sharp(profiled).metadata()).icc).toBeDefined();
  expect((await sharp(plain).metadata()).icc).toBeUndefined();
  expectSame((await read(profiled)).grey, greyOfSamples(samples, 3));
});

describe("the EXIF orientation is applied", () => {
  // The stored position of the upright picture's pixel (x, y); the stored picture is w × h (EXIF 2.32, tag 274).
  const stored: Record<number, (x: number, y: number, w: number, h: number) => [number, number]> = {
    1: (x, y) => [x, y],
    2: (x, y, w) => [w - 1 - x, y],
    3: (x, y, w, h) => [w - 1 - x, h - 1 - y],
    4: (x, y, _w, h) => [x, h - 1 - y],
    5: (x, y) => [y, x],
    6: (x, y, _w, h) => [y, h - 1 - x],
    7: (x, y, w, h) => [w - 1 - y, h - 1 - x],
    8: (x, y, w) => [w - 1 - y, x],
  };
  test.each([1, 2, 3, 4, 5, 6, 7, 8])("%i", async (orientation) => {
    const files = [
      await picture(3).withMetadata({ orientation }).jpeg({ quality: 100, chromaSubsampling: "4:4:4" }).toBuffer(),
      await picture(3).withMetadata({ orientation }).tiff({ compression: "none" }).toBuffer(),
    ];
    for (const file of files) {
      expect((await sharp(file).metadata()).orientation).toBe(orientation);
      const flat = greyOfSamples(await sharp(file, { autoOrient: false }).raw().toBuffer(), 3);
      const [width, height] = orientation < 5 ? [WIDTH, HEIGHT] : [HEIGHT, WIDTH];
      const expected = Uint8Array.from({ length: width * height }, (_, i) => {
        const [x, y] = stored[orientation](i % width, Math.floor(i / width), WIDTH, HEIGHT);
        return flat[y * WIDTH + x];
      });
      const image = await read(file);
      expect([image.width, image.height]).toEqual([width, height]);
      expectSame(image.grey, expected);
    }
  });
});

test("an animated GIF gives its first frame", async () => {
  const colours = Uint8Array.of(10, 200, 30, 240, 20, 90);
  const frames = [0, 1, 0].map((index) => new Uint8Array(WIDTH * HEIGHT).fill(index));
  const file = gifOf(WIDTH, HEIGHT, colours, frames);
  expect((await sharp(file, { animated: true }).metadata()).pages).toBe(3);
  const { width, height, grey } = await read(file);
  expect([width, height]).toEqual([WIDTH, HEIGHT]);
  expectSame(grey, new Uint8Array(WIDTH * HEIGHT).fill(over([10, 200, 30])));
});

test("pictures of more than one block, and wider than one", async () => {
  for (const [width, height] of [
    [301, 700],
    [16_000, 9],
    [70_000, 3],
  ]) {
    const samples = random(width * height * 3);
    const file = await sharp(samples, { raw: { width, height, channels: 3 } })
      .tiff({ compression: "none" })
      .toBuffer();
    expectSame((await read(file)).grey, greyOfSamples(samples, 3), `${width} × ${height}`);
  }
});

test("a PNG is streamed", async () => {
  const samples = Uint16Array.from(random(900 * 900 * 3));
  const file = pngOf({ width: 900, height: 900, colour: RGB, depth: 8, samples, filter: () => 0 });
  let given = 0;
  const counted = async function* () {
    for await (const piece of inPieces(file, 1000)) {
      given += piece.length;
      yield piece;
    }
  };
  const image = await readImage(counted());
  expect(given).toBeLessThan(300_000);
  await image.blocks[Symbol.asyncIterator]().next();
  expect(given).toBeLessThan(file.length / 2);
});

test("a PNG closes its source, whatever the size of the pieces", async () => {
  for (const size of [1, 40, pngOf(small).length]) {
    let closed = false;
    const source = async function* () {
      try {
        yield* inPieces(pngOf(small), size);
      } finally {
        closed = true;
      }
    };
    await collectPixels(await readImage(source()));
    await until(() => closed);
  }
});

test("only the first bytes decide the format", async () => {
  const jpeg = await picture(3).jpeg().toBuffer();
  const message = /^corrupt JPEG: /;
  await expectRefusal(Buffer.concat([jpeg.subarray(0, 3), pngOf(small)]), "corrupt", message);
});

const small = { width: 1, height: 1, colour: GREY, depth: 8, samples: Uint16Array.of(7) };

describe("refuses", () => {
  const svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>';
  const named: [what: string, file: Uint8Array, message: string][] = [
    ["SVG", Buffer.from(svg), "an SVG, XML or HTML file is not read"],
    ["SVG after white space", Buffer.from(`\n  ${svg}`), "an SVG, XML or HTML file is not read"],
    ["XML", Buffer.from(`<?xml version="1.0"?>${svg}`), "an SVG, XML or HTML file is not read"],
    ["BMP", Buffer.from(`424d3a${"00".repeat(55)}`, "hex"), "a BMP picture is not read"],
    ["PDF", Buffer.from("%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "latin1"), "a PDF is not read"],
    ["PDF, its first bytes all text", Buffer.from("%PDF-1.4 1 0 obj <</Type/Catalog>>"), "a PDF is not read"],
    ["HEIC", ftyp("heic", "mif1"), "a HEIC picture, as iPhones take them, is not read"],
    ["HEIC with a general brand", ftyp("mif1", "heic"), "a HEIC picture, as iPhones take them, is not read"],
    ["a video", ftyp("isom", "mp42"), "a video is not read"],
    ["Netpbm", Buffer.from("P5\n2 2\n255\nabcd"), "a Netpbm picture (PBM, PGM, PPM, PAM, PFM) is not read"],
    ["JPEG XL", Buffer.from("ff0a0010", "hex"), "a JPEG XL picture is not read"],
    ["JPEG 2000", Buffer.from("0000000c6a5020200d0a870a", "hex"), "a JPEG 2000 picture is not read"],
    ["Photoshop", Buffer.from("8BPS\0\x01", "latin1"), "a Photoshop file is not read"],
    ["an archive", Buffer.from("PK\x03\x04", "latin1"), "an archive is not read"],
  ];
  test.each(named)("%s: unknown-format, with its name and what to do", async (_what, file, message) => {
    const sentence = new RegExp(`^${message.replace(/[()]/g, "\\$&")}: ${READABLE}; [a-z ,0-9A-Z]+$`);
    for (const size of [file.length, 1]) await expectRefusal(file, "unknown-format", sentence, size);
  });

  const unknown: [what: string, file: Uint8Array, shown: string][] = [
    ["RIFF that is not WebP", Buffer.from("RIFF\x24\0\0\0WAVEfmt ", "latin1"), "52 49 46 46 24 00 00 00"],
    ["random bytes", Buffer.from("9c0311fe9c0311fe9c0311fe9c0311fe9c", "hex"), "9c 03 11 fe 9c 03 11 fe"],
    ["one byte", Uint8Array.of(0x89), "89"],
    ["half a signature", Buffer.from("89504e47", "hex"), "89 50 4e 47"],
  ];
  test.each(unknown)("%s: unknown-format", async (_what, file, shown) => {
    const message = `unknown format: ${READABLE}, got a file that begins with the bytes ${shown}`;
    for (const size of [file.length, 1]) await expectRefusal(file, "unknown-format", message, size);
  });

  const texts: [text: string, shown: string][] = [
    ["To do: buy film, develop.", '"To do: buy film,"'],
    ['{"image": "iVBORw0K"}', '"{\\"image\\": \\"iVBOR"'],
    ["iVBORw0KGgoAAAANSUhEUgAA", '"iVBORw0KGgoAAAAN"'],
    ["\r\n", '"\\r\\n"'],
    ["x", '"x"'],
  ];
  test.each(texts)("text, %j: not-an-image", async (text, shown) => {
    const message = `not an image: ${READABLE}, got text that begins with ${shown}`;
    for (const size of [text.length, 1]) await expectRefusal(Buffer.from(text), "not-an-image", message, size);
  });

  test("nothing: not-an-image", async () => {
    await expectRefusal(new Uint8Array(0), "not-an-image", "not an image: expected a picture, got no bytes");
    const empty = async function* () {
      yield* [new Uint8Array(0), new Uint8Array(0)];
    };
    expect(await caught(readImage(empty()))).toMatchObject({ code: "not-an-image" });
  });

  test("truncated files: corrupt", async () => {
    const large = sharp(random(300 * 200 * 3), { raw: { width: 300, height: 200, channels: 3 } });
    for (const [format, file] of [
      ["JPEG", await large.clone().jpeg().toBuffer()],
      ["WebP", await large.clone().webp().toBuffer()],
      ["TIFF", await large.clone().tiff({ compression: "none" }).toBuffer()],
      ["GIF", await large.clone().gif({ effort: 1 }).toBuffer()],
      ["AVIF", await large.clone().avif({ effort: 0 }).toBuffer()],
      ["PNG", await large.clone().png().toBuffer()],
    ] as const) {
      expect((await read(file)).grey.length).toBe(300 * 200); // whole
      for (const length of [16, 20, file.length >> 1]) {
        await expectRefusal(file.subarray(0, length), "corrupt", new RegExp(`^corrupt ${format}: .`));
      }
    }
  });

  test("a file with a broken middle: corrupt, or all pixels of a picture", async () => {
    for (const file of [await picture(3).jpeg().toBuffer(), await picture(3).webp().toBuffer()]) {
      for (let at = 16; at < file.length; at += 11) {
        const broken = Buffer.from(file);
        broken.subarray(at, at + 9).fill(0xff);
        const outcome = await read(broken).catch((error) => error);
        // A broken frame of a JPEG may look like one of a kind that is not read.
        const codes: ImageErrorCode[] = ["too-large", "corrupt", "unknown-format"];
        if (outcome instanceof ImageError) expect(outcome.code).toBeOneOf(codes);
        else expect(outcome.grey.length).toBe(outcome.width * outcome.height);
      }
    }
  });

  test("more pixels than may be held: too-large, after reading only the header", async () => {
    const jpeg = await picture(3).jpeg().toBuffer();
    const frame = jpeg.indexOf(Buffer.from("ffc0", "hex"));
    jpeg.writeUInt16BE(60_000, frame + 5); // height
    jpeg.writeUInt16BE(50_000, frame + 7); // width
    const most = `image too large: expected at most ${DEFAULT_LIMITS.whole} pixels`;
    await expectRefusal(jpeg, "too-large", `${most}, got 50000 × 60000`);
    const tiff = await picture(3).tiff({ compression: "none" }).toBuffer();
    for (const entry of ["000103000100000025", "010103000100000017"]) {
      // width 37, height 23
      const at = tiff.indexOf(Buffer.from(entry, "hex"));
      expect(at).toBeGreaterThan(0);
      tiff.writeUInt16LE(60_000, at + 8);
    }
    await expectRefusal(tiff, "too-large", `${most}, got 60000 × 60000`);
  });

  test("more pixels than the limit of the format: too-large", async () => {
    const pixels = WIDTH * HEIGHT;
    const jpeg = await picture(3).jpeg().toBuffer();
    const png = await picture(3).png().toBuffer();
    for (const [file, kind] of [
      [jpeg, "whole"],
      [png, "streamed"],
    ] as const) {
      const limits = (most: number): PixelLimits => ({ streamed: 1e9, whole: 1e9, [kind]: most });
      expect((await read(file, file.length, limits(pixels))).grey.length).toBe(pixels);
      const error = await caught(readImage(inPieces(file), limits(pixels - 1)));
      expect(error).toMatchObject({
        code: "too-large",
        message: `image too large: expected at most ${pixels - 1} pixels, got ${WIDTH} × ${HEIGHT}`,
      });
    }
  });

  test("a TIFF with samples that are neither colour nor alpha: unknown-format", async () => {
    const samples = random(WIDTH * HEIGHT * 3);
    await expectRefusal(
      tiffOf(3, samples),
      "unknown-format",
      "unknown kind of TIFF: a TIFF with 3 samples a pixel is not read; save it as RGB or grey of 8 bits",
    );
  });

  test("a PNG for the reasons of png-read.ts", async () => {
    const png = Buffer.concat([
      SIGNATURE,
      ihdr(1, 2, 8, GREY),
      chunk("IDAT", deflateSync(Buffer.alloc(2))),
      chunk("IEND"),
    ]);
    await expectRefusal(png, "corrupt", "corrupt PNG: too little image data");
  });

  test("a PNG for its header, before any row is read", async () => {
    const of = (header: Uint8Array, ...rest: Uint8Array[]) => inPieces(Buffer.concat([SIGNATURE, header, ...rest]));
    const broken = ihdr(3000, 3000, 8, GREY);
    broken[20] ^= 1;
    const limits = { streamed: 1e9, whole: 1e6 };
    const cases: [header: Uint8Array, code: ImageErrorCode, message: RegExp][] = [
      [broken, "corrupt", /IHDR chunk: expected CRC/],
      [ihdr(3000, 3000, 7, GREY), "corrupt", /colour type 0 with 7 bits a sample/],
      [chunk("gAMA", random(13)), "corrupt", /first chunk: expected IHDR, got gAMA/],
      [ihdr(3000, 3000, 8, GREY, [0, 0, 1]), "too-large", /at most 1000000 pixels, got 3000 × 3000/],
    ];
    for (const [header, code, message] of cases) {
      const error = await caught(readImage(of(header, new Uint8Array(20)), limits));
      expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
    }
    const headOnly = of(ihdr(3000, 3000, 8, GREY), chunk("IDAT").subarray(0, 8));
    expect(await readImage(headOnly, limits)).toMatchObject({ width: 3000, height: 3000 });
  });
});

test("an error of the source is passed on as it is", async () => {
  const reset = new TypeError("connection reset");
  for (const file of [await picture(3).jpeg().toBuffer(), pngOf(small)]) {
    for (const length of [0, 5, 16, file.length - 1]) {
      const failing = async function* () {
        yield file.subarray(0, length);
        throw reset;
      };
      const reading = async () => collectPixels(await readImage(failing()));
      expect(await reading().catch((error) => error)).toBe(reset);
    }
  }
});

async function read(file: Uint8Array, size = file.length, limits?: PixelLimits) {
  const image = await readImage(inPieces(file, size), limits);
  let bytes = 0;
  const counted = async function* () {
    for await (const block of image.blocks) {
      expect(block.length % image.width).toBe(0);
      bytes += block.length;
      yield block;
    }
  };
  const grey = await collectPixels({ ...image, blocks: counted() });
  expect(bytes).toBe(image.width * image.height);
  return { width: image.width, height: image.height, grey };
}

/** The first box of an ISO media file: a major brand, and a compatible one. */
function ftyp(major: string, compatible: string): Buffer {
  return Buffer.from(`\0\0\0\x14ftyp${major}\0\0\0\0${compatible}`, "latin1");
}

async function expectRefusal(file: Uint8Array, code: ImageErrorCode, message: string | RegExp, size = file.length) {
  const error = await caught(read(file, size));
  const text = typeof message === "string" ? message : expect.stringMatching(message);
  expect({ code: error.code, message: error.message }).toEqual({ code, message: text });
}

async function caught(promise: Promise<unknown>): Promise<ImageError> {
  const error = await promise.then(
    () => "no error",
    (thrown) => thrown,
  );
  expect(error).toBeInstanceOf(ImageError);
  return error;
}

function greyOfSamples(samples: Uint8Array, channels: number): Uint8Array {
  return inSamples(samples, channels, 1);
}

function inSamples(samples: Uint8Array, channels: number, to: Channels): Uint8Array {
  const pixels = Array.from({ length: samples.length / channels }, (_, i) => {
    const [colour, alpha] = [samples.subarray(i * channels, i * channels + Math.min(channels, 3)), samples[i * 4 + 3]];
    return inChannels([...colour], channels === 4 ? alpha : 255, to);
  });
  return Uint8Array.from(pixels.flat());
}

/** An uncompressed GIF: codes of 8 bits, and a clear code before the table would need a ninth bit. */
function gifOf(width: number, height: number, colours: Uint8Array, frames: Uint8Array[], transparent = 255): Buffer {
  const table = Buffer.alloc(128 * 3);
  table.set(colours);
  const parts = [Buffer.from("GIF89a"), le16(width), le16(height), Buffer.from([0xf6, 0, 0]), table];
  for (const frame of frames) {
    parts.push(Buffer.from([0x21, 0xf9, 4, transparent < 128 ? 1 : 0, 10, 0, transparent, 0]));
    parts.push(Buffer.from([0x2c, 0, 0, 0, 0]), le16(width), le16(height), Buffer.from([0, 7]));
    const codes: number[] = [];
    for (let at = 0; at < frame.length; at += 100) codes.push(128, ...frame.subarray(at, at + 100));
    codes.push(129);
    for (let at = 0; at < codes.length; at += 255) {
      const block = codes.slice(at, at + 255);
      parts.push(Buffer.from([block.length, ...block]));
    }
    parts.push(Buffer.from([0]));
  }
  return Buffer.concat([...parts, Buffer.from([0x3b])]);
}

/** A big-endian TIFF of one strip, 8-bit grey and `channels - 1` samples of unspecified meaning. */
function tiffOf(channels: 1 | 3, samples: Uint8Array): Buffer {
  const entries: [tag: number, type: 3 | 4, values: number[]][] = [
    [256, 3, [WIDTH]],
    [257, 3, [HEIGHT]],
    [258, 3, Array(channels).fill(8)], // bits a sample
    [259, 3, [1]], // uncompressed
    [262, 3, [1]], // 0 is black
    [273, 4, [200]], // offset of the strip
    [277, 3, [channels]],
    [278, 3, [HEIGHT]], // rows of the strip
    [279, 4, [samples.length]],
  ];
  if (channels > 1) entries.push([338, 3, Array(channels - 1).fill(0)]);
  const head = Buffer.alloc(200);
  head.write("MM\0*\0\0\0\x08", "latin1");
  head.writeUInt16BE(entries.length, 8);
  for (const [i, [tag, type, values]] of entries.entries()) {
    const at = 10 + 12 * i;
    head.writeUInt16BE(tag, at);
    head.writeUInt16BE(type, at + 2);
    head.writeUInt32BE(values.length, at + 4);
    if (type === 4) head.writeUInt32BE(values[0], at + 8);
    if (type === 3 && values.length > 2) head.writeUInt32BE(190, at + 8); // too long for the entry
    for (const [j, value] of values.entries()) {
      if (type === 3) head.writeUInt16BE(value, (values.length > 2 ? 190 : at + 8) + 2 * j);
    }
  }
  return Buffer.concat([head, samples]);
}

function le16(value: number): Buffer {
  return Buffer.from([value & 255, value >> 8]);
}
