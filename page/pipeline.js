/**
 * The drawing at the top: the system as it is now. As many nodes as there are workers, the bands of the job on the stage by
 * where they are, and a light each for RabbitMQ and Redis. Words say which of them is away.
 *
 * Not here: where the lights come from (system.js), the timeline (timeline.js).
 */
import { colourOf } from "./colours.js";
import { isOpen } from "./job.js";
import { onJob } from "./jobs.js";
import { element } from "./lanes.js";
import { fleet, onFleet } from "./server.js";
import { onSystem, system } from "./system.js";
import { progressOf } from "./turns.js";
import { number, t } from "./words.js";

/** The most nodes that are drawn. Further ones are a number. */
const MAX_NODES = 12;
const BACKENDS = /** @type {const} */ (["rabbitmq", "redis"]);

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

/** @type {import("./jobs.js").Job | null} */
let job = null;

export function setUpPipeline() {
  onSystem.add(renderPipeline);
  onFleet.add(renderPipeline);
  onJob.add((changed) => changed === job && renderPipeline());
}

/** @param {import("./jobs.js").Job | null} other */
export function showPipeline(other) {
  job = other;
  renderPipeline();
}

export function renderPipeline() {
  renderNodes();
  renderLights();
  const progress = job && progressOf(job);
  for (const name of /** @type {const} */ (["cut", "queued", "held", "stored"])) {
    set($(`count-${name}`), progress ? number(progress[name]) : "");
  }
  const text = troubleText();
  $("trouble").hidden = text === "";
  set($("trouble"), text);
}

/** Changes a text only if it differs, so that screen readers do not repeat it. @param {Element} node @param {string} text */
function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** The nodes with their wires, in two columns of six at most: busy ones are filled with the colour of their worker. */
function renderNodes() {
  const names = (fleet.workers ?? []).map(({ name }) => name);
  const busy = new Set(job && isOpen(job) ? [...job.trace.claims.values()].map(({ worker }) => worker) : []);
  const shown = names.slice(0, MAX_NODES);
  const key = shown.map((name) => `${name} ${busy.has(name)}`).join() + names.length;
  const nodes = $("pipeline-nodes");
  if (nodes.dataset.key === key) return;
  nodes.dataset.key = key;
  const columns = shown.length > 6 ? 2 : 1;
  const rows = Math.ceil(shown.length / columns);
  const side = Math.min(20, 66 / Math.max(1, rows) - 2);
  /** @type {SVGElement[]} */
  const parts = shown.flatMap((name, i) => {
    const y = 36 + (side + 2) * (Math.floor(i / columns) - (rows - 1) / 2);
    const x = 300 - (columns * (side + 3)) / 2 + (i % columns) * (side + 3);
    const node = element("use", { href: "#node-shape", x, y: y - side / 2, width: side, height: side });
    if (busy.has(name)) node.style.fill = colourOf(name);
    if (i % columns > 0) return [node];
    const kinds = ["wire", ...(busy.size > 0 ? ["busy on"] : [])];
    const wires = kinds.flatMap((kind) => [
      element("path", { class: kind, d: `M222 36C252 36 244 ${y} ${x - 5} ${y}` }),
      element("path", { class: kind, d: `M${600 - x + 5} ${y}C354 ${y} 348 36 378 36` }),
    ]);
    return [...wires, node];
  });
  if (names.length > MAX_NODES)
    parts.push(element("text", { x: 326, y: 40, fill: "var(--soft)" }, `+${names.length - MAX_NODES}`));
  nodes.replaceChildren(...parts);
}

function renderLights() {
  $("lights").hidden = !system.backends;
  for (const name of BACKENDS) {
    const light = system.backends?.[name];
    $(`light-${name}`).dataset.light = light ? (light.up ? "up" : "down") : "";
    set($(`light-${name}`).querySelector("span"), light ? (light.up ? t.lightUp : t.lightDown) : "");
  }
}

/** What is away, why, and what becomes of the work. */
function troubleText() {
  if (system.silent) return fleet.trouble ? fleet.trouble() : t.silent;
  const lines = BACKENDS.flatMap((name) => {
    const light = system.backends?.[name];
    if (!light || light.up) return [];
    const why = t.why[/** @type {keyof typeof t.why} */ (light.code ?? "unreachable")] ?? light.detail ?? "";
    return `${name === "redis" ? "Redis" : "RabbitMQ"} ${why}.`;
  });
  return lines.length > 0 ? [...lines, t.resumes].join(" ") : "";
}
