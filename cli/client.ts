/**
 * The client of a coordinator: uploads a picture, follows its job, fetches the result, removes the job.
 *
 * A temporary failure is retried under the same job id: a refused or broken connection, HTTP 408, 429 and 501 to 599,
 * and any answer with Retry-After except 404 and 410. The coordinator keeps what it has, so no band is done twice.
 *
 * Not here: what the user sees (remote.ts), the API itself (coordinator.ts).
 *
 * Invariant: every failure of the coordinator or of the network is a `ClientError`, and its code says what to do.
 */
import { setTimeout as startTimer } from "node:timers";
import { setTimeout as sleep } from "node:timers/promises";
import type { view } from "../http/events.ts";

/** A job as the API shows it. */
export type JobView = ReturnType<typeof view>;

/**
 * What to do. `unavailable`: retry. `gone`: upload again, because the coordinator does not have the job. `failed` and
 * `refused`: do not retry, because the job has failed, or because the same request always fails.
 */
type ErrorCode = "unavailable" | "gone" | "failed" | "refused";

export class ClientError extends Error {
  constructor(
    readonly code: ErrorCode,
    message: string,
    /** The request (`PUT jobs/…`), the status of its answer, and after how many ms the coordinator wants a retry. */
    readonly details: { request?: string; status?: number; retryAfter?: number | undefined; cause?: unknown } = {},
  ) {
    super(message, details);
  }
}

export interface ClientOptions {
  /** The address of the coordinator, with any path that it is behind. */
  origin: URL;
  token?: string | undefined;
  /** How long a step is retried, ms. @param answered whether the coordinator has ever answered */
  patience(answered: boolean): number;
  /** Called before each retry. */
  onRetry?(error: ClientError): void;
}

/** A picture to process, and what its sender wants to know meanwhile. */
export interface Upload {
  query?: URLSearchParams;
  /** The picture's bytes. Called for each attempt. */
  body(): Uint8Array | AsyncIterable<Uint8Array>;
  /** Called when all bands are in the queue. */
  onAccepted?(): void;
  /** Called when the job's state or plan has changed, or whether it waits for workers. */
  onJob?(job: JobView): void;
  /** Called when a band is done. A new connection reports it again. */
  onBand?(band: number, worker: string): void;
}

const FIRST_PAUSE_MS = 250;
const MAX_PAUSE_MS = 5_000;
const MAX_RETRY_AFTER_MS = 60_000;
/** If an attempt lasted this long before it failed, `patience` starts again, ms. */
const STEADY_MS = 10_000;
/** The coordinator sends a comment every few seconds: a stream that is silent for this long is dead, ms. */
const SILENCE_MS = 30_000;

export class Client {
  /** Whether the coordinator has ever answered. */
  answered = false;
  readonly #options: ClientOptions;
  readonly #base: URL;

  constructor(options: ClientOptions) {
    this.#options = options;
    this.#base = new URL(options.origin);
    if (!this.#base.pathname.endsWith("/")) this.#base.pathname += "/";
  }

  /** @returns the answer, HTTP 200 */
  get(path: string, signal: AbortSignal): Promise<Response> {
    return this.retry(signal, () => this.#ask("GET", path, [200], { signal }));
  }

  /**
   * Uploads a picture, and follows its job until it is done: both at once, since bands come back during the upload.
   * @returns the job
   */
  async run(id: string, upload: Upload, signal: AbortSignal): Promise<JobView> {
    const failed = new AbortController();
    const either = AbortSignal.any([signal, failed.signal]);
    let accepted = false;
    const uploading = this.#upload(id, upload, either).then(() => {
      accepted = true;
      upload.onAccepted?.();
    });
    const following = this.#follow(id, upload, () => accepted, either);
    try {
      const [, job] = await Promise.all([uploading, following]);
      return job;
    } catch (error) {
      failed.abort(error);
      // The answer to the upload explains more than an event does.
      const [uploaded] = await Promise.allSettled([uploading, following]);
      throw uploaded.status === "rejected" ? uploaded.reason : error;
    }
  }

