"""Every API is complete: the test lists what a new one still lacks, with the file to edit.

Knows: which lists cannot be derived from the client's registry. Must not know: their contents.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from guestctl.cli.commands.explanations import CLOSES, everything
from guestctl.core.model import Profile
from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.capabilities import Ability
from guestctl.sandbox.apis import APIS
from tests.examples import WIRE, Example, Json, Step, broken_frames, frame_name
from tests.examples import load as examples
from tests.sandbox.bare import EVERYBODY
from tests.security.canaries import Canaries
from tests.unit.test_dialects import HOSTS

ROOT = Path(__file__).parents[1]


def lacking(api: str) -> Iterator[str]:
    if api not in {implemented.name for implemented in APIS}:
        yield "an API class in guestctl/sandbox/apis/, and its line in APIS"
    if api not in {profile.get("api", NAMES[0]) for profile in _example_profiles()}:
        yield "a profile in profiles.example.yaml"
    if api != NAMES[0] and api not in {kind.api for kind in EVERYBODY}:
        yield "a plain client in tests/sandbox/bare.py, and its name in EVERYBODY"
    if api != NAMES[0] and api not in HOSTS:
        yield "its hosts in HOSTS of tests/unit/test_dialects.py"
    if not dialect_class(api).documented_addresses:
        yield "`documented_addresses` in its dialect, without which doctor does not know its addresses"
    yield from _unexplained_closes(api)
    if not (WIRE / api).is_dir():
        yield f"examples in tests/wire/{api}/"
        return
    yield from _unshown(api)
    yield from _unexplained_frames(api)
    yield from _unguarded_tokens(api)


def _example_profiles() -> Iterator[dict[str, str]]:
    yield from yaml.safe_load((ROOT / "profiles.example.yaml").read_text("utf-8"))["profiles"].values()


def _steps(api: str) -> Iterator[tuple[Example, Step]]:
    for example in examples(api).values():
        for step in example.steps:
            yield example, step


def _unshown(api: str) -> Iterator[str]:
    """Yield the operations that the API has and no example performs."""
    kind = dialect_class(api)
    verbs = {"create", "send", "history", *(["connect", "attach"] if kind.has_socket else [])}
    verbs |= {verb for ability, verb in _VERBS.items() if ability in kind.abilities}
    for verb in sorted(verbs - {step.verb for _, step in _steps(api)}):
        yield f"an example of `do: {verb}` in tests/wire/{api}/"
    if kind.has_socket and not broken_frames(api):
        yield f"`vital:` of a received frame in tests/wire/{api}/"


_VERBS = {
    Ability.REFRESH: "obtain",
    Ability.TYPING: "typing",
    Ability.CLEAR: "clear",
    Ability.SYNC: "sync",
    Ability.FILES: "download",
    Ability.SIGN_IN: "sign_in",
}


def _unexplained_frames(api: str) -> Iterator[str]:
    """Yield the frames that the client understands and `explain` does not list."""
    explained = {row.code for row in everything() if row.kind == "frame class" and (not row.apis or api in row.apis)}
    received = {
        frame_name(heard.body)
        for _, step in _steps(api)
        for heard in step.hears
        if not (isinstance(heard.means, dict) and "Unknown" in heard.means)
    }
    for frame in sorted(name for name in received - explained if name is not None):
        yield f"a row for the frame {frame!r} in guestctl/cli/commands/explanations.py"


def _unexplained_closes(api: str) -> Iterator[str]:
    dialect = dialect_class(api)(Profile("p", api=api), new_id=str)
    for code in sorted({int(row.code) for row in CLOSES} - {1015}) if dialect.has_socket else ():
        rows = {row.handling.action for row in CLOSES if int(row.code) == code and (not row.apis or api in row.apis)}
        if rows != {dialect.on_close(code)}:
            where = "CLOSES of guestctl/cli/commands/explanations.py"
            yield f"a row of its own in {where}: close {code} is {dialect.on_close(code)!r}"


def _unguarded_tokens(api: str) -> Iterator[str]:
    """Yield token members of responses that the canaries would not recognize."""
    secret = "long-enough-for-a-token"
    for example, step in _steps(api):
        tokens = list(_secrets([step.means, *(heard.means for heard in step.hears)]))
        for answer in (step.reply, *step.hears):
            for member, value in _members(answer.body if answer is not None else None):
                known = isinstance(value, str) and Canaries().overhear(json.dumps({member: secret}).encode())
                if value in tokens and not known:
                    yield f"{member!r} in _MEMBERS of tests/security/canaries.py ({example.name})"


def _members(value: Json) -> Iterator[tuple[str, Json]]:
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _members(inner)
    if isinstance(value, dict):
        yield from value.items()


def _secrets(means: Json) -> Iterator[str]:
    """Yield the placeholders that the client stores as secrets: `secret: $token` and `refresh: $other`."""
    for member, value in _members(means):
        if member in {"secret", "refresh"} and isinstance(value, str):
            yield value


@pytest.mark.parametrize("api", NAMES)
def test_every_api_is_complete(api: str) -> None:
    assert list(lacking(api)) == []
