/**
 * A file that must be complete before it is decoded: its bytes, in one buffer.
 *
 * Invariant: each byte is held once. The buffer is resized by transfer, after its new size is taken from the budget.
 *
 * Not here: what the bytes are (read.ts, header.ts).
 */
import type { HeldMemory } from "./budget.ts";
import { ImageError } from "./picture.ts";

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
