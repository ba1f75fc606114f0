// The embedded program over real sockets, with the clients that people use: curl, Python, fetch, Chromium. Tests that
// inspect the queue and the store run the same app in this process (kit.ts).
//
// The expected bytes are those of the one-machine program.
import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  describe,
  expect,
  type Mock,
  setDefaultTimeout,
  spyOn,
  test,
} from "bun:test";
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { deflateSync } from "node:zlib";
import { encode } from "fast-png";
import { Redis, ReplyError } from "ioredis";
import { chromium } from "playwright-core";
import sharp from "sharp";
import type { Job } from "../backends.ts";
import { QueueError } from "../backends.ts";
import { chunkIdOf } from "../chunk.ts";
import { transform } from "../cli/local.ts";
import { LocalQueue } from "../embedded/queue.ts";
import { LocalResults } from "../embedded/results.ts";
import { problem } from "../http/respond.ts";
import { jobOf } from "../jobs/record.ts";
import { type Log, openLog } from "../ops/log.ts";
import { onePiece } from "../picture/picture.ts";
import { readImage } from "../picture/read.ts";
import { RedisConnection } from "../redis/connection.ts";
import { task as sobel } from "../sobel.ts";
import type { DataTask } from "../task.ts";
import { loadTasks } from "../tasks/index.ts";
import { JobError, JobWatch } from "../watch.ts";
import {
  BAND_PIXELS,
  type Bytes,
  bytesOf,
  DEADLINE,
  edgesOf,
  type JobEvent,
  type Kit,
  parsedEvents,
  rawUpload,
  startKit,
} from "./kit.ts";
import { chunk, expectSame, ihdr, PALETTE, pngOf, random, SIGNATURE } from "./pictures.ts";
import { binaries, describeWith, type Program, spawnProgram } from "./servers.ts";
import { sleep, until, within } from "./wait.ts";

type Part = Uint8Array<ArrayBuffer>;

const MAX_UPLOAD_BYTES = 16 << 20;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** Some tests start several programs, one after the other. */
setDefaultTimeout(60_000);

/** Eight bands: seven of 19 rows and one of 17. */
const photo = png(200, 150, 1);
const sameSize = png(200, 150, 2);
/** 67 bands: 66 of 6 rows and one of 4. More bytes than are read before the first rows are inflated, 256 KiB. */
const wide = png(600, 400, 3);
const small = png(20, 10, 4);
/** 13 MB: more than all buffers between client and server hold. */
const huge = png(2200, 2000, 5);

let origin: string;
let coordinator: Program;
let edgesOfPhoto: Bytes;
const scratch = mkdtempSync(join(tmpdir(), "sobel-coordinator-"));

beforeAll(async () => {
  edgesOfPhoto = await edgesOf(photo);
  coordinator = spawnProgram("coordinator.ts", { ...SETTINGS, PORT: "0" });
  origin = await originOf(coordinator);
});
afterAll(async () => {
  coordinator.kill();
  rmSync(scratch, { recursive: true });
  expect(await coordinator.exited).toBe(0);
});

const SETTINGS = {
  WORKERS: "2",
  BAND_PIXELS: String(BAND_PIXELS),
  MAX_UPLOAD_BYTES: String(MAX_UPLOAD_BYTES),
  LOG_LEVEL: "warn", // at `info` every job has its lines; from `warn` on, the log must stay empty
};

describe("POST /tasks/sobel", () => {
  test("answers a picture with its edges, and keeps nothing", async () => {
    const answer = await ask("/tasks/sobel", { method: "POST", body: photo });
    expect(answer.status).toBe(200);
    expect(answer.headers.get("content-type")).toBe("image/png");
    const id = answer.headers.get("x-job-id") ?? "";
    expect(id).toMatch(UUID);
    expectSame(await bytesOf(answer), edgesOfPhoto);
    await until(async () => (await ask(`/jobs/${id}`)).status === 404);
  });

  test("gives the same bytes for any number of workers, of the same bands", async () => {
    for (const workers of ["1", "2", "3", "1024", ""]) {
      const answer = await ask(`/tasks/sobel?workers=${workers}&bandRows=19`, { method: "POST", body: photo });
      expectSame(await bytesOf(answer), edgesOfPhoto);
    }
  });

  test("takes the field `image` of a form", async () => {
    const form = new FormData();
    form.append("image", new File([photo], "photo.png"));
    const answer = await ask("/tasks/sobel", { method: "POST", body: form });
    expect(answer.status).toBe(200);
    expectSame(await bytesOf(answer), edgesOfPhoto);
  });

  test("refuses forms without a picture", async () => {
    const form = new FormData();
    form.append("picture", new File([photo], "photo.png"));
    const only = /^form: expected only the file image, got picture; parameters go into the query$/;
    await expectProblem(await ask("/tasks/sobel", { method: "POST", body: form }), 400, only);
    const text = new FormData();
    text.append("image", "a text, not a file");
    await expectProblem(await ask("/tasks/sobel", { method: "POST", body: text }), 400, /got a text in its place/);
    for (const fields of [
      ["sigma", "image"],
      ["image", "sigma"],
    ]) {
      const mixed = new FormData();
      for (const field of fields) mixed.append(field, field === "image" ? new File([photo], "a.png") : "2");
      const refused = /^form: expected only the file image, got sigma; parameters go into the query$/;
      await expectProblem(await ask("/tasks/blur", { method: "POST", body: mixed }), 400, refused);
    }

    const part = `--here\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n\r\n`;
    const whole = Buffer.concat([Buffer.from(part), photo, Buffer.from("\r\n--here--\r\n")]);
    const send = (type: string, body: Part) =>
      ask("/tasks/sobel", { method: "POST", body, headers: { "content-type": type } });
    const good = await send("multipart/form-data; boundary=here", whole);
    expectSame(await bytesOf(good), edgesOfPhoto);
    await expectProblem(await send("multipart/form-data; boundary=there", whole), 400, /form/);
    await expectProblem(await send("multipart/form-data", whole), 400, /form: .*boundary/i);
    await expectProblem(await send("multipart/form-data; boundary=here", new Uint8Array(0)), 400, /form/);
    const cut = whole.subarray(0, part.length + 30_000);
    await expectProblem(await send("multipart/form-data; boundary=here", cut), 400, /^form: .*early/);
    const other = Buffer.from(cut.toString("latin1").replace('name="image"', 'name="other"'), "latin1");
    await expectProblem(await send("multipart/form-data; boundary=here", other), 400, /^form: /);
    await expectServing();
  });
});

