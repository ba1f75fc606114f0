/**
 * Checks for every request, before its route is found: the URL, the host and origin of browsers, HEAD.
 *
 * A page on another origin can make a visitor's browser send requests to this server. With DNS rebinding it can even
 * read the answers. So a browser's request must name a host that is served here. If it changes something, it must come
 * from this origin. No page can make other clients send requests, so they may use any host name.
 *
 * Not here: the token (respond.ts), routes (coordinator.ts).
 */
import { HttpError } from "./respond.ts";

type Answer = (request: Request) => Response | Promise<Response>;

const clients = new WeakMap<Request, string>();

/** The address that the request came from. Behind a proxy it is the address of the proxy. */
export function clientOf(request: Request): string {
  return clients.get(request) ?? "";
}

const LOOPBACK = ["localhost", "127.0.0.1", "[::1]"];

/**
 * The host names that browsers may use; null for any.
 * @param listening the address that the server listens on
 * @param more the setting `ALLOWED_HOSTS`
 */
export function allowedHosts(listening: string, more: string[]): string[] | null {
  const own = listening.includes(":") ? `[${listening}]` : listening;
  if (LOOPBACK.includes(own)) return [...LOOPBACK, ...more];
  return more.length > 0 ? [own, ...LOOPBACK, ...more] : null;
}

/** Wraps the router's `fetch` with these checks. */
export function guarded(
  answer: Answer,
  hosts: string[] | null,
  onError: (error: unknown, request: Request) => Response,
) {
  const checked = async (request: Request, client: string): Promise<Response> => {
    try {
      expectOrigin(request, hosts);
    } catch (error) {
      return onError(error, request);
    }
    if (request.method === "HEAD") return headOf(request, client, answer);
    clients.set(request, client);
    return answer(request);
  };
  return (request: Request, client = "") => checked(URL.canParse(request.url) ? request : withHost(request), client);
}

/** Replaces the host. If `Host` is missing or invalid, the URL cannot be parsed. No route depends on the host. */
function withHost(request: Request): Request {
  return new Request(`http://localhost${request.url.replace(/^https?:\/\/[^/?#]*/, "")}`, request);
}

/** Answers HEAD like GET, without the body. Cancels the body, so that its source releases everything it holds. */
async function headOf(request: Request, client: string, answer: Answer): Promise<Response> {
  const get = new Request(request, { method: "GET" });
  clients.set(get, client);
  const { body, status, headers } = await answer(get);
  await body?.cancel().catch(() => {});
  return new Response(null, { status, headers });
}

/** @throws HttpError 403 */
function expectOrigin({ method, headers }: Request, hosts: string[] | null): void {
  const origin = headers.get("origin");
  const site = headers.get("sec-fetch-site");
  const isBrowser = origin !== null || site !== null || /mozilla/i.test(headers.get("user-agent") ?? "");
  if (!isBrowser) return;
  const host = headers.get("host") ?? "";
  const name = host.replace(/:\d*$/, "").toLowerCase();
  if (hosts && !hosts.includes(name)) {
    throw new HttpError(
      403,
      `host: expected one of ${hosts.join(", ")}, got ${JSON.stringify(name)}; see ALLOWED_HOSTS`,
    );
  }
  // A proxy may have replaced the host, so `sec-fetch-site` counts. Browsers send it to https and loopback only.
  if (method === "GET" || method === "HEAD" || site === "same-origin") return;
  const sameOrigin =
    origin === null ? site === null || site === "none" : URL.parse(origin)?.host === host.toLowerCase();
  if (!sameOrigin)
    throw new HttpError(
      403,
      "cross-origin requests may not change anything here; a proxy must pass the Host header on",
    );
}
