/**
 * The services under measurement, as real processes: one coordinator with its threads, or a coordinator and workers
 * around a private RabbitMQ and Redis. Also what the Linux kernel reports of them (CPU time, peak memory) and how it
 * limits them.
 *
 * Invariant: no process outlives the benchmark (test/servers.ts), and no control group does.
 */
import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import process from "node:process";
import {
  type Program,
  type RabbitMQ,
  type RedisServer,
  spawnProgram,
  startRabbitMQ,
  startRedis,
} from "../test/servers.ts";
import { outputOf } from "./peers.ts";

/** A coordinator, used over HTTP. */
export class Service {
  private constructor(
    readonly program: Program,
    readonly url: string,
  ) {}

  static async start(env: Record<string, string> = {}): Promise<Service> {
    const program = spawnProgram("coordinator.ts", { PORT: "0", ...allocatorSettings(), ...env });
    const [url] = await program.waitFor(/http:\S+/);
    return new Service(program, url);
  }

  /** Sends a picture and reads the whole result. */
  send(picture: BodyInit): Promise<void> {
    return this.run("sobel", picture);
  }

  /** Runs a task and reads the whole result. @param task its name and query */
  async run(task: string, body?: BodyInit): Promise<void> {
    const response = await fetch(`${this.url}/tasks/${task}`, { method: "POST", body });
    if (!response.ok) throw new Error(`coordinator: expected 200, got ${response.status}: ${await response.text()}`);
    for await (const _ of response.body!);
  }

  /** Sends a picture as a job, until it is accepted. */
  async accept(id: string, picture: BodyInit): Promise<void> {
    const response = await fetch(`${this.url}/jobs/${id}`, { method: "PUT", body: picture });
    if (response.status !== 202) throw new Error(`coordinator: expected 202, got ${response.status}`);
    await response.arrayBuffer();
  }

  /** Waits until a job is done: its events end with it. */
  async done(id: string): Promise<void> {
    const events = await (await fetch(`${this.url}/jobs/${id}/events`)).text();
    if (!events.includes("event: done")) throw new Error(`job failed: ${events}`);
  }

  async remove(id: string): Promise<void> {
    await fetch(`${this.url}/jobs/${id}`, { method: "DELETE" });
  }

  async stop(): Promise<void> {
    this.program.kill();
    await this.program.exited;
  }
}

export class Cluster {
  readonly workers: Program[] = [];
  readonly env: Record<string, string>;
  #coordinator: Promise<Service> | undefined;

  private constructor(
    readonly rabbitmq: RabbitMQ,
    readonly redis: RedisServer,
  ) {
    this.env = { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url };
  }

  static async start(): Promise<Cluster> {
    return new Cluster(...(await Promise.all([startRabbitMQ(), startRedis()])));
  }

  /** The same servers behind a network with this round trip, ms. It starts a coordinator and workers of its own. */
  async behind(roundTripMs: number): Promise<Cluster> {
    const far = new Cluster(this.rabbitmq, this.redis);
    for (const name of ["RABBITMQ_URL", "REDIS_URL"]) {
      const url = new URL(this.env[name]);
      url.port = String(await delayed(Number(url.port), roundTripMs / 2));
      far.env[name] = url.href;
    }
    return far;
  }

  coordinator(): Promise<Service> {
    this.#coordinator ??= Service.start(this.env);
    return this.#coordinator;
  }

  /** Starts or stops workers until `count` of them run. */
  async resize(count: number): Promise<void> {
    for (const worker of this.workers.splice(count)) {
      worker.kill();
      await worker.exited;
    }
    while (this.workers.length < count) {
      const env = { ...this.env, ...allocatorSettings(), WORKER_NAME: `worker-${this.workers.length + 1}` };
      this.workers.push(spawnProgram("worker.ts", env));
    }
    for (const worker of this.workers) await worker.waitFor(/at work/, 60_000);
  }

  /** CPU seconds so far, by role. */
  async cpu(): Promise<Record<"coordinator" | "workers" | "RabbitMQ" | "Redis", number>> {
    return {
      coordinator: cpuSeconds((await this.coordinator()).program.pid),
      workers: this.workers.reduce((sum, { pid }) => sum + cpuSeconds(pid), 0),
      RabbitMQ: cpuSeconds(this.rabbitmq.pid),
      Redis: cpuSeconds(this.redis.pid),
    };
  }

