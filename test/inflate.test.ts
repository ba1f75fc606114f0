// Inflate against zlib: what zlib writes comes back, in pieces of any size; what zlib refuses is refused, in its words; and
// streams written bit by bit, for what zlib never writes.
import { describe, expect, test } from "bun:test";
import { constants, deflateSync, inflateSync } from "node:zlib";
import { InflateError, Inflater } from "../picture/kernel/inflate.ts";
import { chance, expectSame, random } from "./pictures.ts";

/** Bytes of input that an inflater holds, and of output that it gives at a time. */
const BLOCK = 1 << 18;
const WINDOW = 1 << 15;

/** What comes out, and how many bytes were behind the end. `size` of the pieces: a number, or any from 1 to 100,000. */
function inflated(data: Uint8Array, size: number | "any" = data.length): { bytes: Buffer; behind: number } {
  const inflater = new Inflater();
  const pieces: Buffer[] = [];
  const takeOut = (last: boolean) => {
    for (const block of inflater.blocks(last)) {
      pieces.push(Buffer.from(block));
      // Whoever has it may write over it.
      block.fill(0xa5);
    }
  };
  try {
    for (let at = 0; at < data.length; ) {
      const length = size === "any" ? 1 + Math.floor(chance() * 100_000) : size;
      const piece = data.subarray(at, at + length);
      const taken = inflater.take(piece);
      if (taken < piece.length) takeOut(false);
      at += taken;
    }
    takeOut(true);
  } finally {
    inflater.close();
  }
  return { bytes: Buffer.concat(pieces), behind: inflater.behind };
}

function expectInflated(data: Uint8Array, expected: Uint8Array, what = "", size?: number | "any"): void {
  const { bytes, behind } = inflated(data, size);
  expectSame(new Uint8Array(bytes), new Uint8Array(expected), what);
  expect(behind).toBe(0);
}

function complaint(data: Uint8Array): string {
  try {
    inflated(data);
  } catch (error) {
    expect(error).toBeInstanceOf(InflateError);
    return (error as Error).message;
  }
  return "";
}

/** What comes out of a stream before it is refused. */
function outOf(data: Uint8Array): Uint8Array {
  const inflater = new Inflater();
  const pieces: Buffer[] = [];
  inflater.take(data);
  try {
    for (const block of inflater.blocks(true)) pieces.push(Buffer.from(block));
  } catch (error) {
    expect(error).toBeInstanceOf(InflateError);
  } finally {
    inflater.close();
  }
  return new Uint8Array(Buffer.concat(pieces));
}

const kinds: Record<string, (length: number) => Uint8Array> = {
  zeros: (length) => new Uint8Array(length),
  noise: (length) => random(length),
  "two values": (length) => random(length, 2),
  "a few values": (length) => random(length, 12),
  "values of which each is half as frequent as the one before": (length) =>
    new Uint8Array(length).map(() => Math.min(255, -Math.log2(chance()))),
  "runs of any period": (length) => {
    const bytes = random(length);
    for (let at = 40; at < length; at += chance() * 60) {
      const period = 1 + Math.floor(chance() * 40);
      for (const end = Math.min(length, at + chance() * 600); at < end; at++) bytes[at] = bytes[at - period];
    }
    return bytes;
  },
  "far copies": (length) => {
    const bytes = random(length);
    for (let at = WINDOW; at + 300 < length; at += 300) bytes.copyWithin(at, at - WINDOW, at - WINDOW + 4 + (at % 250));
    return bytes;
  },
};

