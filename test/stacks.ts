// For tests: the stacks for Google Cloud as `terraform/main.ts` writes them, and the files of a worker VM in them.
//
// biome-ignore-all lint/suspicious/noTemplateCurlyInString: Terraform's expressions look like ours
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
/** In the environment of `terraform/main.ts`. They must not appear in its output. */
export const SECRETS = {
  RABBITMQ_PASSWORD: "canary-rabbitmq",
  REDIS_PASSWORD: "canary-redis",
  AUTH_TOKEN: "canary-token",
};
/** The variables of the stacks, with values such as the pipelines find in a cluster. */
export const VARIABLES: Record<string, string> = {
  rabbitmq_address: "10.10.0.5",
  redis_address: "10.10.0.6",
  rabbitmq_username: "sobel",
};

// biome-ignore lint/suspicious/noExplicitAny: these tests check the shape of Terraform's JSON
export type Json = Record<string, any>;

/** Runs `terraform/main.ts`. Returns the stacks by name. */
export async function synthesized(env: Record<string, string> = {}, folder = TERRAFORM): Promise<Record<string, Json>> {
  const out = temporaryFolder("synth");
  const given = { PATH: process.env.PATH, HOME: process.env.HOME, CDKTF_OUTDIR: out, ...GIVEN, ...SECRETS, ...env };
  await run(process.execPath, ["--no-env-file", "run", join(folder, "main.ts")], { env: given as NodeJS.ProcessEnv });
  expect(readdirSync(join(out, "stacks")).sort()).toEqual(STACKS.toSorted());
  const read = (name: string) => JSON.parse(readFileSync(join(out, "stacks", name, "cdk.tf.json"), "utf8"));
  return Object.fromEntries(STACKS.map((name) => [name, read(name)]));
}

/** All resources of all stacks. */
export function resources(stacks: Record<string, Json>): { stack: string; type: string; id: string; body: Json }[] {
  return Object.entries(stacks).flatMap(([stack, { resource }]) =>
    Object.entries<Json>(resource).flatMap(([type, bodies]) =>
      Object.entries<Json>(bodies).map(([id, body]) => ({ stack, type, id, body })),
    ),
  );
}

/** terraform/ has its own packages: `bun install --cwd terraform`. */
const installed = existsSync(join(TERRAFORM, "node_modules/cdktf"));
if (!installed && process.env.REQUIRE_SERVERS !== "1")
  console.error("\n!!! SKIPPED: the stacks for Google Cloud\n!!! missing: bun install --cwd terraform\n");
export const describeStacks = installed || process.env.REQUIRE_SERVERS === "1" ? describe : describe.skip;

/** The user data of the VM, with the variables that Terraform fills in. */
export function userDataOf(stacks: Record<string, Json>): string {
  const { template } = stacks.workers.resource.google_compute_instance_template;
  return String(template.metadata["user-data"])
    .replaceAll(/(?<!\$)\$\{var\.(\w+)\}/g, (_, name) => VARIABLES[name])
    .replaceAll("$${", "${")
    .replaceAll("%%{", "%{");
}

/** The files that cloud-init writes, by path. */
export function filesOf(userData: string): Record<string, string> {
  const { write_files } = Bun.YAML.parse(userData) as { write_files: { path: string; content: string }[] };
  return Object.fromEntries(write_files.map(({ path, content }) => [path, content]));
}

/** The variables in the unit's environment file. */
export function environmentOf(files: Record<string, string>): Record<string, string> {
  const lines = files["/etc/sobel/environment"].trim().split("\n");
  return Object.fromEntries(lines.map((line) => line.split("=")));
}

/** The command of the VM's unit, with its files in another folder than /etc/sobel. */
export function unitCommand(files: Record<string, string>, folder: string): string {
  const [, command] = /^ExecStart=(.*)$/m.exec(files["/etc/systemd/system/sobel-worker.service"])!;
  return command.replaceAll("/etc/sobel", folder);
}

/** Writes a program: a script for bash. */
export function stub(bin: string, name: string, script: string): void {
  mkdirSync(bin, { recursive: true });
  writeFileSync(join(bin, name), `#!/bin/bash\n${script}\n`, { mode: 0o755 });
}

/**
 * The stack with Terraform's own resource `terraform_data` for every resource, so that it needs no provider. The arguments of a
 * resource are the `input`; other resources read its `output`. An attribute that only the cloud can give gets a made-up value.
 */
export function withoutCloud(stack: Json, folder: string): Json {
  const inputs = new Map<string, Json>();
  for (const { type, id, body } of resources({ stack })) {
    const { "//": _, lifecycle, depends_on, ...input } = body;
    inputs.set(`${type}.${id}`, { input, ...(depends_on && { depends_on }) });
  }
  const renamed = (address: string) => `terraform_data.${address.replace(".", "-")}`;
  const here = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(here);
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, here(inner)]));
    if (typeof value !== "string") return value;
    if (inputs.has(value)) return renamed(value); // depends_on
    return value.replaceAll(
      /(?<=\$\{)(google_\w+\.[\w-]+)\.(\w+)(?=\})/g,
      (whole, address: string, attribute: string) => {
        const known = inputs.get(address);
        if (!known) return whole; // Terraform then reports an unknown resource
        known.input[attribute] ??= `made-up-${attribute}`;
        return `${renamed(address)}.output.${attribute}`;
      },
    );
  };
  const outputs = here(stack.output);
  for (const [address, body] of inputs) inputs.set(address, here(body) as Json); // twice, because the first pass adds attributes
  const data = Object.fromEntries([...inputs].map(([address, body]) => [address.replace(".", "-"), here(body)]));
  const states = JSON.parse(
    JSON.stringify(stack.data ?? {}).replaceAll(join(TERRAFORM, "state"), join(folder, "state")),
  );
  const name = stack["//"].metadata.stackName as string;
  return {
    ...(Object.keys(states).length && { data: states }),
    ...(stack.variable && { variable: stack.variable }),
    terraform: { backend: { local: { path: join(folder, "state", `${name}.tfstate`) } } },
    resource: { terraform_data: data },
    output: {
      ...(outputs as Json),
      ...(name === "workers" && {
        "user-data": { value: "${terraform_data.google_compute_instance_template-template.output.metadata.user-data}" },
      }),
    },
  };
}
