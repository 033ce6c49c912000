"""What cannot be captured, or would be captured wrongly: one sentence with the line of the model and what to change there."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

from nas.errors import SpaceError, brief

BY_VALUE = (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode)
"""What `torch.export` raises where a model decides by numbers that it computes."""
_ADAPTER = re.compile(r"(^|\.)lora_", re.IGNORECASE)
_OWN = FilePath(__file__).parent
_TORCHS = FilePath(torch.__file__).parent


def check_modules(model: nn.Module) -> None:
    """Whether the tensors of `model` are numbers that can be cut.

    Raises:
        SpaceError: they are packed, quantised, in adapters, not there yet or spread over machines.
    """
    for name, module in model.named_modules():
        at = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, torch.jit.ScriptModule):
            raise SpaceError(f"{at} is compiled by TorchScript; give the module that it was made from")
        if any(isinstance(value, torch.ScriptObject) for value in vars(module).values()):
            raise SpaceError(f"{at} keeps packed weights; convert the model before it is quantised or compiled")
        for key, tensor in _tensors(module):
            _check_tensor(f"{name}.{key}".lstrip("."), tensor)
    adapters = [name for name, _ in model.named_parameters() if _ADAPTER.search(name)]
    if adapters:
        raise SpaceError(
            f"the model has low-rank adapters ({adapters[0]!r} and {len(adapters) - 1} more), whose product with a width is no "
            "width of the model; merge them into its weights first (peft: model.merge_and_unload()), or convert the model without"
        )


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for store in (module._parameters, module._buffers):
        yield from ((key, tensor) for key, tensor in store.items() if tensor is not None)


def _check_tensor(name: str, tensor: Tensor) -> None:
    if is_lazy(tensor):
        raise SpaceError(f"parameter {name!r} has no shape yet; call the model once before it is converted")
    whole = isinstance(tensor, nn.Parameter) and not (tensor.is_floating_point() or tensor.is_complex())
    if tensor.is_quantized or whole:
        raise SpaceError(
            f"{name!r} is quantised ({str(tensor.dtype).partition('.')[2]}); convert the model before it is quantised"
        )
    wraps: bool = is_traceable_wrapper_subclass(tensor)
    if wraps:
        raise SpaceError(
            f"{name!r} is a {type(tensor).__name__}, whose numbers lie elsewhere; convert the model before it is quantised or "
            "distributed"
        )
    if tensor.layout != torch.strided:
        raise SpaceError(f"{name!r} is sparse; give a model of dense tensors (`tensor.to_dense()`)")


def refusal(error: BaseException, model: nn.Module) -> SpaceError:
    """What an exception of `torch.export` says, with the line of the model that it passed through."""
    where = _line(error)
    if isinstance(error, BY_VALUE):
        return SpaceError(
            f"the model decides by numbers that it computes{where}, so that it is no one graph; choose with torch.where there, "
            f"or decide outside of the model{_apart(error, model)}"
        )
    said = brief(str(error).strip().split("\n")[0], 300) or type(error).__name__
    return SpaceError(
        f"torch.export cannot capture the model{where}: {said}; write that part with operators of torch, or convert the modules "
        "around it one by one"
    )


def _apart(error: BaseException, model: nn.Module) -> str:
    """The part with the most parameters of those that an exception did not pass through, if it has a fifth or more of all."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    passed = {id(frame.f_locals.get("self")): frame.f_locals.get("self") for frame in frames}
    names = {name for name, _ in model.named_modules()}
    root = next(
        (one for one in passed.values() if isinstance(one, nn.Module) and {n for n, _ in one.named_modules()} == names),
        None,
    )
    if root is None or len(names) < 3:  # a copy, and perhaps of a class of its own
        return ""
    path = {name for name, module in root.named_modules() if id(module) in passed} | {""}
    sizes = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in root.named_modules()
        if name not in path and name.rpartition(".")[0] in path
    }
    best = max(sizes, key=lambda name: sizes[name], default="")
    share = sizes.get(best, 0) / max(1, sum(parameter.numel() for parameter in root.parameters()))
    return (
        f"; or convert a part that does not, as model.{best}, which has {share:.0%} of the parameters"
        if share >= 0.2
        else ""
    )


