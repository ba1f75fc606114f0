// The timeline, the live pipeline, the log of failures and the buttons of a class, in a real Chromium with real workers, one
// of them killed with a band.
import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import type { Browser, Page } from "playwright-core";
import sharp from "sharp";
import { newTrace, record, turnsOf } from "../page/turns.js";
import {
  launch,
  openPage,
  png,
  startCoordinator,
  untilBands,
  untilCount,
  untilPhase,
  untilText,
  violations,
} from "./browser.ts";
import {
  describeWith,
  freePort,
  type Program,
  sharedServers,
  spawnProgram,
  startRabbitMQ,
  startRedis,
} from "./servers.ts";
import { sleep, until } from "./wait.ts";

setDefaultTimeout(60_000);

const photo = png("photo.png", 1500, 1200, 1); // 19 bands of 100,000 pixels
const NAMES = ["w1", "w2", "w10"];

describeWith(["chromium", "rabbitmq", "redis"], "the timeline of worker processes", () => {
  let port: number;
  let servers: Record<string, string>;
  let coordinator: Program;
  let browser: Browser;
  const workers = new Map<string, Program>();

  beforeAll(async () => {
    const { rabbitmq, redis } = await sharedServers();
    servers = { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url, CLASSROOM: "control" };
    port = await freePort();
    coordinator = await startCoordinator(port, servers);
    browser = await launch();
  });
  afterAll(async () => {
    await browser?.close();
    for (const program of [coordinator, ...workers.values()]) program?.kill("SIGKILL");
  });
  afterEach(() => Promise.all(browser.contexts().map((context) => context.close())));

  /** A page that sees three live workers, in the order of their numbers. */
  async function open(options = {}): Promise<Page> {
    for (const name of NAMES) {
      if (workers.has(name)) continue;
      const program = spawnProgram("worker.ts", { ...servers, WORKER_NAME: name });
      workers.set(name, program);
      program.exited.then(() => workers.delete(name));
    }
    const page = await openPage(browser, port, options);
    await page.waitForFunction(() => document.querySelector("#alive")?.textContent?.startsWith("3 workers"));
    return page;
  }

  test("every band is a bar with its phases; a worker that is killed with a band is crossed out, and the band hatched", async () => {
    const page = await open({ reducedMotion: "reduce" });
    await chooseMedian(page);
    await page.setInputFiles("#file", photo);
    await page.waitForFunction(() => {
      const counts = [...document.querySelectorAll("#legend b")].map((count) => Number(count.textContent));
      return counts.length === 3 && counts.every((count) => count > 0);
    });
    // It hangs with a band that it has claimed.
    await until(async () => {
      workers.get("w2")?.kill("SIGSTOP");
      await sleep(200);
      const labels = await page
        .locator("#timeline .turn")
        .evaluateAll((all) => all.map((bar) => bar.getAttribute("aria-label") ?? ""));
      if (labels.some((label) => label.includes("· w2 ·") && !label.includes("stored"))) return true;
      workers.get("w2")?.kill("SIGCONT");
      return false;
    });
    await untilText(page, "#ratio", "18 of 19");
    // Its claim is shown while it has it.
    await untilText(page, "#count-held", "1");
    await untilText(page, "#count-queued", "0");
    expect(await page.locator("#timeline .turn").count()).toBe(19);
    expect(await violations(page)).toEqual([]);
    workers.get("w2")?.kill("SIGKILL");
    await untilPhase(page, "done");

    expect(await lanes(page)).toEqual(["queue", "coordinator", ...NAMES]);
    expect(await page.locator("#timeline .label .lost").allTextContents()).toEqual(["w2"]);
    expect(await page.locator("#legend [data-lost] .worker").allTextContents()).toEqual(["w2"]);
    const line = await page.locator("#log-lines li").allTextContents();
    expect(line).toHaveLength(1);
    const [, band, by] = line[0]?.match(/w2 lost; its band (\d+) went back to the queue, (\S+) has it now$/) ?? [];
    expect(["w1", "w10"]).toContain(by);
    // 19 turns with a result, and the one without. Exactly its band was handed out again.
    await untilCount(page, "#timeline .turn", 20);
    expect(await page.locator("#timeline .turn:has(.gone)").getAttribute("data-band")).toBe(band);
    expect(await page.locator("#timeline .turn:has(.handed)").getAttribute("data-band")).toBe(band);
    for (const phase of ["fetch", "compute", "store"]) {
      expect(await page.locator(`#timeline .turn .${phase}`).count()).toBe(19);
    }
    const figures = await page.locator("#timeline .turn:has(.handed)").getAttribute("aria-label");
    expect(figures).toMatch(
      /^Band \d+ · w10? · in the queue [\d.,]+ ms · fetched and decoded [\d.,]+ ms · computed .* · stored .* · handed out again after w2 was lost$/,
    );
    expect(await violations(page)).toEqual([]);

    for (const width of [390, 1024]) {
      await page.setViewportSize({ width, height: 768 });
      const beyond = () =>
        page.evaluate(() => {
          const right = (of: Element) => of.getBoundingClientRect().right;
          const svg = document.querySelector("#timeline-picture")!;
          return [...svg.querySelectorAll("text")].filter((text) => right(text) > right(svg)).length;
        });
      await until(async () => (await beyond()) === 0);
    }

    // After a reload all is as before, with the same colours.
    const colours = await swatches(page);
    expect(new Set(colours).size).toBe(3);
    await page.reload();
    await untilCount(page, "#timeline .turn", 20);
    expect(await swatches(page)).toEqual(colours);
    expect(await page.locator("#log-lines li").allTextContents()).toEqual(line);
    await page.click("#es");
    await untilText(page, "#timeline-head", "Línea de tiempo");
    expect(await page.locator("#log-lines").textContent()).toContain(`w2 se perdió; su banda ${band} volvió a la cola`);
    expect(await page.locator("#timeline .turn:has(.handed)").getAttribute("aria-label")).toStartWith(
      `Banda ${band} · `,
    );
    expect(await violations(page)).toEqual([]);
  });

  test("a bar marks its band in the mosaic, and the other way round; arrow keys, zoom, and the SVG file", async () => {
    const page = await open();
    await page.setInputFiles("#file", photo);
    await untilPhase(page, "done");
    const bar = (band: number) => page.locator(`#timeline .turn[data-band="${band}"]`);
    const pressed = () =>
      page
        .locator('#timeline .turn[aria-pressed="true"]')
        .evaluateAll((all) => all.map((of) => (of as SVGElement).dataset.band));
    await bar(4).focus();
    await page.keyboard.press("Enter");
    expect(await pressed()).toEqual(["4"]);
    expect(await page.locator("#view-mosaic").getAttribute("aria-pressed")).toBe("true");
    // The frame of the band is white at its right edge, and no other band has one.
    const framed = () =>
      page.locator("#mosaic").evaluate((canvas: HTMLCanvasElement) => {
        const context = canvas.getContext("2d")!;
        const at = (band: number) => Math.floor((((band + 0.5) * 66) / 1200) * canvas.height);
        return Array.from({ length: 19 }, (_, band) => band).filter((band) => {
          const [r, g, b] = context.getImageData(canvas.width - 1, Math.min(canvas.height - 1, at(band)), 1, 1).data;
          return r === 255 && g === 255 && b === 255;
        });
      });
    await until(async () => (await framed()).join() === "4");
    const { width, height } = (await page.locator("#mosaic").boundingBox()) ?? { width: 0, height: 0 };
    await page.locator("#mosaic").click({ position: { x: width / 2, y: (height * (9.5 * 66)) / 1200 } });
    expect(await pressed()).toEqual(["9"]);
    await until(async () => (await framed()).join() === "9");
    await untilFigures(page, "Band 9 · ");

    // The keys go through a lane in the order of time, and to the lanes above and below. The focus scrolls the page, and a
    // bar that comes to lie under the mouse would show its figures instead.
    await page.mouse.move(0, 0);
    const focused = () => page.evaluate(() => (document.activeElement as unknown as SVGElement).dataset.band);
    const order = await bar(4).evaluate((of) =>
      [...of.parentNode!.querySelectorAll<SVGElement>("[data-band]")].map(({ dataset }) => dataset.band),
    );
    await bar(Number(order[0])).focus();
    await page.keyboard.press("ArrowRight");
    expect(await focused()).toBe(order[1]);
    await page.keyboard.press("End");
    expect(await focused()).toBe(order.at(-1));
    await untilFigures(page, `Band ${order.at(-1)} · `);
    await page.keyboard.press("ArrowUp");
    const above = await focused();
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowDown");
    expect(order.includes(above) && order.includes(await focused())).toBe(false); // another lane
    const widthOf = () =>
      page
        .locator("#timeline .time")
        .last()
        .evaluate((time) => Number(time.getAttribute("width")));
    const whole = await widthOf();
    await page.keyboard.press("+");
    await until(async () => Math.abs((await widthOf()) / whole - 2) < 0.01);
    await page.click("#timeline-fit");
    await until(async () => Math.abs((await widthOf()) / whole - 1) < 0.01);

    const saved = page.waitForEvent("download");
    await page.click("#timeline-save");
    const file = await saved;
    expect(file.suggestedFilename()).toBe("photo.timeline.svg");
    const svg = readFileSync(await file.path(), "utf8");
    expect(svg.match(/class="compute"/g)).toHaveLength(19);
    expect(svg).toContain("<title>photo.png</title>");
    // Bars after the first second are not clipped.
    const times = svg.match(/<svg[^>]*class="time"[^>]*>/g) ?? [];
    expect(times.map((time) => time.includes('overflow="visible"'))).toEqual(Array(5).fill(true));
    const { data, info } = await sharp(Buffer.from(svg))
      .flatten({ background: "#fff" })
      .raw()
      .toBuffer({ resolveWithObject: true });
    const colour = (await swatches(page))[0];
    const wanted = [1, 3, 5].map((at) => Number.parseInt((colour ?? "").slice(at, at + 2), 16));
    let pixels = 0;
    for (let i = 0; i < data.length; i += info.channels)
      if (wanted.every((value, c) => data[i + c] === value)) pixels++;
    expect(pixels).toBeGreaterThan(200); // the bars of the first worker are where they were
  });

  test("with one worker asked for there is one lane, whose turns do not overlap; its bars name the machines", async () => {
    const page = await open();
    await page.selectOption("#workers", "1");
    await page.setInputFiles("#file", photo);
    await untilPhase(page, "done");
    await untilCount(page, "#timeline .turn", 19);
    expect(await lanes(page)).toEqual(["queue", "coordinator", "Lane 1"]);
    const spans = await page
      .locator("#timeline .turn .hit")
      .evaluateAll((all) =>
        all.map((hit) => [
          Number.parseFloat(hit.getAttribute("x") ?? ""),
          Number.parseFloat(hit.getAttribute("width") ?? ""),
        ]),
      );
    spans.sort(([a = 0], [b = 0]) => a - b);
    for (const [i, [x = 0]] of spans.entries()) {
      const [before = 0, width = 0] = spans[i - 1] ?? [];
      expect(x).toBeGreaterThanOrEqual(before + width - 0.001);
    }
    const machines = [...new Set(await workersOf(page))].sort((a, b) => NAMES.indexOf(a) - NAMES.indexOf(b));
    await page.click("#timeline-workers");
    await untilCount(page, "#timeline .label", 2 + machines.length);
    expect((await lanes(page)).slice(2)).toEqual(machines);
    expect(await violations(page)).toEqual([]);
  });

  test("where the server allows it, buttons pause and kill a worker", async () => {
    const page = await open();
    await page.setInputFiles("#file", photo);
    await untilPhase(page, "done");
    await page.getByRole("button", { name: "Pause w10" }).waitFor();
    const hidden = await page.locator("#legend").evaluate((list) => list.scrollHeight - list.clientHeight);
    expect(hidden).toBeLessThanOrEqual(0); // the three workers with their buttons are in view
    await page.getByRole("button", { name: "Pause w10" }).click();
    await page.getByRole("button", { name: "Resume w10" }).waitFor();
    await page.getByRole("button", { name: "Resume w10" }).click();
    await page.getByRole("button", { name: "Pause w10" }).waitFor();
    expect(await violations(page)).toEqual([]);
    const killed = workers.get("w1")?.exited;
    await page.getByRole("button", { name: "Kill w1", exact: true }).click();
    await killed;
    expect(workers.has("w1")).toBe(false);
  });
});

