// The kernel against references written from the definitions (PNG specification, Sobel, BT.601), against OpenCV's bytes
// and against zlib. One table of cases runs on both kernels, scalar and SIMD.

import { afterAll, describe, expect, spyOn, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { kernel, type SimdKernel, scalar, simd } from "../picture/kernel/kernel.ts";
import { sobel } from "../sobel.ts";
import { adlerOf, chance, expectSame, random } from "./pictures.ts";

const root = join(import.meta.dirname, "..");
const scratch = mkdtempSync(join(tmpdir(), "kernel-"));
afterAll(() => rmSync(scratch, { recursive: true }));

describe.each([{ ...scalar, sobel }, simd()].map((k): [string, SimdKernel] => [k.name, k]))("%s", (_name, k) => {
  describe.each([1, 2, 3, 4, 6, 8])("unfilter, %i bytes per pixel", (bpp) => {
    test.each([0, 1, 2, 3, 4])("filter %i, widths from 1", (filter) => {
      for (const width of [1, 2, 3, 4, 5, 7, 11, 16, 17, 33, 101]) {
        // Small samples too: they make ties of the Paeth predictor.
        for (const range of [256, 3]) {
          const rowBytes = width * bpp;
          const lines = randomLines(4, rowBytes, () => filter, range);
          const previous = random(rowBytes, range);
          const expected = referenceUnfilter(lines, rowBytes, bpp, previous);
          k.unfilter(lines, rowBytes, bpp, previous);
          expectSame(lines, expected, `${width} pixels, samples below ${range}`);
          expectSame(previous, expected.subarray(-rowBytes), `previous, ${width} pixels`);
        }
      }
    });

    test("rows of all filters give the same in one call and in several", () => {
      const rowBytes = 29 * bpp;
      const lines = randomLines(40, rowBytes, (y) => (y * 7) % 5);
      const previous = random(rowBytes);
      const expected = referenceUnfilter(lines, rowBytes, bpp, previous);
      const whole = lines.slice();
      k.unfilter(whole, rowBytes, bpp, previous.slice());
      expectSame(whole, expected, "whole");
      let y = 0;
      for (const rows of [1, 2, 0, 9, 28]) {
        k.unfilter(lines.subarray(y * (1 + rowBytes), (y + rows) * (1 + rowBytes)), rowBytes, bpp, previous);
        y += rows;
      }
      expect(y).toBe(40);
      expectSame(lines, expected, "in several calls");
    });
  });

  test("unfilter does not change the bytes around the lines", () => {
    for (const bpp of [1, 2, 3, 4, 6, 8]) {
      const rowBytes = 9 * bpp;
      const around = random(3 * (1 + rowBytes) + 32);
      const before = around.slice();
      const lines = around.subarray(16, -16);
      for (let y = 0; y < 3; y++) lines[y * (1 + rowBytes)] = 4;
      k.unfilter(lines, rowBytes, bpp, new Uint8Array(rowBytes));
      expectSame(around.subarray(0, 16), before.subarray(0, 16), "before the lines");
      expectSame(around.subarray(-16), before.subarray(-16), "after the lines");
    }
  });

  // Several rows; a long row; then a small picture after the memory has grown.
  test.each([
    [1000, 300],
    [150_001, 3],
    [7, 5],
  ])("unfilter and unfilterLuminance, %i × %i", (width, rows) => {
    for (const channels of [1, 2, 3, 4]) {
      const rowBytes = width * channels;
      const lines = randomLines(rows, rowBytes, (y) => 4 - (y % 5));
      const top = random(rowBytes);
      const expected = referenceUnfilter(lines, rowBytes, channels, top);
      const grey = new Uint8Array(width * rows);
      const last = top.slice();
      k.unfilterLuminance(lines.slice(), width, channels, last, grey);
      expectSame(last, expected.subarray(-rowBytes), `previous, ${channels} channels`);
      const samples = new Uint8Array(rows * rowBytes);
      for (let y = 0; y < rows; y++) {
        const at = y * (1 + rowBytes) + 1;
        samples.set(expected.subarray(at, at + rowBytes), y * rowBytes);
      }
      expectSame(grey, referenceLuminance(samples, channels), `grey, ${channels} channels`);
      k.unfilter(lines, rowBytes, channels, top);
      expectSame(lines, expected, `lines, ${channels} channels`);
    }
  });

  test("unfilterLuminance on narrow images", () => {
    for (const channels of [1, 2, 3, 4]) {
      for (let width = 1; width <= 20; width++) {
        const rowBytes = width * channels;
        const lines = randomLines(5, rowBytes, (y) => y);
        const unfiltered = referenceUnfilter(lines, rowBytes, channels, new Uint8Array(rowBytes));
        const samples = unfiltered.filter((_, i) => i % (1 + rowBytes) !== 0);
        const grey = new Uint8Array(5 * width);
        k.unfilterLuminance(lines, width, channels, new Uint8Array(rowBytes), grey);
        expectSame(grey, referenceLuminance(samples, channels), `${channels} channels, ${width} wide`);
      }
    }
  });

  test("no lines: nothing changes", () => {
    const previous = Uint8Array.of(1, 2, 3);
    k.unfilter(new Uint8Array(0), 3, 3, previous);
    k.unfilterLuminance(new Uint8Array(0), 1, 3, previous, new Uint8Array(0));
    expect([...previous]).toEqual([1, 2, 3]);
  });

  test.each([1, 2, 3, 4])("luminance, %i channels", (channels) => {
    for (const count of [0, ...Array.from({ length: 40 }, (_, i) => i + 1), 1001, 140_001]) {
      const pixels = random(count * channels);
      const grey = new Uint8Array(count);
      k.luminance(pixels, channels, grey);
      expectSame(grey, referenceLuminance(pixels, channels), `${count} pixels`);
    }
  });

  test("luminance of a grid of colours, with and without alpha", () => {
    const levels = [0, 1, 2, 31, 76, 77, 127, 128, 129, 150, 200, 253, 254, 255];
    const rgb = levels.flatMap((r) => levels.flatMap((g) => Array.from({ length: 256 }, (_, b) => [r, g, b])));
    const grey = new Uint8Array(rgb.length);
    k.luminance(Uint8Array.from(rgb.flat()), 3, grey);
    expectSame(grey, referenceLuminance(Uint8Array.from(rgb.flat()), 3), "rgb");
    const rgba = Uint8Array.from(rgb.flatMap((p, i) => [...p, (i * 5) & 255]));
    k.luminance(rgba, 4, grey);
    expectSame(grey, referenceLuminance(rgba, 4), "rgba");
  });

  test("every grey over white at every alpha", () => {
    const pixels = Uint8Array.from({ length: 2 << 16 }, (_, i) => (i & 1 ? i >> 9 : i >> 1));
    const grey = new Uint8Array(1 << 16);
    k.luminance(pixels, 2, grey);
    expectSame(grey, referenceLuminance(pixels, 2), "grey and alpha");
    k.luminance(
      Uint8Array.from({ length: 4 << 16 }, (_, i) => ((i & 3) === 3 ? i >> 10 : i >> 2)),
      4,
      grey,
    );
    expectSame(grey, referenceLuminance(pixels, 2), "rgba");
  });

  test("sobel, widths 1 to 40, rows 0 to 4", () => {
    for (const [name, sample] of Object.entries(patterns)) {
      for (let width = 1; width <= 40; width++) {
        for (let rows = 0; rows <= 4; rows++) {
          const band = Uint8Array.from({ length: (rows + 2) * width }, (_, i) => sample(i % width, (i / width) | 0));
          const edges = new Uint8Array(rows * width);
          k.sobel(band, width, rows, edges);
          expectSame(edges, referenceSobel(band, width, rows), `${name}, ${width} × ${rows}`);
        }
      }
    }
  });

  test.each([
    [1023, 301],
    [140_003, 3],
    [1, 300_000],
    [5, 3],
  ])("sobel, %i × %i", (width, rows) => {
    const band = random((rows + 2) * width);
    const edges = new Uint8Array(rows * width);
    k.sobel(band, width, rows, edges);
    expectSame(edges, referenceSobel(band, width, rows), "edges");
  });

  test("sobel of every pair of gradients up to 255", () => {
    // gx and gy are both odd or both even. Corners alone make every such pair, in a block of 4 columns each:
    // gx = down + rise and gy = down − rise, with down = bottom right − top left, rise = top right − bottom left.
    const pairs: [down: number, rise: number][] = [];
    for (let gx = 0; gx < 256; gx++) {
      for (let gy = gx & 1; gy < 256; gy += 2) pairs.push([(gx + gy) / 2, (gx - gy) / 2]);
    }
    const width = 4 * pairs.length;
    const band = new Uint8Array(3 * width);
    pairs.forEach(([down, rise], i) => {
      band[4 * i + 2] = Math.max(0, rise);
      band[2 * width + 4 * i] = Math.max(0, -rise);
      band[2 * width + 4 * i + 2] = down;
    });
    const edges = new Uint8Array(width);
    k.sobel(band, width, 1, edges);
    expectSame(edges, referenceSobel(band, width, 1), "edges");
  });

  test("filterSub and its Adler-32, widths from 1", () => {
    for (const [width, rows] of [
      ...Array.from({ length: 40 }, (_, i) => [i + 1, 3]),
      [1, 0],
      [999, 401],
      [140_001, 3],
    ]) {
      const grey = random(width * rows);
      expectFiltered(k, grey, width, rows);
      if (width < 1000) for (const bytes of [3, 4]) expectFiltered(k, random(width * bytes * rows), width, rows, bytes);
    }
  });

  test("the Adler-32 of the heaviest lines does not overflow", () => {
    // Each sample one less than the one before it: every byte of the line is 255.
    for (const width of [5550, 5551, 5552, 20_000, 300_000]) {
      expectFiltered(
        k,
        Uint8Array.from({ length: 3 * width }, (_, i) => 255 - (i % width)),
        width,
        3,
      );
    }
  });

  test("the Adler-32 equals zlib's for lines of any number of bytes, one and several", () => {
    for (const width of [1, 14, 15, 16, 17, 5551, 5552, 131_072, 300_001]) {
      for (const rows of [1, 3]) expectFiltered(k, random(width * rows), width, rows);
    }
  });

  test("luminance and sobel equal OpenCV's bytes", () => {
    // r = np.random.default_rng(1); g = r.integers(0, 256, (29, 37), np.uint8); p = r.integers(0, 256, (1, 64, 3),
    // np.uint8) s = [cv2.Sobel(g, cv2.CV_64F, *d, ksize=3) for d in ((1, 0), (0, 1))] open("test/golden/opencv.bin",
    // "wb").write(b"".join(a.tobytes() for a in (
    //   g, cv2.convertScaleAbs(cv2.magnitude(*s)), p, cv2.cvtColor(p, cv2.COLOR_RGB2GRAY))))
    const golden = new Uint8Array(readFileSync(join(root, "test/golden/opencv.bin")));
    const [width, rows] = [37, 29];
    const size = width * rows;
    const band = new Uint8Array(size + 2 * width);
    band.set(golden.subarray(width, 2 * width), 0);
    band.set(golden.subarray(0, size), width);
    band.set(golden.subarray(size - 2 * width, size - width), width + size);
    const edges = new Uint8Array(size);
    k.sobel(band, width, rows, edges);
    expectSame(edges, golden.subarray(size, 2 * size), "edges");
    const grey = new Uint8Array(64);
    k.luminance(golden.subarray(2 * size, 2 * size + 192), 3, grey);
    expectSame(grey, golden.subarray(2 * size + 192), "grey");
  });

  const bytes = (length: number, value = 0) => new Uint8Array(length).fill(value);
  test.each<[string, () => void]>([
    ["lines: expected 8 bytes, got 5", () => k.unfilter(bytes(5), 3, 3, bytes(3))],
    ["previous row: expected 3 bytes, got 2", () => k.unfilter(bytes(4), 3, 3, bytes(2))],
    ["pixels: expected 6 bytes, got 7", () => k.luminance(bytes(7), 3, bytes(2))],
    ["lines: expected 4 bytes, got 3", () => k.unfilterLuminance(bytes(3), 1, 3, bytes(3), bytes(1))],
    ["previous row: expected 3 bytes, got 4", () => k.unfilterLuminance(bytes(4), 1, 3, bytes(4), bytes(1))],
    ["grey: expected 2 bytes, got 1", () => k.unfilterLuminance(bytes(8), 1, 3, bytes(3), bytes(1))],
    ["band: expected 12 bytes, got 11", () => k.sobel(bytes(11), 4, 1, bytes(4))],
    ["edges: expected 4 bytes, got 5", () => k.sobel(bytes(12), 4, 1, bytes(5))],
    ["pixels: expected NaN bytes, got 4", () => k.filterSub(bytes(4), Number.NaN, 1, bytes(5), 1)],
    ["pixels: expected 4 bytes, got 3", () => k.filterSub(bytes(3), 4, 1, bytes(5), 1)],
    ["lines: expected 5 bytes, got 4", () => k.filterSub(bytes(4), 4, 1, bytes(4), 1)],
  ])("%s", (message, call) => {
    expect(call).toThrow(new RangeError(message));
  });
});

test("lines may end at the last byte of the memory", () => {
  // `previous` has 43690 bytes and each of two lines 43691: exactly 2 pages of 64 KiB. The load after the last pixel is
  // beyond them.
  const rowBytes = 43690;
  const lines = randomLines(2, rowBytes, () => 4);
  const expected = referenceUnfilter(lines, rowBytes, 2, new Uint8Array(rowBytes));
  simd().unfilter(lines, rowBytes, 2, new Uint8Array(rowBytes));
  expectSame(lines, expected, "lines");
});

describe("the kernel of this process", () => {
  test("is SIMD where the engine has it", () => {
    expect(kernel.name).toBe("simd");
  });

  test("is scalar where the engine has no SIMD, with one warning", async () => {
    const validate = spyOn(WebAssembly, "validate").mockReturnValue(false);
    const warn = spyOn(console, "warn").mockImplementation(() => {});
    try {
      const fresh = await import(copyOfKernel(readFileSync(join(root, "picture/kernel/kernel.wasm"))));
      expect(fresh.kernel.name).toBe("scalar");
      expect(warn.mock.calls).toEqual([[expect.stringContaining("no WebAssembly SIMD")]]);
      expect(() => fresh.simd()).toThrow("expected an engine with WebAssembly SIMD");
    } finally {
      validate.mockRestore();
      warn.mockRestore();
    }
  });

  test("is an error where kernel.wasm is missing", async () => {
    await expect(import(copyOfKernel())).rejects.toThrow("ENOENT");
  });

  test("is an error where kernel.wasm is broken", async () => {
    const whole = readFileSync(join(root, "picture/kernel/kernel.wasm"));
    await expect(import(copyOfKernel(whole.subarray(0, -9)))).rejects.toBeInstanceOf(WebAssembly.CompileError);
    await expect(import(copyOfKernel(new Uint8Array(0)))).rejects.toBeInstanceOf(WebAssembly.CompileError);
  });

  test.each(["kernel", "deflate"])(
    "%s.wasm is what its source compiles to, byte for byte",
    (part) => {
      const out = join(scratch, `${part}.wasm`);
      const asc = join(root, "node_modules/assemblyscript/bin/asc.js");
      const args = [
        `picture/kernel/${part}.as.ts`,
        "--config",
        "picture/kernel/asconfig.json",
        "--target",
        part,
        "--outFile",
        out,
      ];
      const { status, stderr } = spawnSync(process.execPath, [asc, ...args], { cwd: root, encoding: "utf8" });
      expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
      const committed = readFileSync(join(root, `picture/kernel/${part}.wasm`));
      expectSame(committed, readFileSync(out), `${part}.wasm: run \`bun run build\``);
    },
    60_000,
  );
});

const patterns: Record<string, (x: number, y: number) => number> = {
  random: () => chance() * 256,
  extremes: () => (chance() < 0.5 ? 0 : 255),
  checkerboard: (x, y) => ((x + y) & 1) * 255,
  stripes: (x) => (x & 2) * 127,
  step: (_x, y) => (y > 1 ? 255 : 0),
  flat: () => 255,
};

/** From the PNG specification, clause 9, a byte at a time. */
function referenceUnfilter(lines: Uint8Array, rowBytes: number, bpp: number, previous: Uint8Array): Uint8Array {
  const out = new Uint8Array(lines.length);
  for (let row = 1; row < lines.length; row += 1 + rowBytes) {
    for (let i = 0; i < rowBytes; i++) {
      const a = i < bpp ? 0 : out[row + i - bpp];
      const b = row === 1 ? previous[i] : out[row + i - rowBytes - 1];
      const c = i < bpp ? 0 : row === 1 ? previous[i - bpp] : out[row + i - bpp - rowBytes - 1];
      const predicted = [0, a, b, Math.floor((a + b) / 2), paeth(a, b, c)][lines[row - 1]];
      out[row + i] = (lines[row + i] + predicted) % 256;
    }
  }
  return out;
}

function paeth(a: number, b: number, c: number): number {
  const [pa, pb, pc] = [a, b, c].map((value) => Math.abs(a + b - c - value));
  if (pa <= pb && pa <= pc) return a;
  return pb <= pc ? b : c;
}

function referenceLuminance(pixels: Uint8Array, channels: number): Uint8Array {
  return Uint8Array.from({ length: pixels.length / channels }, (_, i) => {
    const p = pixels.subarray(i * channels, (i + 1) * channels);
    const y = channels < 3 ? p[0] : Math.floor((9798 * p[0] + 19235 * p[1] + 3735 * p[2] + 16384) / 32768);
    const a = channels % 2 ? 255 : p[channels - 1];
    return Math.floor((y * a + 255 * (255 - a) + 127) / 255);
  });
}

function referenceSobel(band: Uint8Array, width: number, rows: number): Uint8Array {
  const reflect = (x: number) => (width === 1 ? 0 : x < 0 ? -x : x >= width ? 2 * width - 2 - x : x);
  const weights = [
    [1, 2, 1],
    [0, 0, 0],
    [-1, -2, -1],
  ];
  return Uint8Array.from({ length: rows * width }, (_, i) => {
    const [x, y] = [i % width, Math.floor(i / width)];
    let gx = 0;
    let gy = 0;
    for (let v = 0; v < 3; v++) {
      for (let u = 0; u < 3; u++) {
        const sample = band[(y + v) * width + reflect(x + u - 1)];
        gx += weights[u][v] * sample;
        gy += weights[v][u] * sample;
      }
    }
    return Math.min(255, Math.round(Math.sqrt(gx * gx + gy * gy)));
  });
}

function expectFiltered(k: SimdKernel, pixels: Uint8Array, width: number, rows: number, channels = 1): void {
  const rowBytes = width * channels;
  const lines = new Uint8Array(rows * (1 + rowBytes));
  const adler = k.filterSub(pixels, rowBytes, rows, lines, channels);
  const expected = Uint8Array.from(lines, (_, i) => {
    const x = (i % (1 + rowBytes)) - 1;
    const at = Math.floor(i / (1 + rowBytes)) * rowBytes + x;
    return x < 0 ? 1 : x < channels ? pixels[at] : pixels[at] - pixels[at - channels];
  });
  expectSame(lines, expected, `lines, ${width} × ${rows}, ${channels} channels`);
  expect(adler).toBe(adlerOf(expected));
}

function randomLines(rows: number, rowBytes: number, filter: (y: number) => number, range = 256): Uint8Array {
  const lines = random(rows * (1 + rowBytes), range);
  for (let y = 0; y < rows; y++) lines[y * (1 + rowBytes)] = filter(y);
  return lines;
}

/** A copy of the kernel's modules, to be imported again, beside this kernel.wasm or none. */
function copyOfKernel(wasm?: Uint8Array): string {
  const dir = mkdtempSync(join(scratch, "copy-"));
  for (const file of ["kernel.ts", "simd.ts", "scalar.ts"])
    copyFileSync(join(root, "picture/kernel", file), join(dir, file));
  if (wasm) writeFileSync(join(dir, "kernel.wasm"), wasm);
  return join(dir, "kernel.ts");
}
