/**
 * The requests about the whole system: its workers, tasks, state, readiness and metrics.
 *
 * Not here: jobs (jobs.ts).
 */
import type { Registry } from "prom-client";
import type { Backends } from "../backends.ts";
import { within } from "../ops/deadline.ts";
import { backendHealth } from "../ops/health.ts";
import type { Classroom } from "../ops/settings.ts";
import { isData, isList, kindOf } from "../task.ts";
import { allTasks, type Tasks } from "../tasks/index.ts";
import { schemaOf } from "../tasks/params.ts";
import type { Lights } from "./lights.ts";
import { expectToken, unavailable } from "./respond.ts";

/** GET /state waits this long for Redis, ms. Its count of workers may be `FLEET_MS` old. */
const STATE_MS = 500;
const FLEET_MS = 1_000;

/** What these requests need. */
export interface ServiceReads extends Backends {
  tasks: Tasks;
  registry: Registry;
  /** Gauges that each scrape updates. */
  gauges: { observe(): Promise<void> }[];
  authToken: string | undefined;
  lights: Lights;
  classroom: Classroom;
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
    const { name, version = 1, description = "", params } = task;
    const about = { name, version, description, kind: kindOf(task) };
    const schema = schemaOf(params);
    if (isList(task))
      return { ...about, takes: task.takes ?? null, channels: 1, halo: null, shrink: 1, params: schema };
    const [halo, shrink] = [task.halo, isData(task) ? 1 : (task.shrink ?? 1)].map((value) => {
      return typeof value === "number" ? value : null;
    });
    return { ...about, takes: "picture", channels: task.channels ?? 1, halo, shrink, params: schema };
  });
  return Response.json({ tasks: all });
}

/** GET /state: the state of the system, for the page. It answers even while RabbitMQ or Redis does not. */
export async function systemState(context: ServiceReads): Promise<Response> {
  const { queue, results, lights, authToken, classroom } = context;
  // All at the same time, because one of them may not answer, and the lights must not be late.
  const [backends, now, workers] = await Promise.all([
    lights.read(),
    within(results.now(), STATE_MS, "late").catch(() => null),
    within(results.workers(FLEET_MS), STATE_MS, "late").catch(() => null),
  ]);
  const mode = queue.isLocal ? "embedded" : "distributed";
  const token = authToken !== undefined;
  return Response.json({ mode, now, workers: workers?.length ?? null, token, classroom, backends });
}

/** GET /readyz */
export async function readiness(context: ServiceReads): Promise<Response> {
  if (context.stopping.aborted) throw unavailable("this coordinator is shutting down");
  const { queue, store } = await backendHealth(context);
  const trouble = queue ?? store;
  if (trouble === null) return Response.json({ status: "ready" });
  throw unavailable(trouble.detail, { backends: { rabbitmq: queue?.code ?? null, redis: store?.code ?? null } });
}

/** GET /metrics */
export async function metricsText({ registry, gauges, authToken }: ServiceReads, request: Request): Promise<Response> {
  expectToken(request, authToken);
  await Promise.all(gauges.map((gauge) => gauge.observe()));
  return new Response(await registry.metrics(), { headers: { "content-type": registry.contentType } });
}
