"""Which argument of which operator a tracked number became, observed while a model is captured."""

from __future__ import annotations

import contextlib
import logging
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from nas.convert.refusing import memory_of, written_by
from nas.convert.tracking import Expression, Path, TrackedFloat, TrackedInt, is_size, leaves, plain
from nas.errors import SpaceError

Arguments = dict[Path, Expression]
"""Of one operator: name of the argument in its schema and position in it, `("size", 2)`, and what it follows from."""

MARK = "nas"
"""Key of a node's number in its `custom` entry, which `torch.export` carries to the graph that it gives."""
_log = logging.getLogger("nas")
OFTEN = 5_000
"""Operators after each of which a line says that a capture goes on: each takes some milliseconds of the processor."""
_MOST = 1_000
"""Operators that are computed to know a value."""
_ASKED = (
    *(torch.Tensor.__bool__, torch.Tensor.__int__, torch.Tensor.__float__, torch.Tensor.__index__),
    *(torch.Tensor.item, torch.Tensor.tolist),
)
_QUESTIONS = frozenset({"has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"})


class Observer(TorchFunctionMode):
    """While it is active under an export: strips tracked numbers from calls, and notes where they went.

    Functions of torch that are written in Python are entered, so that what they compute from sizes is seen too, and shapes of
    tensors are tracked numbers themselves.

    Attributes:
        found: number of a node -> its tracked arguments.
        compared: expressions that were compared -> whether they are equal; whoever runs the model says which.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, Arguments] = {}
        self.compared: dict[tuple[Expression, Expression], bool] = {}
        self._nodes = 0
        self._calls = 0
        self._inside: list[object] = []
        self._bodies: dict[object, Callable[..., Any]] = {}
        self._own: dict[object, Callable[..., Any]] = {
            torch.Tensor.shape.__get__: self._shape,  # type: ignore[attr-defined]
            torch.Tensor.size: self._size,
            torch.Tensor.numel: self._numel,
            torch.numel: self._numel,
            torch.Tensor.nelement: self._numel,
            torch.Tensor.data.__get__: self._data,  # type: ignore[attr-defined]
            torch.Tensor.data.__set__: self._assign,  # type: ignore[attr-defined]
            **{asked: partial(self._asked, asked) for asked in _ASKED},
            torch._C._set_grad_enabled: _set_grad_enabled,
        }

    def __torch_function__(
        self, func: Any, types_: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        own = self._own.get(func)
        if own is not None:
            return own(*args, **kwargs)
        if isinstance(func, types.FunctionType) and func not in self._inside:
            return self._enter(func, args, kwargs)
        self._count()
        given = [(path, number) for path, number in leaves((args, kwargs))]
        if not given:
            return func(*args, **kwargs)
        graph = _graph()
        last = None if graph is None else _last(graph)
        result = func(*plain(args), **plain(kwargs))
        if graph is not None:
            self._note(func, args, kwargs, list(_since(graph, last)))
        return result

    def _count(self) -> None:
        self._calls += 1
        if self._calls % OFTEN == 0:
            _log.warning("the model called %s operators so far; nas.elastic goes on", f"{self._calls:,}")

    def _enter(self, func: types.FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Its body, which asks about overrides no more: calls inside come here again."""
        body = self._bodies.get(func) or self._bodies.setdefault(func, without_overrides(func))
        self._inside.append(func)
        try:
            with self:
                return body(*args, **kwargs)
        finally:
            self._inside.pop()

    def _data(self, tensor: Tensor, _: Any = None) -> Tensor:
        return tensor.detach()  # what is done to it must be seen in the graph

    def _assign(self, tensor: Tensor, data: Tensor) -> None:
        node = _node_of(tensor)
        if node is not None and node.op == "placeholder":
            raise SpaceError(
                "the model gives a parameter or buffer other data when it is called (`.data = …`), so that every arch would "
                "change the weights of all; compute a new tensor there, or change it in the training loop"
            )
        tensor.data = data

    def _asked(self, func: Callable[..., Any], tensor: Tensor) -> Any:
        """A value, which is known where no parameter and no input has a part in it: of a mask of a given length."""
        node = _node_of(tensor)
        if node is not None:
            with contextlib.suppress(_Unknown), _disable_current_modes():
                written = {memory_of(target) for one in node.graph.nodes for target in written_by(one)}
                return func(_computed(node, {}, written))
        return func(tensor)

    # -- shapes

    def _shape(self, tensor: Tensor, _: Any = None) -> torch.Size:
        shape = tensor.shape
        node = _node_of(tensor)
        if node is None:
            return shape
        number = self.number(node)
        return torch.Size(
            [
                TrackedInt(length, ("dim", number, axis)) if is_size(length) else length
                for axis, length in enumerate(shape)
            ]
        )

    def _size(self, tensor: Tensor, dim: int | None = None) -> Any:
        shape = self._shape(tensor)
        return shape if dim is None else shape[plain(dim)]

    def _numel(self, input: Tensor) -> Any:  # as torch calls it
        product: Any = 1
        for length in self._shape(input):
            product = length * product
        return product

    # -- nodes

    def number(self, node: fx.Node) -> int:
        """The number that is written on a node of the graph."""
        custom = node.meta.get("custom") or {}
        if MARK not in custom:
            self._nodes += 1
            node.meta["custom"] = {**custom, MARK: self._nodes}  # torch gives the same dict to several nodes
        return int(node.meta["custom"][MARK])

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], nodes: list[fx.Node]) -> None:
        operators = [node for node in nodes if isinstance(node.target, OpOverload)]
        for node, path, expression in _matched(func, args, kwargs, operators):
            self.found.setdefault(self.number(node), {})[path] = expression


