"""The whole of `search_wide` is what no arch goes beyond."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from nas.pareto import non_dominated
from tests.experiments.scripts import script


@pytest.fixture(scope="module")
def rings() -> Any:
    return script("search_common/rings.py")


@pytest.mark.parametrize("seed", range(4))
def test_supported_points_are_those_of_all_archs(rings: Any, seed: int) -> None:
    draw = np.random.default_rng(seed)
    ring = rings.Ring(draw.normal(size=(2, 5, 3, 3, 3)))
    values = ring.values(np.array(list(itertools.product(range(3), repeat=5))))
    front, found = values[non_dominated(values)], ring.supported()
    assert np.abs(found[:, None] - front[None]).max(2).min(1).max() < 1e-9
    for weights in draw.random((50, 2)):
        best = (values @ weights).min()
        assert ring.best(weights) @ weights == pytest.approx(best)
        assert (found @ weights).min() == pytest.approx(best)
        assert (ring.whole() @ weights).min() == pytest.approx(best)
