"""How many examples a property test tries.

The default run tries half of what each test asks for. `pytest --hypothesis-profile thorough` tries five times
what it asks for.
"""

from __future__ import annotations

from hypothesis import settings

#: What `examples` is relative to: the `max_examples` of a profile with which each test tries what it asks for.
_WHOLE = 50


def register_profiles() -> None:
    """Register the profiles. A slow machine is no failure: no test measures how long an example took."""
    settings.register_profile("guestctl", deadline=None, max_examples=_WHOLE // 2)
    settings.register_profile("thorough", deadline=None, max_examples=_WHOLE * 5)


def examples(number: int) -> int:
    """Return the number of examples for a test that asks for `number`, under the profile in force."""
    profile = settings.default or settings()
    return max(1, number * profile.max_examples // _WHOLE)
