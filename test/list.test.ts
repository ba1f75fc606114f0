// List tasks: how a list is cut, what the shipped ones compute, and the way through HTTP, in one process and in a fleet on a
// real RabbitMQ and a real Redis, with workers that die.
import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { Redis } from "ioredis";
import { decodeMessage, encodeMessage } from "../chunk.ts";
import { transformList } from "../cli/local.ts";
import { isList, type ListTask, listTask } from "../task.ts";
import { expectTask } from "../tasks/check.ts";
import { loadTasks } from "../tasks/index.ts";
import { listPieces } from "../tasks/list.ts";
import { queryValues } from "../tasks/params.ts";
import { runTask } from "../tasks/run.ts";
import { describeWith, type Program, sharedServers, spawnProgram, temporaryFolder } from "./servers.ts";
import { until } from "./wait.ts";

setDefaultTimeout(60_000);

const TASKS = "test/tasks/many.ts,test/tasks/bytes.ts";
const tasks = await loadTasks(TASKS);
const named = (name: string) => tasks.newest(name) as ListTask;
const programs: Program[] = [];

/** Pieces of about so many bytes, wherever the text is split. */
async function* pieces(bytes: Uint8Array, size = 1 << 16): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function alone(name: string, query = "", body = new Uint8Array(), size?: number) {
  const task = named(name);
  const out = await Array.fromAsync(
    transformList(task, pieces(body, size), queryValues(task, new URLSearchParams(query))),
  );
  return JSON.parse(Buffer.concat(out).toString());
}

async function bandsOf(task: ListTask, query = "", body = new Uint8Array(), size?: number) {
  const list = await listPieces(task, queryValues(task, new URLSearchParams(query)), pieces(body, size), body.length);
  const rows = Math.ceil(list.bandPixels / list.width);
  return Array.fromAsync(list.bands({ rows }), ({ pixels, ...band }) => {
    return { ...band, pieces: JSON.parse(new TextDecoder().decode(pixels)) as unknown[] };
  });
}