describe("PUT /jobs/:id", () => {
  test("a job is uploaded, followed, downloaded twice, and removed", async () => {
    const id = crypto.randomUUID();
    const sent = await ask(`/jobs/${id}?workers=2`, { method: "PUT", body: photo });
    expect(sent.status).toBe(202);
    expect(sent.headers.get("location")).toBe(`/jobs/${id}`);
    const asked = { id, task: "sobel", width: 200, height: 150, rows: 19, bands: 8, workers: 2, error: null };
    expect(await sent.json()).toMatchObject(asked);

    // The events are the same while the job runs and after it.
    for (let round = 0; round < 2; round++) {
      const answer = await ask(`/jobs/${id}/events`);
      expect(answer.headers.get("content-type")).toStartWith("text/event-stream");
      const events = parsedEvents(await answer.text());
      expectAllEvents(events, id, { bands: 8, rows: 19, height: 150 });
    }

    const job = await (await ask(`/jobs/${id}`)).json();
    expect(job).toMatchObject({ ...asked, state: "done", done: 8, waiting: false });
    const shares = Object.entries(job.byWorker as Record<string, { bands: number; ms: number }>);
    expect(shares.map(([name]) => name).filter((name) => !/^thread-[12]$/.test(name))).toEqual([]);
    expect(shares.reduce((sum, [, { bands }]) => sum + bands, 0)).toBe(8);

    for (let round = 0; round < 2; round++) {
      const result = await ask(`/jobs/${id}/result`);
      expect(result.status).toBe(200);
      expect(result.headers.get("content-type")).toBe("image/png");
      expect(result.headers.get("content-disposition")).toBe(`attachment; filename="${id}.sobel.png"`);
      expectSame(await bytesOf(result), edgesOfPhoto);
    }

    // The first merge is noted with the job. Its times are in order.
    const { times } = await (await ask(`/jobs/${id}`)).json();
    expect(times.merged.ms).toBeGreaterThan(0);
    const order = [0, times.cut, times.enqueued, times.merged.at];
    expect(order).toEqual(order.toSorted((a, b) => a - b));
    expect(times.done).toBeLessThanOrEqual(times.merged.at);

    expect((await ask(`/jobs/${id}`, { method: "DELETE" })).status).toBe(204);
    for (const [method, path] of [
      ["GET", ""],
      ["GET", "/result"],
      ["GET", "/events"],
      ["DELETE", ""],
    ]) {
      await expectProblem(await ask(`/jobs/${id}${path}`, { method }), 404, new RegExp(id));
    }
  });

  test("during the upload the job has a state and events, and no result", async () => {
    const id = crypto.randomUUID();
    const upload = await rawUpload(origin, `PUT /jobs/${id}`, wide.length);
    upload.write(wide.subarray(0, wide.length / 2));
    await until(async () => (await ask(`/jobs/${id}`)).status === 200);
    expect((await (await ask(`/jobs/${id}`)).json()).state).toBe("uploading");
    const early = await ask(`/jobs/${id}/result`);
    expect(early.headers.get("retry-after")).toBe("1");
    await expectProblem(early, 409, /not ready: \d+ of 67 bands/);

    const events = await ask(`/jobs/${id}/events`);
    // Bands are done before the last byte has arrived.
    await until(async () => (await (await ask(`/jobs/${id}`)).json()).done > 1);
    upload.write(wide.subarray(wide.length / 2));
    const all = parsedEvents(await events.text());
    expectAllEvents(all, id, { bands: 67, rows: 6, height: 400 });
    expect(all.find(({ event }) => event === "job")?.data.state).toBe("uploading");
    expect((await upload.answer()).slice(0, 12)).toBe("HTTP/1.1 202");
    expectSame(await bytesOf(await ask(`/jobs/${id}/result`)), await edgesOf(wide));
  });

  test("a form is accepted, too", async () => {
    const id = crypto.randomUUID();
    const form = new FormData();
    form.append("image", new File([photo], "photo.png"));
    expect((await ask(`/jobs/${id}`, { method: "PUT", body: form })).status).toBe(202);
    await finished(id);
    expectSame(await bytesOf(await ask(`/jobs/${id}/result`)), edgesOfPhoto);
  });

  test("the same id again is the same job; another picture under it is a conflict", async () => {
    const id = crypto.randomUUID();
    const put = (body: Part) => ask(`/jobs/${id}`, { method: "PUT", body });
    for (let round = 0; round < 2; round++) expect((await put(photo)).status).toBe(202);
    await finished(id);
    const before = await (await ask(`/jobs/${id}`)).json();
    // Ids are case-insensitive.
    expect((await ask(`/jobs/${id.toUpperCase()}`, { method: "PUT", body: photo })).status).toBe(202);
    expect(await (await ask(`/jobs/${id}`)).json()).toEqual(before);

    await expectProblem(await put(sameSize), 409, /another picture: band 0 differs/);
    await expectProblem(await put(small), 409, /another picture or task: 200 × 150, sobel/);
    await expectProblem(await put(photo.subarray(0, 20_000)), 422, /ends before its IEND/);
    await expectProblem(await put(Buffer.from("a text")), 400, /not an image/);
    // The job is unaffected.
    expect(await (await ask(`/jobs/${id}`)).json()).toEqual(before);
    expectSame(await bytesOf(await ask(`/jobs/${id}/result`)), edgesOfPhoto);
  });

  test("a band that could not be enqueued is sent with the next attempt, though a client follows the job", async () => {
    const kit = await startKit({ workers: 1 });
    const id = crypto.randomUUID();
    const put = () => kit.ask(`/jobs/${id}?workers=1`, { method: "PUT", body: photo });
    const events = await kit.ask(`/events?jobs=${id}`);
    kit.queue.onPublish = () => {
      if (kit.queue.published.length === 3) throw new QueueError("RabbitMQ is unavailable");
    };
    await expectProblem(await put(), 503, /RabbitMQ is unavailable/);
    expect((await put()).status).toBe(202);
    expect(await events.text()).toContain("event: done");
    await kit.stop();
  });

  test("the answer to an upload that fails comes after all that it has sent", async () => {
    const kit = await startKit({ workers: 0 });
    const gate = Promise.withResolvers<void>();
    kit.queue.publish = async ({ chunkId }) => {
      if (!chunkId.endsWith(":0")) throw new QueueError("RabbitMQ is unavailable");
      await gate.promise;
    };
    let isAnswered = false;
    const answer = kit.ask(`/jobs/${crypto.randomUUID()}`, { method: "PUT", body: photo });
    answer.finally(() => {
      isAnswered = true;
    });
    await sleep(300);
    expect(isAnswered).toBe(false);
    gate.resolve();
    expect((await answer).status).toBe(503);
    await kit.stop();
  });

  test("rows that another coordinator has for a band are a conflict", async () => {
    const kit = await startKit({ workers: 0 });
    const id = crypto.randomUUID();
    const answer = kit.ask(`/jobs/${id}?workers=1`, { method: "PUT", body: photo });
    await until(() => kit.queue.published.length === 1);
    await kit.results.expectRows(id, 1, 12_345, (await kit.results.findJob(id))!.attempt);
    await kit.startWorkers(1);
    await expectProblem(await answer, 409, /another picture: band 1 differs/);
    await kit.stop();
  });

  test("an id can be used again after a corrupt picture", async () => {
    const id = crypto.randomUUID();
    const cut = photo.subarray(0, photo.length - 20);
    await expectProblem(await ask(`/jobs/${id}`, { method: "PUT", body: cut }), 422, /ends before its IEND/);
    expect(await (await ask(`/jobs/${id}`)).json()).toMatchObject({
      state: "failed",
      error: expect.stringMatching(/IEND/),
    });
    const events = parsedEvents(await (await ask(`/jobs/${id}/events`)).text());
    expect(events.at(-1)).toMatchObject({ event: "failed", data: { state: "failed" } });
    await expectProblem(await ask(`/jobs/${id}/result`), 409, /has failed: .*IEND/);

    expect((await ask(`/jobs/${id}`, { method: "PUT", body: photo })).status).toBe(202);
    await finished(id);
    expectSame(await bytesOf(await ask(`/jobs/${id}/result`)), edgesOfPhoto);
  });

  test("a picture that is refused at its first bytes leaves no job", async () => {
    const id = crypto.randomUUID();
    await expectProblem(await ask(`/jobs/${id}`, { method: "PUT", body: "a text" }), 400, /not an image/);
    await expectProblem(await ask(`/jobs/${id}`), 404, /no job/);
  });
});

describe("invalid requests", () => {
  test.each(["0", "-1", "abc", "1e9", "1025", "2.5", " 1", "99999999999999999999"])("workers=%s", async (workers) => {
    const path = `?workers=${encodeURIComponent(workers)}`;
    const wrong = /workers: expected a whole number from 1 to 1024, got/;
    await expectProblem(await ask(`/tasks/sobel${path}`, { method: "POST", body: small }), 400, wrong);
    await expectProblem(await ask(`/jobs/${crypto.randomUUID()}${path}`, { method: "PUT", body: small }), 400, wrong);
    await expectServing();
  });

  test("a task that does not exist", async () => {
    const unknown =
      /unknown task "canny": expected blur, crack, equalize, half, histogram, invert, median, pi, primes, scharr, sepia, sobel, stretch, threshold, thumbnail, words/;
    await expectProblem(await ask("/tasks/canny", { method: "POST", body: small }), 422, unknown);
    await expectProblem(await ask("/tasks/canny", { method: "POST" }), 422, unknown);
    const path = `/jobs/${crypto.randomUUID()}?task=canny`;
    await expectProblem(await ask(path, { method: "PUT", body: small }), 422, unknown);
    await expectServing();
  });

  test("a task's merge that throws: 500 with its reason, and the job keeps its bands", async () => {
    const tasks = await loadTasks();
    const kit = await startKit({ workers: 1, tasks });
    const merge = spyOn(tasks.get("histogram") as DataTask, "merge").mockImplementation(() => {
      throw new Error("cannot add");
    });
    try {
      const id = crypto.randomUUID();
      expect((await kit.ask(`/jobs/${id}?task=histogram`, { method: "PUT", body: photo })).status).toBe(202);
      await until(async () => (await (await kit.ask(`/jobs/${id}`)).json()).state === "done");
      for (let i = 0; i < 2; i++) await expectProblem(await kit.ask(`/jobs/${id}/result`), 500, /cannot add/);
      merge.mockRestore();
      expect((await kit.ask(`/jobs/${id}/result`)).status).toBe(200);
    } finally {
      await kit.stop();
    }
  });

  test("ids that are not UUIDs", async () => {
    for (const id of ["7", "not-a-uuid", `${crypto.randomUUID()}0`, "..%2f..%2fetc", "%7B%7D", "%00", "%E0%A4%A"]) {
      for (const [method, path] of [
        ["PUT", ""],
        ["GET", ""],
        ["GET", "/events"],
        ["GET", "/result"],
        ["DELETE", ""],
      ]) {
        const init = { method, body: method === "PUT" ? small : undefined };
        const why = id.endsWith("%A") ? /path: expected valid percent-encoding/ : /job id: expected a UUID, got/;
        await expectProblem(await ask(`/jobs/${id}${path}`, init), 400, why);
      }
    }
    await expectServing();
  });

  test("paths and methods that do not exist", async () => {
    await expectProblem(await ask("/nothing"), 404, /not found: GET \/nothing/);
    for (const [method, path, allow] of [
      ["GET", "/tasks/sobel", "POST"],
      ["PUT", "/tasks/sobel", "POST"],
      ["PATCH", `/jobs/${crypto.randomUUID()}`, "PUT, GET, DELETE, HEAD"],
      ["OPTIONS", "/", "GET, HEAD"],
      ["OPTIONS", "/tasks/sobel", "POST"],
      ["POST", "/", "GET, HEAD"],
    ]) {
      const answer = await ask(path, { method });
      expect([path, answer.headers.get("allow")]).toEqual([path, allow]);
      await expectProblem(answer, 405, new RegExp(`method: expected .*, got ${method}$`));
    }
    const head = await ask("/nothing", { method: "HEAD" });
    expect([head.status, head.headers.get("content-type")]).toEqual([404, "application/problem+json"]);
    expect((await ask("/", { method: "HEAD" })).status).toBe(200);
    await expectServing();
  });
});

