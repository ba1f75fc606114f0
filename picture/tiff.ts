/**
 * The directory of a TIFF: what kind of picture it is, and whether the decoder gives the right pixels.
 *
 *     header       II or MM · 42 · offset of the first directory        (BigTIFF: 43 · 8 · 0 · a 64-bit offset)
 *     directory    number of entries · entries · offset of the next
 *     entry        tag · type · number of values · the values, or where they are
 *
 * Only the first directory counts. docs/formats.md has the table of what is read.
 *
 * Invariant: after `readTiff` the directory holds only the tags that decide pixels. So no picture is refused for an odd
 * value of another tag. EXIF is a TIFF too, without a picture.
 *
 * Source: TIFF 6.0 (Adobe, 1992); TIFF Technical Notes 1 and 2; BigTIFF (LibTIFF).
 */
import { ImageError } from "./picture.ts";
import { BT601, type YcbcrCoding } from "./spaces.ts";

export interface TiffKind {
  /** The decoded samples are CMYK. */
  isCmyk: boolean;
  /** How the decoded samples are coded, if they are YCbCr. */
  ycbcr?: YcbcrCoding;
  /** A pixel has a sample beyond grey or colour that is not alpha: its meaning is not defined. */
  hasSurplus: boolean;
}

const ORIENTATION = 274;
const [BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR] = [258, 259, 262, 277, 284];
const [TILE_WIDTH, EXTRA, FORMAT, SUBSAMPLING] = [322, 338, 339, 530];
const [INK_SET, COEFFICIENTS, REFERENCE] = [332, 529, 532];
/** The tags that decide pixels: also size, strips, tiles, fill order, CCITT's options, predictor, palette, tables. */
const DECISIVE = new Set([
  ...[ORIENTATION, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR, TILE_WIDTH, EXTRA, FORMAT, SUBSAMPLING, REFERENCE],
  ...[256, 257, 266, 273, 278, 279, 292, 293, 317, 320, 323, 324, 325, INK_SET, 347, COEFFICIENTS, 531],
]);
/** Values of the tag for colour. 0 is grey as well, with 0 for white. */
const [GREY, RGB, PALETTE, CMYK, YCBCR] = [1, 2, 3, 5, 6];
const PHOTOMETRICS: Record<number, string> = {
  4: "a mask",
  8: "CIE L*a*b*",
  9: "ICC L*a*b*",
  10: "ITU L*a*b*",
  32803: "a camera's raw sensor data",
  32844: "LogL",
  32845: "LogLuv",
  34892: "a camera's raw data",
};
const JPEG = 7;
/** The compressions that the decoder reads: none, CCITT (2, 3, 4), LZW, JPEG, Deflate (8, 32946), PackBits. */
const COMPRESSIONS = new Set([1, 2, 3, 4, 5, JPEG, 8, 32773, 32946]);
const COMPRESSION_NAMES: Record<number, string> = {
  6: "old-style JPEG",
  34661: "JBIG",
  34712: "JPEG 2000",
  34887: "LERC",
  34925: "LZMA",
  50000: "Zstandard",
  50001: "WebP",
  50002: "JPEG XL",
};
const FORMATS: Record<number, string> = { 2: "signed integers", 3: "floating point", 5: "complex", 6: "complex" };
/** The type of a numerator and denominator. */
const FRACTION = 5;
/** Bytes of a value, by its type. */
const TYPE_BYTES = [0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8];

/**
 * Checks the kind of a TIFF, and removes from its first directory, in place, the tags that do not decide pixels.
 * @throws ImageError "corrupt"; "unknown-format" if the decoder would give wrong pixels, or none
 */
export function readTiff(bytes: Buffer): TiffKind {
  const directory = Directory.first(bytes);
  if (!directory) throw new ImageError("corrupt", "corrupt TIFF: the first directory is not in the file");
  const kind = kindOf(directory);
  // The decoder would not convert the samples, and would get those of separate planes wrong.
  if (kind.ycbcr) directory.set(PHOTOMETRIC, RGB);
  directory.keep(DECISIVE);
  return kind;
}

