/**
 * The rows of the benchmark but for those on how it grows (scaling.ts): each measures, and says what came out.
 *
 * Not here: how it is measured (measure.ts), what is started (bench.ts), how rows are shown (report.ts).
 */
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { Readable } from "node:stream";
import { inflateSync } from "node:zlib";
import sharp from "sharp";
import { type Band, chunkIdOf, encodeMessage, planBands, split } from "../chunk.ts";
import { transform } from "../cli/local.ts";
import { openLog } from "../ops/log.ts";
import { DEFAULT_BAND_PIXELS } from "../ops/settings.ts";
import { Inflater } from "../picture/kernel/inflate.ts";
import { simd } from "../picture/kernel/kernel.ts";
import { collectPixels, onePiece, type PixelLimits } from "../picture/picture.ts";
import { readPng } from "../picture/png-read.ts";
import { encodeBand } from "../picture/png-write.ts";
import { RabbitQueue } from "../queue.ts";
import { task as sobel } from "../sobel.ts";
import { type Cluster, peakMegabytes, ROLES, Service } from "./cluster.ts";
import { type Contestant, duel, inTurn, median, quantile, timed } from "./measure.ts";
import { runToEnd } from "./peers.ts";
import { megapixels, pngPieces, type Sketch } from "./pictures.ts";
import { type Bench, PICTURES } from "./setup.ts";

/** What one measurement came to. */
export interface Row {
  what: string;
  picture: Sketch;
  ours: number;
  unit: "s" | "ms" | "Mpx/s" | "MB" | "bytes/px" | "jobs/s" | "CPU s" | "CPU ms";
  /** Another program's figure, of the same unit, measured in turn with ours. */
  peer?: { name: string; value: number };
  /** Ours to the peer's, as times (or sizes): below 1 ours is better. From `low` to `high`: the middle half of the pairs. */
  ratio?: { value: number; low: number; high: number };
  /** What is aimed at: of the ratio, or of our figure, at most; or of our figure at least. */
  target?: { ratio?: number; most?: number; least?: number };
}

const UNLIMITED: PixelLimits = { streamed: 1e9, whole: 1e9 };

/** Our Sobel over the bands of a picture, one thread. A copy of the same bytes is as fast as memory lets anything be. */
export async function kernelRow(bench: Bench): Promise<Row[]> {
  const picture = bench.sketch;
  const image = await readPng(onePiece(await bench.bytes()), UNLIMITED);
  const bands: Band[] = [];
  for await (const band of split(image, planBands(image.width, image.height, 1, DEFAULT_BAND_PIXELS))) bands.push(band);
  const { sobel } = simd();
  const out = bands.map(({ rows, width }) => new Uint8Array(rows * width));
  const ours = () => bands.forEach(({ pixels, width, rows }, i) => void sobel(pixels, width, rows, out[i]));
  const copy = () =>
    bands.forEach(({ pixels, width, rows }, i) => void out[i].set(pixels.subarray(width, (rows + 1) * width)));
  const rows = await against(bench, "Sobel alone, one thread", picture, [
    { name: "", once: () => timed(ours) },
    ...(await bench.opencv({ do: "sobel", depth: "CV_64F" }, 1)),
    ...(await bench.opencv({ do: "sobel", depth: "CV_32F" }, 1)),
    { name: "a copy in memory", once: () => timed(copy) },
  ]);
  const speed = (seconds: number) => megapixels(picture) / seconds;
  return rows.map((row) => {
    const target = row.peer?.name.endsWith("CV_64F") ? { ratio: 0.33 } : undefined;
    const peer = row.peer && { ...row.peer, value: speed(row.peer.value) };
    return { ...row, ours: speed(row.ours), unit: "Mpx/s", ...(peer && { peer }), ...(target && { target }) };
  });
}

export async function inflateRow(bench: Bench): Promise<Row[]> {
  const data = idatOf(await bench.bytes());
  // Its own steps of 16 KiB would be half the time.
  const zlib = () => inflateSync(data, { chunkSize: 1 << 20 });
  return against(bench, "inflate alone, one thread", bench.sketch, [
    { name: "", once: () => timed(() => inflate(data)) },
    { name: "zlib", once: () => timed(zlib) },
  ]);
}

export async function decodeRow(bench: Bench): Promise<Row[]> {
  const bytes = await bench.bytes();
  const whole = async () => {
    const image = await readPng(inPieces(bytes, 1 << 16), UNLIMITED);
    for await (const _ of image.blocks);
  };
  return against(bench, "PNG → rows of grey", bench.sketch, [
    { name: "", once: () => timed(whole) },
    ...(await bench.opencv({ do: "decode" }, 1)),
    { name: "sharp", once: () => timed(() => sharp(bytes, { limitInputPixels: false }).greyscale().raw().toBuffer()) },
  ]);
}

