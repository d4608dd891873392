// One request at a time, and after it the newest wish alone: what follows a hand never lags behind it.
const PATIENCE_SECONDS = 10; // for which a refusal may ask, once, before it is told as an error
const BUSY_AFTER_MILLISECONDS = 200; // less would flicker under a hand
const working = new WeakMap(); // how many tasks an element waits for

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

/** Say something in an element, or nothing more. */
export function say(element, words = "", isError = false) {
  element.classList.toggle("error", isError);
  element.textContent = words;
}

/** Mark an element as waiting, if it still does in a moment; return what ends that. */
export function busy(element) {
  let isTold = false;
  const count = (change) => {
    working.set(element, (working.get(element) ?? 0) + change);
    element.setAttribute("aria-busy", working.get(element) > 0);
  };
  const timer = setTimeout(() => {
    isTold = true;
    count(1);
  }, BUSY_AFTER_MILLISECONDS);
  return () => {
    clearTimeout(timer);
    if (isTold) count(-1);
  };
}

/** Whether a first refusal says that the same request may soon succeed. */
export const isSoonOver = ({ retryAfterSeconds }, refusals) => refusals === 1 && retryAfterSeconds <= PATIENCE_SECONDS;

/** Run a task, and again after each refusal that `goesOn(refusal, refusals)`, when the refusal says. */
export async function patiently(element, task, goesOn) {
  for (let refusals = 1; ; refusals++) {
    try {
      return await task();
    } catch (refusal) {
      if (refusal.status === undefined || !goesOn(refusal, refusals)) throw refusal;
      say(element, `${refusal.message}; trying again …`);
      await new Promise((resolve) => { setTimeout(resolve, 1000 * (refusal.retryAfterSeconds ?? 2)); });
    }
  }
}

/**
 * Return `task` with its errors told in an element, which is emptied when all is well again. The part of the page
 * around that element waits meanwhile, and after an error `forget` takes from it what is not of this wish.
 */
export function telling(element, task, forget = () => {}) {
  return async (...wish) => {
    const rest = busy(element.closest(".part"));
    try {
      say(element, await patiently(element, () => task(...wish), isSoonOver));
    } catch (error) {
      forget();
      say(element, error.message, true);
      if (error.status === undefined) throw error;
    } finally {
      rest();
    }
  };
}
