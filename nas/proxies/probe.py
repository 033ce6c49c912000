"""What a proxy looks at: an untrained network, one batch, the task's loss; and the ways of looking that proxies share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import EvaluationError
from nas.supernet.inputs import Inputs, call, convert, some
from nas.train.task import Batch, Task


@dataclass(frozen=True)
class Probe:
    """An untrained network and the batch that it is looked at with.

    Proxies leave the module as it is: parameters, gradients, buffers and mode.

    Args:
        module: an ordinary module with initial weights.
        batch: inputs and targets, on the module's device.
        task: gives the loss, and which part of an output is about the classes.
        seed: of what a proxy draws (Zen's noise).
        teacher: the network that a student is compared with; only DisWOT has one.
    """

    module: nn.Module
    batch: Batch
    task: Task
    seed: int = 0
    teacher: nn.Module | None = None

    def loss(self, module: nn.Module | None = None) -> Tensor:
        """The task's loss of `module` (default: the probe's own) on the batch, a scalar."""
        return self.task.loss(call(module or self.module, self.batch.inputs), self.batch)

    def output(self, module: nn.Module, inputs: Inputs) -> Tensor:
        """What `module` makes of `inputs`: (n, …)."""
        return self.task.logits(call(module, inputs))

    def images(self, who: str) -> Tensor:
        """The inputs, if they are one tensor of real numbers.

        Raises:
            EvaluationError: they are not, and `who` needs a gradient or noise there.
        """
        inputs = self.batch.inputs
        if isinstance(inputs, Tensor) and inputs.is_floating_point():
            return inputs
        raise EvaluationError(
            f"{who} looks at changes of the input, and needs one tensor of real numbers; leave it out for this task"
        )


def weights(module: nn.Module) -> list[nn.Parameter]:
    """Matrices and kernels of `module`, tied ones once; gains and biases are left out, as in the papers."""
    return [parameter for parameter in module.parameters() if parameter.ndim >= 2]


def gradients(scalar: Tensor, of: list[Any], *, create_graph: bool = False) -> list[Tensor]:
    """Gradient with respect to each tensor; zeros where `scalar` does not depend on it."""
    if not scalar.requires_grad or not of:
        return [torch.zeros_like(tensor) for tensor in of]
    found = torch.autograd.grad(scalar, of, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(tensor) if one is None else one for one, tensor in zip(found, of, strict=True)]


@contextmanager
def untouched(module: nn.Module, *, training: bool = True) -> Iterator[None]:
    """That mode, with gradients, inside the block; mode, running statistics and parameters' gradient flags come back."""
    modes = [(one, one.training) for one in module.modules()]
    flags = [(one, one.requires_grad) for one in module.parameters()]
    buffers = [(one, one.clone()) for one in module.buffers()]
    module.train(training)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            for parameter, _ in flags:
                parameter.requires_grad_(parameter.is_floating_point())
            yield
    finally:
        for one, mode in modes:
            one.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


@contextmanager
def hooked(module: nn.Module, which: Callable[[nn.Module], bool], hook: Callable[..., Any]) -> Iterator[None]:
    """`hook(submodule, arguments, output)` after each call of the submodules that are `which`; what it returns is passed on."""
    handles = [one.register_forward_hook(hook) for one in module.modules() if which(one)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def is_layer(module: nn.Module) -> bool:
    """Whether a module multiplies by a matrix or a kernel of its own: linear and convolutional layers."""
    weight = module._parameters.get("weight")
    return weight is not None and weight.ndim >= 2 and not isinstance(module, nn.Embedding)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def classified(module: nn.Module, inputs: Inputs) -> tuple[Tensor, Tensor, nn.Linear]:
    """(features, output, classifier): what the last linear layer is given, and the model's output.

    A model with a method `features` says itself what is pooled and classified; its maps are then the features.

    Raises:
        EvaluationError: the model has no linear layer.
    """
    last: list[tuple[Tensor, nn.Linear]] = []

    def keep(layer: nn.Linear, arguments: tuple[Tensor, ...], _: Tensor) -> None:
        last.append((arguments[0], layer))

    with hooked(module, lambda one: isinstance(one, nn.Linear), keep):
        output = call(module, inputs)
    if not last:
        raise EvaluationError(
            f"{type(module).__name__} has no linear layer; zen and diswot look at what its last one is given"
        )
    features, layer = last[-1]
    return features, output, layer


def feature_map(module: nn.Module, inputs: Inputs) -> Tensor:
    """Features before pooling: (n, …).

    What a model's own method `features` gives, if it has one.  Else the last output of a part of the model, before the last
    linear layer, that has that layer's channels and more numbers than it is given; what it is given, if nothing was pooled.
    """
    own = getattr(module, "features", None)
    if callable(own) and not isinstance(own, nn.Module):
        found = own(inputs)
        assert isinstance(found, Tensor)
        return found
    seen: list[Tensor] = []
    before = 0

    def keep(one: nn.Module, _: Any, output: Any) -> None:
        nonlocal before
        if isinstance(one, nn.Linear):
            before = len(seen)
        if isinstance(output, Tensor):
            seen.append(output)

    with hooked(module, lambda one: one is not module, keep):
        features = classified(module, inputs)[0]
    for output in reversed(seen[:before]):
        if (
            len(output) == len(features)
            and output.numel() > features.numel()
            and features.shape[-1] in output.shape[1:]
        ):
            return output
    return features


def ones(inputs: Inputs) -> Inputs:
    """Inputs of one sample, whose real numbers are all 1."""
    found: Inputs = convert(
        some(inputs, slice(1)), lambda one: torch.ones_like(one) if one.is_floating_point() else one
    )
    return found
