"""The fixtures of the command-line tests."""

from __future__ import annotations

from tests.cli.conftest import alone, front, sandboxed

__all__ = ["alone", "front", "sandboxed"]
