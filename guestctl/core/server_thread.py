"""A server in a thread of its own, with an event loop.

Knows: the thread, the loop, how both start and stop. Must not know: what is served, any server library.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from concurrent.futures import Future


class ServerThread(ABC):
    """The thread of a server. Only that thread may use `_loop` directly; others use `call_soon_threadsafe`.

    `name` is the name of the thread.
    """

    #: Set when the server has to stop. It exists while `_serve` runs.
    _stopping: asyncio.Event

    def __init__(self, name: str) -> None:
        self._thread_name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @abstractmethod
    async def _serve(self, started: Future[None]) -> None:
        """Open the port, set the result of `started`, and serve until `_stopping` is set."""

    def _start_thread(self) -> None:
        """Start the thread, and return when the server has started. Raises what `_serve` raises before that."""
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name=self._thread_name, daemon=True)
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._thread.join()
            self._thread = None
            raise

    def _stop_thread(self) -> None:
        """Set `_stopping` and wait for the thread to end. Do nothing if it is not running."""
        thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            thread.join()

    def _run(self, started: Future[None]) -> None:
        try:
            asyncio.run(self._serve_in_loop(started))
        except BaseException as problem:
            if started.done():
                raise
            started.set_exception(problem)

    async def _serve_in_loop(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        await self._serve(started)
