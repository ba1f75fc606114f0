// The two loops over bytes of deflate.ts: count the tokens of a block, and write them as codes. AssemblyScript,
// compiled by `bun run build` to deflate.wasm, which is committed. No SIMD: it runs wherever WebAssembly does.
//
// A token is a literal (0 to 255), the end of a block (256), or a run (254 + its length of 3 to 258): so many more of
// the byte before. A code is 32 bits: how many bits it has in the upper 8, the bits themselves, first bit lowest, below.
// Of literals it has at most 14, so that four of them, and fewer than 8 bits that are left, are one word.
//
// A run is looked for at every fourth byte, and taken if it has eight or more: one comparison of words, which comes out the
// same nearly always. Shorter ones would save next to nothing, and cost a wrong guess of the processor for each.
//
// Invariant: every pointer comes from deflate.ts; a block has a byte before it that may be read.

const MAX_RUN: usize = 258;
const RUN: usize = 254;
const LITERALS: usize = 256;
/** Tokens, and three times literals: with one counter each, equal bytes would wait for each other. */
const COUNTERS: usize = 513 + 3 * LITERALS;

/** Bits that do not make a byte yet; fewer than 8 between calls. */
let bits: u64 = 0;
let held: u64 = 0;

/** Counts the tokens of a block's bytes, in 513 of the counters; they are 32 bits each, and the others are used up. */
export function count(at: usize, end: usize, counters: usize): void {
  const others = counters + 4 * 513;
  memory.fill(counters, 0, 4 * COUNTERS);
  while (at + 8 <= end) {
    if (isRun(at)) {
      const length = runLength(at, end);
      add(counters, RUN + length);
      at += length;
    } else {
      add(counters, load<u8>(at));
      add(others, load<u8>(at, 1));
      add(others + 4 * LITERALS, load<u8>(at, 2));
      add(others + 8 * LITERALS, load<u8>(at, 3));
      at += 4;
    }
  }
  for (; at < end; at++) add(counters, load<u8>(at));
  for (let literal: usize = 0; literal < LITERALS; literal++) {
    const counter = others + 4 * literal;
    const sum = load<u32>(counter) + load<u32>(counter + 4 * LITERALS) + load<u32>(counter + 8 * LITERALS);
    store<u32>(counters + 4 * literal, load<u32>(counters + 4 * literal) + sum);
  }
}

/** Writes a block's bytes as the codes of its tokens; returns where the next go. */
export function write(at: usize, end: usize, codes: usize, out: usize): usize {
  // In locals. A word is stored each time, and as far as it is whole it stands.
  let word = bits;
  let length = held;
  while (at < end) {
    if (at + 8 > end) {
      const code = codeOf(codes, load<u8>(at++));
      word |= bitsOf(code) << length;
      length += lengthOf(code);
    } else if (isRun(at)) {
      const run = runLength(at, end);
      const code = codeOf(codes, RUN + run);
      at += run;
      word |= bitsOf(code) << length;
      length += lengthOf(code);
    } else {
      const a = codeOf(codes, load<u8>(at));
      const b = codeOf(codes, load<u8>(at, 1));
      const c = codeOf(codes, load<u8>(at, 2));
      const d = codeOf(codes, load<u8>(at, 3));
      at += 4;
      const front = bitsOf(a) | (bitsOf(b) << lengthOf(a));
      const back = bitsOf(c) | (bitsOf(d) << lengthOf(c));
      word |= (front | (back << (lengthOf(a) + lengthOf(b)))) << length;
      length += lengthOf(a) + lengthOf(b) + lengthOf(c) + lengthOf(d);
    }
    store<u64>(out, word);
    out += <usize>(length >> 3);
    word >>= length & ~7;
    length &= 7;
  }
  bits = word;
  held = length;
  return out;
}

/** Writes codes as they stand, `number` of them. */
export function writeCodes(at: usize, number: usize, out: usize): usize {
  for (const end = at + (number << 2); at < end; at += 4) {
    const code = load<u32>(at);
    bits |= bitsOf(code) << held;
    held += lengthOf(code);
    store<u64>(out, bits);
    out += <usize>(held >> 3);
    bits >>= held & ~7;
    held &= 7;
  }
  return out;
}

/** Fills up to a whole byte with zeros: the next bits begin a byte of their own. */
export function flush(out: usize): usize {
  store<u64>(out, bits);
  out += held > 0 ? 1 : 0;
  bits = held = 0;
  return out;
}

/** Whether the next eight bytes are all as the one before them. */
// @ts-ignore: decorator
@inline
function isRun(at: usize): bool {
  return load<u64>(at) == load<u64>(at - 1);
}

/** How many bytes from `at` on are as the one before it, at most `MAX_RUN`. */
function runLength(at: usize, end: usize): usize {
  const byte = load<u8>(at - 1);
  const stop = min(end, at + MAX_RUN);
  let next = at;
  while (next < stop && load<u8>(next) == byte) next++;
  return next - at;
}

// @ts-ignore: decorator
@inline
function add(counters: usize, token: usize): void {
  const counter = counters + 4 * token;
  store<u32>(counter, load<u32>(counter) + 1);
}

// @ts-ignore: decorator
@inline
function codeOf(codes: usize, token: usize): u32 {
  return load<u32>(codes + 4 * token);
}

// @ts-ignore: decorator
@inline
function bitsOf(code: u32): u64 {
  return code & 0xffffff;
}

// @ts-ignore: decorator
@inline
function lengthOf(code: u32): u64 {
  return code >> 24;
}
