/**
 * The timeline: the events that the filter lets through, newest at the bottom.
 *
 * Only the rows in sight are in the document, so that 50,000 events cost no more than 50. A screen reader meets a list
 * box, whose options say their place in the whole list.
 */
import { clock, duration, el, readable } from "./dom.js";
import { direction, eventOf, initial, select } from "./reducer.js";

/** @typedef {import("./reducer.js").State} State */
/** @typedef {import("./reducer.js").WireEvent} WireEvent */

const ROW = 1.75; // rem
const SPARE = 10; // rows above and below what is in sight
const LONGEST = 300; // characters of a summary in a row

/** @type {Record<string, string>} */
const ARROWS = { out: "→", in: "←" };
/** @type {Record<string, string>} */
const SPOKEN = { out: "from the guest", in: "to the guest" };
/** @type {Record<string, string>} */
const KIND_NAMES = { frame_in: "frame", frame_out: "frame", lost: "no answer", upgrade: "upgraded" };

/** @param {WireEvent} event */
function fails(event) {
  return event.kind === "lost" || event.status >= 400 || (event.kind === "closed" && Boolean(event.error));
}

export class Timeline extends HTMLElement {
  #state = initial();
  #filter = { session: "", direction: "", group: "", text: "" };
  /** @type {import("./reducer.js").Selection} */
  #chosen = select(this.#state, this.#filter, null);
  /** @type {Map<number, {event: WireEvent, node: HTMLElement}>} */
  #drawn = new Map();
  #selected = -1;
  #follows = true;
  #atEnd = true;
  #seen = 0;
  #height = 28;

