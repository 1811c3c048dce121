/* The judging screen: one key judges, and the next pair, which waits in the page, is there in the same frame.
   What was said goes to the outbox, which delivers it. This file puts the parts together; each is in judge/. */

import { Bar, WORDS } from "./judge/bar.js";
import { Card, Cards } from "./judge/cards.js";
import { Clock } from "./judge/clock.js";
import { Drafts } from "./judge/drafts.js";
import { dialogSet, isTyping, Keys, keysShow } from "./judge/keys.js";
import { Net } from "./judge/net.js";
import { Outbox } from "./judge/outbox.js";
import { Reading } from "./judge/reading.js";
import { Session } from "./judge/session.js";

const form = document.querySelector("#judge");
const data = form.dataset;
const keys = new Keys();
const dialog = document.querySelector("[data-keys]");
const clock = new Clock();
const net = new Net({ base: data.base, user: data.user, token: form.elements.csrfmiddlewaretoken.value });
const reading = new Reading({ net, root: form });
const bar = new Bar({ root: form, keys, data });
form.addEventListener("view-away", () => bar.add("showing it that way needs the connection"));

keysShow(keys, form);
dialogSet(keys, dialog);
keys.addEventListener("change", () => keysShow(keys, form));

const place = form.querySelector("[data-place]");
const first = place.querySelector("[data-uuid]");
const session = "revision" in data ? revision() : judging();

/* One pair by itself, from the history: its form is sent as without a script. */
function revision() {
  reading.open(new Card(first));
  return {
    judge(verdict, by) {
      form.querySelector("[data-active-ms]").value = clock.read();
      form.querySelector("[data-by]").value = by;
      form.requestSubmit(bar.buttonOf(verdict));
    },
    reason(number) {
      form.querySelectorAll("[name=reasons]")[number - 1].click();
    },
    note() {},
    noteEnd() {},
  };
}

/* One pair after the other. */
function judging() {
  const outbox = new Outbox({ net, name: `${data.user}.${data.model}` });
  const started = new Session({ form, place, data, net, outbox, bar, reading, clock, keys, drafts: new Drafts(), Card, Cards });
  started.start(first);
  return started;
}

/* Everything that a key or a button can do. */
const DO = {
  ...Object.fromEntries(Object.keys(WORDS).map((verdict) => [verdict, (by) => session.judge(verdict, by)])),
  ...Object.fromEntries([1, 2, 3, 4, 5, 6, 7].map((number) => [`reason-${number}`, () => session.reason(number)])),
  ...Object.fromEntries([1, 2, 3, 4, 5].map((number) => [`cannot-${number}`, (by) => cannotBecause(number, by)])),
  cannot_judge: (by) => ("revision" in data ? session.judge("cannot_judge", by) : cannotOpen()),
  "cannot-close": () => cannotClose(),
  undo: () => session.undo?.(),
  redo: (by) => session.redo?.(by),
  note: () => noteHere(),
  "note-last": () => session.noteLast() && noteOpen(),
  "note-close": () => noteClose(),
  flag: () => session.flag?.(),
  later: () => session.later?.(),
  diff: () => reading.toggle("diff"),
  difference: () => reading.toDifference(),
  raw: () => reading.toggle("raw"),
  sync: () => reading.toggleScroll(),
  earlier: () => fold("[data-earlier]"),
  guidelines: () => fold("[data-guidelines]", () => scrollTo(0, 0)),
  down: () => reading.by(1),
  up: () => reading.by(-1),
  keys: () => dialog.showModal(),
  "notice-close": (_by, button) => session.seen(button.dataset.act),
};

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-do]");
  if (!button || button.disabled) return;
  event.preventDefault();
  // The second half of a double click was not meant for the pair that is there now.
  if (event.detail > 1 && (button.dataset.do in WORDS || button.dataset.do === "later")) return;
  DO[button.dataset.do]?.("button", button);
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && (cannotClose() || noteClose())) return;
  if (event.target.id === "note" && event.key === "Enter" && (event.ctrlKey || event.metaKey)) noteClose();
  if (cannotKey(event)) return;
  const action = keys.actionOf(event);
  if (!action || !DO[action]) return;
  event.preventDefault();
  DO[action]("key");
});

// --- Can't judge: why ---

const cannot = form.querySelector("[data-cannot]");

/* It judges nothing yet, so it need not wait for a pair that was just painted: the digit after it would be a
   reason for the judgement before. */
function cannotOpen() {
  if (!session.card) return;
  if (!cannot.hidden) cannotClose();
  else {
    cannot.hidden = false;
    cannot.querySelector("button").focus({ preventScroll: true });
  }
}

/* Whether it was open. */
function cannotClose() {
  if (cannot.hidden) return false;
  cannot.hidden = true;
  session.focus();
  return true;
}

/* While the choice is open, its digits choose and other keys wait. */
function cannotKey(event) {
  if (cannot.hidden || isTyping(event) || keys.preset === "off" || event.ctrlKey || event.metaKey || event.altKey) return false;
  if (event.repeat || ["Tab", "Enter", " "].includes(event.key)) return true;
  const digit = /^(?:Digit|Numpad)([1-5])$/.exec(event.code)?.[1];
  if (digit) DO[`cannot-${digit}`]("key");
  else if (keys.actionOf(event) === "cannot_judge") cannotClose();
  return true;
}

function cannotBecause(number, by) {
  // It stays open, and the same digit counts in a moment.
  if (!session.canJudge()) return;
  const { reason } = bar.buttonOf(`cannot-${number}`).dataset;
  cannot.hidden = true;
  session.judge("cannot_judge", by, [reason]);
}

// --- Note, folds ---

const note = form.querySelector("[data-note]");
const noteText = form.querySelector("#note");

note.addEventListener("toggle", () => (note.open ? noteText.focus() : session.noteEnd()));
noteText.addEventListener("input", () => session.note(noteText.value));

function noteOpen() {
  note.open = true;
  noteText.focus();
}

/* On the pair that is shown, also when one on the last judgement is open. */
function noteHere() {
  if (!session.card && !("revision" in data)) return;
  session.noteEnd();
  noteOpen();
}

/* Whether it was open. What was written stays: nobody should lose a sentence to Esc. */
function noteClose() {
  if (!note.open || "revision" in data) return false;
  note.open = false;
  session.focus();
  return true;
}

function fold(selector, opened = () => {}) {
  const details = form.querySelector(selector);
  if (!details) return;
  details.open = !details.open;
  if (details.open) opened();
}

// From here on everything goes through this page; before, a button sent the form.
form.dataset.ready = "";
