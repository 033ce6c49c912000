"""Arguments checked against annotations."""

from __future__ import annotations

import fractions
import math
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch

from nas.checking import Count, Natural, Positive, Probability, Range, checked, plain_scalar, shown
from nas.errors import NasError

if TYPE_CHECKING:
    import decimal
    from fractions import Fraction

    import nowhere  # type: ignore[import-not-found]


class Thing:
    """A class whose objects are expected."""


@checked(NasError)
def called(
    whole: int = 0,
    number: float = 0.0,
    *,
    count: Count = 1,
    natural: Natural | None = None,
    share: Probability = 0.5,
    wide: Annotated[float, Range(above=0, infinite=True)] = 1.0,
    flag: bool = False,
    text: str = "",
    path: str | Path | None = None,
    choice: Literal["left", "right"] = "left",
    function: Callable[[int], int] = abs,
    items: Sequence[int] = (),
    pairs: tuple[int, float] = (1, 1.0),
    many: Iterable[str] = (),
    table: Mapping[str, float] | None = None,
    thing: Thing | None = None,
    either: int | str | Sequence[float] = 1,
    fraction: Fraction | None = None,
    other: decimal.Decimal | None = None,
    unknown: nowhere.Thing | None = None,
    anything: Any = None,
) -> dict[str, Any]:
    return dict(locals())


def given(**arguments: Any) -> Any:
    (name,) = arguments
    return called(**arguments)[name]


@pytest.mark.parametrize(
    "value",
    [3, np.int8(3), np.uint64(3), np.array(3), torch.tensor(3), pd.Series([3]).iloc[0], pd.Index([3])[0]],
)
def test_whole_numbers_of_any_kind_arrive_as_int(value: Any) -> None:
    for name in ("whole", "count", "natural", "either"):
        taken = given(**{name: value})
        assert (taken, type(taken)) == (3, int)
    assert type(given(items=[value, 2])[0]) is int
    assert given(items=[value, 2]) == [3, 2]


@pytest.mark.parametrize(
    "value", [0.5, np.float16(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5), fractions.Fraction(1, 2)]
)
def test_numbers_of_any_kind_arrive_as_float(value: Any) -> None:
    for name in ("number", "share", "wide"):
        taken = given(**{name: value})
        assert (taken, type(taken)) == (0.5, float)
    assert type(given(table={"a": value})["a"]) is float


def test_what_fits_arrives_as_it_is() -> None:
    thing, items, table = Thing(), [1, 2], {"a": 1.0}
    assert given(thing=thing) is thing
    assert given(items=items) is items
    assert given(table=table) is table
    assert (given(number=1), type(given(number=1))) == (1, int)  # what is stored of it stays what it was
    assert given(path=Path("x")) == Path("x")
    assert given(path=None) is None
    assert math.isinf(given(wide=math.inf))
    assert given(flag=np.True_) is True
    assert given(text=np.str_("a")) == "a"
    iterator = iter(["a"])
    assert given(many=iterator) is iterator
    assert next(iterator) == "a"
    assert given(items=np.arange(2)) == [0, 1]
    assert given(items=torch.arange(2)) == [0, 1]
    assert given(items=range(2)) == range(2)
    assert given(pairs=[2, np.float32(0.5)]) == (2, 0.5)
    assert given(either=[1.0]) == [1.0]
    assert given(fraction=fractions.Fraction(1)) == 1
    assert given(unknown=3) == 3


