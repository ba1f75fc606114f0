// The test servers themselves: that they are real, private, keep what they should keep, and leave nothing behind.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect as amqp } from "amqplib";
import { Redis } from "ioredis";
import {
  binaries,
  describeWith,
  freePort,
  missing,
  type RabbitMQ,
  type RedisServer,
  sharedServers,
  spawnProgram,
  startRabbitMQ,
  startRedis,
  temporaryFolder,
} from "./servers.ts";

const QUEUE = "kept";
const scratch = temporaryFolder("probe");

describeWith(["rabbitmq"], "a private RabbitMQ", () => {
  let rabbitmq: RabbitMQ;
  let family: number[];
  beforeAll(async () => {
    const others = descendants();
    rabbitmq = await startRabbitMQ();
    family = descendants().filter((pid) => !others.includes(pid));
  });
  afterAll(() => rabbitmq.stop());

  test("listens on loopback only, its distribution port and port mapper too", () => {
    const sockets = listening(family);
    expect(sockets.length).toBeGreaterThanOrEqual(3);
    expect(sockets.filter(({ loopback }) => !loopback)).toEqual([]);
    expect(sockets.map(({ port }) => port)).toContain(rabbitmq.port);
  });

  test("keeps a durable quorum queue's message over a restart", async () => {
    await publish(rabbitmq, "restarted");
    await rabbitmq.restart();
    await take(rabbitmq, "restarted");
  });

  test("and over a kill", async () => {
    await publish(rabbitmq, "killed");
    await rabbitmq.kill();
    await expect(amqp(rabbitmq.url)).rejects.toThrow(/ECONNREFUSED|connect/i);
    await rabbitmq.restart();
    await take(rabbitmq, "killed");
  });

  test("says nothing while it is paused", async () => {
    rabbitmq.pause();
    const late = amqp(rabbitmq.url);
    expect(await Promise.race([late.then(() => "open"), Bun.sleep(500).then(() => "silence")])).toBe("silence");
    rabbitmq.resume();
    await (await late).close();
  });

  test("answers rabbitmqctl", async () => {
    expect(await rabbitmq.ctl("list_queues", "name")).toContain(QUEUE);
    await expect(rabbitmq.ctl("no_such_command")).rejects.toThrow("no_such_command");
  });

  test("leaves no process and no folder when it stops", async () => {
    const folders = () => ["rabbitmq", "epmd"].map((kind) => temporaryFolders(kind).length);
    const [nodes, mappers] = folders();
    await rabbitmq.stop();
    await rabbitmq.stop();
    expect(await survivors(family)).toEqual([]);
    expect(folders()).toEqual([nodes - 1, mappers - 1]);
  });
});

describeWith(["redis"], "a private Redis", () => {
  let redis: RedisServer;
  let client: Redis;
  let family: number[];
  beforeAll(async () => {
    const others = descendants();
    redis = await startRedis({ args: ["--appendonly", "yes", "--appendfsync", "always"] });
    family = descendants().filter((pid) => !others.includes(pid));
    client = new Redis(redis.url, { retryStrategy: () => 50 });
    client.on("error", () => {}); // expected below, where the server is away
  });
  afterAll(async () => {
    client.disconnect();
    await redis.stop();
  });

  test("listens on loopback only and evicts nothing", async () => {
    expect(listening(family)).toEqual([{ port: redis.port, loopback: true }]);
    expect(await client.config("GET", "maxmemory-policy")).toEqual(["maxmemory-policy", "noeviction"]);
  });

  test("keeps what was written over a kill, when asked for a log", async () => {
    await client.set("a", "1");
    await redis.kill();
    await redis.restart();
    expect(await client.get("a")).toBe("1");
  });

  test("restarts empty", async () => {
    await client.set("a", "1");
    await redis.restart({ empty: true });
    expect(await client.get("a")).toBeNull();
  });

  test("says nothing while it is paused", async () => {
    redis.pause();
    const late = client.ping();
    expect(await Promise.race([late, Bun.sleep(300).then(() => "silence")])).toBe("silence");
    redis.resume();
    expect(await late).toBe("PONG");
  });

  test("stops while paused, and leaves no process and no folder", async () => {
    const before = temporaryFolders("redis");
    redis.pause();
    client.disconnect();
    await redis.stop();
    expect(await survivors(family)).toEqual([]);
    expect(temporaryFolders("redis").length).toBe(before.length - 1);
  });

  test("a command line that Redis refuses is an error that says why", async () => {
    await expect(startRedis({ args: ["--no-such-option", "1"] })).rejects.toThrow(/no-such-option/);
  });
});