/** A PNG whose header says `width × height`, with `idat` as its data. */
const claiming = (width: number, height: number, idat: Uint8Array) =>
  Buffer.concat([SIGNATURE, ihdr(width, height, 8, 0), chunk("IDAT", idat), chunk("IEND")]);
const onePixelRow = Uint8Array.of(0, 2, 0, 0, 0, 1, 0, 0);

describe("bytes that are not a valid picture", () => {
  const cases: [string, () => Part | Promise<Part>, number, RegExp][] = [
    ["nothing", () => new Uint8Array(0), 400, /got no bytes/],
    ["one byte", () => Buffer.from([0]), 415, /unknown format/],
    ["text", () => Buffer.from("To do: buy film."), 400, /got text that begins with "To do: buy film."/],
    [
      "an SVG",
      () => Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"/>'),
      415,
      /an SVG, XML or HTML file is not read: expected PNG/,
    ],
    ["a BMP", () => Buffer.concat([Buffer.from("BM"), random(500)]), 415, /unknown format/],
    ["a PNG's signature alone", () => SIGNATURE, 422, /ends before its IEND/],
    ["a PNG cut in its header", () => photo.subarray(0, 20), 422, /ends before its IEND/],
    ["a PNG cut in its pixels", () => photo.subarray(0, photo.length / 2), 422, /ends before its IEND/],
    ["a PNG without IEND", () => photo.subarray(0, photo.length - 12), 422, /ends before its IEND/],
    ["a bit flipped in its pixels", () => flipped(photo, 5000), 422, /IDAT chunk: expected CRC [0-9a-f]{8}, got/],
    ["a bit flipped in its header's CRC", () => flipped(photo, 29), 422, /IHDR chunk: expected CRC/],
    ["too few pixels", () => claiming(20, 10, deflateSync(new Uint8Array(209))), 422, /too little image data/],
    ["a bomb", () => claiming(20, 10, deflateSync(new Uint8Array(50 << 20))), 422, /too much image data/],
    ["deflate that is none", () => claiming(20, 10, random(50)), 422, /corrupt PNG: compressed data/],
    ["a zlib stream with a wrong Adler", () => wrongAdler(), 422, /compressed data: incorrect data check/],
    ["a row filter that does not exist", () => filtered(5), 422, /row filter: expected 0 to 4, got 5/],
    ["2³¹ × 2³¹ pixels", () => claiming(2 ** 31, 2 ** 31, onePixelRow), 413, /2147483648 × 2147483648/],
    ["no width", () => claiming(0, 5, onePixelRow), 422, /expected at least 1 × 1, got 0 × 5/],
    ["no height", () => claiming(5, 0, onePixelRow), 422, /expected at least 1 × 1, got 5 × 0/],
    ["50,000 × 50,000 pixels of one colour", () => oneColour(), 413, /at most 1000000000 pixels, got 50000 × 50000/],
    ["a row too wide for a message", () => claiming(9_500_000, 1, onePixelRow), 413, /image too wide/],
    ["half a JPEG", () => halfOf("jpeg"), 422, /corrupt JPEG/],
    ["half a WebP", () => halfOf("webp"), 422, /corrupt WebP/],
    ["a JPEG of 2 bytes more than its magic", () => Buffer.from("ffd8ffe000", "hex"), 422, /corrupt JPEG/],
  ];

  test.each(cases)("%s", async (_, make, status, sentence) => {
    const body = await make();
    await expectProblem(await ask("/tasks/sobel", { method: "POST", body }), status, sentence);
    const form = new FormData();
    form.append("image", new File([body], "picture"));
    // In a form, no bytes are a file of length 0.
    await expectProblem(await ask("/tasks/sobel", { method: "POST", body: form }), status, sentence);
    await expectProblem(await ask(`/jobs/${crypto.randomUUID()}`, { method: "PUT", body }), status, sentence);
    await expectServing();
  });

  test("no body at all", async () => {
    await expectProblem(await ask("/tasks/sobel", { method: "POST" }), 400, /got no bytes/);
    await expectProblem(await ask(`/jobs/${crypto.randomUUID()}`, { method: "PUT" }), 400, /got no bytes/);
    await expectServing();
  });

  test("the highest index of a palette is valid", async () => {
    expectSame(
      await bytesOf(await ask("/tasks/sobel", { method: "POST", body: paletted(3) })),
      await edgesOf(paletted(3)),
    );
  });

  test("bytes after IEND are ignored", async () => {
    for (const rest of [Buffer.from("x"), photo, random(3_000_000)]) {
      const answer = await ask("/tasks/sobel", { method: "POST", body: Buffer.concat([photo, rest]) });
      expectSame(await bytesOf(answer), edgesOfPhoto);
    }
    await expectServing();
  });

  test("the log has no line and no stack trace", () => {
    expect(coordinator.out).toMatch(/^Sobel, distributed: \S+\n$/);
  });
});

test(
  "pictures that are read in a separate thread: valid, corrupt, and cut off",
  () => expectLargePictures(origin),
  60_000,
);

describe("uploads larger than allowed", () => {
  const tooLarge = /upload too large: expected at most 16777216 bytes, got \d+ or more/;

  test("announced by content-length", async () => {
    const body = new Uint8Array(MAX_UPLOAD_BYTES + 1);
    await expectProblem(await ask("/tasks/sobel", { method: "POST", body }), 413, tooLarge);
    await expectProblem(await ask(`/jobs/${crypto.randomUUID()}`, { method: "PUT", body }), 413, tooLarge);
    // More than Bun's default limit.
    const huger = new Uint8Array(129 << 20);
    await expectProblem(await ask("/tasks/sobel", { method: "POST", body: huger }), 413, tooLarge);
    await expectServing();
  });

  test("not announced: the coordinator counts the bytes", async () => {
    const body = () => chunked(Buffer.concat([photo.subarray(0, 33), chunk("juNk", new Uint8Array(MAX_UPLOAD_BYTES))]));
    await expectProblem(await ask("/tasks/sobel", { method: "POST", body: body() }), 413, tooLarge);
    await expectProblem(await ask(`/jobs/${crypto.randomUUID()}`, { method: "PUT", body: body() }), 413, tooLarge);
    await expectServing();
  });

  test("an upload of exactly the limit is accepted", async () => {
    const junk = chunk("juNk", new Uint8Array(MAX_UPLOAD_BYTES - photo.length - 12));
    const body = Buffer.concat([photo.subarray(0, 33), junk, photo.subarray(33)]);
    expect(body.length).toBe(MAX_UPLOAD_BYTES);
    expectSame(await bytesOf(await ask("/tasks/sobel", { method: "POST", body })), edgesOfPhoto);
  });
});

