/**
 * What pictures may cost one process: memory, disk, and time of the main thread.
 *
 *     collected bodies     files that must be complete before they are decoded; beyond the limit, BusyError at once
 *     decodes              decoded pictures; each waits for its turn in a short queue
 *     spools               rows on disk; beyond the limit, BusyError at once
 *
 * A waiting decode holds nothing that another decode waits for: it takes all its memory at once, and bodies have a
 * share of their own. So there is no deadlock.
 *
 * Not here: what a format costs (read.ts), the settings (ops/settings.ts).
 */
import { availableParallelism } from "node:os";
import process from "node:process";

/** The process has no room for this picture now. A retry may succeed. */
export class BusyError extends Error {
  override name = "BusyError";
}

/** The most decodes that wait, and how long they do, ms. */
const MAX_WAITING = 16;
const PATIENCE_MS = 30_000;
/** A decode of at most this share of the memory and this many bytes skips the queue: a small picture does not wait. */
const SMALL = 1 / 16;
const SMALL_BYTES = 64 << 20;
/** How often the size of the process is checked while a picture is held, ms. */
const RELIEF_MS = 100;
/** The share of collected bodies; the rest is for decodes. */
const BODIES = 1 / 10;

/** A part of a budget. */
export interface Share {
  /** @throws BusyError if it would grow beyond the budget */
  resize(bytes: number): void;
  /** Gives everything back. A second call does nothing. */
  release(): void;
}

/** Bytes that are taken and given back. */
export class Budget {
  #free: number;

  /** @param what is full, for the error */
  constructor(
    readonly bytes: number,
    readonly what: string,
  ) {
    this.#free = bytes;
  }

  get free(): number {
    return this.#free;
  }

  /** @throws BusyError */
  take(bytes: number): Share {
    let held = 0;
    const resize = (bytes: number) => {
      if (bytes - held > this.#free) throw new BusyError(`${this.what} is full (${this.bytes} bytes); retry later`);
      this.#free += held - bytes;
      const isSmaller = bytes < held;
      held = bytes;
      if (isSmaller) this.freed();
    };
    resize(bytes);
    return { resize, release: () => resize(0) };
  }

  /** Called when bytes were given back. */
  protected freed(): void {}
}

/** A share, and the turn of a large decode. `decoded` ends the turn and keeps the memory. */
interface DecodeShare extends Share {
  decoded(): void;
}

interface Waiting {
  bytes: number;
  admit(): void;
}

/** The memory of decoded pictures: a budget with a queue. */
class Decodes extends Budget {
  readonly #queue: Waiting[] = [];
  /** The most large decodes at a time. The threads that decode also inflate PNGs, so half of them stay free. */
  readonly #slots = Math.max(1, availableParallelism() >> 1);
  #running = 0;

  /**
   * Waits for memory and for a turn.
   * @throws BusyError if too many wait, or after 30 s
   */
  async enter(bytes: number): Promise<DecodeShare> {
    const isSmall = bytes <= Math.min(this.bytes * SMALL, SMALL_BYTES);
    if (isSmall && bytes <= this.free) return { ...this.take(bytes), decoded() {} };
    return this.#queue.length === 0 && this.#hasRoom(bytes) ? this.#start(bytes) : this.#wait(bytes);
  }

  #hasRoom(bytes: number): boolean {
    return bytes <= this.free && this.#running < this.#slots;
  }

  #start(bytes: number): DecodeShare {
    const share = this.take(bytes);
    this.#running++;
    let running = true;
    const decoded = () => {
      if (running) this.#running--;
      running = false;
      this.freed();
    };
    return { ...share, decoded, release: () => [share.release(), decoded()] };
  }

  #wait(bytes: number): Promise<DecodeShare> {
    if (this.#queue.length >= MAX_WAITING) {
      throw new BusyError(`too many pictures wait to be decoded (${MAX_WAITING}); retry later`);
    }
    const { promise, resolve, reject } = Promise.withResolvers<DecodeShare>();
    const timer = setTimeout(() => {
      this.#queue.splice(this.#queue.indexOf(waiting), 1);
      reject(new BusyError(`no memory for this picture in ${PATIENCE_MS / 1000} s; retry later`));
      this.freed();
    }, PATIENCE_MS);
    const admit = () => {
      clearTimeout(timer);
      resolve(this.#start(bytes));
    };
    const waiting = { bytes, admit };
    this.#queue.push(waiting);
    return promise;
  }

  /** Admits waiting decodes, in their order, while there are memory and turns for the next one. */
  protected override freed(): void {
    while (this.#queue.length > 0 && this.#hasRoom(this.#queue[0].bytes)) this.#queue.shift()!.admit();
  }
}

