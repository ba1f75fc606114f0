// Deflate for edges: zlib and another inflater restore the input; the bytes are the same on every runtime; no data
// refer to bytes before the beginning; more blocks may follow.
import { expect, test } from "bun:test";
import { constants, deflateRawSync, inflateRawSync } from "node:zlib";
import { decode } from "fast-png";
import { deflateRuns } from "../picture/kernel/deflate.ts";
import { encodeBand, Stitcher } from "../picture/png-write.ts";
import { chance, expectSame, random } from "./pictures.ts";

/** An empty final block. */
const LAST = Uint8Array.of(3, 0);
/** The bytes that share one set of codes. */
const BLOCK = 1 << 17;

function inflated(...parts: Uint8Array[]): Uint8Array {
  return inflateRawSync(Buffer.concat([...parts, LAST]));
}

const kinds: Record<string, (length: number) => Uint8Array> = {
  zeros: (length) => new Uint8Array(length),
  noise: (length) => random(length),
  "two values": (length) => random(length, 2),
  "runs of random lengths": (length) => {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; at += 1 + chance() * 600) bytes.fill(chance() * 256, at, at + chance() * 600);
    return bytes;
  },
  "few values among zeros": (length) => new Uint8Array(length).map(() => (chance() < 0.9 ? 0 : chance() * 256)),
};

test.each(Object.entries(kinds))("zlib restores %s", (_, make) => {
  const lengths = [1, 2, 3, 4, 5, 257, 258, 259, 260, 261, 262, 263, 1000, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 2];
  for (const length of [...lengths, BLOCK + 259, 3 * BLOCK + 7]) {
    const bytes = make(length);
    expectSame(inflated(deflateRuns(bytes)), bytes, String(length));
  }
});

test("zlib restores runs of every length, between literals and at the end", () => {
  for (let run = 1; run < 600; run++) {
    // Runs are looked for at every fourth byte, so a run begins at each of four.
    for (let before = 1; before <= 4; before++) {
      const bytes = Uint8Array.from([...Array(before).keys(), ...Array(run).fill(9), 8, ...Array(run).fill(9)]);
      expectSame(inflated(deflateRuns(bytes)), bytes, `${run} after ${before}`);
    }
  }
});

test("zlib restores an empty input", () => {
  expectSame(inflated(deflateRuns(new Uint8Array(0))), new Uint8Array(0));
});

test("zlib restores counts so uneven that Huffman's codes would be too long", () => {
  // Fibonacci numbers make the deepest tree: 24 of them make codes of up to 24 bits.
  const bytes: number[] = [];
  for (let [count, next, symbol] = [1, 1, 0]; symbol < 24; symbol++) {
    for (let i = 0; i < count; i++) bytes.push(2 * symbol + (i % 2)); // no runs
    [count, next] = [next, count + next];
  }
  const shuffled = Uint8Array.from(bytes.slice(0, BLOCK)).sort((a, b) => ((a * 193) % 256) - ((b * 193) % 256));
  for (const kind of [Uint8Array.from(bytes), shuffled]) expectSame(inflated(deflateRuns(kind)), kind);
});

test("the output is these bytes", () => {
  const hex = (bytes: Uint8Array) => Buffer.from(deflateRuns(bytes)).toString("hex");
  expect(hex(new Uint8Array(0))).toBe("000000ffff");
  expect(hex(Uint8Array.of(5))).toBe("ecc121010000000090e4ff654b100000ffff");
  expect(hex(Uint8Array.of(...Array(300).fill(0), 1, 2, 3))).toBe("ecc10101000000c1b0a37f671504b001dc464e010000ffff");
});

test("no run refers to bytes before the first, so bands can be joined", () => {
  for (const byte of [0, 255, 7]) {
    const [first, second] = [new Uint8Array(300).fill(byte), new Uint8Array(300).fill(byte)];
    const other = new Uint8Array(300).fill(byte ^ 1);
    const data = deflateRuns(second).slice();
    for (const before of [first, other]) {
      expectSame(inflated(deflateRuns(before), data), Buffer.concat([before, second]));
    }
  }
});

test("the output is about as small as zlib's with Z_RLE", () => {
  const rows = new Uint8Array(600_000);
  for (let at = 0; at < rows.length; at++)
    rows[at] = (chance() + chance() + chance() - 1.5) * (at % 6000 < 3000 ? 3 : 30);
  const options = { level: 1, strategy: constants.Z_RLE, finishFlush: constants.Z_SYNC_FLUSH };
  for (const bytes of [rows, new Uint8Array(600_000)]) {
    expect(deflateRuns(bytes).length).toBeLessThan(deflateRawSync(bytes, options).length * 1.03 + 200);
  }
});

test("the output does not depend on a larger input before", () => {
  const small = random(5000, 3);
  const before = deflateRuns(small).slice();
  deflateRuns(random(2_000_000));
  expectSame(deflateRuns(small), before);
});

test("an inflater that is not zlib restores all kinds", () => {
  for (const make of Object.values(kinds)) {
    const [width, height] = [501, 311];
    const grey = make(width * height);
    const stitcher = new Stitcher(width, height);
    const pieces = [stitcher.head(), stitcher.band(encodeBand(grey.subarray(0, width * 11), width, 11), 11)!];
    pieces.push(stitcher.band(encodeBand(grey.subarray(width * 11), width, 300), 300)!, stitcher.tail());
    expectSame(decode(Buffer.concat(pieces), { checkCrc: true }).data as Uint8Array, grey);
  }
});