describe("clients", () => {
  const file = join(scratch, "photo.png");
  const edges = join(scratch, "edges.png");
  beforeAll(async () => {
    await Bun.write(file, photo);
    await Bun.write(join(scratch, "huge.png"), huge);
    await Bun.write(join(scratch, "corrupt.png"), flipped(huge, 60)); // in IDAT, whose CRC is at its end
    await Bun.write(join(scratch, "text.txt"), Buffer.alloc(12 << 20, "text "));
    const [junk, ...rest] = [chunk("juNk", new Uint8Array(3 * MAX_UPLOAD_BYTES)), photo.subarray(33)];
    await Bun.write(join(scratch, "large"), Buffer.concat([photo.subarray(0, 33), junk, ...rest]));
  });

  /** Runs a program to its end. @returns its output */
  async function run(command: string, args: string[], input?: string): Promise<string> {
    const running = promisify(execFile)(command, args, { timeout: DEADLINE, maxBuffer: 1 << 26 });
    if (input !== undefined) running.child.stdin?.end(input);
    return (await running).stdout;
  }
  const curl = (...args: string[]) => run("curl", ["-sS", "--max-time", "12", "-w", "%{http_code}", ...args]);

  test("curl --data-binary, as in the README, and -F", async () => {
    expect(await curl("--data-binary", `@${file}`, `${origin}/tasks/sobel`, "-o", edges)).toBe("200");
    expectSame(await Bun.file(edges).bytes(), edgesOfPhoto);
    expect(await curl("-F", `image=@${file}`, `${origin}/tasks/sobel`, "-o", edges)).toBe("200");
    expectSame(await Bun.file(edges).bytes(), edgesOfPhoto);
  });

  test("curl -T -: chunked, without a content-length", async () => {
    const command = `cat '${file}' | curl -sS --max-time 12 -w '%{http_code}' -X POST -T - '${origin}/tasks/sobel' -o '${edges}'`;
    expect(await run("sh", ["-c", command])).toBe("200");
    expectSame(await Bun.file(edges).bytes(), edgesOfPhoto);
  });

  test("curl with Expect: 100-continue gets 100, or the refusal", async () => {
    const expecting = ["-v", "-H", "Expect: 100-continue", "--expect100-timeout", "10"];
    const good = await promisify(execFile)("curl", [
      "-sS",
      "--max-time",
      "12",
      ...expecting,
      "--data-binary",
      `@${file}`,
      `${origin}/tasks/sobel`,
      "-o",
      edges,
    ]);
    expect(good.stderr).toMatch(/< HTTP\/1.1 100 Continue[\s\S]*< HTTP\/1.1 200 OK/);
    expectSame(await Bun.file(edges).bytes(), edgesOfPhoto);
    const large = ["--data-binary", `@${join(scratch, "large")}`, `${origin}/tasks/sobel`, "-o", edges];
    expect(await curl(...expecting.slice(1), ...large)).toBe("413");
  });

  test.each([
    ["large", "413"],
    ["text.txt", "400"],
    ["corrupt.png", "422"],
  ])("curl sends %s and reads the answer", async (name, status) => {
    for (const how of [
      ["--data-binary", `@${join(scratch, name)}`],
      ["-X", "POST", "-T", join(scratch, name)],
      ["-F", `image=@${join(scratch, name)}`],
    ]) {
      expect(await curl(...how, `${origin}/tasks/sobel`, "-o", edges)).toBe(status);
      expect(await Bun.file(edges).json()).toMatchObject({ status: Number(status) });
    }
    await expectServing();
  });

  const python = `
import http.client, sys
host, path, name = sys.argv[1:4]
connection = http.client.HTTPConnection(host, timeout=12)
for _ in range(2): # the second time over the same connection
    body = open(name, "rb") if sys.argv[4] == "whole" else iter(lambda f=open(name, "rb"): f.read(65536), b"")
    headers = {} if sys.argv[4] == "whole" else {"Transfer-Encoding": "chunked"}
    connection.request("POST", path, body=body, headers=headers, encode_chunked=sys.argv[4] != "whole")
    answer = connection.getresponse()
    data = answer.read()
    print(answer.status, len(data), data[:4] == b"\\x89PNG", b"problem" in answer.headers["content-type"].encode())
`;
  const http = (name: string, how: string) =>
    run("/usr/bin/python3", ["-c", python, new URL(origin).host, "/tasks/sobel", join(scratch, name), how]);

  test.each(["whole", "chunked"])("Python's http.client, %s", async (how) => {
    const good = `200 ${edgesOfPhoto.length} True False\n`;
    expect(await http("photo.png", how)).toBe(good.repeat(2));
  });

  test.each([
    ["large", 413],
    ["text.txt", 400],
    ["corrupt.png", 422],
  ])("Python's http.client sends %s and reads the answer, without a broken pipe", async (name, status) => {
    for (const how of ["whole", "chunked"]) {
      expect(await http(name, how)).toMatch(new RegExp(`^(${status} \\d+ False True\n){2}$`));
    }
    await expectServing();
  });

  test("fetch with a stream", async () => {
    const answer = await ask("/tasks/sobel", { method: "POST", body: chunked(photo) });
    expectSame(await bytesOf(answer), edgesOfPhoto);
  });

  test("a client that sends single bytes", async () => {
    const upload = await rawUpload(origin, "POST /tasks/sobel", small.length);
    for (let at = 0; at < small.length; at++) {
      upload.write(small.subarray(at, at + 1));
      if (at % 50 === 0) await new Promise((wake) => setTimeout(wake, 1));
    }
    const answer = await upload.answer();
    expect(answer).toStartWith("HTTP/1.1 200");
    expect(answer).toInclude((await edgesOf(small)).toString("latin1").slice(0, 30));
  });

  test("a client that reads nothing until it has sent a picture of hundreds of bands", async () => {
    const upload = await rawUpload(origin, "POST /tasks/sobel", huge.length);
    upload.socket.pause();
    await upload.written(huge);
    upload.socket.resume();
    expect(await upload.answer()).toStartWith("HTTP/1.1 200");
  });

  describeWith(["chromium"], "Chromium", () => {
    const flags = [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
    ];
    flags.push("--disable-component-update", "--disable-sync");

    test("sends a blob, a form, too much and a corrupt picture, and reads each answer", async () => {
      const browser = await chromium.launch({ executablePath: binaries.chromium, args: flags, timeout: DEADLINE });
      try {
        const page = await browser.newPage();
        page.setDefaultTimeout(DEADLINE);
        await page.goto(origin);
        const answers = await page.evaluate(
          async ({ picture, allowed }) => {
            const bytes = Uint8Array.from(atob(picture), (letter) => letter.charCodeAt(0));
            const form = new FormData();
            form.append("image", new File([bytes], "photo.png"));
            const corrupt = new Uint8Array(allowed);
            corrupt.set(bytes.subarray(0, 1000));
            const found: { status: number; text: string }[] = [];
            for (const body of [
              new Blob([bytes]),
              form,
              new Blob([new Uint8Array(3 * allowed)]),
              new Blob([corrupt]),
            ]) {
              const answer = await fetch("/tasks/sobel", { method: "POST", body, signal: AbortSignal.timeout(10_000) });
              const read = new Uint8Array(await answer.arrayBuffer());
              const text = Array.from(read, (byte) => String.fromCharCode(byte)).join("");
              found.push({ status: answer.status, text: answer.ok ? btoa(text) : text });
            }
            return found;
          },
          { picture: photo.toString("base64"), allowed: MAX_UPLOAD_BYTES },
        );
        const good = { status: 200, text: edgesOfPhoto.toString("base64") };
        expect(answers.slice(0, 2)).toEqual([good, good]);
        expect(answers.slice(2).map(({ status, text }) => [status, JSON.parse(text).status])).toEqual([
          [413, 413],
          [422, 422],
        ]);
      } finally {
        await browser.close();
      }
    });
  });
});

describe("clients that close the connection", () => {
  let kit: Kit;
  let log: Mock<typeof console.error>;
  beforeEach(() => {
    log = spyOn(console, "error");
  });
  afterEach(async () => {
    await kit.stop();
    const complaints = [...log.mock.calls];
    log.mockRestore();
    expect(complaints).toEqual([]); // this is not an error of the coordinator
  });

  test("within the picture: nothing is left, and the place is free again", async () => {
    kit = await startKit({ maxJobs: 1, workers: 2 });
    for (const body of [wide, formOf(wide)]) {
      const type = body === wide ? "image/png" : "multipart/form-data; boundary=here";
      const upload = await rawUpload(kit.origin, "POST /tasks/sobel", body.length, type);
      upload.write(body.subarray(0, body.length / 2));
      await until(() => kit.results.jobs.size === 1);
      await until(() => kit.results.stored > 0);
      upload.socket.destroy();
      await until(() => kit.idle());
      expectSame(await bytesOf(await kit.ask("/tasks/sobel", { method: "POST", body: photo })), edgesOfPhoto);
      await until(() => kit.idle());
      kit.results.stored = 0;
    }
  });

  test("before the first byte, within the signature, within the header", async () => {
    kit = await startKit({ maxJobs: 1, workers: 1 });
    for (const bytes of [0, 4, 30]) {
      const upload = await rawUpload(kit.origin, "POST /tasks/sobel", photo.length);
      upload.write(photo.subarray(0, bytes));
      await until(() => kit.uploads > 0);
      upload.socket.destroy();
      await until(() => kit.idle());
    }
    expectSame(await bytesOf(await kit.ask("/tasks/sobel", { method: "POST", body: photo })), edgesOfPhoto);
  });

  test("while waiting for the answer, and while reading it", async () => {
    kit = await startKit({ maxJobs: 1, workers: 0 });
    const waiting = await rawUpload(kit.origin, "POST /tasks/sobel", small.length);
    waiting.write(small);
    await until(() => kit.queue.published.length === 1);
    waiting.socket.destroy();
    await until(() => kit.idle());

    await kit.startWorkers(2);
    const reading = await kit.ask("/tasks/sobel", { method: "POST", body: huge });
    await reading.body?.cancel();
    await until(() => kit.idle());
  });

  /** A job that no upload has made: the coordinator itself watches a job that it has accepted. */
  async function putUnwatchedJob(): Promise<string> {
    const id = crypto.randomUUID();
    const job = jobOf(id, sobel, { params: {}, workers: null, bandPixels: 64 }, { width: 8, height: 8, channels: 1 });
    await kit.results.putJob({ ...job, enqueued: true });
    return id;
  }

  test("while reading events: the watch of the job is closed", async () => {
    kit = await startKit({ workers: 0 });
    const reader = await rawUpload(kit.origin, `GET /jobs/${await putUnwatchedJob()}/events`, 0);
    await new Promise((resolve) => reader.socket.once("data", resolve));
    expect(kit.results.watched).toBe(1);
    reader.socket.destroy();
    await until(() => kit.results.watched === 0);
  });

  test("before the first event: the watch of the job is closed", async () => {
    kit = await startKit({ workers: 0 });
    const id = await putUnwatchedJob();
    const { promise, resolve } = Promise.withResolvers<void>();
    kit.results.gate = promise;
    const reader = await rawUpload(kit.origin, `GET /jobs/${id}/events`, 0);
    await until(() => kit.results.held > 0);
    expect(kit.results.opened).toBe(0);
    reader.socket.destroy();
    await kit.ask("/healthz"); // the server has seen the end of the connection
    resolve();
    await until(() => kit.results.opened === 1);
    await until(() => kit.results.watched === 0);
  });

  test("within the picture of a job: the job stays, and is resumed", async () => {
    kit = await startKit({ maxJobs: 1, workers: 2 });
    const id = crypto.randomUUID();
    const upload = await rawUpload(kit.origin, `PUT /jobs/${id}`, wide.length);
    upload.write(wide.subarray(0, wide.length / 2));
    await until(() => kit.results.stored > 1);
    upload.socket.destroy();
    await until(() => kit.uploads === 0 && kit.results.watched === 0);
    expect(await (await kit.ask(`/jobs/${id}`)).json()).toMatchObject({ state: "uploading", error: null });

    expect((await kit.ask(`/jobs/${id}`, { method: "PUT", body: wide })).status).toBe(202);
    await until(async () => (await (await kit.ask(`/jobs/${id}`)).json()).state === "done");
    expectSame(await bytesOf(await kit.ask(`/jobs/${id}/result`)), await edgesOf(wide));
    expectEachOnce(kit.queue.published, id, 67);
  });
});

