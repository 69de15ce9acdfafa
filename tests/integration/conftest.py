"""One sandbox and one guest per test. The test's parameter selects the API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from guestctl.core.clock import SystemClock
from guestctl.dialects import NAMES
from guestctl.engine import shared_history, shared_socket
from guestctl.sandbox.server import Sandbox
from tests.client_keys import RETURNED
from tests.integration import front
from tests.integration.front import Guest, InstantClock, Room
from tests.integration.middle import Gateway
from tests.ports import lasting_port

Serve: TypeAlias = Callable[..., Sandbox]
Enter: TypeAlias = Callable[..., Guest]


@pytest.fixture
def time() -> InstantClock:
    return InstantClock()


@pytest.fixture
def serve(time: InstantClock) -> Iterator[Serve]:
    """Return a function that starts sandboxes with the settings of `Sandbox`: no bot delay, no rate limits."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            Sandbox(
                **{
                    **RETURNED,
                    "fast": True,
                    "clock": time,
                    "port": lasting_port(),
                    **settings,
                }
            )
        )


@pytest.fixture
def enter(time: InstantClock, tmp_path: Path) -> Enter:
    """Return `enter(sandbox, api)`, which makes a guest of a sandbox."""

    def guest(sandbox: Sandbox, api: str, *, state: str = "state", **more: str) -> Guest:
        environ = {
            "GUESTCTL_PROFILE": "sandbox",
            "GUESTCTL_API": api,
            "GUESTCTL_SANDBOX_URL": sandbox.url,
            "GUESTCTL_SANDBOX_ADMIN_KEY": sandbox.admin_key,
            "GUESTCTL_STATE": str(tmp_path / state),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            **more,
        }
        return Guest(api, environ, tmp_path, time)

    return guest


@pytest.fixture(params=NAMES)
def api(request: pytest.FixtureRequest) -> Any:
    """Each API of the registry in turn."""
    return request.param


@pytest.fixture
def sandbox(serve: Serve) -> Sandbox:
    return serve()


@pytest.fixture
def room(sandbox: Sandbox) -> Room:
    return Room(sandbox)


@pytest.fixture
def guest(sandbox: Sandbox, enter: Enter, api: str) -> Guest:
    """A guest without a session yet."""
    return enter(sandbox, api)


@pytest.fixture
def middle(serve: Serve) -> Iterator[Gateway]:
    """A gateway in front of a sandbox."""
    with Gateway() as found:
        sandbox = serve(also_hosts=(f"127.0.0.1:{found.port}",))
        found.behind = sandbox.port
        found.room = Room(sandbox)  # type: ignore[attr-defined]
        yield found


def room_of(middle: Gateway) -> Room:
    """Return the control of the sandbox behind the gateway."""
    return middle.room  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def behind(middle: Gateway, enter: Enter, api: str) -> Guest:
    """A guest without a session whose every request goes through the gateway."""
    return enter(room_of(middle).sandbox, api, GUESTCTL_SANDBOX_URL=middle.url)


@pytest.fixture
def talking(guest: Guest) -> Guest:
    """A guest with a session."""
    guest.ok("session", "create")
    return guest


@pytest.fixture
def restarted(serve: Serve, sandbox: Sandbox) -> Callable[[], Room]:
    """Return a function that replaces the sandbox by an empty one at the same address."""

    def restart() -> Room:
        sandbox.stop()
        return Room(serve(port=sandbox.port))

    return restart


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, followers wait, and nobody reads history again because time has passed."""
    monkeypatch.setattr(shared_socket, "PATIENCE", 60.0)
    monkeypatch.setattr(shared_history, "PATIENCE", 60.0)
    monkeypatch.setattr(shared_history, "SLACK", 60.0)
    monkeypatch.setattr(front, "TIMINGS", replace(front.TIMINGS, quiet_look=60.0))


@pytest.fixture
def real(serve: Serve, tmp_path: Path, api: str) -> tuple[Guest, Room]:
    """A guest with a session, and its sandbox, on the real clock."""
    sandbox = serve(clock=SystemClock())
    environ = {
        "GUESTCTL_PROFILE": "sandbox",
        "GUESTCTL_API": api,
        "GUESTCTL_SANDBOX_URL": sandbox.url,
        "GUESTCTL_STATE": str(tmp_path / "state"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    guest = Guest(api, environ, tmp_path, SystemClock())  # type: ignore[arg-type]
    guest.ok("session", "create")
    return guest, Room(sandbox)
