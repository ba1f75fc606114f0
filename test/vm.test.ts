// A worker VM, as real as one machine allows: two network namespaces with a cable between them. In one, the cluster, are
// RabbitMQ, Redis and a coordinator. In the other, the VM, is a worker, started by the very command of the VM's systemd unit,
// behind the very firewall rules of the stack `firewalls`. Replaced are Docker, which here runs worker.ts with the variables
// that it is given, and the two load balancers, which are addresses that lead to the servers.
//
// The tests run inside the cluster's namespace, so that the servers are on its loopback: this file runs itself again in one.
// The kernel removes a namespace with its last process.
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { readlinkSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { decode, encode } from "fast-png";
import { Redis } from "ioredis";
import { sobelOf } from "./pictures.ts";
import { spawnProgram, startRabbitMQ, startRedis, temporaryFolder } from "./servers.ts";
import {
  describeStacks,
  environmentOf,
  filesOf,
  type Json,
  resources,
  stub,
  synthesized,
  unitCommand,
  userDataOf,
  VARIABLES,
} from "./stacks.ts";
import { until } from "./wait.ts";

setDefaultTimeout(180_000);

const PROJECT = join(import.meta.dir, "..");
const CLUSTER = "10.10.0.1";
const VM = "10.10.0.10";
/** One of the addresses of Google's health probes. */
const PROBER = "35.191.0.1";
const PASSWORDS = { rabbitmq: "r4bb1t", redis: "r3d1s" };
/** As root, or as root of a user namespace. */
const UNSHARE = ["unshare", ...(process.getuid?.() === 0 ? [] : ["--map-root-user"]), "--net"];

/** A process in the VM's namespace, which keeps it alive. */
let vm: ChildProcess;
/** `docker run` on the VM, and what the worker logged. */
let docker: ChildProcess;
let logged = "";
let origin: string;
let rules: Json[];

if (process.env.INSIDE_CLUSTER) describe("inside the cluster", inside);
else if (canUnshare()) describeStacks("a worker VM and its cluster", () => test("in two namespaces", runInside));

/** Whether this machine has namespaces, ip and nft. If not, it says so for the report. */
function canUnshare(): boolean {
  const script = "ip link add a0 type veth peer name b0 && nft list ruleset";
  const { status, error, stderr } = spawnSync(UNSHARE[0], [...UNSHARE.slice(1), "sh", "-c", script]);
  if (status === 0) return true;
  const why = error?.message ?? String(stderr).trim();
  console.error(`\n!!! NOT DONE HERE: a worker VM behind its firewall (no namespaces, ip or nft: ${why})\n`);
  return false;
}

async function runInside(): Promise<void> {
  const command = [...UNSHARE, process.execPath, "test", "--timeout", "180000", import.meta.path];
  const env = { ...process.env, INSIDE_CLUSTER: "1" };
  const child = Bun.spawn(command, { cwd: PROJECT, env, stdout: "pipe", stderr: "pipe" });
  const out = (await Promise.all([child.stdout, child.stderr].map((stream) => new Response(stream).text()))).join("");
  const code = await child.exited;
  if (code !== 0) console.error(out);
  expect([code, /^ *(\d+) pass$/m.exec(out)?.[1]]).toEqual([0, "6"]);
}

function inside(): void {
  beforeAll(startAll);
  afterAll(() => {
    docker?.kill("SIGKILL");
    vm?.kill("SIGKILL");
  });

  test("the worker joins the fleet under the VM's name", async () => {
    const { workers } = (await (await fetch(`${origin}/workers`)).json()) as { workers: { name: string }[] };
    expect(workers.map(({ name }) => name)).toEqual(["sobel-worker-x1z2"]);
  });

  test("the worker completes a job", async () => {
    await expectEdges(await send());
  });

  test("the VM reaches two ports and no others", async () => {
    const { rabbitmq_address, redis_address } = VARIABLES;
    const { port } = new URL(origin); // the coordinator listens on all addresses, so only the firewall stops the VM
    const open = [reaches(rabbitmq_address, 5672), reaches(redis_address, 6379)];
    const closed = [reaches(CLUSTER, port), reaches(rabbitmq_address, 6379), reaches(redis_address, 5672)];
    expect(await Promise.all([...open, ...closed])).toEqual([true, true, false, false, false]);
    must(onVm(["nft", "flush", "ruleset"]));
    expect(await reaches(CLUSTER, port)).toBe(true);
    setFirewall(rules);
  });

  test("health probes are answered, and no other address", async () => {
    const [prober, other] = await Promise.all([healthFrom(PROBER), healthFrom(CLUSTER)]);
    expect(prober).toMatch(/^HTTP\/1\.[01] 200/);
    expect(other).toBe("");
  });

  test("with closed ports the worker logs the lost connection; with open ports it continues", async () => {
    setFirewall([]);
    const from = logged.length;
    const id = await send();
    // The firewall drops packets, so only missing heartbeats show that the connection is lost.
    await untilLogged(/"msg":"RabbitMQ connection lost/, from);
    expect(await stateOf(id)).toBe("running");
    setFirewall(rules);
    await expectEdges(id);
  });

  test("docker stop ends the worker with exit code 0", async () => {
    const ended = new Promise((resolve) => docker.on("close", resolve));
    docker.kill("SIGTERM");
    expect(await ended).toBe(0);
    expect(logged).toContain("finishing the band in progress");
    for (const password of Object.values(PASSWORDS)) expect(logged).not.toContain(password);
  });
}

/** Starts the servers, the VM and its firewall, a coordinator, and the worker on the VM. */
async function startAll(): Promise<void> {
  sh("ip link set lo up");
  const [rabbitmq, redis, stacks] = await Promise.all([startRabbitMQ(), startRedis(), synthesized()]);
  await rabbitmq.ctl("add_user", "sobel", PASSWORDS.rabbitmq); // the user guest works from loopback only
  await rabbitmq.ctl("set_permissions", "sobel", ".*", ".*", ".*");
  const admin = new Redis(redis.url);
  await admin.config("SET", "requirepass", PASSWORDS.redis);
  admin.disconnect();
  rules = resources(stacks)
    .filter(({ type }) => type === "google_compute_firewall")
    .map(({ body }) => body);
  vm = await startVm(rabbitmq.port, redis.port);
  setFirewall(rules);
  const coordinator = spawnProgram("coordinator.ts", {
    RABBITMQ_URL: `amqp://sobel:${PASSWORDS.rabbitmq}@127.0.0.1:${rabbitmq.port}`,
    REDIS_URL: `redis://:${PASSWORDS.redis}@127.0.0.1:${redis.port}`,
    HOST: "0.0.0.0",
    PORT: "0",
    BAND_PIXELS: "20000", // three bands, which one worker takes at once
  });
  const [, port] = await coordinator.waitFor(/:(\d+)\n/);
  origin = `http://127.0.0.1:${port}`;
  docker = boot(filesOf(userDataOf(stacks)));
  await untilLogged(/at work/);
}

/** Starts the VM's namespace, with a cable to this one, and gives this one the addresses of the load balancers. */
async function startVm(rabbitmqPort: number, redisPort: number): Promise<ChildProcess> {
  const started = spawn("setpriv", ["--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]);
  await until(() => readlinkSync(`/proc/${started.pid}/ns/net`) !== readlinkSync("/proc/self/ns/net"));
  const { rabbitmq_address, redis_address } = VARIABLES;
  sh(
    `ip link add cluster0 type veth peer name vm0
    ip link set vm0 netns ${started.pid}
    ip address add ${CLUSTER}/20 dev cluster0
    for address in ${rabbitmq_address} ${redis_address} ${PROBER}; do ip address add $address/32 dev cluster0; done
    ip link set cluster0 up
    echo 1 >/proc/sys/net/ipv4/conf/cluster0/route_localnet
    nft -f -`,
    `table ip balancers { chain prerouting { type nat hook prerouting priority dstnat;
      ip daddr ${rabbitmq_address} tcp dport 5672 dnat to 127.0.0.1:${rabbitmqPort};
      ip daddr ${redis_address} tcp dport 6379 dnat to 127.0.0.1:${redisPort}; }
    }`,
  );
  vm = started;
  const address = `ip link set lo up; ip address add ${VM}/20 dev vm0; ip link set vm0 up`;
  must(onVm(["sh", "-euc", `${address}; ip route add default via ${CLUSTER}`]));
  return started;
}

/** Runs the unit's command on the VM. Stubs answer for Google's services. */
function boot(files: Record<string, string>): ChildProcess {
  const folder = temporaryFolder("vm");
  const bin = join(folder, "bin");
  for (const [path, content] of Object.entries(files)) writeFileSync(join(folder, path.split("/").at(-1)!), content);
  const secret = (password: string) => `echo '{"payload":{"data":"${btoa(password)}"}}'`;
  stub(
    bin,
    "curl",
    `cat >/dev/null # else the writer of the pipe may fail
    case "$*" in
    *metadata*) echo '{"access_token":"token"}' ;;
    *sobel-rabbitmq-password*) ${secret(PASSWORDS.rabbitmq)} ;;
    *sobel-redis-password*) ${secret(PASSWORDS.redis)} ;;
  esac`,
  );
  stub(bin, "docker-credential-gcr", "");
  // `docker run` passes on the variables of its --env options, and no others. With the default interval of heartbeats it
  // would take half a minute to notice a lost connection.
  stub(
    bin,
    "docker",
    `[ "$1" = run ] || exit 0
    RABBITMQ_URL+="?heartbeat=2"
    given=()
    while [ $# -gt 0 ]; do
      if [ "$1" = --env ]; then shift; case "$1" in *=*) given+=("$1") ;; *) given+=("$1=\${!1}") ;; esac; fi
      shift
    done
    cd '${PROJECT}' && exec env -i PATH=/usr/bin:/bin HOME='${folder}' "\${given[@]}" '${process.execPath}' --no-env-file run worker.ts`,
  );
  const command = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", `exec ${unitCommand(files, folder)}`];
  const host = {
    PATH: `${bin}:${process.env.PATH}`,
    RUNTIME_DIRECTORY: folder,
    HOSTNAME: "sobel-worker-x1z2.internal",
  };
  const env = { ...host, ...environmentOf(files) } as unknown as NodeJS.ProcessEnv;
  const unit = spawn("nsenter", [`--net=/proc/${vm.pid}/ns/net`, ...command], { env });
  for (const stream of [unit.stdout, unit.stderr])
    stream.setEncoding("utf8").on("data", (text: string) => {
      logged += text;
    });
  return unit;
}

/** Waits until the worker has logged a line. @param from where in `logged` to begin */
async function untilLogged(pattern: RegExp, from = 0): Promise<void> {
  await until(() => pattern.test(logged.slice(from)), 60_000).catch(({ message }) => {
    throw new Error(`${message}; the worker logged:\n${logged.slice(from)}`);
  });
}

const photo = { width: 300, height: 200, data: Uint8Array.from({ length: 60_000 }, (_, i) => (i * 7919) >> 3) };

/** Uploads the photo. Returns the id of its job. */
async function send(): Promise<string> {
  const id = crypto.randomUUID();
  const body = Buffer.from(encode({ ...photo, channels: 1 }));
  expect((await fetch(`${origin}/jobs/${id}`, { method: "PUT", body })).status).toBe(202);
  return id;
}

async function stateOf(id: string): Promise<string> {
  return (await (await fetch(`${origin}/jobs/${id}`)).json()).state;
}

/** Waits for the job, and compares its result with the oracle. */
async function expectEdges(id: string): Promise<void> {
  await until(async () => (await stateOf(id)) === "done", 90_000);
  const result = decode(new Uint8Array(await (await fetch(`${origin}/jobs/${id}/result`)).arrayBuffer()));
  const edges = sobelOf(photo.data, photo.width, photo.height);
  expect(Buffer.from(result.data as Uint8Array).equals(edges)).toBe(true);
}

/** Whether the VM can open a connection within 1 s. */
async function reaches(address: string, port: number | string): Promise<boolean> {
  const command = ["timeout", "1", "bash", "-c", `exec 3<>/dev/tcp/${address}/${port}`];
  const child = Bun.spawn(["nsenter", `--net=/proc/${vm.pid}/ns/net`, ...command], { stderr: "ignore" });
  return (await child.exited) === 0;
}

/** The status line of `GET /healthz` on the VM, asked from an address of the cluster; empty if packets are dropped. */
function healthFrom(localAddress: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host: VM, port: 9090, localAddress });
    socket.setTimeout(1_000, () => socket.destroy());
    socket.on("connect", () => socket.write("GET /healthz HTTP/1.0\r\n\r\n"));
    let answer = "";
    socket.on("data", (text) => {
      answer += text;
    });
    socket.on("error", () => {});
    socket.on("close", () => resolve(answer.split("\r\n")[0]));
  });
}

