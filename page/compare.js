/**
 * Before and after: two pictures of the same size on top of each other, with a divider and zoom down to the pixels.
 *
 * The divider is a slider for the keyboard and for screen readers. Pictures larger than their frame are moved with the
 * pointer or the arrow keys.
 *
 * Not here: which pictures (stage.js).
 */
import { number, t } from "./words.js";

const MAX_ZOOM = 16;
const STEP = 1.5;
/** Distance that an arrow key moves the pictures, px. */
const MOVE = 60;

export class Compare {
  #width = 1;
  #height = 1;
  #scale = 1;
  #x = 0;
  #y = 0;
  /** The share of the visible part that shows the original: 0 to 1. */
  #split = 0.5;
  /** True while the whole picture is shown. It stays so when the frame changes. */
  #whole = true;
  /** @type {Map<number, { x: number, y: number }>} */ #pointers = new Map();
  /** @type {"split" | "move"} */ #drag = "split";

  /** @param {HTMLElement} root the element `compare` of index.html @param {(zoom: number) => void} onZoom */
  constructor(root, onZoom) {
    const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (root.querySelector(`.${name}`));
    this.root = root;
    this.onZoom = onZoom;
    this.before = /** @type {HTMLImageElement} */ (part("before"));
    this.after = /** @type {HTMLImageElement} */ (part("after"));
    this.over = part("over");
    this.divider = part("divider");
    this.slider = /** @type {HTMLElement} */ (root.querySelector("[role=slider]"));
    this.slider.addEventListener("keydown", (event) => this.#slideByKey(event));
    root.addEventListener("keydown", (event) => this.#moveByKey(event));
    root.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    root.addEventListener("dblclick", (event) => this.zoomTo(this.#whole ? 1 / devicePixelRatio : 0, this.#at(event)));
    root.addEventListener("pointerdown", (event) => this.#down(event));
    root.addEventListener("pointermove", (event) => this.#moveTo(event));
    for (const end of /** @type {const} */ (["pointerup", "pointercancel"])) {
      root.addEventListener(end, (event) => this.#pointers.delete(event.pointerId));
    }
    new ResizeObserver(() => this.#render()).observe(root);
  }

  /**
   * @param {number} width @param {number} height of the picture, px
   * @param {string} before @param {string} after URLs; `before` may be smaller, or empty
   */
  set(width, height, before, after) {
    this.#width = width;
    this.#height = height;
    this.#split = before ? 0.5 : 0;
    this.before.hidden = this.divider.hidden = !before;
    if (before) this.before.src = before;
    else this.before.removeAttribute("src");
    this.after.src = after;
    for (const image of [this.before, this.after]) {
      image.style.width = `${width}px`;
      image.style.height = `${height}px`;
    }
    this.zoomTo(0);
  }

  clear() {
    this.before.removeAttribute("src");
    this.after.removeAttribute("src");
  }

  zoomIn() {
    this.zoomTo(this.#scale * STEP);
  }

  zoomOut() {
    this.zoomTo(this.#scale / STEP);
  }

  get #fit() {
    const { clientWidth, clientHeight } = this.root;
    return Math.min(clientWidth / this.#width, clientHeight / this.#height) || 1;
  }

  /**
   * @param {number} scale CSS pixels for a pixel of the picture; 0 or any scale that fits: the whole picture
   * @param {{ x: number, y: number }} [at] the point that does not move; by default the middle
   */
  zoomTo(scale, at = { x: this.root.clientWidth / 2, y: this.root.clientHeight / 2 }) {
    this.#whole = scale <= this.#fit;
    const next = Math.min(Math.max(scale, this.#fit), Math.max(MAX_ZOOM, this.#fit));
    this.#x = at.x - ((at.x - this.#x) * next) / this.#scale;
    this.#y = at.y - ((at.y - this.#y) * next) / this.#scale;
    this.#scale = next;
    this.#render();
  }

  #render() {
    const { clientWidth, clientHeight } = this.root;
    if (clientWidth === 0) return;
    if (this.#whole) this.#scale = this.#fit;
    const [width, height] = [this.#width * this.#scale, this.#height * this.#scale];
    this.#x = placed(this.#x, width, clientWidth);
    this.#y = placed(this.#y, height, clientHeight);
    for (const image of [this.before, this.after]) {
      image.style.transform = `translate(${this.#x}px, ${this.#y}px) scale(${this.#scale})`;
      image.style.imageRendering = this.#scale * devicePixelRatio >= 2 ? "pixelated" : "auto";
    }
    const [left, right] = this.#visible;
    const at = left + this.#split * (right - left);
    this.over.style.clipPath = `inset(0 0 0 ${at}px)`;
    this.divider.style.transform = `translateX(${at}px)`;
    this.root.classList.toggle("zoomed", !this.#whole);
    const percent = Math.round(this.#split * 100);
    this.slider.setAttribute("aria-valuenow", String(percent));
    this.slider.setAttribute("aria-valuetext", t.originalShare(number(percent / 100, { style: "percent" })));
    this.onZoom(this.#scale * devicePixelRatio);
  }

  /** Left and right edge of the pictures within the frame, px. */
  get #visible() {
    return [Math.max(0, this.#x), Math.min(this.root.clientWidth, this.#x + this.#width * this.#scale)];
  }

  /** @param {number} split */
  #slide(split) {
    this.#split = Math.min(1, Math.max(0, split));
    this.#render();
  }

  /** @param {KeyboardEvent} event */
  #slideByKey(event) {
    const step = event.key.startsWith("Page") ? 0.1 : event.shiftKey ? 0.1 : 0.02;
    const to = {
      ArrowLeft: this.#split - step,
      ArrowDown: this.#split - step,
      PageDown: this.#split - step,
      ArrowRight: this.#split + step,
      ArrowUp: this.#split + step,
      PageUp: this.#split + step,
      Home: 0,
      End: 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    this.#slide(to);
  }

  /** @param {KeyboardEvent} event */
  #moveByKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "+" || event.key === "=") this.zoomIn();
    else if (event.key === "-") this.zoomOut();
    else if (event.key === "0") this.zoomTo(0);
    else if (event.key === "1") this.zoomTo(1 / devicePixelRatio);
    else if (event.key.startsWith("Arrow") && !this.#whole) {
      this.#x += event.key === "ArrowLeft" ? MOVE : event.key === "ArrowRight" ? -MOVE : 0;
      this.#y += event.key === "ArrowUp" ? MOVE : event.key === "ArrowDown" ? -MOVE : 0;
      this.#render();
    } else return;
    event.preventDefault();
  }

  /** The wheel zooms with Ctrl only, as browsers report a pinch on a touchpad. Without it the page scrolls. @param {WheelEvent} event */
  #wheel(event) {
    if (!event.ctrlKey) return;
    event.preventDefault();
    this.zoomTo(this.#scale * Math.exp(-event.deltaY / 200), this.#at(event));
  }

  /** @param {MouseEvent} event */
  #at(event) {
    const { left, top } = this.root.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (event.button !== 0) return;
    this.root.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, this.#at(event));
    const onDivider = this.slider.contains(/** @type {Node} */ (event.target));
    this.#drag = onDivider || (this.#whole && !this.divider.hidden) ? "split" : "move";
    if (onDivider) this.slider.focus({ preventScroll: true });
  }

  /** @param {PointerEvent} event */
  #moveTo(event) {
    const from = this.#pointers.get(event.pointerId);
    if (!from) return;
    const to = this.#at(event);
    const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.#pointers.set(event.pointerId, to);
    if (other) {
      this.#drag = "move"; // with the finger that stays
      const apart = (/** @type {{ x: number, y: number }} */ point) => Math.hypot(point.x - other.x, point.y - other.y);
      this.zoomTo((this.#scale * apart(to)) / apart(from), { x: (to.x + other.x) / 2, y: (to.y + other.y) / 2 });
    } else if (this.#drag === "split") {
      const [left, right] = this.#visible;
      this.#slide((to.x - left) / (right - left));
    } else {
      this.#x += to.x - from.x;
      this.#y += to.y - from.y;
      this.#render();
    }
  }
}

/** Centred where there is room; otherwise without a gap at either edge. @param {number} at @param {number} size @param {number} room */
function placed(at, size, room) {
  return size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, at));
}