  async versions(): Promise<Record<string, string>> {
    const redis = outputOf("redis-server", "--version")?.match(/v=(\S+)/)?.[1] ?? "";
    return { RabbitMQ: (await this.rabbitmq.ctl("version")).trim(), Redis: redis };
  }

  /** Ends coordinator and workers, not the servers. */
  async leave(): Promise<void> {
    await this.resize(0);
    await (await this.#coordinator)?.stop();
    this.#coordinator = undefined;
  }

  async stop(): Promise<void> {
    await this.leave();
    await Promise.all([this.rabbitmq.stop(), this.redis.stop()]);
  }
}

/**
 * A proxy on this machine that delays every byte by `ms` in each direction, like a slow network. The kernel of this
 * machine may not be able to delay packets. @returns its port
 */
async function delayed(target: number, ms: number): Promise<number> {
  const pass = (from: Socket, to: Socket) => {
    from.on("data", (bytes) => setTimeout(() => to.write(bytes), ms));
    from.on("error", () => {}); // `close` follows
    from.on("close", () => setTimeout(() => to.destroy(), ms));
  };
  const server = createServer({ noDelay: true }, (client) => {
    const upstream = connect({ port: target, host: "127.0.0.1", noDelay: true });
    pass(client, upstream);
    pass(upstream, client);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  server.unref();
  return (server.address() as AddressInfo).port;
}

/** Has Bun's allocator keep freed pages for a minute, as in the Dockerfiles. The environment takes precedence. */
function allocatorSettings(): Record<string, string> {
  const { MIMALLOC_PURGE_DELAY = "60000", MIMALLOC_PURGE_HOLES = "0" } = process.env;
  return { MIMALLOC_PURGE_DELAY, MIMALLOC_PURGE_HOLES };
}

/** Linux reports CPU time to programs in hundredths of a second. */
const TICKS_PER_SECOND = 100;

/** User and system time of a process, over all its threads. */
function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)!.split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

/** Peak resident memory of a process, in 10⁶ bytes. */
export function peakMegabytes(pid: number): number {
  const [, kibibytes] = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))!;
  return (Number(kibibytes) * 1024) / 1e6;
}

/** Resets the peak to what the process uses now. */
export function forgetPeak(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, "5");
}

const PERIOD_US = 10_000;

/** Why `limitCpu` does not work here, for example without root; undefined if it works. */
export function cpuLimitError(): string | undefined {
  try {
    rmdirSync(makeGroup(`sobel-bench-${process.pid}`, PERIOD_US));
    return undefined;
  } catch (error) {
    return `no CPU quota: ${(error as Error).message}`;
  }
}

/**
 * Limits each process to a share of a core by the kernel's CPU quota: this imitates workers on other, slower machines.
 * @returns a function that removes the limit
 */
export function limitCpu(pids: number[], share: number): () => void {
  const folders = pids.map((pid) => {
    const folder = makeGroup(`sobel-bench-${pid}`, Math.round(share * PERIOD_US));
    writeFileSync(join(folder, "cgroup.procs"), String(pid));
    return folder;
  });
  const release = () => {
    process.off("exit", release);
    for (const folder of folders) {
      // Only an empty group can be removed. Threads move with their process.
      for (const pid of readFileSync(join(folder, "cgroup.procs"), "utf8").split("\n").filter(Boolean)) {
        writeFileSync(join(folder, "../cgroup.procs"), pid);
      }
      rmdirSync(folder);
    }
  };
  // A group that is left behind exists until the next reboot, so this handler runs before the processes are ended.
  process.prependListener("exit", release);
  return release;
}

/** A control group with a CPU quota, cgroup v1 or v2. Under v2 the parent must delegate the cpu controller. */
function makeGroup(name: string, quota: number): string {
  const isV1 = readdirSync("/sys/fs/cgroup").includes("cpu");
  const folder = join(isV1 ? "/sys/fs/cgroup/cpu" : "/sys/fs/cgroup", name);
  const settings = isV1
    ? { "cpu.cfs_period_us": PERIOD_US, "cpu.cfs_quota_us": quota }
    : { "cpu.max": `${quota} ${PERIOD_US}` };
  mkdirSync(folder);
  try {
    for (const [file, value] of Object.entries(settings)) writeFileSync(join(folder, file), String(value));
  } catch (error) {
    rmdirSync(folder);
    throw error;
  }
  return folder;
}
