// The coordinator's app in this process, with its queue and store in view, and what tests of the API share.
import { expect } from "bun:test";
import { connect, type Socket } from "node:net";
import type { Done, Handler, Hint, Job, WorkerInfo } from "../backends.ts";
import type { Chunk } from "../chunk.ts";
import { transform } from "../cli/local.ts";
import { createApp, type Dependencies } from "../coordinator.ts";
import { LocalQueue } from "../embedded/queue.ts";
import { LocalResults } from "../embedded/results.ts";
import { openLog } from "../ops/log.ts";
import { readImage } from "../picture/read.ts";
import { task as sobel } from "../sobel.ts";
import { loadTasks } from "../tasks/index.ts";
import { Worker } from "../worker.ts";
import { inPieces } from "./pictures.ts";
import { until, within } from "./wait.ts";

export type Bytes = Buffer<ArrayBuffer>;

/** Size of a band unless a test says otherwise. */
export const BAND_PIXELS = 4000;
/** No request takes longer, ms. */
export const DEADLINE = 15_000;

export interface Kit {
  app: { fetch(request: Request, client?: string): Promise<Response> };
  origin: string;
  queue: CountedQueue;
  results: CountedResults;
  /** Uploads that are being answered. */
  readonly uploads: number;
  readonly maxInFlight: number;
  ask(path: string, init?: RequestInit): Promise<Response>;
  /** No upload is being answered, no job is left in the store, and none is watched. */
  idle(): boolean;
  startWorkers(count: number): Promise<void>;
  stop(): Promise<void>;
}

/** The app on a port of its own, with `workers` workers in this process. */
export async function startKit({
  workers,
  ttlSeconds = 60,
  ...options
}: Partial<Dependencies> & { workers: number; ttlSeconds?: number }): Promise<Kit> {
  const queue = new CountedQueue();
  const results = new CountedResults(ttlSeconds);
  const tasks = await loadTasks();
  const app = createApp({ queue, results, tasks, bandPixels: BAND_PIXELS, ...options });
  const running: Worker[] = [];
  let uploads = 0;
  let maxInFlight = 0;
  queue.onPublish = () => {
    maxInFlight = Math.max(maxInFlight, queue.published.length - results.stored);
  };
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request, self) {
      self.timeout(request, 0);
      if (!["PUT", "POST"].includes(request.method)) return app.fetch(request);
      uploads++;
      try {
        return await app.fetch(request);
      } finally {
        uploads--;
      }
    },
  });
  const kit: Kit = {
    app,
    origin: server.url.origin,
    queue,
    results,
    get uploads() {
      return uploads;
    },
    get maxInFlight() {
      return maxInFlight;
    },
    ask: (path, init) => fetch(`${kit.origin}${path}`, { signal: AbortSignal.timeout(DEADLINE), ...init }),
    idle: () => uploads === 0 && results.jobs.size === 0 && results.watched === 0,
    async startWorkers(count) {
      for (let i = 0; i < count; i++) {
        const name = `worker-${running.length + 1}`;
        const worker = new Worker({ queue, results, tasks, name, bandTimeout: 10_000, log: openLog("warn") });
        running.push(worker);
        await worker.start();
      }
    },
    async stop() {
      await server.stop(true);
      await Promise.all(running.splice(0).map((worker) => worker.stop()));
      await results.close();
    },
  };
  await kit.startWorkers(workers);
  return kit;
}

class CountedQueue extends LocalQueue {
  readonly published: string[] = [];
  onPublish = () => {};
  /** Deliveries that a worker has handled, with any outcome. */
  handled = 0;

  override async consume(tasks: string[], handle: Handler): Promise<() => Promise<void>> {
    return super.consume(tasks, async (delivery) => {
      const outcome = await handle(delivery);
      this.handled++;
      return outcome;
    });
  }

  override async publish(chunk: Chunk): Promise<void> {
    this.published.push(chunk.chunkId);
    this.onPublish();
    await super.publish(chunk);
  }
}

