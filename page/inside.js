/**
 * The look inside, `/?view=inside`: the messages that wait for each task, one of them with its picture, the keys of a job in
 * Redis, and the dead letters with a button that puts them back.
 *
 * Invariant: a message is read from a queue only after a click. The periodic requests only count.
 *
 * Not here: how the server looks (http/inside.ts).
 */
import { jsonOf } from "./data.js";
import { jobs } from "./jobs.js";
import { ask, Problem } from "./server.js";
import { onSystem, system } from "./system.js";
import { number, t } from "./words.js";

const POLL_MS = 2_000;
/** A longer text in a message, such as its picture, is cut. */
const MAX_TEXT = 120;

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));
const UUID = /[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/;

/** The row of each task. @type {Map<string, HTMLTableRowElement>} */
const rows = new Map();
/** The number of dead letters that are shown. */
let dead = -1;

export async function setUpInside() {
  onSystem.add(() => {
    $("inside-link").hidden = !system.classroom.inside;
    if ($("inside").dataset.mode !== system.mode) renderInside();
    $("inside").dataset.mode = system.mode ?? "";
  });
  if (new URLSearchParams(location.search).get("view") !== "inside") return;
  document.body.dataset.view = "inside";
  $("inside").hidden = false;
  $("inside-job").addEventListener("input", showKeys);
  $("put-all").addEventListener("click", () => putBack(""));
  for (;;) {
    if (!document.hidden) await attempt(showQueues);
    await new Promise((wake) => setTimeout(wake, POLL_MS));
  }
}

/** Writes all texts again: the language has changed, or the mode is known. */
export function renderInside() {
  if ($("inside").hidden) return;
  for (const row of rows.values()) row.remove();
  rows.clear();
  dead = -1;
  for (const id of ["put-text", "message-text"]) $(id).textContent = "";
  $("message").hidden = true;
  $("inside-where").textContent = system.mode ? t.inside[system.mode] : "";
  attempt(showQueues);
  showKeys();
}

/** Runs a step, and says why it failed. @param {() => Promise<void>} step */
async function attempt(step) {
  try {
    await step();
    $("inside-trouble").textContent = "";
  } catch (error) {
    $("inside-trouble").textContent = error instanceof Problem ? error.sentence : t.problems.other;
  }
}

const read = async (/** @type {string} */ path, /** @type {RequestInit} */ options = {}) =>
  (await ask(`/inside${path}`, options)).json();

async function showQueues() {
  const { queues, dead: letters } = await read("");
  for (const { task, waiting, consumers } of queues) {
    const row = rows.get(task) ?? queueRow(task);
    row.hidden = waiting === 0;
    row.cells[1].textContent = number(waiting);
    row.cells[2].textContent = number(consumers);
  }
  const idle = queues.filter((/** @type {{ waiting: number }} */ { waiting }) => waiting === 0).length;
  const text = t.idleQueues(number(idle), idle === queues.length);
  if ($("inside-idle").textContent !== text) $("inside-idle").textContent = text;
  $("inside-waiting").hidden = idle === queues.length;
  if (letters !== dead) await showLetters(letters);
  $("inside-jobs").replaceChildren(...jobs.map(({ id, name, task }) => new Option(`${name} · ${task}`, id)));
}

/** @param {string} task */
function queueRow(task) {
  const row = rowOf([task, "", ""], t.inside.look, () => attempt(() => showMessage(task)));
  rows.set(task, row);
  $("inside-queues").append(row);
  return row;
}

/**
 * A row that ends in a button.
 * @param {string[]} texts @param {string} label @param {() => void} [click] no button without it
 */
function rowOf(texts, label = "", click) {
  const row = document.createElement("tr");
  for (const text of texts) row.insertCell().textContent = text;
  if (click) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.addEventListener("click", click);
    row.insertCell().append(button);
  }
  return row;
}

/** @param {string} task */
async function showMessage(task) {
  const { waiting } = await read(`/queues/${task}`);
  $("message").hidden = false;
  const { imagen, ...rest } = waiting?.message ?? {};
  $("message-text").textContent = waiting ? jsonOf(shortened(waiting)) : t.inside.taken;
  URL.revokeObjectURL($("message-picture").src);
  $("message-picture").hidden = typeof imagen !== "string";
  if (typeof imagen === "string") $("message-picture").src = URL.createObjectURL(pictureOf(imagen));
  const job = UUID.exec(String(rest.chunk_id ?? waiting?.id))?.[0];
  if (!job) return;
  $("inside-job").value = job;
  await showKeys();
}

/** A copy without long texts. @param {unknown} message */
function shortened(message) {
  const short = (/** @type {string} */ text) => `${text.slice(0, MAX_TEXT / 2)}… (${number(text.length)})`;
  return JSON.parse(JSON.stringify(message), (_, value) =>
    typeof value === "string" && value.length > MAX_TEXT ? short(value) : value,
  );
}

/** @param {string} base64 of a PNG */
function pictureOf(base64) {
  return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type: "image/png" });
}

async function showKeys() {
  const id = $("inside-job").value.trim();
  if (!UUID.test(id)) return;
  await attempt(async () => {
    const answer = await read(`/jobs/${id}`).catch((problem) => {
      if (problem.status !== 404) throw problem;
      return { keys: [] };
    });
    const list = /** @type {{ key: string, type: string, size: number, ttl: number }[]} */ (answer.keys);
    $("inside-keys").replaceChildren(
      ...list.map(({ key, type, size, ttl }) => rowOf([key, type, number(size), `${number(ttl)} s`])),
    );
    $("inside-stored").hidden = list.length === 0;
    $("inside-none").hidden = list.length > 0;
  });
}

/** @param {number} count */
async function showLetters(count) {
  const { letters } = await read("/dead-letters");
  dead = count;
  const back = system.mode !== "embedded"; // there, dead letters have no pictures
  $("inside-letters").replaceChildren(
    .../** @type {{ id: string, queue: string, reason: string }[]} */ (letters).map(({ id, queue, reason }) =>
      rowOf([id, queue, reason], t.inside.putBack, back ? () => putBack(id) : undefined),
    ),
  );
  $("inside-dead").hidden = letters.length === 0;
  $("inside-alive").hidden = letters.length > 0;
  $("put-all").hidden = letters.length === 0 || !back;
}

/** @param {string} id of a chunk; empty: all */
async function putBack(id) {
  await attempt(async () => {
    const { letters } = await read(`/dead-letters/back${id && `?id=${encodeURIComponent(id)}`}`, { method: "POST" });
    const all = /** @type {{ id: string, outcome: string }[]} */ (letters);
    const kept = all.filter(({ outcome }) => outcome !== "");
    $("put-text").textContent = [
      t.putBackDone(number(all.length - kept.length)),
      ...kept.map(({ id: chunk, outcome }) => `${chunk}: ${outcome}.`),
    ].join(" ");
    dead = -1; // is read anew
    await showQueues();
  });
}
