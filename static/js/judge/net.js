/* Talks to the judging pages. Every answer is one of four kinds, and nothing is thrown:
     ok       it arrived
     refused  it never will: {sentence}
     login    nobody, or somebody else, is logged in
     away     no network, no server, a server with troubles of its own, or somebody else's page: later */

const PATIENCE_MS = 20_000;
const FINAL = [400, 404, 409, 410, 413, 422];

export class Net {
  constructor({ base, user, token }) {
    this.base = base;
    this.user = user;
    this.token = token;
  }

  /* A list of [name, value] pairs goes out as a form. */
  post(path, fields, accept = "application/json") {
    const headers = () => ({ Accept: accept, "X-CSRFToken": this.token });
    // Outlives a tab that is closed meanwhile.
    return this.#asked(path, () => ({ method: "POST", body: new URLSearchParams(fields), headers: headers(), keepalive: true }));
  }

  get(path, accept = "text/html") {
    return this.#asked(path, () => ({ headers: { Accept: accept } }));
  }

  async #asked(path, options, isFirst = true) {
    let response;
    try {
      response = await fetch(this.base + path, {
        ...options(),
        // A redirect leads to the login; following it would look like success.
        redirect: "manual",
        signal: AbortSignal.timeout(PATIENCE_MS),
      });
      if (response.type === "opaqueredirect" || response.status === 401) return { kind: "login" };
      if (response.ok) return { kind: "ok", status: response.status, text: await response.text() };
      if (isFirst && [403, 404].includes(response.status)) {
        // A login in another tab changes the token, and perhaps whose pairs these are.
        const who = await this.#introduced();
        if (who.kind !== "ok") return who;
        return this.#asked(path, options, false);
      }
      const sentence = FINAL.includes(response.status) && (await sentenceOf(response));
      if (sentence) return { kind: "refused", sentence };
    } catch {
      // Cut off, timed out, or an answer that ended in the middle.
    }
    return { kind: "away" };
  }

  async #introduced() {
    const answer = await this.#asked("keep/", () => ({ headers: { Accept: "application/json" } }), false);
    if (answer.kind !== "ok") return answer;
    const { user, token } = JSON.parse(answer.text);
    if (String(user) !== this.user) return { kind: "login" };
    this.token = token;
    return answer;
  }
}

/* Why our server refuses it; nothing when somebody else answered in its place, as proxies do. */
async function sentenceOf(response) {
  try {
    const { detail, code } = await response.json();
    return typeof detail === "string" && typeof code === "string" ? detail : undefined;
  } catch {
    return undefined;
  }
}
