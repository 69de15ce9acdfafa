/**
 * The details of one event: raw and decoded side by side, headers, times, and texts to copy.
 */
import { copyButton, duration, el, link, readable, stamp } from "./dom.js";
import { curl, decoded, headersOf, textOf } from "./content.js";
import { direction, eventOf } from "./reducer.js";

/** @typedef {import("./reducer.js").WireEvent} WireEvent */

const MOST_TOKENS = 5_000; // of a JSON text that get a colour
const LONGEST = 20_000; // characters of a text that are shown; guestctl cuts them at 16 KiB
const LONGEST_DECODED = 60_000;
/** @type {Record<string, string>} */
const WAYS = { out: "guest → service", in: "service → guest" };
/** Members of an event that have a place of their own. */
const SHOWN =
  /^(n|time|kind|session|summary|partner|took|text|body|headers|request_headers|shortened|url|method|guest)$/;
const TOKEN = /("(?:[^"\\]|\\.)*")(\s*:)?|\b(?:true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

export class Details extends HTMLElement {
  /** @type {WireEvent | null} */
  #event = null;

  connectedCallback() {
    this.#draw(null, null);
  }

  /**
   * Show the event with this number.
   * @param {import("./reducer.js").State} state
   * @param {number} number
   */
  update(state, number) {
    const event = eventOf(state, number);
    if (event === this.#event) return;
    this.#event = event;
    this.#draw(event, eventOf(state, event?.partner));
  }

  /**
   * @param {WireEvent | null} event
   * @param {WireEvent | null} partner
   */
  #draw(event, partner) {
    if (!event) {
      this.replaceChildren(el("p", { class: "muted" }, "Select a frame or a request in the timeline."));
      return;
    }
    const text = textOf(event);
    const lengths = [...Object.values(event.shortened ?? {}).map(Number), text.length > LONGEST ? text.length : 0];
    const shortened = Math.max(...lengths);
    const parts = [
      el("h3", { class: "remote" }, readable(event.summary.slice(0, 1000))),
      el("div", { class: "row" }, ...this.#actions(event, partner, text)),
      facts(event),
      ...["request_headers", "headers"].map((name) => headerTable(name, event[name])),
      shortened > 0 &&
        el("p", { class: "notice" }, `Shortened: the text has ${shortened.toLocaleString("en")} characters.`),
      text && panes(text),
    ];
    this.replaceChildren(...parts.filter((part) => part instanceof Node));
  }

  /**
   * @param {WireEvent} event
   * @param {WireEvent | null} partner
   * @param {string} text
   */
  #actions(event, partner, text) {
    const go = () => this.dispatchEvent(new CustomEvent("go", { detail: partner?.n, bubbles: true }));
    return [
      event.kind === "request" && copyButton("Copy as curl", () => curl(event)),
      text && copyButton(event.kind.startsWith("frame") ? "Copy frame" : "Copy body", () => text),
      copyButton("Copy event", () => JSON.stringify(event, null, 2)),
      partner &&
        el("button", { type: "button", click: go }, partner.n > event.n ? "Go to the answer" : "Go to the request"),
    ];
  }
}
customElements.define("gc-details", Details);

/** @param {WireEvent} event */
function facts(event) {
  const way = WAYS[direction(event)];
  /** @type {[string, Node | string | false | undefined][]} */
  const rows = [
    ["time", stamp(event.time)],
    ["kind", way ? `${event.kind}, ${way}` : event.kind],
    ["took", event.took !== undefined && duration(event.took)],
    ["url", event.url && el("span", {}, event.method && `${readable(String(event.method))} `, link(event.url))],
    ["session", readable(event.session)],
  ];
  for (const [name, value] of Object.entries(event))
    if (!SHOWN.test(name) && value !== null && value !== "")
      rows.push([readable(name), readable(typeof value === "string" ? value : JSON.stringify(value))]);
  return el(
    "dl",
    { class: "facts" },
    ...rows.flatMap(([name, value]) => (value ? [el("dt", {}, name), el("dd", { class: "remote" }, value)] : [])),
  );
}

/**
 * @param {string} name
 * @param {unknown} headers
 */
function headerTable(name, headers) {
  const rows = headersOf(headers);
  if (!rows.length) return null;
  const cells = rows.map(([key, value]) =>
    el("tr", {}, el("th", { scope: "row" }, readable(key)), el("td", { class: "remote" }, readable(String(value)))),
  );
  const title = name === "headers" ? "Headers" : "Headers of the request";
  return el(
    "details",
    { class: "headers" },
    el("summary", {}, `${title} (${rows.length})`),
    el("table", {}, el("tbody", {}, ...cells)),
  );
}

/** @param {string} text */
function panes(text) {
  const value = decoded(text, true);
  const raw = el("pre", { tabindex: 0, class: "remote", "aria-label": "Raw" }, readable(text.slice(0, LONGEST)));
  const pane = (/** @type {string} */ title, /** @type {Node} */ content) =>
    el("section", {}, el("h3", {}, title), content);
  if (typeof value !== "object" || value === null) return el("div", { class: "panes" }, pane("Raw", raw));
  const pretty = JSON.stringify(value, null, 2).slice(0, LONGEST_DECODED);
  const tree = el("pre", { tabindex: 0, class: "remote", "aria-label": "Decoded" }, ...coloured(pretty));
  return el("div", { class: "panes" }, pane("Decoded", tree), pane("Raw", raw));
}

/**
 * Return a JSON text in pieces with colours.
 * @param {string} text
 * @returns {(Node | string)[]}
 */
function coloured(text) {
  const pieces = [];
  let done = 0;
  for (const found of text.matchAll(TOKEN)) {
    if (pieces.length > MOST_TOKENS) break;
    const tone = found[2] ? "key" : found[1] ? "string" : "literal";
    pieces.push(
      text.slice(done, found.index),
      el("span", { class: tone }, readable(found[1] ?? found[0])),
      found[2] ?? "",
    );
    done = found.index + found[0].length;
  }
  return [...pieces, readable(text.slice(done))];
}