class CountedResults extends LocalResults {
  readonly jobs = new Set<string>();
  stored = 0;
  /** Watches that are open, and how many were opened. */
  watched = 0;
  opened = 0;
  /** While it is set, `workers` waits for it. */
  gate: Promise<void> | undefined;
  /** Calls of `workers` that wait for the gate. */
  held = 0;

  override async putJob(job: Job): Promise<void> {
    this.jobs.add(job.id);
    await super.putJob(job);
  }

  override async removeJob(id: string): Promise<void> {
    this.jobs.delete(id);
    await super.removeJob(id);
  }

  override async store(
    chunkId: string,
    picture: Uint8Array,
    done: Done,
    attempt: number | undefined,
  ): Promise<boolean> {
    this.stored++;
    return super.store(chunkId, picture, done, attempt);
  }

  override async workers(): Promise<WorkerInfo[]> {
    this.held++;
    await this.gate;
    this.held--;
    return super.workers();
  }

  override async watch(id: string, listener: (hint?: Hint) => void): Promise<() => void> {
    this.watched++;
    this.opened++;
    const unwatch = await super.watch(id, listener);
    return () => {
      this.watched--;
      unwatch();
    };
  }
}

/** The edges of a picture, by the one-machine program. */
export async function edgesOf(picture: Uint8Array, bandPixels = BAND_PIXELS): Promise<Bytes> {
  const image = await readImage(inPieces(picture));
  return Buffer.concat(await Array.fromAsync(transform(image, sobel, bandPixels)));
}

/** The body of an answer. @throws Error unless it is a success */
export async function bytesOf(answer: Response): Promise<Bytes> {
  const bytes = Buffer.from(await answer.arrayBuffer());
  if (!answer.ok) throw new Error(`expected success, got ${answer.status}: ${bytes}`);
  return bytes;
}

export interface RawUpload {
  socket: Socket;
  write(bytes: Uint8Array): void;
  /** Resolves when all of `bytes` has left this process. */
  written(bytes: Uint8Array): Promise<void>;
  /** All that the server has sent, once it has closed the connection. */
  answer(): Promise<string>;
}

/** A request whose body the test writes itself, in pieces. @param head its method and path */
export async function rawUpload(origin: string, head: string, length: number, type = "image/png"): Promise<RawUpload> {
  const { hostname, port } = new URL(origin);
  const socket = connect(Number(port), hostname);
  let text = "";
  socket.setEncoding("latin1").on("data", (piece) => {
    text += piece;
  });
  socket.on("error", () => {}); // `close` follows
  await new Promise((resolve) => socket.once("connect", resolve));
  socket.write(
    `${head} HTTP/1.1\r\nhost: test\r\ncontent-type: ${type}\r\ncontent-length: ${length}\r\nconnection: close\r\n\r\n`,
  );
  return {
    socket,
    write: (bytes) => void socket.write(bytes),
    async written(bytes) {
      await within(
        new Promise<void>((resolve, reject) => socket.write(bytes, (error) => (error ? reject(error) : resolve()))),
      );
    },
    async answer() {
      await until(() => socket.destroyed || socket.readableEnded);
      return text;
    },
  };
}

export interface JobEvent {
  event: string;
  data: {
    id?: string;
    state?: string;
    band?: number;
    y?: number;
    rows?: number;
    worker?: string;
    done?: number;
    lane?: number;
  };
}

/** Server-sent events, without comments (HTML standard, 9.2). */
export function parsedEvents(text: string): JobEvent[] {
  expect(text).toEndWith("\n\n");
  const blocks = text.split("\n\n").filter((block) => block && !block.startsWith(":"));
  return blocks.map((block) => {
    const [, event, data] = block.match(/^event: (\w+)\ndata: (.*)$/) ?? [];
    return { event, data: JSON.parse(data) };
  });
}
