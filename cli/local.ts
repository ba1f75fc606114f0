/**
 * The one-machine program: Sobel, or any other task, over one picture.
 *
 *     bun run sobel.ts in.jpg out.png
 *     bun run sobel.ts --task blur --params sigma=2.5 in.jpg out.png
 *
 * The picture passes the same steps as in the distributed program (rows, bands, task, stitch), without the queue. For
 * the same band size both write the same bytes, so the distributed results are compared with those of this program.
 *
 * Also the command line of `sobel.ts` and its exit codes.
 *
 * Not here: the tasks (tasks/), the output file (output.ts), a job sent to a coordinator with --remote (remote.ts).
 */
import { createReadStream } from "node:fs";
import process from "node:process";
import { parseArgs } from "node:util";
import { bandRows, jsonIn, split } from "../chunk.ts";
import { DEFAULT_BAND_PIXELS, settingsOf, tokenSetting } from "../ops/settings.ts";
import type { Raster } from "../picture/picture.ts";
import { Stitcher } from "../picture/png-write.ts";
import { readImage } from "../picture/read.ts";
import { SpoolDisk } from "../picture/spool.ts";
import { firstStepOf, isData, isList, type ListTask, type Task, type Values } from "../task.ts";
import { loadTasks } from "../tasks/index.ts";
import { listPieces } from "../tasks/list.ts";
import { derivedParams, ParamError, queryValues, sharedParams } from "../tasks/params.ts";
import { planOf, resultOf } from "../tasks/plan.ts";
import { encodedResult, finished, runTask } from "../tasks/run.ts";
import { sentenceOf } from "../tasks/thrown.ts";
import { openOutput } from "./output.ts";

/**
 * Runs a task over a whole picture in this process.
 * @returns the pieces of a PNG, or of the JSON of a data task
 */
export async function* transform(
  image: Raster,
  task: Task,
  bandPixels: number,
  params: Values = queryValues(task, new URLSearchParams()),
): AsyncGenerator<Uint8Array> {
  const step = firstStepOf(task, params);
  if (!step) return yield* transformed(image, task, bandPixels, params);
  const spool = await new SpoolDisk(Number.POSITIVE_INFINITY).open(image);
  try {
    const shared = sharedParams(step.task, params);
    const data = await Array.fromAsync(transform(spool.passing(image), step.task, bandPixels, shared));
    const derived = derivedParams(task, step, jsonIn(Buffer.concat(data), "data"), params);
    yield* transformed(spool.again(image), task, bandPixels, { ...params, ...derived });
  } finally {
    await spool.close();
  }
}

/** `transform` for a list task. @param body the input that the task may cut into pieces */
export async function* transformList(
  task: ListTask,
  body: AsyncIterable<Uint8Array>,
  params: Values = queryValues(task, new URLSearchParams()),
): AsyncGenerator<Uint8Array> {
  const list = await listPieces(task, params, body, 0);
  const { rows } = planOf(task, { params, workers: null, bandPixels: list.bandPixels }, list);
  let merged: unknown;
  for await (const band of list.bands({ rows })) {
    const part = JSON.parse((await runTask(task, { ...band, height: 1, params })) as string);
    merged = band.number === 0 ? part : task.merge(merged, part);
    if (task.isDecided?.(merged, params)) break;
  }
  yield Buffer.from(`${JSON.stringify(finished(task, merged, params))}\n`);
}

/** Inflates the next bands on another thread while a band is computed. */
async function* transformed(image: Raster, task: Task, bandPixels: number, params: Values): AsyncGenerator<Uint8Array> {
  const plan = planOf(task, { params, workers: null, bandPixels }, image);
  const whole = resultOf(plan);
  const stitcher = new Stitcher(whole.width, whole.height, plan.channels);
  let merged: unknown;
  if (!isData(task)) yield stitcher.head();
  for await (const { number, pixels, width, channels, y, rows, halo } of split(image, plan)) {
    const height = rows + halo[0] + halo[1];
    const band = { pixels, width, height, channels, halo, position: [y, plan.height] as [number, number], params };
    const made = await encodedResult(task, band);
    if (!isData(task)) yield stitcher.band(made, bandRows(whole, number).rows)!;
    else merged = number === 0 ? jsonIn(made, "data") : task.merge(merged, jsonIn(made, "data"));
  }
  yield isData(task) ? Buffer.from(`${JSON.stringify(finished(task, merged, params))}\n`) : stitcher.tail();
}

