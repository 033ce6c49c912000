"""What a model's own class takes for equal, and the numbers that its modules keep, as consequences of the arch.

The graph of a model knows of which atoms every axis is made; its class computes the same lengths from attributes, from shapes and
from numbers in its source.  Both must agree for every arch: `reshape(batch, tokens, width)` says that heads times their width
are the width, `width // heads` that one divides the other, one attribute in two arguments that two lengths are equal.  Each
such equation is one between *lengths*: it ties decisions (the width is 32 times the heads), and leaves axes as they are.
Attributes are the unknowns of the equations; what they are follows for every arch.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from nas.convert.plan import Number
from nas.convert.polynomials import Polynomial, constant, quotient, symbol
from nas.convert.tracking import Expression, unknowns
from nas.supernet import parts
from nas.supernet.parts import Axis, Sizes

Key = tuple[Any, ...]
"""An attribute, as in an expression: `("attr", module path, place in it)`."""


class Equation(NamedTuple):
    """`left` is as long as `right` in every arch, or its negative.

    Attributes:
        left: expression in which axes are `("axis", axis)`.
        right: likewise, or an axis as a sum of products of atoms.
        where: operation and module path, for the report.
    """

    left: Expression
    right: Expression
    where: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Tie:
    """Atoms whose lengths are multiples of one number that is decided.

    Attributes:
        unit: that number in the original.
        times: name of each atom -> how many times as long it is.
    """

    unit: int
    times: Mapping[str, int]


@dataclass
class Solution:
    """What follows from equations.

    Attributes:
        ties: of two atoms or more, or of one that is cut in multiples.
        whole: atoms that must stay as they are, and the operation and module whose equation says so.  Where there are some,
            they are not all, and the rest is of no use: other atoms are decided about then.
        numbers: of modules, which follow from the arch.
        unequal: lengths, as expressions over axes, that must not become the same: the model would do something else.
    """

    ties: list[Tie] = field(default_factory=list)
    whole: dict[str, tuple[str, str]] = field(default_factory=dict)
    numbers: tuple[Number, ...] = ()
    unequal: tuple[tuple[Expression, Expression], ...] = ()


def solve(
    equations: Sequence[Equation], sizes: Sizes, elastic: Collection[str], attributes: Mapping[Key, int]
) -> Solution:
    """What must be tied or stay whole so that all equations hold in every arch, and what attributes are then.

    Args:
        equations: between expressions over attributes and axes.
        sizes: length of every atom in the original.
        elastic: names of the atoms that a search decides about; all others stay whole.
        attributes: their values in the original.
    """
    return _System(equations, sizes, elastic, attributes).solution()


class _Inexact(Exception):
    """A division leaves a rest in the original, or cannot be said for all archs."""


class _Changed(Exception):
    """Variables were tied: values that were computed before are of the past."""


class _Frozen(Exception):
    """Atoms must stay whole: others may be decided about then, so that equations are looked at anew."""


class _Value(NamedTuple):
    """A length, and an axis that is as long where one is known."""

    length: Polynomial
    axis: Axis | None = None


class _System:
    def __init__(
        self,
        equations: Sequence[Equation],
        sizes: Sizes,
        elastic: Collection[str],
        attributes: Mapping[Key, int],
    ) -> None:
        self.equations = list({(one.left, one.right): one for one in reversed(equations)}.values())[::-1]
        self.sizes = sizes
        self.attributes = attributes
        self.whole: dict[str, tuple[str, str]] = {}
        self.times: dict[str, tuple[str, int]] = {name: (name, 1) for name in elastic}
        self.units: dict[str, int] = {name: sizes[name] for name in elastic}
        self.known: dict[Key, _Value] = {}
        self.past: dict[str, Polynomial] = {}

    def solution(self) -> Solution:
        literals = [one for one in self.equations if not any(unknowns(one.left)) or not any(unknowns(one.right))]
        with contextlib.suppress(_Frozen):
            for equation in literals:
                self._settled(self._require_literal, equation)
            if not self.whole:
                while self._pass():
                    pass
        members: dict[str, dict[str, int]] = {}
        for atom, (root, times) in self.times.items():
            members.setdefault(root, {})[atom] = times
        ties = [
            Tie(self.units[root], times)
            for root, times in members.items()
            if len(times) > 1 or next(iter(times.values())) > 1
        ]
        return Solution(ties, self.whole, tuple(self._numbers()))

    # -- one pass over all equations

    def _pass(self) -> bool:
        """Whether an equation that did not hold was made to: then what others say may be another thing."""
        self.known = {}
        changed, pending = False, []
        for equation in self.equations:
            if _defines(equation):
                changed |= self._settled(self._learn, equation)
            else:
                pending.append(equation)
        while pending:
            later = []
            for equation in pending:
                missing = set(self._missing(equation))
                if len(missing) > 1:
                    later.append(equation)
                    continue
                for key in missing:
                    self._invert(equation, key)
                changed |= self._settled(self._require, equation)
            if len(later) == len(pending):
                self._guess(later[0])
            pending = later
        return changed

    def _require_literal(self, equation: Equation) -> None:
        if not any(one[0] == "attr" for one in (*unknowns(equation.left), *unknowns(equation.right))):
            with contextlib.suppress(_Frozen):
                self._require(equation)

    def _settled(self, step: Callable[[Equation], None], equation: Equation) -> bool:
        """Do a step again until it changes nothing any more; whether it did."""
        changed = False
        while True:
            try:
                step(equation)
            except _Changed:
                changed = True
            else:
                return changed

    def _missing(self, equation: Equation) -> Iterator[Key]:
        for one in itertools.chain(unknowns(equation.left), unknowns(equation.right)):
            if one[0] == "attr" and one not in self.known:
                yield one

    def _learn(self, equation: Equation) -> None:
        """An attribute is what an equation says; one that was known already must be the same."""
        key: Any = equation.left
        if key in self.known:
            self._require(equation)
            return
        try:
            value = self._value(equation.right)
        except _Inexact:
            value = None
        if value is None or self._number(equation.right) != self.attributes.get(key):
            self._freeze(equation)
        else:
            self.known[key] = value

    def _require(self, equation: Equation) -> None:
        """Make an equation hold."""
        try:
            left, right = self._value(equation.left).length, self._value(equation.right).length
        except _Inexact:
            self._freeze(equation)
            return
        difference = left - right
        if not difference:
            return
        if difference.value(self.units):
            self._freeze(equation)  # it does not hold in the original: something was not seen
        else:
            self._vanish(difference, equation.where)

    def _vanish(self, difference: Polynomial, where: tuple[str, str]) -> None:
        """Tie the variables of a polynomial, or freeze some, so that it is zero for every arch."""
        names = sorted(difference.names(), key=lambda name: (self.units[name], name))
        if len(difference.degrees()) == 1:
            self._tie(names)
        for name in names:
            rest = difference.replaced(name, constant(self.units[name]))
            if not rest or (len(rest.degrees()) == 1 and 0 not in rest.degrees()):
                self._freeze_units([name], where)
        self._freeze_units(names, where)

    # -- attributes

    def _invert(self, equation: Equation, key: Key) -> None:
        """Solve an equation for the attribute that it has once; one that cannot be found stays what it is."""
        left, right = equation.left, equation.right
        if key in unknowns(right):
            left, right = right, left
        self.known[key] = _Value(constant(self.attributes.get(key, 0)))
        if [*unknowns(left), *unknowns(right)].count(key) > 1:
            return
        try:
            found = self._inverted(left, self._value(right), key)
        except (_Inexact, _Changed):  # what changed is seen when the equation is asked for
            return
        if found.length.value(self.units) == self.attributes.get(key):
            self.known[key] = found

    def _inverted(self, expression: Any, value: _Value, key: Key) -> _Value:
        if expression == key:
            return value
        sign, left, right = expression
        first = key in unknowns(left)
        inner, other = (left, right) if first else (right, left)
        if sign == "%" or (sign == "//" and not self._divides(left, right)):
            raise _Inexact
        ours, theirs = value.length, self._value(other).length
        if sign == "+":
            found = ours - theirs
        elif sign == "-":
            found = ours + theirs if first else theirs - ours
        elif sign == "*":
            found = _divided(ours, theirs)
        else:
            found = ours * theirs if first else _divided(theirs, ours)
        return self._inverted(inner, _Value(found), key)

    def _guess(self, equation: Equation) -> None:
        """Of several attributes in one equation: a product follows the factors of its axis, others stay what they are."""
        missing = list(self._missing(equation))
        sides = (equation.left, equation.right), (equation.right, equation.left)
        for product, axis in sides:
            if isinstance(product, tuple) and product[0] == "*" and isinstance(axis, tuple) and axis[0] == "axis":
                left, right = product[1:]
                if left in missing and right in missing and left != right:
                    found = _split(axis[1], self.attributes[left], self.attributes[right], self.sizes)
                    if found is not None:
                        self.known[left] = self._value(("axis", found[0]))
                        self.known[right] = self._value(("axis", found[1]))
                        return
        self.known[missing[0]] = _Value(constant(self.attributes.get(missing[0], 0)))

    def _numbers(self) -> Iterator[Number]:
        for key, value in self.known.items():
            length = self._present(value.length)
            axis = value.axis if value.axis is not None else self._axis(length)
            if length.names() and axis is not None:
                yield Number(key[1], key[2], axis)

    def _axis(self, polynomial: Polynomial) -> Axis | None:
        """An axis as long as a polynomial over units says."""
        terms: list[Axis] = []
        for names, count in polynomial.terms():
            factors, rest = list[parts.Factor](), count
            for name in names:
                options = [(times, atom) for atom, (root, times) in self.times.items() if root == name]
                usable = [(times, atom) for times, atom in options if rest % times == 0]
                if not usable:
                    return None
                times, atom = max(usable)
                rest //= times
                factors.append(atom)
            if rest <= 0:
                return None
            terms.append((rest, *factors) if rest != 1 else tuple(factors))
        return terms[0] if len(terms) == 1 else (parts.Sum(tuple(terms)),)

    # -- values

    def _value(self, expression: Expression) -> _Value:
        if not isinstance(expression, tuple):
            return _Value(constant(int(expression)))
        if expression[0] == "axis":
            return _Value(self._length(expression[1]), expression[1])
        if expression[0] == "attr":
            known = self.known[expression]
            return _Value(self._present(known.length), known.axis)
        sign, left, right = expression
        ours, theirs = self._value(left).length, self._value(right).length
        if sign in ("//", "%"):
            return _Value(self._divided(expression, ours, theirs))
        return _Value(ours + theirs if sign == "+" else ours - theirs if sign == "-" else ours * theirs)

    def _divided(self, expression: Any, ours: Polynomial, theirs: Polynomial) -> Polynomial:
        """The quotient, or zero for a rest: what leaves nothing in the original leaves nothing in any arch."""
        sign, left, right = expression
        if not ours.names() | theirs.names():
            return constant(self._number(expression))
        if not self._divides(left, right):
            raise _Inexact
        found = quotient(ours, theirs)
        if found is not None:
            return found if sign == "//" else constant(0)
        if len(ours.degrees()) > 1 or len(theirs.degrees()) > 1 or min(ours.degrees()) < max(theirs.degrees()):
            raise _Inexact
        names = sorted(ours.names() | theirs.names())
        if len(names) > 1:
            self._tie(names)
        (_, count), (_, by) = next(ours.terms()), next(theirs.terms())
        return self._coarsen(names[0], by // math.gcd(count, by))

    def _divides(self, left: Expression, right: Expression) -> bool:
        by = self._number(right)
        return by != 0 and self._number(left) % by == 0

    def _number(self, expression: Expression) -> int:
        """The value in the original."""
        if not isinstance(expression, tuple):
            return int(expression)
        if expression[0] == "axis":
            return parts.length(expression[1], self.sizes)
        if expression[0] == "attr":
            return int(self.attributes.get(expression, 0))
        sign, left, right = expression[0], self._number(expression[1]), self._number(expression[2])
        if sign in ("//", "%"):
            return (left // right if sign == "//" else left % right) if right else 0
        return left + right if sign == "+" else left - right if sign == "-" else left * right

    def _length(self, axis: Axis) -> Polynomial:
        product = constant(1)
        for factor in axis:
            if isinstance(factor, parts.Sum):
                total = constant(0)
                for term in factor.terms:
                    total = total + self._length(term)
                product = product * total
            elif isinstance(factor, str) and factor in self.times:
                root, times = self.times[factor]
                product = product * symbol(root) * constant(times)
            else:
                product = product * constant(self.sizes[factor] if isinstance(factor, str) else factor)
        return product

    def _present(self, polynomial: Polynomial) -> Polynomial:
        """With what has become of its variables since."""
        for name in sorted(polynomial.names()):
            if name in self.past:
                polynomial = self._present(polynomial.replaced(name, self.past[name]))
        return polynomial

    # -- what is done about equations

    def _tie(self, roots: Sequence[str]) -> NoReturn:
        """From now on these units are multiples of one."""
        unit = math.gcd(*(self.units[root] for root in roots))
        root = f"{roots[0]}'"  # no name of an earlier unit
        factors = {old: self.units.pop(old) // unit for old in roots}
        for atom, (old, times) in self.times.items():
            if old in factors:
                self.times[atom] = (root, times * factors[old])
        for old, factor in factors.items():
            self.past[old] = symbol(root) * constant(factor)
        self.units[root] = unit
        raise _Changed

    def _coarsen(self, old: str, factor: int) -> NoReturn:
        """From now on a unit is a multiple of another."""
        if self.units[old] % factor:
            raise _Inexact
        root = f"{old}'"
        self.units[root] = self.units.pop(old) // factor
        for atom, (own, times) in self.times.items():
            if own == old:
                self.times[atom] = (root, times * factor)
        self.past[old] = symbol(root) * constant(factor)
        raise _Changed

    def _freeze(self, equation: Equation) -> None:
        """Keep everything whole that an equation speaks of, which cannot be said otherwise."""
        roots: set[str] = set()
        for one in itertools.chain(unknowns(equation.left), unknowns(equation.right)):
            if one[0] == "axis":
                roots |= self._length(one[1]).names()
            elif one in self.known:
                roots |= self._present(self.known[one].length).names()
        if roots:
            self._freeze_units(sorted(roots), equation.where)

    def _freeze_units(self, roots: Sequence[str], where: tuple[str, str]) -> NoReturn:
        for root in roots:
            self.past[root] = constant(self.units.pop(root))
            for atom in [atom for atom, (own, _) in self.times.items() if own == root]:
                del self.times[atom]
                self.whole[atom] = where
        raise _Frozen


def _defines(equation: Equation) -> bool:
    """Whether it says what one attribute is, without others."""
    own = isinstance(equation.left, tuple) and equation.left[0] == "attr"
    return own and not any(one[0] == "attr" for one in unknowns(equation.right))


def _divided(top: Polynomial, bottom: Polynomial) -> Polynomial:
    found = quotient(top, bottom) if bottom else None
    if found is None:
        raise _Inexact
    return found


def _split(axis: Axis, first: int, second: int, sizes: Sizes) -> tuple[Axis, Axis] | None:
    """The factors of an axis in two groups of these lengths, in this order or the other."""
    for place in range(len(axis) + 1):
        major, minor = axis[:place], axis[place:]
        lengths = parts.length(major, sizes), parts.length(minor, sizes)
        if lengths == (first, second):
            return major, minor
        if lengths == (second, first):
            return minor, major
    return None
