// The page in a real Chromium, against the real coordinator with its embedded workers. Nothing is stubbed: what makes a
// job slow enough to watch, to cancel or to lose is the browser's own network, throttled.
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { encode } from "fast-png";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import sharp from "sharp";
import { binaries, describeWith, freePort, type Program, sharedServers, spawnProgram } from "./servers.ts";

const WORKERS = 2;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
FLAGS.push("--disable-component-update", "--disable-sync");

interface Picture {
  name: string;
  mimeType: string;
  buffer: Buffer;
}

const photo = png("photo.png", 1500, 1200); // 19 bands of 100,000 pixels
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
      // The events of a job that does not exist yet: the browser reports the 404, the page asks again.
      const early = message.location().url.endsWith("/events") && message.text().includes("404");
      if (!early && ["error", "warning"].includes(message.type())) complaints.push(message.text());
    });
    if (before) await page.addInitScript(before);
    await page.goto(origin);
    return page;
  }

  test("an image goes in, the bars fill, its edges come out and are downloaded by themselves", async () => {
    const page = await open();
    const asked = jobIds(page);
    const download = page.waitForEvent("download");
    await slow(page, 2e6);
    await page.setInputFiles("#file", photo);

    // The picture is there at once, and bands are done while the file is still on its way.
    await page.waitForFunction(() => document.querySelector<HTMLImageElement>("img.before")?.naturalWidth === 1500);
    await page.waitForFunction(() => {
      const [sent, bands] = [...document.querySelectorAll("progress")];
      return sent && bands && sent.value > 0 && sent.value < 1 && bands.value > 0 && bands.value < bands.max;
    });

    const file = await download;
    expect(file.suggestedFilename()).toBe("photo.sobel.png");
    const id = asked[0] ?? "";
    expect(id).toMatch(UUID);
    const result = Buffer.from(await (await fetch(`${origin}/jobs/${id}/result`)).arrayBuffer());
    expect(result.subarray(1, 4).toString()).toBe("PNG");
    expect(readFileSync(await file.path()).equals(result)).toBe(true);

    await page.waitForSelector('.job[data-phase="done"]');
    expect(await page.locator(".ratio").textContent()).toBe("19 of 19");
    expect(await page.locator("progress.bands").evaluate((bar: HTMLProgressElement) => bar.value / bar.max)).toBe(1);
    expect(await page.locator(".percent").textContent()).toBe("100%");
    expect(await page.locator(".meta").textContent()).toContain("1500 × 1200 · 19 bands");
    expect(await page.locator(".time").textContent()).toMatch(/^\d+\.\d s$/);
    await page.waitForFunction(() => document.querySelector<HTMLImageElement>("img.after")?.naturalWidth === 1500);

    // The shares are the server's own account, and no band is lost or counted twice.
    const { byWorker } = (await (await fetch(`${origin}/jobs/${id}`)).json()) as Job;
    const shares = await legend(page);
    expect(Object.values(shares).reduce((sum, bands) => sum + bands, 0)).toBe(19);
    for (const [name, { bands }] of Object.entries(byWorker)) expect(shares[name]).toBe(bands);

    const again = page.waitForEvent("download");
    await page.click(".again");
    expect((await again).suggestedFilename()).toBe("photo.sobel.png");
    expect(complaints).toEqual([]);
  });

  test("several files at once are jobs one after the other; a file may be dropped anywhere, or pasted", async () => {
    const page = await open();
    const flying = new Set<string>();
    let most = 0;
    page.on("request", (request) => {
      if (request.method() === "PUT") most = Math.max(most, flying.add(request.url()).size);
    });
    page.on("requestfinished", (request) => flying.delete(request.url()));
    const names: string[] = [];
    page.on("download", (download) => names.push(download.suggestedFilename()));

    await slow(page, 1e6); // the first is on its way for a second: the third comes meanwhile
    await give(page, "drop", [png("first.png", 640, 480), png("second.holiday.png", 320, 240)]);
    await give(page, "paste", [png("image.png", 64, 64)]);
    expect(await page.locator('[data-phase="sending"] .name').textContent()).toBe("first.png");
    await page.waitForFunction(() => document.querySelectorAll('[data-phase="done"]').length === 3);
    expect(most).toBe(1);

    await until(() => names.length === 3);
    expect(names).toEqual(["first.sobel.png", "second.holiday.sobel.png", "image.sobel.png"]);
    expect(await page.locator(".name").allTextContents()).toEqual(["image.png", "first.png", "second.holiday.png"]);
    expect(complaints).toEqual([]);
  });

  test("a picture that the browser cannot show goes through, with its kind in its place", async () => {
    const page = await open();
    const buffer = await sharp(photo.buffer).tiff().toBuffer();
    let early = 0;
    page.on("response", (answer) => {
      if (answer.url().endsWith("/events") && answer.status() === 404) early++;
    });
    await slow(page, 4e6);
    const download = page.waitForEvent("download");
    await page.setInputFiles("#file", { name: "scan.tiff", mimeType: "image/tiff", buffer });
    expect((await download).suggestedFilename()).toBe("scan.sobel.png");
    expect(early).toBeGreaterThan(0); // it is read as a whole: there is no job to follow before its last byte
    expect(await legend(page).then((shares) => Object.values(shares).reduce((sum, bands) => sum + bands))).toBe(19);
    expect(await page.locator(".kind").textContent()).toBe("TIFF");
    expect(await page.locator("img.before").isVisible()).toBe(false);
    expect(await page.locator("img.after").isVisible()).toBe(true);
  });

  test("what is not an image is refused in the server's words, said aloud, and not offered again", async () => {
    const page = await open();
    await page.setInputFiles("#file", text);
    await page.waitForSelector('[data-phase="failed"]');
    const url = `${origin}/jobs/${crypto.randomUUID()}?task=sobel`;
    const problem = (await (await fetch(url, { method: "PUT", body: text.buffer.toString() })).json()) as {
      detail: string;
    };
    expect(problem.detail.length).toBeGreaterThan(10);
    expect(await page.locator(".detail").textContent()).toBe(problem.detail);
    expect(await page.locator("#announce").textContent()).toContain(problem.detail);
    expect(await page.locator(".retry").isVisible()).toBe(false);
    expect(await page.locator("#announce").getAttribute("role")).toBe("status");

    // The next one is not held up.
    await page.setInputFiles("#file", png("good.png", 30, 20));
    await page.waitForSelector('[data-phase="done"]');
  });

  test("the name of a file is text, whatever stands in it", async () => {
    const page = await open();
    const name = '<img src=x onerror="document.title=1">.png';
    await page.setInputFiles("#file", { ...png(name, 30, 20), name });
    await page.waitForSelector('[data-phase="done"]');
    expect(await page.locator(".name").textContent()).toBe(name);
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
    await page.waitForSelector('[data-phase="done"]');
    await page.selectOption("#workers", "1");
    await page.setInputFiles("#file", png("one.png", 30, 20));
    await page.waitForFunction(() => document.querySelectorAll('[data-phase="done"]').length === 2);
    expect(queries).toEqual(["?task=sobel", "?task=sobel&workers=1"]);
  });

  test("cancel ends the upload, deletes the job and lets the next one run", async () => {
    const page = await open();
    const asked = jobIds(page);
    await slow(page, 2e6);
    await page.setInputFiles("#file", [photo, png("next.png", 30, 20)]);
    const first = page.locator(".job").first();
    await page.waitForFunction(() => (document.querySelector<HTMLProgressElement>("progress.bands")?.value ?? 0) > 0);
    const deleted = page.waitForResponse((answer) => answer.request().method() === "DELETE");
    coordinator.kill("SIGSTOP"); // a server that hangs holds nothing up
    await first.locator(".cancel").click();
    await page.waitForSelector('.job:nth-child(2)[data-phase="sending"]');
    coordinator.kill("SIGCONT");
    expect((await deleted).status()).toBe(204);
    expect(await first.getAttribute("data-phase")).toBe("cancelled");
    expect(await first.locator(".lead").textContent()).toBe("Cancelled");
    expect(await first.locator(".retry").evaluate((button) => button === document.activeElement)).toBe(true);
    await page.waitForSelector('.job:nth-child(2)[data-phase="done"]');
    await until(async () => (await fetch(`${origin}/jobs/${asked[0]}`)).status === 404);
    expect(await first.getAttribute("data-phase")).toBe("cancelled");

    // Asked for again it is another job.
    await fast(page);
    await first.locator(".retry").click();
    await page.waitForSelector('.job:nth-child(1)[data-phase="done"]');
    expect(new Set(asked).size).toBe(3);
    expect(complaints).toEqual([]);
  });

  test("an upload that the server's death cut short is sent again under the same id", async () => {
    const page = await open();
    const asked = jobIds(page);
    await slow(page, 2e6);
    await page.setInputFiles("#file", photo);
    await page.waitForFunction(() => (document.querySelector<HTMLProgressElement>("progress.bands")?.value ?? 0) > 0);
    coordinator.kill("SIGKILL");
    await coordinator.exited;
    await page.waitForSelector('[data-phase="failed"]');
    expect(await page.locator(".lead").textContent()).toBe("The connection was lost");
    await page.waitForFunction(() => document.querySelector("#alive")?.textContent === "The server does not answer.");

    coordinator = await startCoordinator(port);
    await fast(page);
    const download = page.waitForEvent("download");
    await page.click(".retry");
    expect((await download).suggestedFilename()).toBe("photo.sobel.png");
    expect(asked).toHaveLength(2);
    expect(asked[1]).toBe(asked[0] ?? "");
    expect(await page.locator(".ratio").textContent()).toBe("19 of 19");
  });

  test("without crypto.randomUUID, as on plain HTTP from another host, jobs still have their UUIDs", async () => {
    const page = await open({}, () => {
      Object.defineProperty(Crypto.prototype, "randomUUID", { value: undefined });
    });
    const asked = jobIds(page);
    await page.setInputFiles("#file", [png("a.png", 30, 20), png("b.png", 30, 20)]);
    await page.waitForFunction(() => document.querySelectorAll('[data-phase="done"]').length === 2);
    expect(asked).toHaveLength(2);
    for (const id of asked) expect(id).toMatch(UUID);
    expect(asked[0]).not.toBe(asked[1] ?? "");
  });

  test("Spanish for who prefers it, with no word left in English", async () => {
    const page = await open({ locale: "es-ES" });
    expect(await page.getAttribute("html", "lang")).toBe("es");
    expect(await page.title()).toBe("Sobel, distribuido");
    expect(await page.locator(".flow li").allTextContents()).toEqual(["dividir", "encolar", "procesar", "unir"]);
    await page.setInputFiles("#file", photo);
    await page.waitForSelector('[data-phase="done"]');
    expect(await page.locator(".ratio").textContent()).toBe("19 de 19");
    expect(await page.locator("#announce").textContent()).toBe("photo.png: Listo");
    await page.waitForFunction(() => document.querySelector("#alive")?.textContent === "2 workers listos");

    // Each text that the markup marks for translation differs from the English one; "Workers" is the same word.
    const other = await open();
    const marked = () =>
      [document, document.querySelector<HTMLTemplateElement>("#card")?.content ?? document].flatMap((root) =>
        [...root.querySelectorAll<HTMLElement>("[data-t]")].map((node) => node.dataset.t ?? ""),
      );
    const shown = () =>
      Object.fromEntries(
        [...document.querySelectorAll<HTMLElement>("[data-t]")].map((n) => [n.dataset.t, n.textContent]),
      );
    await other.setInputFiles("#file", photo);
    await other.waitForSelector('[data-phase="done"]');
    const [spanish, english, keys] = [
      await page.evaluate(shown),
      await other.evaluate(shown),
      await page.evaluate(marked),
    ];
    expect(Object.keys(spanish).sort()).toEqual([...new Set(keys)].sort());
    const same = Object.keys(spanish).filter((key) => spanish[key] === english[key]);
    expect(same).toEqual(["workers"]);
  });

  test("by keyboard: the file input comes first, shows that it has the focus and has a name", async () => {
    const page = await open();
    const chooser = page.waitForEvent("filechooser"); // long before: Chromium is told of it in the background
    const ring = () => page.locator(".drop").evaluate((zone) => getComputedStyle(zone).outlineStyle);
    expect(await ring()).toBe("none");
    await page.keyboard.press("Tab");
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("file");
    expect(await ring()).toBe("solid");
    expect(await page.getByLabel("Choose a file").getAttribute("id")).toBe("file");
    await page.keyboard.press("Enter");
    expect((await chooser).isMultiple()).toBe(true);
    await page.keyboard.press("Tab");
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("workers");
  });

  for (const [width, colorScheme] of [
    [375, "light"],
    [1440, "dark"],
  ] as const) {
    test(`${width} px wide, ${colorScheme}: nothing sticks out, and nothing jumps while a job runs`, async () => {
      const page = await open({ viewport: { width, height: 800 }, colorScheme });
      await page.waitForFunction(() => document.querySelector("#alive")?.hasAttribute("data-ready"));
      await page.setInputFiles("#file", { ...photo, name: `${"a-long-name".repeat(12)}.png` });
      await page.waitForSelector(".job");
      const top = () =>
        page.evaluate(() =>
          [...document.querySelectorAll(".pane, .bars, .foot")].map((n) => n.getBoundingClientRect().y),
        );
      const before = await top();
      await page.waitForSelector('[data-phase="done"]');
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
    const html = readFileSync(join(import.meta.dir, "..", "page.html"), "utf8");
    expect(html.match(/<script\b/g)).toHaveLength(1);
    expect(html.match(/<style\b/g)).toHaveLength(1);
    expect(html).not.toMatch(/<[^>]*\s(on\w+|style)=/);
    expect(html).not.toMatch(/(?:src|href)="(?:https?:)?\/\//);
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
    await page.waitForFunction(() => document.querySelectorAll('[data-phase="queued"]').length === 2);
    expect(await page.locator(".lead").first().textContent()).toBe("Waiting for the access token");

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
    await page.waitForFunction(() => document.querySelectorAll('[data-phase="done"]').length === 2);
    expect(await field.isVisible()).toBe(false);
    expect(await field.inputValue()).toBe("");
    expect(await page.locator("#alive").textContent()).toBe("2 workers ready");
    expect(sent.filter((line) => line.startsWith("PUT"))).toEqual(Array(2).fill(`PUT Bearer ${TOKEN}`));
    expect(sent.filter((line) => line.startsWith("GET")).at(-1)).toBe(`GET Bearer ${TOKEN}`);

    // This tab keeps it, and no other place does.
    expect(await page.evaluate(() => [localStorage.length, document.cookie])).toEqual([0, ""]);
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
    await page.waitForFunction(() => (document.querySelector<HTMLProgressElement>("progress.bands")?.value ?? 0) > 0);
    const deleted = page.waitForResponse((answer) => answer.request().method() === "DELETE");
    await page.locator(".cancel").click();
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
    await page.waitForFunction(() => document.querySelectorAll('[data-phase="queued"]').length === 2);
    await page.unroute("**/workers");
    const names: string[] = [];
    page.on("download", (download) => names.push(download.suggestedFilename()));
    await unlock(page, "another");
    await until(() => names.length === 2);
    expect(names).toEqual(["photo.sobel.png", "next.sobel.png"]);
    coordinator.kill("SIGKILL");
    await coordinator.exited;
    coordinator = await startCoordinator(port, { AUTH_TOKEN: TOKEN });
  });

  test("in Spanish", async () => {
    const page = await open("es-ES");
    await page.getByLabel("Token de acceso").waitFor();
    expect(await page.locator("#alive").textContent()).toBe("El servidor pide su token de acceso.");
    await page.setInputFiles("#file", png("a.png", 30, 20));
    await page.waitForFunction(() => document.querySelector(".lead")?.textContent === "Esperando el token de acceso");
    await page.getByLabel("Token de acceso").fill("otro");
    await page.getByRole("button", { name: "Desbloquear" }).click();
    await page.waitForFunction(() => document.querySelector("#refused")?.textContent !== "");
    expect(await page.locator("#refused").textContent()).toBe("El servidor rechazó este token.");
  });
});

