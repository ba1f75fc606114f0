/**
 * The peers: what is installed, and those in Python as a process that is asked for one run at a time.
 *
 * Invariant: it ends with the benchmark, and with it what it has started: its input ends.
 */
import { type ChildProcess, execFile, execFileSync, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

/** A run of a peer: how long it took, and how large what it made is (0: nothing). */
export interface Run {
  seconds: number;
  bytes: number;
}

/** What each peer needs, and how it is installed on Debian. */
const INSTALL = {
  OpenCV: "apt-get install -y python3-opencv",
  "the course's design": "apt-get install -y python3-opencv python3-pika python3-redis",
  libvips: "apt-get install -y libvips-tools",
};

export interface Peers {
  /** A Python with OpenCV; undefined where there is none. */
  python: string | undefined;
  /** Whether it has the course's packages, too. */
  course: boolean;
  vips: boolean;
  versions: Record<string, string>;
  /** What is not there, with the command that installs it. */
  missing: string[];
}

export function findPeers(): Peers {
  // Debian's packages are those of Debian's Python, which need not be the first on the PATH.
  const pythons = ["/usr/bin/python3", "python3"];
  const python = pythons.find((path) => said(path, "-c", "import cv2") !== undefined);
  const course = python !== undefined && said(python, "-c", "import pika, redis") !== undefined;
  const opencv = python && said(python, "-c", "import cv2; print(cv2.__version__)");
  const vips = said("vips", "--version");
  const found = { OpenCV: opencv, "the course's design": course ? "" : undefined, libvips: vips?.replace("vips-", "") };
  const missing = Object.entries(INSTALL).filter(([name]) => found[name as keyof typeof found] === undefined);
  return {
    python,
    course,
    vips: vips !== undefined,
    versions: Object.fromEntries(Object.entries(found).filter(([, version]) => version)) as Record<string, string>,
    missing: missing.map(([name, command]) => `${name} (${command})`),
  };
}

/** What a program printed, in one line; undefined if it is not there, or fails. */
export function said(command: string, ...args: string[]): string | undefined {
  try {
    return execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
  } catch {
    return undefined;
  }
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

  /** @param request as the top of peers.py has it */
  async ask(request: { do: string } & Record<string, unknown>): Promise<Run> {
    this.#process.stdin!.write(`${JSON.stringify(request)}\n`);
    const { value, done } = await this.#answers.next();
    if (done) throw new Error(`peers.py ended when asked for ${request.do}`);
    return JSON.parse(value);
  }

  /** The picture that the next requests are about. */
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

/** Runs a program of this folder, or of the machine, to its end. */
export async function runToEnd(command: string, ...args: string[]): Promise<void> {
  const cwd = fileURLToPath(new URL("..", import.meta.url));
  await promisify(execFile)(command, args, { cwd });
}
