/**
 * The API as an OpenAPI 3.1 document: made of the routes that there are, and of what is told of each here.
 *
 * The routes do not carry these schemas themselves: Elysia would check requests by them, before and instead of the
 * coordinator, which has sentences of its own, and reads a body as a stream. A test asks every route for its description, and
 * checks answers by it. Nor is Elysia's plugin used: it brings a page from a CDN and the TypeScript compiler, for a
 * loop of twenty lines.
 *
 * Not here: what the routes do (coordinator.ts).
 */
import { t } from "elysia";
import { WIDTHS } from "./preview.ts";
import { RETRY_SECONDS, TITLES } from "./respond.ts";

/** What the document has to know of the program. */
export interface Facts {
  tasks: string[];
  maxWorkers: number;
  maxUploadBytes: number;
}

type Json = Record<string, unknown>;

const uuid = t.String({ format: "uuid", pattern: "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$" });
const count = (description: string) => t.Integer({ minimum: 0, description });
const ms = (description: string) => t.Number({ minimum: 0, description });
const time = (description: string) => t.Integer({ description: `${description}, ms since 1970` });
const orNull = <T extends Parameters<typeof t.Union>[0][number]>(schema: T, description: string) =>
  t.Union([schema, t.Null()], { description });

const SCHEMAS = {
  Problem: t.Object(
    {
      type: t.Literal("about:blank"),
      title: t.String(),
      status: t.Integer({ minimum: 400, maximum: 599 }),
      detail: t.String({ description: "one sentence: what failed, what was expected, what came" }),
    },
    { description: "what went wrong (RFC 9457)" },
  ),
  Status: t.Object({ status: t.String() }),
  Job: t.Object({
    id: uuid,
    state: t.Union(
      ["uploading", "running", "done", "failed"].map((state) => t.Literal(state)),
      {
        description: "uploading: the picture is still arriving. running: from here on the client is not needed",
      },
    ),
    task: t.String({ description: "with its version, where that is not 1: median.2" }),
    kind: t.Union([t.Literal("picture"), t.Literal("data")], { description: "what the result is: a PNG, or JSON" }),
    params: t.Record(t.String(), t.Unknown(), {
      description: "the task's own, defaults and what its first step found included",
    }),
    first: orNull(uuid, "the job of the step that comes before this one, if there is one"),
    width: t.Integer({ minimum: 1, description: "pixels" }),
    height: t.Integer({ minimum: 1, description: "pixels" }),
    rows: t.Integer({ minimum: 1, description: "rows of a band; the last may have fewer" }),
    bands: t.Integer({ minimum: 1 }),
    done: count("bands that are done"),
    workers: orNull(
      t.Integer({ minimum: 1 }),
      "at most so many bands are out at once; null: as many as the fleet can use",
    ),
    created: time("when it was first asked for"),
    error: orNull(t.String(), "why it has failed"),
    waiting: t.Boolean({
      description:
        "there is work, and nobody is known to do it: no worker alive knows the task, and none has done a band unseen",
    }),
    lossy: t.Boolean({ description: "a worker has sent a band as a picture that is not a PNG" }),
    byWorker: t.Record(t.String(), t.Object({ bands: count("bands it did"), ms: ms("time its task took for them") }), {
      description: "who did what, by the workers' names",
    }),
  }),
  Worker: t.Object({
    name: t.String(),
    host: t.String(),
    pid: t.Integer(),
    runtime: t.String(),
    cores: t.Integer({ minimum: 1, description: "cores of its host" }),
    tasks: t.Array(t.String()),
    since: time("when it joined"),
    bands: count("bands it has done"),
    pixels: count("their pixels"),
    ms: ms("time its task took for them"),
    busy: t.String({ description: "the jobs whose bands it has, with spaces between; empty when it has none" }),
  }),
  Task: t.Object({
    name: t.String(),
    version: t.Integer({ minimum: 1 }),
    description: t.String(),
    kind: t.Union([t.Literal("picture"), t.Literal("data")], { description: "what the result is: a PNG, or JSON" }),
    halo: orNull(count("rows that it looks at above and below"), "null: it depends on the parameters"),
    params: t.Unsafe({ type: "object", description: "the JSON schema of its parameters, which go into the query" }),
  }),
};

