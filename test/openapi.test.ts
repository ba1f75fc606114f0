// docs/openapi.json: valid OpenAPI by a third-party validator, complete, and true of real answers. The answers come from the
// real program, run as a process.
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { Validator } from "@seriousme/openapi-schema-validator";
import Ajv2020 from "ajv/dist/2020";
import { encode } from "fast-png";
import { createApp } from "../coordinator.ts";
import { LocalQueue } from "../embedded/queue.ts";
import { LocalResults } from "../embedded/results.ts";
import { WIDTHS } from "../http/preview.ts";
import { MAX_WORKERS } from "../ops/settings.ts";
import { loadTasks } from "../tasks/index.ts";
import { binaries, type Program, spawnProgram } from "./servers.ts";

setDefaultTimeout(30_000);

interface Parameter {
  in: string;
  name: string;
  schema: { minimum: number; maximum: number; default?: number };
}
interface Answer {
  headers?: object;
  content?: Record<string, { schema: object }>;
}
interface Reference {
  $ref: string;
}
interface Operation {
  summary?: string;
  parameters?: (Parameter | Reference)[];
  responses: Record<string, Answer | Reference>;
}
interface Document {
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: object };
}

const TOKEN = "open-sesame";
const photo = Buffer.from(encode({ width: 60, height: 40, channels: 1, data: new Uint8Array(2400).fill(9) }));
const app = createApp({ queue: new LocalQueue(), results: new LocalResults(60), tasks: await loadTasks() });

const document: Document = JSON.parse(readFileSync(new URL("../docs/openapi.json", import.meta.url), "utf8"));

let program: Program;
let origin: string;

beforeAll(async () => {
  program = spawnProgram("coordinator.ts", {
    PORT: "0",
    WORKERS: "1",
    AUTH_TOKEN: TOKEN,
    LOG_LEVEL: "error",
    CLASSROOM: "wall,control",
  });
  [origin] = await program.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
});
afterAll(async () => {
  program.kill();
  await program.exited;
});

/** Follows a reference within the document. */
function resolved<T extends object>(part: T | Reference): T {
  if (!("$ref" in part)) return part;
  const [, ...keys] = part.$ref.split("/");
  return keys.reduce((node, key) => node[key] as never, document as unknown as Record<string, never>) as T;
}

function parametersOf({ parameters = [] }: Operation): Parameter[] {
  return parameters.map((one) => resolved<Parameter>(one));
}

