/**
 * The digits of π. A list task: each piece is a run of terms of one of the series in Machin's formula (1706),
 * π = 16 arctan(1/5) − 4 arctan(1/239), with arctan(1/x) = 1/x − 1/3x³ + 1/5x⁵ − …
 *
 * The terms are whole numbers: each is rounded down to a multiple of 10^−(digits + `GUARD`), whatever piece it is in.
 * So the sum is the same for any pieces, and the guard digits hold the rounding errors. A BigInt is sent as a string:
 * JSON has no BigInt.
 */
import { listTask } from "../task.ts";

/** Extra digits: more than the number of terms has. */
const GUARD = 10;
/** About how many pieces each series has. */
const PIECES = 64;
const SERIES = [
  { x: 5, factor: 16n },
  { x: 239, factor: -4n },
];

export const task = listTask({
  name: "pi",
  description: "The decimal digits of π",
  params: {
    digits: { type: "integer", minimum: 1, maximum: 50_000, default: 5_000, description: "after the point" },
  },
  *pieces({ digits }) {
    for (const { x } of SERIES) {
      const terms = Math.ceil((digits + GUARD) / (2 * Math.log10(x))) + 1;
      const run = Math.ceil(terms / PIECES);
      for (let from = 0; from < terms; from += run) yield { x, from, to: Math.min(from + run, terms) };
    }
  },
  run({ x, from, to }, { digits }) {
    const square = BigInt(x * x);
    let power = 10n ** BigInt(digits + GUARD) / BigInt(x) ** BigInt(2 * from + 1);
    let sum = 0n;
    for (let k = from; k < to; k++) {
      const term = power / BigInt(2 * k + 1);
      sum += k % 2 === 0 ? term : -term;
      power /= square;
    }
    return String(sum * SERIES.find((series) => series.x === x)!.factor);
  },
  merge: (before, after) => String(BigInt(before) + BigInt(after)),
  finish(sum) {
    const digits = sum.slice(0, -GUARD);
    return `${digits[0]}.${digits.slice(1)}`;
  },
});
