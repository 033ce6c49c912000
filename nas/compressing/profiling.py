"""What the networks of a space cost before any training, and which budgets they can meet."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from nas.checking import checked
from nas.compressing.budgets import Budget, parse_budgets
from nas.compressing.memory import CACHED, Cache, Memory, weights_mib
from nas.compressing.uniform import uniform
from nas.convert.elastic import ElasticSpace, cost, elastic
from nas.convert.spelling import spelled
from nas.errors import EvaluationError, MetricError, SpaceError, suggest
from nas.evaluate import Costs, Latency
from nas.evaluate.base import Evaluator
from nas.hardware import Target, target_of
from nas.metrics import Constraint, unit_of
from nas.space import Space
from nas.supernet import Supernet, parts
from nas.text import human

if TYPE_CHECKING:
    import pandas as pd

    from nas.space import Arch
    from nas.supernet.inputs import Inputs

HALF = 0.5  # of every number, in the middle network
MANY = 3  # modules with the same width: one that writes it, its norm, and one that reads it


@dataclass(frozen=True)
class Verdict:
    """Whether a budget can be met.

    Attributes:
        budget: as it was asked.
        constraint: the same as a bound.
        smallest: what the smallest network measures.
        original: what the largest network measures.
    """

    budget: Budget
    constraint: Constraint
    smallest: float
    original: float

    @property
    def met(self) -> bool:
        """Whether the smallest network is within it."""
        return self.constraint.violation(self.smallest) == 0.0

    @property
    def wide(self) -> bool:
        """Whether the original is within it."""
        return self.constraint.violation(self.original) == 0.0

    def __str__(self) -> str:
        share = f"{self.smallest / self.original:.1%} of the original" if self.original else "nothing in the original"
        told = f"the smallest network has {human(self.smallest)} {unit_of(self.budget.metric)}".rstrip()
        bound = human(self.constraint.bound)
        said = "can be met" if self.met else "cannot be met"
        return f"{self.budget} ({bound}) {said}: {told}, {share}" + ("; the original is within it" if self.wide else "")


@dataclass(frozen=True)
class Profile:
    """Costs of the smallest, a middle and the largest network of a space.

    Attributes:
        name: of the space.
        archs: by name.
        measured: what each costs.
        verdicts: one for each budget.
        tied: decisions about widths that more than three modules share -> how many do.
        decisions: how many there are.
    """

    name: str
    archs: Mapping[str, Arch]
    measured: Mapping[str, Mapping[str, float]]
    verdicts: Sequence[Verdict]
    tied: Mapping[str, int]
    decisions: int

    @property
    def original(self) -> Mapping[str, float]:
        """What the largest network costs."""
        return self.measured["largest"]

    @property
    def others(self) -> list[str]:
        """Metrics beside parameters that every network has."""
        first, *rest = self.measured.values()
        return [name for name in first if name != "params" and all(name in row for row in rest)]

    @property
    def table(self) -> pd.DataFrame:
        """A row for each network, a column for each metric."""
        import pandas as pd

        return pd.DataFrame.from_dict(dict(self.measured), orient="index")

    def check(self) -> None:
        """Refuse budgets that no network of the space can meet.

        Raises:
            MetricError: there is one; with what the smallest network costs.
        """
        for verdict in self.verdicts:
            if not verdict.met:
                raise MetricError(
                    f"the budget {verdict.budget} is below the smallest network of space {self.name!r}, which has "
                    f"{verdict.budget.metric} {human(verdict.smallest)} ({verdict.smallest / verdict.original:.0%} of the "
                    "original); ask for more, or let more be elastic (width=, granule=, depth= of nas.elastic)"
                )

    def __str__(self) -> str:
        names = list(self.original)
        rows = [
            ["network", *names],
            *([name, *(human(row[one]) for one in names)] for name, row in self.measured.items()),
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if at else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        lines += [str(verdict) for verdict in self.verdicts]
        if self.tied:
            shown = ", ".join(f"{name} ({count})" for name, count in list(self.tied.items())[:8])
            lines.append(f"widths that more than three modules share: {shown}" + (" …" if len(self.tied) > 8 else ""))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


@checked(MetricError)
def profile(
    source: nn.Module | Supernet | Space,
    budgets: Any = (),
    *,
    example: Inputs | None = None,
    device: Target | str | None = None,
    evaluators: Sequence[Evaluator] = (),
    options: Mapping[str, Any] | None = None,
    cache: Cache | None = None,
) -> Profile:
    """The smallest, a middle and the largest network of a space in parameters, operations, memory and latency; trains nothing.

    >>> print(nas.profile(supernet, "latency_ms <= 50%", device="cpu"))  # doctest: +SKIP

    Args:
        source: a supernet, a space, or a model, which `nas.elastic` converts.
        budgets: as `nas.compress` takes them; each is said to be met or not.
        example: inputs of the model; a supernet has its own.  Without any, operations are not counted.
        device: where latency is measured; None measures none.
        evaluators: others whose metrics budgets may be about.
        options: of `nas.elastic`, where a model is given.
        cache: (batch, length) of sequences whose key-value cache is counted, for `cache_mib` and `memory_mib` (`nas.Memory`).

    Raises:
        MetricError: a budget is ill-formed, or on a metric that nothing here gives.
        EvaluationError: what the model keeps in a cache is not known.
    """
    wanted = parse_budgets(budgets) if budgets != () else ()
    target = None if device is None else target_of(device)
    check_metrics(wanted, target, evaluators, cache)
    asked: list[Evaluator]
    if isinstance(source, Supernet):
        space, asked = source.space, [Costs(source), Memory(source)] if source.example is not None else [Counts(None)]
    else:
        space = source if isinstance(source, Space) else _converted(source, example, dict(options or {}))
        asked = [Counts(example)]
    asked += evaluators
    if target is not None or cache is not None:
        net = _supernet(source, space, example)
        asked += [] if cache is None else [memory_of(net, cache)]
        asked += [] if target is None else [Latency(net, target)]
    archs = {"smallest": space.smallest, "middle": _middle(space), "largest": space.largest}
    measured = {name: costs_of(arch, asked) for name, arch in archs.items()}
    original, smallest = measured["largest"], measured["smallest"]
    verdicts = [
        Verdict(
            budget,
            budget.constraint(original),
            budget.of(smallest, "the smallest network"),
            budget.of(original, "the original"),
        )
        for budget in wanted
    ]
    return Profile(space.name, archs, measured, verdicts, _tied(space), len(space.decisions))


class Counts(Evaluator):
    """Parameters, operations and memory of archs of any space, without giving their weights values.

    Args:
        example: inputs; operations are counted where it has samples.
    """

    cost = "cheap"
    metrics = ("params", "macs", "weights_mib")

    def __init__(self, example: Inputs | None) -> None:
        self._example = example

    def __call__(self, arch: Arch) -> dict[str, float]:
        """Without operations where they cannot be counted."""
        params, macs = cost(arch.space, arch, self._example)
        found: dict[str, float] = {"params": params} if macs is None else {"params": params, "macs": macs}
        return {**found, "weights_mib": weights_mib(arch.space, arch)}


def _middle(space: Space) -> Arch:
    """Half of every number; the largest arch where that is not allowed."""
    try:
        return uniform(space, HALF)
    except SpaceError:
        return space.largest


def _converted(model: nn.Module, example: Inputs | None, options: dict[str, Any]) -> Space:
    if example is None:
        raise EvaluationError("a model is converted on inputs that it takes; give profile(model, example=…)")
    return elastic(model, example, **options)


def _supernet(source: nn.Module | Supernet | Space, space: Space, example: Inputs | None) -> Supernet:
    """What latency is measured of."""
    if isinstance(source, Supernet):
        return source
    return Supernet(space, example=example, weights=None if isinstance(source, Space) else source, check=False)


def memory_of(net: Supernet, cache: Cache | None) -> Memory:
    """What measures the memory of subnets, with the cache of (batch, length) sequences."""
    batch, length = cache or (None, None)
    return Memory(net, batch=batch, length=length)


def check_metrics(
    budgets: Sequence[Budget], device: Target | None, more: Sequence[Evaluator] = (), cache: Cache | None = None
) -> None:
    """Refuse budgets on what nothing measures.

    Raises:
        MetricError: there is one; with what there is.
    """
    if any(one.metrics is None for one in more):
        return  # a function does not say what it gives
    memory = Memory.metrics if cache is None else CACHED
    given = [*Costs.metrics, *memory, *(name for one in more for name in one.metrics or ())]
    if device is not None:
        given.append("latency_ms")
    for budget in budgets:
        if budget.metric not in given:
            needs = "; latency needs device=" if budget.metric.startswith("latency") else ""
            if budget.metric in CACHED:
                needs = "; a key-value cache needs cache=(batch, length)"
            raise MetricError(
                f"the budget {budget} is on {budget.metric!r}, which nothing measures here; there are {', '.join(given)}"
                f"{suggest(budget.metric, given)}{needs}"
            )


def costs_of(arch: Arch, evaluators: Sequence[Evaluator]) -> dict[str, float]:
    """What evaluators give for an arch, without what says how a measurement went."""
    found: dict[str, float] = {}
    for one in evaluators:
        found |= one(arch)
    return {name: value for name, value in found.items() if name not in _ABOUT}


_ABOUT = {"latency_p10_ms", "latency_spread_ms", "latency_noisy", "load"}


def _tied(space: Space) -> dict[str, int]:
    """Decisions of an elastic model about widths that more modules have than one that writes and one that reads -> how many."""
    if not isinstance(space, ElasticSpace):
        return {}
    found: dict[str, set[str]] = {}
    for tensor, axes in space.plan.tensors.items():
        for atom in {atom for axis in axes for atom in parts.atoms(axis)}:
            decision = space.plan.atoms[atom].decision
            if decision is not None:
                found.setdefault(decision, set()).add(tensor.rpartition(".")[0])
    return {spelled(name): len(modules) for name, modules in found.items() if len(modules) > MANY}