describe("several at once", () => {
  let kit: Kit;
  afterEach(() => kit.stop());

  test("three uploads of the same id: all are accepted, and every band is enqueued once", async () => {
    kit = await startKit({ workers: 2 });
    const id = crypto.randomUUID();
    const put = () => kit.ask(`/jobs/${id}`, { method: "PUT", body: photo });
    const answers = await Promise.all([put(), put(), put()]);
    expect(answers.map(({ status }) => status)).toEqual([202, 202, 202]);
    await until(async () => (await (await kit.ask(`/jobs/${id}`)).json()).state === "done");
    expectSame(await bytesOf(await kit.ask(`/jobs/${id}/result`)), edgesOfPhoto);
    expectEachOnce(kit.queue.published, id, 8);
  });

  test("more uploads than MAX_JOBS: 503 until one ends", async () => {
    kit = await startKit({ maxJobs: 2, workers: 1 });
    const uploads = [await rawUpload(kit.origin, "POST /tasks/sobel", small.length)];
    uploads.push(await rawUpload(kit.origin, `PUT /jobs/${crypto.randomUUID()}`, small.length));
    for (const upload of uploads) upload.write(small.subarray(0, 100));
    await until(() => kit.uploads === 2);
    for (const [method, path] of [
      ["POST", "/tasks/sobel"],
      ["PUT", `/jobs/${crypto.randomUUID()}`],
    ]) {
      const full = await kit.ask(path, { method, body: huge });
      expect(full.headers.get("retry-after")).toBe("5");
      await expectProblem(full, 503, /too many uploads in progress \(2\)/);
    }
    uploads[0].write(small.subarray(100));
    expect(await uploads[0].answer()).toStartWith("HTTP/1.1 200");
    expect((await kit.ask("/tasks/sobel", { method: "POST", body: small })).status).toBe(200);
    uploads[1].socket.destroy();
  });

  test("the request chooses the bands, and a job with workers=N has at least N; the pixels stay the same", async () => {
    kit = await startKit({ workers: 2 });
    const body = Buffer.from(encode({ width: 64, height: 48, channels: 1, data: random(64 * 48) }));
    const whole = await sharp(await edgesOf(body, 1e9))
      .raw()
      .toBuffer();
    for (const [query, bands, bandsBy] of [
      ["", 1, "size"],
      ["workers=4", 4, "workers"],
      ["workers=1", 1, "size"],
      ["bands=5", 5, "request"],
      ["bands=1&workers=3", 1, "request"],
      ["bandRows=7&workers=3", 7, "request"],
      ["workers=1000", 48, "workers"],
    ] as const) {
      const id = crypto.randomUUID();
      expect((await kit.ask(`/jobs/${id}?${query}`, { method: "PUT", body })).status).toBe(202);
      const events = parsedEvents(await (await kit.ask(`/jobs/${id}/events`)).text());
      expect(events.at(-1)).toMatchObject({ event: "done", data: { bands, bandsBy, done: bands } });
      const lanes = new Set(events.filter(({ event }) => event === "band").map(({ data }) => data.lane));
      const limit = Number(/workers=(\d+)/.exec(query)?.[1] ?? 0);
      if (limit === 0) expect([...lanes]).toEqual([undefined]);
      else expect([...lanes].every((lane) => Number(lane) >= 0 && Number(lane) < limit)).toBe(true);
      expectSame(
        await sharp(await bytesOf(await kit.ask(`/jobs/${id}/result`)))
          .raw()
          .toBuffer(),
        whole,
      );
    }
  });

  test("at most workers=N bands are enqueued or in progress", async () => {
    for (const workers of [1, 2, 3]) {
      kit = await startKit({ workers: 4 });
      const answer = await kit.ask(`/tasks/sobel?workers=${workers}`, { method: "POST", body: photo });
      expectSame(await bytesOf(answer), edgesOfPhoto);
      expect(kit.maxInFlight).toBe(workers);
      await kit.stop();
    }
  });

  test("a cancelled job stops its upload, and leaves nothing", async () => {
    kit = await startKit({ workers: 0 });
    const id = crypto.randomUUID();
    const upload = await rawUpload(kit.origin, `PUT /jobs/${id}?workers=1`, photo.length);
    upload.write(photo);
    await until(() => kit.queue.published.length === 1);
    expect((await kit.ask(`/jobs/${id}`, { method: "DELETE" })).status).toBe(204);
    const answer = await upload.answer();
    expect(answer).toStartWith("HTTP/1.1 410");
    expect(answer).toInclude("the job was cancelled or has expired");
    await until(() => kit.idle());
    await kit.startWorkers(1);
    expectSame(await bytesOf(await kit.ask("/tasks/sobel", { method: "POST", body: photo })), edgesOfPhoto);
    await until(() => kit.idle());
  });

  test("bands of a corrupt picture that are still enqueued do not mix with a valid one under the same id", async () => {
    kit = await startKit({ workers: 0 });
    const id = crypto.randomUUID();
    const corrupt = Uint8Array.from(wide).fill(0, 50_000, 51_000);
    expect((await kit.ask(`/jobs/${id}?workers=60`, { method: "PUT", body: corrupt })).status).toBe(422);
    const stale = kit.queue.published.length;
    expect(stale).toBeGreaterThan(0);
    const good = await rawUpload(kit.origin, `PUT /jobs/${id}`, wide.length);
    const begun = 300_000; // so much is read before the job begins: an orientation may come behind the pixels
    good.write(wide.subarray(0, begun));
    await until(async () => (await (await kit.ask(`/jobs/${id}`)).json()).state === "uploading");
    await kit.startWorkers(1);
    await until(() => kit.queue.handled >= stale);
    good.write(wide.subarray(begun));
    expect(await good.answer()).toStartWith("HTTP/1.1 202");
    await until(async () => (await (await kit.ask(`/jobs/${id}`)).json()).state === "done");
    expectSame(await bytesOf(await kit.ask(`/jobs/${id}/result`)), await edgesOf(wide));
  });

  test("a job expires", async () => {
    kit = await startKit({ workers: 1, ttlSeconds: 1 });
    const id = crypto.randomUUID();
    expect((await kit.ask(`/jobs/${id}`, { method: "PUT", body: small })).status).toBe(202);
    await until(async () => (await kit.ask(`/jobs/${id}`)).status === 404);
    expect(kit.idle()).toBe(true);
  });
});

