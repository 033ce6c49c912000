"""Sums over calibration data of what goes into modules and comes out of them, and what follows from them by least squares.

Sums are taken in double precision where the device has it, so that data are seen once, whatever their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import SupernetError
from nas.supernet import passes
from nas.supernet.inputs import Inputs
from nas.supernet.scores import Data
from nas.supernet.supernet import Supernet

UNSEEN = 1e-12
"""Variance along a direction, as a share of the largest, below which it is rounding: what is not seen is not fitted."""
MOST = 2**27
"""Numbers in sums that are taken in one pass over the data (1 GiB); of larger models several passes are made."""


@dataclass
class Sums:
    """Over rows of inputs, and of outputs where there are some.

    Attributes:
        count: of rows.
        x: (inputs,) their sum.
        xx: (inputs, inputs) of their products.
        y: (outputs,) sum of the outputs.
        xy: (inputs, outputs) of the products of both.
        yy: sum of the squares of the outputs.
    """

    count: int = 0
    x: Tensor = field(default_factory=lambda: torch.zeros(()))
    xx: Tensor = field(default_factory=lambda: torch.zeros(()))
    y: Tensor = field(default_factory=lambda: torch.zeros(()))
    xy: Tensor = field(default_factory=lambda: torch.zeros(()))
    yy: float = 0.0

    @property
    def finite(self) -> bool:
        """Whether all of them are."""
        return all(bool(one.isfinite().all()) for one in (self.x, self.xx, self.y, self.xy))

    def add(self, inputs: Tensor, outputs: Tensor | None = None) -> None:
        """Take up rows (n, inputs), and (n, outputs)."""
        x = _wide(inputs)
        self.count += len(x)
        self.x, self.xx = self.x.to(x) + x.sum(0), self.xx.to(x) + x.T @ x
        if outputs is not None:
            y = _wide(outputs)
            self.y, self.xy = self.y.to(y) + y.sum(0), self.xy.to(y) + x.T @ y
            self.yy += float(y.square().sum())

    @property
    def moment(self) -> Tensor:
        """(inputs, inputs) second moment of the inputs."""
        return self.xx / self.count

    def line(self, ridge: float) -> tuple[Tensor, Tensor, float]:
        """(outputs, inputs) weight and (outputs,) bias of the affine map from inputs to as many outputs, by ridge least squares.

        What is added to the inputs is fitted, and `ridge` shrinks that to nothing: of few data, and in directions that no input
        has, the map is nearly the identity.

        Args:
            ridge: as a share of the mean variance of the inputs.

        Returns:
            Both, and the mean squared error relative to the variance of the outputs.
        """
        n = float(self.count)
        mean, target = self.x / n, self.y / n
        within = self.xx / n - torch.outer(mean, mean)
        across = self.xy / n - torch.outer(mean, target)
        values, vectors = torch.linalg.eigh(within)
        seen = values > values[-1] * UNSEEN
        inverse = torch.where(seen, 1 / (values + ridge * float(values.mean())), 0.0)
        unit = torch.eye(len(within), dtype=within.dtype, device=within.device)
        weight = ((vectors * inverse) @ vectors.T @ (across - within) + unit).T
        spread = self.yy / n - float(target.square().sum())
        left = spread - 2 * float((weight.T * across).sum()) + float((weight @ within * weight).sum())
        return weight, target - weight @ mean, max(left, 0.0) / spread if spread > 0 else 0.0


def _wide(rows: Tensor) -> Tensor:
    return rows.detach().to(torch.float32 if rows.device.type == "mps" else torch.float64)


def rows(tensor: Tensor, dim: int, strides: Sequence[int] = ()) -> Tensor:
    """(n, features) of a tensor whose features are along `dim`; of its last dimensions every so many only."""
    for place, stride in enumerate(reversed(strides), start=1):
        if stride != 1:
            tensor = tensor.index_select(-place, torch.arange(0, tensor.shape[-place], stride, device=tensor.device))
    return tensor.movedim(dim, -1).flatten(0, -2)


@dataclass(frozen=True)
class Port:
    """Where rows are taken.

    Attributes:
        dim: of the features, from the end where it is negative.
        size: their number.
        strides: of the last dimensions.
        outputs: whether those of the module count as well.
    """

    dim: int
    size: int
    strides: tuple[int, ...] = ()
    outputs: bool = False


def watched(supernet: Supernet, ports: Mapping[str, Port], data: Data) -> dict[str, Sums]:
    """Sums over the data, in eval mode, of what goes into modules of the largest arch, by name.

    Raises:
        SupernetError: neither batches nor a task are given, or both; there is no batch, or one does not fit; a module is not
            called; or a number is not finite.
    """
    if (data.batches is None) == (data.task is None):
        raise SupernetError("give either batches=, inputs of the model, or task=")
    data.check_batches()
    groups: list[dict[str, Port]] = [{}]
    room = MOST
    for name, port in ports.items():
        size = port.size**2 * (1 + port.outputs)
        if size > room and groups[-1]:
            groups.append({})
            room = MOST
        groups[-1][name] = port
        room -= size
    if len(groups) > 1 and data.batches is not None:
        data = Data(batches=list(data.batches))
    found: dict[str, Sums] = {}
    for group in groups:
        found |= _pass(supernet, group, data.inputs(supernet.device))
    return found


def _pass(supernet: Supernet, ports: Mapping[str, Port], batches: Iterable[Inputs]) -> dict[str, Sums]:
    largest = passes.largest_of(supernet, passes.Units({}, {}))
    modules = dict(largest.module.named_modules())
    found = {name: Sums() for name in ports}
    with ExitStack() as stack:
        for name, port in ports.items():
            stack.callback(modules[name].register_forward_hook(_note(found[name], port, name), with_kwargs=True).remove)
        passes.forward(largest, batches, lambda _: None, lambda: all(one.finite for one in found.values()))
    for name, sums in found.items():
        if not sums.count:
            raise SupernetError(f"{name!r} is not called for these data, so that nothing can be fitted to it")
    return found


def _note(sums: Sums, port: Port, name: str) -> Any:
    def note(_module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        given = first_tensor((*args, *keywords.values()))
        inputs = rows(given, port.dim, port.strides)
        if not port.outputs:
            sums.add(inputs)
            return
        gives = first_tensor(output if isinstance(output, tuple | list) else (output,))
        if gives.shape != given.shape:
            raise SupernetError(
                f"{name!r} gives {tuple(gives.shape)} for {tuple(given.shape)}, so that no map of its features stands for it"
            )
        sums.add(inputs, rows(gives, port.dim))

    return note


def first_tensor(values: Iterable[Any]) -> Tensor:
    """The first of them that is one.

    Raises:
        SupernetError: none is.
    """
    found = next((value for value in values if isinstance(value, Tensor)), None)
    if found is None:
        raise SupernetError("a module that gets or gives no tensor cannot be fitted")
    return found
