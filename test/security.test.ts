// What an attacker can do to the coordinator, and what the programs must not reveal: the token, headers made of input, names
// on the page, passwords in settings, TLS. The programs are real processes.
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { execFile } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";
import { encode } from "fast-png";
import { Redis } from "ioredis";
import { chromium } from "playwright-core";
import { serve } from "../http/serve.ts";
import { RedisResults } from "../results.ts";
import { certificates } from "./clusters.ts";
import { startKit } from "./kit.ts";
import {
  binaries,
  describeWith,
  freePort,
  type Program,
  type RabbitMQ,
  type RedisServer,
  sharedServers,
  spawnProgram,
  startRabbitMQ,
  startRedis,
  temporaryFolder,
} from "./servers.ts";
import { sleep, until, within } from "./wait.ts";

setDefaultTimeout(60_000);

const TOKEN = "correct-horse~battery+staple/0";
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const run = promisify(execFile);

const photo = Buffer.from(
  encode({ width: 90, height: 60, channels: 1, data: Uint8Array.from({ length: 5400 }, (_, i) => (i * 7919) >> 3) }),
);

describe("requests that no ordinary client sends", () => {
  const head = (first: string, ...fields: string[]) =>
    [first, "host: test", ...fields].map((line) => `${line}\r\n`).join("");
  const get = (path: string) => `${head(`GET ${path} HTTP/1.1`)}\r\n`;
  const post = (...fields: string[]) => `${head("POST /tasks/sobel HTTP/1.1", ...fields)}\r\n`;
  const [body, length] = [photo.toString("latin1"), `content-length: ${photo.length}`];
  const chunked = (extension: string) =>
    `${post("transfer-encoding: chunked")}${photo.length.toString(16)}${extension}\r\n${body}\r\n0\r\n\r\n`;
  // What is sent, each piece after an answer, and the statuses of all answers.
  const cases: [what: string, pieces: string[], statuses: number[]][] = [
    ["a body longer than its length", [post(`content-length: ${photo.length - 10}`) + body], [400]],
    ["two lengths", [post(length, "content-length: 5") + body], [400]],
    ["a length and chunks", [post("content-length: 5", "transfer-encoding: chunked") + body], [400]],
    ["a negative length", [post("content-length: -1") + body], [400]],
    ["a length of 20 digits", [post(`content-length: ${"9".repeat(20)}`) + body], [400]],
    ["chunks", [chunked("")], [200]],
    ["a chunk with an extension", [chunked(";a=b")], [200]],
    ["a chunk of no size", [`${post("transfer-encoding: chunked")}zz\r\n${body}\r\n`], [400]],
    ["a chunk of 2^72 bytes", [`${post("transfer-encoding: chunked")}${"f".repeat(18)}\r\n${body}\r\n`], [400]],
    ["requests that do not wait for answers", [get("/healthz") + get("/nothing") + get("/tasks")], [200, 404, 200]],
    ["a request after an upload", [post(length) + body, get("/healthz")], [200, 200]],
    ["an upload after a request", [get("/healthz") + post(length) + body], [200, 200]],
    [
      "a body where none is expected",
      [`${head("GET /healthz HTTP/1.1", "content-length: 5")}\r\nhello`, get("/tasks")],
      [200, 200],
    ],
    ["a client that asks before it sends", [post(length, "expect: 100-continue"), body], [100, 200]],
    ["a header of 40 KB", [`${head("GET /healthz HTTP/1.1", `x: ${"a".repeat(40_000)}`)}\r\n`], [431]],
    ["a header with a zero byte", [`${head("GET /healthz HTTP/1.1", "x: a\0b")}\r\n`], [400]],
    ["a folded header", [`${head("GET /healthz HTTP/1.1", "x: a", " b")}\r\n`], [400]],
    ["HTTP/3.0 as text", [`${head("GET /healthz HTTP/3.0")}\r\n`], [505]],
    ["the preface of HTTP/2", ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], [400]],
    ["TLS", ["\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03"], [400]],
  ];

  test("each gets its answers, and what it took is given back", async () => {
    const kit = await startKit({ workers: 1 });
    const server = serve(kit.app.fetch, "127.0.0.1", 0);
    for (const [what, pieces, statuses] of cases) {
      const socket = connect(server.port, "127.0.0.1").on("error", () => {});
      let text = "";
      socket.setEncoding("latin1").on("data", (piece: string) => {
        text += piece;
      });
      const answers = () => [...text.matchAll(/HTTP\/1\.1 (\d{3})/g)].map(([, status]) => Number(status));
      for (const [i, piece] of pieces.entries()) {
        socket.write(piece, "latin1");
        await until(() => answers().length > i || socket.destroyed);
        await sleep(50); // the whole answer
      }
      await until(() => answers().length >= statuses.length || socket.destroyed);
      expect([what, ...answers()]).toEqual([what, ...statuses]);
      socket.destroy();
    }
    await until(() => kit.idle());
    await within(server.stop());
    await kit.stop();
  });
});

