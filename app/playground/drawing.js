// The image itself: drawn by hand, dropped, pasted, or chosen from files.
import { latest, say, telling } from "./latest.js";
import { fitted, imageOf, pictureOf, show } from "./pixels.js";

/** Wire the drawing up; `onImage(image, isFinal)` is told of every change. */
export function drawing(root, onImage) {
  const find = (id) => root.querySelector(`#${id}`);
  const canvas = find("drawing");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const drop = find("drop");
  let channels = null; // until there is a model
  let picture = null; // of the file that the image was made of

  const tell = (isFinal) => {
    onImage(imageOf(context.getImageData(0, 0, canvas.width, canvas.height), channels), isFinal);
  };

  // Another image than a file's comes, and what was said of the file goes.
  function leave() {
    picture = null;
    say(find("source-status"));
  }

  function use(image) {
    leave();
    show(canvas, image);
    tell(true);
  }

  const read = latest(telling(find("source-status"), async (file) => {
    if (channels === null) return;
    picture = await pictureOf(file);
    refit();
  }));

  function refit() {
    if (picture === null) return;
    const { width, height } = canvas;
    const exact = picture.width === width && picture.height === height;
    const pixels = exact ? picture : fitted(picture, width, height, find("fit").value);
    show(canvas, imageOf(pixels, channels));
    tell(true);
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * canvas.width;
    return [x, ((event.clientY - box.top) / box.height) * canvas.height];
  }

  function ink() {
    if (find("eraser").checked) return "#000";
    return channels === 1 ? "#fff" : find("colour").value;
  }

  let pen = null; // the pointer that draws, and where it was: a second finger draws nothing
  function stroke(event) {
    const point = place(event);
    context.lineWidth = find("pen").value;
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = ink();
    context.beginPath();
    context.moveTo(...(pen.last ?? point));
    context.lineTo(point[0] + 0.01, point[1]); // a line of no length would leave no dot
    context.stroke();
    pen.last = point;
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (pen !== null || event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    pen = { id: event.pointerId };
    leave();
    stroke(event);
    tell(false);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pen?.id) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    for (const point of passed.length ? passed : [event]) stroke(point);
    tell(false);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, ({ pointerId }) => {
      if (pointerId !== pen?.id) return;
      pen = null;
      tell(true);
    });
  }

  find("clear").addEventListener("click", () => {
    leave();
    context.fillRect(0, 0, canvas.width, canvas.height);
    tell(true);
  });
  find("file").addEventListener("change", ({ target }) => {
    if (target.files.length) read(target.files[0]);
    target.value = ""; // so that the same file can be chosen again
  });
  find("fit").addEventListener("change", refit);

  document.addEventListener("paste", ({ clipboardData }) => {
    const [file] = clipboardData?.files ?? [];
    if (file) read(file);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) drop.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) read(file);
  });

  return {
    use,
    /** Take the shape of a model, (C, H, W), and go black. */
    shape([c, height, width]) {
      channels = c;
      leave();
      Object.assign(canvas, { width, height });
      context.fillRect(0, 0, width, height);
      canvas.setAttribute("aria-label", `The image, ${width} × ${height}. Draw on it, or choose one below.`);
      find("colour-field").hidden = c === 1;
      find("shape-hint").textContent = `Files become ${width} × ${height} pixels${c === 1 ? ", grey" : ""}.`;
    },
  };
}
