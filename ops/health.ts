/**
 * Whether a program can do its work, and the little HTTP that a worker answers for whoever watches over it.
 *
 *     /healthz   200 while the process is alive and not stuck; 503: restart it
 *     /readyz    200 while RabbitMQ and Redis can be used and it is not about to end
 *     /metrics   what it has counted
 *
 * With node's own server: a worker needs no router, and nothing of what a coordinator loads.
 */
import { createServer } from "node:http";
import type { Registry } from "prom-client";
import type { Backends } from "../watch.ts";

/** How long the store may take to answer, ms. */
const ANSWER_MS = 2_000;

/** What is wrong with the queue, and with the store; null: nothing. */
export async function backendHealth({
  queue,
  results,
}: Backends): Promise<{ queue: string | null; store: string | null }> {
  const store = await within(results.ping()).then(
    () => null,
    (error: Error) => `Redis is away: ${error.message}`,
  );
  return { queue: queue.ready() ? null : "RabbitMQ is away", store };
}

/** @throws Error when the answer is not there in time */
export async function within<T>(answer: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("no answer")), ANSWER_MS);
  });
  return Promise.race([answer, late]).finally(() => clearTimeout(timer));
}

export interface Watched {
  backends: Backends;
  registry: Registry;
  /** Brings the registry up to date. */
  observe(): Promise<void>;
  /** Why the process should be restarted; null: it should not. */
  stuck(): string | null;
  stopping(): boolean;
}

/** Answers the three until the process ends. @returns the port */
export function serveProbes(watched: Watched, hostname: string, port: number): Promise<number> {
  const server = createServer(async (request, response) => {
    const {
      status,
      type = "application/json",
      body,
    } = await answer(watched, request.url ?? "").catch((error: Error) => {
      return { status: 503, type: undefined, body: JSON.stringify({ status: error.message }) };
    });
    response.writeHead(status, { "content-type": type, connection: "close" }).end(body);
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, hostname, () => resolve((server.address() as { port: number }).port));
  });
}

async function answer(watched: Watched, url: string): Promise<{ status: number; type?: string; body: string }> {
  const said = (trouble: string | null, well: string) => {
    return { status: trouble === null ? 200 : 503, body: JSON.stringify({ status: trouble ?? well }) };
  };
  switch (url.split("?")[0]) {
    case "/healthz":
      return said(watched.stuck(), "ok");
    case "/readyz": {
      if (watched.stopping()) return said("this worker is about to end", "");
      const { queue, store } = await backendHealth(watched.backends);
      return said(queue ?? store, "ready");
    }
    case "/metrics":
      await watched.observe();
      return { status: 200, type: watched.registry.contentType, body: await watched.registry.metrics() };
    default:
      return { status: 404, body: JSON.stringify({ status: "nothing here" }) };
  }
}
