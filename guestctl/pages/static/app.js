/** The inspector, live: the page over the feed of guestctl. */
import { follow } from "./feed.js";
import { inspector } from "./page.js";

const { receive, report } = inspector();
const STATUS = { connecting: "Connecting…", live: "Live", lost: "Not connected, trying again", ended: "Ended" };
const HINT = "If guestctl was started again, open the address that it printed.";

follow(receive, (status, reason) => {
  const text = status === "lost" ? `${STATUS.lost}. ${reason ? `${reason}. ` : ""}${HINT}` : STATUS[status];
  report(text, { live: "good", lost: "bad" }[String(status)] ?? "muted");
});
