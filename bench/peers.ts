/**
 * The programs that ours is compared with: which are installed, and the Python ones as one process (peers.py).
 *
 * Invariant: peers.py and its workers end with the benchmark, because its standard input then ends.
 */
import { type ChildProcess, execFile, execFileSync, spawn } from "node:child_process";
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

/**
 * @returns `python`: one that can import OpenCV, undefined if there is none; `course`: whether it can also import the
 *   packages of the course's design; `missing`: what is not installed, each with its install command
 */
export function findPeers() {
  // Debian installs packages for Debian's Python, which may not be the first on the PATH.
  const python = ["/usr/bin/python3", "python3"].find((path) => outputOf(path, "-c", "import cv2") !== undefined);
  const opencv = python && outputOf(python, "-c", "import cv2; print(cv2.__version__)");
  const course = python !== undefined && outputOf(python, "-c", "import pika, redis") !== undefined;
  const missing = [
    !python && "OpenCV (apt-get install -y python3-opencv)",
    !course && "the course's design (apt-get install -y python3-opencv python3-pika python3-redis)",
  ].filter((text) => text !== false);
  const versions: Record<string, string> = opencv ? { OpenCV: opencv } : {};
  return { python, course, versions, missing };
}

/** Standard output of a command; undefined if it is not installed or fails. */
export function outputOf(command: string, ...args: string[]): string | undefined {
  try {
    return execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
  } catch {
    return undefined;
  }
}

/** Runs a command in the project's folder to its end, without the allocator's settings that this process may have. */
export async function runToEnd(command: string, ...args: string[]): Promise<void> {
  const { MIMALLOC_PURGE_DELAY: _delay, MIMALLOC_PURGE_HOLES: _holes, ...env } = process.env;
  await promisify(execFile)(command, args, { cwd: fileURLToPath(new URL("..", import.meta.url)), env });
}

/** An answer of peers.py. `bytes` is the size of the result, 0 if there is none. */
export interface PythonAnswer {
  seconds: number;
  bytes: number;
}

/** peers.py, running. */
export class PythonPeer {
  readonly #process: ChildProcess;
  readonly #answers: AsyncIterator<string>;
  #opened = "";

  constructor(python: string) {
    const program = fileURLToPath(new URL("peers.py", import.meta.url));
    this.#process = spawn(python, [program], { stdio: ["pipe", "pipe", "inherit"] });
    this.#answers = createInterface({ input: this.#process.stdout! })[Symbol.asyncIterator]();
  }

  /** @param request as at the top of peers.py */
  async ask(request: { do: string } & Record<string, unknown>): Promise<PythonAnswer> {
    this.#process.stdin!.write(`${JSON.stringify(request)}\n`);
    const { value, done } = await this.#answers.next();
    if (done) throw new Error(`peers.py: expected an answer to ${request.do}, got its end`);
    return JSON.parse(value);
  }

  /** Selects the picture of the next requests. */
  async open(path: string): Promise<void> {
    if (this.#opened !== path) await this.ask({ do: "open", path });
    this.#opened = path;
  }

  async end(): Promise<void> {
    const ended = new Promise((resolve) => this.#process.once("exit", resolve));
    this.#process.stdin!.end();
    await ended;
  }
}
