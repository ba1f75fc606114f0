/**
 * Files that the page makes itself: the report of a job, and all results as one ZIP.
 *
 * Not here: the result of one job, which the server names (stage.js).
 */
import { downloadZip } from "./client-zip.js";
import { jobs, onJob } from "./jobs.js";
import { reportOf } from "./report.js";
import { ask } from "./server.js";
import { chosen } from "./stage.js";
import { resultName } from "./texts.js";

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

export function setUpSaving() {
  $("report").addEventListener("click", () => {
    const job = chosen();
    if (job) saveBlob(reportOf(job), `${job.name.replace(/\.[^.]*$/, "")}.html`);
  });
  $("zip").addEventListener("click", saveAll);
  onJob.add(() => {
    $("zip").hidden = jobs.filter(({ phase }) => phase === "done").length < 2;
    $("report").hidden = chosen()?.phase !== "done";
  });
}

async function saveAll() {
  $("zip").disabled = true;
  saveBlob(await downloadZip(results()).blob(), "results.zip");
  $("zip").disabled = false;
}

/** One result at a time, with a number where names are the same. Results that have expired are left out. */
async function* results() {
  const names = new Set();
  for (const job of jobs.filter(({ phase }) => phase === "done")) {
    const input = await ask(`/jobs/${job.id}/result`).catch(() => null);
    if (!input) continue;
    let name = resultName(job);
    for (let n = 2; names.has(name); n++) name = resultName(job).replace(/(\.\w+)$/, `-${n}$1`);
    names.add(name);
    yield { name, input };
  }
}

/** @param {Blob} blob @param {string} name */
function saveBlob(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
