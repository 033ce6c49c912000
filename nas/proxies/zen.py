"""Zen-score: how strongly a random network reacts to a small change of its input.

Lin et al. 2021, "Zen-NAS: A Zero-Shot NAS for High-Performance Image Recognition".
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from nas.proxies.probe import Probe, feature_map, hooked, is_norm, untouched

STEP = 0.01
REPEATS = 4


def zen(probe: Probe) -> float:
    """log E‖f(x) − f(x + 0.01 ε)‖ + Σ over BatchNorms of log √(mean variance of a channel), for Gaussian weights and inputs.

    f is the features before pooling (see `probe.feature_map`), the expectation over samples and 4 draws of weights and
    inputs; the second term adds back what normalising takes away.  Residual connections stay; the paper takes them out.
    """
    shape = probe.images("zen").shape
    module = copy.deepcopy(probe.module)
    device = probe.images("zen").device
    generator = torch.Generator().manual_seed(probe.seed)
    return sum(_once(module, shape, device, generator) for _ in range(REPEATS)) / REPEATS


def _once(module: nn.Module, shape: torch.Size, device: torch.device, generator: torch.Generator) -> float:
    _gaussian(module, generator)
    x, noise = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    variances: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Tensor, ...], __: Tensor) -> None:
        inputs = arguments[0]
        variances.append(inputs.var([at for at in range(inputs.ndim) if at != 1], unbiased=False).mean())

    with untouched(module), torch.no_grad():
        with hooked(module, is_norm, keep):
            first = feature_map(module, x)
        second = feature_map(module, x + STEP * noise)
    change = (first - second).flatten(1).double().norm(dim=1).mean().log()
    # A constant input of a norm has no scale to add back; the first term says already that it is lost.
    scales = [variance.double().log() / 2 for variance in variances if variance > 0]
    return float(sum(scales, change))


@torch.no_grad()
def _gaussian(module: nn.Module, generator: torch.Generator) -> None:
    """Weights from N(0, 1), biases 0, norms as they begin."""
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is None:
                continue
            if parameter.ndim >= 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            elif name == "weight":
                parameter.fill_(1.0)
            elif name == "bias":
                parameter.zero_()
