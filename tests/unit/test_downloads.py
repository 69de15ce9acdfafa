"""Attachments: safe names, refused addresses, and no overwritten file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from guestctl.core.clock import Deadline
from guestctl.core.errors import Failure, NetworkError, Refused, Unreadable, UsageError
from guestctl.core.model import Attachment, Message, Secret, Session
from guestctl.core.wire import HttpResponse, Request
from guestctl.dialects.base import HistoryPage
from guestctl.dialects.features import FileTransfer
from guestctl.dialects.flows import Flow, done
from guestctl.engine.downloads import NAME_BYTES, Stale, allowed, download, safe_name, save
from tests.fakes import FakeClock
from tests.unit.engine_fakes import World

URL = "https://files.example.test/a?Signature=s3cr3t"
PARTS = some.sampled_from(
    ["..", ".", "/", "\\", "a", "~", "-rf", "CON", "nul.txt", " ", "\x1b[2J", "\u202e", "é", "\0", "😀"]
)
HOSTILE = some.one_of(some.text(max_size=300), some.lists(PARTS, max_size=12).map("".join))


@given(HOSTILE, some.text(max_size=60))
def test_a_file_name_has_no_folder_and_no_control_character(offered: str, fallback: str) -> None:
    name = safe_name(offered, fallback)
    assert name not in {"", ".", ".."}
    assert not set(name) & set('/\\\0\r\n\x1b:*?"<>|')
    assert name[0] not in ".- "
    assert name[-1] not in ". "
    assert len(name.encode()) <= NAME_BYTES
    assert name.isprintable()
    assert name.split(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT9"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HOSTILE)
def test_a_file_never_leaves_its_folder(tmp_path: Path, offered: str) -> None:
    target = tmp_path / safe_name(offered, "1")
    assert target.parent == tmp_path
    assert os.path.realpath(target) == os.path.join(os.path.realpath(tmp_path), target.name)


@pytest.mark.parametrize(
    ("offered", "name"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("C:\\temp\\x.txt", "x.txt"),
        ("..", "attachment-id1"),
        (None, "attachment-id1"),
        ("-rf", "rf"),
        (".bashrc", "bashrc"),
        ("con.txt", "attachment-id1"),
        ("photo\u202egpj.exe", "photogpj.exe"),
        ("Grüße 😀.txt", "Grüße 😀.txt"),
        ("x" * 300 + ".pdf", "x" * (NAME_BYTES - 4) + ".pdf"),
        ("x." + "y" * 300, "x." + "y" * (NAME_BYTES - 2)),
        ("a" + "😀" * 100 + ".pdf", "a" + "😀" * 48 + ".pdf"),
        ("a\u2003b\u2028c\x85.txt", "a b c.txt"),
        (" .- a <b>: c|d?.txt . ", "a b cd.txt"),
        ("XXL X.XX", "XXL X.XX"),
        ("X" * 300 + ".pdf", "X" * (NAME_BYTES - 4) + ".pdf"),
        ("x" * 190 + " . . . . . " + "y" * 50 + ".pdf", "x" * 190 + ".pdf"),
        ("x" * 300 + "." + "y" * 18, "x" * (NAME_BYTES - 19) + "." + "y" * 18),
        ("x" * 300 + "." + "y" * 19, "x" * NAME_BYTES),
    ],
)
def test_offered_names_are_made_safe(offered: str | None, name: str) -> None:
    assert safe_name(offered, "id1") == name


def test_a_file_without_a_name_is_named_after_its_id() -> None:
    assert safe_name("", "Ab-1/../z2") == "attachment-Ab-1z2"
    assert safe_name("..", "x" * 50) == "attachment-" + "x" * 40


def test_an_enormous_name_is_handled_quickly() -> None:
    begun = time.process_time()
    safe_name("x" * 1_000_000 + ".pdf", "1")
    assert time.process_time() - begun < 5.0


@pytest.mark.parametrize(
    ("url", "remote", "local"),
    [
        ("https://bucket.s3.eu-central-1.amazonaws.com/x?sig=1", True, True),
        ("http://bucket.example.test/x", False, False),
        ("ftp://bucket.example.test/x", False, False),
        ("file:///etc/passwd", False, False),
        ("https://user:secret@bucket.example.test/x", False, False),
        ("https://user@bucket.example.test/x", False, False),
        ("https://169.254.169.254/latest/meta-data", False, False),
        ("https://10.0.0.1/x", False, False),
        ("https://[::1]/x", False, True),
        ("http://127.0.0.1:8080/x", False, True),
        ("https://localhost/x", False, True),
        ("http://localhost/x", False, True),
        ("https://localhost./x", False, True),
        ("https://www.localhost/x", False, True),
        ("ftp://localhost/x", False, False),
        ("http://192.168.0.9/x", False, False),
        ("https:///x", False, False),
        ("https://[bad/x", False, False),
        ("", False, False),
    ],
)
def test_only_allowed_addresses_are_fetched_from(url: str, remote: bool, local: bool) -> None:
    assert allowed(url, local=False) is remote
    assert allowed(url, local=True) is local


class Files:
    """A transport that has one file."""

    def __init__(self, *pieces: bytes, status: int = 200, failure: BaseException | None = None) -> None:
        self.pieces, self.status, self.failure = pieces, status, failure
        self.asked: dict[str, Any] = {}

    def download(self, request: Request, *, write: Callable[[bytes], object], **how: object) -> HttpResponse:
        self.asked = {"request": request, **how}
        for piece in self.pieces:
            write(piece)
        if self.failure is not None:
            raise self.failure
        return HttpResponse(self.status, {}, b"", 0.0)


DEADLINE = Deadline.after(FakeClock(), 5.0)


def located(url: str = URL, name: str | None = "a.txt") -> tuple[Request, str | None]:
    return Request("GET", url, "download", idempotent=True), name


def fetch(files: Files, to: Path, *, url: str = URL, name: str | None = "a.txt", local: bool = False) -> Path:
    return save(cast(Any, files), located(url, name), "id1", to, DEADLINE, limit=100, local=local)


def test_a_file_is_saved_into_a_folder_or_under_a_name(tmp_path: Path) -> None:
    files = Files(b"one", b"two")
    path = fetch(files, tmp_path)
    assert path == tmp_path / "a.txt"
    assert path.read_bytes() == b"onetwo"
    assert path.stat().st_mode & 0o777 == 0o600
    assert files.asked["headers"] == {}, "a presigned address gets no header of ours"
    assert fetch(files, tmp_path / "b.txt").name == "b.txt"
    assert fetch(files, tmp_path, name=None).name == "attachment-id1"


def test_the_transport_gets_the_limit_the_deadline_and_no_headers(tmp_path: Path) -> None:
    files, there = Files(b"one"), located()

    def progress(done: int, of: int) -> None: ...

    save(cast(Any, files), there, "id1", tmp_path, DEADLINE, limit=100, local=False, progress=progress)
    assert files.asked == {
        "request": there[0],
        "headers": {},
        "deadline": DEADLINE,
        "limit": 100,
        "progress": progress,
    }


def test_a_loopback_address_is_allowed_only_for_a_loopback_service(tmp_path: Path) -> None:
    url = "http://127.0.0.1:8080/a"
    assert fetch(Files(b"one"), tmp_path, url=url, local=True).read_bytes() == b"one"
    with pytest.raises(Refused):
        fetch(Files(b"one"), tmp_path / "b.txt", url=url)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        fetch(Files(b"theirs"), tmp_path)
    assert (tmp_path / "a.txt").read_text() == "mine"


def test_download_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError):
        fetch(Files(b"theirs"), tmp_path)
    assert not (tmp_path / "elsewhere").exists()


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("files", "kind", "code", "message"),
    [
        (Files(status=403), Stale, "service.file", "the attachment's address has expired"),
        (Files(status=404), Stale, "service.file", "the attachment's address has expired"),
        (Files(status=300), Unreadable, "answer.redirect", "download: HTTP 300"),
        (Files(status=399), Unreadable, "answer.redirect", "download: HTTP 399"),
        (Files(status=400), NetworkError, "service.down", "download: HTTP 400"),
        (Files(status=503), NetworkError, "service.down", "download: HTTP 503"),
        (Files(b"part", failure=NetworkError("lost")), NetworkError, "network.lost", "lost"),
        (Files(b"part", failure=Unreadable("too large")), Refused, "service.file", "too large"),
        (Files(b"part", failure=FULL), UsageError, "usage", "{target}: No space left on device"),
        (Files(b"part", failure=OSError("gone")), UsageError, "usage", "{target}: gone"),
    ],
)
def test_a_failure_is_reported_and_leaves_no_partial_file(
    tmp_path: Path, files: Files, kind: type[Failure], code: str, message: str
) -> None:
    with pytest.raises(kind) as caught:
        fetch(files, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert caught.value.code == code
    assert caught.value.message == message.format(target=tmp_path / "a.txt")
    assert caught.value.http_status == (None if files.failure else files.status)


def test_an_interrupt_leaves_no_partial_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch(Files(b"part", failure=KeyboardInterrupt()), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_partial_file_deleted_by_others_hides_no_failure(tmp_path: Path) -> None:
    class Taken(Files):
        def download(self, request: Request, *, write: Callable[[bytes], object], **how: object) -> HttpResponse:
            (tmp_path / "a.txt").unlink()
            raise NetworkError("lost")

    with pytest.raises(NetworkError, match="lost"):
        fetch(Taken(), tmp_path)


def test_a_refused_address_creates_no_file(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        fetch(Files(), tmp_path, url="https://169.254.169.254/")
    assert caught.value.code == "service.file"
    assert caught.value.message == "no file may be fetched from the attachment's address"
    assert list(tmp_path.iterdir()) == []


def test_download_into_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        fetch(Files(), tmp_path / "none" / "a.txt")
    assert caught.value.message == f"{tmp_path / 'none' / 'a.txt'}: No such file or directory"


# --- finding the address ---


class Transfer(FileTransfer):
    """Gives one address after the other, or refuses to give any."""

    def __init__(self, *urls: str) -> None:
        self.urls = list(urls)

    def upload(self, session: Session, name: str, mime: str, content: bytes) -> Flow[str]:
        raise NotImplementedError

    def discard(self, session: Session, attachment_id: str) -> Flow[None]:
        raise NotImplementedError

    def download(self, session: Session, attachment_id: str) -> Flow[tuple[Request, str | None]]:
        if not self.urls:
            raise Refused("no such attachment", code="service.not_found")
        return done(located(self.urls.pop(0)))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def serve(world: World, *outcomes: Files) -> list[str]:
    """Let the transport answer with one file after the other; returns the addresses it is asked for."""
    left, asked = list(outcomes), list[str]()

    def fetch(request: Request, **how: Any) -> HttpResponse:
        asked.append(request.url)
        return left.pop(0).download(request, **how)

    world.service.download = fetch  # type: ignore[attr-defined]
    return asked


def test_an_expired_address_is_requested_again_once(world: World, tmp_path: Path) -> None:
    asked = serve(world, Files(status=403), Files(b"one"))
    transfer = Transfer("https://a.test/old", "https://a.test/fresh")
    path = download(world.exchange, transfer, "id1", tmp_path, world.deadline())
    assert path.read_bytes() == b"one"
    assert asked == ["https://a.test/old", "https://a.test/fresh"]
    serve(world, Files(status=403), Files(status=403))
    with pytest.raises(Stale):
        download(world.exchange, Transfer(URL, URL), "id1", tmp_path / "b.txt", world.deadline())


def test_an_attachment_without_an_address_is_fetched_from_the_one_in_history(world: World, tmp_path: Path) -> None:
    def shown(id_: str, url: str | None) -> Message:
        attachment = Attachment(id_, "b.txt", None, None, url=None if url is None else Secret(url))
        return Message(f"m-{id_}-{url}", "outbound", "", None, attachments=(attachment,))

    items = (shown("id1", "https://a.test/1"), shown("id1", None), shown("id2", "https://a.test/2"))
    world.dialect.history = lambda *_, **__: done(HistoryPage(items))  # type: ignore[method-assign]
    asked = serve(world, Files(b"one"))
    assert download(world.exchange, Transfer(), "id1", tmp_path, world.deadline()) == tmp_path / "b.txt"
    assert asked == ["https://a.test/1"]
    with pytest.raises(Refused, match="no such attachment"):
        download(world.exchange, Transfer(), "id3", tmp_path, world.deadline())
