"""What the client decides by itself: picks, files, scopes and the bounds of a history."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from guestctl.client import _between, _bound, check_file, pick_option, scope_of
from guestctl.dialects import dialect_class
from guestctl.errors import Refused, UsageError
from guestctl.model import Limits, Message, Option, Profile, Session

OPTIONS = (
    Option("Yes", "yes-payload", "QuickReply"),
    Option("No", "no-payload", "QuickReply"),
    Option("2", "the digit two", "QuickReply"),
    Option("yes", "lower", "QuickReply"),
)


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ("1", 0),
        ("2", 1),
        ("4", 3),
        ("Yes", 0),
        ("yes", 3),
        ("YES", 0),
        ("no-payload", 1),
        ("NO-PAYLOAD", 1),
        ("lower", 3),
    ],
)
def test_picked_by_number_label_or_payload(wanted: str, index: int) -> None:
    assert pick_option(OPTIONS, wanted) is OPTIONS[index]


@pytest.mark.parametrize("wanted", ["0", "5", "99", "maybe", "", "-1", "1.0"])
def test_not_offered(wanted: str) -> None:
    with pytest.raises(UsageError, match="1 'Yes', 2 'No'"):
        pick_option(OPTIONS, wanted)


@given(some.lists(some.text(min_size=1), min_size=1, max_size=8), some.data())
def test_a_label_always_picks_something_with_that_label_or_number(labels: list[str], data: some.DataObject) -> None:
    options = [Option(label, f"payload {n}", "QuickReply") for n, label in enumerate(labels)]
    wanted = data.draw(some.sampled_from(labels))
    if wanted.isdigit():
        return
    assert pick_option(options, wanted).text == wanted


LIMITS = Limits(file_kilobytes=100, file_types=("image/*", "application/pdf"), blocked_extensions=(".exe",))


@pytest.mark.parametrize(
    ("name", "mime", "size", "code"),
    [
        ("a.pdf", "application/pdf", 0, 4102),
        ("a.pdf", "application/pdf", 101_000, 4002),
        ("a.exe", "application/pdf", 10, 4001),
        ("a.txt", "text/plain", 10, 4001),
    ],
)
def test_a_file_the_session_refuses(name: str, mime: str, size: int, code: int) -> None:
    with pytest.raises(Refused) as caught:
        check_file(Session("toy", "p", limits=LIMITS), name, mime, size)
    assert caught.value.service_code == code
    assert caught.value.delivery == "not_sent"


@pytest.mark.parametrize(
    ("name", "mime", "size"),
    [("a.pdf", "application/pdf", 100_999), ("a.png", "image/png", 1), ("a.EXE", "image/png", 1)],
)
def test_a_file_it_takes(name: str, mime: str, size: int) -> None:
    check_file(Session("toy", "p", limits=LIMITS), name, mime, size)
    check_file(Session("toy", "p"), name, mime, size)


def test_a_scope_is_profile_api_deployment_and_addresses() -> None:
    def scope(**given: str) -> str:
        profile = Profile(**{"name": "p", "region": "mypurecloud.de", "deployment_id": "d", **given})  # type: ignore[arg-type]
        return scope_of(profile, dialect_class("web-messaging")(profile, new_id=lambda: "id"))

    assert scope() == scope()
    others = [
        {"name": "q"},
        {"region": "mypurecloud.ie"},
        {"deployment_id": "e"},
        {"base_url": "https://x.test"},
        {"socket_url": "wss://x.test"},
    ]
    assert len({scope(), *(scope(**other) for other in others)}) == len(others) + 1


def message(n: int) -> Message:
    return Message(f"m{n}", "inbound", str(n), f"2026-03-04T09:15:2{n}.000Z")


def between(since: str | None = None, until: str | None = None, last_id: str | None = None) -> str:
    items = iter([message(n) for n in range(5)])
    return "".join(str(item.id)[1] for item in _between(items, _bound(since), _bound(until), last_id))


def test_bounds() -> None:
    assert between() == "01234"
    assert between(since="2026-03-04T09:15:22Z") == "234"
    assert between(until="2026-03-04T09:15:22Z") == "012"
    assert between(last_id="m3") == "0123"
    with pytest.raises(UsageError, match="m9"):
        between(last_id="m9")


@pytest.mark.parametrize("given_", [None, "9d1f0c2e", "b9c7-not-a-time", "m1"])
def test_an_id_is_no_time(given_: str | None) -> None:
    assert _bound(given_) is None
