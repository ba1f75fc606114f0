/**
 * The address of a job, `/#job=ID&name=photo.png`: another tab or another person can open it.
 *
 * Not here: jobs (jobs.js).
 */
import { byId } from "./jobs.js";
import { choose } from "./stage.js";
import { visit } from "./tabs.js";

/** Shows the job that the address names, if the server still has it. @returns {Promise<boolean>} whether it does */
export async function openAddress() {
  const named = new URLSearchParams(location.hash.slice(1));
  const id = named.get("job") ?? "";
  if (!/^[0-9a-f-]{36}$/.test(id)) return false;
  const job = byId(id) ?? (await visit(id, named.get("name") || id.slice(0, 8)));
  if (job) choose(job);
  return job !== undefined;
}

/** @param {import("./jobs.js").Job | null} job */
export function writeAddress(job) {
  const hash = job ? `#${new URLSearchParams({ job: job.id, name: job.name })}` : "";
  if (hash !== location.hash) history.replaceState(null, "", hash || location.pathname + location.search);
}
