"""RoBoT: the best combination of training-free proxies, found with few evaluations, then followed.

He, Wang, Chow, Low 2024, "Robustifying and Boosting Training-Free Neural Architecture Search".
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Sequence
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas.checking import checked
from nas.errors import AlgorithmError
from nas.search.base import LONG_TRIES, Algorithm, Finished, History, violation
from nas.search.forecast import finite
from nas.search.options import number, whole

if TYPE_CHECKING:
    from nas.space import Arch

Floats = NDArray[np.float64]
Values = Callable[[Sequence["Arch"]], ArrayLike]

UNDEFINED = -1e8
"""Proxies say so, in published tables and in `nas.proxies`, where they are not defined for an arch; so does NaN."""
LENGTHS = (0.3, 0.6, 1.2, 2.4)  # of the Gaussian process, in units of one weight; the likeliest is taken
NOISE = 1e-2


class RoBoT(Algorithm):
    """Searches the weights of a sum of proxies; each vector of weights stands for the arch that it ranks first.

    Proxies are scaled to [0, 1] over a pool of archs; those that a proxy is not defined for come after all others.  While fewer
    than `explore` archs are known, a Gaussian process over the weights, fitted to the archs that are measured, proposes the top
    arch of the weights with the highest upper confidence bound.  After that, proposals go greedily down the ranking by the best
    weights.  When the pool is used up, archs are drawn from the space.

    Where this is not the paper's code: weights are chosen among a fixed random set, so that all those which stand for a
    measured arch are observations, and proposals depend on the history alone; trials under way are believed to come out
    as predicted.  Several objectives are made one by weights that are drawn for each proposal (Knowles 2006, "ParEGO").
    Infeasible and failed archs count as worse than all others.

    >>> nas.search.RoBoT(nas.Proxies(["snip", "synflow", "jacob_cov"], nas.digits()).values)  # doctest: +SKIP

    Args:
        proxies: maps archs to (n, k) values, of which higher may be better or worse; or the name of such a function, as
            `"module:function"`.
        explore: how many archs are known before the ranking of the best weights is followed.
        pool: how many archs are ranked: the whole space if it has no more, else as many samples of it.
        weights: how many vectors of weights are compared.
        kappa: how much the bound counts spread.
        seed: names the sequence of random numbers.

    Raises:
        AlgorithmError: an option is not what it must be.
    """

    name = "robot"

    @checked(AlgorithmError, called="name")
    def __init__(
        self,
        proxies: Values | str | None = None,
        *,
        explore: int = 14,
        pool: int = 1000,
        weights: int = 256,
        kappa: float = 2.0,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        if proxies is None:
            raise AlgorithmError(
                f"{self.name} was given no proxies; give a function from archs to (n, k) values, such as nas.Proxies(...).values"
            )
        self.proxies = _imported(proxies) if isinstance(proxies, str) else proxies
        if not callable(self.proxies):
            raise AlgorithmError(
                f"{self.name} was given proxies={proxies!r}; it is a function from archs to (n, k) values"
            )
        self.explore = whole(self.name, "explore", explore, 1)
        self.pool = whole(self.name, "pool", pool, 1)
        self.weights = whole(self.name, "weights", weights, 1)
        self.kappa = number(self.name, "kappa", kappa, least=0.0)
        # arch.key -> (violation, values)
        self._found: dict[str, tuple[float, tuple[float, ...]]] = {}
        self._free = np.zeros(0, dtype=bool)  # archs of the pool that are not known
        self._free_at = -1  # how many archs were known when `_free` was right

    def describe(self) -> dict[str, Any]:
        """Name and options, JSON-able; the proxies by what they say of themselves, or as `"module:function"`."""
        options = {name: getattr(self, name) for name in ("explore", "pool", "weights", "kappa", "seed")}
        return {"name": self.name, "proxies": _described(self.proxies), **options}

    # -- proposing

    def _ask(self, n: int) -> list[Arch]:
        return self._fill(n, self._draw)

    def _draw(self, rng: random.Random) -> Arch:
        ranking = self._ranking
        if self._free_at != self.known:
            self._free = np.array([key not in self._seen for key in ranking.keys])
            self._free_at = self.known
        if not self._free.any():
            return self.space.sample(rng)
        return ranking.archs[self._choose(ranking, self._free, rng)]

    def _choose(self, ranking: _Ranking, free: NDArray[np.bool_], rng: random.Random) -> int:
        """Which free arch of the pool is next."""
        quality = self._quality(ranking, rng)
        known = ~np.isnan(quality[ranking.tops])  # weights whose arch is measured
        waiting = ~free[ranking.tops] & ~known
        open_ = free[ranking.tops]
        if self.known < self.explore and open_.any():
            if not known.any():
                return int(ranking.tops[open_][0])
            bound = _bound(ranking.weights, quality[ranking.tops], known, waiting, self.kappa)
            return int(ranking.tops[open_][bound[open_].argmax()])
        best = int(np.nanargmax(np.where(known, quality[ranking.tops], np.nan))) if known.any() else 0
        return int(np.where(free, ranking.scores(ranking.weights[best]), -np.inf).argmax())

    def _quality(self, ranking: _Ranking, rng: random.Random) -> Floats:
        """(pool,) how good each arch is, in no unit, higher is better; NaN where it is not measured."""
        rows = [ranking.rows[key] for key in self._found if key in ranking.rows]
        quality = np.full(len(ranking.keys), np.nan)
        if not rows:
            return quality
        found = [self._found[ranking.keys[row]] for row in rows]
        bad = np.array([one[0] for one in found])
        values = np.array([one[1] for one in found])
        good = bad <= 0
        score = np.zeros(len(rows))
        if good.any():
            score[good] = _one(finite(values[good]), rng)
        if not good.all():
            # Below all that is feasible, by as much as those differ, and by how far the constraints are violated.
            excess = finite(bad[~good, None])[:, 0]
            score[~good] = score[good].min(initial=0.0) - 1 - excess / (excess.max() or 1.0)
        quality[rows] = score
        return quality

    @cached_property
    def _ranking(self) -> _Ranking:
        """Pool and weights; a function of the space and the options alone."""
        space, rng = self.space, random.Random(self._stream)
        if self._size <= self.pool:
            archs = list(space.enumerate())
        else:
            drawn: dict[str, Arch] = {}
            for _ in range(self.pool + LONG_TRIES):
                arch = space.sample(rng)
                drawn.setdefault(arch.key, arch)
                if len(drawn) == self.pool:
                    break
            archs = list(drawn.values())
        values, defined = _scaled(self.name, self.proxies(archs), len(archs))
        seeds = np.random.default_rng(self._stream)
        return _Ranking(archs, values, defined, seeds.uniform(-1, 1, (self.weights, values.shape[1])))

    # -- learning

    def _tell(self, trials: Sequence[Finished]) -> None:
        for trial in trials:
            worst = violation(trial) if trial.state != "FAILED" else np.inf
            self._found[trial.arch.key] = (worst, trial.values or (np.inf,) * len(self.objectives))

    def _restore(self, history: History, rows: NDArray[np.int64]) -> None:
        for row in rows.tolist():
            values = history.values[row]
            measured = tuple(values.tolist()) if not np.isnan(values).any() else (np.inf,) * len(values)
            self._found[history.keys[row]] = (_violation(history, row), measured)


class _Ranking:
    """A pool of archs, their scaled proxies, and vectors of weights with the arch that each ranks first."""

    def __init__(self, archs: Sequence[Arch], values: Floats, defined: NDArray[np.bool_], weights: Floats) -> None:
        self.archs, self.weights = archs, weights
        self.keys = [arch.key for arch in archs]
        self.rows = {key: row for row, key in enumerate(self.keys)}
        self._values = values
        self._last = np.where(defined, 0.0, -3.0 * values.shape[1])  # lower than any weighted sum
        self.tops = np.array([self.scores(one).argmax() for one in weights])

    def scores(self, weights: Floats) -> Floats:
        """(pool,) the weighted sum of an arch's proxies, below all others where one is not defined."""
        found: Floats = self._values @ weights + self._last
        return found


