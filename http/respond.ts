/**
 * Parts of any answer: errors as problem details (RFC 9457), the token, ranges, streams.
 *
 * Only this file and `HttpError` decide on HTTP statuses. Other errors carry codes.
 *
 * Not here: routes (coordinator.ts), uploads (upload.ts), the server (serve.ts).
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { STATUS_CODES } from "node:http";
import { NotFoundError } from "elysia";
import { QueueError } from "../backends.ts";
import type { Log } from "../ops/log.ts";
import { BusyError } from "../picture/budget.ts";
import { ImageError, type ImageErrorCode } from "../picture/picture.ts";
import { JobError } from "../watch.ts";

const RETRY_SECONDS = 5;

/** An answer other than success. */
export class HttpError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly headers: Record<string, string> = {},
    /** More members of the problem (RFC 9457, 3.2). */
    readonly more: object = {},
  ) {
    super(message);
  }
}

/** 503, with `retry-after`. */
export function unavailable(message: string, more = {}): HttpError {
  return new HttpError(503, message, { "retry-after": String(RETRY_SECONDS) }, more);
}

/** Checks the token. Compares digests in constant time: timing must reveal nothing about it. @throws HttpError 401 */
export function expectToken(request: Request, token: string | undefined): void {
  if (token === undefined) return;
  const digest = (text: string) => createHash("sha256").update(text).digest();
  const given = request.headers.get("authorization") ?? "";
  // The scheme is case-insensitive (RFC 9110, 11.1).
  if (timingSafeEqual(digest(given.replace(/^bearer +/i, "")), digest(token)) && /^bearer /i.test(given)) return;
  throw new HttpError(401, "a token is needed: Authorization: Bearer …", { "www-authenticate": "Bearer" });
}

/** Answers an error with problem details, without a stack trace. */
export function problem(error: unknown, request: Request, log: Log): Response {
  const { status, message: detail, headers, more } = expected(error, request) ?? unexpected(error, request, log);
  return problemOf(status, detail, headers, more);
}

export function problemOf(
  status: number,
  detail: string,
  headers: Record<string, string> = {},
  more: object = {},
): Response {
  const body = JSON.stringify({ type: "about:blank", title: titleOf(status), status, detail, ...more });
  const kind = { "content-type": "application/problem+json", "x-content-type-options": "nosniff" };
  return new Response(body, { status, headers: { ...headers, ...kind } });
}

/** If the path exists but not with this method: 405, with the methods that it has. Undefined for other errors. */
export function methodNotAllowed(
  error: unknown,
  request: Request,
  routes: { method: string; path: string }[],
): HttpError | undefined {
  if (!(error instanceof NotFoundError)) return undefined;
  const path = pathOf(request);
  const known = routes.filter((route) => new RegExp(`^${route.path.replace(/:\w+/g, "[^/]+")}$`).test(path));
  const methods = new Set(known.map(({ method }) => method));
  if (methods.size === 0 || methods.has(request.method)) return undefined;
  if (methods.has("GET")) methods.add("HEAD");
  const allow = [...methods].join(", ");
  return new HttpError(405, `method: expected ${allow}, got ${request.method}`, { allow });
}