export async function encodeRow(bench: Bench): Promise<Row[]> {
  const { width, height } = bench.sketch;
  const image = await readPng(onePiece(await bench.bytes()), UNLIMITED);
  const grey = await collectPixels(image);
  const mirrored = Buffer.concat([grey.subarray(width, 2 * width), grey, grey.subarray(-2 * width, -width)]);
  const edges = new Uint8Array(grey.length);
  simd().sobel(mirrored, width, height, edges);
  const plan = planBands(width, height, 0, DEFAULT_BAND_PIXELS);
  let bytes = 0;
  const ours = () => {
    bytes = 0;
    for (let at = 0; at < edges.length; at += plan.rows * width) {
      const band = edges.subarray(at, at + plan.rows * width);
      bytes += encodeBand(band, width, band.length / width).length;
    }
  };
  const raw = { width, height, channels: 1 } as const;
  const rows = await against(bench, "rows → PNG, one thread", bench.sketch, [
    { name: "", once: () => timed(ours) },
    ...(await bench.opencv({ do: "encode" }, 1)),
    { name: "sharp", once: () => timed(() => sharp(edges, { raw }).png().toBuffer()) },
  ]);
  const theirs = bench.peerBytes.get("encode");
  const sizes = theirs && {
    peer: { name: "OpenCV", value: theirs / 1e6 },
    ...even(bytes / theirs),
    target: { ratio: 1 },
  };
  return [...rows, { what: "size of the result", picture: bench.sketch, ours: bytes / 1e6, unit: "MB", ...sizes }];
}

/** What no design goes below: the input is inflated by one thread, a byte after the other. */
export async function floorRow(bench: Bench): Promise<Row[]> {
  const data = idatOf(await bench.bytes());
  return wholeJob(bench, "the floor: the input inflated", { name: "", once: () => timed(() => inflate(data)) });
}

export async function oneMachineRow(bench: Bench): Promise<Row[]> {
  const path = await bench.path();
  const out = join(tmpdir(), `sobel-bench-${process.pid}.png`);
  const once = () => timed(() => runToEnd(process.execPath, "run", "sobel.ts", path, out));
  const rows = await wholeJob(bench, "sobel.ts, its start included", { name: "", once });
  await rm(out, { force: true });
  return rows;
}

export async function embeddedRow(bench: Bench): Promise<Row[]> {
  const [service, file] = [await bench.embedded(), await bench.file()];
  const once = () => timed(() => service.send(file));
  return wholeJob(bench, "one process, over HTTP", { name: "", once }, { ratio: 0.55 });
}

export async function distributedRow(bench: Bench): Promise<Row[]> {
  const cluster = await bench.cluster();
  const [service, file] = [await cluster.coordinator(), await bench.file()];
  const rows: Row[] = [];
  for (const workers of [1, 2, 3, 4]) {
    await cluster.resize(workers);
    const once = () => timed(() => service.send(file));
    const target = workers === 2 ? { ratio: 0.75 } : undefined;
    const [row] = await wholeJob(bench, `distributed, workers: ${workers}`, { name: "", once }, target);
    bench.distributed.set(workers, row.ours);
    rows.push(row);
  }
  return rows;
}

export async function courseRow(bench: Bench): Promise<Row[]> {
  const cluster = await bench.cluster();
  const [service, file] = [await cluster.coordinator(), await bench.file()];
  await cluster.resize(2);
  const once = () => timed(() => service.send(file));
  const peers = await bench.course(2);
  const rows = await against(bench, "distributed, workers: 2", bench.sketch, [{ name: "", once }, ...peers]);
  return peers.length === 0 ? [] : rows.map((row) => ({ ...row, target: { ratio: 0.25 } }));
}

export async function vipsRow(bench: Bench): Promise<Row[]> {
  if (!bench.peers.vips) return [];
  const [service, file, path] = [await bench.embedded(), await bench.file(), await bench.path()];
  const out = join(tmpdir(), `sobel-bench-${process.pid}-vips.png`);
  const rows = await against(bench, "one process, over HTTP", bench.sketch, [
    { name: "", once: () => timed(() => service.send(file)) },
    // Its own Sobel is of 8 bits and not exact; its PNG is at its fastest here.
    { name: "libvips", once: () => timed(() => runToEnd("vips", "sobel", path, `${out}[compression=1]`)) },
  ]);
  await rm(out, { force: true });
  return rows;
}

