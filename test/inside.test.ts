// The look inside, in a real Chromium: messages, keys and dead letters of a real RabbitMQ and Redis.
import { afterAll, afterEach, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { connect } from "amqplib";
import type { Browser } from "playwright-core";
import { launch, newPage, png, startCoordinator, untilCount, untilText, violations } from "./browser.ts";
import { describeWith, freePort, type Program, sharedServers, startRedis } from "./servers.ts";
import { until } from "./wait.ts";

setDefaultTimeout(60_000);

const TOKEN = "a-token-of-the-class";
const photo = png("photo.png", 600, 500, 1); // 3 bands of 100,000 pixels

describeWith(["chromium", "rabbitmq", "redis"], "the look inside", () => {
  let browser: Browser;
  let origin: string;
  let rabbitmq: string;
  const coordinators: Program[] = [];

  async function start(settings: Record<string, string>): Promise<string> {
    const port = await freePort();
    coordinators.push(await startCoordinator(port, settings));
    return `http://127.0.0.1:${port}`;
  }
  beforeAll(async () => {
    rabbitmq = (await sharedServers()).rabbitmq.url;
    const redis = await startRedis();
    origin = await start({ RABBITMQ_URL: rabbitmq, REDIS_URL: redis.url, AUTH_TOKEN: TOKEN, CLASSROOM: "wall" });
    browser = await launch();
  });
  afterAll(async () => {
    await browser?.close();
    for (const program of coordinators) program.kill("SIGKILL");
  });
  afterEach(() => Promise.all(browser.contexts().map((context) => context.close())));

  test("one message with its picture, the keys of its job, a dead letter and its way back; in Spanish, behind the token", async () => {
    const id = crypto.randomUUID();
    const authorization = `Bearer ${TOKEN}`;
    const body = new Uint8Array(photo.buffer);
    const upload = fetch(`${origin}/jobs/${id}?workers=3`, { method: "PUT", headers: { authorization }, body });
    upload.catch(() => {}); // there is no worker: it lasts until the coordinator is killed

    const page = await newPage(browser, { locale: "es-AR", viewport: { width: 390, height: 844 } });
    await page.goto(`${origin}/`);
    await page.fill("#token", TOKEN);
    await page.keyboard.press("Enter");
    await page.getByRole("link", { name: "Por dentro" }).click();
    // The buttons of the language do nothing before the page's modules have run.
    await untilText(page, "#inside-where", "La cola es RabbitMQ, el almacén es Redis.");
    await page.click("#en");
    await untilText(page, "#inside-queues tr:not([hidden])", "sobel30Show one");
    await page.click("#es");
    await untilText(page, "#inside-queues tr:not([hidden])", "sobel30Mostrar uno");
    expect(await page.locator(".bar").isVisible()).toBe(false);
    await page.getByRole("button", { name: "Mostrar uno" }).click();
    await page.waitForFunction(
      () => document.querySelector<HTMLImageElement>("#message-picture")?.naturalWidth === 600,
    );
    const message = JSON.parse((await page.locator("#message-text").textContent()) ?? "");
    expect(message.message).toMatchObject({ chunk_id: `{${id}}:0`, imagen: expect.stringMatching(/^iVBOR.{55}… \(/) });
    expect(await page.locator("#inside-job").inputValue()).toBe(id);
    await page.locator("#inside-keys tr", { hasText: `job:{${id}}:sent` }).waitFor();
    expect(await violations(page)).toEqual([]);
    const wide = () => document.documentElement.scrollWidth > document.documentElement.clientWidth;
    expect(await page.evaluate(wide)).toBe(false);

    // As a worker dead-letters a band.
    const connection = await connect(rabbitmq);
    const channel = await connection.createConfirmChannel();
    const band = await channel.get("tareas");
    if (!band) throw new Error("no message");
    const headers = {
      "x-attempt": band.properties.headers?.["x-attempt"],
      "x-queue": "tareas",
      "x-reason": "<b>ill</b>",
    };
    channel.sendToQueue("tareas.muertas", band.content, { ...band.properties, headers });
    await channel.waitForConfirms();
    channel.ack(band);
    const row = page.locator("#inside-letters tr");
    await row.waitFor();
    expect(await row.textContent()).toBe(`${band.properties.messageId}tareas<b>ill</b>Devolver`);
    expect(await violations(page)).toEqual([]);
    await row.getByRole("button").click();
    await untilCount(page, "#inside-letters tr", 0);
    expect(await page.locator("#put-text").textContent()).toContain("Devueltas: 1.");
    await untilText(page, "#inside-queues tr:not([hidden])", "sobel30Mostrar uno");
    await page.fill("#inside-job", crypto.randomUUID());
    await page.locator("#inside-none").waitFor();

    // A job that is gone takes no place in the list of all.
    const headersOf = { headers: { authorization } };
    const listed = async () => (await (await fetch(`${origin}/jobs?limit=1`, headersOf)).json()).jobs;
    const other = crypto.randomUUID();
    fetch(`${origin}/jobs/${other}`, { method: "PUT", ...headersOf, body }).catch(() => {});
    await until(async () => (await listed())[0]?.id === other);
    await fetch(`${origin}/jobs/${other}`, { method: "DELETE", ...headersOf });
    await until(async () => (await listed())[0]?.id === id);

    await channel.purgeQueue("tareas");
    await page.locator("#inside-waiting").waitFor({ state: "hidden" });
    await connection.close();
  });

  test("in one process there is no RabbitMQ and no Redis; the texts follow the language", async () => {
    const page = await newPage(browser);
    await page.goto(`${await start({ CLASSROOM: "inside" })}/?view=inside`);
    await page.waitForFunction(() => document.querySelector("#inside-where")?.textContent?.includes("one process"));
    await page.waitForFunction(() => document.querySelector("#inside-idle")?.textContent?.startsWith("Nothing waits"));
    expect((await page.locator("#inside").textContent())?.match(/RabbitMQ|Redis/g)).toEqual(["RabbitMQ", "Redis"]);
    await page.click("#es");
    await page.waitForFunction(() => document.querySelector("#inside-idle")?.textContent?.startsWith("No hay nada"));
    expect(await page.locator("#inside-where").textContent()).toEndWith("no hay RabbitMQ ni Redis.");
    expect(await violations(page)).toEqual([]);
  });

  test("without the setting and without a token there is no link, and the view says what is missing", async () => {
    const closed = await start({});
    const page = await newPage(browser);
    await page.goto(closed);
    await page.waitForSelector("#alive[data-ready]");
    expect(await page.locator("#inside-link").isVisible()).toBe(false);
    await page.goto(`${closed}/?view=inside`);
    await untilText(page, "#inside-trouble", "not allowed here: the coordinator lacks CLASSROOM=inside");
  });
});
