/**
 * Lists the dead-lettered bands, requeues them, or deletes them.
 *
 *     bun run pipelines/dead-letters.ts            prints one line per band: chunk id, queue, reason
 *     bun run pipelines/dead-letters.ts --back     requeues them, and starts the next attempt of their failed jobs
 *     bun run pipelines/dead-letters.ts --drop     deletes them
 *
 * Needs RABBITMQ_URL and REDIS_URL. When a job fails, its other queued bands are dropped. After `--back` the job is
 * `uploading` again: upload the picture again under the same id to complete it. Bands that are done are not repeated.
 *
 * Not here: what becomes of a letter (amqp/letters.ts).
 */
import process from "node:process";
import { type ChannelModel, connect } from "amqplib";
import { DEAD_LETTERS, keep, letterOf, Redrive } from "../amqp/letters.ts";
import { amqpNodes, caSetting } from "../ops/address.ts";
import { within } from "../ops/deadline.ts";
import { ANSWER_MS } from "../ops/health.ts";
import { RedisResults } from "../results.ts";

const USAGE = "usage: RABBITMQ_URL=… REDIS_URL=… bun run pipelines/dead-letters.ts [--back | --drop]";

async function main(action = "--show", ...more: string[]): Promise<void> {
  const { RABBITMQ_URL, REDIS_URL } = process.env;
  if (!RABBITMQ_URL || !REDIS_URL || !["--show", "--back", "--drop"].includes(action) || more.length > 0) {
    console.error(USAGE);
    process.exit(2);
  }
  const ca = caSetting();
  const nodes = amqpNodes(RABBITMQ_URL);
  const results = new RedisResults(REDIS_URL, 1, false, undefined, ca);
  if (action === "--back") {
    await results.check();
    await within(results.ping(), ANSWER_MS, `no answer in ${ANSWER_MS} ms`).catch((cause: Error) => {
      throw new Error(`REDIS_URL: Redis is unavailable: ${cause.message}`, { cause });
    });
  }
  const connection = await connectAny(nodes, ca);
  connection.on("error", () => {});
  const channel = await connection.createConfirmChannel();
  channel.on("error", () => {});
  const { messageCount } = await channel.checkQueue(DEAD_LETTERS).catch((cause: Error) => {
    throw new Error(`no queue ${DEAD_LETTERS}: no coordinator or worker has used this virtual host`, { cause });
  });
  const back = new Redrive(channel, results);
  for (let i = 0; i < messageCount; i++) {
    const message = await channel.get(DEAD_LETTERS);
    if (!message) break;
    const { id, queue, reason } = letterOf(message);
    const outcome = action === "--back" ? await back.put(message) : "";
    console.log(`${id}  ${queue}  ${reason}${outcome && `: ${outcome}`}`);
    if (action === "--drop") channel.ack(message);
    else if (action === "--show") await keep(channel, message);
  }
  await channel.close();
  await connection.close();
  await results.close();
}

/** Connects to the first node that accepts. @throws Error with the reason of the last one */
async function connectAny([node, ...others]: URL[], ca: string[] | undefined): Promise<ChannelModel> {
  return connect(node.href, { timeout: 5_000, ...(ca && { ca }) }).catch((cause: Error) => {
    if (others.length > 0) return connectAny(others, ca);
    throw new Error(`RABBITMQ_URL: RabbitMQ cannot be reached, or refuses access: ${cause.message}`, { cause });
  });
}

if (import.meta.main) {
  main(...process.argv.slice(2)).then(
    () => process.exit(0),
    (error) => {
      console.error(`dead-letters.ts: ${error.message}`);
      process.exit(1);
    },
  );
}
