// The page: which model, which image, and the panels that are told of both.
import * as api from "./api.js";
import { compressionPanel } from "./compression.js";
import { drawing } from "./drawing.js";
import { examplesOf } from "./examples.js";
import { gallery } from "./gallery.js";
import { latentsPanel } from "./latents.js";
import { busy, isSoonOver, latest, patiently, say, telling } from "./latest.js";
import { reconstructionPanel } from "./reconstruction.js";
import { samplesPanel } from "./samples.js";
import { scorePanel } from "./score.js";
import { walkPanel } from "./walk.js";

const find = (id) => document.getElementById(id);
const [chooser, layout, status] = ["model", "layout", "service-status"].map(find);
let model = null;
let wanted = null; // which may not be there yet
let current = null; // the image

const reconstruction = reconstructionPanel(document);
const score = scorePanel(document);
const latents = latentsPanel(document);
const compression = compressionPanel(document);
const walk = walkPanel(document);
const source = drawing(document, changed);
const samples = samplesPanel(document, source.use);
const panels = [reconstruction, score, latents, compression, walk, samples];

const encode = latest(telling(find("encoding-status"), async ({ asked, image }) => {
  const posterior = await api.encode(asked.id, image);
  if (asked !== model) return;
  latents.encoded(posterior);
  if (image === current) walk.encoded({ image, mu: posterior.mu });
}, latents.forget));

function changed(image, isFinal) {
  current = image;
  walk.encoded(null);
  encode({ asked: model, image });
  reconstruction.image(image);
  score.image(image);
  if (isFinal) compression.image(image); // it takes longer than a hand that draws would like
}

async function choose(described) {
  wanted = described;
  const isWanted = () => wanted === described;
  const goesOn = (...refused) => isWanted() && (model === null || isSoonOver(...refused));
  const rest = busy(layout);
  find("about").textContent = `loading ${described.id} …`;
  try {
    const found = await patiently(status, () => (isWanted() ? complete(described) : null), goesOn);
    if (isWanted()) take(found);
  } catch (refusal) {
    if (refusal.status === undefined) throw refusal;
    if (isWanted()) stay(refusal);
  } finally {
    rest();
  }
}

// All that a model needs is there before anything of the last one goes.
async function complete(described) {
  const shape = described.config.input.shape;
  const [spread, examples] = await Promise.all([api.spreadOf(described.id), examplesOf({ id: described.id, shape })]);
  return { ...described, shape, spread, examples };
}

function take(complete) {
  model = complete;
  say(status);
  find("about").textContent = summary(model);
  for (const panel of panels) panel.model(model);
  source.shape(model.shape);
  const { images, name } = model.examples;
  find("examples-title").textContent = name;
  gallery(find("examples"), images, (i) => `Example ${i + 1}`, source.use);
  source.use(images[0]);
  walk.between(images[0], images[1]);
  layout.dataset.state = "ready";
  layout.inert = false;
}

function stay({ message }) {
  say(status, `${wanted.id} cannot be shown: ${message}; this is still ${model.id}.`);
  wanted = null;
  chooser.value = model.id;
  find("about").textContent = summary(model);
}

function summary({ shape: [channels, height, width], config, metrics, device }) {
  const kind = `${width} × ${height}, ${channels === 1 ? "grey" : "colour"}`;
  return `${kind} · ${config.latent_dim} latents, ${metrics.active_dims} active · −ELBO `
    + `${metrics.bits_per_dim.mean.toFixed(3)} bits/dim on ${metrics.n.toLocaleString("en")} test images · ${device}`;
}

const { models } = await patiently(status, api.models, () => true);
say(status);
chooser.replaceChildren(...models.map(({ id }) => new Option(id)));
chooser.disabled = false;
chooser.addEventListener("change", () => choose(models.find(({ id }) => id === chooser.value)));
await choose(models[0]);
