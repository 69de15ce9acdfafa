"""Check scripts: YAML in, scenarios out, or one line that says what is wrong and where.

Knows: how the keys of `keys` are read, matrices, variables. Must not know: clients, sockets, how a
scenario is run. A script is read and validated whole, its patterns compiled and its files found,
before anything is sent.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Literal, TypeAlias, cast

from guestctl.checks import script_keys
from guestctl.checks.expectation import ANY, Conditions, compiled
from guestctl.checks.script_keys import ScriptKey
from guestctl.checks.variables import NAME, filled, needed, unclosed
from guestctl.core.errors import NEXT_STEPS, UsageError
from guestctl.core.humanize import parse_duration
from guestctl.core.model import Role
from guestctl.core.strict_yaml import Located, read
from guestctl.core.suggestions import did_you_mean
from guestctl.dialects import NAMES
from guestctl.dialects.capabilities import Ability

#: Scenarios one matrix may make; members of one list of targets.
MOST_SCENARIOS = 1000
MOST_REPLIES = 100
LONGEST = 24 * 3600.0

Action: TypeAlias = Literal[
    "say", "expect", "expectNone", "expectDisconnect", "pick", "attach", "attributes", "typing", "pause"
]


@dataclass(frozen=True)
class Step:
    """One step. `text` as written, for reports; times in seconds; texts may hold `${name}`.

    say, pick: `words` · attach: `file` · expect, expectNone: `wanted` · pause, expectNone: `seconds`.
    """

    action: Action
    line: int
    text: str
    words: str | None = None
    file: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    wanted: tuple[Conditions, ...] = ()
    in_order: bool = True
    seconds: float = 0.0
    timeout: float | None = None
    save_as: str | None = None


@dataclass(frozen=True)
class Scenario:
    """One conversation. `line` is where it begins; `values` are the matrix's."""

    name: str
    line: int
    steps: tuple[Step, ...]
    teardown: tuple[Step, ...] = ()
    tags: frozenset[str] = frozenset()
    attributes: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None
    retries: int = 0
    golden: bool = False

    def needs(self) -> Iterator[tuple[Ability, int]]:
        """What the API must be able to do, and the line that asks for it."""
        abilities = {"pick": Ability.PICK, "attach": Ability.FILES, "typing": Ability.TYPING}
        for step in (*self.steps, *self.teardown):
            if step.action in abilities:
                yield abilities[step.action], step.line
            if step.file is not None:
                yield Ability.FILES, step.line

    def gives_attributes(self) -> int | None:
        """The first line whose message has attributes of its own, if any has."""
        return next((step.line for step in (*self.steps, *self.teardown) if step.attributes), None)


@dataclass(frozen=True)
class Script:
    """A whole file. `path` as it was given; `config` and `variables` as far as the file has them."""

    path: Path
    config: Mapping[str, str]
    variables: Mapping[str, str]
    scenarios: tuple[Scenario, ...]
    #: Key of `config` -> the line it stands on.
    lines: Mapping[str, int] = field(default_factory=dict)

    @property
    def golden(self) -> Path:
        """Where its golden transcripts are kept."""
        return self.path.with_suffix(".golden.json")


def load(path: Path, variables: Mapping[str, str], environ: Mapping[str, str]) -> Script:
    """Read a script. `variables` are those given for this run, `environ` the process's.

    Raises UsageError `config.file` with file, line, key and a suggestion for whatever is wrong.
    """
    try:
        root = read(path)
    except UsageError as error:
        if error.hint == NEXT_STEPS["config.file"]:
            error.hint = _hint(path)
        raise
    return _Reader(path, variables, environ).script(root)


def _hint(path: Path) -> str:
    return f"Mend the line named above, then run `guestctl check {shlex.quote(str(path))}` again."


