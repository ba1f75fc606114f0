// The checks between the files of the deployment: Services without a pod, ports that no container has, settings that no program
// reads. Each check takes a model and returns a sentence for each fault, so that deploy.test.ts can show that it finds one.
//
// Not here: what one file says by itself. The API server and `docker compose` check that, and deploy.test.ts checks all fields
// and their types against the schemas.
import type { Deployment, StatefulSet } from "kubernetes-types/apps/v1";
import type { ConfigMap, Container, EnvVar, PodSpec, Service } from "kubernetes-types/core/v1";
import type { LabelSelector } from "kubernetes-types/meta/v1";
import type { Ingress, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort } from "kubernetes-types/networking/v1";
import { DRAIN_MS, SETTINGS, STOP_MS } from "../ops/settings.ts";
import type { Model, Thing } from "./deployment.ts";
import type { ScaledObject, TriggerAuthentication } from "./extensions.ts";
import { contents } from "./image-contents.ts";

const NAMESPACE = "sobel";
const PROGRAMS: Record<string, "coordinator.ts" | "worker.ts"> = { coordinator: "coordinator.ts", worker: "worker.ts" };
/** How long each program takes to end, at most, seconds. */
const ENDINGS: Record<string, number> = { coordinator: DRAIN_MS / 1000, worker: STOP_MS / 1000 };
/** Read by Bun, its allocator and the packages. */
const RUNTIME_SETTINGS = ["NODE_ENV", "MIMALLOC_PURGE_DELAY", "MIMALLOC_PURGE_HOLES", "BUN_JSC_forceRAMSize"];
/** Read by the images of RabbitMQ and Redis. */
const SERVER_SETTINGS: Record<string, string[]> = {
  rabbitmq: [
    ...["RABBITMQ_DEFAULT_USER", "RABBITMQ_DEFAULT_PASS", "RABBITMQ_USE_LONGNAME", "RABBITMQ_NODENAME"],
    "ERLANG_COOKIE",
  ],
  redis: ["REDISCLI_AUTH"],
  grafana: [
    ...["GF_AUTH_ANONYMOUS_ENABLED", "GF_AUTH_DISABLE_LOGIN_FORM", "GF_AUTH_BASIC_ENABLED"],
    ...[
      "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH",
      "GF_ANALYTICS_REPORTING_ENABLED",
      "GF_ANALYTICS_CHECK_FOR_UPDATES",
    ],
  ],
};

export const CHECKS = {
  names,
  services,
  references,
  settings,
  security,
  memory,
  scaling,
  endings,
  images,
  policies,
};

/** A container of a workload: of most there is one. */
interface Workload {
  name: string;
  labels: Record<string, string>;
  pod: PodSpec;
  container: Container;
}

function all<T>(model: Model, ...kinds: string[]): (T & Thing)[] {
  return model.things.filter(({ thing }) => kinds.includes(thing.kind)).map(({ thing }) => thing as T & Thing);
}

function workloads(model: Model): Workload[] {
  return all<Deployment | StatefulSet>(model, "Deployment", "StatefulSet").flatMap(({ metadata, spec }) => {
    const pod = spec!.template.spec!;
    const labels = spec!.template.metadata?.labels ?? {};
    return pod.containers.map((container) => ({ name: metadata.name, labels, pod, container }));
  });
}

function selects(selector: LabelSelector | undefined, { labels }: Workload): boolean {
  const { matchLabels = {}, matchExpressions = [] } = selector ?? {};
  return (
    Object.entries(matchLabels).every(([key, value]) => labels[key] === value) &&
    matchExpressions.every(({ key, operator, values }) => operator === "In" && values?.includes(labels[key] ?? ""))
  );
}

const hasPort = ({ pod }: Workload, port: string | number) =>
  pod.containers
    .flatMap(({ ports = [] }) => ports)
    .some(({ name, containerPort }) => port === name || port === containerPort);
const label = (thing: Thing) => `${thing.kind}/${thing.metadata.name}`;

