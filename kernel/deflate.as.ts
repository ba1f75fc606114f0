// The two loops over bytes of deflate.ts: count the tokens of a block, and write them as codes. AssemblyScript,
// compiled by `bun run build` to deflate.wasm, which is committed. No SIMD: it runs wherever WebAssembly does.
//
// A token is a literal (0 to 255), the end of a block (256), or a run (254 + its length of 3 to 258): so many more of
// the byte before. A code is 32 bits: how many bits it has in the upper 8, the bits themselves, first bit lowest, below.
//
// Invariant: every pointer comes from deflate.ts; a block has a byte before it, and 3 bytes behind it, that may be read.

const LEAST_RUN: usize = 3;
const MOST_RUN: usize = 258;
const RUN: usize = 254;

/** Bits that do not make a byte yet; fewer than 8 between calls. */
let bits: u64 = 0;
let held: u64 = 0;

/** Counts the tokens of a block's bytes in `counts`, 513 of 32 bits. The byte before the block may begin a run. */
export function count(at: usize, end: usize, counts: usize): void {
  while (at < end) {
    const length = runAt(at, end);
    const token = length > 0 ? RUN + length : <usize>load<u8>(at);
    const counter = counts + (token << 2);
    store<u32>(counter, load<u32>(counter) + 1);
    at += length > 0 ? length : 1;
  }
}

/** Writes a block's bytes as the codes of its tokens; returns where the next go. */
export function write(at: usize, end: usize, codes: usize, out: usize): usize {
  // In locals, and with no branch on how many bits there are: a word is stored each time, and as far as it is whole
  // it stands.
  let word = bits;
  let length = held;
  while (at < end) {
    const run = runAt(at, end);
    let code: u64 = load<u32>(codes + ((run > 0 ? RUN + run : <usize>load<u8>(at)) << 2));
    at += run > 0 ? run : 1;
    word |= (code & 0xffffff) << length;
    length += code >> 24;
    // Most tokens are literals, and two of them go into one word.
    if (at < end && runAt(at, end) == 0) {
      code = load<u32>(codes + (<usize>load<u8>(at) << 2));
      at++;
      word |= (code & 0xffffff) << length;
      length += code >> 24;
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
    const code: u64 = load<u32>(at);
    bits |= (code & 0xffffff) << held;
    held += code >> 24;
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

/** How many bytes from `at` on are as the one before it; 0 for fewer than three. */
// @ts-ignore: decorator
@inline
function runAt(at: usize, end: usize): usize {
  const four = load<u32>(at - 1);
  // All four bytes are equal if they are what they are when turned by one.
  return four != rotl(four, 8) ? 0 : runLength(at, end);
}

function runLength(at: usize, end: usize): usize {
  const byte = load<u8>(at - 1);
  const stop = min(end, at + MOST_RUN);
  let next = at;
  while (next < stop && load<u8>(next) == byte) next++;
  return next - at >= LEAST_RUN ? next - at : 0;
}
