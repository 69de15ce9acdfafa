/**
 * The report of `guestctl check --html`: the summary, and each scenario with its steps, conversation and traffic.
 *
 * Knows the record of a run (`guestctl schema check-run`) with the details of its scenarios. Must not know the network:
 * the data is in the page.
 */
import { barChart } from "./chart.js";
import { duration, el, readable, svg } from "./dom.js";
import { adopt, BASE } from "./style.js";

/** @typedef {any} Data a part of the record */
/** @typedef {import("./dom.js").Child} Child */

/** The verdicts: a sign, the name and the tone. */
const VERDICTS = /** @type {Record<string, string[]>} */ ({
  passed: ["✓", "Passed", "good"],
  failed: ["✗", "Failed", "bad"],
  undecided: ["?", "Undecided", "warn"],
  customer_failed: ["⚑", "Customer failed", "warn"],
  error: ["!", "Error", "bad"],
});
const NOT_RUN = ["○", "Not run", "muted"];

const STYLE = `
body { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.375rem; line-height: 1.25; } h2 { margin: 1.75rem 0 0.5rem; overflow-wrap: anywhere; } h3 { margin-bottom: 0.4rem; }
nav.row { margin-top: 1rem; } nav input { flex: 1 1 12rem; max-width: 22rem; }
.tag, .pill { border: 1px solid var(--line); border-radius: 99px; padding: 0 0.5rem; font-size: 0.75rem; }
.pill { border-color: var(--edge); display: inline-block; margin: 0.3rem 0.3rem 0 0; } .tag { align-self: center; color: var(--muted); }
.mark { display: inline-block; white-space: nowrap; font-weight: 600; } .mark > i { font-style: normal; display: inline-block; min-width: 1.2em; text-align: center; }
.panel, .scenario { background: var(--surface); border: 1px solid var(--line); border-radius: 8px; }
.panel { padding: 0.75rem 1rem; margin-top: 1.5rem; overflow-x: auto; } .notice { margin-top: 1rem; }
.scenario { margin: 0.4rem 0; border-left: 4px solid var(--tone); } .is-good { --tone: var(--good); } .is-bad { --tone: var(--bad); } .is-warn { --tone: var(--warn); }
.scenario > summary { display: flex; flex-wrap: wrap; gap: 0.25rem 0.75rem; padding: 0.5rem 0.75rem; list-style: none; }
.scenario > summary:hover { background: var(--raised); }
summary { cursor: pointer; } summary .name { flex: 1 1 14rem; font-weight: 600; } summary .mark { min-width: 9.5rem; }
.time { font-variant-numeric: tabular-nums; color: var(--muted); white-space: nowrap; }
.body { border-top: 1px solid var(--line); padding: 0.9rem 1rem 1rem; display: grid; gap: 1.2rem; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem 2rem; align-items: start; }
.two > *, .body > * { min-width: 0; } .list { padding-left: 1.5rem; list-style: decimal; }
.why { border-radius: 8px; background: var(--raised); border-left: 3px solid var(--tone); padding: 0.7rem 0.9rem; display: grid; gap: 0.7rem; }
.why .head { font-weight: 600; color: var(--tone); white-space: pre-wrap; }
.box { background: var(--surface); border: 1px solid var(--line); border-radius: 6px; padding: 0.5rem 0.7rem; } .box + .box { margin-top: 0.4rem; }
.steps li { display: grid; grid-template-columns: 1.2rem 1fr auto; gap: 0 0.5rem; padding: 0.2rem 0.4rem; border-radius: 4px; }
.steps .chart { grid-column: 2 / 4; height: 3px; margin: 0.15rem 0; background: var(--raised); border-radius: 2px; }
.steps li.stop { background: var(--raised); border: 1px solid var(--tone); }
blockquote { margin: 0.4rem 0 0; padding: 0.2rem 0.7rem; border-left: 3px solid var(--service); }
.wire summary { display: grid; grid-template-columns: 4.6rem 1rem 5rem 1fr; gap: 0.4rem; padding: 0.15rem 0; }
.wire .line { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; } .wire pre { background: var(--raised); padding: 0.5rem 0.7rem; }
.bubble { max-width: 92%; }
.chart-box { max-width: 42rem; margin-top: 0.75rem; }
@media (max-width: 36rem) { body { padding: 1rem 0.75rem 3rem; } summary .name { flex-basis: 100%; order: 1; } }
@media print {
  nav.row, section:has(> .wire), .box details { display: none; } body { padding: 0; max-width: none; } * { print-color-adjust: exact; }
  .bubble, .box, .steps li, summary { break-inside: avoid; } summary, h2, h3 { break-after: avoid; }
}`;
/** @param {string | undefined} verdict */
const about = (verdict) => VERDICTS[verdict ?? ""] ?? NOT_RUN;
/** @param {number} count @param {string} word */
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
/** Return an element by tag and classes, such as "p.muted". @param {string} spec @param {...Child} children */
function h(spec, ...children) {
  const [tag, ...names] = spec.split(".");
  return /** @type {HTMLElement} */ (el(/** @type {"div"} */ (tag), { class: names.join(" ") || null }, ...children));
}
/** Return text from elsewhere. @param {unknown} text @param {string} [more] */
const remote = (text, more = "") => el("span", { class: `remote ${more}`, dir: "auto" }, readable(String(text ?? "")));
/** @param {number | undefined} at */
const time = (at) => h("span.time", at === undefined ? "" : `${at.toFixed(3)} s`);
/** @param {string | undefined} verdict @param {string} [text] */
function mark(verdict, text) {
  const [sign, name, tone] = about(verdict);
  return h(`span.mark.${tone}`, el("i", { "aria-hidden": "true" }, sign), text ?? name);
}
/** Return a list that may be absent. @param {Data} value @returns {Data[]} */
const list = (value) => value ?? [];
/** @param {string} title @param {...Child} children */
const section = (title, ...children) => h("section", h("h3", title), ...children);
/** Return what a message offers besides its text. @param {Data} line */
const extras = (line) => [
  ...list(line.content).map((text) => h("div.muted", remote(text))),
  ...list(line.files).map((name) => h("div", h("span.muted", "File: "), remote(name))),
  ...list(line.options).map((option) => remote(option, "pill")),
];

