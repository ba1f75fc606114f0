/**
 * Turns a picture upright by its EXIF orientation: 1 upright, 2 mirrored, 3 upside down, 4 both, 5 to 8 on a side.
 *
 * Not here: formats that libvips decodes, which it turns itself.
 * Source: EXIF 2.32, tag 274.
 */
import type { HeldMemory } from "./budget.ts";
import { collectPixels, type Raster } from "./picture.ts";

/** The degrees to turn each orientation, clockwise. Those in `MIRRORED` are mirrored first. */
const DEGREES = [0, 0, 0, 180, 180, 270, 90, 90, 270];
const MIRRORED = [2, 4, 5, 7];

/** The picture, upright. All its pixels are held twice while its rows are read. @param orientation 2 to 8 */
export function turned(picture: Raster, orientation: number, memory?: HeldMemory): Raster {
  const { width, height, channels } = picture;
  const blocks = async function* () {
    const { default: sharp } = await import("sharp");
    const pixels = await collectPixels(picture);
    memory?.own(pixels);
    const upright = await sharp(pixels, { raw: { width, height, channels }, limitInputPixels: false })
      .flop(MIRRORED.includes(orientation))
      .rotate(DEGREES[orientation])
      .toColourspace(channels === 1 ? "b-w" : "srgb")
      .raw()
      .toBuffer();
    memory?.own(upright);
    yield upright;
  };
  return { ...picture, ...(orientation > 4 && { width: height, height: width }), blocks: blocks() };
}
