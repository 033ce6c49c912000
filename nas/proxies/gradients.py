"""Proxies that read gradients of the weights.

Abdelfattah et al. 2021, "Zero-Cost Proxies for Lightweight NAS", took them from pruning: the saliency of each weight, summed
over a network.  All but `synflow` are computed in training mode on one batch.  Weights are matrices and kernels, see
`probe.weights`.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from nas.proxies.probe import Probe, gradients, hooked, is_layer, is_norm, ones, untouched, weights
from nas.supernet.inputs import convert


def grad_norm(probe: Probe) -> float:
    """Sum over weights of the Euclidean norm of the loss's gradient."""
    with untouched(probe.module):
        found = gradients(probe.loss(), weights(probe.module))
    return float(sum(one.norm() for one in found))


def snip(probe: Probe) -> float:
    """Sum of |gradient · weight|: how much the loss would change without each (Lee et al. 2019, "SNIP")."""
    with untouched(probe.module):
        of = weights(probe.module)
        found = gradients(probe.loss(), of)
    return float(sum((one * weight.detach()).abs().sum() for one, weight in zip(found, of, strict=True)))


def grasp(probe: Probe) -> float:
    """Sum of −weight · (Hessian · gradient): how much removing weights keeps the gradient flowing (Wang et al. 2020, "GraSP")."""
    # Fused attention has no second derivative.
    with untouched(probe.module), sdpa_kernel(SDPBackend.MATH):
        of = weights(probe.module)
        first = gradients(probe.loss(), of, create_graph=True)
        flow = sum(((one.detach() * one).sum() for one in first), torch.zeros(()))
        second = gradients(flow, of)
    return 0.0 - float(sum((weight.detach() * one).sum() for weight, one in zip(of, second, strict=True)))


def fisher(probe: Probe) -> float:
    """Sum over channels of ½ · mean over samples of (Σ over places of activation · gradient)² (Turner et al. 2020, "BlockSwap").

    The activations are the outputs of linear and convolutional layers.
    """
    outputs: list[tuple[nn.Module, Tensor]] = []

    def keep(layer: nn.Module, _: Any, output: Any) -> Any:
        if not isinstance(output, Tensor):
            return None
        outputs.append((layer, output))
        return output.clone()  # an activation in place would change what was kept

    with untouched(probe.module), hooked(probe.module, is_layer, keep):
        loss = probe.loss()
        found = gradients(loss, [output for _, output in outputs])
    terms = [_per_channel(layer, output.detach() * one) for (layer, output), one in zip(outputs, found, strict=True)]
    return float(sum(term.square().mean(0).sum() / 2 for term in terms))


def _per_channel(layer: nn.Module, products: Tensor) -> Tensor:
    """(n, channels): summed over all other axes.  Linear layers have channels last, convolutions second."""
    axis = products.ndim - 1 if isinstance(layer, nn.Linear) else 1
    others = [at for at in range(1, products.ndim) if at != axis]
    return products.sum(others) if others else products


def synflow(probe: Probe) -> float:
    """log Σ |weight · gradient of the summed output|, of |weights|, on an input of ones, without BatchNorm.

    Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow".  The sum grows
    exponentially with depth, so it is taken in float64 and its logarithm given; −inf where nothing flows.
    """
    module = copy.deepcopy(probe.module).double()
    inputs = convert(ones(probe.batch.inputs), lambda one: one.double() if one.is_floating_point() else one)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.abs_()
    with untouched(module, training=False), hooked(module, is_norm, lambda _, arguments, __: arguments[0]):
        of = weights(module)
        found = gradients(probe.output(module, inputs).sum(), of)
    flow = sum((one * weight.detach()).abs().sum() for one, weight in zip(found, of, strict=True))
    return float(torch.as_tensor(flow, dtype=torch.float64).log())
