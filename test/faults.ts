// What the fault tests use: a proxy that cuts connections, a client that retries, random numbers from a seed.
import { connect, createServer, type Server, type Socket } from "node:net";

/** A TCP proxy to a port on this machine. */
export interface TcpProxy {
  port: number;
  /** Ends every connection that goes through it, in the middle of its data. */
  cut(): void;
  /** The same, and refuses new ones until `accept`. */
  refuse(): Promise<void>;
  accept(): Promise<void>;
  /** Holds back the server's answers until it is released. */
  hold(): () => void;
  /** Nothing passes either way, on connections old and new, and none ends. Until it is released: then all are cut. */
  silence(): () => void;
}

export async function startProxy(port: number, target: number): Promise<TcpProxy> {
  const sockets = new Set<Socket>();
  /** From the server to the client. */
  const answers = new Map<Socket, Socket>();
  let server: Server;
  let silent = false;
  const cut = () => {
    for (const socket of sockets) socket.destroy();
    sockets.clear();
  };
  const accept = () => {
    server = createServer((client) => {
      const upstream = connect(target, "127.0.0.1");
      answers.set(upstream, client);
      for (const [socket, other] of [
        [client, upstream],
        [upstream, client],
      ]) {
        sockets.add(socket);
        socket.on("error", () => {}); // `close` follows
        socket.on("close", () => {
          sockets.delete(socket);
          answers.delete(socket);
          other.destroy();
        });
        if (!silent) socket.pipe(other);
      }
    });
    return new Promise<void>((resolve, reject) => {
      server.on("error", reject);
      server.listen(port, "127.0.0.1", resolve);
    });
  };
  await accept();
  return {
    port,
    cut,
    refuse() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      cut();
      return closed;
    },
    accept,
    hold() {
      const held = [...answers];
      for (const [upstream, client] of held) upstream.unpipe(client).pause();
      // Not those of connections made since: they would get each answer twice.
      return () => {
        for (const [upstream, client] of held) upstream.pipe(client);
      };
    },
    silence() {
      silent = true;
      for (const socket of sockets) socket.unpipe().pause();
      return () => {
        silent = false;
        cut();
      };
    },
  };
}

/** How long a client waits for one answer, and how long it keeps on trying, ms. */
const ANSWER_MS = 35_000;
const PATIENCE_MS = 60_000;
/** Of `Retry-After` it waits no more than this, ms. */
const RETRY_MS = 500;

/** A user's program: it sends every request again that gets no answer or a 5xx, to the next coordinator. */
export class Client {
  /** Requests that failed. */
  retries = 0;
  #turn = 0;

  constructor(readonly origins: string[]) {}

  /** @returns the first answer below 500, read to its end. @throws Error after `PATIENCE_MS` */
  async ask(path: string, init: RequestInit = {}): Promise<{ status: number; bytes: Buffer<ArrayBuffer> }> {
    const deadline = Date.now() + PATIENCE_MS;
    for (;;) {
      let why: string;
      let pause = 100;
      try {
        const origin = this.origins[this.#turn % this.origins.length];
        const answer = await fetch(`${origin}${path}`, { ...init, signal: AbortSignal.timeout(ANSWER_MS) });
        const bytes = Buffer.from(await answer.arrayBuffer());
        if (answer.status < 500) return { status: answer.status, bytes };
        why = `${answer.status}: ${bytes}`;
        if (answer.status === 503) pause = Math.min(Number(answer.headers.get("retry-after")) * 1000, RETRY_MS);
      } catch (error) {
        why = String(error);
      }
      if (Date.now() > deadline) throw new Error(`${init.method ?? "GET"} ${path}: given up after ${why}`);
      this.retries++;
      this.#turn++;
      await new Promise((wake) => setTimeout(wake, pause));
    }
  }

  /** `POST`: the picture in, the edges out. */
  async post(picture: Uint8Array<ArrayBuffer>, query = ""): Promise<Buffer<ArrayBuffer>> {
    const { status, bytes } = await this.ask(`/tasks/sobel${query}`, { method: "POST", body: picture });
    if (status !== 200) throw new Error(`POST: expected 200, got ${status}: ${bytes}`);
    return bytes;
  }

  /** `PUT`, wait, fetch, remove. */
  async put(id: string, picture: Uint8Array<ArrayBuffer>, query = ""): Promise<Buffer<ArrayBuffer>> {
    const { status, bytes } = await this.ask(`/jobs/${id}${query}`, { method: "PUT", body: picture });
    if (status !== 202) throw new Error(`PUT: expected 202, got ${status}: ${bytes}`);
    const result = await this.result(id);
    // It may have been removed by a request whose answer was lost.
    const removed = await this.ask(`/jobs/${id}`, { method: "DELETE" });
    if (![204, 404].includes(removed.status)) throw new Error(`DELETE: got ${removed.status}: ${removed.bytes}`);
    return result;
  }

  /** The result of an accepted job, as soon as it is there. */
  async result(id: string): Promise<Buffer<ArrayBuffer>> {
    for (const deadline = Date.now() + PATIENCE_MS; ; ) {
      const job = await this.ask(`/jobs/${id}`);
      const { state, error, done, bands } = JSON.parse(job.bytes.toString());
      if (job.status !== 200 || state === "failed") throw new Error(`job ${id}: ${job.status} ${error}: ${job.bytes}`);
      if (state === "done") break;
      if (Date.now() > deadline)
        throw new Error(`job ${id}: ${state}, ${done} of ${bands} bands after ${PATIENCE_MS} ms`);
      await new Promise((wake) => setTimeout(wake, 30));
    }
    const { status, bytes } = await this.ask(`/jobs/${id}/result`);
    if (status !== 200) throw new Error(`result: expected 200, got ${status}: ${bytes}`);
    return bytes;
  }
}

/** 0 to 1, a sequence of its own for every seed (Numerical Recipes' congruential generator). */
export function generator(seed: number): () => number {
  let x = seed >>> 0;
  return () => {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    return x / 2 ** 32;
  };
}
