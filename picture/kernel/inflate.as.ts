// The loops of inflate (RFC 1951): AssemblyScript, compiled by `bun run build` to inflate.wasm, which is committed. No
// SIMD: it runs wherever WebAssembly does.
//
// Codes are looked up in tables whose entries are 32 bits. The lowest six say how many bits of the input an entry takes,
// which is all that a shift looks at: `bits >> entry` takes them.
//
//     one or two literals    6 taken │ 2 their number │ 8 the first │ 8 the second │ 8 zero
//     a length, a distance   6 taken, extra bits included │ 2 zero │ 4 of them the code's │ 4 zero │ 15 base │ 1 zero
//     another table          6 taken │ 2 zero │ 4 its index's │ 4 kind: OTHER_TABLE │ 15 where it begins │ 1 one
//     end, or no such code   6 taken │ 6 zero │ 4 kind │ 15 zero │ 1 one
//
// There is one loop, and it never looks whether the next bits are there: it stops while there are enough for a whole step,
// and goes on when more have come. At the end of the input, zeros stand for them.
//
// Invariant: every pointer comes from inflate.ts, which leaves room to read behind `inEnd`, and to write behind `outEnd`.
// Nothing before `window` is read, and whatever the input, nothing else of the memory is written.

const LITERAL_BITS: u32 = 11;
const DISTANCE_BITS: u32 = 8;
const LENGTHS_BITS: u32 = 7;
const LONGEST_CODE: u32 = 15;

// Kinds of entries.
const OTHER_TABLE: u32 = 1;
const BLOCK_END: u32 = 2;
const NO_CODE: u32 = 3;
const SPECIAL: u32 = 1 << 31;

// The entries of all codes with these indices' bits, the other tables included: no code needs more (zlib's `enough`).
const literalTable = memory.data(4 * 2342, 8);
const distanceTable = memory.data(4 * 402, 8);
const lengthsTable = memory.data(4 * 128, 8);
// What the entry of each symbol is, but for the bits of its code.
const literalSymbols = memory.data(4 * 288, 8);
const distanceSymbols = memory.data(4 * 32, 8);
const lengthsSymbols = memory.data(4 * 19, 8);
/** Code lengths in bits, of a byte each, of all symbols of a block: literals and lengths, then distances. */
const lengths = memory.data(288 + 32 + 138, 8);
/** Symbols by the length of their code, of 16 bits each. */
const sorted = memory.data(2 * 288, 8);
/** How many codes have each length, and where in `sorted` the next of each goes, of 16 bits each. */
const counts = memory.data(2 * 16, 8);
const places = memory.data(2 * 16, 8);
/** In which order the lengths of the code for lengths come. */
const order = memory.data<u8>([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]);

/** Memory from here on is inflate.ts's. */
export const FREE: usize = __heap_base;

// What `inflate` returns. Below zero, it is an error: the place of its text in inflate.ts, from −1 on.
const ENDED = 0;
const WANTS_INPUT = 1;
const WANTS_ROOM = 2;
const WELL = 3;

/** Where the next byte is read, and written. */
export let input: usize = 0;
export let output: usize = 0;

/** Bytes that a block gives before its literals are paired. */
const SHORT_BLOCK: usize = 2048;

const HEAD = 0;
const STORED = 1;
const CODED = 2;
/** What comes next: the head of a block, or the rest of one. */
let state = HEAD;
let lastBlock = false;
let storedLeft: usize = 0;
/** The bits that come next, lowest first, and how many; above those anything may stand. Fewer than 8 between calls. */
let bits: u64 = 0;
let held: u64 = 0;
let fixedTables = false;
let pairs = false;

