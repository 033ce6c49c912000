"""Operations of a module, counted by running it.

On the meta device where the model runs there: nothing is computed.  A model that looks at values in its forward (a mask
that is all ones) runs on real tensors, with attention and recurrent layers taken apart into matrix products, because
torch's counter takes their fused CPU kernels for nothing (torch 2.13).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nas.errors import SupernetError
from nas.supernet.inputs import Inputs, batch_size, call, convert

_UNFIT = (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError, KeyError)


def macs(skeleton: nn.Module, build: Callable[[], nn.Module], example: Inputs) -> int:
    """Multiply-accumulates of one sample of `example`, in eval mode.

    Args:
        skeleton: the model without its weights; it is moved to the meta device.
        build: makes the model with weights, for one that cannot run without.
        example: inputs; the length of the first axis is divided out.

    Raises:
        SupernetError: the model does not run on the example.
    """
    try:
        _to_meta(skeleton)
        return _count(skeleton, convert(example, lambda tensor: tensor.to("meta"))) // batch_size(example)
    except _UNFIT:
        module = build()
    try:
        with _taken_apart():
            return _count(module, convert(example, lambda tensor: tensor.cpu())) // batch_size(example)
    except _UNFIT as error:
        raise SupernetError(
            f"operations of {type(module).__name__} cannot be counted, because it does not run on the example: {error}"
        ) from error


@contextmanager
def _taken_apart() -> Iterator[None]:
    """Attention and recurrent layers as matrix products, which are counted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of flags that it sets itself
        with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
            yield


def _count(module: nn.Module, inputs: Inputs) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        call(module.eval(), inputs)
    return int(counter.get_total_flops()) // 2


def _to_meta(module: nn.Module) -> None:
    """Move parameters, buffers and the tensors that a module keeps as plain attributes."""
    module.to("meta")
    for owner in module.modules():
        for key, value in vars(owner).items():
            if isinstance(value, Tensor):
                vars(owner)[key] = value.to("meta")
