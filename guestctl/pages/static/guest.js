/**
 * A small guest of web messaging, to start your own widget from. It needs nothing but a browser.
 *
 *     const guest = new Guest("wss://webmessaging.mypurecloud.de/v1", "0b7d2c5e-…");
 *     guest.addEventListener("message", (event) => show(event.detail));
 *     guest.connect();
 *     guest.send("Where is my parcel?");
 *
 * Events: `state` (the detail is one of "connecting", "ready", "read-only", "closed"), `message` (a message of either
 * side, each once, also those from before), `typing` (the agent types), `problem` (a text).
 * Numbers such as §5.1 are sections of docs/protocol/web-messaging.md.
 */

const FIRST_PAUSE = 1_000; // milliseconds before the first attempt to reconnect; doubled up to LONGEST_PAUSE
const LONGEST_PAUSE = 15_000;
const KEEP_ALIVE = 240_000; // the gateway closes sockets that are idle for ten minutes
const HEALTH_CHECK = "SGVhbHRoQ2hlY2tNZXNzYWdlSWQ="; // the constant that marks an answer to `echo` (§5.7)

export class Guest extends EventTarget {
  /** Everyone who has the token can read the conversation. Store it to continue the session later. */
  token;
  state = "closed";
  /** @type {WebSocket | null} */
  #socket = null;
  #address;
  #deployment;
  #pause = FIRST_PAUSE;
  #timer = 0;
  #alive = 0;
  /** @type {Set<string>} */
  #seen = new Set();
  /** @type {object[]} sent when the session is configured */
  #waiting = [];
  /** @type {Map<string, object>} requests without an answer, by tracing id */
  #unanswered = new Map();

  /**
   * @param {string} address of the socket: `wss://webmessaging.{domain}/v1`
   * @param {string} deploymentId
   * @param {string} [token] of an earlier session
   */
  constructor(address, deploymentId, token = crypto.randomUUID()) {
    super();
    this.#address = address;
    this.#deployment = deploymentId;
    this.token = token;
  }

  /** Open the socket and start or resume the session (§2, §5.1). */
  connect() {
    clearTimeout(this.#timer);
    const address = new URL(this.#address);
    address.searchParams.set("deploymentId", this.#deployment);
    this.#become("connecting");
    const socket = new WebSocket(address);
    this.#socket = socket;
    socket.onopen = () => this.#request("configureSession", { deploymentId: this.#deployment, startNew: false });
    socket.onmessage = (event) => this.#received(JSON.parse(event.data));
    socket.onclose = (event) => {
      if (this.#socket !== socket) return;
      this.#lost(event.code);
    };
  }

  /** Close the socket. The conversation goes on, and `connect` resumes it. */
  close() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(1000);
    this.#become("closed");
  }

  /**
   * Send a text (§5.4). It arrives as a `message` when the service has accepted it.
   * @param {string} text
   */
  send(text) {
    this.#message({ type: "Text", text });
  }

  /**
   * Answer a quick reply or the button of a card (§5.4).
   * @param {{text: string, payload: string, type: string}} choice `type`: QuickReply or Button
   */
  pick({ text, payload, type }) {
    const buttonResponse = { type, text, payload };
    this.#message({ type: "Structured", text, content: [{ contentType: "ButtonResponse", buttonResponse }] });
  }

  /** Let the agent see that the guest types. Call it at most every five seconds (§5.4). */
  typing() {
    const events = [{ eventType: "Typing", typing: { type: "On" } }];
    if (this.state === "ready") this.#request("onMessage", { message: { type: "Event", events } });
  }

  /** @param {object} message */
  #message(message) {
    if (this.state === "ready") this.#request("onMessage", { message });
    else this.#waiting.push(message);
  }

  /**
   * @param {string} action
   * @param {object} members
   * @param {string} [tracingId]
   */
  #request(action, members, tracingId = crypto.randomUUID()) {
    this.#unanswered.set(tracingId, members);
    this.#socket?.send(JSON.stringify({ action, token: this.token, tracingId, ...members }));
  }

  /** @param {any} frame §4.2 */
  #received({ class: kind, code, body, tracingId }) {
    const request = /** @type {any} */ (this.#unanswered.get(tracingId));
    this.#unanswered.delete(tracingId);
    if (kind === "SessionResponse") this.#configured(body);
    else if (kind === "StructuredMessage" && tracingId !== HEALTH_CHECK) this.#show(body);
    else if (kind === "JwtResponse") this.#history(body.jwt);
    else if (kind === "TooManyRequestsErrorMessage" && request?.message) {
      setTimeout(() => this.#message(request.message), body.retryAfter * 1000); // the service dropped it (§9)
    } else if (kind === "SessionExpiredEvent" || kind === "SessionClearedEvent") {
      this.token = crypto.randomUUID();
      this.close();
    } else if (kind === "ConnectionClosedEvent" || kind === "LogoutEvent") this.close();
    else if (code >= 300)
      this.#report(typeof body === "string" ? body : (body?.message ?? `the service answered ${code}`));
  }

  /** @param {any} session §6.1 */
  #configured(session) {
    this.#pause = FIRST_PAUSE;
    clearInterval(this.#alive);
    const message = { type: "Text", text: "ping" };
    this.#alive = setInterval(() => this.#request("echo", { message }, HEALTH_CHECK), KEEP_ALIVE);
    this.#become(session.readOnly ? "read-only" : "ready");
    if (!session.newSession) this.#request("getJwt", {}); // messages of the time without a socket are in history
    if (this.state === "ready") for (const waiting of this.#waiting.splice(0)) this.#message(waiting);
  }

  /**
   * Read the newest page of history (§7.1).
   * @param {string} jwt
   */
  async #history(jwt) {
    const address = new URL(
      "/api/v2/webmessaging/messages?pageNumber=1&pageSize=100",
      this.#address.replace(/^ws/, "http"),
    );
    address.hostname = address.hostname.replace(/^webmessaging\./, "api.");
    try {
      const answer = await fetch(address, { headers: { Authorization: `Bearer ${jwt}` } });
      const page = answer.ok ? await answer.json() : { entities: [] };
      for (const message of page.entities.reverse()) this.#show(message);
    } catch {
      this.#report("the history could not be read");
    }
  }

  /** @param {any} message §6.3 */
  #show(message) {
    const event = message.events?.[0];
    if (event?.eventType === "Typing") this.#emit("typing", event.typing.type === "On");
    if (event?.presence?.type === "Disconnect" && message.metadata?.readOnly === "true") this.#become("read-only");
    if (event?.eventType === "Typing" || this.#seen.has(message.id)) return;
    this.#seen.add(message.id);
    this.#emit("message", message);
  }

  /** @param {number} code §2.6 */
  #lost(code) {
    clearInterval(this.#alive);
    this.#become("closed");
    if (code === 1000) return;
    this.#report(`the connection was lost (${code}); the next attempt follows in ${this.#pause / 1000} s`);
    this.#timer = setTimeout(() => this.connect(), this.#pause * (0.75 + Math.random() / 2));
    this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE);
  }

  /** @param {string} state */
  #become(state) {
    this.state = state;
    this.#emit("state", state);
  }

  /** @param {string} text */
  #report(text) {
    this.#emit("problem", text);
  }

  /**
   * @param {string} name
   * @param {unknown} detail
   */
  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
