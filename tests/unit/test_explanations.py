"""The table of explanations: complete, in step with what is raised, and the only copy of its next steps."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestctl.cli.commands.explanations import CLOSES, EXITS_OF, KINDS, everything, explain, nearest
from guestctl.core import errors
from guestctl.core.errors import NEXT_STEPS, Exit, Failure
from guestctl.core.model import Profile
from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.web_messaging.dialect import _CODES, _EVENTS

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
    """The string constants an expression may be."""
    branches = [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]
    return [b.value for b in branches if isinstance(b, ast.Constant) and isinstance(b.value, str)]


def raised() -> Iterator[tuple[str, str, str]]:
    """Where, failure class and code of everything that names a code in the source."""
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


def test_every_code_that_is_raised_is_explained_with_its_exit() -> None:
    found = list(raised())
    assert len(found) > 100
    for where, kind, code in found:
        assert code in NEXT_STEPS, f"{where}: {code} has no next step"
        if kind != "Failure":
            assert EXITS_OF[code] == CLASSES[kind].exit, f"{where}: {kind} with {code}"


def test_every_next_step_is_explained_and_nothing_else() -> None:
    assert set(EXITS_OF) == set(NEXT_STEPS)
    for code, step in NEXT_STEPS.items():
        [entry] = [found for found in explain(code) if found.kind == "failure"]
        assert entry.next_step == step
        assert entry.meaning
        assert entry.cause
        assert entry.does


@pytest.mark.parametrize("kind", CLASSES.values(), ids=lambda kind: kind.__name__)
def test_every_failure_carries_the_tables_own_text(kind: type[Failure]) -> None:
    failure = kind("what", key="k") if kind is errors.InDoubt else kind("what")
    assert failure.hint == NEXT_STEPS[failure.code]


def test_only_usage_errors_may_say_more_exactly_what_to_type() -> None:
    for where, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and named(node.func) in CLASSES:
                hints = [word.value for word in node.keywords if word.arg == "hint"]
                if hints and named(node.func) != "UsageError":
                    pytest.fail(f"{where}:{node.lineno}: {named(node.func)} has a next step of its own")


def test_every_exit_code_is_there() -> None:
    codes = [entry.exit for entry in everything() if entry.kind == "exit code"]
    assert codes == list(Exit)
    assert "session.none" in explain("exit 10")[0].next_step


@pytest.mark.parametrize("api", NAMES)
def test_closes_are_explained_as_each_dialect_takes_them(api: str) -> None:
    dialect = dialect_class(api)(Profile("p", api=api), new_id=str)
    if not dialect.has_socket:
        return
    for code in {int(row[0]) for row in CLOSES} - {1015}:
        actions = {row[3] for row in CLOSES if int(row[0]) == code and (not row[6] or api in row[6])}
        assert actions == {dialect.on_close(code)}, f"{api}: close {code}"
        assert explain(f"close {code}", api=api)


def test_every_service_code_is_explained_with_the_failure_it_becomes() -> None:
    for number, (kind, code) in _CODES.items():
        if number < 1000:
            continue
        [entry] = explain(f"code {number}")
        assert (entry.failure, entry.exit) == (code, kind.exit)
    for name in _EVENTS:
        assert explain(str(name))[0].kind == "frame class"


def test_apis_and_failures_that_are_named_exist() -> None:
    for entry in everything():
        assert set(entry.apis) <= set(NAMES), entry
        assert entry.failure is None or entry.failure in NEXT_STEPS, entry
        assert entry.meaning
        assert entry.source
        assert entry.kind in KINDS.values()


def test_a_number_may_mean_several_things_and_be_narrowed() -> None:
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


def test_names_and_pasted_words_are_found() -> None:
    assert explain("SESSIONHASEXPIRED")[0].code == "4006"
    assert explain("read-only, no new")[0].failure == "conflict.read_only"
    line = "socket: HTTP 403: User is not authorized to access this resource with an explicit deny"
    assert explain(line)[0].failure == "forbidden.upgrade"
    assert explain("xyz") == []
    assert explain("") == []


def test_what_nobody_knows_is_near_to_something() -> None:
    assert nearest("sesion.gone")[0] == "session.gone"
    assert nearest("SesionHasExpired")[0] == "4006"
    assert nearest("zzzz") == []
