/**
 * Previews: finished bands as small PNGs, for clients that show a job while it runs.
 *
 * Not here: HTTP (jobs.ts), the result itself (job.ts).
 *
 * Invariant: pictures are scaled off the event loop, at most `MAX_SCALING` at a time.
 */

import type { Done, Job, Results } from "../backends.ts";
import { bandRows, chunkIdOf } from "../chunk.ts";
import { unusable } from "../job.ts";
import { type BandForm, pixelsOf } from "../picture/foreign.ts";
import { resultOf } from "../tasks/plan.ts";
import { gone } from "../watch.ts";

/** Limits and default of a preview's width, pixels. */
export const WIDTHS = { min: 16, max: 2048, default: 1024 };

/** Only a few, because workers may run on the same cores. */
const MAX_SCALING = 2;
/** At most this many requests wait for their turn. */
const MAX_WAITING = 64;

export class Previews {
  #scaling = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(readonly results: Results) {}

  /** Whether one more request may wait. */
  get hasRoom(): boolean {
    return this.#waiting.length < MAX_WAITING;
  }

  /**
   * A band as a PNG, at most `width` pixels wide, and never wider than the job's picture.
   * @throws JobError "gone" if its result has expired, "failed" if it cannot be read
   */
  async png(job: Job, band: number, { bytes }: Done, width: number): Promise<Buffer<ArrayBuffer>> {
    if (this.#scaling === MAX_SCALING) await new Promise<void>((go) => this.#waiting.push(go));
    else this.#scaling++;
    try {
      const picture = await this.results.load(chunkIdOf(job.id, band));
      if (!picture) throw gone();
      const { channels } = job;
      const whole = resultOf(job);
      const form = { width: whole.width, rows: bandRows(whole, band).rows, channels };
      // Zero bytes: the result of a third-party worker, which may be a picture of any format.
      const isForeign = bytes === 0;
      const pixels = isForeign ? pixelsOf(picture, form) : Promise.resolve(picture);
      return await pixels
        .then((one) => scaled(one, isForeign, form, width))
        .catch((cause) => {
          throw unusable(band, cause);
        });
    } finally {
      // The next request in line gets the place, so that a new request cannot overtake it.
      const next = this.#waiting.shift();
      if (next) next();
      else this.#scaling--;
    }
  }
}

/** @param isRaw whether `picture` is the band's pixels. Otherwise it is an encoded picture */
async function scaled(
  picture: Uint8Array,
  isRaw: boolean,
  form: BandForm,
  width: number,
): Promise<Buffer<ArrayBuffer>> {
  const { default: sharp } = await import("sharp");
  sharp.cache(false);
  const { rows, channels } = form;
  const raw = { width: form.width, height: rows, channels };
  const to = Math.min(width, form.width);
  return sharp(picture, { ...(isRaw && { raw }), limitInputPixels: form.width * rows })
    .resize(to, Math.max(1, Math.round((rows * to) / form.width)), { fit: "fill" })
    .toColourspace(channels === 1 ? "b-w" : "srgb")
    .png({ compressionLevel: 1 })
    .toBuffer();
}
