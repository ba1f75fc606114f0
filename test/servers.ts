// RabbitMQ, Redis and the project's own programs, as real processes for the tests to use, pause and kill.
//
// Not a mock of anything, and not the machine's own services: every server is private. It listens on loopback only, on a
// port of its own, keeps its data in a temporary folder, and knows nothing of /etc.
//
// Invariant: nothing outlives the tests. Each process is ended by its own id when it is stopped, all that are left by
// `stopAll` (test/setup.ts calls it after the last test), and by the kernel when the test process itself is killed
// (`setpriv --pdeathsig`, on Linux).
import { describe, setDefaultTimeout, test } from "bun:test";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import {
  accessSync,
  closeSync,
  existsSync,
  constants as fileConstants,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { connect, createServer } from "node:net";
import { constants, tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

/** What RabbitMQ and Redis have in common. After `stop` the data are gone; the other calls keep them. */
export interface Server {
  url: string;
  port: number;
  /** Of the process as it runs now. */
  readonly pid: number;
  /** An orderly end (SIGTERM), then the data folder is removed. May be called twice. */
  stop(): Promise<void>;
  /** SIGKILL: what a power cut looks like. Await it to be sure that the process is gone. */
  kill(): Promise<void>;
  /** An orderly end, or none where it is dead already; then the same data on the same port. Resolves when it answers. */
  restart(): Promise<void>;
  /** SIGSTOP: connections stay open and nothing answers, as on a machine that hangs. */
  pause(): void;
  /** SIGCONT. */
  resume(): void;
}

export interface RabbitMQ extends Server {
  /** Runs `rabbitmqctl` on this node and gives what it printed. About 1 s. */
  ctl(...args: string[]): Promise<string>;
}

export interface RedisServer extends Server {
  /** As `Server.restart`; with `empty`, what was kept on disk is dropped first. */
  restart(options?: { empty?: boolean }): Promise<void>;
}

/** A program of the project, running as a process of its own. */
export interface Program {
  pid: number;
  /** stdout and stderr so far, in the order in which they came. */
  readonly out: string;
  /** Resolves when `out` matches; rejects, quoting `out`, after `ms` or when the program has ended without it. */
  waitFor(pattern: RegExp, ms?: number): Promise<RegExpMatchArray>;
  /** SIGTERM where nothing else is said. Does nothing to a program that has ended. */
  kill(signal?: NodeJS.Signals): void;
  /** The exit code, or 128 + the signal's number. */
  exited: Promise<number>;
}

export type Need = "rabbitmq" | "redis" | "chromium" | "deno" | "node" | "python" | "go" | "bash";

const PROJECT = dirname(dirname(fileURLToPath(import.meta.url)));
const DENO_PACKAGE = `@deno/${process.platform}-${process.arch}${process.platform === "linux" ? "-glibc" : ""}`;

const PYTHON_PACKAGES = "/usr/lib/python3/dist-packages";
/** Where Debian puts the sources of Go packages: no other is fetched. */
export const GO_PATH = "/usr/share/gocode";

/** Where each binary is; undefined where it is not. */
export const binaries: Record<Need, string | undefined> = {
  // The scripts in these folders run as the calling user. Debian's wrapper on the PATH wants root, and becomes the user rabbitmq.
  rabbitmq: find(
    ["rabbitmq-server"],
    ["/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin", "/opt/homebrew/sbin", "/usr/local/sbin"],
  ),
  redis: find(["redis-server"], []),
  chromium: find(["chromium", "chromium-browser", "google-chrome"], []),
  // The binary itself: the package's own launcher needs Node, and does not pass signals on.
  deno: find(["deno"], [join(PROJECT, "node_modules", DENO_PACKAGE)]),
  node: find(["node"], []),
  go: ["rabbitmq/amqp091-go", "gomodule/redigo"].every((name) => existsSync(join(GO_PATH, "src/github.com", name)))
    ? find(["go"], [])
    : undefined,
  bash: ["amqp-consume", "redis-cli", "pamfunc", "jq"].every((name) => find([name], []))
    ? find(["bash"], [])
    : undefined,
  // Debian's, with its packages: another `python3` on the PATH does not see them.
  python:
    ["pika", "redis", "numpy"].every((name) => existsSync(join(PYTHON_PACKAGES, name))) && hasOpenCV()
      ? find(["python3"], ["/usr/bin"])
      : undefined,
};

const INSTALL: Record<Need, string> = {
  rabbitmq: "apt-get install -y rabbitmq-server",
  redis: "apt-get install -y redis-server",
  chromium: "apt-get install -y chromium",
  deno: "bun install",
  node: "apt-get install -y nodejs",
  python: "apt-get install -y python3-pika python3-redis python3-opencv",
  go: "apt-get install -y golang-go golang-github-rabbitmq-amqp091-go-dev golang-github-gomodule-redigo-dev",
  bash: "apt-get install -y amqp-tools redis-tools netpbm jq",
};

/** The binaries that were not found, each with the command that installs it. */
export const missing: string[] = absent(Object.keys(binaries) as Need[]);

/**
 * `describe` for tests that need real servers, with time to start them (30 s for each test and hook of the file).
 * Where a binary is missing the tests are skipped, and stderr says so; with REQUIRE_SERVERS=1 they fail instead.
 */
export function describeWith(needs: Need[], title: string, body: () => void): void {
  const lacking = absent(needs);
  setDefaultTimeout(30_000);
  if (lacking.length === 0) {
    describe(title, body);
  } else if (process.env.REQUIRE_SERVERS === "1") {
    describe(title, () => {
      test("has the servers that it needs", () => {
        throw new Error(`missing: ${lacking.join(", ")}`);
      });
    });
  } else {
    console.error(`\n!!! SKIPPED: ${title}\n!!! missing: ${lacking.join(", ")}\n`);
    describe.skip(title, body);
  }
}

let shared: Promise<{ rabbitmq: RabbitMQ; redis: RedisServer }> | undefined;

/**
 * One RabbitMQ and one Redis for all test files, started by the first that asks and stopped after the last.
 * Leave them running and their queues empty; a test that kills or pauses a server starts its own.
 */
export function sharedServers(): Promise<{ rabbitmq: RabbitMQ; redis: RedisServer }> {
  shared ??= Promise.all([startRabbitMQ(), startRedis()]).then(([rabbitmq, redis]) => ({ rabbitmq, redis }));
  return shared;
}

/** A private RabbitMQ node. Ready in about 5 s. */
export async function startRabbitMQ(): Promise<RabbitMQ> {
  const [node] = await startRabbitNodes(1);
  return node;
}

/** The nodes of one private RabbitMQ, with lines of `rabbitmq.conf` for each. The last that is stopped ends the port mapper. */
export async function startRabbitNodes(
  number: number,
  conf: (ports: { tls: number }) => string[] = () => [],
): Promise<(RabbitMQ & { tlsPort: number })[]> {
  const command = binaries.rabbitmq;
  if (!command) throw new Error(`missing: ${absent(["rabbitmq"])}`);
  const [epmdPort, ports] = [await freePort(), await freePorts(number)];
  const shared = temporaryFolder("epmd");
  const loopback = "-kernel inet_dist_use_interface {127,0,0,1}";
  const common = {
    HOME: shared, // for the Erlang cookie
    LANG: "C.UTF-8",
    ERL_EPMD_PORT: String(epmdPort),
    ERL_EPMD_ADDRESS: "127.0.0.1",
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: `+sbwt none ${loopback}`, // no busy wait: the cores belong to the tests
    RABBITMQ_CTL_ERL_ARGS: loopback,
    detached: "1", // the start script then becomes the server, where it would stay as a shell around it
  };
  // Erlang's port mapper. Left to itself RabbitMQ starts one that serves the whole machine and stays for ever.
  const epmd = new Served(
    {
      command: "epmd",
      args: [],
      env: common,
      folder: shared,
      hello: Buffer.from("\x00\x01n"), // NAMES_REQ, answered with the port it came in on
      greets: (bytes) => bytes.length >= 4 && bytes.readUInt32BE(0) === epmdPort,
    },
    epmdPort,
  );
  await epmd.start();
  // Nodes that make a new cookie at the same moment would not trust each other.
  writeFileSync(join(shared, ".erlang.cookie"), `SOBEL${epmdPort}`, { mode: 0o400 });
  const names = ports.map((port) => `sobel-${port}@localhost`);
  const peers = names.map((name, i) => `cluster_formation.classic_config.nodes.${i + 1} = ${name}`);
  let running = number;
  const started = ports.map(async (port, i) => {
    const folder = temporaryFolder("rabbitmq");
    const file = (name: string, text: string) => {
      writeFileSync(join(folder, name), text);
      return join(folder, name);
    };
    const tlsPort = await freePort();
    const env = {
      ...common,
      RABBITMQ_NODENAME: names[i],
      RABBITMQ_NODE_PORT: String(port),
      RABBITMQ_DIST_PORT: String(await freePort()),
      RABBITMQ_MNESIA_BASE: join(folder, "data"),
      RABBITMQ_LOG_BASE: join(folder, "log"),
      RABBITMQ_ENABLED_PLUGINS_FILE: file("plugins", "[].\n"),
      RABBITMQ_CONF_ENV_FILE: file("env.conf", ""),
      RABBITMQ_CONFIG_FILE: file(
        "rabbitmq.conf",
        [
          `listeners.tcp.1 = 127.0.0.1:${port}`,
          "raft.wal_max_size_bytes = 67108864", // the default of 512 MiB is held in memory too
          "vm_memory_high_watermark.absolute = 1GiB",
          "disk_free_limit.absolute = 50MB",
          ...(number > 1 ? ["cluster_formation.peer_discovery_backend = classic_config", ...peers] : []),
          ...conf({ tls: tlsPort }),
          "",
        ].join("\n"),
      ),
    };
    const server = new Served(
      { command, args: [], env, folder, hello: Buffer.from("AMQP\x00\x00\x09\x01"), greets: isConnectionStart },
      port,
    );
    await server.start();
    let stopped = false;
    return Object.assign(handle(server), {
      url: `amqp://guest:guest@127.0.0.1:${port}`,
      tlsPort,
      async stop() {
        await server.end("SIGTERM");
        removeFolder(folder);
        if (stopped) return;
        stopped = true;
        if (--running > 0) return;
        await epmd.end("SIGKILL");
        removeFolder(shared);
      },
      async ctl(...args: string[]) {
        const ctl = join(dirname(command), "rabbitmqctl");
        const { stdout } = await promisify(execFile)(ctl, ["--quiet", ...args], { env: { ...outside(), ...env } });
        return stdout;
      },
    });
  });
  return Promise.all(started);
}

/**
 * A private Redis. It keeps nothing on disk unless `args` ask for it: `["--appendonly", "yes", "--appendfsync", "always"]`
 * brings every acknowledged write back after a restart, and after a kill.
 */
export async function startRedis(options: { args?: string[]; port?: number } = {}): Promise<RedisServer> {
  const command = binaries.redis;
  if (!command) throw new Error(`missing: ${absent(["redis"])}`);
  const port = options.port ?? (await freePort());
  const folder = temporaryFolder("redis");
  const data = join(folder, "data");
  mkdirSync(data);
  const args = ["--port", String(port), "--bind", "127.0.0.1", "--dir", data, "--save", "", "--appendonly", "no"];
  args.push("--maxmemory-policy", "noeviction", ...(options.args ?? []));
  const server = new Served(
    {
      command,
      args,
      env: {},
      folder,
      hello: Buffer.from("PING\r\n"),
      greets: (bytes) => bytes[0] === "+".charCodeAt(0),
    },
    port,
  );
  await server.start();
  return Object.assign(handle(server), {
    url: `redis://127.0.0.1:${port}`,
    async stop() {
      await server.end("SIGTERM");
      removeFolder(folder);
    },
    async restart({ empty = false } = {}) {
      await server.end("SIGTERM");
      if (empty) for (const name of readdirSync(data)) rmSync(join(data, name), { recursive: true });
      await server.start();
    },
  });
}

/** A sentinel that watches a Redis, with lines of its configuration, a file that it writes itself. */
export async function startSentinel(lines: (port: number) => string[]): Promise<Server> {
  const command = binaries.redis;
  if (!command) throw new Error(`missing: ${absent(["redis"])}`);
  const port = await freePort();
  const folder = temporaryFolder("sentinel");
  const file = join(folder, "sentinel.conf");
  writeFileSync(file, [`port ${port}`, "bind 127.0.0.1", `dir ${folder}`, ...lines(port), ""].join("\n"));
  const greets = (bytes: Buffer) => bytes[0] === "+".charCodeAt(0);
  const server = new Served(
    { command, args: [file, "--sentinel"], env: {}, folder, hello: Buffer.from("PING\r\n"), greets },
    port,
  );
  await server.start();
  return Object.assign(handle(server), {
    url: `redis://127.0.0.1:${port}`,
    async stop() {
      await server.end("SIGTERM");
      removeFolder(folder);
    },
  });
}

/** How a program is run. `binary`: it is compiled already. */
export type Runtime = "bun" | "deno" | "node" | "python" | "bash" | "binary";

/**
 * Starts a program of the project. Its environment is `env` and what a process needs to run at all (PATH, HOME, TMPDIR),
 * so that settings of the shell the tests were started from do not reach it.
 *
 * @param file from the project's folder: `worker.ts`
 */
export function spawnProgram(file: string, env: Record<string, string>, runtime: Runtime = "bun"): Program {
  const command = runtime === "bun" ? process.execPath : runtime === "binary" ? file : binaries[runtime];
  if (!command) throw new Error(`missing: ${absent(["deno", "node", "python", "bash"])}`);
  const before: Partial<Record<Runtime, string[]>> = { bun: ["run"], deno: ["run", "-A", "--no-prompt"] };
  const args = runtime === "binary" ? [] : [...(before[runtime] ?? []), file];
  const child = new Child(command, args, { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1", ...env });
  return {
    pid: child.pid,
    get out() {
      return child.out;
    },
    async waitFor(pattern, ms = 10_000) {
      const deadline = Date.now() + ms;
      for (;;) {
        const ended = child.ended; // before the match: what it printed last still counts
        const match = child.out.match(pattern);
        if (match) return match;
        if (ended) throw new Error(`${file} ended without printing ${pattern}, got:\n${child.out}`);
        if (Date.now() > deadline) throw new Error(`${file} did not print ${pattern} in ${ms} ms, got:\n${child.out}`);
        await sleep(20);
      }
    },
    kill: (signal = "SIGTERM") => child.signal(signal),
    exited: child.exited,
  };
}

const given = new Set<number>();

/**
 * A loopback port that no program listens on, given out once.
 *
 * Below the range from which the kernel takes source ports: from inside it, a client that keeps calling a stopped server
 * sooner or later gets the server's own port as its source, and is connected to itself.
 */
export async function freePort(): Promise<number> {
  for (let tries = 0; tries < 1000; tries++) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    if (given.has(port) || !(await bindable(port))) continue;
    given.add(port);
    return port;
  }
  throw new Error("no free port between 20000 and 32000 in 1000 tries");
}

/** As many different ones. */
export async function freePorts(number: number): Promise<number[]> {
  const ports: number[] = [];
  while (ports.length < number) ports.push(await freePort());
  return ports;
}

/** Ends every process started here and removes its data. */
export async function stopAll(): Promise<void> {
  await Promise.all([...children].map((child) => child.end("SIGKILL")));
  for (const folder of folders) removeFolder(folder);
}

const children = new Set<Child>();
const folders = new Set<string>();

// On Ctrl-C, and for programs that use this file outside of `bun test`.
process.on("exit", () => {
  for (const child of children) child.signal("SIGKILL");
  for (const folder of folders) removeFolder(folder);
});

const SETPRIV = find(["setpriv"], []);

/** A process in a session of its own (Ctrl-C goes to the tests, not to it), bound to the life of this one. */
class Child {
  /** What it printed; empty where that goes to a file. */
  out = "";
  ended = false;
  readonly pid: number;
  readonly exited: Promise<number>;
  readonly #process: ChildProcess;

  /** @param folder where the output goes, to the file `out`; without it, to the property `out` */
  constructor(command: string, args: string[], env: Record<string, string>, folder?: string) {
    const file = folder ? openSync(join(folder, "out"), "a") : undefined;
    const [head, ...rest] = SETPRIV ? [SETPRIV, "--pdeathsig", "KILL", command, ...args] : [command, ...args];
    this.#process = spawn(head, rest, {
      cwd: folder ?? PROJECT,
      env: { ...outside(), ...env },
      detached: true,
      stdio: ["ignore", file ?? "pipe", file ?? "pipe"],
    });
    if (file !== undefined) closeSync(file);
    this.pid = this.#process.pid ?? 0;
    children.add(this);
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.out += text;
      });
    }
    this.exited = new Promise((resolve) => {
      const done = (code: number) => {
        this.ended = true;
        children.delete(this);
        resolve(code);
      };
      this.#process.on("error", (error) => {
        this.out += `${error}\n`;
        done(127);
      });
      // `close`, not `exit`: the output is complete.
      this.#process.on("close", (code, signal) => done(code ?? 128 + (signal ? constants.signals[signal] : 0)));
    });
  }

  signal(signal: NodeJS.Signals): void {
    if (!this.ended) this.#process.kill(signal);
  }

  /** Resolves when the process has ended. SIGTERM is followed by SIGKILL after 10 s; a paused process is woken for it. */
  async end(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    this.signal(signal);
    this.signal("SIGCONT");
    const late = setTimeout(() => this.signal("SIGKILL"), 10_000);
    await this.exited;
    clearTimeout(late);
  }
}

