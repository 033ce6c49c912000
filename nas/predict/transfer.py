"""A new device from a handful of measurements, using every device that is known.

The model is a Gaussian process whose kernel is learned from the known devices.  Each known device gives a *profile*: its
latency, divided by its mean, as a function of the arch, smoothed by ridge regression.  A new device is a sum of

    profiles of known devices  +  a constant  +  how often each candidate is chosen  +  single decisions  +  noise

with normal weights, so that its kernel is the known devices' second moment beside two linear kernels.  Either all profiles
have equal prior weights or one has all, and the measurements of the new device say how likely each is.  Latencies are not
logarithms here: parts add up.  How strong each term is, is chosen by leaving one known device out: it is treated as new, and
the rank correlation of its prediction counts.

Which archs to measure is chosen before anything is measured: greedily those that lower the mean variance of the
predictions most (I-optimal design; Seo et al. 2000, "Gaussian process regression: active data selection and test point
rejection").  The idea of reference archs is of Lee et al. 2021, "HELP: Hardware-adaptive efficient latency prediction for
NAS via meta-learning".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas.checking import checked
from nas.errors import PredictorError
from nas.predict.encoding import Encoding, label_counts
from nas.predict.predictor import Floats, Predictor
from nas.predict.scoring import scores, spearman

if TYPE_CHECKING:
    from nas.space import Arch, Space

Features = Callable[[Sequence["Arch"]], Floats]
POOL, TARGETS = 900, 200
POOLS = 4
"""Pools of which a left-out device's archs are chosen: one choice of ten says little about the strengths."""
AGREEMENT = 0.0
LEAST_KNOWN = 20
"""Archs of a device that others are learned from."""


@dataclass(frozen=True)
class Known:
    """What was measured on a device that is known: archs and their milliseconds."""

    device: str
    archs: Sequence[Arch]
    ms: Floats


@dataclass(frozen=True)
class Strengths:
    """Standard deviations of the terms, for latencies with a mean of one."""

    profiles: float = 0.3
    constant: float = 0.3
    counts: float = 0.3
    decisions: float = 0.0
    noise: float = 0.05


GRID = tuple(
    Strengths(profiles, 0.3, counts, decisions, noise)
    for profiles, counts, decisions, noise in product((0.1, 0.3, 1.0), (0.3, 1.0), (0.0, 0.1), (0.05, 0.1))
)


