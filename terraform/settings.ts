/**
 * The settings of the deployment, read from the environment: the one place of their names, defaults, units and limits.
 *
 *     bun run terraform/settings.ts        prints them all as NAME='value', for the pipelines
 *
 * Not here: what only the running cluster knows (the addresses of RabbitMQ and Redis, the variables of the stacks), and
 * secrets, which no stack sees.
 */
import { execFileSync } from "node:child_process";
import process from "node:process";

type Environment = Record<string, string | undefined>;

export type Settings = ReturnType<typeof readSettings>;

/** @throws Error with the variable's name, what was expected, and what it was */
export function readSettings(env: Environment) {
  const { text, whole, flag } = reader(env);
  const REGION = text("REGION", "us-central1", /^[a-z]+-[a-z]+\d+$/, "a region, such as europe-west1");
  const inRegion = new RegExp(`^${REGION}-[a-z]$`);
  // Zone b is one that nearly every region has.
  const ZONE = text("ZONE", `${REGION}-b`, inRegion, `a zone of ${REGION}, such as ${REGION}-b`);
  const settings = {
    /** The project's id; there is no default. */
    PROJECT: text(
      "PROJECT",
      undefined,
      /^[a-z][a-z0-9-]{4,28}[a-z0-9]$/,
      "the id of your project, such as my-project-123",
    ),
    REGION,
    /** Where the worker VMs are. */
    ZONE,
    /** A zone, for a cluster in one place; or the region, for a control plane and nodes in three zones, at a higher price. */
    CLUSTER_LOCATION: text(
      "CLUSTER_LOCATION",
      ZONE,
      new RegExp(`^${REGION}(-[a-z])?$`),
      `${REGION} or one of its zones, such as ${ZONE}`,
    ),
    RELEASE_CHANNEL: text("RELEASE_CHANNEL", "REGULAR", /^(RAPID|REGULAR|STABLE)$/, "RAPID, REGULAR or STABLE"),
    /** The cluster's machines, and between how many of them the autoscaler may choose. */
    NODE_MACHINE: text("NODE_MACHINE", "e2-standard-4", MACHINE, "a machine type, such as e2-standard-4"),
    NODES_MIN: whole("NODES_MIN", 1, 1, 100),
    NODES_MAX: whole("NODES_MAX", 4, 1, 100),
    /** While it is on, nothing deletes the cluster, 9-destroy.sh included. Off: a cluster of a course is to go again. */
    DELETION_PROTECTION: flag("DELETION_PROTECTION", false),
    /** Worker VMs: how many, of which type, and whether cheaper ones that may be taken away at any time. */
    WORKERS: whole("WORKERS", 3, 0, 1000),
    WORKER_MACHINE: text("WORKER_MACHINE", "e2-standard-2", MACHINE, "a machine type, such as e2-standard-2"),
    WORKER_SPOT: flag("WORKER_SPOT", false),
    /** The images' tag. */
    TAG: text("TAG", defaultTag(env), /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/, "a tag for the images, such as v1"),
    /** A bucket that keeps Terraform's state; empty: the folder terraform/state on this machine. */
    STATE_BUCKET: text(
      "STATE_BUCKET",
      "",
      /^([a-z0-9][a-z0-9._-]{1,61}[a-z0-9])?$/,
      "the name of a bucket, or nothing",
    ),
    /** Who may open the page from outside: address ranges with commas between. Empty: nobody, only kubectl port-forward. */
    PAGE_SOURCE_RANGES: text(
      "PAGE_SOURCE_RANGES",
      "",
      RANGES,
      "ranges such as 203.0.113.7/32,198.51.100.0/24, or nothing",
    ),
  };
  if (settings.NODES_MAX < settings.NODES_MIN)
    throw new Error(`NODES_MAX: expected at least NODES_MIN, ${settings.NODES_MIN}, got ${settings.NODES_MAX}`);
  return settings;
}

const MACHINE = /^[a-z][a-z0-9]*-[a-z0-9-]+$/;
const BYTE = "(25[0-5]|2[0-4]\\d|1?\\d?\\d)";
const RANGE = `${BYTE}(\\.${BYTE}){3}/(3[0-2]|[12]?\\d)`;
const RANGES = new RegExp(`^(${RANGE}(,${RANGE})*)?$`);

/** What stands in the environment is taken; an empty variable is as good as none. */
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
    whole(name: string, fallback: number, least: number, most: number): number {
      const value = given(name) ?? String(fallback);
      if (/^\d{1,9}$/.test(value) && Number(value) >= least && Number(value) <= most) return Number(value);
      throw wrong(name, `a whole number from ${least} to ${most}`, value);
    },
    flag(name: string, fallback: boolean): boolean {
      const value = given(name) ?? String(fallback);
      if (value === "true" || value === "false") return value === "true";
      throw wrong(name, "true or false", value);
    },
  };
}

/** The commit that is checked out, with `-dirty` where files differ from it; none where this is no clone. */
function defaultTag({ TAG }: Environment): string | undefined {
  if (TAG) return undefined;
  try {
    const git = ["-C", import.meta.dirname, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"];
    return execFileSync("git", git, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
  } catch {
    return undefined; // the reader then asks for TAG
  }
}

if (import.meta.main) {
  try {
    // Every value has been matched against a shape without quotes in it.
    for (const [name, value] of Object.entries(readSettings(process.env))) console.log(`${name}='${value}'`);
  } catch (error) {
    console.error((error as Error).message);
    process.exit(1);
  }
}