/** The namespace comes first, every other object is in it, and no two have the same name. No Secret is in a file. */
function names(model: Model): string[] {
  const faults: string[] = [];
  const seen = new Set<string>();
  if (model.things[0]?.thing.kind !== "Namespace") faults.push("the first file has no Namespace");
  for (const { file, thing } of model.things) {
    const name = label(thing);
    if (seen.has(name)) faults.push(`${file}: a second ${name}`);
    seen.add(name);
    if (thing.kind === "Secret") faults.push(`${file}: ${name} is a Secret in a file`);
    const namespace = thing.kind === "Namespace" ? thing.metadata.name : thing.metadata.namespace;
    if (namespace !== NAMESPACE) faults.push(`${file}: ${name} is in the namespace ${namespace}`);
  }
  return faults;
}

/** A Service selects pods, and all of them have its ports. An Ingress leads to a Service. */
function services(model: Model): string[] {
  const faults: string[] = [];
  for (const service of all<Service>(model, "Service")) {
    const behind = workloads(model).filter((pod) => selects({ matchLabels: service.spec!.selector }, pod));
    if (behind.length === 0) faults.push(`${label(service)} selects no pod`);
    for (const { port, targetPort = port } of service.spec!.ports ?? []) {
      if (!behind.every((pod) => hasPort(pod, targetPort)))
        faults.push(`${label(service)}: no container has port ${targetPort}`);
    }
  }
  for (const ingress of all<Ingress>(model, "Ingress")) {
    for (const { backend } of ingress.spec!.rules!.flatMap(({ http }) => http!.paths)) {
      const service = all<Service>(model, "Service").find(({ metadata }) => metadata.name === backend.service!.name);
      if (!service?.spec?.ports?.some(({ name }) => name === backend.service!.port!.name))
        faults.push(`${label(ingress)}: no Service ${backend.service!.name} with that port`);
    }
  }
  return faults;
}

/** Every ConfigMap and Secret that is referred to exists, and each that exists is referred to. KEDA's URL leads to a Service. */
function references(model: Model): string[] {
  const faults: string[] = [];
  const used = new Set<string>();
  const configs = all<ConfigMap>(model, "ConfigMap").map(({ metadata }) => metadata.name);
  const secret = (what: string, name: string | undefined, key: string) => {
    used.add(`Secret ${name}`);
    if (!model.secrets[name ?? ""]?.includes(key)) faults.push(`${what}: secrets.sh creates no ${name} with ${key}`);
  };
  const config = (what: string, name = "") => {
    used.add(`ConfigMap ${name}`);
    if (!configs.includes(name)) faults.push(`${what}: no ConfigMap ${name}`);
  };
  for (const { name, pod, container } of workloads(model)) {
    for (const { configMapRef } of container.envFrom ?? []) config(name, configMapRef?.name);
    for (const { valueFrom } of container.env ?? []) {
      if (valueFrom?.secretKeyRef) secret(name, valueFrom.secretKeyRef.name, valueFrom.secretKeyRef.key);
    }
    for (const { configMap } of pod.volumes ?? []) if (configMap) config(name, configMap.name);
  }
  for (const { metadata, spec } of all<TriggerAuthentication>(model, "TriggerAuthentication")) {
    for (const { name, key } of spec.secretTargetRef) secret(metadata.name, name, key);
  }
  for (const { spec } of all<ScaledObject>(model, "ScaledObject")) {
    for (const { metadata } of spec.triggers) faults.push(...address(model, metadata.host));
  }
  const existing = configs.map((name) => `ConfigMap ${name}`);
  existing.push(...Object.keys(model.secrets).map((name) => `Secret ${name}`));
  for (const one of existing) if (!used.has(one)) faults.push(`no pod reads ${one}`);
  return faults;
}

/** The hosts and ports of a URL are those of Services, or of pods of a StatefulSet: `redis-0.redis-nodes`. */
function address(model: Model, text: string): string[] {
  const [, hosts = ""] = text.match(/^[\w+]+:\/\/(?:[^@]*@)?([^/?]*)/) ?? [];
  return hosts.split(",").flatMap((one) => {
    const [host, port] = one.split(":");
    const [name, ...rest] = host.split(".");
    const set = all<StatefulSet>(model, "StatefulSet").find(({ spec }) => spec!.serviceName === rest[0]);
    const [, ordinal] = name.match(`^${set?.metadata.name}-(\\d+)$`) ?? [];
    if (set && !(Number(ordinal) < (set.spec!.replicas ?? 1))) return [`${text}: no pod ${name}`];
    const [own, ...domain] = set ? rest : [name, ...rest];
    if (domain.length > 0 && domain.join(".") !== `${NAMESPACE}.svc.cluster.local`)
      return [`${text}: not in the namespace`];
    const service = all<Service>(model, "Service").find(({ metadata }) => metadata.name === own);
    const known = service?.spec?.ports?.some((open) => open.port === Number(port));
    return known ? [] : [`${text}: no Service ${own} with port ${port}`];
  });
}

