"""The inspector of a sandbox: which secrets it masks, and what a page may control.

Knows: how a sandbox and an inspector fit together. Must not know: commands, how the sandbox is started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guestctl.core.redact import Redactor
from guestctl.inspector.desk import CannotDo
from guestctl.inspector.routes import Inspector
from guestctl.sandbox.controls import SandboxControls

if TYPE_CHECKING:
    from guestctl.sandbox.server import Sandbox


def inspector_of(sandbox: Sandbox) -> Inspector:
    """Return the inspector of a sandbox that has not started yet."""
    redactor = Redactor()
    redactor.add(sandbox.admin_key)
    redactor.add(sandbox.client_secret)
    return Inspector(
        source="sandbox",
        title="guestctl sandbox",
        clock=sandbox.clock,
        redactor=redactor,
        controls=SandboxControls(sandbox, CannotDo),
        port=lambda: sandbox.port,
        secure=sandbox.scheme == "https",
    )