  #upload(id: string, { query, body }: Upload, signal: AbortSignal): Promise<Response> {
    return this.retry(signal, () => {
      // An iterable needs `duplex`. Without `timeout: false` Bun ends an upload that is silent for five minutes.
      const init = { body: body(), duplex: "half", timeout: false, signal };
      return this.#ask("PUT", `jobs/${id}${query ? `?${query}` : ""}`, [202], init as RequestInit);
    });
  }

  #follow(id: string, { onJob, onBand }: Upload, accepted: () => boolean, signal: AbortSignal): Promise<JobView> {
    return this.retry(signal, async () => {
      const known = accepted();
      for await (const [event, data] of this.#events(`events?jobs=${id}`, signal)) {
        if (event === "job") onJob?.(data);
        if (event === "band") onBand?.(data.band, data.worker);
        if (event === "done") return data;
        // Until the upload is accepted, the coordinator may not know the job.
        if (event === "unknown" && known) throw new ClientError("gone", "the coordinator has lost the job");
        if (event !== "failed") continue;
        if (data.code === "gone") throw new ClientError("gone", data.error!);
        throw new ClientError("failed", `the job has failed: ${data.error}`);
      }
      throw new ClientError("unavailable", "the event stream ended");
    });
  }

  /** The bytes of a job's result. After a broken connection it resumes at the next byte. */
  async *result(id: string, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    const backOff = this.#backOff(signal);
    for (let have = 0; ; ) {
      try {
        const headers: Record<string, string> = have > 0 ? { range: `bytes=${have}-` } : {};
        const response = await this.#ask("GET", `jobs/${id}/result`, [200, 206], { headers, signal });
        const from = response.status === 206 ? have : 0;
        const end = from + Number(response.headers.get("content-length") ?? Number.NaN);
        let skip = have - from;
        for await (const piece of received(response)) {
          const fresh = piece.subarray(skip);
          skip -= piece.length - fresh.length;
          have += fresh.length;
          if (fresh.length > 0) yield fresh;
        }
        if (!(have < end)) return;
        throw new ClientError("unavailable", `the result broke off after ${have} of ${end} bytes`);
      } catch (error) {
        await backOff(error);
      }
    }
  }

  /** Cancels or removes a job, in one attempt. A job that does not exist is no error. */
  async remove(id: string, signal: AbortSignal): Promise<void> {
    await this.#ask("DELETE", `jobs/${id}`, [204, 404], { signal });
  }

  /** Repeats `step` while it fails as `unavailable`. @throws its error; the signal's reason */
  async retry<T>(signal: AbortSignal, step: () => Promise<T>): Promise<T> {
    for (const backOff = this.#backOff(signal); ; ) {
      try {
        return await step();
      } catch (error) {
        await backOff(error);
      }
    }
  }

  /** @returns a function that waits before the next attempt of a step, or throws the error if no attempt is left */
  #backOff(signal: AbortSignal): (error: unknown) => Promise<void> {
    let pause = FIRST_PAUSE_MS;
    let attempted = Date.now();
    let failing: number | undefined;
    return async (error) => {
      signal.throwIfAborted();
      if (!(error instanceof ClientError) || error.code !== "unavailable") throw error;
      if (failing === undefined || Date.now() - attempted > STEADY_MS) {
        failing = Date.now();
        pause = FIRST_PAUSE_MS;
      }
      if (Date.now() - failing > this.#options.patience(this.answered)) throw error;
      this.#options.onRetry?.(error);
      await sleep(error.details.retryAfter ?? pause, undefined, { signal }).catch(() => signal.throwIfAborted());
      pause = Math.min(2 * pause, MAX_PAUSE_MS);
      attempted = Date.now();
    };
  }

  /** One attempt. @throws ClientError unless the answer's status is one of `expected` */
  async #ask(method: string, path: string, expected: number[], init: RequestInit): Promise<Response> {
    const request = `${method} ${path}`;
    const { token } = this.#options;
    const headers = { ...init.headers, ...(token !== undefined && { authorization: `Bearer ${token}` }) };
    const response = await fetch(new URL(path, this.#base), { ...init, method, headers }).catch((cause: Error) => {
      const [why] = cause.message.split(". ", 1); // advice from Bun to programmers follows
      throw new ClientError("unavailable", `no answer from ${this.#base.origin}: ${why}`, { request, cause });
    });
    this.answered = true;
    if (expected.includes(response.status)) return response;
    throw await refusal(request, expected[0], response);
  }

  /** The server-sent events of a path, each with its data. */
  async *#events(path: string, signal: AbortSignal): AsyncGenerator<[event: string, data: EventData]> {
    const silence = new AbortController();
    const alarm = startTimer(() => silence.abort(new Error(`silent for ${SILENCE_MS / 1000} s`)), SILENCE_MS);
    try {
      const response = await this.#ask("GET", path, [200], { signal: AbortSignal.any([signal, silence.signal]) });
      const decoder = new TextDecoder();
      let text = "";
      for await (const piece of received(response)) {
        alarm.refresh();
        const blocks = (text + decoder.decode(piece, { stream: true })).split("\n\n");
        text = blocks.pop()!;
        for (const block of blocks) {
          const [, event, data] = /^event: (.*)\ndata: (.*)$/.exec(block) ?? []; // or a comment
          if (event) yield [event, JSON.parse(data)];
        }
      }
    } finally {
      clearTimeout(alarm);
    }
  }
}

/** A job. The event `band` has the band's number and worker instead; `failed` may have a code. */
type EventData = JobView & { band: number; worker: string; code?: "gone" };

/** The error for an unexpected answer. Its message is the coordinator's own if that is a problem of RFC 9457. */
async function refusal(request: string, expected: number, response: Response): Promise<ClientError> {
  const { status, headers } = response;
  const isProblem = headers.get("content-type")?.startsWith("application/problem+json");
  const { detail } = isProblem ? await response.json().catch(() => ({})) : {};
  const text = isProblem ? "" : (await response.text().catch(() => "")).trim().split("\n")[0].slice(0, 80);
  const message = detail ?? `expected HTTP ${expected}, got HTTP ${status}${text && `: ${text}`}`;
  if (status === 404 || status === 410) {
    // An answer without a detail is a proxy's, not the coordinator's. For a PUT, the job was cancelled meanwhile.
    const gone = detail !== undefined && !request.startsWith("PUT");
    return new ClientError(gone ? "gone" : "refused", message, { request, status });
  }
  const after = headers.get("retry-after");
  const seconds = Number(after ?? Number.NaN);
  const retryAfter = seconds >= 0 ? Math.min(seconds * 1000, MAX_RETRY_AFTER_MS) : undefined;
  const passing = after !== null || status === 408 || status === 429 || status > 500;
  return new ClientError(passing ? "unavailable" : "refused", message, { request, status, retryAfter });
}

/** The pieces of a body. @throws ClientError if the connection breaks */
async function* received(response: Response): AsyncGenerator<Uint8Array> {
  try {
    yield* response.body!;
  } catch (cause) {
    throw new ClientError("unavailable", `the connection broke: ${(cause as Error).message}`, { cause });
  }
}
