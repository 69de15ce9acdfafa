"""Sending for the readers of a relay: each `Idempotency-Key` is sent at most once, whatever happens in between.

Knows: what a request may contain, keys and their answers, what each outcome means for a repetition. Must not know: HTTP
statuses, the socket, the outbox's rows.

The key is stored in the log before anything is sent. The client key of the message follows from it, so the outbox of
the client recognises a repetition, too: after a crash, a message in doubt is looked for and never sent again. A
repetition reports the present outcome. Only a message that was certainly not sent is tried again.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import field
from typing import Protocol, TypeVar

from guestctl.client import Client
from guestctl.core.errors import Conflict, Failure, UsageError, bug
from guestctl.core.model import Delivery
from guestctl.core.results import Sent
from guestctl.core.values import Json, immutable
from guestctl.output.records import Record, sent_record
from guestctl.relay.log import EventLog
from guestctl.relay.reader_errors import reader_error

T = TypeVar("T")

#: The longest `Idempotency-Key`, in characters.
LONGEST_KEY = 255
_HINT = 'send {"text": "…"}, and at most one of "pick", "form" and "attributes" with it'
_MEMBERS = frozenset({"text", "attributes", "pick", "form"})


@immutable
class WantedMessage:
    """A message that a reader wants to send: the arguments of `Client.send` with the same names."""

    text: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    pick: tuple[str | int, ...] = ()
    form: Mapping[str, Json] | None = None

    @classmethod
    def read(cls, value: Json) -> WantedMessage:
        """Return the message that a JSON object describes. Raises UsageError."""
        if not isinstance(value, dict):
            raise UsageError("the body is not a JSON object", hint=_HINT)
        unknown = sorted(set(value) - _MEMBERS)
        if unknown:
            raise UsageError(f'the body has an unknown member "{unknown[0]}"', hint=_HINT)
        text, attributes = value.get("text", ""), value.get("attributes") or {}
        pick, form = value.get("pick") or [], value.get("form")
        pick = pick if isinstance(pick, list) else [pick]
        valid = (
            isinstance(text, str)
            and isinstance(attributes, dict)
            and all(isinstance(one, str) for one in attributes.values())
            and all(isinstance(one, (str, int)) and not isinstance(one, bool) for one in pick)
            and isinstance(form, dict | None)
        )
        if not valid:
            raise UsageError("the body has a member of the wrong type", hint=_HINT)
        return cls(text, attributes, tuple(pick), form)

    def digest(self) -> str:
        """Return a hash that is the same for equal messages only."""
        values = [self.text, dict(self.attributes), list(self.pick), self.form]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@immutable
class SendAnswer:
    """The outcome of a send. `delivery`: accepted, rejected, not_sent or in_doubt.

    `record` is the record of `guestctl send`, with the member `error` if the message was not accepted. `failure` is
    the reason.
    """

    delivery: str
    record: Record
    failure: Failure | None = None


def masked_failure(failure: Failure, masked: Callable[[str], str]) -> Failure:
    """Mask the secrets in the texts of a failure, as the command line does before it prints one. Return it."""
    failure.message, failure.hint = masked(failure.message), masked(failure.hint)
    failure.body = None if failure.body is None else masked(failure.body)
    if isinstance(failure.service_code, str):
        failure.service_code = masked(failure.service_code)
    return failure


class Submits(Protocol):
    """The part of `Upstream` that performs a job on its socket."""

    def submit(self, job: Callable[[Client], T]) -> Future[T]: ...


class Sends:
    """The sends of one session's readers. Any thread may call `submit`.

    `outcome` returns what the outbox of the client knows of a client key, in any thread. `masked` masks secrets in
    texts.
    """

    def __init__(
        self,
        log: EventLog,
        upstream: Submits,
        session: str,
        namespace: str,
        *,
        outcome: Callable[[str], str | None] = lambda key: None,
        masked: Callable[[str], str] = str,
    ) -> None:
        self._outcome = outcome
        self._masked = masked
        #: Counts by delivery, for metrics.
        self.counts: dict[str, int] = {}
        self._log = log
        self._upstream = upstream
        self._session = session
        self._namespace = uuid.uuid5(uuid.NAMESPACE_URL, f"guestctl-relay:{namespace}")

    def submit(self, key: str, message: WantedMessage) -> Future[SendAnswer]:
        """Send a message once, or report the outcome of the send with this key.

        Cancel the future to withdraw a message that nobody waits for: `not_sent` describes that. Raises UsageError for
        an invalid key. The future raises Conflict (`conflict.key`) if the key belongs to another message, UsageError
        for a message that this API cannot send, and the failure of the session if it has ended.
        """
        if not (key.isprintable() and key.isascii() and 0 < len(key) <= LONGEST_KEY):
            raise UsageError(
                f"an idempotency key has 1 to {LONGEST_KEY} printable ASCII characters",
                hint="use a new UUID for each message, and the same one to repeat a request",
            )
        known: Future[SendAnswer] = Future()  # what is known needs no connection to the service
        try:
            settled = self._settled(key, message.digest())
        except Conflict as conflict:
            known.set_exception(conflict)
            return known
        if settled is not None:
            known.set_result(settled)
            return known

        def perform(client: Client) -> SendAnswer:
            try:
                return self._perform(client, key, message)
            except Failure as failure:
                raise masked_failure(failure, self._masked) from None

        return self._upstream.submit(perform)

    def not_sent(self, key: str, message: WantedMessage, failure: Failure) -> SendAnswer:
        """Return the answer for a request that was withdrawn before it was performed, because of the failure.

        Another request with the same key may have sent the message. Then its answer counts; before there is one, the
        message is in doubt.
        """
        with suppress(Conflict):
            settled = self._settled(key, message.digest())
            if settled is not None:
                return settled
        # The outbox knows messages that a log had which is lost.
        tried = self._log.send_row(key) is not None or self._outcome(self._client_key(key)) not in (None, "not_sent")
        delivery: Delivery = "in_doubt" if tried else "not_sent"
        return self._answer(self._client_key(key), message, failure.with_outcome(delivery))

    def _settled(self, key: str, digest: str) -> SendAnswer | None:
        """Return the stored answer to an earlier request with this key. Raises Conflict for another message."""
        row = self._log.send_row(key)
        if row is None:
            return None
        if row.body_hash != digest:
            raise Conflict("this idempotency key belongs to another message", code="conflict.key")
        if row.answer is None:
            return None
        stored = json.loads(row.answer)
        return SendAnswer(stored["delivery"], stored)

    def _perform(self, client: Client, key: str, message: WantedMessage) -> SendAnswer:
        """Send the message, or find out what became of it. Runs in the thread of the client."""
        digest, client_key = message.digest(), self._client_key(key)
        settled = self._settled(key, digest)
        if settled is not None:
            return settled
        if self._log.send_row(key) is None:
            self._log.begin_send(key, digest, client_key)
        try:
            sent = client.send(
                message.text,
                attributes=message.attributes or None,
                key=client_key,
                pick=message.pick,
                form=message.form,
            )
        except Failure as failure:
            answer = self._failed(client_key, message, failure)
        except Exception as error:
            answer = self._failed(client_key, message, bug(error).with_outcome(client.outcome(client_key)))
        else:
            answer = SendAnswer(sent.delivery, self._record(sent))
        if answer.delivery in {"accepted", "rejected"}:
            with suppress(UsageError):  # the outbox knows the outcome, too
                self._log.settle_send(key, json.dumps(answer.record))
        self.counts[answer.delivery] = self.counts.get(answer.delivery, 0) + 1
        return answer

    def _failed(self, client_key: str, message: WantedMessage, failure: Failure) -> SendAnswer:
        """Return the answer for a failure. Raises the failures that concern the request and not the message."""
        if isinstance(failure, UsageError) or failure.code == "conflict.key":
            raise failure
        return self._answer(client_key, message, failure)

    def _answer(self, client_key: str, message: WantedMessage, failure: Failure) -> SendAnswer:
        delivery = failure.delivery or "not_sent"
        sent = failure.sent if isinstance(failure.sent, Sent) else Sent(client_key, "not_sent", message.text)
        record = {
            **self._record(sent),
            "delivery": delivery,
            **reader_error(masked_failure(failure, self._masked), delivery),
        }
        return SendAnswer(delivery, record, failure)

    def _record(self, sent: Sent) -> Record:
        return sent_record(sent.message, session=self._session, key=sent.key, text=sent.text, delivery=sent.delivery)

    def _client_key(self, key: str) -> str:
        """Return the client key of a message: the Idempotency-Key if it is a UUID, else one that follows from it."""
        try:
            return str(uuid.UUID(key)) if len(key) == 36 else str(uuid.uuid5(self._namespace, key))
        except ValueError:
            return str(uuid.uuid5(self._namespace, key))
