/**
 * "Try it": a guest in the page, over `guest.js`, which is the sample for a widget of your own.
 */
import { Conversation, drawn } from "./conversation.js";
import { el, readable } from "./dom.js";
import { Guest } from "./guest.js";

/** @type {Record<string, string>} */
const STATES = {
  connecting: "Connecting…",
  ready: "Connected",
  "read-only": "The conversation has ended",
  closed: "Not connected",
};

export class TryIt extends HTMLElement {
  #guest;
  #conversation = new Conversation();
  #lastTyping = 0;
  #state = el("span", { role: "status", class: "muted grow" }, "Not connected");
  #toggle = el("button", { type: "button", click: () => this.#connectOrClose() }, "Start");
  #bubbles = el("ol", { class: "bubbles", tabindex: 0, "aria-label": "Messages of the guest" });
  #typing = el("p", { class: "muted", hidden: true }, "The agent is typing…");
  #text = el("input", {
    class: "grow",
    "aria-label": "Message of the guest",
    placeholder: "Write as a guest",
    autocomplete: "off",
  });
  #problem = el("p", { role: "status", class: "bad" });

  /** @param {{socket_url: string, deployment_id: string}} sandbox */
  constructor(sandbox) {
    super();
    this.#guest = new Guest(sandbox.socket_url, sandbox.deployment_id);
    const listen = (/** @type {string} */ name, /** @type {(detail: any) => void} */ act) =>
      this.#guest.addEventListener(name, (event) => act(/** @type {CustomEvent} */ (event).detail));
    listen("state", (state) => this.#changed(state));
    listen("typing", (on) => {
      this.#typing.hidden = !on;
    });
    listen("problem", (text) => this.#problem.replaceChildren(readable(text)));
    listen("message", (message) => {
      this.#conversation.message(message, Date.now() / 1000);
      this.#draw();
    });
  }

  connectedCallback() {
    const send = el("form", { class: "row" }, this.#text, el("button", { class: "main" }, "Send"));
    send.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.#text.value.trim()) return;
      if (this.#guest.state === "closed") this.#guest.connect();
      this.#guest.send(this.#text.value);
      this.#text.value = "";
    });
    this.#text.addEventListener("input", () => {
      if (Date.now() - this.#lastTyping < 5000) return;
      this.#lastTyping = Date.now();
      this.#guest.typing();
    });
    const about =
      "A web-messaging guest on this sandbox. Its module, static/guest.js, is a sample for your own widget.";
    const head = el("div", { class: "row" }, this.#state, this.#toggle);
    this.append(el("p", { class: "muted" }, about), head, this.#bubbles, this.#typing, send, this.#problem);
  }

  #connectOrClose() {
    if (this.#guest.state === "closed") this.#guest.connect();
    else this.#guest.close();
  }

  /** @param {string} state */
  #changed(state) {
    this.#state.replaceChildren(STATES[state]);
    this.#toggle.replaceChildren(state === "closed" ? "Start" : "Disconnect");
    if (state === "ready") this.#problem.replaceChildren();
  }

  #draw() {
    this.#typing.hidden = true;
    const last = this.#conversation.bubbles.at(-1);
    const pick = (/** @type {any} */ choice) => this.#guest.pick(choice);
    this.#bubbles.replaceChildren(
      ...this.#conversation.bubbles.map((one) => drawn(one, one === last ? pick : undefined)),
    );
    this.#bubbles.scrollTop = this.#bubbles.scrollHeight;
  }
}
customElements.define("gc-try-it", TryIt);
