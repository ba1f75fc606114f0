/**
 * Counts the prime numbers below a limit. A list task: each piece is a range of numbers, sieved by itself.
 *
 * The sieve of Eratosthenes in segments: a range needs only the primes up to the root of its end.
 */
import { listTask } from "../task.ts";

/** Numbers in a piece. The sieve of one takes a byte for each. */
const MIN_RANGE = 1 << 12;
const MAX_RANGE = 1 << 20;
/** How many pieces a short list has. */
const PIECES = 64;

export const task = listTask({
  name: "primes",
  description: "How many prime numbers there are below a limit",
  params: {
    below: { type: "integer", minimum: 0, maximum: 1e12, default: 10_000_000, description: "the limit" },
  },
  *pieces({ below }) {
    const range = Math.min(MAX_RANGE, Math.max(MIN_RANGE, Math.ceil(below / PIECES)));
    for (let from = 0; from === 0 || from < below; from += range) yield [from, Math.min(from + range, below)];
  },
  run: ([from, to]) => countPrimes(from, to),
  merge: (before, after) => before + after,
});

/** Primes p with from ≤ p < to. */
function countPrimes(from: number, to: number): number {
  const composite = new Uint8Array(Math.max(0, to - from));
  for (let p = 2; p * p < to; p++) {
    if (!isPrime(p)) continue;
    for (let n = Math.max(p * p, Math.ceil(from / p) * p); n < to; n += p) composite[n - from] = 1;
  }
  let primes = 0;
  for (let n = Math.max(from, 2); n < to; n++) primes += 1 - composite[n - from];
  return primes;
}

/** Marks composite numbers, at least up to the root of the largest limit so far. Later pieces reuse it. */
let sieve = new Uint8Array(0);

function isPrime(n: number): boolean {
  if (n >= sieve.length) sieve = compositesBelow(2 * n + 1024);
  return sieve[n] === 0;
}

function compositesBelow(limit: number): Uint8Array<ArrayBuffer> {
  const composite = new Uint8Array(limit);
  for (let p = 2; p * p < limit; p++) {
    if (composite[p] === 0) for (let n = p * p; n < limit; n += p) composite[n] = 1;
  }
  return composite;
}
