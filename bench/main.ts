/**
 * Every figure that the project quotes of itself, measured on this machine against what others offer for the same work.
 *
 *     bun run bench.ts                      all rows, on 24 megapixels; about eight minutes
 *     bun run bench.ts --quick              the same on 6 megapixels, with few repetitions and no aims; two minutes
 *     bun run bench.ts --only kernel,cpu    some rows
 *     bun run bench.ts --json               for programs to read
 *     bun run bench.ts --write              and refreshes README.md, docs/benchmark.md and docs/scaling.svg
 *
 * It starts a RabbitMQ and a Redis of its own, and draws its own pictures. Ours and the peer's runs take turns, so what
 * else the machine does falls on both; medians are compared. A peer that is not installed is named, with what installs
 * it. Rows that we lose stay in. It judges nothing: its exit code is 0 whatever came out.
 *
 * Runs under Bun only, as the tests do, whose servers it uses.
 */
import process from "node:process";
import { parseArgs } from "node:util";
import { keepMemory, memorySettings } from "../ops/settings.ts";
import { stopAll } from "../test/servers.ts";
import { describe, printed, type Report, write } from "./report.ts";
import * as rows from "./rows.ts";
import { bandRow, type Scaling, scaling } from "./scaling.ts";
import { Bench } from "./setup.ts";

/** In the order in which they are measured and told. */
const ROWS: Record<string, (bench: Bench) => Promise<rows.Row[]>> = {
  kernel: rows.kernelRow,
  inflate: rows.inflateRow,
  decode: rows.decodeRow,
  encode: rows.encodeRow,
  floor: rows.floorRow,
  program: rows.oneMachineRow,
  embedded: rows.embeddedRow,
  libvips: rows.vipsRow,
  distributed: rows.distributedRow,
  course: rows.courseRow,
  small: rows.smallRow,
  cpu: rows.cpuRow,
  band: bandRow,
  wire: rows.wireRow,
  memory: rows.memoryRow,
};
/** The model of how it grows; it is told in tables of its own. */
const SCALING = "scaling";
const NAMES = [...Object.keys(ROWS), SCALING];

const USAGE = `usage: bun run bench.ts [--quick] [--only ROW,…] [--json] [--write]

  --quick  6 megapixels instead of 24, few repetitions, no aims: two minutes
  --only   some of: ${NAMES.join(", ")}
  --json   for programs to read
  --write  refreshes the tables in README.md and docs/benchmark.md, and docs/scaling.svg

exit codes
  0  measured, whatever came out
  1  something could not be measured
  2  the command line cannot be read`;

const OPTIONS = {
  quick: { type: "boolean", default: false },
  only: { type: "string", default: NAMES.join() },
  json: { type: "boolean", default: false },
  write: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const;

async function measured(quick: boolean, only: string[]): Promise<Report> {
  const bench = new Bench(quick);
  for (const what of bench.peers.missing) console.error(`not compared with ${what}`);
  const found: Report["rows"] = [];
  let grown: Scaling | undefined;
  try {
    for (const name of NAMES.filter((name) => only.includes(name))) {
      console.error(`measuring: ${name}`);
      if (name === SCALING) grown = await scaling(bench);
      else found.push(...(await ROWS[name](bench)).map((row) => ({ row: name, ...(quick ? aimless(row) : row) })));
    }
    return await describe(bench, found, grown);
  } finally {
    await bench.end();
  }
}

/** The aims are for the larger picture. */
function aimless({ target: _, ...row }: rows.Row): rows.Row {
  return row;
}

/** Ends the program where it cannot be read. */
function commandLine() {
  try {
    const { values } = parseArgs({ args: process.argv.slice(2), options: OPTIONS });
    const only = values.only.split(",").filter(Boolean);
    const unknown = only.filter((name) => !NAMES.includes(name));
    if (unknown.length > 0) throw new Error(`--only: expected ${NAMES.join(", ")}, got ${unknown.join(", ")}`);
    if (values.write && (values.quick || only.length < NAMES.length))
      throw new Error("--write: expected all rows in full, got --quick or --only");
    return { ...values, only };
  } catch (error) {
    console.error(`bench.ts: ${(error as Error).message}\n\n${USAGE}`);
    process.exit(2);
  }
}

async function main(): Promise<void> {
  const { quick, only, json, write: writing, help } = commandLine();
  if (help) return console.log(USAGE);
  // For those that are measured in this process, ours and the peers alike; programs are as their users have them.
  keepMemory();
  for (const name of Object.keys(memorySettings())) delete process.env[name];
  const report = await measured(quick, only);
  console.log(json ? JSON.stringify(report, null, 2) : printed(report));
  if (writing) write(report);
}

// What was started ends with this program, however that ends.
process.on("SIGINT", () => process.exit(130));
process.on("SIGTERM", () => process.exit(143));
main()
  .catch((error) => {
    console.error("bench.ts:", error);
    process.exitCode = 1;
  })
  .finally(async () => {
    await stopAll();
    process.exit();
  });
