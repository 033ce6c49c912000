"""Operations of a module, counted by running it.

On the meta device where the model runs there: nothing is computed.  A model that looks at values in its forward (a mask
that is all ones) runs on real tensors, with attention and recurrent layers taken apart into matrix products, because
torch's counter takes their fused CPU kernels for nothing (torch 2.13).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from nas.errors import SupernetError
from nas.supernet.inputs import Example, Inputs, batch_size, call, check_batch, convert, some

_UNFIT = (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError, KeyError)


def macs(skeleton: nn.Module, build: Callable[[], nn.Module], example: Inputs) -> int:
    """Multiply-accumulates of one sample of `example`, in eval mode; of all of it where it has no batch.

    Args:
        skeleton: the model without its weights; it is moved to the meta device.
        build: makes the model with weights, for one that cannot run without.
        example: inputs; of several samples, one is counted.  That their first axis is the batch's is believed where an `Example`
            says so; else so many samples must take so many times the operations.

    Raises:
        SupernetError: the model does not run on the example, or its first axis is no batch.
    """
    check_batch(example)
    one = some(example, slice(1))
    try:
        _to_meta(skeleton)
        return _counted(
            lambda inputs: _count(skeleton, convert(inputs, lambda tensor: tensor.to("meta"))), one, example
        )
    except _UNFIT:
        module = build()
    try:
        with _taken_apart():
            return _counted(lambda inputs: _count(module, convert(inputs, lambda tensor: tensor.cpu())), one, example)
    except _UNFIT as error:
        raise SupernetError(
            f"operations of {type(module).__name__} cannot be counted, because it does not run on the example: {error}"
        ) from error


def _counted(count: Callable[[Inputs], int], one: Inputs, example: Inputs) -> int:
    """The operations of one sample; those of the whole example show whether its first axis is the batch's."""
    samples = batch_size(example)
    if samples == 1 or isinstance(example, Example):
        return count(one)
    whole = count(example)
    try:
        found = count(one)
    except _UNFIT:
        found = -1  # such a model takes no single one
    if found * samples != whole:
        raise SupernetError(
            f"one of {samples} along the first axis of the example takes {max(found, 0):,} operations and all take {whole:,}, so "
            "that it is not the batch's, or the model does something once for all samples; say which axis is with "
            "nas.Example(inputs, batch_axis=...): a number, None where there is no batch (a graph), or one for each tensor"
        )
    return found


@dataclass(frozen=True)
class Layer:
    """A module without modules of its own.

    Args:
        name: its path.
        type: its class.
        shape: of its output for one sample; () where it gave none, as layers do that an input does not reach.
        parameters: of its own.
        macs: multiply-accumulates that were counted in it.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    parameters: int
    macs: int


def layers(module: nn.Module, example: Inputs) -> list[Layer]:
    """The layers of a model with weights, in its own order, with what each takes of one sample of `example`.

    Operations between layers are in none of them, so that their sum may be less than `macs`.

    Raises:
        SupernetError: the model does not run on the example.
    """
    one = convert(some(example, slice(1)), lambda tensor: tensor.cpu())
    shapes: dict[str, tuple[int, ...]] = {}
    leaves = {name: each for name, each in module.named_modules() if name and not any(each.children())}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            shapes[name] = tuple(output.shape) if isinstance(output, Tensor) else ()

        return hook

    hooks = [each.register_forward_hook(note(name)) for name, each in leaves.items()]
    counter = FlopCounterMode(display=False)
    try:
        with _taken_apart(), torch.no_grad(), counter:
            call(module.eval(), one)
    except _UNFIT as error:
        raise SupernetError(f"{type(module).__name__} does not run on the example: {error}") from error
    finally:
        for one_hook in hooks:
            one_hook.remove()
    root = type(module).__name__
    counts = {path: sum(each.values()) for path, each in counter.get_flop_counts().items()}
    return [
        Layer(
            name,
            type(each).__name__,
            shapes.get(name, ()),
            sum(weight.numel() for weight in each.parameters()),
            int(counts.get(f"{root}.{name}", 0)) // 2,
        )
        for name, each in leaves.items()
    ]


@contextmanager
def _taken_apart() -> Iterator[None]:
    """Attention and recurrent layers as matrix products, which are counted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of flags that it sets itself
        with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
            yield


class _Norms(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """BatchNorm on the meta device, which torch's counter takes apart into dozens of operations that it does not count."""

    supports_higher_order_operators = True  # they go on to the counter, as everything else does

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler to wrap this class

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.native_batch_norm.default:
            x, _, _, _, _, training, _, _ = args
            if not training and x.device.type == "meta":
                return torch.empty_like(x), x.new_empty(0), x.new_empty(0)
        return func(*args, **kwargs or {})


def _count(module: nn.Module, inputs: Inputs) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, _Norms():  # type: ignore[no-untyped-call]
        call(module.eval(), inputs)
    return int(counter.get_total_flops()) // 2


def _to_meta(module: nn.Module) -> None:
    """Move parameters, buffers and the tensors that a module keeps as plain attributes."""
    module.to("meta")
    for owner in module.modules():
        for key, value in vars(owner).items():
            if isinstance(value, Tensor):
                vars(owner)[key] = value.to("meta")
