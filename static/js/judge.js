/* The judging screen: time of active reading, no vote by the second half of a double click, no hint where
   the pointer was left, and a word when a vote did not reach the server. Everything works without it. */

const IDLE_MS = 30_000;
const FRESH_MS = 350;

let active = 0;
let last = performance.now();
let paintedAt = -Infinity;
let clicks = 0;

function count() {
  const now = performance.now();
  // Nobody reads for longer than this without moving at all.
  active += Math.min(now - last, IDLE_MS);
  last = now;
}

for (const type of ["pointermove", "pointerdown", "keydown", "scroll", "wheel", "touchmove"]) {
  document.addEventListener(type, count, { capture: true, passive: true });
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) count();
  else last = performance.now();
});

/* How many in a row; 0 when a key pressed the button. */
document.addEventListener("click", (event) => (clicks = event.detail), { capture: true });

document.addEventListener(
  "submit",
  (event) => {
    const field = event.target.querySelector("[data-active-ms]");
    if (!field) return;
    const isUndoByKey = clicks === 0 && "undo" in (event.submitter?.dataset ?? {});
    if (performance.now() - paintedAt < FRESH_MS && !isUndoByKey) {
      // Aimed at the pair that was here a moment ago.
      event.preventDefault();
      event.stopImmediatePropagation();
      return;
    }
    count();
    field.value = Math.round(active);
    event.submitter?.classList.add("is-chosen");
  },
  { capture: true },
);

document.body.addEventListener("htmx:afterSwap", (event) => {
  if (!event.target.querySelector("[data-active-ms]")) return;
  paintedAt = last = performance.now();
  active = 0;
  event.target.dataset.fresh = "";
});

document.addEventListener("pointermove", (event) => {
  if (event.movementX || event.movementY) delete document.querySelector("[data-fresh]")?.dataset.fresh;
});

/* Refused for good: another login in another tab, or a page from before an upgrade. */
document.body.addEventListener("htmx:responseError", (event) => {
  const isStale = [403, 404].includes(event.detail.xhr.status);
  show(isStale ? "[data-stale]" : "[data-send-failed]");
});

for (const type of ["htmx:sendError", "htmx:timeout"]) {
  document.body.addEventListener(type, () => show("[data-send-failed]"));
}

function show(selector) {
  document.querySelector(".is-chosen")?.classList.remove("is-chosen");
  const words = document.querySelector(selector);
  if (words) words.hidden = false;
}