describe("a list is cut", () => {
  test.each([
    [1, 1],
    [256, 256],
    [257, 129],
    [1_000_000, 256],
  ])("evenly where it can be counted: %i pieces", async (n, expected) => {
    const bands = await bandsOf(named("many"), `n=${n}`);
    expect(bands.length).toBe(expected);
    expect(bands.flatMap(({ pieces }) => pieces).length).toBe(n);
    let next = 0;
    for (const [i, { number, y, rows, pieces }] of bands.entries()) {
      expect([number, y, rows, pieces[0]]).toEqual([i, next, pieces.length, next]);
      next += rows;
    }
  });

  test("into growing bands where it cannot: a million pieces are some hundred bands", async () => {
    const lines = listTask({
      name: "lines",
      takes: "text",
      async *pieces(_, text) {
        for await (const part of text.lines(100)) yield* part.trimEnd().split("\n");
      },
      run: Number,
      merge: (a, b) => a + b,
    });
    const text = Buffer.from(Array.from({ length: 1_000_000 }, (_, i) => `${i}\n`).join(""));
    const bands = await bandsOf(lines, "", text);
    expect(bands.slice(0, 64).every(({ rows }) => rows === 1)).toBe(true);
    expect(bands.length).toBeLessThan(1000);
    expect(bands.flatMap(({ pieces }) => pieces).map(Number)).toEqual(Array.from({ length: 1_000_000 }, (_, i) => i));
  });

  test("at lines, at words, and at sizes, the same however the text arrives", async () => {
    const text = Buffer.from(`\ufeffuno dos\r\ntres ñandú\n${"x".repeat(300)}\n\n último`);
    const cut = (how: (input: Parameters<ListTask["pieces"]>[1]) => AsyncIterable<string>) =>
      listTask({
        name: "cut",
        takes: "text",
        pieces: (_, input) => how(input),
        run: (p) => [p],
        merge: (a, b) => [...a, ...b],
      });
    const partsOf = async (how: Parameters<typeof cut>[0], size: number) =>
      (await bandsOf(cut(how), "", text, size)).flatMap(({ pieces }) => pieces as string[]);
    for (const size of [1, 7, 1000]) {
      const lines = await partsOf((input) => input.lines(20), size);
      expect(lines.join("")).toBe(text.toString().slice(1));
      expect(lines.slice(0, -1).every((part) => part.endsWith("\n"))).toBe(true);
      expect(lines[0]).toBe("uno dos\r\n");
      const words = await partsOf((input) => input.words(5), size);
      expect(words.join("")).toBe(text.toString().slice(1));
      expect(words.slice(0, -1).every((part) => /\s$/.test(part))).toBe(true);
      const bytes = (await partsOf((input) => input.bytes(10), size)).map((part) => Buffer.from(part, "base64"));
      expect(Buffer.concat(bytes).equals(text)).toBe(true);
      expect(bytes.slice(0, -1).every(({ length }) => length === 10)).toBe(true);
      // No empty piece after a cut at the very end.
      expect(await partsOf((input) => input.bytes(text.length / 5), size)).toHaveLength(5);
    }
    for (const how of ["lines", "words", "bytes"] as const) {
      expect(await bandsOf(cut((input) => input[how]()))).toMatchObject([{ pieces: [""] }]);
    }
    const endless = Buffer.alloc(5 << 20, "x");
    await expect(
      bandsOf(
        cut((input) => input.lines(9)),
        "",
        endless,
      ),
    ).rejects.toThrow("line too long: expected at most 4194304 bytes, got more");
    await expect(
      bandsOf(
        cut((input) => input.words()),
        "",
        endless,
      ),
    ).rejects.toThrow("word too long");
  });

  test("only into pieces that JSON can hold", async () => {
    const of = (list: unknown[]) => listTask({ name: "odd", pieces: () => list, run: () => 1, merge: (a, b) => a + b });
    await expect(bandsOf(of([undefined]))).rejects.toThrow("expected pieces that JSON can hold, got undefined");
    await expect(bandsOf(of([[1, Number.NaN]]))).rejects.toThrow(
      "task odd: expected pieces that JSON can hold, got NaN at [1]",
    );
    await expect(bandsOf(of([1n]))).rejects.toThrow("expected pieces that JSON can hold, got bigint");
    await expect(bandsOf(of([]))).rejects.toThrow("expected at least one piece for these parameters, got none");
    await expect(bandsOf(of(["x".repeat(10 << 20)]))).rejects.toThrow(
      "expected pieces of at most 9437184 bytes as JSON",
    );
  });

  test.each([-1, 1])("of which the second walk gives as many as the first: %#", async (more) => {
    let count = 5;
    const pieces = () => {
      count += more;
      return Array.from({ length: count }, () => 0);
    };
    const odd = listTask({ name: "odd", pieces, run: () => 1, merge: (a, b) => a + b });
    await expect(bandsOf(odd)).rejects.toThrow(
      `expected pieces to give as many again, got ${5 + more}, then ${5 + 2 * more}`,
    );
  });

  test("a message holds the pieces, and only a list task runs them", async () => {
    const [band] = await bandsOf(named("many"), "n=300");
    const pixels = Buffer.from(JSON.stringify(band.pieces));
    const chunk = {
      chunkId: `{${crypto.randomUUID()}}:0`,
      task: "many",
      params: { n: 300 },
      pixels,
      isList: true as const,
    };
    const message = encodeMessage({ ...chunk, halo: [0, 0], width: pixels.length, height: 1, channels: 1 });
    expect(JSON.parse(message.toString())).toEqual({
      chunk_id: chunk.chunkId,
      task: "many",
      params: { n: 300 },
      datos: band.pieces,
    });
    const decoded = await decodeMessage(message);
    expect(Buffer.from(decoded.pixels).equals(pixels)).toBe(true);
    expect(JSON.parse((await runTask(named("many"), decoded)) as string)).toMatchObject({ sum: 1, from: 0, to: 2 });
    await expect(runTask(tasks.newest("sobel")!, { ...decoded, params: {} })).rejects.toThrow(
      "task sobel: expected a message with a picture, got pieces",
    );
    for (const datos of [[], {}, "x", null]) {
      const broken = Buffer.from(JSON.stringify({ chunk_id: chunk.chunkId, task: "many", datos }));
      await expect(decodeMessage(broken)).rejects.toThrow(`datos: expected a list, got ${JSON.stringify(datos)}`);
    }
  });

  test.each([
    [{ pieces: 5 }, "expected a function pieces, got 5"],
    [
      { halo: 1 },
      'expected only name, version, description, params, run, pieces, takes, merge, isDecided, finish, got "halo"',
    ],
    [{ takes: "picture" }, 'expected takes to be text or bytes, got "picture"'],
    [{ merge: 1 }, "expected a function merge, got 1"],
  ] as [object, string][])("by a task that is checked: %o", (fault, sentence) => {
    const plain = { name: "plain", pieces: () => [1], run: () => 1, merge: () => 1 };
    expect(() => expectTask({ ...plain, ...fault } as object)).toThrow(sentence);
  });
});

