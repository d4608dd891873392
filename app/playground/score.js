// How likely an image is, and where that lies among the test images.
import * as api from "./api.js";
import { latest, telling } from "./latest.js";

const SVG = "http://www.w3.org/2000/svg";
const [HEIGHT, BASE] = [124, 104];
const UNUSUAL = 95; // percent of the test images that are more likely
const ANOMALOUS = 99;

export function scorePanel(root) {
  const find = (id) => root.querySelector(`#${id}`);
  let model = null;
  let bits = null;

  const ask = latest(telling(find("score-status"), async (wish) => {
    const answer = await api.score(wish.model.id, wish.image);
    if (wish.model === model) tell(answer);
  }, forget));

  function tell(answer) {
    [bits] = answer.bits_per_dim;
    find("bits").textContent = bits.toFixed(2);
    const { bits_per_dim_quantiles: quantiles, n } = model.metrics;
    find("verdict").hidden = quantiles === null;
    if (quantiles === null) {
      find("percentile").textContent = "This bundle does not say how its test images are spread.";
    } else {
      const { kind, name, words } = standing(quantiles, bits, n);
      Object.assign(find("verdict"), { textContent: name, className: `badge ${kind}` });
      find("percentile").textContent = words;
      find("score-hint").textContent = `−ELBO of ${n.toLocaleString("en")} test images in bits/dim, one latent sample `
        + `each, ${answer.samples} for this one. In nats:`;
    }
    draw();
    const terms = { ELBO: answer.elbo, KL: answer.kl, Distortion: answer.distortion, nll: answer.nll };
    find("terms").replaceChildren(...Object.entries(terms).map(([term, [nats]]) => {
      const row = document.createElement("div");
      row.append(element("dt", term), element("dd", nats.toFixed(0).replace("-", "−")));
      return row;
    }));
  }

  function forget() {
    bits = null;
    find("bits").textContent = "–";
    find("verdict").hidden = true;
    for (const id of ["distribution", "score-hint", "percentile", "terms"]) find(id).replaceChildren();
  }

  function draw() {
    const { bits_per_dim_quantiles: quantiles } = model.metrics;
    const width = find("distribution").clientWidth;
    if (quantiles !== null && width) find("distribution").replaceChildren(plot(quantiles, bits, width));
  }

  new ResizeObserver(() => bits !== null && draw()).observe(find("distribution"));

  return {
    model(chosen) {
      model = chosen;
      forget();
    },
    image: (image) => ask({ model, image }),
  };
}

/** Return where bits/dim lie among the test images: a kind, its name, and a sentence. */
export function standing({ percents, values }, bits, n) {
  const likelier = interpolated(values, percents, bits);
  const all = `all ${n.toLocaleString("en")} test images`;
  if (bits > values.at(-1)) {
    return { kind: "bad", name: "Anomaly", words: `Less likely than ${all}: hardly of this kind.` };
  }
  if (bits < values[0]) {
    const words = `More likely than ${all}, as plain images are: that alone does not make it one of them.`;
    return { kind: "warn", name: "Unusually plain", words };
  }
  const share = Math.min(99, Math.round(100 - likelier));
  const words = share < 1 ? "Less likely than 99 % of the test set." : `More likely than ${share} % of the test set.`;
  if (likelier > ANOMALOUS) return { kind: "bad", name: "Anomaly", words };
  if (likelier > UNUSUAL) return { kind: "warn", name: "Unusual", words };
  return { kind: "good", name: "Usual score", words };
}

function interpolated(from, to, x) {
  if (x <= from[0]) return to[0];
  const i = from.findIndex((value) => value >= x);
  if (i < 0) return to.at(-1);
  const part = (x - from[i - 1]) / (from[i] - from[i - 1]);
  return to[i - 1] + part * (to[i] - to[i - 1]);
}

function plot({ percents, values }, bits, width) {
  const [least, most] = [values[0], values.at(-1)];
  const margin = 0.06 * (most - least);
  const [from, to] = [least - margin, most + margin];
  const x = (value) => ((Math.min(to, Math.max(from, value)) - from) / (to - from)) * width;
  const density = smoothed(percents, values);
  const grid = Array.from({ length: 141 }, (_, i) => from + (i / 140) * (to - from));
  const heights = grid.map(density);
  const top = Math.max(...heights);
  const y = (height) => BASE - (height / top) * (BASE - 22);
  const outline = grid.map((value, i) => `${x(value).toFixed(1)},${y(heights[i]).toFixed(1)}`).join(" L");
  const median = interpolated(percents, values, 50);

  const picture = node("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", class: "plot" });
  picture.setAttribute("aria-label", `Scores of the test images from ${least.toFixed(2)} to ${most.toFixed(2)} `
    + `bits/dim, half of them below ${median.toFixed(2)}; this image has ${bits.toFixed(2)}.`);
  picture.append(
    node("path", { class: "area", d: `M0,${BASE} L${outline} L${width},${BASE} Z` }),
    node("line", { class: "axis", x1: 0, x2: width, y1: BASE, y2: BASE }),
    node("line", { class: "marker", x1: x(bits), x2: x(bits), y1: 18, y2: BASE }),
    node("circle", { class: "marker", cx: x(bits), cy: BASE, r: 4 }),
    label(x(bits), width, bits > to ? "this image →" : bits < from ? "← this image" : "this image"),
  );
  for (const value of ticks(from, to)) {
    picture.append(text({ x: x(value), y: HEIGHT - 3, "text-anchor": "middle", words: String(Number(value.toFixed(2))) }));
  }
  return picture;
}

// Quantiles as if each were a point for every image between it and the next, under Gaussian kernels.
function smoothed(percents, values) {
  const points = Array.from({ length: 200 }, (_, i) => interpolated(percents, values, (i + 0.5) / 2));
  const mean = points.reduce((sum, value) => sum + value, 0) / points.length;
  const spread = Math.sqrt(points.reduce((sum, value) => sum + (value - mean) ** 2, 0) / points.length);
  const width = Math.max(0.25 * spread, 1e-6);
  return (x) => points.reduce((sum, value) => sum + Math.exp(-0.5 * ((x - value) / width) ** 2), 0);
}

function ticks(from, to) {
  const step = [0.1, 0.25, 0.5, 1, 2, 5].find((size) => (to - from) / size <= 7) ?? 10;
  const first = Math.ceil((from + 0.04 * (to - from)) / step);
  return Array.from({ length: 8 }, (_, i) => (first + i) * step).filter((value) => value < to - 0.04 * (to - from));
}

function label(x, width, words) {
  const anchor = x < 40 ? "start" : x > width - 40 ? "end" : "middle";
  return text({ x, y: 12, words, class: "here", "text-anchor": anchor });
}

function text({ words, ...attributes }) {
  const found = node("text", attributes);
  found.textContent = words;
  return found;
}

function node(name, attributes) {
  const found = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  return found;
}

function element(name, words) {
  return Object.assign(document.createElement(name), { textContent: words });
}
