"""The service alone: no sockets, no threads, a clock that tests move."""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest

from guestctl.core.clock import epoch_of
from guestctl.sandbox.bot.bots import BotAction, EchoBot
from guestctl.sandbox.issued_tokens import Tokens
from guestctl.sandbox.service_state import (
    Bucket,
    Conversation,
    SandboxDeployment,
    Service,
    StoredAttachment,
    StoredMessage,
    attributes_size,
    origin_parts,
)
from guestctl.sandbox.store import Store, StoreError
from tests.sandbox.stranger import HandClock


class Timers:
    """A scheduler whose time is the clock's."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def __call__(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.clock.at + seconds, next(self._number), what))

    def advance(self, seconds: float) -> None:
        until = self.clock.at + seconds
        while self._due and self._due[0][0] <= until:
            self.clock.at, _, what = heapq.heappop(self._due)
            what()
        self.clock.at = until


class FakeApi:
    """An API that records what the service reports."""

    agent_files = None

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def message_stored(self, conversation: Conversation, message: StoredMessage, cause: Any) -> None:
        self.calls.append((message.role, message.text, cause))

    def typing(self, conversation: Conversation, role: str, name: str | None, millis: int) -> None:
        self.calls.append(("typing", role, name, millis))

    def ended(self, conversation: Conversation, role: str) -> None:
        self.calls.append(("ended", role))

    def expired(self, conversation: Conversation) -> None:
        self.calls.append("expired")

    def token_expired(self, conversation: Conversation) -> None:
        self.calls.append("token expired")

    def pushed(self, conversation: Conversation, frame: str) -> None:
        self.calls.append(frame)


class Script(EchoBot):
    def __init__(self, *actions: BotAction) -> None:
        super().__init__(0.0)
        self.actions = list(actions)
        self.asked: list[Any] = []

    def greeting(self, attributes: Mapping[str, str]) -> list[BotAction]:
        return self.actions

    def reply_to(
        self, text: str, *, payload: str | None, attributes: Mapping[str, str], count: int, memory: dict[str, Any]
    ) -> list[BotAction]:
        self.asked.append((text, payload, dict(attributes), count))
        return self.actions


def build(clock: HandClock, bot: Any = None, **settings: Any) -> tuple[Service, FakeApi, Timers]:
    timers, fake_api = Timers(clock), FakeApi()
    settings = {"tokens": Tokens(clock), **settings}
    service = Service(clock=clock, later=timers, bot=bot or EchoBot(0.03), **settings)
    service.apis["x"] = fake_api
    return service, fake_api, timers


def test_a_message_is_stored_then_reported_then_answered(hand_clock: HandClock) -> None:
    service, fake_api, timers = build(hand_clock)
    conversation = service.open("x")
    message = service.receive(conversation, "hi", key="k", cause="why")
    assert fake_api.calls == [("guest", "hi", "why")]
    timers.advance(0.02)
    assert len(conversation.messages) == 1
    timers.advance(0.01)
    assert fake_api.calls[1:] == [("bot", "echo: hi", None)]
    assert conversation.messages[0] is message is conversation.by_key["k"]
    assert [m.sequence for m in conversation.messages] == [1, 2]
    assert [m.direction for m in conversation.messages] == ["inbound", "outbound"]
    assert all(len(m.id) == 32 and int(m.id, 16) >= 0 for m in conversation.messages)


def test_times_rise_when_the_clock_stands_still_or_goes_back(hand_clock: HandClock) -> None:
    service, _, _ = build(hand_clock)
    conversation = service.open("x")
    for number in range(1500):
        service.send(conversation, str(number))
        if number == 700:
            hand_clock.advance(-10)
    millis = [m.millis for m in conversation.messages]
    assert millis == sorted(set(millis))
    for message in conversation.messages[::97]:
        assert round(epoch_of(message.time) * 1000) == message.millis


def test_bot_actions_happen_in_order(hand_clock: HandClock) -> None:
    bot = Script(
        BotAction("typing", name="Mina", role="agent", duration=2000),
        BotAction("message", 1.0, "one", role="agent", name="Mina"),
        BotAction("message", 0.5, "two"),
        BotAction("disconnect", 0.5),
    )
    service, fake_api, timers = build(hand_clock, bot)
    conversation = service.open("x", attributes={"plan": "gold"})
    service.receive(conversation, "", prompt="Label", payload="pay")
    assert bot.asked == [("Label", "pay", {"plan": "gold"}, 1)]
    assert fake_api.calls[1:] == [("typing", "agent", "Mina", 2000)]
    timers.advance(1.0)
    assert fake_api.calls[2:] == [("agent", "one", None)]
    timers.advance(1.0)
    assert fake_api.calls[3:] == [("bot", "two", None), ("ended", "bot")]


def test_the_bot_stops_when_the_conversation_ends(hand_clock: HandClock) -> None:
    service, fake_api, timers = build(hand_clock, Script(BotAction("message", 1.0, "late")))
    conversation = service.open("x")
    service.greet(conversation)
    service.close(conversation, "ended")
    timers.advance(2)
    assert fake_api.calls == []


def test_a_handover_silences_the_bot_only_with_an_agent(hand_clock: HandClock) -> None:
    for agent in (False, True):
        bot = Script(BotAction("handover", name="Mina"))
        service, _, _ = build(hand_clock, bot, agent=agent)
        conversation = service.open("x")
        service.receive(conversation, "human")
        service.receive(conversation, "hello?")
        assert len(bot.asked) == (1 if agent else 2)


def test_expiry_counts_from_the_last_activity(hand_clock: HandClock) -> None:
    service, fake_api, timers = build(hand_clock, Script(), deployments=[SandboxDeployment(session_life=100)])
    conversation = service.open("x")
    timers.advance(60)
    service.receive(conversation, "hi")
    timers.advance(99)
    service.sweep()
    assert service.live(conversation)
    timers.advance(1)
    service.sweep()
    assert conversation.state == "active", "nobody watches: found out when next asked for"
    assert not service.live(conversation)
    assert fake_api.calls[-1] == "expired"
    service.expire(conversation)
    assert fake_api.calls.count("expired") == 1


def test_lag_hides_the_newest(hand_clock: HandClock) -> None:
    service, _, timers = build(hand_clock, Script())
    conversation = service.open("x")
    for text in "abc":
        service.send(conversation, text)
        timers.advance(1)
    assert [service.visible(conversation, lag) for lag in (0.0, 1.5, 60)] == [3, 2, 0]


def test_a_message_with_files_only_has_the_kind_text(hand_clock: HandClock) -> None:
    service, _, _ = build(hand_clock)
    conversation = service.open("x")
    assert service.send(conversation, "t").kind == "text"
    assert service.send(conversation, "t", content=[{"contentType": "Attachment"}]).kind == "text"
    assert service.send(conversation, "t", content=[{"contentType": "Card"}]).kind == "structured"


def test_new_uuids_derive_from_the_ids(hand_clock: HandClock) -> None:
    service, _, _ = build(hand_clock, ids=lambda: "f" * 32)
    assert service.new_uuid() == "ffffffff-ffff-4fff-bfff-ffffffffffff"


@pytest.mark.parametrize(
    ("origin", "parts"),
    [
        ("https://Shop.Example:8443/path", ("https", "shop.example", 8443)),
        ("shop.example", ("", "shop.example", None)),
        ("shop.example:1", ("", "shop.example", 1)),
        ("http://[::1]:80", ("http", "::1", 80)),
        ("null", ("", "null", None)),
        ("", ("", "", None)),
        (None, ("", "", None)),
        ("http://[", ("", "", None)),
        ("https://shop.example:99999", ("", "", None)),
    ],
)
def test_origin_parts(origin: str | None, parts: tuple[str, str, int | None]) -> None:
    assert origin_parts(origin) == parts


def test_allowed_domains() -> None:
    deployment = SandboxDeployment(origins=("Shop.Example", "https://other.example"))
    for origin in ("https://shop.example", "http://a.b.SHOP.example:1", "other.example"):
        assert deployment.allows(origin)
    for foreign in (
        None,
        "",
        "null",
        "https://other.example:444",
        "http://other.example",
        "https://shop.example.evil",
        "https://evilshop.example",
        "https://example",
    ):
        assert not deployment.allows(foreign)
    assert SandboxDeployment().allows(None)


def test_attributes_are_counted_in_bytes() -> None:
    assert attributes_size({"é": "👋", "ab": ""}) == 2 + 4 + 2


def test_a_bucket_refills_over_time(hand_clock: HandClock) -> None:
    bucket = Bucket(hand_clock, 2, 1.0)
    assert [bucket.take() for _ in range(4)] == [True, True, False, False]
    hand_clock.advance(0.5)
    assert [bucket.take() for _ in range(2)] == [True, False]
    hand_clock.advance(100)
    assert [bucket.take() for _ in range(3)] == [True, True, False]


def test_a_bucket_tolerates_a_client_whose_clock_is_slightly_fast(hand_clock: HandClock) -> None:
    bucket = Bucket(hand_clock, 2, 1.0)
    for early in (0.09, -0.09) * 20:
        assert bucket.take()
        assert bucket.take()
        hand_clock.advance(1.0 - early)


def test_expired_grants_stay_genuine(hand_clock: HandClock) -> None:
    tokens = Tokens(hand_clock)
    grant = tokens.opaque("session", life=10, conversation="c", spoilt=False)
    assert grant.token.startswith("sandbox-")
    assert grant.token not in repr(grant)
    assert tokens.live(grant.token, "session") is grant
    assert tokens.live(grant.token, "history") is None
    assert tokens.live(None, "session") is None
    hand_clock.advance(10)
    assert tokens.live(grant.token, "session") is None
    assert tokens.find(grant.token, "session") is grant
    tokens.revoke(grant)
    assert tokens.find(grant.token, "session") is None


def test_expire_all_credentials_of_one_conversation(hand_clock: HandClock) -> None:
    tokens = Tokens(hand_clock)
    mine = [tokens.opaque("session", life=None, conversation="c"), tokens.opaque("history", life=9, conversation="c")]
    other = tokens.opaque("session", life=9, conversation="d")
    assert tokens.expire("c") == 2
    assert all(tokens.expired(grant) for grant in mine)
    assert not tokens.expired(other)
    assert tokens.expire("c") == 0


def test_jwt_claims(hand_clock: HandClock) -> None:
    tokens = Tokens(hand_clock, life=5, key="k" * 64)
    assert tokens.life(60) == 5
    grant = tokens.jwt("history", life=tokens.life(60), claims={"sub": "guest"}, conversation="c")
    options = {"verify_exp": False, "verify_iat": False}
    claims = pyjwt.decode(grant.token, "k" * 64, algorithms=["HS256"], options=options)  # type: ignore[arg-type]
    assert (claims["iss"], claims["sub"], claims["exp"] - claims["iat"]) == ("sandbox", "guest", 5)
    assert grant.exp == claims["exp"]


def test_expired_short_lived_grants_are_removed(hand_clock: HandClock) -> None:
    tokens = Tokens(hand_clock)
    old = tokens.opaque("history", life=1, conversation="c")
    kept = tokens.opaque("session", life=1, conversation="c")
    hand_clock.advance(1000)
    for _ in range(600):
        tokens.opaque("history", life=1)
    assert tokens.find(old.token, "history") is None
    assert tokens.find(kept.token, "session") is kept


# -- stored in a file


def test_the_state_survives_its_process(hand_clock: HandClock, tmp_path: Path) -> None:
    path = tmp_path / "state.db"

    def start() -> tuple[Service, Store]:
        store = Store(path)
        tokens = Tokens(hand_clock, key=store.key(), store=store)
        store.save_key(tokens.key)
        service, _, _ = build(hand_clock, Script(), tokens=tokens, store=store)
        store.load(service, tokens)
        return service, store

    service, store = start()
    assert path.stat().st_mode & 0o777 == 0o600
    conversation = service.open("x", attributes={"plan": "gold"}, notes={"token": "T"})
    service.receive(conversation, "hi", key="k", content=[{"contentType": "Card"}], metadata={"a": "b"})
    conversation.memory["agent"] = "Mina"
    grant = service.tokens.opaque("session", life=10, conversation=conversation.id, spoilt=True)
    gone = service.tokens.opaque("session", life=10, conversation=conversation.id)
    service.tokens.revoke(gone)
    service.attach(conversation, StoredAttachment("a1", "x.png", "image/png", 3, "key", "uploaded", b"abc"))
    second = service.open("x")
    service.receive(conversation, "again")
    service.close(second, "cleared")
    key = service.tokens.key
    with pytest.raises(StoreError):
        Store(path)  # only one sandbox at a time
    store.close()

    again, store = start()
    assert list(again.conversations) == [conversation.id, second.id]
    back = again.conversations[conversation.id]
    assert [_plain(message) for message in back.messages] == [_plain(message) for message in conversation.messages]
    assert (back.attributes, back.notes, back.memory) == ({"plan": "gold"}, {"token": "T"}, {"agent": "Mina"})
    assert (back.inbound, back.last_millis, back.by_key["k"].text) == (2, conversation.last_millis, "hi")
    assert back.attached["a1"].data == b"abc"
    assert again.conversations[second.id].state == "cleared"
    assert again.tokens.key == key
    assert again.tokens.live(grant.token, "session") == grant
    assert again.tokens.find(gone.token, "session") is None
    assert again.by_guest(back.guest_id) is back
    assert again.receive(back, "more").millis > conversation.last_millis
    store.close()


def _plain(message: StoredMessage) -> Any:
    """Return the value as JSON represents it."""
    return json.loads(json.dumps(asdict(message)))


def test_a_file_of_an_older_sandbox_is_loaded(hand_clock: HandClock, tmp_path: Path) -> None:
    """Fields that the file lacks have their defaults."""
    path = tmp_path / "state.db"
    store = Store(path)
    build(hand_clock, store=store)[0].open("x", notes={"token": "T"})
    store.close()
    older = sqlite3.connect(path)
    ((record,),) = older.execute("SELECT record FROM conversations")
    kept = {name: value for name, value in json.loads(record).items() if name not in ("complaints", "traces")}
    older.execute("UPDATE conversations SET record=?", (json.dumps(kept),))
    older.commit()
    older.close()
    store = Store(path)
    service, _, _ = build(hand_clock)
    store.load(service, service.tokens)
    store.close()
    (conversation,) = service.conversations.values()
    assert (conversation.notes, conversation.complaints, conversation.traces) == ({"token": "T"}, [], {})


def test_a_foreign_file_is_refused(tmp_path: Path, hand_clock: HandClock) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError):
        Store(path)
    with pytest.raises(StoreError):
        Store(tmp_path)
    with pytest.raises(StoreError):
        Store(tmp_path / "absent" / "state.db")
