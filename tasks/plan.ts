/**
 * How a task's job cuts a picture, and how large its result is. Both follow from the task and the request.
 *
 * Not here: the arithmetic of bands (chunk.ts), the job (job.ts).
 */
import { type Cut, type Plan, planBands } from "../chunk.ts";
import type { Raster } from "../picture/picture.ts";
import { haloOf, resultChannelsOf, shrinkOf, type Task, type Values } from "../task.ts";

/** What a request asks for. */
export interface Asked {
  params: Values;
  /** The most bands in flight. */
  workers: number | null;
  /** About how many pixels a band has, unless the task or one of the two fields below decides otherwise. */
  bandPixels: number;
  bands?: number | null;
  bandRows?: number | null;
}

/** @throws ImageError "too-large"; TaskError; whatever the task's own functions throw */
export function planOf(task: Task, asked: Asked, { width, height, channels }: Omit<Raster, "blocks">) {
  const { params, workers, bands = null, bandRows = null } = asked;
  const halo = haloOf(task, params);
  const shrink = shrinkOf(task, params);
  const pixels = task.bandPixels ?? asked.bandPixels;
  const plan = (cut: Partial<Cut>) => {
    const bands = planBands(width, height, halo, { pixels, channels, shrink, ...cut });
    return { ...bands, channels: resultChannelsOf(task), shrink };
  };
  if (bandRows !== null) return { ...plan({ rows: bandRows }), bandsBy: "request" as const };
  if (bands !== null) return { ...plan({ bands }), bandsBy: "request" as const };
  const [sized, shared] = [plan({}), plan({ atLeast: workers ?? 1 })];
  return { ...shared, bandsBy: shared.bands > sized.bands ? ("workers" as const) : ("size" as const) };
}

/** The size of the result, and how many of its rows a band gives. Its last row and column may cover fewer pixels. */
export function resultOf({
  width,
  height,
  rows,
  shrink,
}: Pick<Plan, "width" | "height" | "rows"> & { shrink: number }) {
  const [w, h, r] = [width, height, rows].map((pixels) => Math.ceil(pixels / shrink));
  return { width: w, height: h, rows: r };
}
