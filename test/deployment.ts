// All that the project is deployed with, read into one model, and the checks of it: what a schema cannot see, since it is
// between the files. A selector that selects nothing, a port that no container has, a setting that no program reads.
//
// Each check takes a model and gives a sentence for each fault, so that the tests can show that it finds one.
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { DefinitionsService } from "compose-spec-ts";
import type { Deployment, StatefulSet } from "kubernetes-types/apps/v1";
import type { ConfigMap, Container, EnvVar, PodSpec, Probe, Service, ServiceAccount } from "kubernetes-types/core/v1";
import type { LabelSelector, ObjectMeta } from "kubernetes-types/meta/v1";
import type { NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort } from "kubernetes-types/networking/v1";
import type { PodDisruptionBudget } from "kubernetes-types/policy/v1";
import { parse, parseAllDocuments } from "yaml";
import { SETTINGS } from "../ops/settings.ts";
import type { ScaledObject, TriggerAuthentication } from "./keda.ts";

const PROJECT = dirname(dirname(fileURLToPath(import.meta.url)));
const FOLDERS = ["k8s", "k8s/hpa", "k8s/keda", "k8s/public"];
const NAMESPACE = "sobel";
const PROGRAMS: Record<string, "coordinator.ts" | "worker.ts"> = { coordinator: "coordinator.ts", worker: "worker.ts" };
/** What others' images read. */
const FOREIGN_SETTINGS: Record<string, string[]> = {
  rabbitmq: ["RABBITMQ_DEFAULT_USER", "RABBITMQ_DEFAULT_PASS"],
  redis: ["REDISCLI_AUTH"],
};

export interface Thing {
  apiVersion: string;
  kind: string;
  metadata: ObjectMeta & { name: string };
}

interface Compose {
  services: Record<string, DefinitionsService & { configs?: { source: string; target: string }[] }>;
  networks: Record<string, unknown>;
  volumes: Record<string, unknown>;
  configs: Record<string, { content: string }>;
}

interface Dockerfile {
  text: string;
  /** What comes from the project. */
  copied: string[];
  env: Record<string, string>;
  exposed: number;
  user: string;
  entrypoint: string[];
  healthcheck: string[];
}

export interface Model {
  /** In the order in which kubectl takes them; `folder` is what has to be named for it. */
  things: { folder: string; file: string; thing: Thing }[];
  compose: Compose;
  dockerfiles: Record<string, Dockerfile>;
  dockerignore: string;
  /** Keys of the Secrets that k8s/secrets.sh makes. */
  secrets: Record<string, string[]>;
  /** Who may talk to whom, as docs/kubernetes.md has it. */
  table: string[];
  bunVersion: string;
  /** How long each program takes to end at most, seconds. */
  endings: Record<string, number>;
}

const read = (file: string) => readFileSync(join(PROJECT, file), "utf8");

export function readModel(): Model {
  const things = FOLDERS.flatMap((folder) => {
    const files = readdirSync(join(PROJECT, folder)).filter((file) => file.endsWith(".yaml"));
    return files.sort().flatMap((name) => {
      const file = `${folder}/${name}`;
      return parseAllDocuments(read(file)).map((document) => {
        if (document.errors.length > 0) throw new Error(`${file}: ${document.errors[0]}`);
        return { folder, file, thing: document.toJS() as Thing };
      });
    });
  });
  const secrets: Record<string, string[]> = {};
  for (const [, name, rest] of read("k8s/secrets.sh").matchAll(/^secret (\S+) (.*)$/gm)) {
    secrets[name] = rest.split(" ").filter((_, i) => i % 2 === 0);
  }
  const constant = (file: string, name: string) => {
    return (
      Number(
        read(file)
          .match(new RegExp(`^const ${name} = ([\\d_]+);`, "m"))?.[1]
          .replaceAll("_", ""),
      ) / 1000
    );
  };
  return {
    things,
    compose: parse(read("compose.yaml"), { merge: true }) as Compose,
    dockerfiles: {
      coordinator: readDockerfile("Dockerfile.coordinator"),
      worker: readDockerfile("Dockerfile.worker"),
    },
    dockerignore: read(".dockerignore"),
    secrets,
    table: readTable(),
    bunVersion: read("pipelines/lib.sh").match(/^BUN_VERSION=(\S+)/m)![1],
    endings: { coordinator: constant("coordinator.ts", "DRAIN_MS"), worker: constant("worker.ts", "STOP_MS") },
  };
}

