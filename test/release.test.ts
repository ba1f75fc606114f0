// The workflow of a release: its scripts, run as GitHub runs them, with stubs for docker and gh.
//
// Not here: the actions of GitHub and Docker that it uses; they run only there.
import { describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { temporaryFolder } from "./servers.ts";
import { stub } from "./stacks.ts";

const PROJECT = join(import.meta.dirname, "..");
const DIGEST = `sha256:${"ab".repeat(32)}`;

describe("the workflow of a release", () => {
  interface Step {
    id?: string;
    run?: string;
    with?: Record<string, string>;
  }
  const workflow = parse(readFileSync(join(PROJECT, ".github/workflows/release.yml"), "utf8"));
  const { images, draft } = workflow.jobs as Record<
    string,
    { steps: Step[]; strategy?: { matrix: { name: string[] } } }
  >;
  /** Runs the script of a step as GitHub does, in a copy of what it reads, with stubs. */
  const run = ({ run = "" }: Step, env: Record<string, string>) => {
    const folder = temporaryFolder("release");
    for (const file of ["Dockerfile.worker", "CHANGELOG.md", "pipelines", "compose.yaml", "k8s", "k8s-ha"])
      cpSync(join(PROJECT, file), join(folder, file), { recursive: true });
    stub(folder, "docker", `echo "$*" >>'${folder}/asked'; [ "$4" != gone:1 ] || exit 1; echo ${DIGEST}`);
    stub(folder, "gh", 'echo "$*" >>asked');
    const { status, stdout } = spawnSync("bash", ["-e", "-c", run.replaceAll(/\$\{\{ matrix\.name \}\}/g, "worker")], {
      cwd: folder,
      env: { PATH: `${folder}:${process.env.PATH}`, GITHUB_OUTPUT: "output", ...env } as NodeJS.ProcessEnv,
      encoding: "utf8",
    });
    const text = (file: string) => (existsSync(join(folder, file)) ? readFileSync(join(folder, file), "utf8") : "");
    return { status, stdout, text };
  };
  const naming = images.steps.find(({ id }) => id === "image")!;
  const drafting = draft.steps.find(({ run }) => run)!;
  const env = { GITHUB_REPOSITORY_OWNER: "An-Owner", GITHUB_REF_NAME: "v1.0.0", REGISTRY: "registry.example" };

  test("builds both images for both architectures, each with its parts and its origin", () => {
    expect(images.strategy!.matrix.name).toEqual(["coordinator", "worker"]);
    expect(images.steps.at(-1)!.with).toMatchObject({
      file: expect.stringMatching(/^Dockerfile\.\$\{\{ matrix\.name \}\}$/),
      platforms: "linux/amd64,linux/arm64",
      sbom: true,
      provenance: "mode=max",
    });
  });

  test("names the image, and pins each base by its digest", () => {
    const { status, text } = run(naming, { ...env, FILE: "Dockerfile.worker" });
    const bases = text("Dockerfile.worker").match(/^FROM .*$/gm);
    expect([status, text("output"), bases, text("asked").split("\n").length - 1]).toEqual([
      0,
      "name=registry.example/an-owner/sobel-worker:1.0.0\n",
      [
        `FROM oven/bun:\${BUN_VERSION}-slim@${DIGEST} AS packages`,
        `FROM oven/bun:\${BUN_VERSION}-distroless@${DIGEST}`,
      ],
      2,
    ]);
    expect(text("asked")).toContain(`inspect oven/bun:${Bun.version}-slim --format`);
  });

  test("an operator pins every third-party image with one command, and again without a change", () => {
    const pin = "bash pipelines/pin-images.sh";
    const { status, text } = run({ run: `${pin} && cp asked once && ${pin}` }, env);
    const files = ["Dockerfile.worker", "compose.yaml", "k8s/rabbitmq.yaml", "k8s/redis.yaml", "k8s-ha/redis.yaml"];
    const images = files.flatMap((file) => text(file).match(/^(FROM|.* image:) .*/gm) ?? []);
    const own = images.filter((line) => line.includes("sobel-"));
    const pinned = images.filter((line) => line.includes(`@${DIGEST}`));
    expect([status, own.length, pinned.length, text("asked")]).toEqual([0, 2, 9, text("once")]);
    expect(images).toHaveLength(11);
    expect(text("k8s/worker.yaml")).toContain("image: sobel-worker:dev\n");
    expect(run({ run: `echo FROM gone:1 >x; ${pin} x` }, env).status).toBe(1);
  });

  test("drafts the release with its section of the changelog", () => {
    const { status, text } = run(drafting, env);
    const notes = text("notes.md");
    expect([status, text("asked")]).toEqual([0, expect.stringMatching(/^release create v1\.0\.0 --draft /)]);
    expect(notes.length).toBeGreaterThan(100);
    expect(notes).not.toMatch(/^## /m);
    expect(readFileSync(join(PROJECT, "CHANGELOG.md"), "utf8").split("## 1.0.0")[1]).toContain(notes.trim());
  });

  test("stops without a registry, and without a section of the changelog", () => {
    const [unnamed, unwritten] = [
      run(naming, { ...env, REGISTRY: "" }),
      run(drafting, { ...env, GITHUB_REF_NAME: "v9.9.9" }),
    ];
    expect([unnamed.status, unnamed.stdout]).toEqual([
      1,
      expect.stringContaining("REGISTRY of this repository is not set"),
    ]);
    expect([unwritten.status, unwritten.stdout]).toEqual([1, expect.stringContaining("no section 9.9.9")]);
    expect(unwritten.text("asked")).toBe("");
  });
});
