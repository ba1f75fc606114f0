// The two loops of deflate.ts: count the tokens of a block, and write them as codes. AssemblyScript: `bun run build`
// compiles it to deflate.wasm, which is committed. It uses no SIMD, so it runs wherever WebAssembly does.
//
//     a token     a literal (0 to 255), the end of a block (256), or a run (254 + its length of 3 to 258), which
//                 repeats the byte before it
//     a code      32 bits: the number of its bits (upper 8), then the bits, first bit lowest
//
// The code of a literal has at most 14 bits. So four of them, and up to 7 bits left over, fit into a word.
//
// Runs are looked for at every fourth byte, and only runs of eight bytes or more. That takes one comparison of words,
// which the processor predicts well. Shorter runs would save little, and each would cost a misprediction.
//
// Invariant: every pointer comes from deflate.ts, and the byte before a block can be read.

const MAX_RUN: usize = 258;
const RUN: usize = 254;
const LITERALS: usize = 256;
/** One counter per token, and three more per literal: with one each, equal bytes would wait for each other. */
const COUNTERS: usize = 513 + 3 * LITERALS;

/** Bits that are not a whole byte yet; fewer than 8 between calls. */
let bits: u64 = 0;
let held: u64 = 0;

/** Counts the tokens of a block, in the first 513 counters of 32 bits. The other counters are scratch. */
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

/** Writes a block as the codes of its tokens. Returns the position after the last whole byte. */
export function write(at: usize, end: usize, codes: usize, out: usize): usize {
  // Locals are faster than globals. Every step stores a whole word; the next one overwrites its incomplete byte.
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

/** Writes `number` codes as they are. */
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

/** Completes the last byte with zeros. The next bits begin a new byte. */
export function flush(out: usize): usize {
  store<u64>(out, bits);
  out += held > 0 ? 1 : 0;
  bits = held = 0;
  return out;
}

/** Whether the next eight bytes equal the byte before them. */
@inline
function isRun(at: usize): bool {
  return load<u64>(at) == load<u64>(at - 1);
}

/** How many bytes from `at` on equal the byte before it, at most `MAX_RUN`. */
function runLength(at: usize, end: usize): usize {
  const byte = load<u8>(at - 1);
  const stop = min(end, at + MAX_RUN);
  let next = at;
  while (next < stop && load<u8>(next) == byte) next++;
  return next - at;
}

@inline
function add(counters: usize, token: usize): void {
  const counter = counters + 4 * token;
  store<u32>(counter, load<u32>(counter) + 1);
}

@inline
function codeOf(codes: usize, token: usize): u32 {
  return load<u32>(codes + 4 * token);
}

@inline
function bitsOf(code: u32): u64 {
  return code & 0xffffff;
}

@inline
function lengthOf(code: u32): u64 {
  return code >> 24;
}
