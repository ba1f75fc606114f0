/**
 * What the benchmark says: the machine, the rows as a table, the model's tables; in a terminal, as Markdown, as JSON.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import process from "node:process";
import { type Bottleneck, costOf, type Fleet, needed, predict, type Stage } from "./model.ts";
import { said } from "./peers.ts";
import { megapixels, type Sketch } from "./pictures.ts";
import { type Curve, plot } from "./plot.ts";
import type { Row } from "./rows.ts";
import type { Scaling } from "./scaling.ts";
import type { Bench } from "./setup.ts";

export interface Report {
  machine: { cpu: string; cores: number; memoryGB: number };
  versions: Record<string, string>;
  commit: string;
  date: string;
  quick: boolean;
  missing: string[];
  rows: (Row & { row: string })[];
  scaling?: Scaling;
}

export async function describe(bench: Bench, rows: Report["rows"], scaling?: Scaling): Promise<Report> {
  const runtime: Record<string, string> = { Bun: process.versions.bun ?? "" };
  const changed = said("git", "status", "--porcelain", "--untracked-files=no") ? " and changes" : "";
  return {
    machine: { cpu: cpus()[0].model.trim(), cores: bench.cores, memoryGB: Math.round(totalmem() / 1e9) },
    versions: { ...runtime, ...(await bench.versions()) },
    commit: `${said("git", "rev-parse", "--short", "HEAD") ?? "unknown"}${changed}`,
    date: new Date().toISOString().slice(0, 10),
    quick: bench.quick,
    missing: bench.peers.missing,
    rows,
    ...(scaling && { scaling }),
  };
}

export function heading({ machine, versions, commit, date }: Report): string {
  const software = Object.entries(versions).map(([name, version]) => `${name} ${version}`);
  return [
    `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGB} GB, everything on this one machine`,
    software.join(", "),
    `commit ${commit}, ${date}`,
  ].join("; ");
}

const HEADS = ["", "picture", "ours", "peer", "ours ÷ peer", "aim"];

export function cells(row: Row): string[] {
  const { what, picture, ours, unit, peer, ratio } = row;
  return [
    what,
    pictureName(picture),
    `${figure(ours)} ${unit}`,
    peer ? `${peer.name}: ${figure(peer.value)} ${unit}` : "",
    ratio ? shown(ratio) : "",
    aim(row),
  ];
}

function shown({ value, low, high }: NonNullable<Row["ratio"]>): string {
  return value.toFixed(2) + (low < high ? ` (${low.toFixed(2)}–${high.toFixed(2)})` : "");
}

/** What is aimed at, and whether it was missed. */
function aim({ target, ratio, ours }: Row): string {
  const told = (sign: string, aimed: number, missed: boolean) => `${sign} ${aimed}${missed ? ", missed" : ""}`;
  if (target?.ratio !== undefined) return ratio ? told("÷ ≤", target.ratio, ratio.value > target.ratio) : "";
  if (target?.most !== undefined) return told("≤", target.most, ours > target.most);
  if (target?.least !== undefined) return told("≥", target.least, ours < target.least);
  return "";
}

function pictureName({ kind, ...size }: Sketch): string {
  return `${figure(megapixels(size as Sketch))} Mpx ${kind}`;
}

/** Three digits that count. */
function figure(value: number): string {
  if (Math.abs(value) >= 100) return value.toFixed(0);
  return String(Number(value.toPrecision(3)));
}

/** The rows, one under the other, columns in line. */
export function asText(table: string[][]): string {
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)));
  return table
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i]))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

export function asMarkdown([head, ...rows]: string[][]): string {
  const line = (row: string[]) => `| ${row.join(" | ")} |`;
  return [line(head), `|${head.map(() => "---").join("|")}|`, ...rows.map(line)].join("\n");
}

export function rowTable({ rows }: Report): string[][] {
  return [HEADS, ...rows.map(cells)];
}

export function checkTable({ checks }: Scaling): string[][] {
  const heads = ["workers", "each at", "predicted", "measured", "measured ÷ predicted", "held up by"];
  return [
    heads,
    ...checks.map(({ workers, part, seconds, measured, bottleneck }) => [
      String(workers),
      part === 1 ? "full speed" : `${part * 100} % of a core`,
      `${figure(seconds)} s`,
      `${figure(measured)} s`,
      (measured / seconds).toFixed(2),
      HELD_UP[bottleneck],
    ]),
  ];
}

const HELD_UP: Record<Bottleneck, string> = {
  reader: "reading the input",
  coordinator: "the coordinator",
  RabbitMQ: "RabbitMQ",
  workers: "workers",
  Redis: "Redis",
  bands: "too few bands",
  cores: "this machine's cores",
};

/** A task that is worth a thousand workers: so many times Sobel's work. */
const HEAVY = 200;
/** A picture that has bands for a thousand workers. */
const LARGE = { mpx: 1000, bands: 954 };
const FLEETS = [1, 2, 4, 8, 16, 32, 100, 300, 1000];

/** One picture at a time, workers on machines of their own. */
export function predictionTable({ model, load }: Scaling): string[][] {
  const scenes = [
    { name: `Sobel, ${load.mpx} Mpx`, load, task: 1 },
    { name: `${HEAVY} × the work, ${load.mpx} Mpx`, load, task: HEAVY },
    { name: `${HEAVY} × the work, ${LARGE.mpx} Mpx`, load: LARGE, task: HEAVY },
  ];
  return [
    ["workers", ...scenes.flatMap(({ name }) => [name, "held up by"])],
    ...FLEETS.map((workers) => [
      String(workers),
      ...scenes.flatMap(({ load, task }) => {
        const { seconds, bottleneck } = predict(model, load, { workers, task });
        return [`${figure(seconds)} s`, HELD_UP[bottleneck]];
      }),
    ]),
  ];
}

