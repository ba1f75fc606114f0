// The stacks for Google Cloud: the JSON that terraform/main.ts writes, the real Terraform with it (if installed), and the
// start-up of a worker VM.
//
// Not here: the rules of Google's own provider, which needs an account. tsc checks the names and types of all arguments: its
// types are generated from the provider's schema.
//
// biome-ignore-all lint/suspicious/noTemplateCurlyInString: Terraform's expressions look like ours
import { beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { execFile, spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { temporaryFolder } from "./servers.ts";
import {
  describeStacks,
  environmentOf,
  filesOf,
  GIVEN,
  type Json,
  resources,
  SECRETS,
  STACKS,
  stub,
  synthesized,
  TERRAFORM,
  unitCommand,
  userDataOf,
  VARIABLES,
  withoutCloud,
} from "./stacks.ts";

setDefaultTimeout(60_000);

const run = promisify(execFile);

describeStacks("the stacks", () => {
  let stacks: Record<string, Json>;
  beforeAll(async () => {
    stacks = await synthesized();
  });
  const bodies = (type: string) => resources(stacks).filter((each) => each.type === type);
  const body = (type: string, id?: string) => {
    const found = bodies(type).filter((each) => id === undefined || each.id === id);
    expect(found).toHaveLength(1);
    return found[0].body;
  };

  test("have exactly these resources", () => {
    const counts: Record<string, Record<string, number>> = {};
    for (const { stack, type } of resources(stacks)) {
      counts[stack] ??= {};
      counts[stack][type] = (counts[stack][type] ?? 0) + 1;
    }
    expect(counts).toEqual({
      network: {
        google_compute_network: 1,
        google_compute_subnetwork: 1,
        google_compute_router: 1,
        google_compute_router_nat: 1,
        google_dns_managed_zone: 3,
        google_dns_record_set: 6,
      },
      gke: {
        google_container_cluster: 1,
        google_container_node_pool: 1,
        google_artifact_registry_repository: 1,
        google_secret_manager_secret: 2,
        google_service_account: 1,
        google_project_iam_member: 1,
        google_artifact_registry_repository_iam_member: 1,
      },
      firewalls: { google_service_account: 1, google_compute_firewall: 6 },
      workers: {
        google_compute_instance_template: 1,
        google_compute_instance_group_manager: 1,
        google_compute_health_check: 1,
        google_secret_manager_secret_iam_member: 2,
        google_artifact_registry_repository_iam_member: 1,
        google_project_iam_member: 1,
      },
    });
  });

  test("have the outputs that the pipelines read", () => {
    const asked = readdirSync(join(TERRAFORM, "../pipelines"))
      .filter((name) => name.endsWith(".sh"))
      .flatMap((name) => [
        ...readFileSync(join(TERRAFORM, "../pipelines", name), "utf8").matchAll(
          /^ *output \w+ (\w+) (\w+) [\w-]+\.sh\b/gm,
        ),
      ]);
    expect(asked.length).toBeGreaterThan(4);
    for (const [, stack, name] of asked)
      expect([stack, Object.keys(stacks[stack].output)]).toEqual([stack, expect.arrayContaining([name])]);
  });

  test("have a private cluster whose control plane has only a DNS name", () => {
    const cluster = body("google_container_cluster");
    expect(cluster).toMatchObject({
      name: "sobel",
      location: "us-central1-b",
      private_cluster_config: { enable_private_nodes: true },
      control_plane_endpoints_config: {
        dns_endpoint_config: { allow_external_traffic: true },
        ip_endpoints_config: { enabled: false },
      },
      networking_mode: "VPC_NATIVE",
      datapath_provider: "ADVANCED_DATAPATH",
      workload_identity_config: { workload_pool: "my-project-123.svc.id.goog" },
      release_channel: { channel: "REGULAR" },
      enable_shielded_nodes: true,
      remove_default_node_pool: true,
      deletion_protection: false,
    });
    const subnetwork = body("google_compute_subnetwork");
    expect(subnetwork.private_ip_google_access).toBe(true);
    const ranges = subnetwork.secondary_ip_range.map(({ range_name }: Json) => range_name);
    const { cluster_secondary_range_name, services_secondary_range_name } = cluster.ip_allocation_policy;
    expect([cluster_secondary_range_name, services_secondary_range_name]).toEqual(ranges);
    expect([
      subnetwork.ip_cidr_range,
      ...subnetwork.secondary_ip_range.map((range: Json) => range.ip_cidr_range),
    ]).toEqual(["10.10.0.0/20", "10.20.0.0/16", "10.30.0.0/20"]);
    const pool = body("google_container_node_pool");
    expect(pool.autoscaling).toEqual({ total_min_node_count: 1, total_max_node_count: 4, location_policy: "BALANCED" });
    expect(pool.node_config.workload_metadata_config).toEqual({ mode: "GKE_METADATA" });
    expect(pool.node_config.kubelet_config).toMatchObject({ cpu_cfs_quota: true });
  });

  test("give machines their own accounts with few roles, secure boot, and no public address", () => {
    const machines = [
      body("google_container_cluster").node_config,
      body("google_container_node_pool").node_config,
      body("google_compute_instance_template"),
    ];
    const accounts = machines.map(({ service_account }) => service_account.email ?? service_account);
    expect(accounts).toEqual([
      "${google_service_account.nodes.email}",
      "${google_service_account.nodes.email}",
      "${data.terraform_remote_state.cross-stack-reference-input-firewalls.outputs.cross-stack-output-google_service_accountworkersemail}",
    ]);
    for (const { shielded_instance_config } of machines) expect(shielded_instance_config.enable_secure_boot).toBe(true);
    for (const { network_interface } of machines.slice(2))
      expect(network_interface).toEqual([{ subnetwork: expect.any(String) }]);
    const roles = resources(stacks)
      .filter(({ type }) => type.endsWith("_iam_member"))
      .map(({ stack, type, body }) => `${stack} ${type.replace(/google_|_iam_member/g, "")} ${body.role}`);
    expect(roles.sort()).toEqual([
      "gke artifact_registry_repository roles/artifactregistry.reader",
      "gke project roles/container.defaultNodeServiceAccount",
      "workers artifact_registry_repository roles/artifactregistry.reader",
      "workers project roles/logging.logWriter",
      "workers secret_manager_secret roles/secretmanager.secretAccessor",
      "workers secret_manager_secret roles/secretmanager.secretAccessor",
    ]);
  });

  test("allow a worker VM three destinations and two sources, and deny the rest", () => {
    const rules = bodies("google_compute_firewall").map(({ body }) => {
      const { direction, allow, deny, source_ranges, destination_ranges } = body;
      expect(body.target_service_accounts).toEqual(["${google_service_account.workers.email}"]);
      expect([body.target_tags, body.source_tags]).toEqual([undefined, undefined]);
      const what = (allow ?? deny).map(({ protocol, ports = [] }: Json) => [protocol, ...ports].join(" "));
      return [direction, allow ? "allow" : "deny", what.join(), (source_ranges ?? destination_ranges).join()].join(" ");
    });
    expect(rules.sort()).toEqual([
      "EGRESS allow tcp 443 199.36.153.8/30",
      "EGRESS allow tcp 5672 ${var.rabbitmq_address}/32",
      "EGRESS allow tcp 6379 ${var.redis_address}/32",
      "EGRESS deny all 0.0.0.0/0",
      "INGRESS allow tcp 22 35.235.240.0/20",
      "INGRESS allow tcp 9090 35.191.0.0/16,130.211.0.0/22",
    ]);
    const priorities = bodies("google_compute_firewall").map(({ body }) => [body.priority, "deny" in body]);
    expect(priorities.filter(([, denies]) => denies)).toEqual([[65_000, true]]);
  });

  test("resolve Google's names to the addresses that the firewall allows", () => {
    const zones = bodies("google_dns_managed_zone");
    expect(zones.map(({ body }) => [body.dns_name, body.visibility])).toEqual(
      ["gcr.io.", "googleapis.com.", "pkg.dev."].map((name) => [name, "private"]),
    );
    const addresses = bodies("google_dns_record_set").filter(({ body }) => body.type === "A");
    for (const { body } of addresses) expect(body.rrdatas).toEqual([8, 9, 10, 11].map((last) => `199.36.153.${last}`));
  });

  test("replace VMs that fail, and update them one by one", () => {
    const group = body("google_compute_instance_group_manager");
    expect(group).toMatchObject({ target_size: 3, zone: "us-central1-b", base_instance_name: "sobel-worker" });
    expect(group.auto_healing_policies.health_check).toBe("${google_compute_health_check.health.id}");
    expect(group.update_policy).toMatchObject({ type: "PROACTIVE", max_unavailable_fixed: 0 });
    expect(group.depends_on).toHaveLength(4);
    const { http_health_check } = body("google_compute_health_check");
    expect(http_health_check).toEqual({ port: 9090, request_path: "/healthz" });
  });

  test("contain no secret", () => {
    const text = JSON.stringify(stacks);
    for (const secret of Object.values(SECRETS)) expect(text).not.toContain(secret);
    expect(text).not.toMatch(/google_secret_manager_secret_version|secret_data|amqp:\/\/[^$]|BEGIN [A-Z ]*PRIVATE KEY/);
  });

  test("name and label all resources sobel", () => {
    for (const { provider } of Object.values(stacks))
      expect(provider.google[0]).toMatchObject({ project: "my-project-123", default_labels: { app: "sobel" } });
    for (const { body } of resources(stacks))
      for (const key of ["name", "account_id", "repository_id", "secret_id"])
        if (typeof body[key] === "string" && !body[key].includes("${")) expect(body[key]).toMatch(/^sobel/);
  });
});

describeStacks("settings", () => {
  test("reach the stacks", async () => {
    const stacks = await synthesized({
      REGION: "europe-west1",
      ZONE: "europe-west1-d",
      CLUSTER_LOCATION: "europe-west1",
      RELEASE_CHANNEL: "STABLE",
      NODE_MACHINE: "n2-standard-8",
      NODES_MIN: "2",
      NODES_MAX: "9",
      DELETION_PROTECTION: "true",
      WORKERS: "7",
      WORKER_MACHINE: "c3-highcpu-4",
      WORKER_SPOT: "true",
      STATE_BUCKET: "my-state",
    });
    const { gke, workers, network } = stacks;
    const { cluster } = gke.resource.google_container_cluster;
    expect(cluster).toMatchObject({
      location: "europe-west1",
      release_channel: { channel: "STABLE" },
      deletion_protection: true,
    });
    const { pool } = gke.resource.google_container_node_pool;
    expect(pool.autoscaling).toMatchObject({ total_min_node_count: 2, total_max_node_count: 9 });
    expect(pool.node_config.machine_type).toBe("n2-standard-8");
    expect(workers.resource.google_compute_instance_group_manager.group).toMatchObject({
      target_size: 7,
      zone: "europe-west1-d",
    });
    const { template } = workers.resource.google_compute_instance_template;
    expect(template.machine_type).toBe("c3-highcpu-4");
    expect(template.scheduling).toMatchObject({ provisioning_model: "SPOT", automatic_restart: false });
    for (const [name, { terraform }] of Object.entries(stacks))
      expect(terraform.backend).toEqual({ gcs: { bucket: "my-state", prefix: `sobel/${name}` } });
    expect(network.provider.google[0].region).toBe("europe-west1");
    expect(gke.output.registry.value).toBe("europe-west1-docker.pkg.dev/my-project-123/sobel");
  });

  test("choose the system of a VM for its architecture", async () => {
    const arm = await synthesized({ NODE_MACHINE: "t2a-standard-4", WORKER_MACHINE: "t2a-standard-2" });
    const images = [await synthesized(), arm].map(({ workers }) => {
      const { template } = workers.resource.google_compute_instance_template;
      return template.disk[0].source_image.split("/").at(-1);
    });
    expect(images).toEqual(["cos-stable", "cos-arm64-stable"]);
  });

  const wrong: [Record<string, string>, string][] = [
    [{ PROJECT: "" }, "PROJECT: expected the id of your project, such as my-project-123, got nothing"],
    [{ PROJECT: "My Project" }, 'got "My Project"'],
    [{ REGION: "europe" }, 'REGION: expected a region, such as europe-west1, got "europe"'],
    [{ ZONE: "europe-west1-b" }, 'ZONE: expected a zone of us-central1, such as us-central1-b, got "europe-west1-b"'],
    [{ CLUSTER_LOCATION: "us-east1" }, "CLUSTER_LOCATION: expected us-central1 or one of its zones"],
    [{ WORKERS: "three" }, 'WORKERS: expected a whole number from 0 to 1000, got "three"'],
    [{ NODE_MACHINE: "n4-standard-4" }, "NODE_MACHINE: expected a machine type with Persistent Disk"],
    [{ NODE_MACHINE: "t2a-standard-4" }, "WORKER_MACHINE: expected arm64 as of NODE_MACHINE, got e2-standard-2"],
    [{ NODES_MIN: "5" }, "NODES_MAX: expected at least NODES_MIN, 5, got 4"],
    [{ WORKER_SPOT: "yes" }, 'WORKER_SPOT: expected true or false, got "yes"'],
    [{ DELETION_PROTECTION: "1" }, "DELETION_PROTECTION: expected true or false"],
    [{ TAG: "a b" }, "TAG: expected a tag for the images"],
    [{ PAGE_SOURCE_RANGES: "203.0.113.7" }, "PAGE_SOURCE_RANGES: expected ranges"],
    [{ PAGE_SOURCE_RANGES: "300.0.0.0/8" }, "PAGE_SOURCE_RANGES: expected ranges"],
    [{ STATE_BUCKET: "A'; rm -rf ~" }, "STATE_BUCKET: expected the name of a bucket"],
  ];
  const refused = (file: string, env: Record<string, string>) => {
    const given = { PATH: process.env.PATH, ...GIVEN, ...env, CDKTF_OUTDIR: "/dev/null" } as NodeJS.ProcessEnv;
    const args = ["--no-env-file", "run", join(TERRAFORM, file)];
    const { status, stderr } = spawnSync(process.execPath, args, { env: given, encoding: "utf8" });
    return { status, lines: stderr.trim().split("\n") };
  };

  test.each(wrong)("%j is refused by name", (env, message) => {
    expect(refused("settings.ts", env)).toEqual({ status: 1, lines: [expect.stringContaining(message)] });
  });

  test("a wrong one stops terraform/main.ts too, with one line", () => {
    const lines = ['REGION: expected a region, such as europe-west1, got "mars"'];
    expect(refused("main.ts", { REGION: "mars" })).toEqual({ status: 1, lines });
  });
});

describeStacks("the move from cdktf to cdktn", () => {
  // As `"cdktf": "npm:cdktn@0.24.0"` in package.json does: one package under the other's name. With hard links, because the
  // provider's package is large.
  test("needs one line: the types and the stacks stay the same", async () => {
    const folder = join(TERRAFORM, "node_modules/.as-cdktn");
    rmSync(folder, { recursive: true, force: true });
    try {
      mkdirSync(join(folder, "node_modules"), { recursive: true });
      for (const name of readdirSync(TERRAFORM).filter((name) => /\.(ts|sh)$/.test(name)))
        cpSync(join(TERRAFORM, name), join(folder, name));
      const packages = ["@cdktf", "constructs", "cdktn"].map((name) => join(TERRAFORM, "node_modules", name));
      await run("cp", ["-al", ...packages, join(folder, "node_modules")]);
      renameSync(join(folder, "node_modules/cdktn"), join(folder, "node_modules/cdktf"));
      const extended = { extends: join(TERRAFORM, "tsconfig.json"), include: ["*.ts"], exclude: ["node_modules"] };
      writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(extended));
      await run(process.execPath, ["x", "tsc", "-p", folder]);
      const plain = (stacks: Record<string, Json>) =>
        Object.entries(stacks).map(([name, { "//": _, ...rest }]) => [
          name,
          JSON.parse(JSON.stringify(rest).replaceAll(folder, TERRAFORM)),
        ]);
      const [moved, ours] = await Promise.all([synthesized({}, folder), synthesized()]);
      expect(plain(moved)).toEqual(plain(ours));
      expect(moved.network["//"].metadata.version).toBe("0.24.0");
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});

describeStacks("a worker VM", () => {
  let userData: string;
  beforeAll(async () => {
    userData = userDataOf(await synthesized());
  });
  const files = () => filesOf(userData);

  test("has a cloud-config that writes worker.sh unchanged", () => {
    expect(userData).toStartWith("#cloud-config\n");
    const parsed = Bun.YAML.parse(userData) as { write_files: Json[]; runcmd: string[] };
    expect(parsed.write_files.map(({ path, permissions }) => `${permissions} ${path}`)).toEqual([
      "0644 /etc/sobel/environment",
      "0644 /etc/sobel/worker.sh",
      "0644 /etc/systemd/system/sobel-worker.service",
    ]);
    expect(parsed.runcmd).toEqual(["systemctl daemon-reload", "systemctl start --no-block sobel-worker.service"]);
    expect(files()["/etc/sobel/worker.sh"]).toBe(readFileSync(join(TERRAFORM, "worker.sh"), "utf8"));
  });

  test("has a unit that restarts the worker, and gives it 30 s to stop", () => {
    const unit = files()["/etc/systemd/system/sobel-worker.service"];
    expect(unit).toContain("\nRestart=always\n");
    expect(unit).toContain("\nExecStop=/usr/bin/docker stop -t 30 sobel-worker\n");
    const wait = Number(/TimeoutStopSec=(\d+)/.exec(unit)![1]);
    expect(wait).toBeGreaterThan(30);
    expect(unit).toContain("\nExecStart=/bin/bash /etc/sobel/worker.sh\n");
    expect(unit).toContain("\nEnvironmentFile=/etc/sobel/environment\n");
  });

  interface VM {
    code: number | null;
    out: string;
    /** The stubs' calls, with Docker's environment. */
    calls: string[];
  }

  const REPLIES = {
    token: '{"access_token":"ya29.token","expires_in":3599,"token_type":"Bearer"}',
    rabbitmq: `{\n  "name": "projects/1/secrets/sobel-rabbitmq-password/versions/1",\n  "payload": {\n    "data": "${btoa("r4bb1t")}",\n    "dataCrc32c": "1"\n  }\n}\n`,
    redis: `{\n  "name": "x",\n  "payload": {\n    "data": "${btoa("r3d1s")}"\n  }\n}\n`,
  };

  /** Runs the unit's command with stubs for the programs of a VM. @param answers other replies of Google's services */
  function boot(answers: Record<string, string> = {}): VM {
    const folder = temporaryFolder("vm");
    const written = files();
    for (const [path, content] of Object.entries(written))
      writeFileSync(join(folder, path.split("/").at(-1)!), content);
    const bin = join(folder, "bin");
    for (const [name, text] of Object.entries({ ...REPLIES, ...answers })) writeFileSync(join(folder, name), text);
    const reply = (name: string) =>
      `[ -s '${join(folder, name)}' ] && exec /bin/cat '${join(folder, name)}'; echo 'curl: (22) 403' >&2; exit 22`;
    stub(
      bin,
      "curl",
      `echo "curl $* < $(/bin/cat)" >>'${folder}/calls'
case "$*" in
  *metadata.google.internal*) ${reply("token")} ;;
  */my-project-123/secrets/sobel-rabbitmq-password/versions/latest:access) ${reply("rabbitmq")} ;;
  */my-project-123/secrets/sobel-redis-password/versions/latest:access) ${reply("redis")} ;;
esac
exit 99`,
    );
    stub(bin, "docker-credential-gcr", `echo "docker-credential-gcr $* HOME=$HOME" >>'${folder}/calls'`);
    stub(
      bin,
      "docker",
      `echo "docker $*" >>'${folder}/calls'
[ "$1" != pull ] || [ -z "$NO_PULL" ] || exit 1
[ "$1" != run ] || echo "RABBITMQ_URL=$RABBITMQ_URL REDIS_URL=$REDIS_URL" >>'${folder}/calls'`,
    );
    const { status, stdout, stderr } = spawnSync("/bin/sh", ["-c", unitCommand(written, folder)], {
      env: {
        PATH: `${bin}:/usr/bin:/bin`,
        RUNTIME_DIRECTORY: "/run/sobel",
        HOSTNAME: "sobel-worker-x1z2.internal",
        ...environmentOf(written),
        ...answers,
      } as unknown as NodeJS.ProcessEnv,
    });
    const calls = existsSync(join(folder, "calls"))
      ? readFileSync(join(folder, "calls"), "utf8").trim().split("\n")
      : [];
    return { code: status, out: `${stdout}${stderr}`, calls };
  }

  test("reads its passwords, pulls its image, then runs the worker", () => {
    const { code, calls, out } = boot();
    expect([code, out]).toEqual([0, ""]);
    const image = "us-central1-docker.pkg.dev/my-project-123/sobel/sobel-worker:v1";
    expect(calls).toEqual([
      expect.stringMatching(/^curl .*http:\/\/metadata\.google\.internal\S+\/token < Metadata-Flavor: Google$/),
      expect.stringMatching(
        /^curl .*sobel-rabbitmq-password\/versions\/latest:access < Authorization: Bearer ya29\.token$/,
      ),
      expect.stringMatching(
        /^curl .*sobel-redis-password\/versions\/latest:access < Authorization: Bearer ya29\.token$/,
      ),
      "docker-credential-gcr configure-docker --registries us-central1-docker.pkg.dev HOME=/run/sobel",
      `docker pull --quiet ${image}`,
      "docker rm --force sobel-worker",
      `docker run --rm --name sobel-worker --env RABBITMQ_URL --env REDIS_URL --env WORKER_NAME=sobel-worker-x1z2 --env HOST=0.0.0.0 --env METRICS_PORT=9090 --publish 9090:9090 --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges --log-opt max-size=10m --log-opt max-file=2 ${image}`,
      "RABBITMQ_URL=amqp://sobel:r4bb1t@10.10.0.5:5672 REDIS_URL=redis://:r3d1s@10.10.0.6:6379",
    ]);
    // Only root can read an environment; everyone can read a command line.
    for (const call of calls.filter((call) => !call.startsWith("RABBITMQ_URL")))
      expect(call).not.toMatch(/r4bb1t|r3d1s/);
  });

  const broken: [string, Record<string, string>, string][] = [
    ["the metadata server does not answer", { token: "" }, "the metadata server gave no token"],
    ["the metadata server answers something else", { token: "<html>" }, "the metadata server gave no token"],
    ["a secret may not be read", { redis: "" }, "the secret sobel-redis-password could not be read"],
    ["a secret is empty", { rabbitmq: '{"payload":{"data":""}}' }, "the secret sobel-rabbitmq-password is empty"],
    [
      "a secret would break a URL",
      { rabbitmq: '{"payload":{"data":"YS9i"}}' },
      "the secret sobel-rabbitmq-password is empty or has a character that is not allowed in a URL",
    ],
  ];
  test.each(broken)("if %s, it logs that and runs nothing", (_, answers, message) => {
    const { code, out, calls } = boot(answers);
    expect([code, out]).toEqual([1, expect.stringContaining(`sobel-worker: ${message}`)]);
    expect(calls.filter((call) => call.startsWith("docker"))).toEqual([]);
  });

  test("uses the image on its disk if the registry is unavailable", () => {
    const { code, calls } = boot({ NO_PULL: "1" });
    expect([code, calls.at(-2)]).toEqual([0, expect.stringContaining("docker run")]);
    expect(calls).toContain("docker image inspect us-central1-docker.pkg.dev/my-project-123/sobel/sobel-worker:v1");
  });
});

const terraform = spawnSync("terraform", ["version", "-json"], { encoding: "utf8" });
if (terraform.status !== 0)
  console.error("\n!!! NOT DONE HERE: the stacks in the real Terraform (terraform is not installed)\n");
else
  describeStacks("the real Terraform, without a cloud", () => {
    test("initializes and applies the stacks, then has nothing to change, then destroys them", async () => {
      const folder = temporaryFolder("terraform");
      const stacks = await synthesized();
      const expected = userDataOf(stacks);
      const env = { PATH: process.env.PATH, HOME: folder, CHECKPOINT_DISABLE: "1" } as NodeJS.ProcessEnv;
      const call = (name: string, command: string, ...args: string[]) => {
        const variables = Object.keys(stacks[name].variable ?? {}).map((key) => `-var=${key}=${VARIABLES[key]}`);
        const taken = ["plan", "apply", "destroy"].includes(command) ? variables : [];
        return run("terraform", [`-chdir=${join(folder, name)}`, command, ...args, ...taken], { env });
      };
      const initialize = (name: string) => {
        mkdirSync(join(folder, name));
        writeFileSync(join(folder, name, "main.tf.json"), JSON.stringify(withoutCloud(stacks[name], folder)));
        return call(name, "init", "-input=false");
      };
      await Promise.all(STACKS.map(initialize));
      for (const name of STACKS) await call(name, "apply", "-input=false", "-auto-approve"); // this validates too
      // Exit code 2 if it would change something.
      await Promise.all(STACKS.map((name) => call(name, "plan", "-input=false", "-detailed-exitcode")));
      const { stdout } = await call("workers", "output", "-json");
      expect(JSON.parse(stdout)["user-data"].value).toBe(expected);
      const wrong = ["10.10.0", "rabbitmq", "10.10.0.5/32"].map(async (address) => {
        const args = [`-chdir=${join(folder, "firewalls")}`, "plan", "-lock=false", `-var=rabbitmq_address=${address}`];
        const refused = run("terraform", [...args, "-var=redis_address=10.10.0.6"], { env });
        await expect(refused).rejects.toThrow(/rabbitmq_address: expected the IPv4 address/);
      });
      await Promise.all(wrong);
      for (const name of STACKS.toReversed()) await call(name, "destroy", "-input=false", "-auto-approve");
    });
  });
