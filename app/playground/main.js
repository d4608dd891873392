// The page: which model, which image, and the panels that are told of both.
import * as api from "./api.js";
import { compressionPanel } from "./compression.js";
import { drawing } from "./drawing.js";
import { examplesOf } from "./examples.js";
import { gallery } from "./gallery.js";
import { latentsPanel } from "./latents.js";
import { latest, telling } from "./latest.js";
import { decibels, difference, meanSquaredError, show } from "./pixels.js";
import { samplesPanel } from "./samples.js";
import { scorePanel } from "./score.js";
import { walkPanel } from "./walk.js";

const find = (id) => document.getElementById(id);
const chooser = find("model");
let model = null;
let wanted = null; // which may not be there yet
let encoded = null; // the newest image with its mu

const score = scorePanel(document);
const latents = latentsPanel(document);
const compression = compressionPanel(document);
const walk = walkPanel(document, () => encoded);
const source = drawing(document, changed);
const samples = samplesPanel(document, source.use);

const analyse = latest(telling(find("reconstruction-status"), async ({ asked, image }) => {
  const [posterior, back] = await Promise.all([api.encode(asked.id, image), api.reconstruct(asked.id, image)]);
  if (asked !== model) return;
  encoded = { image, mu: posterior.mu };
  latents.encoded(posterior);
  show(find("reconstruction"), back);
  show(find("difference"), difference(image, back));
  const error = meanSquaredError(image, back);
  find("reconstruction-figures").textContent = `PSNR ${decibels(error)}; ${Math.sqrt(error).toFixed(1)} of 255 levels off, `
    + "root mean square";
}));

function changed(image, isFinal) {
  analyse({ asked: model, image });
  score.image(image);
  if (isFinal) compression.image(image); // it takes longer than a hand that draws would like
}

const choose = telling(find("service-status"), async (described) => {
  wanted = described;
  const spread = await api.spreadOf(described.id);
  if (wanted !== described) return;
  const asked = { ...described, shape: described.config.input.shape, spread };
  model = asked;
  encoded = null;
  for (const panel of [score, latents, compression, walk, samples]) panel.model(model);
  source.shape(model.shape);
  find("examples").replaceChildren();
  find("about").textContent = summary(model);
  const { images, name } = await examplesOf(model);
  if (asked !== model) return;
  find("examples-title").textContent = name;
  gallery(find("examples"), images, (i) => `Example ${i + 1}`, source.use);
  source.use(images[0]);
  await walk.between(images[0], images[1]);
});

function summary({ shape: [channels, height, width], config, metrics, device }) {
  const kind = `${width} × ${height}, ${channels === 1 ? "grey" : "colour"}`;
  return `${kind} · ${config.latent_dim} latents, ${metrics.active_dims} active · −ELBO `
    + `${metrics.bits_per_dim.mean.toFixed(3)} bits/dim on ${metrics.n.toLocaleString("en")} test images · ${device}`;
}

async function listed() {
  const status = find("service-status");
  for (;;) {
    try {
      const found = await api.models();
      status.textContent = "";
      return found;
    } catch (refusal) {
      status.textContent = `${refusal.message}; trying again …`;
      await new Promise((resolve) => { setTimeout(resolve, 1000 * (refusal.retryAfterSeconds ?? 2)); });
    }
  }
}

const { models } = await listed();
chooser.replaceChildren(...models.map(({ id }) => new Option(id)));
chooser.disabled = false;
chooser.addEventListener("change", () => choose(models.find(({ id }) => id === chooser.value)));
await choose(models[0]);
find("layout").dataset.state = "ready";
find("layout").inert = false;
