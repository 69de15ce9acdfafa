"""Read the wire examples strictly, fill their placeholders, match them and corrupt them.

Knows: the format of `tests/wire/README.md`. Must not know: the client, the sandbox. Both are tested
against these files, so nothing is imported from either.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml

Json: TypeAlias = Any
Path_: TypeAlias = "tuple[str | int, ...]"
Names: TypeAlias = "dict[str, Json]"

WIRE = Path(__file__).parent / "wire"
#: Where an example may come from: a protocol document and its section, or a recording.
SOURCE = re.compile(r"(web-messaging|other-apis)\.md, \S.*|captured, redacted, \d{4}-\d\d-\d\d")
#: Placeholders that have a value in each run from the start.
GIVEN = frozenset({"rest", "socket", "deployment"})

_NAME = re.compile(r"\$([a-z_][a-z0-9_]*)")
_FILE = {"source", "samples", "examples"}
_EXAMPLE = {
    "name", "source", "given", "profile", "setting", "samples", "client_only", "sandbox_only", "complaints", "steps",
}  # fmt: skip
_SETTING = {"options", "deployment", "script"}
_STEP = {
    "do", "stranger", "stage", "request", "frame", "reply", "hears", "means", "optional", "required", "typed", "silent",
}  # fmt: skip
_REQUEST = {"method", "path", "url", "query", "headers", "json", "form", "content", "upgrade"}
_REPLY = {"status", "headers", "json", "text", "extra", "vital", "open"}
_HEARD = {"frame", "means", "extra", "vital", "open"}


class ExampleError(ValueError):
    """An example does not follow the format of the README."""


@dataclass(frozen=True)
class Answer:
    """An HTTP response (`status` is set) or one frame from the service. Paths are relative to `body`."""

    body: Json
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None
    means: Json = None
    has_meaning: bool = False  # `means` is given for this frame
    extra: tuple[Path_, ...] = ()
    vital: tuple[Path_, ...] = ()
    open: tuple[Path_, ...] = ()


@dataclass(frozen=True)
class Step:
    """One request or frame and its answers. `verb` None: it continues the step before, or nothing is sent."""

    where: str
    verb: str | None = None
    arguments: Mapping[str, Json] = field(default_factory=dict)
    stranger: str | None = None
    stage: tuple[tuple[str, Json], ...] = ()
    request: Mapping[str, Json] | None = None
    frame: Json = None
    reply: Answer | None = None
    hears: tuple[Answer, ...] = ()
    means: Json = None
    has_meaning: bool = False
    optional: tuple[Path_, ...] = ()
    required: tuple[Path_, ...] | None = None
    typed: tuple[Path_, ...] = ()

    def corruptions(self, sent: Json) -> Iterator[tuple[str, Json]]:
        """Yield the sent object with one member corrupted: required members in every way, typed ones in their type."""
        for path in self.corruptible():
            yield from corrupted(sent, path)
        for path in self.typed:
            yield list(corrupted(sent, path))[-1]

    def corruptible(self) -> list[Path_]:
        """Return the paths that can be corrupted: in the frame, or in `query`, `headers`, `json`, `form`."""
        if self.frame is not None:
            found = list(keys(self.frame))
        else:
            asked = self.request or {}
            parts = {part: asked[part] for part in ("query", "headers", "json", "form") if part in asked}
            found = [path for path in keys(parts) if len(path) > 1]
        if self.required is not None:
            return [path for path in found if path in self.required]
        return [path for path in found if not any(path[: len(o)] == o for o in self.optional)]


@dataclass(frozen=True)
class Example:
    """A transcript. `prelude`: the steps of the example that it builds on; they run, but are not checked again."""

    dialect: str
    name: str
    source: str
    steps: tuple[Step, ...]
    prelude: tuple[Step, ...] = ()
    profile: Mapping[str, Json] = field(default_factory=dict)
    setting: Mapping[str, Json] = field(default_factory=dict)
    samples: Mapping[str, Json] = field(default_factory=dict)
    client_only: str | None = None
    sandbox_only: str | None = None
    complaints: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.dialect}/{self.name}"


#: libyaml's parser where PyYAML has it: it reads the examples in a tenth of the time.
_FastLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_FastLoader):  # type: ignore[misc]
    """YAML with the scalars of JSON, without repeated keys: the text shows exactly what is sent."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = [key.value for key, _ in node.value]
        repeated = {key for key in seen if seen.count(key) > 1}
        if repeated:
            raise ExampleError(f"{node.start_mark}: {sorted(repeated)} given twice")
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _form, _first in (
    ("null", r"^(null|)$", ["n", ""]),
    ("bool", r"^(true|false)$", ["t", "f"]),
    ("int", r"^-?(0|[1-9][0-9]*)$", list("-0123456789")),
    ("float", r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$", list("-0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_form), _first)


