"""Writes docs/api.md, the reference of the public Python names: `python -m tools.api_docs`.

Knows: how a class or a type alias becomes Markdown. Must not know: which names are public, which `guestctl.__all__`
lists. The sources are read with griffe and not imported. `tests/test_api_docs.py` checks that the page is current.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

import guestctl

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "api.md"
_INTRODUCTION = """\
# Python API

`python -m tools.api_docs` writes this page from the docstrings. Every name is imported from the package:

```python
from guestctl import Client, Message
```

Treat values as immutable: two values with equal fields are equal, and `dataclasses.replace` makes a changed copy.
Errors are subclasses of `Failure`. They have an exit code, a stable code and a hint ([contract.md](contract.md)).
"""
_SECTIONS = {
    "The client": ("client",),
    "Results": ("core.results",),
    "Sessions, messages and events": ("core.model",),
    "Errors": ("core.errors",),
    "Other": ("core.timings", "core.values"),
}


def page() -> str:
    """Return the whole page."""
    parts = [_INTRODUCTION]
    documented: set[str] = set()
    for title, modules in _SECTIONS.items():
        parts.append(f"## {title}\n")
        for name in modules:
            module = griffe.load(f"guestctl.{name}", search_paths=[str(ROOT)])
            for member in module.members.values():
                if member.name in guestctl.__all__ and not member.is_alias and member.name not in documented:
                    documented.add(member.name)
                    parts.extend(_class(member) if member.is_class else _alias(member))
    missing = set(guestctl.__all__) - documented - {"__version__"}
    assert not missing, f"not documented: {sorted(missing)}"
    return "\n".join(parts)


def _class(entry: Any) -> Iterator[str]:
    bases = ", ".join(str(base) for base in entry.bases)
    yield f"### {entry.name}\n"
    yield f"```python\nclass {entry.name}{f'({bases})' if bases else ''}\n```\n"
    yield _prose(entry)
    fields = list(_fields(entry))
    if fields and _is_enumeration(entry):
        yield "| Member | Value |\n|---|---|\n" + "".join(f"| `{each.name}` | {each.value} |\n" for each in fields)
    elif any(each.docstring for each in fields):
        yield "| Field | Type | Default | Meaning |\n|---|---|---|---|\n" + "".join(
            f"{_row(each)} {_one_line(each)} |\n" for each in fields
        )
    elif fields:
        yield "| Field | Type | Default |\n|---|---|---|\n" + "".join(f"{_row(each)}\n" for each in fields)
    for method in entry.members.values():
        if method.is_function and (not method.name.startswith("_") or method.name == "__init__"):
            yield from _function(method, entry.name)
        elif method.is_attribute and "property" in method.labels and not method.name.startswith("_"):
            yield f"#### `{entry.name}.{method.name}`: {_code(method.annotation)}\n"
            yield _prose(method)


def _fields(entry: Any) -> Iterator[Any]:
    """Yield the fields of a value, or the members of an enumeration."""
    if _is_enumeration(entry) or any(str(each.value) == "immutable" for each in entry.decorators):
        for each in entry.members.values():
            if each.is_attribute and not each.name.startswith("_") and "property" not in each.labels:
                yield each


def _is_enumeration(entry: Any) -> bool:
    return any("Enum" in str(base) for base in entry.bases)


def _row(each: Any) -> str:
    value = str(each.value or "")
    value = {"field(default_factory=dict)": "{}"}.get(value, re.sub(r"^field\(default=(\w+).*\)$", r"\1", value))
    kind = "" if each.annotation is None else f"`{_cell(each.annotation)}`"
    return f"| `{each.name}` | {kind} | {_cell(value) and f'`{_cell(value)}`'} |"


def _function(method: Any, owner: str) -> Iterator[str]:
    given = [_parameter(each) for each in method.parameters if each.name != "self"]
    kinds = [each.kind.value for each in method.parameters if each.name != "self"]
    if "keyword-only" in kinds and "variadic positional" not in kinds:
        given.insert(kinds.index("keyword-only"), "*")
    signature = f"({', '.join(given)})"
    if len(signature) > 90:
        signature = "(\n    " + ",\n    ".join(given) + ",\n)"
    name = owner if method.name == "__init__" else f"{owner}.{method.name}"
    result = "" if method.name == "__init__" else f" -> {method.returns}"
    if method.name != "__init__":
        yield f"#### `{name}()`\n"
    yield f"```python\n{name}{signature}{result}\n```\n"
    if method.docstring:
        yield _prose(method)


def _parameter(each: Any) -> str:
    stars = {"variadic positional": "*", "variadic keyword": "**"}.get(each.kind.value, "")
    default = "" if each.default is None or stars else f" = {each.default}"
    return f"{stars}{each.name}: {each.annotation}{default}"


def _alias(entry: Any) -> Iterator[str]:
    yield f"### {entry.name}\n"
    yield f"```python\n{entry.name} = {entry.value}\n```\n"
    yield _prose(entry)


def _prose(entry: Any) -> str:
    return f"{entry.docstring.value.strip()}\n" if entry.docstring else ""


def _one_line(entry: Any) -> str:
    return re.sub(r"\s+", " ", entry.docstring.value).replace("|", r"\|") if entry.docstring else ""


def _code(annotation: Any) -> str:
    return f"`{annotation}`"


def _cell(value: Any) -> str:
    return str(value).replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