const USAGE = `usage: bun run sobel.ts [--task NAME] [--params QUERY] IN OUT
       bun run sobel.ts --remote URL [--workers N] [--task NAME] [--params QUERY] IN OUT
       bun run sobel.ts [--remote URL] --task NAME [--params QUERY] OUT

  IN   a PNG, JPEG, WebP, TIFF, GIF or AVIF file, or - for standard input. What a list task takes, such as a text; some
       take nothing
  OUT  its Sobel edges, a PNG, or - for standard output. A file is replaced when the result is complete, a link's
       target likewise; a device or a pipe is written through

  --task NAME     the task to run, sobel by default; some tasks write JSON instead of a PNG
  --params QUERY  the task's own parameters: 'sigma=2.5', several separated by &
  --remote URL    sends the picture to the coordinator at URL, shows the progress, and fetches the result. Temporary
                  failures are retried; standard input is first written to a temporary file. Ctrl-C cancels the job
  --workers N     at most N workers at a time
  --help          prints this

exit codes
  0    the result is written
  1    no result: the picture cannot be read, or the job has failed
  2    the command line, or BAND_PIXELS, is invalid
  130  interrupted`;

const OPTIONS = {
  help: { type: "boolean", short: "h" },
  remote: { type: "string" },
  workers: { type: "string" },
  task: { type: "string", default: "sobel" },
  params: { type: "string", default: "" },
} as const;

/** The command line, or BAND_PIXELS, is invalid. */
class UsageError extends Error {}

/** Runs the command line, then ends the process with one of the exit codes above. */
export function main(args: string[]): void {
  run(args).then(
    // Exits when the output is written: standard input may stay open after the end of the picture.
    () => process.stdout.write("", () => process.exit()),
    (error) => {
      const isUsage = error instanceof ParamError || error instanceof UsageError;
      console.error(`sobel.ts: ${isUsage ? error.message : sentenceOf(error)}`);
      process.exit(error.exitCode ?? (isUsage ? 2 : 1));
    },
  );
}

function parsed(args: string[]) {
  try {
    return parseArgs({ args, allowPositionals: true, options: OPTIONS });
  } catch (cause) {
    throw new UsageError((cause as Error).message, { cause });
  }
}

async function run(args: string[]): Promise<void> {
  const { values, positionals } = parsed(args);
  if (values.help) return console.log(`${USAGE}\n\n${settingsOf("sobel.ts")}`);
  const to = positionals.at(-1);
  const from = positionals.length === 2 ? positionals[0] : null;
  if (to === undefined || positionals.length > 2 || (from === null && values.task === "sobel"))
    throw new UsageError(`expected two files, got ${positionals.length}\n${USAGE}`);
  if (values.remote !== undefined) {
    const { remote } = await import("./remote.ts");
    const { workers, task, params } = values;
    const job = { origin: originOf(values.remote), from, task, params, workers, token: tokenSetting() };
    return remote(job, await openOutput(to));
  }
  if (values.workers !== undefined) throw new UsageError("--workers: only with --remote");
  const bandPixels = Number(process.env.BAND_PIXELS || DEFAULT_BAND_PIXELS);
  if (!(bandPixels >= 1))
    throw new UsageError(`BAND_PIXELS: expected a number of pixels, got ${process.env.BAND_PIXELS}`);
  const tasks = await loadTasks(process.env.TASKS);
  const task = tasks.newest(values.task);
  if (!task) throw new UsageError(`unknown task ${values.task}: expected ${tasks.names().join(", ")}`);
  const params = queryValues(task, new URLSearchParams(values.params));
  const takes = isList(task) ? task.takes : "picture";
  if (takes && from === null) throw new UsageError(`${task.name} takes a ${takes}: expected two files, got one`);
  if (!takes && from !== null)
    throw new UsageError(`${task.name} takes no file: expected one file for its result, got two`);
  const body = from === "-" ? process.stdin : createReadStream(from ?? "/dev/null", { highWaterMark: 1 << 18 });
  const made = isList(task)
    ? transformList(task, body, params)
    : transform(await readImage(body, undefined, undefined, task.channels), task, bandPixels, params);
  await (await openOutput(to)).write(made);
}

/** @throws UsageError whose text omits the address, because that may contain a password */
function originOf(text: string): URL {
  const url = URL.parse(text);
  if (url && /^https?:$/.test(url.protocol) && url.username === "" && url.password === "") {
    url.search = "";
    url.hash = "";
    return url;
  }
  throw new UsageError("--remote: expected http://host:port or https://host, without a user or password");
}
