"""`immutable`: a cheap value class that behaves as a dataclass."""

from __future__ import annotations

from dataclasses import MISSING, asdict, field, fields, is_dataclass, replace
from typing import Any

import pytest

from guestctl.core.values import immutable


@immutable
class Inner:
    text: str


@immutable
class Value:
    """A value with every kind of field."""

    name: str
    count: int = 3
    inner: Inner = Inner("default")
    items: list[str] = field(default_factory=list)
    life: float | None = field(default=None, compare=False)

    @property
    def double(self) -> int:
        return self.count * 2


@immutable
class Empty:
    pass


@immutable
class Named:
    name: str

    def __repr__(self) -> str:
        return f"<{self.name}>"


def test_fields_have_their_values_and_defaults() -> None:
    value = Value("a", inner=Inner("b"))
    assert (value.name, value.count, value.inner.text, value.items, value.life) == ("a", 3, "b", [], None)
    assert Value("a", 4, Inner("c"), ["d"], 1.0).double == 8
    assert Value("a").items is not Value("a").items
    make: Any = Value
    for call in (make, lambda: make("a", other=1), lambda: make("a", 1, Inner(""), [], None, 2)):
        with pytest.raises(TypeError):
            call()


def test_values_are_equal_by_their_compared_fields() -> None:
    assert Value("a", life=1.0) == Value("a", life=2.0) != Value("b", life=1.0)
    other: object = Named("a")
    assert Inner("a") != other
    assert Empty() == Empty()
    assert hash(Inner("a")) == hash(Inner("a")) != hash(Inner("b"))
    assert len({Inner("a"), Inner("a"), Inner("b")}) == 2


def test_the_functions_of_dataclasses_work() -> None:
    assert all(is_dataclass(one) for one in (Inner, Value, Empty))
    assert [one.name for one in fields(Value)] == ["name", "count", "inner", "items", "life"]
    assert [one.default for one in fields(Value)][:2] == [MISSING, 3]
    value = Value("a", items=["x"])
    assert replace(value, count=5) == Value("a", 5, items=["x"])
    assert asdict(value) == {"name": "a", "count": 3, "inner": {"text": "default"}, "items": ["x"], "life": None}
    assert Value.__doc__ == "A value with every kind of field."


def test_a_value_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError):
        Inner("a").other = 1  # type: ignore[attr-defined]


def test_a_value_is_shown_with_its_fields() -> None:
    assert repr(Value("a", life=1.0)) == "Value(name='a', count=3, inner=Inner(text='default'), items=[], life=1.0)"
    assert repr(Named("a")) == "<a>"


def test_a_pattern_matches_its_fields() -> None:
    match Value("a", 7):
        case Value(name, count):
            assert (name, count) == ("a", 7)
        case _:
            pytest.fail("no match")
