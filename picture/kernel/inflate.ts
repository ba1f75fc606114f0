/**
 * Inflate: a zlib stream's bytes, decompressed as they come, in about half of zlib's time (bench.ts). It gives the same bytes
 * wherever it runs, and is not asynchronous: for each piece, a way to another thread and back costs as much as the work.
 *
 *     a stream      78 xx          method and window
 *                   blocks         stored, of fixed codes, or of codes of their own
 *                   Adler-32       of what comes out, high byte first
 *
 * Not here: the loops over bits and bytes (inflate.as.ts), where the stream stands in a file (png.ts).
 * Invariant: no input has more written than a block beyond what has been asked for, and what comes out of a stream that
 * ends without an error is what went in.
 * Source: RFC 1950; RFC 1951. What is not allowed, and how it is called, is as in zlib, but that this one finds fault with an
 * empty code for lengths, and zlib with what comes of it.
 */
import { readFileSync } from "node:fs";
import { kernel } from "./kernel.ts";

/** The data are no whole zlib stream; the message says why. */
export class InflateError extends Error {}

/** The exports of inflate.wasm. */
interface Wasm {
  memory: WebAssembly.Memory;
  FREE: WebAssembly.Global;
  input: WebAssembly.Global;
  output: WebAssembly.Global;
  reset(): void;
  inflate(inEnd: number, last: boolean, window: number, outEnd: number): number;
}

const ENDED = 0;
const WANTS_INPUT = 1;
/** What `inflate` returns below zero, from −1 on. */
const ERRORS = [
  "invalid block type",
  "invalid stored block lengths",
  "too many length or distance symbols",
  "invalid code lengths set",
  "invalid bit length repeat",
  "invalid code -- missing end-of-block",
  "invalid literal/lengths set",
  "invalid distances set",
  "invalid literal/length code",
  "invalid distance code",
  "invalid distance too far back",
];

/** Bytes of input that are held, and of output at a time: fits the second-level cache. */
const BLOCK = 1 << 18;
/** How far back a match may reach. */
const WINDOW = 1 << 15;
/** Method and window; the Adler-32. */
const HEADER_BYTES = 2;
const TRAILER_BYTES = 4;
/** How far the loops may read behind the input: over a block's head, more than a step takes. */
const PAST_INPUT = 512;
/** How far they may write behind the output: a longest match, 258, and two words. */
const PAST_OUTPUT = 272;

const module = new WebAssembly.Module(readFileSync(new URL("./inflate.wasm", import.meta.url)));
/** Those that no stream uses now. */
const idle: Wasm[] = [];

/** One stream: `take` and `blocks` in turn, each `blocks` to its end; then, or after an error, `close`, once. */
export class Inflater {
  readonly #wasm = idle.pop() ?? (new WebAssembly.Instance(module).exports as unknown as Wasm);
  readonly #in = this.#wasm.FREE.value;
  readonly #out = this.#in + BLOCK + PAST_INPUT + WINDOW;
  readonly #heap: Uint8Array;
  #filled = 0;
  #begun = false;
  #ended = false;
  /** Bytes that have come out. */
  length = 0;
  #adler = 1;
  #behind = 0;

  constructor() {
    const { memory } = this.#wasm;
    const missing = this.#out + BLOCK + PAST_OUTPUT - memory.buffer.byteLength;
    if (missing > 0) memory.grow(Math.ceil(missing / 65536));
    this.#heap = new Uint8Array(memory.buffer);
    this.#wasm.reset();
  }

  /** Takes in as many of these bytes as there is room for; returns how many. None: `blocks` makes room. */
  take(bytes: Uint8Array): number {
    const part = bytes.subarray(0, BLOCK - this.#filled);
    this.#heap.set(part, this.#in + this.#filled);
    this.#filled += part.length;
    return part.length;
  }

  /**
   * Decompresses what was taken in.
   * @param last nothing follows: what is not a whole stream by then is an error
   * @returns blocks that hold until the next is asked for, and may be written to
   * @throws InflateError
   */
  *blocks(last: boolean): Generator<Uint8Array> {
    const end = this.#in + this.#filled;
    const { input, output } = this.#wasm;
    input.value = this.#in;
    if (last) this.#heap.fill(0, end, end + PAST_INPUT);
    if (!this.#begun && !last && this.#filled < HEADER_BYTES) return;
    if (!this.#begun) input.value += this.#readHeader();
    while (!this.#ended) {
      output.value = this.#out;
      const window = this.#out - Math.min(this.length, WINDOW);
      const outcome = this.#wasm.inflate(end, last, window, this.#out + BLOCK);
      if (outcome < 0) throw new InflateError(ERRORS[-1 - outcome]);
      // What came out may be of the zeros behind the end.
      if (last && outcome === WANTS_INPUT) throw new InflateError("unexpected end of file");
      if (output.value > this.#out) yield this.#block(output.value);
      if (outcome === ENDED) this.#ended = true;
      if (outcome === WANTS_INPUT) break;
    }
    this.#keep(input.value, end);
    if (last) this.#checkEnd();
  }

  /** How many bytes there were behind the stream's end. */
  get behind(): number {
    return this.#behind;
  }

  /** The memory is for the next stream. */
  close(): void {
    idle.push(this.#wasm);
  }

  /** Its length in bytes. */
  #readHeader(): number {
    const [method, flags] = this.#heap.subarray(this.#in, this.#in + HEADER_BYTES);
    if (this.#filled < HEADER_BYTES) throw new InflateError("unexpected end of file");
    if (((method << 8) | flags) % 31 !== 0) throw new InflateError("incorrect header check");
    if ((method & 15) !== 8) throw new InflateError("unknown compression method");
    if (method >> 4 > 7) throw new InflateError("invalid window size");
    if ((flags & 32) !== 0) throw new InflateError("missing dictionary");
    this.#begun = true;
    return HEADER_BYTES;
  }

  #block(end: number): Uint8Array {
    const block = this.#heap.subarray(this.#out, end);
    // Before anybody writes over it: what comes next may refer to it.
    this.#heap.copyWithin(this.#out - WINDOW, end - WINDOW, end);
    this.length += block.length;
    this.#adler = kernel.adler32(block, this.#adler);
    return block;
  }

  /** The rest of the input, for the next time; but what is behind the stream's end is only counted. */
  #keep(at: number, end: number): void {
    this.#filled = this.#ended ? Math.min(end - at, TRAILER_BYTES) : end - at;
    this.#heap.copyWithin(this.#in, at, at + this.#filled);
    this.#behind += end - at - this.#filled;
  }

  #checkEnd(): void {
    if (this.#filled < TRAILER_BYTES) throw new InflateError("unexpected end of file");
    const [a, b, c, d] = this.#heap.subarray(this.#in, this.#in + TRAILER_BYTES);
    if (((a << 24) | (b << 16) | (c << 8) | d) >>> 0 !== this.#adler) throw new InflateError("incorrect data check");
  }
}