/** The path without the query. The URL is not parsed, because it may be the cause of the error. */
export function pathOf({ url }: Request): string {
  return url.replace(/^https?:\/\/[^/?#]*/, "").replace(/[?#].*$/s, "");
}

function expected(error: unknown, request: Request): HttpError | undefined {
  if (error instanceof HttpError) return error;
  if (error instanceof ImageError || error instanceof JobError) {
    const status = STATUSES[error.code];
    return status === 503 ? unavailable(error.message) : new HttpError(status, error.message);
  }
  if (error instanceof QueueError || error instanceof BusyError) return unavailable(error.message);
  if (error instanceof NotFoundError) {
    const path = `${request.method} ${pathOf(request)}`;
    return new HttpError(404, `not found: ${path}; GET /openapi.json lists the paths`);
  }
  if (error === request.signal.reason) return new HttpError(400, "the client closed the connection");
}

/** Logs an error that has no status of its own. Answers 503. */
function unexpected(error: unknown, request: Request, log: Log): HttpError {
  // The query is not logged: a client may have put a token there by mistake.
  const about = { method: request.method, path: pathOf(request), error };
  if (isRedisError(error)) {
    log.warn("request refused, Redis is unavailable", about);
    return unavailable(`Redis is unavailable; retry in ${RETRY_SECONDS} s`);
  }
  log.error("request failed", { ...about, stack: error instanceof Error ? error.stack : undefined });
  return unavailable("the request failed inside the coordinator; its log has the reason");
}

/** Names of error classes, because ioredis does not export all of these classes. */
const REDIS_ERRORS = new Set([
  "ReplyError",
  "AbortError",
  "MaxRetriesPerRequestError",
  "ClusterAllFailedError",
  "RedisError",
]);

function isRedisError(error: unknown): boolean {
  // A DOMException may have the name AbortError, too.
  return error instanceof Error && !(error instanceof DOMException) && REDIS_ERRORS.has(error.name);
}

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

/** Titles that differ from Node's: the names in RFC 9110, and the only cause of a 500. */
const TITLES = { ...STATUS_CODES, 413: "Content Too Large", 422: "Unprocessable Content", 500: "The job failed" };

function titleOf(status: number): string {
  const title = TITLES[status as keyof typeof TITLES] ?? "Error";
  return title[0] + title.slice(1).toLowerCase();
}

/**
 * Evaluates `If-Match` and `If-None-Match` (RFC 9110, 13.2.2).
 * @returns true if the client has this answer already: 304
 * @throws HttpError 412
 */
export function isUnchanged({ headers }: Request, etag: string): boolean {
  const tags = (name: string) =>
    headers
      .get(name)
      ?.split(",")
      .map((tag) => tag.trim());
  const required = tags("if-match");
  if (required && !required.includes("*") && !required.includes(etag)) {
    throw new HttpError(412, `if-match: expected ${etag}, got ${required.join(", ")}`);
  }
  return tags("if-none-match")?.some((tag) => tag === "*" || tag.replace(/^W\//, "") === etag) ?? false;
}

/**
 * The range of bytes that a request asks for (RFC 9110, 14.2); null for the whole. Several ranges get the whole.
 * @param length of the whole, bytes
 * @throws HttpError 416
 */
export function rangeOf(request: Request, length: number, etag: string): { from: number; to: number } | null {
  const header = request.headers.get("range") ?? "";
  const match = /^bytes=(\d*)-(\d*)$/.exec(header);
  const condition = request.headers.get("if-range");
  if (!match || match[0] === "bytes=-" || (condition !== null && condition !== etag)) return null;
  const [, first, last] = match;
  const from = first === "" ? Math.max(0, length - Number(last)) : Number(first);
  const to = first === "" || last === "" ? length : Math.min(length, Number(last) + 1);
  if (from < to) return { from, to };
  const detail = `range: expected bytes from 0 to ${length - 1}, got ${JSON.stringify(header)}`;
  throw new HttpError(416, detail, { "content-range": `bytes */${length}` });
}

/** The bytes from `from` up to, but not including, `to` of the concatenated pieces. */
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
 * Answers with the pieces as a stream. It waits for the first piece, so that an early error still gets its status. When
 * the client closes the connection, the generator is ended.
 * @param onBroken gets the error if the stream breaks off while the client reads. It then gets an incomplete answer
 */
export async function streamed(
  pieces: AsyncGenerator<Uint8Array>,
  init: ResponseInit,
  onBroken: (error: unknown) => void,
): Promise<Response> {
  const first = await pieces.next();
  let isCancelled = false;
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      if (!first.done) controller.enqueue(first.value);
    },
    async pull(controller) {
      try {
        const { done, value } = await pieces.next();
        if (done) controller.close();
        else controller.enqueue(value);
      } catch (error) {
        if (!isCancelled) onBroken(error); // a cancelled stream takes no further piece
        controller.error(error);
      }
    },
    async cancel() {
      isCancelled = true;
      await pieces.return(undefined);
    },
  });
  return streamResponse(body, init);
}

const streams = new WeakSet<Response>();

/** A response whose body is made while it is sent. */
export function streamResponse(body: ReadableStream<Uint8Array>, init: ResponseInit): Response {
  const response = new Response(body, init);
  streams.add(response);
  return response;
}

export function isStreamed(response: Response): boolean {
  return streams.has(response);
}
