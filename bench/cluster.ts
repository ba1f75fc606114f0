/**
 * What is measured, as real processes: coordinators and workers around a RabbitMQ and a Redis of their own, or a single
 * coordinator with its threads. And what the kernel says of them: CPU seconds, and the most memory each has had.
 */
import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
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
import { said } from "./peers.ts";

/** One coordinator, to be asked over HTTP. */
export class Service {
  private constructor(
    readonly program: Program,
    readonly url: string,
  ) {}

  static async start(env: Record<string, string> = {}): Promise<Service> {
    const program = spawnProgram("coordinator.ts", { PORT: "0", ...env });
    const [url] = await program.waitFor(/http:\S+/);
    return new Service(program, url);
  }

  /** Sends a picture and reads its edges to the end. @returns bytes of the result */
  async send(picture: BodyInit, workers = ""): Promise<number> {
    const response = await fetch(`${this.url}/tasks/sobel?workers=${workers}`, { method: "POST", body: picture });
    if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
    let bytes = 0;
    for await (const piece of response.body!) bytes += piece.length;
    return bytes;
  }

  async stop(): Promise<void> {
    this.program.kill();
    await this.program.exited;
  }
}

/** Whose CPU seconds are told apart. */
export const ROLES = ["coordinator", "workers", "RabbitMQ", "Redis"] as const;
export type Role = (typeof ROLES)[number];

export class Cluster {
  readonly workers: Program[] = [];
  readonly env: Record<string, string>;
  /** By size of their bands: several can be asked in one run. */
  readonly #coordinators = new Map<string, Service>();

  private constructor(
    readonly rabbitmq: RabbitMQ,
    readonly redis: RedisServer,
  ) {
    this.env = { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url };
  }

  static async start(): Promise<Cluster> {
    return new Cluster(...(await Promise.all([startRabbitMQ(), startRedis()])));
  }

  async coordinator(bandPixels?: number): Promise<Service> {
    const size = bandPixels === undefined ? "" : String(bandPixels);
    let service = this.#coordinators.get(size);
    service ??= await Service.start({ ...this.env, BAND_PIXELS: size });
    this.#coordinators.set(size, service);
    return service;
  }

  /** Starts or ends workers until there are so many. */
  async resize(workers: number): Promise<void> {
    while (this.workers.length > workers) {
      const worker = this.workers.pop()!;
      worker.kill();
      await worker.exited;
    }
    while (this.workers.length < workers) {
      const worker = spawnProgram("worker.ts", { ...this.env, WORKER_NAME: `worker-${this.workers.length + 1}` });
      this.workers.push(worker);
      await worker.waitFor(/at work/, 60_000);
    }
  }

  /** CPU seconds so far. */
  cpu(coordinator: Service): Record<Role, number> {
    return {
      coordinator: cpuSeconds(coordinator.program.pid),
      workers: this.workers.reduce((sum, { pid }) => sum + cpuSeconds(pid), 0),
      RabbitMQ: cpuSeconds(this.rabbitmq.pid),
      Redis: cpuSeconds(this.redis.pid),
    };
  }

  async versions(): Promise<Record<string, string>> {
    const redis = said("redis-server", "--version")?.match(/v=(\S+)/)?.[1] ?? "";
    return { RabbitMQ: (await this.rabbitmq.ctl("version")).trim(), Redis: redis };
  }

  async stop(): Promise<void> {
    await this.resize(0);
    for (const service of this.#coordinators.values()) await service.stop();
    await Promise.all([this.rabbitmq.stop(), this.redis.stop()]);
  }
}

/** Ticks of /proc: Linux reports 100 a second to programs, whatever its own clock. */
const TICKS = 100;

/** User and system time of a process with all its threads, those that have ended too. */
export function cpuSeconds(pid: number): number {
  return ticksOf(`/proc/${pid}/stat`) / TICKS;
}

/** The same of its main thread alone: what must be done one after the other. */
export function mainThreadSeconds(pid: number): number {
  return ticksOf(`/proc/${pid}/task/${pid}/stat`) / TICKS;
}

function ticksOf(file: string): number {
  const fields = readFileSync(file, "utf8").split(") ").at(-1)!.split(" ");
  return Number(fields[11]) + Number(fields[12]);
}

/** The most memory that a process has had, MB of a million bytes. */
export function peakMegabytes(pid: number): number {
  const [, kibibytes] = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))!;
  return (Number(kibibytes) * 1024) / 1e6;
}

const PERIOD_US = 10_000;

/** Why `limitCpu` is not to be had here, as where this is not root's; undefined where it is. */
export function whyNoLimit(): string | undefined {
  try {
    rmdirSync(makeGroup(`sobel-bench-${process.pid}`, PERIOD_US));
    return undefined;
  } catch (error) {
    return `no worker can be held back here: ${(error as Error).message}`;
  }
}

/**
 * Holds processes to a part of a core each, by the kernel's quota: what a slow machine elsewhere looks like.
 * @returns a function that lets go of them
 */
export function limitCpu(pids: number[], part: number): () => void {
  const folders = pids.map((pid) => {
    const folder = makeGroup(`sobel-bench-${pid}`, Math.round(part * PERIOD_US));
    writeFileSync(join(folder, "cgroup.procs"), String(pid));
    return folder;
  });
  const letGo = () => {
    process.off("exit", letGo);
    for (const folder of folders) {
      // A group goes when nobody is in it; threads are moved up with their process.
      for (const pid of readFileSync(join(folder, "cgroup.procs"), "utf8").split("\n").filter(Boolean)) {
        writeFileSync(join(folder, "../cgroup.procs"), pid);
      }
      rmdirSync(folder);
    }
  };
  // Before the processes are ended: a group that is left behind stays until the machine is restarted.
  process.prependListener("exit", letGo);
  return letGo;
}

/** Control groups of the first kind, or of the second, where the controller must have been passed down. */
function makeGroup(name: string, quota: number): string {
  const isFirst = readdirSync("/sys/fs/cgroup").includes("cpu");
  const folder = join(isFirst ? "/sys/fs/cgroup/cpu" : "/sys/fs/cgroup", name);
  mkdirSync(folder);
  try {
    if (isFirst) {
      writeFileSync(join(folder, "cpu.cfs_period_us"), String(PERIOD_US));
      writeFileSync(join(folder, "cpu.cfs_quota_us"), String(quota));
    } else {
      writeFileSync(join(folder, "cpu.max"), `${quota} ${PERIOD_US}`);
    }
  } catch (error) {
    rmdirSync(folder);
    throw error;
  }
  return folder;
}