function readDockerfile(file: string): Dockerfile {
  const text = read(file);
  const last = text.slice(text.lastIndexOf("\nFROM ")).replaceAll("\\\n", " ");
  const all = (word: string) => [...last.matchAll(new RegExp(`^${word} +(.*)$`, "gm"))].map(([, rest]) => rest.trim());
  const env = all("ENV").flatMap((line) => line.split(/ +/).map((pair) => pair.split("=") as [string, string]));
  const command = all("HEALTHCHECK")[0]?.match(/CMD (.*)$/)?.[1] ?? "[]";
  return {
    text,
    copied: all("COPY")
      .filter((line) => !line.startsWith("--from"))
      .flatMap((line) => line.split(/ +/).slice(0, -1)),
    env: Object.fromEntries(env),
    exposed: Number(all("EXPOSE")[0]),
    user: all("USER").at(-1) ?? "",
    entrypoint: JSON.parse(all("ENTRYPOINT")[0] ?? "[]"),
    healthcheck: JSON.parse(command),
  };
}

/** The rows of the table in docs/kubernetes.md as `from → to:port`, one for each pair. */
function readTable(): string[] {
  const rows = [...read("docs/kubernetes.md").matchAll(/^\| ([^|]+) \| ([^|]+) \| (\d+)[^|]* \|$/gm)];
  return rows.flatMap(([, from, to, port]) => {
    const plain = from.replaceAll("`", "").replace(/ \(.*\)/, "");
    return plain.split(", ").map((one) => `${one} → ${to.replaceAll("`", "")}:${port}`);
  });
}

/** The files that a program needs: itself, and whatever it reaches by import or by address. */
function reached(entry: string, seen = new Set<string>()): Set<string> {
  if (seen.has(entry)) return seen;
  seen.add(entry);
  if (entry.endsWith("/")) {
    for (const name of readdirSync(join(PROJECT, entry))) reached(join(entry, name), seen);
  }
  if (!entry.endsWith(".ts")) return seen;
  // What a file does as a program of its own is not needed by those that import it.
  const text = read(entry).replace(/^if \(import\.meta\.main\).*$/gm, "");
  const imports = /^(?:import|export) (?!type )[^;]*?from "(\.[^"]+)"|import\("(\.[^"]+)"\)/gm;
  const addresses = /new URL\("([^"]+)", import\.meta\.url\)/g;
  for (const pattern of [imports, addresses]) {
    for (const [, one, other] of text.matchAll(pattern)) {
      const path = join(dirname(entry), one ?? other);
      reached(one === "." ? `${path}/` : path, seen);
    }
  }
  return seen;
}

interface Workload {
  name: string;
  kind: string;
  labels: Record<string, string>;
  pod: PodSpec;
  container: Container;
  object: Deployment | StatefulSet;
}

function all<T>(model: Model, ...kinds: string[]): (T & Thing)[] {
  return model.things.filter(({ thing }) => kinds.includes(thing.kind)).map(({ thing }) => thing as T & Thing);
}

function workloads(model: Model): Workload[] {
  return all<Deployment | StatefulSet>(model, "Deployment", "StatefulSet").map((object) => {
    const pod = object.spec!.template.spec!;
    const labels = object.spec!.template.metadata?.labels ?? {};
    return { name: object.metadata.name, kind: object.kind, labels, pod, container: pod.containers[0], object };
  });
}

function selects(selector: LabelSelector | undefined, labels: Record<string, string>): boolean {
  const { matchLabels = {}, matchExpressions = [] } = selector ?? {};
  return (
    Object.entries(matchLabels).every(([key, value]) => labels[key] === value) &&
    matchExpressions.every(({ key, operator, values }) => operator === "In" && values?.includes(labels[key] ?? ""))
  );
}

const containerPorts = ({ container }: Workload) => container.ports ?? [];
const label = (thing: Thing) => `${thing.kind}/${thing.metadata.name}`;

