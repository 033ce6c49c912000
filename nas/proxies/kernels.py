"""Proxies that ask how differently an untrained network treats the samples of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nas.proxies.probe import Probe, gradients, untouched
from nas.supernet.inputs import batch_size, call

SMALL = 1e-5

_aten = torch.ops.aten
# Activations that are (almost) off for negative inputs, in place or not.
_SWITCHES = {
    *(getattr(_aten, name).default for name in ("relu", "relu_", "gelu", "gelu_", "silu", "silu_", "leaky_relu")),
    *(getattr(_aten, name).default for name in ("leaky_relu_", "hardtanh", "hardtanh_", "hardswish", "hardswish_")),
}


def jacob_cov(probe: Probe) -> float:
    """−Σ (log λ + 1/λ) over the eigenvalues of the correlations between the samples' input gradients.

    Mellor et al. 2021, "Neural Architecture Search without Training" (its first version): the gradient of the summed output
    with respect to each sample; the less correlated, the better they can be told apart.
    A batch should have fewer samples than the input has numbers: beyond, some λ are 0 for every network.
    """
    images = probe.images("jacob_cov").detach().clone().requires_grad_()
    with untouched(probe.module):
        rows = gradients(probe.output(probe.module, images).sum(), [images])[0].flatten(1)
    centred = rows.double() - rows.double().mean(1, keepdim=True)
    unit = centred / centred.norm(dim=1, keepdim=True)  # NaN for a sample that nothing depends on
    if not unit.isfinite().all():
        return float("nan")
    eigenvalues = torch.linalg.eigvalsh(unit @ unit.T).clamp(min=0) + SMALL
    return -float((eigenvalues.log() + 1 / eigenvalues).sum())


def naswot(probe: Probe) -> float:
    """log |K|, where K counts for each two samples the activations that are on for both or off for both.

    Mellor et al. 2021.  Activations are found as they are called, by module or by function: ReLU and its relatives, on where
    the input is positive.  −inf where two samples get the same code.
    """
    with untouched(probe.module), torch.no_grad(), _Codes(batch_size(probe.batch.inputs)) as codes:
        call(probe.module, probe.batch.inputs)
    if codes.agreement is None:
        return float("-inf")
    return float(torch.linalg.slogdet(codes.agreement).logabsdet)


class _Codes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts agreements between the samples' activation codes while a network runs: (n, n) float64."""

    def __init__(self, samples: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.samples = samples
        self.agreement: Tensor | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Look at the input of an activation, then run it."""
        if func in _SWITCHES and args[0].ndim and len(args[0]) == self.samples:
            on = (args[0] > 0).flatten(1).double()
            counted = on @ on.T + (1 - on) @ (1 - on).T
            self.agreement = counted if self.agreement is None else self.agreement + counted
        return func(*args, **(kwargs or {}))
