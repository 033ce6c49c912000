"""Depth by order of importance: runs of equal units of which one decision says how many there are.

    space = nas.elastic(model, example)                        # a decision about each unit of depth
    net = nas.Supernet(space, example=example, weights=model)
    space = nas.order_depth(net, loss=lambda network: ...)     # encoder.layer.depth in 6..12 in the place of twelve
    net = nas.Supernet(space, example=example, weights=net.extract(net.space.largest))

Units are equal if their paths differ in one number and they have the same class and the same shapes.  The importance of a unit
is measured with that unit alone left out: the loss on data, or, in one forward, how much the unit changes what goes through it
(`nas.train.dropping`; He et al. 2024, "What Matters in Transformers? Not All Attention is Needed").  Or it is a score of all of
its weights (`nas.supernet.scores`; Kim et al. 2024, "Shortened LLaMA", compare them).  A shallower network has the units that a
deeper one has, but for the least important of them; all of them are archs of the space that was proved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from nas.checking import Range, checked
from nas.convert.elastic import ElasticSpace
from nas.convert.model import conditions
from nas.convert.plan import Depth, Plan
from nas.convert.report import describe
from nas.convert.spelling import keep, spelled
from nas.errors import SpaceError
from nas.supernet.binding import Binding
from nas.supernet.inputs import Inputs
from nas.supernet.passes import units_of_modules
from nas.supernet.scores import Batches, Data, Score, Task, chosen, measured, steps_of
from nas.supernet.supernet import Supernet
from nas.train.dropping import similarities

Loss = Callable[[Binding], float | Tensor]
"""How bad a network is on data: a function of what, given inputs in the form of the example, gives the network's output."""


@checked(SpaceError)
def order_depth(
    supernet: Supernet,
    *,
    by: str | Score | None = None,
    loss: Loss | Callable[..., Any] | None = None,
    batches: Batches | None = None,
    task: Task | None = None,
    least: Annotated[float, Range(0.0, 1.0)] = 0.5,
) -> ElasticSpace:
    """The space of `supernet` with one decision for each run of equal units, which leaves out the least important ones.

    Args:
        supernet: of a space of `nas.elastic`, with the weights that count: the model's own, or trained ones.
        by: an importance score of weights or gradients, or its name: "magnitude", "taylor", "fisher" or "hesso"; a unit has the
            weights of its modules.  Data are then as in `nas.reorder`.  None measures units left out alone.
        loss: gives the loss of a network, in eval mode and without gradients, on data of your choice; called once for each unit
            with a function of inputs in the form of the example (a tensor, a tuple of arguments, a mapping of keywords).
            Units without which it is highest are the most important; of equal ones the earlier.
        batches: inputs of a model, in place of a loss: the units that turn what goes through them most are the most important.
        task: in place of a loss: the mean of its own over its first training batches, of 1,024 samples in all.
        least: share of the units of a run that every network has.

    Returns:
        A space of its own, with `depths` in its plan; weights and proofs are those of the space that it was made from.

    Raises:
        SpaceError: the space is not one of `nas.elastic`, or already ordered; it has no two equal units; without `by` not one
            of `loss`, `batches` and `task` is given; or a loss is no finite number.
        SupernetError: data do not fit, or are not those that `by` takes.
    """
    space = supernet.space
    if not isinstance(space, ElasticSpace):
        raise SpaceError(
            f"space {space.name!r} is not one of nas.elastic, whose units of depth are known; give a supernet of such a space"
        )
    data = Data(batches, loss, task)
    score = chosen(by, data) if by is not None else None
    if score is not None and score.along_axes:
        raise SpaceError(
            f"importance by {score.name!r} is of channels; for units of depth give another, or leave out by="
        )
    if score is None and sum(given is not None for given in (loss, batches, task)) != 1:
        raise SpaceError("give either loss=, a function of a network, batches=, inputs of the model, or task=")
    if space.plan.depths:
        raise SpaceError(f"the depth of space {space.name!r} is already ordered; order the space that nas.elastic gave")
    runs = equal_units(space.template.skeleton(), space.plan)
    if not runs:
        raise SpaceError(f"space {space.name!r} has no two equal units of depth to put in order; see its report")
    names = [name for run in runs.values() for name in run]
    how = "loss with it alone left out"
    if score is not None:
        scores, how = _scored(supernet, runs, score, data), f"importance by {score.name!r}"
    elif batches is not None:
        data.check_batches()
        scores, how = _turned(supernet, names, batches), "1 - cosine of what goes in and what comes out"
    else:
        removed = loss if task is None else partial(_mean_loss, task, supernet.device)
        assert removed is not None, "one of the three is given"
        scores = _losses(supernet, names, removed)
    depths = tuple(
        Depth(name, tuple(sorted(run, key=lambda unit: -scores[unit])), _choices(len(run), least))
        for name, run in runs.items()
    )
    return _ordered(space, replace(space.plan, depths=depths), scores, how)


