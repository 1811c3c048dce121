/* Which key does what. Keys count by their place (`event.code`), so a verdict lies where the answer is on every
   keyboard; the labels show the letter that is printed there. */

import { choose, chosen } from "./settings.js";

const COMMON = {
  KeyQ: "cannot_judge",
  KeyZ: "undo",
  "Shift+KeyZ": "redo",
  "Ctrl+KeyZ": "undo",
  "Ctrl+Shift+KeyZ": "redo",
  KeyE: "note",
  KeyB: "flag",
  KeyN: "later",
  KeyV: "diff",
  "Shift+KeyV": "difference",
  KeyR: "raw",
  KeyY: "sync",
  KeyH: "earlier",
  KeyI: "guidelines",
  KeyJ: "down",
  KeyK: "up",
};
const REASONS = Object.fromEntries([1, 2, 3, 4, 5, 6, 7].map((digit) => [`Digit${digit}`, `reason-${digit}`]));

export const PRESETS = {
  home: {
    KeyA: "left_much",
    KeyS: "left",
    KeyD: "tie",
    KeyF: "right",
    KeyG: "right_much",
    KeyX: "both_bad",
    ...COMMON,
    ...REASONS,
  },
  arrows: {
    "Shift+ArrowLeft": "left_much",
    ArrowLeft: "left",
    ArrowUp: "tie",
    ArrowRight: "right",
    "Shift+ArrowRight": "right_much",
    ArrowDown: "both_bad",
    ...COMMON,
    ...REASONS,
  },
  numbers: {
    Digit1: "left_much",
    Digit2: "left",
    Digit3: "tie",
    Digit4: "right",
    Digit5: "right_much",
    Digit0: "both_bad",
    ...COMMON,
  },
  off: {},
};

export class Keys extends EventTarget {
  #letters = {};

  constructor() {
    super();
    this.preset = chosen("keys", Object.keys(PRESETS));
    this.#ask();
  }

  get map() {
    return PRESETS[this.preset];
  }

  choose(preset) {
    this.preset = preset;
    choose("keys", preset);
    this.dispatchEvent(new Event("change"));
  }

  /* What a key press means: the name of an action, or nothing. */
  actionOf(event) {
    if (this.preset === "off" || event.isComposing || event.altKey) return undefined;
    this.#learn(event);
    if (event.key === "?") return event.repeat || isTyping(event) ? undefined : "keys";
    if (isTyping(event)) return undefined;
    const code = event.code.replace("Numpad", "Digit");
    const held = `${event.ctrlKey || event.metaKey ? "Ctrl+" : ""}${event.shiftKey ? "Shift+" : ""}`;
    const action = this.map[held + code];
    // Holding a key down says a thing once, but goes on scrolling.
    return event.repeat && !["down", "up"].includes(action) ? undefined : action;
  }

  /* How the key of an action is written on a button, and for a screen reader. */
  labelOf(action) {
    const found = Object.entries(this.map).find(([, name]) => name === action)?.[0];
    if (!found) return action === "keys" && this.preset !== "off" ? { text: "?", aria: "Shift+?" } : undefined;
    const parts = found.split("+");
    const code = parts.pop();
    const name = ARROWS[code] ?? this.#letterOf(code);
    return { text: [...parts.map((part) => HELD[part] ?? part), name].join(" "), aria: [...parts, ARROWS[code] ? code : name].join("+") };
  }

  #letterOf(code) {
    return this.#letters[code] ?? code.replace(/^(Key|Digit)/, "");
  }

  /* Chromium tells which letters are printed where, on pages with TLS or on this machine. */
  async #ask() {
    try {
      const layout = await navigator.keyboard.getLayoutMap();
      for (const [code, letter] of layout) if (code.startsWith("Key")) this.#letters[code] = letter.toUpperCase();
      this.dispatchEvent(new Event("change"));
    } catch {
      // Others are learned from what is typed.
    }
  }

  #learn(event) {
    const letter = event.key.toUpperCase();
    if (!event.code.startsWith("Key") || !/^\p{Letter}$/u.test(letter) || this.#letterOf(event.code) === letter) return;
    this.#letters[event.code] = letter;
    this.dispatchEvent(new Event("change"));
  }
}

const ARROWS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };
const HELD = { Shift: "⇧" };

export function isTyping(event) {
  if (document.querySelector("dialog[open]")) return true;
  return event.target.isContentEditable || Boolean(event.target.closest?.("input, textarea, select"));
}

/* Write the keys onto everything that has one. */
export function keysShow(keys, root) {
  for (const element of root.querySelectorAll("[data-do], [data-key-of]")) {
    const label = keys.labelOf(element.dataset.keyOf ?? element.dataset.do);
    if (label) element.setAttribute("aria-keyshortcuts", label.aria);
    else element.removeAttribute("aria-keyshortcuts");
    const key = element.querySelector(".key");
    // The digits of the choice after "can't judge" and Esc are not in any preset.
    if (!key || element.dataset.do?.startsWith("cannot-")) continue;
    key.textContent = label?.text ?? "";
    key.hidden = !label;
  }
}

const ACTIONS = [
  ["left_much", "Left is much better"],
  ["left", "Left is slightly better"],
  ["tie", "Equally good"],
  ["right", "Right is slightly better"],
  ["right_much", "Right is much better"],
  ["both_bad", "Both are bad"],
  ["cannot_judge", "I can't judge; then 1 to 5 says why"],
  ["undo", "Undo, again for further back"],
  ["redo", "Repeat what was taken back"],
  ["reason-1", "and up to 7: why, for your last judgement"],
  ["note", "Note on this pair"],
  ["flag", "Flag this pair for an admin"],
  ["later", "Set this pair aside for later"],
  ["diff", "Show what differs"],
  ["difference", "Go to the first difference"],
  ["raw", "Show the answers as they were written"],
  ["sync", "Scroll both answers together, or each by itself"],
  ["earlier", "What came before the prompt"],
  ["guidelines", "Guidelines"],
  ["down", "Scroll down"],
  ["up", "Scroll up"],
  ["keys", "This list"],
];

/* The window with all keys, and the choice among them. */
export function dialogSet(keys, dialog) {
  const write = () => {
    const rows = ACTIONS.map(([action, words]) => [keys.labelOf(action), words]).filter(([label]) => label);
    dialog.querySelector("[data-keys-list]").replaceChildren(
      ...rows.map(([label, words]) => {
        const [row, key, what] = ["div", "dt", "dd"].map((name) => document.createElement(name));
        key.append(Object.assign(document.createElement("kbd"), { className: "key", textContent: label.text }));
        what.textContent = words;
        row.append(key, what);
        return row;
      }),
    );
    dialog.querySelector("[data-keys-off]").hidden = rows.length > 0;
    dialog.querySelector(`input[value="${keys.preset}"]`).checked = true;
  };
  dialog.addEventListener("change", (event) => keys.choose(event.target.value));
  keys.addEventListener("change", write);
  write();
}
