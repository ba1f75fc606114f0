// The page in a real Chromium, against real coordinators and workers. The browser's throttled network makes a job slow
// enough to watch, to cancel or to lose.
import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { deflateSync } from "node:zlib";
import { connect as amqp } from "amqplib";
import { Redis } from "ioredis";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import sharp from "sharp";
import { csvOf, median, serialFraction, summarize, svgOf } from "../page/speedup.js";
import { QUEUE } from "../queue.ts";
import {
  fast,
  launch,
  moduleOf,
  newPage,
  openPage,
  type Picture,
  png,
  slow,
  startCoordinator,
  untilBands,
  untilCount,
  untilPhase,
  untilStill,
  untilText,
  violations,
  WORKERS,
} from "./browser.ts";
import { chunk, ihdr, SIGNATURE } from "./pictures.ts";
import { describeWith, freePort, type Program, sharedServers, spawnProgram, temporaryFolder } from "./servers.ts";
import { until } from "./wait.ts";

setDefaultTimeout(60_000);

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const photo = png("photo.png", 1500, 1200, 1); // 19 bands of 100,000 pixels, 1.8 MB
const text: Picture = { name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("To do: buy film, develop.") };

describeWith(["chromium"], "page", () => {
  let port: number;
  let origin: string;
  let coordinator: Program;
  let browser: Browser;
  let complaints: string[];

  beforeAll(async () => {
    port = await freePort();
    origin = `http://127.0.0.1:${port}`;
    coordinator = await startCoordinator(port);
    browser = await launch();
  });
  afterAll(async () => {
    await browser?.close();
    coordinator?.kill("SIGKILL");
    await coordinator?.exited;
  });
  afterEach(async () => {
    coordinator.kill("SIGCONT"); // in case a test failed after SIGSTOP
    await Promise.all(browser.contexts().map((context) => context.close()));
  });

  /** Opens the page. `complaints` collects the errors of its console, with those of the content security policy. */
  async function open(options: BrowserContextOptions = {}, before?: () => void): Promise<Page> {
    const page = await newPage(browser, options);
    complaints = [];
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) complaints.push(message.text());
    });
    if (before) await page.addInitScript(before);
    await page.goto(origin);
    return page;
  }

  test("sends an image, shows its progress and its edges, and downloads the result automatically", async () => {
    const page = await open();
    const asked = jobIds(page);
    const download = page.waitForEvent("download");
    await slow(page, 1e6);
    await page.setInputFiles("#file", photo);

    // The preview appears at once, and bands finish during the upload.
    await page.waitForFunction(() => (document.querySelector<HTMLCanvasElement>("#mosaic")?.width ?? 0) > 100);
    await page.waitForFunction(() => {
      const [sent, bands] = ["#sent", "#bands"].map((id) => document.querySelector<HTMLProgressElement>(id));
      return sent && bands && sent.value > 0 && sent.value < 1 && bands.value > 0 && bands.value < bands.max;
    });

    const file = await download;
    expect(file.suggestedFilename()).toBe("photo.sobel.png");
    const id = asked[0] ?? "";
    expect(id).toMatch(UUID);
    const result = Buffer.from(await (await fetch(`${origin}/jobs/${id}/result`)).arrayBuffer());
    expect(result.subarray(1, 4).toString()).toBe("PNG");
    expect(readFileSync(await file.path()).equals(result)).toBe(true);

    await untilPhase(page, "done");
    expect(await page.locator("#ratio").textContent()).toBe("19 of 19");
    expect(await page.locator("#bands").evaluate((bar: HTMLProgressElement) => bar.value / bar.max)).toBe(1);
    expect(await page.locator("#percent").textContent()).toBe("100%");
    expect(await page.locator("#meta").textContent()).toContain("1500 × 1200 · 19 bands");
    expect(await page.locator("#time").textContent()).toMatch(/^\d+\.\d s$/);
    await page.waitForFunction(() => document.querySelector<HTMLImageElement>("img.after")?.naturalWidth === 1500);
    expect(await page.locator("img.before").evaluate((image: HTMLImageElement) => image.naturalWidth)).toBe(1500);

    // The legend has the counts of the server. No band is missing or counted twice.
    const { byWorker } = (await (await fetch(`${origin}/jobs/${id}`)).json()) as Job;
    const shares = await legend(page);
    expect(Object.values(shares).reduce((sum, bands) => sum + bands, 0)).toBe(19);
    for (const [name, { bands }] of Object.entries(byWorker)) expect(shares[name]).toBe(bands);
    for (const speed of await page.locator(".speed").allTextContents()) expect(speed).toMatch(/^[\d.,]+ Mpx\/s$|^–$/);

    const again = page.waitForEvent("download");
    await page.click("#download");
    const copy = await again;
    expect(copy.suggestedFilename()).toBe("photo.sobel.png");
    expect(readFileSync(await copy.path()).equals(result)).toBe(true);
    expect(complaints).toEqual([]);
  });

  test("several files are several jobs: two uploads at a time and one event stream; files can be dropped anywhere or pasted", async () => {
    // Counted in the page: Playwright reports the end of a request after the next one has begun.
    const page = await open({}, () => {
      const counts = { uploads: 0, mostUploads: 0, streams: 0, mostStreams: 0 };
      Object.assign(window, { counts });
      const { open } = XMLHttpRequest.prototype;
      XMLHttpRequest.prototype.open = function (method: string, url: string | URL) {
        counts.mostUploads = Math.max(counts.mostUploads, ++counts.uploads);
        this.addEventListener("readystatechange", () => {
          if (this.readyState === 4) counts.uploads--;
        });
        return open.call(this, method, url, true);
      };
      const Source = window.EventSource;
      window.EventSource = class extends Source {
        constructor(url: string | URL) {
          super(url);
          counts.mostStreams = Math.max(counts.mostStreams, ++counts.streams);
        }
        override close() {
          counts.streams--;
          super.close();
        }
      };
    });
    const names: string[] = [];
    page.on("download", (download) => names.push(download.suggestedFilename()));

    await slow(page, 1.5e6); // the first uploads take a second, so the fourth file is added meanwhile
    const three = ["first.png", "second.holiday.png", "third.png"].map((name) => png(name, 640, 480));
    await give(page, "drop", three);
    await untilCount(page, '.job[data-phase="sending"]', 2);
    await give(page, "paste", [png("image.png", 64, 64)]);
    expect(await page.locator('.job[data-phase="sending"] .name').allTextContents()).toEqual([
      "first.png",
      "second.holiday.png",
    ]);
    expect(await page.locator("#name").textContent()).toBe("first.png");
    await untilCount(page, '.job[data-phase="done"]', 4);
    const { mostUploads, mostStreams } = await page.evaluate(() => (window as unknown as { counts: Counts }).counts);
    expect([mostUploads, mostStreams]).toEqual([2, 1]);

    await until(() => names.length === 4);
    expect(names.sort()).toEqual(["first.sobel.png", "image.sobel.png", "second.holiday.sobel.png", "third.sobel.png"]);
    expect(await page.locator(".job .name").allTextContents()).toEqual(["image.png", ...three.map(({ name }) => name)]);

    // Any job can be shown, and an ended one removed.
    await page.getByRole("button", { name: "Show third.png" }).click();
    await untilText(page, "#name", "third.png");
    await page.getByRole("button", { name: "Remove third.png from the list" }).click();
    // The list is rendered at the next frame.
    await untilCount(page, ".job", 3);
    expect(await page.locator("#name").textContent()).not.toBe("third.png");
    expect(complaints).toEqual([]);
  });

  test("another task: a form of its parameters, made from the server's list; a data result is shown as text", async () => {
    const page = await open();
    await page.waitForSelector("#task option:nth-child(5)", { state: "attached" });
    const { tasks } = (await (await fetch(`${origin}/tasks`)).json()) as { tasks: { name: string }[] };
    expect(await page.locator("#task option").allTextContents()).toEqual(tasks.map(({ name }) => name));
    expect(await page.locator("#task").inputValue()).toBe("sobel");
    expect(await page.locator("#params").isVisible()).toBe(false);

    await page.selectOption("#task", "blur");
    // An invalid value is not sent, and the browser reports it.
    await page.fill('#params [name="sigma"]', "0");
    await page.setInputFiles("#file", photo);
    expect(
      await page.locator('#params [name="sigma"]').evaluate((input: HTMLInputElement) => input.validity.valid),
    ).toBe(false);
    expect(await page.locator(".job").count()).toBe(0);

    await page.fill('#params [name="sigma"]', "2.5");
    const blurred = page.waitForEvent("download");
    await page.setInputFiles("#file", photo);
    const picture = await blurred;
    expect(picture.suggestedFilename()).toBe("photo.blur.png");
    const answer = await fetch(`${origin}/tasks/blur?sigma=2.5`, {
      method: "POST",
      body: Uint8Array.from(photo.buffer),
    });
    expect(readFileSync(await picture.path()).equals(Buffer.from(await answer.arrayBuffer()))).toBe(true);

    await page.locator("#compare").waitFor();
    expect(await page.locator("#asked").textContent()).toBe("blur · sigma=2.5");
    expect(await page.locator(".tools").isVisible()).toBe(true);

    await page.selectOption("#task", "histogram");
    expect(await page.locator("#params").isVisible()).toBe(false);
    const counted = page.waitForEvent("download");
    await page.setInputFiles("#file", photo);
    const data = await counted;
    expect(data.suggestedFilename()).toBe("photo.histogram.json");
    const counts = JSON.parse(readFileSync(await data.path(), "utf8"));
    expect(counts.reduce((sum: number, count: number) => sum + count, 0)).toBe(1500 * 1200);
    await page.waitForFunction(() => document.querySelector("#data")?.textContent?.startsWith("["));
    expect(JSON.parse((await page.locator("#data").textContent()) ?? "")).toEqual(counts);
    // Data cannot be compared or enlarged.
    expect(await page.locator(".tools").isVisible()).toBe(false);

    // A job of two steps, without its optional parameter.
    await page.selectOption("#task", "threshold");
    const parted = page.waitForEvent("download");
    await page.setInputFiles("#file", photo);
    expect((await parted).suggestedFilename()).toBe("photo.threshold.png");
    await page.waitForFunction(() => document.querySelector<HTMLImageElement>("img.after")?.naturalWidth === 1500);
    // Each job shows its task and parameters, a derived one included, and after a reload too.
    const asked = [/^threshold · level=\d+$/, /^histogram$/, /^blur · sigma=2\.5$/];
    const shown = () => page.locator(".job .asked").allTextContents();
    for (const [at, text] of (await shown()).entries()) expect(text).toMatch(asked[at]);
    await page.reload();
    await until(async () => (await shown()).length === 3);
    for (const [at, text] of (await shown()).entries()) expect(text).toMatch(asked[at]);
    expect(complaints).toEqual([]);
  });

  test("a task without a picture is started with a button; another takes a text; the experiment measures them", async () => {
    const page = await open();
    await page.waitForSelector("#task option:nth-child(5)", { state: "attached" });
    await page.selectOption("#task", "primes");
    expect([await page.isVisible(".drop"), await page.isVisible("#start")]).toEqual([false, true]);
    if (!(await page.isVisible("[name=below]"))) await page.click("#more");
    await page.fill("[name=below]", "1000000");
    const saved = page.waitForEvent("download");
    await page.click("#start");
    await page.waitForSelector("#data:not([hidden])");
    await page.waitForFunction(() => document.querySelector("#data")?.textContent === "78498");
    expect((await saved).suggestedFilename()).toBe("primes.json");
    expect(await page.textContent("#name")).toBe("primes");
    expect(await page.textContent("#asked")).toBe("primes · below=1000000");
    expect(await page.textContent("#ratio")).toBe("64 of 64");
    expect(await page.isDisabled("#measure")).toBe(false);
    await page.selectOption("#task", "words");
    expect([await page.isVisible(".drop"), await page.isVisible("#start")]).toEqual([true, false]);
    expect(await page.textContent("#drop-what")).toBe("Drop a text");
    await page.setInputFiles("#file", {
      name: "text.txt",
      mimeType: "text/plain",
      buffer: Buffer.from("uno dos\ntres\n"),
    });
    await page.waitForFunction(() => document.querySelector("#data")?.textContent?.includes('"words": 3'));
    await page.selectOption("#task", "sobel");
    expect([await page.textContent("#drop-what"), await page.isVisible("#start")]).toEqual(["Drop an image", false]);
    expect(complaints).toEqual([]);
  });

  test("entered parameters are kept when the language or the list of tasks changes; new parameters of a task appear", async () => {
    const own = await freePort();
    const file = join(temporaryFolder("task"), "demo.ts");
    const start = (params: object, others = "") => {
      writeFileSync(file, moduleOf("demo", params));
      return startCoordinator(own, { TASKS: file + others });
    };
    const number = { type: "number", minimum: 0 };
    let program = await start({ weight: { ...number, default: 2 }, gain: { ...number, default: 3 } });
    const page = await openPage(browser, own);
    await page.waitForSelector('#task option[value="demo"]', { state: "attached" });
    await page.selectOption("#task", "demo");
    await page.fill('#params [name="weight"]', "7.5");
    const shown = () =>
      page.locator("#params [name]").evaluateAll((all) => all.map((input) => (input as HTMLInputElement).value));
    await page.click("#es");
    expect(await shown()).toEqual(["7.5", "3"]);
    await page.click("#en");
    expect(await shown()).toEqual(["7.5", "3"]);

    const again = async (params: object, others = "") => {
      program.kill();
      await program.exited;
      program = await start(params, others);
    };
    await again({ weight: { ...number, default: 2 }, gain: { ...number, default: 3 } }, ",test/tasks/negative.ts");
    await page.focus('#params [name="weight"]');
    await page.waitForSelector('#task option[value="negative"]', { state: "attached" });
    expect(await page.locator("#task").inputValue()).toBe("demo");
    expect(await shown()).toEqual(["7.5", "3"]);
    expect(await page.evaluate(() => (document.activeElement as HTMLInputElement).name)).toBe("weight");

    // The task has new parameters. An untouched field gets the new default.
    const choice = { type: "string", enum: ["up", "down"], default: "up" };
    await again({ weight: number, gain: { ...number, default: 4 }, way: choice }, ",test/tasks/negative.ts");
    await page.waitForSelector('#params [name="way"]');
    expect(await shown()).toEqual(["7.5", "4", "up"]);
    const sent = page.waitForRequest((request) => request.method() === "PUT");
    await page.setInputFiles("#file", png("a.png", 30, 20));
    expect(new URL((await sent).url()).search).toBe("?task=demo&weight=7.5&gain=4&way=up");
    await untilPhase(page, "done");
    program.kill();
    await program.exited;
  });

  test("parameters: one without a default is optional, an empty field shows its default, each has its description", async () => {
    const own = await freePort();
    const file = join(temporaryFolder("task"), "demo.ts");
    const params = {
      invert: { type: "boolean", description: "black becomes white" },
      keep: { type: "boolean", default: true },
      label: { type: "string", default: "edges", description: "a text on the picture" },
    };
    writeFileSync(file, moduleOf("demo", params));
    const program = await startCoordinator(own, { TASKS: file });
    const page = await openPage(browser, own, { viewport: { width: 375, height: 800 } });
    await page.waitForSelector('#task option[value="demo"]', { state: "attached" });
    await page.selectOption("#task", "demo");
    const invert = page.getByRole("combobox", { name: "invert", exact: true });
    const label = page.getByRole("textbox", { name: "label", exact: true });
    expect(await invert.locator("option").allTextContents()).toEqual(["automatic", "yes", "no"]);
    const sent: string[] = [];
    page.on("request", (request) => {
      if (request.method() === "PUT") sent.push(new URL(request.url()).search);
    });
    const send = async (nth: number) => {
      await page.setInputFiles("#file", png("a.png", 30, 20));
      await untilCount(page, '.job[data-phase="done"]', nth);
    };
    await send(1);
    expect(await invert.isVisible()).toBe(false); // the picture is not covered
    await page.click("#more");
    await invert.selectOption("no");
    await label.fill("");
    await send(2);
    expect(sent).toEqual(["?task=demo&keep=true&label=edges", "?task=demo&invert=false&keep=true"]);
    expect(await page.locator(".job .asked").allTextContents()).toEqual([
      "demo · invert=false · keep=true · label=edges",
      "demo · keep=true · label=edges",
    ]);
    await page.click("#more");
    expect(await label.getAttribute("placeholder")).toBe("default: edges");

    // Visible without hovering.
    expect(await page.getByText("black becomes white").isVisible()).toBe(true);
    const about = (await label.getAttribute("aria-describedby")) ?? "";
    expect(await page.locator(`#${about}`).textContent()).toBe("a text on the picture");
    // The focus ring takes 6 px.
    for (const name of ["invert", "keep", "label"]) {
      const [words, field] = [
        page.locator(`#params label`, { hasText: name }),
        page.locator(`#params [name="${name}"]`),
      ];
      const [left, right] = [(await words.boundingBox())!, (await field.boundingBox())!];
      expect(right.x - left.x - left.width).toBeGreaterThanOrEqual(10);
    }
    expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)).toBeLessThanOrEqual(0);
    expect(await violations(page)).toEqual([]);

    await page.click("#es");
    expect(await invert.locator("option").allTextContents()).toEqual(["automático", "sí", "no"]);
    expect(await invert.inputValue()).toBe("false");
    expect([await label.inputValue(), await label.getAttribute("placeholder")]).toEqual(["", "por defecto: edges"]);
    program.kill();
    await program.exited;
  });

  test("a format that the browser cannot show is processed, and its type is shown instead of a preview", async () => {
    const page = await open();
    const buffer = await sharp(photo.buffer).tiff().toBuffer();
    await slow(page, 6e5);
    const download = page.waitForEvent("download");
    await page.setInputFiles("#file", { name: "scan.tiff", mimeType: "image/tiff", buffer });
    // The server reads TIFF whole, so the job exists only after the last byte. That is no error.
    await page.waitForFunction(() => document.querySelector("#say-detail")?.textContent?.includes("cannot show"));
    expect((await download).suggestedFilename()).toBe("scan.sobel.png");
    expect(await legend(page).then((shares) => Object.values(shares).reduce((sum, bands) => sum + bands))).toBe(19);
    expect(await page.locator(".kind").textContent()).toBe("TIFF");
    await page.locator("img.after").waitFor();
    expect(await page.locator("img.before").isVisible()).toBe(false);
    expect(complaints).toEqual([]);
  });

  test("a file that is not an image: shows and announces the server's message, and offers no retry", async () => {
    const page = await open();
    await page.setInputFiles("#file", text);
    await untilPhase(page, "failed");
    const url = `${origin}/jobs/${crypto.randomUUID()}?task=sobel`;
    const problem = (await (await fetch(url, { method: "PUT", body: text.buffer.toString() })).json()) as {
      detail: string;
    };
    expect(problem.detail.length).toBeGreaterThan(10);
    expect(await page.locator("#say-lead").textContent()).toBe("This is not an image");
    expect(await page.locator("#say-detail").textContent()).toBe(problem.detail);
    expect(await page.locator("#announce").textContent()).toContain(problem.detail);
    expect(await page.locator("#retry").isVisible()).toBe(false);
    expect(await page.locator("#announce").getAttribute("role")).toBe("status");

    // The next job runs.
    await page.setInputFiles("#file", png("good.png", 30, 20));
    await untilPhase(page, "done");
  });

  test("the name of a file is shown as text, never as HTML", async () => {
    const page = await open();
    const name = '<img src=x onerror="document.title=1">.png';
    await page.setInputFiles("#file", { ...png(name, 30, 20), name });
    await untilPhase(page, "done");
    expect(await page.locator("#name").textContent()).toBe(name);
    expect(await page.locator(".job .name").textContent()).toBe(name);
    expect(await page.title()).toBe("Sobel, distributed");
    expect(complaints).toEqual([]);
  });

  test("sends the chosen number of workers, or none for all", async () => {
    const page = await open();
    await untilCount(page, "#workers option", WORKERS + 1);
    expect(await page.locator("#workers option").allTextContents()).toEqual([`all (${WORKERS})`, "1", "2"]);
    expect(await page.locator("#alive").textContent()).toBe("2 workers ready");
    expect(await page.locator("#workers").inputValue()).toBe("");

    const queries: string[] = [];
    page.on("request", (request) => {
      if (request.method() === "PUT") queries.push(new URL(request.url()).search);
    });
    await page.setInputFiles("#file", png("all.png", 30, 20));
    await page.waitForSelector('.job[data-phase="done"]');
    await page.selectOption("#workers", "1");
    await page.setInputFiles("#file", png("one.png", 30, 20));
    await untilCount(page, '.job[data-phase="done"]', 2);
    expect(queries).toEqual(["?task=sobel", "?task=sobel&workers=1"]);
  });

  test("cancel aborts the upload, deletes the job and starts the next one", async () => {
    const page = await open();
    const asked = jobIds(page);
    await slow(page, 1e6);
    await page.setInputFiles("#file", [photo, png("next.png", 30, 20)]);
    await untilBands(page, 1);
    const deleted = page.waitForResponse((answer) => answer.request().method() === "DELETE");
    coordinator.kill("SIGSTOP"); // a hanging server must not delay it
    await page.locator("#cancel").click();
    await untilPhase(page, "cancelled");
    coordinator.kill("SIGCONT");
    expect((await deleted).status()).toBe(204);
    expect(await page.locator("#lead").textContent()).toBe("Cancelled");
    expect(await page.locator("#retry").evaluate((button) => button === document.activeElement)).toBe(true);
    await page.waitForSelector('.job:nth-child(2)[data-phase="done"]');
    await until(async () => (await fetch(`${origin}/jobs/${asked[0]}`)).status === 404);
    expect(await page.locator(".job").first().getAttribute("data-phase")).toBe("cancelled");

    // A retry is a new job.
    await fast(page);
    await page.locator("#retry").click();
    await page.waitForSelector('.job:nth-child(1)[data-phase="done"]');
    expect(new Set(asked).size).toBe(3);
    expect(complaints).toEqual([]);
  });

  test("an upload that was cut by a crash of the server resumes automatically, under the same id", async () => {
    const page = await open();
    const asked = jobIds(page);
    await slow(page, 1e6);
    await page.setInputFiles("#file", photo);
    await untilBands(page, 1);
    coordinator.kill("SIGKILL");
    await coordinator.exited;
    await untilPhase(page, "interrupted");
    expect(await page.locator("#say-lead").textContent()).toBe("The connection was lost");
    expect(await page.locator("#say-detail").textContent()).toMatch(
      /^It resumes when the server answers\. .* Next attempt in \d+ s\.$/,
    );
    await untilText(page, "#alive", "The server does not answer.");

    await fast(page);
    const download = page.waitForEvent("download");
    coordinator = await startCoordinator(port);
    expect((await download).suggestedFilename()).toBe("photo.sobel.png");
    expect(asked.length).toBeGreaterThan(1);
    expect(new Set(asked).size).toBe(1);
    // The download starts with the last event, the figures are rendered at the next frame.
    await untilPhase(page, "done");
    expect(await page.locator("#ratio").textContent()).toBe("19 of 19");
    expect(await page.locator("#log-lines").textContent()).toContain("The coordinator is away");
  });

  test("a busy server: the retry waits for Retry-After", async () => {
    const page = await open();
    const asked: number[] = [];
    let refuse = true;
    await page.route("**/jobs/*?task=sobel", async (route) => {
      asked.push(Date.now());
      if (!refuse) return route.continue();
      refuse = false;
      await route.fulfill({
        status: 503,
        headers: { "retry-after": "3", "content-type": "application/problem+json" },
        body: JSON.stringify({ detail: "too many uploads in progress (64); retry later" }),
      });
    });
    await page.setInputFiles("#file", png("a.png", 30, 20));
    await untilPhase(page, "interrupted");
    expect(await page.locator("#say-lead").textContent()).toBe("The server is busy");
    await untilPhase(page, "done");
    expect(asked).toHaveLength(2);
    expect(asked[1] - asked[0]).toBeGreaterThanOrEqual(3000);
  });

  test("a reload keeps every job: accepted ones are followed, the others are sent, finished ones are listed", async () => {
    const page = await open();
    const asked = jobIds(page);
    page.on("dialog", (dialog) => {
      throw new Error(`asked: ${dialog.message()}`);
    });
    const names: string[] = [];
    page.on("download", (download) => names.push(download.suggestedFilename()));
    await page.setInputFiles("#file", png("before.png", 300, 200));
    await page.waitForSelector('.job[data-phase="done"]');
    await until(() => names.length === 1);
    await slow(page, 1e6);
    await page.setInputFiles("#file", [photo, png("second.png", 700, 500), png("third.png", 60, 50)]);
    await untilBands(page, 1);
    // The files are stored in the background. Until then the page asks before it is left.
    await page.waitForFunction(() => dispatchEvent(new Event("beforeunload", { cancelable: true })));

    await fast(page);
    await page.reload();
    await untilCount(page, '.job[data-phase="done"]', 4);
    await until(() => names.length === 4);
    expect(names.sort()).toEqual(["before.sobel.png", "photo.sobel.png", "second.sobel.png", "third.sobel.png"]);
    expect(new Set(asked).size).toBe(4); // the same ids as before
    expect(await page.locator(".job .name").allTextContents()).toEqual([
      "photo.png",
      "second.png",
      "third.png",
      "before.png",
    ]);

    // After another reload nothing is sent. The results are available while the server keeps them.
    const before = asked.length;
    await page.reload();
    await untilCount(page, '.job[data-phase="done"]', 4);
    await page.getByRole("button", { name: "Show before.png" }).click();
    await page.locator("img.after").waitFor();
    expect(await page.locator("img.before").isVisible()).toBe(true); // its stored preview
    const again = page.waitForEvent("download");
    await page.click("#download");
    expect((await again).suggestedFilename()).toBe("before.sobel.png");
    expect(asked).toHaveLength(before);
    expect(names).toHaveLength(5);
    await fetch(`${origin}/jobs/${asked[0]}`, { method: "DELETE" });
    await page.reload();
    await untilCount(page, '.job[data-phase="expired"]', 1);
    expect(complaints).toEqual([]);
  });

  test("tabs of one browser know of each other's jobs: started, cancelled, sent again and removed", async () => {
    const page = await open();
    const other = await page.context().newPage();
    await other.goto(page.url());
    await other.waitForSelector("#alive[data-ready]");
    let downloads = 0;
    other.on("download", () => downloads++);
    await slow(page, 5e5);
    await page.setInputFiles("#file", photo);
    await untilBands(other, 1);
    expect(await other.locator(".job .name").textContent()).toBe("photo.png");
    await other.click("#cancel");
    await untilPhase(page, "cancelled");
    await fast(page);
    await page.click("#retry");
    await untilPhase(other, "done");
    await untilCount(other, ".job", 1);

    const third = await page.context().newPage();
    await third.goto(page.url().replace(/#.*/, ""));
    await untilPhase(third, "done");
    await third.getByRole("button", { name: "Again with 1 worker" }).click();
    await untilPhase(third, "done");
    await untilCount(page, '.job[data-phase="done"]', 2);
    await other.locator(".job .forget").first().click();
    for (const tab of [page, third]) await untilCount(tab, ".job", 1);
    await untilPhase(third, "done"); // the one that is left
    expect(downloads).toBe(0); // only the tab that sends a picture saves its result
  });

  test("an upload whose tab is closed goes on in another tab, and in one only", async () => {
    const page = await open();
    const [other, third] = [await page.context().newPage(), await page.context().newPage()];
    const asked = [jobIds(other), jobIds(third)];
    for (const tab of [other, third]) {
      await tab.goto(page.url());
      await tab.waitForSelector("#alive[data-ready]");
    }
    // The upload lasts until the tab is closed. A throttled one would be sent to its end by the closing tab.
    await page.evaluate(() => {
      XMLHttpRequest.prototype.send = () => {};
    });
    await page.setInputFiles("#file", photo);
    await untilCount(other, '.job[data-phase="sending"]', 1);
    await page.waitForFunction(() => dispatchEvent(new Event("beforeunload", { cancelable: true })));
    await page.close();
    for (const tab of [other, third]) await tab.waitForSelector('.job[data-phase="done"]');
    expect(asked.flat()).toHaveLength(1);
  });

  test("without Web Locks, as on plain HTTP from another host, the user sends the picture of a closed tab from here", async () => {
    const page = await open();
    await page.context().addInitScript(() => {
      Object.defineProperty(Navigator.prototype, "locks", { value: undefined });
    });
    await page.goto(`${origin}/?`);
    await page.waitForSelector("#alive[data-ready]");
    await page.evaluate(() => {
      XMLHttpRequest.prototype.send = () => {};
    });
    const other = await page.context().newPage();
    await other.goto(`${origin}/?`);
    await page.setInputFiles("#file", photo);
    await other.waitForSelector('.job[data-phase="elsewhere"]');
    await page.waitForFunction(() => dispatchEvent(new Event("beforeunload", { cancelable: true })));
    await page.close();
    await other.getByRole("button", { name: "Retry" }).first().click();
    await untilPhase(other, "done");
    await untilCount(other, ".job", 1);
  });

  test("works with storage disabled", async () => {
    const page = await open({}, () => {
      for (const name of ["indexedDB", "localStorage", "sessionStorage"]) {
        Object.defineProperty(window, name, {
          get() {
            throw new DOMException("denied", "SecurityError");
          },
        });
      }
    });
    await page.setInputFiles("#file", png("a.png", 30, 20));
    await untilPhase(page, "done");
    expect(complaints).toEqual([]);
  });

  test("job ids are UUIDs without crypto.randomUUID, which is missing on plain HTTP from another host", async () => {
    const page = await open({}, () => {
      Object.defineProperty(Crypto.prototype, "randomUUID", { value: undefined });
    });
    const asked = jobIds(page);
    await page.setInputFiles("#file", [png("a.png", 30, 20), png("b.png", 30, 20)]);
    await untilCount(page, '.job[data-phase="done"]', 2);
    expect(asked).toHaveLength(2);
    for (const id of asked) expect(id).toMatch(UUID);
    expect(asked[0]).not.toBe(asked[1] ?? "");
  });

  test("Spanish if the browser prefers it, with no text left in English; the choice of a language is remembered", async () => {
    const page = await open({ locale: "es-ES" });
    expect(await page.getAttribute("html", "lang")).toBe("es");
    expect(await page.title()).toBe("Sobel, distribuido");
    expect(await page.locator(".flow li").allTextContents()).toEqual(["dividir", "encolar", "procesar", "unir"]);
    await page.setInputFiles("#file", photo);
    await untilPhase(page, "done");
    expect(await page.locator("#ratio").textContent()).toBe("19 de 19");
    expect(await page.locator("#announce").textContent()).toBe("photo.png: Listo");
    await untilText(page, "#alive", "2 workers listos");

    // Every text and label marked for translation differs from the English one, except words that are the same in both.
    const shown = () => {
      const all = document.querySelectorAll<HTMLElement>("[data-t], [data-label]");
      return [...all].flatMap((node) => {
        const { t, label } = node.dataset;
        const text = [t ? `${t}: ${node.textContent}` : "", label ? `${label}: ${node.ariaLabel}` : ""];
        return text.filter(Boolean);
      });
    };
    const spanish = await page.evaluate(shown);
    await page.click("#en");
    expect(await page.getAttribute("html", "lang")).toBe("en");
    expect(await page.title()).toBe("Sobel, distributed");
    await untilText(page, "#ratio", "19 of 19");
    const english = await page.evaluate(shown);
    expect(english.length).toBeGreaterThan(40);
    expect(new Set(spanish.filter((text) => english.includes(text)))).toEqual(
      new Set(["workers: Workers", "before: Original"]),
    );
    await page.reload();
    expect(await page.getAttribute("html", "lang")).toBe("en");
    await page.click("#es");
    expect(await page.title()).toBe("Sobel, distribuido");
  });

  test("by keyboard: the controls are reached in order, show the focus and have a name", async () => {
    const page = await open();
    const chooser = page.waitForEvent("filechooser"); // early, because Chromium enables it in the background
    const ring = () => page.locator(".drop.button").evaluate((zone) => getComputedStyle(zone).outlineStyle);
    const focused = () => page.evaluate(() => document.activeElement?.id);
    expect(await ring()).toBe("none");
    for (const id of ["wall-link", "en", "es", "file"]) {
      await page.keyboard.press("Tab");
      expect(await focused()).toBe(id);
    }
    expect(await ring()).toBe("solid");
    expect(await page.getByLabel("Choose a file").getAttribute("id")).toBe("file");
    await page.keyboard.press("Enter");
    expect((await chooser).isMultiple()).toBe(true);
    for (const name of ["Hills", "Rings", "A town"]) {
      await page.keyboard.press("Tab");
      expect(await page.evaluate(() => document.activeElement?.ariaLabel)).toStartWith(name);
    }
    for (const id of ["task", "workers", "more"]) {
      await page.keyboard.press("Tab");
      expect(await focused()).toBe(id);
    }
    await page.keyboard.press("Enter");
    for (const id of ["cut", "save"]) {
      await page.keyboard.press("Tab");
      expect(await focused()).toBe(id);
    }
  });

  test("before and after: a slider for keyboard and pointer, zoom to the pixels, and moving the enlarged picture", async () => {
    const page = await open();
    await page.setInputFiles("#file", photo);
    await page.locator("#compare").waitFor();
    const slider = page.getByRole("slider", { name: "How much of the original is shown" });
    const value = async () => Number(await slider.getAttribute("aria-valuenow"));
    const clip = () => page.locator(".over").evaluate((over: HTMLElement) => over.style.clipPath);
    expect(await value()).toBe(50);
    expect(await slider.getAttribute("aria-valuetext")).toBe("50% original");
    await slider.focus();
    const half = await clip();
    await page.keyboard.press("ArrowRight");
    expect(await value()).toBe(52);
    expect(await clip()).not.toBe(half);
    await page.keyboard.press("PageDown");
    expect(await value()).toBe(42);
    await page.keyboard.press("Home");
    expect(await value()).toBe(0);
    await page.keyboard.press("End");
    expect(await value()).toBe(100);

    const box = (await page.locator("#compare").boundingBox())!;
    await page.mouse.move(box.x + box.width / 2, box.y + 40);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width / 2 - 80, box.y + 40, { steps: 4 });
    await page.mouse.up();
    expect(await value()).toBeLessThan(50);

    const place = () => page.locator("img.after").evaluate((image) => image.getBoundingClientRect().toJSON());
    await page.click("#zoom-full");
    expect((await place()).width).toBe(1500);
    expect(await page.locator("#zoom").textContent()).toBe("100%");
    for (let i = 0; i < 4; i++) await page.click("#zoom-in");
    expect(await page.locator("img.after").evaluate((image) => getComputedStyle(image).imageRendering)).toBe(
      "pixelated",
    );
    const { x } = await place();
    await page.locator("#compare").focus();
    await page.keyboard.press("ArrowRight");
    expect((await place()).x).toBe(x - 60);
    await page.keyboard.press("0");
    expect((await place()).width).toBeLessThan(box.width + 1);
    expect(complaints).toEqual([]);
  });

  test("before and after by touch: two fingers zoom, in any direction; the one that stays moves the picture", async () => {
    const page = await open({ hasTouch: true, isMobile: true, viewport: { width: 390, height: 844 } });
    await page.setInputFiles("#file", photo);
    await page.locator("#compare").waitFor();
    await untilStill(page);
    const box = (await page.locator("#compare").boundingBox())!;
    const client = await page.context().newCDPSession(page);
    const [x, y] = [box.x + box.width / 2 - 60, box.y + box.height / 2];
    const touch = (type: "touchStart" | "touchMove" | "touchEnd", points: number[][], first = 0) =>
      client.send("Input.dispatchTouchEvent", {
        type,
        touchPoints: points.map(([x, y], i) => ({ x: x!, y: y!, id: first + i })),
      });
    const zoom = async () => Number.parseFloat((await page.locator("#zoom").textContent()) ?? "");
    const split = () => page.getByRole("slider").getAttribute("aria-valuenow");
    for (const [dx, dy] of [
      [1, 0],
      [0, 1],
    ] as const) {
      await page.click("#zoom-fit");
      const [before, at] = [await zoom(), await split()];
      const points = (apart: number) => [
        [x, y],
        [x + dx * apart, y + dy * apart],
      ];
      await touch("touchStart", points(40).slice(0, 1));
      await touch("touchStart", points(40));
      for (let apart = 45; apart <= 120; apart += 5) await touch("touchMove", points(apart));
      await page.waitForTimeout(100); // the browser delivers moves with its frames
      const after = await zoom();
      expect(after / before).toBeGreaterThan(2.5);
      await touch("touchEnd", points(120).slice(1), 1);
      const transform = () => page.locator(".after").evaluate((image: HTMLElement) => image.style.transform);
      const placed = await transform();
      for (let by = 0; by <= 30; by += 10) await touch("touchMove", [[x + by, y]]);
      await touch("touchEnd", []);
      await page.waitForTimeout(100);
      expect(await transform()).not.toBe(placed);
      expect([await zoom(), await split()]).toEqual([after, at]);
    }
  });

  test("automatic downloads can be switched off for good; the job is copied as a curl command", async () => {
    const page = await open({ permissions: ["clipboard-read", "clipboard-write"] });
    const names: string[] = [];
    page.on("download", (download) => names.push(download.suggestedFilename()));
    await page.click("#more");
    await page.uncheck("#save");
    await page.setInputFiles("#file", png("a.png", 30, 20));
    await page.locator("#compare").waitFor();
    await page.reload();
    expect(await page.isChecked("#save")).toBe(false);
    await page.selectOption("#workers", "1");
    const { buffer } = png("it's b.png", 30, 20);
    await page.setInputFiles("#file", { name: "it's b.png", mimeType: "image/png", buffer });
    await untilCount(page, '.job[data-phase="done"]', 2);
    await page.locator("#compare").waitFor();
    expect(names).toEqual([]);
    await page.click("#download");
    await until(() => names.length === 1);
    expect(names).toEqual(["it's b.sobel.png"]);

    await page.click("#curl");
    await untilText(page, "#curl-done", "Copied");
    expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(
      `curl --data-binary @'it'\\''s b.png' '${origin}/tasks/sobel?workers=1' -o 'it'\\''s b.sobel.png'`,
    );
  });

  test("the experiment times each run from its PUT to its last band, and saves its figures as CSV and SVG", async () => {
    const page = await open();
    await page.click("#more");
    await page.uncheck("#save");
    await page.setInputFiles("#file", photo);
    await untilPhase(page, "done");
    // A clock that only the steps of a run move: 10 s until its events are followed, 4 s divided by the workers plus
    // 0.1 s a run until its last band, 10 s until the job is deleted.
    await page.evaluate(() => {
      let now = 1e6;
      let runs = 0;
      let band = 0;
      performance.now = () => now;
      const { open } = XMLHttpRequest.prototype;
      XMLHttpRequest.prototype.open = function (method: string, url: string | URL) {
        const workers = Number(new URL(url, location.href).searchParams.get("workers"));
        band = 4000 / workers + 100 * runs++;
        return open.call(this, method, url, true);
      };
      window.EventSource = class extends EventSource {
        constructor(url: string | URL) {
          super(url);
          this.addEventListener("unknown", () => (now += 10_000));
          this.addEventListener("done", () => (now += band));
        }
      };
      const { fetch } = window;
      window.fetch = Object.assign((...request: Parameters<typeof fetch>) => {
        if (request[1]?.method === "DELETE") now += 10_000;
        return fetch(...request);
      }, fetch);
    });
    const runs: number[] = [];
    const measured = jobIds(page);
    page.on("request", (request) => {
      if (request.method() === "PUT") runs.push(Number(new URL(request.url()).searchParams.get("workers")));
    });
    await page.click("#measure");
    await page.locator("#stop").waitFor();
    await page.locator("#stop").waitFor({ state: "hidden" });
    expect(runs).toEqual([2, 1, 2, 1, 2, 1, 2]); // the first is the warm-up

    const download = page.waitForEvent("download");
    await page.click("#csv");
    expect((await download).suggestedFilename()).toBe("photo.speedup.csv");
    const csv = readFileSync(await (await download).path(), "utf8");
    const about = new RegExp(`,photo.png,sobel,,1,${availableParallelism()},\\d{4}-\\d\\d-\\d\\dT[\\d:.]+Z$`);
    const lines = csv.trimEnd().split("\r\n");
    for (const line of lines.slice(1)) expect(line).toMatch(about);
    expect([lines[0], ...lines.slice(1).map((line) => line.replace(about, ""))]).toEqual([
      "workers,run_1_ms,run_2_ms,run_3_ms,median_ms,speedup,efficiency,ideal_speedup,amdahl_speedup,serial_fraction,picture,task,parameters,machines,cores,date",
      "1,4100.0,4300.0,4500.0,4300.0,1.0000,1.0000,1.0000,1.0000,0.1163",
      "2,2200.0,2400.0,2600.0,2400.0,1.7917,0.8958,2.0000,1.7917,0.1163",
    ]);
    expect(await page.locator("#rows tr").count()).toBe(WORKERS);
    expect(await page.locator("#charts svg").count()).toBe(3);
    expect(await page.locator("#serial").textContent()).toBe("Serial fraction (Amdahl): 11.6%");
    const drawing = page.waitForEvent("download");
    await page.click("#svg");
    const svg = readFileSync(await (await drawing).path(), "utf8");
    expect((await sharp(Buffer.from(svg)).metadata()).format).toBe("svg");

    // Its jobs are deleted, and it can be stopped.
    await until(async () => (await fetch(`${origin}/jobs/${measured.at(-1)}`)).status === 404);
    expect(await violations(page)).toEqual([]);
    await slow(page, 3e6);
    const before = measured.length;
    await page.click("#measure");
    // A job that does not exist yet cannot be deleted: the browser would complain of the answer.
    await until(async () => measured.length > before && (await fetch(`${origin}/jobs/${measured.at(-1)}`)).ok);
    await page.click("#stop");
    await untilText(page, "#measuring", "Stopped.");
    expect(complaints).toEqual([]);
  });

  test("216 megapixels: the canvas and the fetched bands are no larger than the screen", async () => {
    const own = await freePort();
    const program = await startCoordinator(own, { BAND_PIXELS: "" });
    const page = await newPage(browser, { viewport: { width: 1280, height: 800 } });
    const widths: number[] = [];
    const bands: string[] = [];
    const flying = new Set<string>();
    let most = 0;
    page.on("request", (request) => {
      const url = new URL(request.url());
      if (!url.pathname.includes("/bands/")) return;
      widths.push(Number(url.searchParams.get("width")));
      bands.push(url.pathname);
      most = Math.max(most, flying.add(request.url()).size);
    });
    page.on("requestfinished", (request) => flying.delete(request.url()));
    page.on("requestfailed", (request) => flying.delete(request.url()));
    await page.goto(`http://127.0.0.1:${own}`);
    await page.setInputFiles("#file", stripes(18_000, 12_000));
    const download = page.waitForEvent("download");
    await untilPhase(page, "done");
    expect((await download).suggestedFilename()).toBe("stripes.sobel.png");
    await page.locator("#compare").waitFor(); // made from the complete mosaic
    expect(await page.locator("#large").textContent()).toContain("Too large");
    const canvas = await page
      .locator("#mosaic")
      .evaluate(({ width, height }: HTMLCanvasElement) => ({ width, height }));
    const frame = (await page.locator("#frame").boundingBox())!;
    expect(canvas.width).toBeLessThanOrEqual(frame.width);
    expect(canvas.height).toBeLessThanOrEqual(frame.height);
    expect(new Set(widths)).toEqual(new Set([canvas.width]));
    expect(bands.filter((path, at) => bands.indexOf(path) < at)).toEqual([]);
    expect(bands).toHaveLength(207);
    expect(most).toBeLessThanOrEqual(2);
    const images = () => [...document.images].map(({ naturalWidth, naturalHeight }) => naturalWidth * naturalHeight);
    expect(Math.max(...(await page.evaluate(images)))).toBeLessThan(4e6);
    program.kill();
    await program.exited;
  });

  for (const colours of [{ colorScheme: "light" }, { colorScheme: "dark" }, { forcedColors: "active" }] as const) {
    test(`axe reports no violation: ${Object.values(colours)}`, async () => {
      const page = await open(colours);
      await page.waitForSelector("#alive[data-ready]");
      expect(await violations(page)).toEqual([]);
      await slow(page, 5e5);
      await page.setInputFiles("#file", photo);
      await untilBands(page, 2);
      expect(await violations(page)).toEqual([]);
      await fast(page);
      await page.locator("#compare").waitFor();
      await untilStill(page); // a colour that fades in has too little contrast
      expect(await violations(page)).toEqual([]);
      if ("forcedColors" in colours) {
        const pressed = (yes: boolean) =>
          page.locator(`.tools [aria-pressed="${yes}"]`).evaluate((button) => getComputedStyle(button).backgroundColor);
        expect(await pressed(true)).not.toBe(await pressed(false));
      }
      await page.click("#es");
      await page.setInputFiles("#file", text);
      await untilPhase(page, "failed");
      expect(await violations(page)).toEqual([]);
    });
  }

  for (const [width, colorScheme] of [
    [375, "light"],
    [768, "dark"],
    [1440, "dark"],
  ] as const) {
    test(`${width} px wide, ${colorScheme}: nothing overflows, and nothing moves while a job runs`, async () => {
      const page = await open({ viewport: { width, height: 800 }, colorScheme });
      await page.waitForSelector("#alive[data-ready]");
      await page.setInputFiles("#file", { ...photo, name: `${"a-long-name".repeat(12)}.png` });
      await page.waitForSelector(".job");
      const top = () =>
        page.evaluate(() =>
          [...document.querySelectorAll("#frame, .tools, .bars, #actions, #jobs")].map(
            (n) => n.getBoundingClientRect().y,
          ),
        );
      await untilCount(page, "#legend li", 2);
      const before = await top();
      await page.locator("#compare").waitFor();
      expect(await top()).toEqual(before);
      expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)).toBeLessThanOrEqual(0);
      expect(await page.evaluate(() => getComputedStyle(document.body).colorScheme)).toBe("light dark");
      expect(complaints).toEqual([]);
    });
  }

  test("needs no exception from the content security policy, and loads nothing from another host", async () => {
    const answer = await fetch(origin);
    const policy = answer.headers.get("content-security-policy") ?? "";
    expect(policy).toContain("script-src");
    expect(policy).not.toContain("unsafe");
    const html = readFileSync(join(import.meta.dir, "..", "page", "index.html"), "utf8");
    expect(html.match(/<script\b/g)).toHaveLength(1);
    expect(html).not.toMatch(/<style\b/);
    expect(html).not.toMatch(/<[^>]*\s(on\w+|style)=/);
    // Every file of the page is served, and has no URL of another host.
    for (const name of readdirSync(join(import.meta.dir, "..", "page"))) {
      if (name.endsWith(".d.ts")) continue; // types, for the checks only
      const file = await fetch(`${origin}/page/${name}`);
      expect([name, file.status]).toEqual([name, 200]);
      // A namespace and the placeholder in a command are loaded from nowhere.
      const content = (await file.text()).replace(/http:\/\/(www\.w3\.org\/2000\/svg|HOST\/)/g, "");
      expect(content).not.toMatch(/https?:\/\//);
      const etag = file.headers.get("etag") ?? "";
      expect((await fetch(`${origin}/page/${name}`, { headers: { "if-none-match": etag } })).status).toBe(304);
    }
    expect(html).not.toMatch(/(?:src|href)="(?:https?:)?\/\//);
    for (const name of ["page.html", "nothing.js", "..%2fcoordinator.ts"]) {
      expect((await fetch(`${origin}/page/${name}`)).status).toBe(404);
    }
  });
});

