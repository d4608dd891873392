// How long an image is as a lossless file of a common format.
import { canvasOf, imageOf, meanSquaredError } from "./pixels.js";

const PNG_OVERHEAD = 57; // signature, header, and the frames of the three chunks that every file has
const WEBP_OVERHEAD = 20; // the frames of the file and of its one chunk

/** Return the bytes of a PNG file, grey or RGB, under the row filter that suits the image best. */
export async function pngBytes({ width, height, channels, data }) {
  const stride = width * channels;
  const rows = Array.from({ length: height }, (_, y) => data.subarray(y * stride, (y + 1) * stride));
  const nothing = new Uint8Array(stride);
  const variants = rows.map((row, y) => filters(row, y ? rows[y - 1] : nothing, channels));
  const adaptive = variants.map((found) => found.reduce((a, b) => (size(b) < size(a) ? b : a)));
  const choices = [0, 1, 2, 3, 4].map((kind) => variants.map((found) => found[kind])).concat([adaptive]);
  return PNG_OVERHEAD + Math.min(...await Promise.all(choices.map(deflatedBytes)));
}

function filters(row, above, channels) {
  const kinds = [
    () => 0,
    (left) => left,
    (left, up) => up,
    (left, up) => (left + up) >> 1,
    paeth,
  ];
  return kinds.map((predicted, kind) => {
    const filtered = new Uint8Array(row.length + 1);
    filtered[0] = kind;
    row.forEach((level, i) => {
      const [left, corner] = i < channels ? [0, 0] : [row[i - channels], above[i - channels]];
      filtered[i + 1] = level - predicted(left, above[i], corner);
    });
    return filtered;
  });
}

function paeth(left, up, corner) {
  const [a, b, c] = [left, up, corner].map((level) => Math.abs(left + up - corner - level));
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}

const size = (filtered) => filtered.reduce((sum, value) => sum + Math.min(value, 256 - value), 0);

async function deflatedBytes(rows) {
  const deflated = new Blob(rows).stream().pipeThrough(new CompressionStream("deflate"));
  return (await new Response(deflated).arrayBuffer()).byteLength;
}

/** Return the bytes of a WebP file that has every pixel, and nothing else; null in browsers that write none. */
export async function webpBytes(image) {
  const blob = await new Promise((resolve) => { canvasOf(image).toBlob(resolve, "image/webp", 1); });
  if (blob?.type !== "image/webp") return null;
  const bytes = lengthOfPixels(new DataView(await blob.arrayBuffer()));
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const context = canvasOf(image).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const found = imageOf(context.getImageData(0, 0, image.width, image.height), image.channels);
  return bytes !== null && meanSquaredError(image, found) === 0 ? WEBP_OVERHEAD + bytes : null;
}

// A browser adds a colour profile, which is longer than the pixels of a small image.
function lengthOfPixels(file) {
  const [VP8L, tags] = [0x5650384c, 12];
  for (let at = tags; at < file.byteLength;) {
    const padded = Math.ceil(file.getUint32(at + 4, true) / 2) * 2;
    if (file.getUint32(at) === VP8L) return padded;
    at += 8 + padded;
  }
  return null;
}
