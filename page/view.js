/**
 * What of the timeline is in view: zooming by button, key, Ctrl and wheel; moving by drag and horizontal wheel.
 *
 * Invariant: the view lies within the job.
 *
 * Not here: drawing (timeline.js).
 */

const MIN_SPAN_MS = 1;
/** A shorter move is a click, px. */
const DRAG = 4;

export class View {
  /** What is in view, ms; null: all. @type {{ from: number, to: number } | null} */
  zoomed = null;
  /** True when a drag has just ended: the click that follows is not one. */
  dragged = false;

  /** @param {SVGSVGElement} svg @param {number} gutter px @param {() => number} end of all, ms @param {() => void} changed */
  constructor(svg, gutter, end, changed) {
    this.svg = svg;
    this.gutter = gutter;
    this.end = end;
    this.changed = changed;
    svg.addEventListener("wheel", (event) => this.#onWheel(event), { passive: false });
    svg.addEventListener("pointerdown", (event) => this.#onDrag(event));
  }

  /** @param {number} factor @param {number} [at] the place that stays, 0 to 1 */
  zoomBy(factor, at = 0.5) {
    const { from, to } = this.zoomed ?? { from: 0, to: this.end() };
    const middle = from + (to - from) * at;
    const span = Math.max(MIN_SPAN_MS, (to - from) * factor);
    this.zoomTo({ from: middle - span * at, to: middle + span * (1 - at) });
  }

  /** @param {{ from: number, to: number } | null} view null: all */
  zoomTo(view) {
    const end = this.end();
    const span = view ? view.to - view.from : end;
    const from = view ? Math.min(Math.max(0, view.from), end - span) : 0;
    this.zoomed = span < end ? { from, to: from + span } : null;
    this.changed();
  }

  /** Zooms with Ctrl, as maps do; a horizontal wheel moves. @param {WheelEvent} event */
  #onWheel(event) {
    const box = this.svg.getBoundingClientRect();
    const at = Math.min(1, Math.max(0, (event.clientX - box.left - this.gutter) / (box.width - this.gutter)));
    if (event.ctrlKey || event.metaKey) this.zoomBy(Math.exp(event.deltaY / 200), at);
    else if (this.zoomed && event.deltaX) this.#move(event.deltaX);
    else return;
    event.preventDefault();
  }

  /** @param {PointerEvent} event */
  #onDrag(event) {
    this.dragged = false;
    if (!this.zoomed || event.button !== 0) return;
    let x = event.clientX;
    const control = new AbortController();
    const follow = (/** @type {PointerEvent} */ { clientX }) => {
      if (Math.abs(clientX - event.clientX) > DRAG) this.dragged = true;
      if (this.dragged) this.#move(x - clientX);
      x = clientX;
    };
    addEventListener("pointermove", follow, control);
    for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => control.abort(), control);
  }

  /** @param {number} px */
  #move(px) {
    if (!this.zoomed) return;
    const { from, to } = this.zoomed;
    const by = (px * (to - from)) / (this.svg.clientWidth - this.gutter);
    this.zoomTo({ from: from + by, to: to + by });
  }
}
