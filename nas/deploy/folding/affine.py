"""Which modules of a captured model only scale and shift their input, and by what.

A module is looked at as what it computed, whatever its class: a BatchNorm, a re-parameterised norm (a BatchNorm beside a scaled
skip), a layer scale, a blend of two norms whose weight has come to its end, an activation whose slope has become 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

Constants: TypeAlias = Mapping[fx.Node, Tensor]
"""Value of each node that follows from parameters and buffers alone."""


@dataclass(frozen=True, eq=False)
class Affine:
    """`scale * permute(root, order) + shift`, of a root that is known to whoever asks.

    Attributes:
        scale: as many axes as the value, in double precision; those along which it is constant have length 1.
        shift: likewise.
        order: of the root's axes.
    """

    scale: Tensor
    shift: Tensor
    order: tuple[int, ...]

    def times(self, factor: Tensor) -> Affine:
        """Multiplied, with as many axes."""
        return Affine(self.scale * factor, self.shift * factor, self.order)

    def plus(self, other: Affine, alpha: float = 1.0) -> Affine:
        """Added, of one order."""
        return Affine(self.scale + alpha * other.scale, self.shift + alpha * other.shift, self.order)

    def permuted(self, axes: Sequence[int]) -> Affine:
        """With axes in this order."""
        return Affine(self.scale.permute(*axes), self.shift.permute(*axes), tuple(self.order[axis] for axis in axes))


def name_of(node: fx.Node) -> str:
    """The operator's name without overload; "" of what is none."""
    schema = getattr(node.target, "_schema", None) if node.op == "call_function" else None
    return "" if schema is None else str(schema.name).partition("::")[2]


