"""No secret of a guest is in what the proxy prints, records and shows, for each API."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestctl.core.clock import SystemClock
from guestctl.core.redact import Redactor
from guestctl.dialects import NAMES
from guestctl.proxy.proxy_server import RecordingProxy
from guestctl.proxy.target import Target
from guestctl.sandbox.server import Sandbox
from guestctl.transport.network import Network
from guestctl.transport.trace import TraceFile, Watcher
from tests.client_keys import RETURNED
from tests.integration.front import Guest, InstantClock


@pytest.mark.parametrize("api", NAMES)
def test_no_secret_is_recorded(tmp_path: Path, api: str) -> None:
    trace = tmp_path / "trace"
    lines: list[str] = []
    with Sandbox(**RETURNED, fast=True) as sandbox, TraceFile(trace) as file:
        watcher = Watcher(SystemClock(), Redactor(), file, lambda text, level: lines.append(text))
        network = Network(ca=None, environ={})
        with RecordingProxy(Target.of_url(sandbox.url), network, clock=SystemClock(), observer=watcher) as proxy:
            environ = {
                "GUESTCTL_PROFILE": "sandbox",
                "GUESTCTL_API": api,
                "GUESTCTL_SANDBOX_URL": proxy.url,
                "GUESTCTL_STATE": str(tmp_path / "state"),
                "XDG_CONFIG_HOME": str(tmp_path / "config"),
            }
            guest = Guest(api, environ, tmp_path, InstantClock())
            guest.ok("session", "create")
            guest.ok("ask", "hello")
            guest.ok("history")
            if guest.renews:
                guest.ok("refresh-token")
            secrets = {guest.token(), sandbox.client_secret}
            secrets |= sandbox.call(lambda: _tokens(sandbox))
    written = trace.read_text()
    assert "hello" in written
    assert lines
    assert [secret for secret in secrets if secret in written or secret in "".join(lines)] == []


def _tokens(sandbox: Sandbox) -> set[str]:
    service = sandbox.service
    return {grant.token for conversation in service.conversations for grant in service.tokens.of(conversation)}
