"""Fault specs mean what contract.md §7 says, and count as the docstring of the module says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestctl.sandbox.faults import KINDS, ON, Fault, FaultError, Faults, parse


class FlowDriver:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return 1_772_615_727.4

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


def armed(*specs: str) -> tuple[Faults, FlowDriver]:
    clock = FlowDriver()
    faults = Faults(clock)
    for spec in specs:
        faults.add(spec)
    return faults, clock


def kinds(found: object) -> str:
    """Return a dot for no fault, else the kinds that fired."""
    if isinstance(found, Fault):
        return found.kind
    return "+".join(fault.kind for fault in found) if isinstance(found, list) and found else "."


def frames(faults: Faults, count: int, route: str | None = None) -> str:
    return " ".join(kinds(faults.frame(route)) for _ in range(count))


def requests(faults: Faults, *routes: str | None) -> str:
    return " ".join(kinds(faults.http(route)) for route in routes)


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("drop", {"kind": "drop", "code": 1006, "times": None}),
        ("drop:code=1000", {"code": 1000}),
        ("drop:code=4001,after=3", {"code": 4001, "after": 3, "times": 1}),
        ("refuse", {"status": 403}),
        ("refuse:status=503,times=2", {"status": 503, "times": 2}),
        ("http", {"status": 503}),
        ("http:status=500,on=history", {"status": 500, "on": "history"}),
        ("unauthorized:times=1", {"status": 401, "times": 1}),
        ("conflict", {"status": 409, "seconds": 2.0, "times": 1}),
        ("conflict:for=500ms", {"seconds": 0.5}),
        ("ratelimit", {"status": 429, "retry_after": 1}),
        ("ratelimit:retry_after=7,after=2,times=3", {"retry_after": 7, "after": 2, "times": 3}),
        ("ratelimit:retry_after=date", {"retry_after": None}),
        ("delay", {"seconds": 0.2}),
        ("delay:ms=1500,on=send", {"seconds": 1.5, "on": "send"}),
        ("duplicate:every=2", {"every": 2}),
        ("swap", {"kind": "swap"}),
        ("silence:for=1m", {"seconds": 60.0, "times": 1}),
        ("truncate:after=1", {"times": 1}),
        ("garbage: after = 1 , times = 2", {"after": 1, "times": 2}),
        ("lag:ms=750", {"seconds": 0.75}),
    ],
)
def test_specs_are_parsed_as_documented(spec: str, wanted: dict[str, object]) -> None:
    fault = parse(spec)
    assert {key: getattr(fault, key) for key in wanted} == wanted


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "kinds are drop, refuse"),
        ("dorp:code=1", 'did you mean "drop"?'),
        ("drop:cod=1", 'keys are code, after, every, times, on; did you mean "code"?'),
        ("drop:status=1", 'drop has no key "status"'),
        ("drop:", 'has no key ""'),
        ("drop:after", "after has no value; write after=VALUE"),
        ("drop:after=", "after has no value"),
        ("drop:after=0", "after=0 is not a whole number from 1"),
        ("drop:after=1,after=2", "given twice"),
        ("drop:after=\u0663", "is not a whole number"),
        ("drop:code=70000", "from 1 to 65535"),
        ("http:status=200", "from 300 to 599"),
        ("conflict:for=2d", "a time such as 2s"),
        ("silence:for=0s", "a time such as"),
        ("delay:ms=soon", "milliseconds"),
        ("ratelimit:retry_after=1.5", "whole seconds, or `date`"),
        ("delay:on=sending", 'did you mean "send"?'),
        ("lag:on=send", "history only"),
        ("refuse:on=send", "upgrades only"),
        ("unauthorized:on=socket", "use refuse for upgrades"),
        ("drop:on=history", "history comes over HTTP"),
        ("duplicate:on=history", "history comes over HTTP"),
        ("swap:on=history", "history comes over HTTP"),
    ],
)
def test_an_invalid_spec_is_reported_in_one_helpful_line(spec: str, words: str) -> None:
    with pytest.raises(FaultError) as caught:
        parse(spec)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text() | st.from_regex(r"[a-z]{3,12}(:[a-z_]{1,12}=[0-9a-z.]{0,6}(,[a-z_]{1,12}=[0-9a-z.]{0,6}){0,3})?"))
def test_any_invalid_text_raises_only_fault_error(spec: str) -> None:
    with suppress(FaultError):
        assert parse(spec).kind in KINDS


@given(
    st.sampled_from(["duplicate", "truncate", "drop"]),
    st.none() | st.integers(1, 6),
    st.none() | st.integers(1, 6),
    st.none() | st.integers(1, 6),
)
def test_after_every_and_times_match_a_simple_counter(
    kind: str, after: int | None, every: int | None, times: int | None
) -> None:
    keys = {"after": after, "every": every, "times": times}
    spec = f"{kind}:" + ",".join(f"{key}={value}" for key, value in keys.items() if value is not None)
    faults, _ = armed(spec.rstrip(":"))
    first, step = after or every or 1, every or 1
    limit = times if times is not None else 1 if after is not None else 1000
    due = list(range(first, 31, step))[:limit]
    assert [n for n in range(1, 31) if faults.frame(None)] == due


def test_after_fires_once_at_the_nth_frame_of_any_socket() -> None:
    faults, _ = armed("drop:after=3")
    assert frames(faults, 6) == ". . drop . . ."


def test_frames_requests_and_upgrades_are_counted_separately() -> None:
    faults, _ = armed("drop:after=2", "http:after=2", "refuse:after=2")
    assert requests(faults, "send") == "."
    assert kinds(faults.upgrade()) == "."
    assert frames(faults, 2) == ". drop"
    assert requests(faults, "create") == "http"
    assert kinds(faults.upgrade()) == "refuse"


def test_on_limits_counting_and_effect_to_one_route() -> None:
    faults, _ = armed("drop:on=send,after=2", "unauthorized:on=history,times=1")
    assert [kinds(faults.frame(route)) for route in ("send", None, "create", "send")] == [".", ".", ".", "drop"]
    assert requests(faults, "send", None, "history", "history") == ". . unauthorized ."


def test_every_frame_belongs_to_the_socket() -> None:
    faults, _ = armed("duplicate:on=socket,every=2")
    assert [kinds(faults.frame(route)) for route in ("send", None, "typing", None)] == [
        ".",
        "duplicate",
        ".",
        "duplicate",
    ]


def test_a_frame_gets_all_due_faults_in_the_order_armed() -> None:
    faults, _ = armed("delay", "duplicate")
    assert frames(faults, 1) == "delay+duplicate"


def test_a_request_gets_one_fault_and_the_others_fire_later() -> None:
    faults, _ = armed("delay:times=1", "garbage:on=send,times=1", "http:after=1")
    assert requests(faults, *["send"] * 4) == "http garbage delay ."


def test_refusals_precede_damage_and_damage_precedes_delay() -> None:
    order = ["http", "unauthorized", "conflict", "ratelimit", "silence", "truncate", "garbage", "delay"]
    faults, clock = armed(*(f"{kind}:on=send,times=1" for kind in reversed(order)))
    seen = []
    for _ in order:
        seen.append(requests(faults, "send"))
        clock.sleep(10)  # ended with the window
    assert seen == order


@pytest.mark.parametrize("kind", ["drop", "delay", "duplicate", "swap", "silence", "truncate", "garbage"])
def test_every_frame_fault_is_returned_for_a_frame(kind: str) -> None:
    assert frames(armed(kind)[0], 1) == kind


def test_without_on_delay_affects_requests_and_damage_does_not() -> None:
    faults, _ = armed("garbage", "truncate", "silence", "delay:on=socket")
    assert requests(faults, "history", "send") == ". ."
    faults, _ = armed("delay:ms=5")
    assert requests(faults, "history", None) == "delay delay"


def test_actions_over_a_socket_are_refused_only_by_faults_that_name_them() -> None:
    faults, _ = armed("ratelimit:times=1", "conflict:on=send")
    assert kinds(faults.action("create")) == "."
    for refusal in ("http", "unauthorized", "conflict", "ratelimit"):
        assert kinds(armed(refusal)[0].action("send")) == "."
        assert kinds(armed(f"{refusal}:on=send")[0].action("send")) == refusal
    found = faults.action("send")
    assert found is not None
    assert (found.kind, found.status) == ("conflict", 409)


@pytest.mark.parametrize(
    ("spec", "ask"),
    [
        ("conflict:for=2s", lambda faults: faults.http("send")),
        ("silence:for=2s", lambda faults: next(iter(faults.frame(None)), None)),
    ],
)
def test_a_window_starts_when_it_fires_and_opens_once(spec: str, ask: Callable[[Faults], Fault | None]) -> None:
    faults, clock = armed(spec)
    left = []
    for _ in range(5):
        found = ask(faults)
        left.append(None if found is None else found.seconds)
        clock.sleep(0.75)
    assert left == [2.0, 1.25, 0.5, None, None]


def test_times_counts_windows() -> None:
    faults, clock = armed("conflict:for=1s,after=2,times=2")
    seen = []
    for _ in range(7):
        seen.append(requests(faults, "send"))
        clock.sleep(0.5)
    assert seen == [".", "conflict", "conflict", "conflict", "conflict", ".", "."]


def test_asking_for_a_silence_does_not_count() -> None:
    faults, clock = armed("silence:for=5s,after=2")
    assert faults.silence() == 0.0
    assert frames(faults, 2) == ". silence"
    clock.sleep(2)
    assert faults.silence() == 3.0
    faults.clear()
    assert faults.silence() == 0.0


def test_lag_is_separate_from_refusals() -> None:
    faults, _ = armed("lag:ms=500,times=2", "lag:ms=200")
    assert requests(faults, "history") == "."
    assert [faults.lag() for _ in range(3)] == [0.5, 0.5, 0.2]


def test_specs_can_be_listed_and_cleared() -> None:
    faults, _ = armed("drop", "lag:ms=5")
    assert faults.list() == ("drop", "lag:ms=5")
    faults.clear()
    assert faults.list() == ()
    assert frames(faults, 2) == ". ."


def test_retry_after_is_seconds_or_a_date() -> None:
    assert parse("ratelimit:retry_after=3").retry_after_header(1.0) == "3"
    now = FlowDriver().now()
    written = parse("ratelimit:retry_after=date").retry_after_header(now)
    assert 1.0 <= parsedate_to_datetime(written).timestamp() - now <= 2.0


def test_every_documented_route_is_known() -> None:
    assert ON == ("create", "send", "history", "socket", "refresh", "typing", "upload")
