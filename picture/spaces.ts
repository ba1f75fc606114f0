/**
 * CMYK and YCbCr that the decoder leaves as they are → RGB, as OpenCV converts them.
 *
 * Sources: OpenCV, `icvCvt_CMYK2BGR_8u_C4C3R` (JPEG); libtiff, `TIFFYCbCrToRGBInit`, `putRGBcontig8bitCMYKtile` (TIFF).
 */

/** Converts the pixel at index `at` of the 8-bit `samples` to RGB at index `to` of `rgb`. */
export type ToRgb = (samples: Uint8Array, at: number, rgb: Uint8Array, to: number) => void;

/** @param samples n × `channels`; `toRgb` uses the first three or four of each pixel */
export function converted(samples: Uint8Array, channels: number, toRgb: ToRgb): Uint8Array {
  const rgb = new Uint8Array((samples.length / channels) * 3);
  for (let at = 0, to = 0; at < samples.length; at += channels, to += 3) toRgb(samples, at, rgb, to);
  return rgb;
}

/** CMYK of a TIFF: amounts of ink. */
export const inkToRgb: ToRgb = (samples, at, rgb, to) => {
  const white = 255 - samples[at + 3];
  for (let i = 0; i < 3; i++) rgb[to + i] = Math.floor((white * (255 - samples[at + i])) / 255);
};

/** CMYK of a JPEG: OpenCV takes the inverse of libvips' samples as amounts of light. */
export const lightToRgb: ToRgb = (samples, at, rgb, to) => {
  const light = 255 - samples[at + 3];
  for (let i = 0; i < 3; i++) rgb[to + i] = light - ((samples[at + i] * light) >> 8);
};

/** How the YCbCr of a TIFF is coded. */
export interface YcbcrCoding {
  /** The weights of red, green and blue in Y. */
  luma: readonly number[];
  /** The samples that mean zero and full, for each of Y, Cb and Cr. */
  range: readonly number[];
}

/** The defaults of TIFF: BT.601, all of the range. */
export const BT601: YcbcrCoding = { luma: [0.299, 0.587, 0.114], range: [0, 255, 128, 255, 128, 255] };

/** libtiff's arithmetic: fractions have 16 bits, and values are rounded towards zero. */
export function ycbcrToRgb({ luma, range }: YcbcrCoding): ToRgb {
  const [red, green, blue] = luma.map(Math.fround);
  const fixed = (factor: number) => Math.floor(Math.min(2, Math.max(0, factor)) * 65536 + 0.5);
  const [crRed, cbBlue] = [2 - 2 * red, 2 - 2 * blue];
  const tables = [0, 2, 4].map((i) => {
    const [zero, scale] = i === 0 ? [0, 255] : [128, 127];
    return Int32Array.from({ length: 256 }, (_, sample) => {
      const black = Math.trunc(range[i] - zero);
      const width = range[i + 1] - range[i] || 1;
      return Math.min(4096, Math.max(-4096, Math.fround(((sample - zero - black) * scale) / width)));
    });
  });
  const toRed = fixed(crRed);
  const toBlue = fixed(cbBlue);
  const [cbToGreen, crToGreen] = [fixed((blue * cbBlue) / green), fixed((red * crRed) / green)];
  return (samples, at, rgb, to) => {
    const y = tables[0][samples[at]];
    const cb = tables[1][samples[at + 1]];
    const cr = tables[2][samples[at + 2]];
    rgb[to] = clamp(y + ((toRed * cr + HALF) >> 16));
    rgb[to + 1] = clamp(y + ((HALF - cbToGreen * cb - crToGreen * cr) >> 16));
    rgb[to + 2] = clamp(y + ((toBlue * cb + HALF) >> 16));
  };
}

const HALF = 1 << 15;
const clamp = (value: number) => Math.min(255, Math.max(0, value));