describeWith(["chromium"], "page, a server with a token", () => {
  const TOKEN = "!right~token";
  let port: number;
  let coordinator: Program;
  let browser: Browser;

  beforeAll(async () => {
    port = await freePort();
    coordinator = await startCoordinator(port, { AUTH_TOKEN: TOKEN });
    browser = await launch();
  });
  afterAll(async () => {
    await browser?.close();
    coordinator?.kill("SIGKILL");
    await coordinator?.exited;
  });
  afterEach(() => Promise.all(browser.contexts().map((context) => context.close())));

  async function open(locale = "en-GB"): Promise<Page> {
    const page = await newPage(browser, { locale });
    page.on("dialog", () => {
      throw new Error("a dialog");
    });
    await page.goto(`http://127.0.0.1:${port}`);
    return page;
  }

  /** Method and Authorization of every request that needs the token: `PUT Bearer …`. */
  function credentials(page: Page): string[] {
    const sent: string[] = [];
    page.on("request", (request) => {
      const { authorization } = request.headers();
      const guarded = ["PUT", "DELETE"].includes(request.method()) || request.url().endsWith("/workers");
      if (guarded) sent.push(`${request.method()} ${authorization}`);
      expect(request.url()).not.toContain(TOKEN);
    });
    return sent;
  }

  async function unlock(page: Page, token = TOKEN): Promise<void> {
    await page.getByLabel("Access token").fill(token);
    await page.getByRole("button", { name: "Unlock" }).click();
  }

  test("the page asks for the token; queued jobs are sent once it is right", async () => {
    const page = await open();
    const sent = credentials(page);
    const field = page.getByLabel("Access token");
    await field.waitFor();
    expect(await field.getAttribute("type")).toBe("password");
    expect(await page.locator("#alive").textContent()).toBe("The server requires an access token.");
    expect(await page.locator("#refused").textContent()).toBe("");

    await page.setInputFiles("#file", [png("a.png", 30, 20), png("b.png", 30, 20)]);
    await untilCount(page, '.job[data-phase="locked"]', 2);
    expect(await page.locator("#say-lead").textContent()).toBe("Waiting for the access token");

    await unlock(page, "wrong");
    await page.waitForFunction(() => document.querySelector("#refused")?.textContent !== "");
    expect(await page.locator("#refused").textContent()).toBe("The server refused this token.");
    expect(sent.some((line) => line.startsWith("PUT"))).toBe(false);
    for (const impossible of ["", "two words", "señal"]) {
      const before = sent.length;
      await unlock(page, impossible); // a header cannot carry it
      expect(sent.slice(before).filter((line) => !line.endsWith(" Bearer wrong"))).toEqual([]);
      expect(await field.evaluate((input: HTMLInputElement) => input.validity.valid)).toBe(false);
    }

    await unlock(page);
    await untilCount(page, '.job[data-phase="done"]', 2);
    expect(await field.isVisible()).toBe(false);
    expect(await field.inputValue()).toBe("");
    expect(await page.locator("#alive").textContent()).toBe("2 workers ready");
    expect(sent.filter((line) => line.startsWith("PUT"))).toEqual(Array(2).fill(`PUT Bearer ${TOKEN}`));
    expect(sent.filter((line) => line.startsWith("GET")).at(-1)).toBe(`GET Bearer ${TOKEN}`);

    // Only this tab keeps it.
    const elsewhere = () => JSON.stringify([{ ...localStorage }, document.cookie]);
    expect(await page.evaluate(elsewhere)).not.toContain(TOKEN);
    await page.reload();
    await untilText(page, "#alive", "2 workers ready");
    expect(await field.isVisible()).toBe(false);
    const other = await page.context().newPage();
    await other.goto(page.url());
    await other.getByLabel("Access token").waitFor();
  });

  test("cancelling sends the token", async () => {
    const page = await open();
    const sent = credentials(page);
    await unlock(page);
    await untilText(page, "#alive", "2 workers ready");
    await slow(page, 1e6);
    await page.setInputFiles("#file", photo);
    await untilBands(page, 1);
    const deleted = page.waitForResponse((answer) => answer.request().method() === "DELETE");
    await page.locator("#cancel").click();
    expect((await deleted).status()).toBe(204);
    expect(sent).toContain(`DELETE Bearer ${TOKEN}`);
  });

  test("a token that has become invalid: the page asks again, and the refused job continues", async () => {
    const page = await open();
    await unlock(page);
    await untilText(page, "#alive", "2 workers ready");
    coordinator.kill("SIGKILL");
    await coordinator.exited;
    await page.route("**/workers", (route) => route.abort()); // so that the upload is refused first
    coordinator = await startCoordinator(port, { AUTH_TOKEN: "another" });
    await page.setInputFiles("#file", [photo, png("next.png", 30, 20)]);
    await page.getByLabel("Access token").waitFor();
    expect(await page.locator("#refused").textContent()).toBe("The server refused this token.");
    await untilCount(page, '.job[data-phase="locked"]', 2);
    await page.unroute("**/workers");
    const names: string[] = [];
    page.on("download", (download) => names.push(download.suggestedFilename()));
    await unlock(page, "another");
    await until(() => names.length === 2);
    expect(names.sort()).toEqual(["next.sobel.png", "photo.sobel.png"]);
    coordinator.kill("SIGKILL");
    await coordinator.exited;
    coordinator = await startCoordinator(port, { AUTH_TOKEN: TOKEN });
  });

  test("in Spanish", async () => {
    const page = await open("es-ES");
    await page.getByLabel("Token de acceso").waitFor();
    expect(await page.locator("#alive").textContent()).toBe("El servidor requiere un token de acceso.");
    await page.setInputFiles("#file", png("a.png", 30, 20));
    await untilText(page, "#say-lead", "Esperando el token de acceso");
    await page.getByLabel("Token de acceso").fill("otro");
    await page.getByRole("button", { name: "Desbloquear" }).click();
    await page.waitForFunction(() => document.querySelector("#refused")?.textContent !== "");
    expect(await page.locator("#refused").textContent()).toBe("El servidor rechazó este token.");
  });
});