def _violation(history: History, row: int) -> float:
    """As `nas.search.base.violation` has it of a trial; without making its arch."""
    state, found = history.states[row], float(history.violations[row])
    if state == "FAILED":
        return np.inf
    if state == "COMPLETED" and found <= 0:
        return 0.0
    return found if found > 0 else np.inf


def _scaled(who: str, given: ArrayLike, archs: int) -> tuple[Floats, NDArray[np.bool_]]:
    """(archs, k) each column from 0 to 1, and (archs,) whether all of them are defined for an arch.

    Raises:
        AlgorithmError: `given` is not (archs, k) numbers.
    """
    values = np.array(given, dtype=np.float64)
    if values.ndim != 2 or len(values) != archs or not values.shape[1]:
        raise AlgorithmError(
            f"the proxies of {who} gave an array of shape {values.shape} for {archs} archs; it must be ({archs}, k), "
            "a column a proxy"
        )
    defined: NDArray[np.bool_] = np.all(np.isfinite(values) & (values > UNDEFINED), axis=1)
    if not defined.any():
        return np.zeros_like(values), defined
    low, high = values[defined].min(0), values[defined].max(0)
    scaled = (values - low) / np.where(high > low, high - low, 1.0)
    return np.where(defined[:, None], scaled, 0.0), defined


