/**
 * Which task the next picture goes to, and its parameters: a form made of what the coordinator tells of its tasks.
 *
 * Not here: how a job is sent (jobs.js). Names and descriptions are the tasks' own, in their own language.
 */
import { ask, fleet, forTask, onFleet } from "./server.js";
import { t } from "./words.js";

/**
 * @typedef {{ type: string, description?: string, minimum?: number, maximum?: number, default?: unknown, enum?: string[] }} Param
 * @typedef {{ name: string, version: number, description: string, params: { properties: Record<string, Param> } }} Task
 */

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

/** @type {Task[]} */
let tasks = [];
/** The tasks that the fleet had when they were last asked for. @type {string | null} */
let known = null;

export function setUpTasks() {
  $("task").addEventListener("change", renderParams);
  onFleet.add(async () => {
    const now = fleet.workers && [...new Set(fleet.all.flatMap((worker) => worker.tasks))].sort().join();
    if (now === null || now === known) return;
    known = now;
    try {
      ({ tasks } = await (await ask("/tasks")).json());
      renderTasks();
    } catch {
      known = null; // asked again with the next count
    }
  });
}

/** What is chosen: the task's name, and its parameters as a query. */
export function chosenTask() {
  const values = new URLSearchParams();
  for (const input of $("params").elements ?? []) {
    if (input.type === "checkbox") values.set(input.name, String(input.checked));
    else if (input.value !== "") values.set(input.name, input.value);
  }
  return { task: $("task").value || "sobel", query: values.toString() };
}

/** Whether all parameters are as they may be; if not, the browser says what is wrong with the first. */
export const isValid = () => $("params").reportValidity();

function renderTasks() {
  const chosen = $("task").value;
  $("task").replaceChildren(...tasks.map(({ name }) => new Option(name, name)));
  $("task").value = tasks.some(({ name }) => name === chosen) ? chosen : "sobel";
  renderParams();
}

/** The form for the chosen task; what was entered for another is gone. */
export function renderParams() {
  const task = tasks.find(({ name }) => name === $("task").value);
  forTask(task ? (task.version === 1 ? task.name : `${task.name}.${task.version}`) : "sobel");
  $("about").textContent = task?.description ?? "";
  const fields = Object.entries(task?.params.properties ?? {}).map(([name, param]) => field(name, param));
  $("params").replaceChildren(...fields);
  $("params").hidden = fields.length === 0;
}

/** @param {string} name @param {Param} param */
function field(name, param) {
  const label = document.createElement("label");
  label.append(`${name} `, inputOf(name, param));
  label.title = param.description ?? "";
  return label;
}

/** @param {string} name @param {Param} param */
function inputOf(name, param) {
  const start = param.default === undefined ? "" : String(param.default);
  if (param.enum) {
    const select = document.createElement("select");
    select.name = name;
    // Without a default it may be left out.
    const choices = param.default === undefined ? ["", ...param.enum] : param.enum;
    select.append(...choices.map((choice) => new Option(choice || t.automatic, choice)));
    select.value = start;
    return select;
  }
  const input = document.createElement("input");
  Object.assign(input, { name, value: start, placeholder: param.default === undefined ? t.automatic : start });
  if (param.type === "boolean") Object.assign(input, { type: "checkbox", checked: param.default === true });
  if (param.type === "number" || param.type === "integer") {
    Object.assign(input, { type: "number", step: param.type === "integer" ? "1" : "any" });
    if (param.minimum !== undefined) input.min = String(param.minimum);
    if (param.maximum !== undefined) input.max = String(param.maximum);
  }
  return input;
}
