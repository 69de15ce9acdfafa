"""Fuzz the frame reader with random bytes, damaged frames and good ones, in random slices.

Knows: the reader, and frames worth damaging. Must not know: what the right answer is, but that it is
the same for the same bytes however they are sliced.
`python -m tests.security.frame_fuzz --inputs 100000000 --seed 1` is the long run; the test suite runs a short one.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from guestctl.transport.frame_reader import Close, Frames, Ping, Pong, Violation
from tests.security.memory import peak
from tests.transport.peers import BINARY, CLOSE, PING, PONG, TEXT, close, frame, text

#: Inputs made from one seed; a finding is repeated by its seed alone.
BATCH = 10_000
#: The most inputs one reader is given, and of how many readers one is checked in other slices.
TOGETHER, CHECKED = 8, 6
#: MiB by which the peak may grow after the first batch.
GROWTH = 8

Heard: TypeAlias = "list[str | bytes | Ping | Pong | Close | int]"

_SEEDS = (
    text("hé 🙂"),
    text("") + text("x" * 126),
    text("x" * 300),
    frame(PING, b"p" * 125) + text("y"),
    frame(PONG) + frame(PING),
    frame(TEXT, "é".encode()[:1], fin=False) + frame(PING) + frame(0, "é".encode()[1:]),
    frame(TEXT, b"a", fin=False) + frame(0, b"", fin=False) + frame(0, "🙂".encode()) + text("b"),
    frame(BINARY, b"\xff\x00", fin=False) + frame(0, b"\xfe"),
    frame(BINARY, b"\x80" * 40),
    close(1000, b"bye"),
    close(4001) + text("after"),
    close(None),
    frame(CLOSE, b"\x03"),
    frame(TEXT, b"x", mask=b"abcd"),
    b"\x81\x7f" + (1 << 16).to_bytes(8, "big"),
    b"\x81\x7f" + (1 << 40).to_bytes(8, "big"),
    b"\x81\x7e\xff\xff",
)


def inputs(chance: random.Random, most: int) -> Iterator[bytes]:
    """Return inputs for one reader: random bytes, and frames with up to three changed bytes."""
    bits, whole = chance.getrandbits, chance.random
    for _ in range(min(most, 1 + int(whole() * TOGETHER))):
        kind = bits(2)
        if kind == 0:
            yield chance.randbytes(1 + bits(6))
            continue
        data = bytearray(_SEEDS[int(whole() * len(_SEEDS))])
        for _ in range(bits(2) if kind == 1 else kind - 2):
            data[int(whole() * len(data))] = bits(8)
        yield bytes(data)


def read(pieces: Iterable[bytes], binary: bool) -> tuple[Heard, list[bytes]]:
    """Return the received messages, the code of the violation that ended the input, and the pieces fed."""
    frames = Frames(binary=binary)
    heard: Heard = []
    fed: list[bytes] = []
    try:
        for piece in pieces:
            fed.append(piece)
            frames.feed(piece)
            while (one := frames.next()) is not None:
                heard.append(one)
    except Violation as violation:
        heard.append(violation.code)
    except Exception as error:
        raise AssertionError(f"{fed!r} ends with {error!r}") from error
    return heard, fed


def sliced(data: bytes, chance: random.Random) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = 1 + int(chance.random() ** 3 * 60)
        yield data[at : at + size]
        at += size


def batch(seed: int, count: int, ends: Counter[str]) -> None:
    """Check one input. Raise AssertionError for a finding."""
    chance = random.Random(seed)
    while count > 0:
        binary = bool(chance.getrandbits(1))
        heard, fed = read(inputs(chance, count), binary)
        ends[str(heard[-1]) if heard and isinstance(heard[-1], int) else "unfinished"] += 1
        count -= len(fed)
        if chance.random() * CHECKED < 1:
            same, other = read(sliced(b"".join(fed), chance), binary)
            assert same == heard, f"{fed!r} is not what {other!r} is"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.security.frame_fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0, help="the first batch's")
    given = parser.parse_args()
    ends: Counter[str] = Counter()
    begun = time.process_time()
    first = 0.0
    for number, at in enumerate(range(0, given.inputs, BATCH)):
        seed = given.seed + number
        try:
            batch(seed, min(BATCH, given.inputs - at), ends)
        except AssertionError as finding:
            print(f"--inputs {BATCH} --seed {seed}: {finding}")
            return 1
        first = first or peak()
    grown = peak() - first
    print(f"{given.inputs} inputs, {time.process_time() - begun:.1f} s of a core, peak memory +{grown:.1f} MiB")
    print(", ".join(f"{end}: {count}" for end, count in sorted(ends.items())))
    return 1 if grown > GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
