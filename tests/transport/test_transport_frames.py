"""The frame reader, without sockets: slicing, rules, limits, and that nothing but Violation escapes."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestctl.transport.frame_reader import MAX_FRAGMENTS, MAX_MESSAGE, Close, Frames, Ping, Pong, Violation
from tests.properties import examples
from tests.transport.peers import BINARY, CLOSE, PING, PONG, TEXT, close, frame, text

HEARD = str | bytes | Ping | Pong | Close

CONVERSATION = (
    text("hé 🙂")
    + frame(PING, b"p" * 125)
    + frame(TEXT, "é".encode()[:1], fin=False)
    + frame(PING)
    + frame(0, b"", fin=False)
    + frame(0, "é!".encode()[1:])
    + frame(PONG, b"q")
    + text("")
    + text("x" * 126)
    + close(4001, b"bye")
)

UNDERSTOOD: list[HEARD] = [
    "hé 🙂",
    Ping(b"p" * 125),
    Ping(b""),
    "é!",
    Pong(b"q"),
    "",
    "x" * 126,
    Close(4001, "bye"),
]


def take_all(frames: Frames) -> list[HEARD]:
    heard: list[HEARD] = []
    while (one := frames.next()) is not None:
        heard.append(one)
    return heard


def parse(*pieces: bytes) -> list[HEARD]:
    frames = Frames()
    heard: list[HEARD] = []
    for piece in pieces:
        frames.feed(piece)
        heard += take_all(frames)
    return heard


def refused(*pieces: bytes) -> tuple[int, str]:
    """The close code and the words of the violation."""
    with pytest.raises(Violation) as caught:
        parse(*pieces)
    return caught.value.code, str(caught.value)


def violation(*pieces: bytes) -> int:
    return refused(*pieces)[0]


def test_all_at_once() -> None:
    assert parse(CONVERSATION) == UNDERSTOOD


def test_nothing_yet() -> None:
    assert Frames().next() is None


def test_byte_by_byte() -> None:
    assert parse(*(bytes([byte]) for byte in CONVERSATION)) == UNDERSTOOD


def test_split_at_every_offset() -> None:
    for at in range(len(CONVERSATION)):
        assert parse(CONVERSATION[:at], CONVERSATION[at:]) == UNDERSTOOD


def take_texts_first(frames: Frames) -> list[HEARD]:
    heard: list[HEARD] = []
    while True:
        while texts := frames.short_texts(2):
            assert len(texts) <= 2
            heard += texts
        if (one := frames.next()) is None:
            return heard
        heard.append(one)


def test_short_texts_are_the_same_messages_in_the_same_order() -> None:
    data = text("one") + text("two") + text("three") + CONVERSATION + text("x" * 70_000) + text("last")
    expected = ["one", "two", "three", *UNDERSTOOD, "x" * 70_000, "last"]
    for at in range(len(CONVERSATION) + 60):
        frames = Frames()
        frames.feed(data[:at])
        heard = take_texts_first(frames)
        frames.feed(data[at:])
        assert heard + take_texts_first(frames) == expected


def test_short_texts_end_before_an_invalid_one() -> None:
    frames = Frames()
    frames.feed(text("good") + frame(TEXT, b"\xff") + text("never"))
    assert frames.short_texts(9) == ["good"]
    assert frames.short_texts(9) == []
    with pytest.raises(Violation) as caught:
        frames.next()
    assert caught.value.code == 1007


def test_a_payload_that_looks_like_a_frame() -> None:
    data = frame(PING, text("hi"))
    assert parse(data[:2], data[2:]) == [Ping(text("hi"))]


@pytest.mark.parametrize("size", [0, 1, 2, 125, 126, 256, 65535, 65536, MAX_MESSAGE])
def test_every_length_form(size: int) -> None:
    assert parse(text("x" * size)) == ["x" * size]
    assert parse(text("x" * size) + text("y" * 1000)) == ["x" * size, "y" * 1000]


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (frame(TEXT, b"x", rsv=4), 1002, "a reserved bit is set"),
        (frame(TEXT, b"x", rsv=2), 1002, "a reserved bit is set"),
        (frame(TEXT, b"x", rsv=1), 1002, "a reserved bit is set"),
        (frame(TEXT, b"x", mask=b"abcd"), 1002, "a masked frame from the server"),
        (frame(0x3), 1002, "reserved opcode 3"),
        (frame(0x7), 1002, "reserved opcode 7"),
        (frame(0xB), 1002, "reserved opcode 11"),
        (frame(0xF), 1002, "reserved opcode 15"),
        (frame(PING, b"x" * 126), 1002, "a control frame over 125 bytes"),
        (frame(PING, fin=False), 1002, "a fragmented control frame"),
        (frame(PONG, fin=False), 1002, "a fragmented control frame"),
        (frame(CLOSE, fin=False), 1002, "a fragmented control frame"),
        (frame(0, b"x"), 1002, "a fragment out of place"),
        (frame(TEXT, b"x", fin=False) + text("whole"), 1002, "a fragment out of place"),
        (frame(BINARY, b"x"), 1003, "a binary message"),
        (frame(TEXT, b"x", fin=False) + frame(BINARY, b"y"), 1003, "a binary message"),
        (close(1000, b"\xff"), 1007, "text that is not UTF-8"),
    ],
)
def test_what_rfc_6455_forbids(data: bytes, code: int, words: str) -> None:
    assert refused(data) == (code, words)


def test_a_close_with_half_a_code() -> None:
    code, words = refused(frame(CLOSE, b"\x03"))
    assert code == 1002
    assert "close frame" in words, "the library's words are passed on"


def test_a_rule_is_checked_on_the_header() -> None:
    """No payload has come yet, so none is stored."""
    assert violation(b"\x82\x7f") == 1003
    assert violation(b"\x89\x7e") == 1002
    assert violation(b"\x81\xff") == 1002


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 4000, 4999])
def test_legal_close_codes(code: int) -> None:
    assert parse(close(code)) == [Close(code, "")]


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535])
def test_illegal_close_codes(code: int) -> None:
    assert violation(close(code)) == 1002


def test_a_close_without_a_code() -> None:
    assert parse(close(None)) == [Close(1005, "")]


@pytest.mark.parametrize(
    "bad",
    [
        b"\xc0\xaf",  # overlong
        b"\xed\xa0\x80",  # a surrogate
        b"\xf4\x90\x80\x80",  # past the last code point
        b"\xf8\x88\x80\x80\x80",
        b"\xff",
        b"\x80",
        b"\xe2\x82",  # cut at the end
        b"\xf0\x9f\x99",
    ],
)
def test_text_that_is_not_utf8(bad: bytes) -> None:
    payload = "ok é ".encode() + bad
    assert violation(frame(TEXT, payload)) == 1007
    for at in range(len(payload) + 1):
        assert violation(frame(TEXT, payload[:at], fin=False) + frame(0, payload[at:])) == 1007


def test_bad_utf8_is_found_in_the_fragment_that_has_it() -> None:
    assert violation(frame(TEXT, b"\xff", fin=False)) == 1007


def test_a_code_point_may_be_cut_between_fragments() -> None:
    payload = "a🙂é".encode()
    for at in range(len(payload) + 1):
        assert parse(frame(TEXT, payload[:at], fin=False) + frame(0, payload[at:])) == ["a🙂é"]


@pytest.mark.parametrize("size", [MAX_MESSAGE + 1, 1 << 26, 1 << 40, (1 << 64) - 1])
def test_a_giant_frame_is_refused_when_it_is_announced(size: int) -> None:
    assert refused(b"\x81\x7f" + size.to_bytes(8, "big")) == (1009, f"a message over {MAX_MESSAGE} bytes")


def test_a_message_may_not_grow_past_the_limit_in_fragments() -> None:
    half = b"x" * (MAX_MESSAGE // 2)
    assert len(str(parse(frame(TEXT, half, fin=False), frame(0, half))[0])) == MAX_MESSAGE
    assert violation(frame(TEXT, half, fin=False), frame(0, half, fin=False), frame(0, b"x")) == 1009
    for control, heard in ((frame(PING, b"no part of it"), Ping(b"no part of it")), (close(), Close(1000, ""))):
        assert parse(frame(TEXT, half, fin=False), frame(0, half, fin=False), control) == [heard]


def test_the_number_of_fragments_is_limited() -> None:
    pieces = [frame(TEXT, b"x", fin=False)] + [frame(0, b"", fin=False)] * (MAX_FRAGMENTS - 2)
    assert parse(*pieces, frame(0, b"y")) == ["xy"]
    words = f"a message in more than {MAX_FRAGMENTS} fragments"
    assert refused(*pieces, frame(0, fin=False), frame(0, b"y")) == (1009, words)


def test_limits_count_per_message() -> None:
    half = b"x" * (MAX_MESSAGE // 2 + 1)
    one = frame(TEXT, half, fin=False) + frame(0)
    assert len(parse(one, one, one)) == 3


def test_binary_messages_where_they_are_wanted() -> None:
    frames = Frames(binary=True)
    frames.feed(frame(BINARY, b"\xff"))
    frames.feed(frame(BINARY, b"\xc3", fin=False) + frame(PING) + frame(0, b"", fin=False) + frame(0, b"\xa9"))
    frames.feed(frame(BINARY, b"", fin=False) + frame(0) + frame(TEXT, b"\xc3", fin=False) + frame(0, b"\xa9"))
    assert take_all(frames) == [b"\xff", Ping(b""), b"\xc3\xa9", b"", "é"]


def test_limits_can_be_set() -> None:
    frames = Frames(max_message=1 << 21, max_fragments=2)
    frames.feed(text("x" * (1 << 21)) + frame(TEXT, b"a", fin=False) + frame(0, b"b", fin=False))
    assert len(take_all(frames)) == 1
    frames.feed(frame(0, b"c"))
    with pytest.raises(Violation) as caught:
        frames.next()
    assert caught.value.code == 1009


@settings(max_examples=examples(500))
@given(st.lists(st.binary(max_size=64), max_size=8))
def test_any_bytes(pieces: list[bytes]) -> None:
    with suppress(Violation):
        parse(*pieces)


@settings(max_examples=examples(300))
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_damaged_conversations(seed: int, changes: int) -> None:
    chance = random.Random(seed)
    data = bytearray(CONVERSATION)
    for _ in range(changes):
        data[chance.randrange(len(data))] = chance.randrange(256)
    cut = chance.randrange(len(data))
    with suppress(Violation):
        parse(bytes(data[:cut]), bytes(data[cut:]))


@settings(max_examples=examples(200))
@given(st.lists(st.text(max_size=300), min_size=1, max_size=6), st.lists(st.integers(1, 50), min_size=1))
def test_any_texts_in_any_slices(texts: list[str], sizes: list[int]) -> None:
    data = b"".join(text(one) for one in texts)
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[at : at + size])
        at += size
    assert parse(*pieces) == texts
