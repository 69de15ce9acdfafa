"""What the answer of a probe means for a check.

Knows: thresholds, the wording of findings, which API an address belongs to. Must not know: the order of
the checks, the network. Every function is pure.
"""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import urlsplit

from guestctl.core.errors import NEXT_STEPS, Failure
from guestctl.core.model import Deployment
from guestctl.dialects.addresses import matching_addresses, nearest_addresses
from guestctl.doctor.findings import Finding, Result, UpgradeAnswer

#: Seconds of clock skew from which a check warns, and from which it fails.
SKEW_WARNING, SKEW_FAILURE = 5.0, 60.0


def from_failure(check: str, failure: Failure, *, target: str | None = None, seconds: float | None = None) -> Finding:
    """Return a failed check with the failure's own code and next step."""
    message = failure.message.removeprefix(f"{target}: ")
    return Finding(check, "failed", message, target, failure.code, _fix(failure.hint), seconds)


def failed(check: str, found: str, code: str, *, target: str | None = None) -> Finding:
    """Return a failed check with the next step of a failure code."""
    return Finding(check, "failed", found, target, code, _fix(NEXT_STEPS[code]))


def advice(check: str, found: str, code: str, *, target: str | None) -> Finding:
    """Return a warning with a next step: the connection works, but the next command will be refused."""
    return Finding(check, "warning", found, target, fix=_fix(NEXT_STEPS[code]))


def skipped(check: str, why: str, target: str | None = None) -> Finding:
    return Finding(check, "skipped", why, target)


def not_on_this_api(check: str, why: str) -> Finding:
    return replace(skipped(check, why), applies=False)


def _fix(hint: str | None) -> str | None:
    """Return a next step without a last clause that refers to `guestctl doctor`: the user is running it."""
    return hint and re.sub(r"; `guestctl doctor` [^;]*$", "", hint)


def status_of(answer: UpgradeAnswer | Failure | None) -> int | None:
    return answer.status if isinstance(answer, UpgradeAnswer) else None


def judge_addresses(addresses: list[str]) -> tuple[Result, str]:
    return ("ok", ", ".join(addresses)) if addresses else ("skipped", "an IP address: no name to resolve")


def judge_skew(skew: float | None) -> tuple[Result, str]:
    if skew is None:
        return "skipped", "the service sends no Date header"
    if abs(skew) < 1.0:
        return "ok", "agrees with the service's clock"
    direction = "ahead of" if skew > 0 else "behind"
    return "ok" if abs(skew) <= SKEW_WARNING else "warning", f"{abs(skew):.0f} s {direction} the service's clock"


def judge_echo(answered: bool) -> tuple[Result, str]:
    return ("ok", "answered") if answered else ("skipped", "this API has no application heartbeat")


def judge_end(found: Deployment) -> Finding:
    check = "end of conversation"
    if found.disconnect is None:
        return Finding(check, "warning", "the service sends no Disconnect event: conversationDisconnect is off")
    after = "read-only afterwards" if found.disconnect == "ReadOnly" else "still accepts messages afterwards"
    return Finding(check, "ok", f"the service sends a Disconnect event; the conversation is {after}")


def judge_attachments(found: Deployment) -> Finding:
    if found.attachments is None:
        return skipped("attachments", "not in the configuration; the session reports it")
    return Finding("attachments", "ok", "on" if found.attachments else "off")


def judge_sign_in(found: Deployment) -> Finding:
    if not found.sign_in:
        return skipped("sign-in", "not configured: guests are anonymous")
    if found.session_upgrade:
        return Finding("sign-in", "ok", "optional: guests may sign in at the start or later")
    return Finding("sign-in", "warning", "guests must sign in before they can send")


def judge_address(url: str, api: str | None) -> Finding:
    """Report which API an address belongs to. The check fails if it belongs to none, or not to `api`."""
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    places = matching_addresses(url)
    if not places:
        near = " or ".join(nearest_addresses(parts.path))
        return failed("url", f"no API has this address{near and f'; nearest: {near}'}", "doctor.url", target=shown)
    names = ", ".join(dict.fromkeys(f"{place.api} ({place.purpose})" for place in places))
    if api is not None and api not in {place.api for place in places}:
        return failed("url", f"{names}, but the profile uses {api}", "doctor.url", target=shown)
    is_socket = parts.scheme in {"ws", "wss"}
    if parts.path.strip("/") and all(place.socket != is_socket for place in places):
        right = "wss" if not is_socket else "https"
        return Finding("url", "warning", f"{names}; use {right}:// instead of {parts.scheme}://", shown)
    return Finding("url", "ok", names, shown)
