"""What the doctor must name as the fix. Knows: the next steps. Must not know: how the doctor arrives at one."""

from __future__ import annotations

from guestctl.core.errors import NEXT_STEPS


def fix_of(code: str) -> str:
    """The next step, but for a clause that sends to the doctor: it is the doctor who says it."""
    step, to_the_doctor, _ = NEXT_STEPS[code].partition("; `guestctl doctor`")
    return f"{step}." if to_the_doctor else step
