"""The captured graph at any sizes: the referee of a resized class.

A captured graph has the sizes of the original written into it.  The rules say which of these numbers are lengths of axes, so
that the graph of an arch is the same graph with those numbers replaced.  Nothing of the user's code takes part, and none of
the attributes that the class is resized by.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from nas.convert.capture import Capture
from nas.convert.dead import remove_dead
from nas.convert.rules import SPLITS, Path, name_of
from nas.errors import SpaceError
from nas.supernet import parts
from nas.supernet.parts import Axis, Sizes

SOURCE = "nas_source"
"""Key of the captured node in the `meta` of its copy."""


SAMPLES = "@samples"
"""Name of the atom that the number of samples is."""


def scaled(count: int, times: int, plus: int) -> int:
    """A number that follows from the number of samples."""
    return times * count + plus


class Length(NamedTuple):
    """A number that an operator is called with: `sign` times the length of an axis."""

    axis: Axis
    sign: int = 1


@dataclass(frozen=True, eq=False)
class Reference:
    """A captured graph that can be had at any sizes.

    Attributes:
        capture: of the model.
        whole: lengths of atoms in the model.
        tensors: axes of parameters and buffers, by name, one for tied ones.
        lengths: of nodes, the arguments that follow from sizes.
        pieces: of nodes that take an axis apart, the axes of the pieces.
        units: of depth, the node that goes into one and the node that comes out, by name.
        samples: of inputs, the axis of samples, where their number is the atom `SAMPLES`.
        values: of nodes, tensors of the form that each gives, where that is on other inputs than those of the capture.
        uneven: nodes whose tensor is not zero at what an arch has not got, where all parameters are: the same number was added
            to all channels.
    """

    capture: Capture
    whole: Sizes
    tensors: Mapping[str, Sequence[Axis]]
    lengths: Mapping[fx.Node, Mapping[Path, Length]]
    pieces: Mapping[fx.Node, Sequence[Axis]] = field(default_factory=dict)
    units: Mapping[str, tuple[fx.Node, fx.Node]] = field(default_factory=dict)
    samples: Mapping[fx.Node, int] = field(default_factory=dict)
    values: Mapping[fx.Node, Any] = field(default_factory=dict)
    uneven: Collection[fx.Node] = frozenset()

    def value(self, node: Any) -> Any:
        """A tensor, or several, of the form that a node gives in the whole network."""
        return self.values[node] if node in self.values else node.meta["val"]

    def at(self, sizes: Sizes, left_out: Collection[str] = ()) -> Capture:
        """The graph where atoms have `sizes`, without some of its units.

        It is called with the tensors of an arch; those that it is not given are whole.
        """
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        for node in self.capture.graph.nodes:
            copy = copies[node] = graph.node_copy(node, copies.__getitem__)
            copy.meta = {**node.meta, SOURCE: node}
            pieces = [parts.length(axis, sizes) for axis in self.pieces.get(node, ())]
            if pieces and name_of(node) in SPLITS:
                _set_pieces(copy, pieces)
            else:
                for path, (axis, sign) in self.lengths.get(node, {}).items():
                    set_argument(copy, path, self._length(graph, copies, (axis, sign), sizes))
        places = {node: place for place, node in enumerate(copies)}
        # From the back, since what goes into one unit may come out of another.
        for entry, output in sorted((self.units[name] for name in left_out), key=lambda unit: -places[unit[1]]):
            copies[output].replace_all_uses_with(copies[entry])
        remove_dead(graph)
        module = fx.GraphModule(self.capture.module, graph)
        return dataclasses.replace(self.capture, module=module)

    def _length(self, graph: fx.Graph, copies: Mapping[fx.Node, fx.Node], of: tuple[Axis, int], sizes: Sizes) -> Any:
        """A number, or where it follows from the number of samples a node that computes it from the inputs."""
        axis, sign = of
        if SAMPLES not in parts.atoms(axis):
            return sign * parts.length(axis, sizes)
        one, two, three = (sign * parts.length(axis, {**sizes, SAMPLES: count}) for count in (1, 2, 3))
        if three - two != two - one:
            raise SpaceError("an argument of the graph follows from the square of the number of samples")
        source, dim = next(iter(self.samples.items()))
        place = next(node for node in copies.values() if node.op != "placeholder")
        with graph.inserting_before(place):
            count = graph.call_function(torch.ops.aten.sym_size.int, (copies[source], dim))
            return graph.call_function(scaled, (count, two - one, 2 * one - two))

    def cut(self, tensors: Mapping[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
        """What an arch has of each of `tensors`, by the same names."""
        return {name: _cut(tensor, self.tensors.get(name, ()), self.whole, sizes) for name, tensor in tensors.items()}

    def masked(self, tensors: Mapping[str, Tensor], sizes: Sizes, rest: float = 0.0) -> dict[str, Tensor]:
        """`tensors` with zeros at all indices that an arch has not got, or with `rest` of what is there."""
        return {
            name: _masked(tensor, self.tensors.get(name, ()), (self.whole, sizes), rest)
            for name, tensor in tensors.items()
        }


def _masked(tensor: Tensor, axes: Sequence[Axis], lengths: tuple[Sizes, Sizes], rest: float) -> Tensor:
    whole, sizes = lengths
    found = tensor
    for dim, axis in enumerate(axes):
        kept = parts.indices(axis, whole, sizes)
        if len(kept) < tensor.shape[dim]:
            hidden = found * rest if rest else torch.zeros_like(tensor)
            found = hidden.index_copy(dim, kept.to(tensor.device), found.index_select(dim, kept.to(tensor.device)))
    return found


def _cut(tensor: Tensor, axes: Sequence[Axis], whole: Sizes, sizes: Sizes) -> Tensor:
    for dim, axis in enumerate(axes):
        kept = parts.indices(axis, whole, sizes)
        if len(kept) < tensor.shape[dim]:
            tensor = tensor.index_select(dim, kept.to(tensor.device))
    return tensor


def set_argument(node: fx.Node, path: Path, value: Any) -> None:
    """Call an operator with another value as the argument of that name, or at a position in it."""
    schema = node.target._schema  # type: ignore[union-attr]
    names = [argument.name for argument in schema.arguments]
    name, inside = str(path[0]), path[1:]
    place = names.index(name)
    given = node.args[place] if place < len(node.args) else node.kwargs.get(name)
    if inside:
        entries = list(given)  # type: ignore[arg-type]
        entries[int(inside[0])] = value
        value = entries
    if place < len(node.args):
        node.update_arg(place, value)
    else:
        node.update_kwarg(name, value)


def by_name(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an operator by the names of its schema, without those that are not given."""
    return dict(zip((argument.name for argument in target._schema.arguments), args, strict=False)) | dict(kwargs)


def _set_pieces(node: fx.Node, sizes: list[int]) -> None:
    """Let a node take its axis apart into pieces of these lengths, which an operator that counts them may not give."""
    given = by_name(node.target, node.args, node.kwargs)
    node.target = torch.ops.aten.split_with_sizes.default
    node.args, node.kwargs = (given["self"], sizes, given.get("dim", 0)), {}
