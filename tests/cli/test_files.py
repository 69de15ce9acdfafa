"""Files through the command line: checked, uploaded, scanned, sent and downloaded, without overwriting any."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.service_state import StoredAttachment
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front

ROOT = Path(__file__).parents[2]


@pytest.fixture
def guest(front: Front) -> Front:
    front("session", "create")
    return front


def mine(front: Front) -> dict[str, Any]:
    return front("sandbox", "sessions").records[-1]


def attached(sandbox: Sandbox, front: Front) -> list[StoredAttachment]:
    return list(sandbox.service.conversations[mine(front)["id"]].attached.values())


# --- sending ---


def test_a_file_with_a_text(guest: Front, tmp_path: Path) -> None:
    (tmp_path / "label.png").write_bytes(b"x" * 1234)
    told = guest("send", "the label", "--file", "label.png")
    assert told.code == 0, told.err
    assert told.record["text"] == "the label"
    (file,) = told.record["attachments"]
    assert (file["name"], file["size"], file["mime"], file["media_type"]) == ("label.png", 1234, "image/png", "Image")
    assert "signature" not in told.out


def test_several_files_are_several_messages_each_with_its_record(guest: Front, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    argv = ("send", "three", "--file", "a.txt", "--file", "b.txt", "--file", "c.txt")
    records = guest(*argv).records
    assert [record["text"] for record in records] == ["three", "", ""]
    assert [record["attachments"][0]["name"] for record in records] == ["a.txt", "b.txt", "c.txt"]
    assert {record["delivery"] for record in records} == {"accepted"}
    assert len({record["id"] for record in records}) == len({record["key"] for record in records}) == 3
    array = json.loads(guest(*argv, "-o", "json").out)
    assert [record["attachments"][0]["name"] for record in array] == ["a.txt", "b.txt", "c.txt"]
    told = guest(*argv, "-o", "table").out
    assert told.count("(file)") == 3


def test_wait_accepts_the_reply_to_any_of_several_files(guest: Front, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    first, last = guest("send", "words", "--file", "a.txt", "--file", "b.txt", "--expect", "echo: words").records
    assert "reply" not in first
    assert last["reply"]["text"] == "echo: words"


def test_all_files_are_checked_before_the_first_is_sent(guest: Front, tmp_path: Path, sandbox: Sandbox) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "bad.exe").write_text("bad")
    (tmp_path / "empty.txt").write_text("")
    for bad, code in (("bad.exe", 3), ("empty.txt", 3), ("none.txt", 2), (".", 2)):
        told = guest("send", "--file", "good.txt", "--file", bad)
        assert told.code == code, told.err
        assert told.error["code"] == ("service.file" if code == 3 else "usage")
    assert attached(sandbox, guest) == []
    assert mine(guest)["messages"] == []


def test_too_large_for_this_session(tmp_path: Path, sandboxed: Callable[[Sandbox], Front]) -> None:
    with running(SandboxOptions(fast=True)) as sandbox:
        front = sandboxed(sandbox)
        front("session", "create")
        with open(tmp_path / "huge.bin", "wb") as file:
            file.truncate(1 << 40)  # not one byte of it is read
        told = front("send", "--file", "huge.bin")
        assert told.code == 3
        assert "the limit is 10240 kB" in told.error["message"]
        assert told.record["delivery"] == "not_sent"
        assert attached(sandbox, front) == []


@pytest.mark.parametrize("name", ["bad.exe", "bad.EXE"])
def test_a_blocked_extension(guest: Front, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    told = guest("send", "--file", name)
    assert (told.code, told.error["code"], told.error["service_code"]) == (3, "service.file", 4001)


@pytest.mark.parametrize("name", ['quo"te.txt', "a|b.txt", "tag<b>.txt"])
def test_a_name_the_service_refuses(guest: Front, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    told = guest("send", "--file", name)
    assert (told.code, told.error["code"]) == (3, "service.file")
    assert told.record["delivery"] == "not_sent"


def test_a_file_name_that_cannot_be_encoded(guest: Front, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.txt")
    (tmp_path / name).write_text("x")
    told = guest("send", "--file", name)
    assert told.code == 2
    assert "not UTF-8" in told.error["message"]


def test_an_infected_file(guest: Front, tmp_path: Path, sandbox: Sandbox) -> None:
    (tmp_path / "eicar.com.txt").write_text("x")
    (tmp_path / "good.txt").write_text("x")
    told = guest("send", "--file", "good.txt", "--file", "eicar.com.txt")
    assert (told.code, told.error["code"], told.error["service_code"]) == (3, "service.file", 4003)
    # The first was accepted: its record is there all the same.
    good, bad = told.records
    assert (good["attachments"][0]["name"], good["delivery"]) == ("good.txt", "accepted")
    assert bad["delivery"] == "not_sent"
    assert [file.state for file in attached(sandbox, guest)] == ["sent", "failed"]
    assert len([m for m in mine(guest)["messages"] if m["direction"] == "inbound"]) == 1


def test_an_upload_is_deleted_when_its_message_is_refused(guest: Front, tmp_path: Path, sandbox: Sandbox) -> None:
    (tmp_path / "note.txt").write_text("x")
    told = guest("send", "x" * 5000, "--file", "note.txt")
    assert (told.code, told.error["code"]) == (3, "service.too_long")
    assert told.record["delivery"] == "rejected"
    (file,) = attached(sandbox, guest)
    assert (file.state, file.data) == ("deleted", b"")


def test_a_retry_with_the_same_client_key_uploads_nothing(guest: Front, tmp_path: Path, sandbox: Sandbox) -> None:
    (tmp_path / "note.txt").write_text("x")
    key = "7b8a1b0e-8f2f-4a5c-9a39-0a4b4d0a3c11"
    first = guest("send", "--file", "note.txt", "--id", key)
    again = guest("send", "--file", "note.txt", "--id", key)
    assert again.code == 0
    assert again.record["id"] == first.record["id"]
    assert len(attached(sandbox, guest)) == 1


def test_file_cannot_be_combined_with_pick_or_lines(guest: Front, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("x")
    for argv in (("--pick", "1"), ("--form", "a=b")):
        told = guest("send", "--file", "note.txt", *argv)
        assert told.code == 2
    assert guest("send", "-", "--lines", "--file", "note.txt").code == 2


# --- fetching ---


def sent(front: Front, tmp_path: Path, name: str = "note.txt", content: bytes = b"hello") -> str:
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / name).write_bytes(content)
    told = front("send", "--file", f"out/{name}")
    assert told.code == 0, told.err
    return str(told.record["attachments"][0]["id"])


def test_download_never_overwrites_a_file(guest: Front, tmp_path: Path) -> None:
    identifier = sent(guest, tmp_path)
    told = guest("download", identifier)
    assert told.record == {"kind": "download", "id": identifier, "path": str(tmp_path / "note.txt"), "size": 5}
    assert (tmp_path / "note.txt").read_bytes() == b"hello"
    (tmp_path / "note.txt").write_text("mine")
    again = guest("download", identifier)
    assert again.code == 2
    assert "exists" in again.error["message"]
    assert "nothing is overwritten" in again.error["hint"]
    assert (tmp_path / "note.txt").read_text() == "mine"
    assert guest("download", identifier, "--to", "other.txt").code == 0
    (tmp_path / "folder").mkdir()
    assert guest("download", identifier, "--to", "folder/").record["path"] == str(tmp_path / "folder" / "note.txt")


def test_download_into_a_missing_folder(guest: Front, tmp_path: Path) -> None:
    identifier = sent(guest, tmp_path)
    for to in ("none/", "none/x.txt"):
        assert guest("download", identifier, "--to", to).code == 2
    assert not (tmp_path / "none").exists()


def test_download_follows_no_link(guest: Front, tmp_path: Path) -> None:
    identifier = sent(guest, tmp_path)
    (tmp_path / "note.txt").symlink_to(tmp_path / "elsewhere")
    assert guest("download", identifier).code == 2
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("offered", "saved"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        (".bashrc", "bashrc"),
        ("a\u202etxt.exe", "atxt.exe"),
        ("-rf", "rf"),
        ("\x1b[2Jx\n.txt", "[2Jx.txt"),
        ("con", None),
        ("..", None),
    ],
)
def test_download_strips_hostile_file_names(
    guest: Front, tmp_path: Path, sandbox: Sandbox, offered: str, saved: str | None
) -> None:
    identifier = sent(guest, tmp_path)
    attached(sandbox, guest)[0].name = offered
    told = guest("download", identifier)
    assert told.code == 0, told.err
    path = Path(told.record["path"])
    assert path.parent == tmp_path
    assert path.name == (saved or f"attachment-{identifier}")
    assert guest("download", identifier, "--to", "again", tty=True).out.isprintable() is False


def test_download_of_an_unknown_id(guest: Front) -> None:
    told = guest("download", "no-such-id")
    assert (told.code, told.error["code"]) == (3, "service.file")


class OtherHost(BaseHTTPRequestHandler):
    """A file server of a bot, whose addresses are valid or stale as the test decides."""

    answers: list[int] = []

    def do_GET(self) -> None:
        status = self.answers.pop(0) if self.answers else 200
        self.send_response(status)
        self.end_headers()
        if status == 200:
            self.wfile.write(b"from the bot")

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), OtherHost)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/files/bill.pdf"
    finally:
        OtherHost.answers = []
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def with_bot(tmp_path: Path, elsewhere: str, sandboxed: Callable[[Sandbox], Front]) -> Iterator[Front]:
    script = tmp_path / "bot.yaml"
    script.write_text(f"otherwise: {{attachment: {{url: '{elsewhere}', id: bill-1}}}}")
    with running(SandboxOptions(fast=True, script=script)) as sandbox:
        front = sandboxed(sandbox)
        front("ask", "the bill, please")
        yield front


def test_download_finds_the_bots_file_in_history(with_bot: Front) -> None:
    told = with_bot("download", "bill-1")
    assert told.code == 0, told.err
    assert Path(told.record["path"]).name == "bill.pdf"
    assert Path(told.record["path"]).read_bytes() == b"from the bot"


def test_download_renews_a_stale_address(with_bot: Front) -> None:
    OtherHost.answers = [404]
    assert with_bot("download", "bill-1").code == 0
    OtherHost.answers = [403, 404]
    told = with_bot("download", "bill-1", "--to", "other")
    assert (told.code, told.error["code"]) == (3, "service.file")
    assert "expired" in told.error["message"]
    assert not (with_bot.cwd / "other").exists()


def test_download_to_a_full_disk_leaves_no_file(guest: Front, tmp_path: Path) -> None:
    identifier = sent(guest, tmp_path, "big.bin", b"x" * 2_000_000)

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = subprocess.run(
        [sys.executable, "-m", "guestctl", "download", identifier],
        cwd=tmp_path,
        env={**guest.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=small,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert not (tmp_path / "big.bin").exists()