describe("what zlib writes comes back:", () => {
  const { Z_DEFAULT_STRATEGY, Z_FILTERED, Z_FIXED, Z_HUFFMAN_ONLY, Z_RLE } = constants;
  const strategies = { Z_DEFAULT_STRATEGY, Z_FILTERED, Z_FIXED, Z_HUFFMAN_ONLY, Z_RLE };
  test.each(Object.entries(kinds))(
    "%s",
    (_, make) => {
      for (const length of [0, 1, 2, 257, 1000, 70_000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7]) {
        const bytes = make(length);
        for (const level of [0, 1, 6, 9]) expectInflated(deflateSync(bytes, { level }), bytes, `${length} at ${level}`);
        for (const [name, strategy] of Object.entries(strategies)) {
          for (const memLevel of [1, 9]) {
            const data = deflateSync(bytes, { strategy, memLevel, windowBits: memLevel === 1 ? 9 : 15 });
            expectInflated(data, bytes, `${length} with ${name}`, "any");
          }
        }
      }
    },
    60_000,
  );

  test("in pieces of any size, the smallest too", () => {
    for (const make of Object.values(kinds)) {
      const bytes = make(5000);
      const data = deflateSync(bytes, { memLevel: 1 });
      for (const size of [1, 2, 3, 7, 100, data.length - 1, data.length]) expectInflated(data, bytes, `${size}`, size);
    }
  });

  test("blocks of all kinds, one after the other, also empty ones, over more than is held at a time", () => {
    const parts: Uint8Array[] = [];
    const { Z_SYNC_FLUSH: finishFlush } = constants;
    const data: Buffer[] = [Buffer.from("7801", "hex")];
    for (let i = 0; i < 60; i++) {
      const make = Object.values(kinds)[i % 7];
      parts.push(make(i % 5 === 0 ? 0 : Math.floor(chance() * 40_000)));
      const strategy = i % 3 === 0 ? Z_FIXED : Z_DEFAULT_STRATEGY;
      data.push(deflateSync(parts.at(-1)!, { level: i % 4, strategy, finishFlush }).subarray(2));
    }
    const bytes = Buffer.concat(parts);
    const adler = deflateSync(bytes, { level: 0 }).subarray(-4);
    expectInflated(Buffer.concat([...data, Buffer.from("0300", "hex"), adler]), bytes, "all", "any");
  });
});

describe("what zlib refuses is refused in its words:", () => {
  const wordsOfZlib = (data: Uint8Array): string => {
    try {
      inflateSync(data);
    } catch (error) {
      return (error as Error).message.toLowerCase();
    }
    return "";
  };

  test.each(Object.entries(kinds))("%s, harmed in any bit, or cut", (_, make) => {
    const bytes = make(300);
    let refused = 0;
    for (const options of [{}, { strategy: constants.Z_FIXED }, { level: 0 }]) {
      const data = deflateSync(bytes, options);
      for (let at = 0; at < 8 * data.length; at++) {
        const harmed = Uint8Array.from(data);
        harmed[at >> 3] ^= 1 << (at & 7);
        const ours = complaint(harmed).toLowerCase();
        expect({ at, ours }).toEqual({ at, ours: wordsOfZlib(harmed) });
        if (ours) refused++;
      }
      for (let length = 0; length < data.length; length++) {
        const ours = complaint(data.subarray(0, length));
        expect({ length, ours }).toEqual({ length, ours: "unexpected end of file" });
        // And nothing comes out but what was there: not what zeros behind the end would mean.
        const cut = outOf(data.subarray(0, length));
        expectSame(cut, bytes.subarray(0, cut.length), `cut to ${length}`);
      }
    }
    expect(refused).toBeGreaterThan(1000);
  });

  test("any bytes behind a header", () => {
    for (let i = 0; i < 20_000; i++) {
      const data = Buffer.concat([Buffer.from("7801", "hex"), random(1 + Math.floor(chance() * 400))]);
      // Mostly codes of their own, which most of the rules are about.
      if (i % 4 > 0) data[2] = (data[2] & ~7) | 4;
      const [ours, theirs] = [complaint(data).toLowerCase(), wordsOfZlib(data)];
      // zlib takes an empty code for lengths for zeros, and finds fault with those.
      if (ours.includes("code lengths set") && theirs.includes("missing end-of-block")) continue;
      expect({ data: data.toString("hex"), ours }).toEqual({ data: data.toString("hex"), ours: theirs });
    }
  });
});

