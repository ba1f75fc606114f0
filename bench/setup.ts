/**
 * What the rows share: pictures, peers and services. Each is made when the first row asks for it.
 *
 * Not here: what is measured (rows.ts) and how (measure.ts).
 */
import { openAsBlob, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import sharp from "sharp";
import { Cluster, cpuLimitError, Service } from "./cluster.ts";
import type { Subject } from "./measure.ts";
import { findPeers, type PythonAnswer, PythonPeer } from "./peers.ts";
import { pictureFile, type Sketch } from "./pictures.ts";

export const PICTURES = {
  small: { kind: "photo", width: 640, height: 480 },
  "6 Mpx": { kind: "photo", width: 3000, height: 2000 },
  "24 Mpx": { kind: "photo", width: 6000, height: 4000 },
  "216 Mpx": { kind: "photo", width: 18_000, height: 12_000 },
  /** As many pixels as MAX_PIXELS allows by default. */
  "1000 Mpx": { kind: "line art", width: 31_250, height: 32_000 },
  "1000 Mpx photo": { kind: "photo", width: 31_250, height: 32_000 },
  /** 10,000 pixels. */
  tiny: { kind: "photo", width: 100, height: 100 },
} satisfies Record<string, Sketch>;

export class Bench {
  readonly peers = findPeers();
  /** Why a worker cannot be limited to a share of a core here; undefined if it can. */
  readonly noCpuLimit = cpuLimitError();
  /** The picture of whole jobs. */
  readonly sketch: Sketch;
  /** How often a whole job runs. */
  readonly rounds: number;
  readonly cores = availableParallelism();
  #python: PythonPeer | undefined;
  #embedded: Promise<Service> | undefined;
  #cluster: Promise<Cluster> | undefined;

  constructor(readonly quick: boolean) {
    this.sketch = PICTURES[quick ? "6 Mpx" : "24 Mpx"];
    this.rounds = quick ? 3 : 7;
  }

  /** Peers and rows that cannot be measured here, each with the reason or the install command. */
  get missing(): string[] {
    return [...this.peers.missing, ...(this.noCpuLimit ? [`scaling (${this.noCpuLimit})`] : [])];
  }

  path(sketch = this.sketch): Promise<string> {
    return pictureFile(sketch);
  }

  async bytes(sketch = this.sketch): Promise<Buffer<ArrayBuffer>> {
    return readFileSync(await this.path(sketch)) as Buffer<ArrayBuffer>;
  }

  /** A picture for an upload: a Blob, because the client would copy a buffer, which takes a third of the job's time. */
  async file(sketch = this.sketch): Promise<Blob> {
    return openAsBlob(await this.path(sketch));
  }

  /** One run of OpenCV in Python; undefined if OpenCV is not installed. @param request as in peers.py */
  async python(request: { do: string; threads: number; depth?: string }, sketch = this.sketch) {
    const peer = this.#peer();
    await peer?.open(await this.path(sketch));
    return peer?.ask(request);
  }

  /** OpenCV as a subject; empty if it is not installed. */
  opencv(request: { do: string; threads: number; depth?: string }, sketch = this.sketch): Subject[] {
    if (!this.peers.python) return [];
    const once = async () => ((await this.python(request, sketch)) as PythonAnswer).seconds;
    return [{ name: request.depth ? `OpenCV, ${request.depth}` : "OpenCV", once }];
  }

  /** The course's design as a subject, with its workers started; empty if its packages are not installed. */
  async course(workers: number): Promise<Subject[]> {
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

  /** Versions of the peers, and of RabbitMQ and Redis if they were started. */
  async versions(): Promise<Record<string, string>> {
    return { ...this.peers.versions, sharp: sharp.versions.sharp, ...(await (await this.#cluster)?.versions()) };
  }

  async end(): Promise<void> {
    await this.#python?.end();
    await (await this.#embedded)?.stop();
    await (await this.#cluster)?.stop();
  }
}
