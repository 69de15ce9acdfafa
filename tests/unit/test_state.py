"""The state database: what it keeps, how it is kept private, and what happens when it is not well."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestctl import database
from guestctl import state as module
from guestctl.clock import Deadline, rfc3339
from guestctl.errors import Failure, SessionOver, TimedOut, UsageError
from guestctl.model import Credential, Limits, Secret, Session
from guestctl.state import Activity, Cursor, LedgerEntry, State, owner_of
from tests.fakes import FakeClock

SCOPE = "staging web-messaging https://api.example"


@pytest.fixture(params=["database", "memory"])
def state(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[State]:
    with State.open(tmp_path / "state" if request.param == "database" else None, clock) as opened:
        yield opened


def session(name: str = "default", **more: Any) -> Session:
    """A session whose birth tells it from those of other names."""
    values = {"api": "web-messaging", "profile": "staging", "created_at": float(sum(name.encode())), **more}
    return Session(name=name, **values)


DEFAULT = session()


@pytest.fixture
def kept(state: State) -> State:
    """With a session in it, whose records these are."""
    state.put(SCOPE, DEFAULT)
    return state


FULL = session(
    ids={"conversation": "c-1", "guest": None},
    state="read_only",
    new_session=False,
    created_at=1_700_000_000.125,
    expires_at=1_700_003_600.5,
    credentials={
        "guest": Credential("guest", Secret("tok-1"), 1_700_000_900.25, Secret("ref-1"), life=900.5),
        "history": Credential("history", Secret("jwt")),
    },
    limits=Limits(2048, 4096, 10240, ("image/png", "text/plain"), (".exe",)),
    notes={"journey": {"a": [1, 2.5, None, True]}, "word": "\ud800 half"},
    used_token="***0a1b2c3d",
    offer={"id": "m-1", "content": [{"contentType": "Form"}]},
    root=1_699_999_000.5,
)


# --- sessions ---


def test_a_session_comes_back_exactly(state: State) -> None:
    state.put(SCOPE, FULL)
    found = state.get(SCOPE, "default")
    assert found == FULL
    assert found is not None
    assert {kind: held.life for kind, held in found.credentials.items()} == {"guest": 900.5, "history": None}
    changed = session(ids={"guest": "g"})
    state.put(SCOPE, changed)
    assert state.get(SCOPE, "default") == changed, "nothing of the old one stays, tokens least of all"
    assert state.get("elsewhere", "default") is None
    assert state.get(SCOPE, "other") is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
CREDENTIALS = st.builds(
    Credential,
    kind=st.sampled_from(["guest", "history", "oauth", "sign-in"]),
    secret=st.builds(Secret, st.text()),
    expires_at=st.none() | st.floats(0, 1e10),
    refresh=st.none() | st.builds(Secret, st.text()),
)
SESSIONS = st.builds(
    Session,
    api=st.text(),
    profile=st.text(),
    ids=st.dictionaries(st.text(), st.none() | st.text(), max_size=3),
    state=st.sampled_from(["draft", "active", "read_only", "ended", "expired", "cleared", "evicted"]),
    new_session=st.booleans(),
    created_at=st.floats(0, 1e10),
    expires_at=st.none() | st.floats(0, 1e10),
    credentials=st.lists(CREDENTIALS, max_size=3).map(lambda held: {c.kind: c for c in held}),
    limits=st.builds(
        Limits,
        attribute_bytes=st.none() | st.integers(),
        file_types=st.lists(st.text(), max_size=2).map(tuple),
        blocked_extensions=st.lists(st.text(), max_size=2).map(tuple),
    ),
    notes=st.dictionaries(st.text(), JSON, max_size=3),
    used_token=st.none() | st.text(),
    offer=JSON,
    root=st.none() | st.floats(0, 1e10),
)


@given(SESSIONS)
@settings(max_examples=150)
def test_any_session_comes_back_exactly(stored: Session) -> None:
    with State.open(None, FakeClock()) as state:
        state.put(SCOPE, stored)
        assert state.get(SCOPE, stored.name) == stored
        assert state.sessions() == [(SCOPE, stored)]


def test_sessions_in_the_order_they_came(state: State) -> None:
    for scope, name in (("b", "z"), ("a", "y"), ("b", "x")):
        state.put(scope, session(name))
    state.put("b", session("z", state="active"))
    assert [(scope, s.name) for scope, s in state.sessions()] == [("b", "z"), ("a", "y"), ("b", "x")]
    assert [s.name for _, s in state.sessions("b")] == ["z", "x"]


def test_the_current_session(state: State) -> None:
    assert state.current(SCOPE) is None
    state.use(SCOPE, "a")
    state.use(SCOPE, "b")
    assert state.current(SCOPE) == "b"
    assert state.current("elsewhere") is None


def fill(state: State, name: str) -> Session:
    stored = session(name)
    state.put(SCOPE, stored)
    state.use(SCOPE, name)
    state.begin(SCOPE, stored, "k", "text")
    state.record(SCOPE, stored, [LedgerEntry("m1")])
    state.set_cursor(SCOPE, stored, "/f", Cursor("1:2", 10, "m1"))
    state.log(SCOPE, stored, "session_started", {})
    return stored


def traces(state: State, name: str, of: Session | None = None) -> list[Any]:
    records = of or session(name)
    return [
        state.get(SCOPE, name) is not None,
        state.current(SCOPE) == name,
        len(state.outbox(SCOPE, records)),
        state.last_position(SCOPE, records) is not None,
        state.cursor(SCOPE, records, "/f") is not None,
        len(state.activity(SCOPE, records)),
    ]


def test_forgetting_leaves_nothing(state: State) -> None:
    fill(state, "a")
    assert traces(state, "a") == [True, True, 1, True, True, 1]
    assert state.forget(SCOPE, "a")
    assert traces(state, "a") == [False, False, 0, False, False, 0]
    assert not state.forget(SCOPE, "a")


def test_renaming_takes_everything_along(state: State) -> None:
    other, mine = fill(state, "b"), fill(state, "a")
    state.rename(SCOPE, "a", "b")
    assert traces(state, "a", other) == [False, False, 0, False, False, 0]
    assert traces(state, "b", mine) == [True, True, 1, True, True, 1]
    renamed = state.get(SCOPE, "b")
    assert renamed is not None
    assert renamed.name == "b"
    state.rename(SCOPE, "none", "b")
    state.rename(SCOPE, "b", "b")
    assert traces(state, "b", mine) == [True, True, 1, True, True, 1]


# --- records belong to a session, not to its name ---


def test_whoever_still_knows_a_session_by_its_old_name_finds_it(state: State) -> None:
    old = fill(state, "a")
    state.rename(SCOPE, "a", "a-1")
    state.put(SCOPE, replace(old, created_at=old.created_at + 1))
    state.mark(SCOPE, old, "k", "accepted", "m2")
    state.record(SCOPE, old, [LedgerEntry("m2")])
    state.log(SCOPE, old, "late", {})
    assert state.amend(SCOPE, old, lambda stored: replace(stored, notes={"late": True}))
    found = state.find(SCOPE, old)
    assert found is not None
    assert (found.name, found.notes) == ("a-1", {"late": True})
    successor = state.get(SCOPE, "a")
    assert successor is not None
    assert successor.notes == {}
    assert traces(state, "a", successor)[2:] == [0, False, False, 0]
    assert [row.message_id for row in state.outbox(SCOPE, old)] == ["m2"]
    assert state.seen(SCOPE, old, ["m1", "m2"]) == {"m1", "m2"}


@pytest.mark.parametrize("how", ["forgotten", "replaced"])
def test_nothing_is_recorded_of_a_session_that_is_gone(clock: FakeClock, how: str) -> None:
    notices: list[str] = []
    with State.open(None, clock, notice=notices.append) as state:
        old = fill(state, "a")
        if how == "forgotten":
            state.forget(SCOPE, "a")
        successor = replace(old, created_at=old.created_at + 1)
        state.put(SCOPE, successor)
        assert state.find(SCOPE, old) is None
        assert not state.amend(SCOPE, old, lambda stored: replace(stored, notes={"late": True}))
        state.record(SCOPE, old, [LedgerEntry("m2")])
        state.log(SCOPE, old, "late", {})
        state.set_cursor(SCOPE, old, "/f", Cursor("1:2", 20, "m2"))
        state.mark(SCOPE, old, "k", "in_doubt")
        assert notices == ["session 'a' was forgotten or replaced by another command: nothing more is recorded of it"]
        for act in (lambda: state.begin(SCOPE, old, "k2", ""), lambda: state.mark(SCOPE, old, "k", "writing")):
            with pytest.raises(SessionOver) as caught:
                act()
            assert caught.value.code == "session.replaced"
        assert traces(state, "a", successor)[2:] == traces(state, "a", old)[2:] == [0, False, False, 0]
        assert state.get(SCOPE, "a") == successor


def test_what_is_told_of_a_lost_session_is_told_after_the_transaction(tmp_path: Path, clock: FakeClock) -> None:
    """Whoever reads it may take long: nobody else may wait for that."""

    def busy(text: str) -> None:
        with State.open(tmp_path / "s", clock) as other:
            other.use(SCOPE, "told")

    with State.open(tmp_path / "s", clock, notice=busy) as state:
        state.log(SCOPE, DEFAULT, "late", {})
        assert state.current(SCOPE) == "told"


def test_sessions_born_in_one_instant_are_told_apart_by_name(state: State) -> None:
    twins = [session(name, created_at=5.0) for name in ("a", "b")]
    for number, twin in enumerate(twins):
        state.put(SCOPE, twin)
        state.record(SCOPE, twin, [LedgerEntry(f"m{number}")])
    assert [state.last_position(SCOPE, twin) for twin in twins] == [LedgerEntry("m0"), LedgerEntry("m1")]


def test_shared_credentials(state: State) -> None:
    assert state.get_credential(SCOPE, "oauth") is None
    for secret in ("one", "two"):
        state.put_credential(SCOPE, Credential("oauth", Secret(secret), 17.5))
    assert state.get_credential(SCOPE, "oauth") == Credential("oauth", Secret("two"), 17.5)
    assert state.get_credential(SCOPE, "guest") is None


def test_a_forgotten_token_is_nowhere_in_the_files(tmp_path: Path, clock: FakeClock) -> None:
    with State.open(tmp_path / "s", clock) as state:
        state.put(SCOPE, FULL)
        state.forget(SCOPE, "default")
        assert b"tok-1" not in b"".join(path.read_bytes() for path in (tmp_path / "s").glob("state.db*"))


# --- outbox ---


def test_a_send_from_beginning_to_end(kept: State, clock: FakeClock) -> None:
    row = kept.begin(SCOPE, DEFAULT, "k1", "hello")
    assert (row.key, row.text, row.state, row.begun_at, row.written_at) == ("k1", "hello", "queued", clock.now(), None)
    clock.sleep(1)
    kept.mark(SCOPE, DEFAULT, "k1", "writing")
    clock.sleep(1)
    kept.mark(SCOPE, DEFAULT, "k1", "accepted", "id-1", "2026-03-04T09:15:27.412Z")
    done = kept.sent(SCOPE, DEFAULT, "k1")
    assert done is not None
    assert (done.state, done.message_id, done.time) == ("accepted", "id-1", "2026-03-04T09:15:27.412Z")
    assert done.written_at == row.begun_at + 1
    assert kept.sent(SCOPE, DEFAULT, "k2") is None
    assert kept.sent("elsewhere", DEFAULT, "k1") is None


def test_the_outbox_by_state_in_order(kept: State) -> None:
    for key in ("c", "a", "b"):
        kept.begin(SCOPE, DEFAULT, key, key)
    kept.mark(SCOPE, DEFAULT, "a", "in_doubt")
    kept.mark(SCOPE, DEFAULT, "c", "writing")
    assert [row.key for row in kept.outbox(SCOPE, DEFAULT)] == ["c", "a", "b"]
    assert [row.key for row in kept.outbox(SCOPE, DEFAULT, "writing", "in_doubt")] == ["c", "a"]
    assert kept.outbox(SCOPE, DEFAULT, "rejected") == []


@pytest.mark.parametrize("before", ["writing", "in_doubt", "accepted"])
def test_a_key_that_may_have_left_is_not_begun_again(kept: State, before: Any) -> None:
    kept.begin(SCOPE, DEFAULT, "k", "first")
    kept.mark(SCOPE, DEFAULT, "k", before)
    again = kept.begin(SCOPE, DEFAULT, "k", "second")
    assert (again.text, again.state) == ("first", before)


@pytest.mark.parametrize("before", ["queued", "rejected", "not_sent"])
def test_a_key_that_did_not_arrive_starts_over(kept: State, before: Any) -> None:
    kept.begin(SCOPE, DEFAULT, "k", "first")
    kept.mark(SCOPE, DEFAULT, "k", "writing")
    kept.mark(SCOPE, DEFAULT, "k", before, "id", "time")
    again = kept.begin(SCOPE, DEFAULT, "k", "second")
    assert (again.text, again.state, again.message_id, again.written_at) == ("second", "queued", None, None)


def test_settled_sends_are_kept_up_to_a_bound_and_unsettled_ones_always(
    kept: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    kept.begin(SCOPE, DEFAULT, "doubt", "")
    kept.mark(SCOPE, DEFAULT, "doubt", "in_doubt")
    for number in range(6):
        kept.begin(SCOPE, DEFAULT, f"k{number}", "")
        kept.mark(SCOPE, DEFAULT, f"k{number}", "accepted")
    assert [row.key for row in kept.outbox(SCOPE, DEFAULT)] == ["doubt", "k3", "k4", "k5"]


# --- ledger, cursor ---


def test_the_ledger_knows_what_was_seen(kept: State) -> None:
    kept.record(SCOPE, DEFAULT, [])
    assert kept.last_position(SCOPE, DEFAULT) is None
    kept.record(SCOPE, DEFAULT, [LedgerEntry("m1", "k1", 1, "t1"), LedgerEntry("m2")])
    kept.record(SCOPE, DEFAULT, [LedgerEntry("m1")])
    assert kept.seen(SCOPE, DEFAULT, ["m0", "m1", "m2", "m3"]) == {"m1", "m2"}
    assert kept.seen(SCOPE, DEFAULT, []) == set()
    assert kept.last_position(SCOPE, DEFAULT) == LedgerEntry("m2"), "seen again is not seen last"
    kept.record(SCOPE, DEFAULT, [LedgerEntry("m2", "k2", 2, "t2"), LedgerEntry("m2", "other", 9, "t9")])
    assert kept.last_position(SCOPE, DEFAULT) == LedgerEntry("m2", "k2", 2, "t2")


def test_the_ledger_keeps_the_newest(kept: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 100)
    ids = [f"m{number}" for number in range(1_234)]
    for start in range(0, len(ids), 50):
        kept.record(SCOPE, DEFAULT, [LedgerEntry(id_) for id_ in ids[start : start + 50]])
    assert kept.seen(SCOPE, DEFAULT, ids) == set(ids[-100:])


def test_looking_up_does_not_read_the_whole_ledger(tmp_path: Path, clock: FakeClock) -> None:
    State.open(tmp_path / "s", clock).close()
    with sqlite3.connect(tmp_path / "s" / database.FILE) as connection:
        for query in (
            f"SELECT id FROM ledger WHERE session = {module._SESSION} AND id IN (?, ?)",
            f"SELECT id FROM ledger WHERE session = {module._SESSION} ORDER BY n DESC LIMIT 1",
            module._OUTBOX + "AND o.key = ?",
            module._OUTBOX + "AND o.state IN (?) ORDER BY o.n",
        ):
            plan = connection.execute(f"EXPLAIN QUERY PLAN {query}", ["x"] * query.count("?")).fetchall()
            assert not any("SCAN" in step[-1] for step in plan), plan
    connection.close()


def test_cursors(kept: State) -> None:
    assert kept.cursor(SCOPE, DEFAULT, "/a") is None
    kept.set_cursor(SCOPE, DEFAULT, "/a", Cursor("8:1", 0, None))
    kept.set_cursor(SCOPE, DEFAULT, "/a", Cursor("8:1", 120, "m2"))
    assert kept.cursor(SCOPE, DEFAULT, "/a") == Cursor("8:1", 120, "m2")
    assert kept.cursor(SCOPE, DEFAULT, "/b") is None


# --- budgets ---


def test_a_budget_is_spent_and_comes_back(state: State, clock: FakeClock) -> None:
    assert [state.take("b", 2, 10) for _ in range(2)] == [0.0, 0.0]
    clock.sleep(4)
    assert state.take("b", 2, 10) == pytest.approx(6)
    assert state.take("other", 1, 10) == 0.0
    clock.sleep(6)
    assert [state.take("b", 2, 10), state.take("b", 2, 10)] == [0.0, 0.0]
    assert state.take("b", 2, 10) == pytest.approx(10)


@given(
    st.integers(1, 5),
    st.floats(0.001, 100),
    st.lists(st.none() | st.floats(0, 30), max_size=40),
    st.floats(0, 2_000_000_000),
)
@settings(max_examples=200)
def test_no_window_ever_holds_more_than_the_budget(
    count: int, period: float, steps: list[float | None], start: float
) -> None:
    clock = FakeClock(start)
    gone: list[float] = []
    with State.open(None, clock) as state:
        for step in steps:
            wait = state.take("b", count, period)
            assert 0 <= wait <= max(period, 0.001)
            if wait == 0:
                gone.append(clock.now())
            clock.sleep(wait if step is None else step)
    tolerance = 4e-7 + period * 1e-9  # a double holds today's seconds to a quarter of a microsecond
    assert all(after - before >= period - tolerance for before, after in zip(gone, gone[count:], strict=False))


def test_waiting_as_told_is_enough(state: State, clock: FakeClock) -> None:
    for _ in range(3):
        state.take("b", 3, 0.1)
    asked = 0
    while wait := state.take("b", 3, 0.1):
        clock.sleep(wait)
        asked += 1
    assert 1 <= asked <= 2


def test_bookings_nobody_asks_for_any_more_go(state: State, clock: FakeClock) -> None:
    state.take("of a session that is gone", 1, 60)
    clock.sleep(module.DAY + 1)
    state.take("b", 1, 60)
    state.put(SCOPE, DEFAULT)
    assert state._rows("SELECT bucket FROM budget") == [("b",)]


def test_a_clock_set_back_does_not_stop_the_budget(state: State, clock: FakeClock) -> None:
    assert [state.take("b", 2, 10) for _ in range(2)] == [0.0, 0.0]
    clock.jump(-3600)
    assert state.take("b", 2, 10) == pytest.approx(10)
    clock.sleep(10)
    assert state.take("b", 2, 10) == 0.0


# --- activity, caches, sandbox ---


def test_the_activity_log(kept: State, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 2)
    for event in ("session_started", "ws_connected", "ws_disconnected"):
        clock.sleep(1)
        kept.log(SCOPE, DEFAULT, event, {"code": 1006})
    assert kept.activity(SCOPE, DEFAULT) == [
        Activity(clock.now() - 1, "ws_connected", {"code": 1006}),
        Activity(clock.now(), "ws_disconnected", {"code": 1006}),
    ]


def test_a_configuration_is_kept_for_a_while(state: State, clock: FakeClock) -> None:
    assert state.deployment(SCOPE, 60) is None
    state.put_deployment(SCOPE, "{}")
    state.put_deployment(SCOPE, '{"a": 1}')
    clock.sleep(60)
    assert state.deployment(SCOPE, 60) == '{"a": 1}'
    clock.sleep(1)
    assert state.deployment(SCOPE, 60) is None
    clock.jump(-3600)
    assert state.deployment(SCOPE, 60) is None, "kept in the future: no telling how old it is"


def test_the_sandbox_started_last(state: State) -> None:
    assert state.sandbox() is None
    for port in (1, 2, 1):
        state.put_sandbox({"url": f"http://127.0.0.1:{port}", "admin_key": "k"})
    assert state.sandbox() == {"url": "http://127.0.0.1:1", "admin_key": "k"}
    state.forget_sandbox("http://127.0.0.1:1")
    assert state.sandbox() == {"url": "http://127.0.0.1:2", "admin_key": "k"}


# --- locks ---


def test_a_lock_is_held_once_and_comes_free(state: State, clock: FakeClock) -> None:
    with state.lock("refresh", Deadline.after(clock, 1)):
        with pytest.raises(TimedOut) as caught, state.lock("refresh", Deadline.after(clock, 1)):
            pytest.fail("held twice")
        assert caught.value.code == "timeout.busy"
        assert clock.monotonic() == pytest.approx(1)
        with state.lock("another", Deadline.after(clock, 0)):
            pass
    with state.lock("refresh", Deadline.after(clock, 0)):
        pass


def test_a_lock_is_given_back_whatever_happens(state: State, clock: FakeClock) -> None:
    with suppress(KeyboardInterrupt), state.lock("a", Deadline.after(clock, 0)):
        raise KeyboardInterrupt
    with state.lock("a", Deadline.after(clock, 0)):
        pass


def test_a_waiter_gets_the_lock_when_the_holder_lets_go(state: State, clock: FakeClock) -> None:
    holder = state.lock("a", Deadline.after(clock, 0))
    holder.__enter__()

    class Helpful(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.monotonic() > 0.3:
                with suppress(RuntimeError, StopIteration):
                    holder.__exit__(None, None, None)

    helpful = Helpful()
    with state.lock("a", Deadline.after(helpful, 30)):
        assert helpful.monotonic() < 1


def test_slots(kept: State, clock: FakeClock) -> None:
    deadline = Deadline.after(clock, 0)
    first, second, third = (kept.slot(SCOPE, DEFAULT, 2, deadline) for _ in range(3))
    with first:
        with second, pytest.raises(TimedOut, match="all 2 connections of session 'default'"), third:
            pytest.fail("three of two")
        with kept.slot(SCOPE, session("other"), 2, deadline), kept.slot(SCOPE, DEFAULT, 2, deadline):
            pass


def test_turns_belong_to_a_session_whatever_it_is_called(state: State, clock: FakeClock) -> None:
    deadline = Deadline.after(clock, 0)
    old = session("a")
    renamed, successor = replace(old, name="a-1"), replace(old, created_at=old.created_at + 1)
    restarted = replace(successor, root=old.created_at)
    with state.slot(SCOPE, old, 1, deadline):
        for other in (renamed, restarted):
            with pytest.raises(TimedOut), state.slot(SCOPE, other, 1, deadline):
                pytest.fail("two of one")
        with state.slot(SCOPE, successor, 1, deadline):
            pass


def test_waiting_for_a_place_is_told_when_it_lasts(clock: FakeClock) -> None:
    notices: list[str] = []
    with (
        State.open(None, clock, notice=notices.append) as state,
        state.slot(SCOPE, DEFAULT, 1, Deadline.after(clock, 0)),
    ):
        for seconds in (0.5, 5.0):
            with pytest.raises(TimedOut), state.slot(SCOPE, DEFAULT, 1, Deadline.after(clock, seconds)):
                pass
    assert notices == ["other guestctl processes hold all 1 connections of session 'default': waiting"]


def test_a_forgotten_session_leaves_no_lock_behind(tmp_path: Path, clock: FakeClock) -> None:
    with State.open(tmp_path / "s", clock) as state:
        before = set((tmp_path / "s" / "locks").iterdir())
        for stored in (fill(state, "a"), fill(state, "b")):
            with (
                state.slot(SCOPE, stored, 1, Deadline.after(clock, 0)),
                state.lock("send", Deadline.after(clock, 0), owner=owner_of(SCOPE, stored)),
            ):
                pass
        state.forget(SCOPE, "a")
        left = set((tmp_path / "s" / "locks").iterdir()) - before
        assert left == set(database._locks(tmp_path / "s", owner_of(SCOPE, session("b"))))
        assert len(left) == 2


def test_threads_of_one_process_exclude_each_other_too(tmp_path: Path) -> None:
    from guestctl.clock import SystemClock

    clock = SystemClock()
    inside, most = 0, 0
    mutex = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        with State.open(tmp_path / "s", clock) as state:
            for _ in range(10):
                with state.slot(SCOPE, DEFAULT, 2, Deadline.after(clock, 60)):
                    with mutex:
                        inside += 1
                        most = max(most, inside)
                    state.log(SCOPE, DEFAULT, "inside", {})
                    with mutex:
                        inside -= 1

    with State.open(tmp_path / "s", clock) as state:
        state.put(SCOPE, DEFAULT)
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most <= 2
    with State.open(tmp_path / "s", clock) as state:
        assert len(state.activity(SCOPE, DEFAULT)) == 80


# --- where it is kept, and that it is private ---


def test_where_state_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert State.directory({"GUESTCTL_STATE": str(tmp_path)}) == tmp_path
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert State.directory({}).name == "guestctl"


posix = pytest.mark.skipif(os.name != "posix", reason="modes and owners are POSIX")


@posix
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_nobody_else_can_read_it_whatever_the_umask(tmp_path: Path, clock: FakeClock, umask: int) -> None:
    directory = tmp_path / "parent" / "s"
    directory.parent.mkdir()
    before = os.umask(umask)
    try:
        with State.open(directory, clock) as state:
            fill(state, "a")
            with state.lock("a", Deadline.after(clock, 0)):
                modes = {path: stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*")}
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {path.name for path in modes} >= {"state.db", "state.db-wal", "state.db-shm", "locks"}
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items()), modes


def refusal(directory: Path, clock: FakeClock) -> UsageError:
    with pytest.raises(UsageError) as caught:
        State.open(directory, clock)
    assert caught.value.code == "state.unusable"
    return caught.value


@posix
@pytest.mark.parametrize("mode", [0o755, 0o750, 0o777, 0o701])
def test_a_directory_others_can_enter_is_refused_with_the_mending_command(
    tmp_path: Path, clock: FakeClock, mode: int
) -> None:
    directory = tmp_path / "my state"
    directory.mkdir()
    directory.chmod(mode)
    assert refusal(directory, clock).hint == f"Run: chmod 700 '{directory}'"
    directory.chmod(0o700)
    State.open(directory, clock).close()


@posix
def test_a_file_others_can_read_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    State.open(tmp_path / "s", clock).close()
    (tmp_path / "s" / "state.db").chmod(0o640)
    assert refusal(tmp_path / "s", clock).hint == f"Run: chmod 600 {tmp_path / 's' / 'state.db'}"


@posix
def test_files_are_private_from_the_first_instant(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not made so afterwards, when somebody else may have them open."""
    monkeypatch.setattr(os, "fchmod", lambda *_: None)
    before = os.umask(0)
    try:
        with State.open(tmp_path / "s", clock) as state, state.lock("x", Deadline.after(clock, 1)):
            modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "s").rglob("*") if path.is_file()}
    finally:
        os.umask(before)
    assert modes == {0o600}


