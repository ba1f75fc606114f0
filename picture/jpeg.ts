/**
 * The segments of a JPEG: its size, whether it is complete, and a file without the segments that do not decide pixels.
 *
 *     SOI · (APPn, COM: metadata) · DQT, DHT, DRI: tables · SOF: the frame · { SOS: a scan · its data } · EOI
 *
 * libjpeg warns of odd metadata and of damaged data alike, by text alone. So the decoder gets a file that has no
 * metadata but the colour space and the orientation. Then each warning is about damage, and refuses the picture.
 *
 * Invariant: a picture that passes has every scan that its frame needs. A decoder would fill the rest with grey.
 *
 * Sources: ITU-T T.81, B and G; JFIF 1.02; ITU-T T.872, 6.5.3 (the Adobe segment).
 */
import { ImageError } from "./picture.ts";
import { orientationIn } from "./tiff.ts";

/** What the decoder gets. */
export interface Jpeg {
  file: Buffer;
  components: number;
  /** The decoder holds all coefficients: the picture is progressive, or its components come in several scans. */
  holdsCoefficients: boolean;
}

/** The size, if the frame is in these first bytes. @throws ImageError "corrupt" */
export function sizeInJpeg(bytes: Buffer): { width: number; height: number } | undefined {
  for (const { marker, at } of segments(bytes)) {
    if (isFrame(marker)) return at + 9 <= bytes.length ? sizeAt(bytes, at) : undefined;
  }
  return undefined;
}

/**
 * Removes, in place, what the decoder does not need.
 * @throws ImageError "corrupt" if scans are missing; "unknown-format" for kinds of JPEG that are not read
 */
export function readJpeg(bytes: Buffer): Jpeg {
  const writer = new Writer(bytes);
  const scans: Scan[] = [];
  let frame: Frame | undefined;
  for (const { marker, at, end } of segments(bytes)) {
    if (isFrame(marker)) frame = frameAt(bytes, at, end);
    if (isFrame(marker) || KEPT.has(marker)) writer.keep(at, end);
    if (marker === APP0) writer.jfif(at, end);
    if (marker === APP1) writer.exif(at, end);
    if (marker === APP14) writer.adobe(at, end);
    if (marker !== SOS) continue;
    if (!frame) throw corrupt("a scan comes before the frame");
    const scan = scanAt(bytes, at, end, frame.ids);
    scans.push(scan);
    // Some phones write 0 for the last coefficient of a sequential scan.
    if (!frame.isProgressive) bytes.set([0, 63, 0], end - 3);
    // The only scan: the decoder looks for its end itself.
    const isOnly = !frame.isProgressive && scan.components.length === frame.ids.length;
    const eoi = isOnly ? bytes.lastIndexOf(Uint8Array.of(0xff, EOI)) : end;
    writer.keep(at, eoi < end ? bytes.length : eoi);
    if (isOnly) break;
  }
  if (!frame) throw corrupt("there is no frame");
  expectComplete(frame, scans);
  const components = frame.ids.length;
  const holdsCoefficients = frame.isProgressive || scans[0].components.length < components;
  return { file: writer.end(components), components, holdsCoefficients };
}

const [SOS, EOI, APP0, APP1, APP14] = [0xda, 0xd9, 0xe0, 0xe1, 0xee];
/** The marker that `segments` reports for the data of a scan, which have none. */
const DATA = 0;
/** Huffman and arithmetic tables, quantisation tables, the number of lines, the restart interval; data. */
const KEPT = new Set([0xc4, 0xcc, 0xdb, 0xdc, 0xdd, DATA]);
/** The frame of JPEG-LS, ITU-T T.87. */
const JPEG_LS = 0xf7;
/** Baseline, extended, progressive; the last two with arithmetic coding. */
const FRAMES = new Set([0xc0, 0xc1, 0xc2, 0xc9, 0xca]);

function isFrame(marker: number): boolean {
  const isOther = marker === 0xc4 || marker === 0xc8 || marker === 0xcc;
  return (marker >= 0xc0 && marker <= 0xcf && !isOther) || marker === JPEG_LS;
}

/**
 * The segments from `at` to `end`, and the data of each scan. Bytes between segments are skipped, as decoders do.
 * @throws ImageError "corrupt"
 */
function* segments(bytes: Buffer): Generator<{ marker: number; at: number; end: number }> {
  for (let at = bytes.indexOf(0xff, 2); at >= 0 && at + 4 <= bytes.length; at = bytes.indexOf(0xff, at)) {
    const marker = bytes[at + 1];
    if (marker === EOI) return;
    if (marker === 0xff) at++;
    else if (marker <= 1 || (marker >= 0xd0 && marker <= 0xd8)) at += 2;
    else {
      const length = bytes.readUInt16BE(at + 2);
      if (length < 2) throw corrupt(`segment length: expected at least 2, got ${length}`);
      const end = Math.min(at + 2 + length, bytes.length);
      yield { marker, at, end };
      at = marker === SOS ? endOfScan(bytes, end) : end;
      if (marker === SOS) yield { marker: DATA, at: end, end: at };
    }
  }
}

function sizeAt(bytes: Buffer, at: number): { width: number; height: number } {
  return { width: bytes.readUInt16BE(at + 7), height: bytes.readUInt16BE(at + 5) };
}

interface Frame {
  isProgressive: boolean;
  /** The ids of its components. */
  ids: number[];
}

