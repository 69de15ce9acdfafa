"""The fix that doctor must print for an error code. Knows: the next steps. Must not know: how doctor finds one."""

from __future__ import annotations

from guestctl.core.errors import NEXT_STEPS


def fix_of(code: str) -> str:
    """Return the next step without the advice to run doctor, because doctor itself prints it."""
    return NEXT_STEPS[code].partition("; `guestctl doctor`")[0]
