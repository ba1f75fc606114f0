/**
 * The settings of the programs: names, defaults, limits, help texts, and how each is read from the environment.
 * `--help` prints them.
 *
 * A program reads its settings once, when it starts, so that an invalid one stops it at once. This file imports no
 * other file of the project.
 *
 * Not here: the addresses of RabbitMQ and Redis (address.ts), the settings of the deployment (terraform/settings.ts).
 */
import { availableParallelism, totalmem } from "node:os";
import process from "node:process";
import { parseArgs } from "node:util";

/** Log levels, from the least to the most urgent. */
export const LEVELS = ["debug", "info", "warn", "error"] as const;
export type Level = (typeof LEVELS)[number];

type Program = "coordinator.ts" | "worker.ts" | "sobel.ts";

interface Setting {
  /** The programs that read it. */
  of: Program[];
  help: string;
  /** What `--help` shows as the default, if that is not the value of `default`. */
  shown?: string;
}

interface NumberSetting extends Setting {
  default: number;
  /** 1 if it is not set. */
  min?: number;
  /** Any number that is exact if it is not set. */
  max?: number;
}

/** 1 Mi pixels: 1.4 MB on the wire, about 10 ms of work. */
export const DEFAULT_BAND_PIXELS = 1 << 20;
/** Limit of `?workers=` of a job, and of the worker threads of one process. */
export const MAX_WORKERS = 1024;
/** After SIGTERM, a coordinator has this long to finish its answers, ms. k8s/ and compose.yaml kill it later. */
export const DRAIN_MS = 20_000;
/** After SIGTERM, a worker has this long to finish its band, ms. k8s/ and compose.yaml kill it later. */
export const STOP_MS = 25_000;

const YEAR_SECONDS = 31_536_000;

const BOTH: Program[] = ["coordinator.ts", "worker.ts"];
const COORDINATOR: Program[] = ["coordinator.ts"];
const WORKER: Program[] = ["worker.ts"];

/** Settings that are whole numbers. */
export const NUMBERS = {
  PORT: { of: COORDINATOR, default: 8080, min: 0, max: 65_535, help: "port of the API and the page; 0: any free port" },
  WORKERS: {
    of: COORDINATOR,
    default: availableParallelism(),
    max: MAX_WORKERS,
    help: "worker threads without RABBITMQ_URL and REDIS_URL",
    shown: "all cores",
  },
  BAND_PIXELS: {
    of: ["coordinator.ts", "sobel.ts"],
    default: DEFAULT_BAND_PIXELS,
    help: "pixels of a band, approximately",
  },
  BAND_TIMEOUT_SECONDS: {
    of: BOTH,
    default: 60,
    max: 86_400,
    help: "time limit of a task for one band, seconds",
  },
  MAX_UPLOAD_BYTES: {
    of: COORDINATOR,
    default: 4 * 2 ** 30,
    help: "limit of a request body, bytes; above it: 413",
  },
  MAX_PIXELS: {
    of: COORDINATOR,
    default: 1_000_000_000,
    help: "limit of a picture, pixels; above it: 413. At most 134217728 if the picture must be held whole; rows: a 64th",
  },
  PICTURE_MEMORY_BYTES: {
    of: COORDINATOR,
    // The rest is for streamed uploads, bands and the runtime.
    default: Math.floor(0.6 * memoryLimit()),
    help: "memory for pictures that must be held whole, bytes; above it they wait, then 503",
    shown: "60 % of the limit",
  },
  MAX_SPOOL_BYTES: {
    of: COORDINATOR,
    // Less than the size of the coordinator pod's volume (k8s/).
    default: 6 * 2 ** 30,
    help: "limit of the files in TMPDIR, for tasks of two steps, bytes; above it: 503",
  },
  MAX_JOBS: {
    of: COORDINATOR,
    default: 64,
    max: 100_000,
    help: "limit of concurrent uploads; above it: 503",
  },
  MAX_EVENT_STREAMS: {
    of: COORDINATOR,
    default: 2_000,
    min: 2,
    max: 1_000_000,
    help: "limit of open event streams, half of it for one address; above it: 503",
  },
  MAX_UNKNOWN_JOBS: {
    of: COORDINATOR,
    default: 5_000,
    min: 200,
    max: 1_000_000,
    help: "limit of jobs in event streams that do not exist, half of it for one address; above it: 503",
  },
  RESULT_TTL_SECONDS: {
    of: BOTH,
    default: 3600,
    max: YEAR_SECONDS,
    help: "how long a job is kept after its last band, seconds; longer than any job takes",
  },
  METRICS_PORT: {
    of: WORKER,
    default: -1,
    min: 0,
    max: 65_535,
    help: "port of a worker's /healthz, /readyz and /metrics; 0: any free port",
    shown: "(none)",
  },
} satisfies Record<string, NumberSetting>;

