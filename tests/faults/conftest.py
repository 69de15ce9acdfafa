"""Fixtures that run guestctl: as processes that end with the test, and on counted time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from guestctl.sandbox.server import Sandbox
from tests.client_keys import RETURNED
from tests.faults.command_line import CountedGuest
from tests.faults.processes import Shell

OpenShell: TypeAlias = Callable[..., Shell]


@pytest.fixture
def counted_guest(api: str, tmp_path: Path) -> Iterator[CountedGuest]:
    """A guest with a session on counted time. The test's parameter `api` selects the API."""
    with CountedGuest(api, tmp_path).installed() as guest:
        yield guest


@pytest.fixture
def open_shell(tmp_path: Path) -> Iterator[OpenShell]:
    """Return `open_shell(api, **settings)`, which starts a sandbox for one API and creates a session there."""
    with ExitStack() as stack:

        def shell(api: str, **settings: Any) -> Shell:
            sandbox = stack.enter_context(Sandbox(**{**RETURNED, "fast": True, **settings}))
            made = Shell(sandbox, api, tmp_path)
            stack.callback(made.close)
            code, _, err = made.run("session", "create")
            assert code == 0, err
            return made

        yield shell