REFUSED: list[tuple[str, Any, str]] = [
    ("whole", True, "whole=True; it is a whole number"),
    ("whole", np.True_, "whole=True; it is a whole number"),
    ("whole", torch.tensor(True), "whole=True; it is a whole number"),
    ("whole", 3.0, "whole=3.0; it is a whole number"),
    ("whole", np.float64(3), "whole=3.0; it is a whole number"),
    ("whole", "3", "whole='3'; it is a whole number"),
    ("whole", None, "whole=None; it is a whole number"),
    ("whole", [3], "whole=[3]; it is a whole number"),
    ("whole", np.array([3]), "whole=a ndarray; it is a whole number"),
    ("whole", 2**63, "at most 2**63 - 1"),
    ("whole", -(2**70), "at most 2**63 - 1"),
    ("whole", 10**5000, "whole=2**16609 or more; it is a whole number, and at most 2**63 - 1"),
    ("count", 0, "count=0; it is a whole number, 1 or more"),
    ("count", np.int64(-1), "count=-1; it is a whole number, 1 or more"),
    ("natural", -1, "natural=-1; it is a whole number, 0 or more or None"),
    ("number", float("nan"), "number=nan; it is a finite number"),
    ("number", float("-inf"), "number=-inf; it is a finite number"),
    ("number", np.float32("nan"), "number=nan; it is a finite number"),
    ("number", 10**400, "0000…; it is a finite number"),
    ("number", False, "number=False; it is a finite number"),
    ("number", 1j, "number=a complex; it is a finite number"),
    ("share", 1.5, "share=1.5; it is a finite number, 0 or more and at most 1"),
    ("wide", 0.0, "wide=0.0; it is a number, above 0"),
    ("wide", float("nan"), "wide=nan; it is a number, above 0"),
    ("flag", 1, "flag=1; it is True or False"),
    ("flag", "yes", "flag='yes'; it is True or False"),
    ("text", b"a", "text=b'a'; it is a string"),
    ("text", "\udcff", r"text='\udcff'; it is a string in Unicode; this one holds bytes that are no UTF-8"),
    ("path", "", "path=''; it is a path or None, neither empty nor with a NUL in it"),
    ("path", "a\0b", r"path='a\x00b'; it is a path"),
    ("path", 3, "path=3; it is a path or None"),
    ("path", b"a", "path=b'a'; it is a path or None"),
    ("choice", "rigth", "choice='rigth'; it is one of 'left', 'right'; did you mean 'right'?"),
    ("function", 3, "function=3; it is a function"),
    ("items", "12", "items='12'; it is a list, each item a whole number"),
    ("items", {1: 2}, "items={1: 2}; it is a list"),
    ("items", {1, 2}, "items={1, 2}; it is a list"),
    ("items", [1, 2.5], "items[1]=2.5; it is a whole number"),
    ("items", np.array([0.5]), "items[0]=0.5; it is a whole number"),
    ("items", 3, "items=3; it is a list"),
    ("pairs", (1,), "pairs=(1,); it is 2 values"),
    ("pairs", (1.5, 1), "pairs[0]=1.5; it is a whole number"),
    ("many", "abc", "many='abc'; it is a collection, each item a string"),
    ("many", ["a", 1], "many[1]=1; it is a string"),
    ("table", {"a": "b"}, "table['a']='b'; it is a finite number"),
    ("table", {1: 2.0}, "a key of table=1; it is a string"),
    ("table", [("a", 1.0)], "it is a mapping or None"),
    ("thing", Thing, "thing=the class Thing; it is a tests.Thing or None; make one, as Thing(...) does"),
    ("thing", 3, "thing=3; it is a tests.Thing or None"),
    ("either", 0.5, "either=0.5; it is a whole number, a string or a list, each item a finite number"),
    ("either", [None], "either[0]=None; it is a finite number"),
    ("fraction", 0.5, "fraction=0.5; it is a fractions.Fraction or None"),
    ("other", 0.5, "other=0.5; it is a decimal.Decimal or None"),
]


@pytest.mark.parametrize(("name", "value", "sentence"), REFUSED, ids=range(len(REFUSED)))
def test_what_does_not_fit_is_refused_with_its_name(name: str, value: Any, sentence: str) -> None:
    with pytest.raises(NasError) as refused:
        called(**{name: value})
    text = str(refused.value)
    assert text.startswith("called was given ")
    assert sentence in text
    assert len(text) < 300


def test_a_misspelled_keyword_is_answered_with_the_closest() -> None:
    with pytest.raises(NasError, match=r"called has no argument 'cuont'; did you mean 'count'\?"):
        called(cuont=3)
    with pytest.raises(NasError, match="Point has no argument 'z'; it takes x, y"):
        Point(1, z=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        Point()  # type: ignore[call-arg]


@checked(NasError)
@dataclass(frozen=True)
class Point:
    """A dataclass that is checked."""

    x: Count
    y: float = 0.0


class Farther(Point):
    """A class that inherits the check."""


@checked(NasError)
@dataclass(frozen=True)
class Deeper(Point):
    """A dataclass that adds to a checked one."""

    z: int = 0


def test_classes_are_checked_and_stay_themselves() -> None:
    assert pickle.loads(pickle.dumps(Point(np.int64(2)))) == Point(2)
    assert Point(np.int64(2)).x.__class__ is int
    with pytest.raises(NasError, match="^Farther was given x=0"):
        Farther(0)
    with pytest.raises(NasError, match="^Deeper was given z=0.5"):
        Deeper(1, z=0.5)  # type: ignore[arg-type]


def test_methods_are_checked_and_may_say_who_they_are() -> None:
    class Named:
        name = "someone"

        @checked(NasError, called="name")
        def __init__(self, size: Positive) -> None:
            self.size = size

        @checked(NasError)
        def grow(self, by: Count = 1) -> None:
            self.size += by

    with pytest.raises(NasError, match="^someone was given size=0"):
        Named(0)
    with pytest.raises(NasError, match="^Named.grow was given by=0"):
        Named(1).grow(0)


def test_values_are_shown_in_a_few_words() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError

    assert shown([Shy()]) == "a list"
    assert shown(Shy()) == "a Shy"
    assert shown("x" * 1000) == "'" + "x" * 78 + "…"
    assert shown("\x1b[31m\n") == r"'\x1b[31m\n'"
    assert shown(-(10**5000)) == "-2**16609 or more"
    assert shown(np.float32(0.1)) == "0.10000000149011612"


def test_what_holds_no_number_is_left_alone() -> None:
    for value in (
        np.array([1]),
        np.datetime64("2020-01-01"),
        torch.empty((), device="meta"),
        np.complex64(1),
        object(),
    ):
        assert plain_scalar(value) is value
