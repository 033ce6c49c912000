"""A made-up deep tree of decisions, and the cells of NAS-Bench-201, as things to be searched for one best arch."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyglove as pg

from nas.metrics import Metric
from nas.search import MCTS, SMBO, Algorithm, Finished, RandomSearch
from nas.space import Arch, Space
from searchspaces import nasbench201
from searchspaces.nasbench201 import Table

LAYERS = 6
UNITS = tuple(round(16 * 2 ** (step / 3)) for step in range(16))
"""From 16 to 512, three to an octave."""
KINDS = ("conv", "dense", "pool")
WIDTH = 0.2
"""How near numbers have to be to the best ones, as a share of their range."""
FADING = 0.85
"""What a layer is worth beside the one before it."""
DEEP = 0.45
"""Cost of a layer."""

SEARCHES: dict[str, Callable[[int], Algorithm]] = {
    "random": lambda seed: RandomSearch(seed=seed),
    "mcts, c = 1": lambda seed: MCTS(exploration=1.0, seed=seed),
    "mcts, c = 1, bisect": lambda seed: MCTS(exploration=1.0, bisect=True, seed=seed),
    "mcts": lambda seed: MCTS(seed=seed),
    "mcts, bisect": lambda seed: MCTS(bisect=True, seed=seed),
    "smbo": lambda seed: SMBO(seed=seed),
    "smbo, tree": lambda seed: SMBO(tree=True, seed=seed),
    "smbo, tree, c = 1": lambda seed: SMBO(tree=True, bound=1.0, seed=seed),
    "smbo, tree, c = 1, bisect": lambda seed: SMBO(tree=True, bound=1.0, bisect=True, seed=seed),
}


@dataclass(frozen=True)
class Problem:
    """One objective to be maximised.

    Attributes:
        space: what is searched.
        score: of an arch.
        best: the highest score that there is.
        usual: mean score of random archs.
    """

    space: Space
    score: Callable[[Arch], float]
    best: float
    usual: float

    def play(self, make: Callable[[int], Algorithm], seed: int, evaluations: int) -> list[float]:
        """The scores of one search, in the order of its proposals, one at a time; 0 is random, 1 the best there is."""
        algorithm = make(seed)
        algorithm.bind(self.space, [Metric("score", "max")])
        found = []
        for number in range(evaluations):
            (arch,) = algorithm.ask(1)
            score = self.score(arch)
            algorithm.tell([Finished(number, arch, (-score,))])
            found.append((score - self.usual) / (self.best - self.usual))
        return found


def deep(seed: int) -> Problem:
    """Up to six layers, each of a kind with numbers of its own: 1 to 19 active decisions, 10 ^ 18 archs with their numbers.

    A layer is worth what its kind is worth at its place, times how near its numbers are to the best of them, plus what it is
    worth after the kind before it; later layers are worth less, and each costs the same.  All of it is drawn by `seed`.
    """
    space = _tree()
    draw = np.random.default_rng(seed)
    worth = draw.uniform(0.3, 1.0, (LAYERS, len(KINDS)))
    middle = draw.uniform(0.1, 0.9, (LAYERS, len(KINDS), 2))
    pairs = draw.normal(0.0, 0.2, (LAYERS, len(KINDS), len(KINDS)))

    def score(arch: Arch) -> float:
        kinds, near = _layers(arch)
        total = 0.0
        for layer, (kind, numbers) in enumerate(zip(kinds, near, strict=True)):
            misses = [(number - best) / WIDTH for number, best in zip(numbers, middle[layer, kind], strict=False)]
            match = float(np.exp(-0.5 * np.square(misses).mean()))
            pair = pairs[layer, kinds[layer - 1], kind] if layer else 0.0
            total += FADING**layer * (worth[layer, kind] * match + pair) - DEEP
        return total

    return Problem(space, score, _best(worth, pairs), _usual(space, score, seed))


def _tree() -> Space:
    kinds = [
        pg.Dict(kind="conv", units=pg.oneof(UNITS), rate=pg.floatv(0.0, 0.5)),
        pg.Dict(kind="dense", units=pg.oneof(UNITS), rate=pg.floatv(0.0, 0.5)),
        pg.Dict(kind="pool", size=pg.oneof([2, 3, 4, 5, 6, 7, 8])),
    ]
    layers = {f"layer{at}": pg.oneof([kind.clone(deep=True) for kind in kinds]) for at in range(LAYERS)}
    deeper = {f"layer{at}": ("depth", set(range(at + 1, LAYERS + 1))) for at in range(LAYERS)}
    return Space(pg.Dict(depth=pg.oneof(list(range(1, LAYERS + 1))), **layers), active_when=deeper, name="deep")


def few(seed: int) -> Problem:
    """A kind of three and its three numbers, of 32 each: what a tree of branches for each number cannot try twice.

    The score is what the kind is worth, times how near its numbers are to the best of them.
    """
    kinds = [pg.Dict({name: pg.oneof(list(range(32))) for name in "abc"}, kind=kind) for kind in KINDS]
    space = Space(pg.Dict(layer=pg.oneof(kinds)), name="few")
    draw = np.random.default_rng(seed)
    worth, middle = draw.uniform(0.3, 1.0, len(KINDS)), draw.uniform(0.1, 0.9, (len(KINDS), 3))

    def score(arch: Arch) -> float:
        genes: Any = arch.genome
        kind = genes[0]
        misses = (np.array(genes[1 + 3 * kind : 4 + 3 * kind]) / 31 - middle[kind]) / WIDTH
        return float(worth[kind] * np.exp(-0.5 * np.square(misses).mean()))

    nearest = np.abs(np.arange(32) / 31 - middle[:, :, None]).min(2) / WIDTH
    best = float((worth * np.exp(-0.5 * np.square(nearest).mean(1))).max())
    return Problem(space, score, best, _usual(space, score, seed))


def _usual(space: Space, score: Callable[[Arch], float], seed: int) -> float:
    draws = random.Random(seed)
    return float(np.mean([score(space.sample(draws)) for _ in range(1_000)]))


def _layers(arch: Arch) -> tuple[list[int], list[list[float]]]:
    """Kind of each layer, and its numbers between 0 and 1."""
    genes: Any = arch.genome  # depth; of each layer its kind, units and rate of either, size
    kinds, numbers = [], []
    for at in range(genes[0] + 1):
        kind, units, rate, dense_units, dense_rate, size = genes[1 + 6 * at : 7 + 6 * at]
        kinds.append(kind)
        numbers.append([[units, rate], [dense_units, dense_rate], [size]][kind])
    scales = [[15, 0.5], [15, 0.5], [6]]
    return kinds, [
        [number / scale for number, scale in zip(some, scales[kind], strict=True)]
        for kind, some in zip(kinds, numbers, strict=True)
    ]


def _best(worth: np.ndarray, pairs: np.ndarray) -> float:
    """The highest score: the best of all sequences of kinds, with the best of all numbers."""
    found = -np.inf
    for depth in range(1, LAYERS + 1):
        for kinds in itertools.product(range(len(KINDS)), repeat=depth):
            total = sum(
                FADING**at * (worth[at, kind] + (pairs[at, kinds[at - 1], kind] if at else 0.0)) - DEEP
                for at, kind in enumerate(kinds)
            )
            found = max(found, total)
    return float(found)


def cells(table: Table) -> Problem:
    """NAS-Bench-201: validation accuracy after 12 epochs on CIFAR-10."""
    known = table.values(["c10_val_12"])[:, 0]
    space = nasbench201.space()
    return Problem(space, lambda arch: float(known[table.row(arch)]), float(np.nanmax(known)), float(np.nanmean(known)))
