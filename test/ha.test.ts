// RabbitMQ and Redis of several nodes: their addresses; jobs while leaders are killed.
import { describe, expect, test } from "bun:test";
import { amqpNodes, redisAddress } from "../ops/address.ts";

describe("addresses", () => {
  // biome-ignore format: a table
  test.each([
    ["amqp://host", ["amqp://host"]],
    ["amqp://u:p@one:1,two,[::1]:3/v?heartbeat=5", ["amqp://u:p@one:1/v?heartbeat=5", "amqp://u:p@two/v?heartbeat=5", "amqp://u:p@[::1]:3/v?heartbeat=5"]],
    ["amqps://u:a,b%40@one,two", ["amqps://u:a,b%40@one", "amqps://u:a,b%40@two"]],
    ["amqp://u:p@one,amqps://two:1,three:2/v", ["amqp://u:p@one", "amqps://two:1/v", "amqps://three:2/v"]],
  ])("RabbitMQ: %s", (text, expected) => {
    expect(amqpNodes(text).map(({ href }) => href)).toEqual(expected);
  });

  const plain = { form: "single", isTls: false, db: 0, name: "" };
  // biome-ignore format: a table
  test.each([
    ["redis://host", { nodes: [{ host: "host", port: 6379 }] }],
    ["rediss://:p%40@[::1]:1/2", { isTls: true, password: "p@", db: 2, nodes: [{ host: "::1", port: 1 }] }],
    ["redis+sentinel://u:a,b@one:1,two/main/3?sentinel_password=s%20t", { form: "sentinel", username: "u", password: "a,b", name: "main", db: 3, sentinelPassword: "s t", nodes: [{ host: "one", port: 1 }, { host: "two", port: 26379 }] }],
    ["rediss+sentinel://one/main", { form: "sentinel", isTls: true, name: "main", nodes: [{ host: "one", port: 26379 }] }],
    ["rediss+cluster://one,two:1/", { form: "cluster", isTls: true, nodes: [{ host: "one", port: 6379 }, { host: "two", port: 1 }] }],
  ])("Redis: %s", (text, expected) => {
    expect(redisAddress(text)).toEqual({ ...plain, ...expected } as ReturnType<typeof redisAddress>);
  });

  // biome-ignore format: a table
  test.each([
    ["RABBITMQ_URL", amqpNodes, ["", "host", "http://s3cret@host", "amqp://u:s3cret@", "amqp://u:s3cret@one,,two", "amqp://u:s3cret%@one", "amqp://u:s3cret@one:99999", "amqp://u:s3cret@one,http://two", "amqp://u:s3/cret@one"]],
    ["REDIS_URL", redisAddress, ["", "host", "http://s3cret@host", "redis://:s3cret@one,two", "redis://:s3cret@one/x", "redis+cluster://:s3cret@one/1", "redis+sentinel://:s3cret@one", "redis+sentinel://:s3cret@one/name/x", "redis+other://:s3cret@one", "redis://:s3cret%@one"]],
  ] as const)("%s: others are refused, and not repeated", (name, parse, texts) => {
    for (const text of texts) {
      let message = "accepted";
      try {
        parse(text);
      } catch (error) {
        ({ message } = error as Error);
      }
      expect([text, message]).toEqual([text, expect.stringMatching(new RegExp(`^${name}: expected `))]);
      expect(message).not.toMatch(/s3|cret/);
    }
  });
});
