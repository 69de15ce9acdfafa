"""The compliance suite of every API with the proxy between the client and the sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from guestctl.core.clock import SystemClock
from guestctl.proxy.proxy_server import RecordingProxy
from guestctl.proxy.target import Target
from guestctl.sandbox.server import Sandbox
from guestctl.transport.network import Network
from tests.integration import test_compliance
from tests.integration.conftest import Enter
from tests.integration.front import Guest, InstantClock

#: Tests that are not repeated here. The outcome of the first one differs, because the proxy is there and answers for
#: the service. The second one gives a connection 200 ms, which a busy machine may need on the way through the proxy.
_LEFT_OUT = {"test_a_service_that_cannot_be_reached", "test_listen_until"}
globals().update(
    {name: test for name, test in vars(test_compliance).items() if name.startswith("test_") and name not in _LEFT_OUT}
)


@pytest.fixture
def enter(time: InstantClock, tmp_path: Path) -> Iterator[Enter]:
    """Return `enter(sandbox, api)`, which makes a guest whose every request goes through a proxy."""
    proxies: dict[str, RecordingProxy] = {}
    with ExitStack() as stack:

        def guest(sandbox: Sandbox, api: str, *, state: str = "state", **more: str) -> Guest:
            if sandbox.url not in proxies:
                network = Network(ca=None, environ={})
                proxy = RecordingProxy(Target.of_url(sandbox.url), network, clock=SystemClock())
                proxies[sandbox.url] = stack.enter_context(proxy)
            environ = {
                "GUESTCTL_PROFILE": "sandbox",
                "GUESTCTL_API": api,
                "GUESTCTL_SANDBOX_URL": proxies[sandbox.url].url,
                "GUESTCTL_SANDBOX_ADMIN_KEY": sandbox.admin_key,
                "GUESTCTL_STATE": str(tmp_path / state),
                "XDG_CONFIG_HOME": str(tmp_path / "config"),
                **more,
            }
            return Guest(api, environ, tmp_path, time)

        yield guest


def test_a_service_that_cannot_be_reached(talking: Guest, sandbox: Sandbox) -> None:
    sandbox.stop()
    result = talking("send", "hi", "--timeout", "20")
    assert "HTTP 502" in result.err
    assert "connection refused" in result.err
    # A 502 after a request proves nothing: a client cannot know who wrote it.
    outcome = (8, "not_sent") if talking.dialect.sends_on_socket else (13, "in_doubt")
    assert (result.code, result.record["delivery"]) == outcome
