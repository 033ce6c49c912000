"""What a stitched network is put together from: stitches, anchors as modules of its own, and names to hang them under."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.errors import SpaceError


class Stitch(nn.Module):
    """A linear map of the channels, with bias; with a `rank` it is frozen but for its bias and a low-rank update (LoSA).

    y = W x + b + (1 / rank) · B A x.  A is drawn as nn.Linear draws weights and B is zero (SN-Netv2; α = 1).

    Args:
        inputs: channels of the front.
        outputs: channels of the end.
        axis: of the channels: -1 for tokens, 1 for images (n, channels, h, w).
        rank: of the update; None trains the weight itself.
    """

    def __init__(self, inputs: int, outputs: int, axis: int = -1, rank: int | None = None) -> None:
        super().__init__()
        made = nn.Linear(inputs, outputs)
        self.axis, self.rank = axis, rank
        self.weight, self.bias = made.weight, made.bias
        if rank is not None:
            self.weight.requires_grad_(False)
            self.down = nn.Parameter(nn.Linear(inputs, rank, bias=False).weight.detach())
            self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Channels of the front -> channels of the end."""
        y = self._map(x, self.weight, self.bias)
        if self.rank is None:
            return y
        return y + self._map(self._map(x, self.down, None), self.up, None) / self.rank

    def _map(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.axis == -1:
            return functional.linear(x, weight, bias)
        return functional.conv2d(x, weight[:, :, None, None], bias)


class Given:
    """Something that a space holds as it is and that is equal to nothing else: a module, a function, an example."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Given({type(self.value).__name__})"


class Alone(nn.Module):
    """An anchor by itself, under the name that it has in the supernet."""

    def __init__(self, number: int, module: nn.Module) -> None:
        super().__init__()
        self.anchors = nn.ModuleDict({str(number): module})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the anchor's own."""
        (anchor,) = self.anchors.values()
        return anchor(*args, **kwargs)


def hang(root: nn.Module, path: str, table: str, value: Any) -> None:
    """Put `value` at `path`, in plain modules made as needed."""
    *owners, leaf = path.split(".")
    for name in owners:
        if name not in root._modules:
            root._modules[name] = nn.Module()
        child = root._modules[name]
        assert child is not None
        root = child
    if table == "_parameters":
        root.register_parameter(leaf, value)
    else:
        getattr(root, table)[leaf] = value


def copied(module: nn.Module) -> nn.Module:
    """A copy of `module` whose parameters are registered anew, so that a skeleton of it costs no memory."""
    fresh = {  # of memory of their own, which nobody has touched yet
        id(old): nn.Parameter(torch.empty_like(old), requires_grad=old.requires_grad) for old in module.parameters()
    }
    values = {id(fresh[id(old)]): old for old in module.parameters()}
    twin = copy.deepcopy(module, dict(fresh))
    for owner in twin.modules():
        for name, parameter in list(owner._parameters.items()):
            if parameter is not None:
                owner.register_parameter(name, parameter)
                if owner._parameters[name] is parameter and id(parameter) in values:
                    parameter.data = values.pop(id(parameter)).detach().clone()
    return twin


def made(anchor: Any, number: int) -> nn.Module:
    """A module of its own for `anchor`.

    Raises:
        SpaceError: it is no module and makes none.
    """
    given = anchor.value if isinstance(anchor, Given) else anchor
    module = copied(given) if isinstance(given, nn.Module) else given() if callable(given) else given
    if not isinstance(module, nn.Module):
        raise SpaceError(
            f"anchor {number} is a {type(module).__name__}; give a module, or a function (a model "
            "function's call) that builds one"
        )
    return module
