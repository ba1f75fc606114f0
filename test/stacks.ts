// The stacks for Google Cloud as Terraform gets them, and the start-up of a worker VM taken out of them. For the tests: they
// ask the program itself (`terraform/main.ts`) and change nothing of what it says.
//
// biome-ignore-all lint/suspicious/noTemplateCurlyInString: an expression of Terraform's looks like one of ours
import { describe, expect } from "bun:test";
import { execFile } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { temporaryFolder } from "./servers.ts";

const run = promisify(execFile);
export const TERRAFORM = join(import.meta.dir, "..", "terraform");
export const STACKS = ["network", "gke", "firewalls", "workers"];
export const GIVEN = { PROJECT: "my-project-123", TAG: "v1" };
/** What must not turn up in anything that is written down. */
export const SECRETS = {
  RABBITMQ_PASSWORD: "canary-rabbitmq",
  REDIS_PASSWORD: "canary-redis",
  AUTH_TOKEN: "canary-token",
};
/** What the pipelines pass to the stacks, as they would find it in a cluster. */
export const VARIABLES: Record<string, string> = {
  rabbitmq_address: "10.10.0.5",
  redis_address: "10.10.0.6",
  rabbitmq_username: "sobel",
};

// biome-ignore lint/suspicious/noExplicitAny: the shape of Terraform's JSON is what these tests look at
export type Json = Record<string, any>;

/** The stacks by name, as `terraform` would read them. */
export async function synthesized(env: Record<string, string> = {}, folder = TERRAFORM): Promise<Record<string, Json>> {
  const out = temporaryFolder("synth");
  const given = { PATH: process.env.PATH, HOME: process.env.HOME, CDKTF_OUTDIR: out, ...GIVEN, ...SECRETS, ...env };
  await run(process.execPath, ["--no-env-file", "run", join(folder, "main.ts")], { env: given as NodeJS.ProcessEnv });
  expect(readdirSync(join(out, "stacks")).sort()).toEqual(STACKS.toSorted());
  const read = (name: string) => JSON.parse(readFileSync(join(out, "stacks", name, "cdk.tf.json"), "utf8"));
  return Object.fromEntries(STACKS.map((name) => [name, read(name)]));
}

/** All resources of all stacks, with their types. */
export function resources(stacks: Record<string, Json>): { stack: string; type: string; id: string; body: Json }[] {
  return Object.entries(stacks).flatMap(([stack, { resource }]) =>
    Object.entries<Json>(resource).flatMap(([type, bodies]) =>
      Object.entries<Json>(bodies).map(([id, body]) => ({ stack, type, id, body })),
    ),
  );
}

/** Their packages are no dependency of the project: `bun install --cwd terraform`. */
const installed = existsSync(join(TERRAFORM, "node_modules/cdktf"));
if (!installed && process.env.REQUIRE_SERVERS !== "1")
  console.error("\n!!! SKIPPED: the stacks for Google Cloud\n!!! missing: bun install --cwd terraform\n");
export const describeStacks = installed || process.env.REQUIRE_SERVERS === "1" ? describe : describe.skip;

/** What cloud-init is given, once Terraform has filled it in with the addresses. */
export function userDataOf(stacks: Record<string, Json>): string {
  const { template } = stacks.workers.resource.google_compute_instance_template;
  return String(template.metadata["user-data"])
    .replaceAll(/(?<!\$)\$\{var\.(\w+)\}/g, (_, name) => VARIABLES[name])
    .replaceAll("$${", "${")
    .replaceAll("%%{", "%{");
}

/** What cloud-init writes, by path. */
export function filesOf(userData: string): Record<string, string> {
  const { write_files } = Bun.YAML.parse(userData) as { write_files: { path: string; content: string }[] };
  return Object.fromEntries(write_files.map(({ path, content }) => [path, content]));
}

/** What the VM's unit runs, with its files in another folder than /etc/sobel. */
export function unitCommand(files: Record<string, string>, folder: string): string {
  const [, command] = /^ExecStart=(.*)$/m.exec(files["/etc/systemd/system/sobel-worker.service"])!;
  return command.replaceAll("/etc/sobel", folder);
}

/** A program that is a few lines of bash. */
export function stub(bin: string, name: string, script: string): void {
  mkdirSync(bin, { recursive: true });
  writeFileSync(join(bin, name), `#!/bin/bash\n${script}\n`, { mode: 0o755 });
}