for (let literal: u32 = 0; literal < 256; literal++) store<u32>(literalSymbols + 4 * literal, (1 << 6) | (literal << 8));
store<u32>(literalSymbols + 4 * 256, SPECIAL | (BLOCK_END << 12));
fillSymbols(literalSymbols + 4 * 257, 28, 3, 2);
store<u32>(literalSymbols + 4 * 285, 258 << 16);
store<u32>(literalSymbols + 4 * 286, SPECIAL | (NO_CODE << 12));
store<u32>(literalSymbols + 4 * 287, SPECIAL | (NO_CODE << 12));
fillSymbols(distanceSymbols, 30, 1, 1);
store<u32>(distanceSymbols + 4 * 30, SPECIAL | (NO_CODE << 12));
store<u32>(distanceSymbols + 4 * 31, SPECIAL | (NO_CODE << 12));
for (let symbol: u32 = 0; symbol < 19; symbol++) store<u32>(lengthsSymbols + 4 * symbol, symbol << 16);

/** Lengths or distances from `base` on: 2 ** (step + 1) symbols without extra bits, then 2 ** step with one, with two … */
function fillSymbols(symbols: usize, number: u32, base: u32, step: u32): void {
  for (let symbol: u32 = 0; symbol < number; symbol++) {
    const extra: u32 = symbol >> step > 1 ? (symbol >> step) - 1 : 0;
    store<u32>(symbols + 4 * symbol, (base << 16) | extra);
    base += 1 << extra;
  }
}

/** Forgets the stream that there was. */
export function reset(): void {
  state = HEAD;
  lastBlock = false;
  bits = held = 0;
}

/**
 * Goes on with a stream from `input` up to `inEnd`, behind which nothing follows if it is `last`, and writes from
 * `output` on, until that is past `outEnd`. Matches may reach back to `window`.
 */
export function inflate(inEnd: usize, last: bool, window: usize, outEnd: usize): i32 {
  while (true) {
    let outcome = WELL;
    if (state == HEAD) {
      if (lastBlock) return ENDED;
      // No head of a block is longer.
      if (!last && input + 320 > inEnd) return WANTS_INPUT;
      outcome = readHead();
    } else if (state == CODED) {
      // Of a short block the pairs are not worth their making.
      const room = pairs ? outEnd : min(outEnd, output + SHORT_BLOCK);
      outcome = readBlock(last ? inEnd + 8 : inEnd - 24, window, room);
      if (outcome == WANTS_ROOM && output < outEnd) {
        pairLiterals();
        outcome = WELL;
      }
    }
    // Zeros behind the end were read: whatever came of it, that is what is wrong.
    if (input > inEnd) return WANTS_INPUT;
    if (outcome != WELL) return outcome;
    if (state == STORED) {
      const length = min(storedLeft, min(inEnd - input, outEnd > output ? outEnd - output : 0));
      memory.copy(output, input, length);
      input += length;
      output += length;
      storedLeft -= length;
      if (storedLeft > 0) return output < outEnd ? WANTS_INPUT : WANTS_ROOM;
      state = HEAD;
    }
  }
}

function readHead(): i32 {
  lastBlock = take(1) == 1;
  const kind = take(2);
  let outcome = -1;
  if (kind == 0) outcome = readStoredHead();
  if (kind == 1) outcome = useFixedCodes();
  if (kind == 2) outcome = readCodes();
  giveBack();
  return outcome;
}

function readStoredHead(): i32 {
  giveBack();
  bits = held = 0;
  state = STORED;
  storedLeft = take(16);
  return (storedLeft ^ take(16)) == 0xffff ? WELL : -2;
}

function useFixedCodes(): i32 {
  state = CODED;
  if (fixedTables) return WELL;
  memory.fill(lengths, 8, 144);
  memory.fill(lengths + 144, 9, 112);
  memory.fill(lengths + 256, 7, 24);
  memory.fill(lengths + 280, 8, 8);
  memory.fill(lengths + 288, 5, 32);
  fixedTables = true;
  return makeTables(288, 32);
}

