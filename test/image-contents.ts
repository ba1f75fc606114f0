// The check of what a Dockerfile copies: all files that its program reaches, and no others.
//
// Not here: the other checks of the deployment (deployment-checks.ts).
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Model } from "./deployment.ts";

const PROJECT = join(import.meta.dirname, "..");

/** @param program the file that the image starts. @returns a sentence for each fault */
export function contents({ bunVersion, dockerignore, dockerfiles }: Model, name: string, program: string): string[] {
  const dockerfile = dockerfiles[name];
  const faults: string[] = [];
  const file = `Dockerfile.${name}`;
  const [runtime, entry] = dockerfile.entrypoint;
  if (runtime !== "bun" || entry !== program) faults.push(`${file}: starts ${dockerfile.entrypoint.join(" ")}`);
  const version = dockerfile.text.match(/^ARG BUN_VERSION=(.*)$/m)?.[1];
  if (version !== bunVersion) faults.push(`${file}: Bun ${version}, tested with ${bunVersion}`);
  const needed = [...reached(program), "package.json"].filter((one) => !one.endsWith("/"));
  const brings = (copied: string, one: string) => one === copied || (copied.endsWith("/") && one.startsWith(copied));
  for (const one of needed) {
    if (!dockerfile.copied.some((copied) => brings(copied, one)))
      faults.push(`${file}: add ${one}, which ${entry} needs`);
  }
  const admitted = dockerignore.split("\n").filter((line) => line.startsWith("!"));
  for (const copied of dockerfile.copied) {
    if (!needed.some((one) => brings(copied, one))) faults.push(`${file}: ${copied} is not needed`);
    if (!admitted.some((line) => new Bun.Glob(line.slice(1)).match(copied)))
      faults.push(`.dockerignore excludes ${copied}`);
  }
  return faults;
}

/** The files that a program needs: itself, and all that it reaches by imports and by `new URL(…, import.meta.url)`. */
function reached(entry: string, seen = new Set<string>()): Set<string> {
  if (seen.has(entry)) return seen;
  seen.add(entry);
  if (entry.endsWith("/")) {
    for (const name of readdirSync(join(PROJECT, entry))) reached(join(entry, name), seen);
  }
  if (!entry.endsWith(".ts")) return seen;
  // An importer does not need what a file does as a program of its own.
  const text = readFileSync(join(PROJECT, entry), "utf8").replace(/^if \(import\.meta\.main\).*$/gm, "");
  const imports = /^(?:import|export) (?!type )[^;]*?from "(\.[^"]+)"|import\("(\.[^"]+)"\)/gm;
  const addresses = /new URL\("([^"]+)", import\.meta\.url\)/g;
  for (const pattern of [imports, addresses]) {
    for (const [, one, other] of text.matchAll(pattern)) {
      const path = join(dirname(entry), one ?? other);
      if (path !== ".") reached(one === "." ? `${path}/` : path, seen); // "..": for the names of files only
    }
  }
  return seen;
}
