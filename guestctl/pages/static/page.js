/**
 * The page around the timeline: sessions, tabs and details, shared by the live inspector and by files of traces.
 */
import { Desk } from "./desk.js";
import { Details } from "./details.js";
import { el, readable } from "./dom.js";
import { Faults } from "./faults.js";
import { LAYOUT } from "./layout.js";
import { initial, reduce } from "./reducer.js";
import { Sessions } from "./sessions.js";
import { adopt, BASE } from "./style.js";
import { Timeline } from "./timeline.js";
import { TryIt } from "./tryit.js";

const FLOOD = 100; // events in one message
const PAUSE = 150; // milliseconds

/** @typedef {HTMLElement & {update?: (state: import("./reducer.js").State, selected: number) => void}} Panel */

/**
 * Draw the page and return `receive`, which takes a message of the feed, and `report`, which shows the connection.
 */
export function inspector() {
  adopt(BASE);
  adopt(LAYOUT);
  let state = initial();
  let [selected, asked] = [-1, false];
  let drawnFor = initial().hello;
  /** @type {Panel[]} */
  let panels = [];
  const title = el("span", {});
  const status = el("span", { class: "status muted", role: "status" });
  const notice = el("p", { class: "notice", role: "status", hidden: true });
  const [sessions, timeline, side] = [
    new Sessions(),
    new Timeline(),
    el("section", { class: "side", "aria-label": "Details" }),
  ];
  const columns = el("main", { class: "columns" }, sessions, timeline, side);
  const heading = el("h1", {}, "guestctl inspector ", title);
  document.body.append(el("header", { class: "row" }, heading, el("span", { class: "grow" }), status), notice, columns);

  columns.addEventListener("choose", (event) => {
    selected = /** @type {CustomEvent<number>} */ (event).detail;
    show(0);
    draw();
  });
  columns.addEventListener("go", (event) => timeline.choose(/** @type {CustomEvent<number>} */ (event).detail));
  columns.addEventListener("session", (event) => {
    const session = /** @type {CustomEvent<string>} */ (event).detail;
    timeline.filter({ session });
    for (const panel of panels) if (panel instanceof Desk) panel.session(session);
  });

  /** Make the tabs for what the source can do. */
  function furnish() {
    const can = state.hello.can ?? [];
    const desk = new Desk(can.includes("agent"));
    /** @type {[string, Panel][]} */
    const tabs = [
      ["Details", new Details()],
      [can.includes("agent") ? "Agent desk" : "Conversation", desk],
    ];
    if (can.includes("faults")) tabs.push(["Faults", new Faults()]);
    if (can.includes("guest") && state.hello.guest) tabs.push(["Try it", new TryIt(state.hello.guest)]);
    panels = tabs.map(([, panel]) => panel);
    side.replaceChildren(...tabbed(tabs));
  }

  /** @param {number} index of a tab */
  function show(index) {
    /** @type {HTMLElement | undefined} */ (side.querySelectorAll("[role=tab]")[index])?.click();
  }

  function draw() {
    asked = false;
    const { instance, title: name = "" } = state.hello;
    if (instance !== drawnFor.instance) {
      drawnFor = state.hello;
      selected = -1;
      furnish();
    }
    title.replaceChildren(readable(name));
    document.title = name ? `${readable(name)} – guestctl` : "guestctl inspector";
    notice.hidden = state.missing === 0;
    notice.replaceChildren(
      `${state.missing.toLocaleString("en")} events are not shown: the page keeps only the newest ones.`,
    );
    sessions.update(state);
    timeline.update(state);
    for (const panel of panels) panel.update?.(state, selected);
  }

  return {
    /** @param {any} message */
    receive(message) {
      state = reduce(state, message);
      if (asked) return;
      asked = true;
      // In a flood, such as a long history, fewer pictures let it arrive sooner.
      if (message.events?.length > FLOOD) setTimeout(() => requestAnimationFrame(draw), PAUSE);
      else requestAnimationFrame(draw);
    },
    /**
     * @param {string} text
     * @param {string} tone
     */
    report(text, tone) {
      status.className = `status ${tone}`;
      status.replaceChildren(readable(text));
    },
  };
}

/**
 * Return a list of tabs and their panels.
 * @param {[string, HTMLElement][]} tabs
 */
function tabbed(tabs) {
  const panels = tabs.map(([, content], index) =>
    el("div", { role: "tabpanel", id: `panel-${index}`, "aria-labelledby": `tab-${index}` }, content),
  );
  const buttons = tabs.map(([name], index) =>
    el(
      "button",
      {
        type: "button",
        role: "tab",
        id: `tab-${index}`,
        "aria-controls": `panel-${index}`,
        click: () => choose(index),
      },
      name,
    ),
  );
  const choose = (/** @type {number} */ chosen) => {
    for (const [index, button] of buttons.entries()) {
      button.setAttribute("aria-selected", String(index === chosen));
      button.tabIndex = index === chosen ? 0 : -1;
      panels[index].hidden = index !== chosen;
    }
  };
  const list = el("div", { role: "tablist", "aria-label": "Panels" }, ...buttons);
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const now = buttons.findIndex((button) => button.tabIndex === 0);
    const next = (now + step + buttons.length) % buttons.length;
    choose(next);
    buttons[next].focus();
  });
  choose(0);
  return [list, ...panels];
}
