"""Which sessions have changed, for programs that watch them with requests that wait (long polling).

Knows: versions, and who waits for the next one. Must not know: HTTP, what a conversation contains, any API.

Each change has the next version. A watcher asks for the sessions that have changed since a version, and its request
waits until there are any. Changes that come at once are answered together. Nobody pays until somebody watches.
"""

from __future__ import annotations

import asyncio
import secrets
from functools import partial

from guestctl.sandbox.service_state import Conversation, Later, Service

#: Seconds that a change waits for others.
GATHERING = 0.1


class SessionChanges:
    """The changes of one sandbox. `instance` distinguishes it from an earlier one at the same address."""

    def __init__(self, service: Service, later: Later) -> None:
        self.instance = secrets.token_hex(8)
        self._service = service
        self._later = later
        self._version = 0
        self._versions: dict[str, int] = {}  # session -> the version of its last change
        self._waiting: set[asyncio.Future[None]] = set()

    async def since(self, version: int, wait: float) -> tuple[int, list[Conversation]]:
        """Return the current version, and the sessions that have changed since another, in the order of the changes.

        If there are none, wait for a change for `wait` seconds at most.
        """
        if self._service.on_change is None:
            self._service.on_change = self._changed
            for conversation in self._service.conversations.values():
                self._changed(conversation)
        if version >= self._version:
            change = self._timer(wait)
            self._waiting.add(change)
            try:
                await change
            finally:
                self._waiting.discard(change)
            if self._version > version:
                await self._timer(GATHERING)
        found = sorted((changed, session) for session, changed in self._versions.items() if changed > version)
        return self._version, [self._service.conversations[session] for _, session in found]

    def _changed(self, conversation: Conversation) -> None:
        self._version += 1
        self._versions[conversation.id] = self._version
        for change in self._waiting:
            _finish(change)

    def _timer(self, seconds: float) -> asyncio.Future[None]:
        """Return a future that is done after some time, unless it is before."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._later(seconds, partial(_finish, done))
        return done


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