describeWith(["chromium", "rabbitmq", "redis"], "page, worker processes", () => {
  test("waits without a worker; with three shows the colour of each, and which bands were taken over", async () => {
    const { rabbitmq, redis } = await sharedServers();
    const servers = { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url };
    const port = await freePort();
    const coordinator = await startCoordinator(port, servers);
    const browser = await launch();
    const page = await openPage(browser, port, { reducedMotion: "reduce" }); // a new band does not glow
    await untilText(page, "#alive", "Waiting for workers. Start one: bun run worker.ts");
    expect(await page.locator("#alive code").textContent()).toBe("bun run worker.ts");
    expect(await page.locator("#workers option").allTextContents()).toEqual(["all"]);
    await page.setInputFiles("#file", photo);
    await untilText(page, "#say-lead", "Waiting for workers");
    expect(await page.locator("#say-start").isVisible()).toBe(true);
    expect(await page.locator("#ratio").textContent()).toBe("0 of 19");
    expect(await violations(page)).toEqual([]);

    const late = spawnProgram("worker.ts", { ...servers, WORKER_NAME: "late" });
    // The message disappears with the first finished band.
    await untilBands(page, 1);
    expect(await page.locator("#lead").textContent()).not.toBe("Waiting for workers");
    await untilPhase(page, "done");
    expect(await legend(page)).toEqual({ late: 19 });
    await untilText(page, "#alive", "1 worker ready");

    const others = ["second", "third"].map((name) => spawnProgram("worker.ts", { ...servers, WORKER_NAME: name }));
    await untilText(page, "#alive", "3 workers ready");
    await slow(page, 6e5); // bands are enqueued one by one, so that every worker gets some
    await page.setInputFiles("#file", { ...photo, name: "shared.png" });
    await page.waitForFunction(() => {
      const counts = [...document.querySelectorAll("#legend b")].map((count) => Number(count.textContent));
      return counts.length === 3 && counts.every((count) => count > 0);
    });
    // One worker hangs with a band. The others do the rest.
    others[1].kill("SIGSTOP");
    await untilText(page, "#ratio", "18 of 19");
    const colours = await spine(page, 1200);
    expect(new Set(colours).size).toBe(4); // three workers, and the dark background of the missing band
    others[1].kill("SIGKILL");
    await untilPhase(page, "done");
    await page.click("#view-mosaic");
    expect(await page.locator(".again", { hasText: "1 band taken over" }).count()).toBe(1);
    const swatches = await page
      .locator("#legend li")
      .evaluateAll((rows) => rows.map((row) => getComputedStyle(row).getPropertyValue("--own")));
    const final = await spine(page, 1200);
    expect(new Set(final)).toEqual(new Set(swatches));
    const shares = Object.values(await legend(page)).toSorted();
    expect(swatches.map((own) => final.filter((colour) => colour === own).length).toSorted()).toEqual(shares);

    await browser.close();
    for (const program of [late, others[0], coordinator]) program.kill();
    await Promise.all([late.exited, others[0].exited, coordinator.exited]);
  }, 90_000);
});

