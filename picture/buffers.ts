/**
 * Reusable buffers. A new buffer from the system costs more than a copy into an old one, and the garbage collector has
 * to return it.
 */

/** One buffer, for one use at a time. */
export class Scratch {
  #bytes = new Uint8Array(0);

  /** `length` bytes of any content, valid until the next call. */
  take(length: number): Uint8Array {
    if (this.#bytes.length < length) this.#bytes = new Uint8Array(length);
    return this.#bytes.subarray(0, length);
  }
}

/** Several buffers in use at a time. Each returns to the pool when its user gives it back. */
export class Pool {
  readonly #free: ArrayBufferLike[] = [];

  /** @param most bytes that unused buffers may hold together */
  constructor(readonly most: number) {}

  /** `length` bytes of any content, in a buffer of their own. */
  take(length: number): Uint8Array {
    const at = this.#free.findIndex((memory) => memory.byteLength >= length);
    const memory = at < 0 ? Buffer.allocUnsafeSlow(length).buffer : this.#free.splice(at, 1)[0];
    return new Uint8Array(memory, 0, length);
  }

  /**
   * The most recent buffer is reused first. If the pool holds too much, it drops the buffers that have been unused for
   * longest: they may be too small for any request.
   * @param bytes from `take`; the caller must not use them again
   */
  give(bytes: Uint8Array): void {
    this.#free.unshift(bytes.buffer);
    let kept = this.#free.reduce((sum, { byteLength }) => sum + byteLength, 0);
    while (kept > this.most) kept -= this.#free.pop()!.byteLength;
  }
}
