/**
 * Turns a picture as EXIF says: 1 upright, 2 mirrored, 3 upside down, 4 both, 5 to 8 lying on a side.
 *
 * Not here: formats that libvips decodes, which it turns itself.
 * Source: EXIF 2.32, tag 274.
 */
import { breathe, type HeldMemory } from "./budget.ts";
import { collectPixels, type Raster } from "./picture.ts";

/** Rows are turned in blocks of about this many pixels. */
const BLOCK_PIXELS = 1 << 16;

/** The picture, upright. All its pixels are held while its rows are walked. @param orientation 2 to 8 */
export function turned(picture: Raster, orientation: number, memory?: HeldMemory): Raster {
  const { channels } = picture;
  const isOnSide = orientation > 4;
  const [width, height] = isOnSide ? [picture.height, picture.width] : [picture.width, picture.height];
  const [toLeft, toTop] = [[2, 3, 7, 8].includes(orientation), [3, 4, 6, 7].includes(orientation)];
  const blocks = async function* () {
    const pixels = await collectPixels(picture);
    memory?.own(pixels);
    const most = Math.max(1, Math.floor(BLOCK_PIXELS / width));
    for (let top = 0; top < height; top += most) {
      await breathe();
      const rows = Math.min(most, height - top);
      const block = new Uint8Array(rows * width * channels);
      for (let i = 0; i < rows * width; i++) {
        const [x, y] = [i % width, top + Math.floor(i / width)];
        const [u, v] = isOnSide ? [y, x] : [x, y];
        const column = toLeft ? picture.width - 1 - u : u;
        const from = ((toTop ? picture.height - 1 - v : v) * picture.width + column) * channels;
        for (let c = 0; c < channels; c++) block[i * channels + c] = pixels[from + c];
      }
      yield block;
    }
  };
  return { width, height, channels, blocks: blocks() };
}
