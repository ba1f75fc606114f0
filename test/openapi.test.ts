// The API's description: valid by a validator that is not ours, of every route, and true of real answers. The answers
// are those of the real program, as a process.
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { Validator } from "@seriousme/openapi-schema-validator";
import Ajv2020 from "ajv/dist/2020";
import { encode } from "fast-png";
import { createApp } from "../coordinator.ts";
import { LocalQueue, LocalResults } from "../embedded.ts";
import { apiDocument } from "../http/openapi.ts";
import { loadTasks } from "../tasks/index.ts";
import { binaries, type Program, spawnProgram } from "./servers.ts";

const tasks = await loadTasks();

setDefaultTimeout(30_000);

interface Operation {
  summary?: string;
  parameters?: { in: string; name: string; required: boolean; schema: object }[];
  responses: Record<string, { headers?: object; content?: Record<string, { schema: object }> }>;
}
interface Document {
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: object };
}

const TOKEN = "open-sesame";
const photo = Buffer.from(encode({ width: 60, height: 40, channels: 1, data: new Uint8Array(2400).fill(9) }));
const app = createApp({ queue: new LocalQueue(), results: new LocalResults(60), tasks });

let program: Program;
let origin: string;
let document: Document;

beforeAll(async () => {
  program = spawnProgram("coordinator.ts", { PORT: "0", WORKERS: "1", AUTH_TOKEN: TOKEN, LOG_LEVEL: "error" });
  [origin] = await program.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
  const answer = await fetch(`${origin}/openapi.json`);
  expect(answer.headers.get("content-type")).toBe("application/json");
  document = await answer.json();
});
afterAll(async () => {
  program.kill();
  await program.exited;
});

describe("the document", () => {
  test("is valid OpenAPI 3.1", async () => {
    const validator = new Validator();
    const { valid, errors } = await validator.validate({ ...structuredClone(document) });
    expect({ valid, errors, version: validator.version }).toEqual({ valid: true, errors: undefined, version: "3.1" });
    // And the validator is one: it sees what is wrong.
    const broken = { ...document, info: { title: "no version" } };
    expect((await new Validator().validate(broken)).valid).toBe(false);
  });

  test("has every route, and of each what it is, its parameters and its answers", () => {
    for (const { method, path } of app.routes) {
      const url = path.replace(/:(\w+)/g, "{$1}");
      const operation = document.paths[url]?.[method.toLowerCase()];
      expect([method, path, typeof operation?.summary]).toEqual([method, path, "string"]);
      const inPath = operation.parameters?.filter((one) => one.in === "path").map(({ name }) => name) ?? [];
      expect([path, inPath]).toEqual([path, [...path.matchAll(/:(\w+)/g)].map(([, name]) => name)]);
      expect(Object.keys(operation.responses).some((status) => status.startsWith("2"))).toBe(true);
    }
    const urls = Object.keys(document.paths).map((url) => url.replace(/\{(\w+)\}/g, ":$1"));
    expect(urls.toSorted()).toEqual([...new Set(app.routes.map(({ path }) => path))].toSorted());
  });

  test("of a route that nothing is told of, says nothing", () => {
    const { paths } = apiDocument([{ method: "GET", path: "/new/:one" }], {
      tasks: [],
      maxWorkers: 1,
      maxUploadBytes: 1,
    });
    expect(paths).toEqual({ "/new/{one}": { get: { responses: {} } } });
  });
});

describe("real answers are as described", () => {
  const ajv = new Ajv2020({ strict: false, validateFormats: false, allErrors: true });
  const id = crypto.randomUUID();

  /** Asks, and checks status, type, headers and JSON against the description of the route. */
  async function expectTrue(method: string, path: string, status: number, init: RequestInit = {}, token = TOKEN) {
    const url = path
      .replace(/\?.*/, "")
      .replace(/^\/jobs\/[^/]+/, "/jobs/{id}")
      .replace(/^\/tasks\/.+/, "/tasks/{task}");
    const headers = { authorization: `Bearer ${token}`, ...init.headers };
    const answer = await fetch(origin + path, { method, ...init, headers });
    const text = await answer.text();
    expect([method, path, answer.status, text]).toEqual([method, path, status, expect.anything()]);
    const described = document.paths[url][method.toLowerCase()].responses[status];
    expect(described).toBeDefined();
    for (const name of Object.keys(described.headers ?? {})) {
      if (name !== "retry-after" || status === 503) expect([name, answer.headers.get(name)]).not.toEqual([name, null]);
    }
    const [type] = (answer.headers.get("content-type") ?? "").split(";");
    expect(Object.keys(described.content ?? { "": 0 })).toContain(type);
    if (!type.endsWith("json")) return;
    const schema = { ...closed(described.content![type].schema), components: closed(document.components) };
    const check = ajv.compile(schema);
    expect([check(JSON.parse(text)), check.errors]).toEqual([true, null]);
  }

  /** Fields that are not described are not allowed either. */
  function closed(schema: object): object {
    const text = JSON.stringify(schema, (_, value) => {
      const isObject = value?.type === "object" && value.properties;
      return isObject ? { ...value, additionalProperties: false } : value;
    });
    return JSON.parse(text);
  }

  test("a job from its sending to its end", async () => {
    await expectTrue("PUT", `/jobs/${id}?workers=2`, 202, { body: photo });
    await expectTrue("GET", `/jobs/${id}/events`, 200);
    await expectTrue("GET", `/jobs/${id}`, 200);
    await expectTrue("GET", `/jobs/${id}/result`, 200);
    await expectTrue("GET", `/jobs/${id}/result`, 206, { headers: { range: "bytes=0-9" } });
    await expectTrue("GET", `/jobs/${id}/result`, 416, { headers: { range: "bytes=99999999-" } });
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

  test("the others", async () => {
    for (const path of ["/", "/healthz", "/readyz", "/metrics", "/workers", "/tasks", "/openapi.json"])
      await expectTrue("GET", path, 200);
  });

  test("errors, in the coordinator's own words and not Elysia's", async () => {
    for (const path of ["/workers", "/metrics"]) await expectTrue("GET", path, 401, {}, "wrong");
    await expectTrue("PUT", `/jobs/${id}`, 401, { body: photo }, "wrong");
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

  test("limits are as described", async () => {
    const { parameters } = document.paths["/jobs/{id}"].put;
    const { maximum } = parameters!.find(({ name }) => name === "workers")!.schema as { maximum: number };
    await expectTrue("PUT", `/jobs/${id}?workers=${maximum}`, 202, { body: photo });
    await expectTrue("PUT", `/jobs/${id}?workers=${maximum + 1}`, 400, { body: photo });
  });
});

test.skipIf(!binaries.deno)("under Deno the same document", async () => {
  const other = spawnProgram("coordinator.ts", { PORT: "0", WORKERS: "1" }, "deno");
  const [at] = await other.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
  expect(await (await fetch(`${at}/openapi.json`)).json()).toEqual(document);
  other.kill();
  await other.exited;
});
