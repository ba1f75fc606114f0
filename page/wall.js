/**
 * The class view, `/?view=wall`: the newest jobs in large type, and the address as a QR code, so that phones can send photos.
 *
 * The jobs of all are shown where `CLASSROOM=wall` allows it; otherwise those of this browser.
 */
import { elapsed } from "./figures.js";
import { jobs } from "./jobs.js";
import { ask } from "./server.js";
import { encode } from "./uqr.js";
import { number, t } from "./words.js";

const LIMIT = 12;
const POLL_MS = 1_500;
/** Larger results are not decoded for a card, pixels. */
const MAX_SHOWN = 24_000_000;
/** A card shows this much of a result that is JSON, characters. */
const MAX_TEXT = 120;

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));
const isWall = new URLSearchParams(location.search).get("view") === "wall";

/** @typedef {{ id: string, name: string, state: string, kind: string, pixels: number, bands: number, done: number, ms: number | null }} Card */

/** @type {Map<string, HTMLElement>} */
const cards = new Map();

export async function setUpWall() {
  if (!isWall) return;
  document.body.dataset.view = "wall";
  $("wall").hidden = false;
  $("wall-full").addEventListener("click", () => document.documentElement.requestFullscreen?.().catch(() => {}));
  const state = await ask("/state").then(
    (answer) => answer.json(),
    () => null,
  );
  const allowed = state?.classroom?.wall === true;
  $("wall-address").textContent = location.origin;
  $("wall-qr").innerHTML = codeOf(`${location.origin}/`);
  for (;;) {
    await render(allowed);
    await new Promise((wake) => setTimeout(wake, POLL_MS));
  }
}

/** The QR code as the content of an <svg>. @param {string} text */
function codeOf(text) {
  const { data, size } = encode(text, { border: 2 });
  const cells = data.flatMap((row, y) => row.map((dark, x) => (dark ? `M${x} ${y}h1v1h-1z` : "")));
  return `<svg viewBox="0 0 ${size} ${size}" aria-hidden="true"><path d="${cells.join("")}"/></svg>`;
}

/** @param {boolean} allowed whether the jobs of all may be listed */
async function render(allowed) {
  const answer = allowed && (await ask(`/jobs?limit=${LIMIT}`).catch(() => null));
  const all = answer ? (await answer.json()).jobs.map(cardOf) : null;
  const local = /^(localhost|127\.|\[::1\])/.test(location.hostname);
  $("wall-note").textContent = [local && t.wallLocal, !all && t.wallOwn].filter(Boolean).join(" ");
  const shown =
    all ?? jobs.filter(({ status }) => status.bands).map((job) => ({ ...cardOf(job.status), ...ownOf(job) }));
  show(shown.slice(0, LIMIT));
}

/** @param {any} job as the server describes it @returns {Card} */
function cardOf({ id, task, state, kind, width = 0, height = 0, bands = 0, done = 0, times }) {
  return { id, name: task, state, kind, pixels: width * height, bands, done, ms: times?.done ?? null };
}

/** @param {import("./jobs.js").Job} job */
function ownOf({ id, name, task, phase, start, end }) {
  return { id, name: `${name} · ${task}`, state: phase, ms: end ? end - start : null };
}

/** @param {Card[]} list */
function show(list) {
  $("wall-empty").hidden = list.length > 0;
  for (const [id, card] of cards) {
    if (list.some((other) => other.id === id)) continue;
    card.remove();
    cards.delete(id);
  }
  list.forEach((one, at) => {
    const card = cards.get(one.id) ?? newCard(one.id);
    if ($("wall-list").children[at] !== card) $("wall-list").insertBefore(card, $("wall-list").children[at] ?? null);
    const part = (/** @type {string} */ name) => /** @type {any} */ (card.querySelector(name));
    part("b").textContent = one.name;
    const share = one.bands ? one.done / one.bands : 0;
    const ended = one.state === "done" && one.ms !== null;
    part("span").textContent = ended ? elapsed(one.ms ?? 0) : number(share, { style: "percent" });
    if (one.state === "failed") part("span").textContent = t.phases.failed;
    part("i").style.transform = `scaleX(${share})`;
    showResult(one, part("img"), part("pre"));
  });
}

/** Once, when the job is done. @param {Card} job @param {HTMLImageElement} image @param {HTMLElement} text */
function showResult({ id, state, kind, pixels }, image, text) {
  if (state === "done" && kind === "picture" && pixels <= MAX_SHOWN && !image.hasAttribute("src")) {
    image.src = `/jobs/${id}/result`;
  }
  image.hidden = !image.hasAttribute("src");
  if (state !== "done" || kind === "picture" || !text.hidden) return;
  text.hidden = false;
  beginningOf(id).then(
    (begin) => {
      text.textContent = begin;
    },
    () => {}, // the result has expired
  );
}

/** The first characters of a result that is JSON. The rest is not downloaded. @param {string} id */
async function beginningOf(id) {
  const { body } = await ask(`/jobs/${id}/result`);
  const reader = /** @type {ReadableStream<BufferSource>} */ (body).pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const { done, value } = await reader.read();
    if (done) return text;
    text += value;
    if (text.length <= MAX_TEXT) continue;
    reader.cancel();
    return text.slice(0, MAX_TEXT) + "…";
  }
}

/** @param {string} id */
function newCard(id) {
  const card = document.createElement("li");
  card.className = "card row";
  const image = document.createElement("img");
  image.alt = "";
  const text = document.createElement("pre");
  text.hidden = true;
  card.append(image, text, document.createElement("b"), document.createElement("span"), document.createElement("i"));
  cards.set(id, card);
  return card;
}