describe("with AUTH_TOKEN", () => {
  let coordinator: Program;
  let origin: string;

  beforeAll(async () => {
    coordinator = spawnProgram("coordinator.ts", { PORT: "0", WORKERS: "1", AUTH_TOKEN: TOKEN, LOG_LEVEL: "warn" });
    origin = await originOf(coordinator);
  });
  afterAll(async () => {
    coordinator.kill();
    expect(await coordinator.exited).toBe(0);
    expect(coordinator.out).toBe(`Sobel, distributed: ${origin}\n`);
  });

  const ask = (path: string, init: RequestInit & { token?: string } = {}) => {
    const headers = new Headers(init.headers);
    if (init.token !== undefined) headers.set("authorization", `Bearer ${init.token}`);
    return fetch(origin + path, { ...init, headers });
  };

  /** Uploads a picture. @returns the id of the finished job */
  async function sent(): Promise<string> {
    const id = crypto.randomUUID();
    expect((await ask(`/jobs/${id}`, { method: "PUT", body: photo, token: TOKEN })).status).toBe(202);
    await until(async () => (await (await ask(`/jobs/${id}`)).json()).state === "done");
    return id;
  }

  const guarded: [method: string, path: string][] = [
    ["POST", "/tasks/sobel"],
    ["PUT", `/jobs/${crypto.randomUUID()}`],
    ["DELETE", `/jobs/${crypto.randomUUID()}`],
    ["GET", "/workers"],
    ["GET", "/metrics"],
  ];

  test.each(guarded)("%s %s requires the token", async (method, path) => {
    const wrong = ["", `Bearer`, `Bearer ${TOKEN}x`, `Bearer ${TOKEN.slice(0, -1)}`, TOKEN];
    wrong.push(`Basic ${btoa(`:${TOKEN}`)}`, `Bearer ${TOKEN.toUpperCase()}`, `Bearer ${TOKEN}, Bearer x`);
    for (const authorization of [undefined, ...wrong]) {
      const headers = authorization === undefined ? undefined : { authorization };
      const body = ["POST", "PUT"].includes(method) ? photo : undefined;
      const answer = await ask(path, { method, headers, body });
      expect([authorization, answer.status]).toEqual([authorization, 401]);
      expect(answer.headers.get("www-authenticate")).toBe("Bearer");
      expect(answer.headers.get("content-type")).toBe("application/problem+json");
      const text = await answer.text();
      expect(JSON.parse(text).status).toBe(401);
      expect(text).not.toContain(TOKEN);
    }
    // Not in the query either: URLs are logged.
    expect((await ask(`${path}?token=${TOKEN}&access_token=${TOKEN}`, { method })).status).toBe(401);
    const right = await ask(path, { method, body: method === "GET" ? undefined : photo, token: TOKEN });
    expect(right.status).toBe({ POST: 200, PUT: 202, DELETE: 404, GET: 200 }[method]!);
    await right.arrayBuffer();
  });

  test("the scheme may be in any case, and more than one space may follow", async () => {
    for (const authorization of [`bearer ${TOKEN}`, `BEARER  ${TOKEN}`]) {
      expect((await fetch(`${origin}/workers`, { headers: { authorization } })).status).toBe(200);
    }
  });

  test("a refused request changes nothing", async () => {
    const id = crypto.randomUUID();
    await ask(`/jobs/${id}`, { method: "PUT", body: photo, token: "wrong" });
    expect((await ask(`/jobs/${id}`)).status).toBe(404);
    const done = await sent();
    await ask(`/jobs/${done}`, { method: "DELETE", token: "wrong" });
    expect((await ask(`/jobs/${done}`)).status).toBe(200);
    expect((await ask(`/jobs/${done}`, { method: "DELETE", token: TOKEN })).status).toBe(204);
    expect((await ask(`/jobs/${done}`)).status).toBe(404);
  });

  test("probes, the page, and a job whose id is known require no token", async () => {
    const id = await sent();
    const ofJob = ["", "/events", "/result", "/bands/0"].map((path) => `/jobs/${id}${path}`);
    for (const path of ["/", "/page/page.js", "/healthz", "/readyz", ...ofJob, `/events?jobs=${id}`]) {
      const answer = await ask(path);
      expect([path, answer.status]).toEqual([path, 200]);
      await answer.arrayBuffer();
    }
  });

  test("ids cannot be guessed or listed", async () => {
    const answer = await ask("/tasks/sobel", { method: "POST", body: photo, token: TOKEN });
    expect(answer.headers.get("x-job-id")).toMatch(UUID);
    await answer.arrayBuffer();
    const guess = crypto.randomUUID();
    for (const path of ["", "/events", "/result", "/bands/0"])
      expect((await ask(`/jobs/${guess}${path}`)).status).toBe(404);
    for (const path of ["/jobs", "/jobs/", "/jobs/*", "/jobs/%2a", "/jobs/..%2fworkers"]) {
      expect([400, 403, 404]).toContain((await ask(path)).status);
    }
  });

  test("the policy of the page allows only files of this server", async () => {
    const answer = await ask("/");
    const html = await answer.text();
    const policy = Object.fromEntries(
      (answer.headers.get("content-security-policy") ?? "").split("; ").map((directive) => {
        const [name, ...values] = directive.split(" ");
        return [name, values];
      }),
    );
    expect(policy).toEqual({
      "default-src": ["'none'"],
      "script-src": ["'self'"],
      "style-src": ["'self'"],
      "img-src": ["'self'", "blob:"],
      "connect-src": ["'self'"],
      "base-uri": ["'none'"],
      "form-action": ["'self'"],
      "frame-ancestors": ["'none'"],
    });
    expect(answer.headers.get("x-content-type-options")).toBe("nosniff");
    expect(answer.headers.get("referrer-policy")).toBe("no-referrer");
    expect(answer.headers.get("content-type")).toBe("text/html; charset=utf-8");
    expect(html).not.toContain(TOKEN);
  });

  test("browsers must not guess the type of results and errors", async () => {
    const id = await sent();
    const body = photo;
    const answers = [
      await ask(`/jobs/${id}/result`),
      await ask(`/jobs/${id}/result`, { headers: { range: "bytes=3-9" } }),
      await ask("/tasks/sobel", { method: "POST", body, token: TOKEN }),
      await ask("/tasks/sobel", { method: "POST", body: "<script>alert(1)</script>", token: TOKEN }),
      await ask("/%3Cscript%3Ealert(1)%3C/script%3E"),
    ];
    expect(answers.map(({ status }) => status)).toEqual([200, 206, 200, 415, 404]);
    for (const answer of answers) {
      const type = answer.status < 300 ? "image/png" : "application/problem+json";
      expect(answer.headers.get("content-type")).toBe(type);
      expect(answer.headers.get("x-content-type-options")).toBe("nosniff");
      await answer.arrayBuffer();
    }
  });

  test("no part of the URL or the form gets into the headers", async () => {
    const evil = ["%0d%0aset-cookie:%20a=b", "%0aset-cookie:a=b", '";%20filename="x.html', "%22%3b%20x", "%00", "%ff"];
    const id = await sent();
    for (const text of evil) {
      const form = new FormData();
      form.append("image", new File([photo], `${decodeURI(text.replace("%ff", ""))}.html`));
      for (const [method, path, body] of [
        ["POST", `/tasks/sobel${text}`, photo],
        ["POST", `/tasks/sobel?name=${text}&workers=`, form],
        ["PUT", `/jobs/${id}${text}`, photo],
        ["PUT", `/jobs/${crypto.randomUUID()}?task=sobel${text}`, photo],
        ["GET", `/jobs/${id}${text}/result`],
        ["GET", `/jobs/${id}/result?${text}`],
        ["GET", `/${text}`],
      ] as const) {
        const answer = await ask(path, { method, body, token: TOKEN });
        expect([200, 400, 404, 422]).toContain(answer.status);
        const names = [...answer.headers.keys()];
        expect(names).not.toContain("set-cookie");
        const name = answer.headers.get("content-disposition") ?? 'inline; filename="sobel.png"';
        expect(name).toMatch(/^(inline; filename="sobel\.png"|attachment; filename="[0-9a-f-]{36}\.sobel\.png")$/);
        await answer.arrayBuffer();
      }
    }
  });
});

