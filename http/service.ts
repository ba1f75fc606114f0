/**
 * What the API answers about the program itself: its workers, its tasks, its readiness, its metrics.
 *
 * Not here: jobs (jobs.ts).
 */
import type { Registry } from "prom-client";
import type { Backends } from "../backends.ts";
import { backendHealth } from "../ops/health.ts";
import { kindOf, schemaOf } from "../task.ts";
import { allTasks, type Tasks } from "../tasks/index.ts";
import { expectToken, unavailable } from "./respond.ts";

/** What the answers need. */
export interface ServiceReads extends Backends {
  tasks: Tasks;
  registry: Registry;
  /** Brought up to date by each scrape. */
  gauges: { observe(): Promise<void> }[];
  authToken: string | undefined;
  /** Aborted when the program is about to end. */
  stopping: AbortSignal;
}

/** GET /workers */
export async function listWorkers({ results, authToken }: ServiceReads, request: Request): Promise<Response> {
  expectToken(request, authToken);
  const workers = (await results.workers()).map(({ offers, consuming, ...worker }) => worker);
  return Response.json({ workers });
}

/** GET /tasks */
export async function listTasks({ tasks, results }: ServiceReads): Promise<Response> {
  const all = (await allTasks(tasks, results)).map((task) => {
    const { name, version = 1, description = "", halo, params } = task;
    const rows = typeof halo === "number" ? halo : null;
    return { name, version, description, kind: kindOf(task), halo: rows, params: schemaOf(params) };
  });
  return Response.json({ tasks: all });
}

/** GET /readyz */
export async function readiness(context: ServiceReads): Promise<Response> {
  if (context.stopping.aborted) throw unavailable("this coordinator is shutting down");
  const { queue, store } = await backendHealth(context);
  const trouble = queue ?? store;
  if (trouble !== null) throw unavailable(trouble);
  return Response.json({ status: "ready" });
}

/** GET /metrics */
export async function metricsText({ registry, gauges, authToken }: ServiceReads, request: Request): Promise<Response> {
  expectToken(request, authToken);
  await Promise.all(gauges.map((gauge) => gauge.observe()));
  return new Response(await registry.metrics(), { headers: { "content-type": registry.contentType } });
}
