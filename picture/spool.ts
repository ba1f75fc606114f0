/**
 * A picture that is read twice. The first time, its rows pass through and are written to a file. The second time, they
 * are read from it.
 *
 * A job of two steps needs it, because the upload is gone after the first step. The file takes one byte per sample, in
 * the folder for temporary files (`TMPDIR`), so memory does not grow with the picture.
 *
 * Invariant: the file has no name from the start, so the system removes it when the process ends, however it ends.
 */
import { type FileHandle, mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Budget, type Share } from "./budget.ts";
import type { Raster } from "./picture.ts";

/** The disk space that all spools of a process share. A picture beyond it gets a BusyError before its first row. */
export class SpoolDisk extends Budget {
  constructor(bytes: number) {
    super(bytes, "the disk for pictures that are read twice");
  }

  /** Opens a spool for a picture. The caller closes it. @throws BusyError */
  async open({ width, height, channels }: Omit<Raster, "blocks">): Promise<Spool> {
    const share = this.take(width * height * channels);
    try {
      const folder = await mkdtemp(join(tmpdir(), "sobel-spool-"));
      try {
        return new Spool(await open(join(folder, "rows"), "wx+", 0o600), share);
      } finally {
        await rm(folder, { recursive: true });
      }
    } catch (error) {
      share.release();
      throw error;
    }
  }
}

/** About this many bytes are read at a time. */
const BLOCK_BYTES = 1 << 18;

class Spool {
  /** @param share its share of the disk, released when it is closed */
  constructor(
    readonly file: FileHandle,
    readonly share: Share,
  ) {}

  /** The picture for the first time. Its rows are written to the file as they are read. */
  passing(image: Raster): Raster {
    const { file } = this;
    const blocks = async function* () {
      for await (const block of image.blocks) {
        await file.appendFile(block);
        yield block;
      }
    };
    return { ...image, blocks: blocks() };
  }

  /** The picture for the second time, after all rows have passed once. */
  again({ width, height, channels }: Omit<Raster, "blocks">): Raster {
    const { file } = this;
    const rowBytes = width * channels;
    const most = Math.max(1, Math.floor(BLOCK_BYTES / rowBytes));
    const blocks = async function* () {
      const block = new Uint8Array(Math.min(most, height) * rowBytes);
      for (let y = 0; y < height; y += most) {
        const bytes = Math.min(most, height - y) * rowBytes;
        const { bytesRead } = await file.read(block, 0, bytes, y * rowBytes);
        if (bytesRead < bytes) throw new Error(`spool file: expected ${height} rows of ${rowBytes} bytes, got fewer`);
        yield block.subarray(0, bytes);
      }
    };
    return { width, height, channels, blocks: blocks() };
  }

  async close(): Promise<void> {
    try {
      await this.file.close();
    } finally {
      this.share.release();
    }
  }
}
