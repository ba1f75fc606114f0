// The way of a worker VM, for real as far as one machine goes: two network namespaces with a cable between them. In the one,
// "the cluster", RabbitMQ, Redis and a coordinator; in the other, "the VM", a worker that is started by the very command of
// the VM's systemd unit, behind the very firewall rules of the stack `firewalls`. Stand-ins are Docker, which here runs
// worker.ts with the variables that it is given, and the two load balancers, which are addresses that lead to the servers.
//
// The tests run inside of the cluster's namespace, so that the servers are on its own loopback: this file starts itself
// again in one. Namespaces go with their last process, so nothing has to be taken down.
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { decode, encode } from "fast-png";
import { Redis } from "ioredis";
import { sobelOf } from "./pictures.ts";
import { type Program, spawnProgram, startRabbitMQ, startRedis, temporaryFolder } from "./servers.ts";
import {
  describeStacks,
  filesOf,
  type Json,
  resources,
  stub,
  synthesized,
  unitCommand,
  userDataOf,
  VARIABLES,
} from "./stacks.ts";

setDefaultTimeout(180_000);

const PROJECT = join(import.meta.dir, "..");
/** One of the addresses that Google's health probes come from. */
const PROBER = "35.191.0.1";
/** Root as it is, or root of a user namespace. */
const UNSHARE = ["unshare", ...(process.getuid?.() === 0 ? [] : ["--map-root-user"]), "--net"];
const probe = spawnSync(
  UNSHARE[0],
  [...UNSHARE.slice(1), "sh", "-c", "ip link add a0 type veth peer name b0 && nft list ruleset"],
  {
    encoding: "utf8",
  },
);

if (process.env.INSIDE_CLUSTER) inside();
else if (probe.status !== 0) {
  console.error(
    `\n!!! NOT DONE HERE: a worker VM behind its firewall (no namespaces, ip or nft: ${probe.error?.message ?? probe.stderr.trim()})\n`,
  );
} else {
  describeStacks("a worker VM and its cluster", () => {
    test("in two namespaces", async () => {
      const child = spawn(
        UNSHARE[0],
        [...UNSHARE.slice(1), process.execPath, "test", "--timeout", "180000", import.meta.path],
        {
          cwd: PROJECT,
          env: { ...process.env, INSIDE_CLUSTER: "1" },
        },
      );
      let out = "";
      for (const stream of [child.stdout, child.stderr])
        stream.setEncoding("utf8").on("data", (text: string) => {
          out += text;
        });
      const code = await new Promise((resolve) => child.on("close", resolve));
      if (code !== 0) console.error(out);
      expect([code, /^ *(\d+) pass$/m.exec(out)?.[1]]).toEqual([0, "6"]);
    });
  });
}

