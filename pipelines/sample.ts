/**
 * Draws the sample picture: 1920 × 1280 pixels, a landscape with a smooth sky, straight and curved edges, and grain.
 * Its bytes are the same every time, so the project needs no photograph.
 *
 *     bun run pipelines/sample.ts OUT.png
 */
import process from "node:process";
import sharp from "sharp";

const WIDTH = 1920;
const HEIGHT = 1280;

/** A seeded generator (mulberry32): the trees are in the same places every time. */
let seed = 1968;
function random(): number {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}

function ridge(y: number, rough: number, colour: string): string {
  const points = Array.from({ length: 33 }, (_, i) => `${i * 60},${Math.round(y + (random() - 0.5) * rough)}`);
  return `<polygon fill="${colour}" points="0,${HEIGHT} ${points.join(" ")} ${WIDTH},${HEIGHT}"/>`;
}

function tree(): string {
  const [x, y, size] = [random() * WIDTH, 1010 + random() * 230, 30 + random() * 50];
  const green = `hsl(${120 + random() * 40}, 35%, ${14 + random() * 14}%)`;
  const tiers = [0, 1, 2].map((i) => {
    const [top, half] = [y - size * (2.6 - i * 0.8), size * (0.35 + i * 0.18)];
    return `<polygon fill="${green}" points="${x},${top} ${x - half},${top + size} ${x + half},${top + size}"/>`;
  });
  return `<rect x="${x - 4}" y="${y - 20}" width="8" height="24" fill="#4a3526"/>${tiers.join("")}`;
}

function house(x: number, y: number): string {
  const panes = [20, 70, 120].map((dx) => {
    return `<rect x="${x + dx}" y="${y + 30}" width="30" height="40" fill="#ffd98a" stroke="#3b2a20" stroke-width="3"/>`;
  });
  const roof = `<polygon fill="#8c3b2e" points="${x - 20},${y} ${x + 85},${y - 80} ${x + 190},${y}"/>`;
  return `<rect x="${x}" y="${y}" width="170" height="110" fill="#d9c7a8"/>${roof}${panes.join("")}`;
}

const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${HEIGHT}">
  <defs>
    <linearGradient id="sky" x2="0" y2="1"><stop offset="0" stop-color="#27406b"/><stop offset="0.75" stop-color="#f2b98c"/></linearGradient>
    <radialGradient id="sun"><stop offset="0.6" stop-color="#fff4d6"/><stop offset="1" stop-color="#ffd27a"/></radialGradient>
  </defs>
  <rect width="${WIDTH}" height="${HEIGHT}" fill="url(#sky)"/>
  <circle cx="1390" cy="520" r="130" fill="url(#sun)"/>
  ${ridge(700, 260, "#5d6d8c")}${ridge(830, 180, "#46587a")}${ridge(960, 90, "#3c5a4b")}
  <path d="M 560 1280 C 760 1120 980 1090 1010 985 L 1040 985 C 1060 1100 960 1150 920 1280 Z" fill="#9db7c9"/>
  ${house(330, 960)}${house(1480, 1010)}${Array.from({ length: 70 }, tree).join("")}
</svg>`;

const [out] = process.argv.slice(2);
if (!out) {
  console.error("usage: bun run pipelines/sample.ts OUT.png");
  process.exit(2);
}
const { data, info } = await sharp(Buffer.from(svg)).removeAlpha().raw().toBuffer({ resolveWithObject: true });
for (let i = 0; i < data.length; i++) data[i] = Math.max(0, Math.min(255, data[i] + Math.round((random() - 0.5) * 6)));
await sharp(data, { raw: { width: info.width, height: info.height, channels: 3 } })
  .png({ compressionLevel: 6 })
  .toFile(out);
