/* What was done and is not on the server yet. It lives in localStorage, so that a closed tab, a lost network or
   a stopped server lose nothing; one tab at a time delivers it, strictly in order. Each act has a key of its own:
   two tabs never overwrite each other. Repeating an act changes nothing on the server, so in doubt it goes again. */

const LONGEST_PAUSE_MS = 15_000;
/* Another tab may be the one that delivers, and in trouble. */
const PATIENCE_MS = 1000;

export class Outbox extends EventTarget {
  #isRunning = false;
  #known = new Map();
  #hurry = () => {};
  /* Fields that ask for another pair in the answer to a judgement; it comes with the event "card". */
  wishes = () => [];

  /* `name` holds who and which model: what somebody else left here is not ours to send. */
  constructor({ net, name }) {
    super();
    this.net = net;
    this.prefix = `pairloop.outbox.${name}.`;
    this.store = storage();
    /* Why nothing gets through: "", "away" or "login". */
    this.trouble = "";
    addEventListener("storage", (event) => event.key?.startsWith(this.prefix) && this.#changed());
    for (const type of ["online", "focus", "pageshow"]) addEventListener(type, () => this.wake());
  }

  /* In order, those that were refused for good included. */
  acts() {
    const keys = Array.from({ length: this.store.length }, (_, index) => this.store.key(index));
    return keys
      .filter((key) => key?.startsWith(this.prefix))
      .sort()
      .map((key) => ({ ...JSON.parse(this.store.getItem(key) ?? "null"), key }))
      .filter((act) => act.uuid);
  }

  waiting() {
    return this.acts().filter((act) => !act.refused && !act.notice);
  }

  /* What the server said no to, and what it knows otherwise: until the person has seen it. */
  notices() {
    return this.acts().filter((act) => act.refused || act.notice);
  }

  /* An act that certainly never left this browser: it can be changed here, or dropped. */
  unsent(kind, uuid) {
    return this.waiting().findLast((act) => act.kind === kind && act.uuid === uuid && !act.tries);
  }

  /* `of` is the revision that it speaks of, as far as the page knows: 0 before anything was said. */
  push(kind, uuid, fields, of) {
    const last = this.acts().at(-1)?.key.slice(this.prefix.length).split(".")[0] ?? "0";
    // Later than everything before it, also when the clock was set back.
    const at = Math.max(Date.now(), Number(last) + 1);
    const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    const act = { key: `${this.prefix}${String(at).padStart(15, "0")}.${id}`, id, kind, uuid, fields, tries: 0 };
    const known = Math.max(this.#known.get(uuid) ?? -1, of ?? -1);
    if (known >= 0) act.of = known;
    this.save(act);
    this.wake();
    return act;
  }

  save(act) {
    const { key, ...kept } = act;
    this.store.setItem(key, JSON.stringify(kept));
    this.#changed();
  }

  drop(act) {
    this.store.removeItem(act.key);
    this.#changed();
  }

  /* Deliver now, also when a pause between two tries is under way. */
  async wake() {
    if (this.#isRunning) {
      this.#hurry();
      return;
    }
    this.#isRunning = true;
    // Again for what came in between the last look and the end of the lock.
    while (this.waiting().length) await alone(this.prefix, () => this.#deliver());
    this.#isRunning = false;
  }

  async #deliver() {
    let pause = 1000;
    for (;;) {
      const act = this.waiting()[0];
      if (!act) return;
      // Before it goes out: from now on it may have arrived.
      this.save({ ...act, tries: act.tries + 1 });
      const wishes = act.kind === "judge" ? this.wishes() : [];
      const answer = await this.net.post(PATHS[act.kind](act.uuid), [...fieldsOf(act), ...wishes]);
      const data = answer.kind === "ok" ? parsed(answer.text) : undefined;
      if (answer.kind !== "refused" && !data) {
        this.inTrouble(answer.kind === "login" ? "login" : "away");
        await this.#rest(pause);
        pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
        continue;
      }
      pause = 1000;
      this.inTrouble("");
      if (data) this.#settle(act, data);
      else this.save({ ...act, refused: answer.sentence });
    }
  }

  #settle(act, data) {
    this.know(act, data.revision);
    if (act.kind === "judge" && data.verdict === "" && !act.fields.some(([name]) => name === "revise")) {
      // Judged and taken back elsewhere meanwhile: this one is news all the same.
      this.save({ ...act, of: data.revision, tries: 0 });
      return;
    }
    if (data.card) this.dispatchEvent(new CustomEvent("card", { detail: data.card }));
    // Nothing is lost by it, but it is not what this page believes.
    const isOther = Boolean(act.kind === "judge" && data.verdict && data.verdict !== verdictOf(act));
    if (isOther) this.save({ ...act, notice: data.verdict });
    else this.drop(act);
    this.dispatchEvent(new CustomEvent("answered", { detail: { act, data, isOther } }));
  }

  /* A request that hangs in a network may arrive after its repetition, and after what was said next. So each act
     names the latest revision it knows of, and the server does nothing where there is a newer one. */
  know({ uuid, key }, revision) {
    if (typeof revision !== "number") return;
    this.#known.set(uuid, revision);
    for (const act of this.waiting()) if (act.uuid === uuid && act.key !== key && !act.tries) this.save({ ...act, of: revision });
  }

  /* Until everything is delivered, or it is clear that this takes a while. */
  async settled() {
    const until = performance.now() + PATIENCE_MS;
    while (this.waiting().length && !this.trouble && performance.now() < until) {
      await new Promise((resolve) => {
        this.addEventListener("change", resolve, { once: true });
        setTimeout(resolve, PATIENCE_MS);
      });
    }
  }

  #rest(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#hurry = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  inTrouble(kind) {
    this.trouble = kind;
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

export function verdictOf({ fields }) {
  return fields.find(([name]) => name === "verdict")?.[1];
}

function fieldsOf({ kind, fields, of }) {
  return of === undefined || !["judge", "undo"].includes(kind) ? fields : [...fields, ["of", String(of)]];
}

const PATHS = {
  judge: (uuid) => `${uuid}/`,
  undo: (uuid) => `${uuid}/undo/`,
  later: (uuid) => `${uuid}/later/`,
  flag: (uuid) => `${uuid}/flag/`,
};

/* One tab at a time; where a browser has no locks (a page without TLS), order still holds within each tab. */
function alone(name, work) {
  return navigator.locks ? navigator.locks.request(name, work) : work();
}

/* A page where JSON should be is not from our server: a hotel's login, a proxy's apology. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/* The browser's store, or this tab's memory where a person forbade it. */
function storage() {
  try {
    localStorage.setItem("pairloop.probe", "");
    localStorage.removeItem("pairloop.probe");
    return localStorage;
  } catch {
    const kept = new Map();
    return {
      get length() {
        return kept.size;
      },
      key: (index) => [...kept.keys()][index],
      getItem: (key) => kept.get(key) ?? null,
      setItem: (key, value) => kept.set(key, value),
      removeItem: (key) => kept.delete(key),
    };
  }
}
