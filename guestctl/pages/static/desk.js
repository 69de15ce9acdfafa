/**
 * The agent desk: the conversation as the guest sees it, and answers as the agent.
 */
import { Conversation, drawn } from "./conversation.js";
import { el, readable } from "./dom.js";
import { post } from "./feed.js";
import { place } from "./reducer.js";

/** @typedef {import("./reducer.js").State} State */

const LARGEST = 10_000_000; // bytes of a file

export class Desk extends HTMLElement {
  #session = "";
  #conversation = new Conversation();
  #done = -1;
  #moves = 0;
  /** @type {State | null} */
  #state = null;

  #picker = el("select", { "aria-label": "Conversation", change: () => this.#chosen(this.#picker.value) });
  #bubbles = el("ol", { class: "bubbles", tabindex: 0, "aria-label": "Conversation as the guest sees it" });
  #text = el("textarea", { rows: 2, "aria-label": "Answer as the agent", placeholder: "Answer as the agent" });
  #replies = el("input", { placeholder: "Yes, No, Later" });
  #title = el("input", { placeholder: "Margherita" });
  #about = el("input", { placeholder: "Tomato and basil" });
  #buttons = el("input", { placeholder: "Order, Details" });
  #file = el("input", { type: "file" });
  #result = el("p", { role: "status", class: "result" });
  #form = el("form", {});

  /** @param {boolean} answers whether an agent can answer, or only read */
  constructor(answers) {
    super();
    const act = (/** @type {string} */ label, /** @type {object} */ body) =>
      el("button", { type: "button", click: () => this.#send(body) }, label);
    const send = el("button", { class: "main" }, "Send");
    this.#form.append(
      this.#text,
      more("Quick replies", ["Labels, with commas between", this.#replies]),
      more(
        "Card",
        ["Title", this.#title],
        ["Description", this.#about],
        ["Buttons, with commas between", this.#buttons],
      ),
      more("File", ["At most 10 MB", this.#file]),
      el("div", { class: "row" }, send, act("Typing", { typing: true }), act("End conversation", { end: true })),
    );
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#form.requestSubmit();
    });
    this.#form.hidden = !answers;
  }

  connectedCallback() {
    this.append(el("div", { class: "row" }, this.#picker), this.#bubbles, this.#form, this.#result);
  }

  /** @param {State} state */
  update(state) {
    const before = this.#state;
    this.#state = state;
    if (before?.sessions !== state.sessions) this.#offer([...state.sessions.values()]);
    if (this.#moves !== state.moves) this.#forget();
    const old = this.#conversation.bubbles.length;
    for (let index = place(state.events, this.#done + 1); index < state.events.length; index++) {
      this.#done = state.events[index].n;
      if (state.events[index].session === this.#session) this.#conversation.add(state.events[index]);
    }
    if (this.#conversation.bubbles.length !== old) this.#draw();
  }

  /**
   * Show the conversation of a session. "" keeps the present one.
   * @param {string} session
   */
  session(session) {
    if (session && session !== this.#session) this.#chosen(session);
  }

  /**
   * Offer the conversations, the newest first. What has no state is traffic outside of them, or all of a trace.
   * @param {import("./reducer.js").Session[]} sessions
   */
  #offer(sessions) {
    const known = sessions.filter((one) => one.state);
    const ids = (known.length ? known : sessions)
      .sort((one, other) => (other.started ?? 0) - (one.started ?? 0))
      .map((one) => one.id);
    this.#picker.replaceChildren(...ids.map((id) => el("option", { value: id }, readable(id))));
    if (!ids.includes(this.#session)) this.#chosen(ids[0] ?? "");
    this.#picker.value = this.#session;
  }

  /** @param {string} session */
  #chosen(session) {
    this.#session = this.#picker.value = session;
    this.#forget();
    this.#draw();
    if (this.#state) this.update(this.#state);
  }

  #forget() {
    this.#conversation = new Conversation();
    this.#done = -1;
    this.#moves = this.#state?.moves ?? 0;
  }

  #draw() {
    const empty = el(
      "li",
      { class: "bubble event" },
      this.#session ? "No messages yet." : "There is no conversation yet.",
    );
    const bubbles = this.#conversation.bubbles.map((bubble) => drawn(bubble));
    this.#bubbles.replaceChildren(...(bubbles.length ? bubbles : [empty]));
    this.#bubbles.scrollTop = this.#bubbles.scrollHeight;
  }

  async #submit() {
    const [text, file] = [this.#text.value.trim(), this.#file.files?.[0]];
    const replies = labels(this.#replies.value).map((one) =>
      item("QuickReply", { text: one, payload: one, action: "Message" }),
    );
    const actions = labels(this.#buttons.value).map((one) => ({ type: "Postback", text: one, payload: one }));
    const card = { title: this.#title.value.trim(), description: this.#about.value.trim(), actions };
    const content = card.title ? [item("Card", card), ...replies] : replies;
    if (file && file.size > LARGEST) return this.#say("the file has more than 10 MB", "bad");
    if (!text && !content.length && !file) return this.#say("there is nothing to send: write a text", "bad");
    // The fields are free for the next answer at once. What is refused returns to them.
    const fields = [this.#text, this.#replies, this.#title, this.#about, this.#buttons];
    const values = fields.map((field) => field.value);
    this.#form.reset();
    const said = { ...(text && { text }), ...(content.length && { content }) };
    const sent = !(text || content.length) || (await this.#send(said));
    if (!sent) for (const [index, field] of fields.entries()) field.value ||= values[index];
    const type = file?.type || "application/octet-stream";
    if (sent && file) await this.#send({ file: { name: file.name, type, base64: await base64(file) } });
  }

  /** @param {object} body */
  async #send(body) {
    let problem = this.#session ? "" : "there is no conversation to answer in";
    if (this.#session)
      await post("api/send", { session: this.#session, ...body }).catch((error) => {
        problem = error.message;
      });
    this.#say(problem, "bad");
    return !problem;
  }

  /**
   * @param {string} text
   * @param {string} tone
   */
  #say(text, tone) {
    this.#result.className = `result ${tone}`;
    this.#result.replaceChildren(readable(text));
  }
}
customElements.define("gc-desk", Desk);

/**
 * @param {string} title
 * @param {...[string, HTMLElement]} fields
 */
function more(title, ...fields) {
  const labelled = fields.map(([name, input]) => el("label", {}, el("span", {}, name), input));
  return el("details", {}, el("summary", {}, title), ...labelled);
}

/** @param {string} text */
function labels(text) {
  return text
    .split(",")
    .map((label) => label.trim())
    .filter(Boolean);
}

/**
 * @param {string} contentType
 * @param {object} value
 */
function item(contentType, value) {
  return { contentType, [contentType.charAt(0).toLowerCase() + contentType.slice(1)]: value };
}

/** @param {File} file */
async function base64(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 32_768) text += String.fromCharCode(...bytes.subarray(at, at + 32_768));
  return btoa(text);
}