interface Recipe {
  command: string;
  args: string[];
  env: Record<string, string>;
  folder: string;
  /** What is sent to the server, and whether its first bytes mean that it is ready. */
  hello: Uint8Array;
  greets(bytes: Buffer): boolean;
}

/** A server that can be started again. */
class Served {
  readonly port: number;
  readonly #recipe: Recipe;
  #child: Child | undefined;

  constructor(recipe: Recipe, port: number) {
    this.#recipe = recipe;
    this.port = port;
  }

  async start(): Promise<void> {
    const { command, args, env, folder, hello, greets } = this.#recipe;
    const child = new Child(command, args, env, folder);
    this.#child = child;
    const deadline = Date.now() + 60_000;
    while (!(await answers(this.port, hello, greets))) {
      if (!child.ended && Date.now() < deadline) {
        await sleep(50);
        continue;
      }
      const why = child.ended ? `ended with ${await child.exited}` : "did not answer in 60 s";
      await child.end("SIGKILL");
      throw new Error(
        `${command} on port ${this.port} ${why}:\n${readFileSync(join(folder, "out"), "utf8").slice(-2000)}`,
      );
    }
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  async end(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    await this.#child?.end(signal);
  }

  signal(signal: NodeJS.Signals): void {
    this.#child?.signal(signal);
  }
}

function handle(server: Served): Omit<Server, "url" | "stop"> {
  return {
    port: server.port,
    get pid() {
      return server.pid;
    },
    kill: () => server.end("SIGKILL"),
    async restart() {
      await server.end("SIGTERM");
      await server.start();
    },
    pause: () => server.signal("SIGSTOP"),
    resume: () => server.signal("SIGCONT"),
  };
}

/** AMQP 0-9-1: a method frame (type 1) on channel 0, class 10 (connection), method 10 (start). */
function isConnectionStart(bytes: Buffer): boolean {
  return bytes.length >= 11 && bytes.readUInt8(0) === 1 && bytes.readUInt32BE(7) === (10 << 16) + 10;
}

function answers(port: number, hello: Uint8Array, greets: (bytes: Buffer) => boolean): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    const settle = (answer: boolean) => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(2000, () => settle(false));
    socket.on("connect", () => socket.write(hello));
    socket.on("data", (bytes: Buffer) => settle(greets(bytes)));
    socket.on("error", () => settle(false));
    socket.on("close", () => settle(false));
  });
}