def _line(error: BaseException) -> str:
    """The last line outside torch and this package that an exception passed through."""
    found = ""
    for frame in traceback.extract_tb(error.__traceback__):
        path = FilePath(frame.filename)
        if _OWN not in path.parents and _TORCHS not in path.parents and path.exists():
            found = f" at {path.name}, line {frame.lineno} (`{brief(frame.line or '', 80)}`)"
    return found


# -- what a model writes into


def check_parameters(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Whether a model has the same parameters after a call.

    Raises:
        SpaceError: it has put others in their place.
    """
    for name, parameter in before.items():
        if after.get(name) is not parameter:
            raise SpaceError(
                f"the model replaces its parameter {name!r} when it is called, so that every arch would change the weights of "
                "all; keep what is computed in a variable"
            )


def written(graph: fx.Graph, sources: Mapping[fx.Node, tuple[str, str]]) -> tuple[str, ...]:
    """Names of buffers that operators of the graph write into.

    Args:
        graph: with `meta["val"]`, whose memory says which nodes are views of which placeholder.
        sources: kind ("parameter", "buffer", …) and name of each placeholder.

    Raises:
        SpaceError: they write into a parameter.
    """
    memory = {memory_of(node): source for node, source in sources.items() if memory_of(node) is not None}
    found: dict[str, None] = {}
    for node in graph.nodes:
        for target in written_by(node):
            kind, name = memory.get(memory_of(target), ("", ""))
            if kind == "parameter":
                raise SpaceError(
                    f"the model changes its parameter {name!r} when it is called{_line_of(node)}, so that every arch "
                    "would change the weights of all; compute a new tensor there, or change it in the training loop"
                )
            if kind == "buffer":
                found[name] = None
    return tuple(found)


def check_sizes(graph: fx.Graph) -> None:
    """Whether all tensors of a graph have sizes that follow from those of its inputs.

    Raises:
        SpaceError: some depend on values, as those of `nonzero` and of a mask as an index do.
    """
    for node in graph.nodes:
        for value in tree_leaves(node.meta.get("val")):
            if isinstance(value, Tensor) and not all(type(size) is int for size in value.shape):
                raise SpaceError(
                    f"how large a tensor is depends on the numbers in it{_line_of(node)}, so that no rule says what can be cut; "
                    "choose with torch.where or a mask that is multiplied, which keep sizes, or convert the modules around it"
                )


def written_by(node: fx.Node) -> Iterator[fx.Node]:
    """Nodes whose tensors an operator writes into."""
    return arguments_of(node, lambda argument: argument.alias_info is not None and argument.alias_info.is_write)


def arguments_of(node: fx.Node, wanted: Callable[[Any], bool]) -> Iterator[fx.Node]:
    """Nodes that are those arguments of an operator which its schema describes as `wanted`."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return
    for place, argument in enumerate(node.target._schema.arguments):
        if wanted(argument):
            value = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
            yield from (
                one for one in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(one, fx.Node)
            )


def memory_of(node: fx.Node) -> Any:
    """Equal for nodes that give views of one tensor; None for what is no tensor."""
    value = node.meta.get("val")
    return value.untyped_storage()._cdata if isinstance(value, Tensor) and value.layout == torch.strided else None


def _line_of(node: fx.Node) -> str:
    """The last line of the model in a node's stack, as text."""
    place = place_of(node)
    return "" if place is None else f" at {place[0]}, line {place[1]} (`{brief(place[2], 80)}`)"


def place_of(node: fx.Node) -> tuple[str, int, str] | None:
    """File, line and code of the model's last call on the way to an operator."""
    lines = re.findall(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]*)', node.meta.get("stack_trace") or "")
    for name, number, code in reversed(lines):
        file = FilePath(name)
        if _TORCHS not in file.parents and _OWN not in file.parents:
            return file.name, int(number), code
    return None
