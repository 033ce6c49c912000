"""Does a narrower network compute what the whole one does where all that it has not got is zero?

Both are the captured graph, at two sizes, and all is in double precision.  What depends on *how many* there are of something
is made not to, in both alike: a normalisation is its weight and bias times a number (that of the narrower network), a
mean over an axis that gets shorter is a sum divided by the length in the original, and attention has the scale of the original.
Where what is averaged is not zero at what the narrower network has not got, as all channels are that the same bias was added to,
the statistic is that of the narrower network in both.
What is left to differ is which numbers meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves, tree_map

from nas.convert.emission import SOURCE, Reference, by_name
from nas.convert.healthy import same_draws
from nas.convert.rules import name_of
from nas.convert.rules.norms import is_size
from nas.supernet.inputs import Inputs, tensors_in
from nas.supernet.parts import Sizes

Given = Mapping[str, Any]

ALMOST_ZERO = 1e-18
"""In the place of zeros where they give nothing finite: a row of zeros that is divided by its own length has no direction.  The
square of it is still a number in single precision."""


@torch.no_grad()
def masked(
    reference: Reference,
    tensors: Mapping[str, Tensor],
    inputs: Inputs,
    sizes: Sizes,
    left_out: Collection[str] = (),
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of the narrower network, and of the whole one with zeros at what the narrower one has not got.

    Args:
        reference: of the model.
        tensors: parameters and buffers of the whole network.
        inputs: of the form and the shapes of the example.
        sizes: lengths of atoms in the narrower network.
        left_out: units that neither of both has.
    """
    dtype = next((one.dtype for one in tensors.values() if one.is_floating_point()), torch.float64)
    scales: dict[fx.Node, float] = {}
    statistics: dict[fx.Node, Any] = {}

    def run(at: Sizes, given: Mapping[str, Tensor]) -> list[Tensor]:
        graph = reference.at(at, left_out)
        plain = _Plain(reference, graph.module, scales, statistics, dtype)
        with same_draws():
            return tensors_in(tree_leaves(plain.run(*graph.values(inputs, given))))

    ours = run(sizes, reference.cut(tensors, sizes))
    theirs = run(reference.whole, reference.masked(tensors, sizes))
    if all(map(_finite, ours)) and not all(map(_finite, theirs)):
        theirs = run(reference.whole, reference.masked(tensors, sizes, rest=ALMOST_ZERO))
    return ours, theirs


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


class _Plain(fx.Interpreter):
    """Runs a graph in one precision, with normalisations and averages that do not count."""

    def __init__(
        self,
        whole: Reference,
        module: fx.GraphModule,
        scales: dict[fx.Node, float],
        statistics: dict[fx.Node, Any],
        dtype: torch.dtype,
    ) -> None:
        super().__init__(module)
        self.whole, self.scales, self.dtype = whole, scales, dtype
        self.statistics = statistics

    def run_node(self, n: fx.Node) -> Any:
        """As `fx.Interpreter.run_node`."""
        if n.op != "call_function":
            return self._cast(super().run_node(n))
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        args, kwargs = (tree_map(self._wider, each) for each in (args, kwargs))
        handler = _HANDLERS.get(_name(n))
        if handler is not None:
            given = by_name(n.target, args, kwargs)
            found = handler(self, n.meta[SOURCE], given)
            if found is not None:
                return self._cast(found)
        return self._cast(n.target(*args, **kwargs))  # type: ignore[operator]

    def _cast(self, found: Any) -> Any:
        return tree_map(lambda one: one.to(self.dtype) if _is_real(one) else one, found)

    def _wider(self, argument: Any) -> Any:
        """The type in which all is computed, where the graph has another one written into it."""
        return self.dtype if isinstance(argument, torch.dtype) and argument.is_floating_point else argument

    def scale(self, node: fx.Node, tensor: Tensor) -> float:
        """A number that brings `tensor` to a size of 1: of the narrower network, which runs first."""
        if node not in self.scales:
            size = float(tensor.double().pow(2).mean().sqrt()) if tensor.numel() else 0.0
            self.scales[node] = 1 / size if size > 0 and math.isfinite(size) else 1.0
        return self.scales[node]


