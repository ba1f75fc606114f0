/**
 * The report of a job as one HTML file to hand in: settings, picture with its bands, timeline, runs and the experiment.
 *
 * The timeline is an image of its own, so that its styles and those of the figure do not meet.
 *
 * Invariant: the file needs nothing else, neither this server nor another.
 */
import { experimentOf, figureOf } from "./experiment.js";
import { escaped } from "./speedup.js";
import { askedOf, isData, leadOf, metaOf, timeOf } from "./texts.js";
import { timelineSvg } from "./timeline.js";
import { lang, t } from "./words.js";

const STYLE = `body{max-width:64rem;margin:2rem auto;padding:0 1rem;font:16px/1.5 system-ui,sans-serif;color:#14191b;background:#fff}
table{border-collapse:collapse}th,td{padding:.3rem 1.5rem .3rem 0;border-bottom:1px solid #d3dadc;text-align:left;font-weight:400}
img,svg{max-width:100%;height:auto}pre{overflow-wrap:anywhere;white-space:pre-wrap}`;

/** @param {import("./jobs.js").Job} job @returns {Blob} */
export function reportOf(job) {
  const words = t.report;
  const date = new Date(job.start || job.added).toLocaleString(lang, { dateStyle: "long", timeStyle: "medium" });
  const facts = [
    [words.date, date],
    [words.task, askedOf(job)],
    [words.size, metaOf(job)],
    ["Workers", job.workers ? String(job.workers) : t.everyone],
    [leadOf(job), timeOf(job)],
    ["id", job.id],
  ];
  const cells = facts.map(([name, value]) => `<tr><th>${escaped(name)}</th><td>${escaped(value)}</td></tr>`).join("");
  const canvas = /** @type {HTMLCanvasElement | null} */ (document.getElementById("mosaic"));
  const picture = canvas && canvas.width > 1 ? `<p><img alt="" src="${canvas.toDataURL("image/png")}"></p>` : "";
  const data = isData(job) ? `<pre>${escaped(document.getElementById("data")?.textContent ?? "")}</pre>` : "";
  const runs = document.querySelector("#runs table");
  const figure = figureOf(experimentOf(job.name));
  const part = (/** @type {string} */ head, /** @type {string | null | undefined} */ body) =>
    body ? `<h2>${escaped(head)}</h2>${body}` : "";
  const body = [
    `<h1>${escaped(job.name)}</h1>`,
    part(words.settings, `<table>${cells}</table>`),
    part(words.result, data),
    picture,
    part(words.timeline, `<p><img alt="" src="data:image/svg+xml,${encodeURIComponent(timelineSvg())}"></p>`),
    part(words.runs, runs?.outerHTML.replace(/<\/?button[^>]*>/g, "")),
    part(words.experiment, figure),
  ].join("\n");
  const head = `<meta charset="utf-8"><title>${escaped(job.name)}</title><style>${STYLE}</style>`;
  return new Blob([`<!doctype html>\n<html lang="${lang}"><head>${head}</head><body>${body}</body></html>\n`], {
    type: "text/html",
  });
}
