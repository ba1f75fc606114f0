/**
 * The client of 6-smoke.sh: asks a running coordinator for its health, sends it a picture, and compares what comes back.
 *
 *     bun run pipelines/smoke.ts URL PICTURE SECONDS
 *
 * It sends again what is not answered, or with 502 to 504, as any client of the system may, under the same id: so it
 * passes while pods come and go. SECONDS is how long it does so for each step.
 */
import { createHash, randomUUID } from "node:crypto";
import { createReadStream, readFileSync } from "node:fs";
import process from "node:process";
import { transform } from "../cli/local.ts";
import { readImage } from "../picture/read.ts";
import { task as sobel } from "../sobel.ts";

/** How long one answer may take, ms: an upload lasts as long as its job. */
const ANSWER_MS = 120_000;
/** How long an accepted job may take, ms. */
const JOB_MS = 120_000;
const PAUSE_MS = 500;

const [url, picture, seconds] = process.argv.slice(2);
const base = url.endsWith("/") ? url : `${url}/`;
const token = process.env.AUTH_TOKEN;

class Failed extends Error {}

/** @returns the first answer that is not the fault of something that comes up or goes down, and its body */
async function ask(path: string, init: RequestInit = {}): Promise<{ response: Response; body: Buffer }> {
  const headers: Record<string, string> = token ? { authorization: `Bearer ${token}` } : {};
  for (const deadline = Date.now() + Number(seconds) * 1000; ; ) {
    let why: string;
    try {
      const signal = AbortSignal.timeout(ANSWER_MS);
      const response = await fetch(new URL(path, base), { ...init, headers, signal });
      const body = Buffer.from(await response.arrayBuffer());
      if (![502, 503, 504].includes(response.status)) return { response, body };
      why = sentence(response, body);
    } catch (error) {
      [why] = (error as Error).message.split(". "); // what follows is Bun's advice to programmers
    }
    if (Date.now() > deadline) throw new Failed(`${path}: no answer of use in ${seconds} s: ${why}`);
    await new Promise((wake) => setTimeout(wake, PAUSE_MS));
  }
}

/** What the server says is wrong, in its own words where it has any. */
function sentence(response: Response, body: Buffer): string {
  let detail = body.toString().slice(0, 200);
  if (response.headers.get("content-type")?.includes("json")) {
    const { detail: told, status } = JSON.parse(body.toString());
    detail = told ?? status ?? detail;
  }
  const hint = response.status === 401 ? "; give it in AUTH_TOKEN" : "";
  return `${detail} (HTTP ${response.status}${hint})`;
}

/** @throws Failed unless the answer has this status */
async function expect(status: number, path: string, init?: RequestInit): Promise<Buffer> {
  const { response, body } = await ask(path, init);
  if (response.status === status) return body;
  throw new Failed(`${init?.method ?? "GET"} ${path}: expected ${status}, got: ${sentence(response, body)}`);
}

async function json(path: string) {
  const body = await expect(200, path);
  try {
    return JSON.parse(body.toString());
  } catch {
    throw new Failed(`${path}: expected JSON, got ${JSON.stringify(body.toString().slice(0, 60))}`);
  }
}

interface Job {
  state: string;
  error: string | null;
  width: number;
  height: number;
  rows: number;
  bands: number;
  done: number;
  waiting: boolean;
  byWorker: Record<string, unknown>;
}

/** The job, once it is done. */
async function finished(path: string): Promise<Job> {
  for (const deadline = Date.now() + JOB_MS; ; ) {
    const job: Job = await json(path);
    if (job.state === "done") return job;
    if (job.state === "failed") throw new Failed(`the job failed: ${job.error}`);
    if (Date.now() > deadline) {
      const why = job.waiting ? "no worker is alive" : "no end is in sight";
      throw new Failed(`the job is ${job.state}, ${job.done} of ${job.bands} bands after ${JOB_MS / 1000} s: ${why}`);
    }
    await new Promise((wake) => setTimeout(wake, PAUSE_MS / 5));
  }
}

async function oneMachine(bandPixels: number): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of transform(await readImage(createReadStream(picture)), sobel, bandPixels))
    pieces.push(piece);
  return Buffer.concat(pieces);
}

async function main(): Promise<void> {
  console.log(`==> ${url}: healthy and ready`);
  await expect(200, "healthz");
  await expect(200, "readyz");

  const bytes = readFileSync(picture);
  console.log(`==> a picture through it, ${(bytes.length / 1e6).toFixed(1)} MB`);
  const path = `jobs/${randomUUID()}`;
  const start = performance.now();
  await expect(202, path, { method: "PUT", body: bytes });
  const { width, height, rows, bands, byWorker } = await finished(path);
  const result = await expect(200, `${path}/result`);
  const took = ((performance.now() - start) / 1000).toFixed(2);
  console.log(`    ${width} × ${height}, ${bands} bands, by ${Object.keys(byWorker).join(", ")}, in ${took} s`);

  console.log("==> the bytes of the one-machine program");
  // With bands of the same height, whatever the server's BAND_PIXELS is: they show in the compressed bytes.
  const expected = await oneMachine(rows * width);
  const at = result.length === expected.length ? result.compare(expected) : 1;
  await expect(204, path, { method: "DELETE" });
  if (at !== 0) {
    const first = expected.findIndex((byte, i) => byte !== result[i]);
    throw new Failed(`expected ${expected.length} bytes, got ${result.length}; they differ from byte ${first} on`);
  }
  console.log(
    `    ${expected.length} bytes, SHA-256 ${createHash("sha256").update(result).digest("hex").slice(0, 16)}…`,
  );

  console.log("==> the workers");
  const { workers } = await json("workers");
  if (!workers?.length) throw new Failed("/workers: expected at least one, got none");
  for (const { name, host, runtime } of workers) console.log(`    ${name} (${runtime} on ${host})`);
  console.log(`all well: ${url}`);
}

main().catch((error) => {
  console.error(`error: ${error instanceof Failed ? error.message : error.stack}`);
  process.exit(1);
});