def _one(values: Floats, rng: random.Random) -> Floats:
    """(n, m) minimised values as one number each, from 0 to 1, higher is better: augmented Chebyshev with random weights."""
    low, high = values.min(0), values.max(0)
    scaled = (values - low) / np.where(high > low, high - low, 1.0)
    if values.shape[1] == 1:
        only: Floats = 1.0 - scaled[:, 0]
        return only
    shares = np.array([rng.expovariate(1.0) for _ in range(values.shape[1])])
    parts = scaled * shares / shares.sum()
    score: Floats = 1.0 - parts.max(1) - 0.05 * parts.sum(1)
    return score


def _bound(weights: Floats, quality: Floats, known: Any, waiting: Any, kappa: float) -> Floats:
    """Upper confidence bound of every vector of weights; those under way are taken to come out as predicted."""
    mean, spread = _process(weights[known], quality[known], weights)
    if waiting.any():
        believed = np.where(waiting, mean, quality)
        seen = known | waiting
        mean, spread = _process(weights[seen], believed[seen], weights)
    return mean + kappa * spread


def _process(x: Floats, y: Floats, where: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation of a Gaussian process (Matérn 5/2) at `where`, given `y` at `x`."""
    shift, scale = float(y.mean()), float(y.std()) or 1.0
    target = (y - shift) / scale
    fits = [_fit(x, target, length) for length in LENGTHS]
    _, length, lower, solved = max(fits, key=lambda one: one[0])
    kernel = _matern(where, x, length)
    explained = (np.linalg.solve(lower, kernel.T) ** 2).sum(0)
    return kernel @ solved * scale + shift, np.sqrt(np.maximum(1 - explained, 1e-12)) * scale


def _fit(x: Floats, y: Floats, length: float) -> tuple[float, float, Floats, Floats]:
    """(log likelihood, length, Cholesky factor, weights of the samples)."""
    lower = np.linalg.cholesky(_matern(x, x, length) + NOISE * np.eye(len(x))).astype(np.float64, copy=False)
    solved: Floats = np.linalg.solve(lower.T, np.linalg.solve(lower, y))
    return float(-y @ solved / 2 - np.log(np.diag(lower)).sum()), length, lower, solved


def _matern(a: Floats, b: Floats, length: float) -> Floats:
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T
    distance = sqrt(5) * np.sqrt(np.maximum(squares, 0.0)) / length
    found: Floats = (1 + distance + distance**2 / 3) * np.exp(-distance)
    return found


def _imported(name: str) -> Values:
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise AlgorithmError(
            f"robot was given proxies={name!r}, which cannot be imported ({error}); give a function or 'module:function'"
        ) from error
    return found  # type: ignore[no-any-return]


def _described(proxies: Values) -> Any:
    owner = getattr(proxies, "__self__", proxies)
    if hasattr(owner, "describe"):
        return owner.describe()
    kind = proxies if hasattr(proxies, "__qualname__") else type(proxies)
    return f"{kind.__module__}:{kind.__qualname__}"
