"""What a search remembers: bounded, and the same whatever was told at once."""

from __future__ import annotations

import numpy as np
import pyglove as pg

import nas
from nas import pareto
from nas.metrics import Metric
from nas.search import Finished, Surrogate
from nas.search.archive import Archive, Kept
from tests.conformance.algorithm import archs


def test_archive_is_bounded_and_keeps_the_whole_front() -> None:
    space = nas.Space(pg.List([pg.oneof(list(range(8))) for _ in range(6)]), name="six")
    archive, rng, points = Archive(2, 40), np.random.default_rng(0), []
    for number, arch in enumerate(archs(space, 500)):
        point = tuple(rng.random(2))
        points.append(point)
        archive.add(Kept.of(Finished(number, arch, point)))
    truth = np.array(points)[pareto.non_dominated(np.array(points))]
    np.testing.assert_allclose(sorted(map(tuple, archive.front)), sorted(map(tuple, truth)))
    assert len(archive.front_archs) == len(truth)
    assert archive.told == 500
    assert len(archive.seen(10_000).archs) < 60


def test_archive_keeps_trials_by_what_was_told_and_not_by_how_many_at_once() -> None:
    space = nas.Space(pg.List([pg.oneof(list(range(8))) for _ in range(6)]), name="six")
    some = [Finished(at, arch, (float(at % 17), float(-at % 23))) for at, arch in enumerate(archs(space, 90))]
    left, right = Surrogate(initial=8), Surrogate(initial=8)
    for algorithm in (left, right):
        algorithm.bind(space, [Metric("a", "min"), Metric("b", "min")])
    left.tell(some)
    for trial in some:
        right.tell([trial])
    assert left.ask(6) == right.ask(6)
