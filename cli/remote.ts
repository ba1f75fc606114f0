/**
 * A job sent from the shell to a coordinator: `bun run sobel.ts --remote http://host:8080 in.jpg out.png`.
 *
 * The picture goes up under an id of our own (PUT), its bands are watched as they come back (server-sent events), the
 * result is fetched beside its place and renamed, and the job is removed. Whatever may be tried again is, under the same
 * id, so that nothing is done twice: connections that are refused or break, answers of 502 to 504, and a job that its
 * coordinator has forgotten. What is final (a bad picture, a wrong token, a job that failed) ends it with the server's
 * own sentence.
 *
 * Standard output gets the picture, if anything; what there is to say goes to standard error: a bar where that is a
 * terminal, lines where not.
 *
 * Not here: what the coordinator does with it (coordinator.ts), the command line (sobel.ts).
 */
import { randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdtemp, open, rename, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";

export interface RemoteJob {
  /** Where the coordinator is; a path behind the host is kept. */
  origin: URL;
  /** A file, or - for standard input, which is first written to a temporary one: it may have to be sent again. */
  from: string;
  /** A file, or - for standard output. */
  to: string;
  task: string;
  /** The task's own, as a query has them. */
  params: string;
  workers?: string | undefined;
  token?: string | undefined;
}

/** How long what fails is tried again for, ms: where the server has answered before, and where it never has. */
const PATIENCE_MS = 120_000;
const FIRST_PATIENCE_MS = 10_000;
/** An attempt that went well for so long begins the patience anew, ms. */
const STEADY_MS = 10_000;
/** The coordinator sends something every few seconds: an event stream that is silent for so long is dead, ms. */
const SILENCE_MS = 30_000;
/** No server is waited for longer than so, whatever it asks. */
const MAX_SECONDS = 60;
/** How often a picture is sent once more because the coordinator has forgotten its job. */
const RESENDS = 3;
const CANCEL_MS = 3_000;

/** Ended by Ctrl-C or SIGTERM. */
export class Interrupted extends Error {
  readonly exitCode = 130;
}

/** The coordinator knows nothing of the job: it kept it in its memory, and is a new one. */
class Forgotten extends Error {}

/** @throws Error with the server's sentence; Interrupted */
export async function remote(job: RemoteJob): Promise<void> {
  const stopped = new AbortController();
  const stop = () => {
    if (stopped.signal.aborted) process.exit(130);
    stopped.abort(new Interrupted("interrupted"));
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, stop);
  const session = new Session(job, stopped.signal);
  try {
    await session.run();
  } catch (error) {
    throw stopped.signal.aborted ? stopped.signal.reason : error;
  } finally {
    await session.remove();
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.off(signal, stop);
  }
}

class Session {
  readonly #job: RemoteJob;
  readonly #stop: AbortSignal;
  readonly #path: string;
  readonly #progress = new Progress();
  #answered = false;

  constructor(job: RemoteJob, stop: AbortSignal) {
    this.#job = job;
    this.#stop = stop;
    this.#path = `jobs/${randomUUID()}`;
  }

  async run(): Promise<void> {
    const { file, temporary } = await spooled(this.#job.from, this.#stop);
    try {
      const { size } = await stat(file);
      for (let resends = 0; ; resends++) {
        try {
          await this.#sendAndWatch(file, size);
          await this.#fetchResult();
          return this.#progress.end();
        } catch (error) {
          if (!(error instanceof Forgotten) || resends === RESENDS) throw error;
          this.#progress.again(`${error.message}; sending the picture again`);
        }
      }
    } finally {
      this.#progress.clear();
      if (temporary) await rm(temporary, { recursive: true, force: true });
    }
  }

  /** Removes what the coordinator keeps of the job. It expires by itself, so a failure does not matter. */
  async remove(): Promise<void> {
    if (!this.#answered) return;
    const signal = AbortSignal.timeout(CANCEL_MS);
    await fetch(this.#url(), { method: "DELETE", headers: this.#headers(), signal }).catch(() => {});
  }

  /** Both at once: bands come back while the picture is still going up. */
  async #sendAndWatch(file: string, size: number): Promise<void> {
    const over = new AbortController();
    const signal = AbortSignal.any([this.#stop, over.signal]);
    let accepted = false;
    const sending = this.#send(file, size, signal).then(() => {
      accepted = true;
    });
    const watching = this.#watch(() => accepted, signal);
    try {
      await Promise.all([sending, watching]);
    } catch (error) {
      over.abort(error);
      // What the answer to the upload says is worth more than that of a stream of events beside it.
      const [sent] = await Promise.allSettled([sending, watching]);
      throw sent.status === "rejected" ? sent.reason : error;
    }
  }

  async #send(file: string, size: number, signal: AbortSignal): Promise<void> {
    const query = new URLSearchParams(this.#job.params);
    query.set("task", this.#job.task);
    if (this.#job.workers !== undefined) query.set("workers", this.#job.workers);
    await this.#retry(signal, async () => {
      let unreadable: unknown;
      const body = counted(
        file,
        (bytes) => this.#progress.sent(bytes, size),
        (error) => {
          unreadable = error;
        },
      );
      // `duplex` is asked for by the standard; without `timeout: false` Bun ends what is silent for five minutes.
      const init = { method: "PUT", headers: this.#headers(), body, duplex: "half", timeout: false, signal };
      const answer = this.#fetch(`?${query}`, init as RequestInit);
      const response = await answer.catch((error) => {
        throw unreadable ?? error;
      });
      await expectOk(response).catch((error) => {
        // No task of that name, or the job was cancelled meanwhile: nothing that sending it again would mend.
        throw error instanceof Forgotten ? new Error(error.message) : error;
      });
      this.#progress.accepted();
    });
  }

  /** Until the job is done. @throws Error with what it failed of; Forgotten */
  async #watch(accepted: () => boolean, signal: AbortSignal): Promise<void> {
    await this.#retry(signal, async () => {
      const silence = new AbortController();
      let timer: ReturnType<typeof setTimeout> | undefined;
      const alive = () => {
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(new Error("the event stream went silent")), SILENCE_MS);
      };
      alive();
      try {
        const known = accepted();
        const response = await this.#fetch("/events", { signal: AbortSignal.any([signal, silence.signal]) });
        if (response.status === 404 && !known) throw new Retry("the job is not there yet", 0.3, true);
        await expectOk(response);
        for await (const [event, data] of eventsOf(response, alive)) if (this.#hear(event, data)) return;
        throw new Retry("the event stream ended");
      } finally {
        clearTimeout(timer);
      }
    });
  }

  /** @returns whether the job is done */
  #hear(event: string, data: unknown): boolean {
    const { error, bands, waiting, band, worker } = data as Record<string, never>;
    if (event === "failed") throw error === GONE ? new Forgotten(error) : new Error(`the job has failed: ${error}`);
    if (event === "job") this.#progress.job(bands, waiting);
    if (event === "band") this.#progress.band(band, worker);
    return event === "done";
  }

  async #fetchResult(): Promise<void> {
    const { to } = this.#job;
    if (to === "-") return this.#download((piece) => written(process.stdout, piece));
    // Beside and renamed, so that a job that fails does not cost the file that stood there.
    const part = `${to}.part`;
    try {
      const handle = await open(part, "w");
      try {
        await this.#download(async (piece) => {
          await handle.writeFile(piece);
        });
      } finally {
        await handle.close();
      }
      await rename(part, to);
    } catch (error) {
      await rm(part, { force: true });
      throw error;
    }
  }

  /** Goes on where a connection broke. */
  async #download(write: (piece: Uint8Array) => Promise<void>): Promise<void> {
    let have = 0;
    await this.#retry(this.#stop, async () => {
      const range: Record<string, string> = have > 0 ? { range: `bytes=${have}-` } : {};
      const response = await expectOk(await this.#fetch("/result", { headers: range, signal: this.#stop }));
      let skip = response.status === 206 ? 0 : have;
      const length = Number(response.headers.get("content-length") ?? Number.NaN);
      const whole = length + (response.status === 206 ? have : 0);
      for await (const piece of received(response)) {
        const rest = piece.subarray(Math.min(skip, piece.length));
        skip -= piece.length - rest.length;
        await write(rest);
        have += rest.length;
      }
      if (have < whole) throw new Retry(`the result broke off after ${have} of ${whole} bytes`);
    });
  }

  /** Repeats `step` while it fails in a way that may pass, for as long as there is patience. */
  async #retry(signal: AbortSignal, step: () => Promise<void>): Promise<void> {
    let trouble = 0;
    for (let pause = 250; ; pause = Math.min(2 * pause, 5_000)) {
      const start = Date.now();
      try {
        return await step();
      } catch (error) {
        if (signal.aborted) throw signal.reason;
        if (!(error instanceof Retry)) throw error;
        if (error.expected) pause = 250;
        if (trouble === 0 || error.expected || Date.now() - start > STEADY_MS) trouble = Date.now();
        const patience = this.#answered ? PATIENCE_MS : FIRST_PATIENCE_MS;
        if (Date.now() - trouble > patience) throw new Error(error.message, { cause: error.cause });
        if (!error.expected) this.#progress.sayOnce(`${error.message}; trying again`);
        await sleep(error.seconds === undefined ? pause : error.seconds * 1000, signal);
      }
    }
  }

  /** @throws Retry where no answer comes */
  async #fetch(path: string, init: RequestInit): Promise<Response> {
    try {
      const response = await fetch(this.#url(path), init);
      this.#answered = true;
      return response;
    } catch (cause) {
      const [why] = (cause as Error).message.split(". "); // what follows is Bun's advice to programmers
      throw new Retry(`no answer from ${this.#job.origin.origin}: ${why}`, undefined, false, cause);
    }
  }

  #url(path = ""): URL {
    return new URL(this.#path + path, this.#job.origin);
  }

  #headers(): Record<string, string> {
    const { token } = this.#job;
    return token === undefined ? {} : { authorization: `Bearer ${token}` };
  }
}