// If the server closed the connection while the client is still sending, the client would lose the answer.
describe.each(["bun", "deno"] as const)("a large upload without the token, %s", (runtime) => {
  test.skipIf(runtime === "deno" && !binaries.deno)(
    "gets its 401 from curl and from a client that sends everything before it reads",
    async () => {
      const program = spawnProgram("coordinator.ts", { PORT: "0", WORKERS: "1", AUTH_TOKEN: TOKEN }, runtime);
      const origin = await originOf(program);
      const file = join(temporaryFolder("upload"), "large.bin");
      const body = Buffer.alloc(64 << 20, 7); // more than the buffers of the connection hold
      writeFileSync(file, body);
      const path = `/jobs/${crypto.randomUUID()}`;
      const { stdout } = await run("curl", ["-sS", "-m", "20", "-T", file, "-w", "\n%{http_code}", origin + path]);
      expect(stdout).toMatch(/a token is needed[^\n]*\n401$/);
      // A host name of one letter, too: with Elysia's default, such a request gets 404.
      for (const request of [`PUT ${path}`, "POST /tasks/sobel"]) {
        const head = `${request} HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\n\r\n`;
        const { answer, error } = await sendThenRead(Number(new URL(origin).port), [Buffer.from(head), body]);
        expect(error).toBe("");
        expect(answer).toStartWith("HTTP/1.1 401 ");
        expect(answer).toContain("a token is needed");
      }
      program.kill("SIGKILL");
      await program.exited;
    },
  );
});