def _set_grad_enabled(mode: bool) -> None:
    """Without a node: torch would make a region of each, in time that grows with their number times the operators."""
    with torch._C.DisableTorchFunction():
        torch._C._set_grad_enabled(mode)


class _Unknown(Exception):
    """What a tensor depends on has no value during the capture."""


def _computed(node: fx.Node, known: dict[fx.Node, Any], written: set[Any]) -> Any:
    """The value of a node that follows from numbers alone.

    Raises:
        _Unknown: it does not, or is random.
    """
    if node not in known:
        random = isinstance(node.target, OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags
        if node.op != "call_function" or random or memory_of(node) in written or len(known) > _MOST:
            raise _Unknown
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda one: _computed(one, known, written))
        known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return known[node]


def without_overrides(func: types.FunctionType) -> Callable[..., Any]:
    """A copy of a function of torch in which no argument has overrides."""
    names = {name: _never for name in _QUESTIONS if name in func.__globals__}
    if not names:
        return func
    copied = types.FunctionType(
        func.__code__, {**func.__globals__, **names}, func.__name__, func.__defaults__, func.__closure__
    )
    copied.__kwdefaults__ = func.__kwdefaults__
    return copied


def _never(*_: Any) -> bool:
    return False


def _graph() -> fx.Graph | None:
    mode = get_proxy_mode()
    return None if mode is None else mode.tracer.graph


def _node_of(tensor: Tensor) -> fx.Node | None:
    """The node of the graph under construction that gave a tensor."""
    mode = get_proxy_mode()
    if mode is None:
        return None
    slot = get_proxy_slot(tensor, mode.tracer, None)
    return None if slot is None else slot.proxy.node


def _last(graph: fx.Graph) -> fx.Node:
    return graph._root._prev


def _since(graph: fx.Graph, last: fx.Node | None) -> Iterator[fx.Node]:
    """Nodes after `last`, in order."""
    found = []
    node = graph._root._prev
    while node is not last and node is not graph._root:
        found.append(node)
        node = node._prev
    yield from reversed(found)


# -- from the arguments of a call to those of an operator

Match = tuple[fx.Node, Path, Expression]


def _matched(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], nodes: list[fx.Node]) -> Iterator[Match]:
    """Arguments of the operators that a call made, which tracked arguments of the call became."""
    name = _name(func)
    if name in ("getitem", "setitem"):
        yield from _of_index(args[0], args[1], nodes)
        return
    found: list[Match] = []
    node = _main(name, nodes)
    if node is not None:
        found = list(_of_schema(node, args, kwargs))
        yield from found
    taken = {(node, path) for node, path, _ in found}
    rest = [number for _, number in leaves((args, kwargs)) if not any(e == number.expression for _, _, e in found)]
    for number in rest:
        places = [
            (node, path)
            for node in nodes
            for path, value in _numbers(node)
            if (node, path) not in taken and type(value) is type(plain(number)) and value == plain(number)
        ]
        same = [other for other in rest if plain(other) == plain(number) and other.expression != number.expression]
        if len(places) == 1 and not same:  # one number of the call, one place in what the call made: it flowed there
            yield (*places[0], number.expression)