const GONE = "the job was cancelled or has expired";

/** It may go well the next time. */
class Retry extends Error {
  constructor(
    message: string,
    /** When, as the server would have it. */
    readonly seconds?: number,
    /** It was to be expected: no trouble, and nothing to say. */
    readonly expected = false,
    cause?: unknown,
  ) {
    super(message, { cause });
  }
}

/** @throws Retry, Forgotten, or Error with the server's sentence */
async function expectOk(response: Response): Promise<Response> {
  if (response.ok) return response;
  const { status, statusText, headers } = response;
  const text = await response.text().catch(() => "");
  const detail = headers.get("content-type")?.startsWith("application/problem+json") && detailOf(text);
  // Not of our coordinator, but of something before it, is what is not a problem.
  const known = typeof detail === "string";
  const sentence = known ? detail : `HTTP ${status} ${statusText}`.trim();
  if (status === 404 || status === 410) throw known ? new Forgotten(sentence) : new Error(sentence);
  const later = headers.has("retry-after");
  const retryable = later || status === 408 || status === 429 || (status >= 500 && !(known && status === 500));
  if (!retryable) throw new Error(sentence);
  const after = Number(headers.get("retry-after") ?? Number.NaN);
  throw new Retry(sentence, after >= 0 ? Math.min(after, MAX_SECONDS) : undefined);
}

