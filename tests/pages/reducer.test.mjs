// What the inspector makes of the feed's messages.
import assert from "node:assert/strict";
import { test } from "node:test";
import { direction, eventOf, initial, reduce, select } from "../../guestctl/pages/static/reducer.js";

const ALL = { session: "", direction: "", group: "", text: "" };
const event = (n, kind, members = {}) => ({
  n,
  time: n / 10,
  kind,
  session: "s",
  socket: 1,
  summary: kind,
  ...members,
});
const fed = (...events) => reduce(initial(), { type: "events", events });
const rows = (state, filter) => select(state, { ...ALL, ...filter }, null).rows;
const frozen = (value) => {
  for (const part of Object.values(value)) if (part && typeof part === "object" && !Object.isFrozen(part)) frozen(part);
  return Object.freeze(value);
};

test("a request and its answer know each other and the time between", () => {
  const state = fed(
    event(1, "request", { exchange: 7 }),
    event(2, "request", { exchange: 8 }),
    event(5, "response", { exchange: 7 }),
  );
  assert.deepEqual([eventOf(state, 1).partner, eventOf(state, 5).partner], [5, 1]);
  assert.ok(Math.abs(eventOf(state, 5).took - 0.4) < 1e-9);
  assert.equal(eventOf(state, 2).partner, undefined);
});

test("a request without a response is paired with its loss", () => {
  const state = fed(event(1, "request", { exchange: 7 }), event(2, "lost", { exchange: 7 }));
  assert.equal(eventOf(state, 2).partner, 1);
});

test("a frame is paired with the first frame of its socket that repeats its tracing id", () => {
  const text = '{"action":"onMessage","tracingId":"a"}';
  const state = fed(
    event(1, "frame_out", { text }),
    event(2, "frame_in", { text: '{"tracingId": "b"}' }),
    event(3, "frame_in", { text, socket: 2 }),
    event(4, "frame_in", { text: '{"body":{"messageId":"x"},"tracingId":"a"}' }),
    event(5, "frame_in", { text }),
  );
  assert.deepEqual(
    state.events.map((one) => one.partner),
    [4, undefined, undefined, 1, undefined],
  );
});

test("connections and pings are paired", () => {
  const state = fed(
    event(1, "connect"),
    event(2, "upgrade", { status: 101 }),
    event(3, "ping", { direction: "out" }),
    event(4, "ping", { direction: "in" }),
    event(5, "pong", { direction: "in" }),
    event(6, "pong", { direction: "out" }),
  );
  assert.deepEqual(
    state.events.map((one) => one.partner),
    [2, 1, 5, 6, 3, 4],
  );
});

test("a session that becomes known moves the earlier events of its socket", () => {
  const early = { session: "socket 1" };
  const state = fed(
    event(1, "connect", early),
    event(2, "connect", { session: "socket 2", socket: 2 }),
    event(3, "frame_out", { ...early, text: "{}" }),
    event(4, "session", { session: "abc" }),
    event(5, "frame_in", { session: "abc", text: "{}" }),
  );
  assert.deepEqual(rows(state, { session: "abc" }), [1, 3, 5]);
  assert.deepEqual(rows(state, {}), [1, 2, 3, 5]);
});

test("the label of a session that becomes known is no session", () => {
  let state = reduce(initial(), { type: "sessions", sessions: [{ id: "socket 1" }, { id: "requests" }] });
  state = reduce(state, {
    type: "events",
    events: [event(1, "connect", { session: "socket 1" }), event(2, "session", { session: "abc" })],
  });
  assert.deepEqual([...state.sessions.keys()], ["requests"]);
});

test("a socket that changes its session leaves the events of the first one", () => {
  const state = fed(event(1, "frame_out", { session: "a" }), event(2, "session", { session: "b" }));
  assert.equal(eventOf(state, 1).session, "b");
  const later = reduce(state, {
    type: "events",
    events: [event(3, "frame_in", { session: "b" }), event(4, "session", { session: "c" })],
  });
  assert.equal(later.events.filter((one) => one.session === "c").length, 4);
});

test("the filter takes session, direction, kind and text, in any case and in any language", () => {
  const state = fed(
    event(1, "request", { summary: "GET /a", exchange: 1 }),
    event(2, "response", { summary: "200", body: { found: "Ärger" }, exchange: 1 }),
    event(3, "frame_in", { text: "price: (5+5)*2", session: "t" }),
    event(4, "ping", { direction: "out" }),
    event(5, "closed"),
  );
  assert.deepEqual(rows(state, { session: "t" }), [3]);
  assert.deepEqual(rows(state, { direction: "out" }), [1, 4]);
  assert.deepEqual(rows(state, { direction: "in" }), [2, 3]);
  assert.deepEqual(
    ["frames", "requests", "connections", "pings"].map((group) => rows(state, { group })),
    [[3], [1, 2], [5], [4]],
  );
  assert.deepEqual(
    ["get /A", "äRGER", "(5+5)*2", " ", "no such"].map((text) => rows(state, { text })),
    [[1], [2], [3], [1, 2, 3, 4, 5], []],
  );
  assert.deepEqual(
    ["\\", "[", "a|b", "\ud800"].map((text) => rows(state, { text })),
    [[], [], [], []],
  );
});

