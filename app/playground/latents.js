// The latents of the image: their values and uncertainty, and sliders whose image follows the hand.
import * as api from "./api.js";
import { latest, telling } from "./latest.js";
import { show, wipe } from "./pixels.js";

const SHOWN = 12;
const REACH = 3.5; // standard deviations over the training images that a slider spans on each side
const STEPS = 200;

export function latentsPanel(root) {
  const find = (id) => root.querySelector(`#${id}`);
  let model = null;
  let posterior = null; // of the image: mu, std
  let z = null;
  let order = []; // latents, the most active first
  let sliders = [];
  let shown = SHOWN;

  const decode = latest(telling(find("latents-status"), async ({ asked, latents, since }) => {
    const [image] = await api.decode(asked.id, [latents]);
    if (asked !== model || z === null) return;
    show(find("decoded"), image);
    if (since !== undefined) afterPaint(() => tellTime(since));
  }, () => wipe(find("decoded"))));

  function moved(index, value, since) {
    z[index] = value;
    tell();
    decode({ asked: model, latents: z.slice(), since });
  }

  function tell() {
    const count = z.reduce((sum, value, i) => sum + (value !== posterior.mu[i]), 0);
    find("reset").disabled = count === 0;
    find("decoded-caption").textContent = count ? `${count} moved` : "as encoded";
    sliders.forEach((slider) => slider.show(z, posterior));
  }

  function build() {
    sliders = order.slice(0, shown).map((index) => slider(index, model.spread, moved));
    find("sliders").replaceChildren(...sliders.map(({ row }) => row));
    find("more").hidden = shown >= order.length;
    find("latents-hint").textContent = `${sliders.length} of ${order.length}, the most active first. On the line: where `
      + "most training images lie. Below it: this image's mean ± one standard deviation.";
    if (z !== null) tell();
  }

  function forget() {
    z = posterior = null;
    for (const slider of sliders) slider.forget();
    find("reset").disabled = true;
    find("decoded-caption").textContent = "decoded";
    wipe(find("decoded"));
  }

  find("more").addEventListener("click", () => {
    const first = shown;
    shown += SHOWN;
    build();
    sliders[first].input.focus();
  });
  find("reset").addEventListener("click", () => {
    z.set(posterior.mu);
    tell();
    decode({ asked: model, latents: z.slice() });
    sliders[0].input.focus(); // as this button is disabled now
  });

  return {
    forget,
    model(chosen) {
      model = chosen;
      forget();
      shown = SHOWN;
      order = Array.from(model.spread.std.keys()).sort((a, b) => model.spread.std[b] - model.spread.std[a]);
      build();
    },
    encoded({ mu, logvar }) {
      posterior = { mu, std: logvar.map((value) => Math.exp(value / 2)) };
      z = mu.slice();
      tell();
      decode({ asked: model, latents: z.slice() });
    },
  };
}

function slider(index, { mean, std }, onMove) {
  const row = document.createElement("div");
  row.className = "latent";
  const name = Object.assign(document.createElement("span"), { className: "name", textContent: `z${index}` });
  const track = Object.assign(document.createElement("span"), { className: "track" });
  const [spread, bar] = ["spread", "posterior"].map((className) => (
    Object.assign(document.createElement("span"), { className })
  ));
  const input = Object.assign(document.createElement("input"), { type: "range", ariaLabel: `Latent ${index}` });
  const output = Object.assign(document.createElement("span"), { className: "number" });
  const reach = REACH * Math.max(std[index], 0.05);
  range(mean[index] - reach, mean[index] + reach);
  track.append(spread, bar, input);
  row.append(name, track, output);
  forget();
  input.addEventListener("input", (event) => onMove(index, Number(input.value), event.timeStamp));

  function range(min, max) {
    Object.assign(input, { min, max, step: (max - min) / STEPS });
  }

  function place(element, centre, half) {
    const [min, max] = [Number(input.min), Number(input.max)];
    element.style.setProperty("--from", (centre - half - min) / (max - min));
    element.style.setProperty("--to", (centre + half - min) / (max - min));
  }

  function forget() {
    Object.assign(input, { disabled: true, value: mean[index], ariaValueText: "not known" });
    output.textContent = "–";
    bar.hidden = true;
    row.classList.remove("moved");
    place(spread, mean[index], std[index]);
  }

  return {
    row,
    input,
    forget,
    show(z, posterior) {
      const [value, mu, sigma] = [z[index], posterior.mu[index], posterior.std[index]];
      const wide = [Math.min(Number(input.min), mu - sigma), Math.max(Number(input.max), mu + sigma)];
      if (wide[0] < Number(input.min) || wide[1] > Number(input.max)) range(...wide);
      if (Number(input.value) !== value) input.value = value;
      input.disabled = bar.hidden = false;
      place(spread, mean[index], std[index]);
      place(bar, mu, sigma);
      const words = `${signed(value)} ± ${sigma.toFixed(2)}`;
      output.textContent = value === mu ? words : signed(value);
      row.classList.toggle("moved", value !== mu);
      input.ariaValueText = value === mu ? words : `${signed(value)}, encoded as ${signed(mu)} ± ${sigma.toFixed(2)}`;
    },
  };
}

const signed = (value) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(2);

// The callback of an animation frame runs before the frame is painted, and a task queued there after it.
function afterPaint(callback) {
  requestAnimationFrame(() => setTimeout(callback));
}

// For those who look at the page's timing; of the steps the last alone is kept.
function tellTime(since) {
  performance.clearMeasures("slider step");
  performance.measure("slider step", { start: since });
}
