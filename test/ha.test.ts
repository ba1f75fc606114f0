// RabbitMQ and Redis of several nodes: their addresses; jobs while leaders are killed.
//
// Invariant: no job is lost and no result is wrong, whichever leader dies. Servers and programs are real, by TLS.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { decode } from "fast-png";
import { amqpNodes, redisAddress } from "../ops/address.ts";
import { QUEUE } from "../queue.ts";
import { type Cluster, certificates, rabbitCluster, redisCluster, sentinelCluster } from "./clusters.ts";
import { Client, generator } from "./faults.ts";
import { type Bytes, edgesOf } from "./kit.ts";
import { GREY, pngOf } from "./pictures.ts";
import { describeWith, freePort, type Program, type RabbitMQ, spawnProgram } from "./servers.ts";
import { sleep, until } from "./wait.ts";

describe("addresses", () => {
  // biome-ignore format: a table
  test.each([
    ["amqp://host", ["amqp://host"]],
    ["amqp://u:p@one:1,two,[::1]:3/v?heartbeat=5", ["amqp://u:p@one:1/v?heartbeat=5", "amqp://u:p@two/v?heartbeat=5", "amqp://u:p@[::1]:3/v?heartbeat=5"]],
    ["amqps://u:a,b%40@one,two", ["amqps://u:a,b%40@one", "amqps://u:a,b%40@two"]],
    ["amqp://u:p@one,amqps://two:1,three:2/v", ["amqp://u:p@one", "amqps://two:1/v", "amqps://three:2/v"]],
  ])("RabbitMQ: %s", (text, expected) => {
    expect(amqpNodes(text).map(({ href }) => href)).toEqual(expected);
  });

  const plain = { form: "single", isTls: false, db: 0, name: "" };
  // biome-ignore format: a table
  test.each([
    ["redis://host", { nodes: [{ host: "host", port: 6379 }] }],
    ["rediss://:p%40@[::1]:1/2", { isTls: true, password: "p@", db: 2, nodes: [{ host: "::1", port: 1 }] }],
    ["redis+sentinel://u:a,b@one:1,two/main/3?sentinel_password=s%20t", { form: "sentinel", username: "u", password: "a,b", name: "main", db: 3, sentinelPassword: "s t", nodes: [{ host: "one", port: 1 }, { host: "two", port: 26379 }] }],
    ["rediss+sentinel://one/main", { form: "sentinel", isTls: true, name: "main", nodes: [{ host: "one", port: 26379 }] }],
    ["rediss+cluster://one,two:1/", { form: "cluster", isTls: true, nodes: [{ host: "one", port: 6379 }, { host: "two", port: 1 }] }],
  ])("Redis: %s", (text, expected) => {
    expect(redisAddress(text)).toEqual({ ...plain, ...expected } as ReturnType<typeof redisAddress>);
  });

  // biome-ignore format: a table
  test.each([
    ["RABBITMQ_URL", amqpNodes, ["", "host", "http://s3cret@host", "amqp://u:s3cret@", "amqp://u:s3cret@one,,two", "amqp://u:s3cret%@one", "amqp://u:s3cret@one:99999", "amqp://u:s3cret@one,http://two", "amqp://u:s3/cret@one"]],
    ["REDIS_URL", redisAddress, ["", "host", "http://s3cret@host", "redis://:s3cret@one,two", "redis://:s3cret@one/x", "redis+cluster://:s3cret@one/1", "redis+sentinel://:s3cret@one", "redis+sentinel://:s3cret@one/name/x", "redis+other://:s3cret@one", "redis://:s3cret%@one"]],
  ] as const)("%s: others are refused, and not repeated", (name, parse, texts) => {
    for (const text of texts) {
      let message = "accepted";
      try {
        parse(text);
      } catch (error) {
        ({ message } = error as Error);
      }
      expect([text, message]).toEqual([text, expect.stringMatching(new RegExp(`^${name}: expected `))]);
      expect(message).not.toMatch(/s3|cret/);
    }
  });
});

/** Jobs of one test, and those with which a leader is killed: of Redis, and of RabbitMQ. */
const JOBS = 30;
const REDIS_KILLED_AT = 18;
const RABBITMQ_KILLED_AT = 5;
/** A job begins every so many ms: several run at any moment. */
const EVERY_MS = 150;
/** Small bands, so that a job has up to eight. */
const BAND_PIXELS = 4_000;

