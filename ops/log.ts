/**
 * The log: one JSON object a line on standard error, `{"time":…,"level":…,"msg":…}` and the event's own fields (`job`,
 * `chunk`, `worker`, `ms`, `error` …); a line to read where standard error is a terminal.
 *
 * Not here: what a program says to whoever started it (its address, that it is at work), which goes to standard output.
 *
 * Invariants: an event is one line, whatever its fields hold; when a call returns, the line is out, so that the last
 * one before an exit is there; of an error there is its message, never the object: that of a Redis command has the
 * command's arguments, of the first command the password.
 *
 * Of our own and not pino: that writes through a stream or a thread, and its synchronous mode throws where a pipe is full.
 */
import process from "node:process";
import { LEVELS, type Level } from "./settings.ts";

export type Fields = Record<string, unknown>;

export type Log = Record<Level, (msg: string, fields?: Fields) => void> & {
  /** The same log, with these fields in every line. */
  with(fields: Fields): Log;
};

/** @param level what is less is not written, and costs nothing */
export function openLog(level: Level, fields: Fields = {}): Log {
  const write = (at: Level) => {
    if (LEVELS.indexOf(at) < LEVELS.indexOf(level)) return () => {};
    // `console.error` writes at once in both runtimes, in threads too, and waits where a pipe is full.
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

function line(level: Level, msg: string, fields: Fields): string {
  const time = new Date().toISOString();
  const plain = Object.entries(fields).map(([name, value]) => [name, value instanceof Error ? value.message : value]);
  if (!process.stderr.isTTY) return JSON.stringify({ time, level, msg, ...Object.fromEntries(plain) });
  const shown = plain.filter(([, value]) => value !== undefined).map(([name, value]) => `${name}=${word(value)}`);
  // Bun shows all that goes this way in red.
  return `\x1b[0m${[time.slice(11, 19), level.padEnd(5), msg, ...shown].join(" ")}`;
}

/** As it is where it cannot be mistaken for more than a word, else quoted: a name is not to move the cursor. */
function word(value: unknown): string {
  const text = String(value);
  return /^[\w.:{}/-]+$/.test(text) ? text : JSON.stringify(value);
}
