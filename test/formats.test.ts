// The edges of the decoders, each cell of the tables in docs/formats.md: read as OpenCV reads it, or refused with the reason.
// OpenCV itself is the oracle; files are made here, byte by byte.
import { afterAll, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { deflateSync } from "node:zlib";
import sharp from "sharp";
import { collectPixels, ImageError } from "../picture/picture.ts";
import { readImage } from "../picture/read.ts";
import { chunk, expectSame, ihdr, inPieces, over, RGB, SIGNATURE } from "./pictures.ts";
import { binaries, describeWith, temporaryFolder } from "./servers.ts";

const [WIDTH, HEIGHT] = [21, 13];

/** Soft gradients: 8-bit samples of `channels`, from which every kind of sample is made. */
function gradient(channels: number): Uint8Array {
  return Uint8Array.from({ length: WIDTH * HEIGHT * channels }, (_, i) => {
    const [x, y, c] = [Math.floor(i / channels) % WIDTH, Math.floor(i / channels / WIDTH), i % channels];
    return (x * (7 + 3 * c) + y * (11 - 2 * c) + 40 * c) & 255;
  });
}

const rgb = gradient(3);

interface Tiff {
  photometric?: number;
  /** Bits a sample. */
  bits?: number;
  samples?: number;
  /** 1 unsigned, 2 signed, 3 floating point. */
  format?: number;
  compression?: number;
  order?: "II" | "MM";
  big?: boolean;
  /** More entries: tag, type, value. Types: 2 text, 3 16 bits, 4 32 bits, 5 fractions as numerator and denominator. */
  more?: [tag: number, type: 2 | 3 | 4 | 5, ...values: number[]][];
  /** Each sample in a plane, and a strip, of its own. */
  planes?: boolean;
  pixels?: Uint8Array;
}

function tiff({ photometric = 1, bits = 8, samples = 1, order = "II", big = false, more = [], ...rest }: Tiff): Buffer {
  if (rest.planes) return inPlanes(rest.pixels ?? gradient(samples), { photometric, samples, more });
  const { format, compression = 1, pixels = wide(gradient(samples), bits, format, order) } = rest;
  const entries: [number, 2 | 3 | 4 | 5, ...number[]][] = [
    [256, 4, WIDTH],
    [257, 4, HEIGHT],
    [258, 3, ...Array<number>(samples).fill(bits)],
    [259, 3, compression],
    [262, 3, photometric],
    [273, 4, 0],
    [277, 3, samples],
    [278, 4, HEIGHT],
    [279, 4, pixels.length],
    ...(format === undefined ? [] : [[339, 3, ...Array<number>(samples).fill(format)] as [number, 3, ...number[]]]),
  ]
    .filter(([tag]) => more.every(([other]) => other !== tag || tag === 305))
    .concat(more) as [number, 2 | 3 | 4 | 5, ...number[]][];
  entries.sort(([a], [b]) => (rest.pixels ? a - b : 0));
  const isLittle = order === "II";
  const number = (value: number, size: number) => {
    const bytes = Buffer.alloc(size);
    if (isLittle) bytes.writeUIntLE(value, 0, Math.min(6, size));
    else bytes.writeUIntBE(value, Math.max(0, size - 6), Math.min(6, size));
    return bytes;
  };
  const wideBytes = big ? 8 : 4;
  const start = big ? 16 : 8;
  const end = start + (big ? 8 : 2) + entries.length * (big ? 20 : 12) + wideBytes;
  const outside: Buffer[] = [];
  const place = () => end + outside.reduce((sum, part) => sum + part.length, 0);
  const written = entries.map(([tag, type, ...values]) => {
    const bytes = Buffer.concat(values.map((value) => number(value, type === 2 ? 1 : type === 3 ? 2 : 4)));
    const head = [number(tag, 2), number(type, 2), number(type === 5 ? values.length / 2 : values.length, wideBytes)];
    if (bytes.length <= wideBytes) return { tag, parts: [...head, bytes, Buffer.alloc(wideBytes - bytes.length)] };
    const at = number(place(), wideBytes);
    outside.push(bytes, Buffer.alloc(bytes.length % 2));
    return { tag, parts: [...head, at] };
  });
  const strip = written.find(({ tag }) => tag === 273)!;
  if (strip.parts.length > 4) strip.parts[3] = number(place(), 4);
  const header = [Buffer.from(order), number(big ? 43 : 42, 2), ...(big ? [number(8, 2), number(0, 2)] : [])];
  const directory = [number(start, wideBytes), number(entries.length, big ? 8 : 2)];
  return Buffer.concat([
    ...header,
    ...directory,
    ...written.flatMap(({ parts }) => parts),
    number(0, wideBytes),
    ...outside,
    pixels,
  ]);
}

/** Planes of pixels that are interleaved. A writer replaces the one strip by several, whose offsets it finds in the file. */
function inPlanes(pixels: Uint8Array, { samples = 1, more = [], ...kind }: Tiff): Buffer {
  const size = WIDTH * HEIGHT;
  const planes = Array.from({ length: samples }, (_, c) => pixels.filter((_, i) => i % samples === c));
  const marks = planes.map((_, c) => 0x7e000000 + c);
  const strips: Tiff["more"] = [
    [273, 4, ...marks],
    [279, 4, ...planes.map(() => size)],
    [284, 3, 2],
  ];
  const file = tiff({ ...kind, samples, more: [...strips, ...more], pixels: Buffer.concat(planes) });
  for (const [c, mark] of marks.entries()) {
    const at = file.lastIndexOf(Uint8Array.of(c, 0, 0, mark >> 24));
    file.writeUInt32LE(file.length - (samples - c) * size, at);
  }
  return file;
}

/** 8-bit samples as those of another kind, rows padded to bytes. */
function wide(samples: Uint8Array, bits: number, format = 1, order = "II"): Uint8Array {
  if (bits < 8) {
    const rows = Array.from({ length: HEIGHT }, (_, y) => {
      const row = [...samples.subarray(y * WIDTH, (y + 1) * WIDTH)].map((s) =>
        (s >> (8 - bits)).toString(2).padStart(bits, "0"),
      );
      const text = row.join("").padEnd(Math.ceil((WIDTH * bits) / 8) * 8, "0");
      return text.match(/.{8}/g)!.map((byte) => Number.parseInt(byte, 2));
    });
    return Uint8Array.from(rows.flat());
  }
  const bytes = Buffer.alloc((samples.length * bits) / 8);
  for (const [i, sample] of samples.entries()) {
    const at = (i * bits) / 8;
    if (format === 3 && bits === 32) bytes.writeFloatLE(sample / 255, at);
    else if (format === 3 && bits === 64) bytes.writeDoubleLE(sample / 255, at);
    else bytes[order === "II" ? at + bits / 8 - 1 : at] = sample; // the high byte
  }
  return bytes;
}

const bytes = (hex: string) => Buffer.from(hex.replaceAll(" ", ""), "hex");
/** Puts bytes behind SOI, or at `at`. */
const inserted = (file: Buffer, what: Buffer, at = 2) => Buffer.concat([file.subarray(0, at), what, file.subarray(at)]);

const JFIF = bytes("ffe00010 4a46494600 0101 00 0001 0001 00 00");
const bare = await sharp(rgb, { raw: { width: WIDTH, height: HEIGHT, channels: 3 } })
  .jpeg({ quality: 90 })
  .toBuffer();
const jpeg = inserted(bare, JFIF);
const progressive = await sharp(rgb, { raw: { width: WIDTH, height: HEIGHT, channels: 3 } })
  .jpeg({ quality: 90, progressive: true })
  .toBuffer();
const cmyk = await sharp(tiff({ photometric: 5, samples: 4 }), { ignoreIcc: true })
  .pipelineColourspace("cmyk")
  .toColourspace("cmyk")
  .jpeg({ quality: 95 })
  .toBuffer();

const marker = (file: Buffer, code: number) => file.indexOf(Uint8Array.of(0xff, code));
const changed = (file: Buffer, at: number, ...values: number[]) => {
  const copy = Buffer.from(file);
  copy.set(values, at);
  return copy;
};
/** Without the segment that begins at `at`. */
const without = (file: Buffer, at: number) =>
  Buffer.concat([file.subarray(0, at), file.subarray(at + 2 + file.readUInt16BE(at + 2))]);

const exif = (orientation: number) => bytes(`4d4d002a00000008 0001 0112 0003 00000001 000${orientation}0000 00000000`);
const app1 = (orientation: number) =>
  Buffer.concat([bytes("ffe10022"), Buffer.from("Exif\0\0", "latin1"), exif(orientation)]);

const scanlines = Buffer.concat(
  Array.from({ length: HEIGHT }, (_, y) => [Buffer.alloc(1), rgb.subarray(y * WIDTH * 3, (y + 1) * WIDTH * 3)]).flat(),
);
function png(before: Uint8Array[], after: Uint8Array[] = []): Buffer {
  const data = chunk("IDAT", deflateSync(scanlines));
  return Buffer.concat([SIGNATURE, ihdr(WIDTH, HEIGHT, 8, RGB), ...before, data, ...after, chunk("IEND")]);
}
const badCrc = (whole: Buffer) => changed(whole, whole.length - 1, whole[whole.length - 1] ^ 1);

const sos = marker(jpeg, 0xda);
const read: Record<string, Buffer> = {
  "TIFF, grey, 1 bit": tiff({ bits: 1 }),
  "TIFF, inverted grey, 8 bits": tiff({ photometric: 0 }),
  "TIFF, grey, 16 bits": tiff({ bits: 16 }),
  "TIFF, grey, 16 bits, big-endian": tiff({ bits: 16, order: "MM" }),
  "TIFF, RGB": tiff({ photometric: 2, samples: 3 }),
  "TIFF, RGB and a sample that is no alpha": tiff({ photometric: 2, samples: 4, more: [[338, 3, 0]] }),
  "TIFF, CMYK": tiff({ photometric: 5, samples: 4 }),
  "TIFF, YCbCr without subsampling": tiff({ photometric: 6, samples: 3, more: [[530, 3, 1, 1]] }),
  "TIFF, YCbCr of other coefficients": tiff({
    photometric: 6,
    samples: 3,
    more: [
      [529, 5, 2125, 10_000, 7154, 10_000, 721, 10_000],
      [530, 3, 1, 1],
    ],
  }),
  "TIFF, YCbCr of the range of video": tiff({
    photometric: 6,
    samples: 3,
    more: [
      [530, 3, 1, 1],
      [532, 5, 16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1],
    ],
  }),
  "TIFF, YCbCr of no range": tiff({
    photometric: 6,
    samples: 3,
    more: [
      [530, 3, 1, 1],
      [532, 5, 0, 1, 0, 1, 128, 1, 128, 1, 128, 1, 255, 1],
    ],
  }),
  "TIFF, RGB in planes": tiff({ photometric: 2, samples: 3, planes: true }),
  "TIFF, YCbCr in planes": tiff({ photometric: 6, samples: 3, planes: true, more: [[530, 3, 1, 1]] }),
  BigTIFF: tiff({ photometric: 2, samples: 3, big: true }),
  "BigTIFF, big-endian": tiff({ photometric: 2, samples: 3, big: true, order: "MM" }),
  "TIFF with a tag of text without an end": tiff({ more: [[305, 2, 65, 66, 67]] }),
  "TIFF with an unknown unit of resolution": tiff({ more: [[296, 3, 7]] }),
  "TIFF with orientation 0": tiff({ more: [[274, 3, 0]] }),
  "TIFF with orientation 9": tiff({ more: [[274, 3, 9]] }),
  "TIFF with tags out of order": tiff({ more: [[254, 4, 0]] }),
  "JPEG with a scan that says Se = 0": changed(jpeg, sos + 2 + jpeg.readUInt16BE(sos + 2) - 2, 0),
  "JPEG with bytes before a segment": inserted(jpeg, Buffer.alloc(18), marker(jpeg, 0xdb)),
  "JPEG with FF 00 behind SOI": inserted(jpeg, bytes("ff00")),
  "JPEG of JFIF 2.01": changed(jpeg, jpeg.indexOf("JFIF") + 5, 2),
  "JPEG with an Adobe segment of another transform": inserted(jpeg, bytes("ffee000e 41646f6265 0064 0000 0000 02")),
  "JPEG with a cut Adobe segment": inserted(jpeg, bytes("ffee0007 41646f6265")),
  "JPEG without JFIF": bare,
  "JPEG with bytes behind it": Buffer.concat([jpeg, Buffer.from("trailing")]),
  "JPEG without EOI": jpeg.subarray(0, -2),
  "JPEG, progressive": progressive,
  "JPEG, CMYK of Adobe": cmyk,
  "JPEG, CMYK without Adobe": without(cmyk, marker(cmyk, 0xee)),
  "PNG with a wrong CRC of text": png([badCrc(chunk("tEXt", Buffer.from("a\0b")))]),
  "PNG with a wrong CRC behind its data": png([], [badCrc(chunk("iCCP", Buffer.alloc(9)))]),
  "PNG with an IDAT behind its data": png([], [chunk("tEXt", Buffer.from("a\0b")), chunk("IDAT", Buffer.alloc(9))]),
  "PNG with EXIF of a wrong CRC": png([badCrc(chunk("eXIf", exif(6)))]),
};
for (let orientation = 1; orientation <= 8; orientation++) {
  read[`TIFF, orientation ${orientation}`] = tiff({ photometric: 2, samples: 3, more: [[274, 3, orientation]] });
  read[`JPEG, orientation ${orientation}`] = inserted(jpeg, app1(orientation));
  read[`JPEG, orientation ${orientation}, behind JFIF`] = inserted(jpeg, app1(orientation), marker(jpeg, 0xdb));
  read[`PNG, orientation ${orientation}`] = png([chunk("eXIf", exif(orientation))]);
  read[`PNG, orientation ${orientation} behind its data`] = png([], [chunk("eXIf", exif(orientation))]);
}

describeWith(["python"], "read as by OpenCV", () => {
  const folder = temporaryFolder("formats");
  afterAll(() => rmSync(folder, { recursive: true }));
  const names = Object.keys(read);
  for (const [i, name] of names.entries()) writeFileSync(join(folder, String(i)), read[name]);
  const script = `
import cv2, base64, json
def grey(i):
    im = cv2.imread("${folder}/%d" % i, cv2.IMREAD_COLOR)
    if im is None: return None
    g = cv2.cvtColor(im, cv2.COLOR_BGR2GRAY)
    return [g.shape[1], g.shape[0], base64.b64encode(g.tobytes()).decode()]
print(json.dumps([grey(i) for i in range(${names.length})]))`;
  let oracle: ([number, number, string] | null)[] | undefined;
  test.each(names)("%s", async (name) => {
    oracle ??= JSON.parse(
      execFileSync(binaries.python!, ["-c", script], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }),
    );
    const [width, height, pixels] = oracle![names.indexOf(name)]!;
    const image = await readImage(inPieces(Buffer.from(read[name])));
    expect([image.width, image.height]).toEqual([width, height]);
    expectSame(await collectPixels(image), new Uint8Array(Buffer.from(pixels, "base64")), name);
  });
});

