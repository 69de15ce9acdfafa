"""The two outcomes that are neither a failed bot nor an infrastructure failure.

Knows: their codes and exit codes. Must not know: how they come about.
"""

from __future__ import annotations

from guestctl.core.errors import Exit, Failure


class Undecided(Failure):
    """Exit code 9: the votes have no majority, or no evidence."""

    exit = Exit.TIMED_OUT
    default_code = "check.undecided"


class CustomerFailed(Failure):
    """Exit code 2: the customer of the test left its role, so the conversation says nothing about the bot."""

    exit = Exit.USAGE
    default_code = "check.customer"