describe("codes that zlib does not choose:", () => {
  test("any complete ones, of 15 bits too, with every length and distance", () => {
    let longest = 0;
    for (let i = 0; i < 300; i++) {
      const skew = i % 10;
      const literals = completeCode(257 + Math.floor(chance() * 30), skew, 256);
      const distances = completeCode(1 + Math.floor(chance() * 30), skew);
      longest = Math.max(longest, ...literals, ...distances);
      const { data, bytes } = written(literals, distances, 3000);
      expectSame(new Uint8Array(inflateSync(data)), bytes, "zlib reads it");
      expectInflated(data, bytes, `code ${i}`);
    }
    expect(longest).toBe(15);
  });

  test("one distance of one bit, or none", () => {
    const literals = completeCode(258, 0, 256, 257);
    for (const distances of [[0], [1]]) {
      const { data, bytes } = written(literals, distances, 100);
      expectInflated(data, bytes, `${distances}`);
    }
  });
});

describe("whoever reads it", () => {
  test("gets a block at a time, of a stream of any length", () => {
    const { Z_SYNC_FLUSH: finishFlush } = constants;
    const zeros = deflateSync(new Uint8Array(1 << 24), { finishFlush });
    const inflater = new Inflater();
    expect(inflater.take(zeros)).toBe(zeros.length);
    let most = 0;
    let length = 0;
    for (const block of inflater.blocks(false)) {
      most = Math.max(most, block.length);
      length += block.length;
    }
    // A match may begin on a block's last byte.
    expect(most).toBeLessThanOrEqual(BLOCK + 257);
    expect(length).toBeGreaterThan((1 << 24) - 1_000_000);
    inflater.close();
  });

  test("may read several at once, and give up any", () => {
    const texts = Object.values(kinds).map((make) => make(900_000));
    const open = texts.map((text) => {
      const inflater = new Inflater();
      const pieces: Buffer[] = [];
      return { text, inflater, pieces, left: new Uint8Array(deflateSync(text)) };
    });
    for (let step = 0; open.some(({ left }) => left.length > 0); step++) {
      for (const one of open) {
        const taken = one.inflater.take(one.left.subarray(0, 50_000));
        one.left = one.left.subarray(taken);
        for (const block of one.inflater.blocks(one.left.length === 0 && taken > 0))
          one.pieces.push(Buffer.from(block));
        // A stream that breaks, and one that is left, whose memory the next ones have.
        if (step % 4 === 0) expect(complaint(random(100))).not.toBe("");
      }
    }
    for (const { text, inflater, pieces } of open) {
      expectSame(new Uint8Array(Buffer.concat(pieces)), text);
      inflater.close();
    }
  });

  test("is told what is behind the end", () => {
    const data = deflateSync(random(1000));
    for (const behind of [0, 1, 4, 5, BLOCK, 3 * BLOCK + 1]) {
      expect(inflated(Buffer.concat([data, random(behind)])).behind).toBe(behind);
    }
  });

  test("is told of a checksum that is wrong, and of a header that is", () => {
    const data = deflateSync(random(1000));
    for (let at = 1; at <= 4; at++) {
      const harmed = Uint8Array.from(data);
      harmed[data.length - at] ^= 1;
      expect(complaint(harmed)).toBe("incorrect data check");
    }
    expect(complaint(Buffer.from("7802", "hex"))).toBe("incorrect header check");
    expect(complaint(Buffer.from("7709", "hex"))).toBe("unknown compression method");
    expect(complaint(Buffer.from("881c", "hex"))).toBe("invalid window size");
    expect(complaint(deflateSync(random(9), { dictionary: random(9) }))).toBe("missing dictionary");
  });
});

/**
 * The lengths of a code for some of `symbols` symbols, by parting the longest code again and again, or any.
 * @param skew of ten codes that are parted, how many are the longest
 * @param used symbols that have a code
 */
function completeCode(symbols: number, skew: number, ...used: number[]): number[] {
  const lengths = [1, 1];
  const most = 1 + used.length + Math.floor(chance() * (symbols - used.length));
  while (lengths.length < Math.min(most, symbols)) {
    const longest = lengths.indexOf(Math.max(...lengths.filter((length) => length < 15)));
    const at = chance() * 10 < skew ? longest : Math.floor(chance() * lengths.length);
    if (lengths[at] < 15) lengths.push(++lengths[at]);
  }
  if (symbols === 1) lengths.pop();
  const others = [...Array(symbols).keys()].filter((symbol) => !used.includes(symbol));
  const code = Array<number>(symbols).fill(0);
  lengths.sort(() => chance() - 0.5);
  for (const length of lengths) {
    const symbol = used.shift() ?? others.splice(Math.floor(chance() * others.length), 1)[0];
    code[symbol] = length;
  }
  return code;
}