/** Return one message or remark of a conversation. @param {Data} line @param {boolean} wrong */
function bubble(line, wrong) {
  if (!line.who) return h("li.bubble.event", time(line.at), " ", remote(line.text));
  const who = h("span.who", remote(line.who), " · ", time(line.at), wrong && " · not what was expected");
  const classes = `${line.who === "guest" ? ".guest" : ""}${wrong ? ".failed" : ""}`;
  return h(`li.bubble${classes}`, who, h("div.text", remote(line.text)), ...extras(line));
}

/** Return a reply that came instead of the expected one. @param {Data} line @param {string} how */
function reply(line, how) {
  const unmet = list(line.unmet).map((one) => h("div.bad", "✗ ", remote(one)));
  const text = h("div", line.who && h("span.muted", remote(line.who), ": "), remote(line.text));
  return h("div.box", h("div.time", `${line.at.toFixed(3)} s${how}`), text, ...extras(line), ...unmet);
}

/** Return why a scenario did not pass. @param {Data} one @param {Data} trouble */
function why(one, { message, line, step, expected, came, late, missing, error }) {
  const replies = [
    ...list(came).map((each) => reply(each, "")),
    ...list(late).map((each) => reply(each, ", too late")),
  ];
  const absent = list(missing).map((text) => h("div.box.bad", "missing: ", remote(text)));
  return h(
    "section.why",
    h("div", h("div.head", remote(message)), h("p.muted", one.meaning)),
    h("pre", remote(`${one.script}:${line}${step ? `  ${step}` : ""}`)),
    expected !== null &&
      h(
        "div.two",
        section("Expected", h("div.box", remote(expected)), ...absent),
        section("Came", ...(replies.length ? replies : [h("div.box.muted", "Nothing came.")])),
      ),
    error &&
      h("p", h("code", error.code), h("span.muted", ` (exit ${error.exit})`), error.hint && " · ", remote(error.hint)),
  );
}

/** Return the judgement on one criterion, with the messages that prove it. @param {Data} one */
function judged(one) {
  const votes = list(one.votes).map(({ verdict, problem, why }) =>
    h(
      "li",
      h("strong", remote(verdict || "no verdict")),
      problem && h("span.bad", " does not count: ", remote(problem)),
      " ",
      remote(why),
    ),
  );
  const quotes = list(one.quoted).map((line) =>
    h("blockquote", h("span.muted", remote(line.who), " · ", time(line.at), " "), remote(line.text)),
  );
  const statement = h(
    "p",
    mark(one.decision),
    " ",
    one.never && h("strong", "must never happen: "),
    remote(one.criterion),
  );
  return h(
    "div.box",
    statement,
    one.why && h("p.muted", remote(one.why)),
    ...quotes,
    h("details", h("summary", plural(votes.length, "vote")), h("ol.list", ...votes)),
  );
}

