/**
 * What any answer needs: errors as problem details, the token, ranges, streams of pieces.
 *
 * Not here: what is asked and answered (coordinator.ts), uploads (upload.ts), the server (serve.ts).
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { NotFoundError } from "elysia";
import type { Log } from "../ops/log.ts";
import { ImageError, type ImageErrorCode } from "../picture/picture.ts";
import { QueueError } from "../queue.ts";
import { JobError } from "../watch.ts";

export const RETRY_SECONDS = 5;

/** An answer other than success: RFC 9457. */
export class HttpError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly headers: Record<string, string> = {},
  ) {
    super(message);
  }
}

/** 503: send it again later. */
export function unavailable(message: string): HttpError {
  return new HttpError(503, message, { "retry-after": String(RETRY_SECONDS) });
}

/** @throws HttpError 401 unless the request has the token; how long that takes tells nothing of it */
export function expectToken(request: Request, token: string | undefined): void {
  if (token === undefined) return;
  const digest = (text: string) => createHash("sha256").update(text).digest();
  const given = request.headers.get("authorization") ?? "";
  if (timingSafeEqual(digest(given), digest(`Bearer ${token}`))) return;
  throw new HttpError(401, "a token is needed: Authorization: Bearer …", { "www-authenticate": "Bearer" });
}

/** Every error as problem details; never a stack trace. */
export function problem(error: unknown, request: Request, log: Log): Response {
  const { status, detail, headers } = explained(error, request, log);
  const title = TITLES[status] ?? "Error";
  const body = JSON.stringify({ type: "about:blank", title, status, detail });
  const kind = { "content-type": "application/problem+json", "x-content-type-options": "nosniff" };
  return new Response(body, { status, headers: { ...headers, ...kind } });
}

function explained(
  error: unknown,
  request: Request,
  log: Log,
): { status: number; detail: string; headers?: Record<string, string> } {
  if (error instanceof HttpError) return { status: error.status, detail: error.message, headers: error.headers };
  if (error instanceof ImageError || error instanceof JobError)
    return { status: STATUSES[error.code], detail: error.message };
  if (error instanceof QueueError) return explained(unavailable(error.message), request, log);
  if (error instanceof NotFoundError) {
    return { status: 404, detail: `nothing here: ${request.method} ${new URL(request.url).pathname}` };
  }
  if (error === request.signal.reason) return { status: 400, detail: "the client has hung up" };
  // The path and not the whole address: what stands behind it may be a token that somebody put there by mistake.
  const { method, url } = request;
  const stack = error instanceof Error ? error.stack : undefined;
  log.error("a request failed", { method, path: new URL(url).pathname, error, stack });
  return explained(unavailable("something this coordinator needs does not work: its log says more"), request, log);
}

/** Of the errors that the program itself knows by a code. */
const STATUSES: Record<ImageErrorCode | JobError["code"], number> = {
  "not-an-image": 400,
  conflict: 409,
  gone: 410,
  "too-large": 413,
  "unknown-format": 415,
  corrupt: 422,
  failed: 500,
  "taken-over": 503,
};

export const TITLES: Record<number, string> = {
  400: "Bad request",
  401: "Unauthorized",
  404: "Not found",
  408: "Request timeout",
  409: "Conflict",
  410: "Gone",
  413: "Content too large",
  415: "Unsupported media type",
  416: "Range not satisfiable",
  422: "Unprocessable content",
  500: "The job failed",
  503: "Service unavailable",
};

/**
 * Which bytes of `length` are asked for (RFC 9110, 14.2): one range; null for all of them.
 * @throws HttpError 416
 */
export function rangeOf(request: Request, length: number, etag: string): { from: number; to: number } | null {
  const match = /^bytes=(\d*)-(\d*)$/.exec(request.headers.get("range") ?? "");
  const condition = request.headers.get("if-range");
  if (!match || match[0] === "bytes=-" || (condition !== null && condition !== etag)) return null;
  const [, first, last] = match;
  const from = first === "" ? Math.max(0, length - Number(last)) : Number(first);
  const to = first === "" || last === "" ? length : Math.min(length, Number(last) + 1);
  if (from < to) return { from, to };
  throw new HttpError(416, `range: expected bytes of 0 to ${length - 1}`, { "content-range": `bytes */${length}` });
}

/** Bytes `from` to `to` of what `pieces` are together. */
export async function* slice(pieces: AsyncIterable<Uint8Array>, from: number, to: number): AsyncGenerator<Uint8Array> {
  let at = 0;
  for await (const piece of pieces) {
    const part = piece.subarray(Math.max(0, from - at), Math.max(0, to - at));
    if (part.length > 0) yield part;
    at += piece.length;
    if (at >= to) return;
  }
}

/**
 * Answers with the pieces. The first is waited for, so that what fails at once still gets its status; whoever hangs up
 * ends their making.
 */
export async function streamed(pieces: AsyncGenerator<Uint8Array>, init: ResponseInit): Promise<Response> {
  const first = await pieces.next();
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      if (!first.done) controller.enqueue(first.value);
    },
    async pull(controller) {
      const { done, value } = await pieces.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    async cancel() {
      await pieces.return(undefined);
    },
  });
  return new Response(body, init);
}
