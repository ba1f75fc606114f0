/**
 * How often a watch looks for results that no message announces: those of third-party workers that only SET a key.
 *
 * A look costs a request to Redis. A job that only this project's workers compute needs few looks or none: its bands
 * are claimed soon after they are sent, and a claimed band is announced when it is done. After a look has found such a
 * result, this process looks often, for all jobs, about as often as these results come. It does so for a minute.
 *
 * Not here: what a look does (watch.ts).
 */
import type { Results } from "../backends.ts";

/** The pause between two looks while such a worker is known, ms. It grows by half with each look that finds nothing. */
const SHORTEST_MS = 5;
const LONGEST_MS = 200;
/** The pause while no such worker is known, ms. Redis is asked only if the same band still waits. */
const SLOW_MS = 100;
/** The average gap between the looks of all watches together, ms: thousands of jobs may wait in the queue. */
const GAP_MS = 10;
/** After such a result, more of them are expected for this long, ms. */
const MEMORY_MS = 60_000;

export class Pace {
  static readonly #ofResults = new WeakMap<Results, Pace>();
  /** The watches of unfinished jobs. */
  readonly open = new Set<unknown>();
  #found = Number.NEGATIVE_INFINITY;
  #pause = SHORTEST_MS;

  /** All watches of a store share one. */
  static of(results: Results): Pace {
    const pace = Pace.#ofResults.get(results) ?? new Pace();
    Pace.#ofResults.set(results, pace);
    return pace;
  }

  /** Whether a worker is known that announces nothing. */
  get isFast(): boolean {
    return performance.now() - this.#found < MEMORY_MS;
  }

  /** The pause before the next look, ms. */
  get pause(): number {
    return this.isFast ? this.#pause : SLOW_MS;
  }

  /** The shortest pause of one watch, ms. It grows with the number of unfinished jobs, so that all get their turn. */
  get minPause(): number {
    return GAP_MS * this.open.size;
  }

  /** @param found how many results the last look found */
  looked(found: number): void {
    if (found > 0) this.#found = performance.now();
    this.#pause = found > 0 ? SHORTEST_MS : Math.min(1.5 * this.#pause, LONGEST_MS);
  }
}