function bindable(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.on("error", () => resolve(false));
    probe.listen(port, "127.0.0.1", () => probe.close(() => resolve(true)));
  });
}

/** A folder that goes when the tests end. */
export function temporaryFolder(kind: string): string {
  const folder = mkdtempSync(join(tmpdir(), `sobel-${kind}-`));
  folders.add(folder);
  return folder;
}

function removeFolder(folder: string): void {
  rmSync(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
  folders.delete(folder);
}

function absent(needs: Need[]): string[] {
  return needs.filter((need) => !binaries[need]).map((need) => `${need} (${INSTALL[need]})`);
}

function find(names: string[], folders: string[]): string | undefined {
  for (const name of names) {
    for (const folder of [...folders, ...(process.env.PATH ?? "").split(delimiter)]) {
      const file = join(folder, name);
      if (isExecutable(file)) return file;
    }
  }
  return undefined;
}

function hasOpenCV(): boolean {
  return readdirSync(PYTHON_PACKAGES).some((name) => /^cv2\b/.test(name));
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, fileConstants.X_OK);
    return true;
  } catch {
    return false; // not there, or not ours to run: the same to the caller
  }
}

/** The part of this process's environment that any process needs. */
function outside(): Record<string, string> {
  const kept = ["PATH", "HOME", "TMPDIR"].map((name) => [name, process.env[name]]);
  return Object.fromEntries(kept.filter(([, value]) => value !== undefined));
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
