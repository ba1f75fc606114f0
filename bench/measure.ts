/**
 * How the benchmark measures: subjects run alternately, so that other load on the machine affects all of them alike.
 *
 * Not here: what is measured (rows.ts, load.ts).
 */
import type { Sketch } from "./pictures.ts";

/** One program or function under measurement. */
export interface Subject {
  name: string;
  /** Does the work once. @returns seconds */
  once(): Promise<number>;
}

/** One figure, with the peer's if there is one. */
export interface Row {
  what: string;
  /** What was computed: a picture, or a task without one. */
  picture: Sketch | string;
  ours: number;
  unit: "s" | "ms" | "MB" | "bytes/px" | "jobs/s" | "CPU ms/Mpx";
  /** Measured alternately with ours, in the same unit. */
  peer?: { name: string; value: number };
  ratio?: Ratio;
  /** The workers of a distributed job, the share of a core that each may use, and the round trip to the servers, ms. */
  workers?: { count: number; share: number; roundTrip?: number };
}

/** Ours ÷ the peer's. Below 1, ours is faster or smaller. `low` and `high` are the quartiles of the pairs' ratios. */
export interface Ratio {
  value: number;
  low: number;
  high: number;
}

/** Runs each subject once to warm up, then all of them `rounds` times. @returns seconds, a series for each subject */
export async function alternate(subjects: Subject[], rounds: number): Promise<number[][]> {
  for (const { once } of subjects) await once();
  const series: number[][] = subjects.map(() => []);
  for (let round = 0; round < rounds; round++) {
    // Every other round runs in reverse, so that no subject always runs after the same one.
    const order = [...subjects.keys()];
    if (round % 2 === 1) order.reverse();
    for (const i of order) series[i].push(await subjects[i].once());
  }
  return series;
}

/** The ratio of the medians of two series that were measured alternately. */
export function compare(ours: number[], peer: number[]): Ratio {
  const ratios = ours.map((seconds, i) => seconds / peer[i]);
  return { value: median(ours) / median(peer), low: quantile(ratios, 0.25), high: quantile(ratios, 0.75) };
}

/** @returns seconds */
export async function timed(step: () => unknown): Promise<number> {
  const start = performance.now();
  await step();
  return (performance.now() - start) / 1000;
}

export function median(values: number[]): number {
  return quantile(values, 0.5);
}

/** Interpolates linearly between the two nearest values. @param part from 0 to 1 */
export function quantile(values: number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const place = (sorted.length - 1) * part;
  const at = Math.floor(place);
  return sorted[at] + ((sorted[at + 1] ?? sorted[at]) - sorted[at]) * (place - at);
}

/** A function of ours as a subject. */
export function subject(step: () => unknown): Subject {
  return { name: "ours", once: () => timed(step) };
}

export function distributedName(workers: number): string {
  return `distributed, ${workers} ${workers === 1 ? "worker" : "workers"}`;
}