def writes(node: fx.Node) -> bool:
    """Whether the operator changes one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


def affine_of(nodes: Sequence[fx.Node], given: fx.Node, result: fx.Node, constants: Constants) -> Affine | None:
    """What `result` is of `given`, element by element along axes; None if it is more than scaled and shifted.

    Args:
        nodes: of the module, in order.
        given: its input.
        result: its output, one of `nodes`.
        constants: of the graph.
    """
    if any(writes(node) for node in nodes) or _shape(given) is None or _shape(given) != _shape(result):
        return None
    axes = len(_shape(given) or ())
    known = {given: Affine(_full(1.0, axes), _full(0.0, axes), tuple(range(axes)))}
    for node in nodes:
        found = _value(node, _Known(known, constants))
        if found is not None:
            known[node] = found
    affine = known.get(result)
    return affine if affine is not None and affine.order == tuple(range(axes)) else None


@dataclass(frozen=True, eq=False)
class _Known:
    affine: Mapping[fx.Node, Affine]
    constants: Constants

    def of(self, value: Any) -> Affine | None:
        return self.affine.get(value) if isinstance(value, fx.Node) else None

    def tensor(self, value: Any) -> Tensor | None:
        """A constant in double precision."""
        found = self.constants.get(value) if isinstance(value, fx.Node) else None
        return found.detach().double() if found is not None and found.is_floating_point() else None

    def constant(self, value: Any, axes: int) -> Tensor | None:
        """A number or tensor in double precision with `axes` axes."""
        if isinstance(value, fx.Node):
            tensor = self.tensor(value)
            if tensor is None or tensor.dim() > axes:
                return None
            return tensor.reshape((1,) * (axes - tensor.dim()) + tuple(tensor.shape))
        return _full(float(value), axes) if isinstance(value, (int, float)) else None


def _value(node: fx.Node, known: _Known) -> Affine | None:
    rule = _RULES.get(name_of(node))
    if rule is None or _shape(node) is None:
        return None
    return rule(node, known)


def _shape(node: fx.Node) -> tuple[Any, ...] | None:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _dtype(node: fx.Node) -> torch.dtype | None:
    value = node.meta.get("val")
    return value.dtype if isinstance(value, Tensor) else None


def _full(value: float, axes: int) -> Tensor:
    return torch.full((1,) * axes, value, dtype=torch.float64)


def _number(value: Any) -> float:
    return float(value)


def _argument(node: fx.Node, place: int, name: str, default: Any = None) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


# -- one rule for each operator


def _same(node: fx.Node, known: _Known) -> Affine | None:
    """What copies, in the same type."""
    first = node.args[0]
    return known.of(first) if isinstance(first, fx.Node) and _dtype(first) == _dtype(node) else None


def _dropout(node: fx.Node, known: _Known) -> Affine | None:
    return None if _argument(node, 2, "train") else known.of(node.args[0])


def _batch_norm(node: fx.Node, known: _Known) -> Affine | None:
    given, weight, bias, mean, variance, training, _, eps, *_ = node.args
    found, centre, spread = known.of(given), known.tensor(mean), known.tensor(variance)
    if found is None or training or centre is None or spread is None:
        return None
    own = torch.ones_like(centre) if weight is None else known.tensor(weight)
    add = torch.zeros_like(centre) if bias is None else known.tensor(bias)
    if own is None or add is None:
        return None
    shape = (1, -1, *(1,) * (found.scale.dim() - 2))
    scale = own * (spread + _number(eps)).rsqrt()
    factor, shift = scale.reshape(shape), (add - centre * scale).reshape(shape)
    return Affine(found.scale * factor, found.shift * factor + shift, found.order)


def _times(node: fx.Node, known: _Known) -> Affine | None:
    one, other = node.args[:2]
    axes = len(_shape(node) or ())
    for first, second in ((one, other), (other, one)):
        factor = known.constant(second, axes)
        if factor is None:
            continue
        found = known.of(first)
        if found is not None and _fits(found, factor, node):
            return found.times(factor)
        if found is None and isinstance(first, fx.Node) and not factor.any() and _shape(first) == _shape(node):
            return Affine(_full(0.0, axes), _full(0.0, axes), tuple(range(axes)))  # a branch that is switched off
    return None


def _divided(node: fx.Node, known: _Known) -> Affine | None:
    if node.kwargs.get("rounding_mode") is not None:
        return None
    found, factor = known.of(node.args[0]), known.constant(node.args[1], len(_shape(node) or ()))
    return found.times(1 / factor) if found is not None and factor is not None and _fits(found, factor, node) else None


def _added(node: fx.Node, known: _Known, sign: float = 1.0) -> Affine | None:
    alpha = sign * _number(node.kwargs.get("alpha", 1))
    one, other = (_term(value, known, node) for value in node.args[:2])
    if one is None or other is None:
        return None
    if isinstance(one, Tensor):
        if isinstance(other, Tensor):
            return None
        scaled = other.times(_full(alpha, one.dim()))
        return Affine(scaled.scale, scaled.shift + one, other.order) if _fits(other, one, node) else None
    if isinstance(other, Tensor):
        return Affine(one.scale, one.shift + alpha * other, one.order) if _fits(one, other, node) else None
    return one.plus(other, alpha) if one.order == other.order else None


def _term(value: Any, known: _Known, node: fx.Node) -> Affine | Tensor | None:
    found = known.of(value)
    return found if found is not None else known.constant(value, len(_shape(node) or ()))


def _subtracted(node: fx.Node, known: _Known) -> Affine | None:
    return _added(node, known, -1.0)


def _negative(node: fx.Node, known: _Known) -> Affine | None:
    found = known.of(node.args[0])
    return None if found is None else found.times(_full(-1.0, found.scale.dim()))


def _blended(node: fx.Node, known: _Known) -> Affine | None:
    """`lerp`: the first, the second, or a mean of two that are both known."""
    axes = len(_shape(node) or ())
    weight = known.constant(node.args[2], axes)
    if weight is None or weight.numel() != 1:
        return None
    share, (one, other) = float(weight), (known.of(value) for value in node.args[:2])
    if share in (0.0, 1.0):
        return other if share else one
    if one is None or other is None or one.order != other.order:
        return None
    return one.times(_full(1 - share, axes)).plus(other, share)


def _leaky(node: fx.Node, known: _Known) -> Affine | None:
    return known.of(node.args[0]) if float(_argument(node, 1, "negative_slope", 0.01)) == 1.0 else None


def _prelu(node: fx.Node, known: _Known) -> Affine | None:
    slope = known.tensor(node.args[1])
    return known.of(node.args[0]) if slope is not None and bool((slope == 1).all()) else None


def _permuted(node: fx.Node, known: _Known) -> Affine | None:
    found = known.of(node.args[0])
    if found is None:
        return None
    return found.permuted(order_of(node, found.scale.dim()))


def order_of(view: fx.Node, axes: int) -> list[int]:
    """Which axis each axis of a permuted tensor was."""
    given: Any = view.args[1:]
    if name_of(view) == "permute":
        return [int(axis) % axes for axis in given[0]]
    order = list(range(axes))
    first, second = (int(axis) % axes for axis in SWAPS[name_of(view)] or given)
    order[first], order[second] = second, first
    return order


def _reshaped(node: fx.Node, known: _Known) -> Affine | None:
    """With the last axis as it was, if anything depends on it: the others are only counted in another way."""
    first = node.args[0]
    found = known.of(first)
    if found is None or not isinstance(first, fx.Node) or list(found.order) != sorted(found.order):
        return None
    before, after = _shape(first) or (), _shape(node) or ()
    if found.scale.numel() == found.shift.numel() == 1:
        lengths = (1, 1)
    elif not before or not after or before[-1] != after[-1]:
        return None
    else:
        lengths = (found.scale.shape[-1], found.shift.shape[-1])
    if (found.scale.numel(), found.shift.numel()) != lengths:
        return None
    ones = (1,) * (len(after) - 1) if after else ()
    scale, shift = (values.reshape(*ones, -1) if after else values.reshape(()) for values in (found.scale, found.shift))
    return Affine(scale, shift, tuple(range(len(after))))


def _fits(found: Affine, factor: Tensor, node: fx.Node) -> bool:
    """Whether an operation with this constant leaves the shape as it is."""
    shape = _shape(node) or ()
    return found.scale.dim() == len(shape) == factor.dim()


RESHAPES = ("view", "reshape", "flatten", "unflatten", "reshape_as", "view_as", "unsqueeze", "squeeze", "_unsafe_view")
"""Operators after which elements are in the same order."""
SWAPS: Mapping[str, tuple[int, int] | None] = {"transpose": None, "t": (0, 1), "mT": (-2, -1)}
"""Operators that exchange two axes: which, unless they are told."""
_RULES: Mapping[str, Callable[[fx.Node, _Known], Affine | None]] = {
    **dict.fromkeys(("clone", "contiguous", "alias", "detach", "to", "_to_copy"), _same),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), _dropout),
    **dict.fromkeys(("permute", *SWAPS), _permuted),
    **dict.fromkeys(RESHAPES, _reshaped),
    "batch_norm": _batch_norm,
    "mul": _times,
    "div": _divided,
    "add": _added,
    "sub": _subtracted,
    "neg": _negative,
    "lerp": _blended,
    "leaky_relu": _leaky,
    "prelu": _prelu,
}


_UNCHANGED = frozenset(
    (
        "alias",
        "contiguous",
        "detach",
        "dropout",
        "expand",
        "feature_dropout",
        "flatten",
        "reshape",
        "reshape_as",
        "to",
        "view",
    )
)
"""Operators that give what they are given, if shape and type stay; a dropout, if it is off."""


def simplify(graph: fx.Graph) -> None:
    """Drop the operators that do nothing: whoever reads one reads what it was given.  What is read for its shape is not read.

    A tracer that gets the same tensor back takes it for the operator's from there on, outside of the module too.
    """
    for node in list(graph.nodes):
        given = node.args[0] if node.args else None
        if name_of(node) in ("reshape_as", "view_as") and _shape(node) is not None:
            node.target, node.args = torch.ops.aten.reshape.default, (given, list(_shape(node) or ()))
        if name_of(node) not in _UNCHANGED or not isinstance(given, fx.Node) or _shape(given) is None:
            continue
        if (_shape(given), _dtype(given)) != (_shape(node), _dtype(node)):
            continue
        if "dropout" not in name_of(node) or not _argument(node, 2, "train"):
            node.replace_all_uses_with(given)
            graph.erase_node(node)


def constants_of(graph: fx.Graph, values: Mapping[fx.Node, Tensor]) -> dict[fx.Node, Tensor]:
    """The nodes that follow from `values` alone, with what they are; not those that draw at random.

    Args:
        graph: of a model.
        values: of placeholders: parameters and buffers.
    """
    found = dict(values)
    for node in graph.nodes:
        inputs = node.all_input_nodes
        if not inputs or not name_of(node) or writes(node) or not all(each in found for each in inputs):
            continue
        target: Any = node.target
        if torch.Tag.nondeterministic_seeded in target.tags:
            continue
        value = target(*fx.map_arg(node.args, found.__getitem__), **fx.map_arg(node.kwargs, found.__getitem__))
        if isinstance(value, Tensor):
            found[node] = value
    return found
