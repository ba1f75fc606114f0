/**
 * Sobel: the built-in task, and the one-machine program.
 *
 *     bun run sobel.ts in.jpg out.png
 *
 * The program takes the very way of the distributed one (rows, bands, task, stitch) without a queue between, so for
 * the same band size it writes the same bytes. It is what the distributed result is compared with.
 *
 * Gradient magnitude with the 3×3 kernels of Sobel and Feldman (1968), min(255, round(√(gx² + gy²))), edges mirrored
 * without repeating the edge pixel. The loop itself is in kernel.ts.
 */
import { createReadStream, createWriteStream } from "node:fs";
import { rename, rm } from "node:fs/promises";
import { availableParallelism } from "node:os";
import process from "node:process";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { parseArgs } from "node:util";
import { bandRows, DEFAULT_BAND_PIXELS, planBands, split, type Task } from "./chunk.ts";
import { readImage } from "./image.ts";
import { kernel } from "./kernel.ts";
import { encodeBandAside, type GreyImage, Stitcher } from "./png.ts";

export const sobel: Task = {
  name: "sobel",
  halo: 1,
  run({ pixels, width, height, halo }) {
    // A foreign coordinator may send a higher halo than the one row that is needed.
    const rows = height - halo[0] - halo[1];
    const band = pixels.subarray((halo[0] - 1) * width, (halo[0] + rows + 1) * width);
    const edges = new Uint8Array(rows * width);
    kernel.sobel(band, width, rows, edges);
    return edges;
  },
};

/**
 * Runs a task over a whole picture in this process.
 * @returns the pieces of a PNG. While a band is compressed, off this thread, the next are read.
 */
export async function* transform(image: GreyImage, task: Task, bandPixels: number): AsyncGenerator<Uint8Array> {
  const plan = planBands(image.width, image.height, task.halo, bandPixels);
  const stitcher = new Stitcher(plan.width, plan.height);
  const compressing: Promise<Uint8Array>[] = [];
  let next = 0;
  const stitchNext = async () => {
    const png = await compressing.shift()!;
    return stitcher.band(png, bandRows(plan, next++).rows)!;
  };
  yield stitcher.head();
  for await (const { pixels, width, rows, halo } of split(image, plan)) {
    const height = rows + halo[0] + halo[1];
    compressing.push(encodeBandAside(task.run({ pixels, width, height, halo }), width, rows));
    if (compressing.length > availableParallelism()) yield await stitchNext();
  }
  while (compressing.length > 0) yield await stitchNext();
  yield stitcher.tail();
}

const USAGE = `usage: bun run sobel.ts IN OUT.png
       bun run sobel.ts --remote URL [--workers N] [--task NAME] IN OUT.png

  IN       a PNG, JPEG, WebP, TIFF, GIF or AVIF file, or - for standard input
  OUT.png  its Sobel edges, or - for standard output

  --remote URL   sends the picture to the coordinator there, shows how it goes, and fetches the result. What fails in passing is
                 tried again; standard input is first written to a temporary file. Ctrl-C cancels the job
  --workers N    at most so many workers at a time
  --task NAME    another task than sobel
  --help

exit codes
  0    the result is written
  1    it is not: the picture cannot be read, or the job has failed
  2    the command line, or BAND_PIXELS, cannot be read
  130  interrupted`;

const OPTIONS = {
  help: { type: "boolean", short: "h" },
  remote: { type: "string" },
  workers: { type: "string" },
  task: { type: "string" },
} as const;

async function main(args: string[]): Promise<void> {
  const { values, positionals } = parseArgs({ args, allowPositionals: true, options: OPTIONS });
  // Here and not above: a worker's thread loads this file too, and needs neither.
  const { settingsOf, tokenSetting } = await import("./settings.ts");
  if (values.help) return console.log(`${USAGE}\n\n${settingsOf("sobel.ts")}`);
  if (positionals.length !== 2) throw new TypeError(`expected two files, got ${positionals.length}\n${USAGE}`);
  const [from, to] = positionals;
  if (values.remote !== undefined) {
    const { remote } = await import("./remote.ts");
    const { workers, task = "sobel" } = values;
    return remote({ origin: originOf(values.remote), from, to, task, workers, token: tokenSetting() });
  }
  if (values.workers !== undefined || values.task !== undefined) {
    throw new TypeError("--workers and --task: only with --remote");
  }
  const bandPixels = Number(process.env.BAND_PIXELS ?? DEFAULT_BAND_PIXELS);
  if (!(bandPixels >= 1))
    throw new TypeError(`BAND_PIXELS: expected a number of pixels, got ${process.env.BAND_PIXELS}`);
  const image = await readImage(from === "-" ? process.stdin : createReadStream(from, { highWaterMark: 1 << 18 }));
  const png = Readable.from(transform(image, sobel, bandPixels));
  if (to === "-") return pipeline(png, process.stdout);
  // Written beside and renamed, so that a bad picture does not cost the file that stood there.
  const part = `${to}.part`;
  try {
    await pipeline(png, createWriteStream(part));
    await rename(part, to);
  } catch (error) {
    await rm(part, { force: true });
    throw error;
  }
}

/** @throws TypeError, without the address, which may hold a password */
function originOf(text: string): URL {
  const url = URL.parse(text);
  if (url && /^https?:$/.test(url.protocol) && url.username === "" && url.password === "") {
    url.search = "";
    url.hash = "";
    if (!url.pathname.endsWith("/")) url.pathname += "/";
    return url;
  }
  throw new TypeError("--remote: expected http://host:port or https://host, without a user or password");
}

if (import.meta.main) {
  main(process.argv.slice(2)).then(
    // Once the output is out; standard input, which may stay open behind the picture, is not waited for.
    () => process.stdout.write("", () => process.exit()),
    (error) => {
      console.error(`sobel.ts: ${error.message}`);
      process.exit(error.exitCode ?? (error instanceof TypeError ? 2 : 1));
    },
  );
}
