"""The front door of the command-line tests."""

from __future__ import annotations

from tests.cli.conftest import front, sandboxed

__all__ = ["front", "sandboxed"]
