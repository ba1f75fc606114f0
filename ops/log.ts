/**
 * The log: one JSON object for each event on standard error, `{"time":…,"level":…,"msg":…}` and the event's fields
 * (`job`, `chunk`, `worker`, `ms`, `error` …). If standard error is a terminal, an event is a line of plain text.
 *
 * Not here: messages for the user who starts a program (its address, its progress). They go to standard output.
 *
 * Invariants: an event is one line, whatever its fields contain. The line has been written when the call returns, so
 * the last one before an exit is not lost. Of an error, only the message is logged: the error object of a Redis command
 * holds the command's arguments, and those of the first command hold the password.
 *
 * Why not pino: it writes through a stream or a thread, and its synchronous mode throws when a pipe is full.
 */
import process from "node:process";
import { LEVELS, type Level, levelSetting } from "./settings.ts";

export type Fields = Record<string, unknown>;

export type Log = Record<Level, (msg: string, fields?: Fields) => void> & {
  /** The same log with these fields in every line. */
  with(fields: Fields): Log;
};

/** @param level events of a lower level are not logged */
export function openLog(level: Level, fields: Fields = {}): Log {
  const write = (at: Level) => {
    if (LEVELS.indexOf(at) < LEVELS.indexOf(level)) return () => {};
    // `console.error` is synchronous in both runtimes, also in threads. It waits while a pipe is full.
    return (msg: string, own: Fields = {}) => console.error(line(at, msg, { ...fields, ...own }));
  };
  return {
    debug: write("debug"),
    info: write("info"),
    warn: write("warn"),
    error: write("error"),
    with: (more) => openLog(level, { ...fields, ...more }),
  };
}

/** Opens the log of a program. Warnings of its libraries are logged too: ioredis warns of a needless password. */
export function openProgramLog(): Log {
  const log = openLog(levelSetting());
  console.warn = (...parts: unknown[]) => log.warn(parts.join(" "));
  return log;
}

function line(level: Level, msg: string, fields: Fields): string {
  const time = new Date().toISOString();
  const plain = Object.entries(fields).map(([name, value]) => [name, value instanceof Error ? value.message : value]);
  if (!process.stderr.isTTY) return JSON.stringify({ time, level, msg, ...Object.fromEntries(plain) });
  const shown = plain.filter(([, value]) => value !== undefined).map(([name, value]) => `${name}=${word(value)}`);
  // Bun prints `console.error` in red. Reset the colour.
  return `\x1b[0m${[time.slice(11, 19), level.padEnd(5), msg, ...shown].join(" ")}`;
}

/** Quotes a value unless it is a plain word, so that its control characters do not reach the terminal. */
function word(value: unknown): string {
  const text = String(value);
  return /^[\w.:{}/-]+$/.test(text) ? text : JSON.stringify(value);
}
