// A walk between the encodings of two images: decoded in one request, then looked at without any.
import * as api from "./api.js";
import { latest, telling } from "./latest.js";
import { canvasOf, show, wipe } from "./pixels.js";

const PLACES = 32;
const STRIP = 11;
const PLACES_A_SECOND = 16;

export function walkPanel(root) {
  const find = (id) => root.querySelector(`#${id}`);
  const place = find("place");
  place.max = PLACES - 1;
  let model = null;
  let ends = {}; // from, to: image, and mu when it is known
  let encoded = null; // the page's image with its mu
  let frames = [];
  let playing = 0;

  const walk = latest(telling(find("walk-status"), async () => {
    const [asked, { id }] = [ends, model];
    await Promise.all([asked.from, asked.to].map(async (end) => {
      end.mu ??= (await api.encode(id, end.image)).mu;
    }));
    const found = await api.decode(id, between(asked.from.mu, asked.to.mu, PLACES));
    if (asked !== ends) return;
    frames = found;
    place.disabled = find("play").disabled = false;
    const shown = Array.from({ length: STRIP }, (_, i) => Math.round((i * (PLACES - 1)) / (STRIP - 1)));
    find("strip").replaceChildren(...shown.map((i) => canvasOf(frames[i])));
    look();
  }, forget));

  function forget() {
    pause();
    frames = [];
    place.disabled = find("play").disabled = true;
    wipe(find("walk-image"));
    find("strip").replaceChildren();
  }

  function look() {
    const i = Number(place.value);
    if (frames.length) show(find("walk-image"), frames[i]);
    const words = `${Math.round((100 * i) / (PLACES - 1))} %`;
    find("place-shown").textContent = words;
    place.ariaValueText = `${words} of the way from A to B`;
  }

  function set(changed) {
    ends = { ...ends, ...changed };
    for (const [end, { image }] of Object.entries(changed)) show(find(`walk-${end}`), image);
    walk();
  }

  function play() {
    const start = performance.now() - phase(Number(place.value));
    const tick = (now) => {
      const way = ((now - start) / 1000) * PLACES_A_SECOND;
      const turn = Math.floor(way) % (2 * PLACES - 2);
      place.value = turn < PLACES ? turn : 2 * PLACES - 2 - turn;
      look();
      playing = requestAnimationFrame(tick);
    };
    playing = requestAnimationFrame(tick);
    find("play").textContent = "Pause";
  }

  function pause() {
    cancelAnimationFrame(playing);
    playing = 0;
    find("play").textContent = "Play";
  }

  const phase = (i) => (1000 * i) / PLACES_A_SECOND;

  place.addEventListener("input", () => {
    pause();
    look();
  });
  find("play").addEventListener("click", () => (playing ? pause() : play()));
  for (const end of ["from", "to"]) {
    find(`take-${end}`).addEventListener("click", () => set({ [end]: encoded }));
  }

  return {
    model(chosen) {
      model = chosen;
      ends = {};
      forget();
      wipe(find("walk-from"), find("walk-to"));
    },
    /** Take the page's image with its mu, or null until there is one. */
    encoded(found) {
      encoded = found;
      for (const end of ["from", "to"]) find(`take-${end}`).disabled = encoded === null;
    },
    /** Walk between two images. */
    between: (from, to) => set({ from: { image: from }, to: { image: to } }),
  };
}

/** Return latents on the way: their direction turns evenly, their length grows or shrinks evenly. */
export function between(from, to, count) {
  const [lengthFrom, lengthTo] = [from, to].map((z) => Math.hypot(...z));
  const cosine = from.reduce((sum, value, i) => sum + value * to[i], 0) / (lengthFrom * lengthTo);
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine)));
  const isStraight = !(Math.sin(angle) > 1e-4); // no turn, or none that is the shortest
  return Array.from({ length: count }, (_, place) => {
    const t = place / (count - 1);
    if (isStraight) return from.map((value, i) => (1 - t) * value + t * to[i]);
    const length = (1 - t) * lengthFrom + t * lengthTo;
    const a = (length / lengthFrom) * Math.sin((1 - t) * angle) / Math.sin(angle);
    const b = (length / lengthTo) * Math.sin(t * angle) / Math.sin(angle);
    return from.map((value, i) => a * value + b * to[i]);
  });
}
