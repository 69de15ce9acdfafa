"""`profile set`, `profile rename` and `profile remove`: the file and the stored sessions change together."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from guestctl.client import former_scope_of, scope_of
from guestctl.core.model import Profile
from guestctl.dialects import NAMES, dialect_class
from guestctl.sandbox.server import Sandbox
from tests.cli.conftest import Front


@pytest.fixture
def staged(front: Front, sandbox: Sandbox) -> Front:
    """A file with the profiles `staging` and `other`, both of the sandbox."""
    where = f"base_url: '{sandbox.url}', deployment_id: {sandbox.deployment_id}"
    file = front.cwd / "own.yaml"
    file.write_text(f"default: staging\nprofiles:\n  staging: {{{where}}}\n  other: {{{where}}}\n")
    environ = {name: value for name, value in front.environ.items() if name != "GUESTCTL_PROFILE"}
    return replace(front, environ={**environ, "GUESTCTL_PROFILES": str(file)})


def file_of(front: Front) -> Path:
    return Path(front.environ["GUESTCTL_PROFILES"])


def stored(front: Front) -> set[tuple[str, str]]:
    """Return the scope's profile and the name of each stored session."""
    database = sqlite3.connect(Path(front.environ["GUESTCTL_STATE"]) / "state.db")
    with database:
        rows = database.execute("SELECT scope, name FROM session").fetchall()
    database.close()
    return {(scope.split("/")[0], name) for scope, name in rows}


def test_set_changes_a_value(staged: Front) -> None:
    done = staged("profile", "set", "staging", "queue=billing", "attributes.plan=gold", "--region", "eu-central-1")
    assert done.record == {"kind": "profile", "name": "staging", "change": "changed", "path": str(file_of(staged))}
    values = staged("profile", "show").record["values"]
    assert (values["queue"]["value"], values["attributes"]["value"]) == ("billing", {"plan": "gold"})
    assert staged("profile", "set", "staging", "--unset", "queue").code == 0
    assert staged("profile", "show").record["values"]["queue"]["value"] is None


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (("staging",), "nothing to change"),
        (("nobody", "queue=x"), 'no profile "nobody"'),
        (("staging", "qeue=x"), 'did you mean "queue"'),
        (("staging", "queue"), "expected KEY=VALUE"),
        (("staging", "--unset", "queue"), 'has no key "queue"'),
        (("staging", "queue=x", "--unset", "queue"), "both set and unset"),
        (("staging", "region=x.example", "--region", "y.example"), "set twice"),
        (("staging", "oauth.client_secret=word"), "not accepted on the command line"),
        (("sandbox", "queue=x"), 'no profile "sandbox"'),
    ],
)
def test_set_refuses_what_is_wrong(staged: Front, argv: tuple[str, ...], error: str) -> None:
    before = file_of(staged).read_text()
    done = staged("profile", "set", *argv)
    assert (done.code, file_of(staged).read_text()) == (2, before)
    assert error in done.error["message"]
    assert "word" not in done.err


def test_a_renamed_profile_keeps_its_sessions(staged: Front) -> None:
    staged("session", "create", "--as", "cart")
    staged("session", "create", "--as", "shop")
    staged("session", "use", "cart")
    staged("send", "before")
    staged("-p", "other", "session", "create", "--as", "theirs")
    done = staged("profile", "rename", "staging", "test")
    assert done.record == {
        "kind": "profile",
        "name": "test",
        "change": "renamed",
        "path": str(file_of(staged)),
        "sessions": 2,
        "former_name": "staging",
    }
    assert stored(staged) == {("test", "cart"), ("test", "shop"), ("other", "theirs")}
    shown = staged("session", "show").record  # the default followed, and so did the current session
    assert (shown["name"], shown["profile"]) == ("cart", "test")
    assert staged("send", "after").code == 0
    assert [record["text"] for record in staged("history").records if record["direction"] == "inbound"] == [
        *("before", "after")
    ]
    assert "former" not in staged("session", "report").out


