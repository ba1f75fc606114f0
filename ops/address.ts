/**
 * The addresses of RabbitMQ and Redis in `RABBITMQ_URL` and `REDIS_URL`: one server, or the nodes of a cluster.
 *
 *     amqp://user:password@host:5672,host:5672/vhost             RabbitMQ; also several URLs, separated by commas
 *     redis://user:password@host:6379/2                          one Redis, database 2
 *     redis+sentinel://user:password@host:26379,host/name/2      the Redis that these sentinels know by that name
 *     redis+cluster://user:password@host:6379,host               some nodes of a Redis Cluster
 *
 * `amqps`, `rediss`, `rediss+sentinel` and `rediss+cluster` use TLS.
 *
 * Invariant: an address may hold a password, so no error here repeats it.
 *
 * Not here: the other settings (settings.ts), the connections (amqp/connection.ts, redis/connection.ts).
 */
import { readFileSync } from "node:fs";
import process from "node:process";
import { rootCertificates } from "node:tls";

export interface RedisAddress {
  form: "single" | "sentinel" | "cluster";
  /** The servers. For the form `sentinel`, the sentinels. */
  nodes: { host: string; port: number }[];
  isTls: boolean;
  username: string | undefined;
  password: string | undefined;
  db: number;
  /** The name by which the sentinels know the Redis. */
  name: string;
  /** The account at the sentinels. It is separate from the account at the Redis. */
  sentinelUsername: string | undefined;
  sentinelPassword: string | undefined;
}

const AMQP_PORTS: Record<string, number> = { amqp: 5672, amqps: 5671 };

/** The nodes of RabbitMQ, one URL for each. @throws Error with the name of the setting */
export function amqpNodes(text: string): URL[] {
  const fail = () =>
    new Error("RABBITMQ_URL: expected amqp://user:password@host:port, or amqps:// for TLS, percent-encoded");
  return text.split(/,(?=\w+:\/\/)/).flatMap((url) => {
    const { scheme, hosts, user, rest } = partsOf(url, fail);
    if (!(scheme in AMQP_PORTS)) throw fail();
    return hosts.map((host) => parsed(`${scheme}://${user}${host}${rest}`, fail));
  });
}

/** @throws Error with the name of the setting */
export function redisAddress(text: string): RedisAddress {
  const fail = () =>
    new Error("REDIS_URL: expected redis://user:password@host:port, or rediss:// for TLS, percent-encoded");
  const { scheme, hosts, user, rest } = partsOf(text, fail);
  const [, tls, form = "single"] = /^redis(s?)(?:\+(sentinel|cluster))?$/.exec(scheme) ?? [];
  if (tls === undefined) throw fail();
  const urls = hosts.map((host) => parsed(`redis://${user}${host}${rest}`, fail));
  if (form === "single" && urls.length > 1)
    throw new Error("REDIS_URL: expected one host; several need redis+sentinel:// or redis+cluster://");
  const [{ username, password, pathname, searchParams }] = urls;
  const [path, expected] = {
    single: [/^\/?()(\d*)$/, "nothing or the number of a database behind the slash"],
    sentinel: [
      /^\/([^/]+)(?:\/(\d+))?$/,
      "the name that the sentinels know, and nothing or the number of a database, as in /name/2",
    ],
    cluster: [/^\/?()(0?)$/, "nothing behind the slash: a Redis Cluster has one database"],
  }[form as RedisAddress["form"]] as [RegExp, string];
  const [, name, db] = path.exec(pathname) ?? [];
  if (name === undefined) throw new Error(`REDIS_URL: expected ${expected}`);
  const port = form === "sentinel" ? 26_379 : 6379;
  return {
    form: form as RedisAddress["form"],
    nodes: urls.map((url) => ({ host: url.hostname.replace(/^\[|\]$/g, ""), port: Number(url.port) || port })),
    isTls: tls === "s",
    username: decodeURIComponent(username) || undefined,
    password: decodeURIComponent(password) || undefined,
    db: Number(db || 0),
    name: decodeURIComponent(name),
    sentinelUsername: searchParams.get("sentinel_username") ?? undefined,
    sentinelPassword: searchParams.get("sentinel_password") ?? undefined,
  };
}

/** Splits an address. `user` includes the @ at its end. A comma before the @ belongs to the password. */
function partsOf(text: string, fail: () => Error): { scheme: string; hosts: string[]; user: string; rest: string } {
  const [, scheme, user = "", hosts, rest] = /^([\w+]+):\/\/([^/?#]*@)?([^/?#@]*)([/?#].*)?$/.exec(text) ?? [];
  if (scheme === undefined || hosts.split(",").includes("")) throw fail();
  return { scheme: scheme.toLowerCase(), hosts: hosts.split(","), user, rest: rest ?? "" };
}

function parsed(text: string, fail: () => Error): URL {
  const url = URL.parse(text);
  if (!url || url.hostname === "") throw fail();
  try {
    decodeURIComponent(url.href);
  } catch {
    throw fail();
  }
  return url;
}

/**
 * Reads the file of `TLS_CA_FILE`. Returns its certificates and those of the runtime; undefined if it is not set.
 * @throws Error with the name of the setting
 */
export function caSetting(): string[] | undefined {
  const file = process.env.TLS_CA_FILE;
  if (!file) return undefined;
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    throw new Error(`TLS_CA_FILE: expected a file that can be read: ${(cause as Error).message}`, { cause });
  }
  if (!text.includes("-----BEGIN CERTIFICATE-----"))
    throw new Error(`TLS_CA_FILE: expected certificates in PEM format in ${file}`);
  return [...rootCertificates, text];
}
