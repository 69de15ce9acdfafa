"""Fixtures of the tests of gRPC: those of the relay."""

from __future__ import annotations

from tests.relay.conftest import front, sandbox, sandboxed

__all__ = ["front", "sandbox", "sandboxed"]