/** The memory of pictures that are held whole, shared by all uploads of a process. */
export class PictureMemory {
  readonly bodies: Budget;
  readonly decodes: Decodes;

  constructor(readonly bytes: number) {
    this.bodies = new Budget(Math.floor(bytes * BODIES), "the memory for uploads that must be complete");
    this.decodes = new Decodes(bytes - this.bodies.bytes, "the memory for decoded pictures");
  }

  /**
   * Collects garbage if the process has grown beyond 1.2 times this memory. By itself, the collector lets garbage grow
   * to the size of what is in use: with a picture of 128 MB in memory, to another 128 MB.
   */
  relieve(): void {
    if (process.memoryUsage.rss() < 1.2 * this.bytes) return;
    if (typeof Bun !== "undefined") Bun.gc(true);
  }

  /** The memory of one picture. */
  open(): HeldMemory {
    return new HeldMemory(this);
  }
}

/** The memory of one picture. The caller releases it when the picture is no longer used. */
export class HeldMemory {
  readonly #buffers: ArrayBuffer[] = [];
  #body: Share | undefined;
  #decode: DecodeShare | undefined;
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(readonly memory: PictureMemory) {}

  /** The most bytes that the body of one picture may have. */
  get maxBody(): number {
    return this.memory.bodies.bytes;
  }

  /** The most bytes that one decoded picture may take. */
  get maxDecode(): number {
    return this.memory.decodes.bytes;
  }

  /** The body has `bytes` bytes. @throws BusyError */
  body(bytes: number): void {
    this.#body ??= this.memory.bodies.take(0);
    this.#body.resize(bytes);
  }

  /** Waits until there are `bytes` bytes for the decoded picture. @throws BusyError */
  async decode(bytes: number): Promise<void> {
    this.#decode = await this.memory.decodes.enter(bytes);
    this.#timer ??= setInterval(() => this.memory.relieve(), RELIEF_MS);
  }

  /** Waits until there are `bytes` bytes for a picture that this program decodes itself. @throws BusyError */
  async hold(bytes: number): Promise<void> {
    await this.decode(bytes);
    this.#decode?.decoded();
  }

  /** `release` frees these pixels. */
  own(pixels: Uint8Array): void {
    // Pixels of a small picture may share a buffer with other data.
    if (pixels.length === pixels.buffer.byteLength) this.#buffers.push(pixels.buffer as ArrayBuffer);
  }

  /** The picture is decoded into `pixels`; its body is no longer used. */
  decoded(pixels: Uint8Array): void {
    this.own(pixels);
    this.#body?.release();
    this.#decode?.resize(pixels.length);
    this.#decode?.decoded();
  }

  /** Also frees the pixels. */
  release(): void {
    clearInterval(this.#timer);
    for (const buffer of this.#buffers.splice(0)) free(buffer);
    this.#body?.release();
    this.#decode?.release();
  }
}

/** Frees a buffer now. Otherwise it is there until a garbage collection, which does not know that memory is short. */
export function free(buffer: ArrayBuffer): void {
  try {
    buffer.transfer(0);
  } catch {
    // Not every runtime detaches the buffers of native code. The garbage collector frees them.
  }
}

/** The longest time that all loops over pixels together keep the main thread, between two other events, ms. */
const TURN_MS = 8;
let turnStart = 0;
const turns: (() => void)[] = [];

/**
 * Lets the process answer requests between two steps of a long loop. Call it before each step of a few ms. In each turn
 * only one loop continues, in the order of the calls. So many loops delay an answer no more than one does.
 */
export function breathe(): Promise<void> | undefined {
  if (turns.length === 0 && performance.now() - turnStart < TURN_MS) return undefined;
  return new Promise((wake) => {
    if (turns.push(wake) === 1) setImmediate(nextTurn);
  });
}

let steps = 0;

/** `breathe` for steps of about a microsecond. */
export function breatheAtTimes(): Promise<void> | undefined {
  return ++steps % 1000 === 0 ? breathe() : undefined;
}

function nextTurn(): void {
  turnStart = performance.now();
  turns.shift()?.();
  if (turns.length > 0) setImmediate(nextTurn);
}
