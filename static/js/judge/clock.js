/* Milliseconds of active reading: without hidden tabs, and without the minutes of somebody who went for a coffee. */

const IDLE_MS = 30_000;

export class Clock {
  #active = 0;
  #last = performance.now();

  constructor() {
    for (const type of ["pointermove", "pointerdown", "keydown", "scroll", "wheel", "touchmove"]) {
      document.addEventListener(type, () => this.#count(), { capture: true, passive: true });
    }
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#count();
      else this.#last = performance.now();
    });
  }

  /* Begin with what was read before, when a pair comes back. */
  start(active = 0) {
    this.#active = active;
    this.#last = performance.now();
  }

  read() {
    this.#count();
    return Math.round(this.#active);
  }

  #count() {
    const now = performance.now();
    // Nobody reads for longer than this without moving at all.
    this.#active += Math.min(now - this.#last, IDLE_MS);
    this.#last = now;
  }
}
