// The pipelines on Google Cloud, from a copy in a folder of its own, against stubs: programs that note how they were called
// and remember what they were told to make. So order, arguments, a second run and every failure can be seen in seconds,
// and nothing else can be called by mistake: no other program is on the PATH.
//
// What a stub cannot know is whether the real program would take its arguments: where gcloud is installed, its own parser
// is asked.
import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { execFile, type SpawnOptions, spawn } from "node:child_process";
import {
  accessSync,
  chmodSync,
  constants,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import { temporaryFolder } from "./servers.ts";

setDefaultTimeout(60_000);

const PROJECT = join(import.meta.dir, "..");
const SEQUENCE = [["1-gke.sh"], ["2-images.sh"], ["3-services.sh"], ["4-firewalls.sh"], ["5-workers.sh"]];
const ALL = [...SEQUENCE, ["7-scale.sh", "5", "--pods", "8"], ["9-destroy.sh", "--yes"]];
/** What scripts may use besides the stubs. */
const PLAIN =
  "base64 bash cat cut dirname basename env getent grep head id mkdir mktemp od rm sed sleep sort tail touch tr uname";
const STUBBED = ["gcloud", "terraform", "docker", "kubectl", "gke-gcloud-auth-plugin", "curl", "bun", "bash"];

/**
 * All stubs are this script. What there is stands in the folder WORLD; each call is a line of WORLD/calls. With FAIL, a call
 * that contains its text fails; with HANG, one waits.
 */
const STUB = String.raw`#!/bin/bash
cd "$WORLD" || exit 99
call="${"$"}{0##*/} $*"
case "$call" in
  "bun --version") echo 1.4.5; exit ;;
  *terraform/settings.ts) cd "$OLDPWD" && exec "$REAL_BUN" "$@" ;;
esac
printf '%s\n' "$call" >>calls
if [ -n "$FAIL" ] && [[ "$call" == *"$FAIL"* ]]; then echo "stub: refused" >&2; exit 7; fi
if [ -n "$HANG" ] && [[ "$call" == *"$HANG"* ]]; then touch hanging; exec sleep 30; fi
[[ "$call" =~ stacks/([a-z]+) ]] && stack="${"$"}{BASH_REMATCH[1]}"
case "$call" in
  *auth*print-access-token) echo secret-token-of-gcloud ;;
  "bun --no-env-file run terraform/main.ts") echo "$WORKERS" >wanted ;;
  terraform*"show -no-color plan") cat plan-text 2>/dev/null ;;
  terraform*"apply -input=false plan") touch "is-$stack"; [ "$stack" != workers ] || cat wanted >vms ;;
  terraform*"show -json") [ ! -e "is-$stack" ] || echo "{\"resources\":[{\"address\":\"x\",\"deletion_protection\":$(cat protected 2>/dev/null || echo false)}]}" ;;
  terraform*" destroy "*) rm "is-$stack" ;;
  terraform*"output -raw "*) [ -e "is-$stack" ] || exit 1; case "${"$"}{call##* }" in
    cluster) echo sobel ;; location) echo us-central1-b ;; group) echo sobel-workers ;;
    registry) echo us-central1-docker.pkg.dev/my-project-123/sobel ;; esac ;;
  "gcloud storage buckets describe"*) [ -e bucket ] || exit 1 ;;
  "gcloud storage buckets create"*) touch bucket ;;
  "gcloud secrets versions list "*) [ ! -e "secret-$4" ] || echo 1 ;;
  "gcloud secrets versions add "*) cat >"secret-$4" ;;
  "gcloud secrets versions access latest "*) cat "secret-$(sed -E 's/.*--secret=([^ ]+).*/\1/' <<<"$call")" ;;
  "docker push "*) image="${"$"}{call##* }"; echo "${"$"}{image%:*},other;${"$"}{image##*:}" >>images ;;
  "gcloud artifacts docker images list "*) cat images 2>/dev/null ;;
  "gcloud container clusters list "*) [ ! -e is-gke ] || echo us-central1-b ;;
  "gcloud compute disks list "*) cat left 2>/dev/null ;;
  "bash k8s/secrets.sh") [ -n "$RABBITMQ_PASSWORD" ] && [ -n "$REDIS_PASSWORD" ] || exit 1
    for server in rabbitmq redis; do [ -e "cluster-$server" ] || cat "secret-sobel-$server-password" >"cluster-$server"; done ;;
  "kubectl apply --filename=-") cat >applied.now; cat applied.now >>applied ;;
  "kubectl --namespace=sobel get secret "*username*) printf sobel | base64 ;;
  "kubectl --namespace=sobel get secret coordinator "*) printf 'token-of-the-page' | base64 ;;
  "kubectl --namespace=sobel get secret "*) base64 <"cluster-$4" ;;
  "kubectl --namespace=sobel get service rabbitmq-internal "*) # it takes a while to have one
    [ -e address ] && echo 10.10.0.5; touch address ;;
  "kubectl --namespace=sobel get service "*) echo 10.10.0.6 ;;
  "kubectl --namespace=sobel get horizontalpodautoscalers "*) cat scalers 2>/dev/null ;;
  "kubectl --namespace=sobel port-forward "*) echo "Forwarding from 127.0.0.1:34567 -> 8080"; echo $$ >forwarder; exec sleep 60 ;;
  curl*) cat >>curl-input; joined=$(cat joined 2>/dev/null || echo 0)
    [ "$joined" = "$(cat vms)" ] || joined=$((joined < $(cat vms) ? joined + 1 : joined - 1)); echo $joined >joined
    printf '{"workers":[{"name":"worker-in-a-pod"}'
    for ((i = 0; i < joined; i++)); do printf ',{"name":"sobel-worker-%04d","host":"x"}' $i; done; printf ']}' ;;
esac
exit 0
`;

interface Ended {
  code: number;
  /** stdout and stderr, in the order in which they came. */
  out: string;
  /** The stubs' calls of this run. */
  calls: string[];
}

/** A copy of the pipelines with a world that they act upon. */
class Sandbox {
  readonly folder = temporaryFolder("pipelines");
  readonly world = join(this.folder, "world");
  readonly bin = join(this.folder, "bin");

  constructor(origin?: Sandbox) {
    mkdirSync(join(this.folder, "k8s"), { recursive: true });
    for (const part of ["pipelines", "terraform/settings.ts"])
      cpSync(join(PROJECT, part), join(this.folder, part), { recursive: true });
    writeFileSync(join(this.folder, "k8s/a.yaml"), "kind: Namespace\n");
    writeFileSync(
      join(this.folder, "k8s/b.yaml"),
      '      - image: sobel-worker:dev\n      - image: "sobel-coordinator:dev"\n      - image: redis:8\n',
    );
    mkdirSync(this.bin);
    for (const name of STUBBED) {
      writeFileSync(join(this.bin, name), STUB);
      chmodSync(join(this.bin, name), 0o755);
    }
    if (origin) cpSync(origin.world, this.world, { recursive: true });
    else mkdirSync(this.world);
  }

  /** What a pipeline does. @param argv its name, then its arguments */
  async run([script, ...argv]: string[], env: Record<string, string> = {}, input = ""): Promise<Ended> {
    return this.start([script, ...argv], env, input).ended;
  }

  start([script, ...argv]: string[], env: Record<string, string> = {}, input = "") {
    const before = this.calls().length;
    const options: SpawnOptions = {
      detached: true, // Ctrl-C goes to a group of processes
      env: {
        PATH: `${this.bin}${delimiter}${plain()}`,
        HOME: this.folder,
        WORLD: this.world,
        REAL_BUN: process.execPath,
        POLL_SECONDS: "0",
        PROJECT: "my-project-123",
        TAG: "v1",
        ...env,
      },
    };
    const child = spawn("/bin/bash", [join(this.folder, "pipelines", script), ...argv], options);
    let out = "";
    for (const stream of [child.stdout!, child.stderr!])
      stream.setEncoding("utf8").on("data", (text: string) => {
        out += text;
      });
    child.stdin!.end(input);
    const ended = new Promise<Ended>((resolve) => {
      child.on("close", (code) => resolve({ code: code ?? -1, out, calls: this.calls().slice(before) }));
    });
    return { interrupt: () => process.kill(-child.pid!, "SIGINT"), ended };
  }

  calls(): string[] {
    return this.read("calls").split("\n").slice(0, -1);
  }

  read(name: string): string {
    return existsSync(join(this.world, name)) ? readFileSync(join(this.world, name), "utf8") : "";
  }

  write(name: string, text: string): void {
    writeFileSync(join(this.world, name), text);
  }
}

/** A folder with the programs of PLAIN alone. */
function plain(): string {
  if (plainFolder) return plainFolder;
  plainFolder = temporaryFolder("plain");
  for (const name of PLAIN.split(" ")) symlinkSync(which(name)!, join(plainFolder, name));
  return plainFolder;
}
let plainFolder: string | undefined;

function which(name: string): string | undefined {
  for (const folder of (process.env.PATH ?? "").split(delimiter)) {
    try {
      accessSync(join(folder, name), constants.X_OK);
      return join(folder, name);
    } catch {
      // the next folder
    }
  }
  return undefined;
}

/** The worlds before each pipeline of ALL, and what each did. */
const before: Sandbox[] = [];
const did: Ended[] = [];

beforeAll(async () => {
  let sandbox = new Sandbox();
  for (const pipeline of ALL) {
    before.push(sandbox);
    sandbox = new Sandbox(sandbox);
    did.push(await sandbox.run(pipeline));
  }
});

const stepsOf = ({ out }: Ended) => out.split("\n").filter((line) => line.startsWith("==> "));

describe("the whole sequence", () => {
  test("ends well, each pipeline with what comes next", () => {
    expect(did.map(({ code, out }) => (code === 0 ? 0 : out))).toEqual(ALL.map(() => 0));
    const next = did.map(({ out }) => /\nNext: (?:bash pipelines\/)?([\w.-]+)/.exec(out)?.[1]);
    expect(next).toEqual([
      "2-images.sh",
      "3-services.sh",
      "4-firewalls.sh",
      "5-workers.sh",
      "6-smoke.sh",
      "6-smoke.sh",
      "nothing.",
    ]);
  });

  test("says before it begins what it costs", () => {
    for (const { out } of did.slice(0, -1))
      expect(out.slice(0, out.indexOf("==> "))).toMatch(/Costs (about 0\.\d\d USD|0\.\d\d USD|nothing)/);
  });

  test("raises the stacks in their order, each planned before it is applied", () => {
    const made = did.flatMap(({ calls }) => calls.filter((call) => /^terraform .* (plan|apply|destroy) /.test(call)));
    expect(
      made.map((call) => call.replace(/^terraform -chdir=terraform\/cdktf.out\/stacks\/(\w+) (\w+) .*/, "$2 $1")),
    ).toEqual([
      ...["plan network", "apply network", "plan gke", "apply gke"],
      ...["plan firewalls", "apply firewalls", "plan workers", "apply workers"],
      ...["plan workers", "apply workers"],
      ...["destroy workers", "destroy firewalls", "destroy gke", "destroy network"],
    ]);
  });

  test("gives the stacks the addresses that the cluster has", () => {
    const plans = did.flatMap(({ calls }) => calls.filter((call) => call.includes(" plan ")));
    const addresses = "-var=rabbitmq_address=10.10.0.5 -var=redis_address=10.10.0.6";
    expect(plans[2]).toEndWith(`plan -input=false -out=plan ${addresses}`);
    expect(plans[3]).toEndWith(`plan -input=false -out=plan ${addresses} -var=rabbitmq_username=sobel`);
  });

  test("builds and pushes both images for the machines of the cloud", () => {
    const registry = "us-central1-docker.pkg.dev/my-project-123/sobel";
    expect(did[1].calls.filter((call) => call.startsWith("docker"))).toEqual(
      ["coordinator", "worker"].flatMap((name) => [
        `docker build --platform=linux/amd64 --file=Dockerfile.${name} --tag=${registry}/sobel-${name}:v1 .`,
        `docker push ${registry}/sobel-${name}:v1`,
      ]),
    );
  });

  test("applies the manifests with the images of the registry", () => {
    expect(before[3].read("applied")).toBe(
      "---\nkind: Namespace\n---\n" +
        "      - image: us-central1-docker.pkg.dev/my-project-123/sobel/sobel-worker:v1\n" +
        "      - image: us-central1-docker.pkg.dev/my-project-123/sobel/sobel-coordinator:v1\n" +
        "      - image: redis:8\n",
    );
  });

  test("makes two passwords, and shows them to nobody", () => {
    const secrets = ["rabbitmq", "redis"].map((server) => before[3].read(`secret-sobel-${server}-password`));
    for (const secret of secrets) expect(secret).toMatch(/^[0-9a-f]{48}$/);
    expect(secrets[0]).not.toBe(secrets[1]);
    expect(before[5].read("curl-input")).toStartWith("Authorization: Bearer token-of-the-page\n");
    for (const secret of [...secrets, "token-of-the-page", "secret-token-of-gcloud"]) {
      expect(did.map(({ out }) => out).join("")).not.toContain(secret);
      expect(did.flatMap(({ calls }) => calls).join("\n")).not.toContain(secret);
    }
  });

  test("waits for the VMs, and leaves no process behind", () => {
    expect(did[4].out).toContain("1 of 3\n    2 of 3\n    3 of 3\n");
    expect(did[5].out).toContain("4 of 5\n    5 of 5\n");
    for (const { world } of before) {
      if (!existsSync(join(world, "forwarder"))) continue;
      const pid = readFileSync(join(world, "forwarder"), "utf8").trim();
      expect(existsSync(`/proc/${pid}`)).toBe(false);
    }
  });

  test("takes down what Kubernetes has made before the cluster, and the cluster before its network", () => {
    const order = [
      "destroy",
      "delete namespace",
      "get persistentvolumes",
      "destroy",
      "destroy",
      "destroy",
      "compute disks list",
    ];
    const calls = did[6].calls.filter((call) => order.some((word) => call.includes(word)));
    expect(calls.map((call) => order.find((word) => call.includes(word))!)).toEqual(order);
  });
});

describe("run again", () => {
  test("makes nothing a second time", async () => {
    for (const [i, pipeline] of SEQUENCE.entries()) {
      const sandbox = new Sandbox(before[i + 1]);
      const again = await sandbox.run(pipeline);
      expect([again.code, stepsOf(again)]).toEqual([0, stepsOf(did[i])]);
      expect(
        again.calls.filter((call) => /docker (build|push)|secrets versions add|buckets create/.test(call)),
      ).toEqual([]);
    }
  });

  test("builds again what is in no commit", async () => {
    const sandbox = new Sandbox(before[1]);
    await sandbox.run(["2-images.sh"], { TAG: "abc-dirty" });
    const again = await sandbox.run(["2-images.sh"], { TAG: "abc-dirty" });
    expect(again.calls.filter((call) => call.startsWith("docker push"))).toHaveLength(2);
  });

  test("destroys what is there, wherever it stopped", async () => {
    for (const [i] of ALL.entries()) {
      const sandbox = new Sandbox(before[i]);
      const { code, calls } = await sandbox.run(["9-destroy.sh", "--yes"]);
      expect([i, code]).toEqual([i, 0]);
      const stacks = ["workers", "firewalls", "gke", "network"].filter((stack) =>
        existsSync(join(before[i].world, `is-${stack}`)),
      );
      expect(calls.filter((call) => call.includes(" destroy ")).map((call) => /stacks\/(\w+)/.exec(call)![1])).toEqual(
        stacks,
      );
      if (i === 0) expect(calls.join("\n")).not.toContain("kubectl");
    }
  });

  test("the state's bucket is made once", async () => {
    const sandbox = new Sandbox();
    const env = { STATE_BUCKET: "my-state" };
    const made = async () =>
      (await sandbox.run(["1-gke.sh"], env)).calls.filter((call) => call.includes("buckets create"));
    expect(await made()).toEqual([
      "gcloud storage buckets create gs://my-state --project=my-project-123 --location=us-central1 --uniform-bucket-level-access --public-access-prevention",
    ]);
    expect(await made()).toEqual([]);
  });
});

describe("a call that fails", () => {
  // Asked again until it answers, or no failure: the bucket that is not there yet.
  const tried = (call: string) => !call.startsWith("gke-gcloud") && !call.startsWith("curl");

  test.each(ALL.map((pipeline, i) => [pipeline[0], pipeline, i] as const))("in %s", async (_, pipeline, i) => {
    const calls = [...new Set(did[i].calls)].filter(tried);
    expect(calls.length).toBeGreaterThan(4);
    const untried = calls.values();
    const tryNext = async () => {
      for (const call of untried) {
        const sandbox = new Sandbox(before[i]);
        const failed = await sandbox.run(pipeline, { FAIL: call });
        expect([call, failed.code === 0]).toEqual([call, false]);
        expect([call, failed.calls.at(-1)]).toEqual([call, call]);
        expect(failed.out).toMatch(/\nFAILED: .+ \(exit code \d+\)\n {2}the last call: .+\n/);
        expect(failed.out).toContain(`    bash pipelines/${pipeline.join(" ")}\n`);
        // A call that only asks leaves things as they were.
        if (/ (list|get|show|output|init|print-access-token) ?/.test(call)) continue;
        expect([call, (await sandbox.run(pipeline)).code]).toEqual([call, 0]);
      }
    };
    // A few at a time: all at once would leave nothing to the tests that run beside these.
    await Promise.all([tryNext(), tryNext(), tryNext()]);
  });

  test("a coordinator that cannot be asked is asked again, and given up in the end", async () => {
    const failed = await new Sandbox(before[4]).run(["5-workers.sh"], { FAIL: "curl" });
    expect(failed.code).toBe(1);
    expect(failed.out).toContain("error: after 10 minutes there are no worker VMs in GET /workers, not 3");
    expect(failed.out).toContain("journalctl -u sobel-worker");
  });
});

test("interrupted, it says where, and goes on when run again", async () => {
  const sandbox = new Sandbox();
  const running = sandbox.start(["1-gke.sh"], { HANG: "stacks/gke apply" });
  while (!sandbox.read("calls").includes("stacks/gke apply")) await Bun.sleep(20);
  running.interrupt();
  const { code, out } = await running.ended;
  expect(code).toBe(130);
  expect(out).toContain("INTERRUPTED: the stack gke\n");
  expect(out).toContain("    bash pipelines/1-gke.sh\n");
  expect((await sandbox.run(["1-gke.sh"])).code).toBe(0);
});

describe("--dry-run", () => {
  test("calls nothing, and shows every call", async () => {
    for (const [i, pipeline] of ALL.entries()) {
      const sandbox = new Sandbox(before[i]);
      const dry = await sandbox.run([...pipeline, "--dry-run"]);
      expect([pipeline[0], dry.code, dry.calls]).toEqual([pipeline[0], 0, []]);
      expect(stepsOf(dry)).toEqual(stepsOf(did[i]));
      // By their first words: what was answered stands there as a placeholder, and quoted where a shell would need it.
      const shape = (call: string) => call.replaceAll("'", "").replace(/ &$/, "").split(" ").slice(0, 2).join(" ");
      const shown = new Set(
        dry.out
          .split("\n")
          .filter((line) => /^ {4}\S/.test(line))
          .map((line) => shape(line.trim())),
      );
      const missing = did[i].calls.map(shape).filter((call) => !shown.has(call) && !call.startsWith("curl"));
      expect([pipeline[0], missing]).toEqual([pipeline[0], []]);
    }
  });

  test("needs no cloud's tools, and says which are not there", async () => {
    const sandbox = new Sandbox();
    const path = join(sandbox.folder, "few");
    mkdirSync(path);
    symlinkSync(join(sandbox.bin, "bun"), join(path, "bun"));
    const { code, out } = await sandbox.run(["5-workers.sh", "--dry-run"], { PATH: `${path}${delimiter}${plain()}` });
    expect([code, out.split("\n")[0]]).toEqual([
      0,
      "(Dry run: what follows is printed, not done. Not installed here: gcloud terraform kubectl gke-gcloud-auth-plugin curl.)",
    ]);
  });
});

describe("before anything is done", () => {
  test.each(ALL.map((pipeline) => [pipeline[0], pipeline] as const))("%s wants a project", async (_, pipeline) => {
    const { code, out, calls } = await new Sandbox().run(pipeline, { PROJECT: "" });
    expect([code, calls]).toEqual([1, []]);
    expect(out).toContain("PROJECT: the id of your Google Cloud project");
  });

  test.each(ALL.map((pipeline) => [pipeline[0], pipeline] as const))("%s wants its tools", async (_, pipeline) => {
    const sandbox = new Sandbox();
    const path = join(sandbox.folder, "few");
    mkdirSync(path);
    for (const name of ["bun", "gcloud"]) symlinkSync(join(sandbox.bin, name), join(path, name));
    const { code, out, calls } = await sandbox.run(pipeline, { PATH: `${path}${delimiter}${plain()}` });
    expect([code, calls]).toEqual([1, []]);
    expect(out).toContain("missing: terraform: https://developer.hashicorp.com/terraform/install");
  });

  const wrong: [string, string[], Record<string, string>, string][] = [
    ["a setting", ["1-gke.sh"], { REGION: "mars" }, 'REGION: expected a region, such as europe-west1, got "mars"'],
    ["an argument", ["1-gke.sh", "now"], {}, "unknown argument now; expected nothing, --dry-run or --help"],
    ["no number of VMs", ["7-scale.sh"], {}, "expected N [--pods M], got nothing"],
    ["a number of VMs", ["7-scale.sh", "many"], {}, "N: expected a number of VMs, got many"],
    ["a number of pods", ["7-scale.sh", "3", "--pods", "-1"], {}, "--pods: expected a number of pods, got -1"],
  ];
  test.each(wrong)("%s that is wrong is named", async (_, pipeline, env, message) => {
    const { code, out, calls } = await new Sandbox().run(pipeline, env);
    expect([code, out, calls]).toEqual([1, expect.stringContaining(message), []]);
  });

  test("--help is the comment on top", async () => {
    for (const [script] of ALL) {
      const { code, out } = await new Sandbox().run([script, "--help"]);
      expect([code, out.split("\n")[0]]).toEqual([
        0,
        readFileSync(join(PROJECT, "pipelines", script), "utf8")
          .split("\n")[1]
          .slice(2),
      ]);
      expect(out).not.toContain("set -euo");
    }
  });
});

describe("what would harm is refused", () => {
  test("a plan that replaces the cluster", async () => {
    const sandbox = new Sandbox(before[2]);
    sandbox.write("plan-text", "  # google_container_cluster.cluster must be replaced\n");
    const { code, out, calls } = await sandbox.run(["1-gke.sh"]);
    expect([code, calls.some((call) => call.includes(" apply "))]).toEqual([1, false]);
    expect(out).toContain(
      "this would destroy what is there, with its data:\n  # google_container_cluster.cluster must be replaced",
    );
    expect((await sandbox.run(["1-gke.sh"], { ALLOW_LOSS: "yes" })).code).toBe(0);
  });

  test("services whose passwords the VMs do not have", async () => {
    const sandbox = new Sandbox(before[3]);
    sandbox.write("cluster-redis", "an older one");
    const { code, out } = await sandbox.run(["3-services.sh"]);
    expect(code).toBe(1);
    expect(out).toContain("the Secret redis in the cluster holds another password than sobel-redis-password");
    expect(out).not.toContain("an older one");
  });

  test("images that were never pushed", async () => {
    for (const [i, pipeline] of [
      [2, ["3-services.sh"]],
      [4, ["5-workers.sh"]],
    ] as const) {
      const { code, out } = await new Sandbox(before[i]).run([...pipeline], { TAG: "v2" });
      expect([code, out]).toEqual([
        1,
        expect.stringMatching(/error: the registry has no sobel-\w+:v2; run pipelines\/2-images.sh first/),
      ]);
    }
  });

  test("pods by hand where an autoscaler counts them", async () => {
    const sandbox = new Sandbox(before[5]);
    sandbox.write("scalers", "horizontalpodautoscaler.autoscaling/keda-hpa-worker\n");
    expect((await sandbox.run(["7-scale.sh", "3", "--pods", "4"])).out).toContain(
      "an autoscaler sets the number of pods",
    );
    expect((await sandbox.run(["7-scale.sh", "3"])).code).toBe(0);
  });

  test("the end, unless the project's name is typed", async () => {
    for (const typed of ["", "yes\n", "my-project\n"]) {
      const sandbox = new Sandbox(before[6]);
      const { code, out, calls } = await sandbox.run(["9-destroy.sh"], {}, typed);
      expect([code, out, calls]).toEqual([1, expect.stringContaining("nothing was destroyed"), []]);
    }
    const { code, calls } = await new Sandbox(before[6]).run(["9-destroy.sh"], {}, "my-project-123\n");
    expect([code, calls.filter((call) => call.includes(" destroy "))]).toEqual([0, expect.any(Array)]);
    expect(calls.filter((call) => call.includes(" destroy "))).toHaveLength(4);
  });

  test("the end of a cluster that is protected", async () => {
    const sandbox = new Sandbox(before[6]);
    sandbox.write("protected", "true");
    const { code, out, calls } = await sandbox.run(["9-destroy.sh", "--yes"]);
    expect([code, calls.filter((call) => / destroy | delete /.test(call))]).toEqual([1, []]);
    expect(out).toContain("DELETION_PROTECTION=false bash pipelines/1-gke.sh");
  });

  test("an end that leaves something that costs", async () => {
    const sandbox = new Sandbox(before[6]);
    sandbox.write("left", "pvc-1 us-central1-b\n");
    const { code, out } = await sandbox.run(["9-destroy.sh", "--yes"]);
    expect(code).toBe(1);
    expect(out).toContain("LEFT: disks: pvc-1 us-central1-b");
  });
});

describe("the page", () => {
  test("is open to whom it is said to be, and closed again", async () => {
    const sandbox = new Sandbox(before[3]);
    const opened = await sandbox.run(["3-services.sh"], { PAGE_SOURCE_RANGES: "203.0.113.7/32,198.51.100.0/24" });
    expect(opened.out).toContain("without AUTH_TOKEN whoever comes from there may send pictures");
    expect(opened.out).toContain("the page: http://10.10.0.6\n");
    const service = Bun.YAML.parse(sandbox.read("applied.now")) as { spec: { loadBalancerSourceRanges: string[] } };
    expect(service.spec.loadBalancerSourceRanges).toEqual(["203.0.113.7/32", "198.51.100.0/24"]);
    const tokens = await sandbox.run(["3-services.sh"], { AUTH_TOKEN: "another" });
    expect([tokens.code, tokens.out]).toEqual([1, expect.stringContaining("the coordinators have another token")]);
    expect((await sandbox.run(["3-services.sh"], { AUTH_TOKEN: "token-of-the-page" })).code).toBe(0);
    const closed = await sandbox.run(["3-services.sh"]);
    expect(closed.calls).toContain("kubectl --namespace=sobel delete service coordinator-public --ignore-not-found");
  });
});

const gcloud = which("gcloud");
if (gcloud) {
  test("the real gcloud takes every call", async () => {
    const sandbox = new Sandbox();
    const bucket = await sandbox.run(["1-gke.sh"], { STATE_BUCKET: "my-state" });
    const shown = [...did, bucket].flatMap(({ out }) =>
      out.split("\n").filter((line) => line.startsWith("    gcloud ")),
    );
    const wrong = "gcloud compute disks list --filters=x"; // so that one may believe it
    const strings = [wrong, ...new Set(shown.map((line) => line.trim()))];
    expect(strings.length).toBeGreaterThan(25);
    writeFileSync(
      join(sandbox.folder, "calls.json"),
      JSON.stringify(strings.map((text) => ({ command_string: text }))),
    );
    // Its own parser, on all at once: it needs no account and asks nobody.
    const args = ["meta", "lint-gcloud-commands", `--commands-file=${join(sandbox.folder, "calls.json")}`];
    const env = { PATH: process.env.PATH, HOME: sandbox.folder, CLOUDSDK_CONFIG: join(sandbox.folder, "config") };
    const { stdout } = await promisify(execFile)(gcloud, args, { env, maxBuffer: 64 * 2 ** 20 });
    const verdicts = JSON.parse(stdout) as { command_string: string; success: boolean; error_message: string | null }[];
    const refused = verdicts.filter(({ success }) => !success);
    expect(refused.map(({ command_string, error_message }) => `${command_string}: ${error_message}`)).toEqual([
      expect.stringContaining("unrecognized arguments: --filters=x"),
    ]);
    expect(verdicts).toHaveLength(strings.length);
  });
} else {
  console.error("\n!!! NOT DONE HERE: whether the real gcloud takes the pipelines' calls (there is no gcloud)\n");
}
