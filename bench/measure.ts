/**
 * How the benchmark measures: in turn, so that whatever else the machine does falls on both sides alike.
 *
 * Not here: what is measured.
 */

/** One that takes part. `once` does the work a single time. */
export interface Contestant {
  name: string;
  /** How long it took, seconds. */
  once(): Promise<number>;
}

/** Of two series taken in turn: medians in seconds, the ratio of the medians, and the middle half of the pairs' ratios. */
export interface Duel {
  ours: number;
  peer: number;
  ratio: number;
  low: number;
  high: number;
}

/** Runs each once to warm up, then all of them `rounds` times, one after another. @returns seconds by contestant */
export async function inTurn(contestants: Contestant[], rounds: number): Promise<number[][]> {
  for (const { once } of contestants) await once();
  const seconds: number[][] = contestants.map(() => []);
  for (let round = 0; round < rounds; round++) {
    // Who is first in one round is last in the next: nobody always runs after the same one.
    const order = [...contestants.keys()];
    if (round % 2 === 1) order.reverse();
    for (const i of order) seconds[i].push(await contestants[i].once());
  }
  return seconds;
}

export function duel(ours: number[], peer: number[]): Duel {
  const ratios = ours.map((seconds, i) => seconds / peer[i]);
  const [low, high] = [quantile(ratios, 0.25), quantile(ratios, 0.75)];
  return { ours: median(ours), peer: median(peer), ratio: median(ours) / median(peer), low, high };
}

export async function timed(step: () => unknown): Promise<number> {
  const start = performance.now();
  await step();
  return (performance.now() - start) / 1000;
}

export function median(values: number[]): number {
  return quantile(values, 0.5);
}

/** Between two values, in proportion. */
export function quantile(values: number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const place = (sorted.length - 1) * part;
  const at = Math.floor(place);
  return sorted[at] + ((sorted[at + 1] ?? sorted[at]) - sorted[at]) * (place - at);
}

/**
 * The coefficients for which `rows × coefficients` comes nearest to `values`, by least squares (normal equations,
 * Gauss–Jordan). A coefficient that would be negative is left out: no step of a job gives time back.
 * @throws RangeError where the rows do not tell the coefficients apart
 */
export function leastSquares(rows: number[][], values: number[], used = rows[0].map(() => true)): number[] {
  const kept = [...used.keys()].filter((i) => used[i]);
  const system = kept.map((i) => [
    ...kept.map((j) => rows.reduce((sum, row) => sum + row[i] * row[j], 0)),
    rows.reduce((sum, row, k) => sum + row[i] * values[k], 0),
  ]);
  for (let column = 0; column < kept.length; column++) {
    const best = system.findLastIndex((row, i) => {
      return i >= column && system.slice(column).every((other) => Math.abs(other[column]) <= Math.abs(row[column]));
    });
    [system[column], system[best]] = [system[best], system[column]];
    const pivot = system[column][column];
    if (!(Math.abs(pivot) > 1e-12)) throw new RangeError("least squares: expected rows that differ in every column");
    system[column] = system[column].map((value) => value / pivot);
    for (let i = 0; i < kept.length; i++) {
      if (i === column) continue;
      const factor = system[i][column];
      system[i] = system[i].map((value, j) => value - factor * system[column][j]);
    }
  }
  const found = rows[0].map(() => 0);
  for (const [i, column] of kept.entries()) found[column] = system[i].at(-1)!;
  const worst = kept.toSorted((a, b) => found[a] - found[b])[0];
  if (worst === undefined || found[worst] >= -1e-12) return found;
  return leastSquares(rows, values, used.with(worst, false));
}