const ref = (name: keyof typeof SCHEMAS) => ({ $ref: `#/components/schemas/${name}` });
const json = (schema: object) => ({ "application/json": { schema } });
const PNG = { "image/png": { schema: { type: "string", contentMediaType: "image/png" } } };
const RESULT = { ...PNG, ...json({ description: "of a task that returns data" }) };
const EVENTS = { "text/event-stream": { schema: t.String() } };
const text = (schema: object) => ({ schema });

/** Errors by their status. A 503, and a 409 that will pass, say when to come back. */
function problems(...statuses: number[]): Json {
  const content = { "application/problem+json": { schema: ref("Problem") } };
  const later = { "retry-after": { description: `seconds; ${RETRY_SECONDS} as a rule`, schema: count("seconds") } };
  const token = { "www-authenticate": { schema: { const: "Bearer" } } };
  const headers: Record<number, Json> = { 401: token, 409: later, 503: later };
  return Object.fromEntries(
    statuses.map((status) => [status, { description: TITLES[status], headers: headers[status] ?? {}, content }]),
  );
}

const parameter = (where: "path" | "query" | "header", name: string, schema: object, description: string) => {
  return { in: where, name, required: where === "path", schema, description };
};
const ID = parameter("path", "id", uuid, "the job's id, which the client has chosen");

/** Either nothing, or the token where the coordinator has one. */
const GUARDED = [{ bearer: [] }, {}];
const UPLOAD_PROBLEMS = [400, 401, 408, 410, 413, 415, 422, 500, 503];

/** What is told of each route, by its method and its path as Elysia has it: those of the program, and those of jobs. */
function operations(facts: Facts): Record<string, Json> {
  return { ...PROGRAM, ...uploads(facts), ...JOB };
}

const PROGRAM: Record<string, Json> = {
  "GET /": {
    summary: "The page",
    responses: { 200: { description: "HTML", content: { "text/html": text(t.String()) } } },
  },
  "GET /page/:file": {
    summary: "What the page is made of",
    parameters: [parameter("path", "file", t.String(), "a module, a style or a picture")],
    responses: { 200: { description: "the file", content: { "*/*": text(t.String()) } }, ...problems(404) },
  },
  "GET /healthz": {
    summary: "The process runs",
    responses: { 200: { description: "it does", content: json(ref("Status")) } },
  },
  "GET /readyz": {
    summary: "RabbitMQ and Redis can be used",
    responses: { 200: { description: "they can", content: json(ref("Status")) }, ...problems(503) },
  },
  "GET /metrics": {
    summary: "What was counted, for Prometheus",
    security: GUARDED,
    responses: {
      200: { description: "the text format of Prometheus", content: { "text/plain": text(t.String()) } },
      ...problems(401),
    },
  },
  "GET /openapi.json": {
    summary: "This document",
    responses: { 200: { description: "OpenAPI 3.1", content: json({ type: "object" }) } },
  },
  "GET /tasks": {
    summary: "The tasks that there are, and their parameters",
    responses: {
      200: { description: "the tasks", content: json(t.Object({ tasks: t.Array(t.Unsafe(ref("Task"))) })) },
      ...problems(503),
    },
  },
  "GET /workers": {
    summary: "Who is alive, and what each has done",
    security: GUARDED,
    responses: {
      200: { description: "the fleet", content: json(t.Object({ workers: t.Array(t.Unsafe(ref("Worker"))) })) },
      ...problems(401, 503),
    },
  },
};