class FewShot(Predictor):
    """Predicts a new device from few measurements of it and the devices that are known.

    Without known devices it is a linear model of the decisions, which needs more measurements.

        few = FewShot(space, "phone", known)
        archs = few.choose(10)
        few.fit(archs, measured).predict(others)

    Args:
        space: of all archs.
        device: name of the new device.
        known: other devices; each with 20 archs or more, not necessarily the same.
        features: (n, d) numbers of archs that profiles are smoothed on; decisions and counts unless given.  A predictor with
            features of your own cannot be saved.
        strengths: of the terms; chosen by leaving out devices unless given.
        seed: of the archs that `choose` considers.

    Raises:
        PredictorError: a known device has too few archs, or archs of another space.
    """

    kind = "fewshot"
    least = 3

    @checked(PredictorError)
    def __init__(
        self,
        space: Space,
        device: str = "",
        known: Sequence[Known] = (),
        *,
        features: Features | None = None,
        strengths: Strengths | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(space, device)
        self.known, self.seed = [one.device for one in known], seed
        self._own = features is not None
        self._features: Features = features or Encoding(space, "onehot+counts")
        for one in known:
            self._check(one.archs)
            if len(one.archs) < LEAST_KNOWN or len(one.archs) != len(one.ms):
                raise PredictorError(
                    f"device {one.device!r} has {len(one.archs)} archs and {len(one.ms)} latencies; "
                    f"to be learned from it needs {LEAST_KNOWN} or more, one latency each"
                )
        self._profiles = _profiles(self._features, known)
        self.left_out: dict[str, float] = {}
        """Rank correlation with each known device when it was treated as new."""
        self.strengths = strengths or self._tuned(known)
        self.agreement: Floats = np.ones(1)
        """After a fit: how likely it is that all known devices say the same about the new one, and that each does alone."""

    def choose(self, count: int = 10, pool: Sequence[Arch] | None = None) -> list[Arch]:
        """Archs to measure on the new device.

        Args:
            count: how many.
            pool: choose among these; a random 900 of the space unless given.

        Raises:
            PredictorError: the pool has fewer.
        """
        import random

        rng = random.Random(self.seed)
        if pool is None:
            pool = list({self.space.sample(rng): None for _ in range(POOL)})
        if len(pool) < count:
            raise PredictorError(f"{count} archs cannot be chosen among {len(pool)}; give a larger pool")
        self._check(pool)
        design = self._design(pool, self.strengths)
        places = _greedy(design, count, self.strengths.noise, np.random.default_rng(self.seed))
        return [pool[place] for place in places]

    def _tuned(self, known: Sequence[Known]) -> Strengths:
        """The strengths with which known devices are best predicted from the others."""
        if len(known) < 3:
            return Strengths()
        rng = np.random.default_rng(0)
        tasks = []
        for place, one in enumerate(known):
            rows = rng.permutation(len(one.archs))[:POOL]
            archs = [one.archs[row] for row in rows]
            tasks.append((self._terms(archs), np.asarray(one.ms, float)[rows], place))
        results = {
            strengths: [_left_out(terms, ms, place, strengths) for terms, ms, place in tasks] for strengths in GRID
        }
        best = max(GRID, key=lambda strengths: float(np.mean(results[strengths])))
        self.left_out = dict(zip(self.known, results[best], strict=True))
        return best

    def _terms(self, archs: Sequence[Arch]) -> tuple[Floats, Floats, Floats]:
        """Profiles (n, devices), counts and decisions as numbers around zero."""
        counts, decisions = label_counts(self.space, archs), self.space.features(archs, "onehot")
        decided = len(self.space.decisions)
        shares = counts / max(1, decided)
        profiles = self._features(archs) if self._profiles.size else np.empty((len(archs), 0))
        return (
            _smoothed(profiles, self._profiles),
            shares * np.sqrt(shares.shape[1]),
            decisions - decisions.mean(1, keepdims=True),
        )

    def _design(self, archs: Sequence[Arch], strengths: Strengths) -> Floats:
        return _joined(*self._terms(archs), strengths)

    @property
    def _columns(self) -> slice:
        """Where the profiles are in the design."""
        return slice(1, 1 + self._profiles.shape[1] if self.strengths.profiles else 1)

    def _fit(self, archs: Sequence[Arch], ms: Floats) -> None:
        _refuse_repeats(archs, ms, self.device)
        self._scale = float(ms.mean())
        posterior = weighed(self._design(archs, self.strengths), self._columns, ms / self._scale, self.strengths.noise)
        self._refuse_contradictions(ms, posterior.alone * self._scale)
        self._weights, self._covariance, self.agreement = posterior[:3]
        self._least_ms = float(ms.min()) / 10
        self.errors = {**scores(ms, posterior.alone * self._scale), "archs": float(len(ms))}

    def _refuse_contradictions(self, ms: Floats, alone: Floats) -> None:
        """Five or more measurements must say something about each other; without known devices they need not contradict."""
        if len(ms) < 5 or np.ptp(ms) <= 1e-9 * self._scale:
            return
        agreement = spearman(ms, alone)
        if agreement > AGREEMENT:
            return
        found = f"each predicted from the others has rank correlation {agreement:.2f} with what was measured"
        if not self.known:
            raise PredictorError(
                f"the {len(ms)} measurements of device {self.device!r} say too little about each other without a known device: "
                f"{found}; measure {LEAST_KNOWN} archs or more on another device, or more here for another kind than 'fewshot'"
            )
        raise PredictorError(
            f"the {len(ms)} measurements of device {self.device!r} contradict each other: {found}; "
            "measure them again with the machine alone"
        )

    def _predict(self, archs: Sequence[Arch]) -> tuple[Floats, Floats]:
        design = self._design(archs, self.strengths)
        variance = np.einsum("ij,jk,ik->i", design, self._covariance, design) + self.strengths.noise**2
        value = np.maximum(design @ self._weights * self._scale, self._least_ms)
        return value, np.sqrt(np.maximum(variance, 1e-12)) * self._scale

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        if self._own:
            raise PredictorError("a predictor with features of your own cannot be kept; make it without features=")
        state = {
            "known": self.known,
            "strengths": asdict(self.strengths),
            "left_out": self.left_out,
            "scale": self._scale,
            "least_ms": self._least_ms,
            "seed": self.seed,
        }
        return state, {"profiles": self._profiles, "weights": self._weights, "covariance": self._covariance}

    @classmethod
    def _restore(
        cls, space: Space, device: str, state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> FewShot:
        one = cls(space, device, strengths=Strengths(**state["strengths"]), seed=state["seed"])
        one.known, one.left_out = list(state["known"]), dict(state["left_out"])
        one._scale, one._least_ms = state["scale"], state["least_ms"]
        one._profiles, one._weights, one._covariance = arrays["profiles"], arrays["weights"], arrays["covariance"]
        return one


class Posterior(NamedTuple):
    """What measurements say about the weights of a linear model whose prior is a mixture."""

    weights: Floats
    """(d,) their means."""
    covariance: Floats
    """(d, d)."""
    shares: Floats
    """(k + 1,) of the mixture: all profiles alike, then each profile alone."""
    alone: Floats
    """(n,) each measurement predicted from the others."""


def weighed(design: Floats, profiles: slice, y: Floats, noise: float) -> Posterior:
    """The posterior where either all profiles are alike, or the new device is most like one of the known ones.

    How likely each is follows from the measurements (Bayesian model averaging, Hoeting et al. 1999).

    Args:
        design: (n, d) features.
        profiles: which of them are profiles of known devices.
        y: (n,) what was measured.
        noise: standard deviation.
    """
    count = len(range(*profiles.indices(design.shape[1])))
    found, evidence = [], []
    for one in range(-1, count if count > 1 else 0):
        scale = np.ones(design.shape[1])
        if one >= 0:
            scale[profiles] = 0.0
            scale[profiles.start + one] = np.sqrt(count)
        x = design * scale
        gram = x @ x.T + noise**2 * np.eye(len(y))
        inverse = np.linalg.inv(gram)
        evidence.append(-0.5 * (y @ inverse @ y + np.linalg.slogdet(gram)[1]))
        covariance = (np.eye(len(scale)) - x.T @ inverse @ x) * scale[:, None] * scale
        found.append((scale * (x.T @ (inverse @ y)), covariance, y - (inverse @ y) / np.diag(inverse)))
    shares = np.exp(np.array(evidence) - max(evidence))
    shares /= shares.sum()
    weights = sum(share * one[0] for share, one in zip(shares, found, strict=True))
    alone = sum(share * one[2] for share, one in zip(shares, found, strict=True))
    second = sum(share * (one[1] + np.outer(one[0], one[0])) for share, one in zip(shares, found, strict=True))
    return Posterior(weights, second - np.outer(weights, weights), shares, alone)


def choose(
    space: Space, count: int = 10, known: Sequence[Known] = (), *, pool: Sequence[Arch] | None = None, seed: int = 0
) -> list[Arch]:
    """Archs of `space` that say most about a new device: what `FewShot.choose` gives."""
    return FewShot(space, known=known, seed=seed).choose(count, pool)


def _profiles(features: Features, known: Sequence[Known]) -> Floats:
    """(d + 1, devices) weights, the constant first, of ridge regressions of latency / mean latency."""
    columns = []
    for one in known:
        x, ms = features(one.archs), np.asarray(one.ms, float)
        shift, width = x.mean(0), x.std(0)
        width = np.where(width > 1e-12, width, 1.0)
        # Not weighted: a device that takes next to nothing for a few archs would be fitted to those.
        weights = ridge_weights((x - shift) / width, ms / ms.mean())
        columns.append(np.concatenate([[weights[0] - (weights[1:] * shift / width).sum()], weights[1:] / width]))
    return np.stack(columns, axis=1) if columns else np.empty((0, 0))


def ridge_weights(x: Floats, y: Floats) -> Floats:
    """(d + 1,) weights, the constant first, with the penalty that has the smallest left-one-out error."""
    u, s, vt = np.linalg.svd(x - x.mean(0), full_matrices=False)
    target = y - y.mean()
    projected = u.T @ target
    best: tuple[float, Floats] = (np.inf, np.zeros(x.shape[1]))
    for penalty in 10.0 ** np.arange(-2.0, 4.1, 0.5):
        shrink = s**2 / (s**2 + penalty)
        leverage = np.minimum(((u**2) * shrink).sum(1) + 1.0 / len(x), 1.0 - 1e-9)
        error = float((((target - u @ (shrink * projected)) / (1.0 - leverage)) ** 2).mean())
        if error < best[0]:
            best = (error, vt.T @ (s / (s**2 + penalty) * projected))
    return np.concatenate([[y.mean() - x.mean(0) @ best[1]], best[1]])


def _smoothed(features: Floats, profiles: Floats) -> Floats:
    return profiles[0] + features @ profiles[1:] if profiles.size else np.empty((len(features), 0))


def _joined(profiles: Floats, counts: Floats, decisions: Floats, strengths: Strengths) -> Floats:
    """Features of which the products are the kernel."""
    blocks = [np.full((len(counts), 1), strengths.constant)]
    for block, strength in (
        (profiles, strengths.profiles),
        (counts, strengths.counts),
        (decisions, strengths.decisions),
    ):
        if strength and block.shape[1]:
            blocks.append(strength / np.sqrt(block.shape[1]) * block)
    return np.concatenate(blocks, axis=1)


def _greedy(design: Floats, count: int, noise: float, rng: np.random.Generator) -> list[int]:
    """Rows that, measured, leave the smallest mean variance over the others, one after the other."""
    targets = design[rng.permutation(len(design))[:TARGETS]]
    covariance = np.eye(design.shape[1])
    chosen: list[int] = []
    for _ in range(count):
        spread = design @ covariance  # (n, d)
        variance = np.einsum("ij,ij->i", spread, design) + noise**2
        gain = ((spread @ targets.T) ** 2).sum(1) / variance
        gain[chosen] = -1.0
        best = int(gain.argmax())
        chosen.append(best)
        covariance -= np.outer(spread[best], spread[best]) / variance[best]
    return chosen


def _left_out(terms: tuple[Floats, Floats, Floats], ms: Floats, place: int, strengths: Strengths) -> float:
    """Rank correlation of a known device's prediction from the others and ten of its archs, the mean over pools."""
    profiles, counts, decisions = terms
    design = _joined(np.delete(profiles, place, axis=1), counts, decisions, strengths)
    found = []
    for seed in range(POOLS):
        rng = np.random.default_rng(seed)
        pool = rng.permutation(len(ms))[: max(20, 9 * len(ms) // 10)]
        rows = pool[_greedy(design[pool], min(10, len(ms) // 2), strengths.noise, rng)]
        columns = slice(1, profiles.shape[1] if strengths.profiles else 1)
        predicted = design @ weighed(design[rows], columns, ms[rows] / ms[rows].mean(), strengths.noise).weights
        others = np.setdiff1d(np.arange(len(ms)), rows)  # the extreme tenths are left out, as in HELP
        others = others[np.argsort(ms[others], kind="stable")][len(others) // 10 : len(others) - len(others) // 10]
        found.append(spearman(predicted[others], ms[others]))
    return float(np.mean(found))


def _refuse_repeats(archs: Sequence[Arch], ms: Floats, device: str) -> None:
    """An arch may be given twice, but not with latencies that differ by half."""
    first: dict[Arch, float] = {}
    for arch, value in zip(archs, ms, strict=True):
        other = first.setdefault(arch, float(value))
        if max(other, value) > 1.5 * min(other, value):
            raise PredictorError(
                f"measurements of device {device!r} contradict each other: {arch!r} took {other:.4g} ms and {value:.4g} ms; "
                "measure it again with the machine alone"
            )
