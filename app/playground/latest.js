// One request at a time, and after it the newest wish alone: what follows a hand never lags behind it.

/** Return a function that runs `task` with its argument, skipping those that a newer one has overtaken. */
export function latest(task) {
  let isRunning = false;
  let next = null;
  return async function wish(value) {
    next = { value };
    if (isRunning) return;
    isRunning = true;
    try {
      while (next !== null) {
        const now = next;
        next = null;
        await task(now.value);
      }
    } finally {
      isRunning = false;
    }
  };
}

/** Return `task` with its errors told in an element, which is emptied when all is well again. */
export function telling(element, task) {
  return async (...wish) => {
    try {
      const note = await task(...wish);
      element.classList.remove("error");
      element.textContent = note ?? "";
    } catch (error) {
      element.classList.add("error");
      element.textContent = error.message;
      if (error.status === undefined) throw error;
    }
  };
}
