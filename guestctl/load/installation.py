"""Whether this Python can run load tests.

Knows: the packages of the extra `guestctl[load]`. Must not know: what they are used for. It imports none of them.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from guestctl.core.errors import UsageError

#: The oldest Python that Locust supports.
OLDEST = (3, 11)
_PACKAGES = {"locust": "locust", "gevent": "gevent", "hdrh": "hdrhistogram"}


def check_installed() -> None:
    """Raise UsageError if load tests cannot run."""
    version = sys.version_info[:2]
    if version < OLDEST:
        raise UsageError(
            f"load tests need Python {OLDEST[0]}.{OLDEST[1]} or newer, and this is {version[0]}.{version[1]}",
            code="load.python",
        )
    missing = [package for name, package in _PACKAGES.items() if find_spec(name) is None]
    if missing:
        raise UsageError(f"load tests need the extra guestctl[load]: no {' and no '.join(missing)}", code="load.extra")
