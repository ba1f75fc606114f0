// The page as a class uses it, in a real Chromium: the layout, a picture sent again, its runs, what the options say.
import { afterAll, afterEach, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import {
  launch,
  newPage,
  png,
  slow,
  startCoordinator,
  untilBands,
  untilCount,
  untilPhase,
  violations,
} from "./browser.ts";
import { describeWith, freePort, type Program } from "./servers.ts";
import { until } from "./wait.ts";

setDefaultTimeout(60_000);

const photo = png("photo.png", 900, 700, 1);

describeWith(["chromium"], "the page in a class", () => {
  let origin: string;
  let coordinator: Program;
  let browser: Browser;

  beforeAll(async () => {
    const port = await freePort();
    origin = `http://127.0.0.1:${port}`;
    coordinator = await startCoordinator(port, { CLASSROOM: "wall,inside" });
    browser = await launch();
  });
  afterAll(async () => {
    await browser?.close();
    coordinator?.kill("SIGKILL");
    await coordinator?.exited;
  });
  afterEach(() => Promise.all(browser.contexts().map((context) => context.close())));

  async function open(options: BrowserContextOptions = {}): Promise<Page> {
    const page = await newPage(browser, options);
    await page.goto(origin);
    await page.waitForSelector("#alive[data-ready]");
    return page;
  }

  /** The queries of the jobs that the page sends. */
  function queries(page: Page): URLSearchParams[] {
    const sent: URLSearchParams[] = [];
    page.on("request", (request) => {
      if (request.method() === "PUT") sent.push(new URL(request.url()).searchParams);
    });
    return sent;
  }

  test.each([
    [1280, 720],
    [1366, 657],
    [1024, 768],
    [390, 844],
  ])("at %i × %i the result and its buttons need no scrolling", async (width, height) => {
    const page = await open({ viewport: { width, height }, locale: "es-AR" });
    await page.selectOption("#task", "blur"); // its parameters do not push the stage down
    await page.setInputFiles("#file", photo);
    await untilPhase(page, "done");
    for (const id of ["frame", "download", "curl", "report", "view-compare", "zoom-in", "time"]) {
      const box = (await page.locator(`#${id}`).boundingBox())!;
      expect({ id, in: box.y >= 0 && box.y + box.height <= height, wide: box.x + box.width <= width }).toEqual({
        id,
        in: true,
        wide: true,
      });
    }
    expect((await page.locator("#actions").boundingBox())!.height).toBeLessThanOrEqual(45); // one line, as before the end
    const isCut = () => [...document.querySelectorAll("#runs .table")].some((box) => box.scrollWidth > box.clientWidth);
    expect(await page.evaluate(isCut)).toBe(false);
    const before = await page.locator("#frame").boundingBox();
    await page.click("#more");
    expect(await page.locator("#params").isVisible()).toBe(true);
    expect(await page.locator("#frame").boundingBox()).toEqual(before);
    await page.keyboard.press("Escape");
    expect(await page.locator("#params").isVisible()).toBe(false);
  });

  test("again with another number of workers, in the same cut, and as chosen above; the runs and their speed-up", async () => {
    const page = await open();
    const sent = queries(page);
    await page.setInputFiles("#file", photo);
    await untilPhase(page, "done");
    const runs = () => page.locator("#runs-rows tr").count();
    expect(await runs()).toBe(1);
    for (const name of ["Again with 1 worker", "Again with 2 workers", "Again with all workers"]) {
      await page.getByRole("button", { name }).click();
      await untilPhase(page, "done");
    }
    const rows = Math.ceil(700 / 7); // 7 bands of 100,000 pixels
    const { length } = sent;
    expect(length).toBe(4);
    expect(sent.map((query) => query.get("workers"))).toEqual([null, "1", "2", null]);
    expect(new Set(sent.slice(1).map((query) => query.get("bandRows")))).toEqual(new Set([sent[1]!.get("bandRows")]));
    expect(Number(sent[1]!.get("bandRows"))).toBeGreaterThanOrEqual(rows);

    await page.selectOption("#task", "scharr");
    await page.click("#more");
    await page.selectOption("#cut", "bands");
    await page.fill("#cut-number", "5");
    await page.getByRole("button", { name: "As chosen above" }).click();
    await untilPhase(page, "done");
    expect(Object.fromEntries(sent[4]!)).toEqual({ task: "scharr", bands: "5" });

    const cells = await page
      .locator("#runs-rows tr")
      .evaluateAll((rows) => rows.map((row) => [...row.children].map((cell) => cell.textContent)));
    expect(cells.map(([workers, task]) => [workers, task])).toEqual([
      ["all", "scharr"],
      ["all", "sobel"],
      ["2", "sobel"],
      ["1", "sobel"],
      ["all", "sobel"],
    ]);
    expect(cells[0]![4]).toBe("–"); // no run with one worker to compare with
    expect(cells[3]![4]).toBe("1.00");
    for (const at of [1, 2, 4]) expect(cells[at]![4]).toMatch(/^\d+\.\d\d$/);
    expect(await violations(page)).toEqual([]);

    // A run is shown, and the picture survives a reload, so it can be sent again.
    await page.getByRole("button", { name: "Show the run with 2 workers" }).click();
    expect(await page.locator("#runs-rows [aria-current]").textContent()).toBe("2");
    expect(await page.locator("#meta").textContent()).toEndWith(" · 2 workers at a time");
    await page.reload();
    await untilCount(page, "#runs-rows tr", 5);
    await page.getByRole("button", { name: "Again with 2 workers" }).click();
    await untilCount(page, "#runs-rows tr", 6);
    await untilPhase(page, "done");
  });

  test("files for which a parameter is invalid wait for its correction", async () => {
    const page = await open({ locale: "es-AR" });
    await page.selectOption("#task", "median");
    expect(await page.locator("#about").textContent()).toContain("Filtro de mediana");
    await page.fill('#params [name="radius"]', "99");
    await page.setInputFiles("#file", photo);
    expect(await page.locator("#held").textContent()).toContain("photo.png: todavía no se envió");
    expect(await page.locator(".job").count()).toBe(0);
    await page.fill('#params [name="radius"]', "2");
    await page.click("#held-send");
    await untilPhase(page, "done");
    expect(await page.locator("#asked").textContent()).toBe("median · radius=2 · times=3");
    expect(await page.locator("#held").isVisible()).toBe(false);
  });

  test("while a file is dragged over the page, the page is a visible target, after the first picture too", async () => {
    const page = await open({ locale: "es-AR" });
    await page.setInputFiles("#file", photo);
    await untilPhase(page, "done");
    const target = page.locator(".target", { hasText: "Soltá una imagen" });
    expect(await target.isVisible()).toBe(false);
    const drag = (type: string) =>
      page.evaluate((type) => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File(["x"], "x.png"));
        document.body.dispatchEvent(new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer }));
      }, type);
    await drag("dragover");
    const box = await target.boundingBox();
    const size = page.viewportSize()!;
    expect([box!.width > size.width * 0.9, box!.height > size.height * 0.9]).toEqual([true, true]);
    expect(await violations(page)).toEqual([]);
    await drag("dragleave");
    expect(await target.isVisible()).toBe(false);
  });

  test("a sample picture; the address of its job opens it elsewhere; the task of real work is proposed", async () => {
    const page = await open();
    const sent = queries(page);
    await page.getByRole("button", { name: "Rings, 2400 × 1600" }).click();
    await untilPhase(page, "done");
    expect(await page.locator("#name").textContent()).toBe("rings.png");
    expect(await page.title()).toBe("Sobel, distributed");
    expect(page.url()).toMatch(/#job=[0-9a-f-]{36}&name=rings\.png$/);

    const other = await newPage(browser, { locale: "es-AR" });
    await other.goto(page.url());
    await untilPhase(other, "done");
    expect(await other.locator("#name").textContent()).toBe("rings.png");
    expect(await other.locator("#meta").textContent()).toContain("2400 × 1600");
    expect(await other.locator("#again-chosen").isDisabled()).toBe(true); // it has no picture to send
    expect(await violations(other)).toEqual([]);

    // Computed in less than it takes to carry, unless the machine is busy just then.
    const proposal = page.getByRole("button", { name: "Send it with median" });
    for (let jobs = 2; !(await proposal.isVisible()); jobs++) {
      await page.setInputFiles("#file", png("tiny.png", 300, 200, 1));
      await untilCount(page, '.job[data-phase="done"]', jobs);
    }
    await proposal.click();
    await untilPhase(page, "done");
    expect(sent.at(-1)!.get("task")).toBe("median");
    expect(await page.locator("#light").isVisible()).toBe(false);
  });

  test("the report of a job and all results as one ZIP; an experiment is kept over a reload", async () => {
    const page = await open({ locale: "es-AR" });
    await page.click("#more");
    await page.uncheck("#save");
    await page.setInputFiles("#file", [png("<b>.png", 300, 200, 1), png("two.png", 300, 200, 1)]);
    await untilCount(page, '.job[data-phase="done"]', 2);
    await page.getByRole("button", { name: "Otra vez con 2 workers" }).click();
    await untilCount(page, '.job[data-phase="done"]', 3);
    await page.click("#measure");
    await page.locator("#earlier, #figures").first().waitFor();
    await page.waitForSelector("#stop", { state: "hidden" });
    const caption = (await page.locator("#caption").textContent()) ?? "";
    expect(caption).toMatch(/^<b>\.png · sobel · 1 a 2 workers, 1 máquina, \d+ núcleos · .*20\d\d/);

    const drawn = await page
      .locator("#charts .tick")
      .first()
      .evaluate((text) => getComputedStyle(text));
    expect([drawn.stroke, drawn.opacity]).toEqual(["none", "1"]); // the timeline has ticks too

    const saved = async (id: string) => {
      const download = page.waitForEvent("download");
      await page.click(id);
      return readFileSync(await (await download).path());
    };
    const report = (await saved("#report")).toString();
    for (const part of [
      "&#60;b&#62;.png",
      "data:image/png;base64,",
      "<h2>Experimento</h2><svg",
      "1 máquina",
      "todos",
    ]) {
      expect(report).toContain(part);
    }
    const handedIn = await newPage(browser);
    await handedIn.setContent(report);
    const [bands, timeline] = await handedIn
      .locator("img")
      .evaluateAll((images) =>
        (images as HTMLImageElement[]).map(({ naturalWidth, src }) => [naturalWidth, decodeURIComponent(src)] as const),
      );
    expect([bands![0] > 0, timeline![0] > 0]).toEqual([true, true]);
    expect(timeline![1]).toMatch(/<style[^>]*>.*class="compute"/s);
    expect(report).not.toMatch(/(src|href)="(?!data:)|<b>\.png|<script|<button/);
    const zip = (await saved("#zip")).toString("latin1");
    for (const name of ["<b>.sobel.png", "<b>.sobel-2.png", "two.sobel.png"]) expect(zip).toContain(name);
    const csv = (await saved("#csv")).toString();
    expect(csv).toMatch(/;fecha|;date\r\n1;\d+,\d;/);

    await page.reload();
    await page.locator("#figures").waitFor();
    expect(await page.locator("#caption").textContent()).toBe(caption);
    expect(await violations(page)).toEqual([]);

    // Several of them stand side by side, each with its figure and what was measured.
    await page.evaluate(() => {
      const [kept] = JSON.parse(localStorage.getItem("experiments") ?? "[]");
      const other = { ...kept, name: "other.png", task: "median", query: "radius=2", machines: 3 };
      localStorage.setItem("experiments", JSON.stringify([kept, other]));
    });
    await page.reload();
    const figures = page.locator("#earlier button:has(svg .measured)");
    await untilCount(page, "#earlier button:has(svg .measured)", 2);
    const says =
      /^other\.png · median · radius=2 · 1 a 2 workers, 3 máquinas, \d+ núcleos · .*20\d\d.*: aceleración \d,\d\d$/;
    expect(await figures.nth(1).locator("span").textContent()).toMatch(says);
    await figures.nth(1).waitFor(); // hidden while the page starts
    // In one step inside the page: news of the workers replaces the figures, and one that is replaced has no place.
    const [left, right] = await page.evaluate(() =>
      [...document.querySelectorAll("#earlier button:has(svg .measured)")].map((one) => one.getBoundingClientRect()),
    );
    expect([right.y, right.x > left.x + left.width]).toEqual([left.y, true]);
    await figures.nth(1).click();
    expect(await page.locator("#caption").textContent()).toContain("other.png");
    for (let n = 0; n < 2; n++) await page.waitForResponse(/\/workers$/); // news of the workers leaves the focus alone
    expect(await page.evaluate(() => document.activeElement?.getAttribute("aria-current"))).toBe("true");
    expect(await violations(page)).toEqual([]);
  });

  test("the class view shows everybody's jobs as they come, with the address as a QR code", async () => {
    const wall = await newPage(browser, { locale: "es-AR" });
    const problems: string[] = [];
    wall.on("console", (message) => message.type() === "error" && problems.push(message.text()));
    await wall.goto(`${origin}/?view=wall`);
    await wall.waitForSelector("#wall-qr path");
    expect(await wall.locator("#wall-address").textContent()).toBe(origin);
    expect(await wall.locator("#stage, .bar").first().isVisible()).toBe(false);
    const id = crypto.randomUUID();
    await fetch(`${origin}/jobs/${id}?task=scharr`, { method: "PUT", body: new Uint8Array(photo.buffer) });
    const card = wall.locator("#wall-list li", { has: wall.locator(`img[src="/jobs/${id}/result"]`) });
    await card.waitFor();
    expect(await card.textContent()).toMatch(/^scharr\d+,\d s$/);
    for (const forcedColors of ["none", "active"] as const) {
      await wall.emulateMedia({ colorScheme: "light", forcedColors });
      expect(await violations(wall)).toEqual([]);
    }
    // Data is shown as the beginning of its JSON.
    for (const [task, text] of Object.entries({ "primes&below=100": /^25\s*$/, histogram: /^\[\d+,[\d,]*…$/ })) {
      const url = `${origin}/jobs/${crypto.randomUUID()}?task=${task}`;
      await fetch(url, { method: "PUT", body: task === "histogram" ? new Uint8Array(photo.buffer) : "" });
      await wall.locator("#wall-list pre", { hasText: text }).waitFor();
    }
    // A job that is gone takes no place in the list.
    const [newest] = (await (await fetch(`${origin}/jobs?limit=1`)).json()).jobs;
    await (await fetch(`${origin}/tasks/sobel`, { method: "POST", body: new Uint8Array(photo.buffer) })).arrayBuffer();
    await until(async () => {
      const { jobs } = await (await fetch(`${origin}/jobs?limit=1`)).json();
      return jobs[0]?.id === newest.id;
    });
    expect(problems).toEqual([]);
  });

  test("a choice of the view within a second of the end is kept; a failed job says what to do", async () => {
    const page = await open({ locale: "es-AR" });
    await slow(page, 4e5);
    await page.setInputFiles("#file", photo);
    await untilBands(page, 1);
    await untilPhase(page, "done");
    await page.click("#view-mosaic");
    await Bun.sleep(1_500); // longer than the mosaic stays by itself
    expect(await page.locator("#view-mosaic").getAttribute("aria-pressed")).toBe("true");

    await page.setInputFiles("#file", { name: "a.txt", mimeType: "text/plain", buffer: Buffer.from("To do: film") });
    await untilPhase(page, "failed");
    expect(await page.locator("#say-lead").textContent()).toBe("Esto no es una imagen");
    expect(await page.locator("#say-remedy").textContent()).toContain("Elegí una imagen");
    expect(await page.locator("#say-another").isVisible()).toBe(true);
    for (const part of [".bars", "#time", "#runs"]) expect(await page.locator(part).isVisible()).toBe(false);
    expect(await violations(page)).toEqual([]);
  });
});