/** A stream of one block with these codes, of symbols by chance, and what it stands for. */
function written(literals: number[], distances: number[], number: number): { data: Buffer; bytes: Uint8Array } {
  const bits: number[] = [];
  const put = (value: number, length: number) => {
    for (let i = 0; i < length; i++) bits.push((value >> i) & 1);
  };
  const symbolsOf = (lengths: number[]) => {
    const codes = canonical(lengths);
    const symbols = [...lengths.keys()].filter((symbol) => lengths[symbol] > 0);
    const putSymbol = (symbol: number) => bits.push(...codes[symbol]);
    return { symbols, putSymbol };
  };
  put(0b101, 3);
  put(literals.length - 257, 5);
  put(distances.length - 1, 5);
  put(15, 4);
  // The code for lengths: four bits for each of 0 to 15, the first bit of a code first.
  for (const symbol of [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]) put(symbol < 16 ? 4 : 0, 3);
  for (const length of [...literals, ...distances]) for (let i = 3; i >= 0; i--) bits.push((length >> i) & 1);
  const literal = symbolsOf(literals);
  const distance = symbolsOf(distances);
  const bytes: number[] = [];
  for (let i = 0; i < number; i++) {
    const symbol = literal.symbols[Math.floor(chance() * literal.symbols.length)];
    const far = distance.symbols[Math.floor(chance() * distance.symbols.length)];
    if (symbol < 256) {
      literal.putSymbol(symbol);
      bytes.push(symbol);
      continue;
    }
    // Distances that reach before the beginning are left out.
    const [base, extra] = far === undefined ? [Number.POSITIVE_INFINITY, 0] : DISTANCES[far];
    if (symbol === 256 || base + 2 ** extra > bytes.length) continue;
    literal.putSymbol(symbol);
    const [least, more] = LENGTHS[symbol - 257];
    const length = least + Math.floor(chance() * 2 ** more);
    put(length - least, more);
    distance.putSymbol(far);
    const back = base + Math.floor(chance() * 2 ** extra);
    put(back - base, extra);
    for (let k = 0; k < length; k++) bytes.push(bytes[bytes.length - back]);
  }
  literal.putSymbol(256);
  const body = Buffer.alloc(Math.ceil(bits.length / 8));
  bits.forEach((bit, at) => {
    body[at >> 3] |= bit << (at & 7);
  });
  const whole = Uint8Array.from(bytes);
  const adler = deflateSync(whole, { level: 0 }).subarray(-4);
  return { data: Buffer.concat([Buffer.from("7801", "hex"), body, adler]), bytes: whole };
}

/** Codes as bits, the first first (RFC 1951, 3.2.2). */
function canonical(lengths: number[]): number[][] {
  const codes: number[][] = [];
  let code = 0;
  for (let length = 1; length <= 15; length++) {
    code <<= 1;
    lengths.forEach((own, symbol) => {
      if (own !== length) return;
      codes[symbol] = Array.from({ length }, (_, i) => (code >> (length - 1 - i)) & 1);
      code++;
    });
  }
  return codes;
}

/** Base and extra bits of each symbol: RFC 1951, 3.2.5. */
const LENGTHS: [number, number][] = [];
const DISTANCES: [number, number][] = [];
for (let symbol = 0, base = 3; symbol < 28; symbol++) {
  const extra = symbol < 8 ? 0 : (symbol >> 2) - 1;
  LENGTHS.push([base, extra]);
  base += 2 ** extra;
}
LENGTHS.push([258, 0]);
for (let symbol = 0, base = 1; symbol < 30; symbol++) {
  const extra = symbol < 4 ? 0 : (symbol >> 1) - 1;
  DISTANCES.push([base, extra]);
  base += 2 ** extra;
}
