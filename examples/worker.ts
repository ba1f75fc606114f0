/**
 * A whole worker for Sobel edges, without code of this project (docs/wire.md). It runs on Bun, Deno and Node 22.
 *
 *     npm install amqplib ioredis fast-png
 *     RABBITMQ_URL=amqp://guest:guest@127.0.0.1 REDIS_URL=redis://127.0.0.1 bun run examples/worker.ts
 *
 * Without RabbitMQ it exits, and its band goes to another worker. Let a supervisor restart it (systemd).
 */
import { connect } from "amqplib";
import { decode } from "fast-png";
import { Redis } from "ioredis";

const store = new Redis(process.env.REDIS_URL!);
const channel = await (await connect(process.env.RABBITMQ_URL!)).createChannel();
channel.on("close", () => process.exit(1));
await channel.prefetch(1); // one band at a time: the others go to idle workers
await channel.consume("tareas", async (message) => {
  const { chunk_id, imagen } = JSON.parse(message!.content.toString());
  const { width, height, data } = decode(Buffer.from(imagen, "base64"));
  const pgm = Buffer.concat([Buffer.from(`P5 ${width} ${height} 255\n`), sobel(data, width, height)]);
  await store.set(`resultado:${chunk_id}`, pgm.toString("base64"), "EX", 3600);
  const [job, band] = chunk_id.split(":"); // optional: the coordinator knows at once, and the page shows who did what
  await store.publish(`job:${job}`, JSON.stringify({ band: Number(band), worker: `js-${process.pid}` }));
  channel.ack(message!); // only now: a band without an acknowledgement goes to another worker
});
console.log("at work");

/** The first and the last row are halo: they stay 0, and the coordinator cuts them off. Columns are mirrored. */
function sobel(grey: ArrayLike<number>, width: number, height: number): Uint8Array {
  const edges = new Uint8Array(width * height);
  const mirrored = (x: number) => (width === 1 ? 0 : x < 0 ? 1 : x < width ? x : width - 2);
  for (let i = width; i < width * (height - 1); i++) {
    const at = (dx: number, dy: number) => grey[(Math.floor(i / width) + dy) * width + mirrored((i % width) + dx)];
    const gx = at(1, -1) + 2 * at(1, 0) + at(1, 1) - at(-1, -1) - 2 * at(-1, 0) - at(-1, 1);
    const gy = at(-1, 1) + 2 * at(0, 1) + at(1, 1) - at(-1, -1) - 2 * at(0, -1) - at(1, -1);
    edges[i] = Math.min(255, Math.round(Math.sqrt(gx * gx + gy * gy)));
  }
  return edges;
}
