/**
 * What a request asks for, in its path and its query, and the name of the file that answers it.
 *
 * Every function throws an `HttpError` 400 that names the parameter, what was expected and what came.
 *
 * Not here: a task's own parameters and their checks (task.ts).
 */
import { isJobId, MAX_BANDS } from "../chunk.ts";
import { MAX_WORKERS } from "../ops/settings.ts";
import { ParamError, queryValues, type Task, type Values } from "../task.ts";
import { WIDTHS } from "./preview.ts";
import { HttpError } from "./respond.ts";

/** Elysia gives null for a part of the path that it cannot decode. */
export function decodable(parts: Record<string, string | null> = {}): void {
  if (Object.values(parts).includes(null)) throw new HttpError(400, "path: expected valid percent-encoding");
}

export function jobId(text: string): string {
  const id = text.toLowerCase();
  if (!isJobId(id)) throw new HttpError(400, `job id: expected a UUID, got ${JSON.stringify(text)}`);
  return id;
}

/** One value of the query; null where it is absent. */
export function query(request: Request, name: string): string | null {
  const [value = null, second] = new URL(request.url).searchParams.getAll(name);
  if (second !== undefined) throw new HttpError(400, `${name}: expected one value, got several`);
  return value;
}

/**
 * The task's own parameters, defaults filled in.
 * @param body more of them, as JSON or as a form; may be empty
 */
export function paramsOf(request: Request, task: Task, body = ""): Values {
  const query = new URL(request.url).searchParams;
  const isJson = /^\s*\{/.test(body);
  if (body !== "" && !isJson) {
    // curl sends anything as a form.
    if (!/^[\w.~%+&=-]+$/.test(body))
      throw new HttpError(400, `body: ${EXPECTED}, or none: ${task.name} takes no file`);
    for (const [name, value] of new URLSearchParams(body)) query.append(name, value);
  }
  try {
    return queryValues(task, query, isJson ? objectOf(body) : {});
  } catch (error) {
    throw error instanceof ParamError ? new HttpError(400, error.message) : error;
  }
}

const EXPECTED = "expected the parameters as a JSON object or as name=value&…";

function objectOf(body: string): Record<string, unknown> {
  try {
    return JSON.parse(body);
  } catch {
    throw new HttpError(400, `body: ${EXPECTED}, got ${body.length} characters that are not`);
  }
}

/** At most this many workers at a time; null where the request does not say. */
export function workersOf(request: Request): number | null {
  return wholeNumber(request, "workers", 1, MAX_WORKERS);
}

/** About how many bands, or of how many rows; null where the request does not say. */
export function cutOf(request: Request): { bands: number | null; bandRows: number | null } {
  const bands = wholeNumber(request, "bands", 1, MAX_BANDS);
  const bandRows = wholeNumber(request, "bandRows", 1, 999_999_999);
  if (bands === null || bandRows === null) return { bands, bandRows };
  throw new HttpError(400, "bands, bandRows: expected one of them, got both");
}

/** Width of a preview in pixels, at most. */
export function widthOf(request: Request): number {
  return wholeNumber(request, "width", WIDTHS.min, WIDTHS.max) ?? WIDTHS.default;
}

/** A whole number in the query; null where it is absent. */
export function wholeNumber(request: Request, name: string, min: number, max: number): number | null {
  const text = query(request, name);
  if (text === null || text === "") return null;
  const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= min && value <= max) return value;
  throw new HttpError(400, `${name}: expected a whole number from ${min} to ${max}, got ${JSON.stringify(text)}`);
}

/** The header that names the file a browser saves: plain ASCII, and the full name where that differs (RFC 6266). */
export function disposition(name: string): string {
  const bare = name.toWellFormed().replace(/[\p{Cc}"\\/:*?<>|%]/gu, "_");
  const plain = bare.replace(/[^\x20-\x7e]/g, "_").slice(-150);
  if (plain === bare) return `attachment; filename="${plain}"`;
  const full = encodeURIComponent(Array.from(bare).slice(-150).join("")).replace(/['()]/g, escape);
  return `attachment; filename="${plain}"; filename*=UTF-8''${full}`;
}
