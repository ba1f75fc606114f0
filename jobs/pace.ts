/**
 * How often a watch looks for results that are never announced: those of third-party workers that only SET a key.
 *
 * A look costs a request to Redis, so a job that this project's workers do alone has none, or few: its bands are claimed
 * soon after they are sent, and a claimed band is announced when it is done. Once such a result is found, this process
 * looks often for a while, for all jobs: about as often as these results come.
 *
 * Not here: what a look does (watch.ts).
 */
import type { Results } from "../backends.ts";

/** The shortest pause between two looks, ms; it grows by a half with each look that finds nothing. */
const SHORTEST_MS = 5;
const LONGEST_MS = 200;
/** The pause while no such worker is known, ms. Such a look only sees whether the same band still waits. */
const SLOW_MS = 100;
/** Looks of all watches together are this far apart, ms: thousands of jobs may wait in the queue. */
const GAP_MS = 10;
/** For how long after a result it is expected that others come, ms. */
const MEMORY_MS = 60_000;

export class Pace {
  static readonly #ofResults = new WeakMap<Results, Pace>();
  /** The watches of unfinished jobs. */
  readonly open = new Set<unknown>();
  #found = Number.NEGATIVE_INFINITY;
  #pause = SHORTEST_MS;

  /** One for all watches of a store. */
  static of(results: Results): Pace {
    const pace = Pace.#ofResults.get(results) ?? new Pace();
    Pace.#ofResults.set(results, pace);
    return pace;
  }

  /** Whether workers are known that announce nothing. */
  get isFast(): boolean {
    return performance.now() - this.#found < MEMORY_MS;
  }

  /** The pause before the next look, ms. */
  get pause(): number {
    return this.isFast ? this.#pause : SLOW_MS;
  }

  /** The shortest pause of one watch, so that those of all unfinished jobs have their turn, ms. */
  get turn(): number {
    return GAP_MS * this.open.size;
  }

  /** @param found results that a look has found */
  looked(found: number): void {
    if (found > 0) this.#found = performance.now();
    this.#pause = found > 0 ? SHORTEST_MS : Math.min(1.5 * this.#pause, LONGEST_MS);
  }
}
