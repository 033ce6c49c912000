"""How far a student's outputs are from a teacher's: what `InPlace`, `Teacher` and the other losses with a teacher minimise.

A task says what its outputs are by its own `Task.divergence`: `KL()` of classes, `MeanSquares()` of numbers, `Binary()` of labels
that exclude no other, `Similarities()` of embeddings.  A divergence says in `compares` which of these it is made for; a loss with
one that does not fit its task is refused, since a softmax over what are no classes is a number that means nothing.  No gradient
goes to the teacher.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from nas.checking import Positive, checked
from nas.errors import TrainError, suggest
from nas.identity import described
from nas.train.synced import whole

Direction: TypeAlias = Literal["forward", "reverse", "symmetric"]
DIRECTIONS = ("forward", "reverse", "symmetric")
TINY = 1e-12
Kind: TypeAlias = Literal["classes", "values", "labels", "embeddings"]
"""What outputs are: logits of exclusive classes, numbers, logits of labels of which several may be true, or embeddings."""


class Divergence(ABC):
    """Compares outputs.  It holds no state.

    Attributes:
        compares: kinds of outputs that it is made for; the first is that of a task which has it as its own.
    """

    compares: ClassVar[tuple[Kind, ...]] = ("classes",)

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean divergence over all but the last dimension: a scalar.

        Args:
            student: (…, classes) logits.
            teacher: the same shape; no gradient goes to it.

        Raises:
            TrainError: the shapes differ, or there is no axis of classes.
        """
        _check_shapes(student, teacher)
        if student.ndim < 2:
            raise TrainError(
                f"{type(self).__name__} compares (…, classes) and got outputs of shape {tuple(student.shape)}, whose last axis "
                "is the batch's; numbers are compared by MeanSquares()"
            )
        classes = student.shape[-1]
        return self._compare(student.float().reshape(-1, classes), teacher.detach().float().reshape(-1, classes))

    @abstractmethod
    def _compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(n, classes) of both, float32 -> scalar."""

    def describe(self) -> dict[str, Any]:
        """JSON-able name and options."""
        return described(self)


@checked(TrainError)
@dataclass(frozen=True)
class KL(Divergence):
    """T² times the Kullback–Leibler divergence of the softened distributions (Hinton et al. 2015).

    A class whose logit is −∞, and so its probability 0, adds 0.

    Args:
        direction: "forward" is KL(teacher ‖ student), which covers what the teacher holds possible; "reverse" is
            KL(student ‖ teacher), which seeks its modes (Gu et al. 2024, "MiniLLM"); "symmetric" is the mean of the two.
        temperature: softens both.
    """

    direction: Direction = "forward"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise TrainError(
                f"KL has direction={self.direction!r}; it is one of {', '.join(DIRECTIONS)}"
                f"{suggest(str(self.direction), DIRECTIONS)}"
            )
        _positive("KL", "temperature", self.temperature)

    def _compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        log_q = functional.log_softmax(student / self.temperature, -1)
        log_p = functional.log_softmax(teacher / self.temperature, -1)
        forward, reverse = relative(log_p, log_q).mean(), relative(log_q, log_p).mean()
        value = {"forward": forward, "reverse": reverse, "symmetric": 0.5 * (forward + reverse)}[self.direction]
        return value * self.temperature**2


@checked(TrainError)
@dataclass(frozen=True)
class StandardizedKL(Divergence):
    """T² times the forward divergence of logits that have mean 0 and deviation 1 in each sample.

    Sun et al. 2024, "Logit Standardization in Knowledge Distillation": a student follows the relations of the teacher's logits
    and not their size, which a small network cannot reach and which decides how sure it is.  Nothing else teaches that size, so
    that probabilities mean little without labels: give `InPlace` labels=0.5, or `Teacher` a weight below 1, as the paper does
    (expected calibration error of a small network without: 51 %, not 6 %; see experiments/recipes).

    Args:
        temperature: softens both.
    """

    temperature: float = 2.0

    def __post_init__(self) -> None:
        _positive("StandardizedKL", "temperature", self.temperature)

    def _compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        log_q, log_p = (functional.log_softmax(_standardized(one) / self.temperature, -1) for one in (student, teacher))
        return relative(log_p, log_q).mean() * self.temperature**2


@checked(TrainError)
@dataclass(frozen=True)
class BalancedKL(Divergence):
    """T² times the forward and the reverse divergence, balanced for each sample by how sure the two networks are.

    After Amara et al. 2022, "BD-KD: Balancing the Divergences for Online Knowledge Distillation", who weigh both for each sample
    by the entropies of the networks, for better calibrated students.  The weights are ours: the forward's share is the teacher's
    part of both entropies, H(teacher) / (H(teacher) + H(student)), held fixed, and the reverse's is the rest.  A student that is
    surer than its teacher learns more from the forward divergence, which spreads it, one that is less sure more from the
    reverse, which sharpens it.

    Args:
        temperature: softens both.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        _positive("BalancedKL", "temperature", self.temperature)

    def _compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        log_q, log_p = (functional.log_softmax(one / self.temperature, -1) for one in (student, teacher))
        forward, reverse = relative(log_p, log_q), relative(log_q, log_p)
        ours, theirs = (TINY - relative(one, torch.zeros_like(one)).detach() for one in (log_q, log_p))
        return ((theirs * forward + ours * reverse) / (ours + theirs)).mean() * self.temperature**2


