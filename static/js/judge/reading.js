/* How the pair is read: as text, diff or raw; both answers scrolling with the page, or each by itself; and what
   was asked in one line while the prompt is out of sight. */

import { elementOf } from "./cards.js";
import { choose, chosen } from "./settings.js";

const VIEWS = ["text", "diff", "raw"];
/* Of the window's height, with some lines to find one's place again. */
const STEP = 0.7;

export class Reading {
  #card;
  #observer = new IntersectionObserver((entries) => this.#seen(entries.at(-1)));

  constructor({ net, root }) {
    this.net = net;
    this.root = root;
    this.view = chosen("shown", VIEWS);
    this.scroll = chosen("scroll", ["together", "each"]);
    this.#press();
  }

  /* The pair that is in the document now. */
  async open(card) {
    this.#card = card;
    this.#watch();
    this.#apply();
    await this.#show();
  }

  close() {
    this.#observer.disconnect();
    this.#card = undefined;
    this.#apply();
  }

  /* Diff or raw on, or back to the text. */
  async toggle(view) {
    const isThere = await this.#choose(this.view === view ? "text" : view);
    if (isThere) return;
    // Away: the pair stays as it is, and the buttons say how that is.
    this.#choose(this.#card.panes.dataset.shown);
    this.root.dispatchEvent(new CustomEvent("view-away"));
  }

  #choose(view) {
    this.view = view;
    choose("shown", view);
    this.#press();
    return this.#show();
  }

  /* Show what differs, and where it begins: in both answers, or, where they scroll together, in the left one. */
  async toDifference() {
    if (this.view !== "diff") await this.toggle("diff");
    // From the last to the first: where both are in the page, the left one has the last word.
    for (const first of [...(this.#card?.panes.querySelectorAll("[data-first-difference]") ?? [])].reverse()) {
      first.scrollIntoView({ block: "center" });
    }
  }

  toggleScroll() {
    this.scroll = this.scroll === "together" ? "each" : "together";
    choose("scroll", this.scroll);
    this.#press();
    this.#apply();
  }

  by(direction) {
    const own = this.#card?.panes.matches(".is-each") ? this.#panesMeant() : [];
    if (own.length) for (const pane of own) pane.scrollBy(0, direction * pane.clientHeight * STEP);
    else scrollBy(0, direction * innerHeight * STEP);
  }

  /* The pane with the focus or under the pointer; without one of these, both. */
  #panesMeant() {
    const panes = [...this.#card.panes.querySelectorAll("[data-pane]")];
    const ways = [(pane) => pane.contains(document.activeElement), (pane) => pane.matches(":hover"), () => true];
    return ways.map((way) => panes.filter(way)).find((meant) => meant.length);
  }

  /* Whether it can be shown so, unless that is not asked for any more. */
  async #show() {
    const { view } = this;
    const card = this.#card;
    if (!card) return true;
    if (!card.views[view]) {
      card.panes.setAttribute("aria-busy", "true");
      const answer = await this.net.get(`${card.uuid}/view/?as=${view}`);
      card.panes.removeAttribute("aria-busy");
      const node = answer.kind === "ok" ? elementOf(answer.text) : undefined;
      const isMeant = this.view === view && this.#card === card;
      if (node?.dataset.uuid !== card.uuid) return !isMeant;
      card.add(node);
    }
    if (this.view === view && this.#card === card) {
      if (card.show(view)) this.#watch();
      this.#apply();
    }
    return true;
  }

  #apply() {
    const panes = this.#card?.panes;
    this.root.querySelector('[data-do="difference"]').hidden = !panes?.querySelector("[data-first-difference]");
    if (!panes) return;
    const isEach = this.scroll === "each";
    panes.classList.toggle("is-each", isEach);
    for (const pane of panes.querySelectorAll("[data-pane]")) {
      // What scrolls must be reachable by key.
      if (isEach) pane.tabIndex = 0;
      else pane.removeAttribute("tabindex");
    }
  }

  /* What was asked follows in one line, which says enough to remember the whole. */
  #watch() {
    const text = this.#card.node.querySelector("[data-prompt-text]");
    this.#card.node.querySelector("[data-prompt-line]").textContent = text.textContent.trim().replace(/\s+/g, " ").slice(0, 300);
    this.#observer.disconnect();
    this.#observer.observe(text);
  }

  #press() {
    for (const [name, isOn] of [
      ["diff", this.view === "diff"],
      ["raw", this.view === "raw"],
      ["sync", this.scroll === "each"],
    ]) {
      this.root.querySelector(`[data-do="${name}"]`)?.setAttribute("aria-pressed", String(isOn));
    }
  }

  #seen({ isIntersecting, boundingClientRect }) {
    this.#card?.node.classList.toggle("is-past", !isIntersecting && boundingClientRect.top < 0);
  }
}
