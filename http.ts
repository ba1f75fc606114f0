/**
 * What any HTTP program needs, on Bun and Deno: uploads that are counted, watched and never left half read, errors as
 * problem details, streams of pieces, a server.
 *
 * Not here: what is asked and answered (coordinator.ts).
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { Readable } from "node:stream";
import { Busboy, type BusboyInstance } from "@fastify/busboy";
import { NotFoundError } from "elysia";
import type { Log } from "./log.ts";
import { ImageError } from "./png.ts";
import { QueueError } from "./queue.ts";
import { JobError } from "./watch.ts";

/** An upload that is waited for this long, ms, and brings less than so many bytes meanwhile, is given up: it holds a place. */
const PATIENCE_MS = 60_000;
const LEAST_BYTES = 1 << 16;
/** Of an upload that was refused, this much is still read, for this long, so that the client comes to read the answer. */
const DISCARD_BYTES = 4 * 2 ** 30;
const DISCARD_MS = 60_000;
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
  if (error instanceof ImageError || error instanceof JobError) return { status: error.status, detail: error.message };
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

/** The body of a request: counted, watched for its pace, and never left half read. */
export class Upload {
  readonly #body: ReadableStreamDefaultReader<Uint8Array> | undefined;
  readonly #announced: number;
  /** Read so far, what was thrown away not counted. */
  bytes = 0;
  #ended: boolean;
  /** Since the last `LEAST_BYTES` were complete: for how long it was waited for, ms, and what has come. */
  #waited = 0;
  #came = 0;

  constructor(
    request: Request,
    readonly maxBytes: number,
    readonly patience = PATIENCE_MS,
  ) {
    this.#body = request.body?.getReader();
    this.#ended = !this.#body;
    this.#announced = Number(request.headers.get("content-length") ?? 0);
  }

  checkLength(): void {
    if (this.#announced > this.maxBytes) throw this.#tooLarge(this.#announced);
  }

  #tooLarge(bytes: number): HttpError {
    return new HttpError(413, `upload too large: expected at most ${this.maxBytes} bytes, got ${bytes} or more`);
  }

  /** The picture's bytes: the body, or the part `image` of a form. */
  async image(request: Request): Promise<AsyncIterable<Uint8Array>> {
    const type = request.headers.get("content-type") ?? "";
    return /^multipart\/form-data/i.test(type) ? imagePart(Readable.from(this.#read()), type) : this.#read();
  }

  async *#read(): AsyncGenerator<Uint8Array> {
    for (;;) {
      const piece = await this.#next();
      if (!piece) return;
      this.bytes += piece.length;
      if (this.bytes > this.maxBytes) throw this.#tooLarge(this.bytes);
      yield piece;
    }
  }

  async #next(): Promise<Uint8Array | undefined> {
    if (!this.#body) return undefined;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const start = performance.now();
    const slow = new Promise<never>((_, reject) => {
      const why = `the upload is too slow: ${this.#came} bytes in ${this.patience / 1000} s`;
      timer = setTimeout(() => reject(new HttpError(408, why)), this.patience - this.#waited);
    });
    try {
      const { done, value } = await Promise.race([this.#body.read(), slow]);
      this.#ended = done;
      this.#waited += performance.now() - start;
      this.#came += value?.length ?? 0;
      if (this.#came >= LEAST_BYTES) this.#waited = this.#came = 0;
      return value;
    } catch (error) {
      this.#ended = true;
      if (error instanceof HttpError) throw error;
      throw new HttpError(400, "the upload was cut off");
    } finally {
      clearTimeout(timer);
    }
  }

  /** Reads on without keeping, in the background: else a client that is still sending sees a broken connection. */
  async discard(): Promise<void> {
    const deadline = Date.now() + DISCARD_MS;
    try {
      for (let bytes = 0; !this.#ended && bytes < DISCARD_BYTES && Date.now() < deadline; ) {
        bytes += (await this.#next())?.length ?? 0;
      }
    } catch {
      // The client is gone, or silent: nobody waits for an answer.
    }
    if (!this.#ended) this.#body?.cancel().catch(() => {});
  }
}

/** @throws HttpError 400 where the form has no file `image` */
function imagePart(body: Readable, type: string): Promise<AsyncIterable<Uint8Array>> {
  return new Promise((resolve, reject) => {
    const bad = (error: unknown) => {
      reject(error instanceof HttpError ? error : new HttpError(400, `form: ${(error as Error).message}`));
    };
    let form: BusboyInstance;
    try {
      form = new Busboy({ headers: { "content-type": type } });
    } catch (error) {
      return bad(error);
    }
    form.on("file", (field, part) => {
      part.on("error", () => {}); // whoever reads it sees the error; nobody may be reading
      if (field !== "image") return part.resume();
      const cut = (error: Error) => part.destroy(error);
      body.once("error", cut);
      form.once("error", cut);
      resolve(piecesOf(part));
    });
    form.on("finish", () => bad(new Error("expected a file in the field image, got none")));
    form.on("error", bad);
    body.on("error", bad);
    body.pipe(form);
  });
}

/** @throws HttpError 400 where the form ends within the part */
async function* piecesOf(part: Readable): AsyncGenerator<Uint8Array> {
  try {
    yield* part;
  } catch (error) {
    throw error instanceof HttpError ? error : new HttpError(400, `form: ${(error as Error).message}`);
  }
}

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
