"""The relay where the packages of the extra `guestctl[grpc]` are missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import requests

from tests.cli.conftest import Front
from tests.relay.processes import STUCK, relaying


def test_the_option_grpc_names_the_missing_extra(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    for known in [name for name in sys.modules if name.startswith(("guestctl.relay.", "grpc", "google"))]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, "grpc", None)
    refused = front("relay", "serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
    assert refused.code == 2
    assert '--grpc needs the extra guestctl[grpc]: there is no module "grpc"' in refused.err
    assert "hint:  install it: `pip install 'guestctl[grpc]'`" in refused.err


def test_grpc_web_names_the_missing_extra_to_a_reader_with_a_key(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "google").mkdir()
    (tmp_path / "google" / "__init__.py").write_text("raise ImportError('a test hides this package')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with relaying(front) as relay:
        assert relay.ready["grpc"] is None
        for key, status in (("wrong", b"grpc-status: 16"), (relay.key, b"grpc-status: 12")):
            answer = requests.post(
                f"{relay.url}/guestctl.relay.v1.ChatStream/Subscribe",
                data=bytes(5),
                headers={"Content-Type": "application/grpc-web+proto", "Authorization": f"Bearer {key}"},
                timeout=STUCK,
            )
            assert answer.status_code == 200
            assert status in answer.content
        assert b"guestctl[grpc]" in answer.content
