// What holds for every request: hosts, origins, methods, HEAD, conditions, and what is logged of a broken download.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encode } from "fast-png";
import { chromium } from "playwright-core";
import { allowedHosts } from "../http/guard.ts";
import { streamed } from "../http/respond.ts";
import { edgesOf, type Kit, rawUpload, startKit } from "./kit.ts";
import { binaries, describeWith, freePort, type Program, spawnProgram } from "./servers.ts";
import { sleep, until, within } from "./wait.ts";

const photo = Buffer.from(
  encode({ width: 60, height: 40, channels: 1, data: new Uint8Array(2400).map((_, i) => (i * i) % 251) }),
);

/** Sends these bytes, and reads until the server closes the connection. */
function raw(origin: string, bytes: string | Uint8Array): Promise<string> {
  return within(
    new Promise((resolve, reject) => {
      const { hostname, port } = new URL(origin);
      const socket = connect(Number(port), hostname);
      const parts: Buffer[] = [];
      socket.on("data", (part: Buffer) => parts.push(part));
      socket.on("error", reject);
      socket.on("close", () => resolve(Buffer.concat(parts).toString("latin1")));
      socket.write(bytes);
    }),
  );
}

describe("any request", () => {
  let program: Program;
  let origin: string;
  beforeAll(async () => {
    program = spawnProgram("coordinator.ts", { PORT: "0", WORKERS: "1" });
    [origin] = await program.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
  });
  afterAll(() => program.kill());

  test("with an invalid Host, or none, gets its answer: no path, no stack, no source", async () => {
    const hosts = ["x:99999", "a b", "[::1", "x%zz", "user@x", "", "ñandú.ar"];
    const heads = hosts.map((host) => `HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
    for (const head of [...heads, "HTTP/1.0\r\n\r\n"]) {
      for (const [path, status] of [
        ["/healthz", 200],
        ["/events?jobs=x", 400],
        ["/jobs/x", 400],
        ["/nothing", 404],
      ] as const) {
        const answer = await raw(origin, `GET ${path} ${head}`);
        expect([head, path, answer.split(" ")[1]]).toEqual([head, path, String(status)]);
        expect(answer).not.toMatch(/node_modules|\.ts\b|cwd|<html/);
        if (status !== 200) expect(answer).toContain("application/problem+json");
      }
      expect(await raw(origin, `POST /tasks/sobel ${head}`)).toMatch(/^HTTP\/1\.1 400 /);
    }
  });

  test("that is refused is answered though its client closes the connection, and reads only when all is sent", async () => {
    const body = Buffer.alloc(24 << 20, "no picture ");
    for (const [path, answer] of [
      ["/tasks/sobel", /^HTTP\/1\.1 400 [\s\S]*not an image/],
      ["/tasks/nothing", /^HTTP\/1\.1 422 [\s\S]*unknown task/],
    ] as const) {
      const upload = await rawUpload(origin, `POST ${path}`, body.length);
      upload.socket.pause();
      await upload.written(body);
      upload.socket.resume();
      expect(await upload.answer()).toMatch(answer);
    }
  });

  test("of a browser must name a host that is served, and change nothing from another origin", async () => {
    const { host } = new URL(origin);
    const ask = async (method: string, headers: Record<string, string>) => {
      const lines = Object.entries({ connection: "close", host, ...headers }).map(
        ([name, value]) => `${name}: ${value}`,
      );
      const answer = await raw(
        origin,
        `${method} /jobs/${crypto.randomUUID()} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`,
      );
      return Number(answer.split(" ")[1]);
    };
    const browser = { "user-agent": "Mozilla/5.0" };
    expect(await ask("GET", browser)).toBe(404);
    expect(await ask("GET", { ...browser, host: "evil.example" })).toBe(403); // DNS rebinding
    expect(await ask("GET", { host: "evil.example" })).toBe(404); // curl
    for (const [headers, status] of [
      [{ origin }, 404],
      [{ origin: "http://evil.example" }, 403],
      [{ origin: "null" }, 403],
      [{ "sec-fetch-site": "cross-site" }, 403],
      [{ "sec-fetch-site": "same-site" }, 403],
      [{ "sec-fetch-site": "same-origin" }, 404],
      // nginx replaces the host unless it is configured otherwise.
      [{ origin: "https://sobel.example", "sec-fetch-site": "same-origin" }, 404],
      [{}, 404],
    ] as const) {
      expect([headers, await ask("DELETE", headers)]).toEqual([headers, status]);
    }
  });
});

test("the page may not be shown in a frame", async () => {
  const kit = await startKit({ workers: 0 });
  const { headers } = await kit.ask("/");
  expect(headers.get("x-frame-options")).toBe("DENY");
  expect(headers.get("content-security-policy")).toContain("frame-ancestors 'none'");
  await kit.stop();
});

test("an address of IPv6 is printed in brackets, and browsers may use it", async () => {
  const program = spawnProgram("coordinator.ts", { HOST: "::1", PORT: "0", WORKERS: "1" });
  const [origin] = await program.waitFor(/http:\/\/\[::1\]:\d+/);
  expect((await fetch(`${origin}/healthz`, { headers: { "user-agent": "Mozilla/5.0" } })).status).toBe(200);
  program.kill();
  await program.exited;
});

test("a download that breaks off is logged in one line of JSON with the job's id", async () => {
  const program = spawnProgram("coordinator.ts", { PORT: "0", WORKERS: "2", BAND_PIXELS: "100000" });
  const [origin] = await program.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
  const id = crypto.randomUUID();
  const data = new Uint8Array(24e6);
  for (let i = 0; i < data.length; i += 65_536) crypto.getRandomValues(data.subarray(i, i + 65_536));
  const body = Buffer.from(encode({ width: 1000, height: 24_000, channels: 1, data }, { zlib: { level: 1 } }));
  expect((await fetch(`${origin}/jobs/${id}`, { method: "PUT", body })).status).toBe(202);
  await until(async () => (await (await fetch(`${origin}/jobs/${id}`)).json()).state === "done");
  const socket = connect(Number(new URL(origin).port), "127.0.0.1").pause();
  socket.write(`GET /jobs/${id}/result HTTP/1.1\r\nhost: test\r\n\r\n`);
  await sleep(500); // the buffers of the connection are full
  expect((await fetch(`${origin}/jobs/${id}`, { method: "DELETE" })).status).toBe(204);
  socket.on("error", () => {}).resume();
  await within(new Promise((resolve) => socket.once("close", resolve)));
  await program.waitFor(/download broke off/);
  program.kill();
  await program.exited;
  const [, ...lines] = program.out.trim().split("\n");
  const errors = lines.map((line) => JSON.parse(line)).filter(({ level }) => level === "error");
  expect(errors).toMatchObject([{ msg: "download broke off", job: id, error: expect.stringMatching(/cancelled/) }]);
});

test("a client that closes the connection while the next piece is made is no download that broke off", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const pieces = async function* () {
    yield Uint8Array.of(1);
    await promise;
    yield Uint8Array.of(2);
  };
  const errors: unknown[] = [];
  const reader = (await streamed(pieces(), {}, (error) => errors.push(error))).body!.getReader();
  await reader.read();
  const next = reader.read();
  const cancelled = reader.cancel();
  resolve();
  await Promise.all([next, cancelled]);
  expect(errors).toEqual([]);
});

/** A proxy with nginx's own settings: it sends `Connection: close` and its own name as the host. */
describe.skipIf(!Bun.which("nginx"))("behind nginx", () => {
  test("a refused upload gets its answer", async () => {
    const folder = mkdtempSync(join(tmpdir(), "nginx-"));
    const coordinator = spawnProgram("coordinator.ts", { PORT: "0", WORKERS: "1" });
    const [origin] = await coordinator.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
    const port = await freePort();
    const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(
      (name) => `${name}_temp_path ${folder}/t;`,
    );
    const server = `server { listen 127.0.0.1:${port}; location / { proxy_pass ${origin}; } }`;
    const http = `access_log off; client_max_body_size 0; ${temporary.join(" ")} ${server}`;
    writeFileSync(
      join(folder, "conf"),
      `daemon off; master_process off; pid ${folder}/pid; error_log ${folder}/log; events {} http { ${http} }`,
    );
    const nginx = Bun.spawn(["nginx", "-c", join(folder, "conf"), "-p", folder], { stderr: "ignore" });
    try {
      const at = `http://127.0.0.1:${port}`;
      await until(async () => (await fetch(`${at}/healthz`).catch(() => null))?.ok);
      const body = Buffer.alloc(24 << 20, "no picture ");
      for (let i = 0; i < 5; i++) {
        const answer = await fetch(`${at}/tasks/sobel`, { method: "POST", body });
        expect([answer.status, (await answer.json()).detail]).toEqual([400, expect.stringContaining("not an image")]);
      }
      const unknown = await fetch(`${at}/tasks/nothing`, { method: "POST", body });
      expect(unknown.status).toBe(422);
    } finally {
      nginx.kill();
      coordinator.kill();
      await Promise.all([nginx.exited, coordinator.exited]);
      rmSync(folder, { recursive: true });
    }
  });
});

