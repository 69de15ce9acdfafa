"""Readers over gRPC, made of the generated code and of grpcio.

Knows: channels, metadata, statuses and their details. Must not know: guestctl's relay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc

from guestctl.relay.proto import chat_stream_pb2 as pb
from guestctl.relay.proto import chat_stream_pb2_grpc
from tests.relay.processes import STUCK, RelayProcess

Options: TypeAlias = Sequence[tuple[str, object]]

#: The options of `relay serve` for these tests.
GRPC = ("--grpc", "127.0.0.1:0")


def stub_of(channel: Any) -> Any:
    """Return the generated client. Generated code has no types."""
    make: Any = chat_stream_pb2_grpc.ChatStreamStub
    return make(channel)


class Chat:
    """The calls of a relay with a key. Each raises `grpc.RpcError`."""

    def __init__(self, channel: grpc.Channel, key: str) -> None:
        self._stub: Any = stub_of(channel)
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()

    def subscribe(self, **request: Any) -> Any:
        """Return the stream of a subscription, once the relay has answered."""
        stream = self._stub.Subscribe(pb.ChatRequest(**request), metadata=self._metadata, timeout=STUCK)
        stream.initial_metadata()
        return stream

    def send(self, text: str, idempotency_key: str, **request: Any) -> pb.SendResponse:
        wanted = pb.SendRequest(text=text, idempotency_key=idempotency_key, **request)
        answer: pb.SendResponse = self._stub.Send(wanted, metadata=self._metadata, timeout=STUCK)
        return answer

    def history(self, **request: Any) -> list[pb.ChatMessage]:
        return list(self._stub.History(pb.HistoryRequest(**request), metadata=self._metadata, timeout=STUCK))


#: A channel of its own with a small window: a reader that does not read is noticed after a few messages.
NARROW = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 8192))


@contextmanager
def channel_to(relay: RelayProcess, options: Options = (), **tls: bytes) -> Iterator[grpc.Channel]:
    """Open a channel to the gRPC port of a relay; over TLS if a certificate is given."""
    address = relay.ready["grpc"]
    if tls:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(**tls), options)
    else:
        channel = grpc.insecure_channel(address, options)
    with channel:
        yield channel


@contextmanager
def chatting(relay: RelayProcess, key: str | None = None) -> Iterator[Chat]:
    """Open a channel with a key; by default that to read and send."""
    with channel_to(relay) as channel:
        yield Chat(channel, relay.send_key if key is None else key)


def texts_until(stream: Any, last: str) -> list[str]:
    """Return the texts of the messages from a stream, up to and with one text."""
    found = []
    for message in stream:
        if message.kind == "message":
            found.append(message.text)
            if message.text == last:
                break
    return found


def record_of(message: pb.ChatMessage) -> dict[str, Any]:
    """Return the record of a message."""
    found: dict[str, Any] = json.loads(message.record)
    return found


def details_of(error: grpc.RpcError, kind: Any) -> Any:
    """Return the message in the details of a status, decoded without the definition of `google.rpc.Status`."""
    from google.protobuf import any_pb2

    (data,) = [value for name, value in error.trailing_metadata() if name == "grpc-status-details-bin"]
    # The number of `details`, and its length, precede the packed message, which is the rest.
    url = f"type.googleapis.com/{kind.DESCRIPTOR.full_name}".encode()
    packed = any_pb2.Any.FromString(data[data.index(url) - 2 :])
    found = kind()
    assert packed.Unpack(found)
    return found
