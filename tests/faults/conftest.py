"""Processes that are gone when their test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from guestctl.sandbox.server import Sandbox
from tests.faults.processes import Shell

Enter: TypeAlias = Callable[..., Shell]


@pytest.fixture
def enter(tmp_path: Path) -> Iterator[Enter]:
    """`enter(api, **settings)`: a sandbox of that API's own, and a session there."""
    with ExitStack() as stack:

        def shell(api: str, **settings: Any) -> Shell:
            sandbox = stack.enter_context(Sandbox(**{"fast": True, **settings}))
            made = Shell(sandbox, api, tmp_path)
            stack.callback(made.close)
            code, _, err = made.run("session", "create")
            assert code == 0, err
            return made

        yield shell
