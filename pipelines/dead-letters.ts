/**
 * Shows the bands that were given up, and puts them back into their queues.
 *
 *     bun run pipelines/dead-letters.ts            one line each: chunk id, queue, reason
 *     bun run pipelines/dead-letters.ts --back     puts them back, and lets their jobs go on
 *     bun run pipelines/dead-letters.ts --drop     throws them away
 *
 * Wants RABBITMQ_URL and REDIS_URL. A job that has failed has lost the bands that were in the queue behind the bad one:
 * after `--back` it is `uploading` again, and sending the picture once more under the same id completes it. Bands
 * that are done are not done again.
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
const { messageCount } = await channel.checkQueue(DEAD_LETTERS);
for (let i = 0; i < messageCount; i++) {
  const message = await channel.get(DEAD_LETTERS);
  if (!message) break;
  const { messageId, headers } = message.properties;
  // Buried by a worker, or by the broker, which leaves its own notes.
  const [death] = (headers?.["x-death"] ?? []) as { queue: string; reason: string }[];
  const queue = String(headers?.["x-queue"] ?? death?.queue ?? QUEUE);
  console.log(`${messageId ?? "(no id)"}  ${queue}  ${headers?.["x-reason"] ?? death?.reason ?? "(no reason)"}`);
  if (action === "--show") continue; // unacknowledged: it is back when the channel closes
  if (action === "--back") {
    if (isChunkId(String(messageId))) await results.reviveJob(parseChunkId(messageId).jobId);
    const { contentType } = message.properties;
    channel.sendToQueue(queue, message.content, { persistent: true, mandatory: true, contentType, messageId });
    await channel.waitForConfirms();
  }
  channel.ack(message);
}
await channel.close();
await connection.close();
await results.close();
