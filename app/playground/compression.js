// What the image takes without loss, beside PNG and WebP; and with loss, beside the original.
import * as api from "./api.js";
import { latest, telling } from "./latest.js";
import { decibels, meanSquaredError, show, wipe } from "./pixels.js";

export function compressionPanel(root) {
  const find = (id) => root.querySelector(`#${id}`);
  const quality = find("quality");
  let model = null;
  let image = null;

  const lossless = latest(telling(find("lossless-status"), async () => {
    const [asked, of] = [model, image];
    if (of === null) return; // for another model was chosen meanwhile
    const found = await api.losslessSizes(asked.id, of);
    if (asked !== model) return;
    const sizes = {
      vaeserve: found.compressed_bytes,
      PNG: found.png_bytes,
      WebP: found.webp_bytes,
      "raw pixels": found.original_bytes,
    };
    const most = Math.max(...Object.values(sizes));
    find("sizes").replaceChildren(...Object.entries(sizes).map(([name, bytes]) => bar(name, bytes, most)));
  }, forgetLossless));

  const lossy = latest(telling(find("lossy-status"), async () => {
    const [asked, of] = [model, image];
    if (of === null) return;
    const payload = await api.compress(asked.id, of, quality.value);
    const found = await api.decompress(payload);
    if (asked !== model) return;
    show(find("lossy"), found);
    const bytes = `${payload.length} bytes`;
    find("lossy-figures").textContent = `${bytes}, ${decibels(meanSquaredError(of, found))}`;
  }, forgetLossy));

  function forgetLossless() {
    find("sizes").replaceChildren();
  }

  function forgetLossy() {
    wipe(find("lossy"));
    find("lossy-figures").textContent = "–";
  }

  quality.addEventListener("input", () => {
    find("quality-shown").textContent = quality.value;
    lossy();
  });

  return {
    model(chosen) {
      model = chosen;
      image = null;
      wipe(find("original"));
      forgetLossless();
      forgetLossy();
    },
    image(given) {
      image = given;
      show(find("original"), image);
      lossless();
      lossy();
    },
  };
}

function bar(name, bytes, most) {
  const row = document.createElement("div");
  row.className = name === "vaeserve" ? "bar ours" : "bar";
  const length = document.createElement("span");
  length.className = "length";
  length.style.setProperty("--share", bytes / most);
  const [label, figure] = [name, `${bytes} bytes`].map((words) => (
    Object.assign(document.createElement("span"), { textContent: words })
  ));
  figure.className = "number";
  row.append(label, length, figure);
  return row;
}
