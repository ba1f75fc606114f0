/**
 * The mosaic: finished bands with their edges, each in the colour of its worker, over the dimmed original.
 *
 * The canvas has the size at which it is shown, not that of the picture. Bands are fetched at that width, two at a time,
 * so that uploads and events keep their connections. A list has no picture: its bands are the cells of a grid.
 *
 * Not here: which worker did which band (jobs.js), the legend (legend.js).
 */
import { colourOf } from "./colours.js";
import { ask } from "./server.js";

/** Limit of the width and height of the canvas, px. */
const MAX_SIDE = 2048;
const FETCHES = 2;
/** Pictures of bands are enlarged at most by this factor. Beyond it they are fetched again. */
const MAX_ENLARGED = 1.4;
const MIN_WIDTH = 16; // the limit of the coordinator
/** Duration of the glow of a new band, ms. */
const GLOW_MS = 350;

export class Mosaic {
  /** @type {import("./jobs.js").Job | null} */ #job = null;
  #id = "";
  /** Cells in a row of the grid of a list; 0 for a picture. */ #columns = 0;
  /** The edges of the bands fetched so far, grey. */
  #edges = document.createElement("canvas");
  /** @type {ImageBitmap | null} */ #original = null;
  #originalOf = /** @type {Blob | null} */ (null);
  /** Bands whose edges are drawn. */ #drawn = new Set(/** @type {number[]} */ ([]));
  /** Bands that are shown, with or without edges. */ #shown = new Set(/** @type {number[]} */ ([]));
  /** @type {number[]} */ #wanted = [];
  #fetching = 0;
  /** @type {Map<number, number>} */ #glowing = new Map();
  #generation = 0;
  /** The size of the frame. Reading it here would lay out the page again. */
  #box = new DOMRect();
  #fetches = new AbortController();
  /** Width at which bands were fetched. */ #asked = 0;
  /** @type {string | null} */ #only = null;
  /** @type {number | null} */ #marked = null;
  /** @type {CanvasPattern | null} */ #hatch = null;

