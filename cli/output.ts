/**
 * The place of a result: standard output, a file, or something that is not a regular file.
 *
 * Invariant: a regular file is replaced only when the result is complete. A symbolic link stays: its target is
 * replaced. A device, a pipe or a socket is written through, never replaced.
 *
 * Not here: the command line and the exit codes (local.ts).
 */
import { createWriteStream } from "node:fs";
import { readlink, realpath, rename, rm, stat } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import process from "node:process";
import { Readable, type Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { unlessAborted } from "../ops/deadline.ts";

type Pieces = AsyncIterable<Uint8Array>;

export interface Output {
  /** Whether a failed attempt leaves nothing behind, so that the result can be written again from its beginning. */
  restartable: boolean;
  /** @throws Error that names the place; what `pieces` throws */
  write(pieces: Pieces, signal?: AbortSignal): Promise<void>;
}

/** @param to a path, or - for standard output. @throws Error if a link cannot be followed */
export async function openOutput(to: string): Promise<Output> {
  if (to === "-") {
    const write = (pieces: Pieces, signal?: AbortSignal) => copy(pieces, process.stdout, "standard output", signal);
    return { restartable: false, write };
  }
  const existing = await stat(to).catch(() => null);
  if (existing && !existing.isFile()) {
    // Opened by the name that was given: the target of /dev/stdout has no name.
    const write = (pieces: Pieces, signal?: AbortSignal) => copy(pieces, createWriteStream(to), to, signal);
    return { restartable: false, write };
  }
  const target = await targetOf(to);
  return { restartable: true, write: (pieces, signal) => replace(pieces, target, signal) };
}

/** Writes to a file beside the target and renames it, so that a failure leaves an earlier file unchanged. */
async function replace(pieces: Pieces, target: string, signal?: AbortSignal): Promise<void> {
  const part = `${target}.part`;
  try {
    await copy(pieces, createWriteStream(part), target, signal);
    await rename(part, target);
  } catch (error) {
    await rm(part, { force: true });
    throw error;
  }
}

async function copy(pieces: Pieces, to: Writable, place: string, signal?: AbortSignal): Promise<void> {
  let unread: unknown;
  const source = async function* () {
    const iterator = pieces[Symbol.asyncIterator]();
    try {
      for (;;) {
        // Not `for await`: it would also catch the error of a write, which the pipeline throws into this generator.
        const next = await iterator.next().catch((error) => {
          unread = error;
          throw error;
        });
        if (next.done) return;
        yield next.value;
      }
    } finally {
      await iterator.return?.();
    }
  };
  try {
    const copied = pipeline(Readable.from(source()), to, { signal });
    // Opening a pipe without a reader blocks, and the pipeline waits for it even when it is aborted.
    await (signal ? unlessAborted(copied, signal) : copied);
  } catch (cause) {
    if (cause === unread || signal?.aborted) throw cause;
    throw new Error(`cannot write ${place}: ${(cause as Error).message}`, { cause });
  }
}

/** Follows links to a file that need not exist. */
async function targetOf(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
  const link = await readlink(path).catch(() => null);
  return link === null ? path : targetOf(resolve(await realpath(dirname(path)), link));
}
