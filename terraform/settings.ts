/**
 * The settings of the deployment, read from the environment: their names, defaults, units and limits.
 *
 *     bun run terraform/settings.ts        prints them as NAME='value', for the pipelines
 *
 * Not here: the addresses of RabbitMQ and Redis, which the running cluster assigns (variables of the stacks), and secrets,
 * which no stack contains.
 */
import { execFileSync } from "node:child_process";
import process from "node:process";

type Environment = Record<string, string | undefined>;

export type Settings = ReturnType<typeof readSettings>;

/** @throws Error with the variable's name, the expected value, and the value that it has */
export function readSettings(env: Environment) {
  const { text, whole, flag } = reader(env);
  const machine = (name: string, usual: string) =>
    text(name, usual, MACHINE, `a machine type with Persistent Disk, such as ${usual}`);
  const REGION = text("REGION", "us-central1", /^[a-z]+-[a-z]+\d+$/, "a region, such as europe-west1");
  const inRegion = new RegExp(`^${REGION}-[a-z]$`);
  const ofRegion = new RegExp(`^${REGION}(-[a-z])?$`);
  // Nearly every region has a zone b.
  const ZONE = text("ZONE", `${REGION}-b`, inRegion, `a zone of ${REGION}, such as ${REGION}-b`);
  const settings = {
    /** The project's id. No default. */
    PROJECT: text("PROJECT", undefined, PROJECT_ID, "the id of your project, such as my-project-123"),
    REGION,
    /** The zone of the worker VMs. */
    ZONE,
    /** A zone; or the region, for a control plane and nodes in three zones, at a higher price. */
    CLUSTER_LOCATION: text("CLUSTER_LOCATION", ZONE, ofRegion, `${REGION} or one of its zones, such as ${ZONE}`),
    RELEASE_CHANNEL: text("RELEASE_CHANNEL", "REGULAR", /^(RAPID|REGULAR|STABLE)$/, "RAPID, REGULAR or STABLE"),
    /** The type of the cluster's nodes, and the limits of their autoscaler. */
    NODE_MACHINE: machine("NODE_MACHINE", "e2-standard-4"),
    NODES_MIN: whole("NODES_MIN", 1, 1, 100),
    NODES_MAX: whole("NODES_MAX", 4, 1, 100),
    /** If true, nothing deletes the cluster, not even 9-destroy.sh. Default false: the cluster of a course is temporary. */
    DELETION_PROTECTION: flag("DELETION_PROTECTION", false),
    /** Worker VMs: number, type, and whether they are spot VMs, which are cheaper and may be stopped at any time. */
    WORKERS: whole("WORKERS", 3, 0, 1000),
    WORKER_MACHINE: machine("WORKER_MACHINE", "e2-standard-2"),
    WORKER_SPOT: flag("WORKER_SPOT", false),
    /** The tag of the images. Default: the commit. */
    TAG: text("TAG", defaultTag(env), /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/, "a tag for the images, such as v1"),
    /** A bucket for Terraform's state. Empty: the folder terraform/state on this machine. */
    STATE_BUCKET: text("STATE_BUCKET", "", BUCKET, "the name of a bucket, or nothing"),
    /** Address ranges that may open the page, comma-separated. Empty: no public address, only kubectl port-forward. */
    PAGE_SOURCE_RANGES: text(
      "PAGE_SOURCE_RANGES",
      "",
      RANGES,
      "ranges such as 203.0.113.7/32,198.51.100.0/24, or nothing",
    ),
  };
  if (settings.NODES_MAX < settings.NODES_MIN)
    throw new Error(`NODES_MAX: expected at least NODES_MIN, ${settings.NODES_MIN}, got ${settings.NODES_MAX}`);
  /** The architecture of the images, which nodes and VMs share. */
  const ARCHITECTURE = architecture(settings.NODE_MACHINE);
  if (architecture(settings.WORKER_MACHINE) !== ARCHITECTURE)
    throw new Error(`WORKER_MACHINE: expected ${ARCHITECTURE} as of NODE_MACHINE, got ${settings.WORKER_MACHINE}`);
  return { ...settings, ARCHITECTURE };
}

const architecture = (machine: string) => (machine.startsWith("t2a-") ? "arm64" : "amd64");

/** Excludes the fourth generation (`n4`): it has no Persistent Disk, which boot disks and the volumes of k8s/ use. */
const MACHINE = /^(?![a-z]4)[a-z][a-z0-9]*-[a-z0-9-]+$/;
const PROJECT_ID = /^[a-z][a-z0-9-]{4,28}[a-z0-9]$/;
const BUCKET = /^([a-z0-9][a-z0-9._-]{1,61}[a-z0-9])?$/;
const BYTE = "(25[0-5]|2[0-4]\\d|1?\\d?\\d)";
const RANGE = `${BYTE}(\\.${BYTE}){3}/(3[0-2]|[12]?\\d)`;
const RANGES = new RegExp(`^(${RANGE}(,${RANGE})*)?$`);

/** Reads settings by type. An empty variable counts as unset. */
function reader(env: Environment) {
  const wrong = (name: string, expected: string, got: string | undefined) =>
    new Error(`${name}: expected ${expected}, got ${got === undefined ? "nothing" : JSON.stringify(got)}`);
  const given = (name: string) => env[name] || undefined;
  return {
    text(name: string, fallback: string | undefined, shape: RegExp, expected: string): string {
      const value = given(name) ?? fallback;
      if (value === undefined || !shape.test(value)) throw wrong(name, expected, value);
      return value;
    },
    whole(name: string, fallback: number, min: number, max: number): number {
      const value = given(name) ?? String(fallback);
      if (/^\d{1,9}$/.test(value) && Number(value) >= min && Number(value) <= max) return Number(value);
      throw wrong(name, `a whole number from ${min} to ${max}`, value);
    },
    flag(name: string, fallback: boolean): boolean {
      const value = given(name) ?? String(fallback);
      if (value === "true" || value === "false") return value === "true";
      throw wrong(name, "true or false", value);
    },
  };
}

/** The checked-out commit, with `-dirty` if files differ from it; undefined outside of a clone. */
function defaultTag({ TAG }: Environment): string | undefined {
  if (TAG) return undefined;
  try {
    const git = ["-C", import.meta.dirname, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"];
    return execFileSync("git", git, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
  } catch {
    return undefined; // the error then names TAG
  }
}

if (import.meta.main) {
  try {
    // No value contains a quote: each has matched its pattern.
    for (const [name, value] of Object.entries(readSettings(process.env))) console.log(`${name}='${value}'`);
  } catch (error) {
    console.error((error as Error).message);
    process.exit(1);
  }
}