describeWith(["chromium", "rabbitmq", "redis"], "page, a worker that sends no heartbeat", () => {
  test("a job with a finished band is not shown as waiting, after a reload neither", async () => {
    const { rabbitmq, redis } = await sharedServers();
    const port = await freePort();
    const coordinator = await startCoordinator(port, { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url });
    const browser = await launch();
    const page = await newPage(browser);
    const asked = jobIds(page);
    await page.goto(`http://127.0.0.1:${port}`);
    await page.setInputFiles("#file", png("small.png", 300, 900)); // three bands, all enqueued at once
    await page.waitForSelector('.job[data-phase="waiting"]');
    await untilPhase(page, "running");

    // It takes a band, sets a key and acknowledges. Its result is the band itself.
    const store = new Redis(redis.url);
    const connection = await amqp(rabbitmq.url);
    const channel = await connection.createChannel();
    const work = async () => {
      const message = await channel.get(QUEUE);
      if (!message) return false;
      const { chunk_id, imagen } = JSON.parse(message.content.toString());
      await store.set(`resultado:${chunk_id}`, imagen);
      channel.ack(message);
      return true;
    };
    expect(await work()).toBe(true);
    await untilText(page, "#ratio", "1 of 3");
    await untilText(page, "#lead", "Processing");
    const state = async () => (await fetch(`http://127.0.0.1:${port}/jobs/${asked[0]}`)).json();
    expect(await state()).toMatchObject({ state: "running", done: 1, waiting: false });
    await page.reload();
    await untilText(page, "#ratio", "1 of 3");
    await untilText(page, "#lead", "Processing");
    while (await work());
    await untilPhase(page, "done");
    expect(await legend(page)).toEqual({ foreign: 3 });

    await browser.close();
    await connection.close();
    store.disconnect();
    coordinator.kill();
    await coordinator.exited;
  }, 60_000);
});

