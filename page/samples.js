/**
 * Sample pictures, for a visitor who has none: drawn here, the same every time, and sent like any other file.
 *
 * Not here: sending (page.js).
 */
import { t } from "./words.js";

const THUMB = 96;

/** @typedef {(pen: CanvasRenderingContext2D, width: number, height: number, random: () => number) => void} Draw */

/** @type {{ name: "hills" | "rings" | "town", width: number, height: number, draw: Draw }[]} */
const SAMPLES = [
  { name: "hills", width: 1920, height: 1280, draw: drawHills },
  { name: "rings", width: 2400, height: 1600, draw: drawRings },
  { name: "town", width: 4200, height: 2800, draw: drawTown },
];

/** @param {(files: File[]) => void} take */
export function setUpSamples(take) {
  const buttons = SAMPLES.map((sample) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(drawn(sample, THUMB / sample.width));
    button.addEventListener("click", async () => {
      button.disabled = true;
      const blob = await new Promise((resolve) => drawn(sample, 1).toBlob(resolve, "image/png"));
      button.disabled = false;
      take([new File([/** @type {Blob} */ (blob)], `${sample.name}.png`, { type: "image/png" })]);
    });
    return button;
  });
  document.getElementById("samples")?.append(...buttons);
}

/** Names the buttons in the page's language. */
export function renderSamples() {
  const buttons = document.querySelectorAll("#samples button");
  SAMPLES.forEach(({ name, width, height }, i) => {
    const label = `${t.samples[name]}, ${width} × ${height}`;
    buttons[i].setAttribute("aria-label", label);
    buttons[i].setAttribute("title", label);
  });
}

/** @param {typeof SAMPLES[number]} sample @param {number} scale */
function drawn({ width, height, draw }, scale) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  pen.scale(scale, scale);
  draw(pen, width, height, seeded(1968));
  return canvas;
}

/** A generator of numbers from 0 to 1 (mulberry32). @param {number} seed */
function seeded(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** @param {CanvasRenderingContext2D} pen @param {number} height @param {string} top @param {string} bottom @param {number} width */
function sky(pen, width, height, top, bottom) {
  const fill = pen.createLinearGradient(0, 0, 0, height);
  fill.addColorStop(0, top);
  fill.addColorStop(0.8, bottom);
  pen.fillStyle = fill;
  pen.fillRect(0, 0, width, height);
}

/** Ranges of hills one behind the other, and a sun. @type {Draw} */
function drawHills(pen, width, height, random) {
  sky(pen, width, height, "#27406b", "#f2b98c");
  pen.fillStyle = "#fff0c8";
  pen.beginPath();
  pen.arc(width * 0.7, height * 0.4, height * 0.1, 0, 7);
  pen.fill();
  for (let range = 0; range < 5; range++) {
    const base = height * (0.5 + range * 0.1);
    const waves = Array.from({ length: 5 }, (_, i) => ({
      size: (height * 0.09 * random()) / (i + 1),
      length: (width * (0.1 + random() * 0.3)) / (i + 1),
      at: random() * 7,
    }));
    pen.fillStyle = `hsl(${215 - range * 24} ${22 + range * 4}% ${46 - range * 8}%)`;
    pen.beginPath();
    pen.moveTo(0, height);
    for (let x = 0; x <= width; x += 4) {
      pen.lineTo(
        x,
        base + waves.reduce((sum, { size, length, at }) => sum + size * Math.sin((x / length) * 6 + at), 0),
      );
    }
    pen.lineTo(width, height);
    pen.fill();
  }
}

/** Circles that come closer to each other outwards: every direction and width of an edge. @type {Draw} */
function drawRings(pen, width, height) {
  pen.fillStyle = "#eef2f2";
  pen.fillRect(0, 0, width, height);
  for (let ring = 60; ring > 0; ring--) {
    pen.fillStyle = ring % 2 ? "#eef2f2" : `hsl(${ring * 6} 45% 34%)`;
    pen.beginPath();
    pen.arc(width / 2, height / 2, Math.sqrt(ring / 60) * height * 0.48, 0, 7);
    pen.fill();
  }
}

/** A town at night, with many windows. @type {Draw} */
function drawTown(pen, width, height, random) {
  sky(pen, width, height, "#0d1530", "#8a5a78");
  for (let row = 0; row < 4; row++) {
    for (let x = -60; x < width; ) {
      const [across, tall] = [120 + random() * 200, height * (0.62 - row * 0.13) * (0.5 + random() * 0.6)];
      pen.fillStyle = `hsl(${225 + random() * 25} 20% ${26 - row * 5 + random() * 4}%)`;
      pen.fillRect(x, height - tall, across, tall);
      for (let y = height - tall + 20; y < height - 40; y += 44) {
        for (let at = x + 14; at < x + across - 26; at += 34) {
          if (random() < 0.45) continue;
          pen.fillStyle = `hsl(45 80% ${55 + random() * 30}%)`;
          pen.fillRect(at, y, 18, 26);
        }
      }
      x += across + random() * 30;
    }
  }
}