describe("the shipped list tasks are right:", () => {
  test.each([
    [0, 0],
    [2, 0],
    [3, 1],
    [100, 25],
    [1_000_000, 78_498],
    [10_000_000, 664_579],
  ])("primes below %i", async (below, expected) => {
    expect(await alone("primes", `below=${below}`)).toBe(expected);
  });

  test("pi", async () => {
    const pi = await alone("pi", "digits=5000");
    expect(pi).toStartWith("3.14159265358979323846264338327950288419716939937510");
    expect(pi.slice(0, 1002)).toEndWith("64201989");
    for (const digits of [1, 2, 50, 1000]) expect(await alone("pi", `digits=${digits}`)).toBe(pi.slice(0, digits + 2));
  });

  test("crack", async () => {
    const md5 = (word: string) => createHash("md5").update(word).digest("hex");
    expect(await alone("crack")).toBe("hola");
    expect(await alone("crack", `md5=${md5("z").toUpperCase()}&length=1`)).toBe("z");
    expect(await alone("crack", `md5=${md5("zzzz")}&length=3`)).toBe(null);
  });

  test("words, as wc counts", async () => {
    for (const text of ["", "one", " one\ttwo\n\nthree  ", "a\rb\u000bc\fd", "ñandú é\n".repeat(200_000)]) {
      const wc = spawnSync("wc", ["-lwc"], { input: text, env: { ...process.env, LC_ALL: "C.UTF-8" } });
      const [lines, words, bytes] = String(wc.stdout).trim().split(/\s+/).map(Number);
      expect(await alone("words", "", Buffer.from(text), 1 << 10)).toEqual({ lines, words, bytes, top: [] });
    }
    const text = Buffer.from("The cat. the CAT! constructor's don't __proto__ cat-cat 7 7 7");
    expect((await alone("words", "top=3", text)).top).toEqual([
      ["cat", 4],
      ["7", 3],
      ["the", 2],
    ]);
  });
});

