"""What a rule is given, and where rules are found: one for each ATen operation, by the name of its packet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from nas.convert import axes as algebra
from nas.convert.axes import Axis, Cause, Conflict, fixed, norm, rigid, size_of

Path = tuple[str | int, ...]
"""Which argument of an operation: its name in the schema, and the position in it if it is a list."""


class Derived(NamedTuple):
    """A number that an operation is called with and that follows from an axis: `sign * length(axis)`."""

    axis: Axis
    sign: int = 1


class Value(NamedTuple):
    """What is known of a tensor.

    Attributes:
        axes: of what each of its axes is made.
        clean: for each axis whether the tensor is zero at indices that an arch has not got, where those of all parameters
            are put to zero.  Sums over other axes would count what the narrower network does not have.
    """

    axes: tuple[Axis, ...]
    clean: tuple[bool, ...]

    def moved(self, order: Sequence[int]) -> Value:
        """With its axes in another order, or fewer of them."""
        return Value(tuple(self.axes[dim] for dim in order), tuple(self.clean[dim] for dim in order))


Result = Value | list[Value]
Rule = Callable[["Call"], Result]

RULES: dict[str, Rule] = {}


def words(text: str) -> frozenset[str]:
    """Names in a text, with spaces between."""
    return frozenset(text.split())


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations, by their names as in `aten.view`, without the namespace where it is `aten`.

    Args:
        names: one or several in each text.
    """

    def register(function: Rule) -> Rule:
        for name in " ".join(names).split():
            RULES[name if "." in name else f"aten.{name}"] = function
        return function

    return register


def tensors(fake: Any) -> list[Tensor]:
    """The tensors that a node gives, in order."""
    if isinstance(fake, Tensor):
        return [fake]
    return [each for one in fake for each in tensors(one)] if isinstance(fake, (list, tuple)) else []


def whole(fake: Tensor, cause: Cause | None) -> Value:
    """A tensor of which nothing can be cut."""
    return Value(tuple(fixed(size, cause) for size in fake.shape), (True,) * fake.dim())


class Call:
    """One operation of the graph: its arguments by the names of the schema, and what a rule may ask for.

    Attributes:
        soft: whether reductions over elastic axes are allowed that count indices which are gone.
        coupled: whether what the class takes for equal is equal (pieces of a chunk).
        ordered: axes that may lose their last units only, since an operation goes along them.
    """

    def __init__(
        self, node: fx.Node, known: dict[fx.Node, Result], module: str, *, soft: bool = False, coupled: bool = True
    ) -> None:
        self.node = node
        self.name = name_of(node)
        self.soft = soft
        self.coupled = coupled
        self.derived: dict[Path, Derived] = {}
        self._known = known
        self._module = module
        self._arguments = arguments(node)
        self.zeroed: list[tuple[fx.Node, Value]] = []
        self.aligned: list[Axis] = []
        self.ordered: list[Axis] = []

    def __getitem__(self, name: str) -> Any:
        return self._arguments.get(name)

    def has(self, name: str) -> bool:
        """Whether a tensor is given as the argument `name`."""
        return isinstance(self[name], fx.Node) and isinstance(self[name].meta.get("val"), Tensor)

    def value(self, name: str | fx.Node) -> Value:
        """What is known of a tensor argument."""
        node = self[name] if isinstance(name, str) else name
        found = self._known[node]
        if isinstance(found, list):
            raise Conflict
        return Value(tuple(map(norm, found.axes)), found.clean)

    def values(self, name: str) -> list[Value]:
        """What is known of a list of tensors."""
        return [self.value(node) for node in self[name]]

    def inputs(self) -> list[fx.Node]:
        """Every tensor that goes in."""
        return [node for node in self.node.all_input_nodes if isinstance(node.meta.get("val"), (Tensor, list, tuple))]

    @property
    def fakes(self) -> list[Tensor]:
        """What comes out, without values."""
        return tensors(self.node.meta["val"])

    @property
    def shape(self) -> torch.Size:
        """Shape of the first output."""
        return self.fakes[0].shape

    def cause(self, reason: str) -> Cause:
        """A cause here."""
        return Cause(reason, self.name, self._module)

    def freeze(self, axis: Axis, reason: str) -> None:
        """Nothing of an axis can be cut."""
        algebra.freeze(axis, self.cause(reason))

    def freeze_all(self, axes: Iterable[Axis], reason: str) -> None:
        """Nothing of several axes can be cut."""
        for axis in axes:
            self.freeze(axis, reason)

    def unify(self, left: Axis, right: Axis) -> None:
        """Two axes are the same."""
        algebra.unify(left, right, self.cause("joined"))

    def derive(self, path: Path, axis: Axis, sign: int = 1) -> None:
        """An argument is the length of an axis."""
        self.derived[path] = Derived(axis, sign)

    def dim(self, name: str, rank: int, default: int = 0) -> int:
        """A dimension argument as a number from 0."""
        given = self[name]
        return (default if given is None else int(given)) % max(rank, 1)

    def dims(self, name: str, rank: int) -> list[int]:
        """A list of dimensions; all of them where none is given."""
        given = self[name]
        if given is None or given == []:
            return list(range(rank))
        several = given if isinstance(given, (list, tuple)) else [given]
        return sorted({int(dim) % max(rank, 1) for dim in several})

    def reduce(self, value: Value, dims: Iterable[int], reason: str) -> None:
        """Freeze the axes that a reduction counts although an arch has not got all of them."""
        if not self.soft:
            for dim in dims:
                self.freeze(value.axes[dim], reason)

    def contract(self, axis: Axis, *clean: bool) -> None:
        """A sum over an axis is right where one of its operands is zero at what an arch has not got."""
        if not any(clean) and not self.soft:
            self.freeze(axis, "reduction")


def name_of(node: fx.Node) -> str:
    """Name of a node's operation, as in `aten.view`."""
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet) if packet is not None else getattr(node.target, "__name__", str(node.target))


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a node by the names of the operation's schema, defaults included."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {str(place): value for place, value in enumerate(node.args)} | dict(node.kwargs)
    found: dict[str, Any] = {}
    for place, argument in enumerate(schema.arguments):
        if place < len(node.args):
            found[argument.name] = node.args[place]
        elif argument.name in node.kwargs:
            found[argument.name] = node.kwargs[argument.name]
        else:
            found[argument.name] = argument.default_value if argument.has_default_value() else None
    return found


def broadcast(call: Call, operands: Sequence[Value], rank: int) -> tuple[Axis, ...]:
    """Axes of operands that are broadcast against each other: from the right, equal where none of them is 1."""
    result: list[Axis] = []
    for back in range(1, rank + 1):
        ours: Axis = ()
        for operand in operands:
            axis = operand.axes[-back] if back <= len(operand.axes) else ()
            if size_of(axis) == 1:
                continue
            if size_of(ours) == 1:
                ours = axis
            else:
                call.unify(ours, axis)
        result.append(norm(ours))
    return tuple(reversed(result))


def spread(operand: Value, axes: Sequence[Axis]) -> tuple[bool, ...]:
    """`clean` of an operand after broadcasting to `axes`: what is repeated along an elastic axis is not zero there."""
    flags = []
    for back in range(1, len(axes) + 1):
        there = back <= len(operand.axes) and size_of(operand.axes[-back]) == size_of(axes[-back])
        flags.append(operand.clean[-back] if there else rigid(norm(axes[-back])))
    return tuple(reversed(flags))
