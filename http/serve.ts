/**
 * A server on Bun or Deno. Time-outs are ours: a window of bands may hold an upload up for as long as it likes.
 */

export interface Server {
  port: number;
  stop(): Promise<void>;
}

/** Serves on Bun or Deno. Time-outs are ours: a window of bands may hold an upload up for as long as it likes. */
export function serve(
  fetch: (request: Request) => Response | Promise<Response>,
  hostname: string,
  port: number,
): Server {
  if (typeof Bun !== "undefined") {
    const server = Bun.serve({
      hostname,
      port,
      maxRequestBodySize: Number.MAX_SAFE_INTEGER,
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
