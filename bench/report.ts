/**
 * The benchmark's report: the machine and the rows, as text, as Markdown and in the documents.
 *
 * Invariant: every table in a document comes with the machine, the versions, the commit and the date of its figures.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import process from "node:process";
import { summarize, svgOf } from "../page/speedup.js";
import type { Row } from "./measure.ts";
import { outputOf } from "./peers.ts";
import { megapixels, type Sketch } from "./pictures.ts";
import type { Bench } from "./setup.ts";

export interface Report {
  machine: { cpu: string; cores: number; memoryGB: number };
  versions: Record<string, string>;
  commit: string;
  date: string;
  quick: boolean;
  missing: string[];
  /** `row` is the name that `--only` takes. */
  rows: (Row & { row: string })[];
}

/** The unit of the rows on CPU time. */
const CPU = "CPU ms/Mpx";

export async function describe(bench: Bench, rows: Report["rows"]): Promise<Report> {
  const changed = outputOf("git", "status", "--porcelain", "--untracked-files=no") ? " with changes" : "";
  return {
    machine: { cpu: cpus()[0].model.trim(), cores: bench.cores, memoryGB: Math.round(totalmem() / 1e9) },
    versions: { Bun: process.versions.bun ?? "", ...(await bench.versions()) },
    commit: `${outputOf("git", "rev-parse", "--short", "HEAD") ?? "unknown"}${changed}`,
    date: new Date().toISOString().slice(0, 10),
    quick: bench.quick,
    missing: bench.missing,
    rows,
  };
}

/** The report as text for a terminal. */
export function printed(report: Report): string {
  const { rows, missing } = report;
  const tables = [rowTable(comparisons(rows)), scalingTable(rows), sizingTable(rows)].filter(
    (table) => table.length > 1,
  );
  const parts = [heading(report), ...tables.map(asText)];
  if (missing.length > 0) parts.push(`not measured: ${missing.join(", ")}`);
  return parts.join("\n\n");
}

function heading({ machine, versions, commit, date }: Report): string {
  const software = Object.entries(versions).map(([name, version]) => `${name} ${version}`);
  return [
    `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGB} GB, everything on this one machine`,
    software.join(", "),
    `commit ${commit}, ${date}`,
  ].join("; ");
}

export function rowTable(rows: Row[]): string[][] {
  return [
    ["", "picture", "ours", "peer", "ours ÷ peer"],
    ...rows.map(({ what, picture, ours, unit, peer, ratio }) => [
      what,
      pictureName(picture),
      `${figure(ours)} ${unit}`,
      peer ? `${peer.name}: ${figure(peer.value)} ${unit}` : "",
      ratio ? ratioText(ratio) : "",
    ]),
  ];
}

/** The rows without those that have a table of their own. */
function comparisons(rows: Row[]): Row[] {
  return rows.filter(({ unit, workers }) => unit !== CPU && (!workers || workers.share === 1));
}

/** Distributed jobs by number of workers. Speed-up is relative to one worker of the same share. */
export function scalingTable(rows: Row[]): string[][] {
  const lines = rows.flatMap(({ workers, picture, ours }) => {
    const one = rows.find((row) => row.workers?.count === 1 && sameWorkers(row.workers, workers));
    if (!workers || !one) return [];
    const [speed, speedup] = [workers.share === 1 ? "full speed" : percent(workers.share), one.ours / ours];
    const times = [`${figure(ours)} s`, speedup.toFixed(2), percent(speedup / workers.count)];
    return [
      [
        String(workers.count),
        speed,
        workers.roundTrip ? `${workers.roundTrip} ms` : "",
        pictureName(picture),
        ...times,
      ],
    ];
  });
  return [["workers", "share of a core each", "round trip", "work", "seconds", "speed-up", "efficiency"], ...lines];
}

function sameWorkers(a: Row["workers"], b: Row["workers"]): boolean {
  return a?.share === b?.share && a?.roundTrip === b?.roundTrip;
}

/** How many pixels one core processes, from the rows on CPU time. */
export function sizingTable(rows: Row[]): string[][] {
  const lines = rows
    .filter(({ unit }) => unit === CPU)
    .map(({ what, picture, ours }) => [
      what,
      pictureName(picture),
      `${figure(ours)} ms`,
      `${figure(1000 / ours)} Mpx/s`,
    ]);
  return [["", "picture", "CPU time a megapixel", "one core carries"], ...lines];
}

