/**
 * What the rows of the benchmark share: the pictures, the peers, and the processes, each made when a row first asks.
 *
 * Not here: what is measured (rows.ts, scaling.ts) and how (measure.ts).
 */
import { openAsBlob, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import sharp from "sharp";
import { Cluster, Service } from "./cluster.ts";
import type { Contestant } from "./measure.ts";
import { findPeers, type Peers, PythonPeer } from "./peers.ts";
import { pictureFile, type Sketch } from "./pictures.ts";

export const PICTURES = {
  small: { kind: "photo", width: 640, height: 480 },
  "6 Mpx": { kind: "photo", width: 3000, height: 2000 },
  "24 Mpx": { kind: "photo", width: 6000, height: 4000 },
  "216 Mpx": { kind: "photo", width: 18_000, height: 12_000 },
  /** The most that is taken without a setting. */
  "1000 Mpx": { kind: "line art", width: 31_250, height: 32_000 },
} satisfies Record<string, Sketch>;

export class Bench {
  readonly peers: Peers = findPeers();
  /** The picture that whole jobs are about. */
  readonly sketch: Sketch;
  readonly pairs: number;
  readonly cores = availableParallelism();
  /** Seconds of a distributed job by number of workers, once they have been measured. */
  readonly distributed = new Map<number, number>();
  /** Bytes of what OpenCV made last, by request. */
  readonly peerBytes = new Map<string, number>();
  #python: PythonPeer | undefined;
  #embedded: Promise<Service> | undefined;
  #cluster: Promise<Cluster> | undefined;

  constructor(readonly quick: boolean) {
    this.sketch = PICTURES[quick ? "6 Mpx" : "24 Mpx"];
    this.pairs = quick ? 3 : 7;
  }

  path(sketch: Sketch = this.sketch): Promise<string> {
    return pictureFile(sketch);
  }

  async bytes(sketch: Sketch = this.sketch): Promise<Buffer<ArrayBuffer>> {
    return readFileSync(await this.path(sketch)) as Buffer<ArrayBuffer>;
  }

  /** To be sent: of bytes at hand, the client would first make a copy, in a third of the time that the job takes. */
  async file(sketch: Sketch = this.sketch): Promise<Blob> {
    return openAsBlob(await this.path(sketch));
  }

  /** OpenCV, as one that takes part; nobody where it is not installed. */
  async opencv(request: { do: string; depth?: string }, threads: number, sketch = this.sketch): Promise<Contestant[]> {
    const peer = this.#peer();
    if (!peer) return [];
    const path = await this.path(sketch);
    const once = async () => {
      await peer.open(path);
      const { seconds, bytes } = await peer.ask({ ...request, threads });
      this.peerBytes.set(request.do, bytes);
      return seconds;
    };
    return [{ name: request.depth ? `OpenCV, ${request.depth}` : "OpenCV", once }];
  }

  /** The course's design, as one that takes part; nobody where its packages are not installed. */
  async course(workers: number): Promise<Contestant[]> {
    const peer = this.#peer();
    if (!peer || !this.peers.course) return [];
    const { rabbitmq, redis } = await this.cluster();
    await peer.ask({ do: "start", amqp: rabbitmq.port, redis: redis.port, workers });
    const path = await this.path();
    const once = async () => {
      await peer.open(path);
      return (await peer.ask({ do: "course", workers })).seconds;
    };
    return [{ name: "the course's design", once }];
  }

  #peer(): PythonPeer | undefined {
    if (this.peers.python) this.#python ??= new PythonPeer(this.peers.python);
    return this.#python;
  }

  embedded(): Promise<Service> {
    this.#embedded ??= Service.start();
    return this.#embedded;
  }

  cluster(): Promise<Cluster> {
    this.#cluster ??= Cluster.start();
    return this.#cluster;
  }

  /** Of the peers, and of the servers where they were needed. */
  async versions(): Promise<Record<string, string>> {
    return { ...this.peers.versions, sharp: sharp.versions.sharp, ...(await (await this.#cluster)?.versions()) };
  }

  async end(): Promise<void> {
    await this.#python?.end();
    await (await this.#embedded)?.stop();
    await (await this.#cluster)?.stop();
  }
}