@checked(TrainError)
@dataclass(frozen=True)
class Hard(Divergence):
    """Cross entropy with the teacher's most likely class (Touvron et al. 2021, "DeiT": hard-label distillation)."""

    def _compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return functional.cross_entropy(student, teacher.argmax(-1))


@checked(TrainError)
@dataclass(frozen=True)
class AdaptiveAlpha(Divergence):
    """For each sample the larger of two α-divergences (Wang et al. 2021, "AlphaNet", algorithm 1).

    D_α = Σ q (w − 1) / (α (α − 1)) with q the student, p the teacher and w the importance ratio (p / q)^α, clamped to
    [0, `clip`].  A negative α punishes a student for what it holds possible and the teacher does not, α = 1 (the forward
    KL, not clamped) the opposite; α = 0 is the reverse KL.  The gradient is that of −Σ q ρ log q with q and ρ held fixed,
    ρ = w / α + 1 / (α (α − 1)), so that clamped ratios still pull; the value is D_α itself.

    Args:
        negative: the smaller α, taken where its value is the larger one.
        positive: the larger α.
        clip: largest importance ratio.
    """

    negative: float = -1.0
    positive: float = 1.0
    clip: float = 5.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.negative) and math.isfinite(self.positive) and self.negative < self.positive):
            raise TrainError(
                f"AdaptiveAlpha has negative={self.negative} and positive={self.positive}; the first must be the smaller"
            )
        _positive("AdaptiveAlpha", "clip", self.clip)

    def _compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        log_q, log_p = functional.log_softmax(student, -1), functional.log_softmax(teacher, -1)
        low, low_pull = self._alpha(log_q, log_p, self.negative)
        high, high_pull = self._alpha(log_q, log_p, self.positive)
        value = torch.maximum(low, high)
        pull = torch.where(low > high, low_pull, high_pull)
        return (value + pull - pull.detach()).mean()

    def _alpha(self, log_q: Tensor, log_p: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        """Value without gradient, and the surrogate whose gradient counts, of each sample: (n,) each."""
        fixed = log_q.detach()
        q, log_r = fixed.exp(), (log_p - fixed).masked_fill(fixed.isneginf() & log_p.isneginf(), 0.0)
        log_q = log_q.masked_fill(log_q.isneginf(), 0.0)  # times q = 0
        if math.isclose(alpha, 1.0, abs_tol=1e-3):
            # q · ρ and q · f with ρ = p / q, written without the quotient, which overflows.
            weight = log_p.exp()
            return relative(log_p, fixed), -(weight * log_q).sum(-1)
        if math.isclose(alpha, 0.0, abs_tol=1e-3):
            log_w = log_r.clamp(max=math.log(self.clip))
            return -(q * log_w).sum(-1), -(q * (log_w - 1.0) * log_q).sum(-1)
        scale = 1.0 / (alpha * (alpha - 1.0))
        w = (alpha * log_r).exp().clamp(0.0, self.clip)
        return scale * (q * (w - 1.0)).sum(-1), -(q * (w / alpha + scale) * log_q).sum(-1)


@checked(TrainError)
@dataclass(frozen=True)
class DIST(Divergence):
    """Correlation instead of equality (Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher").

    T² (beta (1 − ρ of each sample's distribution) + gamma (1 − ρ of each class over the batch)), ρ being Pearson's
    correlation of the softened probabilities, averaged.

    Args:
        beta: weight of the relation between the classes of a sample.
        gamma: weight of the relation between the samples for a class; needs two samples or more.
        temperature: softens both.
    """

    beta: float = 1.0
    gamma: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not (self.beta >= 0 and self.gamma >= 0 and self.beta + self.gamma > 0):
            raise TrainError(f"DIST has beta={self.beta} and gamma={self.gamma}; neither is negative, one is positive")
        _positive("DIST", "temperature", self.temperature)

    def _compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        q, p = torch.softmax(student / self.temperature, -1), torch.softmax(teacher / self.temperature, -1)
        total = q.new_zeros(())
        if self.beta:
            total = total + self.beta * (1.0 - _correlation(q, p).mean())
        if self.gamma:
            q, p = whole(q), whole(p)
            if len(q) < 2:
                raise TrainError("DIST correlates the samples of a batch and got 1; give it gamma=0 or larger batches")
            total = total + self.gamma * (1.0 - _correlation(q.T, p.T).mean())
        return total * self.temperature**2


@checked(TrainError)
@dataclass(frozen=True)
class MeanSquares(Divergence):
    """Mean squared difference of the outputs: of a regression's numbers, or of logits (Ba & Caruana 2014)."""

    compares: ClassVar[tuple[Kind, ...]] = ("values", "classes", "labels")

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Of two tensors of one shape: a scalar."""
        _check_shapes(student, teacher)
        return self._compare(student.float(), teacher.detach().float())

    def _compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return functional.mse_loss(student, teacher)


@checked(TrainError)
@dataclass(frozen=True)
class Binary(Divergence):
    """T² times the Kullback–Leibler divergence KL(teacher ‖ student) of each label's Bernoulli distribution, averaged.

    Args:
        temperature: divides the logits of both.
    """

    compares: ClassVar[tuple[Kind, ...]] = ("labels",)
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _positive("Binary", "temperature", self.temperature)

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Of two tensors of one shape, a logit for each label: a scalar."""
        _check_shapes(student, teacher)
        return self._compare(student.float(), teacher.detach().float())

    def _compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        # Infinite logits, of probabilities that are 0 or 1, as the largest numbers: infinity times 0 is none.
        largest = torch.finfo(torch.float32).max
        p, q = ((one / self.temperature).clamp(-largest, largest) for one in (teacher, student))
        entropy = functional.binary_cross_entropy_with_logits(p, p.sigmoid())
        return (functional.binary_cross_entropy_with_logits(q, p.sigmoid()) - entropy) * self.temperature**2


@checked(TrainError)
@dataclass(frozen=True)
class Similarities(Divergence):
    """Mean squared difference of the cosine similarities between the samples of a batch; lengths of embeddings may differ.

    As Tung & Mori 2019, "Similarity-Preserving Knowledge Distillation", with cosines.  The similarity of a sample with itself is
    left out.
    """

    compares: ClassVar[tuple[Kind, ...]] = ("embeddings",)

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Of (n, d) and (n, e): a scalar.

        Raises:
            TrainError: they are no embeddings of as many samples, two or more.
        """
        if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
            raise TrainError(
                f"embeddings are (n, dim), and the student's are {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}"
            )
        return self._compare(whole(student.float()), whole(teacher.detach().float()))

    def _compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        count = len(student)
        if count < 2:
            raise TrainError("Similarities relates the samples of a batch and got 1; give larger batches")
        ours, theirs = (one @ one.T for one in (functional.normalize(student), functional.normalize(teacher)))
        return (ours - theirs).square().sum() / (count * (count - 1))  # the diagonals are ones


@checked(TrainError)
@dataclass(frozen=True)
class SoftSimilarities(Similarities):
    """KL(teacher ‖ student) of which other sample of the batch each sample is like: softmax of its cosine similarities.

    The distillation of Starbucks (Zhuang et al. 2024) on scores of texts, whose rows are queries and columns passages; here each
    sample is asked for all others, since a batch does not say which is which.  Lengths of embeddings may differ.

    Args:
        temperature: divides similarities; that of the contrastive loss, as there.
    """

    temperature: Positive = 0.05

    def _compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        if len(student) < 3:
            raise TrainError(
                f"SoftSimilarities compares each sample with two others and got {len(student)}; give larger batches"
            )
        log_q, log_p = (self._likely(functional.normalize(one)) for one in (student, teacher))
        return relative(log_p, log_q).mean()

    def _likely(self, rows: Tensor) -> Tensor:
        """(n, n − 1) logarithms: of each sample's others."""
        count = len(rows)
        others = ~torch.eye(count, dtype=torch.bool, device=rows.device)
        return functional.log_softmax((rows @ rows.T)[others].view(count, count - 1) / self.temperature, -1)


def relative(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) = Σ p (log p − log q) of each row of (…, classes) logarithms; a class of probability 0 in p adds 0."""
    impossible = log_p.isneginf()
    apart = log_p.masked_fill(impossible, 0.0) - log_q.masked_fill(impossible, 0.0)
    return (log_p.exp() * apart).sum(-1)


def _standardized(logits: Tensor) -> Tensor:
    """Each row with mean 0 and deviation 1; one of equal logits is all zeros."""
    centred = logits - logits.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()


def _check_shapes(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise TrainError(
            f"the student's logits are {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}; they must agree"
        )


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's of each row; 0 where a row is constant."""
    return functional.cosine_similarity(a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True), dim=-1, eps=1e-8)


def _positive(name: str, option: str, value: float) -> None:
    if not (value > 0.0 and math.isfinite(value)):
        raise TrainError(f"{name} has {option}={value}; it is a positive number")