describe("speed-up", () => {
  test("medians, and the serial fraction of times that follow Amdahl's law", () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 2, 3])).toBe(2.5);
    const law = [1, 2, 3, 4, 8].map((workers) => ({ workers, times: [1000 * (0.2 + 0.8 / workers)] }));
    const { rows, serial } = summarize(law);
    expect(serial).toBeCloseTo(0.2, 10);
    expect(rows[3].speedup).toBeCloseTo(2.5, 10);
    expect(rows[3].efficiency).toBeCloseTo(0.625, 10);
    expect(rows[4].amdahl).toBeCloseTo(rows[4].speedup, 10);
    expect(serialFraction([{ workers: 1, median: 5 }])).toBe(0);
    expect(serialFraction([1, 2].map((workers) => ({ workers, median: 5 })))).toBe(1); // more workers do not help
    expect(serialFraction([1, 2].map((workers) => ({ workers, median: 9 / workers ** 2 })))).toBe(0); // better than ideal
  });

  test("CSV and SVG of an incomplete experiment; a name is escaped in SVG", async () => {
    const summary = summarize([
      { workers: 1, times: [100, 110] },
      { workers: 2, times: [60] },
      { workers: 3, times: [] },
    ]);
    expect(csvOf(summary).split("\r\n")[2]).toStartWith("2,60.0,,60.0,1.7500,0.8750,2.0000,");
    const comma = csvOf(summary, { picture: 'a "b";c' }, true).split("\r\n")[2];
    expect(comma).toMatch(/^2;60,0;;60,0;1,7500;0,8750;2,0000;.*;"a ""b"";c"$/);
    const words = {
      time: "t",
      speedup: "s",
      efficiency: "e",
      workersAxis: "w",
      measured: "m",
      ideal: "i",
      amdahl: "a",
    };
    const write = (value: number, digits = 0) => value.toFixed(digits);
    const svg = svgOf(summary, { ...words, serial: (percent: string) => percent }, write, '<b>&"');
    expect(svg).toContain("<title>&#60;b&#62;&#38;&#34;</title>");
    expect(svg).not.toContain("NaN");
    expect((await sharp(Buffer.from(svg)).metadata()).width).toBe(960);
  });
});