/** Every object once, in the namespace, under the recommended labels; the namespace first; no Secret in a file. */
function names(model: Model): string[] {
  const faults: string[] = [];
  const seen = new Set<string>();
  if (model.things[0]?.thing.kind !== "Namespace") faults.push("the first file has no Namespace");
  for (const { file, thing } of model.things) {
    const name = label(thing);
    if (seen.has(name)) faults.push(`${file}: ${name} is there twice`);
    seen.add(name);
    if (thing.kind === "Secret") faults.push(`${file}: ${name} is a secret in a file`);
    const namespace = thing.kind === "Namespace" ? thing.metadata.name : thing.metadata.namespace;
    if (namespace !== NAMESPACE) faults.push(`${file}: ${name} is in the namespace ${namespace}`);
    if (thing.metadata.labels?.["app.kubernetes.io/part-of"] !== "sobel")
      faults.push(`${file}: ${name} has no part-of`);
  }
  return faults;
}

/** Whatever selects pods selects some. */
function selectors(model: Model): string[] {
  const faults: string[] = [];
  const pods = workloads(model);
  const expect = (what: string, selector: LabelSelector | undefined, among = pods) => {
    if (!among.some(({ labels }) => selects(selector, labels))) faults.push(`${what} selects no pod`);
  };
  for (const pod of pods) expect(`${pod.kind}/${pod.name}`, pod.object.spec!.selector, [pod]);
  for (const { pod, name } of pods) {
    for (const { labelSelector } of pod.topologySpreadConstraints ?? []) expect(`spread of ${name}`, labelSelector);
  }
  for (const service of all<Service>(model, "Service")) expect(label(service), { matchLabels: service.spec!.selector });
  for (const budget of all<PodDisruptionBudget>(model, "PodDisruptionBudget")) {
    expect(label(budget), budget.spec!.selector);
  }
  for (const policy of all<NetworkPolicy>(model, "NetworkPolicy")) {
    expect(label(policy), policy.spec!.podSelector);
    const peers = [
      ...(policy.spec!.ingress ?? []).map(({ from }) => from),
      ...(policy.spec!.egress ?? []).map(({ to }) => to),
    ];
    for (const { podSelector, namespaceSelector } of peers.flatMap((some) => some ?? [])) {
      if (!namespaceSelector && podSelector) expect(`a peer of ${label(policy)}`, podSelector);
    }
  }
  return faults;
}

/** Every port that is named or numbered somewhere is one that a container has. */
function ports(model: Model): string[] {
  const faults: string[] = [];
  const pods = workloads(model);
  const has = (pod: Workload, port: string | number) =>
    containerPorts(pod).some(({ name, containerPort }) => port === name || port === containerPort);
  for (const pod of pods) {
    for (const kind of ["startupProbe", "livenessProbe", "readinessProbe"] as const) {
      const probe: Probe | undefined = pod.container[kind];
      const port = probe?.httpGet?.port ?? probe?.tcpSocket?.port;
      if (port !== undefined && !has(pod, port)) faults.push(`${kind} of ${pod.name}: no port ${port}`);
    }
  }
  for (const service of all<Service>(model, "Service")) {
    const behind = pods.filter(({ labels }) => selects({ matchLabels: service.spec!.selector }, labels));
    for (const { port, targetPort = port } of service.spec!.ports ?? []) {
      if (!behind.every((pod) => has(pod, targetPort)))
        faults.push(`${label(service)}: no port ${targetPort} behind it`);
    }
  }
  for (const policy of all<NetworkPolicy>(model, "NetworkPolicy")) {
    const subjects = pods.filter(({ labels }) => selects(policy.spec!.podSelector, labels));
    const expect = (some: Workload[], rulePorts: NetworkPolicyPort[] | undefined) => {
      for (const { port = 0 } of rulePorts ?? []) {
        if (!some.some((pod) => has(pod, port))) faults.push(`${label(policy)}: no port ${port} there`);
      }
    };
    for (const { ports } of policy.spec!.ingress ?? []) expect(subjects, ports);
    for (const { to = [], ports } of policy.spec!.egress ?? []) {
      for (const { podSelector, namespaceSelector } of to) {
        if (!namespaceSelector)
          expect(
            pods.filter(({ labels }) => selects(podSelector, labels)),
            ports,
          );
      }
    }
  }
  return faults;
}

