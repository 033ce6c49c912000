"""From a model to a plan: capture, axes, numbers of the class, decisions, depth, proofs."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import fx, nn

from nas.convert import axes as algebra
from nas.convert.analysis import Analysis, analyse
from nas.convert.axes import Cause, cause_of, norm, rigid, size_of
from nas.convert.capture import Capture, capture
from nas.convert.coupling import couple
from nas.convert.decisions import Names, decide, name_atoms
from nas.convert.depth import Residual, residual_units
from nas.convert.emission import SAMPLES, Length, Reference
from nas.convert.equations import Solution
from nas.convert.graphed import same_at_other_sizes
from nas.convert.healthy import healthy_copy, too_large
from nas.convert.plan import Plan
from nas.convert.report import Kept
from nas.convert.rules import SPLITS, Path, name_of, split_dim
from nas.errors import SpaceError, SupernetError, suggest
from nas.supernet import parts
from nas.supernet.inputs import Inputs, batch_size, check_batch, few_samples, has_batch, repeated, sample_axes, some

SAME = 1e-5
"""How far a graph and its model may be apart, relative to the largest output."""
SEVERAL = 3
"""Samples that a graph is captured with whose number is to be open: of one, an axis would not be seen."""


@dataclass(frozen=True)
class Options:
    """Arguments of `nas.elastic`; see there."""

    width: tuple[float, float] = (0.25, 1.0)
    granule: int = 8
    depth: bool = True
    heads: bool = True
    head_dim: bool = False
    share: Literal["none", "block", "all"] = "none"
    mode: Literal["class", "free"] = "class"
    soft: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def wants(self, name: str) -> bool:
        """Whether the module of this name may be elastic."""
        return not _matches(name, self.exclude) and (not self.include or _matches(name, self.include))


@dataclass
class Conversion:
    """A model under way to its plan.

    Attributes:
        model: the user's own.
        example: inputs.
        options: of the conversion.
        captured: its graph.
        analysis: of the graph.
        names: of atoms.
        residuals: units of depth in the graph.
        solution: what the model's class takes for equal, and the numbers that its modules keep.
        seconds: of each stage.
        samples: of inputs, the axis of samples, where their number is open.
    """

    model: nn.Module
    example: Inputs
    options: Options
    captured: Capture
    analysis: Analysis
    names: Names
    residuals: list[Residual] = field(default_factory=list)
    solution: Solution = field(default_factory=Solution)
    seconds: dict[str, float] = field(default_factory=dict)
    samples: Mapping[fx.Node, int] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """As it is now."""
        options = self.options
        aligned = {self.names.atoms[atom] for atom in self.analysis.aligned if atom in self.names.atoms}
        decisions, atoms = decide(
            self.names,
            [tie.times for tie in self.solution.ties],
            width=options.width,
            granule=options.granule,
            share=options.share,
            aligned=aligned,
            wanted=self._decided(),
            unequal=self.solution.unequal,
        )
        units = tuple(residual.unit for residual in self.residuals)
        return Plan(
            decisions,
            atoms,
            self.names.tensors,
            self.solution.numbers,
            units,
            self.options.mode == "free",
            ordered=tuple(sorted(self.names.ordered)),
        )

    def reference(self, plan: Plan, *, samples: bool = False) -> Reference:
        """The captured graph, which can be had at the sizes of any arch, and with `samples` at any number of them."""
        atom = self.analysis.open_samples
        if samples and atom is not None:
            opened = dataclasses.replace(self.names, atoms={**self.names.atoms, atom: SAMPLES})
            return dataclasses.replace(self, names=opened)._reference(plan, self.samples)
        return self._reference(plan, {})

    def _reference(self, plan: Plan, samples: Mapping[fx.Node, int]) -> Reference:
        lengths: dict[fx.Node, dict[Path, Length]] = {}
        pieces: dict[fx.Node, list[parts.Axis]] = {}
        for node, derived in self.analysis.derived.items():
            lengths[node] = {path: Length(self.names.axis(found.axis), found.sign) for path, found in derived.items()}
        for node, found in self.analysis.values.items():
            if node.op == "call_function" and isinstance(found, list) and name_of(node) in SPLITS:
                dim = split_dim(node)
                pieces[node] = [self.names.axis(value.axes[dim]) for value in found]
        units = {residual.unit.name: (residual.entry, residual.output) for residual in self.residuals}
        uneven = frozenset(node for node, value in self.analysis.all_values() if not all(value.clean))
        return Reference(self.captured, plan.whole, plan.tensors, lengths, pieces, units, samples, uneven=uneven)

    def _decided(self) -> list[str]:
        """Atoms that the user wants decided about: whatever has one as its first axis, and so gives it, is included."""
        options = self.options
        wanted = [name for name in self.names.decided if options.heads or self.names.kinds[name] != "heads"]
        if not options.include:
            return wanted
        givers: dict[str, list[str]] = {}
        for tensor, axes in self.names.tensors.items():
            for place, axis in enumerate(axes):
                for atom in parts.atoms(axis):
                    givers.setdefault(atom, []).extend([tensor] if place == 0 else [])
        return [name for name in wanted if all(_matches(tensor, options.include) for tensor in givers[name])]

    def name(self) -> None:
        """Name the atoms that are free, and solve what the class takes for equal; what it leaves no smaller size stays whole."""
        parameters = [name for name, _ in self.model.named_parameters()]
        while True:
            self.names = name_atoms(self.analysis, parameters, head_dim=self.options.head_dim)
            if self.options.mode == "free":
                return
            self.solution = couple(self.analysis, self.names, self._decided())
            if not self.solution.whole:
                return
            atoms = {name: atom for atom, name in self.names.atoms.items()}
            for name, (op, module) in self.solution.whole.items():
                algebra.freeze((atoms[name],), Cause("class arithmetic", op, module))

    def check_graph(self) -> None:
        """Does the graph compute what the model does, at other numbers of samples too?

        Raises:
            SpaceError: it does not, or is one of a fixed number of samples.
        """
        if too_large(self.model):
            raise SpaceError(f"the graph of {type(self.model).__name__} cannot be looked at: {too_large(self.model)}")
        with timed(self.seconds, "graph"):
            patient = healthy_copy(self.model, self.example, samples=None)
            reference = self.reference(self.plan, samples=True)
            if not reference.samples and has_batch(self.example):
                raise SpaceError(
                    f"the graph of {type(self.model).__name__} is one of {batch_size(self.example)} samples alone, so that "
                    "nothing else could be computed with it; write sizes as attributes, from which nas.elastic resizes the class"
                )
            several = patient.example
            others = [some(several, slice(0, 1)), some(several, slice(0, 2)), repeated(several, 2)]
            off = same_at_other_sizes(patient.module, reference, others)
            if off > SAME:
                raise SpaceError(
                    f"the graph of {type(self.model).__name__} computes something else at other numbers of samples (off by "
                    f"{off:.1g}); write sizes as attributes, from which nas.elastic resizes the class"
                )

    def left(self, plan: Plan) -> float:
        """Share of the parameters that is left where every width is half, and nothing is left out."""
        half = {one.name: min(one.choices, key=lambda size: abs(2 * size - one.size)) for one in plan.decisions}
        sizes = plan.sizes(half)
        total, kept = 0, 0
        for name, parameter in self.model.named_parameters():
            total += parameter.numel()
            axes = plan.tensors.get(name)
            kept += parameter.numel() if axes is None else math.prod(parts.length(axis, sizes) for axis in axes)
        return kept / max(total, 1)

    def arithmetic(self) -> Kept | None:
        """The most that the class keeps whole by how it computes sizes."""
        return next((row for row in self.kept() if row.reason == "class arithmetic"), None)

    def failed(self, plan: Plan, names: Collection[str]) -> list[Kept]:
        """What stays whole because a proof of `plan` failed, by the names of decisions."""
        parameters = dict(self.model.named_parameters())
        rows = []
        for decision in plan.decisions:
            atoms = {name for name, atom in plan.atoms.items() if atom.decision == decision.name}
            tensors = [
                name
                for name, axes in plan.tensors.items()
                if name in parameters and any(atoms.intersection(parts.atoms(axis)) for axis in axes)
            ]
            if decision.name in names and tensors:
                params = sum(parameters[name].numel() for name in tensors)
                rows.append(Kept(tensors[0], decision.size, "proof failed", params=params))
        return rows

    def kept(self) -> list[Kept]:
        """What stays whole of the parameters, by cause, the largest first."""
        parameters = dict(self.model.named_parameters())
        found: dict[tuple[Cause | None, int], list[tuple[str, int]]] = {}
        for tensor, axes in self.analysis.sources.items():
            for axis in map(norm, axes):
                if axis and rigid(axis) and tensor in parameters:
                    found.setdefault((cause_of(axis), size_of(axis)), []).append((tensor, parameters[tensor].numel()))
        rows = []
        for (cause, size), places in found.items():
            why = cause or Cause("constant")
            params = sum(dict(places).values())
            rows.append(Kept(places[0][0], size, why.reason, why.op, why.module, params))
        return sorted(rows, key=lambda row: -row.params)


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add what the block takes to a stage."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began


def convert(model: nn.Module, example: Inputs, options: Options) -> Conversion:
    """Everything that is known of a model without computing with its weights.

    Raises:
        SpaceError: it cannot be captured, a pattern matches none of its parts, or nothing of it is elastic.
    """
    return _converted(model, example, options, {})


def convert_graph(model: nn.Module, example: Inputs, options: Options, *, samples: bool = True) -> Conversion:
    """The same without what the class asks for, and with the number of samples open: archs are captured graphs.

    Args:
        model: the user's own.
        example: inputs.
        options: of the conversion.
        samples: let their number be open; without it the graph is one of inputs of these sizes alone.

    Raises:
        SpaceError: as `convert`.
    """
    several: Any = example
    if samples:
        try:
            check_batch(example)
        except SupernetError as error:
            raise SpaceError(str(error)) from error
        several = repeated(few_samples(example, 1), SEVERAL) if has_batch(example) else example
    found = graph_of(model, several, options, samples=samples)
    if samples:
        found.check_graph()
    return found


def graph_of(model: nn.Module, several: Inputs, options: Options, *, samples: bool) -> Conversion:
    """The conversion by the graph, of an example of as many samples as it is to be captured with, without a check."""
    return _converted(
        model, several, dataclasses.replace(options, mode="free"), sample_axes(several) if samples else {}
    )


def _converted(model: nn.Module, example: Inputs, options: Options, samples: Mapping[int, int]) -> Conversion:
    seconds: dict[str, float] = {}
    held = _held(model, options)
    with timed(seconds, "capture"):
        captured = capture(model, example)
    _check_caches(captured)
    nodes = {
        one.node: samples[id(one.tensor)]
        for one in captured.sources
        if one.kind == "input" and id(one.tensor) in samples
    }
    with timed(seconds, "axes"):
        analysis = analyse(captured, soft=options.soft, coupled=options.mode == "class", held=held, samples=nodes)
        conversion = Conversion(model, example, options, captured, analysis, Names(), seconds=seconds, samples=nodes)
    with timed(seconds, "class"):
        conversion.name()
        if options.depth:
            conversion.residuals = [
                residual
                for residual in residual_units(analysis, model, captured.calls)
                if options.wants(residual.unit.name)
            ]
    return conversion


def _check_caches(captured: Capture) -> None:
    """Refuse what a model computed from its parameters and keeps: subnets of other weights would compute with it."""
    if captured.caches:
        path, key = captured.caches[0]
        raise SpaceError(
            f"the model keeps in {f'{path}.{key}'.lstrip('.')!r} what it computes from parameters, and train() and eval() do not "
            "drop it, so that it would compute with it after the parameters changed; compute it in forward, or drop it in train()"
        )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a part, or one around it, has one of these names."""
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*") for pattern in patterns)


def _held(model: nn.Module, options: Options) -> dict[str, list[int]]:
    """Axes of tensors that the user wants whole."""
    names = [*dict(model.named_parameters(remove_duplicate=False)), *dict(model.named_modules())]
    for argument in ("include", "exclude"):
        for pattern in getattr(options, argument):
            if not any(_matches(name, [pattern]) for name in names):
                raise SpaceError(
                    f"{argument}: {pattern!r} matches no module and no parameter of {type(model).__name__}"
                    f"{suggest(pattern, names)}; give names as in model.named_modules(), with * for any part of one"
                )
    return {
        name: list(range(parameter.dim()))
        for name, parameter in model.named_parameters()
        if _matches(name, options.exclude)
    }


def nothing_elastic(conversion: Conversion) -> SpaceError:
    """The error of a model of which nothing can be cut, with what keeps most of it whole."""
    kept = conversion.kept()
    why = (
        f"; most of it stays whole because of {kept[0].reason!r} ({kept[0].op or 'the model'} in {kept[0].module or 'the model'})"
        if kept
        else ""
    )
    return SpaceError(
        f"nothing of {type(conversion.model).__name__} is elastic{why}; see nas.elastic's include, exclude and soft"
    )
