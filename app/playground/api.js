// The service's routes. Images are {width, height, channels, data}: uint8, row by row, channels last.
import { npyOf, arrayOf } from "./npy.js";

const NPY = "application/x-npy";
const PAYLOAD = "application/vnd.vaeserve.payload";

/** An answer that is none: `message` is the problem document's detail. */
export class Refusal extends Error {
  constructor(status, detail, retryAfterSeconds) {
    super(detail);
    Object.assign(this, { status, retryAfterSeconds });
  }
}

async function ask(path, { query = {}, body, type } = {}) {
  const parameters = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== undefined));
  const url = parameters.size ? `${path}?${parameters}` : path;
  const options = body === undefined ? {} : { method: "POST", body, headers: { "Content-Type": type } };
  let response;
  try {
    response = await fetch(url, options);
  } catch {
    throw new Refusal(0, "the service does not answer");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const seconds = Number(response.headers.get("Retry-After")) || undefined;
  throw new Refusal(response.status, problem.detail ?? `the service answered ${response.status}`, seconds);
}

const json = async (answer) => (await answer).json();
const array = async (answer) => arrayOf(await (await answer).arrayBuffer());

async function images(answer) {
  const { shape, data } = await array(answer);
  const [count, height, width, channels] = shape;
  const size = height * width * channels;
  return Array.from({ length: count }, (_, i) => (
    { width, height, channels, data: data.subarray(i * size, (i + 1) * size) }
  ));
}

const bodyOf = ({ width, height, channels, data }) => (
  { body: npyOf([1, height, width, channels], data), type: NPY }
);

/** Return a file that belongs to the page. */
export const part = async (name) => (await ask(`playground/${name}`)).blob();

export const models = () => json(ask("models"));
export const spreadOf = (model) => json(ask(`models/${encodeURIComponent(model)}/latents`));

/** Return mu and logvar, a Float32Array each. */
export async function encode(model, image) {
  const { shape, data } = await array(ask("encode", { query: { model, format: "npy" }, ...bodyOf(image) }));
  return { mu: data.slice(0, shape[2]), logvar: data.slice(shape[2]) };
}

/** Decode latents, each a Float32Array, to images. */
export function decode(model, latents) {
  const rows = new Float32Array(latents.length * latents[0].length);
  latents.forEach((z, i) => rows.set(z, i * z.length));
  const body = npyOf([latents.length, latents[0].length], rows);
  return images(ask("decode", { query: { model, format: "npy" }, body, type: NPY }));
}

export const reconstruct = async (model, image) => (
  (await images(ask("reconstruct", { query: { model, format: "npy" }, ...bodyOf(image) })))[0]
);
export const score = (model, image) => json(ask("score", { query: { model }, ...bodyOf(image) }));
export const sample = (model, wishes) => images(ask("sample", { query: { model, format: "npy", ...wishes } }));

/** Return the payload of an image at a quality. */
export async function compress(model, image, quality) {
  const answer = ask("compress", { query: { model, quality, format: "payload" }, ...bodyOf(image) });
  return new Uint8Array(await (await answer).arrayBuffer());
}

/** Return the bytes of an image without loss: as a payload, and as PNG and WebP files. */
export const losslessSizes = (model, image) => (
  json(ask("compress", { query: { model, compare: true }, ...bodyOf(image) }))
);

export const decompress = async (payload) => (
  (await images(ask("decompress", { query: { format: "npy" }, body: payload, type: PAYLOAD })))[0]
);
