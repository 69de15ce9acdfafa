/**
 * The inspector's connection to guestctl: signing in, the feed, and the posts back.
 *
 * Knows the addresses below `/_inspector/`. Must not know what the messages mean, except for the end of the source.
 */

const PAUSES = [250, 500, 1000, 2000, 5000]; // milliseconds before the next attempt to connect

/**
 * Post JSON to guestctl. Throws an Error with its reason if it refuses.
 * @param {string} path below `/_inspector/`
 * @param {object} body
 */
export async function post(path, body) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, options).catch(() => null);
  if (!answer) throw new Error("guestctl does not answer");
  if (answer.ok) return;
  const refusal = await answer.json().catch(() => null);
  throw new Error(refusal?.error?.message ?? `guestctl answered ${answer.status}`);
}

/** Exchange the token in the address for a cookie, and remove it from the address. */
async function signIn() {
  const token = location.hash.slice(1);
  if (!token) return;
  history.replaceState(null, "", location.pathname + location.search);
  await post("login", { token });
}

/**
 * Read the feed until the source ends, and connect again when the connection breaks.
 * @param {(message: any) => void} receive
 * @param {(status: "connecting" | "live" | "lost" | "ended", reason: string) => void} report
 */
export function follow(receive, report) {
  let [attempt, ended, timer, refused] = [0, false, 0, ""];
  /** @type {WebSocket | null} */
  let socket = null;

  async function connect() {
    await signIn().catch((error) => {
      refused = error.message;
    });
    const address = new URL("feed", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    socket = new WebSocket(address);
    socket.onopen = () => {
      attempt = 0;
      refused = "";
      report("live", "");
    };
    socket.onmessage = (event) => {
      const message = JSON.parse(event.data);
      if (message.type === "gone") ended = true;
      receive(message);
    };
    socket.onclose = () => {
      report(ended ? "ended" : "lost", refused);
      if (!ended) timer = setTimeout(connect, PAUSES[Math.min(attempt++, PAUSES.length - 1)]);
    };
  }

  // A new address of this page that is pasted into the same tab only changes the fragment.
  addEventListener("hashchange", () => {
    if (!location.hash) return;
    clearTimeout(timer);
    if (socket) socket.onclose = null;
    socket?.close();
    ended = false;
    connect();
  });
  report("connecting", "");
  connect();
}
