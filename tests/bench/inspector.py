"""What the inspector costs the sandbox, and how soon a page has what passes."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen
from tempfile import TemporaryDirectory
from typing import Any

import websocket

from tests.bench.crowd import guests
from tests.bench.figures import Figure, Sample, Scale, side_by_side
from tests.bench.processes import bare, cpu_of, environment, guestctl, run, sandbox, serving, started
from tests.inspector.page import Page

#: Frames of one round trip: the guest's message, its echo and the bot's answer.
FRAMES = 3
#: Messages a second of the guest whose frames are timed.
RATE = 20.0


def cost(scale: Scale) -> Iterator[Figure]:
    """Round trips of many guests: with the page closed and with it open, compared with a sandbox without it."""
    with TemporaryDirectory() as place:
        environ = environment(Path(place) / "state")
        for name, aim, is_open in (("closed", 0.98, False), ("open", 0.85, True)):
            with sandbox(environ) as plain, sandbox(environ, "--ui") as shown, ExitStack() as stack:
                if is_open:
                    stack.enter_context(serving(bare("page", shown[0]["ui_url"]), environ))
                yield side_by_side(
                    f"inspector, page {name}: trips/s",
                    lambda: _trips(*shown, scale, environ),
                    lambda: _trips(*plain, scale, environ),
                    runs=scale.rounds,
                    aim=aim,
                    ceiling=False,
                    baseline="without --ui",
                    unit="/s",
                )


def _trips(found: Mapping[str, str], process: Popen[bytes], scale: Scale, environ: Mapping[str, str]) -> Sample:
    before = cpu_of(process.pid)
    with serving(guests(found, scale.guests, scale.trips, '"direction":"Outbound"'), environ) as (told, _):
        return Sample(float(told["second"]), cpu_of(process.pid) - before)


def delay(scale: Scale) -> Iterator[Figure]:
    """From the wire to the feed at a steady rate; and the time until a new page has a long history."""
    with TemporaryDirectory() as place:
        environ = environment(Path(place) / "state")
        with sandbox(environ, "--ui") as (found, _), serving(bare("page", found["ui_url"]), environ) as (_, page):
            _talk(found, scale.timed // 3)
            delays = sorted(1000 * one for one in _report(page, FRAMES * (scale.timed // 3))["delays"])
            for share, aim in ((0.5, 30), (0.99, 100)):
                found_delay = delays[int(len(delays) * share)]
                name = f"inspector, wire to feed: p{100 * share:.0f}"
                yield Figure(name, "aim", found_delay, aim, "ms", found_delay, aim, "more")
        with sandbox(environ, "--ui") as (found, process):
            events = min(50_000, FRAMES * scale.trips)
            with serving(guests(found, scale.guests, events // FRAMES, '"direction":"Outbound"'), environ):
                pass
            used = cpu_of(process.pid)
            with serving(bare("page", found["ui_url"]), environ) as (_, page):
                seconds = _report(page, events)["seconds"]
            note = f"{cpu_of(process.pid) - used:.1f} s of the sandbox's processor time"
            name = f"inspector, {events:,} events of history"
            yield Figure(name, "aim", seconds, 5, "s", seconds, 5, "more", note=note)


def _talk(found: Mapping[str, str], messages: int) -> None:
    """Be a guest who sends messages at a steady rate."""
    socket = websocket.create_connection(f"{found['socket_url']}?deploymentId={found['deployment_id']}", timeout=60)
    guest = {"token": str(uuid.uuid4())}
    socket.send(json.dumps({**guest, "action": "configureSession", "deploymentId": found["deployment_id"]}))
    begun = time.monotonic()
    for number in range(messages):
        time.sleep(max(0.0, begun + number / RATE - time.monotonic()))
        socket.send(json.dumps({**guest, "action": "onMessage", "message": {"type": "Text", "text": f"text {number}"}}))
    socket.close()


def desk(scale: Scale) -> Iterator[Figure]:
    """From "Send" on the desk to the guest's `listen`."""
    with TemporaryDirectory() as place:
        environ = environment(Path(place) / "state")
        with sandbox(environ, "--ui") as (found, _), Page(found["ui_url"]) as page:
            run(guestctl("session", "create", "--new"), environ)
            session = page.until_event(kind="session")["session"]
            with started(guestctl("listen", "-o", "jsonl"), environ) as listening:
                assert listening.stdout is not None
                page.until_event(kind="session")
                page.until_event(summary="SessionResponse")
                page.do("send", session=session, text="first")
                listening.stdout.readline()
                delays = []
                for number in range(max(10, scale.timed // 10)):
                    begun = time.perf_counter()
                    page.do("send", session=session, text=f"answer {number}")
                    listening.stdout.readline()
                    delays.append(1000 * (time.perf_counter() - begun))
        delays.sort()
        slowest, median = delays[int(len(delays) * 0.99)], delays[len(delays) // 2]
        note = f"median {median:.1f} ms"
        yield Figure("inspector, Send to listen: p99", "aim", slowest, 150, "ms", slowest, 150, "more", note=note)


def _report(page: Popen[bytes], events: int) -> dict[str, Any]:
    assert page.stdin is not None
    assert page.stdout is not None
    page.stdin.write(f"{events}\n".encode())
    page.stdin.flush()
    report: dict[str, Any] = json.loads(page.stdout.readline())
    return report