describeWith(["chromium", "rabbitmq", "redis"], "the lights", () => {
  test("say which of RabbitMQ and Redis is away, in both languages, and that it is back", async () => {
    const [rabbitmq, redis] = await Promise.all([startRabbitMQ(), startRedis()]);
    const port = await freePort();
    const coordinator = await startCoordinator(port, { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url });
    const browser = await launch();
    const page = await openPage(browser, port);
    const english = await openPage(browser, port);
    await page.click("#es");
    const lit = (name: string, state: string) => page.waitForSelector(`#light-${name}[data-light="${state}"]`);
    for (const [name, shown, server] of [
      ["redis", "Redis", redis],
      ["rabbitmq", "RabbitMQ", rabbitmq],
    ] as const) {
      await Promise.all([lit("redis", "up"), lit("rabbitmq", "up")]);
      expect(await page.locator("#trouble").isVisible()).toBe(false);
      server.pause();
      await lit(name, "down");
      expect(await page.locator("#trouble").textContent()).toMatch(
        new RegExp(`^${shown} (no responde|está conectado y no responde)`),
      );
      await english.waitForSelector(`#light-${name}[data-light="down"]`);
      expect(await english.locator("#trouble").textContent()).toMatch(
        new RegExp(`^${shown} (does not answer|is connected and does not answer)`),
      );
      expect(await violations(english)).toEqual([]);
      server.resume();
    }
    await Promise.all([lit("redis", "up"), lit("rabbitmq", "up")]);
    await browser.close();
    coordinator.kill("SIGKILL");
    await Promise.all([rabbitmq.stop(), redis.stop()]);
  });
});

