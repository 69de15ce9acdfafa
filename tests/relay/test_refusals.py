"""What a relay answers to requests that it refuses: bodies over the limit, and hints for a reader over HTTP."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from guestctl.sandbox.server import Sandbox
from tests.cli.conftest import Front
from tests.relay.processes import STUCK, RelayProcess, relaying

LIMIT = 1 << 20
#: Words that only a user of the command line understands.
COMMAND_LINE = re.compile(r"guestctl|--[a-z]|[A-Z]+_[A-Z]+")


def raw_post(relay: RelayProcess, body: Any, **headers: str) -> tuple[int, Any]:
    """Return the status and the JSON body of the answer to a POST."""
    answer = requests.post(f"{relay.url}/v1/messages", data=body, headers=headers, timeout=STUCK)
    return answer.status_code, answer.json()


def test_a_body_over_the_limit_is_413(front: Front) -> None:
    too_large = (413, {"error": {"message": "the body has more than 1,048,576 bytes"}})
    with relaying(front, "--cors", "https://shop.example", attached=False) as relay:
        assert raw_post(relay, bytes(LIMIT))[0] == 401
        assert raw_post(relay, bytes(LIMIT + 1)) == too_large
        assert raw_post(relay, bytes(8 * LIMIT)) == too_large

        def chunks() -> Iterator[bytes]:
            for _ in range(5):
                yield bytes(LIMIT // 4)

        assert raw_post(relay, chunks()) == too_large
        # A form that cannot be read after the cut is not the reason.
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        assert raw_post(relay, b"--x\r\n" + bytes(LIMIT), **form) == too_large
        page = requests.post(
            f"{relay.url}/v1/messages",
            data=bytes(LIMIT + 1),
            headers={"Origin": "https://shop.example"},
            timeout=STUCK,
        )
        assert (page.status_code, page.headers["Access-Control-Allow-Origin"]) == (413, "https://shop.example")
        # The answer to a body that is never sent comes at once.
        connection = http.client.HTTPConnection(relay.url.removeprefix("http://"), timeout=STUCK)
        connection.putrequest("POST", "/v1/messages")
        connection.putheader("Content-Length", str(1 << 40))
        connection.endheaders()
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())) == too_large
        connection.close()
        assert relay.stop() == (0, "")


#: Body of a send -> status, failure code and the hint, None for none.
SENDS: list[tuple[dict[str, object], int, str, str | None]] = [
    ({"text": ""}, 400, "usage", None),
    ({"pick": "Pizza"}, 400, "usage.option", None),
    ({"form": {"a": "b"}}, 400, "usage.option", None),
    ({"text": "\ud800"}, 400, "usage.text", "leave out the characters that cannot be encoded"),
    ({"text": "x" * 5000}, 422, "service.too_long", "shorten the text, or send it as several messages"),
    ({"text": "hi", "attributes": {"plan": "x" * 5000}}, 422, "service.attributes", "shorten or remove attributes"),
    ({"text": 1}, 400, "usage", 'send {"text": "…"}, and at most one of "pick", "form" and "attributes" with it'),
]


def test_a_hint_is_for_a_reader_without_a_command_line(front: Front, sandbox: Sandbox) -> None:
    with relaying(front, "--timeout", "2") as relay:
        for number, (body, status, code, hint) in enumerate(SENDS):
            answer = relay.post(body, f"key-{number}")
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error.get("hint")) == (status, code, hint), answer.text
        relay.post({"text": "one"}, "one")
        other = relay.post({"text": "two"}, "one").json()["error"]
        assert other["hint"] == "use another idempotency key, or repeat exactly what was sent with this one"
        since = relay.get("/v1/history?since=unknown").json()["error"]
        assert (since["message"], "hint" in since) == ('since: no message has the id "unknown"', False)
        for path in ("/v1/events?after=x", "/v1/events?kinds=x", "/v1/events?x=1", "/v1/history?last=x"):
            hint = relay.get(path).json()["error"]["hint"]
            assert hint, path
            assert not COMMAND_LINE.search(hint), hint
        sandbox.stop()
        unreachable = relay.get("/v1/history").json()["error"]
        assert not COMMAND_LINE.search(unreachable.get("hint", "")), unreachable
        later = relay.post({"text": "later"}, "later")
        assert (later.status_code, later.json()["error"]["hint"]) == (
            503,
            "repeat the request with the same idempotency key",
        )


@pytest.mark.parametrize("delivery", ["not_sent", "in_doubt", None])
def test_no_hint_for_a_reader_names_a_command_or_an_option(delivery: str | None) -> None:
    """Whatever fails behind the relay: every failure code, with the hint of the command line."""
    from guestctl.core.errors import NEXT_STEPS, Failure, NetworkError, UsageError
    from guestctl.relay.reader_errors import reader_error

    failures: list[Failure] = [NetworkError("x", code=code) for code in NEXT_STEPS]
    failures += [UsageError("x", code=code) for code in NEXT_STEPS]
    for failure in failures:
        error = reader_error(failure, delivery)["error"]
        assert not COMMAND_LINE.search(error.get("hint", "")), error
        assert error["code"] == failure.code
