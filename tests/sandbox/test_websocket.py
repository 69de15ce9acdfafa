"""The reader of a guest's frames: bytes in any pieces, limits, violations."""

from __future__ import annotations

import struct

import pytest

from guestctl.sandbox.websocket import BINARY, PING, TEXT, MessageReader, MessageTooBig, ProtocolViolation, accept_value
from tests.transport.peers import frame

MASK = b"\x01\x80\x7f\xff"


def masked(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    body = bytes(byte ^ MASK[place % 4] for place, byte in enumerate(payload))
    return frame(opcode, body, mask=b"\x00" * 4, fin=fin).replace(b"\x00" * 4 + body, MASK + body)


def read_all(data: bytes, step: int, reader: MessageReader | None = None) -> list[tuple[int, bytes]]:
    reader = reader or MessageReader(1 << 20, 1 << 20)
    found = []
    for start in range(0, len(data), step):
        reader.feed(data[start : start + step])
        while (message := reader.next()) is not None:
            found.append(message)
    return found


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1 << 20])
def test_messages_are_read_from_bytes_in_any_pieces(step: int) -> None:
    data = (
        masked(TEXT, b"one")
        + masked(TEXT, b"tw", fin=False)
        + masked(PING, b"beat")
        + masked(0, b"o")
        + masked(BINARY, b"x" * 300)
        + masked(TEXT)
    )
    assert read_all(data, step) == [(TEXT, b"one"), (PING, b"beat"), (TEXT, b"two"), (BINARY, b"x" * 300), (TEXT, b"")]


def test_a_frame_above_the_limit_is_refused_on_its_header() -> None:
    reader = MessageReader(100, 1000)
    reader.feed(struct.pack("!BBQ", 0x81, 0xFF, 2**40))
    with pytest.raises(MessageTooBig) as refused:
        reader.next()
    assert refused.value.unread == 2**40 + 4


def test_the_message_limit_counts_all_fragments() -> None:
    fragments = masked(TEXT, b"x" * 60, fin=False) + masked(0, b"x" * 40)
    assert read_all(fragments, 1 << 20, MessageReader(100, 100)) == [(TEXT, b"x" * 100)]
    with pytest.raises(MessageTooBig):
        read_all(fragments, 1 << 20, MessageReader(100, 99))


def test_a_control_frame_does_not_count_towards_the_message_limit() -> None:
    data = masked(TEXT, b"x" * 60, fin=False) + masked(PING, b"y" * 60) + masked(0, b"x" * 40)
    assert len(read_all(data, 1 << 20, MessageReader(100, 100))) == 2


def test_an_unmasked_frame_is_refused_on_its_header() -> None:
    reader = MessageReader(100, 100)
    reader.feed(frame(TEXT, b"{}")[:2])
    with pytest.raises(ProtocolViolation) as refused:
        reader.next()
    assert refused.value.code == 1002


def test_the_accept_value_is_that_of_the_rfc() -> None:
    """RFC 6455 §1.3."""
    assert accept_value("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