describeWith(["rabbitmq", "redis"], "leaders killed in the middle of jobs", () => {
  let folder: string;
  let rabbitmq: Cluster & { nodes: RabbitMQ[] };
  const pictures: { bytes: Bytes; edges: Bytes }[] = [];
  const random = generator(21);

  beforeAll(async () => {
    folder = await certificates();
    rabbitmq = await rabbitCluster(folder, QUEUE);
    for (let i = 1; i <= 8; i++) {
      const [width, height] = [90, 40 * i];
      const samples = Uint16Array.from({ length: width * height }, () => 256 * random());
      const bytes = Buffer.from(pngOf({ width, height, depth: 8, colour: GREY, interlaced: false, samples }));
      pictures.push({ bytes, edges: pixelsOf(await edgesOf(bytes, BAND_PIXELS)) });
    }
  }, 60_000);
  afterAll(() => rabbitmq?.stop(), 30_000);

  test.each([
    ["three nodes of RabbitMQ, Redis with Sentinel", sentinelCluster, true],
    ["a Redis Cluster", redisCluster, false],
  ])(
    "%s",
    async (_, start, both) => {
      const redis = await start(folder);
      const programs: Program[] = [];
      try {
        const origins = await startPrograms(programs, redis.url);
        const jobs: Promise<string>[] = [];
        const killed: Promise<void>[] = [];
        for (let number = 0; number < JOBS; number++) {
          jobs.push(job(number, origins));
          if (number === RABBITMQ_KILLED_AT && both) killed.push(killLeader(rabbitmq));
          if (number === REDIS_KILLED_AT) killed.push(killLeader(redis));
          await sleep(EVERY_MS);
        }
        expect(await Promise.all(jobs)).toEqual(Array(JOBS).fill("right"));
        await Promise.all(killed);
        const [members] = (await rabbitmq.nodes[0].ctl("list_queues", "name", "members")).match(/^tareas\t.*$/m) ?? [
          "",
        ];
        expect(members.match(/sobel-\d+@localhost/g)).toHaveLength(3);
      } finally {
        for (const program of programs) program.kill("SIGKILL");
        await Promise.all(programs.map(({ exited }) => exited));
        await redis.stop();
      }
    },
    90_000,
  );

  /** Two coordinators and three workers. @returns the coordinators' origins */
  async function startPrograms(programs: Program[], redisUrl: string): Promise<string[]> {
    const env = {
      RABBITMQ_URL: rabbitmq.url,
      REDIS_URL: redisUrl,
      TLS_CA_FILE: `${folder}/ca.pem`,
      BAND_PIXELS: String(BAND_PIXELS),
    };
    const begin = (file: string, own: Record<string, string>) => {
      const program = spawnProgram(file, { ...env, ...own });
      programs.push(program);
      return program;
    };
    const workers = ["one", "two", "three"].map((name) => begin("worker.ts", { WORKER_NAME: name }));
    const ports = [await freePort(), await freePort()];
    const coordinators = ports.map((port) => begin("coordinator.ts", { PORT: String(port) }));
    await Promise.all(workers.map((worker) => worker.waitFor(/: at work\n/, 30_000)));
    const origins = coordinators.map(async (program) => (await program.waitFor(/http:\S+/, 30_000))[0]);
    return Promise.all(origins);
  }

  /** By a client that sends again what gets no answer or a 5xx. @returns "right", or what was wrong */
  async function job(number: number, origins: string[]): Promise<string> {
    const { bytes, edges } = pictures[number % pictures.length];
    const client = new Client(number % 4 < 2 ? origins : origins.toReversed());
    try {
      const png = number % 2 ? await client.post(bytes) : await client.put(crypto.randomUUID(), bytes, "?workers=2");
      return pixelsOf(png).equals(edges) ? "right" : `job ${number}: wrong pixels`;
    } catch (error) {
      return `job ${number}: ${(error as Error).message}`;
    }
  }
});

/** Kills it, waits until another one leads, starts it again. */
async function killLeader(cluster: Cluster): Promise<void> {
  const leader = await until(() => cluster.leader());
  await leader.kill();
  await until(async () => {
    const next = await cluster.leader().catch(() => undefined);
    return next && next !== leader;
  }, 30_000);
  await leader.restart();
}

function pixelsOf(png: Uint8Array): Bytes {
  return Buffer.from(decode(png).data);
}