def _name(func: Any) -> str:
    name = func._schema.name.partition("::")[2] if isinstance(func, OpOverload) else ""
    return (name or getattr(func, "__name__", "")).strip("_")


def _main(name: str, nodes: Sequence[fx.Node]) -> fx.Node | None:
    """The operator that a call of this name is."""
    names = {name, name[1:]}  # __rmul__, __imul__
    for node in nodes:
        if _schema(node).name.partition("::")[2].strip("_") in names:
            return node
    return nodes[0] if len(nodes) == 1 else None


def _schema(node: fx.Node) -> Any:
    return node.target._schema  # type: ignore[union-attr]


def _values(node: fx.Node) -> dict[str, Any]:
    """Arguments that an operator was given, by the names of its schema, in order."""
    values: dict[str, Any] = {}
    for place, argument in enumerate(_schema(node).arguments):
        if place < len(node.args):
            values[argument.name] = node.args[place]
        elif argument.name in node.kwargs:
            values[argument.name] = node.kwargs[argument.name]
    return values


def _numbers(node: fx.Node) -> Iterator[tuple[Path, Any]]:
    """Numbers among the arguments of an operator, and their paths."""
    for name, value in _values(node).items():
        if isinstance(value, (list, tuple)):
            yield from (((name, place), item) for place, item in enumerate(value) if _is_number(item))
        elif _is_number(value):
            yield (name,), value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _of_schema(node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Match]:
    """By position and name, as the operator's schema has them; what has another value there is left out."""
    values = _values(node)
    names = [argument.name for argument in _schema(node).arguments]
    bound = {name: kwargs[name] for name in names if name in kwargs}
    for place, name in enumerate(names[: len(args)]):
        several = args[place:]
        if isinstance(values.get(name), (list, tuple)) and len(several) > 1 and all(map(_is_number, several)):
            bound[name] = several  # x.view(2, 3): the numbers of one argument
            break
        bound[name] = args[place]
    for name, given in bound.items():
        actual = values.get(name)
        for_all = isinstance(actual, (list, tuple)) and _is_number(given)  # one number for all axes
        for path, number in leaves([given] * len(actual) if for_all and isinstance(actual, (list, tuple)) else given):
            value = actual
            for step in path:
                fits = isinstance(value, (list, tuple)) and isinstance(step, int) and step < len(value)
                value = value[step] if fits and isinstance(step, int) and isinstance(value, (list, tuple)) else None
            if _is_number(value) and value == plain(number):
                yield node, (name, *path), number.expression


def _of_index(tensor: Tensor, index: Any, nodes: Sequence[fx.Node]) -> Iterator[Match]:
    """Bounds of slices and single indices."""
    items = list(index) if isinstance(index, tuple) else [index]
    taken = sum(_axes_of(item) for item in items)
    axis = 0
    for item in items:
        if item is Ellipsis:
            axis += tensor.dim() - taken
        elif isinstance(item, slice):
            yield from _of_slice(item, axis, nodes)
            axis += 1
        elif isinstance(item, TrackedInt):
            for node in nodes:
                if node.target is torch.ops.aten.select.int and node.args[1:] == (axis, int(item)):
                    yield node, ("index",), item.expression
        elif item is None or isinstance(item, (Tensor, list)):
            axis += 1


def _axes_of(item: Any) -> int:
    """Axes of the tensor that an item of an index takes."""
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    return item.dim() if isinstance(item, Tensor) and item.dtype == torch.bool else 1


def _of_slice(item: slice, axis: int, nodes: Sequence[fx.Node]) -> Iterator[Match]:
    for node in nodes:
        values = _values(node) if node.target is torch.ops.aten.slice.Tensor else {}
        if values and values.get("dim", 0) == axis:
            for name, given in (("start", item.start), ("end", item.stop), ("step", item.step)):
                if isinstance(given, (TrackedInt, TrackedFloat)) and values.get(name) == plain(given):
                    yield node, (name,), given.expression