def equal_units(module: nn.Module, plan: Plan) -> dict[str, tuple[str, ...]]:
    """Runs of at least two equal units of `plan`, in the model's order, by the name of the decision about them.

    Units inside of others are put in order only if all of a run are inside the same: what is left out with a block is not asked.
    """
    names = [unit.name for unit in plan.units]
    groups: dict[tuple[str, str, tuple[Any, ...]], list[str]] = {}
    for name in names:
        alike = _pattern(name, names), _outer(name, names), _form(module.get_submodule(name))
        groups.setdefault(alike, []).append(name)
    runs = [(pattern, group) for (pattern, *_), group in groups.items() if len(group) > 1]
    patterns = [pattern for pattern, _ in runs]
    found = {}
    for pattern, group in runs:
        path = pattern.removesuffix("*").removesuffix(".") if patterns.count(pattern) == 1 else group[0]
        found[".".join(filter(None, (path, "depth")))] = tuple(group)
    return found


def _pattern(name: str, names: Sequence[str]) -> str:
    """The path with `*` for the last of its numbers in which another unit differs from it."""
    path = name.split(".")
    for place in reversed(range(len(path))):
        if path[place].isdigit():
            others = [other.split(".") for other in names if other != name]
            if any(
                len(other) == len(path)
                and other[place].isdigit()
                and other[:place] + other[place + 1 :] == path[:place] + path[place + 1 :]
                for other in others
            ):
                return ".".join([*path[:place], "*", *path[place + 1 :]])
    return name


def _outer(name: str, names: Iterable[str]) -> str:
    """The innermost unit around one, or ""."""
    return max((other for other in names if name.startswith(f"{other}.")), key=len, default="")


def _form(module: nn.Module) -> tuple[Any, ...]:
    return type(module), tuple((name, parameter.shape) for name, parameter in module.named_parameters())


def _choices(count: int, least: float) -> tuple[int, ...]:
    return tuple(range(min(math.ceil(least * count), count), count + 1))


def _scored(supernet: Supernet, runs: Mapping[str, Sequence[str]], by: Score, data: Data) -> dict[str, float]:
    """A score of all weights of each unit."""
    found = measured(supernet, units_of_modules(supernet, runs), by, data)
    return {name: float(found[run][place]) for run, names in runs.items() for place, name in enumerate(names)}


def _mean_loss(task: Task, device: torch.device, network: Binding) -> float:
    losses = [float(step(network)) for step in steps_of(task, device)]
    if not losses:
        raise SpaceError("the task has no training batch; give a task with data, or loss=")
    return sum(losses) / len(losses)


@torch.no_grad()
def _losses(supernet: Supernet, names: Iterable[str], loss: Callable[..., Any]) -> dict[str, float]:
    """Loss of the largest arch without each unit alone."""
    space = supernet.space
    assert isinstance(space, ElasticSpace)
    inside = conditions(space.template.skeleton(), space.plan)
    largest, training = space.largest, supernet.training
    found = {}
    supernet.eval()
    try:
        for name in names:
            left = space.arch(_without(name, largest.choices, inside))
            found[name] = float(loss(supernet.bind(left)))
            if not math.isfinite(found[name]):
                raise SpaceError(f"the loss without {name!r} is {found[name]}; let loss= give a finite number")
    finally:
        supernet.train(training)
    return found


def _without(
    name: str, choices: Mapping[str, Any], inside: Mapping[str, tuple[str, tuple[int, ...]]]
) -> dict[str, Any]:
    """The choices of an arch without a unit, and without what is decided inside of it alone."""
    left = dict(choices) | {keep(name): False}
    while True:
        gone = [key for key in left if key in inside and left.get(inside[key][0]) not in inside[key][1]]
        if not gone:
            return left
        for key in gone:
            del left[key]


def _turned(supernet: Supernet, names: Sequence[str], batches: Iterable[Inputs]) -> dict[str, float]:
    """1 - cosine between what goes into each unit and what comes out."""
    space = supernet.space
    assert isinstance(space, ElasticSpace)
    if space.plan.graph:
        raise SpaceError(
            f"networks of space {space.name!r} are captured graphs, whose units cannot be watched one by one; give loss= instead"
        )
    found = similarities(supernet.extract(space.largest), batches, blocks=list(names))
    return {each.name: 1 - each.cosine for each in found}


def _ordered(space: ElasticSpace, plan: Plan, scores: Mapping[str, float], how: str) -> ElasticSpace:
    told = describe(space.template.skeleton(), plan)
    notes = tuple(
        f"{spelled(depth.name)} keeps the first of ({how}): "
        + ", ".join(f"{spelled(unit)} {scores[unit]:.4g}" for unit in depth.order)
        for depth in plan.depths
    )
    lost = [unit.name for unit in space.plan.mappable if unit not in plan.mappable]
    if lost:
        notes += (
            f"no linear map takes the place of {', '.join(lost)} any more: how many of them there are is decided",
        )
    report = replace(space.report, rows=told.rows, units=told.units, notes=(*space.report.notes, *notes))
    found = ElasticSpace(space.template, plan, report, name=space.name, version=space.version)
    found.rules = space.rules
    return found
