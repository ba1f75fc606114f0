/**
 * Memory that is used again and again: what is new from the system costs more than a copy into it, and the garbage
 * collector has to take it back.
 */
export class Scratch {
  #bytes = new Uint8Array(0);

  /** `length` bytes that hold anything, until the next call. */
  take(length: number): Uint8Array<ArrayBuffer> {
    if (this.#bytes.length < length) this.#bytes = new Uint8Array(length);
    return this.#bytes.subarray(0, length);
  }
}