/** A picture of 640 × 480 at a time, and as many as 8 and 32 clients send. */
export async function smallRow(bench: Bench): Promise<Row[]> {
  const cluster = await bench.cluster();
  await cluster.resize(2);
  return [
    ...(await smallFloorRows(bench, cluster)),
    ...(await smallRows(bench, "one process", await bench.embedded(), { most: 6 })),
    ...(await smallRows(bench, "distributed, workers: 2", await cluster.coordinator(), { most: 12 }, { least: 100 })),
  ];
}

/**
 * What its work takes as calls of functions, one after the other in one thread, and what the broker takes to have its
 * message on disk: the rest is HTTP, threads and the store.
 */
async function smallFloorRows(bench: Bench, cluster: Cluster): Promise<Row[]> {
  const picture = PICTURES.small;
  const bytes = await bench.bytes(picture);
  const data = idatOf(bytes);
  const reading = () => readPng(onePiece(bytes), UNLIMITED);
  const work = async () => Array.fromAsync(transform(await reading(), sobel, DEFAULT_BAND_PIXELS));
  for (let i = 0; i < 50; i++) await work();

  const task = "floor"; // of no worker
  const queue = await RabbitQueue.connect(cluster.env.RABBITMQ_URL, openLog("error"));
  await queue.consume([task], async () => ({ do: "done" }));
  const plan = planBands(picture.width, picture.height, 1, DEFAULT_BAND_PIXELS);
  const [{ pixels, halo, width }] = await Array.fromAsync(split(await reading(), plan));
  const chunk = {
    chunkId: chunkIdOf(crypto.randomUUID(), 0),
    task,
    halo,
    width,
    height: pixels.length / width,
    pixels,
  };
  for (let i = 0; i < 20; i++) await queue.publish(chunk);

  const floors = [
    { name: "the floor: the input inflated", once: () => timed(() => inflate(data)) },
    { name: "the work alone, one thread", once: () => timed(work) },
    { name: "the floor: RabbitMQ confirms its message", once: () => timed(() => queue.publish(chunk)) },
  ];
  const times = await inTurn(floors, bench.quick ? 60 : 300);
  await queue.close();
  return floors.map(({ name }, i) => ({ what: `${name}: p50`, picture, ours: median(times[i]) * 1000, unit: "ms" }));
}

async function smallRows(bench: Bench, what: string, service: Service, p50: Row["target"], rate?: Row["target"]) {
  const picture = PICTURES.small;
  const file = await bench.file(picture);
  const one = () => timed(() => service.send(file));
  for (let i = 0; i < 50; i++) await one(); // until the runtime has compiled what it will
  const [ours, theirs] = await inTurn(
    [{ name: "", once: one }, ...(await bench.opencv({ do: "job" }, bench.cores, picture))],
    bench.quick ? 60 : 300,
  );
  const { peer, ratio, low, high } = duel(ours, theirs ?? ours);
  const other = theirs && { peer: { name: "OpenCV", value: peer * 1000 }, ratio: { value: ratio, low, high } };
  const base = { picture, unit: "ms" } as const;
  const rows: Row[] = [
    { ...base, what: `${what}: p50`, ours: median(ours) * 1000, ...other, ...(p50 && { target: p50 }) },
    { ...base, what: `${what}: p99`, ours: quantile(ours, 0.99) * 1000 },
  ];
  for (const clients of [1, 8, 32]) {
    let left = bench.quick ? 100 : 400;
    const jobs = left;
    const client = async () => {
      while (left-- > 0) await service.send(file);
    };
    const seconds = await timed(() => Promise.all(Array.from({ length: clients }, client)));
    const target = clients > 1 && rate && { target: rate };
    rows.push({ what: `${what}: ${clients} at a time`, picture, ours: jobs / seconds, unit: "jobs/s", ...target });
  }
  return rows;
}

/** The most memory that processes which have seen one picture have had. */
export async function memoryRow(bench: Bench): Promise<Row[]> {
  const cluster = await bench.cluster();
  const lineArt = { ...PICTURES["216 Mpx"], kind: "line art" } as const;
  const pictures = bench.quick
    ? [PICTURES["24 Mpx"], lineArt]
    : [PICTURES["24 Mpx"], PICTURES["216 Mpx"], PICTURES["1000 Mpx"]];
  const rows: Row[] = [];
  for (const picture of pictures) {
    await cluster.resize(0);
    await cluster.resize(2);
    const service = await Service.start(cluster.env);
    await service.send(picture.kind === "photo" ? await bench.file(picture) : drawn(picture));
    const aim = (most: number) => (megapixels(picture) === 1000 ? { target: { most } } : {});
    const worker = Math.max(...cluster.workers.map(({ pid }) => peakMegabytes(pid)));
    const coordinator = peakMegabytes(service.program.pid);
    const base = { picture, unit: "MB" } as const;
    rows.push({ ...base, what: "most memory: coordinator", ours: coordinator, ...aim(250) });
    rows.push({ ...base, what: "most memory: the larger worker", ours: worker, ...aim(200) });
    await service.stop();
  }
  return rows;
}

