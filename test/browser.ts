// A real Chromium and what its tests share: pages, waits, pictures, throttled uploads, axe. A page is in English unless the
// test says otherwise.
import axe from "axe-core";
import { encode } from "fast-png";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { binaries, type Program, spawnProgram } from "./servers.ts";

export const WORKERS = 2;
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
FLAGS.push("--disable-component-update", "--disable-sync");

export interface Picture {
  name: string;
  mimeType: string;
  buffer: Buffer;
}

export const launch = () => chromium.launch({ executablePath: binaries.chromium, headless: true, args: FLAGS });

/** A page in a context of its own, in English unless `options` says otherwise. */
export async function newPage(browser: Browser, options: BrowserContextOptions = {}): Promise<Page> {
  return (await browser.newContext({ locale: "en-GB", ...options })).newPage();
}

export async function openPage(browser: Browser, port: number, options: BrowserContextOptions = {}): Promise<Page> {
  const page = await newPage(browser, options);
  await page.goto(`http://127.0.0.1:${port}`);
  return page;
}

export async function untilText(page: Page, selector: string, text: string): Promise<void> {
  const reads = ([selector, text]: string[]) => document.querySelector(selector)?.textContent === text;
  await page.waitForFunction(reads, [selector, text]);
}

export async function untilCount(page: Page, selector: string, count: number): Promise<void> {
  const has = ({ selector, count }: { selector: string; count: number }) =>
    document.querySelectorAll(selector).length === count;
  await page.waitForFunction(has, { selector, count });
}

/** Waits for the phase of the job on the stage. */
export async function untilPhase(page: Page, phase: string): Promise<void> {
  await page.waitForSelector(`#stage[data-phase="${phase}"]`);
}

/** Waits until the job on the stage has at least `count` finished bands. */
export async function untilBands(page: Page, count: number): Promise<void> {
  const done = (count: number) => (document.querySelector<HTMLProgressElement>("#bands")?.value ?? 0) >= count;
  await page.waitForFunction(done, count);
}

/** Waits for the end of all transitions and animations but those that never end. */
export async function untilStill(page: Page): Promise<void> {
  await page.evaluate(() => {
    const ending = document.getAnimations().filter(({ effect }) => effect?.getComputedTiming().endTime !== Infinity);
    return Promise.all(ending.map(({ finished }) => finished));
  });
}

/** Everything in one process, unless `servers` has the URLs of RabbitMQ and Redis. */
export async function startCoordinator(port: number, servers: Record<string, string> = {}): Promise<Program> {
  const env = { PORT: String(port), WORKERS: String(WORKERS), BAND_PIXELS: "100000", ...servers };
  const program = spawnProgram("coordinator.ts", env);
  await program.waitFor(/http:\/\/127\.0\.0\.1:\d+/);
  return program;
}

/** A module with a task that returns the picture unchanged. */
export const moduleOf = (name: string, params: object) =>
  `export const task = { name: "${name}", halo: 0, params: ${JSON.stringify(params)}, run: ({ pixels }) => pixels };\n`;

/** A PNG of noise, which does not compress, so that its upload takes time on a slow network. */
export function png(name: string, width: number, height: number, channels: 1 | 3 = 3): Picture {
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

/** Throttles the uploads of the page, bytes per second. */
export async function slow(page: Page, uploadThroughput: number): Promise<void> {
  const session = await page.context().newCDPSession(page);
  await session.send("Network.enable");
  await session.send("Network.emulateNetworkConditions", {
    offline: false,
    latency: 0,
    downloadThroughput: -1,
    uploadThroughput,
  });
}

export const fast = (page: Page) => slow(page, -1);

/** The violations that axe-core finds in the present state of the page. */
export async function violations(page: Page): Promise<string[]> {
  await page.evaluate(axe.source);
  return page.evaluate(async () => {
    const { axe } = globalThis as unknown as { axe: typeof import("axe-core") };
    const { violations } = await axe.run(document);
    return violations.map(
      ({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join(", ")}`,
    );
  });
}
