"""Wrong plans, made from right ones: what a proof must refuse, or its silence means nothing.

Two ways in which tools that narrow networks go wrong without a word: an axis of a parameter is left out of what belongs
together, and heads are taken for plain channels.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn

from nas.convert.healthy import healthy_copy
from nas.convert.permuting import Permuted, permute
from nas.convert.plan import AtomPlan, Plan
from nas.convert.proofs import renumbered_on
from nas.convert.smaller import smaller
from nas.supernet import parts
from nas.supernet.inputs import Inputs
from nas.supernet.parts import Axis, Factor, Sum

FRESH = "control"
"""Name of the atom that is in the wrong place."""


@dataclass(frozen=True)
class Control:
    """A wrong plan.

    Attributes:
        kind: "left out" or "flattened".
        what: which axis was left out, or which product is taken for one atom.
        plan: all the rest as it was.
        atoms: which a proof must not claim, any of them.
    """

    kind: str
    what: str
    plan: Plan
    atoms: frozenset[str]

    def refused(self, found: Permuted) -> bool:
        """Whether the wrong atom was frozen, or nothing claimed of it."""
        return not self.atoms.isdisjoint({*found.frozen, *found.unshown})


def controls(plan: Plan) -> Iterator[Control]:
    """Every axis of every tensor left out of the coupling, and every product of atoms flattened: in the order of tensors."""
    count = dict.fromkeys(plan.atoms, 0)
    for axes in plan.tensors.values():
        for axis in axes:
            for atom in set(parts.atoms(axis)):
                count[atom] += 1
    for name, axes in plan.tensors.items():
        for dim, axis in enumerate(axes):
            for atom in dict.fromkeys(parts.atoms(axis)):
                if count[atom] > 1 and plan.atoms[atom].size > 1:
                    yield _left_out(plan, name, dim, atom)
    for pair in dict.fromkeys(pair for axes in plan.tensors.values() for axis in axes for pair in _pairs(axis)):
        if _apart(plan, *pair):
            yield _flattened(plan, *pair)


def _apart(plan: Plan, first: Factor, second: Factor) -> bool:
    """Are two neighbours in a product surely no single atom: two atoms of several units, or heads of a fixed width?"""
    sizes = [plan.atoms[one].size if isinstance(one, str) else 0 for one in (first, second)]
    kinds = {one.name: one.kind for one in plan.decisions}
    if isinstance(second, int) and isinstance(first, str):
        return sizes[0] > 1 and second > 1 and kinds.get(plan.atoms[first].decision or "") in ("heads", "groups")
    return min(sizes) > 1


def sample(plan: Plan, count: int, seed: int = 0) -> list[Control]:
    """At most `count` of the controls of `plan`, of both kinds if there are both."""
    every = list(controls(plan))
    random.Random(seed).shuffle(every)
    every.sort(key=lambda one: one.kind)  # stable: flattened ones are few and come first
    few = [one for one in every if one.kind == "flattened"][: max(1, count // 3)]
    return [*few, *(one for one in every if one.kind != "flattened")][:count]


def tried(module: nn.Module, control: Control, example: Inputs, seed: int = 0) -> bool:
    """Does renumbering refuse the wrong plan, on the inputs that a conversion renumbers on?"""
    few = renumbered_on(smaller(healthy_copy(module, example, seed, samples=None)), example)
    return control.refused(permute(module, control.plan, example, seed, few))


def _left_out(plan: Plan, name: str, dim: int, atom: str) -> Control:
    axes = tuple(
        _replaced(axis, {atom: FRESH}) if place == dim else axis for place, axis in enumerate(plan.tensors[name])
    )
    wrong = replace(
        plan,
        atoms={**plan.atoms, FRESH: AtomPlan(plan.atoms[atom].size)},
        tensors={**plan.tensors, name: axes},
    )
    return Control("left out", f"axis {dim} of {name!r}, {atom!r}", wrong, frozenset({FRESH, atom}))


def _replaced(axis: Axis, names: dict[str, str]) -> Axis:
    return tuple(_factor(factor, names) for factor in axis)


def _factor(factor: Factor, names: dict[str, str]) -> Factor:
    if isinstance(factor, Sum):
        return Sum(tuple(_replaced(term, names) for term in factor.terms))
    return names.get(factor, factor) if isinstance(factor, str) else factor


def _pairs(axis: Axis) -> Iterator[tuple[Factor, Factor]]:
    """Neighbours in products."""
    for factor in axis:
        if isinstance(factor, Sum):
            for term in factor.terms:
                yield from _pairs(term)
    yield from itertools.pairwise(axis)


def _flattened(plan: Plan, first: Factor, second: Factor) -> Control:
    size = parts.length((first, second), plan.whole)

    def flat(axis: Axis) -> Axis:
        found: list[Factor] = []
        for factor in axis:
            if isinstance(factor, Sum):
                found.append(Sum(tuple(flat(term) for term in factor.terms)))
            elif found and found[-1] == first and factor == second:
                found[-1] = FRESH
            else:
                found.append(factor)
        return tuple(found)

    wrong = replace(
        plan,
        atoms={**plan.atoms, FRESH: AtomPlan(size)},
        tensors={name: tuple(map(flat, axes)) for name, axes in plan.tensors.items()},
    )
    return Control("flattened", f"({first} {second})", wrong, frozenset({FRESH}))