test("on loopback browsers may use its names; elsewhere any, unless the setting names some", () => {
  const loopback = ["localhost", "127.0.0.1", "[::1]"];
  expect(allowedHosts("127.0.0.1", [])).toEqual(loopback);
  expect(allowedHosts("::1", ["sobel.example"])).toEqual([...loopback, "sobel.example"]);
  expect(allowedHosts("0.0.0.0", [])).toBe(null);
  expect(allowedHosts("0.0.0.0", ["sobel.example"])).toContain("sobel.example");
});

describe("HEAD and conditions", () => {
  let kit: Kit;
  let id: string;
  beforeAll(async () => {
    kit = await startKit({ workers: 1 });
    id = crypto.randomUUID();
    expect((await kit.ask(`/jobs/${id}`, { method: "PUT", body: photo })).status).toBe(202);
    await until(async () => (await (await kit.ask(`/jobs/${id}`)).json()).state === "done");
  });
  afterAll(() => kit.stop());

  test("HEAD of every route is answered, and gives back all that it took", async () => {
    const open = crypto.randomUUID();
    const paths = ["/", "/healthz", "/readyz", "/openapi.json", "/metrics", "/workers", "/tasks"];
    paths.push(`/jobs/${id}`, `/jobs/${id}/events`, `/jobs/${id}/result`, `/jobs/${id}/bands/0`);
    paths.push(`/events?jobs=${id},${open}`, `/jobs/${open}/events`);
    for (let i = 0; i < 50; i++) {
      for (const path of paths) {
        const answer = await within(kit.ask(path, { method: "HEAD" }));
        const expected = path === `/jobs/${open}/events` ? 404 : 200;
        expect([path, answer.status, await answer.text()]).toEqual([path, expected, ""]);
      }
    }
    await until(() => kit.results.watched === 0);
  });

  test("If-None-Match and If-Match of a result", async () => {
    const path = `/jobs/${id}/result`;
    const etag = (await kit.ask(path)).headers.get("etag")!;
    const ask = async (headers: Record<string, string>) => (await kit.ask(path, { headers })).status;
    for (const tag of [etag, "*", `"a", ${etag}`, `W/${etag}`]) expect(await ask({ "if-none-match": tag })).toBe(304);
    expect(await ask({ "if-none-match": '"other"' })).toBe(200);
    expect([await ask({ "if-match": etag }), await ask({ "if-match": '"other"' })]).toEqual([200, 412]);
    expect(Buffer.from(await (await kit.ask(path)).arrayBuffer())).toEqual(await edgesOf(photo));
  });
});

