/* Notes on pairs that are not judged yet: they outlive a pair that is set aside, and a page that is loaded again. */

const PREFIX = "pairloop.note.";

export class Drafts {
  /* Where a person forbade the browser's store. */
  #memory = new Map();

  of(uuid) {
    try {
      return sessionStorage.getItem(PREFIX + uuid) ?? "";
    } catch {
      return this.#memory.get(uuid) ?? "";
    }
  }

  keep(uuid, text) {
    try {
      if (text) sessionStorage.setItem(PREFIX + uuid, text);
      else sessionStorage.removeItem(PREFIX + uuid);
    } catch {
      this.#memory.set(uuid, text);
    }
  }
}