/** As many pictures at once as keep all workers busy. */
export function fleetTable({ model, load }: Scaling): string[][] {
  const count = (value: number) => String(Math.max(1, Math.ceil(value)));
  const scenes = [1, HEAVY].map((task) => ({ task, name: task === 1 ? "Sobel" : `${task} × the work` }));
  return [
    ["workers", ...scenes.flatMap(({ name }) => [`${name}: Mpx/s`, "coordinators", "RabbitMQ's cores", "Redis"])],
    ...FLEETS.map((workers) => [
      String(workers),
      ...scenes.flatMap(({ task }) => {
        const of: Record<Stage, number> = needed(model, load, { workers, task });
        const perSecond = (workers * load.mpx) / (task * costOf(model.stages.workers, load));
        return [figure(perSecond), ...[Math.max(of.coordinator, of.reader), of.RabbitMQ, of.Redis].map(count)];
      }),
    ]),
  ];
}

/** Milliseconds of each stage: a job, a megapixel, a band. */
export function costTable({ model }: Scaling): string[][] {
  const ms = (seconds: number) => figure(seconds * 1000);
  return [
    ["", "ms a job", "ms a megapixel", "ms a band"],
    ...Object.entries(model.stages).map(([stage, { job, mpx, band }]) => [stage, ms(job), ms(mpx), ms(band)]),
  ];
}

/** For a terminal. */
export function printed(report: Report): string {
  const { scaling, missing } = report;
  const parts = [heading(report), asText(rowTable(report))];
  if (scaling) {
    const tables = [costTable, checkTable, predictionTable, fleetTable].map((table) => asText(table(scaling)));
    parts.push(...tables, ...(scaling.unchecked ? [scaling.unchecked] : []));
  }
  if (missing.length > 0) parts.push(`not compared with: ${missing.join(", ")}`);
  return parts.join("\n\n");
}

/** A line of the plot, drawn through these numbers of workers. */
const DRAWN = Array.from({ length: 31 }, (_, i) => Math.round(10 ** (i / 10)));

/** The curves of docs/scaling.svg. */
export function curves({ model, load, checks }: Scaling): Curve[] {
  const line = (fleet: Omit<Fleet, "workers">, of = load): Curve["line"] =>
    [...new Set(DRAWN)].map((workers) => [workers, of.mpx / predict(model, of, { workers, ...fleet }).seconds]);
  const slow = checks.filter(({ part }) => part < 1);
  // Of the check with one worker: what a core held back is worth.
  const speed = slow[0] ? predict(model, load, { workers: 1 }).seconds / slow[0].seconds : 0.1;
  const one = load.mpx / costOf(model.stages.workers, load);
  return [
    {
      name: "Sobel, many pictures at once, coordinators as needed",
      colour: "#888",
      line: [
        [1, one],
        [1000, 1000 * one],
      ],
    },
    { name: "Sobel, one picture", colour: "#2a9d5c", line: line({}) },
    {
      name: `Sobel, one picture, workers held to a part of a core (dots: measured)`,
      colour: "#d1495b",
      line: line({ speed }),
      dots: slow.map(({ workers, measured }) => [workers, load.mpx / measured]),
    },
    { name: `a task of ${HEAVY} × the work, one picture`, colour: "#3d7fc4", line: line({ task: HEAVY }) },
    { name: `the same, one of ${LARGE.mpx} Mpx`, colour: "#9467bd", line: line({ task: HEAVY }, LARGE) },
  ];
}

const ROOT = new URL("..", import.meta.url);

/** Puts the tables into the documents, and draws the plot. */
export function write(report: Report): void {
  const { scaling } = report;
  replaceBetween("README.md", [`${heading(report)}:`, asMarkdown(rowTable({ ...report, rows: quoted(report) }))]);
  const parts = [`${heading(report)}.`, asMarkdown(rowTable(report))];
  if (scaling) {
    writeFileSync(new URL("docs/scaling.svg", ROOT), plot(curves(scaling)));
    const told = { costs: costTable, checks: checkTable, predictions: predictionTable, fleet: fleetTable };
    for (const [name, table] of Object.entries(told))
      replaceBetween("docs/benchmark.md", [asMarkdown(table(scaling))], name);
    for (const name of ["checks", "predictions"] as const)
      replaceBetween("README.md", [asMarkdown(told[name](scaling))], name);
  }
  replaceBetween("docs/benchmark.md", parts);
}

/** What a reader of the README wants first: the aims, and whole jobs against their peers. */
function quoted({ rows }: Report): Report["rows"] {
  const whole = ["floor", "program", "embedded", "libvips", "distributed", "course"];
  return rows.filter(({ row, target }) => target !== undefined || whole.includes(row));
}

/** Between two comments of a Markdown file, everything is ours. */
function replaceBetween(name: string, paragraphs: string[], part = "rows"): void {
  const file = new URL(name, ROOT);
  const whole = readFileSync(file, "utf8");
  const [begin, end] = [`<!-- bench.ts: ${part} -->`, "<!-- end -->"];
  const from = whole.indexOf(begin);
  const to = whole.indexOf(end, from);
  if (from < 0 || to < 0) throw new Error(`${name}: expected ${begin}, and ${end} after it`);
  writeFileSync(file, `${whole.slice(0, from + begin.length)}\n${paragraphs.join("\n\n")}\n${whole.slice(to)}`);
}
