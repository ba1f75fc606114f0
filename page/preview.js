/**
 * A small copy of a picture, and a smaller one for the list. The picture itself may be of hundreds of megapixels.
 *
 * Invariant: no full-size pixels are held beyond the moment in which the browser scales them.
 */

/** The longer side of the copies, px. */
const MOST = 1600;
const THUMB = 112;
/** Beyond these pixels not even for a moment; phones have less. */
const MAX_PIXELS = isSmall() ? 2 ** 26 : 2 ** 28;
/** Up to here the whole is drawn at once, and need not be scaled apart from this thread. */
const SMALL_PIXELS = 2 ** 22;

/** @typedef {{ width: number, height: number, small: Blob, thumb: Blob }} Preview size of the picture, px */

/** @param {Blob} file @returns {Promise<Preview | null>} null where the browser cannot show it */
export async function preview(file) {
  const url = URL.createObjectURL(file);
  try {
    // Loaded, not decoded: that happens when it is drawn. It knows the size, turned as EXIF says.
    const image = new Image();
    image.src = url;
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = reject;
    });
    const { naturalWidth: width, naturalHeight: height } = image;
    if (width * height === 0 || width * height > MAX_PIXELS) return null;
    const [w, h] = fitted(width, height, MOST);
    const source = width * height <= SMALL_PIXELS ? image : await scaled(file, w, h);
    const small = await drawn(source, w, h);
    const thumb = await drawn(source, ...fitted(width, height, THUMB));
    if (source instanceof ImageBitmap) source.close();
    return small && thumb && { width, height, small, thumb };
  } catch {
    return null; // TIFF, or no picture at all: the server will tell
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** @param {Blob} file @param {number} resizeWidth @param {number} resizeHeight */
function scaled(file, resizeWidth, resizeHeight) {
  return createImageBitmap(file, { resizeWidth, resizeHeight, resizeQuality: "medium" });
}

/** @param {number} width @param {number} height @param {number} most @returns {[number, number]} */
function fitted(width, height, most) {
  const scale = Math.min(1, most / Math.max(width, height));
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

/** @param {CanvasImageSource} source @param {number} width @param {number} height @returns {Promise<Blob | null>} */
function drawn(source, width, height) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.fillStyle = "#fff"; // as the coordinator does with what is transparent
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, width, height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.88));
}

/** Whether this machine has little memory, as far as its browser tells. */
function isSmall() {
  return "deviceMemory" in navigator && Number(navigator.deviceMemory) <= 4;
}
