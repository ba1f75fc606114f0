/**
 * Limits for clients: places for uploads and for event streams. If no place is free, a client gets 503.
 *
 * Invariant: every place is released, by `release` or by the end of the upload.
 *
 * Not here: the users of the places (coordinator.ts, jobs.ts).
 */

import { within } from "../ops/deadline.ts";
import { unavailable } from "./respond.ts";
import type { Upload } from "./upload.ts";

/** An upload that has waited for room in the queue for this long may lose its place to another, ms. */
const STALLED_MS = 60_000;
/** So may one whose client takes this long for the next 64 KiB, or for its turn with a job, ms. */
const SLOW_MS = 5_000;
/** If no other upload needs the place, the limit is this many times longer. */
const UNCONTESTED = 60;
/** How long a new upload waits for that place, ms. */
const HANDOVER_MS = 5_000;

/**
 * The places for uploads.
 *
 * While an upload waits for room in the queue, the coordinator reads nothing from it. So it does not notice if a client
 * behind a proxy has gone. No time limit can separate such a client from a patient one. So an upload may wait for an
 * hour, or until another upload needs its place. Then the one that has waited longest gets 503. If it is sent again, it
 * resumes.
 */
export class UploadPlaces {
  readonly #taken = new Map<Upload, Promise<void>>();

  /** @param onChange gets the number of places that are taken */
  constructor(
    readonly max: number,
    readonly onChange: (taken: number) => void,
    readonly stalledMs = STALLED_MS,
  ) {}

  /** Runs `step` in a place. @throws HttpError 503 */
  async within<T>(upload: Upload, step: () => Promise<T>): Promise<T> {
    if (this.#taken.size >= this.max) await this.#handover();
    if (this.#taken.size >= this.max) throw unavailable(`too many uploads in progress (${this.max}); retry later`);
    const left = Promise.withResolvers<void>();
    this.#taken.set(upload, left.promise);
    this.onChange(this.#taken.size);
    const look = () => {
      if (upload.idle > UNCONTESTED * this.stalledMs) upload.end(noRoom(upload, "its client may be gone"));
    };
    const timer = setInterval(look, this.stalledMs);
    try {
      return await step();
    } finally {
      clearInterval(timer);
      this.#taken.delete(upload);
      this.onChange(this.#taken.size);
      left.resolve();
    }
  }

  async #handover(): Promise<void> {
    const overdue = ({ idle, lag }: Upload) => Math.max(idle / this.stalledMs, lag / SLOW_MS);
    const open = [...this.#taken.keys()].filter(({ signal }) => !signal.aborted);
    const [longest] = open.sort((a, b) => overdue(b) - overdue(a));
    if (!longest || overdue(longest) < 1) return;
    const needed = "another upload needs the place";
    longest.end(
      longest.lag > 0 ? unavailable(`the upload is slow, and ${needed}; send it again`) : noRoom(longest, needed),
    );
    await within(this.#taken.get(longest)!, HANDOVER_MS, "late").catch(() => {});
  }
}

function noRoom({ idle }: Upload, why: string) {
  return unavailable(`no room in the queue for ${Math.round(idle / 1000)} s, and ${why}; send it again`);
}

/** What event streams use: the number of streams, and of ids that were unknown when their stream was opened. */
interface Cost {
  streams: number;
  unknown: number;
}

export interface StreamPlace {
  /** Corrects the number of unknown ids. `take` has counted all ids as unknown. */
  setUnknown(ids: number): void;
  release(): void;
}

/** The places for event streams. One client address gets at most half of them. */
export class StreamPlaces {
  readonly #all: Cost = { streams: 0, unknown: 0 };
  readonly #clients = new Map<string, Cost>();

  constructor(readonly max: Cost) {}

  /**
   * Takes a place for one stream.
   * @param ids the number of its ids, which all count as unknown until `setUnknown`
   * @throws HttpError 503
   */
  take(client: string, ids: number): StreamPlace {
    const own = this.#clients.get(client) ?? { streams: 0, unknown: 0 };
    const { max } = this;
    const fits = (taken: Cost, share: number) =>
      taken.streams + 1 <= max.streams / share && taken.unknown + ids <= max.unknown / share;
    if (!fits(this.#all, 1)) throw unavailable("too many event streams are open; retry later");
    if (!fits(own, 2))
      throw unavailable("too many event streams are open for this address; close some, or retry later");
    this.#clients.set(client, own);
    let unknown = 0;
    const add = (streams: number, ids: number) => {
      for (const cost of [this.#all, own]) {
        cost.streams += streams;
        cost.unknown += ids;
      }
      unknown += ids;
    };
    add(1, ids);
    const release = () => {
      add(-1, -unknown);
      if (own.streams === 0) this.#clients.delete(client);
    };
    return { setUnknown: (ids) => add(0, ids - unknown), release };
  }
}
