/**
 * Charts as SVG: bars by name, and lines over a number.
 *
 * Knows numbers and labels. Must not know what they measure. Each chart is one image for screen readers, described by
 * its title and a sentence of the caller; a page that needs the exact numbers shows them in a table as well.
 */
import { svg } from "./dom.js";

/** @typedef {{label: string, value: number, note?: string, tone?: "bad" | "warn" | ""}} Bar */
/** @typedef {{name: string, points: [number, number][]}} Series */
/** @typedef {(value: number) => string} Format */

const WIDTH = 640;

/**
 * @param {string} title
 * @param {string} about
 * @param {number} height
 * @param {import("./dom.js").Child[]} children
 */
function image(title, about, height, children) {
  const label = about ? `${title}: ${about}` : title;
  const box = { class: "chart", viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label };
  return svg("svg", box, ...children);
}

/**
 * Return round values from 0 to at least `most`, at most `count` + 1 of them.
 * @param {number} most
 * @param {number} [count]
 */
export function ticks(most, count = 5) {
  if (!(most > 0) || !Number.isFinite(most)) return [0, 1];
  const rough = most / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10) * power;
  const length = Math.ceil(most / step - 1e-9) + 1;
  return Array.from({ length }, (_, index) => Number((index * step).toPrecision(12)));
}

/**
 * Cut a text so that it fits next to its bar.
 * @param {string} text
 * @param {number} length
 */
function cut(text, length) {
  const characters = [...text];
  return characters.length <= length ? text : `${characters.slice(0, length - 1).join("")}…`;
}

/**
 * Return horizontal bars, one for each row, with the value or the note at its end.
 * @param {{title: string, about?: string, rows: Bar[], format?: Format, limit?: number}} options `limit`: a marked value
 */
export function barChart({ title, about = "", rows, format = String, limit }) {
  const [left, right, step] = [200, 90, 22];
  const most = Math.max(...rows.map((row) => row.value), limit ?? 0, 0) || 1;
  const x = (/** @type {number} */ value) => left + (Math.max(0, value) / most) * (WIDTH - left - right);
  const height = rows.length * step + 8;
  const parts = rows.flatMap((row, index) => {
    const y = index * step + 4;
    const width = Math.max(1, x(row.value) - left);
    return [
      svg("text", { x: left - 8, y: y + 14, "text-anchor": "end" }, cut(row.label, 30)),
      svg("rect", { class: `bar ${row.tone ?? ""}`, x: left, y: y + 2, rx: 3, height: 16, width }),
      svg("text", { class: "quiet", x: x(row.value) + 6, y: y + 14 }, row.note ?? format(row.value)),
    ];
  });
  if (limit !== undefined) parts.push(svg("line", { class: "limit", x1: x(limit), x2: x(limit), y1: 0, y2: height }));
  return image(title, about, height, parts);
}

/**
 * Return lines over a common x axis, with a legend.
 * @param {{title: string, about?: string, series: Series[], xFormat?: Format, yFormat?: Format, limit?: number}} options
 */
export function lineChart({ title, about = "", series, xFormat = String, yFormat = String, limit }) {
  const [left, top, bottom, height] = [60, 26, 24, 220];
  const points = series.flatMap((one) => one.points);
  const last = points.reduce((most, [value]) => Math.max(most, value), 0) || 1;
  const levels = ticks(points.reduce((most, [, value]) => Math.max(most, value), limit ?? 0));
  const most = levels[levels.length - 1];
  const x = (/** @type {number} */ value) => left + (value / last) * (WIDTH - left - 16);
  const y = (/** @type {number} */ value) => height - bottom - (value / most) * (height - top - bottom);
  const parts = levels.flatMap((level) => [
    svg("line", { class: "grid", x1: left, x2: WIDTH - 16, y1: y(level), y2: y(level) }),
    svg("text", { class: "quiet", x: left - 6, y: y(level) + 4, "text-anchor": "end" }, yFormat(level)),
  ]);
  for (const mark of ticks(last).filter((mark) => mark <= last))
    parts.push(svg("text", { class: "quiet", x: x(mark), y: height - 6, "text-anchor": "middle" }, xFormat(mark)));
  if (limit !== undefined)
    parts.push(svg("line", { class: "limit", x1: left, x2: WIDTH - 16, y1: y(limit), y2: y(limit) }));
  let at = left;
  for (const [index, one] of series.entries()) {
    const path = one.points.map(([px, py], point) => `${point ? "L" : "M"}${x(px).toFixed(1)} ${y(py).toFixed(1)}`);
    parts.push(svg("path", { class: `line s${index % 5}`, d: path.join("") || "M0 0" }));
    parts.push(svg("line", { class: `line s${index % 5}`, x1: at, x2: at + 16, y1: 9, y2: 9 }));
    parts.push(svg("text", { x: at + 22, y: 13 }, cut(one.name, 24)));
    at += 44 + Math.min(one.name.length, 24) * 7;
  }
  return image(title, about, height, parts);
}
