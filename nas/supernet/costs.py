"""Operations of a module, counted on the meta device.

On CPU tensors the same counter misses attention and fused recurrent layers (torch 2.13).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nas.errors import SupernetError
from nas.supernet.inputs import Inputs, batch_size, call, convert


def macs(module: nn.Module, example: Inputs) -> int:
    """Multiply-accumulates of `module` in eval mode on one sample of `example`; `module` is moved to the meta device.

    Raises:
        SupernetError: its forward cannot run on the meta device.
    """
    _to_meta(module)
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            call(module.eval(), convert(example, lambda tensor: tensor.to("meta")))
    except (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError) as error:
        raise SupernetError(
            f"macs are counted on the meta device, and {type(module).__name__} cannot run there or not on this example: {error}"
        ) from error
    return int(counter.get_total_flops()) // 2 // batch_size(example)


def _to_meta(module: nn.Module) -> None:
    """Move parameters, buffers and the tensors that a module keeps as plain attributes."""
    module.to("meta")
    for owner in module.modules():
        for key, value in vars(owner).items():
            if isinstance(value, Tensor):
                vars(owner)[key] = value.to("meta")