describeWith(["rabbitmq", "redis"], "the shared servers", () => {
  test("are one pair, however often they are asked for", async () => {
    const [a, b] = await Promise.all([sharedServers(), sharedServers()]);
    expect(a).toBe(b);
    const connection = await amqp(a.rabbitmq.url);
    await connection.close();
  });
});

describeWith(["redis"], "what is left running", () => {
  const source = `import { startRedis } from ${JSON.stringify(join(import.meta.dir, "servers.ts"))};
    process.on("SIGTERM", () => process.exit(3));
    const { port } = await startRedis();
    console.log("port", port);`;

  test("ends with the process that started it, its data too", async () => {
    const before = temporaryFolders("redis");
    const owner = spawnProgram(probe("owner.ts", source), {});
    const [, port] = await owner.waitFor(/port (\d+)/);
    expect(temporaryFolders("redis").length).toBe(before.length + 1);
    owner.kill();
    expect(await owner.exited).toBe(3);
    expect(await refuses(Number(port))).toBe(true);
    expect(temporaryFolders("redis")).toEqual(before);
  });

  test("ends with it even when it is killed", async () => {
    const before = temporaryFolders("redis");
    const owner = spawnProgram(probe("owner.ts", source), {});
    const [, port] = await owner.waitFor(/port (\d+)/);
    owner.kill("SIGKILL");
    await owner.exited;
    expect(await refuses(Number(port))).toBe(true);
    for (const folder of temporaryFolders("redis")) {
      if (!before.includes(folder)) rmSync(join(tmpdir(), folder), { recursive: true });
    }
  });
});

for (const runtime of ["bun", "deno"] as const) {
  describeWith(runtime === "deno" ? ["deno"] : [], `a program under ${runtime}`, () => {
    const file = probe(
      `${runtime}.ts`,
      `import process from "node:process";
      process.on("SIGTERM", () => {
        console.error("ending");
        process.exit(7);
      });
      setInterval(() => {}, 1000);
      console.log("ready", process.env.GREETING ?? "nobody");`,
    );

    test("prints, takes a signal, and gives its exit code", async () => {
      const program = spawnProgram(file, { GREETING: "hola" }, runtime);
      expect((await program.waitFor(/ready (\w+)/))[1]).toBe("hola");
      program.kill();
      expect(await program.exited).toBe(7);
      expect(program.out).toContain("ending");
      program.kill(); // of an ended program: nothing
    });

    test("killed outright, is 128 + 9", async () => {
      const program = spawnProgram(file, {}, runtime);
      await program.waitFor(/ready/);
      program.kill("SIGKILL");
      expect(await program.exited).toBe(137);
    });

    test("does not see the settings of the shell", async () => {
      process.env.GREETING = "leaked";
      const program = spawnProgram(file, {}, runtime);
      delete process.env.GREETING;
      await program.waitFor(/ready nobody/);
      program.kill("SIGKILL");
      await program.exited;
    });

    test("waitFor says what was printed instead", async () => {
      const program = spawnProgram(file, {}, runtime);
      await program.waitFor(/ready/);
      await expect(program.waitFor(/never/, 50)).rejects.toThrow(/did not print .*never.* in 50 ms, got:\s+ready/);
      program.kill("SIGKILL");
      await program.exited;
      await expect(program.waitFor(/never/)).rejects.toThrow(/ended without printing/);
    });
  });
}

test("free ports are given out once", async () => {
  const ports = await Promise.all(Array.from({ length: 50 }, freePort));
  expect(new Set(ports).size).toBe(50);
});

