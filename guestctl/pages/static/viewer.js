/** The inspector over events that the page itself contains, such as those of a trace. */
import { inspector } from "./page.js";
import { direction } from "./reducer.js";

/** @typedef {import("./reducer.js").WireEvent} WireEvent */

const { receive, report } = inspector();
const data = JSON.parse(document.getElementById("data")?.textContent ?? "{}");
receive({ type: "hello", instance: "file", source: "trace", can: [], ...data.hello });
receive({ type: "events", events: data.events ?? [] });
receive({ type: "sessions", sessions: counted(data.events ?? []) });
report("Recorded", "muted");

/** @param {WireEvent[]} events */
function counted(events) {
  /** @type {Map<string, {id: string, started: number, sent: number, received: number, sockets: number}>} */
  const found = new Map();
  for (const event of events) {
    const one = found.get(event.session) ?? {
      id: event.session,
      started: event.time,
      sent: 0,
      received: 0,
      sockets: 0,
    };
    found.set(event.session, one);
    one.sent += direction(event) === "out" ? 1 : 0;
    one.received += direction(event) === "in" ? 1 : 0;
    one.sockets += event.kind === "connect" ? 1 : 0;
  }
  return [...found.values()];
}
