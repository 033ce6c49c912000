"""How far the features of a student's layer are from those of a teacher's: what `Features` adds to a loss.

Features are (n, c, h, w), or have their channels last: (n, tokens, c), (n, c).  Relations between samples or positions need no
channels in common, so that they compare layers of any width; `Hint` brings the student's to the teacher's by a projection.
Every comparison is a mean over the batch in float32, and no gradient goes to the teacher.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.checking import checked
from nas.errors import TrainError, suggest
from nas.identity import described
from nas.train.synced import whole

TINY = 1e-12


class Comparison(ABC):
    """Compares features.  It holds no state; what it learns is made by `adapt` and belongs to the training."""

    def __call__(self, student: Tensor, teacher: Tensor, projection: nn.Module | None = None) -> Tensor:
        """Distance: a scalar.

        Args:
            student: features of a batch.
            teacher: of the same batch.
            projection: what `adapt` made for the layer.

        Raises:
            TrainError: the two cannot be compared.
        """
        if len(student) != len(teacher):
            raise TrainError(f"the student has features of {len(student)} samples and the teacher of {len(teacher)}")
        with torch.autocast(student.device.type, enabled=False):
            return self._compare(student.float(), teacher.detach().float(), projection)

    @abstractmethod
    def _compare(self, student: Tensor, teacher: Tensor, projection: nn.Module | None) -> Tensor:
        """Float32 of both -> scalar."""

    def adapt(self, layer: str, student: Tensor, teacher: Tensor, draw: torch.Generator) -> nn.Module | None:  # noqa: ARG002
        """What it needs to compare that layer, from features of the widest student and of the teacher; None is nothing."""
        return None

    def describe(self) -> dict[str, Any]:
        """JSON-able name and options."""
        return described(self)


class Projection(nn.Module):
    """Channels of a student to those of its teacher; a narrower student uses the first columns of the matrix."""

    def __init__(self, weight: Tensor, bias: Tensor | None, learn: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=learn)
        self.bias = nn.Parameter(bias, requires_grad=learn) if bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        """(…, c) -> (…, teacher's c)."""
        if x.shape[-1] > self.weight.shape[1]:
            raise TrainError(
                f"a student's layer has {x.shape[-1]} channels and its projection takes {self.weight.shape[1]}; "
                "give one that is as wide as the widest subnet"
            )
        return functional.linear(x, self.weight[:, : x.shape[-1]], self.bias)


@checked(TrainError)
@dataclass(frozen=True)
class Hint(Comparison):
    """Mean squared difference after a projection of the student (Romero et al. 2015, "FitNets").

    The projection acts on channels, at each position alike: a 1×1 convolution, where the paper has larger ones.  For a subnet
    that is narrower than the widest it is the leading corner, as a subnet's own weights are.

    Args:
        projection: "learned" with the supernet, "none" where both have the same channels, or fixed matrices: name of the
            student's layer -> (channels of the teacher, channels of the widest student).
    """

    projection: Literal["learned", "none"] | Mapping[str, Tensor] = field(default="learned", hash=False)

    def __post_init__(self) -> None:
        given = self.projection
        if isinstance(given, str) and given not in ("learned", "none"):
            raise TrainError(
                f"Hint has projection {given!r}; it is 'learned', 'none' or matrices by layer"
                f"{suggest(given, ('learned', 'none'))}"
            )
        if isinstance(given, Mapping) and not all(isinstance(one, Tensor) and one.ndim == 2 for one in given.values()):
            raise TrainError(
                "Hint has a projection that is no matrix; give (teacher's channels, student's) for each layer"
            )

    def adapt(self, layer: str, student: Tensor, teacher: Tensor, draw: torch.Generator) -> nn.Module | None:
        """The given matrix, or one with random values (uniform, as of a linear layer)."""
        if self.projection == "none":
            return None
        ours, theirs = channels_last(student).shape[-1], channels_last(teacher).shape[-1]
        if isinstance(self.projection, Mapping):
            if layer not in self.projection:
                raise TrainError(
                    f"Hint has no projection for layer {layer!r}{suggest(layer, self.projection)}; give one"
                )
            weight = self.projection[layer].detach().clone().float()
            if tuple(weight.shape) != (theirs, ours):
                raise TrainError(
                    f"Hint has a projection of {tuple(weight.shape)} for layer {layer!r}, whose teacher has {theirs} channels "
                    f"and whose widest student has {ours}; give ({theirs}, {ours})"
                )
            return Projection(weight, None, learn=False)
        bound = 1.0 / math.sqrt(ours)
        weight = torch.empty(theirs, ours).uniform_(-bound, bound, generator=draw)
        return Projection(weight, torch.zeros(theirs), learn=True)

    def _compare(self, student: Tensor, teacher: Tensor, projection: nn.Module | None) -> Tensor:
        ours, theirs = (channels_last(one).flatten(1, -2) if one.ndim > 2 else one for one in (student, teacher))
        ours = ours if projection is None else projection(ours)  # (n, positions, c): an image's may be tokens
        if ours.shape != theirs.shape:
            raise TrainError(
                f"a student's layer gives {tuple(student.shape)} and its teacher's {tuple(teacher.shape)}, which Hint cannot "
                "compare one by one; give it a projection where channels differ, else use a relation such as RKD()"
            )
        return functional.mse_loss(ours, theirs)

    def describe(self) -> dict[str, Any]:
        """Name, and a digest of the given matrices."""
        given = self.projection
        shown = given if isinstance(given, str) else {name: _digest(one) for name, one in given.items()}
        return {"class": "Hint", "projection": shown}


@checked(TrainError)
@dataclass(frozen=True)
class Relative(Comparison):
    """Mean squared difference, divided by the mean square of the teacher's features (Bercovich et al. 2024, "Puzzle").

    Layers of any scale weigh the same: 1 is a student that gives zeros.  Both have the same shape.
    """

    def _compare(self, student: Tensor, teacher: Tensor, projection: nn.Module | None) -> Tensor:  # noqa: ARG002
        if student.shape != teacher.shape:
            raise TrainError(
                f"a student's layer gives {tuple(student.shape)} and its teacher's {tuple(teacher.shape)}, which Relative cannot "
                "compare one by one; choose other layers, or Hint() with a projection"
            )
        return functional.mse_loss(student, teacher) / teacher.square().mean().clamp_min(TINY)


@checked(TrainError)
@dataclass(frozen=True)
class AttentionTransfer(Comparison):
    """Mean squared difference of normalised maps of activity (Zagoruyko & Komodakis 2017, "Paying More Attention to Attention").

    A map is the mean square over channels at each position, divided by its norm over positions.  Needs positions, as many in
    both.  The authors weigh it by 1000.
    """

    def _compare(self, student: Tensor, teacher: Tensor, projection: nn.Module | None) -> Tensor:  # noqa: ARG002
        ours, theirs = _map(student), _map(teacher)
        if ours.shape != theirs.shape:
            raise TrainError(
                f"a student's layer gives {tuple(student.shape)} and its teacher's {tuple(teacher.shape)}, which have different "
                "positions; AttentionTransfer needs the same, so choose other layers or a relation such as RKD()"
            )
        return functional.mse_loss(ours, theirs)


@checked(TrainError)
@dataclass(frozen=True)
class RKD(Comparison):
    """Distances of pairs and angles of triplets of samples (Park et al. 2019, "Relational Knowledge Distillation").

    Distances are divided by their mean over pairs that differ; differences go through the Huber loss.  Angles cost n³ numbers
    for a batch of n.

    Args:
        distance: weight of the distances; 25 in the paper.
        angle: weight of the angles; 50 in the paper.
    """

    distance: float = 25.0
    angle: float = 50.0

    def __post_init__(self) -> None:
        if not (self.distance >= 0 and self.angle >= 0 and self.distance + self.angle > 0):
            raise TrainError(
                f"RKD has distance={self.distance} and angle={self.angle}; neither is negative, one is positive"
            )

    def _compare(self, student: Tensor, teacher: Tensor, projection: nn.Module | None) -> Tensor:  # noqa: ARG002
        student, teacher = whole(student), whole(teacher)
        least = 3 if self.angle else 2
        if len(student) < least:
            raise TrainError(f"RKD relates {least} samples or more and got {len(student)}; give it larger batches")
        ours, theirs = _gram(student), _gram(teacher)
        total = student.new_zeros(())
        if self.distance:
            total = total + self.distance * functional.smooth_l1_loss(_spread(ours), _spread(theirs))
        if self.angle:
            total = total + self.angle * functional.smooth_l1_loss(_cosines(ours), _cosines(theirs))
        return total


@checked(TrainError)
@dataclass(frozen=True)
class SimilarityPreserving(Comparison):
    """‖G(student) − G(teacher)‖² / n², G the similarities F Fᵀ of the batch with rows of norm 1 (Tung & Mori 2019).

    The authors weigh it by 3000.
    """

    def _compare(self, student: Tensor, teacher: Tensor, projection: nn.Module | None) -> Tensor:  # noqa: ARG002
        student, teacher = whole(student), whole(teacher)
        if len(student) < 2:
            raise TrainError("SimilarityPreserving relates samples and got 1; give it larger batches")
        ours, theirs = (functional.normalize(one.flatten(1) @ one.flatten(1).T, dim=1) for one in (student, teacher))
        return functional.mse_loss(ours, theirs)


def channels_last(features: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, h, w, c); others have them last already."""
    return features.movedim(1, -1) if features.ndim == 4 else features


def _map(features: Tensor) -> Tensor:
    """(n, positions), each row of norm 1."""
    if features.ndim < 3:
        raise TrainError(
            f"features of shape {tuple(features.shape)} have no positions for AttentionTransfer; name an earlier layer"
        )
    return functional.normalize(channels_last(features).square().mean(-1).flatten(1), dim=1)


def _gram(features: Tensor) -> Tensor:
    """(n, n) inner products of samples about their mean: distances and angles are the same, and fewer digits cancel."""
    flat = features.flatten(1)
    flat = flat - flat.mean(0)
    return flat @ flat.T


def _squares(gram: Tensor) -> Tensor:
    """(n, n) squared distances, 0 on the diagonal."""
    norms = gram.diagonal()
    return (norms[:, None] + norms[None, :] - 2.0 * gram).clamp_min(0.0).fill_diagonal_(0.0)


def _distances(gram: Tensor) -> Tensor:
    """(n, n); a pair that coincides has no gradient."""
    squares = _squares(gram)
    apart = squares > TINY
    return torch.where(apart, squares.clamp_min(TINY).sqrt(), squares.new_zeros(()))


def _spread(gram: Tensor) -> Tensor:
    """Distances, divided by the mean of those that are not zero."""
    distances = _distances(gram)
    apart = (distances > 0).sum().clamp_min(1)
    return distances / (distances.sum() / apart).clamp_min(TINY)


def _cosines(gram: Tensor) -> Tensor:
    """(n, n, n): [j, i, k] is the cosine at sample j between the directions to i and k; 0 where a direction has no length."""
    distances = _distances(gram)
    inverse = torch.where(distances > 0, 1.0 / distances.clamp_min(math.sqrt(TINY)), distances.new_zeros(()))
    # <x_i − x_j, x_k − x_j> = G_ik − G_ij − G_jk + G_jj
    products = gram[None] - gram[:, :, None] - gram[:, None, :] + gram.diagonal()[:, None, None]
    return products * inverse[:, :, None] * inverse[:, None, :]


def _digest(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.blake2b(values, digest_size=8).hexdigest()
