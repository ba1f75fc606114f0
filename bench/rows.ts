/**
 * The rows of the benchmark: each function measures one thing and returns its figures.
 *
 * Not here: the rows on load (load.ts), how time is measured (measure.ts), what is started (setup.ts), how rows are
 * printed (report.ts).
 */
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { inflateSync } from "node:zlib";
import sharp from "sharp";
import { type Band, chunkIdOf, encodeMessage, planBands, split } from "../chunk.ts";
import { DEFAULT_BAND_PIXELS } from "../ops/settings.ts";
import { simd } from "../picture/kernel/kernel.ts";
import { onePiece } from "../picture/picture.ts";
import { readPng } from "../picture/png-read.ts";
import { encodeBand } from "../picture/png-write.ts";
import { inPieces, UNLIMITED } from "../test/pictures.ts";
import type { Service } from "./cluster.ts";
import { backlog, latency, memory, scaling } from "./load.ts";
import {
  alternate,
  compare,
  distributedName,
  median,
  quantile,
  type Row,
  type Subject,
  subject,
  timed,
} from "./measure.ts";
import { runToEnd } from "./peers.ts";
import { idatOf, megapixels } from "./pictures.ts";
import { type Bench, PICTURES } from "./setup.ts";

/** The rows by the names that `--only` takes, in the order of measuring and printing. README.md's rows come first. */
export const ROWS: Record<string, (bench: Bench) => Promise<Row[]>> = {
  kernel,
  embedded,
  distributed,
  course,
  small,
  decode,
  encode,
  floor,
  program,
  cpu,
  wire,
  memory,
  backlog,
  scaling,
  latency,
};

/** Our kernel over the bands of a picture. The copy shows the limit that memory sets. */
async function kernel(bench: Bench): Promise<Row[]> {
  const { sobel } = simd();
  const bands = await bandsOf(bench);
  const ours = () => bands.forEach(({ pixels, width, rows, edges }) => void sobel(pixels, width, rows, edges));
  const copy = () =>
    bands.forEach(({ pixels, width, rows, edges }) => void edges.set(pixels.subarray(width, (rows + 1) * width)));
  return comparison(bench, "Sobel kernel, one thread", "ms", [
    subject(ours),
    ...bench.opencv({ do: "sobel", threads: 1, depth: "CV_64F" }),
    ...bench.opencv({ do: "sobel", threads: 1, depth: "CV_32F" }),
    { name: "a copy in memory", once: () => timed(copy) },
  ]);
}

async function embedded(bench: Bench): Promise<Row[]> {
  const [service, file] = [await bench.embedded(), await bench.file()];
  return wholeJob(bench, "one process over HTTP", () => service.send(file));
}

async function distributed(bench: Bench): Promise<Row[]> {
  const cluster = await bench.cluster();
  const [service, file] = [await cluster.coordinator(), await bench.file()];
  const rows: Row[] = [];
  for (const count of [1, 2, 3, 4]) {
    await cluster.resize(count);
    const jobs = await wholeJob(bench, distributedName(count), () => service.send(file));
    rows.push(...jobs.map((row) => ({ ...row, workers: { count, share: 1 } })));
  }
  return rows;
}

async function course(bench: Bench): Promise<Row[]> {
  const peers = await bench.course(2);
  if (peers.length === 0) return [];
  const cluster = await bench.cluster();
  const [service, file] = [await cluster.coordinator(), await bench.file()];
  await cluster.resize(2);
  return comparison(bench, distributedName(2), "s", [subject(() => service.send(file)), ...peers]);
}

/** Small pictures: the latency of one client, and the throughput of several. */
async function small(bench: Bench): Promise<Row[]> {
  const cluster = await bench.cluster();
  await cluster.resize(2);
  return [
    ...(await smallJobs(bench, "one process over HTTP", await bench.embedded())),
    ...(await smallJobs(bench, distributedName(2), await cluster.coordinator())),
  ];
}

async function smallJobs(bench: Bench, what: string, service: Service): Promise<Row[]> {
  const picture = PICTURES.small;
  const file = await bench.file(picture);
  const subjects = [subject(() => service.send(file)), ...bench.opencv({ do: "job", threads: bench.cores }, picture)];
  await alternate([subjects[0]], bench.quick ? 10 : 50); // until the runtime has compiled the hot code
  const series = await alternate(subjects, bench.quick ? 20 : 300);
  const [p50] = rowsOf({ what: `${what}, p50`, picture, unit: "ms" }, subjects, series);
  const rows: Row[] = [p50, { what: `${what}, p99`, picture, unit: "ms", ours: 1000 * quantile(series[0], 0.99) }];
  for (const clients of [1, 8, 32]) {
    const jobs = bench.quick ? 32 : 400;
    let left = jobs;
    const client = async () => {
      while (left-- > 0) await service.send(file);
    };
    const seconds = await timed(() => Promise.all(Array.from({ length: clients }, client)));
    const name = `${what}, ${clients} ${clients === 1 ? "client" : "clients"}`;
    rows.push({ what: name, picture, ours: jobs / seconds, unit: "jobs/s" });
  }
  return rows;
}

async function decode(bench: Bench): Promise<Row[]> {
  const bytes = await bench.bytes();
  const ours = async () => {
    const { blocks } = await readPng(inPieces(bytes, 1 << 16), UNLIMITED);
    for await (const _ of blocks);
  };
  return comparison(bench, "PNG to grey rows", "s", [
    subject(ours),
    ...bench.opencv({ do: "decode", threads: 1 }),
    { name: "sharp", once: () => timed(() => sharp(bytes, { limitInputPixels: false }).greyscale().raw().toBuffer()) },
  ]);
}