@cache
def load(dialect: str) -> dict[str, Example]:
    """Return every example of one API by its name, `file.example`. Raise ExampleError for a bad one."""
    found: dict[str, Example] = {}
    for path in sorted((WIRE / dialect).glob("*.yaml")):
        for example in parse(path.read_text(encoding="utf-8"), dialect, path.stem):
            found[example.name] = example
    return {name: _with_given(example, found, ()) for name, example in found.items()}


def everything() -> list[Example]:
    """Return every example of every API."""
    return [example for folder in sorted(WIRE.iterdir()) if folder.is_dir() for example in load(folder.name).values()]


@cache
def numbered(dialect: str) -> bool:
    """Return whether the messages of this API have sequence numbers."""
    return any(
        path[-1] == "sequence"
        for example in load(dialect).values()
        for step in example.steps
        for meaning in (step.means, *(heard.means for heard in step.hears))
        for path in keys(meaning)
    )


def parse(text: str, dialect: str, stem: str) -> list[Example]:
    """Return the examples of one file, before `given:` is resolved. Raise ExampleError for a bad one."""
    try:
        for event in yaml.parse(text, _Loader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise ExampleError(f"{event.start_mark}: anchors are not used here; write the value out")
        whole = yaml.load(text, _Loader)  # noqa: S506
    except yaml.YAMLError as error:
        raise ExampleError(f"{stem}: {error}") from error
    _known(whole, _FILE, stem)
    shared = whole.get("samples") or {}
    examples = [_example(raw, dialect, stem, whole.get("source"), shared) for raw in whole.get("examples") or ()]
    if not examples:
        raise ExampleError(f"{stem}: no examples")
    if len({example.name for example in examples}) != len(examples):
        raise ExampleError(f"{stem}: two examples with one name")
    used = {name for example in whole["examples"] for name in _named({**example, "samples": None})}
    for name in {**shared, **{k: v for raw in whole["examples"] for k, v in (raw.get("samples") or {}).items()}}:
        if name not in used:
            raise ExampleError(f"{stem}: the sample {name!r} is never used")
    return examples


def _example(raw: Json, dialect: str, stem: str, source: Json, shared: Mapping[str, Json]) -> Example:
    _known(raw, _EXAMPLE, stem)
    name = f"{stem}.{raw.get('name')}"
    source = raw.get("source", source)
    if not isinstance(source, str) or not SOURCE.fullmatch(source):
        raise ExampleError(f"{name}: `source:` names no document and section, nor a recording")
    _known(raw.get("setting") or {}, _SETTING, name)
    steps = [_step(step, f"{name}[{number}]") for number, step in enumerate(raw.get("steps") or (), 1)]
    if not steps:
        raise ExampleError(f"{name}: no steps")
    example = Example(
        dialect=dialect,
        name=name,
        source=source,
        steps=tuple(steps),
        profile=raw.get("profile") or {},
        setting=raw.get("setting") or {},
        samples={**shared, **(raw.get("samples") or {})},
        client_only=raw.get("client_only"),
        sandbox_only=raw.get("sandbox_only"),
        complaints=tuple(raw.get("complaints") or ()),
    )
    given = raw.get("given")
    return replace(example, prelude=(Step(given),)) if given else example


def _with_given(example: Example, known: Mapping[str, Example], seen: tuple[str, ...]) -> Example:
    """Return the example with the steps, samples and settings of the one named under `given:`."""
    if not example.prelude:
        return example
    given = example.prelude[0].where
    if given not in known or given in seen:
        raise ExampleError(f"{example.name}: `given: {given}` is no other example of {example.dialect}")
    base = _with_given(known[given], known, (*seen, given))
    setting = {key: _merged(base.setting.get(key), example.setting.get(key)) for key in _SETTING}
    return replace(
        example,
        prelude=base.prelude + base.steps,
        profile={**base.profile, **example.profile},
        setting={key: value for key, value in setting.items() if value},
        samples={**base.samples, **example.samples},
    )


def _merged(below: Json, above: Json) -> Json:
    return {**below, **above} if isinstance(below, dict) and isinstance(above, dict) else above or below


def _step(raw: Json, where: str) -> Step:
    _known(raw, _STEP, where)
    do = raw.get("do")
    if isinstance(do, str):
        do = {do: None}
    if do is not None and not (isinstance(do, dict) and len(do) == 1):
        raise ExampleError(f"{where}: `do:` is one verb, with or without arguments")
    verb, arguments = next(iter(do.items())) if do else (None, None)
    request, reply = raw.get("request"), raw.get("reply")
    if request is not None:
        _known(request, _REQUEST, where)
    if request is not None and raw.get("frame") is not None:
        raise ExampleError(f"{where}: `request:` or `frame:`, not both")
    if (request is None) != (reply is None):
        raise ExampleError(f"{where}: `request:` and `reply:` go together")
    stage = raw.get("stage") or []
    hears = [_heard(heard, f"{where}.hears[{number}]") for number, heard in enumerate(raw.get("hears") or (), 1)]
    if raw.get("frame") is not None and not hears and not raw.get("silent"):
        raise ExampleError(f"{where}: `frame:` needs `hears:`, or `silent: true` when nothing answers")
    return Step(
        where=where,
        verb=verb,
        arguments=arguments or {},
        stranger=raw.get("stranger"),
        stage=tuple(next(iter(operation.items())) for operation in stage),
        request=request,
        frame=raw.get("frame"),
        reply=_reply(reply, where) if reply is not None else None,
        hears=tuple(hears),
        means=raw.get("means"),
        has_meaning="means" in raw,
        optional=_paths(raw.get("optional")),
        required=_paths(raw["required"]) if "required" in raw else None,
        typed=_paths(raw.get("typed")),
    )


def _reply(raw: Json, where: str) -> Answer:
    _known(raw, _REPLY, where)
    return Answer(
        raw.get("json"),
        status=raw["status"],
        headers=raw.get("headers") or {},
        text=raw.get("text"),
        extra=_paths(raw.get("extra")),
        vital=_paths(raw.get("vital")),
        open=_paths(raw.get("open")),
    )


def _heard(raw: Json, where: str) -> Answer:
    _known(raw, _HEARD, where)
    return Answer(
        raw["frame"],
        means=raw.get("means"),
        has_meaning="means" in raw,
        extra=_paths(raw.get("extra")),
        vital=_paths(raw.get("vital")),
        open=_paths(raw.get("open")),
    )


def _known(raw: Json, keys_: set[str], where: str) -> None:
    if not isinstance(raw, dict):
        raise ExampleError(f"{where}: expected a mapping, got {raw!r}")
    unknown = sorted(set(raw) - keys_)
    if unknown:
        raise ExampleError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(keys_))}")


