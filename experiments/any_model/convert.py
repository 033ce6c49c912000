"""The conversion under test, and a control that does nothing, behind one small interface."""

from __future__ import annotations

import copy
import functools
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

import nas
from nas.convert.elastic import elastic as convert
from nas.convert.spelling import keep, spelled

Choices = Mapping[str, Any]


@dataclass
class Converted:
    """A model whose sizes can be chosen.

    Attributes:
        widths: choices of each width decision, rising.
        units: names of what can be left out.
        kinds: number of width decisions of each kind.
        build: choices by name (what is not named is whole) -> a module with the model's own weights.
        shared: choices -> the same network as a part of the supernet's weights; None where there is no supernet.
        stages: seconds of each stage of the conversion.
        notes: what else the conversion says of itself.
    """

    widths: Mapping[str, tuple[int, ...]]
    units: tuple[str, ...]
    kinds: Mapping[str, int]
    build: Callable[[Choices], nn.Module]
    shared: Callable[[Choices], Callable[..., Any]] | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def at(self, ratio: float) -> Choices:
        """For each width the choice closest to `ratio` of the whole, the smaller of two; nothing left out."""
        return {name: min(sizes, key=lambda size: abs(size - ratio * sizes[-1])) for name, sizes in self.widths.items()}

    def drawn(self, seed: int) -> Choices:
        """Every width, and whether each unit is there, at random."""
        draw = random.Random(seed)
        widths = {name: draw.choice(sizes) for name, sizes in self.widths.items()}
        return {**widths, **{name: draw.random() < 0.5 for name in self.units}}


def noop(model: nn.Module, inputs: Any) -> Converted:
    """The control: nothing is elastic."""
    del inputs
    return Converted({}, (), Counter(), lambda _: copy.deepcopy(model))


def elastic(model: nn.Module, inputs: Any, mode: Literal["class", "free"] = "class") -> Converted:
    """`nas.elastic`."""
    space = convert(model, inputs, mode=mode)
    plan, report = space.plan, space.report
    widths = {spelled(d.name): d.choices for d in plan.decisions if len(d.choices) > 1}
    kinds = Counter(decision.kind for decision in plan.decisions if len(decision.choices) > 1)

    def arch(choices: Choices) -> nas.Arch:
        """Names that are not given are whole; those inside what is left out are dropped."""
        whole = space.largest.choices
        return space.repair([d.candidates.index(choices.get(d.name, whole[d.name])) for d in space.decisions])

    net = functools.cache(lambda: nas.Supernet(space, weights=model).eval())

    def build(choices: Choices) -> nn.Module:
        """With the model's weights: a space that knows how to build the model, as from a configuration, draws its own."""
        return space.build(arch(choices)) if keeps() else net().extract(arch(choices))

    @functools.cache
    def keeps() -> bool:
        largest = dict(space.build(space.largest).named_parameters())
        return all(torch.equal(largest[name], tensor) for name, tensor in model.named_parameters() if name in largest)

    def shared(choices: Choices) -> Callable[..., Any]:
        return lambda *positional, **named: net()(named or positional, arch(choices))

    return Converted(
        widths,
        tuple(keep(unit.name) for unit in plan.units),
        kinds,
        build,
        shared,
        report.seconds,
        {
            "execution": report.execution,
            "elastic": round(report.elastic / max(1, report.params), 4),
            "stays_whole": [[each.reason, each.op, each.module, each.params] for each in report.kept[:4]],
        },
    )


TOOLS: dict[str, Callable[[nn.Module, Any], Converted]] = {"noop": noop, "elastic": elastic}