async function encode(bench: Bench): Promise<Row[]> {
  const { width, height } = bench.sketch;
  const bands = await bandsOf(bench);
  const edges = Buffer.concat(bands.map(edgesOf));
  let bytes = 0;
  const ours = () => {
    bytes = bands.reduce((sum, { edges, width, rows }) => sum + encodeBand(edges, width, rows).length, 0);
  };
  const raw = { width, height, channels: 1 } as const;
  const rows = await comparison(bench, "grey rows to PNG, one thread", "s", [
    subject(ours),
    ...bench.opencv({ do: "encode", threads: 1 }),
    { name: "sharp", once: () => timed(() => sharp(edges, { raw }).png().toBuffer()) },
  ]);
  const size: Row = { what: "size of the result", picture: bench.sketch, ours: bytes / 1e6, unit: "MB" };
  const theirs = (await bench.python({ do: "encode", threads: 1 }))?.bytes;
  if (!theirs) return [...rows, size];
  const [peer, value] = [{ name: "OpenCV", value: theirs / 1e6 }, bytes / theirs];
  return [...rows, { ...size, peer, ratio: { value, low: value, high: value } }];
}

/** The part of a job that one thread does in sequence: a PNG holds a single compressed stream. */
async function floor(bench: Bench): Promise<Row[]> {
  const data = idatOf(await bench.bytes());
  // By default zlib returns 16 KiB at a time, which doubles the time.
  const ours = () => inflateSync(data, { chunkSize: 1 << 20 });
  return wholeJob(bench, "zlib inflates the input, one thread", ours);
}

async function program(bench: Bench): Promise<Row[]> {
  const path = await bench.path();
  const out = join(tmpdir(), `sobel-bench-${process.pid}.png`);
  const ours = () => runToEnd(process.execPath, "run", "sobel.ts", path, out);
  const rows = await wholeJob(bench, "sobel.ts, start-up included", ours);
  await rm(out, { force: true });
  return rows;
}

/** CPU time of distributed jobs by role, without the client's. */
async function cpu(bench: Bench): Promise<Row[]> {
  const cluster = await bench.cluster();
  await cluster.resize(2);
  const [service, file] = [await cluster.coordinator(), await bench.file()];
  for (let i = 0; i < 2; i++) await service.send(file);
  const before = await cluster.cpu();
  for (let i = 0; i < bench.rounds; i++) await service.send(file);
  const after = await cluster.cpu();
  const all = bench.rounds * megapixels(bench.sketch);
  return (Object.keys(after) as (keyof typeof after)[]).map((role) => {
    const ours = (1000 * (after[role] - before[role])) / all;
    return { what: role, picture: bench.sketch, ours, unit: "CPU ms/Mpx" };
  });
}

/** Bytes for each pixel of the picture. */
async function wire(bench: Bench): Promise<Row[]> {
  let [message, result] = [0, 0];
  for (const band of await bandsOf(bench)) {
    const { pixels, rows, halo, width, channels, number } = band;
    const chunkId = chunkIdOf(crypto.randomUUID(), number);
    message += encodeMessage({ chunkId, task: "sobel", halo, width, height: rows + 2, channels, pixels }).length;
    result += Math.ceil(encodeBand(edgesOf(band), width, rows).length / 3) * 4; // base64
  }
  const base = { picture: bench.sketch, unit: "bytes/px" } as const;
  const pixels = 1e6 * megapixels(bench.sketch);
  return [
    { ...base, what: "messages through RabbitMQ, in and out once each", ours: message / pixels },
    { ...base, what: "results through Redis, in and out once each", ours: result / pixels },
  ];
}

/** A whole job compared with OpenCV's in one process, on all cores. */
function wholeJob(bench: Bench, what: string, ours: () => unknown): Promise<Row[]> {
  return comparison(bench, what, "s", [subject(ours), ...bench.opencv({ do: "job", threads: bench.cores })]);
}

/** Measures the first subject alternately with the others. @returns as `rowsOf` */
async function comparison(bench: Bench, what: string, unit: "s" | "ms", subjects: Subject[]): Promise<Row[]> {
  return rowsOf({ what, picture: bench.sketch, unit }, subjects, await alternate(subjects, bench.rounds));
}

/** A row for each peer; a single row if there is no peer. */
function rowsOf(base: Pick<Row, "what" | "picture" | "unit">, subjects: Subject[], series: number[][]): Row[] {
  const [ours, ...peers] = series;
  const value = (seconds: number[]) => median(seconds) * (base.unit === "ms" ? 1000 : 1);
  if (peers.length === 0) return [{ ...base, ours: value(ours) }];
  return peers.map((seconds, i) => {
    const peer = { name: subjects[i + 1].name, value: value(seconds) };
    return { ...base, ours: value(ours), peer, ratio: compare(ours, seconds) };
  });
}

type BandWithEdges = Band & { edges: Uint8Array<ArrayBuffer> };

/** A picture's bands, each with a buffer for its edges. */
async function bandsOf(bench: Bench, picture = bench.sketch): Promise<BandWithEdges[]> {
  const image = await readPng(onePiece(await bench.bytes(picture)), UNLIMITED);
  const bands = await Array.fromAsync(
    split(image, planBands(image.width, image.height, 1, { pixels: DEFAULT_BAND_PIXELS })),
  );
  return bands.map((band) => ({ ...band, edges: new Uint8Array(band.rows * band.width) }));
}

function edgesOf({ pixels, width, rows, edges }: BandWithEdges): Uint8Array {
  simd().sobel(pixels, width, rows, edges);
  return edges;
}
