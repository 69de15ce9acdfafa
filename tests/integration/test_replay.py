"""Showing the last messages on a socket that has received them: each once, in order, and no earlier ones."""

from __future__ import annotations

from contextlib import closing
from functools import partial

from guestctl.client import Client
from guestctl.core.clock import SystemClock
from guestctl.core.model import Message, Profile
from guestctl.sandbox.serve import running
from guestctl.sandbox.settings import SandboxOptions
from guestctl.storage.state import State


def test_messages_received_before_the_replay_are_not_shown_after_it() -> None:
    with running(SandboxOptions(fast=True)) as sandbox:
        profile = Profile(
            "p", base_url=sandbox.url, socket_url=sandbox.socket_url, deployment_id=sandbox.deployment_id, sandbox=True
        )
        with State.open(None, SystemClock()) as state, Client(profile, state=state) as client:
            client.create()
            client.send("hello", wait=True)
            (conversation,) = sandbox.service.conversations.values()
            for number in range(20):
                sandbox.call(partial(sandbox.service.send, conversation, f"said {number}"))
            shown: list[str] = []
            with closing(client.listen(replay=5, wake=lambda: 0.05)) as events:
                idle = 0
                for event in events:
                    idle = idle + 1 if event is None else 0
                    if isinstance(event, Message):
                        shown.append(event.text)
                    if idle > 20:
                        break
    assert shown == [f"said {number}" for number in range(15, 20)]
