// A grid of samples: the same for the same seed, temperature and prior.
import * as api from "./api.js";
import { gallery } from "./gallery.js";
import { latest, telling } from "./latest.js";

const COUNT = 30;
const SEEDS = 2 ** 32;

export function samplesPanel(root, onChoose) {
  const find = (id) => root.querySelector(`#${id}`);
  const seed = find("seed");
  let model = null;

  const draw = latest(telling(find("samples-status"), async () => {
    if (!seed.checkValidity()) return `The seed is a whole number from 0 to ${SEEDS - 1}.`;
    const asked = model;
    const wishes = { seed: seed.value || 0, temperature: find("temperature").value, prior: find("prior").value };
    const images = await api.sample(asked.id, { n: COUNT, ...wishes });
    if (asked === model) gallery(find("samples"), images, (i) => `Sample ${i + 1}`, onChoose);
  }, forget));

  function forget() {
    find("samples").replaceChildren();
  }

  find("samples-form").addEventListener("submit", (event) => event.preventDefault());
  find("samples-form").addEventListener("input", () => {
    find("temperature-shown").textContent = Number(find("temperature").value).toFixed(2);
    draw();
  });
  find("reseed").addEventListener("click", () => {
    seed.value = crypto.getRandomValues(new Uint32Array(1))[0];
    draw();
  });

  return {
    model(chosen) {
      model = chosen;
      forget();
      draw();
    },
  };
}
