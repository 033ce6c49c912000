"""Other machines, on this one: what another processor, library, thread count or place in memory does to sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_SUMS = {
    functional.linear,
    functional.conv1d,
    functional.conv2d,
    functional.conv3d,
    functional.scaled_dot_product_attention,
    functional.layer_norm,
    functional.softmax,
    torch.conv1d,
    torch.conv2d,
    torch.matmul,
    torch.bmm,
    torch.mean,
    torch.sum,
    torch.addmm,
    torch.einsum,
    torch.softmax,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.__rmatmul__,
    Tensor.mean,
    Tensor.sum,
    Tensor.softmax,
}


class _Rounding(TorchFunctionMode):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _SUMS and isinstance(output, Tensor) and output.is_floating_point() and not output.is_meta:
            up = torch.randint(-1, 2, output.shape, generator=self.generator, dtype=torch.int8).to(output.dtype)
            output = output * (1 + up * torch.finfo(output.dtype).eps)
        return output


@contextmanager
def another_processor(seed: int = 0) -> Iterator[None]:
    """Each number that is a sum comes out a unit higher or lower, or as it is: as in another order of the sum."""
    with _Rounding(seed):
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def elsewhere(tensor: Tensor, offset: int = 8) -> Tensor:
    """A copy that begins `offset` bytes behind a multiple of 64, as tensors do that are mapped from a file."""
    size = tensor.element_size()
    room = torch.empty(tensor.numel() + 128 // size, dtype=tensor.dtype)
    start = ((offset - room.data_ptr()) % 64) // size
    copied = room[start : start + tensor.numel()].view(tensor.shape)
    copied.copy_(tensor)
    assert copied.data_ptr() % 64 == offset
    return copied


def move_weights(module: nn.Module, offset: int = 8) -> nn.Module:
    """`module` with all its weights at another alignment, in place."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.numel() and tensor.element_size() in (2, 4, 8):
                tensor.data = elsewhere(tensor.data, offset)
    return module


MACHINES: dict[str, Callable[[], Any]] = {
    "two threads": lambda: threads(2),
    "another processor": another_processor,
}
"""Name -> context in which sums are taken in another way."""
