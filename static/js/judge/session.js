/* One sitting of a labeler: judge, go back, repeat; each step moves cards in the page at once and leaves an act
   in the outbox. */

import { elementOf } from "./cards.js";
import { keysShow } from "./keys.js";

/* A verdict so soon after a pair was painted was meant for the one before. */
const GUARD_MS = 250;
/* Several reasons in a row are one revision. */
const REASONS_MS = 700;
const KEEP_MS = 60_000;
const POLL_MS = 2000;
const POLL_HIDDEN_MS = 10_000;

export class Session {
  card;
  /* Judged in this page, the last one at the end. */
  past = [];
  #paintedAt = Infinity;
  #chipsFor;
  #noteFor;
  #reasonsTimer;
  #seen;
  #isHeldBack = false;
  #isPressed = false;

  constructor(parts) {
    Object.assign(this, parts);
    const { outbox, net, reading, Cards } = parts;
    this.cards = new Cards({ net, outbox, busy: () => this.#busy(), view: () => reading.view });
    this.judgedLast = this.data.judgedLast;
    /* The number of those that this page shows. */
    this.guidelines = Number(this.form.elements.guidelines.value);
    this.done = { today: Number(this.data.today), inAll: Number(this.data.inAll) };
    this.cards.seenBy = () => (this.card ? undefined : (this.#seen ?? ""));
    this.cards.addEventListener("filled", () => this.#filled());
    this.cards.addEventListener("nothing", ({ detail }) => this.#nothing(detail));
    this.cards.addEventListener("trouble", ({ detail }) => this.#away(detail));
    outbox.addEventListener("change", () => this.#told());
    outbox.addEventListener("answered", ({ detail }) => this.#answered(detail));
    addEventListener("pagehide", () => {
      this.noteEnd();
      this.#reasonsSend();
    });
    addEventListener("online", () => this.cards.hurry());
    for (const type of ["focusin", "focusout", "pointerup", "pointercancel"]) {
      document.addEventListener(type, () => {
        if (type.startsWith("pointer")) this.#isPressed = false;
        // After the click that follows, and once it is known where the focus went.
        setTimeout(() => this.#open());
      });
    }
    document.addEventListener("pointerdown", () => (this.#isPressed = true));
    document.addEventListener("visibilitychange", () => document.hidden || this.#keep());
    setInterval(() => document.hidden || this.#keep(), KEEP_MS);
  }

  /* Begin with the pair that came with the page, unless a closed tab left its judgement here. */
  start(node) {
    const card = node && new this.Card(node);
    if (!card) this.#seen = this.place.querySelector("[data-waiting]")?.dataset.seen;
    if (card && this.#busy().includes(card.uuid)) this.#advance();
    else if (card) this.#show(card, { isFirst: true });
    else this.bar.pair();
    this.#told();
    this.outbox.wake();
    this.cards.fill(this.cards.seenBy());
  }

  canJudge() {
    return Boolean(this.card) && performance.now() - this.#paintedAt > GUARD_MS;
  }

  judge(verdict, by, reasons = []) {
    if (!this.canJudge()) return;
    const { card } = this;
    this.noteEnd();
    this.#reasonsSend();
    card.activeMs = this.clock.read();
    card.said = { verdict, reasons, note: card.note.trim() };
    card.by = by;
    card.guidelines = this.guidelines;
    card.wasTakenBack = false;
    this.outbox.push("judge", card.uuid, fieldsOf(card), card.revision);
    this.drafts.keep(card.uuid, "");
    this.past.push(card);
    this.#chipsFor = card;
    this.bar.said(card);
    this.#advance();
  }

  /* The pair before comes back at once, out of memory; only beyond this page's beginning the server is asked. */
  undo() {
    this.noteEnd();
    const card = this.past.pop();
    if (this.reasonsDue === card) this.#reasonsForget();
    else this.#reasonsSend();
    if (!card) return this.#undoFurther();
    if (card.isAside) {
      this.#mark("later", card, "is_aside", false);
      this.#comeBack(card, "Here it is again.");
      return undefined;
    }
    // Whoever takes it back need not be told what stands there.
    for (const act of this.outbox.notices()) if (act.notice && act.uuid === card.uuid) this.outbox.drop(act);
    if (!this.#wasUnsent(card)) this.outbox.push("undo", card.uuid, []);
    card.wasTakenBack = true;
    this.#comeBack(card);
    return undefined;
  }

  /* Drop what did not go out yet; whether that was everything that was said. */
  #wasUnsent({ uuid }) {
    for (let act; (act = this.outbox.unsent("judge", uuid)); ) {
      this.outbox.drop(act);
      if (!isRevision(act)) return true;
    }
    return false;
  }

  redo(by) {
    const said = this.card?.wasTakenBack && this.card.said;
    if (!said) return;
    // Said once already: there is nothing to guard against.
    this.#paintedAt = -Infinity;
    this.judge(said.verdict, by, said.reasons);
  }

  reason(number) {
    const card = this.#chipsFor;
    if (!card) return;
    const chip = this.bar.buttonOf(`reason-${number}`);
    if (chip.closest("[hidden]")) {
      this.bar.add("reasons go with a preference only");
      return;
    }
    const { reason } = chip.dataset;
    const { reasons } = card.said;
    card.said.reasons = reasons.includes(reason) ? reasons.filter((one) => one !== reason) : [...reasons, reason];
    this.bar.reasons(card.said.reasons);
    this.#revise(card);
  }

  /* What stands in the field belongs to this pair, or to the last judgement while that is asked for. */
  note(text) {
    const card = this.#noteFor ?? this.card;
    if (!card) return;
    card.note = text;
    if (card !== this.card) return;
    this.drafts.keep(card.uuid, text);
    this.bar.noted(text);
  }

  noteLast() {
    if (!this.#chipsFor) return false;
    this.#noteFor = this.#chipsFor;
    this.bar.noteOf(this.#noteFor, { isLast: true });
    return true;
  }

  noteEnd() {
    const card = this.#noteFor;
    this.#noteFor = undefined;
    this.bar.noteOf(this.card);
    if (!card?.said || card.said.note === card.note.trim()) return;
    card.said.note = card.note.trim();
    this.#revise(card);
  }

  flag() {
    const { card } = this;
    if (!card) return;
    card.isFlagged = !card.isFlagged;
    this.#mark("flag", card, "is_raised", card.isFlagged);
    this.bar.flag(card.isFlagged);
  }

  /* Said and unsaid before it went out: nothing happened. */
  #mark(kind, card, name, is) {
    const unsent = this.outbox.unsent(kind, card.uuid);
    if (unsent) this.outbox.drop(unsent);
    else this.outbox.push(kind, card.uuid, [[name, is ? "1" : "0"]]);
  }

  /* As the server knew it when it sent the pair, unless something newer waits to be sent. */
  #flagged(card) {
    const last = this.outbox.waiting().findLast((act) => act.kind === "flag" && act.uuid === card.uuid);
    return last ? last.fields.some(([name, value]) => name === "is_raised" && value === "1") : card.isFlagged;
  }

  later() {
    if (!this.canJudge()) return;
    const { card } = this;
    this.noteEnd();
    this.#reasonsSend();
    card.activeMs = this.clock.read();
    card.isAside = true;
    this.#mark("later", card, "is_aside", true);
    this.past.push(card);
    this.#chipsFor = undefined;
    this.bar.tell("Set aside; it comes back when nothing else waits.", { isUndoable: true });
    this.#advance();
  }

  seen(key) {
    this.outbox.drop({ key });
  }

  focus() {
    this.place.querySelector("[data-prompt], [data-waiting]")?.focus({ preventScroll: true });
  }

  // --- Cards ---

  #filled() {
    // Whoever gets a pair is logged in.
    if (this.outbox.trouble === "login") {
      this.outbox.inTrouble("");
      this.outbox.wake();
    }
    this.#open();
  }

  /* A pair that comes while none is shown takes the focus, and letters are verdicts from then on: whoever writes
     is left to finish first. */
  #open() {
    // What is pressed must not move away before it is let go.
    if (this.card || !this.cards.waiting.length || this.#isPressed) return;
    if (!isWriting()) this.#advance();
    else if (!this.#isHeldBack) {
      this.#calm("A pair is here", "It appears as soon as you leave the field in which you write.");
      this.#isHeldBack = true;
    }
  }

  #advance() {
    const card = this.cards.take();
    if (card) this.#show(card);
    else this.#showNothing();
    this.cards.fill(this.cards.seenBy());
  }

  #show(card, { isFirst = false } = {}) {
    this.noteEnd();
    this.card = card;
    // What was set aside comes again by itself.
    card.isAside = false;
    this.past = this.past.filter(({ uuid }) => uuid !== card.uuid);
    card.note ||= this.drafts.of(card.uuid);
    card.isFlagged = this.#flagged(card);
    this.#isHeldBack = false;
    this.#seen = undefined;
    this.#paintedAt = Infinity;
    this.#close();
    keysShow(this.keys, card.node);
    if (!isFirst) this.place.replaceChildren(card.node);
    this.form.action = `${this.data.base}${card.uuid}/`;
    card.shownAt ||= new Date().toISOString();
    this.clock.start(card.activeMs);
    this.bar.pair(card);
    this.reading.open(card);
    document.title = document.title.replace(/^\s*\w+/, "Judge");
    // A hint of the same verdict would lie under a pointer that has not moved.
    this.form.dataset.fresh = "";
    document.addEventListener("pointermove", () => delete this.form.dataset.fresh, { once: true });
    if (!isFirst) {
      scrollTo(0, 0);
      this.focus();
    }
    this.#told();
    this.#painted(card);
  }

  /* What was opened for the pair before. */
  #close() {
    this.form.querySelector("[data-note]").open = false;
    this.form.querySelector("[data-cannot]").hidden = true;
  }

  /* The frame after the next is the first that comes after the pair was painted; none comes in a hidden tab. */
  #painted(card) {
    const now = () => {
      if (this.card === card && this.#paintedAt === Infinity) this.#paintedAt = performance.now();
    };
    requestAnimationFrame(() => requestAnimationFrame(now));
    if (document.hidden) now();
  }

  #comeBack(card, told = "Taken back.") {
    this.cards.drop(card.uuid);
    if (this.card && this.card.uuid !== card.uuid) {
      this.card.activeMs = this.clock.read();
      this.cards.putBack(this.card);
    }
    this.#chipsFor = undefined;
    this.#show(card);
    this.bar.tell(told);
  }

  /* What was judged before this page was loaded. */
  async #undoFurther() {
    const uuid = this.judgedLast;
    if (!uuid || this.isGoingBack) return;
    this.isGoingBack = true;
    this.bar.tell("One moment …");
    await this.#undoOnServer(uuid);
    this.isGoingBack = false;
  }

  async #undoOnServer(uuid) {
    // Order matters: first what is still in the outbox.
    const isClear = !this.outbox.waiting().length;
    const undone = isClear && (await this.net.post(`${uuid}/undo/`, []));
    if (!undone || undone.kind !== "ok") {
      this.bar.tell("Going back to before this page was loaded needs the connection. Try again in a moment.");
      return;
    }
    const { judged_last: last, revision, said } = JSON.parse(undone.text);
    this.outbox.know({ uuid }, revision);
    this.judgedLast = last ?? "";
    this.cards.drop(uuid);
    this.#doneLess();
    const answer = await this.net.post("next/", [["as", this.reading.view], ...this.#have().filter((one) => one !== uuid).map((one) => ["have", one])], "text/html");
    const node = answer.kind === "ok" ? elementOf(answer.text) : undefined;
    if (node?.dataset.uuid !== uuid || isWriting()) {
      this.bar.tell("Taken back. That pair comes next.");
      if (node?.dataset.uuid) this.cards.putBack(new this.Card(node));
      return;
    }
    const card = new this.Card(node);
    card.wasTakenBack = true;
    if (said) Object.assign(card, { said, note: said.note });
    this.#comeBack(card);
    this.#told();
  }

  /* Nothing waits in the page: the server is slow, away, or has nothing. */
  #showNothing() {
    this.card = undefined;
    this.reading.close();
    this.bar.pair();
    this.#close();
    this.#calm("One moment", "The next pair is on its way.");
    scrollTo(0, 0);
    this.focus();
  }

  #calm(title, sentence) {
    const section = Object.assign(document.createElement("section"), { className: "waiting", tabIndex: -1 });
    section.dataset.waiting = "";
    section.append(
      Object.assign(document.createElement("h1"), { className: "waiting-title", textContent: title }),
      Object.assign(document.createElement("p"), { role: "status", textContent: sentence }),
    );
    this.place.replaceChildren(section);
    this.#seen = "";
    this.#isHeldBack = false;
  }

  /* The server says that nothing waits, and why. */
  #nothing(node) {
    if (this.card || this.cards.waiting.length) return;
    if (node) {
      node.tabIndex = -1;
      const hadFocus = this.place.contains(document.activeElement);
      this.place.replaceChildren(node);
      this.#seen = node.dataset.seen;
      this.#isHeldBack = false;
      document.title = document.title.replace(/^\s*\w+/, "Waiting");
      if (hadFocus) this.focus();
    }
    this.cards.later(document.hidden ? POLL_HIDDEN_MS : POLL_MS);
  }

  #away({ kind, sentence }) {
    if (kind === "login") this.outbox.inTrouble(kind);
    if (this.card || this.cards.waiting.length) return;
    if (kind === "login") this.#calm("You are not logged in any more", "Log in again, and the next pair is here. What you said is kept.");
    else if (kind === "refused") this.#calm("There is nothing to judge here", sentence);
    else this.#calm("The server cannot be reached", "What you said is kept here and goes out as soon as it is back. Then the next pair appears by itself.");
  }

  /* Pairs that must not be served again: here already, or done and the server does not know. */
  #busy() {
    return [...new Set([this.card?.uuid, ...this.outbox.waiting().filter(({ kind }) => kind !== "flag").map(({ uuid }) => uuid)].filter(Boolean))];
  }

  #have() {
    return [...this.#busy(), ...this.cards.waiting.map(({ uuid }) => uuid)];
  }

  async #keep() {
    this.outbox.wake();
    const waiting = this.cards.waiting.map(({ uuid }) => uuid);
    const fields = waiting.map((uuid) => ["waiting", uuid]);
    if (this.card) fields.push(["shown", this.card.uuid]);
    if (!fields.length) return;
    const answer = await this.net.post("keep/", fields);
    if (answer.kind !== "ok") return;
    const { held, guidelines } = JSON.parse(answer.text);
    this.#compareGuidelines(guidelines);
    // Those that came meanwhile were not asked about.
    const lost = waiting.filter((uuid) => !held.includes(uuid));
    this.cards.keep(this.cards.waiting.map(({ uuid }) => uuid).filter((uuid) => !lost.includes(uuid)));
    this.cards.fill(this.cards.seenBy());
  }

  #compareGuidelines(present) {
    if (present > this.guidelines) this.bar.guidelinesChanged();
  }

  // --- Outbox ---

  /* Change what was said, in the outbox if it is still there, else as a revision after a short pause. */
  #revise(card) {
    clearTimeout(this.#reasonsTimer);
    const unsent = this.outbox.unsent("judge", card.uuid);
    if (unsent) this.outbox.save({ ...unsent, fields: fieldsOf(card, isRevision(unsent)) });
    else {
      this.reasonsDue = card;
      this.#reasonsTimer = setTimeout(() => this.#reasonsSend(), REASONS_MS);
    }
  }

  #reasonsForget() {
    clearTimeout(this.#reasonsTimer);
    this.reasonsDue = undefined;
  }

  #reasonsSend() {
    const card = this.reasonsDue;
    this.#reasonsForget();
    if (card) this.outbox.push("judge", card.uuid, fieldsOf(card, true));
  }

  #isTakenBack(uuid) {
    if ([this.card, ...this.cards.waiting].some((card) => card?.uuid === uuid)) return true;
    return this.outbox.waiting().some((act) => act.kind === "undo" && act.uuid === uuid);
  }

  #answered({ act, data, isOther }) {
    if (act.kind === "undo") {
      this.#doneLess();
      if (this.judgedLast === act.uuid) this.judgedLast = "";
      this.#told();
    }
    if (act.kind !== "judge") return;
    this.done = { today: data.today, inAll: data.in_all };
    this.#compareGuidelines(data.guidelines);
    if (isOther) this.#wasFirst(act, data);
    // Said in a tab that was closed: it can be taken back all the same.
    if (data.verdict && !this.past.some(({ uuid }) => uuid === act.uuid) && !this.#isTakenBack(act.uuid)) this.judgedLast = act.uuid;
    this.#told();
  }

  /* Another tab's judgement stands: it is what an undo takes back. */
  #wasFirst({ uuid }, { verdict }) {
    const card = this.past.find((one) => one.uuid === uuid);
    if (!card) return;
    card.said = { verdict, reasons: [], note: "" };
    if (this.#chipsFor !== card) return;
    this.#chipsFor = undefined;
    this.bar.tell("That one was judged already.", { isUndoable: true });
  }

  #doneLess() {
    this.done = { today: this.done.today - 1, inAll: this.done.inAll - 1 };
  }

