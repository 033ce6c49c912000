"""A model as a graph of operators, with where their arguments came from.

`torch.export` runs a copy of the model once, on tensors without values.  The copy shares the parameters and buffers; the user's
module is left as it was.
"""

from __future__ import annotations

import copy
import functools
import random
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from nas.convert.observing import MARK, Arguments, Observer
from nas.convert.tracking import Expression, plain, replaced, track_attributes
from nas.errors import SpaceError, brief
from nas.supernet.inputs import Inputs, arguments, tensors_in

_KINDS = {
    InputKind.PARAMETER: "parameter",
    InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "constant",
    InputKind.USER_INPUT: "input",
}
_REGIONS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")
"""Higher-order operators that run a part of the graph under a setting: 1 and 4 arguments before the part."""


@dataclass(frozen=True, eq=False)
class Source:
    """Where a placeholder of the graph has its value from.

    Attributes:
        node: the placeholder.
        kind: "parameter", "buffer", "constant" (a tensor that is neither, or what is no tensor), or "input".
        names: all qualified names that the tensor has in the model (ties); the export's name of a constant or an input.
        tensor: the model's own tensor, or the example's.  Whatever the input is where it is no tensor.
    """

    node: fx.Node
    kind: str
    names: tuple[str, ...]
    tensor: Any


@dataclass(frozen=True, eq=False)
class Capture:
    """A model as a graph.

    Attributes:
        module: the graph, runnable; its placeholders are `sources` in order, nodes have `meta["val"]`.
        sources: of the placeholders.
        outputs: of the graph, flat: nodes, or numbers and None that the model returns.
        structure: how outputs make what the model returns.
        paths: of each operator, the path of the module in which it was called.
        tracked: of each node, its arguments that follow from attributes and lengths: path of the argument (`("size", 2)`) ->
            expression; see `nas.convert.tracking.Expression`, where axes are `("dim", node, axis)`.
        unused: names of parameters that no operator reads.
        written: names of buffers that the model writes into in evaluation mode.
    """

    module: fx.GraphModule
    sources: tuple[Source, ...]
    outputs: tuple[Any, ...]
    structure: pytree.TreeSpec
    paths: Mapping[fx.Node, str]
    tracked: Mapping[fx.Node, Arguments]
    unused: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    order: pytree.TreeSpec | None = field(default=None, repr=False)

    @property
    def graph(self) -> fx.Graph:
        """Nodes in order."""
        return self.module.graph

    def __call__(self, inputs: Inputs, tensors: Mapping[str, Tensor] | None = None) -> Any:
        """What the graph gives, in the structure that the model returns.

        Args:
            inputs: in the form of the example.
            tensors: instead of the model's own parameters and buffers, by any of their names.
        """
        given = iter(self._flat(inputs))
        values = []
        for source in self.sources:
            if source.kind == "input":
                values.append(next(given))
            else:
                other = [tensors[name] for name in source.names if name in tensors] if tensors else []
                values.append(other[0] if other else source.tensor)
        return pytree.tree_unflatten(list(self.module(*values)), self.structure)

    def _flat(self, inputs: Inputs) -> list[Any]:
        positional, keywords = arguments(inputs)
        if self.order is not None:
            names = self.order.children()[1].context
            keywords = {name: keywords[name] for name in names}
        return pytree.tree_leaves((positional, keywords))


def capture(model: nn.Module, example: Inputs) -> Capture:
    """The graph of `model` in evaluation mode, called with `example`.

    Parameters may be on the meta device: no value is read then.

    Raises:
        SpaceError: it cannot be captured, or not in a way that a supernet of it would be right.
    """
    _check_modules(model)
    with _untouched(), _quiet():
        copied = _copy(model)
        positional, keywords = arguments(example)
        observer = Observer()
        track_attributes(copied)
        program = _export(copied, positional, keywords, observer)
    return _captured(model, program, observer, (positional, keywords))


# -- the copy


def _copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that shares tensors, and has none of the caches that the model filled."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers, vars(module)):
            memo.update((id(one), one) for one in store.values() if isinstance(one, Tensor))
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:
        raise SpaceError(
            f"the model cannot be copied (copy.deepcopy: {brief(error, 200)}); leave out of its modules what cannot, such as "
            "open files, locks and generators"
        ) from error
    copied.train()  # modules that cache what they compute from parameters drop it when the mode changes
    copied.eval()
    return copied


