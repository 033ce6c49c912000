"""What a program said becomes one line of bounded length."""

from __future__ import annotations

import doctest
import pickle
from typing import Any

import pytest

from nas import errors
from nas.errors import LONGEST, Infeasible, brief


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("one line", "one line"),
        (" two\nlines\t", "two lines"),
        ("", ""),
        (None, "None"),
        (KeyError("x"), "'x'"),
        (Broken(), "a Broken that has no text"),
        ("x" * LONGEST, "x" * LONGEST),
        ("x" * (LONGEST + 1), "x" * (LONGEST - 20) + "… (2,001 characters)"),
        ("a" * 50_000_000, "a" * (LONGEST - 25) + "… (50,000,000 characters)"),
    ],
)
def test_a_text_is_one_line_and_its_length_is_bounded(said: object, line: str) -> None:
    assert brief(said) == brief(line) == line


@pytest.mark.parametrize(
    ("reason", "text"),
    [("z" * 1_000_000, brief("z" * 1_000_000)), (ValueError("it\ndoes not fit"), "ValueError: it does not fit")],
    ids=["long", "exception"],
)
def test_a_reason_of_an_infeasible_arch_is_bounded_text(reason: Any, text: str) -> None:
    error = pickle.loads(pickle.dumps(Infeasible(reason, {"params": 1.0})))
    assert error.reason == text == str(error)
    assert error.measurements == {"params": 1.0}


def test_examples() -> None:
    assert doctest.testmod(errors).failed == 0