function readCodes(): i32 {
  state = CODED;
  fixedTables = false;
  const literals: u32 = 257 + take(5);
  const distances: u32 = 1 + take(5);
  const number: u32 = 4 + take(4);
  if (literals > 286 || distances > 30) return -3;
  memory.fill(lengths, 0, 19);
  for (let i: u32 = 0; i < number; i++) store<u8>(lengths + load<u8>(order + i), take(3));
  if (makeTable(lengths, 19, lengthsSymbols, lengthsTable, LENGTHS_BITS) != COMPLETE) return -4;
  for (let told: u32 = 0; told < literals + distances; ) {
    if (held < LENGTHS_BITS) refill();
    const entry = load<u32>(lengthsTable + 4 * <usize>low(bits, LENGTHS_BITS));
    take(entry & 63);
    const symbol = entry >> 16;
    let length = symbol;
    let times: u32 = 1;
    if (symbol == 16) {
      times = 3 + take(2);
      if (told == 0) return -5;
      length = load<u8>(lengths + told - 1);
    } else if (symbol > 16) {
      length = 0;
      times = symbol == 17 ? 3 + take(3) : 11 + take(7);
    }
    if (told + times > literals + distances) return -5;
    memory.fill(lengths + told, <u8>length, times);
    told += times;
  }
  if (load<u8>(lengths + 256) == 0) return -6;
  return makeTables(literals, distances);
}

function makeTables(literals: u32, distances: u32): i32 {
  if (makeTable(lengths, literals, literalSymbols, literalTable, LITERAL_BITS) == WRONG) return -7;
  if (makeTable(lengths + literals, distances, distanceSymbols, distanceTable, DISTANCE_BITS) == WRONG) return -8;
  pairs = false;
  return WELL;
}

const COMPLETE = 0;
/** One code of one bit, or none: the other bit means nothing. */
const SINGLE = 1;
const WRONG = 2;

/** The table of the canonical codes of these lengths (3.2.2). */
function makeTable(lengths: usize, number: u32, symbols: usize, table: usize, tableBits: u32): i32 {
  memory.fill(counts, 0, 2 * 16);
  for (let symbol: u32 = 0; symbol < number; symbol++) add(counts + 2 * <usize>load<u8>(lengths + symbol));
  let used: u32 = 0;
  let longest: u32 = 0;
  let free: i32 = 1;
  for (let length: u32 = 1; length <= LONGEST_CODE; length++) {
    const count: u32 = load<u16>(counts + 2 * length);
    store<u16>(places + 2 * length, used);
    used += count;
    free = 2 * free - count;
    if (free < 0) return WRONG;
    if (count > 0) longest = length;
  }
  if (free > 0 && longest > 1) return WRONG;
  for (let symbol: u32 = 0; symbol < number; symbol++) {
    const length: usize = load<u8>(lengths + symbol);
    if (length > 0) store<u16>(sorted + 2 * <usize>add(places + 2 * length), symbol);
  }
  // What the longest code does not tell apart is the same again and again.
  const filled: u32 = min(tableBits, max(longest, 1));
  if (free > 0) fill(table, 0, 1 << filled, 1, SPECIAL | (NO_CODE << 12) | 1);

  // Codes are written from their first bit on, lowest in `code`.
  let code: u32 = 0;
  let room: u32 = 1 << tableBits;
  let prefix = u32.MAX_VALUE;
  let other: u32 = 0;
  let otherBits: u32 = 0;
  for (let place: u32 = 0; place < used; place++) {
    const symbol: usize = load<u16>(sorted + 2 * place);
    const length: u32 = load<u8>(lengths + symbol);
    const entry = load<u32>(symbols + 4 * symbol);
    if (length <= tableBits) {
      fill(table, code, 1 << filled, 1 << length, withCode(entry, length));
    } else {
      const rest = length - tableBits;
      if (low(code, tableBits) != prefix) {
        prefix = low(code, tableBits);
        other = room;
        otherBits = rest;
        // As many bits as the longest of the codes that begin so: what is left of a level is twice as much of the next.
        let level: u32 = length;
        let left: i32 = (1 << rest) - alike(lengths, place, used);
        for (; left > 0; otherBits++) left = 2 * left - load<u16>(counts + 2 * ++level);
        room += 1 << otherBits;
        store<u32>(table + 4 * prefix, SPECIAL | (other << 16) | (OTHER_TABLE << 12) | (otherBits << 8) | tableBits);
      }
      fill(table + 4 * other, code >> tableBits, 1 << otherBits, 1 << rest, withCode(entry, rest));
    }
    code = after(code, length);
  }
  for (let size: u32 = 1 << filled; size < 1 << tableBits; size *= 2) memory.copy(table + 4 * size, table, 4 * size);
  return free > 0 ? SINGLE : COMPLETE;
}

