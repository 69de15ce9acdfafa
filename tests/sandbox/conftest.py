"""A sandbox per test, and independent guests that are closed when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from guestctl.sandbox.server import Sandbox
from tests.client_keys import RETURNED
from tests.ports import lasting_port
from tests.sandbox.bare import Line
from tests.sandbox.stranger import HandClock, Join, Stranger

Make = Callable[..., Sandbox]


@pytest.fixture
def hand_clock() -> HandClock:
    return HandClock()


@pytest.fixture
def make() -> Iterator[Make]:
    """Return a function that starts sandboxes with the settings of `Sandbox`. The bot answers at once."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            Sandbox(**{**RETURNED, "bot_delay": 0.0, "port": lasting_port(), **settings})
        )


@pytest.fixture
def sandbox(make: Make) -> Sandbox:
    return make(fast=True)


@pytest.fixture
def join() -> Iterator[Join]:
    """Return a function that opens sockets: `join(sandbox, token)`."""
    with ExitStack() as stack:

        def open_one(sandbox: Sandbox, token: str = "T", **options: Any) -> Stranger:
            return stack.enter_context(Stranger(sandbox, token, **options))

        yield open_one


@pytest.fixture(autouse=True)
def no_line_left_open() -> Iterator[None]:
    """Close the sockets that the guests of `bare` opened."""
    yield
    while Line.lines:
        Line.lines.pop().shut()