const TEXTS = {
  RABBITMQ_URL: {
    of: BOTH,
    help: "amqp:// or amqps://; set it with REDIS_URL, or set neither to run everything in one process",
  },
  REDIS_URL: { of: BOTH, help: "redis://, redis+sentinel:// or redis+cluster://; rediss… for TLS" },
  TLS_CA_FILE: {
    of: BOTH,
    help: "certificates to trust for amqps:// and rediss://, beside the usual ones; a PEM file",
  },
  HOST: { of: BOTH, shown: "127.0.0.1", help: "address to listen on" },
  ALLOWED_HOSTS: {
    of: COORDINATOR,
    help: "more host names that browsers may use, separated by commas; not on loopback and unset: any",
  },
  WORKER_NAME: {
    of: WORKER,
    shown: "host and process id",
    help: "name of the worker on the page, in logs and metrics",
  },
  TASKS: {
    of: ["coordinator.ts", "worker.ts", "sobel.ts"],
    help: "modules that each export a task, comma-separated; the same for coordinator and workers",
  },
  WORKER_TASKS: {
    of: WORKER,
    shown: "all",
    help: "names of the tasks that a worker runs, comma-separated; grow.2 is one version",
  },
  AUTH_TOKEN: {
    of: ["coordinator.ts", "sobel.ts"],
    help: "token required for uploads, cancelling, /workers and /metrics: Authorization: Bearer …",
  },
  CLASSROOM: {
    of: BOTH,
    shown: "(none)",
    help: "what a class may do, comma-separated: control (pause, stop, kill a worker), wall (see everyone's jobs), inside (look into queue and store without a token)",
  },
  LOG_LEVEL: { of: BOTH, shown: "info", help: `lowest level that is logged, on standard error: ${LEVELS.join(", ")}` },
} satisfies Record<string, Setting>;

export const SETTINGS: Record<string, Setting | NumberSetting> = { ...TEXTS, ...NUMBERS };

/** The memory limit of the container, or the machine's memory if there is no limit, bytes. */
function memoryLimit(): number {
  return Math.min(process.constrainedMemory?.() || Number.POSITIVE_INFINITY, totalmem());
}

/** Reads a setting that is a whole number. @throws Error with the setting's name */
export function setting(name: keyof typeof NUMBERS): number {
  const { default: fallback, min = 1, max = Number.MAX_SAFE_INTEGER }: NumberSetting = NUMBERS[name];
  const text = process.env[name];
  if (text === undefined || text === "") return fallback;
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (value >= min && value <= max) return value;
  throw new Error(`${name}: expected a whole number from ${min} to ${max}, got ${JSON.stringify(text)}`);
}

/** Reads LOG_LEVEL. @throws Error */
export function levelSetting(): Level {
  const text = process.env.LOG_LEVEL || "info";
  const level = LEVELS.find((known) => known === text);
  if (level) return level;
  throw new Error(`LOG_LEVEL: expected ${LEVELS.join(", ")}, got ${JSON.stringify(text)}`);
}

/**
 * Reads AUTH_TOKEN; undefined if it is not set. Characters that a header cannot carry are refused. For example, a token
 * with the line break of its file would match no request.
 * @throws Error
 */
export function tokenSetting(): string | undefined {
  const token = process.env.AUTH_TOKEN || undefined;
  if (token === undefined || /^[!-~]+$/.test(token)) return token;
  throw new Error("AUTH_TOKEN: expected letters, digits and punctuation of ASCII, got a space or another character");
}

/** The items of a setting that is a list, separated by commas. */
export function namesIn(setting = ""): string[] {
  return setting
    .split(",")
    .map((name) => name.trim())
    .filter(Boolean);
}

const CLASSROOM = ["control", "wall", "inside"] as const;
export type Classroom = Record<(typeof CLASSROOM)[number], boolean>;

/** Reads CLASSROOM. @throws Error */
export function classroomSetting(): Classroom {
  const names = namesIn(process.env.CLASSROOM);
  const bad = names.find((name) => !CLASSROOM.some((known) => known === name));
  const [control, wall, inside] = CLASSROOM.map((name) => names.includes(name));
  if (bad === undefined) return { control, wall, inside };
  throw new Error(`CLASSROOM: expected some of ${CLASSROOM.join(", ")}, got ${JSON.stringify(bad)}`);
}

/** Reads ALLOWED_HOSTS: host names, and IPv6 addresses in brackets. @throws Error */
export function hostsSetting(): string[] {
  const names = namesIn(process.env.ALLOWED_HOSTS?.toLowerCase());
  const bad = names.find((name) => !/^([a-z0-9.-]+|\[[0-9a-f:.]+\])$/.test(name));
  if (bad === undefined) return names;
  throw new Error(`ALLOWED_HOSTS: expected host names without a port, got ${JSON.stringify(bad)}`);
}

/** The settings of a program, as `--help` prints them. */
export function settingsOf(program: Program): string {
  const rows = Object.entries(SETTINGS).filter(([, { of }]) => of.includes(program));
  const lines = rows.map(([name, row]) => {
    const fallback = row.shown ?? ("default" in row ? String(row.default) : "");
    return `  ${name.padEnd(22)}${fallback.padEnd(21)}${row.help}`;
  });
  return ["settings (environment variables): name, default, meaning", ...lines].join("\n");
}

/**
 * Handles the command line of a program that takes no arguments. `--help` prints the usage and exits with 0. Any other
 * argument exits with 2.
 * @param about what the program does, and its exit codes
 */
export function answerHelp(program: Program, about: string): void {
  try {
    const { values } = parseArgs({ args: process.argv.slice(2), options: { help: { type: "boolean", short: "h" } } });
    if (!values.help) return;
  } catch (error) {
    console.error(`${program}: ${(error as Error).message.split(". ")[0]}; see --help`);
    process.exit(2);
  }
  console.log(`usage: bun run ${program}\n\n${about}\n\n${settingsOf(program)}`);
  process.exit(0);
}
