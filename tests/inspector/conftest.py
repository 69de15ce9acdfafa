"""A sandbox with an inspector, in this process, and pages that read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from guestctl.inspector.of_sandbox import inspector_of
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import alone
from tests.inspector.page import Page

__all__ = ["alone"]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox with `--ui`, whose bot answers at once."""
    with running(SandboxOptions(fast=True), page=inspector_of) as found:
        yield found


@pytest.fixture
def open_page(sandbox: Sandbox) -> Iterator[Callable[[], Page]]:
    """A function that opens one more page."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Page(str(sandbox.ui_url)))


@pytest.fixture
def page(open_page: Callable[[], Page]) -> Page:
    """An open page."""
    return open_page()
