/**
 * What the inspector knows: the feed's messages in, the state out. Pure, so that it is tested without a browser.
 *
 * Knows the feed's vocabulary. Must not know the DOM, sockets and the APIs' protocols.
 */

/**
 * @typedef {{n: number, time: number, kind: string, session: string, socket?: number | null, exchange?: number | null,
 *   summary: string, partner?: number, took?: number, [member: string]: any}} WireEvent
 *   `partner`: the number of its answer or its request; `took`: the seconds between them
 * @typedef {{id: string, api?: string | null, state?: string | null, sockets?: number, messages?: number,
 *   sent?: number, received?: number, requests?: number, started?: number | null}} Session
 * @typedef {{spec: string, kind: string, times_left: number | null, fired: number}} Armed
 * @typedef {{kind: string, keys: string[], about: string}} FaultKind
 * @typedef {{type?: string, source?: string, title?: string, can?: string[], instance?: string,
 *   guest?: {socket_url: string, deployment_id: string}}} Hello
 * @typedef {{hello: Hello, events: WireEvent[], open: Map<string, number>, starts: Map<number, number>, moves: number,
 *   weight: number, missing: number, sessions: Map<string, Session>, armed: Armed[], kinds: FaultKind[],
 *   gone: boolean}} State
 *   `open`: requests without an answer; `starts`: the first event of each socket; `moves`: how often events changed
 *   their session; `weight`: about how many characters the events have; `missing`: events that are not shown
 * @typedef {{session: string, direction: string, group: string, text: string}} Filter
 * @typedef {{filter: Filter, moves: number, first: number, last: number, rows: number[]}} Selection
 */

/** The page forgets its oldest events above these limits, so that a long run cannot fill the memory. */
const MOST_EVENTS = 100_000;
const MOST_CHARACTERS = 48_000_000;
const MOST_OPEN = 1_000;

/** @type {Record<string, string>} */
const GROUPS = {
  ...{ frame_in: "frames", frame_out: "frames", request: "requests", response: "requests", lost: "requests" },
  ...{ ping: "pings", pong: "pings" },
};
/** Names under which an answer repeats what its request contained, the surest one first. */
const REPEATED = ["tracingId", "correlationId", "messageId"].map(
  (name) => new RegExp(`"${name}" ?: ?"([^"\\\\]{1,99})"`),
);

/** @returns {State} */
export function initial() {
  return {
    ...{ hello: {}, events: [], open: new Map(), starts: new Map(), moves: 0, weight: 0, missing: 0 },
    ...{ sessions: new Map(), armed: [], kinds: [], gone: false },
  };
}

/**
 * Return the state after a message of the feed.
 * @param {State} state
 * @param {any} message
 * @returns {State}
 */
export function reduce(state, message) {
  switch (message.type) {
    case "hello": {
      // After a lost connection the same source sends its history again; another source starts anew.
      const kept = state.hello.instance === message.instance ? state : initial();
      return { ...kept, hello: message, gone: false };
    }
    case "events":
      return withEvents(state, message.events);
    case "sessions": {
      const sessions = new Map(state.sessions);
      for (const one of message.sessions) sessions.set(one.id, one);
      return { ...state, sessions };
    }
    case "faults":
      return { ...state, armed: message.armed, kinds: message.kinds ?? state.kinds };
    case "gap":
      return { ...state, missing: state.missing + message.count };
    case "gone":
      return { ...state, gone: true };
    default:
      return state;
  }
}

/**
 * @param {State} state
 * @param {WireEvent[]} incoming in the order of their numbers
 */
function withEvents(state, incoming) {
  const last = state.events.at(-1)?.n ?? -1;
  const fresh = incoming.filter((event) => event.n > last);
  if (!fresh.length) return state;
  const [open, starts] = [new Map(state.open), new Map(state.starts)];
  let { moves, weight, missing, sessions } = state;
  let events = state.events.slice();
  for (const event of fresh) {
    const socket = event.socket ?? -1;
    if (event.kind === "session") {
      const label = moved(events, starts.get(socket), event);
      if (label) moves += 1;
      if (sessions.has(label)) sessions = new Map([...sessions].filter(([id]) => id !== label));
    } else if (event.socket !== null && event.socket !== undefined && !starts.has(socket)) {
      starts.set(socket, event.n);
    }
    events.push(paired(events, open, event));
    weight += weightOf(event);
  }
  if (events.length > MOST_EVENTS || weight > MOST_CHARACTERS) {
    let cut = 0;
    while (events.length - cut > MOST_EVENTS * 0.9 || (weight > MOST_CHARACTERS * 0.9 && cut < events.length - 1))
      weight -= weightOf(events[cut++]);
    events = events.slice(cut);
    missing += cut;
  }
  return { ...state, events, open, starts, moves, weight, missing, sessions };
}

/** @param {WireEvent} event */
function weightOf(event) {
  const content = event.text ?? event.body ?? "";
  return 200 + event.summary.length + (typeof content === "string" ? content.length : 500);
}

