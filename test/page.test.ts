// The page in a real Chromium, against the real coordinator with its embedded workers. Nothing is stubbed: what makes a
// job slow enough to watch, to cancel or to lose is the browser's own network, throttled.
import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { deflateSync } from "node:zlib";
import { connect as amqp } from "amqplib";
import axe from "axe-core";
import { encode } from "fast-png";
import { Redis } from "ioredis";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import sharp from "sharp";
import { csvOf, median, serialFraction, summarize, svgOf } from "../page/speedup.js";
import { QUEUE } from "../queue.ts";
import { chunk, ihdr, SIGNATURE } from "./pictures.ts";
import {
  binaries,
  describeWith,
  freePort,
  type Program,
  sharedServers,
  spawnProgram,
  temporaryFolder,
} from "./servers.ts";

setDefaultTimeout(60_000);

const WORKERS = 2;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
FLAGS.push("--disable-component-update", "--disable-sync");

interface Picture {
  name: string;
  mimeType: string;
  buffer: Buffer;
}

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
    coordinator.kill("SIGCONT"); // where a test has failed half-way
    await Promise.all(browser.contexts().map((context) => context.close()));
  });

  /** A page of its own context. Errors of its console, a refusal by the content security policy among them, go to `complaints`. */
  async function open(options: BrowserContextOptions = {}, before?: () => void): Promise<Page> {
    const context = await browser.newContext({ locale: "en-GB", ...options });
    const page = await context.newPage();
    complaints = [];
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) complaints.push(message.text());
    });
    if (before) await page.addInitScript(before);
    await page.goto(origin);
    return page;
  }

  test("an image goes in, the bars fill, its edges come out and are downloaded by themselves", async () => {
    const page = await open();
    const asked = jobIds(page);
    const download = page.waitForEvent("download");
    await slow(page, 1e6);
    await page.setInputFiles("#file", photo);

    // The picture is there at once, and bands are done while the file is still on its way.
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

    await page.waitForSelector('#stage[data-phase="done"]');
    expect(await page.locator("#ratio").textContent()).toBe("19 of 19");
    expect(await page.locator("#bands").evaluate((bar: HTMLProgressElement) => bar.value / bar.max)).toBe(1);
    expect(await page.locator("#percent").textContent()).toBe("100%");
    expect(await page.locator("#meta").textContent()).toContain("1500 × 1200 · 19 bands");
    expect(await page.locator("#time").textContent()).toMatch(/^\d+\.\d s$/);
    await page.waitForFunction(() => document.querySelector<HTMLImageElement>("img.after")?.naturalWidth === 1500);
    expect(await page.locator("img.before").evaluate((image: HTMLImageElement) => image.naturalWidth)).toBe(1500);

    // The shares are the server's own account, and no band is lost or counted twice.
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

  test("several files are several jobs: two uploads at a time, one stream of events; dropped anywhere, or pasted", async () => {
    // Counted in the page: the browser's own account of a request's end comes after the next has begun.
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

    await slow(page, 1.5e6); // the first are on their way for a second: the fourth comes meanwhile
    const three = ["first.png", "second.holiday.png", "third.png"].map((name) => png(name, 640, 480));
    await give(page, "drop", three);
    await page.waitForFunction(() => document.querySelectorAll('.job[data-phase="sending"]').length === 2);
    await give(page, "paste", [png("image.png", 64, 64)]);
    expect(await page.locator('.job[data-phase="sending"] .name').allTextContents()).toEqual([
      "first.png",
      "second.holiday.png",
    ]);
    expect(await page.locator("#name").textContent()).toBe("first.png");
    await page.waitForFunction(() => document.querySelectorAll('.job[data-phase="done"]').length === 4);
    const { mostUploads, mostStreams } = await page.evaluate(() => (window as unknown as { counts: Counts }).counts);
    expect([mostUploads, mostStreams]).toEqual([2, 1]);

    await until(() => names.length === 4);
    expect(names.sort()).toEqual(["first.sobel.png", "image.sobel.png", "second.holiday.sobel.png", "third.sobel.png"]);
    expect(await page.locator(".job .name").allTextContents()).toEqual(["image.png", ...three.map(({ name }) => name)]);

    // Any of them takes the stage, and what is over leaves the list.
    await page.getByRole("button", { name: "Show third.png" }).click();
    await page.waitForFunction(() => document.getElementById("name")?.textContent === "third.png");
    await page.getByRole("button", { name: "Remove third.png from the list" }).click();
    // Drawn with the next frame.
    await page.waitForFunction(() => document.querySelectorAll(".job").length === 3);
    expect(await page.locator("#name").textContent()).not.toBe("third.png");
    expect(complaints).toEqual([]);
  });

  test("another task, with its parameters: a form made of what the server tells; data is shown as text", async () => {
    const page = await open();
    await page.waitForSelector("#task option:nth-child(5)", { state: "attached" });
    const { tasks } = (await (await fetch(`${origin}/tasks`)).json()) as { tasks: { name: string }[] };
    expect(await page.locator("#task option").allTextContents()).toEqual(tasks.map(({ name }) => name));
    expect(await page.locator("#task").inputValue()).toBe("sobel");
    expect(await page.locator("#params").isVisible()).toBe(false);

    await page.selectOption("#task", "blur");
    // What may not be is not sent, and the browser says why.
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
    // There is nothing to compare or to enlarge.
    expect(await page.locator(".tools").isVisible()).toBe(false);

    // A job of two steps, its parameter left out.
    await page.selectOption("#task", "threshold");
    const parted = page.waitForEvent("download");
    await page.setInputFiles("#file", photo);
    expect((await parted).suggestedFilename()).toBe("photo.threshold.png");
    await page.waitForFunction(() => document.querySelector<HTMLImageElement>("img.after")?.naturalWidth === 1500);
    // What was sent under one name is told apart, and after a reload too; a parameter that was found is told with the rest.
    const asked = [/^threshold · level=\d+$/, /^histogram$/, /^blur · sigma=2\.5$/];
    const shown = () => page.locator(".job .asked").allTextContents();
    for (const [at, text] of (await shown()).entries()) expect(text).toMatch(asked[at]);
    await page.reload();
    await until(async () => (await shown()).length === 3);
    for (const [at, text] of (await shown()).entries()) expect(text).toMatch(asked[at]);
    expect(complaints).toEqual([]);
  });

  test("what was entered stays when the language or the fleet's tasks change; other parameters of the same name show", async () => {
    const own = await freePort();
    const file = join(temporaryFolder("task"), "demo.ts");
    const start = (params: object, others = "") => {
      writeFileSync(file, moduleOf("demo", params));
      return startCoordinator(own, { TASKS: file + others });
    };
    const number = { type: "number", minimum: 0 };
    let program = await start({ weight: { ...number, default: 2 }, gain: { ...number, default: 3 } });
    const page = await (await browser.newContext({ locale: "en-GB" })).newPage();
    await page.goto(`http://127.0.0.1:${own}`);
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

    // The same names of tasks. What was not touched gets its new default.
    const choice = { type: "string", enum: ["up", "down"], default: "up" };
    await again({ weight: number, gain: { ...number, default: 4 }, way: choice }, ",test/tasks/negative.ts");
    await page.waitForSelector('#params [name="way"]');
    expect(await shown()).toEqual(["7.5", "4", "up"]);
    const sent = page.waitForRequest((request) => request.method() === "PUT");
    await page.setInputFiles("#file", png("a.png", 30, 20));
    expect(new URL((await sent).url()).search).toBe("?task=demo&weight=7.5&gain=4&way=up");
    await page.waitForSelector('#stage[data-phase="done"]');
    program.kill();
    await program.exited;
  });

  test("parameters: what has no default can be left out, an emptied one says its default, each tells what it is", async () => {
    const own = await freePort();
    const file = join(temporaryFolder("task"), "demo.ts");
    const params = {
      invert: { type: "boolean", description: "black becomes white" },
      keep: { type: "boolean", default: true },
      label: { type: "string", default: "edges", description: "a text; it stands on the picture" },
    };
    writeFileSync(file, moduleOf("demo", params));
    const program = await startCoordinator(own, { TASKS: file });
    const page = await (await browser.newContext({ locale: "en-GB", viewport: { width: 375, height: 800 } })).newPage();
    await page.goto(`http://127.0.0.1:${own}`);
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
      await page.waitForFunction((n) => document.querySelectorAll('.job[data-phase="done"]').length === n, nth);
    };
    await send(1);
    await invert.selectOption("no");
    await label.fill("");
    await send(2);
    expect(sent).toEqual(["?task=demo&keep=true&label=edges", "?task=demo&invert=false&keep=true"]);
    expect(await page.locator(".job .asked").allTextContents()).toEqual([
      "demo · invert=false · keep=true · label=edges",
      "demo · keep=true · label=edges",
    ]);
    expect(await label.getAttribute("placeholder")).toBe("default: edges");

    // Without a pointer that could rest on it.
    expect(await page.getByText("black becomes white").isVisible()).toBe(true);
    const about = (await label.getAttribute("aria-describedby")) ?? "";
    expect(await page.locator(`#${about}`).textContent()).toBe("a text; it stands on the picture");
    // The ring around what has the focus takes 6 px.
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

  test("a picture that the browser cannot show goes through, with its kind in its place", async () => {
    const page = await open();
    const buffer = await sharp(photo.buffer).tiff().toBuffer();
    await slow(page, 6e5);
    const download = page.waitForEvent("download");
    await page.setInputFiles("#file", { name: "scan.tiff", mimeType: "image/tiff", buffer });
    // It is read as a whole: there is no job to follow before its last byte, and that is no error.
    await page.waitForFunction(() => document.querySelector("#say-detail")?.textContent?.includes("cannot show"));
    expect((await download).suggestedFilename()).toBe("scan.sobel.png");
    expect(await legend(page).then((shares) => Object.values(shares).reduce((sum, bands) => sum + bands))).toBe(19);
    expect(await page.locator(".kind").textContent()).toBe("TIFF");
    await page.locator("img.after").waitFor();
    expect(await page.locator("img.before").isVisible()).toBe(false);
    expect(complaints).toEqual([]);
  });

  test("what is not an image is refused in the server's words, said aloud, and not offered again", async () => {
    const page = await open();
    await page.setInputFiles("#file", text);
    await page.waitForSelector('#stage[data-phase="failed"]');
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

    // The next one is not held up.
    await page.setInputFiles("#file", png("good.png", 30, 20));
    await page.waitForSelector('#stage[data-phase="done"]');
  });

  test("the name of a file is text, whatever stands in it", async () => {
    const page = await open();
    const name = '<img src=x onerror="document.title=1">.png';
    await page.setInputFiles("#file", { ...png(name, 30, 20), name });
    await page.waitForSelector('#stage[data-phase="done"]');
    expect(await page.locator("#name").textContent()).toBe(name);
    expect(await page.locator(".job .name").textContent()).toBe(name);
    expect(await page.title()).toBe("Sobel, distributed");
    expect(complaints).toEqual([]);
  });

  test("the workers: all of them unless fewer are chosen", async () => {
    const page = await open();
    await page.waitForFunction((n) => document.querySelectorAll("#workers option").length === n + 1, WORKERS);
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
    await page.waitForFunction(() => document.querySelectorAll('.job[data-phase="done"]').length === 2);
    expect(queries).toEqual(["?task=sobel", "?task=sobel&workers=1"]);
  });

  test("cancel ends the upload, deletes the job and lets the next one run", async () => {
    const page = await open();
    const asked = jobIds(page);
    await slow(page, 1e6);
    await page.setInputFiles("#file", [photo, png("next.png", 30, 20)]);
    await page.waitForFunction(() => (document.querySelector<HTMLProgressElement>("#bands")?.value ?? 0) > 0);
    const deleted = page.waitForResponse((answer) => answer.request().method() === "DELETE");
    coordinator.kill("SIGSTOP"); // a server that hangs holds nothing up
    await page.locator("#cancel").click();
    await page.waitForSelector('#stage[data-phase="cancelled"]');
    coordinator.kill("SIGCONT");
    expect((await deleted).status()).toBe(204);
    expect(await page.locator("#lead").textContent()).toBe("Cancelled");
    expect(await page.locator("#retry").evaluate((button) => button === document.activeElement)).toBe(true);
    await page.waitForSelector('.job:nth-child(2)[data-phase="done"]');
    await until(async () => (await fetch(`${origin}/jobs/${asked[0]}`)).status === 404);
    expect(await page.locator(".job").first().getAttribute("data-phase")).toBe("cancelled");

    // Asked for again it is another job.
    await fast(page);
    await page.locator("#retry").click();
    await page.waitForSelector('.job:nth-child(1)[data-phase="done"]');
    expect(new Set(asked).size).toBe(3);
    expect(complaints).toEqual([]);
  });

  test("an upload that the server's death cut short goes on by itself, under the same id", async () => {
    const page = await open();
    const asked = jobIds(page);
    await slow(page, 1e6);
    await page.setInputFiles("#file", photo);
    await page.waitForFunction(() => (document.querySelector<HTMLProgressElement>("#bands")?.value ?? 0) > 0);
    coordinator.kill("SIGKILL");
    await coordinator.exited;
    await page.waitForSelector('#stage[data-phase="interrupted"]');
    expect(await page.locator("#say-lead").textContent()).toBe("The connection was lost");
    expect(await page.locator("#say-detail").textContent()).toMatch(/goes on by itself .* Next try in \d+ s\.$/);
    await page.waitForFunction(() => document.querySelector("#alive")?.textContent === "The server does not answer.");

    await fast(page);
    const download = page.waitForEvent("download");
    coordinator = await startCoordinator(port);
    expect((await download).suggestedFilename()).toBe("photo.sobel.png");
    expect(asked.length).toBeGreaterThan(1);
    expect(new Set(asked).size).toBe(1);
    // The file comes with the last event, the figures with the next frame.
    await page.waitForSelector('#stage[data-phase="done"]');
    expect(await page.locator("#ratio").textContent()).toBe("19 of 19");
  });

  test("a server that is busy is asked again when it has said, and not before", async () => {
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
        body: JSON.stringify({ detail: "64 uploads are being taken: send it again later" }),
      });
    });
    await page.setInputFiles("#file", png("a.png", 30, 20));
    await page.waitForSelector('#stage[data-phase="interrupted"]');
    expect(await page.locator("#say-lead").textContent()).toBe("The server is busy");
    await page.waitForSelector('#stage[data-phase="done"]');
    expect(asked).toHaveLength(2);
    expect(asked[1] - asked[0]).toBeGreaterThanOrEqual(3000);
  });

  test("a reload in the middle loses nothing: what was sent is followed, what was not is sent, what is done is there", async () => {
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
    await page.waitForFunction(() => (document.querySelector<HTMLProgressElement>("#bands")?.value ?? 0) > 0);
    // The files are written behind; as long as that lasts, whoever leaves is asked.
    await page.waitForFunction(() => dispatchEvent(new Event("beforeunload", { cancelable: true })));

    await fast(page);
    await page.reload();
    await page.waitForFunction(() => document.querySelectorAll('.job[data-phase="done"]').length === 4);
    await until(() => names.length === 4);
    expect(names.sort()).toEqual(["before.sobel.png", "photo.sobel.png", "second.sobel.png", "third.sobel.png"]);
    expect(new Set(asked).size).toBe(4); // the same ids as before
    expect(await page.locator(".job .name").allTextContents()).toEqual([
      "photo.png",
      "second.png",
      "third.png",
      "before.png",
    ]);

    // After another there is nothing left to send; the results can be had as long as the server has them.
    const before = asked.length;
    await page.reload();
    await page.waitForFunction(() => document.querySelectorAll('.job[data-phase="done"]').length === 4);
    await page.getByRole("button", { name: "Show before.png" }).click();
    await page.locator("img.after").waitFor();
    expect(await page.locator("img.before").isVisible()).toBe(true); // its small copy
    const again = page.waitForEvent("download");
    await page.click("#download");
    expect((await again).suggestedFilename()).toBe("before.sobel.png");
    expect(asked).toHaveLength(before);
    expect(names).toHaveLength(5);
    await fetch(`${origin}/jobs/${asked[0]}`, { method: "DELETE" });
    await page.reload();
    await page.waitForFunction(() => document.querySelectorAll('.job[data-phase="expired"]').length === 1);
    expect(complaints).toEqual([]);
  });

  test("where nothing can be stored it works all the same", async () => {
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
    await page.waitForSelector('#stage[data-phase="done"]');
    expect(complaints).toEqual([]);
  });

  test("without crypto.randomUUID, as on plain HTTP from another host, jobs still have their UUIDs", async () => {
    const page = await open({}, () => {
      Object.defineProperty(Crypto.prototype, "randomUUID", { value: undefined });
    });
    const asked = jobIds(page);
    await page.setInputFiles("#file", [png("a.png", 30, 20), png("b.png", 30, 20)]);
    await page.waitForFunction(() => document.querySelectorAll('.job[data-phase="done"]').length === 2);
    expect(asked).toHaveLength(2);
    for (const id of asked) expect(id).toMatch(UUID);
    expect(asked[0]).not.toBe(asked[1] ?? "");
  });

  test("Spanish for who prefers it, with no word left in English; either can be chosen, and is remembered", async () => {
    const page = await open({ locale: "es-ES" });
    expect(await page.getAttribute("html", "lang")).toBe("es");
    expect(await page.title()).toBe("Sobel, distribuido");
    expect(await page.locator(".flow li").allTextContents()).toEqual(["dividir", "encolar", "procesar", "unir"]);
    await page.setInputFiles("#file", photo);
    await page.waitForSelector('#stage[data-phase="done"]');
    expect(await page.locator("#ratio").textContent()).toBe("19 de 19");
    expect(await page.locator("#announce").textContent()).toBe("photo.png: Listo");
    await page.waitForFunction(() => document.querySelector("#alive")?.textContent === "2 workers listos");

    // Each text and label that the markup marks for translation differs from the English one, but for the words that
    // both languages have.
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
    await page.waitForFunction(() => document.querySelector("#ratio")?.textContent === "19 of 19");
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

  test("by keyboard: everything can be reached, shows that it has the focus and has a name", async () => {
    const page = await open();
    const chooser = page.waitForEvent("filechooser"); // long before: Chromium is told of it in the background
    const ring = () => page.locator(".drop").evaluate((zone) => getComputedStyle(zone).outlineStyle);
    const focused = () => page.evaluate(() => document.activeElement?.id);
    expect(await ring()).toBe("none");
    for (const id of ["en", "es", "file"]) {
      await page.keyboard.press("Tab");
      expect(await focused()).toBe(id);
    }
    expect(await ring()).toBe("solid");
    expect(await page.getByLabel("Choose a file").getAttribute("id")).toBe("file");
    await page.keyboard.press("Enter");
    expect((await chooser).isMultiple()).toBe(true);
    for (const id of ["task", "workers", "save"]) {
      await page.keyboard.press("Tab");
      expect(await focused()).toBe(id);
    }
  });

  test("before and after: a slider for the keyboard, zoom to the pixels, and what is enlarged can be moved", async () => {
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

  test("downloads by themselves can be switched off, and stay so; the same as curl is copied", async () => {
    const page = await open({ permissions: ["clipboard-read", "clipboard-write"] });
    const names: string[] = [];
    page.on("download", (download) => names.push(download.suggestedFilename()));
    await page.uncheck("#save");
    await page.setInputFiles("#file", png("a.png", 30, 20));
    await page.locator("#compare").waitFor();
    await page.reload();
    expect(await page.isChecked("#save")).toBe(false);
    await page.selectOption("#workers", "1");
    const { buffer } = png("it's b.png", 30, 20);
    await page.setInputFiles("#file", { name: "it's b.png", mimeType: "image/png", buffer });
    await page.waitForFunction(() => document.querySelectorAll('.job[data-phase="done"]').length === 2);
    await page.locator("#compare").waitFor();
    expect(names).toEqual([]);
    await page.click("#download");
    await until(() => names.length === 1);
    expect(names).toEqual(["it's b.sobel.png"]);

    await page.click("#curl");
    await page.waitForFunction(() => document.querySelector("#curl-done")?.textContent === "Copied");
    expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(
      `curl --data-binary @'it'\\''s b.png' '${origin}/tasks/sobel?workers=1' -o 'it'\\''s b.sobel.png'`,
    );
  });

  test("the experiment: its figures are those that are measured from outside", async () => {
    const page = await open();
    await page.uncheck("#save");
    await page.setInputFiles("#file", photo);
    await page.waitForSelector('#stage[data-phase="done"]');
    // From outside: from the request to the event that another listener hears.
    const outside: Promise<{ workers: number; ms: number }>[] = [];
    const measured = jobIds(page);
    let watching = true;
    page.on("request", (request) => {
      if (request.method() !== "PUT" || !watching) return;
      const start = performance.now();
      const { pathname, searchParams } = new URL(request.url());
      const workers = Number(searchParams.get("workers"));
      outside.push(ended(origin, pathname.split("/")[2]).then((end) => ({ workers, ms: end - start })));
    });
    await slow(page, 3e6); // each run takes most of a second
    await page.click("#measure");
    await page.locator("#stop").waitFor();
    await page.locator("#stop").waitFor({ state: "hidden" });
    const [, ...runs] = await Promise.all(outside); // the first is to warm up
    expect(runs.map(({ workers }) => workers)).toEqual([1, 2, 1, 2, 1, 2]);

    const download = page.waitForEvent("download");
    await page.click("#csv");
    expect((await download).suggestedFilename()).toBe("photo.speedup.csv");
    const csv = readFileSync(await (await download).path(), "utf8");
    const [head, ...lines] = csv.trimEnd().split("\r\n");
    expect(head).toBe(
      "workers,run_1_ms,run_2_ms,run_3_ms,median_ms,speedup,efficiency,ideal_speedup,amdahl_speedup,serial_fraction",
    );
    expect(lines).toHaveLength(WORKERS);
    lines.forEach((line, i) => {
      const [workers, ...figures] = line.split(",").map(Number);
      const times = figures.slice(0, 3);
      const seen = runs.filter((run) => run.workers === workers).map(({ ms }) => ms);
      expect(workers).toBe(i + 1);
      expect(figures[3]).toBe(times.toSorted((a, b) => a - b)[1]);
      // Within 10 %, and what one busy machine may take to tell two listeners of the same event.
      for (const [run, ms] of times.entries()) expect(Math.abs(ms - seen[run])).toBeLessThan(0.1 * seen[run] + 150);
    });
    expect(await page.locator("#rows tr").count()).toBe(WORKERS);
    expect(await page.locator("#charts svg").count()).toBe(3);
    expect(await page.locator("#serial").textContent()).toMatch(/^Serial fraction \(Amdahl\): [\d.]+%$/);
    const drawing = page.waitForEvent("download");
    await page.click("#svg");
    const svg = readFileSync(await (await drawing).path(), "utf8");
    expect((await sharp(Buffer.from(svg)).metadata()).format).toBe("svg");

    // Its jobs are gone, and it can be stopped.
    await until(async () => (await fetch(`${origin}/jobs/${measured.at(-1)}`)).status === 404);
    watching = false;
    expect(await violations(page)).toEqual([]);
    await page.click("#measure");
    await page.click("#stop");
    await page.waitForFunction(() => document.querySelector("#measuring")?.textContent === "Stopped.");
    expect(complaints).toEqual([]);
  });

  test("216 megapixels: the canvas and all that is fetched for it stay as small as the screen", async () => {
    const own = await freePort();
    const program = await startCoordinator(own, { BAND_PIXELS: "" });
    const page = await (
      await browser.newContext({ locale: "en-GB", viewport: { width: 1280, height: 800 } })
    ).newPage();
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
    await page.waitForSelector('#stage[data-phase="done"]');
    expect((await download).suggestedFilename()).toBe("stripes.sobel.png");
    await page.locator("#compare").waitFor(); // made of the mosaic, once all of it is there
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

  for (const colorScheme of ["light", "dark"] as const) {
    test(`axe finds nothing to object to: ${colorScheme}`, async () => {
      const page = await open({ colorScheme });
      await page.waitForFunction(() => document.querySelector("#alive")?.hasAttribute("data-ready"));
      expect(await violations(page)).toEqual([]);
      await slow(page, 5e5);
      await page.setInputFiles("#file", photo);
      await page.waitForFunction(() => (document.querySelector<HTMLProgressElement>("#bands")?.value ?? 0) > 1);
      expect(await violations(page)).toEqual([]);
      await fast(page);
      await page.locator("#compare").waitFor();
      await page.waitForTimeout(450); // it is faded in: colours half-way are no colours of ours
      expect(await violations(page)).toEqual([]);
      await page.click("#es");
      await page.setInputFiles("#file", text);
      await page.waitForSelector('#stage[data-phase="failed"]');
      expect(await violations(page)).toEqual([]);
    });
  }

  for (const [width, colorScheme] of [
    [375, "light"],
    [768, "dark"],
    [1440, "dark"],
  ] as const) {
    test(`${width} px wide, ${colorScheme}: nothing sticks out, and nothing jumps while a job runs`, async () => {
      const page = await open({ viewport: { width, height: 800 }, colorScheme });
      await page.waitForFunction(() => document.querySelector("#alive")?.hasAttribute("data-ready"));
      await page.setInputFiles("#file", { ...photo, name: `${"a-long-name".repeat(12)}.png` });
      await page.waitForSelector(".job");
      const top = () =>
        page.evaluate(() =>
          [...document.querySelectorAll("#frame, .tools, .bars, #actions, #jobs")].map(
            (n) => n.getBoundingClientRect().y,
          ),
        );
      await page.waitForFunction(() => document.querySelectorAll("#legend li").length === 2);
      const before = await top();
      await page.locator("#compare").waitFor();
      expect(await top()).toEqual(before);
      expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)).toBeLessThanOrEqual(0);
      expect(await page.evaluate(() => getComputedStyle(document.body).colorScheme)).toBe("light dark");
      expect(complaints).toEqual([]);
    });
  }

  test("its markup asks for no exception from a strict content security policy", async () => {
    const answer = await fetch(origin);
    const policy = answer.headers.get("content-security-policy") ?? "";
    expect(policy).toContain("script-src");
    expect(policy).not.toContain("unsafe");
    const html = readFileSync(join(import.meta.dir, "..", "page", "index.html"), "utf8");
    expect(html.match(/<script\b/g)).toHaveLength(1);
    expect(html).not.toMatch(/<style\b/);
    expect(html).not.toMatch(/<[^>]*\s(on\w+|style)=/);
    // Whatever it is made of is served, and asks nobody else.
    for (const name of readdirSync(join(import.meta.dir, "..", "page"))) {
      const file = await fetch(`${origin}/page/${name}`);
      expect([name, file.status]).toEqual([name, 200]);
      const content = (await file.text()).replaceAll("http://www.w3.org/2000/svg", "");
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

describeWith(["chromium"], "page, a server that asks for a token", () => {
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
    const page = await (await browser.newContext({ locale })).newPage();
    page.on("dialog", () => {
      throw new Error("a dialog");
    });
    await page.goto(`http://127.0.0.1:${port}`);
    return page;
  }

  /** What was sent with each request that is guarded: `PUT Bearer …`. */
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

  test("it is asked for in the page; what was given before goes as soon as the right one is there", async () => {
    const page = await open();
    const sent = credentials(page);
    const field = page.getByLabel("Access token");
    await field.waitFor();
    expect(await field.getAttribute("type")).toBe("password");
    expect(await page.locator("#alive").textContent()).toBe("The server asks for its access token.");
    expect(await page.locator("#refused").textContent()).toBe("");

    await page.setInputFiles("#file", [png("a.png", 30, 20), png("b.png", 30, 20)]);
    await page.waitForFunction(() => document.querySelectorAll('.job[data-phase="locked"]').length === 2);
    expect(await page.locator("#say-lead").textContent()).toBe("Waiting for the access token");

    await unlock(page, "wrong");
    await page.waitForFunction(() => document.querySelector("#refused")?.textContent !== "");
    expect(await page.locator("#refused").textContent()).toBe("The server refused this token.");
    expect(sent.some((line) => line.startsWith("PUT"))).toBe(false);
    for (const impossible of ["", "two words", "señal"]) {
      const before = sent.length;
      await unlock(page, impossible); // no header can carry it
      expect(sent.slice(before).filter((line) => !line.endsWith(" Bearer wrong"))).toEqual([]);
      expect(await field.evaluate((input: HTMLInputElement) => input.validity.valid)).toBe(false);
    }

    await unlock(page);
    await page.waitForFunction(() => document.querySelectorAll('.job[data-phase="done"]').length === 2);
    expect(await field.isVisible()).toBe(false);
    expect(await field.inputValue()).toBe("");
    expect(await page.locator("#alive").textContent()).toBe("2 workers ready");
    expect(sent.filter((line) => line.startsWith("PUT"))).toEqual(Array(2).fill(`PUT Bearer ${TOKEN}`));
    expect(sent.filter((line) => line.startsWith("GET")).at(-1)).toBe(`GET Bearer ${TOKEN}`);

    // This tab keeps it, and no other place does.
    const elsewhere = () => JSON.stringify([{ ...localStorage }, document.cookie]);
    expect(await page.evaluate(elsewhere)).not.toContain(TOKEN);
    await page.reload();
    await page.waitForFunction(() => document.querySelector("#alive")?.textContent === "2 workers ready");
    expect(await field.isVisible()).toBe(false);
    const other = await page.context().newPage();
    await other.goto(page.url());
    await other.getByLabel("Access token").waitFor();
  });

  test("a job is cancelled with it", async () => {
    const page = await open();
    const sent = credentials(page);
    await unlock(page);
    await page.waitForFunction(() => document.querySelector("#alive")?.textContent === "2 workers ready");
    await slow(page, 1e6);
    await page.setInputFiles("#file", photo);
    await page.waitForFunction(() => (document.querySelector<HTMLProgressElement>("#bands")?.value ?? 0) > 0);
    const deleted = page.waitForResponse((answer) => answer.request().method() === "DELETE");
    await page.locator("#cancel").click();
    expect((await deleted).status()).toBe(204);
    expect(sent).toContain(`DELETE Bearer ${TOKEN}`);
  });

  test("a token that no longer holds: it is asked for again, and the job that met it first goes on", async () => {
    const page = await open();
    await unlock(page);
    await page.waitForFunction(() => document.querySelector("#alive")?.textContent === "2 workers ready");
    coordinator.kill("SIGKILL");
    await coordinator.exited;
    await page.route("**/workers", (route) => route.abort()); // the upload is to meet it, not the list of workers
    coordinator = await startCoordinator(port, { AUTH_TOKEN: "another" });
    await page.setInputFiles("#file", [photo, png("next.png", 30, 20)]);
    await page.getByLabel("Access token").waitFor();
    expect(await page.locator("#refused").textContent()).toBe("The server refused this token.");
    await page.waitForFunction(() => document.querySelectorAll('.job[data-phase="locked"]').length === 2);
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
    expect(await page.locator("#alive").textContent()).toBe("El servidor pide su token de acceso.");
    await page.setInputFiles("#file", png("a.png", 30, 20));
    await page.waitForFunction(
      () => document.querySelector("#say-lead")?.textContent === "Esperando el token de acceso",
    );
    await page.getByLabel("Token de acceso").fill("otro");
    await page.getByRole("button", { name: "Desbloquear" }).click();
    await page.waitForFunction(() => document.querySelector("#refused")?.textContent !== "");
    expect(await page.locator("#refused").textContent()).toBe("El servidor rechazó este token.");
  });
});

describeWith(["chromium", "rabbitmq", "redis"], "page, workers elsewhere", () => {
  test("without a worker it waits; with three their colours show, and what one left behind is taken over", async () => {
    const { rabbitmq, redis } = await sharedServers();
    const servers = { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url };
    const port = await freePort();
    const coordinator = await startCoordinator(port, servers);
    const browser = await launch();
    const page = await (await browser.newContext({ locale: "en-GB" })).newPage();
    await page.goto(`http://127.0.0.1:${port}`);
    await page.waitForFunction(
      () => document.querySelector("#alive")?.textContent === "Waiting for workers. Start one: bun run worker.ts",
    );
    expect(await page.locator("#alive code").textContent()).toBe("bun run worker.ts");
    expect(await page.locator("#workers option").allTextContents()).toEqual(["all"]);
    await page.setInputFiles("#file", photo);
    await page.waitForFunction(() => document.querySelector("#say-lead")?.textContent === "Waiting for workers");
    expect(await page.locator("#say-start").isVisible()).toBe(true);
    expect(await page.locator("#ratio").textContent()).toBe("0 of 19");
    expect(await violations(page)).toEqual([]);

    const late = spawnProgram("worker.ts", { ...servers, WORKER_NAME: "late" });
    // It says that it waits no longer than until the first band is done.
    await page.waitForFunction(() => (document.querySelector<HTMLProgressElement>("#bands")?.value ?? 0) > 0);
    expect(await page.locator("#lead").textContent()).not.toBe("Waiting for workers");
    await page.waitForSelector('#stage[data-phase="done"]');
    expect(await legend(page)).toEqual({ late: 19 });
    await page.waitForFunction(() => document.querySelector("#alive")?.textContent === "1 worker ready");

    const others = ["second", "third"].map((name) => spawnProgram("worker.ts", { ...servers, WORKER_NAME: name }));
    await page.waitForFunction(() => document.querySelector("#alive")?.textContent === "3 workers ready");
    await slow(page, 6e5); // bands come one by one, and the broker hands them round
    await page.setInputFiles("#file", { ...photo, name: "shared.png" });
    await page.waitForFunction(() => {
      const counts = [...document.querySelectorAll("#legend b")].map((count) => Number(count.textContent));
      return counts.length === 3 && counts.every((count) => count > 0);
    });
    // It hangs, with a band in its hands; the others do all that is left but that one.
    others[1].kill("SIGSTOP");
    await page.waitForFunction(() => document.querySelector("#ratio")?.textContent === "18 of 19");
    const colours = await spine(page, 1200);
    expect(new Set(colours).size).toBe(4); // three workers', and the dark of the band that is missing
    others[1].kill("SIGKILL");
    await page.waitForSelector('#stage[data-phase="done"]');
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
  test("where it has done a band nobody is waited for, after a reload neither", async () => {
    const { rabbitmq, redis } = await sharedServers();
    const port = await freePort();
    const coordinator = await startCoordinator(port, { RABBITMQ_URL: rabbitmq.url, REDIS_URL: redis.url });
    const browser = await launch();
    const page = await (await browser.newContext({ locale: "en-GB" })).newPage();
    const asked = jobIds(page);
    await page.goto(`http://127.0.0.1:${port}`);
    await page.setInputFiles("#file", png("small.png", 300, 900)); // three bands, which are in the queue at once
    await page.waitForSelector('.job[data-phase="waiting"]');
    await page.waitForSelector('#stage[data-phase="running"]');

    // A band off the queue, a key, an acknowledgement. What it makes of the band is the band.
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
    await page.waitForFunction(() => document.querySelector("#ratio")?.textContent === "1 of 3");
    await page.waitForFunction(() => document.querySelector("#lead")?.textContent === "At work");
    const state = async () => (await fetch(`http://127.0.0.1:${port}/jobs/${asked[0]}`)).json();
    expect(await state()).toMatchObject({ state: "running", done: 1, waiting: false });
    await page.reload();
    await page.waitForFunction(() => document.querySelector("#ratio")?.textContent === "1 of 3");
    await page.waitForFunction(() => document.querySelector("#lead")?.textContent === "At work");
    while (await work());
    await page.waitForSelector('#stage[data-phase="done"]');
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

  test("CSV and SVG of what is known so far; a name is text there too", async () => {
    const summary = summarize([
      { workers: 1, times: [100, 110] },
      { workers: 2, times: [60] },
      { workers: 3, times: [] },
    ]);
    expect(csvOf(summary).split("\r\n")[2]).toStartWith("2,60.0,,60.0,1.7500,0.8750,2.0000,");
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

const launch = () => chromium.launch({ executablePath: binaries.chromium, headless: true, args: FLAGS });

/** Embedded, unless `servers` says where RabbitMQ and Redis are. */
async function startCoordinator(port: number, servers: Record<string, string> = {}): Promise<Program> {
  const env = { PORT: String(port), WORKERS: String(WORKERS), BAND_PIXELS: "100000", ...servers };
  const program = spawnProgram("coordinator.ts", env);
  await program.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
  return program;
}

/** The least module of a task: it leaves the picture as it is. */
const moduleOf = (name: string, params: object) =>
  `export const task = { name: "${name}", halo: 0, params: ${JSON.stringify(params)}, run: ({ pixels }) => pixels };\n`;

/** A PNG of noise, which does not compress: its bytes take their time on a slow line. */
function png(name: string, width: number, height: number, channels: 1 | 3 = 3): Picture {
  const data = new Uint8Array(width * height * channels);
  let seed = 1;
  for (let i = 0; i < data.length; i++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    data[i] = seed >>> 24;
  }
  return {
    name,
    mimeType: "image/png",
    buffer: Buffer.from(encode({ width, height, channels, data }, { zlib: { level: 1 } })),
  };
}

/** From now on the page sends this many bytes a second. */
async function slow(page: Page, uploadThroughput: number): Promise<void> {
  const session = await page.context().newCDPSession(page);
  await session.send("Network.enable");
  await session.send("Network.emulateNetworkConditions", {
    offline: false,
    latency: 0,
    downloadThroughput: -1,
    uploadThroughput,
  });
}

const fast = (page: Page) => slow(page, -1);

/** The ids of the jobs that the page sends, as it sends them. */
function jobIds(page: Page): string[] {
  const ids: string[] = [];
  page.on("request", (request) => {
    if (request.method() === "PUT") ids.push(new URL(request.url()).pathname.split("/").at(-1) ?? "");
  });
  return ids;
}

/** Drops the files on the page's heading, or pastes them: away from the drop zone. */
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
      // Unless the page takes it, the browser leaves the page for the file.
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

/** The colour at the left edge of the canvas, in the middle of each band of a picture `height` px high. */
async function spine(page: Page, height: number): Promise<string[]> {
  const rows = 64; // of 1500 pixels, in 19 bands
  await page.waitForTimeout(400); // a band that comes glows for a moment
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

/** What axe-core objects to, in the state in which the page is. */
async function violations(page: Page): Promise<string[]> {
  await page.evaluate(axe.source);
  return page.evaluate(async () => {
    const { axe } = globalThis as unknown as { axe: typeof import("axe-core") };
    const { violations } = await axe.run(document);
    return violations.map(
      ({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join(", ")}`,
    );
  });
}

/** When another listener hears of a job's end, by `performance.now()`. */
async function ended(origin: string, id: string): Promise<number> {
  const answer = await fetch(`${origin}/events?jobs=${id}`);
  let text = "";
  for await (const piece of answer.body!.pipeThrough(new TextDecoderStream())) {
    text += piece;
    if (text.includes("event: done")) return performance.now();
  }
  throw new Error(`no end: ${text}`);
}

/** A PNG of one bit a pixel: many pixels of few bytes. */
function stripes(width: number, height: number): Picture {
  const line = Buffer.alloc(1 + width / 8);
  const lines = Array.from({ length: height }, (_, y) => Buffer.from(line).fill(y % 600 < 300 ? 0xff : 0xc3, 1));
  const idat = chunk("IDAT", deflateSync(Buffer.concat(lines), { level: 1 }));
  const buffer = Buffer.concat([SIGNATURE, ihdr(width, height, 1, 0), idat, chunk("IEND")]);
  return { name: "stripes.png", mimeType: "image/png", buffer };
}

async function until(condition: () => boolean | Promise<boolean>, ms = 10_000): Promise<void> {
  for (const deadline = Date.now() + ms; !(await condition()); ) {
    if (Date.now() > deadline) throw new Error(`not true after ${ms} ms: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
