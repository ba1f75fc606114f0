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
 * Invariant: a job that is not failed stays as it is. A band is acknowledged only after RabbitMQ has its copy in the queue.
 */
import process from "node:process";
import { type ChannelModel, type ConfirmChannel, connect, type GetMessage } from "amqplib";
import { isChunkId, parseChunkId } from "../chunk.ts";
import { amqpNodes, caSetting } from "../ops/address.ts";
import { within } from "../ops/deadline.ts";
import { ANSWER_MS } from "../ops/health.ts";
import { DEAD_LETTERS, QUEUE } from "../queue.ts";
import { RedisResults } from "../results.ts";
import { stateOf } from "../watch.ts";

const USAGE = "usage: RABBITMQ_URL=… REDIS_URL=… bun run pipelines/dead-letters.ts [--back | --drop]";

/** What to do with a dead letter: publish it for an attempt, or drop it for a reason. */
type Decision = { attempt: number | undefined } | { drop: string };

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
  const back = new Requeue(channel, results);
  for (let i = 0; i < messageCount; i++) {
    const message = await channel.get(DEAD_LETTERS);
    if (!message) break;
    const { id, queue, reason } = letterOf(message);
    const outcome = action === "--back" ? await back.put(message) : "";
    console.log(`${id}  ${queue}  ${reason}${outcome && `: ${outcome}`}`);
    if (action === "--drop") channel.ack(message);
    // Without an acknowledgement RabbitMQ requeues the message when the channel closes.
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

/** A worker writes x-queue and x-reason. For a band that the broker itself dead-lettered, x-death has both. */
function letterOf({ properties: { messageId, headers } }: GetMessage) {
  const [death] = (headers?.["x-death"] ?? []) as { queue: string; reason: string }[];
  return {
    id: String(messageId ?? "(no id)"),
    queue: String(headers?.["x-queue"] ?? death?.queue ?? QUEUE),
    reason: String(headers?.["x-reason"] ?? death?.reason ?? "(no reason)"),
  };
}

class Requeue {
  readonly #channel: ConfirmChannel;
  readonly #results: RedisResults;
  /** The attempts that began here, by job and earlier attempt: a job may have several dead letters. */
  readonly #revived = new Map<string, number>();
  #returned = false;

  constructor(channel: ConfirmChannel, results: RedisResults) {
    this.#channel = channel;
    this.#results = results;
    channel.on("return", () => {
      this.#returned = true;
    });
  }

  /** Requeues a band, or drops it where it is not needed. @returns what is to be said about it; empty: requeued */
  async put(message: GetMessage): Promise<string> {
    const { id, queue } = letterOf(message);
    const decision = await this.#decide(id, message.properties.headers?.["x-attempt"]);
    if ("drop" in decision) {
      this.#channel.ack(message);
      return `${decision.drop}: nothing to put back`;
    }
    const { attempt } = decision;
    const { contentType, messageId } = message.properties;
    this.#returned = false;
    this.#channel.sendToQueue(queue, message.content, {
      persistent: true,
      mandatory: true,
      contentType,
      messageId,
      headers: attempt === undefined ? {} : { "x-attempt": attempt },
    });
    // The broker returns a message before it confirms it.
    await this.#channel.waitForConfirms();
    if (this.#returned) return `no queue ${queue}: kept`;
    this.#channel.ack(message);
    return "";
  }

  /** @param sent the attempt that the band was sent for; third-party senders give none */
  async #decide(chunkId: string, sent: number | undefined): Promise<Decision> {
    if (!isChunkId(chunkId)) return { attempt: sent };
    const { jobId } = parseChunkId(chunkId);
    const job = await this.#results.findJob(jobId);
    if (!job) return sent === undefined ? { attempt: sent } : { drop: "job is gone" };
    const { size } = await this.#results.done(jobId);
    if (stateOf(job, size) === "done") return { drop: "job is done" };
    const revived = this.#revived.get(`${jobId} ${sent}`);
    if (revived !== undefined) return { attempt: revived };
    // Maybe with other parameters.
    if (sent !== undefined && sent !== job.attempt) return { drop: "job has begun another attempt" };
    await this.#results.reviveJob(jobId);
    if (sent === undefined) return { attempt: sent };
    const attempt = (await this.#results.findJob(jobId))?.attempt ?? sent;
    this.#revived.set(`${jobId} ${sent}`, attempt);
    return { attempt };
  }
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