describe("errors about settings have the names, never the values", () => {
  test.each(["two words", "line\n", "señal", "tab\t"])("AUTH_TOKEN=%j, which no header can contain", async (token) => {
    const program = spawnProgram("coordinator.ts", { PORT: "0", AUTH_TOKEN: token });
    expect(await within(program.exited)).toBe(1);
    expect(program.out).toMatch(/^coordinator\.ts: AUTH_TOKEN: expected [^\n]*\n$/);
    expect(program.out).not.toContain(token.trim());
  });

  const malformed = [
    "amqp://user:s3cret@",
    "redis://user:s3cret@",
    "not a url s3cret",
    "s3cret",
    "http://user:s3cret@127.0.0.1:1",
    "amqp:user:s3cret@127.0.0.1",
    "redis:user:s3cret@127.0.0.1",
    "amqp://user:s3cret@127.0.0.1:port",
    "amqp://user:s3cret/x@127.0.0.1:1",
    "amqp://user:s3cret%@127.0.0.1:1",
    "redis://:s3cret%zz@127.0.0.1:1",
    "127.0.0.1:1?password=s3cret",
    "/tmp/s3cret.sock",
  ];
  const programs = ["coordinator.ts", "worker.ts"];
  const variables = { RABBITMQ_URL: "amqp://127.0.0.1:1", REDIS_URL: "redis://127.0.0.1:1" };

  for (const file of programs) {
    test.each(Object.keys(variables))(`${file}: %s malformed`, async (variable) => {
      await Promise.all(
        malformed.map(async (url) => {
          const program = spawnProgram(file, { PORT: "0", ...variables, [variable]: url });
          const code = await within(program.exited).finally(() => program.kill("SIGKILL"));
          expect([url, code]).toEqual([url, 1]);
          expect(program.out).not.toContain("s3cret");
          // One line, without a stack.
          expect(program.out).toMatch(new RegExp(`^${file}: ${variable}: expected [^\\n]*\\n$`));
        }),
      );
    });

    test(`${file}: servers that cannot be reached`, async () => {
      const program = spawnProgram(file, {
        PORT: "0",
        RABBITMQ_URL: "amqp://user:s3cret@127.0.0.1:1",
        REDIS_URL: "redis://user:s3cret@127.0.0.1:1",
      });
      await program.waitFor(/(RabbitMQ cannot be reached[\s\S]*){3}/);
      program.kill("SIGKILL");
      await program.exited;
      expect(program.out).not.toContain("s3cret");
    });
  }
});

describe("pipelines/dead-letters.ts", () => {
  const servers = { RABBITMQ_URL: "amqp://user:s3cret@127.0.0.1:1", REDIS_URL: "redis://user:s3cret@127.0.0.1:1" };
  test.each([
    [[], {}, 2, /^usage: /],
    [["--back"], { RABBITMQ_URL: "amqp://127.0.0.1:1" }, 2, /^usage: /],
    [["--remove"], servers, 2, /^usage: /],
    [[], { ...servers, RABBITMQ_URL: "http://user:s3cret@127.0.0.1" }, 1, /^dead-letters\.ts: RABBITMQ_URL: expected /],
    [[], { ...servers, REDIS_URL: "redis://:s3cret@127.0.0.1:1/x" }, 1, /^dead-letters\.ts: REDIS_URL: expected /],
    [[], servers, 1, /^dead-letters\.ts: RABBITMQ_URL: RabbitMQ cannot be reached, /],
    [["--back"], servers, 1, /^dead-letters\.ts: REDIS_URL: Redis is unavailable: .*ECONNREFUSED/],
  ])("%j with %j: one line of error", (args, env, code, sentence) => {
    const { PATH, HOME } = process.env;
    const command = [process.execPath, "run", "pipelines/dead-letters.ts", ...args];
    const { exitCode, stderr } = Bun.spawnSync(command, {
      cwd: join(import.meta.dirname, ".."),
      env: { PATH, HOME, ...env },
    });
    expect([exitCode, stderr.toString()]).toEqual([code, expect.stringMatching(sentence)]);
    expect(stderr.toString()).toMatch(/^[^\n]+\n$/);
    expect(stderr.toString()).not.toContain("s3cret");
  });
});

