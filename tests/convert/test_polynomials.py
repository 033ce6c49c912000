"""Polynomials with whole coefficients."""

from __future__ import annotations

import itertools

import pytest

from nas.convert.polynomials import Polynomial, constant, quotient, symbol

A, B = symbol("a"), symbol("b")


@pytest.mark.parametrize(
    "compute", [lambda x, y: x + y, lambda x, y: x - y, lambda x, y: x * y, lambda x, y: (x + y) * (x - y)]
)
def test_arithmetic_agrees_with_that_of_numbers(compute: object) -> None:
    polynomial = compute(A, B * constant(3))  # type: ignore[operator]
    for a, b in itertools.product((1, 2, 5), (1, 4)):
        assert polynomial.value({"a": a, "b": b}) == compute(a, 3 * b)  # type: ignore[operator]


def test_zero_has_no_terms() -> None:
    assert not A - A
    assert not constant(0)
    assert A * B == B * A


@pytest.mark.parametrize("factor", [A, B, A + B, A * B + A, constant(3), A * A + constant(2) * B])
@pytest.mark.parametrize("other", [A, constant(5), A + B * constant(2), A * B])
def test_a_quotient_gives_back_the_factor(factor: Polynomial, other: Polynomial) -> None:
    assert quotient(factor * other, factor) == other
    assert quotient(factor * other + constant(1), factor * A) is None


def test_a_rest_is_no_quotient() -> None:
    assert quotient(A * constant(3), constant(2)) is None
    assert quotient(A, B) is None


def test_replaced_and_degrees() -> None:
    polynomial = A * B - constant(4) * A
    assert polynomial.degrees() == {1, 2}
    assert polynomial.names() == {"a", "b"}
    assert not polynomial.replaced("b", constant(4))
