"""The reader of check scripts: YAML in, scenarios out, or one line that says what is wrong and where.

Knows: how the keys of `script_keys` are read, matrices, variables. Must not know: clients, sockets,
how a scenario runs. The whole script is read and validated, its patterns compiled and its files
found, before anything is sent.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import cast

from guestctl.checks import ai_reader, load_reader, script_keys
from guestctl.checks.ai import peer_scripts
from guestctl.checks.expectation import ANY, Conditions, compiled
from guestctl.checks.script import TEST_MARK, Scenario, Script, Step
from guestctl.checks.variables import NAME, filled, needed, unclosed
from guestctl.core.errors import NEXT_STEPS, UsageError
from guestctl.core.model import Role
from guestctl.core.patterns import PatternError, group_names, literal
from guestctl.core.strict_yaml import Located, parse_bytes, read
from guestctl.core.suggestions import did_you_mean
from guestctl.core.yaml_fields import YamlField
from guestctl.dialects import NAMES

#: The most scenarios that one matrix may generate.
MOST_SCENARIOS = 1000
#: The most replies that one expectation may wait for.
MOST_REPLIES = 100
#: The longest duration in a script, in seconds.
LONGEST = 24 * 3600.0

_KEYS_HINT = "`guestctl check --keys` lists every key of a script"


def load(path: Path, variables: Mapping[str, str], environ: Mapping[str, str], content: bytes | None = None) -> Script:
    """Read and validate a script. `variables` are those given for this run, `environ` the process's environment.

    `content` is the script if it has been read already, from stdin; `path` is then its name for reports.
    Raises UsageError `config.file` with file, line, key and a suggestion.
    """
    try:
        root = read(path) if content is None else parse_bytes(content, str(path))
    except UsageError as error:
        if error.hint == NEXT_STEPS["config.file"]:
            again = f"run `guestctl check {shlex.quote(str(path))}` again" if content is None else "send it again"
            error.hint = f"correct that line, then {again}"
        raise
    script = _Reader(path, variables, environ).script(YamlField(root, str(path), hint=_KEYS_HINT))
    for scenario in script.scenarios if content is not None else ():
        if scenario.golden:
            raise UsageError(
                f"{path}:{scenario.line}: a script from stdin has no golden transcript",
                code="config.file",
                hint="save the script in a file, next to which the transcript can be stored",
            )
    return script


class _Reader:
    """Reads one script. Every complaint names file, line and key."""

    def __init__(self, path: Path, variables: Mapping[str, str], environ: Mapping[str, str]) -> None:
        self._path = path
        self._given = variables
        self._environ = environ
        #: Values that `${name}` has before any scenario runs. The script's own variables join one by one.
        self._values = {**environ, **variables}

    # --- the file ---

    def script(self, root: YamlField) -> Script:
        if root.value is None:
            raise root.error("the script is empty; it needs `scenarios`")
        top = root.mapping(script_keys.SCRIPT)
        variables = self._variables(top.get("variables"))
        config, lines = self._config(top.get("config"))
        models = ai_reader.settings(top.get("ai"), self._filled)
        peer = _member(top.get("config"), "ai")
        if peer is not None:
            models = peer_scripts.settings(peer, models)
        common = Scenario(
            name="",
            line=root.line,
            steps=(),
            tags=self._tags(top.get("tags")),
            attributes=self._known_texts(top.get("attributes"), set()),
            timeout=_duration(top.get("timeout")),
            retries=top["retries"].whole_number(0, 100) if "retries" in top else 0,
            golden=top["golden"].flag() if "golden" in top else False,
            marked=not _unmarked(top.get("attributes")),
        )
        listed = root.required(top, "scenarios").members()
        if not listed:
            raise top["scenarios"].error("there are no scenarios")
        scenarios: list[Scenario] = []
        for name, field in listed.items():
            if not name.strip():
                raise top["scenarios"].error("a scenario needs a name")
            named = field.named(f'scenario "{name}"')
            found = self._scenario(name, named, common, top.get("setup"), top.get("teardown"))
            scenarios += (replace(scenario, base=name) for scenario in found)
        expanded = frozenset(key for key, raw in self._config_texts(top.get("config")).items() if "${" in raw)
        judged_by_itself = any(peer_scripts.is_scenario(field) for field in listed.values())
        return Script(
            self._path,
            config,
            variables,
            tuple(scenarios),
            lines,
            expanded,
            models,
            peer_scripts.deviations(peer, has_scenarios=judged_by_itself),
            load_reader.settings(top.get("load"), listed),
        )

    def _config(self, field: YamlField | None) -> tuple[dict[str, str], dict[str, int]]:
        """Return the values of `config` and the line of each."""
        if field is None or field.value is None:
            return {}, {}
        members = field.mapping(script_keys.CONFIG)
        members.pop("ai", None)
        config = {key: self._filled(member, member.text().strip()) for key, member in members.items()}
        api = config.get("api", NAMES[0])
        if api not in NAMES:
            raise members["api"].error(f'no API "{api}"{did_you_mean(api, NAMES)} (APIs: {", ".join(NAMES)})')
        return config, {key: member.line for key, member in members.items()}

    def _config_texts(self, field: YamlField | None) -> dict[str, str]:
        """Return the values of `config` as written."""
        if field is None or field.value is None:
            return {}
        return {key: member.text() for key, member in field.mapping(script_keys.CONFIG).items() if key != "ai"}

    def _variables(self, field: YamlField | None) -> dict[str, str]:
        """Return the variables. Each may use those above it; a variable given for this run wins."""
        own: dict[str, str] = {}
        for name, member in ({} if field is None else field.members()).items():
            _check_name(member.named("variables"), name)
            text = member.text()
            if name not in self._given:
                self._values[name] = own[name] = self._filled(member, text)
        return {**own, **self._given}

    def _filled(self, field: YamlField, text: str) -> str:
        """Return a text with its references replaced, before any scenario runs."""
        self._check(field, [text], set())
        return filled(text, self._values)

    # --- scenarios ---

    def _scenario(
        self, name: str, field: YamlField, common: Scenario, setup: YamlField | None, teardown: YamlField | None
    ) -> Iterator[Scenario]:
        if peer_scripts.is_scenario(field):
            yield self._peer_scenario(name, field, common)
            return
        own = field.mapping(script_keys.SCENARIO, ": ") if field.is_mapping else {"steps": field}
        main = field.required(own, "steps")
        rows = list(self._matrix(own["matrix"])) if "matrix" in own else [{}]
        captured = set(rows[0])
        steps = self._all_steps((setup, own.get("setup"), main), field.where, captured)
        if not any(step.action != "attributes" for step in steps):
            raise field.error("the scenario has no steps")
        after = self._all_steps((own.get("teardown"), teardown), field.where, captured)
        _check_attributes_are_sent([*steps, *after], field)
        attributes = self._known_texts(own.get("attributes"), set(rows[0]))
        timeout = _duration(own.get("timeout"))
        scenario = replace(
            common,
            name=name,
            line=field.line,
            steps=tuple(steps),
            teardown=tuple(after),
            tags=common.tags | self._tags(own.get("tags")),
            attributes={**common.attributes, **attributes},
            timeout=common.timeout if timeout is None else timeout,
            retries=own["retries"].whole_number(0, 100) if "retries" in own else common.retries,
            golden=own["golden"].flag() if "golden" in own else common.golden,
            marked=common.marked and not _unmarked(own.get("attributes")),
        )
        for row in rows:
            # The label shows values as written, so it does not depend on variables and shows none of their secrets.
            label = ", ".join(f"{key}={value}" for key, value in row.items())
            values = {key: filled(value, self._values) for key, value in row.items()}
            yield replace(scenario, name=f"{name} [{label}]", values=values) if row else scenario

    def _peer_scenario(self, name: str, field: YamlField, common: Scenario) -> Scenario:
        """Return an AI scenario of the web-messaging tester as our steps."""
        (customer, asked), (judge, decided) = peer_scripts.steps(field)
        steps = (
            Step("customer", asked.line, "customer: the prompt of `setup`", customer=customer),
            Step("judge", decided.line, "judge: the terminating phrases", judge=judge),
        )
        for step in steps:
            self._check(field, step.texts(), set())
        return replace(common, name=name, line=field.line, steps=steps)

    def _matrix(self, field: YamlField) -> Iterator[dict[str, str]]:
        if field.is_mapping:
            lists = {}
            for key, values in field.members().items():
                _check_name(values.named(field.where), key)
                lists[key] = [value.text() for value in values.items()]
                self._check(values, lists[key], set())
            rows = [dict(zip(lists, row, strict=True)) for row in product(*lists.values())] if lists else []
        else:
            rows = []
            for item in field.items():
                rows.append(_texts(item))
                for key in rows[-1]:
                    _check_name(item, key)
                self._check(item, rows[-1].values(), set())
            if any(row.keys() != rows[0].keys() for row in rows):
                raise field.error("every row needs the same names")
        if not rows or not rows[0]:
            raise field.error("the matrix is empty")
        if len(rows) > MOST_SCENARIOS:
            raise field.error(f"{len(rows)} scenarios; the maximum is {MOST_SCENARIOS}")
        yield from rows

    # --- steps ---

    def _all_steps(self, parts: Iterable[YamlField | None], where: str, captured: set[str]) -> list[Step]:
        """Return the steps of several lists. `captured` grows by the names that the steps save."""
        steps = []
        for part in parts:
            for number, item in enumerate(part.items() if part is not None else (), 1):
                step = self._step(item.named(f"{where}, step {number}"), captured)
                captured |= {name for expected in step.expected for name in _groups(expected)}
                if step.save_as is not None:
                    captured.add(step.save_as)
                steps.append(step)
        return steps

    def _step(self, item: YamlField, captured: set[str]) -> Step:
        members = self._step_members(item)
        name = _action(item, members)
        step = _STEPS[name](self, members[name])
        step = replace(step, line=item.line, text=_as_written(name, members[name].located))
        if "timeout" in members:
            if step.timeout is not None:
                raise item.error("give `timeout` or `within`, not both")
            step = replace(step, timeout=_duration(members["timeout"]))
        if "saveAs" in members:
            step = replace(step, save_as=_save_as(members["saveAs"]))
        if "attach" in members and name != "attach":
            step = replace(step, file=self._attach(members["attach"]).file)
        if "attributes" in members:
            step = replace(step, attributes=_texts(members["attributes"]))
        self._check(item, step.texts(), captured)
        return step

    def _step_members(self, item: YamlField) -> Mapping[str, YamlField]:
        text = item.located.text
        if text is not None and item.value is not None and text.strip() in script_keys.BARE:
            return {text.strip(): item}
        if not item.is_mapping:
            raise item.error(f"a step is `key: value` (keys: {', '.join(script_keys.ACTIONS)})")
        return item.mapping({**script_keys.ACTIONS, **script_keys.MODIFIERS}, ": ")

    def _say(self, field: YamlField) -> Step:
        message = field.text()
        if not message.strip():
            raise field.error("the message is empty")
        return Step("say", field.line, "", message=message)

    def _pick(self, field: YamlField) -> Step:
        if field.is_mapping:
            number = field.required(field.mapping(("number",)), "number")
            return Step("pick", field.line, "", message=str(number.whole_number(1, 999_999)), by_place=True)
        return Step("pick", field.line, "", message=field.text())

    def _attach(self, field: YamlField) -> Step:
        name = field.text()
        if "${" not in name and not (self._path.parent / name).is_file():
            raise field.error(f'no file "{name}" in the directory of the script')
        return Step("attach", field.line, "", file=name)

    def _attributes(self, field: YamlField) -> Step:
        return Step("attributes", field.line, "", attributes=_texts(field))

    def _typing(self, field: YamlField) -> Step:
        if not _is_bare(field, "typing"):
            raise field.error("takes no value")
        return Step("typing", field.line, "")

    def _pause(self, field: YamlField) -> Step:
        return Step("pause", field.line, "", seconds=field.duration(LONGEST))

    def _customer(self, field: YamlField) -> Step:
        return Step("customer", field.line, "", customer=ai_reader.customer(field, self._until))

    def _until(self, field: YamlField) -> Conditions:
        if not field.is_mapping:
            return Conditions(contains=field.text())
        replies = self._replies(field, field.mapping(script_keys.OF_A_REPLY))
        if len(replies) > 1:
            raise field.error("one reply ends the conversation; give one text of each kind")
        return replies[0]

    def _judge(self, field: YamlField) -> Step:
        return Step("judge", field.line, "", judge=ai_reader.judge(field))

    def _containing(self, field: YamlField) -> Step:
        return Step("expect", field.line, "", expected=(Conditions(contains=field.text()),))

    def _matching(self, field: YamlField) -> Step:
        return Step("expect", field.line, "", expected=(Conditions(matches=_pattern(field)),))

    def _expect(self, field: YamlField) -> Step:
        if not field.is_mapping:
            return self._containing(field)
        members = field.mapping(script_keys.IN_EXPECT)
        expected = self._replies(field, members)
        count = members["count"].whole_number(1, MOST_REPLIES) if "count" in members else 1
        if "count" in members and len(expected) > 1:
            raise members["count"].error("a list of replies already has a count")
        if count > 1:
            expected *= count
        return Step(
            "expect",
            field.line,
            "",
            expected=expected,
            in_order=members["in_order"].flag() if "in_order" in members else True,
            timeout=_duration(members.get("within")),
            save_as=_save_as(members["saveAs"]) if "saveAs" in members else None,
        )

    def _expect_none(self, field: YamlField) -> Step:
        if not field.is_mapping:
            return Step("expectNone", field.line, "", seconds=field.duration(LONGEST), expected=(Conditions(),))
        members = field.mapping(script_keys.IN_EXPECT_NONE)
        seconds = field.required(members, "for").duration(LONGEST)
        rest = {key: member for key, member in members.items() if key != "for"}
        expected = self._replies(field, rest) if rest else (Conditions(),)
        return Step("expectNone", field.line, "", seconds=seconds, expected=expected)

    def _expect_disconnect(self, field: YamlField) -> Step:
        timeout = None
        if field.is_mapping:
            timeout = _duration(field.mapping(("within",)).get("within"))
        elif not _is_bare(field, "expectDisconnect"):
            timeout = field.duration(LONGEST)
        return Step("expectDisconnect", field.line, "", timeout=timeout)

    # --- conditions ---

    def _replies(self, field: YamlField, members: Mapping[str, YamlField]) -> tuple[Conditions, ...]:
        """Return one set of conditions per reply: `contains`, `matches` or `equals` may be a list."""
        if not any(key in members for key in script_keys.OF_A_REPLY):
            if "count" in members:
                return (Conditions(),)
            raise field.error(f"no condition; give one of {', '.join(script_keys.OF_A_REPLY)}")
        lists = [key for key in _LISTS if key in members and members[key].is_list]
        rest = self._one_reply({key: member for key, member in members.items() if key not in lists})
        if not lists:
            return (rest,)
        if len(lists) > 1:
            raise field.error(f"only one of {', '.join(lists)} may be a list")
        key = lists[0]
        items = members[key].items()
        if len(items) > MOST_REPLIES:
            raise field.error(f"{len(items)} replies; the maximum is {MOST_REPLIES}")
        return tuple(_with_text(rest, key, item) for item in items)

    def _one_reply(self, members: Mapping[str, YamlField]) -> Conditions:
        def text(key: str) -> str | None:
            return members[key].text() if key in members else None

        return Conditions(
            contains=text("contains"),
            matches=_pattern(members["matches"]) if "matches" in members else None,
            equals=text("equals"),
            role=_role(members["from"]) if "from" in members else None,
            options=members["options"].texts() if "options" in members else (),
            card=_any_or_text(members.get("card")),
            attachment=_any_or_text(members.get("attachment")),
            unless=self._unless(members["not"]) if "not" in members else (),
        )

    def _unless(self, field: YamlField) -> tuple[Conditions, ...]:
        if field.is_list:
            return tuple(inner for item in field.items() for inner in self._unless(item))
        if not field.is_mapping:
            return (Conditions(contains=field.text()),)
        members = field.mapping(key for key in script_keys.OF_A_REPLY if key != "not")
        if not members:
            raise field.error("no condition")
        for key in _LISTS:
            if key in members and members[key].is_list:
                raise members[key].error("put a list of texts directly under `not`")
        return (self._one_reply(members),)

    # --- variables ---

    def _tags(self, field: YamlField | None) -> frozenset[str]:
        return frozenset(() if field is None else field.texts())

    def _known_texts(self, field: YamlField | None, captured: set[str]) -> dict[str, str]:
        """Return a mapping of texts, after a check of its references."""
        if field is None:
            return {}
        texts = _texts(field)
        self._check(field, texts.values(), captured)
        return texts

    def _check(self, field: YamlField, texts: Iterable[str], captured: set[str]) -> None:
        """Check that every `${name}` has a value by now, or that an earlier step saves it."""
        for text in texts:
            name = unclosed(text)
            if name is not None:
                raise field.error(f"${{{name} is not closed: write ${{{name}}}, or $${{ for a literal ${{")
            for name in needed(text):
                if name not in self._values and name not in captured:
                    own = [*sorted(captured), *sorted(self._values.keys() - self._environ.keys())]
                    sources = "set it with --var, `variables:`, `saveAs` or the environment; a literal is $${"
                    raise field.error(f"${{{name}}} has no value{did_you_mean(name, own)} ({sources})")


_LISTS = ("contains", "matches", "equals")

_STEPS: Mapping[str, Callable[[_Reader, YamlField], Step]] = {
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
    "customer": _Reader._customer,
    "judge": _Reader._judge,
}


def _action(item: YamlField, members: Mapping[str, YamlField]) -> str:
    """Return the one action of a step, after a check that its other keys may accompany it."""
    actions = [key for key in script_keys.ACTIONS if key in members]
    main = [key for key in actions if key not in {"attach", "attributes"}] or actions[:1]
    if len(main) > 1:
        raise item.error(f"a step has one action; this one has {' and '.join(f'`{key}`' for key in main)}")
    if not main:
        raise item.error(f"a step needs one of {', '.join(script_keys.ACTIONS)}")
    name = main[0]
    for extra, allowed in (("attach", ("say",)), ("attributes", ("say", "pick", "attach", "customer"))):
        if extra in members and name != extra and name not in allowed:
            raise item.error(f"`{extra}` may accompany {', '.join(allowed)}, not `{name}`")
    if "saveAs" in members and name not in {"expect", "waitForReplyContaining", "waitForReplyMatching"}:
        raise item.error(f"`saveAs` may accompany an expectation, not `{name}`")
    if "timeout" in members and name in {"pause", "expectNone", "attributes", "judge"}:
        raise item.error(f"`timeout` may not accompany `{name}`")
    return name


def _check_attributes_are_sent(steps: Sequence[Step], field: YamlField) -> None:
    """Refuse an `attributes` step that no message follows."""
    waiting = None
    for step in steps:
        if step.action == "attributes":
            waiting = step
        elif step.action in {"say", "pick", "attach", "customer"}:
            waiting = None
    if waiting is not None:
        place = replace(field, located=replace(field.located, line=waiting.line))
        raise place.error("`attributes` apply to the next message, and none follows")


def _member(field: YamlField | None, key: str) -> YamlField | None:
    return None if field is None or not field.is_mapping else field.members().get(key)


def _check_name(field: YamlField, name: str) -> None:
    if not NAME.fullmatch(name):
        raise field.error(f'"{name}" cannot be a name: use a letter or _, then letters, digits, _, . or -')


def _save_as(field: YamlField) -> str:
    name = field.text()
    _check_name(field, name)
    return name


def _texts(field: YamlField) -> dict[str, str]:
    members = field.members()
    return {key: member.text() for key, member in members.items() if key != TEST_MARK or member.value is not None}


def _unmarked(field: YamlField | None) -> bool:
    """Return whether a mapping of attributes removes the mark of automated tests."""
    members = {} if field is None else field.members()
    return TEST_MARK in members and members[TEST_MARK].value is None


def _duration(field: YamlField | None) -> float | None:
    return None if field is None else field.duration(LONGEST)


def _role(field: YamlField) -> Role:
    return cast("Role", field.choice(("bot", "agent", "system")))


def _any_or_text(field: YamlField | None) -> str | None:
    if field is None:
        return None
    return ANY if field.value is True else field.text()


def _pattern(field: YamlField) -> str:
    """Return a pattern with its references, after compiling it once with a value for each of them."""
    text = field.text()
    try:
        compiled(filled(text, dict.fromkeys(needed(text), "x"), literal))
    except PatternError as error:
        raise field.error(f'"{text}" is not a regular expression: {error}') from error
    return text


def _with_text(rest: Conditions, key: str, field: YamlField) -> Conditions:
    if key == "matches":
        return replace(rest, matches=_pattern(field))
    text = field.text()
    return replace(rest, contains=text) if key == "contains" else replace(rest, equals=text)


def _is_bare(field: YamlField, name: str) -> bool:
    """Return whether an action stands without a value, or with a mere `true`."""
    text = field.located.text
    return text is not None and (field.value in (None, True) or text.strip() == name)


def _as_written(name: str, located: Located) -> str:
    """Return a step as a report shows it."""
    if located.text is not None:
        return name if located.text == name or located.value in (None, True) else f"{name}: {located.text}"
    import json

    return f"{name}: {json.dumps(located.plain(), ensure_ascii=False)}"


def _groups(expected: Conditions) -> Iterator[str]:
    """Yield the names that a pattern's groups give to later steps."""
    if expected.matches is not None:
        yield from group_names(expected.matches)