describeWith(["chromium", "rabbitmq", "redis"], "page, workers elsewhere", () => {
  test("without a worker it waits and says how to start one; the job goes on as soon as there is one", async () => {
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
    await page.waitForFunction(() => document.querySelector(".lead")?.textContent === "Waiting for workers");
    expect(await page.locator(".ratio").textContent()).toBe("0 of 19");

    const worker = spawnProgram("worker.ts", { ...servers, WORKER_NAME: "late" });
    // It says that it waits no longer than until the first band is done.
    await page.waitForFunction(() => (document.querySelector<HTMLProgressElement>("progress.bands")?.value ?? 0) > 0);
    expect(await page.locator(".lead").textContent()).not.toBe("Waiting for workers");
    await page.waitForSelector('[data-phase="done"]');
    expect(await legend(page)).toEqual({ late: 19 });
    await page.waitForFunction(() => document.querySelector("#alive")?.textContent === "1 worker ready");
    await browser.close();
    for (const program of [worker, coordinator]) program.kill();
    await Promise.all([worker.exited, coordinator.exited]);
  });
});

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

/** A PNG of noise, which does not compress: its bytes take their time on a slow line. */
function png(name: string, width: number, height: number): Picture {
  const data = new Uint8Array(width * height * 3);
  let seed = 1;
  for (let i = 0; i < data.length; i++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    data[i] = seed >>> 24;
  }
  return { name, mimeType: "image/png", buffer: Buffer.from(encode({ width, height, channels: 3, data })) };
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
    .locator(".legend li")
    .evaluateAll((items) =>
      items.map((item) => [item.querySelector("span")?.textContent, item.querySelector("b")?.textContent]),
    );
  return Object.fromEntries(rows.map(([name, bands]) => [name, Number(bands)]));
}

async function until(condition: () => boolean | Promise<boolean>, ms = 10_000): Promise<void> {
  for (const deadline = Date.now() + ms; !(await condition()); ) {
    if (Date.now() > deadline) throw new Error(`not true after ${ms} ms: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