  /** @param {HTMLCanvasElement} canvas @param {HTMLElement} frame the canvas is centred in it */
  constructor(canvas, frame) {
    this.canvas = canvas;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    new ResizeObserver(([{ contentRect }]) => {
      this.#box = contentRect;
      this.#fit();
    }).observe(frame);
    canvas.addEventListener("click", ({ offsetX, offsetY }) => {
      const at = {
        x: (offsetX * canvas.width) / canvas.clientWidth,
        y: (offsetY * canvas.height) / canvas.clientHeight,
      };
      const band = [...this.#shown].find((other) => {
        const { x, y, width, height } = this.#place(other);
        return at.x >= x && at.x < x + width && at.y >= y && at.y < y + height;
      });
      if (band !== undefined) canvas.dispatchEvent(new CustomEvent("band", { detail: band }));
    });
  }

  /** The edges of all bands, or null while some are missing. */
  get edges() {
    return this.#job && this.#drawn.size === this.#job.status.bands ? this.#edges : null;
  }

  /** Dims the bands of all other workers; null: of none. @param {string | null} worker */
  highlight(worker) {
    this.#only = worker;
    this.#paint();
  }

  /** Frames a band; null: none. @param {number | null} band */
  mark(band) {
    this.#marked = band;
    this.#paint();
  }

  /** Shows the present state of a job. @param {import("./jobs.js").Job} job */
  show(job) {
    const { kind, bands = 0 } = job.status;
    // How many bands a text has may be known only at its end.
    const columns = kind === "list" ? Math.ceil(Math.sqrt(bands * 1.6)) : 0;
    if (job !== this.#job || job.id !== this.#id || columns !== this.#columns) {
      this.#columns = columns;
      this.#job = job;
      this.#id = job.id;
      this.#only = null;
      this.#marked = null;
      this.#restart();
      this.#paint();
    }
    if ((job.preview?.small ?? null) !== this.#originalOf) this.#loadOriginal(job);
    this.#fit();
    for (const band of job.doneBands.keys()) if (!this.#shown.has(band)) this.#add(band);
    // The server no longer has these bands.
    if (["failed", "cancelled", "expired"].includes(job.phase)) this.#stop();
  }

  /** Size of the picture, from the server or from the preview; null while unknown. */
  get #size() {
    const { status, preview } = this.#job ?? {};
    if (this.#columns > 0) return { width: this.#columns, height: Math.ceil((status?.bands ?? 1) / this.#columns) };
    const { width, height } = status?.width ? status : (preview ?? {});
    return width && height ? { width, height } : null;
  }

  #stop() {
    this.#wanted = [];
    this.#fetches.abort();
    this.#fetches = new AbortController();
  }

  #restart() {
    this.#stop();
    this.#generation++;
    this.#drawn.clear();
    this.#shown.clear();
    this.#glowing.clear();
  }

  /** @param {import("./jobs.js").Job} job */
  async #loadOriginal({ preview }) {
    this.#originalOf = preview?.small ?? null;
    this.#original?.close();
    this.#original = null;
    const small = this.#originalOf;
    const bitmap = small && (await createImageBitmap(small).catch(() => null));
    if (this.#originalOf !== small) return bitmap?.close();
    this.#original = bitmap;
    this.#paint();
  }

  /** Resizes the canvas to fill the frame, in device pixels. */
  #fit() {
    const size = this.#size;
    this.canvas.hidden = !size;
    if (!size) return;
    const box = this.#box;
    if (box.width === 0) return;
    const scale = Math.min(box.width / size.width, box.height / size.height);
    const [cssWidth, cssHeight] = [size.width, size.height].map((side) => Math.max(1, Math.floor(side * scale)));
    const dense = Math.min(devicePixelRatio, MAX_SIDE / cssWidth, MAX_SIDE / cssHeight);
    const width = Math.max(1, Math.round(cssWidth * dense));
    const height = Math.max(1, Math.round(cssHeight * dense));
    this.canvas.style.width = `${cssWidth}px`;
    this.canvas.style.height = `${cssHeight}px`;
    if (this.canvas.width === width && this.canvas.height === height) return;
    const before = this.#edges;
    this.#edges = document.createElement("canvas");
    Object.assign(this.canvas, { width, height });
    Object.assign(this.#edges, { width, height });
    this.#hatch = hatching(this.context);
    // A resize fires many times. The edges are scaled, and fetched again only when they would look blurred.
    if (this.#drawn.size > 0 && width <= MAX_ENLARGED * this.#asked) {
      /** @type {CanvasRenderingContext2D} */ (this.#edges.getContext("2d")).drawImage(before, 0, 0, width, height);
    } else {
      this.#restart();
      this.#asked = width;
      for (const band of this.#job?.doneBands.keys() ?? []) this.#add(band);
    }
    this.#paint();
  }

  /** @param {number} band */
  #add(band) {
    if (!this.#size || this.canvas.width === 0) return;
    this.#shown.add(band);
    this.#wanted.push(band);
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) this.#glow(band);
    this.#paintBand(band);
    this.#fetchNext();
  }

  async #fetchNext() {
    // Without pictures of bands, only the colour of the worker is shown.
    if (this.#fetching === FETCHES || !this.#job || ["data", "list"].includes(this.#job.status.kind ?? "")) return;
    const band = this.#wanted.shift();
    if (band === undefined) return;
    const generation = this.#generation;
    this.#fetching++;
    try {
      const width = Math.min(MAX_SIDE, Math.max(MIN_WIDTH, this.canvas.width));
      const answer = await ask(`/jobs/${this.#id}/bands/${band}?width=${width}`, {
        signal: this.#fetches.signal,
      });
      const picture = await createImageBitmap(await answer.blob());
      if (generation === this.#generation) this.#take(band, picture);
      picture.close();
    } catch {
      // The band keeps its colour and no edges: the job is gone, or the server is busy.
    } finally {
      this.#fetching--;
      this.#fetchNext();
    }
  }

  /** @param {number} band @param {ImageBitmap} picture */
  #take(band, picture) {
    const { y, height } = this.#place(band);
    const context = /** @type {CanvasRenderingContext2D} */ (this.#edges.getContext("2d"));
    context.drawImage(picture, 0, y, this.#edges.width, height);
    this.#drawn.add(band);
    this.#paintBand(band);
    if (this.edges) this.canvas.dispatchEvent(new Event("complete"));
  }

  /** Where a band is on the canvas. Adjacent bands leave no gap, cells leave one. @param {number} band */
  #place(band) {
    const { canvas } = this;
    if (this.#columns > 0) {
      const side = canvas.width / this.#columns;
      const [left, top] = [band % this.#columns, Math.floor(band / this.#columns)].map((at) => Math.floor(at * side));
      const gap = side > 6 ? 1 : 0;
      return { x: left, y: top, width: Math.max(1, Math.ceil(side) - gap), height: Math.max(1, Math.ceil(side) - gap) };
    }
    const { y, rows } = /** @type {{ y: number, rows: number }} */ (
      /** @type {import("./jobs.js").Job} */ (this.#job).doneBands.get(band)
    );
    const scale = this.canvas.height / (this.#size?.height ?? 1);
    const top = Math.floor(y * scale);
    return { x: 0, y: top, width: canvas.width, height: Math.max(1, Math.floor((y + rows) * scale) - top) };
  }

  #paint() {
    const { context, canvas } = this;
    context.globalCompositeOperation = "source-over";
    context.fillStyle = "#0d1112";
    context.fillRect(0, 0, canvas.width, canvas.height);
    this.#paintOriginal(0, canvas.height);
    for (const band of this.#shown) this.#paintBand(band);
  }

  /** @param {number} y @param {number} height */
  #paintOriginal(y, height) {
    const { context, canvas } = this;
    if (!this.#original) return;
    const scale = this.#original.height / canvas.height;
    context.globalAlpha = 0.34;
    context.drawImage(this.#original, 0, y * scale, this.#original.width, height * scale, 0, y, canvas.width, height);
    context.globalAlpha = 1;
  }

  /** @param {number} band */
  #paintBand(band) {
    const record = this.#job?.doneBands.get(band);
    if (!record || !this.#job) return;
    const { context } = this;
    const { x, y, width, height } = this.#place(band);
    const fill = (
      /** @type {GlobalCompositeOperation} */ how,
      /** @type {string | CanvasPattern} */ style,
      alpha = 1,
    ) => {
      context.globalCompositeOperation = how;
      context.globalAlpha = alpha;
      context.fillStyle = style;
      context.fillRect(x, y, width, height);
      context.globalAlpha = 1;
      context.globalCompositeOperation = "source-over";
    };
    const colour = colourOf(record.worker);
    const faint = this.#only !== null && this.#only !== record.worker;
    fill("source-over", "#0b0f10");
    if (this.#drawn.has(band)) {
      context.drawImage(this.#edges, 0, y, width, height, 0, y, width, height);
      // Drawn twice, because thin lines are faint after scaling down.
      context.globalCompositeOperation = "lighter";
      context.drawImage(this.#edges, 0, y, width, height, 0, y, width, height);
      fill("multiply", colour);
    } else this.#paintOriginal(y, height);
    fill("lighter", colour, 0.22);
    if (faint) fill("source-over", "#0b0f10", 0.75);
    if (record.deliveries > 0 && this.#hatch) fill("source-over", this.#hatch, faint ? 0.2 : 0.6);
    context.fillStyle = colour;
    context.globalAlpha = faint ? 0.3 : 1;
    context.fillRect(x, y, this.#columns > 0 ? width : spine(width), height);
    context.globalAlpha = 1;
    context.fillStyle = "#0b0f10";
    if (height > 5 && y > 0 && this.#columns === 0) context.fillRect(0, y, width, 1);
    const since = this.#glowing.get(band);
    if (since !== undefined) fill("lighter", colour, 0.45 * Math.max(0, 1 - (performance.now() - since) / GLOW_MS));
    if (band !== this.#marked) return;
    const line = Math.max(2, Math.min(4, height / 4));
    context.strokeStyle = "#fff";
    context.lineWidth = line;
    context.strokeRect(x + line / 2, y + line / 2, width - line, Math.max(1, height - line));
  }

  /** @param {number} band */
  #glow(band) {
    const first = this.#glowing.size === 0;
    this.#glowing.set(band, performance.now());
    if (!first) return;
    const step = () => {
      const now = performance.now();
      for (const [glowing, since] of [...this.#glowing]) {
        if (now - since > GLOW_MS) this.#glowing.delete(glowing);
        this.#paintBand(glowing);
      }
      if (this.#glowing.size > 0) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }
}

/** Width of the strip of plain colour at the left edge, px. @param {number} width */
const spine = (width) => Math.max(3, Math.round(width / 120));

/** Slanted lines mark a redelivered band without colour. @param {CanvasRenderingContext2D} context */
function hatching(context) {
  const size = 8 * Math.ceil(devicePixelRatio);
  const tile = document.createElement("canvas");
  Object.assign(tile, { width: size, height: size });
  const pen = /** @type {CanvasRenderingContext2D} */ (tile.getContext("2d"));
  pen.strokeStyle = "#fff";
  pen.lineWidth = size / 8;
  pen.beginPath();
  for (const from of [-size, 0, size]) {
    pen.moveTo(from, size);
    pen.lineTo(from + size, 0);
  }
  pen.stroke();
  return context.createPattern(tile, "repeat");
}
