// Images to begin with: of the test set where the bundle is one of ours, else the model's own samples.
import * as api from "./api.js";
import { imageOf, pictureOf } from "./pixels.js";

const COUNT = 8;
const WITH_SHEET = ["fashion-mnist", "mnist", "cifar10"]; // bundles whose test set has a sheet beside this file

/** Return images of a model's shape, and what they are. */
export async function examplesOf({ id, shape }) {
  const [channels, height, width] = shape;
  if (WITH_SHEET.includes(id)) {
    const sheet = await pictureOf(await api.part(`examples-${id}.png`));
    if (sheet.height === height && sheet.width === COUNT * width) {
      const images = Array.from({ length: COUNT }, (_, i) => imageOf(part(sheet, i * width, width), channels));
      return { images, name: "Test images" };
    }
  }
  return { images: await api.sample(id, { n: COUNT, seed: 1 }), name: "Samples of the model" };
}

function part({ width: stride, height, data }, left, width) {
  const found = new Uint8Array(4 * width * height);
  for (let y = 0; y < height; y++) {
    const start = 4 * (y * stride + left);
    found.set(data.subarray(start, start + 4 * width), 4 * y * width);
  }
  return { width, height, data: found };
}