/** Replaces the rules of the VM's firewall. */
function setFirewall(rules: Json[]): void {
  must(onVm(["nft", "-f", "-"], `flush ruleset\n${firewall(rules)}`));
}

/** The rules of the stack for nftables: EGRESS for what the VM sends, INGRESS for what it receives. */
function firewall(rules: Json[]): string {
  const address = (range: string) => range.replaceAll(/\$\{var\.(\w+)\}/g, (_, name) => VARIABLES[name]);
  const chain = (direction: string, hook: string, side: string) => {
    const lines = rules
      .filter((rule) => rule.direction === direction && rule.allow)
      .flatMap((rule) =>
        [...(rule.destination_ranges ?? rule.source_ranges)].map(
          (range) => `ip ${side} ${address(range)} tcp dport ${rule.allow[0].ports[0]} accept`,
        ),
      );
    // A VPC lets packets of allowed connections through. Without rules, existing connections are cut too.
    const known = rules.length ? ["ct state established,related accept"] : [];
    return `chain ${hook} { type filter hook ${hook} priority filter; policy drop; ${[...known, ...lines, ""].join("; ")} }\n`;
  };
  return `table ip vpc {\n${chain("EGRESS", "output", "daddr")}${chain("INGRESS", "input", "saddr")}}\n`;
}

/** Runs a command in the VM's namespace. */
function onVm(command: string[], input?: string) {
  return spawnSync("nsenter", [`--net=/proc/${vm.pid}/ns/net`, ...command], { input, encoding: "utf8" });
}

/** Runs a script in this namespace. */
function sh(script: string, input?: string): void {
  must(spawnSync("sh", ["-euc", script], { input, encoding: "utf8" }));
}

function must({ status, stderr }: { status: number | null; stderr: string }): void {
  if (status !== 0) throw new Error(stderr);
}