class _Reader:
    def __init__(self, path: Path, variables: Mapping[str, str], environ: Mapping[str, str]) -> None:
        self._path = path
        self._given = variables
        self._environ = environ
        #: What a `${name}` may mean before any scenario runs; the script's own variables join it one by one.
        self._values = {**environ, **variables}

    # --- the file ---

    def script(self, root: Located) -> Script:
        if root.value is None:
            raise self._wrong(root, "the script is empty; it needs `scenarios`")
        top = self._mapping(root, script_keys.SCRIPT, "the script")
        variables = self._variables(top.get("variables"))
        config = self._config(top.get("config"))
        attributes = self._texts(top.get("attributes"), "attributes")
        self._check(top.get("attributes"), attributes.values(), set())
        common = Scenario(
            name="",
            line=root.line,
            steps=(),
            tags=self._tags(top.get("tags")),
            attributes=attributes,
            timeout=self._time(top.get("timeout"), "timeout"),
            retries=self._count(top.get("retries"), "retries", 0, 100),
            golden=self._truth(top.get("golden"), "golden"),
        )
        if "scenarios" not in top:
            raise self._wrong(root, "`scenarios` is missing")
        listed = self._members(top["scenarios"], "scenarios")
        if not listed:
            raise self._wrong(top["scenarios"], "scenarios: there is none")
        scenarios: list[Scenario] = []
        for name, found in listed.items():
            if not name.strip():
                raise self._wrong(found, "scenarios: a scenario needs a name")
            scenarios += self._scenario(name, found, common, top.get("setup"), top.get("teardown"))
        places = (
            {} if not config else {key: found.line for key, found in self._members(top["config"], "config").items()}
        )
        return Script(self._path, config, variables, tuple(scenarios), places)

    def _config(self, found: Located | None) -> dict[str, str]:
        if found is None or found.value is None:
            return {}
        members = self._mapping(found, script_keys.CONFIG, "config")
        config = {key: self._text(value, f"config.{key}").strip() for key, value in members.items()}
        config = {key: self._filled(members[key], value) for key, value in config.items()}
        if config.get("api", NAMES[0]) not in NAMES:
            problem = f"config.api: there is no API {config['api']!r}{did_you_mean(config['api'], NAMES)}"
            raise self._wrong(members["api"], f"{problem}; it is one of {', '.join(NAMES)}")
        return config

    def _variables(self, found: Located | None) -> dict[str, str]:
        """The script's own, each made of those above it and what was given; one given for this run wins."""
        own: dict[str, str] = {}
        for name, value in ({} if found is None else self._members(found, "variables")).items():
            self._variable(value, name, "variables")
            text = self._text(value, f"variables.{name}")
            if name not in self._given:
                self._values[name] = own[name] = self._filled(value, text)
        return {**own, **self._given}

    def _filled(self, where: Located, text: str) -> str:
        """A text that is needed before any scenario runs."""
        self._check(where, [text], set())
        return filled(text, self._values)

    # --- scenarios ---

    def _scenario(
        self, name: str, found: Located, common: Scenario, setup: Located | None, teardown: Located | None
    ) -> Iterator[Scenario]:
        own: Mapping[str, Located] = {"steps": found}
        if isinstance(found.value, Mapping):
            own = self._mapping(found, script_keys.SCENARIO, f"scenario {name!r}")
        if "steps" not in own:
            raise self._wrong(found, f"scenario {name!r}: `steps` is missing")
        rows = list(self._matrix(own.get("matrix"), name)) if "matrix" in own else [{}]
        captured = set(rows[0])
        where = f"scenario {name!r}"
        steps = [
            step
            for part in (setup, own.get("setup"), own["steps"])
            if part is not None
            for step in self._steps(part, where, captured)
        ]
        if not any(step.action != "attributes" for step in steps):
            raise self._wrong(found, f"{where}: it has no steps")
        after = [
            step
            for part in (own.get("teardown"), teardown)
            if part is not None
            for step in self._steps(part, where, captured)
        ]
        self._check_sent([*steps, *after], found, where)
        attributes = self._texts(own.get("attributes"), f"{where}: attributes")
        self._check(own.get("attributes"), attributes.values(), set(rows[0]))
        timeout = self._time(own.get("timeout"), f"{where}: timeout")
        scenario = replace(
            common,
            name=name,
            line=found.line,
            steps=tuple(steps),
            teardown=tuple(after),
            tags=common.tags | self._tags(own.get("tags")),
            attributes={**common.attributes, **attributes},
            timeout=common.timeout if timeout is None else timeout,
            retries=self._count(own["retries"], "retries", 0, 100) if "retries" in own else common.retries,
            golden=self._truth(own["golden"], "golden") if "golden" in own else common.golden,
        )
        for row in rows:
            # Told as it was written: the same whatever the variables are, and no secret of theirs.
            label = ", ".join(f"{key}={value}" for key, value in row.items())
            values = {key: filled(value, self._values) for key, value in row.items()}
            yield replace(scenario, name=f"{name} [{label}]", values=values) if row else scenario

    def _check_sent(self, steps: Sequence[Step], found: Located, where: str) -> None:
        """Attributes for the next message need one."""
        waiting = None
        for step in steps:
            if step.action == "attributes":
                waiting = step
            elif step.action in {"say", "pick", "attach"}:
                waiting = None
        if waiting is not None:
            place = replace(found, line=waiting.line)
            raise self._wrong(place, f"{where}: `attributes` belong to the next message, and there is none after them")

    def _matrix(self, found: Located | None, name: str) -> Iterator[dict[str, str]]:
        assert found is not None
        where = f"scenario {name!r}: matrix"
        if isinstance(found.value, Mapping):
            lists = {}
            for key, values in found.value.items():
                self._variable(values, key, where)
                lists[key] = [self._text(value, f"{where}.{key}") for value in self._items(values, f"{where}.{key}")]
                self._check(values, lists[key], set())
            rows = [dict(zip(lists, row, strict=True)) for row in product(*lists.values())] if lists else []
        else:
            rows = [self._texts(row, where, names=True) for row in self._items(found, where)]
            for row in rows:
                self._check(found, row.values(), set())
            if any(row.keys() != rows[0].keys() for row in rows):
                raise self._wrong(found, f"{where}: every row needs the same names")
        if not rows or not rows[0]:
            raise self._wrong(found, f"{where}: it is empty")
        if len(rows) > MOST_SCENARIOS:
            raise self._wrong(found, f"{where}: {len(rows)} scenarios; at most {MOST_SCENARIOS}")
        yield from rows

    # --- steps ---

    def _steps(self, found: Located, where: str, captured: set[str]) -> Iterator[Step]:
        """The steps of one list; `captured` grows by what they save."""
        for number, item in enumerate(self._items(found, where), 1):
            step = self._step(item, f"{where}, step {number}", captured)
            captured |= {name for wanted in step.wanted for name in _groups(wanted)}
            if step.save_as is not None:
                captured.add(step.save_as)
            yield step

    def _step(self, item: Located, where: str, captured: set[str]) -> Step:
        members = self._step_members(item, where)
        actions = [key for key in script_keys.ACTIONS if key in members]
        main = [key for key in actions if key not in {"attach", "attributes"}] or actions[:1]
        if len(main) > 1:
            raise self._wrong(item, f"{where}: one thing a step; here are {' and '.join(f'`{key}`' for key in main)}")
        if not main:
            raise self._wrong(item, f"{where}: it does nothing; a step has one of {', '.join(script_keys.ACTIONS)}")
        name = main[0]
        for extra, allowed in (("attach", ("say",)), ("attributes", ("say", "pick", "attach"))):
            if extra in members and name != extra and name not in allowed:
                raise self._wrong(item, f"{where}: `{extra}` goes with {', '.join(allowed)}, not with `{name}`")
        if "saveAs" in members and name not in {"expect", "waitForReplyContaining", "waitForReplyMatching"}:
            raise self._wrong(item, f"{where}: `saveAs` goes with an expectation, not with `{name}`")
        if "timeout" in members and name in {"pause", "expectNone", "attributes"}:
            raise self._wrong(item, f"{where}: `{name}` says itself how long it takes")
        step = _STEPS[name](self, members[name], f"{where}: {name}")
        step = replace(step, line=item.line, text=_shown(name, members[name]))
        if "timeout" in members:
            if step.timeout is not None:
                raise self._wrong(item, f"{where}: give `timeout` or `within`")
            step = replace(step, timeout=self._time(members["timeout"], f"{where}: timeout"))
        if "saveAs" in members:
            step = replace(step, save_as=self._save_as(members["saveAs"], where))
        if "attach" in members and name != "attach":
            step = replace(step, file=self._attach(members["attach"], f"{where}: attach").file)
        if "attributes" in members:
            step = replace(step, attributes=self._texts(members["attributes"], f"{where}: attributes"))
        self._check(item, _texts_of(step), captured)
        return step

    def _step_members(self, item: Located, where: str) -> Mapping[str, Located]:
        if item.text is not None and item.value is not None and item.text.strip() in script_keys.BARE:
            return {item.text.strip(): item}
        if not isinstance(item.value, Mapping):
            raise self._wrong(item, f"{where}: a step is `key: value`; keys are {', '.join(script_keys.ACTIONS)}")
        return self._mapping(item, {**script_keys.ACTIONS, **script_keys.MODIFIERS}, where)

    def _say(self, found: Located, where: str) -> Step:
        words = self._text(found, where)
        if not words.strip():
            raise self._wrong(found, f"{where}: there is nothing to say")
        return Step("say", found.line, "", words=words)

    def _pick(self, found: Located, where: str) -> Step:
        words = self._text(found, where)
        if words.strip().isdigit() and not words.strip("0 "):
            raise self._wrong(found, f"{where}: numbers begin with 1")
        return Step("pick", found.line, "", words=words)

    def _attach(self, found: Located, where: str) -> Step:
        name = self._text(found, where)
        if "${" not in name and not (self._path.parent / name).is_file():
            raise self._wrong(found, f"{where}: there is no file {name!r} beside the script")
        return Step("attach", found.line, "", file=name)

    def _attributes(self, found: Located, where: str) -> Step:
        return Step("attributes", found.line, "", attributes=self._texts(found, where))

    def _typing(self, found: Located, where: str) -> Step:
        if not self._bare(found, "typing"):
            raise self._wrong(found, f"{where}: it takes no value")
        return Step("typing", found.line, "")

    def _pause(self, found: Located, where: str) -> Step:
        return Step("pause", found.line, "", seconds=self._time(found, where) or 0.0)

    def _containing(self, found: Located, where: str) -> Step:
        return Step("expect", found.line, "", wanted=(Conditions(contains=self._text(found, where)),))

    def _matching(self, found: Located, where: str) -> Step:
        return Step("expect", found.line, "", wanted=(Conditions(matches=self._pattern(found, where)),))

    def _expect(self, found: Located, where: str) -> Step:
        if not isinstance(found.value, Mapping):
            return self._containing(found, where)
        members = self._mapping(found, {key: script_keys.CONDITIONS[key] for key in script_keys.IN_EXPECT}, where)
        wanted = self._replies(found, members, where)
        count = self._count(members.get("count"), f"{where}.count", 1, MOST_REPLIES)
        if "count" in members and len(wanted) > 1:
            raise self._wrong(members["count"], f"{where}.count: a list says itself how many")
        if count > 1:
            wanted *= count
        return Step(
            "expect",
            found.line,
            "",
            wanted=wanted,
            in_order=self._truth(members["in_order"], f"{where}.in_order") if "in_order" in members else True,
            timeout=self._time(members.get("within"), f"{where}.within"),
            save_as=self._save_as(members["saveAs"], where) if "saveAs" in members else None,
        )

    def _expect_none(self, found: Located, where: str) -> Step:
        if not isinstance(found.value, Mapping):
            return Step("expectNone", found.line, "", seconds=self._time(found, where) or 0.0, wanted=(Conditions(),))
        members = self._mapping(found, {key: script_keys.CONDITIONS[key] for key in script_keys.IN_EXPECT_NONE}, where)
        if "for" not in members:
            raise self._wrong(found, f"{where}: `for` is missing: how long the silence lasts")
        rest = {key: value for key, value in members.items() if key != "for"}
        wanted = self._replies(found, rest, where) if rest else (Conditions(),)
        return Step("expectNone", found.line, "", seconds=self._time(members["for"], where) or 0.0, wanted=wanted)

    def _expect_disconnect(self, found: Located, where: str) -> Step:
        timeout = None
        if isinstance(found.value, Mapping):
            members = self._mapping(found, {"within": script_keys.CONDITIONS["within"]}, where)
            timeout = self._time(members.get("within"), f"{where}.within")
        elif not self._bare(found, "expectDisconnect"):
            timeout = self._time(found, where)
        return Step("expectDisconnect", found.line, "", timeout=timeout)

    def _bare(self, found: Located, name: str) -> bool:
        """Whether an action stands there without a value, or with a mere `true`."""
        return found.text is not None and (found.value in (None, True) or found.text.strip() == name)

    # --- conditions ---

    def _replies(self, found: Located, members: Mapping[str, Located], where: str) -> tuple[Conditions, ...]:
        """One for each reply: `contains`, `matches` or `equals` may be a list."""
        if not any(key in members for key in script_keys.OF_A_REPLY):
            if "count" in members:
                return (Conditions(),)
            raise self._wrong(found, f"{where}: nothing is expected; give one of {', '.join(script_keys.OF_A_REPLY)}")
        rest = self._one_reply({k: v for k, v in members.items() if not _is_list(v) or k not in _LISTS}, where)
        lists = [key for key in _LISTS if key in members and _is_list(members[key])]
        if not lists:
            return (rest,)
        if len(lists) > 1:
            raise self._wrong(found, f"{where}: only one of {', '.join(lists)} may be a list")
        items = self._items(members[lists[0]], f"{where}.{lists[0]}")
        if len(items) > MOST_REPLIES:
            raise self._wrong(found, f"{where}: {len(items)} replies; at most {MOST_REPLIES}")
        return tuple(self._with(rest, lists[0], item, f"{where}.{lists[0]}") for item in items)

    def _with(self, rest: Conditions, key: str, found: Located, where: str) -> Conditions:
        if key == "matches":
            return replace(rest, matches=self._pattern(found, where))
        text = self._text(found, where)
        return replace(rest, contains=text) if key == "contains" else replace(rest, equals=text)

    def _one_reply(self, members: Mapping[str, Located], where: str) -> Conditions:
        def text(key: str) -> str | None:
            return self._text(members[key], f"{where}.{key}") if key in members else None

        return Conditions(
            contains=text("contains"),
            matches=self._pattern(members["matches"], f"{where}.matches") if "matches" in members else None,
            equals=text("equals"),
            role=self._role(members["from"], f"{where}.from") if "from" in members else None,
            options=self._list(members.get("options"), f"{where}.options"),
            card=self._any_or_text(members.get("card"), f"{where}.card"),
            attachment=self._any_or_text(members.get("attachment"), f"{where}.attachment"),
            unless=self._unless(members["not"], f"{where}.not") if "not" in members else (),
        )

    def _unless(self, found: Located, where: str) -> tuple[Conditions, ...]:
        if _is_list(found):
            return tuple(inner for item in self._items(found, where) for inner in self._unless(item, where))
        if not isinstance(found.value, Mapping):
            return (Conditions(contains=self._text(found, where)),)
        allowed = {key: script_keys.CONDITIONS[key] for key in script_keys.OF_A_REPLY if key != "not"}
        members = self._mapping(found, allowed, where)
        if not members:
            raise self._wrong(found, f"{where}: it is empty")
        for key in _LISTS:
            if key in members and _is_list(members[key]):
                raise self._wrong(members[key], f"{where}.{key}: a list of texts goes directly under `not`")
        return (self._one_reply(members, where),)

    def _role(self, found: Located, where: str) -> Role:
        roles = ("bot", "agent", "system")
        text = self._text(found, where)
        if text not in roles:
            raise self._wrong(found, f"{where}: {text!r}; it is bot or agent{did_you_mean(text, roles)}")
        return cast("Role", text)

    def _any_or_text(self, found: Located | None, where: str) -> str | None:
        if found is None:
            return None
        return ANY if found.value is True else self._text(found, where)

    def _pattern(self, found: Located, where: str) -> str:
        """A pattern with its references; compiled once as if each had a value."""
        text = self._text(found, where)
        try:
            compiled(filled(text, dict.fromkeys(needed(text), "x"), re.escape))
        except (re.error, OverflowError, RecursionError) as error:
            raise self._wrong(found, f"{where}: {text!r} is not a regular expression: {error}") from error
        return text

    # --- values ---

    def _mapping(self, found: Located, allowed: Mapping[str, ScriptKey], where: str) -> Mapping[str, Located]:
        members = self._members(found, where)
        for key, value in members.items():
            if key not in allowed:
                raise self._wrong(
                    value, f"{where}: unknown key {key!r}{did_you_mean(key, allowed)}; keys are {', '.join(allowed)}"
                )
        return members

    def _members(self, found: Located, where: str) -> Mapping[str, Located]:
        if not isinstance(found.value, Mapping):
            raise self._wrong(found, f"{where}: expected `key: value` lines")
        return found.value

    def _items(self, found: Located, where: str) -> Sequence[Located]:
        if not _is_list(found):
            raise self._wrong(found, f"{where}: expected a list (lines that begin with `-`)")
        items = cast("Sequence[Located]", found.value)
        if not items:
            raise self._wrong(found, f"{where}: the list is empty")
        return items

    def _list(self, found: Located | None, where: str) -> tuple[str, ...]:
        """A list of texts; a single one will do."""
        if found is None:
            return ()
        items = self._items(found, where) if _is_list(found) else [found]
        return tuple(self._text(item, where) for item in items)

    def _tags(self, found: Located | None) -> frozenset[str]:
        return frozenset(self._list(found, "tags"))

    def _text(self, found: Located, where: str) -> str:
        """A scalar as it was written: `No` and `007` are texts here."""
        if found.text is None:
            raise self._wrong(found, f"{where}: expected a text")
        if found.value is None and not found.text:
            raise self._wrong(found, f"{where}: a value is missing")
        return found.text

    def _texts(self, found: Located | None, where: str, *, names: bool = False) -> dict[str, str]:
        if found is None:
            return {}
        texts = {}
        for key, value in self._members(found, where).items():
            if names:
                self._variable(value, key, where)
            texts[key] = self._text(value, f"{where}.{key}")
        return texts

    def _variable(self, found: Located, name: str, where: str) -> None:
        if not NAME.fullmatch(name):
            raise self._wrong(found, f"{where}: {name!r} cannot be a name; letters, digits, _ . - after a letter")

    def _save_as(self, found: Located, where: str) -> str:
        name = self._text(found, f"{where}: saveAs")
        self._variable(found, name, f"{where}: saveAs")
        return name

    def _time(self, found: Located | None, where: str) -> float | None:
        if found is None:
            return None
        try:
            seconds = parse_duration(found.text or "")
        except ValueError:
            seconds = 0.0
        if not 0.0 < seconds <= LONGEST:
            raise self._wrong(found, f"{where}: expected a time such as 2s, 500ms or 1m")
        return seconds

    def _count(self, found: Located | None, where: str, least: int, most: int) -> int:
        if found is None:
            return least
        if not isinstance(found.value, int) or isinstance(found.value, bool) or not least <= found.value <= most:
            raise self._wrong(found, f"{where}: expected a whole number from {least} to {most}")
        return found.value

    def _truth(self, found: Located | None, where: str) -> bool:
        if found is None:
            return False
        if not isinstance(found.value, bool):
            raise self._wrong(found, f"{where}: expected true or false")
        return found.value

    def _check(self, found: Located | None, texts: Iterable[str], captured: set[str]) -> None:
        """Every `${name}` has a value by now, or will have one."""
        for text in texts:
            slip = unclosed(text)
            if slip is not None:
                assert found is not None
                raise self._wrong(found, f"${{{slip} is not closed: write ${{{slip}}}; a literal is `$${{`")
            for name in needed(text):
                if name not in self._values and name not in captured:
                    near = did_you_mean(name, [*sorted(captured), *sorted(self._values.keys() - self._environ.keys())])
                    hint = "give it first: with --var, `variables:`, `saveAs` or the environment; a literal is `$${`"
                    assert found is not None
                    raise self._wrong(found, f"${{{name}}} has no value{near}; {hint}")

    def _wrong(self, found: Located, problem: str) -> UsageError:
        return UsageError(
            f"{self._path}:{found.line}: {problem}",
            code="config.file",
            hint="`guestctl check --keys` lists every key of a script.",
        )


