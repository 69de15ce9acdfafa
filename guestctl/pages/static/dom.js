/**
 * Building blocks of every page: elements, safe links, readable texts and times.
 *
 * Knows the DOM. Must not know feeds, reports and protocols. Text from elsewhere only becomes text nodes.
 */

/** @typedef {Node | string | null | undefined | false} Child */
/** @typedef {((event: any) => void) | string | number | boolean | null | undefined} Value */

const SVG = "http://www.w3.org/2000/svg";
/** Attributes that could run or load something, or that the page's policy forbids. */
const REFUSED = /^(on.*|href|src.*|style|action|formaction|xlink:.*)$/i;
/** Characters that nobody sees, or that reorder a line. The joiners of emoji and of scripts stay. */
const INVISIBLE = /(?![\t\n\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/**
 * Set attributes and listeners (functions, named by their event) of an element, and append children.
 * @template {Element} E
 * @param {E} node
 * @param {Record<string, Value>} attributes
 * @param {Child[]} children
 * @returns {E}
 */
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (REFUSED.test(name)) throw new TypeError(`attribute ${name} is not set by name`);
    else if (value !== false && value !== null && value !== undefined)
      node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child || child === "") node.append(child);
  return node;
}

/**
 * Return an HTML element: `el("button", { type: "button", click: send }, "Send")`.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, Value>} [attributes]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/**
 * Return an SVG element.
 * @param {string} tag
 * @param {Record<string, Value>} [attributes]
 * @param {...Child} children
 * @returns {SVGElement}
 */
export function svg(tag, attributes = {}, ...children) {
  return /** @type {SVGElement} */ (fill(document.createElementNS(SVG, tag), attributes, children));
}

/**
 * Return a link if the address is http or https, else its text. The browser loads it only when somebody follows it.
 * @param {unknown} address
 * @param {string} [text] default: the address
 * @returns {HTMLElement}
 */
export function link(address, text = String(address)) {
  const parsed = typeof address === "string" && URL.canParse(address) ? new URL(address) : null;
  if (!parsed || !/^https?:$/.test(parsed.protocol)) return el("span", {}, readable(text));
  const found = el("a", { rel: "noopener noreferrer", target: "_blank", title: parsed.href }, readable(text));
  found.href = parsed.href;
  return found;
}

/**
 * Return a text in which invisible and reordering characters are written as escapes, such as \u{202e}.
 * @param {string} text
 */
export function readable(text) {
  return text.replace(INVISIBLE, (found) => `\\u{${found.codePointAt(0)?.toString(16)}}`);
}

/**
 * Return a time of day in local time, with milliseconds.
 * @param {number} time seconds since 1970
 */
export function clock(time) {
  const at = new Date(time * 1000);
  if (Number.isNaN(at.getTime())) return "–";
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  const milliseconds = String(at.getMilliseconds()).padStart(3, "0");
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${milliseconds}`;
}

/**
 * Return a time as ISO 8601 in UTC.
 * @param {number} time seconds since 1970
 */
export function stamp(time) {
  const at = new Date(time * 1000);
  return Number.isNaN(at.getTime()) ? "–" : at.toISOString();
}

/**
 * Return a length of time for people: "0.4 ms", "12 ms", "1.24 s", "2 min 3 s".
 * @param {number} seconds
 */
export function duration(seconds) {
  const milliseconds = seconds * 1000;
  if (milliseconds < 9.95) return `${Math.max(0, milliseconds).toFixed(1)} ms`;
  if (milliseconds < 999.5) return `${milliseconds.toFixed(0)} ms`;
  if (seconds < 59.995) return `${seconds.toFixed(2)} s`;
  return `${Math.floor(Math.round(seconds) / 60)} min ${Math.round(seconds) % 60} s`;
}

/**
 * Return a button that copies a text and then shows "Copied".
 * @param {string} label
 * @param {() => string} text
 */
export function copyButton(label, text) {
  const button = el("button", { type: "button", click: () => copy() }, label);
  async function copy() {
    let done = "Copied";
    try {
      await navigator.clipboard.writeText(text());
    } catch {
      done = "The browser refused to copy";
    }
    button.replaceChildren(done);
    announce(done);
    setTimeout(() => button.replaceChildren(label), 1500);
  }
  return button;
}

/** @type {HTMLElement | null} */
let live = null;

/**
 * Let screen readers say a text.
 * @param {string} text
 */
export function announce(text) {
  live ??= el("div", { class: "unseen", role: "status" });
  if (!live.isConnected) document.body.append(live);
  live.replaceChildren(text);
}
