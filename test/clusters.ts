// RabbitMQ and Redis of several nodes, for the tests to kill their leaders. All on loopback, with TLS.
//
// Invariant: `leader` asks the nodes that live, so it is right after a failover.
import { execFile } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import {
  freePorts,
  type RabbitMQ,
  type Server,
  startRabbitNodes,
  startRedis,
  startSentinel,
  temporaryFolder,
} from "./servers.ts";
import { until } from "./wait.ts";

/** Some nodes as one server. */
export interface Cluster {
  /** For `RABBITMQ_URL` or `REDIS_URL`, by TLS. */
  url: string;
  nodes: Server[];
  /** The node that takes the writes, of a part of the keys at least. Undefined while there is none. */
  leader(): Promise<Server | undefined>;
  stop(): Promise<void>;
}

/** How long a Redis may be silent before it is replaced, ms. */
const DOWN_MS = 1_500;

/** Three nodes. @param folder certificates */
export async function rabbitCluster(folder: string, queue: string): Promise<Cluster & { nodes: RabbitMQ[] }> {
  const nodes = await startRabbitNodes(3, ({ tls }) => [
    `listeners.ssl.1 = 127.0.0.1:${tls}`,
    `ssl_options.cacertfile = ${join(folder, "ca.pem")}`,
    `ssl_options.certfile = ${join(folder, "server.pem")}`,
    `ssl_options.keyfile = ${join(folder, "server.key")}`,
    "cluster_partition_handling = pause_minority",
  ]);
  await until(
    async () => (await nodes[0].ctl("eval", "length(mnesia:system_info(running_db_nodes)).")).trim() === "3",
    60_000,
  );
  return {
    url: `amqps://guest:guest@${nodes.map(({ tlsPort }) => `127.0.0.1:${tlsPort}`).join(",")}`,
    nodes,
    async leader() {
      const ask = nodes.map((node) => node.ctl("list_queues", "name", "leader"));
      const leader = await Promise.any(ask).then((text) => new RegExp(`^${queue}\t(\\S+)`, "m").exec(text)?.[1]);
      return nodes.find(({ port }) => leader === `sobel-${port}@localhost`);
    },
    async stop() {
      await Promise.all(nodes.map((node) => node.stop()));
    },
  };
}

const tlsOf = (folder: string, port: number) => {
  const file = (name: string) => join(folder, name);
  const args = ["--tls-port", String(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", file("ca.pem")];
  return [
    ...args,
    "--tls-cert-file",
    file("server.pem"),
    "--tls-key-file",
    file("server.key"),
    "--tls-replication",
    "yes",
  ];
};

/** A leader, two replicas, three sentinels. */
export async function sentinelCluster(folder: string): Promise<Cluster> {
  const ports = await freePorts(3);
  const durable = ["--appendonly", "yes", "--appendfsync", "always", "--min-replicas-to-write", "1"];
  const start = (port: number, i: number) =>
    startRedis({
      args: [...durable, ...tlsOf(folder, port), ...(i > 0 ? ["--replicaof", "127.0.0.1", String(ports[0])] : [])],
    });
  const nodes = await Promise.all(ports.map(start));
  const sentinelTls = (await freePorts(3)).values();
  const sentinels = await Promise.all(
    [1, 2, 3].map(async () => {
      const tls = sentinelTls.next().value as number;
      const server = await startSentinel(() => [
        ...tlsOf(folder, tls).join(" ").split("--").filter(Boolean),
        `sentinel announce-port ${tls}`,
        `sentinel announce-ip 127.0.0.1`,
        `sentinel monitor main 127.0.0.1 ${ports[0]} 2`,
        `sentinel down-after-milliseconds main ${DOWN_MS}`,
        "sentinel failover-timeout main 5000",
      ]);
      return { ...server, tls, stop: server.stop };
    }),
  );
  /** Where all sentinels agree: a former leader that comes back before would take writes, and lose them. */
  const leader = async () => {
    const views = await Promise.all(
      sentinels.map((sentinel) => ask(sentinel, "sentinel", "get-master-addr-by-name", "main")),
    );
    const [view, ...others] = new Set(views);
    return others.length > 0 ? undefined : nodes[ports.indexOf(Number(view.split("\n")[1]))];
  };
  await until(async () => (await roleOf(nodes[0])).includes("min_slaves_good_slaves:2"));
  return {
    url: `rediss+sentinel://${sentinels.map(({ tls }) => `127.0.0.1:${tls}`).join(",")}/main`,
    nodes,
    leader,
    async stop() {
      await Promise.all([...sentinels, ...nodes].map((server) => server.stop()));
    },
  };
}

/** Three leaders, each with a replica. */
export async function redisCluster(folder: string): Promise<Cluster> {
  const ports = await freePorts(6);
  const tls = await freePorts(6);
  const bus = await freePorts(6);
  const args = (i: number) => [
    ...[
      "--appendonly",
      "yes",
      "--appendfsync",
      "always",
      "--cluster-enabled",
      "yes",
      "--cluster-node-timeout",
      String(DOWN_MS),
    ],
    ...[
      "--cluster-announce-ip",
      "127.0.0.1",
      "--cluster-port",
      String(bus[i]),
      "--tls-cluster",
      "yes",
      ...tlsOf(folder, tls[i]),
    ],
  ];
  const nodes = await Promise.all(ports.map((port, i) => startRedis({ port, args: args(i) })));
  const cli = [
    "--tls",
    "--cacert",
    join(folder, "ca.pem"),
    "--cluster",
    "create",
    ...tls.map((port) => `127.0.0.1:${port}`),
  ];
  await run("redis-cli", [...cli, "--cluster-replicas", "1", "--cluster-yes"]);
  await until(async () => {
    // A replica without a first copy of the data never becomes a leader.
    const states = await Promise.all(
      nodes.map(async (node) => (await ask(node, "cluster", "info")) + (await roleOf(node))),
    );
    return states.every((state) => /cluster_state:ok.*(connected_slaves:1|master_link_status:up)/s.test(state));
  });
  return {
    url: `rediss+cluster://${tls.map((port) => `127.0.0.1:${port}`).join(",")}`,
    nodes,
    /** Of the first slot. */
    async leader() {
      const views = await Promise.any(nodes.map((node) => ask(node, "cluster", "nodes")));
      const [, port] = /^\S+ 127\.0\.0\.1:(\d+)@\S+ (?:myself,)?master .* connected 0-/m.exec(views) ?? [];
      return nodes[Math.max(tls.indexOf(Number(port)), ports.indexOf(Number(port)))];
    },
    async stop() {
      await Promise.all(nodes.map((node) => node.stop()));
    },
  };
}

const run = promisify(execFile);

const roleOf = (node: Server) => ask(node, "info", "replication");

async function ask(node: Server, ...command: string[]): Promise<string> {
  const { stdout } = await run("redis-cli", ["-p", String(node.port), ...command]);
  return stdout;
}

/** A folder with the certificate of a new authority (`ca.pem`) and a certificate for 127.0.0.1 (`server.pem`, `server.key`). */
export async function certificates(): Promise<string> {
  const cwd = temporaryFolder("tls");
  writeFileSync(join(cwd, "extensions"), "subjectAltName = IP:127.0.0.1, DNS:localhost\n");
  const openssl = (command: string) => run("openssl", command.split(" "), { cwd });
  const key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
  await openssl(`req -x509 ${key} -keyout ca.key -out ca.pem -days 2 -subj /CN=test-authority`);
  await openssl(`req ${key} -keyout server.key -out server.csr -subj /CN=localhost`);
  await openssl(
    "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile extensions",
  );
  return cwd;
}
