// A row or grid of images to choose from: one stop of the Tab key, then arrow keys.
import { canvasOf } from "./pixels.js";

/** Show images as buttons in a toolbar; `name(i)` is what each is called. */
export function gallery(element, images, name, onChoose) {
  const buttons = images.map((image, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.ariaLabel = name(i);
    button.tabIndex = i === 0 ? 0 : -1;
    button.append(canvasOf(image));
    button.addEventListener("click", () => {
      stop(i);
      onChoose(image, i);
    });
    return button;
  });

  function stop(index) {
    buttons.forEach((button, i) => { button.tabIndex = i === index ? 0 : -1; });
    buttons[index].focus();
  }

  element.onkeydown = (event) => {
    const now = buttons.indexOf(document.activeElement);
    const columns = buttons.filter((button) => button.offsetTop === buttons[0].offsetTop).length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const next = { Home: 0, End: buttons.length - 1 }[event.key] ?? now + (steps[event.key] ?? NaN);
    if (now < 0 || !(next in buttons)) return;
    event.preventDefault();
    stop(next);
  };
  element.replaceChildren(...buttons);
}
