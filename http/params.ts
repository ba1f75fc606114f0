/**
 * Reads what a request asks for from its path and its query, and makes the header that names the downloaded file.
 *
 * If a value is invalid, a function throws an `HttpError` 400 with the parameter, what was expected and what was sent.
 *
 * Not here: a task's own parameters and their checks (tasks/params.ts).
 */
import { isJobId, MAX_BANDS } from "../chunk.ts";
import { MAX_WORKERS } from "../ops/settings.ts";
import type { Task, Values } from "../task.ts";
import { ParamError, queryValues } from "../tasks/params.ts";
import { WIDTHS } from "./preview.ts";
import { HttpError } from "./respond.ts";

/** Refuses a path that cannot be decoded. Elysia gives null for such a part. */
export function decodable(parts: Record<string, string | null> = {}): void {
  if (Object.values(parts).includes(null)) throw new HttpError(400, "path: expected valid percent-encoding");
}

export function jobId(text: string): string {
  const id = text.toLowerCase();
  if (!isJobId(id)) throw new HttpError(400, `job id: expected a UUID, got ${JSON.stringify(text)}`);
  return id;
}

/** One value of the query; null if it is absent. */
export function query(request: Request, name: string): string | null {
  const [value = null, second] = new URL(request.url).searchParams.getAll(name);
  if (second !== undefined) throw new HttpError(400, `${name}: expected one value, got several`);
  return value;
}

/**
 * The task's own parameters, with the defaults filled in.
 * @param body more parameters, as JSON or as a form; may be empty
 */
export function paramsOf(request: Request, task: Task, body = ""): Values {
  const query = new URL(request.url).searchParams;
  const isJson = /^\s*\{/.test(body);
  if (body !== "" && !isJson) {
    // curl's `--data` sends anything as a form, even a file.
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

/** At most this many bands in flight; null if the request does not limit them. */
export function workersOf(request: Request): number | null {
  return wholeNumber(request, "workers", 1, MAX_WORKERS);
}

/** The number of bands, about, or the rows of a band; null if the request does not set it. */
export function cutOf(request: Request): { bands: number | null; bandRows: number | null } {
  const bands = wholeNumber(request, "bands", 1, MAX_BANDS);
  const bandRows = wholeNumber(request, "bandRows", 1, 999_999_999);
  if (bands === null || bandRows === null) return { bands, bandRows };
  throw new HttpError(400, "bands, bandRows: expected one of them, got both");
}

/** Maximum width of a preview, pixels. */
export function widthOf(request: Request): number {
  return wholeNumber(request, "width", WIDTHS.min, WIDTHS.max) ?? WIDTHS.default;
}

/** A whole number in the query; null if it is absent. */
export function wholeNumber(request: Request, name: string, min: number, max: number): number | null {
  const text = query(request, name);
  if (text === null || text === "") return null;
  const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= min && value <= max) return value;
  throw new HttpError(400, `${name}: expected a whole number from ${min} to ${max}, got ${JSON.stringify(text)}`);
}

/** `content-disposition`: names the file in ASCII, and in full if it has other characters (RFC 6266). */
export function disposition(name: string): string {
  const bare = name.toWellFormed().replace(/[\p{Cc}"\\/:*?<>|%]/gu, "_");
  const plain = bare.replace(/[^\x20-\x7e]/g, "_").slice(-150);
  if (plain === bare) return `attachment; filename="${plain}"`;
  const full = encodeURIComponent(Array.from(bare).slice(-150).join("")).replace(/['()]/g, escape);
  return `attachment; filename="${plain}"; filename*=UTF-8''${full}`;
}
