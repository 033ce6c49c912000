"""Linear layers as two factors, of which the first r rows and columns are the best approximation of rank r, for every r.

W (outputs, inputs) is replaced by up (outputs, r) times down (r, inputs).  Of all matrices of rank r the product of W with the
projection on its first r left singular vectors is nearest to W (Eckart & Young 1936).  What counts in a network are the outputs
W x rather than the weights: with M the second moment E[x xᵀ] of the inputs, E|W x - A x|² = |(W - A) M^½|², which is least for
A = U Uᵀ W, where U are the first left singular vectors of W M^½, the eigenvectors of W M Wᵀ (as in Chen et al. 2021, "DRONE").
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nas.errors import SupernetError

DOWN, UP = "down", "up"
"""The two layers inside of the one that they replace."""
RIDGE = 1e-6
"""Of the mean of a second moment's diagonal, added to that: directions that no input has are approximated as the weights are."""


def followers(layer: str) -> tuple[str, ...]:
    """Names of the parameters that follow from those of `layer`."""
    return f"{layer}.{DOWN}.weight", f"{layer}.{UP}.weight", f"{layer}.{UP}.bias"


def factors(weight: Tensor, rank: int, moment: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(rank, inputs) `down` and (outputs, rank) `up`: for each r, up[:, :r] @ down[:r] is the best approximation of rank r.

    Both factors have the same norm in each direction, so that training changes them alike.

    Args:
        weight: (outputs, inputs).
        rank: of the product, at most.
        moment: (inputs, inputs) second moment of the inputs; without it the weights are approximated, not the outputs.

    Raises:
        SupernetError: `rank` is above the full rank, the moment is of other inputs, or a number is not finite.
    """
    wide = weight.detach().to("cpu", torch.float64)
    full = min(wide.shape)
    if not 1 <= rank <= full:
        raise SupernetError(f"a layer of {tuple(wide.shape)} has ranks from 1 to {full}, and {rank} is none")
    if moment is not None and tuple(moment.shape) != (wide.shape[1],) * 2:
        raise SupernetError(f"a second moment of {tuple(moment.shape)} is not one of {wide.shape[1]} inputs")
    if not bool(wide.isfinite().all()) or not (moment is None or bool(moment.isfinite().all())):
        raise SupernetError(
            "a layer, or what goes into it, has numbers that are not finite, and has no singular vectors"
        )
    up = _left(wide, rank, None if moment is None else _regular(moment))
    down = up.T @ wide
    ratio = (down.norm(dim=1) / up.norm(dim=0)).sqrt()
    ratio = torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0)
    return (down / ratio[:, None]).to(weight), (up * ratio).to(weight)


def _left(wide: Tensor, rank: int, moment: Tensor | None) -> Tensor:
    """(outputs, rank) first left singular vectors of `wide`, or of it times the root of `moment`; of the smaller Gram matrix."""
    if wide.shape[0] <= wide.shape[1]:
        return _first(wide @ wide.T if moment is None else wide @ moment @ wide.T, rank)
    scaled = wide if moment is None else wide @ _root(moment)
    vectors = scaled @ _first(scaled.T @ scaled, rank)
    lengths = vectors.norm(dim=0)
    smallest = lengths.max() * torch.finfo(wide.dtype).eps * max(wide.shape)
    return torch.where(lengths > smallest, vectors / lengths, 0.0)


def _first(gram: Tensor, count: int) -> Tensor:
    """Eigenvectors of the largest eigenvalues, in falling order."""
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors
    return vectors.flip(1)[:, :count]


def _regular(moment: Tensor) -> Tensor:
    wide = moment.detach().to("cpu", torch.float64)
    mean = float(wide.diagonal().mean())
    return wide + torch.eye(len(wide), dtype=torch.float64) * (RIDGE * mean or 1.0)


def _root(moment: Tensor) -> Tensor:
    values: Tensor
    vectors: Tensor
    values, vectors = torch.linalg.eigh(moment)
    return (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T


def matrix(weight: Tensor, *, transposed: bool) -> Tensor:
    """(outputs, inputs) the weight of a linear layer or of a convolution with kernels of one pixel."""
    flat = weight.flatten(1)
    return flat.T if transposed else flat


@torch.no_grad()
def fill(
    values: Mapping[str, Tensor], factored: Mapping[str, bool], moments: Mapping[str, Tensor] | None = None
) -> dict[str, float]:
    """Set the factors of layers to what their weights say, in place; the relative squared error of each at its largest rank.

    Args:
        values: tensors by name.
        factored: layers -> whether their weights are (inputs, outputs).
        moments: second moments of the inputs of layers; of others the weights are approximated.

    Raises:
        SupernetError: as `factors`.
    """
    errors: dict[str, float] = {}
    for layer, transposed in factored.items():
        down, up, bias = followers(layer)
        weight = matrix(values[f"{layer}.weight"], transposed=transposed)
        moment = (moments or {}).get(layer)
        try:
            first, second = factors(weight, values[down].shape[0], moment)
        except SupernetError as error:
            raise SupernetError(f"{layer!r}: {error}") from None
        values[down].copy_(first.reshape(values[down].shape))
        values[up].copy_(second.reshape(values[up].shape))
        if bias in values:
            values[bias].copy_(values[f"{layer}.bias"])
        errors[layer] = _error(weight, first, second, moment)
    return errors


def _error(weight: Tensor, down: Tensor, up: Tensor, moment: Tensor | None) -> float:
    """Of the outputs, or without a moment of the weights."""
    whole, left = weight.to("cpu", torch.float64), (weight - up @ down).to("cpu", torch.float64)
    size, error = (float(one.square().sum() if moment is None else (one @ moment * one).sum()) for one in (whole, left))
    return max(error, 0.0) / size if size > 0 else 0.0


def saves(rank: int, inputs: int, outputs: int) -> bool:
    """Whether two factors of this rank take fewer operations, and numbers, than the one layer."""
    return rank * (inputs + outputs) < inputs * outputs


def largest_saving(inputs: int, outputs: int) -> int:
    """The largest rank that saves anything; 0 where none does."""
    return -(-inputs * outputs // (inputs + outputs)) - 1
