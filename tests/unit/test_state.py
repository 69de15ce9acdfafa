"""The state between commands: sessions, the outbox, the ledger, budgets and locks."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestctl.core.clock import Deadline
from guestctl.core.errors import SessionOver, TimedOut, UsageError
from guestctl.core.model import Credential, Limits, Secret, Session
from guestctl.core.results import Activity
from guestctl.storage import session_rows
from guestctl.storage import state as module
from guestctl.storage.locks import lock_files
from guestctl.storage.private_files import DATABASE_FILE
from guestctl.storage.state import Cursor, LedgerEntry, State, owner_of
from tests.fakes import FakeClock
from tests.properties import examples

SCOPE = "staging web-messaging https://api.example"


@pytest.fixture(params=["database", "memory"])
def state(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[State]:
    with State.open(tmp_path / "state" if request.param == "database" else None, clock) as opened:
        yield opened


def session(name: str = "default", **more: Any) -> Session:
    """Return a session whose time of creation differs from that of sessions with other names."""
    values = {"api": "web-messaging", "profile": "staging", "created_at": float(sum(name.encode())), **more}
    return Session(name=name, **values)


DEFAULT = session()


@pytest.fixture
def kept(state: State) -> State:
    """A state with one session, to which the records belong."""
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
    notes=st.dictionaries(st.text().filter(lambda key: key not in module._AMONG_NOTES), JSON, max_size=3),
    used_token=st.none() | st.text(),
    offer=JSON,
    root=st.none() | st.floats(0, 1e10),
)


@given(SESSIONS)
@settings(max_examples=examples(100))
def test_any_session_comes_back_exactly(stored: Session) -> None:
    with State.open(None, FakeClock()) as state:
        state.put(SCOPE, stored)
        assert state.get(SCOPE, stored.name) == stored
        assert state.sessions() == [(SCOPE, stored)]


def test_sessions_are_listed_in_the_order_of_storing(state: State) -> None:
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
    state.use("elsewhere", "c")
    state.use(SCOPE, None)
    assert (state.current(SCOPE), state.current("elsewhere")) == (None, "c")


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


def test_forgetting_a_session_removes_all_its_records(state: State) -> None:
    fill(state, "a")
    assert traces(state, "a") == [True, True, 1, True, True, 1]
    assert state.forget(SCOPE, "a")
    assert traces(state, "a") == [False, False, 0, False, False, 0]
    assert not state.forget(SCOPE, "a")


def test_renaming_a_session_keeps_its_records(state: State) -> None:
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


def test_a_renamed_session_is_found_under_its_old_name(state: State) -> None:
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
def test_nothing_is_recorded_for_a_forgotten_session(clock: FakeClock, how: str) -> None:
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
        assert notices == ['session "a" was forgotten or replaced by another command: nothing more is recorded for it']
        for act in (lambda: state.begin(SCOPE, old, "k2", ""), lambda: state.mark(SCOPE, old, "k", "writing")):
            with pytest.raises(SessionOver) as caught:
                act()
            assert (caught.value.code, caught.value.api) == ("session.replaced", "web-messaging")
            assert caught.value.message == 'session "a" was forgotten or replaced by another command'
        assert traces(state, "a", successor)[2:] == traces(state, "a", old)[2:] == [0, False, False, 0]
        assert state.get(SCOPE, "a") == successor


def test_a_forgotten_session_is_reported_after_the_transaction(tmp_path: Path, clock: FakeClock) -> None:
    """Printing a notice may take long. No other process may wait for that."""

    def busy(text: str) -> None:
        with State.open(tmp_path / "s", clock) as other:
            other.use(SCOPE, "told")

    with State.open(tmp_path / "s", clock, notice=busy) as state:
        state.log(SCOPE, DEFAULT, "late", {})
        assert state.current(SCOPE) == "told"


def test_sessions_created_at_one_instant_are_distinguished_by_name(state: State) -> None:
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


def test_a_forgotten_token_is_in_no_file(tmp_path: Path, clock: FakeClock) -> None:
    with State.open(tmp_path / "s", clock) as state:
        state.put(SCOPE, FULL)
        state.forget(SCOPE, "default")
        assert b"tok-1" not in b"".join(path.read_bytes() for path in (tmp_path / "s").glob("state.db*"))


# --- outbox ---


def test_the_states_of_a_send(kept: State, clock: FakeClock) -> None:
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


def test_the_outbox_lists_sends_by_state_in_order(kept: State) -> None:
    for key in ("c", "a", "b"):
        kept.begin(SCOPE, DEFAULT, key, key)
    kept.mark(SCOPE, DEFAULT, "a", "in_doubt")
    kept.mark(SCOPE, DEFAULT, "c", "writing")
    assert [row.key for row in kept.outbox(SCOPE, DEFAULT)] == ["c", "a", "b"]
    assert [row.key for row in kept.outbox(SCOPE, DEFAULT, "writing", "in_doubt")] == ["c", "a"]
    assert kept.outbox(SCOPE, DEFAULT, "rejected") == []


@pytest.mark.parametrize("before", ["writing", "in_doubt", "accepted"])
def test_a_key_that_may_have_been_sent_does_not_start_over(kept: State, before: Any) -> None:
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


def test_the_ledger_has_the_shown_messages(kept: State) -> None:
    kept.record(SCOPE, DEFAULT, [])
    assert kept.last_position(SCOPE, DEFAULT) is None
    kept.record(SCOPE, DEFAULT, [LedgerEntry("m1", "k1", 1, "t1"), LedgerEntry("m2")])
    kept.record(SCOPE, DEFAULT, [LedgerEntry("m1")])
    assert kept.seen(SCOPE, DEFAULT, ["m0", "m1", "m2", "m3"]) == {"m1", "m2"}
    assert kept.seen(SCOPE, DEFAULT, []) == set()
    assert kept.last_position(SCOPE, DEFAULT) == LedgerEntry("m2"), "seen again is not seen last"
    kept.record(SCOPE, DEFAULT, [LedgerEntry("m2", "k2", 2, "t2"), LedgerEntry("m2", "other", 9, "t9")])
    assert kept.last_position(SCOPE, DEFAULT) == LedgerEntry("m2", "k2", 2, "t2")


def test_many_ids_are_looked_up_with_few_statements(kept: State) -> None:
    """Older versions of SQLite accept at most 999 values in one statement."""
    ids = [f"m{number}" for number in range(1_234)]
    kept.record(SCOPE, DEFAULT, [LedgerEntry(id_) for id_ in ids])
    said: list[str] = []
    kept._database.connection.set_trace_callback(said.append)
    assert kept.seen(SCOPE, DEFAULT, ["m", *ids]) == set(ids)
    assert len(said) == 3


def test_the_ledger_keeps_the_newest_entries(kept: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 100)
    ids = [f"m{number}" for number in range(1_234)]
    for start in range(0, len(ids), 50):
        kept.record(SCOPE, DEFAULT, [LedgerEntry(id_) for id_ in ids[start : start + 50]])
    assert kept.seen(SCOPE, DEFAULT, ids) == set(ids[-100:])


def test_looking_up_does_not_read_the_whole_ledger(tmp_path: Path, clock: FakeClock) -> None:
    State.open(tmp_path / "s", clock).close()
    with sqlite3.connect(tmp_path / "s" / DATABASE_FILE) as connection:
        for query in (
            f"SELECT id FROM ledger WHERE session = {session_rows.SESSION} AND id IN (?, ?)",
            f"SELECT id FROM ledger WHERE session = {session_rows.SESSION} ORDER BY n DESC LIMIT 1",
            module._OUTBOX + "AND o.key = ?",
            module._OUTBOX + "AND o.state IN (?) ORDER BY o.n",
        ):
            plan = connection.execute(f"EXPLAIN QUERY PLAN {query}", ["x"] * query.count("?")).fetchall()
            assert not any("SCAN" in step[-1] for step in plan), plan
    connection.close()


def test_cursors_are_stored_per_file(kept: State) -> None:
    assert kept.cursor(SCOPE, DEFAULT, "/a") is None
    kept.set_cursor(SCOPE, DEFAULT, "/a", Cursor("8:1", 0, None))
    noted = Cursor("8:1", 120, "m2", 7, "2026-01-01T00:00:02.000Z")
    kept.set_cursor(SCOPE, DEFAULT, "/a", noted)
    assert kept.cursor(SCOPE, DEFAULT, "/a") == noted
    assert kept.cursor(SCOPE, DEFAULT, "/b") is None


# --- budgets ---


def test_a_budget_is_available_again_after_its_period(state: State, clock: FakeClock) -> None:
    assert [state.budgets.take("b", 2, 10) for _ in range(2)] == [0.0, 0.0]
    clock.sleep(4)
    assert state.budgets.take("b", 2, 10) == pytest.approx(1)
    assert state.budgets.take("other", 1, 10) == 0.0
    clock.sleep(6)
    assert [state.budgets.take("b", 2, 10), state.budgets.take("b", 2, 10)] == [0.0, 0.0]
    assert state.budgets.take("b", 2, 10) == pytest.approx(5)


def test_callers_queue_for_tokens_in_the_order_in_which_they_came(state: State) -> None:
    assert [state.budgets.take("b", 2, 10, within=None) for _ in range(5)] == pytest.approx([0, 0, 5, 10, 15])
    assert state.budgets.take("b", 2, 10, within=19) == pytest.approx(20)
    assert state.budgets.take("b", 2, 10, within=20.1) == pytest.approx(20)
    state.budgets.give_back("b", 2, 10)
    assert state.budgets.take("b", 2, 10, within=None) == pytest.approx(20)


def test_a_small_bucket_spaces_its_tokens(state: State, clock: FakeClock) -> None:
    assert [state.budgets.take("b", 2, 1, burst=1, within=None) for _ in range(3)] == pytest.approx([0, 0.5, 1.0])
    clock.sleep(100)
    assert [state.budgets.take("b", 2, 1, burst=1) for _ in range(2)] == pytest.approx([0, 0.5])


@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.floats(0.001, 100),
    st.lists(st.none() | st.floats(0, 30), max_size=40),
    st.floats(0, 2_000_000_000),
)
@settings(max_examples=examples(100))
def test_no_window_ever_holds_more_than_the_bucket_and_what_it_gets(
    count: int, burst: int, period: float, steps: list[float | None], start: float
) -> None:
    tolerance = 4e-7 + period * 1e-9  # a float represents the present time to a quarter of a microsecond
    clock = FakeClock(start)
    gone: list[float] = []
    with State.open(None, clock) as state:
        for step in steps:
            wait = state.budgets.take("b", count, period, burst=burst)
            assert 0 <= wait <= max(period / count, 0.001) + tolerance
            if wait == 0:
                gone.append(clock.now())
            clock.sleep(wait if step is None else step)
    for more in range(len(gone) - burst):
        least = (more + 1) * period / count - tolerance * (more + 2)
        assert all(after - before >= least for before, after in zip(gone, gone[burst + more :], strict=False))


def test_waiting_the_returned_time_is_enough(state: State, clock: FakeClock) -> None:
    for _ in range(3):
        state.budgets.take("b", 3, 0.1)
    asked = 0
    while wait := state.budgets.take("b", 3, 0.1):
        clock.sleep(wait)
        asked += 1
    assert 1 <= asked <= 2


def test_old_reservations_are_removed(state: State, clock: FakeClock) -> None:
    state.budgets.take("of a session that is gone", 1, 60)
    clock.sleep(module.DAY + 1)
    state.budgets.take("b", 1, 60)
    state.put(SCOPE, DEFAULT)
    assert state._rows("SELECT bucket FROM budget") == [("b",)]


def test_a_clock_set_back_does_not_stop_the_budget(state: State, clock: FakeClock) -> None:
    assert [state.budgets.take("b", 2, 10) for _ in range(2)] == [0.0, 0.0]
    clock.jump(-3600)
    assert state.budgets.take("b", 2, 10) == pytest.approx(5)
    clock.sleep(5)
    assert state.budgets.take("b", 2, 10) == 0.0


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


def test_a_configuration_is_kept_up_to_its_age(state: State, clock: FakeClock) -> None:
    assert state.deployment(SCOPE, 60) is None
    state.put_deployment(SCOPE, "{}")
    state.put_deployment(SCOPE, '{"a": 1}')
    assert state.deployment(SCOPE, 60) == '{"a": 1}'
    clock.sleep(60)
    assert state.deployment(SCOPE, 60) == '{"a": 1}'
    clock.sleep(1)
    assert state.deployment(SCOPE, 60) is None
    clock.jump(-3600)
    assert state.deployment(SCOPE, 60) is None, "kept in the future: no telling how old it is"


def test_the_default_sandbox_is_the_last_one_registered(state: State) -> None:
    assert state.sandbox() is None
    for port in (1, 2, 1):
        state.put_sandbox({"url": f"http://127.0.0.1:{port}", "admin_key": "k"})
    assert state.sandbox() == {"url": "http://127.0.0.1:1", "admin_key": "k"}
    state.forget_sandbox("http://127.0.0.1:1")
    assert state.sandbox() == {"url": "http://127.0.0.1:2", "admin_key": "k"}


# --- locks ---


def test_a_lock_is_held_once_and_released(state: State, clock: FakeClock) -> None:
    with state.lock("refresh", Deadline.after(clock, 1)):
        with pytest.raises(TimedOut) as caught, state.lock("refresh", Deadline.after(clock, 1)):
            pytest.fail("held twice")
        assert caught.value.code == "timeout.busy"
        assert clock.monotonic() == pytest.approx(1)
        with state.lock("another", Deadline.after(clock, 0)):
            pass
    with state.lock("refresh", Deadline.after(clock, 0)):
        pass


def test_a_lock_is_released_after_an_exception(state: State, clock: FakeClock) -> None:
    with suppress(KeyboardInterrupt), state.lock("a", Deadline.after(clock, 0)):
        raise KeyboardInterrupt
    with state.lock("a", Deadline.after(clock, 0)):
        pass


def test_a_waiter_gets_the_lock_when_it_is_released(state: State, clock: FakeClock) -> None:
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


def test_a_slot_is_refused_beyond_the_limit(kept: State, clock: FakeClock) -> None:
    deadline = Deadline.after(clock, 0)
    first, second, third = (kept.slot(SCOPE, DEFAULT, 2, deadline) for _ in range(3))
    with first:
        with second, pytest.raises(TimedOut, match='all 2 connections of session "default"'), third:
            pytest.fail("three of two")
        with kept.slot(SCOPE, session("other"), 2, deadline), kept.slot(SCOPE, DEFAULT, 2, deadline):
            pass


def test_locks_belong_to_a_session_under_any_name(state: State, clock: FakeClock) -> None:
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


def test_a_long_wait_for_a_slot_is_reported(clock: FakeClock) -> None:
    notices: list[str] = []
    with (
        State.open(None, clock, notice=notices.append) as state,
        state.slot(SCOPE, DEFAULT, 1, Deadline.after(clock, 0)),
    ):
        for seconds in (0.5, 5.0):
            with pytest.raises(TimedOut), state.slot(SCOPE, DEFAULT, 1, Deadline.after(clock, seconds)):
                pass
    assert notices == ['other guestctl processes hold all 1 connections of session "default": waiting']


def test_a_forgotten_session_leaves_no_lock_file(tmp_path: Path, clock: FakeClock) -> None:
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
        assert left == set(lock_files(tmp_path / "s", owner_of(SCOPE, session("b"))))
        assert len(left) == 2


def test_threads_of_one_process_exclude_each_other_too(tmp_path: Path) -> None:
    from guestctl.core.clock import SystemClock

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


# --- directories and durability ---


def test_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert State.directory({"GUESTCTL_STATE": str(tmp_path)}) == tmp_path
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert State.directory({}).name == "guestctl"


def test_a_damaged_file_is_reported_and_replaced(tmp_path: Path, clock: FakeClock) -> None:
    State.open(tmp_path / "s", clock).close()
    (tmp_path / "s" / DATABASE_FILE).write_bytes(b"not a database, but rather a long text " * 100)
    notices: list[str] = []
    with State.open(tmp_path / "s", clock, notice=notices.append) as state:
        stored = fill(state, "a")
        assert traces(state, "a", stored) == [True, True, 1, True, True, 1]
    assert [notice.partition(":")[0] for notice in notices] == ["the state database was damaged"]


def test_only_durable_records_are_synced(tmp_path: Path, clock: FakeClock) -> None:
    lasting: list[Callable[[State], object]] = [
        lambda state: state.put(SCOPE, DEFAULT),
        lambda state: state.amend(SCOPE, DEFAULT, lambda stored: stored),
        lambda state: state.use(SCOPE, "default"),
        lambda state: state.put_credential(SCOPE, Credential("oauth", Secret("one"))),
        lambda state: state.begin(SCOPE, DEFAULT, "k", ""),
        lambda state: state.mark(SCOPE, DEFAULT, "k", "writing"),
        lambda state: state.set_cursor(SCOPE, DEFAULT, "/f", Cursor("i", 0, None)),
        lambda state: state.put_sandbox({"url": "u"}),
        lambda state: state.forget_sandbox("u"),
        lambda state: state.rename(SCOPE, "default", "old"),
        lambda state: state.forget(SCOPE, "old"),
    ]
    quick: list[Callable[[State], object]] = [
        lambda state: state.record(SCOPE, DEFAULT, [LedgerEntry("m")]),
        lambda state: state.log(SCOPE, DEFAULT, "e", {}),
        lambda state: state.budgets.take("b", 1, 1),
        lambda state: state.put_deployment(SCOPE, "{}"),
    ]
    with State.open(tmp_path / "s", clock) as state:
        for acts, other, level in ((lasting, quick[0], 2), (quick, lasting[0], 1)):
            for act in acts:
                other(state)
                act(state)
                assert state._rows("PRAGMA synchronous") == [(level,)]


# --- stored records ---


def test_fields_among_the_notes_of_an_older_record_are_read(state: State) -> None:
    body = (
        '{"api": "guests", "profile": "p", "name": "cart", "ids": {"conversation": "c-1"}, "state": "active",'
        ' "new_session": false, "created_at": 1772615727.1234567, "expires_at": null, "credentials": {"guest":'
        ' {"kind": "guest", "secret": "tok", "expires_at": 1772616727.5, "refresh": null, "life": 900.0}},'
        ' "limits": {"attribute_bytes": null, "text_length": 4096, "file_kilobytes": null, "file_types": [],'
        ' "blocked_extensions": []}, "notes": {"pending_attributes": {"plan": "gold"},'
        ' "used_token": "***0a1b2c3d", "offer": {"id": "m-1"}, "root": 1772615000.25}}'
    )
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


def test_the_failure_for_an_unreadable_record_names_the_session(tmp_path: Path, clock: FakeClock) -> None:
    notices: list[str] = []
    with State.open(tmp_path / "s", clock, notice=notices.append) as state:
        state.put(SCOPE, session("my cart"))
        for body in ("{", "{}", '{"limits": {}, "credentials": 1}'):
            state._rows("UPDATE session SET body = ?", (body,))
            with pytest.raises(UsageError) as caught:
                state.get(SCOPE, "my cart")
            assert caught.value.code == "state.unusable"
            assert caught.value.message == 'the stored record of session "my cart" cannot be read'
            assert caught.value.hint == "remove the record: `guestctl session forget 'my cart'`"
            state.put(SCOPE, DEFAULT)
            notices.clear()
            assert state.names(SCOPE) == {"my cart", "default"}
            assert state.sessions() == [(SCOPE, DEFAULT)], "it hides no other"
            assert notices == []
            assert state.sessions(tell=True) == [(SCOPE, DEFAULT)]
            assert notices == [f"{caught.value.message}. {caught.value.hint}"]
            state.forget(SCOPE, "default")
        assert state.forget(SCOPE, "my cart")
