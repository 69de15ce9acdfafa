"""Many readers of a relay while connections break and the relay is killed: each has every message once and in order."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from guestctl.sandbox.server import Sandbox
from tests.cli.conftest import Front
from tests.relay.processes import READERS, EventReader, Reader, RelayProcess, flood, relaying, sockets
from tests.sandbox.stranger import Control

COUNT = 300
TEXTS = [f"message {n}" for n in range(COUNT)]


def read_all(relay: RelayProcess, kind: str, away: tuple[threading.Event, threading.Event] | None) -> list[str]:
    """Return the texts that a reader gets. With `away` it leaves after message 100, and returns at the second event."""
    make, last = READERS[kind], "first"
    texts: list[str] = []
    while not texts or texts[-1] != TEXTS[-1]:
        reader = make(relay, f"?after={last}&kinds=message,gap")
        for id_, record in reader:
            assert record["kind"] == "message", record
            texts.append(record["text"])
            last = str(id_)
            if record["text"] == TEXTS[100] and away is not None:
                away[0].set()
                break
            if record["text"] == TEXTS[-1]:
                break
        reader.close()
        if away is not None and texts[-1] != TEXTS[-1]:
            assert away[1].wait(60)
    return texts


def test_twenty_readers_five_of_them_away_and_four_resets(sandbox: Sandbox, front: Front) -> None:
    with relaying(front) as relay, ThreadPoolExecutor(20) as pool:
        states = iter(EventReader(relay, "?after=last&kinds=connection"))
        returned = threading.Event()
        aways = [(threading.Event(), returned) for _ in range(5)]
        kinds = itertools.cycle(READERS)
        absent = [pool.submit(read_all, relay, next(kinds), away) for away in aways]
        present = [pool.submit(read_all, relay, next(kinds), None) for _ in range(15)]
        for part in range(5):
            flood(sandbox, TEXTS[part * 60 : part * 60 + 60])
            if part == 1:
                for left, _ in aways:
                    assert left.wait(60)
            if part < 4:
                Control(sandbox)("POST", "/disconnect", code=1006)
                next(record for _, record in states if record["state"] == "live")
        returned.set()
        for future in (*absent, *present):
            assert future.result(60) == ["hello", *TEXTS]
        assert sockets(sandbox) == 1


def test_kills_of_the_relay_lose_and_repeat_nothing(sandbox: Sandbox, front: Front) -> None:
    """A reader that returns after each kill has every message once, and another one reads the same from the log."""
    texts: list[str] = []
    last = "first"
    for part in range(5):
        with relaying(front) as relay:
            flood(sandbox, TEXTS[part * 60 : part * 60 + 60])
            wanted = TEXTS[part * 60 + 30]
            for id_, text in messages(EventReader(relay, f"?after={last}")):
                texts.append(text)
                last = id_
                if text == wanted:
                    break
            relay.stop(signal.SIGKILL)
    with relaying(front) as relay:
        for _, text in messages(EventReader(relay, f"?after={last}")):
            texts.append(text)
            if text == TEXTS[-1]:
                break
        again = []
        for _, text in messages(EventReader(relay, "?after=first")):
            again.append(text)
            if text == TEXTS[-1]:
                break
    assert texts == again == ["hello", *TEXTS]


def messages(reader: Reader) -> Iterator[tuple[str, str]]:
    """Yield the id and the text of each message. No gap may come."""
    for id_, record in reader:
        assert record["kind"] == "message", record
        yield str(id_), record["text"]
