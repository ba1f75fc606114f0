/**
 * The settings, each told once: its default, its limits, what it is for. `--help` prints them, the README's table has
 * the same names, and `setting` checks by them.
 *
 * Not here: their values. Each program reads its own, once, at its start, so that a bad one stops it at once.
 */
import { availableParallelism, totalmem } from "node:os";
import process from "node:process";
import { parseArgs } from "node:util";

/** Of the log, from the least to the most urgent. */
export const LEVELS = ["debug", "info", "warn", "error"] as const;
export type Level = (typeof LEVELS)[number];

type Program = "coordinator.ts" | "worker.ts" | "sobel.ts";

interface Setting {
  of: Program[];
  help: string;
  /** How the default is shown. */
  shown?: string;
}

interface WholeSetting extends Setting {
  default: number;
  least: number;
  most: number;
}

/** A band of 1 Mi pixels: 1.4 MB on the wire, some 10 ms of work. */
export const DEFAULT_BAND_PIXELS = 1 << 20;
export const DEFAULT_UPLOAD_BYTES = 4 * 2 ** 30;
export const DEFAULT_JOBS = 64;
/** Of a job, and of the threads of one process. */
export const MAX_WORKERS = 1024;

const MOST = Number.MAX_SAFE_INTEGER;
const YEAR_SECONDS = 31_536_000;

const BOTH: Program[] = ["coordinator.ts", "worker.ts"];
const COORDINATOR: Program[] = ["coordinator.ts"];
const WORKER: Program[] = ["worker.ts"];

/** Whole numbers. */
const WHOLE = {
  PORT: { of: COORDINATOR, default: 8080, least: 0, most: 65_535, help: "where it listens; 0: any free port" },
  WORKERS: {
    of: COORDINATOR,
    default: availableParallelism(),
    least: 1,
    most: MAX_WORKERS,
    help: "worker threads of the one-process mode",
    shown: "all cores",
  },
  BAND_PIXELS: {
    of: ["coordinator.ts", "sobel.ts"],
    default: DEFAULT_BAND_PIXELS,
    least: 1,
    most: MOST,
    help: "size of a band in pixels, about",
  },
  BAND_TIMEOUT_SECONDS: {
    of: BOTH,
    default: 60,
    least: 1,
    most: 86_400,
    help: "how long a task may take for one band, seconds",
  },
  MAX_UPLOAD_BYTES: {
    of: COORDINATOR,
    default: DEFAULT_UPLOAD_BYTES,
    least: 1,
    most: MOST,
    help: "larger bodies are answered with 413, bytes",
  },
  MAX_PIXELS: {
    of: COORDINATOR,
    default: 1_000_000_000,
    least: 1,
    most: MOST,
    help: "larger pictures are answered with 413, pixels; at most 134217728 for what must be held whole",
  },
  MAX_JOBS: {
    of: COORDINATOR,
    default: DEFAULT_JOBS,
    least: 1,
    most: 100_000,
    help: "uploads that are taken at a time; more are answered with 503",
  },
  RESULT_TTL_SECONDS: {
    of: BOTH,
    default: 3600,
    least: 1,
    most: YEAR_SECONDS,
    help: "how long a job is kept after its last band, seconds; a job must end within it",
  },
  METRICS_PORT: {
    of: WORKER,
    default: -1,
    least: 0,
    most: 65_535,
    help: "where a worker answers /healthz, /readyz and /metrics; 0: any free port",
    shown: "(nowhere)",
  },
} satisfies Record<string, WholeSetting>;

const TEXT = {
  RABBITMQ_URL: { of: BOTH, help: "amqp:// or amqps://; with REDIS_URL, or neither: one process" },
  REDIS_URL: { of: BOTH, help: "redis:// or rediss://" },
  HOST: { of: BOTH, shown: "127.0.0.1", help: "the address it listens on" },
  WORKER_NAME: { of: WORKER, shown: "host and process id", help: "its name on the page and in the records" },
  TASKS: {
    of: ["coordinator.ts", "worker.ts", "sobel.ts"],
    help: "modules that each export a task, with commas between; the same for both",
  },
  WORKER_TASKS: {
    of: WORKER,
    shown: "all",
    help: "names of the tasks that a worker does, with commas between; grow.2 is one version",
  },
  AUTH_TOKEN: {
    of: ["coordinator.ts", "sobel.ts"],
    help: "what sending, cancelling, /workers and /metrics ask for: Authorization: Bearer …",
  },
  LOG_LEVEL: { of: BOTH, shown: "info", help: `what is logged, on standard error: ${LEVELS.join(", ")}` },
} satisfies Record<string, Setting>;

