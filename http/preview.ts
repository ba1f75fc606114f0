/**
 * A finished band as a small PNG, for whoever shows a job while it runs.
 *
 * Not here: HTTP (coordinator.ts), the result itself (job.ts).
 *
 * Invariant: pictures are scaled off the event loop, and a few at a time, whatever is asked for.
 */
import { bandRows, chunkIdOf, pixelsOf } from "../chunk.ts";
import { unusable } from "../job.ts";
import type { Done, Job, Results } from "../results.ts";
import { gone } from "../watch.ts";

export const WIDTHS = { least: 16, most: 2048, usual: 1024 };

/** Scaled at a time: workers may share the cores. */
const AT_ONCE = 2;

/** Scales for one store. */
export class Previews {
  #busy = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(
    readonly results: Results,
    /** So many may wait their turn. */
    readonly most = 64,
  ) {}

  /** False: those that wait are as many as may. */
  get hasRoom(): boolean {
    return this.#waiting.length < this.most;
  }

  /**
   * A band, at most `width` pixels wide; never larger than it is.
   * @throws JobError 410 where its result is gone, 500 where it cannot be used
   */
  async png(job: Job, band: number, { bytes }: Done, width: number): Promise<Buffer<ArrayBuffer>> {
    if (this.#busy === AT_ONCE) await new Promise<void>((go) => this.#waiting.push(go));
    else this.#busy++;
    try {
      const picture = await this.results.load(chunkIdOf(job.id, band));
      if (!picture) throw gone();
      const { rows } = bandRows(job, band);
      // Zero bytes: a third-party worker has stored it, and it may be any picture.
      const isForeign = bytes === 0;
      const pixels = isForeign ? pixelsOf(picture, job, band) : Promise.resolve(picture);
      return await pixels
        .then((one) => scaled(one, isForeign, job, rows, width))
        .catch((cause) => {
          throw unusable(band, cause);
        });
    } finally {
      // Handed on, not given up: nobody who comes now gets before those who wait.
      const next = this.#waiting.shift();
      if (next) next();
      else this.#busy--;
    }
  }
}

async function scaled(
  picture: Uint8Array,
  isRaw: boolean,
  job: Job,
  rows: number,
  width: number,
): Promise<Buffer<ArrayBuffer>> {
  const { default: sharp } = await import("sharp");
  sharp.cache(false);
  const raw = { width: job.width, height: rows, channels: 1 as const };
  const to = Math.min(width, job.width);
  return sharp(picture, { ...(isRaw && { raw }), limitInputPixels: job.width * rows })
    .resize(to, Math.max(1, Math.round((rows * to) / job.width)), { fit: "fill" })
    .toColourspace("b-w")
    .png({ compressionLevel: 1 })
    .toBuffer();
}
