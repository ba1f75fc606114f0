/**
 * The body of a request. Its size is limited, and so is the time that the client may take. The rest of a refused body
 * is read and discarded.
 *
 * Not here: what the bytes are (picture/read.ts).
 */
import { Readable } from "node:stream";
import { Busboy, type BusboyInstance } from "@fastify/busboy";
import { unlessAborted, within } from "../ops/deadline.ts";
import { HttpError } from "./respond.ts";

/** An upload must send at least 64 KiB in 60 s. A slower one would keep its place for too long, so it gets 408. */
const PATIENCE_MS = 60_000;
const MIN_BYTES = 1 << 16;
/** A client that sends nothing for this time may be gone, ms. */
const SILENT_MS = 5_000;
/** At most this many bytes of a refused upload are read and discarded, for at most this long, ms. */
const DISCARD_BYTES = 4 * 2 ** 30;
const DISCARD_MS = 60_000;
/** Maximum size of a body that holds parameters, bytes. */
const MAX_TEXT_BYTES = 1 << 20;

export class Upload {
  readonly #body: ReadableStreamDefaultReader<Uint8Array> | undefined;
  /** The content-length, or 0. */
  readonly announced: number;
  /** Resolves at the end of a form. Rejects if the form has more than its file: that may come after the file. */
  ended: Promise<void> = Promise.resolve();
  /** Bytes read so far, without those that were discarded. */
  bytes = 0;
  #ended: boolean;
  /** Since the last `MIN_BYTES` arrived: the time spent waiting for the client, ms, and the bytes received. */
  #waited = 0;
  #received = 0;
  #isReading = false;
  /** When `#isReading` last changed, ms. */
  #since = performance.now();
  readonly #end = new AbortController();
  /** Aborted when the client closes the connection, and by `end`. */
  readonly signal: AbortSignal;