/** @param {string | undefined} verdict @returns {"bad" | "warn" | ""} */
const barTone = (verdict) => (verdict === "passed" ? "" : about(verdict)[2] === "bad" ? "bad" : "warn");

/** Return a step, with a bar for when it ran. @param {Data} one @param {Data} step */
function stepRow(one, { verdict, teardown, text, at = 0, seconds }) {
  const [sign, name, tone] = about(verdict);
  const icon = el("span", { class: tone, role: "img", "aria-label": name }, sign);
  const words = h(`span.mono${verdict ? "" : ".muted"}`, teardown && "teardown: ", remote(text));
  const spent = h("span.time", seconds === undefined ? "" : duration(seconds));
  const whole = Math.max(one.seconds, 0.001);
  const [x, width] = [Math.min(99.4, (at / whole) * 100), Math.max(0.6, ((seconds ?? 0) / whole) * 100)];
  const box = { class: "chart", viewBox: "0 0 100 3", preserveAspectRatio: "none", "aria-hidden": "true" };
  const chart = svg("svg", box, svg("rect", { class: `bar ${barTone(verdict)}`, x, width, height: 3 }));
  return h(verdict && verdict !== "passed" ? "li.stop" : "li", icon, words, spent, verdict && chart);
}

/** @param {unknown} value */
function pretty(value) {
  try {
    return JSON.stringify(typeof value === "string" ? JSON.parse(value) : value, null, 1);
  } catch {
    return String(value);
  }
}

/** Return one frame or request. @param {Data} event */
function wireRow({ at, kind, summary, text, body, ...rest }) {
  const out = /^(request|connect|frame_out)$/.test(kind) || rest.direction === "out";
  const parts = text !== undefined ? [text] : [rest, body].filter((part) => part);
  const arrow = el("span", { role: "img", "aria-label": out ? "sent" : "received" }, out ? "→" : "←");
  return h(
    "details",
    h("summary", time(at), arrow, remote(kind.replace(/_.*/, ""), "muted"), remote(summary, "line")),
    h("pre", remote(parts.map(pretty).join("\n\n"))),
  );
}

/** Return everything about a scenario. @param {Data} one */
function body(one) {
  const trouble = one.trouble;
  const key = (/** @type {Data} */ line) => `${line.at} ${line.id} ${line.text}`;
  const wrong = new Set([...list(trouble?.came), ...list(trouble?.late)].map(key));
  const lines = list(one.transcript).map((line) => bubble(line, wrong.has(key(line))));
  const ids = Object.entries(one.ids ?? {}).map(
    ([name, value]) => value && h("li", h("span.muted", `${name} `), remote(value, "mono")),
  );
  const attempts = list(one.attempted).map((each) =>
    h("li", mark(each.verdict), " ", h("span.time", duration(each.seconds)), " ", remote(each.reason)),
  );
  const steps = list(one.steps).map((step) => stepRow(one, step));
  const conversation = section(
    "Conversation",
    lines.length ? h("ol.bubbles", ...lines) : h("p.muted", "No message was sent."),
  );
  return h(
    "div.body",
    trouble && why(one, trouble),
    one.judged && section("Judge", ...list(one.judged).map(judged)),
    h("div.two", h("div", steps.length > 0 && section("Steps", h("ol.steps", ...steps))), conversation),
    one.wire && section("Traffic since the guest's last action", h("div.wire", ...list(one.wire).map(wireRow))),
    attempts.length > 1 && section("Attempts", h("ol.list", ...attempts)),
    one.remarks && section("Remarks", ...list(one.remarks).map((text) => h("p", remote(text)))),
    ids.length > 0 && section("Identifiers", h("ul", ...ids)),
    one.model && h("p.muted", one.model),
  );
}

/** @param {string} label @param {() => void} click */
const button = (label, click) => el("button", { type: "button", click }, label);

