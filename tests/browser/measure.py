"""How fast the inspector is: `PYTHONPATH=.extras/browser python -m tests.browser.measure`. It prints one JSON object.

`visible_p50_ms` and `visible_p99_ms`: from a frame on the wire to the picture in the browser that contains it, at 20
round trips per second. `frames_50k_s`: until a page that opens has 50,000 frames; `heap_mib` is its heap then.
`desk_ms`: from the click on "Send" to the guest's frame, the median.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import websocket
from playwright.sync_api import sync_playwright

from tests.browser.feed_server import feeding, frame
from tests.inspector.page import serving

_ROUNDS = 300
#: Notes when each row is part of a picture. Rows are inserted just before the browser draws, and the task follows that.
_WATCH = """
window.drawn = {};
new MutationObserver((records) => setTimeout(() => {
  const now = performance.timeOrigin + performance.now();
  for (const record of records) for (const node of record.addedNodes)
    if (node.dataset?.n) window.drawn[node.dataset.n] ??= now / 1000;
})).observe(document, { childList: true, subtree: true });
"""


def visible_and_desk(browser: Any) -> dict[str, float]:
    times: dict[int, float] = {}

    def note(payload: str | bytes) -> None:
        for event in json.loads(payload).get("events", []):
            if event["kind"] in {"frame_in", "frame_out"}:
                times[event["n"]] = event["time"]

    with tempfile.TemporaryDirectory() as place, serving(Path(place), "--fast") as (_, ready):
        page = browser.new_page()
        page.on("websocket", lambda socket: socket.on("framereceived", note))
        page.add_init_script(_WATCH)
        page.goto(ready["ui_url"])
        page.locator(".status.good").wait_for()
        deployment = ready["deployment_id"]
        guest = websocket.create_connection(f"ws{ready['url'][4:]}/v1?deploymentId={deployment}", timeout=60)
        configure = {"action": "configureSession", "deploymentId": deployment, "token": "t-1"}
        guest.send(json.dumps(configure))
        message = {"action": "onMessage", "token": "t-1", "message": {"type": "Text", "text": "Where is my parcel?"}}
        for number in range(_ROUNDS):
            guest.send(json.dumps({**message, "tracingId": f"t-{number}"}))
            page.wait_for_timeout(50)
        drawn = page.evaluate("window.drawn")
        seconds = sorted(at - times[int(number)] for number, at in drawn.items() if int(number) in times)
        page.get_by_role("tab", name="Agent desk").click()
        desk = [_answer(page, guest, f"answer {number}") for number in range(20)]
        guest.close()
    return {
        "frames": len(seconds),
        "visible_p50_ms": round(1000 * seconds[len(seconds) // 2], 1),
        "visible_p99_ms": round(1000 * seconds[len(seconds) * 99 // 100], 1),
        "desk_ms": round(1000 * statistics.median(desk), 1),
    }


def _answer(page: Any, guest: websocket.WebSocket, text: str) -> float:
    page.get_by_label("Answer as the agent").fill(text)
    page.evaluate("document.querySelector('gc-desk button.main').onclick = () => { window.clicked = Date.now(); }")
    page.evaluate("document.querySelector('gc-desk button.main').click()")
    while text not in str(guest.recv()):
        pass
    return time.time() - float(page.evaluate("window.clicked")) / 1000


def fifty_thousand(browser: Any) -> dict[str, float]:
    text = json.dumps({"class": "StructuredMessage", "body": {"id": "x" * 32, "text": "Where is my parcel? " * 8}})
    with feeding() as feed:
        for start in range(0, 50_000, 500):
            feed.say({"type": "events", "events": [frame(n, f"{text}{n}") for n in range(start, start + 500)]})
        page = browser.new_page()
        began = time.monotonic()
        page.goto(feed.address)
        page.locator(".count", has_text="50,000").wait_for()
        seconds = time.monotonic() - began
        devtools = page.context.new_cdp_session(page)
        devtools.send("HeapProfiler.collectGarbage")
        heap = devtools.send("Runtime.getHeapUsage")["usedSize"] / (1 << 20)
    return {"frames_50k_s": round(seconds, 2), "heap_mib": round(heap, 1)}


def main() -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        print(json.dumps({**visible_and_desk(browser), **fifty_thousand(browser)}))


if __name__ == "__main__":
    main()
