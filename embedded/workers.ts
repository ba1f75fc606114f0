/**
 * The workers of the embedded mode, which share one process with the coordinator.
 *
 * Not here: their queue (embedded/queue.ts), their store (embedded/results.ts), what a worker does (worker.ts).
 */
import type { Registry } from "prom-client";
import type { Backends } from "../backends.ts";
import { runCommands } from "../ops/commands.ts";
import { WorkerMetrics } from "../ops/metrics.ts";
import { Worker, type WorkerOptions } from "../worker.ts";
import { LocalQueue } from "./queue.ts";
import { LocalResults } from "./results.ts";

/** A worker that was stopped or killed starts again after this time, ms, as it would under a supervisor. */
const RESTART_MS = 5_000;

/** Starts a queue, a store and workers in this process. @param control the workers accept commands (ops/commands.ts) */
export async function startEmbedded({
  threads,
  ttlSeconds,
  registry,
  control = false,
  ...options
}: Pick<WorkerOptions, "tasks" | "modules" | "bandTimeout" | "log"> & {
  threads: number;
  ttlSeconds: number;
  registry: Registry;
  control?: boolean;
}): Promise<Backends & { stop(): Promise<void> }> {
  const queue = new LocalQueue();
  const results = new LocalResults(ttlSeconds);
  const metrics = new WorkerMetrics(registry);
  const workers = new Map<string, Worker>();
  const restarts = new Set<ReturnType<typeof setTimeout>>();
  const start = async (name: string) => {
    const worker = new Worker({ ...options, queue, results, name, metrics, control });
    workers.set(name, worker);
    await worker.start();
    if (!control) return;
    // A worker starts again after both commands, because nothing else could start it.
    const end = async (ending: Promise<void>) => {
      unsubscribe();
      workers.delete(name);
      restarts.add(setTimeout(() => start(name), RESTART_MS));
      await ending;
    };
    const life = { stop: () => end(worker.stop()), kill: () => end(worker.die()) };
    const unsubscribe = await runCommands(results, name, worker, life, options.log);
  };
  await Promise.all(Array.from({ length: threads }, (_, i) => start(`thread-${i + 1}`)));
  const stop = async () => {
    for (const restart of restarts) clearTimeout(restart);
    await Promise.all([...workers.values()].map((worker) => worker.stop()));
  };
  return { queue, results, stop };
}
