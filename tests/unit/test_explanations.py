"""The table of explanations: complete, consistent with the failures in the code, and free of contradictions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from guestctl.cli.commands.explanations import (
    CLOSES,
    EXITS_OF,
    KINDS,
    CloseCode,
    Explanation,
    everything,
    explain,
    nearest,
)
from guestctl.core import errors
from guestctl.core.errors import NEXT_STEPS, Exit, Failure
from guestctl.core.model import Profile
from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.web_messaging.error_codes import FAILURES
from guestctl.dialects.web_messaging.frames import SESSION_EVENTS

PACKAGE = Path(__file__).parents[2] / "guestctl"
CLASSES: dict[str, type[Failure]] = {
    name: found for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, Failure)
}


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if "sandbox" not in path.relative_to(PACKAGE).parts:
            yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text(encoding="utf-8"))


def named(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def texts(node: ast.expr) -> list[str]:
    """Return the string constants that an expression may evaluate to."""
    branches = [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]
    return [b.value for b in branches if isinstance(b, ast.Constant) and isinstance(b.value, str)]


@cache
def raised() -> tuple[tuple[str, str, str], ...]:
    """Return place, failure class and code for each failure code in the source."""
    return tuple(_raised())


def _raised() -> Iterator[tuple[str, str, str]]:
    for where, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and named(node.func) in CLASSES:
                given = [word.value for word in node.keywords if word.arg == "code"]
                codes = [code for value in given for code in texts(value)]
                if not given:
                    codes = [CLASSES[named(node.func)].default_code]
                for code in codes:
                    yield f"{where}:{node.lineno}", named(node.func), code
            if isinstance(node, ast.Tuple) and len(node.elts) >= 2 and named(node.elts[0]) in CLASSES:
                for code in texts(node.elts[1]):
                    yield f"{where}:{node.lineno}", named(node.elts[0]), code


def test_every_raised_failure_code_has_an_entry_with_its_exit_code() -> None:
    found = list(raised())
    assert len(found) > 100
    for where, kind, code in found:
        assert code in NEXT_STEPS, f"{where}: {code} has no next step"
        if kind != "Failure":
            assert EXITS_OF[code] == CLASSES[kind].exit, f"{where}: {kind} with {code}"


def test_failure_entries_and_next_steps_have_the_same_codes() -> None:
    assert set(EXITS_OF) == set(NEXT_STEPS)
    for code, step in NEXT_STEPS.items():
        [entry] = [found for found in explain(code) if found.kind == "failure"]
        assert entry.next_step == step
        assert entry.meaning
        assert entry.cause
        assert entry.does


@pytest.mark.parametrize("kind", CLASSES.values(), ids=lambda kind: kind.__name__)
def test_every_failure_class_takes_its_hint_from_the_table(kind: type[Failure]) -> None:
    failure = kind("what", key="k") if kind is errors.InDoubt else kind("what")
    assert failure.hint == NEXT_STEPS[failure.code]


def test_only_usage_errors_have_hints_of_their_own() -> None:
    for where, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and named(node.func) in CLASSES:
                hints = [word.value for word in node.keywords if word.arg == "hint"]
                if hints and named(node.func) != "UsageError":
                    pytest.fail(f"{where}:{node.lineno}: {named(node.func)} has its own hint")


def test_every_exit_code_has_an_entry() -> None:
    codes = [entry.exit for entry in everything() if entry.kind == "exit code"]
    assert codes == list(Exit)
    assert "session.none" in explain("exit 10")[0].next_step


@pytest.mark.parametrize("api", NAMES)
def test_close_codes_are_explained_as_each_dialect_handles_them(api: str) -> None:
    dialect = dialect_class(api)(Profile("p", api=api), new_id=str)
    if not dialect.has_socket:
        return
    for code in {int(row.code) for row in CLOSES} - {1015}:
        actions = {row.handling.action for row in CLOSES if int(row.code) == code and (not row.apis or api in row.apis)}
        assert actions == {dialect.on_close(code)}, f"{api}: close {code}"
        assert explain(f"close {code}", api=api)


#: Phrases with which an entry states that the command may be repeated as it is.
REPEAT = ("repeat the command", "raise --timeout", "try again later", "repeat it later")
#: Phrases with which an entry states that repeating does not help.
NO_REPEAT = ("cannot help", "never retries", "never repeats", "cannot renew")


@pytest.mark.parametrize("entry", list(everything()), ids=lambda entry: f"{entry.kind} {entry.code}")
def test_what_guestctl_does_and_the_next_step_agree(entry: Explanation) -> None:
    if any(phrase in entry.does for phrase in NO_REPEAT):
        step = entry.next_step.lower()
        assert not [phrase for phrase in (*REPEAT, "refresh-token") if phrase in step]


@pytest.mark.parametrize("close", CLOSES, ids=lambda close: f"{close.code}-{'-'.join(close.apis) or 'all'}")
def test_each_close_code_gives_the_advice_of_its_action(close: CloseCode) -> None:
    [entry] = [e for e in explain(f"close {close.code}") if (e.cause, e.apis) == (close.cause, close.apis)]
    advises_repeat = any(phrase in entry.next_step.lower() for phrase in REPEAT)
    assert advises_repeat == (close.handling.action == "reconnect")
    assert ("cannot help" in entry.does) == (close.handling.failure == "network.lost" and not advises_repeat)
    assert bool(entry.next_step) == (entry.failure is not None)


def test_every_service_code_has_the_failure_that_the_dialect_raises() -> None:
    for number, (kind, code) in FAILURES.items():
        if number < 1000:
            continue
        [entry] = explain(f"code {number}")
        assert (entry.failure, entry.exit) == (code, kind.exit)
    for name in SESSION_EVENTS:
        assert explain(str(name))[0].kind == "frame class"


def test_entries_name_existing_apis_and_failures() -> None:
    for entry in everything():
        assert set(entry.apis) <= set(NAMES), entry
        assert entry.failure is None or entry.failure in NEXT_STEPS, entry
        assert entry.meaning
        assert entry.source
        assert entry.kind in KINDS.values()


def test_a_kind_narrows_a_number_with_several_meanings() -> None:
    assert {entry.kind for entry in explain("4001")} == {"close code", "service code"}
    assert {entry.kind for entry in explain("code 4001")} == {"service code"}
    assert [entry.failure for entry in explain("close 1009", api="web-messaging")] == ["service.too_long"]
    assert [entry.failure for entry in explain("close 1009", api="messaging-conversations")] == ["auth.refused"]
    assert {entry.failure for entry in explain("http 404", api="guest-sessions")} == {
        "session.gone",
        "service.not_found",
    }
    assert {entry.failure for entry in explain("http 404", api="web-messaging")} == {"service.not_found", None}
    assert explain("http 307")[0].code == "3xx"
    assert explain("exit 403") == []


def test_names_and_pasted_error_texts_are_found() -> None:
    assert explain("SESSIONHASEXPIRED")[0].code == "4006"
    assert explain("read-only, no new")[0].failure == "conflict.read_only"
    line = "socket: HTTP 403: User is not authorized to access this resource with an explicit deny"
    assert explain(line)[0].failure == "forbidden.upgrade"
    assert explain("xyz") == []
    assert explain("") == []


def test_nearest_suggests_similar_codes() -> None:
    assert nearest("sesion.gone")[0] == "session.gone"
    assert nearest("SesionHasExpired")[0] == "4006"
    assert nearest("zzzz") == []