/** A table as text, with aligned columns. */
export function asText(table: string[][]): string {
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)));
  const line = (row: string[]) => row.map((cell, i) => cell.padEnd(widths[i])).join("  ");
  return table.map((row) => line(row).trimEnd()).join("\n");
}

export function asMarkdown([head, ...rows]: string[][]): string {
  const line = (row: string[]) => `| ${row.join(" | ")} |`;
  return [line(head), `|${head.map(() => "---").join("|")}|`, ...rows.map(line)].join("\n");
}

function ratioText({ value, low, high }: NonNullable<Row["ratio"]>): string {
  return value.toFixed(2) + (low < high ? ` (${low.toFixed(2)}–${high.toFixed(2)})` : "");
}

function pictureName(sketch: Sketch | string): string {
  if (typeof sketch === "string") return sketch;
  const { kind, width, height } = sketch;
  return megapixels(sketch) < 1 ? `${width} × ${height} ${kind}` : `${figure(megapixels(sketch))} Mpx ${kind}`;
}

/** Three significant digits. */
function figure(value: number): string {
  return Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}

function percent(part: number): string {
  return `${Math.round(100 * part)} %`;
}

/** The measured speed-up of slow workers as an SVG, drawn as the page draws its own experiments. */
export function scalingPlot(rows: Row[]): string {
  const slow = rows.filter(({ workers }) => workers && workers.share < 1 && !workers.roundTrip);
  const { picture, workers: one } = slow[0];
  const summary = summarize(slow.map(({ workers, ours }) => ({ workers: workers!.count, times: [1000 * ours] })));
  const words = {
    time: "Time (s)",
    speedup: "Speed-up",
    efficiency: "Efficiency",
    workersAxis: "workers",
    measured: "measured",
    ideal: "ideal",
    amdahl: "Amdahl, fitted",
    serial: (share: string) => `Serial fraction (Amdahl): ${share}`,
  };
  const title = `${pictureName(picture)}, workers at ${percent(one!.share)} of a core each`;
  return svgOf(summary, words, (value, digits = 0) => value.toFixed(digits), title);
}

const ROOT = new URL("..", import.meta.url);
const PARTS = { "README.md": ["rows"], "docs/benchmark.md": ["rows", "scaling", "sizing"] };
/** README.md shows the first row of each of these. Of distributed jobs, it shows the row with two workers. */
const README = ["kernel", "embedded", "distributed", "course", "small"];

/** @throws Error if one is missing */
export function readmeRows(rows: Report["rows"]): Row[] {
  return README.map((name) => {
    const chosen = rows.find(({ row, workers }) => row === name && (workers?.count ?? 2) === 2);
    if (!chosen?.peer) throw new Error(`README.md: expected a comparison of ${name}, got none`);
    return chosen;
  });
}

/** Checks the documents before the measurement, which takes minutes. @throws Error naming the missing comment */
export function checkDocuments(): void {
  for (const [name, parts] of Object.entries(PARTS)) for (const part of parts) replaceIn(textOf(name), name, part, "");
}

/** Puts the tables into the documents and draws docs/scaling.svg. */
export function write(report: Report): void {
  const { rows } = report;
  const chosen = readmeRows(rows);
  const tables = { rows: rowTable(comparisons(rows)), scaling: scalingTable(rows), sizing: sizingTable(rows) };
  for (const [name, parts] of Object.entries(PARTS)) {
    let text = textOf(name);
    for (const part of parts) {
      const table = name === "README.md" ? rowTable(chosen) : tables[part as keyof typeof tables];
      text = replaceIn(text, name, part, `${heading(report)}:\n\n${asMarkdown(table)}`);
    }
    writeFileSync(new URL(name, ROOT), text);
  }
  writeFileSync(new URL("docs/scaling.svg", ROOT), scalingPlot(rows));
}

function textOf(name: string): string {
  return readFileSync(new URL(name, ROOT), "utf8");
}

/** Replaces the text between two comments of a Markdown text. @throws Error if there are no such comments */
export function replaceIn(text: string, name: string, part: string, content: string): string {
  const [begin, end] = [`<!-- bench: ${part} -->`, "<!-- end -->"];
  const from = text.indexOf(begin);
  const to = text.indexOf(end, from);
  if (from < 0 || to < 0) throw new Error(`${name}: expected ${begin} and ${end} after it`);
  return `${text.slice(0, from + begin.length)}\n${content}\n${text.slice(to)}`;
}
