"""Keys of readers and tokens of the guest appear in nothing that a relay writes: output, trace, log, answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import websocket

from guestctl.sandbox.server import Sandbox
from tests.cli.conftest import Front
from tests.relay.conftest import front, sandbox, sandboxed
from tests.relay.processes import EventReader, Reader, SocketReader, push, relaying, texts_until

__all__ = ["front", "sandbox", "sandboxed"]


def test_a_relay_writes_no_key_and_no_token(front: Front, sandbox: Sandbox, tmp_path: Path) -> None:
    trace = tmp_path / "relay.trace"
    answers: list[str] = []
    with relaying(front, "-vv", "--debug", "--trace", str(trace)) as relay:
        push(sandbox, "one")
        readers: list[Reader] = [EventReader(relay, "?after=first"), SocketReader(relay, "?after=first")]
        for reader in readers:
            assert texts_until(reader, "one") == ["hello", "one"]
        requests = [
            relay.get("/v1/history"),
            relay.get("/v1/events", relay.key + "x"),
            relay.get(f"/v1/events?key={relay.key}"),
            relay.get(f"/v1/{relay.key}"),
            relay.post({"text": "two"}, "k-1"),
            relay.post({"text": "three", "other": 1}, "k-2"),
        ]
        for answer in requests:
            answers += [answer.text, str(dict(answer.headers))]
        with pytest.raises(websocket.WebSocketBadStatusException):
            SocketReader(relay, header=[], subprotocols=["guestctl.bearer." + "x" * 43])
        listened = front(
            *("listen", "--relay", relay.url, "--max", "2", "--cursor", str(tmp_path / "cursor"), "-vv", "--debug"),
            *("--trace", str(tmp_path / "listen.trace")),
        )
        assert listened.code == 0, listened.err
        refused = front("listen", "--relay", relay.url, "-vv", "--debug", GUESTCTL_RELAY_KEY=relay.key + "x")
        assert refused.code == 4
        token = front("session", "show", "--show-token").record["token"]
        code, err = relay.stop()
        assert code == 0
        assert relay.process.stdout is not None
        secrets = [relay.key, relay.send_key, token, sandbox.admin_key]
    state = Path(front.environ["GUESTCTL_STATE"])
    answers += [listened.out, listened.err, refused.err, (tmp_path / "cursor").read_text()]
    answers += [(tmp_path / "listen.trace").read_text()]
    written = [trace.read_bytes(), err.encode(), *(text.encode() for text in answers)]
    written += [path.read_bytes() for path in (state / "relay").glob("*.db*")]
    assert len(written) >= 15
    assert b"hello" in written[0] or b"one" in written[0]
    for secret in secrets:
        assert secret
        assert not [data for data in written if secret.encode() in data]
