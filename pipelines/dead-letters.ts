/**
 * Lists the dead-lettered bands, requeues them, or deletes them.
 *
 *     bun run pipelines/dead-letters.ts            prints one line per band: chunk id, queue, reason
 *     bun run pipelines/dead-letters.ts --back     requeues them, and reopens their jobs
 *     bun run pipelines/dead-letters.ts --drop     deletes them
 *
 * Needs RABBITMQ_URL and REDIS_URL. When a job fails, its other queued bands are dropped. After `--back` the job is
 * `uploading` again: upload the picture again under the same id to complete it. Bands that are done are not repeated.
 */
import process from "node:process";
import { connect } from "amqplib";
import { isChunkId, parseChunkId } from "../chunk.ts";
import { DEAD_LETTERS, QUEUE } from "../queue.ts";
import { RedisResults } from "../results.ts";

const { RABBITMQ_URL, REDIS_URL } = process.env;
const [action = "--show"] = process.argv.slice(2);
if (!RABBITMQ_URL || !REDIS_URL || !["--show", "--back", "--drop"].includes(action)) {
  console.error("usage: RABBITMQ_URL=… REDIS_URL=… bun run pipelines/dead-letters.ts [--back | --drop]");
  process.exit(2);
}

const connection = await connect(RABBITMQ_URL);
const channel = await connection.createConfirmChannel();
const results = new RedisResults(REDIS_URL, 1, false);
/** The attempts that began here, by job and earlier attempt: a job may have several dead letters. */
const revived = new Map<string, number>();
const { messageCount } = await channel.checkQueue(DEAD_LETTERS);
for (let i = 0; i < messageCount; i++) {
  const message = await channel.get(DEAD_LETTERS);
  if (!message) break;
  const { messageId, headers } = message.properties;
  // A worker writes x-queue and x-reason. For a band that the broker itself dead-lettered, x-death has both.
  const [death] = (headers?.["x-death"] ?? []) as { queue: string; reason: string }[];
  const queue = String(headers?.["x-queue"] ?? death?.queue ?? QUEUE);
  console.log(`${messageId ?? "(no id)"}  ${queue}  ${headers?.["x-reason"] ?? death?.reason ?? "(no reason)"}`);
  if (action === "--show") continue; // not acknowledged: RabbitMQ requeues it when the channel closes
  if (action === "--back") {
    const { contentType } = message.properties;
    const options = { persistent: true, mandatory: true, contentType, messageId };
    const attempt = await attemptOf(String(messageId), headers?.["x-attempt"]);
    channel.sendToQueue(queue, message.content, {
      ...options,
      headers: attempt === undefined ? {} : { "x-attempt": attempt },
    });
    await channel.waitForConfirms();
  }
  channel.ack(message);
}

/**
 * Revives the job of a band.
 * @param sent the attempt that the band was sent for
 * @returns the attempt to send it for. A job that has begun another attempt since, maybe with other parameters, gets the
 * band with its old one, so that a worker drops it.
 */
async function attemptOf(chunkId: string, sent: number | undefined): Promise<number | undefined> {
  if (!isChunkId(chunkId)) return sent;
  const { jobId } = parseChunkId(chunkId);
  const before = (await results.findJob(jobId))?.attempt;
  if (sent === undefined || sent === before) {
    await results.reviveJob(jobId);
    if (sent !== undefined) revived.set(`${jobId} ${sent}`, (await results.findJob(jobId))?.attempt ?? sent);
  }
  return revived.get(`${jobId} ${sent}`) ?? sent;
}

await channel.close();
await connection.close();
await results.close();