test("a server that repeats the arguments of AUTH in its error: they are not logged", async () => {
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.on("data", (bytes) => {
      const text = bytes.toString();
      const commands = text.match(/^\*\d+/gm) ?? [];
      for (const _ of commands)
        socket.write("-ERR unknown command `auth`, with args beginning with: `user` `s3cret`\r\n");
    });
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address() as { port: number };
  const env = { RABBITMQ_URL: "amqp://127.0.0.1:1", REDIS_URL: `redis://user:s3cret@127.0.0.1:${port}` };
  for (const file of ["coordinator.ts", "worker.ts"]) {
    const program = spawnProgram(file, { PORT: "0", ...env });
    expect(await within(program.exited)).toBe(1);
    expect(program.out).toMatch(/"Redis cannot be reached, retrying".*ERR unknown command `auth`"/);
    expect(program.out).toMatch(new RegExp(`\\n${file}: REDIS_URL: [^\\n]*ERR unknown command \`auth\`\\n$`));
    expect(program.out).not.toContain("s3cret");
  }
  server.close();
});

describeWith(["redis"], "what Redis refuses", () => {
  test("ends the program at the start with the reason, and makes a running one not ready", async () => {
    const redis = await startRedis();
    const client = new Redis(redis.url);
    const start = (url: string, file = "coordinator.ts") =>
      spawnProgram(file, { PORT: "0", RABBITMQ_URL: "amqp://127.0.0.1:1", REDIS_URL: url });
    try {
      await client.call("ACL", "SETUSER", "poor", "on", ">s3cret", "~*", "&*", "+@all", "-eval");
      await client.call("ACL", "SETUSER", "mute", "on", ">s3cret", "~*", "resetchannels", "+@all");
      await client.call("ACL", "SETUSER", "rich", "on", ">s3cret", "~*", "&*", "+@all");
      const as = (user: string) => redis.url.replace("//", `//${user}:s3cret@`);
      const refused = [`${redis.url}/99`, as("nobody"), as("poor"), as("mute")];
      for (const file of ["coordinator.ts", "worker.ts"]) {
        const programs = refused.map((url) => start(url, file));
        for (const program of [...programs, start(`${redis.url}/x`, file)]) {
          expect(await within(program.exited)).toBe(1);
          expect(program.out).toMatch(new RegExp(`^(?:\\{.*\\n)*${file}: REDIS_URL: [^\\n]+\\n$`));
          expect(program.out).not.toContain("s3cret");
        }
      }
      const program = start(as("rich"));
      const [origin] = await program.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
      const up = async () => (await (await fetch(`${origin}/metrics`)).text()).match(/^sobel_store_up (\d)/m)?.[1];
      await until(async () => (await up()) === "1");
      await client.call("ACL", "SETUSER", "rich", "-eval");
      await until(async () => (await up()) === "0");
      await client.call("ACL", "SETUSER", "rich", "+eval");
      await until(async () => (await up()) === "1");
      // Redis closes the connections that have lost a channel. The next subscription is refused, and must not end the program.
      await client.call("ACL", "SETUSER", "rich", "resetchannels");
      await program.waitFor(/Redis cannot be reached, retrying.*NOPERM/);
      await until(async () => (await up()) === "0");
      program.kill();
      expect(await within(program.exited)).toBe(0);
      expect(program.out).not.toContain("s3cret");
    } finally {
      client.disconnect();
      await redis.stop();
    }
  });

  test("a database that does not exist is never mixed up with database 0, though Redis starts later", async () => {
    const redis = await startRedis();
    await redis.kill();
    const url = { RABBITMQ_URL: "amqp://127.0.0.1:1", REDIS_URL: `${redis.url}/99` };
    const programs = ["coordinator.ts", "worker.ts"].map((file) => spawnProgram(file, { PORT: "0", ...url }));
    try {
      const origin = await originOf(programs[0]);
      await programs[1].waitFor(/at work|retrying/);
      await redis.restart();
      for (const program of programs)
        await program.waitFor(/Redis cannot be reached, retrying.*DB index is out of range/);
      const signal = AbortSignal.timeout(2_000);
      const put = fetch(`${origin}/jobs/${crypto.randomUUID()}`, { method: "PUT", body: photo, signal });
      expect(await put.then(({ status }) => status, String)).not.toBe(202);
      expect((await fetch(`${origin}/readyz`)).status).toBe(503);
      const client = new Redis(redis.url);
      expect(await client.info("keyspace")).not.toContain("db0");
      client.disconnect();
    } finally {
      for (const program of programs) program.kill("SIGKILL");
      await redis.stop();
    }
  });

  test("the rights in docs/settings.md are enough", async () => {
    const redis = await startRedis();
    const client = new Redis(redis.url);
    const page = readFileSync(join(import.meta.dirname, "../docs/settings.md"), "utf8");
    const [, rule = ""] = /^ACL (SETUSER sobel .*)$/m.exec(page) ?? [];
    await client.call("ACL", ...rule.replace("PASSWORD", "s3cret").split(" "));
    const results = new RedisResults(redis.url.replace("//", "//sobel:s3cret@"), 60, false);
    try {
      await results.check();
      await results.ping();
      const id = crypto.randomUUID();
      const stop = await results.watch(id, () => {});
      expect(await results.findJob(id)).toBeNull();
      expect(await results.lease(id, "one", 1000)).toBe(true);
      expect(await results.isLeased(id)).toBe(true);
      await results.release(id, "one");
      expect(await results.workers()).toEqual([]);
      await client.set(`resultado:{${id}}:0`, "");
      await results.sweep();
      expect(await client.ttl(`resultado:{${id}}:0`)).toBeGreaterThan(0);
      await results.removeJob(id, 1);
      stop();
      expect((await client.keys("*")).filter((key) => key.includes("probe") || key.includes(id))).toEqual([]);
    } finally {
      await results.close();
      client.disconnect();
      await redis.stop();
    }
  });

  test("a server that evicts is logged, and one that is too old is refused", async () => {
    const redis = await startRedis();
    const client = new Redis(redis.url);
    // The same Redis, with another version in its answers.
    const older = createServer((socket) => {
      const server = connect(redis.port, "127.0.0.1");
      for (const end of [socket, server]) end.on("error", () => {});
      socket.pipe(server);
      server.on("data", (bytes) => {
        const text = bytes.toString("latin1").replace(/redis_version:\d\.\d/, "redis_version:6.0");
        socket.write(text, "latin1");
      });
    });
    await new Promise<void>((listening) => older.listen(0, "127.0.0.1", listening));
    const { port } = older.address() as { port: number };
    const start = (url: string) => {
      return spawnProgram("coordinator.ts", { PORT: "0", RABBITMQ_URL: "amqp://127.0.0.1:1", REDIS_URL: url });
    };
    try {
      await client.config("SET", "maxmemory-policy", "allkeys-lru");
      const program = start(redis.url);
      await program.waitFor(/Redis may evict results: expected maxmemory-policy noeviction.*allkeys-lru/);
      program.kill("SIGKILL");
      const refused = start(`redis://127.0.0.1:${port}`);
      expect(await within(refused.exited)).toBe(1);
      expect(refused.out).toMatch(/^coordinator\.ts: REDIS_URL: expected Redis 6\.2 or later, got 6\.0\.\d+\n$/m);
    } finally {
      older.close();
      client.disconnect();
      await redis.stop();
    }
  });
});

describeWith(["rabbitmq", "redis"], "a password that is wrong", () => {
  // Bun and Deno print different parts of an error.
  test.each([
    ["coordinator.ts", "bun"],
    ["coordinator.ts", "deno"],
    ["worker.ts", "bun"],
  ] as const)("%s on %s does not print it", async (file, runtime) => {
    if (runtime === "deno" && !binaries.deno) return;
    const { rabbitmq } = await sharedServers();
    const redis = await startRedis();
    const client = new Redis(redis.url);
    await client.config("SET", "requirepass", "s3cret");
    const program = spawnProgram(
      file,
      {
        PORT: "0",
        RABBITMQ_URL: `amqp://guest:s3cret@127.0.0.1:${rabbitmq.port}`,
        REDIS_URL: `redis://:s3cret@127.0.0.1:${redis.port}`,
      },
      runtime,
    );
    let said = "";
    await program.waitFor(/http:\/\/|at work/, 20_000);
    // Changed while it runs: at the start it would end the program.
    await client.config("SET", "requirepass", "right");
    for (const type of ["normal", "pubsub"]) await client.call("CLIENT", "KILL", "TYPE", type, "SKIPME", "yes");
    client.disconnect();
    if (file === "coordinator.ts") {
      const origin = await originOf(program);
      await program.waitFor(/RabbitMQ refuses access: check the user, the password.*ACCESS/);
      for (const [method, path] of [
        ["GET", "/readyz"],
        ["GET", "/workers"],
        ["GET", `/jobs/${crypto.randomUUID()}`],
        ["PUT", `/jobs/${crypto.randomUUID()}`],
      ]) {
        const answer = await fetch(origin + path, { method, body: method === "PUT" ? photo : undefined });
        expect([path, answer.status]).toEqual([path, 503]);
        const text = await answer.text();
        if (path !== "/readyz") expect(JSON.parse(text).detail).toBe("Redis is unavailable; retry in 5 s");
        said += text;
      }
    } else {
      await program.waitFor(/heartbeat failed.*(NOAUTH|WRONGPASS)/, 20_000);
      await program.waitFor(/RabbitMQ refuses access: check the user, the password.*ACCESS/);
    }
    program.kill("SIGKILL");
    await program.exited;
    await redis.stop();
    expect(program.out).not.toBe("");
    expect(program.out).not.toContain("s3cret");
    expect(said).not.toContain("s3cret");
  });
});

describeWith(["rabbitmq", "redis"], "what RabbitMQ refuses", () => {
  test("is logged and retried: a virtual host that does not exist, a user without permissions", async () => {
    // Killed workers stay in the list for a while.
    const [rabbitmq, redis] = await Promise.all([startRabbitMQ(), startRedis()]);
    await rabbitmq.ctl("add_user", "poor", "s3cret");
    const at = (user: string, path = "") => `amqp://${user}@127.0.0.1:${rabbitmq.port}${path}`;
    const start = (url: string, file: string) => {
      return spawnProgram(file, { PORT: "0", RABBITMQ_URL: url, REDIS_URL: redis.url });
    };
    const files = ["coordinator.ts", "worker.ts"];
    const programs = files.flatMap((file) => [start(at("guest:guest", "/none"), file), start(at("poor:s3cret"), file)]);
    for (const program of programs) {
      await program.waitFor(/(RabbitMQ refuses access: check the user, the password, the virtual host[\s\S]*){2}/);
      expect(program.out).not.toContain("s3cret");
      expect(program.out).not.toContain("node_modules");
    }
    const [none, poor] = programs;
    const wrong = start(at("guest:wrong"), "coordinator.ts");
    programs.push(wrong);
    const origin = await originOf(poor);
    for (const [program, code] of [
      [none, "vhost"],
      [poor, "vhost"],
      [wrong, "login"],
    ] as const) {
      await program.waitFor(/RabbitMQ refuses access/);
      const at = await originOf(program);
      const refused = await fetch(`${at}/readyz`);
      expect([refused.status, (await refused.json()).backends]).toEqual([503, { rabbitmq: code, redis: null }]);
      const { backends } = await (await fetch(`${at}/state`)).json();
      expect(backends).toMatchObject({ rabbitmq: { up: false, code }, redis: { up: true } });
    }
    await rabbitmq.ctl("set_permissions", "poor", "^tareas", "^(tareas|amq.default)", "^(tareas|amq.default)");
    await until(async () => (await fetch(`${origin}/readyz`)).status === 200);
    for (const program of programs) program.kill("SIGKILL");
    await Promise.all(programs.map(({ exited }) => exited));
    await Promise.all([rabbitmq.stop(), redis.stop()]);
  });

  test("a version that is too old is logged", async () => {
    const { rabbitmq, redis } = await sharedServers();
    // The same RabbitMQ, with another version in its greeting.
    const older = createServer((socket) => {
      const server = connect(rabbitmq.port, "127.0.0.1");
      for (const end of [socket, server]) end.on("error", () => {});
      socket.pipe(server);
      server.on("data", (bytes) => {
        const text = bytes.toString("latin1").replace(/(\x07versionS.{4})([\d.]+)/s, (_, head, version) => {
          return head + "3.9.000000".slice(0, version.length);
        });
        socket.write(text, "latin1");
      });
    });
    await new Promise<void>((listening) => older.listen(0, "127.0.0.1", listening));
    const { port } = older.address() as { port: number };
    const url = { RABBITMQ_URL: `amqp://guest:guest@127.0.0.1:${port}`, REDIS_URL: redis.url };
    const program = spawnProgram("coordinator.ts", { PORT: "0", ...url });
    await program.waitFor(/(expected RabbitMQ 3\.10 or later, got 3\.9[\s\S]*){2}/);
    expect((await fetch(`${await originOf(program)}/readyz`)).status).toBe(503);
    program.kill("SIGKILL");
    await program.exited;
    older.close();
  });
});

describeWith(["rabbitmq", "redis", "chromium"], "a worker whose name is HTML", () => {
  test("is shown by that name as text", async () => {
    const { rabbitmq, redis } = await sharedServers();
    const servers = { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url };
    const name = `<img src=x onerror="document.title='owned'">"'&amp;\r\nset-cookie: a=b`;
    const worker = spawnProgram("worker.ts", { ...servers, WORKER_NAME: name });
    const coordinator = spawnProgram("coordinator.ts", { PORT: "0", BAND_PIXELS: "1000", ...servers });
    const origin = await originOf(coordinator);
    const browser = await chromium.launch({
      executablePath: binaries.chromium,
      headless: true,
      args: ["--no-sandbox"],
    });
    try {
      const page = await (await browser.newContext({ locale: "en-GB" })).newPage();
      await page.goto(origin);
      const elements = await page.locator("img").count();
      await page.setInputFiles("#file", { name: "photo.png", mimeType: "image/png", buffer: photo });
      await page.waitForSelector('#stage[data-phase="done"]');
      expect(await page.locator("#legend .worker").allTextContents()).toEqual([name]);
      expect(await page.locator("#legend img, #alive img, select img").count()).toBe(0);
      expect(await page.locator("img").count()).toBe(elements + 1); // the picture in the list
      expect(await page.title()).toBe("Sobel, distributed");
      const answer = await fetch(`${origin}/workers`);
      expect(answer.headers.get("set-cookie")).toBeNull();
      expect(((await answer.json()) as { workers: { name: string }[] }).workers[0].name).toBe(name);
    } finally {
      await browser.close();
      for (const program of [worker, coordinator]) program.kill();
      await Promise.all([worker.exited, coordinator.exited]);
    }
  });
});

describeWith(["rabbitmq", "redis"], "TLS", () => {
  let folder: string;
  let rabbitmq: RabbitMQ;
  let redis: RedisServer;
  let servers: Record<string, string>;

  beforeAll(async () => {
    folder = await certificates();
    const tlsPort = await freePort();
    const file = (name: string) => join(folder, name);
    const args = ["--tls-port", String(tlsPort), "--tls-auth-clients", "no", "--tls-ca-cert-file", file("ca.pem")];
    args.push("--tls-cert-file", file("server.pem"), "--tls-key-file", file("server.key"));
    [rabbitmq, redis] = await Promise.all([startRabbitMQ(), startRedis({ args })]);
    const amqpsPort = await freePort();
    const options = `[{cacertfile, "${file("ca.pem")}"}, {certfile, "${file("server.pem")}"}, {keyfile, "${file("server.key")}"}]`;
    const listen = `{"127.0.0.1", ${amqpsPort}}`;
    await rabbitmq.ctl(
      "eval",
      `rabbit_networking:ensure_ssl(), rabbit_networking:start_ssl_listener(${listen}, ${options}, 2).`,
    );
    servers = {
      RABBITMQ_URL: `amqps://guest:guest@127.0.0.1:${amqpsPort}`,
      REDIS_URL: `rediss://127.0.0.1:${tlsPort}`,
    };
  }, 90_000);
  afterAll(async () => {
    await Promise.all([rabbitmq?.stop(), redis?.stop()]);
  });

  test.each(["bun", "deno"] as const)(
    "%s connects by amqps:// and rediss:// to servers with a trusted certificate",
    async (runtime) => {
      if (runtime === "deno" && !binaries.deno) return;
      const trust = { [runtime === "deno" ? "DENO_CERT" : "NODE_EXTRA_CA_CERTS"]: join(folder, "ca.pem") };
      const worker = spawnProgram("worker.ts", { ...servers, ...trust, WORKER_NAME: "tls" }, runtime);
      const coordinator = spawnProgram("coordinator.ts", { ...servers, ...trust, PORT: "0" }, runtime);
      const origin = await originOf(coordinator);
      const answer = await fetch(`${origin}/tasks/sobel`, { method: "POST", body: photo });
      expect(answer.status).toBe(200);
      expect(Buffer.from(await answer.arrayBuffer()).toString("latin1", 1, 4)).toBe("PNG");
      for (const program of [worker, coordinator]) program.kill();
      expect(await Promise.all([worker.exited, coordinator.exited])).toEqual([0, 0]);
      expect(coordinator.out).not.toContain("reached");
    },
  );

  test("the coordinator does not connect to servers with an untrusted certificate", async () => {
    const start = (own: Record<string, string>) => spawnProgram("coordinator.ts", { ...servers, ...own, PORT: "0" });
    const problem = async (at: string) => ((await (await fetch(`${at}/readyz`)).json()) as { detail?: string }).detail;
    const noQueue = start({ REDIS_URL: redis.url });
    const noStore = start({ RABBITMQ_URL: rabbitmq.url });
    await noQueue.waitFor(/RabbitMQ cannot be reached.*certificate/);
    const origin = await originOf(noStore);
    // Only after a connection has failed is the client reconnecting.
    await until(async () => /^Redis is .*reconnecting/.test((await problem(origin)) ?? ""));
    expect(await problem(await originOf(noQueue))).toMatch(/^RabbitMQ is /);
    for (const program of [noQueue, noStore]) program.kill("SIGKILL");
    await Promise.all([noQueue.exited, noStore.exited]);
  });
});

/** Sends everything before it reads the answer, as simple clients do. */
function sendThenRead(port: number, pieces: Uint8Array[]): Promise<{ answer: string; error: string }> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    const read: Buffer[] = [];
    let error = "";
    socket.pause();
    socket.on("data", (bytes) => {
      read.push(bytes as Buffer);
      if (read.at(-1)?.at(-1) === 125) socket.end(); // the problem's closing brace
    });
    socket.on("error", (cause) => {
      error = cause.message;
    });
    socket.on("close", () => resolve({ answer: Buffer.concat(read).toString(), error }));
    const send = ([first, ...rest]: Uint8Array[]) => {
      if (first) socket.write(first, () => send(rest));
      else socket.resume();
    };
    send(pieces);
    setTimeout(() => socket.destroy(new Error("no answer")), 20_000).unref();
  });
}

async function originOf(program: Program): Promise<string> {
  return (await program.waitFor(/http:\/\/127\.0\.0\.1:\d+/))[0];
}
