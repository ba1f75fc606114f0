/**
 * A job sent from the shell to a coordinator: `bun run sobel.ts --remote http://host:8080 in.jpg out.png`.
 *
 * The picture is uploaded under an id chosen here, its bands are followed while they come back, the result is fetched,
 * and the job is removed. Temporary failures are retried. A job that the coordinator has lost is uploaded again. A
 * final failure (a bad picture, a wrong token, a job that has failed) ends the program with the coordinator's own
 * message.
 *
 * Standard error shows the progress: a bar in a terminal, lines elsewhere.
 *
 * Not here: HTTP and its retries (client.ts), the output file (output.ts), the command line and the exit codes
 * (local.ts).
 */
import { randomUUID } from "node:crypto";
import { constants, createReadStream } from "node:fs";
import { access, mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { unlessAborted } from "../ops/deadline.ts";
import { Client, ClientError, type Upload } from "./client.ts";
import type { Output } from "./output.ts";

export interface RemoteJob {
  /** The address of the coordinator, with any path that it is behind. */
  origin: URL;
  /**
   * A file, or - for standard input, which is first written to a temporary file, because an upload may be repeated.
   * Null if the task takes no file.
   */
  from: string | null;
  task: string;
  /** The task's own parameters, as a query. */
  params: string;
  workers?: string | undefined;
  token?: string | undefined;
}

/** How long a step is retried, ms: if the coordinator has answered before, and if it never has. */
const PATIENCE_MS = 120_000;
const FIRST_PATIENCE_MS = 10_000;
/** How often a picture is uploaded again, if the coordinator has lost its job. */
const MAX_REPEATS = 3;
const REMOVE_MS = 3_000;
const SIGNALS = ["SIGINT", "SIGTERM"] as const;

/** Ended by Ctrl-C or SIGTERM. */
class Interrupted extends Error {
  readonly exitCode = 130;
}

/** @throws ClientError with the coordinator's message; Interrupted; what the output throws */
export async function remote(job: RemoteJob, output: Output): Promise<void> {
  const stopped = new AbortController();
  const { signal } = stopped;
  const stop = () => {
    if (signal.aborted) process.exit(130);
    stopped.abort(new Interrupted("interrupted"));
  };
  for (const name of SIGNALS) process.on(name, stop);
  const progress = new Progress();
  const client = new Client({
    origin: job.origin,
    token: job.token,
    patience: (answered) => (answered ? PATIENCE_MS : FIRST_PATIENCE_MS),
    onRetry: ({ message }) => progress.say(`${message}; retrying`),
  });
  const id = randomUUID();
  let picture: Picture | undefined;
  let partial = false;
  const result = async function* () {
    for await (const piece of client.result(id, signal)) {
      partial = !output.restartable;
      yield piece;
    }
  };
  try {
    picture = await openPicture(job.from, signal);
    for (let repeats = 0; ; repeats++) {
      try {
        await client.run(id, uploadOf(job, picture, progress), signal);
        await output.write(result(), signal);
        return progress.end();
      } catch (error) {
        const gone = error instanceof ClientError && error.code === "gone";
        if (!gone || partial || repeats === MAX_REPEATS) throw error;
        progress.restart(`${error.message}; uploading the picture again`);
      }
    }
  } catch (error) {
    throw signal.aborted ? signal.reason : error;
  } finally {
    progress.clear();
    await picture?.close();
    // The job expires by itself, so a failure does not matter.
    if (client.answered) await client.remove(id, AbortSignal.timeout(REMOVE_MS)).catch(() => {});
    for (const name of SIGNALS) process.off(name, stop);
  }
}

function uploadOf({ params, task, workers }: RemoteJob, { file, size }: Picture, progress: Progress): Upload {
  const query = new URLSearchParams(params);
  query.set("task", task);
  if (workers !== undefined) query.set("workers", workers);
  return {
    query,
    body: () => counted(file, (bytes) => progress.uploading(bytes, size)),
    onAccepted: () => progress.accepted(),
    onJob: ({ bands, waiting }) => progress.job(bands, waiting),
    onBand: (band, worker) => progress.band(band, worker),
  };
}

/** The pieces of a file as they are read. */
async function* counted(file: string | null, onBytes: (bytes: number) => void): AsyncGenerator<Uint8Array> {
  if (file === null) return;
  let bytes = 0;
  for await (const piece of createReadStream(file, { highWaterMark: 1 << 18 })) {
    yield piece;
    bytes += piece.length;
    onBytes(bytes);
  }
}

/** A file that can be read more than once. */
interface Picture {
  /** Null: nothing is uploaded. */
  file: string | null;
  size: number;
  /** Removes a temporary file. */
  close(): Promise<void>;
}

async function openPicture(from: string | null, signal: AbortSignal): Promise<Picture> {
  if (from === null) return { file: null, size: 0, close: async () => {} };
  const stats = from === "-" ? undefined : await stat(from);
  if (stats?.isFile()) {
    await access(from, constants.R_OK); // fails now, not during the upload
    return { file: from, size: stats.size, close: async () => {} };
  }
  const folder = await mkdtemp(join(tmpdir(), "sobel-"));
  const file = join(folder, "picture");
  const close = () => rm(folder, { recursive: true, force: true });
  try {
    // Not `pipeline`: under Deno that does not keep the program alive while standard input is silent.
    await unlessAborted(writeFile(file, from === "-" ? process.stdin : createReadStream(from)), signal);
    return { file, size: (await stat(file)).size, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** What standard error shows: a bar that is redrawn, or lines if it is not a terminal. */
class Progress {
  readonly #terminal = process.stderr.isTTY === true;
  readonly #start = performance.now();
  /** The worker of each band that is done. */
  readonly #done = new Map<number, string>();
  #uploaded = 0;
  #size = 0;
  #bands = 0;
  #waiting = false;
  #drawn = 0;
  #said = "";

  uploading(bytes: number, size: number): void {
    this.#uploaded = bytes;
    this.#size = size;
    this.#draw();
  }

  accepted(): void {
    if (!this.#terminal) this.say(`picture uploaded, ${megabytes(this.#size)}`);
  }

  job(bands: number, waiting: boolean): void {
    if (waiting && !this.#waiting) this.say("waiting for workers");
    this.#bands = bands;
    this.#waiting = waiting;
    this.#draw();
  }

  /** A new connection reports the same bands again. */
  band(number: number, worker: string): void {
    this.#done.set(number, worker);
    this.#draw();
  }

  /** The job begins anew: none of its bands is done. */
  restart(text: string): void {
    this.#done.clear();
    this.say(text);
  }

  clear(): void {
    if (this.#terminal) process.stderr.write("\r\x1b[K");
  }

  end(): void {
    const seconds = ((performance.now() - this.#start) / 1000).toFixed(2);
    this.say(`${this.#bandsDone()} in ${seconds} s`);
  }

  /** The same text is shown once: the upload and the events fail for the same reason. */
  say(text: string): void {
    if (text === this.#said) return;
    this.#said = text;
    process.stderr.write(`${this.#terminal ? "\r\x1b[K" : ""}${printable(text)}\n`);
  }

  #draw(): void {
    if (!this.#terminal || performance.now() - this.#drawn < 100) return;
    this.#drawn = performance.now();
    const uploaded = this.#size > 0 ? this.#uploaded / this.#size : 1;
    const share = Math.min(1, (uploaded + this.#done.size / (this.#bands || 1)) / 2);
    const bar = "█".repeat(Math.round(20 * share)).padEnd(20, "░");
    const line = `${bar} ${megabytes(this.#uploaded)} of ${megabytes(this.#size)} · ${this.#bandsDone()}`;
    process.stderr.write(`\r\x1b[K${printable(line).slice(0, (process.stderr.columns || 80) - 1)}`);
  }

  #bandsDone(): string {
    const byWorker = Map.groupBy(this.#done.values(), (worker) => worker);
    const shares = [...byWorker].sort().map(([worker, bands]) => `${worker} ${bands.length}`);
    return `${this.#done.size} of ${this.#bands || "?"} bands${shares.length ? `: ${shares.join(", ")}` : ""}`;
  }
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** A worker chooses its name, which must not move the cursor. */
function printable(text: string): string {
  return text.replace(/[\x00-\x1f\x7f-\x9f]/g, "?");
}
