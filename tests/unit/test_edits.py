"""Editing the profile file: what is asked for changes, and not a byte else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestctl.config.edits import add, use
from guestctl.config.profiles import load
from guestctl.core.errors import UsageError
from tests.properties import examples
from tests.unit.test_profiles import CONTRACT, LINES, resolved, write

TIDY_BY_HAND = """\
# our profiles
default:   staging     # the usual one

profiles:
    # staging first
    staging:
        region:    mypurecloud.de   # Frankfurt
        attributes: { plan: gold,   level: "7" }
        retry:
            attempts: 10
# the end
"""


def test_add_changes_only_its_own_lines(tmp_path: Path) -> None:
    path = write(tmp_path, TIDY_BY_HAND)
    add(path, "live", {"region": "usw2.pure.cloud", "deployment_id": "0123", "attributes.plan": "no"})
    before, after = TIDY_BY_HAND.splitlines(), path.read_text().splitlines()
    assert [line for line in after if line in before] == before
    live = resolved(tmp_path, "live").profile
    assert (live.region, live.deployment_id, live.attributes) == ("usw2.pure.cloud", "0123", {"plan": "no"})
    assert resolved(tmp_path).profile.attributes == {"plan": "gold", "level": "7"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_use_changes_only_its_own_line(tmp_path: Path) -> None:
    path = write(tmp_path, TIDY_BY_HAND + "    live: {}\n")
    path.chmod(0o640)
    use(path, "live")
    lines = path.read_text().splitlines()
    assert load(path).default == "live"
    assert "# the usual one" in lines[1]
    assert [lines[0], *lines[2:]] == [TIDY_BY_HAND.splitlines()[0], *TIDY_BY_HAND.splitlines()[2:], "    live: {}"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    use(path, "sandbox")
    assert load(path).default == "sandbox"


def test_use_in_a_file_without_default(tmp_path: Path) -> None:
    path = write(tmp_path, "# mine\nprofiles:\n  a: {}\n  b: {}\n")
    use(path, "b")
    assert load(path).default == "b"
    assert "# mine" in path.read_text()


def test_add_makes_file_and_directory(tmp_path: Path) -> None:
    path = tmp_path / "config" / "guestctl" / "profiles.yaml"
    add(path, "first", {"api": "guests", "org": "acme", "oauth.client_secret": "${S}", "retry.base": "2s"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert resolved(tmp_path, environ={"S": "x"}, file=str(path)).profile.retry.base == 2.0
    assert os.listdir(path.parent) == ["profiles.yaml"]


@pytest.mark.parametrize(
    "text",
    [
        "# only words\n",
        "# no end of line",
        "",
        "profiles:\n",
        "profiles: {}\n",
        "profiles: {a: {queue: x}}",
        "default: a\r\nprofiles:\r\n  a:\r\n    queue: x # why\r\n",
        "profiles:\n  a:\n    queue: >-\n      one\n      two\n    journey_context:\n     l:\n     - 1\n     -   2\n",
        "default: >-\n  a\nprofiles:\n    a:   {queue: x}\n",
    ],
)
def test_add_and_use_in_files_of_every_manner(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, "")
    path.write_bytes(text.encode())
    old = load(path)
    add(path, "new", {"queue": "${Q:-x}", "journey_context": '{"a": [1, "no"]}'})
    use(path, "new")
    file = load(path)
    assert file.names == (*old.names, "new")
    for name in old.names:
        assert {k: v.plain() for k, v in file.values(name).items()} == {
            k: v.plain() for k, v in old.values(name).items()
        }
    assert resolved(tmp_path).profile.journey_context == {"a": [1, "no"]}
    for comment in ("# only words", "# no end of line", "# why"):
        assert (comment in text) == (comment in path.read_text())


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("staging", {}, "already exists"),
        ("sandbox", {}, "built in"),
        ("a\nb", {}, "is not a valid profile name"),
        ("new", {"regio": "x"}, 'did you mean "region"'),
        ("new", {"region": "nowhere"}, 'region: "nowhere" is neither'),
        ("new", {"oauth.client_secret": "s3cret"}, "not accepted on the command line"),
        ("new", {"journey_context": "x"}, "expected a JSON object"),
        ("new", {"queue": "${"}, "expected ${NAME}"),
        ("new", {"queue": "a\x07b"}, "control characters"),
    ],
)
def test_add_refuses_and_leaves_the_file_alone(tmp_path: Path, name: str, values: dict[str, str], said: str) -> None:
    path = write(tmp_path, CONTRACT)
    with pytest.raises(UsageError) as caught:
        add(path, name, values)
    assert said in caught.value.message
    assert "s3cret" not in caught.value.message
    assert path.read_text() == CONTRACT
    assert os.listdir(tmp_path) == ["profiles.yaml"]


def test_use_refuses_what_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path, CONTRACT)
    with pytest.raises(UsageError, match='no profile "live"'):
        use(path, "live")
    with pytest.raises(UsageError, match='no profile "live"'):
        use(tmp_path / "none.yaml", "live")


def test_a_linked_file_stays_linked(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.yaml"
    real.write_text(CONTRACT)
    link = tmp_path / "profiles.yaml"
    link.symlink_to(real)
    add(link, "live", {})
    assert link.is_symlink()
    assert load(real).names == ("staging", "live")


def test_a_link_that_leads_to_itself_is_no_file(tmp_path: Path) -> None:
    link = tmp_path / "profiles.yaml"
    link.symlink_to(link)
    with pytest.raises(UsageError, match="Too many levels of symbolic links") as refused:
        add(link, "live", {})
    assert refused.value.hint == "check the file's name and permissions"
    assert link.is_symlink()


def test_data_reaches_the_disk_before_the_name_and_the_name_before_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def spied_fsync(descriptor: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def spied_replace(source: str, target: str) -> None:
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spied_fsync)
    monkeypatch.setattr(os, "replace", spied_replace)
    add(tmp_path / "profiles.yaml", "a", {})
    assert steps == ["file", "rename", "directory"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, CONTRACT)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        add(path, "live", {})
    assert path.read_text() == CONTRACT
    assert os.listdir(tmp_path) == ["profiles.yaml"]


def test_the_sandbox_can_be_the_default_before_there_is_a_profile(tmp_path: Path) -> None:
    use(tmp_path / "profiles.yaml", "sandbox")
    assert load(tmp_path / "profiles.yaml").default == "sandbox"


@given(st.lists(LINES, max_size=9).map("\n".join))
@settings(max_examples=examples(200))
def test_adding_to_any_valid_file_keeps_what_was_there(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "grown.yaml"
    path.write_text(text, "utf-8")
    try:
        old = load(path)
    except UsageError:
        return
    add(path, "new", {"queue": "q"})
    file = load(path)
    assert (file.names, file.default) == ((*old.names, "new"), old.default)
    for name in old.names:
        assert {k: v.text for k, v in file.values(name).items()} == {k: v.text for k, v in old.values(name).items()}


def test_escaped_characters_of_json_survive_a_change(tmp_path: Path) -> None:
    path = write(tmp_path, r'{"profiles": {"a": {"region": "mypurecloud.de", "attributes": {"m": "\ud83d\ude00"}}}}')
    add(path, "b", {"region": "usw2.pure.cloud", "attributes.m": "\U0001f600"})
    use(path, "b")
    file = load(path)
    assert [file.values(name)["attributes"].plain() for name in ("a", "b")] == [{"m": "\U0001f600"}] * 2


def test_anchors_and_merge_keys_survive_a_change(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    text = (
        "profiles:\n  a: &id001   # first\n    region:   mypurecloud.de\n\n"
        "  b: {<<: *id001, attributes: &x {plan:  gold}}\n"
        "  c: &id001 {region: usw2.pure.cloud, name: Ann}\n  d: *id001\n"
    )
    path = write(tmp_path, text)
    before = load(path)
    add(path, "e", {"region": "usw2.pure.cloud"})
    use(path, "d")
    after = load(path)
    lines = path.read_text().splitlines()
    assert [line for line in text.splitlines() if line not in lines] == []
    assert {name: after.values(name) for name in before.names}.keys() == before.profiles.keys()
    for name in before.names:
        assert {key: value.plain() for key, value in after.values(name).items()} == {
            key: value.plain() for key, value in before.values(name).items()
        }
    assert list(recwarn) == []
