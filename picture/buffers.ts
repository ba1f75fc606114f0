/**
 * Memory that is used again and again: what is new from the system costs more than a copy into it, and the garbage
 * collector has to take it back.
 */

/** For one thing at a time. */
export class Scratch {
  #bytes = new Uint8Array(0);

  /** `length` bytes that hold anything, until the next call. */
  take(length: number): Uint8Array {
    if (this.#bytes.length < length) this.#bytes = new Uint8Array(length);
    return this.#bytes.subarray(0, length);
  }
}

/** For several at a time, each until it is given back. */
export class Pool {
  readonly #free: ArrayBufferLike[] = [];

  /** @param most bytes that are kept of what is given back */
  constructor(readonly most: number) {}

  /** `length` bytes that hold anything, in memory that nobody else has a part of. */
  take(length: number): Uint8Array {
    const at = this.#free.findIndex((memory) => memory.byteLength >= length);
    const memory = at < 0 ? Buffer.allocUnsafeSlow(length).buffer : this.#free.splice(at, 1)[0];
    return new Uint8Array(memory, 0, length);
  }

  /**
   * The last that was given is taken first. What lies longest goes where there is too much: it may be too small for anybody.
   * @param bytes that `take` gave, and that nobody will look at any more
   */
  give(bytes: Uint8Array): void {
    this.#free.unshift(bytes.buffer);
    let kept = this.#free.reduce((sum, { byteLength }) => sum + byteLength, 0);
    while (kept > this.most) kept -= this.#free.pop()!.byteLength;
  }
}