@pytest.mark.parametrize("api", NAMES)
def test_sessions_of_every_api_follow_a_rename(staged: Front, api: str) -> None:
    front = replace(staged, environ={**staged.environ, "GUESTCTL_API": api})
    for name in ("queue", "environment", "org", "aws_region", "oauth.client_id"):
        assert staged("profile", "set", "staging", f"{name}=sandbox").code == 0
    created = front("session", "create", "-p", "sandbox")
    assert created.code == 0, created.err
    database = Path(front.environ["GUESTCTL_STATE"]) / "state.db"
    with sqlite3.connect(database) as connection:  # as if the API's session belonged to the profile
        connection.execute("UPDATE session SET scope = 'staging' || substr(scope, 8)")
    connection.close()
    assert staged("profile", "rename", "staging", "test").record["sessions"] == 1
    assert stored(staged) == {("test", "default")}


def test_a_rename_that_cannot_write_the_file_moves_no_session(staged: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    staged("session", "create")
    before = file_of(staged).read_text()

    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    done = staged("profile", "rename", "staging", "test")
    assert (done.code, done.error["code"]) == (2, "config.file")
    monkeypatch.undo()
    assert (file_of(staged).read_text(), stored(staged)) == (before, {("staging", "default")})


def test_a_rename_that_was_killed_between_file_and_sessions_is_completed(staged: Front) -> None:
    staged("session", "create", "--as", "cart")
    file_of(staged).write_text(file_of(staged).read_text().replace("staging", "test"))
    staged("session", "create", "--as", "cart")
    assert staged("profile", "rename", "staging", "test").record["sessions"] == 1
    assert stored(staged) == {("test", "cart"), ("test", "cart-1")}
    again = staged("profile", "rename", "staging", "test")
    assert (again.code, 'no profile "staging"' in again.error["message"]) == (2, True)


@pytest.mark.parametrize(
    ("new", "error"), [("other", "already exists"), ("sandbox", "built in"), (" x", "not a valid")]
)
def test_a_rename_to_a_name_that_cannot_be_used(staged: Front, new: str, error: str) -> None:
    staged("session", "create")
    done = staged("profile", "rename", "staging", new)
    assert (done.code, error in done.error["message"], stored(staged)) == (2, True, {("staging", "default")})


def test_a_removed_profile_takes_its_sessions_with_it(staged: Front) -> None:
    staged("session", "create")
    staged("-p", "other", "session", "create")
    before = file_of(staged).read_text()
    refused = staged("profile", "remove", "staging")
    assert (refused.code, file_of(staged).read_text()) == (2, before)
    assert 'remove profile "staging" and its 1 stored session?' in refused.error["message"]
    token = staged("session", "show", "--show-token").record["token"]
    done = staged("profile", "remove", "staging", "--yes", "-o", "json")
    assert (done.record["change"], done.record["sessions"]) == ("removed", 1)
    assert "no default any more" in done.err
    assert stored(staged) == {("other", "default")}
    assert not any(
        token.encode() in path.read_bytes() for path in Path(staged.environ["GUESTCTL_STATE"]).glob("state.db*")
    )
    assert staged("profile", "list").records[0]["name"] == "other"


def test_a_profile_without_sessions_is_removed_without_a_question(staged: Front) -> None:
    assert staged("profile", "remove", "other").code == 0
    assert "other" not in file_of(staged).read_text()


def test_a_session_that_an_earlier_version_stored_is_found(staged: Front, sandbox: Sandbox) -> None:
    """Its scope contained a digest of the profile's name."""
    staged("session", "create", "--as", "old")
    profile = Profile("staging", base_url=sandbox.url, deployment_id=sandbox.deployment_id)
    dialect = dialect_class(profile.api)(profile, new_id=str)
    former, scope = former_scope_of(profile, dialect), scope_of(profile, dialect)
    with sqlite3.connect(Path(staged.environ["GUESTCTL_STATE"]) / "state.db") as connection:
        for table in ("session", "current"):
            assert connection.execute(f"UPDATE {table} SET scope = ? WHERE scope = ?", (former, scope)).rowcount == 1
    connection.close()
    assert staged("session", "show").record["name"] == "old"
    assert staged("send", "still here").code == 0
