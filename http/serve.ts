/**
 * An HTTP server on Bun or Deno.
 *
 * A request has no time-out here. An upload may wait long for its bands, and upload.ts limits how slow a client may be.
 * On Bun, a connection without a request is closed after a while. Deno has no such limit.
 *
 * Not here: what is answered (coordinator.ts).
 */

import { isStreamed, problemOf } from "./respond.ts";

/** @param client the address that the request came from */
type Fetch = (request: Request, client: string) => Promise<Response>;

export interface Server {
  port: number;
  /** Accepts no more requests. Resolves when those in progress have been answered. */
  stop(): Promise<void>;
}

/** A new connection without a request is closed after this time, s. */
const FIRST_SECONDS = 10;
/** The same between two requests. Longer than in most proxies (60 s), so that they never use a closed connection. */
const IDLE_SECONDS = 120;

/** @param port 0: any free port */
export function serve(fetch: Fetch, hostname: string, port: number, idleSeconds = IDLE_SECONDS): Server {
  if (typeof Bun === "undefined") return serveOnDeno(fetch, hostname, port);
  const server = Bun.serve({
    hostname,
    port,
    idleTimeout: Math.min(FIRST_SECONDS, idleSeconds),
    maxRequestBodySize: Number.MAX_SAFE_INTEGER, // upload.ts has the limit
    // In development mode, an error page shows paths, a stack trace and source code.
    development: false,
    reusePort: false, // by default true without `development`: a second program would silently share the port
    error: () => problemOf(500, "the request failed inside the coordinator"),
    async fetch(request, self) {
      self.timeout(request, 0);
      const idle = () => self.timeout(request, idleSeconds);
      const response = await fetch(request, self.requestIP(request)?.address ?? "");
      if (!isStreamed(response)) {
        idle();
        return response;
      }
      return new Response(response.body!.pipeThrough(new TransformStream({ flush: idle })), response);
    },
  });
  return { port: server.port!, stop: () => server.stop() };
}

/** The part of Deno that is used here. */
interface DenoHttp {
  serve(
    options: { hostname: string; port: number; onListen(): void },
    fetch: (request: Request, info: { remoteAddr: { hostname: string } }) => Promise<Response>,
  ): { addr: { port: number }; shutdown(): Promise<void> };
}

function serveOnDeno(fetch: Fetch, hostname: string, port: number): Server {
  const { Deno } = globalThis as unknown as { Deno: DenoHttp };
  const answer = (request: Request, info: { remoteAddr: { hostname: string } }) =>
    fetch(request, info.remoteAddr.hostname);
  const server = Deno.serve({ hostname, port, onListen() {} }, answer);
  return { port: server.addr.port, stop: () => server.shutdown() };
}
