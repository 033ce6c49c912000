"""The axes of every tensor of a captured graph, by the rules of its operations."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from nas.convert import axes as algebra
from nas.convert.axes import Atom, Axis, Cause, Conflict, free, fresh, norm, rigid, size_of
from nas.convert.capture import Capture, Source
from nas.convert.rules import (
    RULES,
    Call,
    Derived,
    Path,
    Result,
    Value,
    elementwise,
    frozen,
    is_pointwise,
    is_view,
    whole,
)


@dataclass
class Analysis:
    """What the rules found.

    Attributes:
        capture: of the model.
        values: of every node that gives tensors.
        sources: axes of every parameter, buffer and table, by its first name.
        derived: arguments of nodes that follow from axes: path of the argument -> axis.
        unknown: operations without a rule -> how often they occur.
        aligned: atoms whose rows must be 16 bytes long.
        samples: atom that the number of samples is, where it was to be one.
        ordered: axes along which an operation goes, with the cause for which all but their first factor is whole.
    """

    capture: Capture
    values: dict[fx.Node, Result] = field(default_factory=dict)
    sources: dict[str, tuple[Axis, ...]] = field(default_factory=dict)
    derived: dict[fx.Node, dict[Path, Derived]] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    aligned: set[Atom] = field(default_factory=set)
    samples: Atom | None = None
    ordered: list[tuple[Axis, Cause]] = field(default_factory=list)

    def axes(self, node: fx.Node, output: int = 0) -> tuple[Axis, ...]:
        """Axes of what a node gives, in their simplest form."""
        found = self.values[node]
        value = found[output] if isinstance(found, list) else found
        return tuple(map(norm, value.axes))

    def all_values(self) -> Iterator[tuple[fx.Node, Value]]:
        """Every tensor."""
        for node, found in self.values.items():
            for value in found if isinstance(found, list) else [found]:
                yield node, value

    @property
    def open_samples(self) -> Atom | None:
        """What the number of samples was found to be; None where it was not to be open, or is a fixed number."""
        found = norm((self.samples,)) if self.samples is not None else ()
        return found[0] if len(found) == 1 and isinstance(found[0], Atom) else None


def analyse(
    capture: Capture,
    *,
    soft: bool = False,
    coupled: bool = True,
    held: Mapping[str, Sequence[int]] | None = None,
    samples: Mapping[fx.Node, int] | None = None,
) -> Analysis:
    """Axes of everything in `capture`.

    Args:
        capture: of the model.
        soft: leave axes elastic that are averaged over, or whose maximum is taken.
        coupled: pieces of a chunk are equal, as the class takes them to be.
        held: axes of tensors that stay whole, by name.
        samples: axis of the samples of inputs: their number is an atom, which nothing decides about.
    """
    analysis = Analysis(capture)
    for source in capture.sources:
        _source(analysis, source)
    for node, dim in (samples or {}).items():
        _open(analysis, node, dim)
    for name, dims in (held or {}).items():
        for dim in dims:
            algebra.freeze(analysis.sources[name][dim], Cause("excluded", module=name))
    for node in capture.graph.nodes:
        if node.op == "call_function":
            _operation(analysis, node, soft=soft, coupled=coupled)
        elif node.op == "get_attr":
            _constant(analysis, node)
    for output in capture.outputs:
        if isinstance(output, fx.Node) and output in analysis.values:
            found = analysis.values[output]
            for value in found if isinstance(found, list) else [found]:
                for axis in value.axes:
                    _freeze_but_samples(analysis, axis, Cause("model output"))
    _keep_order(analysis)
    _freeze_unused(analysis)
    return analysis


def _source(analysis: Analysis, source: Source) -> None:
    """Axes of a parameter, buffer or table of numbers are new; everything else is data."""
    tensor = source.tensor
    if not isinstance(tensor, Tensor):
        return
    if source.kind not in ("parameter", "buffer", "table") or not tensor.is_floating_point():
        if not isinstance(source.node.meta.get("val"), Tensor):
            return
        analysis.values[source.node] = whole(
            source.node.meta["val"], Cause("model input" if source.kind == "input" else "constant")
        )
        return
    name = source.names[0]
    if name not in analysis.sources:
        analysis.sources[name] = tuple(map(fresh, tensor.shape))
    statistic = source.kind == "parameter" or name.endswith(("running_mean", "running_var"))
    analysis.values[source.node] = Value(analysis.sources[name], (statistic,) * tensor.dim())


def _constant(analysis: Analysis, node: fx.Node) -> None:
    target: Any = analysis.capture.module
    for part in str(node.target).split("."):
        target = getattr(target, part)
    if isinstance(target, Tensor):
        analysis.values[node] = whole(target, Cause("constant"))


def _open(analysis: Analysis, node: fx.Node, axis: int) -> None:
    """Let the number of samples of an input be an atom, the same for all inputs."""
    value = analysis.values.get(node)
    if not isinstance(value, Value) or size_of(value.axes[axis]) == 1:
        return
    if analysis.samples is None:
        analysis.samples = Atom(size_of(value.axes[axis]))
    if analysis.samples.size == size_of(value.axes[axis]):
        axes = (*value.axes[:axis], (analysis.samples,), *value.axes[axis + 1 :])
        analysis.values[node] = Value(axes, value.clean)


def _freeze_but_samples(analysis: Analysis, axis: Axis, cause: Cause) -> None:
    for atom in list(free(axis)):
        if atom is not analysis.open_samples:
            algebra.freeze((atom,), cause)


def _operation(analysis: Analysis, node: fx.Node, *, soft: bool, coupled: bool) -> None:
    if node.target is operator.getitem:
        taken = analysis.values.get(node.args[0])  # type: ignore[arg-type]
        if isinstance(taken, list) and isinstance(node.args[1], int) and node.args[1] < len(taken):
            analysis.values[node] = taken[node.args[1]]
        elif isinstance(taken, Value) and isinstance(node.meta.get("val"), Tensor):
            analysis.values[node] = taken
        return
    if not _gives_tensors(node.meta.get("val")):
        return
    call = Call(node, analysis.values, analysis.capture.paths.get(node, ""), soft=soft, coupled=coupled)
    analysis.values[node] = _result(analysis, call)
    if call.derived:
        analysis.derived[node] = call.derived
    for target, value in call.zeroed:
        _written(analysis, target, value)
    analysis.ordered += [(axis, call.cause("order")) for axis in call.ordered]
    for axis in call.aligned:
        analysis.aligned.update(free(axis))


def _gives_tensors(fake: Any) -> bool:
    if isinstance(fake, (list, tuple)):
        return any(map(_gives_tensors, fake))
    return isinstance(fake, Tensor)


def _result(analysis: Analysis, call: Call) -> Result:
    """What the operation's rule says; where there is none, or it does not fit, everything stays whole."""
    found = RULES.get(call.name)
    if found is None and is_pointwise(call.node):
        found = elementwise
    if found is None:
        analysis.unknown[call.name] = analysis.unknown.get(call.name, 0) + 1
        return frozen(call)  # type: ignore[no-any-return]
    try:
        result = found(call)
    except (Conflict, IndexError, KeyError, TypeError, ValueError, AttributeError):
        call.derived.clear()
        call.ordered.clear()
        result = frozen(call)
    if not _fits(result, call.node.meta["val"]):
        call.derived.clear()
        call.ordered.clear()
        result = frozen(call)
    return result