  #list = el("div", { class: "spacer", role: "presentation" });
  #port = el("div", {
    class: "viewport",
    id: "timeline",
    role: "listbox",
    tabindex: 0,
    "aria-label": "Frames and requests",
  });
  #empty = el("p", { class: "empty muted" });
  #count = el("span", { class: "muted count" });
  #newest = el("button", { type: "button", class: "newest main", hidden: true, click: () => this.#toEnd() });
  #pause = el(
    "button",
    { type: "button", "aria-pressed": "false", click: () => this.#setPaused(this.#follows) },
    "Pause",
  );

  connectedCallback() {
    const change = (/** @type {string} */ name) => (/** @type {any} */ event) =>
      this.filter({ [name]: event.target.value });
    const text = el("input", {
      type: "search",
      placeholder: "Filter by text",
      "aria-label": "Filter by text",
      input: change("text"),
    });
    const way = choice(
      "Direction",
      { "": "Both directions", out: "From the guest", in: "To the guest" },
      change("direction"),
    );
    const groups = {
      "": "All kinds",
      frames: "Frames",
      requests: "Requests",
      connections: "Connections",
      pings: "Pings",
    };
    this.#port.append(this.#list);
    this.append(
      el(
        "div",
        { class: "row bar" },
        el("h2", {}, "Timeline"),
        this.#count,
        el("span", { class: "grow" }),
        this.#pause,
      ),
      el("div", { class: "row bar", role: "search" }, text, way, choice("Kind", groups, change("group"))),
      el("div", { class: "frame" }, this.#port, this.#empty, this.#newest),
    );
    text.classList.add("grow");
    this.#port.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#port.addEventListener("keydown", (event) => this.#key(event));
    this.#port.addEventListener("click", (event) => {
      const row = /** @type {HTMLElement} */ (event.target).closest("[data-n]");
      if (row) this.choose(Number(row.getAttribute("data-n")));
    });
    new ResizeObserver(() => this.#resized()).observe(this.#port);
  }

  /**
   * Show a state.
   * @param {State} state
   */
  update(state) {
    const before = this.#chosen;
    this.#state = state;
    this.#chosen = select(state, this.#filter, before);
    const rows = this.#chosen.rows;
    const gone =
      before.filter === this.#filter && rows.length ? before.rows.findIndex((number) => number >= rows[0]) : 0;
    this.#list.style.height = `${rows.length * this.#height}px`;
    if (this.#follows && this.#atEnd) this.#port.scrollTop = this.#port.scrollHeight;
    else if (gone > 0) this.#port.scrollTop -= gone * this.#height;
    this.#draw();
  }

  /**
   * Change a part of the filter.
   * @param {Partial<import("./reducer.js").Filter>} change
   */
  filter(change) {
    this.#filter = { ...this.#filter, ...change };
    this.#chosen = select(this.#state, this.#filter, null);
    this.#seen = this.#chosen.rows.length;
    this.update(this.#state);
    if (eventOf(this.#state, this.#selected)) this.#reveal();
  }

  /**
   * Select an event and bring it into sight.
   * @param {number} number
   */
  choose(number) {
    this.#selected = number;
    this.#reveal();
    this.dispatchEvent(new CustomEvent("choose", { detail: number, bubbles: true }));
  }

  #reveal() {
    const index = this.#chosen.rows.indexOf(this.#selected);
    const [top, view] = [index * this.#height, this.#port.clientHeight];
    if (index < 0) return;
    if (top < this.#port.scrollTop) this.#port.scrollTop = top;
    else if (top + this.#height > this.#port.scrollTop + view) this.#port.scrollTop = top + this.#height - view;
    this.#scrolled(); // the event of the browser comes too late: the next update would return to the end
  }

  #resized() {
    this.#height = Number.parseFloat(getComputedStyle(document.documentElement).fontSize) * ROW;
    this.update(this.#state);
  }

  #scrolled() {
    const { scrollTop, clientHeight, scrollHeight } = this.#port;
    this.#atEnd = scrollTop + clientHeight >= scrollHeight - this.#height;
    this.#draw();
  }

  #toEnd() {
    this.#setPaused(false);
    this.#port.focus();
  }

  /** @param {boolean} paused */
  #setPaused(paused) {
    this.#follows = !paused;
    this.#pause.setAttribute("aria-pressed", String(paused));
    if (!paused) {
      this.#atEnd = true;
      this.#port.scrollTop = this.#port.scrollHeight;
    }
    this.#draw();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const rows = this.#chosen.rows;
    const page = Math.max(1, Math.floor(this.#port.clientHeight / this.#height) - 1);
    /** @type {Record<string, number>} */
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -rows.length, End: rows.length };
    const step = steps[event.key];
    if (!step || !rows.length || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    // Without a selection, the first key goes to the newest row, or to the oldest for Home.
    const now = rows.indexOf(this.#selected);
    const next = now < 0 && event.key !== "Home" ? rows.length - 1 : now + step;
    this.choose(rows[Math.max(0, Math.min(rows.length - 1, next))]);
  }

  #draw() {
    const rows = this.#chosen.rows;
    const port = this.#port;
    const from = Math.max(0, Math.floor(port.scrollTop / this.#height) - SPARE);
    const to = Math.min(rows.length, Math.ceil((port.scrollTop + port.clientHeight) / this.#height) + SPARE);
    const wanted = new Set(rows.slice(from, to));
    for (const [number, row] of this.#drawn) {
      if (wanted.has(number) && row.event === eventOf(this.#state, number)) continue;
      row.node.remove();
      this.#drawn.delete(number);
    }
    for (let index = from; index < to; index++) {
      const event = eventOf(this.#state, rows[index]);
      if (!event) continue;
      let node = this.#drawn.get(event.n)?.node;
      if (!node) {
        node = row(event);
        this.#drawn.set(event.n, { event, node });
        this.#list.append(node);
      }
      node.style.transform = `translateY(${index * this.#height}px)`;
      node.setAttribute("aria-posinset", String(index + 1));
      node.setAttribute("aria-setsize", String(rows.length));
      node.setAttribute("aria-selected", String(event.n === this.#selected));
      node.classList.toggle("partner", eventOf(this.#state, this.#selected)?.partner === event.n);
    }
    if (this.#drawn.has(this.#selected)) port.setAttribute("aria-activedescendant", `event-${this.#selected}`);
    else port.removeAttribute("aria-activedescendant");
    port.classList.toggle("all-sessions", !this.#filter.session);
    this.#report(rows.length);
  }

  /** @param {number} length */
  #report(length) {
    const held = !(this.#follows && this.#atEnd);
    if (!held || length < this.#seen) this.#seen = length;
    const fresh = length - this.#seen;
    this.#newest.hidden = !held || !length;
    this.#newest.replaceChildren(fresh ? `↓ ${fresh.toLocaleString("en")} new` : "↓ Newest");
    const total = this.#state.events.length;
    const filtered = Object.values(this.#filter).some((part) => part.trim());
    this.#count.replaceChildren((filtered ? `${length.toLocaleString("en")} of ` : "") + total.toLocaleString("en"));
    this.#empty.hidden = length > 0;
    this.#port.hidden = !length;
    this.#empty.replaceChildren(total ? "Nothing matches the filter." : "Nothing was sent or received yet.");
  }
}
customElements.define("gc-timeline", Timeline);

/**
 * @param {string} label
 * @param {Record<string, string>} options
 * @param {(event: any) => void} change
 */
function choice(label, options, change) {
  const parts = Object.entries(options).map(([value, text]) => el("option", { value }, text));
  return el("select", { "aria-label": label, change }, ...parts);
}

/** @param {WireEvent} event */
function row(event) {
  const way = direction(event);
  const tone = fails(event) ? "fails" : way;
  const summary = readable(event.summary.slice(0, LONGEST));
  const kind = KIND_NAMES[event.kind] ?? event.kind;
  const took = event.took !== undefined && way !== "out" ? duration(event.took) : "";
  const said = SPOKEN[way];
  return el(
    "div",
    { class: `entry ${tone}`, role: "option", id: `event-${event.n}`, "data-n": event.n },
    el("span", { class: "time" }, clock(event.time)),
    el("span", { class: "way", "aria-hidden": "true" }, ARROWS[way] ?? "·"),
    el("span", { class: "kind" }, kind, said && el("span", { class: "unseen" }, ` ${said} `)),
    el("span", { class: "session" }, readable(event.session.slice(0, 8))),
    el("span", { class: "summary remote" }, summary),
    el("span", { class: "took" }, took && el("span", { class: "unseen" }, " answered after "), took),
  );
}