def _is_real(one: Any) -> bool:
    return isinstance(one, Tensor) and one.is_floating_point()


def _name(node: fx.Node) -> str:
    """Of its operation, without the namespace."""
    return name_of(node).removeprefix("aten.")


def _norm(axis: int) -> Callable[[_Plain, fx.Node, Given], Any]:
    """A normalisation whose weight and bias run along `axis` as its affine part; None leaves the operator as it is."""

    def handle(run: _Plain, node: fx.Node, given: Given) -> Any:
        if _name(node).endswith("batch_norm") and not (given.get("training") or given.get("running_mean") is None):
            return None
        tensor = given["input"]
        found = tensor * run.scale(node, tensor)
        if given.get("weight") is not None:
            found = found * _along(given["weight"], axis, found.dim())
        if given.get("bias") is not None:
            found = found + _along(given["bias"], axis, found.dim())
        fake = node.meta["val"]
        return found if isinstance(fake, Tensor) else (found, *(None for _ in fake[1:]))

    return handle


def _along(tensor: Tensor, axis: int, rank: int) -> Tensor:
    if axis < 0 or tensor.dim() != 1:
        return tensor
    return tensor.view([-1 if place == axis else 1 for place in range(rank)])


def _average(run: _Plain, node: fx.Node, given: Given) -> Any:
    """A mean or variance over an axis that got shorter, as one of the original's length; that of others as it is."""
    if node.args[0] not in run.whole.uneven:
        return _counted(run, node, given)
    if node not in run.statistics:  # the narrower network, which runs first
        run.statistics[node] = _counted(run, node, given)
        return run.statistics[node]
    found, known = _counted(run, node, given), run.statistics[node]
    alike = known is not None and _shapes(known) == _shapes(found)
    return known if alike else found


def _shapes(found: Any) -> list[torch.Size]:
    return [one.shape for one in tree_leaves(found)]


def _counted(run: _Plain, node: fx.Node, given: Given) -> Any:
    tensor, before = given["self"], run.whole.value(node.args[0]).shape
    dims = given.get("dim")
    dims = list(range(len(before))) if dims is None or dims == [] else [dims] if isinstance(dims, int) else list(dims)
    shorter = any(tensor.shape[dim] != before[dim] for dim in dims)
    if not (shorter or node in run.scales):
        return None
    run.scales.setdefault(node, 1.0)
    count = math.prod(before[dim] for dim in dims)
    keep = bool(given.get("keepdim", False))
    name = _name(node)
    if name == "mean":
        mean = tensor.sum(dims, keepdim=keep) / count
        return mean if is_size(node.args[0]) else torch.zeros_like(mean)
    # What a normalisation subtracts is taken for zero, so that a variance is the mean of squares.
    spread = tensor.pow(2).sum(dims, keepdim=keep) / count
    spread = spread.sqrt() if name.startswith("std") else spread
    return (spread, torch.zeros_like(spread)) if name.endswith("_mean") else spread


def _attention(run: _Plain, node: fx.Node, given: Given) -> Any:
    """With the scale that it has in the original."""
    if given.get("scale") is not None:
        return None
    width = run.whole.value(node.args[0]).shape[-1]
    mask = given.get("attn_mask")
    return torch.nn.functional.scaled_dot_product_attention(
        given["query"],
        given["key"],
        given["value"],
        attn_mask=mask,
        is_causal=given.get("is_causal", False),
        scale=width**-0.5,
        enable_gqa=given.get("enable_gqa", False),
    )


_HANDLERS: dict[str, Callable[[_Plain, fx.Node, Given], Any]] = {
    **dict.fromkeys(("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"), _norm(-1)),
    **dict.fromkeys(("group_norm", "native_group_norm", "batch_norm"), _norm(1)),
    **dict.fromkeys(("mean", "var", "std", "var_mean", "std_mean"), _average),
    "scaled_dot_product_attention": _attention,
}