@contextmanager
def _untouched() -> Iterator[None]:
    """Random generators, and the settings that a capture needs, as they were afterwards."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # else attention is one operator whose sizes are not seen
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the export, about things that are looked at here
        yield


# -- the export


def _export(model: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any], observer: Observer) -> Any:
    forward = model.forward

    @functools.wraps(forward)
    def observed(*args: Any, **kwargs: Any) -> Any:
        with observer:
            given = forward(*args, **kwargs)
        return _returned(given)

    model.forward = observed  # of the copy
    try:
        return torch.export.export(model, positional, keywords or None, strict=False)
    except SpaceError:
        raise
    except Exception as error:
        raise SpaceError(_refusal(error)) from error


def _returned(given: Any) -> Any:
    """What a model returns, of tensors and plain values only."""
    values = pytree.tree_map(plain, given)
    known = (Tensor, int, float, bool, str, type(None))
    if all(isinstance(leaf, known) for leaf in pytree.tree_leaves(values)):
        return values
    return tuple(tensors_in(given))  # an object that torch cannot take apart


def _refusal(error: Exception) -> str:
    where = _line(error)
    return f"torch.export cannot capture the model{where}: {brief(error, 300)}"


def _line(error: BaseException) -> str:
    """The last line outside torch and this package that an exception passed through."""
    own = FilePath(__file__).parent
    torchs = FilePath(torch.__file__).parent
    found = ""
    for frame in traceback.extract_tb(error.__traceback__):
        path = FilePath(frame.filename)
        if own not in path.parents and torchs not in path.parents and path.exists():
            found = f" at {path.name}, line {frame.lineno} (`{brief(frame.line or '', 80)}`)"
    return found


# -- the graph


def _captured(model: nn.Module, program: Any, observer: Observer, given: tuple[Any, ...]) -> Capture:
    module = program.graph_module
    graph = module.graph
    _inline(module)
    for node in list(graph.nodes):
        if node.op == "call_function" and _base(node).startswith("_assert_"):
            graph.erase_node(node)
    graph.eliminate_dead_code()
    module.recompile()
    sources = _sources(model, program, graph, given)
    output = next(iter(reversed(graph.nodes)))
    numbers = {(node.meta.get("custom") or {}).get(MARK): node for node in graph.nodes}
    return Capture(
        module,
        sources,
        tuple(output.args[0]),
        program.call_spec.out_spec,
        {node: _path(node) for node in graph.nodes if node.op == "call_function"},
        {
            numbers[number]: {path: _named(expression, numbers) for path, expression in found.items()}
            for number, found in observer.found.items()
            if number in numbers
        },
        unused=_unused(model, sources),
        written=(),
        order=program.call_spec.in_spec,
    )


def _named(expression: Expression, numbers: Mapping[int | None, fx.Node]) -> Expression:
    return replaced(expression, lambda one: ("dim", numbers.get(one[1]), one[2]) if one[0] == "dim" else one)


def _base(node: fx.Node) -> str:
    target = node.target
    return target._schema.name.partition("::")[2] if isinstance(target, torch._ops.OpOverload) else ""


def _path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return ""
    path, _ = list(stack.values())[-1]
    return str(path).partition("@")[0]


def _inline(module: fx.GraphModule) -> None:
    """Put the nodes of regions in their place: their setting only says whether gradients are recorded, or in which type."""
    graph = module.graph
    for node in list(graph.nodes):
        name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
        if name in _REGIONS:
            settings = 1 if name == _REGIONS[0] else 4
            part = getattr(module, node.args[settings].target)
            _inline(part)
            inner = dict(
                zip((n for n in part.graph.nodes if n.op == "placeholder"), node.args[settings + 1 :], strict=True)
            )
            with graph.inserting_before(node):
                results: Any = graph.graph_copy(part.graph, inner)
            for user in list(node.users):
                user.replace_all_uses_with(results[user.args[1]])
                graph.erase_node(user)
            graph.erase_node(node)


def _sources(model: nn.Module, program: Any, graph: fx.Graph, given: tuple[Any, ...]) -> tuple[Source, ...]:
    names = _names(model)
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    inputs = iter(pytree.tree_leaves(given))
    found = []
    placeholders = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    for spec in program.graph_signature.input_specs:
        kind = _KINDS.get(spec.kind, "constant")
        node = placeholders[spec.arg.name]
        if kind == "input":
            found.append(Source(node, kind, (node.name,), next(inputs)))
        elif spec.target in own:
            tensor = own[spec.target]
            found.append(Source(node, kind, names[_key(tensor)], tensor))
        else:
            found.append(Source(node, "constant", (spec.target,), program.constants[spec.target]))
    return tuple(found)


def _key(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for tensors that are the same numbers in the same place."""
    if tensor.device.type == "meta" or tensor.untyped_storage().data_ptr() == 0:
        return (id(tensor),)
    return (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)


def _names(model: nn.Module) -> dict[tuple[Any, ...], tuple[str, ...]]:
    found: dict[tuple[Any, ...], tuple[str, ...]] = {}
    for named in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in named:
            found[_key(tensor)] = (*found.get(_key(tensor), ()), name)
    return found


def _unused(model: nn.Module, sources: Sequence[Source]) -> tuple[str, ...]:
    read = {name for source in sources if source.node.users for name in source.names}
    return tuple(name for name, _ in model.named_parameters() if name not in read)


# -- what is refused


def _check_modules(model: nn.Module) -> None:
    pass
