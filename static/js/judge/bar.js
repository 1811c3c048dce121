/* What the bar and its surroundings say: the last judgement and its reasons, what is saved, what went wrong. */

import { verdictOf } from "./outbox.js";

export const WORDS = {
  left_much: "Left, much better",
  left: "Left, slightly better",
  tie: "Equally good",
  right: "Right, slightly better",
  right_much: "Right, much better",
  both_bad: "Both bad",
  cannot_judge: "Can't judge",
};
/* Reasons say why one answer is better than the other. */
const DECIDED = ["left_much", "left", "right", "right_much"];

export class Bar {
  constructor({ root, keys, data }) {
    this.root = root;
    this.keys = keys;
    this.data = data;
    this.find = (name) => root.querySelector(`[data-${name}]`);
    this.buttonOf = (action) => root.querySelector(`[data-do="${action}"]`);
  }

  /* A pair is shown, or none. */
  pair(card) {
    this.find("bar").classList.toggle("is-empty", !card);
    for (const action of [...Object.keys(WORDS), "flag", "later"]) this.buttonOf(action).disabled = !card;
    for (const action of Object.keys(WORDS)) {
      this.buttonOf(action).classList.toggle("is-said", card?.wasTakenBack === true && card.said?.verdict === action);
    }
    this.flag(card?.isFlagged ?? false);
    this.#takenBack(card);
    this.noteOf(card);
    this.noted(card?.note);
  }

  flag(isRaised) {
    const button = this.buttonOf("flag");
    button.setAttribute("aria-pressed", String(isRaised));
    button.querySelector(".tool-mark").textContent = isRaised ? "⚑" : "⚐";
  }

  /* Which pair the note's field is about: the one that is shown, or the last one that was judged. */
  noteOf(card, { isLast = false } = {}) {
    this.root.querySelector("#note").value = card?.note ?? "";
    this.find("note-label").textContent = isLast ? "A note on your last judgement" : "A note on this pair";
    this.find("note-when").textContent = isLast ? "It is added to that judgement." : "It goes out with your verdict.";
  }

  noted(note) {
    this.find("note").classList.toggle("has-note", Boolean(note?.trim()));
  }

  #takenBack(card) {
    const notice = this.find("taken-back");
    notice.hidden = !card?.wasTakenBack;
    if (notice.hidden) return;
    notice.replaceChildren("You took this one back. You had said: ", strong(WORDS[card.said.verdict]), ". ");
    const key = this.keys.labelOf("redo");
    notice.append(button("Say it again", "redo", key));
  }

  /* The last judgement, over the pair that came after it; it stays until the next one. */
  said(card) {
    const words = this.find("said");
    words.classList.remove("is-new");
    words.replaceChildren(strong(WORDS[card.said.verdict]));
    this.#undoes();
    this.reasons(card.said.reasons);
    this.find("chips").hidden = false;
    const isDecided = DECIDED.includes(card.said.verdict);
    for (const chip of this.#chips()) chip.hidden = !isDecided;
    // Beginning anew, the animation says that something happened.
    requestAnimationFrame(() => words.classList.add("is-new"));
  }

  /* Beside what was said last, once: why nothing happens. Its reasons stay; a revision's page has no place for it. */
  add(why) {
    const words = this.find("said");
    if (words && !words.textContent.includes(why)) words.append(` · ${why}`);
  }

  tell(sentence, { isUndoable = false } = {}) {
    const words = this.find("said");
    words.classList.remove("is-new");
    words.textContent = sentence;
    if (isUndoable) this.#undoes();
    this.find("chips").hidden = true;
  }

  #undoes() {
    const key = this.keys.labelOf("undo");
    if (!key) return;
    const hint = Object.assign(document.createElement("span"), { className: "said-key", textContent: ` · ${key.text} undoes` });
    this.find("said").append(hint);
  }

  #chips() {
    return this.find("chips").querySelectorAll("[data-reason]");
  }

  reasons(slugs) {
    for (const chip of this.#chips()) {
      chip.setAttribute("aria-pressed", String(slugs.includes(chip.dataset.reason)));
    }
  }

  progress(today, inAll) {
    this.find("today").textContent = `${today} today`;
    this.find("in-all").textContent = `${inAll} in all`;
  }

  /* Said once, and it stays: what is judged until then counts for the guidelines that this page shows. */
  guidelinesChanged() {
    const place = this.find("rules-changed");
    if (place.childElementCount) return;
    const told = paragraph("The guidelines changed. ", anchor("Load the page again", this.data.base), " to read the new ones; nothing gets lost.");
    told.classList.remove("is-bad");
    place.append(told);
  }

  undoable(is) {
    this.buttonOf("undo").disabled = !is;
  }

  /* Quiet while all is well. */
  outbox({ count, trouble, notices }) {
    const saved = this.find("outbox");
    const words = count ? `${count} waiting to be sent` : "saved";
    // Screen readers speak of changes only, and each judgement passes through here.
    saved.setAttribute("aria-live", trouble ? "polite" : "off");
    if (saved.textContent !== words) saved.textContent = words;
    saved.classList.toggle("is-waiting", Boolean(trouble && count));
    const told = notices.map((act) => this.#notice(act));
    if (trouble === "login") told.unshift(this.#login(count));
    const place = this.find("troubles");
    const fingerprint = told.map((one) => one.textContent).join("\n");
    // Painted again only when it changed: a link may have the focus.
    if (place.dataset.told === fingerprint) return;
    place.dataset.told = fingerprint;
    place.replaceChildren(...told);
  }

  #login(count) {
    const kept = count === 1 ? "1 judgement is kept here" : `${count} judgements are kept here`;
    const link = anchor("Log in again", `${this.data.login}?next=${encodeURIComponent(this.data.base)}`);
    return paragraph(link, count ? `; ${kept} and will be sent then.` : " to go on.");
  }

  #notice(act) {
    const close = button("Seen", "notice-close");
    close.dataset.act = act.key;
    const said = WORDS[verdictOf(act)];
    const what = said ? `“${said}”` : NAMES[act.kind];
    if (act.refused) return paragraph(`${what} was not taken: ${act.refused} `, close);
    const link = anchor("Change it", `${this.data.base}${act.uuid}/`);
    return paragraph(`You said “${said}”, but on that pair “${WORDS[act.notice]}” of yours stands already. `, link, " ", close);
  }
}

const NAMES = { undo: "An undo", later: "Setting a pair aside", flag: "A flag" };

function paragraph(...content) {
  const element = document.createElement("p");
  element.className = "notice is-bad";
  element.append(...content);
  return element;
}

function strong(words) {
  return Object.assign(document.createElement("strong"), { textContent: words });
}

function anchor(words, href) {
  return Object.assign(document.createElement("a"), { textContent: words, href });
}

function button(words, action, key) {
  const element = Object.assign(document.createElement("button"), { type: "button", className: "link-button", textContent: words });
  element.dataset.do = action;
  if (key) {
    element.setAttribute("aria-keyshortcuts", key.aria);
    element.append(" ", Object.assign(document.createElement("kbd"), { className: "key", textContent: key.text, ariaHidden: "true" }));
  }
  return element;
}