interface Counts {
  mostUploads: number;
  mostStreams: number;
}

interface Job {
  byWorker: Record<string, { bands: number }>;
}

/** The colour at the left edge of the canvas, in the middle of each band of a picture `height` px high. */
async function spine(page: Page, height: number): Promise<string[]> {
  const rows = 64; // of 1500 pixels, in 19 bands
  return page.locator("#mosaic").evaluate(
    (canvas: HTMLCanvasElement, { height, rows }) => {
      const context = canvas.getContext("2d")!;
      return Array.from({ length: Math.ceil(height / rows) }, (_, band) => {
        const middle = (band * rows + Math.min((band + 1) * rows, height)) / 2;
        const [r, g, b] = context.getImageData(1, Math.floor((middle * canvas.height) / height), 1, 1).data;
        return "#" + [r, g, b].map((value) => value.toString(16).padStart(2, "0")).join("");
      });
    },
    { height, rows },
  );
}

/** A PNG of one bit a pixel: many pixels in few bytes. */
function stripes(width: number, height: number): Picture {
  const line = Buffer.alloc(1 + width / 8);
  const lines = Array.from({ length: height }, (_, y) => Buffer.from(line).fill(y % 600 < 300 ? 0xff : 0xc3, 1));
  const idat = chunk("IDAT", deflateSync(Buffer.concat(lines), { level: 1 }));
  const buffer = Buffer.concat([SIGNATURE, ihdr(width, height, 1, 0), idat, chunk("IEND")]);
  return { name: "stripes.png", mimeType: "image/png", buffer };
}

