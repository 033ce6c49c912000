"""A larger automatic space that has the archs of a smaller one: of the same class, with fewer blocks or narrower ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nas.convert.plan import Decision, Plan
from nas.convert.report import describe
from nas.convert.spelling import keep, spelled
from nas.errors import SpaceError
from nas.space import Arch
from nas.supernet.parts import Sum
from nas.supernet.skeleton import build_skeleton, parameters_of

if TYPE_CHECKING:
    from nas.convert.elastic import ElasticSpace


@dataclass(frozen=True)
class Origin:
    """How archs of a smaller space are told in a larger one.

    Attributes:
        space: the smaller one.
        chosen: decision that only the larger space has -> what it is in all archs of the smaller.
        full: decision about a rank -> the full one in both.
    """

    space: ElasticSpace
    chosen: Mapping[str, Any]
    full: Mapping[str, tuple[int, int]]

    def knows(self, schema: Mapping[str, Any]) -> bool:
        """Whether rows with this schema are of the smaller space, or of one that it includes."""
        return self.space.has_fingerprint(schema.get("fingerprint")) or any(
            one.knows(schema) for one in self.space.origins
        )

    def arch(self, larger: ElasticSpace, numbers: Sequence[Any], schema: Mapping[str, Any]) -> Arch:
        """The arch of the larger space of a row of the smaller.

        Raises:
            SpaceError: the row is none, or the larger space lacks one of its choices.
        """
        told = {**self.chosen, **self.space.from_row(numbers, schema).choices}
        genes = []
        for decision in larger.decisions:
            value = told.get(decision.name, ...)
            small, large = self.full.get(decision.name, (..., ...))
            value = large if value == small and small is not ... else value
            if value is not ... and value not in decision.labels:
                raise SpaceError(f"{decision.name} was {value!r}, which is no candidate here")
            genes.append(0 if value is ... else decision.labels.index(value))
        return larger.repair(genes)


def including(space: ElasticSpace, smaller: ElasticSpace) -> ElasticSpace:
    """`space` with the choices of `smaller` besides its own.

    Raises:
        SpaceError: the smaller model is none of its archs, whatever is chosen.
    """
    plan, old = space.plan, smaller.plan
    if space.template.cls is not smaller.template.cls:
        raise SpaceError(
            f"space {space.name!r} is of a {space.template.cls.__name__} and does not contain one of a "
            f"{smaller.template.cls.__name__}; grow to a larger model of the same class"
        )
    for depth in old.depths:
        now = next((one for one in plan.depths if one.name == depth.name), None)
        if now is None or now.order[: len(depth.order)] != depth.order:
            raise SpaceError(
                f"space {space.name!r} leaves out other blocks of {depth.name!r} first than the smaller space; order both alike"
            )
    decisions = tuple(replace(one, choices=_choices(plan, one, smaller)) for one in plan.decisions)
    depths = tuple(
        replace(one, choices=tuple(sorted({*one.choices, *_of(old.depths, one.name)}))) for one in plan.depths
    )
    wide = replace(plan, decisions=decisions, depths=depths)
    report = replace(space.report, rows=describe(space.template.skeleton(), wide).rows)
    found = type(space)(space.template, wide, report, name=space.name, version=space.version)
    found.rules = space.rules
    origin = Origin(smaller, _chosen(found, smaller), _full(plan, old))
    found.origins = (*space.origins, origin)
    _check(found, smaller)
    return found


def _choices(plan: Plan, decision: Decision, smaller: ElasticSpace) -> tuple[int, ...]:
    old = smaller.plan
    full = {each.full for each in old.factors if old.atoms[each.atom].decision == decision.name}
    before = next((set(one.choices) - full for one in old.decisions if one.name == decision.name), None)
    more = {_fixed(plan, smaller, decision.name)} if before is None else before
    return tuple(sorted({*decision.choices, *(one for one in more if one is not None and one < decision.size)}))


def _of(depths: Sequence[Any], name: str) -> tuple[int, ...]:
    return next((one.choices for one in depths if one.name == name), ())


def _fixed(plan: Plan, smaller: ElasticSpace, decision: str) -> int | None:
    """What is chosen where the smaller model has the axis and does not decide about it: as long as a tensor's dimension is."""
    skeleton = smaller.template.skeleton()
    shapes = {name: tuple(entry.shape) for entry in parameters_of(skeleton) for name in entry.names}
    for name, axes in plan.tensors.items():
        for axis, length in zip(axes, shapes.get(name, ()), strict=False):
            atoms = [plan.atoms[one] for one in axis if isinstance(one, str)]
            decided = [atom for atom in atoms if atom.decision is not None]
            if len(decided) == 1 and decided[0].decision == decision and not any(isinstance(one, Sum) for one in axis):
                rest = [one for one in axis if isinstance(one, int)] + [
                    one.size for one in atoms if one is not decided[0]
                ]
                return length // math.prod(rest) * decided[0].per // decided[0].times
    return None


def _chosen(space: ElasticSpace, smaller: ElasticSpace) -> dict[str, Any]:
    """Values of the decisions that the smaller space has not."""
    plan, old = space.plan, smaller.plan
    full = {plan.atoms[each.atom].decision: each.full for each in plan.factors}
    before = {one.name: one for one in old.decisions}
    found: dict[str, Any] = {}
    for decision in plan.decisions:
        if decision.name in full:
            value: int | None = full[decision.name]
        elif decision.name in before:
            value = before[decision.name].size
        else:
            value = _fixed(plan, smaller, decision.name)
        if value is not None:
            found[spelled(decision.name)] = value
    there = dict(smaller.template.skeleton().named_modules())
    found |= {keep(unit.name): unit.name in there for unit in plan.alone}
    found |= {spelled(one.name): sum(name in there for name in one.order) for one in plan.depths}
    return {name: value for name, value in found.items() if name not in smaller.names}


def _full(plan: Plan, old: Plan) -> dict[str, tuple[int, int]]:
    before = {old.atoms[each.atom].decision: each.full for each in old.factors}
    now = {plan.atoms[each.atom].decision: each.full for each in plan.factors}
    return {spelled(name): (before[name], full) for name, full in now.items() if name is not None and name in before}


def _check(space: ElasticSpace, smaller: ElasticSpace) -> None:
    """The smaller model is an arch of the larger space, tensor by tensor.

    Raises:
        SpaceError: it is not.
    """
    arch = space.from_row(smaller.largest.row(), smaller.schema())
    shapes = [
        {name: tuple(entry.shape) for entry in parameters_of(build_skeleton(one.space, one)) for name in entry.names}
        for one in (smaller.largest, arch)
    ]
    for name in [*shapes[0], *shapes[1]]:
        ours, theirs = (each.get(name) for each in shapes)
        if ours != theirs:
            raise SpaceError(
                f"the smaller model is no arch of space {space.name!r}: its {name!r} is {ours}, and here {theirs}; grow to a "
                "model that differs in what is elastic alone"
            )
