/* The pairs of this page: the one that is shown is in the document, the next ones are ready beside it, out of
   the document and so out of reach of everything. A card that waits was not seen. */

const AHEAD = 2;
const LONGEST_PAUSE_MS = 15_000;

/* One pair, as long as this page remembers it. */
export class Card {
  constructor(node) {
    this.node = node;
    this.uuid = node.dataset.uuid;
    this.activeMs = 0;
    this.shownAt = "";
    this.note = "";
    this.isFlagged = "flagged" in node.dataset;
    /* How much its labeler has said about it, as the server knew when it sent this. */
    this.revision = Number(node.dataset.revisions);
    /* What was said: {verdict, reasons, note}; also before it was taken back. */
    const verdict = node.dataset.takenBackVerdict;
    this.wasTakenBack = Boolean(verdict);
    const { takenBackReasons: reasons, takenBackNote: note = "" } = node.dataset;
    this.said = verdict && { verdict, reasons: reasons?.split(" ").filter(Boolean) ?? [], note };
    if (verdict) this.note = note;
    /* What is read, as text, as a diff, raw: each is fetched once. */
    this.views = { [this.panes.dataset.shown]: partsOf(node) };
  }

  get panes() {
    return this.node.querySelector("[data-panes]");
  }

  /* Take over how another card of the same pair shows it. */
  add(node) {
    const { shown } = node.querySelector("[data-panes]").dataset;
    this.views[shown] = partsOf(node);
  }

  /* Whether that changed anything. */
  show(view) {
    const parts = partsOf(this.node);
    if (this.views[view][0] === parts[0]) return false;
    for (const [place, part] of parts.entries()) part.replaceWith(this.views[view][place]);
    return true;
  }
}

function partsOf(node) {
  return [...node.querySelectorAll("[data-panes], [data-prompt-text], [data-earlier-text]")];
}

export class Cards extends EventTarget {
  waiting = [];
  #isFilling = false;
  #isAsking = false;
  #pause = 1000;
  #timer;

  /* `busy` lists pairs that must not come again: shown, or done and not yet known to the server. */
  constructor({ net, outbox, busy, view }) {
    super();
    this.net = net;
    this.outbox = outbox;
    this.busy = busy;
    this.view = view;
    // A judgement that goes out brings a pair back, in the same request.
    outbox.wishes = () => (this.waiting.length < AHEAD && !this.#isAsking ? [["next", "1"], ...this.#held()] : []);
    outbox.addEventListener("card", ({ detail }) => this.#take(elementOf(detail)));
  }

  take() {
    return this.waiting.shift();
  }

  putBack(card) {
    this.waiting.unshift(card);
  }

  drop(uuid) {
    this.waiting = this.waiting.filter((card) => card.uuid !== uuid);
  }

  /* Fetch until enough wait. `seen` names what a page without any pair says meanwhile. */
  async fill(seen) {
    if (this.#isFilling) return;
    clearTimeout(this.#timer);
    this.#isFilling = true;
    await this.outbox.settled();
    // One to show, those that wait, and one that may be here already.
    for (let left = AHEAD + 2; left && this.waiting.length < AHEAD && (await this.#fetch(seen)); left -= 1);
    this.#isFilling = false;
  }

  /* Go on asking when the network is back, or the server. */
  later(ms = this.#pause) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.fill(this.seenBy?.()), ms);
  }

  /* The network is back: waiting longer and longer was for its absence. */
  hurry() {
    this.#pause = 1000;
    this.fill(this.seenBy?.());
  }

  async #fetch(seen) {
    const fields = this.#held();
    if (seen !== undefined) fields.push(["seen", seen]);
    this.#isAsking = true;
    const answer = await this.net.post("next/", fields, "text/html");
    this.#isAsking = false;
    const node = answer.kind === "ok" ? elementOf(answer.text) : undefined;
    const isOurs = answer.status === 204 || node?.matches("[data-uuid], [data-waiting]");
    if (!isOurs) {
      this.dispatchEvent(new CustomEvent("trouble", { detail: answer }));
      this.later();
      this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE_MS);
      return false;
    }
    this.#pause = 1000;
    // One that is here already came with a judgement's answer meanwhile; the next request names it.
    if (this.#take(node) || node?.dataset.uuid) return true;
    this.dispatchEvent(new CustomEvent("nothing", { detail: node }));
    return false;
  }

  /* Put a pair with those that wait; whether it is one, and new to this page. */
  #take(node) {
    if (!node?.dataset.uuid || this.#have().includes(node.dataset.uuid)) return false;
    this.waiting.push(new Card(node));
    this.dispatchEvent(new Event("filled"));
    return true;
  }

  #have() {
    return [...this.busy(), ...this.waiting.map((card) => card.uuid)];
  }

  /* What a request for another pair says: how to show it, and which ones are here. */
  #held() {
    return [["as", this.view()], ...this.#have().map((uuid) => ["have", uuid])];
  }

  /* Keep what the server still holds for this page. */
  keep(held) {
    this.waiting = this.waiting.filter((card) => held.includes(card.uuid));
  }
}

export function elementOf(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content.firstElementChild ?? undefined;
}
