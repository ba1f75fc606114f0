// The files that the project is deployed with, read into one model. Not here: the checks of it (deployment-checks.ts).
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { DefinitionsService } from "compose-spec-ts";
import type { ObjectMeta } from "kubernetes-types/meta/v1";
import { parse, parseAllDocuments } from "yaml";
import { temporaryFolder } from "./servers.ts";
import { stub } from "./stacks.ts";

const PROJECT = join(import.meta.dirname, "..");
const FOLDERS = ["k8s", "k8s/hpa", "k8s/keda", "k8s/public"];

export interface Thing {
  apiVersion: string;
  kind: string;
  metadata: ObjectMeta & { name: string };
}

interface Compose {
  services: Record<string, DefinitionsService>;
  configs: Record<string, { content: string }>;
}

export interface Dockerfile {
  text: string;
  /** Files and folders of the project. */
  copied: string[];
  env: Record<string, string>;
  exposed: number;
  user: string;
  entrypoint: string[];
}

export interface Model {
  /** In the order of kubectl. `folder` is the argument of `kubectl apply -f`. */
  things: { folder: string; file: string; thing: Thing }[];
  compose: Compose;
  dockerfiles: Record<string, Dockerfile>;
  dockerignore: string;
  /** Keys of the Secrets that k8s/secrets.sh creates. */
  secrets: Record<string, string[]>;
  /** The table of docs/kubernetes.md: `from → to:port`. */
  table: string[];
  /** The version of Bun that the project is tested with. */
  bunVersion: string;
}

const read = (file: string) => readFileSync(join(PROJECT, file), "utf8");

export function readModel(): Model {
  const { "erlang-cookie": _, ...secrets } = readSecrets(); // only k8s-ha/ reads it
  return {
    things: FOLDERS.flatMap((folder) => {
      const files = readdirSync(join(PROJECT, folder)).filter((file) => file.endsWith(".yaml"));
      return files.sort().flatMap((name) => thingsOf(folder, `${folder}/${name}`, read(`${folder}/${name}`)));
    }),
    compose: parse(read("compose.yaml"), { merge: true }) as Compose,
    dockerfiles: {
      coordinator: readDockerfile("Dockerfile.coordinator"),
      worker: readDockerfile("Dockerfile.worker"),
    },
    dockerignore: read(".dockerignore"),
    secrets,
    table: readTables()[0],
    bunVersion: bash("source pipelines/lib.sh; echo $BUN_VERSION").trim(),
  };
}

/** The same, with k8s-ha/ in place of k8s/. Needs kubectl. */
export function readHighlyAvailable(model: Model): Model {
  const folder = "k8s-ha";
  const things = thingsOf(folder, folder, bash("kubectl kustomize k8s-ha", { HOME: temporaryFolder("kubectl") }));
  const others = model.things.filter((one) => one.folder !== "k8s");
  // No machines outside the cluster.
  const table = readTables()
    .flat()
    .filter((row) => !row.startsWith("10.10."));
  return { ...model, things: [...things, ...others], secrets: readSecrets(), table };
}

function thingsOf(folder: string, file: string, text: string): Model["things"] {
  return parseAllDocuments(text).map((document) => {
    if (document.errors.length > 0) throw new Error(`${file}: ${document.errors[0]}`);
    return { folder, file, thing: document.toJS() as Thing };
  });
}

function bash(script: string, env: Record<string, string> = {}): string {
  const options = {
    cwd: PROJECT,
    env: { PATH: process.env.PATH, ...env } as NodeJS.ProcessEnv,
    encoding: "utf8",
  } as const;
  const { status, stdout, stderr } = spawnSync("bash", ["-euc", script], options);
  if (status !== 0) throw new Error(stderr);
  return stdout;
}

/** Runs secrets.sh with a stub for kubectl, which keeps what it should create. */
function readSecrets(): Record<string, string[]> {
  const folder = temporaryFolder("secrets");
  stub(folder, "kubectl", `[ "$1" != create ] || { echo ---; cat; } >>'${folder}/created'`);
  bash("bash k8s/secrets.sh", { PATH: `${folder}:${process.env.PATH}` });
  const created = parseAllDocuments(readFileSync(join(folder, "created"), "utf8"));
  const secrets = created.map((document) => document.toJS() as { metadata: { name: string }; data: object });
  return Object.fromEntries(secrets.map(({ metadata, data }) => [metadata.name, Object.keys(data)]));
}

function readDockerfile(file: string): Dockerfile {
  const text = read(file);
  const last = text.slice(text.lastIndexOf("\nFROM ")).replaceAll("\\\n", " ");
  const all = (word: string) => [...last.matchAll(new RegExp(`^${word} +(.*)$`, "gm"))].map(([, rest]) => rest.trim());
  const env = all("ENV").flatMap((line) => line.split(/ +/).map((pair) => pair.split("=") as [string, string]));
  return {
    text,
    copied: all("COPY")
      .filter((line) => !line.startsWith("--from"))
      .flatMap((line) => line.split(/ +/).slice(0, -1)),
    env: Object.fromEntries(env),
    exposed: Number(all("EXPOSE")[0]),
    user: all("USER").at(-1) ?? "",
    entrypoint: JSON.parse(all("ENTRYPOINT")[0] ?? "[]"),
  };
}

/** Rows of the tables in docs/kubernetes.md, one for each pair and port: of k8s/, and those that k8s-ha/ adds. */
function readTables(): string[][] {
  return read("docs/kubernetes.md")
    .split("With `k8s-ha/`")
    .map((text) =>
      [...text.matchAll(/^\| ([^|]+) \| ([^|]+) \| (\d[\d, ]*) \|$/gm)].flatMap(([, from, to, ports]) => {
        const plain = from.replaceAll("`", "").replace(/ \(.*\)/, "");
        const pairs = plain.split(", ").map((one) => `${one} → ${to.replaceAll("`", "")}`);
        return pairs.flatMap((pair) => ports.split(", ").map((port) => `${pair}:${port}`));
      }),
    );
}
