/**
 * Files that the coordinator serves unchanged: the page, and the API's description.
 *
 * The page has a content security policy: a browser loads and runs only files of this coordinator.
 *
 * Not here: what the page does (page/page.js).
 */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { NotFoundError } from "elysia";
import { isUnchanged } from "./respond.ts";

const PAGE_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' blob:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'self'",
  "frame-ancestors 'none'",
].join("; ");

const TYPES: Record<string, string> = {
  html: "text/html",
  css: "text/css",
  js: "text/javascript",
  svg: "image/svg+xml",
};

interface Asset {
  body: Uint8Array<ArrayBuffer>;
  etag: string;
  headers: Record<string, string>;
}

/** Libraries of the page: small modules without imports, served unchanged. */
const LIBRARIES = {
  "client-zip.js": "../node_modules/client-zip/index.js",
  "uqr.js": "../node_modules/uqr/dist/index.mjs",
};

/** The files in page/ and the libraries, by name. */
export function readPage(): Map<string, Asset> {
  const own = readdirSync(new URL("../page/", import.meta.url)).filter((name) => !name.endsWith(".d.ts"));
  const files = { ...LIBRARIES, ...Object.fromEntries(own.map((name) => [name, `../page/${name}`])) };
  return new Map(
    Object.entries(files).map(([name, file]) => {
      const body = Uint8Array.from(readFileSync(new URL(file, import.meta.url)));
      const etag = `"${createHash("sha256").update(body).digest("base64url").slice(0, 16)}"`;
      const headers = {
        "content-type": `${TYPES[name.split(".").at(-1)!]}; charset=utf-8`,
        "content-security-policy": PAGE_POLICY,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
        etag,
      };
      return [name, { body, etag, headers }];
    }),
  );
}

/** Answers with a file of the page, or 304 if the browser has it. @throws NotFoundError */
export function servePage(request: Request, page: Map<string, Asset>, name: string): Response {
  const file = page.get(name);
  if (!file) throw new NotFoundError();
  const { body, etag, headers } = file;
  if (isUnchanged(request, etag)) return new Response(null, { status: 304, headers });
  return new Response(body, { headers });
}

/**
 * The API as OpenAPI 3.1, written by hand. test/openapi.test.ts compares it with the routes and with real answers.
 */
export function readApiDocument(): string {
  return readFileSync(new URL("../docs/openapi.json", import.meta.url), "utf8");
}