/** Whatever is named by another object exists, and whatever exists to be named is. */
function references(model: Model): string[] {
  const faults: string[] = [];
  const used = new Set<string>();
  const configs = new Map(
    all<ConfigMap>(model, "ConfigMap").map((config) => [config.metadata.name, config.data ?? {}]),
  );
  const secret = (what: string, name: string | undefined, key: string) => {
    used.add(`secret ${name}`);
    if (!model.secrets[name ?? ""]?.includes(key)) faults.push(`${what}: secrets.sh makes no ${name} with ${key}`);
  };
  const config = (what: string, name: string | undefined, key?: string) => {
    used.add(`config ${name}`);
    const data = configs.get(name ?? "");
    if (!data) faults.push(`${what}: no ConfigMap ${name}`);
    else if (key && !(key in data)) faults.push(`${what}: no key ${key} in ConfigMap ${name}`);
  };
  const accounts = all<ServiceAccount>(model, "ServiceAccount").map(({ metadata }) => metadata.name);
  const claims = all<Thing>(model, "PersistentVolumeClaim").map(({ metadata }) => metadata.name);
  const services = new Map(all<Service>(model, "Service").map((service) => [service.metadata.name, service.spec!]));
  for (const { name, pod, container, object, kind } of workloads(model)) {
    used.add(`account ${pod.serviceAccountName}`);
    if (!accounts.includes(pod.serviceAccountName ?? ""))
      faults.push(`${name}: no ServiceAccount ${pod.serviceAccountName}`);
    for (const { configMapRef } of container.envFrom ?? []) config(name, configMapRef?.name);
    for (const { valueFrom } of container.env ?? []) {
      if (valueFrom?.secretKeyRef) secret(name, valueFrom.secretKeyRef.name, valueFrom.secretKeyRef.key);
      if (valueFrom?.configMapKeyRef) config(name, valueFrom.configMapKeyRef.name, valueFrom.configMapKeyRef.key);
    }
    const volumes = new Set(pod.volumes?.map((volume) => volume.name));
    for (const { persistentVolumeClaim } of pod.volumes ?? []) {
      const claim = persistentVolumeClaim?.claimName;
      used.add(`claim ${claim}`);
      if (claim && !claims.includes(claim)) faults.push(`${name}: no PersistentVolumeClaim ${claim}`);
    }
    const mounts = container.volumeMounts ?? [];
    for (const { name: volume, subPath } of mounts) {
      if (!volumes.has(volume)) faults.push(`${name}: no volume ${volume}`);
      const map = pod.volumes?.find((one) => one.name === volume)?.configMap;
      if (map) config(name, map.name, subPath);
    }
    for (const volume of volumes)
      if (!mounts.some((mount) => mount.name === volume)) faults.push(`${name}: ${volume} is not mounted`);
    if (kind === "StatefulSet" && services.get((object as StatefulSet).spec!.serviceName)?.clusterIP !== "None") {
      faults.push(`${name}: no headless Service ${(object as StatefulSet).spec!.serviceName}`);
    }
  }
  for (const { metadata, spec } of all<TriggerAuthentication>(model, "TriggerAuthentication")) {
    for (const { name, key } of spec.secretTargetRef) secret(metadata.name, name, key);
  }
  const authentications = all<TriggerAuthentication>(model, "TriggerAuthentication").map(
    ({ metadata }) => metadata.name,
  );
  for (const { spec } of all<ScaledObject>(model, "ScaledObject")) {
    for (const { authenticationRef, metadata } of spec.triggers) {
      if (!authentications.includes(authenticationRef.name))
        faults.push(`no TriggerAuthentication ${authenticationRef.name}`);
      faults.push(...address(model, metadata.host));
    }
  }
  for (const name of configs.keys()) if (!used.has(`config ${name}`)) faults.push(`nobody reads ConfigMap ${name}`);
  for (const name of accounts) if (!used.has(`account ${name}`)) faults.push(`nobody is ServiceAccount ${name}`);
  for (const name of claims) if (!used.has(`claim ${name}`)) faults.push(`nobody keeps data in ${name}`);
  for (const name of Object.keys(model.secrets))
    if (!used.has(`secret ${name}`)) faults.push(`nobody reads Secret ${name}`);
  return faults;
}

/** The server and the port of an address are those of a Service. */
function address(model: Model, text: string): string[] {
  const [, host, port] = text.match(/^\w+:\/\/(?:.*@)?([\w.-]+):(\d+)/) ?? [];
  const [name, ...rest] = (host ?? "").split(".");
  if (rest.length > 0 && rest.join(".") !== `${NAMESPACE}.svc.cluster.local`) return [`${text}: not in the namespace`];
  const service = all<Service>(model, "Service").find(({ metadata }) => metadata.name === name);
  const known = service?.spec?.ports?.some((one) => one.port === Number(port));
  return known ? [] : [`${text}: no Service ${name} with the port ${port}`];
}