function reads(name: string, variable: string): boolean {
  const program = PROGRAMS[name];
  if (!program) return SERVER_SETTINGS[name]?.includes(variable) ?? false;
  return RUNTIME_SETTINGS.includes(variable) || (SETTINGS[variable]?.of.includes(program) ?? false);
}

/** Every variable is one that the program reads, or a part of one. URLs lead to a Service. */
function settings(model: Model): string[] {
  const faults: string[] = [];
  const pods = workloads(model);
  for (const { name, container } of pods) {
    const env: EnvVar[] = container.env ?? [];
    const parts = new Set<string>();
    for (const [i, { value = "" }] of env.entries()) {
      for (const [, part] of value.matchAll(/\$\(([^)]+)\)/g)) {
        parts.add(part);
        // Kubernetes leaves the text $(…) in place for a variable that comes later.
        if (!env.slice(0, i).some((one) => one.name === part))
          faults.push(`${name}: $(${part}) is used before it is set`);
      }
      if (/^[\w+]+:\/\//.test(value)) faults.push(...address(model, value));
    }
    for (const one of env) {
      if (!parts.has(one.name) && !reads(name, one.name)) faults.push(`${name} does not read ${one.name}`);
    }
  }
  for (const { metadata, data = {} } of all<ConfigMap>(model, "ConfigMap")) {
    const readers = pods.filter((pod) => pod.container.envFrom?.some((o) => o.configMapRef?.name === metadata.name));
    for (const key of readers.length > 0 ? Object.keys(data) : []) {
      if (!readers.some(({ name }) => reads(name, key)))
        faults.push(`ConfigMap ${metadata.name}: no program reads ${key}`);
    }
  }
  for (const [name, { environment }] of Object.entries(model.compose.services)) {
    for (const [variable, value] of Object.entries(environment ?? {})) {
      if (!reads(name, variable)) faults.push(`compose: ${name} does not read ${variable}`);
      const host = String(value).match(/@([\w-]+):\d+$/)?.[1];
      if (host && !(host in model.compose.services)) faults.push(`compose: no service ${host}`);
    }
  }
  for (const [name, { env }] of Object.entries(model.dockerfiles)) {
    for (const variable of Object.keys(env)) {
      if (!reads(name, variable)) faults.push(`image: ${name} does not read ${variable}`);
    }
  }
  return faults;
}

/** The namespace enforces the Pod Security level `restricted`, so every pod must meet it. */
function security(model: Model): string[] {
  const faults: string[] = [];
  const namespace = model.things[0].thing.metadata.labels ?? {};
  if (namespace["pod-security.kubernetes.io/enforce"] !== "restricted") faults.push("the namespace admits any pod");
  for (const { name, pod, container } of workloads(model)) {
    const { securityContext: own = {} } = container;
    const expect = (fine: unknown, fault: string) => {
      if (!fine) faults.push(`${name}: ${fault}`);
    };
    expect(!pod.initContainers, "has an init container, which is not checked");
    expect(!pod.hostNetwork && !pod.hostPID && !pod.hostIPC, "shares a namespace of the host");
    expect(pod.securityContext?.runAsNonRoot && (pod.securityContext.runAsUser ?? 0) > 0, "runs as root");
    expect(pod.securityContext?.seccompProfile?.type === "RuntimeDefault", "has no seccomp profile");
    expect(own.allowPrivilegeEscalation === false && !own.privileged, "may gain privileges");
    expect(own.capabilities?.drop?.includes("ALL") && !own.capabilities.add, "has capabilities");
  }
  return faults;
}

/** 2Gi, 1GiB, 1gb, 512m: bytes. Redis and Compose mean powers of two by all of them. */
function bytesOf(text: unknown): number {
  const [, number, unit] = String(text ?? "").match(/^(\d+)\s*([kmg]?)(?:i?b?)?$/i) ?? [];
  return Number(number ?? Number.NaN) * 1024 ** ["", "k", "m", "g"].indexOf(unit?.toLowerCase() ?? "");
}

