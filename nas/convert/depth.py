"""Which modules can be left out: residual units, found in the graph and skipped in the class.

A unit is a module that adds to what it is given something that it computes from it alone, and gives the sum, or what follows
from the sum, with the axes that it was given.  Left out, it gives its first argument (`nas.train.dropping.Dropped`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from nas.convert.analysis import Analysis
from nas.convert.axes import norm
from nas.convert.calls import Called
from nas.convert.dead import remove_dead
from nas.convert.plan import Unit
from nas.convert.rules import Value, name_of

_ADDS = ("aten.add", "aten.add_")
_NO_OPS = (
    "aten.to",
    "aten._to_copy",
    "aten.clone",
    "aten.contiguous",
    "aten.detach",
    "aten.alias",
    "aten.dropout",
    "aten.type_as",
)
_PLAIN = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Residual:
    """A unit in the graph: left out, every use of `output` is one of `entry`."""

    unit: Unit
    entry: fx.Node
    output: fx.Node


def residual_units(analysis: Analysis, model: nn.Module, calls: Mapping[str, Called]) -> list[Residual]:
    """The smallest modules that can be left out, and those around them that have more of a block than they have."""
    regions = _regions(analysis)
    ancestors = _Ancestors(analysis)
    modules = dict(model.named_modules())
    found: dict[str, Residual] = {}
    for path in sorted(regions, key=len):
        called = calls.get(path)
        module = modules.get(path)
        if (
            not path
            or called is None
            or module is None
            or called.times != 1
            or called.extras == -1
            or isinstance(module, _PLAIN)
        ):
            continue
        unit = _unit(analysis, path, regions[path], ancestors, called)
        if unit is not None:
            found[path] = unit
    return [unit for path, unit in found.items() if _worthwhile(path, found, modules)]


def _regions(analysis: Analysis) -> dict[str, list[fx.Node]]:
    """Nodes that were called inside of each module."""
    regions: dict[str, list[fx.Node]] = {}
    for node, path in analysis.capture.paths.items():
        parts = path.split(".") if path else []
        for depth in range(len(parts) + 1):
            regions.setdefault(".".join(parts[:depth]), []).append(node)
    return regions


class _Ancestors:
    """What each node depends on, as bits: of all nodes of a large graph at once."""

    def __init__(self, analysis: Analysis) -> None:
        self._number = {node: place for place, node in enumerate(analysis.capture.graph.nodes)}
        self._bits: dict[fx.Node, int] = {}
        for node, place in self._number.items():
            bits = 1 << place
            for inner in node.all_input_nodes:
                bits |= self._bits[inner]
            self._bits[node] = bits

    def of(self, node: fx.Node, other: fx.Node) -> bool:
        """Whether `other` is `node` or goes into it."""
        return bool(self._bits[node] >> self._number[other] & 1)


def _unit(
    analysis: Analysis, path: str, region: list[fx.Node], ancestors: _Ancestors, called: Called
) -> Residual | None:
    inside = set(region)
    outputs = [node for node in region if any(user not in inside for user in node.users)]
    if len(outputs) != 1 or not isinstance(analysis.values.get(outputs[0]), Value):
        return None
    output = outputs[0]
    sources = {source.node for source in analysis.capture.sources if source.kind != "input"}
    given = list(
        dict.fromkeys(
            each for node in region for each in node.all_input_nodes if each not in inside and each not in sources
        )
    )
    for entry in _entries(region, inside, given):
        alike = isinstance(analysis.values.get(entry), Value) and _axes(analysis, entry) == _axes(analysis, output)
        alone = all(each is entry or _same(each, entry) or not ancestors.of(each, entry) for each in given)
        fits = called.shape == tuple(entry.meta["val"].shape) and entry.meta["val"].dtype == output.meta["val"].dtype
        if alike and alone and fits and ancestors.of(output, entry):
            return Residual(Unit(path, called.extras), entry, output)
    return None


def _axes(analysis: Analysis, node: fx.Node) -> tuple[Any, ...]:
    value = analysis.values[node]
    assert isinstance(value, Value)
    return tuple(map(norm, value.axes))


def _entries(region: list[fx.Node], inside: set[fx.Node], given: list[fx.Node]) -> Iterator[fx.Node]:
    """What goes in and is added to what is computed inside."""
    for node in region:
        if name_of(node) not in _ADDS:
            continue
        operands = [each for each in node.args[:2] if isinstance(each, fx.Node)]
        if len(operands) != 2:
            continue
        for one, other in (operands, operands[::-1]):
            entry, branch = _through(one, inside), _through(other, inside)
            if entry in given and branch in inside:
                yield entry


def _through(node: fx.Node, inside: set[fx.Node]) -> fx.Node:
    """What a node is without operations that change nothing."""
    while node in inside and name_of(node) in _NO_OPS and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _same(left: fx.Node, right: fx.Node) -> bool:
    """Whether two nodes are one tensor, but for operations that change nothing."""
    return _root(left) is _root(right)


def _root(node: fx.Node) -> fx.Node:
    while name_of(node) in _NO_OPS and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _worthwhile(path: str, found: Mapping[str, Residual], modules: Mapping[str, nn.Module]) -> bool:
    """Whether a unit has parameters that no unit inside of it has; norms count only where there is nothing else."""
    own = {id(parameter) for parameter in modules[path].parameters() if parameter.dim() > 1}
    for other in found:
        if other.startswith(f"{path}."):
            own -= {id(parameter) for parameter in modules[other].parameters()}
    return bool(own)


def without(capture_module: fx.GraphModule, residuals: list[Residual]) -> fx.GraphModule:
    """A copy of the graph in which the units of `residuals` are left out."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(capture_module.graph, copies))
    places = {node: place for place, node in enumerate(capture_module.graph.nodes)}
    # From the back, since what goes into one unit may come out of another.
    for residual in sorted(residuals, key=lambda one: -places[one.output]):
        copies[residual.output].replace_all_uses_with(copies[residual.entry])
    remove_dead(graph)
    return fx.GraphModule(capture_module, graph)


def checked_units(model: nn.Module, residuals: list[Residual]) -> tuple[Unit, ...]:
    """The units alone, in the order in which the model has its modules."""
    places = {name: place for place, (name, _) in enumerate(model.named_modules())}
    return tuple(sorted((residual.unit for residual in residuals), key=lambda unit: places[unit.name]))
