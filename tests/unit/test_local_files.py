"""Local files: their type and size, and the session's own limits, checked before the upload."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from guestctl.core.errors import Refused, UsageError
from guestctl.core.model import Limits, Session
from guestctl.engine.local_files import LocalFile, check_file, inspect_file

LIMITS = Limits(file_kilobytes=100, file_types=("image/*", "application/pdf"), blocked_extensions=(".exe",))


def file(name: str, mime: str, size: int) -> LocalFile:
    return LocalFile(Path(name), name, mime, size)


@pytest.mark.parametrize(
    ("name", "mime", "size", "code"),
    [
        ("a.pdf", "application/pdf", 0, 4102),
        ("a.pdf", "application/pdf", 101_000, 4002),
        ("a.exe", "application/pdf", 10, 4001),
        ("a.txt", "text/plain", 10, 4001),
    ],
)
def test_a_file_over_the_session_s_limits_is_refused(name: str, mime: str, size: int, code: int) -> None:
    with pytest.raises(Refused) as caught:
        check_file(Session("toy", "p", limits=LIMITS), file(name, mime, size))
    assert caught.value.service_code == code
    assert caught.value.delivery == "not_sent"


@pytest.mark.parametrize(
    ("name", "mime", "size"),
    [("a.pdf", "application/pdf", 100_999), ("a.png", "image/png", 1), ("a.EXE", "image/png", 1)],
)
def test_a_file_within_the_limits_is_accepted(name: str, mime: str, size: int) -> None:
    check_file(Session("toy", "p", limits=LIMITS), file(name, mime, size))
    check_file(Session("toy", "p"), file(name, mime, size))


@pytest.mark.parametrize(
    ("name", "mime"), [("a.PNG", "image/png"), ("a.opus", "audio/ogg"), ("a", "application/octet-stream")]
)
def test_a_file_is_inspected_without_reading_it(tmp_path: Path, name: str, mime: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"1234")
    found = inspect_file(path)
    assert (found.name, found.mime, found.size, found.read()) == (name, mime, 4, b"1234")


def test_anything_but_a_regular_file_is_a_usage_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    unwritable = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")
    with open(unwritable, "wb") as made:
        made.write(b"x")
    for path, why in (
        (tmp_path, "not a file"),
        (tmp_path / "pipe", "not a file"),
        (tmp_path / "none", "No such file"),
        (Path(unwritable), "not UTF-8"),
    ):
        with pytest.raises(UsageError, match=why) as caught:
            inspect_file(path)
        caught.value.message.encode()


def test_a_file_deleted_after_the_inspection_is_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    found = inspect_file(path)
    path.unlink()
    with pytest.raises(UsageError, match="No such file"):
        found.read()