  constructor(
    request: Request,
    readonly maxBytes: number,
    readonly patience = PATIENCE_MS,
  ) {
    this.#body = request.body?.getReader();
    this.signal = AbortSignal.any([request.signal, this.#end.signal]);
    this.#ended = !this.#body;
    this.announced = Number(request.headers.get("content-length") ?? 0);
  }

  /** @throws HttpError 413 if the request announces more than `maxBytes` */
  checkLength(): void {
    if (this.announced > this.maxBytes) throw this.#tooLarge(this.announced);
  }

  /**
   * How long the client takes to send the next `MIN_BYTES`, or the first byte, ms; 0 while it is not its turn, or has no
   * body.
   */
  get lag(): number {
    const isAwaited = this.#isReading || (this.bytes === 0 && !this.#ended);
    return isAwaited ? this.#waited + performance.now() - this.#since : 0;
  }

  /** How long the coordinator has not read, because it waits for room in the queue, ms; 0 while it reads. */
  get idle(): number {
    return this.#isReading ? 0 : performance.now() - this.#since;
  }

  /** Whether the coordinator has waited for the client's next bytes for more than `SILENT_MS`. */
  get isSilent(): boolean {
    return this.#isReading && performance.now() - this.#since > SILENT_MS;
  }

  /** Aborts the upload. @param error the answer to the client */
  end(error: HttpError): void {
    this.#end.abort(error);
  }

  #tooLarge(bytes: number): HttpError {
    return new HttpError(413, `upload too large: expected at most ${this.maxBytes} bytes, got ${bytes} or more`);
  }

  /**
   * The body, or the file in the field `field` of a form.
   * @throws HttpError 400, 408, 413, here or while the file is read
   */
  async file(request: Request, field = "image"): Promise<AsyncIterable<Uint8Array>> {
    const type = request.headers.get("content-type") ?? "";
    if (!/^multipart\/form-data/i.test(type)) return this.#read();
    const { file, ended } = filePart(Readable.from(this.#read()), type, field);
    this.ended = ended;
    ended.catch(() => {}); // a refused upload does not wait for it
    return file;
  }

  /** The whole body, if it holds parameters. @throws HttpError 400, 408, 413 */
  async text(): Promise<string> {
    const pieces: Uint8Array[] = [];
    for await (const piece of this.#read()) {
      pieces.push(piece);
      if (this.bytes > MAX_TEXT_BYTES)
        throw new HttpError(413, `body: expected parameters of at most ${MAX_TEXT_BYTES} bytes, got more`);
    }
    return new TextDecoder().decode(Buffer.concat(pieces));
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
    const start = performance.now();
    this.#isReading = true;
    this.#since = start;
    const slow = () => {
      const expected = `expected at least ${MIN_BYTES} bytes in ${this.patience / 1000} s`;
      return new HttpError(408, `upload too slow: ${expected}, got ${this.#received}`);
    };
    try {
      const reading = unlessAborted(this.#body.read(), this.#end.signal);
      const { done, value } = await within(reading, this.patience - this.#waited, slow);
      this.#ended = done;
      this.#waited += performance.now() - start;
      this.#received += value?.length ?? 0;
      if (this.#received >= MIN_BYTES) this.#waited = this.#received = 0;
      return value;
    } catch (error) {
      this.#ended = true;
      if (error instanceof HttpError) throw error;
      throw new HttpError(400, "the upload was cut off");
    } finally {
      this.#isReading = false;
      this.#since = performance.now();
    }
  }

  /**
   * Reads the rest and discards it. Otherwise a client that is still sending would get a broken connection, not the
   * answer. Never rejects.
   */
  async discard(): Promise<void> {
    const deadline = Date.now() + DISCARD_MS;
    try {
      for (let bytes = 0; !this.#ended && bytes < DISCARD_BYTES && Date.now() < deadline; ) {
        bytes += (await this.#next())?.length ?? 0;
      }
    } catch {
      // The client is gone or silent, so it does not wait for an answer.
    }
    if (!this.#ended) this.#body?.cancel().catch(() => {});
  }
}

/** @returns the file and the end of the form. Both reject with HttpError 400 if the form has anything else */
function filePart(body: Readable, type: string, name: string) {
  const { promise: file, resolve, reject } = Promise.withResolvers<AsyncIterable<Uint8Array>>();
  const { promise: ended, resolve: end, reject: endWith } = Promise.withResolvers<void>();
  const bad = (error: unknown) => {
    const refused = error instanceof HttpError ? error : new HttpError(400, `form: ${(error as Error).message}`);
    reject(refused);
    endWith(refused);
  };
  let form: BusboyInstance;
  try {
    form = new Busboy({ headers: { "content-type": type } });
  } catch (error) {
    bad(error);
    return { file, ended };
  }
  const refuse = (field: string) => {
    form.destroy(new Error(`expected only the file ${name}, got ${field}; parameters go into the query`));
  };
  form.on("field", (field) => refuse(field === name ? "a text in its place" : field));
  form.on("file", (field, part) => {
    part.on("error", () => {}); // the reader gets the error too. Without a reader it would be uncaught
    if (field !== name) return refuse(field);
    const cut = (error: Error) => part.destroy(error);
    body.once("error", cut);
    form.once("error", cut);
    resolve(piecesOf(part));
  });
  form.on("finish", () => {
    reject(new HttpError(400, `form: expected a file in the field ${name}, got none`));
    end();
  });
  form.on("error", bad);
  body.on("error", bad);
  body.pipe(form);
  return { file, ended };
}

/** @throws HttpError 400 if the form ends within the part */
async function* piecesOf(part: Readable): AsyncGenerator<Uint8Array> {
  try {
    // A reader may stop at the end of the picture, but the rest of the form must still be read.
    yield* part.iterator({ destroyOnReturn: false });
  } catch (error) {
    throw error instanceof HttpError ? error : new HttpError(400, `form: ${(error as Error).message}`);
  } finally {
    part.resume();
  }
}
