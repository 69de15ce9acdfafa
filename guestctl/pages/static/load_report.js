/**
 * The report of `guestctl load --html`: objectives, times, counts, and how they developed.
 *
 * Knows the record `load` (`guestctl schema load`) with its slots. Must not know the network: the data is in the page.
 */
import { lineChart } from "./chart.js";
import { duration, el, readable } from "./dom.js";
import { adopt, BASE } from "./style.js";

/** @typedef {any} Data the record, whose members Python's types describe */
/** @typedef {import("./dom.js").Child} Child */

const STYLE = `
body { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.375rem; } h2 { margin: 1.75rem 0 0.5rem; } .panel { background: var(--surface); border: 1px solid var(--line);
border-radius: 8px; padding: 0.75rem 1rem; overflow-x: auto; } th, td { padding: 0.2rem 1.25rem 0.2rem 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; } .two { display: grid; gap: 1rem; }
@media (min-width: 60rem) { .two { grid-template-columns: 1fr 1fr; } } .notice { margin-top: 1rem; }
`;

/** What each time is measured from, and to. */
const TIMES = /** @type {Record<string, string>} */ ({
  connect: "from the first packet to the open socket",
  create: "until the service has confirmed a new session",
  accepted: "from writing a message to its echo or answer",
  reply: "from the moment when the message should have been sent to the first reply",
  last_reply: "from the same moment to the last reply of the turn",
});
const COUNTS = ["failed", "unanswered", "in_doubt", "rejected", "throttled", "reconnects", "gaps", "lost"];
COUNTS.push("duplicates", "swapped", "errors");
const STATISTICS = ["min", "mean", "p50", "p90", "p95", "p99", "p99_9", "max"];

/** @param {string} name */
const words = (name) => name.replace("p99_9", "p99.9").replaceAll("_", " ");
/** @param {number | null} seconds */
const shown = (seconds) => (seconds === null ? "–" : duration(seconds));
/** @param {string} title @param {...Child} children */
const section = (title, ...children) => el("section", {}, el("h2", {}, title), ...children);
/** @param {Child[]} children */
const panel = (...children) => el("div", { class: "panel" }, ...children);

/**
 * Return a table. The cells after the first of each row are numbers.
 * @param {string[]} heads
 * @param {Child[][]} rows
 */
function table(heads, rows) {
  const kind = (/** @type {number} */ index) => ({ class: index ? "number" : null });
  const head = el("tr", {}, ...heads.map((text, index) => el("th", { scope: "col", ...kind(index) }, text)));
  const body = rows.map((cells) => el("tr", {}, ...cells.map((cell, index) => el("td", kind(index), cell))));
  return el("table", {}, el("thead", {}, head), el("tbody", {}, ...body));
}

/** @param {Data} run */
function verdict(run) {
  if (!run.complete) return ["bad", "Not complete: a worker of the test is gone"];
  if (run.stopped === "throttled") return ["bad", "Stopped: the service throttled the test"];
  const missed = run.objectives.filter((/** @type {Data} */ one) => !one.met).length;
  if (missed) return ["bad", `${missed} of ${run.objectives.length} objectives missed`];
  if (run.stopped) return ["warn", "Interrupted"];
  return run.objectives.length ? ["good", "Every objective was met"] : ["", "Load test"];
}

/** @param {Data} one an objective */
function objective(one) {
  const time = /^(connect|create|accepted|reply|last_reply)\b/.test(one.objective);
  const share = one.objective.endsWith("%") && one.value !== null;
  const value = time ? shown(one.value) : share ? `${Number((one.value * 100).toPrecision(4))} %` : (one.value ?? "–");
  const mark = one.met ? el("span", { class: "good" }, "✓ met") : el("span", { class: "bad" }, "✗ missed");
  return [readable(one.objective), String(value), mark];
}

/** Return the charts of the slots. @param {Data} run */
function charts(run) {
  const rows = run.slots;
  const line = (/** @type {string} */ name, /** @type {string} */ key, scale = 1) => ({
    name,
    points: rows
      .filter((/** @type {Data} */ row) => row[key] !== null)
      .map((/** @type {Data} */ row) => [row.at, row[key] * scale]),
  });
  const xFormat = (/** @type {number} */ value) => (value < 100 ? `${value} s` : duration(value));
  const rate = 1 / run.slot;
  const options = [
    {
      title: "Time to the first reply",
      series: [line("p50", "p50"), line("p95", "p95"), line("p99", "p99")],
      yFormat: duration,
    },
    { title: "Guests", series: [line("guests", "guests")] },
    { title: "Turns per second", series: [line("turns", "turns", rate), line("failed", "failed", rate)] },
    {
      title: "Throttled, lost, reconnects",
      series: [line("throttled", "throttled"), line("lost", "lost"), line("reconnects", "reconnects")],
    },
  ];
  return options.map((one) =>
    section(one.title, panel(lineChart({ xFormat, about: "over the time of the test", ...one }))),
  );
}

/** Return the whole distribution of the times. @param {Data} run */
function distribution(run) {
  const series = Object.entries(run.distributions).map(([name, points]) => ({
    name: words(name),
    // 0 is the median of nothing, 1 is 90 %, 2 is 99 %, and so on.
    points: /** @type {[number, number][]} */ (points).map(
      ([percent, seconds]) =>
        /** @type {[number, number]} */ ([Math.log10(100 / Math.max(0.001, 100 - percent)), seconds]),
    ),
  }));
  const xFormat = (/** @type {number} */ value) => `${Number((100 - 100 / 10 ** value).toFixed(3))} %`;
  return section("Distribution", panel(lineChart({ title: "Time by percentile", series, xFormat, yFormat: duration })));
}

/** @param {Data} run */
function show(run) {
  const [tone, title] = verdict(run);
  const facts = [
    readable(run.script),
    `${run.guests} guests`,
    duration(run.seconds),
    `${run.turns_per_second.toFixed(1)} turns per second`,
  ];
  facts.push(`guestctl ${run.version}`, `${run.finished.slice(0, 19).replace("T", " ")} UTC`);
  const times = Object.entries(run.times).map(([name, found]) => [
    el("span", { title: TIMES[name] }, words(name)),
    String(found.count),
    ...STATISTICS.map((statistic) => shown(found[statistic])),
  ]);
  const counted = ["conversations", "passed", "not_passed", "unfinished", "turns", "messages", ...COUNTS];
  const failures = run.failures.map((/** @type {Data} */ one) => [readable(one.what), String(one.count)]);
  document.body.append(
    el("header", {}, el("h1", { class: tone || null }, title), el("p", { class: "muted" }, facts.join(" · "))),
    el(
      "main",
      {},
      run.objectives.length > 0 &&
        section("Objectives", panel(table(["Objective", "Measured", ""], run.objectives.map(objective)))),
      section("Times", panel(table(["", "Count", ...STATISTICS.map(words)], times))),
      el("div", { class: "two" }, ...charts(run), distribution(run)),
      section(
        "Counts",
        panel(
          table(
            ["", "Count"],
            counted.map((name) => [words(name), String(run[name])]),
          ),
        ),
      ),
      failures.length > 0 && section("What went wrong", panel(table(["", "Count"], failures))),
    ),
  );
}

adopt(BASE + STYLE);
show(JSON.parse(document.getElementById("data")?.textContent ?? ""));
