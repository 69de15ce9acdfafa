"""Fixtures of the relay's tests: a sandbox for each test, and commands against it with one stored session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front, sandboxed

__all__ = ["sandboxed"]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox whose bot says nothing, so that only the test's own messages arrive."""
    with running(SandboxOptions(fast=True, keys="returned", deduplicates="yes", agent=True)) as found:
        yield found


@pytest.fixture
def front(sandbox: Sandbox, sandboxed: Callable[[Sandbox], Front], tmp_path: Path) -> Front:
    """Commands with a stored session `default`, whose conversation has begun."""
    made = sandboxed(sandbox)
    assert made("session", "create", "--as", "default", "-q").code == 0
    assert made("send", "hello", "-q").code == 0
    return made
