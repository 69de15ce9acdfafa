"""Publishing to Redis: each event is in the stream once and in order, whatever is stopped, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from guestctl.core.clock import SystemClock
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.tls import certificates
from tests.cli.conftest import Front
from tests.relay.processes import STUCK, EventReader, RelayProcess, flood, relaying, texts_until
from tests.relay.redis_server import RedisServer, needs_redis

KINDS = "message,presence,typing,session,connection,gap,error,unknown"


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    yield server
    server.stop()


def in_log(relay: RelayProcess, until: str) -> list[tuple[str | None, dict[str, object]]]:
    """Return the ids and records that the log has, up to a message with this text."""
    found = []
    for id_, record in EventReader(relay, f"?after=first&kinds={KINDS}", lines=True):
        found.append((id_, record))
        if record.get("text") == until:
            return found
    raise AssertionError(found)


def number(id_: str) -> int:
    return int(id_.partition("-")[2])


def in_stream(server: RedisServer, until: str) -> list[tuple[str, dict[str, object]]]:
    return [(id_, json.loads(fields["record"])) for id_, fields in server.entries(until)]


@needs_redis
def test_the_stream_has_what_the_log_has_after_kills_and_restarts(
    sandbox: Sandbox, front: Front, redis_server: RedisServer
) -> None:
    """Redis is killed and stopped, and the relay is killed, while messages arrive. Readers do not wait for Redis."""
    texts = [f"message {n}" for n in range(120)]
    with relaying(front, "--publish", redis_server.url) as relay:
        flood(sandbox, texts[:20])
        redis_server.entries(texts[19])
        redis_server.stop(signal.SIGKILL)
        flood(sandbox, texts[20:40])
        assert texts_until(EventReader(relay, "?after=first"), texts[39])[-20:] == texts[20:40]
        redis_server.start()
        redis_server.entries(texts[39])
        redis_server.stop(signal.SIGTERM)
        flood(sandbox, texts[40:60])
        redis_server.start()
        flood(sandbox, texts[60:80])
        relay.stop(signal.SIGKILL)
    flood(sandbox, texts[80:100])
    with relaying(front, "--publish", redis_server.url) as relay:
        flood(sandbox, texts[100:])
        found = in_stream(redis_server, texts[-1])
        assert found == in_log(relay, texts[-1])
        assert [record["text"] for _, record in found if record["kind"] == "message"] == ["hello", *texts]
        code, err = relay.stop()
    assert code == 0
    assert err == ""


@needs_redis
def test_a_server_that_lost_its_entries_gets_them_again(sandbox: Sandbox, front: Front, tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", durable=False)
    with relaying(front, "--publish", server.url) as relay:
        flood(sandbox, ["one", "two"])
        server.entries("two")
        server.stop(signal.SIGKILL)
        server.start()
        flood(sandbox, ["three"])
        assert in_stream(server, "three") == in_log(relay, "three")
    server.stop()


@needs_redis
def test_what_the_log_no_longer_has_becomes_a_gap(sandbox: Sandbox, front: Front, redis_server: RedisServer) -> None:
    with relaying(front, "--publish", redis_server.url, "--retain", "5") as relay:
        flood(sandbox, ["before"])
        last, _ = redis_server.entries("before")[-1]
        redis_server.stop()
        texts = [f"message {n}" for n in range(30)]
        flood(sandbox, texts)
        texts_until(EventReader(relay, "?after=first"), texts[-1])
        redis_server.start()
        found = [entry for entry in in_stream(redis_server, texts[-1]) if number(entry[0]) > number(last)]
    (id_, gap), *rest = found
    epoch = last.partition("-")[0]
    assert (gap["kind"], gap["reason"]) == ("gap", "not_retained")
    assert (gap["first_missing"], gap["last_missing"]) == (f"{epoch}-{number(last) + 1}", id_)
    assert [record["text"] for _, record in rest] == texts[-5:]


@needs_redis
def test_a_consumer_group_shares_the_events(sandbox: Sandbox, front: Front, redis_server: RedisServer) -> None:
    with relaying(front, "--publish", redis_server.url), redis_server.client() as client:
        client.xgroup_create("chat", "billing", id="0", mkstream=True)
        flood(sandbox, [f"message {n}" for n in range(10)])
        redis_server.entries("message 9")
        got: dict[str, list[str]] = {"one": [], "two": []}
        for consumer in ("one", "two", "one", "two"):
            for _, entries in client.xreadgroup("billing", consumer, {"chat": ">"}, count=4):
                got[consumer] += [id_ for id_, _ in entries]
                client.xack("chat", "billing", *(id_ for id_, _ in entries))
        every = [id_ for id_, _ in redis_server.entries("message 9")]
        assert sorted(got["one"] + got["two"], key=every.index) == every[: len(got["one"]) + len(got["two"])]
        assert client.xpending("chat", "billing")["pending"] == 0


@needs_redis
def test_a_stream_that_is_ahead_of_the_log_is_left_alone(
    sandbox: Sandbox, front: Front, redis_server: RedisServer
) -> None:
    with redis_server.client() as client:
        client.xadd("chat", {"other": "entry"}, id="9999999999999-1")
        with relaying(front, "--publish", redis_server.url) as relay:
            flood(sandbox, ["one"])
            assert texts_until(EventReader(relay, "?after=first"), "one") == ["hello", "one"]
            code, err = relay.stop()
        assert client.xlen("chat") == 1
    assert code == 0
    assert "ends with the id 9999999999999-1" in err


@needs_redis
def test_metrics_show_whether_redis_has_everything(sandbox: Sandbox, front: Front, redis_server: RedisServer) -> None:
    with relaying(front, "--publish", redis_server.url) as relay:
        flood(sandbox, ["one"])
        redis_server.entries("one")
        text, ends = "", time.monotonic() + STUCK
        while 'guestctl_relay_publish_lag_events{session="default"} 0' not in text:  # it is noted after the answer
            assert time.monotonic() < ends, text
            text = relay.get("/metrics").text
        assert 'guestctl_relay_published_total{session="default"}' in text


@needs_redis
def test_the_password_comes_from_the_environment(sandbox: Sandbox, front: Front, tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", password="open sesame")
    front = replace(front, environ={**front.environ, "GUESTCTL_REDIS_PASSWORD": "open sesame"})
    with relaying(front, "--publish", server.url):
        flood(sandbox, ["one"])
        assert server.entries("one")
    server.stop()


@needs_redis
def test_a_wrong_password_is_reported_and_readers_are_served(sandbox: Sandbox, front: Front, tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", password="open sesame")
    front = replace(front, environ={**front.environ, "GUESTCTL_REDIS_PASSWORD": "wrong secret"})
    with relaying(front, "--publish", server.url) as relay:
        flood(sandbox, ["one"])
        assert texts_until(EventReader(relay, "?after=first"), "one") == ["hello", "one"]
        code, err = relay.stop()
    assert code == 0
    assert f"cannot publish to Redis at 127.0.0.1:{server.port}" in err
    assert "wrong secret" not in err
    server.stop()


@needs_redis
def test_redis_is_reached_over_tls_with_a_trusted_certificate_only(
    sandbox: Sandbox, front: Front, tmp_path: Path
) -> None:
    made, other = (certificates(SystemClock(), ["127.0.0.1", "localhost"]) for _ in range(2))
    server = RedisServer(tmp_path / "redis", tls=made)
    try:
        trusting = replace(front, environ={**front.environ, "SSL_CERT_FILE": str(made.ca)})
        with relaying(trusting, "--publish", server.url) as relay:
            flood(sandbox, ["one"])
            assert in_stream(server, "one") == in_log(relay, "one")
            assert relay.stop() == (0, "")
        mistrusting = replace(front, environ={**front.environ, "SSL_CERT_FILE": str(other.ca)})
        with relaying(mistrusting, "--publish", server.url) as relay:
            flood(sandbox, ["two"])
            assert texts_until(EventReader(relay, "?after=first"), "two") == ["hello", "one", "two"]
            up = 'guestctl_relay_publish_up{session="default"}'
            assert f"{up} 0.0" in relay.get("/metrics").text
            code, err = relay.stop()
    finally:
        server.stop()
        made.remove()
        other.remove()
    place = f"cannot publish to Redis at 127.0.0.1:{server.port}"
    assert code == 0
    assert err.startswith(f"{place}: its certificate is not trusted (self")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1/chat", "is not an address of Redis"),
        ("redis://127.0.0.1:99999/chat", "is not an address of Redis"),
        ("redis://127.0.0.1", "names no stream"),
        ("redis://127.0.0.1/a/b", "names no stream"),
        ("redis://me:secret@127.0.0.1/chat", "contains a password"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(front: Front, address: str, reason: str) -> None:
    ran = front("relay", "serve", "--http", "127.0.0.1:0", "--publish", address)
    assert ran.code == 2
    assert reason in ran.err
    assert "secret" not in ran.err


def test_several_sessions_need_a_stream_each(front: Front, sandboxed: Callable[[Sandbox], Front]) -> None:
    assert front("session", "create", "--as", "other", "-q").code == 0
    ran = front(
        *("relay", "serve", "--http", "127.0.0.1:0", "-s", "default", "-s", "other"),
        *("--publish", "redis://127.0.0.1/chat"),
    )
    assert ran.code == 2
    assert "several sessions cannot share one stream" in ran.err


def test_a_missing_client_for_redis_is_named(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    ran = front("relay", "serve", "--http", "127.0.0.1:0", "--publish", "redis://127.0.0.1/chat")
    assert ran.code == 2
    assert "guestctl[redis]" in ran.err


def test_the_client_for_redis_is_imported_only_when_it_is_needed(front: Front) -> None:
    code = "import sys, guestctl.cli.commands.relay, guestctl.relay.http_api; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ}, check=False).returncode == 0