  #told() {
    const waiting = this.outbox.waiting();
    const judges = waiting.filter((act) => act.kind === "judge" && !isRevision(act)).length;
    const undos = waiting.filter(({ kind }) => kind === "undo").length;
    this.bar.progress(Math.max(this.done.today + judges - undos, 0), Math.max(this.done.inAll + judges - undos, 0));
    this.bar.outbox({ count: waiting.length, trouble: this.outbox.trouble, notices: this.outbox.notices() });
    this.bar.undoable(this.past.length > 0 || Boolean(this.judgedLast));
  }
}

/* Whether letters go into a field now, or its form's button is about to be pressed. */
function isWriting() {
  return Boolean(document.activeElement?.closest("input, textarea, select, [contenteditable], [data-note] button, .attack button"));
}

function isRevision({ fields }) {
  return fields.some(([name]) => name === "revise");
}

function fieldsOf(card, isRevision = false) {
  const fields = [
    ["verdict", card.said.verdict],
    ["note", card.said.note],
    ["active_ms", String(card.activeMs)],
    ["shown_at", card.shownAt],
    ["by", card.by],
    ["guidelines", String(card.guidelines)],
    ...card.said.reasons.map((reason) => ["reasons", reason]),
  ];
  return isRevision ? [...fields, ["revise", "1"]] : fields;
}
