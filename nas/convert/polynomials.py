"""Polynomials with whole coefficients, as far as equations between lengths need them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

Names = tuple[str, ...]
"""Variables of a term in order, one that is squared twice."""


class Polynomial:
    """A sum of products of variables; equal ones have equal terms, and zero has none."""

    def __init__(self, terms: Mapping[Names, int]) -> None:
        self._terms = {names: count for names, count in terms.items() if count}

    def __bool__(self) -> bool:
        return bool(self._terms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Polynomial) and self._terms == other._terms

    __hash__ = None  # type: ignore[assignment]  # it holds a dict

    def __repr__(self) -> str:
        return " + ".join("*".join([str(count), *names]) for names, count in self._terms.items()) or "0"

    def __add__(self, other: Polynomial) -> Polynomial:
        terms = dict(self._terms)
        for names, count in other._terms.items():
            terms[names] = terms.get(names, 0) + count
        return Polynomial(terms)

    def __sub__(self, other: Polynomial) -> Polynomial:
        return self + other * constant(-1)

    def __mul__(self, other: Polynomial) -> Polynomial:
        terms: dict[Names, int] = {}
        for names, count in self._terms.items():
            for others, times in other._terms.items():
                product = tuple(sorted(names + others))
                terms[product] = terms.get(product, 0) + count * times
        return Polynomial(terms)

    def terms(self) -> Iterator[tuple[Names, int]]:
        """Variables and coefficient of each term."""
        yield from self._terms.items()

    def names(self) -> set[str]:
        """Its variables."""
        return {name for names in self._terms for name in names}

    def degrees(self) -> set[int]:
        """Of its terms; one degree says that it scales with its variables."""
        return set(map(len, self._terms))

    def replaced(self, name: str, by: Polynomial) -> Polynomial:
        """With another polynomial in the place of a variable."""
        total = constant(0)
        for names, count in self._terms.items():
            term = constant(count)
            for each in names:
                term = term * (by if each == name else symbol(each))
            total = total + term
        return total

    def value(self, values: Mapping[str, int]) -> int:
        """With numbers in the place of all variables."""
        return sum(count * math.prod(values[name] for name in names) for names, count in self._terms.items())


def constant(value: int) -> Polynomial:
    """A number."""
    return Polynomial({(): value})


def symbol(name: str) -> Polynomial:
    """A variable."""
    return Polynomial({(name,): 1})


def quotient(top: Polynomial, bottom: Polynomial) -> Polynomial | None:
    """The polynomial q with `top == q * bottom`, None where there is none.

    >>> quotient(symbol("a") * symbol("b") * constant(6), symbol("b") * constant(3))
    2*a
    """
    found, rest = constant(0), top
    lead, by = max(bottom.terms(), key=_order)
    while rest:
        names, count = max(rest.terms(), key=_order)
        left = _without(names, lead)
        if left is None or count % by:
            return None
        term = Polynomial({left: count // by})
        found, rest = found + term, rest - term * bottom
    return found


def _order(term: tuple[Names, int]) -> tuple[int, Names]:
    return len(term[0]), term[0]


def _without(names: Names, others: Names) -> Names | None:
    left = list(names)
    for name in others:
        if name not in left:
            return None
        left.remove(name)
    return tuple(left)