describeWith(["chromium"], "a page on another origin", () => {
  test("that gets the name of this server by DNS rebinding reads nothing", async () => {
    const kit = await startKit({ workers: 1, hosts: allowedHosts("127.0.0.1", []) });
    const browser = await chromium.launch({
      executablePath: binaries.chromium,
      args: ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP evil.example 127.0.0.1"],
    });
    try {
      const page = await browser.newPage();
      const at = async (host: string) => {
        const opened = await page.goto(kit.origin.replace("127.0.0.1", host));
        const read = page.evaluate(async () => {
          const deleted = await fetch("/jobs/00000000-0000-4000-8000-000000000000", { method: "DELETE" });
          return [(await fetch("/workers")).status, deleted.status];
        });
        return [opened?.status(), ...(await read)];
      };
      expect(await at("evil.example")).toEqual([403, 403, 403]);
      for (const host of ["127.0.0.1", "localhost"]) expect(await at(host)).toEqual([200, 200, 404]);
    } finally {
      await browser.close();
      await kit.stop();
    }
  }, 60_000);

  test("cannot send a picture, cancel a job, or read the workers", async () => {
    const kit = await startKit({ workers: 1 });
    const elsewhere = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: () => new Response("<title>elsewhere</title>", { headers: { "content-type": "text/html" } }),
    });
    const browser = await chromium.launch({
      executablePath: binaries.chromium,
      args: ["--no-sandbox", "--disable-gpu"],
    });
    try {
      const id = crypto.randomUUID();
      await kit.ask(`/jobs/${id}`, { method: "PUT", body: photo });
      const page = await browser.newPage();
      await page.goto(elsewhere.url.href.replace("127.0.0.1", "localhost"));
      const read = await page.evaluate(
        async ([origin, id]) => {
          const post = { method: "POST", mode: "no-cors" as const, body: "picture" };
          await fetch(`${origin}/tasks/sobel`, post).catch(() => {});
          await fetch(`${origin}/jobs/${id}`, { method: "DELETE" }).catch(() => {});
          return fetch(`${origin}/workers`).then(
            (answer) => answer.text(),
            () => "refused",
          );
        },
        [kit.origin, id],
      );
      expect(read).toBe("refused");
      expect((await kit.ask(`/jobs/${id}`)).status).toBe(200);
      const metrics = await (await kit.ask("/metrics")).text();
      expect(metrics).not.toMatch(/sobel_uploads_refused_total\{reason="picture"\} [1-9]/);
    } finally {
      await browser.close();
      elsewhere.stop(true);
      await kit.stop();
    }
  }, 60_000);
});
