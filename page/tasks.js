/**
 * The task for the next picture and the form of its parameters, made from the coordinator's list of tasks.
 *
 * Names and descriptions come from the tasks. Those of this project are translated.
 *
 * Not here: sending a job (jobs.js).
 */
import { ask, fleet, forTask, onFleet } from "./server.js";
import { lang, t } from "./words.js";

/**
 * @typedef {{ type: string, description?: string, minimum?: number, maximum?: number, default?: unknown, enum?: string[] }} Param
 * @typedef {{ name: string, version: number, description: string, takes: "picture" | "text" | "bytes" | null, params: { properties: Record<string, Param> } }} Task
 */

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

const PICTURES = "image/*,.tif,.tiff,.avif";

/** @type {Task[]} */
let tasks = [];
/** The last list of tasks from the server, as text. */
let received = "";
/** The task and the language that the form was made for, and the name of the task. */
let shown = "";
let shownTask = "";
/** @type {any[]} */
let inputs = [];

export function setUpTasks() {
  $("cut").addEventListener("change", () => {
    $("cut-number").hidden = $("cut-number").disabled = $("cut").value === "";
  });
  $("task").addEventListener("change", renderParams);
  // With every count of the workers: a task may change its parameters under the same name.
  onFleet.add(async () => {
    if (!fleet.workers || fleet.trouble) return;
    try {
      const text = await (await ask("/tasks")).text();
      if (text === received) return;
      ({ tasks } = JSON.parse(text));
      received = text;
      renderTasks();
    } catch {
      // Asked again after the next count.
    }
  });
}

/** The chosen task, its parameters as a query, and how the picture is cut. */
export function chosenTask() {
  const values = new URLSearchParams();
  for (const input of inputs) {
    if (textOf(input) !== "") values.set(input.name, textOf(input));
  }
  const cut = $("cut").value && $("cut-number").value ? `${$("cut").value}=${$("cut-number").value}` : "";
  return { task: $("task").value || "sobel", query: values.toString(), cut };
}

/** What the chosen task takes; null for nothing. */
export const taken = () => {
  const task = tasks.find(({ name }) => name === $("task").value);
  return task ? task.takes : "picture";
};

/** Whether all parameters are valid. The browser reports the first that is not. */
export const isValid = () => $("params").reportValidity() && $("cutting").reportValidity();

function renderTasks() {
  const chosen = $("task").value;
  $("task").replaceChildren(...tasks.map(({ name }) => new Option(name, name)));
  $("task").value = tasks.some(({ name }) => name === chosen) ? chosen : "sobel";
  renderParams();
}

/** Makes the form of the chosen task. Values that the user entered are kept while the task is the same. */
export function renderParams() {
  const task = tasks.find(({ name }) => name === $("task").value);
  forTask(task ? (task.version === 1 ? task.name : `${task.name}.${task.version}`) : "sobel");
  const now = lang + JSON.stringify(task);
  if (now === shown) return; // unchanged: do not disturb the user while typing
  shown = now;
  const takes = taken();
  for (const drop of document.querySelectorAll(".drop")) /** @type {HTMLElement} */ (drop).hidden = takes === null;
  /** @type {HTMLElement} */ (document.querySelector(".camera")).hidden = takes !== "picture";
  $("samples").hidden = takes !== "picture";
  $("start").hidden = takes !== null;
  $("drop-what").textContent = takes === "picture" ? t.dropPicture : takes === "text" ? t.dropText : t.dropFile;
  $("file").accept = takes === "picture" ? PICTURES : takes === "text" ? "text/*,.txt,.md,.csv,.log" : "";
  const about = t.tasks[task?.name ?? ""];
  $("about").textContent = about ?? task?.description ?? "";
  $("about").lang = about ? lang : "en";
  const fields = Object.entries(task?.params.properties ?? {}).map(([name, param], at) =>
    field(name, param, at, t.tasks[`${task?.name}.${name}`]),
  );
  $("params").replaceChildren(...fields);
  $("params").hidden = fields.length === 0;
  const before = shownTask === task?.name ? inputs : [];
  shownTask = task?.name ?? "";
  inputs = [...$("params").querySelectorAll("[name]")];
  for (const input of inputs) {
    input.dataset.start = textOf(input);
    const old = before.find(({ name }) => name === input.name);
    if (old && textOf(old) !== old.dataset.start) enter(input, textOf(old));
  }
}

/** @param {any} input */
const textOf = (input) => (input.type === "checkbox" ? String(input.checked) : input.value);

/** Enters a value. An option that no longer exists falls back to the default. @param {any} input @param {string} value */
function enter(input, value) {
  if (input.type === "checkbox") input.checked = value === "true";
  else input.value = value;
  if (input.selectedIndex === -1) input.value = input.dataset.start;
}

/** @param {string} name @param {Param} param @param {number} at @param {string} [translated] its description */
function field(name, param, at, translated) {
  const [box, label, about] = ["div", "label", "small"].map((kind) => document.createElement(kind));
  const input = inputOf(name, param);
  input.id = `param-${at}`;
  box.className = "field row";
  label.setAttribute("for", input.id);
  label.textContent = name;
  box.append(label, input);
  if (!param.description) return box;
  about.id = `${input.id}-about`;
  about.textContent = translated ?? param.description;
  about.className = "soft";
  about.lang = translated ? lang : "en";
  input.setAttribute("aria-describedby", about.id);
  box.append(about);
  return box;
}

/** @param {string} name @param {Param} param */
function inputOf(name, param) {
  const optional = param.default === undefined;
  const start = optional ? "" : String(param.default);
  if (param.enum || (param.type === "boolean" && optional)) {
    const select = document.createElement("select");
    select.name = name;
    if (optional) select.append(new Option(t.automatic, "")); // optional
    for (const choice of param.enum ?? []) select.append(new Option(choice, choice));
    if (!param.enum) select.append(new Option(t.yes, "true"), new Option(t.no, "false"));
    select.value = start;
    return select;
  }
  const input = document.createElement("input");
  // An empty value is not sent.
  Object.assign(input, { name, value: start, placeholder: optional ? t.automatic : t.byDefault(start) });
  if (param.type === "boolean") Object.assign(input, { type: "checkbox", checked: param.default === true });
  if (param.type === "number" || param.type === "integer") {
    Object.assign(input, { type: "number", step: param.type === "integer" ? "1" : "any" });
    if (param.minimum !== undefined) input.min = String(param.minimum);
    if (param.maximum !== undefined) input.max = String(param.maximum);
  }
  return input;
}