/** A symbol's entry, whose code takes so many bits. */
function withCode(entry: u32, length: u32): u32 {
  const plain = !isLiteral(entry) && !isSpecial(entry);
  return entry + length + (plain ? length << 8 : 0);
}

/** The next code of this length: one more, its highest bit being the first. */
function after(code: u32, length: u32): u32 {
  let bit: u32 = 1 << (length - 1);
  while (code & bit) bit >>= 1;
  return bit == 0 ? 0 : low(code, ctz(bit)) | bit;
}

/** How many codes from `place` on are as long as the first of them. */
function alike(lengths: usize, place: u32, used: u32): i32 {
  const length = load<u8>(lengths + load<u16>(sorted + 2 * place));
  let next = place;
  while (next < used && load<u8>(lengths + load<u16>(sorted + 2 * next)) == length) next++;
  return next - place;
}

function fill(table: usize, from: u32, to: u32, step: u32, entry: u32): void {
  for (let index = from; index < to; index += step) store<u32>(table + 4 * index, entry);
}

/** Adds one, and returns what was there. */
function add(counter: usize): u32 {
  const value: u32 = load<u16>(counter);
  store<u16>(counter, value + 1);
  return value;
}

/** Two literals whose codes fit into one index are one entry. From the end: the second is looked up further in front. */
function pairLiterals(): void {
  pairs = true;
  for (let index = (1 << LITERAL_BITS) - 1; index >= 0; index--) {
    const at = literalTable + 4 * <usize>index;
    const first = load<u32>(at);
    const second = load<u32>(literalTable + 4 * <usize>(index >> (first & 63)));
    const together = (first & 63) + (second & 63);
    if (!isLiteral(first) || !isLiteral(second) || together > LITERAL_BITS) continue;
    store<u32>(at, together | (2 << 6) | (first & 0xff00) | ((second & 0xff00) << 8));
  }
}

