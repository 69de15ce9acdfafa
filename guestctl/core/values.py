"""Values: `@immutable`, a slotted dataclass whose class is cheap to create, and tolerant reading of JSON.

Knows: the standard library's dataclasses. Must not know: any other module of the package.

`@dataclass(frozen=True, slots=True)` generates and compiles six methods for each class. For the eighty
values that a command loads, that is a fifth of its start-up time. Here only `__init__` is compiled,
and all classes share comparison, hash and repr. The type checker, not the run time, ensures that a
value never changes, which also halves the cost of creating one. `fields`, `replace` and `asdict` work
as for every dataclass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

T = TypeVar("T")

Json: TypeAlias = Any
"""A decoded JSON value. Its type is checked where it is read."""


def objects(value: Json) -> Iterator[dict[str, Json]]:
    """Yield the JSON objects in a list. Any other value has none."""
    if isinstance(value, (list, tuple)):
        yield from (item for item in value if isinstance(item, dict))


def text_of(source: Mapping[str, Json], key: str) -> str:
    """Return a member that is text; any other value counts as empty."""
    value = source.get(key)
    return value if isinstance(value, str) else ""


if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:  # in `typing` since Python 3.11

    def dataclass_transform(**_: Any) -> Callable[[T], T]:
        return lambda decorator: decorator


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def immutable(cls: type[T]) -> type[T]:
    """Return a class as a value: equality and hash use its fields, and only objects of the same class are equal.

    Each field is annotated in the class itself. `field` may give it a `default`, a `default_factory`, or
    `compare=False`.
    """
    names = tuple(inspect.get_annotations(cls))
    defaults = {name: cls.__dict__[name] for name in names if name in cls.__dict__}
    left_out = {"__dict__", "__weakref__", *defaults}
    members = {name: value for name, value in cls.__dict__.items() if name not in left_out}
    uncompared = {name for name, given in defaults.items() if isinstance(given, Field) and given.compare is False}
    members.update(
        __slots__=names,
        __match_args__=names,
        __init__=_init(names, defaults),
        __eq__=_equal,
        __hash__=_hash,
        __dataclass_fields__=_Fields(cls),
        _compared=tuple(name for name in names if name not in uncompared),
    )
    members.setdefault("__repr__", _repr)
    make: Callable[..., type[T]] = type(cls)
    made = make(cls.__name__, cls.__bases__, members)
    made.__qualname__ = cls.__qualname__
    return made


def _init(names: Iterable[str], defaults: Mapping[str, Any]) -> Callable[..., None]:
    """Return the method that sets the fields. Fields with a default follow those without."""
    scope: dict[str, Any] = {"_missing": MISSING}
    parameters, lines = [], []
    for name in names:
        default: Any = defaults.get(name, MISSING)
        factory: Any = MISSING
        if isinstance(default, Field):
            default, factory = default.default, default.default_factory
        value, parameter = name, name
        if factory is not MISSING:
            scope[f"_make_{name}"] = factory
            value, parameter = f"_make_{name}() if {name} is _missing else {name}", f"{name}=_missing"
        elif default is not MISSING:
            scope[f"_default_{name}"] = default
            parameter = f"{name}=_default_{name}"
        parameters.append(parameter)
        lines.append(f"    self.{name} = {value}")
    exec(f"def __init__(self, {', '.join(parameters)}):\n" + "\n".join(lines or ["    pass"]), scope)
    method: Callable[..., None] = scope["__init__"]
    return method


class _Fields:
    """What `dataclasses` knows of a class. It is made when it is first asked for, because few commands need it."""

    def __init__(self, cls: type) -> None:
        self._class = cls

    def __get__(self, one: object, owner: type) -> Any:
        fields = dataclass(init=False, repr=False, eq=False, match_args=False)(self._class).__dataclass_fields__  # type: ignore[attr-defined]
        owner.__dataclass_fields__ = fields  # type: ignore[attr-defined]
        return fields


def _fields(one: Any) -> tuple[Any, ...]:
    return tuple([getattr(one, name) for name in one._compared])


def _equal(self: object, other: object) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return self is other or _fields(self) == _fields(other)


def _hash(self: object) -> int:
    return hash(_fields(self))


def _repr(self: Any) -> str:
    fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
    return f"{type(self).__qualname__}({fields})"