/** Every environment variable is one that the program reads, or a part of one; addresses lead somewhere. */
function settings(model: Model): string[] {
  const faults: string[] = [];
  const reads = (name: string, variable: string) =>
    PROGRAMS[name] ? SETTINGS[variable]?.of.includes(PROGRAMS[name]) : FOREIGN_SETTINGS[name]?.includes(variable);
  const pods = workloads(model);
  for (const { name, container } of pods) {
    const env: EnvVar[] = container.env ?? [];
    const parts = new Set<string>();
    for (const [i, { value = "" }] of env.entries()) {
      for (const [, part] of value.matchAll(/\$\(([^)]+)\)/g)) {
        parts.add(part);
        if (!env.slice(0, i).some((one) => one.name === part))
          faults.push(`${name}: $(${part}) is not set before it is used`);
      }
      if (/^\w+:\/\//.test(value)) faults.push(...address(model, value));
    }
    for (const one of env) {
      if (!parts.has(one.name) && !reads(name, one.name)) faults.push(`${name} does not read ${one.name}`);
    }
  }
  for (const { metadata, data } of all<ConfigMap>(model, "ConfigMap")) {
    const readers = pods.filter(({ container }) =>
      container.envFrom?.some((one) => one.configMapRef?.name === metadata.name),
    );
    if (readers.length === 0) continue;
    for (const key of Object.keys(data ?? {})) {
      if (!readers.some(({ name }) => reads(name, key))) faults.push(`ConfigMap ${metadata.name}: nobody reads ${key}`);
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
      if (variable !== "NODE_ENV" && !reads(name, variable)) faults.push(`image: ${name} does not read ${variable}`);
    }
  }
  return faults;
}

/** Pod Security level `restricted`, a read-only root, no token, and memory that is asked for and limited. */
function hardening(model: Model): string[] {
  const faults: string[] = [];
  const namespace = model.things[0].thing.metadata.labels ?? {};
  if (namespace["pod-security.kubernetes.io/enforce"] !== "restricted") faults.push("the namespace takes any pod");
  for (const { metadata, ...account } of all<ServiceAccount>(model, "ServiceAccount")) {
    if (account.automountServiceAccountToken !== false) faults.push(`ServiceAccount ${metadata.name} has a token`);
  }
  for (const { name, pod, container } of workloads(model)) {
    const { securityContext: own = {}, resources = {}, image = "" } = container;
    const expect = (fine: unknown, fault: string) => {
      if (!fine) faults.push(`${name}: ${fault}`);
    };
    expect(
      pod.containers.length === 1 && !pod.initContainers,
      "more than one container, and only the first is checked",
    );
    expect(pod.automountServiceAccountToken === false, "has a token");
    expect(!pod.hostNetwork && !pod.hostPID && !pod.hostIPC, "shares a namespace of the host");
    expect(pod.securityContext?.runAsNonRoot && (pod.securityContext.runAsUser ?? 0) > 0, "runs as root");
    expect(pod.securityContext?.seccompProfile?.type === "RuntimeDefault", "no seccomp profile");
    expect(own.allowPrivilegeEscalation === false && !own.privileged, "may gain privileges");
    expect(own.readOnlyRootFilesystem, "its root can be written");
    expect(own.capabilities?.drop?.includes("ALL") && !own.capabilities.add, "has capabilities");
    expect(resources.requests?.cpu && resources.requests.memory, "asks for nothing");
    expect(
      bytesOf(resources.limits?.memory) >= bytesOf(resources.requests?.memory),
      "no limit of memory, or one below what it asks for",
    );
    expect(/:[^:]*\w$/.test(image) && !image.endsWith(":latest"), `no version: ${image}`);
    expect(container.livenessProbe && container.readinessProbe, "no probes");
  }
  for (const [name, service] of Object.entries(model.compose.services)) {
    const closed = service.read_only === true && service.cap_drop?.includes("ALL");
    if (!closed || !service.security_opt?.includes("no-new-privileges:true"))
      faults.push(`compose: ${name} is not hardened`);
    if (!service.mem_limit) faults.push(`compose: ${name} has no limit of memory`);
    for (const port of service.ports ?? []) {
      if (!String(port).startsWith("127.0.0.1:")) faults.push(`compose: ${name} is open to other machines`);
    }
  }
  return faults;
}

