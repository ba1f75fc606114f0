// Tasks that only a worker in Python has: its offers are all that the coordinator knows. On a real RabbitMQ and a real Redis.
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { encode } from "fast-png";
import { Redis } from "ioredis";
import { collectPixels, onePiece } from "../picture/picture.ts";
import { readImage } from "../picture/read.ts";
import { expectSame, random } from "./pictures.ts";
import { describeWith, type Program, sharedServers, spawnProgram } from "./servers.ts";
import { until } from "./wait.ts";

const [WIDTH, HEIGHT] = [60, 50];
const grey = random(WIDTH * HEIGHT);
const photo = Buffer.from(encode({ width: WIDTH, height: HEIGHT, channels: 1, data: grey }));
const counts = Array.from({ length: 256 }, (_, i) => grey.reduce((sum, value) => sum + Number(value === i), 0));

describeWith(["rabbitmq", "redis", "python"], "a worker in Python offers", () => {
  let origin = "";
  let python: Program;
  let store: Redis;
  const programs: Program[] = [];

  setDefaultTimeout(60_000);
  beforeAll(async () => {
    const { rabbitmq, redis } = await sharedServers();
    store = new Redis(redis.url);
    await store.flushall();
    const env = { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url };
    const coordinator = spawnProgram("coordinator.ts", { ...env, PORT: "0", BAND_PIXELS: "600" });
    const worker = spawnProgram("worker.ts", { ...env, WORKER_NAME: "bun", WORKER_TASKS: "histogram" });
    python = spawnProgram("test/tasks/offers.py", { ...env, WORKER_NAME: "python" }, "python");
    programs.push(coordinator, worker);
    [origin] = await coordinator.waitFor(/http:\/\/127\.0\.0\.1:\d+/, 40_000);
    await worker.waitFor(/: at work\n/, 40_000);
    await python.waitFor(/at work/, 40_000);
    await until(async () => (await (await fetch(`${origin}/tasks`)).text()).includes('"share"'));
  }, 90_000);
  afterAll(async () => {
    python.kill("SIGKILL");
    await python.exited;
    for (const program of programs) program.kill("SIGTERM");
    for (const program of programs) expect(await program.exited, program.out).toBe(0);
    await store.flushall();
    store.disconnect();
  });

  async function post(path: string, body: Uint8Array<ArrayBuffer> | string = photo): Promise<Response> {
    const answer = await fetch(`${origin}/tasks/${path}`, { method: "POST", body });
    expect([path, answer.status, answer.ok ? "" : await answer.text()]).toEqual([path, 200, ""]);
    return answer;
  }
  const pixelsIn = async (answer: Response) =>
    collectPixels(await readImage(onePiece(new Uint8Array(await answer.arrayBuffer()))));

  test("a picture task, with a halo by parameter", async () => {
    for (const radius of [0, 2, 9]) {
      const made = await pixelsIn(await post(`dilate?radius=${radius}`));
      const expected = grey.map((_, i) => {
        const [x, y] = [i % WIDTH, Math.floor(i / WIDTH)];
        let most = 0;
        for (let dy = -radius; dy <= radius; dy++)
          for (let dx = -radius; dx <= radius; dx++)
            most = Math.max(most, grey[mirrored(y + dy, HEIGHT) * WIDTH + mirrored(x + dx, WIDTH)]);
        return most;
      });
      expectSame(made, expected);
    }
  });

  test("a picture task that makes grey of colour", async () => {
    const data = random(WIDTH * HEIGHT * 3);
    const colour = Buffer.from(encode({ width: WIDTH, height: HEIGHT, channels: 3, data }));
    const red = data.filter((_, i) => i % 3 === 0);
    expectSame(await pixelsIn(await post("red", colour)), red);
  });

  test("a data task, with a named merge and bands of its own size", async () => {
    const answer = await post("greys");
    expect(await answer.json()).toEqual(counts);
    const id = crypto.randomUUID();
    expect((await fetch(`${origin}/jobs/${id}?task=greys`, { method: "PUT", body: photo })).status).toBe(202);
    await until(async () => (await (await fetch(`${origin}/jobs/${id}`)).json()).state === "done");
    expect(await (await fetch(`${origin}/jobs/${id}/result`)).json()).toEqual(counts);
    expect(await (await fetch(`${origin}/jobs/${id}`)).json()).toMatchObject({ kind: "data", bands: 4 });
    await fetch(`${origin}/jobs/${id}`, { method: "DELETE" });
  });

  test("list tasks: a range, and a text that is cut", async () => {
    expect(await (await post("squares?n=10", "")).json()).toEqual([0, 1, 4, 9, 16, 25, 36, 49, 64, 81]);
    const lacking = await fetch(`${origin}/tasks/squares`, { method: "POST" });
    const detail = "n (pieces.to): expected a number, got none";
    expect([lacking.status, (await lacking.json()).detail]).toEqual([400, detail]);
    const text = "uno dos\ntres ñandú\n".repeat(100);
    const letters: Record<string, number> = {};
    for (const [letter] of text.matchAll(/\p{L}/gu)) letters[letter] = (letters[letter] ?? 0) + 1;
    expect(await (await post("letters", text)).json()).toEqual(letters);
    const { tasks } = await (await fetch(`${origin}/tasks`)).json();
    const listed = tasks.filter(({ name }: { name: string }) => ["letters", "squares", "greys"].includes(name));
    expect(listed.map(({ name, kind, takes }: Record<string, string>) => [name, kind, takes]).toSorted()).toEqual([
      ["greys", "data", "picture"],
      ["letters", "list", "text"],
      ["squares", "list", null],
    ]);
  });

  test("an invalid task, which is refused with the reason", async () => {
    const answer = await fetch(`${origin}/tasks/wrong`, { method: "POST", body: photo });
    const detail =
      'the task wrong that a worker offers is invalid: expected halo to be a number or an expression of a parameter, got "2*raduis"';
    expect([answer.status, (await answer.json()).detail]).toEqual([422, detail]);
    expect(await (await fetch(`${origin}/tasks`)).text()).not.toContain('"wrong"');
  });

  test("a task of two steps: the first is this project's", async () => {
    expectSame(
      await pixelsIn(await post("share")),
      grey.map((value) => counts[value] % 256),
    );
  });
});

function mirrored(at: number, size: number): number {
  if (at < 0) return -at;
  return at < size ? at : 2 * (size - 1) - at;
}