function frameAt(bytes: Buffer, at: number, end: number): Frame {
  const marker = bytes[at + 1];
  if (!FRAMES.has(marker))
    throw unread(marker === 0xc3 ? "without loss (lossless)" : "of another process (hierarchical, lossless, JPEG-LS)");
  const components = bytes[at + 9];
  if (end < at + 10 + 3 * components) throw corrupt("the frame is cut off");
  const precision = bytes[at + 4];
  if (precision !== 8) throw unread(`with ${precision} bits a sample`);
  if (![1, 3, 4].includes(components)) throw unread(`with ${components} components`);
  if (sizeAt(bytes, at).height === 0) throw unread("that gives its height after its pixels (DNL)");
  const ids = Array.from({ length: components }, (_, i) => bytes[at + 10 + 3 * i]);
  return { isProgressive: marker === 0xc2 || marker === 0xca, ids };
}

/** What a scan contains: coefficients `first` to `last` of these components, down to bit `low`. */
interface Scan {
  components: number[];
  first: number;
  last: number;
  low: number;
}

function scanAt(bytes: Buffer, at: number, end: number, ids: number[]): Scan {
  const count = bytes[at + 4];
  if (end < at + 8 + 2 * count) throw corrupt("a scan is cut off");
  const components = Array.from({ length: count }, (_, i) => ids.indexOf(bytes[at + 5 + 2 * i]));
  return { components, first: bytes[end - 3], last: bytes[end - 2], low: bytes[end - 1] & 15 };
}

/** Where the data of a scan end: at a marker that is not a restart. */
function endOfScan(bytes: Buffer, from: number): number {
  for (let at = from; ; at++) {
    at = bytes.indexOf(0xff, at);
    if (at < 0 || at + 1 >= bytes.length) return bytes.length;
    const next = bytes[at + 1];
    if (next !== 0 && next !== 0xff && (next < 0xd0 || next > 0xd7)) return at;
  }
}

/** @throws ImageError "corrupt" if the scans do not contain every coefficient of every component to its last bit */
function expectComplete({ isProgressive, ids }: Frame, scans: Scan[]): void {
  for (let component = 0; component < ids.length; component++) {
    const own = scans.filter((scan) => scan.components.includes(component));
    if (own.length === 0) throw corrupt(`component ${component + 1} of ${ids.length} is missing: the file is cut off`);
    const isSent = (k: number) => own.some(({ first, last, low }) => first <= k && k <= last && low === 0);
    if (isProgressive && !Array.from({ length: 64 }, (_, k) => k).every(isSent))
      throw corrupt("the last scans of a progressive picture are missing: the file is cut off");
  }
}

/** Moves what is kept towards the beginning of the file. Each segment fits into its old place: the file never grows. */
class Writer {
  #filled = 2;
  /** Where the colour transform of the Adobe segment is. */
  #transform: number | undefined;

  constructor(readonly bytes: Buffer) {}

  keep(from: number, to: number): void {
    this.bytes.copyWithin(this.#filled, from, to);
    this.#filled += to - from;
  }

  /** The colours are YCbCr. The version and the thumbnail do not matter. */
  jfif(at: number, end: number): void {
    const isJfif = this.bytes.toString("latin1", at + 4, at + 9) === "JFIF\0" && end - at >= 18;
    if (isJfif) this.#put([0xff, APP0, 0, 16, ...Buffer.from("JFIF\0", "latin1"), 1, 1, 0, 0, 1, 0, 1, 0, 0]);
  }

  /** How the colours are coded: 0 as they are, 1 YCbCr, 2 YCCK. */
  adobe(at: number, end: number): void {
    if (this.bytes.toString("latin1", at + 4, at + 9) !== "Adobe" || end - at < 16) return;
    this.keep(at, at + 16);
    this.bytes.writeUInt16BE(14, this.#filled - 14);
    this.#transform = this.#filled - 1;
  }

  exif(at: number, end: number): void {
    if (this.bytes.toString("latin1", at + 4, at + 8) !== "Exif" || end - at < 36) return;
    const orientation = orientationIn(this.bytes.subarray(at + 10, end));
    if (orientation > 1) this.#put([0xff, APP1, 0, 34, ...exifOf(orientation)]);
  }

  #put(segment: number[]): void {
    this.bytes.set(segment, this.#filled);
    this.#filled += segment.length;
  }

  /** The file. A colour transform that does not fit the number of components is replaced by the one that does. */
  end(components: number): Buffer {
    const transform = components === 4 ? 2 : 1;
    if (this.#transform !== undefined && this.bytes[this.#transform] > 0) this.bytes[this.#transform] = transform;
    const file = this.bytes.subarray(0, this.#filled);
    if (this.#filled + 2 > this.bytes.length) return Buffer.concat([file, Uint8Array.of(0xff, EOI)]);
    this.#put([0xff, EOI]);
    return this.bytes.subarray(0, this.#filled);
  }
}

/** A block of EXIF that holds an orientation and nothing else. */
function exifOf(orientation: number): number[] {
  const entry = [0x12, 1, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0];
  return [...Buffer.from("Exif\0\0II*\0", "latin1"), 8, 0, 0, 0, 1, 0, ...entry, 0, 0, 0, 0];
}

function corrupt(what: string): ImageError {
  return new ImageError("corrupt", `corrupt JPEG: ${what}`);
}

function unread(what: string): ImageError {
  const remedy = "save it as a JPEG of 8 bits";
  return new ImageError("unknown-format", `unknown kind of JPEG: a JPEG ${what} is not read; ${remedy}`);
}