/** Drops or pastes the files on the heading of the page, outside of the drop zone. */
async function give(page: Page, how: "drop" | "paste", pictures: Picture[]): Promise<void> {
  const files = pictures.map(({ name, mimeType, buffer }) => ({ name, mimeType, base64: buffer.toString("base64") }));
  await page.evaluate(
    ({ how, files }) => {
      const transfer = new DataTransfer();
      for (const { name, mimeType, base64 } of files) {
        const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
        transfer.items.add(new File([bytes], name, { type: mimeType }));
      }
      const init = { bubbles: true, cancelable: true };
      const event =
        how === "drop"
          ? new DragEvent("drop", { ...init, dataTransfer: transfer })
          : new ClipboardEvent("paste", { ...init, clipboardData: transfer });
      // A drop that the page does not handle makes the browser open the file.
      const left = document.querySelector("h1")?.dispatchEvent(event);
      if (how === "drop" && left) throw new Error("the drop was left to the browser");
    },
    { how, files },
  );
}

async function legend(page: Page): Promise<Record<string, number>> {
  const rows = await page
    .locator("#legend li")
    .evaluateAll((items) =>
      items.map((item) => [item.querySelector(".worker")?.textContent, item.querySelector("b")?.textContent]),
    );
  return Object.fromEntries(rows.map(([name, bands]) => [name, Number(bands)]));
}

/** Collects the ids of the jobs that the page sends. */
function jobIds(page: Page): string[] {
  const ids: string[] = [];
  page.on("request", (request) => {
    if (request.method() === "PUT") ids.push(new URL(request.url()).pathname.split("/").at(-1) ?? "");
  });
  return ids;
}