/** 2Gi, 1GiB, 1gb, 512m: bytes. Redis and Compose mean powers of two by all of them. */
function bytesOf(text: string | number | undefined): number {
  const [, number, unit] = String(text ?? "").match(/^(\d+)\s*([kmg]?)(?:i?b?)?$/i) ?? [];
  return Number(number ?? Number.NaN) * 1024 ** ["", "k", "m", "g"].indexOf(unit?.toLowerCase() ?? "");
}

/** What RabbitMQ and Redis may take of memory is half of what their containers may; the settings are the same everywhere. */
function memory(model: Model): string[] {
  const faults: string[] = [];
  const told = { rabbitmq: /^vm_memory_high_watermark\.absolute = (\S+)$/m, redis: /^maxmemory (\S+)$/m };
  for (const [name, pattern] of Object.entries(told)) {
    const [text = ""] = all<ConfigMap>(model, "ConfigMap")
      .filter((one) => one.metadata.name === name)
      .map((one) => Object.values(one.data ?? {})[0]);
    const limits = [
      workloads(model).find((one) => one.name === name)?.container.resources?.limits?.memory,
      model.compose.services[name].mem_limit as string,
    ];
    const most = bytesOf(text.match(pattern)?.[1]);
    for (const limit of limits)
      if (!(2 * most <= bytesOf(limit))) faults.push(`${name}: ${most} bytes are more than half of ${limit}`);
    const bare = (lines: string) =>
      lines
        .split("\n")
        .filter((line) => line !== "" && !line.startsWith("#"))
        .join("\n");
    if (bare(text) !== bare(model.compose.configs[name].content))
      faults.push(`${name}: compose has other settings than k8s`);
  }
  return faults;
}

/** One scaler for a Deployment at most in what is applied at once, none by default, and none that fights `replicas`. */
function scaling(model: Model): string[] {
  const faults: string[] = [];
  const deployments = all<Deployment>(model, "Deployment");
  for (const { folder, thing } of model.things) {
    if (thing.kind !== "HorizontalPodAutoscaler" && thing.kind !== "ScaledObject") continue;
    const { name } = (thing as ScaledObject).spec.scaleTargetRef;
    const target = deployments.find(({ metadata }) => metadata.name === name);
    if (!target) faults.push(`${label(thing)}: no Deployment ${name}`);
    else if (target.spec!.replicas !== undefined) faults.push(`${label(thing)} fights the replicas of ${name}`);
    if (folder === "k8s") faults.push(`${label(thing)} is applied with everything else`);
    if (model.things.some((one) => one.folder === folder && one.thing !== thing && isScalerOf(one.thing, name)))
      faults.push(`${folder}: two scalers of ${name}`);
  }
  return faults;
}

function isScalerOf(thing: Thing, name: string): boolean {
  const scaler = thing.kind === "HorizontalPodAutoscaler" || thing.kind === "ScaledObject";
  return scaler && (thing as ScaledObject).spec.scaleTargetRef.name === name;
}

/** A pod that is told to end is given the time that its program takes for it. */
function endings(model: Model): string[] {
  const faults: string[] = [];
  for (const { name, pod, container } of workloads(model)) {
    const most = model.endings[name];
    if (most === undefined) continue;
    const pause = Number(container.lifecycle?.preStop?.exec?.command?.at(-1)?.match(/(\d+)\)$/)?.[1] ?? 0) / 1000;
    if (name === "coordinator" && !(pause >= 3)) faults.push("coordinator: ends before the Service has forgotten it");
    const given = pod.terminationGracePeriodSeconds ?? 30;
    if (!(given > pause + most))
      faults.push(`${name}: ${given} s are less than the ${pause} + ${most} s that it takes`);
    const compose = Number.parseInt(String(model.compose.services[name].stop_grace_period ?? "10s"), 10);
    if (!(compose > most)) faults.push(`compose: ${compose} s are less than the ${most} s that ${name} takes`);
  }
  return faults;
}

