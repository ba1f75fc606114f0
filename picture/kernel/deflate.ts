/**
 * Deflate for edges: runs, which Sobel leaves where a surface is even, and Huffman codes for everything else. It
 * compresses about as well as zlib at level 1 with Z_RLE, in a third of the time.
 *
 *     a block       3 bits: not the last, dynamic codes
 *                   how many code lengths follow, the code for them, the lengths
 *                   literals and runs; a run is a length and the distance 1
 *                   the end of the block
 *     at the end    a sync flush: 3 bits, an empty stored block; zeros up to a byte; 00 00 ff ff; more may follow
 *
 * Invariant: the same input gives the same bytes on every runtime. The zlibs of runtimes differ.
 *
 * Not here: the loops over bytes (deflate.as.ts), what the bytes mean (picture/png-write.ts).
 * Source: RFC 1951; D. A. Huffman, "A Method for the Construction of Minimum-Redundancy Codes" (1952).
 */
import { readFileSync } from "node:fs";

/**
 * Bytes that share one set of codes. A block is not small, because a set takes about a hundred bytes. It is not large,
 * because its bytes should be alike. fflate, which fast-png uses, also reads no larger blocks.
 */
const BLOCK = 1 << 17;
const END = 256;
const TOKENS = 513;
/** The token of a run is 254 + its length of 3 to 258. */
const RUN = 254;
/** Deflate allows 15. Four codes of 14 bits fit into a word. */
const MAX_CODE = 14;
const MAX_LENGTHS_CODE = 7;
/** The shortest run of each symbol, from symbol 257 on. Extra bits add the rest of the length. */
const RUN_BASES = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163];
RUN_BASES.push(195, 227, 258);
const SYMBOLS = 257 + RUN_BASES.length;
/** The order in which the lengths of the code for lengths are written. */
const LENGTHS_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
const FEW_ZEROS = 17;
const MANY_ZEROS = 18;
/** Codes of distance 1 and of a distance that is never used, one bit each: decoders require a complete code. */
const DISTANCE_LENGTHS = [1, 1];

/** The symbol of each token, and its extra bits. */
const SYMBOL_OF = new Uint16Array(TOKENS);
const EXTRA_OF = new Uint32Array(TOKENS);
for (let token = 0; token < TOKENS; token++) {
  const run = RUN_BASES.findLastIndex((base) => base <= token - RUN);
  SYMBOL_OF[token] = token <= END ? token : 257 + run;
  if (token > END && run >= 8 && run < 28) EXTRA_OF[token] = bits(token - RUN - RUN_BASES[run], (run >> 2) - 1);
}

/** The exports of deflate.wasm. */
interface Wasm {
  memory: WebAssembly.Memory;
  count(at: number, end: number, counts: number): void;
  write(at: number, end: number, codes: number, out: number): number;
  writeCodes(at: number, number: number, out: number): number;
  flush(out: number): number;
}

// The WebAssembly memory: words (counters, then codes), a block with the byte before it, the output.
const WORDS = 0;
const BYTES = WORDS + 4 * 2048;
const OUT = BYTES + 16 + BLOCK + 16;

const file = readFileSync(new URL("./deflate.wasm", import.meta.url));
const wasm = new WebAssembly.Instance(new WebAssembly.Module(file)).exports as unknown as Wasm;
let heap = new Uint8Array(0);
let words = new Uint32Array(0);

/**
 * @returns deflate data that end on a byte boundary, have no final block, and refer to nothing before `bytes`; valid
 * until the next call
 */
export function deflateRuns(bytes: Uint8Array): Uint8Array {
  let out = OUT;
  reserve(out + 16);
  for (let at = 0; at < bytes.length; at += BLOCK) {
    // A literal has at most 14 bits, a run at most 20.
    reserve(out + 2 * BLOCK + 4 * 1024);
    const block = bytes.subarray(at, at + BLOCK);
    // The byte before the first must not begin a run.
    heap[BYTES] = at > 0 ? bytes[at - 1] : ~bytes[0];
    heap.set(block, BYTES + 1);
    out = writeBlock(BYTES + 1, BYTES + 1 + block.length, out);
  }
  words[0] = bits(0, 3);
  out = wasm.flush(wasm.writeCodes(WORDS, 1, out));
  heap.set([0, 0, 0xff, 0xff], out);
  return heap.subarray(OUT, out + 4);
}

/** Makes room. Growing detaches every view, so it happens before anything goes in. */
function reserve(bytes: number): void {
  const missing = bytes - heap.length;
  if (missing <= 0) return;
  wasm.memory.grow(Math.ceil(missing / 65536));
  heap = new Uint8Array(wasm.memory.buffer);
  words = new Uint32Array(wasm.memory.buffer, WORDS, 2048);
}