const JOB: Record<string, Json> = {
  "GET /jobs/:id": {
    summary: "How a job stands",
    parameters: [ID],
    responses: { 200: { description: "the job", content: json(ref("Job")) }, ...problems(400, 404, 503) },
  },
  "DELETE /jobs/:id": {
    summary: "Cancels a job, and removes all that is kept of it",
    security: GUARDED,
    parameters: [ID],
    responses: { 204: { description: "it is gone" }, ...problems(400, 401, 404, 503) },
  },
  "GET /jobs/:id/events": {
    summary: "A job as server-sent events",
    description: "`job` (its state has changed), a `band` for each that is done, and at last `done` or `failed`.",
    parameters: [ID],
    responses: { 200: { description: "the events", content: EVENTS }, ...problems(400, 404, 503) },
  },
  "GET /events": {
    summary: "Several jobs as server-sent events, in one stream",
    description:
      "As of one job; before them `unknown` for a job that is not there, whose events come as soon as it is.",
    parameters: [{ ...parameter("query", "jobs", t.String(), "their ids, with commas between"), required: true }],
    responses: { 200: { description: "the events", content: EVENTS }, ...problems(400, 503) },
  },
  "GET /jobs/:id/bands/:band": {
    summary: "A finished band as a picture, scaled down",
    parameters: [
      ID,
      parameter("path", "band", count("counted from the top"), "which band"),
      parameter(
        "query",
        "width",
        t.Integer({ minimum: WIDTHS.least, maximum: WIDTHS.most, default: WIDTHS.usual }),
        "pixels at most; it is never wider than the job's picture",
      ),
    ],
    responses: {
      200: { description: "the band", headers: { etag: { schema: t.String() } }, content: PNG },
      304: { description: "it is still the one of `if-none-match`" },
      ...problems(400, 404, 409, 410, 500, 503),
    },
  },
  "GET /jobs/:id/result": {
    summary: "The result",
    parameters: [
      ID,
      parameter("query", "name", t.String(), "how the file is to be called"),
      parameter("header", "range", t.String(), "one range of bytes"),
    ],
    responses: {
      200: { description: "the whole", headers: { etag: { schema: t.String() } }, content: RESULT },
      206: { description: "the range", headers: { "content-range": { schema: t.String() } }, content: PNG },
      ...problems(400, 404, 409, 410, 416, 500, 503),
    },
  },
};

function uploads({ tasks, maxWorkers, maxUploadBytes }: Facts): Record<string, Json> {
  // No enum: workers may bring more.
  const task = { type: "string", examples: tasks };
  const params = {
    ...parameter("query", "params", { type: "object" }, "the task's own, each by its name: GET /tasks tells which"),
    style: "form",
    explode: true,
  };
  const workers = parameter(
    "query",
    "workers",
    t.Integer({ minimum: 1, maximum: maxWorkers }),
    "at most so many bands are out at once, so at most so many workers are busy with the job",
  );
  const picture = { type: "string", contentMediaType: "application/octet-stream" };
  const form = { type: "object", required: ["image"], properties: { image: picture } };
  const requestBody = {
    required: true,
    description: `a picture: PNG, JPEG, WebP, TIFF, GIF or AVIF, known by its first bytes; at most ${maxUploadBytes} bytes`,
    content: { "*/*": { schema: picture }, "multipart/form-data": { schema: form } },
  };
  return {
    "POST /tasks/:task": {
      summary: "Picture in, picture (or data) out; nothing is kept",
      security: GUARDED,
      parameters: [parameter("path", "task", task, "what is done with the picture"), workers, params],
      requestBody,
      responses: {
        200: { description: "the result", headers: { "x-job-id": { schema: uuid } }, content: RESULT },
        ...problems(...UPLOAD_PROBLEMS),
      },
    },
    "PUT /jobs/:id": {
      summary: "Sends a picture, under an id that the client chooses: sending it again is harmless, and resumes",
      security: GUARDED,
      parameters: [
        ID,
        parameter("query", "task", { ...task, default: "sobel" }, "what is done with the picture"),
        workers,
        params,
      ],
      requestBody,
      responses: {
        202: {
          description: "every band is in the queue or done: from then on the client is not needed",
          headers: { location: { schema: t.String() } },
          content: json(ref("Job")),
        },
        ...problems(...UPLOAD_PROBLEMS, 409),
      },
    },
  };
}

/**
 * The document.
 * @param routes as `app.routes` has them; one that nothing is told of stands there without a word
 */
export function apiDocument(routes: { method: string; path: string }[], facts: Facts): Json {
  const told = operations(facts);
  const paths: Record<string, Json> = {};
  for (const { method, path } of routes) {
    const url = path.replace(/:(\w+)/g, "{$1}");
    paths[url] ??= {};
    paths[url][method.toLowerCase()] = told[`${method} ${path}`] ?? { responses: {} };
  }
  return {
    openapi: "3.1.0",
    info: {
      title: "Sobel, distributed",
      version: "1",
      description: "A picture goes in, its edges come out. Errors are problem details (RFC 9457).",
      license: { name: "MIT", identifier: "MIT" },
    },
    paths,
    components: {
      schemas: SCHEMAS,
      securitySchemes: {
        bearer: { type: "http", scheme: "bearer", description: "where the coordinator has AUTH_TOKEN" },
      },
    },
  };
}