def _fits(result: Result, fake: Any) -> bool:
    """Whether a rule's axes are as long as those of the tensors."""
    if isinstance(result, list):
        return (
            isinstance(fake, (list, tuple))
            and len(result) >= len(fake)
            and all(
                not isinstance(each, Tensor) or _fits(value, each) for value, each in zip(result, fake, strict=False)
            )
        )
    if not isinstance(fake, Tensor):
        return False
    return tuple(map(size_of, map(norm, result.axes))) == tuple(fake.shape) and len(result.clean) == fake.dim()


def _written(analysis: Analysis, target: fx.Node, value: Value) -> None:
    """A tensor was written into: what it is a view of is no cleaner than what was written."""
    dirty = any(not flag and not rigid(norm(axis)) for axis, flag in zip(value.axes, value.clean, strict=True))
    node: Any = target
    first = True
    while isinstance(node, fx.Node) and isinstance(analysis.values.get(node), Value):
        old = analysis.values[node]
        assert isinstance(old, Value)
        if first and len(old.axes) == len(value.axes):
            analysis.values[node] = Value(old.axes, value.clean)
        elif dirty:
            analysis.values[node] = Value(old.axes, (False,) * len(old.axes))
        first = False
        if not is_view(node):
            return
        node = node.args[0]


def _keep_order(analysis: Analysis) -> None:
    """What an arch keeps of an axis that an operation goes along must be what the axis began with."""
    for axis, cause in analysis.ordered:
        factors = norm(axis)
        if not (factors and isinstance(factors[0], Atom) and rigid(factors[1:])):
            algebra.freeze(factors, cause)


def _freeze_unused(analysis: Analysis) -> None:
    """What no operation uses has no effect that a search could see: tables longer than their inputs, unused parameters."""
    used: set[Atom] = set()
    constant: set[fx.Node] = {source.node for source in analysis.capture.sources if source.kind != "input"}
    for node in analysis.capture.graph.nodes:
        if node.op != "call_function" or node not in analysis.values:
            continue
        if is_view(node) and node.args[0] in constant:
            constant.add(node)
            continue
        for inner in node.all_input_nodes:
            found = analysis.values.get(inner)
            for value in found if isinstance(found, list) else [found] if found is not None else []:
                for axis in value.axes:
                    used.update(free(axis))
    for axes in analysis.sources.values():
        for axis in axes:
            for atom in list(free(axis)):
                if atom not in used:
                    algebra.freeze((atom,), Cause("unused"))
                elif atom is analysis.open_samples:  # a tensor of the model that is as long as the inputs are many
                    algebra.freeze((atom,), Cause("constant"))