describeWith(["chromium"], "the page of one process", () => {
  test("a histogram is shown as bars, its JSON on a tab; no lights, no buttons that are not allowed", async () => {
    const port = await freePort();
    const coordinator = await startCoordinator(port);
    const browser = await launch();
    const page = await openPage(browser, port);
    await page.waitForSelector('#task option[value="histogram"]', { state: "attached" });
    await page.selectOption("#task", "histogram");
    await page.setInputFiles("#file", photo);
    await untilPhase(page, "done");
    await page.locator("#bars-picture").waitFor();
    const path = (await page.locator("#bars-picture .values").getAttribute("d")) ?? "";
    expect(path.match(/M/g)).toHaveLength(256);
    expect(await page.locator("#data").isVisible()).toBe(false);
    expect(await violations(page)).toEqual([]);
    await page.click("#data-json");
    expect(JSON.parse((await page.locator("#data").textContent()) ?? "")).toHaveLength(256);
    expect(await page.locator("#bars-picture").isVisible()).toBe(false);
    expect(await violations(page)).toEqual([]);
    expect(await page.locator("#lights").isVisible()).toBe(false);
    expect(await page.locator(".orders").first().isVisible()).toBe(false);
    await untilBands(page, 19);
    expect(await page.locator("#timeline .turn").count()).toBe(19);
    await browser.close();
    coordinator.kill("SIGKILL");
  });
});

