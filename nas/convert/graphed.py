"""Archs whose forward is the captured graph: where the class has sizes as numbers in its source, or takes them for equal.

Such a module is still of the user's class, with the names, ties, layers and buffers of the original: only `forward` is the
graph, which takes its tensors from the module at every call.  The number of samples is no number of the graph: it is an atom as
others are, so that every argument that follows from it is computed from the inputs.  What the Python code of the class decides by
`self.training` is decided as in evaluation, but for dropout and normalisations, which follow the module's mode.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from nas.convert.emission import Reference, by_name, set_argument
from nas.errors import SupernetError
from nas.supernet.inputs import Inputs, arguments, call, tensors_in
from nas.supernet.parts import Sizes

_MODES = ("train", "training")


def _layer_norm(
    x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, _cudnn: bool = True
) -> Any:
    return functional.layer_norm(x, shape, weight, bias, eps)


def _group_norm(
    x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, _cudnn: bool = True
) -> Any:
    return functional.group_norm(x, groups, weight, bias, eps)


def _rms_norm(x: Any, shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    return functional.rms_norm(x, shape, weight, eps)


def _batch_norm(x: Any, weight: Any, bias: Any, mean: Any, var: Any, *rest: Any) -> Any:
    training, momentum, eps = rest[:3]
    return functional.batch_norm(x, mean, var, weight, bias, training, momentum, eps)


def _attention(*args: Any, **kwargs: Any) -> Any:
    return functional.scaled_dot_product_attention(*args, **kwargs)


_LOOKED_UP = {
    torch.ops.aten.layer_norm.default: _layer_norm,
    torch.ops.aten.group_norm.default: _group_norm,
    torch.ops.aten.rms_norm.default: _rms_norm,
    torch.ops.aten.batch_norm.default: _batch_norm,
    torch.ops.aten.scaled_dot_product_attention.default: _attention,
}
"""What programs replace in `torch.nn.functional` (synchronised statistics, kernels of their own) is looked up at each call."""


class Graphed:
    """The forward of `owner`, as a graph.

    Args:
        owner: module of the user's class, resized; its tensors are looked up at every call.
        reference: the captured graph, with the number of samples open.
        sizes: lengths of atoms in the arch.
        left_out: units of depth that it has not.
    """

    def __init__(self, owner: nn.Module, reference: Reference, sizes: Sizes, left_out: Collection[str]) -> None:
        capture = reference.at(sizes, left_out)
        self.owner = owner
        self.programs = {mode: _program(capture.module, training=mode) for mode in (False, True)}
        self.structure, self.order = capture.structure, capture.order
        used = {node.name for node in capture.module.graph.nodes if node.op == "placeholder" and node.users}
        self.sources = [
            (
                source.kind,
                source.names[0].split("."),
                source.tensor if source.kind == "constant" else None,
                source.node.name in used,
            )
            for source in capture.sources
        ]
        inputs = [source for source in capture.sources if source.kind == "input"]
        open_axes = {
            source.node.name: reference.samples[source.node] for source in inputs if source.node in reference.samples
        }
        self.expected = [
            (tuple(source.tensor.shape), open_axes.get(source.node.name)) if isinstance(source.tensor, Tensor) else None
            for source in inputs
        ]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives."""
        given = self._flat(args, kwargs)
        self._check(given)
        inputs = iter(given)
        values = []
        for kind, path, constant, used in self.sources:
            if kind == "input":
                values.append(next(inputs))
            elif not used:
                values.append(None)
            elif kind in ("constant", "table"):  # which are not moved with a module
                values.append(self._constant(constant if kind == "constant" else _tensor(self.owner, path)))
            else:
                values.append(_tensor(self.owner, path))
        program = self.programs[self.owner.training]
        return pytree.tree_unflatten(list(program(*values)), self.structure)

    def _flat(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        if self.order is not None:
            names = self.order.children()[1].context
            if set(names) != set(kwargs):
                raise SupernetError(
                    f"arguments {sorted(kwargs)} were given by name, and this network was captured with {sorted(names)}; "
                    "call it as the example of nas.elastic was given"
                )
            kwargs = {name: kwargs[name] for name in names}
        return pytree.tree_leaves((args, kwargs))

    def _check(self, given: list[Any]) -> None:
        if len(given) != len(self.expected):
            raise SupernetError(
                f"{len(given)} inputs were given, and this network was captured with {len(self.expected)}"
            )
        for value, expected in zip(given, self.expected, strict=True):
            if expected is None:
                continue
            shape, samples = expected
            found = list(value.shape)
            if samples is not None and samples < len(found):
                found[samples] = shape[samples]
            if tuple(found) != shape:
                raise SupernetError(
                    f"an input of shape {tuple(value.shape)} was given to a captured graph of inputs {shape}; only the number "
                    "of samples may differ: give inputs of that size, or write sizes of the model as attributes, so that its "
                    "own class can be resized"
                )

    def _constant(self, constant: Any) -> Any:
        if not isinstance(constant, Tensor):
            return constant
        first = next(self.owner.parameters(), None)
        return constant if first is None else constant.to(first.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Graphed:
        copied = copy.copy(self)
        copied.owner = memo.get(id(self.owner), self.owner)
        return copied


def _tensor(owner: nn.Module, path: Sequence[str]) -> Tensor:
    """A parameter or buffer as it is now: a supernet hangs its own there.  Many at each call, so that tables are read."""
    *modules, key = path
    module: Any = owner
    for name in modules:
        module = module._modules[name]
    found = module._parameters.get(key)
    if found is None:
        found = module._buffers.get(key)
    tensor: Tensor = getattr(module, key) if found is None else found
    return tensor


def _program(module: fx.GraphModule, *, training: bool) -> fx.GraphModule:
    """The graph, in training with dropout and normalisations as in training, and with norms and attention of `functional`."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    for node in graph.nodes:
        target = node.target
        given = by_name(target, node.args, node.kwargs) if isinstance(target, torch._ops.OpOverload) else {}
        for name in _MODES if training else ():
            if given.get(name) is False:
                set_argument(node, (name,), True)
        node.target = _LOOKED_UP.get(target, target)
    return fx.GraphModule(module, graph)


def install(module: nn.Module, reference: Reference, sizes: Sizes, left_out: Collection[str]) -> None:
    """Let the forward of a resized module be the graph."""
    vars(module)["forward"] = Graphed(module, reference, sizes, left_out).forward


@torch.no_grad()
def same_at_other_sizes(model: nn.Module, reference: Reference, inputs: Iterable[Inputs]) -> float:
    """Largest difference between a model and its graph, relative to the largest output; infinite for other shapes.

    Args:
        model: in evaluation mode.
        reference: of it.
        inputs: of several numbers of samples.
    """
    worst = 0.0
    graphed = Graphed(model, reference, reference.whole, ())
    for each in inputs:
        positional, keywords = arguments(each)
        try:
            ours, theirs = tensors_in(graphed.forward(*positional, **keywords)), tensors_in(call(model, each))
        except Exception:  # whatever an operator says to another size
            return math.inf
        for one, other in zip(ours, theirs, strict=True):
            if one.shape != other.shape:
                return math.inf
            if one.numel():
                worst = max(worst, float((one - other).abs().max()) / max(float(other.abs().max()), 1e-12))
    return worst
