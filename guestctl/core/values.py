"""`@immutable`: a frozen, slotted dataclass whose class is cheap to make.

Knows: the standard library's dataclasses. Must not know: anything of ours.

`@dataclass(frozen=True, slots=True)` writes and compiles six methods for each class, which for the
sixty values a command loads is a fifth of its start-up. Here only `__init__` is compiled and
comparing, hashing and printing are shared. That a value never changes is held by the type checker
instead of at run time, which also halves the cost of making one. `replace`, `asdict` and defaults
are those of every dataclass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

T = TypeVar("T")

Json: TypeAlias = Any
"""A decoded JSON value; what it holds is checked where it is read."""

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:  # in `typing` from Python 3.11 on

    def dataclass_transform(**_: Any) -> Callable[[T], T]:
        return lambda decorator: decorator


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def immutable(cls: type[T]) -> type[T]:
    """Make a class a value: compared and hashed by its fields, within its own class."""
    cls.__eq__ = _equal  # type: ignore[method-assign]
    cls.__hash__ = _hash  # type: ignore[method-assign]
    if "__repr__" not in cls.__dict__:
        cls.__repr__ = _shown  # type: ignore[method-assign]
    return dataclass(eq=False, repr=False, slots=True)(cls)


def _fields(one: Any) -> tuple[Any, ...]:
    return tuple([getattr(one, name) for name, told in one.__dataclass_fields__.items() if told.compare])


def _equal(self: object, other: object) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return self is other or _fields(self) == _fields(other)


def _hash(self: object) -> int:
    return hash(_fields(self))


def _shown(self: Any) -> str:
    given = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__dataclass_fields__)
    return f"{type(self).__qualname__}({given})"
