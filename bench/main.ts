/**
 * The benchmark: measures every figure that the documents quote, on this machine, and compares them with other programs
 * that do the same work.
 *
 *     bun run bench            all rows on 24 megapixels; several minutes
 *     bun run bench --help     the options
 *
 * It starts its own RabbitMQ and Redis and draws its own pictures. Ours and the peers run alternately; medians are
 * compared. A peer that is not installed is skipped, and its install command is printed. Slow results do not fail it.
 *
 * It runs under Bun only: it shares the servers of the tests. `bun run bench` also sets the allocator's environment for
 * what runs inside this process; cluster.ts sets it for coordinators and workers.
 */
import process from "node:process";
import { parseArgs } from "node:util";
import { stopAll } from "../test/servers.ts";
import { checkDocuments, describe, printed, type Report, write } from "./report.ts";
import { ROWS } from "./rows.ts";
import { Bench } from "./setup.ts";

const NAMES = Object.keys(ROWS);

const USAGE = `usage: bun run bench [--quick] [--only ROW,…] [--json] [--write]

  --quick  6 megapixels instead of 24, few repetitions: about a minute
  --only   some of: ${NAMES.join(", ")}
  --json   prints JSON
  --write  refreshes the tables in README.md and docs/benchmark.md, and docs/scaling.svg

exit codes
  0  measured, whatever the figures are
  1  a measurement failed
  2  invalid command line`;

const OPTIONS = {
  quick: { type: "boolean", default: false },
  only: { type: "string", default: NAMES.join() },
  json: { type: "boolean", default: false },
  write: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const;

async function main(): Promise<void> {
  const { quick, only, json, write: writing, help } = commandLine();
  if (help) return console.log(USAGE);
  if (writing) checkDocuments();
  const report = await measure(new Bench(quick), only, writing);
  console.log(json ? JSON.stringify(report, null, 2) : printed(report));
  if (writing) write(report);
}

/** Exits with code 2 if the command line is invalid. */
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
    console.error(`bench: ${(error as Error).message}\n\n${USAGE}`);
    process.exit(2);
  }
}

async function measure(bench: Bench, only: string[], complete: boolean): Promise<Report> {
  if (complete && bench.missing.length > 0)
    throw new Error(`--write: expected every row, missing: ${bench.missing.join(", ")}`);
  for (const what of bench.missing) console.error(`not measured: ${what}`);
  const rows: Report["rows"] = [];
  try {
    for (const name of NAMES.filter((name) => only.includes(name))) {
      console.error(`measuring: ${name}`);
      rows.push(...(await ROWS[name](bench)).map((row) => ({ row: name, ...row })));
    }
    return await describe(bench, rows);
  } finally {
    await bench.end();
  }
}

// Exit normally on a signal, so that the exit handlers end every process that was started.
process.on("SIGINT", () => process.exit(130));
process.on("SIGTERM", () => process.exit(143));
main()
  .catch((error) => {
    console.error("bench:", error);
    process.exitCode = 1;
  })
  .finally(async () => {
    await stopAll();
    process.exit();
  });
