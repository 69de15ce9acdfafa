"""The relay over gRPC-Web: frames, trailers, both content types and web pages, with plain HTTP as the client."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest
import requests

from guestctl.sandbox.server import Sandbox
from tests.cli.conftest import Front
from tests.relay.processes import STUCK, RelayProcess, flood, push, relaying

pytest.importorskip("google.protobuf", reason="guestctl[grpc] is not installed (CONTRIBUTING.md has the command)")

from guestctl.relay.proto import chat_stream_pb2 as pb

BINARY, TEXT = "application/grpc-web+proto", "application/grpc-web-text"
PAGE = "https://shop.example"
ANSWERS: dict[str, Any] = {"Subscribe": pb.ChatMessage, "Send": pb.SendResponse, "History": pb.ChatMessage}


class Call:
    """One call. Iterating yields its messages; then `status`, `message` and `trailers` are known."""

    def __init__(
        self,
        relay: RelayProcess,
        method: str,
        request: Any,
        *,
        content_type: str = BINARY,
        key: str | None = None,
        body: bytes | None = None,
        **headers: str,
    ) -> None:
        data = request.SerializeToString()
        frame = b"\0" + len(data).to_bytes(4, "big") + data if body is None else body
        self._text = "-text" in content_type
        self._answer = ANSWERS[method]
        self.trailers: dict[str, str] = {}
        sent = {
            "Content-Type": content_type,
            "Authorization": f"Bearer {relay.send_key if key is None else key}",
            "X-Grpc-Web": "1",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        self.response = requests.post(
            f"{relay.url}/guestctl.relay.v1.ChatStream/{method}",
            data=base64.b64encode(frame) if self._text else frame,
            headers=sent,
            stream=True,
            timeout=STUCK,
        )

    @property
    def status(self) -> int:
        return int(self.trailers["grpc-status"])

    @property
    def message(self) -> str:
        return unquote(self.trailers.get("grpc-message", ""))

    def __iter__(self) -> Iterator[Any]:
        assert self.response.status_code == 200, self.response.text
        kept = encoded = b""
        for part in self.response.iter_content(None):
            if self._text:
                encoded += part
                whole = len(encoded) - len(encoded) % 4
                kept += b"".join(base64.b64decode(encoded[at : at + 4]) for at in range(0, whole, 4))
                encoded = encoded[whole:]
            else:
                kept += part
            while len(kept) >= 5 and len(kept) >= 5 + int.from_bytes(kept[1:5], "big"):
                size = int.from_bytes(kept[1:5], "big")
                data, flag, kept = kept[5 : 5 + size], kept[0], kept[5 + size :]
                if flag == 0x80:
                    lines = data.decode("ascii").split("\r\n")
                    self.trailers = dict(line.split(": ", 1) for line in lines if line)
                else:
                    assert flag == 0
                    yield self._answer.FromString(data)
        assert self.trailers
        assert not kept


@pytest.mark.parametrize("content_type", [BINARY, TEXT])
def test_a_stream_delivers_frames_and_ends_with_trailers(sandbox: Sandbox, front: Front, content_type: str) -> None:
    """Without --grpc, too: only the package protobuf is needed."""
    with relaying(front) as relay:
        call = Call(relay, "Subscribe", pb.ChatRequest(after="first"), content_type=content_type, key=relay.key)
        assert call.response.headers["Content-Type"].startswith(content_type)
        push(sandbox, "one", "grün ✓")
        messages = iter(call)
        assert [next(messages).text for _ in range(3)] == ["hello", "one", "grün ✓"]
        assert b'protocol="grpc-web"' in relay.get("/metrics").content
        assert relay.stop() == (0, "")
        (last,) = messages
        assert (last.kind, call.status) == ("end", 0)


def test_send_and_history_answer_with_a_message_and_trailers(sandbox: Sandbox, front: Front) -> None:
    with relaying(front) as relay:
        for content_type in (BINARY, TEXT):
            send = Call(relay, "Send", pb.SendRequest(text="hi", idempotency_key="k"), content_type=content_type)
            (answer,) = send
            assert (answer.delivery, send.status) == ("accepted", 0)
        history = Call(relay, "History", pb.HistoryRequest())
        assert [message.text for message in history] == ["hello", "hi"]
        assert history.status == 0
        conflict = Call(relay, "Send", pb.SendRequest(text="other", idempotency_key="k"))
        assert (list(conflict), conflict.status, conflict.message) == (
            [],
            6,
            "this idempotency key belongs to another message",
        )


def test_a_call_that_is_refused_has_a_status(front: Front) -> None:
    subscribe, send = pb.ChatRequest(), pb.SendRequest(text="hi", idempotency_key="k")
    with relaying(front) as relay:
        first = next(iter(Call(relay, "Subscribe", pb.ChatRequest(after="first")))).id
        other = f"00000000-{first.rpartition('-')[2]}"
        for status, method, request, more in (
            (16, "Subscribe", subscribe, {"key": "wrong"}),
            (16, "Send", send, {"key": ""}),
            (7, "Send", send, {"key": relay.key}),
            (3, "Subscribe", pb.ChatRequest(after="yesterday"), {}),
            (5, "Subscribe", pb.ChatRequest(session="nobody"), {}),
            (11, "Subscribe", pb.ChatRequest(after=other, strict=True), {}),
            (3, "Send", send, {"body": b"\0\0\0\0\x09short"}),
            (3, "Send", send, {"body": b"\x01\0\0\0\0"}),
            (3, "Send", send, {"Grpc_Timeout": "soon"}),
            (4, "Subscribe", subscribe, {"Grpc_Timeout": "1m"}),
        ):
            call = Call(relay, method, request, **more)
            assert list(call) == []
            assert call.status == status, (method, more, call.trailers)
            assert call.message
        wrong = Call(relay, "Send", send, content_type="application/json")
        assert wrong.response.status_code == 415
        assert "application/grpc-web" in wrong.response.json()["error"]["message"]


def test_a_slow_reader_is_cut_with_its_last_message(sandbox: Sandbox, front: Front) -> None:
    texts = [f"{n} {'x' * 8000}" for n in range(1_400)]
    with relaying(front) as relay:
        slow = Call(relay, "Subscribe", pb.ChatRequest(after="first"))
        quick = iter(Call(relay, "Subscribe", pb.ChatRequest(after="first")))
        for start in (0, 700):
            flood(sandbox, texts[start : start + 700])
            next(message for message in quick if message.text == texts[start + 699])
        got = list(slow)
        assert (got[-1].kind, slow.status) == ("slow", 8)
        assert got[-1].resume_after == got[-2].id
        rest = Call(relay, "Subscribe", pb.ChatRequest(after=got[-2].id))
        found = [message.text for message in got[1:-1]]
        for message in rest:
            found.append(message.text)
            if message.text == texts[-1]:
                break
        assert found == texts


def test_a_permitted_web_page_may_call(front: Front) -> None:
    with relaying(front, "--cors", PAGE) as relay:
        url = f"{relay.url}/guestctl.relay.v1.ChatStream/Subscribe"
        asked = "authorization,content-type,x-grpc-web,x-user-agent,grpc-timeout"
        preflight = requests.options(
            url, headers={"Origin": PAGE, "Access-Control-Request-Headers": asked}, timeout=STUCK
        )
        allowed = {name.strip().lower() for name in preflight.headers["Access-Control-Allow-Headers"].split(",")}
        assert set(asked.split(",")) <= allowed
        assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
        call = Call(relay, "Subscribe", pb.ChatRequest(after="first"), Origin=PAGE)
        assert call.response.headers["Access-Control-Allow-Origin"] == PAGE
        assert next(iter(call)).text == "hello"
        other = Call(relay, "Subscribe", pb.ChatRequest(), Origin="https://evil.example")
        assert other.response.status_code == 403