describe("requests of the page", () => {
  test("the events of several jobs in one stream, of jobs that exist and of jobs that are uploaded later", async () => {
    const [done, later, bad] = [crypto.randomUUID(), crypto.randomUUID(), crypto.randomUUID()];
    const put = (id: string, body: Part) => ask(`/jobs/${id}`, { method: "PUT", body });
    expect((await put(done, photo)).status).toBe(202);
    const answer = await ask(`/events?jobs=${done},${later.toUpperCase()},${done},${bad}`);
    expect(answer.headers.get("content-type")).toStartWith("text/event-stream");
    const stream = answer.text();
    expect((await put(bad, photo.subarray(0, photo.length - 20))).status).toBe(422);
    expect((await put(later, wide)).status).toBe(202);
    const events = parsedEvents(await stream); // the stream ends with the last job
    const of = (id: string) => events.filter(({ data }) => data.id === id);
    expectAllEvents(of(done), done, { bands: 8, rows: 19, height: 150 });
    expect(of(later)[0]).toEqual({ event: "unknown", data: { id: later } });
    expectAllEvents(of(later), later, { bands: 67, rows: 6, height: 400 });
    expect(of(later).filter(({ event }) => event === "unknown")).toHaveLength(1);
    expect(of(bad)[0].event).toBe("unknown");
    expect(of(bad).at(-1)).toMatchObject({ event: "failed", data: { error: expect.stringMatching(/IEND/) } });

    for (const jobs of ["", "none", `${done},`, `${done},..`]) {
      await expectProblem(await ask(`/events?jobs=${jobs}`), 400, /expected a UUID/);
    }
    await expectProblem(await ask("/events"), 400, /expected a UUID/);
    const many = Array.from({ length: 101 }, () => crypto.randomUUID());
    await expectProblem(await ask(`/events?jobs=${many}`), 400, /at most 100 ids, got 101/);
  });

  test("a failed job that is uploaded again has its events from the start", async () => {
    const kit = await startKit({ workers: 1 });
    try {
      const id = crypto.randomUUID();
      const put = (body: Part) => kit.ask(`/jobs/${id}`, { method: "PUT", body });
      expect((await put(photo.subarray(0, photo.length - 20))).status).toBe(422);
      const [first, second] = [kit.ask(`/events?jobs=${id}`), kit.ask(`/jobs/${id}/events`)];
      for (const answer of await Promise.all([first, second])) {
        expect(parsedEvents(await answer.text()).at(-1)?.event).toBe("failed");
      }
      expect((await put(photo)).status).toBe(202);
      const again = parsedEvents(await (await kit.ask(`/events?jobs=${id}`)).text());
      expectAllEvents(
        again.map((event) => ({ ...event, data: { ...event.data, worker: "thread-1" } })),
        id,
        { bands: 8, rows: 19, height: 150 },
      );
      expect((await kit.ask(`/jobs/${id}`, { method: "DELETE" })).status).toBe(204);
      await until(kit.idle);
    } finally {
      await kit.stop();
    }
  });

  test("an event of a band has its number of earlier deliveries", async () => {
    const kit = await startKit({ workers: 0 });
    try {
      const id = crypto.randomUUID();
      expect((await kit.ask(`/jobs/${id}`, { method: "PUT", body: small })).status).toBe(202);
      let handed = 0;
      let stopped: Promise<void> | undefined;
      const stop = await kit.queue.consume(["sobel"], async () => {
        await new Promise((wake) => setTimeout(wake, 1));
        if (++handed === 2) stopped = stop();
        return { do: "retry" };
      });
      await until(() => stopped !== undefined);
      await kit.startWorkers(1);
      const events = parsedEvents(await (await kit.ask(`/jobs/${id}/events`)).text());
      expect(events.find(({ event }) => event === "band")?.data).toMatchObject({ id, band: 0, deliveries: 2 });
    } finally {
      await kit.stop();
    }
  });

  test("the preview of a band", async () => {
    const id = crypto.randomUUID();
    expect((await ask(`/jobs/${id}`, { method: "PUT", body: photo })).status).toBe(202);
    await finished(id);
    const whole = await sharp(edgesOfPhoto).toColourspace("b-w").raw().toBuffer();
    const get = (band: number | string, query = "", headers = {}) =>
      ask(`/jobs/${id}/bands/${band}${query}`, { headers });

    // A preview is never wider than the picture. At that width it is the band, pixel for pixel.
    for (const [band, y, rows] of [
      [0, 0, 19],
      [7, 133, 17],
    ]) {
      const answer = await get(band);
      expect(answer.headers.get("content-type")).toBe("image/png");
      const { data, info } = await sharp(await bytesOf(answer))
        .toColourspace("b-w")
        .raw()
        .toBuffer({ resolveWithObject: true });
      expect([info.width, info.height, info.channels]).toEqual([200, rows, 1]);
      expectSame(data, whole.subarray(y * 200, (y + rows) * 200));
    }
    const small = await get(3, "?width=50");
    const { width, height, channels } = await sharp(await bytesOf(small)).metadata();
    expect([width, height, channels]).toEqual([50, 5, 1]);

    // The ETag of a new picture under the same id is another one.
    const etag = small.headers.get("etag") ?? "";
    expect((await get(3, "?width=50", { "if-none-match": etag })).status).toBe(304);
    expect((await get(3, "?width=51", { "if-none-match": etag })).status).toBe(200);
    await ask(`/jobs/${id}`, { method: "DELETE" });
    await ask(`/jobs/${id}`, { method: "PUT", body: sameSize });
    await finished(id);
    expect((await get(3, "?width=50", { "if-none-match": etag })).status).toBe(200);

    for (const query of ["?width=15", "?width=2049", "?width=1e3", "?width=-1"]) {
      await expectProblem(await get(0, query), 400, /width: expected a whole number from 16 to 2048/);
    }
    for (const band of [8, "x", "-1", "00000000000"]) await expectProblem(await get(band), 404, /no band/);
    await ask(`/jobs/${id}`, { method: "DELETE" });
    await expectProblem(await get(0), 404, new RegExp(id));
  });

  test("the preview of a band that is not done, that a third-party worker made, and whose result has expired", async () => {
    const kit = await startKit({ workers: 0 });
    try {
      const id = crypto.randomUUID();
      const get = (band: number, width = 2048) => kit.ask(`/jobs/${id}/bands/${band}?width=${width}`);
      expect((await kit.ask(`/jobs/${id}?workers=1000&bandRows=19`, { method: "PUT", body: photo })).status).toBe(202);
      await expectProblem(await get(1), 409, /band 1 is not done/);
      const crc = (await kit.results.sent(id)).get(1)!;
      const halo = Buffer.from(random(200 * 21));
      const foreign = { raw: { width: 200, height: 21, channels: 1 as const } };
      const done = { worker: "foreign", ms: 0, crc, bytes: 0, deliveries: 0 };
      expect(await kit.results.store(`{${id}}:1`, await sharp(halo, foreign).png().toBuffer(), done, undefined)).toBe(
        true,
      );
      const { data, info } = await sharp(await bytesOf(await get(1)))
        .toColourspace("b-w")
        .raw()
        .toBuffer({ resolveWithObject: true });
      expect([info.width, info.height]).toEqual([200, 19]);
      expectSame(data, halo.subarray(200, 200 * 20));

      await kit.results.store(`{${id}}:1`, Buffer.from("no picture"), done, undefined);
      await expectProblem(await get(1, 100), 500, /band 1: its result cannot be used/);
      await kit.results.drop(`{${id}}:1`);
      await expectProblem(await get(1, 101), 410, /expired/);
    } finally {
      await kit.stop();
    }
  });

  test("of many previews two are made at a time, 64 wait, and the rest get 503", async () => {
    const kit = await startKit({ workers: 2 });
    try {
      const id = crypto.randomUUID();
      await kit.ask(`/jobs/${id}`, { method: "PUT", body: photo });
      await until(async () => (await (await kit.ask(`/jobs/${id}`)).json()).state === "done");
      const { promise: go, resolve } = Promise.withResolvers<void>();
      let loading = 0;
      let most = 0;
      const load = kit.results.load.bind(kit.results);
      kit.results.load = async (chunkId) => {
        most = Math.max(most, ++loading);
        await go;
        loading--;
        return load(chunkId);
      };
      let refused = 0;
      const asked = Array.from({ length: 80 }, async (_, i) => {
        const { status } = await kit.ask(`/jobs/${id}/bands/0?width=${16 + i}`);
        if (status === 503) refused++;
        return status;
      });
      await until(() => refused === 80 - 2 - 64);
      resolve();
      const statuses = await Promise.all(asked);
      expect(statuses.filter((status) => status === 200)).toHaveLength(66);
      expect(most).toBe(2);
      expect((await kit.ask(`/jobs/${id}/bands/0`)).status).toBe(200);
    } finally {
      await kit.stop();
    }
  });

  test("the file name of a result is the client's choice, made safe for a header", async () => {
    const id = crypto.randomUUID();
    await ask(`/jobs/${id}`, { method: "PUT", body: photo });
    await finished(id);
    for (const [name, header] of [
      ["a b.sobel.png", 'attachment; filename="a b.sobel.png"'],
      ["ñandú.png", `attachment; filename="_and_.png"; filename*=UTF-8''%C3%B1and%C3%BA.png`],
      ['../"\r\nx: y', 'attachment; filename="..____x_ y"'],
    ]) {
      const answer = await ask(`/jobs/${id}/result?name=${encodeURIComponent(name)}`);
      expect(answer.headers.get("content-disposition")).toBe(header);
      expect(answer.headers.get("x")).toBeNull();
    }
  });
});

describe("the rest of the API", () => {
  test("probes, workers and page", async () => {
    expect(await (await ask("/healthz")).json()).toEqual({ status: "ok" });
    expect(await (await ask("/readyz")).json()).toEqual({ status: "ready" });
    const { workers } = await (await ask("/workers")).json();
    const tasks = [
      "blur",
      "crack",
      "equalize",
      "half",
      "histogram",
      "invert",
      "median",
      "pi",
      "primes",
      "scharr",
      "sepia",
      "sobel",
      "stretch",
      "threshold",
      "thumbnail",
      "words",
    ];
    expect(workers).toMatchObject([
      { name: "thread-1", runtime: "bun", cores: availableParallelism(), tasks, pid: coordinator.pid },
      { name: "thread-2", runtime: "bun", tasks, pid: coordinator.pid },
    ]);
    const page = await ask("/");
    expect(page.headers.get("content-type")).toBe("text/html; charset=utf-8");
    expect(page.headers.get("content-security-policy")).toMatch(/^default-src 'none'; script-src 'self';/);
    expect(await page.text()).toStartWith("<!doctype html>");
  });

  test("nothing is on the program's log", () => {
    expect(coordinator.out).toMatch(/^Sobel, distributed: \S+\n$/);
  });
});