/** Writes a block from `out` on. Returns the position of the next. */
function writeBlock(at: number, end: number, out: number): number {
  wasm.count(at, end, WORDS);
  words[END] = 1;
  const counts = new Uint32Array(SYMBOLS);
  for (let token = 0; token < TOKENS; token++) counts[SYMBOL_OF[token]] += words[token];
  const lengths = codeLengths(counts, MAX_CODE);
  const head = headOf(lengths);
  words.set(head);
  const data = wasm.writeCodes(WORDS, head.length, out);
  const codes = codesOf(lengths);
  for (let token = 0; token < TOKENS; token++) words[token] = codes[SYMBOL_OF[token]];
  // Distance 1 is one bit: 0.
  for (let token = END + 1; token < TOKENS; token++) {
    words[token] = joined(joined(words[token], EXTRA_OF[token]), bits(0, 1));
  }
  words[TOKENS] = words[END];
  return wasm.writeCodes(WORDS + 4 * TOKENS, 1, wasm.write(at, end, WORDS, data));
}

/** A code, or any bits: their number in the upper 8 bits, then the bits, first bit lowest. */
function bits(value: number, number: number): number {
  return (number << 24) | value;
}

/** Two codes, one after the other, as one. */
function joined(first: number, second: number): number {
  const number = first >>> 24;
  return bits((first & 0xffffff) | ((second & 0xffffff) << number), number + (second >>> 24));
}

/** The head of a block: the lengths of its codes, which have a code of their own. */
function headOf(lengths: Uint8Array): number[] {
  const encoded = runLengthEncode([...lengths, ...DISTANCE_LENGTHS]);
  const counts = new Uint32Array(LENGTHS_ORDER.length);
  for (const { symbol } of encoded) counts[symbol]++;
  const ofLengths = codeLengths(counts, MAX_LENGTHS_CODE);
  const order = LENGTHS_ORDER.slice(0, 1 + LENGTHS_ORDER.findLastIndex((symbol) => ofLengths[symbol] > 0));
  const codes = codesOf(ofLengths);
  return [
    bits(0b100, 3),
    bits(lengths.length - 257, 5),
    bits(DISTANCE_LENGTHS.length - 1, 5),
    bits(order.length - 4, 4),
    ...order.map((symbol) => bits(ofLengths[symbol], 3)),
    ...encoded.map(({ symbol, extra }) => joined(codes[symbol], extra)),
  ];
}

/** Code lengths as symbols. Three or more zeros in a row become one symbol. Every other length is its own symbol. */
function runLengthEncode(lengths: number[]): { symbol: number; extra: number }[] {
  const symbols = [];
  for (let at = 0; at < lengths.length; ) {
    let zeros = 0;
    while (lengths[at + zeros] === 0 && zeros < 138) zeros++;
    if (zeros < 3) symbols.push({ symbol: lengths[at], extra: 0 });
    else if (zeros <= 10) symbols.push({ symbol: FEW_ZEROS, extra: bits(zeros - 3, 3) });
    else symbols.push({ symbol: MANY_ZEROS, extra: bits(zeros - 11, 7) });
    at += zeros < 3 ? 1 : zeros;
  }
  return symbols;
}

/** The length of each symbol's Huffman code; 0 for symbols that do not occur. At least two must occur. */
function codeLengths(counts: Uint32Array, longest: number): Uint8Array {
  // Sorted by count, then by symbol: both in one number.
  const leaves = new Uint32Array(counts.filter((count) => count > 0).length);
  for (let symbol = 0, next = 0; symbol < counts.length; symbol++) {
    if (counts[symbol] > 0) leaves[next++] = counts[symbol] * 512 + symbol;
  }
  leaves.sort();
  // Nodes are made in the order of their weights, so two queues suffice, without a heap.
  const weights = new Uint32Array(2 * leaves.length - 1);
  const parents = new Uint16Array(weights.length);
  for (let at = 0; at < leaves.length; at++) weights[at] = leaves[at] >>> 9;
  let leaf = 0;
  let node = leaves.length;
  for (let made = node; made < weights.length; made++) {
    for (let child = 0; child < 2; child++) {
      const isLeaf = leaf < leaves.length && (node === made || weights[leaf] <= weights[node]);
      const at = isLeaf ? leaf++ : node++;
      parents[at] = made;
      weights[made] += weights[at];
    }
  }
  const depths = new Uint8Array(weights.length);
  for (let at = weights.length - 2; at >= 0; at--) depths[at] = depths[parents[at]] + 1;
  if (depths[0] > longest) {
    const evened = counts.map((count) => (count + 1) >> 1);
    return codeLengths(evened, longest); // too deep: again with counts that differ less
  }
  const lengths = new Uint8Array(counts.length);
  for (let at = 0; at < leaves.length; at++) lengths[leaves[at] & 511] = depths[at];
  return lengths;
}

/** The canonical codes of these lengths (RFC 1951, 3.2.2), with their bits reversed: the highest is written first. */
function codesOf(lengths: Uint8Array): Uint32Array {
  const codes = new Uint32Array(lengths.length);
  let next = 0;
  for (let length = 1; length <= MAX_CODE; length++, next <<= 1) {
    for (let symbol = 0; symbol < lengths.length; symbol++) {
      if (lengths[symbol] === length) codes[symbol] = bits(reversed(next++, length), length);
    }
  }
  return codes;
}

function reversed(code: number, length: number): number {
  let turned = 0;
  for (let bit = 0; bit < length; bit++) turned |= ((code >> bit) & 1) << (length - 1 - bit);
  return turned;
}