/** The orientation in a block of EXIF, 1 to 8; 1 if there is none. */
export function orientationIn(exif: Buffer): number {
  return Directory.first(exif)?.orientation() ?? 1;
}

export function isTiff(first: Uint8Array): boolean {
  const start = String.fromCharCode(...first.subarray(0, 4));
  return ["II*\0", "MM\0*", "II+\0", "MM\0+"].includes(start);
}

function kindOf(directory: Directory): TiffKind {
  const photometric = directory.value(PHOTOMETRIC, GREY);
  const compression = directory.value(COMPRESSION, 1);
  const bits = directory.values(BITS, [1]);
  const samples = directory.value(SAMPLES, 1);
  const format = directory.values(FORMAT, [1]).find((format) => format in FORMATS);
  if (!COMPRESSIONS.has(compression)) {
    throw unread(
      `compressed with ${COMPRESSION_NAMES[compression] ?? `method ${compression}`}`,
      "compress it with LZW",
    );
  }
  if (photometric > YCBCR || photometric === 4) {
    throw unread(`of ${PHOTOMETRICS[photometric] ?? `photometric interpretation ${photometric}`}`);
  }
  if (format !== undefined) throw unread(`with samples of ${FORMATS[format]}`);
  if (bits.some((depth) => depth !== bits[0])) throw unread(`with samples of ${bits.join(", ")} bits`);
  const depths = photometric === PALETTE || photometric <= GREY ? [1, 2, 4, 8, 16] : [8, 16];
  const known = photometric === CMYK || photometric === YCBCR ? [8] : depths;
  if (!known.includes(bits[0]) || (samples > 1 && bits[0] < 8)) throw unread(`with samples of ${bits[0]} bits`);
  if (photometric === CMYK && directory.value(INK_SET, 1) !== 1) throw unread("of inks other than CMYK");
  if (directory.value(PLANAR, 1) === 2 && samples > 1 && directory.value(TILE_WIDTH, 0) > 0) {
    throw unread("in tiles of separate planes");
  }
  const own = photometric === CMYK ? 4 : photometric === RGB || photometric === YCBCR ? 3 : 1;
  if (samples < own) throw new ImageError("corrupt", `corrupt TIFF: expected at least ${own} samples, got ${samples}`);
  if (samples > own + 1) throw unread(`with ${samples} samples a pixel`);
  const hasAlpha = samples > own && [1, 2].includes(directory.value(EXTRA, 0));
  const isYcbcr = photometric === YCBCR && isLeftAsYcbcr(directory, compression);
  return {
    isCmyk: photometric === CMYK,
    ...(isYcbcr && { ycbcr: codingOf(directory) }),
    hasSurplus: samples > own && !hasAlpha,
  };
}

/** Whether the decoder leaves YCbCr as it is. It converts pictures that are subsampled, and JPEG. */
function isLeftAsYcbcr(directory: Directory, compression: number): boolean {
  return compression !== JPEG && directory.values(SUBSAMPLING, [2, 2]).every((factor) => factor === 1);
}

function codingOf(directory: Directory): YcbcrCoding {
  const luma = directory.values(COEFFICIENTS, []);
  const range = directory.values(REFERENCE, []);
  if (luma.length === 3 && !(luma[1] > 0)) throw unread("of YCbCr without green");
  return { luma: luma.length === 3 ? luma : BT601.luma, range: range.length === 6 ? range : BT601.range };
}

function unread(what: string, remedy = "save it as RGB or grey of 8 bits"): ImageError {
  return new ImageError("unknown-format", `unknown kind of TIFF: a TIFF ${what} is not read; ${remedy}`);
}

/** The entries of the first directory, in either byte order, of a classic TIFF or a BigTIFF. */
class Directory {
  /** The position of each tag's entry. If a tag has several, the first counts. */
  readonly #entries = new Map<number, number>();
  readonly #isLittle: boolean;
  /** Bytes of an offset, of the number of entries, and of an entry. */
  readonly #wide: number;
  readonly #countBytes: number;
  readonly #entryBytes: number;
  readonly #at: number;
  readonly #isWhole: boolean;

