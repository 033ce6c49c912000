"""Running statistics of one subnet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from nas.errors import SupernetError
from nas.supernet.binding import Binding
from nas.supernet.inputs import Inputs, call
from nas.supernet.ragged import enough, folded


def calibrate(binding: Binding, batches: Iterable[Inputs]) -> dict[str, Tensor]:
    """Statistics of the normalisation layers of `binding` over `batches`; see `Supernet.calibrate`."""
    layers = _layers(binding)
    if not layers:
        return {}
    momenta = {name: layer.momentum for name, layer in layers.items()}
    handles = [layer.register_forward_pre_hook(_Average()) for layer in layers.values()]
    count = 0
    try:
        with (
            torch.no_grad(),
            own_statistics(binding) as buffers,
            enough(SupernetError, "a batch of the calibration is too small"),
        ):
            for batch in folded(batches):
                call(binding.module, batch)
                count += 1
    finally:
        for handle in handles:
            handle.remove()
        for name, layer in layers.items():
            layer.momentum = momenta[name]
    if not count:
        raise SupernetError(
            "calibration got no batch; give at least one batch of inputs (a task takes calibration= samples, 2 or more)"
        )
    for name, tensor in buffers.items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(count)
    return buffers


@contextmanager
def own_statistics(binding: Binding, *, dropping: bool = False) -> Iterator[dict[str, Tensor]]:
    """Inside, normalisation layers see each batch with its own statistics and everything else is in eval mode.

    With `dropping` everything else is in training mode.

    Call `binding.module`.  Running statistics are updated in the copies that are given, by name; those of the supernet are not.
    """
    layers = _layers(binding)
    buffers = {
        f"{name}.{key}".lstrip("."): value.detach().clone()
        for name, layer in layers.items()
        for key, value in layer._buffers.items()
        if value is not None
    }
    was_training = binding.module.training
    try:
        binding.module.train(dropping)
        for layer in layers.values():
            layer.train()
        with binding.buffers(buffers):
            yield buffers
    finally:
        binding.module.train(was_training)


def _layers(binding: Binding) -> dict[str, _NormBase]:
    """Layers with running statistics."""
    return {
        name: layer
        for name, layer in binding.module.named_modules()
        if isinstance(layer, _NormBase) and layer.running_mean is not None
    }


class _Average:
    """Sets a layer's momentum before each call so that its running statistics become the average so far.

    Each call weighs as much as its elements, and the first replaces whatever was there.  A layer that the model calls
    twice averages both.
    """

    def __init__(self) -> None:
        self._seen = 0

    def __call__(self, layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        inputs: Tensor = arguments[0]
        count = inputs.numel() // inputs.shape[1]
        self._seen += count
        assert isinstance(layer, _NormBase)
        layer.momentum = count / self._seen