function inside(): void {
  const PASSWORDS = { rabbitmq: "r4bb1t", redis: "r3d1s" };
  const folder = temporaryFolder("vm");
  const worker = { out: "" };
  let vm: ChildProcess | undefined;
  let docker: ChildProcess | undefined;
  let coordinator: Program;
  let origin: string;
  let rules: Json[];

  /** Runs a command in the VM's namespace, or with input for its stdin. */
  const onVm = (command: string[], input?: string) => {
    const { status, stderr } = spawnSync("nsenter", [`--net=/proc/${vm!.pid}/ns/net`, ...command], {
      input,
      encoding: "utf8",
    });
    return { status, stderr };
  };
  const must = ({ status, stderr }: { status: number | null; stderr: string }) => {
    if (status !== 0) throw new Error(stderr);
  };
  const here = (command: string, input?: string) =>
    must(spawnSync("sh", ["-euc", command], { input, encoding: "utf8" }));

  beforeAll(async () => {
    here("ip link set lo up");
    vm = spawn("setpriv", ["--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]);
    await until(
      () =>
        spawnSync("readlink", [`/proc/${vm!.pid}/ns/net`]).stdout.compare(
          spawnSync("readlink", ["/proc/self/ns/net"]).stdout,
        ) !== 0,
    );
    const [rabbitmq, redis, stacks] = await Promise.all([startRabbitMQ(), startRedis(), synthesized()]);
    await rabbitmq.ctl("add_user", "sobel", PASSWORDS.rabbitmq); // guest may only come from loopback
    await rabbitmq.ctl("set_permissions", "sobel", ".*", ".*", ".*");
    const admin = new Redis(redis.url);
    await admin.config("SET", "requirepass", PASSWORDS.redis);
    admin.disconnect();
    rules = resources(stacks)
      .filter(({ type }) => type === "google_compute_firewall")
      .map(({ body }) => body);

    here(
      `ip link add cluster0 type veth peer name vm0
      ip link set vm0 netns ${vm!.pid}
      ip address add 10.10.0.1/20 dev cluster0
      ip address add ${VARIABLES.rabbitmq_address}/32 dev cluster0
      ip address add ${VARIABLES.redis_address}/32 dev cluster0
      ip address add ${PROBER}/32 dev cluster0
      ip link set cluster0 up
      echo 1 >/proc/sys/net/ipv4/conf/cluster0/route_localnet
      nft -f -`,
      `table ip balancers { chain prerouting { type nat hook prerouting priority dstnat;
        ip daddr ${VARIABLES.rabbitmq_address} tcp dport 5672 dnat to 127.0.0.1:${rabbitmq.port};
        ip daddr ${VARIABLES.redis_address} tcp dport 6379 dnat to 127.0.0.1:${redis.port}; }
      }`,
    );
    must(
      onVm([
        "sh",
        "-euc",
        "ip link set lo up; ip address add 10.10.0.10/20 dev vm0; ip link set vm0 up; ip route add default via 10.10.0.1",
      ]),
    );
    must(onVm(["nft", "-f", "-"], firewall(rules)));

    coordinator = spawnProgram("coordinator.ts", {
      RABBITMQ_URL: `amqp://sobel:${PASSWORDS.rabbitmq}@127.0.0.1:${rabbitmq.port}`,
      REDIS_URL: `redis://:${PASSWORDS.redis}@127.0.0.1:${redis.port}`,
      HOST: "0.0.0.0",
      PORT: "0",
      BAND_PIXELS: "20000", // three bands: as many are in flight without waiting for a worker
    });
    const [, port] = await coordinator.waitFor(/:(\d+)\n/);
    origin = `http://127.0.0.1:${port}`;

    const unit = boot(filesOf(userDataOf(stacks)));
    docker = unit;
    for (const stream of [unit.stdout!, unit.stderr!])
      stream.setEncoding("utf8").on("data", (text: string) => {
        worker.out += text;
      });
    await until(
      () => worker.out.includes("at work"),
      () => worker.out,
    );
  });

  afterAll(() => {
    docker?.kill("SIGKILL");
    vm?.kill("SIGKILL");
  });

  /** The unit's command on the VM, with answers for it as Google's services would give them. */
  function boot(files: Record<string, string>): ChildProcess {
    const bin = join(folder, "bin");
    for (const [path, content] of Object.entries(files)) writeFileSync(join(folder, path.split("/").at(-1)!), content);
    const secret = (password: string) => `echo '{"payload":{"data":"${btoa(password)}"}}'`;
    stub(
      bin,
      "curl",
      `case "$*" in
      *metadata*) echo '{"access_token":"token"}' ;;
      *sobel-rabbitmq-password*) ${secret(PASSWORDS.rabbitmq)} ;;
      *sobel-redis-password*) ${secret(PASSWORDS.redis)} ;;
    esac`,
    );
    stub(bin, "docker-credential-gcr", "");
    // `docker run`: the variables that it is told to pass on, and no others. A silent line is noticed by heartbeats, which
    // would take half a minute: here they are quicker.
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
    const lines = files["/etc/sobel/environment"].trim().split("\n");
    const environment = Object.fromEntries(lines.map((line) => line.split("=")));
    const command = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", `exec ${unitCommand(files, folder)}`];
    return spawn("nsenter", [`--net=/proc/${vm!.pid}/ns/net`, ...command], {
      env: {
        PATH: `${bin}:${process.env.PATH}`,
        RUNTIME_DIRECTORY: folder,
        HOSTNAME: "sobel-worker-x1z2.internal",
        ...environment,
      },
    });
  }

  const photo = { width: 300, height: 200, data: Uint8Array.from({ length: 60_000 }, (_, i) => (i * 7919) >> 3) };
  const edges = sobelOf(photo.data, photo.width, photo.height);
  const png = Buffer.from(encode({ ...photo, channels: 1 }));
  const send = async () => {
    const id = crypto.randomUUID();
    expect((await fetch(`${origin}/jobs/${id}`, { method: "PUT", body: png })).status).toBe(202);
    return id;
  };
  const stateOf = async (id: string) => (await (await fetch(`${origin}/jobs/${id}`)).json()).state as string;
  const expectEdges = async (id: string) => {
    const result = decode(new Uint8Array(await (await fetch(`${origin}/jobs/${id}/result`)).arrayBuffer()));
    expect(Buffer.from(result.data as Uint8Array).equals(edges)).toBe(true);
  };

  describe("inside", () => {
    test("the worker joins the fleet under the VM's name", async () => {
      const { workers } = (await (await fetch(`${origin}/workers`)).json()) as { workers: { name: string }[] };
      expect(workers.map(({ name }) => name)).toEqual(["sobel-worker-x1z2"]);
    });

    test("a job is done by it", async () => {
      const id = await send();
      await until(async () => (await stateOf(id)) === "done");
      await expectEdges(id);
    });

    test("the VM reaches two ports, and no others", () => {
      const reaches = (address: string, port: number | string) =>
        onVm(["timeout", "1", "bash", "-c", `exec 3<>/dev/tcp/${address}/${port}`]).status === 0;
      const { rabbitmq_address, redis_address } = VARIABLES;
      expect([reaches(rabbitmq_address, 5672), reaches(redis_address, 6379)]).toEqual([true, true]);
      // The coordinator listens on all addresses: only the firewall is in the way.
      const port = new URL(origin).port;
      expect([reaches("10.10.0.1", port), reaches(rabbitmq_address, 6379), reaches(redis_address, 5672)]).toEqual([
        false,
        false,
        false,
      ]);
      must(onVm(["nft", "flush", "ruleset"]));
      expect(reaches("10.10.0.1", port)).toBe(true);
      must(onVm(["nft", "-f", "-"], firewall(rules)));
    });

    test("health probes get their answer, and nobody else gets one", async () => {
      /** What `GET /healthz` is answered from an address of the cluster's; nothing where the packets vanish. */
      const probe = (localAddress: string) =>
        new Promise<string>((resolve) => {
          const socket = connect({ host: "10.10.0.10", port: 9090, localAddress });
          socket.setTimeout(1_000, () => socket.destroy());
          socket.on("connect", () => socket.write("GET /healthz HTTP/1.0\r\n\r\n"));
          let answer = "";
          socket.on("data", (text) => {
            answer += text;
          });
          socket.on("error", () => {});
          socket.on("close", () => resolve(answer.split("\r\n")[0]));
        });
      expect(await probe(PROBER)).toMatch(/^HTTP\/1\.[01] 200/);
      expect(await probe("10.10.0.1")).toBe("");
    });

    test("closed ports stop it, which it says; open again, it goes on", async () => {
      must(onVm(["nft", "-f", "-"], `flush ruleset\n${firewall([])}`));
      const said = worker.out.length;
      const id = await send();
      // Packets vanish, as they do at a firewall: only heartbeats show it.
      await until(
        () => /"msg":"RabbitMQ connection lost"/.test(worker.out.slice(said)),
        () => worker.out.slice(said),
        60_000,
      );
      expect(await stateOf(id)).toBe("running");
      must(onVm(["nft", "-f", "-"], `flush ruleset\n${firewall(rules)}`));
      await until(
        async () => (await stateOf(id)) === "done",
        () => worker.out.slice(said),
        90_000,
      );
      await expectEdges(id);
    });

    test("told to end, as by docker stop, it ends well", async () => {
      const ended = new Promise((resolve) => docker!.on("close", resolve));
      docker!.kill("SIGTERM");
      expect(await ended).toBe(0);
      expect(worker.out).toContain("finishing the band in progress");
      for (const password of Object.values(PASSWORDS)) expect(worker.out).not.toContain(password);
    });
  });
}

/** The stack's rules as nftables has them: those outward for what the VM sends, those inward for what it is sent. */
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
    // A VPC's rules know the connections that they have let through; a closed port ends these too.
    const known = rules.length ? ["ct state established,related accept"] : [];
    return `chain ${hook} { type filter hook ${hook} priority filter; policy drop; ${[...known, ...lines, ""].join("; ")} }\n`;
  };
  return `table ip vpc {\n${chain("EGRESS", "output", "daddr")}${chain("INGRESS", "input", "saddr")}}\n`;
}

async function until(met: () => boolean | Promise<boolean>, told: () => string = () => "", ms = 30_000): Promise<void> {
  const deadline = Date.now() + ms;
  while (!(await met())) {
    if (Date.now() > deadline) throw new Error(`not in ${ms} ms: ${met}\n${told()}`);
    await Bun.sleep(50);
  }
}
