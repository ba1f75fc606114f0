/**
 * Reads large PNGs in a thread of its own: one part is decoded while the rows of the part before are on their way to the
 * workers. Nothing else that a coordinator does for a picture is as much work.
 *
 *     here                                the reader's thread
 *     pieces of the file  ── pieces ──►   readPng
 *     rows of grey        ◄── blocks ──
 *
 * Both go through a few buffers that the two share; messages say which are full and which are empty. Who has no empty one
 * waits for the other, so neither runs ahead. A thread reads one picture at a time, and is kept for the next. Where all are
 * busy, or there is one core only, or a row is longer than a buffer, a picture is read by whoever asks for its rows.
 *
 * Invariant: a thread and its buffers are of one picture, until the thread has said its last of it and whoever asked for the
 * rows has let go of them.
 *
 * Not here: how a PNG is read (png.ts), which are large (image.ts). The thread is this same file.
 */
import { availableParallelism } from "node:os";
import { parentPort, Worker as Thread, workerData } from "node:worker_threads";
import { ImageError, type PixelLimits } from "../picture.ts";
import { readPng } from "../png-read.ts";

const ROLE = "reader of pictures";
/** Each has a core beside that of the thread that asks, and two give that one all the rows that it can deal with. */
const MAX_THREADS = Math.min(2, availableParallelism() - 1);
/** Bytes of each buffer: pieces of the file, or as many whole rows as there is room for. */
const BUFFER_BYTES = 1 << 19;
/** Of either kind: one that is filled, one that waits, one that is read. */
const BUFFERS = 3;

/** A buffer by its place, and how many bytes of it are filled. */
interface Filled {
  buffer: number;
  length: number;
}

/** What the reader is told; a piece of no bytes is the file's end. */
type Order = { begin: PixelLimits } | { piece: Filled } | { emptyBlock: number } | { stop: true };

/** What it tells of the rows; the last three are its last. */
type Report = { block: Filled } | { done: true } | { refused: string; code: ImageError["code"] } | { broken: string };

/** What both have. */
interface Shared {
  role: typeof ROLE;
  pieces: SharedArrayBuffer[];
  blocks: SharedArrayBuffer[];
}

interface Reader {
  thread: Thread;
  pieces: Uint8Array[];
  blocks: Uint8Array[];
}

let idle: Reader[] = [];
let threads = 0;

/**
 * The blocks of `readPng`, read in another thread where one is free; from when the first is asked for.
 * @param source its pieces are copied
 */
export async function* blocksAside(
  source: AsyncIterable<Uint8Array>,
  width: number,
  limits: PixelLimits,
): AsyncGenerator<Uint8Array> {
  const fits = width <= BUFFER_BYTES;
  const reader = fits ? (idle.pop() ?? (threads < MAX_THREADS ? started() : undefined)) : undefined;
  if (reader) yield* new Reading(reader).blocks(source, limits);
  else yield* (await readPng(source, limits)).blocks;
}

function started(): Reader {
  const buffers = () => Array.from({ length: BUFFERS }, () => new SharedArrayBuffer(BUFFER_BYTES));
  const shared: Shared = { role: ROLE, pieces: buffers(), blocks: buffers() };
  const thread = new Thread(new URL(import.meta.url), { workerData: shared });
  threads++;
  // Whoever reads a picture with it hears of an error; without one, it would end the program.
  thread.on("error", () => {});
  thread.once("exit", () => {
    threads--;
    idle = idle.filter((reader) => reader.thread !== thread);
  });
  return { thread, pieces: shared.pieces.map(bytesOf), blocks: shared.blocks.map(bytesOf) };
}

function bytesOf(buffer: SharedArrayBuffer): Uint8Array {
  return new Uint8Array(buffer);
}

/** Things one after the other, for whoever waits for them. */
class Mailbox<T> {
  readonly #held: T[];
  #wake: (() => void) | undefined;
  #closed = false;

  constructor(held: T[] = []) {
    this.#held = held;
  }

  put(one: T): void {
    this.#held.push(one);
    this.#wake?.();
  }

  /** Whoever waits, or comes later, gets nothing. */
  close(): void {
    this.#closed = true;
    this.#wake?.();
  }

  async take(): Promise<T | undefined> {
    while (!this.#closed && this.#held.length === 0) {
      await new Promise<void>((wake) => {
        this.#wake = wake;
      });
    }
    return this.#closed ? undefined : this.#held.shift();
  }
}

