/**
 * CMYK and YCbCr that the decoder leaves as they are → RGB, as OpenCV converts them.
 *
 * Sources: OpenCV, `icvCvt_CMYK2BGR_8u_C4C3R` (JPEG); libtiff, `TIFFYCbCrToRGBInit` and `putRGBcontig8bitCMYKtile` (TIFF).
 */

/** How 8-bit samples become RGB: from `channels` of a pixel at `at` to three of `rgb`. */
export type ToRgb = (samples: Uint8Array, at: number, rgb: Uint8Array, to: number) => void;

/** @param samples n × `channels`; the first three or four of a pixel count */
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

/** CMYK of a JPEG: OpenCV takes the inverse of what libvips gives for amounts of light. */
export const lightToRgb: ToRgb = (samples, at, rgb, to) => {
  const light = 255 - samples[at + 3];
  for (let i = 0; i < 3; i++) rgb[to + i] = light - ((samples[at + i] * light) >> 8);
};

/** BT.601, all of the range: the defaults of TIFF. In 16-bit fractions, as libtiff. */
export const ycbcrToRgb: ToRgb = (samples, at, rgb, to) => {
  const [y, cb, cr] = [samples[at], scaled(samples[at + 1] - 128), scaled(samples[at + 2] - 128)];
  const green = (-fixed(CR_GREEN) * cr - fixed(CB_GREEN) * cb + HALF) >> 16;
  rgb[to] = clamp(y + ((fixed(CR_RED) * cr + HALF) >> 16));
  rgb[to + 1] = clamp(y + green);
  rgb[to + 2] = clamp(y + ((fixed(CB_BLUE) * cb + HALF) >> 16));
};

const [RED, GREEN, BLUE] = [0.299, 0.587, 0.114];
const [CR_RED, CB_BLUE] = [2 - 2 * RED, 2 - 2 * BLUE];
const [CR_GREEN, CB_GREEN] = [(RED * CR_RED) / GREEN, (BLUE * CB_BLUE) / GREEN];
const HALF = 1 << 15;
const fixed = (value: number) => Math.floor(value * 65536 + 0.5);
/** Chroma of −128 to 127 in a range of 127, cut towards zero. */
const scaled = (chroma: number) => Math.trunc((chroma * 127) / 127);
const clamp = (value: number) => Math.min(255, Math.max(0, value));
