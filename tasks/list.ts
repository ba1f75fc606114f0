/**
 * The pieces of a list task as bands: a band is one piece, or several if the list is long.
 *
 * An iterable is counted before it is enqueued, and cut evenly: a list of up to `EVEN_BANDS` pieces has a band for
 * each. An async iterable may cut the body of a request while it arrives, so its length is known only at the end. Its
 * bands take more and more pieces, but not more bytes than `FULL_BYTES`. So a million pieces are some hundred bands
 * either way.
 *
 * Invariant: the same request gives the same bands, and at most a few pieces are held at a time.
 *
 * Not here: what a list task is (task.ts), how a band is run (run.ts), how it is enqueued (job.ts).
 */
import type { Band, Plan } from "../chunk.ts";
import { breathe } from "../picture/budget.ts";
import { ImageError, startingWith } from "../picture/picture.ts";
import { type Input, type ListTask, TaskError, type Values } from "../task.ts";
import { jsonOf } from "./run.ts";

/** The pieces of a job, in place of a picture. It has `height` pieces; the longest is `width` bytes as JSON. */
export interface PieceList {
  width: number;
  /** The number of pieces. If that is not known yet, about the number of bands. */
  height: number;
  channels: 1;
  isCounted: boolean;
  /** About how many bytes a band has, at `width` bytes per piece. */
  bandPixels: number;
  /** The bands. They can be read once. */
  bands(plan: Pick<Plan, "rows">): AsyncGenerator<Band>;
}

/** A list of more pieces than this has several in each band. */
const EVEN_BANDS = 256;
/** After this many bands of a list of unknown length, and each time again, a band takes twice as many pieces. */
const GROWTH = 64;
/** A band of a list of unknown length takes no more pieces once it has this many bytes. */
const FULL_BYTES = 1 << 18;
/** RabbitMQ refuses messages over 16 MiB by default. */
const MAX_PIECE_BYTES = 9 << 20;
const MAX_PIECES = 10_000_000;
/** A line or a word that is longer is refused, bytes. */
const MAX_UNCUT_BYTES = 4 << 20;
/** Pieces that are made before other requests may get their turn. */
const TURN = 4096;

/**
 * Counts the pieces, or makes the first of them.
 * @param body the body of the request
 * @param announced about how many bytes the body has; 0 if that is not known
 * @throws TaskError if a piece is not JSON or too long, or if there is none; ImageError if the body cannot be cut;
 *   whatever the task throws
 */
export async function listPieces(
  task: ListTask,
  params: Values,
  body: AsyncIterable<Uint8Array>,
  announced: number,
): Promise<PieceList> {
  const input = new Body(body);
  const pieces = task.pieces(params, input);
  if (!(Symbol.iterator in pieces)) return streamedPieces(task, pieces, input, announced);
  let [width, height] = [1, 0];
  for (const piece of pieces) {
    width = Math.max(width, Buffer.byteLength(encoded(task, piece)));
    if (++height > MAX_PIECES) throw new TaskError(`expected at most ${MAX_PIECES} pieces, got more`, task);
    if (height % TURN === 0) await breathe();
  }
  if (height === 0) throw noPieces(task);
  const again = () => counted(task, task.pieces(params, input) as Iterable<unknown>, height);
  const bandPixels = width * Math.ceil(height / EVEN_BANDS);
  const bands = ({ rows }: Pick<Plan, "rows">) => batches(task, again(), (_, count) => count >= rows);
  return { width, height, channels: 1, isCounted: true, bandPixels, bands };
}

async function streamedPieces(
  task: ListTask,
  pieces: AsyncIterable<unknown>,
  input: Body,
  announced: number,
): Promise<PieceList> {
  const iterator = pieces[Symbol.asyncIterator]();
  // The size of the pieces is known only after the task has begun to read, for its first piece.
  const first = await iterator.next();
  if (first.done) throw noPieces(task);
  const height = Math.max(1, Math.ceil(announced / input.size));
  const isFull = (number: number, count: number, bytes: number) =>
    bytes >= FULL_BYTES || count >= 2 ** Math.floor(number / GROWTH);
  const bands = () => batches(task, startingWith(first.value, iterator), isFull);
  return { width: 1, height, channels: 1, isCounted: false, bandPixels: 1, bands };
}

