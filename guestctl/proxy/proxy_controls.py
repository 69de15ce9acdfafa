"""What a page in a browser controls of a proxy: its faults.

Knows: which faults a proxy can inject. Must not know: the page, HTTP. Every method must be called in the thread of the
proxy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from guestctl.proxy.proxy_server import WITHOUT, check_fault
from guestctl.sandbox.fault_switches import FaultSwitches

if TYPE_CHECKING:
    from guestctl.proxy.proxy_server import RecordingProxy


class ProxyControls(FaultSwitches):
    """The controls of a proxy. A proxy has no agent. `refused` makes the exception with a reason."""

    can = ("faults",)
    guest = None

    def __init__(self, proxy: RecordingProxy, refused: Callable[[str], Exception]) -> None:
        super().__init__(lambda: proxy.faults, refused, check=check_fault, without=WITHOUT)

    def sessions(self) -> Mapping[str, Mapping[str, Any]]:
        """Return nothing: the proxy knows no conversations."""
        return {}

    def send_text(self, session: str, text: str) -> None:
        raise self._no_agent

    def send_content(self, session: str, text: str | None, content: Sequence[Mapping[str, Any]]) -> None:
        raise self._no_agent

    def send_file(self, session: str, name: str, content_type: str, content: bytes) -> None:
        raise self._no_agent

    def show_typing(self, session: str) -> None:
        raise self._no_agent

    def end(self, session: str) -> None:
        raise self._no_agent

    @property
    def _no_agent(self) -> Exception:
        return self._refused("a proxy has no agent")