/**
 * Give earlier events of a socket the session that it has turned out to be. Return the label that they had, or "".
 * @param {WireEvent[]} events changed in place: the copy that is being built
 * @param {number | undefined} start
 * @param {WireEvent} event
 */
function moved(events, start, event) {
  const first = start === undefined ? events.length : place(events, start);
  const label = events[first]?.session ?? event.session;
  if (label === event.session) return "";
  for (let index = first; index < events.length; index++)
    if (events[index].socket === event.socket && events[index].session === label)
      events[index] = { ...events[index], session: event.session };
  return label;
}

/**
 * Return an event that knows its request, and let the request know its answer.
 * @param {WireEvent[]} events changed in place
 * @param {Map<string, number>} open changed in place
 * @param {WireEvent} event
 */
function paired(events, open, event) {
  const { asks, key } = pairing(event);
  if (!key) return event;
  if (asks) {
    open.set(key, event.n);
    if (open.size > MOST_OPEN) open.delete(/** @type {string} */ (open.keys().next().value));
    return event;
  }
  const number = open.get(key);
  if (number === undefined) return event;
  open.delete(key);
  const index = place(events, number);
  const request = events[index];
  if (request?.n !== number) return event;
  const took = event.time - request.time;
  events[index] = { ...request, partner: event.n, took };
  return { ...event, partner: number, took };
}

/**
 * Return what an event shares with its partner, and whether it is the first of the two.
 * @param {WireEvent} event
 * @returns {{asks: boolean, key: string}}
 */
function pairing(event) {
  const { kind, exchange, socket } = event;
  switch (kind) {
    case "request":
    case "response":
    case "lost":
      return {
        asks: kind === "request",
        key: exchange === null || exchange === undefined ? "" : `exchange ${exchange}`,
      };
    case "connect":
    case "upgrade":
      return { asks: kind === "connect", key: `connect ${socket}` };
    case "ping":
      return { asks: true, key: `ping ${socket} ${event.direction}` };
    case "pong":
      return { asks: false, key: `ping ${socket} ${event.direction === "in" ? "out" : "in"}` };
    case "frame_out":
    case "frame_in": {
      const text = String(event.text ?? "");
      const shared = REPEATED.map((pattern) => pattern.exec(text)?.[1]).find(Boolean);
      return { asks: kind === "frame_out", key: shared ? `frame ${socket} ${shared}` : "" };
    }
    default:
      return { asks: false, key: "" };
  }
}

/**
 * Return the place of the event with this number, or where it would be.
 * @param {WireEvent[]} events
 * @param {number} number
 */
export function place(events, number) {
  let [low, high] = [0, events.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (events[middle].n < number) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * Return the event with this number, or null.
 * @param {State} state
 * @param {number | null | undefined} number
 */
export function eventOf(state, number) {
  if (number === null || number === undefined) return null;
  const found = state.events[place(state.events, number)];
  return found?.n === number ? found : null;
}

/**
 * Return where an event goes: "out" from the guest, "in" to the guest, "" neither.
 * @param {WireEvent} event
 */
export function direction(event) {
  if (["request", "connect", "frame_out"].includes(event.kind)) return "out";
  if (["response", "upgrade", "frame_in"].includes(event.kind)) return "in";
  return event.direction === "out" || event.direction === "in" ? event.direction : "";
}

/** @param {Filter} filter */
function matcher(filter) {
  const text = filter.text.trim();
  const pattern = text && new RegExp(text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "iu");
  return (/** @type {WireEvent} */ event) =>
    event.kind !== "session" &&
    (!filter.session || event.session === filter.session) &&
    (!filter.direction || direction(event) === filter.direction) &&
    (!filter.group || (GROUPS[event.kind] ?? "connections") === filter.group) &&
    (!pattern || [event.summary, event.text, event.body, event.url, event.kind].some((part) => has(pattern, part)));
}

/**
 * @param {RegExp} pattern
 * @param {unknown} part
 */
function has(pattern, part) {
  if (part === null || part === undefined) return false;
  return pattern.test(typeof part === "string" ? part : JSON.stringify(part));
}

/**
 * Return the numbers of the events that a filter lets through. `before` is the earlier result: if nothing but new
 * events came since, only they are looked at.
 * @param {State} state
 * @param {Filter} filter
 * @param {Selection | null} before
 * @returns {Selection}
 */
export function select(state, filter, before) {
  const [first, last] = [state.events[0]?.n ?? 0, state.events.at(-1)?.n ?? -1];
  const same = before?.filter === filter && before.moves === state.moves && before.last <= last;
  if (same && before.last === last && before.first === first) return before;
  const matches = matcher(filter);
  const start = same ? place(state.events, before.last + 1) : 0;
  const rows = same ? before.rows.filter((number) => number >= first) : [];
  for (let index = start; index < state.events.length; index++)
    if (matches(state.events[index])) rows.push(state.events[index].n);
  return { filter, moves: state.moves, first, last, rows };
}
