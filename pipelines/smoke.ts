/**
 * The client of 6-smoke.sh: checks a running coordinator's health, sends it a picture, and compares the result.
 *
 *     bun run pipelines/smoke.ts URL PICTURE SECONDS
 *
 * It retries as any client does (cli/client.ts), each step for SECONDS, so it passes while pods come and go.
 */
import { createHash, randomUUID } from "node:crypto";
import { createReadStream, readFileSync } from "node:fs";
import process from "node:process";
import { Client, ClientError, type JobView } from "../cli/client.ts";
import { transform } from "../cli/local.ts";
import { tokenSetting } from "../ops/settings.ts";
import { readImage } from "../picture/read.ts";
import { task as sobel } from "../sobel.ts";

/** How long one step may take beside its retries, ms: an upload lasts as long as its job. */
const STEP_MS = 120_000;

/** The system does not work as it should. */
class Failed extends Error {}

async function main(): Promise<void> {
  const [url, picture, seconds] = process.argv.slice(2);
  const patience = Number(seconds) * 1000;
  const client = new Client({ origin: new URL(url), token: tokenSetting(), patience: () => patience });
  const limit = () => AbortSignal.timeout(patience + STEP_MS);

  console.log(`==> ${url}: healthy and ready`);
  await client.get("healthz", limit());
  await client.get("readyz", limit());

  const bytes = readFileSync(picture);
  console.log(`==> a picture through it, ${(bytes.length / 1e6).toFixed(1)} MB`);
  const id = randomUUID();
  const start = performance.now();
  const { width, height, rows, bands, byWorker } = await run(client, id, bytes, limit());
  const result = Buffer.concat(await Array.fromAsync(client.result(id, limit())));
  const took = ((performance.now() - start) / 1000).toFixed(2);
  console.log(`    ${width} × ${height}, ${bands} bands, by ${Object.keys(byWorker).join(", ")}, in ${took} s`);

  console.log("==> the bytes of the one-machine program");
  const removing = limit();
  await client.retry(removing, () => client.remove(id, removing));
  // With bands of the same height, whatever the server's BAND_PIXELS is: they show in the compressed bytes.
  const image = await readImage(createReadStream(picture));
  const expected = Buffer.concat(await Array.fromAsync(transform(image, sobel, rows * width)));
  if (!result.equals(expected)) {
    const first = expected.findIndex((byte, i) => byte !== result[i]);
    throw new Failed(`expected ${expected.length} bytes, got ${result.length}; they differ from byte ${first} on`);
  }
  console.log(
    `    ${expected.length} bytes, SHA-256 ${createHash("sha256").update(result).digest("hex").slice(0, 16)}…`,
  );

  console.log("==> the workers");
  const { workers } = await (await client.get("workers", limit())).json();
  if (!workers?.length) throw new Failed("/workers: expected at least one, got none");
  for (const { name, host, runtime } of workers) console.log(`    ${name} (${runtime} on ${host})`);
  console.log(`all well: ${url}`);
}

/** Sends a picture and waits for its job. @throws Failed with the job's state if that takes too long */
async function run(client: Client, id: string, bytes: Buffer<ArrayBuffer>, signal: AbortSignal): Promise<JobView> {
  let last: JobView | undefined;
  let done = 0;
  try {
    const onJob = (job: JobView) => {
      last = job;
    };
    return await client.run(id, { body: () => bytes, onJob, onBand: () => done++ }, signal);
  } catch (error) {
    if (!signal.aborted || !last) throw error;
    const why = last.waiting ? "no live worker has its task" : "it goes on";
    throw new Failed(`the job is ${last.state}, ${done} of ${last.bands} bands are done: ${why}`);
  }
}

function explained(error: Error): string | undefined {
  if (error instanceof ClientError) {
    const { request, status } = error.details;
    const hint = status === 401 ? "; set AUTH_TOKEN" : "";
    return `${request ? `${request}: ` : ""}${error.message}${hint}`;
  }
  if (error.name === "TimeoutError") return "no answer in time";
  return error instanceof Failed ? error.message : error.stack;
}

main().catch((error) => {
  console.error(`error: ${explained(error)}`);
  process.exit(1);
});
