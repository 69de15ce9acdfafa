"""The client of a model: one chat completion at a time, over our own transport.

Knows: the request and the answer of the chat-completions wire, what each status means, how often a call is repeated.
Must not know: prompts, roles, budgets, recordings. No answer of a server is trusted: sizes are limited, redirects are
not followed, and the key is masked in every text of the server.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import Failure, NetworkError, RateLimited, Refused, Unauthorised, Unreadable
from guestctl.core.model import Secret
from guestctl.core.values import Json
from guestctl.core.wire import HttpResponse, Request
from guestctl.dialects.refusals import retry_after
from guestctl.output.terminal import visible
from guestctl.transport.http import Http
from guestctl.transport.network import Network, Observer

#: Tries of one call after a 429, a 5xx or a network failure, and the wait in seconds before each further one.
TRIES = 3
WAIT = 1.0
#: Characters of an error text of the server that a message repeats.
_QUOTED = 200
#: The tokens that are expected of an answer without a limit.
_UNLIMITED_ANSWER = 100_000
#: The most tokens that an answer can report; a larger number is a mistake of the server.
_MOST_TOKENS = 10**9


@dataclass(frozen=True)
class ModelRequest:
    """One call. `messages` are (role, content) pairs, `members` the other members of the request.

    `parts` is what the messages are made of, by name: for the comparison of recordings, never sent.
    """

    model: str
    messages: tuple[tuple[str, str], ...]
    members: Mapping[str, Json]
    parts: Mapping[str, Json]

    def body(self) -> dict[str, Json]:
        """Return the request as it is sent."""
        messages = [{"role": role, "content": content} for role, content in self.messages]
        return {"model": self.model, "messages": messages, **self.members}

    @property
    def most_tokens(self) -> int:
        """The most tokens that the call may use: a token has at least one byte."""
        limits = [self.members.get(name) for name in ("max_tokens", "max_completion_tokens")]
        answer = max([limit for limit in limits if isinstance(limit, int)], default=_UNLIMITED_ANSWER)
        return sum(len(content.encode("utf-8", "replace")) for _, content in self.messages) + answer


@dataclass(frozen=True)
class ModelAnswer:
    """One answer. `text` is empty if the model refused. `cut`: it was cut off at the limit of tokens."""

    text: str
    refused: bool = False
    cut: bool = False
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class ModelAddress:
    """Where a model is served. `base_url` is the part before `/chat/completions`."""

    base_url: str
    key: Secret | None = None


class ModelClient:
    """Asks one server. Each call uses its own connection, because the calls of parallel scenarios overlap."""

    def __init__(
        self, address: ModelAddress, clock: Clock, environ: Mapping[str, str], observer: Observer | None = None
    ) -> None:
        self._address = address
        self._clock = clock
        self._observer = observer
        # The certificate authorities and the exceptions of a profile belong to the service, not to the model.
        self._network = Network(ca=None, environ=environ)
        key = None if address.key is None else address.key.reveal()
        self._key_forms = () if key is None else _forms(key)

    def complete(self, request: ModelRequest, deadline: Deadline) -> ModelAnswer:
        """Return the answer to a request. Raises a Failure that names the cause without the key."""
        begun = self._clock.monotonic()
        for attempt in range(1, TRIES + 1):
            try:
                answer = self._once(request, deadline)
                return replace(answer, seconds=round(self._clock.monotonic() - begun, 3))
            except (RateLimited, NetworkError) as failure:
                wait = WAIT * attempt if failure.retry_after is None else failure.retry_after
                left = deadline.remaining()
                lasting = isinstance(failure, NetworkError) and not failure.transient
                if attempt == TRIES or lasting or (left is not None and wait >= left):
                    raise
                self._clock.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _once(self, request: ModelRequest, deadline: Deadline) -> ModelAnswer:
        from guestctl.transport.connector import USER_AGENT

        http = Http(self._network, self._clock, observer=self._observer, user_agent=USER_AGENT)
        key = self._address.key
        headers = {} if key is None else {"Authorization": f"Bearer {key.reveal()}"}
        url = f"{self._address.base_url.rstrip('/')}/chat/completions"
        try:
            reply = http.perform(Request("POST", url, "model", json=request.body()), headers=headers, deadline=deadline)
            if not reply.ok:
                raise self._refusal(reply)
            return self._read(reply.object(), request)
        except Unreadable as failure:
            raise Unreadable(
                f"the model server: {self._quoted(failure.message)}", code="ai.answer", http_status=failure.http_status
            ) from None
        except NetworkError as failure:
            failure.message = f"the model server: {self._masked(failure.message)}"
            raise
        finally:
            http.close()

    def _read(self, body: Mapping[str, Json], request: ModelRequest) -> ModelAnswer:
        """Return the answer in a body. Raises Unreadable, and Refused for an error with the status 200."""
        if "choices" not in body and body.get("error"):
            raise Refused(f"the model server refused the call: {self._error_text(body)}", code="ai.refused")
        choices = body.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        message = first.get("message") if isinstance(first, dict) else None
        if not isinstance(first, dict) or not isinstance(message, dict):
            raise Unreadable("the answer has no `choices[0].message`")
        content, refusal, finish = message.get("content"), message.get("refusal"), first.get("finish_reason")
        if content is not None and not isinstance(content, str):
            raise Unreadable("`content` of the answer is not a text")
        refused = bool(refusal) or finish == "content_filter" or content is None
        text = "" if refused else self._masked(content or "").encode("utf-8", "replace").decode("utf-8")
        return ModelAnswer(text, refused, finish == "length", self._tokens(body, request, text))

    def _tokens(self, body: Mapping[str, Json], request: ModelRequest, text: str) -> int:
        """Return the tokens that the server reports; without a usable number, an estimate of a token for 3 bytes."""
        usage = body.get("usage")
        found = usage.get("total_tokens") if isinstance(usage, dict) else None
        if isinstance(found, int) and not isinstance(found, bool) and 0 < found <= _MOST_TOKENS:
            return found
        return (sum(len(content.encode()) for _, content in request.messages) + len(text.encode())) // 3 + 1

    def _refusal(self, reply: HttpResponse) -> Failure:
        """Return the failure that an answer other than 2xx stands for."""
        status = reply.status
        if 300 <= status < 400:
            return Unreadable(f"HTTP {status}; redirects are not followed", http_status=status)
        try:
            text = self._error_text(reply.object())
        except Unreadable:
            text = ""
        why = f"HTTP {status}" + (f": {text}" if text else "")
        if status in {401, 403}:
            return Unauthorised(f"the model server does not accept the key: {why}", code="ai.key", http_status=status)
        if status == 429:
            return RateLimited(
                f"the model server limits the calls: {why}",
                code="ai.limited",
                http_status=status,
                retry_after=retry_after(reply),
            )
        if status >= 500:
            return NetworkError(why, code="ai.down", written=True, http_status=status, retry_after=retry_after(reply))
        return Refused(f"the model server refused the call: {why}", code="ai.refused", http_status=status)

    def _error_text(self, body: Mapping[str, Json]) -> str:
        error: Any = body.get("error")
        text = error.get("message") if isinstance(error, dict) else error
        return self._quoted(text) if isinstance(text, str) else ""

    def _quoted(self, text: str) -> str:
        return visible(self._masked(text))[:_QUOTED]

    def _masked(self, text: str) -> str:
        """Return a text of the server without the key. The text is not parsed, so that nothing else changes."""
        assert self._address.key is not None or not self._key_forms
        for form in self._key_forms:
            text = text.replace(form, "" if self._address.key is None else self._address.key.placeholder)
        return text


def _forms(key: str) -> Sequence[str]:
    """Return how a key can be written in a text: as it is, in JSON, in an address, in Basic authorisation."""
    encoded = (base64.b64encode(f"{before}{key}".encode()).decode() for before in ("", ":", "Bearer "))
    forms = {key, json.dumps(key)[1:-1], quote(key, safe=""), *encoded}
    return sorted(forms, key=len, reverse=True)
