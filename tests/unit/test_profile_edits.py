"""Changing, renaming and removing profiles: the lines of other profiles and their comments stay as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestctl.config.edits import change_values, remove, rename
from guestctl.config.profiles import load
from guestctl.core.errors import UsageError
from tests.unit.test_profiles import write

FILE = """\
# our profiles
default:   staging     # the usual one

profiles:
    # Frankfurt
    staging:   # for everyone
        region:    mypurecloud.de
        attributes: { plan: gold,   level: "7" }
        retry:
            attempts: 10
            # the last comment of staging

    # Sydney: ask first
    "live":
        region: mypurecloud.com.au
        name: >-
            a folded
            name
# the end
"""


def plain(path: Path, name: str) -> dict[str, object]:
    return {key: found.plain() for key, found in load(path).values(name).items()}


def test_a_removed_profile_takes_only_its_own_lines_with_it(tmp_path: Path) -> None:
    path = write(tmp_path, FILE)
    assert remove(path, "staging") is True
    lines = FILE.splitlines(keepends=True)
    assert path.read_text() == "".join([lines[0], *lines[2:5], *lines[11:]])
    assert remove(path, "live") is False
    assert load(path).names == ()
    assert [line for line in path.read_text().splitlines() if line.strip().startswith("#")] == [
        *("# our profiles", "    # Frankfurt", "    # Sydney: ask first", "# the end")
    ]


@pytest.mark.parametrize(("old", "new", "written"), [("staging", "test", "test"), ("live", "pro-d 2", '"pro-d 2"')])
def test_a_rename_changes_the_name_and_the_default(tmp_path: Path, old: str, new: str, written: str) -> None:
    path = write(tmp_path, FILE)
    values = plain(path, old)
    rename(path, old, new)
    expected = {
        "staging": FILE.replace("staging:   # for", "test:   # for").replace("default:   staging", "default:   test"),
        "live": FILE.replace('"live"', written),
    }[old]
    assert path.read_text() == expected
    assert plain(path, new) == values
    assert load(path).default == ("test" if old == "staging" else "staging")


@pytest.mark.parametrize("name", ["yes", "null", "ä", "1", "a: b", "#x", "two words"])
def test_every_name_can_be_given_and_taken_back(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, FILE)
    rename(path, "staging", name)
    assert load(path).default == name
    rename(path, name, "staging")
    assert [load(path).names, load(path).default] == [("staging", "live"), "staging"]


def test_values_are_changed_and_removed_in_place(tmp_path: Path) -> None:
    path = write(tmp_path, FILE)
    values = {"region": "eu-west-1", "attributes.plan": "silver", "retry.cap": "5s", "queue": "billing"}
    change_values(path, "staging", values, ["attributes.level", "retry.attempts"])
    found = plain(path, "staging")
    assert found == {"region": "eu-west-1", "attributes": {"plan": "silver"}, "retry.cap": "5s", "queue": "billing"}
    before = FILE.splitlines()
    kept = [line for line in before if "#" in line or '"live"' in line or "folded" in line]
    assert [line for line in path.read_text().splitlines() if line in kept] == kept
    lines = path.read_text().splitlines()
    assert lines.index("        queue: billing") < lines.index("    # Sydney: ask first") - 1
    change_values(path, "staging", {}, ["retry.cap", "attributes"])
    assert "retry" not in path.read_text()
    change_values(path, "live", {"name": "one line", "retry.base": "2s", "journey_context": '{"page": [1]}'})
    assert plain(path, "live") == {
        "region": "mypurecloud.com.au",
        "name": "one line",
        "retry.base": "2s",
        "journey_context": {"page": [1]},
    }
    assert path.read_text().endswith("# the end\n")


SHARED = "profiles:\n  a: &a {queue: x}\n  b: *a\n  c: {<<: *a, region: mypurecloud.de}\n"


def test_a_profile_that_others_share_is_not_changed_behind_their_backs(tmp_path: Path) -> None:
    path = write(tmp_path, SHARED)
    for values, unset in (({"queue": "y"}, []), ({}, ["queue"])):
        with pytest.raises(UsageError, match="shares its lines with another profile"):
            change_values(path, "a", values, unset)
    with pytest.raises(UsageError, match="shares its lines with another profile"):
        change_values(path, "c", {}, ["queue"])
    assert path.read_text() == SHARED
    change_values(path, "c", {"queue": "z"})
    assert [plain(path, name)["queue"] for name in "abc"] == ["x", "x", "z"]


@pytest.mark.parametrize(
    "text", [SHARED, "profiles: {a: {queue: x}, b: {queue: y}}", "default: a\nprofiles: {a: , b: {}}"]
)
def test_files_of_another_layout(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    old = load(path)
    others = {name: plain(path, name) for name in old.names if name != "a"}
    values = plain(path, "a")
    rename(path, "a", "z")
    assert load(path).names == ("z", *old.names[1:])
    assert plain(path, "z") == values
    remove(path, "z")
    assert {name: plain(path, name) for name in load(path).names} == others
    assert load(path).default is None


@pytest.mark.parametrize("text", [FILE.replace("\n", "\r\n"), FILE.replace("\n", "\r"), FILE.rstrip()])
def test_line_ends_are_kept(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, "")
    path.write_bytes(text.encode())
    rename(path, "staging", "test")
    expected = text.replace("staging:   #", "test:   #").replace("default:   staging", "default:   test")
    assert path.read_bytes().decode() == expected