/** Decodes until the block ends, or the input or the room does. */
function readBlock(inLimit: usize, window: usize, outEnd: usize): i32 {
  // In locals, which stay in registers. Of `ready` the lowest six bits count.
  let at = input;
  let out = output;
  let word = bits;
  let ready = held;
  let outcome = WANTS_INPUT;

  // After a refill there are at least 56 bits. A step takes 37 of them, for a literal of the other table and two entries
  // more, or 48, for a length and a distance of 15 bits each with 5 and 13 extra bits.
  word |= load<u64>(at) << ready;
  at += readAhead(ready);
  ready |= 56;
  let entry = literalEntry(word);
  while (at <= inLimit) {
    if (out >= outEnd) {
      outcome = WANTS_ROOM;
      break;
    }
    if (isSpecial(entry)) {
      if (kindOf(entry) == OTHER_TABLE) {
        word >>= entry;
        ready -= entry;
        entry = load<u32>(literalTable + 4 * otherIndex(entry, word));
      }
      if (isSpecial(entry)) {
        word >>= entry;
        ready -= entry;
        state = HEAD;
        outcome = kindOf(entry) == BLOCK_END ? WELL : -9;
        break;
      }
    }
    if (isLiteral(entry)) {
      for (let more = 3; more > 0 && isLiteral(entry); more--) {
        store<u16>(out, entry >> 8);
        out += (entry >> 6) & 3;
        word >>= entry;
        ready -= entry;
        entry = literalEntry(word);
      }
    } else {
      const length: usize = valueOf(entry, word);
      word >>= entry;
      ready -= entry;
      entry = load<u32>(distanceTable + 4 * <usize>low(word, DISTANCE_BITS));
      if (isSpecial(entry) && kindOf(entry) == OTHER_TABLE) {
        word >>= entry;
        ready -= entry;
        entry = load<u32>(distanceTable + 4 * otherIndex(entry, word));
      }
      const distance: usize = valueOf(entry, word);
      word >>= entry;
      ready -= entry;
      if (isSpecial(entry) || distance > out - window) {
        outcome = isSpecial(entry) ? -10 : -11;
        break;
      }
      word |= load<u64>(at) << ready;
      at += readAhead(ready);
      ready |= 56;
      entry = literalEntry(word);
      repeat(out, distance, length);
      out += length;
      continue;
    }
    word |= load<u64>(at) << ready;
    at += readAhead(ready);
    ready |= 56;
  }
  input = at;
  output = out;
  bits = word;
  held = ready & 63;
  giveBack();
  return outcome;
}

/** Writes `length` bytes, each what is `distance` before it, and up to 14 bytes more. */
// @ts-ignore: decorator
@inline
function repeat(out: usize, distance: usize, length: usize): void {
  const end = out + length;
  let from = out - distance;
  if (distance < 8) {
    do {
      store<u64>(out, load<u64>(from));
      out += distance;
      distance *= 2;
    } while (distance < 8);
  }
  do {
    store<u64>(out, load<u64>(from));
    out += 8;
    from += 8;
  } while (out < end);
}

/** The next `number` bits, at most 16. */
function take(number: u64): u32 {
  if (held < number) refill();
  const value = low(bits, <u32>number);
  bits >>= number;
  held -= number;
  return value;
}

function refill(): void {
  bits |= load<u64>(input) << held;
  input += readAhead(held);
  held |= 56;
}

/** Gives back the whole bytes that were read ahead. */
function giveBack(): void {
  input -= <usize>(held >> 3);
  held &= 7;
  bits &= (1 << held) - 1;
}

/** How many whole bytes fit behind so many bits of a word. */
// @ts-ignore: decorator
@inline
function readAhead(ready: u64): usize {
  return <usize>((63 - ready) >> 3) & 7;
}

// @ts-ignore: decorator
@inline
function low(word: u64, number: u32): u32 {
  return <u32>word & ((<u32>1 << number) - 1);
}

// @ts-ignore: decorator
@inline
function literalEntry(word: u64): u32 {
  return load<u32>(literalTable + 4 * <usize>low(word, LITERAL_BITS));
}

// @ts-ignore: decorator
@inline
function isLiteral(entry: u32): bool {
  return (entry & 0xc0) != 0;
}

// @ts-ignore: decorator
@inline
function isSpecial(entry: u32): bool {
  return <i32>entry < 0;
}

// @ts-ignore: decorator
@inline
function kindOf(entry: u32): u32 {
  return (entry >> 12) & 15;
}

/** Where the entry stands in the other table. */
// @ts-ignore: decorator
@inline
function otherIndex(entry: u32, word: u64): usize {
  return ((entry >> 16) & 0x7fff) + low(word, (entry >> 8) & 15);
}

/** A length or distance: base and extra bits, which stand behind the code. */
// @ts-ignore: decorator
@inline
function valueOf(entry: u32, word: u64): u32 {
  return (entry >> 16) + (low(word, entry & 63) >> ((entry >> 8) & 15));
}
