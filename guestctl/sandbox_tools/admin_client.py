"""The client of a sandbox's admin endpoint: push, faults, sessions, disconnect, expire.

Knows: the admin endpoint (contract.md §7) and how to find one. Must not know: the sandbox's code, dialects, the
terminal.

It uses the standard library only: it connects to loopback, never through a proxy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from guestctl.core.errors import (
    Conflict,
    Failure,
    NetworkError,
    Refused,
    TimedOut,
    Unauthorised,
    Unreadable,
    UsageError,
)
from guestctl.core.model import Secret
from guestctl.core.values import Json

_PATH = "/sandbox/admin"
_BODY_LIMIT = 64 * 1024 * 1024  # the report of a long-running sandbox is long


@dataclass(frozen=True)
class SessionsSeen:
    """Up to where a watcher of the sessions has read, and of which sandbox."""

    instance: str
    version: int


@dataclass(frozen=True)
class SandboxAdmin:
    """One sandbox's admin endpoint.

    `url` is the sandbox's base address, `ca` a PEM file, `timeout` the seconds to wait for data. Every method raises
    NetworkError (no sandbox answers), Unauthorised (wrong key), UsageError (invalid request), Refused (unknown
    session), Conflict (the session has ended), TimedOut or Unreadable.
    """

    url: str
    key: Secret
    ca: str | None = None
    timeout: float = 30.0
    #: Called with each "request" and "response". It must redact secrets.
    observer: Callable[[str, Mapping[str, Any]], None] | None = None

    @classmethod
    def locate(
        cls,
        environ: Mapping[str, str],
        registered: Callable[[], Mapping[str, Json] | None],
        *,
        timeout: float | None = 30.0,
    ) -> SandboxAdmin:
        """Find the sandbox of `GUESTCTL_SANDBOX_URL` and `GUESTCTL_SANDBOX_ADMIN_KEY`, else the one started last.

        `registered` returns the addresses of the one started last. An address without its key takes the key from
        there. Raises UsageError (sandbox.absent).
        """
        limit = 30.0 if timeout is None else timeout
        url = environ.get("GUESTCTL_SANDBOX_URL", "").rstrip("/")
        key = environ.get("GUESTCTL_SANDBOX_ADMIN_KEY", "")
        if url and key:
            return cls(_checked(url), Secret(key), environ.get("GUESTCTL_SANDBOX_CA") or None, limit)
        found = registered()
        if url and (found is None or url != found["url"]):
            raise UsageError(
                f'no key for the sandbox at "{url}", which was not started here',
                hint="set GUESTCTL_SANDBOX_ADMIN_KEY to the `admin_key` that its `guestctl sandbox serve -o json` "
                "printed, or unset GUESTCTL_SANDBOX_URL",
                code="sandbox.absent",
            )
        if found is None:
            raise UsageError("no sandbox is running here", code="sandbox.absent")
        ca = found.get("ca")
        return cls(_checked(str(found["url"])), Secret(str(found["admin_key"])), str(ca) if ca else None, limit)

    def push(self, text: str | None = None, *, frame: str | None = None, to: str | None = None) -> int:
        """Send `text` as the agent, or `frame` as it is, to one session or to all that have not ended.

        Return the number of sessions.
        """
        body = {"text": text} if frame is None else {"frame": frame}
        return _whole(self._ask("POST", "/push", body | _to(to)), "pushed")

    def faults(self) -> list[str]:
        """Return the armed fault specs."""
        return _strings(self._ask("GET", "/faults"), "specs")

    def add_faults(self, specs: Sequence[str]) -> list[str]:
        """Arm all of these, or none if one is invalid (UsageError). Return all armed specs."""
        return _strings(self._ask("POST", "/faults", {"specs": list(specs)}), "specs")

    def clear_faults(self) -> None:
        """Disarm all faults."""
        self._ask("DELETE", "/faults")

    def sessions(self) -> list[dict[str, Json]]:
        """Return every session with its accepted messages, oldest first (contract.md §7)."""
        found = self._ask("GET", "/sessions").get("sessions")
        if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
            raise _unreadable()
        return found

    def changes(self, seen: SessionsSeen | None, wait: float) -> tuple[SessionsSeen, list[dict[str, Json]]]:
        """Return the sessions that have changed since `seen` (None: all), in the order of their last changes.

        If there are none, wait for a change for `wait` seconds at most. The first value is `seen` for the next call.
        A sandbox that was started again reports all its sessions, and another `instance`.
        """
        query = f"wait={wait:.0f}" + ("" if seen is None else f"&since={seen.version}&instance={seen.instance}")
        answer = replace(self, timeout=self.timeout + wait)._ask("GET", f"/sessions/changes?{query}")
        instance, version, found = answer.get("instance"), answer.get("version"), answer.get("sessions")
        if not isinstance(instance, str) or not isinstance(version, int) or not isinstance(found, list):
            raise _unreadable()
        return SessionsSeen(instance, version), found

    def disconnect(self, *, to: str | None = None) -> int:
        """End the conversation of one session, or of all, as the agent. Return how many."""
        return _whole(self._ask("POST", "/end", _to(to)), "ended")

    def expire(self, *, to: str | None = None, token: bool = False) -> int:
        """Expire one session, or all active ones; with `token` only their credentials. Return how many."""
        return _whole(self._ask("POST", "/expire", {"token": token, **_to(to)}), "expired")

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        entry: dict[str, Any] = {"route": "admin", "method": method, "url": self.url + _PATH + path}
        if self.observer is not None:
            self.observer("request", {**entry, "body": body})
        status, text = self._perform(method, path, None if body is None else json.dumps(body).encode())
        if self.observer is not None:
            self.observer("response", {**entry, "status": status, "body": text})
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise _unreadable()
        if status != 200:
            raise _refusal(status, str(answer.get("message", f"the sandbox answers {status}")))
        return answer

    def _perform(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        import http.client
        import ssl
        from urllib.parse import urlsplit

        parts = urlsplit(self.url)
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            try:
                context = ssl.create_default_context(cafile=self.ca)
            except OSError as error:
                raise UsageError(f"{self.ca}: {error.strerror or error}", code="config.tls") from None
            connection = http.client.HTTPSConnection(parts.netloc, timeout=self.timeout, context=context)
        else:
            connection = http.client.HTTPConnection(parts.netloc, timeout=self.timeout)
        headers = {"Authorization": f"Bearer {self.key.reveal()}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, parts.path + _PATH + path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(_BODY_LIMIT)
        except TimeoutError:
            raise TimedOut(f"the sandbox at {self.url} did not answer in {self.timeout:g} s") from None
        except ssl.SSLError as error:
            raise NetworkError(f"the sandbox at {self.url}: {error.reason or error}", code="network.tls") from None
        except ConnectionRefusedError:
            raise NetworkError(
                f"no sandbox answers at {self.url}: it was stopped, or the address is wrong", code="network.connect"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise NetworkError(f"the sandbox at {self.url}: {why}", code="network.lost", written=True) from None
        finally:
            connection.close()


def _checked(url: str) -> str:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise UsageError(
            f'"{url}" is not the address of a sandbox',
            hint="an address looks like http://127.0.0.1:PORT",
            code="config.key",
        )
    return url


def _refusal(status: int, message: str) -> Failure:
    if status == 400:
        return UsageError(message)
    if status in (401, 403):
        return Unauthorised(f"the sandbox refuses the request: {message}", code="sandbox.key", http_status=status)
    if status == 409:
        return Conflict(message, code="conflict.ended", http_status=status)
    return Refused(message, code="sandbox.session" if status == 404 else None, http_status=status)


def _unreadable() -> Unreadable:
    return Unreadable("the reply is not from a sandbox", code="sandbox.answer")


def _to(to: str | None) -> dict[str, str]:
    return {} if to is None else {"to": to}


def _whole(answer: Mapping[str, Any], key: str) -> int:
    value = answer.get(key)
    if not isinstance(value, int):
        raise _unreadable()
    return value


def _strings(answer: Mapping[str, Any], key: str) -> list[str]:
    value = answer.get(key)
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise _unreadable()
    return value
