"""`profile add` and `profile use` change a file that other processes and people also use."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
import yaml

from tests.cli.conftest import Front

ROOT = Path(__file__).parents[2]


def test_profiles_added_by_many_processes_at_once_are_all_there(alone: Front) -> None:
    file = alone.cwd / "profiles.yaml"
    file.write_text("# ours\nprofiles:\n  first: {}\n")
    environ = {**alone.environ, "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    adding = [
        Popen(
            [sys.executable, "-m", "guestctl", "profile", "add", f"p{number}", "--base-url", "https://a.example"],
            cwd=alone.cwd, env=environ, stdout=PIPE, stderr=PIPE, text=True,
        )
        for number in range(6)
    ]  # fmt: skip
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in adding]
    assert ended == [("", 0)] * 6
    assert sorted(yaml.safe_load(file.read_text())["profiles"]) == ["first", *(f"p{number}" for number in range(6))]
    assert file.read_text().startswith("# ours\n")
    assert not list(alone.cwd.glob(".profiles*"))


def test_a_leftover_lock_file_blocks_no_one(alone: Front) -> None:
    left = alone.cwd / ".profiles.yaml.lock"
    left.touch()
    (alone.cwd / "profiles.yaml").write_text("profiles: {}\n")
    assert alone("profile", "add", "one", "--base-url", "https://a.example").code == 0
    assert not left.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_an_error(alone: Front) -> None:
    folder = alone.cwd / "theirs"
    folder.mkdir()
    file = folder / "profiles.yaml"
    file.write_text("profiles:\n  a: {base_url: 'https://a.example'}\n")
    folder.chmod(0o500)
    try:
        refused = alone("profile", "use", "a", "--profiles", str(file))
        unknown = alone("profile", "use", "b", "--profiles", str(file))
    finally:
        folder.chmod(0o700)
    assert (refused.code, unknown.code) == (2, 2)
    assert "Permission denied" in refused.error["message"]
    assert refused.error["code"] == "config.file"
    assert 'no profile "b"' in unknown.error["message"]


def test_a_lock_that_is_not_a_file_is_an_error(alone: Front) -> None:
    (alone.cwd / "profiles.yaml").write_text("profiles: {}\n")
    (alone.cwd / ".profiles.yaml.lock").mkdir()
    refused = alone("profile", "add", "a", "--base-url", "https://a.example", "-o", "table")
    assert refused.code == 2
    assert str(alone.cwd / ".profiles.yaml.lock") in refused.err
    assert "Traceback" not in refused.err


def test_the_lock_file_is_private(alone: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    (alone.cwd / "profiles.yaml").write_text("profiles: {}\n")
    modes: list[int] = []
    replace = os.replace

    def seen(source: str, target: str) -> None:
        modes.append(stat.S_IMODE((alone.cwd / ".profiles.yaml.lock").stat().st_mode))
        replace(source, target)

    monkeypatch.setattr(os, "replace", seen)
    assert alone("profile", "add", "a", "--base-url", "https://a.example").code == 0
    assert modes == [0o600]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_adding_a_profile_keeps_unusual_line_separators(alone: Front, mark: str, ending: str) -> None:
    """Characters that YAML 1.1 treats as line breaks are ordinary characters in a user's file."""
    lines = [
        f"# ours {mark}# and theirs",
        f"#{mark}{mark}",
        f"default:   a   # first{mark}",
        "profiles:",
        "    a:",
        f"        base_url:    https://a.example   # here{mark}",
        f'        name:   "Ann{mark}  Lee"',
        f"# the end {mark}",
    ]
    file = alone.cwd / "profiles.yaml"
    before = "".join(line + ending for line in lines)
    file.write_bytes(before.encode())
    assert alone("profile", "add", "b", "--base-url", "https://b.example").code == 0
    after = file.read_bytes().decode()
    assert after.startswith(before)
    assert "b.example" in after.removeprefix(before)


def test_profile_check_ignores_variables_that_override_keys(alone: Front) -> None:
    """GUESTCTL_API is set by every `sandbox exec`."""
    file = alone.cwd / "profiles.yaml"
    file.write_text("profiles:\n  a: {api: guests, deployment_id: d, region: mypurecloud.de}\n")
    stronger = {"GUESTCTL_API": "web-messaging", "GUESTCTL_ORG": "org", "GUESTCTL_PROFILE": "b"}
    under_exec = replace(alone, environ={**alone.environ, **stronger})
    for front in (alone, under_exec):
        found = front("profile", "check")
        assert (found.code, found.error["code"]) == (2, "config.key")
        assert 'the guests API needs "org"' in found.error["message"]
    file.write_text("profiles:\n  a: {api: guests, deployment_id: d, region: mypurecloud.de, org: '${GUESTCTL_ORG}'}\n")
    found = alone("profile", "check")
    assert found.code == 0
    assert f"{file}:2: org: not set: GUESTCTL_ORG" in found.record["warnings"]
    assert under_exec("profile", "check").code == 0


def test_profile_check_without_a_file_fails(alone: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(alone.cwd / "config"))
    told = alone("profile", "check", "-o", "json")
    assert (told.code, told.out, told.error["code"]) == (2, "", "config.file")
    assert "no profile file" in told.error["message"]


def test_a_key_set_twice_is_refused(alone: Front) -> None:
    file = alone.cwd / "p.yaml"
    twice = ("--region", "a.example", "--set", "region=b.example")
    refused = alone("profile", "add", "x", "--profiles", str(file), *twice)
    assert (refused.code, refused.error["code"]) == (2, "usage")
    assert "region is set twice" in refused.error["message"]
    assert not file.exists()