/** What a problem says; undefined where the answer was cut. */
function detailOf(problem: string): string | undefined {
  try {
    return (JSON.parse(problem) as { detail?: string }).detail;
  } catch {
    return undefined;
  }
}

/** A file's bytes as the body of a request, read as they are taken; `onBytes` is told how many were. */
function counted(
  file: string,
  onBytes: (bytes: number) => void,
  onError: (error: unknown) => void,
): ReadableStream<Uint8Array> {
  const stream = createReadStream(file, { highWaterMark: 1 << 18 });
  const pieces = stream[Symbol.asyncIterator]();
  let bytes = 0;
  return new ReadableStream(
    {
      async pull(controller) {
        try {
          const { done, value } = await pieces.next();
          if (done) return controller.close();
          bytes += value.length;
          controller.enqueue(value);
          onBytes(bytes);
        } catch (error) {
          onError(error);
          throw error;
        }
      },
      cancel() {
        stream.destroy();
      },
    },
    { highWaterMark: 0 },
  );
}

/** A file that can be read more than once. */
async function spooled(from: string, signal: AbortSignal): Promise<{ file: string; temporary?: string }> {
  if (from !== "-" && (await stat(from)).isFile()) return { file: from };
  const temporary = await mkdtemp(join(tmpdir(), "sobel-"));
  const file = join(temporary, "picture");
  // Not `pipeline`: under Deno that does not keep the program alive while standard input is silent.
  const copy = async () => {
    const handle = await open(file, "wx", 0o600);
    try {
      for await (const piece of from === "-" ? process.stdin : createReadStream(from)) await handle.writeFile(piece);
    } finally {
      await handle.close();
    }
  };
  const interrupted = new Promise<never>((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason));
  });
  try {
    await Promise.race([copy(), interrupted]);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
  return { file, temporary };
}

