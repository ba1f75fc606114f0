/**
 * The texts about a job that stage, list and runs share: its state, its error, its time, what was asked for.
 *
 * Not here: the elements that show them (stage.js, list.js, runs.js).
 */
import { elapsed, fileSize } from "./figures.js";
import { isElsewhere, isFinal } from "./job.js";
import { fleet } from "./server.js";
import { lang, number, t } from "./words.js";

/** The state to show: the phase of the job, or that it waits for workers or for the token. @param {import("./jobs.js").Job} of */
export function stateOf(of) {
  if (isElsewhere(of)) return "elsewhere";
  if (of.status.waiting && ["sending", "running"].includes(of.phase)) return "waiting";
  // The answer to an upload comes when the last band is in the queue.
  if (of.phase === "sending" && of.sent === 1) return "running";
  return fleet.locked && of.phase === "queued" ? "locked" : of.phase;
}

/** @param {import("./jobs.js").Job} of */
export function leadOf(of) {
  return of.problem && ["failed", "interrupted"].includes(of.phase) ? of.problem.title : t.phases[stateOf(of)];
}

/** @param {import("./jobs.js").Job} of */
export function detailOf(of) {
  if (of.phase === "lost") return t.lostWhy;
  if (of.phase === "expired") return t.expiredWhy;
  if (!of.problem || !["failed", "interrupted"].includes(of.phase)) return "";
  if (of.phase === "failed") return lang === "en" || !t.remedies[of.problem.status] ? of.problem.sentence : "";
  const seconds = Math.max(0, Math.ceil((of.retryAt - Date.now()) / 1000));
  return `${t.offline} ${t.nextTry(number(seconds))}`;
}

/** @param {import("./jobs.js").Job} of */
export function timeOf({ start, end }) {
  return start ? elapsed((end || Date.now()) - start) : "";
}

/** Task and parameters as requested. Once the server has answered, with defaults and derived parameters. @param {import("./jobs.js").Job} of */
export function askedOf({ task, query, status }) {
  const params = Object.entries(status.params ?? Object.fromEntries(new URLSearchParams(query)));
  // A long list, such as a table that a first step has found, is not shown.
  const short = params.map(([name, value]) => [name, typeof value === "object" ? JSON.stringify(value) : `${value}`]);
  return [task, ...short.filter(([, value]) => value.length < 100).map((pair) => pair.join("="))].join(" · ");
}

/** @param {import("./jobs.js").Job} of */
export function metaOf({ size, workers, status }) {
  const { kind, width, height, bands } = status;
  const pieces = kind === "list" && height !== bands ? t.piecesIn(number(height ?? 0)) : "";
  const extent = kind === "list" ? pieces : width && `${width} × ${height}`;
  const count = bands && t.bandsIn(number(bands), bands);
  return [size > 0 && fileSize(size), extent, count, workers && t.withWorkers(workers)].filter(Boolean).join(" · ");
}

/** @param {import("./jobs.js").Job} of */
export function doneOf({ doneBands, status }) {
  return Math.max(doneBands.size, status.done ?? 0);
}

/** @param {import("./jobs.js").Job} of */
export function canRetry(of) {
  if (isElsewhere(of)) return true;
  return of.file !== null && ["failed", "interrupted", "cancelled", "expired"].includes(of.phase) && !isFinal(of);
}

/** File name of a result. @param {import("./jobs.js").Job} done */
export const resultName = ({ name, task, status }) =>
  `${name === task ? "" : `${name.replace(/\.[^.]*$/, "") || "image"}.`}${task}.${isData({ status }) ? "json" : "png"}`;

/** Whether its result is data, not a picture. @param {Pick<import("./jobs.js").Job, "status">} of */
export const isData = ({ status }) => status.kind === "data" || status.kind === "list";

/** Whether the job has pieces of JSON, and no picture. @param {Pick<import("./jobs.js").Job, "status">} of */
export const isList = ({ status }) => status.kind === "list";