/**
 * RabbitMQ and Redis may use half of their containers' memory, with the same settings in k8s and Compose. Bun gets the limit
 * of its container.
 */
function memory(model: Model): string[] {
  const faults: string[] = [];
  const limits = { rabbitmq: /^vm_memory_high_watermark\.absolute = (\S+)$/m, redis: /^maxmemory (\S+)$/m };
  const bare = (text: string) => text.replaceAll(/^(#.*)?\n/gm, "");
  for (const [name, pattern] of Object.entries(limits)) {
    const config = all<ConfigMap>(model, "ConfigMap").find(({ metadata }) => metadata.name === name);
    const text = config?.data?.[`${name}.conf`] ?? "";
    const most = bytesOf(text.match(pattern)?.[1]);
    const pod = workloads(model).find((one) => one.name === name);
    for (const limit of [pod?.container.resources?.limits?.memory, model.compose.services[name].mem_limit])
      if (!(2 * most <= bytesOf(limit))) faults.push(`${name}: ${most} bytes are more than half of ${limit}`);
    if (bare(text) !== bare(model.compose.configs[name].content))
      faults.push(`${name}: compose has other settings than k8s`);
  }
  const { environment, mem_limit } = model.compose.services.coordinator;
  const { BUN_JSC_forceRAMSize: heap } = environment as Record<string, string>;
  if (Number(heap) !== bytesOf(mem_limit))
    faults.push(`compose: BUN_JSC_forceRAMSize is ${heap}, mem_limit ${mem_limit}`);
  return faults;
}

/** At most one scaler of a Deployment in each folder, none by default, and none beside `replicas`. */
function scaling(model: Model): string[] {
  const faults: string[] = [];
  const scalers = model.things.filter(({ thing }) => ["HorizontalPodAutoscaler", "ScaledObject"].includes(thing.kind));
  const targetOf = ({ thing }: Model["things"][number]) => (thing as ScaledObject).spec.scaleTargetRef.name;
  for (const scaler of scalers) {
    const { folder, thing } = scaler;
    const name = targetOf(scaler);
    const target = all<Deployment>(model, "Deployment").find(({ metadata }) => metadata.name === name);
    if (!target) faults.push(`${label(thing)}: no Deployment ${name}`);
    else if (target.spec!.replicas !== undefined) faults.push(`${label(thing)} conflicts with the replicas of ${name}`);
    if (folder === "k8s") faults.push(`${label(thing)} is applied by default`);
    if (scalers.some((other) => other !== scaler && other.folder === folder && targetOf(other) === name))
      faults.push(`${folder}: two scalers of ${name}`);
  }
  return faults;
}

/** Kubernetes and Compose wait longer than a program takes to end. */
function endings(model: Model): string[] {
  const faults: string[] = [];
  for (const { name, pod, container } of workloads(model).filter((one) => one.name in ENDINGS)) {
    const most = ENDINGS[name];
    const pause = Number(container.lifecycle?.preStop?.exec?.command?.at(-1)?.match(/(\d+)\)$/)?.[1] ?? 0) / 1000;
    if (name === "coordinator" && !(pause >= 3))
      faults.push("coordinator: ends before the Service has removed it from its endpoints");
    const given = pod.terminationGracePeriodSeconds ?? 30;
    if (!(given > pause + most)) faults.push(`${name}: needs ${pause} + ${most} s to end, and has ${given} s`);
    const compose = Number.parseInt(String(model.compose.services[name].stop_grace_period ?? "10s"), 10);
    if (!(compose > most)) faults.push(`compose: ${name} needs ${most} s to end, and has ${compose} s`);
  }
  return faults;
}

/** Dockerfiles, Compose and manifests agree on images, ports and users. An image has the files of its program and no others. */
function images(model: Model): string[] {
  const faults: string[] = [];
  for (const { name, pod, container } of workloads(model)) {
    const compose = model.compose.services[name];
    const user = `${pod.securityContext?.runAsUser}:${pod.securityContext?.runAsGroup}`;
    const image = compose.image?.replace(/\$\{\w+:-(\w*)\}/g, "$1"); // with the defaults of variables
    if (image !== container.image) faults.push(`${name}: ${container.image} in k8s, ${image} in compose`);
    const dockerfile = model.dockerfiles[name];
    if (!dockerfile) {
      if (compose.user !== user) faults.push(`${name}: user ${user} in k8s, ${compose.user} in compose`);
      continue;
    }
    if (dockerfile.user !== user) faults.push(`${name}: user ${user} in k8s, ${dockerfile.user} in the image`);
    if ((compose.build as { dockerfile?: string })?.dockerfile !== `Dockerfile.${name}`)
      faults.push(`compose: ${name} is not built from Dockerfile.${name}`);
    const variable = "PORT" in dockerfile.env ? "PORT" : "METRICS_PORT";
    const numbers = {
      image: Number(dockerfile.env[variable]),
      EXPOSE: dockerfile.exposed,
      env: Number(container.env?.find((one) => one.name === variable)?.value),
      containerPort: container.ports?.[0].containerPort,
      ...(compose.ports && { compose: Number(String(compose.ports[0]).split(":").at(-1)) }),
    };
    if (new Set(Object.values(numbers)).size !== 1) faults.push(`${name}: different ports: ${JSON.stringify(numbers)}`);
    faults.push(...contents(model, name, PROGRAMS[name]));
  }
  return faults;
}

/** Policies deny by default. A connection is allowed on both sides, and docs/kubernetes.md lists exactly the allowed ones. */
function policies(model: Model): string[] {
  const faults: string[] = [];
  const pods = workloads(model);
  const every = all<NetworkPolicy>(model, "NetworkPolicy").filter(
    ({ metadata }) => metadata.name !== "cert-manager", // it is for a pod that cert-manager creates
  );
  const {
    podSelector = {},
    policyTypes,
    ...rules
  } = every.find(({ metadata }) => metadata.name === "deny-all")?.spec ?? {};
  const closed = policyTypes?.length === 2 && Object.keys(podSelector).length === 0 && Object.keys(rules).length === 0;
  if (!closed) faults.push("nothing is denied by default");
  const into = new Set<string>();
  const outOf = new Set<string>();
  for (const policy of every) {
    const own = pods.filter((pod) => selects(policy.spec!.podSelector, pod)).map(({ name }) => name);
    const names = (peers?: NetworkPolicyPeer[]) => peers?.flatMap((peer) => peerNames(pods, peer)) ?? ["anybody"];
    const add = (edges: Set<string>, from: string[], to: string[], ports: NetworkPolicyPort[] = []) => {
      for (const { port = 0 } of ports) {
        const open = to.filter((name) => pods.every((pod) => pod.name !== name || hasPort(pod, port)));
        if (open.length === 0) faults.push(`${label(policy)}: no pod with port ${port}`);
        for (const a of from) for (const b of open) edges.add(`${a} → ${b}:${port}`);
      }
    };
    for (const { from, ports } of policy.spec!.ingress ?? []) add(into, names(from), own, ports);
    for (const { to, ports } of policy.spec!.egress ?? []) add(outOf, own, names(to), ports);
  }
  const isPod = (name: string) => pods.some((pod) => pod.name === name);
  for (const edge of into)
    if (isPod(edge.split(" → ")[0]) && !outOf.has(edge)) faults.push(`${edge}: ingress is allowed, egress is not`);
  for (const edge of outOf)
    if (isPod(edge.split(/ → |:/)[1]) && !into.has(edge)) faults.push(`${edge}: egress is allowed, ingress is not`);
  const allowed = new Set([...into, ...outOf]);
  for (const edge of allowed) if (!model.table.includes(edge)) faults.push(`docs/kubernetes.md does not list ${edge}`);
  for (const edge of model.table)
    if (!allowed.has(edge)) faults.push(`docs/kubernetes.md lists ${edge}, which no policy allows`);
  return faults;
}

function peerNames(pods: Workload[], { podSelector, namespaceSelector, ipBlock }: NetworkPolicyPeer): string[] {
  if (ipBlock) return [ipBlock.cidr];
  if (!namespaceSelector) return pods.filter((pod) => selects(podSelector, pod)).map(({ name }) => name);
  const { matchLabels = {}, matchExpressions = [] } = namespaceSelector;
  const namespaces = [...Object.values(matchLabels), ...matchExpressions.flatMap(({ values = [] }) => values)];
  return podSelector ? ["DNS"] : namespaces.map((name) => `namespace ${name}`);
}
