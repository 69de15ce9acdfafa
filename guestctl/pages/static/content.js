/**
 * What an event contains, as texts: the body, its decoded form, a command that repeats a request. Pure.
 */

/** @typedef {import("./reducer.js").WireEvent} WireEvent */

/**
 * Return the request as a command for a shell.
 * @param {WireEvent} event
 */
export function curl(event) {
  const quoted = (/** @type {unknown} */ text) => `'${String(text).replaceAll("'", "'\\''")}'`;
  const parts = [`curl -X ${quoted(event.method)} ${quoted(event.url)}`];
  for (const [name, value] of headersOf(event.headers))
    if (!/^(content-length|host|connection|accept-encoding)$/i.test(name))
      parts.push(`-H ${quoted(`${name}: ${value}`)}`);
  const body = textOf(event);
  if (body) parts.push(`--data-raw ${quoted(body)}`);
  return parts.join(" \\\n  ");
}

/**
 * Return the text of a frame or of a body.
 * @param {WireEvent} event
 */
export function textOf(event) {
  const content = event.text ?? event.body ?? "";
  return typeof content === "string" ? content : JSON.stringify(content);
}

/**
 * Return what a JSON text means, or undefined. With `deep`, JSON texts inside of it are decoded as well.
 * @param {string} text
 * @param {boolean} [deep]
 * @returns {any}
 */
export function decoded(text, deep = false) {
  const inner = (/** @type {string} */ _, /** @type {unknown} */ value) =>
    typeof value === "string" && /^\s*[[{]/.test(value) ? (decoded(value, true) ?? value) : value;
  try {
    return JSON.parse(text, deep ? inner : undefined);
  } catch {
    return undefined;
  }
}

/**
 * @param {unknown} headers an object, or a list of pairs
 * @returns {[string, unknown][]}
 */
export function headersOf(headers) {
  if (Array.isArray(headers)) return headers;
  return headers && typeof headers === "object" ? Object.entries(headers) : [];
}
