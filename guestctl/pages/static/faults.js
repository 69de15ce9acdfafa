/**
 * The faults: each kind on or off, for the next N, with its counters.
 */
import { el, readable } from "./dom.js";
import { post } from "./feed.js";

/** @typedef {import("./reducer.js").FaultKind} FaultKind */
/** @typedef {import("./reducer.js").Armed} Armed */

export class Faults extends HTMLElement {
  /** @type {readonly FaultKind[]} */
  #kinds = [];
  /** @type {readonly Armed[]} */
  #armed = [];
  /** @type {Map<string, {toggle: HTMLButtonElement, counters: HTMLElement}>} */
  #rows = new Map();
  #list = el("ul", { class: "faults" });
  #result = el("p", { role: "status", class: "bad" });

  connectedCallback() {
    const clear = el("button", { type: "button", click: () => this.#post({ clear: true }) }, "Switch all off");
    const about = "A fault that is on affects every session of the sandbox. Leave “next” empty for no limit.";
    this.append(el("p", { class: "muted" }, about), this.#list, el("div", { class: "row" }, clear), this.#result);
  }

  /** @param {import("./reducer.js").State} state */
  update(state) {
    if (this.#kinds !== state.kinds) {
      this.#kinds = state.kinds;
      this.#rows.clear();
      this.#list.replaceChildren(...state.kinds.map((kind) => this.#row(kind)));
    } else if (this.#armed === state.armed) return;
    this.#armed = state.armed;
    for (const [kind, row] of this.#rows) {
      const armed = state.armed.filter((one) => one.kind === kind);
      row.toggle.setAttribute("aria-checked", String(armed.length > 0));
      row.counters.replaceChildren(...armed.map((one) => el("li", { class: "mono" }, counted(one))));
    }
  }

  /** @param {FaultKind} kind */
  #row(kind) {
    const id = `fault-${kind.kind}`;
    const next = el("input", { type: "number", min: 1, max: 1_000_000_000, placeholder: "∞", class: "short" });
    const keys = el("input", {
      placeholder: kind.keys.filter((key) => key !== "times").join(", "),
      class: "grow mono",
      spellcheck: "false",
    });
    const toggle = el("button", { type: "button", role: "switch", "aria-checked": "false", "aria-labelledby": id });
    toggle.addEventListener("click", () => {
      const on = toggle.getAttribute("aria-checked") === "true";
      if (on) return this.#off(kind.kind);
      const parts = [next.value && `times=${next.value}`, keys.value.trim()].filter(Boolean);
      return this.#post({ add: [parts.length ? `${kind.kind}:${parts.join(",")}` : kind.kind] });
    });
    const counters = el("ul", {});
    this.#rows.set(kind.kind, { toggle, counters });
    const options = el("div", { class: "row" }, label("next", kind.kind, next), label("keys", kind.kind, keys));
    const name = el("span", { class: "grow", id }, el("strong", { class: "mono" }, kind.kind), ` ${kind.about}`);
    return el("li", {}, el("div", { class: "row head" }, toggle, name), options, counters);
  }

  /** @param {string} kind */
  async #off(kind) {
    for (const one of this.#armed) if (one.kind === kind) await this.#post({ remove: one.spec });
  }

  /** @param {object} body */
  async #post(body) {
    let text = "";
    await post("api/faults", body).catch((error) => {
      text = error.message;
    });
    this.#result.replaceChildren(readable(text));
  }
}
customElements.define("gc-faults", Faults);

/** @param {Armed} one */
function counted(one) {
  const left = one.times_left === null ? "" : `, ${one.times_left} left`;
  return readable(`${one.spec}: fired ${one.fired} ${one.fired === 1 ? "time" : "times"}${left}`);
}

/**
 * @param {string} text
 * @param {string} kind
 * @param {HTMLElement} input
 */
function label(text, kind, input) {
  return el(
    "label",
    { class: text === "keys" ? "grow" : "" },
    el("span", {}, text, el("span", { class: "unseen" }, ` of ${kind}`)),
    input,
  );
}