_LISTS = ("contains", "matches", "equals")

_STEPS: Mapping[str, Callable[[_Reader, Located, str], Step]] = {
    "say": _Reader._say,
    "waitForReplyContaining": _Reader._containing,
    "waitForReplyMatching": _Reader._matching,
    "expect": _Reader._expect,
    "expectNone": _Reader._expect_none,
    "expectDisconnect": _Reader._expect_disconnect,
    "pick": _Reader._pick,
    "attach": _Reader._attach,
    "attributes": _Reader._attributes,
    "typing": _Reader._typing,
    "pause": _Reader._pause,
}


def _is_list(found: Located) -> bool:
    return found.text is None and not isinstance(found.value, Mapping)


def _shown(name: str, found: Located) -> str:
    """A step as a report shows it."""
    if found.text is not None:
        return name if found.text == name or found.value in (None, True) else f"{name}: {found.text}"
    import json

    return f"{name}: {json.dumps(found.plain(), ensure_ascii=False)}"


def _groups(wanted: Conditions) -> Iterator[str]:
    """Names that a pattern's groups give to later steps."""
    if wanted.matches is not None:
        yield from re.findall(r"\(\?P?<([A-Za-z_]\w*)>", wanted.matches)


def _texts_of(step: Step) -> Iterator[str]:
    yield from (text for text in (step.words, step.file) if text is not None)
    yield from step.attributes.values()
    for wanted in step.wanted:
        yield from _texts_in(wanted)


def _texts_in(wanted: Conditions) -> Iterator[str]:
    texts = (wanted.contains, wanted.matches, wanted.equals, wanted.card, wanted.attachment)
    yield from (text for text in texts if text is not None)
    yield from wanted.options
    for other in wanted.unless:
        yield from _texts_in(other)