test("what is missing is named with the command that installs it", () => {
  expect(missing.length).toBe(Object.values(binaries).filter((path) => !path).length);
  for (const line of missing) expect(line).toMatch(/^\w+ \(.*install.*\)$/);
});

function probe(name: string, source: string): string {
  writeFileSync(join(scratch, name), source);
  return join(scratch, name);
}

async function publish({ url }: RabbitMQ, text: string): Promise<void> {
  const connection = await amqp(url);
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue(QUEUE, { durable: true, arguments: { "x-queue-type": "quorum" } });
  channel.sendToQueue(QUEUE, Buffer.from(text), { persistent: true });
  await channel.waitForConfirms();
  await connection.close();
}

/** Consumes until `text` comes. Others may come first: an acknowledgement that a kill overtook is redelivered. */
async function take({ url }: RabbitMQ, text: string): Promise<void> {
  const connection = await amqp(url);
  const channel = await connection.createChannel();
  await new Promise<void>((resolve, reject) => {
    const consumed = channel.consume(QUEUE, (message) => {
      if (!message) return reject(new Error("the consumer was cancelled"));
      channel.ack(message);
      if (message.content.toString() === text) resolve();
    });
    consumed.catch(reject);
  });
  await connection.close();
}

async function refuses(port: number): Promise<boolean> {
  for (let tries = 0; tries < 50; tries++) {
    const client = new Redis(port, "127.0.0.1", { lazyConnect: true, retryStrategy: () => null });
    client.on("error", () => {}); // refused is the answer that we hope for
    const answered = await client.connect().then(
      () => true,
      () => false,
    );
    client.disconnect();
    if (!answered) return true;
    await Bun.sleep(20);
  }
  return false;
}

/** Process ids under this one, from /proc: `pid (name) state parent …`. */
function descendants(root = process.pid): number[] {
  const direct = [...processes()].filter(([, { parent }]) => parent === root).map(([pid]) => pid);
  return direct.flatMap((pid) => [pid, ...descendants(pid)]);
}

function processes(): Map<number, { name: string; state: string; parent: number }> {
  const all = new Map<number, { name: string; state: string; parent: number }>();
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    const stat = readIfThere(`/proc/${pid}/stat`).match(/^\d+ \((.*)\) (\S) (\d+)/s);
    if (stat) all.set(Number(pid), { name: stat[1]!, state: stat[2]!, parent: Number(stat[3]) });
  }
  return all;
}

/** Names of those of `pids` that are still alive after at most 2 s. Zombies (Z) are not alive. */
async function survivors(pids: number[]): Promise<string[]> {
  expect(pids.length).toBeGreaterThan(0);
  let alive: string[] = [];
  for (let tries = 0; tries < 40; tries++) {
    const all = processes();
    alive = pids.flatMap((pid) => (all.has(pid) && all.get(pid)!.state !== "Z" ? [all.get(pid)!.name] : []));
    if (alive.length === 0) break;
    await Bun.sleep(50);
  }
  return alive;
}

/** The listening TCP sockets of these processes, from /proc/net: `sl local remote state … inode`, addresses in hex. */
function listening(pids: number[]): { port: number; loopback: boolean }[] {
  const inodes = new Set(pids.flatMap(socketInodes));
  const lines = [readIfThere("/proc/net/tcp"), readIfThere("/proc/net/tcp6")].join("\n").split("\n");
  return lines.flatMap((line) => {
    const [, local = "", , state, , , , , , inode = ""] = line.trim().split(/\s+/);
    const [address = "", port = ""] = local.split(":");
    if (state !== "0A" || !inodes.has(inode)) return [];
    const loopback = /^.{6}7F$/.test(address) || address === "00000000000000000000000001000000";
    return [{ port: Number.parseInt(port, 16), loopback }];
  });
}

function socketInodes(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`).match(/^socket:\[(\d+)\]$/)?.[1] ?? [];
    } catch {
      return []; // closed since it was listed
    }
  });
}

function readIfThere(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return ""; // the process has ended since it was listed
  }
}

function temporaryFolders(kind: string): string[] {
  return readdirSync(tmpdir()).filter((name) => name.startsWith(`sobel-${kind}-`));
}
