"""Values: `@immutable`, a slotted dataclass whose class is cheap to create, and tolerant reading of JSON.

Knows: the standard library's dataclasses. Must not know: any other module of the package.

`@dataclass(frozen=True, slots=True)` generates and compiles six methods for each class. For the sixty
values that a command loads, that is a fifth of its start-up time. Here only `__init__` is compiled,
and all classes share comparison, hash and repr. The type checker, not the run time, ensures that a
value never changes, which also halves the cost of creating one. `replace`, `asdict` and defaults work
as for every dataclass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
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
    """Return a class as a value: equality and hash use its fields, and only objects of the same class are equal."""
    cls.__eq__ = _equal  # type: ignore[method-assign]
    cls.__hash__ = _hash  # type: ignore[method-assign]
    if "__repr__" not in cls.__dict__:
        cls.__repr__ = _repr  # type: ignore[method-assign]
    return dataclass(eq=False, repr=False, slots=True)(cls)


def _fields(one: Any) -> tuple[Any, ...]:
    return tuple([getattr(one, name) for name, field in one.__dataclass_fields__.items() if field.compare])


def _equal(self: object, other: object) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return self is other or _fields(self) == _fields(other)


def _hash(self: object) -> int:
    return hash(_fields(self))


def _repr(self: Any) -> str:
    fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__dataclass_fields__)
    return f"{type(self).__qualname__}({fields})"
