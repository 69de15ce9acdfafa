"""What a page in a browser controls of a proxy: its faults.

Knows: which faults a proxy can inject. Must not know: the page, HTTP. Every method must be called in the thread of the
proxy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from guestctl.proxy.proxy_server import WITHOUT, check_fault
from guestctl.sandbox.faults import FaultError, kinds_report

if TYPE_CHECKING:
    from guestctl.proxy.proxy_server import RecordingProxy


class ProxyControls:
    """The controls of a proxy. A proxy has no agent. `refused` makes the exception with a reason."""

    can = ("faults",)
    guest = None

    def __init__(self, proxy: RecordingProxy, refused: Callable[[str], Exception]) -> None:
        self._proxy = proxy
        self._refused = refused

    def sessions(self) -> Mapping[str, Mapping[str, Any]]:
        """Return nothing: the proxy knows no conversations."""
        return {}

    def armed(self) -> Sequence[Mapping[str, Any]]:
        """Return the armed faults with their counters."""
        return self._proxy.faults.report()

    def kinds(self) -> Sequence[Mapping[str, Any]]:
        """Return the kinds of faults that a proxy can inject, with their keys."""
        return [kind for kind in kinds_report() if kind["kind"] not in WITHOUT]

    def add_faults(self, specs: Sequence[str]) -> None:
        """Arm all of these, or none if one is invalid."""
        try:
            for spec in specs:
                check_fault(spec)
        except FaultError as problem:
            raise self._refused(str(problem)) from None
        for spec in specs:
            self._proxy.faults.add(spec)

    def remove_fault(self, spec: str) -> None:
        """Disarm one fault."""
        if not self._proxy.faults.remove(spec):
            raise self._refused(f'no fault "{spec}" is armed')

    def clear_faults(self) -> None:
        """Disarm all faults."""
        self._proxy.faults.clear()

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