describe("a class", () => {
  let program: Program;
  let at: string;
  const slow = { WORKERS: "2", TASKS: "test/tasks/slow.ts", PORT: "0" };
  const post = (path: string) => fetch(`${at}/workers/${path}`, { method: "POST" });
  const workers = async (): Promise<{ name: string; paused: boolean; control: boolean }[]> =>
    (await (await fetch(`${at}/workers`)).json()).workers;
  async function start(env: Record<string, string>) {
    program = spawnProgram("coordinator.ts", { ...slow, ...env });
    [at] = await program.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
  }
  afterEach(async () => {
    program.kill();
    await program.exited;
  });

  test("may do nothing by default", async () => {
    await start({});
    await expectProblem(await post("thread-1/kill"), 403, /CLASSROOM=control/);
    await expectProblem(await fetch(`${at}/jobs`), 403, /CLASSROOM=wall/);
    expect((await (await fetch(`${at}/state`)).json()).classroom).toEqual({
      control: false,
      wall: false,
      inside: false,
    });
    expect((await workers()).map(({ control }) => control)).toEqual([false, false]);
  });

  test("pauses a worker, kills one in the middle of a band, and sees the jobs of all", async () => {
    await start({ CLASSROOM: "wall, control", LOG_LEVEL: "error" });
    expect((await post("thread-1/pause")).status).toBe(202);
    await until(async () => (await workers()).some(({ name, paused }) => name === "thread-1" && paused));
    const id = crypto.randomUUID();
    const query = "task=slow&ms=1000&bands=2&workers=2";
    const sent = fetch(`${at}/jobs/${id}?${query}`, { method: "PUT", body: photo });
    const events = await fetch(`${at}/events?jobs=${id}`);
    const listed = async () => (await (await fetch(`${at}/jobs`)).json()).jobs as { id: string; state: string }[];
    await until(async () => (await listed()).some((job) => job.id === id));
    // One worker has a band, the other is paused. The band of the killed one goes to the other.
    await until(async () => (await workers()).some(({ name }) => name === "thread-2"));
    await sleep(300);
    expect((await post("thread-2/kill")).status).toBe(202);
    await until(async () => (await workers()).every(({ name }) => name !== "thread-2"));
    expect((await post("thread-1/resume")).status).toBe(202);
    expect((await sent).status).toBe(202);
    const all = parsedEvents(await events.text());
    expect(all.at(-1)).toMatchObject({ event: "done", data: { id } });
    const lost = all.filter(({ event }) => event === "incident").map(({ data }) => data);
    expect(lost).toEqual([
      { id, n: 1, what: "lost", at: expect.any(Number), band: 0, worker: "thread-2", by: "thread-1" },
    ] as never);
    const [band] = all.filter(({ event, data }) => event === "band" && data.band === 0);
    expect(band.data).toMatchObject({ worker: "thread-1", deliveries: 1, lost: ["thread-2"] });
    expect(await listed()).toMatchObject([{ id, state: "done" }]);
    expectSame(await bytesOf(await fetch(`${at}/jobs/${id}/result`)), await slowly(photo));
    await until(async () => (await workers()).length === 2); // as under a supervisor
    await fetch(`${at}/jobs/${id}`, { method: "DELETE" });
    expect(await listed()).toEqual([]);
  });

  /** What the task `slow` makes of a picture in two bands. */
  async function slowly(picture: Bytes): Promise<Bytes> {
    const { task } = await import("./tasks/slow.ts");
    const image = await readImage(onePiece(picture));
    return Buffer.concat(await Array.fromAsync(transform(image, task, 200 * 75)));
  }
});

describe("errors that a client may retry", () => {
  const retried = async (error: unknown) => {
    const lines: unknown[][] = [];
    const line = (...all: unknown[]) => lines.push(all);
    const log: Log = { ...openLog("error"), error: line, warn: line };
    const answer = problem(error, new Request("http://localhost/workers?token=s3cret"), log);
    expect(answer.headers.get("retry-after")).toBe("5");
    return { answer, lines };
  };

  test("of the queue and of a job: their own sentence, and nothing on the log", async () => {
    for (const error of [new QueueError("RabbitMQ is unavailable"), new JobError("taken-over", "another has it")]) {
      const { answer, lines } = await retried(error);
      await expectProblem(answer, 503, new RegExp(`^${error.message}$`));
      expect(lines).toEqual([]);
    }
  });

  test("of Redis: it is named, and the log has one line, without a stack", async () => {
    const redis = new Redis({ port: 1, maxRetriesPerRequest: 0, retryStrategy: () => 1 });
    redis.on("error", () => {}); // the command itself fails, too
    const unreachable = await redis.get("key").catch((error) => error);
    redis.disconnect();
    const cluster = new RedisConnection("redis+cluster://127.0.0.1:1", false, () => []);
    const down = await cluster.commands.get("key").catch((error) => error);
    cluster.close();
    for (const error of [unreachable, down, new ReplyError("NOREPLICAS Not enough good replicas")]) {
      const { answer, lines } = await retried(error);
      await expectProblem(answer, 503, /^Redis is unavailable; retry in 5 s$/);
      expect(lines).toEqual([["request refused, Redis is unavailable", { method: "GET", path: "/workers", error }]]);
    }
  });

  test("of the coordinator itself: no details, and the log has them", async () => {
    for (const error of [new RangeError("s3cret"), new DOMException("s3cret", "AbortError"), "s3cret"]) {
      const { answer, lines } = await retried(error);
      await expectProblem(answer, 503, /^the request failed inside the coordinator; its log has the reason$/);
      expect(lines).toMatchObject([["request failed", { path: "/workers", error }]]);
    }
  });
});

describe("settings", () => {
  const both = "expected both RABBITMQ_URL and REDIS_URL, or neither";
  test.each([
    ["PORT=abc", 'PORT: expected a whole number from 0 to 65535, got "abc"'],
    ["PORT=65536", "PORT: expected a whole number from 0 to 65535"],
    ["WORKERS=0", "WORKERS: expected a whole number from 1"],
    ["BAND_PIXELS=-5", "BAND_PIXELS: expected a whole number from 1"],
    ["MAX_UPLOAD_BYTES=1MB", "MAX_UPLOAD_BYTES: expected a whole number from 1"],
    ["MAX_PIXELS=0", "MAX_PIXELS: expected a whole number from 1"],
    ["MAX_JOBS=many", "MAX_JOBS: expected a whole number from 1"],
    ["RESULT_TTL_SECONDS=0", "RESULT_TTL_SECONDS: expected a whole number from 1"],
    ["BAND_TIMEOUT_SECONDS=1.5", "BAND_TIMEOUT_SECONDS: expected a whole number from 1"],
    ["RABBITMQ_URL=amqp://127.0.0.1:1", `REDIS_URL: ${both}`],
    ["REDIS_URL=redis://127.0.0.1:1", `RABBITMQ_URL: ${both}`],
  ])("%s ends the program with one line", async (setting, sentence) => {
    const [name, value] = setting.split("=");
    const program = spawnProgram("coordinator.ts", { PORT: "0", [name]: value });
    expect(await within(program.exited)).toBe(1);
    expect(program.out).toStartWith(`coordinator.ts: ${sentence}`);
    expect(program.out.trim().split("\n")).toHaveLength(1);
  });

  test("a port that is in use ends it, too", async () => {
    const program = spawnProgram("coordinator.ts", { PORT: new URL(origin).port });
    expect(await within(program.exited)).toBe(1);
    expect(program.out).toMatch(/^coordinator.ts: .*\n$/);
  });
});

test("a stored result does not change with its caller's buffer", async () => {
  const results = new LocalResults(60);
  const id = crypto.randomUUID();
  const image = { width: 5, height: 4, channels: 1 } as const;
  await results.putJob(jobOf(id, sobel, { params: {}, workers: null, bandPixels: 100 }, image));
  await results.expectRows(id, 0, 7, (await results.findJob(id))!.attempt);
  const picture = Uint8Array.of(1, 2, 3);
  const done = { worker: "a", ms: 1, crc: 7, bytes: 3, deliveries: 0 };
  expect(await results.store(chunkIdOf(id, 0), picture, done, undefined)).toBe(true);
  picture.fill(0);
  expect(await results.load(chunkIdOf(id, 0))).toEqual(Uint8Array.of(1, 2, 3));
});

test("a stale read does not undo `enqueued`", async () => {
  const gate = Promise.withResolvers<void>();
  const results = new (class extends LocalResults {
    gated = false;
    reading = 0;
    override async findJob(id: string): Promise<Job | null> {
      this.reading++;
      const job = await super.findJob(id);
      if (this.gated) await gate.promise;
      this.reading--;
      return job;
    }
  })(60);
  const id = crypto.randomUUID();
  const asked = { params: {}, workers: null, bandPixels: BAND_PIXELS };
  const job = jobOf(id, sobel, asked, { width: 10, height: 10, channels: 1 });
  await results.putJob(job);
  const watch = await JobWatch.open({ queue: new LocalQueue(), results }, id);
  results.gated = true;
  await results.putJob(job); // every watch reads the record again
  await results.updateJob(id, { enqueued: true, cutMs: 1 });
  expect(results.reading).toBeGreaterThan(0);
  gate.resolve();
  await until(() => results.reading === 0);
  await sleep(0); // the watch has taken what was read
  expect(watch.job?.enqueued).toBe(true);
  watch.close();
  await results.removeJob(id);
});

test("a redelivered band is whole, though its pixels were overwritten", async () => {
  const queue = new LocalQueue();
  const seen: number[][] = [];
  const twice = Promise.withResolvers<void>();
  const stop = await queue.consume(["sobel"], async (delivery) => {
    const { pixels } = await delivery.open();
    seen.push([...pixels]);
    pixels.fill(0);
    if (seen.length === 1) return { do: "retry" };
    twice.resolve();
    return { do: "done" };
  });
  const chunkId = `{${crypto.randomUUID()}}:0`;
  const band = { task: "sobel", halo: [0, 0] as [number, number], width: 3, height: 1, channels: 1 as const };
  await queue.publish({ ...band, chunkId, pixels: Uint8Array.of(1, 2, 3) });
  await within(twice.promise);
  await stop();
  expect(seen).toEqual([
    [1, 2, 3],
    [1, 2, 3],
  ]);
});

describe("SIGTERM", () => {
  test("ends the program with 0 despite open connections and event streams", async () => {
    const program = spawnProgram("coordinator.ts", { ...SETTINGS, PORT: "0" });
    const at = await originOf(program);
    const idle = connect(Number(new URL(at).port), "127.0.0.1");
    const used = connect(Number(new URL(at).port), "127.0.0.1");
    used.write("GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n");
    await new Promise((resolve) => used.once("data", resolve));
    const id = crypto.randomUUID();
    const upload = await rawUpload(at, `PUT /jobs/${id}`, wide.length);
    upload.write(wide.subarray(0, wide.length / 2));
    await until(async () => (await fetch(`${at}/jobs/${id}`)).status === 200);
    const events = (await fetch(`${at}/jobs/${id}/events`)).body?.getReader();
    expect((await events?.read())?.done).toBe(false);
    upload.socket.destroy();

    program.kill("SIGTERM");
    expect(await within(program.exited)).toBe(0);
    // The stream ends in order, not with a broken connection.
    while ((await events?.read())?.done === false);
    idle.destroy();
    used.destroy();
  });

  test("an answer that has begun is finished first", async () => {
    const program = spawnProgram("coordinator.ts", { ...SETTINGS, PORT: "0" });
    const at = await originOf(program);
    const answer = await fetch(`${at}/tasks/sobel`, {
      method: "POST",
      body: huge,
      signal: AbortSignal.timeout(DEADLINE),
    });
    program.kill("SIGTERM");
    expectSame(await bytesOf(answer), await edgesOf(huge));
    expect(await within(program.exited)).toBe(0);
  });
});

