/**
 * An HTTP server on Bun or Deno.
 *
 * It has no time-out of its own: an upload may wait for its job's bands for any time, and upload.ts limits how slow a
 * client may be.
 *
 * Not here: what is answered (coordinator.ts).
 */

import { problemOf } from "./respond.ts";

export interface Server {
  port: number;
  /** Takes no more requests; resolves when those in progress are answered. */
  stop(): Promise<void>;
}

/** @param port 0: any free port */
export function serve(
  fetch: (request: Request) => Response | Promise<Response>,
  hostname: string,
  port: number,
): Server {
  if (typeof Bun !== "undefined") {
    const server = Bun.serve({
      hostname,
      port,
      maxRequestBodySize: Number.MAX_SAFE_INTEGER, // upload.ts has the limit
      // No answer holds a path, a stack or source, whatever goes wrong.
      development: false,
      reusePort: false, // on by itself where development is off: a second program would share the port unnoticed
      error: () => problemOf(500, "the request failed inside the coordinator"),
      fetch(request, self) {
        self.timeout(request, 0);
        return fetch(request);
      },
    });
    return { port: server.port!, stop: () => server.stop() };
  }
  const { Deno } = globalThis as unknown as { Deno: DenoHttp };
  const server = Deno.serve({ hostname, port, onListen() {} }, fetch);
  return { port: server.addr.port, stop: () => server.shutdown() };
}

/** The part of Deno that is used here. */
interface DenoHttp {
  serve(
    options: { hostname: string; port: number; onListen(): void },
    fetch: (request: Request) => Response | Promise<Response>,
  ): { addr: { port: number }; shutdown(): Promise<void> };
}
