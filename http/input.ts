/**
 * Reads the input of a job from a request: its task, its parameters, and a picture or the pieces of a list.
 *
 * Not here: reading the body (upload.ts), decoding a picture (picture/read.ts), cutting a list (tasks/list.ts).
 */
import type { Backends } from "../backends.ts";
import type { HeldMemory } from "../picture/budget.ts";
import { ImageError, type PixelLimits, type Raster } from "../picture/picture.ts";
import { readImage } from "../picture/read.ts";
import { isList, type Task } from "../task.ts";
import { allTasks, faultOf, findTask, type Tasks } from "../tasks/index.ts";
import { listPieces, type PieceList } from "../tasks/list.ts";
import { ParamError } from "../tasks/params.ts";
import type { Asked } from "../tasks/plan.ts";
import { sentenceOf } from "../tasks/thrown.ts";
import { JobError } from "../watch.ts";
import { cutOf, paramsOf, workersOf } from "./params.ts";
import { HttpError } from "./respond.ts";
import type { Upload } from "./upload.ts";

export interface InputOptions {
  bandPixels: number;
  limits: PixelLimits;
  memory: HeldMemory;
}

/** Finds a task by its name. @throws HttpError 422 */
export async function taskOr422({ tasks, results }: Backends & { tasks: Tasks }, name: string): Promise<Task> {
  const task = await findTask(tasks, results, name);
  if (task) return task;
  const fault = await faultOf(tasks, results, name);
  if (fault) throw new HttpError(422, `the task ${name} that a worker offers is invalid: ${fault}`);
  const known = (await allTasks(tasks, results)).map(({ name }) => name);
  throw new HttpError(422, `unknown task ${JSON.stringify(name)}: expected ${known.join(", ")}`);
}

/** @throws HttpError, ImageError; JobError "failed" if a function of the task throws */
export async function inputOf(
  request: Request,
  task: Task,
  upload: Upload,
  { bandPixels, limits, memory }: InputOptions,
): Promise<{ asked: Asked; image: Raster | PieceList }> {
  const asked = { bandPixels, workers: workersOf(request), ...cutOf(request) };
  if (!isList(task)) {
    const params = paramsOf(request, task);
    const image = await readImage(await upload.file(request), limits, memory, task.channels);
    const blocks = async function* () {
      yield* image.blocks;
      await upload.ended;
    };
    return { asked: { ...asked, params }, image: { ...image, blocks: blocks() } };
  }
  const params = paramsOf(request, task, task.takes ? "" : await upload.text());
  const body = task.takes ? await upload.file(request, task.takes) : nothing();
  const image = await listPieces(task, params, body, upload.announced).catch(asTaskFault);
  const bands: PieceList["bands"] = async function* (plan) {
    try {
      yield* image.bands(plan);
    } catch (error) {
      asTaskFault(error);
    }
  };
  return { asked: { ...asked, params, bandPixels: image.bandPixels }, image: { ...image, bands } };
}

async function* nothing(): AsyncGenerator<Uint8Array> {}

/** Turns an error into the client's (HttpError, ImageError), or else the task's (JobError). */
function asTaskFault(error: unknown): never {
  if (error instanceof ParamError) throw new HttpError(400, error.message);
  if (error instanceof HttpError || error instanceof ImageError) throw error;
  throw new JobError("failed", `the task failed: ${sentenceOf(error as Error)}`);
}