describeWith(["deno"], "on Deno", () => {
  test("answers the same clients in the same way", async () => {
    const program = spawnProgram("coordinator.ts", { ...SETTINGS, PORT: "0" }, "deno");
    const at = await originOf(program);
    const post = (body: BodyInit | undefined, path = "/tasks/sobel", method = "POST") =>
      fetch(`${at}${path}`, { method, body, signal: AbortSignal.timeout(DEADLINE) });
    const serves = async () => expectSame(await bytesOf(await post(photo)), edgesOfPhoto);
    await serves();
    const form = new FormData();
    form.append("image", new File([photo], "photo.png"));
    expectSame(await bytesOf(await post(form)), edgesOfPhoto);
    await expectProblem(await post(undefined), 400, /got no bytes/);
    await expectProblem(await post(flipped(photo, 5000)), 422, /expected CRC/);
    await expectProblem(await post("a text"), 400, /not an image/);
    await expectProblem(await post(new Uint8Array(2 * MAX_UPLOAD_BYTES)), 413, /upload too large/);
    const junk = Buffer.concat([photo.subarray(0, 33), chunk("juNk", new Uint8Array(2 * MAX_UPLOAD_BYTES))]);
    await expectProblem(await post(chunked(junk)), 413, /upload too large/);
    await serves();

    const id = crypto.randomUUID();
    expect((await post(wide, `/jobs/${id}`, "PUT")).status).toBe(202);
    const events = parsedEvents(await (await fetch(`${at}/jobs/${id}/events`)).text());
    expectAllEvents(events, id, { bands: 67, rows: 6, height: 400 });
    for (let round = 0; round < 2; round++) {
      expectSame(await bytesOf(await fetch(`${at}/jobs/${id}/result`)), await edgesOf(wide));
    }
    expect((await post(undefined, `/jobs/${id}`, "DELETE")).status).toBe(204);

    const cut = await rawUpload(at, "POST /tasks/sobel", wide.length);
    cut.write(wide.subarray(0, wide.length / 2));
    cut.socket.destroy();
    const half = await rawUpload(at, `PUT /jobs/${id}`, wide.length);
    half.write(wide.subarray(0, wide.length / 2));
    await until(async () => (await fetch(`${at}/jobs/${id}`)).status === 200);
    const open = (await fetch(`${at}/jobs/${id}/events`)).body?.getReader();
    expect((await open?.read())?.done).toBe(false);
    half.socket.destroy();
    await expectLargePictures(at, 1);
    await serves();
    program.kill("SIGTERM");
    expect(await within(program.exited)).toBe(0);
    while ((await open?.read())?.done === false);
    // Apart from Deno's own advice on `request.signal`, the log is empty.
    const own = program.out.split("\n").filter((line) => !line.includes("request.signal"));
    expect(own).toEqual([expect.stringMatching(/^Sobel, distributed: \S+$/), ""]);
  }, 90_000);
});

/** Noise, which hardly compresses, so that an upload has many bytes. The same for the same seed. */
function png(width: number, height: number, seed: number): Bytes {
  const data = new Uint8Array(width * height * 3);
  let x = seed;
  for (let i = 0; i < data.length; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    data[i] = x >>> 24;
  }
  return Buffer.from(encode({ width, height, data, channels: 3 }, { zlib: { level: 1 } }));
}

/** Several rounds, so that anything a picture leaves behind would affect the next one. */
async function expectLargePictures(at: string, rounds = 3): Promise<void> {
  const expected = await edgesOf(huge);
  const formOf = (bytes: Part) => {
    const form = new FormData();
    form.append("image", new File([bytes], "huge.png"));
    return form;
  };
  const parts = [huge.subarray(0, 33), chunk("juNk", new Uint8Array(9)), huge.subarray(33)];
  const early = flipped(Buffer.concat(parts), 42); // the client has nearly everything still to send
  const late = flipped(huge, 60);
  for (let round = 0; round < rounds; round++) {
    for (const body of [early, late, formOf(early), formOf(late)]) {
      const answer = await fetch(`${at}/tasks/sobel`, { method: "POST", body, signal: AbortSignal.timeout(DEADLINE) });
      await expectProblem(answer, 422, /expected CRC/);
    }
    const cut = await rawUpload(at, "POST /tasks/sobel", huge.length);
    await cut.written(huge.subarray(0, 6_000_000));
    cut.socket.destroy();
    const two = [huge, formOf(huge as Part)].map((body) => fetch(`${at}/tasks/sobel`, { method: "POST", body }));
    for (const answer of await Promise.all(two)) expectSame(await bytesOf(answer), expected);
  }
}

async function originOf(program: Program): Promise<string> {
  const [, origin] = await program.waitFor(/Sobel, distributed: (http:\S+)/);
  return origin;
}

function ask(path: string, init: RequestInit = {}): Promise<Response> {
  return fetch(`${origin}${path}`, { signal: AbortSignal.timeout(DEADLINE), ...init });
}

/** The answer is problem details (RFC 9457), and `detail` matches the sentence. */
async function expectProblem(answer: Response, status: number, sentence: RegExp): Promise<void> {
  const text = await answer.text();
  expect([answer.status, answer.headers.get("content-type")], text).toEqual([status, "application/problem+json"]);
  const { detail, ...rest } = JSON.parse(text);
  expect(detail).toMatch(sentence);
  expect(rest).toEqual({ type: "about:blank", title: expect.stringMatching(/^[A-Z][a-z ]+$/), status });
}

/** The server still works. */
async function expectServing(): Promise<void> {
  const answer = await ask("/tasks/sobel", { method: "POST", body: photo });
  expectSame(await bytesOf(answer), edgesOfPhoto);
}

/** Every band was enqueued, and none twice. */
function expectEachOnce(published: string[], id: string, bands: number): void {
  expect(published.toSorted()).toEqual(Array.from({ length: bands }, (_, band) => `{${id}}:${band}`).toSorted());
}

async function finished(id: string): Promise<void> {
  await until(async () => (await (await ask(`/jobs/${id}`)).json()).state === "done");
}

/** The events have the job, every band once and in its place, and `done` at the end. */
function expectAllEvents(events: JobEvent[], id: string, plan: { bands: number; rows: number; height: number }): void {
  expect(events.find(({ event }) => event === "job")?.data.id).toBe(id);
  const bands = events.filter(({ event }) => event === "band").map(({ data }) => data);
  bands.sort((a, b) => (a.band ?? 0) - (b.band ?? 0));
  const places = Array.from({ length: plan.bands }, (_, band) => {
    const y = plan.rows * band;
    return { band, y, rows: Math.min(plan.rows, plan.height - y) };
  });
  expect(bands.map(({ band, y, rows }) => ({ band, y, rows }))).toEqual(places);
  for (const { worker } of bands) expect(worker).toMatch(/^thread-\d$/);
  expect(events.at(-1)).toMatchObject({ event: "done", data: { id, state: "done", done: plan.bands } });
  expect(events.filter(({ event }) => event === "done")).toHaveLength(1);
}

/** A body in pieces, without a content-length. */
function chunked(bytes: Uint8Array): ReadableStream<Uint8Array> {
  let at = 0;
  return new ReadableStream({
    pull(controller) {
      if (at >= bytes.length) return controller.close();
      controller.enqueue(bytes.subarray(at, at + 65_536));
      at += 65_536;
    },
  });
}

function flipped(bytes: Uint8Array, at: number): Part {
  const copy = new Uint8Array(bytes);
  copy[at] ^= 1;
  return copy;
}

function wrongAdler(): Part {
  const stream = deflateSync(new Uint8Array(210));
  return claiming(20, 10, flipped(stream, stream.length - 1));
}

function filtered(filter: number): Part {
  const lines = new Uint8Array(210);
  lines[21 * 9] = filter;
  return claiming(20, 10, deflateSync(lines));
}

/** Compresses to some 300 bytes per Mpx. */
function oneColour(): Part {
  return claiming(50_000, 50_000, deflateSync(new Uint8Array(50_001 * 500)));
}

/** 20 × 10 pixels of a palette of four colours; the last pixel is `index`. */
function paletted(index: number): Part {
  const samples = new Uint16Array(200).map((_, i) => (i === 199 ? index : i % 4));
  return Uint8Array.from(
    pngOf({ width: 20, height: 10, colour: PALETTE, depth: 8, samples, palette: Buffer.from("no colours!!") }),
  );
}

async function halfOf(format: "jpeg" | "webp"): Promise<Part> {
  const whole = await sharp(photo)[format]().toBuffer();
  return whole.subarray(0, whole.length / 2);
}

function formOf(picture: Uint8Array): Bytes {
  const head = `--here\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n\r\n`;
  return Buffer.concat([Buffer.from(head), picture, Buffer.from("\r\n--here--\r\n")]);
}