/** What every mode must do. */
function expectLists(originOf: () => string) {
  const ask = (path: string, init: RequestInit = {}) => fetch(`${originOf()}${path}`, init);
  const json = async (path: string, init: RequestInit = { method: "POST" }) => (await ask(path, init)).json();
  const text = Buffer.from(Array.from({ length: 400_000 }, (_, i) => `line ${i}\n`).join(""));

  test("POST gives the result; parameters come in the query, as JSON or as a form", async () => {
    const answer = await ask("/tasks/primes?below=1000000", { method: "POST" });
    expect(answer.headers.get("content-type")).toBe("application/json");
    expect(await answer.text()).toBe("78498\n");
    expect(await json("/tasks/primes", { method: "POST", body: '{"below": 100}' })).toBe(25);
    expect(await json("/tasks/primes", { method: "POST", body: new URLSearchParams({ below: "100" }) })).toBe(25);
    expect(await json("/tasks/many?n=1000000")).toEqual({ sum: 499_999_500_000, from: 0, to: 1_000_000, order: true });
    expect(await json("/tasks/many?n=1000&workers=3&bands=7")).toMatchObject({ sum: 499_500, order: true });
    const form = new FormData();
    form.append("text", new File([text], "text.txt"));
    const expected = { lines: 400_000, words: 800_000, bytes: text.length, top: [] };
    for (const body of [text, form]) expect(await json("/tasks/words", { method: "POST", body })).toEqual(expected);
    expect(await json("/tasks/words")).toEqual({ lines: 0, words: 0, bytes: 0, top: [] });
    const sum = text.reduce((sum, byte) => sum + byte, 0);
    expect(await json("/tasks/bytes?size=99999", { method: "POST", body: text })).toEqual({
      sum,
      length: text.length,
      pieces: Math.ceil(text.length / 99_999),
    });
  });

  test("bad requests get their sentence", async () => {
    for (const [path, body, status, sentence] of [
      ["/tasks/primes?below=x", "", 400, 'below: expected a whole number from 0 to 1000000000000, got "x"'],
      ["/tasks/primes", '{"below": "5"}', 400, 'below: expected a whole number from 0 to 1000000000000, got "5"'],
      ["/tasks/primes", '{"above": 5}', 400, 'unknown parameter "above": primes has below'],
      ["/tasks/primes?below=3", '{"below": 5}', 400, "below: expected one value, got several"],
      [
        "/tasks/primes",
        "{below}",
        400,
        /^body: expected the parameters as a JSON object or as name=value&…, got 7 characters/,
      ],
      ["/tasks/primes", "\x89PNG", 400, /^body: expected the parameters .*, or none: primes takes no file$/],
      [
        "/tasks/many?n=0",
        "",
        500,
        /^the task failed: task many: expected at least one piece .* \(test\/tasks\/many\.ts\)$/,
      ],
      ["/tasks/many?n=9&fail=5", "", 500, "the task failed: piece 5 cannot be made (test/tasks/many.ts:14)"],
      [
        "/tasks/bytes?size=0",
        "x",
        500,
        /^the task failed: expected pieces of 1 byte or more, got 0 \(test\/tasks\/bytes\.ts/,
      ],
      ["/tasks/words", "x".repeat(5 << 20), 413, "word too long: expected at most 4194304 bytes, got more"],
    ] as [string, string, number, string | RegExp][]) {
      const answer = await ask(path, { method: "POST", body });
      const { detail } = await answer.json();
      expect([path, answer.status]).toEqual([path, status]);
      if (typeof sentence === "string") expect(detail).toBe(sentence);
      else expect(detail).toMatch(sentence);
    }
  });

  test("PUT keeps the job, and resumes it; its events have a band for each piece", async () => {
    const id = crypto.randomUUID();
    const send = (query: string, body?: Uint8Array<ArrayBuffer>) =>
      ask(`/jobs/${id}?${query}`, { method: "PUT", ...(body && { body }) });
    expect((await send("task=primes&below=5000000&workers=2")).status).toBe(202);
    expect((await send("task=primes&below=5000000&workers=2")).status).toBe(202);
    const events = await (await ask(`/jobs/${id}/events`)).text();
    expect(events.match(/^event: band$/gm)).toHaveLength(64);
    expect(events).toContain('"y":63,"rows":1');
    expect(await json(`/jobs/${id}/result`, {})).toBe(348_513);
    expect(await json(`/jobs/${id}`, {})).toMatchObject({
      kind: "list",
      state: "done",
      height: 64,
      bands: 64,
      workers: 2,
    });
    expect((await ask(`/jobs/${id}/bands/0`)).status).toBe(404);
    const other = await send("task=primes&below=5");
    expect([other.status, (await other.json()).detail]).toEqual([
      409,
      "this job was started with another picture or task: primes, below 5000000; this one is primes, below 5",
    ]);
    expect((await ask(`/jobs/${id}`, { method: "DELETE" })).status).toBe(204);
    // A text, whose number of pieces is known at its end.
    const about = (body: Uint8Array<ArrayBuffer>) => send("task=words", body);
    expect((await about(text)).status).toBe(202);
    expect((await about(text)).status).toBe(202);
    expect((await about(text.map((byte, i) => (i === text.length - 9 ? 65 : byte)))).status).toBe(409);
    expect((await about(text.subarray(0, 2 << 20))).status).toBe(409);
    await until(async () => (await json(`/jobs/${id}`, {})).state === "done");
    const bands = Math.ceil(text.length / (1 << 20));
    expect(await json(`/jobs/${id}`, {})).toMatchObject({ bands, height: bands, rows: 1 });
    expect(await json(`/jobs/${id}/result`, {})).toMatchObject({ lines: 400_000 });
    expect((await ask(`/jobs/${id}`, { method: "DELETE" })).status).toBe(204);
  });

  test("a body of unknown length is cut while it arrives, and a client that stops fails the job", async () => {
    const chunked = (end: (controller: ReadableStreamDefaultController) => void) => {
      let at = 0;
      return new ReadableStream({
        pull(controller) {
          if (at < text.length) controller.enqueue(text.subarray(at, at + 100_000));
          else end(controller);
          at += 100_000;
        },
      });
    };
    const post = (body: ReadableStream) => ask("/tasks/words", { method: "POST", body, duplex: "half" } as RequestInit);
    expect(await (await post(chunked((controller) => controller.close()))).json()).toMatchObject({ lines: 400_000 });
    await expect(post(chunked((controller) => controller.error(new Error("cut"))))).rejects.toThrow();
  });

  test("the beginning of a text, sent again in its place before all of it had arrived, is refused", async () => {
    const id = crypto.randomUUID();
    const client = new AbortController();
    const begun = new ReadableStream({ start: (controller) => controller.enqueue(text.subarray(0, 5000)) });
    const put = (init: RequestInit) => ask(`/jobs/${id}?task=bytes&size=1000`, { method: "PUT", ...init });
    const first = put({ body: begun, duplex: "half", signal: client.signal } as RequestInit);
    await until(async () => (await json(`/jobs/${id}`, {})).done >= 4);
    client.abort();
    await expect(first).rejects.toThrow();
    expect((await put({ body: text.subarray(0, 2000) })).status).toBe(409);
    expect((await put({ body: text.subarray(0, 9000) })).status).toBe(202);
    await until(async () => (await json(`/jobs/${id}`, {})).state === "done");
    expect((await ask(`/jobs/${id}`, { method: "DELETE" })).status).toBe(204);
  });

  test("an answer that is decided is not waited for", async () => {
    for (const n of [9, 200, 1000])
      expect(await json(`/tasks/many?n=${n}&ms=5&enough=3`)).toMatchObject({ sum: 3, from: 0, to: 3 });
    expect(await alone("many", "n=200&enough=3")).toMatchObject({ sum: 3, from: 0, to: 3 });
  });

  test("the pieces after a decided answer are not enqueued, also when the job is resumed", async () => {
    const id = crypto.randomUUID();
    const put = () => ask(`/jobs/${id}?task=many&n=200&ms=20&enough=3`, { method: "PUT" });
    expect((await put()).status).toBe(202);
    await until(async () => (await json(`/jobs/${id}`, {})).state === "done");
    const { bands, height, done } = await json(`/jobs/${id}`, {});
    expect([height, done, bands < 100]).toEqual([bands, bands, true]);
    expect(await json(`/jobs/${id}/result`, {})).toMatchObject({ from: 0, to: 3 });
    expect((await put()).status).toBe(202);
    expect(await json(`/jobs/${id}`, {})).toMatchObject({ state: "done", bands, height });
    expect((await ask(`/jobs/${id}`, { method: "DELETE" })).status).toBe(204);
  });

  test("cancel", async () => {
    const id = crypto.randomUUID();
    const sent = ask(`/jobs/${id}?task=many&n=200&ms=50&workers=1`, { method: "PUT" });
    await until(async () => (await json(`/jobs/${id}`, {})).done > 0);
    expect(await json(`/jobs/${id}`, {})).toMatchObject({ state: "uploading", bands: 200, rows: 1 });
    expect((await ask(`/jobs/${id}`, { method: "DELETE" })).status).toBe(204);
    expect((await sent).status).toBe(410);
  });

  test("the command line", async () => {
    const folder = temporaryFolder("list");
    const [file, to] = [join(folder, "text"), join(folder, "out")];
    writeFileSync(file, text);
    const run = (...args: string[]) =>
      spawnSync(process.execPath, ["run", "sobel.ts", ...args], { env: { ...process.env, TASKS } });
    for (const remote of [[], ["--remote", originOf()]]) {
      const primes = run(...remote, "--task", "primes", "--params", "below=1000", "-");
      expect(String(primes.stdout), String(primes.stderr)).toBe("168\n");
      const words = run(...remote, "--task", "words", file, to);
      expect([words.status, await Bun.file(to).json()]).toEqual([
        0,
        { lines: 400_000, words: 800_000, bytes: text.length, top: [] },
      ]);
    }
    for (const [args, sentence] of [
      [["--task", "primes", file, to], "primes takes no file: expected one file for its result, got two"],
      [["--task", "words", to], "words takes a text: expected two files, got one"],
    ] as const) {
      const { status, stderr } = run(...args);
      expect([status, String(stderr)]).toEqual([2, `sobel.ts: ${sentence}\n`]);
    }
  });

  test("GET /tasks says which take what", async () => {
    const listed = (await json("/tasks", {})).tasks.filter(({ kind }: { kind: string }) => kind === "list");
    expect(listed.map(({ name, takes }: Record<string, string>) => [name, takes])).toEqual([
      ["bytes", "bytes"],
      ["crack", null],
      ["many", null],
      ["pi", null],
      ["primes", null],
      ["words", "text"],
    ]);
  });
}

describe("in one process", () => {
  let origin = "";
  beforeAll(async () => {
    const program = spawnProgram("coordinator.ts", { PORT: "0", WORKERS: "2", TASKS });
    programs.push(program);
    [origin] = await program.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
  });
  afterAll(endAll);
  expectLists(() => origin);
});

describeWith(["rabbitmq", "redis", "deno"], "a fleet", () => {
  let origin = "";
  let env: Record<string, string>;
  let store: Redis;

  beforeAll(async () => {
    const { rabbitmq, redis } = await sharedServers();
    store = new Redis(redis.url);
    await store.flushall();
    env = { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url, TASKS };
    const coordinator = spawnProgram("coordinator.ts", { ...env, PORT: "0" });
    programs.push(coordinator);
    [origin] = await coordinator.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
    await Promise.all([worker("bun"), worker("deno", "deno")]);
  }, 90_000);
  afterEach(async () => {
    await until(async () => (await store.keys("job:*")).length + (await store.keys("resultado:*")).length === 0);
  });
  afterAll(async () => {
    await endAll();
    await store.flushall();
    store.disconnect();
  });

  async function worker(name: string, runtime: "bun" | "deno" = "bun"): Promise<Program> {
    const program = spawnProgram("worker.ts", { ...env, WORKER_NAME: name }, runtime);
    programs.push(program);
    await program.waitFor(/: at work\n/, 40_000);
    return program;
  }

  expectLists(() => origin);

  test("a worker that is killed in the middle loses no piece", async () => {
    const doomed = await worker("doomed");
    const id = crypto.randomUUID();
    const sent = fetch(`${origin}/jobs/${id}?task=many&n=300&ms=20`, { method: "PUT" });
    const job = async () => (await fetch(`${origin}/jobs/${id}`)).json();
    await until(async () => (await job()).byWorker?.doomed?.bands > 3);
    programs.splice(programs.indexOf(doomed), 1);
    doomed.kill("SIGKILL");
    expect((await sent).status).toBe(202);
    await until(async () => (await job()).state === "done");
    const result = await (await fetch(`${origin}/jobs/${id}/result`)).json();
    expect(result).toEqual({ sum: (300 * 299) / 2, from: 0, to: 300, order: true });
    expect(Object.keys((await job()).byWorker)).toContainAllValues(["bun", "deno", "doomed"]);
    await fetch(`${origin}/jobs/${id}`, { method: "DELETE" });
  });
});

test("every shipped list task has a test above", () => {
  const shipped = [...tasks.values()].filter(isList).map(({ name }) => name);
  expect(shipped).toEqual(["bytes", "crack", "many", "pi", "primes", "words"]);
});

async function endAll(): Promise<void> {
  for (const program of programs) program.kill("SIGTERM");
  for (const program of programs.splice(0)) expect(await program.exited, program.out).toBe(0);
}
