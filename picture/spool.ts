/**
 * A picture that is to be read twice: its rows pass through, and are kept in a file for the second time.
 *
 * A job of two steps needs it: the stream that brings the picture is gone when the first step is over. A byte a pixel, in
 * the folder for temporary files (`TMPDIR`), so memory does not grow with the picture. The file has no name from the
 * start on, so it goes with the process, however that ends.
 */
import { type FileHandle, mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { GreyImage } from "./picture.ts";

/** How much is read at a time, about, bytes. */
const BLOCK_BYTES = 1 << 18;

export class Spool {
  readonly #file: FileHandle;

  private constructor(file: FileHandle) {
    this.#file = file;
  }

  /** To be closed. */
  static async open(): Promise<Spool> {
    const folder = await mkdtemp(join(tmpdir(), "sobel-spool-"));
    try {
      return new Spool(await open(join(folder, "rows"), "wx+", 0o600));
    } finally {
      await rm(folder, { recursive: true });
    }
  }

  /** The picture, for the first time. */
  passing(image: GreyImage): GreyImage {
    const file = this.#file;
    const blocks = async function* () {
      let at = 0;
      for await (const block of image.blocks) {
        for (let from = 0; from < block.length; ) {
          from += (await file.write(block, from, block.length - from, at + from)).bytesWritten;
        }
        at += block.length;
        yield block;
      }
    };
    return { ...image, blocks: blocks() };
  }

  /** The picture again, once it has passed to its end. */
  again({ width, height }: Pick<GreyImage, "width" | "height">): GreyImage {
    const file = this.#file;
    const most = Math.max(1, Math.floor(BLOCK_BYTES / width));
    const blocks = async function* () {
      const block = new Uint8Array(Math.min(most, height) * width);
      for (let y = 0; y < height; y += most) {
        const bytes = Math.min(most, height - y) * width;
        for (let from = 0; from < bytes; ) {
          const { bytesRead } = await file.read(block, from, bytes - from, y * width + from);
          if (bytesRead === 0) throw new Error(`spool: expected ${width} × ${height} bytes, got fewer`);
          from += bytesRead;
        }
        yield block.subarray(0, bytes);
      }
    };
    return { width, height, blocks: blocks() };
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}
