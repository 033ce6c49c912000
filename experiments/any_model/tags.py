"""Weights that tell where they come from: every element of every parameter gets a value of its own.

Whatever a conversion returns, each value in a subnet then says which element of which parameter of the original it
is, without help of the
conversion: whether a parameter is a slice (a Cartesian product of kept indices, in order), and of what.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LEAST, BINADES = -20, 17  # magnitudes from 2^-20 to 2^-3: a deviation of about 0.026
TAGS = BINADES << 23
BASE = (127 + LEAST) << 23  # bits of 2^-20
FACTOR = 62_710_561  # spreads neighbours over all magnitudes; coprime to TAGS


def tagged(module: nn.Module) -> list[tuple[str, Tensor, bool]]:
    """Name, tensor and whether it is positive, of every float32 parameter once, then of the statistics of
    BatchNorm."""
    seen: set[int] = set()
    found: list[tuple[str, Tensor, bool]] = []
    for name, parameter in module.named_parameters():
        if parameter.dtype == torch.float32 and parameter.numel():
            seen.add(id(parameter))
            found.append((name, parameter, False))
    for path, each in module.named_modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm) and each.running_mean is not None:
            for name in ("running_mean", "running_var"):
                statistic = getattr(each, name)
                if id(statistic) not in seen:
                    seen.add(id(statistic))
                    found.append((f"{path}.{name}", statistic, name == "running_var"))
    return found


@dataclass
class Origin:
    """Where a tensor comes from.

    Attributes:
        kind: "whole" or "slice" where it is as it should be; else what is wrong.
        source: name of the original's tensor.
        ids: numbers of its elements, in its shape.
    """

    kind: str
    source: str | None
    ids: Tensor


class Tags:
    """Numbers of the elements of a model, and the values that stand for them.  Fills the model."""

    def __init__(self, module: nn.Module, seed: int = 0) -> None:
        items = tagged(module)
        self.names = [name for name, _, _ in items]
        self.shapes = [tuple(tensor.shape) for _, tensor, _ in items]
        self.positive = [positive for *_, positive in items]
        self.starts = torch.tensor([0, *(tensor.numel() for _, tensor, _ in items)]).cumsum(0)
        if int(self.starts[-1]) > TAGS:
            raise ValueError(f"{int(self.starts[-1])} elements are more than the {TAGS} values there are")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for place, (_, tensor, positive) in enumerate(items):
                ids = torch.arange(int(self.starts[place]), int(self.starts[place + 1]))
                values = (ids * FACTOR % TAGS + BASE).to(torch.int32).view(torch.float32)
                if not positive:
                    values = values * (torch.randint(0, 2, values.shape, generator=generator) * 2 - 1)
                tensor.data.copy_(values.view(tensor.shape))

    def ids(self, tensor: Tensor) -> Tensor:
        """Numbers of its elements, in its shape; -1 where a value is none of ours."""
        bits = tensor.detach().abs().contiguous().view(torch.int32).to(torch.int64) - BASE
        ours = (bits >= 0) & (bits < TAGS)
        high, low = divmod(pow(FACTOR, -1, TAGS), 1 << 14)  # in two steps, so that no product overflows
        bits = bits.clamp(0, TAGS - 1)
        found = (bits * high % TAGS * (1 << 14) % TAGS + bits * low) % TAGS
        return torch.where(ours & (found < self.starts[-1]), found, -1)

    def origin(self, tensor: Tensor) -> Origin:
        """Is `tensor` a slice of one tensor of the original?"""
        ids = self.ids(tensor)
        if (ids < 0).any():
            return Origin("foreign", None, ids)
        places = torch.bucketize(ids.reshape(-1), self.starts[1:], right=True)
        place = int(places[0])
        if not bool((places == place).all()):
            return Origin("mixed", None, ids)
        name, shape = self.names[place], self.shapes[place]
        if len(shape) != tensor.dim():
            return Origin("other rank", name, ids)
        return Origin(_kind(ids - self.starts[place], shape), name, ids)


def _kind(flat: Tensor, shape: tuple[int, ...]) -> str:
    """Are these flat indices into a tensor of `shape` an ordered Cartesian product?"""
    kept = []
    for axis in reversed(range(len(shape))):
        rows = (flat % shape[axis]).movedim(axis, 0).reshape(flat.shape[axis], -1)
        flat = flat // shape[axis]
        if not bool((rows == rows[:, :1]).all()):
            return "scrambled"
        kept.append(rows[:, 0])
    if any(indices.unique().numel() != indices.numel() for indices in kept):
        return "duplicated"
    if not all(bool((indices[1:] > indices[:-1]).all()) for indices in kept):
        return "permuted"
    return "whole" if math.prod(shape) == math.prod(map(len, kept)) else "slice"


@dataclass
class Origins:
    """Of every tensor of a subnet."""

    tensors: list[tuple[Tensor, Origin]]

    @staticmethod
    def of(tags: Tags, subnet: nn.Module) -> Origins:
        return Origins([(tensor, tags.origin(tensor)) for _, tensor, _ in tagged(subnet)])

    @property
    def kinds(self) -> dict[str, int]:
        return dict(Counter(origin.kind for _, origin in self.tensors))

    @property
    def slices(self) -> bool:
        return set(self.kinds) <= {"whole", "slice"}

    @property
    def known(self) -> bool:
        return all(bool((origin.ids >= 0).all()) for _, origin in self.tensors)


def refill(tags: Tags, full: nn.Module, subnet: Origins, weights: Mapping[str, Tensor], rest: float = 0.0) -> None:
    """Put `weights`, by name, into both: of the full model everything that the subnet does not keep times `rest`."""
    values = torch.cat([weights[name].reshape(-1) for name in tags.names])
    kept = torch.zeros(len(values), dtype=torch.bool)
    present = set()
    with torch.no_grad():
        for tensor, origin in subnet.tensors:
            tensor.data.copy_(values[origin.ids.reshape(-1)].view(tensor.shape))
            kept[origin.ids.reshape(-1)] = True
            present.add(origin.source)
        for name, tensor, _ in tagged(full):
            place = tags.names.index(name)
            part = slice(int(tags.starts[place]), int(tags.starts[place + 1]))
            whole = values[part] if name not in present else torch.where(kept[part], values[part], rest * values[part])
            tensor.data.copy_(whole.view(tensor.shape))


def healthy(tags: Tags, initial: Mapping[str, Tensor], seed: int = 1) -> dict[str, Tensor]:
    """Random weights under which no part of a model is silent: biases and scales that begin at zero too."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, positive in zip(tags.names, tags.positive, strict=True):
        values = initial[name].clone()
        noise = torch.randn(values.shape, generator=generator)
        if positive:
            values = torch.rand(values.shape, generator=generator) * 0.5 + 0.75
        elif values.dim() >= 2:
            values = noise * min(0.5, 1.4 / math.sqrt(max(1, values[0].numel())))
        elif values.numel() and values.abs().max() < 1e-2:
            values = 0.3 * noise
        else:
            values = torch.where(values.abs() < 1e-3, 0.0, values) + 0.1 * noise
        found[name] = values
    return found