/** Dockerfiles, Compose and manifests mean the same images and ports; an image has what its program needs and no more. */
function images(model: Model): string[] {
  const faults: string[] = [];
  for (const { name, pod, container } of workloads(model)) {
    const compose = model.compose.services[name];
    if (compose?.image !== container.image)
      faults.push(`${name}: ${container.image} here, ${compose?.image} in compose`);
    const dockerfile = model.dockerfiles[name];
    if (!dockerfile) continue;
    if ((compose.build as { dockerfile?: string })?.dockerfile !== `Dockerfile.${name}`)
      faults.push(`compose: ${name} is not built of its Dockerfile`);
    const listens = Number(dockerfile.env.PORT ?? dockerfile.env.METRICS_PORT);
    const [{ containerPort }] = container.ports ?? [{ containerPort: 0 }];
    const told = Number(container.env?.find((one) => one.name === "PORT" || one.name === "METRICS_PORT")?.value);
    if (new Set([dockerfile.exposed, listens, containerPort, told]).size !== 1) {
      faults.push(
        `${name}: it listens on ${told}, the image on ${listens}, exposed are ${dockerfile.exposed} and ${containerPort}`,
      );
    }
    const published = String(compose.ports?.[0] ?? `:${listens}`)
      .split(":")
      .at(-1);
    if (Number(published) !== listens) faults.push(`compose: ${name} publishes ${published}`);
    if (dockerfile.user !== `${pod.securityContext?.runAsUser}:${pod.securityContext?.runAsGroup}`)
      faults.push(`${name}: the image's user is ${dockerfile.user}`);
    faults.push(...contents(model, name, dockerfile));
  }
  for (const name of ["rabbitmq", "redis"]) {
    const user = workloads(model).find((one) => one.name === name)?.pod.securityContext?.runAsUser;
    if (model.compose.services[name].user !== `${user}:${user}`)
      faults.push(`compose: ${name} is another user than in k8s`);
  }
  return faults;
}

function contents(model: Model, name: string, dockerfile: Dockerfile): string[] {
  const faults: string[] = [];
  const file = `Dockerfile.${name}`;
  const [runtime, entry] = dockerfile.entrypoint;
  if (runtime !== "bun" || entry !== PROGRAMS[name]) faults.push(`${file}: starts ${dockerfile.entrypoint.join(" ")}`);
  if (dockerfile.healthcheck[0] !== "bun") faults.push(`${file}: no HEALTHCHECK in exec form`);
  const versions = dockerfile.text.match(/^ARG BUN_VERSION=(.*)$/m)?.[1];
  if (versions !== model.bunVersion) faults.push(`${file}: Bun ${versions}, tested with ${model.bunVersion}`);
  const bases = [...dockerfile.text.matchAll(/^FROM (\S+)/gm)].filter(
    ([, from]) => !/^oven\/bun:\$\{BUN_VERSION\}-/.test(from),
  );
  for (const [, from] of bases) faults.push(`${file}: from ${from}`);
  const needed = [...reached(PROGRAMS[name]), "package.json"].filter((one) => !one.endsWith("/"));
  const brings = (copied: string, one: string) => one === copied || (copied.endsWith("/") && one.startsWith(copied));
  for (const one of needed) {
    if (!dockerfile.copied.some((copied) => brings(copied, one)))
      faults.push(`${file}: add ${one}, which ${entry} needs`);
  }
  for (const copied of dockerfile.copied) {
    if (!needed.some((one) => brings(copied, one))) faults.push(`${file}: ${copied} is not needed`);
  }
  const patterns = model.dockerignore.split("\n").filter((line) => line.startsWith("!"));
  const admitted = patterns.map(
    (line) => new RegExp(`^${line.slice(1).replaceAll(".", "\\.").replaceAll("*", "[^/]*")}$`),
  );
  for (const one of dockerfile.copied) {
    if (!admitted.some((pattern) => pattern.test(one))) faults.push(`.dockerignore keeps ${one} out`);
  }
  return faults;
}