def _paths(raw: Json) -> tuple[Path_, ...]:
    """Return `body.content.0.id` as ("body", "content", 0, "id")."""
    return tuple(tuple(int(part) if part.isdigit() else part for part in text.split(".")) for text in raw or ())


def shown(path: Path_) -> str:
    """Return a path as the examples write it."""
    return ".".join(str(part) for part in path)


# --- placeholders ---


def _named(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield from _NAME.findall(value)
    elif isinstance(value, dict):
        for member in value.values():
            yield from _named(member)
    elif isinstance(value, list):
        for member in value:
            yield from _named(member)


def fill(value: Json, names: Mapping[str, Json]) -> Json:
    """Return the value with every `$name` replaced. Raise KeyError for a name without a value."""
    if isinstance(value, str):
        whole = _NAME.fullmatch(value)
        if whole:
            return copy.deepcopy(names[whole[1]])
        return _NAME.sub(lambda found: str(names[found[1]]), value)
    if isinstance(value, dict):
        return {key: fill(member, names) for key, member in value.items()}
    if isinstance(value, list):
        return [fill(member, names) for member in value]
    return value


def match(expected: Json, actual: Json, names: Names, *, at: Path_ = (), extra: tuple[Path_, ...] = ()) -> list[str]:
    """Return the differences, one line each. A `$name` without a value gets the actual value in its place."""
    here = shown(at) or "the whole"
    if isinstance(expected, str) and _NAME.search(expected):
        whole = _NAME.fullmatch(expected)
        if whole and whole[1] not in names:
            names[whole[1]] = actual
            return []
        try:
            expected = fill(expected, names)
        except KeyError as error:
            return [f"{here}: {error} has no value yet"]
        extra = ()
    if isinstance(expected, dict) and isinstance(actual, dict):
        found = [f"{shown((*at, k))}: missing" for k in expected if k not in actual]
        found += [f"{shown((*at, k))}: not expected" for k in actual if k not in expected and (*at, k) not in extra]
        for key in expected:  # in this order: a text may use a name that an earlier member binds
            if key in actual:
                found += match(expected[key], actual[key], names, at=(*at, key), extra=extra)
        return found
    if isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return [f"{here}: {len(actual)} items instead of {len(expected)}"]
        return [
            line
            for number, pair in enumerate(zip(expected, actual, strict=True))
            for line in match(*pair, names, at=(*at, number), extra=extra)
        ]
    if kind(expected) != kind(actual) or expected != actual:
        return [f"{here}: {actual!r} instead of {expected!r}"]
    return []


def kind(value: Json) -> str:
    """Return the JSON type. Integers and floats are one type on the wire."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    names = {str: "string", int: "number", float: "number", dict: "object", list: "array"}
    return names.get(type(value), type(value).__name__)


_FORMS = {
    "32 hex digits": re.compile(r"[0-9a-f]{32}"),
    "a UUID": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "a time in UTC with milliseconds": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"),
    "an HTTP address": re.compile(r"https?://\S+"),
    "a JWT": re.compile(r"ey[\w-]+\.[\w-]+\.[\w-]+"),
    "digits": re.compile(r"[0-9]+"),
}


def form(sample: Json, actual: Json, at: Path_ = ()) -> list[str]:
    """Return the differences from the sample's form: types, keys and, for texts, the kind of text."""
    here = shown(at) or "it"
    if kind(sample) != kind(actual):
        return [f"{here}: {kind(actual)} instead of {kind(sample)}"]
    if isinstance(sample, dict):
        found = [f"{shown((*at, key))}: missing" for key in sample.keys() - actual.keys()]
        for key in sample.keys() & actual.keys():
            found += form(sample[key], actual[key], (*at, key))
        return found
    if isinstance(sample, list):
        found = [] if actual or not sample else [f"{here}: empty"]
        return found + [line for n, item in enumerate(actual) for line in form(sample[0], item, (*at, n)) if sample]
    if isinstance(sample, str):
        for name, pattern in _FORMS.items():
            if pattern.fullmatch(sample):
                return [] if pattern.fullmatch(actual) else [f"{here}: {actual!r} is not {name}"]
    return []


# --- corruption ---


def keys(value: Json, at: Path_ = ()) -> Iterator[Path_]:
    """Yield the path of every member of every object in the value."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield (*at, key)
            yield from keys(member, (*at, key))
    elif isinstance(value, list):
        for number, member in enumerate(value):
            yield from keys(member, (*at, number))


def corrupted(value: Json, path: Path_) -> Iterator[tuple[str, Json]]:
    """Yield the value with the member at `path` dropped, then renamed, then with another type."""
    for how in ("drop", "rename", "retype"):
        whole = copy.deepcopy(value)
        holder = whole
        for part in path[:-1]:
            holder = holder[part]
        member = holder.pop(path[-1])
        if how == "rename":
            holder[f"{path[-1]}X"] = member
        elif how == "retype":
            # A query has numbers as text, so a text of digits is corrupted like a number.
            holder[path[-1]] = 7 if kind(member) == "string" and not member.isdigit() else "seven"
        yield f"{how} {shown(path)}", whole


def with_unknown_members(value: Json, closed: tuple[Path_, ...], at: Path_ = ()) -> Json:
    """Return the value with an unknown member in every object, except at `closed` paths (open maps)."""
    if isinstance(value, list):
        return [with_unknown_members(member, closed, (*at, number)) for number, member in enumerate(value)]
    if not isinstance(value, dict):
        return value
    grown = {key: with_unknown_members(member, closed, (*at, key)) for key, member in value.items()}
    return grown if at in closed else {**grown, "addedLater": "something new"}


def frame_name(frame: Json) -> str | None:
    """Return the class of a frame, or else its type."""
    name = frame.get("class", frame.get("type")) if isinstance(frame, dict) else None
    return name if isinstance(name, str) else None


def broken_frames(dialect: str) -> list[Json]:
    """Return the service's frames, each with one vital member corrupted, so that it is unreadable."""
    found: dict[tuple[str | None, Path_], Answer] = {}
    samples: Names = {}
    for example in load(dialect).values():
        samples |= example.samples
        for step in example.steps:
            for heard in step.hears:
                for path in heard.vital:
                    found.setdefault((frame_name(heard.body), path), heard)
    return [
        fill(frame, _AnyValue(samples))
        for (_, path), heard in found.items()
        for _, frame in corrupted(heard.body, path)
    ]


class _AnyValue(dict[str, Json]):
    """Placeholder values; a name without a sample stands for itself."""

    def __missing__(self, name: str) -> Json:
        return name
