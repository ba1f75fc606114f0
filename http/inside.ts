/**
 * A look inside RabbitMQ and Redis: the queues and the next message of each, the keys of a job, and the dead letters,
 * which can be put back.
 *
 * It shows everyone's pictures, so it needs the token. If no token is set, it needs `CLASSROOM=inside`.
 *
 * Not here: how the queue is read (amqp/letters.ts).
 */
import { isTaskName } from "../chunk.ts";
import { wireName } from "../task.ts";
import { allTasks } from "../tasks/index.ts";
import { type ClassReads, expectAllowed } from "./classroom.ts";
import { notFound } from "./jobs.ts";
import { query } from "./params.ts";
import { HttpError } from "./respond.ts";

/** At most this many dead letters, and results of a job, are in one answer. */
const MAX_LETTERS = 50;
const MAX_RESULTS = 100;

/** GET /inside: how many bands wait for each task, and how many are dead-lettered. */
export async function inside(context: ClassReads, request: Request): Promise<Response> {
  expectAllowed(context, request, "inside");
  const { queue, tasks, results } = context;
  const names = (await allTasks(tasks, results)).map(wireName);
  const queues = await Promise.all(names.map(async (task) => ({ task, ...(await queue.depth(task)) })));
  return Response.json({ queues, dead: await queue.deadLetters() });
}

/** GET /inside/queues/:task: the message that has waited longest. */
export async function peek(context: ClassReads, request: Request, task: string): Promise<Response> {
  expectAllowed(context, request, "inside");
  if (!isTaskName(task) || !(await allTasks(context.tasks, context.results)).some((one) => wireName(one) === task)) {
    throw new HttpError(404, `no task ${JSON.stringify(task)}`);
  }
  const found = await context.queue.peek(task);
  if (!found) return Response.json({ task, waiting: null });
  const { id, headers, body } = found;
  return Response.json({ task, waiting: { id, headers, bytes: body.length, message: messageOf(body) } });
}

/** The message as JSON, or as text if a third party sent something else. */
function messageOf(body: Uint8Array): unknown {
  const text = Buffer.from(body).toString();
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** GET /inside/jobs/:id: the keys of a job in the store. */
export async function keysOf(context: ClassReads, request: Request, id: string): Promise<Response> {
  expectAllowed(context, request, "inside");
  const job = await context.results.findJob(id);
  if (!job) throw notFound(id);
  return Response.json({ keys: await context.results.keysOf(job, MAX_RESULTS) });
}

/** GET /inside/dead-letters */
export async function deadLetters(context: ClassReads, request: Request): Promise<Response> {
  expectAllowed(context, request, "inside");
  return Response.json({ letters: await context.queue.letters(MAX_LETTERS) });
}

/** POST /inside/dead-letters/back: puts back all dead letters, or those of the chunk in the query. */
export async function putBack(context: ClassReads, request: Request): Promise<Response> {
  expectAllowed(context, request, "inside");
  const { queue, results } = context;
  if (queue.isLocal) {
    throw new HttpError(409, "the embedded mode cannot put dead letters back: send the picture again");
  }
  return Response.json({ letters: await queue.putBack(results, query(request, "id")) });
}
