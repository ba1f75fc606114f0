/**
 * Health of RabbitMQ and Redis, and the probes of a worker:
 *
 *     /healthz   200 while the process is alive and no task is stuck; 503: restart the process
 *     /readyz    200 while RabbitMQ and Redis are available and the worker is not shutting down
 *     /metrics   the registry, for Prometheus
 *
 * The probes use Node's own HTTP server: a worker needs no router, so it does not load the coordinator's.
 *
 * Not here: the coordinator's probes (coordinator.ts, http/service.ts).
 */
import { createServer } from "node:http";
import type { Registry } from "prom-client";
import type { Backends } from "../backends.ts";
import { within } from "./deadline.ts";
import { type Trouble, UnavailableError } from "./trouble.ts";

/** Time limit for an answer of the result store, ms. */
export const ANSWER_MS = 2_000;

/** Why the queue and the store are unavailable. Null for one that is available. */
export async function backendHealth({
  queue,
  results,
}: Backends): Promise<{ queue: Trouble | null; store: Trouble | null }> {
  return { queue: queue.trouble(), store: await troubleOf("Redis", results.ping()) };
}

/** Waits for `ping`, at most `ANSWER_MS`. @returns null if it succeeds, else the reason, which begins with `name` */
export function troubleOf(name: string, ping: Promise<void>): Promise<Trouble | null> {
  const late = () => new UnavailableError("silent", `no answer in ${ANSWER_MS} ms`);
  return within(ping, ANSWER_MS, late).then(
    () => null,
    (error: Error) => {
      const code = error instanceof UnavailableError ? error.code : "unreachable";
      const said = error.message.startsWith(name) ? "" : `${name} is unavailable: `;
      return { code, detail: said + error.message };
    },
  );
}

interface Probed {
  backends: Backends;
  registry: Registry;
  /** Updates the gauges of the registry. */
  observe(): Promise<void>;
  /** Why the process should be restarted; null if it should not. */
  stuck(): string | null;
  stopping(): boolean;
}

/** Serves the three probes until the process ends. @returns the port */
export function serveProbes(probed: Probed, hostname: string, port: number): Promise<number> {
  const server = createServer(async (request, response) => {
    const failed = (error: Error) => statusOf(error.message, "");
    const { status, type = "application/json", body } = await answer(probed, request.url ?? "").catch(failed);
    response.writeHead(status, { "content-type": type, connection: "close" }).end(body);
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, hostname, () => resolve((server.address() as { port: number }).port));
  });
}

interface Answer {
  status: number;
  type?: string;
  body: string;
}

async function answer(probed: Probed, url: string): Promise<Answer> {
  switch (url.split("?")[0]) {
    case "/healthz":
      return statusOf(probed.stuck(), "ok");
    case "/readyz": {
      if (probed.stopping()) return statusOf("this worker is shutting down", "");
      const { queue, store } = await backendHealth(probed.backends);
      return statusOf((queue ?? store)?.detail ?? null, "ready");
    }
    case "/metrics":
      await probed.observe();
      return { status: 200, type: probed.registry.contentType, body: await probed.registry.metrics() };
    default:
      return { status: 404, body: JSON.stringify({ status: "not found" }) };
  }
}

/** @param problem null: 200 with the status `healthy`; else 503 with the problem */
function statusOf(problem: string | null, healthy: string): Answer {
  return { status: problem === null ? 200 : 503, body: JSON.stringify({ status: problem ?? healthy }) };
}
