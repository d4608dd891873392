// Images between files, canvases and arrays.
const WORKABLE_SIDE = 2048;

/** Draw an image to a canvas, which takes its size. */
export function show(canvas, { width, height, channels, data }) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const shown = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) shown.data[4 * i + c] = data[channels === 1 ? i : 3 * i + c];
    shown.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(shown, 0, 0);
}

/** Empty canvases. */
export function wipe(...canvases) {
  for (const canvas of canvases) canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
}

/** Return a new canvas that shows an image. */
export function canvasOf(image) {
  const canvas = document.createElement("canvas");
  show(canvas, image);
  return canvas;
}

/** Return what RGBA bytes show, as an image of 1 or 3 channels; grey is the service's luma. */
export function imageOf({ width, height, data: rgba }, channels) {
  const data = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const [r, g, b] = rgba.subarray(4 * i, 4 * i + 3);
    if (channels === 1) data[i] = (19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16;
    else data.set([r, g, b], 3 * i);
  }
  return { width, height, channels, data };
}

/** Return the picture in a file as RGBA bytes on black, at most WORKABLE_SIDE a side. */
export async function pictureOf(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw Object.assign(new Error("this file is no image that the browser can read"), { status: 0 });
  }
  const scale = Math.min(1, WORKABLE_SIDE / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

/** Return RGBA bytes brought to a size: cropped around the centre, padded with black, or stretched. */
export function fitted(picture, width, height, fit) {
  const [across, down] = [width / picture.width, height / picture.height];
  const scale = fit === "crop" ? Math.max(across, down) : Math.min(across, down);
  const [scaleX, scaleY] = fit === "resize" ? [across, down] : [scale, scale];
  const left = (width - picture.width * scaleX) / 2;
  const top = (height - picture.height * scaleY) / 2;
  const columns = weights(width, picture.width, left, scaleX);
  const rows = weights(height, picture.height, top, scaleY);
  const out = new ImageData(width, height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const sum = [0, 0, 0];
      for (const [sourceY, weightY] of rows[y]) {
        for (const [sourceX, weightX] of columns[x]) {
          const at = 4 * (sourceY * picture.width + sourceX);
          for (let c = 0; c < 3; c++) sum[c] += weightX * weightY * picture.data[at + c];
        }
      }
      out.data.set([...sum, 255], 4 * (y * width + x));
    }
  }
  return out;
}

// For each pixel of a side, the source's pixels that it covers and its shares of them; none of them is black.
function weights(size, sourceSize, start, scale) {
  return Array.from({ length: size }, (_, i) => {
    const [from, to] = [(i - start) / scale, (i + 1 - start) / scale];
    const found = [];
    for (let j = Math.max(0, Math.floor(from)); j < Math.min(sourceSize, Math.ceil(to)); j++) {
      const share = (Math.min(to, j + 1) - Math.max(from, j)) / (to - from);
      if (share > 1e-9) found.push([j, share]);
    }
    return found;
  });
}

/** Return how far two images are apart: the mean squared error of their levels. */
export function meanSquaredError(one, other) {
  let sum = 0;
  for (let i = 0; i < one.data.length; i++) sum += (one.data[i] - other.data[i]) ** 2;
  return sum / one.data.length;
}

/** Return the peak signal-to-noise ratio of a mean squared error in words. */
export const decibels = (error) => (error === 0 ? "exact" : `${(10 * Math.log10(255 ** 2 / error)).toFixed(1)} dB`);

/** Return where two images differ, as an image of twice the difference: levels of one or two would not be seen. */
export function difference(one, other) {
  return { ...one, data: one.data.map((level, i) => Math.min(255, 2 * Math.abs(level - other.data[i]))) };
}