/** The body of a response. @throws Retry where it breaks off */
async function* received(response: Response): AsyncGenerator<Uint8Array> {
  const body = response.body![Symbol.asyncIterator]();
  for (;;) {
    const { done, value } = await body.next().catch((cause: Error) => {
      throw new Retry(`the connection broke: ${cause.message}`, undefined, false, cause);
    });
    if (done) return;
    yield value;
  }
}

/** The server-sent events of a response, each with its data. @param alive is called for whatever arrives */
async function* eventsOf(response: Response, alive: () => void): AsyncGenerator<[event: string, data: unknown]> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const piece of received(response)) {
    alive();
    text += decoder.decode(piece, { stream: true });
    const blocks = text.split("\n\n");
    text = blocks.pop()!;
    for (const block of blocks) {
      const [, event, data] = /^event: (.*)\ndata: (.*)$/.exec(block) ?? [];
      if (event) yield [event, JSON.parse(data)];
    }
  }
}

function written(stream: NodeJS.WriteStream, piece: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(piece, (error) => (error ? reject(error) : resolve()));
  });
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/** What standard error shows: a bar that is redrawn, or lines at what matters. */
class Progress {
  readonly #terminal = process.stderr.isTTY === true;
  readonly #start = performance.now();
  readonly #done = new Set<number>();
  readonly #byWorker = new Map<string, number>();
  #sent = 0;
  #size = 0;
  #bands = 0;
  #waiting = false;
  #drawn = 0;
  #said = "";

  sent(bytes: number, size: number): void {
    this.#sent = bytes;
    this.#size = size;
    this.#draw();
  }

  accepted(): void {
    if (!this.#terminal) this.say(`the picture is sent, ${megabytes(this.#size)}`);
  }

  job(bands: number, waiting: boolean): void {
    if (waiting && !this.#waiting) this.say("waiting for workers");
    this.#bands = bands;
    this.#waiting = waiting;
    this.#draw();
  }

  /** A band is told again by each new stream of events. */
  band(number: number, worker: string): void {
    if (this.#done.has(number)) return;
    this.#done.add(number);
    this.#byWorker.set(worker, (this.#byWorker.get(worker) ?? 0) + 1);
    this.#draw();
  }

  /** Not again while nothing else is said: the upload and the events fail of the same. */
  sayOnce(text: string): void {
    if (text !== this.#said) this.say(text);
  }

  say(text: string): void {
    this.#said = text;
    process.stderr.write(`${this.#terminal ? "\r\x1b[K" : ""}${printable(text)}\n`);
  }

  /** Of a job that is begun anew, nothing is done. */
  again(text: string): void {
    this.#done.clear();
    this.#byWorker.clear();
    this.say(text);
  }

  clear(): void {
    if (this.#terminal) process.stderr.write("\r\x1b[K");
  }

  end(): void {
    const seconds = ((performance.now() - this.#start) / 1000).toFixed(2);
    this.say(`${this.#bandsDone()} in ${seconds} s`);
  }

  #draw(): void {
    if (!this.#terminal || performance.now() - this.#drawn < 100) return;
    this.#drawn = performance.now();
    const share = Math.min(1, (this.#sent / this.#size + this.#done.size / (this.#bands || 1)) / 2);
    const bar = "█".repeat(Math.round(20 * share)).padEnd(20, "░");
    const line = `${bar} ${megabytes(this.#sent)} of ${megabytes(this.#size)} · ${this.#bandsDone()}`;
    process.stderr.write(`\r\x1b[K${printable(line).slice(0, (process.stderr.columns || 80) - 1)}`);
  }

  #bandsDone(): string {
    const shares = [...this.#byWorker].sort().map(([worker, bands]) => `${worker} ${bands}`);
    return `${this.#done.size} of ${this.#bands || "?"} bands${shares.length ? `: ${shares.join(", ")}` : ""}`;
  }
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** A worker chooses its name: it is not to move the cursor. */
function printable(text: string): string {
  return text.replace(/[\x00-\x1f\x7f-\x9f]/g, "?");
}
