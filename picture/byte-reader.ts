/**
 * Bytes out of pieces of any size: on demand, or all of a file that must be complete before it is decoded.
 *
 * Invariant: each byte of a whole file is held once. Its buffer is resized by transfer, after its new size is taken from
 * the budget.
 *
 * Not here: what the bytes mean (read.ts, kinds.ts, png-read.ts).
 */
import type { HeldMemory } from "./budget.ts";
import { Scratch } from "./buffers.ts";
import { ImageError, startingWith } from "./picture.ts";

export class ByteReader {
  #pieces: AsyncIterator<Uint8Array>;
  #piece: Uint8Array = new Uint8Array(0);
  readonly #atEnd: () => Error;
  readonly #unit = new Scratch();

  /** @param atEnd makes the error for a source that ends too early */
  constructor(source: AsyncIterable<Uint8Array>, atEnd: () => Error) {
    this.#pieces = source[Symbol.asyncIterator]();
    this.#atEnd = atEnd;
  }

  /** The next bytes, without taking them: `most` or more, or up to a piece that contains `last`, or to the end. */
  async ahead(most: number, last: Uint8Array): Promise<Uint8Array> {
    const pieces = [this.#piece];
    let length = this.#piece.length;
    let tail = Buffer.from(this.#piece.buffer, this.#piece.byteOffset, length);
    while (length < most && !tail.includes(last)) {
      const next = await this.#pieces.next();
      if (next.done) break;
      pieces.push(next.value);
      length += next.value.length;
      tail = Buffer.concat([tail.subarray(-last.length), next.value]);
    }
    if (pieces.length > 1) this.#piece = Buffer.concat(pieces);
    return this.#piece;
  }

  /** Up to `most` bytes, not copied, without waiting; there may be none. */
  take(most: number): Uint8Array {
    const part = this.#piece.subarray(0, most);
    this.#piece = this.#piece.subarray(part.length);
    return part;
  }

  /** Between one and `most` bytes, not copied; none at the end. */
  async some(most: number): Promise<Uint8Array> {
    while (this.#piece.length === 0) {
      const next = await this.#pieces.next();
      if (next.done) break;
      this.#piece = next.value;
    }
    return this.take(most);
  }

  /** Between one and `most` bytes, not copied. @throws ImageError "corrupt" at the end */
  async more(most: number): Promise<Uint8Array> {
    const part = await this.some(most);
    if (part.length === 0) throw this.#atEnd();
    return part;
  }

  /** Exactly `length` bytes, not copied, without waiting; undefined if that needs the next piece. */
  exactly(length: number): Uint8Array | undefined {
    return this.#piece.length < length ? undefined : this.take(length);
  }

  /**
   * A whole number of units of `unit` bytes: at least one, at most `most`. They are valid until the next call. A unit
   * that spans two pieces is copied.
   */
  async units(unit: number, most: number): Promise<Uint8Array> {
    if (this.#piece.length === 0) this.#piece = (await this.#pieces.next()).value ?? this.#piece;
    const whole = Math.min(most, Math.floor(this.#piece.length / unit));
    return whole > 0 ? this.some(whole * unit) : this.read(unit, this.#unit.take(unit));
  }

  /** A copy of exactly `length` bytes, in `bytes`. */
  async read(length: number, bytes: Uint8Array = new Uint8Array(length)): Promise<Uint8Array> {
    for (let at = 0; at < length; ) {
      const part = await this.more(length - at);
      bytes.set(part, at);
      at += part.length;
    }
    return bytes;
  }

  /** Reads the rest of the source into memory. */
  async complete(memory: HeldMemory): Promise<void> {
    this.#piece = await collect(startingWith(this.#piece, this.#pieces), memory, () => true);
  }

  /** Closes the source. */
  async close(): Promise<void> {
    await this.#pieces.return?.();
  }
}

/** Bytes of a file without a budget, as on the command line. */
const MAX_BYTES = 2 ** 30;
/** The header is looked for in this many bytes, then each time they have doubled, up to the maximum. */
const MIN_HEADER_BYTES = 1 << 16;
const MAX_HEADER_BYTES = 1 << 24;

/**
 * @param check looks at the beginning; it throws if the file is refused, and returns true when it has seen the header
 * @returns a buffer of its own; the caller frees it
 * @throws ImageError "too-large"; BusyError; what `check` and the source throw
 */
export async function collect(
  pieces: AsyncIterable<Uint8Array>,
  memory: HeldMemory | undefined,
  check: (beginning: Buffer) => boolean,
): Promise<Buffer<ArrayBuffer>> {
  const most = Math.min(MAX_BYTES, memory?.maxBody ?? MAX_BYTES);
  let buffer = new ArrayBuffer(0);
  let filled = 0;
  let next = MIN_HEADER_BYTES;
  for await (const piece of pieces) {
    const length = filled + piece.length;
    if (length > most) throw tooLarge(most);
    if (length > buffer.byteLength) {
      const grown = Math.min(most, Math.max(length, Math.ceil(buffer.byteLength * 1.5)));
      memory?.body(grown);
      buffer = buffer.transfer(grown);
    }
    new Uint8Array(buffer).set(piece, filled);
    filled = length;
    if (filled >= next) {
      next = next > MAX_HEADER_BYTES || check(Buffer.from(buffer, 0, filled)) ? Number.POSITIVE_INFINITY : filled * 2;
    }
  }
  return Buffer.from(buffer, 0, filled);
}

function tooLarge(most: number): ImageError {
  const why = "formats that are held whole, and interlaced PNGs";
  return new ImageError("too-large", `file too large: expected at most ${most} bytes of ${why}, got more`);
}
