"""Importing a module of guestctl writes no file, opens no socket and starts no process. An audit hook checks it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_PROBE = """
import importlib, os, pkgutil, sys
ours = None
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
ACTS = ("socket.", "subprocess.", "sqlite3.", "os.mkdir", "os.rename", "os.remove", "os.system", "os.fork", "tempfile.")
seen = []
def watch(event, arguments):
    if ours and (event.startswith(ACTS) or (event == "open" and arguments[2] & WRITING)):
        seen.append(f"{ours}: {event} {arguments!r}")
sys.addaudithook(watch)
"""
_LIBRARY = """
ours = "guestctl"
from guestctl import Client
"""
#: Third-party libraries are imported before the hook is armed: urllib3 binds a socket to find out whether IPv6 works.
_EVERYTHING = """
import pytest, requests, tornado.httpserver, typer, urllib3, websocket
import guestctl
_EXTRAS = {"google", "grpc", "gevent", "locust", "hdrh"}  # of the extras guestctl[grpc] and guestctl[load]
for found in pkgutil.walk_packages(guestctl.__path__, "guestctl."):
    ours = found.name
    try:
        importlib.import_module(ours)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in _EXTRAS:
            raise
"""
_REPORT = """
ours = None
print(*seen, sep="\\n")
sys.exit(bool(seen))
"""


@pytest.mark.parametrize("imported", [_LIBRARY, _EVERYTHING], ids=["the library", "every module"])
def test_importing_does_nothing(tmp_path: Path, imported: str) -> None:
    done = subprocess.run(
        [sys.executable, "-B", "-c", _PROBE + imported + _REPORT],
        env={"PATH": os.defpath, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_probe_reports_sockets_and_files(tmp_path: Path) -> None:
    act = "ours = 'a test'\nimport socket\nsocket.socket().close()\nopen('file', 'w').close()\n"
    done = subprocess.run(
        [sys.executable, "-B", "-c", _PROBE + act + _REPORT], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "a test: socket.__new__" in done.stdout
    assert "a test: open" in done.stdout
