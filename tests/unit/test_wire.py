"""Requests, replies, flows: hostile JSON is refused with our own failure, whatever is wrong with it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as some

from guestctl.core.errors import Refused, Unreadable
from guestctl.core.model import Credential, Message, Secret, Session
from guestctl.core.values import Json
from guestctl.core.wire import MAX_DEPTH, HttpResponse, Request, load_json, optional, required
from guestctl.dialects.flows import (
    Flow,
    FlowAnswer,
    FrameRequest,
    Rejection,
    answered,
    done,
    frame_request,
    http_request,
)
from tests.fakes import FlowDriver, reply

VALUES = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-(2**63), 2**63 - 1)
    | some.floats(allow_nan=False, allow_infinity=False)
    | some.text(),
    lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner),
)


@given(VALUES)
def test_whatever_json_can_say_is_read(value: Json) -> None:
    assert load_json(json.dumps(value), "it") == value


@given(some.text())
def test_any_text_is_json_or_unreadable(text: str) -> None:
    try:
        load_json(text, "it")
    except Unreadable:
        pass


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        '{"a":',
        "NaN",
        '{"a": Infinity}',
        "-Infinity",
        "[" * 100_000,
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        '{"a":' * 150 + "1" + "}" * 150,
        "\ufeff{}",
        '{"a": 1} trailing',
    ],
    ids=lambda text: text[:12] or "empty",
)
def test_refused(text: str) -> None:
    with pytest.raises(Unreadable) as caught:
        load_json(text, "it", status=200)
    assert caught.value.http_status == 200
    assert len(caught.value.body or "") <= 500


@pytest.mark.parametrize("number", [str(2**63), str(-(2**63) - 1), "1" * 400, "-" + "9" * 5_000, "1e400", "-1e999"])
def test_a_number_out_of_range_is_read_as_text(number: str) -> None:
    """A reader of numbers finds the wrong type, and a record still shows the digits."""
    assert load_json(f'{{"a": {number}}}', "it") == {"a": number}


def test_as_deep_as_is_allowed_and_as_wide_as_you_like() -> None:
    assert load_json("[" * MAX_DEPTH + "]" * MAX_DEPTH, "it")
    assert len(load_json("[" + "[]," * 10_000 + "[]]", "it")) == 10_001


def test_a_reply() -> None:
    assert reply(204).ok
    assert not reply(301).ok
    assert reply(200, {"a": 1}).object() == {"a": 1}
    for bad in (b"[1]", b"\xff\xfe", b"<html>", b""):
        with pytest.raises(Unreadable):
            HttpResponse(200, {}, bad, 0.0).object()
    assert HttpResponse(200, {}, b"\xff", 0.0).text() == "\ufffd"


@pytest.mark.parametrize(("value", "kind"), [(None, str), (1, str), (True, int), ("1", int), ([], dict)])
def test_a_member_of_the_wrong_type(value: Json, kind: type) -> None:
    with pytest.raises(Unreadable, match="member"):
        required({"member": value}, "member", kind, "it")
    assert optional({"member": value}, "member", kind, None) is None


def test_a_member_that_is_there() -> None:
    assert required({"a": 0}, "a", int, "it") == 0
    assert required({"a": False}, "a", bool, "it") is False
    assert optional({"a": ""}, "a", str, "other") == ""
    assert optional({}, "a", str, "other") == "other"
    with pytest.raises(Unreadable, match="`b` is missing"):
        required({"a": 0}, "b", int, "it")


# --- flows ---


def test_nothing_to_say() -> None:
    assert FlowDriver(done(7)).done() == 7


def test_a_call() -> None:
    def flow() -> Flow[int]:
        return (yield from http_request(Request("GET", "https://x.test/", "history"))).status

    hand = FlowDriver(flow())
    assert hand.request.url == "https://x.test/"
    hand.answer(reply(200))
    assert hand.done() == 200


def test_a_turn_is_one_compact_json_object() -> None:
    hand = FlowDriver(frame_request({"text": "Grüße"}, lambda heard: True, "send", timeout=2.0, message=True))
    assert hand.step is not None
    assert isinstance(hand.step, FrameRequest)
    assert hand.step.text == '{"text":"Grüße"}'
    assert (hand.step.timeout, hand.step.message) == (2.0, True)
    hand.answer(None)
    assert hand.done() is None
    assert FlowDriver(frame_request(None, None, "send")).sent is None


def test_a_rejection_is_raised_in_the_flow() -> None:
    refusal = Refused("no")
    hand = FlowDriver(answered(frame_request({}, lambda heard: True, "send")))
    hand.answer(Rejection(refusal))
    with pytest.raises(Refused):
        hand.done()
    hand = FlowDriver(answered(frame_request({}, lambda heard: True, "send")))
    noted = FlowAnswer("label", {})
    hand.answer(noted)
    assert hand.done() is noted


# --- what is never shown ---

SECRETS = some.text(alphabet=some.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=9).map("§".__add__)


@given(SECRETS)
def test_a_secret_does_not_show_itself(value: str) -> None:
    secret = Secret(value)
    session = Session("toy", "p", credentials={"guest": Credential("guest", secret, refresh=secret)})
    for text in (repr(secret), str(secret), f"{secret}", f"{secret:>40}", f"{secret!r}", f"{secret!a}", repr(session)):
        assert value not in text
    assert value not in "%s %r" % (secret, secret)  # noqa: UP031
    assert value not in json.dumps({"token": secret}, default=str)
    assert value not in repr({"nested": [secret]})
    with pytest.raises(TypeError):
        json.dumps(secret)
    assert not hasattr(secret, "__dict__")


def test_a_secret_is_not_pickled_nor_copied_into_anything() -> None:
    import copy
    import pickle

    with pytest.raises(TypeError):
        pickle.dumps(Secret("token-of-a-guest"))
    with pytest.raises(TypeError):
        copy.deepcopy(Secret("token-of-a-guest"))


def test_equal_secrets_look_equal_and_different_ones_different() -> None:
    assert str(Secret("one-token")) == str(Secret("one-token"))
    assert str(Secret("one-token")) != str(Secret("other-token"))
    assert Secret("one-token") == Secret("one-token")
    assert Secret("one-token") != "one-token"
    assert len({Secret("one-token"), Secret("one-token")}) == 1
    assert not Secret("")


def test_a_message_is_a_value() -> None:
    assert Message("m", "inbound", "t", None) == Message("m", "inbound", "t", None)
