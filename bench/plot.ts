/** The model as a picture: megapixels a second by number of workers, both in powers, lines predicted, dots measured. */

export interface Curve {
  name: string;
  colour: string;
  /** Workers and megapixels a second. */
  line: [number, number][];
  dots?: [number, number][];
}

const WIDTH = 720;
const HEIGHT = 420;
const LEFT = 64;
const RIGHT = 16;
const TOP = 16;
const BOTTOM = 48;

/** @returns an SVG, legible on light ground and on dark */
export function plot(curves: Curve[]): string {
  const points = curves.flatMap(({ line, dots = [] }) => [...line, ...dots]);
  const [across, up] = [decades(points.map(([x]) => x)), decades(points.map(([, y]) => y))];
  const x = scale(across, LEFT, WIDTH - RIGHT);
  const y = scale(up, HEIGHT - BOTTOM, TOP);
  const at = ([workers, speed]: [number, number]) => `${x(workers).toFixed(1)},${y(speed).toFixed(1)}`;
  const parts = [
    ...powers(across).map(
      (n) => rule(x(n), TOP, x(n), HEIGHT - BOTTOM) + label(x(n), HEIGHT - BOTTOM + 18, String(n), "middle"),
    ),
    ...powers(up).map((n) => rule(LEFT, y(n), WIDTH - RIGHT, y(n)) + label(LEFT - 8, y(n) + 4, String(n), "end")),
    label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "workers", "middle"),
    `<text transform="translate(14 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">Mpx/s</text>`,
    ...curves.map(({ line, colour }) => `<polyline points="${line.map(at).join(" ")}" stroke="${colour}"/>`),
    ...curves.flatMap(({ dots = [], colour }) =>
      dots.map((dot) => `<circle cx="${at(dot).replace(",", '" cy="')}" r="4" fill="${colour}"/>`),
    ),
    ...curves.map(({ name, colour }, i) => {
      const row = TOP + 18 + 18 * i;
      return `<path d="M ${LEFT + 12} ${row} h 22" stroke="${colour}"/>${label(LEFT + 42, row + 4, name, "start")}`;
    }),
  ];
  const style = "font: 12px system-ui, sans-serif; fill: #808080; stroke-width: 2";
  const title = "<title>Megapixels a second by number of workers: lines predicted, dots measured</title>";
  const open = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" style="${style}">`;
  return `${open}\n${title}\n${parts.join("\n").replaceAll("<polyline", '<polyline fill="none"')}\n</svg>\n`;
}

/** The powers of ten around values. */
function decades(values: number[]): [number, number] {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  return [Math.floor(Math.log10(least)), Math.ceil(Math.log10(most))];
}

function powers([from, to]: [number, number]): number[] {
  return Array.from({ length: to - from + 1 }, (_, i) => Number(`1e${from + i}`));
}

function scale([from, to]: [number, number], start: number, end: number): (value: number) => number {
  return (value) => start + ((Math.log10(value) - from) / Math.max(1, to - from)) * (end - start);
}

function rule(x1: number, y1: number, x2: number, y2: number): string {
  const [from, to] = [
    [x1, y1],
    [x2, y2],
  ].map((point) => point.map((value) => value.toFixed(1)).join(" "));
  return `<path d="M ${from} L ${to}" stroke="#808080" stroke-width="0.5" opacity="0.5"/>`;
}

function label(x: number, y: number, text: string, anchor: string): string {
  const safe = text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}">${safe}</text>`;
}
