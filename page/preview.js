/**
 * Small copies of a picture, for the stage and for the list. The picture may have hundreds of megapixels.
 *
 * Invariant: full-size pixels exist only while the browser scales them.
 */

/** The longer side of the copies, px. */
const MAX_SIDE = 1600;
const THUMB = 112;
/** Larger pictures are not decoded at all. Phones have less memory. */
const MAX_PIXELS = isSmall() ? 2 ** 26 : 2 ** 28;
/** Pictures up to this size are drawn directly; larger ones are scaled off this thread first. */
const SMALL_PIXELS = 2 ** 22;

/** @typedef {{ width: number, height: number, small: Blob, thumb: Blob }} Preview size of the picture, px */

/** @param {Blob} file @returns {Promise<Preview | null>} null where the browser cannot show it */
export async function preview(file) {
  const url = URL.createObjectURL(file);
  try {
    // This loads the picture without decoding it, and gives its size after EXIF rotation.
    const image = new Image();
    image.src = url;
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = reject;
    });
    const { naturalWidth: width, naturalHeight: height } = image;
    if (width * height === 0 || width * height > MAX_PIXELS) return null;
    const [w, h] = fitted(width, height, MAX_SIDE);
    const source = width * height <= SMALL_PIXELS ? image : await scaled(file, w, h);
    const small = await drawn(source, w, h);
    const thumb = await drawn(source, ...fitted(width, height, THUMB));
    if (source instanceof ImageBitmap) source.close();
    return small && thumb && { width, height, small, thumb };
  } catch {
    return null; // TIFF, or not a picture: the server decides
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** @param {Blob} file @param {number} resizeWidth @param {number} resizeHeight */
function scaled(file, resizeWidth, resizeHeight) {
  return createImageBitmap(file, { resizeWidth, resizeHeight, resizeQuality: "medium" });
}

/** @param {number} width @param {number} height @param {number} max @returns {[number, number]} */
function fitted(width, height, max) {
  const scale = Math.min(1, max / Math.max(width, height));
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

/** @param {CanvasImageSource} source @param {number} width @param {number} height @returns {Promise<Blob | null>} */
function drawn(source, width, height) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.fillStyle = "#fff"; // the coordinator puts transparent pixels on white too
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, width, height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.88));
}

/** Whether this machine has little memory, if the browser reports it. */
function isSmall() {
  return "deviceMemory" in navigator && Number(navigator.deviceMemory) <= 4;
}
