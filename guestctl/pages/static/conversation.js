/**
 * The conversation as the guest sees it: messages out of frames and answers, drawn as bubbles.
 *
 * Knows what messages of the APIs have in common: a text or contents, a direction, an id. Must not know their frames.
 */
import { decoded, textOf } from "./content.js";
import { clock, el, link, readable } from "./dom.js";

/**
 * @typedef {{from: "guest" | "service" | "event", name: string, text: string, content: any[], time: number, ids: string[]}} Bubble
 * @typedef {(item: {text: string, payload: string, type: string}) => void} Pick
 */

const MOST = 500; // bubbles

/** The messages of one session, in the order in which they arrived. */
export class Conversation {
  /** @type {Bubble[]} */
  bubbles = [];
  /** @type {Map<string, Bubble>} */
  #known = new Map();
  /** @type {string[]} */
  #sent = [];

  /** @param {import("./reducer.js").WireEvent} event */
  add(event) {
    if (!/^(frame_|request|response)/.test(event.kind)) return;
    const value = decoded(textOf(event));
    if (!value || typeof value !== "object") return;
    const from = event.kind === "request" && event.method === "POST" ? "guest" : "";
    if (event.kind === "frame_out" || (event.kind === "request" && !from)) {
      const text = value.message?.text ?? value.payload?.text ?? value.text;
      if (typeof text === "string") this.#sent.push(text);
      return;
    }
    for (const one of [value.body, value.message, value.payload, ...listed(value), value])
      if (one && typeof one === "object" && !Array.isArray(one)) this.message(one, event.time, from);
  }

  /**
   * Add a message, unless it is known.
   * @param {any} one
   * @param {number} arrived seconds since 1970
   * @param {string} [from]
   */
  message(one, arrived, from = "") {
    const ids = [one.id, one.messageId, one.correlationId].filter((id) => typeof id === "string" && id);
    const items = Array.isArray(one.content) ? one.content.filter(Boolean) : [];
    const content = items.filter((/** @type {any} */ item) => !item.buttonResponse);
    const said = one.text || items.find((/** @type {any} */ item) => item.buttonResponse)?.buttonResponse.text;
    const text = typeof said === "string" ? said : "";
    const event = Array.isArray(one.events) ? ended(one.events) : "";
    const known = ids.map((id) => this.#known.get(id)).find(Boolean);
    if (known) for (const id of ids) this.#known.set(id, known);
    if (known || !ids.length || (!text && !content.length && !event)) return;
    const time = Date.parse(one.timestamp ?? one.channel?.time) / 1000 || arrived;
    const who = event ? "event" : this.#from(one, from, text);
    /** @type {Bubble} */
    const bubble = { from: who, name: nameOf(one, who), text: event || text, content, time, ids };
    for (const id of ids) this.#known.set(id, bubble);
    this.bubbles.push(bubble);
    this.bubbles.sort((first, second) => first.time - second.time);
    if (this.bubbles.length > MOST) this.bubbles.shift();
  }

  /**
   * @param {any} one
   * @param {string} from
   * @param {string} text
   */
  #from(one, from, text) {
    const direction = String(one.direction ?? "").toLowerCase();
    if (from || direction) return from === "guest" || direction === "inbound" ? "guest" : "service";
    const index = this.#sent.indexOf(text); // an API without directions: it is the guest's if the guest sent it
    if (index >= 0) this.#sent.splice(0, index + 1);
    return index >= 0 ? "guest" : "service";
  }
}

/** @param {any} value */
function listed(value) {
  return [value.messages, value.entities].filter(Array.isArray).flat();
}

/** @param {any[]} events */
function ended(events) {
  const presence = events.map((event) => event?.presence?.type).find(Boolean);
  return { Disconnect: "The conversation was ended.", Clear: "The conversation was cleared." }[String(presence)] ?? "";
}

/**
 * @param {any} one
 * @param {string} who
 */
function nameOf(one, who) {
  if (who === "event") return "";
  const party = one.channel?.from ?? one.from ?? {};
  const name = party.name || party.nickname || party.firstName || party.role;
  const entity = { Human: "agent", Bot: "bot" }[String(one.originatingEntity)];
  return String(name || (who === "guest" ? "guest" : (entity ?? "service")));
}

/**
 * Return a bubble. `pick` makes its buttons work, for the guest of the page.
 * @param {Bubble} bubble
 * @param {Pick} [pick]
 */
export function drawn(bubble, pick) {
  const items = bubble.content.map((item) => drawnItem(item, pick));
  return el(
    "li",
    { class: `bubble ${bubble.from}` },
    bubble.name &&
      el("span", { class: "who" }, readable(bubble.name.slice(0, 80)), ` · ${clock(bubble.time).slice(0, 8)}`),
    el("span", { class: "text remote" }, readable(bubble.text.slice(0, 10_000))),
    items.length > 0 && el("div", { class: "row items" }, ...items),
  );
}

/**
 * @param {any} item
 * @param {Pick} [pick]
 * @returns {HTMLElement}
 */
function drawnItem(item, pick) {
  const type = String(item.contentType ?? "");
  const value = item[type.charAt(0).toLowerCase() + type.slice(1)] ?? item.generic ?? {};
  const button = (/** @type {any} */ one, /** @type {string} */ kind) => choiceOf(one ?? {}, kind, pick);
  if (type === "QuickReply") return button(value, "QuickReply");
  if (type === "Attachment") return link(value.url, `📎 ${value.filename ?? value.id ?? "file"}`);
  const cards = Array.isArray(value.cards) ? value.cards : [];
  const actions = Array.isArray(value.actions) ? value.actions : [];
  const title = value.title ?? value.text ?? value.introduction ?? "";
  return el(
    "div",
    { class: "card" },
    el("strong", { class: "remote" }, readable(String(title || type))),
    value.description && el("p", { class: "remote" }, readable(String(value.description))),
    ...cards.map((/** @type {any} */ card) => drawnItem({ contentType: "Card", card }, pick)),
    ...actions.map((/** @type {any} */ action) => button(action, type === "QuickReplyV2" ? "QuickReply" : "Button")),
  );
}

/**
 * @param {any} value
 * @param {string} type
 * @param {Pick} [pick]
 */
function choiceOf(value, type, pick) {
  const text = String(value.text ?? value.title ?? "");
  if (value.url) return link(value.url, text || undefined);
  const chosen = { text, payload: String(value.payload ?? text), type };
  if (!pick) return el("span", { class: "chip remote" }, readable(text));
  return el("button", { type: "button", class: "chip remote", click: () => pick(chosen) }, readable(text));
}