  private constructor(readonly bytes: Buffer) {
    this.#isLittle = bytes[0] === 0x49;
    const isBig = bytes[this.#isLittle ? 2 : 3] === 0x2b;
    [this.#wide, this.#countBytes, this.#entryBytes] = isBig ? [8, 8, 20] : [4, 2, 12];
    this.#at = this.#number(this.#wide, this.#wide) ?? 0;
    const first = this.#at + this.#countBytes;
    const end = first + (this.#number(this.#at, this.#countBytes) ?? Number.NaN) * this.#entryBytes;
    this.#isWhole = this.#at > 0 && end <= bytes.length;
    for (let at = first; this.#isWhole && at < end; at += this.#entryBytes) {
      const tag = this.#number(at, 2)!;
      if (!this.#entries.has(tag)) this.#entries.set(tag, at);
    }
  }

  /** The first directory; undefined if it is not in these bytes. */
  static first(bytes: Buffer): Directory | undefined {
    if (bytes.length < 8 || !isTiff(bytes)) return undefined;
    const directory = new Directory(bytes);
    return directory.#isWhole ? directory : undefined;
  }

  /** An unsigned number; undefined if it is not in the file. */
  #number(at: number, size: number): number | undefined {
    const { bytes } = this;
    if (at + size > bytes.length) return undefined;
    if (size === 8) return Number(this.#isLittle ? bytes.readBigUInt64LE(at) : bytes.readBigUInt64BE(at));
    return this.#isLittle ? bytes.readUIntLE(at, size) : bytes.readUIntBE(at, size);
  }

  /** The values of a tag, at most 16: unsigned numbers or fractions. @param absent returned if the tag has none */
  values(tag: number, absent: number[]): number[] {
    const at = this.#entries.get(tag);
    if (at === undefined) return absent;
    const type = this.#number(at + 2, 2)!;
    const size = TYPE_BYTES[type] ?? 0;
    const count = size > 0 ? this.#number(at + 4, this.#wide)! : 0;
    const inline = at + 4 + this.#wide;
    const from = size * count <= this.#wide ? inline : this.#number(inline, this.#wide)!;
    const known = Array.from({ length: Math.min(16, count) }, (_, i) =>
      type === FRACTION ? this.#fraction(from + i * size) : this.#number(from + i * size, size),
    ).filter((value) => value !== undefined);
    return known.length > 0 ? known : absent;
  }

  #fraction(at: number): number | undefined {
    const [over, under] = [this.#number(at, 4), this.#number(at + 4, 4)];
    return over !== undefined && under ? over / under : undefined;
  }

  value(tag: number, absent: number): number {
    return this.values(tag, [absent])[0];
  }

  /** Changes the single value of a tag that the directory has. */
  set(tag: number, value: number): void {
    const at = this.#entries.get(tag);
    if (at !== undefined) this.#put(at + 4 + this.#wide, value, TYPE_BYTES[this.#number(at + 2, 2)!]);
  }

  orientation(): number {
    const value = this.value(ORIENTATION, 1);
    return value >= 1 && value <= 8 ? value : 1;
  }

  /** Removes all entries but those of `tags`, sorts them by tag, and makes this the last directory. */
  keep(tags: Set<number>): void {
    if (this.value(ORIENTATION, 1) !== this.orientation()) this.#entries.delete(ORIENTATION);
    const kept = [...this.#entries].filter(([tag]) => tags.has(tag)).sort(([a], [b]) => a - b);
    const entries = Buffer.concat(kept.map(([, at]) => this.bytes.subarray(at, at + this.#entryBytes)));
    const first = this.#at + this.#countBytes;
    const end = first + entries.copy(this.bytes, first);
    this.#put(this.#at, kept.length, this.#countBytes);
    if (end + this.#wide <= this.bytes.length) this.#put(end, 0, this.#wide);
  }

  #put(at: number, value: number, size: number): void {
    this.bytes.fill(0, at, at + size);
    this.bytes[this.#isLittle ? at : at + size - 1] = value & 0xff;
    this.bytes[this.#isLittle ? at + 1 : at + size - 2] = value >> 8;
  }
}
