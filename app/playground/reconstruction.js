// The image through the latents and back, and what that lost.
import * as api from "./api.js";
import { latest, telling } from "./latest.js";
import { decibels, difference, meanSquaredError, show, wipe } from "./pixels.js";

export function reconstructionPanel(root) {
  const find = (id) => root.querySelector(`#${id}`);
  let model = null;

  const reconstruct = latest(telling(find("reconstruction-status"), async ({ asked, image }) => {
    const back = await api.reconstruct(asked.id, image);
    if (asked !== model) return;
    show(find("reconstruction"), back);
    show(find("difference"), difference(image, back));
    const error = meanSquaredError(image, back);
    find("reconstruction-figures").textContent = `PSNR ${decibels(error)}; ${Math.sqrt(error).toFixed(1)} of 255 levels `
      + "off, root mean square";
  }, forget));

  function forget() {
    wipe(find("reconstruction"), find("difference"));
    find("reconstruction-figures").textContent = "";
  }

  return {
    model(chosen) {
      model = chosen;
      forget();
    },
    image: (image) => reconstruct({ asked: model, image }),
  };
}
