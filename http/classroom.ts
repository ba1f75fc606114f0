/**
 * What the setting `CLASSROOM` allows: to control the workers, and to see everyone's jobs.
 *
 * Both are off by default. If a token is set, they need it too: the list has the ids of jobs, and anyone who knows an
 * id can read the job.
 *
 * Not here: how a worker runs a command (ops/commands.ts).
 */
import { ACTIONS } from "../ops/commands.ts";
import type { Classroom } from "../ops/settings.ts";
import { isKnown, view } from "./events.ts";
import type { JobReads } from "./jobs.ts";
import { wholeNumber } from "./params.ts";
import { expectToken, HttpError } from "./respond.ts";

/** What these requests need. */
export interface ClassReads extends JobReads {
  classroom: Classroom;
  authToken: string | undefined;
}

/** Number of jobs in the list: the maximum, and the default. */
const LISTED = { max: 100, default: 30 };

/** POST /workers/:name/:action */
export async function controlWorker(
  context: ClassReads,
  request: Request,
  { name, action: text }: { name: string; action: string },
): Promise<Response> {
  expectAllowed(context, request, "control");
  const action = ACTIONS.find((known) => known === text);
  if (!action) throw new HttpError(404, `unknown action ${JSON.stringify(text)}: expected ${ACTIONS.join(", ")}`);
  const { results } = context;
  const worker = (await results.workers()).find((one) => one.name === name);
  if (!worker) throw new HttpError(404, `no live worker ${JSON.stringify(name)}`);
  if (!worker.control) throw new HttpError(409, `the worker ${name} accepts no commands: it lacks CLASSROOM=control`);
  await results.command(name, action);
  return new Response(null, { status: 202 });
}

/** GET /jobs: the newest jobs of all clients, without those that have expired. */
export async function listJobs(context: ClassReads, request: Request): Promise<Response> {
  expectAllowed(context, request, "wall");
  const { results, tasks } = context;
  const limit = wholeNumber(request, "limit", 1, LISTED.max) ?? LISTED.default;
  const [ids, workers] = await Promise.all([results.listed(limit), results.workers(1_000)]);
  const jobs = await Promise.all(
    ids.map(async (id) => {
      const [job, done] = await Promise.all([results.findJob(id), results.done(id)]);
      return job ? [view(job, done, isKnown(job, workers, tasks))] : [];
    }),
  );
  return Response.json({ jobs: jobs.flat() });
}

/** @throws HttpError 401, 403 */
export function expectAllowed({ classroom, authToken }: ClassReads, request: Request, what: keyof Classroom): void {
  if (!classroom[what]) throw new HttpError(403, `not allowed here: the coordinator lacks CLASSROOM=${what}`);
  expectToken(request, authToken);
}