/** @param isFull whether band `number`, which has `count` pieces and `bytes` bytes, takes no more */
async function* batches(
  task: ListTask,
  pieces: Iterable<unknown> | AsyncIterable<unknown>,
  isFull: (number: number, count: number, bytes: number) => boolean,
): AsyncGenerator<Band> {
  let [number, y, bytes] = [0, 0, 0];
  let texts: string[] = [];
  const band = (): Band => {
    // In a buffer of its own, which is returned to a pool afterwards.
    const pixels = new TextEncoder().encode(`[${texts.join(",")}]`);
    return { number, y, rows: texts.length, width: pixels.length, channels: 1, halo: [0, 0], pixels, isList: true };
  };
  for await (const piece of pieces) {
    const text = encoded(task, piece);
    texts.push(text);
    bytes += text.length;
    if (texts.length % TURN === 0) await breathe();
    if (!isFull(number, texts.length, bytes)) continue;
    yield band();
    [number, y, bytes, texts] = [number + 1, y + texts.length, 0, []];
  }
  if (texts.length > 0) yield band();
}

/** The second walk over the pieces. It checks that their number is the same: a list that changes would lose pieces. */
function* counted(task: ListTask, pieces: Iterable<unknown>, height: number): Generator<unknown> {
  let count = 0;
  for (const piece of pieces) {
    if (++count > height) break;
    yield piece;
  }
  if (count !== height)
    throw new TaskError(`expected pieces to give as many again, got ${height}, then ${count}`, task);
}

function encoded(task: ListTask, piece: unknown): string {
  const text = jsonOf(task, piece, "pieces");
  const bytes = Buffer.byteLength(text);
  if (bytes <= MAX_PIECE_BYTES) return text;
  throw new TaskError(`expected pieces of at most ${MAX_PIECE_BYTES} bytes as JSON, got ${bytes}`, task);
}

function noPieces(task: ListTask): TaskError {
  return new TaskError("expected at least one piece for these parameters, got none", task);
}

/** Whether a text may be cut after this byte. A cut after a line feed keeps every kind of line end whole. */
const isLineEnd = (byte: number) => byte === 10;
/** Whether it is white space of ASCII. No other character has these bytes in UTF-8. */
const isSpace = (byte: number) => byte === 32 || (byte >= 9 && byte <= 13);

/** The body of a request, cut while it arrives. */
class Body implements Input {
  /** Bytes of a piece that the task has asked for. */
  size = FULL_BYTES;

  constructor(readonly body: AsyncIterable<Uint8Array>) {}

  lines(bytes?: number): AsyncIterable<string> {
    return this.#sized(bytes).#text(isLineEnd, "line");
  }

  words(bytes?: number): AsyncIterable<string> {
    return this.#sized(bytes).#text(isSpace, "word");
  }

  bytes(bytes?: number): AsyncIterable<string> {
    return this.#sized(bytes).#encoded();
  }

  /** Not in a generator: the error's stack then has the task's own line. @throws TaskError */
  #sized(bytes = FULL_BYTES): this {
    if (!(bytes >= 1)) throw new TaskError(`expected pieces of 1 byte or more, got ${bytes}`);
    this.size = bytes;
    return this;
  }

  async *#encoded(): AsyncGenerator<string> {
    for await (const piece of this.#cut((held) => held.length)) yield piece.toBase64();
  }

  async *#text(isEnd: (byte: number) => boolean, what: string): AsyncGenerator<string> {
    const end = (held: Uint8Array) => {
      const at = held.findLastIndex(isEnd) + 1;
      if (at > 0 || held.length < MAX_UNCUT_BYTES) return at;
      throw new ImageError("too-large", `${what} too long: expected at most ${MAX_UNCUT_BYTES} bytes, got more`);
    };
    // Invalid UTF-8 becomes U+FFFD, wherever the text is cut. Only the first piece may begin with a byte order mark.
    let decoder = new TextDecoder();
    for await (const piece of this.#cut(end)) {
      yield decoder.decode(piece);
      decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    }
  }

  /** @param end returns how many of the held bytes become a piece; 0 if more must be read */
  async *#cut(end: (held: Uint8Array) => number): AsyncGenerator<Uint8Array> {
    const { size } = this;
    let [parts, length, window, isFirst] = [[] as Uint8Array[], 0, size, true];
    for await (const block of this.body) {
      parts.push(block);
      length += block.length;
      if (length < window) continue;
      let held: Uint8Array = Buffer.concat(parts);
      while (held.length >= window) {
        const cut = end(held.subarray(0, window));
        if (cut > 0) yield held.subarray(0, cut);
        isFirst &&= cut === 0;
        held = held.subarray(cut);
        window = cut > 0 ? Math.max(size, 2 * (window - cut)) : 2 * window;
      }
      [parts, length] = [[held], held.length];
    }
    // An empty body is one empty piece.
    if (length > 0 || isFirst) yield Buffer.concat(parts);
  }
}