@posix
def test_links_are_refused(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    refused = refusal(tmp_path / "link", clock)
    assert refused.message == f"{tmp_path / 'link'} is a symbolic link; state is kept only in a real directory"
    assert refused.hint == f"Set GUESTCTL_STATE to the real directory, or remove the link: rm {tmp_path / 'link'}"
    planted = tmp_path / "elsewhere"
    (tmp_path / "real" / "state.db").symlink_to(planted)
    assert "symbolic link" in refusal(tmp_path / "real", clock).message
    assert not planted.exists()


@posix
def test_a_foreign_owner_is_refused(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    State.open(tmp_path / "s", clock).close()
    real = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: real + 1)
    assert f"belongs to another user (uid {real})" in refusal(tmp_path / "s", clock).message


def test_a_file_where_the_directory_should_be(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "s").write_text("")
    assert "is not a directory" in refusal(tmp_path / "s", clock).message
    assert "cannot be used" in refusal(tmp_path / "s" / "deeper", clock).message
    (tmp_path / "d" / "state.db").mkdir(parents=True)
    (tmp_path / "d").chmod(0o700)
    assert "is not a file" in refusal(tmp_path / "d", clock).message


@pytest.mark.parametrize(("owner", "call"), [(Path, "mkdir"), (os, "open")])
def test_a_place_that_cannot_be_written(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, owner: object, call: str
) -> None:
    def read_only(*_: object, **__: object) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(owner, call, read_only)
    error = refusal(tmp_path / "s", clock)
    assert "Read-only file system" in error.message
    assert "GUESTCTL_STATE" in error.hint


def test_windows_has_no_owners_to_compare(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "geteuid", raising=False)
    monkeypatch.delattr(os, "fchmod", raising=False)
    (tmp_path / "s").mkdir(mode=0o755)
    with State.open(tmp_path / "s", clock) as state:
        fill(state, "a")


# --- full disks, damage, other versions ---


class Failing:
    """A connection on which some statements fail."""

    def __init__(self, real: sqlite3.Connection, fails: Callable[[str], sqlite3.Error | None]) -> None:
        self._real = real
        self._fails = fails

    def execute(self, sql: str, values: Any = ()) -> sqlite3.Cursor:
        if (error := self._fails(sql)) is not None:
            raise error
        return self._real.execute(sql, values)

    def close(self) -> None:
        self._real.close()


def when(start: str, error: sqlite3.Error) -> Callable[[str], sqlite3.Error | None]:
    return lambda sql: error if sql.startswith(start) else None


@pytest.mark.parametrize("start", ["BEGIN", "INSERT", "COMMIT"])
def test_a_full_disk_loses_nothing_and_says_so(tmp_path: Path, clock: FakeClock, start: str) -> None:
    with State.open(tmp_path / "s", clock) as state:
        state.put(SCOPE, session("a"))
        real = state._database.connection
        full = sqlite3.OperationalError("database or disk is full")
        state._database.connection = Failing(real, when(start, full))  # type: ignore[assignment]
        with pytest.raises(UsageError) as caught:
            state.begin(SCOPE, session("a"), "k", "text")
        assert caught.value.code == "state.unusable"
        assert caught.value.message == f"state in {tmp_path / 's'} cannot be used: database or disk is full"
        state._database.connection = real
        assert state.sent(SCOPE, session("a"), "k") is None
        assert state.get(SCOPE, "a") == session("a")
        assert state.begin(SCOPE, session("a"), "k", "text").state == "queued"


@pytest.mark.parametrize("start", ["SELECT 1 FROM sqlite_master", "BEGIN EXCLUSIVE"])
def test_a_disk_that_cannot_be_read_is_no_damage(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    """Neither to the database, which stays where it is, nor a lock that somebody else holds."""
    directory = tmp_path / "s"
    with State.open(directory, clock) as state:
        state.put(SCOPE, session("a"))
    connect, closed = database._connect, []

    class Broken(Failing):
        def close(self) -> None:
            super().close()
            closed.append(True)

    with monkeypatch.context() as patch:
        broken = when(start, sqlite3.OperationalError("disk I/O error"))
        patch.setattr(database, "_connect", lambda path: Broken(connect(path), broken))
        with (
            pytest.raises(UsageError) as caught,
            State.open(directory, clock) as state,
            state.lock("x", Deadline.after(clock, 1)),
        ):
            pass
    assert caught.value.code == "state.unusable"
    assert "disk I/O error" in caught.value.message
    assert closed
    assert list(directory.glob("*damaged*")) == []
    with State.open(directory, clock) as state, state.lock("x", Deadline.after(clock, 1)):
        assert state.get(SCOPE, "a") == session("a")


def test_a_full_disk_under_memory(clock: FakeClock) -> None:
    with State.open(None, clock) as state:
        full = sqlite3.OperationalError("database or disk is full")
        state._database.connection = Failing(state._database.connection, when("BEGIN", full))  # type: ignore[assignment]
        with pytest.raises(UsageError) as caught:
            state.use(SCOPE, "a")
    assert caught.value.message == "state in memory cannot be used: database or disk is full"


def test_a_name_that_is_no_text_can_be_locked(state: State, clock: FakeClock) -> None:
    with state.lock("caf\udce9", Deadline.after(clock, 1), owner="\ud800"):
        pass


def test_a_bug_of_ours_is_not_blamed_on_the_disk(state: State) -> None:
    state._database.connection = Failing(state._database.connection, when("SELECT", sqlite3.ProgrammingError("bad")))  # type: ignore[assignment]
    with pytest.raises(sqlite3.ProgrammingError):
        state.current(SCOPE)


def test_what_is_no_text_is_refused(state: State) -> None:
    with pytest.raises(UsageError, match="not valid Unicode"):
        state.get(SCOPE, "caf\udce9")
    with pytest.raises(UsageError, match="not valid Unicode"):
        state.use(SCOPE, "caf\udce9")
    assert state.current(SCOPE) is None


GARBAGE = [b"not a database, but rather a long text " * 100, b"\0" * 5000, b"SQLite format 3\0" + b"\xff" * 4080]


@pytest.mark.parametrize("content", GARBAGE)
def test_a_damaged_file_is_set_aside_and_never_deleted(tmp_path: Path, clock: FakeClock, content: bytes) -> None:
    directory = tmp_path / "s"
    State.open(directory, clock).close()
    (directory / "state.db").write_bytes(content)
    (directory / "state.db-wal").write_bytes(b"old log")
    notices: list[str] = []
    with State.open(directory, clock, notice=notices.append) as state:
        fill(state, "a")
    (kept,) = directory.glob("state.db.damaged-*Z")
    assert kept.read_bytes() == content
    assert kept.name == f"state.db.damaged-{rfc3339(clock.now()).translate({ord(':'): None, ord('-'): None})}"
    assert notices == [f"the state database was damaged: it is kept as {kept}, and guestctl starts with an empty one"]
    notices.clear()
    with State.open(directory, clock, notice=notices.append) as state:
        assert traces(state, "a") == [True, True, 1, True, True, 1]
    assert notices == []


def test_damage_found_only_in_use(tmp_path: Path, clock: FakeClock) -> None:
    directory = tmp_path / "s"
    with State.open(directory, clock) as state:
        state.put(SCOPE, session("a"))
        for number in range(50):
            state.begin(SCOPE, session("a"), f"k{number}", "x" * 2000)
    path = directory / "state.db"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)  # the first page, with the schema, stays good
    path.write_bytes(content)
    notices: list[str] = []
    with State.open(directory, clock, notice=notices.append) as state:
        with pytest.raises(UsageError) as caught:
            state.outbox(SCOPE, session("a"))
        assert caught.value.code == "state.unusable"
        assert "set aside" in caught.value.message
        assert len(notices) == 1
        assert state.outbox(SCOPE, session("a")) == [], "what comes after it can work"
    (kept,) = directory.glob("state.db.damaged-*")
    assert kept.read_bytes() == bytes(content)


def test_damage_that_another_process_has_dealt_with(tmp_path: Path, clock: FakeClock) -> None:
    directory = tmp_path / "s"
    damage = when("SELECT", sqlite3.DatabaseError("database disk image is malformed"))
    notices: list[str] = []
    with State.open(directory, clock, notice=notices.append) as state:
        state._database.connection = Failing(state._database.connection, damage)  # type: ignore[assignment]
        for path in directory.glob("state.db*"):
            path.rename(directory / f"moved-{path.name}")
        with State.open(directory, clock) as other:
            other.use(SCOPE, "theirs")
        with pytest.raises(UsageError):
            state.current(SCOPE)
        assert state.current(SCOPE) == "theirs"
    assert notices == []


def test_an_empty_file_is_a_creation_cut_off(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "s").mkdir(mode=0o700)
    (tmp_path / "s" / "state.db").touch(mode=0o600)
    notices: list[str] = []
    with State.open(tmp_path / "s", clock, notice=notices.append) as state:
        fill(state, "a")
    assert notices == []


def test_a_newer_schema_is_refused_with_both_versions(tmp_path: Path, clock: FakeClock) -> None:
    with State.open(tmp_path / "s", clock) as state:
        state._rows("PRAGMA user_version=7")
    with pytest.raises(UsageError) as caught:
        State.open(tmp_path / "s", clock)
    assert caught.value.code == "state.version"
    assert "has schema 7" in caught.value.message
    assert f"this one knows {len(database._STEPS)}" in caught.value.message


def test_an_older_schema_is_migrated_with_a_backup(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "s"
    with State.open(directory, clock) as state:
        state.put(SCOPE, FULL)
    old = len(database._STEPS)
    later = (*database._STEPS, ("ALTER TABLE current ADD COLUMN since REAL", "UPDATE current SET since = 0"))
    monkeypatch.setattr(database, "_STEPS", later)
    notices: list[str] = []
    with State.open(directory, clock, notice=notices.append) as state:
        assert state.get(SCOPE, "default") == FULL
        assert state._rows("PRAGMA user_version") == [(old + 1,)]
    (backup,) = directory.glob(f"state.db.schema-{old}-*")
    assert str(backup) in notices[0]
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    copy = sqlite3.connect(backup)
    assert copy.execute("SELECT count(*) FROM session").fetchone() == (1,)
    copy.close()


#: As published; never edited.
SCHEMA_1 = """
CREATE TABLE session (n INTEGER PRIMARY KEY, scope TEXT NOT NULL, name TEXT NOT NULL, body TEXT, UNIQUE (scope, name));
CREATE TABLE current (scope TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE credential (scope TEXT, kind TEXT, body TEXT NOT NULL, PRIMARY KEY (scope, kind)) WITHOUT ROWID;
CREATE TABLE outbox (session INTEGER NOT NULL REFERENCES session ON DELETE CASCADE, n INTEGER NOT NULL,
 key TEXT NOT NULL, text TEXT NOT NULL, state TEXT NOT NULL, message_id TEXT, time TEXT,
 begun_at REAL NOT NULL, written_at REAL, PRIMARY KEY (session, n)) WITHOUT ROWID;
CREATE UNIQUE INDEX outbox_key ON outbox (session, key);
CREATE INDEX outbox_state ON outbox (session, state);
CREATE TABLE ledger (session INTEGER NOT NULL REFERENCES session ON DELETE CASCADE, n INTEGER NOT NULL,
 id TEXT NOT NULL, key TEXT, sequence INTEGER, time TEXT, PRIMARY KEY (session, n)) WITHOUT ROWID;
CREATE UNIQUE INDEX ledger_id ON ledger (session, id);
CREATE TABLE cursor (session INTEGER NOT NULL REFERENCES session ON DELETE CASCADE, path TEXT NOT NULL,
 identity TEXT NOT NULL, position INTEGER NOT NULL, id TEXT, PRIMARY KEY (session, path)) WITHOUT ROWID;
CREATE TABLE activity (session INTEGER NOT NULL REFERENCES session ON DELETE CASCADE, n INTEGER NOT NULL,
 at REAL NOT NULL, event TEXT NOT NULL, details TEXT NOT NULL, PRIMARY KEY (session, n)) WITHOUT ROWID;
CREATE TABLE budget (bucket TEXT NOT NULL, at REAL NOT NULL);
CREATE INDEX budget_at ON budget (bucket, at);
CREATE TABLE deployment (scope TEXT PRIMARY KEY, at REAL NOT NULL, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE sandbox (n INTEGER PRIMARY KEY, url TEXT NOT NULL UNIQUE, body TEXT NOT NULL);
PRAGMA user_version = 1;
"""
#: A birth that takes all the digits a double has.
BODY_1 = (
    '{"api": "guests", "profile": "p", "name": "NAME", "ids": {"conversation": "c-1"}, "state": "active",'
    ' "new_session": false, "created_at": 1772615727.1234567, "expires_at": null, "credentials": {"guest":'
    ' {"kind": "guest", "secret": "tok", "expires_at": 1772616727.5, "refresh": null, "life": 900.0}},'
    ' "limits": {"attribute_bytes": null, "text_length": 4096, "file_kilobytes": null, "file_types": [],'
    ' "blocked_extensions": []}, "notes": {}}'
)


def test_what_an_older_record_keeps_among_the_notes_is_found(state: State) -> None:
    notes = (
        '{"pending_attributes": {"plan": "gold"}, "used_token": "***0a1b2c3d",'
        ' "offer": {"id": "m-1"}, "root": 1772615000.25}'
    )
    body = BODY_1.replace("NAME", "cart").replace('"notes": {}', f'"notes": {notes}')
    assert notes in body
    state.put(SCOPE, session("cart", created_at=1772615727.1234567))
    with state._transaction(durable=False) as run:
        run("UPDATE session SET body = ?", (body,))
    found = state.get(SCOPE, "cart")
    assert found is not None
    assert (found.used_token, found.offer, found.root) == ("***0a1b2c3d", {"id": "m-1"}, 1772615000.25)
    assert found.notes == {"pending_attributes": {"plan": "gold"}}, "and what is the dialect's stays its own"
    assert state.amend(SCOPE, found, lambda stored: stored)
    ((kept,),) = state._rows("SELECT body FROM session")
    assert json.loads(kept) == json.loads(body), "so that the older version reads it, too"


def test_a_database_of_schema_1_keeps_all_its_records(tmp_path: Path, clock: FakeClock) -> None:
    directory = tmp_path / "s"
    directory.mkdir(mode=0o700)
    (directory / database.FILE).touch(mode=0o600)
    old = sqlite3.connect(directory / database.FILE)
    old.executescript("PRAGMA journal_mode=WAL;" + SCHEMA_1)
    rows = [(1, "cart", BODY_1.replace("NAME", "cart")), (2, "edited by hand", "{"), (3, "orphans", None)]
    old.executemany("INSERT INTO session (n, scope, name, body) VALUES (?, 'x', ?, ?)", rows)
    for n in (1, 3):
        old.execute("INSERT INTO outbox VALUES (?, 1, 'k', '{}', 'in_doubt', NULL, NULL, 5.0, 6.0)", (n,))
        old.execute("INSERT INTO ledger VALUES (?, 1, 'm1', NULL, 1, 't1')", (n,))
        old.execute("INSERT INTO cursor VALUES (?, '/f', '1:2', 10, 'm1')", (n,))
        old.execute("INSERT INTO activity VALUES (?, 1, 7.0, 'session_started', '{}')", (n,))
    old.execute("INSERT INTO current VALUES ('x', 'cart')")
    old.commit()
    old.close()
    notices: list[str] = []
    with State.open(directory, clock, notice=notices.append) as state:
        cart = state.get("x", "cart")
        assert cart is not None
        assert (cart.created_at, cart.token(), cart.limits.text_length) == (1772615727.1234567, "tok", 4096)
        assert state.find("x", cart) == cart
        assert [(row.key, row.state) for row in state.outbox("x", cart)] == [("k", "in_doubt")]
        assert state.last_position("x", cart) == LedgerEntry("m1", None, 1, "t1")
        assert state.cursor("x", cart, "/f") == Cursor("1:2", 10, "m1")
        assert [line.event for line in state.activity("x", cart)] == ["session_started"]
        assert state.current("x") == "cart"
        for table in ("outbox", "ledger", "cursor", "activity"):
            assert state._rows(f"SELECT session FROM {table}") == [(1,)], "what belonged to no session is gone"
        with pytest.raises(UsageError):
            state.get("x", "edited by hand")
        assert state.forget("x", "edited by hand")
    assert len(notices) == 1
    assert "schema 1" in notices[0]


def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "s"
    with State.open(directory, clock) as state:
        fill(state, "a")
    good = database._STEPS
    monkeypatch.setattr(database, "_STEPS", (*good, ("DROP TABLE ledger", "not SQL")))
    assert "syntax error" in refusal(directory, clock).message
    monkeypatch.setattr(database, "_STEPS", good)
    with State.open(directory, clock) as state:
        assert traces(state, "a") == [True, True, 1, True, True, 1]


def test_a_record_edited_by_hand_is_named(tmp_path: Path, clock: FakeClock) -> None:
    notices: list[str] = []
    with State.open(tmp_path / "s", clock, notice=notices.append) as state:
        state.put(SCOPE, session("my cart"))
        for body in ("{", "{}", '{"limits": {}, "credentials": 1}'):
            state._rows("UPDATE session SET body = ?", (body,))
            with pytest.raises(UsageError) as caught:
                state.get(SCOPE, "my cart")
            assert caught.value.hint == "Remove the record: guestctl session forget 'my cart'"
            state.put(SCOPE, DEFAULT)
            notices.clear()
            for tell in (False, True):
                assert state.sessions(tell=tell) == [(SCOPE, DEFAULT)], "it hides no other"
                assert state.names(SCOPE) == {"my cart", "default"}
            assert notices == [f"{caught.value.message}. {caught.value.hint}"]
            state.forget(SCOPE, "default")
        assert state.forget(SCOPE, "my cart")


def test_a_file_system_without_shared_memory(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_write_ahead", lambda connection: "delete")
    notices: list[str] = []
    with State.open(tmp_path / "s", clock, notice=notices.append) as state:
        fill(state, "a")
        assert state._rows("PRAGMA journal_mode") == [("delete",)]
    assert "rollback journal" in notices[0]


def test_somebody_else_prepares_for_ever(tmp_path: Path, clock: FakeClock) -> None:
    State.open(tmp_path / "s", clock).close()
    (tmp_path / "s" / "state.db").unlink()
    with database._alone(tmp_path / "s", clock):
        assert "still preparing it" in refusal(tmp_path / "s", clock).message


def test_what_must_last_is_synced_and_the_rest_is_not(tmp_path: Path, clock: FakeClock) -> None:
    with State.open(tmp_path / "s", clock) as state:
        for act, level in (
            (lambda: state.put(SCOPE, DEFAULT), 2),
            (lambda: state.record(SCOPE, DEFAULT, [LedgerEntry("m")]), 1),
            (lambda: state.begin(SCOPE, DEFAULT, "k", ""), 2),
            (lambda: state.log(SCOPE, DEFAULT, "e", {}), 1),
            (lambda: state.mark(SCOPE, DEFAULT, "k", "writing"), 2),
            (lambda: state.take("b", 1, 1), 1),
            (lambda: state.set_cursor(SCOPE, DEFAULT, "/f", Cursor("i", 0, None)), 2),
        ):
            act()
            assert state._rows("PRAGMA synchronous") == [(level,)]


def test_opening_costs_a_handful_of_statements(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    State.open(tmp_path / "s", clock).close()
    said: list[str] = []
    connect = database._connect

    def traced(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.set_trace_callback(said.append)
        return connection

    monkeypatch.setattr(database, "_connect", traced)
    State.open(tmp_path / "s", clock).close()
    assert len(said) <= 4, said


def test_only_failures_come_out_of_a_directory_of_any_kind(tmp_path: Path, clock: FakeClock) -> None:
    for directory in (Path("/dev/null"), Path("/dev/null/x"), tmp_path / ("x" * 300), Path("/proc/none/x")):
        with pytest.raises(Failure):
            State.open(directory, clock)