/** CPU seconds of a job by who spent them, the client's not counted. */
export async function cpuRow(bench: Bench): Promise<Row[]> {
  const cluster = await bench.cluster();
  await cluster.resize(2);
  const [service, file] = [await cluster.coordinator(), await bench.file()];
  for (let i = 0; i < 2; i++) await service.send(file);
  const jobs = bench.pairs;
  const before = cluster.cpu(service);
  for (let i = 0; i < jobs; i++) await service.send(file);
  const after = cluster.cpu(service);
  return ROLES.map((role) => {
    const ours = (after[role] - before[role]) / jobs;
    const target = role === "coordinator" && megapixels(bench.sketch) === 24 && { target: { most: 0.4 } };
    return { what: `CPU of a job: ${role}`, picture: bench.sketch, ours, unit: "CPU s", ...target };
  });
}

/** What travels for each pixel. */
export async function wireRow(bench: Bench): Promise<Row[]> {
  const image = await readPng(onePiece(await bench.bytes()), UNLIMITED);
  const { width, height } = image;
  const { sobel } = simd();
  let [sent, stored] = [0, 0];
  for await (const band of split(image, planBands(width, height, 1, DEFAULT_BAND_PIXELS))) {
    const { pixels, rows, halo } = band;
    const chunkId = chunkIdOf(crypto.randomUUID(), band.number);
    sent += encodeMessage({ chunkId, task: "sobel", halo, width, height: rows + 2, pixels }).length;
    const edges = new Uint8Array(rows * width);
    sobel(pixels, width, rows, edges);
    stored += Math.ceil(encodeBand(edges, width, rows).length / 3) * 4;
  }
  const base = { picture: bench.sketch, unit: "bytes/px" } as const;
  return [
    { ...base, what: "through RabbitMQ, once in and once out", ours: sent / (width * height) },
    { ...base, what: "through Redis, once in and once out", ours: stored / (width * height) },
  ];
}

/** A whole job against OpenCV's in one process, on all cores. */
async function wholeJob(bench: Bench, what: string, ours: Contestant, target?: Row["target"]): Promise<Row[]> {
  const rows = await against(bench, what, bench.sketch, [ours, ...(await bench.opencv({ do: "job" }, bench.cores))]);
  return rows.map((row) => ({ ...row, ...(target && { target }) }));
}

/** The first, measured in turn with the others: a row for each of them, or for itself where it is alone. */
async function against(bench: Bench, what: string, picture: Sketch, contestants: Contestant[]): Promise<Row[]> {
  const [ours, ...others] = await inTurn(contestants, bench.pairs);
  const base = { what, picture, unit: "s", ours: median(ours) } as const;
  if (others.length === 0) return [base];
  return others.map((seconds, i) => {
    const { peer, ratio, low, high } = duel(ours, seconds);
    return { ...base, peer: { name: contestants[i + 1].name, value: peer }, ratio: { value: ratio, low, high } };
  });
}

function even(value: number) {
  return { ratio: { value, low: value, high: value } };
}

/** A picture as it is drawn, never whole. */
function drawn(picture: Sketch): ReadableStream {
  return Readable.toWeb(Readable.from(pngPieces(picture))) as unknown as ReadableStream;
}

async function* inPieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

/** A zlib stream to its end, what comes out thrown away. */
function inflate(data: Uint8Array): void {
  const inflater = new Inflater();
  for (let at = inflater.take(data); at < data.length; at += inflater.take(data.subarray(at))) {
    for (const _ of inflater.blocks(false));
  }
  for (const _ of inflater.blocks(true));
  inflater.close();
}

/** The zlib stream of a PNG that was made here. */
function idatOf(file: Buffer): Buffer {
  const parts: Buffer[] = [];
  for (let at = 8; at < file.length; at += 12 + file.readUInt32BE(at)) {
    const payload = file.subarray(at + 8, at + 8 + file.readUInt32BE(at));
    if (file.toString("latin1", at + 4, at + 8) === "IDAT") parts.push(payload);
  }
  return Buffer.concat(parts);
}