/** A picture that a thread reads, seen from here. */
class Reading {
  readonly #reader: Reader;
  readonly #empty: Mailbox<number>;
  readonly #reports = new Mailbox<Report>();
  readonly #listeners = {
    message: (told: Report | { emptyPiece: number }) => this.#told(told),
    error: (error: Error) => this.#broke(error.message),
    exit: () => this.#broke("it has ended"),
  };
  /** Why the file has no more pieces. */
  #failure: { error: unknown } | undefined;
  /** The buffer that is being filled, how far it is, and how many the thread has. */
  #buffer: number | undefined;
  #length = 0;
  #handed = 0;
  /** The thread has said its last; nobody wants more rows. */
  #ended = false;
  #left = false;
  #stopped = false;
  #sound = true;

  constructor(reader: Reader) {
    this.#reader = reader;
    this.#empty = new Mailbox([...reader.pieces.keys()]);
    const { message, error, exit } = this.#listeners;
    reader.thread.on("message", message).on("error", error).on("exit", exit).ref();
  }

  async *blocks(source: AsyncIterable<Uint8Array>, limits: PixelLimits): AsyncGenerator<Uint8Array> {
    this.#order({ begin: limits });
    this.#handOver(source);
    try {
      for (;;) {
        const report = (await this.#reports.take())!;
        if ("done" in report) return;
        if ("refused" in report) throw new ImageError(report.code, report.refused);
        if ("broken" in report) {
          throw this.#failure
            ? this.#failure.error
            : new Error(`the thread that reads pictures broke: ${report.broken}`);
        }
        const { buffer, length } = report.block;
        yield this.#reader.blocks[buffer].subarray(0, length);
        this.#order({ emptyBlock: buffer });
      }
    } finally {
      this.#left = true;
      this.#stop();
      this.#empty.close();
      this.#release();
    }
  }

  #told(told: Report | { emptyPiece: number }): void {
    if ("emptyPiece" in told) {
      this.#handed--;
      this.#empty.put(told.emptyPiece);
      if (this.#handed === 0) this.#hand();
      return;
    }
    this.#reports.put(told);
    if (!("block" in told)) this.#end(!("broken" in told) || this.#stopped);
  }

  #broke(why: string): void {
    this.#reports.put({ broken: why });
    this.#end(false);
  }

  #end(sound: boolean): void {
    this.#ended = true;
    this.#sound = sound;
    this.#empty.close();
    const { message, error, exit } = this.#listeners;
    this.#reader.thread.off("message", message).off("error", error).off("exit", exit).unref();
    this.#release();
  }

  /** The thread is for the next picture, or for none: what has broken unasked may be broken for good. */
  #release(): void {
    if (!this.#ended || !this.#left) return;
    if (this.#sound) idle.push(this.#reader);
    else this.#reader.thread.terminate();
  }

  /** The file, for as long as it is wanted: a buffer at a time, or less where the thread has nothing to do. */
  async #handOver(source: AsyncIterable<Uint8Array>): Promise<void> {
    try {
      for await (let piece of source) {
        // It may have been long in coming: the buffer is not ours any more.
        if (this.#ended || this.#left) return;
        while (piece.length > 0) {
          this.#buffer ??= await this.#empty.take();
          if (this.#buffer === undefined) return;
          const part = piece.subarray(0, BUFFER_BYTES - this.#length);
          this.#reader.pieces[this.#buffer].set(part, this.#length);
          this.#length += part.length;
          piece = piece.subarray(part.length);
          if (this.#length === BUFFER_BYTES || this.#handed === 0) this.#hand();
        }
      }
      this.#hand();
      this.#order({ piece: { buffer: 0, length: 0 } });
    } catch (error) {
      this.#failure = { error };
      this.#stop();
    }
  }

  #hand(): void {
    if (this.#buffer === undefined) return;
    this.#handed++;
    this.#order({ piece: { buffer: this.#buffer, length: this.#length } });
    this.#buffer = undefined;
    this.#length = 0;
  }

  #stop(): void {
    this.#stopped = true;
    this.#order({ stop: true });
  }

  #order(order: Order): void {
    if (!this.#ended) this.#reader.thread.postMessage(order);
  }
}

/** The other side: one picture after the other. */
function serve(shared: Shared): void {
  const buffers = { pieces: shared.pieces.map(bytesOf), blocks: shared.blocks.map(bytesOf) };
  let pieces = new Mailbox<Filled>();
  let empty = new Mailbox<number>();
  parentPort!.on("message", (order: Order) => {
    if ("begin" in order) {
      pieces = new Mailbox();
      empty = new Mailbox([...buffers.blocks.keys()]);
      read(piecesOf(pieces, buffers.pieces), empty, buffers.blocks, order.begin);
    } else if ("piece" in order) {
      pieces.put(order.piece);
    } else if ("emptyBlock" in order) {
      empty.put(order.emptyBlock);
    } else {
      pieces.close();
      empty.close();
    }
  });
}

/** Never throws. */
async function read(
  source: AsyncIterable<Uint8Array>,
  empty: Mailbox<number>,
  blocks: Uint8Array[],
  limits: PixelLimits,
): Promise<void> {
  try {
    const image = await readPng(source, limits);
    const most = BUFFER_BYTES - (BUFFER_BYTES % image.width);
    let buffer = await empty.take();
    let length = 0;
    for await (let rows of image.blocks) {
      while (rows.length > 0) {
        if (buffer === undefined) throw new Error("nobody wants the rows");
        const part = rows.subarray(0, most - length);
        blocks[buffer].set(part, length);
        length += part.length;
        rows = rows.subarray(part.length);
        if (length < most) continue;
        report({ block: { buffer, length } });
        buffer = await empty.take();
        length = 0;
      }
    }
    if (buffer !== undefined && length > 0) report({ block: { buffer, length } });
    report({ done: true });
  } catch (error) {
    const { message } = error as Error;
    report(error instanceof ImageError ? { refused: message, code: error.code } : { broken: message });
  }
}

/** Copies, since not every function takes memory that is shared. */
async function* piecesOf(pieces: Mailbox<Filled>, buffers: Uint8Array[]): AsyncGenerator<Uint8Array> {
  const own = new Uint8Array(BUFFER_BYTES);
  for (;;) {
    const piece = await pieces.take();
    if (!piece) throw new Error("the file has been given up");
    const { buffer, length } = piece;
    if (length === 0) return;
    own.set(buffers[buffer].subarray(0, length));
    parentPort!.postMessage({ emptyPiece: buffer });
    yield own.subarray(0, length);
  }
}

function report(report: Report): void {
  parentPort!.postMessage(report);
}

if (workerData?.role === ROLE) serve(workerData);
