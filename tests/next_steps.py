"""What the doctor must name as the fix. Knows: the next steps. Must not know: how the doctor arrives at one."""

from __future__ import annotations

from guestctl.core.errors import NEXT_STEPS


def fix_of(code: str) -> str:
    """The next step, but for a clause that sends to the doctor: it is the doctor who says it."""
    return NEXT_STEPS[code].partition("; `guestctl doctor`")[0]