test("a selection grows by new events only, and notices moved ones", () => {
  let looks = 0;
  const kind = () => {
    looks += 1;
    return "frame_in";
  };
  const counted = (n) => Object.defineProperty(event(n, ""), "kind", { get: kind, enumerable: true });
  const filter = { ...ALL, direction: "in" };
  const state = fed(...Array.from({ length: 50 }, (_, index) => counted(index)));
  const first = select(state, filter, null);
  assert.equal(select(state, filter, first), first);
  looks = 0;
  const more = reduce(state, { type: "events", events: [event(60, "frame_in")] });
  assert.equal(select(more, filter, first).rows.at(-1), 60);
  assert.equal(looks, 0);
});

test("a reconnect repeats nothing, another source starts anew", () => {
  let state = reduce(initial(), { type: "hello", instance: "1", can: [] });
  const messages = [{ type: "events", events: [event(1, "connect"), event(2, "closed")] }, { type: "gone" }];
  for (const message of messages) state = reduce(state, message);
  state = reduce(state, { type: "hello", instance: "1", can: [] });
  assert.equal(state.gone, false);
  state = reduce(state, { type: "events", events: [event(1, "connect"), event(2, "closed"), event(3, "connect")] });
  assert.deepEqual(rows(state, {}), [1, 2, 3]);
  assert.deepEqual(rows(reduce(state, { type: "hello", instance: "2", can: [] }), {}), []);
});

test("sessions and faults replace what was known, gaps add up, unknown messages change nothing", () => {
  let state = reduce(initial(), { type: "sessions", sessions: [{ id: "a", sent: 1 }, { id: "b" }] });
  state = reduce(state, { type: "sessions", sessions: [{ id: "a", sent: 2 }] });
  assert.deepEqual([...state.sessions.values()], [{ id: "a", sent: 2 }, { id: "b" }]);
  const kinds = [{ kind: "drop", keys: [], about: "" }];
  state = reduce(state, { type: "faults", armed: [], kinds });
  state = reduce(state, { type: "faults", armed: [{ spec: "drop", kind: "drop", times_left: null, fired: 1 }] });
  assert.deepEqual([state.kinds, state.armed.length], [kinds, 1]);
  for (const count of [2, 3]) state = reduce(state, { type: "gap", count });
  assert.equal(state.missing, 5);
  assert.equal(reduce(state, { type: "news" }), state);
});

test("the oldest events are forgotten above the limits, and counted", () => {
  let state = initial();
  for (let start = 0; start < 120_000; start += 10_000) {
    const events = Array.from({ length: 10_000 }, (_, index) => event(start + index, "frame_in", { text: "x" }));
    state = reduce(state, { type: "events", events });
  }
  assert.ok(state.events.length <= 100_000);
  assert.equal(state.events.length + state.missing, 120_000);
  assert.equal(state.events.at(-1).n, 119_999);
  const long = Array.from({ length: 100 }, (_, index) =>
    event(200_000 + index, "frame_in", { text: "x".repeat(1_000_000) }),
  );
  assert.ok(reduce(state, { type: "events", events: long }).weight <= 48_000_000);
});

test("reducing changes no earlier state", () => {
  let state = frozen(fed(event(1, "request", { exchange: 1, session: "socket 1" })));
  const messages = [
    { type: "events", events: [event(2, "response", { exchange: 1 }), event(3, "session", { session: "x" })] },
    { type: "sessions", sessions: [{ id: "a" }] },
    { type: "faults", armed: [], kinds: [] },
    { type: "gone" },
  ];
  for (const message of messages) state = frozen(reduce(state, frozen(message)));
  assert.equal(state.events[0].session, "x");
});

test("directions are the guest's", () => {
  const kinds = {
    request: "out",
    connect: "out",
    frame_out: "out",
    response: "in",
    upgrade: "in",
    frame_in: "in",
    closed: "",
    lost: "",
  };
  for (const [kind, way] of Object.entries(kinds)) assert.equal(direction(event(1, kind)), way);
  assert.equal(direction(event(1, "close", { direction: "in" })), "in");
});
