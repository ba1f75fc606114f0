/**
 * The thread that a worker's tasks run in. So the process answers the broker's heartbeats while a band is computed, and
 * a task that does not end can be terminated. Both sides are in this file.
 *
 * Invariant: an error of a task fails its band at most. The process continues.
 *
 * Not here: what becomes of the band (worker.ts).
 */
import process from "node:process";
import { parentPort, Worker as Thread, workerData } from "node:worker_threads";
import { type Chunk, rowsCrc } from "../chunk.ts";
import { within } from "../ops/deadline.ts";
import type { Log } from "../ops/log.ts";
import { loadTasks } from "./index.ts";
import { encodedResult } from "./run.ts";
import { errorOf, type Placed, sentenceOf } from "./thrown.ts";

/** Marks the threads that this file starts. A thread that only imports it does not serve tasks. */
const ROLE = "tasks";

/** Why there is no result, and where the task threw: file and line. */
interface Failed {
  error: string;
  at?: string | undefined;
}

/** A band for the thread. It has the buffer, not a view of it: Deno searches every view in a message byte by byte. */
type Order = Omit<Chunk, "pixels"> & { pixels: ArrayBuffer; at: number };

export interface BandResult {
  /** A PNG as `encodeBand` makes it, or a data task's JSON in UTF-8. */
  made: Uint8Array;
  /** CRC-32 of the band's own rows, as received. */
  crc: number;
}

/**
 * The thread that tasks run in. It is replaced after a task that had to be terminated.
 *
 * A task may throw after it has returned, from a timer or a promise. Such an error is logged and fails no band.
 */
export class TaskThread {
  #thread: Thread | undefined;
  #reply: (reply: BandResult | Failed) => void = () => {};

  constructor(
    readonly modules: string | undefined,
    readonly log: Log,
  ) {}

  /**
   * @param chunk its pixels are transferred to the thread
   * @throws Error what the task threw, or that it took longer than `timeout` ms
   */
  async run(chunk: Chunk, timeout: number): Promise<BandResult> {
    this.#thread ??= this.#start();
    const thread = this.#thread;
    const { buffer, byteOffset } = chunk.pixels;
    const order: Order = { ...chunk, pixels: buffer as ArrayBuffer, at: byteOffset };
    const replied = new Promise<BandResult | Failed>((resolve) => {
      this.#reply = resolve;
    });
    thread.postMessage(order, [order.pixels]);
    const late = `the task took longer than ${timeout} ms`;
    const reply = await within(replied, timeout, late).catch(async (error: Error): Promise<Failed> => {
      await this.end();
      return { error: error.message };
    });
    if ("error" in reply) throw Object.assign(new Error(reply.error), { at: reply.at });
    return reply;
  }

  #start(): Thread {
    const thread = new Thread(new URL(import.meta.url), { workerData: { role: ROLE, modules: this.modules } });
    const lost = (why: string) => {
      if (this.#thread === thread) this.#thread = undefined;
      this.#reply({ error: why });
    };
    thread.on("message", (reply: BandResult | Failed | LateError) => {
      if ("late" in reply) this.log.error("task threw after it had returned", { task: reply.task, error: reply.late });
      else this.#reply(reply);
    });
    thread.on("error", (error: Error) => lost(`the task's thread failed: ${error.message}`));
    thread.on("exit", () => lost("the task's thread ended"));
    return thread;
  }

  async end(): Promise<void> {
    const thread = this.#thread;
    this.#thread = undefined;
    await thread?.terminate();
  }
}

/** An error after its task has returned. `task` is the one whose file it comes from, or else the one that ran last. */
interface LateError {
  late: string;
  task: string;
}

/** The thread's side of `TaskThread`. */
async function serveTasks(modules: string | undefined): Promise<void> {
  const port = parentPort!;
  const tasks = await loadTasks(modules);
  let last = "";
  const report = (error: unknown) => {
    const stack = String((error as Error | undefined)?.stack);
    const [task = last] = [...tasks.files].find(([, file]) => stack.includes(file)) ?? [];
    const late = sentenceOf(errorOf(error, tasks.files.get(task) ?? task, task));
    port.postMessage({ late, task } satisfies LateError);
  };
  process.on("uncaughtException", report);
  process.on("unhandledRejection", report);
  port.on("message", async ({ at, ...order }: Order) => {
    try {
      last = order.task;
      const { width, height, channels } = order;
      const chunk: Chunk = { ...order, pixels: new Uint8Array(order.pixels, at, width * height * channels) };
      const crc = rowsCrc(chunk);
      const made = await encodedResult(tasks.get(chunk.task)!, chunk);
      const moved = made.byteOffset === 0 && made.length === made.buffer.byteLength ? [made.buffer as ArrayBuffer] : [];
      port.postMessage({ made, crc } satisfies BandResult, moved);
    } catch (error) {
      const { message, at } = error as Placed;
      port.postMessage({ error: message, at } satisfies Failed);
    }
  });
}

if (workerData?.role === ROLE) serveTasks(workerData.modules);