export const SETTINGS: Record<string, Setting | WholeSetting> = { ...TEXT, ...WHOLE };

/** A whole number from the environment. @throws Error with the variable's name */
export function setting(name: keyof typeof WHOLE): number {
  const { default: fallback, least, most } = WHOLE[name];
  const text = process.env[name];
  if (text === undefined || text === "") return fallback;
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (value >= least && value <= most) return value;
  throw new Error(`${name}: expected a whole number from ${least} to ${most}, got ${JSON.stringify(text)}`);
}

/** @throws Error */
export function levelSetting(): Level {
  const text = process.env.LOG_LEVEL || "info";
  const level = LEVELS.find((known) => known === text);
  if (level) return level;
  throw new Error(`LOG_LEVEL: expected ${LEVELS.join(", ")}, got ${JSON.stringify(text)}`);
}

/** A header cannot carry every character: a token that ends with a line break, as files do, would never be met. */
export function tokenSetting(): string | undefined {
  const token = process.env.AUTH_TOKEN || undefined;
  if (token === undefined || /^[!-~]+$/.test(token)) return token;
  throw new Error("AUTH_TOKEN: expected letters, digits and punctuation of ASCII, got a space or another character");
}

/**
 * A server's address from the environment, checked. It may hold a password, so the error has the variable's name and
 * not its value.
 */
export function serverUrl(name: string, text: string, scheme: "amqp" | "redis"): URL {
  const url = URL.parse(text);
  if (url && [`${scheme}:`, `${scheme}s:`].includes(url.protocol) && url.hostname !== "" && isEncoded(url.href)) {
    return url;
  }
  throw new Error(`${name}: expected ${scheme}://user:password@host:port, or ${scheme}s:// for TLS, percent-encoded`);
}

function isEncoded(text: string): boolean {
  try {
    return decodeURIComponent(text) !== "";
  } catch {
    return false;
  }
}

/** The settings of a program, as `--help` shows them. */
export function settingsOf(program: Program): string {
  const rows = Object.entries(SETTINGS).filter(([, { of }]) => of.includes(program));
  const lines = rows.map(([name, row]) => {
    const fallback = row.shown ?? ("default" in row ? String(row.default) : "");
    return `  ${name.padEnd(22)}${fallback.padEnd(21)}${row.help}`;
  });
  return ["settings, from the environment: name, default, what it is for", ...lines].join("\n");
}

/**
 * The command line of a program that has no arguments: answers `--help`, and ends at anything else with exit code 2.
 * @param about what the program does, and its exit codes
 */
export function answerHelp(program: Program, about: string): void {
  try {
    const { values } = parseArgs({ args: process.argv.slice(2), options: { help: { type: "boolean", short: "h" } } });
    if (!values.help) return;
  } catch (error) {
    console.error(`${program}: ${(error as Error).message.split(". ")[0]}; --help tells more`);
    process.exit(2);
  }
  console.log(`usage: bun run ${program}\n\n${about}\n\n${settingsOf(program)}`);
  process.exit(0);
}

/**
 * Starts this program anew, in its own place (execve: the same process), with what the runtime should know of memory,
 * where the environment does not say otherwise. Bun reads that before a program's first line runs; from within there is
 * no other way.
 * @param enough bytes that the collector is to get along with, if it can
 */
export function keepMemory(enough?: number): void {
  const wanted = memorySettings(enough, process.constrainedMemory?.());
  const missing = Object.keys(wanted).some((name) => process.env[name] === undefined);
  // A profiler stops this thread by a signal, and one that is on its way then ends the program that begins.
  const profiled = process.execArgv.some((flag) => flag.startsWith("--cpu-prof"));
  if (typeof Bun === "undefined" || !missing || profiled) return;
  const again = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  try {
    process.execve?.(process.execPath, again, { ...wanted, ...process.env });
  } catch {
    // Where that may not be done: as it was, more slowly.
  }
}

/** @param limit bytes that this process may have, as a container's may be limited; those of the machine otherwise */
export function memorySettings(enough = totalmem(), limit = totalmem()): Record<string, string> {
  const most = Math.min(enough, limit || totalmem());
  return {
    // Milliseconds until freed memory is given back, and whether that between what is still used is given back too, at
    // each collection. By itself it is a tenth of a second, and yes; and it is taken again for the next band, page by page:
    // half of all CPU time.
    MIMALLOC_PURGE_DELAY: "60000",
    MIMALLOC_PURGE_HOLES: "0",
    // Bytes of memory that there are, which Bun takes from the machine: where there is much, it lets much garbage lie.
    ...(most < totalmem() && { BUN_JSC_forceRAMSize: String(most) }),
  };
}
