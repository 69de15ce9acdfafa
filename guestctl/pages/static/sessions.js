/**
 * The list of sessions, with their states and counters. Choosing one filters the timeline.
 */
import { el, readable } from "./dom.js";

/** @typedef {import("./reducer.js").Session} Session */

export class Sessions extends HTMLElement {
  #chosen = "";
  /** @type {Map<string, Session> | null} */
  #shown = null;
  #list = el("ul", { class: "sessions" });

  connectedCallback() {
    this.append(el("div", { class: "row bar" }, el("h2", {}, "Sessions")), this.#list);
  }

  /** @param {import("./reducer.js").State} state */
  update(state) {
    if (this.#shown === state.sessions) return;
    this.#shown = state.sessions;
    this.#draw();
  }

  /**
   * Choose a session; "" stands for all of them.
   * @param {string} id
   */
  choose(id) {
    this.#chosen = id;
    this.#draw();
    this.dispatchEvent(new CustomEvent("session", { detail: id, bubbles: true }));
  }

  #draw() {
    const focused = this.contains(document.activeElement) ? document.activeElement?.getAttribute("data-session") : null;
    const newest = [...(this.#shown?.values() ?? [])].sort((one, other) => (other.started ?? 0) - (one.started ?? 0));
    this.#list.replaceChildren(
      this.#entry(
        "",
        el("span", { class: "name" }, "All sessions"),
        el("span", { class: "muted" }, String(newest.length)),
      ),
      ...newest.map((one) => this.#entry(one.id, ...described(one))),
    );
    for (const node of this.querySelectorAll("button")) if (node.getAttribute("data-session") === focused) node.focus();
  }

  /**
   * @param {string} id
   * @param {...Node} parts
   */
  #entry(id, ...parts) {
    const chosen = { "aria-pressed": String(id === this.#chosen), "data-session": id, click: () => this.choose(id) };
    return el("li", {}, el("button", { type: "button", ...chosen }, ...parts));
  }
}
customElements.define("gc-sessions", Sessions);

/** @param {Session} session */
function described(session) {
  const { id, sockets = 0, messages, sent = 0, received = 0 } = session;
  const counters = [
    `${sockets} ${sockets === 1 ? "socket" : "sockets"}`,
    ...(messages === undefined ? [] : [`${messages} ${messages === 1 ? "message" : "messages"}`]),
    `${sent} sent, ${received} received`,
  ];
  return [
    el("span", { class: "name mono remote", title: readable(id) }, readable(id.slice(0, 40))),
    el("span", { class: `state ${sockets ? "good" : "muted"}` }, readable(session.state ?? "")),
    el("span", { class: "muted about" }, readable(session.api ?? "")),
    el("span", { class: "muted about" }, counters.join(" · ")),
  ];
}