/** Everything in Compose that is named exists there, and everybody waits for what they need. */
function compose(model: Model): string[] {
  const faults: string[] = [];
  const { services, networks, volumes, configs } = model.compose;
  for (const [name, service] of Object.entries(services)) {
    for (const one of (service.networks as string[] | undefined) ?? [])
      if (!(one in networks)) faults.push(`${name}: no network ${one}`);
    for (const one of service.volumes ?? [])
      if (!(String(one).split(":")[0] in volumes)) faults.push(`${name}: no volume ${one}`);
    for (const { source } of service.configs ?? [])
      if (!(source in configs)) faults.push(`${name}: no config ${source}`);
    for (const [other, { condition }] of Object.entries(
      (service.depends_on ?? {}) as Record<string, { condition: string }>,
    )) {
      if (condition !== "service_healthy") faults.push(`${name}: does not wait until ${other} is healthy`);
      if (!services[other]?.healthcheck?.test) faults.push(`${name}: ${other} has no health check`);
    }
    for (const other of ["rabbitmq", "redis"]) {
      if (PROGRAMS[name] && !(other in ((service.depends_on ?? {}) as object)))
        faults.push(`${name}: does not wait for ${other}`);
    }
    for (const value of Object.values(service.environment ?? {})) {
      if (/\$\{\w*(PASSWORD|PASS)\b(?!:\?)/.test(String(value))) faults.push(`${name}: an empty password is taken`);
    }
  }
  return faults;
}

/** Who may talk to whom, by the policies: `from → to:port`. What one side allows the other must too. */
function policies(model: Model): string[] {
  const faults: string[] = [];
  const pods = workloads(model);
  const [deny] = all<NetworkPolicy>(model, "NetworkPolicy");
  const { podSelector, policyTypes, ...rules } = deny?.spec ?? { podSelector: { matchLabels: {} } };
  const closed = policyTypes?.length === 2 && Object.keys(podSelector).length === 0 && Object.keys(rules).length === 0;
  if (!closed) faults.push("nothing is denied by default");
  const [into, outOf] = [new Set<string>(), new Set<string>()];
  const add = (
    to: Set<string>,
    policy: NetworkPolicy,
    direction: "in" | "out",
    peers: NetworkPolicyPeer[] | undefined,
    rulePorts: NetworkPolicyPort[] = [],
  ) => {
    const own = pods.filter(({ labels }) => selects(policy.spec!.podSelector, labels)).map(({ name }) => name);
    const others = peers ? peers.flatMap((peer) => peerNames(pods, peer)) : ["anybody"];
    const [from, toward] = direction === "in" ? [others, own] : [own, others];
    for (const { port } of rulePorts) {
      const has = (name: string) =>
        pods.every((pod) => pod.name !== name || containerPorts(pod).some((one) => one.containerPort === port));
      for (const a of from) for (const b of toward.filter(has)) to.add(`${a} → ${b}:${port}`);
    }
  };
  for (const policy of all<NetworkPolicy>(model, "NetworkPolicy")) {
    for (const { from, ports } of policy.spec!.ingress ?? []) add(into, policy, "in", from, ports);
    for (const { to, ports } of policy.spec!.egress ?? []) add(outOf, policy, "out", to, ports);
  }
  const isPod = (name: string) => pods.some((pod) => pod.name === name);
  for (const edge of into)
    if (isPod(edge.split(" → ")[0]) && !outOf.has(edge)) faults.push(`${edge} may come in, but not go out`);
  for (const edge of outOf) {
    if (isPod(edge.split(" → ")[1].split(":")[0]) && !into.has(edge))
      faults.push(`${edge} may go out, but not come in`);
  }
  const edges = new Set([...into, ...outOf]);
  for (const edge of edges) if (!model.table.includes(edge)) faults.push(`docs/kubernetes.md does not say: ${edge}`);
  for (const edge of model.table) if (!edges.has(edge)) faults.push(`only docs/kubernetes.md says: ${edge}`);
  return faults;
}

function peerNames(pods: Workload[], { podSelector, namespaceSelector, ipBlock }: NetworkPolicyPeer): string[] {
  if (ipBlock) return [ipBlock.cidr];
  if (!namespaceSelector) return pods.filter(({ labels }) => selects(podSelector, labels)).map(({ name }) => name);
  const { matchLabels = {}, matchExpressions = [] } = namespaceSelector;
  const namespaces = [...Object.values(matchLabels), ...matchExpressions.flatMap(({ values = [] }) => values)];
  return podSelector ? ["DNS"] : namespaces.map((name) => `namespace ${name}`);
}

/** Each gives a sentence for every fault that it finds. */
export const CHECKS = {
  names,
  selectors,
  ports,
  references,
  settings,
  hardening,
  memory,
  scaling,
  endings,
  images,
  compose,
  policies,
};
