"""A sandbox that loses, repeats and swaps replies, and counts each of them.

Knows: the frames of web messaging, the socket of the sandbox. Must not know: how guestctl counts.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guestctl.sandbox.peer import SocketPeer
from guestctl.sandbox.server import Sandbox

#: The replies of one turn. Their times differ, because messages of the same millisecond have no order. The last reply
#: is what the guests wait for; it is delivered as it is.
BOT = """
otherwise: [{text: one, delay: 8ms}, {text: two, delay: 8ms}, {text: three, delay: 8ms}, {text: four, delay: 8ms},
            {text: end, delay: 8ms}]
"""
#: Each guest has four conversations, and then prints `finished` on stderr.
LOCUSTFILE = """
import sys

import gevent
from locust import task

from guestctl.load import GuestUser


class Customer(GuestUser):
    think = 0.05
    left = 4

    @task
    def conversation(self):
        while self.left:
            for text in ("first", "second"):
                self.ask(text, contains="end")
            self.left -= 1
            self.new_session()
        print("finished", file=sys.stderr, flush=True)
        gevent.sleep(3600)
"""


@contextmanager
def faulty_sandbox(path: Path, seed: int, *, closes: bool = True) -> Iterator[tuple[Sandbox, Counter[str]]]:
    """Start a sandbox that plants faults at random, and yield it with the number of each kind planted.

    `closes`: whether it answers a guest's close frame; otherwise it resets the connection.
    """
    planted: Counter[str] = Counter()
    chance = random.Random(seed)
    held: dict[int, tuple[str, str | None]] = {}
    send = SocketPeer.send

    def faulty(peer: SocketPeer, text: str, route: str | None = None) -> None:
        reply = _reply(text)
        if reply is None:
            send(peer, text, route)
            return
        waiting = held.pop(id(peer), None)
        kind = "good" if waiting or reply == "end" else chance.choice(["good", "lost", "duplicates", "swapped"])
        if kind == "swapped":
            held[id(peer)] = text, route
        elif kind != "lost":
            send(peer, text, route)
        if kind == "duplicates":
            send(peer, text, route)
        if waiting is not None:
            send(peer, *waiting)
            planted["swapped"] += 1
        if kind in {"lost", "duplicates"}:
            planted[kind] += 1

    bot = path / "faulty-bot.yaml"
    bot.write_text(BOT, encoding="utf-8")
    answer_close = SocketPeer.answer_close
    SocketPeer.send = faulty  # type: ignore[method-assign, assignment]
    if not closes:
        SocketPeer.answer_close = lambda peer, answer: peer.abort()  # type: ignore[method-assign, assignment]
    try:
        with Sandbox(fast=True, script=bot) as served:
            yield served, planted
    finally:
        SocketPeer.send, SocketPeer.answer_close = send, answer_close  # type: ignore[method-assign]


def _reply(text: str) -> str | None:
    """Return the text of a frame with a reply of the bot, None for any other frame."""
    body: Any = json.loads(text).get("body")
    if isinstance(body, dict) and body.get("direction") == "Outbound" and body.get("type") == "Text":
        return str(body["text"])
    return None
