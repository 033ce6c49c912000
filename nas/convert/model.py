"""The model function of an automatic space, and the space of a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyglove as pg
from torch import nn

from nas.convert.graphed import install
from nas.convert.plan import LINEAR, Plan
from nas.convert.resize import named_axes, resize
from nas.convert.spelling import keep, spelled
from nas.convert.template import Template
from nas.space.activity import matches
from nas.space.model import model
from nas.supernet import parts
from nas.supernet.parts import Axis
from nas.supernet.skeleton import values_wanted


@model
def resized(*, template: Template, plan: Plan, widths: Mapping[str, int], depth: Mapping[str, Any]) -> nn.Module:
    """The user's own module at the sizes of an arch.

    Args:
        template: gives the module.
        plan: says what of it an arch has.
        widths: decision of the plan -> what is chosen; those that are not there are whole.
        depth: unit of the plan -> whether it is there, or "linear"; run of units -> how many of them are.
    """
    meta = not values_wanted()
    original = template.skeleton() if meta else template.real()
    kept = plan.kept(depth)
    axes = template.axes(plan) if meta else None
    mapped = plan.mapped(depth)
    module = resize(original, plan, plan.sizes(widths), kept, meta=meta, axes=axes, mapped=mapped)
    if plan.graph:
        left_out = [unit.name for unit in plan.units if unit.name not in kept]
        install(module, template.reference(plan), plan.sizes(widths), left_out)
    vars(module)[parts.HELD] = template.held | _elastic_buffers(module, plan)
    return module


def _elastic_buffers(module: nn.Module, plan: Plan) -> frozenset[str]:
    """Buffers that decisions cut: they are put in order with the weights, so that the supernet has them."""
    return frozenset(
        name
        for name, _ in module.named_buffers()
        if name in plan.tensors
        and any(plan.atoms[atom].decision for axis in plan.tensors[name] for atom in parts.atoms(axis))
    )


def value(template: Template, plan: Plan) -> Any:
    """The call of `resized` with the plan's decisions open; those with one choice, and no units, are closed."""
    return resized(
        template=template,
        plan=plan,
        widths={
            decision.name: pg.oneof(list(decision.choices), name=spelled(decision.name))
            if len(decision.choices) > 1
            else decision.choices[0]
            for decision in plan.decisions
        },
        depth={
            unit.name: pg.oneof([True, False, *([] if unit.places is None else [LINEAR])], name=keep(unit.name))
            for unit in plan.alone
        }
        | {depth.name: pg.oneof(list(depth.choices), name=spelled(depth.name)) for depth in plan.depths},
    )


def conditions(module: nn.Module, plan: Plan) -> dict[str, tuple[str, tuple[int, ...]]]:
    """`active_when` of a space: what concerns the inside of a unit alone is not asked where the unit is left out."""
    there: dict[str, tuple[str, tuple[int, ...]]] = {unit.name: (keep(unit.name), (True,)) for unit in plan.alone}
    for depth in plan.depths:
        for place, name in enumerate(depth.order):
            if place >= depth.choices[0]:
                there[name] = (spelled(depth.name), tuple(choice for choice in depth.choices if choice > place))
    open_names = [spelled(decision.name) for decision in plan.decisions if len(decision.choices) > 1]
    found: dict[str, str] = {}
    for decision, places in _places(plan, named_axes(module, plan)).items():
        unit = _inside(places, there)
        if unit is not None and spelled(decision) in open_names:
            found[spelled(decision)] = unit
    depths = {keep(unit.name): [unit.name] for unit in plan.alone}
    depths |= {spelled(depth.name): list(depth.order) for depth in plan.depths}
    for name, of in depths.items():
        unit = _inside(of, there)
        if unit is not None:
            found[name] = unit
    names = [*open_names, *depths]
    return {
        name: there[unit]
        for name, unit in found.items()
        if not any(other != name and matches(other, name) for other in names)
    }


def _places(plan: Plan, axes: Mapping[str, Sequence[Axis]]) -> dict[str, list[str]]:
    """Where each decision changes a tensor, under any of its names, or a number."""
    found: dict[str, list[str]] = {}
    told = [*axes.items(), *((f"{number.module}.", (number.axis,)) for number in plan.numbers)]
    for place, of in told:
        for atom in {atom for axis in of for atom in parts.atoms(axis)}:
            decision = plan.atoms[atom].decision
            if decision is not None:
                found.setdefault(decision, []).append(place)
    for each in plan.factors:
        found.setdefault(plan.atoms[each.atom].decision or "", []).append(f"{each.layer}.")
    return found


def _inside(places: Iterable[str], units: Iterable[str]) -> str | None:
    """The innermost unit that all places are inside of."""
    places = list(places)
    around = [unit for unit in units if all(place.startswith(f"{unit}.") for place in places)]
    return max(around, key=len, default=None)
