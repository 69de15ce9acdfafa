// Logs in with the token of the address, and lists what the feed delivers.
const list = document.createElement("ol");
document.body.append(list);
const token = location.hash.slice(1);
if (token) {
  history.replaceState(null, "", location.pathname);
  await fetch("login", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token }),
  });
}
const feed = new WebSocket(new URL("feed", location.href.replace(/^http/, "ws")));
feed.onmessage = (message) => {
  const received = JSON.parse(message.data);
  if (received.type === "hello") document.title = received.title;
  for (const event of received.events ?? []) {
    const item = document.createElement("li");
    item.textContent = event.summary;
    list.append(item);
  }
};