const few = await sharp(rgb, { raw: { width: WIDTH, height: HEIGHT, channels: 3 } })
  .gif()
  .toBuffer();
/** A GIF whose codes end after the first block. */
function shortened(gif: Buffer): Buffer {
  let at = 13 + (3 << ((gif[10] & 7) + 1));
  while (gif[at] === 0x21) for (at += 2; gif[at - 1] !== 0 || gif[at - 2] === 0xff; ) at += 1 + gif[at];
  at = gif.indexOf(0x2c, 13 + (3 << ((gif[10] & 7) + 1)));
  const codes = at + 11 + ((gif[at + 9] & 0x80) > 0 ? 3 << ((gif[at + 9] & 7) + 1) : 0);
  return Buffer.concat([gif.subarray(0, codes), bytes("04"), gif.subarray(codes + 1, codes + 5), bytes("003b")]);
}
const avif = await sharp(rgb, { raw: { width: WIDTH, height: HEIGHT, channels: 3 } })
  .avif({ effort: 0 })
  .toBuffer();
const frame = marker(jpeg, 0xc0);
const scans = Array.from(progressive.entries()).flatMap(([at, byte]) =>
  byte === 0xff && progressive[at + 1] === 0xda ? [at] : [],
);

const refused: [what: string, file: Buffer, code: string, sentence: RegExp][] = [
  ...[2, 3].flatMap((format) =>
    [8, 16, 32].map((bits): [string, Buffer, string, RegExp] => [
      `TIFF, sample format ${format}, ${bits} bits`,
      tiff({ bits, format }),
      "unknown-format",
      format === 2 ? /samples of signed integers is not read/ : /samples of floating point is not read/,
    ]),
  ),
  [
    "TIFF, 32 bits",
    tiff({ bits: 32 }),
    "unknown-format",
    /samples of 32 bits is not read; save it as RGB or grey of 8/,
  ],
  ["TIFF, CMYK, 16 bits", tiff({ photometric: 5, samples: 4, bits: 16 }), "unknown-format", /samples of 16 bits/],
  [
    "TIFF, grey and alpha of 1 bit",
    tiff({ bits: 8, samples: 2, more: [[258, 3, 1, 1]] }),
    "unknown-format",
    /of 1 bits/,
  ],
  [
    "TIFF, other inks",
    tiff({ photometric: 5, samples: 4, more: [[332, 3, 2]] }),
    "unknown-format",
    /inks other than CMYK is not read/,
  ],
  ["TIFF, CIE L*a*b*", tiff({ photometric: 8, samples: 3 }), "unknown-format", /a TIFF of CIE L\*a\*b\* is not read/],
  ["TIFF, ICC L*a*b*", tiff({ photometric: 9, samples: 3 }), "unknown-format", /of ICC L\*a\*b\*/],
  ["TIFF, LogLuv", tiff({ photometric: 32845, samples: 3 }), "unknown-format", /of LogLuv/],
  ["TIFF, raw", tiff({ photometric: 32803 }), "unknown-format", /a camera's raw sensor data/],
  [
    "TIFF, LZMA",
    tiff({ compression: 34925 }),
    "unknown-format",
    /compressed with LZMA is not read; compress it with LZW/,
  ],
  ["TIFF, Zstandard", tiff({ compression: 50000 }), "unknown-format", /compressed with Zstandard/],
  ["TIFF, old JPEG", tiff({ compression: 6 }), "unknown-format", /compressed with old-style JPEG/],
  [
    "TIFF, tiles of planes",
    tiff({
      photometric: 2,
      samples: 3,
      more: [
        [284, 3, 2],
        [322, 4, 16],
        [323, 4, 16],
      ],
    }),
    "unknown-format",
    /in tiles of separate planes/,
  ],
  ["TIFF without its end", tiff({ photometric: 2, samples: 3 }).subarray(0, -30), "corrupt", /^corrupt TIFF: /],
  [
    "TIFF without its directory",
    Buffer.from("II*\0\xff\xff\0\0", "latin1"),
    "corrupt",
    /the first directory is not in/,
  ],
  ["JPEG of 12 bits", changed(jpeg, frame + 4, 12), "unknown-format", /a JPEG with 12 bits a sample is not read/],
  ["JPEG, lossless", changed(jpeg, frame + 1, 0xc3), "unknown-format", /a JPEG without loss \(lossless\) is not read/],
  [
    "JPEG-LS",
    changed(jpeg, frame + 1, 0xf7),
    "unknown-format",
    /of another process \(hierarchical, lossless, JPEG-LS\)/,
  ],
  ["JPEG without its height", changed(jpeg, frame + 5, 0, 0), "unknown-format", /height after its pixels \(DNL\)/],
  ["JPEG cut off in its scan", jpeg.subarray(0, sos + 60), "corrupt", /premature end/],
  ["the same, with EOI", Buffer.concat([jpeg.subarray(0, sos + 60), bytes("ffd9")]), "corrupt", /premature end/],
  ...scans.slice(1).flatMap((at, i): [string, Buffer, string, RegExp][] => [
    [
      `progressive JPEG cut off after scan ${i + 1}`,
      progressive.subarray(0, at),
      "corrupt",
      /last scans .* are missing/,
    ],
    [
      `the same with EOI, ${i + 1}`,
      Buffer.concat([progressive.subarray(0, at), bytes("ffd9")]),
      "corrupt",
      /last scans/,
    ],
  ]),
  ["GIF with too few pixels", shortened(few), "corrupt", /expected 273 pixels in the first frame, got \d+/],
  ["AVIF cut off", avif.subarray(0, 40), "corrupt", /^corrupt AVIF: /],
];
test.each(refused)("refused: %s", async (_what, file, code, sentence) => {
  const error = await readImage(inPieces(Buffer.from(file)))
    .then(collectPixels)
    .catch((error) => error);
  expect(error).toBeInstanceOf(ImageError);
  expect([error.code, error.message]).toEqual([code, expect.stringMatching(sentence)]);
});

test("GIF with a first frame smaller than its screen: the background around it", async () => {
  const screen = Buffer.from(few);
  screen.writeUInt16LE(WIDTH + 5, 6);
  screen.writeUInt16LE(HEIGHT + 3, 8);
  screen[11] = 1;
  const [image, plain] = [await readImage(inPieces(screen)), await readImage(inPieces(Buffer.from(few)))];
  expect([image.width, image.height]).toEqual([WIDTH + 5, HEIGHT + 3]);
  const background = over([...few.subarray(16, 19)]);
  const [got, frame] = [await collectPixels(image), await collectPixels(plain)];
  const expected = Uint8Array.from({ length: got.length }, (_, i) => {
    const [x, y] = [i % image.width, Math.floor(i / image.width)];
    return x < WIDTH && y < HEIGHT ? frame[y * WIDTH + x] : background;
  });
  expectSame(got, expected);
});

test.each(["mif1", "miaf", "MA1B", "avis"])("AVIF of the brand %s", async (brand) => {
  const file = Buffer.from(avif);
  file.write(brand, 8, "latin1");
  const [image, plain] = [await readImage(inPieces(file)), await readImage(inPieces(Buffer.from(avif)))];
  expectSame(await collectPixels(image), await collectPixels(plain));
});

test("EXIF behind the pixels of a PNG turns it in any pieces; farther behind, it refuses it", async () => {
  const after = [chunk("eXIf", exif(6))];
  for (const size of [1, 100, 1000]) {
    const { width, height } = await readImage(inPieces(png([], after), size));
    expect([width, height]).toEqual([HEIGHT, WIDTH]);
  }
  const far = png([], [chunk("tEXt", Buffer.alloc(400_000)), ...after]);
  const error = await readImage(inPieces(far, 10_000))
    .then(collectPixels)
    .catch((error) => error);
  expect([error.code, error.message]).toEqual([
    "unknown-format",
    expect.stringMatching(/orientation behind its pixels/),
  ]);
});