/** Return a scenario that builds its details when it is opened, because there may be hundreds. @param {Data} one */
function scenario(one) {
  const name = h("span.name", remote(one.scenario), one.repetition && h("span.muted", ` run ${one.repetition}`));
  const tags = [...(one.attempts > 1 ? [`${one.attempts} attempts`] : []), ...list(one.tags)];
  const spent = h("span.time", one.attempts ? duration(one.seconds) : "not started");
  const head = h("summary", mark(one.verdict), name, ...tags.map((tag) => remote(tag, "tag")), spent);
  const node = el("details", { class: `scenario is-${about(one.verdict)[2]}` }, head);
  const build = () => node.childElementCount === 1 && node.append(body(one));
  node.addEventListener("toggle", () => node.open && build());
  return { one, node, build, text: [one.scenario, ...tags].join(" ").toLowerCase() };
}

/** Return what chooses scenarios. @param {ReturnType<typeof scenario>[]} shown @param {() => void} changed */
function filters(shown, changed) {
  const fits = (/** @type {string} */ key, /** @type {string} */ verdict) =>
    key === "all" || key === verdict || (key === "open" && verdict !== "passed");
  const label = "Filter by name or tag";
  const search = el("input", { type: "search", "aria-label": label, placeholder: label, input: () => apply(chosen) });
  /** @type {Map<string, HTMLElement>} */
  const buttons = new Map();
  for (const key of ["all", "open", ...Object.keys(VERDICTS)]) {
    const count = shown.filter(({ one }) => fits(key, one.verdict)).length;
    const name = `${{ all: "All", open: "Not passed" }[key] ?? about(key)[1]} ${count}`;
    if (count || key === "all")
      buttons.set(
        key,
        button(name, () => apply(key)),
      );
    if (VERDICTS[key]) buttons.get(key)?.replaceChildren(mark(key, name));
  }
  let chosen = "";
  function apply(/** @type {string} */ key) {
    chosen = key;
    const words = search.value.toLowerCase();
    for (const { one, node, text } of shown) node.hidden = !fits(key, one.verdict) || !text.includes(words);
    for (const [name, node] of buttons) node.setAttribute("aria-pressed", String(name === key));
    changed();
  }
  const setAll = (/** @type {boolean} */ open) => {
    for (const { node } of shown) node.open = node.hidden ? node.open : open;
  };
  const all = [button("Open all", () => setAll(true)), button("Close all", () => setAll(false))];
  return { apply, node: el("nav", { class: "row", "aria-label": "Filter" }, ...buttons.values(), search, ...all) };
}

/** @param {Data} run */
function show(run) {
  const shown = list(run.scenarios).map(scenario);
  const bad = shown.filter(({ one }) => one.verdict !== "passed");
  const groups = [...new Set(shown.map(({ one }) => one.script))].map((script) => {
    const own = shown.filter(({ one }) => one.script === script).map(({ node }) => node);
    return { node: h("section", h("h2", remote(script)), ...own), own };
  });
  const none = h("p.panel", "No scenario matches the filter.");
  const filter = filters(shown, () => {
    for (const { node, own } of groups) node.hidden = own.every((one) => one.hidden);
    none.hidden = groups.some(({ node }) => !node.hidden);
  });
  const slowest = shown.map(({ one }) => one).sort((a, b) => b.seconds - a.seconds);
  const rows = slowest
    .slice(0, 10)
    .map((one) => ({ label: readable(one.scenario), value: one.seconds, tone: barTone(one.verdict) }));
  const rates = list(run.pass_rates).map((line) => h("p", remote(line)));
  const chart = h("div.chart-box", barChart({ title: "Duration of scenarios", rows, format: duration }));
  document.body.append(
    h("header", h(bad.length ? "h1.bad" : "h1.good", run.headline), h("p.muted", run.facts.join(" · "))),
    filter.node,
    h(
      "main",
      run.note && h("p.notice", run.note),
      rates.length > 0 && h("div.panel", section("Pass rates", ...rates)),
      ...groups.map(({ node }) => node),
      none,
      rows.length > 1 && h("div.panel", section("Longest scenarios", chart)),
    ),
  );
  filter.apply(bad.length ? "open" : "all");
  for (const { node } of shown.length === 1 ? shown : bad.slice(0, 5)) node.open = true;
  // What is closed does not appear on paper.
  addEventListener("beforeprint", () => {
    for (const { node, build } of shown) if (!node.hidden) node.open = build() || true;
  });
}

adopt(BASE + STYLE);
show(JSON.parse(document.getElementById("data")?.textContent ?? ""));
