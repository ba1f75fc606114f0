/**
 * 8-bit samples of any kind → grey, RGB or RGBA.
 *
 * Grey is the kernel's luminance. If the result has no alpha, transparent pixels are composited over white. Grey
 * becomes RGB of equal samples. A picture without alpha gets an opaque one.
 *
 * Not here: where samples come from (png-samples.ts, read.ts), the loops that grey takes (kernel/).
 */
import { kernel } from "./kernel/kernel.ts";
import { overWhite } from "./kernel/scalar.ts";
import type { Channels } from "./picture.ts";

/**
 * @param samples n × `from` interleaved samples
 * @param from 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA
 * @param out n × `to` bytes
 */
export function convert(samples: Uint8Array, from: number, out: Uint8Array, to: Channels): void {
  if (to === 1) kernel.luminance(samples, from, out);
  else if (to === from) out.set(samples);
  else if (to === 4) addAlpha(samples, from, out);
  else dropAlpha(samples, from, out);
}

function addAlpha(samples: Uint8Array, from: number, rgba: Uint8Array): void {
  const [green, blue] = from === 3 ? [1, 2] : [0, 0];
  for (let at = 0, to = 0; at < samples.length; at += from, to += 4) {
    rgba[to] = samples[at];
    rgba[to + 1] = samples[at + green];
    rgba[to + 2] = samples[at + blue];
    rgba[to + 3] = from === 2 ? samples[at + 1] : 255;
  }
}

function dropAlpha(samples: Uint8Array, from: number, rgb: Uint8Array): void {
  const [green, blue] = from === 4 ? [1, 2] : [0, 0];
  for (let at = 0, to = 0; at < samples.length; at += from, to += 3) {
    const alpha = from === 1 ? 255 : samples[at + from - 1];
    rgb[to] = overWhite(samples[at], alpha);
    rgb[to + 1] = overWhite(samples[at + green], alpha);
    rgb[to + 2] = overWhite(samples[at + blue], alpha);
  }
}