describe("the document", () => {
  test("is what the coordinator serves", async () => {
    const answer = await fetch(`${origin}/openapi.json`);
    expect(answer.headers.get("content-type")).toBe("application/json");
    expect(await answer.json()).toEqual(document);
  });

  test("is valid OpenAPI 3.1", async () => {
    const validator = new Validator();
    const { valid, errors } = await validator.validate({ ...structuredClone(document) });
    expect({ valid, errors, version: validator.version }).toEqual({ valid: true, errors: undefined, version: "3.1" });
    // The validator rejects a document that is not valid.
    const broken = { ...document, info: { title: "no version" } };
    expect((await new Validator().validate(broken)).valid).toBe(false);
  });

  test("has the coordinator's routes, all of them and no others", () => {
    const routes = app.routes.map(({ method, path }) => `${method} ${path.replace(/:(\w+)/g, "{$1}")}`);
    // Each GET is also a HEAD.
    routes.push(...routes.filter((route) => route.startsWith("GET ")).map((route) => route.replace("GET", "HEAD")));
    const described = Object.entries(document.paths).flatMap(([url, operations]) =>
      Object.keys(operations).map((method) => `${method.toUpperCase()} ${url}`),
    );
    expect(described.toSorted()).toEqual(routes.toSorted());
  });

  test("has a summary, the path's parameters and a success for every route", () => {
    for (const [url, operations] of Object.entries(document.paths)) {
      for (const operation of Object.values(operations)) {
        expect([url, operation.summary]).toEqual([url, expect.stringMatching(/^[A-Z]/)]);
        const inPath = parametersOf(operation).filter((one) => one.in === "path");
        expect([url, ...inPath.map(({ name }) => `{${name}}`)]).toEqual([url, ...(url.match(/\{\w+\}/g) ?? [])]);
        expect(Object.keys(operation.responses).some((status) => status.startsWith("2"))).toBe(true);
      }
    }
  });

  test("has every reference that it uses, and uses every component", () => {
    const used = new Set([...JSON.stringify(document).matchAll(/"\$ref":"([^"]+)"/g)].map(([, ref]) => ref));
    const { securitySchemes, ...components } = document.components as Record<string, object>;
    const present = Object.entries(components).flatMap(([kind, parts]) =>
      Object.keys(parts).map((name) => `#/components/${kind}/${name}`),
    );
    const byEventStreams = ["BandEvent", "ClaimEvent", "IncidentEvent", "GoneEvent", "UnknownEvent"].map(
      (name) => `#/components/schemas/${name}`,
    );
    expect([...used, ...byEventStreams].toSorted()).toEqual(present.toSorted());
  });
});

describe("real answers match the document", () => {
  const ajv = new Ajv2020({ strict: false, validateFormats: false, allErrors: true });
  const id = crypto.randomUUID();

  /** Sends a request, and checks the status, the type, the headers and the JSON of its answer against the document. */
  async function expectTrue(method: string, path: string, status: number, init: RequestInit = {}, token = TOKEN) {
    const url = path
      .replace(/\?.*/, "")
      .replace(/^\/inside\/queues\/.+/, "/inside/queues/{task}")
      .replace(/^\/inside\/jobs\/.+/, "/inside/jobs/{id}")
      .replace(/^\/jobs\/[^/]+/, "/jobs/{id}")
      .replace(/bands\/.+/, "bands/{band}")
      .replace(/^\/workers\/.+/, "/workers/{name}/{action}")
      .replace(/^\/tasks\/.+/, "/tasks/{task}");
    const headers = { authorization: `Bearer ${token}`, ...init.headers };
    const answer = await fetch(origin + path, { method, ...init, headers });
    const text = await answer.text();
    expect([method, path, answer.status, text]).toEqual([method, path, status, expect.anything()]);
    const { responses } = document.paths[url][method.toLowerCase()];
    expect(Object.keys(responses)).toContain(String(status));
    const described = resolved<Answer>(responses[status]);
    for (const name of Object.keys(described.headers ?? {})) {
      if (name !== "retry-after" || status === 503) expect([name, answer.headers.get(name)]).not.toEqual([name, null]);
    }
    if (!described.content) return expect(text).toBe("");
    const [type] = (answer.headers.get("content-type") ?? "").split(";");
    expect(Object.keys(described.content)).toContain(type);
    if (type.endsWith("json")) expectMatch(JSON.parse(text), described.content[type].schema);
    if (type === "text/event-stream") expectEvents(text);
  }

  function expectMatch(value: unknown, schema: object) {
    const check = ajv.compile({ ...closed(schema), components: closed(document.components) });
    expect([value, check(value), check.errors]).toEqual([value, true, null]);
  }

  /** Every event is one that the document has, with the data that the document says. */
  function expectEvents(text: string) {
    const ofBands = { claim: "ClaimEvent", band: "BandEvent", incident: "IncidentEvent" };
    const schemas: Record<string, string> = { job: "Job", done: "Job", unknown: "UnknownEvent", ...ofBands };
    for (const { name, data } of eventsOf(text)) {
      const schema = name === "failed" ? (data.code ? "GoneEvent" : "Job") : schemas[name];
      expectMatch(data, { $ref: `#/components/schemas/${schema}` });
    }
  }

  function eventsOf(text: string): { name: string; data: { id: string; code?: string } }[] {
    const events = text.matchAll(/^event: (\w+)\ndata: (.*)$/gm);
    return Array.from(events, ([, name, json]) => ({ name, data: JSON.parse(json) }));
  }

  /** A schema that allows no fields but those that it describes. */
  function closed(schema: object): object {
    const text = JSON.stringify(schema, (_, value) => {
      const isObject = value?.type === "object" && value.properties;
      return isObject ? { ...value, additionalProperties: false } : value;
    });
    return JSON.parse(text);
  }

  test("of a job from its upload to its removal", async () => {
    await expectTrue("PUT", `/jobs/${id}?workers=2`, 202, { body: photo });
    await expectTrue("GET", `/jobs/${id}/events`, 200);
    await expectTrue("GET", `/jobs/${id}`, 200);
    await expectTrue("GET", `/inside/jobs/${id}`, 200);
    await expectTrue("GET", `/jobs/${id}/result`, 200);
    await expectTrue("GET", `/jobs/${id}/result`, 206, { headers: { range: "bytes=0-9" } });
    await expectTrue("GET", `/jobs/${id}/result`, 416, { headers: { range: "bytes=99999999-" } });
    const etag = (await fetch(`${origin}/jobs/${id}/result`)).headers.get("etag")!;
    await expectTrue("GET", `/jobs/${id}/result`, 304, { headers: { "if-none-match": etag } });
    await expectTrue("GET", `/jobs/${id}/result`, 412, { headers: { "if-match": '"other"' } });
    for (const path of ["", "/events", "/result", "/bands/0"]) await expectTrue("HEAD", `/jobs/${id}${path}`, 200);
    await expectTrue("PUT", `/jobs/${id}`, 409, {
      body: Buffer.from(encode({ width: 3, height: 1, channels: 1, data: new Uint8Array(3) })),
    });
    await expectTrue("DELETE", `/jobs/${id}`, 204);
    for (const task of ["sobel", "blur?sigma=1", "threshold", "histogram"])
      await expectTrue("POST", `/tasks/${task}`, 200, { body: photo });
    for (const task of ["threshold", "histogram"]) {
      await expectTrue("PUT", `/jobs/${id}?task=${task}`, 202, { body: photo });
      await expectTrue("GET", `/jobs/${id}/events`, 200);
      await expectTrue("GET", `/jobs/${id}/result`, 200);
      await expectTrue("DELETE", `/jobs/${id}`, 204);
    }
  });

  test("of events of jobs that do not exist yet, finish, fail, and are cancelled", async () => {
    const [later, corrupt, cancelled] = Array.from({ length: 3 }, () => crypto.randomUUID());
    const stream = await fetch(`${origin}/events?jobs=${later},${corrupt},${cancelled}`);
    const put = (id: string, body: Uint8Array<ArrayBuffer>) =>
      fetch(`${origin}/jobs/${id}`, { method: "PUT", body, headers: { authorization: `Bearer ${TOKEN}` } });
    // The upload is left open, so the job is unfinished until it is cancelled.
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    const headers = { authorization: `Bearer ${TOKEN}` };
    const open = fetch(`${origin}/jobs/${cancelled}`, { method: "PUT", body: readable, headers }).catch(() => {});
    const writer = writable.getWriter();
    // A job begins when 256 KiB of a PNG have arrived, or all of it.
    const data = Uint8Array.from({ length: 400_000 }, (_, i) => (i * 2654435761) >>> 24);
    const large = encode({ width: 1000, height: 400, channels: 1, data }, { zlib: { level: 0 } });
    await writer.write(large.subarray(0, 300_000));
    while ((await fetch(`${origin}/jobs/${cancelled}`)).status !== 200) await Bun.sleep(10);
    await expectTrue("DELETE", `/jobs/${cancelled}`, 204);
    expect((await put(later, photo)).status).toBe(202);
    expect((await put(corrupt, photo.subarray(0, photo.length - 30))).status).toBe(422);
    const text = await stream.text();
    expectEvents(text);
    const of = (id: string) => eventsOf(text).filter(({ data }) => data.id === id);
    for (const id of [later, corrupt, cancelled]) expect(of(id)[0]).toEqual({ name: "unknown", data: { id } });
    expect(of(later).at(-1)!.name).toBe("done");
    expect(of(corrupt).at(-1)).toMatchObject({ name: "failed", data: { error: expect.stringMatching(/IEND/) } });
    expect(of(cancelled).at(-1)).toMatchObject({ name: "failed", data: { code: "gone" } });
    await writer.abort();
    await open;
    await expectTrue("GET", `/events?jobs=${later}`, 200);
    await expectTrue("GET", "/events?jobs=1", 400);
    for (const id of [later, corrupt]) await expectTrue("DELETE", `/jobs/${id}`, 204);
  });

  test("of the page, the probes and the lists", async () => {
    await expectTrue("GET", "/inside/queues/sobel", 200);
    await expectTrue("GET", "/inside/queues/nope", 404);
    await expectTrue("POST", "/inside/dead-letters/back", 409);
    await expectTrue("GET", "/inside", 401, {}, "wrong");
    for (const action of ["pause", "resume"]) await expectTrue("POST", `/workers/thread-1/${action}`, 202);
    for (const path of [
      "/",
      "/healthz",
      "/readyz",
      "/state",
      "/jobs",
      "/metrics",
      "/workers",
      "/tasks",
      "/openapi.json",
    ])
      for (const method of ["GET", "HEAD"]) await expectTrue(method, path, 200);
    const etag = (await fetch(`${origin}/`)).headers.get("etag") ?? "";
    await expectTrue("GET", "/", 304, { headers: { "if-none-match": etag } });
  });

  test("of errors, which are the coordinator's and not Elysia's", async () => {
    for (const path of ["/workers", "/metrics", "/jobs"]) await expectTrue("GET", path, 401, {}, "wrong");
    await expectTrue("POST", "/workers/thread-1/kill", 401, {}, "wrong");
    for (const path of ["nobody/kill", "thread-1/dance"]) await expectTrue("POST", `/workers/${path}`, 404);
    await expectTrue("GET", "/jobs?limit=0", 400);
    await expectTrue("PUT", `/jobs/${id}`, 401, { body: photo }, "wrong");
    const elsewhere = { headers: { origin: "http://evil.example" } };
    await expectTrue("DELETE", `/jobs/${id}`, 403, elsewhere);
    for (const [method, path] of [
      ["PUT", `/jobs/${id}`],
      ["POST", "/tasks/sobel"],
    ])
      await expectTrue(method, path, 403, { ...elsewhere, body: photo });
    const rebound = { host: "evil.example", "user-agent": "Mozilla/5.0" };
    for (const path of ["/", "/workers", `/jobs/${id}`]) await expectTrue("GET", path, 403, { headers: rebound });
    await expectTrue("GET", "/jobs/1", 400);
    await expectTrue("GET", `/jobs/${id}`, 404);
    await expectTrue("GET", `/jobs/${id}/events`, 404);
    await expectTrue("GET", `/jobs/${id}/result`, 404);
    await expectTrue("DELETE", `/jobs/${id}`, 404);
    await expectTrue("POST", "/tasks/sobel?workers=0", 400, { body: photo });
    await expectTrue("POST", "/tasks/sobel", 400, { body: "a text" });
    await expectTrue("POST", "/tasks/nope", 422, { body: photo });
    await expectTrue("POST", "/tasks/blur?sigma=-1", 400, { body: photo });
    await expectTrue("POST", "/tasks/sobel", 415, { body: "<svg/>" });
    await expectTrue("POST", "/tasks/sobel", 422, { body: photo.subarray(0, photo.length - 30) });
  });

  test("of requests at and beyond the documented limits", async () => {
    const limits = (method: string, url: string, parameter: string) =>
      parametersOf(document.paths[url][method]).find(({ name }) => name === parameter)!.schema;
    const workers = limits("put", "/jobs/{id}", "workers");
    expect(workers).toMatchObject({ minimum: 1, maximum: MAX_WORKERS });
    await expectTrue("PUT", `/jobs/${id}?workers=${workers.maximum}`, 202, { body: photo });
    await expectTrue("PUT", `/jobs/${id}?workers=${workers.maximum + 1}`, 400, { body: photo });
    await expectTrue("PUT", `/jobs/${id}?workers=${workers.minimum - 1}`, 400, { body: photo });
    await expectTrue("GET", `/jobs/${id}/events`, 200);
    for (const [name, { minimum, maximum }] of [
      ["bands", limits("put", "/jobs/{id}", "bands")],
      ["bandRows", limits("put", "/jobs/{id}", "bandRows")],
    ] as const) {
      await expectTrue("POST", `/tasks/sobel?${name}=${maximum}`, 200, { body: photo });
      await expectTrue("POST", `/tasks/sobel?${name}=${maximum + 1}`, 400, { body: photo });
      await expectTrue("POST", `/tasks/sobel?${name}=${minimum - 1}`, 400, { body: photo });
    }
    await expectTrue("POST", "/tasks/sobel?bands=2&bandRows=2", 400, { body: photo });
    const { minimum, maximum, default: usual } = limits("get", "/jobs/{id}/bands/{band}", "width");
    expect({ min: minimum, max: maximum, default: usual }).toEqual(WIDTHS);
    const band = (width: number) => `/jobs/${id}/bands/0?width=${width}`;
    for (const width of [minimum, maximum]) await expectTrue("GET", band(width), 200);
    for (const width of [minimum - 1, maximum + 1]) await expectTrue("GET", band(width), 400);
    await expectTrue("GET", `/jobs/${id}/bands/40`, 404); // a row each
    const etag = (await fetch(`${origin}/jobs/${id}/bands/0`)).headers.get("etag") ?? "";
    await expectTrue("GET", `/jobs/${id}/bands/0`, 304, { headers: { "if-none-match": etag } });
  });
});

test.skipIf(!binaries.deno)("Deno serves the same document", async () => {
  const other = spawnProgram("coordinator.ts", { PORT: "0", WORKERS: "1" }, "deno");
  const [at] = await other.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
  expect(await (await fetch(`${at}/openapi.json`)).json()).toEqual(document);
  other.kill();
  await other.exited;
});