describe("turns", () => {
  const job = () => ({ doneBands: new Map(), trace: newTrace() }) as unknown as import("../page/jobs.js").Job;
  const claim = { band: 3, worker: "w1", deliveries: 0, sent: 1, taken: 2, claimed: 3 };
  const lost = { n: 1, what: "lost", at: 9, band: 3, worker: "w1", by: "w2" };
  const next = { ...claim, worker: "w2", deliveries: 1, taken: 8, claimed: 9, lost: ["w1"] };

  test.each([
    [
      "claim, incident, claim",
      [
        ["claim", claim],
        ["incident", lost],
        ["claim", next],
      ],
    ],
    [
      "claim, claim, incident",
      [
        ["claim", claim],
        ["claim", next],
        ["incident", lost],
      ],
    ],
  ] as [string, ["claim" | "incident", object][]][])(
    "a lost turn ends when its band is handed out again: %s",
    (_, events) => {
      const of = job();
      for (const [name, data] of events) record(of.trace, name, data);
      const turns = turnsOf(of);
      expect(turns.map(({ worker, failed }) => [worker, failed])).toEqual([
        ["w1", 9],
        ["w2", undefined],
      ]);
      expect(turns[0]).toMatchObject({ taken: 2, claimed: 3, why: "lost" });
    },
  );

  test("an incident that was heard without its claim is a turn; heard twice, still one", () => {
    const of = job();
    for (let i = 0; i < 2; i++) record(of.trace, "incident", lost);
    expect(turnsOf(of)).toHaveLength(1);
  });
});

/** Each band takes long enough to be caught with a worker. */
async function chooseMedian(page: Page): Promise<void> {
  await page.waitForSelector('#task option[value="median"]', { state: "attached" });
  await page.selectOption("#task", "median");
}

/** The labels of the rows, from above. */
function lanes(page: Page): Promise<(string | null)[]> {
  return page.locator("#timeline .label").evaluateAll((all) =>
    all
      .map((label) => ({ y: label.getBoundingClientRect().y, text: label.querySelector("text")?.textContent ?? null }))
      .sort((a, b) => a.y - b.y)
      .map(({ text }) => text),
  );
}

/** The colours beside the names, from above. */
function swatches(page: Page): Promise<string[]> {
  return page.locator("#timeline .label rect").evaluateAll((all) =>
    all
      .map((rect) => ({ y: rect.getBoundingClientRect().y, fill: rect.getAttribute("fill") ?? "" }))
      .sort((a, b) => a.y - b.y)
      .map(({ fill }) => fill),
  );
}

/** The worker of each bar. */
async function workersOf(page: Page): Promise<string[]> {
  const labels = await page
    .locator("#timeline .turn")
    .evaluateAll((all) => all.map((bar) => bar.getAttribute("aria-label")));
  return labels.map((label) => label?.split(" · ")[1] ?? "");
}

/** Waits until the line under the timeline begins with this. */
async function untilFigures(page: Page, start: string): Promise<void> {
  await until(async () => (await page.locator("#timeline-tell").textContent())?.startsWith(start));
}
